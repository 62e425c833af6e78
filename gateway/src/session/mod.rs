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
#[cfg(test)]
mod implicit_tests;
mod modes;
mod named;
mod planning;
mod ready;
mod reports;
mod rows;
mod savepoints;
mod settings;
#[cfg(test)]
mod tests;
mod timeline;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::common::ScalarValue;
use quorate_planner::catalog::{CatalogSnapshot, IndexState, TableId};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::exec::SessionValues;
use quorate_planner::kv::KvTxn as _;
use quorate_planner::parse::{Statement, StatementKind};
use quorate_planner::plan::{ExecContext, Execution, Prepared, Settings};
use quorate_planner::types::Zone;
use quorate_proto::Timestamp;

pub use quorate_planner::plan::OutColumn;
pub use ready::Ready;
pub use rows::RowSource;
pub use settings::SessionSettings;

use crate::Gateway;
use crate::catalog::Pin;
use crate::dist::Txn;
use crate::dist::terms::Terms;
use crate::pg::startup::Hello;
use crate::schema::PendingSchema;
use savepoints::Savepoint;
use timeline::Timeline;

/// How often a statement is begun once more because rows it has locked were changed before.
const ATTEMPTS_MAX: usize = 100;

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

/// The open transaction.
enum State {
    /// None.
    Idle,
    /// Of one statement (or of what comes before one `Sync`).
    Implicit(Open),
    /// Between `BEGIN` and its end.
    Block(Open),
    /// A block that failed: only its end is accepted, or going back to a savepoint if it has one.
    Failed(Option<Open>),
}

/// A transaction with the catalog it goes by.
struct Open {
    txn: Arc<Txn>,
    pin: Pin,
    /// Schema changes it has made.
    schema: PendingSchema,
    /// The oldest first.
    savepoints: Vec<Savepoint>,
    /// Its commit token: once given it stays, whatever is rolled back or reset.
    token: Option<String>,
}

impl Open {
    /// A transaction that goes by a pinned catalog.
    fn new(txn: Txn, pin: Pin) -> Self {
        txn.goes_by(pin.right());
        let (schema, savepoints) = (PendingSchema::default(), Vec::new());
        Self { txn: Arc::new(txn), pin, schema, savepoints, token: None }
    }

    /// Whether it may go by another catalog from its next statement on: what it has written or
    /// locked is of the one it was found by, and what it reads of the one its snapshot was taken
    /// with.
    fn may_change_catalog(&self) -> bool {
        let own = self.schema.catalog.is_some() || self.txn.has_writes() || self.txn.has_locked();
        !own && self.txn.takes_snapshot()
    }

    /// Whether it holds nothing but a transaction.
    fn is_plain(&self) -> bool {
        self.schema.catalog.is_none() && self.savepoints.is_empty()
    }

    /// What is left of it when a statement has failed: something if there is a savepoint to go back
    /// to. Row locks got since the last are not needed any more, whatever comes.
    fn after_failure(self) -> Option<Self> {
        match self.savepoints.last() {
            Some(last) => last.release_locks_since(&self.txn),
            None => {
                self.txn.end();
                return None;
            }
        }
        Some(self)
    }

