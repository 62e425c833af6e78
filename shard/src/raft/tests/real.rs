//! The driver as a node runs it: threads, RocksDB, raft-engine, tonic on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::pb::node_server::{Node, NodeServer};
use quorate_proto::{NodeId, PeerId, RangeId, Timestamp, pb};
use quorate_txn::clock::{NodeClock, PhysicalClock};
use quorate_txn::config::MAX_CLOCK_OFFSET;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::harness::{Book, Factory, RANGE, descriptor};
use crate::engine::rocks::{RocksConfig, RocksEngine};
use crate::engine::{Cf, Engine};
use crate::log::store::{LogConfig, RaftEngineLog};
use crate::raft::*;
use crate::transport::Resolver;
use crate::transport::remote::{RemoteTransport, serve_raft, serve_snapshot};

#[derive(Debug)]
struct SystemClock(Instant);

impl PhysicalClock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_duration(since)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

#[derive(Default)]
struct Addresses(Mutex<Vec<(NodeId, String)>>);

impl Resolver for Addresses {
    fn rpc_addr(&self, node: NodeId) -> Option<String> {
        self.0.lock().iter().find(|(id, _)| *id == node).map(|(_, addr)| addr.clone())
    }
}

struct Server(RaftHandle);

#[tonic::async_trait]
impl Node for Server {
    type CallsStream = tokio_stream::Empty<Result<pb::ReplyFrame, Status>>;

    async fn calls(
        &self,
        _: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn raft(
        &self,
        frames: Request<Streaming<pb::RaftFrame>>,
    ) -> Result<Response<pb::RaftEnd>, Status> {
        serve_raft(&self.0, frames.into_inner()).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        chunks: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotEnd>, Status> {
        serve_snapshot(&self.0, chunks.into_inner()).await.map(Response::new)
    }
}

struct RealNode {
    running: Running,
    engine: Arc<RocksEngine>,
    book: Book,
    clock: Arc<NodeClock>,
}

async fn start(id: u64, dir: &std::path::Path, addresses: &Arc<Addresses>) -> RealNode {
    let dir = dir.join(format!("n{id}"));
    std::fs::create_dir_all(&dir).unwrap();
    let engine = Arc::new(RocksEngine::open(&dir.join("rows"), RocksConfig::default()).unwrap());
    let config = LogConfig { prefill_bytes: 0, ..LogConfig::default() };
    let log = Arc::new(RaftEngineLog::open(&dir.join("log"), config).unwrap());
    let physical = Arc::new(SystemClock(Instant::now()));
    let clock = Arc::new(NodeClock::new(physical, Timestamp::ZERO, MAX_CLOCK_OFFSET));
    let book = Book::default();
    let runtime = tokio::runtime::Handle::current();
    let deps = RaftDeps {
        engine: engine.clone(),
        log,
        clock: clock.clone(),
        transport: RemoteTransport::new(runtime.clone(), addresses.clone()),
        factory: Arc::new(Factory { book: book.clone(), fatal: Arc::default() }),
        background: Arc::new(ThreadBackground),
    };
    let config = RaftConfig {
        node: NodeId(id),
        cluster_id: Bytes::from_static(b"0123456789abcdef"),
        workers: 2,
        seed: id,
        snapshot_dir: dir.join("snapshots"),
    };
    let driver = Driver::open(config, deps).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    addresses.0.lock().push((NodeId(id), addr));
    let server = NodeServer::new(Server(driver.handle()));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(server)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    RealNode { running: driver.run_on_threads(&runtime).unwrap(), engine, book, clock }
}

/// Polls, for at most 30 s.
async fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    for _ in 0..30_000 {
        if let Some(found) = check() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited 30 s in vain until {what}");
}

/// A learner that has its rows may not have answered yet, and one that never did must not vote:
/// until then the leader says *not now*. Anything else it says is a failure.
async fn promote(handle: &RaftHandle, peer: PeerId) {
    let began = tokio::time::Instant::now();
    loop {
        match handle.change_replicas(RANGE, ReplicaChange::Promote { peer }).await {
            Ok(_) => return,
            Err(ChangeError::NotNow(why)) => {
                assert!(began.elapsed() < Duration::from_secs(30), "never promoted: {why}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(other) => panic!("not promoted: {other}"),
        }
    }
}

fn value(node: &RealNode, key: &str) -> Option<Bytes> {
    node.engine.snapshot().get(Cf::Latest, key.as_bytes()).unwrap()
}

async fn write(nodes: &[RealNode], leader: usize, token: u64, data: String) -> Duration {
    let handle = nodes[leader].running.handle();
    let term = handle.lease(RANGE).unwrap().term;
    let began = Instant::now();
    handle.propose(RANGE, term, token, data.into_bytes()).unwrap();
    let book = nodes[leader].book.clone();
    let visible = move |range: RangeId| {
        let book = book.lock();
        let seen = book.get(&range)?;
        let (index, _) = seen.proposed.get(&token)?;
        (seen.visible >= *index).then_some(())
    };
    while visible(RANGE).is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "not applied");
        tokio::task::yield_now().await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_real_nodes_replicate_over_tonic_and_a_fourth_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = Arc::new(Addresses::default());
    let mut nodes = Vec::new();
    for id in 1..=4 {
        nodes.push(start(id, dir.path(), &addresses).await);
    }
    for node in &nodes[..3] {
        let descriptor = Some(descriptor(RANGE, &[1, 2, 3]));
        let state = pb::RangeState { descriptor, ..Default::default() };
        node.running.handle().create_group(state).await.unwrap();
    }
    let leader = until("somebody takes proposals", || {
        nodes[..3].iter().position(|node| {
            let lease = node.running.handle().lease(RANGE);
            lease.is_some_and(|lease| {
                lease.valid_at(node.clock.monotonic())
                    && node.clock.physical() > lease.propose_after
            })
        })
    })
    .await;
    let mut took = Vec::new();
    for i in 0..200 {
        took.push(write(&nodes, leader, i, format!("k{i:03}={}", "v".repeat(100))).await);
    }
    took.sort_unstable();
    println!("commit latency: median {:?}, 95 % {:?}", took[100], took[190]);
    for node in &nodes[..3] {
        until("all rows are there", || value(node, "k199")).await;
    }
    let handle = nodes[leader].running.handle();
    let change = ReplicaChange::AddLearner { node: NodeId(4), peer: PeerId(204) };
    handle.change_replicas(RANGE, change).await.unwrap();
    until("the snapshot brings the rows", || value(&nodes[3], "k199")).await;
    promote(&handle, PeerId(204)).await;
    assert_eq!(handle.status(RANGE).await.unwrap().progress.len(), 4);
    for (name, count) in handle.metrics().snapshot() {
        println!("{name} {count}");
    }
    tokio::task::spawn_blocking(move || nodes.into_iter().for_each(|node| node.running.stop()))
        .await
        .unwrap();
}
