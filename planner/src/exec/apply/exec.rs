//! The physical node: runs a query for each row.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, reset_plan_states};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

use super::{Answers, Gives};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::run::{RunCell, RunState, is_stateless};

/// Rows of one batch: a limit above wants no more answers than it shows.
const BATCH_ROWS: usize = 256;

/// Queries in one turn, for those that wait for nothing.
const QUERIES_PER_TURN: usize = 32;

/// Executions of one plan: its nodes add metrics with each of them.
const USES_MAX: usize = 256;

/// Answers that are remembered, and how large one may be in bytes.
const ANSWERS_MAX: usize = 4096;
const ANSWER_BYTES_MAX: usize = 1024;

/// See [`super::Apply`].
#[derive(Debug, Clone)]
pub struct ApplyExec {
    input: Arc<dyn ExecutionPlan>,
    query: ApplyQuery,
    /// The cell of the plan this node is in.
    cell: Arc<RunCell>,
    properties: Arc<PlanProperties>,
}

/// The query of an [`ApplyExec`].
#[derive(Debug, Clone)]
pub struct ApplyQuery {
    /// Its plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The cell of its plan.
    pub cell: Arc<RunCell>,
    /// What it reads of an outer row, from `first_slot` on.
    pub outer: Vec<Arc<dyn PhysicalExpr>>,
    /// See `outer`.
    pub first_slot: usize,
    /// What comes of it.
    pub gives: Gives,
    /// Whether it may answer differently when it is asked twice.
    pub volatile: bool,
}

impl ApplyExec {
    /// The node over an input; `schema` holds the input's columns, then the query's.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        query: ApplyQuery,
        cell: Arc<RunCell>,
        schema: SchemaRef,
    ) -> Self {
        let orders = input.equivalence_properties().oeq_class().iter().cloned();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, orders),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, query, cell, properties }
    }

    /// The plan of the query.
    pub fn query(&self) -> &Arc<dyn ExecutionPlan> {
        &self.query.plan
    }
}

impl DisplayAs for ApplyExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self.query.gives {
            Gives::Value => "value",
            Gives::Exists => "exists",
            Gives::Any => "any",
            Gives::Rows => "rows",
            Gives::RowsOrNull => "rows or null",
        };
        write!(f, "Apply: {what}, outer=[")?;
        for (i, expr) in self.query.outer.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}$outer{}: {expr}", self.query.first_slot + i)?;
        }
        f.write_str("]")
    }
}

