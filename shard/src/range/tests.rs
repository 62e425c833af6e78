//! One range on one node whose worker is passed by hand: what is in the log is applied when the
//! test says so, time passes when the test says so, and a scan program can do something in the
//! middle of a read.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_request::Body as Ask;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{NodeId, RangeId, Timestamp, TxnId, pb};
use quorate_txn::clock::{ManualClock, NodeClock, PhysicalClock};
use quorate_txn::config::{MAX_CLOCK_OFFSET, TXN_FLOOR_LAG_MIN};
use quorate_txn::keys;
use quorate_txn::leader::{Admission, LeaderState, ReadSet, ReadStart, Ticket, Window};
use quorate_txn::recovery::Leftover;
use tokio::time::Instant;

use super::config::SWEEP_FOUND_MAX;
use super::leftovers::SweepCursor;
use super::replica::{Replica, Waiter, floors_of};
use super::{Allocator, FIRST_DB_RANGE, Factory, RangeEvents, Ranges, ScanEngine, ScanRun};
use crate::disk::{DiskGuard, FreeSpace, Reserve, Space};
use crate::engine::{Batch, KeySpan, MemEngine};
use crate::log::MemLog;
use crate::mvcc::EngineView;
use crate::raft::config::{COMPACT_EVERY, LEASE};
use crate::raft::runtime::drain;
use crate::raft::{
    Driver, GroupShared, InlineBackground, LogEntry, MachineFactory as _, RaftConfig, RaftDeps,
    RangeMachine,
};
use crate::transport::local::Router;

mod closed;
mod plants;
mod row_locks;

const STEP: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(100);

struct Quiet;

impl RangeEvents for Quiet {
    fn routes_changed(&self) {}
    fn failed(&self, range: Option<RangeId>, why: &str) {
        panic!("{range:?} failed: {why}");
    }
}

type Meanwhile = Box<dyn FnMut() + Send>;

/// A program that gives no output and does something at each row.
#[derive(Clone, Default)]
struct Programs(Arc<Mutex<Option<Meanwhile>>>);

impl ScanEngine for Programs {
    fn start(&self, _: &[u8]) -> Result<Box<dyn ScanRun>, String> {
        Ok(Box::new(self.clone()))
    }
}

impl ScanRun for Programs {
    fn row(&mut self, _: &[u8], _: &[u8]) -> Result<bool, String> {
        if let Some(meanwhile) = self.0.lock().as_mut() {
            meanwhile();
        }
        Ok(true)
    }

    fn output(&mut self) -> Result<Bytes, String> {
        Ok(Bytes::from("out"))
    }
}

struct Ids;

#[async_trait::async_trait]
impl Allocator for Ids {
    async fn allocate(&self, _: u64) -> Result<u64, pb::RangeError> {
        Ok(5000)
    }
}

#[derive(Debug)]
struct Full;

impl FreeSpace for Full {
    fn space(&self) -> std::io::Result<Space> {
        Ok(Space { free: 10, total: 1 << 40 })
    }
}

struct Bench {
    physical: Arc<ManualClock>,
    ranges: Arc<Ranges>,
    replica: Arc<Replica>,
    programs: Programs,
    ids: Arc<dyn Allocator>,
    driver: Driver,
    dir: tempfile::TempDir,
}

fn key(name: &str) -> Bytes {
    Bytes::from([b"\x03", name.as_bytes()].concat())
}

fn first_state() -> pb::RangeState {
    let replica = pb::Replica { node_id: 1, peer_id: 2, role: pb::ReplicaRole::Voter as i32 };
    let descriptor = pb::RangeDescriptor {
        range_id: FIRST_DB_RANGE.0,
        start: Bytes::from_static(keys::DB_START),
        end: Bytes::new(),
        epoch: Some(pb::Epoch { conf: 1, version: 1 }),
        replicas: vec![replica],
    };
    pb::RangeState { descriptor: Some(descriptor), ..pb::RangeState::default() }
}

