//! Commits and recoveries: the driver of `quorate-txn`'s step machines.
//!
//! The machines decide; here their [`Action`]s are carried out and what comes of them is reported
//! as [`Input`]s. A machine is driven in place until it has its answer; what is left after that
//! (verdict, resolving of locks) goes on in a task of its own, because nobody waits for it.
//!
//! # Invariants
//! * Actions are carried out in order, requests of one step to one node in one call.
//! * A commit that was begun is driven to its end even if the client has gone; a node that stops
//!   waits for it (`Gateway::end_sessions`).
//! * What a commit holds is held until no copy of it can be admitted any more (rule P6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::pb::range_error::Kind;
use quorate_proto::{Timestamp, pb};
use quorate_txn::coordinator::{AbortReason, Coordinator, Outcome, Plan};
use quorate_txn::mistakes::Mistake;
use quorate_txn::recovery::{Leftover, Recovery};
use quorate_txn::state::{TxnMeta, Verdict};
use quorate_txn::step::{Action, CallId, Group, Input, TimerId};

use super::Dist;
use super::costs::add_micros;
use super::errors;
use super::intent::{Hold, Intent};
use super::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing};
use super::txn::READ_PATIENCE;
use crate::runtime;

/// How long a committer that may not wait looks on before it is refused.
const DECIDING_GRACE: Duration = Duration::from_millis(200);
/// Leftovers of dead coordinators that are finished at the same time.
const CLEAN_UPS_MAX: usize = 16;
/// Between two of its looks.
const DECIDING_PAUSE: Duration = Duration::from_millis(2);

/// Counters of commits.
#[derive(Debug, Default)]
pub struct CommitMetrics {
    /// Transactions told committed.
    pub committed: AtomicU64,
    /// Transactions told aborted.
    pub aborted: AtomicU64,
    /// Transactions told unknown.
    pub unknown: AtomicU64,
    /// Commits that waited for the physical clock (rule T4).
    pub clock_waits: AtomicU64,
    /// Consensus rounds that clients waited for: rounds of proposing requests before the answer.
    pub consensus_rounds: AtomicU64,
    /// Statements outside a block that were run again after `40001`.
    pub repeated: AtomicU64,
    /// Times that blocks were run again after `40001`.
    pub replayed: AtomicU64,
    /// Transactions of others that were finished here.
    pub recoveries: AtomicU64,
}

/// How a transaction was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Nothing was written.
    Nothing,
    /// One command at one range did it all.
    InOneRange,
    /// Otherwise.
    InRanges,
}

/// A step machine of `quorate-txn`.
trait Machine: Send + 'static {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Action>;
}

impl Machine for Coordinator {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        Coordinator::step(self, now, input)
    }
}

impl Machine for Recovery {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        Recovery::step(self, now, input)
    }
}

/// What a machine was driven to.
enum Reached {
    Answer(Outcome),
    Recovered(Option<Verdict>),
    Done,
}

/// A machine with what it waits for.
struct Driver<M> {
    dist: Arc<Dist>,
    machine: M,
    pending: FuturesUnordered<BoxFuture<'static, Vec<Input>>>,
    timers: BTreeMap<TimerId, Duration>,
    todo: Vec<Action>,
    /// Rounds of requests that somebody waits for, so far.
    calls: u64,
    /// Those with requests that must be replicated.
    rounds: u64,
    /// How often the node's clock had been off when what is committed was begun.
    times_off: Option<u64>,
}

impl<M: Machine> Driver<M> {
    fn new(dist: Arc<Dist>, mut machine: M) -> Self {
        let todo = machine.step(dist.clock().monotonic(), Input::Start);
        let (pending, timers) = (FuturesUnordered::new(), BTreeMap::new());
        Self { dist, machine, pending, timers, todo, calls: 0, rounds: 0, times_off: None }
    }

    /// Drives until there is something to tell.
    async fn run(&mut self) -> Reached {
        loop {
            if let Some(reached) = self.carry_out() {
                return reached;
            }
            let inputs = self.next_inputs().await;
            for input in inputs {
                let now = self.dist.clock().monotonic();
                self.todo.extend(self.machine.step(now, input));
            }
        }
    }

