//! Opening a node: folder, identity, clock, join or bootstrap, replication.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::pb::{node_request, node_response};
use quorate_proto::{FORMAT_VERSION, NodeId, NodeService, RemoteNode, Timestamp, pb};
use quorate_txn::clock::NodeClock;
use quorate_txn::config::{CLOCK_BOUND_AHEAD, MAX_CLOCK_OFFSET, check_max_clock_offset};
use quorate_txn::keys;
use quorate_txn::mistakes::Mistake;
use tokio::sync::{Notify, watch};

use super::config::{JOIN_TIMEOUT, META_RETRY, Network, NodeConfig, Start, Storage};
use super::connector::NodeConnector;
use super::house::Rounds;
use super::identity::{self, Identity};
use super::{Events, Node, OpenError, folder, runtime};
use crate::disk::{DiskGuard, FolderSpace};
use crate::engine::{Engine, EngineError, RocksConfig, RocksEngine};
use crate::log::store::{LogConfig, RaftEngineLog};
use crate::log::{LogError, LogStore};
use crate::raft::{
    Background, Driver, InlineBackground, RaftConfig, RaftDeps, Running, ThreadBackground,
};
use crate::range::{Allocator, BOOTSTRAP_NODE, FIRST_DB_RANGE, Factory, META_RANGE, Ranges, meta};
use crate::transport::RaftTransport;
use crate::transport::remote::RemoteTransport;

/// What is opened first.
struct Opened {
    engine: Arc<dyn Engine>,
    log: Arc<dyn LogStore>,
    disk: Option<Arc<DiskGuard>>,
    snapshot_dir: PathBuf,
    name: String,
}

fn locked(dir: &Path, why: &str) -> Option<OpenError> {
    let why = why.to_lowercase();
    let held = why.contains("lock") && (why.contains("hold") || why.contains("unavailable"));
    held.then(|| OpenError::Locked(dir.to_owned()))
}

fn open_storage(config: &NodeConfig) -> Result<Opened, OpenError> {
    let dir = match &config.storage {
        Storage::Memory(disk) => {
            return Ok(Opened {
                engine: disk.engine.clone(),
                log: disk.log.clone(),
                disk: None,
                snapshot_dir: disk.dir.clone(),
                name: String::from("in memory"),
            });
        }
        Storage::Open(disk) => {
            return Ok(Opened {
                engine: disk.engine.clone(),
                log: disk.log.clone(),
                disk: None,
                snapshot_dir: disk.dir.clone(),
                name: String::from("given"),
            });
        }
        Storage::Folder(dir) => dir,
    };
    let system = |e: std::io::Error| OpenError::System(format!("{}: {e}", dir.display()));
    folder::check_files(dir)?;
    let rocks = RocksConfig {
        cache: config.cache.clone().unwrap_or_else(|| RocksConfig::default().cache),
        ..RocksConfig::default()
    };
    let engine =
        RocksEngine::open(&dir.join(folder::ROWS), rocks).map_err(|error| match &error {
            EngineError::Storage(why) => locked(dir, why).unwrap_or(OpenError::Engine(error)),
            EngineError::NewerFormat { found, known } => {
                OpenError::NewerFormat { found: *found, known: *known }
            }
            _ => OpenError::Engine(error),
        })?;
    let log =
        RaftEngineLog::open(&dir.join(folder::RAFT), LogConfig::default()).map_err(|error| {
            match &error {
                LogError::Failed(why) => locked(dir, why).unwrap_or(OpenError::Log(error)),
                _ => OpenError::Log(error),
            }
        })?;
    let disk = DiskGuard::new(Arc::new(FolderSpace::new(dir)), config.reserve.clone());
    Ok(Opened {
        engine: Arc::new(engine),
        log: Arc::new(log),
        disk: Some(Arc::new(disk.map_err(system)?)),
        snapshot_dir: dir.join(folder::SNAPSHOTS),
        name: dir.display().to_string(),
    })
}

