//! What stands beside the arguments of a call: DataFusion leaves it out in silence where it calls a
//! scalar function.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, Expr, FunctionArgumentClause, FunctionArguments, Visit, Visitor,
};

use super::rewrite::folded;
use crate::error::{SqlError, SqlResult, SqlState};

/// Refuses it, as PostgreSQL does.
pub fn check(statement: &ast::Statement, state: &SessionState) -> SqlResult<()> {
    match Visit::visit(statement, &mut Calls { state }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Calls<'a> {
    state: &'a SessionState,
}

impl Visitor for Calls<'_> {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<SqlError> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let [part] = call.name.0.as_slice() else { return ControlFlow::Continue(()) };
        let name = part.as_ident().map(folded).unwrap_or_default();
        match beside(call) {
            Some(("DISTINCT", _))
                if call.over.is_some() && self.state.window_functions().contains_key(&name) =>
            {
                ControlFlow::Break(SqlError::unsupported("DISTINCT of a window function"))
            }
            Some((what, kind)) if self.state.scalar_functions().contains_key(&name) => {
                let message = format!("{what} specified, but {name} is not {kind}");
                ControlFlow::Break(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What stands beside the arguments, and what kind of function has that.
fn beside(call: &ast::Function) -> Option<(&'static str, &'static str)> {
    let (mut distinct, mut order) = (false, false);
    if let FunctionArguments::List(list) = &call.args {
        distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        order = list.clauses.iter().any(|c| matches!(c, FunctionArgumentClause::OrderBy(_)));
    }
    let aggregate = "an aggregate function";
    let either = "a window function nor an aggregate function";
    let parts = [
        ("WITHIN GROUP", !call.within_group.is_empty(), aggregate),
        ("DISTINCT", distinct, aggregate),
        ("ORDER BY", order, aggregate),
        ("FILTER", call.filter.is_some(), aggregate),
        ("OVER", call.over.is_some(), either),
        ("IGNORE NULLS", call.null_treatment.is_some(), "a window function"),
    ];
    parts.into_iter().find(|(_, there, _)| *there).map(|(what, _, kind)| (what, kind))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use crate::error::SqlState;
    use crate::testing::MemDb;

    #[test]
    fn a_scalar_function_is_no_aggregate() {
        let db = MemDb::new();
        for (call, message) in [
            ("abs(1) over ()", "OVER specified, but abs is not a window function nor an aggregate"),
            ("abs(1) filter (where false)", "FILTER specified, but abs is not an aggregate"),
            ("upper(distinct 'a')", "DISTINCT specified, but upper is not an aggregate"),
            ("Abs(1 order by 1)", "ORDER BY specified, but abs is not an aggregate"),
            ("abs(1) within group (order by 1)", "WITHIN GROUP specified, but abs is not an"),
            ("abs(1) ignore nulls", "IGNORE NULLS specified, but abs is not a window function"),
        ] {
            let error = block_on(db.run(&format!("select {call}"))).expect_err(call);
            assert_eq!(error.sqlstate, SqlState::WRONG_OBJECT_TYPE, "{call}");
            assert!(error.message.starts_with(message), "{call}: {}", error.message);
        }
        for call in ["lag(distinct 1) over ()", "first_value(distinct 1) over (order by 1)"] {
            let error = block_on(db.run(&format!("select {call}"))).expect_err(call);
            assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{call}");
        }
        for call in ["abs(1)", "sum(1) over ()", "count(distinct 1)", "sum(1) filter (where true)"]
        {
            block_on(db.run(&format!("select {call}"))).expect(call);
        }
    }
}
