//! A cluster in one thread: manual clocks, in-memory twins that crash, and workers that are
//! passed by hand. Every step checks that nobody serves under a lease beside another.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::{NodeId, RangeId, Timestamp, pb};
use quorate_txn::clock::{ManualClock, NodeClock, PhysicalClock};
use quorate_txn::config::MAX_CLOCK_OFFSET;

use crate::engine::{Batch, Cf, Engine, MemEngine};
use crate::log::{LogStore, MemLog};
use crate::raft::runtime::drain;
use crate::raft::*;
use crate::transport::RaftTransport;
use crate::transport::local::Router;

/// What a machine saw, kept by the test.
#[derive(Default)]
pub struct Seen {
    pub proposed: HashMap<u64, (u64, u64)>,
    pub rejected: Vec<(u64, ProposeError)>,
    pub applied: BTreeMap<u64, (u64, Vec<u8>)>,
    pub visible: u64,
    pub roles: Vec<RoleEvent>,
    pub snapshots: u32,
    pub destroyed: bool,
}

pub type Book = Arc<Mutex<HashMap<RangeId, Seen>>>;

/// Puts `key=value`; `split:<key>:<range>:<peer>,<peer>…`; `handover`.
struct Register {
    range: RangeId,
    book: Book,
    leads: bool,
    rows_left: bool,
}

impl Register {
    fn note<R>(&self, f: impl FnOnce(&mut Seen) -> R) -> R {
        f(self.book.lock().entry(self.range).or_default())
    }

    fn split(&self, rest: &str, state: &mut pb::RangeState) -> Effect {
        let mut parts = rest.split(':');
        let key = Bytes::from(parts.next().unwrap().to_string());
        let range_id: u64 = parts.next().unwrap().parse().unwrap();
        let peers = parts.next().unwrap().split(',').map(|p| p.parse::<u64>().unwrap());
        let left = state.descriptor.as_mut().unwrap();
        let mut right = left.clone();
        right.range_id = range_id;
        right.start = key.clone();
        left.end = key;
        left.epoch.as_mut().unwrap().version += 1;
        right.epoch = left.epoch;
        for (replica, peer) in right.replicas.iter_mut().zip(peers) {
            replica.peer_id = peer;
        }
        let right = Box::new(pb::RangeState { descriptor: Some(right), ..Default::default() });
        let given = Handover { max_read_ts: Timestamp(77), clock: Timestamp(1) };
        Effect::Split { right, handover: self.leads.then_some(given) }
    }
}

