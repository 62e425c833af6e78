//! Transactions of many rows: committed whole over several ranges, or refused whole.

use quorate_tests::bank::{self, sqlstate};
use quorate_tests::cluster::{self, Cluster};

/// Times that a commit may be aborted because it took too long, as on a machine that is busy.
const TRIES_MAX: usize = 10;
/// Enough that work which grows with the square of it takes minutes in a debug build.
const ROWS: i64 = 40_000;

/// Runs it until it is not told that it took too long and was undone, for which it may be repeated.
async fn in_time(client: &tokio_postgres::Client, text: &str) {
    for _ in 0..TRIES_MAX {
        match client.batch_execute(text).await {
            Ok(()) => return,
            Err(e) if e.as_db_error().is_some_and(|e| e.message().contains("in time")) => {}
            Err(e) => panic!("{e:?}"),
        }
        let _ended = client.batch_execute("ROLLBACK").await;
    }
    panic!("not once in time: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tens_of_thousands_of_rows_commit_in_two_ranges_and_too_many_bytes_are_refused() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let client = bank::connect(&cluster.url(0)).await.expect("it answers");
    let create = "CREATE TABLE big (id int PRIMARY KEY, v text)";
    client.batch_execute(create).await.expect("made");
    let half = format!("ALTER TABLE big SPLIT AT VALUES ({})", ROWS / 2);
    client.batch_execute(&half).await.expect("cut");
    let count = async || {
        let row = client.query_one("SELECT count(*) FROM big", &[]).await.expect("it counts");
        row.get::<_, i64>(0)
    };
    let insert = format!("INSERT INTO big SELECT g, 'row ' || g FROM generate_series(1, {ROWS}) g");
    in_time(&client, &insert).await;
    assert_eq!(count().await, ROWS);
    in_time(&client, "BEGIN; UPDATE big SET v = v || '!'; COMMIT").await;
    let changed = "SELECT count(*) FROM big WHERE v LIKE '%!'";
    let row = client.query_one(changed, &[]).await.expect("it counts");
    assert_eq!(row.get::<_, i64>(0), ROWS);
    let huge = "INSERT INTO big SELECT -g, repeat('x', 60000) FROM generate_series(1, 1000) g";
    let refused = client.batch_execute(huge).await.expect_err("57 MiB are too many");
    assert_eq!(sqlstate(&refused), "54000");
    assert_eq!(count().await, ROWS);
}
