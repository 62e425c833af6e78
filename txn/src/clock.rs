//! The hybrid logical clock (rules T1–T3): [`Hlc`] is pure, [`NodeClock`] joins it with a
//! physical clock for the threads of a node, [`ManualClock`] is a physical clock for tests.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_proto::{Timestamp, pb};

/// Where a node's time comes from. A simulator gives each node its own, with skew.
pub trait PhysicalClock: Send + Sync + Debug {
    /// Wall-clock time in NTP64 format. It may jump.
    fn now(&self) -> Timestamp;
    /// Time that only goes on, also while the machine sleeps (`CLOCK_BOOTTIME`).
    fn monotonic(&self) -> Duration;
}

/// Why a remote reading was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// Another node's clock is further ahead of ours than clocks may be apart.
    #[error("a clock reading {ahead:?} ahead of this node's was refused (limit {limit:?})")]
    TooFarAhead {
        /// By how much.
        ahead: Duration,
        /// The limit it broke.
        limit: Duration,
    },
}

impl ClockError {
    /// The error as it crosses nodes.
    pub fn to_range_error(self) -> pb::RangeError {
        let Self::TooFarAhead { ahead, .. } = self;
        let offset_us = i64::try_from(ahead.as_micros()).unwrap_or(i64::MAX);
        let kind = pb::range_error::Kind::ClockSkew(pb::ClockSkew { offset_us });
        pb::RangeError::new(kind, self.to_string())
    }
}

/// What a node holds of its own clock, having compared it with those of the others (rule T3).
/// `ahead_us`: by how much it is ahead of them, in microseconds, if they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// There was nobody to compare it with yet.
    #[default]
    Unknown,
    /// Most others agree with it.
    Agrees,
    /// It is close to the limit: the node hands its leads over, all else goes on.
    Apart {
        /// By how much it is ahead.
        ahead_us: Option<i64>,
    },
    /// Most others do not take its readings, or it not theirs: the node neither leads nor answers.
    Off {
        /// By how much it is ahead.
        ahead_us: Option<i64>,
    },
}

impl Standing {
    /// Whether the node may lead.
    pub fn leads(self) -> bool {
        matches!(self, Self::Unknown | Self::Agrees)
    }

    /// By how much its clock is ahead of the others', in microseconds, if it is out of bounds.
    pub fn ahead_us(self) -> Option<i64> {
        match self {
            Self::Unknown | Self::Agrees => None,
            Self::Apart { ahead_us } | Self::Off { ahead_us } => ahead_us,
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("not compared"),
            Self::Agrees => f.write_str("in agreement"),
            Self::Apart { ahead_us } | Self::Off { ahead_us } => match ahead_us {
                Some(us) => write!(f, "off by {:+} ms", us / 1000),
                None => f.write_str("off"),
            },
        }
    }
}

/// A hybrid logical clock. Physical time is an argument (rule T2).
///
/// # Invariants
/// * Each reading is above every reading given out or taken over before.
/// * No reading taken over was further ahead of physical time than the limit.
#[derive(Debug, Clone)]
pub struct Hlc {
    last: Timestamp,
}

impl Hlc {
    /// A clock whose readings are all above `floor`: what was written down before a restart
    /// (rule T3), or [`Timestamp::ZERO`].
    pub fn new(floor: Timestamp) -> Self {
        Self { last: floor }
    }

    /// The next reading.
    pub fn now(&mut self, physical: Timestamp) -> Timestamp {
        let reading = physical.max(self.last.next());
        assert!(
            reading > self.last,
            "each reading is above every reading given out or taken over before"
        );
        self.last = reading;
        reading
    }

    /// Takes a reading of another node's clock over: later readings are above it.
    ///
    /// # Errors
    /// [`ClockError::TooFarAhead`]; the clock stays as it was.
    pub fn observe(
        &mut self,
        remote: Timestamp,
        physical: Timestamp,
        max_offset: Duration,
    ) -> Result<(), ClockError> {
        if remote > physical.bound_after(max_offset) {
            return Err(ClockError::TooFarAhead {
                ahead: remote.to_duration().saturating_sub(physical.to_duration()),
                limit: max_offset,
            });
        }
        self.last = self.last.max(remote);
        Ok(())
    }

