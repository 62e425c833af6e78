//! [`Router`]: Raft traffic between nodes of one process, for tests and the one-process cluster.
//! Frames are handed over as they are; links can be cut.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quorate_proto::{NodeId, pb};

use super::{OutgoingSnapshot, RaftTransport, SnapshotFile};
use crate::raft::RaftHandle;

/// Connects the nodes of one process.
#[derive(Default)]
pub struct Router {
    nodes: RwLock<HashMap<NodeId, RaftHandle>>,
    cut: RwLock<HashSet<(NodeId, NodeId)>>,
    copies: AtomicU64,
}

impl Router {
    /// No nodes yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The transport of one node.
    pub fn transport(self: &Arc<Self>, node: NodeId) -> Arc<LocalTransport> {
        Arc::new(LocalTransport { node, router: self.clone() })
    }

    /// Nothing passes between the two any more, either way.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.cut.write().extend([(a, b), (b, a)]);
    }

    /// Nothing passes from the first to the second any more.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.cut.write().insert((from, to));
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.cut.write().clear();
    }

    /// The node is gone: frames to it are lost.
    pub fn remove(&self, node: NodeId) {
        self.nodes.write().remove(&node);
    }

    fn target(&self, from: NodeId, to: NodeId) -> Option<RaftHandle> {
        if self.cut.read().contains(&(from, to)) {
            return None;
        }
        self.nodes.read().get(&to).cloned()
    }
}

/// One node's side of a [`Router`].
pub struct LocalTransport {
    node: NodeId,
    router: Arc<Router>,
}

impl LocalTransport {
    fn copy(&self, target: &RaftHandle, files: &[SnapshotFile]) -> std::io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(target.snapshot_dir())?;
        files
            .iter()
            .map(|file| {
                let number = self.router.copies.fetch_add(1, Ordering::Relaxed);
                let path = target.snapshot_dir().join(format!("in-{}-{number}.sst", self.node.0));
                std::fs::copy(&file.path, &path)?;
                std::fs::File::open(&path)?.sync_all()?;
                Ok(path)
            })
            .collect()
    }
}

impl RaftTransport for LocalTransport {
    fn send(&self, node: NodeId, frame: pb::RaftFrame) {
        if let Some(target) = self.router.target(self.node, node) {
            target.receive(frame);
        }
    }

    fn send_snapshot(&self, node: NodeId, snapshot: OutgoingSnapshot) {
        let Some(target) = self.router.target(self.node, node) else {
            return snapshot.finish(false);
        };
        match self.copy(&target, &snapshot.files) {
            Ok(paths) => {
                let files = snapshot.files.iter().zip(paths);
                let files = files
                    .map(|(file, path)| SnapshotFile {
                        column_family: file.column_family.clone(),
                        path,
                    })
                    .collect();
                target.receive_snapshot(snapshot.message.clone(), files);
                snapshot.finish(true);
            }
            Err(error) => {
                tracing::warn!(%node, %error, "a snapshot could not be handed over");
                snapshot.finish(false);
            }
        }
    }

    fn attach(&self, handle: RaftHandle) {
        self.router.nodes.write().insert(self.node, handle);
    }
}
