//! `INTERSECT ALL` and `EXCEPT ALL`: rows that are equal are numbered on both sides, and then there
//! are no two alike.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, SelectItem, SetExpr, SetOperator, SetQuantifier, Statement, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::dialect::Postgres;
use crate::error::{SqlError, SqlResult};
use crate::plan::rewrite::{column_name, folded};

/// Rewrites them where they stand.
pub(super) fn rewrite(statement: &mut Statement) -> SqlResult<()> {
    struct Bodies;
    impl VisitorMut for Bodies {
        type Break = SqlError;

        fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<SqlError> {
            match numbered(query.body.as_mut()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    match VisitMut::visit(statement, &mut Bodies) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The names of the columns of a query; `None` if only planning knows them.
fn names(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => {
            let name = |item: &SelectItem| match item {
                SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            };
            select.projection.iter().map(name).collect()
        }
        SetExpr::Query(query) => names(&query.body),
        SetExpr::SetOperation { left, .. } => names(left),
        SetExpr::Values(values) => {
            let width = values.rows.first()?.len();
            Some((1..=width).map(|i| format!("column{i}")).collect())
        }
        _ => None,
    }
}

fn numbered(body: &mut SetExpr) -> SqlResult<()> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    numbered(left)?;
    numbered(right)?;
    let word = match (&op, &set_quantifier) {
        (SetOperator::Intersect, SetQuantifier::All) => "INTERSECT",
        (SetOperator::Except | SetOperator::Minus, SetQuantifier::All) => "EXCEPT",
        _ => return Ok(()),
    };
    let Some(names) = names(left) else {
        return Err(SqlError::unsupported(format_args!("{word} ALL of a star")));
    };
    let own: Vec<String> = (1..=names.len()).map(|i| format!("quorate_s{i}")).collect();
    let own = own.join(", ");
    let side = |side: &SetExpr, alias: &str| {
        format!(
            "SELECT {own}, row_number() OVER (PARTITION BY {own}) AS quorate_n \
             FROM ({side}) AS {alias} ({own})"
        )
    };
    let shown = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("quorate_s{} AS \"{}\"", i + 1, name.replace('"', "\"\"")));
    let sql = format!(
        "SELECT {} FROM ({} {word} {}) AS quorate_set",
        shown.collect::<Vec<_>>().join(", "),
        side(left, "quorate_left"),
        side(right, "quorate_right"),
    );
    let mut parser = Parser::new(&Postgres).try_with_sql(&sql)?;
    *body = *parser.parse_query()?.body;
    Ok(())
}
