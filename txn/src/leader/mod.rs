//! What the leader of a range keeps in memory to order reads and writes, as pure state: the lock
//! table, the greatest read timestamp, and when each coordinator was last heard of.
//!
//! * [`table`]: writes in flight and replicated locks, by key (P1).
//! * [`admission`]: prepare and one-range commit, from request to command (P1, P9, P13).
//! * [`reading`]: reads and checks against the table (P1, P9, R2).
//! * [`decided`]: locks known to be committed before their verdict is replicated (P10).
//! * [`hearing`]: which coordinators are taken for dead (P11).
//! * [`rows`]: row locks and their queues; [`locking`]: requests for them.
//! * [`recent`]: who wrote keys lately, for those who come too late.
//!
//! The owner calls every method under one lock (or on one worker) and, per request, in this order:
//! lease check, method, engine, lease check (L1).
//!
//! # Invariants
//! * *A key enters the table before a timestamp is chosen for it and leaves it only when the
//!   applied batch is visible* (P1).
//! * *A chosen timestamp is above `max_read_ts` and above every event of its keys*, and is a
//!   reading of the clock: if the clock is not there yet, the caller waits for it (T1).
//! * *A read raises `max_read_ts` before it looks at the table* (P1).
//! * *One write in flight a key*: others wait for it, which ends by itself.
//! * *Whoever waits for a replicated lock is older than its holder* (P13), or that is decided and
//!   waits for nobody (P10), so waiting has no cycle.
//! * *Nothing is answered before the leader is ready* (L2): not even a look-up.

pub mod admission;
pub mod decided;
pub mod hearing;
pub mod locking;
pub mod reading;
pub mod recent;
pub mod rows;
pub mod table;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb, pb::range_error::Kind};

use crate::apply::Mutation;
use crate::mistakes::Mistake;
use crate::state::{Lock, Record, TxnMeta};
pub use admission::Admission;
pub use decided::DecidedLock;
use hearing::Hearing;
pub use reading::{ReadSet, ReadStart, Window};
use recent::RecentWriters;
use rows::RowLocks;
use table::LockTable;

/// The keys of one request in the lock table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a request must wait for before it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitOn {
    /// A proposal that will be applied, or lost with the leader.
    InFlight(TxnId),
    /// A replicated lock of a younger transaction. After a while ask for its verdict (P11).
    Lock(Box<TxnMeta>, Timestamp),
    /// The same of a transaction that is known to be committed (P10): its resolve is on its way.
    Resolve(Box<TxnMeta>, Timestamp),
}

/// Where and for what a request waits; it holds nothing meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The key in the way.
    pub key: Bytes,
    /// What has it.
    pub on: WaitOn,
}

impl Waiting {
    /// What to answer when waiting took too long: the holder to ask about, or "try again".
    pub fn give_up(&self) -> pb::RangeError {
        match &self.on {
            WaitOn::Lock(txn, min_commit_ts) | WaitOn::Resolve(txn, min_commit_ts) => {
                locked(&self.key, txn, *min_commit_ts)
            }
            WaitOn::InFlight(id) => unavailable(format!("a write of {id} is being replicated")),
        }
    }

