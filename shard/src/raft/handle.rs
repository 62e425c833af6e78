//! [`RaftHandle`]: what the rest of a node asks of its workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_proto::{NodeId, PeerId, RangeId, pb};
use quorate_txn::clock::NodeClock;
use tokio::sync::{mpsc, oneshot};

use super::config::UNCOMMITTED_BYTES_MAX;
use super::machine::{
    ChangeError, GroupStatus, Handover, LeaseState, MachineFactory, ProposeError, ReplicaChange,
};
use super::quiet::bucket_of;
use super::shared::{GroupShared, RaftMetrics};
use crate::engine::Engine;
use crate::log::LogStore;
use crate::transport::{RaftTransport, SnapshotFile};

/// What distinguishes one node's driver from another's.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// This node.
    pub node: NodeId,
    /// 16 bytes; frames of other clusters are refused.
    pub cluster_id: Bytes,
    /// Worker loops.
    pub workers: usize,
    /// Election timeouts are drawn from it (rule X1).
    pub seed: u64,
    /// Where snapshots are put together; its contents do not outlive what names them.
    pub snapshot_dir: std::path::PathBuf,
}

/// Runs jobs that take long (building a snapshot) beside the workers.
pub trait Background: Send + Sync {
    /// Runs it some time, on another thread or at once.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// What the driver works with.
#[derive(Clone)]
pub struct RaftDeps {
    /// The node's rows.
    pub engine: Arc<dyn Engine>,
    /// The node's Raft logs.
    pub log: Arc<dyn LogStore>,
    /// The node's clock.
    pub clock: Arc<NodeClock>,
    /// The way to other nodes.
    pub transport: Arc<dyn RaftTransport>,
    /// Makes state machines.
    pub factory: Arc<dyn MachineFactory>,
    /// For jobs that take long.
    pub background: Arc<dyn Background>,
}

/// What a worker is told.
pub(crate) enum Input {
    /// Time has passed; the worker looks at the clock itself.
    Tick,
    Propose {
        range: RangeId,
        term: u64,
        token: u64,
        data: Vec<u8>,
    },
    Frame {
        from: NodeId,
        messages: Vec<pb::RaftMessage>,
        heartbeat: Option<pb::PairHeartbeat>,
    },
    SnapshotArrived {
        message: Box<pb::RaftMessage>,
        files: Vec<SnapshotFile>,
    },
    SnapshotSent {
        range: RangeId,
        peer: PeerId,
        ok: bool,
    },
    Unreachable {
        node: NodeId,
    },
    Transfer {
        range: RangeId,
        to: NodeId,
        answer: Answer<()>,
    },
    Change {
        range: RangeId,
        change: ReplicaChange,
        answer: Answer<pb::RangeDescriptor>,
    },
    Create {
        state: Box<pb::RangeState>,
        answer: Answer<()>,
    },
    SplitOff {
        state: Box<pb::RangeState>,
        handover: Option<Handover>,
        campaign: bool,
    },
    Pinned {
        range: RangeId,
    },
    Status {
        range: Option<RangeId>,
        answer: oneshot::Sender<Vec<GroupStatus>>,
    },
    Stop,
}

/// Where the outcome of a change is told.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ChangeError>>;

/// The bounds of the replicas on this node, so that none is made over another.
///
/// # Invariants
/// * No two entries overlap.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    by_start: BTreeMap<Vec<u8>, (Vec<u8>, RangeId)>,
}

impl Bounds {
    /// A range here that overlaps `[start, end)` and is not `except`; an empty end is infinite.
    pub fn overlapping(&self, start: &[u8], end: &[u8], except: RangeId) -> Option<RangeId> {
        self.by_start
            .iter()
            .filter(|(_, (_, range))| *range != except)
            .find(|(other_start, (other_end, _))| {
                (end.is_empty() || other_start.as_slice() < end)
                    && (other_end.is_empty() || start < other_end.as_slice())
            })
            .map(|(_, (_, range))| *range)
    }

    /// The range has these bounds now.
    pub fn set(&mut self, range: RangeId, start: &[u8], end: &[u8]) {
        self.remove(range);
        assert!(self.overlapping(start, end, range).is_none(), "no two entries overlap");
        self.by_start.insert(start.to_vec(), (end.to_vec(), range));
    }

    /// The range is gone.
    pub fn remove(&mut self, range: RangeId) {
        self.by_start.retain(|_, (_, other)| *other != range);
    }
}

/// Everything the workers of a node share.
pub(crate) struct NodeShared {
    pub config: RaftConfig,
    pub deps: RaftDeps,
    pub metrics: RaftMetrics,
    pub groups: RwLock<HashMap<RangeId, Arc<GroupShared>>>,
    pub bounds: Mutex<Bounds>,
    pub may_lead: AtomicBool,
    pub snapshots_sending: Mutex<usize>,
    pub last_flush: Mutex<Duration>,
    pub flushing: AtomicBool,
    inboxes: Vec<mpsc::UnboundedSender<Input>>,
}

