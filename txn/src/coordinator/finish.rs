//! From the verdict to the end: answer, resolve, drop; and what to say when no verdict comes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::{AbortReason, Coordinator, Outcome, Phase, Work};
use crate::config::{FINISH_DEADLINE, HEARTBEAT_INTERVAL, RETRY_PAUSE_MIN, SETTLE_PAUSE_MAX};
use crate::leader::decided::SEEN_THROUGH_MAX;
use crate::state::Verdict;
use crate::step::{Action, CallId, TimerId};

impl Coordinator {
    pub(super) fn answer(&mut self, outcome: Outcome, out: &mut Vec<Action>) {
        assert!(!self.answered, "the client is told once");
        self.answered = true;
        self.acknowledged = matches!(outcome, Outcome::Committed(_));
        out.push(Action::Answer(outcome));
    }

    pub(super) fn reroute(&mut self, now: Duration, call: CallId, out: &mut Vec<Action>) {
        // At once, for the error brought the cure; but not again and again.
        if self.rerouted_at.is_none_or(|at| at + RETRY_PAUSE_MIN <= now) {
            self.rerouted_at = Some(now);
            self.route(call, out);
        } else {
            out.extend(self.calls.pause(call, now));
        }
    }

    /// P8: nothing is told before the anchor says that it is aborted, unless nothing was sent.
    pub(super) fn abort(&mut self, reason: AbortReason, out: &mut Vec<Action>) {
        self.calls.clear();
        self.clearing.clear();
        if !self.many && !self.decisive {
            self.answer(Outcome::Aborted(reason), out);
            return self.done(out);
        }
        self.phase = Phase::Aborting(reason);
        self.add_and_send(Work::Verdict(Verdict::Aborted), out);
    }

    /// The anchor's record says how it ended.
    pub(super) fn settled(&mut self, now: Duration, verdict: Verdict, out: &mut Vec<Action>) {
        let outcome = match (verdict, &self.phase) {
            (Verdict::Committed(ts), _) => Outcome::Committed(ts),
            (Verdict::Aborted, Phase::Aborting(reason)) => Outcome::Aborted(reason.clone()),
            (Verdict::Aborted, _) => Outcome::Aborted(AbortReason::Recovered),
        };
        if self.acknowledged {
            assert!(verdict != Verdict::Aborted, "an acknowledged commit is never aborted");
        }
        if !self.answered {
            self.answer(outcome, out);
        }
        self.calls.clear();
        self.clearing.clear();
        if !self.many {
            return self.done(out);
        }
        self.phase = Phase::Finishing(verdict);
        out.push(Action::SetTimer { timer: TimerId::GiveUp, at: now + FINISH_DEADLINE });
        let rest = self.unresolved();
        if rest.is_empty() {
            return self.resolved(out);
        }
        let call = self.calls.add(Work::Resolve(rest, verdict));
        self.route(call, out);
    }

    /// Keys that the verdict did not resolve.
    fn unresolved(&self) -> Vec<Bytes> {
        let mut keys = self.all_keys();
        if self.resolved_beside {
            let beside: BTreeSet<&Bytes> = self.beside_anchor.iter().collect();
            keys.retain(|key| !beside.contains(key));
        }
        keys
    }

    /// A range confirmed its part; after the last one the record can go (P4).
    pub(super) fn resolved(&mut self, out: &mut Vec<Action>) {
        if !self.calls.is_empty() {
            return;
        }
        if let Phase::Finishing(Verdict::Committed(_)) = self.phase {
            let (txn_id, anchor) = (self.plan.txn.id.to_bytes(), self.plan.txn.anchor.clone());
            out.push(Action::DropLater(pb::DropRecordRequest { txn_id, anchor }));
        }
        self.done(out);
    }

    /// The client waits no longer. If the commit may have happened, the anchor is asked on, for
    /// whoever must know when no copy can be admitted any more (P6).
    pub(super) fn give_up_waiting(&mut self, out: &mut Vec<Action>) {
        if self.answered || !self.decisive {
            return self.give_up(out);
        }
        self.calls.pause_max = SETTLE_PAUSE_MAX;
        self.answer(Outcome::Unknown, out);
        self.keep_keys_alone();
    }

    /// What is asked from now on needs keys: the anchor may not answer for long, and there may be
    /// many that wait for it.
    fn keep_keys_alone(&mut self) {
        assert!(matches!(self.phase, Phase::Aborting(_)), "nothing is committed any more");
        for write in &mut self.plan.writes {
            *write = pb::Write { key: write.key.clone(), ..pb::Write::default() };
        }
        self.plan.checks = Vec::new();
        self.plan.who = None;
    }

