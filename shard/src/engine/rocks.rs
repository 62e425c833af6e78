//! [`RocksEngine`]: the engine on RocksDB.
//!
//! # How the rules are kept
//! * No write-ahead log: every write disables it; the Raft log redoes what a crash loses.
//! * S2: `atomic_flush`, one flush function that names all families, no pipelined writes,
//!   `min_write_buffer_number_to_merge = 1`.
//! * S3: [`durable`](Engine::durable) reads with `ReadTier::Persisted`, which skips memtables.
//! * S1: `history` has a compaction filter that reads the published, flushed safe points.

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_proto::FORMAT_VERSION;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, FlushOptions, IngestExternalFileOptions, Options, Range, ReadOptions, ReadTier,
    Snapshot, SstFileWriter, WriteBatch, WriteOptions, properties,
};

use super::safe_points::SafePointTable;
use super::{
    Batch, BatchOp, Cf, Engine, EngineError, EngineIter, EngineMetrics, EngineSnapshot,
    ExportedFile, KeySpan, SafePoints, checksum_file, local,
};

/// Default size of the block cache of a process.
pub const CACHE_BYTES: usize = 64 << 20;
/// A memtable of `latest` or `history` is flushed (with all others) at this size: small, so that
/// three nodes in one process stay small and the Raft log can be cut often.
pub const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// The same for the families with small content.
pub const SMALL_WRITE_BUFFER_BYTES: usize = 8 << 20;
/// All memtables of a node together.
pub const WRITE_BUFFERS_BYTES_MAX: usize = 96 << 20;
/// Files held open; more are opened and closed as needed.
pub const OPEN_FILES_MAX: i32 = 512;
/// Threads for flushes and compactions of a node.
pub const BACKGROUND_JOBS: i32 = 2;

const BLOCK_BYTES: usize = 16 << 10;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOG_FILES_MAX: usize = 4;

const _: () = assert!(
    2 * WRITE_BUFFER_BYTES <= WRITE_BUFFERS_BYTES_MAX,
    "`latest` and `history` fill their memtables before the node's limit flushes early"
);

/// The block cache; nodes of one process share one by sharing clones.
#[derive(Clone)]
pub struct BlockCache(Cache);

impl BlockCache {
    /// A cache of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Cache::new_lru_cache(bytes))
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCache({} bytes used)", self.0.get_usage())
    }
}

/// What can be set.
#[derive(Debug, Clone)]
pub struct RocksConfig {
    /// The block cache to use.
    pub cache: BlockCache,
    /// See [`WRITE_BUFFER_BYTES`].
    pub write_buffer_bytes: usize,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self { cache: BlockCache::new(CACHE_BYTES), write_buffer_bytes: WRITE_BUFFER_BYTES }
    }
}

/// An engine in a folder.
///
/// # Invariants
/// * Every write leaves the write-ahead log out, and every flush names all column families.
pub struct RocksEngine {
    db: DB,
    safe_points: Arc<SafePoints>,
    config: RocksConfig,
    writes: AtomicU64,
    flushes: AtomicU64,
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RocksEngine({})", self.db.path().display())
    }
}

fn storage(error: rocksdb::Error) -> EngineError {
    EngineError::Storage(error.into_string())
}

impl RocksEngine {
    /// Opens the engine of a folder, or makes one in an empty or missing folder.
    ///
    /// # Errors
    /// [`EngineError::NewerFormat`], [`EngineError::WrongFolder`], or [`EngineError::Storage`]
    /// (also if another process has it open).
    pub fn open(dir: &Path, config: RocksConfig) -> Result<Self, EngineError> {
        let fresh = check_folder(dir)?;
        let safe_points = Arc::new(SafePoints::default());
        let families: Vec<ColumnFamilyDescriptor> = Cf::ALL
            .into_iter()
            .map(|cf| {
                let options = family_options(cf, &config, Some(&safe_points));
                ColumnFamilyDescriptor::new(cf.name(), options)
            })
            .chain([ColumnFamilyDescriptor::new(
                rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
                family_options(Cf::Local, &config, None),
            )])
            .collect();
        let db = DB::open_cf_descriptors(&db_options(), dir, families).map_err(storage)?;
        let engine =
            Self { db, safe_points, config, writes: AtomicU64::new(0), flushes: AtomicU64::new(0) };
        engine.check_format(fresh)?;
        Ok(engine)
    }

