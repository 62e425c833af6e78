//! Plans: made once for a statement, cached, executed many times.
//!
//! # From text to rows
//!
//! 1. [`crate::parse`] makes statements of a text and lifts literals into parameters.
//! 2. [`Planner::prepare`] finds the statement in the [`cache`](crate::cache) or plans it:
//! 3. names are resolved in a catalog snapshot ([`engine`]), parameter types found ([`build`]),
//! 4. DataFusion's analyzer, PostgreSQL's meaning ([`crate::semantics`]) and DataFusion's optimizer
//!    make the logical plan of a [`instance::Template`],
//! 5. which builds physical plans with our scans and lookup joins ([`crate::exec`]).
//! 6. [`Prepared::execute`] binds parameters to an instance and streams its rows.

pub mod apply;
pub mod build;
mod calls;
pub mod engine;
pub mod explain;
pub mod functions;
pub mod guard;
pub mod instance;
mod locks;
pub mod meaning;
mod nodes;
mod prepare;
mod qualified;

pub mod rewrite;
pub mod table;

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;

pub use build::OutColumn;
pub use engine::limit_memory;
pub use prepare::{Planner, PlannerConfig, Settings};

use crate::catalog::{CatalogSnapshot, DdlOp, TableId};
use crate::dml::DmlPlan;
use crate::dml::run::{DmlContext, run};
use crate::error::{SqlError, SqlResult};
use crate::exec::{RunState, SessionValues};
use crate::kv::{KvTxn, LockStrength};
use crate::parse::{Literal, StatementKind};
use crate::types::{PgType, zone};
use instance::Template;

/// `pg_class.oid` of a table: above PostgreSQL's own.
pub fn table_oid(id: TableId) -> u32 {
    const FIRST_USER_OID: u32 = 16_384;
    FIRST_USER_OID.saturating_add(u32::try_from(id.0).unwrap_or(u32::MAX))
}

/// What a prepared statement does.
#[derive(Debug)]
pub enum PreparedKind {
    /// Gives rows.
    Query,
    /// Writes.
    Dml,
    /// `EXPLAIN`; `true`: `ANALYZE`.
    Explain(bool),
    /// Changes the catalog: run by the gateway.
    Ddl(DdlOp),
    /// Begins or ends a transaction, or a part of one: run by the session.
    Transaction(StatementKind),
    /// Anything else a session or gateway runs by itself.
    Command(StatementKind),
    /// There is no statement.
    Empty,
}

/// The plan behind a kind.
#[derive(Debug)]
pub(crate) enum Body {
    Query(Arc<Template>),
    Dml(Box<DmlPlan>),
    Explain { inner: Box<Body>, analyze: bool },
    None,
}

/// A statement that is planned.
#[derive(Debug)]
pub struct Prepared {
    /// What it does.
    pub kind: PreparedKind,
    /// Types of its parameters.
    pub param_types: Vec<PgType>,
    /// Its result columns; `None` if it gives no rows.
    pub columns: Option<Vec<OutColumn>>,
    /// Types of all parameters, lifted literals included.
    all_types: Vec<PgType>,
    /// The literals are in the plan: none are bound.
    literal: bool,
    /// Its strongest locking clause.
    locks: Option<LockStrength>,
    pub(crate) body: Body,
}

/// What one execution brings with it.
#[derive(Debug)]
pub struct ExecContext {
    /// The transaction.
    pub txn: Arc<dyn KvTxn>,
    /// Values of the parameters, in the types of [`Prepared::param_types`].
    pub params: Vec<ScalarValue>,
    /// The literals of the statement that is executed ([`crate::parse::Statement::lifted`]).
    pub lifted: Vec<Literal>,
    /// The session.
    pub session: SessionValues,
    /// For the names of keys in errors.
    pub catalog: Arc<CatalogSnapshot>,
}

/// What an execution gives.
pub enum Execution {
    /// Rows. The tag is `SELECT n`, n being how many were taken.
    Rows(SendableRecordBatchStream),
    /// A command.
    Command {
        /// `INSERT 0 3`
        tag: String,
        /// The rows of RETURNING.
        returning: Option<SendableRecordBatchStream>,
    },
}

impl ExecContext {
    fn state(&self) -> RunState {
        RunState {
            txn: Arc::clone(&self.txn),
            params: self.params.clone(),
            session: self.session.clone(),
            input: vec![],
            outer: vec![],
        }
    }

    fn dml(self) -> DmlContext {
        let Self { txn, params, session, catalog, .. } = self;
        DmlContext { txn, params, session, catalog }
    }
}

impl Prepared {
    /// The table the statement writes to.
    pub fn writes_table(&self) -> Option<TableId> {
        self.writing().map(|plan| plan.table.id)
    }

    /// The command by which it writes: `UPDATE`.
    pub fn writes_by(&self) -> Option<&'static str> {
        self.writing().map(|plan| plan.kind.command())
    }

    fn writing(&self) -> Option<&DmlPlan> {
        let body = match &self.body {
            Body::Explain { inner, analyze: true } => inner.as_ref(),
            body => body,
        };
        match body {
            Body::Dml(plan) => Some(plan),
            _ => None,
        }
    }

    /// How it locks the rows it gives, if it does: then it may have to be begun once more before
    /// the last is locked, and none may be given out before.
    pub fn locks_rows(&self) -> Option<LockStrength> {
        self.locks
    }

    /// Physical plans built so far for this statement.
    pub fn plans_built(&self) -> u64 {
        match &self.body {
            Body::Query(template) => template.built(),
            Body::Dml(plan) => plan.source.built(),
            Body::Explain { .. } | Body::None => 0,
        }
    }

    /// Executes the statement.
    pub async fn execute(&self, mut context: ExecContext) -> SqlResult<Execution> {
        if context.params.len() < self.param_types.len() {
            return Err(SqlError::new(
                crate::error::SqlState::PROTOCOL_VIOLATION,
                format!(
                    "bind message supplies {} parameters, but prepared statement requires {}",
                    context.params.len(),
                    self.param_types.len()
                ),
            ));
        }
        context.params.truncate(self.param_types.len());
        if !self.literal {
            let types = &self.all_types[self.param_types.len()..];
            let zone = context.session.time_zone;
            for (literal, ty) in std::mem::take(&mut context.lifted).iter().zip(types) {
                context.params.push(zone::with(zone, || literal.value_as(*ty))?);
            }
        }
        match &self.body {
            Body::Query(template) => {
                Ok(Execution::Rows(Box::pin(template.execute(context.state())?)))
            }
            Body::Dml(plan) => {
                let (tag, returning) = run(plan, context.dml()).await?;
                let returning = returning.map(|rows| Box::pin(rows) as SendableRecordBatchStream);
                Ok(Execution::Command { tag, returning })
            }
            Body::Explain { inner, analyze } => {
                explain::execute(inner, *analyze, context).await.map(Execution::Rows)
            }
            Body::None => Err(SqlError::internal("a command is not executed as a plan")),
        }
    }
}
