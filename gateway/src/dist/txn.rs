//! An open transaction as SQL sees it: reads at one timestamp through the [`Sender`], writes into
//! the [`WriteBuffer`], and the read timestamp moved forward past uncertain events when that is
//! safe (rule R2, DESIGN §6).
//!
//! [`Sender`]: super::sender::Sender

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{
    KvStats, KvTxn, LockStrength, RowLock, ScanPage, ScanRequest, Span, WriteOp,
};
use quorate_planner::parse::IsolationLevel;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::{range_request, range_response};
use quorate_proto::{Timestamp, TxnId, pb};

use super::Dist;
use super::buffer::{Mark, WriteBuffer, Written, check_size};
use super::costs::{Costs, Counters, add_micros};
use super::errors::{self, Change};
use super::intent::{Intent, since_first_read};
use super::locks::{Locks, Wanted};
use super::pages::{clip, progress};
use super::reads::{LockedRows, ReadSet};
use super::running::Reader;
use super::sender::{Failure, Outgoing};
use super::snapshot::Snapshot;
use super::terms::Terms;
use crate::catalog::ReadRight;
use crate::runtime;

/// How long a read keeps trying while leaders change before the statement fails.
pub const READ_PATIENCE: Duration = Duration::from_secs(30);
/// Rows of a page are asked for up to about this many bytes.
const PAGE_BYTES: u64 = 1 << 20;

/// An open transaction. Reads of one statement may run in parallel.
///
/// Each statement has a handle of its own ([`Txn::statement`]): they share everything, but under
/// READ COMMITTED each has its own [`Snapshot`].
///
/// # Invariants
/// * Nothing of it is at any shard before commit, but row locks.
pub struct Txn {
    pub(super) dist: Arc<Dist>,
    pub(super) id: TxnId,
    pub(super) begun: Timestamp,
    /// How often the node's clock had been off when it began.
    pub(super) times_off: u64,
    pub(super) own: Arc<Mutex<Own>>,
    pub(super) locks: Arc<Locks>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) current: Arc<Current>,
    pub(super) counters: Arc<Counters>,
    /// What this handle sees of the transaction's own writes, if that is not what there is now.
    pub(super) frozen: Option<Arc<Written>>,
}

/// The current statement.
#[derive(Debug, Default)]
pub(super) struct Current {
    terms: Terms,
    /// It shall be begun once more, at a later time: a row it has locked was changed before.
    pub(super) overtaken: AtomicBool,
    /// Some of what it gives was given out: it cannot be begun once more.
    pub(super) given: AtomicBool,
    /// How many row locks there were before its first attempt.
    row_locks_before: usize,
    /// The rows this attempt has locked.
    locked_rows: Mutex<BTreeSet<Bytes>>,
    /// How often it has moved the read timestamp.
    pub(super) moves: AtomicU64,
}

/// What the transaction did, whatever it read.
pub(super) struct Own {
    pub(super) isolation: IsolationLevel,
    /// Statements lock the rows they change.
    locking: bool,
    /// It is a block, perhaps only by now: what a statement says of what is stored is told at once.
    in_block: bool,
    /// How many keys were locked before the current statement.
    pub(super) locked_before: usize,
    /// A statement has begun: the level is settled.
    pub(super) begun: bool,
    /// The moment of the past it reads.
    pub(super) as_of: Option<Timestamp>,
    /// What may have been committed before it lies below this: it has waited for that.
    pub(super) deferred: Option<Timestamp>,
    pub(super) buffer: WriteBuffer,
    /// The last statement that has written.
    writer: Option<Arc<Current>>,
    pub(super) locked: LockedRows,
    /// By which catalog the snapshots to come are read.
    right: Option<Arc<ReadRight>>,
    /// From its first statement on: what that one read is kept.
    reader: Option<Reader>,
}

/// A moment of a transaction that its writes and locks can go back to.
#[derive(Debug, Clone)]
pub struct TxnMark {
    buffer: Mark,
    locked: usize,
    row_locks: usize,
}

impl fmt::Debug for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Txn({} read {})", self.id, self.read_ts())
    }
}

