//! How Raft traffic gets from node to node: the trait, an in-process router for tests and the
//! one-process cluster ([`local`]), and tonic streams ([`remote`]).
//!
//! Delivery is best effort and in order per pair of nodes while nothing is lost: queues are
//! bounded and drop when full, since Raft sends again.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_proto::{NodeId, pb};

use crate::raft::RaftHandle;

pub mod local;
pub mod remote;

/// One SST file of a range snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The column family's name, as the engine calls it.
    pub column_family: String,
    /// The file.
    pub path: PathBuf,
}

/// Told whether a snapshot arrived.
pub type SnapshotDone = Box<dyn FnOnce(bool) + Send + Sync>;

/// A snapshot that is ready to leave. Dropping it without `finish` counts as failed.
pub struct OutgoingSnapshot {
    /// The `MsgSnapshot` in its envelope.
    pub message: pb::RaftMessage,
    /// Its files; removed when this value is dropped.
    pub files: Vec<SnapshotFile>,
    done: Option<SnapshotDone>,
}

impl OutgoingSnapshot {
    /// `done` is told exactly once whether the snapshot arrived whole.
    pub fn new(message: pb::RaftMessage, files: Vec<SnapshotFile>, done: SnapshotDone) -> Self {
        Self { message, files, done: Some(done) }
    }

    /// It arrived, or it did not.
    pub fn finish(mut self, arrived: bool) {
        remove_files(&self.files);
        if let Some(done) = self.done.take() {
            done(arrived);
        }
    }
}

impl Drop for OutgoingSnapshot {
    fn drop(&mut self) {
        remove_files(&self.files);
        if let Some(done) = self.done.take() {
            done(false);
        }
    }
}

/// Removes files that nobody needs any more; what is left over goes at the next start.
pub fn remove_files(files: &[SnapshotFile]) {
    for file in files {
        if let Err(error) = std::fs::remove_file(&file.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %file.path.display(), %error, "a snapshot file stays behind");
        }
    }
}

/// The way to other nodes. Called by the workers: must not block.
pub trait RaftTransport: Send + Sync {
    /// Sends a frame, or drops it.
    fn send(&self, node: NodeId, frame: pb::RaftFrame);

    /// Streams a snapshot, rate limited, and says whether it arrived.
    fn send_snapshot(&self, node: NodeId, snapshot: OutgoingSnapshot);

    /// Called once with the handle that received frames go to.
    fn attach(&self, handle: RaftHandle);
}

/// Where nodes are reached.
pub trait Resolver: Send + Sync {
    /// `host:port` of a node's RPC server, if known.
    fn rpc_addr(&self, node: NodeId) -> Option<String>;
}

/// A transport that is shared.
pub type SharedTransport = Arc<dyn RaftTransport>;
