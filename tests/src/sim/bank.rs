//! The workload: clients that move money between accounts in several ranges, through gateways drawn
//! anew for each transfer, and auditors that read the whole bank in one transaction.
//!
//! Each transfer writes a row of its own into a ledger in the same transaction, so that what a
//! client was told of it can be compared with what happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_benches::verify::schema::LISTS;
use quorate_planner::error::SqlState;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::checks::{Seen, Told, Transfer, bank_sum, no_lost_acked_write};
use super::client::{Client, Failed, Rows};
use super::lists;
use super::machine::{Machine, Up};
use super::runtime;
use super::system;
use super::trace::Trace;

/// Numbers of one client's transfers begin at its number times this.
const NUMBERS_PER_CLIENT: i64 = 1_000_000;
/// Longest pause between two transfers of a client.
const PAUSE_MAX_MS: u64 = 60;
/// A statement or commit that takes longer is stuck: every deadline of the product is shorter.
pub const STUCK_AFTER: Duration = Duration::from_secs(120);

/// How one transfer ended.
enum Outcome {
    /// With what was moved.
    Acknowledged(Transfer),
    Refused(Failed),
    Unknown(Failed),
}

/// Figures of a run.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Transfers acknowledged.
    pub acknowledged: u64,
    /// Transfers refused.
    pub refused: u64,
    /// Transfers of which nobody was told.
    pub unknown: u64,
    /// Unknown ones that the last audit found done.
    pub unknown_done: u64,
    /// Audits that came through.
    pub audits: u64,
    /// Looks back that came through.
    pub looks_back: u64,
    /// Pages of them that followers answered.
    pub by_followers: u64,
    /// Reasons, and how often.
    pub reasons: BTreeMap<String, u64>,
}

struct State {
    rng: StdRng,
    told: Told,
    /// When each transfer was acknowledged.
    acknowledged_at: BTreeMap<i64, Duration>,
    opened_at: Duration,
    unknown: Vec<i64>,
    figures: Figures,
}

/// The bank.
///
/// # Invariants
/// * What a client is told enters `told` in the moment it hears it.
pub struct Bank {
    machines: Vec<Arc<Machine>>,
    trace: Arc<Trace>,
    accounts: i64,
    stop: AtomicBool,
    rests_until_ms: AtomicU64,
    state: Mutex<State>,
}

impl Bank {
    /// Whether a clock has left its bound in this run.
    pub(super) fn a_clock_has_leapt(&self) -> bool {
        self.machines.iter().any(|machine| machine.clock.has_leapt())
    }

