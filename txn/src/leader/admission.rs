//! Prepare and one-range commit at the leader: from the request to the command that is proposed.
//!
//! 1. The keys enter the lock table, all or none; what is in the way is waited for or refused
//!    (P1, P13). A row lock in the way is never waited for here, where nobody can be told of it:
//!    who is refused comes again and asks for locks of its own.
//! 2. The state is looked at in the order apply keeps: what stands under the id, floors, events.
//!    An answer that apply could only repeat is given at once; absence is vouched for (R5).
//! 3. The clock is read; the timestamp must be above `max_read_ts` and the keys' events.
//! 4. What was read and not written is checked up to it, after `max_read_ts` was raised (P9).

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::rows::Mode;
use super::{LeaderState, Ticket, WaitOn, Waiting, busy};
use crate::apply::checks::{self, Standing};
use crate::apply::{Floors, Span, StateView, ViewError, invalid, meta_of};
use crate::config::MAX_CLOCK_OFFSET;
use crate::mistakes::Mistake;
use crate::state::TxnMeta;

/// What becomes of a prepare or one-range commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// Propose this. The keys are in the table until [`LeaderState::applied`] or
    /// [`LeaderState::release`] gets the ticket.
    Propose {
        /// Its place in the table.
        ticket: Ticket,
        /// The command.
        body: pb::command::Body,
    },
    /// Known without a proposal: check the lease and answer.
    Answer(pb::range_response::Body),
    /// Holds nothing; admit it again when this is gone, or answer [`Waiting::give_up`].
    Wait(Waiting),
    /// Holds nothing; admit it again when the clock reads above this (L3).
    ClockBehind {
        /// Exclusive.
        above: Timestamp,
    },
}

/// Both kinds of request, as admission sees them.
struct Candidate<'a> {
    txn: TxnMeta,
    writes: &'a [pb::Write],
    checks: &'a [pb::ReadCheck],
    lock_owner: Option<TxnId>,
    who: Option<&'a pb::LockOwner>,
    /// It is a prepare: there are others.
    prepares: bool,
}

/// What the state let pass.
struct Passed {
    writes: Vec<pb::LoggedWrite>,
    newest: Timestamp,
}

fn error(error: pb::RangeError) -> Admission {
    Admission::Answer(pb::range_response::Body::Error(error))
}

fn candidate<'a>(
    meta: Option<&pb::TxnMeta>,
    writes: &'a [pb::Write],
    checks: &'a [pb::ReadCheck],
    (lock_owner, who): (&[u8], Option<&'a pb::LockOwner>),
    prepares: bool,
) -> Result<Candidate<'a>, pb::RangeError> {
    let txn = meta_of(meta)?;
    if writes.is_empty() {
        return Err(invalid("a transaction that commits writes something"));
    }
    let mut keys: Vec<&Bytes> = writes.iter().map(|w| &w.key).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(invalid("a key is written once in a transaction"));
    }
    let lock_owner = TxnId::from_bytes(lock_owner);
    Ok(Candidate { txn, writes, checks, lock_owner, who, prepares })
}

