//! Rewriting before and after DataFusion's SQL planner: names of result columns as PostgreSQL gives
//! them, and nodes whose parameters DataFusion wants to know at planning time.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::{Expr, Extension, Limit, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    self, Expr as SqlExpr, Ident, SelectItem, SetExpr, VisitMut, VisitorMut,
};

use crate::error::SqlResult;
use crate::exec::limit::ParamLimit;
use crate::exec::rows::ParamValues;

/// Replaces limits and VALUES that hold parameters by nodes of ours.
pub fn limits(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    let has = |expr: &Expr| expr.exists(|e| Ok(matches!(e, Expr::Placeholder(_))));
    let changed = plan.transform_up_with_subqueries(|node| {
        let extension = |node| LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(match node {
            LogicalPlan::Limit(Limit { skip, fetch, input }) => {
                let mut bounds = skip.iter().chain(&fetch);
                if bounds.try_fold(false, |any, expr| has(expr).map(|this| any || this))? {
                    let (skip, fetch) = (skip.map(|e| *e), fetch.map(|e| *e));
                    Transformed::yes(extension(ParamLimit { input, skip, fetch }))
                } else {
                    Transformed::no(LogicalPlan::Limit(Limit { skip, fetch, input }))
                }
            }
            other => Transformed::no(other),
        })
    });
    let changed = changed.data()?.transform_up_with_subqueries(|node| {
        let LogicalPlan::Values(values) = &node else { return Ok(Transformed::no(node)) };
        let mut cells = values.values.iter().flatten();
        if !cells.try_fold(false, |any, expr| has(expr).map(|this| any || this))? {
            return Ok(Transformed::no(node));
        }
        let node = ParamValues { schema: Arc::clone(&values.schema), rows: values.values.clone() };
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    });
    Ok(changed.data()?)
}

/// What PostgreSQL calls a result column of an expression without alias.
pub fn column_name(expr: &SqlExpr) -> String {
    let unnamed = || "?column?".to_owned();
    match expr {
        SqlExpr::Identifier(ident) => folded(ident),
        SqlExpr::CompoundIdentifier(idents) => idents.last().map_or_else(unnamed, folded),
        SqlExpr::Function(call) => {
            call.name.0.last().and_then(|part| part.as_ident()).map_or_else(unnamed, folded)
        }
        SqlExpr::Cast { expr, data_type, .. } => match column_name(expr) {
            name if name == "?column?" => type_name(data_type),
            name => name,
        },
        SqlExpr::TypedString(typed) => type_name(&typed.data_type),
        SqlExpr::Nested(inner) => column_name(inner),
        SqlExpr::Collate { expr, .. } => column_name(expr),
        SqlExpr::Case { else_result, .. } => match else_result.as_deref().map(column_name) {
            Some(name) if name != "?column?" => name,
            _ => "case".into(),
        },
        SqlExpr::Exists { .. } => "exists".into(),
        SqlExpr::Extract { .. } => "extract".into(),
        SqlExpr::Substring { .. } => "substring".into(),
        SqlExpr::Trim { .. } => "btrim".into(),
        SqlExpr::Position { .. } => "position".into(),
        SqlExpr::Ceil { .. } => "ceil".into(),
        SqlExpr::Floor { .. } => "floor".into(),
        SqlExpr::Overlay { .. } => "overlay".into(),
        SqlExpr::Interval(_) => "interval".into(),
        SqlExpr::Value(value) => match &value.value {
            ast::Value::Boolean(_) => "bool".into(),
            _ => unnamed(),
        },
        SqlExpr::Subquery(query) => first_column_name(&query.body),
        _ => unnamed(),
    }
}

fn first_column_name(body: &SetExpr) -> String {
    let first = match body {
        SetExpr::Select(select) => select.projection.first(),
        SetExpr::SetOperation { left, .. } => return first_column_name(left),
        SetExpr::Query(query) => return first_column_name(&query.body),
        SetExpr::Values(_) => return "column1".into(),
        _ => None,
    };
    match first {
        Some(SelectItem::UnnamedExpr(expr)) => column_name(expr),
        Some(SelectItem::ExprWithAlias { alias, .. }) => folded(alias),
        _ => "?column?".into(),
    }
}

fn type_name(ty: &ast::DataType) -> String {
    let text = ty.to_string().to_lowercase();
    let bare = text.split('(').next().unwrap_or(&text).trim().to_owned();
    crate::types::PgType::by_name(&bare).map_or(bare, |ty| ty.typname().to_owned())
}

/// An identifier as it is looked up: in lower case unless quoted.
pub fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// Gives every unnamed column of every SELECT the name PostgreSQL gives it, and distinct names to
/// those that would share one (DataFusion insists on it).
pub fn name_columns(statement: &mut ast::Statement) {
    struct Namer;
    impl VisitorMut for Namer {
        type Break = ();

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<()> {
            let mut taken = HashSet::new();
            // What a star stands for is not known here: columns beside it get names of their own.
            let starred = select.projection.iter().any(|item| {
                matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
            });
            for item in &mut select.projection {
                let (expr, name) = match item {
                    SelectItem::UnnamedExpr(expr) => (expr.clone(), column_name(expr)),
                    SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), folded(alias)),
                    _ => continue,
                };
                let plain = matches!(
                    (&*item, &expr),
                    (
                        SelectItem::UnnamedExpr(_),
                        SqlExpr::Identifier(_) | SqlExpr::CompoundIdentifier(_)
                    )
                );
                if plain && starred {
                    taken.insert(name.clone());
                }
                let unique = unique_name(&name, &taken);
                taken.insert(unique.clone());
                if !(plain && unique == name) {
                    let alias = Ident::with_quote('"', unique);
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = VisitMut::visit(statement, &mut Namer);
}

/// Ends the name of a column that shares it with an earlier one; not typed by anybody.
const REPEAT_MARK: char = '\u{1}';

fn unique_name(name: &str, taken: &HashSet<String>) -> String {
    let mut unique = name.to_owned();
    while taken.contains(&unique) {
        unique.push(REPEAT_MARK);
    }
    unique
}

/// The name of a result column without the mark that made it unique.
pub fn shown_name(name: &str) -> String {
    name.trim_end_matches(REPEAT_MARK).to_owned()
}
