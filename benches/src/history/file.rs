//! Histories in files: a line of JSON that says what was promised, then one for each transaction.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Promise, Transaction};
use crate::args::Isolation;
use crate::error::BenchError;
use crate::output::Output;

#[derive(Serialize, Deserialize)]
struct Header {
    level: Isolation,
    clock_offset_ns_max: u64,
}

/// Writes a history.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    path: &Path,
    promise: Promise,
    transactions: &[Transaction],
) -> Result<(), BenchError> {
    write_to(Output::open(path)?, promise, transactions).map(drop)
}

/// Writes a history to a file that is open; where it is.
pub(crate) fn write_to(
    output: Output,
    promise: Promise,
    transactions: &[Transaction],
) -> Result<PathBuf, BenchError> {
    output.write(|to| {
        let Promise { level, clock_offset_ns_max } = promise;
        serde_json::to_writer(&mut *to, &Header { level, clock_offset_ns_max })?;
        for transaction in transactions {
            to.write_all(b"\n")?;
            serde_json::to_writer(&mut *to, transaction)?;
        }
        to.write_all(b"\n")
    })
}

/// Reads a history.
///
/// # Errors
/// The file cannot be read, or a line is not one of a history.
pub fn read(path: &Path) -> Result<(Promise, Vec<Transaction>), BenchError> {
    let cannot = |what: String| {
        BenchError::Usage(format!("cannot read the history {}: {what}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(|error| cannot(error.to_string()))?;
    let mut lines = BufReader::new(file).lines().enumerate();
    let mut next = || -> Result<Option<(usize, String)>, BenchError> {
        let Some((number, line)) = lines.next() else { return Ok(None) };
        Ok(Some((number + 1, line.map_err(|error| cannot(error.to_string()))?)))
    };
    let (_, first) = next()?.ok_or_else(|| cannot(String::from("it is empty")))?;
    let header: Header =
        serde_json::from_str(&first).map_err(|error| cannot(format!("line 1: {error}")))?;
    let mut transactions = Vec::new();
    while let Some((number, line)) = next()? {
        let read = serde_json::from_str(&line);
        transactions.push(read.map_err(|error| cannot(format!("line {number}: {error}")))?);
    }
    let Header { level, clock_offset_ns_max } = header;
    Ok((Promise { level, clock_offset_ns_max }, transactions))
}
