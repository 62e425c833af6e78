//! Casts: which there are, and what they do.
//!
//! `int → smaller int` is checked; `numeric → int` rounds half away from zero, `float → int` half
//! to even; to `varchar(n)` and `char(n)` an explicit cast cuts, an assignment refuses (`22001`).

use std::borrow::Cow;

use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::datetime::{self, DAY};
use crate::types::numeric::{Numeric, out_of_range};
use crate::types::{PgType, text, zone};

/// How a cast came to be: each allows what the ones before allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Context {
    /// Between an operator and its operand.
    Implicit,
    /// On the way into a column.
    Assignment,
    /// `CAST`
    Explicit,
}

/// The least context in which there is a cast between two types; `None`: there is none.
pub fn allowed(from: PgType, to: PgType) -> Option<Context> {
    use Context::{Assignment, Explicit, Implicit};
    use PgType::{
        Bool, Bytea, Char, Date, Float4, Float8, Int2, Int4, Int8, Interval, Name, Numeric, Oid,
        Text, Timestamp, TimestampTz, Unknown, Varchar,
    };
    if from.without_modifier() == to.without_modifier() || from == Unknown {
        return Some(Implicit);
    }
    Some(match (from, to) {
        (Int2, Int4 | Int8 | Numeric(_) | Float4 | Float8 | Oid) => Implicit,
        (Int4, Int8 | Numeric(_) | Float4 | Float8 | Oid) => Implicit,
        (Int8, Numeric(_) | Float4 | Float8 | Oid) => Implicit,
        (Numeric(_), Float4 | Float8) | (Float4, Float8) => Implicit,
        (Int4, Int2) | (Int8, Int2 | Int4) => Assignment,
        (Numeric(_), Int2 | Int4 | Int8) => Assignment,
        (Float4 | Float8, Int2 | Int4 | Int8 | Numeric(_)) | (Float8, Float4) => Assignment,
        (Oid, Int4 | Int8) => Assignment,
        (Bool, Int4) | (Int4, Bool) => Explicit,
        (Text | Varchar(_) | Name | Char(_), Text | Varchar(_)) => Implicit,
        (Text | Varchar(_), Char(_)) => Implicit,
        (Text | Varchar(_) | Char(_), Name) => Implicit,
        (Name, Char(_)) => Assignment,
        (Date, Timestamp | TimestampTz) | (Timestamp, TimestampTz) => Implicit,
        (Timestamp | TimestampTz, Date) | (TimestampTz, Timestamp) => Assignment,
        // Through the text form: any type to a string by assignment, back only explicitly.
        (_, Text | Varchar(_) | Char(_)) => Assignment,
        (Text | Varchar(_) | Char(_) | Name, _) => Explicit,
        (Int2 | Int4 | Int8, Bytea) => return None,
        (Interval, _) | (_, Interval) => return None,
        _ => return None,
    })
}

/// A value as its number; the types say how to read it.
pub fn number(value: &Datum<'_>, ty: PgType) -> SqlResult<Numeric> {
    Ok(match (value, ty) {
        (Datum::Int(v), _) => Numeric::of_int(*v),
        (Datum::Decimal(v), PgType::Numeric(Some((_, s)))) => Numeric::of_decimal(*v, s),
        (Datum::Bytes(v), PgType::Numeric(None)) => Numeric::from_bytes(v)?,
        (Datum::Float8(v), _) => Numeric::of_f64(*v, 15)?,
        (Datum::Float4(v), _) => Numeric::of_f64(f64::from(*v), 6)?,
        (value, ty) => return Err(SqlError::internal(format!("{value:?} of {ty} is no number"))),
    })
}

/// A number as a value of a `numeric` type.
pub fn of_number(value: Numeric, ty: PgType) -> SqlResult<Datum<'static>> {
    Ok(match ty {
        PgType::Numeric(Some((p, s))) => Datum::Decimal(value.to_decimal(p, s)?),
        _ => Datum::Bytes(Cow::Owned(value.to_bytes())),
    })
}

