//! Runs a workload: terminals that send transactions, repeat them, reconnect and count.
//!
//! # The life of a measured transaction
//! 1. [`Workload::next`] draws its kind and input from the terminal's seeded generator.
//! 2. [`Workload::execute`] sends it, `BEGIN` to `COMMIT`.
//! 3. A failure gets a [`Verdict`]: repeat with the same input after a bounded pause, reconnect
//!    to the next server and repeat, count as unknown, or count as failed.
//! 4. If it ends within the measured time it is counted; latency is from the first attempt.

use crate::args::CommonArgs;
use crate::cpu::{self, CpuSample};
use crate::db::{Conn, TxError, Verdict, failure_name, failure_text, server_version};
use crate::error::BenchError;
use crate::progress::Progress;
use crate::runtime::{now, pause, pause_until, spawn};
use crate::stats::Stats;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_postgres::Config;

/// First pause before repeating an attempt; doubles with each, a random half of it is waited.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause before repeating an attempt.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(100);
/// Pause after each server of the list was tried in vain.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Failures in a row after which a terminal stops the benchmark.
const FAILURES_IN_A_ROW_MAX: u32 = 100;
/// Time to finish what is under way when the measured time is over.
const GRACE: Duration = Duration::from_secs(15);
/// How often progress is shown on a terminal.
const TICK: Duration = Duration::from_secs(1);
/// Every so many ticks a plain line is written.
const TICKS_PER_LINE: u64 = 10;
/// Mixes a terminal's number into the seed (the 64-bit golden ratio).
const SEED_STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// One kind of transaction.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in reports.
    pub name: &'static str,
    /// Keying time before it, with think times switched on.
    pub keying: Duration,
    /// Mean of the think time after it, with think times switched on.
    pub think_mean: Duration,
}

impl Kind {
    /// A kind without keying and think times.
    pub const fn immediate(name: &'static str) -> Self {
        Self { name, keying: Duration::ZERO, think_mean: Duration::ZERO }
    }
}

/// How a transaction that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Committed.
    Committed,
    /// Rolled back because the workload wanted it so.
    RolledBack,
}

/// What a benchmark has its terminals do.
pub trait Workload: Send + Sync + 'static {
    /// A session's prepared statements.
    type Statements: Send + Sync;
    /// What a terminal remembers between transactions.
    type Terminal: Send;
    /// One transaction's input, kept for repeating it.
    type Input: Send + Sync;

    /// The name of the benchmark.
    fn name(&self) -> &'static str;
    /// The kinds of transactions; the first is the primary one, whose timeline is kept.
    fn kinds(&self) -> &'static [Kind];
    /// Prepares a new session.
    fn prepare(
        &self,
        conn: &Conn,
    ) -> impl Future<Output = Result<Self::Statements, BenchError>> + Send;
    /// What terminal number `index` begins with.
    fn terminal(&self, index: usize, rng: &mut StdRng) -> Self::Terminal;
    /// Draws the next transaction: index into [`Workload::kinds`], and its input.
    fn next(&self, terminal: &mut Self::Terminal, rng: &mut StdRng) -> (usize, Self::Input);
    /// Sends it once.
    fn execute(
        &self,
        conn: &Conn,
        statements: &Self::Statements,
        input: &Self::Input,
    ) -> impl Future<Output = Result<Ending, TxError>> + Send;
}

/// What a run brought.
pub struct Outcome {
    /// All terminals' counters.
    pub stats: Stats,
    /// The measured time.
    pub measured: Duration,
    /// CPU at the beginning and the end of the measured time.
    pub cpu: (CpuSample, CpuSample),
    /// Terminals that had not answered long after the end.
    pub unfinished: u64,
    /// The server's version in its own words.
    pub server_version: String,
}

struct Shared<W> {
    workload: W,
    servers: Vec<Config>,
    args: CommonArgs,
    think: bool,
    measure_start: Instant,
    measure_end: Instant,
    finished: AtomicU64,
}

struct Terminal<W: Workload> {
    shared: Arc<Shared<W>>,
    index: usize,
    rng: StdRng,
    /// Index of the server in use.
    server: usize,
    session: Option<(Conn, W::Statements)>,
    stats: Arc<Mutex<Stats>>,
    failures_in_a_row: u32,
}