fn physical() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_duration(Duration::from_secs(1_000_000))))
}

fn ranges_of(
    physical: &Arc<ManualClock>,
    programs: &Programs,
    disk: Option<Arc<DiskGuard>>,
) -> Arc<Ranges> {
    let clock: Arc<dyn PhysicalClock> = physical.clone();
    let clock = Arc::new(NodeClock::new(clock, Timestamp::ZERO, MAX_CLOCK_OFFSET));
    let engine = Arc::new(MemEngine::new());
    Ranges::new(NodeId(1), engine, clock, Arc::new(programs.clone()), disk, Arc::new(Quiet))
}

impl Bench {
    /// A range that serves and takes proposals.
    async fn new(disk: Option<Arc<DiskGuard>>) -> Self {
        let (physical, programs) = (physical(), Programs::default());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ranges = ranges_of(&physical, &programs, disk);
        let config = RaftConfig {
            node: NodeId(1),
            cluster_id: Bytes::from_static(b"0123456789abcdef"),
            workers: 1,
            seed: 1,
            snapshot_dir: dir.path().to_owned(),
        };
        let deps = RaftDeps {
            engine: ranges.engine.clone(),
            log: Arc::new(MemLog::new()),
            clock: ranges.clock.clone(),
            transport: Router::new().transport(NodeId(1)),
            factory: Arc::new(Factory(Arc::downgrade(&ranges))),
            background: Arc::new(InlineBackground),
        };
        let mut driver = Driver::open(config, deps).expect("it opens");
        let handle = driver.handle();
        ranges.attach(handle.clone());
        let ids: Arc<dyn Allocator> = Arc::new(Ids);
        ranges.set_allocator(Arc::downgrade(&ids));
        let created = tokio::spawn(async move { handle.create_group(first_state()).await });
        while !created.is_finished() {
            tokio::task::yield_now().await;
            pass(&mut driver);
        }
        created.await.expect("no panic").expect("created");
        let replica = ranges.replica(FIRST_DB_RANGE).expect("it was created");
        let mut bench = Self { physical, ranges, replica, programs, ids, driver, dir };
        for _ in 0..500 {
            bench.physical.advance(STEP);
            pass(&mut bench.driver);
            let lease = bench.replica.group.lease();
            if bench.replica.serves() && lease.propose_after < bench.physical.now() {
                return bench;
            }
        }
        panic!("it never serves");
    }

    fn now(&self) -> Timestamp {
        self.ranges.clock.now()
    }

    /// Sends a request; only the entries of `pass` are applied meanwhile.
    fn send(&self, body: Ask, patience: Duration) -> impl Future<Output = Answer> + use<> {
        let epoch = self.replica.descriptor().epoch;
        let range = Some(pb::RangeRef { range_id: FIRST_DB_RANGE.0, epoch });
        let request = pb::RangeRequest { range, body: Some(body) };
        let ranges = self.ranges.clone();
        async move {
            let answer = ranges.serve(request, Instant::now() + patience).await;
            answer.body.expect("it answers")
        }
    }

    /// Sends a request and applies whatever comes of it.
    async fn carry_out(&mut self, body: Ask) -> Answer {
        let answer = tokio::spawn(self.send(body, Duration::from_secs(30)));
        while !answer.is_finished() {
            tokio::task::yield_now().await;
            pass(&mut self.driver);
        }
        answer.await.expect("no panic")
    }

