//! `SHOW` of what is no setting: row locks, and what the last transaction did.

use quorate_planner::error::SqlError;
use quorate_proto::pb;

use super::{RowSource, Session, timeline};
use crate::dist::deadlocks::id_of;

/// The name of `SHOW LOCKS`.
const LOCKS: &str = "locks";
/// The name of `SHOW LAST TRANSACTION`.
const LAST_TRANSACTION: &str = "last transaction";

const LOCK_COLUMNS: &[&str] = &[
    "table",
    "key",
    "mode",
    "state",
    "age_ms",
    "application",
    "statement",
    "node",
    "transaction",
    "blocked_by",
];

/// The columns of a report; `None` if there is none of this name.
pub fn columns(name: &str) -> Option<&'static [&'static str]> {
    match name {
        LOCKS => Some(LOCK_COLUMNS),
        LAST_TRANSACTION => Some(timeline::COLUMNS),
        _ => None,
    }
}

impl Session {
    /// The rows of a report.
    pub(super) async fn report(&self, name: &str) -> Result<Option<RowSource>, SqlError> {
        Ok(match name {
            LOCKS => {
                let mut locks = self.gateway.dist().list_locks().await;
                locks.sort_by(|a, b| {
                    (&a.key, !a.granted, b.age_ms).cmp(&(&b.key, !b.granted, a.age_ms))
                });
                let rows = locks.iter().map(|lock| self.lock_row(lock)).collect();
                Some(RowSource::of_texts(LOCK_COLUMNS, rows)?)
            }
            LAST_TRANSACTION => {
                let last = if self.is_idle() { &self.current } else { &self.last };
                Some(RowSource::of_texts(timeline::COLUMNS, last.rows())?)
            }
            _ => None,
        })
    }

    fn lock_row(&self, lock: &pb::RowLock) -> Vec<String> {
        let names = self.gateway.dist().describe(&lock.key);
        let (table, key) = match names {
            Some(names) => (names.table.clone(), names.key()),
            None => (String::new(), self.gateway.dist().name(&lock.key)),
        };
        let mode = match lock.mode() {
            pb::LockMode::KeyShare => "FOR KEY SHARE",
            pb::LockMode::Share => "FOR SHARE",
            pb::LockMode::NoKeyUpdate => "FOR NO KEY UPDATE",
            pb::LockMode::Update => "FOR UPDATE",
        };
        let owner = lock.owner.clone().unwrap_or_default();
        let blockers: Vec<String> =
            lock.blockers.iter().map(|who| id_of(who).to_string()).collect();
        vec![
            table,
            key,
            mode.to_string(),
            if lock.granted { "held" } else { "waits" }.to_string(),
            lock.age_ms.to_string(),
            owner.application.clone(),
            owner.statement.clone(),
            owner.node_id.to_string(),
            id_of(&owner).to_string(),
            blockers.join(", "),
        ]
    }
}
