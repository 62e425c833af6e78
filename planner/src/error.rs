//! What a client is told when a statement fails: [`SqlError`] with its SQLSTATE.
//!
//! Errors travel through DataFusion and Arrow as external errors and come out whole.

use std::fmt;
use std::ops::{Deref, DerefMut};

use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;

/// A result whose error is told to the client.
pub type SqlResult<T> = Result<T, SqlError>;

/// The five characters that sort an error; see the appendix "PostgreSQL Error Codes".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl SqlState {
            $(#[doc = concat!("`", $code, "`: ", $doc)] pub const $name: Self = Self::of($code);)*
        }
    };
}

states! {
    SUCCESSFUL_COMPLETION = "00000", "no error";
    WARNING = "01000", "warning";
    CONNECTION_FAILURE = "08006", "the connection broke";
    PROTOCOL_VIOLATION = "08P01", "a message the protocol does not allow here";
    FEATURE_NOT_SUPPORTED = "0A000", "valid SQL that Quorate refuses";
    CARDINALITY_VIOLATION = "21000", "more than one row from a subquery used as a value";
    STRING_DATA_RIGHT_TRUNCATION = "22001", "a string too long for its column";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003", "a number outside its type's range";
    NULL_VALUE_NOT_ALLOWED = "22004", "NULL where none may be";
    INVALID_DATETIME_FORMAT = "22007", "not a date or time";
    DATETIME_FIELD_OVERFLOW = "22008", "a date or time out of range";
    INVALID_TIME_ZONE_DISPLACEMENT = "22009", "an offset from UTC out of range";
    SUBSTRING_ERROR = "22011", "negative substring length";
    DIVISION_BY_ZERO = "22012", "division by zero";
    INTERVAL_FIELD_OVERFLOW = "22015", "an interval out of range";
    INVALID_ARGUMENT_FOR_LOGARITHM = "2201E", "logarithm of zero or less";
    INVALID_ARGUMENT_FOR_POWER = "2201F", "a power that is not real";
    INVALID_ROW_COUNT_IN_LIMIT = "2201W", "a negative LIMIT";
    INVALID_ROW_COUNT_IN_OFFSET = "2201X", "a negative OFFSET";
    CHARACTER_NOT_IN_REPERTOIRE = "22021", "bytes that are no UTF-8, or a zero character";
    INVALID_PARAMETER_VALUE = "22023", "an argument outside what is allowed";
    INVALID_ESCAPE_SEQUENCE = "22025", "a LIKE pattern that ends in its escape character";
    INVALID_REGULAR_EXPRESSION = "2201B", "not a regular expression";
    INVALID_TEXT_REPRESENTATION = "22P02", "text that is no value of the type";
    INVALID_BINARY_REPRESENTATION = "22P03", "bytes that are no value of the type";
    NOT_NULL_VIOLATION = "23502", "NULL in a NOT NULL column";
    FOREIGN_KEY_VIOLATION = "23503", "a reference to a row that is not there";
    UNIQUE_VIOLATION = "23505", "a key that is there already";
    CHECK_VIOLATION = "23514", "a row that a CHECK refuses";
    INVALID_CURSOR_STATE = "24000", "a cursor in the wrong state";
    ACTIVE_SQL_TRANSACTION = "25001", "a transaction is open";
    READ_ONLY_SQL_TRANSACTION = "25006", "a write in a read-only transaction";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03", "a block was idle for too long";
    IDLE_SESSION_TIMEOUT = "57P05", "a session was idle for too long";
    INVALID_SAVEPOINT = "3B001", "no such savepoint";
    NO_ACTIVE_SQL_TRANSACTION = "25P01", "no transaction is open";
    IN_FAILED_SQL_TRANSACTION = "25P02", "the transaction failed before";
    INVALID_SQL_STATEMENT_NAME = "26000", "no prepared statement of that name";
    INVALID_AUTHORIZATION = "28000", "not allowed in";
    INVALID_PASSWORD = "28P01", "wrong password";
    INVALID_CURSOR_NAME = "34000", "no portal of that name";
    INVALID_CATALOG_NAME = "3D000", "no database of that name";
    INVALID_SCHEMA_NAME = "3F000", "no schema of that name";
    SERIALIZATION_FAILURE = "40001", "run the transaction again";
    STATEMENT_COMPLETION_UNKNOWN = "40003", "whether it was committed is not known";
    DEADLOCK_DETECTED = "40P01", "deadlock";
    SYNTAX_ERROR_OR_ACCESS_RULE = "42000", "syntax error or access rule violation";
    SYNTAX_ERROR = "42601", "not SQL";
    INSUFFICIENT_PRIVILEGE = "42501", "not allowed";
    CANNOT_COERCE = "42846", "no cast between the types";
    GROUPING_ERROR = "42803", "a column outside GROUP BY and aggregates";
    WINDOWING_ERROR = "42P20", "a window function where none may be";
    INVALID_RECURSION = "42P19", "a recursion that is not allowed";
    WRONG_OBJECT_TYPE = "42809", "an object of another kind";
    DATATYPE_MISMATCH = "42804", "types that do not agree";
    INDETERMINATE_DATATYPE = "42P18", "a type that cannot be told";
    UNDEFINED_COLUMN = "42703", "no such column";
    UNDEFINED_FUNCTION = "42883", "no such function or operator";
    UNDEFINED_TABLE = "42P01", "no such table";
    UNDEFINED_PARAMETER = "42P02", "no such parameter";
    UNDEFINED_OBJECT = "42704", "no such object";
    DUPLICATE_COLUMN = "42701", "a column twice";
    DUPLICATE_CURSOR = "42P03", "a portal of that name exists";
    DUPLICATE_DATABASE = "42P04", "a database of that name exists";
    DUPLICATE_PREPARED_STATEMENT = "42P05", "a prepared statement of that name exists";
    DUPLICATE_SCHEMA = "42P06", "a schema of that name exists";
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01", "something needs the object";
    DUPLICATE_TABLE = "42P07", "a relation of that name exists";
    DUPLICATE_ALIAS = "42712", "a table name twice in FROM";
    DUPLICATE_OBJECT = "42710", "an object of that name exists";
    AMBIGUOUS_COLUMN = "42702", "a name that fits several columns";
    AMBIGUOUS_FUNCTION = "42725", "a call that fits several functions";
    INVALID_COLUMN_REFERENCE = "42P10", "a reference to no column";
    INVALID_TABLE_DEFINITION = "42P16", "a table that cannot be";
    INVALID_NAME = "42602", "not a name";
    OUT_OF_MEMORY = "53200", "out of memory";
    DISK_FULL = "53100", "the disk is full";
    TOO_MANY_CONNECTIONS = "53300", "too many connections";
    STATEMENT_TOO_COMPLEX = "54001", "a statement nested too deeply";
    TOO_MANY_COLUMNS = "54011", "too many columns";
    PROGRAM_LIMIT_EXCEEDED = "54000", "a limit of the program";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000", "an object in the wrong state";
    OBJECT_IN_USE = "55006", "an object in use";
    CANT_CHANGE_RUNTIME_PARAM = "55P02", "a parameter that cannot be changed now";
    LOCK_NOT_AVAILABLE = "55P03", "a lock somebody else holds";
    QUERY_CANCELED = "57014", "cancelled by the user";
    ADMIN_SHUTDOWN = "57P01", "the node stops";
    CANNOT_CONNECT_NOW = "57P03", "the node starts or stops";
    IO_ERROR = "58030", "input or output failed";
    INTERNAL_ERROR = "XX000", "a bug";
    DATA_CORRUPTED = "XX001", "bytes that are no row";
}

