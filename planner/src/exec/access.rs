//! Which keys a scan reads: the part of a WHERE clause that a key answers, chosen when a statement
//! is planned and turned into keys when it is executed.
//!
//! An index is used for equalities on a prefix of its columns (single values or IN lists) and for
//! one range on the column after them. The rule that picks an index: the whole primary key by
//! equality, then a whole unique index by equality, then the longest prefix, then a range, then the
//! primary key in full; among equals one that holds every column needed.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use quorate_txn::keys::prefix_end;

use super::run::{ParameterUdf, RunState, Slot};
use crate::catalog::{ColumnDef, IndexDef, IndexId, IndexState, TableDef};
use crate::error::{SqlError, SqlResult};
use crate::exec::fetch::encode_key_value;
use crate::kv::Span;

/// Points one scan may compute out of IN lists before it rather scans.
const POINTS_MAX: usize = 4096;

/// Where a value that bounds a scan comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is known.
    Literal(ScalarValue),
    /// A parameter or session value.
    Slot(Slot),
    /// An expression without columns.
    Computed(Arc<dyn PhysicalExpr>),
}

impl Source {
    /// The source of an expression without columns; `None` for any other.
    pub fn of(expr: &Expr) -> Option<Source> {
        if !expr.column_refs().is_empty() || expr.is_volatile() {
            return None;
        }
        match expr {
            Expr::Literal(value, _) => return Some(Source::Literal(value.clone())),
            Expr::ScalarFunction(call) => {
                let inner: &dyn std::any::Any = call.func.inner().as_ref();
                if let Some(parameter) = inner.downcast_ref::<ParameterUdf>() {
                    return Some(Source::Slot(parameter.slot()));
                }
            }
            _ => {}
        }
        let props = ExecutionProps::new();
        let context = PhysicalPlanningContext::default();
        create_physical_expr(expr, &DFSchema::empty(), &props, &context).ok().map(Source::Computed)
    }

    /// The value in this execution.
    pub fn value(&self, state: &RunState) -> SqlResult<ScalarValue> {
        match self {
            Source::Literal(value) => Ok(value.clone()),
            Source::Slot(slot) => slot.value(state),
            Source::Computed(expr) => {
                let one = RecordBatchOptions::new().with_row_count(Some(1));
                let batch =
                    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &one)?;
                let array = expr.evaluate(&batch)?.into_array(1)?;
                Ok(ScalarValue::try_from_array(&array, 0)?)
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Literal(ScalarValue::Utf8(Some(text))) => write!(f, "'{text}'"),
            Source::Literal(value) => write!(f, "{value}"),
            Source::Slot(slot) => f.write_str(&slot.placeholder()),
            Source::Computed(expr) => write!(f, "{expr}"),
        }
    }
}

/// One conjunct of a WHERE clause that a key may answer: `column op value`.
struct KeyCondition {
    column: usize,
    op: Operator,
    /// One value, or the members of an IN list (with [`Operator::Eq`]).
    values: Vec<Source>,
    /// Place of the conjunct.
    conjunct: usize,
}

/// The keys one scan reads, up to the values of parameters.
#[derive(Debug, Clone)]
pub struct AccessPath {
    /// The index that is read.
    pub index: IndexId,
    /// For each of the first columns of the index, the values it may have.
    pub equal: Vec<Vec<Source>>,
    /// `>` (false) and `>=` (true) on the column after them.
    pub lower: Vec<(Source, bool)>,
    /// `<` (false) and `<=` (true) on the column after them.
    pub upper: Vec<(Source, bool)>,
    /// Whether `equal` names at most one row for each combination of values.
    pub points: bool,
}

/// What an [`AccessPath`] comes to in one execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySet {
    /// Single keys, ascending.
    Points(Vec<Bytes>),
    /// Spans, ascending and disjoint.
    Spans(Vec<Span>),
}

/// Splits filters at their top-level ANDs.
pub fn conjuncts(filters: &[Expr]) -> Vec<Expr> {
    let mut out = Vec::new();
    let mut stack: Vec<&Expr> = filters.iter().rev().collect();
    while let Some(expr) = stack.pop() {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                stack.push(right);
                stack.push(left);
            }
            other => out.push(other.clone()),
        }
    }
    out
}

