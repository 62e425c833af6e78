//! `SET LOCAL quorate.commit_token` and `txn_status`.

use datafusion::common::ScalarValue;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{SetValue, TokenSource};

use super::{Open, Outcome, RowSource, Session, State};

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
