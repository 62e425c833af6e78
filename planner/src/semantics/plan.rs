//! The nodes of a plan: conditions, sort and group keys, set operations, VALUES.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::catalog::default_table_source::{DefaultTableSource, provider_as_source};
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Operator, RecursiveQuery, Union,
    Values, Window,
};

use super::coerce::{self, arg};
use super::distinct;
use super::function::Arg;
use super::resolve;
use crate::error::SqlResult;
use crate::types::PgType;

/// The plan with PostgreSQL's meaning in all its expressions.
pub fn meaning(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    let plan = plan.transform_down_with_subqueries(work_tables).data()?;
    Ok(plan.transform_up_with_subqueries(|node| Ok(Transformed::yes(fix(node)?))).data()?)
}

fn fix(node: LogicalPlan) -> SqlResult<LogicalPlan> {
    match node {
        // Bounds are counted in 64 bits; scans, names and definitions hold nothing to change.
        LogicalPlan::Limit(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::EmptyRelation(_) => Ok(node.recompute_schema()?),
        LogicalPlan::Values(values) => fix_values(values),
        LogicalPlan::Union(union) => fix_union(union),
        LogicalPlan::Distinct(distinct) => distinct::distinct(distinct),
        LogicalPlan::RecursiveQuery(query) => {
            let rest = Arc::unwrap_or_clone(query.recursive_term);
            let first = query.static_term.as_ref();
            let rest = distinct::recursive_part(&query.name, rest, Some(first))?;
            Ok(LogicalPlan::RecursiveQuery(RecursiveQuery {
                recursive_term: Arc::new(rest),
                ..query
            }))
        }
        node => fix_expressions(node),
    }
}

/// A recursive query reads its own rows as its first part types them.
fn work_tables(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::RecursiveQuery(query) = node else { return Ok(Transformed::no(node)) };
    let first = meaning(Arc::unwrap_or_clone(query.static_term))?;
    let first = distinct::recursive_part(&query.name, first, None)?;
    let schema = Arc::new(first.schema().as_arrow().clone());
    let rest = Arc::unwrap_or_clone(query.recursive_term).transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = &node else {
            return Ok(Transformed::yes(node.recompute_schema()?));
        };
        let any: &dyn std::any::Any = scan.source.as_ref();
        let table = any.downcast_ref::<DefaultTableSource>();
        let own = table.is_some_and(|table| {
            let provider: &dyn std::any::Any = table.table_provider.as_ref();
            provider.downcast_ref::<CteWorkTable>().is_some_and(|t| t.name() == query.name)
        });
        if !own {
            return Ok(Transformed::no(node));
        }
        // The names of the columns may differ, their types are told by their places.
        let fields = scan
            .source
            .schema()
            .fields()
            .iter()
            .zip(schema.fields())
            .map(|(old, new)| new.as_ref().clone().with_name(old.name()).with_nullable(true))
            .collect::<Vec<_>>();
        let table = CteWorkTable::new(&query.name, Arc::new(Schema::new(fields)));
        let source = provider_as_source(Arc::new(table));
        let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?;
        Ok(Transformed::yes(scan))
    })?;
    let (first, rest) = (Arc::new(first), Arc::new(rest.data));
    Ok(Transformed::yes(LogicalPlan::RecursiveQuery(RecursiveQuery {
        schema: Arc::clone(first.schema()),
        static_term: first,
        recursive_term: rest,
        ..query
    })))
}

fn fix_expressions(node: LogicalPlan) -> SqlResult<LogicalPlan> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    let sorts = matches!(node, LogicalPlan::Sort(_));
    let filters = matches!(node, LogicalPlan::Filter(_));
    let fixed = node.map_expressions(|expr| {
        if sorts {
            let expr = coerce::expression(expr, &schema)?.data;
            return Ok(Transformed::yes(coerce::sort_key(expr, &schema)?));
        }
        let name = names.save(&expr);
        let mut expr = coerce::expression(expr, &schema)?.data;
        if filters {
            expr = coerce::boolean(expr, "WHERE", &schema)?;
        }
        Ok(Transformed::yes(name.restore(expr)))
    });
    let node = match fixed.data()? {
        LogicalPlan::Aggregate(aggregate) => distinct::aggregate(aggregate)?,
        LogicalPlan::Join(join) => fix_join(join)?,
        other => other,
    };
    let node = node.recompute_schema()?;
    match node {
        LogicalPlan::Window(window) => signed_counts(window),
        other => Ok(other),
    }
}

fn fix_join(mut join: Join) -> SqlResult<LogicalPlan> {
    let (left, right) = (Arc::clone(join.left.schema()), Arc::clone(join.right.schema()));
    let mut pairs = Vec::with_capacity(join.on.len());
    for (l, r) in std::mem::take(&mut join.on) {
        pairs.push(coerce::comparison_sides(Operator::Eq, l, r, (&left, &right))?);
    }
    join.on = pairs;
    if let Some(filter) = join.filter.take() {
        let both = left.join(&right)?;
        join.filter = Some(coerce::boolean(filter, "JOIN/ON", &both)?);
    }
    Ok(LogicalPlan::Join(join))
}

