//! A real node whose wall clock jumps: it gives its leads up, says so, and the others go on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use quorate_tests::bank::{self, sqlstate};
use quorate_tests::cluster::{self, Cluster, Options};
use quorate_tests::process::wait_until_async;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client of the node may wait for the word that its clock is off.
const ERROR_LIMIT: Duration = Duration::from_secs(10);
/// The node whose clock jumps.
const VICTIM: usize = 2;

fn shift(file: &Path, ms: i64) {
    std::fs::write(file, ms.to_string()).expect("the file can be written");
}

/// Three nodes; where the last one reads how wrong its clock is.
async fn three_nodes(folder: &Path) -> (Cluster, PathBuf) {
    let plain = Options { nodes: 1, ..Options::default() };
    let mut cluster = Cluster::start(plain.clone()).await;
    cluster.add_node(&plain);
    let file = folder.join("clock");
    let env = vec![(String::from("QUORATE_TEST_CLOCK_FILE"), file.display().to_string())];
    assert_eq!(cluster.add_node(&Options { env, ..plain }), VICTIM);
    cluster.wait_until_replicated(PATIENCE).await;
    (cluster, file)
}

fn admin_status(cluster: &Cluster) -> String {
    let mut command = Command::new(cluster::binary());
    command.args(["admin", "status", "--rpc-addr", cluster.rpc_addr(0)]);
    let output = command.output().expect("quorate can be run");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_jumps_refuses_statements_while_the_others_go_on() {
    let _alone = cluster::alone().await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (cluster, file) = three_nodes(folder.path()).await;
    let first = bank::connect(&cluster.url(0)).await.expect("the first node answers");
    let client = bank::connect(&cluster.url(VICTIM)).await.expect("the victim answers");
    let create = "CREATE TABLE kept (id int PRIMARY KEY)";
    first.batch_execute(create).await.expect("made");
    for (round, ms) in [(0, 1000), (1, -1000)] {
        let insert = format!("INSERT INTO kept VALUES ({})", round * 2);
        wait_until_async("the victim serves", PATIENCE, async || {
            client.batch_execute("SELECT * FROM kept").await.is_ok()
        })
        .await;
        client.batch_execute(&insert).await.expect("its clock is right");
        shift(&file, ms);
        let began = Instant::now();
        wait_until_async("the victim's clients hear of its clock", ERROR_LIMIT, async || {
            match client.batch_execute("SELECT count(*) FROM kept").await {
                Ok(()) => false,
                Err(error) => {
                    let message = error.as_db_error().map(|e| e.message()).unwrap_or_default();
                    sqlstate(&error) == "57P03" && message.contains("clock is off by")
                }
            }
        })
        .await;
        eprintln!("{ms} ms: its clients knew after {:?}", began.elapsed());
        let insert = format!("INSERT INTO kept VALUES ({})", round * 2 + 1);
        wait_until_async("the others work on", PATIENCE, async || {
            first.batch_execute(&insert).await.is_ok()
        })
        .await;
        eprintln!("{ms} ms: the others wrote after {:?}", began.elapsed());
        let mut shown = String::new();
        wait_until_async("admin status says so", PATIENCE, async || {
            shown = admin_status(&cluster);
            shown.contains("clock off by") && shown.contains("0 without a leader")
        })
        .await;
        eprintln!("{shown}");
        let status = cluster.status(VICTIM).await.expect("it still says how it is");
        assert!(status.ranges.iter().all(|range| !range.leader), "{status:?}");
        shift(&file, 0);
    }
    wait_until_async("the victim serves again", PATIENCE, async || {
        match client.query_one("SELECT count(*) FROM kept", &[]).await {
            Ok(row) => row.get::<_, i64>(0) == 4,
            Err(_) => false,
        }
    })
    .await;
}
