//! How far other nodes' clocks are from this one's, and what that says of it (rule T3). Pure.

use std::collections::HashMap;
use std::time::Duration;

use quorate_proto::{NodeId, Timestamp};
use quorate_txn::clock::Standing;
use quorate_txn::config::{CLOCK_LEADS_AGAIN_PERCENT, CLOCK_LEADS_PERCENT};

use super::config::LIVE_FOR;

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Another node's wall clock minus this one's, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    pub us: i64,
    /// The true offset is no further from `us`.
    pub error_us: i64,
}

impl Offset {
    /// As NTP measures it (RFC 5905, section 8), the answering node's two readings being one:
    /// `remote` was read at some moment of the round trip that ended when our clock showed `own`.
    /// The round trip is measured on a clock that does not jump.
    pub fn measured(remote: Timestamp, own: Timestamp, round_trip: Duration) -> Self {
        let half = round_trip / 2;
        let midpoint = micros(own.to_duration()) - micros(half);
        // Rounded up, for the microseconds cut off.
        Self { us: micros(remote.to_duration()) - midpoint, error_us: micros(half) + 1 }
    }

    /// Whether the clocks are certainly further apart.
    pub fn beyond(self, limit: Duration) -> bool {
        self.us.saturating_abs().saturating_sub(self.error_us) > micros(limit)
    }

    /// Whether the clocks are certainly not further apart.
    fn within(self, limit: Duration) -> bool {
        self.us.saturating_abs().saturating_add(self.error_us) <= micros(limit)
    }
}

/// What is known of another node from asking it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// When it answered, on our monotonic clock.
    pub at: Duration,
    pub offset: Option<Offset>,
    /// One of the two refuses the other's readings. They are hybrid: also when a physical clock is
    /// right again and has not passed yet what was given out while it was ahead.
    pub refused: bool,
    /// It says that it may lead.
    pub leads: bool,
}

impl Seen {
    pub fn fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < LIVE_FOR
    }

    /// Whether its clock and ours are further apart than this.
    pub fn apart(&self, limit: Duration) -> bool {
        self.refused || self.offset.is_some_and(|offset| offset.beyond(limit))
    }

    /// Whether it can be given replicas and leads.
    pub fn usable(&self, now: Duration, limit: Duration) -> bool {
        self.fresh(now) && self.leads && !self.apart(limit)
    }
}

/// What all the others' clocks say of ours. More than half of those that answered lately must be
/// apart from it: with fewer it may be the other one that is off, and one of two decides nothing.
/// With no answer at all it stays as it was.
pub(crate) fn judge(
    before: Standing,
    seen: &HashMap<NodeId, Seen>,
    now: Duration,
    limit: Duration,
) -> Standing {
    let fresh: Vec<&Seen> = seen.values().filter(|seen| seen.fresh(now)).collect();
    if fresh.is_empty() {
        return before;
    }
    let most = |limit| fresh.iter().filter(|seen| seen.apart(limit)).count() * 2 > fresh.len();
    let ahead_us = median(&fresh).map(|offset| -offset);
    if most(limit) {
        return Standing::Off { ahead_us };
    }
    let percent = match before.leads() {
        true => CLOCK_LEADS_PERCENT,
        false => CLOCK_LEADS_AGAIN_PERCENT,
    };
    match most(limit * percent / 100) {
        true => Standing::Apart { ahead_us },
        false => Standing::Agrees,
    }
}

/// Who can take leads over from this node when its clock is apart: nodes that certainly still take
/// its messages, and agree with most others.
pub(crate) fn heirs(seen: &HashMap<NodeId, Seen>, now: Duration, limit: Duration) -> Vec<NodeId> {
    let fresh: Vec<&Seen> = seen.values().filter(|seen| seen.fresh(now)).collect();
    let Some(middle) = median(&fresh) else { return Vec::new() };
    let agrees = |offset: Offset| {
        let from_middle = Offset { us: offset.us.saturating_sub(middle), ..offset };
        !from_middle.beyond(limit * CLOCK_LEADS_AGAIN_PERCENT / 100)
    };
    let fits = |seen: &Seen| {
        let offset = seen.offset.filter(|offset| offset.within(limit) && agrees(*offset));
        seen.usable(now, limit) && offset.is_some()
    };
    let mut heirs: Vec<_> = seen.iter().filter(|(_, s)| fits(s)).map(|(node, _)| *node).collect();
    heirs.sort_unstable();
    heirs
}

