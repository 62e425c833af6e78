//! [`Worker`]: one loop of the driver, without the loop. It owns the groups of some buckets and
//! handles all that are ready in one [`pass`](Worker::pass): leaders' messages leave first, what
//! is committed is applied, one append with one sync persists all groups, then followers' answers
//! leave and what became committed is applied. Who calls `pass`, and on which thread, is the
//! runtime's business; tests call it by hand.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message as _;
use quorate_proto::{NodeId, RangeId, pb};
use raft::eraftpb::{Message, MessageType};
use raft::{Ready, SnapshotStatus};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::appends;
use super::apply::Committed;
use super::config::*;
use super::group::{Group, HeartbeatNote};
use super::handle::{Input, NodeShared};
use super::machine::{ProposeError, RoleEvent};
use super::quiet::Pair;
use super::shared::RaftMetrics;
use super::start::Tombstone;
use crate::log::LogBatch;

/// Rounds of ready groups in one pass; what is left then is done by the next.
const ROUNDS_PER_PASS_MAX: usize = 8;

/// Frames of this pass, by peer node.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: BTreeMap<NodeId, pb::RaftFrame>,
}

impl Outbox {
    pub fn push(&mut self, node: NodeId, message: pb::RaftMessage) {
        self.frames.entry(node).or_default().messages.push(message);
    }

    /// Frames carry one pair heartbeat at most: a second one leaves in a frame of its own.
    pub fn push_heartbeat(&mut self, to: NodeId, heartbeat: pb::PairHeartbeat, of: &NodeShared) {
        let frame = self.frames.entry(to).or_default();
        if frame.heartbeat.is_some() {
            let full = std::mem::take(frame);
            Self::send(of, to, full);
        }
        self.frames.entry(to).or_default().heartbeat = Some(heartbeat);
    }

    fn send(of: &NodeShared, to: NodeId, mut frame: pb::RaftFrame) {
        RaftMetrics::inc(&of.metrics.frames_sent);
        RaftMetrics::add(&of.metrics.messages_sent, frame.messages.len() as u64);
        frame.clock = of.deps.clock.now().0;
        frame.cluster_id = of.config.cluster_id.clone();
        frame.from_node = of.config.node.0;
        of.deps.transport.send(to, frame);
    }

    pub fn flush(&mut self, of: &NodeShared) {
        for (to, frame) in std::mem::take(&mut self.frames) {
            Self::send(of, to, frame);
        }
    }
}

/// One worker.
///
/// # Invariants
/// * A message that depends on persisted state leaves after the synced append.
/// * Two ticks are never less than `TICK` apart.
pub(crate) struct Worker {
    pub node: Arc<NodeShared>,
    pub number: usize,
    pub groups: BTreeMap<RangeId, Group>,
    pub tombstones: HashMap<RangeId, Tombstone>,
    pub pairs: BTreeMap<NodeId, Pair>,
    pub rng: StdRng,
    pub outbox: Outbox,
    pub dirty: BTreeSet<RangeId>,
    pub failed: Option<String>,
    pub next_look: Duration,
    pub early_votes: VecDeque<(Duration, pb::RaftMessage)>,
    next_tick: Duration,
    ticks: u64,
    stopping: bool,
}

