//! Stands in for the semantic pass.
use crate::catalog::ColumnDef;
use crate::error::SqlResult;
use crate::types::PgType;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};

pub fn analyze(plan: LogicalPlan, state: &SessionState) -> SqlResult<LogicalPlan> {
    Ok(state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?)
}
pub fn register(_state: &mut SessionState) -> SqlResult<()> {
    Ok(())
}
pub fn assignment_cast(expr: Expr, _from: &PgType, to: &ColumnDef) -> SqlResult<Expr> {
    Ok(datafusion::logical_expr::cast(expr, to.ty.arrow()))
}
