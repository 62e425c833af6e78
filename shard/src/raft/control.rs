//! What this node asks of its own replicas: creation, split halves, transfer, membership, status.

use std::time::Duration;

use prost::Message as _;
use quorate_proto::{NodeId, PeerId, RangeId, pb};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use tokio::sync::oneshot;

use super::apply::own_replica;
use super::config::*;
use super::group::{Group, Transfer, answer, conf_state_from, draw_election_ticks};
use super::handle::Answer;
use super::machine::{ChangeError, GroupStatus, Handover, ReplicaChange, RoleEvent};
use super::shared::RaftMetrics;
use super::storage::{GroupLog, begin_log};
use super::worker::Worker;
use crate::engine::{Batch, Cf, local};

impl Group {
    /// A hand-over that is applied is followed by the transfer itself.
    pub fn go_on_with_transfer(&mut self) {
        let applied = self.state.applied_index;
        let Some(transfer) = self.lead.as_mut().and_then(|lead| lead.transfer.as_mut()) else {
            return;
        };
        if !transfer.asked && applied >= transfer.index {
            transfer.asked = true;
            let to = transfer.to;
            self.raw.transfer_leader(to);
        }
    }

    /// The lease is given up before the other takes the lead: if it is not there, nobody serves
    /// until another election. So it must have answered lately, and not been lost since.
    fn may_transfer(
        &self,
        to: NodeId,
        lost_at: Option<Duration>,
        now: Duration,
    ) -> Result<u64, ChangeError> {
        let not_now = |why: &str| Err(ChangeError::NotNow(String::from(why)));
        let Some(lead) = self.lead.as_ref().filter(|_| self.leading()) else {
            return Err(ChangeError::NotLeader { leader: self.leader_node() });
        };
        let descriptor = self.descriptor();
        let Some(target) = own_replica(&descriptor, to) else {
            return Err(ChangeError::Invalid(format!("{to} has no replica of {}", self.range)));
        };
        if target.role() != pb::ReplicaRole::Voter {
            return Err(ChangeError::Invalid(format!("the replica on {to} does not vote")));
        }
        if target.peer_id == self.peer.0 {
            return Err(ChangeError::Invalid(format!("{to} leads {} already", self.range)));
        }
        if !lead.serving || lead.transfer.is_some() {
            return not_now("the leader does not serve");
        }
        if self.change.is_some() || self.raw.raft.has_pending_conf() {
            return not_now("a membership change is under way");
        }
        let answered = self.rounds.answered_at(target.peer_id);
        if answered.is_none_or(|at| at + LEASE <= now || Some(at) <= lost_at) {
            return not_now("the other replica has not answered lately");
        }
        let progress = self.raw.raft.prs().get(target.peer_id);
        match progress {
            Some(p) if p.matched + PROMOTE_LAG_MAX >= self.last_index() => Ok(target.peer_id),
            _ => not_now("the other replica lags behind"),
        }
    }

    /// Checks a change and gives it the form Raft takes.
    fn conf_change(&self, change: &ReplicaChange) -> Result<ConfChangeV2, ChangeError> {
        let descriptor = self.descriptor();
        let known = |peer: PeerId| descriptor.replicas.iter().find(|r| r.peer_id == peer.0);
        let invalid = |why: String| Err(ChangeError::Invalid(why));
        let (kind, replica) = match change {
            ReplicaChange::AddLearner { node, peer } => {
                if own_replica(&descriptor, *node).is_some() {
                    return invalid(format!("{node} has a replica already"));
                }
                if descriptor.replicas.iter().any(|r| r.peer_id >= peer.0) {
                    return invalid(format!("{peer} is not a new peer id"));
                }
                let role = pb::ReplicaRole::Learner as i32;
                let replica = pb::Replica { node_id: node.0, peer_id: peer.0, role };
                (ConfChangeType::AddLearnerNode, replica)
            }
            ReplicaChange::Promote { peer } => {
                let Some(replica) = known(*peer) else {
                    return invalid(format!("{peer} is no replica"));
                };
                if replica.role() == pb::ReplicaRole::Voter {
                    return invalid(format!("{peer} votes already"));
                }
                // One that never answered must not vote: a majority could need it.
                let matched = self.raw.raft.prs().get(peer.0).map_or(0, |p| p.matched);
                if matched == 0 || matched + PROMOTE_LAG_MAX < self.last_index() {
                    return Err(ChangeError::NotNow(format!("{peer} lags behind")));
                }
                let role = pb::ReplicaRole::Voter as i32;
                (ConfChangeType::AddNode, pb::Replica { role, ..*replica })
            }
            ReplicaChange::Remove { peer } => {
                let Some(replica) = known(*peer) else {
                    return invalid(format!("{peer} is no replica"));
                };
                if *peer == self.peer {
                    return invalid(String::from("a leader does not remove itself"));
                }
                (ConfChangeType::RemoveNode, *replica)
            }
        };
        let mut step = ConfChangeSingle::default();
        step.set_change_type(kind);
        step.node_id = replica.peer_id;
        let mut conf_change = ConfChangeV2::default();
        conf_change.set_changes(vec![step].into());
        conf_change.context = replica.encode_to_vec().into();
        Ok(conf_change)
    }

