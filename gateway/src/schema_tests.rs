//! Schema changes beside running transactions: who is asked, who is waited for, who is fenced off,
//! and what becomes of an index that nobody builds any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_planner::catalog::{DdlOp, IndexState, KeyDescription, catalog_span};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{KvTxn, ScanProgram, WriteOp};
use quorate_planner::parse::StatementKind;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_request::Body;
use quorate_proto::{NodeId, Timestamp, TxnId, pb};
use quorate_txn::clock::NodeClock;
use quorate_txn::config::{MAX_CLOCK_OFFSET, SAFE_POINT_LAG};

use crate::Gateway;
use crate::abandoned::Orphans;
use crate::catalog::{CATALOG_LEASE, read};
use crate::dist::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing};
use crate::dist::{History, SqlSide, Txn};
use crate::runtime;
use crate::testing::{Book, FakeNode, FaultKind, TestClock};

struct NoSql;

impl SqlSide for NoSql {
    fn describe(&self, _: &[u8]) -> Option<KeyDescription> {
        None
    }

    fn history(&self, _: &[u8]) -> Option<History> {
        None
    }

    fn had_storage(&self, _: &[u8], _: Option<&[u8]>) -> Result<bool, SqlError> {
        Ok(true)
    }

    fn run_program(
        &self,
        program: &ScanProgram,
        rows: &[(Bytes, Bytes)],
    ) -> Result<(Bytes, bool), SqlError> {
        crate::sql_side::run_bytes(program.bytes(), rows)
    }
}

struct Cluster {
    physical: Arc<TestClock>,
    nodes: BTreeMap<u64, Arc<FakeNode>>,
    gateway: Arc<Gateway>,
}

/// The first node leads everything; the gateway's address book knows some of them.
fn cluster(count: u64, known: &[u64]) -> Cluster {
    let physical = TestClock::new();
    let clock = Arc::new(NodeClock::new(physical.clone(), Timestamp::ZERO, MAX_CLOCK_OFFSET));
    let node = |id| (id, FakeNode::new(clock.clone(), Arc::new(NoSql)));
    let nodes: BTreeMap<u64, Arc<FakeNode>> = (1..=count).map(node).collect();
    *nodes[&1].registered.lock() = (1..=count).collect();
    let book = Book {
        nodes: nodes.iter().map(|(id, node)| (NodeId(*id), node.clone())).collect(),
        known: Mutex::new(known.iter().map(|id| NodeId(*id)).collect()),
    };
    let gateway = Gateway::new(Arc::new(book), clock.clone(), Bytes::new(), SAFE_POINT_LAG);
    Cluster { physical, nodes, gateway }
}

fn ddl(sql: &str) -> DdlOp {
    let statement = quorate_planner::parse::parse(sql).unwrap().remove(0);
    match statement.kind {
        StatementKind::Ddl(op) => op,
        other => panic!("{other:?}"),
    }
}

impl Cluster {
    /// Writes a change of the catalog as a gateway does that dies right after it.
    async fn change_and_die(&self, op: &DdlOp) {
        let dist = self.gateway.dist();
        let txn = Txn::begin(dist.clone(), true);
        let catalog = read(&txn).await.unwrap();
        let mut next = 900;
        let mut ids = || {
            next += 1;
            next
        };
        let change = op.apply(&catalog, &mut ids, Timestamp(1));
        for write in change.unwrap().writes {
            txn.write(write).unwrap();
        }
        dist.clone().commit(txn.intent().unwrap()).await.unwrap();
    }

    fn writer(&self, key: &'static str) -> Txn {
        let txn = Txn::begin(self.gateway.dist().clone(), true);
        txn.write(WriteOp::put([b"\x03", key.as_bytes()].concat(), "1")).unwrap();
        txn
    }

