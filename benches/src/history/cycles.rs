//! Cycles of dependencies: of each group that is tied together, a shortest one of each class.

use std::collections::BTreeMap;

use super::graph::{Edge, Graph, Kind};
use super::model::transaction_of;
use super::observed::Observed;
use super::{Anomaly, Class, Finding, Time, explain};

/// Groups that are looked at; where there are more, these say enough.
const GROUPS_MAX: usize = 20;
/// Dependencies of a group from which cycles are searched, of each kind.
const TRIED_MAX: usize = 200;
/// Nodes looked at in searches of a kind after the first, which is not limited: of each group at
/// least one cycle is found.
const LOOKED_AT_MAX: u64 = 200_000;

/// A dependency that a cycle must have, and those it may have besides.
const SEARCHES: [(Kind, &[Kind]); 4] = [
    (Kind::Ww, &[Kind::Ww]),
    (Kind::Wr, &[Kind::Ww, Kind::Wr]),
    (Kind::Rw, &[Kind::Ww, Kind::Wr]),
    (Kind::Rw, &[Kind::Ww, Kind::Wr, Kind::Rw]),
];

/// A dependency with the transactions it leads from and to.
type Step = (usize, usize, Edge);

/// The cycles of a graph.
pub fn find(graph: &Graph, observed: &Observed<'_>) -> Vec<Finding> {
    let components = graph.components();
    let together = |edge: &Edge| {
        components[edge.from as usize].filter(|c| components[edge.to as usize] == Some(*c))
    };
    let mut groups: BTreeMap<u32, Vec<Edge>> = BTreeMap::new();
    for edge in graph.edges() {
        if let Some(component) = together(edge) {
            groups.entry(component).or_default().push(*edge);
        }
    }
    let mut found = Vec::new();
    for edges in groups.values().take(GROUPS_MAX) {
        let mut shortest: BTreeMap<(Class, Time), Vec<Step>> = BTreeMap::new();
        for time in [Time::Irrelevant, Time::Process, Time::Realtime] {
            for (needed, besides) in SEARCHES {
                let allowed = |edge: &Edge| {
                    together(edge).is_some()
                        && match edge.kind {
                            Kind::Inner => true,
                            Kind::Process => time >= Time::Process,
                            Kind::Node | Kind::Realtime => time >= Time::Realtime,
                            kind => besides.contains(&kind),
                        }
                };
                let needed = edges.iter().filter(|edge| edge.kind == needed).take(TRIED_MAX);
                let mut budget = u64::MAX;
                for edge in needed {
                    let path = graph.shortest(edge.to, edge.from, &mut budget, allowed);
                    budget = budget.min(LOOKED_AT_MAX);
                    let Some(path) = path else { continue };
                    let steps = steps(*edge, &path, observed);
                    let known = shortest.entry(class_of(&steps)).or_insert_with(|| steps.clone());
                    if steps.len() < known.len() {
                        *known = steps;
                    }
                }
            }
        }
        found.extend(shortest.into_iter().map(|((class, time), steps)| Finding {
            anomaly: Anomaly::Cycle(class, time),
            explanation: explain::cycle(&steps, observed),
        }));
    }
    found
}

/// The dependencies of a cycle, beginning with its first transaction.
fn steps(edge: Edge, path: &[Edge], observed: &Observed<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut from = None;
    for edge in std::iter::once(&edge).chain(path) {
        from = transaction_of(edge.from, observed).or(from);
        if edge.kind != Kind::Inner
            && let (Some(from), Some(to)) = (from, transaction_of(edge.to, observed))
        {
            steps.push((from, to, *edge));
        }
    }
    let first = (0..steps.len()).min_by_key(|at| steps[*at].0).unwrap_or(0);
    steps.rotate_left(first);
    steps
}

fn class_of(steps: &[Step]) -> (Class, Time) {
    let count = |kind| steps.iter().filter(|(_, _, edge)| edge.kind == kind).count();
    let class = match (count(Kind::Rw), count(Kind::Wr)) {
        (0, 0) => Class::G0,
        (0, _) => Class::G1c,
        (1, _) => Class::GSingle,
        _ => Class::G2Item,
    };
    let time = match (count(Kind::Realtime) + count(Kind::Node), count(Kind::Process)) {
        (0, 0) => Time::Irrelevant,
        (0, _) => Time::Process,
        _ => Time::Realtime,
    };
    (class, time)
}
