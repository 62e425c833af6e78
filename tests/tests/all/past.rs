//! The past: read at any node, also while a leader is gone, as far back as its table says.

use std::time::Duration;

use quorate_tests::bank::{self, sqlstate};
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::process::wait_until_async;
use tokio_postgres::{Client, SimpleQueryMessage};

const PATIENCE: Duration = Duration::from_secs(60);

async fn rows(client: &Client, text: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let answer = client.simple_query(text).await?;
    let cells = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let cell = |i| row.get(i).unwrap_or_default().to_owned();
            Some((0..row.len()).map(cell).collect())
        }
        _ => None,
    };
    Ok(answer.into_iter().filter_map(cells).collect())
}

async fn one(client: &Client, text: &str) -> Result<String, tokio_postgres::Error> {
    Ok(rows(client, text).await?.concat().concat())
}

/// How many reads of the last transaction were answered by followers.
async fn by_followers(client: &Client) -> u64 {
    let timeline = rows(client, "SHOW LAST TRANSACTION").await.expect("it is shown");
    timeline.iter().filter_map(|event| event.last()?.parse::<u64>().ok()).sum()
}

async fn refused(client: &Client, text: &str) -> String {
    match client.batch_execute(text).await {
        Ok(()) => panic!("{text} was not refused"),
        Err(error) => sqlstate(&error).to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_answer_for_the_past_and_go_on_when_the_leader_is_killed() {
    let _alone = cluster::alone().await;
    let mut cluster = Cluster::three().await;
    let mut clients = Vec::new();
    for url in cluster.urls() {
        clients.push(bank::connect(&url).await.expect("every node answers"));
    }
    clients[0].batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int)").await.expect("made");
    clients[0].batch_execute("INSERT INTO t VALUES (1, 10), (2, 20)").await.expect("written");
    let moment = one(&clients[0], "SELECT now()::text").await.expect("the time");
    clients[0].batch_execute("UPDATE t SET v = v + 1").await.expect("written");
    let text = format!("SELECT sum(v) FROM t AS OF SYSTEM TIME '{moment}'");
    // All nodes but the leader, once the moment is over for a while.
    let mut leader = 0;
    wait_until_async("two nodes answer from their own replicas", PATIENCE, async || {
        let mut followers = 0;
        for (node, client) in clients.iter().enumerate() {
            assert_eq!(one(client, &text).await.expect("it is read"), "30");
            match by_followers(client).await {
                0 => leader = node,
                pages => followers += pages,
            }
        }
        followers == 2
    })
    .await;
    let lately = "SELECT sum(v) FROM t AS OF SYSTEM TIME follower_read_timestamp()";
    for client in &clients {
        wait_until_async("lately it is 32", PATIENCE, async || {
            // At first there was no such table then.
            one(client, lately).await.is_ok_and(|sum| sum == "32")
        })
        .await;
    }
    // Nobody leads for a while now, and the past is there at once.
    cluster.kill(leader);
    for client in (0..3).filter(|node| *node != leader).map(|node| &clients[node]) {
        assert_eq!(one(client, &text).await.expect("it is read"), "30");
        assert_eq!(by_followers(client).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_says_how_far_back_it_can_be_read() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let client = bank::connect(&cluster.url(0)).await.expect("it answers");
    let create =
        "CREATE TABLE t (id int PRIMARY KEY, v int) WITH (gc_window = 30, fillfactor = 70)";
    client.batch_execute(create).await.expect("made");
    let options = "SELECT reloptions FROM pg_class WHERE relname = 't'";
    assert_eq!(one(&client, options).await.expect("shown"), "{gc_window=30}");
    let read = async |span: &str| {
        let text = format!("SELECT * FROM t AS OF SYSTEM TIME '-{span}'");
        match client.batch_execute(&text).await {
            Ok(()) => String::new(),
            Err(e) => {
                let e = e.as_db_error().expect("the server's");
                assert_eq!(e.code().code(), "72000", "{e}");
                e.detail().expect("a reason").to_owned()
            }
        }
    };
    let outside =
        |seconds: u64| format!("Old versions of table \"t\" are kept for {seconds} seconds.");
    assert_eq!(read("31s").await, outside(30));
    // Within the window, but there was no such table.
    let younger = "Table \"t\" was created or truncated ";
    assert_starts(&read("20s").await, younger);
    client.batch_execute("ALTER TABLE t SET (gc_window = '1 hour')").await.expect("set");
    assert_eq!(one(&client, options).await.expect("shown"), "{gc_window=3600}");
    assert_starts(&read("59 minutes").await, younger);
    assert_eq!(read("61 minutes").await, outside(3600));
    client.batch_execute("ALTER TABLE t RESET (gc_window)").await.expect("reset");
    assert_eq!(one(&client, options).await.expect("shown"), "");
    // That of the cluster, before any of its ranges has given up anything.
    assert_starts(&read("9 minutes").await, younger);
    assert_eq!(read("11 minutes").await, outside(600));
    for (text, state) in [
        ("ALTER TABLE t SET (gc_window = 29)", "22023"),
        ("ALTER TABLE t SET (gc_window = 'soon')", "22023"),
        ("ALTER TABLE t SET (nonsense = 1)", "22023"),
        ("ALTER TABLE missing SET (gc_window = 60)", "42P01"),
        ("ALTER TABLE t SET (gc_window 60)", "42601"),
        ("ALTER TABLE t SET (gc_window = 60", "42601"),
        ("CREATE TABLE u (id int) WITH (gc_window = '-1 hour')", "22023"),
    ] {
        assert_eq!(refused(&client, text).await, state, "{text}");
    }
    client
        .batch_execute("ALTER TABLE IF EXISTS missing SET (gc_window = 60)")
        .await
        .expect("a notice");
}

fn assert_starts(text: &str, start: &str) {
    assert!(text.starts_with(start), "{text:?}");
}

/// Rows from before a `TRUNCATE` are not given as if there had been none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_before_a_truncate_is_refused() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let client = bank::connect(&cluster.url(0)).await.expect("it answers");
    client.batch_execute("CREATE TABLE t (v int)").await.expect("made");
    client.batch_execute("INSERT INTO t VALUES (1)").await.expect("filled");
    let full = one(&client, "SELECT now()::text").await.expect("a moment");
    client.batch_execute("TRUNCATE t").await.expect("emptied");
    let empty = one(&client, "SELECT now()::text").await.expect("a moment");
    let count = |moment: &str| format!("SELECT count(*) FROM t AS OF SYSTEM TIME '{moment}'");
    for node in 0..3 {
        let client = bank::connect(&cluster.url(node)).await.expect("it answers");
        assert_eq!(refused(&client, &count(&full)).await, "72000");
        assert_eq!(one(&client, &count(&empty)).await.expect("it is read"), "0");
    }
}

/// A block's `TRUNCATE` and `CREATE TABLE` count from its `COMMIT`: what lies between statement and
/// commit is before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_before_the_commit_of_a_truncate_is_refused() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let client = bank::connect(&cluster.url(0)).await.expect("it answers");
    let other = bank::connect(&cluster.url(1)).await.expect("it answers");
    client.batch_execute("CREATE TABLE t (v int)").await.expect("made");
    client.batch_execute("INSERT INTO t VALUES (1)").await.expect("filled");
    client
        .batch_execute("BEGIN; TRUNCATE t; CREATE TABLE u (v int); INSERT INTO u VALUES (1)")
        .await
        .expect("a block");
    let between = one(&other, "SELECT clock_timestamp()::text").await.expect("a moment");
    client.batch_execute("COMMIT").await.expect("committed");
    let after = one(&client, "SELECT clock_timestamp()::text").await.expect("a moment");
    for node in 0..3 {
        let client = bank::connect(&cluster.url(node)).await.expect("it answers");
        for (table, rows) in [("t", "0"), ("u", "1")] {
            let count = |at: &str| format!("SELECT count(*) FROM {table} AS OF SYSTEM TIME '{at}'");
            assert_eq!(one(&client, &count(&after)).await.expect("it is read"), rows);
            assert_eq!(refused(&client, &count(&between)).await, "72000");
            assert_eq!(one(&client, &count(&after)).await.expect("it is read again"), rows);
        }
    }
}
