//! Mistakes that a simulation must find: rules of the protocol, taken away one at a time.

use quorate_txn::mistakes::Mistake;

/// A rule, what is done wrong, and how soon it must be found. (Those of the transaction protocol
/// that need many lost and repeated messages are planted in `txn/src/chaos_tests`, those of a place
/// that no simulation reaches under the tests of that place.)
///
/// Some rules guard each other: without one of them alone nothing can be seen from outside. Then
/// the guards are taken away together, and the plant says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plant {
    /// On the command line.
    pub name: &'static str,
    /// Of the protocol, or the promise (DESIGN §1).
    pub rules: &'static str,
    /// What is done wrong.
    pub mistakes: &'static [Mistake],
    /// It is found within so many seeds, from 1 on.
    pub seeds: u64,
}

const fn plant(
    name: &'static str,
    rules: &'static str,
    mistakes: &'static [Mistake],
    seeds: u64,
) -> Plant {
    Plant { name, rules, mistakes, seeds }
}

/// All of them.
pub const PLANTS: &[Plant] = &[
    plant(
        "future-timestamps",
        "T1, T4",
        &[Mistake::TimestampInvented, Mistake::CommitWaitSkipped],
        5,
    ),
    plant("clock-bound-forgotten", "T3", &[Mistake::ClockBoundForgotten], 15),
    plant("leases-unguarded", "L1, L2", &[Mistake::LeaseTooLong, Mistake::LeaderWithoutWait], 12),
    plant("locks-not-rebuilt", "L2", &[Mistake::LocksNotRebuilt], 5),
    plant(
        "quiet-lease-unheard",
        "L6, L2",
        &[Mistake::QuietLeaseUnheard, Mistake::LeaderWithoutWait],
        25,
    ),
    plant("flights-overlooked", "P1", &[Mistake::FlightsOverlooked], 5),
    plant("resolved-before-verdict", "P4", &[Mistake::ResolvedBeforeVerdict], 5),
    plant("verdict-guessed", "P10", &[Mistake::VerdictGuessed], 10),
    plant("reads-unchecked", "P9", &[Mistake::ReadsUnchecked], 15),
    plant(
        "conflicts-forgotten",
        "P14",
        &[Mistake::ConflictsForgotten, Mistake::RowLocksForgotten],
        5,
    ),
    plant("locks-overlooked", "R2", &[Mistake::LocksOverlooked], 5),
    plant("safe-point-unheeded", "R4", &[Mistake::SafePointUnheeded], 30),
    plant("watermark-unheeded", "R5", &[Mistake::WatermarkUnheeded], 10),
    plant("follower-ahead", "R6", &[Mistake::FollowerAhead], 30),
    plant("family-not-flushed", "S2", &[Mistake::FamilyNotFlushed], 5),
    plant("log-cut-too-far", "S3", &[Mistake::LogCutTooFar], 30),
    plant("log-without-sync", "X2", &[Mistake::SyncForgotten], 5),
];

/// What is no rule, and does no harm when it is taken away: in so many seeds nothing is found.
pub const HARMLESS: &[Plant] =
    &[plant("row-locks-forgotten", "none", &[Mistake::RowLocksForgotten], 6)];

impl Plant {
    /// Those that must be found, and those that must not.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        PLANTS.iter().chain(HARMLESS)
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::all().find(|plant| plant.name == name).copied()
    }

    /// Makes the mistakes.
    pub fn make(self) {
        self.mistakes.iter().for_each(|mistake| mistake.make());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plant_is_in_the_documentation() {
        let page = include_str!("../../../docs/simulator.md");
        for plant in Plant::all() {
            let row = format!("| `{}` | {} |", plant.name, plant.rules);
            assert!(page.contains(&row), "{row}");
        }
    }

    /// Each rule that can be taken away is, here or in the tests of the crates that keep it.
    #[test]
    fn every_rule_is_planted_somewhere() {
        let others = [
            include_str!("../../../txn/src/chaos_tests/plants.rs"),
            include_str!("../../../shard/src/range/tests/plants.rs"),
            include_str!("../../../shard/src/raft/tests/members.rs"),
            include_str!("../../../shard/src/engine/install_tests.rs"),
            include_str!("../../../shard/src/mvcc/tests.rs"),
        ];
        let here = |rule: &str| PLANTS.iter().any(|p| p.rules.split(", ").any(|of| of == rule));
        let there = |rule: &str| others.iter().any(|text| text.contains(&format!("\"{rule}\"")));
        let rules = [("T", 4), ("L", 7), ("P", 14), ("R", 6), ("S", 4)];
        let all = rules.iter().flat_map(|(of, last)| (1..=*last).map(move |n| format!("{of}{n}")));
        let missing: Vec<String> = all.filter(|rule| !here(rule) && !there(rule)).collect();
        assert_eq!(missing, ["T2"], "a pure function has nothing that can be taken away");
    }
}
