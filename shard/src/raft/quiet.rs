//! Quiet groups (rule L6), without I/O: what a pair of nodes agrees on, per bucket of ranges, and
//! when that agreement is broken.
//!
//! A leader tells all members of an idle group that it is quiet now (a flag in its last
//! heartbeat). From then on the group is in the leader's [`QuietSet`] towards each member's node
//! and, where that member had applied everything, in the member's set of groups led by that node.
//! One heartbeat per pair compares the sets: count and a hash over (range, term, last index). An
//! equal answer renews the leases of the groups that were in the set when the heartbeat left;
//! anything else wakes the groups of that bucket, on the side that noticed.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_proto::{RangeId, pb};

use super::config::{BUCKETS, PAIR_SILENCE};

/// The bucket of a range.
pub fn bucket_of(range: RangeId) -> usize {
    usize::try_from(range.0 % BUCKETS as u64).unwrap_or(0)
}

/// A set of quiet groups, as count and hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuietSet {
    count: u64,
    hash: u64,
}

impl QuietSet {
    fn mix(range: RangeId, term: u64, last_index: u64) -> u64 {
        // The finaliser of splitmix64 over each part in turn.
        [range.0, term, last_index].iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, part| {
            let mut x = (hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        })
    }

    /// The group joins.
    pub fn add(&mut self, range: RangeId, term: u64, last_index: u64) {
        self.count += 1;
        self.hash ^= Self::mix(range, term, last_index);
    }

    /// The group leaves; it must be in the set with the same term and index.
    pub fn remove(&mut self, range: RangeId, term: u64, last_index: u64) {
        assert!(self.count > 0, "a group leaves a set that it is in");
        self.count -= 1;
        self.hash ^= Self::mix(range, term, last_index);
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn to_pb(self) -> pb::QuietGroups {
        pb::QuietGroups { count: self.count, hash: self.hash }
    }

    fn from_pb(groups: &pb::QuietGroups) -> Self {
        Self { count: groups.count, hash: groups.hash }
    }
}

/// Heartbeats whose answer is still awaited.
const ROUNDS_MAX: usize = 16;

/// One bucket between this node and one other.
#[derive(Debug, Default)]
pub struct PairBucket {
    /// Groups led here with a member there.
    pub led: QuietSet,
    /// Groups led there with a member here.
    pub followed: QuietSet,
    /// Since when `led` has not been empty; renewed by each equal answer.
    led_good_at: Duration,
    /// When the newest heartbeat that was answered equal was sent.
    answered_sent_at: Option<Duration>,
    /// When the last equal heartbeat was received, or the first group joined.
    heard_at: Duration,
}

impl PairBucket {
    /// A group led here went quiet.
    pub fn add_led(&mut self, group: (RangeId, u64, u64), now: Duration) {
        if self.led.is_empty() {
            self.led_good_at = now;
        }
        self.led.add(group.0, group.1, group.2);
    }

    /// A group led there went quiet.
    pub fn add_followed(&mut self, group: (RangeId, u64, u64), now: Duration) {
        if self.followed.is_empty() {
            self.heard_at = now;
        }
        self.followed.add(group.0, group.1, group.2);
    }

    /// The sending time that an equal answer vouches for, for a group quiet since `since`.
    pub fn renewed_at(&self, since: Duration) -> Option<Duration> {
        self.answered_sent_at.filter(|sent_at| *sent_at >= since)
    }

    /// No equal answer for too long: the groups led here wake.
    pub fn led_silent(&self, now: Duration) -> bool {
        !self.led.is_empty() && now.saturating_sub(self.led_good_at) > PAIR_SILENCE
    }

    /// No equal heartbeat for too long: the groups led there wake.
    pub fn followed_silent(&self, now: Duration) -> bool {
        !self.followed.is_empty() && now.saturating_sub(self.heard_at) > PAIR_SILENCE
    }
}

/// All buckets of one worker towards one other node.
#[derive(Debug)]
pub struct Pair {
    /// By bucket; those of other workers stay empty.
    pub buckets: Vec<PairBucket>,
    /// When the other node could not be reached last.
    pub lost_at: Option<Duration>,
    last_round: u64,
    sent: VecDeque<(u64, Duration, Vec<QuietSet>)>,
}

impl Default for Pair {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| PairBucket::default()).collect(),
            lost_at: None,
            last_round: 0,
            sent: VecDeque::new(),
        }
    }
}

impl Pair {
    /// The heartbeat to send, if a quiet group is led here; it leaves after `now`.
    pub fn heartbeat(&mut self, now: Duration) -> Option<pb::PairHeartbeat> {
        if self.buckets.iter().all(|bucket| bucket.led.is_empty()) {
            return None;
        }
        self.last_round += 1;
        if self.sent.len() == ROUNDS_MAX {
            self.sent.pop_front();
        }
        let sets: Vec<QuietSet> = self.buckets.iter().map(|bucket| bucket.led).collect();
        let groups = sets.iter().map(|set| set.to_pb()).collect();
        self.sent.push_back((self.last_round, now, sets));
        Some(pb::PairHeartbeat { round: self.last_round, answer: false, groups })
    }

