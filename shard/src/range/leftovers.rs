//! The sweep of a range by its leader: what coordinators that died have left in it, in bounded
//! steps. A step reads a snapshot and proposes nothing, so idle ranges stay quiet.

use bytes::Bytes;
use quorate_proto::Timestamp;
use quorate_txn::apply::ViewError;
use quorate_txn::recovery::Leftover;
use quorate_txn::state::{Lock, Record, decode_record_key};

use super::config::{SWEEP_FOUND_MAX, SWEEP_ROWS_MAX};
use super::replica::{Replica, span_of};
use crate::engine::{Cf, EngineSnapshot, KeySpan};

/// How far the sweep of a range has come: keys of the two families to go on from; empty is the
/// beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepCursor {
    records: Bytes,
    locks: Bytes,
}

impl Replica {
    /// One step: leftovers of transactions that began to commit before `before`. Where the sweep
    /// came to the end of the range it begins anew the next time.
    ///
    /// # Errors
    /// [`ViewError`]: the node must stop.
    pub fn sweep(
        &self,
        cursor: &mut SweepCursor,
        before: Timestamp,
    ) -> Result<Vec<Leftover>, ViewError> {
        let span = span_of(&self.descriptor());
        let snapshot = self.node.engine.snapshot();
        let mut found = Vec::new();
        cursor.records = walk(&*snapshot, Cf::Txns, &span, &cursor.records, &mut |key, value| {
            let record = Record::decode(value).map_err(damaged("txns"))?;
            let (anchor, id) = decode_record_key(key).map_err(damaged("txns"))?;
            found.extend(Leftover::of_record(&anchor, id, &record, before));
            Ok(found.len() < SWEEP_FOUND_MAX)
        })?;
        cursor.locks = walk(&*snapshot, Cf::Locks, &span, &cursor.locks, &mut |key, value| {
            let lock = Lock::decode(value).map_err(damaged("locks"))?;
            let key = Bytes::copy_from_slice(key);
            found.extend(Leftover::of_lock(&key, &lock, before));
            Ok(found.len() < SWEEP_FOUND_MAX)
        })?;
        Ok(found)
    }
}

impl Replica {
    /// The first locks of transactions that began to commit before `before`, in one bounded step
    /// from the beginning of the range: few locks stand at any moment.
    ///
    /// # Errors
    /// [`ViewError`]: the node must stop.
    pub fn old_locks(&self, before: Timestamp) -> Result<Vec<Leftover>, ViewError> {
        let span = span_of(&self.descriptor());
        let snapshot = self.node.engine.snapshot();
        let mut found = Vec::new();
        walk(&*snapshot, Cf::Locks, &span, &Bytes::new(), &mut |key, value| {
            let lock = Lock::decode(value).map_err(damaged("locks"))?;
            found.extend(Leftover::of_lock(&Bytes::copy_from_slice(key), &lock, before));
            Ok(found.len() < SWEEP_FOUND_MAX)
        })?;
        Ok(found)
    }
}

fn damaged(family: &'static str) -> impl FnOnce(quorate_txn::state::DecodeError) -> ViewError {
    move |source| ViewError::Damaged { family, source }
}

/// Takes a row; whether it wants more.
type Take<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, ViewError> + 'a;

/// Takes rows from `from` on until `take` has enough; where to go on, empty at the end.
fn walk(
    snapshot: &dyn EngineSnapshot,
    cf: Cf,
    span: &KeySpan,
    from: &Bytes,
    take: &mut Take<'_>,
) -> Result<Bytes, ViewError> {
    let (lower, upper) = (cf.bound(&span.start), cf.bound(&span.end));
    // A split may have cut off where the last step stopped.
    let lower = lower.max(from.clone());
    if !upper.is_empty() && lower >= upper {
        return Ok(Bytes::new());
    }
    let mut iter = snapshot.iter(cf, &lower, &upper);
    iter.seek_first();
    let (mut looked_at, mut wants_more) = (0, true);
    while let Some((key, value)) = iter.item() {
        if looked_at == SWEEP_ROWS_MAX || !wants_more {
            return Ok(Bytes::copy_from_slice(key));
        }
        wants_more = take(key, value)?;
        looked_at += 1;
        iter.next();
    }
    iter.status().map_err(|e| ViewError::Engine(e.to_string()))?;
    Ok(Bytes::new())
}
