//! [`scan`]: the rows of a span at a timestamp, upwards or downwards, row by row.
//!
//! Cursors walk in the same direction: over `latest`; over those keys of `history` that have an
//! event after the read timestamp, only if the last-delete watermark says that there may be keys
//! which are in `history` alone; over the locks that block this reader; and over those it sees
//! through. The least (downwards: greatest) key of them is next.

use std::cmp::Ordering;

use bytes::Bytes;
use quorate_proto::Timestamp;
use quorate_txn::apply::ViewError;
use quorate_txn::keys;
use quorate_txn::state::{Lock, cf_bound, decode_history_key, history_key};

use super::read::{first_interval_after, judge, value_of};
use super::version::read_version;
use super::{Blocked, Locks, Read, ReadAt, damaged, engine_failed};
use crate::engine::{Cf, EngineIter, EngineSnapshot, KeySpan};

/// So many old intervals of one key are stepped over before seeking; few in tests, so that the
/// random ones seek too.
const STEPS_BEFORE_SEEK: usize = if cfg!(test) { 2 } else { 8 };

/// When a scan pauses, having given at least one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanLimits {
    /// After so many rows; 0: no limit.
    pub rows: u64,
    /// When keys and values of the rows have reached so many bytes; 0: no limit.
    pub bytes: u64,
}

/// What to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// The keys.
    pub span: KeySpan,
    /// From the greatest key down.
    pub reverse: bool,
    /// As of when, for whom.
    pub at: ReadAt,
    /// When to pause.
    pub limits: ScanLimits,
}

/// How a scan ended. The rows given are right in each case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEnd {
    /// All rows were given.
    Done,
    /// A limit was reached or the receiver had enough; this is left.
    More(KeySpan),
    /// The row at `key` cannot be said yet.
    Blocked {
        /// Where.
        key: Bytes,
        /// Why.
        why: Blocked,
        /// What is left, `key` included.
        rest: KeySpan,
    },
}

/// Gives each row to `row`, in order, until it answers `false`.
///
/// # Errors
/// [`ViewError`]: stop the node.
pub fn scan(
    view: &dyn EngineSnapshot,
    request: &ScanRequest,
    row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<ScanEnd, ViewError> {
    Scanner::new(view, request)?.run(row)
}

struct Scanner<'a> {
    view: &'a dyn EngineSnapshot,
    request: &'a ScanRequest,
    latest: Box<dyn EngineIter + 'a>,
    history: Option<HistoryKeys<'a>>,
    lock: Option<(Bytes, Box<Lock>)>,
    /// Rows that are still locks (rule P10), the next one last.
    decided: Vec<(Bytes, Option<Bytes>)>,
    given: ScanLimits,
}

/// What the next key asks for.
enum Next {
    Row,
    Ended(Bytes),
    Locked(Bytes, Box<Lock>),
    /// A lock that is a row, whatever else there is under its key.
    Decided,
    Nothing,
}

/// What became of a key.
enum Step {
    Go,
    Stop(ScanEnd),
}

impl<'a> Scanner<'a> {
    fn new(view: &'a dyn EngineSnapshot, request: &'a ScanRequest) -> Result<Self, ViewError> {
        let (span, at) = (&request.span, &request.at);
        let mut latest = view.iter(Cf::Latest, &span.start, &span.end);
        start(&mut *latest, request.reverse);
        let history = (at.read_ts() < at.delete_watermark)
            .then(|| HistoryKeys::new(view, request))
            .transpose()?;
        let lock = match at.locks {
            Locks::InSnapshot(_) => first_blocking_lock(view, request)?,
            Locks::Asked(_) => None,
        };
        let decided = decided_rows(view, request)?;
        Ok(Self { view, request, latest, history, lock, decided, given: ScanLimits::default() })
    }

