//! Signals and waiting, for the processes that tests start.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Sends a signal, by name without `SIG`, to one process; false if it is gone.
pub fn signal(pid: u32, name: &str) -> bool {
    Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Lets a moment pass between two looks at a condition.
pub fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}

/// Waits until the condition holds; panics, naming it, after the limit.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < limit,
            "waited {limit:?} in vain until {what}"
        );
        pause();
    }
}

/// The same for a condition that awaits.
pub async fn wait_until_async<F>(what: &str, limit: Duration, mut condition: F)
where
    F: AsyncFnMut() -> bool,
{
    let began = Instant::now();
    while !condition().await {
        assert!(
            began.elapsed() < limit,
            "waited {limit:?} in vain until {what}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
