//! What has happened to every key, kept beside the ranges and never collected; and what must hold
//! of it in the end.

use super::*;
use crate::apply::Mutation;

/// When something happened to a key, and what it was from then on.
type Event = (Timestamp, Option<Bytes>);

/// Events of keys and what was read of them.
#[derive(Default)]
pub(super) struct Oracle {
    events: BTreeMap<Bytes, Vec<Event>>,
    reads: Vec<(Bytes, Timestamp, Option<Bytes>)>,
}

impl Oracle {
    /// Takes in what a command changed.
    pub fn note(&mut self, mutations: &[Mutation]) {
        for mutation in mutations {
            let (key, event) = match mutation {
                Mutation::PutLatest { key, version } => {
                    (key, (version.commit_ts, Some(version.value.clone())))
                }
                Mutation::RemoveLatest { key } => {
                    let ends = mutations.iter().filter_map(|other| match other {
                        Mutation::PutInterval { key: k, interval } if k == key => Some(interval),
                        _ => None,
                    });
                    let end = ends.map(|interval| interval.end).max();
                    (key, (end.expect("a version that is removed has ended"), None))
                }
                _ => continue,
            };
            self.events.entry(key.clone()).or_default().push(event);
        }
    }

    /// A reader was told this.
    pub fn read(&mut self, key: Bytes, ts: Timestamp, value: Option<Bytes>) {
        self.reads.push((key, ts, value));
    }

    /// Since when a key had this value, if it ever did.
    pub fn since(&self, key: &Bytes, value: &Bytes) -> Option<Timestamp> {
        self.of(key).iter().find(|(_, then)| then.as_ref() == Some(value)).map(|(ts, _)| *ts)
    }

    /// A key whose row has ended since, and has not come back.
    pub fn gone_since(&self, ts: Timestamp) -> Option<Bytes> {
        let gone = |events: &[Event]| events.last().is_some_and(|e| e.0 > ts && e.1.is_none());
        self.events.iter().find(|(_, events)| gone(events)).map(|(key, _)| key.clone())
    }

    fn of(&self, key: &Bytes) -> &[Event] {
        self.events.get(key).map_or(&[], Vec::as_slice)
    }

    fn at(&self, key: &Bytes, ts: Timestamp) -> Option<Bytes> {
        let before = self.of(key).iter().filter(|(at, _)| *at <= ts);
        before.max_by_key(|(at, _)| *at).and_then(|(_, value)| value.clone())
    }

    /// Where a transaction's value started, by key.
    fn starts(&self, id: TxnId) -> BTreeMap<Bytes, Timestamp> {
        let value = Bytes::from(format!("t{}", id.0));
        let mut at = BTreeMap::new();
        for (key, events) in &self.events {
            for (ts, _) in events.iter().filter(|(_, then)| then.as_ref() == Some(&value)) {
                assert_eq!(at.insert(key.clone(), *ts), None, "{id} wrote {key:?} twice");
            }
        }
        at
    }

    /// A write is what its key was from then on, and nothing that its transaction has not seen is
    /// under it (P14, S1).
    fn check_write(&self, id: TxnId, write: &pb::Write, ts: Timestamp) {
        let written = (!write.delete).then(|| write.value.clone());
        assert_eq!(self.at(&write.key, ts), written, "{id} at {ts} wrote {write:?}");
        if write.must_be_absent {
            let before = self.at(&write.key, Timestamp(ts.0 - 1));
            assert_eq!(before, None, "{id} at {ts} inserted over a row: {write:?}");
        } else {
            let unseen = self.between(&write.key, write.read_at, ts);
            assert_eq!(unseen, None, "{id} at {ts} wrote over what it has not seen: {write:?}");
        }
    }

    /// The first event after a key was read and before the transaction that read it.
    fn between(&self, key: &Bytes, read_at: u64, ts: Timestamp) -> Option<&Event> {
        self.of(key).iter().find(|(at, _)| Timestamp(read_at) < *at && *at < ts)
    }
}

impl World {
    /// Every start of a version that a transaction wrote, every end it caused, what it read; and
    /// what readers were told.
    pub(super) fn check(&self) {
        for (id, plan) in &self.plans {
            let (writes, at) = (&plan.writes, self.oracle.starts(*id));
            let puts = writes.iter().filter(|w| !w.delete).count();
            assert!(at.is_empty() || at.len() == puts, "{id} is half there: {at:?} of {writes:?}");
            let first = at.values().next().copied();
            assert!(at.values().all(|ts| Some(*ts) == first), "{id} has one timestamp: {at:?}");
            if let Some(ts) = first {
                writes.iter().for_each(|write| self.oracle.check_write(*id, write, ts));
                for check in &plan.checks {
                    let unseen = self.oracle.between(&check.start, check.read_at, ts);
                    assert_eq!(unseen, None, "{id} at {ts} has not seen this (P9): {check:?}");
                }
            }
            match self.outcomes.get(id) {
                Some(Outcome::Committed(_)) => {
                    assert_eq!(at.len(), puts, "{id} was acknowledged and is lost");
                }
                Some(Outcome::Aborted(_)) => {
                    assert!(at.is_empty(), "{id} was told aborted and is there: {at:?}");
                }
                Some(Outcome::Unknown) | None => {}
            }
        }
        // What was read at a timestamp is what was there at it.
        for (key, ts, value) in &self.oracle.reads {
            assert_eq!(self.oracle.at(key, *ts), *value, "{key:?} was read at {ts}");
        }
    }
}
