//! Replicas come and go: learners, promotions, removals, and who is told of them.

use std::future::Future as _;

use super::*;
use crate::log::LogStore as _;

/// L7: a late message to a replica that was removed does not bring it back with an empty log.
#[test]
fn late_message_does_not_recreate_a_removed_replica() {
    use protobuf::Message as _;
    use raft::eraftpb::{Message, MessageType};
    let mut cluster = Cluster::new(3, 62);
    cluster.write(RANGE, "a", "1");
    let leader = cluster.leader(RANGE).unwrap();
    let gone = 1 + leader % 3;
    let before = cluster.state(leader, RANGE).unwrap().descriptor.unwrap();
    let term = cluster.nodes[&leader].handle().lease(RANGE).unwrap().term;
    let old = PeerId(200 + gone);
    cluster.change(RANGE, ReplicaChange::Remove { peer: old }).unwrap();
    cluster.wait("the removed replica is gone", |c| c.nodes[&gone].handle().lease(RANGE).is_none());
    let replica = |peer: u64| before.replicas.iter().find(|r| r.peer_id == peer).copied();
    let mut late = Message::default();
    late.set_msg_type(MessageType::MsgHeartbeat);
    (late.to, late.from, late.term) = (old.0, 200 + leader, term);
    let envelope = quorate_proto::pb::RaftMessage {
        range_id: RANGE.0,
        epoch: before.epoch,
        to: replica(old.0),
        from: replica(200 + leader),
        message: late.write_to_bytes().unwrap().into(),
        ..quorate_proto::pb::RaftMessage::default()
    };
    // Nobody can tell it that it was removed: it must know.
    for other in (1..=3).filter(|other| *other != gone) {
        cluster.router.cut(NodeId(gone), NodeId(other));
    }
    for restarted in [false, true] {
        if restarted {
            cluster.kill(gone);
            cluster.start(gone);
        }
        let frame = Input::Frame {
            from: NodeId(leader),
            messages: vec![envelope.clone()],
            heartbeat: None,
        };
        cluster.nodes[&gone].handle().shared.post(RANGE, frame);
        cluster.settle();
        let driver = cluster.nodes[&gone].driver.as_ref().unwrap();
        let there = driver.workers.iter().any(|(worker, _)| worker.groups.contains_key(&RANGE));
        assert!(!there, "restarted: {restarted}");
    }
}

/// L7 is missed when it is taken away.
#[test]
fn a_forgotten_tombstone_is_found() {
    let test = late_message_does_not_recreate_a_removed_replica;
    crate::planted::assert_found("L7", Mistake::TombstoneForgotten, test);
}

/// L7: a replica moves to a new node; the removed one leaves a tombstone and stays away.
#[test]
fn replica_moves_by_learner_promotion_and_removal() {
    let mut cluster = Cluster::new(3, 60);
    cluster.add_node(4);
    for i in 0..10 {
        cluster.write(RANGE, &format!("k{i}"), "v");
    }
    let leader = cluster.leader(RANGE).unwrap();
    let gone = 1 + leader % 3;
    let new = PeerId(204);
    cluster.change(RANGE, ReplicaChange::AddLearner { node: NodeId(4), peer: new }).unwrap();
    cluster.wait_value(4, "k9", "v");
    cluster.wait("the learner is caught up", |c| c.nodes[&4].handle().lease(RANGE).is_some());
    cluster.change(RANGE, ReplicaChange::Promote { peer: new }).unwrap();
    let old = PeerId(200 + gone);
    let descriptor = cluster.change(RANGE, ReplicaChange::Remove { peer: old }).unwrap();
    assert_eq!(descriptor.replicas.len(), 3);
    assert_eq!(descriptor.epoch.unwrap().conf, 4);
    cluster.wait("the removed replica is gone", |c| c.nodes[&gone].handle().lease(RANGE).is_none());
    assert!(cluster.nodes[&gone].seen(RANGE, |seen| seen.destroyed));
    assert!(cluster.nodes[&gone].value("k1").is_none());
    cluster.write(RANGE, "more", "1");
    cluster.wait_value(4, "more", "1");
    // Not even a restart brings it back, and its old peer id is refused.
    cluster.kill(gone);
    cluster.start(gone);
    cluster.run(3 * SECOND);
    assert!(cluster.nodes[&gone].handle().lease(RANGE).is_none());
    let again = ReplicaChange::AddLearner { node: NodeId(gone), peer: old };
    assert!(matches!(cluster.change(RANGE, again), Err(ChangeError::Invalid(_))));
    // A new peer id may come back to the same node.
    let again = ReplicaChange::AddLearner { node: NodeId(gone), peer: PeerId(205) };
    cluster.change(RANGE, again).unwrap();
    cluster.wait_value(gone, "more", "1");
}

