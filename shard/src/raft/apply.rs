//! Applying committed entries: all ranges of a round into one engine batch.

use prost::Message as _;
use protobuf::Message as _;
use quorate_proto::{NodeId, RangeId, pb};
use raft::eraftpb::{ConfChangeType, ConfChangeV2, Entry, EntryType};

use super::config::{INITIAL_INDEX, INITIAL_TERM};
use super::group::{Group, conf_state_from, encode_conf_state};
use super::handle::{Input, NodeShared};
use super::machine::{Effect, Handover, LogEntry};
use super::shared::RaftMetrics;
use super::start::Tombstone;
use super::worker::Worker;
use crate::engine::{Batch, KeySpan, local};
use crate::log::LogBatch;
use crate::raft::quiet::bucket_of;

/// Entries of one range to apply.
pub(crate) struct Committed {
    pub range: RangeId,
    pub entries: Vec<Entry>,
}

/// The batch of a round, and who has something in it.
#[derive(Default)]
struct Unwritten {
    batch: Batch,
    ranges: Vec<RangeId>,
    born: Vec<Born>,
    replicas_changed: Vec<(RangeId, Vec<pb::Replica>)>,
}

/// The right half of a split that is in the batch.
struct Born {
    state: pb::RangeState,
    handover: Option<Handover>,
    campaign: bool,
}

impl Worker {
    /// Applies everything, writes it, and tells the machines.
    pub(super) fn apply(&mut self, work: Vec<Committed>) {
        if work.is_empty() || self.failed.is_some() {
            return;
        }
        let mut unwritten = Unwritten::default();
        for Committed { range, entries } in work {
            RaftMetrics::add(&self.node.metrics.entries_applied, entries.len() as u64);
            self.apply_range(range, entries, &mut unwritten);
            if self.failed.is_some() {
                return;
            }
        }
        self.write(&mut unwritten);
    }

    fn apply_range(&mut self, range: RangeId, entries: Vec<Entry>, unwritten: &mut Unwritten) {
        let mut began = false;
        for entry in entries {
            let Some(group) = self.groups.get_mut(&range) else { return };
            let normal = entry.get_entry_type() == EntryType::EntryNormal;
            if began && normal && !entry.data.is_empty() {
                let seen = log_entry(&entry);
                let machine = group.machine.as_mut();
                if machine.is_some_and(|machine| machine.needs_written(seen)) {
                    put_state(group, &mut unwritten.batch);
                    self.write(unwritten);
                    if self.failed.is_some() {
                        return;
                    }
                    began = false;
                }
            }
            if !began {
                began = true;
                unwritten.ranges.push(range);
            }
            let Some(group) = self.groups.get_mut(&range) else { return };
            if let Err(why) = apply_entry(&self.node, group, &entry, unwritten, &self.tombstones) {
                tracing::error!(%range, index = entry.index, why, "an entry cannot be applied");
                self.node.deps.factory.fatal(Some(range), &why);
                self.failed = Some(why);
                return;
            }
        }
        if let Some(group) = self.groups.get_mut(&range) {
            put_state(group, &mut unwritten.batch);
        }
    }

