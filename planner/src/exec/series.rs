//! `generate_series`: rows counted from a start to an end, in the logical plan ([`Series`]) and in
//! the physical one ([`SeriesExec`]). Bounds may be parameters; they are computed at execution.

use std::cmp::Ordering;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::Stream;

use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::row::ColumnBuilder;
use crate::semantics::cast::{number, of_number};
use crate::types::datetime::{self, Interval};
use crate::types::numeric::Numeric;
use crate::types::{PgType, Zone};

/// Rows of one batch.
const BATCH_ROWS: usize = 4096;

/// Batches after which others on the thread get a turn.
const BATCHES_PER_TURN: usize = 32;

/// `generate_series(start, stop [, step])` in FROM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Start, stop and step; of exactly the right types once the semantic pass has seen them.
    pub args: Vec<Expr>,
    /// The type of the column.
    pub ty: PgType,
    /// The column.
    pub schema: DFSchemaRef,
    /// The session's zone when the statement was planned: days are counted in it.
    pub zone: Zone,
}

impl Series {
    /// A series whose column has a name and a type.
    pub fn new(args: Vec<Expr>, name: &str, ty: PgType, zone: Zone) -> SqlResult<Self> {
        let schema = Schema::new(vec![ty.field(name, true)]);
        Ok(Self { args, ty, schema: Arc::new(DFSchema::try_from(schema)?), zone })
    }
}

impl PartialOrd for Series {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.args.partial_cmp(&other.args)
    }
}

impl UserDefinedLogicalNodeCore for Series {
    fn name(&self) -> &str {
        "Series"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.args.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Series")
    }

    fn with_exprs_and_inputs(&self, args: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(Self { args, ..self.clone() })
    }
}

/// Counts at execution.
#[derive(Debug)]
pub struct SeriesExec {
    args: Vec<Arc<dyn PhysicalExpr>>,
    ty: PgType,
    zone: Zone,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl SeriesExec {
    /// The physical node of a series, given its bounds.
    pub fn new(series: &Series, args: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        let schema: SchemaRef = Arc::clone(series.schema.inner());
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { args, ty: series.ty, zone: series.zone, schema, properties }
    }

    /// The counter of one execution; `None` if a bound is NULL.
    fn counter(&self) -> SqlResult<Option<Counter>> {
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let none = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
        let mut values = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            let value = match arg.evaluate(&none)? {
                ColumnarValue::Scalar(value) => value,
                ColumnarValue::Array(array) => {
                    datafusion::common::ScalarValue::try_from_array(&array, 0)?
                }
            };
            if value.is_null() {
                return Ok(None);
            }
            values.push(value);
        }
        let datums = values.iter().map(Datum::of_scalar).collect::<SqlResult<Vec<_>>>()?;
        Counter::new(self.ty, self.zone, &datums).map(Some)
    }
}

impl DisplayAs for SeriesExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Series")
    }
}

impl ExecutionPlan for SeriesExec {
    fn name(&self) -> &'static str {
        "SeriesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let counter = self.counter()?;
        Ok(Box::pin(Counting {
            counter,
            ty: self.ty,
            schema: Arc::clone(&self.schema),
            batches: 0,
        }))
    }
}

/// The values of a series, one after another.
#[derive(Debug)]
enum Counter {
    Int { next: Option<i64>, stop: i64, step: i64, max: i64, min: i64 },
    Number { next: Numeric, stop: Numeric, step: Numeric },
    Time { next: i64, stop: i64, step: Interval, backwards: bool, zone: Zone },
}

fn zero_step() -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero")
}

