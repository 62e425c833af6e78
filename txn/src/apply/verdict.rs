//! Verdict: writes the end of a many-range transaction into its anchor's record. The first one
//! to be applied stands; every other is answered with it. Locks in the anchor's range that the
//! sender names are resolved in the same command, by the verdict that stands: never before it
//! (rule P4).

use quorate_proto::{Timestamp, pb};

use super::checks;
use super::{Applied, ApplyError, Floors, Mutation, StateView, meta_of, resolve};
use crate::state::{Record, RecordState, TxnMeta, Verdict};

fn answer(verdict: Verdict) -> Applied {
    Applied::answer(pb::range_response::Body::Verdict(pb::VerdictResponse {
        verdict: Some(verdict.to_pb()),
        resolved: false,
    }))
}

fn write(txn: &TxnMeta, state: RecordState, verdict: Verdict) -> Applied {
    Applied {
        mutations: vec![Mutation::PutRecord {
            key: txn.anchor.clone(),
            id: txn.id,
            record: Record { state, commit_start: txn.commit_start },
        }],
        ..answer(verdict)
    }
}

/// Commits a staging or preparing record. The timestamp is the maximum over all locks (P2), so
/// it is not below the anchor's own.
fn commit(
    txn: &TxnMeta,
    ts: Timestamp,
    keys: Vec<bytes::Bytes>,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    if let Some(lock) = view.lock(&txn.anchor)?
        && lock.txn.id == txn.id
        && lock.min_commit_ts > ts
    {
        return Ok(Applied::invalid(format!(
            "a commit at {ts} lies below the anchor's own lock at {}",
            lock.min_commit_ts
        )));
    }
    let state = RecordState::Committed { ts, keys, one_range: false };
    Ok(write(txn, state, Verdict::Committed(ts)))
}

/// Without a record: `aborted` closes the id at its anchor (P3, P8), unless the floor has passed
/// it, for then a dropped record may have said `committed` (P6).
fn without_record(txn: &TxnMeta, asked: Verdict, floors: &Floors) -> Applied {
    if let Some(error) = checks::below_txn_floor(txn, floors) {
        return Applied::error(error);
    }
    match asked {
        Verdict::Aborted => write(txn, RecordState::Aborted, Verdict::Aborted),
        Verdict::Committed(_) => Applied::invalid("there is no record of the transaction"),
    }
}

/// Applies a verdict; what stands afterwards is the answer.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::VerdictCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let mut applied = decide(command, floors, view)?;
    let pb::range_response::Body::Verdict(answer) = &mut applied.answer else {
        return Ok(applied);
    };
    let stands = answer.verdict.as_ref().map(Verdict::from_pb);
    let id = command.txn.as_ref().and_then(TxnMeta::from_pb).map(|txn| txn.id);
    if let (Some(stands), Some(id)) = (stands, id) {
        answer.resolved = true;
        applied.mutations.extend(resolve::all(&command.resolve, id, stands, view)?);
    }
    Ok(applied)
}

/// What becomes of the record.
fn decide(
    command: &pb::VerdictCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let txn = match meta_of(command.txn.as_ref()) {
        Ok(txn) => txn,
        Err(error) => return Ok(Applied::error(error)),
    };
    let Some(asked) = command.verdict.as_ref().map(Verdict::from_pb) else {
        return Ok(Applied::invalid("it names no verdict"));
    };
    let Some(record) = view.record(&txn.anchor, txn.id)? else {
        return Ok(without_record(&txn, asked, floors));
    };
    match (record.state, asked) {
        (RecordState::Committed { ts, .. }, _) => Ok(answer(Verdict::Committed(ts))),
        (RecordState::Aborted, _) => Ok(answer(Verdict::Aborted)),
        // No lock can come to the anchor's key any more: it can only be aborted.
        (RecordState::Refused, _) => Ok(write(&txn, RecordState::Aborted, Verdict::Aborted)),
        (RecordState::Staging { .. } | RecordState::Preparing { .. }, Verdict::Aborted) => {
            Ok(write(&txn, RecordState::Aborted, Verdict::Aborted))
        }
        (
            RecordState::Staging { keys } | RecordState::Preparing { keys },
            Verdict::Committed(ts),
        ) => commit(&txn, ts, keys, view),
    }
}