    /// A bank with so many accounts.
    pub fn new(
        machines: &[Arc<Machine>],
        accounts: i64,
        seed: u64,
        trace: &Arc<Trace>,
    ) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            told: Told::default(),
            acknowledged_at: BTreeMap::new(),
            opened_at: Duration::MAX,
            unknown: Vec::new(),
            figures: Figures::default(),
        };
        Arc::new(Self {
            machines: machines.to_vec(),
            trace: trace.clone(),
            accounts,
            stop: AtomicBool::new(false),
            rests_until_ms: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> i64 {
        self.accounts
    }

    /// Clients end after what they are at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Nobody does anything for a while: groups go quiet.
    pub fn rest_for(&self, ms: u64) {
        self.trace.event(format_args!("the bank rests for {ms} ms"));
        let until = u64::try_from(system::now().as_millis()).unwrap_or(u64::MAX) + ms;
        self.rests_until_ms.store(until, Ordering::SeqCst);
    }

    /// Waits until the bank works, for at least so long.
    pub async fn pause(&self, ms: u64) {
        let until = self.rests_until_ms.load(Ordering::SeqCst);
        let rest = Duration::from_millis(until).saturating_sub(system::now());
        runtime::pause(rest.max(Duration::from_millis(ms))).await;
    }

    /// Whether clients are to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The figures so far.
    pub fn figures(&self) -> Figures {
        self.state.lock().figures.clone()
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// When the tables were there; not before it is known.
    pub(super) fn opened_at(&self) -> Duration {
        self.state.lock().opened_at
    }

    /// What clients were told up to then, and all that they were refused.
    pub(super) fn told_before(&self, then: Duration) -> Told {
        let state = self.state.lock();
        let mut told = state.told.clone();
        told.acknowledged
            .retain(|number, _| state.acknowledged_at.get(number).is_some_and(|at| *at <= then));
        told
    }

    pub(super) fn note_look_back(&self, by_followers: u64) {
        let mut state = self.state.lock();
        state.figures.looks_back += 1;
        state.figures.by_followers += by_followers;
    }

    fn draw(&self, below: u64) -> u64 {
        self.state.lock().rng.random_range(0..below)
    }

    /// Makes the tables in at least three ranges.
    ///
    /// # Errors
    /// What the server says.
    pub async fn open(&self, up: &Up) -> Result<(), Failed> {
        let mut client = Client::connect(up)?;
        client
            .query("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)")
            .await?;
        client
            .query(
                "CREATE TABLE ledger (id bigint PRIMARY KEY, payer bigint NOT NULL, \
                 payee bigint NOT NULL, amount bigint NOT NULL)",
            )
            .await?;
        let rows: Vec<String> = (1..=self.accounts)
            .map(|id| format!("({id}, {})", bank_sum::BALANCE_INITIAL))
            .collect();
        client.query(&format!("INSERT INTO accounts VALUES {}", rows.join(", "))).await?;
        let third = (self.accounts / 3).max(1);
        let at = format!("({}), ({})", 1 + third, 1 + 2 * third);
        client.query(&format!("ALTER TABLE accounts SPLIT AT VALUES {at}")).await?;
        let at = format!("({})", 2 * NUMBERS_PER_CLIENT);
        client.query(&format!("ALTER TABLE ledger SPLIT AT VALUES {at}")).await?;
        self.state.lock().opened_at = system::now();
        Ok(())
    }

    /// Splits a range of accounts, or now and then of lists, at a key drawn from the seed.
    pub async fn split_somewhere(self: Arc<Self>) {
        let Some(up) = self.draw_up() else { return };
        let (table, at) = match self.draw(4) {
            0 => (LISTS, lists::key_within(self.draw(u64::MAX))),
            _ => ("accounts", 1 + self.draw_account()),
        };
        let work = async {
            let mut client = Client::connect(&up)?;
            client.query(&format!("ALTER TABLE {table} SPLIT AT VALUES ({at})")).await
        };
        match runtime::within(STUCK_AFTER, work).await {
            Some(Ok(_)) => self.trace.event(format_args!("split of {table} at {at}: done")),
            Some(Err(why)) => self.trace.event(format_args!("split of {table} at {at}: {why}")),
            None => self.trace.violation(format_args!("the split of {table} at {at} is stuck")),
        }
    }

    fn draw_account(&self) -> i64 {
        let accounts = u64::try_from(self.accounts).unwrap_or(1);
        1 + i64::try_from(self.draw(accounts)).unwrap_or(0)
    }

    fn draw_up(&self) -> Option<Up> {
        self.up_from(self.draw(self.machines.len() as u64))
    }

    /// A node that serves, counted on from this one.
    pub(super) fn up_from(&self, number: u64) -> Option<Up> {
        let count = self.machines.len();
        let first = usize::try_from(number % count as u64).unwrap_or(0);
        (0..count).find_map(|i| self.machines[(first + i) % count].up())
    }

    /// One client, until the bank stops.
    pub async fn work(self: Arc<Self>, client: i64) {
        let mut number = client * NUMBERS_PER_CLIENT;
        while !self.stopped() {
            self.pause(self.draw(PAUSE_MAX_MS)).await;
            let Some(up) = self.draw_up() else { continue };
            number += 1;
            let (from, mut to) = (self.draw_account(), self.draw_account());
            if from == to {
                to = 1 + from % self.accounts;
            }
            let amount = 1 + i64::try_from(self.draw(20)).unwrap_or(0);
            let transfer = Transfer { from, to, amount };
            let attempt = self.attempt(&up, number, transfer);
            match runtime::within(STUCK_AFTER, attempt).await {
                Some(outcome) => self.book(number, transfer, up.life.machine, &outcome),
                None => self.trace.violation(format_args!("transfer {number} is stuck")),
            }
        }
    }

    fn book(&self, number: i64, transfer: Transfer, machine: usize, outcome: &Outcome) {
        let mut state = self.state.lock();
        let what = match outcome {
            Outcome::Acknowledged(transfer) => {
                state.figures.acknowledged += 1;
                state.told.acknowledged.insert(number, *transfer);
                state.acknowledged_at.insert(number, system::now());
                String::from("acknowledged")
            }
            Outcome::Refused(why) => {
                state.figures.refused += 1;
                state.told.refused.insert(number);
                format!("refused: {why}")
            }
            Outcome::Unknown(why) => {
                state.figures.unknown += 1;
                state.unknown.push(number);
                format!("unknown: {why}")
            }
        };
        *state.figures.reasons.entry(what.clone()).or_default() += 1;
        drop(state);
        let Transfer { from, to, amount } = transfer;
        let path = format!("{from}>{to} {amount}");
        self.trace.event(format_args!("transfer {number} {path} via m{machine} {what}"));
    }

    async fn attempt(&self, up: &Up, number: i64, transfer: Transfer) -> Outcome {
        let mut client = match Client::connect(up) {
            Ok(client) => client,
            Err(why) => return Outcome::Refused(why),
        };
        let moved = match self.write(&mut client, number, transfer).await {
            Ok(moved) => moved,
            Err(why) => return Outcome::Refused(why),
        };
        match client.query("COMMIT").await {
            Ok(_) => Outcome::Acknowledged(moved),
            Err(Failed::Sql(error)) if error.sqlstate != SqlState::STATEMENT_COMPLETION_UNKNOWN => {
                Outcome::Refused(Failed::Sql(error))
            }
            Err(why) => Outcome::Unknown(why),
        }
    }

    /// The statements before the commit; what is moved. An account without a row has nothing.
    async fn write(
        &self,
        client: &mut Client,
        number: i64,
        mut transfer: Transfer,
    ) -> Result<Transfer, Failed> {
        client.query("BEGIN").await?;
        match self.draw(8) {
            0..=2 => {
                let Transfer { from, to, amount } = transfer;
                for (id, change) in [(from, -amount), (to, amount)] {
                    set(client, id, &format!("balance + {change}"), change).await?;
                }
            }
            3 => transfer = self.close(client, transfer).await?,
            kind => self.read_and_write(client, transfer, kind >= 6).await?,
        }
        let Transfer { from, to, amount } = transfer;
        let text = format!("INSERT INTO ledger VALUES ({number}, {from}, {to}, {amount})");
        client.query(&text).await?;
        Ok(transfer)
    }

    /// Balances are read, and what they shall be is written.
    async fn read_and_write(
        &self,
        client: &mut Client,
        transfer: Transfer,
        locks: bool,
    ) -> Result<(), Failed> {
        let Transfer { from, to, amount } = transfer;
        let lock = if locks { " FOR UPDATE" } else { "" };
        let mut balances = Vec::new();
        for id in [from, to] {
            balances.push(balance(client, id, lock).await?);
        }
        if locks {
            // A key that is locked and not written: the commit has something to check.
            balance(client, self.draw_account(), lock).await?;
        }
        for ((id, change), balance) in [(from, -amount), (to, amount)].iter().zip(balances) {
            let balance = balance + change;
            set(client, *id, &balance.to_string(), balance).await?;
        }
        Ok(())
    }

    /// All that an account has is moved, and its row is deleted: only the history of the key knows
    /// then what older snapshots must see.
    async fn close(&self, client: &mut Client, transfer: Transfer) -> Result<Transfer, Failed> {
        let Transfer { from, to, .. } = transfer;
        let amount = balance(client, from, " FOR UPDATE").await?;
        client.query(&format!("DELETE FROM accounts WHERE id = {from}")).await?;
        set(client, to, &format!("balance + {amount}"), amount).await?;
        Ok(Transfer { from, to, amount })
    }

    /// One auditor, until the bank stops.
    pub async fn audit_on(self: Arc<Self>) {
        while !self.stopped() {
            self.pause(20 + self.draw(400)).await;
            let Some(up) = self.draw_up() else { continue };
            if runtime::within(STUCK_AFTER, self.audit(&up)).await.is_none() {
                self.trace.violation("an audit is stuck");
            }
        }
    }

    /// Reads the whole bank in one transaction through this node; whether it came through.
    pub async fn audit(&self, up: &Up) -> bool {
        // Before the transaction begins: it must see all of this.
        let told = self.state.lock().told.clone();
        let machine = up.life.machine;
        let seen = match self.see(up, "BEGIN").await {
            Ok((seen, _)) => seen,
            Err(why) => {
                let what = format!("audit: {why}");
                self.trace.event(format_args!("audit via m{machine}: {why}"));
                *self.state.lock().figures.reasons.entry(what).or_default() += 1;
                return false;
            }
        };
        for found in
            [bank_sum::check(&seen, self.accounts), no_lost_acked_write::check(&seen, &told)]
        {
            if let Err(why) = found {
                self.trace.violation(format_args!("audit via m{machine}: {why}"));
            }
        }
        let mut state = self.state.lock();
        state.figures.audits += 1;
        state.figures.unknown_done =
            state.unknown.iter().filter(|number| seen.ledger.contains_key(number)).count() as u64;
        drop(state);
        let rows = seen.ledger.len();
        self.trace.event(format_args!("audit via m{machine}: {rows} transfers"));
        true
    }

    /// The bank in one transaction, and how many of its pages followers answered.
    pub(super) async fn see(&self, up: &Up, begin: &str) -> Result<(Seen, u64), Failed> {
        let mut client = Client::connect(up)?;
        client.query(begin).await?;
        let mut seen = Seen::default();
        for row in client.query("SELECT id, balance FROM accounts").await? {
            if let [Some(id), Some(balance)] = row[..] {
                seen.balances.insert(id, balance);
            }
        }
        for row in client.query("SELECT id, payer, payee, amount FROM ledger").await? {
            if let [Some(id), Some(from), Some(to), Some(amount)] = row[..] {
                seen.ledger.insert(id, Transfer { from, to, amount });
            }
        }
        client.query("COMMIT").await?;
        let (timeline, _) = client.texts("SHOW LAST TRANSACTION").await?;
        let pages = timeline.iter().filter_map(|event| event.last()?.parse::<u64>().ok());
        Ok((seen, pages.sum()))
    }
}

/// What an account has.
async fn balance(client: &mut Client, id: i64, lock: &str) -> Result<i64, Failed> {
    let rows = client.query(&format!("SELECT balance FROM accounts WHERE id = {id}{lock}")).await?;
    Ok(one_number(&rows))
}

/// Sets a balance; `alone` is what it is if there is no row yet.
async fn set(client: &mut Client, id: i64, balance: &str, alone: i64) -> Result<(), Failed> {
    let text = format!("UPDATE accounts SET balance = {balance} WHERE id = {id}");
    let (_, touched) = client.texts(&text).await?;
    if touched == 0 {
        client.query(&format!("INSERT INTO accounts VALUES ({id}, {alone})")).await?;
    }
    Ok(())
}

fn one_number(rows: &Rows) -> i64 {
    rows.first().and_then(|row| row.first().copied().flatten()).unwrap_or(0)
}
