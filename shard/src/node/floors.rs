//! How the floors of ranges rise (rules S1 and P6): the safe point behind the windows of tables and
//! the oldest moment that any running transaction reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{NodeId, RangeId, Timestamp};
use quorate_txn::config::{READERS_HOLD_MAX, TXN_FLOOR_LAG};
use quorate_txn::mistakes::Mistake;
use tokio::time::Instant;

use super::Node;
use super::config::{DROPS_MAX, READERS_REMEMBERED, STEP_TIMEOUT};
use super::offsets::Seen;
use super::runtime;
use crate::engine::KeySpan;
use crate::range::{META_RANGE, Replica, span_of};

/// The last thing that happened in a range, floors aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activity {
    /// The applied index after it.
    applied: u64,
    /// When it was seen.
    at: Timestamp,
}

impl Node {
    /// A range is left alone once its floors have passed its last activity and it has no record
    /// below them, so that idle ranges stay quiet.
    pub(super) async fn raise_floors(&self, activity: &mut HashMap<RangeId, Activity>) {
        let now = self.ranges.clock.now();
        let led = self.led();
        let windows = match self.gateway.get() {
            Some(gateway) => gateway.gc_windows(),
            None => Some(Vec::new()),
        };
        let oldest_read = self.oldest_read();
        activity.retain(|range, _| led.iter().any(|replica| replica.range == *range));
        for replica in led.iter().filter(|replica| replica.range != META_RANGE) {
            let state = replica.state();
            let seen = activity.entry(replica.range).or_insert(Activity { applied: 0, at: now });
            if state.applied_index != seen.applied {
                *seen = Activity { applied: state.applied_index, at: now };
            }
            let txn_floor = match Mistake::FloorUnheeded.is_made() {
                true => now,
                false => now.bound_before(TXN_FLOOR_LAG),
            };
            // What windows tables have is not known for a while: nothing is given up meanwhile.
            let safe_point = windows.as_ref().map_or(Timestamp::ZERO, |windows| {
                let span = span_of(&replica.descriptor());
                let window = longest_window(&span, windows, self.config.gc_window);
                safe_point(now, window, oldest_read)
            });
            let passes = |floor: Timestamp, old: u64| floor > seen.at && old < seen.at.0;
            let busy = seen.at == now;
            let due = busy
                || passes(txn_floor, state.txn_floor)
                || passes(safe_point, state.safe_point)
                || self.has_droppable_records(replica).await;
            if !due {
                continue;
            }
            // One command drops some of the records below the floor.
            for _ in 0..DROPS_MAX {
                let deadline = Instant::now() + STEP_TIMEOUT;
                if replica.raise_floors(safe_point, txn_floor, deadline).await.is_err() {
                    break;
                }
                seen.applied = replica.state().applied_index;
                if !self.has_droppable_records(replica).await {
                    break;
                }
            }
        }
    }

    async fn has_droppable_records(&self, replica: &Arc<Replica>) -> bool {
        let replica = replica.clone();
        let look = move || replica.has_droppable_records();
        runtime::blocking(self.config.workers_as_tasks, look).await.unwrap_or(false)
    }

    /// The oldest moment that a running transaction reads, as far as nodes have told.
    fn oldest_read(&self) -> Option<Timestamp> {
        let own = self.gateway.get().and_then(|gateway| gateway.oldest_read());
        let others = oldest_of(&self.seen.lock(), self.ranges.clock.monotonic());
        own.into_iter().chain(others).min()
    }
}

/// The oldest moment that others have told lately. One that has not answered for a while may be
/// dead, and then nobody reads there.
fn oldest_of(seen: &HashMap<NodeId, Seen>, now: Duration) -> Option<Timestamp> {
    let lately = seen.values().filter(|seen| now.saturating_sub(seen.at) < READERS_REMEMBERED);
    lately.filter_map(|seen| seen.oldest_read).min()
}

/// How long old versions in a span stay readable: as long as the longest of its windows asks, the
/// node's own being that of whatever has none.
fn longest_window(span: &KeySpan, windows: &[(KeySpan, Duration)], own: Duration) -> Duration {
    let ends_before = |end: &[u8]| !span.end.is_empty() && span.end.as_ref() <= end;
    let mut longest = Duration::ZERO;
    // Up to here every key has a window.
    let mut covered = &span.start;
    for (keys, window) in windows {
        if keys.end <= *covered || (!span.end.is_empty() && keys.start >= span.end) {
            continue;
        }
        if keys.start > *covered {
            longest = longest.max(own);
        }
        longest = longest.max(*window);
        covered = &keys.end;
    }
    match ends_before(covered) {
        true => longest,
        false => longest.max(own),
    }
}

/// Behind the window, and behind who reads; but nobody holds it for ever.
fn safe_point(now: Timestamp, window: Duration, oldest_read: Option<Timestamp>) -> Timestamp {
    let behind = now.bound_before(window);
    let held = oldest_read.unwrap_or(behind).max(now.bound_before(READERS_HOLD_MAX.max(window)));
    behind.min(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Duration = Duration::from_secs(600);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(n: u64) -> Timestamp {
        Timestamp::from_duration(secs(n))
    }

    #[test]
    fn a_range_keeps_versions_for_the_longest_window_in_it() {
        let windows = [
            (KeySpan::new("c", "d"), secs(60)),
            (KeySpan::new("d", "e"), secs(90)),
            (KeySpan::new("m", "n"), secs(3_600)),
        ];
        let longest = |start: &'static str, end: &'static str| {
            longest_window(&KeySpan::new(start, end), &windows, OWN)
        };
        assert_eq!(longest("c", "d"), secs(60));
        assert_eq!(longest("c1", "c2"), secs(60));
        assert_eq!(longest("c", "e"), secs(90));
        assert_eq!(longest("b", "d"), OWN);
        assert_eq!(longest("c", "f"), OWN);
        assert_eq!(longest("e", "m"), OWN);
        assert_eq!(longest("e", "m1"), secs(3_600));
        assert_eq!(longest("", ""), secs(3_600));
        assert_eq!(longest("n", ""), OWN);
        assert_eq!(longest_window(&KeySpan::new("", ""), &[], OWN), OWN);
    }

    #[test]
    fn a_reader_holds_the_safe_point_for_a_day() {
        let now = at(1_000_000);
        assert_eq!(safe_point(now, OWN, None), now.bound_before(OWN));
        assert_eq!(safe_point(now, OWN, Some(at(999_900))), now.bound_before(OWN));
        assert_eq!(safe_point(now, OWN, Some(at(990_000))), at(990_000));
        assert_eq!(safe_point(now, OWN, Some(at(3))), now.bound_before(READERS_HOLD_MAX));
        // A window may be longer than a day.
        let window = READERS_HOLD_MAX * 7;
        assert_eq!(safe_point(now, window, Some(at(3))), now.bound_before(window));
    }

    #[test]
    fn what_a_node_that_is_gone_has_read_is_forgotten() {
        let seen =
            |at, oldest_read| Seen { at, offset: None, refused: false, leads: true, oldest_read };
        let all = HashMap::from([
            (NodeId(2), seen(secs(100), Some(at(50)))),
            (NodeId(3), seen(secs(150), Some(at(70)))),
            (NodeId(4), seen(secs(150), None)),
        ]);
        assert_eq!(oldest_of(&all, secs(155)), Some(at(50)));
        assert_eq!(oldest_of(&all, secs(100) + READERS_REMEMBERED), Some(at(70)));
        assert_eq!(oldest_of(&HashMap::new(), secs(100)), None);
    }
}
