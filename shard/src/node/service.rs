//! Answering calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use prost::Message as _;
use quorate_proto::pb::node_request::Body as Ask;
use quorate_proto::pb::node_response::Body as Answer;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::{CallError, FORMAT_VERSION, NodeService, Timestamp, TxnId, pb};
use tokio::time::Instant;

use super::config::{LISTED_LOCKS_BYTES_MAX, LISTED_LOCKS_MAX, OWN_CALLS_LIVE, Storage};
use super::{Node, runtime};
use crate::disk::{FolderSpace, FreeSpace as _};
use crate::range::config::{CALL_TIMEOUT_DEFAULT, CALL_TIMEOUT_MAX};
use crate::range::{META_RANGE, errors, meta};

/// A call under way, counted so that a drain can wait for it.
struct InFlight<'a>(&'a Node);

impl<'a> InFlight<'a> {
    /// `None` once the node is stopping.
    fn begin(node: &'a Node) -> Option<Self> {
        node.in_flight.fetch_add(1, Ordering::SeqCst);
        let guard = Self(node);
        (!node.stopping.load(Ordering::SeqCst)).then_some(guard)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

fn deadline_of(call: &pb::Call) -> Instant {
    let timeout = match call.timeout_ms {
        0 => CALL_TIMEOUT_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)).min(CALL_TIMEOUT_MAX),
    };
    Instant::now() + timeout
}

#[async_trait]
impl NodeService for Node {
    async fn call(&self, call: pb::Call) -> Result<pb::Reply, CallError> {
        let guard = InFlight::begin(self);
        let refused = match &guard {
            Some(_) => self.refuse(&call),
            None => Some(errors::unavailable("the node is stopping")),
        };
        let mut reply = pb::Reply { node_id: self.id().0, ..pb::Reply::default() };
        if refused.is_some() {
            // Rule T3: who is off learns it from the clocks of those who refuse it.
            let skewed = matches!(&refused, Some(e) if matches!(e.kind, Some(Kind::ClockSkew(_))));
            if let Some(pb::NodeRequest { body: Some(Ask::Ping(_)) }) = &call.node
                && skewed
            {
                reply.node = Some(pb::NodeResponse { body: Some(self.ping_answer(Vec::new())) });
            }
            reply.error = refused;
            reply.clock = self.ranges.clock.now().0;
            return Ok(reply);
        }
        self.ranges.metrics.calls.fetch_add(1, Ordering::Relaxed);
        let deadline = deadline_of(&call);
        let direct = call.direct;
        let mut requests = call.requests;
        let node = async {
            let body = call.node?.body;
            Some(self.node_request(body, direct, deadline).await)
        };
        let responses = async {
            match requests.len() {
                0 => Vec::new(),
                1 => match requests.pop() {
                    Some(request) => vec![self.ranges.serve(request, deadline).await],
                    None => Vec::new(),
                },
                // All are admitted before any waits: their entries share a log write (P10).
                _ => join_all(requests.into_iter().map(|r| self.ranges.serve(r, deadline))).await,
            }
        };
        (reply.responses, reply.node) = futures::join!(responses, node);
        reply.clock = self.ranges.clock.now().0;
        Ok(reply)
    }
}

impl Node {
    /// Whether the whole call is refused: another cluster, or a clock too far ahead (T3).
    fn refuse(&self, call: &pb::Call) -> Option<pb::RangeError> {
        let own = &self.identity.cluster_id;
        let stranger = call.cluster_id.is_empty() && call.requests.is_empty();
        if !stranger && call.cluster_id != own[..] {
            let kind = Kind::WrongCluster(pb::WrongCluster { cluster_id: self.cluster_id() });
            return Some(pb::RangeError::new(kind, "the node belongs to another cluster"));
        }
        let observed = self.ranges.clock.observe(Timestamp(call.clock));
        observed.err().map(quorate_txn::clock::ClockError::to_range_error)
    }

