//! Each anomaly, found where it is forbidden and not where it is permitted; and histories of two
//! small executors, which are clean.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::args::Isolation::{self, ReadCommitted, RepeatableRead, Serializable};

const LEVELS: [Isolation; 3] = [ReadCommitted, RepeatableRead, Serializable];
const NS_PER_S: u64 = 1_000_000_000;

fn a(key: i64, value: i64) -> Op {
    Op::Append(Key(key), Value(value))
}

fn r(key: i64, values: &[i64]) -> Op {
    Op::Read(Key(key), values.iter().copied().map(Value).collect())
}

/// A committed transaction of a session and a server of its own.
fn t(id: u64, time: Range<u64>, ops: &[Op]) -> Transaction {
    Transaction {
        id,
        process: id,
        node: id,
        invoked_ns: time.start,
        completed_ns: time.end,
        one_statement: false,
        ops: ops.to_vec(),
        outcome: Outcome::Committed,
    }
}

/// What is found where clocks may differ by an hour: real time orders little.
fn found_at(level: Isolation, history: &[Transaction]) -> Vec<Anomaly> {
    found_with(level, 3600 * NS_PER_S, history)
}

fn found_with(level: Isolation, clock_offset_ns_max: u64, history: &[Transaction]) -> Vec<Anomaly> {
    let report = check(history, Promise { level, clock_offset_ns_max });
    let mut anomalies: Vec<Anomaly> = report.findings.iter().map(|f| f.anomaly).collect();
    anomalies.dedup();
    anomalies
}

/// What is found at `READ COMMITTED`, `REPEATABLE READ`, `SERIALIZABLE`.
fn found(history: &[Transaction]) -> [Vec<Anomaly>; 3] {
    LEVELS.map(|level| found_at(level, history))
}

fn everywhere(history: &[Transaction], anomaly: Anomaly) {
    for level in LEVELS {
        let all = found_at(level, history);
        assert!(all.contains(&anomaly), "{anomaly} is not in {all:?} at {level:?}");
    }
}

const fn cycle(class: Class) -> Anomaly {
    Anomaly::Cycle(class, Time::Irrelevant)
}

const fn in_time(class: Class) -> Anomaly {
    Anomaly::Cycle(class, Time::Realtime)
}

#[test]
fn g0_is_forbidden_everywhere() {
    let history = [
        t(1, 0..10, &[a(1, 1), a(2, 1)]),
        t(2, 0..10, &[a(1, 2), a(2, 2)]),
        t(3, 20..30, &[r(1, &[1, 2]), r(2, &[2, 1])]),
    ];
    everywhere(&history, cycle(Class::G0));
}

#[test]
fn g1a_is_forbidden_everywhere() {
    let mut history = [t(1, 0..10, &[a(1, 1)]), t(2, 5..15, &[r(1, &[1])])];
    history[0].outcome = Outcome::Aborted;
    everywhere(&history, Anomaly::G1a);
    // Of one whose outcome nobody knows, the read tells it.
    history[0].outcome = Outcome::Unknown;
    assert_eq!(found(&history), [[], [], []]);
    let promise = Promise { level: Serializable, clock_offset_ns_max: 0 };
    assert_eq!(check(&history, promise).unknown_seen, 1);
}

#[test]
fn g1b_is_forbidden_everywhere() {
    let history = [t(1, 0..10, &[a(1, 1), a(1, 2)]), t(2, 5..15, &[r(1, &[1])])];
    everywhere(&history, Anomaly::G1b);
    let history = [t(1, 0..10, &[a(1, 1), r(1, &[1]), a(1, 2)]), t(2, 5..15, &[r(1, &[1, 2])])];
    assert_eq!(found(&history), [[], [], []]);
}

#[test]
fn g1c_is_forbidden_everywhere() {
    let history = [t(1, 0..10, &[a(1, 1), r(2, &[2])]), t(2, 0..10, &[a(2, 2), r(1, &[1])])];
    everywhere(&history, cycle(Class::G1c));
}

