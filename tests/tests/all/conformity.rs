//! A demo cluster beside PostgreSQL: the same files, the same drivers, the same psql session.

use std::process::{Command, Stdio};
use std::time::Duration;

use quorate_tests::cluster::{self, Demo};
use quorate_tests::postgres::Postgres;
use quorate_tests::process::wait_until_async;
use quorate_tests::{bank, drivers, fuzz, slt};

/// Messages that the fuzzer sends.
const FUZZ_MESSAGES: usize = 10_000;

/// Sessions that sit idle.
const IDLE_SESSIONS: usize = 2_000;

/// What one idle session may cost the server, in bytes.
const IDLE_SESSION_BYTES_MAX: u64 = 100 << 10;

/// A psql session; what it prints must not depend on the server.
const PSQL_SESSION: &str = r"\set VERBOSITY verbose
\set SHOW_CONTEXT never
CREATE TABLE ps (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2) DEFAULT 1);
INSERT INTO ps VALUES (1, 'one', 1.5), (2, 'two', NULL), (3, 'thr''ee', DEFAULT);
SELECT * FROM ps ORDER BY id;
\x
SELECT * FROM ps WHERE id = 1;
\x
\pset null '(null)'
SELECT name, price FROM ps ORDER BY price DESC, id;
BEGIN;
UPDATE ps SET price = price * 2 RETURNING id, price;
ROLLBACK;
PREPARE p (int) AS SELECT name FROM ps WHERE id = $1;
EXECUTE p (2);
DEALLOCATE p;
SELECT count(*), sum(price), avg(price) FROM ps;
DELETE FROM ps WHERE id > 1;
\echo :ROW_COUNT
\gset
SELECT id AS found FROM ps \gset
\echo :found
DROP TABLE ps;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqllogictest_files_give_the_same_results() {
    let _alone = cluster::alone().await;
    let demo = Demo::start(&[]).expect("the demo starts");
    let outcome = slt::run_all(demo.url(), "quorate").await.expect("the files can be run");
    assert_eq!(outcome.failed, 0, "{}", outcome.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_find_what_they_rely_on() {
    let _alone = cluster::alone().await;
    let demo = Demo::start(&[]).expect("the demo starts");
    drivers::all(demo.url()).await;
    // Better than PostgreSQL, which refuses these.
    for level in ["repeatable read", "serializable"] {
        drivers::statements_on_one_row_all_succeed(demo.url(), level).await;
        drivers::blocks_on_one_row_all_succeed(demo.url(), level).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_prints_what_it_prints_on_postgresql() {
    let _alone = cluster::alone().await;
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let demo = Demo::start(&[]).expect("the demo starts");
    let expected = psql(&server.url(), PSQL_SESSION);
    assert!(expected.contains("found") || expected.contains('1'), "{expected}");
    assert_eq!(psql(demo.url(), PSQL_SESSION), expected);
    for mistake in ["SELECT nope;", "SELECT 1/0;", "INSERT INTO nosuch VALUES (1);", "SELEC 1;"] {
        let quiet = format!("\\set VERBOSITY sqlstate\n{mistake}\n");
        assert_eq!(psql(demo.url(), &quiet), psql(&server.url(), &quiet), "{mistake}");
    }
}

/// What psql prints, on either stream, for a script.
fn psql(url: &str, script: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new("psql")
        .args(["-X", "-q", "--no-password", url])
        .env("PGTZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql comes with PostgreSQL");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(script.as_bytes()).expect("psql reads its script");
    drop(stdin);
    let output = child.wait_with_output().expect("psql ends");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rubbish_messages_leave_the_server_answering() {
    let _alone = cluster::alone().await;
    let mut demo = Demo::start(&[]).expect("the demo starts");
    let corpus = fuzz::corpus().expect("the corpus can be read");
    let sent = fuzz::run(demo.url(), 1, FUZZ_MESSAGES, &corpus).await.expect("it still answers");
    assert!(sent.messages >= FUZZ_MESSAGES);
    let log = demo.log();
    assert!(!log.contains("panicked at"), "something panicked:\n{log}");
    assert!(demo.terminate().success(), "SIGTERM ends it with 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_sessions_cost_little() {
    let _alone = cluster::alone().await;
    let demo = Demo::start(&[]).expect("the demo starts");
    let mut warm = Vec::new();
    for _ in 0..50 {
        warm.push(bank::connect(demo.url()).await.expect("the server answers"));
    }
    let before = quorate_tests::cluster::resident_bytes(demo.pid());
    let mut clients = Vec::with_capacity(IDLE_SESSIONS);
    for _ in 0..IDLE_SESSIONS {
        clients.push(bank::connect(demo.url()).await.expect("the server answers"));
    }
    for client in clients.iter().step_by(100) {
        client.query_one("SELECT 1", &[]).await.expect("an idle session works");
    }
    let after = quorate_tests::cluster::resident_bytes(demo.pid());
    let each = after.saturating_sub(before) / IDLE_SESSIONS as u64;
    eprintln!("an idle session costs {each} bytes");
    assert!(each <= IDLE_SESSION_BYTES_MAX, "an idle session costs {each} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_does_not_make_the_server_hold_its_whole_result() {
    let _alone = cluster::alone().await;
    let demo = Demo::start(&[]).expect("the demo starts");
    let client = bank::connect(demo.url()).await.expect("the server answers");
    client.batch_execute("CREATE TABLE wide (id int4 PRIMARY KEY, t text)").await.expect("made");
    for block in 0..20 {
        let rows: Vec<String> = (0..100).map(|row| format!("({})", block * 100 + row)).collect();
        let values = rows.join(",");
        let sql = format!("INSERT INTO wide (id) VALUES {values}");
        client.batch_execute(&sql).await.expect("inserted");
    }
    let url = quorate_tests::wire::Url::parse(demo.url()).expect("a URL");
    let mut slow = quorate_tests::wire::WireClient::connect(&url).await.expect("it answers");
    let before = quorate_tests::cluster::resident_bytes(demo.pid());
    // 4,000,000 rows of 500 bytes: 2 GB, of which the client reads nothing for a while.
    let sql = "SELECT lpad('x', 500, 'x') FROM wide a, wide b";
    let query = quorate_tests::wire::message(b'Q', |body| {
        quorate_tests::wire::put_cstr(body, sql);
    });
    slow.send(&query).await.expect("it listens");
    let mut looks = 0;
    wait_until_async(
        "the server had time to fill its memory",
        Duration::from_secs(60),
        async || {
            looks += 1;
            looks > 250
        },
    )
    .await;
    let grown = quorate_tests::cluster::resident_bytes(demo.pid()).saturating_sub(before);
    assert!(grown < 200 << 20, "a slow reader made the server grow by {grown} bytes");
    let mut rows = 0;
    while rows < 10_000 {
        let (kind, _) = slow.receive().await.expect("rows come");
        rows += usize::from(kind == b'D');
    }
}
