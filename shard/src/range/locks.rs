//! Row locks at the leader (see `quorate_txn::leader::rows`): requests that wait for their turn are
//! parked, and woken one by one when they get a row.
//!
//! # Invariants
//! * Whoever waits is parked before the mutex under which it was told to wait is let go: a row that
//!   is granted in between wakes it.
//! * When the replica no longer leads, or rows leave by a split, everybody parked is woken and
//!   finds out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{TxnId, pb};
use quorate_txn::leader::locking::{Locking, Progress};
use quorate_txn::leader::{LeaderState, ReadSet, busy};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::errors::{self, Outcome};
use super::metrics::RangeMetrics;
use super::replica::{Core, Replica, span_of};
use super::requests::{Attempt, now};
use crate::mvcc::EngineView;

/// Requests that wait for row locks, by owner.
#[derive(Default)]
pub(crate) struct Parked(HashMap<TxnId, Vec<Arc<Waiter>>>);

/// One of them.
struct Waiter {
    notify: Notify,
    sequence: u64,
    /// Its owner has given up what it asks for.
    given_up: AtomicBool,
}

impl Parked {
    fn park(&mut self, owner: TxnId, sequence: u64) -> Arc<Waiter> {
        let given_up = AtomicBool::new(false);
        let waiter = Arc::new(Waiter { notify: Notify::new(), sequence, given_up });
        self.0.entry(owner).or_default().push(waiter.clone());
        waiter
    }

    fn leave(&mut self, owner: TxnId, waiter: &Arc<Waiter>) {
        if let Some(all) = self.0.get_mut(&owner) {
            all.retain(|parked| !Arc::ptr_eq(parked, waiter));
            if all.is_empty() {
                self.0.remove(&owner);
            }
        }
    }

    /// They got rows.
    pub fn wake(&self, owners: &[TxnId]) {
        for parked in owners.iter().filter_map(|owner| self.0.get(owner)).flatten() {
            parked.notify.notify_one();
        }
    }

    /// Requests of an owner from before `sequence` are nobody's any more.
    fn give_up(&self, owner: TxnId, sequence: u64) {
        let all = self.0.get(&owner).into_iter().flatten();
        for waiter in all.filter(|waiter| waiter.sequence < sequence) {
            waiter.given_up.store(true, Ordering::Relaxed);
            waiter.notify.notify_one();
        }
    }

    /// Nothing is as it was.
    pub fn wake_all(&self) {
        self.0.values().flatten().for_each(|parked| parked.notify.notify_one());
    }
}

/// A place among the parked, left when the request ends or is dropped.
struct Place<'a> {
    replica: &'a Replica,
    owner: TxnId,
    waiter: Arc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.replica.core.lock().parked.leave(self.owner, &self.waiter);
    }
}

/// One step of a request.
enum Step<'a> {
    Known(Attempt),
    Park(Place<'a>, pb::RangeError),
}

impl Replica {
    pub(crate) async fn lock(
        &self,
        epoch: Option<pb::Epoch>,
        request: &pb::LockRequest,
        deadline: Instant,
    ) -> Outcome {
        let wait = Duration::from_millis(u64::from(request.wait_ms));
        let until = deadline.min(now() + wait);
        // Who queues waits for nothing else any longer, either.
        let patience = if request.wait() == pb::LockWait::Block { until } else { deadline };
        // What was locked in another term is not any more.
        let mut progress = (0, Progress::default());
        loop {
            let mut park = None;
            let outcome = self
                .retry(patience, || match self.lock_step(epoch, request, &mut progress)? {
                    Step::Known(attempt) => Ok(attempt),
                    Step::Park(place, error) => {
                        park = Some((place, error));
                        Ok(Attempt::Done(Answer::Unlock(pb::UnlockResponse {})))
                    }
                })
                .await;
            let Some((place, error)) = park else { return outcome };
            RangeMetrics::inc(&self.node.metrics.lock_waits);
            let woken = tokio::time::timeout_at(until, place.waiter.notify.notified()).await;
            if woken.is_err() || place.waiter.given_up.load(Ordering::Relaxed) {
                return Err(error);
            }
        }
    }

