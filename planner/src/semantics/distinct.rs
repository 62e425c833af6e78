//! Grouping by values that are equal though their bytes are not (`1.0` and `1.00`, a month and
//! thirty days, `0` and `-0`): by a key, and the group shows the first of its values.

use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, LogicalPlanBuilder};

use super::coerce::{self, arg};
use super::function::{call, called};
use super::{aggregates, resolve};
use crate::error::{SqlError, SqlResult};
use crate::types::PgType;

/// Whether the key of a type has another type than the value.
fn changes_type(ty: PgType) -> bool {
    matches!(ty, PgType::Numeric(None) | PgType::Interval)
}

fn is_key(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_key(&alias.expr),
        Expr::ScalarFunction(f) => called(&f.func) == Some("pg_key"),
        _ => false,
    }
}

/// What a column of the result is made of.
enum Part {
    Group(usize),
    First(usize),
}

/// An aggregation whose groups are those of PostgreSQL.
pub fn aggregate(aggregate: Aggregate) -> SqlResult<LogicalPlan> {
    let Aggregate { input, group_expr, aggr_expr, .. } = aggregate;
    let schema = Arc::clone(input.schema());
    let mut groups = Vec::with_capacity(group_expr.len());
    let mut firsts: Vec<Expr> = Vec::new();
    let mut parts: Vec<(Part, Option<TableReference>, String)> = Vec::new();
    for expr in group_expr {
        if let Expr::GroupingSet(set) = &expr {
            for expr in set.distinct_expr() {
                if changes_type(arg(expr, &schema)?.ty) {
                    return Err(SqlError::unsupported(
                        "GROUPING SETS over numeric without precision or interval",
                    ));
                }
            }
            groups.push(expr);
            continue;
        }
        let ty = arg(&expr, &schema)?.ty;
        let (relation, name) = expr.qualified_name();
        if is_key(&expr) || !coerce::needs_key(ty) {
            parts.push((Part::Group(groups.len()), relation, name));
            groups.push(expr);
        } else if changes_type(ty) {
            let value = expr.unalias();
            parts.push((Part::First(firsts.len()), relation, name));
            groups.push(call("pg_key", vec![value.clone()]).alias(key_name(groups.len())));
            firsts.push(aggregates::first(value, vec![]).alias(first_name(firsts.len())));
        } else {
            let key = call("pg_key", vec![expr.unalias()]);
            parts.push((Part::Group(groups.len()), relation.clone(), name.clone()));
            groups.push(key.alias_qualified(relation, name));
        }
    }
    if firsts.is_empty() {
        return Ok(LogicalPlan::Aggregate(Aggregate::try_new(input, groups, aggr_expr)?));
    }
    let (keys, own) = (groups.len(), aggr_expr.len());
    let all = aggr_expr.into_iter().chain(firsts).collect();
    let grouped = LogicalPlan::Aggregate(Aggregate::try_new(input, groups, all)?);
    let column = |i: usize| Expr::Column(grouped.schema().qualified_field(i).into());
    let mut shown: Vec<Expr> = parts
        .into_iter()
        .map(|(part, relation, name)| match part {
            Part::Group(i) => column(i),
            Part::First(i) => column(keys + own + i).alias_qualified(relation, name),
        })
        .collect();
    shown.extend((keys..keys + own).map(column));
    Ok(LogicalPlanBuilder::from(grouped).project(shown)?.build()?)
}

fn key_name(i: usize) -> String {
    format!("quorate_key_{i}")
}

fn first_name(i: usize) -> String {
    format!("quorate_first_{i}")
}

/// `SELECT DISTINCT`
pub fn distinct(distinct: Distinct) -> SqlResult<LogicalPlan> {
    let input = match distinct {
        Distinct::All(input) => input,
        Distinct::On(on) => {
            for expr in &on.on_expr {
                if changes_type(arg(expr, on.input.schema())?.ty) {
                    return Err(SqlError::unsupported(
                        "DISTINCT ON over numeric without precision or interval",
                    ));
                }
            }
            return Ok(LogicalPlan::Distinct(Distinct::On(on)).recompute_schema()?);
        }
    };
    let mut keyed = false;
    for field in input.schema().fields() {
        keyed |= coerce::needs_key(PgType::of_field(field)?);
    }
    if !keyed {
        return Ok(LogicalPlan::Distinct(Distinct::All(input)).recompute_schema()?);
    }
    let columns = input.schema().iter().map(|column| Expr::Column(column.into())).collect();
    aggregate(Aggregate::try_new(input, columns, vec![])?)
}