impl RangeMachine for Register {
    fn apply(
        &mut self,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Vec<Effect> {
        let text = std::str::from_utf8(entry.data).unwrap();
        let taken = (entry.term, entry.data.to_vec());
        self.note(|seen| seen.applied.insert(entry.index, taken));
        if let Some(rest) = text.strip_prefix("split:") {
            return vec![self.split(rest, state)];
        }
        if text == "handover" {
            let given = Handover { max_read_ts: Timestamp(99), clock: Timestamp(1) };
            return vec![Effect::HandedOver(given)];
        }
        let (key, value) = text.split_once('=').unwrap();
        let key = Bytes::copy_from_slice(key.as_bytes());
        let descriptor = state.descriptor.as_ref().unwrap();
        let inside = key >= descriptor.start && (descriptor.end.is_empty() || key < descriptor.end);
        if inside {
            batch.put(Cf::Latest, &key, value.as_bytes());
        }
        Vec::new()
    }

    fn needs_written(&mut self, entry: LogEntry<'_>) -> bool {
        entry.index.is_multiple_of(2)
    }

    fn committed_visible(&mut self, applied: u64, _state: &pb::RangeState) {
        self.note(|seen| seen.visible = applied);
    }

    fn proposed(&mut self, token: u64, index: u64, term: u64) {
        self.note(|seen| seen.proposed.insert(token, (index, term)));
    }

    fn rejected(&mut self, token: u64, why: ProposeError) {
        self.note(|seen| seen.rejected.push((token, why)));
    }

    fn role_changed(&mut self, event: RoleEvent, _state: &pb::RangeState) {
        match event {
            RoleEvent::Serving { .. } => self.leads = true,
            RoleEvent::Lost { .. } => self.leads = false,
            _ => {}
        }
        self.note(|seen| seen.roles.push(event));
    }

    fn replicas_changed(&mut self, _state: &pb::RangeState) {}

    fn rows_leave(&mut self) {
        self.rows_left = true;
    }

    fn snapshot_installed(&mut self, _state: &pb::RangeState) {
        assert!(std::mem::take(&mut self.rows_left), "readers were told before the rows left");
        self.note(|seen| seen.snapshots += 1);
    }

    fn hand_over(&mut self, _term: u64, _state: &pb::RangeState) -> Vec<u8> {
        b"handover".to_vec()
    }

    fn destroyed(&mut self) {
        assert!(self.rows_left, "readers were told before the rows left");
        self.note(|seen| seen.destroyed = true);
    }
}

pub struct Factory {
    pub book: Book,
    pub fatal: Arc<Mutex<Vec<String>>>,
}

impl MachineFactory for Factory {
    fn create(&self, shared: Arc<GroupShared>, _state: &pb::RangeState) -> Box<dyn RangeMachine> {
        let book = self.book.clone();
        Box::new(Register { range: shared.range(), book, leads: false, rows_left: false })
    }

    fn fatal(&self, range: Option<RangeId>, why: &str) {
        self.fatal.lock().push(format!("{range:?}: {why}"));
    }
}

pub struct TestNode {
    pub id: NodeId,
    pub engine: Arc<MemEngine>,
    pub log: Arc<MemLog>,
    pub clock: Arc<ManualClock>,
    pub book: Book,
    pub driver: Option<Driver>,
    fatal: Arc<Mutex<Vec<String>>>,
}

impl TestNode {
    pub fn handle(&self) -> RaftHandle {
        self.driver.as_ref().expect("the node runs").handle()
    }

    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.engine.snapshot().get(Cf::Latest, key.as_bytes()).unwrap()
    }

    pub fn seen<R>(&self, range: RangeId, f: impl FnOnce(&mut Seen) -> R) -> R {
        f(self.book.lock().entry(range).or_default())
    }

    pub fn serves(&self, range: RangeId) -> bool {
        let lease = self.driver.as_ref().and_then(|driver| driver.handle().lease(range));
        lease.is_some_and(|lease| lease.valid_at(self.clock.monotonic()))
    }

    pub fn metric(&self, name: &str) -> u64 {
        let all = self.handle().metrics().snapshot();
        all.iter().find(|(known, _)| *known == name).expect("a known metric").1
    }
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, TestNode>,
    pub router: Arc<Router>,
    pub dir: tempfile::TempDir,
    pub seed: u64,
    workers: usize,
    next_token: u64,
}

const STEP: Duration = Duration::from_millis(10);
pub const RANGE: RangeId = RangeId(2);

pub fn descriptor(range: RangeId, nodes: &[u64]) -> pb::RangeDescriptor {
    let replicas = nodes.iter().map(|node| pb::Replica {
        node_id: *node,
        peer_id: 100 * range.0 + node,
        role: pb::ReplicaRole::Voter as i32,
    });
    pb::RangeDescriptor {
        range_id: range.0,
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Some(pb::Epoch { conf: 1, version: 1 }),
        replicas: replicas.collect(),
    }
}