    async fn node_request(
        &self,
        body: Option<Ask>,
        direct: bool,
        deadline: Instant,
    ) -> pb::NodeResponse {
        let outcome = match body {
            Some(Ask::Locate(request)) => self.locate(request, direct, deadline).await,
            Some(Ask::Join(request)) if request.format_version > FORMAT_VERSION => {
                Err(errors::invalid(format!(
                    "the cluster has format {FORMAT_VERSION}, the node {}",
                    request.format_version
                )))
            }
            Some(Ask::Join(request)) if self.differs(&request) => {
                // Before it gets a number: one that nobody has counts as a node that is silent.
                let max_clock_offset_us = self.identity.max_clock_offset_us;
                Ok(Answer::Join(pb::JoinResponse { max_clock_offset_us, ..Default::default() }))
            }
            Some(Ask::Join(request)) => self.at_meta(Ask::Join(request), direct, deadline).await,
            Some(Ask::Allocate(request)) => {
                self.at_meta(Ask::Allocate(request), direct, deadline).await
            }
            Some(Ask::Report(request)) => {
                self.at_meta(Ask::Report(request), direct, deadline).await
            }
            Some(Ask::Status(request)) => Ok(Answer::Status(self.status(request.ranges).await)),
            Some(Ask::Barrier(request)) => Ok(Answer::Barrier(self.barrier(&request).await)),
            Some(Ask::KeepLocks(request)) => Ok(self.keep_locks(&request)),
            Some(Ask::ListLocks(request)) => Ok(self.list_locks(request)),
            Some(Ask::Ping(request)) => {
                self.learn(request.node.as_slice()).await;
                Ok(self.ping_answer(self.connector.book()))
            }
            None => Err(errors::invalid("a request this release does not know")),
        };
        pb::NodeResponse { body: Some(outcome.unwrap_or_else(Answer::Error)) }
    }

    /// Whether it was started with another `max_clock_offset` than the cluster was begun with.
    fn differs(&self, request: &pb::JoinRequest) -> bool {
        let asked = request.max_clock_offset_us;
        asked != 0 && asked != self.identity.max_clock_offset_us
    }

    fn keep_locks(&self, request: &pb::KeepLocksRequest) -> Answer {
        let owners = request.owner_ids.iter().filter_map(|id| TxnId::from_bytes(id));
        let owners: Vec<TxnId> = owners.collect();
        self.ranges.replicas().iter().for_each(|replica| replica.keep_locks(&owners));
        Answer::KeepLocks(pb::KeepLocksResponse {})
    }

