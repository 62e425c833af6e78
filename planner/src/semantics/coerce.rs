//! One expression after another gets PostgreSQL's types and meaning. Children come first.

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, Between, Case, Cast, InList, InSubquery, Like, ScalarFunction,
    SetComparison, SetQuantifier, Sort, WindowFunction,
};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlanBuilder, Operator, ReturnFieldArgs, Subquery,
    WindowFunctionDefinition,
};

use super::cast::{Context, allowed};
use super::function::{Arg, arg_of, call, called};
use super::{aggregates, distinct, ops, resolve, table};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::types::PgType;

/// What an expression is taken for: its type, and its value if it is a literal.
pub fn arg(expr: &Expr, schema: &DFSchema) -> SqlResult<Arg> {
    match expr {
        Expr::Alias(alias) => return arg(&alias.expr, schema),
        Expr::Placeholder(p) if p.field.is_none() => {
            return Ok(Arg { ty: PgType::Unknown, literal: None });
        }
        _ => {}
    }
    arg_of(&field_of(expr, schema)?, literal_of(expr))
}

fn literal_of(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// The field of an expression, whatever its name. DataFusion's own way makes the name of every
/// expression within, which takes quadratic time in chains of our functions.
fn field_of(expr: &Expr, schema: &DFSchema) -> DfResult<FieldRef> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if called(func).is_some() => {
            let fields =
                args.iter().map(|arg| field_of(arg, schema)).collect::<DfResult<Vec<_>>>()?;
            let literals: Vec<_> = args.iter().map(literal_of).collect();
            func.return_field_from_args(ReturnFieldArgs {
                arg_fields: &fields,
                scalar_arguments: &literals,
            })
        }
        _ => Ok(expr.to_field(schema)?.1),
    }
}

/// The metadata that tells a type.
pub fn told(ty: PgType) -> FieldMetadata {
    FieldMetadata::from(ty.metadata())
}

fn tagged(value: ScalarValue, ty: PgType) -> Expr {
    Expr::Literal(value, Some(FieldMetadata::from(ty.metadata())))
}

/// The whole expression with PostgreSQL's meaning.
pub fn expression(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    expr.transform_up(|e| Ok(Transformed::yes(node(e, schema)?)))
}

fn node(expr: Expr, schema: &DFSchema) -> SqlResult<Expr> {
    Ok(match expr {
        Expr::Literal(value, None) => literal(value)?,
        Expr::BinaryExpr(binary) => binary_expr(binary, schema)?,
        Expr::Not(inner) => Expr::Not(Box::new(boolean(*inner, "NOT", schema)?)),
        Expr::IsTrue(e) => Expr::IsTrue(Box::new(boolean(*e, "IS TRUE", schema)?)),
        Expr::IsFalse(e) => Expr::IsFalse(Box::new(boolean(*e, "IS FALSE", schema)?)),
        Expr::IsNotTrue(e) => Expr::IsNotTrue(Box::new(boolean(*e, "IS NOT TRUE", schema)?)),
        Expr::IsNotFalse(e) => Expr::IsNotFalse(Box::new(boolean(*e, "IS NOT FALSE", schema)?)),
        Expr::IsUnknown(e) => Expr::IsUnknown(Box::new(boolean(*e, "IS UNKNOWN", schema)?)),
        Expr::IsNotUnknown(e) => {
            Expr::IsNotUnknown(Box::new(boolean(*e, "IS NOT UNKNOWN", schema)?))
        }
        Expr::Negative(inner) => our_call("pg_neg", vec![*inner], schema)?,
        Expr::Between(between) => range(between, schema)?,
        Expr::Case(case) => case_expr(case, schema)?,
        Expr::Cast(cast) => {
            let to = PgType::of_field(&cast.field)?;
            explicit_cast(*cast.expr, to, schema)?
        }
        Expr::TryCast(_) => return Err(SqlError::unsupported("TRY_CAST")),
        Expr::Like(like) => like_expr(like, schema)?,
        Expr::SimilarTo(like) => similar_expr(like, schema)?,
        Expr::ScalarFunction(function) => scalar_function(function, schema)?,
        Expr::AggregateFunction(function) => aggregate(function, schema)?,
        Expr::WindowFunction(function) => window(*function, schema)?,
        Expr::InList(list) => in_list(list, schema)?,
        Expr::InSubquery(query) => in_subquery(query, schema)?,
        Expr::SetComparison(comparison) => set_comparison(comparison, schema)?,
        Expr::ScalarSubquery(query) if !query.outer_ref_columns.is_empty() => {
            let plan = distinct::at_most_one_row(query.subquery.as_ref().clone())?;
            Expr::ScalarSubquery(query.with_plan(std::sync::Arc::new(plan)))
        }
        Expr::Unnest(_)
        | Expr::HigherOrderFunction(_)
        | Expr::Lambda(_)
        | Expr::LambdaVariable(_)
        | Expr::ScalarVariable(..) => {
            return Err(SqlError::unsupported("an array or variable expression"));
        }
        other => other,
    })
}

