//! One replica: Raft's state machine, the range's state and machine, role, lease and clockwork.
//! Everything here is driven by the worker that owns it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use quorate_proto::{NodeId, PeerId, RangeId, Timestamp, pb};
use quorate_txn::mistakes::Mistake;
use raft::eraftpb::{ConfState, MessageType};
use raft::{Config, RawNode, StateRole};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::config::*;
use super::handle::{Answer, NodeShared};
use super::lease::LeaseRounds;
use super::machine::{Handover, LeaseState, RangeMachine, RoleEvent};
use super::shared::{GroupShared, RaftMetrics};
use super::storage::GroupLog;
use crate::transport::SnapshotFile;

/// Raft must never start an election by itself: its own timeout comes from a generator that no
/// seed reaches (rule X1). It is set out of reach; the driver draws and campaigns.
const NEVER_TICKS: usize = 1 << 30;

/// What a leader is doing with its term.
pub(crate) struct Lead {
    pub term: u64,
    /// Read after the election was noticed: never before it was won.
    pub won_at: Duration,
    pub caught_up: bool,
    pub serving: bool,
    pub surrendered: bool,
    pub propose_after: Timestamp,
    pub transfer: Option<Transfer>,
}

pub(crate) struct Transfer {
    pub to: u64,
    /// Where the hand-over is in the log.
    pub index: u64,
    pub asked: bool,
    pub ticks: u32,
    pub answer: Option<Answer<()>>,
}

/// A quiet group's entry in the sets of its pairs.
pub(crate) struct Quiet {
    pub since: Duration,
    pub term: u64,
    pub last_index: u64,
    pub led: bool,
    pub nodes: Vec<NodeId>,
}

/// A received snapshot that Raft has taken but the driver has not installed.
pub(crate) struct Arrived {
    pub index: u64,
    pub files: Vec<SnapshotFile>,
}

/// One replica.
///
/// # Invariants
/// * `lead` is set exactly while Raft's role is leader, after `notice_role`.
/// * A replica with a known leader campaigns only `ELECTION_TICKS` after it last heard of it.
/// * Without a machine the replica has no state: it is not a voter of anything it knows of.
pub(crate) struct Group {
    pub range: RangeId,
    pub peer: PeerId,
    pub raw: RawNode<GroupLog>,
    pub state: pb::RangeState,
    pub machine: Option<Box<dyn RangeMachine>>,
    pub shared: Arc<GroupShared>,
    pub lead: Option<Lead>,
    pub rounds: LeaseRounds,
    pub handover: Option<(u64, Handover)>,
    pub change: Option<(u64, Answer<pb::RangeDescriptor>)>,
    pub quiet: Option<Quiet>,
    /// Tell the members with the next heartbeats that the group is quiet.
    pub quiet_told: bool,
    pub idle_ticks: u32,
    pub arrived: Option<Arrived>,
    pub durable: u64,
    pub pinned: bool,
    pub destroy: bool,
    learned: HashMap<u64, NodeId>,
    election_ticks: u32,
    term_seen: (u64, u64),
}

/// What one heartbeat of ours carries beside Raft's own fields.
pub(crate) struct HeartbeatNote {
    pub round: u64,
    pub quiet_at: Option<u64>,
}

