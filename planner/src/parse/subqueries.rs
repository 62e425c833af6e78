//! Comparisons with subqueries and arrays that DataFusion lacks, as those it has.
//!
//! A condition keeps a row only if it is true, so that in a condition `x > ALL (q)` says: there is
//! no row of `q` for which `x > …` is not true. Where false and NULL are told apart, a CASE does.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator as Op, Expr, Ident, Query, Statement, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::dialect::Postgres;
use crate::error::{SqlError, SqlResult};
use crate::plan::rewrite::column_name;

/// The name a subquery gets here; nobody types it.
const ALIAS: &str = "quorate_q";

/// Rewrites the conditions of a statement, then what is left anywhere else.
pub(super) fn rewrite(statement: &mut Statement) -> SqlResult<()> {
    struct Conditions;
    impl VisitorMut for Conditions {
        type Break = SqlError;

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<SqlError> {
            select.projection.iter_mut().for_each(keep_name);
            let mut places = select.selection.iter_mut().chain(&mut select.having);
            step(places.try_for_each(|expr| condition(expr, true)))
        }

        fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<SqlError> {
            step(match statement {
                Statement::Update(update) => {
                    let assigned = update.assignments.iter_mut().try_for_each(column_by_column);
                    if let Err(error) = assigned {
                        return ControlFlow::Break(error);
                    }
                    update.selection.iter_mut().try_for_each(|expr| condition(expr, true))
                }
                Statement::Delete(delete) => {
                    delete.selection.iter_mut().try_for_each(|expr| condition(expr, true))
                }
                _ => Ok(()),
            })
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            step(anywhere(expr))
        }
    }
    match VisitMut::visit(statement, &mut Conditions) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Names a result column by what the client wrote, where that will be rewritten.
fn keep_name(item: &mut ast::SelectItem) {
    let ast::SelectItem::UnnamedExpr(expr) = item else { return };
    let rewritten = ast::visit_expressions(expr, |expr| match expr {
        Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    if rewritten.is_break() {
        let alias = Ident::with_quote('"', column_name(expr));
        *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

/// `SET (a, b) = (query)` as a subquery for each of the columns.
fn column_by_column(assignment: &mut ast::Assignment) -> SqlResult<()> {
    let (ast::AssignmentTarget::Tuple(targets), Expr::Subquery(query)) =
        (&assignment.target, &assignment.value)
    else {
        return Ok(());
    };
    if let ast::SetExpr::Select(select) = query.body.as_ref() {
        let starred = |item: &ast::SelectItem| {
            use ast::SelectItem::{QualifiedWildcard, Wildcard};
            matches!(item, Wildcard(_) | QualifiedWildcard(..))
        };
        let counted = !select.projection.iter().any(starred);
        if counted && select.projection.len() != targets.len() {
            return Err(SqlError::syntax("number of columns does not match number of values"));
        }
    }
    let names: Vec<String> = (0..targets.len()).map(name).collect();
    let columns = names.join(", ");
    let column =
        |name: &String| parse(&format!("(SELECT {name} FROM ({query}) AS {ALIAS} ({columns}))"));
    assignment.value = Expr::Tuple(names.iter().map(column).collect::<SqlResult<_>>()?);
    Ok(())
}

fn step(result: SqlResult<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

/// A comparison of something with every row of a subquery.
struct Quantified {
    left: Vec<Expr>,
    op: Op,
    query: Box<Query>,
    /// Of all rows, not of one.
    all: bool,
}

/// What an expression compares with a subquery, if DataFusion does not do it itself.
fn quantified(expr: &Expr) -> Option<Quantified> {
    let (left, op, query, all) = match expr {
        Expr::AnyOp { left, compare_op, right, .. } => match right.as_ref() {
            Expr::Subquery(query) => (left, compare_op.clone(), query, false),
            _ => return None,
        },
        Expr::AllOp { left, compare_op, right } => match right.as_ref() {
            Expr::Subquery(query) => (left, compare_op.clone(), query, true),
            _ => return None,
        },
        Expr::InSubquery { expr, subquery, negated: false } => (expr, Op::Eq, subquery, false),
        Expr::InSubquery { expr, subquery, negated: true } => (expr, Op::NotEq, subquery, true),
        _ => return None,
    };
    let row = super::rewrite::columns(left);
    let own = matches!((&op, all), (Op::Eq, false) | (Op::NotEq, true));
    if row.is_none() && own {
        return None;
    }
    let left = row.unwrap_or_else(|| vec![(**left).clone()]);
    Some(Quantified { left, op, query: query.clone(), all })
}

/// A condition, of which only the truth counts; `top`: with nothing but AND around it.
fn condition(expr: &mut Expr, top: bool) -> SqlResult<()> {
    match expr {
        Expr::BinaryOp { left, op: Op::And, right } => {
            condition(left, top)?;
            condition(right, top)
        }
        Expr::BinaryOp { left, op: Op::Or, right } => {
            condition(left, false)?;
            condition(right, false)
        }
        Expr::Nested(inner) => condition(inner, top),
        Expr::UnaryOp { op: ast::UnaryOperator::Not, expr: inner } => {
            if let Expr::InSubquery { expr: left, subquery, negated } = bare(inner) {
                *expr = Expr::InSubquery {
                    expr: left.clone(),
                    subquery: subquery.clone(),
                    negated: !negated,
                };
                return condition(expr, top);
            }
            memberships(inner)
        }
        Expr::InSubquery { expr: left, subquery, negated: true } if !top => {
            // DataFusion's mark of a row that was found knows no NULL.
            let row = super::rewrite::columns(left);
            let left = row.unwrap_or_else(|| vec![(**left).clone()]);
            let query = subquery.clone();
            *expr = Quantified { left, op: Op::NotEq, query, all: true }.truth()?;
            Ok(())
        }
        other => match quantified(other) {
            Some(found) => {
                *other = found.truth()?;
                Ok(())
            }
            None if matches!(other, Expr::InSubquery { .. } | Expr::Exists { .. }) => Ok(()),
            None => memberships(other),
        },
    }
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => bare(inner),
        other => other,
    }
}

/// Every `IN` of a subquery within an expression as the value it has, NULL included.
fn memberships(expr: &mut Expr) -> SqlResult<()> {
    struct Memberships(usize);
    impl VisitorMut for Memberships {
        type Break = SqlError;

        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
            self.0 += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            let Expr::InSubquery { expr: left, subquery, negated } = expr else {
                return ControlFlow::Continue(());
            };
            if self.0 > 0 || super::rewrite::columns(left).is_some() {
                return ControlFlow::Continue(());
            }
            let text = membership(left, subquery, *negated);
            step(parse(&text).map(|counted| *expr = counted))
        }
    }
    match VisitMut::visit(expr, &mut Memberships(0)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn anywhere(expr: &mut Expr) -> SqlResult<()> {
    if let Some(found) = quantified(expr) {
        *expr = found.value()?;
        return Ok(());
    }
    if let Expr::AnyOp { left, compare_op: Op::Eq, right, .. } = expr
        && let Some(list) = elements(right)?
    {
        *expr = Expr::InList { expr: left.clone(), list, negated: false };
    } else if let Expr::AllOp { left, compare_op: Op::NotEq, right } = expr
        && let Some(list) = elements(right)?
    {
        *expr = Expr::InList { expr: left.clone(), list, negated: true };
    }
    Ok(())
}

fn name(i: usize) -> String {
    format!("quorate_c{}", i + 1)
}

impl Quantified {
    /// `left op row`
    fn comparison(&self) -> SqlResult<String> {
        let columns: Vec<String> = (0..self.left.len()).map(name).collect();
        if let [left] = self.left.as_slice() {
            return Ok(format!("({left}) {} {ALIAS}.{}", self.op, columns[0]));
        }
        let right: Vec<Expr> = columns
            .iter()
            .map(|c| Expr::CompoundIdentifier(vec![Ident::new(ALIAS), Ident::new(c)]))
            .collect();
        match super::rewrite::compare(&self.op, &self.left, &right)? {
            Some(compared) => Ok(compared.to_string()),
            None => Err(SqlError::unsupported(format_args!("{} of rows", self.op))),
        }
    }

    fn exists(&self, condition: &str) -> String {
        let columns: Vec<String> = (0..self.left.len()).map(name).collect();
        format!(
            "EXISTS (SELECT 1 FROM ({}) AS {ALIAS} ({}) WHERE {condition})",
            self.query,
            columns.join(", ")
        )
    }

    /// An expression that is true where this is, and not where it is not.
    fn truth(&self) -> SqlResult<Expr> {
        let compared = self.comparison()?;
        let text = match self.all {
            true => format!("NOT {}", self.exists(&format!("({compared}) IS NOT TRUE"))),
            false => self.exists(&compared),
        };
        parse(&text)
    }

    /// An expression of the same value, NULL included.
    fn value(&self) -> SqlResult<Expr> {
        let compared = self.comparison()?;
        let (decisive, otherwise) = if self.all { ("FALSE", "TRUE") } else { ("TRUE", "FALSE") };
        let decides = self.exists(&format!("({compared}) IS {decisive}"));
        let unknown = self.exists(&format!("({compared}) IS NULL"));
        parse(&format!(
            "(CASE WHEN {decides} THEN {decisive} WHEN {unknown} THEN CAST(NULL AS boolean) \
             ELSE {otherwise} END)"
        ))
    }
}

fn parse(text: &str) -> SqlResult<Expr> {
    let mut parser = Parser::new(&Postgres).try_with_sql(text)?;
    Ok(parser.parse_expr()?)
}

/// The elements of an array in the text, `ARRAY[…]` or `'{…}'`.
fn elements(expr: &Expr) -> SqlResult<Option<Vec<Expr>>> {
    Ok(match expr {
        Expr::Nested(inner) => elements(inner)?,
        Expr::Array(array) if !array.elem.is_empty() => Some(array.elem.clone()),
        Expr::Cast { expr, data_type: ast::DataType::Array(of), .. } => {
            let Some(list) = elements(expr)? else { return Ok(None) };
            let ast::ArrayElemTypeDef::SquareBracket(ty, _) = of else { return Ok(None) };
            let cast = |expr| Expr::Cast {
                kind: ast::CastKind::DoubleColon,
                expr: Box::new(expr),
                data_type: (**ty).clone(),
                array: false,
                format: None,
            };
            Some(list.into_iter().map(cast).collect())
        }
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => words(text)?,
            _ => None,
        },
        _ => None,
    })
}

/// The elements of `{a,b,NULL}`; quoted ones and braces within are not read.
fn words(text: &str) -> SqlResult<Option<Vec<Expr>>> {
    let inner = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(inner) = inner else { return Ok(None) };
    if inner.contains(['"', '{', '}', '\\']) || inner.trim().is_empty() {
        return Err(SqlError::unsupported("an array literal with quotes, or without elements"));
    }
    let word = |word: &str| match word.trim() {
        null if null.eq_ignore_ascii_case("null") => Expr::value(Value::Null),
        word => Expr::value(Value::SingleQuotedString(word.to_owned())),
    };
    Ok(Some(inner.split(',').map(word).collect()))
}

/// Rewrites `EXISTS` and `IN` in select lists, where DataFusion takes only subqueries that are
/// values: as counts of rows.
pub(super) fn count_in_lists(statement: &mut Statement) -> SqlResult<()> {
    struct Lists;
    impl VisitorMut for Lists {
        type Break = SqlError;

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<SqlError> {
            step(select.projection.iter_mut().try_for_each(|item| match item {
                ast::SelectItem::UnnamedExpr(expr)
                | ast::SelectItem::ExprWithAlias { expr, .. } => counted(expr),
                _ => Ok(()),
            }))
        }

        fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<SqlError> {
            let Statement::Update(update) = statement else { return ControlFlow::Continue(()) };
            step(update.assignments.iter_mut().try_for_each(|a| counted(&mut a.value)))
        }
    }
    match VisitMut::visit(statement, &mut Lists) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The expression with counts for what is in it, subqueries left out: they have their own lists.
fn counted(expr: &mut Expr) -> SqlResult<()> {
    struct Counts(usize);
    impl VisitorMut for Counts {
        type Break = SqlError;

        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
            self.0 += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<SqlError> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            if self.0 > 0 {
                return ControlFlow::Continue(());
            }
            let text = match expr {
                Expr::Exists { subquery, negated } => {
                    let op = if *negated { "=" } else { ">" };
                    format!("({} {op} 0)", count(subquery, ""))
                }
                Expr::InSubquery { expr, subquery, negated } => {
                    membership(expr, subquery, *negated)
                }
                _ => return ControlFlow::Continue(()),
            };
            step(parse(&text).map(|counted| *expr = counted))
        }
    }
    match VisitMut::visit(expr, &mut Counts(0)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// How many rows a query has.
fn count(query: &Query, condition: &str) -> String {
    // A plain query is counted itself, so that what it takes from outside stays where it is.
    if condition.is_empty()
        && let ast::SetExpr::Select(select) = query.body.as_ref()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.with.is_none()
        && select.distinct.is_none()
        && select.having.is_none()
        && matches!(&select.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty())
        && !calls_function(select)
    {
        let mut select = select.clone();
        select.projection =
            vec![ast::SelectItem::UnnamedExpr(Expr::Identifier(Ident::new("quorate_count")))];
        return format!("({})", select.to_string().replacen("quorate_count", "count(*)", 1));
    }
    let columns = if condition.is_empty() { String::new() } else { format!(" ({})", name(0)) };
    format!("(SELECT count(*) FROM ({query}) AS {ALIAS}{columns}{condition})")
}

/// Whether a select list calls functions: one of them might be an aggregate.
fn calls_function(select: &ast::Select) -> bool {
    let calls = |item: &ast::SelectItem| {
        let found = ast::visit_expressions(item, |expr| match expr {
            Expr::Function(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        found.is_break()
    };
    select.projection.iter().any(calls)
}

fn membership(expr: &Expr, query: &Query, negated: bool) -> String {
    let column = format!("{ALIAS}.{}", name(0));
    let (found, none) = if negated { ("FALSE", "TRUE") } else { ("TRUE", "FALSE") };
    let equal = count(query, &format!(" WHERE ({expr}) = {column}"));
    let nulls = count(query, &format!(" WHERE {column} IS NULL"));
    let any = count(query, " WHERE TRUE");
    format!(
        "(CASE WHEN {equal} > 0 THEN {found} \
         WHEN {nulls} > 0 OR (({expr}) IS NULL AND {any} > 0) THEN CAST(NULL AS boolean) \
         ELSE {none} END)"
    )
}