#[test]
fn g_single_is_permitted_by_read_committed() {
    // T2 sees one of T1's appends and not the other.
    let history = [
        t(1, 0..10, &[a(1, 1), a(2, 1)]),
        t(2, 0..10, &[r(1, &[]), r(2, &[1])]),
        t(3, 20..30, &[r(1, &[1])]),
    ];
    let g_single = vec![cycle(Class::GSingle)];
    assert_eq!(found(&history), [vec![], g_single.clone(), g_single.clone()]);
    // In one statement it is not permitted there either.
    let mut history = history;
    history[1].one_statement = true;
    assert_eq!(found(&history), [g_single.clone(), g_single.clone(), g_single]);
}

#[test]
fn write_skew_is_permitted_by_snapshot_isolation() {
    let history = [
        t(1, 0..10, &[r(1, &[]), a(2, 1)]),
        t(2, 0..10, &[r(2, &[]), a(1, 2)]),
        t(3, 20..30, &[r(1, &[2]), r(2, &[1])]),
    ];
    assert_eq!(found(&history), [vec![], vec![], vec![cycle(Class::G2Item)]]);
}

#[test]
fn two_reads_of_the_past_that_are_not_neighbours_are_no_snapshots() {
    // A long fork: T3 sees T1 and not T2, T4 sees T2 and not T1.
    let history = [
        t(1, 0..10, &[a(1, 1)]),
        t(2, 0..10, &[a(2, 2)]),
        t(3, 0..10, &[r(1, &[1]), r(2, &[])]),
        t(4, 0..10, &[r(1, &[]), r(2, &[2])]),
        t(5, 20..30, &[r(1, &[1]), r(2, &[2])]),
    ];
    let g2 = vec![cycle(Class::G2Item)];
    assert_eq!(found(&history), [vec![], g2.clone(), g2]);
}

#[test]
fn a_lost_update_is_permitted_by_read_committed() {
    let history = [
        t(1, 0..10, &[r(1, &[]), a(1, 1)]),
        t(2, 0..10, &[r(1, &[]), a(1, 2)]),
        t(3, 20..30, &[r(1, &[1, 2])]),
    ];
    let g_single = vec![cycle(Class::GSingle)];
    assert_eq!(found(&history), [vec![], g_single.clone(), g_single]);
}

#[test]
fn a_stale_read_is_forbidden_everywhere() {
    let history =
        [t(1, 0..10, &[a(1, 1)]), t(2, 20..30, &[r(1, &[])]), t(3, 40..50, &[r(1, &[1])])];
    everywhere(&history, in_time(Class::GSingle));
    let concurrent = [t(1, 0..25, &[a(1, 1)]), history[1].clone(), history[2].clone()];
    assert_eq!(found(&concurrent), [[], [], []]);
}

#[test]
fn what_was_seen_is_not_unseen() {
    // T1 was not acknowledged when T3 began, but T2 had seen it.
    let history =
        [t(1, 0..90, &[a(1, 1)]), t(2, 10..20, &[r(1, &[1])]), t(3, 30..40, &[r(1, &[])])];
    everywhere(&history, in_time(Class::GSingle));
}

#[test]
fn appends_and_reads_do_not_go_back_in_time() {
    let history =
        [t(1, 0..10, &[a(1, 1)]), t(2, 20..30, &[a(1, 2)]), t(3, 40..50, &[r(1, &[2, 1])])];
    everywhere(&history, in_time(Class::G0));
    let history = [t(1, 0..10, &[r(1, &[1])]), t(2, 20..30, &[a(1, 1)])];
    everywhere(&history, in_time(Class::G1c));
}

#[test]
fn the_causal_reverse_is_permitted_where_clocks_differ() {
    // T1 had ended before T2 began; T3, beside both, sees T2 and not T1.
    let history = [
        t(1, 0..10, &[a(1, 1)]),
        t(2, 20..30, &[a(2, 2)]),
        t(3, 0..40, &[r(2, &[2]), r(1, &[])]),
        t(4, 90..99, &[r(1, &[1]), r(2, &[2])]),
    ];
    for level in [RepeatableRead, Serializable] {
        assert_eq!(found_with(level, 10, &history), []);
        // More than the clocks may differ by.
        assert_eq!(found_with(level, 9, &history), [in_time(Class::GSingle)]);
        // Through one server, whose clock is one.
        let mut same = history.clone();
        same[1].node = 1;
        assert_eq!(found_with(level, NS_PER_S, &same), [in_time(Class::GSingle)]);
        same[1].process = 1;
        let process = Anomaly::Cycle(Class::GSingle, Time::Process);
        assert!(found_with(level, NS_PER_S, &same).contains(&process));
    }
    assert_eq!(found_with(ReadCommitted, 0, &history), []);
}