/// The text of a string value.
pub fn string<'a>(value: &'a Datum<'_>) -> SqlResult<&'a str> {
    match value {
        Datum::Bytes(v) => {
            std::str::from_utf8(v).map_err(|_| SqlError::corrupt("text that is no UTF-8"))
        }
        other => Err(SqlError::internal(format!("{other:?} is no text"))),
    }
}

/// A string as a value.
pub fn of_string(value: impl Into<String>) -> Datum<'static> {
    Datum::Bytes(Cow::Owned(value.into().into_bytes()))
}

/// A value as `double precision`.
pub fn float(value: &Datum<'_>, ty: PgType) -> SqlResult<f64> {
    Ok(match value {
        Datum::Float8(v) => *v,
        Datum::Float4(v) => f64::from(*v),
        Datum::Int(v) => *v as f64,
        other => number(other, ty)?.to_f64(),
    })
}

/// A value as text.
pub fn to_string(value: &Datum<'_>, ty: PgType) -> SqlResult<String> {
    match (value, ty) {
        (Datum::Bool(v), _) => return Ok(if *v { "true" } else { "false" }.into()),
        (Datum::Bytes(_), PgType::Char(_)) => {
            return Ok(string(value)?.trim_end_matches(' ').to_owned());
        }
        (Datum::Bytes(_), ty) if ty.is_string() || ty == PgType::Unknown => {
            return Ok(string(value)?.to_owned());
        }
        _ => {}
    }
    let scalar = value.to_scalar(ty)?;
    text::to_text(&scalar, ty)?.ok_or_else(|| SqlError::internal("NULL has no text"))
}

/// An integer in the range of a type.
pub fn fit_int(value: i64, ty: PgType) -> SqlResult<Datum<'static>> {
    let fits = match ty {
        PgType::Int2 => i16::try_from(value).is_ok(),
        PgType::Int4 => i32::try_from(value).is_ok(),
        PgType::Oid => u32::try_from(value).is_ok(),
        _ => true,
    };
    if fits { Ok(Datum::Int(value)) } else { Err(out_of_range(ty.sql_name())) }
}

/// Converts a value that is not NULL.
pub fn convert(
    value: &Datum<'_>,
    from: PgType,
    to: PgType,
    explicit: bool,
) -> SqlResult<Datum<'static>> {
    use PgType::{Char, Date, Name, Text, Timestamp, TimestampTz, Unknown, Varchar};
    Ok(match (from, to) {
        (_, Text | Name | Unknown) => of_string(to_string(value, from)?),
        (_, Varchar(limit)) => of_string(fit_string(&to_string(value, from)?, limit, explicit)?),
        (_, Char(limit)) => {
            let text = match from {
                Char(_) => string(value)?.to_owned(),
                from => to_string(value, from)?,
            };
            let fitted = fit_char(&text, limit, explicit)?;
            of_string(fitted)
        }
        (Text | Varchar(_) | Name | Char(_) | Unknown, to) => {
            let scalar = text::from_text(string(value)?.trim_end_matches('\0'), to)?;
            owned(Datum::of_scalar(&scalar)?)
        }
        (Date | Timestamp | TimestampTz, _) => to_time(value, from, to)?,
        _ => to_number(value, from, to)?,
    })
}

