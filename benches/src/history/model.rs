//! What each isolation level promises, as graphs that must not have a cycle.
//!
//! A transaction has two places in an order: where it reads (*start*) and where it commits (*end*),
//! the one never after the other. Two orders exist, and both must.
//!
//! **Timestamps.** Versions are made and read in the order of timestamps:
//!
//! | | `READ COMMITTED` | `REPEATABLE READ` | `SERIALIZABLE` |
//! |---|---|---|---|
//! | T1 appended, T2 appended next (ww) | end 1 < end 2 | end 1 < start 2 | T1 < T2 |
//! | T1 appended, T2 read it (wr) | end 1 < end 2 | end 1 < start 2 | T1 < T2 |
//! | T1 read, T2 appended next (rw) | nothing | start 1 < end 2 | T1 < T2 |
//!
//! So `READ COMMITTED` forbids cycles of ww and wr (G0, G1c). Under `REPEATABLE READ`, which is
//! snapshot isolation, a cycle must have two rw next to one another, or it is forbidden (Fekete et
//! al., "Making Snapshot Isolation Serializable", TODS 2005): G-single is. A `SERIALIZABLE`
//! transaction has start and end in one place, and every cycle is forbidden. A transaction of one
//! statement that only reads has one snapshot under `READ COMMITTED` too.
//!
//! Timestamps follow the real order of two transactions, end 1 < start 2, if they went through one
//! server or session, or if the first had ended more than the clocks may differ
//! ([`Promise::clock_offset_ns_max`]) before the second began. With clocks that do not differ (one
//! server) that is strong snapshot isolation and strict serializability.
//!
//! **Real time.** Where clocks differ the promise is weaker (`docs/transactions.md`): a read sees
//! every transaction that had been acknowledged, to its own client or as part of what another was
//! shown, before the reader began; of those acknowledged later it may see one and not another that
//! ended before it did. The commit itself is a moment of real time, between the call and the
//! answer. So, at every level:
//!
//! | | |
//! |---|---|
//! | T1 appended, T2 appended next (ww), or read it (wr) | end 1 < end 2 |
//! | T1 read, T2 appended next (rw) | start 1 < end 2: it had not happened when T1 began |
//! | T1 was acknowledged before T2 began | end 1 < start 2 |
//!
//! An rw leads on from a start and only "began later" leads to one. A cycle is therefore forbidden
//! by real time if each of its rw comes right after such a step: a reader that misses what was
//! acknowledged before it began, an append that lands before one that was acknowledged already,
//! a value that is seen and then not seen any more. *Permitted* is the causal reverse: T3, which
//! runs beside both, sees T2 and not T1, although T1 was acknowledged before T2 began (T3 rw T1,
//! T1 before T2, T2 wr T3): nothing in T3's beginning comes after T1.

use super::graph::{Edge, Graph, Kind};
use super::observed::Observed;
use super::timeline::{self, Span};
use super::{Key, Op, Outcome, Transaction};
use crate::args::Isolation;

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The level of every transaction.
    pub level: Isolation,
    /// How far the clocks of two servers may lie apart.
    pub clock_offset_ns_max: u64,
}

/// A dependency between two transactions.
#[derive(Clone, Copy, Debug)]
struct Dependency {
    from: usize,
    to: usize,
    kind: Kind,
    key: Key,
    position: usize,
}

/// The graphs that must not have a cycle.
pub fn graphs(observed: &Observed<'_>, promise: Promise) -> [Graph; 2] {
    let dependencies = dependencies(observed);
    [by_timestamps(observed, &dependencies, promise), by_real_time(observed, &dependencies)]
}

/// A transaction's start in a graph.
fn start(index: usize) -> u32 {
    u32::try_from(2 * index).expect("a history has fewer than two thousand million transactions")
}

/// A transaction's end in a graph.
fn end(index: usize) -> u32 {
    start(index) + 1
}

/// The transaction of a node; `None` for a moment of a timeline.
pub fn transaction_of(node: u32, observed: &Observed<'_>) -> Option<usize> {
    let index = node as usize / 2;
    (index < observed.transactions.len()).then_some(index)
}

