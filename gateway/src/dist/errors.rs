//! What clients are told of errors between gateway and ranges. One table: every kind of
//! [`pb::RangeError`] to its SQLSTATE.

use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::pb::range_error::Kind;
use quorate_proto::{Timestamp, pb};
use quorate_txn::clock::{ClockError, NodeClock, Standing};

use super::Dist;
use super::locks::CutOff;
use super::sender::Failure;

/// A row that somebody changed, and who, where that is known.
#[derive(Debug, Clone)]
pub struct Change {
    /// The row.
    pub key: Bytes,
    /// The transaction that changed it.
    pub writer: Option<pb::LockOwner>,
}

/// Why a transaction cannot read at a later time.
#[derive(Debug, Clone)]
pub enum Stuck {
    /// What it has read before was changed.
    Changed(Change),
    /// It had to do so too often.
    TooOften,
}

/// For people.
fn told(dist: &Dist, change: &Change) -> String {
    let row = dist.name(&change.key);
    match &change.writer {
        Some(writer) => {
            let (session, wrote) = (session(writer), &writer.statement);
            format!("{row} was changed by {session}, whose last write was: {wrote}")
        }
        None => format!("{row} was changed"),
    }
}

fn stuck_because(dist: &Dist, stuck: &Stuck) -> String {
    match stuck {
        Stuck::Changed(change) => {
            format!("what it had read before is not the same any more, {}", told(dist, change))
        }
        Stuck::TooOften => String::from("its read timestamp was moved too often"),
    }
}

/// `40001` because an event may have been before the transaction and its reads cannot move.
pub fn uncertain(dist: &Dist, event: &Change, stuck: &Stuck) -> SqlError {
    let message = "could not serialize access: a row changed within the clock uncertainty window";
    let (event, why) = (told(dist, event), stuck_because(dist, stuck));
    SqlError::new(SqlState::SERIALIZATION_FAILURE, message)
        .with_detail(format!("{event}. The transaction cannot read at a later time: {why}."))
        .with_hint("The transaction might succeed if retried.")
}

/// A clock that is out of bounds (rule T3).
pub fn clock(error: &ClockError) -> SqlError {
    SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the clocks of the cluster disagree")
        .with_detail(error.to_string())
        .with_hint("Check time synchronisation on every node.")
}

/// `57P03` for whatever is asked of a node whose own clock is off (rule T3).
///
/// # Errors
/// That.
pub fn check_own_clock(clock: &NodeClock) -> Result<(), SqlError> {
    let standing = clock.standing();
    if !matches!(standing, Standing::Off { .. }) {
        return Ok(());
    }
    let limit = clock.max_offset();
    let detail = format!(
        "Clocks may be {limit:?} apart (max_clock_offset); this node runs no statements until its \
         clock agrees with most others'."
    );
    Err(SqlError::new(SqlState::CANNOT_CONNECT_NOW, format!("this node's clock is {standing}"))
        .with_detail(detail)
        .with_hint("Connect to another node, and check time synchronisation on this one."))
}

/// `40001` for a transaction that goes by a time its node's clock had while it was off.
pub fn clock_was_off() -> SqlError {
    let message = "could not serialize access: this node's clock was off meanwhile";
    SqlError::new(SqlState::SERIALIZATION_FAILURE, message)
        .with_detail("What the transaction has read may be of another time than its snapshot.")
        .with_hint("The transaction might succeed if retried.")
}

/// `40001` for a write that met a newer event.
pub fn conflict(dist: &Dist, key: &[u8]) -> SqlError {
    match dist.describe(key) {
        Some(names) => names.conflict(),
        None => SqlError::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
        )
        .with_detail(format!("{}.", dist.name(key))),
    }
}

/// Characters of a statement's text that others are shown.
const STATEMENT_SHOWN: usize = 160;