    fn list_locks(&self, request: pb::ListLocksRequest) -> Answer {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).min(LISTED_LOCKS_MAX);
        let (mut locks, mut bytes) = (Vec::new(), 0);
        for replica in self.led() {
            let left = u32::try_from(limit - locks.len()).unwrap_or(u32::MAX);
            for lock in replica.list_locks(pb::ListLocksRequest { limit: left, ..request }) {
                // Keys may be long, and what does not fit into a message breaks the connection.
                bytes += lock.encoded_len();
                if bytes > LISTED_LOCKS_BYTES_MAX {
                    return Answer::ListLocks(pb::ListLocksResponse { locks });
                }
                locks.push(lock);
            }
            if locks.len() >= limit {
                break;
            }
        }
        Answer::ListLocks(pb::ListLocksResponse { locks })
    }

    /// Answers when no transaction of this node that goes by an older catalog can commit any more:
    /// neither of its gateway, nor of an earlier life whose calls may still be worked on elsewhere.
    async fn barrier(&self, request: &pb::BarrierRequest) -> pb::BarrierResponse {
        let alive = self.ranges.clock.monotonic().saturating_sub(self.started);
        if self.restarted && request.catalog_version != 0 && alive < OWN_CALLS_LIVE {
            tokio::time::sleep(OWN_CALLS_LIVE - alive).await;
        }
        let Some(gateway) = self.gateway.get() else {
            // No session yet: the first one begins with a catalog that is newer.
            let catalog_version = request.catalog_version;
            return pb::BarrierResponse { catalog_version, building_tables: Vec::new() };
        };
        let catalog_version = gateway.barrier(request.catalog_version).await;
        pb::BarrierResponse { catalog_version, building_tables: gateway.building_tables() }
    }

    /// From the meta replica here, with what this node knows better; else from somebody's.
    async fn locate(
        &self,
        request: pb::LocateRequest,
        direct: bool,
        deadline: Instant,
    ) -> Result<Answer, pb::RangeError> {
        if self.ranges.replica(META_RANGE).is_some() {
            return self.locate_here(&request).map(Answer::Locate);
        }
        if direct {
            return Err(errors::unavailable("no replica of the meta range is here"));
        }
        self.ask_others(Ask::Locate(request), deadline).await
    }

    fn locate_here(
        &self,
        request: &pb::LocateRequest,
    ) -> Result<pb::LocateResponse, pb::RangeError> {
        let limit = usize::try_from(request.limit.max(1)).unwrap_or(usize::MAX);
        let snapshot = self.ranges.engine.snapshot();
        let stored = meta::routes(&*snapshot, &request.start, &request.end, limit);
        let mut routes = stored.map_err(errors::unavailable)?;
        drop(snapshot);
        for route in &mut routes {
            self.freshen(route);
        }
        Ok(pb::LocateResponse { routes, nodes: self.connector.book() })
    }

    /// A replica here often knows its leader better than the meta range.
    fn freshen(&self, route: &mut pb::RangeRoute) {
        let Some(stored) = &route.descriptor else { return };
        let id = quorate_proto::RangeId(stored.range_id);
        let Some(replica) = self.ranges.replica(id) else { return };
        let own = replica.descriptor();
        let same_bounds = own.start == stored.start && own.end == stored.end;
        if same_bounds
            && own.epoch.map(|e| (e.version, e.conf)) >= stored.epoch.map(|e| (e.version, e.conf))
        {
            route.descriptor = Some(own);
        }
        if let Some(leader) = self.raft.lease(id).and_then(|lease| lease.leader_node) {
            route.leader_node_id = leader.0;
        }
    }

    pub(super) async fn status(&self, with_ranges: bool) -> pb::StatusResponse {
        let mut ranges = Vec::new();
        if with_ranges {
            let now = self.ranges.clock.monotonic();
            for group in self.raft.status_all().await {
                ranges.push(pb::RangeStatus {
                    leader: group.lease.leader,
                    lease: group.lease.valid_at(now),
                    leader_node_id: group.lease.leader_node.map_or(0, |node| node.0),
                    term: group.lease.term,
                    applied: group.state.applied_index,
                    bytes: group.state.bytes,
                    quiet: group.quiet,
                    descriptor: group.state.descriptor,
                });
            }
        }
        let (disk_used, disk_free) = self.disk_space().await;
        let uptime = self.ranges.clock.monotonic().saturating_sub(self.started);
        pb::StatusResponse {
            node: Some(self.info()),
            cluster_id: self.cluster_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            disk_used,
            disk_free,
            ranges,
            nodes: self.connector.book(),
            metrics: self.metrics(),
            clock: Some(self.clock_state()),
            clock_offsets: self.clock_offsets(),
        }
    }

    async fn disk_space(&self) -> (u64, u64) {
        let used: u64 = self.ranges.engine.metrics().file_bytes.iter().sum();
        let used = used + self.log.used_bytes();
        let Storage::Folder(dir) = self.config.storage.clone() else { return (used, 0) };
        let space = runtime::blocking(self.config.workers_as_tasks, move || {
            FolderSpace::new(&dir).space().ok()
        })
        .await;
        (used, space.flatten().map_or(0, |space| space.free))
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits will do")]
    fn metrics(&self) -> std::collections::HashMap<String, f64> {
        let raft = self.raft.metrics().snapshot();
        let ranges = self.ranges.metrics.snapshot();
        let engine = self.ranges.engine.metrics();
        let engine = [
            ("engine_unflushed_bytes", engine.unflushed_bytes),
            ("engine_cache_bytes", engine.cache_bytes),
            ("engine_reader_bytes", engine.reader_bytes),
            ("engine_writes_all", engine.writes),
            ("engine_flushes_all", engine.flushes),
            ("log_used_bytes", self.log.used_bytes()),
            ("ranges_here", self.ranges.replicas().len() as u64),
            ("ranges_led", self.led().len() as u64),
        ];
        let clock = self.clock_state();
        let named = raft.into_iter().chain(ranges).chain(engine);
        let named = named.map(|(name, value)| (name.to_owned(), value as f64));
        let clock = [
            ("clock_off", f64::from(u8::from(clock.off))),
            ("clock_ahead_us", clock.ahead_us as f64),
            ("clock_refusals", self.ranges.clock.refusals() as f64),
            ("max_clock_offset_us", clock.max_offset_us as f64),
        ];
        named.chain(clock.map(|(name, value)| (name.to_owned(), value))).collect()
    }

    /// The replicas that lead with a valid lease now.
    pub(super) fn led(&self) -> Vec<Arc<crate::range::Replica>> {
        let replicas = self.ranges.replicas();
        replicas.into_iter().filter(|replica| replica.serves()).collect()
    }
}
