//! The one place of this crate that touches real time, spawns tasks and draws without a seed.
//!
//! A benchmark measures the outside world, so unlike the database it needs the real clock.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark client measures real time, runs its terminals as tasks, and tells runs \
              with one seed apart"
)]

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for the timestamps TPC-C stores.
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A number that no other run has, whatever its seed.
pub fn drawn_once() -> u64 {
    rand::random()
}

/// Runs a task beside the caller.
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Waits: think time, the pause before a retry, the end of the run.
pub async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Waits until a moment of the monotonic clock.
pub async fn pause_until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}
