//! Operators: checked arithmetic, `||`, keys to compare by, casts.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Datum as ArrowDatum, Scalar};
use datafusion::arrow::compute::kernels::numeric as kernels;
use datafusion::arrow::datatypes::{DataType, Decimal128Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::ColumnarValue;

use super::cast::{self, convert, float, number, of_number, of_string, owned, string};
use super::function::{Call, Evaluator};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::{self, Datum};
use crate::types::datetime::{self, DAY, Interval, SECOND};
use crate::types::numeric::{Numeric, division_by_zero, key_of, out_of_range};
use crate::types::{PgType, text, zone};

/// What computes an operator.
pub fn evaluator(name: &str) -> Option<Evaluator> {
    Some(match name {
        "pg_add" | "pg_sub" | "pg_mul" | "pg_div" | "pg_mod" | "mod" => arithmetic,
        "pg_neg" => negate,
        "pg_concat" => concat,
        "pg_cast" => |call, v| convert(&v[0], call.types[0], call.ret, true),
        "pg_assign" => |call, v| convert(&v[0], call.types[0], call.ret, false),
        "pg_pad" => pad,
        "pg_raw" => |_, v| Ok(of_string(string(&v[0])?)),
        "pg_key" => compare_key,
        "pg_bitand" => |_, v| bits(v, |a, b| a & b),
        "pg_bitor" => |_, v| bits(v, |a, b| a | b),
        "pg_bitxor" => |_, v| bits(v, |a, b| a ^ b),
        "pg_bitnot" => |_, v| match &v[0] {
            Datum::Int(n) => Ok(Datum::Int(!n)),
            _ => Err(SqlError::internal("an integer expected")),
        },
        "pg_shl" => |call, v| shift(call, v, true),
        "pg_shr" => |call, v| shift(call, v, false),
        "greatest" => |call, v| extreme(call, v, true),
        "least" => |call, v| extreme(call, v, false),
        "pg_typeof" => |call, _| Ok(of_string(call.types[0].sql_name())),
        _ => return None,
    })
}

/// Sums, differences and products of exact numbers a whole array at a time; `None` for all else.
pub fn vectorized(
    name: &str,
    arrays: &[ArrayRef],
    ret: PgType,
    rows: usize,
) -> SqlResult<Option<ColumnarValue>> {
    let kernel: fn(&dyn ArrowDatum, &dyn ArrowDatum) -> Result<ArrayRef, ArrowError> = match name {
        "pg_add" => kernels::add,
        "pg_sub" => kernels::sub,
        "pg_mul" => kernels::mul,
        _ => return Ok(None),
    };
    let [a, b] = arrays else { return Ok(None) };
    let plain = |t: &DataType| {
        matches!(t, DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Decimal128(..))
    };
    if !plain(a.data_type()) || !plain(b.data_type()) || rows == 1 {
        return Ok(None);
    }
    let done = match (a.len() == rows, b.len() == rows) {
        (true, true) => kernel(a, b),
        (true, false) => kernel(a, &Scalar::new(Arc::clone(b))),
        (false, true) => kernel(&Scalar::new(Arc::clone(a)), b),
        (false, false) => return Ok(None),
    };
    let done = done.map_err(|_| overflow(ret))?;
    let PgType::Numeric(Some((p, s))) = ret else { return Ok(Some(ColumnarValue::Array(done))) };
    let decimals = done.as_primitive::<Decimal128Type>().clone();
    let decimals = decimals.with_precision_and_scale(p, s)?;
    decimals.validate_decimal_precision(p).map_err(|_| overflow(ret))?;
    Ok(Some(ColumnarValue::Array(Arc::new(decimals))))
}

fn overflow(ty: PgType) -> SqlError {
    match ty {
        PgType::Numeric(_) => SqlError::unsupported("a result of more than 38 digits"),
        PgType::Float4 | PgType::Float8 => {
            SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
        }
        ty => out_of_range(ty.sql_name()),
    }
}

fn arithmetic(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let op = call.name;
    match (&v[0], &v[1]) {
        (Datum::Int(a), Datum::Int(b)) => match (call.types[0], call.types[1]) {
            (PgType::Date, PgType::Date) => Ok(Datum::Int(a - b)),
            (PgType::Date, _) => move_date(*a, if op == "pg_add" { *b } else { -*b }),
            (_, PgType::Date) => move_date(*b, *a),
            (PgType::Timestamp | PgType::TimestampTz, _) => {
                let diff = a.checked_sub(*b).ok_or_else(|| datetime::out_of_range("interval"))?;
                // Whole days are told apart, as `timestamp_mi` does.
                let days = i32::try_from(diff / DAY).map_err(|_| overflow(PgType::Int4))?;
                Ok(Datum::Interval(Interval { months: 0, days, micros: diff % DAY }))
            }
            _ => integers(op, *a, *b, call.ret),
        },
        (Datum::Float8(a), Datum::Float8(b)) => Ok(Datum::Float8(floats(op, *a, *b)?)),
        (Datum::Float4(a), Datum::Float4(b)) => {
            let wide = floats(op, f64::from(*a), f64::from(*b))?;
            let narrow = wide as f32;
            if narrow.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(overflow(PgType::Float4));
            }
            Ok(Datum::Float4(narrow))
        }
        (Datum::Interval(a), Datum::Interval(b)) => intervals(*a, *b, op == "pg_add"),
        (Datum::Int(t), Datum::Interval(by)) | (Datum::Interval(by), Datum::Int(t)) => {
            let by = if op == "pg_sub" { scale_interval(*by, -1.0)? } else { *by };
            Ok(Datum::Int(match call.ret {
                PgType::TimestampTz => zone::current().add_interval(*t, by)?,
                _ => datetime::add_interval(*t, by)?,
            }))
        }
        (Datum::Interval(by), Datum::Float8(n)) | (Datum::Float8(n), Datum::Interval(by)) => {
            let factor = match op {
                "pg_div" if *n == 0.0 => return Err(division_by_zero()),
                "pg_div" => 1.0 / n,
                _ => *n,
            };
            Ok(Datum::Interval(scale_interval(*by, factor)?))
        }
        (a, b) => {
            let (a, b) = (number(a, call.types[0])?, number(b, call.types[1])?);
            let result = match op {
                "pg_add" => a.add(&b)?,
                "pg_sub" => a.add(&b.neg())?,
                "pg_mul" => a.mul(&b)?,
                "pg_div" => a.div(&b)?,
                _ => a.rem(&b)?,
            };
            of_number(result, call.ret).map_err(|_| overflow(call.ret))
        }
    }
}

