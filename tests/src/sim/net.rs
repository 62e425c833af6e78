//! The network between the machines: every call and every Raft frame passes here, waits for as long
//! as the seed says, and may be lost.
//!
//! What it may do is what TCP streams do. Frames of a pair arrive in order, or not at all; now and
//! then the stream breaks and a frame of the old one arrives after frames of the new one. A call is
//! lost, or its answer is, or the caller is told that the connection broke and the call arrives all
//! the same, up to seconds later. Now and then a call or a frame arrives once more: what was sent
//! again after a connection broke, though the first copy had arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message as _;
use protobuf::Message as _;
use quorate_proto::{CallError, NodeId, NodeService, pb};
use quorate_shard::node::Fabric;
use quorate_shard::raft::RaftHandle;
use quorate_shard::transport::{OutgoingSnapshot, RaftTransport, SnapshotFile};
use raft::eraftpb;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{Notify, oneshot};

use super::disk::Life;
use super::runtime;
use super::system;
use super::trace::{Fnv, Trace};

/// Added to a call's own timeout, as the real client does.
const TRAVEL_ALLOWANCE: Duration = Duration::from_millis(500);
/// How late a call may arrive whose caller was told that the connection broke.
const LATE_MAX: Duration = Duration::from_secs(9);

/// Most second copies come within this time.
const SECOND_SOON: Duration = Duration::from_millis(100);

/// How the network is at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shortest time on the way.
    pub delay_min: Duration,
    /// Longest time on the way.
    pub delay_max: Duration,
    /// Of a thousand frames or calls, so many are lost.
    pub loss_per_mille: u32,
    /// Of a thousand calls, so many arrive after their caller has given up.
    pub late_per_mille: u32,
    /// Of a thousand frames, so many arrive out of order.
    pub disorder_per_mille: u32,
    /// Of a thousand frames or calls, so many arrive a second time.
    pub twice_per_mille: u32,
}

impl Weather {
    /// Nothing is lost.
    pub const FAIR: Self = Self {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(3),
        loss_per_mille: 0,
        late_per_mille: 0,
        disorder_per_mille: 0,
        twice_per_mille: 0,
    };
}

/// Who waits for an answer. Not by machine: a node that joins takes answers before it takes calls.
struct Answer {
    to: oneshot::Sender<pb::Reply>,
    life: Arc<Life>,
}

enum Parcel {
    Frame(Box<pb::RaftFrame>),
    Snapshot(Box<OutgoingSnapshot>),
    Call(Box<pb::Call>, Answer),
    Reply(Box<pb::Reply>, Answer),
}

impl Parcel {
    fn describe(&self) -> String {
        match self {
            Self::Frame(frame) => {
                let hash = Fnv::of(&frame.encode_to_vec());
                let beat = if frame.heartbeat.is_some() { "+beat" } else { "" };
                format!("frame of {}{beat} {hash:016x}", frame.messages.len())
            }
            Self::Snapshot(snapshot) => format!("snapshot of r{}", snapshot.message.range_id),
            Self::Call(call, _) => {
                format!("call {} {:016x}", name_of(call), Fnv::of(&call.encode_to_vec()))
            }
            Self::Reply(reply, _) => format!("reply {:016x}", Fnv::of(&reply.encode_to_vec())),
        }
    }
}

/// The Raft messages of a frame, for people.
fn messages_of(frame: &pb::RaftFrame) -> String {
    let messages = frame.messages.iter().map(|message| {
        let peer = |replica: Option<pb::Replica>| replica.map_or(0, |replica| replica.peer_id);
        let (from, to) = (peer(message.from), peer(message.to));
        match eraftpb::Message::parse_from_bytes(&message.message) {
            Ok(raft) => format!(
                "    r{} {from}>{to} {:?} term {} at {}/{} entries {} commit {} reject {} hint {}",
                message.range_id,
                raft.get_msg_type(),
                raft.term,
                raft.index,
                raft.log_term,
                raft.entries.len(),
                raft.commit,
                raft.reject,
                raft.reject_hint,
            ),
            Err(error) => format!("    r{} {from}>{to} {error}", message.range_id),
        }
    });
    messages.collect::<Vec<_>>().join("\n")
}

