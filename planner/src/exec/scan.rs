//! The scan of a table through one of its indexes.
//!
//! One node does what a scan needs: computes its keys from the parameters, reads them by point gets
//! or page by page, fetches the rows behind index entries in batches, decodes only the columns that
//! are needed straight into Arrow, filters, stops at a limit and, for `SELECT … FOR …`, locks what
//! is left.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::compute::kernels::boolean::and_kleene;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    SortOrderPushdownResult,
};
use futures::stream;

use super::access::{AccessPath, KeySet, describe};
use super::fetch::RowReader;
use super::run::{RunCell, RunState};
use crate::catalog::{IndexId, TableDef};
use crate::error::SqlResult;
use crate::kv::{ScanProgram, ScanRequest, Span};
use crate::program;

/// Point gets that one request to storage may carry.
pub const GETS_PER_REQUEST: usize = 1024;

/// By how much pages grow when their reader wants more than the first.
const PAGE_GROWTH: u64 = 8;

/// A scan of one table through one index.
#[derive(Debug, Clone)]
pub struct ScanExec {
    pub(crate) layout: Arc<RowReader>,
    pub(crate) path: AccessPath,
    /// What the keys do not answer, over the layout's schema.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// The columns put out, as places in the layout.
    pub(crate) projection: Vec<usize>,
    pub(crate) limit: Option<usize>,
    /// Rows of the first page, if the reader most likely wants no more.
    pub(crate) first_page: Option<usize>,
    pub(crate) reverse: bool,
    pub(crate) cell: Arc<RunCell>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    /// A scan that reads `layout` through `path`, keeps what `filter` keeps and puts out
    /// `projection` (places in the layout).
    pub fn try_new(
        layout: Arc<RowReader>,
        path: AccessPath,
        filter: Option<Arc<dyn PhysicalExpr>>,
        projection: Vec<usize>,
        cell: Arc<RunCell>,
    ) -> DfResult<Self> {
        let schema = Arc::new(Schema::empty());
        let scan = Self {
            properties: Arc::new(plain_properties(&schema)),
            layout,
            path,
            filter,
            projection,
            limit: None,
            first_page: None,
            reverse: false,
            cell,
            schema,
        };
        scan.projected()
    }

    /// The scan, once its projection has changed.
    pub fn projected(mut self) -> DfResult<Self> {
        self.schema = Arc::new(self.layout.schema().project(&self.projection)?);
        self.declare_order();
        Ok(self)
    }

    /// With at most so many rows put out.
    #[must_use]
    pub fn with_limit(mut self, limit: Option<usize>) -> Self {
        self.limit = limit;
        self
    }

    /// With so many rows on its first page.
    #[must_use]
    pub fn with_first_page(mut self, rows: usize) -> Self {
        self.first_page = Some(rows);
        self
    }

    /// The table.
    pub fn table(&self) -> &Arc<TableDef> {
        self.layout.table()
    }

    /// Whether the scan reads little, as far as its keys tell.
    pub fn is_selective(&self) -> bool {
        self.limit.is_some()
            || !self.path.equal.is_empty()
            || (!self.path.lower.is_empty() && !self.path.upper.is_empty())
    }

    /// The orders in which rows come: by the index, with and without the columns that have only
    /// one value.
    fn orders(&self) -> Vec<Vec<PhysicalSortExpr>> {
        let table = self.table();
        let Some(index) = table.index(self.path.index) else { return Vec::new() };
        let options = SortOptions { descending: self.reverse, nulls_first: self.reverse };
        let suffix = table.key_suffix(index);
        let columns: Vec<_> = index.columns.iter().map(|c| c.column).chain(suffix).collect();
        let order_from = |first: usize| {
            let mut order = Vec::new();
            for id in columns.iter().skip(first) {
                let place = table.position(*id).and_then(|i| self.layout.place_of(i));
                let Some(out) = place.and_then(|p| self.projection.iter().position(|x| *x == p))
                else {
                    break;
                };
                let name = self.schema.field(out).name();
                order.push(PhysicalSortExpr::new(Arc::new(Column::new(name, out)), options));
            }
            order
        };
        let constant = self.path.constant_columns().min(columns.len());
        let mut orders: Vec<_> = (0..=constant).map(order_from).collect();
        orders.retain(|order| !order.is_empty());
        orders
    }

