//! Mistakes for tests to find, so that we know they find them: each takes a rule of the protocol
//! away. They exist only with the feature `mistakes`, which nothing but tests asks for: in a
//! release [`Mistake::is_made`] is `false` when it is compiled. They are made in one thread: a
//! simulation has no other, and the tests beside it go on without them.

#[cfg(feature = "mistakes")]
use std::cell::Cell;

/// What can be done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mistake {
    /// A leader adds to its clock: commits lie in the future (T1).
    TimestampInvented,
    /// A node starts without the bound of its clock that it wrote down (T3).
    ClockBoundForgotten,
    /// Nobody waits until a commit's timestamp has passed here (T4).
    CommitWaitSkipped,
    /// Leases outlast elections (L1).
    LeaseTooLong,
    /// A new leader does not wait the old lease out (L2).
    LeaderWithoutWait,
    /// A new leader does not know what was read of the one before it (L3).
    ReadsForgotten,
    /// A command is applied in another term than its timestamp was chosen in (L4).
    TermUnheeded,
    /// A command is applied after the bounds of its range have changed (L4).
    EpochUnheeded,
    /// Keys that change hands are read and written meanwhile (L5).
    LeavingKeysServed,
    /// A new leader does not read the replicated locks (L2).
    LocksNotRebuilt,
    /// A sync of the log does nothing, every other time (X2).
    SyncForgotten,
    /// A quiet group's lease is renewed without an answer (L6).
    QuietLeaseUnheard,
    /// Nobody heeds what a removed replica left behind (L7).
    TombstoneForgotten,
    /// A reader does not look at writes in flight (P1).
    FlightsOverlooked,
    /// A second prepare rewrites the lock of the first (P2).
    LockRewritten,
    /// Recovery leaves no refusal at a key without a lock (P3).
    RefusalForgotten,
    /// Locks are resolved before the anchor has the verdict (P4).
    ResolvedBeforeVerdict,
    /// A replica that is opened does not look for refusals (P5).
    RefusalsUncounted,
    /// The transaction floor follows the clock, and nobody heeds it (P6).
    FloorUnheeded,
    /// A one-range commit does not look for its own verdict (P7).
    VerdictOverlooked,
    /// A commit that got no answer in time is told aborted (P8).
    AbortGuessed,
    /// What was read and not written is not checked (P9).
    ReadsUnchecked,
    /// Something is left to check, and the record says staging (P9).
    CheckedWhileStaging,
    /// The leaders are told of the commit when the first of its locks stands (P10).
    VerdictGuessed,
    /// A coordinator is taken for dead whenever somebody asks (P11).
    LivingExpired,
    /// What is sent again after a split has another anchor (P12).
    AnchorMoved,
    /// A committer waits for the lock of an older one, too (P13).
    CommittersWait,
    /// A write is tested as if its key had been read just now (P14).
    ConflictsForgotten,
    /// Row locks are granted to everybody and not kept, as if every leader crashed at once: no
    /// rule leans on them, but they hide what P14 guards.
    RowLocksForgotten,
    /// One family is read as it was a command ago (R1).
    SnapshotTorn,
    /// No event is uncertain (R2).
    WindowEmpty,
    /// A reader does not look at replicated locks (R2).
    LocksOverlooked,
    /// What was heard of any node's clock narrows the window at every other (R3).
    ObservedElsewhere,
    /// What was heard of a node's clock before it began to lead the key counts (R3).
    ObservedTooEarly,
    /// What lies below the safe point is read (R4).
    SafePointUnheeded,
    /// A key that is absent from `latest` is absent, whenever it is asked for (R5).
    WatermarkUnheeded,
    /// A follower answers without having applied what a closed moment needs (R6).
    FollowerAhead,
    /// A moment is closed while writes below it are in flight (R6).
    ClosedTooEarly,
    /// What was read below the safe point is written (S1).
    SafePointPassed,
    /// Garbage collection goes by what is applied, not by what is flushed (S1).
    CollectedTooSoon,
    /// A snapshot is installed without a mark (S4).
    InstallUnmarked,
    /// A flush forgets one column family (S2).
    FamilyNotFlushed,
    /// The log is cut up to what is applied, not up to what is durable (S3).
    LogCutTooFar,
}

const _: () = assert!((Mistake::LogCutTooFar as u8) < 64, "each has a bit");

#[cfg(feature = "mistakes")]
thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

impl Mistake {
    /// It is made from now on, in this thread.
    #[cfg(feature = "mistakes")]
    pub fn make(self) {
        MADE.set(MADE.get() | 1 << self as u8);
    }

    /// Whether it is made.
    #[inline]
    pub fn is_made(self) -> bool {
        #[cfg(feature = "mistakes")]
        let made = MADE.get() & (1 << self as u8) != 0;
        #[cfg(not(feature = "mistakes"))]
        let made = false;
        made
    }
}
