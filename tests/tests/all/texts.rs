//! Texts of several statements: each is one transaction, as in PostgreSQL.

use std::time::Duration;

use quorate_tests::bank::{self, sqlstate};
use quorate_tests::cluster::{self, Cluster};
use tokio_postgres::Client;

async fn count(client: &Client, table: &str) -> i64 {
    let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await;
    row.expect("it is counted").get(0)
}

async fn refused(client: &Client, text: &str) -> String {
    match client.batch_execute(text).await {
        Ok(()) => panic!("{text} was not refused"),
        Err(error) => sqlstate(&error).to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_of_several_statements_is_one_transaction() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let mut clients = Vec::new();
    for url in cluster.urls() {
        clients.push(bank::connect(&url).await.expect("every node answers"));
    }
    let client = &clients[0];
    let table = "CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE)";
    client.batch_execute(table).await.expect("made");
    let twice = "INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'a')";
    assert_eq!(refused(client, twice).await, "23505");
    let changed = "INSERT INTO t VALUES (1, 'a'); CREATE TABLE s (k int); SELECT 1 / 0";
    assert_eq!(refused(client, changed).await, "22012");
    assert_eq!(refused(client, "SELECT * FROM s").await, "42P01");
    assert_eq!(count(client, "t").await, 0);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").await.expect("written");

    // What it sets holds for it.
    clients[1].batch_execute("BEGIN; SELECT 1 FROM t WHERE id = 1 FOR UPDATE").await.expect("held");
    let impatient = "SET LOCAL lock_timeout = '300ms'; UPDATE t SET u = 'b' WHERE id = 1";
    let answer = tokio::time::timeout(Duration::from_secs(60), refused(client, impatient)).await;
    assert_eq!(answer.expect("it does not wait for ever"), "55P03");
    clients[1].batch_execute("ROLLBACK").await.expect("given up");
}

/// Those that change the schema meet each other, and are run again as those that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_that_change_the_schema_at_once_are_all_carried_out() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let text = |i: usize| {
        format!(
            "CREATE TABLE IF NOT EXISTS c (k int PRIMARY KEY); INSERT INTO c VALUES ({i}); \
             CREATE TABLE own_{i} (k int PRIMARY KEY, v int); \
             CREATE INDEX own_{i}_v ON own_{i} (v)"
        )
    };
    let one = async |i: usize, url: String| {
        let client = bank::connect(&url).await.expect("it answers");
        client.batch_execute(&text(i)).await
    };
    let urls = cluster.urls().into_iter().enumerate();
    let done = futures::future::join_all(urls.map(|(i, url)| one(i, url))).await;
    for (i, done) in done.into_iter().enumerate() {
        done.unwrap_or_else(|error| panic!("{i}: {error:?}"));
    }
    let client = bank::connect(&cluster.url(0)).await.expect("it answers");
    assert_eq!(count(&client, "c").await, 3);
    for i in 0..3 {
        assert_eq!(count(&client, &format!("own_{i}")).await, 0);
    }
}
