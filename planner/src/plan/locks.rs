//! The locking clauses of a query: which are refused, and where the rows are locked.
//!
//! A query with a locking clause is limits and sorts and projections over joined tables. The
//! columns of the tables' primary keys are led up through the projections to a [`LockRows`] below
//! the limit, and dropped above it.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, JoinType, ScalarValue, TableReference};
use datafusion::datasource::{DefaultTableSource, provider_as_source};
use datafusion::logical_expr::logical_plan::{Limit, Sort, TableScan};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, Projection};
use datafusion::sql::sqlparser::ast;

use super::build::Build;
use super::table::KvTable;
use crate::catalog::TableDef;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::lock::{LockRows, TableLock, Takes};
use crate::kv::{LockWait, RowLock};
use crate::parse::LockClause;

fn refused(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message)
}

/// Row locks need rows: they are refused where a result row is no row of a table.
pub fn check(build: &Build<'_>, query: &ast::Query) -> SqlResult<()> {
    if build.locks.is_empty() {
        return Ok(());
    }
    let refuse = |what: &str| Err(refused(format!("FOR UPDATE is not allowed with {what}")));
    let ast::SetExpr::Select(select) = query.body.as_ref() else {
        return refuse("UNION/INTERSECT/EXCEPT");
    };
    if select.distinct.is_some() {
        return refuse("DISTINCT clause");
    }
    let grouped = match &select.group_by {
        ast::GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
        ast::GroupByExpr::All(_) => true,
    };
    if grouped {
        return refuse("GROUP BY clause");
    }
    if select.having.is_some() {
        return refuse("HAVING clause");
    }
    let aggregates = build.engine.state().aggregate_functions();
    let mut windows = false;
    let aggregated = ast::visit_expressions(&select.projection, |expr| match expr {
        ast::Expr::Function(f) if f.over.is_some() => {
            windows = true;
            ControlFlow::Continue(())
        }
        ast::Expr::Function(f)
            if aggregates.contains_key(f.name.to_string().to_lowercase().as_str()) =>
        {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    if aggregated.is_break() {
        return refuse("aggregate functions");
    }
    if windows {
        return refuse("window functions");
    }
    names_are_there(build, select)
}

fn names_are_there(build: &Build<'_>, select: &ast::Select) -> SqlResult<()> {
    let named = |factor: &ast::TableFactor| match factor {
        ast::TableFactor::Table { alias: Some(alias), .. }
        | ast::TableFactor::Derived { alias: Some(alias), .. } => {
            Some(super::rewrite::folded(&alias.name))
        }
        ast::TableFactor::Table { name, .. } => {
            name.0.last().and_then(|part| part.as_ident()).map(super::rewrite::folded)
        }
        _ => None,
    };
    let known = select.from.iter().flat_map(|from| {
        std::iter::once(named(&from.relation)).chain(from.joins.iter().map(|j| named(&j.relation)))
    });
    let known: Vec<_> = known.flatten().collect();
    for table in build.locks.iter().filter_map(|clause| clause.table.as_ref()) {
        if !known.contains(table) {
            let message =
                format!("relation \"{table}\" in FOR UPDATE clause not found in FROM clause");
            return Err(SqlError::new(SqlState::UNDEFINED_TABLE, message));
        }
    }
    Ok(())
}

/// A table of the FROM list.
struct Target {
    /// What its columns are qualified with.
    name: TableReference,
    table: Arc<TableDef>,
    how: RowLock,
}

/// The strongest of the clauses for a table; of what they say about waiting, what waits least.
fn lock_of(clauses: &[LockClause], table: &str) -> Option<RowLock> {
    let fits = |clause: &&LockClause| clause.table.as_deref().is_none_or(|name| name == table);
    let strength = clauses.iter().filter(fits).map(|clause| clause.strength).max()?;
    let waits: Vec<LockWait> = clauses.iter().filter(fits).map(|clause| clause.wait).collect();
    let wait = [LockWait::NoWait, LockWait::SkipLocked].into_iter().find(|w| waits.contains(w));
    Some(RowLock::of_query(strength, wait.unwrap_or_default()))
}

/// A query's plan with its rows locked.
pub fn lock_rows(plan: LogicalPlan, clauses: &[LockClause]) -> SqlResult<LogicalPlan> {
    if clauses.is_empty() {
        return Ok(plan);
    }
    match plan {
        LogicalPlan::Limit(limit) => {
            let takes = takes(&limit);
            let input = lock_all(Arc::unwrap_or_clone(limit.input), clauses, takes)?;
            Ok(LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit }))
        }
        plan => lock_all(plan, clauses, Takes::All),
    }
}

/// How many rows a limit takes, as far as it is known.
fn takes(limit: &Limit) -> Takes {
    let count = |expr: &Option<Box<Expr>>| match expr.as_deref() {
        None => Some(None),
        Some(Expr::Literal(ScalarValue::Int64(Some(n)), _)) => usize::try_from(*n).ok().map(Some),
        Some(_) => None,
    };
    match (count(&limit.skip), count(&limit.fetch)) {
        (Some(_), Some(None)) => Takes::All,
        (Some(skip), Some(Some(fetch))) => Takes::AtMost(fetch.saturating_add(skip.unwrap_or(0))),
        _ => Takes::Unknown,
    }
}

fn lock_all(plan: LogicalPlan, clauses: &[LockClause], takes: Takes) -> SqlResult<LogicalPlan> {
    let mut targets = Vec::new();
    find(core(&plan), clauses, false, &mut targets)?;
    if targets.is_empty() {
        return Ok(plan);
    }
    let out: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let (input, keys) = with_keys(plan, &targets)?;
    let tables = targets.into_iter().map(|t| TableLock { table: t.table, how: t.how }).collect();
    let keys = keys.into_iter().map(Expr::Column).collect();
    let node = Arc::new(LockRows { input: Arc::new(input), tables, keys, takes });
    let locked = LogicalPlan::Extension(Extension { node });
    Ok(LogicalPlanBuilder::from(locked).project(out)?.build()?)
}

/// What is below projections and sorts.
fn core(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(Projection { input, .. })
        | LogicalPlan::Sort(Sort { input, .. }) => core(input),
        other => other,
    }
}