    fn building(&self) -> usize {
        let catalog = self.gateway.catalog().current();
        let indexes = catalog.tables().flat_map(|table| table.indexes.clone());
        indexes.filter(|index| index.state == IndexState::Building).count()
    }
}

/// The barrier asks every node that the meta range has registered, also one the gateway's own
/// address book does not hold yet.
#[tokio::test]
async fn a_node_that_has_just_joined_is_asked_too() {
    let cluster = cluster(2, &[1]);
    cluster.gateway.change_schema(ddl("create table t (a int)")).await.unwrap();
    assert_eq!(*cluster.nodes[&2].barriers.lock(), [1]);
}

/// A commit that began by an older catalog may still lie in a log when its gateway cannot be
/// asked: the ranges refuse it once the barrier is over (P6), and nothing that began later.
#[tokio::test]
async fn a_gateway_that_does_not_answer_is_fenced_off() {
    let cluster = cluster(2, &[1, 2]);
    cluster.nodes[&1].split(b"\x03m");
    cluster.nodes[&2].answers_barriers.store(false, Ordering::SeqCst);
    let start = cluster.gateway.dist().clock().now();
    cluster.gateway.change_schema(ddl("create table t (a int)")).await.unwrap();
    for key in ["a", "z"] {
        let key = Bytes::from([b"\x03", key.as_bytes()].concat());
        let commit = pb::CommitRequest {
            txn: Some(pb::TxnMeta {
                txn_id: TxnId(77).to_bytes(),
                anchor: key.clone(),
                commit_start: start.0,
            }),
            writes: vec![pb::Write { key: key.clone(), read_at: start.0, ..Default::default() }],
            checks: Vec::new(),
            lock_owner: Bytes::new(),
            who: None,
        };
        let request = Outgoing { key, body: Body::Commit(commit) };
        let answer = cluster.gateway.dist().sender().settle(request, ATTEMPT_TIMEOUT).await;
        let Err(Failure::Range(error)) = answer else { panic!("{answer:?}") };
        assert!(matches!(error.kind, Some(Kind::TooOld(_))), "{error:?}");
    }
    cluster.gateway.catalog().refresh().await.unwrap();
    let pin = cluster.gateway.catalog().pin();
    cluster.gateway.commit(&cluster.writer("a"), &pin).await.unwrap();
}

/// What storage a table had can be told for as long as its rows are kept.
#[tokio::test]
async fn the_catalog_is_kept_for_as_long_as_any_table() {
    let cluster = cluster(1, &[1]);
    let windows = async || {
        cluster.gateway.catalog().refresh().await.unwrap();
        cluster.gateway.catalog().gc_windows().unwrap()
    };
    cluster.gateway.change_schema(ddl("create table t (a int)")).await.unwrap();
    assert!(windows().await.is_empty(), "it has the cluster's window");
    for (name, window) in [("u", "2 hours"), ("v", "1 hour")] {
        let table = format!("create table {name} (a int) with (gc_window = '{window}')");
        cluster.gateway.change_schema(ddl(&table)).await.unwrap();
    }
    let windows = windows().await;
    assert_eq!(windows.len(), 3);
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert!(windows.contains(&(catalog_span(), hours(2))), "{windows:?}");
    assert!(windows.iter().any(|(_, window)| *window == hours(1)), "{windows:?}");
}

const NOT_YET: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);

/// P6: after `40003` a copy of the commit may still be admitted, so the barrier waits until the
/// anchor has said how it ended.
#[tokio::test]
async fn a_commit_that_ended_unknown_holds_off_a_schema_change_until_it_is_settled() {
    let cluster = cluster(1, &[1]);
    let store = cluster.gateway.catalog();
    store.refresh().await.unwrap();
    let pin = store.pin();
    let txn = cluster.writer("a");
    cluster.nodes[&1].set_fault(Some(Box::new(|body| match body {
        Body::Read(_) | Body::Scan(_) => FaultKind::Pass,
        _ => FaultKind::LoseRequest,
    })));
    let error = cluster.gateway.commit(&txn, &pin).await.unwrap_err();
    assert_eq!(error.sqlstate, SqlState::STATEMENT_COMPLETION_UNKNOWN);
    drop(pin);
    assert!(runtime::within(NOT_YET, store.barrier(1)).await.is_none(), "a copy may come");
    cluster.nodes[&1].set_fault(None);
    runtime::within(SOON, store.barrier(1)).await.expect("it is settled").unwrap();
}