fn move_date(days: i64, by: i64) -> SqlResult<Datum<'static>> {
    if days == i64::from(i32::MAX) || days == i64::from(i32::MIN) {
        return Ok(Datum::Int(days));
    }
    Ok(Datum::Int(i64::from(datetime::check_date(days + by)?)))
}

fn integers(op: &str, a: i64, b: i64, ty: PgType) -> SqlResult<Datum<'static>> {
    let result = match op {
        "pg_add" => a.checked_add(b),
        "pg_sub" => a.checked_sub(b),
        "pg_mul" => a.checked_mul(b),
        _ if b == 0 => return Err(division_by_zero()),
        "pg_div" => a.checked_div(b),
        // The remainder by −1 is 0, also of the least number.
        _ => Some(a.checked_rem(b).unwrap_or(0)),
    };
    cast::fit_int(result.ok_or_else(|| overflow(ty))?, ty)
}

fn floats(op: &str, a: f64, b: f64) -> SqlResult<f64> {
    let result = match op {
        "pg_add" => a + b,
        "pg_sub" => a - b,
        "pg_mul" => a * b,
        _ if b == 0.0 && !a.is_nan() => return Err(division_by_zero()),
        _ => a / b,
    };
    check_float(result, a.is_finite() && b.is_finite(), {
        let vanishes = matches!(op, "pg_mul" | "pg_div");
        vanishes && a != 0.0 && (op == "pg_div" || b != 0.0) && b.is_finite()
    })
}