impl Worker {
    pub fn new(node: Arc<NodeShared>, number: usize) -> Self {
        let seed = node.config.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            node,
            number,
            groups: BTreeMap::new(),
            tombstones: HashMap::new(),
            pairs: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            outbox: Outbox::default(),
            dirty: BTreeSet::new(),
            failed: None,
            next_look: Duration::ZERO,
            early_votes: VecDeque::new(),
            next_tick: Duration::ZERO,
            ticks: 0,
            stopping: false,
        }
    }

    pub fn now(&self) -> Duration {
        self.node.deps.clock.monotonic()
    }

    /// Takes the inputs and does everything that is ready. `false`: the worker has stopped and
    /// must not be called again.
    pub fn pass(&mut self, inputs: &mut Vec<Input>) -> bool {
        let now = self.now();
        for input in inputs.drain(..) {
            self.take(input, now);
        }
        if self.stopping {
            self.stop(now);
            return false;
        }
        self.tick_if_due(now);
        for _ in 0..ROUNDS_PER_PASS_MAX {
            if self.dirty.is_empty() || self.failed.is_some() {
                break;
            }
            self.round();
        }
        self.remove_destroyed();
        self.outbox.flush(&self.node);
        if let Some(why) = &self.failed {
            self.node.deps.factory.fatal(None, why);
            let now = self.now();
            self.stop(now);
            return false;
        }
        true
    }

    /// More to do without a new input.
    pub fn busy(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn take(&mut self, input: Input, now: Duration) {
        match input {
            Input::Tick => {}
            Input::Propose { range, term, token, data } => {
                self.propose(range, term, token, data, now);
            }
            Input::Frame { from, messages, heartbeat } => {
                for message in messages {
                    self.on_message(message, None, now);
                }
                if let Some(heartbeat) = heartbeat {
                    self.on_heartbeat(from, heartbeat, now);
                }
            }
            Input::SnapshotArrived { message, files } => {
                self.on_message(*message, Some(files), now);
            }
            Input::SnapshotSent { range, peer, ok } => {
                if let Some(group) = self.groups.get_mut(&range) {
                    let status = match ok {
                        true => SnapshotStatus::Finish,
                        false => SnapshotStatus::Failure,
                    };
                    group.raw.report_snapshot(peer.0, status);
                    self.dirty.insert(range);
                }
            }
            Input::Unreachable { node } => self.on_unreachable(node, now),
            Input::Transfer { range, to, answer } => self.transfer(range, to, answer, now),
            Input::Change { range, change, answer } => self.change(range, change, answer, now),
            Input::Create { state, answer } => self.create(*state, answer),
            Input::SplitOff { state, handover, campaign } => {
                self.split_off(*state, handover, campaign);
            }
            Input::Pinned { range } => {
                if let Some(group) = self.groups.get_mut(&range) {
                    group.pinned = true;
                }
            }
            Input::Status { range, answer } => self.status(range, answer),
            Input::Stop => self.stopping = true,
        }
    }

    fn propose(&mut self, range: RangeId, term: u64, token: u64, data: Vec<u8>, now: Duration) {
        self.wake(range, now);
        let Some(group) = self.groups.get_mut(&range) else { return };
        group.shared.release(data.len() as u64);
        let serving = group.lead.as_ref().is_some_and(|l| l.term == term && l.serving);
        let outcome = if !group.leading() || group.term() != term {
            Err(ProposeError::NotLeader { leader: group.leader_node() })
        } else if !serving {
            Err(ProposeError::NotYet)
        } else {
            group.raw.propose(Vec::new(), data).map_err(|_| ProposeError::Busy)
        };
        let index = group.last_index();
        group.touch();
        let Some(machine) = &mut group.machine else { return };
        match outcome {
            Ok(()) => {
                RaftMetrics::inc(&self.node.metrics.proposals);
                machine.proposed(token, index, term);
                self.dirty.insert(range);
            }
            Err(why) => {
                RaftMetrics::inc(&self.node.metrics.proposals_rejected);
                machine.rejected(token, why);
            }
        }
    }

    fn tick_if_due(&mut self, now: Duration) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.ticks += 1;
        for (range, group) in &mut self.groups {
            if group.quiet.is_none() {
                group.tick(&self.node, now, &mut self.rng);
                group.publish(now);
                if group.may_quiet() {
                    group.quiet_told = true;
                    group.raw.ping();
                }
                self.dirty.insert(*range);
            }
        }
        self.tick_quiet(now);
        if self.ticks.is_multiple_of(u64::from(HEARTBEAT_TICKS)) {
            // Quiet messages of this pass must be in the frames before.
            self.round();
            self.send_pair_heartbeats();
        }
        self.look_after_logs(now);
    }

    /// One round over the groups that may be ready.
    fn round(&mut self) {
        let now = self.now();
        let dirty = std::mem::take(&mut self.dirty);
        let mut readies: Vec<(RangeId, Ready)> = Vec::new();
        let mut committed = Vec::new();
        for range in dirty {
            let Some(group) = self.groups.get_mut(&range) else { continue };
            group.notice_role(&self.node, now, &mut self.rng);
            if !group.raw.has_ready() {
                continue;
            }
            let mut ready = group.raw.ready();
            let messages = ready.take_messages();
            let entries = ready.take_committed_entries();
            readies.push((range, ready));
            if !entries.is_empty() {
                committed.push(Committed { range, entries });
            }
            self.send(range, messages, now);
        }
        if readies.is_empty() {
            return;
        }
        RaftMetrics::inc(&self.node.metrics.passes);
        RaftMetrics::add(&self.node.metrics.ready_groups, readies.len() as u64);
        // A leader's own append runs beside those of its followers (Raft thesis, 10.2.1).
        self.outbox.flush(&self.node);
        self.apply(committed);
        self.persist_and_advance(readies, now);
    }

    fn persist_and_advance(&mut self, mut readies: Vec<(RangeId, Ready)>, now: Duration) {
        if self.failed.is_some() {
            return;
        }
        if let Err(why) = self.persist(&mut readies) {
            self.failed = Some(why);
            return;
        }
        let mut committed = Vec::new();
        let ranges: Vec<RangeId> = readies.iter().map(|(range, _)| *range).collect();
        for (range, mut ready) in readies {
            let messages = ready.take_persisted_messages();
            self.send(range, messages, now);
            let Some(group) = self.groups.get_mut(&range) else { continue };
            let mut light = group.raw.advance_append(ready);
            group.advance_applied();
            let messages = light.take_messages();
            let entries = light.take_committed_entries();
            if !entries.is_empty() {
                committed.push(Committed { range, entries });
            }
            self.send(range, messages, now);
        }
        self.outbox.flush(&self.node);
        self.apply(committed);
        let now = self.now();
        for range in ranges {
            if let Some(group) = self.groups.get_mut(&range) {
                group.advance_applied();
                group.serve_if_due(&self.node, now);
                group.publish(now);
                group.go_on_with_transfer();
                if group.raw.has_ready() {
                    self.dirty.insert(range);
                }
            }
        }
    }

    /// One append for all ready groups, synced if any of them needs it.
    fn persist(&mut self, readies: &mut [(RangeId, Ready)]) -> Result<(), String> {
        let mut batch = LogBatch::new();
        let mut sync = false;
        let mut appended = Vec::new();
        for (range, ready) in readies.iter_mut() {
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot().clone();
                self.install_snapshot(*range, snapshot)?;
            }
            // A new commit index alone is not written: it is found again (rule S3).
            if !ready.must_sync() {
                continue;
            }
            let entries = ready.take_entries();
            if let Some(hard_state) = ready.hs() {
                batch.hard_state(*range, hard_state.clone());
                sync = true;
            }
            if !entries.is_empty() {
                RaftMetrics::add(&self.node.metrics.log_entries, entries.len() as u64);
                batch.append(*range, entries.clone());
                appended.push((*range, entries));
                sync = true;
            }
        }
        if sync {
            RaftMetrics::inc(&self.node.metrics.log_syncs);
            self.node.deps.log.append(&mut batch).map_err(|e| e.to_string())?;
        }
        for (range, entries) in appended {
            if let Some(group) = self.groups.get_mut(&range) {
                group.raw.mut_store().appended(entries);
            }
        }
        Ok(())
    }

    /// Puts Raft's messages into this pass's frames.
    pub fn send(&mut self, range: RangeId, messages: Vec<Message>, now: Duration) {
        if messages.is_empty() {
            return;
        }
        let mut snapshots = Vec::new();
        let Some(group) = self.groups.get_mut(&range) else { return };
        let mut round = None;
        let mut told = false;
        for mut message in appends::join(messages) {
            match message.get_msg_type() {
                // Rule L4: a follower's proposals would run in a term they were not chosen for.
                MessageType::MsgPropose | MessageType::MsgTransferLeader => continue,
                MessageType::MsgSnapshot => {
                    snapshots.push(message);
                    continue;
                }
                MessageType::MsgHeartbeat => {
                    // The round is numbered before it leaves: the lease runs from here (L1).
                    let round = *round.get_or_insert_with(|| group.rounds.begin(now));
                    let quiet_at = group.quiet_told.then(|| group.last_index());
                    told |= group.quiet_told;
                    message.context = HeartbeatNote { round, quiet_at }.encode().into();
                }
                _ => {}
            }
            let Ok(bytes) = message.write_to_bytes() else { continue };
            if let Some((node, envelope)) = group.envelope(message.to, bytes) {
                self.outbox.push(node, envelope);
            }
        }
        if told {
            self.become_quiet_leader(range, now);
        }
        for message in snapshots {
            self.start_snapshot(range, message);
        }
    }

    fn stop(&mut self, now: Duration) {
        for group in self.groups.values_mut() {
            if let Some(lead) = group.lead.take() {
                group.publish(now);
                group.tell(RoleEvent::Lost { term: lead.term, leader: None });
            }
            group.forget_waiters();
        }
        self.node.groups.write().retain(|range, _| !self.groups.contains_key(range));
        self.groups.clear();
    }
}
