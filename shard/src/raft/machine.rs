//! The border between replication and the range layer: what a range's state machine is told,
//! when, and on which thread; and what it may ask of the driver.
//!
//! # Threads
//! A node runs a few workers. Each range belongs to exactly one of them (by its id), and *every*
//! method of a range's [`RangeMachine`] is called by that worker, one call at a time, never
//! concurrently with another call for the same range. A method must not wait for anything but
//! the engine: while it runs, no range of that worker makes progress. Request tasks meet the
//! machine through whatever they share with it (their own mutex) and through
//! [`RaftHandle`](super::RaftHandle).
//!
//! # One pass of a worker, as a machine sees it
//! 1. `proposed` / `rejected` for each proposal taken from the queue, in the order of
//!    `RaftHandle::propose`. All entries of all ranges of the pass are appended with one sync.
//! 2. `apply` for each committed entry in log order. The batch is shared with other ranges; what
//!    `apply` puts there is *not* yet readable from the engine. If an entry must read what
//!    earlier entries of this range put into the unwritten batch, `needs_written` says so and the
//!    driver writes the batch first.
//! 3. The driver stores the range's `RangeState` (as `apply` left it, with the new applied index
//!    and configuration) in the same batch and writes it to the engine: atomically.
//! 4. `committed_visible`: the engine now shows everything applied so far. Answer waiters and
//!    release the lock table's keys here, not in `apply` (rule P1).
//! 5. `role_changed` events come between passes, never between `apply` and `committed_visible`.
//!
//! # Replay
//! After a restart entries above the durable applied index are applied again, to the state of
//! exactly that index. `apply` must depend on the entry, the `RangeState` and the range's rows
//! alone; never on the role, the clock or memory that a restart loses.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{NodeId, PeerId, RangeId, Timestamp, pb};

use super::shared::GroupShared;
use crate::engine::Batch;

/// A committed entry that was proposed through the handle. The empty entry that opens a term and
/// membership changes are the driver's own and never reach the machine.
#[derive(Debug, Clone, Copy)]
pub struct LogEntry<'a> {
    /// Its place in the log.
    pub index: u64,
    /// The term in which it was proposed: what `Command.term` must equal (rule L4).
    pub term: u64,
    /// What was given to `propose`.
    pub data: &'a [u8],
}

