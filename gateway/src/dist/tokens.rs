//! Commit tokens: a name the client gives a transaction, so that it can ask later how that ended,
//! and so that sending it twice commits nothing twice.
//!
//! A token becomes a row of the same transaction, at a key made of the token alone that must be
//! absent: whoever comes second with it cannot commit. While its transaction is open the key is
//! locked like any row, so that "in progress" can be told.
//!
//! # Invariants
//! * A row once written for a token says for ever how it ended (until it is forgotten after
//!   [`KEPT`]): committed, or that nothing can be committed under it any more.
//! * "aborted" is told only once that row stands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{KvTxn, LockStrength, LockWait, RowLock, ScanRequest, Span, WriteOp};
use quorate_planner::parse::IsolationLevel;
use quorate_proto::Timestamp;
use quorate_txn::keys;

use super::terms::Terms;
use super::{Dist, Txn};
use crate::runtime;

/// How long a token is remembered.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 200;
/// The part of the system keyspace tokens are in.
const CLASS: u8 = 0x20;
const COMMITTED: u8 = b'c';
const CLOSED: u8 = b'a';
/// One of so many commits with a token looks for old ones.
const SWEEP_ONE_IN: u128 = 64;
/// Rows that such a look takes.
const SWEEP_ROWS: u64 = 1_000;
/// How often the status is looked at when others write it at the same time.
const LOOKS_MAX: usize = 20;

/// How the transaction of a token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStatus {
    /// It was committed.
    Committed,
    /// It was not, and never will be.
    Aborted,
    /// A transaction with it is open, or just commits.
    InProgress,
}

impl TokenStatus {
    /// As `txn_status` answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::InProgress => "in progress",
        }
    }
}

/// The key of a token.
///
/// # Errors
/// `22023` if it is empty or too long.
pub fn key_of(token: &str) -> Result<Bytes, SqlError> {
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        let message = format!("a commit token has 1 to {TOKEN_BYTES_MAX} bytes");
        return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
    }
    Ok(keys::system_key(CLASS, token.as_bytes()))
}

/// The token of a key.
pub fn token_of(key: &[u8]) -> Option<String> {
    let token = key.strip_prefix(keys::system_prefix(CLASS).as_ref())?;
    Some(String::from_utf8_lossy(token).into_owned())
}

/// `23505`: the token was used before.
pub fn used(token: &str) -> SqlError {
    let message = format!("commit token \"{token}\" was used before");
    SqlError::new(SqlState::UNIQUE_VIOLATION, message)
        .with_detail("Nothing of this transaction was committed.")
        .with_hint(format!(
            "SELECT txn_status('{}') says how the first transaction with it ended.",
            token.replace('\'', "''")
        ))
        .on_constraint("quorate.commit_token")
}

fn value(state: u8, at: Timestamp) -> Bytes {
    let mut value = vec![state];
    value.extend_from_slice(&at.0.to_be_bytes());
    value.into()
}

/// What a row says, and since when.
fn read(value: &[u8]) -> Option<(TokenStatus, Timestamp)> {
    let (state, at) = value.split_first()?;
    let at = Timestamp(u64::from_be_bytes(at.try_into().ok()?));
    match *state {
        COMMITTED => Some((TokenStatus::Committed, at)),
        CLOSED => Some((TokenStatus::Aborted, at)),
        _ => None,
    }
}

impl Txn {
    /// The transaction gets a token: others see that it is open.
    ///
    /// # Errors
    /// `22023` for a token that cannot be one, `23505` if it was used before, `55P03` and `40P01`
    /// if another open transaction has it.
    pub async fn open_token(&self, token: &str) -> Result<(), SqlError> {
        let key = key_of(token)?;
        self.lock_key(key.clone(), RowLock::of_write(LockStrength::Update)).await?;
        let fresh = Self::begin(self.dist().clone(), true);
        match fresh.get(vec![key]).await?.pop().flatten() {
            Some(_) => Err(used(token)),
            None => Ok(()),
        }
    }

