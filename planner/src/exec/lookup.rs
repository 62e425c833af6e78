//! The join that looks its inner rows up by key: batches of outer rows become batches of gets (or
//! short scans) of an index of the inner table.
//!
//! The rule takes it instead of a hash join where the join's equalities continue a prefix of an
//! inner index further than the inner table's own filter does, and the outer side reads little.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use datafusion::arrow::compute::{filter_record_batch, take, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinSide, JoinType, NullEquality, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

use super::access::{AccessPath, whole_prefix};
use super::run::RunState;
use super::scan::{GETS_PER_REQUEST, ScanExec, evaluate_filter};
use crate::catalog::{IndexDef, IndexId, IndexState};
use crate::error::{SqlError, SqlResult};
use crate::keyenc::{self, Datum};
use crate::kv::ScanRequest;

/// Outer rows that are looked up together.
const OUTER_ROWS: usize = 1024;

/// Joins outer rows with the inner rows their keys name.
#[derive(Debug, Clone)]
pub struct LookupJoinExec {
    outer: Arc<dyn ExecutionPlan>,
    /// The inner table: its layout, filter and projection.
    inner: ScanExec,
    index: IndexId,
    /// For each column of the index's prefix, where its value comes from.
    prefix: Vec<KeyPart>,
    /// Whether a whole unique key is looked up.
    points: bool,
    /// All equalities of the join, as columns of the outer and the inner side.
    on: Vec<(usize, usize)>,
    /// What else must hold, over outer columns followed by inner ones.
    filter: Option<JoinFilter>,
    /// What becomes of rows with and without a match.
    mode: Mode,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

/// The sorts of joins that can be done by looking up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Outer and inner rows that match.
    Inner,
    /// The same, and outer rows without a match with NULLs.
    Left,
    /// Inner rows that some outer row matches, each once.
    SemiInner,
}

/// Where the value of a key column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyPart {
    /// The inner table's own filter: the n-th column of its access path.
    Fixed(usize),
    /// An outer column.
    Outer(usize),
}