    /// Writes what is in the batch, then makes it known.
    fn write(&mut self, unwritten: &mut Unwritten) {
        let Unwritten { batch, ranges, born, replicas_changed } = std::mem::take(unwritten);
        let leaves = |range: &RangeId| self.groups.get(range).is_some_and(|group| group.destroy);
        if ranges.iter().any(leaves)
            && let Err(error) = self.node.deps.engine.flush()
        {
            // A removal takes the log with it: what was applied before, perhaps a split, is not
            // applied again (rule S3). Not with the removal: its tombstone is not there yet.
            self.failed = Some(error.to_string());
            return;
        }
        RaftMetrics::inc(&self.node.metrics.engine_writes);
        if let Err(error) = self.node.deps.engine.write(&batch) {
            self.failed = Some(error.to_string());
            return;
        }
        for range in ranges {
            let Some(group) = self.groups.get_mut(&range) else { continue };
            group.raw.mut_store().applied(&group.state);
            if let Some(machine) = &mut group.machine {
                machine.committed_visible(group.state.applied_index, &group.state);
            }
        }
        for (range, before) in replicas_changed {
            self.tell_removed(range, &before);
            let Some(group) = self.groups.get_mut(&range) else { continue };
            if let Some(machine) = &mut group.machine {
                machine.replicas_changed(&group.state);
            }
        }
        for Born { state, handover, campaign } in born {
            let range = RangeId(state.descriptor.as_ref().map_or(0, |d| d.range_id));
            let state = Box::new(state);
            if self.node.worker_of_bucket(bucket_of(range)) == self.number {
                self.split_off(*state, handover, campaign);
            } else {
                // A stopped worker starts again with what is in the engine.
                self.node.post(range, Input::SplitOff { state, handover, campaign });
            }
        }
    }
}

fn log_entry(entry: &Entry) -> LogEntry<'_> {
    LogEntry { index: entry.index, term: entry.term, data: &entry.data }
}

fn put_state(group: &Group, batch: &mut Batch) {
    let key = local::range_state_key(group.range);
    batch.put(crate::engine::Cf::Local, &key, &group.encoded_state());
}

fn apply_entry(
    node: &NodeShared,
    group: &mut Group,
    entry: &Entry,
    unwritten: &mut Unwritten,
    tombstones: &std::collections::HashMap<RangeId, Tombstone>,
) -> Result<(), String> {
    assert!(
        entry.index == group.state.applied_index + 1,
        "entries are applied in log order without holes"
    );
    match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => {}
        EntryType::EntryNormal => {
            let Some(machine) = group.machine.as_mut() else {
                return Err(String::from("an entry for a replica without state"));
            };
            let effects = machine.apply(log_entry(entry), &mut group.state, &mut unwritten.batch);
            for effect in effects {
                apply_effect(node, group, entry, effect, unwritten, tombstones)?;
            }
        }
        EntryType::EntryConfChange => {
            return Err(String::from("a membership change of a form we never propose"));
        }
        EntryType::EntryConfChangeV2 => {
            let before = group.descriptor().replicas;
            remember_committed(node, group, entry.index)?;
            if apply_change(group, entry)? {
                unwritten.replicas_changed.push((group.range, before));
            }
        }
    }
    group.state.applied_index = entry.index;
    group.state.applied_term = entry.term;
    if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
        group.answer_change(entry.index);
    }
    Ok(())
}

fn apply_effect(
    node: &NodeShared,
    group: &mut Group,
    entry: &Entry,
    effect: Effect,
    unwritten: &mut Unwritten,
    tombstones: &std::collections::HashMap<RangeId, Tombstone>,
) -> Result<(), String> {
    match effect {
        Effect::Fatal(why) => Err(why),
        Effect::HandedOver(handover) => {
            group.handover = Some((entry.term, handover));
            Ok(())
        }
        Effect::Split { right, handover } => {
            split(node, group, *right, handover, unwritten, tombstones)
        }
    }
}