    /// A heartbeat came: the answer holds the buckets that are equal here; the others are
    /// returned beside it, if groups of them are quiet here. `mine` says which buckets this
    /// worker owns.
    pub fn receive(
        &mut self,
        heartbeat: &pb::PairHeartbeat,
        mine: impl Fn(usize) -> bool,
        now: Duration,
    ) -> (Option<pb::PairHeartbeat>, Vec<usize>) {
        let mut answer = pb::PairHeartbeat { round: heartbeat.round, answer: true, groups: vec![] };
        let mut unequal = Vec::new();
        let mut any = false;
        for (number, groups) in heartbeat.groups.iter().take(BUCKETS).enumerate() {
            let theirs = QuietSet::from_pb(groups);
            let bucket = &mut self.buckets[number];
            let mut same = QuietSet::default();
            if mine(number) && !theirs.is_empty() {
                any = true;
                if theirs == bucket.followed {
                    bucket.heard_at = now;
                    same = theirs;
                } else if !bucket.followed.is_empty() {
                    unequal.push(number);
                }
            }
            answer.groups.push(same.to_pb());
        }
        (any.then_some(answer), unequal)
    }

    /// An answer came: leases of equal buckets are renewed; returns the buckets that were not
    /// equal, whose groups must wake.
    pub fn answered(
        &mut self,
        answer: &pb::PairHeartbeat,
        mine: impl Fn(usize) -> bool,
        now: Duration,
    ) -> Vec<usize> {
        let Some(place) = self.sent.iter().position(|(round, ..)| *round == answer.round) else {
            return Vec::new();
        };
        let (_, sent_at, sets) = &self.sent[place];
        let mut unequal = Vec::new();
        for number in (0..BUCKETS).filter(|number| mine(*number)) {
            let asked = sets[number];
            if asked.is_empty() {
                continue;
            }
            let theirs = answer.groups.get(number).map(QuietSet::from_pb).unwrap_or_default();
            let bucket = &mut self.buckets[number];
            if theirs == asked {
                bucket.answered_sent_at = bucket.answered_sent_at.max(Some(*sent_at));
                bucket.led_good_at = now;
            } else if !bucket.led.is_empty() {
                unequal.push(number);
            }
        }
        self.sent.drain(..=place);
        unequal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn all(_: usize) -> bool {
        true
    }

    /// Two nodes that agree on one quiet group led by the first.
    fn agreed() -> (Pair, Pair) {
        let (mut a, mut b) = (Pair::default(), Pair::default());
        a.buckets[3].add_led((RangeId(3), 7, 100), ms(10));
        b.buckets[3].add_followed((RangeId(3), 7, 100), ms(11));
        (a, b)
    }

    #[test]
    fn equal_sets_renew_from_the_sending_of_the_heartbeat() {
        let (mut a, mut b) = agreed();
        let heartbeat = a.heartbeat(ms(20)).unwrap();
        let (answer, unequal) = b.receive(&heartbeat, all, ms(25));
        assert!(unequal.is_empty());
        assert!(a.answered(&answer.unwrap(), all, ms(30)).is_empty());
        assert_eq!(a.buckets[3].renewed_at(ms(10)), Some(ms(20)));
        // A group that joined after the heartbeat left gets nothing from its answer.
        assert_eq!(a.buckets[3].renewed_at(ms(21)), None);
    }

    #[test]
    fn another_term_or_a_missing_group_wakes_both_sides() {
        let (mut a, mut b) = agreed();
        b.buckets[3].followed.remove(RangeId(3), 7, 100);
        b.buckets[3].add_followed((RangeId(3), 8, 100), ms(12));
        let heartbeat = a.heartbeat(ms(20)).unwrap();
        let (answer, unequal) = b.receive(&heartbeat, all, ms(25));
        assert_eq!(unequal, [3]);
        assert_eq!(a.answered(&answer.unwrap(), all, ms(30)), [3]);
        assert_eq!(a.buckets[3].renewed_at(ms(0)), None);
    }

    #[test]
    fn a_node_that_knows_nothing_answers_unequal() {
        let (mut a, _) = agreed();
        let mut restarted = Pair::default();
        let heartbeat = a.heartbeat(ms(20)).unwrap();
        let (answer, unequal) = restarted.receive(&heartbeat, all, ms(25));
        assert!(unequal.is_empty());
        assert_eq!(a.answered(&answer.unwrap(), all, ms(30)), [3]);
    }

    #[test]
    fn silence_is_noticed_on_both_sides() {
        let (a, b) = agreed();
        assert!(!a.buckets[3].led_silent(ms(10) + PAIR_SILENCE));
        assert!(a.buckets[3].led_silent(ms(11) + PAIR_SILENCE));
        assert!(b.buckets[3].followed_silent(ms(12) + PAIR_SILENCE));
    }

    #[test]
    fn an_answer_is_taken_once() {
        let (mut a, mut b) = agreed();
        let heartbeat = a.heartbeat(ms(20)).unwrap();
        let (answer, _) = b.receive(&heartbeat, all, ms(25));
        let answer = answer.unwrap();
        a.answered(&answer, all, ms(30));
        let later = pb::PairHeartbeat { groups: vec![], ..answer };
        assert!(a.answered(&later, all, ms(31)).is_empty());
    }
}
