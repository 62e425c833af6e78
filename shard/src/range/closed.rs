//! Moments of the past that a leader has closed, and reads of them at any replica (rule R6).
//!
//! # Why a replica without a lease may answer
//! A leader closes `ts` at index `i` while it holds its lease: it has raised `max_read_ts` to `ts`,
//! no write in flight has a timestamp at or below it, and everything that ever had one is applied
//! there, up to `i`. Whatever comes after `i` in the log is a version above `ts`, or the end of a
//! lock that is in the entries up to `i`; the next leader begins above (L2, L3), and a split hands
//! `max_read_ts` on (L5). So a replica that has applied `i` has every version up to `ts` or its
//! lock, and what it has applied beyond changes nothing at `ts`. A lock in the reader's way is not
//! settled here: the leader answers that read. (No range ever grows. One that took in another one's
//! keys would have to void what it has closed before.)
//!
//! # The order of a read
//! 1. The rows are there, the keys are this range's, `i` is applied, the safe point (R4).
//! 2. One snapshot of the engine, the rows, and locks from the same snapshot (R1).
//! 3. Step 1 again: the rows may have left, by a snapshot that replaces them or with the replica.

use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{Timestamp, pb};
use quorate_txn::config::CLOSED_LAG;
use quorate_txn::leader::{ReadSet, Window};
use quorate_txn::mistakes::Mistake;

use super::errors;
use super::metrics::RangeMetrics;
use super::reads::{Begins, Begun, Leave, Tried};
use super::replica::Replica;
use super::requests::Attempt;

impl Replica {
    /// Closes a moment, or a later one of this leader's choice, for the whole range.
    pub(super) fn close_timestamp(
        &self,
        epoch: Option<pb::Epoch>,
        request: &pb::CloseTimestampRequest,
    ) -> Tried {
        let now = self.node.clock.now();
        let asked = Timestamp(request.ts);
        if asked > now {
            return Err(errors::invalid("a moment that has not come yet cannot be closed"));
        }
        let ts = asked.max(now.bound_before(CLOSED_LAG));
        let term = self.lead()?;
        let (ts, index) = {
            let mut core = self.core.lock();
            self.check_route(&core, epoch, std::iter::empty())?;
            if core.splitting.is_some() {
                return Ok(Attempt::Changed(errors::unavailable("the range is being split")));
            }
            let index = core.state.applied_index;
            let leader = self.leader(&mut core, term)?;
            if leader.close_at(ts)? {
                (ts, index)
            } else if leader.close_at(asked)? {
                (asked, index)
            } else {
                return Ok(Attempt::Changed(errors::unavailable("a write is in flight")));
            }
        };
        self.still_leads(term)?;
        RangeMetrics::inc(&self.node.metrics.timestamps_closed);
        let closed = Some(pb::Closed { ts: ts.0, index });
        Ok(Attempt::Done(Answer::CloseTimestamp(pb::CloseTimestampResponse { closed })))
    }

    /// Step 1.
    pub(super) fn begin_closed(
        &self,
        epoch: Option<pb::Epoch>,
        what: ReadSet<'_>,
        asked: Window,
        closed: pb::Closed,
    ) -> Begins {
        if asked.read_ts > Timestamp(closed.ts) || asked.upto > asked.read_ts {
            return Err(errors::invalid(
                "only a moment that was closed can be read without a lease",
            ));
        }
        let rows = self.rows()?;
        let core = self.core.lock();
        if core.is_meta() {
            return Err(errors::invalid("the meta range holds no rows of transactions"));
        }
        if let Some(wait) = self.enter(&core, epoch, what)? {
            return Ok(Err(wait));
        }
        if core.state.applied_index < closed.index && !Mistake::FollowerAhead.is_made() {
            let applied = core.state.applied_index;
            let message = format!("this replica has applied {applied}, not {} yet", closed.index);
            return Ok(Err(Attempt::Changed(errors::unavailable(message))));
        }
        drop(core);
        self.check_safe_point(asked.read_ts)?;
        RangeMetrics::inc(&self.node.metrics.closed_reads);
        Ok(Ok(Begun { leave: Leave::Closed { rows }, window: asked, decided: Vec::new() }))
    }

    /// Whether the rows that were there before the snapshot were there when it was taken.
    pub(super) fn still_has(&self, rows: u64) -> Result<(), pb::RangeError> {
        match self.rows()? == rows {
            true => Ok(()),
            false => Err(errors::unavailable("the replica's rows were replaced meanwhile")),
        }
    }
}
