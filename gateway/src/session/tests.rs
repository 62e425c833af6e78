//! Sessions over a cluster in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::Array as _;
use datafusion::arrow::util::display::array_value_to_string;
use quorate_planner::catalog::catalog_span;
use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::Timestamp;
use quorate_proto::pb::range_request::Body;
use quorate_txn::clock::{NodeClock, Standing};
use quorate_txn::config::{MAX_CLOCK_OFFSET, SAFE_POINT_LAG};

use super::{Outcome, Session};
use crate::Gateway;
use crate::catalog::CATALOG_LEASE;
use crate::pg::startup::Hello;
use crate::runtime;
use crate::sql_side::CatalogNames;
use crate::testing::{FakeNode, FaultKind, OneNode, TestClock};

fn gateway(node: &Arc<FakeNode>, clock: &Arc<NodeClock>) -> Arc<Gateway> {
    Gateway::new(Arc::new(OneNode(node.clone())), clock.clone(), Bytes::new(), SAFE_POINT_LAG)
}

fn session(gateway: &Arc<Gateway>) -> Session {
    let hello = Hello {
        user: String::from("t"),
        database: gateway.database().to_owned(),
        settings: Vec::new(),
    };
    Session::open(gateway.clone(), hello).unwrap()
}

/// Runs a text; the number of rows of its last statement.
async fn run(session: &mut Session, text: &str) -> Result<usize, SqlError> {
    let mut count = 0;
    for statement in session.split(text)? {
        let ready = session.prepare(statement, &[]).await?;
        count = 0;
        if let Outcome::Rows(mut rows) = session.run(&ready, Vec::new()).await? {
            while rows.next().await?.is_some() {
                count += 1;
            }
        }
        if !session.in_block() {
            session.finish_implicit().await?;
        }
    }
    Ok(count)
}

/// Found by the simulator: the first client of a node that has just started was told that its
/// tables do not exist if it began with a transaction block.
#[tokio::test]
async fn a_block_on_a_gateway_that_has_just_started_knows_the_tables() {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let first = gateway(&node, &clock);
    let text = "CREATE TABLE t (k bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
    run(&mut session(&first), text).await.unwrap();
    let started = gateway(&node, &clock);
    let text = "BEGIN; SELECT k FROM t";
    assert_eq!(run(&mut session(&started), text).await, Ok(2));
}

/// T3: on a node whose clock is off every statement says so at once, and nothing is written.
#[tokio::test]
async fn a_node_whose_clock_is_off_runs_no_statements_and_says_by_how_much() {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let gateway = gateway(&node, &clock);
    let mut client = session(&gateway);
    run(&mut client, "CREATE TABLE t (k bigint PRIMARY KEY)").await.unwrap();
    run(&mut client, "BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    clock.set_standing(Standing::Off { ahead_us: Some(812_345) });
    for text in ["COMMIT", "SELECT k FROM t", "INSERT INTO t VALUES (2)", "BEGIN"] {
        let error = run(&mut client, text).await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::CANNOT_CONNECT_NOW, "{text}: {error:?}");
        assert!(error.message.contains("+812 ms"), "{text}: {error:?}");
        assert!(error.detail.as_ref().is_some_and(|d| d.contains("250ms")), "{text}: {error:?}");
    }
    clock.set_standing(Standing::Apart { ahead_us: Some(230_000) });
    assert_eq!(run(&mut client, "SELECT k FROM t").await, Ok(0));
}

/// T3: while its clock was off, a node may have read ahead of time; what others have written since
/// would be overlooked.
#[tokio::test]
async fn a_block_that_lived_through_a_wrong_clock_neither_reads_on_nor_commits() {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let gateway = gateway(&node, &clock);
    let mut client = session(&gateway);
    run(&mut client, "CREATE TABLE t (k bigint PRIMARY KEY); INSERT INTO t VALUES (0)")
        .await
        .unwrap();
    for (text, last) in
        [("SELECT k FROM t", "SELECT k FROM t"), ("INSERT INTO t VALUES (1)", "COMMIT")]
    {
        run(&mut client, &format!("BEGIN; {text}")).await.unwrap();
        clock.set_standing(Standing::Off { ahead_us: Some(812_345) });
        clock.set_standing(Standing::Agrees);
        let error = run(&mut client, last).await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::SERIALIZATION_FAILURE, "{last}: {error:?}");
        assert!(error.message.contains("clock"), "{last}: {error:?}");
        client.fail();
        run(&mut client, "ROLLBACK").await.unwrap();
    }
    assert_eq!(run(&mut client, "SELECT k FROM t").await, Ok(1));
}

