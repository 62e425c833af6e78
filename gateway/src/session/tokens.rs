//! `SET LOCAL quorate.commit_token` and `txn_status`; ids of transactions, which are tokens too.

use std::sync::Arc;

use datafusion::common::ScalarValue;

use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{Fate, FateQuery, SetValue, TokenSource};
use quorate_planner::types::PgType;

use super::rows::columns_of;
use super::{Open, OutColumn, Outcome, RowSource, Session, State};
use crate::dist::Txn;
use crate::runtime;

/// What the tokens of ids begin with.
const XACT_PREFIX: &str = "xid:";
/// The setting.
pub(super) const TOKEN_SETTING: &str = "quorate.commit_token";

fn not_now(message: &str) -> SqlError {
    SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message)
}

impl Session {
    /// The open block gets a token, for good: it is not undone by `RESET` or `ROLLBACK TO`. (What a
    /// setting's value is trimmed to is not the token.)
    pub(super) async fn set_token(
        &mut self,
        value: &SetValue,
        local: bool,
    ) -> Result<(), SqlError> {
        let State::Block(open) = &self.state else {
            let message = format!("{TOKEN_SETTING} is set with SET LOCAL in a transaction block");
            return Err(SqlError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message));
        };
        if !local {
            return Err(SqlError::unsupported(format_args!("SET {TOKEN_SETTING} without LOCAL")));
        }
        let token = match value {
            SetValue::Values(values) => values.join(", "),
            SetValue::Default => return Err(not_now("a commit token cannot be taken back")),
        };
        if open.token.as_ref().is_some_and(|before| *before != token) {
            return Err(not_now("the transaction has another commit token"));
        }
        if !open.savepoints.is_empty() {
            return Err(not_now("a commit token is set before the first savepoint"));
        }
        let terms = self.terms(&"SET LOCAL quorate.commit_token".into());
        open.txn.saying(terms).open_token(&token).await?;
        if let State::Block(open) = &mut self.state {
            open.token = Some(token);
        }
        Ok(())
    }

    /// A block that was begun anew: its token is locked again.
    ///
    /// # Errors
    /// As for any lock; `23505` if it was closed meanwhile.
    pub async fn reopen_token(&mut self) -> Result<(), SqlError> {
        let State::Block(open) = &self.state else { return Ok(()) };
        let Some(token) = &open.token else { return Ok(()) };
        let terms = self.terms(&"SET LOCAL quorate.commit_token".into());
        open.txn.saying(terms).open_token(token).await
    }

    /// Adds the row of the token, if there is one, to what is about to be committed.
    pub(super) fn write_token(&self, open: &Open) -> Result<(), SqlError> {
        let Some(token) = &open.token else { return Ok(()) };
        open.txn.write_token(token)?;
        self.gateway.dist().sweep_tokens_sometimes();
        Ok(())
    }

    /// `SELECT txn_status('token')` and its kind.
    pub(super) async fn fate(
        &mut self,
        fate: &Fate,
        params: &[ScalarValue],
    ) -> Result<Outcome, SqlError> {
        let token = match &fate.query {
            FateQuery::XactId { assign } => {
                let id = self.xact_id(*assign).await?;
                return Ok(Outcome::Rows(RowSource::of_number(&fate.column, id)?));
            }
            FateQuery::TxnStatus(source) => given(source, params)?,
            FateQuery::XactStatus(source) => {
                let id = given(source, params)?;
                let id = id.trim().parse::<i64>().map_err(|_| {
                    let message = format!("invalid input syntax for type xid8: \"{id}\"");
                    SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, message)
                })?;
                xact_token(id)
            }
        };
        let status = self.gateway.dist().token_status(&token).await?;
        let rows = vec![vec![status.word().to_string()]];
        Ok(Outcome::Rows(RowSource::of_texts(&[&fate.column], rows)?))
    }

    /// The id of the current transaction: the number in a commit token that it gets for this. One
    /// that has written nothing has none, unless it shall get one.
    async fn xact_id(&mut self, assign: bool) -> Result<Option<i64>, SqlError> {
        let State::Block(open) = &self.state else {
            return match assign {
                true => self.xact_of_its_own().await.map(Some),
                false => Ok(None),
            };
        };
        match &open.token {
            Some(token) => match xact_of(token) {
                Some(id) => Ok(Some(id)),
                None => Err(not_now("the transaction has a commit token: ask txn_status for it")),
            },
            None if assign || open.txn.has_writes() => {
                let id = new_xact();
                self.set_token(&SetValue::Values(vec![xact_token(id)]), true).await?;
                Ok(Some(id))
            }
            None => Ok(None),
        }
    }

    /// Outside of a block the statement is a transaction, and commits.
    async fn xact_of_its_own(&self) -> Result<i64, SqlError> {
        let (dist, id) = (self.gateway.dist().clone(), new_xact());
        let txn = Txn::begin(dist.clone(), true);
        txn.write_token(&xact_token(id))?;
        if let Some(intent) = txn.intent() {
            dist.commit(intent).await?;
        }
        Ok(id)
    }
}

/// The columns of its result.
pub(super) fn columns(fate: &Fate) -> Arc<[OutColumn]> {
    let ty = match fate.query {
        FateQuery::XactId { .. } => PgType::Int8,
        FateQuery::TxnStatus(_) | FateQuery::XactStatus(_) => PgType::Text,
    };
    columns_of(&[&fate.column], ty)
}

/// The types of its parameters.
pub(super) fn parameters(query: &FateQuery) -> &'static [PgType] {
    match query {
        FateQuery::TxnStatus(TokenSource::Parameter) => &[PgType::Text],
        FateQuery::XactStatus(TokenSource::Parameter) => &[PgType::Int8],
        _ => &[],
    }
}

fn given(source: &TokenSource, params: &[ScalarValue]) -> Result<String, SqlError> {
    match (source, params.first()) {
        (TokenSource::Text(text), _) => Ok(text.clone()),
        (TokenSource::Parameter, Some(ScalarValue::Utf8(Some(text)))) => Ok(text.clone()),
        (TokenSource::Parameter, Some(ScalarValue::Int64(Some(id)))) => Ok(id.to_string()),
        (TokenSource::Parameter, _) => {
            let message = "the transaction that is asked about must not be NULL";
            Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message))
        }
    }
}

/// Drawn, not counted: ids say nothing about the order of transactions.
fn new_xact() -> i64 {
    i64::try_from(runtime::random_u128() >> 65).unwrap_or(i64::MAX)
}

fn xact_token(id: i64) -> String {
    format!("{XACT_PREFIX}{id}")
}

fn xact_of(token: &str) -> Option<i64> {
    token.strip_prefix(XACT_PREFIX)?.parse().ok()
}
