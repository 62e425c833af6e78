//! Functions of ours in DataFusion's plans: one type for all, told apart by name, so that they
//! travel in scan programs by name.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

use super::{ops, resolve, table};
use crate::error::{SqlError, SqlResult};
use crate::keyenc::Datum;
use crate::row::ColumnBuilder;
use crate::types::{PgType, Zone, zone};

/// An argument as overload resolution sees it.
#[derive(Debug, Clone)]
pub struct Arg {
    /// Its type.
    pub ty: PgType,
    /// Its value if it is a literal.
    pub literal: Option<ScalarValue>,
}

/// A call with its types settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The types the arguments are brought to.
    pub args: Vec<PgType>,
    /// The type of the result.
    pub ret: PgType,
}

/// A function of ours.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PgFunction {
    name: &'static str,
    signature: Signature,
    /// Whether the pass has settled the arguments' types. Before, a bare literal is what SQL text
    /// means by it: `1` is an `integer` though DataFusion reads a 64-bit number.
    settled: bool,
    /// The session's zone, when the statement was planned.
    zone: Zone,
}

impl PgFunction {
    /// The function of a name in the tables.
    fn new(name: &'static str, volatility: Volatility, settled: bool) -> Self {
        let any = vec![TypeSignature::VariadicAny, TypeSignature::Nullary];
        let signature = Signature::one_of(any, volatility);
        Self { name, signature, settled, zone: zone::current() }
    }

    /// As DataFusion wants it, for calls in SQL text.
    pub fn udf(name: &'static str) -> Arc<ScalarUDF> {
        Self::make(name, false)
    }

    fn make(name: &'static str, settled: bool) -> Arc<ScalarUDF> {
        let volatility =
            if table::is_volatile(name) { Volatility::Volatile } else { Volatility::Immutable };
        Arc::new(ScalarUDF::new_from_impl(Self::new(name, volatility, settled)))
    }
}

/// A call as SQL text has it, its types not settled.
pub fn raw_call(name: &'static str, args: Vec<Expr>) -> Expr {
    PgFunction::udf(name).call(args)
}

/// A call of one of our functions on arguments of exactly the right types.
pub fn call(name: &'static str, args: Vec<Expr>) -> Expr {
    PgFunction::make(name, true).call(args)
}

/// The name of our function that an expression calls.
pub fn called(udf: &ScalarUDF) -> Option<&'static str> {
    let any: &dyn std::any::Any = udf.inner().as_ref();
    any.downcast_ref::<PgFunction>().map(|f| f.name)
}

fn write_call(name: &str, args: &[Expr], out: &mut String) {
    out.push_str(name);
    out.push('(');
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match arg {
            Expr::ScalarFunction(inner) if called(&inner.func).is_some() => {
                write_call(inner.name(), &inner.args, out);
            }
            _ => write!(out, "{}", arg.schema_name()).expect("a string takes everything"),
        }
    }
    out.push(')');
}

/// The type of an expression whose field and literal value are known.
pub fn arg_of(field: &FieldRef, literal: Option<&ScalarValue>) -> SqlResult<Arg> {
    let tagged = field.metadata().contains_key(crate::types::TYPE_KEY);
    let ty = match literal {
        Some(ScalarValue::UInt64(_)) => PgType::Numeric(Some((20, 0))),
        Some(ScalarValue::Utf8(_)) if !tagged => PgType::Unknown,
        Some(ScalarValue::Int64(Some(v))) if !tagged && i32::try_from(*v).is_ok() => PgType::Int4,
        // What DataFusion's window functions count in, until the pass has cast it.
        _ if *field.data_type() == DataType::UInt64 => PgType::Int8,
        _ => PgType::of_field(field)?,
    };
    Ok(Arg { ty, literal: literal.cloned() })
}

impl ScalarUDFImpl for PgFunction {
    fn name(&self) -> &str {
        self.name
    }

    /// The same as the default in one pass: the default copies the name of every call within at
    /// each level above it.
    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let mut name = String::new();
        write_call(self.name, args, &mut name);
        Ok(name)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> DfResult<DataType> {
        Err(SqlError::internal("the type of a function is told by its arguments' fields").into())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types = args
            .arg_fields
            .iter()
            .zip(args.scalar_arguments)
            .map(|(field, literal)| {
                let mut arg = arg_of(field, *literal)?;
                if self.settled && literal.is_some() {
                    arg.ty = PgType::of_field(field)?;
                }
                Ok(arg)
            })
            .collect::<SqlResult<Vec<_>>>()?;
        let resolved = resolve::function(self.name, &types)?;
        let field = resolved.ret.field(self.name, true);
        // Only a cast tells the client of a modifier; all else is just of the type.
        let plain = !matches!(self.name, "pg_cast" | "pg_assign" | "pg_pad")
            && PgType::of_arrow(field.data_type()).map(|t| t.without_modifier())
                == Some(resolved.ret.without_modifier());
        let metadata =
            if plain { std::collections::HashMap::new() } else { resolved.ret.metadata() };
        Ok(Arc::new(field.with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(zone::with(self.zone, || invoke(self.name, &args))?)
    }
}

fn invoke(name: &'static str, call: &ScalarFunctionArgs) -> SqlResult<ColumnarValue> {
    let ret = PgType::of_field(&call.return_field)?;
    let scalar = call.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
    let rows = if scalar && !table::is_volatile(name) { 1 } else { call.number_rows };
    let mut types = Vec::with_capacity(call.args.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(call.args.len());
    for (value, field) in call.args.iter().zip(&call.arg_fields) {
        types.push(PgType::of_field(field)?);
        // A scalar is kept as an array of one row: see `cell`.
        arrays.push(match value {
            ColumnarValue::Array(array) => Arc::clone(array),
            ColumnarValue::Scalar(value) => value.to_array()?,
        });
    }
    if let Some(done) = ops::vectorized(name, &arrays, ret, rows)? {
        return Ok(done);
    }
    let strict = table::is_strict(name);
    let eval = table::evaluator(name)?;
    let mut builder = ColumnBuilder::new(ret, rows)?;
    let mut cells: Vec<Datum<'_>> = Vec::with_capacity(arrays.len());
    for row in 0..rows {
        cells.clear();
        for array in &arrays {
            cells.push(cell(array, row)?);
        }
        if strict && cells.iter().any(|c| matches!(c, Datum::Null)) {
            builder.append(&Datum::Null)?;
            continue;
        }
        builder.append(&eval(&Call { name, types: &types, ret }, &cells)?)?;
    }
    let array = builder.finish();
    if scalar && rows == 1 && !table::is_volatile(name) {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
    }
    Ok(ColumnarValue::Array(array))
}

fn cell(array: &ArrayRef, row: usize) -> SqlResult<Datum<'_>> {
    if array.data_type() == &DataType::Null {
        return Ok(Datum::Null);
    }
    Datum::of_cell(array.as_ref(), if array.len() == 1 { 0 } else { row })
}

/// What an evaluator knows beside the values.
pub struct Call<'a> {
    /// The function.
    pub name: &'static str,
    /// Types of the arguments.
    pub types: &'a [PgType],
    /// Type of the result.
    pub ret: PgType,
}

/// Computes one row.
pub type Evaluator = fn(&Call<'_>, &[Datum<'_>]) -> SqlResult<Datum<'static>>;
