//! A node: storage, replication and ranges put together, and its house-keeping.
//!
//! ```text
//! let node = Node::open(NodeConfig::new(storage, start, rpc_addr, clock, programs)).await?;
//! node.set_gateway(hook);                         // optional: who answers barriers
//! node::server::serve(listener, node.clone(), shutdown).await?;    // not needed in one process
//! node.connector();                               // for the gateway: this node first
//! node.shutdown().await;
//! ```
//!
//! # The life of a node
//! 1. [`Node::open`] opens the folder, finds out who it is (or bootstraps, or joins), waits until
//!    the clock has passed the bound of its earlier life (T3), and starts replication.
//! 2. [`Node`] answers calls (`service`); requests to the meta range find its leader
//!    (`meta_client`).
//! 3. House-keeping (`house`, `pinger`): the clock's bound, reports to the meta range, comparing
//!    clocks, placement, spreading leaders, floors, splits by size.
//! 4. [`Node::shutdown`] drains: leaders move away, no new calls, flush.

#![expect(
    clippy::result_large_err,
    reason = "errors carry their cure, are rare, and leave the node as they are"
)]

pub mod clock;
pub mod config;
pub mod connector;
mod floors;
mod folder;
mod house;
pub mod identity;
mod meta_client;
mod offsets;
mod open;
mod pinger;
mod runtime;
pub mod server;
mod service;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::{Connector, NodeId, RangeId, Timestamp, pb};
use quorate_txn::clock::NodeClock;
use quorate_txn::recovery::Leftover;
use tokio::sync::{Notify, watch};

use self::config::NodeConfig;
use self::connector::NodeConnector;
use self::identity::Identity;
use crate::disk::DiskGuard;
use crate::engine::{EngineError, KeySpan};
use crate::log::{LogError, LogStore};
use crate::raft::{RaftHandle, Running};
use crate::range::{RangeEvents, Ranges};

pub use clock::SystemClock;
pub use config::{MemoryDisk, Network, OpenDisk, Start, Storage};
pub use connector::{Fabric, LocalNetwork};

/// Why a node could not be opened. The text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {0} is in use by another process")]
    Locked(PathBuf),
    /// An empty folder, and nothing was said of a cluster.
    #[error("the data folder {0} holds no node: say --bootstrap to begin a cluster or --join")]
    NoNode(String),
    /// Of another release.
    #[error(
        "the data folder has format {found}, this release reads up to format {known}: \
         start it with the newer release"
    )]
    NewerFormat {
        /// In the folder.
        found: u32,
        /// The newest this release knows.
        known: u32,
    },
    /// No node has begun in the folder, and it is not empty.
    #[error(
        "the data folder {} is neither empty nor a node's: it contains `{name}`", dir.display()
    )]
    ForeignFiles {
        /// The folder.
        dir: PathBuf,
        /// One of the files.
        name: String,
    },
    /// The folder is of another cluster than the one it is to join.
    #[error(
        "the data folder {dir} belongs to cluster {folder}, the nodes of --join are of cluster \
         {others}: start it without --join to go on in its own, or join with an empty folder"
    )]
    OtherCluster {
        /// The folder.
        dir: String,
        /// In the folder.
        folder: String,
        /// Of the seeds.
        others: String,
    },
    /// `max_clock_offset` is the cluster's, not a node's.
    #[error(
        "this node was started with max-clock-offset {asked:?}, its cluster was begun with \
         {cluster:?}: leave the setting out, or say {cluster:?}"
    )]
    OtherClockOffset {
        /// What it was started with.
        asked: Duration,
        /// What the cluster has.
        cluster: Duration,
    },
    /// No cluster may have this `max_clock_offset`.
    #[error("max-clock-offset: {0}")]
    ClockOffset(String),
    /// No seed let it in.
    #[error("no node of the cluster could be joined: {0}")]
    NotJoined(String),
    /// What is on disk does not fit together.
    #[error("the data folder is damaged: {0}")]
    Damaged(String),
    /// The storage engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The Raft log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// From the system.
    #[error("{0}")]
    System(String),
}

/// Who answers what concerns the SQL side of a node.
#[async_trait::async_trait]
pub trait GatewayHook: Send + Sync {
    /// Adopts the catalog of at least this version; answers the version adopted once no
    /// transaction that writes with an older one is in flight.
    async fn barrier(&self, catalog_version: u64) -> u64;

    /// The tables whose indexes are being built by this node's gateway.
    fn building_tables(&self) -> Vec<u64> {
        Vec::new()
    }

    /// The oldest moment that a running transaction of this node's gateway reads.
    fn oldest_read(&self) -> Option<Timestamp> {
        None
    }

    /// Spans whose old versions stay readable for another time than the node's setting says, in the
    /// order of their keys; `None` while that is not known.
    fn gc_windows(&self) -> Option<Vec<(KeySpan, Duration)>> {
        Some(Vec::new())
    }

    /// Finishes what coordinators that died have left in ranges led here.
    async fn clean_up(&self, leftovers: Vec<Leftover>) {
        drop(leftovers);
    }
}

