//! Functions that tell about the session, and those clients call when they connect.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::expr::{Placeholder, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::error::{SqlError, SqlResult};
use crate::exec::Slot;
use crate::types::PgType;

/// What `version()` and `server_version` say: the protocol and dialect are those of PostgreSQL 15.
pub const SERVER_VERSION: &str = "15.0";

/// Names of functions without arguments, the value each stands for, and its type.
const SESSION_FUNCTIONS: &[(&str, Slot, PgType)] = &[
    ("now", Slot::TxnTime, PgType::TimestampTz),
    ("current_timestamp", Slot::TxnTime, PgType::TimestampTz),
    ("transaction_timestamp", Slot::TxnTime, PgType::TimestampTz),
    ("statement_timestamp", Slot::StatementTime, PgType::TimestampTz),
    ("clock_timestamp", Slot::StatementTime, PgType::TimestampTz),
    ("current_date", Slot::CurrentDate, PgType::Date),
    ("localtimestamp", Slot::LocalTimestamp, PgType::Timestamp),
    ("current_user", Slot::User, PgType::Name),
    ("session_user", Slot::User, PgType::Name),
    ("user", Slot::User, PgType::Name),
    ("current_role", Slot::User, PgType::Name),
    ("current_database", Slot::Database, PgType::Name),
    ("current_catalog", Slot::Database, PgType::Name),
    ("pg_backend_pid", Slot::BackendPid, PgType::Int4),
];

/// A function of the session: only a name to find; it becomes a placeholder before any pass.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionFunction {
    name: &'static str,
    ty: PgType,
    signature: Signature,
}

impl ScalarUDFImpl for SessionFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> DfResult<DataType> {
        Ok(self.ty.arrow())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(SqlError::internal(format!("{} is not bound to a session", self.name)).into())
    }
}

/// A function with a constant answer, whatever its arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ConstantFunction {
    name: &'static str,
    value: ScalarValue,
    ty: PgType,
    signature: Signature,
}

impl ScalarUDFImpl for ConstantFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> DfResult<DataType> {
        Ok(self.value.data_type())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        Ok(Arc::new(self.ty.field(self.name, true)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

fn constants() -> Vec<ConstantFunction> {
    let none = || Signature::nullary(Volatility::Immutable);
    let any = || Signature::variadic_any(Volatility::Immutable);
    let text = |s: &str| ScalarValue::Utf8(Some(s.to_owned()));
    let version = format!("PostgreSQL {SERVER_VERSION} (Quorate {})", env!("CARGO_PKG_VERSION"));
    let yes = || ScalarValue::Boolean(Some(true));
    let constant = |name, value: ScalarValue, signature| {
        let ty = match (name, &value) {
            ("current_schema" | "pg_get_userbyid" | "pg_encoding_to_char", _) => PgType::Name,
            (_, ScalarValue::Boolean(_)) => PgType::Bool,
            _ => PgType::Text,
        };
        ConstantFunction { name, value, ty, signature }
    };
    vec![
        constant("version", text(&version), none()),
        constant("current_schema", text("public"), none()),
        constant("pg_is_in_recovery", ScalarValue::Boolean(Some(false)), none()),
        constant("pg_table_is_visible", yes(), any()),
        constant("pg_type_is_visible", yes(), any()),
        constant("has_schema_privilege", yes(), any()),
        constant("has_table_privilege", yes(), any()),
        constant("has_database_privilege", yes(), any()),
        constant("obj_description", ScalarValue::Utf8(None), any()),
        constant("col_description", ScalarValue::Utf8(None), any()),
        constant("shobj_description", ScalarValue::Utf8(None), any()),
        constant("pg_encoding_to_char", text("UTF8"), any()),
        constant("pg_get_userbyid", text("quorate"), any()),
        constant("pg_relation_is_publishable", yes(), any()),
        constant("pg_function_is_visible", yes(), any()),
        // There are no functions to ask about.
        constant("pg_get_function_result", ScalarValue::Utf8(None), any()),
        constant("pg_get_function_arguments", ScalarValue::Utf8(None), any()),
        // Nor statistics objects.
        constant("pg_get_statisticsobjdef_columns", ScalarValue::Utf8(None), any()),
    ]
}

/// Registers the functions, over DataFusion's of the same name, and those of the semantic pass.
pub fn register(mut state: SessionState) -> SqlResult<SessionState> {
    for (name, _, ty) in SESSION_FUNCTIONS {
        let signature = Signature::nullary(Volatility::Volatile);
        let function = SessionFunction { name, ty: *ty, signature };
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    for function in constants() {
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    crate::plan::meaning::register(&mut state)?;
    Ok(state)
}

/// Turns a call of a session function into the placeholder of its value.
pub fn session_placeholder(expr: Expr) -> DfResult<Transformed<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = &expr else {
        return Ok(Transformed::no(expr));
    };
    let any: &dyn std::any::Any = func.inner().as_ref();
    if !any.is::<SessionFunction>() || !args.is_empty() {
        return Ok(Transformed::no(expr));
    }
    let known = SESSION_FUNCTIONS.iter().find(|(name, ..)| *name == func.name());
    let Some((_, slot, ty)) = known else { return Ok(Transformed::no(expr)) };
    let field = Arc::new(ty.field("", true));
    Ok(Transformed::yes(Expr::Placeholder(Placeholder::new_with_field(
        slot.placeholder(),
        Some(field),
    ))))
}
