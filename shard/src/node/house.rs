//! House-keeping of a node: four tasks that live as long as it does.
//!
//! * *keeper*: the clock's bound (T3) and the disk (S5). Nothing else may hold it up.
//! * *reporter*: tells the meta range what is led here.
//! * *pinger*: asks the other nodes for their clocks (`pinger`).
//! * *placer*: for the ranges led here: replicas on enough nodes, leaders spread evenly, floors,
//!   splits by size. Each leader decides for its own ranges: nothing has to be elected for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::pb::node_request::Body as Ask;
use quorate_proto::pb::node_response::Body as Answer;
use quorate_proto::{NodeId, RangeId, pb};
use quorate_txn::apply::ViewError;
use quorate_txn::config::{CLOCK_BOUND_AHEAD, CLOCK_BOUND_INTERVAL};
use quorate_txn::recovery::Leftover;
use tokio::time::Instant;

use super::config::*;
use super::{Node, identity, runtime};
use crate::engine::{KeySpan, find_split_key};
use crate::range::{META_RANGE, Replica, SweepCursor};

/// Rounds of something, one at a time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rounds(Arc<AtomicBool>);

impl Rounds {
    /// Begins one, unless another is on its way.
    fn begin(&self) -> Option<Round> {
        (!self.0.swap(true, Ordering::SeqCst)).then(|| Round(self.clone()))
    }
}

/// One round: over when it is dropped, however it ends.
struct Round(Rounds);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::SeqCst);
    }
}

/// Something done every so often.
struct Every {
    period: Duration,
    due: Option<Instant>,
}

impl Every {
    fn new(period: Duration) -> Self {
        Self { period, due: None }
    }

    /// Whether it is due; the first time after one period.
    fn due(&mut self, now: Instant) -> bool {
        let due = *self.due.get_or_insert(now + self.period);
        if now >= due {
            self.due = Some(now + self.period);
        }
        now >= due
    }
}

impl Node {
    pub(super) fn start_house_keeping(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let (keeper, reporter) = (self.clone(), self.clone());
        let (pinger, placer, asker) = (self.clone(), self.clone(), self.clone());
        vec![
            runtime::spawn(async move { keeper.keep().await }),
            runtime::spawn(async move { reporter.report_on().await }),
            runtime::spawn(async move { pinger.ping_on().await }),
            runtime::spawn(async move { placer.place_on().await }),
            runtime::spawn(async move { asker.ask_on().await }),
        ]
    }

    // ------------------------------------------------------------ keeper

    async fn keep(&self) {
        let mut bound = Every::new(CLOCK_BOUND_INTERVAL);
        loop {
            tokio::time::sleep(DISK_EVERY.min(CLOCK_BOUND_INTERVAL)).await;
            if let Some(disk) = self.disk.clone() {
                // What cannot be looked at keeps its state; a disk that fails stops the log.
                let polled =
                    runtime::blocking(self.config.workers_as_tasks, move || disk.poll()).await;
                if let Some(Err(error)) = polled {
                    tracing::warn!(%error, "the disk's free space is not known");
                }
            }
            if bound.due(Instant::now()) {
                self.write_clock_bound().await;
            }
            // What the gateway has learnt.
            self.save_addresses().await;
        }
    }

    /// Rule T3: durable first, used then.
    async fn write_clock_bound(&self) {
        let bound = self.ranges.clock.now().bound_after(CLOCK_BOUND_AHEAD);
        let log = self.log.clone();
        match runtime::blocking(self.config.workers_as_tasks, move || {
            identity::store_clock_bound(&*log, bound)
        })
        .await
        {
            Some(Ok(())) => self.ranges.set_clock_bound(bound),
            Some(Err(error)) => self.fail(&error.to_string()),
            None => self.fail("writing the clock's bound panicked"),
        }
    }

    fn fail(&self, why: &str) {
        crate::range::RangeEvents::failed(&*self.events, None, why);
    }

    // ------------------------------------------------------------ reporter

    async fn report_on(&self) {
        let mut told: BTreeMap<RangeId, pb::RangeRoute> = BTreeMap::new();
        loop {
            let news = self.events.routes.notified();
            let woken = tokio::time::timeout(REPORT_EVERY, news).await.is_ok();
            if woken {
                tokio::time::sleep(REPORT_AFTER).await;
            }
            let led: BTreeMap<_, _> = self.led_routes().into_iter().collect();
            told.retain(|range, _| led.contains_key(range));
            let routes: Vec<_> = led
                .iter()
                .filter(|(range, route)| told.get(range) != Some(route))
                .map(|(_, route)| route.clone())
                .collect();
            let heartbeat = !woken;
            if (heartbeat || !routes.is_empty()) && self.report(routes).await {
                told = led;
            }
        }
    }

    fn led_routes(&self) -> Vec<(RangeId, pb::RangeRoute)> {
        let route = |replica: Arc<Replica>| {
            let descriptor = Some(replica.descriptor());
            (replica.range, pb::RangeRoute { descriptor, leader_node_id: self.id().0 })
        };
        self.led().into_iter().map(route).collect()
    }

