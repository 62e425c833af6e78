//! Nodes that are told to stop (SIGTERM) while clients work: what is open may end, and nothing is
//! left for others to wait for.

use std::time::Duration;

use quorate_tests::bank::{self, Bank, connect};
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::process::signal;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

const ACCOUNTS: i64 = 40;
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_may_end_and_an_idle_one_leaves_no_lock() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    let other = connect(&cluster.url(0)).await.expect("node 1 answers");
    let table = "CREATE TABLE t (k int4 PRIMARY KEY, v int4 NOT NULL)";
    other.batch_execute(table).await.expect("a table can be made");
    other.batch_execute("INSERT INTO t VALUES (1, 0), (2, 0)").await.expect("it takes rows");
    let ends = connect(&cluster.url(2)).await.expect("node 3 answers");
    let idles = connect(&cluster.url(2)).await.expect("node 3 answers");
    let outside = connect(&cluster.url(2)).await.expect("node 3 answers");
    for (client, row) in [(&ends, 1), (&idles, 2)] {
        let update = format!("BEGIN; UPDATE t SET v = 1 WHERE k = {row}");
        client.batch_execute(&update).await.expect("nobody is in the way");
    }
    outside.batch_execute("SELECT 1").await.expect("node 3 answers");

    assert!(signal(cluster.pid(2), "TERM"));
    ends.batch_execute("COMMIT").await.expect("what is open may end");
    assert!(cluster.terminate(2).success(), "it ends by itself");

    // Nothing waits for the dead: their locks were given up.
    let locks = other.query("SHOW LOCKS", &[]).await.expect("node 1 answers");
    let locks: Vec<String> = locks.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!(locks, Vec::<String>::new());
    let rows = other.query("SELECT v FROM t ORDER BY k", &[]).await.expect("node 1 answers");
    let values: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [1, 0]);
    for gone in [&idles, &outside] {
        assert!(gone.batch_execute("COMMIT").await.is_err(), "its node is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_drained_in_turn_and_no_commit_is_unknown() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, true).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 1);
    for node in [1, 2, 0] {
        bank.wait_for_commits(50, PATIENCE).await;
        assert!(cluster.terminate(node).success(), "it ends by itself");
        bank.wait_for_commits(50, PATIENCE).await;
        cluster.restart(node);
        cluster.wait_until_replicated_under_load(PATIENCE).await;
    }
    let history = bank.stop().await;
    bank::audit(&cluster.url(0), ACCOUNTS, &history).await;
    assert!(history.audits > 0, "the auditor never got an answer");
    assert!(history.unknown.is_empty(), "{:?}", history.unknown);
}
