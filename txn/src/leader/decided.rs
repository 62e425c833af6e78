//! What the leader does with a hint (rule P10): the coordinator knows its transaction committed
//! before the verdict is replicated, and tells the leaders of its keys. Readers see through such a
//! lock at once; whoever writes waits for the resolve, which is on its way.
//!
//! # Invariants
//! * *A hint tells the verdict.* Only a coordinator gives one, after every key was answered with
//!   its lock under a staging record and before anybody can have begun a recovery (P11): from then
//!   on recovery can only commit, at the same timestamp (P2, P3), whether or not coordinator, hint
//!   or leader survive.
//! * *A hint says nothing of a lock with a later minimum*: that is a late copy of a write that was
//!   resolved before, and perhaps overwritten.
//! * *A hint changes nothing that is replicated*: the key stays locked until its resolve is
//!   applied, which comes after the anchor has the verdict (P4), so nothing is proposed on top.

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId, pb};

use super::LeaderState;
use crate::apply::id_of;

/// Most locks that one read sees through; at the next one the reader asks the anchor. A coordinator
/// gives no hint of more in one range.
pub(crate) const SEEN_THROUGH_MAX: usize = 256;

/// A lock that does not stop a reader: its transaction committed at or below the read timestamp.
/// Where it stands in the reader's snapshot, its value is the row; where it does not, it was
/// resolved in between, and the row is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedLock {
    /// Its key.
    pub key: Bytes,
    /// Its transaction.
    pub txn: TxnId,
}

impl LeaderState {
    /// The locks of a transaction at these keys are known to be committed.
    ///
    /// # Errors
    /// Not ready, or not a transaction's id.
    pub fn hint(&mut self, request: &pb::HintRequest) -> Result<(), pb::RangeError> {
        self.check_serves()?;
        let id = id_of(&request.txn_id)?;
        for key in &request.keys {
            self.table.decide(key, id, Timestamp(request.commit_ts));
        }
        Ok(())
    }
}