fn dependencies(observed: &Observed<'_>) -> Vec<Dependency> {
    let mut found = Vec::new();
    for (key, list) in &observed.lists {
        for (at, pair) in list.versions.windows(2).enumerate() {
            let (from, to) = (pair[0].writer, pair[1].writer);
            let position = at + 1;
            found.push(Dependency { from, to, kind: Kind::Ww, key: *key, position });
        }
    }
    for (reader, transaction) in observed.that_happened() {
        for op in &transaction.ops {
            let Op::Read(key, values) = op else { continue };
            let Some(list) = observed.lists.get(key).filter(|list| list.begins_with(values)) else {
                continue;
            };
            let by_others = list.versions[..values.len()].iter().rposition(|v| v.writer != reader);
            if let Some(position) = by_others {
                let from = list.versions[position].writer;
                found.push(Dependency { from, to: reader, kind: Kind::Wr, key: *key, position });
            }
            let (position, own_seen) = (values.len(), by_others.map_or(0, |at| at + 1));
            if position == own_seen && position < list.versions.len() {
                let to = list.versions[position].writer;
                found.push(Dependency { from: reader, to, kind: Kind::Rw, key: *key, position });
            }
        }
    }
    found.retain(|dependency| dependency.from != dependency.to);
    found
}

fn edge(from: u32, to: u32, of: &Dependency) -> Edge {
    Edge { from, to, kind: of.kind, key: of.key, position: of.position }
}

/// Start before end, of every transaction that happened.
fn halves(observed: &Observed<'_>) -> Vec<Edge> {
    let half = |(index, _)| Edge {
        from: start(index),
        to: end(index),
        kind: Kind::Inner,
        key: Key(0),
        position: 0,
    };
    observed.that_happened().map(half).collect()
}

fn by_real_time(observed: &Observed<'_>, dependencies: &[Dependency]) -> Graph {
    let mut edges = halves(observed);
    edges.extend(dependencies.iter().map(|d| match d.kind {
        Kind::Rw => edge(start(d.from), end(d.to), d),
        _ => edge(end(d.from), end(d.to), d),
    }));
    let mut nodes = start(observed.transactions.len());
    let all = observed.that_happened().map(|(index, t)| span(index, t, start(index)));
    timeline::add(&mut edges, &mut nodes, all.collect(), 0, Kind::Realtime);
    Graph::new(nodes as usize, edges)
}

fn by_timestamps(observed: &Observed<'_>, dependencies: &[Dependency], promise: Promise) -> Graph {
    // Where a transaction's reads are.
    let reads_at = |index: usize| match promise.level {
        Isolation::Serializable => end(index),
        Isolation::RepeatableRead => start(index),
        Isolation::ReadCommitted if one_snapshot(&observed.transactions[index]) => start(index),
        Isolation::ReadCommitted => end(index),
    };
    let reads_once = |index: usize| {
        promise.level != Isolation::ReadCommitted || one_snapshot(&observed.transactions[index])
    };
    let mut edges = halves(observed);
    for d in dependencies {
        match d.kind {
            Kind::Rw if reads_once(d.from) => edges.push(edge(reads_at(d.from), end(d.to), d)),
            Kind::Rw => {}
            _ => edges.push(edge(end(d.from), reads_at(d.to), d)),
        }
    }
    let mut nodes = start(observed.transactions.len());
    let begins_at = |index: usize| match promise.level {
        Isolation::Serializable => end(index),
        _ => start(index),
    };
    let mut add = |of: &dyn Fn(&Transaction) -> u64, gap_ns, kind| {
        let mut groups: std::collections::BTreeMap<u64, Vec<Span>> = Default::default();
        for (index, t) in observed.that_happened() {
            groups.entry(of(t)).or_default().push(span(index, t, begins_at(index)));
        }
        for spans in groups.into_values() {
            timeline::add(&mut edges, &mut nodes, spans, gap_ns, kind);
        }
    };
    add(&|t| t.process, 0, Kind::Process);
    add(&|t| t.node, 0, Kind::Node);
    add(&|_| 0, promise.clock_offset_ns_max, Kind::Realtime);
    Graph::new(nodes as usize, edges)
}

/// Whether all that a transaction read is of one snapshot at any level.
fn one_snapshot(t: &Transaction) -> bool {
    t.one_statement && t.ops.iter().all(|op| matches!(op, Op::Read(..)))
}

fn span(index: usize, t: &Transaction, begins_at: u32) -> Span {
    Span {
        start: begins_at,
        end: end(index),
        invoked_ns: t.invoked_ns,
        completed_ns: (t.outcome == Outcome::Committed).then_some(t.completed_ns),
    }
}
