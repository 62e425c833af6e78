//! From the text of a statement to what can be run, by the catalog the session goes by.

use std::sync::Arc;

use quorate_planner::catalog::CatalogSnapshot;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::exec::yielding::in_place;
use quorate_planner::parse::{Statement, StatementKind};
use quorate_planner::plan::Prepared;
use quorate_planner::types::PgType;

use super::{Ready, Session, State, commands, tokens};

/// Bytes of a text from which on planning may take so long that other tasks should not wait for it.
const LONG_STATEMENT: usize = 1_000;

impl Session {
    /// The statements of a text.
    pub fn split(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        quorate_planner::parse::parse(text)
    }

    /// Makes a statement ready to run. Parameter types the client did not say are found out.
    ///
    /// # Errors
    /// What planning says; `25P02` in a failed block.
    pub async fn prepare(
        &mut self,
        statement: Statement,
        param_types: &[Option<PgType>],
    ) -> Result<Arc<Ready>, SqlError> {
        self.refuse_when_failed(&statement)?;
        if matches!(statement.kind, StatementKind::Plan | StatementKind::Begin(_)) {
            self.gateway.ready().await?;
        }
        self.planner_settings.time_zone = self.settings.time_zone();
        self.planner_settings.past = self.reads_the_past(&statement);
        let param_types = param_types.to_vec();
        let (plan, columns) = match &statement.kind {
            StatementKind::Plan => {
                let plan = self.plan(&statement, &param_types).await?;
                let columns = plan.columns.clone().map(Arc::from);
                (Some(plan), columns)
            }
            StatementKind::Ddl(op) => {
                let planner = self.gateway.planner();
                planner.check_ddl(op, &self.catalog(), &self.planner_settings)?;
                (None, None)
            }
            StatementKind::Show(name) => (None, Some(commands::show_columns(name.as_deref())?)),
            StatementKind::Fate(fate) => (None, Some(tokens::columns(fate))),
            _ => (None, None),
        };
        Ok(Arc::new(Ready { statement, param_types, plan, columns, args: None }))
    }

    /// Like [`Session::prepare`], with the parameter types as the protocol gives them.
    ///
    /// # Errors
    /// As there, and `42704` for a type that is not known.
    pub async fn prepare_described(
        &mut self,
        statement: Statement,
        oids: &[u32],
    ) -> Result<Arc<Ready>, SqlError> {
        let unknown = PgType::Unknown.oid();
        let ty = |oid: &u32| match *oid {
            oid if oid == 0 || oid == unknown => Ok(None),
            oid => PgType::by_oid(oid).map(Some).ok_or_else(|| {
                let message = format!("type with OID {oid} does not exist");
                SqlError::new(SqlState::UNDEFINED_OBJECT, message)
            }),
        };
        let types = oids.iter().map(ty).collect::<Result<Vec<_>, _>>()?;
        self.prepare(statement, &types).await
    }

    /// A plan for the statement; names that are not known are looked up in the newest catalog.
    pub(super) async fn plan(
        &mut self,
        statement: &Statement,
        param_types: &[Option<PgType>],
    ) -> Result<Arc<Prepared>, SqlError> {
        self.go_by_newest();
        let catalog = self.catalog();
        match self.plan_against(&catalog, statement, param_types) {
            Err(e) if names_nothing(&e) && self.may_change_catalog() => {
                let newer = self.gateway.newest_catalog().await?;
                if newer.version() == catalog.version() {
                    return Err(e);
                }
                self.go_by_newest();
                self.plan_against(&self.catalog(), statement, param_types)
            }
            other => other,
        }
    }

    /// Whether the next statement may go by another catalog than the one before it.
    fn may_change_catalog(&self) -> bool {
        match &self.state {
            State::Idle => true,
            State::Implicit(open) | State::Block(open) => open.may_change_catalog(),
            State::Failed(_) => false,
        }
    }

    /// A statement that takes a snapshot goes by the newest catalog: its client may have heard of
    /// schema changes since the transaction began.
    fn go_by_newest(&mut self) {
        let may = self.may_change_catalog();
        let (State::Implicit(open) | State::Block(open)) = &mut self.state else { return };
        let store = self.gateway.catalog();
        if may && store.current().version() > open.pin.catalog().version() {
            open.pin = store.pin();
            open.txn.goes_by(open.pin.right());
        }
    }

    fn plan_against(
        &self,
        catalog: &Arc<CatalogSnapshot>,
        statement: &Statement,
        param_types: &[Option<PgType>],
    ) -> Result<Arc<Prepared>, SqlError> {
        let planner = self.gateway.planner();
        let plan = || planner.prepare(statement, catalog, &self.planner_settings, param_types);
        if statement.text.len() < LONG_STATEMENT { plan() } else { in_place(plan) }
    }

    pub(super) fn catalog(&self) -> Arc<CatalogSnapshot> {
        match &self.state {
            State::Implicit(open) | State::Block(open) => open.catalog().clone(),
            State::Idle | State::Failed(_) => self.gateway.catalog().current(),
        }
    }
}

/// Whether the error may only mean that our catalog is old.
fn names_nothing(error: &SqlError) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_OBJECT,
        SqlState::DUPLICATE_TABLE,
    ]
    .contains(&error.sqlstate)
}
