//! The tunables of the transaction protocol, and the relations between them that keep data right.

use std::time::Duration;

/// How far apart the clocks of two nodes may be (rule T3), unless the cluster was begun with
/// another `max_clock_offset`. A node further off stops leading.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_millis(250);
/// The least that a cluster may be begun with: no network tells less apart.
pub const MAX_CLOCK_OFFSET_MIN: Duration = Duration::from_millis(1);
/// The most: the times below that have to outlast it are fixed.
pub const MAX_CLOCK_OFFSET_MAX: Duration = Duration::from_millis(500);
/// A node that is further from most others than this part of what is allowed, in percent, hands its
/// leads over: beyond the whole of it nobody takes its messages, and so no lead either.
pub const CLOCK_LEADS_PERCENT: u32 = 90;
/// And it leads again below this part, so that it does not change its mind with every message.
pub const CLOCK_LEADS_AGAIN_PERCENT: u32 = 75;

/// How often a node writes down an upper bound of its clock (rule T3).
pub const CLOCK_BOUND_INTERVAL: Duration = Duration::from_secs(2);
/// How far above its clock that bound lies.
pub const CLOCK_BOUND_AHEAD: Duration = Duration::from_secs(5);

/// One tick of a Raft group.
pub const RAFT_TICK: Duration = Duration::from_millis(100);
/// Ticks without a leader before a follower stands for election (at least).
pub const RAFT_ELECTION_TICKS: u32 = 10;
/// Ticks between a leader's heartbeats.
pub const RAFT_HEARTBEAT_TICKS: u32 = 2;
/// How long one confirmed round lets a leader serve (rule L1).
pub const LEASE: Duration = Duration::from_millis(800);
/// How long a new leader waits before it serves: `LEASE ÷ 0.9` (rule L2).
pub const LEASE_WAIT: Duration = Duration::from_millis(889);

/// A coordinator its anchor's leader has not heard of for so long is taken for dead (rule P11).
pub const TXN_TTL: Duration = Duration::from_secs(2);
/// A coordinator that has its locks so soon after it first asked for them tells their leaders (rule
/// P10): nobody can have taken it for dead and recovered it, on whatever clock.
pub const HINT_TIME: Duration = Duration::from_secs(1);
/// How often a coordinator says that it is alive.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// An owner of row locks that was not heard of for so long may lose them.
pub const LOCK_TTL: Duration = Duration::from_millis(2_500);
/// How often a gateway says which owners of row locks are alive.
pub const LOCK_KEEP_INTERVAL: Duration = Duration::from_millis(600);
/// How long one request waits for a row lock; then it is sent again, its place kept.
pub const LOCK_WAIT: Duration = Duration::from_millis(800);
/// How long one attempt of a request may take, at the sender and at the receiver.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a coordinator sends a prepare or commit of one id again, from the first time.
pub const COMMIT_RETRY_DEADLINE: Duration = Duration::from_secs(10);
/// How long after that it tries to prove that nothing was committed (rule P8).
pub const ABORT_RETRY_GRACE: Duration = Duration::from_secs(2);
/// How long it goes on resolving locks after the client was answered; then others do.
pub const FINISH_DEADLINE: Duration = Duration::from_secs(30);
/// The first pause before a request is sent again; doubled up to the next.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause before a request is sent again.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);
/// The longest pause between attempts to learn the verdict of a commit whose client was told that
/// it is not known.
pub const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one look-up waits for a verdict at the anchor's leader.
pub const LOOKUP_WAIT: Duration = Duration::from_millis(500);

/// How far behind the clock the transaction floor stays (rule P6).
pub const TXN_FLOOR_LAG: Duration = Duration::from_secs(30);
/// How far behind the clock the transaction floor may be raised on request: nobody that is still
/// within its retry deadline may be cut off (rule P6).
pub const TXN_FLOOR_LAG_MIN: Duration = Duration::from_millis(12_500);
/// How far behind the clock the safe point stays: the longest a snapshot can be read.
pub const SAFE_POINT_LAG: Duration = Duration::from_secs(600);

/// How long running transactions hold safe points back: beyond it, they are on their own.
pub const READERS_HOLD_MAX: Duration = Duration::from_secs(24 * 3600);

/// A leader that is asked to close a moment closes up to here, so that it is not asked at once
/// again (rule R6). Far enough back to be in nobody's way.
pub const CLOSED_LAG: Duration = Duration::from_secs(1);
/// Reads of a moment that is over for so long are answered by followers: one question to the leader
/// then serves them for a while.
pub const FOLLOWER_READ_AGE: Duration = Duration::from_secs(3);

/// What `follower_read_timestamp()` is behind the clock: one question to the leader serves reads of
/// it for the difference.
pub const FOLLOWER_READ_TIMESTAMP_LAG: Duration = Duration::from_secs(5);

