//! Values in the binary form of the wire: what PostgreSQL's send and receive functions do.

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalUnit, TimeUnit, TimestampMicrosecondType, UInt32Type, i256,
};
use datafusion::common::ScalarValue;

use super::datetime::{self, Interval, POSTGRES_EPOCH_DAYS};
use super::numeric::Numeric;
use super::{PgType, cell, text};
use crate::error::{SqlError, SqlResult, SqlState};

const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xC000;
const NUMERIC_INFINITY: u16 = 0xD000;
const NUMERIC_NEGATIVE_INFINITY: u16 = 0xF000;

/// Microseconds from 1970 to 2000.
const EPOCH_MICROS: i64 = POSTGRES_EPOCH_DAYS as i64 * datetime::DAY;

/// The error for bytes that are no UTF-8.
pub fn not_utf8() -> SqlError {
    SqlError::new(
        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        "invalid byte sequence for encoding \"UTF8\"",
    )
}

/// The bytes of a value whose form has one size. Too few are a broken message (`08P01`), too many
/// a wrong value (`22P03`), as PostgreSQL has it.
fn sized<const SIZE: usize>(bytes: &[u8], ty: PgType) -> SqlResult<[u8; SIZE]> {
    bytes.try_into().map_err(|_| if bytes.len() < SIZE { cut_short() } else { wrong(ty) })
}

fn cut_short() -> SqlError {
    SqlError::new(SqlState::PROTOCOL_VIOLATION, "insufficient data left in message")
}

fn wrong(ty: PgType) -> SqlError {
    SqlError::new(
        SqlState::INVALID_BINARY_REPRESENTATION,
        format!("incorrect binary data format for type {}", ty.sql_name()),
    )
}

