//! [`RaftEngineLog`]: the log on raft-engine.
//!
//! # How the rules are kept
//! * All groups share the files, and one `append` is one write and one fdatasync.
//! * Files are recycled and prefilled, so that a sync goes into space that is allocated already
//!   (half the cost of one that grows the file).
//! * S5: raft-engine's defaults would write 15 GB with prefill on; the constants here are small.
//! * S6: [`purge`](LogStore::purge) passes on which groups pin old files.
//!
//! # One thread, one log
//! raft-engine keeps the block of entries that a thread read last, and knows it by its place in a
//! file, not by the engine: a thread that reads two logs (nodes in one process, a log that was
//! opened again) is shown the entries of the other. So a thread reads the log it read first, and
//! every other log through a thread of its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::RangeId;
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, MessageExt, ReadableSize, RecoveryMode};

use super::cache::EntryCache;
use super::{LogBatch, LogError, LogOp, LogStore, Truncated, check_bounds};

/// A log file's size.
pub const FILE_BYTES: u64 = 16 << 20;
/// Old files are purged when the log is larger than this: a few times what the engine buffers
/// before it flushes, so that a purge rarely finds a group that is not flushed.
pub const PURGE_BYTES: u64 = 128 << 20;
/// Prefilled at the start are one and a half times this many bytes: enough that a node begins
/// with allocated files, small enough for a laptop.
pub const PREFILL_BYTES: u64 = 32 << 20;

const _: () = assert!(
    PREFILL_BYTES <= PURGE_BYTES && FILE_BYTES <= PREFILL_BYTES,
    "prefilled files fit into the log, and there is at least one"
);

/// raft-engine's group for the node's own facts; no range has this id.
const META_GROUP: u64 = u64::MAX;
const HARD_STATE_KEY: &[u8] = b"h";
const TRUNCATED_KEY: &[u8] = b"t";

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// See [`FILE_BYTES`].
    pub file_bytes: u64,
    /// See [`PURGE_BYTES`].
    pub purge_bytes: u64,
    /// See [`PREFILL_BYTES`]; 0 for none.
    pub prefill_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES, purge_bytes: PURGE_BYTES, prefill_bytes: PREFILL_BYTES }
    }
}

/// Logs opened by this process so far.
static OPENED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The log whose blocks raft-engine keeps for this thread; 0: none yet.
    static READS: Cell<u64> = const { Cell::new(0) };
}

#[derive(Debug)]
struct EntryCodec;

impl MessageExt for EntryCodec {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The log in a folder.
///
/// # Invariants
/// * The stored `Truncated` of a group decides where its log begins; entries at or below it do
///   not exist, whatever raft-engine still has.
pub struct RaftEngineLog {
    /// Which of the process's logs it is, counted from 1.
    id: u64,
    engine: Engine,
    cache: Mutex<EntryCache>,
}

impl fmt::Debug for RaftEngineLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftEngineLog({})", self.engine.path())
    }
}

fn failed(error: raft_engine::Error) -> LogError {
    LogError::Failed(error.to_string())
}

fn damaged(error: raft_engine::Error) -> LogError {
    LogError::Damaged(error.to_string())
}

impl RaftEngineLog {
    /// Opens the log of a folder, or makes one.
    ///
    /// # Errors
    /// [`LogError::Failed`], also if another process has it open; [`LogError::Damaged`].
    pub fn open(dir: &Path, config: LogConfig) -> Result<Self, LogError> {
        let dir = dir
            .to_str()
            .ok_or_else(|| LogError::Failed("the folder's name is not UTF-8".to_owned()))?;
        let config = Config {
            dir: dir.to_owned(),
            // A torn write at the end is what a crash leaves; anything else stops the node.
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            // Compressing costs more processor time than the bytes are worth.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(config.file_bytes),
            purge_threshold: ReadableSize(config.purge_bytes),
            enable_log_recycle: true,
            prefill_for_recycle: config.prefill_bytes > 0,
            prefill_limit: (config.prefill_bytes > 0).then_some(ReadableSize(config.prefill_bytes)),
            recovery_threads: 2,
            ..Config::default()
        };
        let engine = Engine::open(config).map_err(failed)?;
        let id = OPENED.fetch_add(1, Ordering::Relaxed) + 1;
        let log = Self { id, engine, cache: Mutex::default() };
        log.drop_leftovers()?;
        Ok(log)
    }

    /// raft-engine may bring compacted entries back if the file with the command to compact them
    /// was purged first: compact them again.
    fn drop_leftovers(&self) -> Result<(), LogError> {
        let mut batch = raft_engine::LogBatch::default();
        for range in self.groups() {
            let truncated = self.truncated(range)?;
            if let Some(first) = self.engine.first_index(range.0) {
                if first <= truncated.index {
                    let index = truncated.index + 1;
                    batch.add_command(range.0, Command::Compact { index });
                } else if first > truncated.index + 1 {
                    return Err(LogError::Damaged(format!(
                        "the log of {range} begins at {first} instead of {}",
                        truncated.index + 1
                    )));
                }
            }
        }
        self.engine.write(&mut batch, false).map_err(failed)?;
        Ok(())
    }