    fn catalog(&self) -> &Arc<CatalogSnapshot> {
        self.schema.catalog.as_ref().unwrap_or_else(|| self.pin.catalog())
    }
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
    planner_settings: Settings,
    state: State,
    notices: Vec<Notice>,
    deallocated: Vec<Option<String>>,
    backend_pid: i32,
    /// How many savepoints were set, and to which it was gone back.
    savepoints_set: u64,
    undone_since: Option<u64>,
    keeps_block: bool,
    /// The rows of the next statement are asked for in portions.
    in_portions: bool,
    locks_next: bool,
    /// What held for the block that has failed.
    failed_modes: modes::Modes,
    /// What is run now is one of several statements of a text.
    in_list: bool,
    /// What is run now can be run again by itself if it loses a race.
    can_repeat: bool,
    /// What the open transaction, or the one that ended last, did.
    current: Timeline,
    /// What the one before the open one did.
    last: Timeline,
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
        let max_offset = gateway.dist().clock().max_offset();
        let mut settings = SessionSettings::new(&hello.user, max_offset);
        for (name, value) in &hello.settings {
            settings.set_at_start(name, value)?;
        }
        Ok(Self {
            user: hello.user,
            database: gateway.database().to_string(),
            gateway,
            settings,
            planner_settings: Settings::default(),
            state: State::Idle,
            notices: Vec::new(),
            savepoints_set: 0,
            undone_since: None,
            in_list: false,
            deallocated: Vec::new(),
            backend_pid: 0,
            keeps_block: false,
            in_portions: false,
            locks_next: false,
            failed_modes: modes::Modes::default(),
            can_repeat: false,
            current: Timeline::default(),
            last: Timeline::default(),
        })
    }

    /// What `pg_backend_pid()` answers.
    pub fn set_backend_pid(&mut self, pid: i32) {
        self.backend_pid = pid;
    }

    /// The zone that text of `timestamptz` is read and written in.
    pub fn time_zone(&self) -> Zone {
        self.settings.time_zone()
    }

    /// What `ReadyForQuery` says now.
    pub fn status(&self) -> Status {
        match self.state {
            State::Idle | State::Implicit(_) => Status::Idle,
            State::Block(_) => Status::InTransaction,
            State::Failed(_) => Status::Failed,
        }
    }

    /// Whether no transaction is open, not even one of what came before the next `Sync`.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether a transaction is open that ends with the next `Sync`.
    pub fn is_implicit(&self) -> bool {
        matches!(self.state, State::Implicit(_))
    }

    /// Longest the session may wait for its client now.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.settings.idle_timeout(self.in_block())
    }

    /// Monotonic time.
    pub fn monotonic(&self) -> Duration {
        self.gateway.dist().clock().monotonic()
    }

    /// Longest a statement may take.
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.settings.statement_timeout()
    }

    /// Whether settings were changed that are put back if what comes before the next `Sync` fails.
    pub fn has_set(&self) -> bool {
        self.settings.can_be_undone()
    }

    /// Whether what comes is one of several statements of a text: together they are a transaction.
    pub fn set_in_list(&mut self, in_list: bool) {
        self.in_list = in_list;
    }

    /// Whether a statement of its own that lost a race is run again.
    pub fn repeats_statements(&self) -> bool {
        self.settings.repeats_statements()
    }

    /// Whether a block that lost a race is run again.
    pub fn repeats_transactions(&self) -> bool {
        self.settings.repeats_transactions()
    }

    /// Whether the statement that comes can be run again by itself if it loses a race.
    pub fn set_can_repeat(&mut self, can: bool) {
        self.can_repeat = can;
        self.locks_next &= can;
    }

    /// Whether a block whose `COMMIT` ends with `40001` stays open, to be run again or
    /// [abandoned](Session::abandon_block).
    pub fn keep_block(&mut self, keep: bool) {
        self.keeps_block = keep;
    }

    /// Whether the rows of the statement that comes are asked for in portions: others may run
    /// between them.
    pub fn gives_portions(&mut self, portions: bool) {
        self.in_portions = portions;
    }

    /// Begins the open block anew: it has not run anything, as of the same `now()`. Answers whether
    /// it could: schema changes and savepoints are not begun anew.
    pub fn restart_block(&mut self, keep_locks: bool) -> bool {
        let (begun, token) = match &self.state {
            State::Block(open) if open.is_plain() => (open.txn.clone(), open.token.clone()),
            _ => return false,
        };
        self.state = State::Block(self.begin_anew(&begun, token, keep_locks));
        true
    }

    /// A block in the place of one with this transaction.
    fn begin_anew(&self, before: &Txn, token: Option<String>, keep_locks: bool) -> Open {
        let open = Open::new(before.anew(keep_locks), self.gateway.catalog().pin());
        Open { token, ..open }
    }

    /// The block ended with the failure of its `COMMIT`.
    pub fn abandon_block(&mut self) {
        if let State::Block(open) = &self.state {
            open.txn.end();
            self.state = State::Idle;
            self.settings.transaction_ended(false);
        }
    }

    /// A block is run again.
    pub fn count_replay(&mut self) {
        self.current.run_again(self.gateway.dist().clock().monotonic(), "the block");
        self.gateway.dist().commits.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement is run again, and waits for its turn this time: it locks the rows it changes.
    pub fn repeat_with_locks(&mut self) {
        self.current.run_again(self.gateway.dist().clock().monotonic(), "the statement");
        self.locks_next = true;
        self.gateway.dist().commits.repeated.fetch_add(1, Ordering::Relaxed);
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

    fn note(&mut self, notice: &SqlError) {
        let (sqlstate, message) = (notice.sqlstate, notice.message.clone());
        let severity = if sqlstate == SqlState::WARNING { "WARNING" } else { "NOTICE" };
        self.notices.push(Notice { severity, sqlstate, message });
    }

    /// In a failed block nothing runs but its end.
    ///
    /// # Errors
    /// `25P02`
    pub fn refuse_when_failed(&self, statement: &Statement) -> Result<(), SqlError> {
        if matches!(self.state, State::Failed(_)) && !ends_transaction(statement) {
            return Err(SqlError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    /// Whether a portal may give more.
    ///
    /// # Errors
    /// `25P02` in a failed block.
    pub fn check_open(&self, ready: &Ready) -> Result<(), SqlError> {
        self.refuse_when_failed(&ready.statement)
    }

    /// An error that has cut off a statement also tells what it was waiting for.
    pub fn cut_off(&self, error: SqlError) -> SqlError {
        match &self.state {
            State::Implicit(open) | State::Block(open) => open.txn.cut_off(error),
            State::Idle | State::Failed(_) => error,
        }
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// What the statement says.
    pub async fn run(&mut self, ready: &Arc<Ready>, params: Params) -> Result<Outcome, SqlError> {
        let statement = &ready.statement;
        let portions = std::mem::take(&mut self.in_portions);
        self.refuse_when_failed(statement)?;
        self.planner_settings.time_zone = self.settings.time_zone();
        self.planner_settings.past = self.reads_the_past(statement);
        if let StatementKind::Fate(fate) = &statement.kind {
            return self.fate(fate, &params).await;
        }
        let Some(described) = &ready.plan else {
            return self.command(ready).await;
        };
        self.gateway.check_clock()?;
        if matches!(self.state, State::Idle) {
            self.begin_implicit();
        }
        self.settle_the_past(statement)?;
        let params = match &ready.args {
            Some(args) => Box::pin(self.argument_values(ready, args)).await?,
            None => params,
        };
        // The catalog may have changed since it was prepared; the plan is in the cache if not.
        let plan = self.plan(statement, &ready.param_types).await?;
        if !same_shape(described, &plan) {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cached plan must not change result type",
            ));
        }
        if let Some(command) = plan.writes_by() {
            self.check_may_write(command)?;
        }
        if let Some(table) = plan.writes_table() {
            self.refuse_while_building(table)?;
        }
        if let Some(strength) = plan.locks_rows() {
            self.check_may_write(&format!("SELECT {}", strength.clause()))?;
        }
        self.lock_if_contended(&plan).await?;
        self.execute(statement, &plan, params, portions && plan.writes_by().is_none()).await
    }

    /// A statement that is a transaction of its own locks no rows: its commit follows at once, and
    /// if it loses a race it is run again with locks. What cannot be run again locks from the
    /// first.
    async fn lock_if_contended(&mut self, plan: &Prepared) -> Result<(), SqlError> {
        let lost_a_race = std::mem::take(&mut self.locks_next);
        let State::Implicit(open) = &self.state else { return Ok(()) };
        if !self.can_repeat {
            if open.txn.locks_before_writing() {
                return Ok(());
            }
            return open.txn.lock_written().await;
        }
        if let Some(table) = plan.writes_table() {
            let contended = &self.gateway.contended;
            let now = self.gateway.dist().clock().monotonic();
            if lost_a_race {
                contended.note(table, now);
            }
            if contended.is(table, now) {
                open.txn.lock_before_writing();
            }
        }
        Ok(())
    }

    /// Executes a plan in the open transaction.
    async fn execute(
        &mut self,
        statement: &Statement,
        plan: &Arc<Prepared>,
        params: Params,
        portions: bool,
    ) -> Result<Outcome, SqlError> {
        if let State::Implicit(open) | State::Block(open) = &self.state {
            let (now, costs) = (self.monotonic(), open.txn.costs());
            self.current.statement(now, &statement.text, costs);
        }
        self.defer().await?;
        self.next_statement(&statement.text);
        let mut again = 0;
        loop {
            let context = self.context(statement, params.clone(), portions)?;
            match attempt(plan, context).await {
                Err(_) if again < ATTEMPTS_MAX && self.was_overtaken() => again += 1,
                Err(error) => {
                    self.statement_failed(&error);
                    return Err(error);
                }
                Ok(outcome) => {
                    if let State::Implicit(open) | State::Block(open) = &self.state {
                        open.txn.gives_out();
                    }
                    return Ok(outcome);
                }
            }
        }
    }

    /// Whether the statement shall be begun once more, at a later time.
    fn was_overtaken(&mut self) -> bool {
        let (State::Implicit(open) | State::Block(open)) = &mut self.state else { return false };
        match open.txn.again() {
            Some(again) => {
                open.txn = Arc::new(again);
                true
            }
            None => false,
        }
    }

    fn context(
        &self,
        statement: &Statement,
        params: Params,
        portions: bool,
    ) -> Result<ExecContext, SqlError> {
        let (State::Implicit(open) | State::Block(open)) = &self.state else {
            return Err(SqlError::internal("a plan runs without a transaction"));
        };
        let begun = micros(open.txn.begun_at());
        // What is written between its portions is not part of it.
        let txn = if portions { Arc::new(open.txn.as_it_is()?) } else { open.txn.clone() };
        Ok(ExecContext {
            txn,
            params,
            lifted: statement.lifted.clone(),
            session: SessionValues {
                user: self.user.clone(),
                database: self.database.clone(),
                backend_pid: self.backend_pid,
                txn_time_us: begun,
                statement_time_us: micros(self.gateway.dist().clock().physical()),
                time_zone: self.settings.time_zone(),
            },
            catalog: open.catalog().clone(),
        })
    }

    fn begin_implicit(&mut self) {
        self.timeline_begins();
        self.state = State::Implicit(self.begin_txn(false));
    }

    fn begin_txn(&self, explicit: bool) -> Open {
        let pin = self.gateway.catalog().pin();
        let level = self.settings.isolation();
        Open::new(Txn::begin_at(self.gateway.dist().clone(), explicit, level), pin)
    }

    /// A statement begins in the open transaction.
    fn next_statement(&mut self, text: &Arc<str>) {
        let terms = self.terms(text);
        if let State::Implicit(open) | State::Block(open) = &mut self.state {
            open.txn = Arc::new(open.txn.statement(terms));
        }
    }

    fn terms(&self, text: &Arc<str>) -> Terms {
        Terms {
            application: self.settings.application_name(),
            statement: text.clone(),
            lock_timeout: self.settings.lock_timeout(),
        }
    }

    /// Writers of a table wait outside while one of its indexes is being built (docs/limits.md).
    fn refuse_while_building(&self, table: TableId) -> Result<(), SqlError> {
        let catalog = self.catalog();
        let Some(table) = catalog.table_by_id(table) else {
            return Ok(());
        };
        match table.indexes.iter().find(|index| index.state == IndexState::Building) {
            None => Ok(()),
            Some(index) => Err(SqlError::new(
                SqlState::OBJECT_IN_USE,
                format!("index \"{}\" of table \"{}\" is being built", index.name, table.name),
            )
            .with_hint("Try again when it is complete, or drop it.")
            .on_table(table.name.clone())),
        }
    }

    /// The last transaction is over, another begins.
    fn timeline_begins(&mut self) {
        let now = self.monotonic();
        // One that is run again goes on.
        if !self.locks_next {
            self.last = std::mem::replace(&mut self.current, Timeline::begin(now));
        }
    }

    /// A statement has ended: the last of its rows was taken.
    pub fn statement_ended(&mut self) {
        if let State::Implicit(open) | State::Block(open) = &self.state {
            let (now, costs) = (self.monotonic(), open.txn.costs());
            self.current.ended(now, costs);
        }
    }

    /// Another portion of a statement's rows is asked for.
    pub fn statement_resumed(&mut self) {
        self.current.resumed();
    }

    /// The statement under way, if there is one, has met an error.
    pub fn statement_failed(&mut self, error: &SqlError) {
        if let State::Implicit(open) | State::Block(open) = &self.state {
            let (now, costs) = (self.monotonic(), open.txn.costs());
            self.current.failed(now, error.to_string(), costs);
        }
    }

    /// Commits the implicit transaction, if there is one.
    ///
    /// # Errors
    /// `40001`, `23505`, `40003` and what else a commit can say.
    pub async fn finish_implicit(&mut self) -> Result<(), SqlError> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Implicit(open) => {
                let (now, costs) = (self.monotonic(), open.txn.costs());
                self.current.ended(now, costs);
                let txn = open.txn.clone();
                let done = self.commit_open(open).await;
                // Whatever still holds its rows: they are others' now.
                txn.end();
                self.settings.transaction_ended(done.is_ok());
                done
            }
            other => {
                if matches!(other, State::Idle) {
                    self.settings.transaction_ended(true);
                }
                self.state = other;
                Ok(())
            }
        }
    }

    async fn commit_open(&mut self, open: Open) -> Result<(), SqlError> {
        self.write_token(&open)?;
        let before = (self.monotonic(), open.txn.costs());
        let done = self.gateway.commit(&open.txn, &open.pin).await;
        let after = (self.monotonic(), open.txn.costs());
        self.current.commit(before, after, done.clone().map_err(|error| error.to_string()));
        done?;
        if open.schema.catalog.is_some() {
            // The barrier would wait for our own pin.
            drop(open.pin);
            let late = self.gateway.publish(open.schema).await;
            late.iter().for_each(|late| self.note(late));
        }
        Ok(())
    }

    /// After an error: an implicit transaction is gone, a block has failed.
    pub fn fail(&mut self) {
        if matches!(self.state, State::Block(_)) {
            self.failed_modes = self.modes();
        }
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => State::Idle,
            State::Implicit(open) => {
                open.txn.end();
                State::Idle
            }
            State::Block(open) => State::Failed(open.after_failure()),
            State::Failed(open) => State::Failed(open),
        };
        // The settings of a block that may go on are put back when it does.
        if !matches!(self.state, State::Failed(Some(_))) {
            self.settings.transaction_ended(false);
        }
    }
}

