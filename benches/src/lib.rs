//! Benchmarks: drivers that speak plain Postgres protocol, so that Quorate and PostgreSQL can be
//! put side by side: [`tpcc`], [`kv`] and [`tpcb`]. And [`verify`], which does not measure but
//! checks, with [`history`], what isolation levels promise.
//!
//! A driver is a [`runner::Workload`]; terminals, retries, reconnects, statistics and reports are
//! the same for all.

pub mod args;
mod cpu;
pub mod db;
mod decimal;
pub mod error;
pub mod history;
pub mod kv;
pub mod local_postgres;
mod output;
mod progress;
pub mod report;
pub mod runner;
mod runtime;
mod stats;
mod timeline;
pub mod tpcb;
pub mod tpcc;
pub mod verify;

pub use args::CommonArgs;
pub use error::BenchError;
pub use report::Report;
