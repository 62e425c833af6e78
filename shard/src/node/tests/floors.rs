//! Rule S1: what a running transaction reads, at any node, is kept.

use parking_lot::Mutex;

use super::*;
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
