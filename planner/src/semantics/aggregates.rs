//! Aggregates: `sum` and `avg` exact and checked, `min` and `max` in PostgreSQL's order,
//! `string_agg`. What DataFusion has that is equal is passed on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility,
};

use super::cast::{number, of_number};
use super::function::call;
use super::{coerce, ops, statistics, table};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::PgType;
use crate::types::numeric::{Numeric, out_of_range};

/// Names of our aggregates.
pub const OURS: [&str; 7] = ["sum", "avg", "min", "max", "string_agg", "pg_first", "pg_single"];

/// An aggregate of ours.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PgAggregate {
    name: &'static str,
    signature: Signature,
}

impl PgAggregate {
    /// All of them, as DataFusion wants them.
    pub fn all() -> Vec<Arc<AggregateUDF>> {
        OURS.into_iter()
            .filter(|name| !name.starts_with("pg_"))
            .chain(statistics::names())
            .map(udaf)
            .collect()
    }
}

fn udaf(name: &'static str) -> Arc<AggregateUDF> {
    let signature = Signature::variadic_any(Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(PgAggregate { name, signature }))
}

/// The first of the values, in an order or any.
pub fn first(value: Expr, order: Vec<datafusion::logical_expr::SortExpr>) -> Expr {
    let call = AggregateFunction::new_udf(udaf("pg_first"), vec![value], false, None, order, None);
    Expr::AggregateFunction(call)
}

/// The only value; more of them are `21000`.
pub fn single(value: Expr) -> Expr {
    udaf("pg_single").call(vec![value])
}

fn undefined(name: &str, ty: PgType) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("function {name}({}) does not exist", ty.sql_name()),
    )
    .with_hint(
        "No function matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
}

/// The type of an aggregate of ours.
fn result_type(name: &str, ty: PgType) -> SqlResult<PgType> {
    use PgType::{Float4, Float8, Int2, Int4, Int8, Numeric};
    if statistics::is_statistic(name) {
        let types = statistics::types(name, ty);
        return types.map(|(_, ret)| ret).ok_or_else(|| undefined(name, ty));
    }
    Ok(match (name, ty) {
        ("pg_first" | "pg_single", ty) => ty,
        ("sum", Int2 | Int4) => Int8,
        ("sum", Int8) => Numeric(Some((38, 0))),
        ("sum", Numeric(Some((_, s)))) => Numeric(Some((38, s))),
        ("sum", Numeric(None) | Float4 | Float8) => ty,
        ("avg", Int2 | Int4 | Int8 | Numeric(_)) => Numeric(None),
        ("avg", Float4 | Float8) => Float8,
        ("min" | "max", PgType::Varchar(_) | PgType::Name | PgType::Unknown) => PgType::Text,
        ("min" | "max", PgType::Char(_)) => PgType::Char(None),
        ("min" | "max", PgType::Bool | PgType::Uuid | PgType::Bytea | PgType::Void) => {
            return Err(undefined(name, ty));
        }
        ("min" | "max", Numeric(Some((_, s)))) => Numeric(Some((38, s))),
        ("min" | "max", ty) => ty,
        ("string_agg", PgType::Bytea) => {
            return Err(SqlError::unsupported("string_agg of bytea"));
        }
        ("string_agg", ty) if ty.is_string() || ty == PgType::Unknown => PgType::Text,
        ("sum" | "avg", PgType::Interval) => {
            return Err(SqlError::unsupported(format_args!("{name} of intervals")));
        }
        _ => return Err(undefined(name, ty)),
    })
}

/// The arguments of a call with their types settled; refuses aggregates that are not listed.
pub fn arguments(
    name: &str,
    args: Vec<Expr>,
    distinct: bool,
    schema: &DFSchema,
) -> SqlResult<Vec<Expr>> {
    let types =
        args.iter().map(|e| coerce::arg(e, schema).map(|a| a.ty)).collect::<SqlResult<Vec<_>>>()?;
    if statistics::is_statistic(name) {
        return of_numbers(name, args, &types, distinct);
    }
    if OURS.contains(&name) {
        let Some(first) = types.first() else { return Err(undefined(name, PgType::Void)) };
        result_type(name, *first)?;
        if distinct && coerce::needs_key(*first) {
            return Err(SqlError::unsupported(format_args!("{name}(DISTINCT …) of {first}")));
        }
        return args
            .into_iter()
            .zip(types)
            .map(|(e, ty)| match (name, ty) {
                ("string_agg", ty) => coerce::convert(e, ty, PgType::Text, false),
                ("min" | "max", PgType::Unknown) => coerce::convert(e, ty, PgType::Text, false),
                _ => Ok(e),
            })
            .collect();
    }
    if !table::EQUAL_AGGREGATES.contains(&name) {
        return Err(SqlError::unsupported(format_args!("the aggregate {name}")));
    }
    let keyed = |(e, ty): (Expr, PgType)| {
        let key = distinct && (coerce::needs_key(ty) || matches!(ty, PgType::Char(_)));
        if key { call("pg_key", vec![e]) } else { e }
    };
    match name {
        "count" => Ok(args.into_iter().zip(types).map(keyed).collect()),
        "bool_and" | "bool_or" => {
            let check = |(e, ty): (Expr, PgType)| match ty {
                PgType::Bool => Ok(e),
                ty => Err(undefined(name, ty)),
            };
            args.into_iter().zip(types).map(check).collect()
        }
        "bit_and" | "bit_or" | "bit_xor" => match types.iter().find(|t| !t.is_integer()) {
            Some(ty) => Err(undefined(name, *ty)),
            None => Ok(args),
        },
        _ => Ok(args),
    }
}