fn name_of(call: &pb::Call) -> String {
    use pb::range_request::Body as B;
    let names = call.requests.iter().map(|request| match &request.body {
        Some(B::Read(_)) => "read",
        Some(B::Scan(_)) => "scan",
        Some(B::Prepare(_)) => "prepare",
        Some(B::Commit(_)) => "commit",
        Some(B::Verdict(_)) => "verdict",
        Some(B::Close(_)) => "close",
        Some(B::Resolve(_)) => "resolve",
        Some(B::Lookup(_)) => "lookup",
        Some(B::Check(_)) => "check",
        Some(B::DropRecord(_)) => "drop",
        Some(B::Heartbeat(_)) => "alive",
        Some(B::Hint(_)) => "hint",
        Some(B::Split(_)) => "split",
        Some(B::Lock(_)) => "lock",
        Some(B::Unlock(_)) => "unlock",
        Some(B::CloseTimestamp(_)) => "close-ts",
        Some(B::TransferLeader(_) | B::ChangeReplicas(_) | B::RaiseSafePoint(_)) | None => "admin",
    });
    let mut names: Vec<_> = names.collect();
    if call.node.is_some() {
        names.push("node");
    }
    names.join("+")
}

/// What is on its way and arrives first.
enum Next {
    Now(usize, usize, Box<Parcel>),
    In(Duration),
    Nothing,
}

/// A node that takes calls.
struct Present {
    life: Arc<Life>,
    id: NodeId,
    service: Weak<dyn NodeService>,
    raft: Option<RaftHandle>,
}

struct Inner {
    rng: StdRng,
    weather: Weather,
    queue: BTreeMap<(Duration, u64), (usize, usize, Parcel)>,
    next: u64,
    last_arrival: BTreeMap<(usize, usize), Duration>,
    cut: BTreeSet<(usize, usize)>,
    present: BTreeMap<usize, Present>,
    machine_of: BTreeMap<NodeId, usize>,
    copies: u64,
}

impl Inner {
    fn draw_delay(&mut self) -> Duration {
        let (min, max) = (self.weather.delay_min, self.weather.delay_max);
        let spread = u64::try_from((max - min).as_micros()).unwrap_or(0);
        min + Duration::from_micros(self.rng.random_range(0..=spread))
    }

    fn draws(&mut self, per_mille: u32) -> bool {
        self.rng.random_range(0..1000) < per_mille
    }

    fn loses(&mut self) -> bool {
        self.draws(self.weather.loss_per_mille)
    }

    /// How much later a message arrives a second time, if it does: soon, or much later.
    fn draw_second(&mut self) -> Option<Duration> {
        if !self.draws(self.weather.twice_per_mille) {
            return None;
        }
        let most = if self.draws(700) { SECOND_SOON } else { LATE_MAX };
        let most = u64::try_from(most.as_micros()).unwrap_or(1);
        Some(Duration::from_micros(self.rng.random_range(0..most)))
    }

    fn push(&mut self, at: Duration, from: usize, to: usize, parcel: Parcel) {
        self.next += 1;
        self.queue.insert((at, self.next), (from, to, parcel));
    }

    /// Where the node is, and whether it lives.
    fn lives(&self, machine: usize) -> bool {
        self.present.get(&machine).is_some_and(|present| !present.life.is_over())
    }
}

/// The network.
///
/// # Invariants
/// * What leaves a machine after its crash is lost.
/// * Nothing passes a link that is cut at the moment it arrives.
pub struct Net {
    inner: Mutex<Inner>,
    news: Notify,
    trace: Arc<Trace>,
}

