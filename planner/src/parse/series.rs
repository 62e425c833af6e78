//! `generate_series` in a select list: PostgreSQL gives a row for each of its values, as if it
//! stood in FROM, where it is put. A call in FROM is LATERAL without saying so.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, SelectItem, Statement, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::error::{SqlError, SqlResult};

const NAME: &str = "generate_series";
const ALIAS: &str = "quorate_series";

/// Aggregates that clients use: beside them a series would be counted after the grouping.
const AGGREGATES: [&str; 9] =
    ["count", "sum", "avg", "min", "max", "string_agg", "array_agg", "bool_and", "bool_or"];

/// Moves calls in select lists to FROM.
pub(super) fn to_from(statement: &mut Statement) -> SqlResult<()> {
    struct Selects;
    impl VisitorMut for Selects {
        type Break = SqlError;

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<SqlError> {
            if let Err(error) = moved(select) {
                return ControlFlow::Break(error);
            }
            // Functions in FROM may refer to what stands before them, with the word or without.
            let mut first = true;
            for from in &mut select.from {
                let joined = from.joins.iter_mut().map(|join| &mut join.relation);
                for relation in std::iter::once(&mut from.relation).chain(joined) {
                    match relation {
                        TableFactor::Function { lateral, .. } => *lateral = !first,
                        TableFactor::Table { .. } => as_function(relation, !first),
                        _ => {}
                    }
                    first = false;
                }
            }
            ControlFlow::Continue(())
        }
    }
    match VisitMut::visit(statement, &mut Selects) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A call in FROM, as what the parser makes of one that follows the word LATERAL.
fn as_function(relation: &mut TableFactor, lateral: bool) {
    if let TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } = relation {
        *relation = TableFactor::Function {
            lateral,
            name: name.clone(),
            args: args.args.clone(),
            with_ordinality: *with_ordinality,
            alias: alias.clone(),
        };
    }
}

fn call_name(function: &ast::Function) -> String {
    let last = function.name.0.last().and_then(|part| part.as_ident());
    last.map(|ident| ident.value.to_lowercase()).unwrap_or_default()
}

/// What is in a select list, subqueries left out.
#[derive(Default)]
struct Seen {
    series: Vec<ast::Function>,
    aggregates: bool,
    depth: usize,
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && self.depth == 0
        {
            let name = call_name(function);
            if name == NAME {
                self.series.push(function.clone());
            }
            self.aggregates |= AGGREGATES.contains(&name.as_str()) && function.over.is_none();
        }
        ControlFlow::Continue(())
    }
}

fn moved(select: &mut ast::Select) -> SqlResult<()> {
    let mut seen = Seen::default();
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let _: ControlFlow<()> = Visit::visit(expr, &mut seen);
        }
    }
    let Some(first) = seen.series.first().cloned() else { return Ok(()) };
    let grouped = !matches!(&select.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty());
    if seen.aggregates || grouped || select.having.is_some() {
        return Err(SqlError::unsupported("generate_series beside aggregates or GROUP BY"));
    }
    if seen.series.iter().any(|other| other.args != first.args) || seen.series.len() > 1 {
        return Err(SqlError::unsupported("several generate_series in one select list"));
    }
    let ast::FunctionArguments::List(list) = first.args else {
        return Err(SqlError::unsupported("generate_series of a query"));
    };
    struct Replace;
    impl VisitorMut for Replace {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && call_name(function) == NAME
            {
                *expr = Expr::CompoundIdentifier(vec![Ident::new(ALIAS), Ident::new(NAME)]);
            }
            ControlFlow::Continue(())
        }
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let _: ControlFlow<()> = VisitMut::visit(expr, &mut Replace);
        }
    }
    let relation = TableFactor::Function {
        lateral: false,
        name: ast::ObjectName::from(vec![Ident::new(NAME)]),
        args: list.args,
        with_ordinality: false,
        alias: Some(ast::TableAlias {
            explicit: true,
            name: Ident::new(ALIAS),
            columns: vec![ast::TableAliasColumnDef::from_name(NAME)],
            at: None,
        }),
    };
    select.from.push(ast::TableWithJoins { relation, joins: vec![] });
    Ok(())
}
