//! `SET LOCAL quorate.commit_token` and `txn_status`.

use datafusion::common::ScalarValue;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{SetValue, TokenSource};

use super::{Outcome, RowSource, Session, State};
use crate::dist::Txn;

/// The setting.
pub(super) const TOKEN_SETTING: &str = "quorate.commit_token";

impl Session {
    /// The open block gets a token. It belongs to one transaction: only `SET LOCAL` in a block that
    /// has none gives it.
    pub(super) async fn set_token(
        &mut self,
        value: &SetValue,
        local: bool,
    ) -> Result<(), SqlError> {
        let SetValue::Values(values) = value else { return Ok(()) };
        let token = values.join(", ");
        let State::Block(open) = &self.state else {
            let message = format!("{TOKEN_SETTING} is set with SET LOCAL in a transaction block");
            return Err(SqlError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message));
        };
        if !local {
            return Err(SqlError::unsupported(format_args!("SET {TOKEN_SETTING} without LOCAL")));
        }
        if self.token().is_some_and(|before| before != token) {
            let message = "the transaction has another commit token";
            return Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
        }
        open.txn.open_token(&token).await
    }

    fn token(&self) -> Option<String> {
        self.settings.get(TOKEN_SETTING).ok().filter(|token| !token.is_empty())
    }

    /// Adds the row of the token, if there is one, to what is about to be committed.
    pub(super) fn write_token(&self, txn: &Txn) -> Result<(), SqlError> {
        let Some(token) = self.token() else { return Ok(()) };
        txn.write_token(&token)?;
        self.gateway.dist().sweep_tokens_sometimes();
        Ok(())
    }

    /// `SELECT txn_status('token')`
    pub(super) async fn txn_status(
        &mut self,
        source: &TokenSource,
        params: &[ScalarValue],
    ) -> Result<Outcome, SqlError> {
        let token = match (source, params.first()) {
            (TokenSource::Text(token), _) => token.clone(),
            (TokenSource::Parameter, Some(ScalarValue::Utf8(Some(token)))) => token.clone(),
            (TokenSource::Parameter, _) => {
                let message = "the token of txn_status must not be NULL";
                return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
            }
        };
        let status = self.gateway.dist().token_status(&token).await?;
        let rows = vec![vec![status.word().to_string()]];
        Ok(Outcome::Rows(RowSource::of_texts(&["txn_status"], rows)?))
    }
}
