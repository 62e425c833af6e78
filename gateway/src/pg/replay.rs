//! A block that lost a race (`40001`) or was the victim of a deadlock (`40P01`) is run again,
//! statement by statement, before its client hears of it. If each statement gives what the client
//! was given, the client cannot tell.
//!
//! # Invariants
//! * A step is remembered with a digest of exactly the bytes its result was; one whose result was
//!   too long to compare, and anything that is neither query nor write, ends the remembering.
//! * What ended with `40001` was not committed, and the next attempt is a transaction of its own id
//!   (P12). An unknown outcome (`40003`) is never tried again.
//! * While steps run again nothing is written out: their results are compared and taken back.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use quorate_planner::error::SqlState;
use quorate_planner::parse::StatementKind;
use quorate_planner::types::{Format, zone};

use super::again::Attempts;
use super::connection::{Connection, Failure, ends_session};
use super::reply;
use super::wire::Mark;
use crate::session::{Outcome, Params, Ready, Status};

/// Statements remembered of a block; of a longer one no more is.
const STEPS_MAX: usize = 256;
/// About how much memory the statements and parameters of a block may hold.
const BYTES_MAX: usize = 1 << 20;
/// What a byte of a statement's text costs with its tokens.
const BYTES_PER_CHARACTER: usize = 16;
/// The longest result that is compared, in bytes.
const RESULT_BYTES_MAX: usize = 32 << 10;

/// What an open block has run so far.
#[derive(Default)]
pub(super) struct Block {
    steps: Vec<Step>,
    bytes: usize,
}

/// A statement with what it gave.
struct Step {
    ready: Arc<Ready>,
    params: Params,
    formats: Vec<Format>,
    digest: u64,
}

/// Bytes that parameters hold.
pub(super) fn size_of_params(params: &Params) -> usize {
    params.iter().map(ScalarValue::size).sum()
}

/// Its victim must let go of what it holds; the others go on meanwhile.
fn is_deadlock(failure: &Failure) -> bool {
    matches!(failure, Failure::Sql(error) if error.sqlstate == SqlState::DEADLOCK_DETECTED)
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Connection {
    /// A statement has run; its rows and its tag are what was put out since `from`. `idle`: no
    /// transaction was open before it.
    pub(super) fn note(
        &mut self,
        ready: &Arc<Ready>,
        idle: bool,
        params: Params,
        formats: &[Format],
        from: Mark,
    ) {
        self.session.statement_ended();
        let open = self.session.status() == Status::InTransaction;
        if !open || !self.session.repeats_transactions() {
            self.block = None;
            return;
        }
        match ready.kind() {
            // What an open transaction did before is not remembered.
            StatementKind::Begin(_) => self.block = idle.then(Block::default),
            StatementKind::Plan | StatementKind::Execute { .. } => {
                let given = self.wire.since(from).filter(|bytes| bytes.len() <= RESULT_BYTES_MAX);
                let Some(digest) = given.map(digest) else {
                    self.block = None;
                    return;
                };
                let Some(block) = &mut self.block else { return };
                block.bytes += ready.text_len() * BYTES_PER_CHARACTER + size_of_params(&params);
                let (ready, formats) = (ready.clone(), formats.to_vec());
                block.steps.push(Step { ready, params, formats, digest });
                if block.steps.len() > STEPS_MAX || block.bytes > BYTES_MAX {
                    self.block = None;
                }
            }
            StatementKind::Empty | StatementKind::Show(_) | StatementKind::Fate(_) => {}
            // Settings may change what a statement means: they must not come between two.
            StatementKind::Set(..) | StatementKind::SetTransaction(_)
                if self.block.as_ref().is_some_and(|block| block.steps.is_empty()) => {}
            _ => self.block = None,
        }
    }

    /// After an error of a statement in a block: `Ok` if all that came before it was run again, and
    /// it shall be, too.
    pub(super) async fn replay_block(
        &mut self,
        mut failure: Failure,
        ready: &Arc<Ready>,
        before: Mark,
        attempts: &mut Attempts,
    ) -> Result<(), Failure> {
        let now = self.session.monotonic();
        let lost_a_race = matches!(&failure, Failure::Sql(error) if attempts.left(error, now));
        if lost_a_race && self.block.is_some() && self.wire.back_to(before) {
            self.held = None;
            if ready.decides_transaction() {
                // A COMMIT has no time of its own.
                self.restart_deadline();
            }
            let mut deadlock = is_deadlock(&failure);
            while self.session.restart_block(!deadlock) {
                self.session.count_replay();
                let again = match self.pause(attempts).await {
                    Ok(()) => self.run_steps().await,
                    Err(failure) => Err(failure),
                };
                match again {
                    Ok(true) => return Ok(()),
                    Err(Failure::Sql(error)) if attempts.left(&error, self.session.monotonic()) => {
                        deadlock = error.sqlstate == SqlState::DEADLOCK_DETECTED;
                    }
                    Err(Failure::Sql(error))
                        if error.sqlstate == SqlState::QUERY_CANCELED || ends_session(&error) =>
                    {
                        failure = error.into();
                        break;
                    }
                    Ok(false) | Err(Failure::Sql(_)) => break,
                    Err(Failure::Wire(error)) => return Err(error.into()),
                }
            }
        }
        self.block = None;
        if matches!(ready.kind(), StatementKind::Commit(_)) {
            // Its transaction is over, as after any COMMIT.
            self.session.abandon_block();
        }
        Err(failure)
    }

    /// Runs the steps of the block; whether each gave what it had given.
    async fn run_steps(&mut self) -> Result<bool, Failure> {
        let Some(block) = self.block.take() else { return Ok(false) };
        let mut same = self.session.reopen_token().await.map(|()| true).map_err(Failure::from);
        if same.is_err() {
            self.block = Some(block);
            return same;
        }
        for step in &block.steps {
            let mark = self.wire.mark();
            self.keeps_deadline = true;
            let ran = self.run_step(step, mark).await;
            let given = self.wire.since(mark).map(digest);
            self.wire.back_to(mark);
            same = ran.map(|()| given == Some(step.digest));
            if !matches!(same, Ok(true)) {
                break;
            }
        }
        self.block = Some(block);
        same
    }

    async fn run_step(&mut self, step: &Step, mark: Mark) -> Result<(), Failure> {
        let (tag, rows) = match self.run(&step.ready, step.params.clone()).await? {
            Outcome::Empty => return Ok(()),
            Outcome::Command { tag, rows } => (Some(tag), rows),
            Outcome::Rows(rows) => (None, Some(rows)),
        };
        let mut sent = 0;
        if let Some(mut rows) = rows {
            let types = rows.columns.iter().map(|column| column.ty);
            let shapes: Vec<_> = types.zip(step.formats.iter().copied()).collect();
            let in_zone = self.session.time_zone();
            while let Some((batch, row)) = rows.next().await? {
                let output = self.wire.output();
                zone::with(in_zone, || {
                    reply::data_row(output, batch, row, &shapes, &mut self.scratch)
                })?;
                sent += 1;
                if self.wire.since(mark).is_none_or(|given| given.len() > RESULT_BYTES_MAX) {
                    return Ok(());
                }
            }
        }
        self.session.statement_ended();
        self.put(reply::complete(tag.unwrap_or_else(|| format!("SELECT {sent}"))))
    }
}
