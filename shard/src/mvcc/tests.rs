//! MVCC against a naive model: random writes, deletes, locks and collection, reads at any
//! timestamp and scans in both directions, on both engines.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm::ChaCha;
use proptest::test_runner::{Config, TestRng, TestRunner};
use quorate_proto::RangeId;
use quorate_txn::leader::{DecidedLock, Window};
use quorate_txn::mistakes::Mistake;
use quorate_txn::state::TxnMeta;

use super::super::{
    Blocked, Locks, Read, ReadAt, ScanEnd, ScanLimits, ScanRequest, below_safe_point, get, scan,
};
use super::*;
use crate::engine::{
    BlockCache, Engine, EngineError, EngineIter, MemEngine, RocksConfig, RocksEngine,
};

const OWN: TxnId = TxnId(1);
const OTHER: TxnId = TxnId(2);
/// Whose locks are gone.
const RESOLVED: TxnId = TxnId(3);

/// Each key's events in order: when, and the value from then on.
#[derive(Debug, Default)]
struct Model {
    keys: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    locks: BTreeMap<Bytes, (TxnId, u64, Option<Bytes>)>,
    watermark: u64,
    safe_point: u64,
}

impl Model {
    fn read(&self, key: &Bytes, at: &ReadAt) -> Read {
        match (self.locks.get(key), &at.locks) {
            (Some((txn, min, value)), Locks::InSnapshot(own))
                if Some(*txn) != *own
                    && (*min <= at.window.read_ts.0
                        || (*min <= at.window.upto.0 && *min <= at.window.observed.0)) =>
            {
                let lock = lock_of(*txn, *min, value.clone());
                return Read::Blocked(Blocked::Locked(Box::new(lock)));
            }
            (Some((txn, _, value)), Locks::Asked(decided))
                if decided.iter().any(|lock| lock.key == *key && lock.txn == *txn) =>
            {
                return Read::Value(value.clone());
            }
            _ => {}
        }
        let events = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let next = events.iter().find(|(ts, _)| *ts > at.window.read_ts.0);
        if let Some((ts, _)) = next
            && *ts <= at.window.upto.0
            && local_of(Timestamp(*ts)) <= at.window.observed
        {
            let event_ts = Timestamp(*ts);
            return Read::Blocked(Blocked::Uncertain { event_ts, local_ts: local_of(event_ts) });
        }
        let seen = events.iter().rev().find(|(ts, _)| *ts <= at.window.read_ts.0);
        let value = seen.and_then(|(_, value)| value.clone());
        if next.is_some() { Read::Older(value) } else { Read::Value(value) }
    }

    /// What a reader at `read_ts` sees through, were every lock decided at its minimum. Those that
    /// were resolved when the snapshot was taken are named, too, also where another has come since.
    fn decided(&self, read_ts: Timestamp, span: &KeySpan) -> Vec<DecidedLock> {
        let mut keys: Vec<Bytes> = (0..9).map(key_of).filter(|key| span.contains(key)).collect();
        keys.sort();
        let decided = keys.into_iter().map(|key| {
            let newest = self.keys.get(&key).and_then(|events| events.last()).map_or(0, |e| e.0);
            let txn = match self.locks.get(&key) {
                Some((txn, min, _)) if *min <= read_ts.0 && *min > newest => *txn,
                Some(_) => RESOLVED,
                None => OTHER,
            };
            DecidedLock { key, txn }
        });
        decided.collect()
    }

    fn all_keys(&self, span: &KeySpan) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.keys.keys().chain(self.locks.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| span.contains(key));
        keys
    }
}

/// A local clock that differs from the event's time for every third one.
fn local_of(ts: Timestamp) -> Timestamp {
    Timestamp(if ts.0.is_multiple_of(3) { ts.0 + 1000 } else { ts.0 })
}

fn lock_of(txn: TxnId, min: u64, value: Option<Bytes>) -> Lock {
    Lock {
        txn: TxnMeta { id: txn, anchor: "anchor".into(), commit_start: Timestamp(1) },
        min_commit_ts: Timestamp(min),
        local_ts: Timestamp(min),
        value,
        known_absent: false,
    }
}

