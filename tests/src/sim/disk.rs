//! A machine's disk: the twins of engine and log, watched. A crash drops them back to the last
//! flush and the last sync (rule X2); it can be set to strike at the n-th operation from now, in
//! the middle of a worker's pass. The engine flushes at times by itself, and what was written to
//! the log without a sync gets to the disk at times, both drawn from the seed. It can be slow for a
//! while: workers wait before a pass, or time passes in the middle of a sync.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::RangeId;
use quorate_shard::engine::{
    Batch, Cf, Engine, EngineError, EngineMetrics, EngineSnapshot, ExportedFile, KeySpan,
    SafePoints,
};
use quorate_shard::log::{LogBatch, LogError, LogStore, Truncated};
use quorate_shard::node::{MemoryDisk, OpenDisk};
use raft::eraftpb::{Entry, HardState};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::system;
use super::trace::Trace;

/// How the disk behaves and is kept, drawn from the seed.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Of a thousand engine writes, so many are followed by a flush.
    pub flush_per_mille: u32,
    /// Of a thousand engine writes, so many are followed by a compaction.
    pub compact_per_mille: u32,
    /// Of a thousand unsynced log writes, so many get to the disk by themselves.
    pub sync_per_mille: u32,
    /// Of a thousand syncs, so many do nothing: a mistake to be found.
    pub forgets_sync_per_mille: u32,
    /// How long ended versions can be read.
    pub gc_window: Duration,
    /// Followers are asked for moments that are over for so long.
    pub follower_read_age: Duration,
}

/// One life of a node, from its start to its crash.
///
/// # Invariants
/// * Nothing that happens after the crash is ever seen by anybody.
#[derive(Debug)]
pub struct Life {
    /// Which machine, counted from 1.
    pub machine: usize,
    /// Cancelled at the crash.
    pub over: CancellationToken,
    /// Cancelled when the node shall drain and stop.
    pub leave: CancellationToken,
    disk: MemoryDisk,
    habits: Habits,
    state: Mutex<LifeState>,
}

#[derive(Debug)]
struct LifeState {
    rng: StdRng,
    operations_left: Option<u64>,
    left: Option<MemoryDisk>,
    slow: Slow,
}

/// A disk that is slow for a while.
#[derive(Debug, Clone, Copy, Default)]
struct Slow {
    until: Duration,
    most_ms: u64,
}

/// One of so many syncs of a slow disk holds everything up.
const HELD_UP_OF: u32 = 8;

impl Life {
    /// A life on this disk.
    pub fn new(machine: usize, disk: MemoryDisk, habits: Habits, seed: u64) -> Arc<Self> {
        let rng = StdRng::seed_from_u64(seed);
        let state = LifeState { rng, operations_left: None, left: None, slow: Slow::default() };
        let (over, leave) = (CancellationToken::new(), CancellationToken::new());
        Arc::new(Self { machine, over, leave, disk, habits, state: Mutex::new(state) })
    }

    /// Whether the node has crashed.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The crash, now.
    pub fn end(&self, trace: &Trace, how: &str) {
        let mut state = self.state.lock();
        if state.left.is_some() {
            return;
        }
        trace.event(format_args!("m{} ends {how}", self.machine));
        let left = self.disk.after_crash();
        // The node's code goes on up to its next wait, and may still remove files.
        if let Err(error) = copy_files(&left.dir, &kept_dir(&left.dir)) {
            trace.violation(format_args!("m{}: snapshot files: {error}", self.machine));
        }
        state.left = Some(left);
        drop(state);
        self.over.cancel();
    }

    /// The crash strikes at the n-th operation from now.
    pub fn end_after(&self, operations: u64) {
        self.state.lock().operations_left = Some(operations);
    }

    /// What the crash left; `None` before it. To be asked when the node has been killed.
    ///
    /// # Errors
    /// The files that were there could not be put back.
    pub fn left(&self) -> std::io::Result<Option<MemoryDisk>> {
        let Some(left) = self.state.lock().left.clone() else { return Ok(None) };
        copy_files(&kept_dir(&left.dir), &left.dir)?;
        Ok(Some(left))
    }

    /// An operation is about to happen: whether the crash strikes now.
    pub fn strikes(&self) -> bool {
        let mut state = self.state.lock();
        let Some(left) = state.operations_left.as_mut() else { return false };
        *left = left.saturating_sub(1);
        *left == 0 && state.left.is_none()
    }