impl HeartbeatNote {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.round.to_be_bytes().to_vec();
        if let Some(index) = self.quiet_at {
            bytes.extend(index.to_be_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let round = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let quiet_at = match bytes.get(8..) {
            Some([]) | None => None,
            Some(rest) => Some(u64::from_be_bytes(rest.try_into().ok()?)),
        };
        Some(Self { round, quiet_at })
    }
}

pub(crate) fn raft_config(peer: PeerId, applied: u64) -> Config {
    Config {
        id: peer.0,
        election_tick: ELECTION_TICKS as usize,
        heartbeat_tick: HEARTBEAT_TICKS as usize,
        min_election_tick: NEVER_TICKS,
        max_election_tick: NEVER_TICKS + 1,
        applied,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: true,
        pre_vote: true,
        // Appends are joined by ourselves: see `appends`.
        batch_append: false,
        // The commit index rides on the next append or heartbeat: one wake-up less per follower.
        skip_bcast_commit: true,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: APPLY_BYTES_MAX,
        ..Config::default()
    }
}

/// A Raft configuration as `RangeState.conf_state` keeps it.
pub(crate) fn conf_state_of(state: &pb::RangeState) -> Result<ConfState, String> {
    ConfState::parse_from_bytes(&state.conf_state).map_err(|e| e.to_string())
}

/// The configuration that a descriptor describes, encoded.
pub(crate) fn conf_state_from(descriptor: &pb::RangeDescriptor) -> Bytes {
    let mut conf = ConfState::default();
    for replica in &descriptor.replicas {
        match replica.role() {
            pb::ReplicaRole::Voter => conf.voters.push(replica.peer_id),
            pb::ReplicaRole::Learner => conf.learners.push(replica.peer_id),
        }
    }
    encode_conf_state(&conf)
}

pub(crate) fn encode_conf_state(conf: &ConfState) -> Bytes {
    conf.write_to_bytes().expect("a ConfState without required fields always encodes").into()
}

impl Group {
    /// Opens a replica over its log. `state` is default (but for the descriptor's range id) while
    /// nothing is known of the range.
    pub fn open(
        node: &NodeShared,
        log: GroupLog,
        peer: PeerId,
        state: pb::RangeState,
        first_ticks: u32,
    ) -> Result<Self, String> {
        let range = log.range();
        let raw = RawNode::new(&raft_config(peer, state.applied_index), log, &logger())
            .map_err(|e| e.to_string())?;
        let shared = Arc::new(GroupShared::new(range, peer));
        let initialised = !state.conf_state.is_empty();
        let machine = initialised.then(|| node.deps.factory.create(shared.clone(), &state));
        let durable = state.applied_index;
        let mut group = Self {
            range,
            peer,
            raw,
            state,
            machine,
            shared,
            lead: None,
            rounds: LeaseRounds::default(),
            handover: None,
            change: None,
            quiet: None,
            quiet_told: false,
            idle_ticks: 0,
            arrived: None,
            durable,
            pinned: false,
            destroy: false,
            learned: HashMap::new(),
            election_ticks: first_ticks,
            term_seen: (0, 0),
        };
        group.term_seen = (group.term(), 0);
        group.publish(Duration::ZERO);
        Ok(group)
    }

    pub fn descriptor(&self) -> pb::RangeDescriptor {
        self.state.descriptor.clone().unwrap_or_default()
    }

    pub fn initialised(&self) -> bool {
        self.machine.is_some()
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// Tells Raft how far the machine is.
    pub fn advance_applied(&mut self) {
        let applied = self.state.applied_index;
        if applied > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(applied);
        }
    }

