//! The life of a connection: messages in order, one at a time; results streamed as they come.
//!
//! Two promises shape the loop:
//! * **No false success.** Outside a transaction block the `CommandComplete` of a statement is held
//!   in the output until its implicit transaction has committed; if that fails it is taken back
//!   and the error takes its place. Not in a pipeline with more than 4 MiB of answers before its
//!   `Sync`, which has the error.
//! * **A slow client waits, we do not grow.** Rows are encoded into the output as batches arrive
//!   and written out every 64 KiB; the next batch is asked for only then.

use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::EmptyQueryResponse;
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{Statement, StatementKind};
use quorate_planner::types::{Format, zone};
use tokio::sync::Notify;

use super::again::Replay;
use super::extended::Extended;
use super::replay::Block;
use super::reply;
use super::stopping::{Stage, Stopping};
use super::wire::{Phase, Wire, WireError};
use crate::session::{Outcome, Ready, RowSource, Session, Status};

/// Bytes of answers from which on none is held back.
const HELD_BYTES_MAX: usize = 4 << 20;

/// A running connection.
///
/// # Invariants
/// * `held` is a place in the output up to which nothing has been written out.
pub struct Connection {
    pub(super) wire: Wire,
    pub(super) session: Session,
    pub(super) extended: Extended,
    pub(super) cancelled: Arc<Notify>,
    stopping: Stopping,
    pub(super) held: Option<usize>,
    /// The statement of the extended protocol that is the open transaction.
    pub(super) replay: Option<Replay>,
    /// The open block, if it can be run again.
    pub(super) block: Option<Block>,
    skipping_to_sync: bool,
    /// When the running statement has taken too long (`statement_timeout`).
    deadline: Option<Duration>,
    /// The next statement is one that is run again: its time goes on.
    pub(super) keeps_deadline: bool,
    pub(super) scratch: Vec<u8>,
}