impl Node {
    /// Opens a node and starts it. It takes calls from now on (others reach it when the server
    /// runs); ranges serve as soon as they have leaders.
    ///
    /// # Errors
    /// [`OpenError`]; nothing runs then.
    pub async fn open(config: NodeConfig) -> Result<Arc<Self>, OpenError> {
        let early = config.clone();
        let opened = runtime::blocking(config.workers_as_tasks, move || open_storage(&early)).await;
        let opened = opened.ok_or_else(|| OpenError::System("opening panicked".into()))??;
        let log = opened.log.clone();
        let known = Identity::load(&*log)?;
        // Rule T3: what was served before the restart is below this bound.
        let floor = match Mistake::ClockBoundForgotten.is_made() {
            true => Timestamp::ZERO,
            false => identity::load_clock_bound(&*log),
        };
        let max_offset = clock_offset(&config, known.as_ref())?;
        let clock = NodeClock::new(config.clock.clone(), floor, max_offset);
        let wait = clock.wait_after_restart();
        if !wait.is_zero() {
            tracing::info!(?wait, "waits until its clock has passed its earlier life");
            tokio::time::sleep(wait).await;
        }
        let restarted = known.is_some();
        let identity = match known {
            Some(identity) => {
                if let Start::Join(seeds) = &config.start {
                    let seeds = seed_nodes(&config, seeds).into_iter().map(|(_, node)| node);
                    folder::check_cluster(&opened.name, &identity.cluster_id, seeds).await?;
                }
                identity
            }
            None => begin(&config, &opened, &clock).await?,
        };
        // Who has just joined takes the cluster's limit over, and its own readings go on.
        let max_offset = identity.max_clock_offset();
        let clock = Arc::new(NodeClock::new(config.clock.clone(), clock.last(), max_offset));
        let node = Self::start(config, opened, identity, restarted, clock)?;
        if node.identity.bootstrapping {
            node.bootstrap().await?;
        }
        Ok(node)
    }

    fn start(
        config: NodeConfig,
        opened: Opened,
        identity: Identity,
        restarted: bool,
        clock: Arc<NodeClock>,
    ) -> Result<Arc<Self>, OpenError> {
        let local = match &config.network {
            Network::Tcp => None,
            Network::InProcess(local) => Some(local.clone()),
        };
        let connector = NodeConnector::new(identity.node_id, local);
        connector.adopt(&identity::load_addresses(&*opened.log));
        let (failed, _) = watch::channel(None);
        let events = Arc::new(Events { routes: Notify::new(), failed });
        let ranges = Ranges::new(
            identity.node_id,
            opened.engine.clone(),
            clock.clone(),
            config.programs.clone(),
            opened.disk.clone(),
            events.clone(),
        );
        let bound = clock.now().bound_after(CLOCK_BOUND_AHEAD);
        identity::store_clock_bound(&*opened.log, bound)?;
        ranges.set_clock_bound(bound);
        let running = start_driver(&config, &opened, &identity, &ranges, &connector)?;
        let raft = running.handle();
        ranges.attach(raft.clone());
        if let Ok(nodes) = meta::nodes(&*opened.engine.snapshot()) {
            connector.adopt(&nodes);
        }
        let node = Arc::new(Self {
            started: clock.monotonic(),
            restarted,
            config,
            identity,
            ranges,
            raft,
            log: opened.log,
            disk: opened.disk,
            connector,
            events,
            gateway: OnceLock::new(),
            seen: Mutex::new(HashMap::new()),
            loads: Mutex::new(Vec::new()),
            meta_leader: AtomicU64::new(0),
            sweeping: Rounds::default(),
            asking: Rounds::default(),
            stopping: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle: Notify::new(),
            running: Mutex::new(Some(running)),
            tasks: Mutex::new(Vec::new()),
            saving: tokio::sync::Mutex::default(),
        });
        node.connector.adopt(&[node.info()]);
        let weak: Weak<Self> = Arc::downgrade(&node);
        node.connector.set_own(weak.clone());
        let allocator: Weak<dyn Allocator> = weak.clone();
        node.ranges.set_allocator(allocator);
        if let Network::InProcess(local) = &node.config.network {
            local.add(node.id(), weak);
        }
        *node.tasks.lock() = node.start_house_keeping();
        Ok(node)
    }