    /// Carries out what is to be done, up to the first action that tells somebody something.
    fn carry_out(&mut self) -> Option<Reached> {
        let mut sends = Vec::new();
        let mut reached = None;
        let mut actions = std::mem::take(&mut self.todo).into_iter();
        for action in actions.by_ref() {
            match action {
                Action::Send { call, key, body } => sends.push((call, Outgoing { key, body })),
                Action::SetTimer { timer, at } => {
                    self.timers.insert(timer, at);
                }
                Action::Route { call, keys, checks } => {
                    let dist = self.dist.clone();
                    self.pending.push(Box::pin(async move {
                        vec![Input::Routed(call, dist.groups(keys, checks).await)]
                    }));
                }
                Action::Clear { call, lock, wait } => {
                    let dist = self.dist.clone();
                    self.pending.push(Box::pin(async move {
                        vec![Input::Cleared(call, dist.clear_for_commit(&lock, wait).await)]
                    }));
                }
                Action::DropLater(record) => self.dist.drop_later(record),
                Action::Answer(outcome) => reached = Some(Reached::Answer(outcome)),
                Action::Recovered(verdict) => reached = Some(Reached::Recovered(verdict)),
                Action::Done => reached = Some(Reached::Done),
            }
            if reached.is_some() {
                break;
            }
        }
        self.todo = actions.collect();
        self.send(sends);
        reached
    }

    /// Requests of one step: those for one node travel together, each node answers by itself.
    fn send(&mut self, sends: Vec<(CallId, Outgoing)>) {
        if sends.is_empty() {
            return;
        }
        let sends = self.refuse_if_outlived(sends);
        if sends.is_empty() {
            return;
        }
        self.calls += u64::from(sends.iter().any(|(call, _)| *call != CallId::NOBODYS));
        self.rounds += u64::from(sends.iter().any(|(_, request)| replicates(&request.body)));
        let sends = self.hint_in_passing(sends);
        let dist = self.dist.clone();
        let (calls, requests): (Vec<CallId>, Vec<Outgoing>) = sends.into_iter().unzip();
        self.pending.push(Box::pin(async move {
            let mut inputs = Vec::with_capacity(calls.len());
            let answers = dist.sender().round(requests, ATTEMPT_TIMEOUT).await;
            for (call, answer) in calls.into_iter().zip(answers) {
                inputs.push(match answer {
                    Ok(body) => Input::Reply(call, body),
                    Err(Failure::Range(error)) => {
                        Input::Reply(call, pb::range_response::Body::Error(error))
                    }
                    Err(Failure::Lost { .. }) => Input::Failed { call },
                });
            }
            inputs
        }));
    }

    /// Rule P10: hints to nodes that are called anyway go with the rest. The others are sent by
    /// themselves, for nothing waits for them, and only where the way is known.
    fn hint_in_passing(&mut self, sends: Vec<(CallId, Outgoing)>) -> Vec<(CallId, Outgoing)> {
        if sends.iter().all(|(call, _)| *call != CallId::NOBODYS) {
            return sends;
        }
        let node_of = |request: &Outgoing| self.dist.sender().known_leader(&request.key);
        let (hints, sends): (Vec<_>, Vec<_>) =
            sends.into_iter().partition(|(call, _)| *call == CallId::NOBODYS);
        let called: Vec<_> = sends.iter().map(|(_, request)| node_of(request)).collect();
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        for (call, hint) in hints {
            match node_of(&hint) {
                Some(node) if called.contains(&Some(node)) => together.push((call, hint)),
                Some(_) => alone.push(hint),
                None => {}
            }
        }
        if !alone.is_empty() {
            let dist = self.dist.clone();
            self.pending.push(Box::pin(async move {
                // Whether they arrive is nobody's business.
                let _ = dist.sender().round(alone, ATTEMPT_TIMEOUT).await;
                Vec::new()
            }));
        }
        // Before what takes a round of consensus.
        together.extend(sends);
        together
    }

    /// Rule T3: what goes by a time that the node's clock had while it was off is sent no more;
    /// the coordinator hears so and finds out what became of what was sent before (rule P8).
    fn refuse_if_outlived(&mut self, sends: Vec<(CallId, Outgoing)>) -> Vec<(CallId, Outgoing)> {
        use pb::range_request::Body;
        let Some(begun) = self.times_off else { return sends };
        if self.dist.clock().times_off() == begun {
            return sends;
        }
        let goes_by_time = |(_, request): &(CallId, Outgoing)| {
            matches!(request.body, Body::Prepare(_) | Body::Commit(_) | Body::Check(_))
        };
        let (refused, sends): (Vec<_>, Vec<_>) = sends.into_iter().partition(goes_by_time);
        let answer = |(call, _)| {
            let kind = Kind::ClockSkew(pb::ClockSkew::default());
            let error = pb::RangeError::new(kind, "this node's clock was off meanwhile");
            Input::Reply(call, pb::range_response::Body::Error(error))
        };
        let refused: Vec<Input> = refused.into_iter().map(answer).collect();
        if !refused.is_empty() {
            self.pending.push(Box::pin(async move { refused }));
        }
        sends
    }

