//! A bank: clients that move money while the cluster is maltreated, and the audit afterwards.
//!
//! Each transfer writes its number into a ledger in the same transaction. What the client was told
//! sorts the numbers into acknowledged, refused and unknown; afterwards the first must all be in
//! the ledger, the second must not, and the balances must be what the ledger says they are. An
//! auditor reads the sum of all balances all the time: under snapshot isolation it never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

/// What every account begins with.
const BALANCE_INITIAL: i64 = 1_000;

/// Transfers of one seed have numbers of their own.
const TRANSFERS_PER_SEED_MAX: i64 = 1_000_000;

/// How long one step of a transfer may take before the client gives up the connection.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// A client waits this long after a failure, so that a dead server is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// What the clients were told.
#[derive(Debug, Default)]
pub struct History {
    /// Transfers whose commit was acknowledged, with the time.
    pub acknowledged: BTreeMap<i64, Instant>,
    /// Transfers that certainly did not happen.
    pub refused: BTreeSet<i64>,
    /// Transfers of which nobody can tell.
    pub unknown: BTreeSet<i64>,
    /// Wrong sums the auditor saw.
    pub wrong_sums: Vec<i64>,
    /// How often the auditor looked.
    pub audits: usize,
    /// How often each SQLSTATE was the reason of a refusal.
    pub reasons: BTreeMap<String, usize>,
}