    /// Sends a request and lets it come as far as it can without its entry being applied.
    async fn begin(&self, body: Ask) -> tokio::task::JoinHandle<Answer> {
        let sent = tokio::spawn(self.send(body, Duration::from_secs(30)));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!sent.is_finished(), "it is in the worker's inbox");
        sent
    }

    fn commit(&self, id: u128, name: &str) -> Ask {
        let now = self.now();
        let txn = meta(id, name, now);
        Ask::Commit(pb::CommitRequest {
            txn: Some(txn),
            writes: vec![put(name, now)],
            checks: vec![],
            lock_owner: Bytes::new(),
            who: None,
        })
    }

    fn read(&self, name: &str, read_ts: Timestamp) -> Ask {
        let keys = vec![key(name)];
        Ask::Read(pb::ReadRequest { keys, read_ts: read_ts.0, ..pb::ReadRequest::default() })
    }

    /// A scan of everything, with the program.
    fn scan(&self, read_ts: Timestamp) -> Ask {
        Ask::Scan(pb::ScanRequest {
            start: key(""),
            end: key("zz"),
            read_ts: read_ts.0,
            program: Bytes::from("p"),
            ..pb::ScanRequest::default()
        })
    }

    fn meanwhile(&self, what: impl FnMut() + Send + 'static) {
        *self.programs.0.lock() = Some(Box::new(what));
    }
}

fn pass(driver: &mut Driver) {
    for (worker, inbox) in &mut driver.workers {
        let mut inputs = Vec::new();
        drain(inbox, &mut inputs);
        assert!(worker.pass(&mut inputs), "the worker goes on");
    }
}

fn meta(id: u128, anchor: &str, start: Timestamp) -> pb::TxnMeta {
    pb::TxnMeta { txn_id: TxnId(id).to_bytes(), anchor: key(anchor), commit_start: start.0 }
}

fn put(name: &str, read_at: Timestamp) -> pb::Write {
    let value = Bytes::from("v");
    pb::Write { key: key(name), value, read_at: read_at.0, ..pb::Write::default() }
}

fn kind(answer: Answer) -> Kind {
    match answer {
        Answer::Error(error) => error.kind.expect("every error has one"),
        other => panic!("no error: {other:?}"),
    }
}

/// L1: a process that slept in the middle of a read wakes up stale: what it read is thrown away.
#[tokio::test]
async fn a_read_is_thrown_away_if_the_lease_ended_meanwhile() {
    let mut bench = Bench::new(None).await;
    let commit = bench.commit(1, "a");
    bench.carry_out(commit).await;
    let answer = bench.send(bench.scan(bench.now()), PATIENCE).await;
    assert!(matches!(answer, Answer::Scan(_)), "{answer:?}");
    let clock = bench.physical.clone();
    bench.meanwhile(move || clock.advance(LEASE));
    let answer = bench.send(bench.scan(bench.now()), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    drop(bench.dir);
}

/// R4: a read below the safe point is refused, also if the safe point rose in the middle of it.
#[tokio::test]
async fn a_read_below_the_safe_point_is_refused_before_and_after() {
    let mut bench = Bench::new(None).await;
    let commit = bench.commit(1, "a");
    bench.carry_out(commit).await;
    let (before, safe_point) = (bench.now(), bench.now());
    let answer = bench.send(bench.read("a", before), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
    let raise = pb::RaiseSafePointRequest { safe_point: safe_point.0, txn_floor: 0 };
    bench.carry_out(Ask::RaiseSafePoint(raise)).await;
    let answer = bench.send(bench.read("a", before), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::TooOld(_)));
    let answer = bench.send(bench.scan(before), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::TooOld(_)));
    let answer = bench.send(bench.read("a", safe_point), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
    // What `apply` does while the scan is at its first row.
    let (replica, above) = (bench.replica.clone(), bench.now());
    bench.meanwhile(move || {
        let state = pb::RangeState { safe_point: above.0, ..pb::RangeState::default() };
        replica.raise_marks(&state);
    });
    let answer = bench.send(bench.scan(safe_point), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::TooOld(_)));
}

