//! What sqlparser takes and PostgreSQL does not: reserved words as names, joins without a
//! condition, string literals as aliases, window functions where none may be.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, SelectItem, Statement,
    TableFactor, Visit, Visitor,
};

use super::tokens::position;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::plan::build::OWN_SCHEMA;
use crate::plan::rewrite::folded;
use crate::semantics::table::EQUAL_WINDOWS;

/// PostgreSQL's reserved words that no expression starts with.
const RESERVED: [&str; 64] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "as",
    "asc",
    "asymmetric",
    "both",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "union",
    "unique",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
    "not",
    "null",
    "case",
    "cast",
    "array",
];

/// Entries of a select list; PostgreSQL's limit.
const TARGETS_MAX: usize = 1_664;

/// Relations in a FROM: planning takes cubic time, here two seconds.
const RELATIONS_MAX: usize = 400;

fn is_reserved(ident: &Ident) -> bool {
    ident.quote_style.is_none() && RESERVED.contains(&ident.value.to_ascii_lowercase().as_str())
}

/// Refuses what PostgreSQL refuses.
pub(super) fn check(statement: &Statement, text: &str) -> SqlResult<()> {
    if let Statement::ExplainTable { table_name, .. } = statement {
        let first = table_name.0.first().and_then(|part| part.as_ident());
        return Err(first.map_or_else(
            || SqlError::syntax("syntax error at or near \"explain\""),
            |ident| near(ident, text),
        ));
    }
    match Visit::visit(statement, &mut Check { text }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn near(ident: &Ident, text: &str) -> SqlError {
    SqlError::syntax(format!("syntax error at or near \"{}\"", ident.value))
        .at(position(text, ident.span.start))
}

struct Check<'a> {
    text: &'a str,
}

impl Check<'_> {
    fn name(&self, ident: &Ident) -> ControlFlow<SqlError> {
        if is_reserved(ident) {
            return ControlFlow::Break(near(ident, self.text));
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Check<'_> {
    type Break = SqlError;

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<SqlError> {
        let schemas = relation.0.iter().rev().skip(1).filter_map(|part| part.as_ident());
        if schemas.map(folded).any(|schema| schema == OWN_SCHEMA) {
            // It is for what is planned here.
            let message = format!("relation \"{relation}\" does not exist");
            return ControlFlow::Break(SqlError::new(SqlState::UNDEFINED_TABLE, message));
        }
        match relation.0.first().and_then(|part| part.as_ident()) {
            Some(ident) => self.name(ident),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<SqlError> {
        match expr {
            Expr::Identifier(ident) => self.name(ident),
            Expr::CompoundIdentifier(idents) => match idents.first() {
                Some(ident) => self.name(ident),
                None => ControlFlow::Continue(()),
            },
            Expr::Function(function) if function.over.is_none() => {
                let name = function.name.to_string().to_ascii_lowercase();
                if EQUAL_WINDOWS.contains(&name.as_str()) && function.within_group.is_empty() {
                    let message = format!("window function {name} requires an OVER clause");
                    let error = SqlError::new(SqlState::WRONG_OBJECT_TYPE, message);
                    let ident = function.name.0.first().and_then(|part| part.as_ident());
                    return ControlFlow::Break(match ident {
                        Some(ident) => error.at(position(self.text, ident.span.start)),
                        None => error,
                    });
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::Table { alias: Some(alias), .. }
            | TableFactor::Derived { alias: Some(alias), .. } => self.name(&alias.name),
            TableFactor::Derived { alias: None, .. } => {
                let message = "subquery in FROM must have an alias";
                let hint = "For example, FROM (SELECT ...) [AS] foo.";
                ControlFlow::Break(SqlError::syntax(message).with_hint(hint))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<SqlError> {
        if select.projection.len() > TARGETS_MAX {
            let message = format!("target lists can have at most {TARGETS_MAX} entries");
            return ControlFlow::Break(SqlError::new(SqlState::TOO_MANY_COLUMNS, message));
        }
        let relations = select.from.iter().map(|from| 1 + from.joins.len()).sum::<usize>();
        if relations > RELATIONS_MAX {
            let message = format!("more than {RELATIONS_MAX} relations in FROM");
            return ControlFlow::Break(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message));
        }
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item
                && alias.quote_style == Some('\'')
            {
                let message = format!("syntax error at or near \"'{}'\"", alias.value);
                let error = SqlError::syntax(message).at(position(self.text, alias.span.start));
                return ControlFlow::Break(error);
            }
        }
        for join in select.from.iter().flat_map(|from| &from.joins) {
            let constraint = match &join.join_operator {
                JoinOperator::Join(c)
                | JoinOperator::Inner(c)
                | JoinOperator::Left(c)
                | JoinOperator::LeftOuter(c)
                | JoinOperator::Right(c)
                | JoinOperator::RightOuter(c)
                | JoinOperator::FullOuter(c) => c,
                _ => continue,
            };
            if *constraint == JoinConstraint::None {
                return ControlFlow::Break(SqlError::syntax("a JOIN needs ON or USING"));
            }
        }
        let places = [("WHERE", &select.selection), ("HAVING", &select.having)];
        for (place, expr) in places {
            if let Some(expr) = expr
                && has_window(expr)
            {
                let message = format!("window functions are not allowed in {place}");
                return ControlFlow::Break(SqlError::new(SqlState::WINDOWING_ERROR, message));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether an expression calls a window function, subqueries left out.
fn has_window(expr: &Expr) -> bool {
    struct Windows(usize);
    impl Visitor for Windows {
        type Break = ();

        fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if function.over.is_some() && self.0 == 0 => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    Visit::visit(expr, &mut Windows(0)).is_break()
}
