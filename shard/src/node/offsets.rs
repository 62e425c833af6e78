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
    /// The oldest moment its running transactions read.
    pub oldest_read: Option<Timestamp>,
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

/// What all clocks together say of ours: how far it is from the middle one, our own counting as
/// one of them, and from each other. With an even number the middle is anywhere between the two
/// middle ones, so of two nodes neither is off. Whatever is wrong, the node in the middle agrees
/// with itself: there is one left to lead. With no answer at all it stays as it was.
///
/// Two that are both close enough to the middle may be too far from each other, on its two sides.
/// What the one ahead commits by way of the node in the middle lies above the uncertainty window of
/// the other, which would read past it in silence (rule R2). So the one further from the middle is
/// off then: of an odd number, those that are not are pairwise within the limit.
///
/// `ahead` is how far our hybrid clock is ahead of our wall clock: what we send is refused as long
/// as that is more than the limit, though the wall clock be right again.
pub(crate) fn judge(
    before: Standing,
    seen: &HashMap<NodeId, Seen>,
    now: Duration,
    limit: Duration,
    ahead: Duration,
) -> Standing {
    let fresh: Vec<&Seen> = seen.values().filter(|seen| seen.fresh(now)).collect();
    let given_out = Standing::Off { ahead_us: Some(micros(ahead)) };
    if fresh.is_empty() {
        return if ahead > limit { given_out } else { before };
    }
    let middle = Middle::of(&fresh);
    let away = |percent| middle.away(&fresh, limit * percent / 100);
    let (off, apart) = match before {
        Standing::Off { .. } => (CLOCK_LEADS_PERCENT, CLOCK_LEADS_AGAIN_PERCENT),
        Standing::Apart { .. } => (100, CLOCK_LEADS_AGAIN_PERCENT),
        Standing::Unknown | Standing::Agrees => (100, CLOCK_LEADS_PERCENT),
    };
    match (away(off), away(apart)) {
        (Some(from), _) => Standing::Off { ahead_us: Some(from.saturating_neg()) },
        _ if ahead > limit => given_out,
        (None, Some(from)) => Standing::Apart { ahead_us: Some(from.saturating_neg()) },
        (None, None) => Standing::Agrees,
    }
}

/// The middle of all clocks, as offsets from ours: anywhere between the two.
#[derive(Debug, Clone, Copy)]
struct Middle {
    below: Offset,
    above: Offset,
}

impl Middle {
    fn of(fresh: &[&Seen]) -> Self {
        let mut all: Vec<Offset> = fresh.iter().filter_map(|seen| seen.offset).collect();
        all.push(Offset { us: 0, error_us: 0 });
        all.sort_unstable_by_key(|offset| offset.us);
        Self { below: all[(all.len() - 1) / 2], above: all[all.len() / 2] }
    }

    /// The way to it from our clock.
    fn way(self) -> Offset {
        match (self.below.us > 0, self.above.us < 0) {
            (true, _) => self.below,
            (_, true) => self.above,
            _ => Offset { us: 0, error_us: 0 },
        }
    }

    /// The way from it to a clock: no further than `error_us` from the truth.
    fn to(self, clock: Offset) -> Offset {
        let (nearest, us) = match (clock.us < self.below.us, clock.us > self.above.us) {
            (true, _) => (self.below, clock.us.saturating_sub(self.below.us)),
            (_, true) => (self.above, clock.us.saturating_sub(self.above.us)),
            _ => (clock, 0),
        };
        Offset { us, error_us: clock.error_us.saturating_add(nearest.error_us) }
    }

    /// The way to what our clock is certainly too far from: the middle, or a clock that is not
    /// certainly further from the middle than ours.
    fn away(self, fresh: &[&Seen], limit: Duration) -> Option<i64> {
        let way = self.way();
        if way.beyond(limit) {
            return Some(way.us);
        }
        let ours = way.us.saturating_abs();
        let nearer = |clock: &Offset| {
            let its = self.to(*clock);
            its.us.saturating_abs().saturating_sub(its.error_us) <= ours
        };
        let others = fresh.iter().filter_map(|seen| seen.offset);
        let far = others.filter(|clock| ours > 0 && clock.beyond(limit) && nearer(clock));
        far.map(|clock| clock.us).max_by_key(|us| us.saturating_abs())
    }
}