/// Literals as the SQL text has them: integers are as small as they can be from `integer` on.
fn literal(value: ScalarValue) -> SqlResult<Expr> {
    Ok(match value {
        ScalarValue::Int64(Some(v)) => match i32::try_from(v) {
            Ok(small) => Expr::Literal(ScalarValue::Int32(Some(small)), None),
            Err(_) => Expr::Literal(ScalarValue::Int64(Some(v)), None),
        },
        ScalarValue::UInt64(Some(v)) => {
            Expr::Literal(ScalarValue::Decimal128(Some(i128::from(v)), 20, 0), None)
        }
        ScalarValue::Decimal128(Some(v), _, s) if s < 0 => {
            let power = 10i128.checked_pow(u32::from(s.unsigned_abs()));
            let whole = power.and_then(|p| v.checked_mul(p));
            let whole = whole.ok_or_else(|| SqlError::unsupported("a number this large"))?;
            Expr::Literal(ScalarValue::Decimal128(Some(whole), 38, 0), None)
        }
        ScalarValue::Decimal256(Some(v), _, s) => match (v.to_i128(), u16::try_from(s)) {
            (Some(small), Ok(_)) if s <= 38 => {
                Expr::Literal(ScalarValue::Decimal128(Some(small), 38, s), None)
            }
            (_, Ok(scale)) => {
                let number = crate::types::numeric::Numeric::Finite { mantissa: v, scale };
                Expr::Literal(ScalarValue::LargeBinary(Some(number.to_bytes())), None)
            }
            _ => return Err(SqlError::unsupported("a number this large")),
        },
        other => Expr::Literal(other, None),
    })
}

/// An expression brought to a type as an operand is.
pub fn implicit(expr: Expr, to: PgType, schema: &DFSchema) -> SqlResult<Expr> {
    let from = arg(&expr, schema)?.ty;
    convert(expr, from, to, false)
}

/// Converts, whether or not there is an implicit cast.
pub fn convert(expr: Expr, from: PgType, to: PgType, explicit: bool) -> SqlResult<Expr> {
    if from == to {
        return Ok(expr);
    }
    match expr {
        Expr::Literal(value, _) => {
            let value = ops::convert_literal(&value, from, to, explicit)?;
            return Ok(tagged(value, to));
        }
        Expr::Placeholder(mut placeholder) if from == PgType::Unknown => {
            let base = to.without_modifier();
            placeholder.field = Some(std::sync::Arc::new(base.field("", true)));
            return convert(Expr::Placeholder(placeholder), base, to, explicit);
        }
        _ => {}
    }
    let wider = matches!(
        (from, to),
        (PgType::Int2, PgType::Int4 | PgType::Int8)
            | (PgType::Int4 | PgType::Oid, PgType::Int8)
            | (PgType::Int2 | PgType::Int4 | PgType::Float4, PgType::Float8)
    );
    if wider {
        return Ok(Expr::Cast(Cast::new(Box::new(expr), to.arrow())));
    }
    let same_string = from.arrow() == to.arrow()
        && from.is_string()
        && matches!(to, PgType::Text | PgType::Varchar(None));
    if same_string && !explicit {
        return Ok(expr);
    }
    let name = if explicit { "pg_cast" } else { "pg_assign" };
    let target = tagged(ScalarValue::Utf8(Some(to.to_string())), PgType::Text);
    Ok(call(name, vec![expr, target]))
}