/// The arguments of a variance or regression.
fn of_numbers(
    name: &str,
    args: Vec<Expr>,
    types: &[PgType],
    distinct: bool,
) -> SqlResult<Vec<Expr>> {
    if args.len() != 1 + usize::from(statistics::is_of_two(name)) {
        return Err(undefined(name, types.first().copied().unwrap_or(PgType::Void)));
    }
    if distinct {
        return Err(SqlError::unsupported(format_args!("{name}(DISTINCT …)")));
    }
    args.into_iter()
        .zip(types)
        .map(|(e, ty)| {
            let (to, _) = statistics::types(name, *ty).ok_or_else(|| undefined(name, *ty))?;
            coerce::convert(e, *ty, to, false)
        })
        .collect()
}

impl AggregateUDFImpl for PgAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        let first = args.first().and_then(PgType::of_arrow).unwrap_or(PgType::Void);
        Ok(result_type(self.name, first)?.arrow())
    }

    fn return_field(&self, fields: &[FieldRef]) -> DfResult<FieldRef> {
        let first = match fields.first() {
            Some(field) => PgType::of_field(field)?,
            None => PgType::Void,
        };
        let ty = result_type(self.name, first)?;
        if matches!(self.name, "pg_first" | "pg_single")
            && let Some(field) = fields.first()
        {
            return Ok(Arc::new(field.as_ref().clone().with_name(self.name).with_nullable(true)));
        }
        Ok(Arc::new(Field::new(self.name, ty.arrow(), true)))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        let first = args.expr_fields.first();
        let ty = first.map_or(Ok(PgType::Void), |field| PgType::of_field(field))?;
        let ret = PgType::of_arrow(args.return_field.data_type())
            .ok_or_else(|| SqlError::internal("an aggregate of an unknown type"))?;
        let distinct = args.is_distinct.then(BTreeSet::new);
        let sum = |average| Sum { ty, ret, exact: None, float: None, count: 0, average };
        Ok(match self.name {
            "sum" | "avg" => match distinct {
                Some(seen) => Box::new(DistinctSum { seen, sum: sum(self.name == "avg") }),
                None => Box::new(sum(self.name == "avg")),
            },
            "string_agg" => Box::new(StringAgg {
                parts: Vec::new(),
                distinct: args.is_distinct,
                descending: args
                    .order_bys
                    .iter()
                    .map(|sort| (sort.options.descending, sort.options.nulls_first))
                    .collect(),
            }),
            "pg_first" | "pg_single" => Box::new(First {
                ty: args.return_field.data_type().clone(),
                single: self.name == "pg_single",
                order: args
                    .order_bys
                    .iter()
                    .map(|sort| (sort.options.descending, sort.options.nulls_first))
                    .collect(),
                best: None,
            }),
            name if statistics::is_statistic(name) => statistics::accumulator(name, ty),
            name => Box::new(Extreme { ret, greatest: name == "max", best: None }),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        let value = |ty: DataType| Arc::new(Field::new(format!("{}_state", args.name), ty, true));
        let count = Arc::new(Field::new(format!("{}_count", args.name), DataType::Int64, true));
        Ok(match self.name {
            "sum" | "avg" => vec![
                value(DataType::LargeBinary),
                Arc::new(Field::new(format!("{}_float", args.name), DataType::Float64, true)),
                count,
            ],
            name if statistics::is_statistic(name) => statistics::state_fields(
                name,
                args.return_field.data_type() == &DataType::LargeBinary,
            ),
            "string_agg" => vec![value(DataType::LargeBinary)],
            "pg_first" | "pg_single" => vec![
                value(args.return_field.data_type().clone()),
                Arc::new(Field::new(format!("{}_key", args.name), DataType::LargeBinary, true)),
            ],
            _ => vec![value(args.return_field.data_type().clone())],
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        if !matches!(self.name, "min" | "max") {
            return self.accumulator(args);
        }
        let ret = PgType::of_arrow(args.return_field.data_type())
            .ok_or_else(|| SqlError::internal("an aggregate of an unknown type"))?;
        let best = Extreme { ret, greatest: self.name == "max", best: None };
        Ok(Box::new(SlidingExtreme { best, frame: VecDeque::new() }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        match self.name {
            "string_agg" | "pg_first" => AggregateOrderSensitivity::HardRequirement,
            _ => AggregateOrderSensitivity::Insensitive,
        }
    }
}

/// `sum` and `avg`: integers and decimals in 128 bits as long as they fit, then as numerics.
#[derive(Debug)]
struct Sum {
    ty: PgType,
    ret: PgType,
    exact: Option<Exact>,
    float: Option<f64>,
    count: i64,
    average: bool,
}

#[derive(Debug, Clone, Copy)]
enum Exact {
    /// With the scale of the argument's type.
    Small(i128),
    Large(Numeric),
}

impl Sum {
    fn scale(&self) -> i8 {
        match self.ty {
            PgType::Numeric(Some((_, s))) => s,
            _ => 0,
        }
    }

    fn exact_sum(&self) -> Option<Numeric> {
        self.exact.map(|sum| match sum {
            Exact::Small(n) => Numeric::of_decimal(n, self.scale()),
            Exact::Large(n) => n,
        })
    }

    fn add_small(&mut self, value: i128) -> SqlResult<()> {
        self.exact = Some(match self.exact {
            None => Exact::Small(value),
            Some(Exact::Small(sum)) => match sum.checked_add(value) {
                Some(sum) => Exact::Small(sum),
                None => {
                    let (a, b) = (sum, value);
                    let scale = self.scale();
                    let sum = Numeric::of_decimal(a, scale).add(&Numeric::of_decimal(b, scale))?;
                    Exact::Large(sum)
                }
            },
            Some(Exact::Large(sum)) => {
                Exact::Large(sum.add(&Numeric::of_decimal(value, self.scale()))?)
            }
        });
        Ok(())
    }

    fn add_number(&mut self, value: Numeric) -> SqlResult<()> {
        let sum = match self.exact_sum() {
            Some(sum) => sum.add(&value)?,
            None => value,
        };
        self.exact = Some(Exact::Large(sum));
        Ok(())
    }

    fn add_float(&mut self, value: f64) -> SqlResult<()> {
        let sum = self.float.unwrap_or(-0.0);
        let next = if self.float.is_none() { value } else { sum + value };
        let next = match self.ret {
            PgType::Float4 => f64::from(next as f32),
            _ => next,
        };
        if next.is_infinite() && sum.is_finite() && value.is_finite() {
            return Err(SqlError::new(
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                "value out of range: overflow",
            ));
        }
        self.float = Some(next);
        Ok(())
    }

    fn update(&mut self, array: &ArrayRef) -> SqlResult<()> {
        for row in 0..array.len() {
            if array.is_null(row) {
                continue;
            }
            match Datum::of_cell(array.as_ref(), row)? {
                Datum::Int(v) => self.add_small(i128::from(v))?,
                Datum::Decimal(v) => self.add_small(v)?,
                Datum::Float8(v) => self.add_float(v)?,
                Datum::Float4(v) => self.add_float(f64::from(v))?,
                other => self.add_number(number(&other, self.ty)?)?,
            }
            self.count += 1;
        }
        Ok(())
    }

    fn result(&self) -> SqlResult<ScalarValue> {
        if self.count == 0 {
            return Ok(ScalarValue::try_from(&self.ret.arrow())?);
        }
        if let Some(sum) = self.float {
            let value = if self.average { sum / self.count as f64 } else { sum };
            return Ok(match self.ret {
                PgType::Float4 => ScalarValue::Float32(Some(value as f32)),
                _ => ScalarValue::Float64(Some(value)),
            });
        }
        let sum = self.exact_sum().unwrap_or(Numeric::ZERO);
        if self.average {
            let average = sum.div(&Numeric::of_int(self.count))?;
            return of_number(average, self.ret)?.to_scalar(self.ret);
        }
        match self.ret {
            PgType::Int8 => {
                let total = sum.to_i64()?.ok_or_else(|| out_of_range("bigint"))?;
                Ok(ScalarValue::Int64(Some(total)))
            }
            ret => of_number(sum, ret)
                .map_err(|_| SqlError::unsupported("a sum of more than 38 digits"))?
                .to_scalar(ret),
        }
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.update(&values[0])?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(self.result()?)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::LargeBinary(self.exact_sum().map(Numeric::to_bytes)),
            ScalarValue::Float64(self.float),
            ScalarValue::Int64(Some(self.count)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states[0].len() {
            if let Datum::Bytes(sum) = Datum::of_cell(states[0].as_ref(), row)? {
                self.add_number(Numeric::from_bytes(&sum)?)?;
            }
            if let Datum::Float8(sum) = Datum::of_cell(states[1].as_ref(), row)? {
                self.add_float(sum)?;
            }
            if let Datum::Int(count) = Datum::of_cell(states[2].as_ref(), row)? {
                self.count += count;
            }
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        // Only exact sums: taking a float away again leaves its rounding behind.
        for row in 0..values[0].len() {
            if values[0].is_null(row) {
                continue;
            }
            let value = number(&Datum::of_cell(values[0].as_ref(), row)?, self.ty)?;
            self.add_number(value.neg())?;
            self.count -= 1;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        !matches!(self.ty, PgType::Float4 | PgType::Float8)
    }
}

/// `min` and `max` by the bytes that order the type.
#[derive(Debug)]
struct Extreme {
    ret: PgType,
    greatest: bool,
    best: Option<(Vec<u8>, Datum<'static>)>,
}

impl Extreme {
    fn update(&mut self, array: &ArrayRef) -> SqlResult<()> {
        for row in 0..array.len() {
            if array.is_null(row) {
                continue;
            }
            let value = Datum::of_cell(array.as_ref(), row)?;
            let key = ops::order_bytes(&value, self.ret)?;
            let better = self
                .best
                .as_ref()
                // Of equal values PostgreSQL keeps the last.
                .is_none_or(|(best, _)| key == *best || (key > *best) == self.greatest);
            if better {
                self.best = Some((key, super::cast::owned(value)));
            }
        }
        Ok(())
    }
}

impl Accumulator for Extreme {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.update(&values[0])?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(match &self.best {
            Some((_, value)) => value.to_scalar(self.ret)?,
            None => ScalarValue::try_from(&self.ret.arrow())?,
        })
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.best.as_ref().map_or(0, |(key, _)| key.len() * 2)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        Ok(self.update(&states[0])?)
    }
}

/// `sum` and `avg` of `DISTINCT` values.
#[derive(Debug)]
struct DistinctSum {
    seen: BTreeSet<Vec<u8>>,
    sum: Sum,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        for row in 0..values[0].len() {
            if values[0].is_null(row) {
                continue;
            }
            let key = ops::order_bytes(&Datum::of_cell(values[0].as_ref(), row)?, self.sum.ty)?;
            if self.seen.insert(key) {
                self.sum.update(&values[0].slice(row, 1))?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.sum.evaluate()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.seen.iter().map(|k| k.len() + 32).sum::<usize>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Err(SqlError::unsupported("DISTINCT in an aggregate computed in parts").into())
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> DfResult<()> {
        Err(SqlError::unsupported("DISTINCT in an aggregate computed in parts").into())
    }
}

/// `min` and `max` over a frame that moves.
#[derive(Debug)]
struct SlidingExtreme {
    best: Extreme,
    frame: VecDeque<ArrayRef>,
}

impl Accumulator for SlidingExtreme {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.frame.extend((0..values[0].len()).map(|row| values[0].slice(row, 1)));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.frame.drain(..values[0].len().min(self.frame.len()));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.best.best = None;
        for value in &self.frame {
            self.best.update(value)?;
        }
        self.best.evaluate()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.frame.len() * 64
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> DfResult<()> {
        Err(SqlError::internal("a frame is not computed in parts").into())
    }
}

/// `string_agg`: NULLs are left out; each value brings its own separator. The values are put in
/// the order asked for here, whatever order they come in.
#[derive(Debug)]
struct StringAgg {
    parts: Vec<Part>,
    distinct: bool,
    /// Of each sort key: whether `DESC`, and whether NULLs come first.
    descending: Vec<(bool, bool)>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Part {
    key: Vec<u8>,
    value: String,
    separator: Option<String>,
}

/// Bytes that order as the sort keys of a row do.
fn sort_key(order: &[(bool, bool)], keys: &[ArrayRef], row: usize) -> SqlResult<Vec<u8>> {
    let mut out = Vec::new();
    for (array, (descending, nulls_first)) in keys.iter().zip(order) {
        let value = match array.data_type() {
            DataType::Null => Datum::Null,
            _ => Datum::of_cell(array.as_ref(), row)?,
        };
        if matches!(value, Datum::Null) {
            out.push(if *nulls_first { 0 } else { 2 });
            continue;
        }
        out.push(1);
        let ty = PgType::of_arrow(array.data_type())
            .ok_or_else(|| SqlError::internal("a sort key of an unknown type"))?;
        let mut bytes = ops::order_bytes(&value, ty)?;
        if *descending {
            bytes.iter_mut().for_each(|b| *b = !*b);
        }
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

/// The first value in an order, or the only one.
#[derive(Debug)]
struct First {
    ty: DataType,
    single: bool,
    order: Vec<(bool, bool)>,
    best: Option<(Vec<u8>, ScalarValue)>,
}

impl First {
    fn take(
        &mut self,
        key: Vec<u8>,
        value: impl FnOnce() -> DfResult<ScalarValue>,
    ) -> DfResult<()> {
        match &self.best {
            Some(_) if self.single => {
                let message = "more than one row returned by a subquery used as an expression";
                return Err(SqlError::new(SqlState::CARDINALITY_VIOLATION, message).into());
            }
            Some((best, _)) if *best <= key => {}
            _ => self.best = Some((key, value()?)),
        }
        Ok(())
    }
}

impl Accumulator for First {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        for row in 0..values[0].len() {
            let key = sort_key(&self.order, values.get(1..).unwrap_or_default(), row)?;
            self.take(key, || ScalarValue::try_from_array(&values[0], row))?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        match &self.best {
            Some((_, value)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.ty),
        }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.best.as_ref().map_or(0, |(key, value)| key.len() + value.size())
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let key = self.best.as_ref().map(|(key, _)| key.clone());
        Ok(vec![self.evaluate()?, ScalarValue::LargeBinary(key)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states[0].len() {
            if let Datum::Bytes(key) = Datum::of_cell(states[1].as_ref(), row)? {
                let key = key.into_owned();
                self.take(key, || ScalarValue::try_from_array(&states[0], row))?;
            }
        }
        Ok(())
    }
}

impl StringAgg {
    fn update(&mut self, values: &[ArrayRef]) -> SqlResult<()> {
        let text = |array: &ArrayRef, row: usize| -> SqlResult<Option<String>> {
            match array.data_type() {
                DataType::Null => Ok(None),
                _ => match Datum::of_cell(array.as_ref(), row)? {
                    Datum::Null => Ok(None),
                    value => super::cast::string(&value).map(|s| Some(s.to_owned())),
                },
            }
        };
        for row in 0..values[0].len() {
            let Some(value) = text(&values[0], row)? else { continue };
            let separator = text(&values[1], row)?;
            if self.distinct && self.parts.iter().any(|p| p.value == value) {
                continue;
            }
            let key = sort_key(&self.descending, values.get(2..).unwrap_or_default(), row)?;
            self.parts.push(Part { key, value, separator });
        }
        Ok(())
    }
}

impl Accumulator for StringAgg {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.update(values)?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        if self.distinct && self.descending.is_empty() {
            // PostgreSQL sorts to find what is distinct.
            self.parts.sort_by(|a, b| a.value.cmp(&b.value));
        } else {
            self.parts.sort_by(|a, b| a.key.cmp(&b.key));
        }
        let mut text: Option<String> = None;
        for part in &self.parts {
            match &mut text {
                Some(text) => {
                    text.push_str(part.separator.as_deref().unwrap_or(""));
                    text.push_str(&part.value);
                }
                None => text = Some(part.value.clone()),
            }
        }
        Ok(ScalarValue::Utf8(text))
    }

    fn size(&self) -> usize {
        let part = |p: &Part| p.key.len() + p.value.len() + size_of::<Part>();
        size_of::<Self>() + self.parts.iter().map(part).sum::<usize>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let bytes = serde_json::to_vec(&self.parts)
            .map_err(|error| SqlError::internal(format!("parts of string_agg: {error}")))?;
        Ok(vec![ScalarValue::LargeBinary(Some(bytes))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states[0].len() {
            let Datum::Bytes(bytes) = Datum::of_cell(states[0].as_ref(), row)? else { continue };
            let parts: Vec<Part> = serde_json::from_slice(&bytes)
                .map_err(|error| SqlError::internal(format!("parts of string_agg: {error}")))?;
            let known = |part: &Part, all: &[Part]| all.iter().any(|p| p.value == part.value);
            for part in parts {
                if !(self.distinct && known(&part, &self.parts)) {
                    self.parts.push(part);
                }
            }
        }
        Ok(())
    }
}
