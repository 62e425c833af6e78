//! The table: which functions and operators there are, on which types, and what computes them.
//!
//! Whatever is neither here nor among DataFusion's own that are equal as they are
//! ([`EQUAL_AGGREGATES`], [`EQUAL_WINDOWS`], comparisons, `AND`, `OR`, `NOT`, `LIKE`, regular
//! expression matches, `CASE`) is refused: `42883` if there is no such function at all, `0A000` if
//! DataFusion has one whose meaning nobody compared with PostgreSQL's.

use super::function::Evaluator;
use super::{format, math, ops, strings, time};
use crate::error::{SqlError, SqlResult};
use crate::types::PgType;

/// A type in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum T {
    /// `boolean`
    Bool,
    /// `smallint`
    I2,
    /// `integer`
    I4,
    /// `bigint`
    I8,
    /// `real`
    F4,
    /// `double precision`
    F8,
    /// `numeric`
    Num,
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `timestamp`
    Ts,
    /// `timestamptz`
    Tz,
    /// `interval`
    Iv,
    /// `uuid`
    Uuid,
    /// `oid`
    Oid,
}

impl T {
    /// The type without modifier.
    pub fn pg(self) -> PgType {
        match self {
            T::Bool => PgType::Bool,
            T::I2 => PgType::Int2,
            T::I4 => PgType::Int4,
            T::I8 => PgType::Int8,
            T::F4 => PgType::Float4,
            T::F8 => PgType::Float8,
            T::Num => PgType::Numeric(None),
            T::Text => PgType::Text,
            T::Bytea => PgType::Bytea,
            T::Date => PgType::Date,
            T::Ts => PgType::Timestamp,
            T::Tz => PgType::TimestampTz,
            T::Iv => PgType::Interval,
            T::Uuid => PgType::Uuid,
            T::Oid => PgType::Oid,
        }
    }
}

/// One way to call a function.
#[derive(Debug)]
pub struct Overload {
    /// Its name.
    pub name: &'static str,
    /// Types of its arguments.
    pub args: &'static [T],
    /// Type of its result.
    pub ret: T,
}

macro_rules! overloads {
    ($($name:literal ($($arg:ident),*) -> $ret:ident;)*) => {
        /// All functions whose types do not follow a rule of their own.
        pub const OVERLOADS: &[Overload] = &[
            $(Overload { name: $name, args: &[$(T::$arg),*], ret: T::$ret },)*
        ];
    };
}

