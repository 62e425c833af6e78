//! A directed graph: strongly connected components and shortest paths.

use std::collections::VecDeque;

use super::Key;

/// Why one comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The next append to the same list.
    Ww,
    /// A read of what was appended.
    Wr,
    /// A read of the list as it was before an append.
    Rw,
    /// The same session, later.
    Process,
    /// The same server, later.
    Node,
    /// Later.
    Realtime,
    /// Not between transactions: a transaction's beginning before its end, or one moment of a
    /// timeline before the next.
    Inner,
}

/// An edge.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// The node it leads from.
    pub from: u32,
    /// The node it leads to.
    pub to: u32,
    /// Why.
    pub kind: Kind,
    /// Which list, for dependencies.
    pub key: Key,
    /// Which of its versions: for ww the later one, for wr the one read, for rw the one not read.
    pub position: usize,
}

/// A graph whose edges are in order of where they lead from.
pub struct Graph {
    edges: Vec<Edge>,
    /// Of each node the place of its first edge; one more at the end.
    first: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Graph {
    /// A graph of so many nodes.
    pub fn new(nodes: usize, mut edges: Vec<Edge>) -> Self {
        edges.sort_by_key(|edge| edge.from);
        let mut first = vec![0_u32; nodes + 1];
        for edge in &edges {
            first[edge.from as usize + 1] += 1;
        }
        for node in 0..nodes {
            first[node + 1] += first[node];
        }
        Self { edges, first }
    }

    /// All edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Edges between transactions.
    pub fn dependencies(&self) -> usize {
        self.edges.iter().filter(|edge| edge.kind != Kind::Inner).count()
    }

    fn out(&self, node: u32) -> std::ops::Range<usize> {
        self.first[node as usize] as usize..self.first[node as usize + 1] as usize
    }

    /// Tarjan's strongly connected components (SIAM J. Comput. 1972) without recursion: of each
    /// node the number of its component, and `None` if it is a component of its own.
    pub fn components(&self) -> Vec<Option<u32>> {
        let nodes = self.first.len() - 1;
        let mut found = vec![None; nodes];
        let (mut index, mut low) = (vec![NONE; nodes], vec![0_u32; nodes]);
        let (mut next_index, mut next_component) = (0, 0);
        let (mut on_stack, mut stack) = (vec![false; nodes], Vec::new());
        for root in 0..u32::try_from(nodes).expect("nodes are numbered with 32 bits") {
            if index[root as usize] != NONE {
                continue;
            }
            let mut calls = vec![(root, self.out(root))];
            while let Some((node, out)) = calls.last_mut() {
                let at = *node as usize;
                if index[at] == NONE {
                    (index[at], low[at]) = (next_index, next_index);
                    next_index += 1;
                    stack.push(*node);
                    on_stack[at] = true;
                }
                if let Some(edge) = out.next() {
                    let to = self.edges[edge].to;
                    if index[to as usize] == NONE {
                        calls.push((to, self.out(to)));
                    } else if on_stack[to as usize] {
                        low[at] = low[at].min(index[to as usize]);
                    }
                    continue;
                }
                let done = low[at];
                if done == index[at] {
                    let alone = stack.last() == Some(&(*node));
                    while let Some(member) = stack.pop() {
                        on_stack[member as usize] = false;
                        found[member as usize] = (!alone).then_some(next_component);
                        if member as usize == at {
                            break;
                        }
                    }
                    next_component += u32::from(!alone);
                }
                calls.pop();
                if let Some((caller, _)) = calls.last() {
                    let caller = *caller as usize;
                    low[caller] = low[caller].min(done);
                }
            }
        }
        found
    }

    /// A shortest path, counted in dependencies, over edges that are allowed. Each node that is
    /// looked at costs one of the budget; without any left nothing is found.
    pub fn shortest(
        &self,
        from: u32,
        to: u32,
        budget: &mut u64,
        mut allowed: impl FnMut(&Edge) -> bool,
    ) -> Option<Vec<Edge>> {
        // Breadth first; inner edges cost nothing and go to the front.
        let mut reached: std::collections::BTreeMap<u32, (u32, usize)> = Default::default();
        reached.insert(from, (0, usize::MAX));
        let mut queue = VecDeque::from([(from, 0_u32)]);
        while let Some((node, cost)) = queue.pop_front() {
            if reached.get(&node).is_some_and(|(least, _)| *least < cost) {
                continue;
            }
            if node == to {
                break;
            }
            *budget = budget.checked_sub(1)?;
            for at in self.out(node) {
                let edge = &self.edges[at];
                if !allowed(edge) {
                    continue;
                }
                let inner = edge.kind == Kind::Inner;
                let cost = cost + u32::from(!inner);
                if reached.get(&edge.to).is_none_or(|(least, _)| cost < *least) {
                    reached.insert(edge.to, (cost, at));
                    match inner {
                        true => queue.push_front((edge.to, cost)),
                        false => queue.push_back((edge.to, cost)),
                    }
                }
            }
        }
        let mut path = Vec::new();
        let mut node = to;
        while let Some((_, at)) = reached.get(&node) {
            if *at == usize::MAX {
                path.reverse();
                return Some(path);
            }
            path.push(self.edges[*at]);
            node = self.edges[*at].from;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: usize, edges: &[(u32, u32)]) -> Graph {
        let edge = |(from, to): &(u32, u32)| Edge {
            from: *from,
            to: *to,
            kind: Kind::Ww,
            key: Key(0),
            position: 0,
        };
        Graph::new(nodes, edges.iter().map(edge).collect())
    }

    #[test]
    fn components_are_the_cycles() {
        let g = graph(7, &[(0, 1), (1, 2), (2, 0), (2, 3), (4, 5), (5, 4), (3, 6)]);
        let found = g.components();
        assert_eq!(found[3], None);
        assert_eq!(found[6], None);
        assert!(found[0].is_some() && found[0] == found[1] && found[1] == found[2]);
        assert!(found[4].is_some() && found[4] == found[5] && found[4] != found[0]);
        let line = graph(4, &[(0, 1), (1, 2), (2, 3), (0, 3)]);
        assert_eq!(line.components(), [None; 4]);
    }

    #[test]
    fn the_shortest_path_is_taken() {
        let g = graph(5, &[(0, 1), (1, 2), (2, 3), (0, 4), (4, 3)]);
        let path = g.shortest(0, 3, &mut 9, |_| true).unwrap();
        assert_eq!(path.iter().map(|edge| edge.to).collect::<Vec<_>>(), [4, 3]);
        let path = g.shortest(0, 3, &mut 9, |edge| edge.to != 4).unwrap();
        assert_eq!(path.len(), 3);
        assert!(g.shortest(0, 3, &mut 1, |_| true).is_none());
        assert!(g.shortest(3, 0, &mut 9, |_| true).is_none());
    }

    #[test]
    fn components_agree_with_reachability_on_random_graphs() {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand::rngs::StdRng::seed_from_u64(5);
        for _ in 0..200 {
            let nodes = rng.random_range(1..9_u32);
            let edges: Vec<(u32, u32)> = (0..rng.random_range(0..16))
                .map(|_| (rng.random_range(0..nodes), rng.random_range(0..nodes)))
                .filter(|(from, to)| from != to)
                .collect();
            let g = graph(nodes as usize, &edges);
            let found = g.components();
            for a in 0..nodes {
                for b in 0..nodes {
                    let both = a != b
                        && g.shortest(a, b, &mut 99, |_| true).is_some()
                        && g.shortest(b, a, &mut 99, |_| true).is_some();
                    let (in_a, in_b) = (found[a as usize], found[b as usize]);
                    assert_eq!(both, a != b && in_a.is_some() && in_a == in_b, "{edges:?}");
                }
            }
        }
    }
}
