//! Starting with what is on disk, and removing replicas for good (rules L7, S3, S4).

use std::collections::HashSet;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::{NodeId, PeerId, RangeId, pb};

use super::apply::own_replica;
use super::control::first_ticks;
use super::handle::NodeShared;
use super::machine::RoleEvent;
use super::quiet::bucket_of;
use super::worker::Worker;
use crate::engine::install::resume_installs;
use crate::engine::{Batch, Cf, KeySpan, local};
use crate::log::LogBatch;
use crate::transport::remove_files;

const TOMBSTONE_PREFIX: &[u8] = b"raft/removed/";

/// What is left of a removed replica: no message may bring it, or an older one, back (rule L7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// The newest peer id of the range that was removed from this node.
    pub peer: u64,
    /// The configuration's number in which it was no member any more, as far as known.
    pub conf: u64,
}

impl Tombstone {
    fn key(range: RangeId) -> Vec<u8> {
        [TOMBSTONE_PREFIX, &range.0.to_be_bytes()].concat()
    }

    fn encode(self) -> Vec<u8> {
        [self.peer.to_be_bytes(), self.conf.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (peer, conf) = bytes.split_first_chunk::<8>()?;
        let conf = conf.try_into().ok()?;
        Some(Self { peer: u64::from_be_bytes(*peer), conf: u64::from_be_bytes(conf) })
    }

    /// The tombstone of a range, if one is in the log store.
    pub fn load(node: &NodeShared, range: RangeId) -> Option<Self> {
        Self::decode(&node.deps.log.meta(&Self::key(range))?)
    }
}

/// Before any worker starts: redoes half-installed snapshots and half-done removals, and returns
/// the states of all replicas.
pub(crate) fn recover(node: &NodeShared) -> Result<Vec<pb::RangeState>, String> {
    std::fs::create_dir_all(&node.config.snapshot_dir).map_err(|e| e.to_string())?;
    for range in resume_installs(&*node.deps.engine, &*node.deps.log).map_err(|e| e.to_string())? {
        tracing::info!(%range, "a snapshot that was half installed is whole now");
    }
    remove_leftovers(&node.config.snapshot_dir).map_err(|e| e.to_string())?;
    let mut states = Vec::new();
    let mut removed = Batch::new();
    for state in stored_states(node)? {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let range = RangeId(descriptor.range_id);
        let own = own_replica(&descriptor, node.config.node).map_or(0, |own| own.peer_id);
        let dead = Tombstone::load(node, range).is_some_and(|dead| dead.peer >= own);
        if dead || own == 0 {
            removed.delete_span(&KeySpan::new(descriptor.start, descriptor.end));
            removed.delete(Cf::Local, &local::range_state_key(range));
        } else {
            node.bounds.lock().set(range, &descriptor.start, &descriptor.end);
            states.push(state);
        }
    }
    if !removed.is_empty() {
        let engine = &node.deps.engine;
        engine.write(&removed).and_then(|()| engine.flush()).map_err(|e| e.to_string())?;
    }
    Ok(states)
}

fn remove_leftovers(dir: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path)?,
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

fn stored_states(node: &NodeShared) -> Result<Vec<pb::RangeState>, String> {
    let view = node.deps.engine.snapshot();
    let (lower, upper) = local::range_state_bounds();
    let mut iter = view.iter(Cf::Local, &lower, &upper);
    let mut states = Vec::new();
    iter.seek_first();
    while let Some((_, value)) = iter.item() {
        states.push(pb::RangeState::decode(value).map_err(|e| e.to_string())?);
        iter.next();
    }
    iter.status().map_err(|e| e.to_string())?;
    Ok(states)
}

impl Worker {
    /// Starts the groups that this worker owns, among all of the node's.
    pub fn load(&mut self, states: &[pb::RangeState]) -> Result<(), String> {
        let node = self.node.clone();
        let number = self.number;
        let owned = |range: RangeId| node.worker_of_bucket(bucket_of(range)) == number;
        for (key, value) in node.deps.log.meta_with_prefix(TOMBSTONE_PREFIX) {
            let range = key.get(TOMBSTONE_PREFIX.len()..).and_then(|id| id.try_into().ok());
            let range = RangeId(u64::from_be_bytes(range.ok_or("a tombstone without a range")?));
            let tombstone = Tombstone::decode(&value).ok_or("a tombstone does not decode")?;
            if owned(range) {
                self.tombstones.insert(range, tombstone);
            }
        }
        for state in states {
            let descriptor = state.descriptor.clone().unwrap_or_default();
            if owned(RangeId(descriptor.range_id)) {
                let first_ticks = first_ticks(&descriptor, node.config.node, &mut self.rng);
                self.start_group(state.clone(), first_ticks)?;
            }
        }
        Ok(())
    }