/// The column a side of a comparison stands for: itself, or widened from one integer to another.
fn column_of(expr: &Expr, table: &TableDef) -> Option<usize> {
    let named = |expr: &Expr| match expr {
        Expr::Column(column) => table.columns.iter().position(|c| c.name == column.name),
        _ => None,
    };
    match expr {
        Expr::Cast(cast) => {
            let column = named(&cast.expr)?;
            let from = table.columns[column].ty.arrow();
            (from.is_integer() && cast.field.data_type().is_integer()).then_some(column)
        }
        other => named(other),
    }
}

/// Whether a value of the type can become a key of the column without changing what is equal.
fn comparable(column: &ColumnDef, ty: &DataType) -> bool {
    let own = column.ty.arrow();
    own == *ty || *ty == DataType::Null || (own.is_signed_integer() && ty.is_signed_integer())
}

/// `a = 1 OR a = 2`, which is what DataFusion makes of a short IN list: the column and the values.
fn alternatives(expr: &Expr) -> Option<(&Expr, Vec<&Expr>)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    match op {
        Operator::Or => {
            let (column, mut values) = alternatives(left)?;
            let (other, more) = alternatives(right)?;
            values.extend(more);
            (column == other && values.len() <= POINTS_MAX).then_some((column, values))
        }
        Operator::Eq if !left.column_refs().is_empty() => Some((left, vec![right])),
        Operator::Eq => Some((right, vec![left])),
        _ => None,
    }
}

fn key_conditions(table: &TableDef, conjuncts: &[Expr]) -> Vec<KeyCondition> {
    let mut out = Vec::new();
    for (conjunct, expr) in conjuncts.iter().enumerate() {
        let mut add = |column_side: &Expr, op: Operator, values: &[&Expr]| {
            let Some(column) = column_of(column_side, table) else { return };
            let typed = |value: &&Expr| {
                let ty =
                    datafusion::logical_expr::ExprSchemable::get_type(*value, &DFSchema::empty());
                ty.is_ok_and(|ty| comparable(&table.columns[column], &ty))
            };
            if !values.iter().all(typed) {
                return;
            }
            let sources: Option<Vec<_>> = values.iter().map(|value| Source::of(value)).collect();
            if let Some(values) = sources {
                out.push(KeyCondition { column, op, values, conjunct });
            }
        };
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                    add(left, *op, &[right]);
                    if let Some(swapped) = op.swap() {
                        add(right, swapped, &[left]);
                    }
                }
                Operator::Or => {
                    if let Some((column, values)) = alternatives(expr) {
                        add(column, Operator::Eq, &values);
                    }
                }
                _ => {}
            },
            Expr::InList(list) if !list.negated && list.list.len() <= POINTS_MAX => {
                add(&list.expr, Operator::Eq, &list.list.iter().collect::<Vec<_>>());
            }
            Expr::Between(between) if !between.negated => {
                // Both halves stand for the one conjunct, so it stays a filter beside the range.
                add(&between.expr, Operator::GtEq, &[&between.low]);
                add(&between.expr, Operator::LtEq, &[&between.high]);
            }
            _ => {}
        }
    }
    out
}

/// A candidate, and the conjuncts it answers entirely.
struct Candidate {
    path: AccessPath,
    answered: Vec<usize>,
    rank: (u8, usize, bool, bool, bool),
}

fn candidate(
    table: &TableDef,
    index: &IndexDef,
    conditions: &[KeyCondition],
    needed: &[usize],
) -> Candidate {
    let mut path = AccessPath {
        index: index.id,
        equal: Vec::new(),
        lower: Vec::new(),
        upper: Vec::new(),
        points: false,
    };
    let mut answered = Vec::new();
    let mut points = 1usize;
    for key_column in &index.columns {
        let Some(column) = table.position(key_column.column) else { break };
        let equal = conditions
            .iter()
            .filter(|c| c.column == column && c.op == Operator::Eq)
            .filter(|c| points.saturating_mul(c.values.len()) <= POINTS_MAX)
            .min_by_key(|c| c.values.len());
        if let Some(equal) = equal {
            points = points.saturating_mul(equal.values.len());
            path.equal.push(equal.values.clone());
            answered.push(equal.conjunct);
            continue;
        }
        for condition in conditions.iter().filter(|c| c.column == column) {
            let side = match condition.op {
                Operator::Gt | Operator::GtEq => &mut path.lower,
                Operator::Lt | Operator::LtEq => &mut path.upper,
                _ => continue,
            };
            let inclusive = matches!(condition.op, Operator::GtEq | Operator::LtEq);
            side.extend(condition.values.iter().map(|value| (value.clone(), inclusive)));
            // NULLs have a place in the key order, a range may hold them: filter again.
            if !table.columns[column].nullable {
                answered.push(condition.conjunct);
            }
        }
        break;
    }
    let primary = index.id == IndexId::PRIMARY;
    let whole = path.equal.len() == index.columns.len();
    path.points = whole && (primary || index.unique);
    let range = !path.lower.is_empty() || !path.upper.is_empty();
    let class = if path.points && primary { 2 } else { u8::from(path.points) };
    let covering = primary || covers(table, index, needed);
    Candidate { rank: (class, path.equal.len(), range, covering, primary), path, answered }
}

