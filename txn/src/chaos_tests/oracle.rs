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

    /// Whether a key ever had this value.
    pub fn had(&self, key: &Bytes, value: &Bytes) -> bool {
        self.of(key).iter().any(|(_, then)| then.as_ref() == Some(value))
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

    /// Nothing happened to a key between the read of a write and the write.
    fn check_seen(&self, id: TxnId, write: &pb::Write, ts: Timestamp) {
        if write.must_be_absent && write.read_at == 0 {
            return;
        }
        let unseen = |(at, _): &&Event| Timestamp(write.read_at) < *at && *at < ts;
        let between = self.of(&write.key).iter().find(unseen);
        assert_eq!(between, None, "{id} wrote over what it has not seen at {ts}: {write:?}");
    }
}

impl World {
    /// Every start of a version that a transaction wrote, and every end it may have caused; and
    /// what was read.
    pub(super) fn check(&self, plans: &BTreeMap<TxnId, Vec<pb::Write>>) {
        for (id, writes) in plans {
            let at = self.oracle.starts(*id);
            let puts = writes.iter().filter(|w| !w.delete).count();
            assert!(at.is_empty() || at.len() == puts, "{id} is half there: {at:?} of {writes:?}");
            let first = at.values().next().copied();
            assert!(at.values().all(|ts| Some(*ts) == first), "{id} has one timestamp: {at:?}");
            if let Some(ts) = first {
                writes.iter().for_each(|write| self.oracle.check_seen(*id, write, ts));
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