    fn declare_order(&mut self) {
        let orders = self.orders().into_iter().filter_map(LexOrdering::new);
        let equivalence =
            EquivalenceProperties::new_with_orderings(Arc::clone(&self.schema), orders);
        self.properties = Arc::new(PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
    }

    fn reversed(&self) -> Self {
        let mut scan = self.clone();
        scan.reverse = !scan.reverse;
        scan.declare_order();
        scan
    }

    /// Whether the index's entries hold all that is needed, so that no rows are fetched.
    fn is_covering(&self) -> bool {
        let table = self.table();
        self.path.index == IndexId::PRIMARY
            || table
                .index(self.path.index)
                .is_some_and(|index| super::access::covers(table, index, self.layout.columns()))
    }

    fn run(&self) -> SqlResult<ScanRun> {
        let state = self.cell.get()?;
        let work = match self.path.keys(self.table(), &state)? {
            KeySet::Points(mut keys) => {
                if self.reverse {
                    keys.reverse();
                }
                Work::Points(keys.into())
            }
            KeySet::Spans(mut spans) => {
                if self.reverse {
                    spans.reverse();
                }
                Work::Spans(spans.into())
            }
        };
        Ok(ScanRun {
            state,
            work,
            left: self.limit.map(|n| n as u64),
            page: self.first_page.map(|n| n.max(1) as u64),
            covering: self.is_covering(),
            program: self.program()?,
            scan: self.clone(),
        })
    }

    /// The program that runs beside the data instead of [`RowReader::decode`] and the filter here:
    /// worth it where a filter throws rows away before they travel.
    fn program(&self) -> SqlResult<Option<Arc<ScanProgram>>> {
        let plain = self.path.index == IndexId::PRIMARY && !self.path.points;
        if !plain {
            return Ok(None);
        }
        let Some(filter) = &self.filter else { return Ok(None) };
        program::build(&self.layout, filter, &self.projection, self.limit)
    }
}

fn plain_properties(schema: &SchemaRef) -> PlanProperties {
    PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(schema)),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )
}

/// Keys not read yet.
enum Work {
    Points(VecDeque<Bytes>),
    Spans(VecDeque<Span>),
}

/// Rows or entries just read.
type Pairs = Vec<(Bytes, Bytes)>;

/// What one read brought.
enum Read {
    Pairs(Pairs),
    Batches(Vec<RecordBatch>),
}

/// One execution of a scan.
struct ScanRun {
    scan: ScanExec,
    state: Arc<RunState>,
    work: Work,
    /// Rows that may still be put out.
    left: Option<u64>,
    /// Rows of the next page at most.
    page: Option<u64>,
    covering: bool,
    program: Option<Arc<ScanProgram>>,
}

