//! Reads and checks at the leader: raise `max_read_ts`, then look at the lock table (P1); the
//! caller takes its snapshot after that.

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::decided::DecidedLock;
use super::table::InTheWay;
use super::{LeaderState, Waiting, locked, uncertain};
use crate::apply::{Floors, Span, StateView, ViewError, checks, id_of};
use crate::mistakes::Mistake;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub enum ReadSet<'a> {
    /// Single keys.
    Keys(&'a [Bytes]),
    /// A span.
    Span(&'a Span),
}

/// When a reader reads, and which events after that may have been before it in real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Events up to and including it are seen.
    pub read_ts: Timestamp,
    /// Events above `read_ts` up to and including it are uncertain (rule R2). Not below `read_ts`.
    pub upto: Timestamp,
    /// A reading of the leader's clock from after the reader began: what happened here at a later
    /// reading was not before it (rule R3).
    pub observed: Timestamp,
}

impl Window {
    /// Of a reader for whom nothing is uncertain.
    pub fn exactly(read_ts: Timestamp) -> Self {
        Self { read_ts, upto: read_ts, observed: Timestamp::MAX }
    }

    /// As a request tells it; `observed` 0: nothing was.
    pub fn asked(read_ts: u64, upto: u64, observed: u64) -> Self {
        let (read_ts, upto) = (Timestamp(read_ts), Timestamp(upto));
        Self { read_ts, upto, observed: Timestamp(observed) }
    }

    /// Whether an event may have been before the reader; `local` is what its leader's clock was.
    pub fn is_uncertain(&self, event: Timestamp, local: Timestamp) -> bool {
        self.read_ts < event && event <= self.upto && local <= self.observed
    }

    /// Whether a commit at `ts` or later may have to be seen.
    pub fn concerns(&self, ts: Timestamp, local: Timestamp) -> bool {
        ts <= self.read_ts || self.is_uncertain(ts, local)
    }
}

/// Whether a read may take its snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadStart {
    /// Yes, now; and it sees through these locks, which are in the order it asked.
    Clear(Vec<DecidedLock>),
    /// A write in flight may be visible to it: begin again when it is applied.
    Wait(Waiting),
    /// A lock whose verdict is needed, or not ready: the answer.
    Refuse(pb::RangeError),
}

impl LeaderState {
    /// The window of a reader here. Its observation counts only if it is from after this leader
    /// began: before, another clock told the times of events (R3).
    pub fn window(&self, asked: Window) -> Window {
        let upto = asked.upto.max(asked.read_ts);
        let counts = !asked.observed.is_zero()
            && (asked.observed >= self.others_upto || Mistake::ObservedTooEarly.is_made());
        let observed = if counts { asked.observed } else { Timestamp::MAX };
        Window { upto, observed, ..asked }
    }

    /// Begins a read in its [`LeaderState::window`]. Its own locks (`own`) are not in the way.
    pub fn begin_read(
        &mut self,
        what: ReadSet<'_>,
        asked: Window,
        own: Option<TxnId>,
    ) -> ReadStart {
        if let Err(error) = self.check_serves() {
            return ReadStart::Refuse(error);
        }
        let window = self.window(asked);
        self.max_read_ts = self.max_read_ts.max(window.read_ts);
        // Id 0 is nobody's.
        let own = own.unwrap_or_default();
        let (mut through, table) = (Vec::new(), &self.table);
        let found = match what {
            ReadSet::Keys(keys) => {
                keys.iter().find_map(|key| table.in_readers_way(key, &window, own, &mut through))
            }
            ReadSet::Span(span) => table.in_scans_way(span, &window, own, &mut through),
        };
        match found {
            None => ReadStart::Clear(through),
            Some(InTheWay::Flight(waiting)) => ReadStart::Wait(waiting),
            Some(InTheWay::Lock(key, txn, min)) => ReadStart::Refuse(locked(&key, &txn, min)),
            Some(InTheWay::Uncertain(key, event)) => {
                let writer = self.writer_of(&key, event).cloned();
                ReadStart::Refuse(uncertain(&key, event, writer))
            }
        }
    }

    /// Closes the range at a moment of the past (rule R6): `false` while a write with a timestamp
    /// at or below it is in flight. Once it is `true`, every such version or its lock is applied
    /// here, and nothing that is proposed later has such a timestamp.
    ///
    /// # Errors
    /// It serves nothing.
    pub fn close_at(&mut self, ts: Timestamp) -> Result<bool, pb::RangeError> {
        self.check_serves()?;
        if Mistake::ClosedTooEarly.is_made() {
            return Ok(true);
        }
        self.max_read_ts = self.max_read_ts.max(ts);
        Ok(self.table.least_in_flight().is_none_or(|least| least > ts))
    }

    /// The check of P9 for a prepared transaction: raises `max_read_ts` to the chosen timestamp,
    /// then looks for foreign writes in flight or on their way from a lock (wait), for other
    /// foreign locks and events (refused).
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn check(
        &mut self,
        request: &pb::CheckRequest,
        floors: &Floors,
        view: &dyn StateView,
    ) -> Result<ReadStart, ViewError> {
        let own = match self.check_serves().and_then(|()| id_of(&request.txn_id)) {
            Ok(own) => own,
            Err(error) => return Ok(ReadStart::Refuse(error)),
        };
        let upto = Timestamp(request.upto);
        self.max_read_ts = self.max_read_ts.max(upto);
        for check in &request.checks {
            match self.table.in_checkers_way(&Span::of_check(check), own) {
                Some(waiting) if waiting.ends_by_itself() => {
                    return Ok(ReadStart::Wait(waiting));
                }
                Some(waiting) => return Ok(ReadStart::Refuse(waiting.give_up())),
                None => {}
            }
        }
        if let Some(error) = checks::below_safe_point(std::iter::empty(), &request.checks, floors) {
            return Ok(ReadStart::Refuse(error));
        }
        match checks::test_reads(own, &request.checks, upto, view)? {
            Ok(()) => Ok(ReadStart::Clear(Vec::new())),
            Err(error) => Ok(ReadStart::Refuse(self.named(error))),
        }
    }
}
