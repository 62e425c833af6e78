//! What prepare and one-range commit ask before they write, in the one order both keep.

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb, pb::range_error::Kind};

use super::{ApplyError, Floors, Span, StateView, ViewError};
use crate::keys::Pretty;
use crate::mistakes::Mistake;
use crate::state::{Lock, Record, RecordState, TxnMeta, Verdict, Version};

/// Why a write may not happen; without effect on the state.
pub type Refusal = pb::RangeError;

/// What stands under a transaction's id in this range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    None,
    /// A staging or preparing record.
    Undecided(Record),
    /// Decided: this answers every copy of its requests (P2, P7).
    Decided(Verdict),
    /// Recovery closed one of the keys (P3).
    Refused(Bytes),
}

/// Looks under every key for a verdict, a record or a refusal. A verdict wins over a refusal: the
/// anchor's word is final.
///
/// # Errors
/// [`ViewError`].
pub fn standing<'a>(
    txn: &TxnMeta,
    keys: impl Iterator<Item = &'a Bytes>,
    view: &dyn StateView,
) -> Result<Standing, ViewError> {
    let refusals = view.refusals_stand();
    let mut found = Standing::None;
    for key in keys {
        if !refusals && *key != txn.anchor {
            continue;
        }
        let Some(record) = view.record(key, txn.id)? else {
            continue;
        };
        if let Some(verdict) = record.verdict() {
            return Ok(Standing::Decided(verdict));
        }
        if record.state == RecordState::Refused {
            found = Standing::Refused(key.clone());
        } else if found == Standing::None {
            found = Standing::Undecided(record);
        }
    }
    Ok(found)
}

/// The error for an id that recovery closed.
pub fn refused(key: &[u8]) -> Refusal {
    pb::RangeError::new(
        Kind::Refused(pb::Refused {}),
        format!("recovery has closed the transaction at key {}", Pretty(key)),
    )
}

fn too_old(floor: Timestamp, what: &str, at: Timestamp) -> Refusal {
    pb::RangeError::new(
        Kind::TooOld(pb::TooOld { floor: floor.0 }),
        format!("{what} {at} lies below the range's floor {floor}"),
    )
}

/// P6: an id that started below the transaction floor may have had its verdict dropped.
pub fn below_txn_floor(txn: &TxnMeta, floors: &Floors) -> Option<Refusal> {
    (txn.commit_start < floors.txn_floor && !Mistake::FloorUnheeded.is_made())
        .then(|| too_old(floors.txn_floor, "the commit's start", txn.commit_start))
}

/// Whether the write was read before: an insert that only asks for absence was not.
fn was_read(write: &pb::LoggedWrite) -> bool {
    !(write.must_be_absent && write.read_at == 0)
}

/// S1: what was read below the safe point cannot be tested for conflicts any more.
pub fn below_safe_point<'a>(
    writes: impl Iterator<Item = &'a pb::LoggedWrite>,
    checks: &[pb::ReadCheck],
    floors: &Floors,
) -> Option<Refusal> {
    let least = writes
        .filter(|w| was_read(w))
        .map(|w| w.read_at)
        .chain(checks.iter().map(|c| c.read_at))
        .min()?;
    (least < floors.safe_point.0 && !Mistake::SafePointPassed.is_made())
        .then(|| too_old(floors.safe_point, "the read timestamp", Timestamp(least)))
}

/// The error for a lock of somebody else.
pub fn locked(key: &Bytes, lock: &Lock) -> Refusal {
    pb::RangeError::new(
        Kind::Locked(pb::Locked {
            key: key.clone(),
            txn: Some(lock.txn.to_pb()),
            min_commit_ts: lock.min_commit_ts.0,
        }),
        format!("key {} is locked by transaction {}", Pretty(key), lock.txn.id),
    )
}

/// The error for an event after a key was read.
pub fn conflict(key: &Bytes, event: Timestamp, read_at: Timestamp) -> Refusal {
    pb::RangeError::new(
        Kind::Conflict(pb::Conflict {
            key: key.clone(),
            event_ts: event.0,
            ..pb::Conflict::default()
        }),
        format!("key {} was changed at {event}, after it was read at {read_at}", Pretty(key)),
    )
}

/// What a write found at its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The version it replaces.
    pub latest: Option<Version>,
    /// The newest event of the key that was looked at: the write must come later.
    pub newest: Timestamp,
}

/// Tests one write against a key that carries no foreign lock: conflict and required absence (P14).
/// A row that came after its key was read as absent is a conflict, not a duplicate: the transaction
/// may have read on that (say, the number it inserts) what is not so any more. The history is asked
/// only for a key absent from `latest`: the newest interval of a present key ended no later than
/// its version started (R5).
///
/// # Errors
/// The outer is a [`ViewError`], the inner what the writer is told.
pub fn test_write(
    write: &pb::LoggedWrite,
    view: &dyn StateView,
) -> Result<Result<Found, Refusal>, ViewError> {
    let read_at = match Mistake::ConflictsForgotten.is_made() {
        true => Timestamp::MAX,
        false => Timestamp(write.read_at),
    };
    let latest = view.latest(&write.key)?;
    if let Some(version) = latest {
        if was_read(write) && version.commit_ts > read_at {
            return Ok(Err(conflict(&write.key, version.commit_ts, read_at)));
        }
        if write.must_be_absent {
            return Ok(Err(pb::RangeError::new(
                Kind::AlreadyExists(pb::AlreadyExists { key: write.key.clone() }),
                format!("key {} exists", Pretty(&write.key)),
            )));
        }
        return Ok(Ok(Found { newest: version.commit_ts, latest: Some(version) }));
    }
    let mut newest = Timestamp::ZERO;
    if !write.known_absent {
        newest = view.newest_end(&write.key)?.unwrap_or(Timestamp::ZERO);
        if was_read(write) && newest > read_at {
            return Ok(Err(conflict(&write.key, newest, read_at)));
        }
    }
    Ok(Ok(Found { latest: None, newest }))
}

/// Tests what was read and not written: no foreign lock in it, no event after it was read and up
/// to the commit (P9).
///
/// # Errors
/// The outer is a [`ViewError`], the inner what the committer is told.
pub fn test_reads(
    own: TxnId,
    checks: &[pb::ReadCheck],
    upto: Timestamp,
    view: &dyn StateView,
) -> Result<Result<(), Refusal>, ViewError> {
    for check in checks {
        let span = Span::of_check(check);
        let read_at = Timestamp(check.read_at);
        if let Some(event) = view.first_event_after(&span, read_at, upto)? {
            return Ok(Err(conflict(&event.key, event.ts, read_at)));
        }
        if let Some((key, lock)) = view.first_foreign_lock(&span, own)? {
            return Ok(Err(locked(&key, &lock)));
        }
    }
    Ok(Ok(()))
}

/// The assertion behind rising versions: the leader took `ts` above every event of the key (P1).
///
/// # Errors
/// [`ApplyError::Invariant`].
pub fn assert_above(ts: Timestamp, found: &Found, key: &[u8]) -> Result<(), ApplyError> {
    if ts > found.newest {
        return Ok(());
    }
    Err(ApplyError::Invariant(format!(
        "a write of key {} at {ts} is not above its newest event at {}",
        Pretty(key),
        found.newest
    )))
}
