//! Subqueries that no join stands for become [`Apply`] nodes.
//!
//! DataFusion turns most correlated subqueries into joins. The others are found in two steps:
//! [`before`] that, those it would refuse or take apart wrongly (in ORDER BY, with references over
//! two levels, LATERAL), and [`after`] it, those it left as they were. The rest of its optimizer
//! would move them to where the rows they refer to are not.
//!
//! A reference to a row of the query around is an `OuterReferenceColumn`. It does not say how far
//! out that query is: it belongs to the nearest one that has the column.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ExprSchema, JoinType, Result as DfResult};
use datafusion::logical_expr::expr::{Exists, InSubquery, Placeholder};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{Subquery, check_subquery_expr};
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, LogicalPlanBuilder,
};

use super::engine::Engine;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::Slot;
use crate::exec::apply::{Apply, Gives, free_slot};
use crate::exec::series::Series;

/// Applies for what DataFusion would not understand.
pub fn before(plan: LogicalPlan, engine: &Engine) -> SqlResult<LogicalPlan> {
    if !has_subqueries(&plan)? {
        return Ok(plan);
    }
    let mut lowering = Lowering { engine, slot: free_slot(&plan)?, when: too_much };
    let lowered = plan.transform_down_with_subqueries(|node| Ok(lowering.node(node)?));
    Ok(lowered.data()?)
}

/// Applies for what DataFusion made no join of.
pub fn after(plan: LogicalPlan, engine: &Engine) -> SqlResult<LogicalPlan> {
    let mut lowering = Lowering { engine, slot: free_slot(&plan)?, when: left_over };
    let lowered = plan.transform_down_with_subqueries(|node| Ok(lowering.node(node)?));
    Ok(lowered.data()?)
}

/// The plan, if every column in it is one of its node's inputs: DataFusion loses those of derived
/// tables as it makes joins.
pub fn sound(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    let lost = plan.exists(|node| {
        let inputs = node.inputs();
        if inputs.is_empty() {
            return Ok(false);
        }
        let schema = merge_schema(&inputs);
        let mut lost = false;
        node.apply_expressions(|expr| {
            lost |= expr.column_refs().into_iter().any(|column| !schema.has_column(column));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(lost)
    })?;
    if lost {
        return Err(SqlError::internal("a subquery was made a join of columns that are not there"));
    }
    Ok(plan)
}

/// Whether a plan holds subqueries.
pub fn has_subqueries(plan: &LogicalPlan) -> DfResult<bool> {
    plan.exists(|node| {
        let mut found = matches!(node, LogicalPlan::Subquery(_));
        node.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(subquery_of(expr).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    })
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery)
        | Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. }) => Some(subquery),
        _ => None,
    }
}

/// Whether DataFusion would refuse a subquery of this node or misread its references.
fn too_much(node: &LogicalPlan, expr: &Expr) -> DfResult<bool> {
    let Some(subquery) = subquery_of(expr) else { return Ok(false) };
    let references = References::of(&subquery.subquery)?;
    Ok(references.deep || check_subquery_expr(node, &subquery.subquery, expr).is_err())
}

/// Whether a subquery is one no physical plan can be made of. (A value that depends on no outer
/// row is computed once, by DataFusion.)
fn left_over(_: &LogicalPlan, expr: &Expr) -> DfResult<bool> {
    Ok(match expr {
        Expr::ScalarSubquery(subquery) => References::of(&subquery.subquery)?.any,
        Expr::Exists(_) | Expr::InSubquery(_) => true,
        _ => false,
    })
}

/// What a query refers to around it.
#[derive(Default)]
struct References {
    /// It does.
    any: bool,
    /// It does so from within a subquery of its own.
    deep: bool,
    /// To what.
    columns: Vec<Column>,
}

impl References {
    fn of(query: &LogicalPlan) -> DfResult<Self> {
        let mut found = Self::default();
        Outward {
            inner: vec![],
            each: &mut |reference, depth| {
                if let Expr::OuterReferenceColumn(_, column) = reference {
                    found.columns.push(column.clone());
                }
                found.any = true;
                found.deep |= depth > 0;
                Ok(None)
            },
        }
        .plan(query.clone())?;
        Ok(found)
    }
}

/// Goes through the references of a query to those around it.
struct Outward<'a> {
    /// Columns of the rows that the subqueries on the way down are asked for.
    inner: Vec<DFSchema>,
    /// What a reference becomes, given how many subqueries of the query it stands in.
    each: &'a mut dyn FnMut(&Expr, usize) -> DfResult<Option<Expr>>,
}