impl SqlState {
    const fn of(code: &str) -> Self {
        let bytes = code.as_bytes();
        assert!(bytes.len() == 5, "a SQLSTATE has five characters");
        Self([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]])
    }

    /// A SQLSTATE that came from elsewhere; `None` unless it is five digits or capital letters.
    pub fn parse(code: &str) -> Option<Self> {
        let bytes: [u8; 5] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(bytes))
    }

    /// The five characters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only made of ASCII characters")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The fields of an error, as the wire protocol names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// What kind of error.
    pub sqlstate: SqlState,
    /// One line, as PostgreSQL words it where it has the same error.
    pub message: String,
    /// More about this case.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the statement: a character, counted from 1.
    pub position: Option<usize>,
    /// Schema of the table.
    pub schema: Option<String>,
    /// Table at fault.
    pub table: Option<String>,
    /// Column at fault.
    pub column: Option<String>,
    /// Type at fault.
    pub data_type: Option<String>,
    /// Constraint that was violated.
    pub constraint: Option<String>,
}

/// An error that is told to the client. Its [`ErrorFields`] are reached as its own fields.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlError(Box<ErrorFields>);

impl SqlError {
    /// An error with a message and nothing more.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorFields {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            schema: None,
            table: None,
            column: None,
            data_type: None,
            constraint: None,
        }))
    }

    /// `0A000`: valid SQL that is refused.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
    }

    /// `XX000`: something that should not have happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(SqlState::INTERNAL_ERROR, message)
    }

    /// `XX001`: stored bytes that are not what they should be.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(SqlState::DATA_CORRUPTED, message)
    }

    /// `42601`
    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(SqlState::SYNTAX_ERROR, message)
    }

    /// With a DETAIL.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a HINT.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a POSITION: a character of the statement, counted from 1.
    #[must_use]
    pub fn at(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    /// With the table at fault (in schema `public`).
    #[must_use]
    pub fn on_table(mut self, table: impl Into<String>) -> Self {
        self.schema = Some(String::from("public"));
        self.table = Some(table.into());
        self
    }

    /// With the column at fault.
    #[must_use]
    pub fn on_column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }

    /// With the constraint that was violated.
    #[must_use]
    pub fn on_constraint(mut self, constraint: impl Into<String>) -> Self {
        self.constraint = Some(constraint.into());
        self
    }

    /// The same error, out of a chain of DataFusion and Arrow errors.
    fn carried_by<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SqlError> {
        let mut next: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<SqlError>() {
                return Some(found);
            }
            let inner = match error.downcast_ref::<DataFusionError>() {
                Some(DataFusionError::External(inner)) => Some(inner.as_ref() as _),
                Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref() as _),
                Some(
                    DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner),
                ) => Some(inner.as_ref() as _),
                Some(DataFusionError::Shared(inner)) => Some(inner.as_ref() as _),
                Some(DataFusionError::Collection(all)) => all.first().map(|e| e as _),
                _ => None,
            };
            next = match (inner, error.downcast_ref::<ArrowError>()) {
                (Some(inner), _) => Some(inner),
                (None, Some(ArrowError::ExternalError(inner))) => Some(inner.as_ref() as _),
                _ => error.source(),
            };
        }
        None
    }
}

