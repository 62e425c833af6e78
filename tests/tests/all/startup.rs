//! Starting, stopping and refusing to start: what `quorate start` says and how it exits.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use quorate_tests::bank;
use quorate_tests::cluster::{self, Cluster, Demo, Options, wait_for_exit};

/// How long a node may take to find out that it cannot start.
const REFUSAL_LIMIT: Duration = Duration::from_secs(60);

/// Runs `quorate start` with these arguments, expecting it to refuse; what it says.
fn refusal(args: &[&str]) -> String {
    refusal_with(1, args)
}

/// The same with another exit code: 2 is for wrong settings.
fn refusal_with(code: i32, args: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let log_path = folder.path().join("log");
    let log = std::fs::File::create(&log_path).expect("a file can be made");
    let mut child = Command::new(cluster::binary())
        .arg("start")
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be cloned"))
        .stderr(log)
        .spawn()
        .expect("quorate can be run");
    let status = wait_for_exit(&mut child, REFUSAL_LIMIT);
    child.kill().ok();
    child.wait().ok();
    let said = std::fs::read_to_string(&log_path).expect("the file is there");
    let status = status.unwrap_or_else(|| panic!("it runs on, saying:\n{said}"));
    assert_eq!(status.code(), Some(code), "it says:\n{said}");
    assert!(!said.contains("panicked at"), "{said}");
    said
}

fn single() -> Options {
    Options::replicated(1, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_exits_with_zero() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::start(single()).await;
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers");
    client.batch_execute("CREATE TABLE kept (id int PRIMARY KEY)").await.expect("made");
    client.batch_execute("INSERT INTO kept VALUES (1)").await.expect("inserted");
    let status = cluster.terminate(0);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(client.batch_execute("SELECT 1").await.is_err(), "the session has ended");
    cluster.restart(0);
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers again");
    let row = client.query_one("SELECT count(*) FROM kept", &[]).await.expect("it runs");
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_prints_its_url_serves_and_ends_with_zero() {
    let _alone = cluster::alone().await;
    let mut demo = Demo::start(&[]).expect("the demo starts");
    let client = bank::connect(demo.url()).await.expect("the server answers");
    let row = client.query_one("SELECT 1 + 1", &[]).await.expect("it runs");
    assert_eq!(row.get::<_, i32>(0), 2);
    assert_eq!(demo.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_keeps_its_data_where_it_is_told_to() {
    let _alone = cluster::alone().await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("data").display().to_string();
    for round in 0..2_i64 {
        let mut demo = Demo::start(&["--data-dir", &path]).expect("the demo starts");
        let client = bank::connect(demo.url()).await.expect("the server answers");
        let create = "CREATE TABLE IF NOT EXISTS rounds (id int8 PRIMARY KEY)";
        client.batch_execute(create).await.expect("made");
        let row = client.query_one("SELECT count(*) FROM rounds", &[]).await.expect("it runs");
        assert_eq!(row.get::<_, i64>(0), round);
        let insert = format!("INSERT INTO rounds VALUES ({round})");
        client.batch_execute(&insert).await.expect("inserted");
        assert_eq!(demo.terminate().code(), Some(0));
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    let addr = taken.local_addr().expect("it has an address").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("data").display().to_string();
    for (flag, other) in [("--sql-addr", "--rpc-addr"), ("--rpc-addr", "--sql-addr")] {
        let args = ["--data-dir", &data, flag, &addr, other, "127.0.0.1:0", "--bootstrap"];
        let said = refusal(&args);
        assert!(said.contains(&addr), "it does not say which port is taken:\n{said}");
    }
}

#[test]
fn an_unreachable_seed_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    let addr = unused.local_addr().expect("it has an address").to_string();
    drop(unused);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("data").display().to_string();
    let addrs = ["--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0"];
    let said = refusal(&[&["--data-dir", &data, "--join", &addr], &addrs[..]].concat());
    assert!(said.contains(&addr), "it does not say which seed it cannot reach:\n{said}");
}

#[test]
fn a_folder_that_is_none_or_holds_something_else_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let addrs = ["--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0", "--bootstrap"];
    let file = folder.path().join("a-file");
    std::fs::write(&file, "not a folder").expect("a file can be written");
    let path = file.display().to_string();
    let said = refusal(&[&["--data-dir", &path], &addrs[..]].concat());
    assert!(said.contains(&path), "it does not name the file:\n{said}");
    let strange = folder.path().join("strange");
    std::fs::create_dir(&strange).expect("a folder can be made");
    std::fs::write(strange.join("letter.txt"), "dear").expect("a file can be written");
    let path = strange.display().to_string();
    let said = refusal(&[&["--data-dir", &path], &addrs[..]].concat());
    assert!(said.contains(&path), "it does not name the folder:\n{said}");
    assert!(said.contains("letter.txt"), "it does not say what is there:\n{said}");
    assert!(strange.join("letter.txt").exists());
}

#[test]
fn a_new_folder_needs_bootstrap_or_join() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let data = folder.path().join("data").display().to_string();
    let addrs = ["--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0"];
    let said = refusal(&[&["--data-dir", &data], &addrs[..]].concat());
    assert!(said.contains("--bootstrap") && said.contains("--join"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_another_cluster_is_refused() {
    let _alone = cluster::alone().await;
    let first = Cluster::start(single()).await;
    let mut second = Cluster::start(single()).await;
    second.kill(0);
    let data = second.data_dir(0).display().to_string();
    let addrs = ["--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0"];
    let join = ["--data-dir", &data, "--join", first.rpc_addr(0)];
    let said = refusal(&[&join[..], &addrs[..]].concat());
    assert!(said.contains(&data) && said.contains("belongs to cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_is_refused() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::start(single()).await;
    let data = cluster.data_dir(0).display().to_string();
    let said =
        refusal(&["--data-dir", &data, "--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0"]);
    assert!(said.contains(&data), "{said}");
    let client = bank::connect(&cluster.url(0)).await.expect("the first node still serves");
    client.batch_execute("SELECT 1").await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clock_offset_than_the_clusters_is_refused_with_both_named() {
    let _alone = cluster::alone().await;
    let mut options = single();
    options.args.extend(["--max-clock-offset".to_owned(), "80ms".to_owned()]);
    let mut cluster = Cluster::start(options).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let new = folder.path().join("data").display().to_string();
    let addrs = ["--sql-addr", "127.0.0.1:0", "--rpc-addr", "127.0.0.1:0"];
    let differs = [&addrs[..], &["--max-clock-offset", "100ms"]].concat();
    let seed = cluster.rpc_addr(0).to_owned();
    let joins = refusal_with(2, &[&["--data-dir", &new, "--join", &seed], &differs[..]].concat());
    cluster.kill(0);
    let data = cluster.data_dir(0).display().to_string();
    let restarts = refusal_with(2, &[&["--data-dir", &data], &differs[..]].concat());
    for said in [joins, restarts] {
        assert!(said.contains("100ms") && said.contains("80ms"), "{said}");
        // A log that a kill has cut off may be told of, too.
        let own = said.lines().filter(|line| line.starts_with("quorate: "));
        assert_eq!(own.count(), 1, "{said}");
    }
    let none = [&["--data-dir", &new, "--bootstrap", "--max-clock-offset", "1s"], &addrs[..]];
    let said = refusal_with(2, &none.concat());
    assert!(said.contains("500ms"), "{said}");
    cluster.restart(0);
}
