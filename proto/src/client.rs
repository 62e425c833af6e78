//! [`RemoteNode`]: calls to a node in another process, over one tonic stream.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: it owns the connection's task and its deadline"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};

use crate::error::CallError;
use crate::pb;
use crate::pb::node_client::NodeClient;
use crate::service::NodeService;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a peer is asked whether it is there, and how long it may take to say so. One that is
/// frozen or cut off breaks no connection by itself.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Added to a call's own timeout for the way there and back.
const TRAVEL_ALLOWANCE: Duration = Duration::from_millis(500);
/// For calls that name no timeout.
const CALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Calls waiting to be written; more make callers wait.
const QUEUE_LEN: usize = 1024;
/// Calls that travel in one frame at most.
const CALLS_PER_FRAME_MAX: usize = 128;
/// Largest message taken from or sent to a peer.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes from which on nothing is added to a frame: one more call or reply, as large as any is,
/// makes no message that is too large.
pub(crate) const FRAME_BYTES_ENOUGH: usize = 8 << 20;

type Waiters = Arc<parking::Waiters>;

/// A node reached over the network. Connects on first use and again after a break.
///
/// # Invariants
/// * A tag belongs to one call of one connection: an answer never reaches another call.
/// * Every waiter is answered: by its reply, or by `Broken` when the connection ends.
pub struct RemoteNode {
    addr: String,
    link: Mutex<Option<Link>>,
    next_tag: AtomicU64,
}

#[derive(Clone)]
struct Link {
    queue: mpsc::Sender<pb::TaggedCall>,
    waiters: Waiters,
}

mod parking {
    //! The calls of one connection that wait for their answer.
    use super::{HashMap, oneshot, pb};
    use std::sync::Mutex;

    #[derive(Default)]
    pub struct Waiters(Mutex<Option<HashMap<u64, oneshot::Sender<pb::Reply>>>>);

    impl Waiters {
        pub fn open() -> Self {
            Self(Mutex::new(Some(HashMap::new())))
        }

        fn with<R>(
            &self,
            f: impl FnOnce(&mut Option<HashMap<u64, oneshot::Sender<pb::Reply>>>) -> R,
        ) -> R {
            f(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
        }

        /// `None` once the connection has ended.
        pub fn add(&self, tag: u64) -> Option<oneshot::Receiver<pb::Reply>> {
            let (tx, rx) = oneshot::channel();
            self.with(|map| map.as_mut().map(|map| map.insert(tag, tx)))?;
            Some(rx)
        }

        pub fn answer(&self, tag: u64, reply: pb::Reply) {
            if let Some(waiter) = self.with(|map| map.as_mut().and_then(|map| map.remove(&tag))) {
                // The caller may have given up; its answer is then nobody's.
                let _ = waiter.send(reply);
            }
        }

        pub fn forget(&self, tag: u64) {
            self.with(|map| map.as_mut().and_then(|map| map.remove(&tag)));
        }

        /// Ends the connection: dropping the senders wakes every waiter.
        pub fn close(&self) {
            self.with(Option::take);
        }

        pub fn closed(&self) -> bool {
            self.with(|map| map.is_none())
        }
    }
}

impl RemoteNode {
    /// A node at `host:port`; nothing is sent before the first call.
    pub fn new(addr: impl Into<String>) -> Self {
        Self { addr: addr.into(), link: Mutex::new(None), next_tag: AtomicU64::new(1) }
    }

    /// A tonic channel to `host:port`, connected.
    ///
    /// # Errors
    /// [`CallError::Unreachable`].
    pub async fn connect(addr: &str) -> Result<Channel, CallError> {
        let unreachable = |why: String| CallError::Unreachable { node: addr.to_string(), why };
        Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|e| unreachable(e.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|e| {
                let source = std::error::Error::source(&e).map(ToString::to_string);
                unreachable(source.unwrap_or_else(|| e.to_string()))
            })
    }

    async fn link(&self) -> Result<Link, CallError> {
        let mut slot = self.link.lock().await;
        if let Some(link) = slot.as_ref()
            && !link.waiters.closed()
        {
            return Ok(link.clone());
        }
        let channel = Self::connect(&self.addr).await?;
        let link = self.open(channel);
        *slot = Some(link.clone());
        Ok(link)
    }

    fn open(&self, channel: Channel) -> Link {
        let mut client = NodeClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, calls) = mpsc::channel(QUEUE_LEN);
        let waiters: Waiters = Arc::new(parking::Waiters::open());
        let link = Link { queue, waiters: waiters.clone() };
        let frames = tokio_stream_of_frames(calls);
        tokio::spawn(async move {
            if let Ok(replies) = client.calls(frames).await {
                let mut replies = replies.into_inner();
                while let Some(Ok(frame)) = replies.next().await {
                    for reply in frame.replies {
                        if let Some(body) = reply.reply {
                            waiters.answer(reply.tag, body);
                        }
                    }
                }
            }
            waiters.close();
        });
        link
    }
}

/// What waits in the queue when the connection is ready travels in one frame, until that is large.
fn tokio_stream_of_frames(
    calls: mpsc::Receiver<pb::TaggedCall>,
) -> impl futures::Stream<Item = pb::CallFrame> + Send + 'static {
    futures::stream::unfold(calls, |mut calls| async move {
        let mut batch = vec![calls.recv().await?];
        let mut bytes = batch[0].encoded_len();
        while batch.len() < CALLS_PER_FRAME_MAX && bytes < FRAME_BYTES_ENOUGH {
            let Ok(call) = calls.try_recv() else { break };
            bytes += call.encoded_len();
            batch.push(call);
        }
        Some((pb::CallFrame { calls: batch }, calls))
    })
}

#[async_trait]
impl NodeService for RemoteNode {
    async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
        let timeout = match call.timeout_ms {
            0 => CALL_TIMEOUT_DEFAULT,
            ms => Duration::from_millis(u64::from(ms)) + TRAVEL_ALLOWANCE,
        };
        let link = self.link().await?;
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let unreachable = || CallError::Unreachable {
            node: self.addr.clone(),
            why: String::from("the connection has just ended"),
        };
        let answer = link.waiters.add(tag).ok_or_else(unreachable)?;
        let tagged = pb::TaggedCall { tag, call: Some(call) };
        // The queue, too, does not empty while the other side stands still.
        let answered = async {
            link.queue.send(tagged).await.map_err(|_| unreachable())?;
            answer.await.map_err(|_| CallError::Broken { node: self.addr.clone() })
        };
        match tokio::time::timeout(timeout, answered).await {
            Ok(outcome) => outcome,
            Err(_) => {
                link.waiters.forget(tag);
                Err(CallError::TimedOut {
                    node: self.addr.clone(),
                    timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                })
            }
        }
    }
}
