//! A node's clock: off from true time by an offset that may jump, and running at a rate of its own
//! (rule X3: skew enters through the clock trait).

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use quorate_proto::Timestamp;
use quorate_txn::clock::PhysicalClock;
use quorate_txn::config::{CLOCK_LEADS_PERCENT, MAX_CLOCK_OFFSET};

use super::system;

/// How far a node's wall clock may be from true time, so that two nodes stay within the bound.
pub const OFFSET_MAX: Duration = Duration::from_millis(110);
const _: () = assert!(
    OFFSET_MAX.as_millis() * 2 * 100 < MAX_CLOCK_OFFSET.as_millis() * CLOCK_LEADS_PERCENT as u128,
    "two nodes at both ends are so close that both may lead"
);

/// How much faster than true time a node's monotonic clock may run, in millionths: drift between
/// nodes stays below the tenth that leases allow for.
pub const FAST_PPM_MAX: u64 = 40_000;

/// Added to the monotonic clock, as if the machine had been up for so long.
const UP_FOR: Duration = Duration::from_secs(500);

/// A machine's clocks; they go on while the node on it is down.
#[derive(Debug)]
pub struct SimClock {
    offset_us: AtomicI64,
    has_leapt: AtomicBool,
    fast_ppm: u64,
}

impl SimClock {
    /// A clock that is off by this and runs this much too fast.
    pub fn new(offset_us: i64, fast_ppm: u64) -> Self {
        assert!(fast_ppm <= FAST_PPM_MAX, "drift stays within what leases allow for");
        let clock =
            Self { offset_us: AtomicI64::new(0), has_leapt: AtomicBool::new(false), fast_ppm };
        clock.jump(offset_us);
        clock
    }

    /// Whether it is beyond the bound.
    pub fn is_wild(&self) -> bool {
        let most = i64::try_from(OFFSET_MAX.as_micros()).unwrap_or(i64::MAX);
        self.offset_us.load(Ordering::SeqCst).abs() > most
    }

    /// Whether it has ever been beyond the bound.
    pub fn has_leapt(&self) -> bool {
        self.has_leapt.load(Ordering::SeqCst)
    }

    /// The wall clock jumps further than any bound allows.
    pub fn leap(&self, offset_us: i64) {
        self.has_leapt.store(true, Ordering::SeqCst);
        self.offset_us.store(offset_us, Ordering::SeqCst);
    }

    /// The wall clock jumps to another offset from true time, within the bound.
    pub fn jump(&self, offset_us: i64) {
        let most = i64::try_from(OFFSET_MAX.as_micros()).unwrap_or(i64::MAX);
        self.offset_us.store(offset_us.clamp(-most, most), Ordering::SeqCst);
    }
}

impl PhysicalClock for SimClock {
    fn now(&self) -> Timestamp {
        let offset_us = self.offset_us.load(Ordering::SeqCst);
        let offset = Duration::from_micros(offset_us.unsigned_abs());
        let time = system::EPOCH + system::now();
        Timestamp::from_duration(if offset_us < 0 { time - offset } else { time + offset })
    }

    fn monotonic(&self) -> Duration {
        let now = system::now();
        let gained = now.as_nanos() * u128::from(self.fast_ppm) / 1_000_000;
        UP_FOR + now + Duration::from_nanos(u64::try_from(gained).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_leaves_the_bound() {
        let clock = SimClock::new(1_000_000, 0);
        let ahead = clock.now().to_duration() - (system::EPOCH + system::now());
        assert!(ahead <= OFFSET_MAX && ahead + Duration::from_millis(1) > OFFSET_MAX, "{ahead:?}");
    }
}
