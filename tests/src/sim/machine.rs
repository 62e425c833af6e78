//! A machine: its clock and disk, and the node on it, which is started again after each crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_gateway::Gateway;
use quorate_planner::kv::Span;
use quorate_planner::program::{ProgramEngine, ProgramRun};
use quorate_proto::Timestamp;
use quorate_shard::engine::KeySpan;
use quorate_shard::node::config::NodeConfig;
use quorate_shard::node::{GatewayHook, MemoryDisk, Network, Node, Start, Storage};
use quorate_shard::range::{ScanEngine, ScanRun};
use quorate_txn::config::SAFE_POINT_LAG;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::clock::SimClock;
use super::disk::{self, Habits, Life};
use super::net::Net;
use super::runtime;
use super::trace::Trace;

/// How long a machine stays down at least and at most.
const DOWN_MIN_MS: u64 = 20;
const DOWN_MAX_MS: u64 = 4_000;
/// How long a machine that was told to restart stays down at most.
const DRAINED_MAX_MS: u64 = 200;

struct Programs(ProgramEngine);

struct Run(ProgramRun);

impl ScanEngine for Programs {
    fn start(&self, program: &[u8]) -> Result<Box<dyn ScanRun>, String> {
        Ok(Box::new(Run(self.0.start(program).map_err(|e| e.to_string())?)))
    }
}

impl ScanRun for Run {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        self.0.row(key, value).map_err(|e| e.to_string())
    }

    fn output(&mut self) -> Result<bytes::Bytes, String> {
        self.0.output().map_err(|e| e.to_string())
    }
}

struct Barrier(Arc<Gateway>);

#[async_trait]
impl GatewayHook for Barrier {
    async fn barrier(&self, catalog_version: u64) -> u64 {
        match self.0.catalog().barrier(catalog_version).await {
            Ok(version) => version,
            Err(_) => self.0.catalog().current().version(),
        }
    }

    fn oldest_read(&self) -> Option<Timestamp> {
        self.0.oldest_read()
    }

    fn gc_windows(&self) -> Option<Vec<(KeySpan, Duration)>> {
        let windows = self.0.catalog().gc_windows()?;
        let said = |(span, window): (Span, Duration)| (KeySpan::new(span.start, span.end), window);
        Some(windows.into_iter().map(said).collect())
    }
}

/// A node that serves.
#[derive(Clone)]
pub struct Up {
    /// Its life.
    pub life: Arc<Life>,
    /// Its storage.
    pub node: Arc<Node>,
    /// Where sessions are opened.
    pub gateway: Arc<Gateway>,
}

/// A machine.
///
/// # Invariants
/// * One life at a time.
pub struct Machine {
    /// Counted from 1; the node on it has the same number.
    pub number: usize,
    /// Its clock.
    pub clock: Arc<SimClock>,
    net: Arc<Net>,
    trace: Arc<Trace>,
    habits: Habits,
    state: Mutex<State>,
}

struct State {
    disk: MemoryDisk,
    rng: StdRng,
    life: Option<Arc<Life>>,
    up: Option<Up>,
    last_reading: Timestamp,
}

impl Machine {
    /// A machine with an empty disk; nothing runs on it.
    pub fn new(
        number: usize,
        seed: u64,
        habits: Habits,
        clock: SimClock,
        dir: &Path,
        net: &Arc<Net>,
        trace: &Arc<Trace>,
    ) -> Arc<Self> {
        let state = State {
            disk: MemoryDisk::new(dir.join(format!("m{number}"))),
            rng: StdRng::seed_from_u64(seed),
            life: None,
            up: None,
            last_reading: Timestamp::ZERO,
        };
        Arc::new(Self {
            number,
            clock: Arc::new(clock),
            net: net.clone(),
            trace: trace.clone(),
            habits,
            state: Mutex::new(state),
        })
    }

    /// The node on it, if it serves.
    pub fn up(&self) -> Option<Up> {
        self.state.lock().up.clone().filter(|up| !up.life.is_over())
    }

