//! Values in the text form of the wire: what PostgreSQL's input and output functions do.

use std::str::FromStr;

use datafusion::common::ScalarValue;

use super::datetime::{self, Interval};
use super::numeric::{self, Numeric};
use super::{PgType, cell};
use crate::error::{SqlError, SqlResult, SqlState};

/// A value from text, as the input function of the type reads it. A type modifier is applied as
/// an assignment applies it: a string that is too long is an error.
pub fn from_text(text: &str, ty: PgType) -> SqlResult<ScalarValue> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    Ok(match ty {
        PgType::Bool => ScalarValue::Boolean(Some(parse_bool(text)?)),
        PgType::Int2 => ScalarValue::Int16(Some(parse_int(text, trimmed, ty)?)),
        PgType::Int4 => ScalarValue::Int32(Some(parse_int(text, trimmed, ty)?)),
        PgType::Int8 => ScalarValue::Int64(Some(parse_int(text, trimmed, ty)?)),
        PgType::Oid => ScalarValue::UInt32(Some(parse_int(text, trimmed, ty)?)),
        PgType::Float4 => ScalarValue::Float32(Some(parse_float4(text)?)),
        PgType::Float8 => ScalarValue::Float64(Some(parse_float8(text)?)),
        PgType::Numeric(None) => ScalarValue::LargeBinary(Some(Numeric::parse(text)?.to_bytes())),
        PgType::Numeric(Some((p, s))) => {
            ScalarValue::Decimal128(Some(Numeric::parse(text)?.to_decimal(p, s)?), p, s)
        }
        PgType::Text | PgType::Unknown => ScalarValue::Utf8(Some(no_zero(text)?.to_owned())),
        PgType::Name => ScalarValue::Utf8(Some(text.chars().take(63).collect())),
        PgType::Varchar(limit) => ScalarValue::Utf8(Some(fit_varchar(no_zero(text)?, limit)?)),
        PgType::Char(limit) => ScalarValue::LargeUtf8(Some(fit_char(no_zero(text)?, limit)?)),
        PgType::Bytea => ScalarValue::Binary(Some(parse_bytea(text)?)),
        PgType::Date => ScalarValue::Date32(Some(datetime::parse_date(text)?)),
        PgType::Timestamp => {
            ScalarValue::TimestampMicrosecond(Some(datetime::parse_timestamp(text, false)?), None)
        }
        PgType::TimestampTz => ScalarValue::TimestampMicrosecond(
            Some(datetime::parse_timestamp(text, true)?),
            Some("+00:00".into()),
        ),
        PgType::Uuid => ScalarValue::FixedSizeBinary(16, Some(parse_uuid(text)?.to_vec())),
        PgType::Interval => cell::interval_scalar(datetime::parse_interval(text)?),
        PgType::Void => ScalarValue::Null,
    })
}

/// The text of a value; `None` for NULL.
pub fn to_text(value: &ScalarValue, ty: PgType) -> SqlResult<Option<String>> {
    if value.is_null() {
        return Ok(None);
    }
    let array = value.to_array()?;
    let mut out = Vec::new();
    cell::write_text(&array, 0, ty, &mut out)?;
    String::from_utf8(out).map(Some).map_err(|_| SqlError::corrupt("text that is no UTF-8"))
}

/// The error of an input function.
pub fn invalid(ty: PgType, text: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_TEXT_REPRESENTATION,
        format!("invalid input syntax for type {}: \"{text}\"", ty.sql_name()),
    )
}