impl History {
    /// The longest time without an acknowledged commit between two instants.
    pub fn longest_pause(&self, from: Instant, upto: Instant) -> Duration {
        let mut times: Vec<Instant> = self.acknowledged.values().copied().collect();
        times.retain(|time| (from..upto).contains(time));
        times.extend([from, upto]);
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Running clients.
pub struct Bank {
    accounts: i64,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
    commits: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

/// Connects with tokio-postgres and drives the connection in the background.
pub async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The SQLSTATE of an error; empty if the connection failed.
pub fn sqlstate(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

/// Makes the tables and the accounts; with `split`, each quarter of the accounts and the ledger
/// lie in ranges of their own, so that most transfers are many-range commits.
pub async fn open(url: &str, accounts: i64, split: bool) {
    let client = connect(url).await.expect("the server answers");
    let tables = "CREATE TABLE account (id int8 PRIMARY KEY, balance int8 NOT NULL);
        CREATE TABLE ledger (id int8 PRIMARY KEY, src int8 NOT NULL, dst int8 NOT NULL,
            amount int8 NOT NULL)";
    for statement in tables.split(';') {
        client.batch_execute(statement).await.expect("the tables can be made");
    }
    let rows: Vec<String> = (0..accounts).map(|id| format!("({id}, {BALANCE_INITIAL})")).collect();
    let insert = format!("INSERT INTO account VALUES {}", rows.join(", "));
    client.batch_execute(&insert).await.expect("the accounts can be inserted");
    if split {
        let at: Vec<String> = (1..4).map(|part| format!("({})", accounts * part / 4)).collect();
        let sql = format!("ALTER TABLE account SPLIT AT VALUES {}", at.join(", "));
        client.batch_execute(&sql).await.expect("the accounts can be split");
        client
            .batch_execute("ALTER TABLE ledger SPLIT AT VALUES (0)")
            .await
            .expect("the ledger can be split off");
    }
}

impl Bank {
    /// Lets clients loose; client `n` prefers the `n`-th URL and goes on to the next when it fails.
    pub fn run(urls: &[String], accounts: i64, clients: usize, seed: u64) -> Bank {
        // Rounds on the same ledger must not share numbers.
        let first = i64::try_from(seed).unwrap_or(0) * TRANSFERS_PER_SEED_MAX;
        let mut bank = Bank {
            accounts,
            stop: Arc::default(),
            history: Arc::default(),
            commits: Arc::default(),
            clients: Vec::new(),
        };
        let next = Arc::new(AtomicI64::new(first + 1));
        for number in 0..clients {
            let worker = Worker {
                urls: rotated(urls, number),
                accounts,
                stop: bank.stop.clone(),
                history: bank.history.clone(),
                commits: bank.commits.clone(),
                next: next.clone(),
                rng: StdRng::seed_from_u64(seed + number as u64),
            };
            bank.clients.push(tokio::spawn(worker.work()));
        }
        let auditor = audit_all_the_time(
            rotated(urls, clients),
            accounts * BALANCE_INITIAL,
            bank.stop.clone(),
            bank.history.clone(),
        );
        bank.clients.push(tokio::spawn(auditor));
        bank
    }

    /// Acknowledged transfers so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until this many further transfers were acknowledged; how long it took.
    pub async fn wait_for_commits(&self, more: u64, limit: Duration) -> Duration {
        let (began, wanted) = (Instant::now(), self.commits() + more);
        let what = format!("{more} more transfers were acknowledged");
        crate::process::wait_until_async(&what, limit, async || self.commits() >= wanted).await;
        began.elapsed()
    }

    /// Stops the clients and returns what they were told.
    pub async fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.expect("a client does not panic");
        }
        std::mem::take(&mut *self.history.lock().expect("nobody panicked holding it"))
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> i64 {
        self.accounts
    }
}

fn rotated(urls: &[String], by: usize) -> Vec<String> {
    let mut urls = urls.to_vec();
    let by = by % urls.len().max(1);
    urls.rotate_left(by);
    urls
}

struct Worker {
    urls: Vec<String>,
    accounts: i64,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
    commits: Arc<AtomicU64>,
    next: Arc<AtomicI64>,
    rng: StdRng,
}

/// How one transfer ended.
enum Outcome {
    Acknowledged,
    /// SQLSTATE.
    Refused(String),
    Unknown,
}

impl Worker {
    async fn work(mut self) {
        let mut turn = 0;
        let mut client: Option<Client> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if client.as_ref().is_none_or(Client::is_closed) {
                let attempt = connect(&self.urls[turn % self.urls.len()]);
                client = match tokio::time::timeout(STEP_LIMIT, attempt).await {
                    Ok(Ok(connected)) => Some(connected),
                    _ => None,
                };
                if client.is_none() {
                    turn += 1;
                    tokio::time::sleep(FAILURE_PAUSE).await;
                    continue;
                }
            }
            let Some(session) = client.as_ref() else {
                continue;
            };
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let src = self.rng.random_range(0..self.accounts);
            let dst = (src + self.rng.random_range(1..self.accounts)) % self.accounts;
            let amount = self.rng.random_range(1..=10);
            let transfer = transfer(session, id, src, dst, amount);
            let outcome = tokio::time::timeout(STEP_LIMIT, transfer).await;
            let broken = match &outcome {
                Err(_) | Ok(Outcome::Unknown) => true,
                Ok(Outcome::Refused(state)) => state.is_empty(),
                Ok(Outcome::Acknowledged) => false,
            };
            self.note(id, outcome.unwrap_or(Outcome::Unknown));
            if broken {
                client = None;
                turn += 1;
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    fn note(&self, id: i64, outcome: Outcome) {
        let mut history = self.history.lock().expect("nobody panicked holding it");
        match outcome {
            Outcome::Acknowledged => {
                history.acknowledged.insert(id, Instant::now());
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused(reason) => {
                history.refused.insert(id);
                *history.reasons.entry(reason).or_default() += 1;
            }
            Outcome::Unknown => {
                history.unknown.insert(id);
            }
        }
    }
}

/// One transfer. An error before COMMIT was sent is a refusal; after that only a SQLSTATE that
/// says so is.
async fn transfer(client: &Client, id: i64, src: i64, dst: i64, amount: i64) -> Outcome {
    let steps = [
        "BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned(),
        format!("UPDATE account SET balance = balance - {amount} WHERE id = {src}"),
        format!("UPDATE account SET balance = balance + {amount} WHERE id = {dst}"),
        format!("INSERT INTO ledger VALUES ({id}, {src}, {dst}, {amount})"),
    ];
    for step in steps {
        if let Err(error) = client.batch_execute(&step).await {
            client.batch_execute("ROLLBACK").await.ok();
            return Outcome::Refused(sqlstate(&error));
        }
    }
    match client.batch_execute("COMMIT").await {
        Ok(()) => Outcome::Acknowledged,
        Err(error) => match sqlstate(&error).as_str() {
            // A node that stops says so instead of committing, never in the middle of it.
            "57P01" => Outcome::Refused(String::from("57P01")),
            // 40003 is "completion unknown"; the 08 and 57P classes are a connection that goes.
            "" | "40003" => Outcome::Unknown,
            state if state.starts_with("08") || state.starts_with("57P") => Outcome::Unknown,
            state => {
                client.batch_execute("ROLLBACK").await.ok();
                Outcome::Refused(state.to_owned())
            }
        },
    }
}

/// Reads the sum of all balances until told to stop, and notes every wrong one.
async fn audit_all_the_time(
    urls: Vec<String>,
    expected: i64,
    stop: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
) {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let url = &urls[turn % urls.len()];
        let sum = tokio::time::timeout(STEP_LIMIT, sum_of_balances(url)).await;
        let Ok(Ok(sum)) = sum else {
            tokio::time::sleep(FAILURE_PAUSE).await;
            continue;
        };
        let mut history = history.lock().expect("nobody panicked holding it");
        history.audits += 1;
        if sum != expected {
            history.wrong_sums.push(sum);
        }
    }
}

async fn sum_of_balances(url: &str) -> Result<i64, Error> {
    let client = connect(url).await?;
    let row = client.query_one("SELECT sum(balance)::int8 FROM account", &[]).await?;
    row.try_get(0)
}

/// Compares what is stored with what the clients were told; panics where it contradicts.
pub async fn audit(url: &str, accounts: i64, history: &History) {
    let stored = audit_balances(url, accounts, history).await;
    let invented: Vec<_> = stored
        .iter()
        .filter(|id| !history.acknowledged.contains_key(id) && !history.unknown.contains(id))
        .collect();
    assert!(invented.is_empty(), "transfers nobody asked for: {invented:?}");
}

/// The same, when other clients wrote to the ledger too; what the ledger holds.
pub async fn audit_balances(url: &str, accounts: i64, history: &History) -> BTreeSet<i64> {
    let client = connect(url).await.expect("the server answers");
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .expect("a transaction begins");
    let ledger = client
        .query("SELECT id, src, dst, amount FROM ledger", &[])
        .await
        .expect("the ledger can be read");
    let balances = client
        .query("SELECT id, balance FROM account ORDER BY id", &[])
        .await
        .expect("the accounts can be read");
    client.batch_execute("COMMIT").await.expect("a read-only transaction commits");

    let stored: BTreeSet<i64> = ledger.iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = history.acknowledged.keys().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged transfers are lost: {lost:?}");
    let ghosts: Vec<_> = history.refused.intersection(&stored).collect();
    assert!(ghosts.is_empty(), "refused transfers happened: {ghosts:?}");

    let mut expected: BTreeMap<i64, i64> = (0..accounts).map(|id| (id, BALANCE_INITIAL)).collect();
    for row in &ledger {
        *expected.entry(row.get(1)).or_default() -= row.get::<_, i64>(3);
        *expected.entry(row.get(2)).or_default() += row.get::<_, i64>(3);
    }
    let found: BTreeMap<i64, i64> = balances.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, expected, "the balances are not what the ledger says");
    assert!(history.wrong_sums.is_empty(), "the auditor saw {:?}", history.wrong_sums);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_counts_both_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut history = History::default();
        history.acknowledged.extend([(1, at(100)), (2, at(150)), (3, at(900))]);
        assert_eq!(history.longest_pause(start, at(1000)), Duration::from_millis(750));
        assert_eq!(history.longest_pause(start, at(3000)), Duration::from_millis(2100));
        assert_eq!(history.longest_pause(at(200), at(300)), Duration::from_millis(100));
    }
}
