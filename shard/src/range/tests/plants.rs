//! Rules of a range that are taken away, and are missed at once.

use quorate_txn::mistakes::Mistake;

use crate::planted::assert_found;

#[test]
fn planted_mistakes_are_found() {
    let plants: [(&str, Mistake, fn()); 7] = [
        ("L4", Mistake::TermUnheeded, super::a_command_of_another_term_or_epoch_changes_nothing),
        ("L4", Mistake::EpochUnheeded, super::commands_behind_a_split_change_nothing),
        (
            "L5",
            Mistake::LeavingKeysServed,
            super::keys_that_leave_are_not_read_from_the_proposal_of_the_split_on,
        ),
        ("P5", Mistake::RefusalsUncounted, super::refusals_are_mirrored_in_memory),
        (
            "R4",
            Mistake::SafePointUnheeded,
            super::a_read_below_the_safe_point_is_refused_before_and_after,
        ),
        (
            "R6",
            Mistake::ClosedTooEarly,
            super::closed::a_moment_is_closed_when_what_was_chosen_before_is_applied,
        ),
        ("S1", Mistake::CollectedTooSoon, super::garbage_collection_goes_by_the_flushed_safe_point),
    ];
    for (rule, mistake, test) in plants {
        assert_found(rule, mistake, test);
    }
}