/// DataFusion counts rows in unsigned numbers, PostgreSQL in `bigint`, and `ntile` in `integer`.
fn signed_counts(window: Window) -> SqlResult<LogicalPlan> {
    let before = window.input.schema().fields().len();
    let counted = |i: usize, field: &Field| {
        let own = i.checked_sub(before).and_then(|i| window.window_expr.get(i));
        let ntile = |expr: &Expr| match expr {
            Expr::WindowFunction(of) => of.fun.name() == "ntile",
            _ => false,
        };
        let ntile = own.is_some_and(|expr| ntile(&expr.clone().unalias()));
        let ty = if ntile { DataType::Int32 } else { DataType::Int64 };
        (*field.data_type() == DataType::UInt64).then_some(ty)
    };
    let schema = Arc::clone(&window.schema);
    let mut exprs = Vec::new();
    for (i, (qualifier, field)) in schema.iter().enumerate() {
        let column = Expr::Column((qualifier, field).into());
        exprs.push(match counted(i, field) {
            Some(ty) => {
                let cast = Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(column), ty));
                cast.alias_qualified(qualifier.cloned(), field.name())
            }
            None => column,
        });
    }
    let node = LogicalPlan::Window(window);
    if !schema.fields().iter().any(|field| *field.data_type() == DataType::UInt64) {
        return Ok(node);
    }
    Ok(LogicalPlanBuilder::from(node).project(exprs)?.build()?)
}

fn fix_values(values: Values) -> SqlResult<LogicalPlan> {
    let empty = DFSchema::empty();
    let width = values.schema.fields().len();
    let mut rows = Vec::with_capacity(values.values.len());
    for row in values.values {
        let fixed = row
            .into_iter()
            .map(|e| Ok(coerce::expression(coerce::without_silent_cast(e), &empty)?.data));
        rows.push(fixed.collect::<DfResult<Vec<_>>>()?);
    }
    let mut fields = Vec::with_capacity(width);
    for i in 0..width {
        let args = rows.iter().map(|row| arg(&row[i], &empty)).collect::<SqlResult<Vec<_>>>()?;
        let open = args.iter().all(|a| a.ty == PgType::Unknown);
        let ty = resolve::common_type("VALUES", &args)?;
        if !open {
            for (row, arg) in rows.iter_mut().zip(&args) {
                let expr = std::mem::take(&mut row[i]);
                row[i] = coerce::convert(expr, arg.ty, ty, false)?;
            }
        }
        let name = values.schema.field(i).name();
        let first = rows
            .iter()
            .map(|row| row[i].get_type(&empty))
            .find(|t| !matches!(t, Ok(DataType::Null)));
        let arrow = if open { first.transpose()?.unwrap_or(DataType::Null) } else { ty.arrow() };
        for row in rows.iter_mut().filter(|_| open) {
            if matches!(&row[i], Expr::Literal(ScalarValue::Null, _)) {
                row[i] = Expr::Literal(ScalarValue::try_from(&arrow)?, None);
            }
        }
        fields.push(Field::new(name, arrow, true));
    }
    let schema = DFSchema::from_unqualified_fields(fields.into(), Default::default())?;
    Ok(LogicalPlan::Values(Values { schema: Arc::new(schema), values: rows }))
}

/// What a branch of a UNION has in a column: a bare string or NULL has no type yet.
fn branch_column(input: &LogicalPlan, i: usize) -> SqlResult<Arg> {
    if let LogicalPlan::Projection(projection) = input
        && let Expr::Literal(..) = projection.expr[i].clone().unalias()
    {
        return arg(&projection.expr[i], projection.input.schema());
    }
    let ty = PgType::of_field(input.schema().field(i))?;
    Ok(Arg { ty, literal: None })
}

fn fix_union(union: Union) -> SqlResult<LogicalPlan> {
    let width = union.inputs.first().map_or(0, |input| input.schema().fields().len());
    let mut wanted = Vec::with_capacity(width);
    for i in 0..width {
        let args = union
            .inputs
            .iter()
            .map(|input| branch_column(input, i))
            .collect::<SqlResult<Vec<_>>>()?;
        wanted.push(resolve::common_type("UNION", &args)?);
    }
    let mut inputs = Vec::with_capacity(union.inputs.len());
    for input in union.inputs {
        let mut exprs = Vec::with_capacity(width);
        let mut changed = false;
        for (i, ty) in wanted.iter().enumerate() {
            let (qualifier, field) = input.schema().qualified_field(i);
            let from = PgType::of_field(field)?;
            let column = Expr::Column((qualifier, field).into());
            if from.arrow() == ty.arrow() {
                exprs.push(column);
                continue;
            }
            changed = true;
            let cast = coerce::convert(column, from, *ty, false)?;
            exprs.push(cast.alias_qualified(qualifier.cloned(), field.name()));
        }
        inputs.push(if changed {
            let input = Arc::unwrap_or_clone(input);
            Arc::new(LogicalPlanBuilder::from(input).project(exprs)?.build()?)
        } else {
            input
        });
    }
    Ok(LogicalPlan::Union(Union::try_new(inputs)?))
}
