//! SQL without I/O: from text to plans that read and write through a trait.
//!
//! * [`types`]: types as PostgreSQL has them, in text, in binary and in Arrow.
//! * [`catalog`]: tables and indexes, and the changes DDL makes.
//! * [`keyenc`], [`row`]: rows as keys and values.
//! * [`plan`], [`cache`]: statements planned once.
//! * [`exec`], [`dml`], [`program`]: plans at work.
//! * [`infoschema`]: the catalog as tables.
//! * [`testing`]: a database in memory.
//! * [`kv`]: what SQL asks of a transaction.
//! * [`error`]: what a client is told.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own their time"))]

pub mod cache;
pub mod catalog;
pub mod dml;
pub mod error;
pub mod exec;
pub mod infoschema;
pub mod keyenc;
pub mod kv;
pub mod parse;
pub mod plan;
pub mod program;
pub mod row;
pub mod semantics;
pub mod testing;
pub mod types;

#[cfg(test)]
mod engine_tests;