impl Cluster {
    /// `n` nodes without ranges.
    pub fn empty(n: u64, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            router: Router::new(),
            dir,
            seed,
            workers: 2,
            next_token: 0,
        };
        for id in 1..=n {
            cluster.add_node(id);
        }
        cluster
    }

    /// `n` nodes and one range on all of them, which serves.
    pub fn new(n: u64, seed: u64) -> Self {
        let mut cluster = Self::empty(n, seed);
        let all: Vec<u64> = (1..=n).collect();
        cluster.create(descriptor(RANGE, &all));
        cluster.wait("the range serves", |c| c.leader(RANGE).is_some());
        cluster
    }

    pub fn add_node(&mut self, id: u64) {
        let node = TestNode {
            id: NodeId(id),
            engine: Arc::new(MemEngine::new()),
            log: Arc::new(MemLog::new()),
            // Nodes are up to 40 ms apart.
            clock: Arc::new(ManualClock::new(Timestamp::from_duration(
                Duration::from_secs(1_000_000) + Duration::from_millis(id * 10),
            ))),
            book: Book::default(),
            driver: None,
            fatal: Arc::default(),
        };
        if let Some(other) = self.nodes.values().next() {
            node.clock.advance(other.clock.monotonic());
        }
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub fn start(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let config = RaftConfig {
            node: node.id,
            cluster_id: Bytes::from_static(b"0123456789abcdef"),
            workers: self.workers,
            seed: self.seed.wrapping_mul(31).wrapping_add(id),
            snapshot_dir: self.dir.path().join(format!("n{id}")),
        };
        let transport: Arc<dyn RaftTransport> = self.router.transport(node.id);
        let physical: Arc<dyn PhysicalClock> = node.clock.clone();
        let deps = RaftDeps {
            engine: node.engine.clone() as Arc<dyn Engine>,
            log: node.log.clone() as Arc<dyn LogStore>,
            clock: Arc::new(NodeClock::new(physical, Timestamp::ZERO, MAX_CLOCK_OFFSET)),
            transport,
            factory: Arc::new(Factory { book: node.book.clone(), fatal: node.fatal.clone() }),
            background: Arc::new(InlineBackground),
        };
        node.driver = Some(Driver::open(config, deps).unwrap());
    }

    /// kill -9: memory, unsynced log and unflushed rows are gone.
    pub fn kill(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        self.router.remove(node.id);
        node.driver = None;
        node.log.crash();
        node.engine.crash();
        // What a client was told stays known to the test; the replica begins anew.
        for seen in node.book.lock().values_mut() {
            seen.visible = 0;
            seen.applied.clear();
        }
    }

    pub fn create(&mut self, descriptor: pb::RangeDescriptor) {
        for replica in descriptor.replicas.clone() {
            let state =
                pb::RangeState { descriptor: Some(descriptor.clone()), ..Default::default() };
            let handle = self.nodes[&replica.node_id].handle();
            self.drive(async move { handle.create_group(state).await }).unwrap();
        }
    }

    /// One pass of the workers of a node.
    pub fn pass(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let driver = node.driver.as_mut().unwrap();
        for (worker, inbox) in &mut driver.workers {
            let mut inputs = Vec::new();
            drain(inbox, &mut inputs);
            assert!(worker.pass(&mut inputs), "stopped: {:?}", node.fatal.lock());
        }
    }

    /// Passes every worker until none has anything left to do, without moving time.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let mut worked = false;
            for node in self.nodes.values_mut() {
                let Some(driver) = &mut node.driver else { continue };
                for (worker, inbox) in &mut driver.workers {
                    let mut inputs = Vec::new();
                    drain(inbox, &mut inputs);
                    worked |= !inputs.is_empty() || worker.busy();
                    assert!(worker.pass(&mut inputs), "stopped: {:?}", node.fatal.lock());
                }
                assert!(node.fatal.lock().is_empty(), "{:?}", node.fatal.lock());
            }
            self.one_leaseholder();
            if !worked {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// Safety property: at each moment at most one node may serve reads of a range.
    fn one_leaseholder(&self) {
        let mut holders: HashMap<RangeId, NodeId> = HashMap::new();
        for node in self.nodes.values() {
            let Some(driver) = &node.driver else { continue };
            for range in driver.handle().ranges() {
                if node.serves(range)
                    && let Some(other) = holders.insert(range, node.id)
                {
                    panic!("both {} and {other} hold the lease of {range}", node.id);
                }
            }
        }
    }

    pub fn advance(&mut self, by: Duration) {
        for node in self.nodes.values() {
            node.clock.advance(by);
        }
    }

    pub fn run(&mut self, span: Duration) {
        let steps = span.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            self.advance(STEP);
            self.settle();
        }
    }

    /// Runs until the condition holds; returns how long that took.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Duration {
        for step in 0..3000 {
            self.settle();
            if holds(self) {
                return STEP * step;
            }
            self.advance(STEP);
        }
        panic!("waited 30 s in vain until {what}");
    }

    /// Runs the cluster until the future is done.
    pub fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3000 {
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
                return outcome;
            }
            self.settle();
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
                return outcome;
            }
            self.advance(STEP);
        }
        panic!("no outcome within 30 s");
    }

    /// The node that serves the range.
    pub fn leader(&self, range: RangeId) -> Option<u64> {
        self.nodes.iter().find(|(_, node)| node.serves(range)).map(|(id, _)| *id)
    }

    /// The node that serves and takes proposals.
    pub fn wait_writable(&mut self, range: RangeId) -> u64 {
        let mut found = 0;
        self.wait("somebody takes proposals", |c| {
            let leader = c.leader(range);
            found = leader.unwrap_or(0);
            leader.is_some_and(|leader| {
                let node = &c.nodes[&leader];
                node.handle().lease(range).unwrap().propose_after < node.clock.now()
            })
        });
        found
    }

    /// Proposes at that node; the token.
    pub fn propose(&mut self, node: u64, range: RangeId, data: &str) -> Result<u64, ProposeError> {
        self.next_token += 1;
        let token = self.next_token;
        let handle = self.nodes[&node].handle();
        let term = handle.lease(range).ok_or(ProposeError::NoReplica)?.term;
        handle.propose(range, term, token, data.as_bytes().to_vec())?;
        Ok(token)
    }

    /// Whether the proposal was applied at the node that took it.
    pub fn acknowledged(&self, node: u64, range: RangeId, token: u64) -> bool {
        self.nodes[&node].seen(range, |seen| {
            seen.proposed.get(&token).is_some_and(|(index, term)| {
                seen.visible >= *index
                    && seen.applied.get(index).is_some_and(|(applied, _)| applied == term)
            })
        })
    }

    /// Writes and waits until it is acknowledged.
    pub fn write(&mut self, range: RangeId, key: &str, value: &str) {
        let leader = self.wait_writable(range);
        let token = self.propose(leader, range, &format!("{key}={value}")).unwrap();
        self.wait("the write is acknowledged", |c| c.acknowledged(leader, range, token));
    }

    pub fn wait_value(&mut self, node: u64, key: &str, value: &str) {
        self.wait("the value arrives", |c| {
            c.nodes[&node].value(key).is_some_and(|found| found == value.as_bytes())
        });
    }

    pub fn flush(&self, node: u64) {
        self.nodes[&node].engine.flush().unwrap();
    }

    /// The state that a node's engine holds of a range.
    pub fn state(&self, node: u64, range: RangeId) -> Option<pb::RangeState> {
        let key = crate::engine::local::range_state_key(range);
        let bytes = self.nodes[&node].engine.snapshot().get(Cf::Local, &key).unwrap()?;
        Some(pb::RangeState::decode(&bytes[..]).unwrap())
    }

    pub fn sum(&self, metric: &str) -> u64 {
        self.nodes.values().filter(|n| n.driver.is_some()).map(|n| n.metric(metric)).sum()
    }

    pub fn quiet(&mut self, node: u64, range: RangeId) -> bool {
        let handle = self.nodes[&node].handle();
        self.drive(async move { handle.status(range).await }).is_some_and(|status| status.quiet)
    }
}