impl Deref for SqlError {
    type Target = ErrorFields;

    fn deref(&self) -> &ErrorFields {
        &self.0
    }
}

impl DerefMut for SqlError {
    fn deref_mut(&mut self) -> &mut ErrorFields {
        &mut self.0
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sqlstate, self.message)
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(detail) = &self.detail {
            write!(f, " DETAIL {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<SqlError> for ArrowError {
    fn from(error: SqlError) -> Self {
        ArrowError::ExternalError(Box::new(error))
    }
}

impl From<ArrowError> for SqlError {
    fn from(error: ArrowError) -> Self {
        if let Some(carried) = SqlError::carried_by(&error) {
            return carried.clone();
        }
        match error {
            ArrowError::DivideByZero => {
                SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
            }
            ArrowError::ArithmeticOverflow(message) => {
                SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message)
            }
            other => regular_expression_or_internal(other.to_string()),
        }
    }
}

/// Regular expressions are compiled inside Arrow, which tells of a bad one only in words.
fn regular_expression_or_internal(message: String) -> SqlError {
    if message.to_lowercase().contains("regex") {
        let what = "invalid regular expression";
        return SqlError::new(SqlState::INVALID_REGULAR_EXPRESSION, what).with_detail(message);
    }
    SqlError::internal(message)
}

impl From<ParserError> for SqlError {
    fn from(error: ParserError) -> Self {
        match error {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                SqlError::syntax(format!("syntax error: {message}"))
            }
            ParserError::RecursionLimitExceeded => {
                SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "the statement is nested too deeply")
            }
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        if let Some(carried) = SqlError::carried_by(&error) {
            return carried.clone();
        }
        match error.find_root() {
            DataFusionError::SQL(inner, _) => (**inner).clone().into(),
            DataFusionError::SchemaError(inner, _) => schema_error(inner),
            DataFusionError::NotImplemented(m) if m.starts_with("LATERAL syntax is not") => {
                let message = "the combining JOIN type must be INNER or LEFT for a LATERAL \
                               reference";
                SqlError::new(SqlState::INVALID_COLUMN_REFERENCE, message)
            }
            DataFusionError::NotImplemented(m) if m.starts_with(UNKNOWN_OPERATOR) => {
                unknown_operator(m)
            }
            DataFusionError::NotImplemented(message) => {
                SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message.clone())
            }
            DataFusionError::Plan(message) => plan_error(message),
            DataFusionError::ResourcesExhausted(message) => {
                SqlError::new(SqlState::OUT_OF_MEMORY, message.clone())
            }
            DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
                ArrowError::DivideByZero => {
                    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
                }
                ArrowError::ArithmeticOverflow(message) => {
                    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message.clone())
                }
                other => regular_expression_or_internal(other.to_string()),
            },
            DataFusionError::Execution(message) if message.contains("more than one row") => {
                SqlError::new(
                    SqlState::CARDINALITY_VIOLATION,
                    "more than one row returned by a subquery used as an expression",
                )
            }
            other => regular_expression_or_internal(other.strip_backtrace()),
        }
    }
}