/// The state machine of one replica of one range.
pub trait RangeMachine: Send {
    /// Applies one committed entry: deterministic, the same on every replica and at replay.
    ///
    /// Puts data changes into `batch`; changes `state` (bounds, version, floors, watermark,
    /// bytes) in place. `applied_index`, `applied_term`, `conf_state`, the replicas and
    /// `epoch.conf` are the driver's: leave them alone.
    ///
    /// An entry that does not decode, or an unknown command, is [`Effect::Fatal`].
    fn apply(
        &mut self,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Vec<Effect>;

    /// Whether this entry reads something that entries of this range since the last
    /// `committed_visible` may have put into the unwritten batch. Asked only if there are such
    /// entries. `true` is always right and costs one more engine write.
    fn needs_written(&mut self, entry: LogEntry<'_>) -> bool {
        let _ = entry;
        true
    }

    /// Everything up to and including `applied` is readable from the engine. Called after each
    /// engine write that contained entries of this range (also the early ones that
    /// `needs_written` asked for), with the state that was written.
    fn committed_visible(&mut self, applied: u64, state: &pb::RangeState);

    /// The proposal with this token is in the log at `index` of `term`. It will be applied with
    /// exactly these two, or never. Always called before `apply` sees that index.
    fn proposed(&mut self, token: u64, index: u64, term: u64);

    /// The proposal with this token never entered the log: it certainly did not and will not
    /// happen.
    fn rejected(&mut self, token: u64, why: ProposeError);

    /// Leadership changed; see [`RoleEvent`].
    fn role_changed(&mut self, event: RoleEvent, state: &pb::RangeState);

    /// A membership change was applied: replicas and `epoch.conf` differ. Written already.
    fn replicas_changed(&mut self, state: &pb::RangeState);

    /// Some of the range's rows are about to be deleted, for good or to be replaced by those of a
    /// snapshot: nobody may read them without a lease until [`RangeMachine::snapshot_installed`]
    /// or the next [`RangeMachine::committed_visible`].
    fn rows_leave(&mut self);

    /// The range's rows and state were replaced by a snapshot and are durable. Entries up to
    /// `state.applied_index` will not be applied any more: whoever waits for one of them is told
    /// *unknown*. The replica is a follower.
    fn snapshot_installed(&mut self, state: &pb::RangeState);

    /// Called on a leader that was serving, after its lease ended for the rest of `term` (no
    /// read that checks the lease afterwards succeeds): returns the encoded `Command` with
    /// `LeaseHandoverCommand`, to be this term's last entry (rule L2). The term and epoch in it
    /// are those of `state` and `term`. Applying it returns [`Effect::HandedOver`].
    fn hand_over(&mut self, term: u64, state: &pb::RangeState) -> Vec<u8>;

    /// The replica was removed from its range and its rows are gone. The last call.
    fn destroyed(&mut self);
}

/// What applying an entry asks the driver to do. Carried out in the same pass.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Create the right half. `apply` has already cut `state`'s descriptor (end, version). The
    /// driver writes the right's state in the same batch, starts it on all replicas and lets the
    /// node that leads the left campaign at once; a replay finds what is there already.
    Split {
        /// The whole state of the right range: descriptor (id, bounds, epoch, replicas with their
        /// new peer ids), floors, watermark, bytes. The driver fills in the applied index, its
        /// term and the configuration.
        right: Box<pb::RangeState>,
        /// If this replica leads the left: its `max_read_ts` and clock. With them the right's
        /// first leader, if it is this node and the left's lease is valid now, needs no wait: no
        /// other node has ever held a lease on these keys after this one.
        handover: Option<Handover>,
    },
    /// A `LeaseHandoverCommand` of this entry's term was applied (on every replica).
    HandedOver(Handover),
    /// The replica cannot go on (bytes that do not decode, an unknown command): the node stops.
    /// Nothing of this round is written, so a release that knows the command can go on there.
    Fatal(String),
}

/// What a leader passes on to the next one (rule L2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// No read was served above it.
    pub max_read_ts: Timestamp,
    /// The old leader's clock, to be observed by the new one.
    pub clock: Timestamp,
}

/// Changes of leadership, in the order `Elected, CaughtUp, Serving, (Surrendered,) Lost` within a
/// term; `Lost` may come after any of them. After a restart a replica is a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleEvent {
    /// This replica won `term`. It serves nothing yet.
    Elected {
        /// The term won.
        term: u64,
    },
    /// The first entry of `term` is applied and visible: rebuild the lock table and the mirror of
    /// refusals from the engine now (rule L2).
    CaughtUp {
        /// The term led.
        term: u64,
    },
    /// The wait of rule L2 is over. Set `max_read_ts` to the given one (never below what is
    /// known). Only after this call has returned does the lease become valid for request tasks.
    Serving {
        /// The term led.
        term: u64,
        /// Physical clock now + max clock offset (rule L3), or what was handed over.
        max_read_ts: Timestamp,
        /// Choose no commit timestamp and propose nothing until the *physical* clock is above it;
        /// zero after a hand-over. The driver enforces it too: `ProposeError::NotYet`.
        propose_after: Timestamp,
        /// With a hand-over, the previous leader's clock: already observed by the node's clock.
        handed_over: Option<Handover>,
    },
    /// The lease was given up for the rest of `term` (a transfer is under way): nothing is served
    /// and no proposal taken. Waiters of entries in the log may still be answered by `apply`.
    Surrendered {
        /// The term led.
        term: u64,
    },
    /// This replica no longer leads `term`. Proposals of that term may or may not be applied
    /// later: they are *unknown* unless `apply` answers them. The lock table is void.
    Lost {
        /// The term led before.
        term: u64,
        /// The new leader, where known.
        leader: Option<NodeId>,
    },
}