#[test]
fn replica_that_was_away_when_removed_learns_of_it() {
    let mut cluster = Cluster::new(3, 61);
    cluster.write(RANGE, "a", "1");
    let leader = cluster.leader(RANGE).unwrap();
    let gone = 1 + leader % 3;
    cluster.kill(gone);
    cluster.change(RANGE, ReplicaChange::Remove { peer: PeerId(200 + gone) }).unwrap();
    cluster.start(gone);
    cluster
        .wait("it learns that it was removed", |c| c.nodes[&gone].handle().lease(RANGE).is_none());
    cluster.write(RANGE, "b", "2");
}

/// Found by reading: what Raft knew to be committed was written down when a promotion was applied,
/// also beyond the log that was stored then. After a crash in between the node never started again.
#[test]
fn what_a_crash_leaves_in_the_middle_of_a_promotion_opens_again() {
    let mut cluster = Cluster::new(2, 63);
    cluster.add_node(3);
    cluster.write(RANGE, "a", "1");
    let new = PeerId(203);
    cluster.change(RANGE, ReplicaChange::AddLearner { node: NodeId(3), peer: new }).unwrap();
    cluster.wait_value(3, "a", "1");
    let leader = cluster.wait_writable(RANGE);
    let follower = 3 - leader;
    cluster.nodes[&3].log.after_each_sync();
    let handle = cluster.nodes[&leader].handle();
    let change = ReplicaChange::Promote { peer: new };
    let mut promoted = std::pin::pin!(async move { handle.change_replicas(RANGE, change).await });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(promoted.as_mut().poll(&mut context).is_pending());
    // The learner has stored the promotion, and the others commit it and more without its help.
    for passes in [&[leader, 3][..], &[follower, leader, leader]] {
        passes.iter().for_each(|node| cluster.pass(*node));
    }
    for i in 0..4 {
        cluster.propose(leader, RANGE, &format!("b{i}={i}")).unwrap();
        [leader, follower, leader].iter().for_each(|node| cluster.pass(*node));
    }
    cluster.pass(3);
    cluster.wait_value(3, "b3", "3");
    let left = cluster.nodes[&3].log.after_each_sync();
    assert!(!left.is_empty());
    for log in left {
        let commit = log.hard_state(RANGE).unwrap().unwrap().commit;
        assert!(commit <= log.last_index(RANGE).unwrap(), "{commit}");
    }
}

/// Found by reading: the node of a replica that was removed told whoever asked it that *he* was,
/// also a member that had not heard of the removal, which then gave up its rows for good.
#[test]
fn a_member_that_has_not_heard_of_a_removal_stays() {
    let mut cluster = Cluster::new(4, 64);
    cluster.write(RANGE, "a", "1");
    let leader = cluster.leader(RANGE).unwrap();
    let [away, gone] = [1, 2].map(|n| 1 + (leader - 1 + n) % 4);
    cluster.kill(away);
    cluster.change(RANGE, ReplicaChange::Remove { peer: PeerId(200 + gone) }).unwrap();
    cluster.wait("the removed replica is gone", |c| c.nodes[&gone].handle().lease(RANGE).is_none());
    for other in (1..=4).filter(|other| ![away, gone].contains(other)) {
        cluster.router.cut(NodeId(away), NodeId(other));
    }
    cluster.start(away);
    cluster.run(3 * SECOND);
    assert!(cluster.nodes[&away].handle().lease(RANGE).is_some(), "it is a member");
    cluster.router.heal();
    cluster.write(RANGE, "b", "2");
    cluster.wait_value(away, "b", "2");
}