impl Net {
    /// A network without machines.
    pub fn new(seed: u64, trace: Arc<Trace>) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            queue: BTreeMap::new(),
            next: 0,
            last_arrival: BTreeMap::new(),
            cut: BTreeSet::new(),
            present: BTreeMap::new(),
            machine_of: BTreeMap::new(),
            copies: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), news: Notify::new(), trace })
    }

    /// The weather changes.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// Nothing passes from the first to the second any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.inner.lock().cut.insert((from, to));
    }

    /// It passes again.
    pub fn mend(&self, from: usize, to: usize) {
        self.inner.lock().cut.remove(&(from, to));
    }

    /// Everything passes again.
    pub fn mend_all(&self) {
        self.inner.lock().cut.clear();
    }

    /// A life's way into the network.
    pub fn endpoint(self: &Arc<Self>, life: Arc<Life>) -> Arc<Endpoint> {
        Arc::new(Endpoint { net: self.clone(), life })
    }

    /// Carries what is on its way, for ever.
    pub async fn carry(self: Arc<Self>) {
        loop {
            match self.next_arrival() {
                Next::Now(from, to, parcel) => self.arrive(from, to, *parcel),
                Next::In(wait) => {
                    runtime::within(wait, self.news.notified()).await;
                }
                Next::Nothing => self.news.notified().await,
            }
        }
    }

    fn next_arrival(&self) -> Next {
        let now = system::now();
        let mut inner = self.inner.lock();
        let Some(first) = inner.queue.first_entry() else { return Next::Nothing };
        let at = first.key().0;
        if at > now {
            return Next::In(at - now);
        }
        let (from, to, parcel) = first.remove();
        Next::Now(from, to, Box::new(parcel))
    }

    fn arrive(self: &Arc<Self>, from: usize, to: usize, parcel: Parcel) {
        let inner = self.inner.lock();
        let lives = match &parcel {
            Parcel::Reply(_, answer) => !answer.life.is_over(),
            _ => inner.lives(to),
        };
        let gone = !lives || inner.cut.contains(&(from, to));
        let lost = if gone { "lost: " } else { "" };
        self.trace.event(format_args!("m{from}>m{to} {lost}{}", parcel.describe()));
        if let Parcel::Frame(frame) = &parcel {
            self.trace.detail(|| messages_of(frame));
        }
        let present = inner.present.get(&to);
        let (raft, service, life) = match present {
            Some(present) if !gone => {
                (present.raft.clone(), present.service.upgrade(), Some(present.life.clone()))
            }
            _ => (None, None, None),
        };
        drop(inner);
        match parcel {
            Parcel::Frame(frame) => {
                if let Some(raft) = raft {
                    raft.receive(*frame);
                }
            }
            Parcel::Snapshot(snapshot) => match raft {
                Some(raft) => self.hand_over(&raft, *snapshot),
                None => snapshot.finish(false),
            },
            Parcel::Call(call, answer) => {
                // Without a service, dropping the answer says that the connection broke.
                if let (Some(service), Some(life)) = (service, life) {
                    let net = self.clone();
                    runtime::spawn(net.serve(from, to, life, service, *call, answer));
                }
            }
            Parcel::Reply(reply, answer) => {
                if !gone {
                    // The caller may have given up.
                    let _ = answer.to.send(*reply);
                }
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        from: usize,
        to: usize,
        life: Arc<Life>,
        service: Arc<dyn NodeService>,
        call: pb::Call,
        answer: Answer,
    ) {
        let served = runtime::unless(life.over.cancelled(), service.call(call)).await;
        let Some(Ok(reply)) = served else { return };
        if life.is_over() {
            return;
        }
        let mut inner = self.inner.lock();
        let lost = inner.loses();
        let at = system::now() + inner.draw_delay();
        if !lost {
            inner.push(at, to, from, Parcel::Reply(Box::new(reply), answer));
            drop(inner);
            self.news.notify_one();
        }
    }

    fn hand_over(&self, raft: &RaftHandle, snapshot: OutgoingSnapshot) {
        let copied: std::io::Result<Vec<SnapshotFile>> = snapshot
            .files
            .iter()
            .map(|file| {
                std::fs::create_dir_all(raft.snapshot_dir())?;
                let number = {
                    let mut inner = self.inner.lock();
                    inner.copies += 1;
                    inner.copies
                };
                let path = raft.snapshot_dir().join(format!("in-{number}.sst"));
                std::fs::copy(&file.path, &path)?;
                Ok(SnapshotFile { column_family: file.column_family.clone(), path })
            })
            .collect();
        match copied {
            Ok(files) => {
                raft.receive_snapshot(snapshot.message.clone(), files);
                snapshot.finish(true);
            }
            Err(error) => {
                self.trace.event(format_args!("a snapshot was lost: {error}"));
                snapshot.finish(false);
            }
        }
    }
}

/// One life's way into the network.
pub struct Endpoint {
    net: Arc<Net>,
    life: Arc<Life>,
}

impl Endpoint {
    /// A message leaves: `false` if the machine has crashed, perhaps at this very moment.
    fn leaves(&self) -> bool {
        if self.life.strikes() {
            self.life.end(&self.net.trace, "sending");
        }
        !self.life.is_over()
    }
}

impl Fabric for Endpoint {
    fn transport(&self, _own: NodeId) -> Arc<dyn RaftTransport> {
        Arc::new(Frames(Self { net: self.net.clone(), life: self.life.clone() }))
    }

    fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
        let to = *self.net.inner.lock().machine_of.get(&node)?;
        Some(Arc::new(Caller { net: self.net.clone(), life: self.life.clone(), to }))
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.net.inner.lock().machine_of.keys().copied().collect()
    }

    fn add(&self, own: NodeId, service: Weak<dyn NodeService>) {
        let mut inner = self.net.inner.lock();
        inner.machine_of.insert(own, self.life.machine);
        let raft = inner.present.remove(&self.life.machine).and_then(|present| present.raft);
        let present = Present { life: self.life.clone(), id: own, service, raft };
        inner.present.insert(self.life.machine, present);
    }

    fn remove(&self, own: NodeId) {
        let mut inner = self.net.inner.lock();
        let present = inner.present.get(&self.life.machine);
        if present.is_some_and(|p| p.id == own && Arc::ptr_eq(&p.life, &self.life)) {
            inner.present.remove(&self.life.machine);
        }
    }
}

