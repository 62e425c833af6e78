//! Mistakes to be found by the simulator, so that we know it can find any. They exist only with the
//! feature `mistakes`, which nothing but the `tests` crate asks for: not in a release.

#[cfg(not(feature = "mistakes"))]
use std::time::Duration;

#[cfg(feature = "mistakes")]
mod switches {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// A mistake in leases.
    #[derive(Debug, Default)]
    pub struct Switch(AtomicBool);

    impl Switch {
        /// It is made from now on, by every node of the process.
        pub fn switch_on(&self) {
            self.0.store(true, Ordering::SeqCst);
        }

        fn is_on(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// New leaders do not wait the old lease out (rule L2).
    pub static LEADER_WITHOUT_WAIT: Switch = Switch(AtomicBool::new(false));
    /// Leases outlast elections (rule L1).
    pub static LEASE_TOO_LONG: Switch = Switch(AtomicBool::new(false));

    pub(crate) fn leader_without_wait() -> bool {
        LEADER_WITHOUT_WAIT.is_on()
    }

    pub(crate) fn lease_excess() -> Duration {
        Duration::from_secs(if LEASE_TOO_LONG.is_on() { 3 } else { 0 })
    }
}

#[cfg(feature = "mistakes")]
pub use switches::{LEADER_WITHOUT_WAIT, LEASE_TOO_LONG, Switch};
#[cfg(feature = "mistakes")]
pub(crate) use switches::{leader_without_wait, lease_excess};

/// Leaders wait.
#[cfg(not(feature = "mistakes"))]
pub(crate) fn leader_without_wait() -> bool {
    false
}

/// Leases are as long as they may be.
#[cfg(not(feature = "mistakes"))]
pub(crate) fn lease_excess() -> Duration {
    Duration::ZERO
}
