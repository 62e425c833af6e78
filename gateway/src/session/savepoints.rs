//! Savepoints of a block: `SAVEPOINT`, `ROLLBACK TO`, `RELEASE`.

use quorate_planner::error::{SqlError, SqlState};

use super::settings::Saved;
use super::{Open, Outcome, Session, State};
use crate::dist::Txn;
use crate::dist::txn::TxnMark;
use crate::schema::PendingSchema;

/// What `ROLLBACK TO` goes back to.
pub(super) struct Savepoint {
    name: String,
    /// Which of its session it is.
    number: u64,
    mark: TxnMark,
    settings: Saved,
    schema: PendingSchema,
}

impl Savepoint {
    /// Gives up the row locks got since.
    pub(super) fn release_locks_since(&self, txn: &Txn) {
        txn.release_since(&self.mark);
    }
}

fn tag(tag: &str) -> Outcome {
    Outcome::Command { tag: tag.to_string(), rows: None }
}

fn outside_a_block(what: &str) -> SqlError {
    let message = format!("{what} can only be used in transaction blocks");
    SqlError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message)
}

/// The latest savepoint of a name hides earlier ones.
fn find(open: &Open, name: &str) -> Result<usize, SqlError> {
    open.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(|| {
        let message = format!("savepoint \"{name}\" does not exist");
        SqlError::new(SqlState::INVALID_SAVEPOINT, message)
    })
}

impl Session {
    pub(super) fn savepoint(&mut self, name: &str) -> Result<Outcome, SqlError> {
        let State::Block(open) = &mut self.state else { return Err(outside_a_block("SAVEPOINT")) };
        self.savepoints_set += 1;
        open.savepoints.push(Savepoint {
            name: name.to_string(),
            number: self.savepoints_set,
            mark: open.txn.mark(),
            settings: self.settings.saved(),
            schema: open.schema.clone(),
        });
        Ok(tag("SAVEPOINT"))
    }

    /// Also out of a failed block: it goes on as if it had not run what followed the savepoint.
    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Outcome, SqlError> {
        let (State::Block(open) | State::Failed(Some(open))) = &mut self.state else {
            return Err(match self.state {
                State::Failed(None) => {
                    let message = format!("savepoint \"{name}\" does not exist");
                    SqlError::new(SqlState::INVALID_SAVEPOINT, message)
                }
                _ => outside_a_block("ROLLBACK TO SAVEPOINT"),
            });
        };
        let at = find(open, name)?;
        // The savepoint itself stays.
        open.savepoints.truncate(at + 1);
        let savepoint = &open.savepoints[at];
        open.txn.back_to(&savepoint.mark);
        open.schema = savepoint.schema.clone();
        self.settings.back_to(&savepoint.settings);
        self.undone_since = Some(savepoint.number);
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Failed(Some(open)) => State::Block(open),
            other => other,
        };
        Ok(tag("ROLLBACK"))
    }

    /// How many savepoints the session has set so far.
    pub fn savepoints_set(&self) -> u64 {
        self.savepoints_set
    }

    /// The savepoint that was gone back to since the last call, by its number.
    pub fn take_undone_since(&mut self) -> Option<u64> {
        self.undone_since.take()
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Outcome, SqlError> {
        let State::Block(open) = &mut self.state else {
            return Err(outside_a_block("RELEASE SAVEPOINT"));
        };
        let at = find(open, name)?;
        open.savepoints.truncate(at);
        if open.savepoints.is_empty() {
            open.txn.forget_marks();
        }
        Ok(tag("RELEASE"))
    }
}
