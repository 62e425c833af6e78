//! The lock table: by key, the write in flight and the replicated lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId};

use super::decided::{DecidedLock, SEEN_THROUGH_MAX};
use super::{Ticket, WaitOn, Waiting, Window};
use crate::apply::Span;
use crate::keys::Pretty;
use crate::mistakes::Mistake;
use crate::state::{Lock, TxnMeta};

#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    txn: TxnId,
}

#[derive(Debug)]
struct Held {
    txn: TxnMeta,
    min_commit_ts: Timestamp,
    local_ts: Timestamp,
    /// By a hint (rule P10): when its transaction committed.
    committed: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Entry {
    flight: Option<Flight>,
    held: Option<Held>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.flight.is_none() && self.held.is_none()
    }
}

/// The keys of a ticket and, once chosen, its timestamp.
#[derive(Debug)]
struct Ride {
    keys: Vec<Bytes>,
    ts: Option<Timestamp>,
    /// Whose row locks end when it is applied.
    row_locks_end: Option<TxnId>,
}

/// Writes in flight and replicated locks, by key.
///
/// # Invariants
/// * An entry holds a flight or a lock or both; empty ones are removed.
/// * Each key of a ride has an entry whose flight carries the ride's ticket.
#[derive(Debug, Default)]
pub struct LockTable {
    entries: BTreeMap<Bytes, Entry>,
    rides: HashMap<Ticket, Ride>,
}

/// What stands in a reader's way.
#[derive(Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// A write in flight that the reader may have to see, or without a timestamp yet.
    Flight(Waiting),
    /// A lock whose transaction may commit within the reader's window.
    Lock(Bytes, TxnMeta, Timestamp),
    /// A commit that may have been before the reader (R2), though its lock still stands.
    Uncertain(Bytes, Timestamp),
}

impl LockTable {
    /// Mirrors a replicated lock.
    pub fn hold(&mut self, key: Bytes, lock: &Lock) {
        self.entries.entry(key).or_default().held = Some(Held {
            txn: lock.txn.clone(),
            min_commit_ts: lock.min_commit_ts,
            local_ts: lock.local_ts,
            committed: None,
        });
    }

