//! Nodes that are told to stop (SIGTERM) while clients work: what is open may end, nothing is left
//! for others to wait for, and nobody can hold them up.

use std::time::Duration;

use quorate_tests::bank::{self, Bank, connect, sqlstate};
use quorate_tests::cluster::{self, Cluster, Demo};
use quorate_tests::process::{signal, wait_until_async};
use quorate_tests::wire::{Mode, Url, WireClient, message, put_cstr};

use crate::crash::audited;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

const ACCOUNTS: i64 = 40;
const CLIENTS: usize = 6;

async fn wire(url: &str) -> WireClient {
    let url = Url::parse(url).expect("a cluster's URL");
    WireClient::connect(&url).await.expect("the node answers")
}

async fn run(client: &mut WireClient, sql: &str) {
    let reply = client.run(sql, Mode::Simple).await.expect("the node answers");
    assert_eq!(reply.error, None, "{sql}");
}

/// Sends a statement without waiting for what it says.
async fn send(client: &mut WireClient, sql: &str) {
    client.send(&message(b'Q', |body| put_cstr(body, sql))).await.expect("it is sent");
}

/// Whether the last message of a connection is FATAL `57P01`.
async fn is_told_to_go(client: &mut WireClient) -> bool {
    let mut last = None;
    while let Ok(message) = client.receive().await {
        last = Some(message);
    }
    let Some((b'E', body)) = last else { return false };
    let fields: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
    fields.contains(&b"SFATAL".as_slice()) && fields.contains(&b"C57P01".as_slice())
}

/// SIGTERM; returns when nobody is let in any more.
async fn told_to_stop(cluster: &Cluster, node: usize) {
    assert!(signal(cluster.pid(node), "TERM"));
    wait_until_async("new clients are told that the node stops", PATIENCE, async || {
        connect(&cluster.url(node)).await.is_err_and(|error| sqlstate(&error) == "57P03")
    })
    .await;
}

async fn with_table() -> Cluster {
    let cluster = Cluster::three().await;
    let mut client = wire(&cluster.url(0)).await;
    run(&mut client, "CREATE TABLE t (k int4 PRIMARY KEY, v int4 NOT NULL)").await;
    run(&mut client, "INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)").await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_may_end_and_an_idle_one_leaves_no_lock() {
    let _alone = cluster::alone().await;
    let mut cluster = with_table().await;
    let other = connect(&cluster.url(0)).await.expect("node 1 answers");
    let mut ends = wire(&cluster.url(2)).await;
    let mut idles = wire(&cluster.url(2)).await;
    let mut outside = wire(&cluster.url(2)).await;
    run(&mut ends, "BEGIN; UPDATE t SET v = 1 WHERE k = 1").await;
    run(&mut idles, "BEGIN; UPDATE t SET v = 1 WHERE k = 2").await;
    run(&mut outside, "SELECT 1").await;

    told_to_stop(&cluster, 2).await;
    run(&mut ends, "COMMIT").await;
    for client in [&mut ends, &mut outside, &mut idles] {
        assert!(is_told_to_go(client).await);
    }
    assert!(cluster.terminate(2).success(), "it ends by itself");

    // Nothing waits for the dead: their locks were given up.
    let locks = other.query("SHOW LOCKS", &[]).await.expect("node 1 answers");
    let locks: Vec<String> = locks.iter().map(|row| format!("{row:?}")).collect();
    assert_eq!(locks, Vec::<String>::new());
    let rows = other.query("SELECT v FROM t ORDER BY k", &[]).await.expect("node 1 answers");
    let values: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_holds_up_a_node_that_stops() {
    let _alone = cluster::alone().await;
    let mut cluster = with_table().await;
    let (here, there) = (cluster.url(2), cluster.url(0));
    let mut holds = wire(&there).await;
    run(&mut holds, "BEGIN; UPDATE t SET v = 1 WHERE k = 1").await;
    // One waits for a row that nobody gives it,
    let mut waits = wire(&here).await;
    run(&mut waits, "BEGIN; UPDATE t SET v = 1 WHERE k = 2").await;
    send(&mut waits, "UPDATE t SET v = 1 WHERE k = 1").await;
    // one has a row and does not read what it has asked for,
    let mut deaf = wire(&here).await;
    run(&mut deaf, "BEGIN; UPDATE t SET v = 1 WHERE k = 3").await;
    send(&mut deaf, "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)").await;
    // and one says nothing at all.
    let url = Url::parse(&here).expect("a cluster's URL");
    let _mute = WireClient::open(&url).await.expect("the node listens");
    let other = connect(&there).await.expect("node 1 answers");
    wait_until_async("all rows are locked, and one waits", PATIENCE, async || {
        other.query("SHOW LOCKS", &[]).await.is_ok_and(|locks| locks.len() == 4)
    })
    .await;

    told_to_stop(&cluster, 2).await;
    assert!(is_told_to_go(&mut waits).await);
    assert!(cluster.terminate(2).success(), "it ends by itself");
    let locks = other.query("SHOW LOCKS", &[]).await.expect("node 1 answers");
    assert_eq!(locks.len(), 1, "but for the one at another node: {locks:?}");
    drop(deaf);
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
    let history = audited(&cluster, bank, 0).await;
    assert!(history.unknown.is_empty(), "{:?}", history.unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_with_an_open_transaction_ends() {
    let mut demo = Demo::start(&[]).expect("the demo starts");
    let mut idles = wire(demo.url()).await;
    run(&mut idles, "CREATE TABLE t (k int4 PRIMARY KEY)").await;
    run(&mut idles, "BEGIN; INSERT INTO t VALUES (1)").await;
    assert!(demo.terminate().success(), "SIGTERM ends it with 0");
    assert!(is_told_to_go(&mut idles).await);
}
