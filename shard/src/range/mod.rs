//! Ranges: the state machine of a replica and what its leader does with requests.
//!
//! # The life of a request
//! 1. [`Ranges::serve`] finds the [`Replica`]; without one the answer says what is known instead.
//! 2. Reads (`reads`): lease, lock table, snapshot, rows, lease again. Writes (`writes`):
//!    admission by [`LeaderState`](quorate_txn::leader::LeaderState), proposal.
//! 3. The worker applies the entry ([`machine::Machine`]) and, when the batch is visible,
//!    answers who waits.
//!
//! Row locks (`locks`) only queue: nothing is replicated.
//!
//! * [`meta`]: descriptors, addresses and ids, kept in the first range.
//! * [`scan`]: the traits through which programs run beside the data.
//! * [`config`]: every number.

#![expect(
    clippy::result_large_err,
    reason = "errors carry their cure, are rare, and leave the node as they are"
)]

pub mod admin;
mod closed;
pub mod config;
pub mod errors;
mod leftovers;
mod locks;
pub mod machine;
pub mod meta;
pub mod metrics;
mod reads;
pub mod replica;
mod requests;
pub mod scan;
mod writes;

pub use admin::Allocator;
pub use leftovers::SweepCursor;
pub use machine::Factory;
pub use meta::{BOOTSTRAP_NODE, FIRST_DB_RANGE, META_RANGE};
pub(crate) use replica::span_of;
pub use replica::{RangeEvents, Ranges, Replica};
pub use scan::{NoPrograms, ScanEngine, ScanRun};

#[cfg(test)]
mod tests;
