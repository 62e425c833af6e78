//! Values as key bytes that order as the values do.
//!
//! A column is a marker ([`NOT_NULL`], or [`NULL`], which is above it) and the value:
//!
//! | type | bytes |
//! |---|---|
//! | `bool` | 0 or 1 |
//! | `int2`, `int4`, `int8`, `date`, `timestamp`, `timestamptz` | big-endian, sign bit flipped |
//! | `oid` | big-endian |
//! | `float4`, `float8` | big-endian; inverted if negative, else sign flipped; NaN last; −0 is 0 |
//! | `numeric(p,s)` | the digits as a 128-bit integer, like `int8` |
//! | `numeric` | [`crate::types::numeric::Numeric::key`] |
//! | `text`, `varchar`, `name`, `bytea` | the bytes, 0 as `00 ff`, then `00 01` |
//! | `char(n)` | the same without blanks at the end |
//! | `uuid` | its 16 bytes |

use std::borrow::Cow;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, UInt32Type,
};
use datafusion::common::ScalarValue;

use crate::error::{SqlError, SqlResult};
use crate::types::numeric::{Numeric, key_of};
use crate::types::{PgType, cell, text};

/// Marks a value.
pub const NOT_NULL: u8 = 0x01;
/// Marks NULL: after every value.
pub const NULL: u8 = 0xFF;

/// A value on its way between an array, a key and a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum<'a> {
    /// NULL
    Null,
    /// `bool`
    Bool(bool),
    /// The integers, `oid`, `date` and the timestamps
    Int(i64),
    /// `float4`
    Float4(f32),
    /// `float8`
    Float8(f64),
    /// `numeric(p,s)`
    Decimal(i128),
    /// Strings, `bytea`, `uuid`, and `numeric` in the form of its arrays
    Bytes(Cow<'a, [u8]>),
    /// `interval`
    Interval(crate::types::datetime::Interval),
}

