//! Micro-benchmarks of what every statement does many times over.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use quorate_planner::keyenc::{Datum, decode, encode};
use quorate_planner::types::PgType;
use quorate_txn::Timestamp;
use quorate_txn::clock::Hlc;
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

criterion_group!(benches, key_encoding, clock);
criterion_main!(benches);
