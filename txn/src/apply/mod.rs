//! The deterministic state machine of the transaction commands: what a range does with each of
//! them, as a pure function of the state before it.
//!
//! One file a command: [`prepare`], [`commit`], [`verdict`], [`close`], [`resolve`],
//! [`drop_record`], [`raise_floors`]; [`checks`] holds what prepare and one-range commit share.
//! Every answer, errors included, depends on the command and the replicated state alone, so all
//! replicas agree. Term and epoch were checked before (rule L4).
//!
//! # Invariants
//! * *A verdict never changes.* Once a record says committed or aborted, every command of that id
//!   answers it (P2, P7), until the transaction floor has passed it and refuses the id (P6).
//! * *A lock is never rewritten* (P2): the stored `min_commit_ts` answers every later prepare.
//! * *Nothing of an id comes after its refusal*: prepare and one-range commit look for a refusal
//!   under all of their keys (P3).
//! * *The order of the checks is fixed*: stored verdict, refusals, own locks, floors, then per key
//!   foreign lock, required absence, conflict. A verdict is found below every floor; a refusal for
//!   age never hides one.
//! * *A lock becomes a version only at its transaction's verdict, at a timestamp not below its
//!   `min_commit_ts`.* A verdict below it proves the lock a late duplicate: another copy of the
//!   same write was decided before, and events may have followed it. Such a lock is removed
//!   without a version; turning it into one would bring deleted rows back.
//! * *A key's versions start in rising order.* Excluded otherwise by the leader, which takes its
//!   timestamp above every event of the keys while its lock table keeps other writers away (P1);
//!   a command that breaks it is an [`ApplyError::Invariant`], which stops the node.
//! * *A committed many-range record outlives its locks.* When they are gone it stays, without
//!   keys, like the record of a one-range commit, until the floor passes it: a coordinator that
//!   lost its answers still finds its verdict.
//! * *Below the floor nothing is proved by absence*: a missing record may have been dropped, so a
//!   verdict of `aborted` is then refused ([`pb::TooOld`]); closing for recovery needs no record
//!   there, because the floor already refuses every prepare.

pub mod checks;
pub mod close;
pub mod commit;
pub mod drop_record;
pub mod prepare;
pub mod raise_floors;
pub mod resolve;
pub mod verdict;

use std::fmt;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use crate::keys::{self, Pretty};
use crate::state::{DecodeError, Interval, Lock, Record, TxnMeta, Version};

/// A span of keys `[start, end)`; an empty end is beyond every key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Inclusive.
    pub start: Bytes,
    /// Exclusive; empty is beyond every key.
    pub end: Bytes,
}

impl Span {
    /// The span of exactly one key.
    pub fn key(key: &Bytes) -> Self {
        Self { start: key.clone(), end: keys::next_key(key) }
    }

    /// What a check is about: with an empty end, the single key `start`.
    pub fn of_check(check: &pb::ReadCheck) -> Self {
        if check.end.is_empty() {
            Self::key(&check.start)
        } else {
            Self { start: check.start.clone(), end: check.end.clone() }
        }
    }

    /// Whether `key` lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        keys::in_span(key, &self.start, &self.end)
    }
}

/// The start or the end of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub key: Bytes,
    /// When.
    pub ts: Timestamp,
}

/// Why the state could not be read. The node cannot go on: replicas would differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The engine failed.
    #[error("the engine cannot read: {0}")]
    Engine(String),
    /// The engine gave bytes that do not decode.
    #[error("{family} is damaged: {source}")]
    Damaged {
        /// The column family.
        family: &'static str,
        /// What does not decode.
        source: DecodeError,
    },
}

/// Why a command could not be applied. Every variant stops the node (its replica must not go on
/// from a state the others do not share).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The state could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The replicated state contradicts the protocol.
    #[error("an invariant of the transaction protocol is broken: {0}")]
    Invariant(String),
    /// Not a command of this state machine: the caller's bug.
    #[error("not a transaction command")]
    NotTxn,
}

/// The replicated state of one range, as one applied index left it (rule R1).
pub trait StateView {
    /// The current version of a key.
    fn latest(&self, key: &[u8]) -> Result<Option<Version>, ViewError>;
    /// The greatest end among the history intervals of a key.
    fn newest_end(&self, key: &[u8]) -> Result<Option<Timestamp>, ViewError>;
    /// The lock at a key.
    fn lock(&self, key: &[u8]) -> Result<Option<Lock>, ViewError>;
    /// What is recorded of a transaction under a key.
    fn record(&self, key: &[u8], id: TxnId) -> Result<Option<Record>, ViewError>;
    /// An event (start or end of a version) in the span, after `after` and not above `upto`; the
    /// one with the least key.
    fn first_event_after(
        &self,
        span: &Span,
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError>;
    /// The first lock in the span that is not `own`.
    fn first_foreign_lock(
        &self,
        span: &Span,
        own: TxnId,
    ) -> Result<Option<(Bytes, Lock)>, ViewError>;
    /// The first `limit` records, in key order, for which [`Record::droppable_below`] holds.
    fn droppable_records(
        &self,
        floor: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, TxnId)>, ViewError>;
    /// Whether any refusal stands in the range; `true` if that is not known. An implementation
    /// that mirrors refusals in memory spares a look-up per written key (rule P5).
    fn refusals_stand(&self) -> bool {
        true
    }
}

/// What the range replicates beside keys (`RangeState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floors {
    /// Nothing is read below it (rules S1, R4).
    pub safe_point: Timestamp,
    /// No id that started below it is prepared or committed any more (rule P6).
    pub txn_floor: Timestamp,
    /// The greatest timestamp of a delete (rule R5).
    pub delete_watermark: Timestamp,
}