fn no_zero(text: &str) -> SqlResult<&str> {
    if text.contains('\0') {
        return Err(SqlError::new(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    Ok(text)
}

/// `t`, `true`, `yes`, `on`, `1` and their beginnings, and the opposites.
pub fn parse_bool(text: &str) -> SqlResult<bool> {
    let word = text.trim().to_ascii_lowercase();
    let begins = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || word == "1" {
        return Ok(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        return Ok(false);
    }
    Err(invalid(PgType::Bool, text))
}

fn parse_int<T: FromStr>(text: &str, trimmed: &str, ty: PgType) -> SqlResult<T> {
    if let Ok(value) = trimmed.parse() {
        return Ok(value);
    }
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(ty, text));
    }
    Err(SqlError::new(
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        format!("value \"{text}\" is out of range for type {}", ty.sql_name()),
    ))
}

/// The special spellings, or `None` for a number.
fn special_float(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "inf" | "+inf" | "infinity" | "+infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn float_body(text: &str, ty: PgType) -> SqlResult<&str> {
    let body = text.trim();
    let plain = body.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if body.is_empty() || !plain { Err(invalid(ty, text)) } else { Ok(body) }
}

fn float_range(text: &str, ty: PgType) -> SqlError {
    SqlError::new(
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        format!("\"{}\" is out of range for type {}", text.trim(), ty.sql_name()),
    )
}

/// Whether a spelling has a digit other than zero before its exponent.
fn is_nonzero(body: &str) -> bool {
    body.split(['e', 'E']).next().is_some_and(|m| m.bytes().any(|b| (b'1'..=b'9').contains(&b)))
}

/// `double precision`
pub fn parse_float8(text: &str) -> SqlResult<f64> {
    if let Some(special) = special_float(text.trim()) {
        return Ok(special);
    }
    let body = float_body(text, PgType::Float8)?;
    let value: f64 = body.parse().map_err(|_| invalid(PgType::Float8, text))?;
    if value.is_infinite() || (value == 0.0 && is_nonzero(body)) {
        return Err(float_range(text, PgType::Float8));
    }
    Ok(value)
}

/// `real`
pub fn parse_float4(text: &str) -> SqlResult<f32> {
    if let Some(special) = special_float(text.trim()) {
        return Ok(special as f32);
    }
    let body = float_body(text, PgType::Float4)?;
    let value: f32 = body.parse().map_err(|_| invalid(PgType::Float4, text))?;
    if value.is_infinite() || (value == 0.0 && is_nonzero(body)) {
        return Err(float_range(text, PgType::Float4));
    }
    Ok(value)
}

/// A string as `varchar(limit)` by assignment: blanks beyond the limit are cut, else `22001`.
pub fn fit_varchar(text: &str, limit: Option<u32>) -> SqlResult<String> {
    let Some(limit) = limit else { return Ok(text.to_owned()) };
    match text.char_indices().nth(limit as usize) {
        None => Ok(text.to_owned()),
        Some((end, _)) if text[end..].bytes().all(|b| b == b' ') => Ok(text[..end].to_owned()),
        Some(_) => Err(too_long("character varying", limit)),
    }
}

/// A string as `char(limit)` by assignment: padded, or cut if only blanks are lost.
pub fn fit_char(text: &str, limit: Option<u32>) -> SqlResult<String> {
    let Some(limit) = limit else { return Ok(text.to_owned()) };
    match text.char_indices().nth(limit as usize) {
        None => Ok(pad_char(text, limit)),
        Some((end, _)) if text[end..].bytes().all(|b| b == b' ') => Ok(text[..end].to_owned()),
        Some(_) => Err(too_long("character", limit)),
    }
}

/// A string padded with blanks to `length` characters.
pub fn pad_char(text: &str, length: u32) -> String {
    let count = text.chars().count();
    let mut out = text.to_owned();
    out.extend(std::iter::repeat_n(' ', (length as usize).saturating_sub(count)));
    out
}

fn too_long(ty: &str, limit: u32) -> SqlError {
    SqlError::new(
        SqlState::STRING_DATA_RIGHT_TRUNCATION,
        format!("value too long for type {ty}({limit})"),
    )
}

/// `\x…`, or text with `\\` and octal escapes.
pub fn parse_bytea(text: &str) -> SqlResult<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        let bad = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
        let digits: String = digits.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Some(c) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(bad(format!("invalid hexadecimal digit: \"{c}\"")));
        }
        return hex::decode(&digits)
            .map_err(|_| bad("invalid hexadecimal data: odd number of digits".into()));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return Ok(out),
            [b'\\', b'\\', tail @ ..] => {
                out.push(b'\\');
                rest = tail;
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = tail;
            }
            [b'\\', ..] => return Err(invalid(PgType::Bytea, text)),
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

/// Hexadecimal digits, with hyphens between groups of four and braces around, or without.
pub fn parse_uuid(text: &str) -> SqlResult<[u8; 16]> {
    let wrong = || invalid(PgType::Uuid, text);
    let body = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(wrong)?,
        None => text,
    };
    let mut digits = String::with_capacity(32);
    for c in body.chars() {
        match c {
            '-' if !digits.is_empty()
                && digits.len().is_multiple_of(4)
                && !digits.ends_with('-') => {}
            c if c.is_ascii_hexdigit() => digits.push(c),
            _ => return Err(wrong()),
        }
    }
    if body.ends_with('-') || body.contains("--") {
        return Err(wrong());
    }
    let bytes = hex::decode(&digits).map_err(|_| wrong())?;
    bytes.try_into().map_err(|_| wrong())
}

