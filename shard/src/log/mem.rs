//! [`MemLog`]: the in-memory twin, which a crash drops back to its last sync (rule X2).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;
use protobuf::Message;
use quorate_proto::RangeId;
use raft::eraftpb::{Entry, HardState};

use super::{LogBatch, LogError, LogOp, LogStore, Truncated};

/// A log in memory. The object is the disk: after [`crash`](MemLog::crash) it is opened again by
/// going on with it.
#[derive(Debug, Default)]
pub struct MemLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    now: Content,
    /// Batches since the last sync; what was synced is `now` without them.
    unsynced: Vec<LogOp>,
    synced: Content,
    /// What there was to be read after each sync.
    #[cfg(test)]
    syncs: Option<Vec<Content>>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    groups: BTreeMap<RangeId, Group>,
    meta: BTreeMap<Bytes, Bytes>,
}

/// # Invariants
/// * Entry `i` has index `truncated.index + 1 + i`.
#[derive(Debug, Default, Clone)]
struct Group {
    truncated: Truncated,
    entries: VecDeque<Entry>,
    hard_state: Option<HardState>,
}

impl Group {
    fn last(&self) -> u64 {
        self.truncated.index + self.entries.len() as u64
    }

    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert!(
                entry.index > self.truncated.index && entry.index <= self.last() + 1,
                "entry i has index truncated.index + 1 + i"
            );
            let keep = entry.index - self.truncated.index - 1;
            self.entries.truncate(usize::try_from(keep).expect("it is at most the length"));
            self.entries.push_back(entry.clone());
        }
    }

    fn compact(&mut self, upto: Truncated) {
        assert!(upto.index <= self.last(), "only entries that exist are compacted");
        while self.truncated.index < upto.index {
            self.entries.pop_front();
            self.truncated.index += 1;
            self.truncated.term = upto.term;
        }
    }

    fn entry(&self, index: u64) -> Result<&Entry, LogError> {
        let at = index.checked_sub(self.truncated.index + 1);
        let at = at.ok_or(LogError::Compacted)?;
        let at = usize::try_from(at).map_err(|_| LogError::Unavailable)?;
        self.entries.get(at).ok_or(LogError::Unavailable)
    }
}

impl Content {
    fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Append { range, entries } => {
                self.groups.entry(*range).or_default().append(entries);
            }
            LogOp::HardState { range, state } => {
                self.groups.entry(*range).or_default().hard_state = Some(state.clone());
            }
            LogOp::Compact { range, upto } => {
                self.groups.entry(*range).or_default().compact(*upto);
            }
            LogOp::Reset { range, to } => {
                let group = self.groups.entry(*range).or_default();
                group.entries.clear();
                group.truncated = *to;
            }
            LogOp::Remove { range } => {
                self.groups.remove(range);
            }
            LogOp::PutMeta { key, value } => {
                self.meta.insert(key.clone(), value.clone());
            }
            LogOp::DeleteMeta { key } => {
                self.meta.remove(key);
            }
        }
    }
}

