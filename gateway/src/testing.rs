//! A cluster in memory for tests of the gateway: ranges without replication, the real state machine
//! and the real leader of `quorate-txn`, behind the same trait as a node. It can be told to lose
//! requests and answers, to hold answers back, and to split.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_planner::kv::ScanProgram;
use quorate_proto::pb::range_response::Body;
use quorate_proto::pb::{self, node_request, node_response, range_error, range_request};
use quorate_proto::{CallError, Connector, NodeId, NodeService, Timestamp, TxnId};
use quorate_txn::apply::{Span, StateView};
use quorate_txn::clock::{NodeClock, PhysicalClock};
use quorate_txn::leader::locking::{Locking, Progress};
use quorate_txn::leader::{Admission, DecidedLock, LeaderState, ReadSet, ReadStart, Window};
use quorate_txn::recovery::Leftover;
use quorate_txn::state::TxnMeta;
use quorate_txn::testing::MemView;

use crate::dist::SqlSide;
use crate::runtime;

/// The system's clocks, for tests, which may let them jump.
#[derive(Debug)]
pub struct TestClock {
    started: tokio::time::Instant,
    base: Timestamp,
    shift_ms: AtomicI64,
    slept_ms: AtomicU64,
}

impl TestClock {
    /// A clock that starts at a fixed date.
    pub fn new() -> Arc<Self> {
        let base = Timestamp::from_duration(Duration::from_secs(1_800_000_000));
        Arc::new(Self {
            started: tokio::time::Instant::now(),
            base,
            shift_ms: AtomicI64::new(0),
            slept_ms: AtomicU64::new(0),
        })
    }

    /// Another node's clock, ahead of this one.
    pub fn ahead(&self, by: Duration) -> Arc<Self> {
        Arc::new(Self {
            started: self.started,
            base: self.base.bound_after(by),
            shift_ms: AtomicI64::new(0),
            slept_ms: AtomicU64::new(0),
        })
    }

    /// Lets wall time jump; not the monotonic one.
    pub fn shift_wall(&self, ms: i64) {
        self.shift_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Lets both times go on.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.slept_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed() + Duration::from_millis(self.slept_ms.load(Ordering::SeqCst))
    }
}

impl PhysicalClock for TestClock {
    fn now(&self) -> Timestamp {
        let now = self.base.bound_after(self.elapsed());
        let shift = self.shift_ms.load(Ordering::SeqCst);
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift < 0 { now.bound_before(by) } else { now.bound_after(by) }
    }

    fn monotonic(&self) -> Duration {
        self.elapsed() + Duration::from_secs(1)
    }
}

/// What happens to the next requests that the filter picks.
pub type Fault = Box<dyn FnMut(&range_request::Body) -> FaultKind + Send>;

/// Picks requests whose answers are held back.
pub type Held = Box<dyn FnMut(&range_request::Body) -> bool + Send>;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// None.
    Pass,
    /// The request is lost.
    LoseRequest,
    /// It is carried out and the answer is lost.
    LoseAnswer,
}

struct Range {
    descriptor: pb::RangeDescriptor,
    view: MemView,
    leader: LeaderState,
}

/// One node that leads every range.
pub struct FakeNode {
    clock: Arc<NodeClock>,
    sql: Arc<dyn SqlSide>,
    ranges: Mutex<Vec<Range>>,
    fault: Mutex<Option<Fault>>,
    held: Mutex<Option<Held>>,
    released: tokio::sync::Notify,
    /// The nodes that the meta range has registered.
    pub registered: Mutex<Vec<u64>>,
    /// Catalog versions of the barriers that were asked for here.
    pub barriers: Mutex<Vec<u64>>,
    /// Tables whose indexes its gateway says to build.
    pub building: Mutex<Vec<u64>>,
    /// Whether it answers barriers.
    pub answers_barriers: std::sync::atomic::AtomicBool,
    /// Range requests of each call that had any.
    pub calls: Mutex<Vec<usize>>,
    /// Bodies carried out, by name, in order.
    pub log: Mutex<Vec<&'static str>>,
    next_id: Mutex<u64>,
}

