//! Transactions nobody has begun: all statements of a text, or of a pipeline up to its `Sync`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::Timestamp;
use quorate_proto::pb::range_request::Body;
use quorate_txn::clock::{NodeClock, Standing};
use quorate_txn::config::{MAX_CLOCK_OFFSET, SAFE_POINT_LAG};

use super::{Outcome, Session};
use crate::Gateway;
use crate::pg::startup::Hello;
use crate::sql_side::CatalogNames;
use crate::testing::{FakeNode, FaultKind, OneNode, TestClock};

fn cluster() -> (Arc<NodeClock>, Arc<FakeNode>, Session) {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let connector = Arc::new(OneNode(node.clone()));
    let gateway = Gateway::new(connector, clock.clone(), Bytes::new(), SAFE_POINT_LAG);
    let hello = Hello {
        user: String::from("t"),
        database: gateway.database().to_owned(),
        settings: Vec::new(),
    };
    (clock, node, Session::open(gateway, hello).unwrap())
}

/// Runs the statements of a text, as one text or as a pipeline, up to the end of its transaction.
async fn together(session: &mut Session, list: bool, text: &str) -> Result<usize, SqlError> {
    let statements = session.split(text)?;
    session.set_in_list(list && statements.len() > 1);
    let done = unended(session, statements).await;
    session.set_in_list(false);
    let done = match done {
        Ok(count) if !session.in_block() => session.finish_implicit().await.map(|()| count),
        other => other,
    };
    if done.is_err() {
        session.fail();
    }
    done
}

async fn unended(
    session: &mut Session,
    statements: Vec<quorate_planner::parse::Statement>,
) -> Result<usize, SqlError> {
    let mut count = 0;
    for statement in statements {
        let ready = session.prepare(statement, &[]).await?;
        count = 0;
        if let Outcome::Rows(mut rows) = session.run(&ready, Vec::new()).await? {
            while let Some((batch, row)) = rows.next().await? {
                debug_assert!(row < batch.num_rows());
                count += 1;
            }
        }
    }
    Ok(count)
}

async fn rows(session: &mut Session, query: &str) -> usize {
    together(session, false, query).await.unwrap()
}

#[tokio::test]
async fn what_the_same_text_has_written_is_a_duplicate_too() {
    let (_, _, mut client) = cluster();
    for list in [true, false] {
        let fresh = "DROP TABLE IF EXISTS p";
        together(&mut client, false, fresh).await.unwrap();
        let table = "CREATE TABLE p (id bigint PRIMARY KEY, u bigint UNIQUE, v bigint)";
        together(&mut client, false, table).await.unwrap();
        let some = "INSERT INTO p VALUES (1, 1, 1), (2, 2, 2)";
        together(&mut client, false, some).await.unwrap();
        for text in [
            "INSERT INTO p VALUES (3, 3, 1); INSERT INTO p VALUES (4, 3, 1)",
            "INSERT INTO p VALUES (3, 3, 1); INSERT INTO p VALUES (3, 4, 1)",
            "INSERT INTO p VALUES (1, 3, 1); SELECT 1",
            "INSERT INTO p VALUES (1, 3, 1); DELETE FROM p WHERE id = 1",
            "UPDATE p SET u = 7 WHERE id = 1; UPDATE p SET u = 7 WHERE id = 2",
            "INSERT INTO p VALUES (10, 10, 1); UPDATE p SET u = 10 WHERE id = 2",
            "INSERT INTO p VALUES (10, 10, 1); UPDATE p SET id = 10 WHERE id = 2",
            "DELETE FROM p WHERE id = 1; INSERT INTO p VALUES (1, 1, 5); \
             INSERT INTO p VALUES (1, 1, 6)",
            "INSERT INTO p SELECT id + 10, u + 10, v FROM p; \
             INSERT INTO p SELECT id + 10, u + 20, v FROM p WHERE id < 10",
            "UPDATE p SET u = 5 WHERE id = 1; INSERT INTO p VALUES (3, 5, 1)",
        ] {
            let error = together(&mut client, list, text).await.unwrap_err();
            assert_eq!(error.sqlstate, SqlState::UNIQUE_VIOLATION, "{text}: {error:?}");
            let same = "SELECT id FROM p WHERE id = u AND u = v";
            assert_eq!(rows(&mut client, "SELECT id FROM p").await, 2, "{text}");
            assert_eq!(rows(&mut client, same).await, 2, "{text}");
        }
        let moved = "DELETE FROM p WHERE id = 1; INSERT INTO p VALUES (1, 1, 5); \
                     UPDATE p SET id = 3, u = 3 WHERE id = 1; INSERT INTO p VALUES (1, 1, 1)";
        together(&mut client, list, moved).await.unwrap();
        assert_eq!(rows(&mut client, "SELECT id FROM p WHERE u > 0").await, 3);
    }
}