overloads! {
    "pg_pow"(F8, F8) -> F8; "pg_like_escape"(Text, Text) -> Text;
    "pg_bitand"(I2, I2) -> I2; "pg_bitand"(I4, I4) -> I4; "pg_bitand"(I8, I8) -> I8;
    "pg_bitor"(I2, I2) -> I2; "pg_bitor"(I4, I4) -> I4; "pg_bitor"(I8, I8) -> I8;
    "pg_bitxor"(I2, I2) -> I2; "pg_bitxor"(I4, I4) -> I4; "pg_bitxor"(I8, I8) -> I8;
    "pg_shl"(I2, I4) -> I2; "pg_shl"(I4, I4) -> I4; "pg_shl"(I8, I4) -> I8;
    "pg_shr"(I2, I4) -> I2; "pg_shr"(I4, I4) -> I4; "pg_shr"(I8, I4) -> I8;
    "length"(Text) -> I4; "length"(Bytea) -> I4;
    "char_length"(Text) -> I4; "character_length"(Text) -> I4;
    "octet_length"(Text) -> I4; "octet_length"(Bytea) -> I4;
    "bit_length"(Text) -> I4; "bit_length"(Bytea) -> I4;
    "upper"(Text) -> Text; "lower"(Text) -> Text; "initcap"(Text) -> Text;
    "substring"(Text, I4) -> Text; "substring"(Text, I4, I4) -> Text;
    "substr"(Text, I4) -> Text; "substr"(Text, I4, I4) -> Text;
    "substring"(Bytea, I4) -> Bytea; "substring"(Bytea, I4, I4) -> Bytea;
    "strpos"(Text, Text) -> I4;
    "btrim"(Text) -> Text; "btrim"(Text, Text) -> Text;
    "trim"(Text) -> Text; "trim"(Text, Text) -> Text;
    "ltrim"(Text) -> Text; "ltrim"(Text, Text) -> Text;
    "rtrim"(Text) -> Text; "rtrim"(Text, Text) -> Text;
    "replace"(Text, Text, Text) -> Text; "translate"(Text, Text, Text) -> Text;
    "left"(Text, I4) -> Text; "right"(Text, I4) -> Text;
    "lpad"(Text, I4) -> Text; "lpad"(Text, I4, Text) -> Text;
    "rpad"(Text, I4) -> Text; "rpad"(Text, I4, Text) -> Text;
    "reverse"(Text) -> Text; "repeat"(Text, I4) -> Text;
    "split_part"(Text, Text, I4) -> Text;
    "ascii"(Text) -> I4; "chr"(I4) -> Text; "md5"(Text) -> Text; "md5"(Bytea) -> Text;
    "to_hex"(I4) -> Text; "to_hex"(I8) -> Text; "starts_with"(Text, Text) -> Bool;
    "quote_literal"(Text) -> Text; "quote_ident"(Text) -> Text;
    "overlay"(Text, Text, I4) -> Text; "overlay"(Text, Text, I4, I4) -> Text;
    "encode"(Bytea, Text) -> Text; "decode"(Text, Text) -> Bytea;
    "ceil"(F8) -> F8; "ceil"(Num) -> Num; "ceiling"(F8) -> F8; "ceiling"(Num) -> Num;
    "floor"(F8) -> F8; "floor"(Num) -> Num;
    "round"(F8) -> F8; "round"(Num) -> Num; "round"(Num, I4) -> Num;
    "trunc"(F8) -> F8; "trunc"(Num) -> Num; "trunc"(Num, I4) -> Num;
    "sign"(F8) -> F8; "sign"(Num) -> Num;
    "sqrt"(F8) -> F8; "sqrt"(Num) -> Num; "cbrt"(F8) -> F8;
    "exp"(F8) -> F8; "ln"(F8) -> F8; "log"(F8) -> F8; "log10"(F8) -> F8;
    "power"(F8, F8) -> F8; "pow"(F8, F8) -> F8;
    "mod"(I2, I2) -> I2; "mod"(I4, I4) -> I4; "mod"(I8, I8) -> I8; "mod"(Num, Num) -> Num;
    "div"(Num, Num) -> Num; "pi"() -> F8;
    "gcd"(I4, I4) -> I4; "gcd"(I8, I8) -> I8; "lcm"(I4, I4) -> I4; "lcm"(I8, I8) -> I8;
    "sin"(F8) -> F8; "cos"(F8) -> F8; "tan"(F8) -> F8; "cot"(F8) -> F8;
    "asin"(F8) -> F8; "acos"(F8) -> F8; "atan"(F8) -> F8; "atan2"(F8, F8) -> F8;
    "sinh"(F8) -> F8; "cosh"(F8) -> F8; "tanh"(F8) -> F8;
    "degrees"(F8) -> F8; "radians"(F8) -> F8;
    "random"() -> F8; "gen_random_uuid"() -> Uuid;
    "date_trunc"(Text, Ts) -> Ts; "date_trunc"(Text, Tz) -> Tz; "date_trunc"(Text, Iv) -> Iv;
    "make_date"(I4, I4, I4) -> Date; "to_timestamp"(F8) -> Tz;
    "make_timestamp"(I4, I4, I4, I4, I4, F8) -> Ts;
    "to_timestamp"(Text, Text) -> Tz; "to_date"(Text, Text) -> Date;
    "to_char"(Tz, Text) -> Text; "to_char"(Ts, Text) -> Text; "to_char"(I4, Text) -> Text;
    "to_char"(I8, Text) -> Text; "to_char"(Num, Text) -> Text; "to_char"(F4, Text) -> Text;
    "to_char"(F8, Text) -> Text;
    "timezone"(Text, Tz) -> Ts; "timezone"(Text, Ts) -> Tz;
    "timezone"(Iv, Tz) -> Ts; "timezone"(Iv, Ts) -> Tz;
    "age"(Tz, Tz) -> Iv; "age"(Ts, Ts) -> Iv;
    "justify_days"(Iv) -> Iv; "justify_hours"(Iv) -> Iv; "justify_interval"(Iv) -> Iv;
    "pg_bitnot"(I2) -> I2; "pg_bitnot"(I4) -> I4; "pg_bitnot"(I8) -> I8;
    "format_type"(Oid, I4) -> Text;
    "pg_get_expr"(Text, Oid) -> Text; "pg_get_expr"(Text, Oid, Bool) -> Text;
    "array_to_string"(Text, Text) -> Text;
    "pg_similar"(Text, Text) -> Text; "pg_replacement"(Text) -> Text;
    "isfinite"(Date) -> Bool; "isfinite"(Ts) -> Bool; "isfinite"(Tz) -> Bool;
}

