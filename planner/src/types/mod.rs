//! Types as PostgreSQL has them, and how their values lie in Arrow arrays.
//!
//! | type | Arrow | notes |
//! |---|---|---|
//! | `bool`, `int2`, `int4`, `int8`, `float4`, `float8` | the same | |
//! | `numeric(p,s)`, p ≤ 38 | `Decimal128(p, s)` | every value shows `s` digits |
//! | `numeric` | `LargeBinary` | a value and the digits it shows, see [`numeric`] |
//! | `text`, `varchar`, `varchar(n)`, `name` | `Utf8` | |
//! | `char(n)` | `LargeUtf8` | padded with blanks to `n` characters |
//! | `bytea` | `Binary` | |
//! | `date` | `Date32` | `i32::MIN`/`MAX` are `-infinity`/`infinity` |
//! | `timestamp`, `timestamptz` | `Timestamp(us)`, with `+00:00` | `i64::MIN`/`MAX` likewise |
//! | `uuid` | `FixedSizeBinary(16)` | |
//! | `interval` | `Interval(MonthDayNano)` | whole microseconds |
//! | `oid` | `UInt32` | |
//! | unknown | `Null` | a literal or parameter nothing has given a type yet |
//!
//! Each Arrow type stands for one PostgreSQL type or a family whose members compare alike, so that
//! an expression's type can be told from its Arrow type alone. Which member of the family a column
//! is rides on its field, under [`TYPE_KEY`].

pub mod binary;
pub mod cell;
pub mod datetime;
pub mod numeric;
pub mod text;
pub mod zone;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

use crate::error::{SqlError, SqlResult, SqlState};

pub use cell::{Format, encode_cell, parse_value};
pub use zone::Zone;

/// Metadata key of an Arrow field under which the PostgreSQL type of a column is kept.
pub const TYPE_KEY: &str = "quorate.type";

/// Digits a `numeric(p,s)` may have.
pub const NUMERIC_PRECISION_MAX: u32 = 38;

/// Characters a `varchar(n)` or `char(n)` may have (PostgreSQL's own limit).
pub const CHARACTERS_MAX: u32 = 10_485_760;

/// A PostgreSQL type with its modifier.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum PgType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(p,s)`, or `numeric` without limits
    Numeric(Option<(u8, i8)>),
    /// `text`
    Text,
    /// `varchar(n)`, or `varchar` without limit
    Varchar(Option<u32>),
    /// `char(n)`, or `bpchar` without length
    Char(Option<u32>),
    /// `name`
    Name,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    TimestampTz,
    /// `uuid`
    Uuid,
    /// `interval`
    Interval,
    /// `oid`
    Oid,
    /// Not known yet: a string literal or parameter that nothing gave a type
    Unknown,
    /// `void`: no value
    Void,
}

/// What PostgreSQL calls the types in SQL, for [`PgType::by_name`].
const NAMES: &[(&str, PgType)] = &[
    ("bool", PgType::Bool),
    ("boolean", PgType::Bool),
    ("int2", PgType::Int2),
    ("smallint", PgType::Int2),
    ("int4", PgType::Int4),
    ("int", PgType::Int4),
    ("integer", PgType::Int4),
    ("int8", PgType::Int8),
    ("bigint", PgType::Int8),
    ("float4", PgType::Float4),
    ("real", PgType::Float4),
    ("float8", PgType::Float8),
    ("double precision", PgType::Float8),
    ("numeric", PgType::Numeric(None)),
    ("decimal", PgType::Numeric(None)),
    ("text", PgType::Text),
    ("varchar", PgType::Varchar(None)),
    ("character varying", PgType::Varchar(None)),
    ("char", PgType::Char(Some(1))),
    ("character", PgType::Char(Some(1))),
    ("bpchar", PgType::Char(None)),
    ("name", PgType::Name),
    ("bytea", PgType::Bytea),
    ("date", PgType::Date),
    ("timestamp", PgType::Timestamp),
    ("timestamp without time zone", PgType::Timestamp),
    ("timestamptz", PgType::TimestampTz),
    ("timestamp with time zone", PgType::TimestampTz),
    ("uuid", PgType::Uuid),
    ("interval", PgType::Interval),
    ("oid", PgType::Oid),
    ("unknown", PgType::Unknown),
    ("void", PgType::Void),
];

