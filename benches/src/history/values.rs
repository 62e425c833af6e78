//! What can be wrong with single values and reads, whatever the order of transactions.

use std::collections::BTreeMap;

use super::explain::list;
use super::observed::{List, Observed};
use super::{Anomaly, Finding, Key, Op, Outcome, Promise, Transaction, Value};
use crate::args::Isolation;

/// Looks at every read that happened and at every acknowledged append.
pub fn check(observed: &Observed<'_>, promise: Promise, found: &mut Vec<Finding>) {
    for (_, transaction) in observed.that_happened() {
        internal(transaction, promise.level, found);
        for op in &transaction.ops {
            if let Op::Read(key, values) = op {
                compatible(observed, transaction, *key, values, found);
                intermediate(observed, transaction, *key, values, found);
            }
        }
    }
    for (key, list) in &observed.lists {
        in_order(observed, *key, list, found);
    }
    lost(observed, found);
}

/// What a transaction knows of one list.
#[derive(Default)]
struct Known<'a> {
    /// What it read last.
    last: Option<&'a [Value]>,
    /// What it has appended since.
    since: Vec<Value>,
    /// All it has appended.
    own: Vec<Value>,
}

/// Own appends are seen, at the end; two reads of a list are equal but for them, or, where each
/// statement has a snapshot of its own, the later one is the longer.
fn internal(transaction: &Transaction, level: Isolation, found: &mut Vec<Finding>) {
    let mut known: BTreeMap<Key, Known<'_>> = BTreeMap::new();
    for op in &transaction.ops {
        match op {
            Op::Append(key, value) => {
                let known = known.entry(*key).or_default();
                known.since.push(*value);
                known.own.push(*value);
            }
            Op::Read(key, values) => {
                let known = known.entry(*key).or_default();
                let own_seen = values.ends_with(&known.own);
                let agrees = match (known.last, level) {
                    (None, _) => true,
                    (Some(last), Isolation::ReadCommitted) => values.starts_with(last),
                    (Some(last), _) => {
                        values.len() == last.len() + known.since.len() && values.starts_with(last)
                    }
                };
                if !own_seen || !agrees {
                    let id = transaction.id;
                    let mut explanation = format!("T{id} read key {key} as {}", list(values));
                    if let Some(last) = known.last {
                        explanation += &format!(" after {}", list(last));
                    }
                    if !known.own.is_empty() {
                        explanation += &format!(", having appended {}", list(&known.own));
                    }
                    found.push(Finding { anomaly: Anomaly::Internal, explanation });
                }
                known.last = Some(values);
                known.since.clear();
            }
        }
    }
}

/// Reads of one list begin with each other.
fn compatible(
    observed: &Observed<'_>,
    reader: &Transaction,
    key: Key,
    values: &[Value],
    found: &mut Vec<Finding>,
) {
    let Some(longest) = observed.lists.get(&key) else { return };
    let shared = values.len().min(longest.versions.len());
    if longest.begins_with(&values[..shared]) {
        // What is beyond a cut has been found already.
        return;
    }
    let faults: Vec<Finding> =
        values.iter().filter_map(|value| observed.fault_of(key, *value, reader.id)).collect();
    if !faults.is_empty() {
        found.extend(faults);
        return;
    }
    let other = observed.transactions[longest.longest_reader].id;
    let versions: Vec<Value> = longest.versions.iter().map(|version| version.value).collect();
    let explanation = format!(
        "T{} read key {key} as {}, T{other} read it as {}",
        reader.id,
        list(values),
        list(&versions)
    );
    found.push(Finding { anomaly: Anomaly::IncompatibleOrders, explanation });
}

/// G1b: a read that ends in an append that was not its transaction's last to that list.
fn intermediate(
    observed: &Observed<'_>,
    reader: &Transaction,
    key: Key,
    values: &[Value],
    found: &mut Vec<Finding>,
) {
    let Some(value) = values.last() else { return };
    let Some(writer) = observed.writers.get(&(key, *value)) else { return };
    let writer = &observed.transactions[*writer];
    let last = appends(writer, key).last();
    if writer.id != reader.id && last != Some(*value) {
        let explanation = format!(
            "T{} read key {key} as {}, of which T{} went on to append {}",
            reader.id,
            list(values),
            writer.id,
            last.map_or_else(String::new, |value| value.to_string())
        );
        found.push(Finding { anomaly: Anomaly::G1b, explanation });
    }
}

