//! What a coordinator that died left in a range, as its leader finds it when it sweeps: records
//! without a verdict, committed records whose locks were not all confirmed resolved, and locks that
//! nobody has met.
//!
//! # Invariants
//! * *Nothing of a live transaction is decided because it was found*: what has no verdict is asked
//!   about like a lock that was met (P11).
//! * *A committed record goes only after every key it lists was confirmed resolved* (P4).

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId};

use super::Recovery;
use crate::state::{Lock, Record, RecordState, TxnMeta, Verdict};

/// Something to finish for somebody who does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// A lock, or the anchor of a record without a verdict.
    Undecided {
        /// Whose.
        txn: TxnMeta,
        /// Where.
        met: Bytes,
    },
    /// A committed record that still lists keys.
    Unresolved {
        /// Whose.
        txn: TxnMeta,
        /// When it was committed.
        ts: Timestamp,
        /// Where its locks may stand.
        keys: Vec<Bytes>,
    },
}

impl Leftover {
    /// What a record found in `txns` leaves to do, if its transaction began to commit before
    /// `before`; a younger one's coordinator is at work.
    pub fn of_record(
        anchor: &Bytes,
        id: TxnId,
        record: &Record,
        before: Timestamp,
    ) -> Option<Self> {
        let txn = TxnMeta { id, anchor: anchor.clone(), commit_start: record.commit_start };
        if record.commit_start >= before {
            return None;
        }
        match &record.state {
            RecordState::Staging { .. } | RecordState::Preparing { .. } => {
                Some(Self::Undecided { txn, met: anchor.clone() })
            }
            RecordState::Committed { ts, keys, one_range: false } => {
                Some(Self::Unresolved { txn, ts: *ts, keys: keys.clone() })
            }
            // These go when the floor passes them (P6).
            RecordState::Committed { one_range: true, .. }
            | RecordState::Aborted
            | RecordState::Refused => None,
        }
    }

    /// The same for a lock.
    pub fn of_lock(key: &Bytes, lock: &Lock, before: Timestamp) -> Option<Self> {
        let old = lock.txn.commit_start < before;
        old.then(|| Self::Undecided { txn: lock.txn.clone(), met: key.clone() })
    }

    /// The machine that finishes it.
    pub fn recovery(self) -> Recovery {
        match self {
            Self::Undecided { txn, met } => Recovery::new(txn, met, false),
            Self::Unresolved { txn, ts, keys } => {
                Recovery::of_record(txn, keys, Verdict::Committed(ts))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: RecordState) -> Option<Leftover> {
        let record = Record { state, commit_start: Timestamp(5) };
        let of = |before| Leftover::of_record(&Bytes::from("a"), TxnId(1), &record, before);
        assert_eq!(of(Timestamp(5)), None, "its coordinator may be at work");
        of(Timestamp(6))
    }

    #[test]
    fn only_what_somebody_must_finish_is_left_over() {
        let keys = vec![Bytes::from("a"), Bytes::from("m")];
        let txn = TxnMeta { id: TxnId(1), anchor: Bytes::from("a"), commit_start: Timestamp(5) };
        let ask = Some(Leftover::Undecided { txn: txn.clone(), met: Bytes::from("a") });
        assert_eq!(found(RecordState::Staging { keys: keys.clone() }), ask);
        assert_eq!(found(RecordState::Preparing { keys: keys.clone() }), ask);
        let committed = |one_range| {
            let keys = if one_range { Vec::new() } else { keys.clone() };
            found(RecordState::Committed { ts: Timestamp(9), keys, one_range })
        };
        let resolve = Leftover::Unresolved { txn, ts: Timestamp(9), keys: keys.clone() };
        assert_eq!(committed(false), Some(resolve));
        assert_eq!(committed(true), None);
        assert_eq!(found(RecordState::Aborted), None);
        assert_eq!(found(RecordState::Refused), None);
    }
}
