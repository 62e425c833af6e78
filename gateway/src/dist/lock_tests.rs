//! Row locks over a cluster of fakes.

use bytes::Bytes;
use quorate_planner::kv::{KvTxn as _, LockStrength, LockWait, RowLock};
use quorate_proto::pb::range_request::Body;

use super::Txn;
use super::terms::Terms;
use super::tests::{cluster, write};
use crate::testing::FaultKind;

fn nowait() -> RowLock {
    RowLock::of_query(LockStrength::Update, LockWait::NoWait)
}

#[tokio::test]
async fn nowait_meets_no_lock_of_a_transaction_that_has_ended_here() {
    let (_, dist) = cluster();
    write(&dist, &["a"], "0").await.unwrap();
    for _ in 0..20 {
        let txn = Txn::begin(dist.clone(), true).statement(Terms::default());
        txn.lock(vec![Bytes::from("a")], nowait()).await.unwrap();
        txn.end();
    }
}

/// Its leader may just be handing it over: whoever leads next must hear that it was given up.
#[tokio::test]
async fn a_lock_is_given_up_until_a_leader_has_heard_it() {
    let (node, dist) = cluster();
    write(&dist, &["a"], "0").await.unwrap();
    let txn = Txn::begin(dist.clone(), true).statement(Terms::default());
    txn.lock(vec![Bytes::from("a")], nowait()).await.unwrap();
    let mut lost = 0;
    node.set_fault(Some(Box::new(move |body| match body {
        Body::Unlock(_) if lost < 3 => {
            lost += 1;
            FaultKind::LoseRequest
        }
        _ => FaultKind::Pass,
    })));
    txn.end();
    dist.releases.done().await;
    let next = Txn::begin(dist.clone(), true).statement(Terms::default());
    next.lock(vec![Bytes::from("a")], nowait()).await.unwrap();
}
