//! How the sessions of a node end when it is told to stop: those without an open transaction at
//! once, the others after it, and when that takes too long, in the middle of it. A commit is never
//! cut off.

use tokio::sync::watch;

/// What sessions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Each ends after its transaction, and there are no new ones.
    Draining,
    /// Each ends now.
    Ending,
}

/// Tells all sessions of a node to end.
#[derive(Debug)]
pub struct Stop(watch::Sender<Stage>);

impl Stop {
    /// Nobody is told anything yet.
    pub fn pair() -> (Self, Stopping) {
        let (tell, told) = watch::channel(Stage::Serving);
        (Self(tell), Stopping(told))
    }

    /// Sessions end after their transactions.
    pub fn drain(&self) {
        self.0.send_if_modified(|stage| {
            let serving = *stage == Stage::Serving;
            *stage = (*stage).max(Stage::Draining);
            serving
        });
    }

    /// Sessions end now.
    pub fn end(&self) {
        self.0.send_replace(Stage::Ending);
    }
}

/// What a session hears of it.
#[derive(Debug, Clone)]
pub struct Stopping(watch::Receiver<Stage>);

impl Stopping {
    /// Returns when a session is to end, one with an open transaction or one without.
    pub async fn reached(&mut self, in_block: bool) {
        let when = if in_block { Stage::Ending } else { Stage::Draining };
        if self.0.wait_for(|stage| *stage >= when).await.is_err() {
            // Nobody can say so any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether all sessions are to end now.
    pub fn is_ending(&self) -> bool {
        *self.0.borrow() == Stage::Ending
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn an_open_transaction_is_ended_later_than_others() {
        let (stop, mut session) = Stop::pair();
        let mut hears = |in_block| session.reached(in_block).now_or_never().is_some();
        assert!(!hears(false) && !hears(true));
        stop.drain();
        assert!(hears(false) && !hears(true));
        stop.end();
        assert!(hears(false) && hears(true));
        stop.drain();
        assert!(hears(true), "it does not go back");
        assert!(session.is_ending());
    }
}
