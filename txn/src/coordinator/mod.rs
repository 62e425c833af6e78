//! Commits one transaction: a step machine that turns replies into requests until the client can
//! be told, and goes on until the locks are gone.
//!
//! *One range*: a commit, repeated under the same id until its verdict comes (P7). *Many ranges*:
//! parallel prepares, the anchor's with the staging record; when every key has its lock the
//! transaction is committed at the greatest `min_commit_ts`. The client is told, and so are, by
//! hints that nothing leans on, the leaders of its keys (P10). Then the verdict is replicated and
//! resolves the locks in the anchor's range, then the other locks are resolved, then the record may
//! be dropped whenever it suits. *Something left to check* (P9): the record is preparing, checks
//! follow, the verdict is replicated before the answer.
//!
//! # Invariants
//! * *Keys, values, start and anchor of the id never change* (P12): requests are made from one
//!   immutable plan. Once a prepare was sent, no one-range commit is.
//! * *What is told "unknown" is settled later*: the anchor is asked until it says the verdict, or
//!   that the floor has passed the id. Until then a copy may still be admitted (P6).
//! * *The client is told once.* "Committed" only when every key is known to hold its lock, or by a
//!   verdict read from the anchor; "aborted" only as P8 allows; else "unknown".
//! * *Once the decision to abort is taken, no prepare counts any more*: replies of earlier calls
//!   are forgotten, and the verdict that stands at the anchor is what is told.
//! * *No lock is resolved before the anchor answered with the verdict* (P4).
//! * *An undecided younger transaction is waited for, an older one never* (P13).
//! * *A hint tells the verdict* (P10): it is given only while nobody can have begun a recovery, for
//!   then every lock that was answered is the first of its key. After a recovery it may be a late
//!   copy, which counts for nothing: its minimum is not the verdict's.

mod finish;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb, pb::range_error::Kind};

use crate::config::{
    ABORT_RETRY_GRACE, COMMIT_RETRY_DEADLINE, FINISH_DEADLINE, HEARTBEAT_INTERVAL, HINT_TIME,
};
use crate::mistakes::Mistake;
use crate::state::{TxnMeta, Verdict};
use crate::step::{Action, CallId, Calls, Group, Input, Repeat, TimerId, repeat_after};

/// What is to be committed; never changes (P12).
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its id, its first written key, the gateway's clock now.
    pub txn: TxnMeta,
    /// At least one; each key once; the first is the anchor's.
    pub writes: Vec<pb::Write>,
    /// What was read and must not have changed (P9).
    pub checks: Vec<pb::ReadCheck>,
    /// Whose row locks are its own, if it may have any.
    pub lock_owner: Option<TxnId>,
    /// Who writes, for people.
    pub who: Option<Box<pb::LockOwner>>,
}

