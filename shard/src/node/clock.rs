//! [`SystemClock`]: the machine's clocks.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: the one place that reads the machine's clocks"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_proto::Timestamp;
use quorate_txn::clock::PhysicalClock;

/// The machine's wall clock, and `CLOCK_BOOTTIME`, which goes on while the machine sleeps: a lease
/// on a clock that stops would still look valid after a suspension (rule L1).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl PhysicalClock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp::from_duration(since.unwrap_or_default())
    }

    #[expect(unsafe_code, reason = "no safe crate in use offers CLOCK_BOOTTIME")]
    fn monotonic(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live, writable timespec.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert!(result == 0, "Linux has had CLOCK_BOOTTIME since 2.6.39");
        let secs = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_on() {
        let clock = SystemClock;
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        assert!(wall > Timestamp::from_duration(Duration::from_secs(1_600_000_000)));
        while clock.monotonic() == monotonic {}
        assert!(clock.monotonic() > monotonic);
        assert!(clock.now() >= wall);
    }
}
