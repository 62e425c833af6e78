//! The second workload: clients that append to lists and read them, at the isolation level of the
//! run, beside the bank. What they were told is a history; when all is over it is checked against
//! what the level promises (`quorate_benches::history`), in simulated time.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_benches::args::Isolation;
use quorate_benches::history::{self, Promise, Transaction};
use quorate_benches::verify::lists::{KEYS_PER_SLOT, ListTransaction, Lists as InUse};
use quorate_benches::verify::schema::{LISTS, LISTS_COLUMNS};
use quorate_benches::verify::session::{Attempt as _, Failure, Link, Told};
use quorate_txn::config::MAX_CLOCK_OFFSET;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::bank::{Bank, STUCK_AFTER};
use super::client::{Client, Failed};
use super::machine::{Machine, Up};
use super::runtime;
use super::system;
use super::trace::Trace;

/// Lists in use at a time.
const LISTS_IN_USE: usize = 6;
/// Longest pause between two transactions of a client.
const PAUSE_MAX_MS: u64 = 150;
/// Findings that are written into the trace; the first is the violation.
const FINDINGS_SHOWN: usize = 3;

/// A place between lists that are in use, for a split.
pub fn key_within(drawn: u64) -> i64 {
    let slot = i64::try_from(drawn % LISTS_IN_USE as u64).unwrap_or(0);
    slot * KEYS_PER_SLOT + 1
}

struct State {
    rng: StdRng,
    history: Vec<Transaction>,
    connections: u64,
}

/// The lists.
///
/// # Invariants
/// * Every transaction that was begun enters the history with what its client was told, unless it
///   is stuck, which is a violation.
pub struct Lists {
    machines: Vec<Arc<Machine>>,
    bank: Arc<Bank>,
    trace: Arc<Trace>,
    level: Isolation,
    in_use: InUse,
    state: Mutex<State>,
}

/// Figures of a run.
#[derive(Debug, Clone)]
pub struct Figures {
    /// The level of every transaction.
    pub level: &'static str,
    /// Transactions acknowledged, refused or taken back, and unknown.
    pub ended: [usize; 3],
}

/// A session for one transaction.
struct Session<'a> {
    client: &'a mut Client,
    committing: bool,
}

impl Link for Session<'_> {
    fn commits(&mut self) {
        self.committing = true;
    }

    async fn run(&mut self, sql: &str) -> Result<(Vec<Vec<String>>, u64), Failure> {
        self.client.texts(sql).await.map_err(|why| match why {
            Failed::Sql(error) => Failure(Some(error.sqlstate.to_string())),
            Failed::Broken => Failure(None),
        })
    }
}

