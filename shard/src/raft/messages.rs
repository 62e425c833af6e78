//! What comes in from other nodes: messages of groups, messages for replicas that are not (or no
//! longer) here, and the heartbeats of pairs with the quiet groups they keep.

use std::time::Duration;

use protobuf::Message as _;
use quorate_proto::{NodeId, RangeId, pb};
use quorate_txn::mistakes::Mistake;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::config::*;
use super::group::{Arrived, Group, HeartbeatNote, Quiet};
use super::quiet::bucket_of;
use super::shared::RaftMetrics;
use super::start::Tombstone;
use super::storage::GroupLog;
use super::worker::Worker;
use crate::transport::{SnapshotFile, remove_files};

/// An incoming message, its envelope checked.
struct Incoming {
    envelope: pb::RaftMessage,
    to: pb::Replica,
    from: pb::Replica,
    message: Message,
}

impl Worker {
    /// A message of a group; with `files` it is a snapshot.
    pub(super) fn on_message(
        &mut self,
        envelope: pb::RaftMessage,
        files: Option<Vec<SnapshotFile>>,
        now: Duration,
    ) {
        if let Err(files) = self.handle(envelope, files, now) {
            RaftMetrics::inc(&self.node.metrics.messages_ignored);
            remove_files(&files.unwrap_or_default());
        }
    }

    /// Gives the files back if the message is not wanted.
    fn handle(
        &mut self,
        envelope: pb::RaftMessage,
        files: Option<Vec<SnapshotFile>>,
        now: Duration,
    ) -> Result<(), Option<Vec<SnapshotFile>>> {
        let (Some(to), Some(from)) = (envelope.to, envelope.from) else { return Err(files) };
        if to.node_id != self.node.config.node.0 || to.peer_id == 0 || from.peer_id == 0 {
            return Err(files);
        }
        if envelope.tombstone {
            self.on_tombstone(&envelope, to.peer_id, now);
            return Ok(());
        }
        let Ok(message) = Message::parse_from_bytes(&envelope.message) else { return Err(files) };
        if message.to != to.peer_id || message.from != from.peer_id {
            return Err(files);
        }
        if !acceptable(message.get_msg_type(), files.is_some()) {
            return Err(files);
        }
        let incoming = Incoming { envelope, to, from, message };
        if !self.find_or_make(&incoming, now) {
            return Err(files);
        }
        self.step(incoming, files, now)
    }

    /// Whether there is a replica here that this message is for; makes one if it may be made.
    fn find_or_make(&mut self, incoming: &Incoming, now: Duration) -> bool {
        let range = RangeId(incoming.envelope.range_id);
        let peer = incoming.to.peer_id;
        let epoch_conf = incoming.envelope.epoch.map_or(0, |epoch| epoch.conf);
        if let Some(group) = self.groups.get(&range) {
            if peer == group.peer.0 {
                return true;
            }
            if peer < group.peer.0 {
                self.answer_stranger(incoming);
                return false;
            }
            if group.initialised() && epoch_conf <= group.epoch_conf() {
                return false;
            }
            // A newer replica of the range was placed here: the one that is here was removed.
            self.destroy(range, now);
        }
        if let Some(tombstone) = self.tombstones.get(&range)
            && tombstone.peer >= peer
            && !Mistake::TombstoneForgotten.is_made()
        {
            return false;
        }
        let kind = incoming.message.get_msg_type();
        if matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestVote) {
            self.keep_vote(incoming, now);
            return false;
        }
        let from_leader = matches!(
            incoming.message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        // A replica over another one waits: the split that cuts that one makes this one.
        let (start, end) = (&incoming.envelope.start, &incoming.envelope.end);
        if !from_leader || self.node.bounds.lock().overlapping(start, end, range).is_some() {
            return false;
        }
        self.make_empty(incoming)
    }

    /// The leader's half of a split may ask for votes before the split is applied here.
    fn keep_vote(&mut self, incoming: &Incoming, now: Duration) {
        if self.early_votes.len() == EARLY_VOTES_MAX {
            self.early_votes.pop_front();
        }
        self.early_votes.push_back((now, incoming.envelope.clone()));
    }

    /// The right half of a split is there: candidates that were quicker are answered.
    pub(super) fn replay_votes(&mut self, range: RangeId) {
        let now = self.now();
        let (for_it, others) = std::mem::take(&mut self.early_votes)
            .into_iter()
            .filter(|(at, _)| now.saturating_sub(*at) < EARLY_VOTE_KEPT)
            .partition(|(_, envelope)| envelope.range_id == range.0);
        self.early_votes = others;
        let for_it: std::collections::VecDeque<_> = for_it;
        for (_, envelope) in for_it {
            self.on_message(envelope, None, now);
        }
    }