    /// The last reading given out or taken over.
    pub fn last(&self) -> Timestamp {
        self.last
    }
}

/// A node's clock, shared by its threads.
#[derive(Debug)]
pub struct NodeClock {
    hlc: Mutex<Hlc>,
    floor: Timestamp,
    physical: Arc<dyn PhysicalClock>,
    max_offset: Duration,
    standing: Mutex<Standing>,
    refusals: AtomicU64,
    times_off: AtomicU64,
    /// What it has given out is further ahead of the physical clock than any reading may be.
    ahead: AtomicBool,
}

impl NodeClock {
    /// A clock above `floor` (rule T3: the bound written down before a restart).
    pub fn new(physical: Arc<dyn PhysicalClock>, floor: Timestamp, max_offset: Duration) -> Self {
        Self {
            hlc: Mutex::new(Hlc::new(floor)),
            floor,
            physical,
            max_offset,
            standing: Mutex::default(),
            refusals: AtomicU64::new(0),
            times_off: AtomicU64::new(0),
            ahead: AtomicBool::new(false),
        }
    }

    fn hlc(&self) -> MutexGuard<'_, Hlc> {
        self.hlc.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The next reading of the hybrid clock.
    pub fn now(&self) -> Timestamp {
        let mut hlc = self.hlc();
        let physical = self.physical.now();
        let reading = hlc.now(physical);
        self.compare(reading, physical);
        reading
    }

    /// A physical clock that is put back has been ahead: that is seen at the next reading, whether
    /// it was compared with others meanwhile or not.
    fn compare(&self, reading: Timestamp, physical: Timestamp) {
        let ahead = reading > physical.bound_after(self.max_offset);
        if ahead && !self.ahead.load(Ordering::Relaxed) {
            self.times_off.fetch_add(1, Ordering::SeqCst);
        }
        if ahead != self.ahead.load(Ordering::Relaxed) {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
    }

    /// Takes over a reading that came with a message; 0 (none) changes nothing.
    ///
    /// # Errors
    /// [`ClockError::TooFarAhead`]: the message must be refused (rule T3).
    pub fn observe(&self, remote: Timestamp) -> Result<(), ClockError> {
        let observed = self.hlc().observe(remote, self.physical.now(), self.max_offset);
        if observed.is_err() {
            self.note_refusal();
        }
        observed
    }

    /// Another node refused a reading of this clock.
    pub fn note_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a reading of this clock was refused, or it refused another's: one of the two is
    /// off, and it is worth while to compare it again.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// What comparing it with the other nodes' clocks came to last.
    pub fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// It was compared with the other nodes' clocks.
    pub fn set_standing(&self, standing: Standing) {
        let mut known = self.standing.lock().unwrap_or_else(|e| e.into_inner());
        let off = |standing: &Standing| matches!(standing, Standing::Off { .. });
        if off(&standing) && !off(&known) {
            self.times_off.fetch_add(1, Ordering::SeqCst);
        }
        *known = standing;
    }

    /// How often it was found to be off: by others' clocks, or because it was put back further than
    /// the bound. What was read by a clock that was off then, perhaps of a
    /// time that had not come yet, goes together with nothing that is read later.
    pub fn times_off(&self) -> u64 {
        self.times_off.load(Ordering::SeqCst)
    }

    /// The last reading given out or taken over.
    pub fn last(&self) -> Timestamp {
        self.hlc().last()
    }

    /// The physical clock's reading (commit wait, rules T4 and L3).
    pub fn physical(&self) -> Timestamp {
        self.physical.now()
    }

    /// Time that only goes on.
    pub fn monotonic(&self) -> Duration {
        self.physical.monotonic()
    }

    /// How far apart clocks may be.
    pub fn max_offset(&self) -> Duration {
        self.max_offset
    }

    /// How long until physical time has passed `at`: 0 when it has (rule T4).
    pub fn wait_until_passed(&self, at: Timestamp) -> Duration {
        let now = self.physical.now();
        if now > at {
            return Duration::ZERO;
        }
        at.next().to_duration().saturating_sub(now.to_duration()) + Duration::from_nanos(1)
    }

    /// How long a restarted node must wait before it serves: until physical time has passed the
    /// bound of its earlier life (rule T3).
    pub fn wait_after_restart(&self) -> Duration {
        if self.floor.is_zero() {
            return Duration::ZERO;
        }
        self.wait_until_passed(self.floor)
    }
}

/// A physical clock that moves when told to.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    monotonic_nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `wall`, its monotonic time at zero.
    pub fn new(wall: Timestamp) -> Self {
        Self { wall: AtomicU64::new(wall.0), monotonic_nanos: AtomicU64::new(0) }
    }

