//! What can stop a benchmark, as errors that name the other party.

use std::path::PathBuf;

/// Why a benchmark could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The arguments contradict each other or the data found.
    #[error("{0}")]
    Usage(String),
    /// A server could not be reached or refused the session.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// Host, port and database, without credentials.
        server: String,
        /// What the driver or the server said.
        reason: String,
    },
    /// A statement failed outside a measured transaction.
    #[error("{doing}: {reason}")]
    Statement {
        /// What the statement was for.
        doing: String,
        /// The server's words, with the SQLSTATE.
        reason: String,
        /// The SQLSTATE, if a server sent one.
        code: Option<String>,
    },
    /// A terminal met nothing but errors.
    #[error("terminal {terminal} gave up after {failures} failures in a row, the last: {last}")]
    Stuck {
        /// Number of the terminal, from 0.
        terminal: usize,
        /// How many transactions failed without one that succeeded.
        failures: u32,
        /// The last error.
        last: String,
    },
    /// A part of the benchmark's own program ended unexpectedly.
    #[error("a {0} task ended unexpectedly")]
    Task(&'static str),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BenchError {
    /// Wraps a driver error with what was being done.
    pub fn statement(doing: impl Into<String>, error: &tokio_postgres::Error) -> Self {
        Self::Statement {
            doing: doing.into(),
            reason: explain(error),
            code: error.code().map(|c| c.code().to_owned()),
        }
    }
}

/// A driver error in one line: the server's message with its SQLSTATE, or the chain of causes.
pub fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
        if let Some(detail) = db.detail() {
            text.push_str("; ");
            text.push_str(detail);
        }
        return text;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
