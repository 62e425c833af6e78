//! A node's ordered storage: one key-value engine with five column families, behind the narrow
//! trait [`Engine`], with two implementations: [`RocksEngine`] and the
//! in-memory twin [`MemEngine`]. Both pass one conformance suite.
//!
//! The engine has no log of its own: the Raft log is the write-ahead log. What
//! [`write`](Engine::write) put there is visible at once and durable after the next
//! [`flush`](Engine::flush); a crash drops back to some flush, whole (rule S2).

pub mod batch;
pub mod conformance;
pub mod install;
pub mod local;
pub mod maintain;
pub mod mem;
pub mod rocks;

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use batch::{Batch, BatchOp};
pub use mem::MemEngine;
pub use rocks::{BlockCache, RocksConfig, RocksEngine};

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cf {
    /// User key → current version.
    Latest,
    /// User key and end timestamp → a version that was replaced or deleted.
    History,
    /// User key → lock of a committing transaction.
    Locks,
    /// User key and transaction id → record or refusal.
    Txns,
    /// Node-local: range states, the format version. Belongs to no range's keys.
    Local,
}

impl Cf {
    /// All of them, in the order in which they are numbered.
    pub const ALL: [Self; 5] = [Self::Latest, Self::History, Self::Locks, Self::Txns, Self::Local];
    /// Those that hold a range's rows and move with it.
    pub const DATA: [Self; 4] = [Self::Latest, Self::History, Self::Locks, Self::Txns];

    /// The name on disk; never changed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::History => "history",
            Self::Locks => "locks",
            Self::Txns => "txns",
            Self::Local => "local",
        }
    }

    /// Its place in [`Cf::ALL`].
    pub const fn number(self) -> usize {
        self as usize
    }

    /// The bound in this family for rows of user keys at or above `bound`; an empty bound stays
    /// empty.
    pub fn bound(self, bound: &[u8]) -> Bytes {
        match self {
            Self::Latest | Self::Locks | Self::Local => Bytes::copy_from_slice(bound),
            Self::History | Self::Txns => quorate_txn::state::cf_bound(bound),
        }
    }
}

impl fmt::Display for Cf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong in the engine. All of it means: stop the node (or, from
/// [`Engine::ingest`] of files that were received, fetch them again).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The storage below failed: an I/O error, a checksum that is wrong.
    #[error("the storage engine failed: {0}")]
    Storage(String),
    /// Bytes that were read do not decode.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// The folder was written by a newer release.
    #[error(
        "the data folder has format {found}, this release reads up to format {known}: \
         start it with the newer release"
    )]
    NewerFormat {
        /// In the folder.
        found: u32,
        /// The newest this release knows.
        known: u32,
    },
    /// A folder that is no engine's.
    #[error("{0}")]
    WrongFolder(String),
}

/// A half-open interval `[start, end)` of user keys; an empty `end` means: to the last key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySpan {
    /// Inclusive.
    pub start: Bytes,
    /// Exclusive; empty: unbounded.
    pub end: Bytes,
}

impl KeySpan {
    /// `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Whether the key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

/// A file that [`Engine::export`] wrote: rows of one column family in key order, with checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Whose rows.
    pub cf: Cf,
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Rows in it, at least one.
    pub rows: u64,
    /// Of the whole file, as [`checksum_file`] computes it: to be compared where it arrives.
    pub crc32: u32,
}

/// The checksum of a file, read in pieces.
///
/// # Errors
/// [`EngineError::Storage`] if it cannot be read.
pub fn checksum_file(path: &Path) -> Result<u32, EngineError> {
    let failed = |e: std::io::Error| EngineError::Storage(format!("{}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match std::io::Read::read(&mut file, &mut piece).map_err(failed)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&piece[..n]),
        }
    }
}

/// Figures for status and metrics; bytes unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineMetrics {
    /// In files, by [`Cf::number`].
    pub file_bytes: [u64; 5],
    /// In memory and not flushed, all column families.
    pub unflushed_bytes: u64,
    /// The block cache's content.
    pub cache_bytes: u64,
    /// Indexes and filters of open files outside the cache.
    pub reader_bytes: u64,
    /// Batches written since the start (a count).
    pub writes: u64,
    /// Flushes asked for since the start (a count).
    pub flushes: u64,
}

