//! Writing at the leader: from the request to the applied command.
//!
//! # The order of a prepare or one-range commit
//! 1. The reserve on disk (S5).
//! 2. Under the range's mutex: route, lock table, state, timestamp (P1, P14, P9), proposal.
//! 3. The applied and visible command's own answer.
//!
//! Once proposed, an answer that does not come in time is *unknown*, never a failure: the entry
//! may still be applied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{Timestamp, pb};
use quorate_txn::apply::{Floors, StateView, ViewError};
use quorate_txn::keys;
use quorate_txn::leader::{Admission, LeaderState};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::errors::{self, Outcome};
use super::replica::{Core, Replica, floors_of, span_of};
use super::requests::Attempt;
use crate::mvcc::EngineView;

/// What is known of an attempt to propose.
#[expect(clippy::large_enum_variant, reason = "made once a request and taken apart at once")]
enum Proposed {
    Waiting(oneshot::Receiver<Answer>),
    Known(Attempt),
}

type Admit<'a> = dyn Fn(
        &mut LeaderState,
        &Floors,
        &dyn StateView,
        &mut dyn FnMut() -> Timestamp,
    ) -> Result<Admission, ViewError>
    + Send
    + Sync
    + 'a;

impl Replica {
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        request: pb::PrepareRequest,
        deadline: Instant,
    ) -> Outcome {
        self.check_disk(&request.writes)?;
        let mut keys: Vec<&Bytes> = request.writes.iter().map(|w| &w.key).collect();
        if request.record() != pb::RecordKind::NoRecord {
            // The record is kept where the anchor is.
            keys.extend(request.txn.as_ref().map(|txn| &txn.anchor));
        }
        let now = self.node.clock.monotonic();
        let admit = |leader: &mut LeaderState,
                     floors: &Floors,
                     view: &dyn StateView,
                     clock: &mut dyn FnMut() -> Timestamp| {
            leader.admit_prepare(&request, floors, view, clock, now)
        };
        self.write(epoch, &keys, &[], &admit, deadline).await
    }

    pub(crate) async fn commit(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        request: pb::CommitRequest,
        deadline: Instant,
    ) -> Outcome {
        self.check_disk(&request.writes)?;
        let mut keys: Vec<&Bytes> = request.writes.iter().map(|w| &w.key).collect();
        keys.extend(request.txn.as_ref().map(|txn| &txn.anchor));
        let admit = |leader: &mut LeaderState,
                     floors: &Floors,
                     view: &dyn StateView,
                     clock: &mut dyn FnMut() -> Timestamp| {
            leader.admit_commit(&request, floors, view, clock)
        };
        self.write(epoch, &keys, &request.checks, &admit, deadline).await
    }

    /// Rule S5. What only deletes is let through: it is how space comes back.
    fn check_disk(&self, writes: &[pb::Write]) -> Result<(), pb::RangeError> {
        let Some(disk) = &self.node.disk else { return Ok(()) };
        if writes.iter().all(|write| write.delete) {
            return Ok(());
        }
        errors::disk_full(disk.state()).map_or(Ok(()), Err)
    }

    async fn write(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        keys: &[&Bytes],
        checks: &[pb::ReadCheck],
        admit: &Admit<'_>,
        deadline: Instant,
    ) -> Outcome {
        let mut proposed = None;
        let known = self
            .retry(deadline, || match self.try_write(epoch, keys, checks, admit)? {
                Proposed::Known(attempt) => Ok(attempt),
                Proposed::Waiting(waiter) => {
                    proposed = Some(waiter);
                    // The answer comes from apply; this one is thrown away.
                    Ok(Attempt::Done(Answer::Heartbeat(pb::HeartbeatResponse {})))
                }
            })
            .await;
        match proposed {
            Some(waiter) => self.applied(waiter, deadline).await,
            None => known,
        }
    }

    fn try_write(
        &self,
        epoch: Option<pb::Epoch>,
        keys: &[&Bytes],
        checks: &[pb::ReadCheck],
        admit: &Admit<'_>,
    ) -> Result<Proposed, pb::RangeError> {
        let term = self.lead()?;
        let mut core = self.core.lock();
        if let Some(wait) = self.enter_write(&core, epoch, keys, checks)? {
            return Ok(Proposed::Known(wait));
        }
        let floors = floors_of(&core.state);
        let bounds = span_of(&core.descriptor());
        let node = self.node.clone();
        let leader = self.leader(&mut core, term)?;
        // Taken under the mutex: a key that left the lock table is visible in it (rule P1).
        let snapshot = node.engine.snapshot();
        let refusals = self.refusals.load(Ordering::Acquire) > 0;
        let view = EngineView::new(&*snapshot, bounds).with_refusals(refusals);
        let mut clock = || node.clock.now();
        let admission = admit(leader, &floors, &view, &mut clock).map_err(|e| self.broken(&e))?;
        drop(view);
        drop(snapshot);
        match admission {
            Admission::Propose { ticket, body } => {
                let waiter = self.propose(&mut core, term, Some(ticket), body)?;
                Ok(Proposed::Waiting(waiter))
            }
            Admission::Answer(answer) => {
                drop(core);
                self.still_leads(term)?;
                Ok(Proposed::Known(Attempt::Done(answer)))
            }
            Admission::Wait(waiting) => Ok(Proposed::Known(Attempt::Wait(waiting))),
            Admission::ClockBehind { above } => {
                let pause = node.clock.wait_until_passed(above);
                Ok(Proposed::Known(Attempt::Pause(pause)))
            }
        }
    }

    /// The route of a write, and whether a key of it is about to leave: its command would only
    /// queue behind the split to be refused (rule L4).
    fn enter_write(
        &self,
        core: &Core,
        epoch: Option<pb::Epoch>,
        asked: &[&Bytes],
        checks: &[pb::ReadCheck],
    ) -> Result<Option<Attempt>, pb::RangeError> {
        let ends: Vec<Bytes> = asked.iter().map(|key| keys::next_key(key)).collect();
        let spans: Vec<_> = checks.iter().map(quorate_txn::apply::Span::of_check).collect();
        let keys = asked.iter().zip(&ends).map(|(key, end)| (&key[..], &end[..]));
        let checked = spans.iter().map(|span| (&span.start[..], &span.end[..]));
        self.check_route(core, epoch, keys.chain(checked))?;
        let leaving = asked.iter().any(|key| core.leaving(key))
            || spans.iter().any(|span| core.leaving_below(&span.end));
        let error = || errors::unavailable(format!("{} is being split", self.range));
        Ok(leaving.then(|| Attempt::Changed(error())))
    }

    /// Waits for an entry that is on its way into the log.
    pub(crate) async fn applied(
        &self,
        waiter: oneshot::Receiver<Answer>,
        deadline: Instant,
    ) -> Outcome {
        match tokio::time::timeout_at(deadline, waiter).await {
            Ok(Ok(Answer::Error(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(errors::unknown("the replica stopped before the entry was applied")),
            Err(_) => {
                Err(errors::unknown(format!("{}: the entry was not applied in time", self.range)))
            }
        }
    }

    /// Replicates a command that needs no admission, for keys of this range.
    async fn replicate(
        &self,
        epoch: Option<pb::Epoch>,
        keys: &[&Bytes],
        body: Command,
        deadline: Instant,
    ) -> Outcome {
        let mut proposed = None;
        let mut body = Some(body);
        let known = self
            .retry(deadline, || {
                let term = self.lead()?;
                let mut core = self.core.lock();
                if let Some(wait) = self.enter_write(&core, epoch, keys, &[])? {
                    return Ok(wait);
                }
                // Not ready: no answer of the range counts yet (rule L2).
                if !self.leader(&mut core, term)?.serves() {
                    return Err(errors::no_lease(self.range));
                }
                if let Some(body) = body.take() {
                    proposed = Some(self.propose(&mut core, term, None, body)?);
                }
                Ok(Attempt::Done(Answer::Heartbeat(pb::HeartbeatResponse {})))
            })
            .await;
        match proposed {
            Some(waiter) => self.applied(waiter, deadline).await,
            None => known,
        }
    }

    pub(crate) async fn verdict(
        &self,
        epoch: Option<pb::Epoch>,
        request: pb::VerdictRequest,
        deadline: Instant,
    ) -> Outcome {
        let anchor = request.txn.as_ref().map(|txn| txn.anchor.clone()).unwrap_or_default();
        let resolve = request.resolve.clone();
        let keys: Vec<&Bytes> = std::iter::once(&anchor).chain(&resolve).collect();
        let body = Command::Verdict(pb::VerdictCommand {
            txn: request.txn,
            verdict: request.verdict,
            resolve: request.resolve,
        });
        self.replicate(epoch, &keys, body, deadline).await
    }

    pub(crate) async fn close(
        &self,
        epoch: Option<pb::Epoch>,
        request: pb::CloseRequest,
        deadline: Instant,
    ) -> Outcome {
        let anchor = request.txn.as_ref().map(|txn| txn.anchor.clone()).unwrap_or_default();
        let key = if request.record { anchor } else { request.key.clone() };
        let body = Command::Close(pb::CloseCommand {
            txn: request.txn,
            key: request.key,
            record: request.record,
        });
        self.replicate(epoch, &[&key], body, deadline).await
    }

    /// The sender vouches for the verdict being replicated at the anchor (rule P4).
    pub(crate) async fn resolve(
        &self,
        epoch: Option<pb::Epoch>,
        request: pb::ResolveRequest,
        deadline: Instant,
    ) -> Outcome {
        let asked = request.keys.clone();
        let keys: Vec<&Bytes> = asked.iter().collect();
        let body = Command::Resolve(pb::ResolveCommand {
            txn_id: request.txn_id,
            keys: request.keys,
            verdict: request.verdict,
        });
        self.replicate(epoch, &keys, body, deadline).await
    }

    pub(crate) async fn drop_record(
        &self,
        epoch: Option<pb::Epoch>,
        request: pb::DropRecordRequest,
        deadline: Instant,
    ) -> Outcome {
        let anchor = request.anchor.clone();
        let body = Command::DropRecord(pb::DropRecordCommand {
            txn_id: request.txn_id,
            anchor: request.anchor,
        });
        self.replicate(epoch, &[&anchor], body, deadline).await
    }

    /// Replicates a command of the range itself: floors, splits, the meta range's own.
    pub(crate) async fn replicate_own(&self, body: Command, deadline: Instant) -> Outcome {
        let term = self.lead()?;
        let waiter = {
            let mut core = self.core.lock();
            self.propose(&mut core, term, None, body)?
        };
        self.applied(waiter, deadline).await
    }

    /// Whether there are records below the transaction floor: one command drops only some.
    pub(crate) fn has_droppable_records(&self) -> bool {
        let (floor, bounds) = {
            let core = self.core.lock();
            (floors_of(&core.state).txn_floor, span_of(&core.descriptor()))
        };
        let snapshot = self.node.engine.snapshot();
        let found = EngineView::new(&*snapshot, bounds).droppable_records(floor, 1);
        match found {
            Ok(found) => !found.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "records cannot be read");
                false
            }
        }
    }

    /// Rules S1 and P6.
    pub(crate) async fn raise_floors(
        &self,
        safe_point: Timestamp,
        txn_floor: Timestamp,
        deadline: Instant,
    ) -> Outcome {
        let body = Command::RaiseFloors(pb::RaiseFloorsCommand {
            safe_point: safe_point.0,
            txn_floor: txn_floor.0,
        });
        self.replicate_own(body, deadline).await
    }
}
