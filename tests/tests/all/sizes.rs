//! Clusters of other sizes than three.

use std::time::Duration;

use quorate_tests::bank::{self, Bank};
use quorate_tests::cluster::{self, Cluster, Options};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

const ACCOUNTS: i64 = 20;

/// Two-range transfers through every node, an audit, and whether every range has its replicas.
async fn works(cluster: &Cluster, replicas: usize) {
    bank::open(&cluster.url(0), ACCOUNTS, true).await;
    let nodes = cluster.urls().len();
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, nodes, 1);
    bank.wait_for_commits(20 * nodes as u64, PATIENCE).await;
    let history = bank.stop().await;
    bank::audit(&cluster.url(nodes - 1), ACCOUNTS, &history).await;
    cluster.wait_until_replicated(PATIENCE).await;
    let mut held = std::collections::BTreeMap::<u64, usize>::new();
    for node in 0..nodes {
        for range in cluster.status(node).await.expect("it answers").ranges {
            let descriptor = range.descriptor.expect("a range has one");
            assert_eq!(descriptor.replicas.len(), replicas, "{descriptor:?}");
            *held.entry(descriptor.range_id).or_default() += 1;
        }
    }
    assert!(held.len() >= 5, "meta, the rest, and three cuts: {held:?}");
    assert!(held.values().all(|count| *count == replicas), "{held:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_is_a_cluster() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::start(Options::replicated(1, 1)).await;
    works(&cluster, 1).await;
    cluster.kill(0);
    cluster.restart(0);
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers");
    let row = client.query_one("SELECT count(*) FROM account", &[]).await.expect("it runs");
    assert_eq!(row.get::<_, i64>(0), ACCOUNTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_share_three_replicas_of_each_range() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::start(Options::replicated(5, 3)).await;
    works(&cluster, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_replicas_survive_the_loss_of_two_nodes() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::start(Options::replicated(5, 5)).await;
    works(&cluster, 5).await;
    cluster.kill(3);
    cluster.kill(4);
    let urls = [cluster.url(0), cluster.url(1), cluster.url(2)];
    let bank = Bank::run(&urls, ACCOUNTS, 3, 2);
    bank.wait_for_commits(30, PATIENCE).await;
    let history = bank.stop().await;
    bank::audit_balances(&cluster.url(0), ACCOUNTS, &history).await;
}
