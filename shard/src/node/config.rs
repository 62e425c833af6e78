//! What a node is opened with, and every tunable of its house-keeping.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_txn::clock::PhysicalClock;
use quorate_txn::config::{
    ABORT_RETRY_GRACE, ATTEMPT_TIMEOUT, CLOCK_BOUND_INTERVAL, COMMIT_RETRY_DEADLINE,
    FINISH_DEADLINE, SAFE_POINT_LAG, TXN_FLOOR_LAG,
};

use super::connector::Fabric;
use crate::disk::Reserve;
use crate::engine::{BlockCache, Engine, MemEngine};
use crate::log::{LogStore, MemLog};
use crate::range::ScanEngine;

/// How often a node tells the meta range's leader what it leads, if nothing changed.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);
/// A change is told after this at the earliest, so that several travel together.
pub const REPORT_AFTER: Duration = Duration::from_millis(20);
/// How often nodes ask each other for their clocks.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// How long one such question may take.
pub const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// And how soon again after a reading was refused.
pub const PING_AGAIN: Duration = Duration::from_millis(500);
/// How long a node whose clock is off tries to hand its leads over before it gives them up.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that has not answered for so long gets no replicas and no leaders.
pub const LIVE_FOR: Duration = Duration::from_secs(5);
/// How often replicas are looked at.
pub const PLACE_EVERY: Duration = Duration::from_millis(500);
/// How often one leader may move for balance.
pub const SPREAD_EVERY: Duration = Duration::from_secs(3);
/// How often floors of busy ranges rise.
pub const FLOORS_EVERY: Duration = Duration::from_secs(10);
/// Commands by which a range drops records each time: some 3,000 transactions a second. Each
/// command looks at all records of the last seconds once more.
pub const DROPS_MAX: usize = 8;
/// For so long what a node has told of its running transactions is believed: one that is frozen or
/// cut off may come back.
pub const READERS_REMEMBERED: Duration = Duration::from_secs(60);
/// Row locks told in one answer at most.
pub const LISTED_LOCKS_MAX: usize = 10_000;
/// And about how many bytes they may have: far less than one message may.
pub const LISTED_LOCKS_BYTES_MAX: usize = 8 << 20;
/// Calls that a node made before a restart may be worked on elsewhere for so long.
pub const OWN_CALLS_LIVE: Duration = Duration::from_secs(5);
/// How often a range is swept for what dead coordinators have left.
pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Transactions that began to commit so long ago are swept: their coordinators have given up.
pub const SWEEP_AGE: Duration = Duration::from_secs(45);
/// How often a leader asks about locks that have stood for [`LOCKS_ASKED_AGE`].
pub const LOCKS_ASKED_EVERY: Duration = Duration::from_secs(1);
/// Locks of transactions that began to commit so long ago are asked about: most stand for
/// milliseconds. Whose coordinator lives is left alone (P11).
pub const LOCKS_ASKED_AGE: Duration = Duration::from_secs(1);
/// How often sizes are looked at.
pub const SIZES_EVERY: Duration = Duration::from_secs(10);
/// How often the disk is looked at.
pub const DISK_EVERY: Duration = Duration::from_secs(1);
/// How long one step of house-keeping may take.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node tries to join before it says that nobody answers.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts to reach the meta range's leader.
pub const META_RETRY: Duration = Duration::from_millis(100);
/// How often a node that stops offers its leads,
pub const HAND_ON_TRIES: usize = 5;
/// and how long after who refused them.
pub const HAND_ON_PAUSE: Duration = Duration::from_millis(100);
/// How long a drain waits for calls under way and for leaders to move.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server waits for streams after the node has stopped.
pub const SERVER_GRACE: Duration = Duration::from_millis(500);
/// Ranges above this are split.
pub const RANGE_BYTES_MAX_DEFAULT: u64 = 256 << 20;
/// Replicas of a range.
pub const REPLICATION_FACTOR_DEFAULT: usize = 3;

const _: () = assert!(
    LIVE_FOR.as_millis() > 2 * (PING_EVERY.as_millis() + PING_TIMEOUT.as_millis()),
    "one lost answer does not make a node look dead"
);
const _: () = assert!(
    SWEEP_AGE.as_millis()
        > COMMIT_RETRY_DEADLINE.as_millis()
            + ABORT_RETRY_GRACE.as_millis()
            + FINISH_DEADLINE.as_millis(),
    "what a living coordinator works on is not swept"
);
const _: () = assert!(
    OWN_CALLS_LIVE.as_millis() > ATTEMPT_TIMEOUT.as_millis(),
    "the calls of an earlier life have ended"
);
const _: () = assert!(CLOCK_BOUND_INTERVAL.as_millis() >= 1000, "a bound costs a sync of the log");
const _: () = assert!(
    SAFE_POINT_LAG.as_millis() > TXN_FLOOR_LAG.as_millis(),
    "the default window is above the least one"
);