impl MemLog {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses everything since the last sync.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.unsynced.clear();
        state.now = state.synced.clone();
    }

    /// What a crash at this moment leaves, as a log of its own.
    pub fn after_crash(&self) -> Self {
        let synced = self.state.lock().synced.clone();
        let state = State { now: synced.clone(), synced, ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// What crashes would have left, one after each sync since the last call; none before the
    /// first.
    #[cfg(test)]
    pub fn after_each_sync(&self) -> Vec<Self> {
        let syncs = self.state.lock().syncs.replace(Vec::new());
        let log = |synced: Content| {
            let state = State { now: synced.clone(), synced, ..State::default() };
            Self { state: Mutex::new(state) }
        };
        syncs.into_iter().flatten().map(log).collect()
    }

    fn write(&self, batch: &mut LogBatch, sync: bool) {
        let mut state = self.state.lock();
        for op in batch.ops.drain(..) {
            state.now.apply(&op);
            state.unsynced.push(op);
        }
        if sync {
            for op in std::mem::take(&mut state.unsynced) {
                state.synced.apply(&op);
            }
            #[cfg(test)]
            {
                let State { synced, syncs, .. } = &mut *state;
                syncs.iter_mut().for_each(|syncs| syncs.push(synced.clone()));
            }
        }
    }

    fn with<T>(&self, range: RangeId, read: impl FnOnce(&Group) -> T) -> T {
        match self.state.lock().now.groups.get(&range) {
            Some(group) => read(group),
            None => read(&Group::default()),
        }
    }
}

impl LogStore for MemLog {
    fn append(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        self.write(batch, true);
        Ok(())
    }

    fn append_unsynced(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        self.write(batch, false);
        Ok(())
    }

    fn entries(
        &self,
        range: RangeId,
        lo: u64,
        hi: u64,
        bytes_max: Option<u64>,
    ) -> Result<Vec<Entry>, LogError> {
        self.with(range, |group| {
            super::check_bounds(group.truncated.index + 1, group.last(), lo, hi)?;
            let mut entries = Vec::new();
            let mut bytes = 0;
            for index in lo..hi {
                let entry = group.entry(index)?;
                bytes += u64::from(entry.compute_size());
                if !entries.is_empty() && bytes_max.is_some_and(|max| bytes > max) {
                    break;
                }
                entries.push(entry.clone());
            }
            Ok(entries)
        })
    }

    fn term(&self, range: RangeId, index: u64) -> Result<u64, LogError> {
        self.with(range, |group| {
            if index == group.truncated.index {
                return Ok(group.truncated.term);
            }
            group.entry(index).map(|entry| entry.term)
        })
    }

    fn truncated(&self, range: RangeId) -> Result<Truncated, LogError> {
        Ok(self.with(range, |group| group.truncated))
    }

    fn first_index(&self, range: RangeId) -> Result<u64, LogError> {
        Ok(self.with(range, |group| group.truncated.index + 1))
    }

    fn last_index(&self, range: RangeId) -> Result<u64, LogError> {
        Ok(self.with(range, Group::last))
    }

    fn hard_state(&self, range: RangeId) -> Result<Option<HardState>, LogError> {
        Ok(self.with(range, |group| group.hard_state.clone()))
    }

    fn groups(&self) -> Vec<RangeId> {
        self.state.lock().now.groups.keys().copied().collect()
    }

    fn meta(&self, key: &[u8]) -> Option<Bytes> {
        self.state.lock().now.meta.get(key).cloned()
    }

    fn meta_with_prefix(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let state = self.state.lock();
        let from = state.now.meta.range(Bytes::copy_from_slice(prefix)..);
        from.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn purge(&self) -> Result<Vec<RangeId>, LogError> {
        Ok(Vec::new())
    }

    fn used_bytes(&self) -> u64 {
        let state = self.state.lock();
        let entries = state.now.groups.values().flat_map(|group| &group.entries);
        entries.map(|entry| u64::from(entry.compute_size())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, entries};
    use super::*;

    #[test]
    fn mem_log_conforms() {
        conformance::check(&mut || Box::new(MemLog::new()));
    }

    #[test]
    fn crash_drops_back_to_the_last_sync() {
        let (log, range) = (MemLog::new(), RangeId(1));
        let mut batch = LogBatch::new();
        batch.append(range, entries(1, 3, 1));
        log.append(&mut batch).expect("in memory");
        batch.append(range, entries(3, 3, 2));
        log.append_unsynced(&mut batch).expect("in memory");
        assert_eq!(log.last_index(range), Ok(5));
        let left = log.after_crash();
        assert_eq!((left.last_index(range), left.term(range, 3)), (Ok(3), Ok(1)));
        log.crash();
        assert_eq!(log.last_index(range), Ok(3));
        assert_eq!(log.term(range, 3), Ok(1));
        batch.append(range, entries(4, 1, 3));
        log.append_unsynced(&mut batch).expect("in memory");
        log.append(&mut batch).expect("in memory");
        log.crash();
        assert_eq!(log.term(range, 4), Ok(3), "a sync covers what was written before it");
    }
}