#[test]
fn a_serial_order_that_real_time_contradicts_is_permitted_by_snapshot_isolation() {
    // T3 misses T1, T1 misses T2, and T2 had ended before T3 began.
    let history = [
        t(1, 0..50, &[r(1, &[]), a(2, 1)]),
        t(2, 0..10, &[a(1, 2)]),
        t(3, 20..30, &[r(2, &[])]),
        t(4, 60..70, &[r(1, &[2]), r(2, &[1])]),
    ];
    assert_eq!(found_with(RepeatableRead, 0, &history), []);
    assert_eq!(found_with(Serializable, 0, &history), [in_time(Class::G2Item)]);
    assert_eq!(found_with(Serializable, 20, &history), []);
}

#[test]
fn a_lost_append_is_found_everywhere() {
    let mut history =
        [t(1, 0..10, &[a(1, 1)]), t(2, 0..10, &[a(1, 2)]), t(3, 20..30, &[r(1, &[1])])];
    everywhere(&history, Anomaly::LostAppend);
    history[1].outcome = Outcome::Unknown;
    assert_eq!(found(&history), [[], [], []]);
    // Unknown, but one of its appends is there: then the other must be.
    history[1].ops = vec![a(2, 2), a(1, 2)];
    let mut more = history.to_vec();
    more.extend([t(4, 31..35, &[r(2, &[2])]), t(5, 40..50, &[r(1, &[1])])]);
    everywhere(&more, Anomaly::LostAppend);
}

#[test]
fn wrong_values_are_found_everywhere() {
    everywhere(&[t(1, 0..10, &[r(1, &[7])])], Anomaly::NeverWritten);
    let twice = [t(1, 0..10, &[a(1, 1)]), t(2, 0..10, &[r(1, &[1, 1])])];
    everywhere(&twice, Anomaly::Duplicate);
    let both = [t(1, 0..10, &[a(1, 1)]), t(2, 0..10, &[a(1, 1)])];
    everywhere(&both, Anomaly::Duplicate);
    let torn = [t(1, 0..10, &[a(1, 1), a(1, 2)]), t(2, 0..10, &[r(1, &[2, 1])])];
    everywhere(&torn, Anomaly::OutOfOrder);
    let orders = [
        t(1, 0..10, &[a(1, 1)]),
        t(2, 0..10, &[a(1, 2)]),
        t(3, 0..10, &[r(1, &[1, 2])]),
        t(4, 0..10, &[r(1, &[2])]),
    ];
    everywhere(&orders, Anomaly::IncompatibleOrders);
    // An aborted value in a read that is not the longest.
    let mut dirty = [
        t(1, 0..10, &[a(1, 1)]),
        t(2, 0..10, &[a(1, 2)]),
        t(3, 0..10, &[r(1, &[2])]),
        t(4, 20..30, &[r(1, &[1])]),
        t(5, 20..30, &[r(1, &[1])]),
    ];
    dirty[1].outcome = Outcome::Aborted;
    assert!(found_at(ReadCommitted, &dirty).contains(&Anomaly::G1a));
}

#[test]
fn a_transaction_sees_its_own_appends() {
    everywhere(&[t(1, 0..10, &[a(1, 1), r(1, &[])])], Anomaly::Internal);
    let history = [t(1, 0..10, &[r(1, &[]), a(1, 1), r(1, &[1]), a(1, 2), r(1, &[1, 2])])];
    assert_eq!(found(&history), [[], [], []]);
}