impl ExecutionPlan for ApplyExec {
    fn name(&self) -> &'static str {
        "ApplyExec"
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
        for expr in &self.query.outer {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (query, cell) = (self.query.clone(), Arc::clone(&self.cell));
        Ok(Arc::new(Self::new(children.swap_remove(0), query, cell, self.schema())))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (query, cell) = (self.query.clone(), Arc::clone(&self.cell));
        Ok(Arc::new(Self::new(children.swap_remove(0), query, cell, self.schema())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let rows = matches!(self.query.gives, Gives::Rows | Gives::RowsOrNull);
        let applying = Applying {
            input: self.input.execute(partition, Arc::clone(&context))?,
            asked: Asked::new(&self.query, self.cell.get()?, context),
            schema: self.schema(),
            batch: None,
            row: 0,
            answer: None,
        };
        let batches = stream::try_unfold(applying, move |mut applying| async move {
            let batch = match rows {
                true => applying.rows().await?,
                false => applying.values().await?,
            };
            Ok(batch.map(|batch| (batch, applying)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// The query, asked again and again.
struct Asked {
    query: ApplyQuery,
    /// Whether `query.plan` keeps something from one execution to the next.
    stateless: bool,
    uses: usize,
    answers: Answers,
    state: Arc<RunState>,
    context: Arc<TaskContext>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.query.cell.clear();
    }
}

impl Asked {
    fn new(query: &ApplyQuery, state: Arc<RunState>, context: Arc<TaskContext>) -> Self {
        let stateless = is_stateless(&query.plan);
        // The plan of an earlier execution: it may hold what that one left.
        let uses = if stateless { 0 } else { 1 };
        Self { query: query.clone(), stateless, uses, answers: Answers::new(), state, context }
    }

    /// Starts the query for an outer row.
    fn ask(&mut self, outer: &[ScalarValue]) -> DfResult<SendableRecordBatchStream> {
        if self.uses >= USES_MAX || (self.uses > 0 && !self.stateless) {
            self.query.plan = reset_plan_states(Arc::clone(&self.query.plan))?;
            self.uses = 0;
        }
        self.uses += 1;
        let state = self.state.with_outer(self.query.first_slot, outer);
        self.query.cell.set(Arc::new(state));
        self.query.plan.execute(0, Arc::clone(&self.context))
    }

    /// What a query that gives a value gives for an outer row.
    async fn answer(&mut self, outer: Vec<ScalarValue>) -> DfResult<ScalarValue> {
        if let Some(known) = self.answers.get(&outer) {
            return Ok(known.clone());
        }
        let mut batches = self.ask(&outer)?;
        let answer = match self.query.gives {
            Gives::Exists => exists(&mut batches).await?,
            Gives::Any => any(&mut batches).await?,
            _ => value(&mut batches).await?,
        };
        drop(batches);
        let bytes: usize = outer.iter().chain([&answer]).map(ScalarValue::size).sum();
        let small = bytes <= ANSWER_BYTES_MAX && self.answers.len() < ANSWERS_MAX;
        if small && !self.query.volatile {
            self.answers.insert(outer, answer.clone());
        }
        Ok(answer)
    }
}

async fn value(batches: &mut SendableRecordBatchStream) -> DfResult<ScalarValue> {
    let mut found = None;
    while let Some(batch) = batches.next().await.transpose()? {
        if batch.num_rows() == 0 {
            continue;
        }
        if found.is_some() || batch.num_rows() > 1 {
            let message = "more than one row returned by a subquery used as an expression";
            return Err(SqlError::new(SqlState::CARDINALITY_VIOLATION, message).into());
        }
        found = Some(ScalarValue::try_from_array(batch.column(0), 0)?);
    }
    match found {
        Some(value) => Ok(value),
        None => ScalarValue::try_from(batches.schema().field(0).data_type()),
    }
}

async fn exists(batches: &mut SendableRecordBatchStream) -> DfResult<ScalarValue> {
    while let Some(batch) = batches.next().await.transpose()? {
        if batch.num_rows() > 0 {
            return Ok(ScalarValue::Boolean(Some(true)));
        }
    }
    Ok(ScalarValue::Boolean(Some(false)))
}

async fn any(batches: &mut SendableRecordBatchStream) -> DfResult<ScalarValue> {
    let mut unknown = false;
    while let Some(batch) = batches.next().await.transpose()? {
        let truths: &BooleanArray = as_boolean_array(batch.column(0))?;
        if truths.true_count() > 0 {
            return Ok(ScalarValue::Boolean(Some(true)));
        }
        unknown |= truths.null_count() > 0;
    }
    Ok(ScalarValue::Boolean(if unknown { None } else { Some(false) }))
}

/// One execution of the node.
struct Applying {
    input: SendableRecordBatchStream,
    asked: Asked,
    schema: SchemaRef,
    /// The rows at hand with what the query reads of them, and the first not yet asked about.
    batch: Option<(RecordBatch, Vec<ArrayRef>)>,
    row: usize,
    /// The query's rows for the row before `row`, if there may be more of them.
    answer: Option<(SendableRecordBatchStream, bool)>,
}

impl Applying {
    /// Sees to it that there is a row to ask about; false: there are no more.
    async fn fill(&mut self) -> DfResult<bool> {
        while self.batch.as_ref().is_none_or(|(batch, _)| self.row >= batch.num_rows()) {
            let Some(batch) = self.input.next().await.transpose()? else { return Ok(false) };
            let rows = batch.num_rows();
            let outer = self.asked.query.outer.iter();
            let outer = outer.map(|expr| expr.evaluate(&batch)?.into_array(rows));
            self.batch = Some((batch.clone(), outer.collect::<DfResult<Vec<_>>>()?));
            self.row = 0;
        }
        Ok(true)
    }

    /// The outer values of the row at hand.
    fn outer(&self) -> SqlResult<Vec<ScalarValue>> {
        let Some((_, outer)) = &self.batch else {
            return Err(SqlError::internal("there is no row to ask about"));
        };
        let values = outer.iter().map(|array| ScalarValue::try_from_array(array, self.row));
        Ok(values.collect::<DfResult<Vec<_>>>()?)
    }

    /// The next rows with their values.
    async fn values(&mut self) -> DfResult<Option<RecordBatch>> {
        if !self.fill().await? {
            return Ok(None);
        }
        let Some((batch, _)) = &self.batch else { return Ok(None) };
        let part = batch.slice(self.row, BATCH_ROWS.min(batch.num_rows() - self.row));
        let mut answers = Vec::with_capacity(part.num_rows());
        for i in 0..part.num_rows() {
            if i % QUERIES_PER_TURN == QUERIES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let outer = self.outer()?;
            answers.push(self.asked.answer(outer).await?);
            self.row += 1;
        }
        let mut columns = part.columns().to_vec();
        columns.push(ScalarValue::iter_to_array(answers)?);
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }

    fn found(&self) -> Found {
        let own = self.schema.fields().iter().skip(self.input.schema().fields().len());
        let schema = Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()));
        Found { schema, outer: Vec::new(), parts: Vec::new() }
    }

    /// The next rows, each with a row of its query.
    async fn rows(&mut self) -> DfResult<Option<RecordBatch>> {
        let mut found = self.found();
        let mut asked = 0;
        loop {
            if self.answer.is_none() {
                // Rows of one batch of the input at a time.
                let last = self.batch.as_ref().is_none_or(|(b, _)| self.row >= b.num_rows());
                if (last && found.count() > 0) || !self.fill().await? {
                    break;
                }
                let outer = self.outer()?;
                self.answer = Some((self.asked.ask(&outer)?, false));
                self.row += 1;
                asked += 1;
                if asked % QUERIES_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let Some((batches, any)) = &mut self.answer else { break };
            let outer = u32::try_from(self.row - 1).unwrap_or(u32::MAX);
            match batches.next().await.transpose()? {
                Some(batch) => {
                    *any |= batch.num_rows() > 0;
                    found.add(outer, batch);
                }
                None => {
                    if self.asked.query.gives == Gives::RowsOrNull && !*any {
                        found.add_nulls(outer)?;
                    }
                    self.answer = None;
                }
            }
            if found.count() >= BATCH_ROWS {
                break;
            }
        }
        match &self.batch {
            Some((batch, _)) if found.count() > 0 => found.joined(batch, &self.schema).map(Some),
            _ => Ok(None),
        }
    }
}

/// Rows of queries, each with the place of its outer row.
struct Found {
    /// The query's columns, NULL where the node's are.
    schema: SchemaRef,
    outer: Vec<u32>,
    parts: Vec<RecordBatch>,
}

impl Found {
    fn count(&self) -> usize {
        self.outer.len()
    }

    fn add(&mut self, outer: u32, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.outer.extend(std::iter::repeat_n(outer, batch.num_rows()));
            self.parts.push(batch);
        }
    }

    fn add_nulls(&mut self, outer: u32) -> DfResult<()> {
        let nulls = self.schema.fields().iter().map(|f| new_null_array(f.data_type(), 1));
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let schema = Arc::clone(&self.schema);
        self.add(outer, RecordBatch::try_new_with_options(schema, nulls.collect(), &one)?);
        Ok(())
    }

    /// The outer rows beside what was found for them.
    fn joined(self, batch: &RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
        let places = UInt32Array::from(self.outer);
        let mut columns = Vec::with_capacity(schema.fields().len());
        for column in batch.columns() {
            columns.push(take(column.as_ref(), &places, None)?);
        }
        let own = concat_batches(&self.schema, &self.parts)?;
        columns.extend(own.columns().iter().cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}