/// A change of the state. Applying one twice is the same as once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Sets the current version of a key.
    PutLatest {
        /// The user key.
        key: Bytes,
        /// Its version.
        version: Version,
    },
    /// Removes a key from `latest`: absence is the tombstone.
    RemoveLatest {
        /// The user key.
        key: Bytes,
    },
    /// Keeps a version that ended.
    PutInterval {
        /// The user key.
        key: Bytes,
        /// The version's lifetime.
        interval: Interval,
    },
    /// Sets a lock.
    PutLock {
        /// The user key.
        key: Bytes,
        /// Its lock.
        lock: Lock,
    },
    /// Removes a lock.
    RemoveLock {
        /// The user key.
        key: Bytes,
    },
    /// Sets a record.
    PutRecord {
        /// The user key.
        key: Bytes,
        /// The transaction.
        id: TxnId,
        /// Its record there.
        record: Record,
    },
    /// Removes a record.
    RemoveRecord {
        /// The user key.
        key: Bytes,
        /// The transaction.
        id: TxnId,
    },
    /// Raises the delete watermark (never lowers it).
    RaiseDeleteWatermark(Timestamp),
    /// Raises the safe point (never lowers it).
    RaiseSafePoint(Timestamp),
    /// Raises the transaction floor (never lowers it).
    RaiseTxnFloor(Timestamp),
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutLatest { key, version } => write!(f, "latest {} {version}", Pretty(key)),
            Self::RemoveLatest { key } => write!(f, "latest {} gone", Pretty(key)),
            Self::PutInterval { key, interval } => {
                write!(f, "history {} {interval}", Pretty(key))
            }
            Self::PutLock { key, lock } => write!(f, "lock {} {lock}", Pretty(key)),
            Self::RemoveLock { key } => write!(f, "lock {} gone", Pretty(key)),
            Self::PutRecord { key, id, record } => {
                write!(f, "record {}/{id} {record}", Pretty(key))
            }
            Self::RemoveRecord { key, id } => write!(f, "record {}/{id} gone", Pretty(key)),
            Self::RaiseDeleteWatermark(ts) => write!(f, "delete-watermark {ts}"),
            Self::RaiseSafePoint(ts) => write!(f, "safe-point {ts}"),
            Self::RaiseTxnFloor(ts) => write!(f, "txn-floor {ts}"),
        }
    }
}

impl Floors {
    /// Takes over what a mutation says of the floors; other mutations change nothing.
    pub fn absorb(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::RaiseDeleteWatermark(ts) => {
                self.delete_watermark = self.delete_watermark.max(*ts);
            }
            Mutation::RaiseSafePoint(ts) => self.safe_point = self.safe_point.max(*ts),
            Mutation::RaiseTxnFloor(ts) => self.txn_floor = self.txn_floor.max(*ts),
            Mutation::PutLatest { .. }
            | Mutation::RemoveLatest { .. }
            | Mutation::PutInterval { .. }
            | Mutation::PutLock { .. }
            | Mutation::RemoveLock { .. }
            | Mutation::PutRecord { .. }
            | Mutation::RemoveRecord { .. } => {}
        }
    }
}

/// What a command does and answers. An error answer comes without mutations.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The changes, to be written in one batch.
    pub mutations: Vec<Mutation>,
    /// What the one who asked is told.
    pub answer: pb::range_response::Body,
}

impl Applied {
    /// Only an answer.
    pub fn answer(answer: pb::range_response::Body) -> Self {
        Self { mutations: Vec::new(), answer }
    }

    /// An error, no change.
    pub fn error(error: pb::RangeError) -> Self {
        Self::answer(pb::range_response::Body::Error(error))
    }

    /// The input is at fault: the sender's bug.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::error(invalid(why))
    }
}

/// The error for bytes or combinations no correct sender sends.
pub fn invalid(why: impl Into<String>) -> pb::RangeError {
    pb::RangeError::new(pb::range_error::Kind::Invalid(pb::Invalid {}), why)
}

/// The transaction of a command.
pub(crate) fn meta_of(meta: Option<&pb::TxnMeta>) -> Result<TxnMeta, pb::RangeError> {
    meta.and_then(TxnMeta::from_pb).ok_or_else(|| invalid("it names no transaction"))
}

/// The transaction id of a command.
pub(crate) fn id_of(id: &[u8]) -> Result<TxnId, pb::RangeError> {
    TxnId::from_bytes(id).ok_or_else(|| invalid("a transaction id has 16 bytes"))
}

/// Applies one transaction command to the state before it. Within one command the view does not
/// see the command's own mutations.
///
/// # Errors
/// [`ApplyError`]; each stops the node. Whatever a sender can cause is an answer instead.
pub fn apply(
    body: &pb::command::Body,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    use pb::command::Body;
    let applied = match body {
        Body::Prepare(command) => prepare::apply(command, floors, view)?,
        Body::Commit(command) => commit::apply(command, floors, view)?,
        Body::Verdict(command) => verdict::apply(command, floors, view)?,
        Body::Close(command) => close::apply(command, floors, view)?,
        Body::Resolve(command) => resolve::apply(command, view)?,
        Body::DropRecord(command) => drop_record::apply(command, floors, view)?,
        Body::RaiseFloors(command) => raise_floors::apply(command, floors, view)?,
        Body::Split(_)
        | Body::MetaReport(_)
        | Body::Allocate(_)
        | Body::RegisterNode(_)
        | Body::LeaseHandover(_) => return Err(ApplyError::NotTxn),
    };
    assert!(
        !matches!(applied.answer, pb::range_response::Body::Error(_))
            || applied.mutations.is_empty(),
        "an error answer comes without mutations"
    );
    Ok(applied)
}

#[cfg(test)]
pub(crate) mod tests;
