//! [`GroupLog`]: one group's log as raft-rs wants to see it, over the node's [`LogStore`].

use std::collections::VecDeque;
use std::sync::Arc;

use protobuf::Message as _;
use quorate_proto::{RangeId, pb};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use super::config::{CACHE_BYTES_MAX, INITIAL_INDEX, INITIAL_TERM};
use super::group::conf_state_of;
use crate::log::{LogBatch, LogError, LogStore, Truncated};

/// One group's log.
///
/// # Invariants
/// * `truncated.index ≤ last`; the cache holds the newest entries without holes, up to `last`.
/// * Nothing is cached that is not in the log store.
pub(crate) struct GroupLog {
    range: RangeId,
    log: Arc<dyn LogStore>,
    truncated: Truncated,
    last: u64,
    hard_state: HardState,
    conf_state: ConfState,
    applied: (u64, u64),
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

fn storage_error(error: LogError) -> Error {
    match error {
        LogError::Compacted => Error::Store(StorageError::Compacted),
        LogError::Unavailable => Error::Store(StorageError::Unavailable),
        other @ (LogError::Failed(_) | LogError::Damaged(_)) => {
            Error::Store(StorageError::Other(Box::new(other)))
        }
    }
}

/// Makes sure that a group made by bootstrap or split has the beginning of a log. A vote that the
/// replica gave before it knew its range is kept.
pub(crate) fn begin_log(log: &dyn LogStore, range: RangeId) -> std::result::Result<(), LogError> {
    if log.truncated(range)?.index > 0 || log.last_index(range)? > 0 {
        return Ok(());
    }
    let mut hard_state = log.hard_state(range)?.unwrap_or_default();
    if hard_state.term < INITIAL_TERM {
        hard_state.term = INITIAL_TERM;
        hard_state.vote = 0;
    }
    hard_state.commit = INITIAL_INDEX;
    let mut batch = LogBatch::new();
    batch.reset(range, Truncated { index: INITIAL_INDEX, term: INITIAL_TERM });
    batch.hard_state(range, hard_state);
    log.append(&mut batch)
}

impl GroupLog {
    /// The log as it is stored, with `state` as what is applied.
    ///
    /// # Errors
    /// The log does not reach as far as what is applied: it was lost or mixed up.
    pub fn open(
        log: Arc<dyn LogStore>,
        range: RangeId,
        state: &pb::RangeState,
    ) -> std::result::Result<Self, String> {
        let truncated = log.truncated(range).map_err(|e| e.to_string())?;
        let last = log.last_index(range).map_err(|e| e.to_string())?;
        let mut hard_state = log.hard_state(range).map_err(|e| e.to_string())?.unwrap_or_default();
        if state.applied_index > last || state.applied_index < truncated.index {
            return Err(format!(
                "{range}: {} is applied, but the log holds ({}, {last}]",
                state.applied_index, truncated.index
            ));
        }
        // Rule S3: the commit index is not written for itself, and raft-rs takes one below what
        // is applied for fatal.
        hard_state.commit = hard_state.commit.max(state.applied_index).max(truncated.index);
        if hard_state.commit > last {
            // Nothing that was acknowledged is missing, or the leader would have to know.
            let commit = hard_state.commit;
            tracing::warn!(%range, commit, last, "the log ends before its commit");
            hard_state.commit = last;
        }
        let conf_state = conf_state_of(state)?;
        Ok(Self {
            range,
            log,
            truncated,
            last,
            hard_state,
            conf_state,
            applied: (state.applied_index, state.applied_term),
            cache: VecDeque::new(),
            cache_bytes: 0,
        })
    }

    pub fn range(&self) -> RangeId {
        self.range
    }

    /// These entries are in the log store now, in place of what was there from the first on.
    pub fn appended(&mut self, entries: Vec<Entry>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (first, last) = (first.index, last.index);
        while self.cache.back().is_some_and(|entry| entry.index >= first) {
            let dropped = self.cache.pop_back();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.data.len());
        }
        if self.cache.back().is_some_and(|entry| entry.index + 1 != first) {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        self.cache_bytes += entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        self.cache.extend(entries);
        self.last = last;
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache.len() > 1 {
            let dropped = self.cache.pop_front();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.data.len());
        }
    }

    /// The state was written to the engine.
    pub fn applied(&mut self, state: &pb::RangeState) {
        self.applied = (state.applied_index, state.applied_term);
    }

    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// A snapshot replaced the log.
    pub fn reset(&mut self, to: Truncated, conf_state: ConfState) {
        self.truncated = to;
        self.last = to.index;
        self.applied = (to.index, to.term);
        self.conf_state = conf_state;
        self.cache.clear();
        self.cache_bytes = 0;
    }

    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// The log store was cut.
    pub fn cut(&mut self, to: Truncated) {
        assert!(to.index <= self.last, "truncated.index ≤ last");
        self.truncated = to;
        while self.cache.front().is_some_and(|entry| entry.index <= to.index) {
            let dropped = self.cache.pop_front();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.data.len());
        }
    }

    /// Entries that are applied need no place in memory while a group sleeps.
    pub fn shrink(&mut self) {
        self.cache = VecDeque::new();
        self.cache_bytes = 0;
    }

    fn cached(&self, low: u64, high: u64, max_size: Option<u64>) -> Option<Vec<Entry>> {
        let first = self.cache.front()?.index;
        if low < first {
            return None;
        }
        let at = usize::try_from(low - first).ok()?;
        let count = usize::try_from(high - low).ok()?;
        let mut size = 0;
        let mut entries = Vec::new();
        for entry in self.cache.iter().skip(at).take(count) {
            size += u64::from(entry.compute_size());
            if !entries.is_empty() && max_size.is_some_and(|max| size > max) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let max_size = max_size.into();
        if low <= self.truncated.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cached(low, high, max_size) {
            return Ok(entries);
        }
        self.log.entries(self.range, low, high, max_size).map_err(storage_error)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if let Some(first) = self.cache.front().map(|entry| entry.index)
            && index >= first
            && let Ok(at) = usize::try_from(index - first)
            && let Some(entry) = self.cache.get(at)
        {
            return Ok(entry.term);
        }
        self.log.term(self.range, index).map_err(storage_error)
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last)
    }

    /// Only the place is named here; the driver takes state and rows, at this place or a later
    /// one, when the message leaves.
    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        let (index, term) = self.applied;
        if index < request_index || index == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}