fn explicit_cast(expr: Expr, to: PgType, schema: &DFSchema) -> SqlResult<Expr> {
    let from = arg(&expr, schema)?.ty;
    if allowed(from, to).is_none() {
        return Err(SqlError::new(
            SqlState::CANNOT_COERCE,
            format!("cannot cast type {} to {}", from.sql_name(), to.sql_name()),
        ));
    }
    convert(expr, from, to, true)
}

/// An expression brought to the type of the column it is assigned to.
pub fn assignment(expr: Expr, from: PgType, to: PgType, column: &str) -> SqlResult<Expr> {
    match allowed(from, to) {
        Some(Context::Implicit | Context::Assignment) => convert(expr, from, to, false),
        _ => Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "column \"{column}\" is of type {} but expression is of type {}",
                to.sql_name(),
                from.sql_name()
            ),
        )
        .with_hint("You will need to rewrite or cast the expression.")),
    }
}

/// A condition.
pub fn boolean(expr: Expr, place: &str, schema: &DFSchema) -> SqlResult<Expr> {
    let ty = arg(&expr, schema)?.ty;
    match ty {
        PgType::Bool => Ok(expr),
        PgType::Unknown => convert(expr, ty, PgType::Bool, false),
        other => Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!("argument of {place} must be type boolean, not type {}", other.sql_name()),
        )),
    }
}

fn binary_expr(binary: BinaryExpr, schema: &DFSchema) -> SqlResult<Expr> {
    let BinaryExpr { left, op, right } = binary;
    let (left, right) = (*left, *right);
    let name = match op {
        Operator::And | Operator::Or => {
            let place = if op == Operator::And { "AND" } else { "OR" };
            let left = boolean(left, place, schema)?;
            let right = boolean(right, place, schema)?;
            return Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))));
        }
        op if is_comparison(op) => return compare(op, left, right, schema),
        Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            return compare(op, left, right, schema);
        }
        Operator::RegexMatch
        | Operator::RegexIMatch
        | Operator::RegexNotMatch
        | Operator::RegexNotIMatch => {
            let left = text_operand(left, schema)?;
            let right = text_operand(right, schema)?;
            return Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))));
        }
        Operator::LikeMatch
        | Operator::ILikeMatch
        | Operator::NotLikeMatch
        | Operator::NotILikeMatch => {
            let negated = matches!(op, Operator::NotLikeMatch | Operator::NotILikeMatch);
            let fold = matches!(op, Operator::ILikeMatch | Operator::NotILikeMatch);
            let like = Like::new(negated, Box::new(left), Box::new(right), None, fold);
            return like_expr(like, schema);
        }
        Operator::Plus => "pg_add",
        Operator::Minus => "pg_sub",
        Operator::Multiply => "pg_mul",
        Operator::Divide => "pg_div",
        Operator::Modulo => "pg_mod",
        Operator::StringConcat => "pg_concat",
        Operator::BitwiseAnd => "pg_bitand",
        Operator::BitwiseOr => "pg_bitor",
        Operator::BitwiseXor => "pg_bitxor",
        Operator::BitwiseShiftLeft => "pg_shl",
        Operator::BitwiseShiftRight => "pg_shr",
        other => return Err(SqlError::unsupported(format_args!("the operator {other}"))),
    };
    our_call(name, vec![left, right], schema)
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// A string operand of LIKE and regular expressions, blanks of `char(n)` and all.
fn text_operand(expr: Expr, schema: &DFSchema) -> SqlResult<Expr> {
    match arg(&expr, schema)?.ty {
        PgType::Char(_) => Ok(call("pg_raw", vec![expr])),
        ty if ty.is_string() || ty == PgType::Unknown => convert(expr, ty, PgType::Text, false),
        ty => Err(SqlError::new(
            SqlState::UNDEFINED_FUNCTION,
            format!("operator does not exist: {} ~~ text", ty.sql_name()),
        )),
    }
}

