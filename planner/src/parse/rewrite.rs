//! Syntax that DataFusion does not take, put into syntax that it does: rows compared column by
//! column, `FETCH FIRST`. And syntax that is refused, because it would be misunderstood.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator as Op, Expr, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::error::{SqlError, SqlResult};

/// Refuses what sqlparser groups otherwise than PostgreSQL does, or DataFusion computes otherwise:
/// it must not pass in silence.
pub fn refuse_misread(statement: &ast::Statement) -> SqlResult<()> {
    struct Misread;
    impl Visitor for Misread {
        type Break = &'static str;

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<&'static str> {
            match expr {
                Expr::Value(value) => match &value.value {
                    ast::Value::HexStringLiteral(_)
                    | ast::Value::SingleQuotedByteStringLiteral(_) => {
                        ControlFlow::Break("a bit string")
                    }
                    _ => ControlFlow::Continue(()),
                },
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match Visit::visit(statement, &mut Misread) {
        ControlFlow::Break(what) => Err(SqlError::unsupported(what)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Rewrites rows and `FETCH FIRST`.
pub fn plain(statement: &mut ast::Statement) -> SqlResult<()> {
    struct Plain;
    impl VisitorMut for Plain {
        type Break = SqlError;

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            super::regroup::regroup(expr);
            exact_float(expr);
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            if let Some(plain) = grammar(expr) {
                *expr = plain;
            }
            sign_apart(expr);
            match rows(expr) {
                Ok(Some(plain)) => *expr = plain,
                Ok(None) => {}
                Err(error) => return ControlFlow::Break(error),
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<SqlError> {
            let simple = query.fetch.as_ref().is_some_and(|f| !f.with_ties && !f.percent);
            if !simple {
                return ControlFlow::Continue(());
            }
            let (offset, limited) = match query.limit_clause.take() {
                None => (None, false),
                Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
                    (offset, limit.is_some())
                }
                Some(_) => (None, true),
            };
            if limited {
                let message = "multiple LIMIT clauses not allowed";
                return ControlFlow::Break(SqlError::syntax(message));
            }
            let quantity = query.fetch.take().and_then(|f| f.quantity);
            let one = || Expr::value(ast::Value::Number("1".into(), false));
            let limit = Some(quantity.unwrap_or_else(one));
            query.limit_clause =
                Some(ast::LimitClause::LimitOffset { limit, offset, limit_by: vec![] });
            ControlFlow::Continue(())
        }
    }
    match VisitMut::visit(statement, &mut Plain) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A number with an exponent that is cast to a float is read as a float: as a `numeric` it might
/// have more digits than one can have here.
fn exact_float(expr: &mut Expr) {
    let Expr::Cast { expr: inner, data_type, .. } = expr else { return };
    let float = matches!(
        data_type,
        ast::DataType::Float(_)
            | ast::DataType::Float4
            | ast::DataType::Float8
            | ast::DataType::Real
            | ast::DataType::DoublePrecision
    );
    if let Some(text) = exponent(inner).filter(|_| float) {
        **inner = Expr::value(ast::Value::SingleQuotedString(text));
    }
}

/// Puts an operand that begins with a sign in brackets: `- -1` would be written as a comment.
fn sign_apart(expr: &mut Expr) {
    let Expr::UnaryOp { expr: inner, .. } = expr else { return };
    if matches!(&**inner, Expr::UnaryOp { op, .. } if *op != ast::UnaryOperator::Not) {
        let signed = std::mem::replace(inner.as_mut(), Expr::Tuple(vec![]));
        **inner = Expr::Nested(Box::new(signed));
    }
}

/// The text of a number with an exponent.
pub fn exponent(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            ast::Value::Number(n, _) if n.contains(['e', 'E']) => Some(n.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => {
            exponent(expr).map(|n| format!("-{n}"))
        }
        Expr::Nested(inner) => exponent(inner),
        _ => None,
    }
}

/// Constructs of the grammar as the calls and casts they stand for.
fn grammar(expr: &mut Expr) -> Option<Expr> {
    match expr {
        Expr::Interval(interval) => {
            let Expr::Value(value) = interval.value.as_ref() else { return None };
            let ast::Value::SingleQuotedString(text) = &value.value else { return None };
            if interval.last_field.is_some() || interval.leading_precision.is_some() {
                return None;
            }
            let text = match &interval.leading_field {
                Some(unit) => format!("{text} {}", unit.to_string().to_lowercase()),
                None => text.clone(),
            };
            Some(Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(Expr::value(ast::Value::SingleQuotedString(text))),
                data_type: ast::DataType::Interval { fields: None, precision: None },
                array: false,
                format: None,
            })
        }
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let one = || Box::new(Expr::value(ast::Value::Number("1".into(), false)));
            let from = substring_from.take().unwrap_or_else(one);
            let mut args = vec![(**expr).clone(), *from];
            args.extend(substring_for.take().map(|e| *e));
            Some(function("substring", args))
        }
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            // DataFusion takes one character only.
            if let Some(escape) = escape_char.take_if(|escape| !is_character(&escape.value)) {
                let args = vec![(**pattern).clone(), Expr::Value(escape)];
                **pattern = function("pg_like_escape", args);
            }
            None
        }
        Expr::AtTimeZone { timestamp, time_zone } => {
            Some(function("timezone", vec![(**time_zone).clone(), (**timestamp).clone()]))
        }
        Expr::Value(value) => match &value.value {
            ast::Value::UnicodeStringLiteral(text) => {
                Some(Expr::value(ast::Value::SingleQuotedString(text.clone())))
            }
            _ => None,
        },
        Expr::UnaryOp { op, expr } => {
            let name = match op {
                ast::UnaryOperator::BitwiseNot => "pg_bitnot",
                ast::UnaryOperator::PGSquareRoot => "sqrt",
                ast::UnaryOperator::PGCubeRoot => "cbrt",
                ast::UnaryOperator::PGAbs => "abs",
                _ => return None,
            };
            // An operator has no name to give to a column.
            let call = Box::new(function(name, vec![(**expr).clone()]));
            Some(Expr::UnaryOp { op: ast::UnaryOperator::Plus, expr: call })
        }
        _ => None,
    }
}

fn is_character(value: &ast::Value) -> bool {
    matches!(value, ast::Value::SingleQuotedString(text) if text.chars().count() == 1)
}

fn function(name: &str, args: Vec<Expr>) -> Expr {
    let unnamed = |e| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e));
    Expr::Function(ast::Function {
        name: ast::ObjectName::from(vec![ast::Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(unnamed).collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// The columns of a row.
pub(super) fn columns(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Tuple(columns) => Some(columns.clone()),
        Expr::Nested(inner) => columns(inner),
        Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("row") => {
            let ast::FunctionArguments::List(list) = &call.args else { return None };
            let column = |arg: &ast::FunctionArg| match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            };
            list.args.iter().map(column).collect()
        }
        _ => None,
    }
}

fn rows(expr: &Expr) -> SqlResult<Option<Expr>> {
    match expr {
        Expr::BinaryOp { left, op, right } => match (columns(left), columns(right)) {
            (Some(left), Some(right)) => compare(op, &left, &right),
            (Some(_), None) if is_plain_value(right) => Err(no_operator("record", op, "integer")),
            (None, Some(_)) if is_plain_value(left) => Err(no_operator("integer", op, "record")),
            _ => Ok(None),
        },
        Expr::InList { expr, list, negated } => {
            let Some(left) = columns(expr) else { return Ok(None) };
            let mut any: Option<Expr> = None;
            for item in list {
                let Some(right) = columns(item) else { return Ok(None) };
                let Some(equal) = compare(&Op::Eq, &left, &right)? else { return Ok(None) };
                any = Some(match any {
                    Some(before) => binary(before, Op::Or, equal),
                    None => equal,
                });
            }
            Ok(any.map(|any| match negated {
                true => Expr::UnaryOp {
                    op: ast::UnaryOperator::Not,
                    expr: Box::new(Expr::Nested(Box::new(any))),
                },
                false => Expr::Nested(Box::new(any)),
            }))
        }
        _ => Ok(None),
    }
}

/// Whether it is a number: a value that is no row.
fn is_plain_value(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, ast::Value::Number(..)))
}

fn no_operator(left: &str, op: &Op, right: &str) -> SqlError {
    SqlError::new(
        crate::error::SqlState::UNDEFINED_FUNCTION,
        format!("operator does not exist: {left} {op} {right}"),
    )
}

fn binary(left: Expr, op: Op, right: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }))
}

/// Two rows compared column by column, from the left.
pub(super) fn compare(op: &Op, left: &[Expr], right: &[Expr]) -> SqlResult<Option<Expr>> {
    if !matches!(op, Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq) {
        return Ok(None);
    }
    if left.len() != right.len() {
        return Err(SqlError::syntax("unequal number of entries in row expressions"));
    }
    let strict = match op {
        Op::LtEq => Op::Lt,
        Op::GtEq => Op::Gt,
        other => other.clone(),
    };
    let mut result: Option<Expr> = None;
    for (i, (l, r)) in left.iter().zip(right).enumerate().rev() {
        let last = i + 1 == left.len();
        let pair = |op: Op| binary(l.clone(), op, r.clone());
        result = Some(match (op, result) {
            (Op::Eq, Some(rest)) => binary(pair(Op::Eq), Op::And, rest),
            (Op::NotEq, Some(rest)) => binary(pair(Op::NotEq), Op::Or, rest),
            (_, Some(rest)) => {
                let tie = binary(pair(Op::Eq), Op::And, rest);
                binary(pair(strict.clone()), Op::Or, tie)
            }
            (op, None) if last => pair(op.clone()),
            (_, None) => return Ok(None),
        });
    }
    Ok(result)
}