    /// Lets both times go on.
    pub fn advance(&self, by: Duration) {
        let span = Timestamp::from_duration(by).0;
        self.wall.fetch_add(span, Ordering::SeqCst);
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the wall clock alone: a jump.
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall.store(wall.0, Ordering::SeqCst);
    }
}

impl PhysicalClock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_CLOCK_OFFSET;
    use proptest::prelude::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_millis(millis))
    }

    proptest! {
        /// T1/T2: readings rise whatever the physical clock and the messages do.
        #[test]
        fn readings_rise_whatever_happens(
            steps in proptest::collection::vec((0u64..10_000, any::<bool>()), 1..200)
        ) {
            let mut hlc = Hlc::new(at(3000));
            let mut last = hlc.last();
            for (millis, message) in steps {
                if message {
                    let _ = hlc.observe(at(millis), at(5000), MAX_CLOCK_OFFSET);
                    prop_assert!(hlc.last() >= last);
                    prop_assert!(hlc.last() <= at(10_000));
                } else {
                    let now = hlc.now(at(millis));
                    prop_assert!(now > last && now >= at(millis));
                }
                last = hlc.last();
            }
        }
    }

    /// T3: the limit itself is allowed, one above it is not and leaves the clock alone.
    #[test]
    fn message_beyond_the_limit_is_refused() {
        let mut hlc = Hlc::new(Timestamp::ZERO);
        let limit = at(1000).bound_after(MAX_CLOCK_OFFSET);
        assert_eq!(hlc.observe(limit, at(1000), MAX_CLOCK_OFFSET), Ok(()));
        let before = hlc.last();
        assert!(hlc.observe(limit.next(), at(1000), MAX_CLOCK_OFFSET).is_err());
        assert_eq!(hlc.last(), before);
    }

    /// T3: a restarted node reads above what it wrote down, and knows how long to wait.
    #[test]
    fn restart_serves_only_above_the_bound() {
        let physical = Arc::new(ManualClock::new(at(1000)));
        let clock = NodeClock::new(physical.clone(), at(4000), MAX_CLOCK_OFFSET);
        assert!(clock.now() > at(4000));
        let wait = clock.wait_after_restart();
        assert!(wait > Duration::from_millis(2999) && wait < Duration::from_millis(3001));
        physical.advance(wait);
        assert_eq!(clock.wait_after_restart(), Duration::ZERO);
        assert!(clock.physical() > at(4000));
    }

    #[test]
    fn refusals_are_counted() {
        let clock =
            NodeClock::new(Arc::new(ManualClock::new(at(1000))), Timestamp::ZERO, MAX_CLOCK_OFFSET);
        assert_eq!(clock.observe(at(1100)), Ok(()));
        assert_eq!(clock.refusals(), 0);
        assert!(clock.observe(at(2000)).is_err());
        assert_eq!(clock.refusals(), 1);
    }

    #[test]
    fn skew_crosses_nodes_with_its_size() {
        let error =
            ClockError::TooFarAhead { ahead: Duration::from_millis(400), limit: MAX_CLOCK_OFFSET };
        let kind = error.to_range_error().kind;
        assert_eq!(
            kind,
            Some(pb::range_error::Kind::ClockSkew(pb::ClockSkew { offset_us: 400_000 }))
        );
    }
}