impl ScanRun {
    /// The next batch; `None` at the end.
    async fn next(&mut self) -> SqlResult<Option<RecordBatch>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let Some(read) = self.read().await? else { return Ok(None) };
            let batch = match read {
                Read::Pairs(pairs) if pairs.is_empty() => continue,
                Read::Pairs(pairs) => self.finish(pairs).await?,
                Read::Batches(batches) => {
                    datafusion::arrow::compute::concat_batches(&self.scan.schema, &batches)?
                }
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let rows = batch.num_rows() as u64;
            let kept = self.left.map_or(rows, |left| left.min(rows));
            self.left = self.left.map(|left| left - kept);
            return Ok(Some(if kept < rows { batch.slice(0, kept as usize) } else { batch }));
        }
    }

    async fn read(&mut self) -> SqlResult<Option<Read>> {
        match &mut self.work {
            Work::Points(keys) => {
                let unfiltered = self.scan.filter.is_none();
                let most = match self.left {
                    Some(left) if unfiltered => GETS_PER_REQUEST.min(left as usize),
                    _ => GETS_PER_REQUEST,
                };
                let some: Vec<Bytes> = keys.drain(..keys.len().min(most)).collect();
                if some.is_empty() {
                    return Ok(None);
                }
                let values = self.state.txn.get(some.clone()).await?;
                let found = some.into_iter().zip(values);
                Ok(Some(Read::Pairs(found.filter_map(|(k, v)| Some((k, v?))).collect())))
            }
            Work::Spans(spans) => {
                let Some(span) = spans.pop_front() else { return Ok(None) };
                let wanted = [self.left, self.page].into_iter().flatten().min();
                let rows_max = if self.scan.filter.is_none() { wanted } else { None };
                self.page = self.page.map(|page| page.saturating_mul(PAGE_GROWTH));
                let request = ScanRequest {
                    span,
                    reverse: self.scan.reverse,
                    rows_max,
                    program: self.program.clone(),
                };
                let page = self.state.txn.scan(request).await?;
                if let Some(rest) = page.resume.filter(|rest| !rest.is_empty()) {
                    spans.push_front(rest);
                }
                match page.output {
                    Some(output) => {
                        Ok(Some(Read::Batches(program::decode_output(&self.scan.schema, &output)?)))
                    }
                    None => Ok(Some(Read::Pairs(page.rows))),
                }
            }
        }
    }

    /// From entries or rows to what the scan puts out.
    async fn finish(&mut self, mut pairs: Pairs) -> SqlResult<RecordBatch> {
        let layout = Arc::clone(&self.scan.layout);
        let mut batch = None;
        if self.scan.path.index != IndexId::PRIMARY {
            if self.covering {
                batch = Some(layout.decode_entries(self.scan.path.index, &pairs)?);
            } else {
                pairs = self.rows_behind(pairs).await?;
            }
        }
        let batch = match batch {
            Some(batch) => batch,
            None => layout.decode(&pairs)?,
        };
        let batch = match &self.scan.filter {
            Some(filter) => filter_record_batch(&batch, &evaluate_filter(filter, &batch)?)?,
            None => batch,
        };
        Ok(batch.project(&self.scan.projection)?)
    }

    /// The rows that index entries point to, in their order.
    async fn rows_behind(&self, entries: Pairs) -> SqlResult<Pairs> {
        let rows = self.scan.layout.entry_rows(self.scan.path.index, entries)?;
        let keys: Vec<Bytes> = rows.into_iter().map(|(key, _)| key).collect();
        let mut out = Vec::with_capacity(keys.len());
        for some in keys.chunks(GETS_PER_REQUEST) {
            let values = self.state.txn.get(some.to_vec()).await?;
            out.extend(some.iter().cloned().zip(values).filter_map(|(k, v)| Some((k, v?))));
        }
        Ok(out)
    }
}

/// The rows a filter keeps; NULL counts as no.
pub fn evaluate_filter(
    filter: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> SqlResult<BooleanArray> {
    let array = filter.evaluate(batch)?.into_array(batch.num_rows())?;
    let mask = as_boolean_array(&array)?;
    Ok(if mask.null_count() > 0 {
        and_kleene(mask, &datafusion::arrow::compute::is_not_null(mask)?)?
    } else {
        mask.clone()
    })
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let table = self.table();
        let index = table.index(self.path.index).map_or("?", |i| i.name.as_str());
        let what = if self.path.points { "PointGet" } else { "Scan" };
        let direction = if self.reverse { " backward" } else { "" };
        write!(f, "{what}{direction}: table={}, index={index}", table.name)?;
        write!(f, ", keys=[{}]", describe(&self.path, table))?;
        if self.path.index != IndexId::PRIMARY {
            f.write_str(if self.is_covering() { ", covering" } else { ", lookup=primary" })?;
        }
        if let Some(filter) = &self.filter {
            write!(f, ", filter={filter}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        match &self.filter {
            Some(filter) => f(filter),
            None => Ok(TreeNodeRecursion::Continue),
        }
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

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(self.clone().with_limit(limit)))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> DfResult<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let gives = |scan: &ScanExec| scan.orders().iter().any(|own| own.starts_with(order));
        Ok(if gives(self) {
            SortOrderPushdownResult::Exact { inner: Arc::new(self.clone()) }
        } else if self.limit.is_none() && gives(&self.reversed()) {
            SortOrderPushdownResult::Exact { inner: Arc::new(self.reversed()) }
        } else {
            SortOrderPushdownResult::Unsupported
        })
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let run = self.run()?;
        let batches = stream::try_unfold(run, |mut run| async move {
            Ok(run.next().await?.map(|batch| (batch, run)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}
