//! Counters of the range layer.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of a node since its start.
        #[derive(Debug, Default)]
        pub struct RangeMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl RangeMetrics {
            /// Name and value of each.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Calls answered.
    calls,
    /// Reads of keys.
    reads,
    /// Pages of scans.
    scans,
    /// Reads and pages that were answered without a lease, of a closed moment.
    closed_reads,
    /// Moments closed for followers.
    timestamps_closed,
    /// Rows looked at by scans.
    scan_rows,
    /// Prepares asked for.
    prepares,
    /// One-range commits asked for.
    commits,
    /// Verdicts asked for.
    verdicts,
    /// Hints taken in: commits whose verdict was on its way (rule P10).
    hints,
    /// Locks that readers saw through because of them.
    seen_through,
    /// Closings asked for: recovery at work.
    closes,
    /// Resolves asked for.
    resolves,
    /// Look-ups asked for.
    lookups,
    /// Writes refused because of a newer event.
    conflicts,
    /// Requests that met a lock.
    locked,
    /// Reads that met an event in their window.
    uncertain,
    /// Writes whose outcome was not known in time.
    unknown,
    /// Requests that waited for a write in flight or a lock.
    waits,
    /// Requests that queued for a row lock.
    lock_waits,
    /// Writes refused for lack of disk space.
    disk_full,
    /// Splits that were applied here as leader.
    splits,
}

impl RangeMetrics {
    pub(crate) fn inc(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
