//! [`get`]: one key at a timestamp; and the look into `history` that scans share.

use bytes::Bytes;
use quorate_proto::Timestamp;
use quorate_txn::apply::ViewError;
use quorate_txn::keys;
use quorate_txn::leader::DecidedLock;
use quorate_txn::state::{Interval, Lock, cf_bound, decode_history_key, history_key};

use super::version::read_version;
use super::{Blocked, Locks, Read, ReadAt, damaged, engine_failed};
use crate::engine::{Cf, EngineIter, EngineSnapshot};

/// What `key` is at `at`.
///
/// # Errors
/// [`ViewError`]: stop the node.
pub fn get(view: &dyn EngineSnapshot, key: &[u8], at: &ReadAt) -> Result<Read, ViewError> {
    match &at.locks {
        Locks::InSnapshot(_) => {
            if let Some(lock) = lock_at(view, key)?
                && at.blocked_by(&lock)
            {
                return Ok(Read::Blocked(Blocked::Locked(Box::new(lock))));
            }
        }
        Locks::Asked(decided) => {
            if let Some(decided) = decided.iter().find(|decided| decided.key == key)
                && let Some(value) = value_of(view, decided)?
            {
                return Ok(Read::Value(value));
            }
        }
    }
    let mut current = None;
    view.read(Cf::Latest, key, &mut |bytes| {
        current = Some(read_version(bytes, |version| {
            if version.commit_ts <= at.read_ts() {
                // Nothing happened to the key since.
                Current::Seen(Bytes::copy_from_slice(version.value))
            } else {
                Current::Later(version.commit_ts, version.local_ts)
            }
        }));
    })
    .map_err(engine_failed)?;
    match current.transpose()? {
        Some(Current::Seen(value)) => Ok(Read::Value(Some(value))),
        Some(Current::Later(start, local)) => {
            let found = first_interval_after(view, key, at.read_ts())?;
            Ok(judge(at, found, Some((start, local))))
        }
        None if at.read_ts() >= at.delete_watermark => Ok(Read::Value(None)),
        None => Ok(judge(at, first_interval_after(view, key, at.read_ts())?, None)),
    }
}

fn lock_at(view: &dyn EngineSnapshot, key: &[u8]) -> Result<Option<Lock>, ViewError> {
    let lock = view.get(Cf::Locks, key).map_err(engine_failed)?;
    lock.map(|lock| Lock::decode(&lock).map_err(damaged("locks"))).transpose()
}

/// The row that a decided lock is (rule P10), or its absence; `None` if it was resolved before the
/// snapshot: then the row is where rows are.
pub(super) fn value_of(
    view: &dyn EngineSnapshot,
    decided: &DecidedLock,
) -> Result<Option<Option<Bytes>>, ViewError> {
    let lock = lock_at(view, &decided.key)?;
    Ok(lock.filter(|lock| lock.txn.id == decided.txn).map(|lock| lock.value))
}

enum Current {
    Seen(Bytes),
    /// It starts after the read timestamp: start and local time.
    Later(Timestamp, Timestamp),
}

/// What a key is whose current version, if any, starts after the read timestamp; `first` is its
/// interval with the least end after the read timestamp.
pub(super) fn judge(
    at: &ReadAt,
    first: Option<Interval>,
    current: Option<(Timestamp, Timestamp)>,
) -> Read {
    // Lifetimes do not overlap, so the first event after read_ts is the start of the first
    // interval if it begins later, else its end, and without an interval the current start.
    let event = match &first {
        Some(interval) if interval.start > at.read_ts() => {
            Some((interval.start, interval.start_local))
        }
        Some(interval) => Some((interval.end, interval.end_local)),
        None => current,
    };
    if let Some((event_ts, local_ts)) = event
        && at.window.is_uncertain(event_ts, local_ts)
    {
        return Read::Blocked(Blocked::Uncertain { event_ts, local_ts });
    }
    let visible = first.filter(|interval| interval.visible_at(at.read_ts()));
    let value = visible.map(|interval| interval.value);
    if event.is_some() { Read::Older(value) } else { Read::Value(value) }
}

/// The interval of the key with the least end above `ts`.
pub(super) fn first_interval_after(
    view: &dyn EngineSnapshot,
    key: &[u8],
    ts: Timestamp,
) -> Result<Option<Interval>, ViewError> {
    let (from, upto) = (history_key(key, ts.next()), cf_bound(&keys::next_key(key)));
    let mut iter = view.iter(Cf::History, &from, &upto);
    iter.seek_first();
    interval_at(&*iter).map(|found| found.map(|(_, interval)| interval))
}

/// The interval of the key with the greatest end.
pub(super) fn last_interval(
    view: &dyn EngineSnapshot,
    key: &[u8],
) -> Result<Option<Interval>, ViewError> {
    let upto = cf_bound(&keys::next_key(key));
    let mut iter = view.iter(Cf::History, &history_key(key, Timestamp::ZERO), &upto);
    iter.seek_last();
    interval_at(&*iter).map(|found| found.map(|(_, interval)| interval))
}

/// The user key and interval an iterator over `history` stands on.
pub(super) fn interval_at(iter: &dyn EngineIter) -> Result<Option<(Bytes, Interval)>, ViewError> {
    let Some((key, value)) = iter.item() else {
        iter.status().map_err(engine_failed)?;
        return Ok(None);
    };
    let (key, end) = decode_history_key(key).map_err(damaged("history"))?;
    let interval = Interval::decode(end, value).map_err(damaged("history"))?;
    Ok(Some((key, interval)))
}
