//! Raise floors: the safe point (S1) and the transaction floor (P6), and the records the floor
//! has passed.

use quorate_proto::{Timestamp, pb};

use super::{Applied, ApplyError, Floors, Mutation, StateView};
use crate::config::RECORDS_DROPPED_MAX;

/// Applies a raise of the floors; lower values change nothing. Records left over by the limit go
/// with the next one.
///
/// # Errors
/// [`ApplyError`]; each stops the node.
pub fn apply(
    command: &pb::RaiseFloorsCommand,
    floors: &Floors,
    view: &dyn StateView,
) -> Result<Applied, ApplyError> {
    let safe_point = floors.safe_point.max(Timestamp(command.safe_point));
    let txn_floor = floors.txn_floor.max(Timestamp(command.txn_floor));
    let mut mutations = Vec::new();
    if safe_point > floors.safe_point {
        mutations.push(Mutation::RaiseSafePoint(safe_point));
    }
    if txn_floor > floors.txn_floor {
        mutations.push(Mutation::RaiseTxnFloor(txn_floor));
    }
    for (key, id) in view.droppable_records(txn_floor, RECORDS_DROPPED_MAX)? {
        mutations.push(Mutation::RemoveRecord { key, id });
    }
    let answer = pb::RaiseSafePointResponse { safe_point: safe_point.0 };
    Ok(Applied { mutations, answer: pb::range_response::Body::RaiseSafePoint(answer) })
}