/// L5: from the proposal of a split until it is applied, keys that leave are neither read nor
/// written, and a read that was under way is thrown away.
#[tokio::test]
async fn keys_that_leave_are_not_read_from_the_proposal_of_the_split_on() {
    let mut bench = Bench::new(None).await;
    for (id, name) in [(1, "a"), (2, "z")] {
        let commit = bench.commit(id, name);
        bench.carry_out(commit).await;
    }
    let split = bench.begin(Ask::Split(pb::SplitRequest { key: key("m") })).await;
    let answer = bench.send(bench.read("z", bench.now()), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    let answer = bench.send(bench.commit(3, "z"), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    let answer = bench.send(bench.read("a", bench.now()), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
    while !split.is_finished() {
        tokio::task::yield_now().await;
        pass(&mut bench.driver);
    }
    assert!(matches!(split.await.expect("no panic"), Answer::Split(_)));
    let answer = bench.send(bench.read("z", bench.now()), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::StaleRoute(_)));
    // A split that is proposed in the middle of a read.
    let replica = bench.replica.clone();
    bench.meanwhile(move || replica.core.lock().splitting = Some(key("b")));
    let scan = pb::ScanRequest {
        start: key("a"),
        end: key("c"),
        read_ts: bench.now().0,
        program: Bytes::from("p"),
        ..pb::ScanRequest::default()
    };
    let answer = bench.send(Ask::Scan(scan), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    drop(bench.ids);
}

/// T3: a node serves nothing above the bound of its clock that it has written down.
#[tokio::test]
async fn nothing_is_served_above_the_clocks_bound() {
    let bench = Bench::new(None).await;
    bench.ranges.set_clock_bound(bench.now().bound_after(STEP));
    let answer = bench.send(bench.read("a", bench.now()), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
    bench.physical.advance(2 * STEP);
    let read_ts = bench.now();
    let answer = bench.send(bench.read("a", read_ts), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    let answer = bench.send(bench.commit(1, "a"), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
}

/// P6: the floor may be raised on request, but never over those within their retry deadlines.
#[tokio::test]
async fn the_transaction_floor_keeps_its_distance() {
    let mut bench = Bench::new(None).await;
    let start = bench.now();
    let raise = |floor: Timestamp| {
        Ask::RaiseSafePoint(pb::RaiseSafePointRequest { safe_point: 0, txn_floor: floor.0 })
    };
    let answer = bench.carry_out(raise(start)).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    let old = bench.commit(1, "a");
    bench.physical.advance(TXN_FLOOR_LAG_MIN + STEP);
    pass(&mut bench.driver);
    let floor = Timestamp(start.0 + 100);
    let answer = bench.carry_out(raise(floor)).await;
    assert!(matches!(answer, Answer::RaiseSafePoint(_)), "{answer:?}");
    let commit = bench.commit(2, "b");
    assert!(matches!(bench.carry_out(commit).await, Answer::Commit(_)));
    let Ask::Commit(mut old) = old else { panic!("a commit") };
    old.txn = Some(meta(1, "a", start));
    assert!(matches!(kind(bench.carry_out(Ask::Commit(old)).await), Kind::TooOld(_)));
}

/// S5: below the reserve what writes is refused, what deletes or reads is not.
#[tokio::test]
async fn a_full_disk_refuses_what_writes_and_lets_deletes_and_reads_through() {
    let guard = DiskGuard::new(Arc::new(Full), Reserve::Bytes(1000)).expect("no disk");
    let mut bench = Bench::new(Some(Arc::new(guard))).await;
    let answer = bench.send(bench.commit(1, "a"), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::DiskFull(_)));
    let Ask::Commit(mut delete) = bench.commit(2, "a") else { panic!("a commit") };
    delete.writes[0].delete = true;
    assert!(matches!(bench.carry_out(Ask::Commit(delete)).await, Answer::Commit(_)));
    let answer = bench.send(bench.read("a", bench.now()), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
}

/// A sweep finds what is old, in bounded steps, and begins anew at the end.
#[tokio::test]
async fn a_sweep_finds_what_is_left_over_in_bounded_steps() {
    let mut bench = Bench::new(None).await;
    let start = bench.now();
    let count = SWEEP_FOUND_MAX + 10;
    for n in 0..count {
        let name = format!("k{n:03}");
        let request = pb::PrepareRequest {
            txn: Some(meta(100 + n as u128, &name, start)),
            writes: vec![put(&name, start)],
            record: pb::RecordKind::Preparing as i32,
            keys: vec![key(&name)],
            lock_owner: Bytes::new(),
            who: None,
        };
        let answer = bench.carry_out(Ask::Prepare(request)).await;
        assert!(matches!(answer, Answer::Prepare(_)), "{answer:?}");
    }
    let commit = bench.commit(1, "z");
    bench.carry_out(commit).await;
    let mut cursor = SweepCursor::default();
    let found = bench.replica.sweep(&mut cursor, start).expect("it reads");
    assert_eq!((found.len(), &cursor), (0, &SweepCursor::default()), "none is old enough");
    let mut met: BTreeMap<Bytes, usize> = BTreeMap::new();
    for step in 0..count {
        let found = bench.replica.sweep(&mut cursor, bench.now()).expect("it reads");
        assert!(found.len() <= SWEEP_FOUND_MAX + 1, "{}", found.len());
        for leftover in found {
            let Leftover::Undecided { met: at, .. } = leftover else { panic!("{leftover:?}") };
            *met.entry(at).or_default() += 1;
        }
        if cursor == SweepCursor::default() {
            assert!(step > 0, "one step is bounded");
            break;
        }
    }
    assert_eq!(met.len(), count, "each record and lock was found, the one-range commit was not");
    assert!(met.values().all(|times| *times >= 2), "{met:?}");
    assert_eq!(bench.replica.old_locks(start).expect("it reads"), Vec::new());
    let locks = bench.replica.old_locks(bench.now()).expect("it reads");
    assert_eq!(locks.len(), SWEEP_FOUND_MAX, "a bounded step finds the first locks");
}

/// R5: a row that was deleted is seen at older timestamps: the watermark is raised with the delete.
/// L5: a split gives both halves watermark and floors, and the right one the greatest read.
#[tokio::test]
async fn a_split_copies_what_reads_and_commits_go_by() {
    let mut bench = Bench::new(None).await;
    let commit = bench.commit(1, "z");
    bench.carry_out(commit).await;
    let before = bench.now();
    let Ask::Commit(mut delete) = bench.commit(2, "z") else { panic!("a commit") };
    delete.writes[0].delete = true;
    bench.carry_out(Ask::Commit(delete)).await;
    let answer = bench.send(bench.read("z", before), PATIENCE).await;
    let Answer::Read(read) = answer else { panic!("{answer:?}") };
    assert!(read.values[0].present, "it was there then");
    let raise = pb::RaiseSafePointRequest { safe_point: before.0 - 1, txn_floor: 0 };
    bench.carry_out(Ask::RaiseSafePoint(raise)).await;
    // Within the offset that clocks may have, a read may be ahead of this one.
    let ahead = bench.physical.now().bound_after(MAX_CLOCK_OFFSET / 2);
    let answer = bench.send(bench.read("z", ahead), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "{answer:?}");
    let split = Ask::Split(pb::SplitRequest { key: key("m") });
    let answer = bench.carry_out(split).await;
    assert!(matches!(answer, Answer::Split(_)), "{answer:?}");
    let (left, right) = (bench.replica.state(), bench.ranges.replica(RangeId(5000)));
    let right = right.expect("it was made");
    let floors = floors_of(&left);
    assert_eq!(floors_of(&right.state()), floors);
    assert!(!floors.delete_watermark.is_zero() && floors.safe_point.0 == before.0 - 1);
    assert_eq!(right.delete_watermark(), floors.delete_watermark);
    for _ in 0..20 {
        pass(&mut bench.driver);
        tokio::task::yield_now().await;
    }
    let greatest = right.core.lock().leader.as_ref().map(LeaderState::max_read_ts);
    assert!(right.serves(), "it was spared the wait");
    assert!(greatest.is_some_and(|greatest| greatest >= ahead), "{greatest:?}");
}

/// S1: garbage collection goes by the safe point of the last flushed state, never a newer one.
#[tokio::test]
async fn garbage_collection_goes_by_the_flushed_safe_point() {
    let mut bench = Bench::new(None).await;
    for id in 1..=2 {
        let commit = bench.commit(id, "a");
        bench.carry_out(commit).await;
    }
    let safe_point = bench.now();
    let ended = quorate_txn::state::history_key(&key("a"), Timestamp(safe_point.0 - 1));
    let look = |bench: &mut Bench| {
        bench.physical.advance(COMPACT_EVERY + STEP);
        pass(&mut bench.driver);
        bench.ranges.engine.safe_points().table().may_drop(&ended)
    };
    bench.ranges.engine.flush().expect("in memory");
    look(&mut bench);
    let raise = pb::RaiseSafePointRequest { safe_point: safe_point.0, txn_floor: 0 };
    bench.carry_out(Ask::RaiseSafePoint(raise)).await;
    assert_eq!(bench.replica.safe_point(), safe_point);
    assert!(!look(&mut bench), "replicas and a replay would decide differently");
    bench.ranges.engine.flush().expect("in memory");
    assert!(look(&mut bench));
}

// ---------------------------------------------------------------- the machine alone

struct Alone {
    ranges: Arc<Ranges>,
    machine: Box<dyn RangeMachine>,
    replica: Arc<Replica>,
    state: pb::RangeState,
    index: u64,
}

impl Alone {
    fn new() -> Self {
        let ranges = ranges_of(&physical(), &Programs::default(), None);
        Self::over(ranges, first_state())
    }

    fn over(ranges: Arc<Ranges>, state: pb::RangeState) -> Self {
        let shared = Arc::new(GroupShared::new(FIRST_DB_RANGE, quorate_proto::PeerId(2)));
        let machine = Factory(Arc::downgrade(&ranges)).create(shared, &state);
        let replica = ranges.replica(FIRST_DB_RANGE).expect("it was made");
        Self { ranges, machine, replica, state, index: 10 }
    }

    /// Applies an entry of `term` into a batch that is not written yet; where its answer comes.
    fn apply(
        &mut self,
        term: u64,
        command: &pb::Command,
        ticket: Option<Ticket>,
        batch: &mut Batch,
    ) -> tokio::sync::oneshot::Receiver<Answer> {
        use prost::Message as _;
        self.index += 1;
        let (answer, receiver) = tokio::sync::oneshot::channel();
        let waiter = Waiter { ticket, split: false, answer };
        self.replica.core.lock().waiters.insert(self.index, waiter);
        self.machine.proposed(self.index, self.index, term);
        let data = command.encode_to_vec();
        let entry = LogEntry { index: self.index, term, data: &data };
        self.machine.apply(entry, &mut self.state, batch);
        receiver
    }

    fn make_visible(&mut self, batch: &Batch) {
        self.ranges.engine.write(batch).expect("in memory");
        self.machine.committed_visible(self.index, &self.state);
    }

    fn run(&mut self, term: u64, version: u64, body: Command) -> Answer {
        let command = pb::Command { term: 5, epoch_version: version, body: Some(body) };
        let mut batch = Batch::new();
        let mut answer = self.apply(term, &command, None, &mut batch);
        self.make_visible(&batch);
        answer.try_recv().expect("it was answered")
    }
}

fn logged(name: &str) -> pb::LoggedWrite {
    let value = Bytes::from("v");
    pb::LoggedWrite { key: key(name), value, read_at: 10, ..pb::LoggedWrite::default() }
}

fn commit_command(id: u128, name: &str) -> Command {
    Command::Commit(pb::CommitCommand {
        txn: Some(meta(id, name, Timestamp(10))),
        writes: vec![logged(name)],
        checks: Vec::new(),
        commit_ts: 20,
        local_ts: 20,
    })
}

fn prepare_command(id: u128, anchor: &str, name: &str) -> Command {
    Command::Prepare(pb::PrepareCommand {
        txn: Some(meta(id, anchor, Timestamp(10))),
        writes: vec![logged(name)],
        min_commit_ts: 20,
        local_ts: 20,
        ..pb::PrepareCommand::default()
    })
}

/// L4: a command of another term or epoch changes nothing, and says why.
#[test]
fn a_command_of_another_term_or_epoch_changes_nothing() {
    let mut alone = Alone::new();
    let row = |alone: &Alone| {
        let snapshot = alone.ranges.engine.snapshot();
        snapshot.get(crate::engine::Cf::Latest, &key("a")).expect("in memory")
    };
    let answer = alone.run(6, 1, commit_command(1, "a"));
    assert!(matches!(kind(answer), Kind::NotLeader(_)), "its timestamp was chosen in term 5");
    assert!(row(&alone).is_none());
    // It was queued behind a split.
    let answer = alone.run(5, 0, commit_command(1, "a"));
    assert!(matches!(kind(answer), Kind::StaleRoute(_)));
    assert!(row(&alone).is_none());
    let answer = alone.run(5, 1, commit_command(1, "a"));
    assert!(matches!(answer, Answer::Commit(_)), "{answer:?}");
    assert!(row(&alone).is_some());
}

/// L4 after a split that stands before them in the log.
#[test]
fn commands_behind_a_split_change_nothing() {
    let mut alone = Alone::new();
    let split = pb::SplitCommand { key: key("m"), right_range_id: 9, right_peer_ids: vec![90] };
    let answer = alone.run(5, 1, Command::Split(split));
    assert!(matches!(answer, Answer::Split(_)), "{answer:?}");
    for name in ["z", "a"] {
        let answer = alone.run(5, 1, prepare_command(1, "a", name));
        let snapshot = alone.ranges.engine.snapshot();
        let lock = snapshot.get(crate::engine::Cf::Locks, &key(name)).expect("in memory");
        assert!(lock.is_none(), "{name} may be another range's");
        assert!(matches!(kind(answer), Kind::StaleRoute(_)));
    }
}

/// P1: keys leave the lock table when the batch is visible, not when the entry is applied.
#[test]
fn keys_stay_in_the_lock_table_until_the_batch_is_visible() {
    let mut alone = Alone::new();
    let mut leader = LeaderState::new(5, Duration::ZERO);
    leader.rebuild([]);
    leader.ready(Timestamp(1), None);
    let request = pb::CommitRequest {
        txn: Some(meta(1, "a", Timestamp(10))),
        writes: vec![put("a", Timestamp(10))],
        checks: Vec::new(),
        lock_owner: Bytes::new(),
        who: None,
    };
    let engine = alone.ranges.engine.clone();
    let snapshot = engine.snapshot();
    let view = EngineView::new(&*snapshot, KeySpan::default());
    let floors = floors_of(&alone.state);
    let admitted = leader.admit_commit(&request, &floors, &view, &mut || Timestamp(20));
    let Admission::Propose { ticket, body } = admitted.expect("it reads") else {
        panic!("it is proposed")
    };
    alone.replica.core.lock().leader = Some(leader);
    let command = pb::Command { term: 5, epoch_version: 1, body: Some(body) };
    let mut batch = Batch::new();
    let answer = alone.apply(5, &command, Some(ticket), &mut batch);
    let start = |alone: &Alone| {
        let mut core = alone.replica.core.lock();
        let leader = core.leader.as_mut().expect("set");
        leader.begin_read(ReadSet::Keys(&[key("a")]), Window::exactly(Timestamp(30)), None)
    };
    assert!(matches!(start(&alone), ReadStart::Wait(_)), "applied, but no reader sees it yet");
    alone.make_visible(&batch);
    assert_eq!(start(&alone), ReadStart::Clear(Vec::new()));
    drop(answer);
}

/// P2, P3, P14: an entry is applied on top of all before it: one that reads what an unwritten entry
/// may have changed waits until the batch is written.
#[test]
fn an_entry_that_reads_what_is_not_written_yet_waits_for_it() {
    use prost::Message as _;
    let mut alone = Alone::new();
    let waits = |alone: &mut Alone, body: Command| {
        let command = pb::Command { term: 5, epoch_version: 1, body: Some(body) };
        let data = command.encode_to_vec();
        let index = alone.index + 1;
        alone.machine.needs_written(LogEntry { index, term: 5, data: &data })
    };
    let command =
        pb::Command { term: 5, epoch_version: 1, body: Some(prepare_command(1, "a", "m")) };
    let mut batch = Batch::new();
    let answer = alone.apply(5, &command, None, &mut batch);
    let close = |record| {
        let txn = Some(meta(1, "a", Timestamp(10)));
        Command::Close(pb::CloseCommand { txn, key: key("m"), record })
    };
    let check = pb::ReadCheck { start: key("l"), end: key("n"), read_at: 10 };
    let Command::Commit(mut checking) = commit_command(2, "b") else { panic!("a commit") };
    checking.checks = vec![check];
    assert!(waits(&mut alone, commit_command(2, "m")));
    assert!(waits(&mut alone, prepare_command(2, "m", "z")));
    assert!(waits(&mut alone, prepare_command(2, "a", "m")));
    assert!(waits(&mut alone, close(false)));
    assert!(waits(&mut alone, Command::Commit(checking)));
    let (txn_id, anchor) = (TxnId(1).to_bytes(), key("a"));
    let keys = vec![key("m")];
    let resolve = pb::ResolveCommand { txn_id: txn_id.clone(), keys, verdict: None };
    assert!(waits(&mut alone, Command::Resolve(resolve)));
    let verdict = pb::VerdictCommand {
        txn: Some(meta(1, "m", Timestamp(10))),
        ..pb::VerdictCommand::default()
    };
    assert!(waits(&mut alone, Command::Verdict(verdict)));
    let drop_record =
        |anchor| Command::DropRecord(pb::DropRecordCommand { txn_id: txn_id.clone(), anchor });
    assert!(waits(&mut alone, drop_record(key("m"))));
    assert!(!waits(&mut alone, drop_record(anchor)), "it asks for that record alone");
    let beside = pb::VerdictCommand {
        txn: Some(meta(1, "a", Timestamp(10))),
        resolve: vec![key("m")],
        ..pb::VerdictCommand::default()
    };
    assert!(waits(&mut alone, Command::Verdict(beside)), "a lock that it resolves");
    assert!(waits(&mut alone, Command::RaiseFloors(pb::RaiseFloorsCommand::default())));
    assert!(!waits(&mut alone, commit_command(2, "b")), "another key shares the batch");
    alone.make_visible(&batch);
    assert!(!waits(&mut alone, commit_command(2, "m")));
    drop(answer);
}

/// P5: refusals are known in memory at once, and read back when the replica is opened.
#[test]
fn refusals_are_mirrored_in_memory() {
    let mut alone = Alone::new();
    let close = Command::Close(pb::CloseCommand {
        txn: Some(meta(1, "a", Timestamp(10))),
        key: key("z"),
        record: false,
    });
    assert!(matches!(alone.run(5, 1, close), Answer::Close(_)));
    let late = alone.run(5, 1, prepare_command(1, "a", "z"));
    assert!(matches!(kind(late), Kind::Refused(_)), "P3");
    let (ranges, state) = (alone.ranges.clone(), alone.state.clone());
    drop(alone);
    let mut again = Alone::over(ranges, state);
    let late = again.run(5, 1, prepare_command(1, "a", "z"));
    assert!(matches!(kind(late), Kind::Refused(_)), "after a restart");
    let other = again.run(5, 1, prepare_command(2, "a", "z"));
    assert!(matches!(other, Answer::Prepare(_)), "{other:?}");
}