impl LeaderState {
    /// Admits a prepare. `clock` reads the node's hybrid clock; `now` is monotonic.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn admit_prepare(
        &mut self,
        request: &pb::PrepareRequest,
        floors: &Floors,
        view: &dyn StateView,
        clock: &mut dyn FnMut() -> Timestamp,
        now: Duration,
    ) -> Result<Admission, ViewError> {
        let txn = request.txn.as_ref();
        let owner = (&request.lock_owner[..], request.who.as_ref());
        let candidate = match candidate(txn, &request.writes, &[], owner, true) {
            Ok(candidate) => candidate,
            Err(why) => return Ok(error(why)),
        };
        if request.record != i32::from(pb::RecordKind::NoRecord) && self.serves() {
            self.hearing.heard(candidate.txn.id, now);
        }
        self.admit(
            &candidate,
            floors,
            view,
            clock,
            &|verdict| {
                pb::range_response::Body::Prepare(pb::PrepareResponse {
                    outcome: Some(pb::prepare_response::Outcome::Verdict(verdict)),
                })
            },
            &|passed, ts| {
                pb::command::Body::Prepare(pb::PrepareCommand {
                    txn: request.txn.clone(),
                    writes: passed.writes,
                    record: request.record,
                    keys: request.keys.clone(),
                    min_commit_ts: ts.0,
                    local_ts: ts.0,
                })
            },
        )
    }

    /// Admits a one-range commit.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn admit_commit(
        &mut self,
        request: &pb::CommitRequest,
        floors: &Floors,
        view: &dyn StateView,
        clock: &mut dyn FnMut() -> Timestamp,
    ) -> Result<Admission, ViewError> {
        let txn = request.txn.as_ref();
        let owner = (&request.lock_owner[..], request.who.as_ref());
        let candidate = match candidate(txn, &request.writes, &request.checks, owner, false) {
            Ok(candidate) => candidate,
            Err(why) => return Ok(error(why)),
        };
        self.admit(
            &candidate,
            floors,
            view,
            clock,
            &|verdict| {
                pb::range_response::Body::Commit(pb::CommitResponse { verdict: Some(verdict) })
            },
            &|passed, ts| {
                pb::command::Body::Commit(pb::CommitCommand {
                    txn: request.txn.clone(),
                    writes: passed.writes,
                    checks: request.checks.clone(),
                    commit_ts: ts.0,
                    local_ts: ts.0,
                })
            },
        )
    }

    fn admit(
        &mut self,
        candidate: &Candidate<'_>,
        floors: &Floors,
        view: &dyn StateView,
        clock: &mut dyn FnMut() -> Timestamp,
        decided: &dyn Fn(pb::Verdict) -> pb::range_response::Body,
        command: &dyn Fn(Passed, Timestamp) -> pb::command::Body,
    ) -> Result<Admission, ViewError> {
        if let Err(why) = self.check_serves() {
            return Ok(error(why));
        }
        let keys = candidate.writes.iter().map(|w| &w.key);
        // Before waiting: a retry whose verdict is known waits for nobody.
        match checks::standing(&candidate.txn, keys.clone(), view)? {
            Standing::Decided(_) if !candidate.prepares && Mistake::VerdictOverlooked.is_made() => {
            }
            Standing::Decided(verdict) => return Ok(Admission::Answer(decided(verdict.to_pb()))),
            Standing::Refused(key) => return Ok(error(checks::refused(&key))),
            Standing::None | Standing::Undecided(_) => {}
        }
        if let Some(waiting) = self.in_the_way(candidate) {
            return Ok(wait_or_refuse(candidate, waiting));
        }
        if let Some(busy) = self.row_in_the_way(candidate) {
            return Ok(error(busy));
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let keys = keys.cloned().collect();
        // The row locks of a transaction end with its one-range commit.
        let row_locks_end = candidate.lock_owner.filter(|_| !candidate.prepares);
        self.table.take(ticket, candidate.txn.id, keys, row_locks_end);
        let admission = self.propose(ticket, candidate, floors, view, clock, command);
        if !matches!(admission, Ok(Admission::Propose { .. })) {
            self.release(ticket);
        }
        admission
    }

    fn in_the_way(&self, candidate: &Candidate<'_>) -> Option<Waiting> {
        let own = candidate.txn.id;
        candidate
            .writes
            .iter()
            .find_map(|write| self.table.in_writers_way(&write.key, own))
            .or_else(|| {
                candidate
                    .checks
                    .iter()
                    .find_map(|check| self.table.in_checkers_way(&Span::of_check(check), own))
            })
    }

    /// A row lock against a write, unless the write was prepared before: it is not taken back. (A
    /// new row has no lock; if there is one already, that is what is said.)
    fn row_in_the_way(&self, candidate: &Candidate<'_>) -> Option<pb::RangeError> {
        candidate.writes.iter().filter(|write| !write.must_be_absent).find_map(|write| {
            let mode = Mode::of_write(write);
            let other = self.rows.against_write(&write.key, candidate.lock_owner, mode)?;
            if self.table.held(&write.key).is_some() {
                return None;
            }
            Some(busy(&write.key, vec![self.rows.who(other)?.clone()]))
        })
    }

    /// The keys are in the table: no write of anybody else can be applied to them any more.
    fn propose(
        &mut self,
        ticket: Ticket,
        candidate: &Candidate<'_>,
        floors: &Floors,
        view: &dyn StateView,
        clock: &mut dyn FnMut() -> Timestamp,
        command: &dyn Fn(Passed, Timestamp) -> pb::command::Body,
    ) -> Result<Admission, ViewError> {
        let passed = match self.look(candidate, floors, view)? {
            Ok(passed) => passed,
            Err(why) => return Ok(error(self.named(why))),
        };
        let above = self.max_read_ts.max(passed.newest);
        let mut ts = clock();
        if Mistake::TimestampInvented.is_made() {
            ts = ts.bound_after(2 * MAX_CLOCK_OFFSET);
        }
        if ts <= above {
            return Ok(Admission::ClockBehind { above });
        }
        self.table.choose(ticket, ts);
        if !candidate.checks.is_empty() {
            self.max_read_ts = self.max_read_ts.max(ts);
            let id = candidate.txn.id;
            if let Err(why) = checks::test_reads(id, candidate.checks, ts, view)? {
                return Ok(error(self.named(why)));
            }
        }
        let owner = || candidate.lock_owner.and_then(|owner| self.rows.who(owner));
        let who = candidate.who.or_else(owner);
        self.recent.note(who, candidate.writes.iter().map(|write| &write.key), ts);
        Ok(Admission::Propose { ticket, body: command(passed, ts) })
    }

    /// What apply would ask, asked before; keys that hold the transaction's own lock are not
    /// asked again (P2).
    fn look(
        &self,
        candidate: &Candidate<'_>,
        floors: &Floors,
        view: &dyn StateView,
    ) -> Result<Result<Passed, pb::RangeError>, ViewError> {
        let mut passed = Passed {
            writes: candidate.writes.iter().map(logged).collect(),
            newest: Timestamp::ZERO,
        };
        let own = |key: &[u8]| {
            let held = self.table.held(key);
            held.is_some_and(|(txn, _)| txn.id == candidate.txn.id)
        };
        let new = || passed.writes.iter().filter(|w| !own(&w.key));
        if new().next().is_some()
            && let Some(error) = checks::below_txn_floor(&candidate.txn, floors)
                .or_else(|| checks::below_safe_point(new(), candidate.checks, floors))
        {
            return Ok(Err(error));
        }
        for write in &mut passed.writes {
            if own(&write.key) {
                continue;
            }
            match checks::test_write(write, view)? {
                Err(error) => return Ok(Err(error)),
                Ok(found) => {
                    write.known_absent = found.latest.is_none() && found.newest.is_zero();
                    passed.newest = passed.newest.max(found.newest);
                }
            }
        }
        Ok(Ok(passed))
    }
}

/// P13: only the older of two waits for the lock of the other. A write in flight and the lock of a
/// decided transaction end by themselves and are waited for by everybody.
fn wait_or_refuse(candidate: &Candidate<'_>, waiting: Waiting) -> Admission {
    match &waiting.on {
        WaitOn::Lock(holder, _)
            if holder.age() < candidate.txn.age() && !Mistake::CommittersWait.is_made() =>
        {
            error(waiting.give_up())
        }
        WaitOn::Lock(..) | WaitOn::Resolve(..) | WaitOn::InFlight(_) => Admission::Wait(waiting),
    }
}

fn logged(write: &pb::Write) -> pb::LoggedWrite {
    pb::LoggedWrite {
        key: write.key.clone(),
        delete: write.delete,
        value: write.value.clone(),
        read_at: write.read_at,
        known_absent: false,
        must_be_absent: write.must_be_absent,
    }
}