fn schema_error(error: &SchemaError) -> SqlError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields }
            if field.relation.as_ref().is_some_and(|table| {
                !valid_fields.iter().any(|c| c.relation.as_ref() == Some(table))
            }) =>
        {
            let table = field.relation.as_ref().map_or("", |table| table.table());
            SqlError::new(
                SqlState::UNDEFINED_TABLE,
                format!("missing FROM-clause entry for table \"{table}\""),
            )
        }
        SchemaError::FieldNotFound { field, .. } => SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            match &field.relation {
                Some(table) => format!("column {}.{} does not exist", table.table(), field.name),
                None => format!("column \"{}\" does not exist", field.name),
            },
        ),
        SchemaError::AmbiguousReference { field } => SqlError::new(
            SqlState::AMBIGUOUS_COLUMN,
            format!("column reference \"{}\" is ambiguous", field.name),
        ),
        SchemaError::DuplicateQualifiedField { qualifier, .. } => SqlError::new(
            SqlState::DUPLICATE_ALIAS,
            format!("table name \"{}\" specified more than once", qualifier.table()),
        ),
        SchemaError::DuplicateUnqualifiedField { name } => SqlError::new(
            SqlState::DUPLICATE_COLUMN,
            format!("column \"{name}\" specified more than once"),
        ),
    }
}

/// How DataFusion tells of an operator that is only characters to it.
const UNKNOWN_OPERATOR: &str = "Unsupported binary operator: Custom(";

/// The operator is in double quotes.
fn unknown_operator(message: &str) -> SqlError {
    let operator = message.split('"').nth(1).unwrap_or_default();
    let message = format!("operator does not exist: {operator}");
    let error = SqlError::new(SqlState::UNDEFINED_FUNCTION, message);
    match operator.ends_with(['+', '-']) {
        true => {
            error.with_hint(format!("Put a blank before the sign: {operator} is one operator."))
        }
        false => error,
    }
}

/// `f'.` and on a line of its own `Did you mean 'g'?`
fn unknown_function(rest: &str) -> SqlError {
    let (name, like) = rest.split_once("'.").unwrap_or((rest, ""));
    if crate::parse::FATE_FUNCTIONS.contains(&name) {
        let what = format_args!("{name}() beside anything else in its SELECT");
        return SqlError::unsupported(what).with_hint(format!("Ask alone: SELECT {name}(…)"));
    }
    let error =
        SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} does not exist"));
    match like.split('\'').nth(1).filter(|like| is_close(name, like)) {
        Some(like) => error.with_hint(format!("Did you mean \"{like}\"?")),
        None => error,
    }
}

