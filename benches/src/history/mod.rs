//! Checks histories: whether what clients saw is possible at the isolation level they asked for.
//!
//! Clients append values, each unique for its key, to lists, and read whole lists. Such a history
//! tells the order in which the versions of a row were made, so that what depends on what is known
//! and not guessed, and a forbidden phenomenon is a cycle of dependencies. The method is that of
//! Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental
//! Observations", VLDB 2020); the names of the phenomena are Adya's ("Weak Consistency", 1999).
//!
//! # The life of a check
//! 1. `observed` sorts transactions into those that happened and those that did not, and takes
//!    the versions of each list from its longest read.
//! 2. `values` looks at single values: lost, invented, aborted, half done, read twice.
//! 3. `model` draws what must come before what, as the level promises it ([`Promise`]).
//! 4. `cycles` finds what would have to come before itself, the shortest of each class.
//! 5. `explain` says it in words.
//!
//! Nothing here does input or output but [`file`](mod@file), which keeps histories as lines of
//! JSON.

mod cycles;
mod explain;
pub mod file;
mod graph;
mod model;
mod observed;
#[cfg(test)]
mod tests;
mod timeline;
mod values;

pub use model::Promise;

use std::fmt;

use serde::{Deserialize, Serialize};

use observed::Observed;

/// Findings kept of each kind; the rest is counted only.
const FINDINGS_OF_A_KIND_MAX: usize = 5;

/// Names a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(pub i64);

/// An element of a list; appended to one key at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value(pub i64);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a transaction did to a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Appended a value; also if the statement was sent and never answered.
    Append(Key, Value),
    /// Read the whole list; empty if there is none.
    Read(Key, Vec<Value>),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was acknowledged.
    Committed,
    /// It certainly did not happen.
    Aborted,
    /// Nobody was told.
    Unknown,
}

/// A transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its name in explanations.
    pub id: u64,
    /// The session: transactions of one session went one after another to one server.
    pub process: u64,
    /// The server it was sent to.
    pub node: u64,
    /// When its client began, in nanoseconds of a clock that all clients share.
    pub invoked_ns: u64,
    /// When its client had the answer, or gave up.
    pub completed_ns: u64,
    /// All of it was one statement: one snapshot at every level.
    #[serde(default)]
    pub one_statement: bool,
    /// What it did, in order.
    pub ops: Vec<Op>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Puts transactions in the order in which they were invoked, and names them by it.
pub fn named(mut transactions: Vec<Transaction>) -> Vec<Transaction> {
    transactions.sort_by_key(|t| (t.invoked_ns, t.process));
    for (id, transaction) in (1..).zip(&mut transactions) {
        transaction.id = id;
    }
    transactions
}

/// What a history must not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A transaction contradicts itself: its own writes are not there, or two of its reads do not
    /// agree.
    Internal,
    /// A value stands twice in a list, or was appended twice by the clients' fault.
    Duplicate,
    /// A value that nobody appended to this list.
    NeverWritten,
    /// Two reads of a list of which neither begins with the other.
    IncompatibleOrders,
    /// A transaction's own appends to a list do not follow one another as it made them.
    OutOfOrder,
    /// An acknowledged append that a later reader did not see, and nobody else.
    LostAppend,
    /// Adya's G1a: a value of a transaction that was aborted.
    G1a,
    /// Adya's G1b: a value that its own transaction went on to append to.
    G1b,
    /// A cycle of dependencies.
    Cycle(Class, Time),
}

/// Classes of cycles, after Adya, by the dependencies they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Appends only.
    G0,
    /// Appends, and reads of what was appended.
    G1c,
    /// The same with one read of a list as it was before an append.
    GSingle,
    /// With two or more of them.
    G2Item,
}

/// Whether a cycle needs more than what transactions saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Time {
    /// It does not.
    Irrelevant,
    /// It needs the order of one session's transactions.
    Process,
    /// It needs that one transaction ended before another began.
    Realtime,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, time) = match self {
            Self::Internal => return f.write_str("internal inconsistency"),
            Self::Duplicate => return f.write_str("duplicate"),
            Self::NeverWritten => return f.write_str("value never written"),
            Self::IncompatibleOrders => return f.write_str("incompatible orders"),
            Self::OutOfOrder => return f.write_str("appends out of order"),
            Self::LostAppend => return f.write_str("lost append"),
            Self::G1a => return f.write_str("G1a (aborted read)"),
            Self::G1b => return f.write_str("G1b (intermediate read)"),
            Self::Cycle(class, time) => (class, time),
        };
        f.write_str(match class {
            Class::G0 => "G0",
            Class::G1c => "G1c",
            Class::GSingle => "G-single",
            Class::G2Item => "G2-item",
        })?;
        f.write_str(match time {
            Time::Irrelevant => "",
            Time::Process => "-process",
            Time::Realtime => "-realtime",
        })
    }
}

/// An anomaly that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub anomaly: Anomaly,
    /// Who did what.
    pub explanation: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.explanation)
    }
}

/// What a check gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found; of each kind a few.
    pub findings: Vec<Finding>,
    /// Findings in all.
    pub found: usize,
    /// Transactions that happened: committed, or unknown and seen.
    pub happened: usize,
    /// Unknown ones that were seen.
    pub unknown_seen: usize,
    /// Appends of all that happened.
    pub appended: usize,
    /// Lists of which anything was read.
    pub lists: usize,
    /// Dependencies that were looked at.
    pub dependencies: usize,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Keeps a finding, or counts it.
    fn add(&mut self, finding: Finding) {
        let same = self.findings.iter().filter(|f| f.anomaly == finding.anomaly).count();
        if same < FINDINGS_OF_A_KIND_MAX {
            self.findings.push(finding);
        }
        self.found += 1;
    }
}

/// Checks a history against what was promised.
pub fn check(transactions: &[Transaction], promise: Promise) -> Report {
    let mut report = Report::default();
    let mut found = Vec::new();
    let observed = Observed::of(transactions, &mut found);
    values::check(&observed, promise, &mut found);
    report.happened = observed.happened.iter().filter(|happened| **happened).count();
    report.unknown_seen = observed.unknown_seen();
    let ops = observed.that_happened().flat_map(|(_, transaction)| &transaction.ops);
    report.appended = ops.filter(|op| matches!(op, Op::Append(..))).count();
    report.lists = observed.lists.len();
    for graph in model::graphs(&observed, promise) {
        report.dependencies += graph.dependencies();
        found.extend(cycles::find(&graph, &observed));
    }
    // Each cycle without real time is in both graphs; the first stays.
    let mut cycles_seen = std::collections::BTreeSet::new();
    for finding in found {
        if !matches!(finding.anomaly, Anomaly::Cycle(..))
            || cycles_seen.insert(finding.explanation.clone())
        {
            report.add(finding);
        }
    }
    report
}