/// The expression without a cast that DataFusion put around it by itself: the types that SQL text
/// names are told by their metadata.
pub fn without_silent_cast(expr: Expr) -> Expr {
    match expr {
        Expr::Cast(cast)
            if !cast.field.metadata().contains_key(crate::types::TYPE_KEY)
                && matches!(*cast.expr, Expr::Literal(..) | Expr::Placeholder(_)) =>
        {
            *cast.expr
        }
        Expr::Literal(value, metadata)
            if value.is_null()
                && metadata
                    .as_ref()
                    .is_none_or(|m| !m.inner().contains_key(crate::types::TYPE_KEY)) =>
        {
            Expr::Literal(ScalarValue::Null, metadata)
        }
        other => other,
    }
}

/// Whether values of a type are compared, grouped and sorted by a key instead.
pub fn needs_key(ty: PgType) -> bool {
    matches!(ty, PgType::Numeric(None) | PgType::Float4 | PgType::Float8 | PgType::Interval)
}

/// What an expression is sorted and partitioned by.
pub fn sort_key(expr: Expr, schema: &DFSchema) -> SqlResult<Expr> {
    let ty = arg(&expr, schema)?.ty;
    let ours = |e: &Expr| matches!(e, Expr::ScalarFunction(f) if called(&f.func) == Some("pg_key"));
    if (needs_key(ty) || matches!(ty, PgType::Char(_))) && !ours(&expr) {
        return Ok(call("pg_key", vec![expr]));
    }
    Ok(expr)
}

/// Both sides as DataFusion can compare them.
pub fn comparison_sides(
    op: Operator,
    left: Expr,
    right: Expr,
    schemas: (&DFSchema, &DFSchema),
) -> SqlResult<(Expr, Expr)> {
    let (a, b) = (arg(&left, schemas.0)?, arg(&right, schemas.1)?);
    let keyed =
        |e: &Expr| matches!(e, Expr::ScalarFunction(f) if called(&f.func) == Some("pg_key"));
    if a.ty == b.ty && keyed(&left) && keyed(&right) {
        return Ok((left, right));
    }
    let symbol = op.to_string();
    let mut ty = resolve::comparable(&a, &b, &symbol)?;
    if let Some(exact) = literal_in_columns_digits(&a, &b) {
        ty = exact;
    }
    let is_parameter = |e: &Expr| matches!(e, Expr::Placeholder(_));
    // A parameter may have more digits than the column: the number decides, not its rounding.
    if matches!(ty, PgType::Numeric(_)) && (is_parameter(&left) || is_parameter(&right)) {
        ty = PgType::Numeric(None);
    }
    if let PgType::Char(n) = ty {
        return char_sides(op, (left, a.ty), (right, b.ty), n);
    }
    let left = convert(left, a.ty, ty, false)?;
    let right = convert(right, b.ty, ty, false)?;
    if needs_key(ty) {
        return Ok((call("pg_key", vec![left]), call("pg_key", vec![right])));
    }
    Ok((left, right))
}