/// A disk in memory: the twins of engine and log. It outlives the node that is opened on it.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    /// The rows.
    pub engine: Arc<MemEngine>,
    /// The logs.
    pub log: Arc<MemLog>,
    /// Where snapshots are put together, and nothing else.
    pub dir: PathBuf,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { engine: Arc::new(MemEngine::new()), log: Arc::new(MemLog::new()), dir: dir.into() }
    }

    /// Loses what was not flushed or synced (rule X2). The node on it must have been killed.
    pub fn crash(&self) {
        self.engine.crash();
        self.log.crash();
    }

    /// What a crash at this moment leaves, as a disk of its own (rule X2): the node on this one
    /// may go on for a while, and nobody will ever see what it still writes.
    pub fn after_crash(&self) -> Self {
        Self {
            engine: Arc::new(self.engine.after_crash()),
            log: Arc::new(self.log.after_crash()),
            dir: self.dir.clone(),
        }
    }
}

/// An engine and a log that are open already: a simulator's, which watch over the twins.
#[derive(Debug, Clone)]
pub struct OpenDisk {
    /// The rows.
    pub engine: Arc<dyn Engine>,
    /// The logs.
    pub log: Arc<dyn LogStore>,
    /// Where snapshots are put together, and nothing else.
    pub dir: PathBuf,
}

/// Where a node keeps its data.
#[derive(Debug, Clone)]
pub enum Storage {
    /// A folder of its own.
    Folder(PathBuf),
    /// In memory, for tests and simulations.
    Memory(MemoryDisk),
    /// Given from outside.
    Open(OpenDisk),
}

/// What to do with an empty folder. A folder of a node goes on as that node, whatever is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Nothing: it must be a node's.
    Restart,
    /// Begin a cluster.
    Bootstrap,
    /// Join the cluster of these nodes (`host:port` of their RPC servers).
    Join(Vec<String>),
}

/// How nodes reach each other.
#[derive(Clone)]
pub enum Network {
    /// Over TCP, by the addresses they advertise.
    Tcp,
    /// All in this process.
    InProcess(Arc<dyn Fabric>),
}

/// What a node is opened with.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where its data is.
    pub storage: Storage,
    /// What to do if there is none.
    pub start: Start,
    /// How nodes reach each other.
    pub network: Network,
    /// Advertised `host:port` of the RPC server.
    pub rpc_addr: String,
    /// Advertised `host:port` of the SQL port; may be empty.
    pub sql_addr: String,
    /// Advertised `host:port` of the HTTP port; may be empty.
    pub http_addr: String,
    /// Its physical clock.
    pub clock: Arc<dyn PhysicalClock>,
    /// Runs scan programs.
    pub programs: Arc<dyn ScanEngine>,
    /// How far clocks may be apart; `None`: as the cluster has it. Another value than the
    /// cluster's is refused.
    pub max_clock_offset: Option<Duration>,
    /// Replicas of a range.
    pub replication_factor: usize,
    /// How long ended versions can be read.
    pub gc_window: Duration,
    /// A range above this is split.
    pub range_bytes_max: u64,
    /// How much of the disk stays free (rule S5).
    pub reserve: Reserve,
    /// Threads of the replication driver.
    pub workers: usize,
    /// For election timeouts and the cluster id; `None`: from the system.
    pub seed: Option<u64>,
    /// Shared by the nodes of a process; `None`: one of its own.
    pub cache: Option<BlockCache>,
    /// Run the replication driver as tasks of the runtime, not on threads: for simulations.
    pub workers_as_tasks: bool,
}

impl NodeConfig {
    /// Defaults for the rest.
    pub fn new(
        storage: Storage,
        start: Start,
        rpc_addr: impl Into<String>,
        clock: Arc<dyn PhysicalClock>,
        programs: Arc<dyn ScanEngine>,
    ) -> Self {
        Self {
            storage,
            start,
            network: Network::Tcp,
            rpc_addr: rpc_addr.into(),
            sql_addr: String::new(),
            http_addr: String::new(),
            clock,
            programs,
            max_clock_offset: None,
            replication_factor: REPLICATION_FACTOR_DEFAULT,
            gc_window: SAFE_POINT_LAG,
            range_bytes_max: RANGE_BYTES_MAX_DEFAULT,
            reserve: Reserve::Default,
            workers: crate::raft::config::WORKERS_DEFAULT,
            seed: None,
            cache: None,
            workers_as_tasks: false,
        }
    }
}