/// The query of a scalar subquery that refers to the outer query, as one DataFusion can take apart:
/// of at most one row by its making.
pub fn at_most_one_row(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    if is_aggregated(&plan) {
        return Ok(plan);
    }
    let name = plan.schema().field(0).name().clone();
    if let Some((value, sorts, input)) = first_of_sorted(&plan) {
        let first = aggregates::first(value, sorts).alias(name);
        return Ok(LogicalPlanBuilder::from(input)
            .aggregate(Vec::<Expr>::new(), [first])?
            .build()?);
    }
    if plan.max_rows().is_some_and(|most| most <= 1) {
        return Ok(plan);
    }
    let column = Expr::Column(plan.schema().qualified_field(0).into());
    let single = aggregates::single(column).alias(name);
    Ok(LogicalPlanBuilder::from(plan).aggregate(Vec::<Expr>::new(), [single])?.build()?)
}

fn is_aggregated(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_aggregated(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_aggregated(&alias.input),
        LogicalPlan::Filter(filter) => is_aggregated(&filter.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

type Sorted = (Expr, Vec<datafusion::logical_expr::SortExpr>, LogicalPlan);

/// `… ORDER BY … LIMIT 1`: the value, the order and what is ordered.
fn first_of_sorted(plan: &LogicalPlan) -> Option<Sorted> {
    let LogicalPlan::Limit(limit) = plan else { return None };
    let one = |expr: &Expr| match expr {
        Expr::Literal(value, _) => value.to_string() == "1",
        _ => false,
    };
    if limit.skip.is_some() || !limit.fetch.as_ref().is_some_and(|fetch| one(fetch)) {
        return None;
    }
    let (value, sorted) = match limit.input.as_ref() {
        LogicalPlan::Projection(projection) => {
            (projection.expr[0].clone().unalias(), projection.input.as_ref())
        }
        other => (Expr::Column(other.schema().qualified_field(0).into()), other),
    };
    match sorted {
        LogicalPlan::Sort(sort) => Some((value, sort.expr.clone(), sort.input.as_ref().clone())),
        other => Some((value, vec![], other.clone())),
    }
}

/// Both parts of a recursive query with the same types, as their fields tell them.
pub fn recursive_part(
    name: &str,
    plan: LogicalPlan,
    first: Option<&LogicalPlan>,
) -> SqlResult<LogicalPlan> {
    let mut exprs = Vec::new();
    let mut changed = false;
    for i in 0..plan.schema().fields().len() {
        let (qualifier, field) = plan.schema().qualified_field(i);
        let from = PgType::of_field(field)?;
        let to = match first {
            Some(first) => PgType::of_field(first.schema().field(i))?,
            // Each round may have more digits than the one before.
            None if matches!(from, PgType::Numeric(_)) => PgType::Numeric(None),
            None => from,
        };
        let same = resolve::same_type(from, to);
        if !same && from != PgType::Unknown {
            return Err(SqlError::new(
                crate::error::SqlState::DATATYPE_MISMATCH,
                format!(
                    "recursive query \"{name}\" column {} has type {to} in non-recursive term but \
                     type {from} overall",
                    i + 1
                ),
            )
            .with_hint("Cast the output of the non-recursive term to the correct type."));
        }
        let column = Expr::Column((qualifier, field).into());
        let told = field.metadata().get(crate::types::TYPE_KEY) == Some(&to.to_string());
        changed |= !told || from.arrow() != to.arrow();
        let column = coerce::convert(column, from, to, false)?;
        exprs.push(column.alias_with_metadata(field.name(), Some(coerce::told(to))));
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}