impl NodeShared {
    pub fn new(
        config: RaftConfig,
        deps: RaftDeps,
    ) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Input>>) {
        let workers = config.workers.max(1);
        let (inboxes, receivers) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let shared = Self {
            config,
            deps,
            metrics: RaftMetrics::default(),
            groups: RwLock::default(),
            bounds: Mutex::default(),
            may_lead: AtomicBool::new(true),
            snapshots_sending: Mutex::new(0),
            last_flush: Mutex::default(),
            flushing: AtomicBool::new(false),
            inboxes,
        };
        (Arc::new(shared), receivers)
    }

    /// The worker that owns a bucket.
    pub fn worker_of_bucket(&self, bucket: usize) -> usize {
        bucket % self.inboxes.len()
    }

    fn worker_of(&self, range: RangeId) -> usize {
        self.worker_of_bucket(bucket_of(range))
    }

    /// Puts it into the inbox of the range's worker; `false` once that has stopped.
    pub fn post(&self, range: RangeId, input: Input) -> bool {
        self.inboxes[self.worker_of(range)].send(input).is_ok()
    }

    pub fn post_to_all(&self, mut make: impl FnMut() -> Input) {
        for inbox in &self.inboxes {
            // A worker that has stopped needs no telling.
            let _ = inbox.send(make());
        }
    }
}

/// A node's replication driver, as its other parts see it. Cheap to clone.
#[derive(Clone)]
pub struct RaftHandle {
    pub(crate) shared: Arc<NodeShared>,
}

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftHandle({})", self.shared.config.node)
    }
}

impl RaftHandle {
    /// Puts a command on its way into the log, if this node leads the range in exactly this term
    /// and serves (rules L2–L4). `Ok` means that `RangeMachine::proposed` or `rejected` follows
    /// with this token, in the order of the calls; the outcome comes through `apply`.
    ///
    /// # Errors
    /// It certainly did not enter the log.
    pub fn propose(
        &self,
        range: RangeId,
        term: u64,
        token: u64,
        data: Vec<u8>,
    ) -> Result<(), ProposeError> {
        let group = self.group(range).ok_or(ProposeError::NoReplica)?;
        let lease = group.lease();
        if !lease.leader || lease.term != term {
            return Err(ProposeError::NotLeader { leader: lease.leader_node });
        }
        if !lease.serving || self.shared.deps.clock.physical() <= lease.propose_after {
            return Err(ProposeError::NotYet);
        }
        let bytes = data.len() as u64;
        if !group.reserve(bytes, UNCOMMITTED_BYTES_MAX) {
            return Err(ProposeError::Busy);
        }
        if !self.shared.post(range, Input::Propose { range, term, token, data }) {
            group.release(bytes);
            return Err(ProposeError::Stopped);
        }
        Ok(())
    }

    /// The replica of this range on this node; keep it to read the lease without a look-up.
    pub fn group(&self, range: RangeId) -> Option<Arc<GroupShared>> {
        self.shared.groups.read().get(&range).cloned()
    }

    /// Role, term and lease of the replica here.
    pub fn lease(&self, range: RangeId) -> Option<LeaseState> {
        Some(self.group(range)?.lease())
    }

    /// The ranges with an initialised replica here.
    pub fn ranges(&self) -> Vec<RangeId> {
        let mut ranges: Vec<_> = self.shared.groups.read().keys().copied().collect();
        ranges.sort_unstable();
        ranges
    }

    /// Hands the lead over to the replica on that node (rule L2): gives up the lease for the rest
    /// of the term, replicates the hand-over, then asks Raft for the transfer. Answers when this
    /// node no longer leads that term.
    ///
    /// # Errors
    /// [`ChangeError`]; after `NotNow` nothing has changed.
    pub async fn transfer(&self, range: RangeId, to: NodeId) -> Result<(), ChangeError> {
        self.ask(range, |answer| Input::Transfer { range, to, answer }).await
    }

    /// Changes the replicas by one step; answers with the new descriptor once it is applied here.
    ///
    /// # Errors
    /// [`ChangeError`]; after `NotNow` and `Invalid` nothing has changed.
    pub async fn change_replicas(
        &self,
        range: RangeId,
        change: ReplicaChange,
    ) -> Result<pb::RangeDescriptor, ChangeError> {
        self.ask(range, |answer| Input::Change { range, change, answer }).await
    }

    /// Bootstrap: starts a range that exists nowhere yet, with this node's replica among those of
    /// its descriptor. Durable when answered. Splits do this themselves.
    ///
    /// # Errors
    /// `Invalid` if there is one already, or the bounds overlap another.
    pub async fn create_group(&self, state: pb::RangeState) -> Result<(), ChangeError> {
        let range = RangeId(state.descriptor.as_ref().map_or(0, |d| d.range_id));
        let state = Box::new(state);
        self.ask(range, |answer| Input::Create { state, answer }).await
    }

