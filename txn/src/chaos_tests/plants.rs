//! Mistakes that this world must find: see `docs/simulator.md`.

use super::kind::run_kindly;
use super::run;
use crate::mistakes::Mistake;

/// Each rule that can be taken away here is missed, within so many seeds. The simulator of whole
/// nodes has plants of its own; here messages are lost and repeated far more often.
#[test]
fn planted_mistakes_are_found() {
    let plants = [
        ("P1", Mistake::FlightsOverlooked, 500),
        ("P2", Mistake::LockRewritten, 500),
        ("P3", Mistake::RefusalForgotten, 1000),
        ("P4", Mistake::ResolvedBeforeVerdict, 500),
        ("P6", Mistake::FloorUnheeded, 500),
        ("P7", Mistake::VerdictOverlooked, 500),
        ("P8", Mistake::AbortGuessed, 500),
        ("P9", Mistake::CheckedWhileStaging, 500),
        ("R2", Mistake::LocksOverlooked, 500),
        ("R2", Mistake::WindowEmpty, 500),
    ];
    assert_eq!(unseen_of(plants, |seed| drop(run(seed))), []);
}

/// The same where no fault hides that somebody does not get on.
#[test]
fn what_hinders_progress_is_found() {
    let plants = [("P11", Mistake::LivingExpired, 100), ("P13", Mistake::CommittersWait, 100)];
    assert_eq!(
        unseen_of(plants, |seed| {
            run_kindly(seed);
        }),
        []
    );
}

type Planted = (&'static str, Mistake, u64);

/// Those that were not found within their seeds.
fn unseen_of<const N: usize>(plants: [Planted; N], run: fn(u64)) -> Vec<Planted> {
    let unseen = plants.into_iter().filter(|(rule, mistake, seeds)| {
        let (mistake, seeds) = (*mistake, *seeds);
        let found = std::thread::spawn(move || {
            mistake.make();
            (0..seeds).find(|seed| std::panic::catch_unwind(|| run(*seed)).is_err())
        });
        let found = found.join().expect("panics are caught");
        println!("{rule} {mistake:?}: {found:?}");
        found.is_none()
    });
    unseen.collect()
}
