//! The clients of a verification: what they share, and what each does until it is told to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use super::bank::{Audit, Bank, NUMBERS_PER_CLIENT, Transfer};
use super::lists::{ListTransaction, Lists};
use super::schema::{CODE_NO_TABLE, Look};
use super::session::{Attempt, Session, Told};
use super::tally::{Tally, by_name};
use super::{VerifyArgs, nanos};
use crate::args::Isolation;
use crate::history::{Transaction, named};
use crate::runner::terminal_seed;
use crate::runtime::{now, pause, pause_until};

/// Lists in use at a time.
pub const SLOTS: usize = 16;
/// How often progress is said.
const TICK: Duration = Duration::from_secs(5);
/// How often it is looked whether enough was done.
const LOOK: Duration = Duration::from_millis(50);
/// Pause between two audits.
const AUDIT_PAUSE: Duration = Duration::from_millis(300);
/// Longest pause after a transaction that was refused.
const REFUSED_PAUSE_US_MAX: u64 = 4_000;
/// How long each server may take at the end until everything can be read once more.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// One of so many transactions is a transfer.
const TRANSFER_OF: u32 = 4;

/// What the clients share.
pub struct Shared {
    servers: Arc<Vec<Config>>,
    level: Isolation,
    seed: u64,
    /// What the tables were marked with.
    mark: String,
    began: Instant,
    ends: Instant,
    transactions_max: u64,
    stop: AtomicBool,
    /// The tables are not those that were made for this run.
    taken: AtomicBool,
    processes: Arc<AtomicU64>,
    lists: Lists,
    /// The bank.
    pub bank: Bank,
    tally: Mutex<Tally>,
    history: Mutex<Vec<Transaction>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Nothing was done yet, to tables with this mark.
    pub fn new(
        servers: Vec<Config>,
        level: Isolation,
        args: &VerifyArgs,
        mark: String,
        began: Instant,
    ) -> Self {
        Self {
            servers: Arc::new(servers),
            level,
            seed: args.seed,
            mark,
            began,
            ends: began + args.duration,
            transactions_max: args.transactions.unwrap_or(u64::MAX),
            stop: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            processes: Arc::default(),
            lists: Lists::new(SLOTS),
            bank: Bank::default(),
            tally: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// Clients end after what they are at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.is_taken() || now() >= self.ends
    }

    /// Whether somebody else has dropped the tables, or made them anew. What was seen since may be
    /// his doing.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Servers worked on.
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// The counters so far.
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// The history so far, in the order in which transactions began; they are named by it.
    pub fn transactions(&self) -> Vec<Transaction> {
        named(locked(&self.history).clone())
    }

    fn elapsed_ns(&self) -> u64 {
        nanos(now() - self.began)
    }

    fn session(&self, number: u32) -> Session {
        Session::new(&self.servers, self.level, number as usize, &self.processes)
    }

    fn note(&self, told: &Told) {
        locked(&self.tally).note(told, self.elapsed_ns() / 1_000);
    }

    /// Runs a transaction; if it misses a table, looks whether that was taken from us.
    async fn run(&self, session: &mut Session, attempt: &mut impl Attempt) -> Told {
        let told = session.run(attempt).await;
        if misses_a_table(&told) {
            let mut look = Look::default();
            match session.run(&mut look).await {
                Told::Acknowledged => self.compare(look.mark.as_deref()),
                told if misses_a_table(&told) => self.taken.store(true, Ordering::Relaxed),
                // It could not look; whoever misses a table next may.
                _ => {}
            }
        }
        told
    }

    fn compare(&self, mark: Option<&str>) {
        if mark != Some(self.mark.as_str()) {
            self.taken.store(true, Ordering::Relaxed);
        }
    }

    /// Judges an audit that came through, if it saw our tables.
    fn judge(&self, audit: &Audit, server: usize) {
        self.compare(audit.mark());
        if !self.is_taken() {
            self.bank.judge(audit, server);
        }
    }
}

fn misses_a_table(told: &Told) -> bool {
    matches!(told, Told::Refused(code) if code == CODE_NO_TABLE)
}

/// One client.
pub async fn work(shared: Arc<Shared>, number: u32) {
    let mut rng = StdRng::seed_from_u64(terminal_seed(shared.seed, number as usize));
    let mut session = shared.session(number);
    let mut transfer = i64::from(number) * NUMBERS_PER_CLIENT;
    while !shared.stopped() {
        if !session.ready().await {
            continue;
        }
        let told = if rng.random_range(0..TRANSFER_OF) == 0 {
            transfer += 1;
            let mut transfer = Transfer::draw(transfer, shared.level, &mut rng);
            let told = shared.run(&mut session, &mut transfer).await;
            shared.bank.note(&transfer, &told);
            match transfer.rolls_back() {
                true => continue,
                false => told,
            }
        } else {
            let transaction = shared.lists.draw_transaction(shared.level, &mut rng);
            let server = session.server();
            match run_on_lists(&shared, &mut session, server, transaction).await {
                Some(told) => told,
                None => continue,
            }
        };
        shared.note(&told);
        if told != Told::Acknowledged {
            let us = rng.random_range(0..REFUSED_PAUSE_US_MAX);
            pause(Duration::from_micros(us)).await;
        }
    }
}

/// Runs a transaction on lists and writes it down; `None` if it took itself back.
async fn run_on_lists(
    shared: &Shared,
    session: &mut Session,
    server: usize,
    mut transaction: ListTransaction,
) -> Option<Told> {
    let process = session.process();
    let invoked_ns = shared.elapsed_ns();
    let told = shared.run(session, &mut transaction).await;
    let completed_ns = shared.elapsed_ns();
    let rolls_back = transaction.rolls_back();
    let written = transaction.written(&told, process, server as u64, invoked_ns..completed_ns);
    locked(&shared.history).push(written);
    (!rolls_back).then_some(told)
}

/// Audits the bank until the clients stop.
pub async fn audit_on(shared: Arc<Shared>, number: u32) {
    let mut turn = number;
    while !shared.stopped() {
        turn += 1;
        let mut session = shared.session(turn);
        if session.ready().await {
            let mut audit = Audit::of_sums(&shared.bank);
            let server = session.server();
            if shared.run(&mut session, &mut audit).await == Told::Acknowledged {
                shared.judge(&audit, server);
            }
        }
        pause(AUDIT_PAUSE).await;
    }
}

/// Says how it goes until the time is over, enough was done, or a client ended by itself.
pub async fn watch(shared: &Shared, clients: &[JoinHandle<()>]) {
    let mut said = (now(), 0);
    while now() < shared.ends && !clients.iter().any(JoinHandle::is_finished) {
        pause_until((now() + LOOK).min(shared.ends)).await;
        let commits = locked(&shared.tally).commits_us.len();
        if commits as u64 >= shared.transactions_max {
            return;
        }
        if now() >= said.0 + TICK {
            let per_second = (commits - said.1) as f64 / (now() - said.0).as_secs_f64();
            let tally = shared.tally();
            eprintln!(
                "{:>4.0} s: {per_second:.0} commits/s, refused {}, unknown {}",
                (now() - shared.began).as_secs_f64(),
                by_name(&tally.refused),
                by_name(&tally.unknown),
            );
            said = (now(), commits);
        }
    }
}

/// Reads all lists and the whole bank through every server, through all at once: one that is dead
/// costs the others no time. Whether one answered.
pub async fn read_at_the_end(shared: &Shared, patience: Duration) -> bool {
    let servers = 0..shared.servers.len();
    let reads = servers.map(|server| read_everything_at(shared, server, now() + patience));
    let answered = futures::future::join_all(reads).await;
    for (server, answered) in answered.iter().enumerate() {
        if !answered && !shared.is_taken() {
            eprintln!("server {server} does not answer at the end");
        }
    }
    answered.contains(&true)
}

/// Whether both came through. It is tried once, however late it is.
async fn read_everything_at(shared: &Shared, server: usize, ends: Instant) -> bool {
    let only = Arc::new(vec![shared.servers[server].clone()]);
    let mut session = Session::new(&only, shared.level, 0, &shared.processes);
    let mut listed = false;
    loop {
        if session.ready().await {
            if !listed {
                let all = ListTransaction::read_all(shared.level, shared.lists.all());
                let told = run_on_lists(shared, &mut session, server, all).await;
                listed = told == Some(Told::Acknowledged);
            }
            let mut audit = Audit::of_everything(&shared.bank);
            // After the lists, so that its mark says whose those were, too.
            if listed && shared.run(&mut session, &mut audit).await == Told::Acknowledged {
                shared.judge(&audit, server);
                return true;
            }
        }
        if now() >= ends || shared.is_taken() {
            return false;
        }
        pause(AUDIT_PAUSE).await;
    }
}