    async fn ask<T>(
        &self,
        range: RangeId,
        make: impl FnOnce(Answer<T>) -> Input,
    ) -> Result<T, ChangeError> {
        let (answer, outcome) = oneshot::channel();
        if !self.shared.post(range, make(answer)) {
            return Err(ChangeError::Unknown);
        }
        outcome.await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// One replica in detail.
    pub async fn status(&self, range: RangeId) -> Option<GroupStatus> {
        let (answer, outcome) = oneshot::channel();
        self.shared.post(range, Input::Status { range: Some(range), answer });
        outcome.await.ok()?.into_iter().next()
    }

    /// All initialised replicas of this node in detail, by range id.
    pub async fn status_all(&self) -> Vec<GroupStatus> {
        let mut waiting = Vec::new();
        self.shared.post_to_all(|| {
            let (answer, outcome) = oneshot::channel();
            waiting.push(outcome);
            Input::Status { range: None, answer }
        });
        let mut all = Vec::new();
        for outcome in waiting {
            all.extend(outcome.await.unwrap_or_default());
        }
        all.sort_by_key(|status| status.state.descriptor.as_ref().map_or(0, |d| d.range_id));
        all
    }

    /// Rule T3: a node whose clock is off from the majority's must not lead. `false` gives up all
    /// leases at once, steps down and starts no election until it is `true` again.
    pub fn set_may_lead(&self, may: bool) {
        self.shared.may_lead.store(may, Ordering::SeqCst);
        self.shared.post_to_all(|| Input::Tick);
    }

    /// A frame from another node: refused if it is of another cluster or its clock is too far
    /// ahead (rule T3). Never blocks.
    pub fn receive(&self, frame: pb::RaftFrame) {
        let shared = &self.shared;
        if frame.cluster_id != shared.config.cluster_id {
            tracing::warn!(from = frame.from_node, "a Raft frame of another cluster was refused");
            return;
        }
        let from = NodeId(frame.from_node);
        if let Err(error) = shared.deps.clock.observe(quorate_proto::Timestamp(frame.clock)) {
            // Counted, and told once by whoever compares clocks: there are many frames.
            tracing::debug!(%from, %error, "a Raft frame was refused");
            return;
        }
        let workers = shared.inboxes.len();
        let mut parts: Vec<Vec<pb::RaftMessage>> = vec![Vec::new(); workers];
        RaftMetrics::add(&shared.metrics.messages_received, frame.messages.len() as u64);
        for message in frame.messages {
            parts[shared.worker_of(RangeId(message.range_id))].push(message);
        }
        for (inbox, messages) in shared.inboxes.iter().zip(parts) {
            let heartbeat = frame.heartbeat.clone();
            if !messages.is_empty() || heartbeat.is_some() {
                // A worker that has stopped takes no messages: they are lost, as on the way.
                let _ = inbox.send(Input::Frame { from, messages, heartbeat });
            }
        }
    }

    /// A whole snapshot was received: its `MsgSnapshot` and files, complete and checked. The
    /// driver owns the files from now on.
    pub fn receive_snapshot(&self, message: pb::RaftMessage, files: Vec<SnapshotFile>) {
        let range = RangeId(message.range_id);
        self.shared.post(range, Input::SnapshotArrived { message: Box::new(message), files });
    }

    /// Nothing reaches that node at the moment: leaders probe instead of sending on.
    pub fn unreachable(&self, node: NodeId) {
        self.shared.post_to_all(|| Input::Unreachable { node });
    }

    /// Counters since the start.
    pub fn metrics(&self) -> &RaftMetrics {
        &self.shared.metrics
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.shared.config.node
    }

    /// The cluster.
    pub fn cluster_id(&self) -> &Bytes {
        &self.shared.config.cluster_id
    }

    /// Where received snapshots are put together.
    pub fn snapshot_dir(&self) -> &std::path::Path {
        &self.shared.config.snapshot_dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_overlap_as_half_open_intervals() {
        let mut bounds = Bounds::default();
        bounds.set(RangeId(1), b"", b"m");
        bounds.set(RangeId(2), b"m", b"");
        assert_eq!(bounds.overlapping(b"a", b"b", RangeId(9)), Some(RangeId(1)));
        assert_eq!(bounds.overlapping(b"a", b"b", RangeId(1)), None);
        assert_eq!(bounds.overlapping(b"z", b"", RangeId(1)), Some(RangeId(2)));
        bounds.set(RangeId(2), b"t", b"");
        assert_eq!(bounds.overlapping(b"m", b"t", RangeId(9)), None);
        bounds.remove(RangeId(1));
        assert_eq!(bounds.overlapping(b"", b"t", RangeId(9)), None);
    }
}