    /// Adds the token's row to what is committed.
    ///
    /// # Errors
    /// As for any write.
    pub fn write_token(&self, token: &str) -> Result<(), SqlError> {
        let key = key_of(token)?;
        let at = self.dist().clock().physical();
        self.write(WriteOp { key, value: Some(value(COMMITTED, at)), must_be_absent: true })
    }
}

impl Dist {
    /// How the transaction of a token ended. If nobody has it open, nothing can be committed under
    /// it after this has answered "aborted".
    ///
    /// # Errors
    /// What reading and writing say.
    pub async fn token_status(self: &Arc<Self>, token: &str) -> Result<TokenStatus, SqlError> {
        let key = key_of(token)?;
        for _ in 0..LOOKS_MAX {
            let txn = Txn::begin_at(self.clone(), true, IsolationLevel::ReadCommitted);
            let txn = txn.statement(Terms::default());
            let row = txn.get(vec![key.clone()]).await?.pop().flatten();
            if let Some((status, _)) = row.as_deref().and_then(read) {
                return Ok(status);
            }
            let how = RowLock::of_query(LockStrength::Update, LockWait::NoWait);
            match txn.lock(vec![key.clone()], how).await {
                Ok(_) => {}
                Err(e) if e.sqlstate == SqlState::LOCK_NOT_AVAILABLE => {
                    return Ok(TokenStatus::InProgress);
                }
                Err(e) if e.sqlstate == SqlState::SERIALIZATION_FAILURE => continue,
                Err(e) => return Err(e),
            }
            let at = self.clock().physical();
            let closed = WriteOp::insert(key.clone(), value(CLOSED, at));
            txn.write(closed)?;
            let Some(intent) = txn.intent() else { continue };
            match self.clone().commit(intent).await {
                Ok(_) => return Ok(TokenStatus::Aborted),
                Err(e)
                    if [SqlState::UNIQUE_VIOLATION, SqlState::SERIALIZATION_FAILURE]
                        .contains(&e.sqlstate) => {}
                Err(e) => return Err(e),
            }
            runtime::pause(Duration::from_millis(5)).await;
        }
        Ok(TokenStatus::InProgress)
    }

    /// After a commit with a token, once in a while: forgets old ones.
    pub fn sweep_tokens_sometimes(self: &Arc<Self>) {
        if runtime::random_u128().is_multiple_of(SWEEP_ONE_IN) {
            let dist = self.clone();
            runtime::spawn_if_running(async move {
                // What is left is found by the next.
                let _ = dist.sweep_tokens(KEPT).await;
            });
        }
    }

    /// Forgets tokens older than `kept`, some at a time; how many.
    ///
    /// # Errors
    /// What reading and writing say.
    pub async fn sweep_tokens(self: &Arc<Self>, kept: Duration) -> Result<usize, SqlError> {
        let txn = Txn::begin(self.clone(), true);
        let first = keys::system_prefix(CLASS);
        let end = keys::prefix_end(&first);
        // Where the one before has stopped.
        let start = self.tokens_swept.lock().take().unwrap_or(first);
        let request = ScanRequest::all(Span::new(start, end));
        let page = txn.scan(ScanRequest { rows_max: Some(SWEEP_ROWS), ..request }).await?;
        *self.tokens_swept.lock() = page.resume.map(|rest| rest.start);
        let oldest = self.clock().physical().bound_before(kept);
        let old = page.rows.into_iter().filter(|(_, v)| read(v).is_none_or(|(_, at)| at < oldest));
        let mut count = 0;
        for (key, _) in old {
            txn.write(WriteOp::delete(key))?;
            count += 1;
        }
        if let Some(intent) = txn.intent() {
            self.clone().commit(intent).await?;
        }
        Ok(count)
    }
}
