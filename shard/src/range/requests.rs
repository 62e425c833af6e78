//! From a request to the handler of its range, and what handlers share: deadlines and waiting.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::pb::range_request::Body as Ask;
use quorate_proto::{RangeId, pb};
use quorate_txn::leader::{WaitOn, Waiting};
use tokio::time::Instant;

use super::config::LOCK_WAIT_MAX;
use super::errors::{self, Outcome};
use super::metrics::RangeMetrics;
use super::replica::{Ranges, Replica};

/// What one attempt came to.
pub(crate) enum Attempt {
    /// The answer.
    Done(quorate_proto::pb::range_response::Body),
    /// Somebody's write or lock is in the way.
    Wait(Waiting),
    /// Something else is: try again when anything changes, or answer this error.
    Changed(pb::RangeError),
    /// The clock must pass something first.
    Pause(Duration),
}

impl Ranges {
    /// Answers one request before the deadline.
    pub async fn serve(&self, request: pb::RangeRequest, deadline: Instant) -> pb::RangeResponse {
        let outcome = self.route(request, deadline).await;
        if let Err(error) = &outcome {
            self.count(error);
        }
        errors::response(outcome)
    }

    async fn route(&self, request: pb::RangeRequest, deadline: Instant) -> Outcome {
        let Some(range) = request.range else {
            return Err(errors::invalid("a request without a range"));
        };
        let Some(body) = request.body else {
            return Err(errors::invalid("a request this release does not know"));
        };
        let id = RangeId(range.range_id);
        let Some(replica) = self.replica(id) else {
            return Err(self.no_replica(id, &body));
        };
        replica.answer(range.epoch, body, deadline).await
    }

    fn no_replica(&self, id: RangeId, body: &Ask) -> pb::RangeError {
        let mut known = Vec::new();
        if let Some(key) = first_key(body) {
            let end = quorate_txn::keys::next_key(&key);
            self.known(&key, &end, &mut known);
        }
        match known.is_empty() {
            true => errors::not_leader(id, None, None),
            false => errors::stale_route(id, known),
        }
    }

    fn count(&self, error: &pb::RangeError) {
        use quorate_proto::pb::range_error::Kind;
        let counter = match &error.kind {
            Some(Kind::Locked(_)) => &self.metrics.locked,
            Some(Kind::Conflict(_)) => &self.metrics.conflicts,
            Some(Kind::Uncertain(_)) => &self.metrics.uncertain,
            Some(Kind::Unknown(_)) => &self.metrics.unknown,
            Some(Kind::DiskFull(_)) => &self.metrics.disk_full,
            _ => return,
        };
        RangeMetrics::inc(counter);
    }
}

/// A key the request is about, where it names one.
fn first_key(body: &Ask) -> Option<bytes::Bytes> {
    let anchor = |txn: &Option<pb::TxnMeta>| txn.as_ref().map(|txn| txn.anchor.clone());
    match body {
        Ask::Read(r) => r.keys.first().cloned(),
        Ask::Scan(r) => Some(r.start.clone()),
        Ask::Prepare(r) => r.writes.first().map(|w| w.key.clone()),
        Ask::Commit(r) => r.writes.first().map(|w| w.key.clone()),
        Ask::Verdict(r) => anchor(&r.txn),
        Ask::Close(r) => Some(r.key.clone()),
        Ask::Resolve(r) => r.keys.first().cloned(),
        Ask::Lookup(r) => anchor(&r.txn),
        Ask::Check(r) => r.checks.first().map(|c| c.start.clone()),
        Ask::DropRecord(r) => Some(r.anchor.clone()),
        Ask::Heartbeat(r) => Some(r.anchor.clone()),
        Ask::Hint(r) => r.keys.first().cloned(),
        Ask::Split(r) => Some(r.key.clone()),
        Ask::Lock(r) => r.keys.first().cloned(),
        Ask::Unlock(r) => r.keys.first().cloned(),
        Ask::TransferLeader(_)
        | Ask::ChangeReplicas(_)
        | Ask::RaiseSafePoint(_)
        | Ask::CloseTimestamp(_) => None,
    }
}

impl Replica {
    async fn answer(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        body: Ask,
        deadline: Instant,
    ) -> Outcome {
        let metrics = &self.node.metrics;
        match body {
            Ask::Read(r) => {
                RangeMetrics::inc(&metrics.reads);
                self.retry(deadline, || self.read(epoch, &r)).await
            }
            Ask::Scan(r) => {
                RangeMetrics::inc(&metrics.scans);
                self.retry(deadline, || self.scan(epoch, &r)).await
            }
            Ask::Prepare(r) => {
                RangeMetrics::inc(&metrics.prepares);
                self.prepare(epoch, r, deadline).await
            }
            Ask::Commit(r) => {
                RangeMetrics::inc(&metrics.commits);
                self.commit(epoch, r, deadline).await
            }
            Ask::Verdict(r) => {
                RangeMetrics::inc(&metrics.verdicts);
                self.verdict(epoch, r, deadline).await
            }
            Ask::Close(r) => {
                RangeMetrics::inc(&metrics.closes);
                self.close(epoch, r, deadline).await
            }
            Ask::Resolve(r) => {
                RangeMetrics::inc(&metrics.resolves);
                self.resolve(epoch, r, deadline).await
            }
            Ask::Lookup(r) => {
                RangeMetrics::inc(&metrics.lookups);
                self.lookup(epoch, &r, deadline).await
            }
            Ask::Check(r) => self.retry(deadline, || self.check(epoch, &r)).await,
            Ask::DropRecord(r) => self.drop_record(epoch, r, deadline).await,
            Ask::Heartbeat(r) => self.heartbeat(epoch, &r),
            Ask::Hint(r) => self.hint(epoch, &r),
            Ask::Lock(r) => self.lock(epoch, &r, deadline).await,
            Ask::Unlock(r) => self.unlock(&r),
            Ask::Split(r) => self.split(epoch, r, deadline).await,
            Ask::TransferLeader(r) => self.transfer(&r, deadline).await,
            Ask::ChangeReplicas(r) => self.change_replicas(&r, deadline).await,
            Ask::RaiseSafePoint(r) => self.raise_safe_point(&r, deadline).await,
            Ask::CloseTimestamp(r) => {
                self.retry(deadline, || self.close_timestamp(epoch, &r)).await
            }
        }
    }

    /// Attempts until one is done; between attempts waits for what is in the way. Whoever waits
    /// holds nothing.
    pub(crate) async fn retry(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut() -> Result<Attempt, pb::RangeError>,
    ) -> Outcome {
        let mut lock_wait_ends = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the attempt: a change between it and the wait must not be missed.
            changed.as_mut().enable();
            let (until, give_up) = match attempt()? {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Pause(pause) => {
                    let until = now() + pause;
                    if until > deadline {
                        return Err(errors::unavailable("the clock is behind what was read"));
                    }
                    tokio::time::sleep_until(until).await;
                    continue;
                }
                Attempt::Changed(error) => (deadline, error),
                Attempt::Wait(waiting) => {
                    let until = match waiting.on {
                        WaitOn::InFlight(_) => deadline,
                        WaitOn::Lock(..) | WaitOn::Resolve(..) => *lock_wait_ends
                            .get_or_insert_with(|| deadline.min(now() + LOCK_WAIT_MAX)),
                    };
                    (until, waiting.give_up())
                }
            };
            RangeMetrics::inc(&self.node.metrics.waits);
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Err(give_up);
            }
        }
    }
}

/// The runtime's clock, for deadlines alone: no decision of the protocol is made by it.
pub(crate) fn now() -> Instant {
    Instant::now()
}
