//! [`LogBatch`]: changes to the logs of many groups that become durable with one sync.

use bytes::Bytes;
use quorate_proto::RangeId;
use raft::eraftpb::{Entry, HardState};

use super::Truncated;

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum LogOp {
    /// Appends entries without holes, after cutting off everything from the first one's index.
    Append {
        /// Whose log.
        range: RangeId,
        /// At least one.
        entries: Vec<Entry>,
    },
    /// Sets the hard state.
    HardState {
        /// Whose.
        range: RangeId,
        /// Term, vote, commit.
        state: HardState,
    },
    /// Takes entries up to and including `upto` off the front.
    Compact {
        /// Whose log.
        range: RangeId,
        /// The last one to go.
        upto: Truncated,
    },
    /// Drops all entries: the log begins after `to` (a snapshot was installed).
    Reset {
        /// Whose log.
        range: RangeId,
        /// The last entry the snapshot contains.
        to: Truncated,
    },
    /// Forgets a group: entries, hard state, everything.
    Remove {
        /// Which.
        range: RangeId,
    },
    /// Sets a small fact of the node.
    PutMeta {
        /// Its name.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Removes a small fact of the node.
    DeleteMeta {
        /// Its name.
        key: Bytes,
    },
}

impl LogOp {
    /// Whether entries may leave the log.
    pub(super) fn shortens(&self) -> bool {
        match self {
            Self::Append { .. } | Self::Compact { .. } | Self::Reset { .. } => true,
            Self::Remove { .. } => true,
            Self::HardState { .. } | Self::PutMeta { .. } | Self::DeleteMeta { .. } => false,
        }
    }
}

/// Changes in order.
#[derive(Debug, Clone, Default)]
pub struct LogBatch {
    pub(super) ops: Vec<LogOp>,
}

impl LogBatch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends entries, which have no holes, replacing what the log has from the first one's
    /// index. It must be above the truncated index and at most one above the last.
    pub fn append(&mut self, range: RangeId, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.ops.push(LogOp::Append { range, entries });
        }
    }

    /// Sets the hard state.
    pub fn hard_state(&mut self, range: RangeId, state: HardState) {
        self.ops.push(LogOp::HardState { range, state });
    }

    /// Takes entries up to and including `upto` off the front. Through
    /// [`truncate`](super::truncate), which knows the bound of rule S3.
    pub fn compact(&mut self, range: RangeId, upto: Truncated) {
        self.ops.push(LogOp::Compact { range, upto });
    }

    /// Drops all entries; the log begins after `to`.
    pub fn reset(&mut self, range: RangeId, to: Truncated) {
        self.ops.push(LogOp::Reset { range, to });
    }

    /// Forgets a group.
    pub fn remove(&mut self, range: RangeId) {
        self.ops.push(LogOp::Remove { range });
    }

    /// Sets a small fact of the node.
    pub fn put_meta(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.ops.push(LogOp::PutMeta { key, value });
    }

    /// Removes a small fact of the node.
    pub fn delete_meta(&mut self, key: impl Into<Bytes>) {
        self.ops.push(LogOp::DeleteMeta { key: key.into() });
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The changes, in order.
    pub fn ops(&self) -> &[LogOp] {
        &self.ops
    }
}