impl PgType {
    /// The type's oid in `pg_type`.
    pub fn oid(&self) -> u32 {
        match self {
            PgType::Bool => 16,
            PgType::Bytea => 17,
            PgType::Name => 19,
            PgType::Int8 => 20,
            PgType::Int2 => 21,
            PgType::Int4 => 23,
            PgType::Text => 25,
            PgType::Oid => 26,
            PgType::Float4 => 700,
            PgType::Float8 => 701,
            PgType::Unknown => 705,
            PgType::Char(_) => 1042,
            PgType::Varchar(_) => 1043,
            PgType::Date => 1082,
            PgType::Timestamp => 1114,
            PgType::TimestampTz => 1184,
            PgType::Interval => 1186,
            PgType::Numeric(_) => 1700,
            PgType::Void => 2278,
            PgType::Uuid => 2950,
        }
    }

    /// The type of an oid, without modifier; `None` for types Quorate does not have.
    pub fn by_oid(oid: u32) -> Option<PgType> {
        if oid == 1042 {
            return Some(PgType::Char(None));
        }
        NAMES.iter().map(|(_, ty)| *ty).find(|ty| ty.oid() == oid)
    }

    /// The type of a name in lower case, without modifier (`char` is `char(1)`).
    pub fn by_name(name: &str) -> Option<PgType> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, ty)| *ty)
    }

    /// `atttypmod`: the modifier as PostgreSQL packs it, −1 for none.
    pub fn typmod(&self) -> i32 {
        let packed = match self {
            PgType::Numeric(Some((p, s))) => ((u32::from(*p)) << 16 | u32::from(*s as u8)) + 4,
            PgType::Varchar(Some(n)) | PgType::Char(Some(n)) => n + 4,
            _ => return -1,
        };
        i32::try_from(packed).unwrap_or(-1)
    }

    /// `typlen`: bytes of a value in PostgreSQL, −1 for a varying number.
    pub fn typlen(&self) -> i16 {
        match self {
            PgType::Bool => 1,
            PgType::Int2 => 2,
            PgType::Int4 | PgType::Float4 | PgType::Date | PgType::Oid | PgType::Void => 4,
            PgType::Int8 | PgType::Float8 | PgType::Timestamp | PgType::TimestampTz => 8,
            PgType::Uuid | PgType::Interval => 16,
            PgType::Name => 64,
            PgType::Unknown => -2,
            _ => -1,
        }
    }

    /// The name in `pg_type`: `int4`, `bpchar`, ….
    pub fn typname(&self) -> &'static str {
        match self {
            PgType::Bool => "bool",
            PgType::Int2 => "int2",
            PgType::Int4 => "int4",
            PgType::Int8 => "int8",
            PgType::Float4 => "float4",
            PgType::Float8 => "float8",
            PgType::Numeric(_) => "numeric",
            PgType::Text => "text",
            PgType::Varchar(_) => "varchar",
            PgType::Char(_) => "bpchar",
            PgType::Name => "name",
            PgType::Bytea => "bytea",
            PgType::Date => "date",
            PgType::Timestamp => "timestamp",
            PgType::TimestampTz => "timestamptz",
            PgType::Uuid => "uuid",
            PgType::Interval => "interval",
            PgType::Oid => "oid",
            PgType::Unknown => "unknown",
            PgType::Void => "void",
        }
    }

    /// The name without modifier that messages use: `integer`, `character varying`, ….
    pub fn sql_name(&self) -> &'static str {
        match self {
            PgType::Bool => "boolean",
            PgType::Int2 => "smallint",
            PgType::Int4 => "integer",
            PgType::Int8 => "bigint",
            PgType::Float4 => "real",
            PgType::Float8 => "double precision",
            PgType::Varchar(_) => "character varying",
            PgType::Char(_) => "character",
            PgType::Timestamp => "timestamp without time zone",
            PgType::TimestampTz => "timestamp with time zone",
            other => other.typname(),
        }
    }

    /// How values lie in Arrow arrays.
    pub fn arrow(&self) -> DataType {
        match self {
            PgType::Bool => DataType::Boolean,
            PgType::Int2 => DataType::Int16,
            PgType::Int4 => DataType::Int32,
            PgType::Int8 => DataType::Int64,
            PgType::Float4 => DataType::Float32,
            PgType::Float8 => DataType::Float64,
            PgType::Numeric(Some((p, s))) => DataType::Decimal128(*p, *s),
            PgType::Numeric(None) => DataType::LargeBinary,
            PgType::Text | PgType::Varchar(_) | PgType::Name => DataType::Utf8,
            PgType::Char(_) => DataType::LargeUtf8,
            PgType::Bytea => DataType::Binary,
            PgType::Date => DataType::Date32,
            PgType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            PgType::TimestampTz => {
                DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("+00:00")))
            }
            PgType::Uuid => DataType::FixedSizeBinary(16),
            PgType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            PgType::Oid => DataType::UInt32,
            PgType::Unknown | PgType::Void => DataType::Null,
        }
    }

    /// The PostgreSQL type of an expression of an Arrow type; `None` for Arrow types that no
    /// expression of ours has.
    pub fn of_arrow(ty: &DataType) -> Option<PgType> {
        Some(match ty {
            DataType::Boolean => PgType::Bool,
            DataType::Int16 => PgType::Int2,
            DataType::Int32 => PgType::Int4,
            DataType::Int64 => PgType::Int8,
            DataType::Float32 => PgType::Float4,
            DataType::Float64 => PgType::Float8,
            DataType::Decimal128(p, s) => PgType::Numeric(Some((*p, *s))),
            DataType::LargeBinary => PgType::Numeric(None),
            DataType::Utf8 => PgType::Text,
            DataType::LargeUtf8 => PgType::Char(None),
            DataType::Binary => PgType::Bytea,
            DataType::Date32 => PgType::Date,
            DataType::Timestamp(TimeUnit::Microsecond, None) => PgType::Timestamp,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => PgType::TimestampTz,
            DataType::FixedSizeBinary(16) => PgType::Uuid,
            DataType::Interval(IntervalUnit::MonthDayNano) => PgType::Interval,
            DataType::UInt32 => PgType::Oid,
            DataType::Null => PgType::Unknown,
            _ => return None,
        })
    }

    /// The PostgreSQL type of a field: what its metadata says if that agrees with its Arrow type.
    pub fn of_field(field: &Field) -> SqlResult<PgType> {
        if let Some(named) = Self::named_on(field) {
            return Ok(named);
        }
        Self::of_arrow(field.data_type()).ok_or_else(|| {
            SqlError::unsupported(format_args!("a value of type {}", field.data_type()))
        })
    }

    /// What the metadata of a field says.
    fn named_on(field: &Field) -> Option<PgType> {
        let named = Self::parse_display(field.metadata().get(TYPE_KEY)?)?;
        (named.arrow() == *field.data_type()).then_some(named)
    }

    /// The `atttypmod` to tell a client of a result column: that of a plain column, −1 otherwise.
    pub fn typmod_of_field(field: &Field) -> i32 {
        Self::named_on(field).map_or(-1, |ty| ty.typmod())
    }

    /// An Arrow field of this type that remembers it.
    pub fn field(&self, name: impl Into<String>, nullable: bool) -> Field {
        Field::new(name, self.arrow(), nullable).with_metadata(self.metadata())
    }

    /// The metadata that makes a field remember this type.
    pub fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([(TYPE_KEY.to_owned(), self.to_string())])
    }

    /// The type from what [`fmt::Display`] wrote: `numeric(12,2)`, `character varying(16)`, ….
    pub fn parse_display(text: &str) -> Option<PgType> {
        let Some((name, rest)) = text.split_once('(') else {
            return match text {
                "character" => Some(PgType::Char(None)),
                _ => Self::by_name(text),
            };
        };
        let numbers: Vec<i64> =
            rest.strip_suffix(')')?.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        Self::with_modifiers(name, &numbers).ok()?
    }

    /// The type of a name with modifiers in brackets; `Ok(None)` if there is no such type.
    pub fn with_modifiers(name: &str, modifiers: &[i64]) -> SqlResult<Option<PgType>> {
        let Some(ty) = Self::by_name(name) else { return Ok(None) };
        let invalid = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
        Ok(Some(match (ty, modifiers) {
            (ty, []) => ty,
            (PgType::Numeric(_), [p]) => Self::numeric(*p, 0)?,
            (PgType::Numeric(_), [p, s]) => Self::numeric(*p, *s)?,
            (PgType::Varchar(_) | PgType::Char(_), [n]) => {
                let short = ty.typname().trim_start_matches("bp");
                if *n < 1 {
                    return Err(invalid(format!("length for type {short} must be at least 1")));
                }
                if *n > i64::from(CHARACTERS_MAX) {
                    return Err(invalid(format!(
                        "length for type {short} cannot exceed {CHARACTERS_MAX}"
                    )));
                }
                let n = u32::try_from(*n).unwrap_or(CHARACTERS_MAX);
                if matches!(ty, PgType::Char(_)) {
                    PgType::Char(Some(n))
                } else {
                    PgType::Varchar(Some(n))
                }
            }
            (PgType::Timestamp | PgType::TimestampTz | PgType::Interval, [6]) => ty,
            (PgType::Timestamp | PgType::TimestampTz | PgType::Interval, [_]) => {
                return Err(SqlError::unsupported(format_args!(
                    "a precision of {} other than 6",
                    ty.typname()
                )));
            }
            _ => {
                return Err(SqlError::syntax(format!(
                    "type modifier is not allowed for type \"{}\"",
                    ty.typname()
                )));
            }
        }))
    }

    fn numeric(precision: i64, scale: i64) -> SqlResult<PgType> {
        if !(1..=1000).contains(&precision) {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("NUMERIC precision {precision} must be between 1 and 1000"),
            ));
        }
        if !(-1000..=1000).contains(&scale) {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("NUMERIC scale {scale} must be between -1000 and 1000"),
            ));
        }
        if precision > i64::from(NUMERIC_PRECISION_MAX) || scale < 0 || scale > precision {
            return Err(SqlError::unsupported(format_args!(
                "numeric({precision},{scale}): a precision above {NUMERIC_PRECISION_MAX}, \
                 a negative scale or one above the precision"
            )));
        }
        let narrow = |n: i64| u8::try_from(n).unwrap_or(NUMERIC_PRECISION_MAX as u8);
        Ok(PgType::Numeric(Some((narrow(precision), narrow(scale) as i8))))
    }

    /// Whether the type is `text`, `varchar`, `char` or `name`.
    pub fn is_string(&self) -> bool {
        matches!(self, PgType::Text | PgType::Varchar(_) | PgType::Char(_) | PgType::Name)
    }

    /// Whether the type is a number.
    pub fn is_number(&self) -> bool {
        self.is_integer() || matches!(self, PgType::Float4 | PgType::Float8 | PgType::Numeric(_))
    }

    /// Whether the type is `smallint`, `integer` or `bigint`.
    pub fn is_integer(&self) -> bool {
        matches!(self, PgType::Int2 | PgType::Int4 | PgType::Int8)
    }

    /// The type without its modifier.
    #[must_use]
    pub fn without_modifier(&self) -> PgType {
        match self {
            PgType::Numeric(_) => PgType::Numeric(None),
            PgType::Varchar(_) => PgType::Varchar(None),
            PgType::Char(_) => PgType::Char(None),
            other => *other,
        }
    }
}