    async fn next_inputs(&mut self) -> Vec<Input> {
        let due = self.timers.iter().map(|(timer, at)| (*at, *timer)).min();
        let now = self.dist.clock().monotonic();
        let Some((at, timer)) = due else {
            return self.pending.next().await.unwrap_or_default();
        };
        let answered = async {
            match self.pending.next().await {
                Some(inputs) => inputs,
                None => std::future::pending().await,
            }
        };
        match runtime::within(at.saturating_sub(now), answered).await {
            Some(inputs) => inputs,
            None => {
                self.timers.remove(&timer);
                vec![Input::Timer(timer)]
            }
        }
    }

    /// Nobody waits any more: what is left goes on in a task of its own. Mostly nothing is, and a
    /// task would only wake another thread.
    fn leave(self) {
        if !self.has_ended() {
            let left_over = self.dist.left_over.clone();
            runtime::spawn(left_over.track_future(self.finish()));
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.todo.first(), Some(Action::Done))
    }

    /// Drives what is left, for nobody in particular.
    async fn finish(mut self) {
        while !matches!(self.run().await, Reached::Done) {}
    }
}

/// A commit on its way. Dropped, it goes on by itself: nobody may be waiting any more.
struct Begun {
    driver: Option<Driver<Coordinator>>,
    hold: Option<Hold>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let hold = self.hold.take();
        if let Some(driver) = self.driver.take().filter(|driver| !driver.has_ended()) {
            let left_over = driver.dist.left_over.clone();
            runtime::spawn_if_running(left_over.track_future(async move {
                driver.finish().await;
                drop(hold);
            }));
        }
    }
}

/// Whether a range answers this only after a round of consensus.
fn replicates(body: &pb::range_request::Body) -> bool {
    use pb::range_request::Body;
    matches!(
        body,
        Body::Prepare(_)
            | Body::Commit(_)
            | Body::Verdict(_)
            | Body::Close(_)
            | Body::Resolve(_)
            | Body::DropRecord(_)
    )
}

impl Dist {
    /// Commits; returns when the client may be told.
    ///
    /// # Errors
    /// `40001`, `23505`, `53100`, … when nothing was committed; `40003` when that is not known.
    pub async fn commit(self: Arc<Self>, intent: Intent) -> Result<Committed, SqlError> {
        let _waited_for = self.commits_waited_for.token();
        let Intent { id, anchor, mut writes, checks, start, lock_owner, who, .. } = intent;
        let (counters, hold) = (intent.counters, intent.hold);
        if let Some(at) = writes.iter().position(|w| w.key == anchor) {
            writes.swap(0, at);
        }
        let commit_start = start.unwrap_or_else(|| self.clock().now());
        let txn = TxnMeta { id, anchor, commit_start };
        let machine =
            Coordinator::new(Plan { txn, writes, checks, lock_owner, who: who.map(Box::new) });
        let mut driver = Driver::new(self.clone(), machine);
        driver.times_off = Some(intent.times_off);
        let mut begun = Begun { driver: Some(driver), hold };
        let driver = begun.driver.as_mut().expect("it was just begun");
        let outcome = match driver.run().await {
            Reached::Answer(outcome) => outcome,
            // A coordinator answers before it is done; without an answer nothing is known.
            Reached::Recovered(_) | Reached::Done => Outcome::Unknown,
        };
        self.commits.consensus_rounds.fetch_add(driver.rounds, Ordering::Relaxed);
        counters.consensus_rounds.fetch_add(driver.rounds, Ordering::Relaxed);
        counters.rpc_rounds.fetch_add(driver.calls, Ordering::Relaxed);
        let one_range = driver.machine.in_one_range();
        if outcome != Outcome::Unknown {
            // Its verdict is final: whatever copy comes later meets it.
            begun.hold = None;
        }
        drop(begun);
        add_micros(&counters.clock_wait_us, self.told(outcome).await?);
        Ok(if one_range { Committed::InOneRange } else { Committed::InRanges })
    }

    /// How long was waited for the clock.
    async fn told(&self, outcome: Outcome) -> Result<Duration, SqlError> {
        match outcome {
            Outcome::Committed(ts) => {
                self.commits.committed.fetch_add(1, Ordering::Relaxed);
                Ok(self.commit_wait(ts).await)
            }
            Outcome::Aborted(reason) => {
                self.commits.aborted.fetch_add(1, Ordering::Relaxed);
                Err(self.aborted(&reason))
            }
            Outcome::Unknown => {
                self.commits.unknown.fetch_add(1, Ordering::Relaxed);
                Err(errors::unknown("no answer came in time from the ranges it wrote"))
            }
        }
    }

    /// Rule T4: nobody is told of a commit, or of a read that moved, before its timestamp has
    /// passed here. Answers how long that took.
    pub(super) async fn commit_wait(&self, ts: Timestamp) -> Duration {
        let wait = self.clock().wait_until_passed(ts);
        if !wait.is_zero() && !Mistake::CommitWaitSkipped.is_made() {
            self.commits.clock_waits.fetch_add(1, Ordering::Relaxed);
            runtime::pause(wait).await;
        }
        wait
    }

