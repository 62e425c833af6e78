//! Micro-benchmarks of what every statement does many times over.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate_planner::keyenc::{Datum, decode, encode};
use quorate_planner::types::PgType;
use quorate_shard::engine::{Batch, Cf, Engine, KeySpan, RocksConfig, RocksEngine};
use quorate_shard::mvcc::{self, Locks, Read, ReadAt, ScanEnd, ScanLimits, ScanRequest};
use quorate_txn::Timestamp;
use quorate_txn::clock::Hlc;
use quorate_txn::leader::Window;
use quorate_txn::state::Version;
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

/// The key of an order line: four integers.
fn order_line_key() -> Vec<u8> {
    let mut key = Vec::new();
    for part in [1, 7, 3_001, 12] {
        encode(&Datum::Int(part), PgType::Int4, &mut key).expect("an integer can be a key");
    }
    key
}

fn key_encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("key encoding");
    group.bench_function("encode four int4", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(64),
            |key| {
                for part in [1, 7, 3_001, 12] {
                    encode(&Datum::Int(black_box(part)), PgType::Int4, key)
                        .expect("an integer can be a key");
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("encode text of 16 bytes", |b| {
        let text = Datum::Bytes(Cow::Borrowed(b"BARBARPRES\0EINGX"));
        b.iter_batched_ref(
            || Vec::with_capacity(64),
            |key| encode(black_box(&text), PgType::Text, key).expect("a text can be a key"),
            BatchSize::SmallInput,
        );
    });
    let key = order_line_key();
    group.bench_function("decode four int4", |b| {
        b.iter(|| {
            let mut rest = black_box(key.as_slice());
            while !rest.is_empty() {
                let (value, after) = decode(rest, PgType::Int4).expect("was encoded above");
                black_box(value);
                rest = after;
            }
        });
    });
    group.finish();
}

fn clock(c: &mut Criterion) {
    let physical = Timestamp::from_duration(Duration::from_secs(1_800_000_000));
    c.bench_function("hybrid clock reading", |b| {
        let mut clock = Hlc::new(Timestamp::ZERO);
        b.iter(|| clock.now(black_box(physical)));
    });
}

/// Rows in the engine, each of [`ROW_BYTES`], flushed: what a get and a scan meet.
const ROWS: u32 = 100_000;
const ROW_BYTES: usize = 100;
const SCANNED: u32 = 10_000;

fn row_key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn filled(folder: &std::path::Path) -> RocksEngine {
    let engine = RocksEngine::open(folder, RocksConfig::default()).expect("a fresh folder");
    let mut batch = Batch::new();
    for number in 0..ROWS {
        let version = Version {
            commit_ts: Timestamp(1),
            local_ts: Timestamp(1),
            value: Bytes::from(vec![b'x'; ROW_BYTES]),
        };
        batch.put(Cf::Latest, &row_key(number), &version.encode());
    }
    engine.write(&batch).expect("it takes a batch");
    engine.flush().expect("it flushes");
    engine
}

fn storage(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = filled(folder.path());
    let at = ReadAt {
        window: Window { read_ts: Timestamp(2), upto: Timestamp(3), observed: Timestamp::MAX },
        locks: Locks::Asked(Vec::new()),
        delete_watermark: Timestamp::ZERO,
    };
    let mut group = c.benchmark_group("storage");
    group.bench_function("latest get", |b| {
        let mut number = 0;
        b.iter(|| {
            // Keys far from each other, so that no block is met twice in a row.
            number = (number + 37_123) % ROWS;
            let snapshot = engine.snapshot();
            let read = mvcc::get(&*snapshot, &row_key(number), &at).expect("it reads");
            assert!(matches!(read, Read::Value(Some(_))));
        });
    });
    group.throughput(Throughput::Elements(u64::from(SCANNED)));
    group.bench_function("scan rows", |b| {
        let span = KeySpan::new(row_key(5_000).to_vec(), row_key(5_000 + SCANNED).to_vec());
        let limits = ScanLimits::default();
        let request = ScanRequest { span, reverse: false, at: at.clone(), limits };
        b.iter(|| {
            let snapshot = engine.snapshot();
            let mut rows = 0;
            let end = mvcc::scan(&*snapshot, &request, &mut |key, value| {
                black_box((key, value));
                rows += 1;
                true
            });
            assert_eq!(end.expect("it reads"), ScanEnd::Done);
            assert_eq!(rows, SCANNED);
        });
    });
    group.finish();
}

criterion_group!(benches, key_encoding, clock, storage);
criterion_main!(benches);
