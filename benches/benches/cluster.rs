//! Statements end to end, on three nodes in one process: `quorate demo`, built in the same profile.
//! `cargo build --release -p quorate-cli && cargo bench -p quorate-benches --bench cluster`

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement};

const ROWS: i32 = 2_000;
const PAIRS: i32 = 3_000;

/// A demo process; it ends with the benchmark.
struct Demo {
    child: Child,
    url: String,
}

impl Demo {
    fn start() -> Demo {
        let binary = binary();
        let mut child = Command::new(&binary)
            .args(["demo", "--no-shell"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()));
        let out = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let url = lines.find(|line| line.starts_with("postgres://")).expect("the demo serves");
        Demo { child, url }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // SIGTERM, so that it removes its folder.
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().ok();
        self.child.wait().ok();
    }
}

/// `QUORATE_BIN`, or the binary two folders above this benchmark's.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a process knows its program");
    own.ancestors().nth(2).expect("benchmarks are built into a folder").join("quorate")
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it answers");
    #[expect(clippy::disallowed_methods, reason = "a client outside of the database")]
    tokio::spawn(connection);
    client
}

async fn prepared(client: &Client) -> [Statement; 3] {
    let create = "CREATE TABLE kv (k int4 PRIMARY KEY, v int4 NOT NULL)";
    client.batch_execute(create).await.expect("created");
    let fill = format!("INSERT INTO kv SELECT i, 0 FROM generate_series(1, {ROWS}) AS g(i)");
    client.batch_execute(&fill).await.expect("filled");
    let split = format!("ALTER TABLE kv SPLIT AT VALUES ({})", ROWS / 2 + 1);
    client.batch_execute(&split).await.expect("split");
    let texts = [
        "SELECT v FROM kv WHERE k = $1",
        "UPDATE kv SET v = v + 1 WHERE k = $1",
        "UPDATE kv SET v = v + 1 WHERE k IN ($1, $2)",
    ];
    let statements = texts.map(|text| client.prepare(text));
    futures::future::join_all(statements)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .expect("prepared")
        .try_into()
        .expect("three of them")
}

fn statements(c: &mut Criterion) {
    let demo = Demo::start();
    let runtime = Runtime::new().expect("a runtime");
    let client = runtime.block_on(connected(&demo.url));
    let [select, update_one, update_two] = runtime.block_on(prepared(&client));
    let mut key = 0;
    let mut next = move || {
        key = key % (ROWS / 2) + 1;
        key
    };
    let mut group = c.benchmark_group("end to end");
    group.bench_function("cached point select", |b| {
        b.iter(|| {
            let key = next();
            let row = runtime.block_on(client.query_one(&select, &[&key])).expect("one row");
            assert!(row.get::<_, i32>(0) >= 0);
        });
    });
    group.bench_function("one-range commit", |b| {
        b.iter(|| {
            let key = next();
            let rows = runtime.block_on(client.execute(&update_one, &[&key])).expect("updated");
            assert_eq!(rows, 1);
        });
    });
    group.bench_function("two-range commit", |b| {
        b.iter(|| {
            let (low, high) = {
                let key = next();
                (key, key + ROWS / 2)
            };
            let rows = runtime.block_on(client.execute(&update_two, &[&low, &high]));
            assert_eq!(rows.expect("updated"), 2);
        });
    });
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "measured from outside of the database")]
fn now() -> Instant {
    Instant::now()
}

/// Commits in one range and in two, by turns, so that both see the same machine: the medians and
/// their ratio.
fn paired(_: &mut Criterion) {
    let demo = Demo::start();
    let runtime = Runtime::new().expect("a runtime");
    let client = runtime.block_on(connected(&demo.url));
    let [_, update_one, update_two] = runtime.block_on(prepared(&client));
    let (mut one_range, mut two_ranges) = (Vec::new(), Vec::new());
    for turn in 0..PAIRS {
        let low = turn % (ROWS / 2) + 1;
        let high = low + ROWS / 2;
        let began = now();
        runtime.block_on(client.execute(&update_one, &[&low])).expect("updated");
        let then = now();
        runtime.block_on(client.execute(&update_two, &[&low, &high])).expect("updated");
        one_range.push(then - began);
        two_ranges.push(then.elapsed());
    }
    let [one_range, two_ranges] = [one_range, two_ranges].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let ratio = two_ranges.as_secs_f64() / one_range.as_secs_f64();
    println!(
        "paired medians of {PAIRS}: one-range commit {one_range:?}, two-range commit \
         {two_ranges:?}, ratio {ratio:.2}"
    );
}

criterion_group!(benches, statements, paired);
criterion_main!(benches);
