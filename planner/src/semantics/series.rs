//! `generate_series` as PostgreSQL types it, in FROM.

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, TableFactor};

use super::coerce::{self, arg};
use super::function::Arg;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::series::Series;
use crate::types::{PgType, zone};

const NAME: &str = "generate_series";

/// Makes a [`Series`] of a call in FROM.
#[derive(Debug)]
pub struct SeriesRelations;

impl RelationPlanner for SeriesRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        let (name, args, alias) = match &relation {
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
            TableFactor::Function { name, args, alias, .. } => (name, args, alias),
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let called = name.0.last().and_then(|part| part.as_ident());
        let called = called.map(|ident| context.normalize_ident(ident.clone()));
        let called = called.unwrap_or_default();
        if called != NAME {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("the function {called} in FROM is not supported"),
            )
            .into());
        }
        if matches!(
            &relation,
            TableFactor::Table { with_ordinality: true, .. }
                | TableFactor::Function { with_ordinality: true, .. }
        ) {
            return Err(SqlError::unsupported("WITH ORDINALITY").into());
        }
        let none = DFSchema::empty();
        let mut exprs = Vec::with_capacity(args.len());
        for arg in args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else {
                return Err(SqlError::unsupported("a named argument of generate_series").into());
            };
            let expr = context.sql_to_expr(expr.clone(), &none)?;
            exprs.push(coerce::expression(expr, &none)?.data);
        }
        let column = match alias {
            Some(alias) => context.normalize_ident(alias.name.clone()),
            None => NAME.to_owned(),
        };
        let alias = alias.clone().or_else(|| {
            let name = datafusion::sql::sqlparser::ast::Ident::new(NAME);
            Some(datafusion::sql::sqlparser::ast::TableAlias {
                explicit: true,
                name,
                columns: vec![],
                at: None,
            })
        });
        let series = settled(exprs, &column)?;
        let plan = LogicalPlan::Extension(Extension { node: std::sync::Arc::new(series) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// A series with its bounds brought to one type.
fn settled(exprs: Vec<Expr>, column: &str) -> SqlResult<Series> {
    let none = DFSchema::empty();
    let args = exprs.iter().map(|e| arg(e, &none)).collect::<SqlResult<Vec<_>>>()?;
    let types = types(&args)?;
    let ty = types.first().copied().unwrap_or(PgType::Void);
    let mut converted = Vec::with_capacity(exprs.len());
    for ((expr, arg), to) in exprs.into_iter().zip(&args).zip(types) {
        let expr = coerce::convert(expr, arg.ty, to, false)?;
        if expr.exists(|e| Ok(matches!(e, Expr::Column(_))))? {
            return Err(SqlError::internal("a series of columns"));
        }
        converted.push(expr);
    }
    Series::new(converted, column, ty, zone::current())
}

fn fail(args: &[Arg], ambiguous: bool) -> SqlError {
    let types: Vec<&str> = args.iter().map(|a| a.ty.sql_name()).collect();
    let call = format!("function {NAME}({})", types.join(", "));
    if ambiguous {
        return SqlError::new(SqlState::AMBIGUOUS_FUNCTION, format!("{call} is not unique"))
            .with_hint(
                "Could not choose a best candidate function. You might need to add explicit type \
                 casts.",
            );
    }
    SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("{call} does not exist")).with_hint(
        "No function matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
}

/// The types the bounds are brought to.
fn types(args: &[Arg]) -> SqlResult<Vec<PgType>> {
    use PgType::{Date, Int2, Int4, Int8, Interval, Numeric, Timestamp, TimestampTz, Unknown};
    if !(2..=3).contains(&args.len()) {
        return Err(fail(args, false));
    }
    let has = |wanted: fn(PgType) -> bool| args.iter().any(|a| wanted(a.ty));
    if has(|t| matches!(t, Date | Timestamp | TimestampTz)) {
        let [from, to, step] = args else { return Err(fail(args, false)) };
        let time = |t: PgType| matches!(t, Date | Timestamp | TimestampTz | Unknown);
        if !time(from.ty) || !time(to.ty) || !matches!(step.ty, Interval | Unknown) {
            return Err(fail(args, false));
        }
        let plain =
            [from.ty, to.ty].contains(&Timestamp) && ![from.ty, to.ty].contains(&TimestampTz);
        let ty = if plain { Timestamp } else { TimestampTz };
        return Ok(vec![ty, ty, Interval]);
    }
    if args.iter().any(|a| !matches!(a.ty, Int2 | Int4 | Int8 | Numeric(_) | Unknown)) {
        return Err(fail(args, false));
    }
    let ty = if has(|t| matches!(t, Numeric(_))) {
        Numeric(None)
    } else if has(|t| t == Int8) {
        Int8
    } else if has(|t| t == Int4) {
        Int4
    } else {
        return Err(fail(args, true));
    };
    Ok(vec![ty; args.len()])
}