/// One attempt at a statement. If it locks the rows it gives, all are locked before it gives any:
/// it may have to be begun once more.
async fn attempt(plan: &Prepared, context: ExecContext) -> Result<Outcome, SqlError> {
    let columns: Arc<[OutColumn]> = plan.columns.clone().unwrap_or_default().into();
    Ok(match plan.execute(context).await? {
        Execution::Rows(stream) if plan.locks_rows().is_some() => {
            Outcome::Rows(RowSource::taken(columns, stream).await?)
        }
        Execution::Rows(stream) => Outcome::Rows(RowSource::new(columns, stream)),
        Execution::Command { tag, returning } => {
            Outcome::Command { tag, rows: returning.map(|stream| RowSource::new(columns, stream)) }
        }
    })
}

fn ends_transaction(statement: &Statement) -> bool {
    matches!(
        statement.kind,
        StatementKind::Commit(_) | StatementKind::Rollback(_) | StatementKind::RollbackTo(_)
    )
}

/// Microseconds since 1970.
fn micros(ts: Timestamp) -> i64 {
    i64::try_from(ts.to_duration().as_micros()).unwrap_or(i64::MAX)
}

fn same_shape(a: &Prepared, b: &Prepared) -> bool {
    let types = |p: &Prepared| -> Option<Vec<u32>> {
        Some(p.columns.as_ref()?.iter().map(|c| c.ty.oid()).collect())
    };
    types(a) == types(b)
}