    fn status(&self) -> GroupStatus {
        let progress = match self.leading() {
            true => self.raw.raft.prs().iter().map(|(id, p)| (PeerId(*id), p.matched)).collect(),
            false => Vec::new(),
        };
        GroupStatus {
            state: self.state.clone(),
            peer: self.peer,
            lease: self.shared.lease(),
            last_index: self.last_index(),
            first_index: self.raw.store().truncated().index + 1,
            quiet: self.quiet.is_some(),
            progress,
        }
    }
}

impl Worker {
    pub(super) fn transfer(
        &mut self,
        range: RangeId,
        to: NodeId,
        answer_to: Answer<()>,
        now: Duration,
    ) {
        self.wake(range, now);
        let lost_at = self.pairs.get(&to).and_then(|pair| pair.lost_at);
        let Some(group) = self.groups.get_mut(&range) else {
            return answer(answer_to, Err(ChangeError::NotLeader { leader: None }));
        };
        let target = match group.may_transfer(to, lost_at, now) {
            Ok(target) => target,
            Err(why) => return answer(answer_to, Err(why)),
        };
        let term = group.term();
        if let Some(lead) = &mut group.lead {
            // From here on no check of the lease succeeds in this term (rule L2).
            lead.serving = false;
            lead.surrendered = true;
        }
        group.publish(now);
        group.tell(RoleEvent::Surrendered { term });
        let Some(machine) = &mut group.machine else { return };
        let last_words = machine.hand_over(term, &group.state);
        let proposed = group.raw.propose(Vec::new(), last_words);
        let index = group.last_index();
        if let Err(error) = &proposed {
            tracing::warn!(%range, %error, "a hand-over could not be proposed");
        }
        if let Some(lead) = &mut group.lead {
            let answer = Some(answer_to);
            lead.transfer = Some(Transfer { to: target, index, asked: false, ticks: 0, answer });
        }
        self.dirty.insert(range);
    }

    pub(super) fn change(
        &mut self,
        range: RangeId,
        change: ReplicaChange,
        answer_to: Answer<pb::RangeDescriptor>,
        now: Duration,
    ) {
        self.wake(range, now);
        let Some(group) = self.groups.get_mut(&range) else {
            return answer(answer_to, Err(ChangeError::NotLeader { leader: None }));
        };
        if let Err(why) = propose_change(group, &change) {
            return answer(answer_to, Err(why));
        }
        group.touch();
        group.change = Some((group.last_index(), answer_to));
        self.dirty.insert(range);
    }

    /// Bootstrap.
    pub(super) fn create(&mut self, mut state: pb::RangeState, answer_to: Answer<()>) {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let range = RangeId(descriptor.range_id);
        let invalid = |why: &str| Err(ChangeError::Invalid(String::from(why)));
        if own_replica(&descriptor, self.node.config.node).is_none() || range.0 == 0 {
            return answer(answer_to, invalid("the range has no replica here"));
        }
        {
            let mut bounds = self.node.bounds.lock();
            let overlap = bounds.overlapping(&descriptor.start, &descriptor.end, range);
            if self.groups.contains_key(&range) || overlap.is_some() {
                return answer(answer_to, invalid("there is a range already"));
            }
            bounds.set(range, &descriptor.start, &descriptor.end);
        }
        state.applied_index = INITIAL_INDEX;
        state.applied_term = INITIAL_TERM;
        state.conf_state = conf_state_from(&descriptor);
        let mut batch = Batch::new();
        batch.put(Cf::Local, &local::range_state_key(range), &state.encode_to_vec());
        let engine = &self.node.deps.engine;
        RaftMetrics::inc(&self.node.metrics.engine_flushes);
        if let Err(error) = engine.write(&batch).and_then(|()| engine.flush()) {
            self.failed = Some(error.to_string());
            return answer(answer_to, Err(ChangeError::Unknown));
        }
        let first_ticks = first_ticks(&descriptor, self.node.config.node, &mut self.rng);
        match self.start_group(state, first_ticks) {
            Ok(()) => answer(answer_to, Ok(())),
            Err(why) => answer(answer_to, Err(ChangeError::Invalid(why))),
        }
    }

