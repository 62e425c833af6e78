//! Moving the read timestamp forward: past an uncertain event, or past a row that was changed
//! before it was locked. What was read before must be unchanged up to there (rule R2, DESIGN §6).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::SqlError;
use quorate_planner::parse::IsolationLevel;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_request;
use quorate_proto::{Timestamp, pb};

use super::costs::add_micros;
use super::errors::{self, Change, Stuck};
use super::reads::ReadSet;
use super::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing};
use super::txn::Txn;
use crate::runtime;

/// Moves of the read timestamp within one statement before it gives up with `40001`.
const MOVES_MAX: usize = 64;

impl Txn {
    /// Waits until everything that may have been committed by now lies below the clock. The
    /// snapshot of its first statement, taken after that, leaves nothing uncertain (rule R2): a
    /// transaction that only reads cannot fail because of others then.
    pub async fn defer(&self) {
        let clock = self.dist.clock();
        let all_before = clock.now().bound_after(clock.max_offset());
        let began = clock.monotonic();
        loop {
            let wait = clock.wait_until_passed(all_before);
            if wait.is_zero() {
                break;
            }
            runtime::pause(wait).await;
        }
        add_micros(&self.counters.clock_wait_us, clock.monotonic().saturating_sub(began));
        self.own.lock().deferred = Some(all_before);
    }

    /// Moves the read timestamp past an uncertain event.
    pub(super) async fn move_past(&self, event: Timestamp, what: &Change) -> Result<(), SqlError> {
        match self.move_forward(event).await? {
            None => Ok(()),
            Some(stuck) => Err(errors::uncertain(&self.dist, what, &stuck)),
        }
    }

    /// Moves the read timestamp beyond an event, if everything read so far is unchanged up to
    /// there; else why not. The new timestamp is a reading of our clock (rule T1).
    async fn move_forward(&self, event: Timestamp) -> Result<Option<Stuck>, SqlError> {
        if self.current.moves.fetch_add(1, Ordering::Relaxed) >= MOVES_MAX as u64 {
            return Ok(Some(Stuck::TooOften));
        }
        let clock = self.dist.clock();
        // The event may be ahead of our clock: with it observed, the next reading is above it. A
        // clock that refuses it has its own error.
        clock.observe(event).map_err(|e| errors::clock(&e))?;
        let new_ts = clock.now();
        self.snapshot.right_stands().await?;
        // Rule T4, also for a read timestamp that moved.
        add_micros(&self.counters.clock_wait_us, self.dist.commit_wait(new_ts).await);
        self.counters.moves.fetch_add(1, Ordering::Relaxed);
        loop {
            let (old_ts, known, checks) = {
                let times = self.snapshot.times.lock();
                (times.read_ts, times.count(), times.checks())
            };
            if old_ts >= event {
                // Another read of the same statement was faster.
                return Ok(None);
            }
            if let Some(change) = self.changed(checks, new_ts).await? {
                return Ok(Some(Stuck::Changed(change)));
            }
            let mut times = self.snapshot.times.lock();
            if times.read_ts != old_ts || times.count() != known {
                // What another read has brought meanwhile was not among the checks.
                continue;
            }
            times.read_ts = new_ts;
            // Events after the first choice of the timestamp cannot have been before us: the
            // window keeps its end, and what is above `new_ts` but inside it stays uncertain.
            times.uncertain_upto = times.uncertain_upto.max(new_ts);
            return Ok(None);
        }
    }

    /// What of all that was read was changed up to `upto`, if anything.
    async fn changed(
        &self,
        checks: Vec<pb::ReadCheck>,
        upto: Timestamp,
    ) -> Result<Option<Change>, SqlError> {
        let mut left = checks;
        let started = self.dist.clock().monotonic();
        while !left.is_empty() {
            let groups = self.dist.group_checks(left).await?;
            let request = |(key, checks): &(Bytes, Vec<pb::ReadCheck>)| Outgoing {
                key: key.clone(),
                body: range_request::Body::Check(pb::CheckRequest {
                    txn_id: self.id.to_bytes(),
                    upto: upto.0,
                    checks: checks.clone(),
                }),
            };
            self.counters.rpc_rounds.fetch_add(1, Ordering::Relaxed);
            let requests = groups.iter().map(request).collect();
            let answers = self.dist.sender().round(requests, ATTEMPT_TIMEOUT).await;
            left = Vec::new();
            for ((_, checks), answer) in groups.into_iter().zip(answers) {
                match answer {
                    Ok(_) => {}
                    Err(Failure::Range(pb::RangeError {
                        kind: Some(Kind::Conflict(pb::Conflict { key, writer, .. })),
                        ..
                    })) => return Ok(Some(Change { key, writer })),
                    Err(Failure::Range(pb::RangeError {
                        kind: Some(Kind::Locked(locked)),
                        ..
                    })) => {
                        self.dist.clear_lock(&locked).await?;
                        left.extend(checks);
                    }
                    Err(e) if e.curable() => left.extend(checks),
                    Err(e) => return Err(self.dist.read_error(e)),
                }
            }
            if !left.is_empty() {
                self.patience(started, "checking earlier reads")?;
                runtime::pause(Duration::from_millis(5)).await;
            }
        }
        Ok(None)
    }