fn key_of(i: u8) -> Bytes {
    // Keys that are prefixes of each other and contain what escaping escapes.
    [&b"a"[..], b"a\0", b"a\0\0", b"a\x01", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c"]
        [usize::from(i) % 9]
        .to_vec()
        .into()
}

#[derive(Debug, Clone)]
enum Op {
    Write(u8, Option<u8>),
    Lock(u8, bool, u64, Option<u8>),
    Unlock(u8),
    RaiseSafePoint(u64),
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        10 => (any::<u8>(), any::<Option<u8>>()).prop_map(|(k, v)| Op::Write(k, v)),
        2 => (any::<u8>(), any::<bool>(), 0..30u64, any::<Option<u8>>())
            .prop_map(|(k, own, m, v)| Op::Lock(k, own, m, v)),
        1 => any::<u8>().prop_map(Op::Unlock),
        1 => (0..20u64).prop_map(Op::RaiseSafePoint),
        1 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 1..60)
}

/// Does what the commands do: the current version to `history`, the new one to `latest`.
fn carry_out(op: &Op, now: u64, model: &mut Model, engine: &dyn Engine) {
    let mut mutations = Vec::new();
    match op {
        Op::Write(key, value) => {
            let (key, end) = (key_of(*key), Timestamp(now));
            let value = value.map(|byte| Bytes::from(vec![byte; usize::from(byte) % 5]));
            let snapshot = engine.snapshot();
            let before = EngineView::new(&*snapshot, KeySpan::default()).latest(&key);
            if let Some(version) = before.expect("reads") {
                let interval = Interval::ended(&version, end, local_of(end));
                mutations.push(Mutation::PutInterval { key: key.clone(), interval });
            } else if value.is_none() {
                return;
            }
            let events = model.keys.entry(key.clone()).or_default();
            events.push((now, value.clone()));
            match value {
                Some(value) => {
                    let version = Version { commit_ts: end, local_ts: local_of(end), value };
                    mutations.push(Mutation::PutLatest { key, version });
                }
                None => {
                    model.watermark = now;
                    mutations.push(Mutation::RemoveLatest { key });
                }
            }
        }
        Op::Lock(key, own, above, value) => {
            let (key, txn) = (key_of(*key), if *own { OWN } else { OTHER });
            let value = value.map(|byte| Bytes::from(vec![byte; usize::from(byte) % 5]));
            model.locks.insert(key.clone(), (txn, now + above, value.clone()));
            mutations.push(Mutation::PutLock { key, lock: lock_of(txn, now + above, value) });
        }
        Op::Unlock(key) => {
            model.locks.remove(&key_of(*key));
            mutations.push(Mutation::RemoveLock { key: key_of(*key) });
        }
        Op::RaiseSafePoint(behind) => {
            model.safe_point = model.safe_point.max(now.saturating_sub(*behind));
            let all = KeySpan::default();
            let safe_point = Timestamp(model.safe_point);
            engine.flush().expect("flushes");
            engine.safe_points().publish(RangeId(1), all.clone(), safe_point);
            engine.compact(&all).expect("compacts");
        }
        Op::Flush => engine.flush().expect("flushes"),
    }
    let mut batch = Batch::new();
    apply_mutations(&mutations, &mut batch);
    engine.write(&batch).expect("writes");
}

/// A whole scan in pages of the given limits, as text.
fn scanned(view: &dyn EngineSnapshot, mut request: ScanRequest) -> String {
    let mut seen = String::new();
    loop {
        if let Locks::Asked(decided) = &mut request.at.locks {
            decided.retain(|lock| request.span.contains(&lock.key));
        }
        let mut rows = 0;
        let end = scan(view, &request, &mut |key, value| {
            rows += 1;
            seen += &format!("{}={value:?} ", key.escape_ascii());
            true
        });
        match end.expect("reads") {
            ScanEnd::Done => return seen,
            ScanEnd::More(rest) => {
                assert!(rows > 0, "a page gives at least one row");
                assert!(request.limits.rows == 0 || rows <= request.limits.rows);
                request.span = rest;
            }
            ScanEnd::Blocked { key, why, rest } => {
                assert!(rest.contains(&key), "what is left includes the key");
                return seen + &format!("{} {why:?}", key.escape_ascii());
            }
        }
    }
}

fn expected(model: &Model, request: &ScanRequest) -> String {
    let mut keys = model.all_keys(&request.span);
    if request.reverse {
        keys.reverse();
    }
    let mut seen = String::new();
    for key in keys {
        match model.read(&key, &request.at) {
            Read::Value(None) | Read::Older(None) => {}
            Read::Value(Some(value)) | Read::Older(Some(value)) => {
                seen += &format!("{}={:?} ", key.escape_ascii(), &value[..]);
            }
            Read::Blocked(why) => return seen + &format!("{} {why:?}", key.escape_ascii()),
        }
    }
    seen
}

