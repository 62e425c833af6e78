//! A session, without the wire: settings, the open transaction, statements run one at a time.
//!
//! # The life of a statement
//! 1. [`Session::split`]: the text becomes statements with their fingerprints.
//! 2. [`Session::prepare`]: a cached plan is found, or made against the catalog of this moment.
//! 3. [`Session::run`]: an implicit transaction begins if none is open; the plan is executed with
//!    its parameters, or the command (DDL, `BEGIN`, `SET`, …) is carried out.
//! 4. [`RowSource`]: rows are pulled as the client takes them.
//! 5. [`Session::finish_implicit`]: the implicit transaction commits
//!    ([`crate::dist::commit`]), before the client hears of success.

mod commands;
mod rows;
mod settings;

use std::sync::Arc;

use datafusion::common::ScalarValue;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::Statement;
use quorate_planner::plan::{Execution, Prepared, PreparedKind};
use quorate_planner::types::PgType;

pub use quorate_planner::plan::OutColumn;
pub use rows::RowSource;
pub use settings::SessionSettings;

use crate::Gateway;
use crate::catalog::Pin;
use crate::dist::Txn;
use crate::pg::startup::Hello;

/// Values bound to a statement's parameters.
pub type Params = Vec<ScalarValue>;

/// What `ReadyForQuery` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No transaction block.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed.
    Failed,
}

/// Something the client is told beside the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE` or `WARNING`
    pub severity: &'static str,
    /// Its sort.
    pub sqlstate: SqlState,
    /// One line.
    pub message: String,
}

/// What a statement gave.
pub enum Outcome {
    /// There was no statement.
    Empty,
    /// A query's rows.
    Rows(RowSource),
    /// A command's tag, and rows where it returns some.
    Command {
        /// For instance `INSERT 0 1`.
        tag: String,
        /// `RETURNING`, `SHOW`, `EXPLAIN`
        rows: Option<RowSource>,
    },
}

/// A statement that can be run, again and again.
pub struct Ready {
    statement: Option<Statement>,
    param_types: Vec<Option<PgType>>,
    described: Option<Arc<Prepared>>,
}

impl Ready {
    /// The statement that is none.
    pub fn empty() -> Self {
        Self { statement: None, param_types: Vec::new(), described: None }
    }

    /// Types of the parameters.
    pub fn param_types(&self) -> &[PgType] {
        self.described.as_ref().map_or(&[], |p| &p.param_types)
    }

    /// Result columns; `None` if there is no result.
    pub fn columns(&self) -> Option<&[OutColumn]> {
        self.described.as_ref()?.columns.as_deref()
    }

    /// Whether running it decides the fate of a transaction: it must not be interrupted.
    pub fn decides_transaction(&self) -> bool {
        self.described.as_ref().is_some_and(|p| {
            matches!(p.kind, PreparedKind::Transaction(_) | PreparedKind::Ddl(_))
        })
    }
}

/// The open transaction.
enum State {
    /// None.
    Idle,
    /// Of one statement (or of what comes before one `Sync`).
    Implicit(Open),
    /// Between `BEGIN` and its end.
    Block(Open),
    /// A block that failed: only its end is accepted.
    Failed,
}

/// A transaction with the catalog it goes by.
struct Open {
    txn: Arc<Txn>,
    pin: Pin,
    begun: chrono::DateTime<chrono::Utc>,
}

/// A client's session.
///
/// # Invariants
/// * Outside a block, nothing is written that `finish_implicit` has not committed.
/// * After an error in a block nothing runs but its end.
pub struct Session {
    gateway: Arc<Gateway>,
    user: String,
    database: String,
    settings: SessionSettings,
    state: State,
    notices: Vec<Notice>,
    backend_pid: i32,
}

