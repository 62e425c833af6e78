//! Three real nodes, killed, frozen and restarted under load: nothing acknowledged is lost, work
//! goes on within ten seconds.

use std::time::{Duration, Instant};

use quorate_tests::bank::{self, Bank};
use quorate_tests::cluster::{self, Cluster, START_LIMIT};
use quorate_tests::process::wait_until_async;

/// How long the cluster may stand still after one node is gone.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(120);

const ACCOUNTS: i64 = 40;
const CLIENTS: usize = 6;

/// Stops the clients and holds what they were told against what is stored.
pub async fn audited(cluster: &Cluster, bank: Bank, node: usize) -> bank::History {
    let (accounts, history) = (bank.accounts(), bank.stop().await);
    bank::audit(&cluster.url(node), accounts, &history).await;
    assert!(history.audits > 0, "the auditor never got an answer");
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_busiest_leader_is_killed_and_work_goes_on_within_ten_seconds() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, false).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 1);
    for _ in 0..2 {
        bank.wait_for_commits(50, PATIENCE).await;
        let victim = cluster.leader_of_the_busiest_range().await;
        cluster.kill(victim);
        let pause = bank.wait_for_commits(1, PATIENCE).await;
        assert!(pause <= PAUSE_MAX, "work stood still for {pause:?}");
        bank.wait_for_commits(50, PATIENCE).await;
        cluster.restart(victim);
        cluster.wait_until_replicated_under_load(PATIENCE).await;
    }
    audited(&cluster, bank, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_killed_in_turn_while_transfers_span_ranges() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, true).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 2);
    for victim in [2, 0, 1] {
        bank.wait_for_commits(50, PATIENCE).await;
        cluster.kill(victim);
        let pause = bank.wait_for_commits(1, PATIENCE).await;
        assert!(pause <= PAUSE_MAX, "work stood still for {pause:?} without node {victim}");
        bank.wait_for_commits(50, PATIENCE).await;
        cluster.restart(victim);
        cluster.wait_until_replicated_under_load(PATIENCE).await;
    }
    audited(&cluster, bank, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_at_once_and_everything_acknowledged_is_there() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, true).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 3);
    for _ in 0..3 {
        bank.wait_for_commits(60, PATIENCE).await;
        for node in 0..3 {
            cluster.kill(node);
        }
        cluster.restart_together(&[0, 1, 2]);
        bank.wait_for_commits(20, PATIENCE).await;
    }
    audited(&cluster, bank, 2).await;
}

/// The gateway of every transfer is killed again and again in the middle of many-range commits;
/// somebody else must bring each to an end, and never to half an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_in_the_middle_of_a_commit_leaves_no_lock_and_no_half() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, true).await;
    for round in 0..5 {
        // Only through the third node, so that it coordinates everything.
        let bank = Bank::run(&[cluster.url(2)], ACCOUNTS, CLIENTS, 10 + round);
        bank.wait_for_commits(20, PATIENCE).await;
        cluster.kill(2);
        let began = Instant::now();
        let other = bank::connect(&cluster.url(0)).await.expect("another node answers");
        // Reads every account, so it meets every lock that was left; then writes each.
        let read = "SELECT sum(balance)::int8 FROM account";
        let write = "UPDATE account SET balance = balance";
        wait_until_async("the others read and write every account", PATIENCE, async || {
            other.query_one(read, &[]).await.is_ok() && other.batch_execute(write).await.is_ok()
        })
        .await;
        let taken = began.elapsed();
        eprintln!("the locks of the dead stood for {taken:?}");
        assert!(taken <= PAUSE_MAX, "the locks of the dead stood for {taken:?}");
        let history = bank.stop().await;
        bank::audit_balances(&cluster.url(0), ACCOUNTS, &history).await;
        cluster.restart(2);
        cluster.wait_until_replicated(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_wakes_up_and_answers_nothing_stale() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, false).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 4);
    for _ in 0..2 {
        bank.wait_for_commits(30, PATIENCE).await;
        let victim = cluster.leader_of_the_busiest_range().await;
        cluster.freeze(victim);
        // The clients of the frozen node hang until their limit; those of the others go on.
        let pause = bank.wait_for_commits(30, PATIENCE).await;
        cluster.thaw(victim);
        assert!(pause < PATIENCE);
        bank.wait_for_commits(30, PATIENCE).await;
    }
    // The auditor asked the woken leaders too: every sum it saw was right.
    audited(&cluster, bank, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_for_long_catches_up_and_can_carry_the_data() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers");
    client
        .batch_execute("CREATE TABLE away (id int4 PRIMARY KEY, t text NOT NULL)")
        .await
        .expect("made");
    cluster.kill(2);
    // Enough that the log it would need is gone: only a snapshot helps.
    let filler = "x".repeat(1_000);
    for block in 0..200 {
        let rows: Vec<String> =
            (0..200).map(|row| format!("({}, '{filler}')", block * 200 + row)).collect();
        let sql = format!("INSERT INTO away VALUES {}", rows.join(","));
        client.batch_execute(&sql).await.expect("two of three are a majority");
    }
    cluster.restart(2);
    cluster.wait_until_replicated(PATIENCE).await;
    cluster.kill(0);
    let client = bank::connect(&cluster.url(2)).await.expect("the returned node answers");
    let mut found = 0_i64;
    wait_until_async("the returned node reads everything", START_LIMIT, async || {
        match client.query_one("SELECT count(*), count(DISTINCT id) FROM away", &[]).await {
            Ok(row) => {
                found = row.get(0);
                row.get::<_, i64>(0) == row.get::<_, i64>(1)
            }
            Err(_) => false,
        }
    })
    .await;
    assert_eq!(found, 40_000);
    client.batch_execute("INSERT INTO away VALUES (-1, 'more')").await.expect("and writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered_wrongly_and_it_heals() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    bank::open(&cluster.url(0), ACCOUNTS, false).await;
    let bank = Bank::run(&cluster.urls(), ACCOUNTS, CLIENTS, 5);
    bank.wait_for_commits(30, PATIENCE).await;
    cluster.kill(1);
    cluster.kill(2);
    // What was under way may still be acknowledged; after that, nothing.
    let lone = cluster::status(cluster.rpc_addr(0)).await;
    assert!(lone.is_ok(), "a node without a majority still says how it is");
    cluster.restart_together(&[1, 2]);
    bank.wait_for_commits(30, PATIENCE).await;
    audited(&cluster, bank, 0).await;
}