    fn aborted(&self, reason: &AbortReason) -> SqlError {
        match reason {
            AbortReason::Error(error) if matches!(error.kind, Some(Kind::ClockSkew(_))) => {
                match errors::check_own_clock(self.clock()) {
                    Ok(()) => errors::clock_was_off(),
                    Err(off) => off,
                }
            }
            AbortReason::Error(error) if matches!(error.kind, Some(Kind::TooOld(_))) => {
                // Nothing was committed; running it again gets a newer start.
                SqlError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    "the transaction is too old to commit",
                )
                .with_detail(error.message.clone())
                .with_hint("The transaction might succeed if retried.")
            }
            AbortReason::Error(error) => errors::of_range(self, error),
            AbortReason::Recovered => SqlError::new(
                SqlState::SERIALIZATION_FAILURE,
                "the transaction was aborted by another that waited for it too long",
            )
            .with_hint("The transaction might succeed if retried."),
            AbortReason::Deadline => SqlError::new(
                SqlState::SERIALIZATION_FAILURE,
                "the transaction could not be committed in time and was aborted",
            )
            .with_hint("The transaction might succeed if retried."),
        }
    }

    /// Keys and checks by range, for a machine; empty if the routes cannot be found now.
    async fn groups(&self, keys: Vec<bytes::Bytes>, checks: Vec<pb::ReadCheck>) -> Vec<Group> {
        let mut groups: BTreeMap<bytes::Bytes, Group> = BTreeMap::new();
        for key in keys {
            let Ok(route) = self.sender().route(&key).await else {
                return Vec::new();
            };
            let start = route.descriptor.map(|d| d.start).unwrap_or_default();
            groups.entry(start).or_default().keys.push(key);
        }
        let Ok(by_range) = self.group_checks(checks).await else {
            return Vec::new();
        };
        for (key, checks) in by_range {
            let Ok(route) = self.sender().route(&key).await else {
                return Vec::new();
            };
            let start = route.descriptor.map(|d| d.start).unwrap_or_default();
            groups.entry(start).or_default().checks.extend(checks);
        }
        groups.into_values().collect()
    }

    /// The verdict of a lock in the way, with the lock resolved; `None` while it is undecided.
    async fn verdict_of(self: &Arc<Self>, lock: &pb::Locked, wait: bool) -> Option<Verdict> {
        let txn = TxnMeta::from_pb(lock.txn.as_ref()?)?;
        let machine = Recovery::new(txn, lock.key.clone(), wait);
        let mut driver = Driver::new(self.clone(), machine);
        let verdict = match driver.run().await {
            Reached::Recovered(verdict) => verdict,
            Reached::Answer(_) | Reached::Done => None,
        };
        if verdict.is_some() {
            self.commits.recoveries.fetch_add(1, Ordering::Relaxed);
        }
        driver.leave();
        verdict
    }

    /// Finishes what dead coordinators left in a range that is led here, some at a time.
    pub async fn clean_up(self: &Arc<Self>, leftovers: Vec<Leftover>) {
        let finish = |leftover: Leftover| Driver::new(self.clone(), leftover.recovery()).finish();
        futures::stream::iter(leftovers).for_each_concurrent(CLEAN_UPS_MAX, finish).await;
    }

    /// The same for a committer. One that may not wait (rule P13) still gives the other a moment:
    /// most locks it meets belong to a transaction whose client was told already and whose verdict
    /// is on its way. The moment is bounded, so a cycle ends by refusal all the same.
    async fn clear_for_commit(self: &Arc<Self>, lock: &pb::Locked, wait: bool) -> Option<Verdict> {
        let started = self.clock().monotonic();
        loop {
            let verdict = self.verdict_of(lock, wait).await;
            let waited = self.clock().monotonic() - started;
            if wait || verdict.is_some() || waited > DECIDING_GRACE {
                return verdict;
            }
            runtime::pause(DECIDING_PAUSE).await;
        }
    }

    /// Waits until a lock that a read met is decided and gone.
    pub(super) async fn clear_lock(self: &Arc<Self>, lock: &pb::Locked) -> Result<(), SqlError> {
        let started = self.clock().monotonic();
        while Box::pin(self.verdict_of(lock, true)).await.is_none() {
            // Nobody is asked then, and no time passes by itself.
            errors::check_own_clock(self.clock())?;
            runtime::pause(DECIDING_PAUSE).await;
            if self.clock().monotonic() - started > READ_PATIENCE {
                return Err(errors::conflict(self, &lock.key)
                    .with_detail("A transaction on this row stays undecided."));
            }
        }
        Ok(())
    }
}
