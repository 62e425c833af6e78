//! Rows handed to a plan at execution: `RETURNING` is a plan over the rows a statement wrote, and
//! the tables of `information_schema` and `pg_catalog` are rows made from the catalog.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::stream;

use super::run::RunCell;

/// Where the rows come from.
#[derive(Debug, Clone)]
pub enum Rows {
    /// From the execution: [`super::RunState::input`].
    Input(Option<Arc<RunCell>>),
    /// They are known.
    Fixed(RecordBatch),
}

/// A table of such rows.
#[derive(Debug, Clone)]
pub struct ValuesTable {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub rows: Rows,
}

#[async_trait]
impl TableProvider for ValuesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let projection: Vec<usize> = projection.cloned().unwrap_or_else(all);
        Ok(Arc::new(ValuesExec::try_new(self.clone(), projection)?))
    }
}

/// Puts the rows out, in one batch each.
#[derive(Debug)]
pub struct ValuesExec {
    table: ValuesTable,
    projection: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ValuesExec {
    fn try_new(table: ValuesTable, projection: Vec<usize>) -> DfResult<Self> {
        let schema: SchemaRef = Arc::new(table.schema.project(&projection)?);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { table, projection, schema, properties })
    }
}

impl DisplayAs for ValuesExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.table.rows {
            Rows::Input(_) => f.write_str("Written rows"),
            Rows::Fixed(batch) => write!(f, "Catalog: rows={}", batch.num_rows()),
        }
    }
}

impl ExecutionPlan for ValuesExec {
    fn name(&self) -> &'static str {
        "ValuesExec"
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
        let batches = match &self.table.rows {
            Rows::Fixed(batch) => vec![batch.clone()],
            Rows::Input(Some(cell)) => cell.get()?.input.clone(),
            Rows::Input(None) => Vec::new(),
        };
        let projected: Vec<DfResult<RecordBatch>> = batches
            .into_iter()
            .map(|batch| batch.project(&self.projection).map_err(Into::into))
            .collect();
        let batches = stream::iter(projected);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}
