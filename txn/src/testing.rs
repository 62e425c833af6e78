//! A range's state in memory, for tests here and in other crates.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use crate::apply::{
    Applied, ApplyError, Event, Floors, Mutation, Span, StateView, ViewError, apply,
};
use crate::keys::Pretty;
use crate::leader::DecidedLock;
use crate::state::{Interval, Lock, Record, Version};

/// A range's state in ordered maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemView {
    /// Current versions.
    pub latest: BTreeMap<Bytes, Version>,
    /// Ended versions, by key and end.
    pub history: BTreeMap<(Bytes, Timestamp), Interval>,
    /// Locks.
    pub locks: BTreeMap<Bytes, Lock>,
    /// Records and refusals.
    pub records: BTreeMap<(Bytes, TxnId), Record>,
    /// Safe point, transaction floor, delete watermark.
    pub floors: Floors,
}

impl MemView {
    /// Applies a command and writes its mutations.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn run(&mut self, body: &pb::command::Body) -> Result<Applied, ApplyError> {
        let applied = apply(body, &self.floors.clone(), self)?;
        self.write(&applied.mutations);
        Ok(applied)
    }

    /// Writes mutations.
    pub fn write(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            self.floors.absorb(mutation);
            match mutation.clone() {
                Mutation::PutLatest { key, version } => {
                    self.latest.insert(key, version);
                }
                Mutation::RemoveLatest { key } => {
                    self.latest.remove(&key);
                }
                Mutation::PutInterval { key, interval } => {
                    self.history.insert((key, interval.end), interval);
                }
                Mutation::PutLock { key, lock } => {
                    self.locks.insert(key, lock);
                }
                Mutation::RemoveLock { key } => {
                    self.locks.remove(&key);
                }
                Mutation::PutRecord { key, id, record } => {
                    self.records.insert((key, id), record);
                }
                Mutation::RemoveRecord { key, id } => {
                    self.records.remove(&(key, id));
                }
                Mutation::RaiseDeleteWatermark(_)
                | Mutation::RaiseSafePoint(_)
                | Mutation::RaiseTxnFloor(_) => {}
            }
        }
    }

    /// What a read of `key` at `ts` sees, locks left aside.
    pub fn read(&self, key: &[u8], ts: Timestamp) -> Option<Bytes> {
        if let Some(version) = self.latest.get(key)
            && version.commit_ts <= ts
        {
            return Some(version.value.clone());
        }
        let from = (Bytes::copy_from_slice(key), ts.next());
        let ((k, _), interval) = self.history.range(from..).next()?;
        (k == key && interval.visible_at(ts)).then(|| interval.value.clone())
    }

    /// The same of a reader that sees through these locks (rule P10).
    pub fn read_through(
        &self,
        key: &[u8],
        ts: Timestamp,
        decided: &[DecidedLock],
    ) -> Option<Bytes> {
        let seen = decided.iter().find(|decided| decided.key == key);
        let lock = seen.and_then(|seen| self.locks.get(key).filter(|l| l.txn.id == seen.txn));
        lock.map_or_else(|| self.read(key, ts), |lock| lock.value.clone())
    }

    /// Cuts everything at or above `key` off, floors copied (a split).
    pub fn split_off(&mut self, key: &Bytes) -> Self {
        Self {
            latest: self.latest.split_off(key),
            history: self.history.split_off(&(key.clone(), Timestamp::ZERO)),
            locks: self.locks.split_off(key),
            records: self.records.split_off(&(key.clone(), TxnId(0))),
            floors: self.floors,
        }
    }
}

impl StateView for MemView {
    fn latest(&self, key: &[u8]) -> Result<Option<Version>, ViewError> {
        Ok(self.latest.get(key).cloned())
    }

    fn newest_end(&self, key: &[u8]) -> Result<Option<Timestamp>, ViewError> {
        let key = Bytes::copy_from_slice(key);
        let all = (key.clone(), Timestamp::ZERO)..=(key, Timestamp::MAX);
        Ok(self.history.range(all).next_back().map(|((_, end), _)| *end))
    }

    fn lock(&self, key: &[u8]) -> Result<Option<Lock>, ViewError> {
        Ok(self.locks.get(key).cloned())
    }

    fn record(&self, key: &[u8], id: TxnId) -> Result<Option<Record>, ViewError> {
        Ok(self.records.get(&(Bytes::copy_from_slice(key), id)).cloned())
    }

    fn first_event_after(
        &self,
        span: &Span,
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError> {
        let within = |ts: Timestamp| ts > after && ts <= upto;
        let starts = self.latest.iter().map(|(k, v)| (k, v.commit_ts));
        let ends =
            self.history.iter().flat_map(|((k, end), interval)| [(k, *end), (k, interval.start)]);
        let event = starts
            .chain(ends)
            .filter(|(k, ts)| span.contains(k) && within(*ts))
            .min()
            .map(|(key, ts)| Event { key: key.clone(), ts });
        Ok(event)
    }

    fn first_foreign_lock(
        &self,
        span: &Span,
        own: TxnId,
    ) -> Result<Option<(Bytes, Lock)>, ViewError> {
        let lock = self.locks.iter().find(|(key, lock)| span.contains(key) && lock.txn.id != own);
        Ok(lock.map(|(key, lock)| (key.clone(), lock.clone())))
    }

    fn droppable_records(
        &self,
        floor: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, TxnId)>, ViewError> {
        let all = self.records.iter().filter(|(_, r)| r.droppable_below(floor));
        Ok(all.map(|(at, _)| at.clone()).take(limit).collect())
    }
}

/// One line: floors, versions, history, locks, records.
impl fmt::Display for MemView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (key, version) in &self.latest {
            parts.push(format!("{}: {version}", Pretty(key)));
        }
        for ((key, _), interval) in &self.history {
            parts.push(format!("{}: {interval}", Pretty(key)));
        }
        for (key, lock) in &self.locks {
            parts.push(format!("{}: lock {lock}", Pretty(key)));
        }
        for ((key, id), record) in &self.records {
            parts.push(format!("{}/{id}: {record}", Pretty(key)));
        }
        let floors = [
            ("safe-point", self.floors.safe_point),
            ("txn-floor", self.floors.txn_floor),
            ("delete-watermark", self.floors.delete_watermark),
        ];
        for (name, ts) in floors {
            if !ts.is_zero() {
                parts.push(format!("{name} {ts}"));
            }
        }
        if parts.is_empty() {
            parts.push(String::from("empty"));
        }
        f.write_str(&parts.join(" | "))
    }
}
