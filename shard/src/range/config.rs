//! Every tunable of the range layer.

use std::time::Duration;

/// For calls that name no timeout.
pub const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// No call is worked on for longer, whatever it asks.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long a request waits for the lock of another transaction before the sender is told whose.
pub const LOCK_WAIT_MAX: Duration = quorate_txn::config::LOOKUP_WAIT;
/// When to come back after an error that passes by itself.
pub const RETRY_AFTER_MS: u32 = 10;
/// When to come back to a leader that waits for the lease of another one.
pub const RETRY_NO_LEASE_MS: u32 = 50;

/// Bytes of the rows in one page of a scan that names no limit.
pub const SCAN_BYTES_DEFAULT: u64 = 1 << 20;
/// Bytes of the rows in one page of a scan at most.
pub const SCAN_BYTES_MAX: u64 = 16 << 20;
/// Bytes a program looks at in one page: a page must not hold its thread for long.
pub const PROGRAM_BYTES_MAX: u64 = 8 << 20;
/// Rows a program looks at in one page.
pub const PROGRAM_ROWS_MAX: u64 = 50_000;

/// Descriptors named in one answer at most.
pub const DESCRIPTORS_MAX: usize = 16;
/// How long to wait before a membership step that was not possible is tried again.
pub const CHANGE_RETRY: Duration = Duration::from_millis(100);

/// Rows of one family that one step of a sweep looks at.
pub const SWEEP_ROWS_MAX: usize = 10_000;
/// Leftovers that one step of a sweep hands on.
pub const SWEEP_FOUND_MAX: usize = 64;

/// Ids given out before any was asked for: the bootstrap's own.
pub const FIRST_ID: u64 = 1000;
/// Ids given out in one go at most.
pub const ALLOCATE_MAX: u64 = 1 << 20;

const _: () = assert!(
    CALL_TIMEOUT_DEFAULT.as_millis() > LOCK_WAIT_MAX.as_millis(),
    "a call outlives the wait for a lock, so that its sender hears whose it is"
);
