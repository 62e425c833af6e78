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
    let plants: [Planted; 19] = [
        ("L3", &[ReadsForgotten, LeaderWithoutWait], 3000),
        ("L4", &[TermUnheeded], 3000),
        ("P1", &[FlightsOverlooked], 500),
        ("P2", &[LockRewritten], 500),
        ("P3", &[RefusalForgotten], 1000),
        ("P4", &[ResolvedBeforeVerdict], 500),
        ("P6", &[FloorUnheeded], 500),
        ("P7", &[VerdictOverlooked], 500),
        ("P8", &[AbortGuessed], 500),
        ("P9", &[CheckedWhileStaging], 500),
        ("P10", &[VerdictGuessed], 500),
        ("P12", &[AnchorMoved], 3000),
        ("P14", &[ConflictsForgotten], 500),
        ("R2", &[LocksOverlooked], 500),
        ("R2", &[WindowEmpty], 500),
        ("R3", &[ObservedElsewhere], 3000),
        ("R3", &[ObservedTooEarly, LeaderWithoutWait], 3000),
        ("R6", &[ClosedTooEarly], 3000),
        ("S1", &[SafePointPassed], 3000),
    ];
    assert_eq!(unseen_of(plants, |seed| drop(run(seed))), []);
}

/// Without a mistake the same seeds find nothing.
#[test]
fn nothing_is_found_where_nothing_is_planted() {
    (0..1000).for_each(|seed| drop(run(seed)));
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