impl FakeNode {
    /// One range for everything.
    pub fn new(clock: Arc<NodeClock>, sql: Arc<dyn SqlSide>) -> Arc<Self> {
        let descriptor = pb::RangeDescriptor {
            range_id: 1,
            epoch: Some(pb::Epoch { conf: 1, version: 1 }),
            replicas: vec![pb::Replica { node_id: 1, peer_id: 1, role: 0 }],
            ..Default::default()
        };
        let range = Range { descriptor, view: MemView::default(), leader: new_leader() };
        Arc::new(Self {
            clock,
            sql,
            ranges: Mutex::new(vec![range]),
            fault: Mutex::new(None),
            held: Mutex::new(None),
            released: tokio::sync::Notify::new(),
            registered: Mutex::new(vec![1]),
            barriers: Mutex::new(Vec::new()),
            building: Mutex::new(Vec::new()),
            answers_barriers: std::sync::atomic::AtomicBool::new(true),
            calls: Mutex::new(Vec::new()),
            log: Mutex::new(Vec::new()),
            next_id: Mutex::new(100),
        })
    }

    /// Splits the range that holds `key` there.
    pub fn split(&self, key: &[u8]) {
        let mut ranges = self.ranges.lock();
        let i = find(&ranges, key).expect("ranges tile the keyspace");
        let key = Bytes::copy_from_slice(key);
        if ranges[i].descriptor.start == key {
            return;
        }
        let clock = self.clock.now();
        let left = &mut ranges[i];
        let epoch = left.descriptor.epoch.get_or_insert_default();
        epoch.version += 1;
        let mut descriptor = left.descriptor.clone();
        descriptor.start = key.clone();
        left.descriptor.end = key.clone();
        let view = left.view.split_off(&key);
        left.leader.split_off(&key);
        let mut leader = LeaderState::new(1, Duration::ZERO);
        leader.rebuild(view.locks.clone());
        leader.ready(left.leader.max_read_ts(), Some(clock));
        let id = ranges.len() as u64 + 1;
        descriptor.range_id = id;
        ranges.push(Range { descriptor, view, leader });
    }

    /// Sets what goes wrong from now on.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }

    /// Holds back the answers to what the filter picks, until [`FakeNode::release`].
    pub fn hold_answers(&self, held: Held) {
        *self.held.lock() = Some(held);
    }

    /// Lets the answers go that are held back, and holds none from now on.
    pub fn release(&self) {
        *self.held.lock() = None;
        self.released.notify_waiters();
    }

    /// When the current version of a key was committed.
    pub fn committed_at(&self, key: &[u8]) -> Option<Timestamp> {
        let ranges = self.ranges.lock();
        ranges.iter().find_map(|r| r.view.latest.get(key)).map(|version| version.commit_ts)
    }

    /// What a sweep would find now.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let mut found = Vec::new();
        for range in &*self.ranges.lock() {
            for ((anchor, id), record) in &range.view.records {
                found.extend(Leftover::of_record(anchor, *id, record, Timestamp::MAX));
            }
            for (key, lock) in &range.view.locks {
                found.extend(Leftover::of_lock(key, lock, Timestamp::MAX));
            }
        }
        found
    }

    /// Locks that stand anywhere.
    pub fn locks(&self) -> usize {
        self.ranges.lock().iter().map(|r| r.view.locks.len()).sum()
    }

    /// As when leaders change.
    pub fn lose_row_locks(&self) {
        for range in self.ranges.lock().iter_mut() {
            range.leader.rows = quorate_txn::leader::rows::RowLocks::default();
        }
    }

    fn answer(&self, request: &pb::RangeRequest) -> Result<Body, pb::RangeError> {
        let body = request.body.as_ref().ok_or_else(|| invalid("empty"))?;
        let reference = request.range.ok_or_else(|| invalid("no range"))?;
        let mut ranges = self.ranges.lock();
        let known: Vec<pb::RangeDescriptor> = ranges.iter().map(|r| r.descriptor.clone()).collect();
        let range = ranges
            .iter_mut()
            .find(|r| r.descriptor.range_id == reference.range_id)
            .ok_or_else(|| invalid("no such range"))?;
        let (asked, now) = (reference.epoch, range.descriptor.epoch);
        if asked.map(|e| e.version) != now.map(|e| e.version) {
            let stale = pb::StaleRoute { descriptors: known };
            return Err(pb::RangeError::new(range_error::Kind::StaleRoute(stale), "stale epoch"));
        }
        self.log.lock().push(name(body));
        range.serve(body, &self.clock, self.sql.as_ref())
    }
}