/// Makes the machine of a replica: at start, for a split's right half, and when a snapshot brings
/// a new replica its state. Called on the worker that will own it.
pub trait MachineFactory: Send + Sync {
    /// `state` is what the engine holds. `shared` is where the lease is read.
    fn create(&self, shared: Arc<GroupShared>, state: &pb::RangeState) -> Box<dyn RangeMachine>;

    /// The node must stop: a failed log write, or an entry of this range that cannot be applied.
    fn fatal(&self, range: Option<RangeId>, why: &str);
}

/// Why a proposal did not enter the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No replica of this range here.
    #[error("no replica of this range on this node")]
    NoReplica,
    /// Not the leader, or not in that term.
    #[error("not the leader of this term")]
    NotLeader {
        /// Where the leader is, if known.
        leader: Option<NodeId>,
    },
    /// The leader but not serving yet (rules L2, L3), or no longer (a transfer is under way).
    #[error("the leader does not serve at the moment")]
    NotYet,
    /// Too much is waiting to be committed.
    #[error("too many proposals are waiting")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// What a request task needs to know about a replica, copied out in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseState {
    /// The replica's current term.
    pub term: u64,
    /// It leads that term.
    pub leader: bool,
    /// It leads, has finished the wait of rule L2 and has not surrendered.
    pub serving: bool,
    /// The lease is valid while `PhysicalClock::monotonic` is *below* this; zero: no lease.
    pub lease_end: Duration,
    /// Propose only when the physical clock is above it (rule L3).
    pub propose_after: Timestamp,
    /// Node of the leader, as far as known.
    pub leader_node: Option<NodeId>,
    /// The leader's peer id, as far as known.
    pub leader_peer: Option<PeerId>,
}

impl LeaseState {
    /// Whether reads may be served at this reading of `PhysicalClock::monotonic`. Ask before
    /// *and after* the read, with a fresh state and clock, and compare the terms (rule L1).
    pub fn valid_at(&self, monotonic: Duration) -> bool {
        self.serving && monotonic < self.lease_end
    }
}

/// One change of a range's replicas. One at a time; the next is refused until it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaChange {
    /// Adds a learner; it gets a snapshot.
    AddLearner {
        /// Where.
        node: NodeId,
        /// A peer id that was never used before (rule L7).
        peer: PeerId,
    },
    /// Makes a learner a voter. Refused while it is far behind.
    Promote {
        /// The learner.
        peer: PeerId,
    },
    /// Removes a replica, leaving a tombstone on its node. The leader does not remove itself:
    /// transfer first.
    Remove {
        /// The replica.
        peer: PeerId,
    },
}

/// Why a transfer, membership change or creation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not the leader of the range.
    #[error("not the leader of this range")]
    NotLeader {
        /// Where the leader is, if known.
        leader: Option<NodeId>,
    },
    /// Something else is under way, or the replica is not caught up: try again later.
    #[error("not now: {0}")]
    NotNow(String),
    /// It can never be done as asked.
    #[error("not possible: {0}")]
    Invalid(String),
    /// The leader lost its term or the node stopped: it may or may not happen.
    #[error("outcome unknown")]
    Unknown,
}

/// A replica as `status` shows it.
#[derive(Debug, Clone, Default)]
pub struct GroupStatus {
    /// Its descriptor, floors, applied index.
    pub state: pb::RangeState,
    /// Its own peer id.
    pub peer: PeerId,
    /// Role, term and lease.
    pub lease: LeaseState,
    /// Last index of its log.
    pub last_index: u64,
    /// First index its log still has.
    pub first_index: u64,
    /// Quiet (rule L6).
    pub quiet: bool,
    /// On the leader: peers and the last index each is known to hold.
    pub progress: Vec<(PeerId, u64)>,
}