fn stored(scan: &TableScan) -> Option<&KvTable> {
    let any: &dyn std::any::Any = scan.source.as_ref();
    any.downcast_ref::<DefaultTableSource>()?.table_provider.downcast_ref::<KvTable>()
}

/// The tables to lock of a FROM list.
fn find(
    plan: &LogicalPlan,
    clauses: &[LockClause],
    nullable: bool,
    found: &mut Vec<Target>,
) -> SqlResult<()> {
    let mut target = |name: &TableReference, scan: &TableScan| -> SqlResult<()> {
        let (Some(table), Some(how)) = (stored(scan), lock_of(clauses, name.table())) else {
            return Ok(());
        };
        if nullable {
            let message = "FOR UPDATE cannot be applied to the nullable side of an outer join";
            return Err(refused(message));
        }
        found.push(Target { name: name.clone(), table: Arc::clone(&table.table), how });
        Ok(())
    };
    match plan {
        LogicalPlan::TableScan(scan) => target(&scan.table_name, scan),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::TableScan(scan) => target(&alias.alias, scan),
            _ if lock_of(clauses, alias.alias.table()).is_some() => {
                Err(SqlError::unsupported("a locking clause for a subquery in FROM"))
            }
            _ => Ok(()),
        },
        LogicalPlan::Filter(filter) => find(&filter.input, clauses, nullable, found),
        LogicalPlan::Join(join) => {
            let left = matches!(join.join_type, JoinType::Right | JoinType::Full);
            let right = matches!(join.join_type, JoinType::Left | JoinType::Full);
            find(&join.left, clauses, nullable || left, found)?;
            find(&join.right, clauses, nullable || right, found)
        }
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Ok(()),
        _ => Err(SqlError::unsupported("a locking clause in this query")),
    }
}

/// The plan with the key columns of the targets among its own, and what they are called there.
fn with_keys(plan: LogicalPlan, targets: &[Target]) -> SqlResult<(LogicalPlan, Vec<Column>)> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let (input, keys) = with_keys(Arc::unwrap_or_clone(projection.input), targets)?;
            let mut exprs = projection.expr;
            let mut names = Vec::with_capacity(keys.len());
            for (i, key) in keys.into_iter().enumerate() {
                let name = format!("__lock_{i}");
                let known =
                    exprs.iter().any(|expr| matches!(expr, Expr::Alias(a) if a.name == name));
                if !known {
                    exprs.push(Expr::Column(key).alias(&name));
                }
                names.push(Column::new_unqualified(name));
            }
            let plan = Projection::try_new(exprs, Arc::new(input))?;
            Ok((LogicalPlan::Projection(plan), names))
        }
        LogicalPlan::Sort(sort) => {
            let (input, keys) = with_keys(Arc::unwrap_or_clone(sort.input), targets)?;
            Ok((LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort }), keys))
        }
        core => {
            let keys = targets.iter().flat_map(|target| {
                let parts = target.table.primary().columns.iter();
                let places = parts.filter_map(|part| target.table.position(part.column));
                let names = places.map(|place| target.table.columns[place].name.clone());
                names.map(|name| Column::new(Some(target.name.clone()), name)).collect::<Vec<_>>()
            });
            let keys = keys.collect();
            Ok((showing_hidden(core)?, keys))
        }
    }
}

/// The plan with the hidden columns of its tables: some are keys.
fn showing_hidden(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    let shown = plan.transform_up(|node| {
        let scan = match node {
            LogicalPlan::TableScan(scan) => scan,
            other => return Ok(Transformed::no(other.recompute_schema()?)),
        };
        let Some(stored) = stored(&scan) else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let provider = KvTable::new(Arc::clone(&stored.table), true);
        let source = provider_as_source(Arc::new(provider));
        let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?;
        Ok(Transformed::yes(scan))
    });
    Ok(shown.data()?)
}
