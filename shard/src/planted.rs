//! Rules that are taken away one at a time, and the tests that must fail then: those whose harm the
//! simulator cannot make (see `docs/simulator.md`).

use std::panic::catch_unwind;

use quorate_txn::mistakes::Mistake;

/// The test passes, and fails once the mistake is made.
pub(crate) fn assert_found(rule: &str, mistake: Mistake, test: fn()) {
    let fails = |planted: bool| {
        let run = move || {
            if planted {
                mistake.make();
            }
            catch_unwind(test).is_err()
        };
        std::thread::spawn(run).join().expect("panics are caught")
    };
    assert!(!fails(false), "{rule}: the test fails without {mistake:?}");
    assert!(fails(true), "{rule}: {mistake:?} is not found");
}