impl<'a> Datum<'a> {
    /// A cell of an array.
    pub fn of_cell(array: &'a dyn Array, row: usize) -> SqlResult<Datum<'a>> {
        macro_rules! int {
            ($ty:ty) => {
                Datum::Int(i64::from(array.as_primitive::<$ty>().value(row)))
            };
        }
        if array.is_null(row) {
            return Ok(Datum::Null);
        }
        Ok(match array.data_type() {
            DataType::Boolean => Datum::Bool(array.as_boolean().value(row)),
            DataType::Int16 => int!(Int16Type),
            DataType::Int32 => int!(Int32Type),
            DataType::Int64 => int!(Int64Type),
            DataType::UInt32 => int!(UInt32Type),
            DataType::Date32 => int!(Date32Type),
            DataType::Timestamp(TimeUnit::Microsecond, _) => int!(TimestampMicrosecondType),
            DataType::Float32 => Datum::Float4(array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => Datum::Float8(array.as_primitive::<Float64Type>().value(row)),
            DataType::Decimal128(..) => {
                Datum::Decimal(array.as_primitive::<Decimal128Type>().value(row))
            }
            DataType::Utf8 => bytes(array.as_string::<i32>().value(row).as_bytes()),
            DataType::LargeUtf8 => bytes(array.as_string::<i64>().value(row).as_bytes()),
            DataType::Binary => bytes(array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row)),
            DataType::FixedSizeBinary(16) => bytes(array.as_fixed_size_binary().value(row)),
            DataType::Interval(_) => Datum::Interval(cell::interval_at(array, row)),
            other => return Err(SqlError::internal(format!("a stored value of type {other}"))),
        })
    }

    /// A scalar.
    pub fn of_scalar(value: &'a ScalarValue) -> SqlResult<Datum<'a>> {
        Ok(match value {
            v if v.is_null() => Datum::Null,
            ScalarValue::Boolean(Some(v)) => Datum::Bool(*v),
            ScalarValue::Int16(Some(v)) => Datum::Int(i64::from(*v)),
            ScalarValue::Int32(Some(v)) | ScalarValue::Date32(Some(v)) => Datum::Int(i64::from(*v)),
            ScalarValue::Int64(Some(v)) | ScalarValue::TimestampMicrosecond(Some(v), _) => {
                Datum::Int(*v)
            }
            ScalarValue::UInt32(Some(v)) => Datum::Int(i64::from(*v)),
            ScalarValue::Float32(Some(v)) => Datum::Float4(*v),
            ScalarValue::Float64(Some(v)) => Datum::Float8(*v),
            ScalarValue::Decimal128(Some(v), ..) => Datum::Decimal(*v),
            ScalarValue::Utf8(Some(v)) | ScalarValue::LargeUtf8(Some(v)) => bytes(v.as_bytes()),
            ScalarValue::Binary(Some(v))
            | ScalarValue::LargeBinary(Some(v))
            | ScalarValue::FixedSizeBinary(16, Some(v)) => bytes(v),
            ScalarValue::IntervalMonthDayNano(Some(v)) => {
                Datum::Interval(crate::types::datetime::Interval {
                    months: v.months,
                    days: v.days,
                    micros: v.nanoseconds / 1000,
                })
            }
            other => {
                return Err(SqlError::internal(format!(
                    "a stored value of type {}",
                    other.data_type()
                )));
            }
        })
    }

    /// As a scalar of a type.
    pub fn to_scalar(&self, ty: PgType) -> SqlResult<ScalarValue> {
        let mut builder = crate::row::ColumnBuilder::new(ty, 1)?;
        builder.append(self)?;
        Ok(ScalarValue::try_from_array(&builder.finish(), 0)?)
    }
}

fn bytes(value: &[u8]) -> Datum<'_> {
    Datum::Bytes(Cow::Borrowed(value))
}

/// Whether a column of this type can be part of a key.
pub fn can_be_key(ty: PgType) -> bool {
    !matches!(ty, PgType::Interval | PgType::Unknown | PgType::Void)
}

/// Appends a scalar as a key column.
pub fn encode_scalar(value: &ScalarValue, ty: PgType, out: &mut Vec<u8>) -> SqlResult<()> {
    encode(&Datum::of_scalar(value)?, ty, out)
}

/// Appends a value as a key column.
pub fn encode(value: &Datum<'_>, ty: PgType, out: &mut Vec<u8>) -> SqlResult<()> {
    if matches!(value, Datum::Null) {
        out.push(NULL);
        return Ok(());
    }
    out.push(NOT_NULL);
    match (ty, value) {
        (PgType::Bool, Datum::Bool(v)) => out.push(u8::from(*v)),
        (PgType::Int2, Datum::Int(v)) => {
            out.extend_from_slice(&(narrow::<i16>(*v)? as u16 ^ 1 << 15).to_be_bytes());
        }
        (PgType::Int4 | PgType::Date, Datum::Int(v)) => {
            out.extend_from_slice(&(narrow::<i32>(*v)? as u32 ^ 1 << 31).to_be_bytes());
        }
        (PgType::Oid, Datum::Int(v)) => out.extend_from_slice(&narrow::<u32>(*v)?.to_be_bytes()),
        (PgType::Int8 | PgType::Timestamp | PgType::TimestampTz, Datum::Int(v)) => {
            out.extend_from_slice(&(*v as u64 ^ 1 << 63).to_be_bytes());
        }
        (PgType::Float4, Datum::Float4(v)) => {
            let bits = if v.is_nan() { f32::NAN.to_bits() } else { (v + 0.0).to_bits() };
            let flipped = if bits >> 31 == 1 { !bits } else { bits ^ 1 << 31 };
            out.extend_from_slice(&flipped.to_be_bytes());
        }
        (PgType::Float8, Datum::Float8(v)) => {
            let bits = if v.is_nan() { f64::NAN.to_bits() } else { (v + 0.0).to_bits() };
            let flipped = if bits >> 63 == 1 { !bits } else { bits ^ 1 << 63 };
            out.extend_from_slice(&flipped.to_be_bytes());
        }
        (PgType::Numeric(Some(_)), Datum::Decimal(v)) => {
            out.extend_from_slice(&(*v as u128 ^ 1 << 127).to_be_bytes());
        }
        (PgType::Numeric(None), Datum::Bytes(v)) => out.extend_from_slice(key_of(v)),
        (PgType::Char(_), Datum::Bytes(v)) => {
            let end = v.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
            put_bytes(&v[..end], out);
        }
        (PgType::Text | PgType::Varchar(_) | PgType::Name | PgType::Bytea, Datum::Bytes(v)) => {
            put_bytes(v, out);
        }
        (PgType::Uuid, Datum::Bytes(v)) if v.len() == 16 => out.extend_from_slice(v),
        (ty, _) if !can_be_key(ty) => {
            return Err(SqlError::unsupported(format_args!("a key of type {ty}")));
        }
        (ty, value) => return Err(SqlError::internal(format!("{value:?} is no {ty}"))),
    }
    Ok(())
}

fn narrow<T: TryFrom<i64>>(value: i64) -> SqlResult<T> {
    T::try_from(value).map_err(|_| SqlError::internal("an integer wider than its column"))
}

fn put_bytes(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 1]);
}