    fn lock_step(
        &self,
        epoch: Option<pb::Epoch>,
        request: &pb::LockRequest,
        (locked_in, progress): &mut (u64, Progress),
    ) -> Result<Step<'_>, pb::RangeError> {
        let term = self.lead()?;
        if std::mem::replace(locked_in, term) != term {
            *progress = Progress::default();
        }
        let step = {
            let mut core = self.core.lock();
            if let Some(wait) = self.enter(&core, epoch, ReadSet::Keys(&request.keys))? {
                return Ok(Step::Known(wait));
            }
            let bounds = span_of(&core.descriptor());
            let node = self.node.clone();
            // Under the mutex: a key that left the lock table is visible in it (rule P1).
            let snapshot = node.engine.snapshot();
            let view = EngineView::new(&*snapshot, bounds);
            let mut woken = Vec::new();
            let leader = self.leader(&mut core, term)?;
            let now = node.clock.monotonic();
            let step = leader.lock(request, progress, &view, now, &mut woken);
            core.parked.wake(&woken);
            match step.map_err(|e| self.broken(&e))? {
                Locking::Queued { key, blockers } => {
                    let owner = request.owner.as_ref().and_then(|who| TxnId::from_bytes(&who.id));
                    let owner = owner.unwrap_or_default();
                    let waiter = core.parked.park(owner, request.sequence);
                    let place = Place { replica: self, owner, waiter };
                    return Ok(Step::Park(place, busy(&key, blockers)));
                }
                step => step,
            }
        };
        Ok(match step {
            Locking::Done(done) => {
                self.still_leads(term)?;
                Step::Known(Attempt::Done(Answer::Lock(done)))
            }
            Locking::Wait(waiting) => Step::Known(Attempt::Wait(waiting)),
            Locking::Refuse(error) => return Err(error),
            Locking::Queued { .. } => return Err(errors::invalid("it is parked already")),
        })
    }

    /// Whatever the route: what is not here is no longer held here.
    pub(crate) fn unlock(&self, request: &pb::UnlockRequest) -> Outcome {
        let owner = TxnId::from_bytes(&request.owner_id);
        let owner = owner.ok_or_else(|| errors::invalid("a lock has an owner"))?;
        // Who no longer leads has forgotten them; the sender must find who does.
        let term = self.lead()?;
        let now = self.node.clock.monotonic();
        {
            let mut core = self.core.lock();
            let leader = self.leader(&mut core, term)?;
            let woken = leader.unlock(owner, &request.keys, request.sequence, now)?;
            core.parked.give_up(owner, request.sequence);
            core.parked.wake(&woken);
        }
        // Commits wait for them, too.
        self.changed.notify_waiters();
        Ok(Answer::Unlock(pb::UnlockResponse {}))
    }

    /// These owners live, those that nobody has spoken of for long do not.
    pub(crate) fn keep_locks(&self, owners: &[TxnId]) {
        let now = self.node.clock.monotonic();
        let mut core = self.core.lock();
        let Some(leader) = core.leader.as_mut().filter(|leader| !leader.rows.is_empty()) else {
            return;
        };
        let mut woken = Vec::new();
        owners.iter().for_each(|owner| leader.rows.heard(*owner, now));
        leader.rows.drop_dead(now, &mut woken);
        core.parked.wake(&woken);
    }

    /// The row locks held and waited for here.
    pub(crate) fn list_locks(&self, request: pb::ListLocksRequest) -> Vec<pb::RowLock> {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let now = self.node.clock.monotonic();
        let core = self.core.lock();
        let leader = core.leader.as_ref();
        let list = |leader: &LeaderState| match request.waiting_only {
            true => leader.rows.list_waits(limit, now),
            false => leader.rows.list(limit, now),
        };
        leader.map(list).unwrap_or_default()
    }
}

impl Core {
    /// What was waited for may never come: everybody looks again.
    pub(crate) fn forget_leader(&mut self) {
        self.leader = None;
        self.parked.wake_all();
    }
}