    /// Nobody who waits can keep it from ending: even who may not wait for others waits for it.
    pub fn ends_by_itself(&self) -> bool {
        !matches!(self.on, WaitOn::Lock(..))
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = crate::keys::Pretty(&self.key);
        match &self.on {
            WaitOn::InFlight(id) => write!(f, "wait at {key} for {id} in flight"),
            WaitOn::Lock(txn, min) => write!(f, "wait at {key} for lock of {} min={min}", txn.id),
            WaitOn::Resolve(txn, _) => write!(f, "wait at {key} for the resolve of {}", txn.id),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The lease of an earlier leader may still run.
    Waiting,
    Serving,
    /// The lease was given up for the rest of the term.
    GaveUp,
}

/// Row locks that travel to the next leader take so many bytes at most, about.
const ROW_LOCKS_BYTES_MAX: usize = 256 << 10;

/// The leader's memory of one range and term. See the module for its invariants.
#[derive(Debug)]
pub struct LeaderState {
    term: u64,
    phase: Phase,
    max_read_ts: Timestamp,
    /// No event told by the clock of an earlier leader has a later local time.
    others_upto: Timestamp,
    table: LockTable,
    /// Row locks. They decide who waits, never what is right.
    pub rows: RowLocks,
    recent: RecentWriters,
    hearing: Hearing,
    next_ticket: u64,
}

pub(crate) fn locked(key: &Bytes, txn: &TxnMeta, min_commit_ts: Timestamp) -> pb::RangeError {
    pb::RangeError::new(
        Kind::Locked(pb::Locked {
            key: key.clone(),
            txn: Some(txn.to_pb()),
            min_commit_ts: min_commit_ts.0,
        }),
        format!("key {} is locked by transaction {}", crate::keys::Pretty(key), txn.id),
    )
}

/// A commit that may have been before who reads (rule R2), and who made it, where that is known.
pub fn uncertain(key: &[u8], event: Timestamp, writer: Option<pb::LockOwner>) -> pb::RangeError {
    pb::RangeError::new(
        Kind::Uncertain(pb::Uncertain {
            key: Bytes::copy_from_slice(key),
            event_ts: event.0,
            writer,
        }),
        format!(
            "key {} changed at {event}, perhaps before this read began",
            crate::keys::Pretty(key)
        ),
    )
}

/// Row locks are in the way.
pub fn busy(key: &Bytes, blockers: Vec<pb::LockOwner>) -> pb::RangeError {
    pb::RangeError::new(
        Kind::Busy(pb::Busy { key: key.clone(), blockers }),
        format!("row {} is locked", crate::keys::Pretty(key)),
    )
}

pub(crate) fn unavailable(why: impl Into<String>) -> pb::RangeError {
    let retry_after_ms = u32::try_from(crate::config::RETRY_PAUSE_MIN.as_millis()).unwrap_or(1);
    pb::RangeError::new(Kind::Unavailable(pb::Unavailable { retry_after_ms }), why)
}

impl LeaderState {
    /// A leader that won `term` at monotonic time `began`. It serves nothing until it is
    /// [`LeaderState::ready`] (L2).
    pub fn new(term: u64, began: Duration) -> Self {
        Self {
            term,
            phase: Phase::Waiting,
            max_read_ts: Timestamp::ZERO,
            others_upto: Timestamp::MAX,
            table: LockTable::default(),
            rows: RowLocks::default(),
            recent: RecentWriters::default(),
            hearing: Hearing::new(began),
            next_ticket: 1,
        }
    }

    /// Takes the range's replicated locks into the table, after the first entry of the own term
    /// was applied (L2). Replaces what was there.
    pub fn rebuild(&mut self, locks: impl IntoIterator<Item = (Bytes, Lock)>) {
        assert!(self.phase == Phase::Waiting, "the table is rebuilt before the leader is ready");
        self.table = LockTable::default();
        for (key, lock) in locks {
            self.table.hold(key, &lock);
        }
    }

    /// The wait is over and the table is rebuilt: serves from now on. `max_read_ts` is the
    /// physical clock now plus the greatest offset (L3), or what the leader of the preceding term
    /// handed over (L2), with that leader's clock then. Nothing is proposed until the clock has
    /// passed it.
    ///
    /// No earlier leader told a later time for an event than the greater of the two (R3). Without
    /// a hand-over: every event of theirs was chosen before we were elected, by a clock that a
    /// majority's did not refuse as further ahead than the greatest offset, and we have waited for
    /// a lease since. With one: its own events are before the clock it handed; and it had proposed
    /// nothing before its own clock had passed its own bound, which its `max_read_ts` is not below.
    /// A merge will have to raise it, too.
    pub fn ready(&mut self, max_read_ts: Timestamp, handed_clock: Option<Timestamp>) {
        if !Mistake::ReadsForgotten.is_made() {
            self.max_read_ts = self.max_read_ts.max(max_read_ts);
        }
        self.others_upto = max_read_ts.max(handed_clock.unwrap_or(Timestamp::ZERO));
        if self.phase == Phase::Waiting {
            self.phase = Phase::Serving;
        }
    }

    /// Gives up serving for the rest of the term and says what the next leader must know (L2).
    pub fn give_up(&mut self) -> Timestamp {
        self.phase = Phase::GaveUp;
        self.max_read_ts
    }

    /// The row locks that the next leader may go on with: not those that end with what is in the
    /// log already, by its tickets.
    pub fn hand_over_row_locks(
        &self,
        logged: impl Iterator<Item = Ticket>,
        now: Duration,
    ) -> Vec<pb::OwnerRowLocks> {
        let ending = logged.filter_map(|ticket| self.table.row_locks_end(ticket)).collect();
        self.rows.hand_over(ROW_LOCKS_BYTES_MAX, &ending, now)
    }

    /// Gives up row locks; who got rows by it.
    ///
    /// # Errors
    /// It does not serve: what it hands over may be handed over already, so the next leader must
    /// hear this.
    pub fn unlock(
        &mut self,
        owner: TxnId,
        keys: &[Bytes],
        sequence: u64,
        now: Duration,
    ) -> Result<Vec<TxnId>, pb::RangeError> {
        self.check_serves()?;
        Ok(self.rows.give_up(owner, keys, sequence, now))
    }

    /// The term this memory belongs to.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether it is ready.
    pub fn serves(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// No write will be committed at or below it.
    pub fn max_read_ts(&self) -> Timestamp {
        self.max_read_ts
    }

    /// The least timestamp that was chosen and is not applied yet, if any.
    pub fn least_in_flight(&self) -> Option<Timestamp> {
        self.table.least_in_flight()
    }

    /// Who made the event of a key, where that is still known.
    pub fn writer_of(&self, key: &[u8], event: Timestamp) -> Option<&pb::LockOwner> {
        self.recent.writer(key, event)
    }

    /// Adds to a conflict who caused it.
    fn named(&self, mut error: pb::RangeError) -> pb::RangeError {
        if let Some(Kind::Conflict(conflict)) = &mut error.kind {
            let event = Timestamp(conflict.event_ts);
            conflict.writer = self.recent.writer(&conflict.key, event).cloned();
        }
        error
    }

    pub(crate) fn check_serves(&self) -> Result<(), pb::RangeError> {
        match self.phase {
            Phase::Serving => Ok(()),
            Phase::Waiting => Err(unavailable("a new leader waits for the lease of the old one")),
            Phase::GaveUp => Err(unavailable("the leader has given up its lease")),
        }
    }

    /// A batch has become visible: `ticket` is what it was admitted with, if it was admitted here.
    /// To be called for every applied command, with its mutations. Whoever waits tries again.
    /// Answers who got row locks by it.
    pub fn applied(
        &mut self,
        ticket: Option<Ticket>,
        mutations: &[Mutation],
        now: Duration,
    ) -> Vec<TxnId> {
        for mutation in mutations {
            match mutation {
                Mutation::PutLock { key, lock } => {
                    self.table.hold(key.clone(), lock);
                }
                Mutation::RemoveLock { key } => {
                    self.table.let_go(key);
                }
                Mutation::PutRecord { id, record, .. } => {
                    if record.verdict().is_some() {
                        self.hearing.forget(*id);
                    }
                }
                Mutation::PutLatest { .. }
                | Mutation::RemoveLatest { .. }
                | Mutation::PutInterval { .. }
                | Mutation::RemoveRecord { .. }
                | Mutation::RaiseDeleteWatermark(_)
                | Mutation::RaiseSafePoint(_)
                | Mutation::RaiseTxnFloor(_) => {}
            }
        }
        let Some(ticket) = ticket else { return Vec::new() };
        let owner = self.table.row_locks_end(ticket);
        self.release(ticket);
        // Apply may have refused it: then nothing has ended.
        let ended = owner.filter(|_| !mutations.is_empty());
        ended.map(|owner| self.rows.release(owner, now)).unwrap_or_default()
    }

    /// The proposal was not made, or is known to be lost: its keys are free again. Never call it
    /// for a proposal that may still be applied. Answers whether the ticket held anything.
    pub fn release(&mut self, ticket: Ticket) -> bool {
        self.table.release(ticket)
    }

    /// Forgets the keys at or above `key`, which left by a split.
    pub fn split_off(&mut self, key: &[u8]) {
        self.table.truncate(key);
        self.rows.truncate(key);
    }

    /// The coordinator of `id` is alive (P11).
    ///
    /// # Errors
    /// Not ready.
    pub fn heartbeat(&mut self, id: TxnId, now: Duration) -> Result<(), pb::RangeError> {
        self.check_serves()?;
        self.hearing.heard(id, now);
        Ok(())
    }

    /// Answers a look-up at the anchor from its record as applied now (P11).
    ///
    /// # Errors
    /// Not ready.
    pub fn lookup(
        &mut self,
        txn: &TxnMeta,
        record: Option<&Record>,
        now: Duration,
    ) -> Result<pb::LookupResponse, pb::RangeError> {
        self.check_serves()?;
        let missing = || pb::TxnStatus { state: Some(pb::txn_status::State::Missing(true)) };
        let decided = record.is_some_and(|r| r.verdict().is_some());
        Ok(pb::LookupResponse {
            status: Some(record.map_or_else(missing, Record::status)),
            expired: !decided && self.hearing.expired(txn.id, now),
        })
    }

    /// When the look-up of `id` has to be answered again because it expires.
    pub fn expires_at(&self, id: TxnId) -> Duration {
        self.hearing.expires_at(id)
    }
}

/// One line: term, phase, greatest read, table.
impl fmt::Display for LeaderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Waiting => "waiting",
            Phase::Serving => "serving",
            Phase::GaveUp => "gave-up",
        };
        let (table, rows) = (&self.table, &self.rows);
        write!(f, "term={} {phase} max-read={}{table}{rows}", self.term, self.max_read_ts)
    }
}

#[cfg(test)]
mod tests;