/// A failure of a message: told to the client, or the end of the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Connection {
    /// A connection whose client was let in.
    pub(super) fn new(
        wire: Wire,
        session: Session,
        cancelled: Arc<Notify>,
        stopping: Stopping,
    ) -> Self {
        Self {
            wire,
            session,
            extended: Extended::default(),
            cancelled,
            stopping,
            held: None,
            replay: None,
            block: None,
            skipping_to_sync: false,
            deadline: None,
            keeps_deadline: false,
            scratch: Vec::new(),
        }
    }

    /// Serves until the client leaves, the bytes make no sense, or the node stops.
    pub async fn serve(&mut self) -> Result<(), WireError> {
        self.wire.put(&reply::ready(self.session.status()))?;
        self.flush().await?;
        loop {
            if self.stopping.has_reached(Stage::Ending) {
                return self.say_goodbye(&node_stops()).await;
            }
            let (idle, in_block) = (self.session.idle_timeout(), self.session.in_block());
            let ends_at = match in_block || self.session.is_implicit() {
                true => Stage::Ending,
                false => Stage::Draining,
            };
            let message = tokio::select! {
                biased;
                message = self.wire.next(Phase::Running) => message,
                () = passed(idle) => {
                    return self.say_goodbye(&idle_too_long(in_block)).await;
                }
                () = self.stopping.reached(ends_at) => {
                    return self.say_goodbye(&node_stops()).await;
                }
            };
            let message = match message {
                Ok(message) => message,
                Err(WireError::Closed) => return Ok(()),
                Err(WireError::Protocol(text)) => {
                    return self.say_goodbye(&reply::violation(text)).await;
                }
                Err(other) => return Err(other),
            };
            if matches!(message, PgWireFrontendMessage::Terminate(_)) {
                return Ok(());
            }
            // In a box: an idle session must not hold room for the largest statement's execution.
            match Box::pin(self.handle(message)).await {
                // A client that sends on and takes no answers is made to wait.
                Ok(()) => {
                    let late = self.wire.gathered() > HELD_BYTES_MAX;
                    if (self.held.is_none() || late) && self.wire.relieve().await? {
                        self.held = None;
                    }
                }
                Err(Failure::Wire(e)) => return Err(e),
                Err(Failure::Sql(e)) if ends_session(&e) => return self.say_goodbye(&e).await,
                Err(Failure::Sql(e)) => {
                    self.report(&e)?;
                    // A `Flush` behind it is skipped, and its sender waits for this answer.
                    self.flush().await?;
                }
            }
        }
    }

    /// The last words. What is open is rolled back before, whether the client hears them or not,
    /// and what it was to answer is taken back.
    async fn say_goodbye(&mut self, why: &SqlError) -> Result<(), WireError> {
        self.extended = Extended::default();
        self.session.leave();
        if let Some(mark) = self.held.take() {
            self.wire.truncate(mark);
        }
        self.wire.put(&reply::error(why, true))?;
        self.flush().await
    }

    /// One message. An error of an extended message makes everything up to `Sync` be skipped.
    async fn handle(&mut self, message: PgWireFrontendMessage) -> Result<(), Failure> {
        let skipping = self.skipping_to_sync;
        let result = match message {
            PgWireFrontendMessage::Sync(_) => {
                self.skipping_to_sync = false;
                return self.sync().await;
            }
            _ if skipping => return Ok(()),
            PgWireFrontendMessage::Query(query) => {
                self.forget_last()?;
                return self.simple_query(&query.query).await;
            }
            PgWireFrontendMessage::Parse(parse) => self.parse(parse).await,
            PgWireFrontendMessage::Bind(bind) => self.bind(bind),
            PgWireFrontendMessage::Describe(describe) => {
                self.describe(describe.target_type, describe.name)
            }
            PgWireFrontendMessage::Execute(execute) => {
                self.forget_last()?;
                self.execute(execute.name.unwrap_or_default(), execute.max_rows).await
            }
            PgWireFrontendMessage::Close(close) => {
                self.extended.close(close.target_type, &close.name.unwrap_or_default());
                self.put(PgWireBackendMessage::CloseComplete(CloseComplete::new()))
            }
            PgWireFrontendMessage::Flush(_) => Ok(self.flush().await?),
            other => Err(reply::violation(format!("unexpected message {other:?}")).into()),
        };
        if let Err(Failure::Sql(_)) = &result {
            self.skipping_to_sync = true;
        }
        result
    }

    fn report(&mut self, error: &SqlError) -> Result<(), WireError> {
        self.session.statement_failed(error);
        self.session.fail();
        self.wire.put(&reply::error(error, false))
    }

    pub(super) fn put(&mut self, message: PgWireBackendMessage) -> Result<(), Failure> {
        Ok(self.wire.put(&message)?)
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        self.held = None;
        self.wire.flush().await
    }

    /// Notices and changed settings go out before what comes next.
    fn put_asides(&mut self) -> Result<(), WireError> {
        for notice in self.session.take_notices() {
            self.wire.put(&reply::notice(&notice))?;
        }
        for (name, value) in self.session.take_reported_settings() {
            let status = ParameterStatus::new(name, value);
            self.wire.put(&PgWireBackendMessage::ParameterStatus(status))?;
        }
        Ok(())
    }

    /// Commits what an implicit transaction has gathered; what was held back goes out or is taken
    /// back.
    pub(super) async fn end_implicit(&mut self) -> Result<(), Failure> {
        let result = self.session.finish_implicit().await;
        let held = self.held.take();
        if let Err(error) = result {
            if let Some(mark) = held {
                self.wire.truncate(mark);
            }
            return Err(error.into());
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Failure> {
        match self.end_repeatable().await {
            Err(Failure::Sql(error)) if !ends_session(&error) => self.report(&error)?,
            other => other?,
        }
        if !self.session.in_block() {
            self.extended.drop_portals();
        }
        self.put_asides()?;
        self.wire.put(&reply::ready(self.session.status()))?;
        Ok(self.flush().await?)
    }

    async fn simple_query(&mut self, text: &str) -> Result<(), Failure> {
        self.extended.drop_unnamed();
        match self.simple_statements(text).await {
            Err(Failure::Sql(error)) if !ends_session(&error) => self.report(&error)?,
            other => other?,
        }
        // Only an error can have left an implicit transaction open.
        self.put_asides()?;
        if !self.session.in_block() {
            self.extended.drop_portals();
        }
        self.wire.put(&reply::ready(self.session.status()))?;
        Ok(self.flush().await?)
    }

    async fn simple_statements(&mut self, text: &str) -> Result<(), Failure> {
        let statements = self.session.split(text)?;
        self.session.set_in_list(statements.len() > 1);
        let result = match self.may_repeat_all(&statements) {
            true => self.simple_repeatable(&statements).await,
            false => self.simple_run(statements).await,
        };
        self.session.set_in_list(false);
        result
    }

    pub(super) async fn simple_run(&mut self, statements: Vec<Statement>) -> Result<(), Failure> {
        let last = statements.len().saturating_sub(1);
        for (i, statement) in statements.into_iter().enumerate() {
            let ready = self.prepare(statement, &[]).await?;
            let (before, mut attempts) = (self.wire.mark(), self.attempts());
            while let Err(failure) = self.simple_step(&ready, i == last).await {
                self.replay_block(failure, &ready, before, &mut attempts).await?;
            }
        }
        self.end_implicit().await
    }

    async fn simple_step(&mut self, ready: &Arc<Ready>, last: bool) -> Result<(), Failure> {
        let idle = self.session.is_idle();
        let outcome = self.run(ready, Vec::new()).await?;
        self.put_asides()?;
        self.forget_statements();
        let (tag, rows) = match outcome {
            Outcome::Empty => {
                self.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                return Ok(());
            }
            Outcome::Command { tag, rows } => (Some(tag), rows),
            Outcome::Rows(rows) => (None, Some(rows)),
        };
        let (mut sent, mut formats) = (0, Vec::new());
        let mut from = self.wire.mark();
        if let Some(mut rows) = rows {
            formats = vec![Format::Text; rows.columns.len()];
            self.wire.put(&reply::row_description(&rows.columns, &formats))?;
            from = self.wire.mark();
            sent = self.send_rows(&mut rows, &formats, usize::MAX).await?.0;
        }
        if last {
            self.end_implicit().await?;
        }
        self.put(reply::complete(tag.unwrap_or_else(|| format!("SELECT {sent}"))))?;
        self.note(ready, idle, Vec::new(), &formats, from);
        Ok(())
    }

    /// What `DEALLOCATE`, `DISCARD ALL` and `ROLLBACK TO` asked for.
    fn forget_statements(&mut self) {
        if let Some(savepoint) = self.session.take_undone_since() {
            self.extended.drop_portals_since(savepoint);
        }
        for name in self.session.take_deallocated() {
            self.extended.deallocate(name.as_deref());
        }
    }

    /// Makes a statement ready to run; an `EXECUTE` is the statement it names.
    async fn prepare(
        &mut self,
        statement: Statement,
        oids: &[u32],
    ) -> Result<Arc<Ready>, SqlError> {
        if let StatementKind::Execute { name, args } = &statement.kind {
            self.session.refuse_when_failed(&statement)?;
            let prepared = self.extended.find(name)?.clone();
            return self.session.executing(&statement, &prepared, args);
        }
        self.session.prepare_described(statement, oids).await
    }

    /// Keeps what a `PREPARE` names, and looks whether there is what a `DEALLOCATE` names.
    async fn name_statement(&mut self, ready: &Ready) -> Result<(), SqlError> {
        match ready.kind() {
            StatementKind::Deallocate(Some(name)) if self.session.status() != Status::Failed => {
                self.extended.find(name).map(|_| ())
            }
            StatementKind::Prepare { name, .. } => {
                if self.extended.statement(name).is_some() {
                    return Err(duplicate(name));
                }
                if let Some((name, prepared)) = self.session.named_by(ready).await? {
                    self.extended.put_statement(name, prepared);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// From now on it may take as long as a statement may.
    pub(super) fn restart_deadline(&mut self) {
        let limit = self.session.statement_timeout();
        self.deadline = limit.map(|limit| self.session.monotonic() + limit);
    }

    /// What was about the statement before is not about the next: a request to cancel that came too
    /// late, its time, that it was to be run again.
    fn forget_last(&mut self) -> Result<(), SqlError> {
        self.keeps_deadline = false;
        self.session.set_can_repeat(false);
        let _ = futures::FutureExt::now_or_never(self.cancelled.notified());
        // It may have been woken for this.
        match self.stopping.has_reached(Stage::Ending) {
            true => Err(node_stops()),
            false => Ok(()),
        }
    }

    /// Runs a statement, to be cancelled unless it decides a transaction.
    pub(super) async fn run(
        &mut self,
        ready: &Arc<Ready>,
        params: crate::session::Params,
    ) -> Result<Outcome, SqlError> {
        self.name_statement(ready).await?;
        self.session.keep_block(self.block.is_some());
        if ready.decides_transaction() {
            let outcome = self.session.run(ready, params).await?;
            if let StatementKind::Commit(true) | StatementKind::Rollback(true) = ready.kind() {
                // They are of the transaction that has ended.
                self.extended.drop_portals();
            }
            if !self.session.is_implicit() {
                // What it had to answer holds.
                self.held = None;
            }
            return Ok(outcome);
        }
        if !std::mem::take(&mut self.keeps_deadline) {
            self.restart_deadline();
        }
        let left = self.deadline.map(|at| at.saturating_sub(self.session.monotonic()));
        let cancelled = self.cancelled.clone();
        tokio::select! {
            biased;
            () = cancelled.notified() => Err(self.why_cancelled()),
            outcome = self.session.run(ready, params) => outcome,
            () = passed(left) => Err(timed_out()),
            () = self.wire.gone() => Err(client_gone()),
        }
        .map_err(|error| self.session.cut_off(error))
    }

    /// Why a statement was interrupted.
    pub(super) fn why_cancelled(&self) -> SqlError {
        if self.stopping.has_reached(Stage::Ending) {
            return node_stops();
        }
        SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
    }

    /// Sends up to `limit` rows; says how many, and whether that was all.
    async fn send_rows(
        &mut self,
        rows: &mut RowSource,
        formats: &[Format],
        limit: usize,
    ) -> Result<(usize, bool), Failure> {
        let shapes: Vec<_> =
            rows.columns.iter().map(|c| c.ty).zip(formats.iter().copied()).collect();
        let in_zone = self.session.time_zone();
        let mut sent = 0;
        while sent < limit {
            let cancelled = self.cancelled.clone();
            let left = self.deadline.map(|at| at.saturating_sub(self.session.monotonic()));
            let next = tokio::select! {
                biased;
                next = rows.next() => next?,
                () = cancelled.notified() => return Err(self.why_cancelled().into()),
                () = passed(left) => return Err(timed_out().into()),
                () = self.wire.gone() => return Err(client_gone().into()),
            };
            let Some((batch, row)) = next else {
                return Ok((sent, true));
            };
            let output = self.wire.output();
            zone::with(in_zone, || {
                reply::data_row(output, batch, row, &shapes, &mut self.scratch)
            })?;
            sent += 1;
            if self.wire.relieve().await? {
                self.held = None;
            }
        }
        let exhausted = rows.is_exhausted().await?;
        Ok((sent, exhausted))
    }

    async fn parse(
        &mut self,
        parse: pgwire::messages::extendedquery::Parse,
    ) -> Result<(), Failure> {
        let name = parse.name.unwrap_or_default();
        if !name.is_empty() && self.extended.statement(&name).is_some() {
            return Err(duplicate(&name).into());
        }
        let mut statements = self.session.split(&parse.query)?;
        if statements.len() > 1 {
            return Err(SqlError::syntax(
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let statement = statements.pop().ok_or_else(|| SqlError::syntax("no statement"))?;
        let ready = self.prepare(statement, &parse.type_oids).await?;
        self.extended.put_statement(name, ready);
        self.put(PgWireBackendMessage::ParseComplete(ParseComplete::new()))
    }

    fn bind(&mut self, bind: pgwire::messages::extendedquery::Bind) -> Result<(), Failure> {
        let savepoints = self.session.savepoints_set();
        zone::with(self.session.time_zone(), || self.extended.bind(bind, savepoints))?;
        self.put(PgWireBackendMessage::BindComplete(BindComplete::new()))
    }

    fn describe(&mut self, target: u8, name: Option<String>) -> Result<(), Failure> {
        let name = name.unwrap_or_default();
        for message in self.extended.describe(target, &name)? {
            self.put(message)?;
        }
        Ok(())
    }

    async fn execute(&mut self, name: String, max_rows: i32) -> Result<(), Failure> {
        let limit = usize::try_from(max_rows).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        self.replay = None;
        let alone = limit == usize::MAX && self.session.is_idle();
        match alone.then(|| self.extended.bound(&name)).flatten() {
            Some(bound) if self.may_repeat(bound.ready.kind()) => {
                return self.execute_repeatable(name, bound).await;
            }
            _ => {}
        }
        let bound = self.block.is_some().then(|| self.extended.bound(&name)).flatten();
        let (before, mut attempts) = (self.wire.mark(), self.attempts());
        while let Err(failure) = self.execute_portal(name.clone(), limit).await {
            let Some(bound) = &bound else { return Err(failure) };
            self.replay_block(failure, &bound.ready, before, &mut attempts).await?;
            self.extended.put_portal(name.clone(), bound.portal());
        }
        Ok(())
    }

    pub(super) async fn execute_portal(
        &mut self,
        name: String,
        limit: usize,
    ) -> Result<(), Failure> {
        // The portal is out of the map while it runs and goes back unless it fails.
        let mut portal = self.extended.take_portal(&name)?;
        let (idle, fresh) = (self.session.is_idle(), portal.is_fresh());
        if !fresh && let Err(error) = self.session.check_open(&portal.ready) {
            self.extended.put_portal(name, portal);
            return Err(error.into());
        }
        let remembered = self.block.is_some();
        let params = if remembered { portal.params.clone() } else { Vec::new() };
        if fresh {
            let ready = portal.ready.clone();
            // It ends with what is undone of what it may have seen.
            portal.savepoints = self.session.savepoints_set();
            self.session.gives_portions(limit != usize::MAX);
            match self.run(&ready, std::mem::take(&mut portal.params)).await? {
                Outcome::Empty => {
                    self.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                    portal.params = Vec::new();
                    self.extended.put_portal(name, portal);
                    return Ok(());
                }
                Outcome::Command { tag, rows } => {
                    portal.tag = Some(tag);
                    portal.rows = rows;
                }
                Outcome::Rows(rows) => portal.rows = Some(rows),
            }
            self.put_asides()?;
            self.forget_statements();
        }
        if !fresh {
            self.session.statement_resumed();
        }
        let from = self.wire.mark();
        let (sent, finished) = match &mut portal.rows {
            Some(rows) => {
                let formats = portal.formats.clone();
                self.send_rows(rows, &formats, limit).await?
            }
            None => (0, true),
        };
        portal.sent += sent;
        if finished {
            let mark = self.wire.pending();
            let tag = portal.tag.clone().unwrap_or_else(|| format!("SELECT {sent}"));
            self.put(reply::complete(tag))?;
            // Only what the next `Sync` commits may still be taken back.
            self.held = self.session.is_implicit().then(|| self.held.unwrap_or(mark));
        } else {
            self.put(PgWireBackendMessage::PortalSuspended(PortalSuspended::new()))?;
        }
        self.session.statement_ended();
        match (fresh, finished) {
            (true, true) => self.note(&portal.ready, idle, params, &portal.formats, from),
            // A portal that had given everything gives nothing more.
            (false, true) if sent == 0 => {}
            // In portions: not to be compared.
            _ => self.block = None,
        }
        self.extended.put_portal(name, portal);
        Ok(())
    }
}

fn duplicate(name: &str) -> SqlError {
    SqlError::new(
        SqlState::DUPLICATE_PREPARED_STATEMENT,
        format!("prepared statement \"{name}\" already exists"),
    )
}

/// Waits until the time is over, for ever if there is no limit.
async fn passed(limit: Option<Duration>) {
    match limit {
        Some(limit) => crate::runtime::pause(limit).await,
        None => std::future::pending().await,
    }
}

fn idle_too_long(in_block: bool) -> SqlError {
    let (sqlstate, which) = match in_block {
        true => (SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "idle-in-transaction"),
        false => (SqlState::IDLE_SESSION_TIMEOUT, "idle-session"),
    };
    SqlError::new(sqlstate, format!("terminating connection due to {which} timeout"))
}

fn timed_out() -> SqlError {
    SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout")
}

/// Whether nothing can follow it.
pub(super) fn ends_session(error: &SqlError) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CONNECTION_FAILURE].contains(&error.sqlstate)
}

/// What it has waited for is somebody else's.
fn client_gone() -> SqlError {
    SqlError::new(SqlState::CONNECTION_FAILURE, "connection to client lost")
}

fn node_stops() -> SqlError {
    let message = "terminating connection because the node is shutting down";
    SqlError::new(SqlState::ADMIN_SHUTDOWN, message)
}
