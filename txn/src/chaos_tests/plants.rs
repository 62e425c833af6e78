//! Mistakes that this world must find: see `docs/simulator.md`.

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
    assert_eq!(unseen.collect::<Vec<_>>(), []);
}