fn new_leader() -> LeaderState {
    let mut leader = LeaderState::new(1, Duration::ZERO);
    leader.rebuild([]);
    leader.ready(Timestamp::ZERO, None);
    leader
}

fn find(ranges: &[Range], key: &[u8]) -> Option<usize> {
    ranges.iter().position(|r| crate::dist::ranges::covers(&r.descriptor, key))
}

fn invalid(why: &str) -> pb::RangeError {
    quorate_txn::apply::invalid(why)
}

fn name(body: &range_request::Body) -> &'static str {
    use range_request::Body as B;
    match body {
        B::Read(_) => "read",
        B::Scan(_) => "scan",
        B::Prepare(_) => "prepare",
        B::Commit(_) => "commit",
        B::Verdict(_) => "verdict",
        B::Close(_) => "close",
        B::Resolve(_) => "resolve",
        B::Lookup(_) => "lookup",
        B::Check(_) => "check",
        B::DropRecord(_) => "drop_record",
        B::Heartbeat(_) => "heartbeat",
        B::Hint(_) => "hint",
        B::Split(_) => "split",
        B::Lock(_) => "lock",
        B::Unlock(_) => "unlock",
        B::CloseTimestamp(_) => "close_timestamp",
        B::TransferLeader(_) | B::ChangeReplicas(_) | B::RaiseSafePoint(_) => "admin",
    }
}

fn waits() -> pb::RangeError {
    let kind = range_error::Kind::Unavailable(pb::Unavailable { retry_after_ms: 1 });
    pb::RangeError::new(kind, "something is in the way")
}

impl Range {
    fn serve(
        &mut self,
        body: &range_request::Body,
        clock: &NodeClock,
        sql: &dyn SqlSide,
    ) -> Result<Body, pb::RangeError> {
        use pb::command::Body as C;
        use range_request::Body as B;
        match body {
            B::Read(read) => self.read(read),
            B::Scan(scan) => self.scan(scan, sql),
            B::Prepare(prepare) => {
                let mut now = || clock.now();
                let floors = self.view.floors;
                let admission = self.leader.admit_prepare(
                    prepare,
                    &floors,
                    &self.view,
                    &mut now,
                    clock.monotonic(),
                );
                self.admitted(admission.map_err(|e| invalid(&e.to_string()))?)
            }
            B::Commit(commit) => {
                let mut now = || clock.now();
                let floors = self.view.floors;
                let admission = self.leader.admit_commit(commit, &floors, &self.view, &mut now);
                self.admitted(admission.map_err(|e| invalid(&e.to_string()))?)
            }
            B::Verdict(v) => self.apply(&C::Verdict(pb::VerdictCommand {
                txn: v.txn.clone(),
                verdict: v.verdict,
                resolve: v.resolve.clone(),
            })),
            B::Close(c) => self.apply(&C::Close(pb::CloseCommand {
                txn: c.txn.clone(),
                key: c.key.clone(),
                record: c.record,
            })),
            B::Resolve(r) => self.apply(&C::Resolve(pb::ResolveCommand {
                txn_id: r.txn_id.clone(),
                keys: r.keys.clone(),
                verdict: r.verdict,
            })),
            B::DropRecord(d) => self.apply(&C::DropRecord(pb::DropRecordCommand {
                txn_id: d.txn_id.clone(),
                anchor: d.anchor.clone(),
            })),
            B::Lookup(lookup) => self.lookup(lookup, clock),
            B::Check(check) => {
                let floors = self.view.floors;
                let start = self.leader.check(check, &floors, &self.view);
                clear(start.map_err(|e| invalid(&e.to_string()))?)?;
                Ok(Body::Check(pb::CheckResponse {}))
            }
            B::Heartbeat(beat) => {
                let id = TxnId::from_bytes(&beat.txn_id).ok_or_else(|| invalid("id"))?;
                self.leader.heartbeat(id, clock.monotonic())?;
                Ok(Body::Heartbeat(pb::HeartbeatResponse {}))
            }
            B::Hint(hint) => {
                self.leader.hint(hint)?;
                Ok(Body::Hint(pb::HintResponse {}))
            }
            B::Lock(lock) => self.lock(lock, clock),
            B::Unlock(unlock) => {
                let id = TxnId::from_bytes(&unlock.owner_id).ok_or_else(|| invalid("id"))?;
                let (keys, now) = (&unlock.keys, clock.monotonic());
                self.leader.rows.give_up(id, keys, unlock.sequence, now);
                Ok(Body::Unlock(pb::UnlockResponse {}))
            }
            B::RaiseSafePoint(raise) => self.apply(&C::RaiseFloors(pb::RaiseFloorsCommand {
                safe_point: raise.safe_point,
                txn_floor: raise.txn_floor,
            })),
            B::Split(_) | B::TransferLeader(_) | B::ChangeReplicas(_) | B::CloseTimestamp(_) => {
                Err(invalid("not here"))
            }
        }
    }

