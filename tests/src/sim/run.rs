//! One seed: a cluster comes up, a bank works on it while things go wrong, everything is mended,
//! and what must hold is looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::pb;
use quorate_shard::node::Start;
use quorate_txn::mistakes::Mistake;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::bank::{Bank, Figures};
use super::clock::{FAST_PPM_MAX, OFFSET_MAX, SimClock};
use super::disk::Habits;
use super::faults::Faults;
use super::lists::{self, Lists};
use super::machine::Machine;
use super::net::Net;
use super::trace::Trace;
use super::{runtime, system, watch};

/// Machines of the cluster.
const MACHINES: usize = 3;
/// Clients that work on lists.
const LIST_CLIENTS: usize = 2;
/// How long the cluster may take to come up, and to be well again after the faults.
const PATIENCE: Duration = Duration::from_secs(120);
/// In so long something is acknowledged, whatever goes wrong.
const LONG_ENOUGH: Duration = Duration::from_secs(15);

/// What a run is made with.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Everything is drawn from it.
    pub seed: u64,
    /// How long things go wrong, in simulated time.
    pub faults: Duration,
}

impl Setup {
    /// Whether ranges split all the time: in one of eight seeds.
    fn storms(&self) -> bool {
        self.seed % 8 == 5
    }
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of the whole trace.
    pub hash: u64,
    /// Events of the trace.
    pub events: u64,
    /// Simulated time.
    pub lasted: Duration,
    /// What the bank did.
    pub figures: Figures,
    /// What was done on lists.
    pub lists: lists::Figures,
}

/// What the cluster is kept busy with.
struct Load {
    bank: Arc<Bank>,
    lists: Arc<Lists>,
}

/// Runs a seed. Violations are in the trace; the first ends the run.
pub async fn run(setup: Setup, dir: &Path, trace: &Arc<Trace>) -> Report {
    let mut rng = StdRng::seed_from_u64(setup.seed);
    let net = Net::new(rng.random(), trace.clone());
    runtime::spawn(net.clone().carry());
    let machines = machines(&mut rng, dir, &net, trace);
    let (watched, watching) = (machines.clone(), trace.clone());
    system::before_time_passes(Some(Box::new(move || watch::look(&watched, &watching))));
    let accounts = rng.random_range(6..30);
    let bank = Bank::new(&machines, accounts, rng.random(), trace);
    let lists = Lists::new(&machines, &bank, rng.random(), trace);
    let load = Load { bank: bank.clone(), lists: lists.clone() };
    let life = async {
        come_up(&machines, &load, trace).await?;
        work(&setup, &mut rng, &machines, &net, &load, trace).await;
        settle(&machines, &load, trace).await?;
        shows_something(&setup, &load)
    };
    let violated = async {
        while trace.violated().is_none() {
            runtime::pause(Duration::from_millis(50)).await;
        }
    };
    if let Some(Err(why)) = runtime::unless(violated, life).await {
        trace.violation(why);
    }
    system::before_time_passes(None);
    Report {
        hash: trace.hash(),
        events: trace.events(),
        lasted: system::now(),
        figures: bank.figures(),
        lists: lists.figures(),
    }
}

/// A run in which nothing was acknowledged has shown nothing.
fn shows_something(setup: &Setup, load: &Load) -> Result<(), String> {
    let idle = load.bank.figures().acknowledged == 0 || load.lists.figures().ended[0] == 0;
    match idle && setup.faults >= LONG_ENOUGH {
        true => Err(String::from("no transfer or no append was acknowledged")),
        false => Ok(()),
    }
}

fn machines(rng: &mut StdRng, dir: &Path, net: &Arc<Net>, trace: &Arc<Trace>) -> Vec<Arc<Machine>> {
    let gc_window = Duration::from_millis([600_000, 2_000, 500][rng.random_range(0..3)]);
    let follower_read_age = Duration::from_millis([0, 0, 100, 3_000][rng.random_range(0..4)]);
    let most = i64::try_from(OFFSET_MAX.as_micros()).unwrap_or(0);
    let mut make = |number| {
        let clock =
            SimClock::new(rng.random_range(-most..=most), rng.random_range(0..=FAST_PPM_MAX));
        let habits = Habits {
            flush_per_mille: [0, 2, 20, 200][rng.random_range(0..4)],
            compact_per_mille: [0, 2, 20][rng.random_range(0..3)],
            sync_per_mille: [0, 100, 900][rng.random_range(0..3)],
            gc_window,
            follower_read_age,
            forgets_sync_per_mille: if Mistake::SyncForgotten.is_made() { 500 } else { 0 },
        };
        Machine::new(number, rng.random(), habits, clock, dir, net, trace)
    };
    (1..=MACHINES).map(&mut make).collect()
}