/// A value from the bytes a client sent.
pub fn from_binary(bytes: &[u8], ty: PgType) -> SqlResult<ScalarValue> {
    macro_rules! number {
        ($ty:ty) => {
            <$ty>::from_be_bytes(sized(bytes, ty)?)
        };
    }
    Ok(match ty {
        PgType::Bool => ScalarValue::Boolean(Some(sized::<1>(bytes, ty)? != [0])),
        PgType::Int2 => ScalarValue::Int16(Some(number!(i16))),
        PgType::Int4 => ScalarValue::Int32(Some(number!(i32))),
        PgType::Int8 => ScalarValue::Int64(Some(number!(i64))),
        PgType::Oid => ScalarValue::UInt32(Some(number!(u32))),
        PgType::Float4 => ScalarValue::Float32(Some(number!(f32))),
        PgType::Float8 => ScalarValue::Float64(Some(number!(f64))),
        PgType::Numeric(None) => {
            ScalarValue::LargeBinary(Some(numeric_from_binary(bytes)?.to_bytes()))
        }
        PgType::Numeric(Some((p, s))) => {
            ScalarValue::Decimal128(Some(numeric_from_binary(bytes)?.to_decimal(p, s)?), p, s)
        }
        PgType::Bytea => ScalarValue::Binary(Some(bytes.to_vec())),
        PgType::Date => ScalarValue::Date32(Some(match number!(i32) {
            extreme @ (i32::MAX | i32::MIN) => extreme,
            days => datetime::check_date(i64::from(days) + i64::from(POSTGRES_EPOCH_DAYS))?,
        })),
        PgType::Timestamp => {
            ScalarValue::TimestampMicrosecond(Some(stamp_from_binary(number!(i64))?), None)
        }
        PgType::TimestampTz => ScalarValue::TimestampMicrosecond(
            Some(stamp_from_binary(number!(i64))?),
            Some("+00:00".into()),
        ),
        PgType::Uuid => ScalarValue::FixedSizeBinary(16, Some(sized::<16>(bytes, ty)?.to_vec())),
        PgType::Interval => {
            let (time, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut_short)?;
            let (days, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
            let value = Interval {
                months: i32::from_be_bytes(sized(rest, ty)?),
                days: i32::from_be_bytes(*days),
                micros: i64::from_be_bytes(*time),
            };
            ScalarValue::IntervalMonthDayNano(Some(cell::interval_to_arrow(value)?))
        }
        PgType::Text | PgType::Varchar(_) | PgType::Char(_) | PgType::Name | PgType::Unknown => {
            let value = std::str::from_utf8(bytes).map_err(|_| not_utf8())?;
            return text::from_text(value, ty);
        }
        PgType::Void => ScalarValue::Null,
    })
}

/// The bytes of a value; `None` for NULL.
pub fn to_binary(value: &ScalarValue, ty: PgType) -> SqlResult<Option<Vec<u8>>> {
    if value.is_null() {
        return Ok(None);
    }
    let array = value.to_array()?;
    let mut out = Vec::new();
    write_binary(&array, 0, ty, &mut out)?;
    Ok(Some(out))
}

fn stamp_from_binary(since_2000: i64) -> SqlResult<i64> {
    match since_2000 {
        extreme @ (i64::MAX | i64::MIN) => Ok(extreme),
        micros => datetime::check_timestamp(
            micros.checked_add(EPOCH_MICROS).ok_or_else(|| datetime::out_of_range("timestamp"))?,
        ),
    }
}

/// Appends one cell in binary.
pub fn write_binary(array: &dyn Array, row: usize, ty: PgType, out: &mut Vec<u8>) -> SqlResult<()> {
    macro_rules! number {
        ($ty:ty) => {
            out.extend_from_slice(&array.as_primitive::<$ty>().value(row).to_be_bytes())
        };
    }
    match array.data_type() {
        DataType::Boolean => out.push(u8::from(array.as_boolean().value(row))),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Decimal128(_, scale) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            numeric_to_binary(Numeric::of_decimal(value, *scale), out)?;
        }
        DataType::LargeBinary => {
            numeric_to_binary(Numeric::from_bytes(array.as_binary::<i64>().value(row))?, out)?;
        }
        DataType::Binary => out.extend_from_slice(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(16) => {
            out.extend_from_slice(array.as_fixed_size_binary().value(row));
        }
        DataType::Date32 => {
            let days = match array.as_primitive::<Date32Type>().value(row) {
                extreme @ (i32::MAX | i32::MIN) => extreme,
                days => days - POSTGRES_EPOCH_DAYS,
            };
            out.extend_from_slice(&days.to_be_bytes());
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = match array.as_primitive::<TimestampMicrosecondType>().value(row) {
                extreme @ (i64::MAX | i64::MIN) => extreme,
                micros => micros.saturating_sub(EPOCH_MICROS),
            };
            out.extend_from_slice(&micros.to_be_bytes());
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = cell::interval_at(array, row);
            out.extend_from_slice(&value.micros.to_be_bytes());
            out.extend_from_slice(&value.days.to_be_bytes());
            out.extend_from_slice(&value.months.to_be_bytes());
        }
        DataType::Utf8 | DataType::LargeUtf8 => cell::write_text(array, row, ty, out)?,
        other => return Err(cell::wrong_array(other, ty)),
    }
    Ok(())
}

/// Groups of four digits, the weight of the first, sign and display scale.
fn numeric_to_binary(value: Numeric, out: &mut Vec<u8>) -> SqlResult<()> {
    let mut special = |sign: u16, scale: u16| {
        for part in [0u16, 0, sign, scale] {
            out.extend_from_slice(&part.to_be_bytes());
        }
    };
    let (mantissa, scale) = match value {
        Numeric::NaN => {
            special(NUMERIC_NAN, 0);
            return Ok(());
        }
        Numeric::Infinity => {
            special(NUMERIC_INFINITY, 0x20);
            return Ok(());
        }
        Numeric::NegativeInfinity => {
            special(NUMERIC_NEGATIVE_INFINITY, 0x20);
            return Ok(());
        }
        Numeric::Finite { mantissa, scale } if mantissa == i256::ZERO => {
            special(0, scale);
            return Ok(());
        }
        Numeric::Finite { mantissa, scale } => (mantissa, scale),
    };
    let mut digits = mantissa.to_string().trim_start_matches('-').as_bytes().to_vec();
    // Fill up on the right so that the point is between groups, then on the left.
    let right = (4 - usize::from(scale) % 4) % 4;
    digits.resize(digits.len() + right, b'0');
    let left = (4 - digits.len() % 4) % 4;
    let mut padded = vec![b'0'; left];
    padded.append(&mut digits);
    let mut groups: Vec<u16> = padded
        .chunks(4)
        .map(|group| group.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0')))
        .collect();
    let after_point = usize::from(scale).div_ceil(4);
    let weight = groups.len() as i32 - after_point as i32 - 1;
    let leading = groups.iter().take_while(|g| **g == 0).count();
    groups.drain(..leading);
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let count = u16::try_from(groups.len()).map_err(|_| SqlError::internal("a long numeric"))?;
    let weight =
        i16::try_from(weight - leading as i32).map_err(|_| SqlError::internal("a long numeric"))?;
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    let sign = if mantissa.is_negative() { NUMERIC_NEGATIVE } else { 0 };
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
    for group in groups {
        out.extend_from_slice(&group.to_be_bytes());
    }
    Ok(())
}

fn numeric_from_binary(bytes: &[u8]) -> SqlResult<Numeric> {
    let invalid = || {
        SqlError::new(
            SqlState::INVALID_BINARY_REPRESENTATION,
            "invalid value in external \"numeric\" value",
        )
    };
    let part = |i: usize| {
        let pair = bytes.get(i * 2..i * 2 + 2).ok_or_else(cut_short)?;
        Ok::<u16, SqlError>(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let count = usize::from(part(0)?);
    let weight = i32::from(part(1)? as i16);
    let sign = part(2)?;
    let scale = part(3)?;
    match sign {
        NUMERIC_NAN => return Ok(Numeric::NaN),
        NUMERIC_INFINITY => return Ok(Numeric::Infinity),
        NUMERIC_NEGATIVE_INFINITY => return Ok(Numeric::NegativeInfinity),
        0 | NUMERIC_NEGATIVE => {}
        _ => return Err(invalid()),
    }
    if bytes.len() > 8 + count * 2 || scale > 1000 {
        return Err(invalid());
    }
    let mut digits = String::with_capacity(count * 4 + 2);
    for i in 0..count {
        let group = part(4 + i)?;
        if group > 9999 {
            return Err(invalid());
        }
        digits.push_str(&format!("{group:04}"));
    }
    let exponent = (weight + 1 - count as i32) * 4;
    let sign = if sign == NUMERIC_NEGATIVE { "-" } else { "" };
    let value = if digits.is_empty() { "0".to_owned() } else { format!("{digits}e{exponent}") };
    // Digits beyond the display scale are cut off, as PostgreSQL does.
    Numeric::parse(&format!("{sign}{value}"))?.trunc(i32::from(scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numeric_bytes(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        numeric_to_binary(Numeric::parse(text).expect("a number"), &mut out).expect("fits");
        out
    }

    #[test]
    fn numerics_have_the_bytes_of_postgres() {
        // As `numeric_send` of PostgreSQL 15 answers.
        let cases = [
            ("0.00", "0000000000000002"),
            ("1.50", "000200000000000200011388"),
            ("-12345.678", "0003000140000003000109291a7c"),
            ("10000", "00010001000000000001"),
            ("0.0001", "0001ffff000000040001"),
            ("NaN", "00000000c0000000"),
        ];
        for (text, bytes) in cases {
            assert_eq!(hex::encode(numeric_bytes(text)), bytes, "{text}");
        }
    }

    #[test]
    fn dates_count_from_2000() {
        let value = from_binary(&0i32.to_be_bytes(), PgType::Date).expect("a date");
        assert_eq!(
            text::to_text(&value, PgType::Date).expect("text").as_deref(),
            Some("2000-01-01")
        );
        assert_eq!(to_binary(&value, PgType::Date).expect("bytes"), Some(vec![0; 4]));
    }

    #[test]
    fn too_few_bytes_are_a_broken_message_and_too_many_a_wrong_value() {
        let types = [PgType::Bool, PgType::Int4, PgType::Date, PgType::Uuid, PgType::Interval];
        for ty in types {
            let state = |bytes: &[u8]| from_binary(bytes, ty).expect_err("no value").sqlstate;
            assert_eq!(state(&[]), SqlState::PROTOCOL_VIOLATION, "{ty:?}");
            assert_eq!(state(&[0; 17]), SqlState::INVALID_BINARY_REPRESENTATION, "{ty:?}");
        }
        let state = |bytes: &[u8]| numeric_from_binary(bytes).expect_err("no value").sqlstate;
        assert_eq!(state(&[0, 1, 0, 0, 0, 0, 0, 0]), SqlState::PROTOCOL_VIOLATION);
        assert_eq!(state(&[0; 9]), SqlState::INVALID_BINARY_REPRESENTATION);
    }

    proptest! {
        #[test]
        fn numerics_survive(mantissa in any::<i128>(), scale in 0u16..30) {
            let value = Numeric::Finite { mantissa: i256::from_i128(mantissa), scale };
            let mut out = Vec::new();
            numeric_to_binary(value, &mut out).expect("fits");
            prop_assert_eq!(numeric_from_binary(&out).expect("own bytes"), value);
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for ty in [PgType::Numeric(None), PgType::Numeric(Some((9, 2))), PgType::Interval,
                       PgType::Date, PgType::Timestamp, PgType::Uuid, PgType::Text] {
                if let Ok(value) = from_binary(&bytes, ty) {
                    prop_assert!(to_binary(&value, ty).is_ok());
                }
            }
        }
    }
}