impl Txn {
    /// Begins at the node's clock now, at REPEATABLE READ.
    pub fn begin(dist: Arc<Dist>, explicit: bool) -> Self {
        Self::begin_at(dist, explicit, IsolationLevel::RepeatableRead)
    }

    /// Begins at the node's clock now.
    pub fn begin_at(dist: Arc<Dist>, explicit: bool, isolation: IsolationLevel) -> Self {
        // Before the clock is read: what is found meanwhile concerns this reading, too.
        let times_off = dist.clock().times_off();
        let snapshot = Snapshot::now(dist.clock(), dist.sender().connector().own());
        let begun = dist.clock().physical();
        let own = Own {
            isolation,
            locking: explicit,
            in_block: explicit,
            locked_before: 0,
            begun: false,
            as_of: None,
            deferred: None,
            buffer: WriteBuffer::default(),
            writer: None,
            locked: LockedRows::default(),
            right: None,
            reader: None,
        };
        Self {
            id: TxnId(runtime::random_u128()),
            begun,
            times_off,
            own: Arc::new(Mutex::new(own)),
            locks: Arc::new(Locks::new(&dist)),
            snapshot: Arc::new(snapshot),
            current: Arc::default(),
            counters: Arc::default(),
            frozen: None,
            dist,
        }
    }

    /// From now on, statements lock the rows they change also if each is a transaction of its own.
    pub fn lock_before_writing(&self) {
        self.own.lock().locking = true;
    }

    /// It becomes a block, with what it did before.
    pub fn becomes_block(&self) {
        let mut own = self.own.lock();
        (own.locking, own.in_block) = (true, true);
    }

    /// The handle of its next statement: the first has a snapshot of now, and under READ COMMITTED
    /// each.
    #[must_use]
    pub fn statement(&self, terms: Terms) -> Self {
        // Before the clock is read, as at its beginning.
        let times_off = self.dist.clock().times_off();
        let mut own = self.own.lock();
        own.locked_before = own.locked.count();
        let first = !std::mem::replace(&mut own.begun, true);
        let each = own.isolation == IsolationLevel::ReadCommitted && own.as_of.is_none();
        let snapshot = if first || each {
            let snapshot = match own.as_of {
                Some(moment) => Snapshot::of_the_past(moment, self.dist.clock()),
                None => Snapshot::now(self.dist.clock(), self.dist.sender().connector().own()),
            };
            Arc::new(snapshot.read_by(own.right.clone()))
        } else {
            self.snapshot.times.lock().next_statement();
            self.snapshot.clone()
        };
        if let Some(all_before) = own.deferred.filter(|_| first) {
            snapshot.has_seen(all_before);
        }
        // The past is held when it is read: most statements in it may read nothing.
        if first && own.as_of.is_none() {
            own.reader = Some(self.dist.running.enter(snapshot.times.lock().read_ts));
        }
        Self {
            dist: self.dist.clone(),
            own: self.own.clone(),
            locks: self.locks.clone(),
            snapshot,
            current: Arc::new(Current {
                terms,
                row_locks_before: self.locks.mark(),
                ..Current::default()
            }),
            counters: self.counters.clone(),
            frozen: None,
            times_off: if first { times_off } else { self.times_off },
            ..*self
        }
    }

    /// The same handle for something that is no statement.
    #[must_use]
    pub fn saying(&self, terms: Terms) -> Self {
        Self {
            dist: self.dist.clone(),
            own: self.own.clone(),
            locks: self.locks.clone(),
            snapshot: self.snapshot.clone(),
            current: Arc::new(Current { terms, ..Current::default() }),
            counters: self.counters.clone(),
            frozen: None,
            ..*self
        }
    }

    /// Whether its next statement has a snapshot of its own.
    pub fn takes_snapshot(&self) -> bool {
        let own = self.own.lock();
        !own.begun || own.isolation == IsolationLevel::ReadCommitted && own.as_of.is_none()
    }

    /// Snapshots from now on are read by another catalog.
    pub fn goes_by(&self, right: ReadRight) {
        self.own.lock().right = Some(Arc::new(right));
    }

