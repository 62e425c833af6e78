//! Queries over catalog tables that never have a row (policies, publications, …).
//!
//! Shells ask them with arrays, which Quorate does not have. What such a query would compute of its
//! rows is never computed, so an expression with arrays in its select list is NULL there, and its
//! order is of nothing.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, SelectItem, SetExpr, Statement, TableFactor, Value, VisitMut, VisitorMut,
};

use crate::infoschema::is_empty;
use crate::plan::rewrite::{column_name, folded};

/// Takes arrays out of queries over nothing.
pub(super) fn forget_arrays(statement: &mut Statement) {
    struct Queries;
    impl VisitorMut for Queries {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
            if all_of_nothing(&query.body)
                && let Some(order) = &query.order_by
                && has_arrays(order)
            {
                query.order_by = None;
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<()> {
            if of_nothing(select) {
                select.projection.iter_mut().for_each(forget);
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            // An array of no rows.
            if let Expr::Function(function) = expr
                && let ast::FunctionArguments::Subquery(query) = &function.args
                && function.name.to_string().eq_ignore_ascii_case("array")
                && all_of_nothing(&query.body)
            {
                *expr = text(Value::SingleQuotedString("{}".into()));
            }
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = VisitMut::visit(statement, &mut Queries);
}

fn text(value: Value) -> Expr {
    Expr::Cast {
        kind: ast::CastKind::Cast,
        expr: Box::new(Expr::value(value)),
        data_type: ast::DataType::Text,
        array: false,
        format: None,
    }
}

fn all_of_nothing(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => of_nothing(select),
        SetExpr::Query(query) => all_of_nothing(&query.body),
        SetExpr::SetOperation { left, right, .. } => all_of_nothing(left) && all_of_nothing(right),
        _ => false,
    }
}

fn is_nothing(factor: &TableFactor) -> bool {
    let TableFactor::Table { name, args: None, .. } = factor else { return false };
    let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(folded).collect();
    match parts.as_slice() {
        [table] => is_empty(table),
        [schema, table] => schema == "pg_catalog" && is_empty(table),
        _ => false,
    }
}

/// Whether a SELECT has no rows because a table it needs rows of has none.
fn of_nothing(select: &ast::Select) -> bool {
    let inner = |join: &ast::Join| {
        let needs = matches!(
            join.join_operator,
            ast::JoinOperator::Join(_)
                | ast::JoinOperator::Inner(_)
                | ast::JoinOperator::CrossJoin(_)
        );
        needs && is_nothing(&join.relation)
    };
    let outer = |join: &ast::Join| {
        matches!(
            join.join_operator,
            ast::JoinOperator::RightOuter(_)
                | ast::JoinOperator::Right(_)
                | ast::JoinOperator::FullOuter(_)
        )
    };
    let grouped = !matches!(&select.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty());
    let counts = ast::visit_expressions(&select.projection, |expr| match expr {
        Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("count") => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    !grouped
        && counts.is_continue()
        && select.from.iter().any(|from| {
            let joins = &from.joins;
            !joins.iter().any(outer) && (is_nothing(&from.relation) || joins.iter().any(inner))
        })
}

/// Whether there is something of an array, or of a name looked up at execution.
fn has_arrays<V: ast::Visit>(part: &V) -> bool {
    let named = |name: &ast::ObjectName| {
        let last = name.0.last().and_then(|part| part.as_ident()).map(folded);
        last.is_some_and(|name| name.starts_with("reg"))
    };
    let found = ast::visit_expressions(part, |expr| {
        let array = match expr {
            Expr::Array(_) | Expr::CompoundFieldAccess { .. } => true,
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                !matches!(right.as_ref(), Expr::Subquery(_))
            }
            Expr::Function(f) => matches!(f.args, ast::FunctionArguments::Subquery(_)),
            Expr::Cast { data_type: ast::DataType::Array(_) | ast::DataType::Regclass, .. } => true,
            Expr::Cast { data_type: ast::DataType::Custom(name, _), .. } => named(name),
            _ => false,
        };
        if array { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found.is_break()
}

fn forget(item: &mut SelectItem) {
    let (expr, alias) = match item {
        SelectItem::UnnamedExpr(expr) => (&*expr, Ident::with_quote('"', column_name(expr))),
        SelectItem::ExprWithAlias { expr, alias } => (&*expr, alias.clone()),
        _ => return,
    };
    if has_arrays(expr) {
        *item = SelectItem::ExprWithAlias { expr: text(Value::Null), alias };
    }
}
