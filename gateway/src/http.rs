//! Health and metrics over HTTP: `/health` for load balancers, `/metrics` for Prometheus.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use quorate_proto::NodeService;
use quorate_proto::pb::{self, node_request, node_response};
use tokio::net::TcpListener;

use crate::Gateway;

#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    node: Arc<dyn NodeService>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, node: Arc<dyn NodeService>) {
    let shared = Shared { gateway, node };
    let app = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(shared);
    if let Err(e) = axum::serve(listener, app).await {
        tracing::error!(error = %e, "the HTTP server ended");
    }
}

/// 200 while this node can run statements, 503 while it cannot reach the catalog, its clock is
/// off, or it stops.
async fn health(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.gateway.stop.has_begun() {
        (StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down\n")
    } else if shared.gateway.check_clock().is_err() {
        (StatusCode::SERVICE_UNAVAILABLE, "the clock is off from most other nodes'\n")
    } else if shared.gateway.catalog().is_fresh() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the catalog cannot be reached\n")
    }
}

async fn metrics(State(shared): State<Shared>) -> String {
    let mut out = String::new();
    for (name, value) in shared.gateway.metrics() {
        line(&mut out, &name, value);
    }
    let call = pb::Call {
        node: Some(pb::NodeRequest {
            body: Some(node_request::Body::Status(pb::StatusRequest { ranges: false })),
        }),
        ..Default::default()
    };
    if let Ok(reply) = shared.node.call(call).await
        && let Some(node_response::Body::Status(status)) = reply.node.and_then(|n| n.body)
    {
        let mut sorted: Vec<_> = status.metrics.into_iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, value) in sorted {
            line(&mut out, &format!("shard_{name}"), value);
        }
        for seen in status.clock_offsets {
            clock_lines(&mut out, &seen);
        }
    }
    out
}

fn line(out: &mut String, name: &str, value: f64) {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "quorate_{name} {value}");
}

/// Another node's clock minus this one's, as measured last.
fn clock_lines(out: &mut String, seen: &pb::ClockOffset) {
    let node = seen.node_id;
    let mut line = |name: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "quorate_shard_{name}{{node=\"{node}\"}} {value}");
    };
    if seen.measured {
        line("clock_offset_us", seen.offset_us as f64);
        line("clock_offset_error_us", seen.error_us as f64);
    }
    line("clock_offset_age_ms", seen.age_ms as f64);
    line("clock_refused", f64::from(u8::from(seen.refused)));
}

impl Gateway {
    /// Counters of this gateway by name.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let sender = &self.dist().sender().metrics;
        let commits = &self.dist().commits;
        let cache = self.planner().cache_stats();
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed) as f64;
        [
            ("sessions", self.cancels.len() as f64),
            ("rpc_rounds", count(&sender.rounds)),
            ("rpc_calls", count(&sender.calls)),
            ("rpc_rerouted", count(&sender.rerouted)),
            ("commits", count(&commits.committed)),
            ("aborts", count(&commits.aborted)),
            ("unknown_outcomes", count(&commits.unknown)),
            ("commit_clock_waits", count(&commits.clock_waits)),
            ("commit_consensus_rounds", count(&commits.consensus_rounds)),
            ("repeated_statements", count(&commits.repeated)),
            ("replayed_transactions", count(&commits.replayed)),
            ("recoveries", count(&commits.recoveries)),
            ("plan_cache_hits", cache.hits as f64),
            ("plan_cache_misses", cache.misses as f64),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_has_its_node_as_a_label() {
        let mut out = String::new();
        let seen = pb::ClockOffset {
            node_id: 3,
            measured: true,
            offset_us: -812_000,
            error_us: 70,
            refused: true,
            age_ms: 20,
        };
        clock_lines(&mut out, &seen);
        assert!(out.contains("quorate_shard_clock_offset_us{node=\"3\"} -812000\n"), "{out}");
        let mut silent = String::new();
        clock_lines(&mut silent, &pb::ClockOffset { measured: false, ..seen });
        assert!(!silent.contains("offset_us"), "{silent}");
    }
}
