//! The border between SQL and storage: what the planner asks of a transaction.
//!
//! The gateway implements [`KvTxn`] over its router and coordinator; [`crate::testing`] implements
//! it over a map in memory. Nothing here knows of ranges, RPCs or sessions.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_proto::Timestamp;

use crate::error::SqlError;
pub use crate::program::ScanProgram;

/// An open transaction, as SQL sees it: reads at one timestamp that also show the transaction's own
/// buffered writes.
#[async_trait]
pub trait KvTxn: Send + Sync + Debug {
    /// The values of `keys`, in their order; `None` where there is no row. Own buffered writes are
    /// visible.
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, SqlError>;

    /// One page of a scan. Own buffered writes are visible. The caller goes on with
    /// [`ScanPage::resume`] until it is `None` or it has had enough.
    async fn scan(&self, req: ScanRequest) -> Result<ScanPage, SqlError>;

    /// Buffers a write. It is checked and replicated at commit.
    fn write(&self, op: WriteOp) -> Result<(), SqlError>;

    /// The same transaction as it is now: reads through this handle do not show what is written
    /// later.
    ///
    /// # Errors
    /// `53200` if too much is kept for such handles.
    fn frozen(&self) -> Result<Arc<dyn KvTxn>, SqlError>;

    /// Locks rows that the statement has read, for the rest of the transaction. Answers which were
    /// skipped because others hold them. An error may mean that a row has changed since: then the
    /// statement is begun once more.
    async fn lock(&self, keys: Vec<Bytes>, how: RowLock) -> Result<BTreeSet<Bytes>, SqlError>;

    /// Whether statements that change rows lock them first. One that is a transaction of its own
    /// need not: its commit follows at once.
    fn locks_before_writing(&self) -> bool {
        false
    }

    /// The timestamp the transaction reads at now.
    fn read_ts(&self) -> Timestamp;

    /// Whether `must_be_absent` may be left to the commit, so that a statement need not read first:
    /// it follows at once where the client has opened no transaction itself (`BEGIN`). What a
    /// transaction has written before only it can tell, not the commit.
    fn checks_at_commit(&self) -> bool {
        false
    }

    /// Counters since the transaction began, for `EXPLAIN ANALYZE`.
    fn stats(&self) -> KvStats {
        KvStats::default()
    }
}

/// Keys `start ≤ key < end`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// First key that belongs to the span.
    pub start: Bytes,
    /// First key after `start` that no longer belongs to it.
    pub end: Bytes,
}

impl Span {
    /// The span of keys `start ≤ key < end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Whether no key lies in the span.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `key` lies in the span.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && key < self.end.as_ref()
    }
}

/// What one call of [`KvTxn::scan`] shall read.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// The keys to read.
    pub span: Span,
    /// From the last key to the first.
    pub reverse: bool,
    /// Rows to look at, at most; a page may look at fewer. (A limit after a filter is the
    /// program's own.)
    pub rows_max: Option<u64>,
    /// A program to run beside the data. With it, a page carries `output` instead of `rows`, and
    /// a program that wants no more rows ends the scan (`resume` is `None`).
    pub program: Option<Arc<ScanProgram>>,
}

impl ScanRequest {
    /// A forward scan of a whole span without limit and program.
    pub fn all(span: Span) -> Self {
        Self { span, reverse: false, rows_max: None, program: None }
    }
}

/// One page of a scan.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    /// Keys and values in the order of the scan. Empty if a program ran.
    pub rows: Vec<(Bytes, Bytes)>,
    /// What the program put out over the rows of this page, in the order of the scan.
    pub output: Option<Bytes>,
    /// What is left to scan; `None`: done.
    pub resume: Option<Span>,
}

/// One buffered write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOp {
    /// The key.
    pub key: Bytes,
    /// The value to put, or `None` to delete the key.
    pub value: Option<Bytes>,
    /// The commit fails with `23505` if the key holds a row at that time.
    pub must_be_absent: bool,
}

impl WriteOp {
    /// Puts a value, whatever was there.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()), must_be_absent: false }
    }

    /// Puts a value under a key that must hold none.
    pub fn insert(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()), must_be_absent: true }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: None, must_be_absent: false }
    }
}

/// The four row locks of Postgres, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockStrength {
    /// `FOR KEY SHARE`
    KeyShare,
    /// `FOR SHARE`
    Share,
    /// `FOR NO KEY UPDATE`
    NoKeyUpdate,
    /// `FOR UPDATE`
    Update,
}

impl LockStrength {
    /// The clause that asks for it: `FOR UPDATE`.
    pub fn clause(self) -> &'static str {
        match self {
            Self::KeyShare => "FOR KEY SHARE",
            Self::Share => "FOR SHARE",
            Self::NoKeyUpdate => "FOR NO KEY UPDATE",
            Self::Update => "FOR UPDATE",
        }
    }
}

/// What to do about rows that others have locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockWait {
    /// Wait for them.
    #[default]
    Block,
    /// `NOWAIT`: an error.
    NoWait,
    /// `SKIP LOCKED`: leave them out.
    SkipLocked,
}

/// How rows are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowLock {
    /// How strong.
    pub strength: LockStrength,
    /// What to do about rows that others have locked.
    pub wait: LockWait,
    /// The rows will be written; else their lock is kept by a check at commit, too.
    pub for_write: bool,
}

impl RowLock {
    /// As the locking clause of a query asks.
    pub fn of_query(strength: LockStrength, wait: LockWait) -> Self {
        Self { strength, wait, for_write: false }
    }

    /// Before rows are changed.
    pub fn of_write(strength: LockStrength) -> Self {
        Self { strength, wait: LockWait::Block, for_write: true }
    }
}

/// What a transaction has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvStats {
    /// Ranges that were asked, each counted once per request.
    pub ranges: u64,
    /// Rounds of RPCs that followed one another (parallel ones count once).
    pub rpc_rounds: u64,
    /// Rounds of consensus that a statement waited for.
    pub consensus_rounds: u64,
    /// Rows read from storage.
    pub rows_read: u64,
}

impl KvStats {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &KvStats) -> KvStats {
        KvStats {
            ranges: self.ranges.saturating_sub(earlier.ranges),
            rpc_rounds: self.rpc_rounds.saturating_sub(earlier.rpc_rounds),
            consensus_rounds: self.consensus_rounds.saturating_sub(earlier.consensus_rounds),
            rows_read: self.rows_read.saturating_sub(earlier.rows_read),
        }
    }
}