/// A consistent view of all column families at one moment, hence at one applied index (rule R1).
pub trait EngineSnapshot: Send + Sync {
    /// Hands the value of `key` to `read` without copying it, if there is one; whether there was.
    ///
    /// # Errors
    /// [`EngineError`].
    fn read(&self, cf: Cf, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError>;

    /// The value of `key`, copied.
    ///
    /// # Errors
    /// [`EngineError`].
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut value = None;
        self.read(cf, key, &mut |bytes| value = Some(Bytes::copy_from_slice(bytes)))?;
        Ok(value)
    }

    /// An iterator over the rows of `[lower, upper)`; an empty `upper` is unbounded. It stands
    /// nowhere until it is told to seek.
    fn iter(&self, cf: Cf, lower: &[u8], upper: &[u8]) -> Box<dyn EngineIter + '_>;
}

/// Walks over rows of one column family, in both directions, within the bounds it was made with.
pub trait EngineIter: Send {
    /// To the first row at or above `key`.
    fn seek(&mut self, key: &[u8]);
    /// To the last row *below* `key`.
    fn seek_before(&mut self, key: &[u8]);
    /// To the first row.
    fn seek_first(&mut self);
    /// To the last row.
    fn seek_last(&mut self);
    /// One row up. Only when it stands on a row.
    fn next(&mut self);
    /// One row down. Only when it stands on a row.
    fn prev(&mut self);
    /// The row it stands on; `None` beyond either bound, or after an error: ask
    /// [`status`](Self::status) then.
    fn item(&self) -> Option<(&[u8], &[u8])>;
    /// Whether everything was read correctly.
    ///
    /// # Errors
    /// [`EngineError`].
    fn status(&self) -> Result<(), EngineError>;
}

/// Ordered storage of a node.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Writes the whole batch at once: visible to every later snapshot, durable after the next
    /// flush. Operations take effect in the order they were added.
    ///
    /// # Errors
    /// [`EngineError`]: nothing more may be read or written, stop the node.
    fn write(&self, batch: &Batch) -> Result<(), EngineError>;

    /// One view of all column families (rule R1).
    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_>;

    /// Makes everything written so far durable, all column families as one (rule S2). Waits.
    ///
    /// # Errors
    /// [`EngineError`].
    fn flush(&self) -> Result<(), EngineError>;

    /// The value of a [`Cf::Local`] key as of the last completed flush: what a crash now would
    /// leave (rule S3).
    ///
    /// # Errors
    /// [`EngineError`].
    fn durable(&self, local_key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Writes the rows of all data families for user keys in `span`, as the snapshot (of this
    /// engine) shows them, into files of `dir`, at most one per family; none for a family
    /// without rows (rule S4). The files are complete and synced when this returns.
    ///
    /// # Errors
    /// [`EngineError`]; the folder may then hold partial files.
    fn export(
        &self,
        snapshot: &dyn EngineSnapshot,
        span: &KeySpan,
        dir: &Path,
    ) -> Result<Vec<ExportedFile>, EngineError>;

    /// Adds the rows of files that `export` of the same kind of engine wrote; they replace rows
    /// of the same keys. Visible when this returns; across families not atomic, so only used
    /// under a mark (rule S4). Leaves the files as they are, so that it can be done again. Whoever
    /// received them has compared [`checksum_file`].
    ///
    /// # Errors
    /// [`EngineError`].
    fn ingest(&self, files: &[(Cf, PathBuf)]) -> Result<(), EngineError>;

    /// About how many bytes the rows of a span take on disk, all data families; what is not
    /// flushed may be missing.
    ///
    /// # Errors
    /// [`EngineError`].
    fn approximate_bytes(&self, span: &KeySpan) -> Result<u64, EngineError>;

    /// Where garbage collection reads the flushed safe points of ranges (rule S1).
    fn safe_points(&self) -> &SafePoints;

    /// Flushes, then drops what the safe points allow and what was deleted in the span, now.
    ///
    /// # Errors
    /// [`EngineError`].
    fn compact(&self, span: &KeySpan) -> Result<(), EngineError>;

    /// Figures.
    fn metrics(&self) -> EngineMetrics;
}

pub mod safe_points;
pub mod split;
pub use safe_points::SafePoints;
pub use split::find_split_key;
