//! What those are told who lost: of which row, against whom, and after how long.

use std::time::Duration;

use quorate_tests::bank;
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::process::wait_until_async;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

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

/// The rows of a report.
async fn shown(client: &Client, report: &str) -> Vec<SimpleQueryRow> {
    let messages = client.simple_query(report).await.expect("shown");
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.collect()
}

/// Whether anybody waits for a row.
async fn somebody_waits(client: &Client) -> bool {
    shown(client, "SHOW LOCKS").await.iter().any(|row| row.get("state") == Some("waits"))
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_for_what_and_others_can_see_it() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    three_rows(&cluster).await;
    let (one, other) = (session(&cluster, 0, "one").await, session(&cluster, 1, "other").await);
    let onlooker = session(&cluster, 2, "onlooker").await;
    let row = "Key (id)=(1) of table \"t\"";
    let holder = ["\"one\" of node 1", "SET v = 11", " ms"];

    one.batch_execute("BEGIN; UPDATE t SET v = 11 WHERE id = 1").await.expect("locked");
    let nowait = refused(&other, "SELECT * FROM t WHERE id = 1 FOR UPDATE NOWAIT").await;
    assert_told(&nowait, "55P03", &[row, holder[0], holder[1]]);

    let waiting = tokio::spawn(async move {
        other.batch_execute("SET lock_timeout = '2s'").await.expect("set");
        let error = refused(&other, "UPDATE t SET v = 12 WHERE id = 1").await;
        (other, error)
    });
    let mut locks = Vec::new();
    wait_until_async("both are seen", PATIENCE, async || {
        locks = shown(&onlooker, "SHOW LOCKS").await;
        locks.len() == 2
    })
    .await;
    let of = |state: &str| {
        let found = locks.iter().find(|lock| lock.get("state") == Some(state));
        found.unwrap_or_else(|| panic!("nobody {state}"))
    };
    let columns =
        ["table", "key", "mode", "application", "statement", "node"].map(|c| of("held").get(c));
    let text = "UPDATE t SET v = 11 WHERE id = 1";
    let told = ["t", "(id)=(1)", "FOR NO KEY UPDATE", "one", text, "1"].map(Some);
    assert_eq!(columns, told);
    assert_eq!(of("held").get("blocked_by"), Some(""));
    assert_eq!(of("waits").get("application"), Some("other"));
    assert_eq!(of("waits").get("blocked_by"), of("held").get("transaction"));
    let age: u64 = of("held").get("age_ms").unwrap_or_default().parse().expect("a number");
    assert!(age < 60_000, "{age}");

    let (other, error) = waiting.await.expect("it ends");
    assert_told(&error, "55P03", &[row, holder[0], holder[1], holder[2]]);
    let last = shown(&other, "SHOW LAST TRANSACTION").await;
    // The first attempt locked nothing, and lost.
    let events: Vec<&str> = last.iter().filter_map(|event| event.get("event")).collect();
    let text = "UPDATE t SET v = 12 WHERE id = 1";
    assert_eq!([events[0], events[2], events[3]], [text, "run again: the statement", text]);
    assert!(events[1].starts_with("failed: ") && events[4].starts_with("failed: "), "{events:?}");
    let waited: f64 = last[3].get("lock_ms").unwrap_or_default().parse().expect("a number");
    assert!(waited >= 1_900.0, "waited {waited} ms");
    one.batch_execute("COMMIT").await.expect("written");
    let last = shown(&one, "SHOW LAST TRANSACTION").await;
    let commit = last.last().expect("a commit");
    assert_eq!(commit.get("event"), Some("COMMIT (one range)"));
    assert_eq!([commit.get("rpc_rounds"), commit.get("consensus_rounds")], [Some("1"); 2]);
}

/// `DEFERRABLE` waits for the clock before the first statement, whichever that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferrable_transaction_waits_for_the_clock() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    three_rows(&cluster).await;
    let client = session(&cluster, 0, "").await;
    client.batch_execute("PREPARE p (int) AS SELECT * FROM t WHERE id > $1").await.expect("made");
    let clock_wait_ms = async |begin: &str, first: &str| {
        client.batch_execute(&format!("{begin}; {first}; COMMIT")).await.expect("read");
        let last = shown(&client, "SHOW LAST TRANSACTION").await;
        let waits = last.iter().map(|row| row.get("clock_wait_ms").expect("a column"));
        waits.map(|ms| ms.parse::<f64>().expect("a number")).sum::<f64>()
    };
    let certain = "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY";
    for first in ["SELECT * FROM t", "EXECUTE p (1 + 1)"] {
        let waited = clock_wait_ms(&format!("{certain} DEFERRABLE"), first).await;
        assert!(waited >= 200.0, "{first}: {waited} ms");
        for other in [certain, "BEGIN READ ONLY DEFERRABLE", "BEGIN"] {
            assert!(clock_wait_ms(other, first).await < 200.0, "{other}");
        }
    }
}

/// The younger one hears of it, with all who wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_victim_of_a_deadlock_is_told_the_circle() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    three_rows(&cluster).await;
    let (one, other) = (session(&cluster, 0, "one").await, session(&cluster, 1, "other").await);
    for (client, id) in [(&one, 1), (&other, 3)] {
        client.batch_execute("SET quorate.repeat_transactions = off").await.expect("set");
        let text = format!("BEGIN; UPDATE t SET v = 1 WHERE id = {id}");
        client.batch_execute(&text).await.expect("locked");
    }
    let first = tokio::spawn(async move {
        one.batch_execute("UPDATE t SET v = 2 WHERE id = 3").await.expect("it goes on");
        one.batch_execute("COMMIT").await.expect("written");
    });
    let error = refused(&other, "UPDATE t SET v = 2 WHERE id = 1").await;
    let (own, before) = ("\"other\" of node 2", "\"one\" of node 1");
    let rows = ["Key (id)=(1) of table \"t\"", "Key (id)=(3) of table \"t\""];
    assert_told(&error, "40P01", &[own, before, rows[0], rows[1], " waits since ", " ms for "]);
    other.batch_execute("ROLLBACK").await.expect("over");
    first.await.expect("it ends");
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