/// A literal whose digits fit a column's type takes that type, so that the column stays bare.
fn literal_in_columns_digits(a: &Arg, b: &Arg) -> Option<PgType> {
    let (column, literal) = match (&a.literal, &b.literal) {
        (None, Some(literal)) => (a, (b.ty, literal)),
        (Some(literal), None) => (b, (a.ty, literal)),
        _ => return None,
    };
    let PgType::Numeric(Some((p, s))) = column.ty else { return None };
    let digits = match literal.0 {
        ty if ty.is_integer() => 0,
        PgType::Numeric(Some((_, t))) => t,
        _ => return None,
    };
    let fits = digits <= s && ops::convert_literal(literal.1, literal.0, column.ty, false).is_ok();
    fits.then_some(PgType::Numeric(Some((p, s))))
}

/// `char(n)` is compared without its blanks; equality with it by padding the other side.
fn char_sides(
    op: Operator,
    (left, l): (Expr, PgType),
    (right, r): (Expr, PgType),
    n: Option<u32>,
) -> SqlResult<(Expr, Expr)> {
    let equality = matches!(
        op,
        Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom
    );
    if l == r && equality && n.is_some() {
        return Ok((left, right));
    }
    let bare = PgType::Char(None);
    let own = |e: Expr, ty: PgType| {
        if matches!(ty, PgType::Char(_)) { Ok(e) } else { convert(e, ty, bare, false) }
    };
    let (left, right) = (own(left, l)?, own(right, r)?);
    match n.filter(|_| equality) {
        Some(n) => {
            let length = || {
                let value = ScalarValue::Int32(i32::try_from(n).ok());
                tagged(value, PgType::Int4)
            };
            let pad = |e: Expr, ty: PgType| match ty {
                PgType::Char(Some(m)) if m == n => e,
                _ => call("pg_pad", vec![e, length()]),
            };
            Ok((pad(left, l), pad(right, r)))
        }
        None => Ok((call("pg_key", vec![left]), call("pg_key", vec![right]))),
    }
}

/// A comparison.
pub fn compare(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> SqlResult<Expr> {
    let (left, right) = comparison_sides(op, left, right, (schema, schema))?;
    Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
}

fn range(between: Between, schema: &DFSchema) -> SqlResult<Expr> {
    let Between { expr, negated, low, high } = between;
    let above = compare(Operator::GtEq, (*expr).clone(), *low, schema)?;
    let below = compare(Operator::LtEq, *expr, *high, schema)?;
    let inside = above.and(below);
    Ok(if negated { Expr::Not(Box::new(inside)) } else { inside })
}

fn case_expr(case: Case, schema: &DFSchema) -> SqlResult<Expr> {
    let Case { expr, when_then_expr, else_expr } = case;
    let mut values = Vec::new();
    for (_, then) in &when_then_expr {
        values.push(arg(then, schema)?);
    }
    // Without ELSE it is NULL, which has no type of its own.
    if let Some(value) = &else_expr {
        values.push(arg(value, schema)?);
    }
    let ty = resolve::common_type("CASE", &values)?;
    let mut whens = Vec::with_capacity(when_then_expr.len());
    for (when, then) in when_then_expr {
        let when = match &expr {
            Some(subject) => compare(Operator::Eq, (**subject).clone(), *when, schema)?,
            None => boolean(*when, "CASE/WHEN", schema)?,
        };
        whens.push((Box::new(when), Box::new(implicit(*then, ty, schema)?)));
    }
    let otherwise = else_expr.map(|e| implicit(*e, ty, schema)).transpose()?;
    Ok(Expr::Case(Case::new(None, whens, otherwise.map(Box::new))))
}

fn like_expr(like: Like, schema: &DFSchema) -> SqlResult<Expr> {
    let expr = text_operand(*like.expr, schema)?;
    let mut pattern = text_operand(*like.pattern, schema)?;
    if let Some(escape) = like.escape_char.filter(|c| *c != '\\') {
        let escape = tagged(ScalarValue::Utf8(Some(escape.to_string())), PgType::Text);
        pattern = call("pg_like_escape", vec![pattern, escape]);
    }
    let (expr, pattern) = (Box::new(expr), Box::new(pattern));
    Ok(Expr::Like(Like::new(like.negated, expr, pattern, None, like.case_insensitive)))
}

fn similar_expr(like: Like, schema: &DFSchema) -> SqlResult<Expr> {
    let expr = text_operand(*like.expr, schema)?;
    let pattern = text_operand(*like.pattern, schema)?;
    let escape = like.escape_char.unwrap_or('\\').to_string();
    let escape = tagged(ScalarValue::Utf8(Some(escape)), PgType::Text);
    let pattern = call("pg_similar", vec![pattern, escape]);
    let op = if like.negated { Operator::RegexNotMatch } else { Operator::RegexMatch };
    Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(expr), op, Box::new(pattern))))
}