/// The only value of a text's last statement, as text; `None` for NULL.
async fn value(session: &mut Session, text: &str) -> Result<Option<String>, SqlError> {
    let mut found = None;
    for statement in session.split(text)? {
        let ready = session.prepare(statement, &[]).await?;
        let (Outcome::Rows(mut rows) | Outcome::Command { rows: Some(mut rows), .. }) =
            session.run(&ready, Vec::new()).await?
        else {
            continue;
        };
        if let Some((batch, row)) = rows.next().await? {
            let column = batch.column(0);
            let text = array_value_to_string(column, row)?;
            found = column.is_valid(row).then_some(text);
        }
        if !session.in_block() {
            session.finish_implicit().await?;
        }
    }
    Ok(found)
}

/// A transaction has an id once it has written and is asked for it; by it, others learn its fate.
#[tokio::test]
async fn a_transaction_is_known_by_its_id() {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let gateway = gateway(&node, &clock);
    let (mut one, mut other) = (session(&gateway), session(&gateway));
    run(&mut one, "CREATE TABLE t (k bigint PRIMARY KEY)").await.unwrap();
    let if_assigned = "SELECT pg_current_xact_id_if_assigned()";
    assert_eq!(value(&mut one, if_assigned).await, Ok(None));
    for (end, word) in [("COMMIT", "committed"), ("ROLLBACK", "aborted")] {
        run(&mut one, "BEGIN").await.unwrap();
        assert_eq!(value(&mut one, if_assigned).await, Ok(None));
        run(&mut one, &format!("INSERT INTO t VALUES ({})", end.len())).await.unwrap();
        let id = value(&mut one, if_assigned).await.unwrap().expect("it has written");
        assert_eq!(value(&mut one, "SELECT pg_current_xact_id()").await, Ok(Some(id.clone())));
        let asked = format!("SELECT pg_xact_status({id})");
        assert_eq!(value(&mut other, &asked).await, Ok(Some("in progress".into())));
        run(&mut one, end).await.unwrap();
        let mut said = value(&mut other, &asked).await.unwrap();
        // A rollback gives its locks back behind the answer.
        for _ in 0..10_000 {
            if said.as_deref() != Some("in progress") {
                break;
            }
            runtime::pause(Duration::from_millis(1)).await;
            said = value(&mut other, &asked).await.unwrap();
        }
        assert_eq!(said.as_deref(), Some(word), "{end}");
    }
    let id = value(&mut one, "SELECT txid_current()").await.unwrap().expect("it gets one");
    let asked = format!("SELECT txid_status('{id}')");
    assert_eq!(value(&mut other, &asked).await, Ok(Some("committed".into())));
    for beside in ["SELECT txn_status('a'), 1", "SELECT 1 WHERE pg_current_xact_id() > 0"] {
        let error = value(&mut one, beside).await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{beside}: {error}");
    }
    let error = value(&mut one, "SELECT lengthh('a')").await.unwrap_err();
    assert_eq!(error.message, "function lengthh does not exist");
    assert_eq!((error.sqlstate, error.position), (SqlState::UNDEFINED_FUNCTION, Some(8)));
    let error = value(&mut one, "SELECT pg_xact_status('x')").await.unwrap_err();
    assert_eq!(error.sqlstate, SqlState::INVALID_TEXT_REPRESENTATION);
    let text = "BEGIN; SET LOCAL quorate.commit_token = 'mine'; SELECT pg_current_xact_id()";
    let error = value(&mut one, text).await.unwrap_err();
    assert_eq!(error.sqlstate, SqlState::ACTIVE_SQL_TRANSACTION);
}