fn split(
    node: &NodeShared,
    group: &mut Group,
    mut right: pb::RangeState,
    handover: Option<Handover>,
    unwritten: &mut Unwritten,
    tombstones: &std::collections::HashMap<RangeId, Tombstone>,
) -> Result<(), String> {
    let descriptor = right.descriptor.clone().ok_or("a split without a descriptor")?;
    let range = RangeId(descriptor.range_id);
    right.applied_index = INITIAL_INDEX;
    right.applied_term = INITIAL_TERM;
    right.conf_state = conf_state_from(&descriptor);
    let left = group.descriptor();
    let own = own_replica(&descriptor, node.config.node)
        .ok_or("a split's right half has no replica on a node of the left")?;
    // The tombstones of a range live with the worker that owns it, but all are in the log store.
    let dead = tombstones.get(&range).copied().or_else(|| Tombstone::load(node, range));
    let mut bounds = node.bounds.lock();
    bounds.set(group.range, &left.start, &left.end);
    if dead.is_some_and(|tombstone| tombstone.peer >= own.peer_id) {
        // Replayed after the right half was removed from this node: its rows must not come back.
        drop(bounds);
        if let Some(machine) = &mut group.machine {
            machine.rows_leave();
        }
        let span = KeySpan::new(descriptor.start.clone(), descriptor.end.clone());
        unwritten.batch.delete_span(&span);
        return Ok(());
    }
    if let Some(other) = bounds.overlapping(&descriptor.start, &descriptor.end, range) {
        return Err(format!("the right half {range} of a split overlaps {other}"));
    }
    if node.groups.read().contains_key(&range) {
        return Ok(());
    }
    bounds.set(range, &descriptor.start, &descriptor.end);
    drop(bounds);
    let key = local::range_state_key(range);
    unwritten.batch.put(crate::engine::Cf::Local, &key, &right.encode_to_vec());
    let now = node.deps.clock.monotonic();
    let lease = group.shared.lease();
    let spared = handover.filter(|_| lease.valid_at(now));
    let campaign = group.lead.is_some();
    if campaign {
        // The followers must learn of the commit to make their halves and vote.
        group.raw.ping();
    }
    unwritten.born.push(Born { state: right, handover: spared, campaign });
    Ok(())
}

/// The replica of a descriptor that is on this node.
pub(crate) fn own_replica(descriptor: &pb::RangeDescriptor, node: NodeId) -> Option<&pb::Replica> {
    descriptor.replicas.iter().find(|replica| replica.node_id == node.0)
}

/// Makes durable that a membership change is committed, before it has any effect. The engine may
/// fall back to before it in a crash; if the commit index did too, the replica would come back in
/// the old configuration, not know of the change, and could win an election of it: alone, if it
/// was the only voter then. With this, Raft refuses to campaign until the change is applied again.
///
/// What Raft knows to be committed may lie beyond what is stored of the log in this moment. Without
/// it a replica with such a commit index could not be opened again, or would take for committed
/// what was stored there in an earlier term. (What is applied is stored.)
fn remember_committed(node: &NodeShared, group: &Group, index: u64) -> Result<(), String> {
    let raft = &group.raw.raft;
    let mut hard_state = raft.hard_state();
    hard_state.commit = hard_state.commit.min(raft.raft_log.persisted).max(index);
    let mut batch = LogBatch::new();
    batch.hard_state(group.range, hard_state);
    RaftMetrics::inc(&node.metrics.log_syncs);
    node.deps.log.append(&mut batch).map_err(|e| e.to_string())
}

/// Applies a membership change to Raft and to the descriptor. `false`: it changed nothing.
fn apply_change(group: &mut Group, entry: &Entry) -> Result<bool, String> {
    let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|e| e.to_string())?;
    let conf_state = match group.raw.apply_conf_change(&change) {
        Ok(conf_state) => conf_state,
        Err(error) => {
            // The same on every replica: it was not possible after what came before it.
            tracing::warn!(range = %group.range, %error, "a membership change did nothing");
            return Ok(false);
        }
    };
    group.state.conf_state = encode_conf_state(&conf_state);
    group.raw.mut_store().set_conf_state(conf_state);
    let replica = pb::Replica::decode(&change.context[..]).map_err(|e| e.to_string())?;
    let own = group.peer;
    let descriptor = group.state.descriptor.get_or_insert_default();
    for step in change.changes.iter() {
        descriptor.replicas.retain(|known| known.peer_id != step.node_id);
        match step.get_change_type() {
            ConfChangeType::RemoveNode => group.destroy |= step.node_id == own.0,
            ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                descriptor.replicas.push(replica);
            }
        }
    }
    descriptor.replicas.sort_unstable_by_key(|known| known.peer_id);
    descriptor.epoch.get_or_insert_default().conf += 1;
    Ok(true)
}
