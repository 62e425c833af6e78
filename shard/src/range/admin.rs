//! Changing a range at its leader: split, transfer of the lead, change of replicas, safe point.

use std::sync::Arc;

use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{NodeId, PeerId, Timestamp, pb};
use quorate_txn::config::TXN_FLOOR_LAG_MIN;
use tokio::time::Instant;

use super::config::CHANGE_RETRY;
use super::errors::{self, Outcome};
use super::replica::{Replica, version_of};
use super::requests::now;
use crate::raft::{ChangeError, RaftHandle, ReplicaChange};

/// Gives out ids that were never given before; the node asks the meta range.
#[async_trait::async_trait]
pub trait Allocator: Send + Sync {
    /// The first of `count` consecutive new ids.
    ///
    /// # Errors
    /// The meta range does not answer.
    async fn allocate(&self, count: u64) -> Result<u64, pb::RangeError>;
}

/// The next step from the replicas that are to those that shall be.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Add(NodeId),
    Promote(PeerId),
    Remove(PeerId),
    /// The leader cannot remove itself.
    LeadElsewhere(NodeId),
    Done,
}

/// Adds before it removes, so that the number of copies never falls below what it was.
fn next_step(descriptor: &pb::RangeDescriptor, wanted: &[u64], own: NodeId) -> Step {
    let voter = |r: &pb::Replica| r.role() == pb::ReplicaRole::Voter;
    for node in wanted {
        match descriptor.replicas.iter().find(|r| r.node_id == *node) {
            None => return Step::Add(NodeId(*node)),
            Some(replica) if !voter(replica) => return Step::Promote(PeerId(replica.peer_id)),
            Some(_) => {}
        }
    }
    let gone = |r: &&pb::Replica| !wanted.contains(&r.node_id);
    if let Some(other) = descriptor.replicas.iter().filter(gone).find(|r| r.node_id != own.0) {
        return Step::Remove(PeerId(other.peer_id));
    }
    match descriptor.replicas.iter().find(gone) {
        Some(_) => Step::LeadElsewhere(NodeId(wanted[0])),
        None => Step::Done,
    }
}

impl Replica {
    fn driver(&self) -> Result<RaftHandle, pb::RangeError> {
        let raft = self.node.raft().cloned();
        raft.ok_or_else(|| errors::unavailable("the node is starting"))
    }

    fn allocator(&self) -> Result<Arc<dyn Allocator>, pb::RangeError> {
        let allocator = self.node.allocator();
        allocator.ok_or_else(|| errors::unavailable("the node is starting"))
    }

    /// Splits the range before `request.key` (rule L5). Splitting where it is split already
    /// answers the two halves again, as far as they are here.
    pub(crate) async fn split(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        request: pb::SplitRequest,
        deadline: Instant,
    ) -> Outcome {
        self.lead()?;
        let before = self.descriptor();
        let end = quorate_txn::keys::next_key(&request.key);
        {
            let core = self.core.lock();
            let asked = std::iter::once((&request.key[..], &end[..]));
            self.check_route(&core, epoch, asked)?;
            if core.is_meta() {
                return Err(errors::invalid("the meta range is not split"));
            }
        }
        if request.key == before.start {
            return Err(errors::invalid("a range is not split at its first key"));
        }
        let peers = before.replicas.len() as u64;
        let first = self.allocator()?.allocate(1 + peers).await?;
        let term = self.lead()?;
        let waiter = {
            let mut core = self.core.lock();
            let now = core.descriptor();
            if version_of(&now) != version_of(&before) || now.replicas != before.replicas {
                return Err(errors::stale_route(self.range, vec![now]));
            }
            if core.splitting.is_some() {
                return Err(errors::unavailable(format!("{} is being split", self.range)));
            }
            // From here on no lease read of these keys is served (rule L5).
            core.splitting = Some(request.key.clone());
            let body = Command::Split(pb::SplitCommand {
                key: request.key.clone(),
                right_range_id: first,
                right_peer_ids: (first + 1..=first + peers).collect(),
            });
            let proposed = self.propose(&mut core, term, None, body);
            if proposed.is_err() {
                core.splitting = None;
            }
            proposed?
        };
        // The mark goes when the command is applied, as a split or as nothing, or is known to be
        // lost; whoever wakes up here later may find the mark of another split.
        self.applied(waiter, deadline).await
    }

    pub(crate) async fn transfer(
        &self,
        request: &pb::TransferLeaderRequest,
        deadline: Instant,
    ) -> Outcome {
        let to = NodeId(request.node_id);
        let raft = self.driver()?;
        let transferred = tokio::time::timeout_at(deadline, raft.transfer(self.range, to)).await;
        match transferred {
            Ok(Ok(())) => Ok(Answer::TransferLeader(pb::TransferLeaderResponse {})),
            Ok(Err(why)) => Err(errors::not_changed(self.range, &why)),
            Err(_) => Err(errors::unknown(format!("the transfer of {} goes on", self.range))),
        }
    }