impl Outward<'_> {
    fn plan(&mut self, plan: LogicalPlan) -> DfResult<LogicalPlan> {
        let around = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        let plan = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let changed = self.expression(expr, &around)?;
            Ok(changed.update_data(|expr| name.restore(expr)))
        })?;
        match plan.data {
            LogicalPlan::Join(mut join) => {
                join.left = Arc::new(self.plan(Arc::unwrap_or_clone(join.left))?);
                // A LATERAL on the right refers to rows on the left.
                let lateral = join.right.exists(is_lateral)?;
                self.inner.extend(lateral.then(|| join.left.schema().as_ref().clone()));
                join.right = Arc::new(self.plan(Arc::unwrap_or_clone(join.right))?);
                self.inner.truncate(self.inner.len() - usize::from(lateral));
                LogicalPlan::Join(join).recompute_schema()
            }
            LogicalPlan::Subquery(subquery) => Ok(LogicalPlan::Subquery(self.subquery(subquery)?)),
            node => node
                .map_children(|child| self.plan(child).map(Transformed::yes))?
                .data
                .recompute_schema(),
        }
    }

    fn subquery(&mut self, subquery: Subquery) -> DfResult<Subquery> {
        let mut references = Vec::with_capacity(subquery.outer_ref_columns.len());
        for reference in subquery.outer_ref_columns {
            let changed = self.reference(reference)?;
            references.extend((!changed.transformed).then_some(changed.data));
        }
        let query = self.plan(Arc::unwrap_or_clone(subquery.subquery))?;
        let spans = subquery.spans;
        Ok(Subquery { subquery: Arc::new(query), outer_ref_columns: references, spans })
    }

    fn reference(&mut self, expr: Expr) -> DfResult<Transformed<Expr>> {
        let Expr::OuterReferenceColumn(_, column) = &expr else { return Ok(Transformed::no(expr)) };
        if self.inner.iter().any(|schema| schema.has_column(column)) {
            return Ok(Transformed::no(expr));
        }
        let depth = self.inner.len();
        Ok((self.each)(&expr, depth)?.map_or(Transformed::no(expr), Transformed::yes))
    }

    fn expression(&mut self, expr: Expr, around: &DFSchema) -> DfResult<Transformed<Expr>> {
        expr.transform_up(|expr| {
            let mut within = |subquery: Subquery| {
                self.inner.push(around.clone());
                let done = self.subquery(subquery);
                self.inner.pop();
                done
            };
            Ok(Transformed::yes(match expr {
                Expr::ScalarSubquery(subquery) => Expr::ScalarSubquery(within(subquery)?),
                Expr::Exists(Exists { subquery, negated }) => {
                    Expr::Exists(Exists { subquery: within(subquery)?, negated })
                }
                Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                    Expr::InSubquery(InSubquery { expr, subquery: within(subquery)?, negated })
                }
                other => return self.reference(other),
            }))
        })
    }
}

/// A query whose references are parameters, and what they stand for.
struct Freed {
    query: LogicalPlan,
    outer: Vec<Expr>,
    first_slot: usize,
}

/// Makes applies of the subqueries that `when` picks.
struct Lowering<'a> {
    engine: &'a Engine,
    slot: usize,
    when: fn(&LogicalPlan, &Expr) -> DfResult<bool>,
}

