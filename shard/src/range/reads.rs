//! Reading at the leader: reads, scans, checks, look-ups and heartbeats. (Without its lease:
//! [`super::closed`].)
//!
//! # The order of a read (rules L1, P1, R1, R4)
//! 1. The lease.
//! 2. Under the range's mutex: route, `max_read_ts`, lock table, safe point.
//! 3. One snapshot of the engine, the rows.
//! 4. Route, safe point and lease again.
//!
//! Without step 4 a process that slept in step 3 answers from the past, a split in between reads
//! keys that left, and garbage collection may have taken what was to be read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{Timestamp, TxnId, pb};
use quorate_txn::apply::{Span, StateView, ViewError};
use quorate_txn::keys::{self, Pretty};
use quorate_txn::leader::{DecidedLock, LeaderState, ReadSet, ReadStart, Window, uncertain};
use quorate_txn::mistakes::Mistake;
use quorate_txn::state::TxnMeta;
use tokio::time::Instant;

use super::config::{PROGRAM_BYTES_MAX, PROGRAM_ROWS_MAX, SCAN_BYTES_DEFAULT, SCAN_BYTES_MAX};
use super::errors::{self, Outcome};
use super::metrics::RangeMetrics;
use super::replica::{Core, Replica, floors_of, span_of};
use super::requests::{Attempt, now};
use crate::engine::KeySpan;
use crate::mvcc::{self, Blocked, EngineView, Locks, Read, ReadAt, ScanEnd, ScanLimits};

pub(super) type Tried = Result<Attempt, pb::RangeError>;
/// `Ok(Err(attempt))`: a read cannot begin yet.
pub(super) type Begins = Result<Result<Begun, Attempt>, pb::RangeError>;

/// What lets a read answer.
pub(super) enum Leave {
    /// The lease of this term.
    Lease { term: u64 },
    /// A closed moment ([`super::closed`]), and the rows that are there.
    Closed { rows: u64 },
}

/// What a read found out before its snapshot.
pub(super) struct Begun {
    pub leave: Leave,
    pub window: Window,
    /// Rule P10.
    pub decided: Vec<DecidedLock>,
}

/// Who reads, and a closed moment if the leader's lease is not asked for.
struct By {
    own: Option<TxnId>,
    closed: Option<pb::Closed>,
}

fn owner(id: &[u8]) -> Result<Option<TxnId>, pb::RangeError> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = TxnId::from_bytes(id);
    id.map(Some).ok_or_else(|| errors::invalid("a transaction id has 16 bytes"))
}