#[derive(Debug, Clone)]
struct Look {
    back: u64,
    window: u64,
    /// After `read_ts`.
    observed: Timestamp,
    span: (Option<u8>, Option<u8>),
    limits: ScanLimits,
}

fn looks() -> impl Strategy<Value = Vec<Look>> {
    let limits = (0..4u64, 0..12u64).prop_map(|(rows, bytes)| ScanLimits { rows, bytes });
    let span = (any::<Option<u8>>(), any::<Option<u8>>());
    let observed = prop_oneof![Just(Timestamp::MAX), (0..10u64).prop_map(Timestamp)];
    let look = (0..25u64, prop_oneof![Just(0), 0..10u64], observed, span, limits).prop_map(
        |(back, window, observed, span, limits)| Look { back, window, observed, span, limits },
    );
    prop::collection::vec(look, 1..12)
}

fn check_look(look: &Look, now: u64, model: &Model, snapshot: &dyn EngineSnapshot) {
    let read_ts = Timestamp(now.saturating_sub(look.back).max(1));
    if below_safe_point(read_ts, Timestamp(model.safe_point)) {
        return;
    }
    let observed = Timestamp(read_ts.0.saturating_add(look.observed.0));
    let at = ReadAt {
        window: Window { read_ts, upto: Timestamp(read_ts.0 + look.window), observed },
        locks: Locks::InSnapshot(Some(OWN)),
        delete_watermark: Timestamp(model.watermark),
    };
    let (start, end) = look.span;
    let span =
        KeySpan::new(start.map(key_of).unwrap_or_default(), end.map(key_of).unwrap_or_default());
    let asked = |decided| ReadAt { locks: Locks::Asked(decided), ..at.clone() };
    let through = model.decided(read_ts, &KeySpan::default());
    for at in [at.clone(), asked(Vec::new()), asked(through)] {
        for key in (0..9).map(key_of) {
            let found = get(snapshot, &key, &at).expect("reads");
            assert_eq!(found, model.read(&key, &at), "{key:?}");
        }
        for reverse in [false, true] {
            let (span, at, limits) = (span.clone(), at.clone(), look.limits);
            let request = ScanRequest { span, reverse, at, limits };
            assert_eq!(scanned(snapshot, request.clone()), expected(model, &request));
        }
    }
    check_view(snapshot, &span, &at, model);
}

/// The checks of the commands agree with the model too.
fn check_view(snapshot: &dyn EngineSnapshot, span: &KeySpan, at: &ReadAt, model: &Model) {
    let view = EngineView::new(snapshot, span.clone());
    let (after, upto) = (at.window.read_ts, at.window.upto);
    let want = |span: &Span| {
        model.keys.iter().filter(|(key, _)| span.contains(key)).find_map(|(key, events)| {
            let found = events.iter().find(|(ts, _)| after.0 < *ts && *ts <= upto.0)?;
            Some(Event { key: key.clone(), ts: Timestamp(found.0) })
        })
    };
    let whole = Span { start: span.start.clone(), end: span.end.clone() };
    for span in (0..9).map(|i| Span::key(&key_of(i))).chain([whole]) {
        let found = view.first_event_after(&span, after, upto).expect("reads");
        assert_eq!(found.map(|e| e.key), want(&span).map(|e| e.key), "{span:?}");
        let lock = view.first_foreign_lock(&span, OWN).expect("reads");
        let foreign = model.locks.iter().find(|(key, (txn, ..))| span.contains(key) && *txn != OWN);
        assert_eq!(lock.map(|(key, _)| key), foreign.map(|(key, _)| key.clone()));
    }
    for key in (0..9).map(key_of) {
        let newest = view.newest_end(&key).expect("reads");
        let events = model.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let ends = events.windows(2).filter(|w| w[0].1.is_some());
        let want = ends.map(|w| w[1].0).max().filter(|end| *end > model.safe_point);
        let newest = newest.map(|ts| ts.0).filter(|end| *end > model.safe_point);
        assert_eq!(newest, want);
    }
}

