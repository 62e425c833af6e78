//! Rules S1 and P6: what a running transaction reads, at any node, is kept, and what is below the
//! floors is not.

use std::collections::HashMap;

use parking_lot::Mutex;
use quorate_txn::apply::Mutation;
use quorate_txn::config::RECORDS_DROPPED_MAX;
use quorate_txn::state::{Record, RecordState};

use super::*;
use crate::engine::Batch;
use crate::mvcc::apply_mutations;
use crate::node::GatewayHook;

/// A gateway with one transaction that reads a moment.
#[derive(Default)]
struct Reader(Mutex<Option<Timestamp>>);

#[async_trait::async_trait]
impl GatewayHook for Reader {
    async fn barrier(&self, catalog_version: u64) -> u64 {
        catalog_version
    }

    fn oldest_read(&self) -> Option<Timestamp> {
        *self.0.lock()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_at_another_node_holds_the_safe_point_until_it_ends() {
    let mut cluster = Cluster::empty(3);
    for i in 0..3 {
        let start = if i == 0 { Start::Bootstrap } else { Start::Join(Vec::new()) };
        let mut config = cluster.config(i, start);
        config.gc_window = Duration::from_secs(5);
        cluster.nodes[i] = Some(Node::open(config).await.expect("it opens"));
    }
    cluster.wait_for_replicas(3).await;
    let k = key("k");
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let other = cluster.live().find(|node| node.id() != leader.id()).expect("another").clone();
    let reader = Arc::new(Reader::default());
    let moment = cluster.any().clock().now();
    *reader.0.lock() = Some(moment);
    other.set_gateway(reader.clone());
    until("the leader has heard of the reader", || async {
        leader.seen.lock().get(&other.id()).and_then(|seen| seen.oldest_read).map(drop)
    })
    .await;
    let safe_point = || {
        let states = cluster.live().filter_map(|node| node.ranges().replica(FIRST_DB_RANGE));
        states.map(|replica| Timestamp(replica.state().safe_point)).max().expect("replicas")
    };
    let begun = safe_point();
    until("the safe point has risen up to the reader", || async {
        cluster.commit(&k, b"v").await.expect("committed");
        (safe_point() > begun && safe_point() == moment).then_some(())
    })
    .await;
    *reader.0.lock() = None;
    until("it rises beyond", || async {
        cluster.commit(&k, b"v").await.expect("committed");
        (safe_point() > moment).then_some(())
    })
    .await;
    cluster.stop().await;
}

/// Found by reading: one command drops so many records and no more, and what was left of them
/// after each stayed for ever once it was more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_below_the_floor_go_however_many_there_are() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let engine = leader.ranges().engine.clone();
    let record = Record { state: RecordState::Aborted, commit_start: Timestamp(1) };
    let put = |n: u128| Mutation::PutRecord {
        key: key("k").into(),
        id: TxnId(1_000_000 + n),
        record: record.clone(),
    };
    let records: Vec<_> = (0..3 * RECORDS_DROPPED_MAX as u128 + 1).map(put).collect();
    let mut batch = Batch::new();
    apply_mutations(&records, &mut batch);
    engine.write(&batch).expect("in memory");
    let replica = leader.ranges().replica(FIRST_DB_RANGE).expect("it leads");
    // It takes proposals.
    cluster.commit(&key("k"), b"v").await.expect("committed");
    let mut activity = HashMap::new();
    leader.raise_floors(&mut activity).await;
    assert!(replica.state().txn_floor > 1);
    assert!(!replica.has_droppable_records());
    // What is left over for whatever reason goes later, also from a range that is idle.
    batch.clear();
    apply_mutations(&records[..1], &mut batch);
    engine.write(&batch).expect("in memory");
    assert!(replica.has_droppable_records());
    leader.raise_floors(&mut activity).await;
    assert!(!replica.has_droppable_records());
    cluster.stop().await;
}