    fn check_format(&self, fresh: bool) -> Result<(), EngineError> {
        let stored = self.snapshot().get(Cf::Local, local::FORMAT_KEY)?;
        let Some(stored) = stored else {
            // A crash between making the folder and this flush leaves an empty database.
            let empty = fresh || self.is_empty()?;
            if !empty {
                return Err(EngineError::WrongFolder(format!(
                    "{} holds a RocksDB database that is not Quorate's",
                    self.db.path().display()
                )));
            }
            let mut batch = Batch::new();
            batch.put(Cf::Local, local::FORMAT_KEY, &FORMAT_VERSION.to_be_bytes());
            self.write(&batch)?;
            return self.flush();
        };
        let found: [u8; 4] = stored[..]
            .try_into()
            .map_err(|_| EngineError::Damaged("the folder's format version".to_owned()))?;
        let found = u32::from_be_bytes(found);
        if found > FORMAT_VERSION {
            return Err(EngineError::NewerFormat { found, known: FORMAT_VERSION });
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, EngineError> {
        let snapshot = self.snapshot();
        for cf in Cf::ALL {
            let mut iter = snapshot.iter(cf, &[], &[]);
            iter.seek_first();
            if iter.item().is_some() {
                return Ok(false);
            }
            iter.status()?;
        }
        Ok(true)
    }

    fn family(&self, cf: Cf) -> &ColumnFamily {
        self.db.cf_handle(cf.name()).expect("open names every column family")
    }

    /// A key above every key of the family, now and earlier in the batch.
    fn above_all(&self, cf: Cf, batch: &Batch) -> Result<Vec<u8>, EngineError> {
        let snapshot = self.snapshot();
        let mut iter = snapshot.iter(cf, &[], &[]);
        iter.seek_last();
        let stored = iter.item().map(|(key, _)| key.to_vec());
        iter.status()?;
        let in_batch = batch.ops().filter_map(|op| match op {
            BatchOp::Put { cf: put_cf, key, .. } if put_cf == cf => Some(key),
            BatchOp::Put { .. } | BatchOp::Delete { .. } | BatchOp::DeleteRange { .. } => None,
        });
        let mut above = in_batch.max().map(<[u8]>::to_vec).max(stored).unwrap_or_default();
        above.push(0);
        Ok(above)
    }

    fn int_property(&self, cf: Cf, name: &properties::PropName) -> u64 {
        let value = self.db.property_int_value_cf(self.family(cf), name);
        value.ok().flatten().unwrap_or(0)
    }
}

/// Refuses folders that are not ours before RocksDB writes into them; whether it is new.
fn check_folder(dir: &Path) -> Result<bool, EngineError> {
    let failed = |e: std::io::Error| EngineError::Storage(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    if !dir.join("CURRENT").exists() {
        let mut others = fs::read_dir(dir).map_err(failed)?;
        // Leftovers of an open that a crash interrupted are RocksDB's own.
        let foreign = others.find_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let ours = ["LOG", "LOCK", "IDENTITY", "MANIFEST-", "OPTIONS-"]
                .iter()
                .any(|own| name.starts_with(own))
                || name.ends_with(".log")
                || name.ends_with(".dbtmp");
            (!ours).then_some(name)
        });
        return match foreign {
            None => Ok(true),
            Some(name) => Err(EngineError::WrongFolder(format!(
                "{} is neither empty nor a Quorate data folder: it contains `{name}`",
                dir.display()
            ))),
        };
    }
    let known = |name: &str| {
        name == rocksdb::DEFAULT_COLUMN_FAMILY_NAME || Cf::ALL.iter().any(|cf| cf.name() == name)
    };
    let families = DB::list_cf(&Options::default(), dir).map_err(storage)?;
    if families == [rocksdb::DEFAULT_COLUMN_FAMILY_NAME] {
        // Somebody else's, or ours if a crash came before the families were made.
        let db = DB::open_for_read_only(&Options::default(), dir, false).map_err(storage)?;
        let mut rows = db.raw_iterator();
        rows.seek_to_first();
        if rows.valid() {
            return Err(EngineError::WrongFolder(format!(
                "{} holds a RocksDB database that is not Quorate's",
                dir.display()
            )));
        }
        rows.status().map_err(storage)?;
    }
    match families.iter().find(|name| !known(name)) {
        None => Ok(false),
        Some(name) => Err(EngineError::WrongFolder(format!(
            "{} has a column family `{name}`, which this release does not know: it was written \
             by a newer release or is not Quorate's",
            dir.display()
        ))),
    }
}

fn db_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Rule S2.
    options.set_atomic_flush(true);
    options.set_enable_pipelined_write(false);
    options.set_paranoid_checks(true);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_bytes_per_sync(1 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_keep_log_file_num(INFO_LOG_FILES_MAX);
    options
}

fn family_options(cf: Cf, config: &RocksConfig, safe_points: Option<&Arc<SafePoints>>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&config.cache.0);
    table.set_block_size(BLOCK_BYTES);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    let mut options = Options::default();
    let write_buffer = match cf {
        Cf::Latest | Cf::History => config.write_buffer_bytes,
        Cf::Locks | Cf::Txns | Cf::Local => config.write_buffer_bytes.min(SMALL_WRITE_BUFFER_BYTES),
    };
    options.set_write_buffer_size(write_buffer);
    options.set_max_write_buffer_number(3);
    // Rule S2: merging memtables would let families fall behind one another.
    options.set_min_write_buffer_number_to_merge(1);
    match cf {
        // Point reads, most of which find nothing in `locks` and for inserts nothing in `latest`.
        Cf::Latest | Cf::Locks | Cf::Txns => table.set_bloom_filter(BLOOM_BITS_PER_KEY, false),
        Cf::History | Cf::Local => {}
    }
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    if let (Cf::History, Some(points)) = (cf, safe_points) {
        options.set_compaction_filter_factory(HistoryFilters(points.clone()));
    }
    options
}

