//! Statements a session carries out by itself: transactions, settings, schema changes.

use std::sync::Arc;

use quorate_planner::catalog::DdlOp;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{SplitTarget, StatementKind, split_keys};

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

/// A command that is done.
pub(super) fn tag(tag: impl Into<String>) -> Outcome {
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
            StatementKind::Rollback(chain) => self.rollback(*chain),
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
                self.settings.reset_all(true);
                Ok(tag("RESET"))
            }
            StatementKind::Reset(Some(name)) => {
                self.set_value(name, None, false)?;
                Ok(tag("RESET"))
            }
            StatementKind::DiscardAll => {
                self.outside_a_block("DISCARD ALL")?;
                self.settings.reset_all(false);
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
            StatementKind::Maintenance(done) => {
                if *done == "VACUUM" {
                    self.outside_a_block(done)?;
                }
                Ok(tag(*done))
            }
        }
    }

    async fn change_schema(&mut self, op: &DdlOp) -> Result<(), SqlError> {
        if self.in_list && self.is_idle() {
            self.begin_implicit();
        }
        self.next_statement(&Arc::from("a change of the schema"));
        if let State::Implicit(open) = &self.state {
            // The next statement is not to lock what this one writes: a change of the schema waits
            // for nobody, so nobody is to wait for it.
            open.txn.lock_before_writing();
        }
        let notices = match &mut self.state {
            State::Block(open) | State::Implicit(open) => {
                self.gateway.change_in_block(&open.txn, &mut open.schema, op).await?
            }
            State::Idle | State::Failed(_) => self.gateway.change_schema(op.clone()).await?,
        };
        notices.iter().for_each(|notice| self.note(notice));
        Ok(())
    }

    /// Prepared statements to forget since the last call; `None`: all.
    pub fn take_deallocated(&mut self) -> Vec<Option<String>> {
        std::mem::take(&mut self.deallocated)
    }

    /// Not beside other statements either, with which it would have to be taken back.
    fn outside_a_block(&self, what: &str) -> Result<(), SqlError> {
        if self.in_list || !self.is_idle() {
            return Err(SqlError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                format!("{what} cannot run inside a transaction block"),
            )
            .with_hint("End the transaction first."));
        }
        Ok(())
    }

    async fn show(&self, name: Option<&str>) -> Result<Outcome, SqlError> {
        let report = match name {
            Some(name) => self.report(name).await?,
            None => None,
        };
        let rows = match name {
            _ if let Some(report) = report => report,
            Some(name) => {
                let value = self.shown(name)?;
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
        let catalog = self.gateway.newest_catalog().await?;
        let keys = split_keys(&catalog, target, rows)?;
        self.gateway.split_at(keys).await?;
        Ok(tag(match target {
            SplitTarget::Table(_) => "ALTER TABLE",
            SplitTarget::Index(_) => "ALTER INDEX",
        }))
    }
}
