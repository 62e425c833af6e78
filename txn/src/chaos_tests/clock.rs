//! Clocks of the small world.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use quorate_proto::Timestamp;

use super::Rng;
use crate::clock::Hlc;

/// The clock of a node: ahead of true time by less than clocks may be apart.
struct SkewedClock {
    hlc: Hlc,
    ahead: Duration,
}

#[derive(Clone)]
pub(super) struct SharedClock(Rc<RefCell<SkewedClock>>);

/// Nothing is refused here: skews are within the limit by construction.
pub(super) const ANY_OFFSET: Duration = Duration::from_secs(3600);

impl SharedClock {
    pub fn new(rng: &mut Rng) -> Self {
        let ahead = Duration::from_millis(rng.below(240) as u64);
        let clock = SkewedClock { hlc: Hlc::new(Timestamp::ZERO), ahead };
        Self(Rc::new(RefCell::new(clock)))
    }

    pub fn physical(&self, now: Duration) -> Timestamp {
        Timestamp::from_duration(now + self.0.borrow().ahead)
    }

    pub fn now(&self, now: Duration) -> Timestamp {
        let physical = self.physical(now);
        self.0.borrow_mut().hlc.now(physical)
    }

    pub fn observe(&self, remote: Timestamp, now: Duration) {
        let physical = self.physical(now);
        let observed = self.0.borrow_mut().hlc.observe(remote, physical, ANY_OFFSET);
        observed.expect("skews are within the limit");
    }
}
