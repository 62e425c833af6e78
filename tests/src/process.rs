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
        assert!(began.elapsed() < limit, "waited {limit:?} in vain until {what}");
        pause();
    }
}

/// The same for a condition that awaits; one that hangs is given up at the limit too.
pub async fn wait_until_async<F>(what: &str, limit: Duration, mut condition: F)
where
    F: AsyncFnMut() -> bool,
{
    let all_the_time = async {
        while !condition().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let waited = tokio::time::timeout(limit, all_the_time).await;
    assert!(waited.is_ok(), "waited {limit:?} in vain until {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        wait_until("it was looked at three times", Duration::from_secs(30), || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain until pigs fly")]
    async fn a_condition_that_hangs_is_given_up() {
        let hang = async || std::future::pending::<bool>().await;
        wait_until_async("pigs fly", Duration::from_millis(50), hang).await;
    }

    #[test]
    fn a_signal_reaches_its_process_and_says_when_there_is_none() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep can be run");
        assert!(signal(child.id(), "KILL"));
        child.wait().expect("it has ended");
        assert!(!signal(child.id(), "KILL"));
    }
}