    /// The handle of the same statement once more, if it was overtaken: a row that it has locked
    /// was changed after it was read. What it locked stays locked, so each time it comes further.
    pub fn again(&self) -> Option<Self> {
        let overtaken = self.current.overtaken.load(Ordering::Relaxed);
        overtaken.then(|| {
            self.counters.begun_again.fetch_add(1, Ordering::Relaxed);
            let mut again = self.statement(self.current.terms.clone());
            if let Some(current) = Arc::get_mut(&mut again.current) {
                current.row_locks_before = self.current.row_locks_before;
            }
            again
        })
    }

    /// The statement gives out what it has: it cannot be begun once more. What attempts before this
    /// one have locked and it has not is let go.
    pub fn gives_out(&self) {
        self.current.given.store(true, Ordering::Relaxed);
        let kept = std::mem::take(&mut *self.current.locked_rows.lock());
        self.locks.keep_since(self.current.row_locks_before, &kept);
    }

    /// It is over: its row locks are others'.
    pub fn end(&self) {
        self.locks.release();
    }

    /// Locks what it has written so far: from now on it cannot be run again by itself.
    ///
    /// # Errors
    /// As for any lock; `40001` if a row was changed since it was read.
    pub async fn lock_written(&self) -> Result<(), SqlError> {
        let keys = self.own.lock().buffer.changed_keys();
        self.lock_before_writing();
        if keys.is_empty() {
            return Ok(());
        }
        let how = RowLock::of_write(LockStrength::Update);
        let locked = self.locks.lock(&keys, &self.wanted(how, self.read_ts())).await?;
        match locked.changed {
            Some(row) => Err(errors::conflict(&self.dist, &row.key)),
            None => Ok(()),
        }
    }

    /// Locks a key that was not read.
    ///
    /// # Errors
    /// As for any lock.
    pub(super) async fn lock_key(&self, key: Bytes, how: RowLock) -> Result<(), SqlError> {
        self.locks.lock(&[key], &self.wanted(how, Timestamp::MAX)).await.map(drop)
    }

    fn wanted(&self, how: RowLock, read_at: Timestamp) -> Wanted {
        let terms = &self.current.terms;
        Wanted {
            strength: how.strength,
            wait: how.wait,
            timeout: terms.lock_timeout,
            read_at,
            who: self.who(terms),
        }
    }

    /// What others are told of it, by what is said of one of its statements.
    fn who(&self, terms: &Terms) -> pb::LockOwner {
        pb::LockOwner {
            node_id: self.dist.sender().connector().own().map_or(0, |node| node.0),
            began: self.begun.0,
            application: errors::shortened(&terms.application),
            statement: errors::shortened(&terms.statement),
            ..pb::LockOwner::default()
        }
    }

    /// A transaction to take the place of this one: of its level and its `now()`, with an id and a
    /// snapshot of its own. It keeps the row locks, so that it comes further than this one; but not
    /// if they were part of a deadlock.
    #[must_use]
    pub fn anew(&self, keep_locks: bool) -> Self {
        let (isolation, as_of, in_block) = {
            let own = self.own.lock();
            (own.isolation, own.as_of, own.in_block)
        };
        let anew = Self::begin_at(self.dist.clone(), in_block, isolation);
        anew.own.lock().as_of = as_of;
        match keep_locks {
            true => self.locks.doubt(),
            false => self.locks.release(),
        }
        Self { begun: self.begun, locks: self.locks.clone(), ..anew }
    }

    /// Sets the level of a transaction that has not run a statement.
    ///
    /// # Errors
    /// `25001` if it has.
    pub fn set_isolation(&self, isolation: IsolationLevel) -> Result<(), SqlError> {
        let mut own = self.own.lock();
        if own.begun && own.isolation != isolation {
            let message = "SET TRANSACTION ISOLATION LEVEL must be called before any query";
            return Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
        }
        own.isolation = isolation;
        Ok(())
    }

    /// Its level.
    pub fn isolation(&self) -> IsolationLevel {
        self.own.lock().isolation
    }

