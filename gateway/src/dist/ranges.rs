//! The gateway's cache of range descriptors. It is a hint: a range itself knows best, and a wrong
//! entry is healed by the descriptors that come back in the error (DESIGN §4).

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::{NodeId, pb};

/// Cached routes by their start key.
///
/// # Invariants
/// * Cached ranges do not overlap.
/// * A descriptor never replaces one of a newer epoch.
#[derive(Default)]
pub struct RangeCache {
    by_start: BTreeMap<Bytes, pb::RangeRoute>,
}

fn descriptor(route: &pb::RangeRoute) -> Option<(&pb::RangeDescriptor, u64, u64)> {
    let descriptor = route.descriptor.as_ref()?;
    let epoch = descriptor.epoch.unwrap_or_default();
    Some((descriptor, epoch.version, epoch.conf))
}

fn overlaps(a: &pb::RangeDescriptor, b: &pb::RangeDescriptor) -> bool {
    (b.end.is_empty() || a.start < b.end) && (a.end.is_empty() || b.start < a.end)
}

/// Whether `key` lies in the range.
pub fn covers(descriptor: &pb::RangeDescriptor, key: &[u8]) -> bool {
    descriptor.start.as_ref() <= key && (descriptor.end.is_empty() || key < descriptor.end.as_ref())
}

impl RangeCache {
    /// The cached range that holds `key`.
    pub fn find(&self, key: &[u8]) -> Option<pb::RangeRoute> {
        let (_, route) = self
            .by_start
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        covers(route.descriptor.as_ref()?, key).then(|| route.clone())
    }

    /// The cached range that holds the keys just below `end` (exclusive; empty: the last range).
    pub fn find_before(&self, end: &[u8]) -> Option<pb::RangeRoute> {
        let (_, route) = if end.is_empty() {
            self.by_start.iter().next_back()?
        } else {
            let below = (std::ops::Bound::Unbounded, std::ops::Bound::Excluded(end));
            self.by_start.range::<[u8], _>(below).next_back()?
        };
        let known_end = &route.descriptor.as_ref()?.end;
        let reaches = known_end.is_empty() || (!end.is_empty() && end <= known_end.as_ref());
        reaches.then(|| route.clone())
    }

    /// Adopts a route; what it overlaps goes, unless that is newer.
    pub fn insert(&mut self, route: pb::RangeRoute) {
        let Some((new, version, conf)) = descriptor(&route) else {
            return;
        };
        let overlapped: Vec<Bytes> = self
            .by_start
            .iter()
            .filter(|(_, old)| old.descriptor.as_ref().is_some_and(|old| overlaps(old, new)))
            .map(|(start, _)| start.clone())
            .collect();
        let newer_is_cached = overlapped.iter().any(|start| {
            descriptor(&self.by_start[start]).is_some_and(|(old, old_version, old_conf)| {
                old_version > version || (old.range_id == new.range_id && old_conf > conf)
            })
        });
        if newer_is_cached {
            return;
        }
        for start in overlapped {
            self.by_start.remove(&start);
        }
        let start = new.start.clone();
        self.by_start.insert(start, route);
    }

    /// Notes who leads a range now (`None`: not known).
    pub fn set_leader(&mut self, range_id: u64, leader: Option<NodeId>) {
        for route in self.by_start.values_mut() {
            if route.descriptor.as_ref().is_some_and(|d| d.range_id == range_id) {
                route.leader_node_id = leader.map_or(0, |n| n.0);
            }
        }
    }

    /// Forgets the range that holds `key`, so that it is located anew.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(descriptor) = self.find(key).and_then(|route| route.descriptor) {
            self.by_start.remove(&descriptor.start);
        }
    }

    /// How many ranges are cached.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(id: u64, start: &str, end: &str, version: u64, conf: u64) -> pb::RangeRoute {
        pb::RangeRoute {
            descriptor: Some(pb::RangeDescriptor {
                range_id: id,
                start: Bytes::copy_from_slice(start.as_bytes()),
                end: Bytes::copy_from_slice(end.as_bytes()),
                epoch: Some(pb::Epoch { conf, version }),
                replicas: Vec::new(),
            }),
            leader_node_id: 0,
        }
    }

    fn id_at(cache: &RangeCache, key: &str) -> Option<u64> {
        cache.find(key.as_bytes()).map(|r| r.descriptor.unwrap().range_id)
    }

    #[test]
    fn a_split_replaces_the_whole_and_an_old_whole_does_not_come_back() {
        let mut cache = RangeCache::default();
        cache.insert(route(1, "", "", 1, 1));
        assert_eq!(id_at(&cache, "x"), Some(1));
        cache.insert(route(2, "m", "", 2, 1));
        assert_eq!(id_at(&cache, "x"), Some(2));
        assert_eq!(id_at(&cache, "a"), None);
        cache.insert(route(1, "", "", 1, 1));
        assert_eq!(id_at(&cache, "a"), None);
        cache.insert(route(1, "", "m", 2, 1));
        assert_eq!(id_at(&cache, "a"), Some(1));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn the_range_before_an_end_is_found() {
        let mut cache = RangeCache::default();
        cache.insert(route(1, "", "m", 1, 1));
        cache.insert(route(2, "m", "", 1, 1));
        let id = |end: &str| {
            let found = cache.find_before(end.as_bytes());
            found.map(|r| r.descriptor.unwrap().range_id)
        };
        assert_eq!((id(""), id("m"), id("mm"), id("a")), (Some(2), Some(1), Some(2), Some(1)));
    }

    #[test]
    fn a_newer_configuration_replaces_an_older_one_only() {
        let mut cache = RangeCache::default();
        cache.insert(route(1, "", "", 1, 5));
        cache.insert(route(1, "", "", 1, 4));
        let epoch = |c: &RangeCache| c.find(b"x").unwrap().descriptor.unwrap().epoch.unwrap().conf;
        assert_eq!(epoch(&cache), 5);
        cache.insert(route(1, "", "", 1, 6));
        assert_eq!(epoch(&cache), 6);
    }
}
