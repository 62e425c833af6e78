//! Raft traffic over tonic: one client stream per peer that reconnects, snapshots as streams of
//! their own, and the receiving side of both.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use quorate_proto::client::MESSAGE_BYTES_MAX;
use quorate_proto::pb::node_client::NodeClient;
use quorate_proto::pb::snapshot_chunk::Part;
use quorate_proto::{NodeId, RemoteNode, pb};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{OutgoingSnapshot, RaftTransport, Resolver, SnapshotFile, remove_files};
use crate::raft::RaftHandle;
use crate::raft::config::{
    FRAME_QUEUE_LEN, RECONNECT_AFTER, SNAPSHOT_BYTES_PER_SECOND, SNAPSHOT_CHUNK_BYTES,
};

/// Sends Raft traffic to nodes over the network.
///
/// # Invariants
/// * One task per peer writes frames, in the order of `send`; a frame is dropped, never delayed
///   behind a dead connection.
pub struct RemoteTransport {
    runtime: tokio::runtime::Handle,
    resolver: Arc<dyn Resolver>,
    handle: Arc<OnceLock<RaftHandle>>,
    peers: Mutex<HashMap<NodeId, mpsc::Sender<pb::RaftFrame>>>,
    /// One snapshot is paced at a time, so that the rate limit holds for all of them together.
    pace: Arc<tokio::sync::Mutex<()>>,
}

impl RemoteTransport {
    /// Tasks run on this runtime; nothing is connected before the first frame.
    pub fn new(runtime: tokio::runtime::Handle, resolver: Arc<dyn Resolver>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            resolver,
            handle: Arc::new(OnceLock::new()),
            peers: Mutex::default(),
            pace: Arc::default(),
        })
    }

    fn start_peer(&self, node: NodeId) -> mpsc::Sender<pb::RaftFrame> {
        let (queue, frames) = mpsc::channel(FRAME_QUEUE_LEN);
        let link = PeerLink { node, resolver: self.resolver.clone(), handle: self.handle.clone() };
        self.runtime.spawn(link.run(frames));
        queue
    }
}

impl RaftTransport for RemoteTransport {
    fn send(&self, node: NodeId, frame: pb::RaftFrame) {
        let mut peers = self.peers.lock();
        let queue = peers.entry(node).or_insert_with(|| self.start_peer(node));
        match queue.try_send(frame) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!(%node, "a Raft frame was dropped: the queue is full");
            }
            // A broken request kept the queue: its task has ended, and another takes over.
            Err(mpsc::error::TrySendError::Closed(frame)) => {
                *queue = self.start_peer(node);
                if queue.try_send(frame).is_err() {
                    tracing::debug!(%node, "a Raft frame was dropped");
                }
            }
        }
    }

    fn send_snapshot(&self, node: NodeId, snapshot: OutgoingSnapshot) {
        let resolver = self.resolver.clone();
        let handle = self.handle.clone();
        let pace = self.pace.clone();
        self.runtime.spawn(async move {
            let outcome = stream_snapshot(node, &*resolver, &handle, pace, &snapshot).await;
            if let Err(why) = &outcome {
                tracing::warn!(%node, why, "a snapshot did not arrive");
            }
            snapshot.finish(outcome.is_ok());
        });
    }

    fn attach(&self, handle: RaftHandle) {
        // Attached once by contract; a second handle would be of the same node.
        let _ = self.handle.set(handle);
    }
}

