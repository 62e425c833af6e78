//! Reads and checks at the leader: raise `max_read_ts`, then look at the lock table (P1); the
//! caller takes its snapshot after that.

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::table::InTheWay;
use super::{LeaderState, WaitOn, Waiting, locked};
use crate::apply::{Floors, Span, StateView, ViewError, checks, id_of};

/// What is read.
#[derive(Debug, Clone, Copy)]
pub enum ReadSet<'a> {
    /// Single keys.
    Keys(&'a [Bytes]),
    /// A span.
    Span(&'a Span),
}

/// Whether a read may take its snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadStart {
    /// Yes, now.
    Clear,
    /// A write in flight may be visible to it: begin again when it is applied.
    Wait(Waiting),
    /// A lock whose verdict is needed, or not ready: the answer.
    Refuse(pb::RangeError),
}

impl LeaderState {
    /// Begins a read at `read_ts` that is uncertain up to `uncertain_upto` (inclusive, R2). Its
    /// own locks (`own`) are not in the way.
    pub fn begin_read(
        &mut self,
        what: ReadSet<'_>,
        read_ts: Timestamp,
        uncertain_upto: Timestamp,
        own: Option<TxnId>,
    ) -> ReadStart {
        if let Err(error) = self.check_serves() {
            return ReadStart::Refuse(error);
        }
        self.max_read_ts = self.max_read_ts.max(read_ts);
        let bound = read_ts.max(uncertain_upto);
        // Id 0 is nobody's.
        let own = own.unwrap_or_default();
        let found = match what {
            ReadSet::Keys(keys) => {
                keys.iter().find_map(|key| self.table.in_readers_way(key, bound, own))
            }
            ReadSet::Span(span) => self.table.in_scans_way(span, bound, own),
        };
        match found {
            None => ReadStart::Clear,
            Some(InTheWay::Flight(waiting)) => ReadStart::Wait(waiting),
            Some(InTheWay::Lock(key, txn, min)) => ReadStart::Refuse(locked(&key, &txn, min)),
        }
    }

    /// The check of P9 for a prepared transaction: raises `max_read_ts` to the chosen timestamp,
    /// then looks for foreign writes in flight (wait), foreign locks and events (refused).
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
                Some(waiting) if matches!(waiting.on, WaitOn::InFlight(_)) => {
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
            Ok(()) => Ok(ReadStart::Clear),
            Err(error) => Ok(ReadStart::Refuse(error)),
        }
    }
}
