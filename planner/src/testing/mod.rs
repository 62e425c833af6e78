//! A store in memory behind [`KvTxn`], so that the whole SQL engine runs without a cluster: in this
//! crate's tests and in those of crates above it.
//!
//! Transactions read a snapshot, buffer their writes and put them into the store at commit. It
//! checks what a commit must: that keys inserted as absent still are, and that no key written or
//! locked has changed since the snapshot.

mod db;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::Timestamp;

use crate::error::{SqlError, SqlResult, SqlState};
use crate::kv::{
    KvStats, KvTxn, LockStrength, LockWait, RowLock, ScanPage, ScanRequest, Span, WriteOp,
};
use crate::program::ProgramEngine;

pub use db::{Answer, MemDb, text_rows};

/// Rows a page holds: few, so that tests go through several.
const PAGE_ROWS: usize = 100;

type Rows = BTreeMap<Bytes, Bytes>;

/// The committed rows.
#[derive(Debug, Default)]
pub struct MemStore {
    rows: Mutex<Arc<Rows>>,
    commits: AtomicU64,
}

impl MemStore {
    /// An empty store.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens a transaction; `explicit`: by `BEGIN`.
    pub fn begin(self: &Arc<Self>, explicit: bool) -> Arc<MemTxn> {
        let snapshot = Arc::clone(&self.rows.lock());
        let read_ts = Timestamp(self.commits.load(Ordering::SeqCst));
        Arc::new(MemTxn::new(self, snapshot, read_ts, explicit))
    }

