//! Reading rows at a timestamp out of `latest`, `history` and `locks`, over one snapshot of the
//! engine (rule R1), and the range's replicated state as the transaction commands see it.
//!
//! A version lives in `[start, end)`. The current one is in `latest` and has no end; ended ones
//! are in `history` under their end. Absence is the tombstone: a key that is not in `latest` was
//! deleted or never there, and only below the range's last-delete watermark can `history` tell
//! (rule R5).

mod read;
mod scan;
mod version;
mod view;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId};
use quorate_txn::apply::ViewError;
use quorate_txn::leader::{DecidedLock, Window};
use quorate_txn::state::{DecodeError, Lock};

use crate::engine::EngineError;

pub use read::get;
pub use scan::{ScanEnd, ScanLimits, ScanRequest, scan};
pub use view::{EngineView, apply_mutations};

/// As of when, and for whom, is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAt {
    /// When, and what may have been before the reader (rules R2, R3).
    pub window: Window,
    /// Who looks for locks.
    pub locks: Locks,
    /// The range's replicated last-delete watermark, of the same snapshot or newer: at or above
    /// it an absent key needs no look into `history` (rule R5).
    pub delete_watermark: Timestamp,
}

/// Where a reader meets the locks of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locks {
    /// In the snapshot. The reader's own do not block it; its writes are overlaid at the gateway.
    InSnapshot(Option<TxnId>),
    /// It has met them: the leader's table, which mirrors every lock, was asked after
    /// `max_read_ts` was raised and before the snapshot was taken (rule P1). A lock that came
    /// between is above `read_ts`, and its transaction was not committed when the read had begun:
    /// it was not before the reader, so R2 asks for nothing. It sees through these (rule P10),
    /// which are in the order of their keys where a span is read.
    Asked(Vec<DecidedLock>),
}

impl ReadAt {
    fn read_ts(&self) -> Timestamp {
        self.window.read_ts
    }

    /// Whether this lock keeps the reader from going on.
    fn blocked_by(&self, lock: &Lock) -> bool {
        match &self.locks {
            Locks::InSnapshot(own) => {
                self.window.concerns(lock.min_commit_ts, lock.local_ts) && Some(lock.txn.id) != *own
            }
            Locks::Asked(_) => false,
        }
    }
}

/// What a key is for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Its value then; `None`: it did not exist.
    Value(Option<Bytes>),
    /// The same, but it was changed after that.
    Older(Option<Bytes>),
    /// It cannot be said yet.
    Blocked(Blocked),
}

/// Why it cannot be said what a key was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// A lock whose transaction may commit within the window: its verdict is needed.
    Locked(Box<Lock>),
    /// The first event in the window.
    Uncertain {
        /// When it happened.
        event_ts: Timestamp,
        /// What its leader's clock was then (rule R3).
        local_ts: Timestamp,
    },
}

/// Whether a read at this timestamp must be refused because versions it would need may be gone
/// (rule R4). Ask before *and after* the read, with the then applied safe point.
pub fn below_safe_point(read_ts: Timestamp, safe_point: Timestamp) -> bool {
    read_ts < safe_point
}

fn engine_failed(error: EngineError) -> ViewError {
    ViewError::Engine(error.to_string())
}

fn damaged(family: &'static str) -> impl FnOnce(DecodeError) -> ViewError {
    move |source| ViewError::Damaged { family, source }
}
