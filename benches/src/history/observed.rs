//! What happened, as far as reads show it: which transactions, and the versions of each list.

use std::collections::BTreeMap;

use super::explain::list;
use super::{Anomaly, Finding, Key, Op, Outcome, Transaction, Value};

/// An element of a list.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The value.
    pub value: Value,
    /// Index of the transaction that appended it.
    pub writer: usize,
}

/// One list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Its elements, from the longest read.
    pub versions: Vec<Version>,
    /// Who read that, for explanations.
    pub longest_reader: usize,
    /// There was more, which is a finding.
    pub cut: bool,
}

impl List {
    /// Whether a read is what the list was at some time.
    pub fn begins_with(&self, values: &[Value]) -> bool {
        values.len() <= self.versions.len()
            && values.iter().zip(&self.versions).all(|(value, version)| *value == version.value)
    }
}

/// A history with what can be told from it.
///
/// # Invariants
/// * Each element of a list has a writer that happened, unless it is a finding.
pub struct Observed<'a> {
    /// The history.
    pub transactions: &'a [Transaction],
    /// By index: it was acknowledged, or is unknown and was seen.
    pub happened: Vec<bool>,
    /// Lists of which anything was read, up to the first element that is a finding.
    pub lists: BTreeMap<Key, List>,
    /// Who appended what.
    pub writers: BTreeMap<(Key, Value), usize>,
}

impl<'a> Observed<'a> {
    /// Looks at a history; what is wrong with single values is found on the way.
    pub fn of(transactions: &'a [Transaction], found: &mut Vec<Finding>) -> Self {
        let happened = transactions.iter().map(|t| t.outcome == Outcome::Committed).collect();
        let (lists, writers) = (BTreeMap::new(), BTreeMap::new());
        let mut observed = Self { transactions, happened, lists, writers };
        observed.index_writers(found);
        // An unknown transaction that was seen happened, so its own reads count, too, and may show
        // another.
        while observed.read_longest() {}
        observed.settle_versions(found);
        observed
    }

    /// Unknown transactions that were seen.
    pub fn unknown_seen(&self) -> usize {
        let unknown =
            |(t, happened): (&Transaction, &bool)| *happened && t.outcome == Outcome::Unknown;
        self.transactions.iter().zip(&self.happened).filter(|pair| unknown(*pair)).count()
    }

    /// The transactions that happened, with their indexes.
    pub fn that_happened(&self) -> impl Iterator<Item = (usize, &'a Transaction)> + '_ {
        let all = self.transactions.iter().enumerate();
        all.filter(|(index, _)| self.happened[*index])
    }

    fn index_writers(&mut self, found: &mut Vec<Finding>) {
        for (index, transaction) in self.transactions.iter().enumerate() {
            for op in &transaction.ops {
                let Op::Append(key, value) = op else { continue };
                if let Some(first) = self.writers.insert((*key, *value), index) {
                    let (first, second) = (self.transactions[first].id, transaction.id);
                    found.push(Finding {
                        anomaly: Anomaly::Duplicate,
                        explanation: format!(
                            "T{first} and T{second} both appended {value} to key {key}: the \
                             history itself is no good"
                        ),
                    });
                }
            }
        }
    }

    /// Takes the longest read of each list; whether an unknown transaction was seen for the first
    /// time.
    fn read_longest(&mut self) -> bool {
        let mut longest: BTreeMap<Key, (usize, &[Value])> = BTreeMap::new();
        for (index, transaction) in self.that_happened() {
            for op in &transaction.ops {
                let Op::Read(key, values) = op else { continue };
                let known = longest.entry(*key).or_insert((index, values));
                if known.1.len() < values.len() {
                    *known = (index, values);
                }
            }
        }
        let mut news = false;
        self.lists.clear();
        for (key, (reader, values)) in longest {
            let mut list = List { versions: Vec::new(), longest_reader: reader, cut: false };
            for value in values {
                let writer = self.writers.get(&(key, *value)).copied();
                if let Some(writer) = writer
                    && self.transactions[writer].outcome == Outcome::Unknown
                    && !self.happened[writer]
                {
                    self.happened[writer] = true;
                    news = true;
                }
                list.versions.push(Version { value: *value, writer: writer.unwrap_or(usize::MAX) });
            }
            self.lists.insert(key, list);
        }
        news
    }

    /// Finds elements that must not be there and cuts the lists before the first of them.
    fn settle_versions(&mut self, found: &mut Vec<Finding>) {
        let mut lists = std::mem::take(&mut self.lists);
        for (key, list) in &mut lists {
            let reader = self.transactions[list.longest_reader].id;
            let mut seen = std::collections::BTreeSet::new();
            let mut good = 0;
            for version in &list.versions {
                let finding = match self.fault_of(*key, version.value, reader) {
                    None if !seen.insert(version.value) => Some(Finding {
                        anomaly: Anomaly::Duplicate,
                        explanation: format!(
                            "T{reader} read {} twice in key {key}: {}",
                            version.value,
                            shown(&list.versions)
                        ),
                    }),
                    fault => fault,
                };
                if let Some(finding) = finding {
                    found.push(finding);
                    break;
                }
                good += 1;
            }
            list.cut = good < list.versions.len();
            list.versions.truncate(good);
        }
        self.lists = lists;
    }

    /// What is wrong with a value being in a list, if anything.
    pub fn fault_of(&self, key: Key, value: Value, reader: u64) -> Option<Finding> {
        let Some(writer) = self.writers.get(&(key, value)) else {
            let explanation =
                format!("T{reader} read {value} in key {key}, which nobody appended to it");
            return Some(Finding { anomaly: Anomaly::NeverWritten, explanation });
        };
        let writer = &self.transactions[*writer];
        (writer.outcome == Outcome::Aborted).then(|| Finding {
            anomaly: Anomaly::G1a,
            explanation: format!(
                "T{reader} read {value} in key {key}, which T{} appended; that was aborted",
                writer.id
            ),
        })
    }
}

fn shown(versions: &[Version]) -> String {
    list(&versions.iter().map(|version| version.value).collect::<Vec<_>>())
}