/// As `format_type` writes it: `numeric(12,2)`, `character varying(16)`, ….
impl fmt::Display for PgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PgType::Char(None) => f.write_str("bpchar"),
            PgType::Numeric(Some((p, s))) => write!(f, "numeric({p},{s})"),
            PgType::Varchar(Some(n)) | PgType::Char(Some(n)) => {
                write!(f, "{}({n})", self.sql_name())
            }
            other => f.write_str(other.sql_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_remembers_its_type() {
        for (_, ty) in NAMES {
            let ty = match ty {
                PgType::Void => continue,
                PgType::Varchar(_) => PgType::Varchar(Some(7)),
                PgType::Numeric(_) => PgType::Numeric(Some((12, 2))),
                other => *other,
            };
            assert_eq!(PgType::of_field(&ty.field("f", true)).expect("a known type"), ty);
        }
    }

    #[test]
    fn modifiers_are_packed_as_postgres_packs_them() {
        assert_eq!(PgType::Numeric(Some((12, 2))).typmod(), 786_438);
        assert_eq!(PgType::Varchar(Some(16)).typmod(), 20);
        assert_eq!(PgType::Int4.typmod(), -1);
        assert_eq!(PgType::by_oid(1042), Some(PgType::Char(None)));
    }

    #[test]
    fn impossible_modifiers_are_refused() {
        let state = |name, modifiers: &[i64]| {
            PgType::with_modifiers(name, modifiers).map_err(|e| e.sqlstate.to_string())
        };
        assert_eq!(state("varchar", &[0]), Err("22023".into()));
        assert_eq!(state("numeric", &[0]), Err("22023".into()));
        assert_eq!(state("numeric", &[50, 2]), Err("0A000".into()));
        assert_eq!(state("int4", &[3]), Err("42601".into()));
        assert_eq!(state("nothing", &[3]), Ok(None));
    }
}
