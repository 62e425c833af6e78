//! What clients are told of errors between gateway and ranges. One table: every kind of
//! [`pb::RangeError`] to its SQLSTATE.

use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::pb;
use quorate_proto::pb::range_error::Kind;
use quorate_txn::clock::ClockError;

use super::Dist;
use super::sender::Failure;

/// `40001` because an event may have been before the transaction and its reads cannot move.
pub fn uncertain(dist: &Dist, key: &[u8], why: &str) -> SqlError {
    let message = "could not serialize access: a row changed within the clock uncertainty window";
    let detail = format!("{}; the transaction cannot read at a later time: {why}.", dist.name(key));
    SqlError::new(SqlState::SERIALIZATION_FAILURE, message)
        .with_detail(detail)
        .with_hint("The transaction might succeed if retried.")
}

/// A clock that is out of bounds (rule T3).
pub fn clock(error: &ClockError) -> SqlError {
    SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the clocks of the cluster disagree")
        .with_detail(error.to_string())
        .with_hint("Check time synchronisation on every node.")
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

/// `23505` found at commit.
pub fn already_exists(dist: &Dist, key: &[u8]) -> SqlError {
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
        Some(Kind::Conflict(c)) => conflict(dist, &c.key),
        Some(Kind::AlreadyExists(e)) => already_exists(dist, &e.key),
        Some(Kind::Uncertain(u)) => uncertain(dist, &u.key, "it met too many such rows"),
        Some(Kind::Locked(l)) => conflict(dist, &l.key),
        Some(Kind::Refused(_)) => SqlError::new(
            SqlState::SERIALIZATION_FAILURE,
            "the transaction was aborted by another that waited for it too long",
        )
        .with_hint("The transaction might succeed if retried."),
        Some(Kind::TooOld(_)) => {
            SqlError::new(snapshot_too_old(), "snapshot too old").with_detail(text)
        }
        Some(Kind::DiskFull(full)) => SqlError::new(SqlState::DISK_FULL, "the disk is full")
            .with_detail(format!(
                "{} bytes are free and {} are kept in reserve.",
                full.free, full.reserve
            ))
            .with_hint("Delete or truncate data, or add space; reads go on."),
        Some(Kind::ClockSkew(skew)) => {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the clocks of the cluster disagree")
                .with_detail(format!("A clock is off by {} µs.", skew.offset_us))
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

/// `72000`
fn snapshot_too_old() -> SqlState {
    SqlState::parse("72000").expect("five digits are a SQLSTATE")
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
