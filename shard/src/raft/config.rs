//! Every tunable of replication, and how they hang together.

use std::time::Duration;

/// How long a lease runs from the sending of the round that a majority answered (rule L1).
pub use quorate_txn::config::LEASE;
/// A new leader waits that long after winning (rule L2).
pub use quorate_txn::config::LEASE_WAIT as LEADER_WAIT;
/// A follower refuses to vote within so many ticks after it heard of its leader.
pub use quorate_txn::config::RAFT_ELECTION_TICKS as ELECTION_TICKS;
/// A leader sends heartbeats every so many ticks; so do pairs of nodes for their quiet groups.
pub use quorate_txn::config::RAFT_HEARTBEAT_TICKS as HEARTBEAT_TICKS;
/// One step of Raft's logical clock. A worker never makes two steps less than this apart, however
/// late it is: steps that were missed are skipped (a follower must not count faster than time).
pub use quorate_txn::config::RAFT_TICK as TICK;

/// A follower campaigns after `ELECTION_TICKS ..= ELECTION_TICKS_MAX` silent ticks, drawn anew each
/// time.
pub const ELECTION_TICKS_MAX: u32 = 18;
/// A replica that has not heard of any leader since it started campaigns within so many ticks.
pub const FIRST_ELECTION_TICKS_MAX: u32 = 8;
const _: () = assert!(
    LEASE.as_millis() * 10 <= (ELECTION_TICKS as u128 - 1) * TICK.as_millis() * 9,
    "a lease must end before any follower votes again, also if clocks drift by 10 % (rule L1)"
);
const _: () = assert!(
    LEADER_WAIT.as_millis() * 9 >= LEASE.as_millis() * 10,
    "a new leader waits one lease out on a clock that may run 10 % fast (rule L2)"
);
const _: () = assert!(HEARTBEAT_TICKS * 3 < ELECTION_TICKS, "two lost heartbeats are no election");

/// A group without traffic for so many ticks goes quiet (rule L6).
pub const QUIET_AFTER_TICKS: u32 = 15;
/// A pair of nodes whose heartbeat was not answered, or not heard, for so long wakes its groups.
pub const PAIR_SILENCE: Duration = Duration::from_millis(700);
/// Buckets of ranges: a bucket belongs to one worker on every node, however many it runs.
pub const BUCKETS: usize = 16;
/// Workers of a node unless configured.
pub const WORKERS_DEFAULT: usize = 2;

/// Index and term at which the log of a group made by bootstrap or split begins. Not zero: a
/// replica that starts empty then needs a snapshot, which brings it the state.
pub const INITIAL_INDEX: u64 = 5;
/// See [`INITIAL_INDEX`].
pub const INITIAL_TERM: u64 = 5;

/// Bytes of entries in one message at most (at least one entry).
pub const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Messages in flight to one follower.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Bytes of entries a leader holds uncommitted; then proposals are refused as busy.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of committed entries applied in one go.
pub const APPLY_BYTES_MAX: u64 = 8 << 20;
/// Bytes of recent entries each group keeps in memory.
pub const CACHE_BYTES_MAX: usize = 1 << 20;
/// Inputs a worker takes in one pass.
pub const INPUTS_PER_PASS_MAX: usize = 4096;

/// Requests for votes of ranges that are not here yet, kept for the split that makes them.
pub const EARLY_VOTES_MAX: usize = 64;
/// For so long.
pub const EARLY_VOTE_KEPT: Duration = Duration::from_secs(1);

/// Snapshots that a node sends at a time; further ones are tried again by their followers'
/// heartbeats.
pub const SNAPSHOTS_SENDING_MAX: usize = 2;
/// Bytes in one chunk of a snapshot.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Rate limit of all snapshots a node sends.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 64 << 20;

/// Every so often the driver looks after its logs: reads back what is durable and cuts below it.
pub const COMPACT_EVERY: Duration = Duration::from_secs(2);
/// A flush is asked for when this many log entries of one group are applied but not durable.
pub const UNFLUSHED_ENTRIES_MAX: u64 = 20_000;
/// And at the latest after this, if anything was applied.
pub const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// A replica this far behind no longer holds the log back: it will get a snapshot.
pub const LOG_KEPT_ENTRIES_MAX: u64 = 50_000;
/// Followers keep so many entries, for replicas that lag when they come to lead.
pub const FOLLOWER_TAIL_ENTRIES: u64 = 2_000;
/// The log is cut once so many entries can go.
pub const COMPACT_ENTRIES_MIN: u64 = 256;
/// Groups named by a purge that are looked after in one go (rule S6).
pub const PURGE_GROUPS_MAX: usize = 16;

/// Learners that lack more than this many entries are not promoted yet.
pub const PROMOTE_LAG_MAX: u64 = 1_000;
/// A transfer that has not happened after so many ticks ends with a new term of the old leader.
pub const TRANSFER_TICKS_MAX: u32 = ELECTION_TICKS;

/// Frames waiting for one peer at most; more are dropped (Raft sends again).
pub const FRAME_QUEUE_LEN: usize = 1024;
/// How long to wait before another attempt to connect to a peer.
pub const RECONNECT_AFTER: Duration = Duration::from_millis(300);
