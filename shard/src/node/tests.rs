//! Whole nodes in one process: clusters on the in-memory twins, and one on real files and sockets.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_request::Body as Ask;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::pb::{node_request, node_response, prepare_response, txn_status};
use quorate_proto::{NodeId, NodeService, RangeId, Timestamp, TxnId, pb};
use tempfile::TempDir;

use super::config::NodeConfig;
use super::{LocalNetwork, MemoryDisk, Network, Node, Start, Storage, SystemClock};
use crate::range::{FIRST_DB_RANGE, META_RANGE, NoPrograms};
use clocks::ShiftedClock;

mod clocks;
mod draining;
mod floors;
mod followers;
mod row_locks;

const LIMIT: Duration = Duration::from_secs(60);

/// Polls until the condition holds.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let ends = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < ends, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Cluster {
    network: Option<Arc<LocalNetwork>>,
    disks: Vec<MemoryDisk>,
    clocks: Vec<Arc<ShiftedClock>>,
    nodes: Vec<Option<Arc<Node>>>,
    next_txn: AtomicU64,
    dir: TempDir,
}

impl Cluster {
    /// In memory, and no node is open yet.
    fn empty(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let disks = (0..count).map(|i| MemoryDisk::new(dir.path().join(format!("n{i}"))));
        Self {
            network: Some(LocalNetwork::new()),
            disks: disks.collect(),
            clocks: (0..count).map(|_| Arc::default()).collect(),
            nodes: vec![None; count],
            next_txn: AtomicU64::new(1),
            dir,
        }
    }

    /// Bootstraps the first node, joins the others, waits for three replicas.
    async fn start(count: usize) -> Self {
        let mut cluster = Self::empty(count);
        for i in 0..count {
            let start = match i {
                0 => Start::Bootstrap,
                _ => Start::Join(Vec::new()),
            };
            cluster.open(i, start).await;
        }
        cluster.wait_for_replicas(count.min(3)).await;
        cluster
    }

    fn config(&self, i: usize, start: Start) -> NodeConfig {
        let network = self.network.clone().expect("in process");
        let mut config = NodeConfig::new(
            Storage::Memory(self.disks[i].clone()),
            start,
            format!("n{i}"),
            self.clocks[i].clone(),
            Arc::new(NoPrograms),
        );
        config.network = Network::InProcess(network);
        config.seed = Some(7 + i as u64);
        config
    }

    async fn open(&mut self, i: usize, start: Start) {
        let config = self.config(i, start);
        self.nodes[i] = Some(Node::open(config).await.expect("it opens"));
    }

    fn live(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().flatten()
    }

    fn any(&self) -> &Arc<Node> {
        self.live().next().expect("one is left")
    }

