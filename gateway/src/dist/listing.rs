//! Asks all nodes for the row locks they know of, and who waits for whom.
//!
//! A node that is frozen or cut off must not hold up who looks for circles of waits among the
//! others: once it has let a look wait in vain, looks give it little time, until it has answered a
//! question that nobody waits for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::pb::{node_request, node_response};
use quorate_proto::{NodeId, pb};

use super::Dist;
use crate::runtime;

/// How long a node may take to tell its locks.
pub(super) const LIST_TIMEOUT: Duration = Duration::from_secs(1);
/// The same for one that let the last look wait in vain.
const LIST_TIMEOUT_SILENT: Duration = Duration::from_millis(100);
/// Locks that a node is asked for at most.
pub const LISTED_MAX: u32 = 10_000;

/// Nodes that let a look wait in vain, and whether each is being asked beside the looks.
#[derive(Debug, Default)]
pub struct Silent(Mutex<BTreeMap<NodeId, bool>>);

impl Silent {
    fn is(&self, node: NodeId) -> bool {
        self.0.lock().contains_key(&node)
    }

    fn note(&self, node: NodeId) {
        self.0.lock().entry(node).or_insert(false);
    }

    /// Whether it is to be asked now; if so, whoever asks says how it went.
    fn begins(&self, node: NodeId) -> bool {
        self.0.lock().get_mut(&node).is_some_and(|asked| !std::mem::replace(asked, true))
    }

    fn ended(&self, node: NodeId, answered: bool) {
        let mut silent = self.0.lock();
        match silent.get_mut(&node) {
            Some(_) if answered => drop(silent.remove(&node)),
            Some(asked) => *asked = false,
            None => {}
        }
    }
}

impl Dist {
    /// The row locks of all nodes that answer.
    pub async fn list_locks(&self) -> Vec<pb::RowLock> {
        let ask = |node| self.ask_for_locks(node, false, LIST_TIMEOUT);
        let nodes = self.sender().connector().nodes();
        let lists = futures::future::join_all(nodes.into_iter().map(ask)).await;
        lists.into_iter().flatten().flatten().collect()
    }

    /// Who waits for whom at all nodes that answer soon.
    pub(super) async fn list_waits(self: &Arc<Self>) -> Vec<pb::RowLock> {
        let nodes = self.sender().connector().nodes();
        let lists = nodes.into_iter().map(|node| self.list_waits_at(node));
        futures::future::join_all(lists).await.into_iter().flatten().collect()
    }

    async fn list_waits_at(self: &Arc<Self>, node: NodeId) -> Vec<pb::RowLock> {
        let silent = &self.lock_owners.silent;
        let limit = if silent.is(node) { LIST_TIMEOUT_SILENT } else { LIST_TIMEOUT };
        let answer = self.ask_for_locks(node, true, limit).await;
        if answer.is_none() {
            silent.note(node);
            self.listen_for(node);
        }
        answer.unwrap_or_default()
    }

    /// Asks a silent node with time enough; one question at a time.
    fn listen_for(self: &Arc<Self>, node: NodeId) {
        if !self.lock_owners.silent.begins(node) {
            return;
        }
        let dist = self.clone();
        runtime::spawn_if_running(async move {
            let answer = dist.ask_for_locks(node, true, LIST_TIMEOUT).await;
            dist.lock_owners.silent.ended(node, answer.is_some());
        });
    }

    async fn ask_for_locks(
        &self,
        node: NodeId,
        waiting_only: bool,
        limit: Duration,
    ) -> Option<Vec<pb::RowLock>> {
        let request = pb::ListLocksRequest { waiting_only, limit: LISTED_MAX };
        let request = node_request::Body::ListLocks(request);
        let call = self.sender().call(node, Vec::new(), Some(request), limit);
        // Connecting has a time of its own.
        match runtime::within(limit, call).await?.ok()?.node?.body? {
            node_response::Body::ListLocks(list) => Some(list.locks),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use quorate_proto::{CallError, Connector, NodeService, Timestamp};
    use quorate_txn::clock::NodeClock;
    use quorate_txn::config::MAX_CLOCK_OFFSET;
    use tokio::sync::Notify;

    use super::super::sender::Sender;
    use super::super::tests::Names;
    use super::*;
    use crate::testing::TestClock;

    /// Two nodes that know of a lock each; one of them can stand still.
    #[derive(Default)]
    struct Pair {
        stands_still: AtomicBool,
        goes_on: Notify,
    }

    struct Member(Arc<Pair>, NodeId);

    #[async_trait]
    impl NodeService for Member {
        async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
            let Self(pair, node) = self;
            let goes_on = pair.goes_on.notified();
            if *node == NodeId(2) && pair.stands_still.load(Ordering::SeqCst) {
                goes_on.await;
            }
            let locks = vec![pb::RowLock { age_ms: node.0, ..pb::RowLock::default() }];
            let body = node_response::Body::ListLocks(pb::ListLocksResponse { locks });
            let node = Some(pb::NodeResponse { body: Some(body) });
            Ok(pb::Reply { clock: call.clock, node, ..pb::Reply::default() })
        }
    }

    struct Both(Arc<Pair>);

    impl Connector for Both {
        fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
            Some(Arc::new(Member(self.0.clone(), node)))
        }

        fn nodes(&self) -> Vec<NodeId> {
            vec![NodeId(1), NodeId(2)]
        }

        fn learn(&self, _: &[pb::NodeInfo]) {}
    }

    /// Whoever looks sees what the others know while a node stands still, and all again soon after
    /// it goes on.
    #[tokio::test]
    async fn a_node_that_stood_still_is_heard_again() {
        let pair = Arc::new(Pair::default());
        let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
        let sender = Sender::new(Arc::new(Both(pair.clone())), Arc::new(clock), Bytes::new());
        let dist = Arc::new(Dist::new(sender, Arc::new(Names)));
        assert_eq!(dist.list_waits().await.len(), 2);
        pair.stands_still.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(dist.list_waits().await.len(), 1);
            assert!(dist.lock_owners.silent.is(NodeId(2)));
        }
        pair.stands_still.store(false, Ordering::SeqCst);
        pair.goes_on.notify_waiters();
        let heard_again = async {
            while dist.list_waits().await.len() < 2 || dist.lock_owners.silent.is(NodeId(2)) {
                runtime::pause(Duration::from_millis(1)).await;
            }
        };
        runtime::within(Duration::from_secs(30), heard_again).await.expect("it goes on");
    }

    #[test]
    fn a_silent_node_is_asked_by_one_at_a_time_until_it_answers() {
        let (silent, node) = (Silent::default(), NodeId(2));
        assert!(!silent.is(node) && !silent.begins(node));
        silent.note(node);
        assert!(silent.is(node) && silent.begins(node) && !silent.begins(node));
        silent.note(node);
        assert!(!silent.begins(node), "it is being asked");
        silent.ended(node, false);
        assert!(silent.is(node) && silent.begins(node));
        silent.ended(node, true);
        assert!(!silent.is(node));
    }
}
