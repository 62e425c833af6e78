//! What request tasks read of a replica without asking its worker: [`GroupShared`]; and the
//! node-wide counters, [`RaftMetrics`].

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_proto::{PeerId, RangeId};

use super::machine::LeaseState;

/// One replica as request tasks see it. Written by its worker only.
///
/// # Invariants
/// * `lease_end` is non-zero only while `serving`.
/// * The term never goes back.
#[derive(Debug)]
pub struct GroupShared {
    range: RangeId,
    peer: PeerId,
    lease: Mutex<LeaseState>,
    queued_bytes: AtomicU64,
}

impl GroupShared {
    pub(crate) fn new(range: RangeId, peer: PeerId) -> Self {
        Self {
            range,
            peer,
            lease: Mutex::new(LeaseState::default()),
            queued_bytes: AtomicU64::new(0),
        }
    }

    /// The range.
    pub fn range(&self) -> RangeId {
        self.range
    }

    /// The replica's own peer id.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Role, term and lease in one consistent copy.
    pub fn lease(&self) -> LeaseState {
        *self.lease.lock()
    }

    pub(crate) fn publish(&self, state: LeaseState) {
        assert!(
            state.serving || state.lease_end.is_zero(),
            "lease_end is non-zero only while serving"
        );
        let mut slot = self.lease.lock();
        assert!(slot.term <= state.term, "the term never goes back");
        *slot = state;
    }

    /// Counts a proposal on its way into the log; `false` if too much is waiting.
    pub(crate) fn reserve(&self, bytes: u64, bytes_max: u64) -> bool {
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before > bytes_max {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of a node since its start; read with `Ordering::Relaxed`.
        #[derive(Debug, Default)]
        pub struct RaftMetrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl RaftMetrics {
            /// Name and value of each.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Entries proposed here and appended: consensus rounds asked for.
    proposals,
    /// Proposals that did not enter the log.
    proposals_rejected,
    /// Passes of a worker that had something to do.
    passes,
    /// Ready groups, summed over the passes.
    ready_groups,
    /// Synced appends to the Raft log.
    log_syncs,
    /// Appends to the Raft log without a sync.
    log_writes_unsynced,
    /// Entries appended to the Raft log.
    log_entries,
    /// Entries applied.
    entries_applied,
    /// Batches written to the engine.
    engine_writes,
    /// Flushes of the engine asked for by the driver.
    engine_flushes,
    /// Messages sent.
    messages_sent,
    /// Frames sent.
    frames_sent,
    /// Messages received.
    messages_received,
    /// Messages that no replica wanted.
    messages_ignored,
    /// Elections started here.
    campaigns,
    /// Elections won here.
    elections_won,
    /// Terms lost here.
    terms_lost,
    /// Transfers that ended with this node out of the lead.
    transfers,
    /// Snapshots sent whole.
    snapshots_sent,
    /// Snapshots that failed on the way.
    snapshots_failed,
    /// Snapshots installed here.
    snapshots_installed,
    /// Groups that went quiet.
    groups_quieted,
    /// Groups woken from quiet.
    groups_woken,
    /// Log entries cut off below flushed data.
    entries_compacted,
}

impl RaftMetrics {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn inc(counter: &AtomicU64) {
        Self::add(counter, 1);
    }
}