/// Numbers and booleans to numbers and booleans.
fn to_number(value: &Datum<'_>, from: PgType, to: PgType) -> SqlResult<Datum<'static>> {
    use PgType::{Bool, Float4, Float8, Int2, Int4, Int8, Numeric as Num, Oid};
    Ok(match (from, to) {
        (Bool, Int4) => Datum::Int(i64::from(matches!(value, Datum::Bool(true)))),
        (Int4, Bool) => Datum::Bool(!matches!(value, Datum::Int(0))),
        (Int2 | Int4 | Int8 | Oid, Int2 | Int4 | Int8 | Oid) => match value {
            Datum::Int(v) => fit_int(*v, to)?,
            other => owned(other.clone()),
        },
        (Float4 | Float8, Int2 | Int4 | Int8) => {
            let v = float(value, from)?.round_ties_even();
            let (low, high) = match to {
                Int2 => (f64::from(i16::MIN), 32_768.0),
                Int4 => (f64::from(i32::MIN), 2_147_483_648.0),
                _ => (i64::MIN as f64, 9_223_372_036_854_775_808.0),
            };
            if !(v >= low && v < high) {
                return Err(out_of_range(to.sql_name()));
            }
            Datum::Int(v as i64)
        }
        (Num(_), Int2 | Int4 | Int8) => {
            let v = number(value, from)?.to_i64()?.ok_or_else(|| out_of_range(to.sql_name()))?;
            fit_int(v, to)?
        }
        (_, Float8) => {
            let v = float(value, from)?;
            if v.is_infinite() && matches!(from, Num(_)) && number(value, from)?.to_i64().is_err() {
                return Err(out_of_range(to.sql_name()));
            }
            Datum::Float8(v)
        }
        (_, Float4) => {
            let wide = float(value, from)?;
            let v = wide as f32;
            if v.is_infinite() && wide.is_finite() {
                return Err(SqlError::new(
                    SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                    "value out of range: overflow",
                ));
            }
            if v == 0.0 && wide != 0.0 {
                return Err(SqlError::new(
                    SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                    "value out of range: underflow",
                ));
            }
            Datum::Float4(v)
        }
        (_, Num(_)) => of_number(number(value, from)?, to)?,
        _ => owned(value.clone()),
    })
}

/// Dates and timestamps to each other.
fn to_time(value: &Datum<'_>, from: PgType, to: PgType) -> SqlResult<Datum<'static>> {
    use PgType::{Date, Timestamp, TimestampTz};
    Ok(match (from, to) {
        (Date, Timestamp | TimestampTz) => match value {
            Datum::Int(v) if *v == i64::from(i32::MAX) => Datum::Int(i64::MAX),
            Datum::Int(v) if *v == i64::from(i32::MIN) => Datum::Int(i64::MIN),
            Datum::Int(v) => {
                let micros = v.checked_mul(DAY).ok_or_else(|| {
                    SqlError::new(
                        SqlState::DATETIME_FIELD_OVERFLOW,
                        "date out of range for timestamp",
                    )
                })?;
                let micros = datetime::check_timestamp(micros)?;
                Datum::Int(match to {
                    TimestampTz => zone::current().instant(micros)?,
                    _ => micros,
                })
            }
            other => owned(other.clone()),
        },
        (Timestamp | TimestampTz, Date) => match value {
            Datum::Int(i64::MAX) => Datum::Int(i64::from(i32::MAX)),
            Datum::Int(i64::MIN) => Datum::Int(i64::from(i32::MIN)),
            Datum::Int(v) => {
                let local = if from == TimestampTz { zone::current().local(*v) } else { *v };
                Datum::Int(local.div_euclid(DAY))
            }
            other => owned(other.clone()),
        },
        (Timestamp, TimestampTz) => match value {
            Datum::Int(v) => Datum::Int(zone::current().instant(*v)?),
            other => owned(other.clone()),
        },
        (TimestampTz, Timestamp) => match value {
            Datum::Int(v) => Datum::Int(zone::current().local(*v)),
            other => owned(other.clone()),
        },
        _ => owned(value.clone()),
    })
}

/// The value without a borrow.
pub fn owned(value: Datum<'_>) -> Datum<'static> {
    match value {
        Datum::Bytes(v) => Datum::Bytes(Cow::Owned(v.into_owned())),
        Datum::Null => Datum::Null,
        Datum::Bool(v) => Datum::Bool(v),
        Datum::Int(v) => Datum::Int(v),
        Datum::Float4(v) => Datum::Float4(v),
        Datum::Float8(v) => Datum::Float8(v),
        Datum::Decimal(v) => Datum::Decimal(v),
        Datum::Interval(v) => Datum::Interval(v),
    }
}

fn fit_string(value: &str, limit: Option<u32>, explicit: bool) -> SqlResult<String> {
    match limit {
        Some(n) if explicit => Ok(value.chars().take(n as usize).collect()),
        limit => text::fit_varchar(value, limit),
    }
}

fn fit_char(value: &str, limit: Option<u32>, explicit: bool) -> SqlResult<String> {
    match limit {
        Some(n) if explicit => {
            let cut: String = value.chars().take(n as usize).collect();
            Ok(text::pad_char(&cut, n))
        }
        limit => text::fit_char(value, limit),
    }
}