impl Lists {
    /// Lists at a level drawn from the seed. Their clients rest and stop with those of the bank.
    pub fn new(
        machines: &[Arc<Machine>],
        bank: &Arc<Bank>,
        seed: u64,
        trace: &Arc<Trace>,
    ) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let level = match rng.random_range(0..3) {
            0 => Isolation::ReadCommitted,
            1 => Isolation::RepeatableRead,
            _ => Isolation::Serializable,
        };
        Arc::new(Self {
            machines: machines.to_vec(),
            bank: bank.clone(),
            trace: trace.clone(),
            level,
            in_use: InUse::new(LISTS_IN_USE),
            state: Mutex::new(State { rng, history: Vec::new(), connections: 0 }),
        })
    }

    /// The figures so far.
    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        let count = |outcome| state.history.iter().filter(|t| t.outcome == outcome).count();
        let ended =
            [history::Outcome::Committed, history::Outcome::Aborted, history::Outcome::Unknown];
        Figures { level: self.level.sql(), ended: ended.map(count) }
    }

    /// Makes the table, in two ranges.
    ///
    /// # Errors
    /// What the server says.
    pub async fn open(&self, up: &Up) -> Result<(), Failed> {
        let mut client = Client::connect(up)?;
        client.query(&format!("CREATE TABLE {LISTS} ({LISTS_COLUMNS})")).await?;
        let middle = LISTS_IN_USE as i64 / 2 * KEYS_PER_SLOT;
        client.query(&format!("ALTER TABLE {LISTS} SPLIT AT VALUES ({middle})")).await?;
        self.trace.event(format_args!("the lists are at {}", self.level.sql()));
        Ok(())
    }

    /// One client, until the bank stops.
    pub async fn work(self: Arc<Self>) {
        while !self.bank.stopped() {
            let pause_ms = self.state.lock().rng.random_range(0..PAUSE_MAX_MS);
            self.bank.pause(pause_ms).await;
            let Some(up) = self.draw_up() else { continue };
            let transaction = self.in_use.draw_transaction(self.level, &mut self.state.lock().rng);
            self.run(&up, transaction).await;
        }
    }

    fn draw_up(&self) -> Option<Up> {
        let count = self.machines.len();
        let first = self.state.lock().rng.random_range(0..count);
        (0..count).find_map(|i| self.machines[(first + i) % count].up())
    }

    /// Reads all lists through this node; whether it came through.
    pub async fn read_all(&self, up: &Up) -> bool {
        let all = ListTransaction::read_all(self.level, self.in_use.all());
        self.run(up, all).await == Some(Told::Acknowledged)
    }

    /// What the client was told; `None` if it is stuck or could not connect.
    async fn run(&self, up: &Up, mut transaction: ListTransaction) -> Option<Told> {
        let mut client = Client::connect(up).ok()?;
        let process = {
            let mut state = self.state.lock();
            state.connections += 1;
            state.connections
        };
        let invoked_ns = now_ns();
        let mut session = Session { client: &mut client, committing: false };
        let sent = runtime::within(STUCK_AFTER, transaction.send(&mut session)).await;
        let told = match sent {
            Some(Ok(())) => Told::Acknowledged,
            Some(Err(failure)) => failure.told(session.committing),
            None => {
                self.trace.violation(format_args!("transaction {process} on lists is stuck"));
                return None;
            }
        };
        let machine = up.life.machine;
        let written = transaction.written(&told, process, machine as u64, invoked_ns..now_ns());
        let ops = &written.ops;
        self.trace.event(format_args!("lists {process} via m{machine} {ops:?}: {told:?}"));
        self.state.lock().history.push(written);
        Some(told)
    }

    /// Checks the whole history against what the level promises.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        check(self.level, self.state.lock().history.clone())
    }
}

fn check(level: Isolation, history: Vec<Transaction>) -> Result<(), String> {
    let offset_ns = u64::try_from(MAX_CLOCK_OFFSET.as_nanos()).unwrap_or(u64::MAX);
    let transactions = history::named(history);
    let report = history::check(&transactions, Promise { level, clock_offset_ns_max: offset_ns });
    let found = report.findings.iter().take(FINDINGS_SHOWN).map(|f| format!("\n{f}"));
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!(
            "{} findings that {} forbids in {} transactions on lists{}",
            report.found,
            level.sql(),
            transactions.len(),
            found.collect::<String>()
        )),
    }
}

fn now_ns() -> u64 {
    u64::try_from(system::now().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use quorate_benches::history::{Key, Op, Outcome, Value};

    use super::*;

    fn committed(process: u64, at_ns: u64, op: Op) -> Transaction {
        Transaction {
            id: 0,
            process,
            node: 1,
            invoked_ns: at_ns,
            completed_ns: at_ns + 1,
            one_statement: true,
            ops: vec![op],
            outcome: Outcome::Committed,
        }
    }

    #[test]
    fn a_lost_append_is_found() {
        let append = committed(1, 10, Op::Append(Key(1), Value(7)));
        let read = |values| committed(2, 20, Op::Read(Key(1), values));
        let level = Isolation::ReadCommitted;
        assert_eq!(check(level, vec![append.clone(), read(vec![Value(7)])]), Ok(()));
        let found = check(level, vec![append, read(Vec::new())]).unwrap_err();
        assert!(found.contains("1 findings that READ COMMITTED forbids"), "{found}");
        assert!(found.contains("lost append: T1 appended 7 to key 1"), "{found}");
    }
}
