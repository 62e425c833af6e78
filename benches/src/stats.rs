//! What one terminal counts, and how terminals are added up.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies above this are recorded as this (10 minutes, in microseconds).
const LATENCY_US_MAX: u64 = 600_000_000;
/// Significant decimal digits of recorded latencies.
const LATENCY_DIGITS: u8 = 3;

/// Counters of one kind of transaction.
#[derive(Clone)]
pub struct KindStats {
    /// Committed.
    pub committed: u64,
    /// Rolled back because the workload wanted it so.
    pub rolled_back: u64,
    /// Attempts repeated after 40001, 40P01 or a connection lost before COMMIT.
    pub retries: u64,
    /// Outcome unknown (40003, or the connection was lost during COMMIT).
    pub unknown: u64,
    /// Failed for good.
    pub failed: u64,
    /// From the first attempt to success, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl KindStats {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("bounds and digits are constants the histogram accepts");
        Self { committed: 0, rolled_back: 0, retries: 0, unknown: 0, failed: 0, latency_us }
    }

    /// Records how long a finished transaction took.
    pub fn record_latency(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.latency_us.saturating_record(micros.max(1));
    }

    fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.rolled_back += other.rolled_back;
        self.retries += other.retries;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.latency_us.add(&other.latency_us).expect("both histograms have the same bounds");
    }
}

/// Counters of one terminal, or of all.
#[derive(Clone)]
pub struct Stats {
    /// By kind, in the workload's order.
    pub kinds: Vec<KindStats>,
    /// When the primary kind committed, in microseconds after measuring began.
    pub primary_commits_us: Vec<u64>,
    /// Failures by SQLSTATE (or "connection"), unknown outcomes and retries included.
    pub errors: BTreeMap<String, u64>,
    /// An example of each, as the server said it.
    pub error_examples: BTreeMap<String, String>,
    /// Sessions opened again after a loss.
    pub reconnects: u64,
    /// Statements sent while measuring.
    pub statements: u64,
}

impl Stats {
    /// Nothing counted yet, for so many kinds of transactions.
    pub fn new(kind_count: usize) -> Self {
        Self {
            kinds: vec![KindStats::new(); kind_count],
            primary_commits_us: Vec::new(),
            errors: BTreeMap::new(),
            error_examples: BTreeMap::new(),
            reconnects: 0,
            statements: 0,
        }
    }

    /// Counts an error under its name, keeping the first text of each.
    pub fn note_error(&mut self, name: String, text: impl FnOnce() -> String) {
        self.error_examples.entry(name.clone()).or_insert_with(text);
        *self.errors.entry(name).or_insert(0) += 1;
    }

    /// Adds another terminal's counters.
    pub fn add(&mut self, other: &Self) {
        assert_eq!(self.kinds.len(), other.kinds.len(), "terminals count the same kinds");
        for (mine, theirs) in self.kinds.iter_mut().zip(&other.kinds) {
            mine.add(theirs);
        }
        self.primary_commits_us.extend_from_slice(&other.primary_commits_us);
        for (name, count) in &other.errors {
            *self.errors.entry(name.clone()).or_insert(0) += count;
        }
        for (name, text) in &other.error_examples {
            self.error_examples.entry(name.clone()).or_insert_with(|| text.clone());
        }
        self.reconnects += other.reconnects;
        self.statements += other.statements;
    }

    /// Committed and rolled back transactions of all kinds.
    pub fn finished(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.committed + kind.rolled_back).sum()
    }
}
