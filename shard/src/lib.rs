//! A node's storage: ranges, replication, MVCC. Knows nothing of SQL.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod disk;
pub mod engine;
pub mod log;
pub mod mvcc;
pub mod node;
#[cfg(test)]
mod planted;
pub mod raft;
pub mod range;
pub mod transport;
