//! Reaching other nodes: the address book with its connections, and nodes of the same process
//! ([`Fabric`]: directly, or as a simulator lets them).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use quorate_proto::{Connector, NodeId, NodeService, RemoteNode, pb};

use crate::transport::local::Router;
use crate::transport::{RaftTransport, Resolver};

/// How one node of a process reaches the others of the same process. A simulator gives each node
/// a fabric of its own, which delays and loses what goes through it.
pub trait Fabric: Send + Sync {
    /// The Raft traffic of the node that uses this fabric, which is called `own`.
    fn transport(&self, own: NodeId) -> Arc<dyn RaftTransport>;

    /// The way to another node; `None` if there is none of that name.
    fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>>;

    /// The nodes that can be asked.
    fn nodes(&self) -> Vec<NodeId>;

    /// The node that uses this fabric takes calls from now on.
    fn add(&self, own: NodeId, service: Weak<dyn NodeService>);

    /// It is gone, for calls and for Raft traffic.
    fn remove(&self, own: NodeId);
}

/// The nodes of one process, which reach each other without a network.
#[derive(Default)]
pub struct LocalNetwork {
    /// Their Raft traffic; links can be cut there.
    pub router: Arc<Router>,
    nodes: RwLock<BTreeMap<NodeId, Weak<dyn NodeService>>>,
}

impl LocalNetwork {
    /// No nodes yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A node of this process.
    pub fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
        self.nodes.read().get(&node)?.upgrade()
    }

    /// All of them.
    pub fn nodes(&self) -> Vec<NodeId> {
        let nodes = self.nodes.read();
        nodes.iter().filter(|(_, node)| node.strong_count() > 0).map(|(id, _)| *id).collect()
    }
}

impl Fabric for LocalNetwork {
    fn transport(&self, own: NodeId) -> Arc<dyn RaftTransport> {
        self.router.transport(own)
    }

    fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
        Self::node(self, node)
    }

    fn nodes(&self) -> Vec<NodeId> {
        Self::nodes(self)
    }

    fn add(&self, own: NodeId, service: Weak<dyn NodeService>) {
        self.nodes.write().insert(own, service);
    }

    fn remove(&self, own: NodeId) {
        self.nodes.write().remove(&own);
        self.router.remove(own);
    }
}

/// How a node, and the gateway beside it, reach nodes.
pub struct NodeConnector {
    own_id: NodeId,
    own: OnceLock<Weak<dyn NodeService>>,
    local: Option<Arc<dyn Fabric>>,
    book: RwLock<BTreeMap<NodeId, pb::NodeInfo>>,
    unsaved: AtomicBool,
    remotes: Mutex<HashMap<NodeId, (String, Arc<RemoteNode>)>>,
}

impl NodeConnector {
    /// For this node.
    pub(super) fn new(own_id: NodeId, local: Option<Arc<dyn Fabric>>) -> Arc<Self> {
        Arc::new(Self {
            own_id,
            own: OnceLock::new(),
            local,
            book: RwLock::default(),
            unsaved: AtomicBool::new(false),
            remotes: Mutex::default(),
        })
    }

    pub(super) fn set_own(&self, node: Weak<dyn NodeService>) {
        // Set once, when the node is made.
        let _ = self.own.set(node);
    }

    /// What is known of all nodes, by id.
    pub fn book(&self) -> Vec<pb::NodeInfo> {
        self.book.read().values().cloned().collect()
    }

    /// Adopts addresses; whether anything was new.
    pub(super) fn adopt(&self, nodes: &[pb::NodeInfo]) -> bool {
        let mut book = self.book.write();
        let mut news = false;
        for node in nodes.iter().filter(|node| node.node_id != 0) {
            let known = book.get(&NodeId(node.node_id));
            if known != Some(node) {
                book.insert(NodeId(node.node_id), node.clone());
                news = true;
            }
        }
        if news {
            self.unsaved.store(true, Ordering::SeqCst);
        }
        news
    }

    /// Adopts the addresses of nodes that are not known at all: from somebody who may know less of
    /// the others.
    pub(super) fn adopt_unknown(&self, nodes: &[pb::NodeInfo]) {
        let unknown = |node: &&pb::NodeInfo| !self.book.read().contains_key(&NodeId(node.node_id));
        let unknown: Vec<_> = nodes.iter().filter(unknown).cloned().collect();
        self.adopt(&unknown);
    }

    /// The book, if anything in it is newer than at the last call.
    pub(super) fn take_unsaved(&self) -> Option<Vec<pb::NodeInfo>> {
        self.unsaved.swap(false, Ordering::SeqCst).then(|| self.book())
    }
}

impl Connector for NodeConnector {
    fn own(&self) -> Option<NodeId> {
        Some(self.own_id)
    }

    fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
        if node == self.own_id {
            return self.own.get()?.upgrade();
        }
        if let Some(local) = &self.local {
            return local.node(node);
        }
        let addr = self.rpc_addr(node)?;
        let mut remotes = self.remotes.lock();
        if let Some((known, remote)) = remotes.get(&node)
            && *known == addr
        {
            return Some(remote.clone());
        }
        let remote = Arc::new(RemoteNode::new(addr.clone()));
        remotes.insert(node, (addr, remote.clone()));
        Some(remote)
    }

    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes = vec![self.own_id];
        match &self.local {
            Some(local) => nodes.extend(local.nodes()),
            None => nodes.extend(self.book.read().keys()),
        }
        let own = self.own_id;
        let mut first = true;
        nodes.retain(|node| *node != own || std::mem::take(&mut first));
        nodes
    }

    fn learn(&self, nodes: &[pb::NodeInfo]) {
        self.adopt(nodes);
    }
}

impl Resolver for NodeConnector {
    fn rpc_addr(&self, node: NodeId) -> Option<String> {
        let book = self.book.read();
        let addr = &book.get(&node)?.rpc_addr;
        (!addr.is_empty()).then(|| addr.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_node_is_reached_at_its_new_address() {
        let connector = NodeConnector::new(NodeId(1), None);
        let at = |addr: &str| pb::NodeInfo {
            node_id: 2,
            rpc_addr: addr.to_owned(),
            ..pb::NodeInfo::default()
        };
        assert!(connector.node(NodeId(2)).is_none());
        assert!(connector.adopt(&[at("a:1")]));
        assert!(!connector.adopt(&[at("a:1")]));
        let first = connector.node(NodeId(2)).expect("known");
        assert!(Arc::ptr_eq(&first, &connector.node(NodeId(2)).expect("known")));
        assert!(connector.adopt(&[at("b:1")]));
        assert_eq!(connector.rpc_addr(NodeId(2)).as_deref(), Some("b:1"));
        assert!(!Arc::ptr_eq(&first, &connector.node(NodeId(2)).expect("known")));
        assert_eq!(connector.nodes(), [NodeId(1), NodeId(2)]);
        connector.adopt_unknown(&[at("a:1")]);
        assert_eq!(connector.rpc_addr(NodeId(2)).as_deref(), Some("b:1"));
        assert_eq!(connector.take_unsaved(), Some(vec![at("b:1")]));
        assert_eq!(connector.take_unsaved(), None);
    }
}
