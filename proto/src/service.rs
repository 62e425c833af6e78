//! A node as others see it: [`NodeService`], and its tonic side [`CallServer`].

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::client::FRAME_BYTES_ENOUGH;
use crate::error::CallError;
use crate::pb;

/// One call to a node. Implemented by the node itself (same process: no network, no encoding)
/// and by [`crate::RemoteNode`].
#[async_trait]
pub trait NodeService: Send + Sync + 'static {
    /// Answers every request of the call, or says that no answer came.
    ///
    /// # Errors
    /// [`CallError`]; unless it is `unsent`, the work may or may not have been done.
    async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError>;
}

/// Answers the frames of a `Calls` stream with a [`NodeService`]. Calls of one stream run
/// concurrently; answers that are ready at the same time travel in one frame.
#[derive(Clone)]
pub struct CallServer {
    node: Arc<dyn NodeService>,
}

/// Replies that travel in one frame at most.
const REPLIES_PER_FRAME_MAX: usize = 128;
/// Calls of one stream that are worked on at a time; more wait in the connection's window.
const CALLS_IN_FLIGHT_MAX: usize = 4096;

impl CallServer {
    /// Serves this node.
    pub fn new(node: Arc<dyn NodeService>) -> Self {
        Self { node }
    }

    /// Reads frames until the stream ends and sends the replies; to be run by the tonic method
    /// `Calls`, which answers with the receiving half of `replies`.
    pub async fn run(
        &self,
        mut frames: Streaming<pb::CallFrame>,
        replies: mpsc::Sender<Result<pb::ReplyFrame, Status>>,
    ) {
        let mut running = FuturesUnordered::new();
        let mut open = true;
        loop {
            tokio::select! {
                frame = frames.next(), if open && running.len() < CALLS_IN_FLIGHT_MAX => {
                    match frame {
                        Some(Ok(frame)) => {
                            for call in frame.calls {
                                running.push(self.answer(call));
                            }
                        }
                        Some(Err(_)) | None => open = false,
                    }
                }
                Some(first) = running.next() => {
                    let mut frame = pb::ReplyFrame::default();
                    let mut bytes = 0;
                    let mut next = Some(first);
                    while let Some(reply) = next {
                        bytes += reply.as_ref().map_or(0, prost::Message::encoded_len);
                        frame.replies.extend(reply);
                        next = match frame.replies.len() < REPLIES_PER_FRAME_MAX
                            && bytes < FRAME_BYTES_ENOUGH
                        {
                            true => running.next().now_or_never().flatten(),
                            false => None,
                        };
                    }
                    if replies.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    }

    async fn answer(&self, tagged: pb::TaggedCall) -> Option<pb::TaggedReply> {
        let call = tagged.call?;
        let reply = self.node.call(call).await.ok()?;
        Some(pb::TaggedReply { tag: tagged.tag, reply: Some(reply) })
    }
}

/// How to reach nodes: in the same process, or by the addresses learnt so far.
pub trait Connector: Send + Sync + 'static {
    /// The node, or `None` while its address is not known.
    fn node(&self, node: crate::NodeId) -> Option<Arc<dyn NodeService>>;

    /// Every node that can be addressed now, the one in this process (if any) first.
    fn nodes(&self) -> Vec<crate::NodeId>;

    /// The node in this process whose clock the caller goes by, if there is one.
    fn own(&self) -> Option<crate::NodeId> {
        None
    }

    /// Adopts addresses from a reply.
    fn learn(&self, nodes: &[pb::NodeInfo]);
}
