//! What is found at a moment of the past. A table keeps old rows for its window, and has its
//! storage only since it was created or truncated: before that its keys hold nothing, which must
//! not look like a table without rows.
//!
//! A definition says the time of the statement that gave the table its storage, and it has it from
//! the commit on, which nobody knows when the definition is written. So the catalog of the moment
//! decides, and is asked once for moments that only go forward.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_planner::catalog::TableId;
use quorate_planner::error::SqlError;
use quorate_proto::Timestamp;

use super::errors::too_old;
use super::snapshot::Past;
use super::txn::Txn;
use super::{Dist, History};

/// Storages that are remembered at most.
const REMEMBERED_MAX: usize = 10_000;

/// Storages of tables, and a moment since which each is known to be its table's.
#[derive(Debug, Default)]
pub(super) struct Storages(Mutex<BTreeMap<TableId, Timestamp>>);

impl Storages {
    /// Whether it is known to be a table's at that moment.
    fn is_known(&self, storage: TableId, moment: Timestamp) -> bool {
        self.0.lock().get(&storage).is_some_and(|since| *since <= moment)
    }

    /// It was a table's at that moment, and is now.
    fn remember(&self, storage: TableId, moment: Timestamp) {
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let since = known.entry(storage).or_insert(moment);
        *since = moment.min(*since);
    }
}

impl Txn {
    /// Whether the tables of these keys still have what they held at that moment; from now on it is
    /// kept.
    ///
    /// # Errors
    /// `72000` if one has not, and what a read of the catalog can say.
    pub(super) async fn check_past(
        &self,
        keys: impl Iterator<Item = &[u8]> + Send,
        past: Past,
    ) -> Result<(), SqlError> {
        let found = keys.filter_map(|key| Some((key, self.dist.sql.history(key)?)));
        let found: Vec<(&[u8], History)> = found.collect();
        for (_, history) in &found {
            check_window(history, past)?;
        }
        self.hold_versions(past.moment);
        for (key, history) in &found {
            self.check_storage(key, history, past.moment).await?;
        }
        Ok(())
    }

    async fn check_storage(
        &self,
        key: &[u8],
        history: &History,
        moment: Timestamp,
    ) -> Result<(), SqlError> {
        let Dist { storages, sql, .. } = &*self.dist;
        if storages.is_known(history.storage, moment) {
            return Ok(());
        }
        let definition = self.stored_value(history.definition.clone()).await?;
        if !sql.had_storage(key, definition.as_deref())? {
            let History { table, .. } = history;
            return Err(
                too_old().with_detail(format!("Table \"{table}\" was created or truncated later."))
            );
        }
        storages.remember(history.storage, moment);
        Ok(())
    }
}

/// What is refused without asking anybody.
fn check_window(history: &History, past: Past) -> Result<(), SqlError> {
    let History { table, window, since, .. } = history;
    if past.moment < past.begun.bound_before(*window) {
        let kept = window.as_secs();
        return Err(too_old()
            .with_detail(format!("Old versions of table \"{table}\" are kept for {kept} seconds."))
            .with_hint("ALTER TABLE … SET (gc_window = …) changes that for versions to come."));
    }
    if past.moment < *since {
        let later = (since.to_duration() - past.moment.to_duration()).as_secs_f64();
        return Err(too_old().with_detail(format!(
            "Table \"{table}\" was created or truncated {later:.3} seconds after that moment."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_that_was_found_is_there_from_then_on() {
        let (storages, storage) = (Storages::default(), TableId(7));
        assert!(!storages.is_known(storage, Timestamp(u64::MAX)));
        storages.remember(storage, Timestamp(20));
        assert!(storages.is_known(storage, Timestamp(20)));
        assert!(!storages.is_known(storage, Timestamp(19)));
        storages.remember(storage, Timestamp(30));
        assert!(storages.is_known(storage, Timestamp(20)), "it does not become younger");
        storages.remember(storage, Timestamp(10));
        assert!(storages.is_known(storage, Timestamp(10)));
        assert!(!storages.is_known(TableId(8), Timestamp(30)));
    }
}
