//! How the sessions of a node end when it is told to stop: those without an open transaction first,
//! the others after it, and when that takes too long, in the middle of it. Whoever is in the middle
//! of a commit hears how it ended.

use std::future::Future;
use std::time::Duration;

use quorate_txn::config::{ABORT_RETRY_GRACE, COMMIT_RETRY_DEADLINE};
use tokio::sync::watch;

use crate::{Gateway, runtime};

/// How long open transactions may go on,
const TRANSACTIONS_GRACE: Duration = Duration::from_secs(3);
/// how long it may take until those who are cut off, or have committed, have been told,
const STATEMENTS_GRACE: Duration = Duration::from_secs(2);
/// how long commits may take: no coordinator takes longer to answer,
const COMMITS_GRACE: Duration = COMMIT_RETRY_DEADLINE.saturating_add(ABORT_RETRY_GRACE);
/// and how long may be done what they leave to be done.
const LEFT_OVER_GRACE: Duration = Duration::from_secs(1);

/// What sessions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Serving,
    /// Each ends when it waits for its client and has no open transaction; nobody is let in.
    Draining,
    /// Each ends as soon as it is not in the middle of a commit.
    Ending,
    /// They are dropped.
    Abandoned,
}

/// Tells all sessions of a node to end.
#[derive(Debug)]
pub struct Stop(watch::Sender<Stage>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::channel(Stage::Serving).0)
    }
}

impl Stop {
    /// For a session, to hear of it.
    pub(super) fn stopping(&self) -> Stopping {
        Stopping(self.0.subscribe())
    }

    /// Whether the node stops.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() >= Stage::Draining
    }

    /// The stages only go up.
    fn reach(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let before = std::mem::replace(now, stage.max(*now));
            before != *now
        });
    }
}

/// What a session hears of it.
#[derive(Debug, Clone)]
pub(super) struct Stopping(watch::Receiver<Stage>);

impl Stopping {
    /// Returns when this stage is reached.
    pub async fn reached(&mut self, stage: Stage) {
        if self.0.wait_for(|now| *now >= stage).await.is_err() {
            // Nobody can say so any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether it is reached.
    pub fn has_reached(&self, stage: Stage) -> bool {
        *self.0.borrow() >= stage
    }
}

impl Gateway {
    /// Ends all sessions in bounded time, and finishes what they leave, so that nobody elsewhere
    /// waits for it: verdicts are written, locks resolved and given up. `sessions` is
    /// [`super::serve`].
    pub async fn end_sessions(&self, sessions: impl Future<Output = ()>) {
        let mut sessions = std::pin::pin!(sessions);
        self.stop.reach(Stage::Draining);
        let mut ended = runtime::within(TRANSACTIONS_GRACE, &mut sessions).await;
        if ended.is_none() {
            self.stop.reach(Stage::Ending);
            ended = runtime::within(STATEMENTS_GRACE, &mut sessions).await;
        }
        if ended.is_none() {
            runtime::within(COMMITS_GRACE, self.dist().committed()).await;
            ended = runtime::within(STATEMENTS_GRACE, &mut sessions).await;
        }
        if ended.is_none() {
            self.stop.reach(Stage::Abandoned);
            ended = runtime::within(STATEMENTS_GRACE, &mut sessions).await;
        }
        let settled = runtime::within(LEFT_OVER_GRACE, self.dist().settled()).await;
        if ended.is_none() || settled.is_none() {
            tracing::warn!("some transactions are left for others to finish");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_only_go_up() {
        let stop = Stop::default();
        let session = stop.stopping();
        assert!(!stop.has_begun() && !session.has_reached(Stage::Draining));
        stop.reach(Stage::Ending);
        stop.reach(Stage::Draining);
        assert!(stop.has_begun() && session.has_reached(Stage::Ending));
        assert!(!session.has_reached(Stage::Abandoned));
    }
}
