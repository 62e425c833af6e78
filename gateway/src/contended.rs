//! Tables whose rows are fought for. A statement that is a transaction of its own takes no row
//! locks: its commit follows at once. If it loses a race it is run again with locks, so that it
//! waits for its turn; and for a moment so are others on that table, which would lose as well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_planner::catalog::TableId;

/// How long a table counts as contended after a race was lost on it.
const MOMENT: Duration = Duration::from_secs(1);

/// The contended tables of a gateway.
#[derive(Debug, Default)]
pub struct Contended {
    any: AtomicBool,
    until: Mutex<HashMap<TableId, Duration>>,
}

impl Contended {
    /// A race was lost on this table.
    pub fn note(&self, table: TableId, now: Duration) {
        self.until.lock().insert(table, now + MOMENT);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether one was lost a moment ago.
    pub fn is(&self, table: TableId, now: Duration) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut until = self.until.lock();
        until.retain(|_, until| now < *until);
        self.any.store(!until.is_empty(), Ordering::Relaxed);
        until.contains_key(&table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_contended_for_a_moment() {
        let contended = Contended::default();
        let start = Duration::from_secs(9);
        assert!(!contended.is(TableId(1), start));
        contended.note(TableId(1), start);
        assert!(contended.is(TableId(1), start) && !contended.is(TableId(2), start));
        assert!(!contended.is(TableId(1), start + MOMENT));
    }
}
