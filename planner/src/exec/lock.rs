//! Row locks of a query (`SELECT … FOR UPDATE` and its like): in the logical plan a [`LockRows`],
//! in the physical one a [`LockRowsExec`]. It stands above the sort and below the limit: rows are
//! locked in the order of the result, and no more than the result takes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

use super::run::{RunCell, RunState};
use super::scan::{GETS_PER_REQUEST, ScanExec};
use crate::catalog::TableDef;
use crate::error::{SqlError, SqlResult};
use crate::keyenc::Datum;
use crate::kv::{LockWait, RowLock};
use crate::row;

/// How many rows the result takes of what is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Takes {
    /// All.
    All,
    /// So many.
    AtMost(usize),
    /// Only known at execution: they are locked one by one.
    Unknown,
}

/// The locks that rows of one table get.
#[derive(Debug, Clone)]
pub struct TableLock {
    /// The table.
    pub table: Arc<TableDef>,
    /// How they are locked.
    pub how: RowLock,
}

/// Locks the rows of its input.
#[derive(Debug, Clone)]
pub struct LockRows {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// Which tables.
    pub tables: Vec<TableLock>,
    /// The columns of their primary keys, one table's after the other's.
    pub keys: Vec<Expr>,
    /// How many rows the result takes.
    pub takes: Takes,
}

impl LockRows {
    fn identity(&self) -> impl PartialEq + Hash + '_ {
        let tables: Vec<_> = self.tables.iter().map(|lock| (lock.table.id, lock.how)).collect();
        (&self.input, tables, &self.keys, self.takes)
    }
}

impl PartialEq for LockRows {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for LockRows {}

impl Hash for LockRows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for LockRows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.keys.partial_cmp(&other.keys)
    }
}

impl UserDefinedLogicalNodeCore for LockRows {
    fn name(&self) -> &str {
        "LockRows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("LockRows")
    }

    fn with_exprs_and_inputs(
        &self,
        keys: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DfResult<Self> {
        Ok(Self { input: Arc::new(inputs.swap_remove(0)), keys, ..self.clone() })
    }

    /// What is put out, and the keys.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        for column in self.keys.iter().flat_map(Expr::column_refs) {
            needed.push(self.input.schema().maybe_index_of_column(column)?);
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// See [`LockRows`].
#[derive(Debug)]
pub struct LockRowsExec {
    input: Arc<dyn ExecutionPlan>,
    tables: Vec<TableLock>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    takes: Takes,
    cell: Arc<RunCell>,
    properties: Arc<PlanProperties>,
}

impl LockRowsExec {
    /// Locks the rows of an input; `keys` as in [`LockRows`].
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        node: &LockRows,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        cell: Arc<RunCell>,
    ) -> Self {
        Self::over(input, node.tables.clone(), keys, node.takes, cell)
    }

    fn over(
        input: Arc<dyn ExecutionPlan>,
        tables: Vec<TableLock>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        takes: Takes,
        cell: Arc<RunCell>,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            input.equivalence_properties().clone(),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, tables, keys, takes, cell, properties }
    }
}

/// As a query asks for it.
fn words(how: RowLock) -> String {
    let strength = how.strength.clause().to_lowercase();
    let wait = match how.wait {
        LockWait::Block => "",
        LockWait::NoWait => " nowait",
        LockWait::SkipLocked => " skip locked",
    };
    format!("{strength}{wait}")
}

impl DisplayAs for LockRowsExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("LockRows:")?;
        for (i, lock) in self.tables.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma} {} {}", lock.table.name, words(lock.how))?;
        }
        Ok(())
    }
}

/// One execution.
struct Run {
    input: SendableRecordBatchStream,
    tables: Vec<TableLock>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    state: Arc<RunState>,
    /// Rows not locked yet.
    batch: Option<RecordBatch>,
    /// Rows the result still takes.
    left: usize,
    /// Rows locked at a time.
    at_a_time: usize,
}

impl Run {
    async fn next(&mut self) -> SqlResult<Option<RecordBatch>> {
        while self.left > 0 {
            let Some(batch) = self.batch.take() else {
                match self.input.next().await.transpose()? {
                    None => return Ok(None),
                    Some(batch) => self.batch = (batch.num_rows() > 0).then_some(batch),
                }
                continue;
            };
            let count = batch.num_rows().min(self.left).min(self.at_a_time);
            let rest = batch.num_rows() - count;
            self.batch = (rest > 0).then(|| batch.slice(count, rest));
            let locked = self.lock(batch.slice(0, count)).await?;
            if locked.num_rows() > 0 {
                self.left -= locked.num_rows();
                return Ok(Some(locked));
            }
        }
        Ok(None)
    }