/// Several transactions, one after the other, of one session over a table.
async fn client_of_a_table() -> Session {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let mut client = session(&gateway(&node, &clock));
    run(&mut client, "CREATE TABLE t (k bigint PRIMARY KEY)").await.unwrap();
    client
}

async fn shows(session: &mut Session, name: &str) -> String {
    value(session, &format!("SHOW {name}")).await.unwrap().unwrap_or_default()
}

/// Runs a text that is refused; the block goes on or has failed as after any error.
async fn state_of(session: &mut Session, text: &str) -> SqlState {
    let error = run(session, text).await.expect_err(text);
    session.fail();
    error.sqlstate
}

#[tokio::test]
async fn and_chain_hands_on_what_held_for_the_block() {
    let mut client = client_of_a_table().await;
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE";
        run(&mut client, &format!("{begin}; SELECT k FROM t; {end}")).await.unwrap();
        assert_eq!(shows(&mut client, "transaction_isolation").await, "serializable", "{end}");
        assert_eq!(shows(&mut client, "transaction_deferrable").await, "on", "{end}");
        let insert = "INSERT INTO t VALUES (1)";
        assert_eq!(state_of(&mut client, insert).await, SqlState::READ_ONLY_SQL_TRANSACTION);
        // Out of a failed block, too.
        run(&mut client, "ROLLBACK AND CHAIN").await.unwrap();
        assert_eq!(shows(&mut client, "transaction_isolation").await, "serializable", "{end}");
        assert_eq!(shows(&mut client, "transaction_read_only").await, "on", "{end}");
        run(&mut client, "COMMIT").await.unwrap();
        assert_eq!(shows(&mut client, "transaction_isolation").await, "repeatable read", "{end}");
        assert_eq!(state_of(&mut client, end).await, SqlState::NO_ACTIVE_SQL_TRANSACTION);
    }
    let reset = "BEGIN ISOLATION LEVEL SERIALIZABLE; RESET ALL; COMMIT AND CHAIN";
    run(&mut client, reset).await.unwrap();
    assert_eq!(shows(&mut client, "transaction_isolation").await, "serializable");
    run(&mut client, "COMMIT").await.unwrap();
    let past = "BEGIN AS OF SYSTEM TIME '-1s'; COMMIT AND CHAIN";
    run(&mut client, past).await.unwrap();
    assert_eq!(shows(&mut client, "transaction_read_only").await, "on");
}

#[tokio::test]
async fn what_holds_for_a_block_is_settled_by_its_first_query() {
    let mut client = client_of_a_table().await;
    let (open, read_write) = (SqlState::ACTIVE_SQL_TRANSACTION, "SET TRANSACTION READ WRITE");
    run(&mut client, "BEGIN READ ONLY; SET TRANSACTION READ WRITE; COMMIT").await.unwrap();
    for before in ["SELECT k FROM t", "SAVEPOINT a"] {
        run(&mut client, &format!("BEGIN READ ONLY; {before}")).await.unwrap();
        assert_eq!(state_of(&mut client, read_write).await, open, "{before}");
        run(&mut client, "ROLLBACK").await.unwrap();
    }
    for lifted in [
        "RESET ALL",
        "RESET transaction_read_only; SET default_transaction_read_only = off",
        "SET default_transaction_read_only = on; RESET transaction_read_only; \
         SET default_transaction_read_only = off",
    ] {
        run(&mut client, "BEGIN READ ONLY; SELECT k FROM t").await.unwrap();
        let lifted = run(&mut client, lifted).await.err().map(|error| error.sqlstate);
        assert!(lifted.is_none_or(|state| state == open));
        let insert = state_of(&mut client, "INSERT INTO t VALUES (9)").await;
        assert_eq!(insert, SqlState::READ_ONLY_SQL_TRANSACTION);
        run(&mut client, "ROLLBACK").await.unwrap();
    }
    // What the same text did before belongs to the block, at the level it has.
    let text = "SELECT k FROM t; SET default_transaction_isolation = 'serializable'; BEGIN";
    for statement in client.split(text).unwrap() {
        let ready = client.prepare(statement, &[]).await.unwrap();
        client.run(&ready, Vec::new()).await.unwrap();
    }
    assert_eq!(shows(&mut client, "transaction_isolation").await, "repeatable read");
    run(&mut client, "ROLLBACK; RESET ALL").await.unwrap();
    let serializable = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    run(&mut client, "BEGIN; SAVEPOINT a").await.unwrap();
    assert_eq!(state_of(&mut client, serializable).await, open);
    run(&mut client, "ROLLBACK").await.unwrap();
    // The defaults are those of blocks to come.
    let defaults = "BEGIN; SET default_transaction_isolation = 'serializable'; \
                    SET default_transaction_read_only = on";
    run(&mut client, defaults).await.unwrap();
    assert_eq!(shows(&mut client, "transaction_isolation").await, "repeatable read");
    run(&mut client, "INSERT INTO t VALUES (1); COMMIT").await.unwrap();
    assert_eq!(shows(&mut client, "transaction_isolation").await, "serializable");
    assert_eq!(shows(&mut client, "transaction_read_only").await, "on");
    let insert = "INSERT INTO t VALUES (2)";
    assert_eq!(state_of(&mut client, insert).await, SqlState::READ_ONLY_SQL_TRANSACTION);
    // Outside of a block it would be of that statement alone.
    run(&mut client, "RESET ALL; SET transaction_read_only = on").await.unwrap();
    run(&mut client, insert).await.unwrap();
}