fn run(ops: &[Op], looks: &[Look], engine: &dyn Engine) {
    let mut model = Model::default();
    for (i, op) in ops.iter().enumerate() {
        let now = i as u64 + 1;
        let before = engine.snapshot();
        carry_out(op, now, &mut model, engine);
        let look = &looks[i % looks.len()];
        let snapshot = match Mistake::SnapshotTorn.is_made() {
            true => Box::new(Torn { before, now: engine.snapshot() }),
            false => engine.snapshot(),
        };
        check_look(look, now + 2, &model, &*snapshot);
    }
}

/// Two applied indexes in one read (R1).
struct Torn<'a> {
    before: Box<dyn EngineSnapshot + 'a>,
    now: Box<dyn EngineSnapshot + 'a>,
}

impl Torn<'_> {
    fn of(&self, cf: Cf) -> &dyn EngineSnapshot {
        if cf == Cf::History { &*self.before } else { &*self.now }
    }
}

impl EngineSnapshot for Torn<'_> {
    fn read(&self, cf: Cf, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        self.of(cf).read(cf, key, read)
    }

    fn iter(&self, cf: Cf, lower: &[u8], upper: &[u8]) -> Box<dyn EngineIter + '_> {
        self.of(cf).iter(cf, lower, upper)
    }
}

/// R1 is missed when it is taken away: `history` is read as it was a command before `latest`.
#[test]
fn a_torn_snapshot_is_found() {
    crate::planted::assert_found("R1", Mistake::SnapshotTorn, || {
        let config = Config { failure_persistence: None, ..Config::with_cases(150) };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(ChaCha));
        let outcome = runner.run(&(ops(), looks()), |(ops, looks)| {
            run(&ops, &looks, &MemEngine::new());
            Ok(())
        });
        outcome.expect("reads agree with the model");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn reads_agree_with_the_model_in_memory(ops in ops(), looks in looks()) {
        run(&ops, &looks, &MemEngine::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn reads_agree_with_the_model_on_rocksdb(ops in ops(), looks in looks()) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = RocksConfig { cache: BlockCache::new(1 << 20), write_buffer_bytes: 1 << 20 };
        run(&ops, &looks, &RocksEngine::open(dir.path(), config).expect("opens"));
    }
}

/// R5: the watermark alone decides whether absent keys cost a look into `history`; too low a one
/// would hide rows, which is why it is replicated state.
#[test]
fn absent_key_below_the_watermark_asks_history() {
    let (engine, mut model) = (MemEngine::new(), Model::default());
    carry_out(&Op::Write(0, Some(7)), 10, &mut model, &engine);
    carry_out(&Op::Write(0, None), 20, &mut model, &engine);
    let at = |read_ts, delete_watermark| ReadAt {
        window: Window::exactly(Timestamp(read_ts)),
        locks: Locks::InSnapshot(None),
        delete_watermark: Timestamp(delete_watermark),
    };
    let snapshot = engine.snapshot();
    let read = |at: ReadAt| get(&*snapshot, &key_of(0), &at).expect("reads");
    assert_eq!(read(at(15, 20)), Read::Older(Some(Bytes::from_static(&[7, 7]))));
    assert_eq!(read(at(20, 20)), Read::Value(None));
    assert_eq!(read(at(15, 15)), Read::Value(None), "what a wrong watermark would hide");
}

#[test]
fn droppable_records_are_found_in_the_range_only() {
    let engine = MemEngine::new();
    let mut mutations = Vec::new();
    for (key, start) in [("a", 1), ("b", 1), ("b", 9), ("c", 1)] {
        let record = Record {
            state: quorate_txn::state::RecordState::Refused,
            commit_start: Timestamp(start),
        };
        let (key, id) = (Bytes::from(key), TxnId(u128::from(start)));
        mutations.push(Mutation::PutRecord { key, id, record });
    }
    let mut batch = Batch::new();
    apply_mutations(&mutations, &mut batch);
    engine.write(&batch).expect("in memory");
    let snapshot = engine.snapshot();
    let view = EngineView::new(&*snapshot, KeySpan::new("b", "c"));
    let found = view.droppable_records(Timestamp(5), 10).expect("reads");
    assert_eq!(found, [(Bytes::from("b"), TxnId(1))]);
    let all = EngineView::new(&*snapshot, KeySpan::default());
    assert_eq!(all.droppable_records(Timestamp(5), 2).expect("reads").len(), 2);
}