    /// No verdict can be had any more, or others may finish.
    pub(super) fn give_up(&mut self, out: &mut Vec<Action>) {
        if !self.answered {
            let outcome = match (&self.phase, self.decisive) {
                (Phase::Aborting(reason), false) => Outcome::Aborted(reason.clone()),
                (_, false) => Outcome::Aborted(AbortReason::Deadline),
                (_, true) => Outcome::Unknown,
            };
            self.answer(outcome, out);
        }
        self.done(out);
    }

    pub(super) fn done(&mut self, out: &mut Vec<Action>) {
        self.calls.clear();
        self.phase = Phase::Done;
        out.push(Action::Done);
    }

    /// P10: readers need not wait for the verdict. Nothing follows if a hint is lost: whoever meets
    /// the lock asks the anchor.
    pub(super) fn hint(&self, ts: Timestamp, out: &mut Vec<Action>) {
        for keys in self.locked.iter().filter(|keys| keys.len() <= SEEN_THROUGH_MAX) {
            let Some(key) = keys.first().cloned() else { continue };
            let (txn_id, keys) = (self.plan.txn.id.to_bytes(), keys.clone());
            let body = pb::HintRequest { txn_id, keys, commit_ts: ts.0 };
            let body = pb::range_request::Body::Hint(body);
            out.push(Action::Send { call: CallId::NOBODYS, key, body });
        }
    }

    /// P11: until the verdict is replicated, others must not take it for dead.
    pub(super) fn heartbeat(&mut self, now: Duration, out: &mut Vec<Action>) {
        let gave_up = self.answered && !self.acknowledged;
        if gave_up || matches!(self.phase, Phase::Finishing(_) | Phase::Done) {
            return;
        }
        let anchor = self.plan.txn.anchor.clone();
        out.push(Action::Send {
            call: self.calls.id(),
            key: anchor.clone(),
            body: pb::range_request::Body::Heartbeat(pb::HeartbeatRequest {
                txn_id: TxnId::to_bytes(self.plan.txn.id),
                anchor,
            }),
        });
        out.push(Action::SetTimer { timer: TimerId::Heartbeat, at: now + HEARTBEAT_INTERVAL });
    }
}

/// One line: phase, keys without a lock, open calls.
impl fmt::Display for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phase {
            Phase::OneRange => f.write_str("one-range")?,
            Phase::Preparing => write!(f, "preparing unlocked={}", self.unlocked.len())?,
            Phase::Checking(ts) => write!(f, "checking upto={ts}")?,
            Phase::Committing(ts) => write!(f, "committing({ts})")?,
            Phase::Aborting(_) => f.write_str("aborting")?,
            Phase::Finishing(verdict) => write!(f, "finishing {verdict}")?,
            Phase::Done => f.write_str("done")?,
        }
        if self.answered {
            f.write_str(" answered")?;
        }
        for (call, _) in self.calls.works() {
            write!(f, " {call}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::Plan;
    use crate::state::TxnMeta;
    use crate::step::{Group, Input};

    /// What a client that heard `40003` leaves behind may wait for its anchor for days.
    #[test]
    fn what_may_wait_for_long_keeps_no_values() {
        let keys = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let value = Bytes::from(vec![7; 1 << 20]);
        let write = |key: &Bytes| pb::Write {
            key: key.clone(),
            value: value.clone(),
            ..pb::Write::default()
        };
        let (writes, read_at) = (keys.iter().map(write).collect(), 4);
        let check = pb::ReadCheck { start: keys[1].clone(), read_at, ..pb::ReadCheck::default() };
        let plan = Plan {
            txn: TxnMeta { id: TxnId(1), anchor: keys[0].clone(), commit_start: Timestamp(5) },
            writes,
            checks: vec![check.clone()],
            lock_owner: None,
            who: Some(Box::default()),
        };
        let mut coordinator = Coordinator::new(plan);
        let now = Duration::ZERO;
        coordinator.step(now, Input::Start);
        let group = Group { keys: keys.to_vec(), checks: vec![check] };
        let sent = coordinator.step(now, Input::Routed(CallId(1), vec![group]));
        assert!(matches!(sent[..], [Action::Send { .. }]), "{sent:?}");
        coordinator.step(now, Input::Timer(TimerId::Deadline));
        assert!(coordinator.plan.writes.iter().all(|write| write.value == value));
        let told = coordinator.step(now, Input::Timer(TimerId::GiveUp));
        assert_eq!(told, [Action::Answer(Outcome::Unknown)]);
        let Plan { writes, checks, who, .. } = &coordinator.plan;
        assert!(writes.iter().all(|write| write.value.is_empty()) && checks.is_empty());
        assert_eq!((coordinator.all_keys(), who), (keys.to_vec(), &None));
    }
}
