//! What Quorate's tests are made with: a raw wire client, a PostgreSQL to compare with, runners of
//! sqllogictest files and of anomaly scripts, a cluster of real processes, a simulator, and the
//! checks that keep the code tidy.
//!
//! The tests themselves are in `tests/all`, one binary with a module per subject.
#![allow(
    clippy::disallowed_methods,
    reason = "tests run real processes in real time; the simulation denies it for itself"
)]

pub mod anomalies;
pub mod bank;
pub mod binary;
pub mod cluster;
pub mod drivers;
pub mod fuzz;
pub mod postgres;
pub mod process;
pub mod sim;
pub mod slt;
pub mod tidy;
pub mod wire;
