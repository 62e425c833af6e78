//! The coordinator's requests, made from its immutable plan (P12).

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_proto::{TxnId, pb, pb::range_request::Body};

use super::{Coordinator, Work};
use crate::mistakes::Mistake;
use crate::state::Verdict;
use crate::step::{Action, CallId, Group};

impl Coordinator {
    pub(super) fn all_keys(&self) -> Vec<Bytes> {
        self.plan.writes.iter().map(|w| w.key.clone()).collect()
    }

    /// A mistake (P12).
    pub(super) fn move_anchor(&mut self, groups: &[Group]) {
        if let Some(key) = groups.last().and_then(|group| group.keys.first()) {
            self.plan.txn.anchor = key.clone();
        }
    }

    pub(super) fn add_and_send(&mut self, work: Work, out: &mut Vec<Action>) {
        let call = self.calls.add(work);
        self.send(call, out);
    }

    /// Asks how the work of a call lies in ranges now.
    pub(super) fn route(&mut self, call: CallId, out: &mut Vec<Action>) {
        let (keys, checks) = match self.calls.get(call) {
            None => return,
            Some(Work::Begin | Work::Commit) => (self.all_keys(), self.plan.checks.clone()),
            Some(Work::Prepare(keys) | Work::Resolve(keys, _)) => (keys.clone(), Vec::new()),
            Some(Work::Check(checks)) => (Vec::new(), checks.clone()),
            Some(Work::Verdict(_)) => {
                let mut keys = self.beside_anchor.clone();
                if keys.is_empty() {
                    keys.push(self.plan.txn.anchor.clone());
                }
                (keys, Vec::new())
            }
        };
        out.push(Action::Route { call, keys, checks });
    }

    pub(super) fn send(&mut self, call: CallId, out: &mut Vec<Action>) {
        let Some(work) = self.calls.get(call).cloned() else {
            return;
        };
        let Some((key, body)) = self.request(&work) else {
            return self.route(call, out);
        };
        self.decisive |= self.is_decisive(&work);
        out.push(Action::Send { call, key, body });
    }

    fn is_decisive(&self, work: &Work) -> bool {
        match work {
            Work::Commit | Work::Verdict(Verdict::Committed(_)) => true,
            Work::Prepare(_) => self.plan.checks.is_empty(),
            Work::Begin | Work::Check(_) | Work::Verdict(Verdict::Aborted) | Work::Resolve(..) => {
                false
            }
        }
    }

    /// The request for a piece of work, and the key it goes to; `None` for what must be grouped
    /// first.
    fn request(&self, work: &Work) -> Option<(Bytes, Body)> {
        let txn = &self.plan.txn;
        let anchor = txn.anchor.clone();
        Some(match work {
            Work::Begin => return None,
            Work::Commit => {
                let request = pb::CommitRequest {
                    txn: Some(txn.to_pb()),
                    writes: self.plan.writes.clone(),
                    checks: self.plan.checks.clone(),
                    lock_owner: self.lock_owner(),
                    who: self.plan.who.as_deref().cloned(),
                };
                (anchor, Body::Commit(request))
            }
            Work::Prepare(keys) => (keys.first()?.clone(), Body::Prepare(self.prepare(keys))),
            Work::Check(checks) => {
                let request = pb::CheckRequest {
                    txn_id: txn.id.to_bytes(),
                    upto: self.max_min_commit_ts.0,
                    checks: checks.clone(),
                };
                (checks.first()?.start.clone(), Body::Check(request))
            }
            Work::Verdict(verdict) => {
                let request = pb::VerdictRequest {
                    txn: Some(txn.to_pb()),
                    verdict: Some(verdict.to_pb()),
                    resolve: self.beside_anchor.clone(),
                };
                (anchor, Body::Verdict(request))
            }
            Work::Resolve(keys, verdict) => {
                let request = pb::ResolveRequest {
                    txn_id: txn.id.to_bytes(),
                    keys: keys.clone(),
                    verdict: Some(verdict.to_pb()),
                };
                (keys.first()?.clone(), Body::Resolve(request))
            }
        })
    }

    fn lock_owner(&self) -> Bytes {
        self.plan.lock_owner.map(TxnId::to_bytes).unwrap_or_default()
    }

    fn prepare(&self, keys: &[Bytes]) -> pb::PrepareRequest {
        let at_anchor = keys.contains(&self.plan.txn.anchor);
        let nothing_left = self.plan.checks.is_empty() || Mistake::CheckedWhileStaging.is_made();
        let record = match (at_anchor, nothing_left) {
            (false, _) => pb::RecordKind::NoRecord,
            (true, true) => pb::RecordKind::Staging,
            (true, false) => pb::RecordKind::Preparing,
        };
        let asked: BTreeSet<&Bytes> = keys.iter().collect();
        let writes = self.plan.writes.iter().filter(|w| asked.contains(&w.key));
        pb::PrepareRequest {
            txn: Some(self.plan.txn.to_pb()),
            writes: writes.cloned().collect(),
            record: i32::from(record),
            keys: if at_anchor { self.all_keys() } else { Vec::new() },
            lock_owner: self.lock_owner(),
            who: self.plan.who.as_deref().cloned(),
        }
    }
}