    /// Nobody waits here: who would have to is told to ask again.
    fn lock(&mut self, lock: &pb::LockRequest, clock: &NodeClock) -> Result<Body, pb::RangeError> {
        let mut progress = Progress::default();
        let (view, now) = (&self.view, clock.monotonic());
        let step = self.leader.lock(lock, &mut progress, view, now, &mut Vec::new());
        match step.map_err(|e| invalid(&e.to_string()))? {
            Locking::Done(done) => Ok(Body::Lock(done)),
            Locking::Queued { key, blockers } => Err(quorate_txn::leader::busy(&key, blockers)),
            Locking::Wait(waiting) => Err(waiting.give_up()),
            Locking::Refuse(error) => Err(error),
        }
    }

    fn apply(&mut self, command: &pb::command::Body) -> Result<Body, pb::RangeError> {
        let applied = self.view.run(command).map_err(|e| invalid(&e.to_string()))?;
        self.leader.applied(None, &applied.mutations, Duration::ZERO);
        Ok(applied.answer)
    }

    fn admitted(&mut self, admission: Admission) -> Result<Body, pb::RangeError> {
        match admission {
            Admission::Propose { ticket, body } => {
                let applied = self.view.run(&body).map_err(|e| invalid(&e.to_string()))?;
                self.leader.applied(Some(ticket), &applied.mutations, Duration::ZERO);
                Ok(applied.answer)
            }
            Admission::Answer(body) => Ok(body),
            Admission::Wait(waiting) => Err(waiting.give_up()),
            Admission::ClockBehind { .. } => Err(waits()),
        }
    }

    fn lookup(
        &mut self,
        lookup: &pb::LookupRequest,
        clock: &NodeClock,
    ) -> Result<Body, pb::RangeError> {
        let meta = lookup.txn.as_ref().and_then(TxnMeta::from_pb);
        let meta = meta.ok_or_else(|| invalid("no transaction"))?;
        let record =
            self.view.record(&meta.anchor, meta.id).map_err(|e| invalid(&e.to_string()))?;
        let answer = self.leader.lookup(&meta, record.as_ref(), clock.monotonic())?;
        Ok(Body::Lookup(answer))
    }

    fn begin(
        &mut self,
        what: ReadSet<'_>,
        asked: Window,
        own: &[u8],
    ) -> Result<Vec<DecidedLock>, pb::RangeError> {
        clear(self.leader.begin_read(what, asked, TxnId::from_bytes(own)))
    }

    /// Rows here have the local time they were committed at.
    fn certain(&self, span: &Span, asked: Window) -> Result<(), pb::RangeError> {
        let window = self.leader.window(asked);
        let upto = window.upto.min(window.observed);
        let event = self.view.first_event_after(span, window.read_ts, upto);
        match event.map_err(|e| invalid(&e.to_string()))? {
            None => Ok(()),
            Some(event) => Err(pb::RangeError::new(
                range_error::Kind::Uncertain(pb::Uncertain {
                    writer: self.leader.writer_of(&event.key, event.ts).cloned(),
                    key: event.key,
                    event_ts: event.ts.0,
                }),
                "uncertain",
            )),
        }
    }