/// Values a transaction appended to a list.
fn appends(transaction: &Transaction, of: Key) -> impl Iterator<Item = Value> {
    transaction.ops.iter().filter_map(move |op| match op {
        Op::Append(key, value) if *key == of => Some(*value),
        _ => None,
    })
}

/// A transaction's appends to a list follow one another directly.
fn in_order(observed: &Observed<'_>, key: Key, list: &List, found: &mut Vec<Finding>) {
    for (at, version) in list.versions.iter().enumerate() {
        let writer = &observed.transactions[version.writer];
        let before = appends(writer, key).take_while(|value| *value != version.value).last();
        let Some(before) = before else { continue };
        let previous = at.checked_sub(1).map(|at| list.versions[at].value);
        if previous != Some(before) {
            let explanation = format!(
                "T{} appended {before} and then {} to key {key}, where {} comes right before {}",
                writer.id,
                version.value,
                previous.map_or_else(|| String::from("nothing"), |value| value.to_string()),
                version.value
            );
            found.push(Finding { anomaly: Anomaly::OutOfOrder, explanation });
        }
    }
}

/// An append that was acknowledged, or of which another effect was seen, and that no reader saw,
/// not even one that began later.
fn lost(observed: &Observed<'_>, found: &mut Vec<Finding>) {
    let mut last_reader: BTreeMap<Key, usize> = BTreeMap::new();
    for (index, transaction) in observed.that_happened() {
        for op in &transaction.ops {
            let Op::Read(key, _) = op else { continue };
            let last = last_reader.entry(*key).or_insert(index);
            if observed.transactions[*last].invoked_ns < transaction.invoked_ns {
                *last = index;
            }
        }
    }
    let seen: std::collections::BTreeSet<(Key, Value)> = observed
        .lists
        .iter()
        .flat_map(|(key, list)| list.versions.iter().map(|version| (*key, version.value)))
        .collect();
    let unknown_since = unknown_since(observed);
    for (index, transaction) in observed.that_happened() {
        let since = match transaction.outcome {
            Outcome::Committed => Some(transaction.completed_ns),
            _ => unknown_since.get(&index).copied(),
        };
        for op in &transaction.ops {
            let Op::Append(key, value) = op else { continue };
            let Some(list) = observed.lists.get(key).filter(|list| !list.cut) else { continue };
            if seen.contains(&(*key, *value)) {
                continue;
            }
            let reader = &observed.transactions[last_reader[key]];
            if since.is_none_or(|since| reader.invoked_ns <= since) {
                continue;
            }
            let why = match transaction.outcome {
                Outcome::Committed => "was acknowledged",
                _ => "happened, since another of its appends was seen",
            };
            let explanation = format!(
                "T{} appended {value} to key {key} and {why}; T{}, which began later, read {} \
                 elements without it, and nobody saw it",
                transaction.id,
                reader.id,
                list.versions.len()
            );
            found.push(Finding { anomaly: Anomaly::LostAppend, explanation });
        }
    }
}

/// Since when unknown transactions are known to have happened: the end of the first that saw one.
fn unknown_since(observed: &Observed<'_>) -> BTreeMap<usize, u64> {
    let mut since: BTreeMap<usize, u64> = BTreeMap::new();
    for (_, reader) in observed.that_happened().filter(|(_, t)| t.outcome == Outcome::Committed) {
        for op in &reader.ops {
            let Op::Read(key, values) = op else { continue };
            let Some(list) = observed.lists.get(key) else { continue };
            for version in list.versions.iter().take(values.len()) {
                if observed.transactions[version.writer].outcome == Outcome::Unknown {
                    let at = since.entry(version.writer).or_insert(reader.completed_ns);
                    *at = reader.completed_ns.min(*at);
                }
            }
        }
    }
    since
}