    async fn wait_for_replicas(&self, count: usize) {
        until("replicas everywhere", || async {
            for range in [META_RANGE, FIRST_DB_RANGE] {
                let leader = self.leader_of(range)?;
                let replicas = leader.ranges().replica(range)?.descriptor().replicas;
                let voters = replicas.iter().filter(|r| r.role() == pb::ReplicaRole::Voter);
                if voters.count() != count {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    fn leader_of(&self, range: RangeId) -> Option<Arc<Node>> {
        let leads = |node: &&Arc<Node>| {
            node.ranges().replica(range).is_some_and(|replica| replica.serves())
        };
        self.live().find(leads).cloned()
    }

    /// The leader, as soon as there is one: on a machine that is busy a lease may run out.
    async fn serving(&self, range: RangeId) -> Arc<Node> {
        until("a leader serves", || async { self.leader_of(range) }).await
    }

    async fn call(&self, node: &Node, call: pb::Call) -> pb::Reply {
        let service = self.any().connector().node(node.id()).expect("its address is known");
        service.call(call).await.expect("it answers")
    }

    fn make_call(&self, requests: Vec<pb::RangeRequest>) -> pb::Call {
        pb::Call {
            clock: self.any().clock().now().0,
            cluster_id: self.any().cluster_id(),
            timeout_ms: 5000,
            requests,
            ..pb::Call::default()
        }
    }

    /// The range of a key and its leader, as the meta range tells.
    async fn locate(&self, key: &[u8]) -> Option<(pb::RangeDescriptor, NodeId)> {
        let end = quorate_txn::keys::next_key(key);
        let request = pb::LocateRequest { start: Bytes::copy_from_slice(key), end, limit: 1 };
        let mut call = self.make_call(Vec::new());
        call.node = Some(pb::NodeRequest { body: Some(node_request::Body::Locate(request)) });
        let node = self.any().clone();
        match self.call(&node, call).await.node?.body? {
            node_response::Body::Locate(found) => {
                let route = found.routes.into_iter().next()?;
                Some((route.descriptor?, NodeId(route.leader_node_id)))
            }
            _ => None,
        }
    }

    /// Routes by the meta range and retries what passes by itself, as a gateway does.
    async fn send(&self, key: &[u8], body: Ask) -> Result<Answer, pb::RangeError> {
        until("an answer", || async {
            let (descriptor, leader) = self.locate(key).await?;
            let node = self.live().find(|node| node.id() == leader)?.clone();
            let request = pb::RangeRequest {
                range: Some(pb::RangeRef {
                    range_id: descriptor.range_id,
                    epoch: descriptor.epoch,
                }),
                body: Some(body.clone()),
            };
            let reply = self.call(&node, self.make_call(vec![request])).await;
            let answer = reply.responses.into_iter().next()?.body?;
            match answer {
                Answer::Error(error) => match error.kind {
                    Some(
                        Kind::NotLeader(_)
                        | Kind::StaleRoute(_)
                        | Kind::Unavailable(_)
                        | Kind::Unknown(_),
                    ) => None,
                    _ => Some(Err(error)),
                },
                answer => Some(Ok(answer)),
            }
        })
        .await
    }

    fn txn(&self, anchor: &[u8]) -> pb::TxnMeta {
        let id = self.next_txn.fetch_add(1, Ordering::Relaxed);
        pb::TxnMeta {
            txn_id: TxnId(u128::from(id)).to_bytes(),
            anchor: Bytes::copy_from_slice(anchor),
            commit_start: self.any().clock().now().0,
        }
    }

    async fn commit(&self, key: &[u8], value: &[u8]) -> Result<Timestamp, pb::RangeError> {
        let request = pb::CommitRequest {
            txn: Some(self.txn(key)),
            writes: vec![self.put(key, value)],
            checks: Vec::new(),
            lock_owner: Bytes::new(),
            who: None,
        };
        match self.send(key, Ask::Commit(request)).await? {
            Answer::Commit(answer) => {
                Ok(Timestamp(answer.verdict.expect("a commit has a verdict").committed_ts))
            }
            other => panic!("a commit answered {other:?}"),
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> pb::Write {
        pb::Write {
            key: Bytes::copy_from_slice(key),
            delete: false,
            value: Bytes::copy_from_slice(value),
            read_at: self.any().clock().now().0,
            must_be_absent: false,
        }
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Bytes>, pb::RangeError> {
        let request = pb::ReadRequest {
            txn_id: Bytes::new(),
            read_ts: self.any().clock().now().0,
            uncertain_upto: 0,
            keys: vec![Bytes::copy_from_slice(key)],
            ..pb::ReadRequest::default()
        };
        match self.send(key, Ask::Read(request)).await? {
            Answer::Read(answer) => {
                let value = answer.values.into_iter().next().expect("one for each key");
                Ok(value.present.then_some(value.value))
            }
            other => panic!("a read answered {other:?}"),
        }
    }

    async fn split(&self, key: &[u8]) -> (pb::RangeDescriptor, pb::RangeDescriptor) {
        let request = Ask::Split(pb::SplitRequest { key: Bytes::copy_from_slice(key) });
        match self.send(key, request).await {
            Ok(Answer::Split(answer)) => (answer.left.expect("left"), answer.right.expect("right")),
            other => panic!("a split answered {other:?}"),
        }
    }

    async fn kill(&mut self, i: usize) {
        if let Some(node) = self.nodes[i].take() {
            node.kill().await;
        }
        self.disks[i].crash();
    }

    fn index_of(&self, node: &Node) -> usize {
        let place = |n: &Option<Arc<Node>>| n.as_ref().is_some_and(|n| n.id() == node.id());
        self.nodes.iter().position(place).expect("it is one of them")
    }

    async fn stop(self) {
        for node in self.nodes.iter().flatten() {
            node.shutdown().await;
        }
        drop(self.dir);
    }
}

fn key(name: &str) -> Vec<u8> {
    [b"\x03", name.as_bytes()].concat()
}

/// A new cluster: join, up-replication, one-range commits and reads; another node answers with
/// the leader, an old epoch with the descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_replicate_and_errors_carry_the_cure() {
    let cluster = Cluster::start(3).await;
    cluster.commit(&key("a"), b"1").await.expect("committed");
    assert_eq!(cluster.read(&key("a")).await, Ok(Some(Bytes::from_static(b"1"))));
    assert_eq!(cluster.read(&key("b")).await, Ok(None));
    let (descriptor, leader) = cluster.locate(&key("a")).await.expect("known");
    let read = |epoch| pb::RangeRequest {
        range: Some(pb::RangeRef { range_id: descriptor.range_id, epoch }),
        body: Some(Ask::Read(pb::ReadRequest {
            keys: vec![key("a").into()],
            read_ts: cluster.any().clock().now().0,
            ..pb::ReadRequest::default()
        })),
    };
    let other = cluster.live().find(|node| node.id() != leader).expect("three nodes").clone();
    let reply = cluster.call(&other, cluster.make_call(vec![read(descriptor.epoch)])).await;
    let Some(Answer::Error(error)) = reply.responses[0].body.clone() else { panic!("{reply:?}") };
    let Some(Kind::NotLeader(cure)) = error.kind else { panic!("{error:?}") };
    assert_eq!(cure.leader_node_id, leader.0);
    cluster.split(&key("m")).await;
    let leader = cluster.serving(RangeId(descriptor.range_id)).await;
    let reply = cluster.call(&leader, cluster.make_call(vec![read(descriptor.epoch)])).await;
    let Some(Answer::Error(error)) = reply.responses[0].body.clone() else { panic!("{reply:?}") };
    let Some(Kind::StaleRoute(cure)) = error.kind else { panic!("{error:?}") };
    assert_eq!(cure.descriptors[0].end, key("m"));
    let mut call = cluster.make_call(vec![read(descriptor.epoch)]);
    call.cluster_id = Bytes::from_static(&[9; 16]);
    let refused = cluster.call(&leader, call).await.error.and_then(|error| error.kind);
    assert!(matches!(refused, Some(Kind::WrongCluster(_))), "{refused:?}");
    let mut call = cluster.make_call(Vec::new());
    call.clock = Timestamp(call.clock).bound_after(Duration::from_secs(5)).0;
    let refused = cluster.call(&leader, call).await.error.and_then(|error| error.kind);
    assert!(matches!(refused, Some(Kind::ClockSkew(_))), "T3: {refused:?}");
    cluster.stop().await;
}

/// P7: a one-range commit that is sent again answers its own verdict. P10: several prepares in
/// one call; then verdict, resolve and the values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranges_commit_by_prepare_verdict_and_resolve() {
    let cluster = Cluster::start(3).await;
    cluster.split(&key("m")).await;
    let (a, z) = (key("a"), key("z"));
    let request = pb::CommitRequest {
        txn: Some(cluster.txn(&a)),
        writes: vec![cluster.put(&a, b"0")],
        checks: Vec::new(),
        lock_owner: Bytes::new(),
        who: None,
    };
    let first = cluster.send(&a, Ask::Commit(request.clone())).await.expect("committed");
    assert_eq!(cluster.send(&a, Ask::Commit(request)).await, Ok(first), "P7");
    let txn = cluster.txn(&a);
    let keys: Vec<Bytes> = vec![a.clone().into(), z.clone().into()];
    let mut commit_ts = 0;
    for (key, record) in [(&a, pb::RecordKind::Staging), (&z, pb::RecordKind::NoRecord)] {
        let anchor = record == pb::RecordKind::Staging;
        let request = pb::PrepareRequest {
            txn: Some(txn.clone()),
            writes: vec![cluster.put(key, b"1")],
            record: record as i32,
            keys: if anchor { keys.clone() } else { Vec::new() },
            lock_owner: Bytes::new(),
            who: None,
        };
        match cluster.send(key, Ask::Prepare(request)).await.expect("prepared") {
            Answer::Prepare(pb::PrepareResponse {
                outcome: Some(prepare_response::Outcome::MinCommitTs(ts)),
            }) => commit_ts = ts.max(commit_ts),
            other => panic!("a prepare answered {other:?}"),
        }
    }
    // A reader meets the lock and is told whose.
    let met = cluster.read(&z).await.expect_err("locked");
    assert!(matches!(met.kind, Some(Kind::Locked(_))), "{met:?}");
    let verdict = Some(pb::Verdict { committed_ts: commit_ts });
    let request = pb::VerdictRequest { txn: Some(txn.clone()), verdict, resolve: Vec::new() };
    cluster.send(&a, Ask::Verdict(request)).await.expect("decided");
    let lookup = pb::LookupRequest { txn: Some(txn.clone()), wait_ms: 0 };
    let Ok(Answer::Lookup(found)) = cluster.send(&a, Ask::Lookup(lookup)).await else {
        panic!("a look-up answers")
    };
    let state = found.status.and_then(|status| status.state);
    assert_eq!(state, verdict.map(txn_status::State::Verdict));
    for key in [&a, &z] {
        let request = pb::ResolveRequest {
            txn_id: txn.txn_id.clone(),
            keys: vec![key.clone().into()],
            verdict,
        };
        cluster.send(key, Ask::Resolve(request)).await.expect("resolved");
        assert_eq!(cluster.read(key).await, Ok(Some(Bytes::from_static(b"1"))));
    }
    cluster.stop().await;
}

/// P11: a coordinator that is never heard of again expires; P3: its anchor is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_coordinator_expires_and_its_anchor_is_closed() {
    let cluster = Cluster::start(1).await;
    let anchor = key("a");
    let txn = cluster.txn(&anchor);
    let prepare = pb::PrepareRequest {
        txn: Some(txn.clone()),
        writes: vec![cluster.put(&anchor, b"1")],
        record: pb::RecordKind::Preparing as i32,
        keys: vec![anchor.clone().into()],
        lock_owner: Bytes::new(),
        who: None,
    };
    cluster.send(&anchor, Ask::Prepare(prepare.clone())).await.expect("prepared");
    let lookup = pb::LookupRequest { txn: Some(txn.clone()), wait_ms: 4000 };
    let Ok(Answer::Lookup(found)) = cluster.send(&anchor, Ask::Lookup(lookup)).await else {
        panic!("a look-up answers")
    };
    assert!(found.expired, "{found:?}");
    let verdict = Some(pb::Verdict { committed_ts: 0 });
    let request = pb::VerdictRequest { txn: Some(txn), verdict, resolve: Vec::new() };
    cluster.send(&anchor, Ask::Verdict(request)).await.expect("aborted");
    let late = cluster.send(&anchor, Ask::Prepare(prepare)).await.expect("decided");
    let Answer::Prepare(late) = late else { panic!("{late:?}") };
    assert_eq!(late.outcome, verdict.map(prepare_response::Outcome::Verdict), "P2");
    cluster.stop().await;
}

/// Splits while writers and readers go on: nothing acknowledged is lost, nobody sees an error
/// that its retries do not cure, and the meta range tells both halves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_under_writes_loses_nothing() {
    let cluster = Arc::new(Cluster::start(3).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (cluster, stop) = (cluster.clone(), stop.clone());
        writers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = key(&format!("{}{writer}{n:04}", char::from(b'a' + (n % 26) as u8)));
                cluster.commit(&key, b"x").await.expect("nobody else writes it");
                acknowledged.push(key);
            }
            acknowledged
        }));
    }
    for at in ["h", "p", "d"] {
        let (left, right) = cluster.split(&key(at)).await;
        assert_eq!((&left.end, &right.start), (&key(at).into(), &key(at).into()));
        assert_eq!(left.epoch, right.epoch);
    }
    let halves = ["a", "d", "h", "p"];
    for (i, start) in halves.iter().enumerate() {
        let wanted = halves.get(i + 1).map(|end| Bytes::from(key(end))).unwrap_or_default();
        until("the meta range to know the halves", || async {
            let (descriptor, _) = cluster.locate(&key(start)).await?;
            (descriptor.end == wanted).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        for key in writer.await.expect("no panic") {
            assert_eq!(cluster.read(&key).await, Ok(Some(Bytes::from_static(b"x"))));
        }
    }
    Arc::into_inner(cluster).expect("the writers are done").stop().await;
}

/// The leader dies; the others elect, wait the lease out, and have everything. It comes back with
/// an engine from before the others were added, and must not elect itself alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.commit(&key("a"), b"1").await.expect("committed");
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let i = cluster.index_of(&leader);
    drop(leader);
    cluster.kill(i).await;
    assert_eq!(cluster.read(&key("a")).await, Ok(Some(Bytes::from_static(b"1"))));
    cluster.commit(&key("a"), b"2").await.expect("two of three");
    cluster.open(i, Start::Restart).await;
    let back = cluster.nodes[i].clone().expect("open");
    let state = |node: &Arc<Node>| node.ranges().replica(FIRST_DB_RANGE).map(|r| r.state());
    until("the restarted replica to catch up", || async {
        let leader = cluster.leader_of(FIRST_DB_RANGE)?;
        (state(&back)?.applied_index >= state(&leader)?.applied_index).then_some(())
    })
    .await;
    assert_eq!(cluster.read(&key("a")).await, Ok(Some(Bytes::from_static(b"2"))));
    cluster.stop().await;
}

/// Power fails everywhere: what was acknowledged is there, ids are not given out twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_cluster_restarts_with_everything_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.commit(&key(&format!("k{n}")), b"v").await.expect("committed");
    }
    let (_, right) = cluster.split(&key("k5")).await;
    let before = cluster.any().clock().last();
    for i in 0..3 {
        cluster.kill(i).await;
    }
    let (one, two, three) = (0, 1, 2);
    for i in [one, two, three] {
        cluster.open(i, Start::Restart).await;
    }
    assert!(cluster.any().clock().now() > before, "T3");
    for n in 0..20 {
        let value = cluster.read(&key(&format!("k{n}"))).await;
        assert_eq!(value, Ok(Some(Bytes::from_static(b"v"))));
    }
    let (_, next) = cluster.split(&key("k7")).await;
    assert!(next.range_id > right.range_id);
    cluster.stop().await;
}