    /// Adds, promotes and removes replicas one by one until they are on the wanted nodes.
    pub(crate) async fn change_replicas(
        self: &Arc<Self>,
        request: &pb::ChangeReplicasRequest,
        deadline: Instant,
    ) -> Outcome {
        if request.node_ids.is_empty() {
            return Err(errors::invalid("a range has at least one replica"));
        }
        loop {
            self.lead()?;
            let descriptor = self.descriptor();
            let step = next_step(&descriptor, &request.node_ids, self.node.id());
            if step == Step::Done {
                let descriptor = Some(descriptor);
                return Ok(Answer::ChangeReplicas(pb::ChangeReplicasResponse { descriptor }));
            }
            match self.step(step, deadline).await {
                Ok(()) => {}
                Err(ChangeError::NotNow(why)) => {
                    let until = now() + CHANGE_RETRY;
                    if until > deadline {
                        return Err(errors::unavailable(why));
                    }
                    tokio::time::sleep_until(until).await;
                }
                Err(why) => return Err(errors::not_changed(self.range, &why)),
            }
        }
    }

    /// One step; `NotNow` changed nothing.
    async fn step(self: &Arc<Self>, step: Step, deadline: Instant) -> Result<(), ChangeError> {
        let not_now = |error: pb::RangeError| ChangeError::NotNow(error.message);
        let raft = self.driver().map_err(not_now)?;
        let work = async {
            let change = match step {
                Step::Done => return Ok(()),
                Step::LeadElsewhere(node) => return raft.transfer(self.range, node).await,
                Step::Add(node) => {
                    let allocator = self.allocator().map_err(not_now)?;
                    let peer = PeerId(allocator.allocate(1).await.map_err(not_now)?);
                    ReplicaChange::AddLearner { node, peer }
                }
                Step::Promote(peer) => ReplicaChange::Promote { peer },
                Step::Remove(peer) => ReplicaChange::Remove { peer },
            };
            raft.change_replicas(self.range, change).await.map(|_| ())
        };
        let done = tokio::time::timeout_at(deadline, work).await;
        done.unwrap_or(Err(ChangeError::Unknown))
    }

    /// One step towards replicas on the wanted nodes, for the placement loop.
    pub(crate) async fn place(
        self: &Arc<Self>,
        wanted: &[u64],
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let step = next_step(&self.descriptor(), wanted, self.node.id());
        self.step(step, deadline).await
    }

    pub(crate) async fn raise_safe_point(
        &self,
        request: &pb::RaiseSafePointRequest,
        deadline: Instant,
    ) -> Outcome {
        let safe_point = Timestamp(request.safe_point);
        let txn_floor = Timestamp(request.txn_floor);
        let clock = &self.node.clock;
        if safe_point > clock.last() {
            return Err(errors::invalid("a safe point lies in the past"));
        }
        if txn_floor > clock.now().bound_before(TXN_FLOOR_LAG_MIN) {
            // Rule P6: those within their retry deadlines are not cut off.
            return Err(errors::unavailable("the transaction floor keeps its distance"));
        }
        self.raise_floors(safe_point, txn_floor, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(replicas: &[(u64, u64, bool)]) -> pb::RangeDescriptor {
        let replicas = replicas.iter().map(|(node, peer, voter)| pb::Replica {
            node_id: *node,
            peer_id: *peer,
            role: if *voter { 0 } else { 1 },
        });
        pb::RangeDescriptor { replicas: replicas.collect(), ..pb::RangeDescriptor::default() }
    }

    #[test]
    fn replicas_are_added_and_promoted_before_any_is_removed() {
        let own = NodeId(1);
        let start = descriptor(&[(1, 10, true), (2, 11, true)]);
        assert_eq!(next_step(&start, &[1, 3], own), Step::Add(NodeId(3)));
        let added = descriptor(&[(1, 10, true), (2, 11, true), (3, 12, false)]);
        assert_eq!(next_step(&added, &[1, 3], own), Step::Promote(PeerId(12)));
        let voting = descriptor(&[(1, 10, true), (2, 11, true), (3, 12, true)]);
        assert_eq!(next_step(&voting, &[1, 3], own), Step::Remove(PeerId(11)));
        assert_eq!(next_step(&voting, &[1, 2, 3], own), Step::Done);
        let last = descriptor(&[(1, 10, true), (3, 12, true)]);
        assert_eq!(next_step(&last, &[3], own), Step::LeadElsewhere(NodeId(3)));
        assert_eq!(next_step(&last, &[3], NodeId(3)), Step::Remove(PeerId(10)));
    }
}
