//! The barrier of a schema change: when it is over, no transaction that goes by an older catalog
//! commits any more, on any gateway.
//!
//! # Step by step
//! 1. Which nodes there are is read from the meta range, after the change was committed. A node
//!    that joins later reads a catalog that has the change.
//! 2. Each is asked to adopt the newer catalog and to answer when no older transaction can commit.
//! 3. For those that do not answer: [`CATALOG_LEASE`] after the change nobody begins a commit by
//!    the older catalog. What was begun before, and may still lie in some log, started below the
//!    clock then. Every range refuses it once its transaction floor is raised to that (rule P6),
//!    which waits until all other commits from before are past their retry deadlines.
//!
//! A pause alone would not do in step 3: an entry of a leader that was cut off can be applied when
//! its range has a majority again, however late.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::{SqlError, SqlState};
use quorate_proto::pb::{self, node_request, node_response, range_request};
use quorate_proto::{NodeId, Timestamp};
use quorate_txn::config::TXN_FLOOR_LAG_MIN;
use quorate_txn::keys;

use crate::Gateway;
use crate::catalog::CATALOG_LEASE;
use crate::dist::sender::Outgoing;
use crate::runtime;
use crate::schema::RANGE_PATIENCE;

/// How long one gateway may take to answer a barrier.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);
/// Clocks that count time may drift apart by so much, in percent.
const DRIFT_PERCENT: u32 = 10;

impl Gateway {
    /// Waits until no gateway can commit a transaction that goes by an older catalog.
    ///
    /// # Errors
    /// The meta range does not say which nodes there are, or a range cannot be fenced: older
    /// transactions may still commit.
    pub(crate) async fn barrier_everywhere(&self, version: u64) -> Result<(), SqlError> {
        let nodes = self.members().await?;
        let asked = nodes.into_iter().map(|node| self.barrier_at(node, version));
        let here = runtime::within(BARRIER_TIMEOUT, self.catalog().barrier(version));
        let (there, here) = futures::join!(futures::future::join_all(asked), here);
        let here = matches!(here, Some(Ok(adopted)) if adopted >= version);
        if here && there.iter().all(|ok| *ok) {
            return Ok(());
        }
        tracing::warn!(version, "a gateway does not answer: the change waits and fences it off");
        let clock = self.dist().clock();
        let lease = CATALOG_LEASE + CATALOG_LEASE * DRIFT_PERCENT / 100;
        runtime::pause(lease + clock.max_offset()).await;
        let floor = clock.now();
        runtime::pause(TXN_FLOOR_LAG_MIN + clock.max_offset()).await;
        self.fence(floor).await
    }

    /// Every node there is. The address book alone may not know yet of one that has just joined.
    pub(crate) async fn members(&self) -> Result<BTreeSet<NodeId>, SqlError> {
        let body = node_request::Body::Report(pb::ReportRequest::default());
        let node_response::Body::Report(report) = self.ask_any_node(body).await? else {
            return Err(SqlError::internal("a report was answered with something else"));
        };
        self.connector().learn(&report.nodes);
        let registered = report.nodes.iter().map(|node| NodeId(node.node_id));
        Ok(registered.chain(self.connector().nodes()).collect())
    }

    /// What a node's gateway says; `None` if it does not answer.
    pub(crate) async fn ask_barrier(
        &self,
        node: NodeId,
        catalog_version: u64,
    ) -> Option<pb::BarrierResponse> {
        let body = node_request::Body::Barrier(pb::BarrierRequest { catalog_version });
        let sender = self.dist().sender();
        let reply = sender.call(node, Vec::new(), Some(body), BARRIER_TIMEOUT).await;
        match reply.ok()?.node?.body? {
            node_response::Body::Barrier(answer) => Some(answer),
            _ => None,
        }
    }

    async fn barrier_at(&self, node: NodeId, version: u64) -> bool {
        let answer = self.ask_barrier(node, version).await;
        answer.is_some_and(|answer| answer.catalog_version >= version)
    }

    /// Has every range of the database refuse commits that started below `floor`.
    async fn fence(&self, floor: Timestamp) -> Result<(), SqlError> {
        let failed = |why: String| {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, "a range is not available")
                .with_detail(format!("Older transactions could not be fenced off: {why}."))
        };
        let sender = self.dist().sender();
        let mut key = Bytes::from_static(keys::DB_START);
        loop {
            let raise = pb::RaiseSafePointRequest { safe_point: 0, txn_floor: floor.0 };
            let body = range_request::Body::RaiseSafePoint(raise);
            let request = Outgoing { key: key.clone(), body };
            let raised = sender.settle(request, RANGE_PATIENCE).await;
            raised.map_err(|e| failed(e.to_string()))?;
            // A split meanwhile gave both halves the floor.
            let route = sender.route(&key).await.map_err(|e| failed(e.to_string()))?;
            let end = route.descriptor.map(|d| d.end).unwrap_or_default();
            if end.is_empty() {
                return Ok(());
            }
            key = end;
        }
    }
}