    /// Puts rows in past any transaction (the catalog of a test).
    pub fn load(&self, ops: impl IntoIterator<Item = WriteOp>) {
        let mut rows = self.rows.lock();
        let rows = Arc::make_mut(&mut rows);
        for op in ops {
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
    }

    /// The committed rows of a span.
    pub fn rows(&self, span: &Span) -> Vec<(Bytes, Bytes)> {
        let rows = self.rows.lock();
        let within = rows.range(span.start.clone()..span.end.clone());
        within.map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

/// A transaction on a [`MemStore`].
#[derive(Debug)]
pub struct MemTxn {
    store: Arc<MemStore>,
    snapshot: Arc<Rows>,
    read_ts: Timestamp,
    explicit: bool,
    writes: Mutex<BTreeMap<Bytes, WriteOp>>,
    locks: Mutex<Vec<(Bytes, LockStrength)>>,
    others: Mutex<BTreeSet<Bytes>>,
    gets: AtomicU64,
    keys_got: AtomicU64,
    scans: AtomicU64,
    rows_read: AtomicU64,
}

impl MemTxn {
    fn new(store: &Arc<MemStore>, snapshot: Arc<Rows>, read_ts: Timestamp, explicit: bool) -> Self {
        Self {
            store: Arc::clone(store),
            snapshot,
            read_ts,
            explicit,
            writes: Mutex::default(),
            locks: Mutex::default(),
            others: Mutex::default(),
            gets: AtomicU64::new(0),
            keys_got: AtomicU64::new(0),
            scans: AtomicU64::new(0),
            rows_read: AtomicU64::new(0),
        }
    }

    /// Puts the writes into the store, all or none.
    pub fn commit(&self) -> SqlResult<()> {
        let writes = std::mem::take(&mut *self.writes.lock());
        let locks = std::mem::take(&mut *self.locks.lock());
        let mut rows = self.store.rows.lock();
        for op in writes.values() {
            if op.must_be_absent && rows.contains_key(&op.key) {
                return Err(SqlError::new(
                    SqlState::UNIQUE_VIOLATION,
                    "duplicate key value violates unique constraint",
                ));
            }
        }
        let touched = writes.keys().chain(locks.iter().map(|(key, _)| key));
        for key in touched {
            if rows.get(key) != self.snapshot.get(key) {
                return Err(SqlError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    "could not serialize access due to concurrent update",
                ));
            }
        }
        let rows = Arc::make_mut(&mut rows);
        for (key, op) in writes {
            match op.value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        self.store.commits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Calls of [`KvTxn::get`] so far, and the keys they asked for.
    pub fn gets(&self) -> (u64, u64) {
        (self.gets.load(Ordering::SeqCst), self.keys_got.load(Ordering::SeqCst))
    }

    /// Calls of [`KvTxn::scan`] so far.
    pub fn scans(&self) -> u64 {
        self.scans.load(Ordering::SeqCst)
    }

    /// The keys locked so far.
    pub fn locked(&self) -> Vec<(Bytes, LockStrength)> {
        self.locks.lock().clone()
    }

    /// From now on these rows are locked by somebody else.
    pub fn others_hold(&self, keys: impl IntoIterator<Item = Bytes>) {
        self.others.lock().extend(keys);
    }

    /// The writes buffered so far.
    pub fn writes(&self) -> Vec<WriteOp> {
        self.writes.lock().values().cloned().collect()
    }

    fn value(&self, key: &Bytes) -> Option<Bytes> {
        match self.writes.lock().get(key) {
            Some(op) => op.value.clone(),
            None => self.snapshot.get(key).cloned(),
        }
    }

    /// The rows of a span with own writes laid over.
    fn overlaid(&self, span: &Span) -> Rows {
        if span.is_empty() {
            return Rows::new();
        }
        let bounds = || span.start.clone()..span.end.clone();
        let committed = self.snapshot.range(bounds());
        let mut rows: Rows = committed.map(|(k, v)| (k.clone(), v.clone())).collect();
        for (key, op) in self.writes.lock().range(bounds()) {
            match &op.value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        rows
    }
}

#[async_trait]
impl KvTxn for MemTxn {
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, SqlError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.keys_got.fetch_add(keys.len() as u64, Ordering::SeqCst);
        self.rows_read.fetch_add(keys.len() as u64, Ordering::SeqCst);
        Ok(keys.iter().map(|key| self.value(key)).collect())
    }

    async fn scan(&self, req: ScanRequest) -> Result<ScanPage, SqlError> {
        self.scans.fetch_add(1, Ordering::SeqCst);
        let rows = self.overlaid(&req.span);
        let total = rows.len();
        let most = PAGE_ROWS.min(req.rows_max.unwrap_or(u64::MAX) as usize);
        let page: Vec<_> = if req.reverse {
            rows.into_iter().rev().take(most).collect()
        } else {
            rows.into_iter().take(most).collect()
        };
        self.rows_read.fetch_add(page.len() as u64, Ordering::SeqCst);
        let mut resume = match page.last() {
            Some((last, _)) if page.len() < total => Some(if req.reverse {
                Span { start: req.span.start.clone(), end: last.clone() }
            } else {
                Span { start: quorate_txn::keys::next_key(last), end: req.span.end.clone() }
            }),
            _ => None,
        };
        let Some(program) = req.program else {
            return Ok(ScanPage { rows: page, output: None, resume });
        };
        let mut run = ProgramEngine::new().start(program.bytes())?;
        for (key, value) in &page {
            if !run.row(key, value)? {
                resume = None;
                break;
            }
        }
        Ok(ScanPage { rows: Vec::new(), output: Some(run.output()?), resume })
    }

    fn write(&self, op: WriteOp) -> Result<(), SqlError> {
        let mut writes = self.writes.lock();
        // What was absent before the transaction must still be absent, whatever came between.
        let before = writes.get(&op.key).is_some_and(|earlier| earlier.must_be_absent);
        let known = writes.contains_key(&op.key);
        let must_be_absent = before || (op.must_be_absent && !known);
        writes.insert(op.key.clone(), WriteOp { must_be_absent, ..op });
        Ok(())
    }

    fn frozen(&self) -> Result<Arc<dyn KvTxn>, SqlError> {
        let snapshot = Arc::clone(&self.snapshot);
        let frozen = Self::new(&self.store, snapshot, self.read_ts, self.explicit);
        frozen.writes.lock().clone_from(&self.writes.lock());
        Ok(Arc::new(frozen))
    }

    /// Rows that [`MemTxn::others_hold`] are not free.
    async fn lock(&self, keys: Vec<Bytes>, how: RowLock) -> Result<BTreeSet<Bytes>, SqlError> {
        let (taken, free): (Vec<Bytes>, Vec<Bytes>) =
            keys.into_iter().partition(|key| self.others.lock().contains(key));
        if !taken.is_empty() && how.wait != LockWait::SkipLocked {
            return Err(SqlError::new(SqlState::LOCK_NOT_AVAILABLE, "somebody holds a row"));
        }
        self.locks.lock().extend(free.into_iter().map(|key| (key, how.strength)));
        Ok(taken.into_iter().collect())
    }

    fn locks_before_writing(&self) -> bool {
        self.explicit
    }

    fn read_ts(&self) -> Timestamp {
        self.read_ts
    }

    fn checks_at_commit(&self) -> bool {
        !self.explicit && self.writes.lock().is_empty()
    }

    fn stats(&self) -> KvStats {
        let calls = self.gets.load(Ordering::SeqCst) + self.scans.load(Ordering::SeqCst);
        KvStats {
            ranges: calls,
            rpc_rounds: calls,
            consensus_rounds: 0,
            rows_read: self.rows_read.load(Ordering::SeqCst),
        }
    }
}