    /// The right half of a split, written already.
    pub(super) fn split_off(
        &mut self,
        state: pb::RangeState,
        handover: Option<Handover>,
        campaign: bool,
    ) {
        let range = RangeId(state.descriptor.as_ref().map_or(0, |d| d.range_id));
        if let Some(group) = self.groups.get(&range) {
            if group.initialised() {
                return;
            }
            // A leader elsewhere was quicker than the split here: the vote that this replica may
            // have given is in its hard state and is kept.
            self.groups.remove(&range);
        }
        let first_ticks = draw_election_ticks(&mut self.rng);
        if let Err(why) = self.start_group(state, first_ticks) {
            self.failed = Some(why);
            return;
        }
        let Some(group) = self.groups.get_mut(&range) else { return };
        group.handover = handover.map(|handover| (INITIAL_TERM, handover));
        if campaign && group.raw.raft.promotable() && group.raw.raft.leader_id == 0 {
            group.campaign(&self.node, &mut self.rng);
        }
        self.dirty.insert(range);
        self.replay_votes(range);
    }

    /// Starts a replica whose state is in the engine and whose bounds are reserved.
    pub(super) fn start_group(
        &mut self,
        state: pb::RangeState,
        first_ticks: u32,
    ) -> Result<(), String> {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let range = RangeId(descriptor.range_id);
        let own = own_replica(&descriptor, self.node.config.node)
            .ok_or_else(|| format!("{range} has no replica on this node"))?;
        let peer = PeerId(own.peer_id);
        let log = self.node.deps.log.clone();
        if state.applied_index == INITIAL_INDEX {
            begin_log(&*log, range).map_err(|e| e.to_string())?;
        }
        let log = GroupLog::open(log, range, &state)?;
        let group = Group::open(&self.node, log, peer, state, first_ticks)?;
        self.node.groups.write().insert(range, group.shared.clone());
        self.groups.insert(range, group);
        self.dirty.insert(range);
        Ok(())
    }

    pub(super) fn status(
        &self,
        range: Option<RangeId>,
        answer_to: oneshot::Sender<Vec<GroupStatus>>,
    ) {
        let wanted = self.groups.values().filter(|group| group.initialised());
        let wanted = wanted.filter(|group| range.is_none_or(|range| range == group.range));
        answer(answer_to, wanted.map(Group::status).collect());
    }
}

fn propose_change(group: &mut Group, change: &ReplicaChange) -> Result<(), ChangeError> {
    let Some(lead) = group.lead.as_ref().filter(|_| group.leading()) else {
        return Err(ChangeError::NotLeader { leader: group.leader_node() });
    };
    let busy = |why: &str| Err(ChangeError::NotNow(String::from(why)));
    if !lead.serving {
        return busy("the leader does not serve");
    }
    if group.change.is_some() || group.raw.raft.has_pending_conf() {
        return busy("another membership change is under way");
    }
    let conf_change = group.conf_change(change)?;
    if group.raw.propose_conf_change(Vec::new(), conf_change).is_err() {
        return busy("Raft takes no proposal");
    }
    // raft-rs replaces a change that it does not take by an empty entry.
    if group.raw.raft.pending_conf_index != group.last_index() {
        return busy("another membership change is under way");
    }
    Ok(())
}

/// When a replica campaigns for the first time: at once if it is alone, else soon; nobody
/// campaigns against a living leader, since the others refuse.
pub(crate) fn first_ticks(
    descriptor: &pb::RangeDescriptor,
    node: NodeId,
    rng: &mut rand::rngs::StdRng,
) -> u32 {
    use rand::Rng as _;
    let alone = descriptor.replicas.iter().all(|replica| replica.node_id == node.0);
    match alone {
        true => 1,
        false => rng.random_range(1..=FIRST_ELECTION_TICKS_MAX),
    }
}