/// Without a majority a proposed write is unknown, and never a failure; a read is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_without_a_majority_is_unknown() {
    let cluster = Cluster::start(3).await;
    cluster.commit(&key("a"), b"1").await.expect("committed");
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let network = cluster.network.clone().expect("in process");
    let (descriptor, _) = cluster.locate(&key("a")).await.expect("known");
    let request = |body| pb::RangeRequest {
        range: Some(pb::RangeRef { range_id: descriptor.range_id, epoch: descriptor.epoch }),
        body: Some(body),
    };
    let commit = pb::CommitRequest {
        txn: Some(cluster.txn(&key("a"))),
        writes: vec![cluster.put(&key("a"), b"2")],
        checks: Vec::new(),
        lock_owner: Bytes::new(),
        who: None,
    };
    for other in cluster.live().filter(|node| node.id() != leader.id()) {
        network.router.cut(leader.id(), other.id());
    }
    let mut call = cluster.make_call(vec![request(Ask::Commit(commit.clone()))]);
    call.timeout_ms = 300;
    let reply = leader.call(call).await.expect("in process");
    let Some(Answer::Error(error)) = reply.responses[0].body.clone() else { panic!("{reply:?}") };
    assert!(matches!(error.kind, Some(Kind::Unknown(_))), "{error:?}");
    until("the cut leader to lose its lease", || async {
        let read = pb::ReadRequest {
            keys: vec![key("a").into()],
            read_ts: leader.clock().now().0,
            ..pb::ReadRequest::default()
        };
        let call = cluster.make_call(vec![request(Ask::Read(read))]);
        let reply = leader.call(call).await.expect("in process");
        match reply.responses[0].body.clone() {
            Some(Answer::Error(error)) => {
                let kind = error.kind;
                matches!(kind, Some(Kind::Unavailable(_) | Kind::NotLeader(_))).then_some(())
            }
            _ => None,
        }
    })
    .await;
    network.router.heal();
    // The same id again: whatever became of it, it happens once.
    let answer = cluster.send(&key("a"), Ask::Commit(commit)).await;
    assert!(matches!(answer, Ok(Answer::Commit(_))), "{answer:?}");
    assert_eq!(cluster.read(&key("a")).await, Ok(Some(Bytes::from_static(b"2"))));
    cluster.stop().await;
}

