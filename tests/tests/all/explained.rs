//! What those are told who lost: of which row, against whom, and after how long.

use std::time::Duration;

use quorate_tests::bank;
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::process::wait_until_async;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(60);

async fn session(cluster: &Cluster, node: usize, name: &str) -> Client {
    let client = bank::connect(&cluster.url(node)).await.expect("it answers");
    client.batch_execute(&format!("SET application_name = '{name}'")).await.expect("it is set");
    client
}

async fn refused(client: &Client, text: &str) -> DbError {
    let error = client.batch_execute(text).await.expect_err(text);
    error.as_db_error().expect("the server's").clone()
}

fn assert_told(error: &DbError, state: &str, parts: &[&str]) {
    assert_eq!(error.code().code(), state, "{error:?}");
    let detail = error.detail().unwrap_or_default();
    for part in parts {
        assert!(detail.contains(part), "{part} is not in: {detail}");
    }
}

async fn three_rows(cluster: &Cluster) {
    let client = session(cluster, 0, "").await;
    let text =
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (3, 0), (4, 0)";
    client.batch_execute(text).await.expect("made");
}

/// Whether anybody waits for a row.
async fn somebody_waits(client: &Client) -> bool {
    let rows = client.simple_query("SHOW LOCKS").await.expect("shown");
    rows.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("state") == Some("waits"),
        _ => false,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_is_told_the_row_and_against_whom() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    three_rows(&cluster).await;
    let (one, other) = (session(&cluster, 0, "one").await, session(&cluster, 1, "other").await);
    let row = "Key (id)=(1) of table \"t\"";

    // A wait that a time ends.
    one.batch_execute("BEGIN; UPDATE t SET v = 11 WHERE id = 1").await.expect("locked");
    other.batch_execute("SET statement_timeout = '3s'").await.expect("set");
    let error = refused(&other, "UPDATE t SET v = 12 WHERE id = 1").await;
    assert_told(&error, "57014", &[row, "\"one\" of node 1", "SET v = 11", " ms"]);
    one.batch_execute("ROLLBACK").await.expect("over");
    other.batch_execute("RESET statement_timeout").await.expect("set");

    // The other was a statement of its own, that locked nothing.
    one.batch_execute("SET quorate.repeat_transactions = off").await.expect("set");
    one.batch_execute("BEGIN; SELECT * FROM t").await.expect("read");
    other.batch_execute("UPDATE t SET v = 21 WHERE id = 1").await.expect("written");
    let error = refused(&one, "UPDATE t SET v = 22 WHERE id = 1").await;
    assert_told(&error, "40001", &[row, "\"other\" of node 2", "SET v = 21"]);
    one.batch_execute("ROLLBACK").await.expect("over");

    // What is named has written, not only locked.
    one.batch_execute("BEGIN; SELECT * FROM t").await.expect("read");
    for text in ["BEGIN", "SELECT * FROM t WHERE id = 1 FOR UPDATE", "DELETE FROM t WHERE id = 1"] {
        other.batch_execute(text).await.expect(text);
    }
    other.batch_execute("COMMIT").await.expect("written");
    let error = refused(&one, "UPDATE t SET v = 31 WHERE id = 1").await;
    assert_told(&error, "40001", &[row, "\"other\" of node 2", "DELETE FROM t"]);
    one.batch_execute("ROLLBACK").await.expect("over");

    // A change of the schema.
    one.batch_execute("BEGIN; UPDATE t SET v = 41 WHERE id = 3").await.expect("written");
    other.batch_execute("TRUNCATE t; CREATE TABLE u (a int)").await.expect("changed");
    let error = refused(&one, "COMMIT").await;
    assert_told(&error, "40001", &["Table \"t\" was changed"]);
}

/// Whoever has gone holds nothing, also while it queues for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_holds_nothing_while_it_waits() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    three_rows(&cluster).await;
    let (one, other) = (session(&cluster, 0, "one").await, session(&cluster, 1, "other").await);
    one.batch_execute("BEGIN; UPDATE t SET v = 1 WHERE id = 4").await.expect("locked");
    let (gone, connection) =
        tokio_postgres::connect(&cluster.url(2), NoTls).await.expect("it answers");
    let connection = tokio::spawn(connection);
    gone.batch_execute("BEGIN; UPDATE t SET v = 2 WHERE id = 3").await.expect("locked");
    let waiting =
        tokio::spawn(async move { gone.batch_execute("UPDATE t SET v = 2 WHERE id = 4").await });
    wait_until_async("it waits", PATIENCE, async || somebody_waits(&other).await).await;
    connection.abort();
    assert!(connection.await.is_err_and(|e| e.is_cancelled()), "its socket is closed");
    // The first is still open.
    other.batch_execute("UPDATE t SET v = 3 WHERE id = 3").await.expect("nobody holds it");
    assert!(waiting.await.expect("it ends").is_err());
    one.batch_execute("COMMIT").await.expect("written");
    let found = other.query("SELECT v FROM t WHERE id > 1 ORDER BY id", &[]).await.expect("read");
    let found: Vec<i32> = found.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, [3, 1]);
}
