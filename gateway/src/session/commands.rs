//! Statements a session carries out by itself: transactions, settings, schema changes.

use std::sync::Arc;

use quorate_planner::catalog::DdlOp;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{
    IsolationLevel, SetValue, SplitTarget, StatementKind, TxnModes, split_keys,
};

use super::rows::text_columns;
use super::settings::spelled;
use super::tokens::TOKEN_SETTING;
use super::{OutColumn, Outcome, Ready, RowSource, Session, State, reports};

/// Columns of `SHOW`.
pub(super) fn show_columns(name: Option<&str>) -> Result<Arc<[OutColumn]>, SqlError> {
    Ok(match name {
        Some(name) if let Some(columns) = reports::columns(name) => text_columns(columns),
        Some(name) => text_columns(&[spelled(name)?]),
        None => text_columns(&["name", "setting", "description"]),
    })
}

fn tag(tag: impl Into<String>) -> Outcome {
    Outcome::Command { tag: tag.into(), rows: None }
}

impl Session {
    /// Carries out a statement that is no plan.
    pub(super) async fn command(&mut self, ready: &Arc<Ready>) -> Result<Outcome, SqlError> {
        match &ready.statement.kind {
            StatementKind::Empty | StatementKind::Plan | StatementKind::Execute { .. } => {
                Ok(Outcome::Empty)
            }
            // The connection keeps what was prepared.
            StatementKind::Prepare { .. } => Ok(tag("PREPARE")),
            StatementKind::Ddl(op) => {
                self.check_may_write(op.tag())?;
                self.change_schema(op).await?;
                Ok(tag(op.tag()))
            }
            StatementKind::Begin(modes) => self.begin(modes),
            StatementKind::Commit(chain) => self.commit(*chain).await,
            StatementKind::Rollback(chain) => Ok(self.rollback(*chain)),
            StatementKind::Savepoint(name) => self.savepoint(name),
            StatementKind::RollbackTo(name) => self.rollback_to(name),
            StatementKind::Release(name) => self.release(name),
            StatementKind::SetTransaction(modes) => {
                if !self.in_block() {
                    let text = "SET TRANSACTION can only be used in transaction blocks";
                    self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
                } else {
                    self.set_modes(modes, "transaction", true)?;
                }
                Ok(tag("SET"))
            }
            StatementKind::SetCharacteristics(modes) => {
                self.set_modes(modes, "default_transaction", false)?;
                Ok(tag("SET"))
            }
            StatementKind::Fate(_) => Err(SqlError::internal("it is no command")),
            StatementKind::Set(name, value, local) => {
                if name.eq_ignore_ascii_case(TOKEN_SETTING) {
                    self.set_token(value, *local).await?;
                }
                self.set(name, value, *local)
            }
            StatementKind::Show(name) => self.show(name.as_deref()).await,
            StatementKind::Reset(None) => {
                self.settings.reset_all();
                Ok(tag("RESET"))
            }
            StatementKind::Reset(Some(name)) => {
                self.settings.set(name, None, false, self.in_block())?;
                Ok(tag("RESET"))
            }
            StatementKind::DiscardAll => {
                self.outside_a_block("DISCARD ALL")?;
                self.settings.reset_all();
                self.deallocated.push(None);
                Ok(tag("DISCARD ALL"))
            }
            StatementKind::Deallocate(name) => {
                self.deallocated.push(name.clone());
                Ok(tag(if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" }))
            }
            StatementKind::SplitAt(target, rows) => {
                self.outside_a_block("SPLIT AT")?;
                self.split_ranges(target, rows).await
            }
            StatementKind::Maintenance(done) => Ok(tag(*done)),
        }
    }

    async fn change_schema(&mut self, op: &DdlOp) -> Result<(), SqlError> {
        self.next_statement(&Arc::from("a change of the schema"));
        let notices = match &mut self.state {
            State::Block(open) => {
                let base = open.pin.catalog().clone();
                self.gateway.change_in_block(&open.txn, &mut open.schema, &base, op).await?
            }
            State::Idle | State::Implicit(_) | State::Failed(_) => {
                self.finish_implicit().await?;
                self.gateway.change_schema(op.clone()).await?
            }
        };
        for notice in notices {
            self.note(notice.message.clone());
        }
        Ok(())
    }

    /// Prepared statements to forget since the last call; `None`: all.
    pub fn take_deallocated(&mut self) -> Vec<Option<String>> {
        std::mem::take(&mut self.deallocated)
    }

    fn outside_a_block(&self, what: &str) -> Result<(), SqlError> {
        if self.in_block() {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("{what} cannot run inside a transaction block"),
            )
            .with_hint("End the transaction first."));
        }
        Ok(())
    }

    fn begin(&mut self, modes: &TxnModes) -> Result<Outcome, SqlError> {
        if self.in_block() {
            let text = "there is already a transaction in progress";
            self.warn(SqlState::ACTIVE_SQL_TRANSACTION, text);
        } else {
            self.state = match std::mem::replace(&mut self.state, State::Idle) {
                // What the same pipeline did before belongs to the block, as in Postgres.
                State::Implicit(open) if open.txn.as_of().is_some() => {
                    return Err(SqlError::unsupported("BEGIN after AS OF SYSTEM TIME in one text"));
                }
                State::Implicit(open) => {
                    open.txn.lock_before_writing();
                    State::Block(open)
                }
                _ => {
                    self.timeline_begins();
                    State::Block(self.begin_txn(true))
                }
            };
            if self.settings.default_read_only() {
                self.settings.set("transaction_read_only", Some("on"), true, true)?;
            }
        }
        self.set_modes(modes, "transaction", true)?;
        Ok(tag("BEGIN"))
    }

