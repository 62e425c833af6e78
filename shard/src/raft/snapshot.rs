//! Range snapshots (rule S4): built beside the worker from one engine snapshot, installed under a
//! durable mark, so that a crash in the middle is redone at the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use quorate_proto::{PeerId, RangeId, pb};
use raft::eraftpb::{Message, Snapshot};

use super::config::SNAPSHOTS_SENDING_MAX;
use super::group::conf_state_of;
use super::handle::{Input, NodeShared};
use super::shared::RaftMetrics;
use super::worker::Worker;
use crate::engine::{Batch, Cf, KeySpan, local};
use crate::log::{LogBatch, Truncated};
use crate::transport::{OutgoingSnapshot, SnapshotDone, SnapshotFile, remove_files};

/// Names of marks in the log store.
pub(crate) const MARK_PREFIX: &[u8] = b"raft/installing/";

static BUILT: AtomicU64 = AtomicU64::new(0);

/// What must be known to install a snapshot again.
///
/// # Invariants
/// * While a mark exists, its files exist.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    pub old: KeySpan,
    pub state: pb::RangeState,
    pub files: Vec<SnapshotFile>,
}

pub(crate) fn mark_key(range: RangeId) -> Vec<u8> {
    [MARK_PREFIX, &range.0.to_be_bytes()].concat()
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_be_bytes());
    to.extend(bytes);
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let bytes = rest.get(..length)?;
    *from = &rest[length..];
    Some(bytes)
}

impl Mark {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, &self.old.start);
        put(&mut bytes, &self.old.end);
        put(&mut bytes, &self.state.encode_to_vec());
        for file in &self.files {
            put(&mut bytes, file.column_family.as_bytes());
            put(&mut bytes, file.path.as_os_str().as_encoded_bytes());
        }
        bytes
    }

    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let from = &mut bytes;
        let old = KeySpan::new(Bytes::copy_from_slice(take(from)?), take(from)?.to_vec());
        let state = pb::RangeState::decode(take(from)?).ok()?;
        let mut files = Vec::new();
        while !from.is_empty() {
            let column_family = String::from_utf8(take(from)?.to_vec()).ok()?;
            let path = PathBuf::from(String::from_utf8(take(from)?.to_vec()).ok()?);
            files.push(SnapshotFile { column_family, path });
        }
        Some(Self { old, state, files })
    }

    fn span(&self) -> KeySpan {
        let descriptor = self.state.descriptor.clone().unwrap_or_default();
        KeySpan::new(descriptor.start, descriptor.end)
    }

    fn range(&self) -> RangeId {
        RangeId(self.state.descriptor.as_ref().map_or(0, |d| d.range_id))
    }

    /// Delete, ingest, flush; then the log begins after the snapshot and the mark goes. Doing all
    /// of it again changes nothing.
    pub fn install(
        &self,
        node: &NodeShared,
        hard_state: Option<raft::eraftpb::HardState>,
    ) -> Result<(), String> {
        let text = |e: crate::engine::EngineError| e.to_string();
        let engine = &node.deps.engine;
        let mut batch = Batch::new();
        batch.delete_span(&self.old);
        batch.delete_span(&self.span());
        engine.write(&batch).map_err(text)?;
        let lent = self.lend_files()?;
        engine.ingest(&lent).map_err(text)?;
        let mut batch = Batch::new();
        let key = local::range_state_key(self.range());
        batch.put(Cf::Local, &key, &self.state.encode_to_vec());
        engine.write(&batch).map_err(text)?;
        RaftMetrics::inc(&node.metrics.engine_flushes);
        engine.flush().map_err(text)?;
        let index = self.state.applied_index;
        let log = &node.deps.log;
        let mut hard_state = match hard_state {
            Some(hard_state) => hard_state,
            None => log.hard_state(self.range()).map_err(|e| e.to_string())?.unwrap_or_default(),
        };
        if hard_state.term < self.state.applied_term {
            hard_state.term = self.state.applied_term;
            hard_state.vote = 0;
        }
        hard_state.commit = index;
        let mut batch = LogBatch::new();
        batch.reset(self.range(), Truncated { index, term: self.state.applied_term });
        batch.hard_state(self.range(), hard_state);
        batch.delete_meta(mark_key(self.range()));
        log.append(&mut batch).map_err(|e| e.to_string())?;
        for (_, path) in lent {
            // Ingesting may have moved it away.
            let _ = std::fs::remove_file(path);
        }
        remove_files(&self.files);
        Ok(())
    }

    /// Ingesting may consume the files, but redoing needs them: it gets links.
    fn lend_files(&self) -> Result<Vec<(Cf, PathBuf)>, String> {
        let mut lent = Vec::new();
        for file in &self.files {
            let cf = Cf::DATA
                .into_iter()
                .find(|cf| cf.name() == file.column_family)
                .ok_or_else(|| format!("no column family {}", file.column_family))?;
            let link = file.path.with_extension("ingest");
            let _ = std::fs::remove_file(&link);
            std::fs::hard_link(&file.path, &link)
                .or_else(|_| std::fs::copy(&file.path, &link).map(|_| ()))
                .map_err(|e| format!("{}: {e}", file.path.display()))?;
            lent.push((cf, link));
        }
        Ok(lent)
    }
}

/// Counts a snapshot on its way; one less when dropped.
struct Sending(Arc<NodeShared>);

impl Sending {
    fn begin(node: &Arc<NodeShared>) -> Option<Self> {
        let mut sending = node.snapshots_sending.lock();
        if *sending >= SNAPSHOTS_SENDING_MAX {
            return None;
        }
        *sending += 1;
        Some(Self(node.clone()))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        *self.0.snapshots_sending.lock() -= 1;
    }
}