/// The middle one of the offsets, or the middle between two.
fn median(fresh: &[&Seen]) -> Option<i64> {
    let mut offsets: Vec<i64> = fresh.iter().filter_map(|s| Some(s.offset?.us)).collect();
    offsets.sort_unstable();
    let above = *offsets.get(offsets.len() / 2)?;
    let below = offsets[(offsets.len() - 1) / 2];
    Some(below + (above - below) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);
    const NOW: Duration = Duration::from_secs(100);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_millis(millis))
    }

    fn off_by(ms: i64) -> Seen {
        let offset = Some(Offset { us: ms * 1000, error_us: 1000 });
        Seen { at: NOW, offset, refused: false, leads: true }
    }

    fn refused() -> Seen {
        Seen { offset: None, refused: true, ..off_by(0) }
    }

    fn of(seen: &[Seen]) -> HashMap<NodeId, Seen> {
        (2..).map(NodeId).zip(seen.iter().copied()).collect()
    }

    fn judged(before: Standing, seen: &[Seen]) -> Standing {
        judge(before, &of(seen), NOW, LIMIT)
    }

    #[test]
    fn an_offset_is_measured_against_the_midpoint_and_known_to_half_the_round_trip() {
        let trip = Duration::from_millis(20);
        let offset = Offset::measured(at(10_300), at(10_010), trip);
        assert!((offset.us - 300_000).abs() <= 1, "{offset:?}");
        assert!((10_000..=10_001).contains(&offset.error_us), "{offset:?}");
        let behind = Offset::measured(at(9_700), at(10_010), trip);
        assert!((behind.us + 300_000).abs() <= 1, "{behind:?}");
        // Wherever within the round trip the other clock was read, the true offset is in bounds.
        for read_at in [9_990, 10_000, 10_010] {
            let offset = Offset::measured(at(read_at + 77), at(10_010), trip);
            assert!((offset.us - 77_000).abs() <= offset.error_us, "{offset:?}");
        }
    }

    #[test]
    fn what_may_be_the_round_trips_is_not_held_against_a_clock() {
        let offset = |us, error_us| Offset { us, error_us };
        assert!(offset(250_002, 1).beyond(LIMIT) && offset(-250_002, 1).beyond(LIMIT));
        assert!(!offset(250_001, 1).beyond(LIMIT) && !offset(900_000, 700_000).beyond(LIMIT));
        assert!(offset(i64::MIN, 0).beyond(LIMIT) && !offset(i64::MIN, 0).within(LIMIT));
    }

    #[test]
    fn a_clock_is_off_when_more_than_half_of_the_others_say_so() {
        let off = Standing::Off { ahead_us: Some(1_000_000) };
        assert_eq!(judged(Standing::Agrees, &[off_by(-1000), off_by(-1000)]), off);
        assert_eq!(judged(Standing::Agrees, &[off_by(-1000), off_by(3)]), Standing::Agrees);
        assert_eq!(judged(Standing::Agrees, &[off_by(2000)]).ahead_us(), Some(-2_000_000));
        let by_refusal = judged(Standing::Unknown, &[refused(), refused(), off_by(0)]);
        assert_eq!(by_refusal, Standing::Off { ahead_us: Some(0) });
        assert_eq!(judged(Standing::Agrees, &[refused()]), Standing::Off { ahead_us: None });
    }

    #[test]
    fn silence_changes_nothing_and_old_answers_are_silence() {
        let old = Seen { at: NOW - LIVE_FOR, ..off_by(1000) };
        for before in [Standing::Unknown, Standing::Agrees, Standing::Off { ahead_us: None }] {
            assert_eq!(judged(before, &[]), before);
            assert_eq!(judged(before, &[old, old]), before);
        }
        assert_eq!(judged(Standing::Agrees, &[old, off_by(0)]), Standing::Agrees);
    }

    #[test]
    fn leads_are_given_up_before_the_limit_and_taken_again_well_below_it() {
        let apart = Standing::Apart { ahead_us: Some(-230_000) };
        assert_eq!(judged(Standing::Agrees, &[off_by(230), off_by(230)]), apart);
        assert_eq!(judged(Standing::Agrees, &[off_by(200), off_by(200)]), Standing::Agrees);
        assert!(!judged(apart, &[off_by(200), off_by(200)]).leads());
        assert_eq!(judged(apart, &[off_by(150), off_by(150)]), Standing::Agrees);
        assert!(!apart.leads() && Standing::Unknown.leads());
    }

    #[test]
    fn leads_go_to_those_who_agree_and_still_listen() {
        let heirs = |seen: &[Seen]| heirs(&of(seen), NOW, LIMIT);
        assert_eq!(heirs(&[off_by(230), off_by(235)]), [NodeId(2), NodeId(3)]);
        assert_eq!(heirs(&[off_by(1000), off_by(1000)]), []);
        assert_eq!(heirs(&[off_by(300), off_by(230), off_by(260)]), [NodeId(3)]);
        let other = Seen { leads: false, ..off_by(230) };
        assert_eq!(heirs(&[other, off_by(230), off_by(-10), off_by(230)]), [NodeId(3), NodeId(5)]);
        assert_eq!(heirs(&[refused(), Seen { at: NOW - LIVE_FOR, ..off_by(0) }]), []);
    }
}
