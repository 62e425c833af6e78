//! The initial rows of each table (clause 4.3.3).

use super::value::Value;
use crate::decimal::Decimal;
use crate::tpcc::Scale;
use crate::tpcc::random::{self, NuRand};
use crate::tpcc::schema::DISTRICTS;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::SystemTime;

/// A row.
pub type Row = Vec<Value>;

/// What a customer begins with, in cents: balance, payments made, amount of the first payment.
const FIRST_PAYMENT_CENTS: i64 = 1_000;
/// Share of the first orders that are delivered, in percent.
const DELIVERED_PERCENT: i32 = 70;

/// How many of a district's first orders are delivered.
pub fn delivered_orders(scale: &Scale) -> i32 {
    scale.customers * DELIVERED_PERCENT / 100
}

fn text(value: String) -> Value {
    Value::Text(value)
}

fn cents(value: i64) -> Value {
    Value::Decimal(Decimal::cents(value))
}

fn rate(rng: &mut StdRng, high: i64) -> Value {
    Value::Decimal(Decimal::rate(rng.random_range(0..=high)))
}

/// Streets, city, state and postal code.
fn address(rng: &mut StdRng) -> [Value; 5] {
    [
        text(random::letters(rng, 10..=20)),
        text(random::letters(rng, 10..=20)),
        text(random::letters(rng, 10..=20)),
        text(random::state(rng)),
        text(random::zip(rng)),
    ]
}

/// A row of `item`.
pub fn item(rng: &mut StdRng, item: i32) -> Row {
    vec![
        Value::Int(item),
        Value::Int(rng.random_range(1..=10_000)),
        text(random::letters(rng, 14..=24)),
        cents(rng.random_range(100..=10_000)),
        text(random::data(rng)),
    ]
}

/// A row of `warehouse`.
pub fn warehouse(rng: &mut StdRng, scale: &Scale, warehouse: i32) -> Row {
    let mut row = vec![Value::Int(warehouse), text(random::letters(rng, 6..=10))];
    row.extend(address(rng));
    row.push(rate(rng, 2_000));
    let payments = i64::from(DISTRICTS) * i64::from(scale.customers);
    row.push(cents(payments * FIRST_PAYMENT_CENTS));
    row
}

/// A row of `district`.
pub fn district(rng: &mut StdRng, scale: &Scale, warehouse: i32, district: i32) -> Row {
    let mut row =
        vec![Value::Int(warehouse), Value::Int(district), text(random::letters(rng, 6..=10))];
    row.extend(address(rng));
    row.push(rate(rng, 2_000));
    row.push(cents(i64::from(scale.customers) * FIRST_PAYMENT_CENTS));
    row.push(Value::Int(scale.customers + 1));
    row
}

/// A row of `stock`.
pub fn stock(rng: &mut StdRng, warehouse: i32, item: i32) -> Row {
    let mut row =
        vec![Value::Int(warehouse), Value::Int(item), Value::Int(rng.random_range(10..=100))];
    row.extend((0..DISTRICTS).map(|_| text(random::letters(rng, 24..=24))));
    row.extend([Value::Int(0), Value::Int(0), Value::Int(0), text(random::data(rng))]);
    row
}

/// Rows of `customer` and `history`.
pub fn customer(
    rng: &mut StdRng,
    nurand: &NuRand,
    now: SystemTime,
    (warehouse, district, customer): (i32, i32, i32),
) -> (Row, Row) {
    let mut row = vec![
        Value::Int(warehouse),
        Value::Int(district),
        Value::Int(customer),
        text(random::letters(rng, 8..=16)),
        text("OE".to_owned()),
        text(random::loaded_last_name(nurand, rng, customer)),
    ];
    row.extend(address(rng));
    let credit = if random::percent(rng, 10) { "BC" } else { "GC" };
    row.extend([
        text(random::digits(rng, 16)),
        Value::Time(now),
        text(credit.to_owned()),
        cents(5_000_000),
        rate(rng, 5_000),
        cents(-FIRST_PAYMENT_CENTS),
        cents(FIRST_PAYMENT_CENTS),
        Value::Int(1),
        Value::Int(0),
        text(random::letters(rng, 300..=500)),
    ]);
    let payment = vec![
        Value::Int(customer),
        Value::Int(district),
        Value::Int(warehouse),
        Value::Int(district),
        Value::Int(warehouse),
        Value::Time(now),
        cents(FIRST_PAYMENT_CENTS),
        text(random::letters(rng, 12..=24)),
    ];
    (row, payment)
}

/// The customers of a district's first orders: each once, in random order.
pub fn ordering_customers(rng: &mut StdRng, scale: &Scale) -> Vec<i32> {
    let mut customers: Vec<i32> = (1..=scale.customers).collect();
    customers.shuffle(rng);
    customers
}

/// Rows of `orders`, `order_line` and, if it is not delivered, `new_order`.
pub fn order(
    rng: &mut StdRng,
    scale: &Scale,
    now: SystemTime,
    (warehouse, district, order): (i32, i32, i32),
    customer: i32,
) -> (Row, Vec<Row>, Option<Row>) {
    let delivered = order <= delivered_orders(scale);
    let line_count = rng.random_range(5..=15);
    let carrier = if delivered { Value::Int(rng.random_range(1..=10)) } else { Value::Null };
    let row = vec![
        Value::Int(warehouse),
        Value::Int(district),
        Value::Int(order),
        Value::Int(customer),
        Value::Time(now),
        carrier,
        Value::Int(line_count),
        Value::Int(1),
    ];
    let line = |number| {
        let amount = if delivered { 0 } else { rng.random_range(1..=999_999) };
        vec![
            Value::Int(warehouse),
            Value::Int(district),
            Value::Int(order),
            Value::Int(number),
            Value::Int(rng.random_range(1..=scale.items)),
            Value::Int(warehouse),
            if delivered { Value::Time(now) } else { Value::Null },
            Value::Int(5),
            cents(amount),
            text(random::letters(rng, 24..=24)),
        ]
    };
    let lines = (1..=line_count).map(line).collect();
    let waiting = || vec![Value::Int(warehouse), Value::Int(district), Value::Int(order)];
    (row, lines, (!delivered).then(waiting))
}
