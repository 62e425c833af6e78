//! The errors a range answers with, each with its cure inside.

use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_response::Body;
use quorate_proto::{NodeId, RangeId, Timestamp, pb};

use super::config::{RETRY_AFTER_MS, RETRY_NO_LEASE_MS};
use crate::disk::DiskState;
use crate::raft::{ChangeError, ProposeError};

/// What a request is answered with: never more than one error.
pub type Outcome = Result<Body, pb::RangeError>;

/// The response of a request.
pub fn response(outcome: Outcome) -> pb::RangeResponse {
    let body = outcome.unwrap_or_else(Body::Error);
    pb::RangeResponse { body: Some(body) }
}

/// The sender's bug, or bytes that do not decode.
pub fn invalid(why: impl Into<String>) -> pb::RangeError {
    pb::RangeError::new(Kind::Invalid(pb::Invalid {}), why)
}

/// Try again here after a while.
pub fn unavailable(why: impl Into<String>) -> pb::RangeError {
    let retry_after_ms = RETRY_AFTER_MS;
    pb::RangeError::new(Kind::Unavailable(pb::Unavailable { retry_after_ms }), why)
}

/// A leader without a lease.
pub fn no_lease(range: RangeId) -> pb::RangeError {
    let retry_after_ms = RETRY_NO_LEASE_MS;
    let kind = Kind::Unavailable(pb::Unavailable { retry_after_ms });
    pb::RangeError::new(kind, format!("the leader of {range} has no lease at the moment"))
}

/// Go to the leader.
pub fn not_leader(
    range: RangeId,
    leader: Option<NodeId>,
    descriptor: Option<pb::RangeDescriptor>,
) -> pb::RangeError {
    let leader_node_id = leader.map_or(0, |node| node.0);
    let message = match leader {
        Some(node) => format!("{range} is led by {node}"),
        None => format!("{range} is not led by this node"),
    };
    pb::RangeError::new(Kind::NotLeader(pb::NotLeader { leader_node_id, descriptor }), message)
}

/// The route is old: use these.
pub fn stale_route(range: RangeId, descriptors: Vec<pb::RangeDescriptor>) -> pb::RangeError {
    let message = format!("the asked keys or epoch are not those of {range}");
    pb::RangeError::new(Kind::StaleRoute(pb::StaleRoute { descriptors }), message)
}

/// A write that may or may not happen.
pub fn unknown(why: impl Into<String>) -> pb::RangeError {
    pb::RangeError::new(Kind::Unknown(pb::Unknown {}), why)
}

/// Rule R4.
pub fn too_old(read_ts: Timestamp, safe_point: Timestamp) -> pb::RangeError {
    pb::RangeError::new(
        Kind::TooOld(pb::TooOld { floor: safe_point.0 }),
        format!("the read timestamp {read_ts} lies below the range's safe point {safe_point}"),
    )
}

/// Rule S5; `None` while there is room.
pub fn disk_full(state: DiskState) -> Option<pb::RangeError> {
    match state {
        DiskState::Ok => None,
        DiskState::ReserveReached { free, reserve } => Some(pb::RangeError::new(
            Kind::DiskFull(pb::DiskFull { free, reserve }),
            state.to_string(),
        )),
    }
}

/// A proposal that certainly did not enter the log.
pub fn not_proposed(range: RangeId, why: ProposeError) -> pb::RangeError {
    match why {
        ProposeError::NotLeader { leader } => not_leader(range, leader, None),
        ProposeError::NoReplica => not_leader(range, None, None),
        ProposeError::NotYet | ProposeError::Busy | ProposeError::Stopped => {
            unavailable(format!("{range}: {why}"))
        }
    }
}

/// A transfer or membership change that was not done.
pub fn not_changed(range: RangeId, why: &ChangeError) -> pb::RangeError {
    match why {
        ChangeError::NotLeader { leader } => not_leader(range, *leader, None),
        ChangeError::NotNow(_) => unavailable(format!("{range}: {why}")),
        ChangeError::Invalid(_) => invalid(format!("{range}: {why}")),
        ChangeError::Unknown => unknown(format!("{range}: {why}")),
    }
}