    /// A replicated lock is gone.
    pub fn let_go(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.held = None;
            if entry.is_empty() {
                self.entries.remove(key);
            }
        }
    }

    /// The lock of a transaction is committed since `ts`, unless it is another copy of it.
    pub fn decide(&mut self, key: &[u8], id: TxnId, ts: Timestamp) {
        let held = self.entries.get_mut(key).and_then(|entry| entry.held.as_mut());
        if let Some(held) = held
            && held.txn.id == id
            && held.min_commit_ts <= ts
        {
            held.committed = Some(ts);
        }
    }

    /// The replicated lock at a key.
    pub fn held(&self, key: &[u8]) -> Option<(&TxnMeta, Timestamp)> {
        let held = self.entries.get(key)?.held.as_ref()?;
        Some((&held.txn, held.min_commit_ts))
    }

    /// What a writer meets at a key: any flight, or a lock of somebody else.
    pub fn in_writers_way(&self, key: &Bytes, own: TxnId) -> Option<Waiting> {
        let entry = self.entries.get(key)?;
        entry.in_writers_way(key, own)
    }

    /// What a checker meets in a span: a flight or a lock of somebody else.
    pub fn in_checkers_way(&self, span: &Span, own: TxnId) -> Option<Waiting> {
        self.span(span)
            .filter(|(_, e)| e.flight.as_ref().is_none_or(|flight| flight.txn != own))
            .find_map(|(key, entry)| entry.in_writers_way(key, own))
    }

    /// What stands in the way of a reader of one key. Locks it sees through are added to `through`.
    pub fn in_readers_way(
        &self,
        key: &Bytes,
        window: &Window,
        own: TxnId,
        through: &mut Vec<DecidedLock>,
    ) -> Option<InTheWay> {
        let (key, entry) = self.entries.get_key_value(key)?;
        self.against_reader(key, entry, window, own, through)
    }

    /// What stands in the way of a reader of a span: the first by key.
    pub fn in_scans_way(
        &self,
        span: &Span,
        window: &Window,
        own: TxnId,
        through: &mut Vec<DecidedLock>,
    ) -> Option<InTheWay> {
        self.span(span)
            .find_map(|(key, entry)| self.against_reader(key, entry, window, own, through))
    }

    fn against_reader(
        &self,
        key: &Bytes,
        entry: &Entry,
        window: &Window,
        own: TxnId,
        through: &mut Vec<DecidedLock>,
    ) -> Option<InTheWay> {
        if let Some(flight) = &entry.flight
            && !Mistake::FlightsOverlooked.is_made()
        {
            let ts = self.rides.get(&flight.ticket).and_then(|ride| ride.ts);
            // It was chosen by this leader's clock: that is its local time too.
            if ts.is_none_or(|ts| window.concerns(ts, ts)) {
                return Some(InTheWay::Flight(Waiting {
                    key: key.clone(),
                    on: WaitOn::InFlight(flight.txn),
                }));
            }
        }
        let held = entry.held.as_ref().filter(|_| !Mistake::LocksOverlooked.is_made())?;
        if held.txn.id == own {
            return None;
        }
        let (local, key) = (held.local_ts, || key.clone());
        match held.committed {
            Some(commit_ts) if commit_ts > window.read_ts => {
                window.is_uncertain(commit_ts, local).then(|| InTheWay::Uncertain(key(), commit_ts))
            }
            Some(_) if through.len() < SEEN_THROUGH_MAX => {
                through.push(DecidedLock { key: key(), txn: held.txn.id });
                None
            }
            Some(_) | None => window
                .concerns(held.min_commit_ts, local)
                .then(|| InTheWay::Lock(key(), held.txn.clone(), held.min_commit_ts)),
        }
    }

    fn span<'a>(&'a self, span: &Span) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> + use<'a> {
        let end = if span.end.is_empty() {
            Bound::Unbounded
        } else if span.start < span.end {
            Bound::Excluded(span.end.clone())
        } else {
            // An empty span: the map would panic at bounds that cross.
            Bound::Excluded(span.start.clone())
        };
        let start = Bound::Included(span.start.clone());
        let empty = !span.end.is_empty() && span.start >= span.end;
        (!empty).then(|| self.entries.range((start, end))).into_iter().flatten()
    }

    /// Takes the keys for a request before its timestamp is chosen (P1).
    pub fn take(
        &mut self,
        ticket: Ticket,
        txn: TxnId,
        keys: Vec<Bytes>,
        row_locks_end: Option<TxnId>,
    ) {
        for key in &keys {
            let entry = self.entries.entry(key.clone()).or_default();
            assert!(entry.flight.is_none(), "one write in flight a key");
            entry.flight = Some(Flight { ticket, txn });
        }
        self.rides.insert(ticket, Ride { keys, ts: None, row_locks_end });
    }

    /// Notes the timestamp chosen for a ticket.
    pub fn choose(&mut self, ticket: Ticket, ts: Timestamp) {
        if let Some(ride) = self.rides.get_mut(&ticket) {
            assert!(ride.ts.is_none(), "a timestamp is chosen once");
            ride.ts = Some(ts);
        }
    }

    /// Whose row locks end when the command of a ticket is applied.
    pub fn row_locks_end(&self, ticket: Ticket) -> Option<TxnId> {
        self.rides.get(&ticket)?.row_locks_end
    }

    /// Frees the keys of a ticket; whether there were any.
    pub fn release(&mut self, ticket: Ticket) -> bool {
        let Some(ride) = self.rides.remove(&ticket) else {
            return false;
        };
        for key in &ride.keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.flight = None;
                if entry.is_empty() {
                    self.entries.remove(key);
                }
            }
        }
        true
    }

    /// The least timestamp chosen and not released.
    pub fn least_in_flight(&self) -> Option<Timestamp> {
        self.rides.values().filter_map(|ride| ride.ts).min()
    }

    /// Forgets the keys at or above `bound`. Rides stay until they are released.
    pub fn truncate(&mut self, bound: &[u8]) {
        let gone = self.entries.split_off(bound);
        for entry in gone.into_values() {
            if let Some(flight) = entry.flight
                && let Some(ride) = self.rides.get_mut(&flight.ticket)
            {
                ride.keys.retain(|key| key.as_ref() < bound);
            }
        }
    }
}

impl Entry {
    fn in_writers_way(&self, key: &Bytes, own: TxnId) -> Option<Waiting> {
        if let Some(flight) = &self.flight {
            return Some(Waiting { key: key.clone(), on: WaitOn::InFlight(flight.txn) });
        }
        let held = self.held.as_ref().filter(|held| held.txn.id != own)?;
        let (holder, min) = (Box::new(held.txn.clone()), held.min_commit_ts);
        let on = match held.committed {
            Some(_) => WaitOn::Resolve(holder, min),
            None => WaitOn::Lock(holder, min),
        };
        Some(Waiting { key: key.clone(), on })
    }
}

/// Part of the leader's line.
impl fmt::Display for LockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, entry) in &self.entries {
            write!(f, " | {}:", Pretty(key))?;
            if let Some(flight) = &entry.flight {
                write!(f, " flight {} {}", flight.ticket, flight.txn)?;
                if let Some(ts) = self.rides.get(&flight.ticket).and_then(|ride| ride.ts) {
                    write!(f, " {ts}")?;
                }
            }
            if let Some(held) = &entry.held {
                write!(f, " lock {} min={}", held.txn.id, held.min_commit_ts)?;
                if let Some(ts) = held.committed {
                    write!(f, " committed={ts}")?;
                }
            }
        }
        Ok(())
    }
}