/// Writes a float as PostgreSQL does: the shortest digits that read back as the same value.
pub fn write_float8(value: f64, out: &mut Vec<u8>) {
    write_float(value, &format!("{value:e}"), 15, out);
}

/// The same for `real`.
pub fn write_float4(value: f32, out: &mut Vec<u8>) {
    write_float(f64::from(value), &format!("{value:e}"), 6, out);
}

fn write_float(value: f64, scientific: &str, digits_max: i32, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        let text: &[u8] = if value > 0.0 { b"Infinity" } else { b"-Infinity" };
        return out.extend_from_slice(text);
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    if negative {
        out.push(b'-');
    }
    let digits: Vec<u8> = mantissa.bytes().filter(|b| *b != b'.').collect();
    if exponent < -4 || exponent >= digits_max {
        out.extend_from_slice(mantissa.as_bytes());
        let sign = if exponent < 0 { '-' } else { '+' };
        out.extend_from_slice(format!("e{sign}{:02}", exponent.abs()).as_bytes());
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend_from_slice(&digits);
    } else {
        let whole = exponent as usize + 1;
        for i in 0..whole {
            out.push(digits.get(i).copied().unwrap_or(b'0'));
        }
        if digits.len() > whole {
            out.push(b'.');
            out.extend_from_slice(&digits[whole..]);
        }
    }
}

/// Writes bytes as `\x…`.
pub fn write_bytea(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes 16 bytes as a UUID.
pub fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

/// Writes an interval.
pub fn write_interval(value: Interval, out: &mut Vec<u8>) {
    value.write(out);
}

/// Writes a number from the bytes of a `numeric` array.
pub fn write_numeric(bytes: &[u8], out: &mut Vec<u8>) -> SqlResult<()> {
    numeric::Numeric::from_bytes(bytes)?.write(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float8(value: f64) -> String {
        let mut out = Vec::new();
        write_float8(value, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn floats_are_shown_as_postgres_shows_them() {
        let cases = [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e20, "1e+20"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in cases {
            assert_eq!(float8(value), text);
        }
        let mut out = Vec::new();
        write_float4(1_234_567.0, &mut out);
        assert_eq!(out, b"1.234567e+06");
    }

    #[test]
    fn every_type_goes_out_as_it_came_in() {
        let cases = [
            (PgType::Bool, "t"),
            (PgType::Int2, "-32768"),
            (PgType::Int8, "9223372036854775807"),
            (PgType::Float4, "1.5"),
            (PgType::Numeric(None), "1.50"),
            (PgType::Numeric(Some((5, 2))), "-0.50"),
            (PgType::Text, "a'ß\n"),
            (PgType::Char(Some(4)), "ab  "),
            (PgType::Bytea, "\\x00ff"),
            (PgType::Date, "2024-02-29"),
            (PgType::Timestamp, "2024-02-29 01:02:03.5"),
            (PgType::TimestampTz, "2024-02-29 01:02:03.5+00"),
            (PgType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (PgType::Interval, "1 day 02:00:00"),
        ];
        for (ty, text) in cases {
            let value = from_text(text, ty).expect("valid");
            assert_eq!(value.data_type(), ty.arrow(), "{ty}");
            assert_eq!(to_text(&value, ty).expect("valid").as_deref(), Some(text), "{ty}");
        }
    }

    #[test]
    fn what_is_no_value_has_the_sqlstate_of_postgres() {
        let cases = [
            (PgType::Int4, "abc", "22P02"),
            (PgType::Int4, "", "22P02"),
            (PgType::Int4, "2147483648", "22003"),
            (PgType::Bool, "maybe", "22P02"),
            (PgType::Bool, "o", "22P02"),
            (PgType::Float8, "1e999", "22003"),
            (PgType::Float8, "x", "22P02"),
            (PgType::Numeric(Some((3, 1))), "100", "22003"),
            (PgType::Varchar(Some(2)), "abc", "22001"),
            (PgType::Char(Some(2)), "abc", "22001"),
            (PgType::Bytea, "\\x0", "22023"),
            (PgType::Uuid, "a0eebc99", "22P02"),
            (PgType::Date, "x", "22007"),
        ];
        for (ty, text, state) in cases {
            let error = from_text(text, ty).expect_err(text);
            assert_eq!(error.sqlstate.code(), state, "{ty} {text}");
        }
        assert_eq!(fit_varchar("ab  ", Some(3)).expect("blanks"), "ab ");
    }
}
