//! Where PostgreSQL's meaning enters planning: the only place that asks the semantic pass for
//! anything.

use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::catalog::ColumnDef;
use crate::error::SqlResult;
use crate::types::PgType;

/// DataFusion's analysis of a plan, with PostgreSQL's meaning.
pub fn analyze(plan: LogicalPlan, state: &SessionState) -> SqlResult<LogicalPlan> {
    Ok(state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?)
}

/// Registers the functions of the pass.
pub fn register(_state: &mut SessionState) -> SqlResult<()> {
    Ok(())
}

/// An expression brought to the type of the column it is assigned to.
pub fn assignment_cast(expr: Expr, _from: &PgType, to: &ColumnDef) -> SqlResult<Expr> {
    Ok(datafusion::logical_expr::cast(expr, to.ty.arrow()))
}