#[tokio::test]
async fn a_schema_change_in_a_text_is_undone_with_it() {
    let (_, _, mut client) = cluster();
    together(&mut client, false, "CREATE TABLE a (k bigint PRIMARY KEY)").await.unwrap();
    for text in [
        "INSERT INTO a VALUES (1); CREATE TABLE b (k bigint PRIMARY KEY); SELECT 1 / 0",
        "CREATE TABLE b (k bigint PRIMARY KEY); INSERT INTO b VALUES (1), (1)",
        "INSERT INTO a VALUES (1); TRUNCATE a; INSERT INTO a VALUES (2), (2)",
    ] {
        assert!(together(&mut client, true, text).await.is_err(), "{text}");
        let error = together(&mut client, false, "SELECT k FROM b").await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::UNDEFINED_TABLE, "{text}");
        assert_eq!(rows(&mut client, "SELECT k FROM a").await, 0, "{text}");
    }
    // So is one that comes later in a pipeline.
    let text = "INSERT INTO a VALUES (1); CREATE TABLE b (k bigint PRIMARY KEY); SELECT 1 / 0";
    assert!(together(&mut client, false, text).await.is_err());
    assert_eq!(rows(&mut client, "SELECT k FROM a").await, 0);
    let all = "INSERT INTO a VALUES (1); CREATE TABLE b (k bigint PRIMARY KEY, v bigint); \
               INSERT INTO b VALUES (1, 2), (2, 2); CREATE INDEX bv ON b (v); SELECT k FROM b";
    assert_eq!(together(&mut client, true, all).await, Ok(2));
    assert_eq!(rows(&mut client, "SELECT b.k FROM a, b WHERE v = 2").await, 2);
}