    /// Whether it has run a statement.
    pub fn has_begun(&self) -> bool {
        self.own.lock().begun
    }

    /// It reads this moment of the past, and cannot write.
    ///
    /// # Errors
    /// `25001` if it has run a statement.
    pub fn set_as_of(&self, moment: Timestamp) -> Result<(), SqlError> {
        let mut own = self.own.lock();
        if own.begun && own.as_of != Some(moment) {
            let message = "AS OF SYSTEM TIME must be set before any query of the transaction";
            return Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
        }
        own.as_of = Some(moment);
        Ok(())
    }

    /// The moment of the past it reads, if it does.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.own.lock().as_of
    }

    /// A savepoint.
    pub fn mark(&self) -> TxnMark {
        let mut own = self.own.lock();
        let (locked, row_locks) = (own.locked.count(), self.locks.mark());
        TxnMark { buffer: own.buffer.mark(), locked, row_locks }
    }

    /// Takes back what was written and locked since a savepoint. What was read since stays read.
    pub fn back_to(&self, mark: &TxnMark) {
        let mut own = self.own.lock();
        own.buffer.back_to(&mark.buffer);
        own.locked.truncate(mark.locked);
        drop(own);
        self.release_since(mark);
    }

    /// Gives up the row locks got since a savepoint: what they were for is to be taken back.
    pub fn release_since(&self, mark: &TxnMark) {
        self.locks.back_to(mark.row_locks);
    }

    /// A statement was interrupted, perhaps while it waited for a row.
    pub fn cut_off(&self, error: SqlError) -> SqlError {
        match self.locks.cut_off() {
            Some(wait) if error.sqlstate == SqlState::QUERY_CANCELED => {
                errors::waited_for(&self.dist, error, &wait)
            }
            _ => error,
        }
    }

    /// It was committed by one command at the range of its anchor: that has ended the row locks
    /// there.
    pub async fn committed_in_one_range(&self, anchor: &Bytes) {
        self.locks.ended_at(anchor).await;
    }

    /// There is no savepoint any more.
    pub fn forget_marks(&self) {
        self.own.lock().buffer.forget_marks();
    }

    /// The way to the data.
    pub fn dist(&self) -> &Arc<Dist> {
        &self.dist
    }

    /// What it has cost so far.
    pub fn costs(&self) -> Costs {
        self.counters.costs()
    }

    /// Its id.
    pub fn id(&self) -> TxnId {
        self.id
    }

    /// The physical clock when it began: what `now()` answers.
    pub fn begun_at(&self) -> Timestamp {
        self.begun
    }

    /// Whether rows are locked for others to see that are not written.
    pub fn has_locked(&self) -> bool {
        self.own.lock().locked.count() > 0
    }

    /// Whether a commit has anything to do.
    pub fn has_writes(&self) -> bool {
        !self.own.lock().buffer.is_empty()
    }

    /// What the commit sends; `None` if nothing was written. (Rows that were only locked or read
    /// need no check then: a transaction that wrote nothing is its snapshot.)
    pub fn intent(&self) -> Option<Intent> {
        let own = self.own.lock();
        let anchor = own.buffer.anchor()?.clone();
        let mut checks = own.locked.checks();
        if own.isolation == IsolationLevel::Serializable {
            // Everything it read must be the same at its commit: it is as if it ran then.
            let times = self.snapshot.times.lock();
            checks.extend(times.checks());
        }
        let mut writes = own.buffer.to_writes();
        since_first_read(&mut writes, &mut checks);
        Some(Intent {
            id: self.id,
            anchor,
            writes,
            checks,
            start: None,
            lock_owner: self.locks.owner(),
            who: own.writer.as_ref().and_then(|statement| {
                let terms = &statement.terms;
                (!terms.statement.is_empty()).then(|| self.who(terms))
            }),
            times_off: self.times_off,
            counters: self.counters.clone(),
            hold: None,
        })
    }

    /// One page of raw rows or program output from storage, and when it was read. `Ok(None)` asks
    /// the caller to start the page again.
    async fn stored_page(
        &self,
        req: &ScanRequest,
        program: Bytes,
    ) -> Result<Option<(pb::ScanResponse, Span, Timestamp)>, SqlError> {
        self.snapshot.may_be_read().await?;
        let (read_ts, uncertain_upto) = self.timestamps();
        let sender = self.dist.sender();
        let route = if req.reverse {
            sender.route_before(&req.span.end).await
        } else {
            sender.route(&req.span.start).await
        };
        let route = route.map_err(|e| self.dist.read_error(e))?;
        let range = route.descriptor.unwrap_or_default();
        let clipped = clip(&req.span, &range);
        let scan = pb::ScanRequest {
            txn_id: self.id.to_bytes(),
            read_ts: read_ts.0,
            uncertain_upto: uncertain_upto.0,
            start: clipped.start.clone(),
            end: clipped.end.clone(),
            reverse: req.reverse,
            rows_max: req.rows_max.unwrap_or(0),
            bytes_max: PAGE_BYTES,
            program,
            ..pb::ScanRequest::default()
        };
        let key = if req.reverse { range.start.clone() } else { clipped.start.clone() };
        let request = Outgoing { key, body: range_request::Body::Scan(scan) };
        match self.read_round(vec![request]).await?.pop() {
            Some(Ok(range_response::Body::Scan(page))) => Ok(Some((page, clipped, read_ts))),
            Some(Ok(_)) | None => {
                Err(SqlError::internal("a scan was answered with something else"))
            }
            Some(Err(failure)) => {
                self.overcome(failure).await?;
                Ok(None)
            }
        }
    }

    /// Rule T3: a node's clock that was off may have given this transaction a time that had not
    /// come yet. What others have written since lies before it, and it has not seen it.
    ///
    /// # Errors
    /// `40001` if it was found to be off since the transaction began.
    pub(crate) fn check_clock(&self) -> Result<(), SqlError> {
        match self.dist.clock().times_off() == self.times_off {
            true => Ok(()),
            false => Err(errors::clock_was_off()),
        }
    }

    /// From now on versions of this moment are kept, if there are any.
    pub(super) fn hold_versions(&self, moment: Timestamp) {
        let mut own = self.own.lock();
        if own.reader.is_none() {
            own.reader = Some(self.dist.running.enter(moment));
        }
    }

    fn timestamps(&self) -> (Timestamp, Timestamp) {
        let times = self.snapshot.times.lock();
        (times.read_ts, times.uncertain_upto)
    }

    /// Deals with what stood in the way of a read, so that it can be tried again.
    async fn overcome(&self, failure: Failure) -> Result<(), SqlError> {
        match failure {
            Failure::Range(pb::RangeError { kind: Some(Kind::Uncertain(event)), .. }) => {
                let change = Change { key: event.key, writer: event.writer };
                self.move_past(Timestamp(event.event_ts), &change).await
            }
            Failure::Range(pb::RangeError { kind: Some(Kind::Locked(locked)), .. }) => {
                self.dist.clear_lock(&locked).await
            }
            failure if failure.curable() => {
                tracing::debug!(why = %failure, "a read is tried again");
                runtime::pause(Duration::from_millis(10)).await;
                Ok(())
            }
            failure => {
                if matches!(&failure, Failure::Range(e) if matches!(e.kind, Some(Kind::TooOld(_))))
                {
                    // They are gone: nobody is to keep what is left of them.
                    self.own.lock().reader = None;
                }
                Err(self.dist.read_error(failure))
            }
        }
    }

    pub(super) fn patience(&self, started: Duration, doing: &str) -> Result<(), SqlError> {
        if self.dist.clock().monotonic() - started < READ_PATIENCE {
            return Ok(());
        }
        let seconds = READ_PATIENCE.as_secs();
        Err(SqlError::new(
            SqlState::CANNOT_CONNECT_NOW,
            format!("no leader answered within {seconds} s while {doing}"),
        ))
    }

    /// Remembers what was read at `read_ts`; `false` if that is not the timestamp any more, and it
    /// must be read again.
    fn remember(&self, read_ts: Timestamp, add: impl FnOnce(&mut ReadSet)) -> bool {
        let mut times = self.snapshot.times.lock();
        let current = times.read_ts == read_ts;
        if current {
            add(&mut times.reads);
        }
        current
    }

    /// [`Self::stored_values`] of a key that such a read itself asks for.
    pub(super) fn stored_value(
        &self,
        key: Bytes,
    ) -> BoxFuture<'_, Result<Option<Bytes>, SqlError>> {
        Box::pin(async move { Ok(self.stored_values(&[key]).await?.pop().flatten()) })
    }

    /// Values of keys that are not in the buffer, all read at one timestamp and remembered.
    async fn stored_values(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, SqlError> {
        self.snapshot.may_be_read().await?;
        let started = self.dist.clock().monotonic();
        let mut values: Vec<Option<Option<Bytes>>> = vec![None; keys.len()];
        let mut changed = Vec::new();
        let mut read_at = Timestamp::ZERO;
        loop {
            let (read_ts, uncertain_upto) = self.timestamps();
            if read_at != read_ts {
                // What was read at an older timestamp is not shown unchanged: read it again.
                values.fill(None);
                changed.clear();
                read_at = read_ts;
            }
            let missing: Vec<usize> =
                values.iter().enumerate().filter(|(_, v)| v.is_none()).map(|(i, _)| i).collect();
            if missing.is_empty() {
                if self.remember(read_ts, |reads| reads.add_keys(keys.iter().cloned())) {
                    self.snapshot.times.lock().changed.extend(changed);
                    return Ok(values.into_iter().map(Option::flatten).collect());
                }
                continue;
            }
            let groups = self.dist.group_keys(keys, missing).await?;
            let request = |(first, members): &(Bytes, Vec<usize>)| Outgoing {
                key: first.clone(),
                body: range_request::Body::Read(pb::ReadRequest {
                    txn_id: self.id.to_bytes(),
                    read_ts: read_ts.0,
                    uncertain_upto: uncertain_upto.0,
                    keys: members.iter().map(|i| keys[*i].clone()).collect(),
                    ..pb::ReadRequest::default()
                }),
            };
            let answers = self.read_round(groups.iter().map(request).collect()).await?;
            for ((_, members), answer) in groups.into_iter().zip(answers) {
                match answer {
                    Ok(range_response::Body::Read(read)) if read.values.len() == members.len() => {
                        for (i, value) in members.into_iter().zip(read.values) {
                            if value.changed {
                                changed.push(keys[i].clone());
                            }
                            values[i] = Some(value.present.then_some(value.value));
                        }
                    }
                    Ok(_) => return Err(SqlError::internal("a read was answered wrongly")),
                    Err(failure) => self.overcome(failure).await?,
                }
            }
            self.patience(started, "reading")?;
        }
    }
}