impl LookupJoinExec {
    fn properties_of(
        outer: &Arc<dyn ExecutionPlan>,
        schema: &SchemaRef,
        mode: Mode,
    ) -> Arc<PlanProperties> {
        // Outer columns come first and outer rows keep their order.
        let orders = outer.equivalence_properties().oeq_class().iter().cloned();
        let equivalence = match mode {
            Mode::SemiInner => EquivalenceProperties::new(Arc::clone(schema)),
            Mode::Inner | Mode::Left => {
                EquivalenceProperties::new_with_orderings(Arc::clone(schema), orders)
            }
        };
        Arc::new(PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ))
    }

    /// The keys (or prefixes) of each outer row; `None` for a NULL, which equals nothing.
    fn keys_of(&self, outer: &RecordBatch, state: &RunState) -> SqlResult<Vec<Option<Bytes>>> {
        let table = self.inner.table();
        let index = table
            .index(self.index)
            .ok_or_else(|| SqlError::internal("the index of a plan is gone"))?;
        let own = self.inner.path.clone();
        let mut keys = Vec::with_capacity(outer.num_rows());
        let mut fixed: HashMap<usize, Option<Vec<u8>>> = HashMap::new();
        for part in &self.prefix {
            if let KeyPart::Fixed(i) = part {
                let single = AccessPath {
                    index: own.index,
                    equal: vec![own.equal[*i].clone()],
                    ..AccessPath::full(own.index)
                };
                fixed.insert(*i, single.first_tail(table, *i, state)?);
            }
        }
        for row in 0..outer.num_rows() {
            let mut key = table.index_prefix(index.id).to_vec();
            let mut whole = true;
            for (part, column) in self.prefix.iter().zip(&index.columns) {
                match part {
                    KeyPart::Fixed(i) => match fixed.get(i) {
                        Some(Some(tail)) => key.extend_from_slice(tail),
                        _ => whole = false,
                    },
                    KeyPart::Outer(i) => {
                        let ty = table
                            .column(column.column)
                            .ok_or_else(|| SqlError::internal("a key column is gone"))?
                            .ty;
                        match Datum::of_cell(outer.column(*i).as_ref(), row)? {
                            Datum::Null => whole = false,
                            value => keyenc::encode(&value, ty, &mut key)?,
                        }
                    }
                }
            }
            keys.push(whole.then(|| Bytes::from(key)));
        }
        Ok(keys)
    }

    /// The inner rows of each distinct key: a batch of all of them, and which are whose.
    async fn look_up(
        &self,
        keys: &[Option<Bytes>],
        state: &RunState,
    ) -> SqlResult<(RecordBatch, HashMap<Bytes, Vec<u64>>)> {
        let mut distinct: Vec<Bytes> = keys.iter().flatten().cloned().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut pairs: Vec<(Bytes, Bytes)> = Vec::new();
        let mut owners: Vec<Bytes> = Vec::new();
        if self.points {
            for some in distinct.chunks(GETS_PER_REQUEST) {
                let values = state.txn.get(some.to_vec()).await?;
                for (key, value) in some.iter().zip(values) {
                    if let Some(value) = value {
                        owners.push(key.clone());
                        pairs.push((key.clone(), value));
                    }
                }
            }
        } else {
            for key in distinct {
                let mut next = Some(whole_prefix(&key));
                while let Some(span) = next.take() {
                    let page = state.txn.scan(ScanRequest::all(span)).await?;
                    owners.extend(page.rows.iter().map(|_| key.clone()));
                    pairs.extend(page.rows);
                    next = page.resume.filter(|rest| !rest.is_empty());
                }
            }
        }
        if self.index != IndexId::PRIMARY {
            let rows = self.inner.layout.entry_rows(self.index, pairs)?;
            pairs = Vec::with_capacity(rows.len());
            for some in rows.chunks(GETS_PER_REQUEST) {
                let keys = some.iter().map(|(key, _)| key.clone()).collect();
                for ((key, _), value) in some.iter().zip(state.txn.get(keys).await?) {
                    let missing = || SqlError::corrupt("an index entry without its row");
                    pairs.push((key.clone(), value.ok_or_else(missing)?));
                }
            }
        }
        let mut batch = self.inner.layout.decode(&pairs)?;
        let mut kept: Vec<u64> = (0..pairs.len() as u64).collect();
        if let Some(filter) = &self.inner.filter {
            let mask = evaluate_filter(filter, &batch)?;
            kept.retain(|i| mask.value(*i as usize));
            batch = filter_record_batch(&batch, &mask)?;
        }
        let mut of: HashMap<Bytes, Vec<u64>> = HashMap::new();
        for (at, i) in kept.iter().enumerate() {
            of.entry(owners[*i as usize].clone()).or_default().push(at as u64);
        }
        Ok((batch.project(&self.inner.projection)?, of))
    }

    /// One batch of outer rows, joined.
    /// `seen` are the keys of earlier batches.
    async fn join(
        &self,
        outer: RecordBatch,
        state: &RunState,
        seen: &mut HashSet<Bytes>,
    ) -> SqlResult<RecordBatch> {
        let mut keys = self.keys_of(&outer, state)?;
        if self.mode == Mode::SemiInner {
            // An inner row has one key: with each key looked up once, each row comes once.
            keys.retain(|key| key.as_ref().is_some_and(|key| seen.insert(key.clone())));
            let (inner, _) = self.look_up(&keys, state).await?;
            let columns = inner.columns().to_vec();
            let options = RecordBatchOptions::new().with_row_count(Some(inner.num_rows()));
            let schema = Arc::clone(&self.schema);
            return Ok(RecordBatch::try_new_with_options(schema, columns, &options)?);
        }
        let (inner, of) = self.look_up(&keys, state).await?;
        let mut outer_rows: Vec<u64> = Vec::new();
        let mut inner_rows: Vec<u64> = Vec::new();
        for (row, key) in keys.iter().enumerate() {
            for at in key.as_ref().and_then(|key| of.get(key)).into_iter().flatten() {
                outer_rows.push(row as u64);
                inner_rows.push(*at);
            }
        }
        let (mut outer_rows, mut inner_rows) =
            self.matching(&outer, &inner, outer_rows, inner_rows)?;
        let mut optional: Vec<Option<u64>> = inner_rows.drain(..).map(Some).collect();
        if self.mode == Mode::Left {
            let mut with_all = Vec::new();
            let mut pairs = outer_rows.iter().zip(&optional).peekable();
            for row in 0..outer.num_rows() as u64 {
                let mut any = false;
                while let Some((_, inner)) = pairs.next_if(|(outer, _)| **outer == row) {
                    with_all.push((row, *inner));
                    any = true;
                }
                if !any {
                    with_all.push((row, None));
                }
            }
            (outer_rows, optional) = with_all.into_iter().unzip();
        }
        let left = take_record_batch(&outer, &UInt64Array::from(outer_rows))?;
        let places = UInt64Array::from(optional);
        let rows = left.num_rows();
        let mut columns: Vec<ArrayRef> = left.columns().to_vec();
        for column in inner.columns() {
            columns.push(take(column.as_ref(), &places, None)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Of the pairs a key brought together, those for which everything else holds too.
    fn matching(
        &self,
        outer: &RecordBatch,
        inner: &RecordBatch,
        outer_rows: Vec<u64>,
        inner_rows: Vec<u64>,
    ) -> SqlResult<(Vec<u64>, Vec<u64>)> {
        let (outer_at, inner_at) = (UInt64Array::from(outer_rows), UInt64Array::from(inner_rows));
        let mut mask = vec![true; outer_at.len()];
        for (left, right) in &self.on {
            let left = take(outer.column(*left).as_ref(), &outer_at, None)?;
            let right = take(inner.column(*right).as_ref(), &inner_at, None)?;
            let equal = datafusion::arrow::compute::kernels::cmp::eq(&left, &right)?;
            for (i, keep) in mask.iter_mut().enumerate() {
                use datafusion::arrow::array::Array;
                *keep &= equal.is_valid(i) && equal.value(i);
            }
        }
        if let Some(filter) = &self.filter {
            let mut columns: Vec<ArrayRef> = Vec::new();
            for column in filter.column_indices() {
                columns.push(match column.side {
                    JoinSide::Left => take(outer.column(column.index).as_ref(), &outer_at, None)?,
                    _ => take(inner.column(column.index).as_ref(), &inner_at, None)?,
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(mask.len()));
            let schema = Arc::clone(filter.schema());
            let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
            let kept = evaluate_filter(filter.expression(), &batch)?;
            mask.iter_mut().zip(kept.values()).for_each(|(keep, holds)| *keep &= holds);
        }
        let kept = |rows: &UInt64Array| -> Vec<u64> {
            rows.values().iter().zip(&mask).filter(|(_, keep)| **keep).map(|(i, _)| *i).collect()
        };
        Ok((kept(&outer_at), kept(&inner_at)))
    }
}

impl DisplayAs for LookupJoinExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let table = self.inner.table();
        let index = table.index(self.index).map_or("?", |i| i.name.as_str());
        let kind = match self.mode {
            Mode::Inner => "inner",
            Mode::Left => "left",
            Mode::SemiInner => "semi",
        };
        let reads = if self.points { "gets" } else { "scans" };
        write!(f, "LookupJoin: {kind}, table={}, index={index}, {reads}", table.name)?;
        if let Some(filter) = &self.inner.filter {
            write!(f, ", filter={filter}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for LookupJoinExec {
    fn name(&self) -> &'static str {
        "LookupJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.outer]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let mut join = self.as_ref().clone();
        join.outer = children.swap_remove(0);
        join.properties = Self::properties_of(&join.outer, &join.schema, join.mode);
        Ok(Arc::new(join))
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
        let state = self.inner.cell.get()?;
        let outer = self.outer.execute(partition, context)?;
        let batches = stream::try_unfold(
            (outer, None::<RecordBatch>, self.clone(), state, HashSet::new()),
            |(mut outer, mut rest, join, state, mut seen)| async move {
                loop {
                    let batch = match rest.take() {
                        Some(batch) => batch,
                        None => match outer.next().await.transpose()? {
                            Some(batch) => batch,
                            None => return Ok(None),
                        },
                    };
                    let rows = batch.num_rows().min(OUTER_ROWS);
                    if rows < batch.num_rows() {
                        rest = Some(batch.slice(rows, batch.num_rows() - rows));
                    }
                    if rows == 0 {
                        continue;
                    }
                    let joined = join.join(batch.slice(0, rows), &state, &mut seen).await?;
                    if joined.num_rows() > 0 {
                        return Ok(Some((joined, (outer, rest, join, state, seen))));
                    }
                }
            },
        );
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}

/// The rule that puts [`LookupJoinExec`] in place of a hash join.
#[derive(Debug, Default)]
pub struct LookupJoins;

impl PhysicalOptimizerRule for LookupJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else {
                return Ok(Transformed::no(node));
            };
            Ok(match replace(join)? {
                Some(lookup) => Transformed::yes(lookup),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "lookup_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a plan reads few rows, as far as keys and limits tell.
fn is_selective(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(scan) = plan.downcast_ref::<ScanExec>() {
        return scan.is_selective();
    }
    if plan.fetch().is_some() || plan.downcast_ref::<super::rows::ParamValuesExec>().is_some() {
        return true;
    }
    let children = plan.children();
    let lookup = plan.downcast_ref::<LookupJoinExec>().is_some();
    match children.as_slice() {
        [] => plan.name() == "PlaceholderRowExec" || plan.name() == "EmptyExec",
        [only] => is_selective(only) || (lookup && is_selective(only)),
        several => several.iter().all(|child| is_selective(child)),
    }
}

fn replace(join: &HashJoinExec) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    if join.null_equality() != NullEquality::NullEqualsNothing || join.null_aware {
        return Ok(None);
    }
    let columns = |expr: &Arc<dyn PhysicalExpr>| {
        let any: &dyn std::any::Any = expr.as_ref();
        any.downcast_ref::<Column>().map(Column::index)
    };
    let pairs = join.on().iter().map(|(l, r)| Some((columns(l)?, columns(r)?)));
    let Some(on) = pairs.collect::<Option<Vec<(usize, usize)>>>() else { return Ok(None) };
    let swapped: Vec<_> = on.iter().map(|(l, r)| (*r, *l)).collect();
    let filter = join.filter().cloned();
    let (left, right) = (join.left(), join.right());
    let plain = |swap: bool| match join.join_type() {
        JoinType::Inner => Some(Mode::Inner),
        JoinType::Left if !swap => Some(Mode::Left),
        JoinType::Right if swap => Some(Mode::Left),
        JoinType::RightSemi if !swap && filter.is_none() => Some(Mode::SemiInner),
        JoinType::LeftSemi if swap && filter.is_none() => Some(Mode::SemiInner),
        _ => None,
    };
    for swap in [false, true] {
        let Some(mode) = plain(swap) else { continue };
        let (outer, inner, on) = if swap { (right, left, &swapped) } else { (left, right, &on) };
        let filter = filter.clone().map(|f| if swap { f.swap() } else { f });
        if !is_selective(outer) {
            continue;
        }
        if let Some(lookup) = lookup(outer, inner, on, filter, mode)? {
            if mode == Mode::SemiInner {
                return semi_columns(join, lookup).map(Some);
            }
            return ordered_as(join, lookup, swap).map(Some);
        }
    }
    Ok(None)
}

/// The scan that a plan is, or of which it takes some columns in some order. (A semi join puts the
/// scan's own columns out.)
fn inner_scan(plan: &Arc<dyn ExecutionPlan>, mode: Mode) -> Option<ScanExec> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>()
        && mode != Mode::SemiInner
    {
        let mut scan = inner_scan(projection.input(), mode)?;
        let places = projection.expr().iter().map(|of| {
            let any: &dyn std::any::Any = of.expr.as_ref();
            any.downcast_ref::<Column>().map(|column| scan.projection[column.index()])
        });
        scan.projection = places.collect::<Option<_>>()?;
        return scan.projected().ok();
    }
    let scan = plan.downcast_ref::<ScanExec>()?;
    scan.limit.is_none().then(|| scan.clone())
}

fn lookup(
    outer: &Arc<dyn ExecutionPlan>,
    inner: &Arc<dyn ExecutionPlan>,
    on: &[(usize, usize)],
    filter: Option<JoinFilter>,
    mode: Mode,
) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    let Some(scan) = inner_scan(inner, mode) else { return Ok(None) };
    let table = Arc::clone(scan.table());
    let schema = outer.schema();
    let best = table
        .indexes
        .iter()
        .filter(|index| index.state == IndexState::Public)
        .filter_map(|index| {
            let prefix = prefix_of(&scan, index, on, &schema)?;
            let whole = prefix.len() == index.columns.len();
            let points = whole && (index.unique || index.id == IndexId::PRIMARY);
            Some((points, prefix.len(), index.id == IndexId::PRIMARY, index.id, prefix))
        })
        .max_by_key(|(points, length, primary, ..)| (*points, *length, *primary));
    let Some((points, _, _, index, prefix)) = best else { return Ok(None) };
    // Conjuncts the scan's own path answered and this prefix does not would be lost.
    let kept = scan.path.equal.len();
    let answered = prefix.iter().filter(|part| matches!(part, KeyPart::Fixed(_))).count();
    let ranged = !scan.path.lower.is_empty() || !scan.path.upper.is_empty();
    if answered < kept || ranged {
        return Ok(None);
    }
    // A semi join compares nothing but keys.
    if mode == Mode::SemiInner && prefix.len() - answered != on.len() {
        return Ok(None);
    }
    let fields = outer.schema().fields().iter().cloned().collect::<Vec<_>>();
    let inner_schema = scan.schema();
    let inner_fields = inner_schema.fields().iter().map(|field| {
        let nullable = field.is_nullable() || mode == Mode::Left;
        Arc::new(field.as_ref().clone().with_nullable(nullable))
    });
    let all = match mode {
        Mode::SemiInner => inner_fields.collect::<Vec<_>>(),
        Mode::Inner | Mode::Left => fields.into_iter().chain(inner_fields).collect(),
    };
    let schema: SchemaRef = Arc::new(datafusion::arrow::datatypes::Schema::new(all));
    let properties = LookupJoinExec::properties_of(outer, &schema, mode);
    Ok(Some(Arc::new(LookupJoinExec {
        outer: Arc::clone(outer),
        inner: scan,
        index,
        prefix,
        points,
        on: on.to_vec(),
        filter,
        mode,
        schema,
        properties,
    })))
}

/// Where the values of an index's first columns come from; `None` unless the join gives one.
fn prefix_of(
    scan: &ScanExec,
    index: &IndexDef,
    on: &[(usize, usize)],
    outer: &SchemaRef,
) -> Option<Vec<KeyPart>> {
    let table = scan.table();
    let own = table.index(scan.path.index)?;
    let mut prefix = Vec::new();
    for part in &index.columns {
        let column = table.column(part.column)?;
        let place = table.position(part.column)?;
        let joined = on.iter().find(|(left, right)| {
            let same = scan.layout.columns()[scan.projection[*right]] == place;
            same && *outer.field(*left).data_type() == column.ty.arrow()
        });
        let fixed = own
            .columns
            .iter()
            .position(|c| c.column == part.column)
            .filter(|i| scan.path.equal.get(*i).is_some_and(|values| values.len() == 1));
        match (joined, fixed) {
            (_, Some(i)) => prefix.push(KeyPart::Fixed(i)),
            (Some((left, _)), None) => prefix.push(KeyPart::Outer(*left)),
            (None, None) => break,
        }
    }
    prefix.iter().any(|part| matches!(part, KeyPart::Outer(_))).then_some(prefix)
}

/// The columns a semi join puts out.
fn semi_columns(
    join: &HashJoinExec,
    lookup: Arc<dyn ExecutionPlan>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let Some(projection) = join.projection.as_ref() else { return Ok(lookup) };
    let schema = lookup.schema();
    let exprs = projection.iter().map(|i| {
        let name = schema.field(*i).name().clone();
        ProjectionExpr { expr: Arc::new(Column::new(&name, *i)), alias: name }
    });
    Ok(Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), lookup)?))
}

/// The columns of a lookup join in the order and under the names of the hash join it replaces.
fn ordered_as(
    join: &HashJoinExec,
    lookup: Arc<dyn ExecutionPlan>,
    swapped: bool,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let (left, right) = (join.left().schema().fields().len(), join.right().schema().fields().len());
    let place = |i: usize| match (swapped, i < left) {
        (false, _) => i,
        (true, true) => right + i,
        (true, false) => i - left,
    };
    let all: Vec<usize> = (0..left + right).collect();
    let wanted = join.projection.as_ref().map_or(all, |p| p.to_vec());
    let exprs = wanted.iter().enumerate().map(|(at, i)| {
        let name = join.schema().field(at).name().clone();
        let column = Column::new(lookup.schema().field(place(*i)).name(), place(*i));
        ProjectionExpr { expr: Arc::new(column), alias: name }
    });
    let exprs: Vec<_> = exprs.collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, lookup)?))
}

impl AccessPath {
    /// The encoded value of the only column of this path, which is the `at`-th of its index.
    fn first_tail(
        &self,
        table: &crate::catalog::TableDef,
        at: usize,
        state: &RunState,
    ) -> SqlResult<Option<Vec<u8>>> {
        let index = table
            .index(self.index)
            .ok_or_else(|| SqlError::internal("the index of a plan is gone"))?;
        let column = index.columns.get(at).and_then(|c| table.column(c.column));
        let column = column.ok_or_else(|| SqlError::internal("a key column is gone"))?;
        let tails = super::access::extend_prefixes(&[Vec::new()], &self.equal[0], column, state)?;
        Ok(tails.into_iter().next())
    }
}