/// Where the ranges report to.
#[derive(Debug)]
pub(crate) struct Events {
    pub routes: Notify,
    pub failed: watch::Sender<Option<String>>,
}

impl RangeEvents for Events {
    fn routes_changed(&self) {
        self.routes.notify_one();
    }

    fn failed(&self, range: Option<RangeId>, why: &str) {
        let what = range.map_or_else(|| String::from("the node"), |range| range.to_string());
        tracing::error!(%what, why, "cannot go on");
        self.failed.send_modify(|failed| {
            failed.get_or_insert_with(|| format!("{what} cannot go on: {why}"));
        });
    }
}

/// A node.
///
/// # Invariants
/// * After `stopping` is set no call is taken.
/// * The clock's bound on disk is above every reading this node served with (T3).
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    pub(crate) ranges: Arc<Ranges>,
    pub(crate) raft: RaftHandle,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) disk: Option<Arc<DiskGuard>>,
    pub(crate) connector: Arc<NodeConnector>,
    pub(crate) events: Arc<Events>,
    pub(crate) gateway: OnceLock<Arc<dyn GatewayHook>>,
    pub(crate) seen: Mutex<HashMap<NodeId, offsets::Seen>>,
    pub(crate) loads: Mutex<Vec<pb::NodeLoad>>,
    pub(crate) meta_leader: AtomicU64,
    pub(crate) started: Duration,
    /// It had an earlier life.
    pub(crate) restarted: bool,
    /// Rounds of finishing what coordinators left: all of it,
    pub(crate) sweeping: house::Rounds,
    /// and old locks alone.
    pub(crate) asking: house::Rounds,
    pub(crate) stopping: AtomicBool,
    /// It is about to stop, and shall get no leads any more.
    pub(crate) leaving: AtomicBool,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) idle: Notify,
    running: Mutex<Option<Running>>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Held while addresses are written down: the newest are written last.
    saving: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.identity.node_id)
    }
}

impl Node {
    /// Its number in the cluster.
    pub fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// The cluster's 16 bytes.
    pub fn cluster_id(&self) -> Bytes {
        Bytes::copy_from_slice(&self.identity.cluster_id)
    }

    /// Its hybrid clock, to be shared with the gateway beside it.
    pub fn clock(&self) -> Arc<NodeClock> {
        self.ranges.clock.clone()
    }

    /// How it reaches all nodes, itself first.
    pub fn connector(&self) -> Arc<dyn Connector> {
        self.connector.clone()
    }

    /// The driver, for the servers of Raft traffic.
    pub fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    /// Its replicas.
    pub fn ranges(&self) -> &Arc<Ranges> {
        &self.ranges
    }

    /// Who answers barriers from now on; the first call counts.
    pub fn set_gateway(&self, hook: Arc<dyn GatewayHook>) {
        // The first one stays.
        let _ = self.gateway.set(hook);
    }

    /// Waits until the node cannot go on, and says why.
    pub async fn failed(&self) -> String {
        let mut failed = self.events.failed.subscribe();
        loop {
            if let Some(why) = failed.borrow_and_update().clone() {
                return why;
            }
            if failed.changed().await.is_err() {
                return String::from("the node is gone");
            }
        }
    }

    /// What it tells others of itself.
    pub fn info(&self) -> pb::NodeInfo {
        pb::NodeInfo {
            node_id: self.identity.node_id.0,
            rpc_addr: self.config.rpc_addr.clone(),
            sql_addr: self.config.sql_addr.clone(),
            http_addr: self.config.http_addr.clone(),
        }
    }

    /// Stops at once, as if the process were killed: nothing is flushed or handed over.
    pub async fn kill(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.leave();
        self.stop_workers().await;
    }

    /// Drains and stops: leaders move away, no new calls, everything is flushed. The next start
    /// has nothing to redo and nothing to wait for.
    pub async fn shutdown(&self) {
        if self.leaving.swap(true, Ordering::SeqCst) {
            return;
        }
        // Calls are taken until others lead: whoever is refused must have somebody to go to.
        let ends = tokio::time::Instant::now() + config::DRAIN_TIMEOUT;
        self.hand_leads_on(ends).await;
        self.stopping.store(true, Ordering::SeqCst);
        self.drain(ends).await;
        self.leave();
        self.stop_workers().await;
        let ranges = self.ranges.clone();
        let flushed =
            runtime::blocking(self.config.workers_as_tasks, move || ranges.engine.flush()).await;
        if let Some(Err(error)) = flushed {
            tracing::error!(%error, "the last flush failed");
        }
        // No reading is given out any more: the next life need not wait.
        let last = self.ranges.clock.last();
        if let Err(error) = identity::store_clock_bound(&*self.log, last) {
            tracing::error!(%error, "the clock's bound was not written");
        }
    }

    fn leave(&self) {
        if let config::Network::InProcess(local) = &self.config.network {
            local.remove(self.id());
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    async fn stop_workers(&self) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            runtime::blocking(self.config.workers_as_tasks, move || running.stop()).await;
        }
    }
}