    /// Reads entries on a thread that has read no other log.
    fn alone<T: Send>(&self, read: impl FnOnce() -> T + Send) -> Result<T, LogError> {
        let reads = READS.get();
        if reads == 0 || reads == self.id {
            READS.set(self.id);
            return Ok(read());
        }
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("raft-log-read".to_owned());
            let reader = thread.spawn_scoped(scope, read);
            let reader = reader.map_err(|error| LogError::Failed(error.to_string()))?;
            reader.join().map_err(|_| LogError::Failed("a read panicked".to_owned()))
        })
    }

    fn has_anything(&self, group: u64) -> bool {
        self.engine.first_index(group).is_some()
            || self.engine.get(group, HARD_STATE_KEY).is_some()
            || self.engine.get(group, TRUNCATED_KEY).is_some()
    }

    fn write(&self, batch: &mut LogBatch, sync: bool) -> Result<(), LogError> {
        let mut out = raft_engine::LogBatch::with_capacity(batch.ops.len() + 4);
        let mut staged = Staged::default();
        for op in &batch.ops {
            self.stage(op, &mut staged, &mut out)?;
        }
        if batch.ops.iter().any(LogOp::shortens) {
            // Entries that go must not be found in the cache afterwards.
            let mut cache = self.cache.lock();
            batch.ops.iter().for_each(|op| cache.forget(op));
        }
        // raft-engine panics when a sync fails; the node has to stop either way (rule S5).
        match catch_unwind(AssertUnwindSafe(|| self.engine.write(&mut out, sync))) {
            Ok(written) => written.map_err(failed)?,
            Err(_) => return Err(LogError::Failed("a sync failed".to_owned())),
        };
        let mut cache = self.cache.lock();
        for op in batch.ops.drain(..) {
            if let LogOp::Append { range, entries } = op {
                cache.append(range, entries);
            }
        }
        Ok(())
    }

    fn stage(
        &self,
        op: &LogOp,
        staged: &mut Staged,
        out: &mut raft_engine::LogBatch,
    ) -> Result<(), LogError> {
        match op {
            LogOp::Append { range, entries } => {
                let bounds = match staged.bounds.get(range) {
                    Some(bounds) => *bounds,
                    None => (self.truncated(*range)?.index, self.last_index(*range)?),
                };
                staged.bounds.insert(*range, check_append(*range, entries, bounds));
                out.add_entries::<EntryCodec>(range.0, entries).map_err(failed)?;
            }
            LogOp::HardState { range, state } => {
                out.put_message(range.0, HARD_STATE_KEY.to_vec(), state).map_err(failed)?;
                staged.hard_states.insert(*range, Some(state.clone()));
            }
            LogOp::Compact { range, upto } => {
                let (truncated, last) = match staged.bounds.get(range) {
                    Some(bounds) => *bounds,
                    None => (self.truncated(*range)?.index, self.last_index(*range)?),
                };
                assert!(upto.index <= last, "only entries that exist are compacted");
                if upto.index > truncated {
                    staged.bounds.insert(*range, (upto.index, last));
                    let index = upto.index + 1;
                    out.add_command(range.0, Command::Compact { index });
                    put_truncated(out, *range, *upto)?;
                }
            }
            LogOp::Reset { range, to } => {
                // Not a Compact: after one, raft-engine would not take entries at a lower index.
                let hard_state = match staged.hard_states.get(range) {
                    Some(state) => state.clone(),
                    None => self.hard_state(*range)?,
                };
                out.add_command(range.0, Command::Clean);
                put_truncated(out, *range, *to)?;
                if let Some(state) = hard_state {
                    out.put_message(range.0, HARD_STATE_KEY.to_vec(), &state).map_err(failed)?;
                }
                staged.bounds.insert(*range, (to.index, to.index));
            }
            LogOp::Remove { range } => {
                out.add_command(range.0, Command::Clean);
                staged.bounds.insert(*range, (0, 0));
                staged.hard_states.insert(*range, None);
            }
            LogOp::PutMeta { key, value } => {
                out.put(META_GROUP, key.to_vec(), value.to_vec()).map_err(failed)?;
            }
            LogOp::DeleteMeta { key } => out.delete(META_GROUP, key.to_vec()),
        }
        Ok(())
    }
}

/// What earlier operations of the same batch have done.
#[derive(Default)]
struct Staged {
    /// Truncated and last index.
    bounds: HashMap<RangeId, (u64, u64)>,
    hard_states: HashMap<RangeId, Option<HardState>>,
}

