//! The pinger: asks the other nodes for their clocks, and has this node lead or not (rule T3).
//! Both sides learn where the other is. It goes on while the meta range has no leader: that may be
//! what it cures.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::pb::node_request::Body as Ask;
use quorate_proto::pb::node_response::Body as Answer;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::{Connector as _, NodeId, RangeId, Timestamp, pb};
use quorate_txn::clock::Standing;

use super::Node;
use super::config::*;
use super::offsets::{Offset, Seen, heirs, judge};

impl Node {
    pub(super) async fn ping_on(&self) {
        loop {
            self.ping_all().await;
            let refusals = self.ranges.clock.refusals();
            let mut waited = Duration::ZERO;
            // A refused reading is news of somebody's clock: that is not left for later.
            while waited < PING_EVERY && self.ranges.clock.refusals() == refusals {
                tokio::time::sleep(PING_AGAIN).await;
                waited += PING_AGAIN;
            }
        }
    }

    /// Asks every other node for its clock: who answers lives, and whose clock is off is known.
    async fn ping_all(&self) {
        let others = self.connector.nodes().into_iter().filter(|node| *node != self.id());
        let others: Vec<NodeId> = others.collect();
        // Each answer counts when it comes: the slowest node holds nobody up.
        join_all(others.iter().map(async |node| {
            if let Some((seen, known)) = self.ping(*node).await {
                self.note(*node, seen);
                self.connector.adopt_unknown(&known);
            }
        }))
        .await;
        self.save_addresses().await;
        self.judge_clock().await;
    }

    /// Asks a node just before it is given a lead: it may be about to stop.
    pub(super) async fn still_takes_leads(&self, node: NodeId) -> bool {
        let Some((seen, _)) = self.ping(node).await else { return false };
        let clock = &self.ranges.clock;
        let usable = seen.usable(clock.monotonic(), clock.max_offset());
        self.note(node, seen);
        usable
    }

    /// One question: what it says of the other node, and the nodes that one knows.
    async fn ping(&self, node: NodeId) -> Option<(Seen, Vec<pb::NodeInfo>)> {
        let clock = &self.ranges.clock;
        let request = Ask::Ping(pb::PingRequest { node: Some(self.info()) });
        let sent = clock.monotonic();
        let reply = self.call_node(node, Some(request), PING_TIMEOUT).await.ok()?;
        // In this order a pause between the two counts as a longer round trip.
        let own = clock.physical();
        let at = clock.monotonic();
        let refused = match reply.error {
            Some(pb::RangeError { kind: Some(Kind::ClockSkew(_)), .. }) => true,
            Some(_) => return None,
            None => clock.observe(Timestamp(reply.clock)).is_err(),
        };
        let answer = match reply.node.and_then(|node| node.body) {
            Some(Answer::Ping(answer)) => answer,
            _ => pb::PingResponse::default(),
        };
        // One that does not tell has no say in where the middle of all clocks is.
        let remote = Some(Timestamp(answer.physical)).filter(|remote| !remote.is_zero());
        let offset = remote.map(|remote| Offset::measured(remote, own, at.saturating_sub(sent)));
        let oldest_read = Some(Timestamp(answer.oldest_read)).filter(|oldest| !oldest.is_zero());
        let leads = !answer.does_not_lead;
        Some((Seen { at, offset, refused, leads, oldest_read }, answer.nodes))
    }

    fn note(&self, node: NodeId, seen: Seen) {
        let limit = self.ranges.clock.max_offset();
        let before = self.seen.lock().insert(node, seen);
        let (was, is) = (before.is_some_and(|seen| seen.apart(limit)), seen.apart(limit));
        let offset_us = seen.offset.map(|offset| offset.us);
        if is && !was {
            tracing::warn!(own = %self.id(), %node, ?offset_us, "the clocks of two nodes disagree");
        } else if was && !is {
            tracing::info!(own = %self.id(), %node, ?offset_us, "the clocks of two nodes agree");
        }
    }

    /// Rule T3: a node whose clock is far from the middle of all stops leading and says so.
    async fn judge_clock(&self) {
        let clock = &self.ranges.clock;
        let (now, limit, before) = (clock.monotonic(), clock.max_offset(), clock.standing());
        let ahead = clock.last().to_duration().saturating_sub(clock.physical().to_duration());
        let standing = judge(before, &self.seen.lock(), now, limit, ahead);
        clock.set_standing(standing);
        let refuses = |standing| matches!(standing, Standing::Off { .. });
        if refuses(standing) && !refuses(before) {
            tracing::error!(
                node = %self.id(), %standing, ?limit,
                "this node's clock is off from most others': it neither leads nor runs statements"
            );
        } else if before.leads() && !standing.leads() {
            tracing::error!(
                node = %self.id(), %standing, ?limit,
                "this node's clock is almost off from most others': it hands its leads over"
            );
        } else if !before.leads() && standing.leads() {
            tracing::info!(
                node = %self.id(),
                "this node's clock agrees with most others': it may lead"
            );
        }
        if !standing.leads() {
            self.hand_over_all().await;
        }
        self.raft.set_may_lead(!refuses(standing));
    }

