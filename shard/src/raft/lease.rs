//! The leader's lease (rule L1), without I/O: rounds of heartbeats that we number, the time at
//! which each was sent, and who answered.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use quorate_txn::mistakes::Mistake;

use super::config::LEASE;

/// Rounds remembered; older answers count for nothing.
const ROUNDS_MAX: usize = 64;

/// Rounds of one leader. Readings are of `PhysicalClock::monotonic`.
///
/// # Invariants
/// * A round's number is used once in the life of this value, also over several terms.
/// * An answer counts only if it names a round that was sent in the current term.
#[derive(Debug, Default)]
pub struct LeaseRounds {
    last_round: u64,
    sent: VecDeque<(u64, Duration)>,
    answered: HashMap<u64, Duration>,
}

impl LeaseRounds {
    /// A new term begins: nothing that was sent or answered before counts.
    pub fn new_term(&mut self) {
        self.sent.clear();
        self.answered.clear();
    }

    /// Numbers a round whose messages leave after `now`.
    pub fn begin(&mut self, now: Duration) -> u64 {
        self.last_round += 1;
        if self.sent.len() == ROUNDS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last_round, now));
        self.last_round
    }

    /// A peer answered a round, in the current term.
    pub fn answer(&mut self, peer: u64, round: u64) {
        if let Some((_, at)) = self.sent.iter().find(|(number, _)| *number == round) {
            self.answer_sent_at(peer, *at);
        }
    }

    /// A peer answered something that was sent at this time, in the current term.
    pub fn answer_sent_at(&mut self, peer: u64, sent_at: Duration) {
        let newest = self.answered.entry(peer).or_insert(sent_at);
        *newest = (*newest).max(sent_at);
    }

    /// When the newest that a peer answered in this term was sent.
    pub fn answered_at(&self, peer: u64) -> Option<Duration> {
        self.answered.get(&peer).copied()
    }

    /// The sending time of the newest round that a majority of each set of voters answered; an
    /// empty set (no joint configuration) does not count. `me` answers its own rounds at once.
    pub fn start(&self, me: u64, sets: [&[u64]; 2], now: Duration) -> Option<Duration> {
        let mut start = None;
        for voters in sets {
            if voters.is_empty() {
                continue;
            }
            let mut times: Vec<Duration> = voters
                .iter()
                .filter_map(|peer| match *peer == me {
                    true => Some(now),
                    false => self.answered.get(peer).copied(),
                })
                .collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let of_majority = *times.get(voters.len() / 2)?;
            start = Some(start.map_or(of_majority, |s: Duration| s.min(of_majority)));
        }
        start
    }

    /// When the lease ends: exclusive.
    pub fn end(&self, me: u64, sets: [&[u64]; 2], now: Duration) -> Option<Duration> {
        let lease = if Mistake::LeaseTooLong.is_made() { 5 * LEASE } else { LEASE };
        Some(self.start(me, sets, now)? + lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn lease_runs_from_the_sending_not_from_the_answer() {
        let mut rounds = LeaseRounds::default();
        let round = rounds.begin(ms(100));
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[]], ms(150)), None);
        rounds.answer(2, round);
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[]], ms(700)), Some(ms(100)));
        assert_eq!(rounds.end(1, [&[1, 2, 3], &[]], ms(700)), Some(ms(100) + LEASE));
    }

    #[test]
    fn five_voters_need_two_answers_and_the_older_one_counts() {
        let mut rounds = LeaseRounds::default();
        let voters = [1, 2, 3, 4, 5];
        let first = rounds.begin(ms(10));
        let second = rounds.begin(ms(20));
        rounds.answer(2, second);
        assert_eq!(rounds.start(1, [&voters, &[]], ms(30)), None);
        rounds.answer(4, first);
        assert_eq!(rounds.start(1, [&voters, &[]], ms(30)), Some(ms(10)));
        // A late answer to an old round does not take back a newer one.
        rounds.answer(2, first);
        rounds.answer(5, second);
        assert_eq!(rounds.start(1, [&voters, &[]], ms(30)), Some(ms(20)));
    }

    #[test]
    fn both_halves_of_a_joint_configuration_must_answer() {
        let mut rounds = LeaseRounds::default();
        let round = rounds.begin(ms(5));
        rounds.answer(2, round);
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[1, 4, 5]], ms(9)), None);
        rounds.answer(4, round);
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[1, 4, 5]], ms(9)), Some(ms(5)));
    }

    #[test]
    fn answers_of_an_older_term_or_of_strangers_count_for_nothing() {
        let mut rounds = LeaseRounds::default();
        let old = rounds.begin(ms(5));
        rounds.answer(2, old);
        rounds.new_term();
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[]], ms(6)), None);
        rounds.answer(2, old);
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[]], ms(6)), None);
        let new = rounds.begin(ms(8));
        assert_ne!(old, new);
        rounds.answer(9, new);
        assert_eq!(rounds.start(1, [&[1, 2, 3], &[]], ms(9)), None);
    }

    #[test]
    fn a_single_voter_is_its_own_majority() {
        let rounds = LeaseRounds::default();
        assert_eq!(rounds.start(1, [&[1], &[]], ms(7)), Some(ms(7)));
    }
}