    /// Tells the meta range; whether it took it.
    async fn report(&self, routes: Vec<pb::RangeRoute>) -> bool {
        let request = Ask::Report(pb::ReportRequest { node: Some(self.info()), routes });
        match self.at_meta(request, false, Instant::now() + STEP_TIMEOUT).await {
            Ok(Answer::Report(answer)) => {
                *self.loads.lock() = answer.loads;
                self.learn(&answer.nodes).await;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(node = %self.id(), why = error.message, "a report was not taken");
                // Not at once again: the reason may be everybody's.
                self.events.routes.notify_one();
                tokio::time::sleep(META_RETRY).await;
                false
            }
        }
    }

    /// Adopts addresses, and writes down what is new: a node that is killed and knows nobody when
    /// it comes back cannot answer those who ask for its vote.
    pub(super) async fn learn(&self, nodes: &[pb::NodeInfo]) {
        let others = nodes.iter().filter(|node| node.node_id != self.id().0);
        self.connector.adopt(&others.cloned().collect::<Vec<_>>());
        self.save_addresses().await;
    }

    pub(super) async fn save_addresses(&self) {
        let _one_at_a_time = self.saving.lock().await;
        let Some(book) = self.connector.take_unsaved() else { return };
        let log = self.log.clone();
        if let Some(Err(error)) = runtime::blocking(self.config.workers_as_tasks, move || {
            identity::store_addresses(&*log, book)
        })
        .await
        {
            self.fail(&error.to_string());
        }
    }

    // ------------------------------------------------------------ placer

    async fn place_on(self: &Arc<Self>) {
        let mut spread = Every::new(SPREAD_EVERY);
        let mut floors = Every::new(FLOORS_EVERY);
        let mut sizes = Every::new(SIZES_EVERY);
        let mut sweeps = Every::new(SWEEP_EVERY);
        let mut activity = HashMap::new();
        let mut cursors = HashMap::new();
        loop {
            tokio::time::sleep(PLACE_EVERY).await;
            for replica in self.led() {
                self.place(&replica).await;
            }
            let now = Instant::now();
            if spread.due(now) {
                self.spread().await;
            }
            if floors.due(now) {
                self.raise_floors(&mut activity).await;
            }
            if sizes.due(now) {
                self.split_large().await;
            }
            if sweeps.due(now) {
                self.sweep(SWEEP_AGE, &mut cursors);
            }
        }
    }