/// Runs the workload as the arguments say, with keying and think times if `think`.
pub async fn run<W: Workload>(
    workload: W,
    args: &CommonArgs,
    think: bool,
) -> Result<Outcome, BenchError> {
    let servers = args.servers()?;
    if servers.is_empty() {
        return Err(BenchError::Usage("no --url given".to_owned()));
    }
    let sessions = open_sessions(&workload, &servers, args).await?;
    let version = match sessions.first() {
        Some((conn, _)) => server_version(conn.client()).await,
        None => return Err(BenchError::Usage("no terminals".to_owned())),
    };
    let measure_start = now() + args.warmup;
    let measure_end = measure_start + args.duration;
    let kind_count = workload.kinds().len();
    let shared = Arc::new(Shared {
        workload,
        servers,
        args: args.clone(),
        think,
        measure_start,
        measure_end,
        finished: AtomicU64::new(0),
    });
    let mut tasks = Vec::new();
    let mut counters = Vec::new();
    for (index, session) in sessions.into_iter().enumerate() {
        let stats = Arc::new(Mutex::new(Stats::new(kind_count)));
        counters.push(Arc::clone(&stats));
        let terminal = Terminal {
            server: index % shared.servers.len(),
            shared: Arc::clone(&shared),
            index,
            rng: StdRng::seed_from_u64(terminal_seed(args.seed, index)),
            session: Some(session),
            stats,
            failures_in_a_row: 0,
        };
        tasks.push(spawn(terminal.work()));
    }
    pause_until(measure_start).await;
    let cpu_before = cpu::sample(&args.server_pids);
    watch(&shared, &tasks).await;
    let cpu_after = cpu::sample(&args.server_pids);
    let unfinished = collect(tasks, measure_end + GRACE).await?;
    let mut stats = Stats::new(kind_count);
    for counter in counters {
        stats.add(&counter.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
    Ok(Outcome {
        stats,
        measured: args.duration,
        cpu: (cpu_before, cpu_after),
        unfinished,
        server_version: version,
    })
}

/// The seed of a terminal's generator.
pub fn terminal_seed(seed: u64, index: usize) -> u64 {
    seed ^ (index as u64 + 1).wrapping_mul(SEED_STRIDE)
}

async fn open_sessions<W: Workload>(
    workload: &W,
    servers: &[Config],
    args: &CommonArgs,
) -> Result<Vec<(Conn, W::Statements)>, BenchError> {
    let mut sessions = Vec::new();
    for index in 0..args.terminals as usize {
        let conn = Conn::open(&servers[index % servers.len()], args.isolation).await?;
        let statements = workload.prepare(&conn).await?;
        sessions.push((conn, statements));
    }
    Ok(sessions)
}

/// Shows progress until the measured time is over or all terminals stopped early.
async fn watch<W: Workload>(
    shared: &Shared<W>,
    tasks: &[tokio::task::JoinHandle<Result<(), BenchError>>],
) {
    let length = shared.measure_end - shared.measure_start;
    let progress = Progress::new("running", length.as_secs().max(1));
    let mut ticks = 0;
    let mut before = shared.finished.load(Ordering::Relaxed);
    while now() < shared.measure_end && !tasks.iter().any(|task| task.is_finished()) {
        pause_until((now() + TICK).min(shared.measure_end)).await;
        ticks += 1;
        progress.add(1);
        if ticks % TICKS_PER_LINE == 0 {
            let finished = shared.finished.load(Ordering::Relaxed);
            progress.say(format!("{} transactions/s", (finished - before) / TICKS_PER_LINE));
            before = finished;
        }
    }
    progress.finish();
}

/// Waits for the terminals until `limit`; tells how many had to be abandoned.
async fn collect(
    tasks: Vec<tokio::task::JoinHandle<Result<(), BenchError>>>,
    limit: Instant,
) -> Result<u64, BenchError> {
    let mut unfinished = 0;
    let mut failure = None;
    for mut task in tasks {
        match tokio::time::timeout_at(limit.into(), &mut task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => failure = failure.or(Some(error)),
            Ok(Err(_)) => failure = failure.or(Some(BenchError::Task("terminal"))),
            Err(_) => {
                task.abort();
                unfinished += 1;
            }
        }
    }
    failure.map_or(Ok(unfinished), Err)
}

impl<W: Workload> Terminal<W> {
    async fn work(mut self) -> Result<(), BenchError> {
        let shared = Arc::clone(&self.shared);
        let mut memory = shared.workload.terminal(self.index, &mut self.rng);
        while now() < shared.measure_end {
            let (kind_index, input) = shared.workload.next(&mut memory, &mut self.rng);
            let kind = shared.workload.kinds()[kind_index];
            if shared.think && !self.wait(kind.keying).await {
                break;
            }
            self.finish_one(kind_index, &input).await?;
            if shared.think {
                let think = exponential(kind.think_mean, &mut self.rng);
                self.wait(think).await;
            }
        }
        Ok(())
    }

    /// Waits, but not beyond the end; tells whether there is time left.
    async fn wait(&self, time: Duration) -> bool {
        pause_until((now() + time).min(self.shared.measure_end)).await;
        now() < self.shared.measure_end
    }

    /// Sends a transaction until it ended one way or the other.
    async fn finish_one(&mut self, kind: usize, input: &W::Input) -> Result<(), BenchError> {
        let start = now();
        let mut attempt = 0;
        loop {
            if !self.reconnect_if_needed().await? {
                return Ok(());
            }
            let Some((conn, statements)) = &self.session else {
                return Ok(());
            };
            let statements_before = conn.statement_count();
            conn.start_attempt();
            let result = self.shared.workload.execute(conn, statements, input).await;
            let verdict = result.as_ref().err().map(|error| conn.verdict(error));
            if verdict.is_some() && !conn.is_closed() && conn.rollback().await.is_err() {
                // A session that cannot roll back is of no use; the next attempt opens another.
                self.session = None;
            }
            let sent = self.session.as_ref().map_or(0, |(conn, _)| conn.statement_count());
            let sent = sent.saturating_sub(statements_before);
            attempt += 1;
            let verdict = match verdict {
                Some(Verdict::Retry) if attempt > self.shared.args.retries => Some(Verdict::Failed),
                other => other,
            };
            self.record(kind, start, sent, &result, verdict);
            match (result, verdict) {
                (Err(_), Some(Verdict::Retry)) => pause(self.retry_pause(attempt)).await,
                (Err(_), Some(Verdict::Reconnect)) => self.session = None,
                (Err(error), Some(Verdict::Failed)) => return self.failed_again(&error),
                _ => {
                    self.failures_in_a_row = 0;
                    return Ok(());
                }
            }
            if now() >= self.shared.measure_end {
                return Ok(());
            }
        }
    }

    fn failed_again(&mut self, error: &TxError) -> Result<(), BenchError> {
        self.failures_in_a_row += 1;
        if self.failures_in_a_row < FAILURES_IN_A_ROW_MAX {
            return Ok(());
        }
        Err(BenchError::Stuck {
            terminal: self.index,
            failures: self.failures_in_a_row,
            last: failure_text(error),
        })
    }

    fn retry_pause(&mut self, attempt: u32) -> Duration {
        let doubled = RETRY_PAUSE_MIN * 2_u32.pow(attempt.min(16));
        let most = doubled.min(RETRY_PAUSE_MAX);
        most.mul_f64(self.rng.random_range(0.5..1.0))
    }

    fn record(
        &self,
        kind: usize,
        start: Instant,
        statements: u64,
        result: &Result<Ending, TxError>,
        verdict: Option<Verdict>,
    ) {
        let end = now();
        if end < self.shared.measure_start || end > self.shared.measure_end {
            return;
        }
        let mut stats = self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stats.statements += statements;
        match result {
            Ok(ending) => {
                self.shared.finished.fetch_add(1, Ordering::Relaxed);
                stats.kinds[kind].record_latency(end - start);
                match ending {
                    Ending::Committed => stats.kinds[kind].committed += 1,
                    Ending::RolledBack => stats.kinds[kind].rolled_back += 1,
                }
                if kind == 0 && *ending == Ending::Committed {
                    let at = (end - self.shared.measure_start).as_micros();
                    stats.primary_commits_us.push(u64::try_from(at).unwrap_or(u64::MAX));
                }
            }
            Err(error) => {
                let counters = &mut stats.kinds[kind];
                match verdict {
                    Some(Verdict::Unknown) => counters.unknown += 1,
                    Some(Verdict::Failed) | None => counters.failed += 1,
                    Some(Verdict::Retry | Verdict::Reconnect) => counters.retries += 1,
                }
                stats.note_error(failure_name(error), || failure_text(error));
            }
        }
    }

    /// Opens a new session if there is none, server after server, until the measured time is
    /// over; tells whether there is one.
    async fn reconnect_if_needed(&mut self) -> Result<bool, BenchError> {
        if self.session.as_ref().is_some_and(|(conn, _)| !conn.is_closed()) {
            return Ok(true);
        }
        let shared = Arc::clone(&self.shared);
        self.session = None;
        let mut tried = 0;
        while now() < shared.measure_end {
            self.server = (self.server + 1) % shared.servers.len();
            tried += 1;
            match self.open().await {
                Ok(session) => {
                    self.session = Some(session);
                    let mut stats =
                        self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    stats.reconnects += 1;
                    return Ok(true);
                }
                Err(_) if tried % shared.servers.len() == 0 => pause(RECONNECT_PAUSE).await,
                Err(_) => {}
            }
        }
        Ok(false)
    }

    async fn open(&self) -> Result<(Conn, W::Statements), BenchError> {
        let config = &self.shared.servers[self.server];
        let conn = Conn::open(config, self.shared.args.isolation).await?;
        let statements = self.shared.workload.prepare(&conn).await?;
        Ok((conn, statements))
    }
}

/// A think time: negative exponential around its mean, cut at ten times the mean (clause 5.2.5.4).
fn exponential(mean: Duration, rng: &mut StdRng) -> Duration {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    mean.mul_f64((-uniform.ln()).min(10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn think_times_have_their_mean_and_their_limit() {
        let mut rng = StdRng::seed_from_u64(7);
        let mean = Duration::from_secs(12);
        let draws: Vec<Duration> = (0..20_000).map(|_| exponential(mean, &mut rng)).collect();
        let average = draws.iter().sum::<Duration>().as_secs_f64() / draws.len() as f64;
        assert!((11.5..12.5).contains(&average), "{average}");
        assert!(draws.iter().all(|draw| *draw <= mean * 10));
    }

    #[test]
    fn terminals_draw_differently() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..1000).map(|index| terminal_seed(1, index)).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