impl Counter {
    fn new(ty: PgType, zone: Zone, args: &[Datum<'_>]) -> SqlResult<Self> {
        let wrong = || SqlError::internal("the bounds of a series have other types");
        match ty {
            PgType::Int4 | PgType::Int8 => {
                let int = |i: usize| match args.get(i) {
                    Some(Datum::Int(n)) => Ok(*n),
                    None => Ok(1),
                    Some(_) => Err(wrong()),
                };
                let (next, stop, step) = (Some(int(0)?), int(1)?, int(2)?);
                if step == 0 {
                    return Err(zero_step());
                }
                let (min, max) = match ty {
                    PgType::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                    _ => (i64::MIN, i64::MAX),
                };
                Ok(Counter::Int { next, stop, step, max, min })
            }
            PgType::Numeric(_) => {
                let numeric = |i: usize| match args.get(i) {
                    Some(n) => number(n, PgType::Numeric(None)),
                    None => Ok(Numeric::of_int(1)),
                };
                let (next, stop, step) = (numeric(0)?, numeric(1)?, numeric(2)?);
                for (what, value) in [("start", next), ("stop", stop), ("step size", step)] {
                    if !matches!(value, Numeric::Finite { .. }) {
                        let how = if value == Numeric::NaN { "NaN" } else { "infinity" };
                        let what =
                            if what == "step size" { what.into() } else { format!("{what} value") };
                        return Err(SqlError::new(
                            SqlState::INVALID_PARAMETER_VALUE,
                            format!("{what} cannot be {how}"),
                        ));
                    }
                }
                if step.sign() == Some(0) {
                    return Err(zero_step());
                }
                Ok(Counter::Number { next, stop, step })
            }
            _ => match args {
                [Datum::Int(next), Datum::Int(stop), Datum::Interval(step)] => {
                    let order = step.order();
                    if order == 0 {
                        return Err(zero_step());
                    }
                    let (next, stop, step) = (*next, *stop, *step);
                    Ok(Counter::Time { next, stop, step, backwards: order < 0, zone })
                }
                _ => Err(wrong()),
            },
        }
    }

    /// The next value; `None` at the end.
    fn next(&mut self, ty: PgType) -> SqlResult<Option<Datum<'static>>> {
        match self {
            Counter::Int { next, stop, step, max, min } => {
                let Some(value) = *next else { return Ok(None) };
                if (*step > 0 && value > *stop) || (*step < 0 && value < *stop) {
                    return Ok(None);
                }
                // Beyond the type's range there is nothing more, and no error.
                *next = value.checked_add(*step).filter(|n| (*min..=*max).contains(n));
                Ok(Some(Datum::Int(value)))
            }
            Counter::Number { next, stop, step } => {
                let value = *next;
                let beyond = match step.sign() {
                    Some(1) => Ordering::Greater,
                    _ => Ordering::Less,
                };
                if value.compare(stop) == beyond {
                    return Ok(None);
                }
                *next = value.add(step)?;
                of_number(value, ty).map(Some)
            }
            Counter::Time { next, stop, step, backwards, zone } => {
                let value = *next;
                if (*backwards && value < *stop) || (!*backwards && value > *stop) {
                    return Ok(None);
                }
                *next = match ty {
                    PgType::TimestampTz => zone.add_interval(value, *step)?,
                    _ => datetime::add_interval(value, *step)?,
                };
                Ok(Some(Datum::Int(value)))
            }
        }
    }
}

/// The rows of one execution.
struct Counting {
    counter: Option<Counter>,
    ty: PgType,
    schema: SchemaRef,
    batches: usize,
}

impl Counting {
    fn batch(&mut self) -> SqlResult<Option<RecordBatch>> {
        let Some(counter) = &mut self.counter else { return Ok(None) };
        let mut builder = ColumnBuilder::new(self.ty, BATCH_ROWS)?;
        let mut rows = 0;
        while rows < BATCH_ROWS {
            let Some(value) = counter.next(self.ty)? else {
                self.counter = None;
                break;
            };
            builder.append(&value)?;
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), vec![builder.finish()])?))
    }
}

impl Stream for Counting {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches += 1;
        if self.batches.is_multiple_of(BATCHES_PER_TURN) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.batch().map_err(Into::into).transpose())
    }
}

impl RecordBatchStream for Counting {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