impl Lowering<'_> {
    fn node(&mut self, node: LogicalPlan) -> SqlResult<Transformed<LogicalPlan>> {
        if let LogicalPlan::Join(join) = node {
            return self.join(join);
        }
        let mut any = false;
        node.apply_expressions(|expr| {
            any |= expr.exists(|expr| (self.when)(&node, expr))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !any {
            return Ok(Transformed::no(node));
        }
        match node {
            LogicalPlan::Filter(filter) => self.filter(filter).map(Transformed::yes),
            node => self.over(node).map(Transformed::yes),
        }
    }

    /// The node over its input with the values of its subqueries.
    fn over(&mut self, node: LogicalPlan) -> SqlResult<LogicalPlan> {
        let inputs = node.inputs();
        let [input] = inputs.as_slice() else {
            return Err(SqlError::unsupported("a subquery that refers to rows around it, here"));
        };
        let mut input = (*input).clone();
        let schema = Arc::clone(node.schema());
        let names = NamePreserver::new(&node);
        let mut exprs = Vec::new();
        for expr in node.expressions() {
            let name = names.save(&expr);
            exprs.push(name.restore(self.values(&node, expr, &mut input)?));
        }
        narrowed(node.with_new_exprs(exprs, vec![input])?, &schema)
    }

    /// A filter: what needs no subquery is asked first.
    fn filter(&mut self, filter: Filter) -> SqlResult<LogicalPlan> {
        let schema = Arc::clone(filter.input.schema());
        let node = LogicalPlan::Filter(filter.clone());
        let mut input = Arc::unwrap_or_clone(filter.input);
        let (mut plain, mut asking) = (Vec::new(), Vec::new());
        for conjunct in split_conjunction_owned(filter.predicate) {
            match conjunct.exists(|expr| Ok(subquery_of(expr).is_some()))? {
                true => asking.push(conjunct),
                false => plain.push(conjunct),
            }
        }
        if let Some(plain) = conjunction(plain) {
            input = LogicalPlanBuilder::from(input).filter(plain)?.build()?;
        }
        for conjunct in asking {
            let conjunct = self.values(&node, conjunct, &mut input)?;
            input = LogicalPlanBuilder::from(input).filter(conjunct)?.build()?;
        }
        narrowed(input, &schema)
    }

    /// A join with LATERAL on its right, or with subqueries in its condition.
    fn join(&mut self, mut join: Join) -> SqlResult<Transformed<LogicalPlan>> {
        let node = LogicalPlan::Join(join.clone());
        if join.right.exists(is_lateral)? {
            return self.lateral(join).map(Transformed::yes);
        }
        let Some(filter) = join.filter.clone() else { return Ok(Transformed::no(node)) };
        if !filter.exists(|expr| (self.when)(&node, expr))? {
            return Ok(Transformed::no(node));
        }
        join.filter = None;
        if join.join_type != JoinType::Inner {
            return self.outer_join(&node, join, filter).map(Transformed::yes);
        }
        let filter = Filter::try_new(filter, Arc::new(LogicalPlan::Join(join)))?;
        self.filter(filter).map(Transformed::yes)
    }

    /// An outer join with subqueries in its condition, each of which refers to one side.
    fn outer_join(
        &mut self,
        node: &LogicalPlan,
        mut join: Join,
        filter: Expr,
    ) -> SqlResult<LogicalPlan> {
        let mut left = Arc::unwrap_or_clone(join.left);
        let mut right = Arc::unwrap_or_clone(join.right);
        let lowered = filter.transform_up(|expr| {
            if !(self.when)(node, &expr)? {
                return Ok(Transformed::no(expr));
            }
            let mut columns = Vec::new();
            if let Expr::InSubquery(of) = &expr {
                columns.extend(of.expr.column_refs().into_iter().cloned());
            }
            if let Some(subquery) = subquery_of(&expr) {
                columns.extend(References::of(&subquery.subquery)?.columns);
            }
            let within = |side: &LogicalPlan| columns.iter().all(|c| side.schema().has_column(c));
            let side = match (within(&right), within(&left)) {
                (true, _) => &mut right,
                (false, true) => &mut left,
                (false, false) => {
                    let what = "a subquery that refers to both sides of an outer join";
                    return Err(SqlError::unsupported(what).into());
                }
            };
            Ok(Transformed::yes(self.values(node, expr, side)?))
        });
        join.filter = Some(lowered.data()?);
        (join.left, join.right) = (Arc::new(left), Arc::new(right));
        narrowed(LogicalPlan::Join(join).recompute_schema()?, node.schema())
    }

    /// Rows of the right side for each row of the left.
    fn lateral(&mut self, join: Join) -> SqlResult<LogicalPlan> {
        let gives = match join.join_type {
            JoinType::Inner => Gives::Rows,
            JoinType::Left => Gives::RowsOrNull,
            other => return Err(SqlError::unsupported(format_args!("LATERAL in a {other} join"))),
        };
        let left = Arc::unwrap_or_clone(join.left);
        let unwrapped = |node| match node {
            LogicalPlan::Subquery(s) => Ok(Transformed::yes(Arc::unwrap_or_clone(s.subquery))),
            node => Ok(Transformed::no(node)),
        };
        let mut right = Arc::unwrap_or_clone(join.right).transform_down(unwrapped).data()?;
        let equal = join.on.into_iter().map(|(l, r)| l.eq(r));
        if let Some(condition) = conjunction(equal.chain(join.filter)) {
            // Of the right side, as a condition on its rows.
            let schema = Arc::clone(left.schema());
            let outward = condition.transform_up(|expr| match expr {
                Expr::Column(column) if schema.has_column(&column) => {
                    let field = schema.field_from_column(&column)?;
                    Ok(Transformed::yes(Expr::OuterReferenceColumn(Arc::clone(field), column)))
                }
                other => Ok(Transformed::no(other)),
            });
            right = LogicalPlanBuilder::from(right).filter(outward.data()?)?.build()?;
        }
        let freed = self.freed(right, left.schema())?;
        self.apply(left, freed, gives)
    }

    /// The expression with columns for its subqueries; applies for them are put over `input`.
    fn values(
        &mut self,
        node: &LogicalPlan,
        expr: Expr,
        input: &mut LogicalPlan,
    ) -> SqlResult<Expr> {
        let lowered = expr.transform_up(|expr| {
            if !(self.when)(node, &expr)? {
                return Ok(Transformed::no(expr));
            }
            let (gives, subquery, member, negated) = match expr {
                Expr::ScalarSubquery(subquery) => (Gives::Value, subquery, None, false),
                Expr::Exists(e) => (Gives::Exists, e.subquery, None, e.negated),
                Expr::InSubquery(i) => (Gives::Any, i.subquery, Some(*i.expr), i.negated),
                other => return Ok(Transformed::no(other)),
            };
            let value = self.value(gives, subquery, member, input)?;
            let value = if negated { Expr::Not(Box::new(value)) } else { value };
            Ok(Transformed::yes(value))
        });
        Ok(lowered.data()?)
    }

    /// The column of a subquery's value, once its apply is over `input`.
    fn value(
        &mut self,
        gives: Gives,
        subquery: Subquery,
        member: Option<Expr>,
        input: &mut LogicalPlan,
    ) -> SqlResult<Expr> {
        let query = Arc::unwrap_or_clone(subquery.subquery);
        if gives != Gives::Exists && query.schema().fields().len() != 1 {
            let message = "subquery must return only one column";
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, message));
        }
        let around = Arc::clone(input.schema());
        let mut freed = self.freed(query, &around)?;
        if let Some(member) = member {
            freed = self.compared(freed, member, &around)?;
        }
        let name = Apply::column_name(freed.first_slot);
        let below = std::mem::take(input);
        *input = self.apply(below, freed, gives)?;
        Ok(Expr::Column(Column::from_name(name)))
    }

    /// Whether each row of a query is equal to an expression of the outer row.
    fn compared(&mut self, freed: Freed, member: Expr, around: &DFSchema) -> SqlResult<Freed> {
        let Freed { query, mut outer, first_slot } = freed;
        let (_, field) = member.to_field(around)?;
        let slot = first_slot + outer.len();
        self.slot = self.slot.max(slot + 1);
        outer.push(member);
        let id = Slot::Outer(slot).placeholder();
        let member = Expr::Placeholder(Placeholder::new_with_field(id, Some(field)));
        let column = Expr::Column(query.schema().qualified_field(0).into());
        let equal = member.eq(column).alias("equal");
        let query = LogicalPlanBuilder::from(query).project([equal])?.build()?;
        Ok(Freed { query, outer, first_slot })
    }

    /// The query with parameters for its references to rows with these columns.
    fn freed(&mut self, query: LogicalPlan, around: &DFSchema) -> SqlResult<Freed> {
        let first_slot = self.slot;
        let mut outer: Vec<Expr> = Vec::new();
        let mut each = |expr: &Expr, _| {
            let Expr::OuterReferenceColumn(field, column) = expr else { return Ok(None) };
            if !around.has_column(column) {
                return Ok(None);
            }
            let mut value = Expr::Column(column.clone());
            let actual = around.field_from_column(column)?.data_type();
            if actual != field.data_type() {
                value = value.cast_to(field.data_type(), around)?;
            }
            let known = outer.iter().position(|known| *known == value);
            let place = known.unwrap_or(outer.len());
            if known.is_none() {
                outer.push(value);
            }
            let id = Slot::Outer(first_slot + place).placeholder();
            let field = Some(Arc::clone(field));
            Ok(Some(Expr::Placeholder(Placeholder::new_with_field(id, field))))
        };
        let query = Outward { inner: vec![], each: &mut each }.plan(query)?;
        self.slot = first_slot + outer.len().max(1);
        Ok(Freed { query, outer, first_slot })
    }

    fn apply(&mut self, input: LogicalPlan, freed: Freed, gives: Gives) -> SqlResult<LogicalPlan> {
        let query = self.engine.optimize(freed.query)?;
        let apply = Apply::new(input, freed.outer, freed.first_slot, query, gives)?;
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(apply) }))
    }
}

/// Whether a node on the right of a join refers to its left: LATERAL, or a call in FROM.
fn is_lateral(node: &LogicalPlan) -> DfResult<bool> {
    match node {
        LogicalPlan::Subquery(subquery) => Ok(References::of(&subquery.subquery)?.any),
        LogicalPlan::Extension(extension) if extension.node.as_any().is::<Series>() => {
            Ok(References::of(node)?.any)
        }
        _ => Ok(false),
    }
}

/// The plan with these columns only.
fn narrowed(plan: LogicalPlan, schema: &DFSchemaRef) -> SqlResult<LogicalPlan> {
    if plan.schema().fields().len() == schema.fields().len() {
        return Ok(plan);
    }
    let columns = schema.iter().map(|column| Expr::Column(column.into()));
    Ok(LogicalPlanBuilder::from(plan).project(columns.collect::<Vec<_>>())?.build()?)
}
