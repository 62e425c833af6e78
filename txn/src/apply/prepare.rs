//! Prepare: puts a transaction's locks in this range and, at the anchor, its record.

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_proto::{Timestamp, pb};

use super::checks::{self, Standing};
use super::{Applied, ApplyError, Floors, Mutation, StateView, meta_of};
use crate::mistakes::Mistake;
use crate::state::{Lock, Record, RecordState, TxnMeta};

fn min_commit_ts(ts: Timestamp) -> Applied {
    answer(pb::prepare_response::Outcome::MinCommitTs(ts.0))
}

fn answer(outcome: pb::prepare_response::Outcome) -> Applied {
    Applied::answer(pb::range_response::Body::Prepare(pb::PrepareResponse {
        outcome: Some(outcome),
    }))
}

/// A record comes exactly with the anchor's key.
fn check_shape(command: &pb::PrepareCommand, txn: &TxnMeta) -> Result<(), &'static str> {
    if command.writes.is_empty() {
        return Err("a prepare writes something");
    }
    let at_anchor = command.writes.iter().any(|w| w.key == txn.anchor);
    let record = command.record != i32::from(pb::RecordKind::NoRecord);
    if at_anchor != record {
        return Err("a record comes exactly with the prepare of the anchor's key");
    }
    if record && pb::RecordKind::try_from(command.record).is_err() {
        return Err("the kind of the record is unknown");
    }
    let named: BTreeSet<&Bytes> = match record {
        true => command.keys.iter().collect(),
        false => BTreeSet::new(),
    };
    if record && !command.writes.iter().all(|w| named.contains(&w.key)) {
        return Err("the record names every key");
    }
    Ok(())
}

fn new_record(command: &pb::PrepareCommand, txn: &TxnMeta) -> Option<Record> {
    let keys = command.keys.clone();
    let state = match pb::RecordKind::try_from(command.record) {
        Ok(pb::RecordKind::Staging) => RecordState::Staging { keys },
        Ok(pb::RecordKind::Preparing) => RecordState::Preparing { keys },
        Ok(pb::RecordKind::NoRecord) | Err(_) => return None,
    };
    Some(Record { state, commit_start: txn.commit_start })
}

/// Applies a prepare.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::PrepareCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let txn = match meta_of(command.txn.as_ref()) {
        Ok(txn) => txn,
        Err(error) => return Ok(Applied::error(error)),
    };
    if let Err(why) = check_shape(command, &txn) {
        return Ok(Applied::invalid(why));
    }
    let standing = checks::standing(&txn, command.writes.iter().map(|w| &w.key), view)?;
    match &standing {
        Standing::Decided(verdict) => {
            let outcome = pb::prepare_response::Outcome::Verdict(verdict.to_pb());
            return Ok(answer(outcome));
        }
        Standing::Refused(key) => return Ok(Applied::error(checks::refused(key))),
        Standing::None | Standing::Undecided(_) => {}
    }
    let mut stored = Timestamp::ZERO;
    let mut missing = Vec::new();
    for write in &command.writes {
        match view.lock(&write.key)? {
            Some(lock) if lock.txn.id == txn.id && Mistake::LockRewritten.is_made() => {
                missing.push((write, None));
            }
            Some(lock) if lock.txn.id == txn.id => stored = stored.max(lock.min_commit_ts),
            lock => missing.push((write, lock)),
        }
    }
    if missing.is_empty() {
        return Ok(min_commit_ts(stored));
    }
    if let Some(error) = checks::below_txn_floor(&txn, floors)
        .or_else(|| checks::below_safe_point(missing.iter().map(|(w, _)| *w), &[], floors))
    {
        return Ok(Applied::error(error));
    }
    let min = Timestamp(command.min_commit_ts);
    let mut mutations = Vec::with_capacity(missing.len() + 1);
    for (write, foreign) in missing {
        if let Some(lock) = foreign {
            return Ok(Applied::error(checks::locked(&write.key, &lock)));
        }
        match checks::test_write(write, view)? {
            Err(error) => return Ok(Applied::error(error)),
            Ok(found) => checks::assert_above(min, &found, &write.key)?,
        }
        mutations.push(Mutation::PutLock {
            key: write.key.clone(),
            lock: Lock {
                txn: txn.clone(),
                min_commit_ts: min,
                local_ts: Timestamp(command.local_ts),
                value: (!write.delete).then(|| write.value.clone()),
                known_absent: write.known_absent,
            },
        });
    }
    if standing == Standing::None
        && let Some(record) = new_record(command, &txn)
    {
        mutations.push(Mutation::PutRecord { key: txn.anchor.clone(), id: txn.id, record });
    }
    Ok(Applied { mutations, ..min_commit_ts(stored.max(min)) })
}