    async fn ask_on(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(LOCKS_ASKED_EVERY).await;
            self.ask_about_locks(LOCKS_ASKED_AGE);
        }
    }

    /// One step towards as many replicas as there shall be, on live nodes with the fewest.
    async fn place(&self, replica: &Arc<Replica>) {
        let descriptor = replica.descriptor();
        let here = |node: u64| descriptor.replicas.iter().any(|r| r.node_id == node);
        let mut wanted: Vec<u64> = descriptor.replicas.iter().map(|r| r.node_id).collect();
        if wanted.len() < self.config.replication_factor {
            let load = |node: NodeId| {
                let loads = self.loads.lock();
                loads.iter().find(|l| l.node_id == node.0).map_or(0, |l| l.replicas)
            };
            let free = self.live().into_iter().filter(|node| !here(node.0));
            wanted.extend(free.min_by_key(|node| (load(*node), *node)).map(|node| node.0));
        }
        let voting = descriptor.replicas.iter().all(|r| r.role() == pb::ReplicaRole::Voter);
        if voting && wanted.len() == descriptor.replicas.len() {
            return;
        }
        if let Err(why) = replica.place(&wanted, Instant::now() + STEP_TIMEOUT).await {
            tracing::debug!(range = %replica.range, %why, "a replica was not placed yet");
        }
    }

    /// Moves one leader from here to the live node that leads the fewest, if that makes the
    /// numbers more even.
    async fn spread(&self) {
        let led = self.led();
        let mut leaders: BTreeMap<NodeId, u64> =
            self.live().into_iter().map(|node| (node, 0)).collect();
        for load in self.loads.lock().iter() {
            if let Some(count) = leaders.get_mut(&NodeId(load.node_id)) {
                *count = load.leaders;
            }
        }
        let mut targets: Vec<_> = leaders.into_iter().collect();
        targets.sort_by_key(|(node, count)| (*count, *node));
        for (node, count) in targets {
            if led.len() as u64 <= count + 1 {
                return;
            }
            let votes = |replica: &&Arc<Replica>| {
                replica
                    .descriptor()
                    .replicas
                    .iter()
                    .any(|r| r.node_id == node.0 && r.role() == pb::ReplicaRole::Voter)
            };
            let Some(replica) = led.iter().rev().find(votes) else { continue };
            if self.still_takes_leads(node).await && self.move_lead(replica.range, node).await {
                return;
            }
        }
    }

    /// The first of these that takes it: one may have died a moment ago.
    pub(super) async fn move_lead_to_one(&self, range: RangeId, nodes: Vec<NodeId>) -> bool {
        for to in nodes {
            if self.move_lead(range, to).await {
                return true;
            }
        }
        false
    }

    /// Whether it was taken.
    pub(super) async fn move_lead(&self, range: RangeId, to: NodeId) -> bool {
        let moved = tokio::time::timeout(STEP_TIMEOUT, self.raft.transfer(range, to)).await;
        match moved {
            Ok(Ok(())) => tracing::info!(%range, %to, "the lead moved"),
            Ok(Err(ref why)) => tracing::debug!(%range, %to, %why, "the lead did not move"),
            Err(_) => tracing::debug!(%range, %to, "the move of the lead takes long"),
        }
        matches!(moved, Ok(Ok(())))
    }

    /// Rules P3 and P4 for transactions nobody meets: one bounded step for each range led here.
    /// What is found goes to the gateway, beside this loop; the next step waits for it.
    pub(super) fn sweep(
        self: &Arc<Self>,
        age: Duration,
        cursors: &mut HashMap<RangeId, SweepCursor>,
    ) {
        let before = self.ranges.clock.now().bound_before(age);
        let led = self.led();
        cursors.retain(|range, _| led.iter().any(|replica| replica.range == *range));
        self.finish_leftovers(&self.sweeping, |replica| {
            replica.sweep(cursors.entry(replica.range).or_default(), before)
        });
    }

    /// The same for locks alone, sooner: a coordinator that died left many, and who reads across
    /// them would wait for each to expire after the other (P11 counts from the first question).
    pub(super) fn ask_about_locks(self: &Arc<Self>, age: Duration) {
        let before = self.ranges.clock.now().bound_before(age);
        self.finish_leftovers(&self.asking, |replica| replica.old_locks(before));
    }

    /// One round of a kind at a time. The two kinds do not wait for each other: locks whose anchor
    /// cannot be reached are found again and again.
    fn finish_leftovers(
        self: &Arc<Self>,
        rounds: &Rounds,
        mut find: impl FnMut(&Replica) -> Result<Vec<Leftover>, ViewError>,
    ) {
        let Some(gateway) = self.gateway.get().cloned() else { return };
        let Some(round) = rounds.begin() else { return };
        let mut leftovers = Vec::new();
        for replica in self.led().iter().filter(|replica| replica.range != META_RANGE) {
            match find(replica) {
                Ok(found) => leftovers.extend(found),
                Err(error) => self.fail(&error.to_string()),
            }
        }
        if leftovers.is_empty() {
            return;
        }
        runtime::spawn(async move {
            tracing::debug!(count = leftovers.len(), "finishes what coordinators have left");
            gateway.clean_up(leftovers).await;
            drop(round);
        });
    }

    async fn split_large(self: &Arc<Self>) {
        for replica in self.led().into_iter().filter(|replica| replica.range != META_RANGE) {
            let descriptor = replica.descriptor();
            let span = KeySpan::new(descriptor.start.clone(), descriptor.end.clone());
            let bytes = self.ranges.engine.approximate_bytes(&span).unwrap_or_default();
            if bytes.max(replica.state().bytes) <= self.config.range_bytes_max {
                continue;
            }
            let ranges = self.ranges.clone();
            let found = runtime::blocking(self.config.workers_as_tasks, move || {
                find_split_key(&*ranges.engine.snapshot(), &span)
            })
            .await;
            let Some(Ok(Some(key))) = found else { continue };
            let request = pb::RangeRequest {
                range: Some(pb::RangeRef { range_id: replica.range.0, epoch: descriptor.epoch }),
                body: Some(pb::range_request::Body::Split(pb::SplitRequest { key })),
            };
            let answer = self.ranges.serve(request, Instant::now() + STEP_TIMEOUT).await;
            tracing::info!(range = %replica.range, bytes, ?answer, "split by size");
        }
    }

    // ------------------------------------------------------------ drain

    /// Waits for the calls under way and moves the leaders away, both for a bounded time.
    pub(super) async fn drain(&self, ends: Instant) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                break;
            }
            if tokio::time::timeout_at(ends, idle).await.is_err() {
                break;
            }
        }
        // What came meanwhile.
        self.hand_leads_on(ends).await;
    }

    /// Moves every lead away, as far as there is somebody to take it: who did not answer a moment
    /// ago may do so now.
    pub(super) async fn hand_leads_on(&self, ends: Instant) {
        for _ in 0..HAND_ON_TRIES {
            let moves = self.moves_to(&self.live());
            let moves = moves.into_iter().map(|(range, to)| self.move_lead_to_one(range, to));
            match tokio::time::timeout_at(ends, join_all(moves)).await {
                Ok(moved) if moved.iter().all(|moved| *moved) => return,
                Ok(_) => tokio::time::sleep(HAND_ON_PAUSE).await,
                Err(_) => break,
            }
        }
        tracing::warn!(node = %self.id(), "stops before all its leaders have moved");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_over_however_it_ends() {
        let rounds = Rounds::default();
        let round = rounds.begin().expect("there is none");
        assert!(rounds.begin().is_none());
        drop(round);
        let dies = std::panic::AssertUnwindSafe(|| {
            let _round = rounds.begin();
            panic!("in the middle");
        });
        assert!(std::panic::catch_unwind(dies).is_err());
        assert!(rounds.begin().is_some());
    }
}