/// Why nothing was committed.
#[derive(Debug, Clone, PartialEq)]
pub enum AbortReason {
    /// A range said so.
    Error(Box<pb::RangeError>),
    /// Others took the coordinator for dead and aborted it.
    Recovered,
    /// It took too long.
    Deadline,
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All writes happened.
    Committed(Timestamp),
    /// None did, and none will under this id.
    Aborted(AbortReason),
    /// Neither is known (`40003`).
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(ts) => write!(f, "committed({ts})"),
            Self::Aborted(AbortReason::Error(error)) => write!(f, "aborted: {}", error.message),
            Self::Aborted(AbortReason::Recovered) => f.write_str("aborted by recovery"),
            Self::Aborted(AbortReason::Deadline) => f.write_str("aborted: it took too long"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Work {
    /// Everything, before it is known whether it is one range.
    Begin,
    Commit,
    Prepare(Vec<Bytes>),
    Check(Vec<pb::ReadCheck>),
    Verdict(Verdict),
    Resolve(Vec<Bytes>, Verdict),
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    OneRange,
    Preparing,
    Checking(Timestamp),
    Committing(Timestamp),
    Aborting(AbortReason),
    Finishing(Verdict),
    Done,
}

/// The machine. See the module for its invariants.
#[derive(Debug)]
pub struct Coordinator {
    plan: Plan,
    phase: Phase,
    calls: Calls<Work>,
    /// Prepares were sent: many-range for ever (P12).
    many: bool,
    answered: bool,
    /// The client was told that it is committed.
    acknowledged: bool,
    unlocked: BTreeSet<Bytes>,
    /// The keys that have their locks, as they lay in ranges when they got them.
    locked: Vec<Vec<Bytes>>,
    /// Keys in the anchor's range: resolved with the verdict, in one command.
    beside_anchor: Vec<Bytes>,
    /// They are.
    resolved_beside: bool,
    max_min_commit_ts: Timestamp,
    /// Staging prepares, one-range commits and verdicts of commit that may have arrived: without
    /// any, nobody can commit this id (P8).
    decisive: bool,
    /// Calls that wait for a lock to be cleared, the error they got, whether it may take long.
    clearing: BTreeMap<CallId, (pb::RangeError, bool)>,
    /// When the first prepare was sent.
    prepared_since: Duration,
    /// When a call was last grouped again without a pause.
    rerouted_at: Option<Duration>,
    deadline_passed: bool,
}

impl Coordinator {
    /// A machine for this plan.
    pub fn new(mut plan: Plan) -> Self {
        if Mistake::ReadsUnchecked.is_made() {
            plan.checks.clear();
        }
        assert!(
            plan.writes.first().is_some_and(|w| w.key == plan.txn.anchor),
            "the anchor is the first written key"
        );
        let unlocked = plan.writes.iter().map(|w| w.key.clone()).collect();
        Self {
            plan,
            phase: Phase::OneRange,
            calls: Calls::default(),
            many: false,
            answered: false,
            acknowledged: false,
            unlocked,
            locked: Vec::new(),
            beside_anchor: Vec::new(),
            resolved_beside: false,
            max_min_commit_ts: Timestamp::ZERO,
            decisive: false,
            clearing: BTreeMap::new(),
            prepared_since: Duration::ZERO,
            rerouted_at: None,
            deadline_passed: false,
        }
    }

    /// The transaction.
    pub fn txn(&self) -> &TxnMeta {
        &self.plan.txn
    }

    /// Whether everything was asked of one range, by one command.
    pub fn in_one_range(&self) -> bool {
        !self.many
    }

    /// Takes an input at monotonic time `now`; what is to be done next.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        if self.phase == Phase::Done {
            return out;
        }
        match input {
            Input::Start => self.start(now, &mut out),
            Input::Routed(call, groups) => self.routed(now, call, groups, &mut out),
            Input::Reply(call, body) => self.replied(now, call, body, &mut out),
            Input::Failed { call } if self.guesses(call) => {
                self.answer(Outcome::Aborted(AbortReason::Deadline), &mut out);
                self.done(&mut out);
            }
            Input::Failed { call } => out.extend(self.calls.pause(call, now)),
            Input::Timer(timer) => self.timer(now, timer, &mut out),
            Input::Cleared(call, verdict) => self.cleared(now, call, verdict, &mut out),
        }
        out
    }

    fn start(&mut self, now: Duration, out: &mut Vec<Action>) {
        let call = self.calls.add(Work::Begin);
        self.route(call, out);
        out.push(Action::SetTimer { timer: TimerId::Deadline, at: now + COMMIT_RETRY_DEADLINE });
    }