impl Session {
    /// Opens a session for a client.
    ///
    /// # Errors
    /// `3D000` for a database that does not exist, `22023` and others for its settings.
    pub fn open(gateway: Arc<Gateway>, hello: Hello) -> Result<Self, SqlError> {
        if hello.database != gateway.database() && hello.database != "postgres" {
            return Err(SqlError::new(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{}\" does not exist", hello.database),
            )
            .with_hint(format!("The database is called \"{}\".", gateway.database())));
        }
        let mut settings = SessionSettings::new(&hello.user);
        for (name, value) in &hello.settings {
            settings.set_at_start(name, value)?;
        }
        Ok(Self {
            user: hello.user,
            database: gateway.database().to_string(),
            gateway,
            settings,
            state: State::Idle,
            notices: Vec::new(),
            backend_pid: 0,
        })
    }

    /// What `pg_backend_pid()` answers.
    pub fn set_backend_pid(&mut self, pid: i32) {
        self.backend_pid = pid;
    }

    /// What `ReadyForQuery` says now.
    pub fn status(&self) -> Status {
        match self.state {
            State::Idle | State::Implicit(_) => Status::Idle,
            State::Block(_) => Status::InTransaction,
            State::Failed => Status::Failed,
        }
    }

    /// Whether a transaction block is open.
    pub fn in_block(&self) -> bool {
        self.status() != Status::Idle
    }

    /// Settings that the client is told at the start and when they change.
    pub fn reported_settings(&self) -> Vec<(&'static str, String)> {
        self.settings.reported()
    }

    /// Reported settings that changed since the last call.
    pub fn take_reported_settings(&mut self) -> Vec<(String, String)> {
        self.settings.take_changes()
    }

    /// Notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn warn(&mut self, sqlstate: SqlState, message: impl Into<String>) {
        self.notices.push(Notice { severity: "WARNING", sqlstate, message: message.into() });
    }

    fn note(&mut self, message: impl Into<String>) {
        let sqlstate = SqlState::SUCCESSFUL_COMPLETION;
        self.notices.push(Notice { severity: "NOTICE", sqlstate, message: message.into() });
    }

    /// The statements of a text.
    pub fn split(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        quorate_planner::parse::parse(text)
    }

    /// Makes a statement ready to run. Parameter types the client did not say are found out.
    pub async fn prepare(
        &mut self,
        statement: Statement,
        param_types: &[Option<PgType>],
    ) -> Result<Arc<Ready>, SqlError> {
        self.refuse_when_failed(&statement)?;
        let prepared = self.plan(&statement, param_types).await?;
        let param_types = param_types.to_vec();
        Ok(Arc::new(Ready { statement: Some(statement), param_types, described: Some(prepared) }))
    }

    /// Like [`Session::prepare`], with the parameter types as the protocol gives them.
    pub async fn prepare_described(
        &mut self,
        statement: Statement,
        oids: &[u32],
    ) -> Result<Arc<Ready>, SqlError> {
        let ty = |oid: &u32| match oid {
            0 | 705 => Ok(None),
            oid => PgType::by_oid(*oid).map(Some).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("type with OID {oid} does not exist"),
                )
            }),
        };
        let types = oids.iter().map(ty).collect::<Result<Vec<_>, _>>()?;
        self.prepare(statement, &types).await
    }

    /// A plan for the statement; names that are not known are looked up in the newest catalog.
    async fn plan(
        &self,
        statement: &Statement,
        param_types: &[Option<PgType>],
    ) -> Result<Arc<Prepared>, SqlError> {
        let catalog = self.catalog();
        let planner = self.gateway.planner();
        let settings = self.settings.for_planner();
        match planner.prepare(statement, &catalog, settings, param_types) {
            Err(e) if names_nothing(&e) && !self.in_block() => {
                let newer = self.gateway.catalog().refresh().await?;
                if newer.version() == catalog.version() {
                    return Err(e);
                }
                planner.prepare(statement, &newer, settings, param_types)
            }
            other => other,
        }
    }

    fn catalog(&self) -> Arc<quorate_planner::catalog::CatalogSnapshot> {
        match &self.state {
            State::Implicit(open) | State::Block(open) => open.pin.catalog().clone(),
            State::Idle | State::Failed => self.gateway.catalog().current(),
        }
    }

    fn refuse_when_failed(&self, statement: &Statement) -> Result<(), SqlError> {
        if matches!(self.state, State::Failed) && !statement.ends_transaction() {
            return Err(SqlError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    /// Runs a statement.
    pub async fn run(
        &mut self,
        ready: &Arc<Ready>,
        params: Params,
    ) -> Result<Outcome, SqlError> {
        let Some(statement) = &ready.statement else {
            return Ok(Outcome::Empty);
        };
        self.refuse_when_failed(statement)?;
        // The catalog may have changed since it was prepared; the plan is in the cache if not.
        let prepared = self.plan(statement, &ready.param_types).await?;
        if let Some(described) = &ready.described
            && !same_shape(described, &prepared)
        {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cached plan must not change result type",
            ));
        }
        match &prepared.kind {
            PreparedKind::Query | PreparedKind::Dml(_) | PreparedKind::Explain(_) => {
                self.execute(statement, &prepared, params).await
            }
            _ => self.command(&prepared).await,
        }
    }

    /// Executes a plan in the open transaction; begins one if there is none.
    async fn execute(
        &mut self,
        statement: &Statement,
        prepared: &Arc<Prepared>,
        params: Params,
    ) -> Result<Outcome, SqlError> {
        if let Some(table) = prepared.writes_table() {
            if self.settings.read_only() {
                return Err(SqlError::new(
                    SqlState::READ_ONLY_SQL_TRANSACTION,
                    "cannot execute a write in a read-only transaction",
                ));
            }
            self.wait_while_building(table).await?;
        }
        let open = self.open_transaction().await?;
        let context = self.context(open, statement, params);
        let columns: Arc<[OutColumn]> = prepared.columns.clone().unwrap_or_default().into();
        Ok(match prepared.execute(context).await? {
            Execution::Rows(stream) => Outcome::Rows(RowSource::new(columns, stream)),
            Execution::Command { tag, returning } => Outcome::Command {
                tag,
                rows: returning.map(|stream| RowSource::new(columns, stream)),
            },
        })
    }

    /// Commits the implicit transaction, if there is one.
    ///
    /// # Errors
    /// `40001`, `23505`, `40003` and what else a commit can say.
    pub async fn finish_implicit(&mut self) -> Result<(), SqlError> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Implicit(open) => self.gateway.commit(&open.txn, &open.pin).await.map(|_| ()),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// After an error: an implicit transaction is gone, a block has failed.
    pub fn fail(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Implicit(_) => State::Idle,
            State::Block(_) | State::Failed => State::Failed,
        };
        self.settings.transaction_ended(false);
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

fn same_shape(a: &Prepared, b: &Prepared) -> bool {
    let types = |p: &Prepared| -> Option<Vec<u32>> {
        Some(p.columns.as_ref()?.iter().map(|c| c.ty.oid()).collect())
    };
    types(a) == types(b)
}