    fn make_empty(&mut self, incoming: &Incoming) -> bool {
        let range = RangeId(incoming.envelope.range_id);
        let state = pb::RangeState::default();
        let peer = quorate_proto::PeerId(incoming.to.peer_id);
        let opened = GroupLog::open(self.node.deps.log.clone(), range, &state)
            .and_then(|log| Group::open(&self.node, log, peer, state, ELECTION_TICKS));
        match opened {
            Ok(mut group) => {
                group.learn(&incoming.to);
                self.groups.insert(range, group);
                true
            }
            Err(why) => {
                tracing::error!(%range, why, "a replica could not be made");
                false
            }
        }
    }

    fn step(
        &mut self,
        incoming: Incoming,
        files: Option<Vec<SnapshotFile>>,
        now: Duration,
    ) -> Result<(), Option<Vec<SnapshotFile>>> {
        let range = RangeId(incoming.envelope.range_id);
        let Some(group) = self.groups.get_mut(&range) else { return Err(files) };
        let epoch_conf = incoming.envelope.epoch.map_or(0, |epoch| epoch.conf);
        let stranger = group.initialised() && !group.is_member(incoming.from.peer_id);
        if stranger && epoch_conf < group.epoch_conf() {
            self.answer_stranger(&incoming);
            return Err(files);
        }
        group.learn(&incoming.from);
        group.learn(&incoming.to);
        let leaves_quiet = group.leaves_quiet(&incoming.message);
        if !leaves_quiet {
            self.wake(range, now);
        }
        let Some(group) = self.groups.get_mut(&range) else { return Err(files) };
        self.dirty.insert(range);
        if let Some(files) = files {
            return self.step_snapshot(incoming.message, files);
        }
        let mut message = incoming.message;
        let mut quiet_at = None;
        match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => {
                // Only an answer in the current term renews the lease (rule L1).
                if let Some(note) = HeartbeatNote::decode(&message.context)
                    && group.leading()
                    && message.term == group.term()
                    && group.is_member(message.from)
                {
                    group.rounds.answer(message.from, note.round);
                }
                message.context = bytes::Bytes::new();
                if leaves_quiet {
                    return Ok(());
                }
            }
            MessageType::MsgHeartbeat => {
                quiet_at = HeartbeatNote::decode(&message.context).and_then(|note| note.quiet_at);
            }
            MessageType::MsgAppend if !message.entries.is_empty() => group.touch(),
            _ => {}
        }
        let (from, term) = (message.from, message.term);
        if let Err(error) = group.raw.step(message) {
            tracing::debug!(%range, %error, "a message did nothing");
        }
        if let Some(index) = quiet_at {
            self.become_quiet_follower(range, from, term, index, now);
        }
        Ok(())
    }

    /// Rule S4 begins: Raft decides whether the snapshot is wanted; the bounds are reserved.
    fn step_snapshot(
        &mut self,
        message: Message,
        files: Vec<SnapshotFile>,
    ) -> Result<(), Option<Vec<SnapshotFile>>> {
        use prost::Message as _;
        let snapshot = message.get_snapshot();
        let index = snapshot.get_metadata().index;
        let Ok(state) = pb::RangeState::decode(&snapshot.data[..]) else { return Err(Some(files)) };
        let descriptor = state.descriptor.unwrap_or_default();
        let range = RangeId(descriptor.range_id);
        let Some(group) = self.groups.get_mut(&range) else { return Err(Some(files)) };
        let mut bounds = self.node.bounds.lock();
        if group.arrived.is_some()
            || bounds.overlapping(&descriptor.start, &descriptor.end, range).is_some()
        {
            return Err(Some(files));
        }
        let old = group.descriptor();
        if group.initialised() && !within(&descriptor, &old) {
            // Only a merge makes a range grow; its rows would lie outside what is reserved.
            return Err(Some(files));
        }
        if let Err(error) = group.raw.step(message) {
            tracing::debug!(%range, %error, "a snapshot did nothing");
        }
        let taken = group.raw.snap().is_some_and(|taken| taken.get_metadata().index == index);
        if !taken {
            return Err(Some(files));
        }
        if !group.initialised() {
            // Else the old bounds stay reserved until their rows are gone.
            bounds.set(range, &descriptor.start, &descriptor.end);
        }
        group.arrived = Some(Arrived { index, files });
        Ok(())
    }

    /// Tells a sender that it was removed. Only a member knows who is none: the tombstone of one
    /// that was removed says nothing of the sender, which may only not have heard of it yet.
    fn answer_stranger(&mut self, incoming: &Incoming) {
        let group = self.groups.get(&RangeId(incoming.envelope.range_id));
        let member = |group: &&Group| group.is_member(incoming.from.peer_id);
        let Some(group) = group.filter(|group| group.initialised() && !member(group)) else {
            return;
        };
        let epoch = group.state.descriptor.as_ref().and_then(|descriptor| descriptor.epoch);
        let reply = pb::RaftMessage {
            range_id: incoming.envelope.range_id,
            epoch,
            to: Some(incoming.from),
            from: Some(incoming.to),
            tombstone: true,
            ..pb::RaftMessage::default()
        };
        self.outbox.push(NodeId(incoming.from.node_id), reply);
    }

    /// The sender knows a newer configuration without this replica.
    fn on_tombstone(&mut self, envelope: &pb::RaftMessage, peer: u64, now: Duration) {
        let range = RangeId(envelope.range_id);
        let conf = envelope.epoch.map_or(0, |epoch| epoch.conf);
        let Some(group) = self.groups.get(&range) else { return };
        if group.peer.0 == peer && conf > group.epoch_conf() {
            self.tombstones.insert(range, Tombstone { peer, conf });
            self.destroy(range, now);
        }
    }

    pub(super) fn on_unreachable(&mut self, node: NodeId, now: Duration) {
        self.pairs.entry(node).or_default().lost_at = Some(now);
        for group in self.groups.values_mut().filter(|group| group.leading()) {
            let replicas = group.state.descriptor.iter().flat_map(|d| &d.replicas);
            let peers: Vec<u64> = replicas
                .into_iter()
                .filter(|replica| replica.node_id == node.0)
                .map(|replica| replica.peer_id)
                .collect();
            for peer in peers {
                group.raw.report_unreachable(peer);
            }
        }
    }

    /// A pair's heartbeat, or the answer to ours.
    pub(super) fn on_heartbeat(
        &mut self,
        from: NodeId,
        heartbeat: pb::PairHeartbeat,
        now: Duration,
    ) {
        let node = self.node.clone();
        let number = self.number;
        let mine = |bucket: usize| node.worker_of_bucket(bucket) == number;
        let pair = self.pairs.entry(from).or_default();
        if heartbeat.answer {
            for bucket in pair.answered(&heartbeat, mine, now) {
                self.wake_bucket(from, bucket, true, now);
            }
            self.renew_quiet_leases(now);
        } else {
            let (answer, unequal) = pair.receive(&heartbeat, mine, now);
            for bucket in unequal {
                self.wake_bucket(from, bucket, false, now);
            }
            if let Some(answer) = answer {
                self.outbox.push_heartbeat(from, answer, &node);
            }
        }
    }

    pub(super) fn send_pair_heartbeats(&mut self) {
        let now = self.now();
        for (to, pair) in &mut self.pairs {
            if let Some(heartbeat) = pair.heartbeat(now) {
                self.outbox.push_heartbeat(*to, heartbeat, &self.node);
            }
        }
    }

    /// Silence of a pair wakes its groups; leases of the others are shown anew.
    pub(super) fn tick_quiet(&mut self, now: Duration) {
        let mut silent = Vec::new();
        for (node, pair) in &self.pairs {
            for (number, bucket) in pair.buckets.iter().enumerate() {
                if bucket.led_silent(now) {
                    silent.push((*node, number, true));
                }
                if bucket.followed_silent(now) {
                    silent.push((*node, number, false));
                }
            }
        }
        for (node, bucket, led) in silent {
            self.wake_bucket(node, bucket, led, now);
        }
        let may_lead = self.node.may_lead.load(std::sync::atomic::Ordering::SeqCst);
        if !may_lead {
            let led: Vec<_> = self.quiet_ranges(|quiet| quiet.led);
            for range in led {
                self.wake(range, now);
            }
        }
        self.renew_quiet_leases(now);
    }

    fn renew_quiet_leases(&mut self, now: Duration) {
        for (range, group) in &mut self.groups {
            let Some(quiet) = group.quiet.as_ref().filter(|quiet| quiet.led) else { continue };
            let bucket = bucket_of(*range);
            let replicas = group.state.descriptor.iter().flat_map(|d| &d.replicas);
            for replica in replicas {
                let pair = self.pairs.get(&NodeId(replica.node_id));
                let unheard = Mistake::QuietLeaseUnheard.is_made().then_some(now);
                let renewed = pair.and_then(|p| p.buckets[bucket].renewed_at(quiet.since));
                if let Some(at) = unheard.or(renewed) {
                    group.rounds.answer_sent_at(replica.peer_id, at);
                }
            }
            group.publish(now);
        }
    }

    fn quiet_ranges(&self, which: impl Fn(&Quiet) -> bool) -> Vec<RangeId> {
        let quiet = self.groups.iter().filter(|(_, g)| g.quiet.as_ref().is_some_and(&which));
        quiet.map(|(range, _)| *range).collect()
    }

    fn wake_bucket(&mut self, node: NodeId, bucket: usize, led: bool, now: Duration) {
        let ranges = self.quiet_ranges(|quiet| quiet.led == led && quiet.nodes.contains(&node));
        for range in ranges.into_iter().filter(|range| bucket_of(*range) == bucket) {
            self.wake(range, now);
        }
    }

    /// The quiet mark has just been put into this group's heartbeats.
    pub(super) fn become_quiet_leader(&mut self, range: RangeId, now: Duration) {
        let Some(group) = self.groups.get_mut(&range) else { return };
        group.quiet_told = false;
        let nodes = group.other_nodes();
        self.become_quiet(range, true, nodes, now);
    }

    /// The leader says that nothing happens any more; true here only if all of it is applied.
    fn become_quiet_follower(
        &mut self,
        range: RangeId,
        from: u64,
        term: u64,
        index: u64,
        now: Duration,
    ) {
        let Some(group) = self.groups.get(&range) else { return };
        let raft = &group.raw.raft;
        let agreed = raft.state == StateRole::Follower
            && raft.term == term
            && raft.leader_id == from
            && group.last_index() == index
            && group.settled()
            && group.quiet.is_none()
            && group.initialised();
        if let Some(node) = group.node_of(from).filter(|_| agreed) {
            self.become_quiet(range, false, vec![node], now);
        }
    }

    fn become_quiet(&mut self, range: RangeId, led: bool, nodes: Vec<NodeId>, now: Duration) {
        let Some(group) = self.groups.get_mut(&range) else { return };
        let (term, last_index) = (group.term(), group.last_index());
        for node in &nodes {
            let pair = self.pairs.entry(*node).or_default();
            let bucket = &mut pair.buckets[bucket_of(range)];
            match led {
                true => bucket.add_led((range, term, last_index), now),
                false => bucket.add_followed((range, term, last_index), now),
            }
        }
        group.quiet = Some(Quiet { since: now, term, last_index, led, nodes });
        group.raw.mut_store().shrink();
        group.raw.raft.maybe_free_inflight_buffers();
        RaftMetrics::inc(&self.node.metrics.groups_quieted);
    }

    /// Ends a group's quiet, if it is quiet. Whoever counts silence begins anew: a follower may
    /// have answered for this group until now, so it must not vote for a whole timeout.
    pub(super) fn wake(&mut self, range: RangeId, _now: Duration) {
        let Some(group) = self.groups.get_mut(&range) else { return };
        let Some(quiet) = group.quiet.take() else { return };
        group.touch();
        for node in &quiet.nodes {
            let pair = self.pairs.entry(*node).or_default();
            let bucket = &mut pair.buckets[bucket_of(range)];
            let set = if quiet.led { &mut bucket.led } else { &mut bucket.followed };
            set.remove(range, quiet.term, quiet.last_index);
        }
        group.raw.raft.election_elapsed = 0;
        if quiet.led {
            group.raw.ping();
        }
        RaftMetrics::inc(&self.node.metrics.groups_woken);
        self.dirty.insert(range);
    }
}

/// Whether the bounds of one descriptor lie within those of another.
fn within(inner: &pb::RangeDescriptor, outer: &pb::RangeDescriptor) -> bool {
    inner.start >= outer.start
        && (outer.end.is_empty() || (!inner.end.is_empty() && inner.end <= outer.end))
}

/// Message types that may come from another node. Proposals and what asks a leader on behalf of
/// others are never accepted (rule L4); a snapshot only with its files.
fn acceptable(kind: MessageType, with_files: bool) -> bool {
    match kind {
        MessageType::MsgSnapshot => with_files,
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => !with_files,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L4: nothing that runs on behalf of another node's request comes in by a Raft message.
    #[test]
    fn proposals_of_others_are_not_accepted() {
        let refused = [
            MessageType::MsgPropose,
            MessageType::MsgTransferLeader,
            MessageType::MsgReadIndex,
            MessageType::MsgHup,
        ];
        for kind in refused {
            assert!(!acceptable(kind, false) && !acceptable(kind, true), "{kind:?}");
        }
        assert!(acceptable(MessageType::MsgAppend, false));
        assert!(acceptable(MessageType::MsgSnapshot, true));
        assert!(!acceptable(MessageType::MsgSnapshot, false), "without its files");
    }
}