    /// Asks others to take the leads over, for a bounded time. What is left then stays while the
    /// clock is within the limit, for there may be nobody else; beyond it, it is given up.
    ///
    /// Beyond the limit nobody takes this node's messages, a proposal of a hand-over neither: there
    /// are no heirs, and the leads end at once. A transfer that is cut off in the middle has given
    /// its lease up for the rest of the term (rule L2), so stepping down in the same term is safe:
    /// whoever is elected next either has the hand-over applied, and this was its preceding term,
    /// or waits the lease out. It refuses a handed clock too far ahead of its own, and then waits
    /// as well.
    async fn hand_over_all(&self) {
        let clock = &self.ranges.clock;
        let heirs = heirs(&self.seen.lock(), clock.monotonic(), clock.max_offset());
        let moves =
            join_all(self.moves_to(&heirs).into_iter().map(|(r, to)| self.move_lead_to_one(r, to)));
        if tokio::time::timeout(HAND_OVER_TIMEOUT, moves).await.is_err() {
            tracing::warn!(node = %self.id(), "some leads were not handed over in time");
        }
    }

    /// For each range led here, those of these nodes that have a voting replica.
    pub(super) fn moves_to(&self, nodes: &[NodeId]) -> Vec<(RangeId, Vec<NodeId>)> {
        let moves = self.led().into_iter().filter_map(|replica| {
            let replicas = replica.descriptor().replicas;
            let voter = |r: &&pb::Replica| r.role() == pb::ReplicaRole::Voter;
            let voters = replicas.iter().filter(voter).map(|r| NodeId(r.node_id));
            let mut fit: Vec<NodeId> = voters.filter(|node| nodes.contains(node)).collect();
            // Not all of them to one.
            let turn = usize::try_from(replica.range.0).unwrap_or(0);
            let first = turn.checked_rem(fit.len())?;
            fit.rotate_left(first);
            Some((replica.range, fit))
        });
        moves.collect()
    }

    /// The other nodes that answered lately, agree on the time and may lead.
    pub(super) fn live(&self) -> Vec<NodeId> {
        let clock = &self.ranges.clock;
        let (now, limit) = (clock.monotonic(), clock.max_offset());
        let seen = self.seen.lock();
        let live = seen.iter().filter(|(_, seen)| seen.usable(now, limit));
        let mut live: Vec<_> = live.map(|(node, _)| *node).collect();
        live.sort_unstable();
        live
    }

    /// What is told to a node that asks for this one's clock. With `nodes`, also who is known.
    pub(super) fn ping_answer(&self, nodes: Vec<pb::NodeInfo>) -> Answer {
        let clock = &self.ranges.clock;
        let does_not_lead = !clock.standing().leads() || self.leaving.load(Ordering::SeqCst);
        let oldest_read = self.gateway.get().and_then(|gateway| gateway.oldest_read());
        Answer::Ping(pb::PingResponse {
            nodes,
            physical: clock.physical().0,
            does_not_lead,
            oldest_read: oldest_read.unwrap_or_default().0,
        })
    }

    /// This node's clock, for people.
    pub(super) fn clock_state(&self) -> pb::ClockState {
        let clock = &self.ranges.clock;
        let standing = clock.standing();
        pb::ClockState {
            max_offset_us: u64::try_from(clock.max_offset().as_micros()).unwrap_or(u64::MAX),
            off: !standing.leads(),
            refuses: matches!(standing, Standing::Off { .. }),
            ahead_us: standing.ahead_us().unwrap_or_default(),
        }
    }

    /// The other nodes' clocks as seen from here, for people.
    pub(super) fn clock_offsets(&self) -> Vec<pb::ClockOffset> {
        let now = self.ranges.clock.monotonic();
        let seen = self.seen.lock();
        let told = |(node, seen): (&NodeId, &Seen)| pb::ClockOffset {
            node_id: node.0,
            measured: seen.offset.is_some(),
            offset_us: seen.offset.map_or(0, |offset| offset.us),
            error_us: seen.offset.map_or(0, |offset| offset.error_us.unsigned_abs()),
            refused: seen.refused,
            age_ms: u64::try_from(now.saturating_sub(seen.at).as_millis()).unwrap_or(u64::MAX),
        };
        let mut offsets: Vec<_> = seen.iter().map(told).collect();
        offsets.sort_by_key(|offset| offset.node_id);
        offsets
    }
}
