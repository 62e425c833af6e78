//! Replication: a multi-Raft driver on raft-rs.
//!
//! # The life of a proposal
//! 1. A request task checks the lease and calls [`RaftHandle::propose`]; the command lands in the
//!    inbox of the range's worker (`worker::Worker`).
//! 2. The worker's pass (`Worker::pass`) proposes everything in its inbox to Raft. The
//!    leader's messages leave at once, in one frame per peer node.
//! 3. One append with one sync persists the entries of all ready groups; followers' answers leave
//!    after it.
//! 4. What a majority has persisted is applied by the range's [`RangeMachine`] into one engine
//!    batch, together with the applied index, and written.
//! 5. [`RangeMachine::committed_visible`] answers who waits.
//!
//! Leases are ours ([`lease`]): Raft's own read paths are not used. Idle groups are kept by one
//! heartbeat per pair of nodes ([`quiet`]). [`config`] holds every number.

mod appends;
mod apply;
pub mod config;
mod control;
mod group;
pub mod handle;
pub mod lease;
pub mod machine;
mod maintain;
mod messages;
pub mod quiet;
pub mod runtime;
pub mod shared;
mod snapshot;
mod start;
mod storage;
mod worker;

#[cfg(test)]
mod tests;

pub use handle::{Background, RaftConfig, RaftDeps, RaftHandle};
pub use machine::{
    ChangeError, Effect, GroupStatus, Handover, LeaseState, LogEntry, MachineFactory, ProposeError,
    RangeMachine, ReplicaChange, RoleEvent,
};
pub use runtime::{Driver, InlineBackground, Running, ThreadBackground};
pub use shared::{GroupShared, RaftMetrics};
pub use start::peer_on;
