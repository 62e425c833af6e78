//! Close: recovery makes one key, or the anchor's record, final in the range that holds it now
//! (rule P3).

use quorate_proto::pb;

use super::checks;
use super::{Applied, ApplyError, Floors, Mutation, StateView, meta_of};
use crate::keys::Pretty;
use crate::mistakes::Mistake;
use crate::state::{Record, RecordState, TxnMeta, Verdict};

fn answer(outcome: pb::close_response::Outcome) -> Applied {
    Applied::answer(pb::range_response::Body::Close(pb::CloseResponse { outcome: Some(outcome) }))
}

fn status(record: &Record) -> Applied {
    answer(pb::close_response::Outcome::Status(record.status()))
}

fn put(txn: &TxnMeta, key: &bytes::Bytes, record: Record) -> Vec<Mutation> {
    vec![Mutation::PutRecord { key: key.clone(), id: txn.id, record }]
}

/// A missing anchor record is closed as `aborted`. Below the floor nothing needs to be written:
/// no prepare of this id can come any more, and a lock that asks proves that no committed record
/// was dropped.
fn close_record(
    txn: &TxnMeta,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let aborted = Record { state: RecordState::Aborted, commit_start: txn.commit_start };
    match view.record(&txn.anchor, txn.id)? {
        Some(record) if record.state != RecordState::Refused => Ok(status(&record)),
        None if checks::below_txn_floor(txn, floors).is_some() => Ok(status(&aborted)),
        Some(_) | None => Ok(Applied {
            answer: status(&aborted).answer,
            mutations: put(txn, &txn.anchor, aborted),
        }),
    }
}

fn close_key(
    txn: &TxnMeta,
    key: &bytes::Bytes,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    use pb::close_response::Outcome;
    if let Some(lock) = view.lock(key)?
        && lock.txn.id == txn.id
    {
        return Ok(answer(Outcome::LockMinCommitTs(lock.min_commit_ts.0)));
    }
    match view.record(key, txn.id)? {
        Some(record) => match record.verdict() {
            Some(_) => Ok(status(&record)),
            None if record.state == RecordState::Refused => Ok(answer(Outcome::Refused(true))),
            None => Err(ApplyError::Invariant(format!(
                "the record of {} is {record}, but its anchor's lock is gone (P4)",
                txn.id
            ))),
        },
        // The floor refuses the id already.
        None if checks::below_txn_floor(txn, floors).is_some() => {
            Ok(answer(Outcome::Refused(true)))
        }
        None => {
            let record = Record { state: RecordState::Refused, commit_start: txn.commit_start };
            let mutations = match Mistake::RefusalForgotten.is_made() {
                true => Vec::new(),
                false => put(txn, key, record),
            };
            Ok(Applied { mutations, ..answer(Outcome::Refused(true)) })
        }
    }
}

/// Applies a close.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::CloseCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let txn = match meta_of(command.txn.as_ref()) {
        Ok(txn) => txn,
        Err(error) => return Ok(Applied::error(error)),
    };
    if !command.record {
        return close_key(&txn, &command.key, floors, view);
    }
    if command.key != txn.anchor && !command.key.is_empty() {
        return Ok(Applied::invalid(format!(
            "the record of {} is at {}, not at {}",
            txn.id,
            Pretty(&txn.anchor),
            Pretty(&command.key)
        )));
    }
    close_record(&txn, floors, view)
}

/// What a close proves about the transaction; the recovery machine's reading of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The key holds its lock.
    Locked(quorate_proto::Timestamp),
    /// No lock can come to the key.
    Refused,
    /// The transaction was decided.
    Decided(Verdict),
    /// The record stands undecided.
    Undecided(pb::TxnStatus),
}

impl Closed {
    /// From the answer; `None` if it says nothing.
    pub fn from_pb(response: &pb::CloseResponse) -> Option<Self> {
        use pb::close_response::Outcome;
        use pb::txn_status::State;
        match response.outcome.as_ref()? {
            Outcome::LockMinCommitTs(ts) => Some(Self::Locked(quorate_proto::Timestamp(*ts))),
            Outcome::Refused(_) => Some(Self::Refused),
            Outcome::Status(status) => match status.state.as_ref()? {
                State::Verdict(verdict) => Some(Self::Decided(Verdict::from_pb(verdict))),
                State::Missing(_) | State::Preparing(_) | State::Staging(_) => {
                    Some(Self::Undecided(status.clone()))
                }
            },
        }
    }
}
