//! TPC-C against three real nodes, one of them killed on the way: its consistency conditions hold.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_tests::bank;
use quorate_tests::cluster::{self, Cluster, wait_for_exit};
use quorate_tests::process::wait_until_async;

/// How long loading, running and checking may take together.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// How long to measure.
const DURATION: &str = "45s";

/// How long the cluster may stand still after one node is gone.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Orders entered between two steps of the test.
const ORDERS: i64 = 30;

/// Runs TPC-C on a small scale and kills the node while it runs. What it printed.
async fn tpcc(cluster: &mut Cluster, more: &[&str], victim: usize) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let log_path = folder.path().join("log");
    let log = std::fs::File::create(&log_path).expect("a file can be made");
    let mut command = Command::new(cluster::binary());
    command.args(["bench", "tpcc", "--warehouses", "2", "--terminals", "4"]);
    command.args(["--items", "1000", "--customers-per-district", "30", "--duration", DURATION]);
    command.args(more);
    for url in cluster.urls() {
        command.args(["--url", &url]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
    let mut child = command.spawn().expect("quorate can be run");
    kill_on_the_way(cluster, &mut child, victim).await;
    let status = wait_for_exit(&mut child, RUN_LIMIT);
    child.kill().ok();
    child.wait().ok();
    let said = std::fs::read_to_string(&log_path).expect("the file is there");
    let status = status.unwrap_or_else(|| panic!("TPC-C does not end, saying:\n{said}"));
    assert!(status.success(), "TPC-C failed ({status}), saying:\n{said}");
    said
}

async fn kill_on_the_way(cluster: &mut Cluster, child: &mut Child, victim: usize) {
    let watched = cluster.url((victim + 1) % 3);
    let mut ended = || !matches!(child.try_wait(), Ok(None));
    let mut before = None;
    wait_until_async("orders are entered", RUN_LIMIT, async || {
        let now = orders(&watched).await;
        before = before.or(now);
        ended() || now.zip(before).is_some_and(|(now, before)| now >= before + ORDERS)
    })
    .await;
    if ended() {
        // Whoever called says why.
        return;
    }
    let before = orders(&watched).await;
    cluster.kill(victim);
    let began = Instant::now();
    wait_until_async("orders are entered again", RUN_LIMIT, async || {
        ended() || orders(&watched).await.zip(before).is_some_and(|(now, before)| now > before)
    })
    .await;
    let pause = began.elapsed();
    assert!(pause <= PAUSE_MAX, "work stood still for {pause:?}");
    wait_until_async("many orders were entered", RUN_LIMIT, async || {
        ended() || orders(&watched).await.zip(before).is_some_and(|(now, old)| now > old + ORDERS)
    })
    .await;
    cluster.restart(victim);
}

/// Sum of the next order numbers, once all twenty districts are loaded.
async fn orders(url: &str) -> Option<i64> {
    let client = bank::connect(url).await.ok()?;
    let sql = "SELECT count(*), sum(d_next_o_id)::int8 FROM district";
    let row = client.query_one(sql, &[]).await.ok()?;
    (row.get::<_, i64>(0) == 20).then(|| row.get(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_when_a_leader_is_killed_on_the_way() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    let victim = cluster.leader_of_the_busiest_range().await;
    let said = tpcc(&mut cluster, &[], victim).await;
    assert!(said.contains("tpmC"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_when_split_by_warehouse_and_a_node_is_killed() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    let said = tpcc(&mut cluster, &["--split"], 1).await;
    assert!(said.contains("tpmC"), "{said}");
}