#[async_trait]
impl KvTxn for Txn {
    async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, SqlError> {
        let mut own: Vec<Option<Option<Bytes>>> =
            self.written(|written| keys.iter().map(|key| written.get(key)).collect());
        let stored: Vec<Bytes> = keys
            .iter()
            .zip(&own)
            .filter(|(_, own)| own.is_none())
            .map(|(k, _)| k.clone())
            .collect();
        if !stored.is_empty() {
            let mut values = self.stored_values(&stored).await?.into_iter();
            for slot in own.iter_mut().filter(|slot| slot.is_none()) {
                *slot = Some(values.next().expect("one value for each key that was asked"));
            }
            self.counters.rows_read.fetch_add(stored.len() as u64, Ordering::Relaxed);
        }
        Ok(own.into_iter().map(Option::flatten).collect())
    }

    async fn scan(&self, req: ScanRequest) -> Result<ScanPage, SqlError> {
        if req.span.is_empty() {
            return Ok(ScanPage::default());
        }
        let own_rows = self.written(|written| written.touches(&req.span));
        let program = match &req.program {
            Some(program) if !own_rows => program.bytes().clone(),
            _ => Bytes::new(),
        };
        let started = self.dist.clock().monotonic();
        let (page, covered, resume) = loop {
            if let Some((page, clipped, read_ts)) = self.stored_page(&req, program.clone()).await? {
                let (covered, resume) = progress(&req, &clipped, &page);
                if self.remember(read_ts, |reads| reads.add_span(covered.clone())) {
                    break (page, covered, resume);
                }
            }
            self.patience(started, "scanning")?;
        };
        self.counters.rows_read.fetch_add(page.rows_read, Ordering::Relaxed);
        if !own_rows {
            let output = req.program.is_some().then_some(page.output);
            let rows = page.rows.into_iter().map(|row| (row.key, row.value)).collect();
            return Ok(ScanPage { rows, output, resume });
        }
        let rows = page.rows.into_iter().map(|row| (row.key, row.value)).collect();
        let rows = self.written(|written| written.overlay(rows, &covered, req.reverse));
        match &req.program {
            None => Ok(ScanPage { rows, output: None, resume }),
            Some(program) => {
                let (output, go_on) = self.dist.run_program(program, &rows)?;
                let resume = resume.filter(|_| go_on);
                Ok(ScanPage { rows: Vec::new(), output: Some(output), resume })
            }
        }
    }

