//! [`EntryCache`]: the entries appended last. raft-rs reads every entry back once, when it is
//! committed, and the leader reads it again for each follower that is a little behind.

use std::collections::{HashMap, VecDeque};

use protobuf::Message;
use quorate_proto::RangeId;
use raft::eraftpb::Entry;

use super::LogOp;

/// A group keeps its newest entries up to this size.
const GROUP_BYTES_MAX: usize = 512 << 10;
/// All groups together; when it is exceeded all others are emptied.
const TOTAL_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(GROUP_BYTES_MAX <= TOTAL_BYTES_MAX, "emptying all other groups makes room");

/// # Invariants
/// * What is cached of a group has no holes and ends with its last entry.
#[derive(Debug, Default)]
pub(super) struct EntryCache {
    groups: HashMap<RangeId, Cached>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Cached {
    entries: VecDeque<Entry>,
    bytes: usize,
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}

impl Cached {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first()?)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= size(&entry);
        }
    }

    fn cut_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= size(&entry);
            }
        }
    }
}

impl EntryCache {
    /// Before a write: drops what the operation takes out of the log.
    pub(super) fn forget(&mut self, op: &LogOp) {
        let (range, index) = match op {
            LogOp::Append { range, entries } => {
                (range, entries.first().map_or(u64::MAX, |entry| entry.index))
            }
            LogOp::Reset { range, .. } | LogOp::Remove { range } => (range, 0),
            LogOp::Compact { range, upto } => {
                let Some(group) = self.groups.get_mut(range) else {
                    return;
                };
                let before = group.bytes;
                while group.first().is_some_and(|first| first <= upto.index) {
                    group.pop_front();
                }
                self.bytes -= before - group.bytes;
                return;
            }
            LogOp::HardState { .. } | LogOp::PutMeta { .. } | LogOp::DeleteMeta { .. } => return,
        };
        if let Some(group) = self.groups.get_mut(range) {
            let before = group.bytes;
            group.cut_from(index);
            self.bytes -= before - group.bytes;
            if group.entries.is_empty() {
                self.groups.remove(range);
            }
        }
    }

    /// After a write.
    pub(super) fn append(&mut self, range: RangeId, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        let group = self.groups.entry(range).or_default();
        self.bytes -= group.bytes;
        group.cut_from(first);
        if group.entries.back().is_some_and(|last| last.index + 1 != first) {
            *group = Cached::default();
        }
        for entry in entries {
            group.bytes += size(&entry);
            group.entries.push_back(entry);
        }
        while group.bytes > GROUP_BYTES_MAX && group.entries.len() > 1 {
            group.pop_front();
        }
        self.bytes += group.bytes;
        if self.bytes > TOTAL_BYTES_MAX {
            self.groups.retain(|other, _| *other == range);
            self.bytes = self.groups.values().map(|group| group.bytes).sum();
        }
    }

    pub(super) fn term(&self, range: RangeId, index: u64) -> Option<u64> {
        Some(self.groups.get(&range)?.get(index)?.term)
    }

    /// `None` if not all of `[lo, hi)` is here.
    pub(super) fn entries(
        &self,
        range: RangeId,
        lo: u64,
        hi: u64,
        bytes_max: Option<u64>,
    ) -> Option<Vec<Entry>> {
        let group = self.groups.get(&range)?;
        group.get(lo)?;
        group.get(hi.checked_sub(1)?)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in lo..hi {
            let entry = group.get(index)?;
            bytes += u64::from(entry.compute_size());
            if !entries.is_empty() && bytes_max.is_some_and(|max| bytes > max) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}
