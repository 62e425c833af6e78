//! Drop record: every lock of a committed many-range transaction was confirmed resolved (rule P4).
//! The record loses its keys and stays, like that of a one-range commit, until the floor passes.

use quorate_proto::pb;

use super::{Applied, ApplyError, Floors, Mutation, StateView, id_of};
use crate::state::{Record, RecordState};

/// Applies a drop of a record; anything but a committed record stays as it is.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::DropRecordCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let id = match id_of(&command.txn_id) {
        Ok(id) => id,
        Err(error) => return Ok(Applied::error(error)),
    };
    let done = Applied::answer(pb::range_response::Body::DropRecord(pb::DropRecordResponse {}));
    let key = command.anchor.clone();
    let Some(Record { state, commit_start }) = view.record(&key, id)? else {
        return Ok(done);
    };
    let RecordState::Committed { ts, one_range: false, .. } = state else {
        return Ok(done);
    };
    let record = Record {
        state: RecordState::Committed { ts, keys: Vec::new(), one_range: true },
        commit_start,
    };
    let mutation = if record.droppable_below(floors.txn_floor) {
        Mutation::RemoveRecord { key, id }
    } else {
        Mutation::PutRecord { key, id, record }
    };
    Ok(Applied { mutations: vec![mutation], ..done })
}
