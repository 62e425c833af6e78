//! Finds the verdict of a transaction whose lock somebody met, and makes one if its coordinator
//! is dead (P3, P11); then has the lock resolved. Many may recover one transaction at a time: the
//! anchor's record decides between them.
//!
//! 1. *Look-up* at the anchor. Decided: go to 4. Not expired: wait, or say "undecided".
//! 2. *Close*: a missing record is closed as aborted; of a staging one every key is closed.
//! 3. *Verdict*: committed at the greatest lock if all keys hold theirs, aborted if one is
//!    refused or the record was preparing. What stands at the anchor counts, not what was asked.
//! 4. *Resolve* the lock that was met, tell the asker; then the other keys of the record, and drop
//!    the record if all of them are confirmed.
//!
//! # Invariants
//! * *Nothing is closed before the leader of the anchor has called the transaction expired* (P11).
//! * *A staging transaction is committed only if every key it lists holds its lock* (P2, P3).
//! * *Only a verdict read from the anchor is told or resolved with* (P4).
//! * *The record is dropped only after every key it lists was confirmed resolved* (P4).

mod leftover;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, pb, pb::range_request::Body};

use crate::apply::close::Closed;
use crate::config::{COMMIT_RETRY_DEADLINE, FINISH_DEADLINE, LOOKUP_WAIT, RETRY_PAUSE_MIN};
use crate::state::{TxnMeta, Verdict};
use crate::step::{Action, CallId, Calls, Input, Repeat, TimerId, repeat_after};

pub use leftover::Leftover;

#[derive(Debug, Clone, PartialEq)]
enum Work {
    Lookup,
    CloseRecord,
    CloseKey(Bytes),
    Verdict(Verdict),
    /// Of the lock that was met.
    ResolveMet(Verdict),
    Resolve(Vec<Bytes>, Verdict),
    DropRecord,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Asking,
    /// The greatest lock so far.
    Closing(Timestamp),
    Deciding,
    Resolving(Verdict),
    Done,
}

/// The machine. See the module for its invariants.
#[derive(Debug)]
pub struct Recovery {
    txn: TxnMeta,
    /// The key at which the lock was met; none when a leftover record is cleaned up.
    met: Option<Bytes>,
    wait: bool,
    phase: Phase,
    calls: Calls<Work>,
    keys: Vec<Bytes>,
    told: bool,
    rerouted_at: Option<Duration>,
}

impl Recovery {
    /// For a lock of `txn` met at `key`. With `wait` it goes on until the transaction is decided
    /// (for at most [`COMMIT_RETRY_DEADLINE`]); without, an undecided one that is not expired is
    /// told at once.
    pub fn new(txn: TxnMeta, key: Bytes, wait: bool) -> Self {
        Self {
            txn,
            met: Some(key),
            wait,
            phase: Phase::Asking,
            calls: Calls::default(),
            keys: Vec::new(),
            told: false,
            rerouted_at: None,
        }
    }

    /// For a committed record whose coordinator died before its locks were resolved: resolves
    /// `keys`, then drops the record.
    pub fn of_record(txn: TxnMeta, keys: Vec<Bytes>, verdict: Verdict) -> Self {
        Self {
            txn,
            met: None,
            wait: false,
            phase: Phase::Resolving(verdict),
            calls: Calls::default(),
            keys,
            told: true,
            rerouted_at: None,
        }
    }

