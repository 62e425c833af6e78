//! What a transaction has heard of the clocks of nodes since it chose its read timestamp: what
//! happened at a node at a later reading was not before the transaction (rule R3).

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_proto::pb::range_request::Body;
use quorate_proto::{NodeId, Timestamp};

/// The first reading heard of each node's clock.
///
/// # Invariants
/// * Every reading was taken after the transaction chose its first read timestamp. (Moving that
///   forward makes no reading wrong.)
#[derive(Debug, Default)]
pub struct Observed(Mutex<BTreeMap<NodeId, Timestamp>>);

impl Observed {
    /// What a transaction knows that chose its read timestamp just now, by the clock of node `own`.
    pub fn since(own: Option<NodeId>, read_ts: Timestamp) -> Self {
        Self(Mutex::new(own.map(|own| (own, read_ts)).into_iter().collect()))
    }

    /// A reply of a node carried its clock. The node is the one that says so itself: another one
    /// may have been asked.
    pub fn note(&self, node: NodeId, clock: Timestamp) {
        self.0.lock().entry(node).or_insert(clock);
    }

    /// Tells a node what was heard of its clock, in a request that reads.
    pub fn put_into(&self, node: NodeId, request: &mut Body) {
        let Some(clock) = self.0.lock().get(&node).copied() else { return };
        match request {
            Body::Read(read) => (read.observed, read.observed_node) = (clock.0, node.0),
            Body::Scan(scan) => (scan.observed, scan.observed_node) = (clock.0, node.0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::pb;

    use super::*;

    #[test]
    fn the_first_reading_of_a_clock_is_kept() {
        let observed = Observed::since(Some(NodeId(1)), Timestamp(10));
        observed.note(NodeId(1), Timestamp(20));
        observed.note(NodeId(2), Timestamp(30));
        observed.note(NodeId(2), Timestamp(40));
        let told = |node| {
            let mut request = Body::Read(pb::ReadRequest::default());
            observed.put_into(NodeId(node), &mut request);
            match request {
                Body::Read(read) => read.observed,
                _ => unreachable!("it was a read"),
            }
        };
        assert_eq!((told(1), told(2), told(3)), (10, 30, 0));
    }
}
