//! Requests that the leader of the meta range answers: found by hints, one node after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::node_request::Body as Ask;
use quorate_proto::pb::node_response::Body as Answer;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::{Connector as _, NodeId, Timestamp, pb};
use tokio::time::Instant;

use super::Node;
use super::config::{META_RETRY, STEP_TIMEOUT};
use crate::range::{Allocator, META_RANGE, Replica, errors, meta};

/// How long one node may take over a forwarded request before the next is asked.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

#[async_trait]
impl Allocator for Node {
    async fn allocate(&self, count: u64) -> Result<u64, pb::RangeError> {
        let request = Ask::Allocate(pb::AllocateRequest { count });
        match self.at_meta(request, false, Instant::now() + STEP_TIMEOUT).await? {
            Answer::Allocate(answer) => Ok(answer.first),
            _ => Err(errors::unavailable("the meta range gave another answer")),
        }
    }
}

impl Node {
    /// Has the leader of the meta range answer. `direct`: only if that is this node.
    pub(super) async fn at_meta(
        &self,
        request: Ask,
        direct: bool,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        if direct {
            return match self.meta_leader_here() {
                Some(replica) => self.as_meta_leader(&replica, request, deadline).await,
                None => Err(errors::not_leader(META_RANGE, self.meta_leader_hint(), None)),
            };
        }
        loop {
            let last = match self.try_meta(&request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = matches!(
                last.kind,
                Some(
                    Kind::NotLeader(_)
                        | Kind::Unavailable(_)
                        | Kind::Unknown(_)
                        | Kind::StaleRoute(_)
                )
            );
            if !again || Instant::now() + META_RETRY >= deadline {
                return Err(last);
            }
            tokio::time::sleep(META_RETRY).await;
        }
    }

    /// Here if this node leads it, else wherever the hints point, else everybody.
    async fn try_meta(&self, request: &Ask, deadline: Instant) -> Result<Answer, pb::RangeError> {
        if let Some(replica) = self.meta_leader_here() {
            return self.as_meta_leader(&replica, request.clone(), deadline).await;
        }
        let mut last = errors::unavailable("the leader of the meta range was not found");
        let mut asked = vec![self.id()];
        let mut others = self.connector.nodes().into_iter();
        loop {
            let hint = self.meta_leader_hint().filter(|node| !asked.contains(node));
            let Some(node) = hint.or_else(|| others.find(|node| !asked.contains(node))) else {
                return Err(last);
            };
            asked.push(node);
            match self.forward(node, request.clone(), deadline).await {
                Ok(answer) => {
                    self.meta_leader.store(node.0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => {
                    let hint = match &error.kind {
                        Some(Kind::NotLeader(other)) => other.leader_node_id,
                        _ => 0,
                    };
                    self.meta_leader.store(hint, Ordering::Relaxed);
                    last = error;
                }
            }
        }
    }

    /// Has any other node that can answer it do so.
    pub(super) async fn ask_others(
        &self,
        request: Ask,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        let mut last = errors::unavailable("no other node is known");
        for node in self.connector.nodes().into_iter().filter(|node| *node != self.id()) {
            match self.forward(node, request.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn forward(
        &self,
        node: NodeId,
        request: Ask,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        let left = deadline.saturating_duration_since(Instant::now()).min(FORWARD_TIMEOUT);
        let reply = self.ask(node, Some(request), left).await?;
        match reply.node.and_then(|node| node.body) {
            Some(Answer::Error(error)) => Err(error),
            Some(answer) => Ok(answer),
            None => Err(errors::unavailable(format!("{node} gave no answer"))),
        }
    }

    /// One call to another node, for itself: it must not ask on.
    async fn ask(
        &self,
        node: NodeId,
        request: Option<Ask>,
        timeout: Duration,
    ) -> Result<pb::Reply, pb::RangeError> {
        let reply = self.call_node(node, request, timeout).await?;
        if let Some(error) = reply.error {
            if matches!(error.kind, Some(Kind::ClockSkew(_))) {
                self.ranges.clock.note_refusal();
            }
            return Err(error);
        }
        self.ranges.clock.observe(Timestamp(reply.clock)).map_err(|e| e.to_range_error())?;
        Ok(reply)
    }

    /// The same, as it was answered: it may be a refusal, and its clock is not looked at.
    pub(super) async fn call_node(
        &self,
        node: NodeId,
        request: Option<Ask>,
        timeout: Duration,
    ) -> Result<pb::Reply, pb::RangeError> {
        let service = self.connector_node(node)?;
        let call = pb::Call {
            clock: self.ranges.clock.now().0,
            cluster_id: self.cluster_id(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
            node: request.map(|body| pb::NodeRequest { body: Some(body) }),
            direct: true,
            ..pb::Call::default()
        };
        let answered = tokio::time::timeout(timeout, service.call(call)).await;
        answered
            .map_err(|_| errors::unknown(format!("{node} did not answer in time")))?
            .map_err(|e| errors::unknown(e.to_string()))
    }

    fn connector_node(
        &self,
        node: NodeId,
    ) -> Result<Arc<dyn quorate_proto::NodeService>, pb::RangeError> {
        let service = self.connector.node(node);
        service.ok_or_else(|| errors::unavailable(format!("the address of {node} is not known")))
    }

    fn meta_leader_hint(&self) -> Option<NodeId> {
        let lease = self.raft.lease(META_RANGE);
        let by_raft = lease.and_then(|lease| lease.leader_node).filter(|node| *node != self.id());
        let remembered = NodeId(self.meta_leader.load(Ordering::Relaxed));
        by_raft.or(Some(remembered)).filter(|node| node.0 != 0)
    }

    fn meta_leader_here(&self) -> Option<Arc<Replica>> {
        self.ranges.replica(META_RANGE).filter(|replica| replica.serves())
    }

    async fn as_meta_leader(
        &self,
        replica: &Arc<Replica>,
        request: Ask,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        match request {
            Ask::Allocate(request) => {
                let count = request.count;
                let command = Command::Allocate(pb::AllocateCommand { count });
                let first = number(replica, command, deadline).await?;
                Ok(Answer::Allocate(pb::AllocateResponse { first }))
            }
            Ask::Join(request) => {
                let node_id = self.register(replica, request.node, deadline).await?;
                // Not the stored ones alone: this node may not have registered itself yet, and a
                // node that cannot reach the meta range's leader never hears of it again.
                let nodes = self.connector.book();
                let cluster_id = self.cluster_id();
                let max_clock_offset_us = self.identity.max_clock_offset_us;
                Ok(Answer::Join(pb::JoinResponse {
                    cluster_id,
                    node_id,
                    nodes,
                    max_clock_offset_us,
                }))
            }
            Ask::Report(request) => self.take_report(replica, request, deadline).await,
            Ask::Locate(_)
            | Ask::Status(_)
            | Ask::Barrier(_)
            | Ask::Ping(_)
            | Ask::KeepLocks(_)
            | Ask::ListLocks(_) => Err(errors::invalid("not a request to the meta range")),
        }
    }

    async fn register(
        &self,
        replica: &Arc<Replica>,
        node: Option<pb::NodeInfo>,
        deadline: Instant,
    ) -> Result<u64, pb::RangeError> {
        let command = Command::RegisterNode(pb::RegisterNodeCommand { node });
        let id = number(replica, command, deadline).await?;
        self.learn(&self.stored_nodes()?).await;
        Ok(id)
    }

    fn stored_nodes(&self) -> Result<Vec<pb::NodeInfo>, pb::RangeError> {
        meta::nodes(&*self.ranges.engine.snapshot()).map_err(errors::unavailable)
    }

    /// Writes down what is new in a report; nothing is proposed for what is known. The nodes that
    /// are answered are those registered by now, not those of a leader that was.
    async fn take_report(
        &self,
        replica: &Arc<Replica>,
        request: pb::ReportRequest,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        if let Some(node) = request.node.filter(|node| node.node_id != 0)
            && !self.stored_nodes()?.contains(&node)
        {
            self.register(replica, Some(node), deadline).await?;
        }
        for route in request.routes {
            let news = meta::is_news(&route, &*self.ranges.engine.snapshot());
            if news.map_err(errors::unavailable)? {
                let route = Some(route);
                let command = Command::MetaReport(pb::MetaReportCommand { route });
                replica.replicate_own(command, deadline).await?;
            }
        }
        let term = replica.lead()?;
        let nodes = self.stored_nodes()?;
        let loads = meta::loads(&*self.ranges.engine.snapshot());
        let loads = loads.map_err(errors::unavailable)?;
        replica.still_leads(term)?;
        Ok(Answer::Report(pb::ReportResponse { nodes, loads }))
    }
}

async fn number(
    replica: &Arc<Replica>,
    command: Command,
    deadline: Instant,
) -> Result<u64, pb::RangeError> {
    let answer = replica.replicate_own(command, deadline).await?;
    meta::allocated_in(&answer)
        .ok_or_else(|| errors::unavailable("the meta range gave another answer"))
}
