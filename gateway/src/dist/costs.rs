//! What a transaction costs, counted as it goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of a transaction.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rounds of RPCs.
    pub rpc_rounds: AtomicU64,
    /// Rounds of consensus before a commit was answered.
    pub consensus_rounds: AtomicU64,
    /// Reads that this node's replica answered, or another one that did not lead.
    pub follower_reads: AtomicU64,
    /// Rows read from storage.
    pub rows_read: AtomicU64,
    /// Microseconds until row locks were got.
    pub locking_us: AtomicU64,
    /// Microseconds waited for the physical clock.
    pub clock_wait_us: AtomicU64,
    /// Moves of the read timestamp.
    pub moves: AtomicU64,
    /// Statements begun once more.
    pub begun_again: AtomicU64,
}

/// What a transaction has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Rounds of RPCs that followed one another.
    pub rpc_rounds: u64,
    /// Rounds of consensus that were waited for.
    pub consensus_rounds: u64,
    /// Reads that followers answered.
    pub follower_reads: u64,
    /// Rows read from storage.
    pub rows_read: u64,
    /// Time until row locks were got.
    pub locking: Duration,
    /// Time waited for the physical clock (rule T4).
    pub clock_wait: Duration,
    /// Moves of the read timestamp.
    pub moves: u64,
    /// Statements begun once more, because a row they locked had changed.
    pub begun_again: u64,
}

impl Costs {
    /// What was added since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            rpc_rounds: self.rpc_rounds.saturating_sub(earlier.rpc_rounds),
            consensus_rounds: self.consensus_rounds.saturating_sub(earlier.consensus_rounds),
            follower_reads: self.follower_reads.saturating_sub(earlier.follower_reads),
            rows_read: self.rows_read.saturating_sub(earlier.rows_read),
            locking: self.locking.saturating_sub(earlier.locking),
            clock_wait: self.clock_wait.saturating_sub(earlier.clock_wait),
            moves: self.moves.saturating_sub(earlier.moves),
            begun_again: self.begun_again.saturating_sub(earlier.begun_again),
        }
    }
}

impl Counters {
    /// What they say now.
    pub fn costs(&self) -> Costs {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Costs {
            rpc_rounds: count(&self.rpc_rounds),
            consensus_rounds: count(&self.consensus_rounds),
            follower_reads: count(&self.follower_reads),
            rows_read: count(&self.rows_read),
            locking: Duration::from_micros(count(&self.locking_us)),
            clock_wait: Duration::from_micros(count(&self.clock_wait_us)),
            moves: count(&self.moves),
            begun_again: count(&self.begun_again),
        }
    }
}

/// Adds a time to a counter of microseconds.
pub fn add_micros(counter: &AtomicU64, span: Duration) {
    counter.fetch_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