/// Waits until the condition gives something.
async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T, String> {
    let ends = system::now() + PATIENCE;
    while system::now() < ends {
        if let Some(value) = ready() {
            return Ok(value);
        }
        runtime::pause(Duration::from_millis(50)).await;
    }
    Err(format!("waited too long: {what}"))
}

fn everywhere(machines: &[Arc<Machine>]) -> Option<()> {
    let led = watch::led(machines);
    let whole = |range: &pb::RangeDescriptor| {
        let voters = range.replicas.iter().filter(|r| r.role() == pb::ReplicaRole::Voter);
        voters.count() == MACHINES
    };
    (watch::all_led(machines) && led.iter().all(whole)).then_some(())
}

async fn come_up(machines: &[Arc<Machine>], load: &Load, trace: &Arc<Trace>) -> Result<(), String> {
    for machine in machines {
        let start = match machine.number {
            1 => Start::Bootstrap,
            _ => Start::Join(vec![String::from("m1")]),
        };
        runtime::spawn(machine.clone().keep_running(start));
        until("a node serves", || machine.up()).await?;
    }
    until("every range is on every machine", || everywhere(machines)).await?;
    let up = machines[0].up().ok_or("the first node is gone")?;
    load.bank.open(&up).await.map_err(|why| format!("the bank cannot open: {why}"))?;
    load.lists.open(&up).await.map_err(|why| format!("no lists: {why}"))?;
    until("every range is on every machine", || everywhere(machines)).await?;
    trace.event("the bank is open");
    Ok(())
}

async fn work(
    setup: &Setup,
    rng: &mut StdRng,
    machines: &[Arc<Machine>],
    net: &Arc<Net>,
    load: &Load,
    trace: &Arc<Trace>,
) {
    let Load { bank, lists } = load;
    let clients = rng.random_range(2..=6);
    let mut tasks: Vec<_> =
        (1..=clients).map(|client| runtime::spawn(bank.clone().work(client))).collect();
    tasks.extend((0..2).map(|_| runtime::spawn(bank.clone().audit_on())));
    tasks.extend((0..2).map(|_| runtime::spawn(bank.clone().look_back_on(rng.random()))));
    tasks.extend((0..LIST_CLIENTS).map(|_| runtime::spawn(lists.clone().work())));
    let mut faults = Faults {
        machines: machines.to_vec(),
        net: net.clone(),
        bank: bank.clone(),
        trace: trace.clone(),
        rng: StdRng::seed_from_u64(rng.random()),
        wild: rng.random_range(0..4) == 0,
    };
    if setup.storms() {
        let rng = StdRng::seed_from_u64(rng.random());
        runtime::spawn(faults.split_until(rng, system::now() + setup.faults));
    }
    faults.rage(system::now() + setup.faults).await;
    faults.cease();
    // The load goes on for a while on a cluster that heals.
    runtime::pause(Duration::from_secs(3)).await;
    bank.stop();
    for task in tasks {
        // A panic has ended the process already.
        let _ = task.await;
    }
}

async fn answers(machine: &Arc<Machine>, load: &Load) -> bool {
    let Some(up) = machine.up() else { return false };
    load.bank.audit(&up).await && load.lists.read_all(&up).await
}

/// After the faults: everything comes back, and what must hold holds.
async fn settle(machines: &[Arc<Machine>], load: &Load, trace: &Arc<Trace>) -> Result<(), String> {
    until("all nodes serve again", || machines.iter().all(|m| m.up().is_some()).then_some(()))
        .await?;
    until("every range is led again", || watch::all_led(machines).then_some(())).await?;
    for machine in machines {
        let ends = system::now() + PATIENCE;
        // A crash that was set before may strike only now: then it is another life that answers.
        while !answers(machine, load).await {
            if system::now() > ends {
                return Err(format!("m{} does not answer an audit", machine.number));
            }
            runtime::pause(Duration::from_millis(200)).await;
        }
    }
    until("replicas are at rest", || watch::at_rest(machines).then_some(())).await?;
    watch::agree(machines)?;
    load.lists.check()?;
    trace.event("the end");
    Ok(())
}
