//! What a commit needs of a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::costs::Counters;

/// Something kept for as long as a copy of a commit may be admitted.
pub type Hold = Arc<dyn Send + Sync>;

/// What a commit needs of a transaction.
pub struct Intent {
    /// Its id.
    pub id: TxnId,
    /// First written key.
    pub anchor: Bytes,
    /// Every buffered write, in key order.
    pub writes: Vec<pb::Write>,
    /// Keys locked but not written (rule P9).
    pub checks: Vec<pb::ReadCheck>,
    /// Its start (rule P6), if it was read before: not above the node's clock.
    pub start: Option<Timestamp>,
    /// Whose row locks are its own, if it has any.
    pub lock_owner: Option<TxnId>,
    /// Who writes, for people.
    pub who: Option<pb::LockOwner>,
    /// How often the node's clock had been off when it began: what it has read goes together only
    /// with that.
    pub times_off: u64,
    /// Where its commit is counted.
    pub counters: Arc<Counters>,
    /// Let go when no copy of it can be admitted any more.
    pub hold: Option<Hold>,
}

/// What was written is tested by its write and needs no check, but from the first time that it was
/// read or locked (rule P14): the lock that it had since then may have been lost in between.
pub fn since_first_read(writes: &mut [pb::Write], checks: &mut Vec<pb::ReadCheck>) {
    let mut of: BTreeMap<Bytes, &mut pb::Write> = BTreeMap::new();
    for write in writes {
        of.insert(write.key.clone(), write);
    }
    checks.retain(|check| {
        let Some(write) = of.get_mut(&check.start).filter(|_| check.end.is_empty()) else {
            return true;
        };
        // 0: the write itself has not read it.
        write.read_at = match write.read_at {
            0 => check.read_at,
            at => at.min(check.read_at),
        };
        false
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_tested_from_the_first_read_of_its_key() {
        let write = |key: &'static str, read_at| pb::Write {
            key: Bytes::from(key),
            read_at,
            ..pb::Write::default()
        };
        let check = |start: &'static str, end: &'static str, read_at| pb::ReadCheck {
            start: Bytes::from(start),
            end: Bytes::from(end),
            read_at,
        };
        let mut writes = [write("a", 9), write("b", 0), write("c", 3)];
        let mut checks = vec![
            check("a", "", 7),
            check("a", "", 5),
            check("b", "", 4),
            check("a", "z", 1),
            check("q", "", 2),
        ];
        since_first_read(&mut writes, &mut checks);
        assert_eq!(writes.map(|write| write.read_at), [5, 4, 3]);
        assert_eq!(checks, [check("a", "z", 1), check("q", "", 2)]);
    }
}
