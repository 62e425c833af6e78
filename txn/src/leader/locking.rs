//! Locking rows at the leader: one after the other, each when those before in its queue are done,
//! then what was committed meanwhile is looked for.
//!
//! # Invariants
//! * A row is looked at only while its lock is held and nothing else is in flight on it: what is
//!   reported unchanged stays so for as long as the lock does.
//! * Only who asked with `BLOCK` waits for row locks, or for a replicated lock to go.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::rows::{Asked, Mode};
use super::{LeaderState, Waiting, busy};
use crate::apply::{StateView, ViewError, invalid};

/// Who is told to those who must wait, of many.
const BLOCKERS_TOLD: usize = 4;

/// How far a request has come.
#[derive(Debug, Default)]
pub struct Progress {
    next: usize,
    skipped: BTreeSet<Bytes>,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Locking {
    /// All rows are locked, but those it skipped.
    Done(pb::LockResponse),
    /// Others hold this row, or queue before: go on when the owner is woken, or answer Busy.
    Queued {
        /// The row.
        key: Bytes,
        /// Who.
        blockers: Vec<pb::LockOwner>,
    },
    /// A write is being replicated or resolved: go on when anything was applied.
    Wait(Waiting),
    /// The answer.
    Refuse(pb::RangeError),
}

impl LeaderState {
    /// Goes on locking the rows of a request. Whoever got row locks of the dead is added to
    /// `woken`.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn lock(
        &mut self,
        request: &pb::LockRequest,
        progress: &mut Progress,
        view: &dyn StateView,
        now: Duration,
        woken: &mut Vec<TxnId>,
    ) -> Result<Locking, ViewError> {
        if let Err(error) = self.check_serves() {
            return Ok(Locking::Refuse(error));
        }
        let who = request.owner.as_ref();
        let Some((id, who)) = who.and_then(|who| Some((TxnId::from_bytes(&who.id)?, who))) else {
            return Ok(Locking::Refuse(invalid("a lock has an owner")));
        };
        let (mode, wait) = (Mode::from_pb(request.mode()), request.wait());
        let block = wait == pb::LockWait::Block;
        while let Some(key) = request.keys.get(progress.next) {
            // Somebody may commit it just now; only who may wait waits for that.
            let committing = !block && self.table.in_writers_way(key, TxnId::default()).is_some();
            let mut blockers = Vec::new();
            let taken = committing || {
                let owner = (id, who, request.sequence);
                match self.rows.ask(key, owner, mode, block, now, woken) {
                    Asked::Held => false,
                    Asked::Busy(ids) => {
                        let told = ids.iter().take(BLOCKERS_TOLD);
                        blockers = told.filter_map(|id| self.rows.who(*id)).cloned().collect();
                        true
                    }
                }
            };
            match (taken, wait) {
                (false, _) => {}
                (true, pb::LockWait::Block) => {
                    return Ok(Locking::Queued { key: key.clone(), blockers });
                }
                (true, pb::LockWait::Nowait) => {
                    return Ok(Locking::Refuse(busy(key, std::mem::take(&mut blockers))));
                }
                (true, pb::LockWait::SkipLocked) => {
                    progress.skipped.insert(key.clone());
                }
            }
            progress.next += 1;
        }
        self.look_at_locked(request, progress, view)
    }

    /// Everything is locked: what changed since it was read?
    fn look_at_locked(
        &self,
        request: &pb::LockRequest,
        progress: &mut Progress,
        view: &dyn StateView,
    ) -> Result<Locking, ViewError> {
        let mut done = pb::LockResponse::default();
        let mut newest = Timestamp::ZERO;
        for key in request.keys.iter().filter(|key| !progress.skipped.contains(*key)) {
            match self.table.in_writers_way(key, TxnId::default()) {
                None => {}
                Some(waiting) if waiting.ends_by_itself() => {
                    return Ok(Locking::Wait(waiting));
                }
                Some(waiting) => return Ok(Locking::Refuse(waiting.give_up())),
            }
            let event = match view.latest(key)? {
                Some(version) => Some(version.commit_ts),
                None => view.newest_end(key)?,
            };
            if let Some(event) = event.filter(|event| event.0 > request.read_at) {
                newest = newest.max(event);
                if done.changed.is_empty() {
                    done.writer = self.writer_of(key, event).cloned();
                }
                done.changed.push(key.clone());
            }
        }
        done.newest = newest.0;
        done.skipped = std::mem::take(&mut progress.skipped).into_iter().collect();
        Ok(Locking::Done(done))
    }
}