#[test]
fn two_reads_agree_but_under_read_committed() {
    let history = [t(1, 0..10, &[a(1, 1)]), t(2, 0..10, &[r(1, &[]), r(1, &[1])])];
    let [committed, repeatable, serializable] = found(&history);
    assert_eq!(committed, []);
    assert!(repeatable.contains(&Anomaly::Internal));
    assert!(serializable.contains(&Anomaly::Internal));
    // Back it does not go even there.
    let history = [t(1, 0..10, &[a(1, 1)]), t(2, 0..10, &[r(1, &[1]), r(1, &[])])];
    everywhere(&history, Anomaly::Internal);
}

#[test]
fn an_explanation_names_transactions_keys_and_values() {
    let history = [
        t(12, 0..1_000_000, &[a(3, 7), a(4, 8)]),
        t(15, 0..2_000_000, &[r(3, &[7]), r(4, &[])]),
        t(16, 3_000_000..4_000_000, &[r(4, &[8])]),
    ];
    let promise = Promise { level: RepeatableRead, clock_offset_ns_max: 0 };
    let report = check(&history, promise);
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    let text = finding.to_string();
    for part in [
        "G-single: each of these came before the next",
        "T12 appended 7 to key 3, T15 read it as [7]  (wr)",
        "T15 read key 4 as [], without the 8 that T12 appended  (rw)",
        "T15 (session 15, server 15, 0.000..2.000 ms): read 3 as [7], read 4 as []; committed",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let mut history = snapshots(7, 30);
    history[3].one_statement = true;
    let promise = Promise { level: Serializable, clock_offset_ns_max: 250 };
    file::write(&path, promise, &history).unwrap();
    assert_eq!(file::read(&path).unwrap(), (promise, history));
    std::fs::write(&path, "{\"level\":\"serializable\",\"clock_offset_ns_max\":0}\n{}").unwrap();
    assert!(file::read(&path).unwrap_err().to_string().contains("line 2"));
    assert!(file::read(&folder.path().join("none")).is_err());
}

type Store = BTreeMap<i64, Vec<i64>>;

/// Draws what a transaction does next to a store it sees.
fn draw_op(rng: &mut StdRng, store: &mut Store, next: &mut i64) -> Op {
    let key = rng.random_range(0..6);
    let list = store.entry(key).or_default();
    if rng.random_range(0..2) == 0 {
        return r(key, list);
    }
    *next += 1;
    list.push(*next);
    a(key, *next)
}

fn read_all(id: u64, at: u64, store: &Store) -> Transaction {
    let reads: Vec<Op> = store.iter().map(|(key, list)| r(*key, list)).collect();
    t(id, at..at + 1, &reads)
}

/// A history of transactions that run one after another, although calls and answers overlap.
fn serial(seed: u64, count: u64) -> Vec<Transaction> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut store, mut next) = (Store::new(), 0);
    let mut history = Vec::new();
    for id in 0..count {
        let mut mine = store.clone();
        let ops: Vec<Op> =
            (0..rng.random_range(1..6)).map(|_| draw_op(&mut rng, &mut mine, &mut next)).collect();
        let at = 1000 + 10 * id;
        let mut done = t(id, at - rng.random_range(0..90)..at + rng.random_range(1..90), &ops);
        done.node = 0;
        match rng.random_range(0..10) {
            0 => done.outcome = Outcome::Aborted,
            1 => done.outcome = Outcome::Unknown,
            _ => {}
        }
        if done.outcome == Outcome::Committed
            || done.outcome == Outcome::Unknown && rng.random_range(0..2) == 0
        {
            store = mine;
        }
        history.push(done);
    }
    history.push(read_all(count, 1000 + 10 * count + 100, &store));
    history
}

/// A transaction under way.
struct Open {
    view: Store,
    began: u64,
    ops: Vec<Op>,
    left: u32,
}