    fn routed(&mut self, now: Duration, call: CallId, groups: Vec<Group>, out: &mut Vec<Action>) {
        let Some(work) = self.calls.get(call).cloned() else {
            return;
        };
        if groups.is_empty() {
            if matches!(work, Work::Verdict(_)) {
                // The verdict does not wait until other keys are found.
                self.beside_anchor.clear();
            }
            out.extend(self.calls.pause(call, now));
            return;
        }
        match work {
            Work::Begin | Work::Commit if groups.len() == 1 => {
                self.calls.remove(call);
                self.add_and_send(Work::Commit, out);
            }
            Work::Begin | Work::Commit => {
                self.calls.remove(call);
                self.many = true;
                self.phase = Phase::Preparing;
                self.prepared_since = now;
                if Mistake::AnchorMoved.is_made() {
                    self.move_anchor(&groups);
                }
                out.push(Action::SetTimer {
                    timer: TimerId::Heartbeat,
                    at: now + HEARTBEAT_INTERVAL,
                });
                for group in groups.into_iter().filter(|g| !g.keys.is_empty()) {
                    self.add_and_send(Work::Prepare(group.keys), out);
                }
            }
            Work::Prepare(_) => {
                self.calls.remove(call);
                for group in groups.into_iter().filter(|g| !g.keys.is_empty()) {
                    self.add_and_send(Work::Prepare(group.keys), out);
                }
            }
            Work::Check(_) => {
                self.calls.remove(call);
                for group in groups.into_iter().filter(|g| !g.checks.is_empty()) {
                    self.add_and_send(Work::Check(group.checks), out);
                }
            }
            Work::Resolve(_, verdict) => {
                self.calls.remove(call);
                for group in groups.into_iter().filter(|g| !g.keys.is_empty()) {
                    self.add_and_send(Work::Resolve(group.keys, verdict), out);
                }
            }
            Work::Verdict(_) => {
                let anchor = &self.plan.txn.anchor;
                let group = groups.into_iter().find(|group| group.keys.contains(anchor));
                // It never grows: an answer may be to an earlier copy.
                let there: BTreeSet<Bytes> =
                    group.map(|group| group.keys).unwrap_or_default().into_iter().collect();
                self.beside_anchor.retain(|key| there.contains(key));
                self.send(call, out);
            }
        }
    }

    fn replied(
        &mut self,
        now: Duration,
        call: CallId,
        body: pb::range_response::Body,
        out: &mut Vec<Action>,
    ) {
        use pb::range_response::Body;
        let Some(work) = self.calls.get(call).cloned() else {
            return;
        };
        match (work, body) {
            (_, Body::Error(error)) => self.refused(now, call, error, out),
            (Work::Commit, Body::Commit(m)) if m.verdict.is_some() => {
                let verdict = m.verdict.as_ref().map_or(Verdict::Aborted, Verdict::from_pb);
                self.settled(now, verdict, out);
            }
            (Work::Prepare(keys), Body::Prepare(m)) => match m.outcome {
                Some(pb::prepare_response::Outcome::MinCommitTs(ts)) => {
                    self.calls.remove(call);
                    self.prepared(now, &keys, Timestamp(ts), out);
                }
                Some(pb::prepare_response::Outcome::Verdict(verdict)) => {
                    self.settled(now, Verdict::from_pb(&verdict), out);
                }
                None => out.extend(self.calls.pause(call, now)),
            },
            (Work::Check(_), Body::Check(_)) => {
                self.calls.remove(call);
                self.checked(out);
            }
            (Work::Verdict(_), Body::Verdict(m)) if m.verdict.is_some() => {
                let verdict = m.verdict.as_ref().map_or(Verdict::Aborted, Verdict::from_pb);
                self.resolved_beside |= m.resolved;
                self.settled(now, verdict, out);
            }
            (Work::Resolve(..), Body::Resolve(_)) => {
                self.calls.remove(call);
                self.resolved(out);
            }
            // An answer of another kind answers nothing.
            (_, _) => out.extend(self.calls.pause(call, now)),
        }
    }

    fn prepared(&mut self, now: Duration, keys: &[Bytes], min: Timestamp, out: &mut Vec<Action>) {
        assert!(self.phase == Phase::Preparing, "only while preparing does a prepare count");
        for key in keys {
            self.unlocked.remove(key);
        }
        if keys.contains(&self.plan.txn.anchor) {
            self.beside_anchor = keys.to_vec();
        }
        self.locked.push(keys.to_vec());
        self.max_min_commit_ts = self.max_min_commit_ts.max(min);
        if Mistake::VerdictGuessed.is_made() {
            self.hint(self.max_min_commit_ts, out);
        }
        if !self.unlocked.is_empty() {
            return;
        }
        let ts = self.max_min_commit_ts;
        if self.plan.checks.is_empty() {
            self.phase = Phase::Committing(ts);
            self.answer(Outcome::Committed(ts), out);
            if Mistake::ResolvedBeforeVerdict.is_made() {
                return self.settled(now, Verdict::Committed(ts), out);
            }
            // Should it never hear of the verdict, it must not look alive for ever.
            out.push(Action::SetTimer { timer: TimerId::GiveUp, at: now + FINISH_DEADLINE });
            self.add_and_send(Work::Verdict(Verdict::Committed(ts)), out);
            if now < self.prepared_since + HINT_TIME {
                self.hint(ts, out);
            }
        } else {
            self.phase = Phase::Checking(ts);
            let call = self.calls.add(Work::Check(self.plan.checks.clone()));
            self.route(call, out);
        }
    }