/// Nobody: the service of a node that takes frames already, but no calls yet.
struct NotYet;

#[async_trait]
impl NodeService for NotYet {
    async fn call(&self, _: pb::Call) -> Result<pb::Reply, CallError> {
        Err(CallError::Broken { node: String::from("a node that starts") })
    }
}

/// Raft frames of one life.
struct Frames(Endpoint);

impl RaftTransport for Frames {
    fn send(&self, node: NodeId, frame: pb::RaftFrame) {
        if !self.0.leaves() {
            return;
        }
        let from = self.0.life.machine;
        let mut inner = self.0.net.inner.lock();
        let Some(to) = inner.machine_of.get(&node).copied() else { return };
        let lost = inner.loses() || inner.cut.contains(&(from, to));
        let delay = inner.draw_delay();
        let disorder = inner.weather.disorder_per_mille;
        let disorder = inner.draws(disorder);
        if lost {
            return;
        }
        let mut at = system::now() + delay;
        if disorder {
            at += delay * 3;
        } else {
            let last = inner.last_arrival.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        if let Some(later) = inner.draw_second() {
            inner.push(at + later, from, to, Parcel::Frame(Box::new(frame.clone())));
        }
        inner.push(at, from, to, Parcel::Frame(Box::new(frame)));
        drop(inner);
        self.0.net.news.notify_one();
    }

    fn send_snapshot(&self, node: NodeId, snapshot: OutgoingSnapshot) {
        let from = self.0.life.machine;
        let to = self.0.net.inner.lock().machine_of.get(&node).copied();
        let Some(to) = to.filter(|_| self.0.leaves()) else { return snapshot.finish(false) };
        let mut inner = self.0.net.inner.lock();
        let lost = inner.loses();
        let at = system::now() + inner.draw_delay() * 4;
        if lost {
            drop(inner);
            return snapshot.finish(false);
        }
        inner.push(at, from, to, Parcel::Snapshot(Box::new(snapshot)));
        drop(inner);
        self.0.net.news.notify_one();
    }

    fn attach(&self, handle: RaftHandle) {
        let mut inner = self.0.net.inner.lock();
        let service: Weak<NotYet> = Weak::new();
        let present =
            Present { life: self.0.life.clone(), id: handle.node(), service, raft: Some(handle) };
        inner.present.insert(self.0.life.machine, present);
    }
}

/// How one life calls one machine.
struct Caller {
    net: Arc<Net>,
    life: Arc<Life>,
    to: usize,
}

/// What becomes of a call.
enum Fate {
    /// It arrives.
    Arrives,
    /// The caller is told after this time that the connection broke, or could not be made.
    Fails { after: Duration, unsent: bool },
    /// No answer ever comes.
    Silence,
}

impl Caller {
    fn broken(&self) -> CallError {
        CallError::Broken { node: format!("m{}", self.to) }
    }