    /// Makes the first two ranges, with this node's replica alone; others are added when there
    /// are other nodes.
    async fn bootstrap(&self) -> Result<(), OpenError> {
        let split = keys::DB_START;
        for (range, start, end) in [(META_RANGE, &b""[..], split), (FIRST_DB_RANGE, split, b"")] {
            // A crash in the middle left the first one.
            if self.ranges.replica(range).is_some() {
                continue;
            }
            let replica = pb::Replica {
                node_id: self.id().0,
                peer_id: range.0,
                role: pb::ReplicaRole::Voter as i32,
            };
            let descriptor = pb::RangeDescriptor {
                range_id: range.0,
                start: Bytes::copy_from_slice(start),
                end: Bytes::copy_from_slice(end),
                epoch: Some(pb::Epoch { conf: 1, version: 1 }),
                replicas: vec![replica],
            };
            let state =
                pb::RangeState { descriptor: Some(descriptor), ..pb::RangeState::default() };
            let created = self.raft.create_group(state).await;
            created.map_err(|e| OpenError::System(format!("bootstrap of {range}: {e}")))?;
        }
        let done = Identity { bootstrapping: false, ..self.identity.clone() };
        Ok(done.store(&*self.log)?)
    }
}

fn start_driver(
    config: &NodeConfig,
    opened: &Opened,
    identity: &Identity,
    ranges: &Arc<Ranges>,
    connector: &Arc<NodeConnector>,
) -> Result<Running, OpenError> {
    let runtime = tokio::runtime::Handle::current();
    let transport: Arc<dyn RaftTransport> = match &config.network {
        Network::Tcp => RemoteTransport::new(runtime.clone(), connector.clone()),
        Network::InProcess(local) => local.transport(identity.node_id),
    };
    let background: Arc<dyn Background> = match config.workers_as_tasks {
        true => Arc::new(InlineBackground),
        false => Arc::new(ThreadBackground),
    };
    let raft_config = RaftConfig {
        node: identity.node_id,
        cluster_id: Bytes::copy_from_slice(&identity.cluster_id),
        workers: config.workers,
        seed: runtime::seed(config.seed) ^ identity.node_id.0,
        snapshot_dir: opened.snapshot_dir.clone(),
    };
    let deps = RaftDeps {
        engine: opened.engine.clone(),
        log: opened.log.clone(),
        clock: ranges.clock.clone(),
        transport,
        factory: Arc::new(Factory(Arc::downgrade(ranges))),
        background,
    };
    let driver = Driver::open(raft_config, deps).map_err(OpenError::Damaged)?;
    match config.workers_as_tasks {
        true => Ok(driver.run_as_tasks()),
        false => driver.run_on_threads(&runtime).map_err(|e| OpenError::System(e.to_string())),
    }
}

/// How far clocks may be apart: the folder's cluster says, else the one who starts the node, and a
/// node that joins goes by the default until it is told.
fn clock_offset(config: &NodeConfig, known: Option<&Identity>) -> Result<Duration, OpenError> {
    if let Some(asked) = config.max_clock_offset {
        check_max_clock_offset(asked).map_err(OpenError::ClockOffset)?;
    }
    match known {
        Some(identity) => agreed(config, identity.max_clock_offset()),
        None => Ok(config.max_clock_offset.unwrap_or(MAX_CLOCK_OFFSET)),
    }
}

/// The cluster's, if the node was not started with another.
fn agreed(config: &NodeConfig, cluster: Duration) -> Result<Duration, OpenError> {
    match config.max_clock_offset {
        Some(asked) if asked != cluster => Err(OpenError::OtherClockOffset { asked, cluster }),
        _ => check_max_clock_offset(cluster).map(|()| cluster).map_err(OpenError::ClockOffset),
    }
}

fn offset_of(joined: &pb::JoinResponse) -> Duration {
    match joined.max_clock_offset_us {
        0 => MAX_CLOCK_OFFSET,
        us => Duration::from_micros(us),
    }
}