/// Whether one name may be a slip of the other: at most a third of its characters are wrong.
/// DataFusion names the nearest there is, however far.
fn is_close(name: &str, like: &str) -> bool {
    let longer = name.chars().count().max(like.chars().count());
    3 * levenshtein(name, like) <= longer
}

/// DataFusion's planner says what is wrong in words only. Those that PostgreSQL has a SQLSTATE for
/// are told by their words; the rest is a statement we cannot plan, that is `0A000`.
fn plan_error(message: &str) -> SqlError {
    if let Some((_, rest)) = message.split_once("Invalid function '") {
        return unknown_function(rest);
    }
    let has = |part: &str| message.contains(part);
    let state = if has("must appear in the GROUP BY")
        || has("must be in GROUP BY")
        || has("aggregate functions are not allowed")
        || has("not in GROUP BY")
        || has("Aggregate functions are not allowed")
        || has("calls cannot be nested")
    {
        SqlState::GROUPING_ERROR
    } else if has("only supports signed numeric")
        || has("No function matches")
        || has("Cannot coerce")
    {
        SqlState::UNDEFINED_FUNCTION
    } else if has("table") && has("not found") {
        SqlState::UNDEFINED_TABLE
    } else if has("ORDER BY position")
        || has("is not in select list")
        || has("Order by column out of bounds")
        || has("Cannot find column with position")
        || has("must appear in select list")
        || has("names given as column alias")
    {
        SqlState::INVALID_COLUMN_REFERENCE
    } else if has("same number of columns")
        || has("number of columns")
        || has("with no tables specified")
        || has("Inconsistent data length")
    {
        SqlState::SYNTAX_ERROR
    } else if has("non-boolean predicate") || has("requires a boolean expression") {
        SqlState::DATATYPE_MISMATCH
    } else if has("specified more than once") && has("WITH query") {
        SqlState::DUPLICATE_ALIAS
    } else if let Some(window) = message.strip_suffix(" is not defined!") {
        let name = window.trim_start_matches("The window ");
        let message = format!("window \"{name}\" does not exist");
        return SqlError::new(SqlState::UNDEFINED_OBJECT, message);
    } else if has("should only return one column") {
        return SqlError::syntax("subquery must return only one column");
    } else if has("LIMIT must be >= 0") {
        SqlState::INVALID_ROW_COUNT_IN_LIMIT
    } else if has("OFFSET must be >=0") {
        SqlState::INVALID_ROW_COUNT_IN_OFFSET
    } else {
        SqlState::FEATURE_NOT_SUPPORTED
    };
    SqlError::new(state, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_whole_out_of_datafusion_and_arrow() {
        let error = SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero").at(8);
        let arrow = ArrowError::from(error.clone());
        assert_eq!(SqlError::from(arrow), error);
        let nested = DataFusionError::ArrowError(Box::new(error.clone().into()), None)
            .context("while planning");
        assert_eq!(SqlError::from(nested), error);
        let shared = DataFusionError::Shared(std::sync::Arc::new(error.clone().into()));
        assert_eq!(SqlError::from(shared), error);
    }

    #[test]
    fn only_names_that_are_close_are_hinted_at() {
        let hint = |name: &str, like: &str| {
            let message = format!("Invalid function '{name}'.\nDid you mean '{like}'?");
            let error = SqlError::from(DataFusionError::Plan(message));
            assert_eq!(error.sqlstate, SqlState::UNDEFINED_FUNCTION);
            assert_eq!(error.message, format!("function {name} does not exist"));
            error.hint.clone()
        };
        for (name, like) in [("lenght", "length"), ("uper", "upper"), ("date_truc", "date_trunc")] {
            assert_eq!(hint(name, like), Some(format!("Did you mean \"{like}\"?")), "{name}");
        }
        for (name, like) in [("pg_sleep", "pg_le"), ("set_config", "list_concat"), ("f", "pi")] {
            assert_eq!(hint(name, like), None, "{name}");
        }
    }

    #[test]
    fn a_sqlstate_is_five_digits_or_capitals() {
        assert_eq!(SqlState::parse("40001"), Some(SqlState::SERIALIZATION_FAILURE));
        assert_eq!(SqlState::parse("4000"), None);
        assert_eq!(SqlState::parse("4000a"), None);
    }
}
