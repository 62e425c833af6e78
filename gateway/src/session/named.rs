//! `PREPARE` and `EXECUTE`: prepared statements by name in SQL text. They are the same ones the
//! extended protocol names.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use quorate_planner::catalog::type_named;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{StatementKind, parse};
use quorate_planner::semantics::cast::{Context, allowed};
use quorate_planner::types::PgType;

use super::{Outcome, Params, Ready, Session, State};

impl Session {
    /// The statement that a `PREPARE` names, ready to run; `None` for any other statement.
    ///
    /// # Errors
    /// What planning it says, its places counted in the whole text.
    pub async fn named_by(
        &mut self,
        ready: &Ready,
    ) -> Result<Option<(String, Arc<Ready>)>, SqlError> {
        let StatementKind::Prepare { name, types, body, offset } = &ready.statement.kind else {
            return Ok(None);
        };
        self.refuse_when_failed(&ready.statement)?;
        let moved = |error: SqlError| match error.position {
            Some(place) => error.at(place + offset),
            None => error,
        };
        let types = types.iter().map(|ty| type_named(ty).map(Some));
        let types = types.collect::<Result<Vec<_>, _>>().map_err(moved)?;
        let mut statements = parse(body).map_err(moved)?;
        let statement = match (statements.pop(), statements.is_empty()) {
            (Some(statement), true) if statement.kind == StatementKind::Plan => statement,
            _ => return Err(SqlError::syntax("only a query or a write can be prepared")),
        };
        let prepared = self.prepare(statement, &types).await.map_err(moved)?;
        Ok(Some((name.clone(), prepared)))
    }

    /// A statement that was prepared, to be run with the arguments of an `EXECUTE`.
    ///
    /// # Errors
    /// `42601` for a wrong number of arguments, `25P02` in a failed block.
    pub fn executing(
        &mut self,
        execute: &quorate_planner::parse::Statement,
        prepared: &Arc<Ready>,
        args: &[String],
    ) -> Result<Arc<Ready>, SqlError> {
        self.refuse_when_failed(execute)?;
        let wanted = prepared.param_types().len();
        if wanted != args.len() {
            let StatementKind::Execute { name, .. } = &execute.kind else {
                return Err(SqlError::internal("no EXECUTE"));
            };
            let message = format!("wrong number of parameters for prepared statement \"{name}\"");
            return Err(SqlError::syntax(message)
                .with_detail(format!("Expected {wanted} parameters but got {}.", args.len())));
        }
        Ok(Arc::new(Ready {
            statement: prepared.statement.clone(),
            param_types: prepared.param_types.clone(),
            plan: prepared.plan.clone(),
            columns: prepared.columns.clone(),
            args: Some(args.into()),
        }))
    }

    /// The values of the arguments of an `EXECUTE`.
    pub(super) async fn argument_values(
        &mut self,
        ready: &Ready,
        args: &[String],
    ) -> Result<Params, SqlError> {
        if args.is_empty() {
            return Ok(Params::new());
        }
        let types = ready.param_types().to_vec();
        let plain = format!("SELECT {}", args.join(", "));
        let given = self.prepare(one(&plain)?, &[]).await?;
        let given: Vec<PgType> = given.columns().unwrap_or_default().iter().map(|c| c.ty).collect();
        if given.len() != types.len() {
            return Err(SqlError::syntax("an argument of EXECUTE is one expression"));
        }
        let mut casts = Vec::with_capacity(args.len());
        for (i, ((arg, from), to)) in args.iter().zip(given).zip(&types).enumerate() {
            let untyped = arg.starts_with('\'') || arg.eq_ignore_ascii_case("null");
            let fits = matches!(allowed(from, *to), Some(Context::Implicit | Context::Assignment));
            if !untyped && !fits {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "parameter ${} of type {} cannot be coerced to the expected type {}",
                        i + 1,
                        from.sql_name(),
                        to.sql_name()
                    ),
                )
                .with_hint("You will need to rewrite or cast the expression."));
            }
            casts.push(format!("CAST({arg} AS {})", to.without_modifier()));
        }
        let computed = self.prepare(one(&format!("SELECT {}", casts.join(", ")))?, &[]).await?;
        let Some(plan) = computed.plan.clone() else {
            return Err(SqlError::internal("a SELECT has a plan"));
        };
        if matches!(self.state, State::Idle) {
            self.begin_implicit();
        }
        let outcome = self.execute(&computed.statement, &plan, Params::new(), false).await?;
        let Outcome::Rows(mut rows) = outcome else {
            return Err(SqlError::internal("a SELECT gives rows"));
        };
        let Some((batch, row)) = rows.next().await? else {
            return Err(SqlError::internal("a SELECT without FROM gives a row"));
        };
        let columns = batch.columns().iter();
        let values = columns.map(|column| ScalarValue::try_from_array(column, row));
        let values = values.collect::<Result<Params, _>>()?;
        self.statement_ended();
        Ok(values)
    }
}

fn one(text: &str) -> Result<quorate_planner::parse::Statement, SqlError> {
    let mut statements = parse(text)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(SqlError::syntax("an argument of EXECUTE is one expression")),
    }
}
