//! [`Driver`]: opens a node's groups and runs its workers, each on a thread of its own, or as
//! tasks where a simulator owns time.
//!
//! Why threads: a pass contains an fsync. On a thread of the async runtime it would stall whatever
//! SQL that thread serves; `block_in_place` would move that work to another thread at each pass
//! (two more wake-ups, 20 µs each). A thread of its own costs one wake-up per batch of proposals.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: it owns the workers' threads, tasks and timer"
)]

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::config::{INPUTS_PER_PASS_MAX, TICK};
use super::handle::{Background, Input, NodeShared, RaftConfig, RaftDeps, RaftHandle};
use super::start::recover;
use super::worker::Worker;

/// A node's groups, opened but not running.
pub struct Driver {
    shared: Arc<NodeShared>,
    pub(crate) workers: Vec<(Worker, mpsc::UnboundedReceiver<Input>)>,
}

impl Driver {
    /// Redoes what a crash left half done, opens all groups, and attaches to the transport.
    ///
    /// # Errors
    /// What is on disk does not fit together: the node must not start.
    pub fn open(config: RaftConfig, deps: RaftDeps) -> Result<Self, String> {
        let (shared, receivers) = NodeShared::new(config, deps);
        *shared.last_flush.lock() = shared.deps.clock.monotonic();
        let states = recover(&shared)?;
        let mut workers = Vec::new();
        for (number, receiver) in receivers.into_iter().enumerate() {
            let mut worker = Worker::new(shared.clone(), number);
            worker.load(&states)?;
            workers.push((worker, receiver));
        }
        let driver = Self { shared, workers };
        driver.shared.deps.transport.attach(driver.handle());
        Ok(driver)
    }

    /// What the rest of the node talks to.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle { shared: self.shared.clone() }
    }

    /// Runs each worker on a thread of its own; the timer runs on this runtime.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn run_on_threads(self, runtime: &tokio::runtime::Handle) -> std::io::Result<Running> {
        let mut threads = Vec::new();
        for (worker, inbox) in self.workers {
            let name = format!("raft-{}", worker.number);
            let thread = std::thread::Builder::new().name(name);
            threads.push(thread.spawn(move || run_blocking(worker, inbox))?);
        }
        let timer = runtime.spawn(tick(self.shared.clone()));
        Ok(Running { shared: self.shared, threads, tasks: vec![timer] })
    }

    /// Runs the workers as tasks of the current runtime: for simulations, whose logs do not block.
    pub fn run_as_tasks(self) -> Running {
        let mut tasks = Vec::new();
        for (worker, inbox) in self.workers {
            tasks.push(tokio::spawn(run_async(worker, inbox)));
        }
        tasks.push(tokio::spawn(tick(self.shared.clone())));
        Running { shared: self.shared, threads: Vec::new(), tasks }
    }
}

/// Says that the node must stop if its worker's thread panics.
struct Watch(Arc<NodeShared>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.deps.factory.fatal(None, "a worker of the replication driver panicked");
        }
    }
}

fn run_blocking(mut worker: Worker, mut inbox: mpsc::UnboundedReceiver<Input>) {
    let _watch = Watch(worker.node.clone());
    let mut inputs = Vec::new();
    loop {
        if !worker.busy() {
            match inbox.blocking_recv() {
                Some(input) => inputs.push(input),
                None => return,
            }
        }
        drain(&mut inbox, &mut inputs);
        if !worker.pass(&mut inputs) {
            return;
        }
    }
}

async fn run_async(mut worker: Worker, mut inbox: mpsc::UnboundedReceiver<Input>) {
    let _watch = Watch(worker.node.clone());
    let mut inputs = Vec::new();
    loop {
        if worker.busy() {
            tokio::task::yield_now().await;
        } else {
            match inbox.recv().await {
                Some(input) => inputs.push(input),
                None => return,
            }
        }
        let busy = worker.node.deps.log.busy_for();
        if !busy.is_zero() {
            tokio::time::sleep(busy).await;
        }
        drain(&mut inbox, &mut inputs);
        if !worker.pass(&mut inputs) {
            return;
        }
    }
}

/// Takes what is there without waiting.
pub(crate) fn drain(inbox: &mut mpsc::UnboundedReceiver<Input>, inputs: &mut Vec<Input>) {
    while inputs.len() < INPUTS_PER_PASS_MAX {
        match inbox.try_recv() {
            Ok(input) => inputs.push(input),
            Err(_) => return,
        }
    }
}

async fn tick(shared: Arc<NodeShared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        shared.post_to_all(|| Input::Tick);
    }
}

/// Running workers.
pub struct Running {
    shared: Arc<NodeShared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// What the rest of the node talks to.
    pub fn handle(&self) -> RaftHandle {
        RaftHandle { shared: self.shared.clone() }
    }

    /// Stops the workers: leases end, waiters of changes hear *unknown*. Blocks until the threads
    /// have ended; what they wrote to the engine is not flushed by this.
    pub fn stop(self) {
        self.shared.post_to_all(|| Input::Stop);
        for thread in self.threads {
            // A panic was reported by the watch already.
            let _ = thread.join();
        }
        for task in self.tasks {
            task.abort();
        }
    }
}

/// [`Background`] on threads, one for each job.
#[derive(Debug, Default)]
pub struct ThreadBackground;

impl Background for ThreadBackground {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        let thread = std::thread::Builder::new().name(String::from("raft-background"));
        let job = Arc::new(Mutex::new(Some(job)));
        let take = |job: &Mutex<Option<Box<dyn FnOnce() + Send>>>| job.lock().take();
        let there = job.clone();
        let started = thread.spawn(move || take(&there).into_iter().for_each(|job| job()));
        if let Err(error) = started {
            // Somebody waits for it.
            tracing::error!(%error, "no thread for a background job: it is done here");
            take(&job).into_iter().for_each(|job| job());
        }
    }
}

/// [`Background`] at once, on the caller's thread: for tests and simulations.
#[derive(Debug, Default)]
pub struct InlineBackground;

impl Background for InlineBackground {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
