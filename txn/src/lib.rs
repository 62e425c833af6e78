//! Quorate's transaction protocol, without I/O.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod apply;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod keys;
pub mod leader;
pub mod recovery;
pub mod state;
pub mod step;
pub mod testing;

pub use quorate_proto::{NodeId, PeerId, RangeId, Timestamp, TxnId, pb};

#[cfg(test)]
mod chaos_tests;