/// A history of concurrent transactions on snapshots, of which the first to commit wins.
fn snapshots(seed: u64, count: u64) -> Vec<Transaction> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut store, mut next, mut at) = (Store::new(), 0, 0);
    let mut changed: BTreeMap<i64, u64> = BTreeMap::new();
    let mut open: Vec<Option<Open>> = (0..5).map(|_| None).collect();
    let mut history = Vec::new();
    while (history.len() as u64) < count {
        at += 1;
        let process = rng.random_range(0..open.len());
        let Some(mut tx) = open[process].take() else {
            let left = rng.random_range(1..6);
            open[process] = Some(Open { view: store.clone(), began: at, ops: Vec::new(), left });
            continue;
        };
        if tx.left > 0 {
            tx.left -= 1;
            tx.ops.push(draw_op(&mut rng, &mut tx.view, &mut next));
            open[process] = Some(tx);
            continue;
        }
        let appends: Vec<i64> = tx.ops.iter().filter_map(appended).collect();
        let lost = appends.iter().any(|key| changed.get(key).is_some_and(|at| *at > tx.began));
        let mut done = t(history.len() as u64, tx.began..at, &tx.ops);
        (done.process, done.node) = (process as u64, 0);
        if lost {
            done.outcome = Outcome::Aborted;
        } else {
            for key in appends {
                store.insert(key, tx.view[&key].clone());
                changed.insert(key, at);
            }
        }
        history.push(done);
    }
    history.push(read_all(count, at + 1, &store));
    history
}

fn appended(op: &Op) -> Option<i64> {
    match op {
        Op::Append(key, _) => Some(key.0),
        Op::Read(..) => None,
    }
}

proptest! {
    #[test]
    fn serial_histories_are_clean_at_every_level(seed: u64) {
        let history = serial(seed, 60);
        for level in LEVELS {
            let report = check(&history, Promise { level, clock_offset_ns_max: 0 });
            prop_assert!(report.is_clean(), "{:?}", report.findings);
        }
    }

    #[test]
    fn snapshot_histories_are_clean_under_snapshot_isolation(seed: u64) {
        let history = snapshots(seed, 60);
        for level in [ReadCommitted, RepeatableRead] {
            let report = check(&history, Promise { level, clock_offset_ns_max: 0 });
            prop_assert!(report.is_clean(), "{:?}", report.findings);
        }
    }

    #[test]
    fn an_acknowledged_append_taken_from_the_last_reads_is_found(seed: u64) {
        let mut history = snapshots(seed, 60);
        let reads = &mut history.last_mut().unwrap().ops;
        let longest = reads.iter_mut().max_by_key(|op| match op {
            Op::Read(_, values) => values.len(),
            Op::Append(..) => 0,
        });
        let Some(Op::Read(_, values)) = longest else { return Ok(()) };
        prop_assume!(values.pop().is_some());
        for level in LEVELS {
            let report = check(&history, Promise { level, clock_offset_ns_max: 0 });
            prop_assert!(!report.is_clean());
        }
    }
}

#[test]
fn snapshots_are_not_serializable_and_it_is_found() {
    let with_skew = (0..20).filter(|seed| {
        let promise = Promise { level: Serializable, clock_offset_ns_max: 0 };
        let report = check(&snapshots(*seed, 200), promise);
        assert!(
            report
                .findings
                .iter()
                .all(|f| { matches!(f.anomaly, Anomaly::Cycle(Class::G2Item, _)) })
        );
        !report.is_clean()
    });
    assert!(with_skew.count() > 10);
    // Where everything is tied to everything, the search is limited.
    let promise = Promise { level: Serializable, clock_offset_ns_max: 0 };
    assert!(!check(&snapshots(1, 2_000), promise).is_clean());
}

#[test]
fn a_hundred_thousand_transactions_are_checked_in_time_that_grows_with_them() {
    let mut history = Vec::new();
    for (part, seed) in (0..500_u64).zip(100..) {
        let shift = i64::try_from(part).unwrap() * 1000;
        for mut tx in serial(seed, 199) {
            tx.id += part * 200;
            tx.process = tx.id;
            tx.invoked_ns += part * 10_000;
            tx.completed_ns += part * 10_000;
            for op in &mut tx.ops {
                let (Op::Append(key, _) | Op::Read(key, _)) = op;
                key.0 += shift;
            }
            history.push(tx);
        }
    }
    assert_eq!(history.len(), 100_000);
    let report = check(&history, Promise { level: Serializable, clock_offset_ns_max: 1_000 });
    assert!(report.is_clean(), "{:?}", report.findings);
    // The edges are a few for each transaction: neither pairs nor windows of time.
    assert!(report.dependencies < 20 * history.len(), "{}", report.dependencies);
}