impl Replica {
    /// The leader's memory, for requests of transactions.
    pub(crate) fn leader<'a>(
        &self,
        core: &'a mut Core,
        term: u64,
    ) -> Result<&'a mut LeaderState, pb::RangeError> {
        if core.is_meta() {
            return Err(errors::invalid("the meta range holds no rows of transactions"));
        }
        match core.leader.as_mut() {
            Some(leader) if leader.term() == term => Ok(leader),
            Some(_) | None => Err(errors::no_lease(self.range)),
        }
    }

    /// The engine's state cannot be read: the node must stop.
    pub(crate) fn broken(&self, error: &ViewError) -> pb::RangeError {
        self.node.events.failed(None, &error.to_string());
        errors::unavailable(format!("{}: {error}", self.range))
    }

    /// A timestamp above this node's clock would stop writers for as long as it is ahead.
    fn check_read_ts(&self, read_ts: Timestamp) -> Result<(), pb::RangeError> {
        let clock = &self.node.clock;
        let limit = clock.physical().bound_after(clock.max_offset());
        if read_ts <= limit.max(clock.last()) {
            return Ok(());
        }
        let ahead = read_ts.to_duration().saturating_sub(clock.physical().to_duration());
        let offset_us = i64::try_from(ahead.as_micros()).unwrap_or(i64::MAX);
        let kind = Kind::ClockSkew(pb::ClockSkew { offset_us });
        Err(pb::RangeError::new(kind, format!("the timestamp {read_ts} is in the future")))
    }

    /// Steps 1 and 2.
    fn begin(&self, epoch: Option<pb::Epoch>, what: ReadSet<'_>, asked: Window, by: &By) -> Begins {
        self.check_read_ts(asked.read_ts)?;
        if let Some(closed) = by.closed {
            return self.begin_closed(epoch, what, asked, closed);
        }
        let term = self.lead()?;
        let mut core = self.core.lock();
        if let Some(wait) = self.enter(&core, epoch, what)? {
            return Ok(Err(wait));
        }
        let leader = self.leader(&mut core, term)?;
        let decided = match leader.begin_read(what, asked, by.own) {
            ReadStart::Clear(decided) => decided,
            ReadStart::Wait(waiting) => return Ok(Err(Attempt::Wait(waiting))),
            ReadStart::Refuse(error) => return Err(error),
        };
        let window = leader.window(asked);
        self.check_safe_point(window.read_ts)?;
        RangeMetrics::add(&self.node.metrics.seen_through, decided.len() as u64);
        Ok(Ok(Begun { leave: Leave::Lease { term }, window, decided }))
    }

    /// What was heard of another node's clock says nothing here (rule R3): an address may have been
    /// wrong.
    fn observed_here(&self, observed: u64, node: u64) -> u64 {
        let here = node == self.node.id().0 || Mistake::ObservedElsewhere.is_made();
        if here { observed } else { 0 }
    }

    /// Rule R4.
    pub(super) fn check_safe_point(&self, read_ts: Timestamp) -> Result<(), pb::RangeError> {
        let safe_point = self.safe_point();
        match mvcc::below_safe_point(read_ts, safe_point) {
            true if Mistake::SafePointUnheeded.is_made() => Ok(()),
            true => Err(errors::too_old(read_ts, safe_point)),
            false => Ok(()),
        }
    }

    /// To be asked after the snapshot was taken: the watermark is then not older than it (R5).
    fn at(&self, begun: &Begun) -> ReadAt {
        ReadAt {
            window: begun.window,
            locks: match begun.leave {
                Leave::Lease { .. } => Locks::Asked(begun.decided.clone()),
                Leave::Closed { .. } => Locks::InSnapshot(None),
            },
            delete_watermark: match Mistake::WatermarkUnheeded.is_made() {
                true => Timestamp::ZERO,
                false => self.delete_watermark(),
            },
        }
    }

    /// The route, and whether the keys are about to leave (rule L5).
    pub(crate) fn enter(
        &self,
        core: &Core,
        epoch: Option<pb::Epoch>,
        what: ReadSet<'_>,
    ) -> Result<Option<Attempt>, pb::RangeError> {
        let leaving = match what {
            ReadSet::Keys(asked) => {
                let ends: Vec<Bytes> = asked.iter().map(|key| keys::next_key(key)).collect();
                let spans = asked.iter().zip(&ends).map(|(key, end)| (&key[..], &end[..]));
                self.check_route(core, epoch, spans)?;
                asked.iter().any(|key| core.leaving(key))
            }
            ReadSet::Span(span) => {
                let asked = std::iter::once((&span.start[..], &span.end[..]));
                self.check_route(core, epoch, asked)?;
                core.leaving_below(&span.end)
            }
        };
        let error = || errors::unavailable(format!("{} is being split", self.range));
        Ok(leaving.then(|| Attempt::Changed(error())))
    }

    /// Step 4. What was read is thrown away if it fails.
    fn end(
        &self,
        begun: &Begun,
        epoch: Option<pb::Epoch>,
        what: ReadSet<'_>,
    ) -> Result<Option<Attempt>, pb::RangeError> {
        {
            let core = self.core.lock();
            if let Some(wait) = self.enter(&core, epoch, what)? {
                return Ok(Some(wait));
            }
        }
        self.check_safe_point(begun.window.read_ts)?;
        self.still_may(begun)?;
        Ok(None)
    }

    fn still_may(&self, begun: &Begun) -> Result<(), pb::RangeError> {
        match begun.leave {
            Leave::Lease { term } => self.still_leads(term),
            Leave::Closed { rows } => self.still_has(rows),
        }
    }

    fn blocked(&self, key: &Bytes, why: Blocked) -> pb::RangeError {
        match why {
            Blocked::Locked(lock) => pb::RangeError::new(
                Kind::Locked(pb::Locked {
                    key: key.clone(),
                    txn: Some(lock.txn.to_pb()),
                    min_commit_ts: lock.min_commit_ts.0,
                }),
                format!("key {} is locked by transaction {}", Pretty(key), lock.txn.id),
            ),
            Blocked::Uncertain { event_ts, .. } => {
                let core = self.core.lock();
                let leader = core.leader.as_ref();
                let writer = leader.and_then(|leader| leader.writer_of(key, event_ts)).cloned();
                uncertain(key, event_ts, writer)
            }
        }
    }

    pub(crate) fn read(&self, epoch: Option<pb::Epoch>, request: &pb::ReadRequest) -> Tried {
        let what = ReadSet::Keys(&request.keys);
        let by = By { own: owner(&request.txn_id)?, closed: request.closed };
        let observed = self.observed_here(request.observed, request.observed_node);
        let asked = Window::asked(request.read_ts, request.uncertain_upto, observed);
        let begun = match self.begin(epoch, what, asked, &by)? {
            Ok(begun) => begun,
            Err(wait) => return Ok(wait),
        };
        let mut values = Vec::with_capacity(request.keys.len());
        let snapshot = self.node.engine.snapshot();
        let at = self.at(&begun);
        for key in &request.keys {
            match mvcc::get(&*snapshot, key, &at).map_err(|e| self.broken(&e))? {
                Read::Value(value) => values.push(read_value(value, false)),
                Read::Older(value) => values.push(read_value(value, true)),
                Read::Blocked(why) => {
                    self.still_may(&begun)?;
                    return Err(self.blocked(key, why));
                }
            }
        }
        drop(snapshot);
        if let Some(wait) = self.end(&begun, epoch, what)? {
            return Ok(wait);
        }
        Ok(Attempt::Done(Answer::Read(pb::ReadResponse { values })))
    }

    pub(crate) fn scan(&self, epoch: Option<pb::Epoch>, request: &pb::ScanRequest) -> Tried {
        let end = match request.end.is_empty() {
            true => self.core.lock().descriptor().end,
            false => request.end.clone(),
        };
        let span = Span { start: request.start.clone(), end };
        let what = ReadSet::Span(&span);
        let by = By { own: owner(&request.txn_id)?, closed: request.closed };
        let observed = self.observed_here(request.observed, request.observed_node);
        let asked = Window::asked(request.read_ts, request.uncertain_upto, observed);
        let begun = match self.begin(epoch, what, asked, &by)? {
            Ok(begun) => begun,
            Err(wait) => return Ok(wait),
        };
        let page = self.page(request, &span, &begun)?;
        if let Some(wait) = self.end(&begun, epoch, what)? {
            return Ok(wait);
        }
        RangeMetrics::add(&self.node.metrics.scan_rows, page.rows_read);
        Ok(Attempt::Done(Answer::Scan(page)))
    }

    fn page(
        &self,
        request: &pb::ScanRequest,
        span: &Span,
        begun: &Begun,
    ) -> Result<pb::ScanResponse, pb::RangeError> {
        let mut page = pb::ScanResponse::default();
        let mut failed = None;
        let mut run = match request.program.is_empty() {
            true => None,
            false => Some(self.node.programs.start(&request.program).map_err(errors::invalid)?),
        };
        let snapshot = self.node.engine.snapshot();
        let scan = mvcc::ScanRequest {
            span: KeySpan::new(span.start.clone(), span.end.clone()),
            reverse: request.reverse,
            at: self.at(begun),
            limits: limits(request),
        };
        let ended = mvcc::scan(&*snapshot, &scan, &mut |key, value| {
            page.rows_read += 1;
            let Some(run) = &mut run else {
                page.rows.push(pb::KeyValue {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                });
                return true;
            };
            match run.row(key, value) {
                Ok(go_on) => go_on,
                Err(why) => {
                    failed = Some(why);
                    false
                }
            }
        })
        .map_err(|e| self.broken(&e))?;
        drop(snapshot);
        if let Some(why) = failed {
            return Err(errors::invalid(why));
        }
        let rest = match ended {
            ScanEnd::Done => None,
            ScanEnd::More(rest) => Some(rest),
            // Rows before the one in the way are right: they are worth an answer.
            ScanEnd::Blocked { rest, .. } if page.rows_read > 0 => Some(rest),
            ScanEnd::Blocked { key, why, .. } => {
                self.still_may(begun)?;
                return Err(self.blocked(&key, why));
            }
        };
        if let Some(run) = &mut run {
            page.output = run.output().map_err(errors::invalid)?;
        }
        page.done = rest.is_none();
        page.resume = match (rest, request.reverse) {
            (None, _) => Bytes::new(),
            (Some(rest), false) => rest.start,
            (Some(rest), true) => rest.end,
        };
        Ok(page)
    }

    /// Rule P9.
    pub(crate) fn check(&self, epoch: Option<pb::Epoch>, request: &pb::CheckRequest) -> Tried {
        self.check_read_ts(Timestamp(request.upto))?;
        let term = self.lead()?;
        let spans: Vec<Span> = request.checks.iter().map(Span::of_check).collect();
        {
            let mut core = self.core.lock();
            for span in &spans {
                if let Some(wait) = self.enter(&core, epoch, ReadSet::Span(span))? {
                    return Ok(wait);
                }
            }
            let floors = floors_of(&core.state);
            let bounds = span_of(&core.descriptor());
            let leader = self.leader(&mut core, term)?;
            let snapshot = self.node.engine.snapshot();
            let view = EngineView::new(&*snapshot, bounds);
            match leader.check(request, &floors, &view).map_err(|e| self.broken(&e))? {
                ReadStart::Clear(_) => {}
                ReadStart::Wait(waiting) => return Ok(Attempt::Wait(waiting)),
                ReadStart::Refuse(error) => return Err(error),
            }
        }
        self.still_leads(term)?;
        Ok(Attempt::Done(Answer::Check(pb::CheckResponse {})))
    }

    /// Rule P11: answers when decided, expired, or after the time asked for.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        epoch: Option<pb::Epoch>,
        request: &pb::LookupRequest,
        deadline: Instant,
    ) -> Outcome {
        let Some(txn) = request.txn.as_ref().and_then(TxnMeta::from_pb) else {
            return Err(errors::invalid("it names no transaction"));
        };
        let wait = Duration::from_millis(u64::from(request.wait_ms));
        let until = deadline.min(now() + wait);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (answer, expires_in) = self.look(epoch, &txn)?;
            let decided = matches!(
                answer.status.as_ref().and_then(|status| status.state.as_ref()),
                Some(pb::txn_status::State::Verdict(_))
            );
            if decided || answer.expired || now() >= until {
                return Ok(Answer::Lookup(answer));
            }
            let wake = until.min(now() + expires_in);
            // Either way the look-up is answered anew.
            let _ = tokio::time::timeout_at(wake, changed).await;
        }
    }

    fn look(
        &self,
        epoch: Option<pb::Epoch>,
        txn: &TxnMeta,
    ) -> Result<(pb::LookupResponse, Duration), pb::RangeError> {
        let term = self.lead()?;
        let clock = &self.node.clock;
        let found = {
            let mut core = self.core.lock();
            let end = keys::next_key(&txn.anchor);
            self.check_route(&core, epoch, std::iter::once((&txn.anchor[..], &end[..])))?;
            if core.leaving(&txn.anchor) {
                return Err(errors::unavailable(format!("{} is being split", self.range)));
            }
            let bounds = span_of(&core.descriptor());
            let leader = self.leader(&mut core, term)?;
            let snapshot = self.node.engine.snapshot();
            let view = EngineView::new(&*snapshot, bounds);
            let record = view.record(&txn.anchor, txn.id).map_err(|e| self.broken(&e))?;
            let now = clock.monotonic();
            let answer = leader.lookup(txn, record.as_ref(), now)?;
            (answer, leader.expires_at(txn.id).saturating_sub(now))
        };
        self.still_leads(term)?;
        Ok(found)
    }

    /// Rule P10. It comes late where it fails: whoever meets the lock asks the anchor.
    pub(crate) fn hint(&self, epoch: Option<pb::Epoch>, request: &pb::HintRequest) -> Outcome {
        let term = self.lead()?;
        let mut core = self.core.lock();
        if let Some(wait) = self.enter(&core, epoch, ReadSet::Keys(&request.keys))? {
            return match wait {
                Attempt::Changed(error) => Err(error),
                _ => Err(errors::no_lease(self.range)),
            };
        }
        self.leader(&mut core, term)?.hint(request)?;
        RangeMetrics::inc(&self.node.metrics.hints);
        Ok(Answer::Hint(pb::HintResponse {}))
    }

    pub(crate) fn heartbeat(
        &self,
        epoch: Option<pb::Epoch>,
        request: &pb::HeartbeatRequest,
    ) -> Outcome {
        let Some(id) = TxnId::from_bytes(&request.txn_id) else {
            return Err(errors::invalid("a transaction id has 16 bytes"));
        };
        let term = self.lead()?;
        let mut core = self.core.lock();
        let end = keys::next_key(&request.anchor);
        self.check_route(&core, epoch, std::iter::once((&request.anchor[..], &end[..])))?;
        self.leader(&mut core, term)?.heartbeat(id, self.node.clock.monotonic())?;
        Ok(Answer::Heartbeat(pb::HeartbeatResponse {}))
    }
}

fn read_value(value: Option<Bytes>, changed: bool) -> pb::ReadValue {
    let (present, value) = (value.is_some(), value.unwrap_or_default());
    pb::ReadValue { present, value, commit_ts: 0, changed }
}

fn limits(request: &pb::ScanRequest) -> ScanLimits {
    let bytes = match request.bytes_max {
        0 => SCAN_BYTES_DEFAULT,
        bytes => bytes.min(SCAN_BYTES_MAX),
    };
    if request.program.is_empty() {
        return ScanLimits { rows: request.rows_max, bytes };
    }
    let rows = match request.rows_max {
        0 => PROGRAM_ROWS_MAX,
        rows => rows.min(PROGRAM_ROWS_MAX),
    };
    ScanLimits { rows, bytes: PROGRAM_BYTES_MAX }
}