    /// The rows that could be locked.
    async fn lock(&mut self, batch: RecordBatch) -> SqlResult<RecordBatch> {
        let mut kept = vec![true; batch.num_rows()];
        let mut columns = self.keys.iter();
        for TableLock { table, how } in &self.tables {
            let parts = table.primary().columns.len();
            let arrays = columns.by_ref().take(parts);
            let arrays =
                arrays.map(|expr| Ok(expr.evaluate(&batch)?.into_array(batch.num_rows())?));
            let keys = keys_of(table, &arrays.collect::<SqlResult<Vec<_>>>()?, batch.num_rows())?;
            // A row that another lock has left out is not locked.
            let wanted = keys.iter().zip(&kept).filter(|(_, kept)| **kept);
            let wanted: Vec<Bytes> = wanted.map(|(key, _)| key.clone()).collect();
            let skipped = self.state.txn.lock(wanted, *how).await?;
            for (key, kept) in keys.iter().zip(&mut kept) {
                *kept &= !skipped.contains(key);
            }
        }
        if kept.iter().all(|kept| *kept) {
            return Ok(batch);
        }
        Ok(filter_record_batch(&batch, &BooleanArray::from(kept))?)
    }
}

fn keys_of(table: &TableDef, arrays: &[ArrayRef], rows: usize) -> SqlResult<Vec<Bytes>> {
    let columns = &table.primary().columns;
    let key = |row: usize| {
        row::primary_key(table, &|id| {
            let place = columns.iter().position(|part| part.column == id);
            let array = place.and_then(|place| arrays.get(place));
            let array = array.ok_or_else(|| SqlError::internal("a key without its column"))?;
            Datum::of_cell(array.as_ref(), row)
        })
    };
    (0..rows).map(key).collect()
}

impl ExecutionPlan for LockRowsExec {
    fn name(&self) -> &'static str {
        "LockRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for key in &self.keys {
            next = f(key)?;
            if next == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(next)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (tables, keys) = (self.tables.clone(), self.keys.clone());
        let input = children.swap_remove(0);
        Ok(Arc::new(Self::over(input, tables, keys, self.takes, Arc::clone(&self.cell))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let run = Run {
            input: self.input.execute(partition, context)?,
            tables: self.tables.clone(),
            keys: self.keys.clone(),
            state: self.cell.get()?,
            batch: None,
            left: match self.takes {
                Takes::AtMost(rows) => rows,
                Takes::All | Takes::Unknown => usize::MAX,
            },
            at_a_time: if self.takes == Takes::Unknown { 1 } else { GETS_PER_REQUEST },
        };
        let batches = stream::try_unfold(run, |mut run| async move {
            Ok(run.next().await?.map(|batch| (batch, run)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// Below locks of a few rows, scans begin with small pages: what is read and not taken would be in
/// the way of others under SERIALIZABLE, and costs.
#[derive(Debug)]
pub struct SmallFirstPages;

impl PhysicalOptimizerRule for SmallFirstPages {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(lock) = node.downcast_ref::<LockRowsExec>() else {
                return Ok(Transformed::no(node));
            };
            let Takes::AtMost(rows) = lock.takes else { return Ok(Transformed::no(node)) };
            let input = small_pages(Arc::clone(&lock.input), rows)?;
            let (tables, keys) = (lock.tables.clone(), lock.keys.clone());
            let lock = LockRowsExec::over(input, tables, keys, lock.takes, Arc::clone(&lock.cell));
            Ok(Transformed::yes(Arc::new(lock) as Arc<dyn ExecutionPlan>))
        })
        .data()
    }

    fn name(&self) -> &str {
        "small_first_pages"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The input with small pages, if its rows come straight from a scan.
fn small_pages(node: Arc<dyn ExecutionPlan>, rows: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
    if let Some(scan) = node.downcast_ref::<ScanExec>() {
        return Ok(Arc::new(scan.clone().with_first_page(rows)));
    }
    if !node.is::<ProjectionExec>() {
        return Ok(node);
    }
    let children = node.children().into_iter().map(|child| small_pages(Arc::clone(child), rows));
    let children = children.collect::<DfResult<Vec<_>>>()?;
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    node.replace_children(children, options)
}