    /// From now on, for so long, the disk takes its time: up to so many milliseconds for a sync.
    pub fn slow_down(&self, lasts: Duration, most_ms: u64) {
        self.state.lock().slow = Slow { until: system::now() + lasts, most_ms };
    }

    /// What the next sync takes.
    fn sync_takes(&self) -> Duration {
        let mut state = self.state.lock();
        let Slow { until, most_ms } = state.slow;
        match system::now() < until && most_ms > 0 {
            true => Duration::from_millis(state.rng.random_range(0..most_ms)),
            false => Duration::ZERO,
        }
    }

    fn draws(&self, per_mille: u32) -> bool {
        self.state.lock().rng.random_range(0..1000) < per_mille
    }
}

fn kept_dir(dir: &Path) -> PathBuf {
    dir.with_extension("kept")
}

/// Makes the second folder a copy of the first.
fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy_files(&path, &target)?,
            false => std::fs::copy(&path, &target).map(|_| ())?,
        }
    }
    Ok(())
}

/// A life's engine and log, to open a node with.
pub fn open(life: &Arc<Life>, trace: &Arc<Trace>) -> OpenDisk {
    let (life, trace) = (life.clone(), trace.clone());
    OpenDisk {
        dir: life.disk.dir.clone(),
        engine: Arc::new(SimEngine { life: life.clone(), trace: trace.clone() }),
        log: Arc::new(SimLog { life, trace }),
    }
}

struct SimEngine {
    life: Arc<Life>,
    trace: Arc<Trace>,
}

impl std::fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimEngine(m{})", self.life.machine)
    }
}

impl SimEngine {
    /// Does it, with the crash before or after it if it strikes now.
    fn doing<T>(&self, what: &str, work: impl FnOnce(&dyn Engine) -> T) -> T {
        let strikes = self.life.strikes();
        if strikes && self.life.draws(500) {
            self.life.end(&self.trace, &format!("before {what} of the engine"));
        }
        let result = work(&*self.life.disk.engine);
        if strikes {
            self.life.end(&self.trace, &format!("after {what} of the engine"));
        }
        result
    }

    fn inner(&self) -> &dyn Engine {
        &*self.life.disk.engine
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.doing("a write", |engine| engine.write(batch))?;
        if self.life.draws(self.life.habits.flush_per_mille) {
            self.inner().flush()?;
        }
        if self.life.draws(self.life.habits.compact_per_mille) {
            self.inner().compact(&KeySpan::default())?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        self.inner().snapshot()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.doing("a flush", |engine| engine.flush())
    }

    fn durable(&self, local_key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner().durable(local_key)
    }

    fn export(
        &self,
        snapshot: &dyn EngineSnapshot,
        span: &KeySpan,
        dir: &Path,
    ) -> Result<Vec<ExportedFile>, EngineError> {
        self.inner().export(snapshot, span, dir)
    }

    fn ingest(&self, files: &[(Cf, PathBuf)]) -> Result<(), EngineError> {
        self.doing("an ingest", |engine| engine.ingest(files))
    }

    fn approximate_bytes(&self, span: &KeySpan) -> Result<u64, EngineError> {
        self.inner().approximate_bytes(span)
    }

    fn safe_points(&self) -> &SafePoints {
        self.life.disk.engine.safe_points()
    }

    fn compact(&self, span: &KeySpan) -> Result<(), EngineError> {
        self.doing("a compaction", |engine| engine.compact(span))
    }

    fn metrics(&self) -> EngineMetrics {
        self.inner().metrics()
    }
}

struct SimLog {
    life: Arc<Life>,
    trace: Arc<Trace>,
}

impl std::fmt::Debug for SimLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimLog(m{})", self.life.machine)
    }
}

impl SimLog {
    fn inner(&self) -> &dyn LogStore {
        &*self.life.disk.log
    }
}

impl LogStore for SimLog {
    fn append(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        let strikes = self.life.strikes();
        if strikes && self.life.draws(500) {
            self.life.end(&self.trace, "before a sync of the log");
        }
        let takes = self.life.sync_takes();
        if !takes.is_zero() && self.life.draws(1000 / HELD_UP_OF) {
            let machine = self.life.machine;
            self.trace.event(format_args!("a sync of m{machine} holds all up for {takes:?}"));
            system::hold_up(takes);
        }
        let forgets = self.life.habits.forgets_sync_per_mille;
        match forgets > 0 && self.life.draws(forgets) {
            true => self.inner().append_unsynced(batch)?,
            false => self.inner().append(batch)?,
        }
        if strikes {
            self.life.end(&self.trace, "after a sync of the log");
        }
        Ok(())
    }