    /// The life that runs, serving or starting.
    pub fn life(&self) -> Option<Arc<Life>> {
        self.state.lock().life.clone().filter(|life| !life.is_over())
    }

    /// The last reading of the hybrid clock of the node, over all its lives; a checker's memory.
    pub fn swap_last_reading(&self, reading: Timestamp) -> Timestamp {
        std::mem::replace(&mut self.state.lock().last_reading, reading)
    }

    /// Keeps a node running here: starts it, and starts it again after each crash.
    pub async fn keep_running(self: Arc<Self>, first: Start) {
        let mut how = first;
        loop {
            let life = self.begin_life();
            self.live(&life, how).await;
            how = Start::Restart;
            match life.left() {
                Ok(Some(left)) => self.state.lock().disk = left,
                Ok(None) => return,
                Err(error) => self.trace.violation(format_args!("m{}: {error}", self.number)),
            }
            let down_ms = {
                let mut state = self.state.lock();
                (state.up, state.life) = (None, None);
                let most = if life.leave.is_cancelled() { DRAINED_MAX_MS } else { DOWN_MAX_MS };
                state.rng.random_range(DOWN_MIN_MS..most)
            };
            runtime::pause(Duration::from_millis(down_ms)).await;
        }
    }

    fn begin_life(&self) -> Arc<Life> {
        let mut state = self.state.lock();
        let seed = state.rng.random();
        let life = Life::new(self.number, state.disk.clone(), self.habits, seed);
        state.life = Some(life.clone());
        life
    }

    /// From the start of a node to its crash.
    async fn live(&self, life: &Arc<Life>, how: Start) {
        self.trace.event(format_args!("m{} starts", self.number));
        let opening = Node::open(self.config(life, how));
        let node = match runtime::unless(life.over.cancelled(), opening).await {
            None => return,
            Some(Ok(node)) => node,
            Some(Err(error)) => {
                self.trace.violation(format_args!("m{} cannot start: {error}", self.number));
                return;
            }
        };
        // Longer than the ranges': what they have given up is theirs to refuse (rule R4).
        let (connector, clock, cluster) = (node.connector(), node.clock(), node.cluster_id());
        let gateway = Gateway::new(connector, clock, cluster, SAFE_POINT_LAG);
        gateway.dist().followers.ask_for(self.habits.follower_read_age);
        node.set_gateway(Arc::new(Barrier(gateway.clone())));
        let fresh: JoinHandle<()> = runtime::spawn(gateway.catalog().clone().keep_fresh());
        let up = Up { life: life.clone(), node: node.clone(), gateway };
        self.state.lock().up = Some(up);
        self.trace.event(format_args!("m{} serves", self.number));
        let serving = runtime::unless(life.leave.cancelled(), node.failed());
        match runtime::unless(life.over.cancelled(), serving).await {
            Some(Some(why)) if !life.is_over() => {
                self.trace.violation(format_args!("m{} stopped by itself: {why}", self.number));
            }
            Some(None) => {
                self.trace.event(format_args!("m{} drains", self.number));
                if runtime::unless(life.over.cancelled(), node.shutdown()).await.is_some() {
                    life.end(&self.trace, "after its drain");
                }
            }
            _ => {}
        }
        self.state.lock().up = None;
        fresh.abort();
        node.kill().await;
    }

    fn config(&self, life: &Arc<Life>, how: Start) -> NodeConfig {
        let disk = disk::open(life, &self.trace);
        let programs = Arc::new(Programs(ProgramEngine::new()));
        let mut config = NodeConfig::new(
            Storage::Open(disk),
            how,
            format!("m{}", self.number),
            self.clock.clone(),
            programs,
        );
        config.network = Network::InProcess(self.net.endpoint(life.clone()));
        config.seed = Some(self.state.lock().rng.random());
        config.gc_window = self.habits.gc_window;
        config.workers = 2;
        config.workers_as_tasks = true;
        config
    }
}
