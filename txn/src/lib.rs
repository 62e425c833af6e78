//! Quorate's transaction protocol, without I/O: pure state machines that take what happened and
//! say what is to be done. The rules (T1–T4, L2, L3, P1–P14, R1–R5, S1) are named where they are
//! kept.
//!
//! * [`clock`]: the hybrid clock; [`config`]: tunables and their relations; [`keys`]: every key
//!   prefix.
//! * [`state`]: versions, intervals, locks, records, as they are on disk.
//! * [`apply`]: what a range's replicas do with each command.
//! * [`leader`]: how a range's leader orders reads and writes before they are replicated.
//! * [`coordinator`] commits a transaction, [`recovery`] ends an abandoned one; [`step`] is what
//!   both say to their driver.
//! * [`mistakes`]: what the simulator must find.
//! * [`testing`]: a range's state in memory.

#![expect(
    clippy::result_large_err,
    reason = "errors that carry their cure cross nodes as they are; boxing each would cost more"
)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod apply;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod keys;
pub mod leader;
pub mod mistakes;
pub mod recovery;
pub mod state;
pub mod step;
pub mod testing;

pub use quorate_proto::{NodeId, PeerId, RangeId, Timestamp, TxnId, pb};

#[cfg(test)]
mod chaos_tests;