    /// A row was changed after this statement has read it and before it was locked, for which was
    /// `waited`: the statement must be begun once more, at a later time. It has given nothing out
    /// yet. What statements before it have read must be unchanged up to then; under READ COMMITTED
    /// it need not.
    pub(super) async fn overtaken(
        &self,
        newest: Timestamp,
        row: &Change,
        waited: Duration,
    ) -> Result<(), SqlError> {
        let failed = |stuck: Option<&Stuck>| Err(errors::overtaken(&self.dist, row, waited, stuck));
        if self.current.given.load(Ordering::Relaxed) {
            return failed(None);
        }
        let isolation = {
            let mut own = self.own.lock();
            let before = own.locked_before;
            own.locked.truncate(before);
            own.isolation
        };
        // Whatever its clock says: the next attempt must read it.
        self.dist.clock().observe(newest).map_err(|e| errors::clock(&e))?;
        if isolation != IsolationLevel::ReadCommitted {
            {
                let mut times = self.snapshot.times.lock();
                times.reads = ReadSet::default();
                times.changed.clear();
            }
            if let Some(stuck) = self.move_forward(newest).await? {
                return failed(Some(&stuck));
            }
        }
        self.current.overtaken.store(true, Ordering::Relaxed);
        failed(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use quorate_planner::error::SqlState;
    use quorate_planner::kv::KvTxn as _;
    use quorate_planner::parse::IsolationLevel;

    use crate::catalog::CatalogStore;
    use crate::dist::Txn;
    use crate::dist::terms::Terms;
    use crate::dist::tests::{cluster_of, node_clock, write};
    use crate::testing::TestClock;

    /// Whether the deferred one or another: both see what a node whose clock is ahead has committed
    /// before. What comes later makes the other move, or fail, and is nothing to the deferred one.
    #[tokio::test]
    async fn a_deferred_transaction_is_sure_of_its_snapshot() {
        let physical = TestClock::new();
        let nodes = node_clock(physical.ahead(Duration::from_millis(100)));
        let (_, dist) = cluster_of(node_clock(physical), nodes);
        write(&dist, &["a", "b"], "1").await.unwrap();
        let begin = || Txn::begin_at(dist.clone(), true, IsolationLevel::Serializable);
        let (deferred, other) = (begin(), begin());
        deferred.defer().await;
        let (deferred, other) =
            (deferred.statement(Terms::default()), other.statement(Terms::default()));
        let began = (deferred.read_ts(), other.read_ts());
        write(&dist, &["a", "b"], "2").await.unwrap();
        let get = async |txn: &Txn, key: &'static str| {
            txn.get(vec![Bytes::from(key)]).await.unwrap().pop().flatten()
        };
        for key in ["a", "b"] {
            assert_eq!(get(&deferred, key).await, Some(Bytes::from("1")), "{key}");
        }
        assert_eq!(deferred.read_ts(), began.0);
        assert_eq!(get(&other, "a").await, Some(Bytes::from("2")));
        assert!(other.read_ts() > began.1);
        assert!(deferred.costs().clock_wait >= dist.clock().max_offset());
    }

    /// A snapshot that was taken before a schema change is read on, but does not become one after
    /// it: what it would see then may lie in another storage.
    #[tokio::test]
    async fn a_snapshot_does_not_move_past_a_schema_change() {
        let physical = TestClock::new();
        let nodes = node_clock(physical.ahead(Duration::from_millis(100)));
        let (_, dist) = cluster_of(node_clock(physical), nodes);
        write(&dist, &["a", "b"], "1").await.unwrap();
        let store = CatalogStore::new(dist.clone(), Duration::from_secs(60));
        store.refresh().await.unwrap();
        let pins = [store.pin(), store.pin()];
        let [beside, before] = pins.each_ref().map(|pin| {
            let txn = Txn::begin(dist.clone(), true);
            txn.goes_by(pin.right());
            txn.statement(Terms::default())
        });
        let get = async |txn: &Txn, key: &'static str| txn.get(vec![Bytes::from(key)]).await;
        write(&dist, &["b"], "2").await.unwrap();
        for txn in [&beside, &before] {
            get(txn, "a").await.unwrap();
        }
        get(&beside, "b").await.unwrap();
        // Nothing has changed; the barrier is that of a change.
        store.barrier(1).await.unwrap();
        get(&before, "a").await.unwrap();
        let error = get(&before, "b").await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::SERIALIZATION_FAILURE, "{error}");
        assert!(error.message.contains("schema change"), "{error}");
    }
}
