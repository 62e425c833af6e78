//! Sends requests to the leaders of ranges and heals the route from what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::{node_request, node_response, range_request, range_response};
use quorate_proto::{CallError, Connector, NodeId, RetryClass, pb};
use quorate_txn::clock::{NodeClock, Standing};

use super::observed::Observed;
use super::ranges::RangeCache;
use crate::runtime;

/// Pause before the same place is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// Longest pause between two attempts.
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);
/// How long one attempt at a node may take before another replica is asked.
pub const ATTEMPT_TIMEOUT: Duration = quorate_txn::config::ATTEMPT_TIMEOUT;

/// Why a request was not answered.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The range answered with an error that the sender cannot cure.
    Range(pb::RangeError),
    /// No answer; with `sent`, the work may have been done.
    Lost {
        /// Whether it may have reached the node.
        sent: bool,
        /// What happened last.
        why: String,
    },
}

/// Counters of one gateway, shown by `admin status` and in `EXPLAIN ANALYZE` differences.
#[derive(Debug, Default)]
pub struct SenderMetrics {
    /// Rounds of calls (calls sent in parallel are one).
    pub rounds: AtomicU64,
    /// Calls to nodes.
    pub calls: AtomicU64,
    /// Requests that had to be sent again with a better route.
    pub rerouted: AtomicU64,
}

/// One request on its way: `key` says where it belongs.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// A key of the range that shall answer.
    pub key: Bytes,
    /// The request.
    pub body: range_request::Body,
}

/// Routes requests.
pub struct Sender {
    connector: Arc<dyn Connector>,
    clock: Arc<NodeClock>,
    cluster_id: Bytes,
    cache: Mutex<RangeCache>,
    /// Nodes that did not answer the last call in time, and until when others are asked rather.
    doubted: Mutex<BTreeMap<NodeId, Duration>>,
    /// Counters.
    pub metrics: SenderMetrics,
}

impl Sender {
    /// A sender with an empty range cache.
    pub fn new(connector: Arc<dyn Connector>, clock: Arc<NodeClock>, cluster_id: Bytes) -> Self {
        Self {
            connector,
            clock,
            cluster_id,
            cache: Mutex::new(RangeCache::default()),
            doubted: Mutex::default(),
            metrics: SenderMetrics::default(),
        }
    }

    /// The clock every call carries.
    pub fn clock(&self) -> &Arc<NodeClock> {
        &self.clock
    }

    /// How nodes are reached.
    pub fn connector(&self) -> &Arc<dyn Connector> {
        &self.connector
    }

    /// One call; its clock is carried and observed (rule T2). A node that does not answer is not
    /// asked for a while if another one can be.
    pub async fn call(
        &self,
        node: NodeId,
        requests: Vec<pb::RangeRequest>,
        to_node: Option<node_request::Body>,
        timeout: Duration,
    ) -> Result<pb::Reply, CallError> {
        let known = self.connector.node(node).is_some();
        let reply = self.call_in_passing(node, requests, to_node, timeout).await;
        if known && reply.is_err() {
            self.doubted.lock().insert(node, self.clock.monotonic() + DOUBT);
        }
        reply
    }

