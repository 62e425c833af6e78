//! The tonic server of a node: calls, Raft traffic and snapshots.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use quorate_proto::client::MESSAGE_BYTES_MAX;
use quorate_proto::pb::node_server::{Node as Service, NodeServer};
use quorate_proto::{CallServer, pb};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::config::SERVER_GRACE;
use super::{Node, runtime};
use crate::transport::remote::{serve_raft, serve_snapshot};

/// Reply frames of one stream that wait for the network.
const REPLIES_QUEUED: usize = 64;

struct Server {
    node: Arc<Node>,
}

#[async_trait]
impl Service for Server {
    type CallsStream = ReceiverStream<Result<pb::ReplyFrame, Status>>;

    async fn calls(
        &self,
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        let (replies, stream) = mpsc::channel(REPLIES_QUEUED);
        let server = CallServer::new(self.node.clone());
        // Ends with the stream: the client's, or ours when the server stops.
        runtime::spawn(async move { server.run(request.into_inner(), replies).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn raft(
        &self,
        request: Request<Streaming<pb::RaftFrame>>,
    ) -> Result<Response<pb::RaftEnd>, Status> {
        let end = serve_raft(self.node.raft(), request.into_inner()).await?;
        Ok(Response::new(end))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotEnd>, Status> {
        let end = serve_snapshot(self.node.raft(), request.into_inner()).await?;
        Ok(Response::new(end))
    }
}

/// Serves a node on a listener until `stop` is ready; streams that are open then are cut after a
/// short grace (they never end by themselves).
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let service = NodeServer::new(Server { node })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (stopping, mut stopped) = mpsc::channel::<()>(1);
    let signal = async move {
        stop.await;
        drop(stopping);
    };
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, signal);
    let cut = async {
        stopped.recv().await;
        tokio::time::sleep(SERVER_GRACE).await;
    };
    tokio::select! {
        outcome = server => outcome,
        () = cut => Ok(()),
    }
}