/// Operators and functions whose types follow a rule, see [`super::resolve`].
const BY_RULE: &[&str] = &[
    "pg_cast",
    "pg_assign",
    "pg_eq",
    "pg_ne",
    "pg_lt",
    "pg_le",
    "pg_gt",
    "pg_ge",
    "pg_add",
    "pg_sub",
    "pg_mul",
    "pg_div",
    "pg_mod",
    "pg_neg",
    "pg_concat",
    "pg_pad",
    "pg_key",
    "abs",
    "coalesce",
    "greatest",
    "least",
    "nullif",
    "extract",
    "date_part",
    "concat",
    "concat_ws",
    "format",
    "pg_typeof",
    "pg_raw",
];

/// DataFusion's aggregates whose meaning is PostgreSQL's on the types the pass gives them.
pub const EQUAL_AGGREGATES: &[&str] =
    &["count", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor", "grouping"];

/// DataFusion's window functions whose meaning is PostgreSQL's; counts come as unsigned numbers
/// and are brought to `bigint`.
pub const EQUAL_WINDOWS: &[&str] = &[
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
];

/// Functions that become placeholders or constants before the pass, and parameters.
pub const OUTSIDE: &[&str] = &[
    "quorate_parameter",
    "version",
    "current_schema",
    "pg_is_in_recovery",
    "pg_table_is_visible",
    "pg_type_is_visible",
    "has_schema_privilege",
    "has_table_privilege",
    "has_database_privilege",
    "obj_description",
    "col_description",
    "shobj_description",
    "pg_encoding_to_char",
    "pg_get_userbyid",
    "pg_relation_is_publishable",
    "pg_function_is_visible",
    "pg_get_function_result",
    "pg_get_function_arguments",
    "pg_get_statisticsobjdef_columns",
    "now",
    "current_timestamp",
    "transaction_timestamp",
    "statement_timestamp",
    "clock_timestamp",
    "current_date",
    "localtimestamp",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_database",
    "current_catalog",
    "pg_backend_pid",
];

/// Names of all functions of ours.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> =
        OVERLOADS.iter().map(|o| o.name).chain(BY_RULE.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Our own name of a function, if it is one of ours.
pub fn known(name: &str) -> Option<&'static str> {
    OVERLOADS.iter().map(|o| o.name).chain(BY_RULE.iter().copied()).find(|known| *known == name)
}

/// The ways to call a function.
pub fn overloads(name: &str) -> impl Iterator<Item = &'static Overload> + use<'_> {
    OVERLOADS.iter().filter(move |o| o.name == name)
}

/// The operator a function stands for, as messages name it; empty for functions.
pub fn operator_symbol(name: &str) -> &'static str {
    match name {
        "pg_add" => "+",
        "pg_sub" | "pg_neg" => "-",
        "pg_mul" => "*",
        "pg_div" => "/",
        "pg_mod" => "%",
        "pg_pow" => "^",
        "pg_concat" => "||",
        "pg_eq" => "=",
        "pg_ne" => "<>",
        "pg_lt" => "<",
        "pg_le" => "<=",
        "pg_gt" => ">",
        "pg_ge" => ">=",
        "pg_bitand" => "&",
        "pg_bitor" => "|",
        "pg_bitxor" => "#",
        "pg_shl" => "<<",
        "pg_shr" => ">>",
        "pg_bitnot" => "~",
        _ => "",
    }
}

/// Whether each call gives another value.
pub fn is_volatile(name: &str) -> bool {
    matches!(name, "random" | "gen_random_uuid")
}

/// Whether a NULL argument makes the result NULL without a look at the others.
pub fn is_strict(name: &str) -> bool {
    !matches!(
        name,
        "greatest" | "least" | "concat" | "concat_ws" | "format" | "format_type" | "pg_typeof"
    )
}

/// What computes a function.
pub fn evaluator(name: &str) -> SqlResult<Evaluator> {
    ops::evaluator(name)
        .or_else(|| strings::evaluator(name))
        .or_else(|| math::evaluator(name))
        .or_else(|| time::evaluator(name))
        .or_else(|| format::evaluator(name))
        .ok_or_else(|| SqlError::internal(format!("{name} has no evaluator")))
}