    fn checked(&mut self, out: &mut Vec<Action>) {
        let Phase::Checking(ts) = self.phase else {
            return;
        };
        if self.calls.is_empty() {
            self.phase = Phase::Committing(ts);
            self.add_and_send(Work::Verdict(Verdict::Committed(ts)), out);
        }
    }

    fn refused(
        &mut self,
        now: Duration,
        call: CallId,
        error: pb::RangeError,
        out: &mut Vec<Action>,
    ) {
        match repeat_after(&error) {
            Some(Repeat::Route) => return self.reroute(now, call, out),
            Some(Repeat::Pause) => {
                out.extend(self.calls.pause(call, now));
                return;
            }
            None => {}
        }
        match (self.calls.get(call), &error.kind) {
            (Some(Work::Commit | Work::Prepare(_)), Some(Kind::Locked(lock))) => {
                let wait = self.may_wait_for(lock);
                let lock = lock.clone();
                self.clearing.insert(call, (error, wait));
                out.push(Action::Clear { call, lock, wait });
            }
            (Some(Work::Commit), Some(Kind::Conflict(_))) if !self.many => {
                // P8: only one-range commits were sent, and an event after their start stays.
                let reason = AbortReason::Error(Box::new(error));
                self.answer(Outcome::Aborted(reason), out);
                self.done(out);
            }
            (Some(Work::Begin | Work::Commit | Work::Prepare(_) | Work::Check(_)), _) => {
                self.abort(AbortReason::Error(Box::new(error)), out);
            }
            // The verdict may have been dropped below the floor (P6).
            (Some(Work::Verdict(_)), Some(Kind::TooOld(_) | Kind::Invalid(_))) => {
                self.give_up(out);
            }
            (Some(Work::Verdict(_)), _) => out.extend(self.calls.pause(call, now)),
            // Others will finish; the outcome is settled.
            (Some(Work::Resolve(..)), _) => self.done(out),
            (None, _) => {}
        }
    }

    /// A lost answer to a one-range commit is taken for a refusal: a mistake (P8).
    fn guesses(&self, call: CallId) -> bool {
        let commits = matches!(self.calls.get(call), Some(Work::Commit));
        commits && !self.many && !self.answered && Mistake::AbortGuessed.is_made()
    }

    /// P13: the older waits for the younger.
    fn may_wait_for(&self, lock: &pb::Locked) -> bool {
        let holder = lock.txn.as_ref().and_then(TxnMeta::from_pb);
        holder.is_some_and(|holder| self.plan.txn.age() < holder.age())
    }

    fn cleared(
        &mut self,
        now: Duration,
        call: CallId,
        verdict: Option<Verdict>,
        out: &mut Vec<Action>,
    ) {
        let Some((error, wait)) = self.clearing.remove(&call) else {
            return;
        };
        // An older holder that is undecided is not waited for; a younger one is, at its leader.
        if verdict.is_some() || wait {
            out.extend(self.calls.pause(call, now));
        } else {
            self.abort(AbortReason::Error(Box::new(error)), out);
        }
    }

    fn timer(&mut self, now: Duration, timer: TimerId, out: &mut Vec<Action>) {
        match timer {
            TimerId::Retry(call) => match self.calls.get(call) {
                Some(Work::Begin) => self.route(call, out),
                Some(_) => self.send(call, out),
                None => {}
            },
            TimerId::Heartbeat => self.heartbeat(now, out),
            TimerId::Deadline => {
                if self.answered || self.deadline_passed {
                    return;
                }
                self.deadline_passed = true;
                out.push(Action::SetTimer { timer: TimerId::GiveUp, at: now + ABORT_RETRY_GRACE });
                if !matches!(self.phase, Phase::Aborting(_)) {
                    self.abort(AbortReason::Deadline, out);
                }
            }
            TimerId::GiveUp => self.give_up_waiting(out),
        }
    }
}
