//! Rules of a range that are taken away, and are missed at once.

use quorate_txn::mistakes::Mistake;

use super::*;
use crate::planted::assert_found;

#[test]
fn planted_mistakes_are_found() {
    let plants: [(&str, Mistake, fn()); 8] = [
        ("L4", Mistake::TermUnheeded, super::a_command_of_another_term_or_epoch_changes_nothing),
        ("L4", Mistake::EpochUnheeded, super::commands_behind_a_split_change_nothing),
        (
            "L5",
            Mistake::LeavingKeysServed,
            super::keys_that_leave_are_not_read_from_the_proposal_of_the_split_on,
        ),
        ("P5", Mistake::RefusalsUncounted, super::refusals_are_mirrored_in_memory),
        ("R3", Mistake::ObservedElsewhere, what_was_heard_of_another_node_is_no_observation),
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

/// R3: a request that was meant for another node tells of that node's clock.
#[tokio::test]
async fn what_was_heard_of_another_node_is_no_observation() {
    let mut bench = Bench::new(None).await;
    let (read_ts, heard) = (bench.now(), bench.now());
    let commit = bench.commit(1, "a");
    bench.carry_out(commit).await;
    let read = |node: NodeId| {
        let Ask::Read(read) = bench.read("a", read_ts) else { panic!("a read") };
        let uncertain_upto = read_ts.bound_after(MAX_CLOCK_OFFSET).0;
        let (observed, observed_node) = (heard.0, node.0);
        Ask::Read(pb::ReadRequest { uncertain_upto, observed, observed_node, ..read })
    };
    let (here, elsewhere) = (bench.ranges.id(), NodeId(99));
    let answer = bench.send(read(here), PATIENCE).await;
    assert!(matches!(answer, Answer::Read(_)), "it came after: {answer:?}");
    let answer = bench.send(read(elsewhere), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Uncertain(_)));
}
