//! The snapshot a transaction reads, or under READ COMMITTED one of its statements: when, what may
//! have been before it, and what was read of it so far.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_planner::error::SqlError;
use quorate_proto::{NodeId, Timestamp, pb};
use quorate_txn::clock::NodeClock;

use super::observed::Observed;
use super::reads::ReadSet;
use crate::catalog::ReadRight;

/// A snapshot.
///
/// # Invariants
/// * Everything in `earlier` and `reads` was read at `read_ts`, or shown unchanged up to it: a read
///   that comes back after the timestamp has moved is thrown away, and what came back while earlier
///   reads were checked is checked too.
/// * `observed` holds clocks heard since the snapshot was taken (rule R3).
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub times: Mutex<Times>,
    /// What was heard of the clocks of nodes.
    pub observed: Observed,
    /// The moment of the past it is.
    pub past: Option<Past>,
    /// The right to read it by a catalog; none is needed for what is no table.
    right: Option<Arc<ReadRight>>,
    /// That right stood when something was first read.
    stood: AtomicBool,
}

/// A moment of the past: it never moves.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// When.
    pub moment: Timestamp,
    /// The clock when it was begun to be read: what could be read then can be read on.
    pub begun: Timestamp,
}

/// When a snapshot is read.
#[derive(Debug)]
pub struct Times {
    /// Events up to and including it are seen.
    pub read_ts: Timestamp,
    /// Events above it up to and including this may have been before the snapshot (rule R2).
    pub uncertain_upto: Timestamp,
    /// What statements before the current one have read.
    pub earlier: ReadSet,
    /// What the current statement has read.
    pub reads: ReadSet,
    /// Keys found to have been changed after `read_ts`: they cannot be written any more.
    pub changed: BTreeSet<Bytes>,
}

impl Times {
    /// What was read by the current statement is of an earlier one now.
    pub fn next_statement(&mut self) {
        self.earlier.absorb(std::mem::take(&mut self.reads));
    }

    /// How many reads were added: another number means that something is new.
    pub fn count(&self) -> u64 {
        self.earlier.count() + self.reads.count()
    }

    /// Whether the key was read, or lies between keys that were.
    pub fn may_hold(&self, key: &Bytes) -> bool {
        self.reads.may_hold(key) || self.earlier.may_hold(key)
    }

    /// The checks that show everything unchanged since it was read.
    pub fn checks(&self) -> Vec<pb::ReadCheck> {
        let mut checks = self.earlier.checks(self.read_ts);
        checks.extend(self.reads.checks(self.read_ts));
        checks
    }
}

impl Snapshot {
    /// The snapshot of a moment that is over: nothing is uncertain about it.
    pub fn of_the_past(moment: Timestamp, clock: &NodeClock) -> Self {
        Self {
            times: Mutex::new(Times {
                read_ts: moment,
                uncertain_upto: moment,
                earlier: ReadSet::default(),
                reads: ReadSet::default(),
                changed: BTreeSet::new(),
            }),
            observed: Observed::default(),
            past: Some(Past { moment, begun: clock.last() }),
            right: None,
            stood: AtomicBool::new(false),
        }
    }

    /// The same snapshot, read by a catalog.
    #[must_use]
    pub fn read_by(self, right: Option<Arc<ReadRight>>) -> Self {
        // Of the past, each table knows by itself since when its storage is its own.
        let right = right.filter(|_| self.past.is_none());
        Self { right, ..self }
    }

    /// Makes sure, before anything is read, that no schema change was acknowledged before the
    /// snapshot was taken that its catalog does not have.
    ///
    /// # Errors
    /// `40001` when there may be one, and why that cannot be told.
    pub async fn may_be_read(&self) -> Result<(), SqlError> {
        if !self.stood.load(Ordering::Relaxed) {
            self.right_stands().await?;
            self.stood.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The same for a later moment that it shall move to.
    ///
    /// # Errors
    /// As there.
    pub async fn right_stands(&self) -> Result<(), SqlError> {
        match &self.right {
            Some(right) => right.stands().await,
            None => Ok(()),
        }
    }

    /// Everything that may have been committed before it was begun lies below `upto`: if that is
    /// seen, nothing is uncertain.
    pub fn has_seen(&self, upto: Timestamp) {
        let mut times = self.times.lock();
        if times.read_ts >= upto {
            times.uncertain_upto = times.read_ts;
        }
    }

    /// The snapshot of now, by the clock of node `own` if it has one.
    pub fn now(clock: &NodeClock, own: Option<NodeId>) -> Self {
        let read_ts = clock.now();
        let uncertain_upto = read_ts.bound_after(clock.max_offset());
        Self {
            times: Mutex::new(Times {
                read_ts,
                uncertain_upto,
                earlier: ReadSet::default(),
                reads: ReadSet::default(),
                changed: BTreeSet::new(),
            }),
            observed: Observed::since(own, read_ts),
            past: None,
            right: None,
            stood: AtomicBool::new(false),
        }
    }
}
