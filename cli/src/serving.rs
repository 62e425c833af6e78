//! A node that serves: storage, gateway and listeners put together, and taken apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quorate_gateway::Gateway;
use quorate_planner::kv::Span;
use quorate_proto::Timestamp;
use quorate_shard::engine::KeySpan;
use quorate_shard::node::config::NodeConfig;
use quorate_shard::node::{GatewayHook, Node, OpenError, server};
use quorate_txn::recovery::Leftover;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::process;

/// Why a node does not serve. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port is taken or an address is not ours.
    #[error("cannot listen on {addr} ({what}): {why}")]
    Listen {
        /// SQL, RPC or HTTP.
        what: &'static str,
        /// The address asked for.
        addr: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// The data folder or the cluster refuses.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The system refuses something else.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The node stopped by itself.
    #[error("the node has stopped: {0}")]
    Failed(String),
}

/// Listens, or says which address cannot be had.
///
/// # Errors
/// [`ServeError::Listen`]
pub async fn listen(what: &'static str, addr: &str) -> Result<TcpListener, ServeError> {
    let failed = |why| ServeError::Listen { what, addr: addr.to_string(), why };
    TcpListener::bind(addr).await.map_err(failed)
}

/// The listeners of a node, open before anything else so that a taken port loses nothing.
pub struct Listeners {
    /// For clients.
    pub sql: TcpListener,
    /// For other nodes; none in a cluster within one process.
    pub rpc: Option<TcpListener>,
    /// For health and metrics.
    pub http: Option<TcpListener>,
}

/// A serving node.
///
/// # Invariants
/// * Dropping it stops nothing: call [`Serving::end_sessions`], then [`Serving::shut_down`].
pub struct Serving {
    /// Its storage.
    pub node: Arc<Node>,
    /// Where clients connect.
    pub sql_addr: SocketAddr,
    sessions: JoinHandle<()>,
    gateway: Arc<Gateway>,
    rpc: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
    others: Vec<JoinHandle<()>>,
}

struct Barrier(Arc<Gateway>);

#[async_trait]
impl GatewayHook for Barrier {
    async fn barrier(&self, catalog_version: u64) -> u64 {
        match self.0.catalog().barrier(catalog_version).await {
            Ok(version) => version,
            Err(e) => {
                tracing::warn!(error = %e, "a schema barrier failed here");
                self.0.catalog().current().version()
            }
        }
    }

    fn building_tables(&self) -> Vec<u64> {
        self.0.building().into_iter().map(|table| table.0).collect()
    }

    fn oldest_read(&self) -> Option<Timestamp> {
        self.0.oldest_read()
    }

    fn gc_windows(&self) -> Option<Vec<(KeySpan, Duration)>> {
        let windows = self.0.catalog().gc_windows()?;
        let said = |(span, window): (Span, Duration)| (KeySpan::new(span.start, span.end), window);
        Some(windows.into_iter().map(said).collect())
    }

    async fn clean_up(&self, leftovers: Vec<Leftover>) {
        self.0.dist().clean_up(leftovers).await;
    }
}

impl Serving {
    /// Opens a node and serves on these listeners.
    ///
    /// # Errors
    /// [`ServeError`]; nothing runs then.
    pub async fn start(config: NodeConfig, listeners: Listeners) -> Result<Self, ServeError> {
        let sql_addr = listeners.sql.local_addr()?;
        let gc_window = config.gc_window;
        let node = Node::open(config).await?;
        let gateway = Gateway::new(node.connector(), node.clock(), node.cluster_id(), gc_window);
        node.set_gateway(Arc::new(Barrier(gateway.clone())));
        let rpc = listeners.rpc.map(|listener| {
            let (stop, stopped) = oneshot::channel::<()>();
            let node = node.clone();
            let task = process::spawn(async move {
                let stopped = async {
                    // Also when the sender is gone.
                    let _ = stopped.await;
                };
                if let Err(e) = server::serve(listener, node, stopped).await {
                    tracing::error!(error = %e, "the RPC server ended");
                }
            });
            (task, stop)
        });
        let serve = quorate_gateway::pg::serve(gateway.clone(), listeners.sql);
        let sessions = process::spawn(serve);
        let mut others = vec![
            process::spawn(gateway.catalog().clone().keep_fresh()),
            process::spawn(gateway.clone().take_back_abandoned()),
        ];
        if let Some(listener) = listeners.http {
            let http = quorate_gateway::http::serve(listener, gateway.clone(), node.clone());
            others.push(process::spawn(http));
        }
        Ok(Self { node, sql_addr, sessions, gateway, rpc, others })
    }

    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("postgres://quorate@{}/{}", self.sql_addr, quorate_gateway::DATABASE)
    }

    /// Ends all sessions, and leaves nothing of their transactions for others to wait for.
    pub async fn end_sessions(&mut self) {
        let sessions = &mut self.sessions;
        // A task that panicked has ended, too.
        let ended = async { drop(sessions.await) };
        self.gateway.end_sessions(ended).await;
    }

    /// Stops once its sessions have ended: leaders move away, everything is flushed.
    pub async fn shut_down(self) {
        self.node.shutdown().await;
        for task in self.others {
            task.abort();
        }
        if let Some((task, stop)) = self.rpc {
            // The server may have ended by itself.
            let _ = stop.send(());
            if let Err(e) = task.await {
                tracing::warn!(error = %e, "the RPC server did not end well");
            }
        }
    }
}
