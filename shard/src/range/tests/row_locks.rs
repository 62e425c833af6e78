//! Row locks go to the next leader: docs/decisions/2026-11-26-row-locks-queue-and-prove-nothing.md.

use prost::Message as _;
use quorate_txn::leader::locking::{Locking, Progress};

use super::*;

const OWNERS: [(u128, &str); 3] = [(1, "a"), (2, "b"), (3, "c")];

/// A leader in term 5 with a row lock for each owner.
fn leader_with_locks(alone: &Alone) -> LeaderState {
    let mut leader = LeaderState::new(5, Duration::ZERO);
    leader.rebuild([]);
    leader.ready(Timestamp(1), None);
    let snapshot = alone.ranges.engine.snapshot();
    let view = EngineView::new(&*snapshot, KeySpan::default());
    for (owner, name) in OWNERS {
        let id = TxnId(owner).to_bytes();
        let request = pb::LockRequest {
            owner: Some(pb::LockOwner { id, ..pb::LockOwner::default() }),
            keys: vec![key(name)],
            mode: i32::from(pb::LockMode::Update),
            read_at: u64::MAX,
            sequence: 1,
            ..pb::LockRequest::default()
        };
        let (mut progress, mut woken) = (Progress::default(), Vec::new());
        let now = alone.ranges.clock.monotonic();
        let locked = leader.lock(&request, &mut progress, &view, now, &mut woken);
        assert!(matches!(locked, Ok(Locking::Done(_))), "{locked:?}");
    }
    leader
}

/// The ticket of a commit that ends the locks of an owner.
fn admit(alone: &Alone, leader: &mut LeaderState, owner: u128, name: &str) -> Ticket {
    let request = pb::CommitRequest {
        txn: Some(meta(10 + owner, name, Timestamp(10))),
        writes: vec![put(name, Timestamp(10))],
        checks: Vec::new(),
        lock_owner: TxnId(owner).to_bytes(),
        who: None,
    };
    let snapshot = alone.ranges.engine.snapshot();
    let view = EngineView::new(&*snapshot, KeySpan::default());
    let floors = floors_of(&alone.state);
    match leader.admit_commit(&request, &floors, &view, &mut || Timestamp(20)) {
        Ok(Admission::Propose { ticket, .. }) => ticket,
        other => panic!("it is proposed: {other:?}"),
    }
}

/// One commit is in the log, one was admitted and is not: only the first ends its locks, as the
/// other will be refused.
#[test]
fn locks_go_to_the_next_leader_unless_their_commit_is_in_the_log() {
    let mut alone = Alone::new();
    let mut leader = leader_with_locks(&alone);
    let tickets = [admit(&alone, &mut leader, 1, "a"), admit(&alone, &mut leader, 2, "b")];
    {
        let mut core = alone.replica.core.lock();
        core.leader = Some(leader);
        for (token, ticket) in (100..).zip(tickets) {
            let (answer, _) = tokio::sync::oneshot::channel();
            let waiter = Waiter { ticket: Some(ticket), split: false, answer };
            core.waiters.insert(token, waiter);
        }
    }
    alone.machine.proposed(100, 11, 5);
    let words = alone.machine.hand_over(5, &alone.state);
    let command = pb::Command::decode(&words[..]).expect("a command");
    let Some(Command::LeaseHandover(handover)) = command.body else { panic!("its last words") };
    let kept: Vec<&Bytes> =
        handover.row_locks.iter().flat_map(|of| of.held.iter().map(|held| &held.key)).collect();
    assert_eq!(kept, [&key("b"), &key("c")]);
    let mut core = alone.replica.core.lock();
    let leader = core.leader.as_mut().expect("set");
    let now = alone.ranges.clock.monotonic();
    let told = leader.unlock(TxnId(3), &[key("c")], 2, now);
    assert!(told.is_err(), "it was handed over already: {told:?}");
}
