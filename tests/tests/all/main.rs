//! The one integration-test binary of this crate; a module per subject.
#![allow(clippy::disallowed_methods, reason = "tests run real processes in real time")]
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod anomalies;
mod clocks;
mod conformity;
mod crash;
mod disk;
mod drain;
mod explained;
mod harness;
mod large;
mod past;
mod simulation;
mod sizes;
mod slt;
mod startup;
mod texts;
mod tidy;
mod tpcc;
mod verify;