struct HistoryFilters(Arc<SafePoints>);

impl CompactionFilterFactory for HistoryFilters {
    type Filter = HistoryFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> HistoryFilter {
        HistoryFilter(self.0.table())
    }

    fn name(&self) -> &CStr {
        c"quorate.history"
    }
}

struct HistoryFilter(Arc<SafePointTable>);

impl CompactionFilter for HistoryFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> Decision {
        if self.0.may_drop(key) { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        c"quorate.history"
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut out = WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len());
        for op in batch.ops() {
            match op {
                BatchOp::Put { cf, key, value } => out.put_cf(self.family(cf), key, value),
                BatchOp::Delete { cf, key } => out.delete_cf(self.family(cf), key),
                BatchOp::DeleteRange { cf, start, end: [] } => {
                    let end = self.above_all(cf, batch)?;
                    if start < &end[..] {
                        out.delete_range_cf(self.family(cf), start, &end[..]);
                    }
                }
                BatchOp::DeleteRange { cf, start, end } => {
                    if start < end {
                        out.delete_range_cf(self.family(cf), start, end);
                    }
                }
            }
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(out, &options).map_err(storage)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        let snapshot = self.db.snapshot();
        Box::new(RocksSnapshot { engine: self, snapshot })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let families = Cf::ALL.map(|cf| self.family(cf));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(storage)
    }