fn put_truncated(
    out: &mut raft_engine::LogBatch,
    range: RangeId,
    upto: Truncated,
) -> Result<(), LogError> {
    let value = [upto.index.to_be_bytes(), upto.term.to_be_bytes()].concat();
    out.put(range.0, TRUNCATED_KEY.to_vec(), value).map_err(failed)
}

/// The bounds after appending.
///
/// # Panics
/// If that would leave a hole or touch what was truncated: the driver's bug, which must not
/// reach the disk.
fn check_append(range: RangeId, entries: &[Entry], (truncated, last): (u64, u64)) -> (u64, u64) {
    let first = entries.first().map_or(last + 1, |entry| entry.index);
    assert!(
        truncated < first && first <= last + 1,
        "entries appended to {range} begin within ({truncated}, {last} + 1], not at {first}"
    );
    assert!(
        entries.windows(2).all(|w| w[0].index + 1 == w[1].index),
        "entries appended to {range} have no holes"
    );
    (truncated, first + entries.len() as u64 - 1)
}

impl LogStore for RaftEngineLog {
    fn append(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        self.write(batch, true)
    }

    fn append_unsynced(&self, batch: &mut LogBatch) -> Result<(), LogError> {
        self.write(batch, false)
    }

    fn entries(
        &self,
        range: RangeId,
        lo: u64,
        hi: u64,
        bytes_max: Option<u64>,
    ) -> Result<Vec<Entry>, LogError> {
        check_bounds(self.first_index(range)?, self.last_index(range)?, lo, hi)?;
        if lo == hi {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cache.lock().entries(range, lo, hi, bytes_max) {
            return Ok(entries);
        }
        let bytes_max = bytes_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        self.alone(|| {
            let mut entries = Vec::new();
            self.engine
                .fetch_entries_to::<EntryCodec>(range.0, lo, hi, bytes_max, &mut entries)
                .map(|_| entries)
        })?
        .map_err(damaged)
    }

    fn term(&self, range: RangeId, index: u64) -> Result<u64, LogError> {
        let truncated = self.truncated(range)?;
        if index == truncated.index {
            return Ok(truncated.term);
        }
        check_bounds(truncated.index + 1, self.last_index(range)?, index, index + 1)?;
        if let Some(term) = self.cache.lock().term(range, index) {
            return Ok(term);
        }
        let entry = self.alone(|| self.engine.get_entry::<EntryCodec>(range.0, index))?;
        entry.map_err(damaged)?.map(|entry| entry.term).ok_or(LogError::Unavailable)
    }

    fn truncated(&self, range: RangeId) -> Result<Truncated, LogError> {
        let Some(value) = self.engine.get(range.0, TRUNCATED_KEY) else {
            return Ok(Truncated::default());
        };
        let (index, term) = value
            .split_first_chunk::<8>()
            .and_then(|(index, term)| Some((index, <&[u8; 8]>::try_from(term).ok()?)))
            .ok_or_else(|| LogError::Damaged(format!("where the log of {range} begins")))?;
        Ok(Truncated { index: u64::from_be_bytes(*index), term: u64::from_be_bytes(*term) })
    }

    fn first_index(&self, range: RangeId) -> Result<u64, LogError> {
        Ok(self.truncated(range)?.index + 1)
    }

    fn last_index(&self, range: RangeId) -> Result<u64, LogError> {
        let last = self.engine.last_index(range.0).unwrap_or(0);
        Ok(last.max(self.truncated(range)?.index))
    }

    fn hard_state(&self, range: RangeId) -> Result<Option<HardState>, LogError> {
        self.engine.get_message(range.0, HARD_STATE_KEY).map_err(damaged)
    }

    fn groups(&self) -> Vec<RangeId> {
        let mut groups = self.engine.raft_groups();
        // A purge leaves an empty table behind for a group that was removed.
        groups.retain(|group| *group != META_GROUP && self.has_anything(*group));
        groups.sort_unstable();
        groups.into_iter().map(RangeId).collect()
    }

    fn meta(&self, key: &[u8]) -> Option<Bytes> {
        self.engine.get(META_GROUP, key).map(Bytes::from)
    }

    fn meta_with_prefix(&self, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let mut found = Vec::new();
        let collected =
            self.engine.scan_raw_messages(META_GROUP, Some(prefix), None, false, |key, value| {
                let inside = key.starts_with(prefix);
                if inside {
                    found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
                inside
            });
        collected.expect("a scan of the in-memory index has no way to fail");
        found
    }

    fn purge(&self) -> Result<Vec<RangeId>, LogError> {
        // It reads what it moves to newer files.
        let purged =
            self.alone(|| catch_unwind(AssertUnwindSafe(|| self.engine.purge_expired_files())))?;
        let mut groups = match purged {
            Ok(groups) => groups.map_err(failed)?,
            Err(_) => return Err(LogError::Failed("a sync failed".to_owned())),
        };
        groups.retain(|group| *group != META_GROUP);
        groups.sort_unstable();
        Ok(groups.into_iter().map(RangeId).collect())
    }

    fn used_bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
