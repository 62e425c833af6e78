//! "Ended before it began", for every pair, with a number of edges that grows with the number of
//! transactions only: completions are moments of a timeline, each before the next.

use super::Key;
use super::graph::{Edge, Kind};

/// A transaction on a timeline.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its node where it begins.
    pub start: u32,
    /// Its node where it ends.
    pub end: u32,
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When it was acknowledged; `None` if it never was.
    pub completed_ns: Option<u64>,
}

/// Adds edges from the end of each transaction to the beginning of each that was invoked more than
/// `gap_ns` later. New nodes are numbered from `next_node`.
pub fn add(
    edges: &mut Vec<Edge>,
    next_node: &mut u32,
    mut spans: Vec<Span>,
    gap_ns: u64,
    kind: Kind,
) {
    let mut push = |from, to, kind| edges.push(Edge { from, to, kind, key: Key(0), position: 0 });
    let mut ends: Vec<(u64, u32)> = spans
        .iter()
        .filter_map(|span| Some((span.completed_ns?.saturating_add(gap_ns), span.end)))
        .collect();
    ends.sort_unstable();
    spans.sort_by_key(|span| span.invoked_ns);
    let mut ends = ends.into_iter().peekable();
    let mut moment = None;
    for span in spans {
        while let Some((_, end)) = ends.next_if(|(at, _)| *at < span.invoked_ns) {
            let node = *next_node;
            *next_node += 1;
            push(end, node, Kind::Inner);
            if let Some(before) = moment.replace(node) {
                push(before, node, Kind::Inner);
            }
        }
        if let Some(moment) = moment {
            push(moment, span.start, kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::Graph;
    use super::*;

    #[test]
    fn every_pair_is_in_order_and_no_other() {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        for gap_ns in [0, 3] {
            let spans: Vec<Span> = (0..40)
                .map(|number: u32| {
                    let invoked_ns = rng.random_range(0..60);
                    let completed_ns = invoked_ns + rng.random_range(0..15);
                    Span {
                        start: 2 * number,
                        end: 2 * number + 1,
                        invoked_ns,
                        completed_ns: (!number.is_multiple_of(7)).then_some(completed_ns),
                    }
                })
                .collect();
            let (mut edges, mut nodes) = (Vec::new(), 80);
            add(&mut edges, &mut nodes, spans.clone(), gap_ns, Kind::Realtime);
            assert!(edges.len() <= 3 * spans.len());
            let graph = Graph::new(nodes as usize, edges);
            for a in &spans {
                for b in &spans {
                    let due = a.completed_ns.is_some_and(|at| at + gap_ns < b.invoked_ns);
                    let path = graph.shortest(a.end, b.start, &mut 999, |_| true);
                    assert_eq!(path.is_some(), due);
                }
            }
        }
    }
}