    fn read(&mut self, read: &pb::ReadRequest) -> Result<Body, pb::RangeError> {
        let what = ReadSet::Keys(&read.keys);
        let asked = Window::asked(
            read.read_ts,
            read.uncertain_upto,
            if read.observed_node == 1 { read.observed } else { 0 },
        );
        let decided = self.begin(what, asked, &read.txn_id)?;
        let mut values = Vec::new();
        for key in &read.keys {
            self.certain(&Span::key(key), asked)?;
            let value = self.view.read_through(key, Timestamp(read.read_ts), &decided);
            let (span, read_ts) = (Span::key(key), Timestamp(read.read_ts));
            let event = self.view.first_event_after(&span, read_ts, Timestamp::MAX);
            let event = event.map_err(|e| invalid(&e.to_string()))?;
            values.push(pb::ReadValue {
                present: value.is_some(),
                value: value.unwrap_or_default(),
                commit_ts: 0,
                changed: event.is_some(),
            });
        }
        Ok(Body::Read(pb::ReadResponse { values }))
    }

    fn scan(&mut self, scan: &pb::ScanRequest, sql: &dyn SqlSide) -> Result<Body, pb::RangeError> {
        let span = Span { start: scan.start.clone(), end: scan.end.clone() };
        let asked = Window::asked(scan.read_ts, scan.uncertain_upto, scan.observed);
        let decided = self.begin(ReadSet::Span(&span), asked, &scan.txn_id)?;
        self.certain(&span, asked)?;
        let old = self.view.history.keys().map(|(key, _)| key.clone());
        let locked = decided.iter().map(|lock| lock.key.clone());
        let mut keys: Vec<Bytes> =
            self.view.latest.keys().cloned().chain(old).chain(locked).collect();
        keys.retain(|key| span.contains(key));
        keys.sort();
        keys.dedup();
        if scan.reverse {
            keys.reverse();
        }
        let ts = Timestamp(scan.read_ts);
        let visible = keys.into_iter().filter_map(|key| {
            let value = self.view.read_through(&key, ts, &decided)?;
            Some(pb::KeyValue { key, value })
        });
        // Small pages, so that going on is exercised.
        let limit = if scan.rows_max == 0 { 7 } else { scan.rows_max.min(7) };
        let mut rows: Vec<pb::KeyValue> =
            visible.take(usize::try_from(limit).unwrap_or(7) + 1).collect();
        let done = rows.len() as u64 <= limit;
        let mut resume = Bytes::new();
        if !done {
            let next = rows.pop().map(|row| row.key).unwrap_or_default();
            let last = rows.last().map(|row| row.key.clone()).unwrap_or_default();
            resume = if scan.reverse { last } else { next };
        }
        let rows_read = rows.len() as u64;
        let mut response = pb::ScanResponse { rows, rows_read, done, resume, ..Default::default() };
        if !scan.program.is_empty() {
            let pairs: Vec<(Bytes, Bytes)> =
                response.rows.drain(..).map(|row| (row.key, row.value)).collect();
            let program = ScanProgram::from_bytes(scan.program.clone());
            let (output, go_on) =
                sql.run_program(&program, &pairs).map_err(|e| invalid(&e.to_string()))?;
            response.output = output;
            response.done |= !go_on;
        }
        Ok(Body::Scan(response))
    }
}

fn clear(start: ReadStart) -> Result<Vec<DecidedLock>, pb::RangeError> {
    match start {
        ReadStart::Clear(decided) => Ok(decided),
        ReadStart::Wait(_) => Err(waits()),
        ReadStart::Refuse(error) => Err(error),
    }
}

#[async_trait]
impl NodeService for FakeNode {
    async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
        let lost = || CallError::Broken { node: String::from("n1") };
        let mut reply = pb::Reply { clock: self.clock.now().0, node_id: 1, ..Default::default() };
        if !call.requests.is_empty() {
            self.calls.lock().push(call.requests.len());
        }
        for request in &call.requests {
            let mut kind = FaultKind::Pass;
            if let (Some(fault), Some(body)) = (self.fault.lock().as_mut(), &request.body) {
                kind = fault(body);
            }
            if kind == FaultKind::LoseRequest {
                return Err(lost());
            }
            let held = match (self.held.lock().as_mut(), &request.body) {
                (Some(held), Some(body)) => held(body),
                _ => false,
            };
            // Before the answer exists: whoever releases must not be missed.
            let released = self.released.notified();
            let body = self.answer(request).unwrap_or_else(Body::Error);
            if held {
                released.await;
            }
            let undecided = matches!(&body, Body::Lookup(l) if !decided(l));
            if undecided {
                runtime::pause(Duration::from_millis(20)).await;
            }
            if kind == FaultKind::LoseAnswer {
                return Err(lost());
            }
            reply.responses.push(pb::RangeResponse { body: Some(body) });
        }
        if let Some(body) = call.node.and_then(|n| n.body) {
            let barrier = matches!(body, node_request::Body::Barrier(_));
            if barrier && !self.answers_barriers.load(Ordering::SeqCst) {
                return Err(lost());
            }
            reply.node = Some(pb::NodeResponse { body: Some(self.node_answer(&body)) });
        }
        Ok(reply)
    }
}

