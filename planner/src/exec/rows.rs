//! `VALUES` with parameters: DataFusion computes VALUES when it plans, so rows that hold parameters
//! are a node of ours, in the logical plan ([`ParamValues`]) and in the physical one.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchemaRef, Result as DfResult, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::stream;

use super::access::Source;
use super::run::RunCell;
use crate::error::{SqlError, SqlResult};

/// Rows of expressions without columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParamValues {
    /// The columns.
    pub schema: DFSchemaRef,
    /// The rows.
    pub rows: Vec<Vec<Expr>>,
}

impl PartialOrd for ParamValues {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.rows.partial_cmp(&other.rows)
    }
}

impl UserDefinedLogicalNodeCore for ParamValues {
    fn name(&self) -> &str {
        "ParamValues"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.rows.iter().flatten().cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ParamValues: rows={}", self.rows.len())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let width = self.schema.fields().len().max(1);
        let rows = exprs.chunks(width).map(<[Expr]>::to_vec).collect();
        Ok(Self { schema: Arc::clone(&self.schema), rows })
    }
}

/// Computes the rows of a [`ParamValues`] at execution.
#[derive(Debug)]
pub struct ParamValuesExec {
    rows: Arc<Vec<Vec<Source>>>,
    schema: SchemaRef,
    cell: Arc<RunCell>,
    properties: Arc<PlanProperties>,
}

impl ParamValuesExec {
    /// The physical node of `values` in the instance that owns `cell`.
    pub fn try_new(values: &ParamValues, cell: Arc<RunCell>) -> SqlResult<Self> {
        let source = |expr: &Expr| {
            Source::of(expr).ok_or_else(|| SqlError::unsupported(format_args!("{expr} in VALUES")))
        };
        let row = |row: &Vec<Expr>| row.iter().map(source).collect::<SqlResult<Vec<_>>>();
        let rows = values.rows.iter().map(row).collect::<SqlResult<Vec<_>>>()?;
        let schema: SchemaRef = Arc::clone(values.schema.inner());
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { rows: Arc::new(rows), schema, cell, properties })
    }

    fn batch(&self) -> SqlResult<RecordBatch> {
        let state = self.cell.get()?;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (i, field) in self.schema.fields().iter().enumerate() {
            let cells = self.rows.iter().map(|row| {
                let value = row
                    .get(i)
                    .ok_or_else(|| SqlError::internal("a row of VALUES is short"))?
                    .value(&state)?;
                if value.data_type() == *field.data_type() {
                    return Ok(value);
                }
                if value.is_null() {
                    return Ok(ScalarValue::try_from(field.data_type())?);
                }
                Ok(value.cast_to(field.data_type())?)
            });
            let cells = cells.collect::<SqlResult<Vec<_>>>()?;
            columns.push(ScalarValue::iter_to_array(cells)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl DisplayAs for ParamValuesExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Values: rows={}", self.rows.len())
    }
}

impl ExecutionPlan for ParamValuesExec {
    fn name(&self) -> &'static str {
        "ParamValuesExec"
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
        let batch = self.batch()?;
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(batch)]))))
    }
}