/// L5: while a split is proposed and not applied, keys that leave are not read under the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_leave_by_a_split_are_not_read_meanwhile() {
    let cluster = Cluster::start(1).await;
    cluster.commit(&key("a"), b"1").await.expect("committed");
    cluster.commit(&key("z"), b"1").await.expect("committed");
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let replica = leader.ranges().replica(FIRST_DB_RANGE).expect("it is here");
    let read = |name: &str| {
        let read = pb::ReadRequest {
            keys: vec![key(name).into()],
            read_ts: leader.clock().now().0,
            ..pb::ReadRequest::default()
        };
        let range = pb::RangeRef { range_id: FIRST_DB_RANGE.0, epoch: replica.descriptor().epoch };
        let body = Some(Ask::Read(read));
        let mut call = cluster.make_call(vec![pb::RangeRequest { range: Some(range), body }]);
        call.timeout_ms = 100;
        leader.call(call)
    };
    replica.core.lock().splitting = Some(key("m").into());
    let stays = read("a").await.expect("in process");
    assert!(matches!(stays.responses[0].body, Some(Answer::Read(_))), "{stays:?}");
    let leaves = read("z").await.expect("in process");
    let Some(Answer::Error(error)) = &leaves.responses[0].body else { panic!("{leaves:?}") };
    assert!(matches!(error.kind, Some(Kind::Unavailable(_))), "{error:?}");
    replica.core.lock().splitting = None;
    let after = read("z").await.expect("in process");
    assert!(matches!(after.responses[0].body, Some(Answer::Read(_))), "{after:?}");
    drop((leader, replica));
    cluster.stop().await;
}