    fn durable(&self, local_key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self
            .db
            .get_pinned_cf_opt(self.family(Cf::Local), local_key, &options)
            .map_err(storage)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn export(
        &self,
        snapshot: &dyn EngineSnapshot,
        span: &KeySpan,
        dir: &Path,
    ) -> Result<Vec<ExportedFile>, EngineError> {
        let mut files = Vec::new();
        for cf in Cf::DATA {
            files.extend(self.export_family(snapshot, cf, span, dir)?);
        }
        Ok(files)
    }

    fn ingest(&self, files: &[(Cf, PathBuf)]) -> Result<(), EngineError> {
        for (cf, path) in files {
            let mut options = IngestExternalFileOptions::default();
            // A mark found at the start does it again, so the files must stay.
            options.set_move_files(false);
            self.db
                .ingest_external_file_cf_opts(self.family(*cf), &options, vec![path])
                .map_err(storage)?;
        }
        Ok(())
    }

    fn approximate_bytes(&self, span: &KeySpan) -> Result<u64, EngineError> {
        let mut bytes = 0;
        for cf in Cf::DATA {
            let (start, mut end) = (cf.bound(&span.start), cf.bound(&span.end));
            if end.is_empty() {
                end = self.above_all(cf, &Batch::new())?.into();
            }
            let range = Range::new(&start, &end);
            let sizes = self.db.get_approximate_sizes_cf(self.family(cf), &[range]);
            bytes += sizes.iter().sum::<u64>();
        }
        Ok(bytes)
    }

    fn safe_points(&self) -> &SafePoints {
        &self.safe_points
    }

    fn compact(&self, span: &KeySpan) -> Result<(), EngineError> {
        // RocksDB would flush where memtables overlap the span; this way it always does.
        self.flush()?;
        for cf in Cf::DATA {
            let (start, end) = (cf.bound(&span.start), cf.bound(&span.end));
            let mut options = rocksdb::CompactOptions::default();
            // Files already at the bottom hold what the filter is to drop.
            options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
            let (start, end) = (Some(&start[..]), (!end.is_empty()).then_some(&end[..]));
            self.db.compact_range_cf_opt(self.family(cf), start, end, &options);
        }
        Ok(())
    }

    fn metrics(&self) -> EngineMetrics {
        let sum = |name: &properties::PropName| {
            Cf::ALL.iter().map(|cf| self.int_property(*cf, name)).sum::<u64>()
        };
        EngineMetrics {
            file_bytes: Cf::ALL.map(|cf| self.int_property(cf, properties::TOTAL_SST_FILES_SIZE)),
            unflushed_bytes: sum(properties::CUR_SIZE_ALL_MEM_TABLES),
            cache_bytes: self.config.cache.0.get_usage() as u64,
            reader_bytes: sum(properties::ESTIMATE_TABLE_READERS_MEM),
            writes: self.writes.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }
}

impl RocksEngine {
    fn export_family(
        &self,
        snapshot: &dyn EngineSnapshot,
        cf: Cf,
        span: &KeySpan,
        dir: &Path,
    ) -> Result<Option<ExportedFile>, EngineError> {
        let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
        iter.seek_first();
        if iter.item().is_none() {
            iter.status()?;
            return Ok(None);
        }
        let path = dir.join(format!("{cf}.sst"));
        let options = family_options(cf, &self.config, None);
        let mut writer = SstFileWriter::create(&options);
        writer.open(&path).map_err(storage)?;
        let mut rows = 0;
        while let Some((key, value)) = iter.item() {
            writer.put(key, value).map_err(storage)?;
            rows += 1;
            iter.next();
        }
        iter.status()?;
        // Finishing syncs the file.
        writer.finish().map_err(storage)?;
        let bytes = writer.file_size();
        let crc32 = checksum_file(&path)?;
        Ok(Some(ExportedFile { cf, path, bytes, rows, crc32 }))
    }
}

struct RocksSnapshot<'a> {
    engine: &'a RocksEngine,
    snapshot: Snapshot<'a>,
}

impl EngineSnapshot for RocksSnapshot<'_> {
    fn read(&self, cf: Cf, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        let value = self.snapshot.get_pinned_cf(self.engine.family(cf), key).map_err(storage)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn iter(&self, cf: Cf, lower: &[u8], upper: &[u8]) -> Box<dyn EngineIter + '_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        if !upper.is_empty() {
            options.set_iterate_upper_bound(upper.max(lower));
        }
        let family = self.engine.family(cf);
        Box::new(RocksIter(self.snapshot.raw_iterator_cf_opt(family, options)))
    }
}

struct RocksIter<'a>(DBRawIterator<'a>);

impl EngineIter for RocksIter<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.0.seek(key);
    }

    fn seek_before(&mut self, key: &[u8]) {
        self.0.seek_for_prev(key);
        if self.0.key() == Some(key) {
            self.0.prev();
        }
    }

    fn seek_first(&mut self) {
        self.0.seek_to_first();
    }

    fn seek_last(&mut self) {
        self.0.seek_to_last();
    }

    fn next(&mut self) {
        if self.0.valid() {
            self.0.next();
        }
    }

    fn prev(&mut self) {
        if self.0.valid() {
            self.0.prev();
        }
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.0.item()
    }

    fn status(&self) -> Result<(), EngineError> {
        self.0.status().map_err(storage)
    }
}

#[cfg(test)]
#[path = "rocks_tests.rs"]
mod tests;
