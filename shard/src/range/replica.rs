//! [`Replica`]: what the state machine of a replica and the request tasks share; [`Ranges`]: all
//! replicas of a node and what they work with.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use quorate_proto::pb::range_response::Body;
use quorate_proto::{NodeId, RangeId, Timestamp, pb};
use quorate_txn::apply::Floors;
use quorate_txn::clock::NodeClock;
use quorate_txn::keys;
use quorate_txn::leader::{LeaderState, Ticket};
use quorate_txn::mistakes::Mistake;
use tokio::sync::{Notify, oneshot};

use super::admin::Allocator;
use super::config::DESCRIPTORS_MAX;
use super::errors;
use super::locks::Parked;
use super::scan::ScanEngine;
use crate::disk::DiskGuard;
use crate::engine::{Engine, KeySpan};
use crate::raft::{GroupShared, ProposeError, RaftHandle};

/// Who waits for an entry of the log.
pub(crate) struct Waiter {
    pub ticket: Option<Ticket>,
    /// It is a split: reads of the keys that leave wait for its end (rule L5).
    pub split: bool,
    pub answer: oneshot::Sender<Body>,
}

/// The part of a replica behind its mutex.
///
/// # Invariants
/// * `state` is what the engine shows, or older: never newer.
/// * `leader` is set exactly while this replica leads a term.
/// * Every token in `by_index` is in `waiters`.
pub(crate) struct Core {
    pub state: pb::RangeState,
    pub leader: Option<LeaderState>,
    /// Rule L5: keys at or above it are about to leave; no lease reads of them.
    pub splitting: Option<Bytes>,
    pub waiters: HashMap<u64, Waiter>,
    pub by_index: BTreeMap<u64, (u64, u64)>,
    pub parked: Parked,
}

/// One replica of a range on this node.
pub struct Replica {
    /// Which range.
    pub range: RangeId,
    pub(crate) group: Arc<GroupShared>,
    pub(crate) core: Mutex<Core>,
    /// Something that requests wait for may have happened.
    pub(crate) changed: Notify,
    pub(crate) refusals: AtomicUsize,
    /// Raised before the batch that raises it is written: never older than a snapshot taken before
    /// it is loaded (rules R4, R5).
    delete_watermark: AtomicU64,
    /// The same for the safe point.
    safe_point: AtomicU64,
    /// How often its rows were about to leave, or back; odd: they are not there.
    rows: AtomicU64,
    pub(crate) node: Arc<Ranges>,
    next_token: AtomicU64,
}

/// The floors of a range.
pub(crate) fn floors_of(state: &pb::RangeState) -> Floors {
    Floors {
        safe_point: Timestamp(state.safe_point),
        txn_floor: Timestamp(state.txn_floor),
        delete_watermark: Timestamp(state.delete_watermark),
    }
}

/// The number that every change of bounds raises.
pub(crate) fn version_of(descriptor: &pb::RangeDescriptor) -> u64 {
    descriptor.epoch.map_or(0, |epoch| epoch.version)
}

/// The bounds of a range.
pub(crate) fn span_of(descriptor: &pb::RangeDescriptor) -> KeySpan {
    KeySpan::new(descriptor.start.clone(), descriptor.end.clone())
}