fn decided(lookup: &pb::LookupResponse) -> bool {
    let state = lookup.status.as_ref().and_then(|s| s.state.as_ref());
    lookup.expired || matches!(state, Some(pb::txn_status::State::Verdict(_)))
}

impl FakeNode {
    fn node_answer(&self, body: &node_request::Body) -> node_response::Body {
        match body {
            node_request::Body::Locate(locate) => {
                let ranges = self.ranges.lock();
                let i = find(&ranges, &locate.start).expect("ranges tile the keyspace");
                let route = pb::RangeRoute {
                    descriptor: Some(ranges[i].descriptor.clone()),
                    leader_node_id: 1,
                };
                let routes = vec![route];
                node_response::Body::Locate(pb::LocateResponse { routes, nodes: Vec::new() })
            }
            node_request::Body::Allocate(allocate) => {
                let mut next = self.next_id.lock();
                let first = *next;
                *next += allocate.count;
                node_response::Body::Allocate(pb::AllocateResponse { first })
            }
            node_request::Body::Barrier(b) => {
                let catalog_version = b.catalog_version;
                self.barriers.lock().push(catalog_version);
                let building_tables = self.building.lock().clone();
                let answer = pb::BarrierResponse { catalog_version, building_tables };
                node_response::Body::Barrier(answer)
            }
            node_request::Body::Report(_) => {
                let node = |id: &u64| pb::NodeInfo { node_id: *id, ..Default::default() };
                let nodes = self.registered.lock().iter().map(node).collect();
                let report = pb::ReportResponse { nodes, loads: Vec::new() };
                node_response::Body::Report(report)
            }
            node_request::Body::KeepLocks(_) => {
                node_response::Body::KeepLocks(pb::KeepLocksResponse {})
            }
            node_request::Body::ListLocks(list) => {
                let ranges = self.ranges.lock();
                let of = |range: &Range| {
                    let limit = list.limit as usize;
                    let now = self.clock.monotonic();
                    match list.waiting_only {
                        true => range.leader.rows.list_waits(limit, now),
                        false => range.leader.rows.list(limit, now),
                    }
                };
                let locks = ranges.iter().flat_map(of).collect();
                node_response::Body::ListLocks(pb::ListLocksResponse { locks })
            }
            node_request::Body::Join(_)
            | node_request::Body::Status(_)
            | node_request::Body::Ping(_) => node_response::Body::Error(invalid("not here")),
        }
    }
}

/// Only this one node.
pub struct OneNode(pub Arc<FakeNode>);

impl Connector for OneNode {
    fn node(&self, _: NodeId) -> Option<Arc<dyn NodeService>> {
        Some(self.0.clone())
    }

    fn nodes(&self) -> Vec<NodeId> {
        vec![NodeId(1)]
    }

    fn learn(&self, _: &[pb::NodeInfo]) {}
}

/// An address book of several nodes, which knows some of them only when it is told.
pub struct Book {
    /// All there are.
    pub nodes: BTreeMap<NodeId, Arc<FakeNode>>,
    /// Those it knows.
    pub known: Mutex<BTreeSet<NodeId>>,
}

impl Connector for Book {
    fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
        let known = self.known.lock().contains(&node);
        let node = self.nodes.get(&node).filter(|_| known)?;
        Some(node.clone())
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.known.lock().iter().copied().collect()
    }

    fn learn(&self, nodes: &[pb::NodeInfo]) {
        self.known.lock().extend(nodes.iter().map(|node| NodeId(node.node_id)));
    }
}
