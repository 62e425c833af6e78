//! One-range commit: check, write and record in one command; no lock is left behind.

use bytes::Bytes;
use quorate_proto::{Timestamp, pb};

use super::checks::{self, Found, Standing};
use super::{Applied, ApplyError, Floors, Mutation, StateView, meta_of};
use crate::mistakes::Mistake;
use crate::state::{Interval, Record, RecordState, TxnMeta, Verdict, Version};

fn answer(verdict: Verdict) -> Applied {
    Applied::answer(pb::range_response::Body::Commit(pb::CommitResponse {
        verdict: Some(verdict.to_pb()),
    }))
}

/// The mutations by which `value` takes the place of what was found at `key`; shared with
/// resolving. A delete of an absent key is no event.
pub(super) fn replace(
    key: &Bytes,
    value: Option<&Bytes>,
    found: Option<&Version>,
    commit_ts: Timestamp,
    local_ts: Timestamp,
    mutations: &mut Vec<Mutation>,
) {
    if let Some(old) = found {
        mutations.push(Mutation::PutInterval {
            key: key.clone(),
            interval: Interval::ended(old, commit_ts, local_ts),
        });
    }
    match value {
        Some(value) => mutations.push(Mutation::PutLatest {
            key: key.clone(),
            version: Version { commit_ts, local_ts, value: value.clone() },
        }),
        None if found.is_some() => {
            mutations.push(Mutation::RemoveLatest { key: key.clone() });
            mutations.push(Mutation::RaiseDeleteWatermark(commit_ts));
        }
        None => {}
    }
}

/// The writes against the state; what each found, or what the committer is told.
fn test(
    command: &pb::CommitCommand,
    txn: &TxnMeta,
    view: &dyn StateView,
) -> Result<Result<Vec<Found>, pb::RangeError>, ApplyError> {
    let mut all = Vec::with_capacity(command.writes.len());
    for write in &command.writes {
        match view.lock(&write.key)? {
            Some(lock) if lock.txn.id == txn.id => return Ok(Err(prepared_before())),
            Some(lock) => return Ok(Err(checks::locked(&write.key, &lock))),
            None => {}
        }
        match checks::test_write(write, view)? {
            Err(error) => return Ok(Err(error)),
            Ok(found) => all.push(found),
        }
    }
    let upto = Timestamp(command.commit_ts);
    if let Err(error) = checks::test_reads(txn.id, &command.checks, upto, view)? {
        return Ok(Err(error));
    }
    Ok(Ok(all))
}

/// P12: many-range stays many-range; a one-range copy that was sent earlier comes too late.
fn prepared_before() -> pb::RangeError {
    super::invalid("the transaction was prepared before; it is not a one-range commit any more")
}

/// Applies a one-range commit.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::CommitCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let txn = match meta_of(command.txn.as_ref()) {
        Ok(txn) => txn,
        Err(error) => return Ok(Applied::error(error)),
    };
    if !command.writes.iter().any(|w| w.key == txn.anchor) {
        return Ok(Applied::invalid("a one-range commit writes its anchor's key"));
    }
    match checks::standing(&txn, command.writes.iter().map(|w| &w.key), view)? {
        Standing::Decided(_) if Mistake::VerdictOverlooked.is_made() => {}
        Standing::Decided(verdict) => return Ok(answer(verdict)),
        Standing::Refused(key) => return Ok(Applied::error(checks::refused(&key))),
        Standing::Undecided(_) => return Ok(Applied::error(prepared_before())),
        Standing::None => {}
    }
    if let Some(error) = checks::below_txn_floor(&txn, floors)
        .or_else(|| checks::below_safe_point(command.writes.iter(), &command.checks, floors))
    {
        return Ok(Applied::error(error));
    }
    let found = match test(command, &txn, view)? {
        Ok(found) => found,
        Err(error) => return Ok(Applied::error(error)),
    };
    let ts = Timestamp(command.commit_ts);
    let mut mutations = Vec::with_capacity(2 * command.writes.len() + 1);
    for (write, found) in command.writes.iter().zip(&found) {
        checks::assert_above(ts, found, &write.key)?;
        let value = (!write.delete).then_some(&write.value);
        let local = Timestamp(command.local_ts);
        replace(&write.key, value, found.latest.as_ref(), ts, local, &mut mutations);
    }
    mutations.push(Mutation::PutRecord {
        key: txn.anchor.clone(),
        id: txn.id,
        record: Record {
            state: RecordState::Committed { ts, keys: Vec::new(), one_range: true },
            commit_start: txn.commit_start,
        },
    });
    Ok(Applied { mutations, ..answer(Verdict::Committed(ts)) })
}
