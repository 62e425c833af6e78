//! What SQL means: one pass over a plan before DataFusion's optimizer.
//!
//! [`plan::meaning`] gives every expression the types and the meaning PostgreSQL gives it. What has
//! its own meaning here is in [`table`]; what DataFusion does alike is listed there too; nothing
//! else passes: it is refused with `0A000`.
//!
//! The pass can be run again over its own result and changes nothing then.
//!
//! * [`Operators`]: operators keep their SQL names until their types are known.
//! * [`TypeNames`]: types in casts are PostgreSQL's.
//! * [`resolve`]: which overload; [`cast`]: conversions; [`coerce`]: expressions; [`plan`]: nodes.

pub mod aggregates;
pub mod base64;
pub mod cast;
pub mod coerce;
pub mod distinct;
pub mod format;
pub mod function;
pub mod math;
pub mod md5;
pub mod number_format;
pub mod ops;
pub mod plan;
pub mod resolve;
pub mod series;
pub mod statistics;
pub mod strings;
pub mod table;
pub mod time;

use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, TypePlanner};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{self, BinaryOperator};

use crate::catalog::ColumnDef;
use crate::error::SqlResult;
use crate::types::PgType;
use function::{Arg, PgFunction, raw_call};

/// Registers our functions and aggregates over DataFusion's of the same names.
pub fn register(state: &mut SessionState) -> SqlResult<()> {
    for name in table::names() {
        state.register_udf(PgFunction::udf(name))?;
    }
    if let Some(bool_and) = state.aggregate_functions().get("bool_and").cloned() {
        let every = bool_and.as_ref().clone().with_aliases(["every"]);
        state.register_udaf(Arc::new(every))?;
    }
    for aggregate in aggregates::PgAggregate::all() {
        state.register_udaf(aggregate)?;
    }
    state.register_expr_planner(Arc::new(Operators))?;
    state.register_relation_planner(Arc::new(series::SeriesRelations))?;
    Ok(())
}

/// The plan after DataFusion's analyzer and its checks.
pub fn checked(plan: LogicalPlan, state: &SessionState) -> SqlResult<LogicalPlan> {
    Ok(state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?)
}

/// An expression of a type brought to the type of the column it is assigned to.
pub fn assignment_cast(expr: Expr, from: &PgType, to: &ColumnDef) -> SqlResult<Expr> {
    coerce::assignment(expr, *from, to.ty, &to.name)
}

/// Gives operators our functions, whose types follow PostgreSQL's rules.
#[derive(Debug)]
pub struct Operators;

fn function_of(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Plus => "pg_add",
        BinaryOperator::Minus => "pg_sub",
        BinaryOperator::Multiply => "pg_mul",
        BinaryOperator::Divide => "pg_div",
        BinaryOperator::Modulo => "pg_mod",
        BinaryOperator::StringConcat => "pg_concat",
        BinaryOperator::Eq => "pg_eq",
        BinaryOperator::NotEq => "pg_ne",
        BinaryOperator::Lt => "pg_lt",
        BinaryOperator::LtEq => "pg_le",
        BinaryOperator::Gt => "pg_gt",
        BinaryOperator::GtEq => "pg_ge",
        BinaryOperator::PGExp | BinaryOperator::BitwiseXor => "pg_pow",
        BinaryOperator::PGBitwiseXor => "pg_bitxor",
        BinaryOperator::BitwiseAnd => "pg_bitand",
        BinaryOperator::BitwiseOr => "pg_bitor",
        BinaryOperator::PGBitwiseShiftLeft => "pg_shl",
        BinaryOperator::PGBitwiseShiftRight => "pg_shr",
        _ => return None,
    })
}

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let Some(name) = function_of(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        let RawBinaryExpr { mut left, mut right, .. } = expr;
        infer(name, &mut left, &mut right, schema)?;
        Ok(PlannerResult::Planned(raw_call(name, vec![left, right])))
    }
}

/// A parameter without a type takes what the operator wants beside its other operand.
fn infer(
    name: &'static str,
    left: &mut Expr,
    right: &mut Expr,
    schema: &DFSchema,
) -> SqlResult<()> {
    let open = |e: &Expr| matches!(e, Expr::Placeholder(p) if p.field.is_none());
    if open(left) == open(right) {
        return Ok(());
    }
    let (Ok(a), Ok(b)) = (coerce::arg(left, schema), coerce::arg(right, schema)) else {
        return Ok(());
    };
    let args = match name {
        "pg_eq" | "pg_ne" | "pg_lt" | "pg_le" | "pg_gt" | "pg_ge" => {
            let ty = resolve::comparable(&a, &b, table::operator_symbol(name))?;
            vec![ty, ty]
        }
        name => resolve::function(name, &[a, b])?.args,
    };
    for (expr, ty) in [left, right].into_iter().zip(args) {
        if let Expr::Placeholder(p) = expr
            && p.field.is_none()
        {
            p.field = Some(Arc::new(ty.without_modifier().field("", true)));
        }
    }
    Ok(())
}

/// Types in casts and definitions are PostgreSQL's, modifiers and all.
#[derive(Debug)]
pub struct TypeNames;

impl TypePlanner for TypeNames {
    fn plan_type_field(&self, ty: &ast::DataType) -> DfResult<Option<FieldRef>> {
        Ok(Some(Arc::new(crate::catalog::pg_type(ty)?.field("", true))))
    }
}

/// For tests and tools: what a call of a function would mean.
pub fn call_types(name: &str, args: &[PgType]) -> SqlResult<Option<PgType>> {
    let Some(name) = table::known(name) else { return Ok(None) };
    let args: Vec<Arg> = args.iter().map(|ty| Arg { ty: *ty, literal: None }).collect();
    Ok(Some(resolve::function(name, &args)?.ret))
}

#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod table_tests;
