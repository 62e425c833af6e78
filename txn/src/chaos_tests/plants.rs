//! Mistakes that this world must find: see `docs/simulator.md`.

use super::kind::run_kindly;
use super::run;
use crate::mistakes::Mistake;

/// Each rule that can be taken away here is missed, within so many seeds. The simulator of whole
/// nodes has plants of its own; here messages are lost and repeated far more often. What guards one
/// another is taken away together.
#[test]
fn planted_mistakes_are_found() {
    use Mistake::*;
    let plants: [Planted; 21] = [
        ("L3", &[ReadsForgotten, LeaderWithoutWait], 500),
        ("L4", &[TermUnheeded], 200),
        ("L4", &[EpochUnheeded], 300),
        ("P1", &[FlightsOverlooked], 100),
        ("P2", &[LockRewritten], 100),
        ("P3", &[RefusalForgotten], 500),
        ("P4", &[ResolvedBeforeVerdict], 100),
        ("P6", &[FloorUnheeded], 100),
        ("P7", &[VerdictOverlooked], 100),
        ("P8", &[AbortGuessed], 100),
        ("P9", &[CheckedWhileStaging], 300),
        ("P9", &[ReadsUnchecked], 300),
        ("P10", &[VerdictGuessed], 100),
        ("P12", &[AnchorMoved], 1000),
        ("P14", &[ConflictsForgotten], 100),
        ("R2", &[LocksOverlooked], 100),
        ("R2", &[WindowEmpty], 100),
        ("R3", &[ObservedElsewhere], 100),
        ("R3", &[ObservedTooEarly, LeaderWithoutWait], 3000),
        ("R6", &[ClosedTooEarly], 1000),
        ("S1", &[SafePointPassed], 1000),
    ];
    assert_eq!(unseen_of(plants, |seed| drop(run(seed))), []);
}

/// Without a mistake the same seeds find nothing.
#[test]
fn nothing_is_found_where_nothing_is_planted() {
    (0..3000).for_each(|seed| drop(run(seed)));
}

/// Of two rules that guard one another, either is enough here.
#[test]
fn what_is_guarded_twice_does_no_harm_alone() {
    use Mistake::*;
    let alone: [Planted; 3] = [
        ("L2", &[LeaderWithoutWait], 500),
        ("L3", &[ReadsForgotten], 500),
        ("R3", &[ObservedTooEarly], 500),
    ];
    assert_eq!(unseen_of(alone, |seed| drop(run(seed))), alone);
}

/// The same where no fault hides that somebody does not get on.
#[test]
fn what_hinders_progress_is_found() {
    let plants: [Planted; 2] =
        [("P11", &[Mistake::LivingExpired], 100), ("P13", &[Mistake::CommittersWait], 100)];
    assert_eq!(
        unseen_of(plants, |seed| {
            run_kindly(seed);
        }),
        []
    );
}

type Planted = (&'static str, &'static [Mistake], u64);

/// Those that were not found within their seeds.
fn unseen_of<const N: usize>(plants: [Planted; N], run: fn(u64)) -> Vec<Planted> {
    let unseen = plants.into_iter().filter(|(rule, mistakes, seeds)| {
        let (mistakes, seeds) = (*mistakes, *seeds);
        let found = std::thread::spawn(move || {
            mistakes.iter().for_each(|mistake| mistake.make());
            (0..seeds).find(|seed| std::panic::catch_unwind(|| run(*seed)).is_err())
        });
        let found = found.join().expect("panics are caught");
        println!("{rule} {mistakes:?}: {found:?}");
        found.is_none()
    });
    unseen.collect()
}