    fn write(&self, op: WriteOp) -> Result<(), SqlError> {
        let mut own = self.own.lock();
        let read_at = {
            let times = self.snapshot.times.lock();
            if times.changed.contains(&op.key) {
                // The commit would say so too, later.
                return Err(errors::conflict(&self.dist, &op.key));
            }
            // What was not read cannot have changed since: only its absence is asked for.
            let unread = op.must_be_absent && !times.may_hold(&op.key);
            if unread { Timestamp::ZERO } else { times.read_ts }
        };
        if op.must_be_absent && own.buffer.written().get(&op.key).flatten().is_some() {
            return Err(errors::already_exists(&self.dist, &op.key));
        }
        own.buffer.add(op, read_at);
        if own.writer.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &self.current)) {
            own.writer = Some(self.current.clone());
        }
        check_size(own.buffer.bytes() + own.locked.bytes())
    }

    fn frozen(&self) -> Result<Arc<dyn KvTxn>, SqlError> {
        Ok(Arc::new(self.as_it_is()?))
    }

    async fn lock(&self, keys: Vec<Bytes>, how: RowLock) -> Result<BTreeSet<Bytes>, SqlError> {
        let read_at = self.read_ts();
        let keys: Vec<Bytes> = {
            let own = self.own.lock();
            // A row that it has inserted is nobody else's.
            keys.into_iter().filter(|key| !own.buffer.is_new(key)).collect()
        };
        let wanted = self.wanted(how, read_at);
        let clock = self.dist.clock();
        let since = clock.monotonic();
        let locked = self.locks.lock(&keys, &wanted).await;
        let waited = clock.monotonic().saturating_sub(since);
        add_micros(&self.counters.locking_us, waited);
        let locked = locked?;
        self.current.locked_rows.lock().extend(keys.iter().cloned());
        self.counters.rpc_rounds.fetch_add(locked.rounds, Ordering::Relaxed);
        if let Some(row) = &locked.changed {
            self.overtaken(locked.newest, row, waited).await?;
        }
        if !how.for_write {
            let mut own = self.own.lock();
            let kept = keys.into_iter().filter(|key| !locked.skipped.contains(key));
            kept.for_each(|key| own.locked.add(key, read_at));
            check_size(own.buffer.bytes() + own.locked.bytes())?;
        }
        Ok(locked.skipped)
    }

    fn locks_before_writing(&self) -> bool {
        self.own.lock().locking
    }

    fn read_ts(&self) -> Timestamp {
        self.snapshot.times.lock().read_ts
    }

    fn checks_at_commit(&self) -> bool {
        let own = self.own.lock();
        !own.in_block && own.buffer.is_empty()
    }

    fn stats(&self) -> KvStats {
        KvStats {
            rpc_rounds: self.counters.rpc_rounds.load(Ordering::Relaxed),
            rows_read: self.counters.rows_read.load(Ordering::Relaxed),
            ..KvStats::default()
        }
    }
}
