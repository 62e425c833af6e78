//! [`MemEngine`]: the in-memory twin, which a crash drops back to its last flush (rule X2).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_txn::mistakes::Mistake;

use super::{
    Batch, BatchOp, Cf, Engine, EngineError, EngineIter, EngineMetrics, EngineSnapshot,
    ExportedFile, KeySpan, SafePoints,
};

type Map = BTreeMap<Bytes, Bytes>;
type Families = [Arc<Map>; 5];

/// An engine in memory. The object is the disk: after [`crash`](MemEngine::crash) it is opened
/// again by going on with it.
#[derive(Debug, Default)]
pub struct MemEngine {
    state: Mutex<State>,
    safe_points: SafePoints,
}

#[derive(Debug, Default)]
struct State {
    now: Families,
    flushed: Families,
    writes: u64,
    flushes: u64,
}

impl MemEngine {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses everything since the last flush.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.now = state.flushed.clone();
    }

    /// What a crash at this moment leaves, as an engine of its own.
    pub fn after_crash(&self) -> Self {
        let flushed = self.state.lock().flushed.clone();
        let state = State { now: flushed.clone(), flushed, ..State::default() };
        Self { state: Mutex::new(state), safe_points: SafePoints::default() }
    }
}

fn delete_range(map: &mut Map, start: &[u8], end: &[u8]) {
    let keys: Vec<Bytes> = map
        .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
        .take_while(|(key, _)| end.is_empty() || key[..] < *end)
        .map(|(key, _)| key.clone())
        .collect();
    for key in keys {
        map.remove(&key);
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.writes += 1;
        for op in batch.ops() {
            match op {
                BatchOp::Put { cf, key, value } => {
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    Arc::make_mut(&mut state.now[cf.number()]).insert(key, value);
                }
                BatchOp::Delete { cf, key } => {
                    Arc::make_mut(&mut state.now[cf.number()]).remove(key);
                }
                BatchOp::DeleteRange { cf, start, end } => {
                    delete_range(Arc::make_mut(&mut state.now[cf.number()]), start, end);
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot + '_> {
        Box::new(MemSnapshot { families: self.state.lock().now.clone() })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.flushes += 1;
        let kept = state.flushed[Cf::Latest.number()].clone();
        state.flushed = state.now.clone();
        if Mistake::FamilyNotFlushed.is_made() {
            state.flushed[Cf::Latest.number()] = kept;
        }
        Ok(())
    }

    fn durable(&self, local_key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.state.lock();
        Ok(state.flushed[Cf::Local.number()].get(local_key).cloned())
    }

    fn export(
        &self,
        snapshot: &dyn EngineSnapshot,
        span: &KeySpan,
        dir: &Path,
    ) -> Result<Vec<ExportedFile>, EngineError> {
        let mut files = Vec::new();
        for cf in Cf::DATA {
            let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
            let (mut data, mut rows) = (Vec::new(), 0);
            iter.seek_first();
            while let Some((key, value)) = iter.item() {
                for part in [key, value] {
                    data.extend_from_slice(&(part.len() as u64).to_be_bytes());
                    data.extend_from_slice(part);
                }
                rows += 1;
                iter.next();
            }
            iter.status()?;
            if rows > 0 {
                data.extend_from_slice(&crc32fast::hash(&data).to_be_bytes());
                let path = dir.join(format!("{cf}.rows"));
                let (bytes, crc32) = (data.len() as u64, crc32fast::hash(&data));
                write_synced(&path, &data).map_err(|e| failed(&path, &e))?;
                files.push(ExportedFile { cf, path, bytes, rows, crc32 });
            }
        }
        Ok(files)
    }

    fn ingest(&self, files: &[(Cf, PathBuf)]) -> Result<(), EngineError> {
        for (cf, path) in files {
            let data = fs::read(path).map_err(|e| failed(path, &e))?;
            let rows = parse_rows(&data).ok_or_else(|| {
                EngineError::Damaged(format!("{} does not have its checksum", path.display()))
            })?;
            let mut state = self.state.lock();
            Arc::make_mut(&mut state.now[cf.number()]).extend(rows);
        }
        Ok(())
    }

    fn approximate_bytes(&self, span: &KeySpan) -> Result<u64, EngineError> {
        let snapshot = self.snapshot();
        let mut bytes = 0;
        for cf in Cf::DATA {
            let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
            iter.seek_first();
            while let Some((key, value)) = iter.item() {
                bytes += (key.len() + value.len()) as u64;
                iter.next();
            }
        }
        Ok(bytes)
    }

    fn safe_points(&self) -> &SafePoints {
        &self.safe_points
    }

    /// Drops from the flushed state too, as a compaction of files does.
    fn compact(&self, span: &KeySpan) -> Result<(), EngineError> {
        self.flush()?;
        let table = self.safe_points.table();
        let (start, end) = (Cf::History.bound(&span.start), Cf::History.bound(&span.end));
        let State { now, flushed, .. } = &mut *self.state.lock();
        for families in [now, flushed] {
            Arc::make_mut(&mut families[Cf::History.number()]).retain(|key, _| {
                let inside = *key >= start && (end.is_empty() || *key < end);
                !(inside && table.may_drop(key))
            });
        }
        Ok(())
    }

    fn metrics(&self) -> EngineMetrics {
        let state = self.state.lock();
        let bytes = |map: &Map| map.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum::<u64>();
        let file_bytes: [u64; 5] = std::array::from_fn(|i| bytes(&state.flushed[i]));
        let now: u64 = state.now.iter().map(|map| bytes(map)).sum();
        EngineMetrics {
            unflushed_bytes: now.saturating_sub(file_bytes.iter().sum()),
            file_bytes,
            writes: state.writes,
            flushes: state.flushes,
            ..EngineMetrics::default()
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Storage(format!("{}: {error}", path.display()))
}

fn write_synced(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn parse_rows(data: &[u8]) -> Option<Vec<(Bytes, Bytes)>> {
    let (mut rest, checksum) = data.split_last_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let mut part = || {
        let (len, tail) = rest.split_first_chunk::<8>()?;
        let (part, tail) =
            tail.split_at_checked(usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
        rest = tail;
        Some(Bytes::copy_from_slice(part))
    };
    let mut rows = Vec::new();
    while let Some(key) = part() {
        rows.push((key, part()?));
    }
    rest.is_empty().then_some(rows)
}

struct MemSnapshot {
    families: Families,
}

impl EngineSnapshot for MemSnapshot {
    fn read(&self, cf: Cf, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, EngineError> {
        let value = self.families[cf.number()].get(key);
        if let Some(value) = value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn iter(&self, cf: Cf, lower: &[u8], upper: &[u8]) -> Box<dyn EngineIter + '_> {
        Box::new(MemIter {
            map: &self.families[cf.number()],
            lower: lower.to_vec(),
            upper: upper.to_vec(),
            at: None,
        })
    }
}

struct MemIter<'a> {
    map: &'a Map,
    lower: Vec<u8>,
    upper: Vec<u8>,
    at: Option<(&'a Bytes, &'a Bytes)>,
}

impl<'a> MemIter<'a> {
    fn first_from(&self, from: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Bytes)> {
        let (key, value) = self.map.range::<[u8], _>((from, Bound::Unbounded)).next()?;
        (self.upper.is_empty() || key[..] < self.upper[..]).then_some((key, value))
    }

    fn last_below(&self, below: Bound<&[u8]>) -> Option<(&'a Bytes, &'a Bytes)> {
        let (key, value) = self.map.range::<[u8], _>((Bound::Unbounded, below)).next_back()?;
        (key[..] >= self.lower[..]).then_some((key, value))
    }
}

impl EngineIter for MemIter<'_> {
    fn seek(&mut self, key: &[u8]) {
        let key = key.max(&self.lower).to_vec();
        self.at = self.first_from(Bound::Included(&key));
    }

    fn seek_before(&mut self, key: &[u8]) {
        if !self.upper.is_empty() && key >= &self.upper[..] {
            return self.seek_last();
        }
        self.at = self.last_below(Bound::Excluded(key));
    }

    fn seek_first(&mut self) {
        self.at = self.first_from(Bound::Included(&self.lower));
    }

    fn seek_last(&mut self) {
        self.at = if self.upper.is_empty() {
            self.last_below(Bound::Unbounded)
        } else {
            self.last_below(Bound::Excluded(&self.upper))
        };
    }

    fn next(&mut self) {
        self.at = self.at.and_then(|(key, _)| self.first_from(Bound::Excluded(key)));
    }

    fn prev(&mut self) {
        self.at = self.at.and_then(|(key, _)| self.last_below(Bound::Excluded(key)));
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.map(|(key, value)| (&key[..], &value[..]))
    }

    fn status(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn mem_engine_conforms() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut count = 0;
        conformance::check(&mut || Box::new(MemEngine::new()), &mut || {
            count += 1;
            let dir = root.path().join(count.to_string());
            fs::create_dir(&dir).expect("makes a folder");
            dir
        });
    }

    #[test]
    fn crash_drops_back_to_the_last_flush_in_all_families() {
        let engine = MemEngine::new();
        let mut batch = Batch::new();
        batch.put(Cf::Latest, b"a", b"1");
        batch.put(Cf::Local, b"i", b"1");
        engine.write(&batch).expect("in memory");
        engine.flush().expect("in memory");
        batch.clear();
        batch.delete(Cf::Latest, b"a");
        batch.put(Cf::Local, b"i", b"2");
        engine.write(&batch).expect("in memory");
        assert_eq!(engine.durable(b"i").expect("in memory").as_deref(), Some(b"1".as_slice()));
        let left = engine.after_crash();
        engine.crash();
        for view in [engine.snapshot(), left.snapshot()] {
            crash_left_the_flushed(&*view);
        }
    }

    fn crash_left_the_flushed(view: &dyn EngineSnapshot) {
        assert_eq!(view.get(Cf::Latest, b"a").expect("in memory").as_deref(), Some(&b"1"[..]));
        assert_eq!(view.get(Cf::Local, b"i").expect("in memory").as_deref(), Some(&b"1"[..]));
    }
}
