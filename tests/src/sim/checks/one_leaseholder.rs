//! At any instant of true time at most one node may serve a key (rules L1–L3, L5).

use quorate_proto::{NodeId, pb};

/// A replica that would serve now.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Where.
    pub node: NodeId,
    /// What.
    pub descriptor: pb::RangeDescriptor,
}

fn overlap(a: &pb::RangeDescriptor, b: &pb::RangeDescriptor) -> bool {
    (b.end.is_empty() || a.start < b.end) && (a.end.is_empty() || b.start < a.end)
}

/// # Errors
/// Which two serve the same keys.
pub fn check(holders: &[Holder]) -> Result<(), String> {
    for (i, a) in holders.iter().enumerate() {
        for b in &holders[i + 1..] {
            if a.node != b.node && overlap(&a.descriptor, &b.descriptor) {
                return Err(format!(
                    "{} serves range {} while {} serves range {}",
                    a.node, a.descriptor.range_id, b.node, b.descriptor.range_id
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: u64, start: &'static str, end: &'static str) -> Holder {
        let descriptor =
            pb::RangeDescriptor { start: start.into(), end: end.into(), ..Default::default() };
        Holder { node: NodeId(node), descriptor }
    }

    #[test]
    fn two_nodes_that_serve_one_key_are_found() {
        let apart = [holder(1, "", "m"), holder(2, "m", "")];
        assert_eq!(check(&apart), Ok(()));
        assert!(check(&[holder(1, "", "m"), holder(2, "l", "")]).is_err());
        assert!(check(&[holder(1, "", ""), holder(2, "l", "m")]).is_err());
    }
}