/// Whether two spans have a key in common; an empty end is beyond every key.
pub(crate) fn overlap(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> bool {
    (b.1.is_empty() || a.0 < b.1) && (a.1.is_empty() || b.0 < a.1)
}

impl Core {
    pub fn descriptor(&self) -> pb::RangeDescriptor {
        self.state.descriptor.clone().unwrap_or_default()
    }

    pub fn version(&self) -> u64 {
        self.state.descriptor.as_ref().map_or(0, version_of)
    }

    /// Whether this is the range of the meta keyspace, which no transaction may touch.
    pub fn is_meta(&self) -> bool {
        self.state.descriptor.as_ref().is_some_and(|d| d.start.as_ref() < keys::DB_START)
    }

    /// Whether a key is about to leave (rule L5).
    pub fn leaving(&self, key: &[u8]) -> bool {
        self.splitting().is_some_and(|at| key >= at.as_ref())
    }

    /// Whether keys of a span are about to leave.
    pub fn leaving_below(&self, end: &[u8]) -> bool {
        self.splitting().is_some_and(|at| end.is_empty() || end > at.as_ref())
    }

    fn splitting(&self) -> Option<&Bytes> {
        self.splitting.as_ref().filter(|_| !Mistake::LeavingKeysServed.is_made())
    }
}

impl Replica {
    pub(crate) fn new(
        node: Arc<Ranges>,
        group: Arc<GroupShared>,
        state: &pb::RangeState,
    ) -> Arc<Self> {
        let core = Core {
            state: state.clone(),
            leader: None,
            splitting: None,
            waiters: HashMap::new(),
            by_index: BTreeMap::new(),
            parked: Parked::default(),
        };
        Arc::new(Self {
            range: group.range(),
            group,
            core: Mutex::new(core),
            changed: Notify::new(),
            refusals: AtomicUsize::new(0),
            delete_watermark: AtomicU64::new(state.delete_watermark),
            safe_point: AtomicU64::new(state.safe_point),
            rows: AtomicU64::new(0),
            node,
            next_token: AtomicU64::new(1),
        })
    }

    /// What `apply` is about to write.
    pub(crate) fn raise_marks(&self, state: &pb::RangeState) {
        self.delete_watermark.fetch_max(state.delete_watermark, Ordering::SeqCst);
        self.safe_point.fetch_max(state.safe_point, Ordering::SeqCst);
    }

    /// Not older than any snapshot of the engine taken before.
    pub(crate) fn delete_watermark(&self) -> Timestamp {
        Timestamp(self.delete_watermark.load(Ordering::SeqCst))
    }

    /// Not older than what any snapshot of the engine taken before shows.
    pub(crate) fn safe_point(&self) -> Timestamp {
        Timestamp(self.safe_point.load(Ordering::SeqCst))
    }

    /// Before the rows are deleted: a snapshot of the engine without them is taken later.
    pub(crate) fn rows_leave(&self) {
        self.rows.fetch_or(1, Ordering::SeqCst);
    }

    /// Those that are there now are what the range's state says. Only the range's worker calls this
    /// and [`Replica::rows_leave`].
    pub(crate) fn rows_are_back(&self) {
        let rows = self.rows.load(Ordering::SeqCst);
        self.rows.store(rows + rows % 2, Ordering::SeqCst);
    }

    /// Which rows are there, if they are: the same number before and after a snapshot of the engine
    /// says that they were there when it was taken.
    pub(crate) fn rows(&self) -> Result<u64, pb::RangeError> {
        match self.rows.load(Ordering::SeqCst) {
            rows if rows % 2 == 0 => Ok(rows),
            _ => Err(errors::unavailable("the replica's rows are being replaced")),
        }
    }

    /// The descriptor as applied here.
    pub fn descriptor(&self) -> pb::RangeDescriptor {
        self.core.lock().descriptor()
    }

    /// The whole state as applied here.
    pub fn state(&self) -> pb::RangeState {
        self.core.lock().state.clone()
    }

    /// The replica leads and holds a valid lease now (rule L1): its term.
    pub(crate) fn lead(&self) -> Result<u64, pb::RangeError> {
        let lease = self.group.lease();
        if !lease.leader {
            return Err(self.not_leader());
        }
        if !lease.valid_at(self.node.clock.monotonic()) {
            return Err(errors::no_lease(self.range));
        }
        self.node.check_clock()?;
        Ok(lease.term)
    }

    /// It still does, in the same term: to be asked *after* a read (rule L1).
    pub(crate) fn still_leads(&self, term: u64) -> Result<(), pb::RangeError> {
        match self.lead()? == term {
            true => Ok(()),
            false => Err(errors::no_lease(self.range)),
        }
    }

    pub(crate) fn not_leader(&self) -> pb::RangeError {
        let leader = self.group.lease().leader_node.filter(|node| *node != self.node.id());
        errors::not_leader(self.range, leader, Some(self.descriptor()))
    }

    /// The asked epoch and keys are this range's; else what is known of the keys.
    pub(crate) fn check_route<'a>(
        &self,
        core: &Core,
        epoch: Option<pb::Epoch>,
        mut asked: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<(), pb::RangeError> {
        let descriptor = core.state.descriptor.as_ref();
        let Some(descriptor) = descriptor else {
            return Err(errors::unavailable("the replica has no state yet"));
        };
        let inside = |(start, end): (&[u8], &[u8])| {
            start >= descriptor.start.as_ref()
                && match descriptor.end.is_empty() {
                    true => true,
                    false => !end.is_empty() && end <= descriptor.end.as_ref(),
                }
        };
        let version = epoch.map_or(0, |epoch| epoch.version);
        let spans = asked.clone();
        if version == version_of(descriptor) && asked.all(inside) {
            return Ok(());
        }
        let mut known = vec![descriptor.clone()];
        for (start, end) in spans.take(DESCRIPTORS_MAX) {
            self.node.known(start, end, &mut known);
        }
        Err(errors::stale_route(self.range, known))
    }

    /// Registers who waits and puts the command on its way. An error means that it certainly did
    /// not enter the log; the ticket is free again then.
    pub(crate) fn propose(
        &self,
        core: &mut Core,
        term: u64,
        ticket: Option<Ticket>,
        body: pb::command::Body,
    ) -> Result<oneshot::Receiver<Body>, pb::RangeError> {
        let split = matches!(body, pb::command::Body::Split(_));
        let command = pb::Command { term, epoch_version: core.version(), body: Some(body) };
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (answer, outcome) = oneshot::channel();
        core.waiters.insert(token, Waiter { ticket, split, answer });
        let proposed = match self.node.raft() {
            Some(raft) => raft.propose(self.range, term, token, command.encode_to_vec()),
            None => Err(ProposeError::Stopped),
        };
        if let Err(why) = proposed {
            core.waiters.remove(&token);
            if let (Some(leader), Some(ticket)) = (core.leader.as_mut(), ticket) {
                leader.release(ticket);
            }
            return Err(match why {
                ProposeError::NotLeader { .. } | ProposeError::NoReplica => {
                    let leader = self.group.lease().leader_node;
                    errors::not_leader(self.range, leader, Some(core.descriptor()))
                }
                other => errors::not_proposed(self.range, other),
            });
        }
        Ok(outcome)
    }
}

/// Where the ranges of a node report what the node must know or do.
pub trait RangeEvents: Send + Sync {
    /// Descriptors or leaders changed: the meta range is to be told.
    fn routes_changed(&self);
    /// A range, or the whole node, cannot go on.
    fn failed(&self, range: Option<RangeId>, why: &str);
}

/// The replicas of a node, and what they work with.
pub struct Ranges {
    /// The node's rows.
    pub engine: Arc<dyn Engine>,
    /// The node's clock.
    pub clock: Arc<NodeClock>,
    /// Runs scan programs.
    pub programs: Arc<dyn ScanEngine>,
    /// The reserve of rule S5; none where there is no disk.
    pub disk: Option<Arc<DiskGuard>>,
    /// Counters.
    pub metrics: super::metrics::RangeMetrics,
    pub(crate) events: Arc<dyn RangeEvents>,
    node: NodeId,
    raft: OnceLock<RaftHandle>,
    allocator: OnceLock<Weak<dyn Allocator>>,
    replicas: RwLock<HashMap<RangeId, Arc<Replica>>>,
    descriptors: RwLock<BTreeMap<RangeId, pb::RangeDescriptor>>,
    /// Rule T3: nothing is served above what was written down; 0 is no limit.
    clock_bound: AtomicU64,
}

impl Ranges {
    /// Of a node.
    pub fn new(
        node: NodeId,
        engine: Arc<dyn Engine>,
        clock: Arc<NodeClock>,
        programs: Arc<dyn ScanEngine>,
        disk: Option<Arc<DiskGuard>>,
        events: Arc<dyn RangeEvents>,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            clock,
            programs,
            disk,
            metrics: super::metrics::RangeMetrics::default(),
            events,
            node,
            raft: OnceLock::new(),
            allocator: OnceLock::new(),
            replicas: RwLock::default(),
            descriptors: RwLock::default(),
            clock_bound: AtomicU64::new(0),
        })
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// Connects the driver, once.
    pub fn attach(&self, raft: RaftHandle) {
        // Attached once by contract; a second handle would be of the same driver.
        let _ = self.raft.set(raft);
    }

    /// The driver, once it is there.
    pub fn raft(&self) -> Option<&RaftHandle> {
        self.raft.get()
    }

    /// Connects the source of ids, once.
    pub fn set_allocator(&self, allocator: Weak<dyn Allocator>) {
        // Set once by contract.
        let _ = self.allocator.set(allocator);
    }

    pub(crate) fn allocator(&self) -> Option<Arc<dyn Allocator>> {
        self.allocator.get()?.upgrade()
    }

    /// The replica of a range here.
    pub fn replica(&self, range: RangeId) -> Option<Arc<Replica>> {
        self.replicas.read().get(&range).cloned()
    }

    /// All replicas here, by range.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let mut all: Vec<_> = self.replicas.read().values().cloned().collect();
        all.sort_by_key(|replica| replica.range);
        all
    }

    pub(crate) fn add(&self, replica: &Arc<Replica>) {
        self.describe(replica.range, Some(replica.descriptor()));
        self.replicas.write().insert(replica.range, replica.clone());
    }

    pub(crate) fn remove(&self, replica: &Arc<Replica>) {
        let mut replicas = self.replicas.write();
        if replicas.get(&replica.range).is_some_and(|known| Arc::ptr_eq(known, replica)) {
            replicas.remove(&replica.range);
            drop(replicas);
            self.describe(replica.range, None);
        }
    }

    /// Notes a descriptor. Taken inside a replica's mutex, never the other way round.
    pub(crate) fn describe(&self, range: RangeId, descriptor: Option<pb::RangeDescriptor>) {
        let mut descriptors = self.descriptors.write();
        match descriptor {
            Some(descriptor) => descriptors.insert(range, descriptor),
            None => descriptors.remove(&range),
        };
    }

    /// Adds the descriptors of replicas here that overlap the span.
    pub(crate) fn known(&self, start: &[u8], end: &[u8], found: &mut Vec<pb::RangeDescriptor>) {
        for descriptor in self.descriptors.read().values() {
            if found.len() >= DESCRIPTORS_MAX {
                return;
            }
            let there = overlap((start, end), (&descriptor.start, &descriptor.end));
            if there && found.iter().all(|d| d.range_id != descriptor.range_id) {
                found.push(descriptor.clone());
            }
        }
    }

    /// Rule T3: the clock may be used up to here.
    pub fn set_clock_bound(&self, bound: Timestamp) {
        self.clock_bound.store(bound.0, Ordering::SeqCst);
    }

    /// Rule T3: nothing is served above the bound that was written down.
    /// Nothing is served from here on (rule T3).
    pub fn clock_bound(&self) -> Timestamp {
        match self.clock_bound.load(Ordering::SeqCst) {
            0 => Timestamp::MAX,
            bound => Timestamp(bound),
        }
    }

    pub(crate) fn check_clock(&self) -> Result<(), pb::RangeError> {
        let bound = self.clock_bound.load(Ordering::SeqCst);
        if bound != 0 && self.clock.last().0 >= bound {
            return Err(errors::unavailable(
                "the node's clock has passed the bound it has written down",
            ));
        }
        Ok(())
    }
}

impl Replica {
    /// It leads with a valid lease now.
    pub fn serves(&self) -> bool {
        self.lead().is_ok()
    }
}