/// The beginning of a text, for people.
pub fn shortened(text: &str) -> String {
    let some = text.char_indices().nth(4 * STATEMENT_SHOWN).map_or(text, |(end, _)| &text[..end]);
    let line = some.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(STATEMENT_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn session(who: &pb::LockOwner) -> String {
    match who.application.as_str() {
        "" => format!("a session of node {}", who.node_id),
        name => format!("\"{name}\" of node {}", who.node_id),
    }
}

/// Who holds a lock or waits for one, for people.
fn person(who: &pb::LockOwner) -> String {
    format!("{} with: {}", session(who), who.statement)
}

fn people(who: &[pb::LockOwner]) -> String {
    let shown: Vec<String> = who.iter().take(3).map(person).collect();
    match who.len().saturating_sub(shown.len()) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// `55P03` for a row that others hold; after a wait, if it may wait.
pub fn not_available(dist: &Dist, busy: &pb::Busy, waited: Option<Duration>) -> SqlError {
    let names = dist.describe(&busy.key);
    let message = match (waited, &names) {
        (Some(_), _) => String::from("canceling statement due to lock timeout"),
        (None, Some(names)) => {
            format!("could not obtain lock on row in relation \"{}\"", names.table)
        }
        (None, None) => String::from("could not obtain lock on row"),
    };
    let waited = waited.map_or(String::new(), |waited| format!(" after {} ms", waited.as_millis()));
    let blockers = match busy.blockers.is_empty() {
        true => String::from("a transaction that commits"),
        false => people(&busy.blockers),
    };
    let detail = format!("{} is held or queued for{waited} by {blockers}.", dist.name(&busy.key));
    let error = SqlError::new(SqlState::LOCK_NOT_AVAILABLE, message).with_detail(detail);
    match names {
        Some(names) => error.on_table(names.table),
        None => error,
    }
}

/// What was waited for when a statement was interrupted.
pub fn waited_for(dist: &Dist, error: SqlError, wait: &CutOff) -> SqlError {
    let (row, ms) = (dist.name(&wait.key), wait.waited.as_millis());
    let error = match wait.blockers.as_slice() {
        [] => error.with_detail(format!("It waited for {ms} ms. {row} was to be locked.")),
        who => {
            let who = people(who);
            error.with_detail(format!("{row} is held or queued for after {ms} ms by {who}."))
        }
    };
    match dist.describe(&wait.key) {
        Some(names) => error.on_table(names.table),
        None => error,
    }
}

/// `54000` for more row locks than a transaction may have.
pub fn too_many_locks() -> SqlError {
    let most = super::locks::ROWS_LOCKED_MAX;
    let message = format!("a transaction locks at most {most} rows with NOWAIT or SKIP LOCKED");
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
}

/// `40P01`; the circle's first wait is the victim's.
pub fn deadlock(dist: &Dist, circle: &[pb::RowLock]) -> SqlError {
    let line = |lock: &pb::RowLock| {
        let waiter = lock.owner.as_ref().map(person).unwrap_or_default();
        let row = dist.name(&lock.key);
        format!("{waiter} waits since {} ms for {row}.", lock.age_ms)
    };
    let lines: Vec<String> = circle.iter().map(line).collect();
    SqlError::new(SqlState::DEADLOCK_DETECTED, "deadlock detected")
        .with_detail(lines.join("\n"))
        .with_hint("Each waits for the next, the last for the first. Run the transaction again.")
}

/// `40001` for a row that was changed while its lock was waited for.
pub fn overtaken(dist: &Dist, row: &Change, waited: Duration, stuck: Option<&Stuck>) -> SqlError {
    let why = stuck.map_or(String::new(), |stuck| {
        let why = stuck_because(dist, stuck);
        format!(" The transaction cannot go on at a later time: {why}.")
    });
    let (row_told, ms) = (told(dist, row), waited.as_millis());
    conflict(dist, &row.key)
        .with_detail(format!("{row_told}. Its lock was got after {ms} ms.{why}"))
}

/// `23505` found at commit.
pub fn already_exists(dist: &Dist, key: &[u8]) -> SqlError {
    if let Some(token) = super::tokens::token_of(key) {
        return super::tokens::used(&token);
    }
    match dist.describe(key) {
        Some(names) => names.unique_violation(),
        None => SqlError::new(SqlState::UNIQUE_VIOLATION, "duplicate key value"),
    }
}

/// `40003`: neither committed nor aborted can be said.
pub fn unknown(why: &str) -> SqlError {
    SqlError::new(
        SqlState::STATEMENT_COMPLETION_UNKNOWN,
        "the outcome of the transaction is not known",
    )
    .with_detail(format!("It may or may not have been committed: {why}."))
    .with_hint("Check for its effects before running it again.")
}

/// Whatever a range said, for a statement that has not begun to commit.
pub fn of_range(dist: &Dist, error: &pb::RangeError) -> SqlError {
    let text = error.message.clone();
    match &error.kind {
        Some(Kind::Conflict(c)) if c.writer.is_some() => {
            let change = Change { key: c.key.clone(), writer: c.writer.clone() };
            conflict(dist, &c.key).with_detail(format!("{}.", told(dist, &change)))
        }
        Some(Kind::Conflict(c)) => conflict(dist, &c.key),
        Some(Kind::AlreadyExists(e)) => already_exists(dist, &e.key),
        Some(Kind::Uncertain(u)) => {
            let change = Change { key: u.key.clone(), writer: u.writer.clone() };
            uncertain(dist, &change, &Stuck::TooOften)
        }
        Some(Kind::Locked(l)) => conflict(dist, &l.key),
        Some(Kind::Busy(busy)) => {
            let (row, who) = (dist.name(&busy.key), people(&busy.blockers));
            let detail = format!("{row} is held or queued for by {who}.");
            conflict(dist, &busy.key).with_detail(detail)
        }
        Some(Kind::Refused(_)) => SqlError::new(
            SqlState::SERIALIZATION_FAILURE,
            "the transaction was aborted by another that waited for it too long",
        )
        .with_hint("The transaction might succeed if retried."),
        Some(Kind::TooOld(old)) => {
            let (now, oldest) = (dist.clock().physical(), Timestamp(old.floor));
            let ago = now.to_duration().saturating_sub(oldest.to_duration()).as_secs();
            too_old().with_detail(format!(
                "Versions of more than {ago} seconds ago are not kept here any more."
            ))
        }
        Some(Kind::DiskFull(full)) => SqlError::new(SqlState::DISK_FULL, "the disk is full")
            .with_detail(format!(
                "{} bytes are free and {} are kept in reserve.",
                full.free, full.reserve
            ))
            .with_hint("Delete or truncate data, or add space; reads go on."),
        Some(Kind::ClockSkew(_)) => {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the clocks of the cluster disagree")
                .with_detail(format!("{text}."))
                .with_hint("Check time synchronisation on every node.")
        }
        Some(
            Kind::NotLeader(_)
            | Kind::StaleRoute(_)
            | Kind::Unavailable(_)
            | Kind::Unknown(_)
            | Kind::WrongCluster(_),
        ) => SqlError::new(SqlState::CANNOT_CONNECT_NOW, "a range is not available")
            .with_detail(text),
        Some(Kind::Invalid(_)) | None => SqlError::internal(text),
    }
}

/// `72000` for a moment of which nothing is known any more.
pub fn too_old() -> SqlError {
    let state = SqlState::parse("72000").expect("five digits are a SQLSTATE");
    SqlError::new(state, "snapshot too old")
}

/// Why a read failed for good.
pub fn of_read(dist: &Dist, failure: &Failure) -> SqlError {
    match failure {
        Failure::Range(error) => of_range(dist, error),
        Failure::Lost { why, .. } => {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, "a range is not available")
                .with_detail(why.clone())
        }
    }
}
