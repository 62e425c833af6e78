//! The workload of the bank: transfers, each with a row of its own in a ledger, and audits.
//!
//! Whatever happens, the sum of all balances stays, each balance is what the ledger makes it, what
//! was acknowledged is in the ledger and what was refused is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use rand::Rng;
use rand::rngs::StdRng;

use super::schema::{ACCOUNTS_TABLE, LEDGER, read_mark};
use super::session::{Attempt, Failure, Link, Told, commit};
use crate::args::Isolation;

/// Accounts.
pub const ACCOUNTS: i64 = 20;
/// What each begins with.
pub const BALANCE_INITIAL: i64 = 1_000;
/// Numbers of a client's transfers begin at its number times this.
pub const NUMBERS_PER_CLIENT: i64 = 10_000_000;

/// A transfer, as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    payer: i64,
    payee: i64,
    amount: i64,
}

/// What clients were told.
#[derive(Clone, Debug, Default)]
pub struct Books {
    acknowledged: BTreeMap<i64, Entry>,
    refused: BTreeSet<i64>,
    unknown: u64,
}

impl Books {
    /// Transfers acknowledged, refused and unknown.
    pub fn figures(&self) -> [u64; 3] {
        [self.acknowledged.len() as u64, self.refused.len() as u64, self.unknown]
    }
}

/// What clients were told, and what audits found.
#[derive(Default)]
pub struct Bank {
    books: Mutex<Books>,
    audits: Mutex<(u64, Vec<String>)>,
}

