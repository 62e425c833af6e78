//! Findings in words.

use super::graph::{Edge, Kind};
use super::observed::Observed;
use super::{Op, Outcome, Transaction, Value};

/// Elements of a list that are shown, from its end.
const ELEMENTS_SHOWN: usize = 8;
const NS_PER_MS: f64 = 1e6;

/// A list, of a long one the end.
pub fn list(values: &[Value]) -> String {
    let skipped = values.len().saturating_sub(ELEMENTS_SHOWN);
    let shown: Vec<String> = values[skipped..].iter().map(Value::to_string).collect();
    let before = if skipped > 0 { format!("… {skipped} more, ") } else { String::new() };
    format!("[{before}{}]", shown.join(", "))
}

/// A transaction in one line.
pub fn transaction(t: &Transaction) -> String {
    let ops: Vec<String> = t.ops.iter().map(op).collect();
    let outcome = match t.outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Unknown => "unknown",
    };
    format!(
        "T{} (session {}, server {}, {:.3}..{:.3} ms): {}; {outcome}",
        t.id,
        t.process,
        t.node,
        t.invoked_ns as f64 / NS_PER_MS,
        t.completed_ns as f64 / NS_PER_MS,
        ops.join(", "),
    )
}

fn op(op: &Op) -> String {
    match op {
        Op::Append(key, value) => format!("append {value} to {key}"),
        Op::Read(key, values) => format!("read {key} as {}", list(values)),
    }
}

/// A cycle: each of its dependencies, then its transactions in full. `steps` are dependencies with
/// the transactions they lead from and to.
pub fn cycle(steps: &[(usize, usize, Edge)], observed: &Observed<'_>) -> String {
    let mut lines = vec![String::from("each of these came before the next")];
    let mut involved: Vec<usize> = Vec::new();
    for (from, to, edge) in steps {
        lines.push(format!("  {}", step(*from, *to, edge, observed)));
        if !involved.contains(from) {
            involved.push(*from);
        }
    }
    lines.push(String::from("with"));
    for index in involved {
        lines.push(format!("  {}", transaction(&observed.transactions[index])));
    }
    lines.join("\n")
}

fn step(from: usize, to: usize, edge: &Edge, observed: &Observed<'_>) -> String {
    let (first, second) = (&observed.transactions[from], &observed.transactions[to]);
    let (a, b, key) = (first.id, second.id, edge.key);
    let versions = observed.lists.get(&key).map_or(&[][..], |list| &list.versions);
    let upto = |end: usize| list(&versions[..end].iter().map(|v| v.value).collect::<Vec<_>>());
    let at = edge.position;
    match edge.kind {
        Kind::Ww => format!(
            "T{a} appended {} to key {key}, right before T{b} appended {}  (ww)",
            versions[at - 1].value,
            versions[at].value
        ),
        Kind::Wr => format!(
            "T{a} appended {} to key {key}, T{b} read it as {}  (wr)",
            versions[at].value,
            upto(at + 1)
        ),
        Kind::Rw => format!(
            "T{a} read key {key} as {}, without the {} that T{b} appended  (rw)",
            upto(at),
            versions[at].value
        ),
        Kind::Process => format!("T{a} ended before T{b} began, in the same session  (process)"),
        Kind::Realtime | Kind::Node | Kind::Inner => {
            let gap = second.invoked_ns.saturating_sub(first.completed_ns) as f64 / NS_PER_MS;
            let server = match edge.kind {
                Kind::Node => ", at the same server",
                _ => "",
            };
            format!("T{a} had ended {gap:.3} ms before T{b} began{server}  (realtime)")
        }
    }
}