/// A float result, unless it overflowed or underflowed.
pub fn check_float(result: f64, finite: bool, nonzero: bool) -> SqlResult<f64> {
    if result.is_infinite() && finite {
        return Err(overflow(PgType::Float8));
    }
    if result == 0.0 && nonzero {
        return Err(SqlError::new(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            "value out of range: underflow",
        ));
    }
    Ok(result)
}

fn intervals(a: Interval, b: Interval, add: bool) -> SqlResult<Datum<'static>> {
    let range = || datetime::out_of_range("interval");
    let part = |x: i32, y: i32| if add { x.checked_add(y) } else { x.checked_sub(y) };
    let micros = if add { a.micros.checked_add(b.micros) } else { a.micros.checked_sub(b.micros) };
    Ok(Datum::Interval(Interval {
        months: part(a.months, b.months).ok_or_else(range)?,
        days: part(a.days, b.days).ok_or_else(range)?,
        micros: micros.ok_or_else(range)?,
    }))
}

/// A multiple: fractions of months become days of 30, fractions of days become time.
fn scale_interval(by: Interval, factor: f64) -> SqlResult<Interval> {
    let range = || datetime::out_of_range("interval");
    if !factor.is_finite() {
        return Err(range());
    }
    let months = f64::from(by.months) * factor;
    let month_days = (months - months.trunc()) * 30.0;
    let days = f64::from(by.days) * factor;
    let seconds = (days - days.trunc() + month_days - month_days.trunc()) * 86_400.0;
    // Microseconds of the fractions are rounded first, as `interval_mul` does.
    let seconds = (seconds * SECOND as f64).round() / SECOND as f64;
    let micros = (by.micros as f64 * factor + seconds * SECOND as f64).round_ties_even();
    let whole_days = days.trunc() + month_days.trunc();
    let fits = |n: f64| n.abs() <= f64::from(i32::MAX);
    if !fits(months) || !fits(whole_days) || micros.abs() >= i64::MAX as f64 {
        return Err(range());
    }
    Ok(Interval { months: months.trunc() as i32, days: whole_days as i32, micros: micros as i64 })
}

fn negate(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    Ok(match &v[0] {
        Datum::Int(a) => {
            let negated = a.checked_neg().ok_or_else(|| overflow(call.ret))?;
            cast::fit_int(negated, call.ret)?
        }
        Datum::Float8(a) => Datum::Float8(-a),
        Datum::Float4(a) => Datum::Float4(-a),
        Datum::Decimal(a) => Datum::Decimal(-a),
        Datum::Interval(a) => Datum::Interval(scale_interval(*a, -1.0)?),
        other => of_number(number(other, call.types[0])?.neg(), call.ret)?,
    })
}

fn concat(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    if call.ret == PgType::Bytea {
        let (Datum::Bytes(a), Datum::Bytes(b)) = (&v[0], &v[1]) else {
            return Err(SqlError::internal("bytea expected"));
        };
        return Ok(Datum::Bytes(Cow::Owned([a.as_ref(), b.as_ref()].concat())));
    }
    let mut out = cast::to_string(&v[0], call.types[0])?;
    out.push_str(&cast::to_string(&v[1], call.types[1])?);
    Ok(of_string(out))
}

fn pad(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let value = string(&v[0])?.trim_end_matches(' ');
    Ok(match call.ret {
        PgType::Char(Some(n)) => of_string(text::pad_char(value, n)),
        _ => of_string(value),
    })
}

