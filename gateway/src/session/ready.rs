//! Statements that are ready to run.

use std::sync::Arc;

use quorate_planner::parse::{Statement, StatementKind};
use quorate_planner::plan::Prepared;
use quorate_planner::types::PgType;

use super::OutColumn;

/// A statement that can be run, again and again.
pub struct Ready {
    pub(super) statement: Statement,
    pub(super) param_types: Vec<Option<PgType>>,
    pub(super) plan: Option<Arc<Prepared>>,
    pub(super) columns: Option<Arc<[OutColumn]>>,
    /// The arguments of an `EXECUTE`, as SQL.
    pub(super) args: Option<Arc<[String]>>,
}

impl Ready {
    /// Types of the client's parameters; an `EXECUTE` has none.
    pub fn parameters(&self) -> &[PgType] {
        match (&self.args, &self.statement.kind) {
            (Some(_), _) => &[],
            (None, StatementKind::Fate(fate)) => super::tokens::parameters(&fate.query),
            (None, _) => self.param_types(),
        }
    }

    /// Bytes of its text.
    pub fn text_len(&self) -> usize {
        self.statement.text.len()
    }

    /// Its statement.
    pub fn kind(&self) -> &StatementKind {
        &self.statement.kind
    }

    pub(super) fn param_types(&self) -> &[PgType] {
        self.plan.as_ref().map_or(&[][..], |plan| &plan.param_types)
    }

    /// Result columns; `None` if there is no result.
    pub fn columns(&self) -> Option<&[OutColumn]> {
        self.columns.as_deref()
    }

    /// Whether running it decides the fate of a transaction: it must not be interrupted.
    pub fn decides_transaction(&self) -> bool {
        if let StatementKind::Set(name, ..) = &self.statement.kind {
            // It may wait for another that has it.
            return !name.eq_ignore_ascii_case(super::tokens::TOKEN_SETTING);
        }
        !matches!(
            self.statement.kind,
            StatementKind::Plan
                | StatementKind::Empty
                | StatementKind::Show(_)
                | StatementKind::Fate(_)
        )
    }
}