fn short() -> SqlError {
    SqlError::corrupt("a key ends early")
}

/// Takes a key column off the front; answers the value and what follows it.
pub fn decode(key: &[u8], ty: PgType) -> SqlResult<(Datum<'static>, &[u8])> {
    let rest = match key.split_first() {
        Some((&NULL, rest)) => return Ok((Datum::Null, rest)),
        Some((&NOT_NULL, rest)) => rest,
        _ => return Err(SqlError::corrupt("a key column without a marker")),
    };
    macro_rules! take {
        ($ty:ty) => {{
            let (head, rest) = rest.split_first_chunk().ok_or_else(short)?;
            (<$ty>::from_be_bytes(*head), rest)
        }};
    }
    Ok(match ty {
        PgType::Bool => match rest.split_first() {
            Some((b @ 0..=1, rest)) => (Datum::Bool(*b == 1), rest),
            _ => return Err(short()),
        },
        PgType::Int2 => {
            let (v, rest) = take!(u16);
            (Datum::Int(i64::from((v ^ 1 << 15) as i16)), rest)
        }
        PgType::Int4 | PgType::Date => {
            let (v, rest) = take!(u32);
            (Datum::Int(i64::from((v ^ 1 << 31) as i32)), rest)
        }
        PgType::Oid => {
            let (v, rest) = take!(u32);
            (Datum::Int(i64::from(v)), rest)
        }
        PgType::Int8 | PgType::Timestamp | PgType::TimestampTz => {
            let (v, rest) = take!(u64);
            (Datum::Int((v ^ 1 << 63) as i64), rest)
        }
        PgType::Float4 => {
            let (v, rest) = take!(u32);
            let bits = if v >> 31 == 1 { v ^ 1 << 31 } else { !v };
            (Datum::Float4(f32::from_bits(bits)), rest)
        }
        PgType::Float8 => {
            let (v, rest) = take!(u64);
            let bits = if v >> 63 == 1 { v ^ 1 << 63 } else { !v };
            (Datum::Float8(f64::from_bits(bits)), rest)
        }
        PgType::Numeric(Some(_)) => {
            let (v, rest) = take!(u128);
            (Datum::Decimal((v ^ 1 << 127) as i128), rest)
        }
        PgType::Numeric(None) => {
            let (value, used) = Numeric::read_key(rest, None)?;
            (Datum::Bytes(Cow::Owned(value.to_bytes())), &rest[used..])
        }
        PgType::Uuid => {
            let (v, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            (Datum::Bytes(Cow::Owned(v.to_vec())), rest)
        }
        PgType::Text | PgType::Varchar(_) | PgType::Name | PgType::Bytea | PgType::Char(_) => {
            let (value, rest) = take_bytes(rest)?;
            (Datum::Bytes(Cow::Owned(checked_string(value, ty)?)), rest)
        }
        PgType::Interval | PgType::Unknown | PgType::Void => {
            return Err(SqlError::corrupt("a key column of a type that cannot be one"));
        }
    })
}

/// Checks that strings are UTF-8 and pads `char(n)`.
fn checked_string(value: Vec<u8>, ty: PgType) -> SqlResult<Vec<u8>> {
    if ty == PgType::Bytea {
        return Ok(value);
    }
    let string = String::from_utf8(value).map_err(|_| SqlError::corrupt("a key is no UTF-8"))?;
    Ok(match ty {
        PgType::Char(Some(n)) => text::pad_char(&string, n).into_bytes(),
        _ => string.into_bytes(),
    })
}

fn take_bytes(bytes: &[u8]) -> SqlResult<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        let zero = rest.iter().position(|b| *b == 0).ok_or_else(short)?;
        out.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(1) => return Ok((out, &rest[zero + 2..])),
            Some(0xFF) => out.push(0),
            _ => return Err(SqlError::corrupt("a key with a bare zero byte")),
        }
        rest = &rest[zero + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::text::{from_text, to_text};
    use proptest::prelude::*;

    fn key(text: &str, ty: PgType) -> Vec<u8> {
        let mut out = Vec::new();
        encode_scalar(&from_text(text, ty).expect("valid"), ty, &mut out).expect("a key");
        out
    }

    #[test]
    fn golden_bytes() {
        let cases = [
            (PgType::Bool, "t", "0101"),
            (PgType::Int2, "-1", "017fff"),
            (PgType::Int4, "1", "0180000001"),
            (PgType::Int8, "-2", "017ffffffffffffffe"),
            (PgType::Float8, "1.5", "01bff8000000000000"),
            (PgType::Float8, "-1.5", "014007ffffffffffff"),
            (PgType::Float4, "0", "0180000000"),
            (PgType::Numeric(Some((5, 2))), "1.50", "0180000000000000000000000000000096"),
            (PgType::Numeric(None), "15.0", "014080021000"),
            (PgType::Numeric(None), "-15", "01207ffdefff"),
            (PgType::Text, "ab", "0161620001"),
            (PgType::Char(Some(4)), "ab", "0161620001"),
            (PgType::Bytea, "\\x0001", "0100ff010001"),
            (PgType::Date, "1970-01-02", "0180000001"),
            (PgType::Timestamp, "1970-01-01 00:00:00", "018000000000000000"),
            (
                PgType::Uuid,
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "01a0eebc999c0b4ef8bb6d6bb9bd380a11",
            ),
        ];
        for (ty, text, bytes) in cases {
            assert_eq!(hex::encode(key(text, ty)), bytes, "{ty} {text}");
        }
        let mut null = Vec::new();
        encode(&Datum::Null, PgType::Int4, &mut null).expect("a key");
        assert_eq!(null, [0xFF]);
    }

    #[test]
    fn keys_order_as_postgres_orders_the_values() {
        let orders: [(PgType, &[&str]); 5] = [
            (PgType::Float8, &["-Infinity", "-1e300", "-1", "0", "1e-300", "1", "Infinity", "NaN"]),
            (PgType::Float4, &["-Infinity", "-1", "0", "2", "NaN"]),
            (
                PgType::Numeric(None),
                &[
                    "-Infinity",
                    "-100",
                    "-99.5",
                    "-1",
                    "-0.001",
                    "0",
                    "0.001",
                    "1",
                    "1.01",
                    "99",
                    "100",
                    "Infinity",
                    "NaN",
                ],
            ),
            (PgType::Text, &["", "a", "a b", "aa", "b"]),
            (PgType::Date, &["-infinity", "1960-01-01", "1970-01-01", "2024-01-01", "infinity"]),
        ];
        for (ty, values) in orders {
            for pair in values.windows(2) {
                assert!(key(pair[0], ty) < key(pair[1], ty), "{ty} {pair:?}");
            }
        }
        assert_eq!(key("-0", PgType::Float8), key("0", PgType::Float8));
        assert_eq!(key("1.50", PgType::Numeric(None)), key("1.5", PgType::Numeric(None)));
        assert_eq!(key("a", PgType::Char(Some(3))), key("a", PgType::Char(Some(9))));
    }

    #[test]
    fn values_survive() {
        let cases = [
            (PgType::Int2, "-5"),
            (PgType::Float4, "-1.5"),
            (PgType::Numeric(Some((9, 3))), "-12.500"),
            (PgType::Numeric(None), "12.5"),
            (PgType::Char(Some(4)), "ab  "),
            (PgType::TimestampTz, "2024-01-01 00:00:00+00"),
            (PgType::Bytea, "\\x00ff00"),
        ];
        for (ty, text) in cases {
            let bytes = key(text, ty);
            let (value, rest) = decode(&bytes, ty).expect("own bytes");
            assert!(rest.is_empty());
            let scalar = value.to_scalar(ty).expect("a value");
            assert_eq!(to_text(&scalar, ty).expect("text").as_deref(), Some(text));
        }
    }

    proptest! {
        #[test]
        fn two_columns_order_as_pairs(a in ".{0,4}", b in any::<i64>(), c in ".{0,4}",
                                      d in any::<i64>()) {
            let pair = |s: &str, i: i64| {
                let mut out = Vec::new();
                encode(&Datum::Bytes(Cow::Borrowed(s.as_bytes())), PgType::Text, &mut out)
                    .expect("a key");
                encode(&Datum::Int(i), PgType::Int8, &mut out).expect("a key");
                out
            };
            let expected = (a.as_bytes(), b).cmp(&(c.as_bytes(), d));
            prop_assert_eq!(pair(&a, b).cmp(&pair(&c, d)), expected);
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            for ty in [PgType::Bool, PgType::Int2, PgType::Float8, PgType::Numeric(None),
                       PgType::Numeric(Some((9, 2))), PgType::Text, PgType::Char(Some(3)),
                       PgType::Uuid, PgType::Interval] {
                let _ = decode(&bytes, ty);
            }
        }
    }
}