    /// Draws the call's fate, and puts it on its way where it arrives, in time or too late.
    fn dispatch(&self, call: pb::Call, answer: Answer) -> Fate {
        let (from, to) = (self.life.machine, self.to);
        let mut inner = self.net.inner.lock();
        let delay = inner.draw_delay();
        let late = inner.weather.late_per_mille;
        let late = inner.draws(late);
        let lost = inner.loses();
        let silence = inner.draws(500);
        if inner.cut.contains(&(from, to)) {
            self.net.trace.event(format_args!("m{from}>m{to} cut: call {}", name_of(&call)));
            return match silence {
                true => Fate::Silence,
                false => Fate::Fails { after: delay, unsent: true },
            };
        }
        if !inner.lives(to) {
            // Nobody listens there.
            return Fate::Fails { after: delay, unsent: true };
        }
        let fate = match (late, lost, silence) {
            (true, ..) => {
                let most = u64::try_from(LATE_MAX.as_micros()).unwrap_or(0);
                let later = Duration::from_micros(inner.rng.random_range(0..most));
                let parcel = Parcel::Call(Box::new(call), answer);
                inner.push(system::now() + delay + later, from, to, parcel);
                Fate::Fails { after: delay, unsent: false }
            }
            (false, true, true) => Fate::Silence,
            (false, true, false) => Fate::Fails { after: delay, unsent: false },
            (false, false, _) => {
                if let Some(later) = inner.draw_second() {
                    // Nobody waits for the answer to this one.
                    let nobody = Answer { to: oneshot::channel().0, life: answer.life.clone() };
                    let parcel = Parcel::Call(Box::new(call.clone()), nobody);
                    inner.push(system::now() + delay + later, from, to, parcel);
                }
                let parcel = Parcel::Call(Box::new(call), answer);
                inner.push(system::now() + delay, from, to, parcel);
                Fate::Arrives
            }
        };
        drop(inner);
        self.net.news.notify_one();
        fate
    }
}

#[async_trait]
impl NodeService for Caller {
    async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
        let crashed = self.life.strikes();
        if crashed {
            self.life.end(&self.net.trace, "calling");
        }
        if self.life.is_over() {
            return std::future::pending().await;
        }
        let limit = Duration::from_millis(u64::from(call.timeout_ms)) + TRAVEL_ALLOWANCE;
        let (to, mut answered) = oneshot::channel();
        match self.dispatch(call, Answer { to, life: self.life.clone() }) {
            Fate::Fails { after, unsent } => {
                runtime::pause(after).await;
                let node = format!("m{}", self.to);
                Err(match unsent {
                    true => CallError::Unreachable { node, why: String::from("nobody listens") },
                    false => CallError::Broken { node },
                })
            }
            Fate::Silence => {
                runtime::pause(limit).await;
                Err(self.timed_out(limit))
            }
            Fate::Arrives => match runtime::within(limit, &mut answered).await {
                Some(Ok(reply)) => Ok(reply),
                Some(Err(_)) => Err(self.broken()),
                None => Err(self.timed_out(limit)),
            },
        }
    }
}

impl Caller {
    fn timed_out(&self, limit: Duration) -> CallError {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        CallError::TimedOut { node: format!("m{}", self.to), timeout_ms }
    }
}