    async fn commit(&mut self, chain: bool) -> Result<Outcome, SqlError> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Block(open) => {
                let (plain, before) = (open.is_plain(), open.txn.clone());
                let token = open.token.clone();
                let result = self.commit_open(open).await;
                if let Err(error) = &result
                    && error.sqlstate == SqlState::SERIALIZATION_FAILURE
                    && self.keeps_block
                    && plain
                {
                    self.state = State::Block(self.begin_anew(&before, token, true));
                    return Err(error.clone());
                }
                // Whatever still holds its rows, a portal perhaps: they are others' now.
                before.end();
                self.settings.transaction_ended(result.is_ok());
                result?;
                self.chained(chain);
                Ok(tag("COMMIT"))
            }
            State::Failed(_) => {
                self.settings.transaction_ended(false);
                self.chained(chain);
                Ok(tag("ROLLBACK"))
            }
            other @ (State::Idle | State::Implicit(_)) => {
                self.state = other;
                self.finish_implicit().await?;
                let text = "there is no transaction in progress";
                self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
                Ok(tag("COMMIT"))
            }
        }
    }

    fn rollback(&mut self, chain: bool) -> Outcome {
        let before = std::mem::replace(&mut self.state, State::Idle);
        if let State::Block(open) | State::Failed(Some(open)) = &before {
            open.txn.end();
        }
        self.settings.transaction_ended(false);
        if matches!(before, State::Idle | State::Implicit(_)) {
            let text = "there is no transaction in progress";
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
        } else {
            self.current.rolled_back(self.monotonic());
            self.chained(chain);
        }
        tag("ROLLBACK")
    }

    /// The connection ends: what is open is rolled back.
    pub fn leave(&mut self) {
        let before = std::mem::replace(&mut self.state, State::Idle);
        if let State::Implicit(open) | State::Block(open) | State::Failed(Some(open)) = before {
            open.txn.end();
        }
    }

    /// `AND CHAIN`: another block begins at once.
    fn chained(&mut self, chain: bool) {
        if chain {
            self.timeline_begins();
            self.state = State::Block(self.begin_txn(true));
        }
    }

    fn set_modes(&mut self, modes: &TxnModes, prefix: &str, local: bool) -> Result<(), SqlError> {
        let in_block = self.in_block();
        if let Some(level) = modes.isolation {
            let level = match level {
                IsolationLevel::ReadCommitted => "read committed",
                IsolationLevel::RepeatableRead => "repeatable read",
                IsolationLevel::Serializable => "serializable",
            };
            self.set_isolation(&format!("{prefix}_isolation"), Some(level), local)?;
        }
        if let Some(as_of) = &modes.as_of {
            if prefix != "transaction" {
                return Err(SqlError::unsupported("AS OF SYSTEM TIME for all transactions"));
            }
            self.read_the_past(as_of)?;
        }
        let mut flag = |name: &str, value: Option<bool>| match value {
            None => Ok(()),
            Some(on) => {
                let value = if on { "on" } else { "off" };
                self.settings.set(&format!("{prefix}_{name}"), Some(value), local, in_block)
            }
        };
        flag("read_only", modes.read_only)?;
        flag("deferrable", modes.deferrable)
    }

    /// Sets the level of the open transaction, which must not have run a statement, or of those to
    /// come.
    fn set_isolation(
        &mut self,
        name: &str,
        level: Option<&str>,
        local: bool,
    ) -> Result<(), SqlError> {
        let in_block = self.in_block();
        let mut settings = self.settings.clone();
        settings.set(name, level, local, in_block)?;
        if name.eq_ignore_ascii_case("transaction_isolation") && !in_block {
            // It would be of this statement only.
            return Ok(());
        }
        if name.eq_ignore_ascii_case("transaction_isolation")
            && let State::Implicit(open) | State::Block(open) = &self.state
        {
            open.txn.set_isolation(settings.isolation())?;
        }
        self.settings = settings;
        Ok(())
    }

    fn set(&mut self, name: &str, value: &SetValue, local: bool) -> Result<Outcome, SqlError> {
        let value = match value {
            SetValue::Default => None,
            SetValue::Values(values) => Some(values.join(", ")),
        };
        let in_block = self.in_block();
        if local && !in_block {
            let text = "SET LOCAL can only be used in transaction blocks";
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
        }
        match name.to_ascii_lowercase().as_str() {
            "transaction_isolation" => self.set_isolation(name, value.as_deref(), local)?,
            _ => self.settings.set(name, value.as_deref(), local, in_block)?,
        }
        Ok(tag("SET"))
    }

    async fn show(&self, name: Option<&str>) -> Result<Outcome, SqlError> {
        let report = match name {
            Some(name) => self.report(name).await?,
            None => None,
        };
        let rows = match name {
            _ if let Some(report) = report => report,
            Some(name) => {
                let value = self.settings.get(name)?;
                RowSource::of_texts(&[spelled(name)?], vec![vec![value]])?
            }
            None => {
                let row =
                    |(name, value): (&str, String)| vec![name.to_string(), value, String::new()];
                let rows = self.settings.all().into_iter().map(row).collect();
                RowSource::of_texts(&["name", "setting", "description"], rows)?
            }
        };
        Ok(Outcome::Command { tag: String::from("SHOW"), rows: Some(rows) })
    }

    async fn split_ranges(
        &mut self,
        target: &SplitTarget,
        rows: &[Vec<Option<String>>],
    ) -> Result<Outcome, SqlError> {
        self.finish_implicit().await?;
        let catalog = self.gateway.newest_catalog().await?;
        let keys = split_keys(&catalog, target, rows)?;
        self.gateway.split_at(keys).await?;
        Ok(tag(match target {
            SplitTarget::Table(_) => "ALTER TABLE",
            SplitTarget::Index(_) => "ALTER INDEX",
        }))
    }
}