/// What a text has dropped is not found again in the catalog of the others.
#[tokio::test]
async fn what_a_text_has_dropped_is_gone_for_it() {
    let (_, _, mut client) = cluster();
    together(&mut client, false, "CREATE TABLE a (k bigint PRIMARY KEY, v int)").await.unwrap();
    together(&mut client, false, "INSERT INTO a VALUES (1, 1)").await.unwrap();
    for (list, text, state) in [
        (true, "DROP TABLE a; INSERT INTO a VALUES (2, 2)", SqlState::UNDEFINED_TABLE),
        (true, "DROP TABLE a; SELECT k FROM a", SqlState::UNDEFINED_TABLE),
        (
            true,
            "DROP TABLE a; CREATE TABLE a (k bigint PRIMARY KEY); \
             INSERT INTO a (k, v) VALUES (2, 2)",
            SqlState::UNDEFINED_COLUMN,
        ),
        (false, "SELECT 1; DROP TABLE a; SELECT k FROM a", SqlState::UNDEFINED_TABLE),
    ] {
        let error = together(&mut client, list, text).await.unwrap_err();
        assert_eq!(error.sqlstate, state, "{text}: {error:?}");
        assert_eq!(rows(&mut client, "SELECT v FROM a").await, 1, "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_undone_stands_alone() {
    let (_, _, mut client) = cluster();
    together(&mut client, false, "CREATE TABLE a (k bigint PRIMARY KEY, v int)").await.unwrap();
    let (alone, unsupported) = (SqlState::ACTIVE_SQL_TRANSACTION, SqlState::FEATURE_NOT_SUPPORTED);
    for (what, state) in [
        ("VACUUM", alone),
        ("DISCARD ALL", alone),
        ("ALTER TABLE a SPLIT AT VALUES (5)", alone),
        ("CREATE INDEX av ON a (v)", unsupported),
    ] {
        let text = format!("INSERT INTO a VALUES (1, 1); {what}");
        for list in [true, false] {
            let error = together(&mut client, list, &text).await.unwrap_err();
            assert_eq!(error.sqlstate, state, "{what}: {error:?}");
            assert_eq!(rows(&mut client, "SELECT k FROM a").await, 0, "{what}");
        }
    }
    for what in ["VACUUM", "CREATE INDEX av ON a (v)", "DISCARD ALL"] {
        together(&mut client, false, what).await.unwrap();
    }
}

#[tokio::test]
async fn settings_hold_for_the_text_and_go_with_it() {
    let (_, _, mut client) = cluster();
    for (text, during) in [
        ("SET LOCAL statement_timeout = '7s'; SELECT 1", Some(7)),
        ("SELECT 1; SET LOCAL statement_timeout = '8s'", Some(8)),
    ] {
        let statements = client.split(text).unwrap();
        client.set_in_list(true);
        unended(&mut client, statements).await.unwrap();
        assert_eq!(client.statement_timeout(), during.map(Duration::from_secs), "{text}");
        assert!(client.take_notices().is_empty(), "{text}");
        client.set_in_list(false);
        client.finish_implicit().await.unwrap();
        assert_eq!(client.statement_timeout(), None, "{text}");
    }
    let failed = "SET statement_timeout = '7s'; SELECT 1 / 0";
    assert!(together(&mut client, true, failed).await.is_err());
    assert_eq!(client.statement_timeout(), None);
    together(&mut client, true, "SET statement_timeout = '7s'; SELECT 1").await.unwrap();
    assert!(together(&mut client, true, "RESET ALL; SELECT 1 / 0").await.is_err());
    assert_eq!(client.statement_timeout(), Some(Duration::from_secs(7)));
    // Alone it holds for nothing, and says so.
    together(&mut client, false, "SET LOCAL statement_timeout = '9s'").await.unwrap();
    assert_eq!(client.take_notices().len(), 1);
    assert_eq!(client.statement_timeout(), Some(Duration::from_secs(7)));
    // What follows a setting in a pipeline goes by it, and is not run again without it.
    let set = client.split("SET statement_timeout = '9s'").unwrap();
    unended(&mut client, set).await.unwrap();
    assert!(client.has_set() && client.is_idle());
    client.finish_implicit().await.unwrap();
    assert!(!client.has_set());
    let discarded = "SET LOCAL statement_timeout = '10s'; DISCARD ALL";
    together(&mut client, false, discarded).await.unwrap();
    assert_eq!(client.statement_timeout(), None);
    together(&mut client, false, "SET statement_timeout = '7s'").await.unwrap();
    client.take_notices();
    // A block takes over what came before it.
    let block = "SET statement_timeout = '9s'; BEGIN; SELECT 1; ROLLBACK";
    together(&mut client, true, block).await.unwrap();
    assert_eq!(client.statement_timeout(), Some(Duration::from_secs(7)));
}

/// P8: what is committed is never told to be aborted, whatever keeps other gateways from hearing of
/// it.
#[tokio::test]
async fn a_committed_change_of_the_schema_is_not_told_to_have_failed() {
    let (clock, node, mut client) = cluster();
    together(&mut client, false, "CREATE TABLE a (k bigint PRIMARY KEY)").await.unwrap();
    for text in ["BEGIN; INSERT INTO a VALUES (1); TRUNCATE a; COMMIT", "TRUNCATE a"] {
        let (committed, bumped) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
        let (clock, once) = (clock.clone(), bumped.clone());
        node.set_fault(Some(Box::new(move |body| {
            if matches!(body, Body::Commit(_)) {
                committed.store(true, Ordering::SeqCst);
            }
            let looks = matches!(body, Body::Scan(_)) && committed.load(Ordering::SeqCst);
            if looks && !once.swap(true, Ordering::SeqCst) {
                clock.set_standing(Standing::Off { ahead_us: None });
                clock.set_standing(Standing::Agrees);
            }
            FaultKind::Pass
        })));
        assert_eq!(together(&mut client, false, text).await, Ok(0), "{text}");
        assert!(bumped.load(Ordering::SeqCst), "{text}");
        assert!(client.take_notices().is_empty(), "{text}: it was told in time");
        node.set_fault(None);
    }
}

#[tokio::test]
async fn a_savepoint_that_is_gone_back_to_says_since_when() {
    let (_, _, mut client) = cluster();
    together(&mut client, false, "BEGIN; SAVEPOINT a; SAVEPOINT b").await.unwrap();
    assert_eq!((client.savepoints_set(), client.take_undone_since()), (2, None));
    together(&mut client, false, "ROLLBACK TO b").await.unwrap();
    assert_eq!(client.take_undone_since(), Some(2));
    together(&mut client, false, "RELEASE b; SAVEPOINT b; ROLLBACK TO a").await.unwrap();
    assert_eq!((client.savepoints_set(), client.take_undone_since()), (3, Some(1)));
    assert_eq!(client.take_undone_since(), None);
}
