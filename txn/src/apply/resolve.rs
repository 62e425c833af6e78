//! Resolve: turns a decided transaction's locks into versions, or removes them. The verdict was
//! replicated at the anchor before (rule P4). Idempotent: a key without the lock is done.

use bytes::Bytes;
use quorate_proto::{TxnId, pb};

use super::checks::{self, Found};
use super::commit::replace;
use super::{Applied, ApplyError, Mutation, StateView, id_of};
use crate::state::{Lock, Verdict};

fn resolve(
    key: &Bytes,
    lock: &Lock,
    verdict: Verdict,
    view: &dyn StateView,
    mutations: &mut Vec<Mutation>,
) -> Result<(), ApplyError> {
    mutations.push(Mutation::RemoveLock { key: key.clone() });
    let Verdict::Committed(ts) = verdict else {
        return Ok(());
    };
    // The verdict is the maximum over all locks that counted (P2); this one did not: it is a
    // late duplicate of a write that was decided, and perhaps overwritten, before.
    if ts < lock.min_commit_ts {
        return Ok(());
    }
    let latest = view.latest(key)?;
    let found = Found { newest: latest.as_ref().map(|v| v.commit_ts).unwrap_or_default(), latest };
    checks::assert_above(ts, &found, key)?;
    let value = lock.value.as_ref();
    replace(key, value, found.latest.as_ref(), ts, lock.local_ts, mutations);
    Ok(())
}

/// Resolves the locks of a transaction at these keys; shared with the verdict.
pub(super) fn all(
    keys: &[Bytes],
    id: TxnId,
    verdict: Verdict,
    view: &dyn StateView,
) -> Result<Vec<Mutation>, ApplyError> {
    let mut mutations = Vec::with_capacity(3 * keys.len());
    for key in keys {
        if let Some(lock) = view.lock(key)?
            && lock.txn.id == id
        {
            resolve(key, &lock, verdict, view, &mut mutations)?;
        }
    }
    Ok(mutations)
}

/// Applies a resolve.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(command: &pb::ResolveCommand, view: &dyn StateView) -> Result<Applied, ApplyError> {
    let id = match id_of(&command.txn_id) {
        Ok(id) => id,
        Err(error) => return Ok(Applied::error(error)),
    };
    let Some(verdict) = command.verdict.as_ref().map(Verdict::from_pb) else {
        return Ok(Applied::invalid("it names no verdict"));
    };
    let mutations = all(&command.keys, id, verdict, view)?;
    Ok(Applied { mutations, answer: pb::range_response::Body::Resolve(pb::ResolveResponse {}) })
}