    pub fn leading(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn epoch_conf(&self) -> u64 {
        self.state.descriptor.as_ref().and_then(|d| d.epoch).map_or(0, |epoch| epoch.conf)
    }

    pub fn is_member(&self, peer: u64) -> bool {
        let replicas = self.state.descriptor.iter().flat_map(|d| &d.replicas);
        replicas.into_iter().any(|replica| replica.peer_id == peer)
    }

    pub fn learn(&mut self, replica: &pb::Replica) {
        self.learned.insert(replica.peer_id, NodeId(replica.node_id));
    }

    pub fn node_of(&self, peer: u64) -> Option<NodeId> {
        let replicas = self.state.descriptor.iter().flat_map(|d| &d.replicas);
        let known = replicas.into_iter().find(|replica| replica.peer_id == peer);
        known.map(|r| NodeId(r.node_id)).or_else(|| self.learned.get(&peer).copied())
    }

    /// The nodes of all members but this one, sorted.
    pub fn other_nodes(&self) -> Vec<NodeId> {
        let replicas = self.state.descriptor.iter().flat_map(|d| &d.replicas);
        let others = replicas.into_iter().filter(|replica| replica.peer_id != self.peer.0);
        let mut nodes: Vec<_> = others.map(|replica| NodeId(replica.node_id)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    pub fn leader_node(&self) -> Option<NodeId> {
        match self.raw.raft.leader_id {
            0 => None,
            peer if peer == self.peer.0 => None,
            peer => self.node_of(peer),
        }
    }

    fn voters(&self) -> [Vec<u64>; 2] {
        let conf = self.raw.raft.prs().conf().to_conf_state();
        [conf.voters, conf.voters_outgoing]
    }

    /// When the lease ends by what was answered, whether or not it is served under.
    fn lease_end(&self, now: Duration) -> Duration {
        let [incoming, outgoing] = self.voters();
        self.rounds.end(self.peer.0, [&incoming, &outgoing], now).unwrap_or_default()
    }

    /// Shows request tasks the current role and lease.
    pub fn publish(&mut self, now: Duration) {
        // Raft may have left the role or the term already, without `notice_role` having run.
        let term = self.term();
        let lead = self.lead.as_ref().filter(|lead| self.leading() && lead.term == term);
        let serving = lead.is_some_and(|lead| lead.serving);
        let leads = lead.is_some();
        let propose_after = lead.map_or(Timestamp::ZERO, |lead| lead.propose_after);
        let leader_node = match leads {
            true => self.own_node(),
            false => self.leader_node(),
        };
        self.shared.publish(LeaseState {
            term,
            leader: leads,
            serving,
            lease_end: if serving { self.lease_end(now) } else { Duration::ZERO },
            propose_after,
            leader_node,
            leader_peer: Some(PeerId(self.raw.raft.leader_id)).filter(|peer| peer.0 != 0),
        });
    }

    fn own_node(&self) -> Option<NodeId> {
        self.node_of(self.peer.0)
    }

    /// Looks whether Raft's role changed; must run before any message that Raft produced since is
    /// sent, so that a lease ends before anybody hears of a newer term.
    pub fn notice_role(&mut self, node: &NodeShared, now: Duration, rng: &mut StdRng) {
        let term = self.term();
        let leads = self.leading();
        if self.lead.as_ref().is_some_and(|lead| !leads || lead.term != term) {
            self.lost(node, now);
        }
        if leads && self.lead.is_none() {
            RaftMetrics::inc(&node.metrics.elections_won);
            tracing::info!(range = %self.range, term, "won an election");
            self.rounds.new_term();
            self.lead = Some(Lead {
                term,
                won_at: now,
                caught_up: false,
                serving: false,
                surrendered: false,
                propose_after: Timestamp::ZERO,
                transfer: None,
            });
            self.publish(now);
            self.tell(RoleEvent::Elected { term });
        }
        let seen = (term, self.raw.raft.leader_id);
        if seen != self.term_seen {
            self.term_seen = seen;
            if seen.1 != 0 {
                self.election_ticks = draw_election_ticks(rng);
            }
            self.publish(now);
        }
    }

    fn lost(&mut self, node: &NodeShared, now: Duration) {
        let Some(lead) = self.lead.take() else { return };
        RaftMetrics::inc(&node.metrics.terms_lost);
        self.rounds.new_term();
        self.publish(now);
        if let Some(Transfer { answer: Some(answer), .. }) = lead.transfer {
            RaftMetrics::inc(&node.metrics.transfers);
            // Whoever asked may have stopped waiting.
            let _ = answer.send(Ok(()));
        }
        if let Some((_, answer)) = self.change.take() {
            let _ = answer.send(Err(super::machine::ChangeError::Unknown));
        }
        let leader = self.leader_node();
        tracing::info!(range = %self.range, term = lead.term, ?leader, "lost the lead");
        self.tell(RoleEvent::Lost { term: lead.term, leader });
    }

    pub fn tell(&mut self, event: RoleEvent) {
        if let Some(machine) = &mut self.machine {
            machine.role_changed(event, &self.state);
        }
    }

    /// Rules L2 and L3: begins to serve once the first entry of the term is applied, the wait is
    /// over or was spared by a hand-over, and a majority has answered a round of this term.
    pub fn serve_if_due(&mut self, node: &NodeShared, now: Duration) {
        let end = self.lease_end(now);
        let applied_term = self.state.applied_term;
        let Some(lead) = self.lead.as_mut() else { return };
        let term = lead.term;
        if !lead.caught_up && applied_term == term {
            lead.caught_up = true;
            self.tell(RoleEvent::CaughtUp { term });
        }
        let Some(lead) = self.lead.as_mut() else { return };
        if !lead.caught_up || lead.serving || lead.surrendered || end <= now {
            return;
        }
        let clock = &node.deps.clock;
        // A clock too far ahead to be taken over spares nobody the wait.
        let spared = self
            .handover
            .filter(|(of_term, _)| *of_term + 1 == term)
            .map(|(_, handover)| handover)
            .filter(|handover| clock.observe(handover.clock).is_ok());
        let (max_read_ts, propose_after) = match spared {
            Some(handover) => (handover.max_read_ts, Timestamp::ZERO),
            None if now >= lead.won_at + LEADER_WAIT || Mistake::LeaderWithoutWait.is_made() => {
                let floor = clock.physical().bound_after(clock.max_offset());
                (floor, floor)
            }
            None => return,
        };
        lead.serving = true;
        lead.propose_after = propose_after;
        self.tell(RoleEvent::Serving { term, max_read_ts, propose_after, handed_over: spared });
        tracing::info!(range = %self.range, term, spared = spared.is_some(), "serves");
        self.publish(now);
    }

    /// One tick of an awake group. Returns whether it went to campaign.
    pub fn tick(&mut self, node: &NodeShared, now: Duration, rng: &mut StdRng) {
        self.idle_ticks = self.idle_ticks.saturating_add(1);
        if self.leading() {
            self.raw.tick();
            self.tick_lead(node, now);
            return;
        }
        self.raw.tick();
        let raft = &self.raw.raft;
        let known_leader = raft.leader_id != 0;
        let due = match known_leader {
            true => self.election_ticks.max(ELECTION_TICKS),
            false => self.election_ticks,
        };
        if raft.promotable()
            && raft.election_elapsed >= due as usize
            && node.may_lead.load(std::sync::atomic::Ordering::SeqCst)
        {
            self.campaign(node, rng);
        }
    }

    /// Starts a pre-election.
    pub fn campaign(&mut self, node: &NodeShared, rng: &mut StdRng) {
        let raft = &self.raw.raft;
        assert!(
            raft.leader_id == 0 || raft.election_elapsed >= ELECTION_TICKS as usize,
            "a replica with a known leader campaigns only ELECTION_TICKS after it last heard of it"
        );
        RaftMetrics::inc(&node.metrics.campaigns);
        self.raw.raft.election_elapsed = 0;
        self.election_ticks = draw_election_ticks(rng);
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(range = %self.range, %error, "no campaign");
        }
    }

    fn tick_lead(&mut self, node: &NodeShared, now: Duration) {
        if !node.may_lead.load(std::sync::atomic::Ordering::SeqCst) && self.leading() {
            let term = self.term();
            self.raw.raft.become_follower(term, 0);
            return;
        }
        let term = self.term();
        let overdue = self.lead.as_mut().and_then(|lead| lead.transfer.as_mut()).map(|transfer| {
            transfer.ticks += 1;
            transfer.ticks > TRANSFER_TICKS_MAX
        });
        if overdue == Some(true) && self.leading() {
            // The lease was given up for the rest of the term: only a new term serves again.
            let transfer = self.lead.as_mut().and_then(|lead| lead.transfer.take());
            if let Some(answer) = transfer.and_then(|transfer| transfer.answer) {
                let why = String::from("the other replica did not take the lead");
                let _ = answer.send(Err(super::machine::ChangeError::NotNow(why)));
            }
            self.raw.raft.become_follower(term, 0);
            return;
        }
        self.serve_if_due(node, now);
    }

    /// Whether the leader may tell its members that the group is quiet (rule L6): all hold and
    /// committed the last entry, nothing is under way, nothing happened lately.
    pub fn may_quiet(&self) -> bool {
        let raft = &self.raw.raft;
        let last = self.last_index();
        let Some(lead) = &self.lead else { return false };
        lead.serving
            && lead.transfer.is_none()
            && self.change.is_none()
            && self.quiet.is_none()
            && self.idle_ticks >= QUIET_AFTER_TICKS
            && self.settled()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && self.voters()[1].is_empty()
            && raft.prs().iter().all(|(peer, progress)| {
                *peer == self.peer.0
                    || (progress.matched == last && progress.committed_index == last)
            })
    }

    /// Everything in the log is committed and applied here.
    pub fn settled(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let last = log.last_index();
        log.committed == last && log.applied == last && self.state.applied_index == last
    }

    /// Something happened: the group has traffic.
    pub fn touch(&mut self) {
        self.idle_ticks = 0;
    }

    /// Whether this message leaves a quiet group quiet.
    pub fn leaves_quiet(&self, message: &raft::eraftpb::Message) -> bool {
        let Some(quiet) = &self.quiet else { return false };
        let quiet_heartbeat = || {
            HeartbeatNote::decode(&message.context).and_then(|note| note.quiet_at)
                == Some(quiet.last_index)
        };
        message.term == quiet.term
            && match message.get_msg_type() {
                MessageType::MsgHeartbeatResponse => quiet.led,
                MessageType::MsgAppendResponse => quiet.led && !message.reject,
                MessageType::MsgHeartbeat => !quiet.led && quiet_heartbeat(),
                _ => false,
            }
    }

    /// The envelope for a message to another replica.
    pub fn envelope(&self, to: u64, message: Vec<u8>) -> Option<(NodeId, pb::RaftMessage)> {
        let node = self.node_of(to)?;
        let descriptor = self.state.descriptor.as_ref();
        let from_node = self.own_node().or_else(|| self.learned.get(&self.peer.0).copied())?;
        let replica = |node: NodeId, peer: u64| pb::Replica {
            node_id: node.0,
            peer_id: peer,
            role: self.role_of(peer) as i32,
        };
        let envelope = pb::RaftMessage {
            range_id: self.range.0,
            epoch: descriptor.and_then(|d| d.epoch),
            to: Some(replica(node, to)),
            from: Some(replica(from_node, self.peer.0)),
            start: descriptor.map(|d| d.start.clone()).unwrap_or_default(),
            end: descriptor.map(|d| d.end.clone()).unwrap_or_default(),
            message: message.into(),
            tombstone: false,
        };
        Some((node, envelope))
    }

    fn role_of(&self, peer: u64) -> pb::ReplicaRole {
        let replicas = self.state.descriptor.iter().flat_map(|d| &d.replicas);
        let known = replicas.into_iter().find(|replica| replica.peer_id == peer);
        known.map_or(pb::ReplicaRole::Voter, |replica| replica.role())
    }

    /// The state as it is stored: applied index, term and configuration are the driver's.
    pub fn encoded_state(&self) -> Vec<u8> {
        self.state.encode_to_vec()
    }

    /// Answers who waits for a change, if any.
    pub fn answer_change(&mut self, index: u64) {
        if self.change.as_ref().is_some_and(|(at, _)| *at == index)
            && let Some((_, answer)) = self.change.take()
        {
            let _ = answer.send(Ok(self.descriptor()));
        }
    }

    /// Drops whoever still waits: the outcome is unknown.
    pub fn forget_waiters(&mut self) {
        self.change = None;
        if let Some(lead) = &mut self.lead {
            lead.transfer = None;
        }
    }
}

/// Ticks of silence before the next campaign.
pub(crate) fn draw_election_ticks(rng: &mut StdRng) -> u32 {
    rng.random_range(ELECTION_TICKS..=ELECTION_TICKS_MAX)
}

/// raft-rs logs through slog; what matters is logged by the driver.
fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

/// Tells a waiter without caring whether it still waits.
pub(crate) fn answer<T>(to: oneshot::Sender<T>, outcome: T) {
    let _ = to.send(outcome);
}