async fn client(resolver: &dyn Resolver, node: NodeId) -> Result<NodeClient<Channel>, String> {
    let addr = resolver.rpc_addr(node).ok_or("its address is not known")?;
    let channel = RemoteNode::connect(&addr).await.map_err(|e| e.to_string())?;
    Ok(NodeClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

struct PeerLink {
    node: NodeId,
    resolver: Arc<dyn Resolver>,
    handle: Arc<OnceLock<RaftHandle>>,
}

impl PeerLink {
    /// Until the transport is dropped: connect, stream, and after a break drop what has waited
    /// meanwhile (it is stale, and Raft sends again).
    async fn run(self, mut frames: mpsc::Receiver<pb::RaftFrame>) {
        let mut said = false;
        loop {
            match client(&*self.resolver, self.node).await {
                Ok(client) => {
                    said = false;
                    match self.stream(client, frames).await {
                        Some(rest) => frames = rest,
                        None => return,
                    }
                }
                Err(why) if !said => {
                    said = true;
                    tracing::info!(node = %self.node, why, "no connection for Raft traffic");
                }
                Err(_) => {}
            }
            if let Some(handle) = self.handle.get() {
                handle.unreachable(self.node);
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
            loop {
                match frames.try_recv() {
                    Ok(_) => {}
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// Streams until the connection breaks and gives the queue back; `None` once it is closed.
    async fn stream(
        &self,
        mut client: NodeClient<Channel>,
        frames: mpsc::Receiver<pb::RaftFrame>,
    ) -> Option<mpsc::Receiver<pb::RaftFrame>> {
        let slot = Arc::new(Mutex::new(None));
        let lent = Lent { frames: Some(frames), back: slot.clone() };
        let outcome = client.raft(lent.into_stream()).await;
        if let Err(status) = outcome {
            tracing::info!(node = %self.node, %status, "the Raft stream ended");
        }
        if let Some(handle) = self.handle.get() {
            handle.unreachable(self.node);
        }
        // The stream is dropped with the request: the queue is back, unless tonic still holds it.
        for _ in 0..100 {
            if let Some(frames) = slot.lock().take() {
                return (!frames.is_closed() || !frames.is_empty()).then_some(frames);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

/// A queue lent to a request; it comes back when the request drops it.
struct Lent {
    frames: Option<mpsc::Receiver<pb::RaftFrame>>,
    back: Arc<Mutex<Option<mpsc::Receiver<pb::RaftFrame>>>>,
}

impl Lent {
    fn into_stream(mut self) -> impl Stream<Item = pb::RaftFrame> + Send + 'static {
        futures::stream::poll_fn(move |cx| match &mut self.frames {
            Some(frames) => frames.poll_recv(cx),
            None => std::task::Poll::Ready(None),
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.back.lock() = self.frames.take();
    }
}

async fn stream_snapshot(
    node: NodeId,
    resolver: &dyn Resolver,
    handle: &OnceLock<RaftHandle>,
    pace: Arc<tokio::sync::Mutex<()>>,
    snapshot: &OutgoingSnapshot,
) -> Result<(), String> {
    let handle = handle.get().ok_or("the node is not started")?;
    let mut client = client(resolver, node).await?;
    let (chunks, stream) = mpsc::channel(2);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let feed = async {
        for (number, file) in snapshot.files.iter().enumerate() {
            let head = pb::SnapshotHead {
                cluster_id: handle.cluster_id().clone(),
                raft: (number == 0).then(|| snapshot.message.clone()),
                column_family: file.column_family.clone(),
            };
            feed_file(head, file, &chunks, &pace).await?;
        }
        if snapshot.files.is_empty() {
            let head = pb::SnapshotHead {
                cluster_id: handle.cluster_id().clone(),
                raft: Some(snapshot.message.clone()),
                column_family: String::new(),
            };
            send_part(&chunks, Part::Head(head)).await?;
        }
        drop(chunks);
        Ok::<(), String>(())
    };
    let (fed, answered) = futures::join!(feed, client.snapshot(stream));
    answered.map_err(|status| status.to_string())?;
    fed
}

async fn send_part(chunks: &mpsc::Sender<pb::SnapshotChunk>, part: Part) -> Result<(), String> {
    let chunk = pb::SnapshotChunk { part: Some(part) };
    chunks.send(chunk).await.map_err(|_| String::from("the receiver hung up"))
}

async fn feed_file(
    head: pb::SnapshotHead,
    file: &SnapshotFile,
    chunks: &mpsc::Sender<pb::SnapshotChunk>,
    pace: &tokio::sync::Mutex<()>,
) -> Result<(), String> {
    send_part(chunks, Part::Head(head)).await?;
    let mut from = tokio::fs::File::open(&file.path).await.map_err(|e| e.to_string())?;
    let mut crc = crc32fast::Hasher::new();
    loop {
        let mut data = Vec::with_capacity(SNAPSHOT_CHUNK_BYTES);
        let mut part = (&mut from).take(SNAPSHOT_CHUNK_BYTES as u64);
        let read = part.read_to_end(&mut data).await.map_err(|e| e.to_string())?;
        if read == 0 {
            break;
        }
        crc.update(&data);
        {
            let _turn = pace.lock().await;
            let nanos = read as u64 * 1_000_000_000 / SNAPSHOT_BYTES_PER_SECOND;
            tokio::time::sleep(Duration::from_nanos(nanos)).await;
        }
        send_part(chunks, Part::Data(data.into())).await?;
    }
    send_part(chunks, Part::Tail(pb::SnapshotTail { crc32: crc.finalize() })).await
}

/// The server's side of `Raft`: hands each frame to the driver until the stream ends.
///
/// # Errors
/// The stream's own.
pub async fn serve_raft(
    handle: &RaftHandle,
    mut frames: Streaming<pb::RaftFrame>,
) -> Result<pb::RaftEnd, Status> {
    while let Some(frame) = frames.next().await {
        handle.receive(frame?);
    }
    Ok(pb::RaftEnd {})
}

/// The server's side of `Snapshot`: writes the files, checks them, and hands them to the driver.
///
/// # Errors
/// A chunk out of order, a checksum that differs, another cluster, a full disk.
pub async fn serve_snapshot(
    handle: &RaftHandle,
    mut chunks: Streaming<pb::SnapshotChunk>,
) -> Result<pb::SnapshotEnd, Status> {
    let mut receiver = SnapshotReceiver::new(handle.clone());
    while let Some(chunk) = chunks.next().await {
        receiver.take(chunk?)?;
    }
    receiver.finish()?;
    Ok(pb::SnapshotEnd {})
}

struct SnapshotReceiver {
    handle: RaftHandle,
    message: Option<pb::RaftMessage>,
    files: Vec<SnapshotFile>,
    open: Option<(std::fs::File, crc32fast::Hasher)>,
    handed_over: bool,
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);

fn io_failed(error: std::io::Error) -> Status {
    Status::internal(format!("the snapshot could not be written: {error}"))
}

impl SnapshotReceiver {
    fn new(handle: RaftHandle) -> Self {
        Self { handle, message: None, files: Vec::new(), open: None, handed_over: false }
    }

    fn take(&mut self, chunk: pb::SnapshotChunk) -> Result<(), Status> {
        match chunk.part {
            Some(Part::Head(head)) => self.head(head),
            Some(Part::Data(data)) => {
                let (file, crc) = self
                    .open
                    .as_mut()
                    .ok_or_else(|| Status::invalid_argument("snapshot data without a head"))?;
                crc.update(&data);
                file.write_all(&data).map_err(io_failed)
            }
            Some(Part::Tail(tail)) => {
                let (file, crc) = self
                    .open
                    .take()
                    .ok_or_else(|| Status::invalid_argument("snapshot tail without a head"))?;
                if crc.finalize() != tail.crc32 {
                    return Err(Status::data_loss("the snapshot's checksum differs"));
                }
                file.sync_all().map_err(io_failed)
            }
            None => Err(Status::invalid_argument("an empty snapshot chunk")),
        }
    }

    fn head(&mut self, head: pb::SnapshotHead) -> Result<(), Status> {
        if head.cluster_id != *self.handle.cluster_id() {
            return Err(Status::permission_denied("a snapshot of another cluster"));
        }
        if self.open.is_some() {
            return Err(Status::invalid_argument("a snapshot file without a tail"));
        }
        match (head.raft, &self.message) {
            (Some(message), None) => self.message = Some(message),
            (None, Some(_)) => {}
            _ => return Err(Status::invalid_argument("a snapshot has one Raft message")),
        }
        if head.column_family.is_empty() {
            return Ok(());
        }
        let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
        let name = format!("in-{}-{number}.sst", std::process::id());
        let path: PathBuf = self.handle.snapshot_dir().join(name);
        std::fs::create_dir_all(self.handle.snapshot_dir()).map_err(io_failed)?;
        let file = std::fs::File::create(&path).map_err(io_failed)?;
        self.files.push(SnapshotFile { column_family: head.column_family, path });
        self.open = Some((file, crc32fast::Hasher::new()));
        Ok(())
    }

    fn finish(mut self) -> Result<(), Status> {
        if self.open.is_some() {
            return Err(Status::invalid_argument("a snapshot file without a tail"));
        }
        let message =
            self.message.take().ok_or_else(|| Status::invalid_argument("an empty snapshot"))?;
        self.handed_over = true;
        self.handle.receive_snapshot(message, std::mem::take(&mut self.files));
        Ok(())
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.handed_over {
            remove_files(&self.files);
        }
    }
}
