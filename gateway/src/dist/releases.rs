//! Row locks that this gateway is giving up: `NOWAIT` and `SKIP LOCKED` must not meet those of a
//! transaction that has ended here.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Those that were begun and are not done.
#[derive(Debug, Default)]
pub struct Releases {
    state: Mutex<State>,
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    going_on: BTreeSet<u64>,
}

/// One that goes on until it is dropped.
#[derive(Debug)]
pub struct Release {
    all: Arc<Releases>,
    number: u64,
}

impl Releases {
    /// One begins.
    pub fn begin(self: &Arc<Self>) -> Release {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.going_on.insert(number);
        Release { all: self.clone(), number }
    }

    /// Returns when all that have begun by now are done.
    pub async fn done(&self) {
        let next = self.state.lock().next;
        loop {
            // Before the look: what is done between it and the wait must not be missed.
            let done = self.done.notified();
            if self.state.lock().going_on.first().is_none_or(|first| *first >= next) {
                return;
            }
            done.await;
        }
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.all.state.lock().going_on.remove(&self.number);
        self.all.done.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn each_waits_for_those_that_had_begun_and_no_others() {
        let releases = Arc::new(Releases::default());
        assert!(releases.done().now_or_never().is_some());
        let first = releases.begin();
        let mut early = Box::pin(releases.done());
        assert!((&mut early).now_or_never().is_none());
        let second = releases.begin();
        let mut late = Box::pin(releases.done());
        assert!((&mut late).now_or_never().is_none());
        drop(first);
        assert!((&mut early).now_or_never().is_some());
        assert!((&mut late).now_or_never().is_none());
        drop(second);
        assert!((&mut late).now_or_never().is_some());
    }
}