    /// Removes replicas that applied their own removal.
    pub(super) fn remove_destroyed(&mut self) {
        let doomed = self.groups.iter().filter(|(_, group)| group.destroy);
        let doomed: Vec<RangeId> = doomed.map(|(range, _)| *range).collect();
        for range in doomed {
            let now = self.now();
            self.destroy(range, now);
        }
    }

    /// Removes a replica for good: the tombstone first, then its rows.
    pub(super) fn destroy(&mut self, range: RangeId, now: Duration) {
        self.wake(range, now);
        let Some(mut group) = self.groups.remove(&range) else { return };
        self.dirty.remove(&range);
        let before = self.tombstones.get(&range).copied();
        let tombstone = Tombstone {
            peer: group.peer.0.max(before.map_or(0, |t| t.peer)),
            conf: group.epoch_conf().max(before.map_or(0, |t| t.conf)),
        };
        self.tombstones.insert(range, tombstone);
        tracing::info!(%range, peer = %group.peer, "the replica was removed from this node");
        if let Some(lead) = group.lead.take() {
            group.publish(now);
            group.tell(RoleEvent::Lost { term: lead.term, leader: None });
        }
        group.forget_waiters();
        if let Some(machine) = &mut group.machine {
            machine.rows_leave();
        }
        self.node.groups.write().remove(&range);
        let mut batch = LogBatch::new();
        batch.remove(range);
        batch.put_meta(Tombstone::key(range), tombstone.encode());
        let descriptor = group.descriptor();
        // Without its log what it has applied, perhaps a split, is not applied again (rule S3). Who
        // has applied its removal has seen to that before.
        let flushed = match group.initialised() && !group.destroy {
            true => self.node.deps.engine.flush().map_err(|e| e.to_string()),
            false => Ok(()),
        };
        let log = &self.node.deps.log;
        let outcome = flushed.and_then(|()| log.append(&mut batch).map_err(|e| e.to_string()));
        let outcome = outcome.and_then(|()| match group.initialised() {
            true => self.remove_rows(range, descriptor),
            false => Ok(()),
        });
        if let Err(why) = outcome {
            self.failed = Some(why);
        }
        if let Some(arrived) = group.arrived.take() {
            remove_files(&arrived.files);
        }
        if let Some(machine) = &mut group.machine {
            machine.destroyed();
        }
        self.node.bounds.lock().remove(range);
    }

    fn remove_rows(&self, range: RangeId, descriptor: pb::RangeDescriptor) -> Result<(), String> {
        let engine = &self.node.deps.engine;
        let mut batch = Batch::new();
        batch.delete_span(&KeySpan::new(descriptor.start, descriptor.end));
        batch.delete(Cf::Local, &local::range_state_key(range));
        engine.safe_points().remove(range);
        // Until this is durable, the tombstone makes the next start do it again.
        engine.write(&batch).and_then(|()| engine.flush()).map_err(|e| e.to_string())
    }

    /// After a removal was applied here, the leader tells the removed replica.
    pub(super) fn tell_removed(&mut self, range: RangeId, before: &[pb::Replica]) {
        let Some(group) = self.groups.get(&range).filter(|group| group.leading()) else { return };
        let descriptor = group.descriptor();
        let still: HashSet<u64> = descriptor.replicas.iter().map(|r| r.peer_id).collect();
        for gone in before.iter().filter(|replica| !still.contains(&replica.peer_id)) {
            let message = pb::RaftMessage {
                range_id: range.0,
                epoch: descriptor.epoch,
                to: Some(*gone),
                from: own_replica(&descriptor, self.node.config.node).copied(),
                tombstone: true,
                ..pb::RaftMessage::default()
            };
            self.outbox.push(NodeId(gone.node_id), message);
        }
    }
}

/// The peer of a replica on a node, for those who ask by node.
pub fn peer_on(descriptor: &pb::RangeDescriptor, node: NodeId) -> Option<PeerId> {
    own_replica(descriptor, node).map(|replica| PeerId(replica.peer_id))
}