impl Bank {
    /// What clients have been told so far.
    pub fn books(&self) -> Books {
        self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How many audits came through, and what they found.
    pub fn audits(&self) -> (u64, Vec<String>) {
        self.audits.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Notes what a client was told.
    pub fn note(&self, transfer: &Transfer, told: &Told) {
        let mut books = self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match told {
            Told::Acknowledged if transfer.rolls_back => {
                books.refused.insert(transfer.number);
            }
            Told::Acknowledged => {
                books.acknowledged.insert(transfer.number, transfer.entry);
            }
            Told::Refused(_) => {
                books.refused.insert(transfer.number);
            }
            Told::Unknown(_) => books.unknown += 1,
        }
    }

    /// How many transfers are acknowledged.
    pub fn acknowledged(&self) -> usize {
        let books = self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        books.acknowledged.len()
    }

    /// Judges an audit that came through `server`.
    pub fn judge(&self, audit: &Audit, server: usize) {
        let mut audits = self.audits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        audits.0 += 1;
        if let Err(why) = audit.check() {
            audits.1.push(format!("an audit at server {server}: {why}"));
        }
    }
}

/// A transfer to be made.
pub struct Transfer {
    number: i64,
    entry: Entry,
    level: Isolation,
    reads_first: bool,
    rolls_back: bool,
}

impl Transfer {
    /// Draws one. Balances that were read are written back only where a transaction has one
    /// snapshot: else that loses what others did.
    pub fn draw(number: i64, level: Isolation, rng: &mut StdRng) -> Self {
        let payer = rng.random_range(0..ACCOUNTS);
        let payee = (payer + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let entry = Entry { payer, payee, amount: rng.random_range(1..=20) };
        let reads_first = level != Isolation::ReadCommitted && rng.random_range(0..2) == 0;
        Self { number, entry, level, reads_first, rolls_back: rng.random_range(0..25) == 0 }
    }

    /// Whether it takes itself back.
    pub fn rolls_back(&self) -> bool {
        self.rolls_back
    }
}

impl Attempt for Transfer {
    async fn send(&mut self, link: &mut impl Link) -> Result<(), Failure> {
        let Entry { payer, payee, amount } = self.entry;
        link.run(self.level.begin()).await?;
        for (id, change) in [(payer, -amount), (payee, amount)] {
            let mut balance = format!("balance + {change}");
            if self.reads_first {
                let sql = format!("SELECT balance FROM {ACCOUNTS_TABLE} WHERE id = {id}");
                let (rows, _) = link.run(&sql).await?;
                let read = rows.first().and_then(|row| row.first()?.parse::<i64>().ok());
                // An account that is not there will be missed by the next audit.
                balance = (read.unwrap_or(0) + change).to_string();
            }
            let sql = format!("UPDATE {ACCOUNTS_TABLE} SET balance = {balance} WHERE id = {id}");
            link.run(&sql).await?;
        }
        let number = self.number;
        let sql = format!("INSERT INTO {LEDGER} VALUES ({number}, {payer}, {payee}, {amount})");
        link.run(&sql).await?;
        match self.rolls_back {
            true => link.run("ROLLBACK").await.map(drop),
            false => commit(link).await,
        }
    }
}

/// One look at the whole bank, in one snapshot.
#[derive(Default)]
pub struct Audit {
    /// How many transfers were acknowledged before it began.
    acknowledged_before: usize,
    /// Read every entry and compare with this, not only sums.
    books: Option<Books>,
    balances: BTreeMap<i64, i64>,
    /// What the ledger makes of each account's balance.
    due: BTreeMap<i64, i64>,
    entries: i64,
    ledger: BTreeMap<i64, Entry>,
    /// Of the run that the tables were made for.
    mark: Option<String>,
}

impl Audit {
    /// An audit of sums.
    pub fn of_sums(bank: &Bank) -> Self {
        Self { acknowledged_before: bank.acknowledged(), ..Self::default() }
    }

    /// An audit of every entry, when no client is at work.
    pub fn of_everything(bank: &Bank) -> Self {
        Self { books: Some(bank.books()), ..Self::of_sums(bank) }
    }

    /// The mark of the run that the tables it saw were made for.
    pub fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        if i64::try_from(self.balances.len()) != Ok(ACCOUNTS) {
            return Err(format!("{} accounts of {ACCOUNTS} are there", self.balances.len()));
        }
        let sum: i64 = self.balances.values().sum();
        if sum != ACCOUNTS * BALANCE_INITIAL {
            return Err(format!("the sum is {sum}, it must be {}", ACCOUNTS * BALANCE_INITIAL));
        }
        for (account, balance) in &self.balances {
            let due = BALANCE_INITIAL + self.due.get(account).copied().unwrap_or(0);
            if *balance != due {
                return Err(format!("account {account} has {balance}, the ledger makes it {due}"));
            }
        }
        if i64::try_from(self.acknowledged_before).is_ok_and(|before| self.entries < before) {
            return Err(format!(
                "the ledger has {} entries, {} had been acknowledged before",
                self.entries, self.acknowledged_before
            ));
        }
        let Some(books) = &self.books else { return Ok(()) };
        for (number, entry) in &books.acknowledged {
            match self.ledger.get(number) {
                None => return Err(format!("transfer {number} was acknowledged and is not there")),
                Some(other) if other != entry => {
                    return Err(format!("transfer {number} is {other:?}, it was {entry:?}"));
                }
                Some(_) => {}
            }
        }
        match books.refused.iter().find(|number| self.ledger.contains_key(number)) {
            Some(number) => Err(format!("transfer {number} was refused and is there")),
            None => Ok(()),
        }
    }
}

/// A row of numbers; what is none becomes zero, which no sum stands.
fn numbers<const N: usize>(row: &[String]) -> [i64; N] {
    std::array::from_fn(|at| row.get(at).and_then(|cell| cell.parse().ok()).unwrap_or(0))
}

impl Attempt for Audit {
    async fn send(&mut self, link: &mut impl Link) -> Result<(), Failure> {
        // One snapshot for all statements, whatever the level of the others.
        link.run(Isolation::RepeatableRead.begin()).await?;
        let (rows, _) = link.run(&format!("SELECT id, balance FROM {ACCOUNTS_TABLE}")).await?;
        self.balances = rows.iter().map(|row| numbers(row)).map(|[id, n]| (id, n)).collect();
        for (column, sign) in [("payer", -1), ("payee", 1)] {
            let sql = format!(
                "SELECT {column}, sum(amount)::bigint, count(*) FROM {LEDGER} GROUP BY {column}"
            );
            self.entries = 0;
            for row in link.run(&sql).await?.0 {
                let [account, sum, count] = numbers(&row);
                *self.due.entry(account).or_default() += sign * sum;
                self.entries += count;
            }
        }
        if self.books.is_some() {
            let sql = format!("SELECT id, payer, payee, amount FROM {LEDGER}");
            for row in link.run(&sql).await?.0 {
                let [number, payer, payee, amount] = numbers(&row);
                self.ledger.insert(number, Entry { payer, payee, amount });
            }
        }
        // Last, so that it tells of all that was read before.
        self.mark = read_mark(link).await?;
        commit(link).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank_of(entry: Entry) -> Audit {
        let balances = (0..ACCOUNTS).map(|id| (id, BALANCE_INITIAL));
        let mut audit = Audit { balances: balances.collect(), entries: 1, ..Audit::default() };
        for (id, change) in [(entry.payer, -entry.amount), (entry.payee, entry.amount)] {
            *audit.balances.entry(id).or_default() += change;
            audit.due.insert(id, change);
        }
        audit.ledger.insert(7, entry);
        audit
    }

    const ENTRY: Entry = Entry { payer: 1, payee: 2, amount: 5 };

    #[test]
    fn what_does_not_add_up_is_found() {
        assert_eq!(bank_of(ENTRY).check(), Ok(()));
        let mut audit = bank_of(ENTRY);
        audit.balances.insert(1, BALANCE_INITIAL);
        assert!(audit.check().unwrap_err().contains("the sum is 20005"));
        let mut audit = bank_of(ENTRY);
        audit.due.clear();
        assert!(audit.check().unwrap_err().contains("account 1 has 995"));
        let mut audit = bank_of(ENTRY);
        audit.balances.remove(&3);
        assert!(audit.check().unwrap_err().contains("19 accounts"));
        let mut audit = bank_of(ENTRY);
        audit.acknowledged_before = 2;
        assert!(audit.check().unwrap_err().contains("2 had been acknowledged"));
    }

    #[test]
    fn lost_and_refused_transfers_are_found() {
        let mut audit = bank_of(ENTRY);
        let mut books = Books::default();
        books.acknowledged.insert(7, ENTRY);
        audit.books = Some(books.clone());
        assert_eq!(audit.check(), Ok(()));
        books.acknowledged.insert(8, ENTRY);
        audit.books = Some(books);
        assert!(audit.check().unwrap_err().contains("transfer 8 was acknowledged"));
        let books = Books { refused: [7].into(), ..Books::default() };
        audit.books = Some(books);
        assert!(audit.check().unwrap_err().contains("transfer 7 was refused"));
    }
}