/// Leaders do not stay where the cluster began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_spread_over_the_nodes() {
    let cluster = Cluster::start(3).await;
    cluster.split(&key("m")).await;
    until("one leader a node", || async {
        let mut led = cluster.live().map(|node| node.led().len());
        led.all(|count| count == 1).then_some(())
    })
    .await;
    cluster.stop().await;
}

/// Real files, real sockets: bootstrap, join, replicate, commit, restart from the folder.
/// Written down by every node, the leader of the meta range too: after a power cut each must reach
/// the others before anybody leads anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_writes_down_where_the_others_are() {
    let cluster = Cluster::start(3).await;
    for disk in &cluster.disks {
        until("the addresses are written down", || async {
            let mut known = super::identity::load_addresses(&*disk.log);
            known.sort_by_key(|node| node.node_id);
            let nodes: Vec<_> = known.iter().map(|node| node.node_id).collect();
            (nodes == [1, 2, 3]).then_some(())
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_learns_where_a_node_is_that_asks_for_its_clock() {
    let cluster = Cluster::start(1).await;
    let node = cluster.any().clone();
    let info = |node_id, rpc_addr: &str| pb::NodeInfo {
        node_id,
        rpc_addr: rpc_addr.into(),
        ..pb::NodeInfo::default()
    };
    // What others say of the node itself is never news to it.
    for asking in [info(7, "seven:1"), info(1, "elsewhere:1")] {
        let ping = node_request::Body::Ping(pb::PingRequest { node: Some(asking) });
        let mut call = cluster.make_call(Vec::new());
        call.node = Some(pb::NodeRequest { body: Some(ping) });
        let reply = cluster.call(&node, call).await;
        let Some(node_response::Body::Ping(known)) = reply.node.and_then(|n| n.body) else {
            panic!("a ping is answered with a ping");
        };
        assert_eq!(known.nodes, [node.info(), info(7, "seven:1")]);
    }
    let known = super::identity::load_addresses(&*cluster.disks[0].log);
    assert!(known.contains(&info(7, "seven:1")), "{known:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_over_tcp_on_rocksdb_and_raft_engine() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut nodes = Vec::new();
    let mut servers = Vec::new();
    let mut seed = String::new();
    for i in 0..3 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr().expect("bound").to_string();
        let start = match i {
            0 => Start::Bootstrap,
            _ => Start::Join(vec![seed.clone()]),
        };
        if i == 0 {
            seed.clone_from(&addr);
        }
        let mut config = NodeConfig::new(
            Storage::Folder(dir.path().join(format!("n{i}"))),
            start,
            addr,
            Arc::new(SystemClock),
            Arc::new(NoPrograms),
        );
        config.reserve = crate::disk::Reserve::Bytes(1 << 20);
        let node = Node::open(config).await.expect("it opens");
        let server = super::server::serve(listener, node.clone(), std::future::pending());
        servers.push(tokio::spawn(server));
        nodes.push(Some(node));
    }
    let cluster = Cluster { network: None, nodes, dir, ..Cluster::empty(0) };
    cluster.wait_for_replicas(3).await;
    for n in 0..10 {
        cluster.commit(&key(&format!("k{n}")), b"v").await.expect("committed");
    }
    cluster.split(&key("k5")).await;
    for n in 0..10 {
        let value = cluster.read(&key(&format!("k{n}"))).await;
        assert_eq!(value, Ok(Some(Bytes::from_static(b"v"))));
    }
    let locked = NodeConfig::new(
        Storage::Folder(cluster.dir.path().join("n0")),
        Start::Restart,
        "127.0.0.1:1",
        Arc::new(SystemClock),
        Arc::new(NoPrograms),
    );
    let error = Node::open(locked).await.expect_err("in use");
    assert!(matches!(error, super::OpenError::Locked(_)), "{error}");
    cluster.stop().await;
    for server in servers {
        server.abort();
    }
}

/// An empty folder and no word about a cluster.
#[tokio::test]
async fn empty_folder_is_not_a_node() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = NodeConfig::new(
        Storage::Memory(MemoryDisk::new(dir.path())),
        Start::Restart,
        "n",
        Arc::new(SystemClock),
        Arc::new(NoPrograms),
    );
    let error = Node::open(config).await.expect_err("empty");
    assert!(error.to_string().contains("--bootstrap"), "{error}");
}

#[derive(Default)]
struct Hook(parking_lot::Mutex<Vec<quorate_txn::recovery::Leftover>>);

#[async_trait::async_trait]
impl super::GatewayHook for Hook {
    async fn barrier(&self, catalog_version: u64) -> u64 {
        catalog_version
    }

    async fn clean_up(&self, leftovers: Vec<quorate_txn::recovery::Leftover>) {
        self.0.lock().extend(leftovers);
    }
}

/// What a sweep finds goes to the node's gateway. And the meta range's leader says which nodes
/// there are, by what is replicated: every node can have it asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_go_to_the_gateway_and_the_meta_range_knows_every_node() {
    let cluster = Cluster::start(3).await;
    let anchor = key("a");
    let prepare = pb::PrepareRequest {
        txn: Some(cluster.txn(&anchor)),
        writes: vec![cluster.put(&anchor, b"1")],
        record: pb::RecordKind::Preparing as i32,
        keys: vec![anchor.clone().into()],
        lock_owner: Bytes::new(),
        who: None,
    };
    cluster.send(&anchor, Ask::Prepare(prepare)).await.expect("prepared");
    let hook = Arc::new(Hook::default());
    for node in cluster.live() {
        node.set_gateway(hook.clone());
    }
    until("the record and the lock are handed on", || async {
        for node in cluster.live() {
            node.sweep(Duration::ZERO, &mut std::collections::HashMap::new());
        }
        (hook.0.lock().len() >= 2).then_some(())
    })
    .await;
    hook.0.lock().clear();
    until("the lock is handed on by those who ask about old locks", || async {
        (!hook.0.lock().is_empty()).then_some(())
    })
    .await;
    for node in cluster.live() {
        until("all nodes are named", || async {
            let mut call = cluster.make_call(Vec::new());
            let body = node_request::Body::Report(pb::ReportRequest::default());
            call.node = Some(pb::NodeRequest { body: Some(body) });
            match cluster.call(node, call).await.node?.body? {
                node_response::Body::Report(report) => (report.nodes.len() == 3).then_some(()),
                _ => None,
            }
        })
        .await;
    }
    cluster.stop().await;
}

/// A node that was killed and is back at once knows nothing of the commits of its earlier life: a
/// barrier waits until nobody works on their calls any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_node_answers_a_barrier_when_its_earlier_calls_have_ended() {
    let mut cluster = Cluster::start(1).await;
    let barrier = |cluster: &Cluster| {
        let mut call = cluster.make_call(Vec::new());
        let body = node_request::Body::Barrier(pb::BarrierRequest { catalog_version: 1 });
        call.node = Some(pb::NodeRequest { body: Some(body) });
        call
    };
    let node = cluster.nodes[0].clone().expect("open");
    let asked = node.clock().monotonic();
    cluster.call(&node, barrier(&cluster)).await;
    let took = node.clock().monotonic() - asked;
    assert!(took < quorate_txn::config::ATTEMPT_TIMEOUT, "a new node had no earlier life");
    drop(node);
    cluster.kill(0).await;
    cluster.open(0, Start::Restart).await;
    let node = cluster.nodes[0].clone().expect("open");
    let reply = cluster.call(&node, barrier(&cluster)).await;
    assert!(reply.node.is_some(), "{reply:?}");
    assert!(node.clock().monotonic() - node.started > quorate_txn::config::ATTEMPT_TIMEOUT);
    drop(node);
    cluster.stop().await;
}