/// Records that one command drops below the floor. Every replica takes the same ones, so a change
/// of this number needs a new command (the state machine is deterministic).
pub const RECORDS_DROPPED_MAX: usize = 4096;

const _: () = assert!(
    MAX_CLOCK_OFFSET_MIN.as_millis() <= MAX_CLOCK_OFFSET.as_millis()
        && MAX_CLOCK_OFFSET.as_millis() <= MAX_CLOCK_OFFSET_MAX.as_millis(),
    "the default can be chosen"
);
const _: () = assert!(
    CLOCK_LEADS_AGAIN_PERCENT < CLOCK_LEADS_PERCENT && CLOCK_LEADS_PERCENT < 100,
    "T3: leads are handed over while messages are still taken"
);
const _: () = assert!(
    LEASE.as_millis() * 10 <= (RAFT_ELECTION_TICKS as u128 - 1) * RAFT_TICK.as_millis() * 9,
    "L1: a lease ends before anybody else can be elected, clock drift of a tenth included"
);
const _: () = assert!(
    LEASE_WAIT.as_millis() * 9 >= LEASE.as_millis() * 10,
    "L2: a new leader outwaits the lease of the old one, clock drift of a tenth included"
);
const _: () = assert!(
    RAFT_HEARTBEAT_TICKS as u128 * RAFT_TICK.as_millis() * 2 <= LEASE.as_millis(),
    "one lost heartbeat does not end a lease"
);
const _: () = assert!(
    TXN_FLOOR_LAG.as_millis() >= TXN_FLOOR_LAG_MIN.as_millis(),
    "P6: house-keeping keeps the distance that requests must keep"
);
const _: () = assert!(
    TXN_FLOOR_LAG_MIN.as_millis()
        >= COMMIT_RETRY_DEADLINE.as_millis()
            + ABORT_RETRY_GRACE.as_millis()
            + MAX_CLOCK_OFFSET_MAX.as_millis(),
    "P6: records outlive every retry of the commit they answer for"
);
const _: () = assert!(
    HINT_TIME.as_millis() * 2 <= TXN_TTL.as_millis(),
    "P10: a hint comes before any recovery"
);
const _: () = assert!(
    HEARTBEAT_INTERVAL.as_millis() * 3 <= TXN_TTL.as_millis(),
    "P11: two lost heartbeats do not make a live coordinator look dead"
);
const _: () = assert!(
    TXN_TTL.as_millis() > MAX_CLOCK_OFFSET_MAX.as_millis() + LEASE_WAIT.as_millis(),
    "P11: a change of leader is not taken for a dead coordinator"
);
const _: () = assert!(
    LOCK_KEEP_INTERVAL.as_millis() * 3 <= LOCK_TTL.as_millis()
        && LOCK_WAIT.as_millis() * 3 <= LOCK_TTL.as_millis(),
    "two lost calls do not cost a live owner its row locks"
);
const _: () = assert!(
    CLOCK_BOUND_AHEAD.as_millis() >= 2 * CLOCK_BOUND_INTERVAL.as_millis(),
    "T3: one missed write of the bound does not stop the node"
);
const _: () = assert!(
    FOLLOWER_READ_TIMESTAMP_LAG.as_millis() > FOLLOWER_READ_AGE.as_millis()
        && FOLLOWER_READ_AGE.as_millis() > CLOSED_LAG.as_millis(),
    "R6: what a leader closes by itself is of use"
);
const _: () = assert!(
    SAFE_POINT_LAG.as_millis() > TXN_FLOOR_LAG.as_millis(),
    "S1: a transaction that may still be retried can still read what it conflicts with"
);

/// Whether a cluster may have this `max_clock_offset`.
///
/// # Errors
/// The bounds, and the reason for them.
pub fn check_max_clock_offset(offset: Duration) -> Result<(), String> {
    if (MAX_CLOCK_OFFSET_MIN..=MAX_CLOCK_OFFSET_MAX).contains(&offset) {
        return Ok(());
    }
    Err(format!(
        "{offset:?} is not between {MAX_CLOCK_OFFSET_MIN:?} and {MAX_CLOCK_OFFSET_MAX:?}: no \
         network tells clocks apart more exactly, and the times for which records are kept for \
         late coordinators allow for no more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_offset_out_of_bounds_is_refused_with_the_bounds() {
        for fits in [MAX_CLOCK_OFFSET_MIN, MAX_CLOCK_OFFSET, MAX_CLOCK_OFFSET_MAX] {
            assert_eq!(check_max_clock_offset(fits), Ok(()));
        }
        let nanosecond = Duration::from_nanos(1);
        for wrong in [MAX_CLOCK_OFFSET_MIN - nanosecond, MAX_CLOCK_OFFSET_MAX + nanosecond] {
            let why = check_max_clock_offset(wrong).unwrap_err();
            assert!(why.contains("1ms") && why.contains("500ms"), "{why}");
        }
    }
}