    /// The same for what another node can answer, too, so that the time for it may be short: no
    /// answer says nothing of the node.
    pub(super) async fn call_in_passing(
        &self,
        node: NodeId,
        requests: Vec<pb::RangeRequest>,
        to_node: Option<node_request::Body>,
        timeout: Duration,
    ) -> Result<pb::Reply, CallError> {
        let service = self.connector.node(node).ok_or_else(|| CallError::Unreachable {
            node: node.to_string(),
            why: String::from("its address is not known"),
        })?;
        self.metrics.calls.fetch_add(1, Ordering::Relaxed);
        let call = pb::Call {
            clock: self.clock.now().0,
            cluster_id: self.cluster_id.clone(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            requests,
            node: to_node.map(|body| pb::NodeRequest { body: Some(body) }),
            direct: false,
        };
        let reply = service.call(call).await?;
        self.doubted.lock().remove(&node);
        self.compare(node, reply)
    }

    /// Rule T3: if one of the two refuses the other's clock, one of them is wrong, and what was
    /// read may be stale. A node whose clock agrees with most others' takes the other one for
    /// silent: whoever leads in its place is asked. Else the refusal is the answer.
    fn compare(&self, node: NodeId, reply: pb::Reply) -> Result<pb::Reply, CallError> {
        let whole = reply.error.as_ref();
        let (error, unsent) = match whole.filter(|e| matches!(e.kind, Some(Kind::ClockSkew(_)))) {
            Some(error) => {
                self.clock.note_refusal();
                (error.clone(), true)
            }
            None => match self.clock.observe(quorate_proto::Timestamp(reply.clock)) {
                Err(e) => (e.to_range_error(), false),
                Ok(()) => return Ok(reply),
            },
        };
        tracing::debug!(%node, why = error.message, "a clock was refused");
        if self.clock.standing() != Standing::Agrees {
            return Ok(pb::Reply { error: Some(error), ..pb::Reply::default() });
        }
        let node = node.to_string();
        Err(match unsent {
            true => CallError::Unreachable { node, why: error.message },
            false => CallError::Broken { node },
        })
    }

    /// Rule T3: a node whose clock is off asks nobody; each would refuse it.
    fn refuse_if_off(&self) -> Result<(), Failure> {
        let standing = self.clock.standing();
        if !matches!(standing, Standing::Off { .. }) {
            return Ok(());
        }
        let offset_us = standing.ahead_us().unwrap_or_default();
        let kind = Kind::ClockSkew(pb::ClockSkew { offset_us });
        let limit = self.clock.max_offset();
        let message = format!("this node's clock is {standing} (limit {limit:?})");
        Err(Failure::Range(pb::RangeError::new(kind, message)))
    }

    /// The route of the range that holds `key`, from the cache or from the meta range.
    pub async fn route(&self, key: &[u8]) -> Result<pb::RangeRoute, Failure> {
        let cached = self.cache.lock().find(key);
        match cached {
            Some(route) => Ok(route),
            None => self.locate(key, &[], |cache| cache.find(key)).await,
        }
    }

    /// The node that leads the range of a key, as far as is known here, unless it is in doubt.
    pub(super) fn known_leader(&self, key: &[u8]) -> Option<NodeId> {
        let leader = self.cache.lock().find(key)?.leader_node_id;
        (leader != 0).then_some(NodeId(leader)).filter(|node| !self.is_doubted(*node))
    }

    /// The route of the range that holds the keys just below `end`.
    pub async fn route_before(&self, end: &[u8]) -> Result<pb::RangeRoute, Failure> {
        let cached = self.cache.lock().find_before(end);
        match cached {
            Some(route) => Ok(route),
            None => self.locate_before(end).await,
        }
    }

    async fn locate_before(&self, end: &[u8]) -> Result<pb::RangeRoute, Failure> {
        // Ranges tile the keyspace: walking from the least key ends at the one that reaches `end`.
        let mut start = Bytes::new();
        loop {
            let route = self.route(&start).await?;
            if let Some(found) = self.cache.lock().find_before(end) {
                return Ok(found);
            }
            let known_end = route.descriptor.map(|d| d.end).unwrap_or_default();
            if known_end.is_empty() || known_end <= start {
                return Err(lost(false, "no range reaches the end of the scan"));
            }
            start = known_end;
        }
    }

    async fn locate(
        &self,
        start: &[u8],
        end: &[u8],
        found: impl Fn(&RangeCache) -> Option<pb::RangeRoute>,
    ) -> Result<pb::RangeRoute, Failure> {
        let mut why = String::from("no node is known");
        for attempt in 0..LOCATE_ATTEMPTS {
            self.refuse_if_off()?;
            let (sure, doubted): (Vec<_>, Vec<_>) =
                self.connector.nodes().into_iter().partition(|node| !self.doubts(*node));
            for node in sure.into_iter().chain(doubted) {
                let body = node_request::Body::Locate(pb::LocateRequest {
                    start: Bytes::copy_from_slice(start),
                    end: Bytes::copy_from_slice(end),
                    limit: LOCATE_RANGES,
                });
                match self.call(node, Vec::new(), Some(body), ATTEMPT_TIMEOUT).await {
                    Ok(reply) => match reply.node.and_then(|n| n.body) {
                        Some(node_response::Body::Locate(located)) => {
                            self.connector.learn(&located.nodes);
                            let mut cache = self.cache.lock();
                            for route in located.routes {
                                cache.insert(route);
                            }
                            if let Some(route) = found(&cache) {
                                return Ok(route);
                            }
                            why = String::from("the meta range does not know it yet");
                        }
                        Some(node_response::Body::Error(e)) => why = e.message,
                        _ => why = reply.error.map_or_else(String::new, |e| e.message),
                    },
                    Err(e) => why = e.to_string(),
                }
            }
            runtime::pause(backoff(attempt)).await;
        }
        Err(lost(false, format!("no range found for a key: {why}")))
    }

    /// Sends every request to its range's leader once, those for one node in one call and all
    /// calls in parallel: one round. Answers in the order of the requests.
    pub async fn round(
        &self,
        requests: Vec<Outgoing>,
        timeout: Duration,
    ) -> Vec<Result<range_response::Body, Failure>> {
        self.round_of(None, requests, timeout).await
    }

    /// The same for a transaction, which tells nodes what it has heard of their clocks and hears of
    /// them again (rule R3).
    pub async fn round_of(
        &self,
        observed: Option<&Observed>,
        requests: Vec<Outgoing>,
        timeout: Duration,
    ) -> Vec<Result<range_response::Body, Failure>> {
        if let Err(refused) = self.refuse_if_off() {
            return requests.iter().map(|_| Err(refused.clone())).collect();
        }
        self.metrics.rounds.fetch_add(1, Ordering::Relaxed);
        let mut answers: Vec<Option<Result<range_response::Body, Failure>>> =
            requests.iter().map(|_| None).collect();
        let mut calls: BTreeMap<NodeId, Vec<(usize, pb::RangeRequest, pb::RangeRoute)>> =
            BTreeMap::new();
        for (i, mut request) in requests.into_iter().enumerate() {
            match self.route(&request.key).await {
                Ok(route) => match self.target(&route) {
                    Some(node) => {
                        if let Some(observed) = observed {
                            observed.put_into(node, &mut request.body);
                        }
                        let addressed = addressed(&route, request.body);
                        calls.entry(node).or_default().push((i, addressed, route));
                    }
                    None => answers[i] = Some(Err(lost(false, "the range has no replica"))),
                },
                Err(e) => answers[i] = Some(Err(e)),
            }
        }
        let sent =
            calls.into_iter().map(|(node, batch)| self.send_batch(observed, node, batch, timeout));
        for batch in futures::future::join_all(sent).await {
            for (i, answer) in batch {
                answers[i] = Some(answer);
            }
        }
        let unanswered = || Err(lost(true, "the node left a request unanswered"));
        answers.into_iter().map(|a| a.unwrap_or_else(unanswered)).collect()
    }

    async fn send_batch(
        &self,
        observed: Option<&Observed>,
        node: NodeId,
        batch: Vec<(usize, pb::RangeRequest, pb::RangeRoute)>,
        timeout: Duration,
    ) -> Vec<(usize, Result<range_response::Body, Failure>)> {
        let mut requests = Vec::with_capacity(batch.len());
        let mut origins = Vec::with_capacity(batch.len());
        for (i, request, route) in batch {
            requests.push(request);
            origins.push((i, route));
        }
        match self.call(node, requests, None, timeout).await {
            Ok(reply) => {
                let whole = reply.error;
                if let Some(observed) = observed.filter(|_| whole.is_none()) {
                    observed.note(NodeId(reply.node_id), quorate_proto::Timestamp(reply.clock));
                }
                let mut responses = reply.responses.into_iter();
                let mut answer = |(i, route): (usize, pb::RangeRoute)| {
                    let body = responses.next().and_then(|r| r.body);
                    let body = match (&whole, body) {
                        (Some(e), _) => Err(Failure::Range(e.clone())),
                        (None, Some(range_response::Body::Error(e))) => Err(Failure::Range(e)),
                        (None, Some(body)) => Ok(body),
                        (None, None) => Err(lost(true, "an empty answer")),
                    };
                    if let Err(Failure::Range(e)) = &body {
                        self.heal(&route, node, e);
                    }
                    (i, body)
                };
                origins.into_iter().map(&mut answer).collect()
            }
            Err(e) => {
                tracing::debug!(%node, error = %e, "no answer");
                let failure = lost(!e.unsent(), e.to_string());
                let mut answer = |(i, route): (usize, pb::RangeRoute)| {
                    self.suspect(&route, node);
                    (i, Err(failure.clone()))
                };
                origins.into_iter().map(&mut answer).collect()
            }
        }
    }

    /// Like [`Sender::round`] for one request, again and again until it is answered or refused for
    /// a reason a better route does not cure, or `patience` is over. Only for requests that may be
    /// repeated.
    pub async fn settle(
        &self,
        request: Outgoing,
        patience: Duration,
    ) -> Result<range_response::Body, Failure> {
        let started = self.clock.monotonic();
        let mut attempt = 0;
        loop {
            let mut answers = self.round(vec![request.clone()], ATTEMPT_TIMEOUT).await;
            let failure = match answers.pop() {
                Some(Ok(body)) => return Ok(body),
                Some(Err(failure)) => failure,
                None => lost(false, "no request"),
            };
            if !failure.curable() || self.clock.monotonic() - started > patience {
                return Err(failure);
            }
            self.metrics.rerouted.fetch_add(1, Ordering::Relaxed);
            runtime::pause(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// The node to ask: the leader, or any replica while it is not known or does not answer.
    fn target(&self, route: &pb::RangeRoute) -> Option<NodeId> {
        let leader = (route.leader_node_id != 0).then_some(NodeId(route.leader_node_id));
        if let Some(leader) = leader.filter(|leader| !self.doubts(*leader)) {
            return Some(leader);
        }
        let replicas = &route.descriptor.as_ref()?.replicas;
        let nodes = || replicas.iter().map(|replica| NodeId(replica.node_id));
        let mut sure: Vec<NodeId> = nodes().filter(|node| !self.doubts(*node)).collect();
        if sure.is_empty() {
            sure = leader.map_or_else(|| nodes().collect(), |leader| vec![leader]);
        }
        let turn = usize::try_from(self.metrics.calls.load(Ordering::Relaxed)).unwrap_or(0);
        sure.get(turn.checked_rem(sure.len())?).copied()
    }

    /// Whether a node is in doubt. Who does not call it asks this, and not [`Sender::doubts`].
    pub(super) fn is_doubted(&self, node: NodeId) -> bool {
        let now = self.clock.monotonic();
        self.doubted.lock().get(&node).is_some_and(|until| now < *until)
    }

    /// Whether a node is better not asked now: a call to one that is frozen takes seconds to fail.
    /// When the doubt ends, whoever asks first finds out, the others wait for that.
    fn doubts(&self, node: NodeId) -> bool {
        let now = self.clock.monotonic();
        match self.doubted.lock().get_mut(&node) {
            None => false,
            Some(until) if now < *until => true,
            Some(until) => {
                *until = now + ATTEMPT_TIMEOUT;
                false
            }
        }
    }

    /// Corrects the cache from an error.
    fn heal(&self, route: &pb::RangeRoute, asked: NodeId, error: &pb::RangeError) {
        let Some(descriptor) = &route.descriptor else {
            return;
        };
        let mut cache = self.cache.lock();
        match &error.kind {
            Some(Kind::NotLeader(hint)) => {
                if let Some(newer) = &hint.descriptor {
                    cache.insert(pb::RangeRoute {
                        descriptor: Some(newer.clone()),
                        leader_node_id: hint.leader_node_id,
                    });
                }
                let leader = hint.leader_node_id;
                let known = leader != 0 && NodeId(leader) != asked;
                cache.set_leader(descriptor.range_id, known.then_some(NodeId(leader)));
            }
            Some(Kind::StaleRoute(stale)) => {
                cache.forget(&descriptor.start);
                for newer in &stale.descriptors {
                    // The one who answers for a range most likely leads both of its halves.
                    cache.insert(pb::RangeRoute {
                        descriptor: Some(newer.clone()),
                        leader_node_id: route.leader_node_id,
                    });
                }
            }
            _ => {}
        }
    }

    /// A node that does not answer may no longer lead. If it was only tried because the leader is
    /// not known, the route may be so old that none of its replicas is one any more: it is located
    /// anew.
    fn suspect(&self, route: &pb::RangeRoute, node: NodeId) {
        let Some(descriptor) = &route.descriptor else {
            return;
        };
        let mut cache = self.cache.lock();
        match route.leader_node_id {
            0 => cache.forget(&descriptor.start),
            leader if leader == node.0 => cache.set_leader(descriptor.range_id, None),
            _ => {}
        }
    }
}

/// How long a node that did not answer is not asked if another one can be.
const DOUBT: Duration = Duration::from_secs(2);
/// Rounds over all nodes before a range counts as not to be found.
const LOCATE_ATTEMPTS: u32 = 40;
/// Routes asked for at a time.
const LOCATE_RANGES: u32 = 64;

fn backoff(attempt: u32) -> Duration {
    RETRY_DELAY.saturating_mul(1 << attempt.min(10)).min(RETRY_DELAY_MAX)
}

fn lost(sent: bool, why: impl Into<String>) -> Failure {
    Failure::Lost { sent, why: why.into() }
}

/// A request to the range of a route.
pub(super) fn addressed(route: &pb::RangeRoute, body: range_request::Body) -> pb::RangeRequest {
    let range =
        route.descriptor.as_ref().map(|d| pb::RangeRef { range_id: d.range_id, epoch: d.epoch });
    pb::RangeRequest { range, body: Some(body) }
}

impl Failure {
    /// Whether the same request can be sent again, perhaps elsewhere, for a request that may be
    /// repeated.
    pub fn curable(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Range(e) => matches!(
                e.retry_class(),
                RetryClass::Here | RetryClass::There | RetryClass::Unknown
            ),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(e) => f.write_str(&e.message),
            Self::Lost { why, .. } => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use async_trait::async_trait;
    use quorate_proto::{NodeService, Timestamp, TxnId};
    use quorate_txn::config::MAX_CLOCK_OFFSET;

    use super::*;
    use crate::testing::TestClock;

    /// Two nodes and a range of the whole keyspace.
    struct Pair {
        route: Mutex<pb::RangeRoute>,
        first_is_down: AtomicBool,
        first_is_ahead: AtomicBool,
        calls_to_first: AtomicU64,
    }

    struct Member(Arc<Pair>, NodeId);

    #[async_trait]
    impl NodeService for Member {
        async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
            let Self(pair, id) = self;
            if *id == NodeId(1) {
                pair.calls_to_first.fetch_add(1, Ordering::Relaxed);
            }
            if *id == NodeId(1) && pair.first_is_down.load(Ordering::Relaxed) {
                let why = String::from("it is down");
                return Err(CallError::Unreachable { node: id.to_string(), why });
            }
            let route = pair.route.lock().clone();
            let node = call.node.map(|_| pb::NodeResponse {
                body: Some(node_response::Body::Locate(pb::LocateResponse {
                    routes: vec![route.clone()],
                    nodes: Vec::new(),
                })),
            });
            let answer = |_| pb::RangeResponse {
                body: Some(if route.leader_node_id == id.0 {
                    range_response::Body::Heartbeat(pb::HeartbeatResponse {})
                } else {
                    let hint = pb::NotLeader {
                        leader_node_id: route.leader_node_id,
                        descriptor: route.descriptor.clone(),
                    };
                    let kind = Kind::NotLeader(hint);
                    range_response::Body::Error(pb::RangeError::new(kind, "not the leader"))
                }),
            };
            let responses = call.requests.into_iter().map(answer).collect();
            let ahead = *id == NodeId(1) && pair.first_is_ahead.load(Ordering::Relaxed);
            let by = if ahead { Duration::from_secs(1) } else { Duration::ZERO };
            let clock = Timestamp(call.clock).bound_after(by).0;
            Ok(pb::Reply { node, responses, clock, ..pb::Reply::default() })
        }
    }

    struct Both(Arc<Pair>);

    impl Connector for Both {
        fn node(&self, node: NodeId) -> Option<Arc<dyn NodeService>> {
            Some(Arc::new(Member(self.0.clone(), node)))
        }

        fn nodes(&self) -> Vec<NodeId> {
            vec![NodeId(2), NodeId(1)]
        }

        fn learn(&self, _nodes: &[pb::NodeInfo]) {}
    }

    fn route(nodes: &[u64], leader_node_id: u64) -> pb::RangeRoute {
        let replica = |id: &u64| pb::Replica { node_id: *id, peer_id: *id, role: 0 };
        let descriptor = pb::RangeDescriptor {
            range_id: 1,
            epoch: Some(pb::Epoch { conf: nodes.len() as u64, version: 1 }),
            replicas: nodes.iter().map(replica).collect(),
            ..pb::RangeDescriptor::default()
        };
        pb::RangeRoute { descriptor: Some(descriptor), leader_node_id }
    }

    fn pair_led_by_the_first(replicas: &[u64]) -> (Arc<Pair>, Sender, Outgoing) {
        let pair = Arc::new(Pair {
            route: Mutex::new(route(replicas, 1)),
            first_is_down: AtomicBool::default(),
            first_is_ahead: AtomicBool::default(),
            calls_to_first: AtomicU64::default(),
        });
        let clock = NodeClock::new(TestClock::new(), Timestamp::ZERO, MAX_CLOCK_OFFSET);
        let sender = Sender::new(Arc::new(Both(pair.clone())), Arc::new(clock), Bytes::new());
        let beat =
            pb::HeartbeatRequest { txn_id: TxnId(1).to_bytes(), ..pb::HeartbeatRequest::default() };
        let key = Bytes::from("k");
        (pair, sender, Outgoing { key, body: range_request::Body::Heartbeat(beat) })
    }

    /// A call to a frozen node takes seconds to fail: only one finds that out.
    #[tokio::test]
    async fn a_node_that_did_not_answer_is_not_asked_while_others_can_be() {
        let (pair, sender, request) = pair_led_by_the_first(&[1, 2]);
        let patience = Duration::from_secs(5);
        sender.settle(request.clone(), patience).await.expect("the first node leads");
        pair.first_is_down.store(true, Ordering::Relaxed);
        let before = pair.calls_to_first.load(Ordering::Relaxed);
        let asked = || pair.calls_to_first.load(Ordering::Relaxed) - before;
        for _ in 0..20 {
            // The second node still takes the first for the leader.
            sender.round(vec![request.clone()], ATTEMPT_TIMEOUT).await;
        }
        assert_eq!(asked(), 1);
        *pair.route.lock() = route(&[1, 2], 2);
        for _ in 0..20 {
            sender.settle(request.clone(), patience).await.expect("the second node leads");
        }
        assert_eq!(asked(), 1);
    }

    /// T3: the clock of the leader jumps. A gateway that knows its own to be right goes on with
    /// whoever leads next; one that does not know answers nothing; one that is off asks nobody.
    #[tokio::test]
    async fn a_leader_whose_clock_is_off_is_left_by_who_agrees_with_the_others() {
        let (pair, sender, request) = pair_led_by_the_first(&[1, 2]);
        let patience = Duration::from_secs(5);
        sender.settle(request.clone(), patience).await.expect("the first node leads");
        pair.first_is_ahead.store(true, Ordering::Relaxed);
        let skewed = |answer: Result<_, Failure>| match answer {
            Err(Failure::Range(e)) => matches!(e.kind, Some(Kind::ClockSkew(_))),
            _ => false,
        };
        assert!(skewed(sender.settle(request.clone(), patience).await));
        assert!(sender.clock.refusals() > 0);
        *pair.route.lock() = route(&[1, 2], 2);
        sender.clock.set_standing(Standing::Agrees);
        sender.settle(request.clone(), patience).await.expect("the second node leads");
        sender.clock.set_standing(Standing::Off { ahead_us: Some(-812_000) });
        let before = sender.metrics.calls.load(Ordering::Relaxed);
        let refused = sender.settle(request.clone(), patience).await;
        assert!(matches!(&refused, Err(e) if e.to_string().contains("-812 ms")), "{refused:?}");
        sender.cache.lock().forget(&request.key);
        assert!(skewed(sender.settle(request, patience).await));
        assert_eq!(sender.metrics.calls.load(Ordering::Relaxed), before);
    }

    /// The route was cached while the range had one replica, and that replica's node dies.
    #[tokio::test]
    async fn a_route_whose_replicas_are_all_silent_is_located_anew() {
        let (pair, sender, request) = pair_led_by_the_first(&[1]);
        let patience = Duration::from_secs(5);
        sender.settle(request.clone(), patience).await.expect("the first node leads");
        *pair.route.lock() = route(&[1, 2], 2);
        pair.first_is_down.store(true, Ordering::Relaxed);
        sender.settle(request, patience).await.expect("the second node leads");
    }
}
