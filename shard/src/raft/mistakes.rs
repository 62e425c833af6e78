//! Mistakes to be found by the simulator, so that we know it can find any. They exist only with the
//! feature `mistakes`, which nothing but the `tests` crate asks for: not in a release.

#[cfg(feature = "mistakes")]
mod switches {
    use std::sync::atomic::{AtomicBool, Ordering};

    static LEADER_WITHOUT_WAIT: AtomicBool = AtomicBool::new(false);

    /// From now on new leaders of this process do not wait the old lease out (rule L2).
    pub fn make_leaders_hasty() {
        LEADER_WITHOUT_WAIT.store(true, Ordering::SeqCst);
    }

    pub(crate) fn leader_without_wait() -> bool {
        LEADER_WITHOUT_WAIT.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "mistakes")]
pub(crate) use switches::leader_without_wait;
#[cfg(feature = "mistakes")]
pub use switches::make_leaders_hasty;

/// Leaders wait.
#[cfg(not(feature = "mistakes"))]
pub(crate) fn leader_without_wait() -> bool {
    false
}