impl Worker {
    /// Raft wants a follower to get a snapshot: builds it beside the worker.
    pub(super) fn start_snapshot(&mut self, range: RangeId, message: Message) {
        let peer = PeerId(message.to);
        let Some(group) = self.groups.get(&range) else { return };
        let envelope = group.envelope(message.to, Vec::new());
        let (Some((to, envelope)), Some(sending)) = (envelope, Sending::begin(&self.node)) else {
            // Raft tries again when the follower next answers a heartbeat.
            self.node.post(range, Input::SnapshotSent { range, peer, ok: false });
            return;
        };
        let node = self.node.clone();
        self.node.deps.background.run(Box::new(move || {
            let number = BUILT.fetch_add(1, Ordering::Relaxed);
            let dir = node.config.snapshot_dir.join(format!("out-{}-{number}", range.0));
            let built = build(&node, range, message, envelope, &dir);
            let done_node = node.clone();
            let done: SnapshotDone = Box::new(move |ok: bool| {
                let node = done_node;
                // Empty by now; what is left goes at the next start.
                let _ = std::fs::remove_dir_all(&dir);
                drop(sending);
                RaftMetrics::inc(match ok {
                    true => &node.metrics.snapshots_sent,
                    false => &node.metrics.snapshots_failed,
                });
                node.post(range, Input::SnapshotSent { range, peer, ok });
            });
            match built {
                Ok((envelope, files)) => {
                    let outgoing = OutgoingSnapshot::new(envelope, files, done);
                    node.deps.transport.send_snapshot(to, outgoing);
                }
                Err(why) => {
                    tracing::warn!(%range, why, "a snapshot could not be built");
                    done(false);
                }
            }
        }));
    }

    /// Raft's `Ready` holds a snapshot that arrived: makes it the replica's state.
    pub(super) fn install_snapshot(
        &mut self,
        range: RangeId,
        snapshot: Snapshot,
    ) -> Result<(), String> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        let index = snapshot.get_metadata().index;
        let arrived = group.arrived.take().filter(|arrived| arrived.index == index);
        let arrived = arrived.ok_or("a snapshot without its files")?;
        let state = pb::RangeState::decode(&snapshot.data[..]).map_err(|e| e.to_string())?;
        let old = match group.initialised() {
            true => KeySpan::new(group.descriptor().start, group.descriptor().end),
            false => {
                let descriptor = state.descriptor.clone().unwrap_or_default();
                KeySpan::new(descriptor.start, descriptor.end)
            }
        };
        let mark = Mark { old, state, files: arrived.files };
        let mut batch = LogBatch::new();
        batch.put_meta(mark_key(range), mark.encode());
        self.node.deps.log.append(&mut batch).map_err(|e| e.to_string())?;
        mark.install(&self.node, Some(group.raw.raft.hard_state()))?;
        let span = mark.span();
        self.node.bounds.lock().set(range, &span.start, &span.end);
        let to = Truncated { index, term: mark.state.applied_term };
        group.raw.mut_store().reset(to, conf_state_of(&mark.state)?);
        group.state = mark.state;
        group.durable = index;
        match &mut group.machine {
            Some(machine) => machine.snapshot_installed(&group.state),
            None => {
                let factory = &self.node.deps.factory;
                group.machine = Some(factory.create(group.shared.clone(), &group.state));
                self.node.groups.write().insert(range, group.shared.clone());
            }
        }
        RaftMetrics::inc(&self.node.metrics.snapshots_installed);
        tracing::info!(%range, index, "installed a snapshot");
        Ok(())
    }
}

/// Exports rows and state as one engine snapshot shows them: at the index Raft named or a later
/// one.
fn build(
    node: &NodeShared,
    range: RangeId,
    mut message: Message,
    mut envelope: pb::RaftMessage,
    dir: &std::path::Path,
) -> Result<(pb::RaftMessage, Vec<SnapshotFile>), String> {
    let engine = &node.deps.engine;
    let view = engine.snapshot();
    let bytes = view
        .get(Cf::Local, &local::range_state_key(range))
        .map_err(|e| e.to_string())?
        .ok_or("the range is gone")?;
    let state = pb::RangeState::decode(&bytes[..]).map_err(|e| e.to_string())?;
    let descriptor = state.descriptor.clone().unwrap_or_default();
    if state.applied_index < message.get_snapshot().get_metadata().index {
        return Err(String::from("the engine is behind what Raft asked for"));
    }
    std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    let span = KeySpan::new(descriptor.start.clone(), descriptor.end.clone());
    let exported = engine.export(&*view, &span, dir).map_err(|e| e.to_string())?;
    let snapshot = message.mut_snapshot();
    snapshot.data = bytes;
    let metadata = snapshot.mut_metadata();
    metadata.index = state.applied_index;
    metadata.term = state.applied_term;
    metadata.set_conf_state(conf_state_of(&state)?);
    envelope.epoch = descriptor.epoch;
    envelope.start = descriptor.start;
    envelope.end = descriptor.end;
    envelope.message = message.write_to_bytes().map_err(|e| e.to_string())?.into();
    let files = exported.into_iter().map(|file| SnapshotFile {
        column_family: String::from(file.cf.name()),
        path: file.path,
    });
    Ok((envelope, files.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_survives_its_encoding() {
        let mark = Mark {
            old: KeySpan::new(&b"a"[..], Bytes::new()),
            state: pb::RangeState { applied_index: 7, ..pb::RangeState::default() },
            files: vec![SnapshotFile {
                column_family: String::from("latest"),
                path: PathBuf::from("x/y.sst"),
            }],
        };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark.clone()));
        assert_eq!(Mark::decode(&mark.encode()[1..]), None);
    }
}