    /// Takes an input at monotonic time `now`; what is to be done next.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        if self.phase == Phase::Done {
            return out;
        }
        match input {
            Input::Start => self.start(now, &mut out),
            Input::Routed(call, groups) => {
                let Some(Work::Resolve(_, verdict)) = self.calls.get(call).cloned() else {
                    return out;
                };
                if groups.is_empty() {
                    out.extend(self.calls.pause(call, now));
                    return out;
                }
                self.calls.remove(call);
                for group in groups.into_iter().filter(|g| !g.keys.is_empty()) {
                    self.add_and_send(Work::Resolve(group.keys, verdict), &mut out);
                }
            }
            Input::Reply(call, body) => self.replied(now, call, body, &mut out),
            Input::Failed { call } => out.extend(self.calls.pause(call, now)),
            Input::Timer(TimerId::Retry(call)) => self.send(call, &mut out),
            Input::Timer(TimerId::Deadline | TimerId::GiveUp) => self.give_up(&mut out),
            Input::Timer(TimerId::Heartbeat) | Input::Cleared(..) => {}
        }
        out
    }

    fn start(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Phase::Resolving(verdict) = self.phase {
            return self.resolve_rest(now, verdict, out);
        }
        self.add_and_send(Work::Lookup, out);
        out.push(Action::SetTimer { timer: TimerId::Deadline, at: now + COMMIT_RETRY_DEADLINE });
    }

    fn replied(
        &mut self,
        now: Duration,
        call: CallId,
        body: pb::range_response::Body,
        out: &mut Vec<Action>,
    ) {
        use pb::range_response::Body as Answer;
        let Some(work) = self.calls.get(call).cloned() else {
            return;
        };
        match (work, body) {
            (_, Answer::Error(error)) => self.refused(now, call, &error, out),
            (Work::Lookup, Answer::Lookup(m)) => {
                let status = m.status.and_then(|status| status.state);
                self.looked_up(now, call, status, m.expired, out);
            }
            (Work::CloseRecord, Answer::Close(m)) => match Closed::from_pb(&m) {
                Some(Closed::Decided(verdict)) => self.decided(verdict, out),
                // A prepare came meanwhile: its coordinator lives, or must expire again.
                Some(_) => self.ask_again(now, call, out),
                None => out.extend(self.calls.pause(call, now)),
            },
            (Work::CloseKey(_), Answer::Close(m)) => match Closed::from_pb(&m) {
                Some(closed) => self.closed(now, call, closed, out),
                None => out.extend(self.calls.pause(call, now)),
            },
            (Work::Verdict(_), Answer::Verdict(m)) if m.verdict.is_some() => {
                let verdict = m.verdict.as_ref().map_or(Verdict::Aborted, Verdict::from_pb);
                self.decided(verdict, out);
            }
            (Work::ResolveMet(verdict), Answer::Resolve(_)) => {
                self.calls.remove(call);
                self.tell(Some(verdict), out);
                self.resolve_rest(now, verdict, out);
            }
            (Work::Resolve(_, verdict), Answer::Resolve(_)) => {
                self.calls.remove(call);
                match verdict {
                    _ if !self.calls.is_empty() => {}
                    Verdict::Committed(_) => self.add_and_send(Work::DropRecord, out),
                    Verdict::Aborted => self.done(out),
                }
            }
            (Work::DropRecord, Answer::DropRecord(_)) => self.done(out),
            // An answer of another kind answers nothing.
            (_, _) => out.extend(self.calls.pause(call, now)),
        }
    }

    fn looked_up(
        &mut self,
        now: Duration,
        call: CallId,
        status: Option<pb::txn_status::State>,
        expired: bool,
        out: &mut Vec<Action>,
    ) {
        use pb::txn_status::State;
        match status {
            None => out.extend(self.calls.pause(call, now)),
            Some(State::Verdict(verdict)) => self.decided(Verdict::from_pb(&verdict), out),
            Some(State::Missing(_) | State::Preparing(_) | State::Staging(_)) if !expired => {
                if self.wait {
                    self.ask_again(now, call, out);
                } else {
                    self.tell(None, out);
                    self.done(out);
                }
            }
            Some(State::Missing(_)) => {
                self.calls.clear();
                self.phase = Phase::Deciding;
                self.add_and_send(Work::CloseRecord, out);
            }
            Some(State::Preparing(staging)) => {
                self.keys = staging.keys;
                self.decide(Verdict::Aborted, out);
            }
            Some(State::Staging(staging)) => {
                self.calls.clear();
                self.keys = staging.keys;
                self.phase = Phase::Closing(Timestamp::ZERO);
                for key in self.keys.clone() {
                    self.add_and_send(Work::CloseKey(key), out);
                }
            }
        }
    }

    fn ask_again(&mut self, now: Duration, call: CallId, out: &mut Vec<Action>) {
        self.calls.remove(call);
        self.phase = Phase::Asking;
        let call = self.calls.add(Work::Lookup);
        out.extend(self.calls.pause(call, now));
    }

    fn closed(&mut self, now: Duration, call: CallId, closed: Closed, out: &mut Vec<Action>) {
        let Phase::Closing(max) = self.phase else {
            return;
        };
        self.calls.remove(call);
        match closed {
            Closed::Locked(ts) => {
                let max = max.max(ts);
                self.phase = Phase::Closing(max);
                if self.calls.is_empty() {
                    self.decide(Verdict::Committed(max), out);
                }
            }
            // If the key was resolved before, the verdict that stands at the anchor is answered.
            Closed::Refused => self.decide(Verdict::Aborted, out),
            Closed::Undecided(_) => {
                self.calls.clear();
                self.ask_again(now, call, out);
            }
            Closed::Decided(verdict) => self.decided(verdict, out),
        }
    }

    fn decide(&mut self, verdict: Verdict, out: &mut Vec<Action>) {
        self.calls.clear();
        self.phase = Phase::Deciding;
        self.add_and_send(Work::Verdict(verdict), out);
    }

    fn decided(&mut self, verdict: Verdict, out: &mut Vec<Action>) {
        self.calls.clear();
        self.phase = Phase::Resolving(verdict);
        self.add_and_send(Work::ResolveMet(verdict), out);
    }

    fn resolve_rest(&mut self, now: Duration, verdict: Verdict, out: &mut Vec<Action>) {
        let met = self.met.clone();
        let rest: Vec<_> = self.keys.iter().filter(|k| Some(*k) != met.as_ref()).collect();
        let rest: Vec<Bytes> = rest.into_iter().cloned().collect();
        if self.keys.is_empty() {
            return self.done(out);
        }
        out.push(Action::SetTimer { timer: TimerId::GiveUp, at: now + FINISH_DEADLINE });
        if rest.is_empty() {
            return match verdict {
                Verdict::Committed(_) => self.add_and_send(Work::DropRecord, out),
                Verdict::Aborted => self.done(out),
            };
        }
        let call = self.calls.add(Work::Resolve(rest.clone(), verdict));
        let checks = Vec::new();
        out.push(Action::Route { call, keys: rest, checks });
    }

    fn refused(
        &mut self,
        now: Duration,
        call: CallId,
        error: &pb::RangeError,
        out: &mut Vec<Action>,
    ) {
        match (repeat_after(error), self.calls.get(call)) {
            // At once, for the error brought the cure; but not again and again.
            (Some(Repeat::Route), Some(Work::Resolve(keys, _)))
                if self.rerouted_at.is_none_or(|at| at + RETRY_PAUSE_MIN <= now) =>
            {
                self.rerouted_at = Some(now);
                let (keys, checks) = (keys.clone(), Vec::new());
                out.push(Action::Route { call, keys, checks });
            }
            // The driver has taken the better route in.
            (Some(Repeat::Route | Repeat::Pause), _) => out.extend(self.calls.pause(call, now)),
            // Somebody else decided it, and the floor has passed the record: ask what stands.
            (None, Some(Work::Verdict(_))) => self.ask_again(now, call, out),
            (None, _) => self.give_up(out),
        }
    }

    fn add_and_send(&mut self, work: Work, out: &mut Vec<Action>) {
        let call = self.calls.add(work);
        self.send(call, out);
    }

    fn send(&mut self, call: CallId, out: &mut Vec<Action>) {
        if let Some((key, body)) = self.calls.get(call).and_then(|work| self.request(work)) {
            out.push(Action::Send { call, key, body });
        }
    }

    fn request(&self, work: &Work) -> Option<(Bytes, Body)> {
        let anchor = self.txn.anchor.clone();
        let txn = Some(self.txn.to_pb());
        let close = |key: &Bytes, record| {
            let request = pb::CloseRequest { txn: txn.clone(), key: key.clone(), record };
            (key.clone(), Body::Close(request))
        };
        let resolve = |keys: &[Bytes], verdict: &Verdict| {
            let request = pb::ResolveRequest {
                txn_id: self.txn.id.to_bytes(),
                keys: keys.to_vec(),
                verdict: Some(verdict.to_pb()),
            };
            Some((keys.first()?.clone(), Body::Resolve(request)))
        };
        let wait = if self.wait { LOOKUP_WAIT } else { Duration::ZERO };
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        Some(match work {
            Work::Lookup => {
                let request = pb::LookupRequest { txn: txn.clone(), wait_ms };
                (anchor, Body::Lookup(request))
            }
            Work::CloseRecord => close(&anchor, true),
            Work::CloseKey(key) => close(key, false),
            Work::Verdict(verdict) => {
                let verdict = Some(verdict.to_pb());
                (anchor, Body::Verdict(pb::VerdictRequest { txn, verdict, resolve: Vec::new() }))
            }
            Work::ResolveMet(verdict) => return resolve(self.met.as_slice(), verdict),
            Work::Resolve(keys, verdict) => return resolve(keys, verdict),
            Work::DropRecord => {
                let request = pb::DropRecordRequest {
                    txn_id: self.txn.id.to_bytes(),
                    anchor: anchor.clone(),
                };
                (anchor, Body::DropRecord(request))
            }
        })
    }

    fn tell(&mut self, verdict: Option<Verdict>, out: &mut Vec<Action>) {
        if !self.told {
            self.told = true;
            out.push(Action::Recovered(verdict));
        }
    }

    fn give_up(&mut self, out: &mut Vec<Action>) {
        // The deadline is for the asker; what is left to clean up has its own.
        self.tell(None, out);
        self.done(out);
    }

    fn done(&mut self, out: &mut Vec<Action>) {
        self.calls.clear();
        self.phase = Phase::Done;
        out.push(Action::Done);
    }
}

/// One line: phase, open calls.
impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phase {
            Phase::Asking => f.write_str("asking")?,
            Phase::Closing(max) => write!(f, "closing max={max}")?,
            Phase::Deciding => f.write_str("deciding")?,
            Phase::Resolving(verdict) => write!(f, "resolving {verdict}")?,
            Phase::Done => f.write_str("done")?,
        }
        for (call, _) in self.calls.works() {
            write!(f, " {call}")?;
        }
        Ok(())
    }
}