/// DataFusion's own function over text, with the replacement as it reads it.
fn regexp_replace(function: ScalarFunction, schema: &DFSchema) -> SqlResult<Expr> {
    let ScalarFunction { func, args } = function;
    if !(3..=4).contains(&args.len()) {
        return Err(SqlError::unsupported("this form of regexp_replace"));
    }
    let mut texts = Vec::with_capacity(args.len());
    for (i, expr) in args.into_iter().enumerate() {
        let expr = text_operand(expr, schema)?;
        let ours = |e: &Expr| match e {
            Expr::ScalarFunction(f) => called(&f.func) == Some("pg_replacement"),
            _ => false,
        };
        texts.push(if i == 2 && !ours(&expr) { call("pg_replacement", vec![expr]) } else { expr });
    }
    Ok(Expr::ScalarFunction(ScalarFunction { func, args: texts }))
}

fn scalar_function(function: ScalarFunction, schema: &DFSchema) -> SqlResult<Expr> {
    let ScalarFunction { func, args } = function;
    if let Some(name) = called(&func) {
        return our_call(name, args, schema);
    }
    let name = func.name().to_owned();
    if name == "regexp_replace" {
        return regexp_replace(ScalarFunction { func, args }, schema);
    }
    if table::OUTSIDE.contains(&name.as_str()) {
        return Ok(Expr::ScalarFunction(ScalarFunction { func, args }));
    }
    // What DataFusion's planner made of a construct of the grammar.
    let ours = match name.as_str() {
        "date_part" => Some("extract"),
        other => table::known(other),
    };
    match ours {
        Some(ours) => our_call(ours, args, schema),
        None => Err(SqlError::unsupported(format_args!("the function {name}"))),
    }
}

fn operator_of(name: &str) -> Option<Operator> {
    Some(match name {
        "pg_eq" => Operator::Eq,
        "pg_ne" => Operator::NotEq,
        "pg_lt" => Operator::Lt,
        "pg_le" => Operator::LtEq,
        "pg_gt" => Operator::Gt,
        "pg_ge" => Operator::GtEq,
        _ => return None,
    })
}

fn our_call(name: &'static str, mut args: Vec<Expr>, schema: &DFSchema) -> SqlResult<Expr> {
    if let (Some(op), 2) = (operator_of(name), args.len()) {
        let right = args.pop().unwrap_or_default();
        let left = args.pop().unwrap_or_default();
        return compare(op, left, right, schema);
    }
    let mut types = args.iter().map(|e| arg(e, schema)).collect::<SqlResult<Vec<_>>>()?;
    settle_parameters(name, &mut args, &mut types);
    let resolved = resolve::function(name, &types)?;
    match name {
        "coalesce" => return coalesce(args, &resolved, schema),
        "nullif" => return nullif(args, schema),
        "pg_cast" | "pg_assign" | "pg_key" | "pg_pad" | "pg_raw" => return Ok(call(name, args)),
        _ => {}
    }
    let mut converted = Vec::with_capacity(args.len());
    for ((arg, from), to) in args.into_iter().zip(&types).zip(&resolved.args) {
        let to = match (from.ty, *to) {
            // Strings of one Arrow type pass as they are.
            (from, PgType::Text) if from.is_string() && !matches!(from, PgType::Char(_)) => from,
            (_, to) => to,
        };
        converted.push(convert(arg, from.ty, to, false)?);
    }
    Ok(call(name, converted))
}

