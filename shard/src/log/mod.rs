//! A node's Raft log: entries and hard states of all its groups in one log, behind [`LogStore`],
//! with two implementations: [[`RaftEngineLog`]](store::RaftEngineLog) on raft-engine and the
//! in-memory twin [`MemLog`]. Both pass one conformance suite.
//!
//! The log is also where a node keeps the few small facts that must be durable before anything in
//! the engine is (marks of rule S4, the clock's bound of rule T3, its identity).

pub mod batch;
mod cache;
pub mod conformance;
pub mod mem;
pub mod store;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::RangeId;
use raft::eraftpb::{Entry, HardState};

pub use batch::{LogBatch, LogOp};
pub use mem::MemLog;
pub use store::{LogConfig, RaftEngineLog};

/// What went wrong in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A write or sync failed: nothing is known about what is durable. Stop the node (rule S5).
    #[error("the Raft log failed: {0}")]
    Failed(String),
    /// Bytes that were read do not decode or have a wrong checksum: stop the node.
    #[error("the Raft log is damaged: {0}")]
    Damaged(String),
    /// The entry was compacted away: a snapshot is needed.
    #[error("the entry was compacted away")]
    Compacted,
    /// The entry is beyond the last.
    #[error("the entry is beyond the end of the log")]
    Unavailable,
}

/// The last entry that was taken off the front of a group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncated {
    /// Its index; the log begins right after it.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The Raft log of a node.
///
/// For each group: `truncated.index + 1 = first_index ≤ last_index + 1`, entries without holes.
/// A group that was never written to has `truncated = (0, 0)`, `first_index = 1`, `last_index = 0`.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// Does everything in the batch, atomically and with **one** sync, and empties it. When this
    /// returns, it is durable. May be called from several threads; syncs are shared.
    ///
    /// # Errors
    /// [`LogError::Failed`]: stop the node at once, by leaving the process; the batch may or may
    /// not be durable, and other threads may hang in this call.
    fn append(&self, batch: &mut LogBatch) -> Result<(), LogError>;

    /// The same without the sync: durable with the next `append`. Only for what may be lost
    /// (compaction).
    ///
    /// # Errors
    /// [`LogError::Failed`].
    fn append_unsynced(&self, batch: &mut LogBatch) -> Result<(), LogError>;

    /// The entries of `[lo, hi)`, as many as fit `bytes_max` but at least one, if any.
    ///
    /// # Errors
    /// [`LogError::Compacted`] if `lo` is below the first, [`LogError::Unavailable`] if `hi` is
    /// above the last plus one.
    fn entries(
        &self,
        range: RangeId,
        lo: u64,
        hi: u64,
        bytes_max: Option<u64>,
    ) -> Result<Vec<Entry>, LogError>;

    /// The term of an entry, or of the last truncated one.
    ///
    /// # Errors
    /// [`LogError::Compacted`], [`LogError::Unavailable`].
    fn term(&self, range: RangeId, index: u64) -> Result<u64, LogError>;

    /// The last entry taken off the front.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    fn truncated(&self, range: RangeId) -> Result<Truncated, LogError>;

    /// Index of the first entry, or where it would be.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    fn first_index(&self, range: RangeId) -> Result<u64, LogError>;

    /// Index of the last entry; `first_index − 1` if there is none.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    fn last_index(&self, range: RangeId) -> Result<u64, LogError>;

    /// The hard state last appended.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    fn hard_state(&self, range: RangeId) -> Result<Option<HardState>, LogError>;

    /// The groups that have anything here, in order.
    fn groups(&self) -> Vec<RangeId>;

    /// A small fact of the node, by key.
    fn meta(&self, key: &[u8]) -> Option<Bytes>;

    /// All small facts whose key begins with `prefix`, in order.
    fn meta_with_prefix(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)>;

    /// Drops files that hold nothing needed any more, and names the groups whose old entries keep
    /// files alive: flush the engine and compact those (rule S6).
    ///
    /// # Errors
    /// [`LogError::Failed`].
    fn purge(&self) -> Result<Vec<RangeId>, LogError>;

    /// Bytes in the log's live files.
    fn used_bytes(&self) -> u64;

    /// How long a worker that runs as a task waits before its next pass: the sync of a log that
    /// does not block may be slow all the same, in a simulation.
    fn busy_for(&self) -> Duration {
        Duration::ZERO
    }
}

/// Takes entries up to and including `upto` off the front of a group's log, bounded by what the
/// engine has made durable (rule S3).
///
/// # Errors
/// [`LogError`].
///
/// # Panics
/// If `upto` is above `durable_applied`: a crash would then lose applied entries.
pub fn truncate(
    log: &dyn LogStore,
    range: RangeId,
    upto: u64,
    durable_applied: u64,
) -> Result<(), LogError> {
    assert!(
        upto <= durable_applied,
        "the log of {range} is kept above the durable applied index {durable_applied}, \
         not cut at {upto}"
    );
    if upto < log.first_index(range)? {
        return Ok(());
    }
    let term = log.term(range, upto)?;
    let mut batch = LogBatch::new();
    batch.compact(range, Truncated { index: upto, term });
    log.append_unsynced(&mut batch)
}

/// Whether `[lo, hi)` lies within a log of `[first, last]`.
fn check_bounds(first: u64, last: u64, lo: u64, hi: u64) -> Result<(), LogError> {
    if lo < first {
        return Err(LogError::Compacted);
    }
    if hi > last + 1 || lo > hi {
        return Err(LogError::Unavailable);
    }
    Ok(())
}