    fn append_unsynced(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        self.inner().append_unsynced(batch)?;
        if self.life.draws(self.life.habits.sync_per_mille) {
            self.inner().append(&mut LogBatch::new())?;
        }
        Ok(())
    }

    fn entries(
        &self,
        range: RangeId,
        lo: u64,
        hi: u64,
        bytes_max: Option<u64>,
    ) -> Result<Vec<Entry>, LogError> {
        self.inner().entries(range, lo, hi, bytes_max)
    }

    fn term(&self, range: RangeId, index: u64) -> Result<u64, LogError> {
        self.inner().term(range, index)
    }

    fn truncated(&self, range: RangeId) -> Result<Truncated, LogError> {
        self.inner().truncated(range)
    }

    fn first_index(&self, range: RangeId) -> Result<u64, LogError> {
        self.inner().first_index(range)
    }

    fn last_index(&self, range: RangeId) -> Result<u64, LogError> {
        self.inner().last_index(range)
    }

    fn hard_state(&self, range: RangeId) -> Result<Option<HardState>, LogError> {
        self.inner().hard_state(range)
    }

    fn groups(&self) -> Vec<RangeId> {
        self.inner().groups()
    }

    fn meta(&self, key: &[u8]) -> Option<Bytes> {
        self.inner().meta(key)
    }

    fn meta_with_prefix(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        self.inner().meta_with_prefix(prefix)
    }

    fn purge(&self) -> Result<Vec<RangeId>, LogError> {
        self.inner().purge()
    }

    fn used_bytes(&self) -> u64 {
        self.inner().used_bytes()
    }

    fn busy_for(&self) -> Duration {
        self.life.sync_takes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(dir: &tempfile::TempDir, forgets: u32) -> Arc<Life> {
        let dir = dir.path().join("m1");
        let habits = Habits {
            flush_per_mille: 0,
            compact_per_mille: 0,
            sync_per_mille: 0,
            forgets_sync_per_mille: forgets,
            gc_window: Duration::from_secs(600),
            follower_read_age: Duration::ZERO,
        };
        Life::new(1, MemoryDisk::new(dir), habits, 7)
    }

    fn put(disk: &OpenDisk, key: &'static [u8]) {
        let mut batch = LogBatch::new();
        batch.put_meta(key.to_vec(), b"1".to_vec());
        disk.log.append(&mut batch).expect("in memory");
    }

    #[test]
    fn what_happens_after_the_crash_is_never_seen() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (life, trace) = (life(&dir, 0), Arc::new(Trace::default()));
        let disk = open(&life, &trace);
        put(&disk, b"a");
        life.end(&trace, "now");
        put(&disk, b"b");
        let left = life.left().expect("files").expect("it has crashed");
        assert!(left.log.meta(b"a").is_some() && left.log.meta(b"b").is_none());
        assert!(life.is_over());
    }

    #[test]
    fn a_crash_strikes_at_the_operation_it_was_set_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (life, trace) = (life(&dir, 0), Arc::new(Trace::default()));
        let disk = open(&life, &trace);
        life.end_after(2);
        put(&disk, b"a");
        assert!(!life.is_over());
        put(&disk, b"b");
        assert!(life.is_over());
        assert!(life.left().expect("files").expect("it has crashed").log.meta(b"a").is_some());
    }

    #[test]
    fn a_slow_disk_is_slow_for_a_while() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (life, trace) = (life(&dir, 0), Arc::new(Trace::default()));
        let disk = open(&life, &trace);
        assert!(disk.log.busy_for().is_zero());
        life.slow_down(Duration::from_secs(1), 400);
        let waits: Vec<Duration> = (0..20).map(|_| disk.log.busy_for()).collect();
        assert!(waits.iter().all(|wait| *wait < Duration::from_millis(400)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(100)), "{waits:?}");
        life.slow_down(Duration::ZERO, 400);
        assert!(disk.log.busy_for().is_zero());
    }

    #[test]
    fn a_disk_that_forgets_syncs_loses_what_it_promised_to_keep() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (life, trace) = (life(&dir, 1000), Arc::new(Trace::default()));
        put(&open(&life, &trace), b"a");
        life.end(&trace, "now");
        assert!(life.left().expect("files").expect("it has crashed").log.meta(b"a").is_none());
    }
}