/// The sole parameter of a function that has only floats and numbers to offer is a float.
fn settle_parameters(name: &str, args: &mut [Expr], types: &mut [Arg]) {
    let unknown = |a: &Arg| a.ty == PgType::Unknown && a.literal.is_none();
    if matches!(name, "abs" | "pg_neg") && types.iter().all(unknown) {
        for (expr, arg) in args.iter_mut().zip(types) {
            if let Expr::Placeholder(p) = expr {
                p.field = Some(std::sync::Arc::new(PgType::Float8.field("", true)));
                arg.ty = PgType::Float8;
            }
        }
    }
}

/// The first value that is not NULL; the others are not computed.
fn coalesce(
    args: Vec<Expr>,
    resolved: &super::function::Resolved,
    schema: &DFSchema,
) -> SqlResult<Expr> {
    let ty = resolved.ret;
    let mut values =
        args.into_iter().map(|e| implicit(e, ty, schema)).collect::<SqlResult<Vec<_>>>()?;
    let Some(last) = values.pop() else { return Err(SqlError::internal("COALESCE of nothing")) };
    if values.is_empty() {
        return Ok(last);
    }
    let whens = values
        .into_iter()
        .map(|value| (Box::new(value.clone().is_not_null()), Box::new(value)))
        .collect();
    Ok(Expr::Case(Case::new(None, whens, Some(Box::new(last)))))
}

fn nullif(mut args: Vec<Expr>, schema: &DFSchema) -> SqlResult<Expr> {
    let (Some(other), Some(value)) = (args.pop(), args.pop()) else {
        return Err(SqlError::internal("NULLIF of nothing"));
    };
    let ty = resolve::nullif_type(&arg(&value, schema)?, &arg(&other, schema)?)?;
    let equal = compare(Operator::Eq, value.clone(), other, schema)?;
    let value = implicit(value, ty, schema)?;
    let null = tagged(ScalarValue::try_from(&ty.arrow())?, ty);
    let whens = vec![(Box::new(equal), Box::new(null))];
    Ok(Expr::Case(Case::new(None, whens, Some(Box::new(value)))))
}

fn in_list(list: InList, schema: &DFSchema) -> SqlResult<Expr> {
    let InList { expr, list, negated } = list;
    let subject = arg(&expr, schema)?;
    let mut common = subject.clone();
    let mut plain = true;
    for item in &list {
        let item_arg = arg(item, schema)?;
        let exact = literal_in_columns_digits(&subject, &item_arg);
        let ty = match exact {
            Some(ty) => ty,
            None => resolve::comparable(&common, &item_arg, "=")?,
        };
        plain &= !needs_key(ty) && !matches!(ty, PgType::Char(_));
        plain &= !(matches!(ty, PgType::Numeric(_)) && matches!(item, Expr::Placeholder(_)));
        if exact.is_none() || common.ty == PgType::Unknown {
            common = Arg { ty, literal: None };
        }
    }
    if plain {
        let ty = common.ty;
        let expr = implicit(*expr, ty, schema)?;
        let list =
            list.into_iter().map(|e| implicit(e, ty, schema)).collect::<SqlResult<Vec<_>>>()?;
        return Ok(Expr::InList(InList::new(Box::new(expr), list, negated)));
    }
    let mut any: Option<Expr> = None;
    for item in list {
        let equal = compare(Operator::Eq, (*expr).clone(), item, schema)?;
        any = Some(match any {
            Some(before) => before.or(equal),
            None => equal,
        });
    }
    let any = any.ok_or_else(|| SqlError::syntax("syntax error at or near \")\""))?;
    Ok(if negated { Expr::Not(Box::new(any)) } else { any })
}

