//! Installing a range's snapshot (rule S4), so that a crash at any moment leaves either the old
//! range or, after [`resume_installs`] at the next start, the whole new one.
//!
//! durable mark in the Raft log → delete the range's rows → ingest → write the range's state
//! → flush everything → clear the mark and set the Raft log to the snapshot's index, in one batch.

use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_proto::RangeId;
use quorate_txn::mistakes::Mistake;
use raft::eraftpb::HardState;

use super::{Batch, Cf, Engine, EngineError, KeySpan, local};
use crate::log::{LogBatch, LogError, LogStore, Truncated};

/// Marks in the log's node-local facts begin with this.
const MARK_PREFIX: &[u8] = b"install/";

/// A snapshot whose files are here, complete, checked and synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Which range.
    pub range: RangeId,
    /// The rows that are replaced: those of the snapshot's bounds and of what this replica had.
    pub span: KeySpan,
    /// What `export` wrote, at most one per family. They must stay until this is done.
    pub files: Vec<(Cf, PathBuf)>,
    /// The encoded `RangeState` that goes with the rows.
    pub state: Bytes,
    /// The snapshot's index and term: where the Raft log goes on.
    pub at: Truncated,
}

/// A step of an installation, told after it is done; for crash tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallStep {
    /// The mark is durable.
    Marked,
    /// The old rows are gone.
    Deleted,
    /// The files are in.
    Ingested,
    /// The state is written.
    Written,
    /// All of it is durable.
    Flushed,
    /// The mark is cleared and the log set.
    Cleared,
}

/// Why an installation failed: in either case stop the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// In the engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// In the log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Installs a snapshot. The hard state, with its commit index at the snapshot's, becomes durable
/// with the end of it.
///
/// # Errors
/// [`InstallError`]: stop the node; the next start does it again.
pub fn install(
    engine: &dyn Engine,
    log: &dyn LogStore,
    install: &Install,
    hard_state: Option<HardState>,
    told: &mut dyn FnMut(InstallStep),
) -> Result<(), InstallError> {
    // The mark makes the next start go on with the installation, whatever the engine has fallen
    // back to: what was applied before, perhaps a split that made another range here, is not
    // applied again (rule S3).
    engine.flush()?;
    let mut batch = LogBatch::new();
    if !Mistake::InstallUnmarked.is_made() {
        batch.put_meta(mark_key(install.range), encode(install));
    }
    if let Some(state) = hard_state {
        batch.hard_state(install.range, state);
    }
    log.append(&mut batch)?;
    told(InstallStep::Marked);
    carry_out(engine, log, install, told)
}

/// Does again what a crash interrupted; call it at the start before anything is read. The ranges
/// it was done for.
///
/// # Errors
/// [`InstallError`]: the node cannot start.
pub fn resume_installs(
    engine: &dyn Engine,
    log: &dyn LogStore,
) -> Result<Vec<RangeId>, InstallError> {
    let mut done = Vec::new();
    for (_, mark) in log.meta_with_prefix(MARK_PREFIX) {
        let install = decode(mark)
            .ok_or_else(|| LogError::Damaged("the mark of a snapshot's installation".to_owned()))?;
        carry_out(engine, log, &install, &mut |_| {})?;
        done.push(install.range);
    }
    Ok(done)
}

fn carry_out(
    engine: &dyn Engine,
    log: &dyn LogStore,
    install: &Install,
    told: &mut dyn FnMut(InstallStep),
) -> Result<(), InstallError> {
    let mut batch = Batch::new();
    batch.delete_span(&install.span);
    engine.write(&batch)?;
    told(InstallStep::Deleted);
    engine.ingest(&install.files)?;
    told(InstallStep::Ingested);
    batch.clear();
    batch.put(Cf::Local, &local::range_state_key(install.range), &install.state);
    engine.write(&batch)?;
    told(InstallStep::Written);
    engine.flush()?;
    told(InstallStep::Flushed);
    let mut done = LogBatch::new();
    done.reset(install.range, install.at);
    done.delete_meta(mark_key(install.range));
    log.append(&mut done)?;
    told(InstallStep::Cleared);
    Ok(())
}

fn mark_key(range: RangeId) -> Vec<u8> {
    [MARK_PREFIX, &range.0.to_be_bytes()].concat()
}

fn encode(install: &Install) -> Bytes {
    let mut out = BytesMut::new();
    let mut part = |bytes: &[u8]| {
        out.put_u64(bytes.len() as u64);
        out.put_slice(bytes);
    };
    part(&install.range.0.to_be_bytes());
    part(&install.at.index.to_be_bytes());
    part(&install.at.term.to_be_bytes());
    part(&install.span.start);
    part(&install.span.end);
    part(&install.state);
    for (cf, path) in &install.files {
        part(cf.name().as_bytes());
        part(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    }
    out.freeze()
}

fn decode(mut bytes: Bytes) -> Option<Install> {
    fn part(bytes: &mut Bytes) -> Option<Bytes> {
        let len = usize::try_from(bytes.try_get_u64().ok()?).ok()?;
        (len <= bytes.len()).then(|| bytes.split_to(len))
    }
    fn number(bytes: &mut Bytes) -> Option<u64> {
        Some(u64::from_be_bytes(part(bytes)?[..].try_into().ok()?))
    }
    let range = RangeId(number(&mut bytes)?);
    let (index, term) = (number(&mut bytes)?, number(&mut bytes)?);
    let (start, end) = (part(&mut bytes)?, part(&mut bytes)?);
    let state = part(&mut bytes)?;
    let mut files = Vec::new();
    while !bytes.is_empty() {
        let name = part(&mut bytes)?;
        let cf = Cf::ALL.into_iter().find(|cf| cf.name().as_bytes() == name)?;
        let path = part(&mut bytes)?;
        let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&path);
        files.push((cf, PathBuf::from(path)));
    }
    Some(Install {
        range,
        span: KeySpan { start, end },
        files,
        state,
        at: Truncated { index, term },
    })
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
