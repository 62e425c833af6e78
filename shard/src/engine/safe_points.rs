//! [`SafePoints`]: which ended versions garbage collection may drop, per range (rule S1).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::{RangeId, Timestamp};

use super::{Cf, KeySpan};

/// The *flushed* safe points of the ranges on this node. Whoever flushes publishes here what
/// [`Engine::durable`](super::Engine::durable) then says, never anything newer: replicas, and a
/// replay after a crash, would decide differently (rule S1). Where ranges overlap, as during a
/// split, the lowest safe point counts; outside all ranges nothing is dropped.
#[derive(Debug, Default)]
pub struct SafePoints {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ranges: BTreeMap<RangeId, (KeySpan, Timestamp)>,
    table: Option<Arc<SafePointTable>>,
}

impl SafePoints {
    /// Sets the bounds and the flushed safe point of a range.
    pub fn publish(&self, range: RangeId, span: KeySpan, safe_point: Timestamp) {
        let mut state = self.state.lock();
        let entry = (span, safe_point);
        if state.ranges.get(&range) != Some(&entry) {
            state.ranges.insert(range, entry);
            state.table = None;
        }
    }

    /// Sets all of them at once; ranges that are not named are forgotten.
    pub fn replace(&self, ranges: impl IntoIterator<Item = (RangeId, KeySpan, Timestamp)>) {
        let new = ranges
            .into_iter()
            .map(|(range, span, safe_point)| (range, (span, safe_point)))
            .collect();
        let mut state = self.state.lock();
        if state.ranges != new {
            *state = State { ranges: new, table: None };
        }
    }

    /// Forgets a range that left this node.
    pub fn remove(&self, range: RangeId) {
        let mut state = self.state.lock();
        if state.ranges.remove(&range).is_some() {
            state.table = None;
        }
    }

    /// What holds now, for one compaction.
    pub fn table(&self) -> Arc<SafePointTable> {
        let mut state = self.state.lock();
        if let Some(table) = &state.table {
            return table.clone();
        }
        let table = Arc::new(SafePointTable::new(state.ranges.values()));
        state.table = Some(table.clone());
        table
    }
}

/// An immutable copy of the safe points, by keys of [`Cf::History`].
///
/// # Invariants
/// * Segments are in order and do not overlap.
#[derive(Debug, Default)]
pub struct SafePointTable {
    /// Start of a segment → its safe point; it ends where the next begins.
    segments: Vec<(Bytes, Timestamp)>,
}

impl SafePointTable {
    fn new<'a>(ranges: impl Iterator<Item = &'a (KeySpan, Timestamp)>) -> Self {
        let ranges: Vec<_> = ranges
            .map(|(span, ts)| {
                let start = Cf::History.bound(&span.start);
                (start, Cf::History.bound(&span.end), *ts)
            })
            .collect();
        let mut starts: Vec<Bytes> =
            ranges.iter().flat_map(|(start, end, _)| [start.clone(), end.clone()]).collect();
        starts.push(Bytes::new());
        starts.sort();
        starts.dedup();
        let segments: Vec<_> = starts
            .into_iter()
            .map(|at| {
                let covering = ranges
                    .iter()
                    .filter(|(start, end, _)| *start <= at && (end.is_empty() || at < *end));
                let lowest = covering.map(|(_, _, ts)| *ts).min();
                (at, lowest.unwrap_or(Timestamp::ZERO))
            })
            .collect();
        assert!(
            segments.windows(2).all(|w| w[0].0 < w[1].0),
            "segments are in order and do not overlap"
        );
        Self { segments }
    }

    /// Whether the interval under this key of [`Cf::History`] may be dropped: it ends at or below
    /// the flushed safe point.
    pub fn may_drop(&self, history_key: &[u8]) -> bool {
        let segment = self.segments.partition_point(|(start, _)| &start[..] <= history_key);
        let Some((_, safe_point)) = segment.checked_sub(1).map(|i| &self.segments[i]) else {
            return false;
        };
        let Some(end) = history_key.last_chunk::<8>() else {
            return false;
        };
        u64::from_be_bytes(*end) <= safe_point.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_txn::state::history_key;

    fn dropped(points: &SafePoints, key: &[u8], end: u64) -> bool {
        points.table().may_drop(&history_key(key, Timestamp(end)))
    }

    #[test]
    fn interval_is_dropped_only_at_or_below_its_own_ranges_safe_point() {
        let points = SafePoints::default();
        assert!(!dropped(&points, b"a", 1));
        points.publish(RangeId(1), KeySpan::new("", "m"), Timestamp(10));
        points.publish(RangeId(2), KeySpan::new("m", ""), Timestamp(20));
        assert!(dropped(&points, b"a", 10));
        assert!(!dropped(&points, b"a", 11));
        assert!(!dropped(&points, b"lzzz", 11));
        assert!(dropped(&points, b"m", 20));
        assert!(!dropped(&points, b"m", 21));
        points.remove(RangeId(2));
        assert!(!dropped(&points, b"m", 1));
        assert!(dropped(&points, b"a", 1));
    }

    #[test]
    fn where_ranges_overlap_the_lowest_safe_point_counts() {
        let points = SafePoints::default();
        points.publish(RangeId(1), KeySpan::new("", ""), Timestamp(10));
        points.publish(RangeId(2), KeySpan::new("m", ""), Timestamp(5));
        assert!(dropped(&points, b"a", 10));
        assert!(!dropped(&points, b"m", 6));
        assert!(dropped(&points, b"m", 5));
    }
}
