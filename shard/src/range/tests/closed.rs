//! Rule R6: what is closed stays closed, and needs no lease to be read.

use super::*;

/// A scan of everything, with the program, of a closed moment.
fn scan_closed(bench: &Bench, read_ts: Timestamp, closed: pb::Closed) -> Ask {
    let Ask::Scan(scan) = bench.scan(read_ts) else { panic!("a scan") };
    Ask::Scan(pb::ScanRequest { closed: Some(closed), ..scan })
}

fn read_closed(bench: &Bench, name: &str, read_ts: Timestamp, closed: pb::Closed) -> Ask {
    let Ask::Read(read) = bench.read(name, read_ts) else { panic!("a read") };
    Ask::Read(pb::ReadRequest { closed: Some(closed), ..read })
}

fn close(ts: Timestamp) -> Ask {
    Ask::CloseTimestamp(pb::CloseTimestampRequest { ts: ts.0 })
}

fn closed(answer: Answer) -> pb::Closed {
    match answer {
        Answer::CloseTimestamp(answer) => answer.closed.expect("it says what is closed"),
        other => panic!("closing answered {other:?}"),
    }
}

fn present(answer: Answer) -> bool {
    match answer {
        Answer::Read(read) => read.values[0].present,
        other => panic!("a read answered {other:?}"),
    }
}

#[tokio::test]
async fn a_closed_moment_is_read_without_a_lease_and_others_are_not() {
    let mut bench = Bench::new(None).await;
    let commit = bench.commit(1, "a");
    bench.carry_out(commit).await;
    let now = bench.now();
    let closed = closed(bench.send(close(now), PATIENCE).await);
    assert_eq!(Timestamp(closed.ts), now);
    bench.physical.advance(LEASE);
    let answer = bench.send(bench.read("a", now), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)), "the lease is over");
    assert!(present(bench.send(read_closed(&bench, "a", now, closed), PATIENCE).await));
    let answer = bench.send(scan_closed(&bench, now, closed), PATIENCE).await;
    assert!(matches!(answer, Answer::Scan(_)), "{answer:?}");
    // A later moment, or one with events that may have been before it, is another matter.
    let later = read_closed(&bench, "a", Timestamp(closed.ts + 1), closed);
    assert!(matches!(kind(bench.send(later, PATIENCE).await), Kind::Invalid(_)));
    let Ask::Read(mut unsure) = read_closed(&bench, "a", now, closed) else { panic!("a read") };
    unsure.uncertain_upto = now.0 + 1;
    assert!(matches!(kind(bench.send(Ask::Read(unsure), PATIENCE).await), Kind::Invalid(_)));
    // Without a lease nothing is closed.
    let answer = bench.send(close(now), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
}

#[tokio::test]
pub(super) async fn a_moment_is_closed_when_what_was_chosen_before_is_applied() {
    let mut bench = Bench::new(None).await;
    let ahead = bench.now().bound_after(Duration::from_secs(60));
    assert!(matches!(kind(bench.send(close(ahead), PATIENCE).await), Kind::Invalid(_)));
    let before = bench.now();
    let commit = bench.commit(1, "a");
    let in_flight = bench.begin(commit).await;
    let after = bench.now();
    let answer = bench.send(close(after), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)), "a write below it is in flight");
    let early = closed(bench.send(close(before), PATIENCE).await);
    assert!(early.ts < after.0);
    while !in_flight.is_finished() {
        tokio::task::yield_now().await;
        pass(&mut bench.driver);
    }
    in_flight.await.expect("no panic");
    let late = closed(bench.send(close(after), PATIENCE).await);
    assert!(late.index > early.index, "{late:?} after {early:?}");
    assert!(present(bench.send(read_closed(&bench, "a", after, late), PATIENCE).await));
    assert!(!present(bench.send(read_closed(&bench, "a", before, early), PATIENCE).await));
}

#[tokio::test]
async fn a_replica_answers_once_it_has_applied_what_the_moment_needs() {
    let mut bench = Bench::new(None).await;
    let now = bench.now();
    let closed = closed(bench.send(close(now), PATIENCE).await);
    let behind = pb::Closed { index: closed.index + 1, ..closed };
    let answer = bench.send(read_closed(&bench, "a", now, behind), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    // It waits for that.
    let waits = tokio::spawn(bench.send(read_closed(&bench, "a", now, behind), PATIENCE * 300));
    let commit = bench.commit(1, "b");
    bench.carry_out(commit).await;
    assert!(!present(waits.await.expect("no panic")));
}

#[tokio::test]
async fn rows_that_leave_in_the_middle_of_a_read_are_not_missed() {
    let mut bench = Bench::new(None).await;
    let commit = bench.commit(1, "a");
    bench.carry_out(commit).await;
    let now = bench.now();
    let closed = closed(bench.send(close(now), PATIENCE).await);
    let replica = bench.replica.clone();
    bench.meanwhile(move || replica.rows_leave());
    let answer = bench.send(scan_closed(&bench, now, closed), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
    bench.meanwhile(|| {});
    let answer = bench.send(scan_closed(&bench, now, closed), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)), "they are not back");
    bench.replica.rows_are_back();
    let answer = bench.send(scan_closed(&bench, now, closed), PATIENCE).await;
    assert!(matches!(answer, Answer::Scan(_)), "{answer:?}");
    // Gone and back again within one read.
    let replica = bench.replica.clone();
    bench.meanwhile(move || {
        replica.rows_leave();
        replica.rows_are_back();
    });
    let answer = bench.send(scan_closed(&bench, now, closed), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Unavailable(_)));
}

#[tokio::test]
async fn a_lock_in_the_way_of_a_closed_moment_is_named() {
    let mut bench = Bench::new(None).await;
    let start = bench.now();
    let request = pb::PrepareRequest {
        txn: Some(meta(1, "a", start)),
        writes: vec![put("a", start)],
        record: pb::RecordKind::Preparing as i32,
        keys: vec![key("a")],
        lock_owner: Bytes::new(),
        who: None,
    };
    let answer = bench.carry_out(Ask::Prepare(request)).await;
    assert!(matches!(answer, Answer::Prepare(_)), "{answer:?}");
    let now = bench.now();
    let closed = closed(bench.send(close(now), PATIENCE).await);
    let answer = bench.send(read_closed(&bench, "a", now, closed), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::Locked(_)));
    // It was not there before the prepare.
    assert!(!present(bench.send(read_closed(&bench, "a", start, closed), PATIENCE).await));
}

/// R4 holds for closed moments, too.
#[tokio::test]
async fn a_closed_moment_below_the_safe_point_is_refused() {
    let mut bench = Bench::new(None).await;
    let (before, safe_point) = (bench.now(), bench.now());
    let closed = closed(bench.send(close(safe_point), PATIENCE).await);
    let raise = pb::RaiseSafePointRequest { safe_point: safe_point.0, txn_floor: 0 };
    bench.carry_out(Ask::RaiseSafePoint(raise)).await;
    let answer = bench.send(read_closed(&bench, "a", before, closed), PATIENCE).await;
    assert!(matches!(kind(answer), Kind::TooOld(_)));
}