/// A subquery whose column is brought to what an expression is compared with.
fn subquery_sides(
    op: Operator,
    expr: Expr,
    subquery: Subquery,
    schema: &DFSchema,
) -> SqlResult<(Expr, Subquery)> {
    let inner = subquery.subquery.schema();
    let column = Expr::Column(
        inner
            .columns()
            .first()
            .cloned()
            .ok_or_else(|| SqlError::syntax("subquery has no columns"))?,
    );
    let (left, right) = comparison_sides(op, expr, column.clone(), (schema, inner))?;
    if right == column {
        return Ok((left, subquery));
    }
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone())
        .project(vec![right.alias("value")])?
        .build()?;
    Ok((left, subquery.with_plan(std::sync::Arc::new(plan))))
}

fn in_subquery(query: InSubquery, schema: &DFSchema) -> SqlResult<Expr> {
    let InSubquery { expr, subquery, negated } = query;
    let (expr, subquery) = subquery_sides(Operator::Eq, *expr, subquery, schema)?;
    Ok(Expr::InSubquery(InSubquery::new(Box::new(expr), subquery, negated)))
}

/// `= ANY` is `IN` and `<> ALL` is `NOT IN`; DataFusion gets the others wrong.
fn set_comparison(comparison: SetComparison, schema: &DFSchema) -> SqlResult<Expr> {
    let SetComparison { expr, subquery, op, quantifier } = comparison;
    let negated = match (op, quantifier) {
        (Operator::Eq, SetQuantifier::Any) => false,
        (Operator::NotEq, SetQuantifier::All) => true,
        _ => {
            return Err(SqlError::unsupported(format_args!("{op} {quantifier} of a subquery")));
        }
    };
    in_subquery(InSubquery { expr, subquery, negated }, schema)
}

fn sorts(sorts: Vec<Sort>, schema: &DFSchema) -> SqlResult<Vec<Sort>> {
    sorts.into_iter().map(|sort| Ok(Sort { expr: sort_key(sort.expr, schema)?, ..sort })).collect()
}

fn aggregate(mut function: AggregateFunction, schema: &DFSchema) -> SqlResult<Expr> {
    let params = &mut function.params;
    let args = std::mem::take(&mut params.args);
    params.args = aggregates::arguments(function.func.name(), args, params.distinct, schema)?;
    params.order_by = sorts(std::mem::take(&mut params.order_by), schema)?;
    if let Some(filter) = params.filter.take() {
        params.filter = Some(Box::new(boolean(*filter, "FILTER", schema)?));
    }
    Ok(Expr::AggregateFunction(function))
}

fn window(mut function: WindowFunction, schema: &DFSchema) -> SqlResult<Expr> {
    let params = &mut function.params;
    let args = std::mem::take(&mut params.args);
    params.args = match &function.fun {
        WindowFunctionDefinition::AggregateUDF(udaf) => {
            aggregates::arguments(udaf.name(), args, params.distinct, schema)?
        }
        WindowFunctionDefinition::WindowUDF(udwf) => {
            let name = udwf.name();
            if !table::EQUAL_WINDOWS.contains(&name) {
                return Err(SqlError::unsupported(format_args!("the window function {name}")));
            }
            args
        }
    };
    params.order_by = sorts(std::mem::take(&mut params.order_by), schema)?;
    params.partition_by = std::mem::take(&mut params.partition_by)
        .into_iter()
        .map(|e| sort_key(e, schema))
        .collect::<SqlResult<_>>()?;
    if let Some(filter) = params.filter.take() {
        params.filter = Some(Box::new(boolean(*filter, "FILTER", schema)?));
    }
    Ok(Expr::WindowFunction(Box::new(function)))
}