#[tokio::test]
async fn what_is_of_one_transaction_is_not_said_of_a_session() {
    let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let gateway = gateway(&node, &clock);
    for name in ["quorate.commit_token", "transaction_isolation"] {
        let settings = vec![(name.to_owned(), String::from("serializable"))];
        let hello =
            Hello { user: String::from("t"), database: gateway.database().to_owned(), settings };
        let error = Session::open(gateway.clone(), hello).err().expect(name);
        assert_eq!(error.sqlstate, SqlState::CANT_CHANGE_RUNTIME_PARAM, "{name}");
    }
}

/// A node, its time, and a gateway with a table `t` that has an index and one row.
async fn indexed() -> (Arc<TestClock>, Arc<NodeClock>, Arc<FakeNode>, Arc<Gateway>) {
    let physical = TestClock::new();
    let clock = NodeClock::new(physical.clone(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
    let clock = Arc::new(clock);
    let node = FakeNode::new(clock.clone(), Arc::new(CatalogNames::new(SAFE_POINT_LAG)));
    let gateway = gateway(&node, &clock);
    let text = "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); CREATE INDEX i ON t (v); \
                INSERT INTO t VALUES (1, 5)";
    run(&mut session(&gateway), text).await.unwrap();
    (physical, clock, node, gateway)
}

/// Changes of the schema that were acknowledged before a snapshot was taken, whenever the block
/// began: the rows of now are seen, through the indexes that are still kept.
#[tokio::test]
async fn a_block_goes_by_the_schema_that_there_is_when_it_takes_a_snapshot() {
    let (_, _, _, gateway) = indexed().await;
    let (mut reader, mut other) = (session(&gateway), session(&gateway));
    let by_index = "SELECT k FROM t WHERE v = 5";
    run(&mut reader, "BEGIN").await.unwrap();
    run(&mut other, "TRUNCATE t; INSERT INTO t VALUES (42, 5)").await.unwrap();
    assert_eq!(value(&mut reader, by_index).await, Ok(Some("42".into())));
    run(&mut reader, "COMMIT; BEGIN").await.unwrap();
    run(&mut other, "DROP INDEX i; INSERT INTO t VALUES (43, 5)").await.unwrap();
    assert_eq!(run(&mut reader, by_index).await, Ok(2));
    // At READ COMMITTED each statement takes one.
    run(&mut reader, "COMMIT; BEGIN ISOLATION LEVEL READ COMMITTED").await.unwrap();
    assert_eq!(run(&mut reader, by_index).await, Ok(2));
    run(&mut other, "TRUNCATE t; INSERT INTO t VALUES (44, 5)").await.unwrap();
    assert_eq!(value(&mut reader, by_index).await, Ok(Some("44".into())));
    // What has written goes by what it was written by, and neither reads on nor commits.
    run(&mut reader, "INSERT INTO t VALUES (45, 5)").await.unwrap();
    run(&mut other, "TRUNCATE t").await.unwrap();
    assert_eq!(state_of(&mut reader, by_index).await, SqlState::SERIALIZATION_FAILURE);
    run(&mut reader, "ROLLBACK").await.unwrap();
    assert_eq!(run(&mut reader, by_index).await, Ok(0));
    // So does what has locked: its locks are on rows of the storage that was.
    run(&mut other, "INSERT INTO t VALUES (46, 5)").await.unwrap();
    run(&mut reader, "BEGIN ISOLATION LEVEL READ COMMITTED").await.unwrap();
    assert_eq!(run(&mut reader, "SELECT k FROM t FOR SHARE").await, Ok(1));
    run(&mut other, "TRUNCATE t; INSERT INTO t VALUES (46, 6)").await.unwrap();
    let write = "UPDATE t SET v = 7 WHERE k = 46";
    assert_eq!(state_of(&mut reader, write).await, SqlState::SERIALIZATION_FAILURE);
}

/// At REPEATABLE READ the old rows are read on: they are still stored.
#[tokio::test]
async fn a_snapshot_is_read_by_the_schema_it_was_taken_with() {
    let (_, _, _, gateway) = indexed().await;
    let (mut reader, mut other) = (session(&gateway), session(&gateway));
    run(&mut reader, "BEGIN; SELECT k FROM t").await.unwrap();
    run(&mut other, "DROP INDEX i; TRUNCATE t; INSERT INTO t VALUES (42, 5)").await.unwrap();
    let by_index = "SELECT k FROM t WHERE v = 5";
    assert_eq!(value(&mut reader, by_index).await, Ok(Some("1".into())));
}

/// A gateway that nobody has told of a change for longer than its copy is good finds out by itself
/// before it reads, and without that does not read.
#[tokio::test]
async fn a_gateway_that_was_not_told_of_a_change_does_not_read_by_what_it_knew() {
    let (physical, clock, node, cut_off) = indexed().await;
    let mut reader = session(&cut_off);
    let mut other = session(&self::gateway(&node, &clock));
    let by_index = "SELECT k FROM t WHERE v = 5";
    assert_eq!(value(&mut reader, by_index).await, Ok(Some("1".into())));
    run(&mut other, "TRUNCATE t; INSERT INTO t VALUES (42, 5)").await.unwrap();
    physical.advance(CATALOG_LEASE + Duration::from_secs(1));
    let catalog = catalog_span();
    node.set_fault(Some(Box::new(move |body| match body {
        Body::Scan(scan) if catalog.start <= scan.start && scan.start < catalog.end => {
            // Whoever waits for it gives up.
            physical.advance(Duration::from_secs(60));
            FaultKind::LoseRequest
        }
        _ => FaultKind::Pass,
    })));
    assert_eq!(state_of(&mut reader, by_index).await, SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(value(&mut reader, "SELECT 7").await, Ok(Some("7".into())), "no table is read");
    node.set_fault(None);
    // The first attempt was planned by what it knew; the connection begins it once more.
    assert_eq!(state_of(&mut reader, by_index).await, SqlState::SERIALIZATION_FAILURE);
    assert_eq!(value(&mut reader, by_index).await, Ok(Some("42".into())));
}

/// What the same text did before belongs to the block, which hears of a duplicate at once as any.
#[tokio::test]
async fn a_block_that_begins_behind_another_statement_is_told_of_a_duplicate_at_once() {
    let mut client = client_of_a_table().await;
    run(&mut client, "INSERT INTO t VALUES (1)").await.unwrap();
    for statement in client.split("SELECT k FROM t; BEGIN").unwrap() {
        let ready = client.prepare(statement, &[]).await.unwrap();
        client.run(&ready, Vec::new()).await.unwrap();
    }
    let insert = "INSERT INTO t VALUES (1)";
    assert_eq!(state_of(&mut client, insert).await, SqlState::UNIQUE_VIOLATION);
}
