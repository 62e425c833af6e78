//! Range snapshots (rule S4): built beside the worker from one engine snapshot, installed under
//! the engine's durable mark, so that a crash in the middle is redone at the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use protobuf::Message as _;
use quorate_proto::{PeerId, RangeId, pb};
use raft::eraftpb::{Message, Snapshot};

use super::config::SNAPSHOTS_SENDING_MAX;
use super::group::conf_state_of;
use super::handle::{Input, NodeShared};
use super::shared::RaftMetrics;
use super::worker::Worker;
use crate::engine::install::{Install, install};
use crate::engine::{Cf, KeySpan, local};
use crate::log::Truncated;
use crate::transport::{OutgoingSnapshot, SnapshotDone, SnapshotFile, remove_files};

static BUILT: AtomicU64 = AtomicU64::new(0);

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
        let new = state.descriptor.clone().unwrap_or_default();
        // The new bounds lie within the old ones: all of those rows go.
        let replaced = match group.initialised() {
            true => group.descriptor(),
            false => new.clone(),
        };
        let at = Truncated { index, term: state.applied_term };
        let job = Install {
            range,
            span: KeySpan::new(replaced.start, replaced.end),
            files: with_families(&arrived.files)?,
            state: snapshot.data.clone(),
            at,
        };
        let hard_state = Some(group.raw.raft.hard_state());
        if let Some(machine) = &mut group.machine {
            machine.rows_leave();
        }
        let deps = &self.node.deps;
        RaftMetrics::inc(&self.node.metrics.engine_flushes);
        install(&*deps.engine, &*deps.log, &job, hard_state, &mut |_| {})
            .map_err(|e| e.to_string())?;
        remove_files(&arrived.files);
        self.node.bounds.lock().set(range, &new.start, &new.end);
        group.raw.mut_store().reset(at, conf_state_of(&state)?);
        group.state = state;
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

fn with_families(files: &[SnapshotFile]) -> Result<Vec<(Cf, PathBuf)>, String> {
    files
        .iter()
        .map(|file| {
            let cf = Cf::DATA.into_iter().find(|cf| cf.name() == file.column_family);
            let cf = cf.ok_or_else(|| format!("no column family {}", file.column_family))?;
            Ok((cf, file.path.clone()))
        })
        .collect()
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
    let files = exported
        .into_iter()
        .map(|file| SnapshotFile { column_family: String::from(file.cf.name()), path: file.path });
    Ok((envelope, files.collect()))
}
