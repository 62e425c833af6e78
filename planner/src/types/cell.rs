//! Cells of Arrow arrays to bytes of the wire, without a detour.

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType, UInt32Type,
};
use datafusion::common::ScalarValue;

use super::datetime::Interval;
use super::{PgType, binary, datetime, numeric, text};
use crate::error::{SqlError, SqlResult};

/// The two forms of a value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As an output function writes it.
    Text,
    /// As a send function writes it.
    Binary,
}

/// A value from the bytes of the wire.
pub fn parse_value(bytes: &[u8], ty: PgType, format: Format) -> SqlResult<ScalarValue> {
    match format {
        Format::Binary => binary::from_binary(bytes, ty),
        Format::Text => {
            let text = std::str::from_utf8(bytes).map_err(|_| binary::not_utf8())?;
            text::from_text(text, ty)
        }
    }
}

/// Appends one cell as bytes of the wire. The cell must not be NULL.
pub fn encode_cell(
    array: &dyn Array,
    row: usize,
    ty: PgType,
    format: Format,
    out: &mut Vec<u8>,
) -> SqlResult<()> {
    match format {
        Format::Text => write_text(array, row, ty, out),
        Format::Binary => binary::write_binary(array, row, ty, out),
    }
}

/// Appends one cell as text.
pub fn write_text(array: &dyn Array, row: usize, ty: PgType, out: &mut Vec<u8>) -> SqlResult<()> {
    macro_rules! number {
        ($ty:ty) => {{
            use std::io::Write;
            let value = array.as_primitive::<$ty>().value(row);
            write!(out, "{value}").map_err(|e| SqlError::internal(e.to_string()))?;
        }};
    }
    match array.data_type() {
        DataType::Boolean => out.push(if array.as_boolean().value(row) { b't' } else { b'f' }),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::Float32 => {
            text::write_float4(array.as_primitive::<Float32Type>().value(row), out);
        }
        DataType::Float64 => {
            text::write_float8(array.as_primitive::<Float64Type>().value(row), out);
        }
        DataType::Decimal128(_, scale) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            numeric::write_decimal(value, *scale, out);
        }
        DataType::LargeBinary => text::write_numeric(array.as_binary::<i64>().value(row), out)?,
        DataType::Utf8 => {
            out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes());
        }
        DataType::LargeUtf8 => {
            out.extend_from_slice(array.as_string::<i64>().value(row).as_bytes());
        }
        DataType::Binary => text::write_bytea(array.as_binary::<i32>().value(row), out),
        DataType::FixedSizeBinary(16) => {
            text::write_uuid(array.as_fixed_size_binary().value(row), out);
        }
        DataType::Date32 => {
            datetime::write_date(array.as_primitive::<Date32Type>().value(row), out);
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let offset = zone.is_some().then(|| super::zone::current().offset_at(micros));
            datetime::write_timestamp(micros, offset, out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => interval_at(array, row).write(out),
        other => return Err(wrong_array(other, ty)),
    }
    Ok(())
}

/// The error for an array that no type of ours has.
pub fn wrong_array(array: &DataType, ty: PgType) -> SqlError {
    SqlError::unsupported(format_args!("a column of {array} as {ty}"))
}

/// An interval of an array.
pub fn interval_at(array: &dyn Array, row: usize) -> Interval {
    let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
    Interval { months: value.months, days: value.days, micros: value.nanoseconds / 1000 }
}

/// An interval as Arrow keeps it; `22008` beyond 292 years of microseconds.
pub fn interval_to_arrow(value: Interval) -> SqlResult<IntervalMonthDayNano> {
    let nanos = value.micros.checked_mul(1000).ok_or_else(|| datetime::out_of_range("interval"))?;
    Ok(IntervalMonthDayNano::new(value.months, value.days, nanos))
}

/// An interval as a scalar.
pub fn interval_scalar(value: Interval) -> ScalarValue {
    ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(
        value.months,
        value.days,
        value.micros.saturating_mul(1000),
    )))
}