    fn run(mut self, row: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<ScanEnd, ViewError> {
        loop {
            let step = match self.next() {
                Next::Nothing => {
                    self.latest.status().map_err(engine_failed)?;
                    return Ok(ScanEnd::Done);
                }
                Next::Locked(key, lock) => Step::Stop(ScanEnd::Blocked {
                    rest: self.rest_from(&key),
                    why: Blocked::Locked(lock),
                    key,
                }),
                Next::Decided => self.decided_row(row)?,
                Next::Row => self.current_row(row)?,
                Next::Ended(key) => {
                    if let Some(history) = &mut self.history {
                        history.advance()?;
                    }
                    self.old_row(&key, None, row)?
                }
            };
            if let Step::Stop(end) = step {
                return Ok(end);
            }
        }
    }

    /// Which cursor has the next key. A lock comes before a row of its key.
    fn next(&self) -> Next {
        let latest = self.latest.item().map(|(key, _)| key);
        let ended = self.history.as_ref().and_then(|h| h.key.as_ref());
        let row = match (latest, ended) {
            (None, None) => None,
            (Some(key), None) => Some((key, Next::Row)),
            (None, Some(old)) => Some((&old[..], Next::Ended(old.clone()))),
            (Some(key), Some(old)) => match self.order(key, old) {
                Ordering::Less | Ordering::Equal => Some((key, Next::Row)),
                Ordering::Greater => Some((&old[..], Next::Ended(old.clone()))),
            },
        };
        match (&self.lock, row) {
            (Some((key, lock)), Some((row_key, _))) if self.order(key, row_key).is_le() => {
                Next::Locked(key.clone(), lock.clone())
            }
            (Some((key, lock)), None) => Next::Locked(key.clone(), lock.clone()),
            (_, Some((row_key, next))) => match self.decided.last() {
                Some((key, _)) if self.order(key, row_key).is_le() => Next::Decided,
                _ => next,
            },
            (None, None) if self.decided.is_empty() => Next::Nothing,
            (None, None) => Next::Decided,
        }
    }

    /// By which of two keys the scan comes first.
    fn order(&self, a: &[u8], b: &[u8]) -> Ordering {
        if self.request.reverse { b.cmp(a) } else { a.cmp(b) }
    }

    /// The row that a lock is; moves on, also past what it replaces.
    fn decided_row(
        &mut self,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Step, ViewError> {
        let (key, value) = self.decided.pop().expect("`next` has seen it");
        if self.latest.item().is_some_and(|(latest, _)| latest == key) {
            self.move_latest();
        }
        if let Some(history) = &mut self.history
            && history.key.as_ref() == Some(&key)
        {
            history.advance()?;
        }
        Ok(match value {
            Some(value) => self.give(&key, &value, row),
            None => Step::Go,
        })
    }

    /// The row `latest` stands on; moves on.
    fn current_row(
        &mut self,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Step, ViewError> {
        let (key, bytes) = self.latest.item().expect("`next` has seen it");
        if let Some(history) = &mut self.history
            && history.key.as_deref() == Some(key)
        {
            history.advance()?;
        }
        let given = &mut self.given;
        let read_ts = self.request.at.read_ts();
        let (later, go_on) = read_version(bytes, |version| {
            if version.commit_ts > read_ts {
                return (Some((version.commit_ts, version.local_ts)), true);
            }
            given.rows += 1;
            given.bytes += (key.len() + version.value.len()) as u64;
            (None, row(key, version.value))
        })?;
        if later.is_some() {
            let key = Bytes::copy_from_slice(key);
            self.move_latest();
            return self.old_row(&key, later, row);
        }
        if go_on && !self.limit_reached() {
            self.move_latest();
            return Ok(Step::Go);
        }
        let key = Bytes::copy_from_slice(key);
        Ok(Step::Stop(self.pause_after(&key)))
    }

    /// A row that is not the current one, or none.
    fn old_row(
        &mut self,
        key: &Bytes,
        current: Option<(Timestamp, Timestamp)>,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Step, ViewError> {
        let at = &self.request.at;
        let first = first_interval_after(self.view, key, at.read_ts())?;
        match judge(at, first, current) {
            Read::Value(None) | Read::Older(None) => Ok(Step::Go),
            Read::Value(Some(value)) | Read::Older(Some(value)) => Ok(self.give(key, &value, row)),
            Read::Blocked(why) => Ok(Step::Stop(ScanEnd::Blocked {
                key: key.clone(),
                why,
                rest: self.rest_from(key),
            })),
        }
    }

    fn give(
        &mut self,
        key: &Bytes,
        value: &[u8],
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Step {
        self.given.rows += 1;
        self.given.bytes += (key.len() + value.len()) as u64;
        if row(key, value) && !self.limit_reached() {
            return Step::Go;
        }
        Step::Stop(self.pause_after(key))
    }

    fn move_latest(&mut self) {
        if self.request.reverse {
            self.latest.prev();
        } else {
            self.latest.next();
        }
    }

    fn limit_reached(&self) -> bool {
        let limits = &self.request.limits;
        (limits.rows > 0 && self.given.rows >= limits.rows)
            || (limits.bytes > 0 && self.given.bytes >= limits.bytes)
    }

    /// What is left, `key` included.
    fn rest_from(&self, key: &Bytes) -> KeySpan {
        let span = &self.request.span;
        if self.request.reverse {
            KeySpan::new(span.start.clone(), keys::next_key(key))
        } else {
            KeySpan::new(key.clone(), span.end.clone())
        }
    }

    /// What is left after `key`. An empty rest must not turn into an unbounded one.
    fn pause_after(&self, key: &Bytes) -> ScanEnd {
        let span = &self.request.span;
        if self.request.reverse {
            if key.is_empty() || *key == span.start {
                return ScanEnd::Done;
            }
            return ScanEnd::More(KeySpan::new(span.start.clone(), key.clone()));
        }
        let next = keys::next_key(key);
        if next == span.end {
            return ScanEnd::Done;
        }
        ScanEnd::More(KeySpan::new(next, span.end.clone()))
    }
}

fn start(iter: &mut dyn EngineIter, reverse: bool) {
    if reverse {
        iter.seek_last();
    } else {
        iter.seek_first();
    }
}

/// The user keys of `history` that have an interval which ends after the read timestamp.
struct HistoryKeys<'a> {
    iter: Box<dyn EngineIter + 'a>,
    reverse: bool,
    read_ts: Timestamp,
    key: Option<Bytes>,
}

impl<'a> HistoryKeys<'a> {
    fn new(view: &'a dyn EngineSnapshot, request: &ScanRequest) -> Result<Self, ViewError> {
        let span = &request.span;
        let mut iter = view.iter(Cf::History, &cf_bound(&span.start), &cf_bound(&span.end));
        start(&mut *iter, request.reverse);
        let mut keys =
            Self { iter, reverse: request.reverse, read_ts: request.at.read_ts(), key: None };
        keys.find()?;
        Ok(keys)
    }

    /// To the next key after the present one.
    fn advance(&mut self) -> Result<(), ViewError> {
        if let Some(key) = self.key.take() {
            self.leave(&key)?;
        }
        self.find()
    }

    /// Past all intervals of a key.
    fn leave(&mut self, key: &Bytes) -> Result<(), ViewError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            match self.item()? {
                Some((at, _)) if at == *key => self.step(),
                _ => return Ok(()),
            }
        }
        if self.reverse {
            self.iter.seek_before(&history_key(key, Timestamp::ZERO));
        } else {
            self.iter.seek(&cf_bound(&keys::next_key(key)));
        }
        Ok(())
    }

    /// From here to a key with an interval that ends after the read timestamp.
    fn find(&mut self) -> Result<(), ViewError> {
        let mut steps = 0;
        while let Some((key, end)) = self.item()? {
            if end > self.read_ts {
                self.key = Some(key);
                return Ok(());
            }
            steps += 1;
            if self.reverse {
                // The greatest end comes first: the key has none.
                self.leave(&key)?;
            } else if steps % STEPS_BEFORE_SEEK == 0 {
                self.iter.seek(&history_key(&key, self.read_ts.next()));
            } else {
                self.step();
            }
        }
        Ok(())
    }

    fn step(&mut self) {
        if self.reverse {
            self.iter.prev();
        } else {
            self.iter.next();
        }
    }

    fn item(&self) -> Result<Option<(Bytes, Timestamp)>, ViewError> {
        match self.iter.item() {
            Some((key, _)) => decode_history_key(key).map(Some).map_err(damaged("history")),
            None => self.iter.status().map(|()| None).map_err(engine_failed),
        }
    }
}

/// The rows that are still locks, in reverse of the scan's direction.
fn decided_rows(
    view: &dyn EngineSnapshot,
    request: &ScanRequest,
) -> Result<Vec<(Bytes, Option<Bytes>)>, ViewError> {
    let Locks::Asked(decided) = &request.at.locks else { return Ok(Vec::new()) };
    let mut rows = Vec::with_capacity(decided.len());
    for decided in decided {
        if let Some(value) = value_of(view, decided)? {
            rows.push((decided.key.clone(), value));
        }
    }
    if !request.reverse {
        rows.reverse();
    }
    Ok(rows)
}

/// The first lock that blocks the reader: where it stands the scan ends.
fn first_blocking_lock(
    view: &dyn EngineSnapshot,
    request: &ScanRequest,
) -> Result<Option<(Bytes, Box<Lock>)>, ViewError> {
    let span = &request.span;
    let mut iter = view.iter(Cf::Locks, &span.start, &span.end);
    start(&mut *iter, request.reverse);
    while let Some((key, bytes)) = iter.item() {
        let lock = Lock::decode(bytes).map_err(damaged("locks"))?;
        if request.at.blocked_by(&lock) {
            return Ok(Some((Bytes::copy_from_slice(key), Box::new(lock))));
        }
        if request.reverse {
            iter.prev();
        } else {
            iter.next();
        }
    }
    iter.status().map_err(engine_failed)?;
    Ok(None)
}