/// Whether an index's entries hold every column in `needed` (places in the table).
pub fn covers(table: &TableDef, index: &IndexDef, needed: &[usize]) -> bool {
    let suffix = table.primary().columns.iter().map(|c| c.column);
    let held: Vec<_> = index.columns.iter().map(|c| c.column).chain(suffix).collect();
    needed.iter().all(|&place| held.contains(&table.columns[place].id))
}

/// Picks the keys to read for filters (already split), and says which conjuncts they answer
/// entirely. `needed` are the columns the scan must produce or filter by.
pub fn choose(table: &TableDef, conjuncts: &[Expr], needed: &[usize]) -> (AccessPath, Vec<usize>) {
    let conditions = key_conditions(table, conjuncts);
    let best = table
        .indexes
        .iter()
        .filter(|index| index.state == IndexState::Public)
        .map(|index| candidate(table, index, &conditions, needed))
        .filter(|c| c.path.index == IndexId::PRIMARY || c.rank.0 > 0 || c.rank.1 > 0 || c.rank.2)
        .max_by_key(|c| c.rank)
        .expect("the primary key is always public");
    let mut answered = best.answered;
    // A BETWEEN counts as two conditions of one conjunct: it is answered if both are.
    let between = |i: &usize| matches!(conjuncts[*i], Expr::Between(_));
    let whole = |i: &usize, all: &[usize]| all.iter().filter(|j| *j == i).count() == 2;
    let all = answered.clone();
    answered.retain(|i| !between(i) || whole(i, &all));
    answered.sort_unstable();
    answered.dedup();
    (best.path, answered)
}

/// A value brought to a column's own type; out of range, the side it lies on.
enum Narrowed {
    Value(ScalarValue),
    Below,
    Above,
}

fn narrow(value: ScalarValue, column: &ColumnDef) -> SqlResult<Narrowed> {
    let own = column.ty.arrow();
    if value.data_type() == own || value.is_null() {
        return Ok(Narrowed::Value(value));
    }
    let wide = match value {
        ScalarValue::Int8(Some(n)) => i64::from(n),
        ScalarValue::Int16(Some(n)) => i64::from(n),
        ScalarValue::Int32(Some(n)) => i64::from(n),
        ScalarValue::Int64(Some(n)) => n,
        other => {
            return Err(SqlError::internal(format!(
                "a key of type {own} was compared with {}",
                other.data_type()
            )));
        }
    };
    let narrowed = match own {
        DataType::Int16 => i16::try_from(wide).ok().map(|n| ScalarValue::Int16(Some(n))),
        DataType::Int32 => i32::try_from(wide).ok().map(|n| ScalarValue::Int32(Some(n))),
        _ => Some(ScalarValue::Int64(Some(wide))),
    };
    let side = if wide < 0 { Narrowed::Below } else { Narrowed::Above };
    Ok(narrowed.map_or(side, Narrowed::Value))
}

impl AccessPath {
    /// A scan of the whole primary key.
    pub fn full(index: IndexId) -> Self {
        Self { index, equal: vec![], lower: vec![], upper: vec![], points: false }
    }

    /// Whether every execution reads at most one row.
    pub fn is_single_row(&self) -> bool {
        self.points && self.equal.iter().all(|values| values.len() == 1)
    }

    /// How many columns of the index have one value throughout the scan.
    pub fn constant_columns(&self) -> usize {
        self.equal.iter().take_while(|values| values.len() == 1).count()
    }

