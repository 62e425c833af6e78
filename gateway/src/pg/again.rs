//! Statements outside a block that lost a race (`40001`) are run again before their client hears of
//! it.
//!
//! # Invariants
//! * Nothing of what such a statement gave was written out: it is taken back from the output.
//! * What ended with `40001` was not committed, and the next attempt is a transaction of its own id
//!   (P12). An unknown outcome (`40003`) is never tried again.

use std::time::Duration;

use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{Statement, StatementKind};

use super::connection::{Connection, Failure};
use super::extended::Bound;
use super::wire::{Mark, WireError};
use crate::runtime;

/// How long after a statement began it may be begun once more.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// A statement of the extended protocol that may have to be run again at `Sync`.
pub(super) struct Replay {
    /// The name of its portal.
    pub name: String,
    /// What its portal is made of.
    pub bound: Bound,
    /// The output before it.
    pub before: Mark,
    /// The output after it: anything else that came since would be lost.
    pub after: Mark,
    /// Its attempts so far.
    pub attempts: Attempts,
}

/// The attempts of one statement so far.
#[derive(Debug)]
pub(super) struct Attempts {
    since: Duration,
    patience: Duration,
    count: u32,
}

impl Attempts {
    /// The first begins now, by monotonic time; `limit` is how long the statement may take.
    pub(super) fn begin(now: Duration, limit: Option<Duration>) -> Self {
        let patience = limit.map_or(PATIENCE, |limit| limit.min(PATIENCE));
        Self { since: now, patience, count: 0 }
    }

    /// Whether an error may be answered by another attempt.
    pub(super) fn left(&self, error: &SqlError, now: Duration) -> bool {
        let states = [SqlState::SERIALIZATION_FAILURE, SqlState::DEADLOCK_DETECTED];
        states.contains(&error.sqlstate) && now.saturating_sub(self.since) < self.patience
    }

    /// How long to pause, by chance, so that those who met do not meet again.
    fn pause(&mut self) -> Duration {
        let longest = Duration::from_millis(1 << self.count.min(10)).min(PAUSE_MAX);
        self.count += 1;
        let pause = runtime::random_u128() % longest.as_micros().max(1);
        Duration::from_micros(u64::try_from(pause).unwrap_or(0))
    }
}

impl Connection {
    /// The attempts of a statement that begins now.
    pub(super) fn attempts(&self) -> Attempts {
        Attempts::begin(self.session.monotonic(), self.session.statement_timeout())
    }

    /// Whether a statement that comes now is a transaction of its own that may be tried again.
    pub(super) fn may_repeat(&self, kind: &StatementKind) -> bool {
        self.is_plain(kind) && self.may_repeat_now()
    }

    /// Whether a statement begins and ends no transaction. What was prepared by the protocol may be
    /// a `COMMIT`, too, and then an `EXECUTE` of it is.
    fn is_plain(&self, kind: &StatementKind) -> bool {
        match kind {
            StatementKind::Plan => true,
            StatementKind::Execute { name, .. } => {
                let named = self.extended.statement(name);
                named.is_some_and(|named| matches!(named.kind(), StatementKind::Plan))
            }
            _ => false,
        }
    }

    /// The same of all statements of a text.
    pub(super) fn may_repeat_all(&self, all: &[Statement]) -> bool {
        let plain = |statement: &Statement| match &statement.kind {
            // By itself it is tried again where it meets another one.
            StatementKind::Ddl(_) => all.len() > 1,
            kind => self.is_plain(kind),
        };
        !all.is_empty() && all.iter().all(plain) && self.may_repeat_now()
    }

    fn may_repeat_now(&self) -> bool {
        // Another attempt would go by the settings from before.
        self.session.is_idle() && !self.session.has_set() && self.session.repeats_statements()
    }

    /// After an error: `Ok` if the statement shall be run once more, its output taken back.
    pub(super) async fn once_more(
        &mut self,
        failure: Failure,
        before: Mark,
        attempts: &mut Attempts,
    ) -> Result<(), Failure> {
        let now = self.session.monotonic();
        match &failure {
            Failure::Sql(error) if attempts.left(error, now) && self.wire.back_to(before) => {}
            _ => return Err(failure),
        }
        self.held = None;
        self.session.fail();
        self.session.repeat_with_locks();
        self.keeps_deadline = true;
        self.pause(attempts).await
    }

    /// Before another attempt, which is not made for a client that has cancelled or left.
    pub(super) async fn pause(&mut self, attempts: &mut Attempts) -> Result<(), Failure> {
        let cancelled = self.cancelled.clone();
        tokio::select! {
            biased;
            () = cancelled.notified() => return Err(self.why_cancelled().into()),
            () = runtime::pause(attempts.pause()) => {}
        }
        match self.wire.is_gone() {
            true => Err(WireError::Closed.into()),
            false => Ok(()),
        }
    }

    /// A text that is a transaction of its own. With several statements it locks what it changes
    /// from the first.
    pub(super) async fn simple_repeatable(&mut self, all: &[Statement]) -> Result<(), Failure> {
        let (before, mut attempts) = (self.wire.mark(), self.attempts());
        loop {
            self.session.set_can_repeat(all.len() == 1);
            match self.simple_run(all.to_vec()).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.once_more(failure, before, &mut attempts).await?,
            }
        }
    }

    /// Runs a portal as often as it takes, and remembers it for `Sync`.
    pub(super) async fn execute_repeatable(
        &mut self,
        name: String,
        bound: Bound,
    ) -> Result<(), Failure> {
        let (before, mut attempts) = (self.wire.mark(), self.attempts());
        self.execute_until_done(&name, &bound, before, &mut attempts).await?;
        let after = self.wire.mark();
        self.replay = Some(Replay { name, bound, before, after, attempts });
        Ok(())
    }

    /// Runs a portal that is in the map, then anew as often as it fails for a race.
    async fn execute_until_done(
        &mut self,
        name: &str,
        bound: &Bound,
        before: Mark,
        attempts: &mut Attempts,
    ) -> Result<(), Failure> {
        self.session.set_can_repeat(true);
        while let Err(failure) = self.execute_portal(name.to_owned(), usize::MAX).await {
            self.once_more(failure, before, attempts).await?;
            self.put_fresh(name, bound);
        }
        Ok(())
    }

    fn put_fresh(&mut self, name: &str, bound: &Bound) {
        self.extended.put_portal(name.to_owned(), bound.portal());
    }

    /// Ends the implicit transaction; if it lost a race and is of one statement, that is run again.
    pub(super) async fn end_repeatable(&mut self) -> Result<(), Failure> {
        let mut replay = self.replay.take().filter(|replay| replay.after == self.wire.mark());
        while let Err(failure) = self.end_implicit().await {
            let Some(Replay { name, bound, before, attempts, .. }) = &mut replay else {
                return Err(failure);
            };
            self.once_more(failure, *before, attempts).await?;
            self.put_fresh(name, bound);
            self.execute_until_done(name, bound, *before, attempts).await?;
        }
        Ok(())
    }
}