/// What DataFusion compares, groups and joins by instead of the value.
fn compare_key(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    Ok(match (&v[0], call.types[0]) {
        (Datum::Bytes(b), PgType::Numeric(None)) => Datum::Bytes(Cow::Owned(key_of(b).to_vec())),
        (value @ Datum::Decimal(_), ty) => Datum::Bytes(Cow::Owned(number(value, ty)?.key())),
        (value, PgType::Char(_)) => of_string(string(value)?.trim_end_matches(' ')),
        (Datum::Float8(x), _) => Datum::Float8(if x.is_nan() { f64::NAN } else { x + 0.0 }),
        (Datum::Float4(x), _) => Datum::Float4(if x.is_nan() { f32::NAN } else { x + 0.0 }),
        (Datum::Interval(i), _) => Datum::Decimal(i.order()),
        (other, _) => owned(other.clone()),
    })
}

fn bits(v: &[Datum<'_>], op: fn(i64, i64) -> i64) -> SqlResult<Datum<'static>> {
    match (&v[0], &v[1]) {
        (Datum::Int(a), Datum::Int(b)) => Ok(Datum::Int(op(*a, *b))),
        _ => Err(SqlError::internal("integers expected")),
    }
}

fn shift(call: &Call<'_>, v: &[Datum<'_>], left: bool) -> SqlResult<Datum<'static>> {
    let (Datum::Int(a), Datum::Int(n)) = (&v[0], &v[1]) else {
        return Err(SqlError::internal("integers expected"));
    };
    // The machine's shift, which takes the count modulo the width.
    let n = *n as u32;
    Ok(Datum::Int(match (call.ret, left) {
        (PgType::Int2, true) => i64::from((*a as i32).wrapping_shl(n) as i16),
        (PgType::Int2, false) => i64::from((*a as i32).wrapping_shr(n) as i16),
        (PgType::Int4, true) => i64::from((*a as i32).wrapping_shl(n)),
        (PgType::Int4, false) => i64::from((*a as i32).wrapping_shr(n)),
        (_, true) => a.wrapping_shl(n),
        (_, false) => a.wrapping_shr(n),
    }))
}

fn extreme(call: &Call<'_>, v: &[Datum<'_>], greatest: bool) -> SqlResult<Datum<'static>> {
    let mut best: Option<(Vec<u8>, &Datum<'_>)> = None;
    for value in v.iter().filter(|v| !matches!(v, Datum::Null)) {
        let key = order_bytes(value, call.ret)?;
        let better =
            best.as_ref().is_none_or(|(least, _)| (key > *least) == greatest && key != *least);
        if better {
            best = Some((key, value));
        }
    }
    Ok(best.map_or(Datum::Null, |(_, value)| owned(value.clone())))
}

/// Bytes that order as PostgreSQL orders the values of a type.
pub fn order_bytes(value: &Datum<'_>, ty: PgType) -> SqlResult<Vec<u8>> {
    let mut key = Vec::new();
    match value {
        Datum::Interval(i) => {
            keyenc::encode(&Datum::Decimal(i.order()), PgType::Numeric(Some((38, 0))), &mut key)?
        }
        value => keyenc::encode(value, ty, &mut key)?,
    }
    Ok(key)
}

/// A literal converted when a statement is planned.
pub fn convert_literal(
    value: &ScalarValue,
    from: PgType,
    to: PgType,
    explicit: bool,
) -> SqlResult<ScalarValue> {
    if value.is_null() {
        return Ok(ScalarValue::try_from(&to.arrow())?);
    }
    convert(&Datum::of_scalar(value)?, from, to, explicit)?.to_scalar(to)
}

/// The float of a value whose type is known, for the mathematical functions.
pub fn float_arg(call: &Call<'_>, v: &[Datum<'_>], i: usize) -> SqlResult<f64> {
    float(&v[i], call.types[i])
}

/// The number of a value, for the mathematical functions.
pub fn number_arg(call: &Call<'_>, v: &[Datum<'_>], i: usize) -> SqlResult<Numeric> {
    number(&v[i], call.types[i])
}