    /// The keys of this execution.
    pub fn keys(&self, table: &TableDef, state: &RunState) -> SqlResult<KeySet> {
        let index = table
            .index(self.index)
            .ok_or_else(|| SqlError::internal("the index of a plan is gone"))?;
        let columns: Vec<&ColumnDef> =
            index.columns.iter().filter_map(|c| table.column(c.column)).collect();
        let mut prefixes = vec![table.index_prefix(index.id).to_vec()];
        for (values, column) in self.equal.iter().zip(&columns) {
            prefixes = extend_prefixes(&prefixes, values, column, state)?;
        }
        if self.points {
            return Ok(KeySet::Points(prefixes.into_iter().map(Bytes::from).collect()));
        }
        let mut spans = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let bounded = match columns.get(self.equal.len()) {
                Some(column) => self.bound(&prefix, column, state)?,
                None => Some(whole_prefix(&prefix)),
            };
            spans.extend(bounded.filter(|span| !span.is_empty()));
        }
        Ok(KeySet::Spans(spans))
    }

    /// The span of `prefix` within the bounds on the next column; `None` if nothing can match.
    fn bound(
        &self,
        prefix: &[u8],
        column: &ColumnDef,
        state: &RunState,
    ) -> SqlResult<Option<Span>> {
        let Span { mut start, mut end } = whole_prefix(prefix);
        for (source, inclusive) in &self.lower {
            let value = match narrow(source.value(state)?, column)? {
                Narrowed::Below => continue,
                Narrowed::Above => return Ok(None),
                Narrowed::Value(value) if value.is_null() => return Ok(None),
                Narrowed::Value(value) => value,
            };
            let mut key = prefix.to_vec();
            encode_key_value(&mut key, column, &value)?;
            let bound = if *inclusive { key } else { prefix_end(&key).to_vec() };
            start = start.max(Bytes::from(bound));
        }
        for (source, inclusive) in &self.upper {
            let value = match narrow(source.value(state)?, column)? {
                Narrowed::Below => return Ok(None),
                Narrowed::Above => continue,
                Narrowed::Value(value) if value.is_null() => return Ok(None),
                Narrowed::Value(value) => value,
            };
            let mut key = prefix.to_vec();
            encode_key_value(&mut key, column, &value)?;
            let bound = if *inclusive { prefix_end(&key).to_vec() } else { key };
            end = end.min(Bytes::from(bound));
        }
        Ok(Some(Span { start, end }))
    }
}

/// All keys that start with `prefix`.
pub fn whole_prefix(prefix: &[u8]) -> Span {
    Span::new(prefix.to_vec(), prefix_end(prefix).to_vec())
}

/// Each prefix with each value appended, ascending and without repeats; NULLs equal nothing.
pub(super) fn extend_prefixes(
    prefixes: &[Vec<u8>],
    values: &[Source],
    column: &ColumnDef,
    state: &RunState,
) -> SqlResult<Vec<Vec<u8>>> {
    let mut tails = Vec::with_capacity(values.len());
    for source in values {
        if let Narrowed::Value(value) = narrow(source.value(state)?, column)?
            && !value.is_null()
        {
            let mut tail = Vec::new();
            encode_key_value(&mut tail, column, &value)?;
            tails.push(tail);
        }
    }
    tails.sort_unstable();
    tails.dedup();
    let joined = prefixes.iter().flat_map(|prefix| {
        tails.iter().map(move |tail| [prefix.as_slice(), tail.as_slice()].concat())
    });
    Ok(joined.collect())
}

/// For EXPLAIN: `a = 1, b IN (2, 3), c > $1`.
pub fn describe(path: &AccessPath, table: &TableDef) -> String {
    let name = |i: usize| {
        table
            .index(path.index)
            .and_then(|index| index.columns.get(i))
            .and_then(|c| table.column(c.column))
            .map_or_else(|| "?".to_owned(), |c| c.name.clone())
    };
    let mut parts = Vec::new();
    for (i, values) in path.equal.iter().enumerate() {
        match values.as_slice() {
            [one] => parts.push(format!("{} = {one}", name(i))),
            many => {
                let list: Vec<_> = many.iter().map(ToString::to_string).collect();
                parts.push(format!("{} IN ({})", name(i), list.join(", ")));
            }
        }
    }
    let next = name(path.equal.len());
    for (value, inclusive) in &path.lower {
        parts.push(format!("{next} {} {value}", if *inclusive { ">=" } else { ">" }));
    }
    for (value, inclusive) in &path.upper {
        parts.push(format!("{next} {} {value}", if *inclusive { "<=" } else { "<" }));
    }
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}