/// Who can take leads over from this node when its clock is apart: nodes that certainly still take
/// its messages, and agree with most others.
pub(crate) fn heirs(seen: &HashMap<NodeId, Seen>, now: Duration, limit: Duration) -> Vec<NodeId> {
    let fresh: Vec<&Seen> = seen.values().filter(|seen| seen.fresh(now)).collect();
    let middle = Middle::of(&fresh).way().us;
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
        Seen { at: NOW, offset, refused: false, leads: true, oldest_read: None }
    }

    fn refused() -> Seen {
        Seen { offset: None, refused: true, ..off_by(0) }
    }

    fn of(seen: &[Seen]) -> HashMap<NodeId, Seen> {
        (2..).map(NodeId).zip(seen.iter().copied()).collect()
    }

    fn judged(before: Standing, seen: &[Seen]) -> Standing {
        judge(before, &of(seen), NOW, LIMIT, Duration::ZERO)
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
    fn a_clock_is_off_when_it_is_far_from_the_middle_of_all() {
        let off = |ms: i64| Standing::Off { ahead_us: Some(ms * 1000) };
        assert_eq!(judged(Standing::Agrees, &[off_by(-1000), off_by(-1000)]), off(1000));
        assert_eq!(judged(Standing::Agrees, &[off_by(2000), off_by(900)]), off(-900));
        assert_eq!(judged(Standing::Agrees, &[off_by(-1000), off_by(3)]), Standing::Agrees);
        // Of two nobody can tell which is wrong; nor of four that are two and two.
        assert_eq!(judged(Standing::Agrees, &[off_by(2000)]), Standing::Agrees);
        let two_and_two = [off_by(2000), off_by(2000), off_by(0)];
        assert_eq!(judged(Standing::Agrees, &two_and_two), Standing::Agrees);
        // A refusal may be the other one's fault.
        assert_eq!(judged(Standing::Agrees, &[refused(), refused()]), Standing::Agrees);
    }

    #[test]
    fn somebody_is_always_left_to_lead() {
        // One far ahead, one far behind, one between them; one that drifts away from two.
        for clocks in [[-230, 0, 230], [240, 0, -20], [0, 0, 400], [-600, 0, 600]] {
            let standing = |own: usize| {
                let others = clocks.iter().enumerate().filter(|(i, _)| *i != own);
                let seen: Vec<Seen> = others.map(|(_, at)| off_by(at - clocks[own])).collect();
                judged(Standing::Agrees, &seen)
            };
            let leads: Vec<bool> = (0..3).map(|own| standing(own).leads()).collect();
            assert!(leads[1], "{clocks:?}: {leads:?}");
            assert_eq!(leads[2], clocks[2] == -20, "{clocks:?}: {leads:?}");
        }
        // One of three is dead.
        assert_eq!(judged(Standing::Agrees, &[off_by(230)]), Standing::Agrees);
    }

    /// Rule R2: whoever is not off reads what any other that is not off has committed.
    #[test]
    fn of_two_on_both_sides_of_the_middle_the_further_one_is_off() {
        let off = |ms: i64| Standing::Off { ahead_us: Some(ms * 1000) };
        // Seed 120069: 216 ms from the middle, and 385 ms behind the third.
        assert_eq!(judged(Standing::Agrees, &[off_by(216), off_by(385)]), off(-385));
        assert_eq!(judged(Standing::Agrees, &[off_by(-169), off_by(-385)]), Standing::Agrees);
        assert_eq!(judged(Standing::Agrees, &[off_by(-216), off_by(169)]), Standing::Agrees);
        // Neither is certainly nearer.
        assert_eq!(judged(Standing::Agrees, &[off_by(200), off_by(399)]), off(-399));
        assert_eq!(judged(Standing::Agrees, &[off_by(-199), off_by(-399)]), off(399));
        // Not before they are nearer again than what leads are given up at.
        assert!(matches!(judged(off(-385), &[off_by(120), off_by(230)]), Standing::Off { .. }));
        assert!(!matches!(judged(off(-385), &[off_by(110), off_by(215)]), Standing::Off { .. }));
        for clocks in [[-300, -84, 85], [-240, 0, 20], [-130, 0, 130], [0, 249, 260]] {
            let standing = |own: usize| {
                let others = clocks.iter().enumerate().filter(|(i, _)| *i != own);
                let seen: Vec<Seen> = others.map(|(_, at)| off_by(at - clocks[own])).collect();
                judged(Standing::Agrees, &seen)
            };
            let serves = |own: &usize| !matches!(standing(*own), Standing::Off { .. });
            let served: Vec<i64> = (0..3).filter(serves).map(|own| clocks[own]).collect();
            let apart = served.iter().max().unwrap() - served.iter().min().unwrap();
            assert!(apart <= 250 && served.contains(&clocks[1]), "{clocks:?}: {served:?}");
        }
    }

    #[test]
    fn what_was_given_out_counts_until_it_has_passed() {
        let seen = of(&[off_by(0), off_by(0)]);
        let ahead = Duration::from_millis(251);
        let judged = judge(Standing::Agrees, &seen, NOW, LIMIT, ahead);
        assert_eq!(judged, Standing::Off { ahead_us: Some(251_000) });
        assert_eq!(judge(Standing::Agrees, &seen, NOW, LIMIT, LIMIT), Standing::Agrees);
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
        // Statements are run again below what leads are given up at.
        let off = Standing::Off { ahead_us: None };
        let refuses = |seen: &[Seen]| matches!(judged(off, seen), Standing::Off { .. });
        assert!(refuses(&[off_by(230), off_by(230)]) && !refuses(&[off_by(200), off_by(200)]));
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