/// Gives an empty folder an identity.
async fn begin(
    config: &NodeConfig,
    opened: &Opened,
    clock: &NodeClock,
) -> Result<Identity, OpenError> {
    let identity = match &config.start {
        Start::Restart => return Err(OpenError::NoNode(opened.name.clone())),
        Start::Bootstrap => {
            let cluster_id = runtime::cluster_id(config.seed);
            Identity::new(&cluster_id, BOOTSTRAP_NODE, true, clock.max_offset())
        }
        Start::Join(seeds) => {
            let joined = join(config, seeds, clock).await?;
            identity::store_addresses(&*opened.log, joined.nodes.clone())?;
            let max_offset = offset_of(&joined);
            agreed(config, max_offset)?;
            Identity::new(&joined.cluster_id, NodeId(joined.node_id), false, max_offset)
        }
    };
    identity.store(&*opened.log)?;
    Ok(identity)
}

fn seed_nodes(config: &NodeConfig, seeds: &[String]) -> Vec<(String, Arc<dyn NodeService>)> {
    match &config.network {
        Network::InProcess(local) => {
            let nodes = local.nodes().into_iter();
            nodes.filter_map(|id| Some((id.to_string(), local.node(id)?))).collect()
        }
        Network::Tcp => seeds
            .iter()
            // Often all nodes are given the same list.
            .filter(|addr| **addr != config.rpc_addr)
            .map(|addr| {
                let node: Arc<dyn NodeService> = Arc::new(RemoteNode::new(addr.clone()));
                (addr.clone(), node)
            })
            .collect(),
    }
}

async fn join(
    config: &NodeConfig,
    seeds: &[String],
    clock: &NodeClock,
) -> Result<pb::JoinResponse, OpenError> {
    let info = pb::NodeInfo {
        node_id: 0,
        rpc_addr: config.rpc_addr.clone(),
        sql_addr: config.sql_addr.clone(),
        http_addr: config.http_addr.clone(),
    };
    let ends = clock.monotonic() + JOIN_TIMEOUT;
    loop {
        let mut whys = Vec::new();
        for (name, node) in seed_nodes(config, seeds) {
            match ask_to_join(config, &*node, &info, clock).await {
                Ok(joined) if joined.node_id != 0 => return Ok(joined),
                Ok(refused) => {
                    agreed(config, offset_of(&refused))?;
                    whys.push(format!("{name}: it gave no number"));
                }
                Err(why) => whys.push(format!("{name}: {why}")),
            }
        }
        if clock.monotonic() >= ends {
            let why =
                if whys.is_empty() { String::from("no seed is known") } else { whys.join("; ") };
            return Err(OpenError::NotJoined(why));
        }
        tokio::time::sleep(META_RETRY).await;
    }
}

async fn ask_to_join(
    config: &NodeConfig,
    node: &dyn NodeService,
    info: &pb::NodeInfo,
    clock: &NodeClock,
) -> Result<pb::JoinResponse, String> {
    let request = pb::JoinRequest {
        node: Some(info.clone()),
        format_version: FORMAT_VERSION,
        max_clock_offset_us: config.max_clock_offset.map_or(0, identity::clock_offset_us),
    };
    let call = pb::Call {
        clock: clock.now().0,
        timeout_ms: u32::try_from(JOIN_TIMEOUT.as_millis() / 3).unwrap_or(u32::MAX),
        node: Some(pb::NodeRequest { body: Some(node_request::Body::Join(request)) }),
        ..pb::Call::default()
    };
    let reply = node.call(call).await.map_err(|e| e.to_string())?;
    clock.observe(Timestamp(reply.clock)).map_err(|e| e.to_string())?;
    if let Some(error) = reply.error {
        return Err(error.message);
    }
    match reply.node.and_then(|node| node.body) {
        Some(node_response::Body::Join(joined)) => Ok(joined),
        Some(node_response::Body::Error(error)) => Err(error.message),
        _ => Err(String::from("it gave no answer to the request to join")),
    }
}