/// The same when the client has gone in the middle of the commit.
#[tokio::test]
async fn a_commit_that_nobody_waits_for_holds_off_a_schema_change() {
    let cluster = cluster(1, &[1]);
    let store = cluster.gateway.catalog();
    store.refresh().await.unwrap();
    let pin = store.pin();
    let txn = cluster.writer("a");
    cluster.nodes[&1].hold_answers(Box::new(|body| matches!(body, Body::Commit(_))));
    let commit = cluster.gateway.commit(&txn, &pin);
    assert!(runtime::within(Duration::from_millis(200), commit).await.is_none());
    assert!(cluster.nodes[&1].log.lock().contains(&"commit"));
    drop(pin);
    assert!(runtime::within(NOT_YET, store.barrier(1)).await.is_none(), "it is under way");
    cluster.nodes[&1].release();
    runtime::within(SOON, store.barrier(1)).await.expect("it has ended").unwrap();
}

/// A gateway that no barrier reaches may read the newest catalog all the same: that must not
/// prolong what its older transactions may do.
#[tokio::test]
async fn a_newer_catalog_does_not_prolong_the_right_of_an_older_pin() {
    let cluster = cluster(1, &[1]);
    let store = cluster.gateway.catalog();
    store.refresh().await.unwrap();
    let pin = store.pin();
    cluster.change_and_die(&ddl("create table t (a int)")).await;
    pin.begin_commit().unwrap();
    store.refresh().await.unwrap();
    assert_eq!(store.current().version(), 1);
    cluster.physical.advance(CATALOG_LEASE + Duration::from_secs(1));
    store.refresh().await.unwrap();
    let error = pin.begin_commit().unwrap_err();
    assert_eq!(error.sqlstate, SqlState::SERIALIZATION_FAILURE);
    store.pin().begin_commit().unwrap();
}

/// An index whose builder is gone keeps writers away for ever, unless somebody takes it back.
#[tokio::test]
async fn an_index_that_nobody_builds_is_taken_back() {
    let cluster = cluster(2, &[1, 2]);
    let gateway = &cluster.gateway;
    gateway.change_schema(ddl("create table t (a int)")).await.unwrap();
    let table = gateway.catalog().current().table("t").unwrap().id;
    cluster.change_and_die(&ddl("create index on t (a)")).await;
    gateway.catalog().refresh().await.unwrap();
    let mut orphans = Orphans::new();
    gateway.look_for_abandoned(&mut orphans).await;
    assert_eq!(cluster.building(), 1, "its builder may not have said so yet");
    let minute = Duration::from_secs(60);
    // While somebody builds, here or elsewhere, it stays.
    let here = gateway.begin_build(table);
    cluster.physical.advance(minute);
    gateway.look_for_abandoned(&mut orphans).await;
    drop(here);
    cluster.nodes[&2].building.lock().push(table.0);
    cluster.physical.advance(minute);
    gateway.look_for_abandoned(&mut orphans).await;
    assert_eq!(cluster.building(), 1, "it is being built");
    cluster.nodes[&2].building.lock().clear();
    cluster.physical.advance(minute);
    gateway.look_for_abandoned(&mut orphans).await;
    assert_eq!(cluster.building(), 0);
    gateway.change_schema(ddl("create index on t (a)")).await.unwrap();
    assert_eq!(cluster.building(), 0, "it is public");
    assert!(gateway.building().is_empty());
}
