//! `quorate admin`: asks the nodes over their RPC addresses.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::pb::{self, node_request, node_response};
use quorate_proto::{CallError, NodeService, RemoteNode};

use crate::args::{AdminArgs, AdminCommand};

/// Milliseconds a node may take to answer.
const STATUS_TIMEOUT_MS: u32 = 3_000;
/// A clock that was not asked for so long says nothing of now.
const CLOCK_AGE_MS_MAX: u64 = 30_000;

/// Why an admin command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The node that was named cannot be reached.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It answered with an error.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// Runs an admin command.
///
/// # Errors
/// [`AdminError`] if the named node does not answer; others that do not are shown as such.
pub async fn run(args: AdminArgs) -> Result<(), AdminError> {
    match args.command {
        AdminCommand::Status { ranges, metrics, json } => {
            let seen = gather(&args.rpc_addr).await?;
            if json {
                println!("{}", to_json(&seen));
            } else {
                print!("{}", to_text(&seen, ranges, metrics));
            }
            Ok(())
        }
    }
}

/// What every node says, or why it says nothing.
struct Seen {
    /// The node that was named: clocks are shown as it sees them.
    named: u64,
    nodes: Vec<(pb::NodeInfo, Result<pb::StatusResponse, String>)>,
}

async fn status(addr: &str) -> Result<pb::StatusResponse, AdminError> {
    let call = pb::Call {
        cluster_id: Bytes::new(),
        timeout_ms: STATUS_TIMEOUT_MS,
        node: Some(pb::NodeRequest {
            body: Some(node_request::Body::Status(pb::StatusRequest { ranges: true })),
        }),
        ..Default::default()
    };
    let reply = RemoteNode::new(addr).call(call).await?;
    match reply.node.and_then(|n| n.body) {
        Some(node_response::Body::Status(status)) => Ok(status),
        Some(node_response::Body::Error(e)) => Err(AdminError::Refused(e.message)),
        _ => {
            let why = reply.error.map_or_else(|| String::from("an empty answer"), |e| e.message);
            Err(AdminError::Refused(why))
        }
    }
}

async fn gather(addr: &str) -> Result<Seen, AdminError> {
    let first = status(addr).await?;
    let own = first.node.as_ref().map_or(0, |n| n.node_id);
    let mut infos: BTreeMap<u64, pb::NodeInfo> =
        first.nodes.iter().map(|n| (n.node_id, n.clone())).collect();
    if let Some(node) = &first.node {
        infos.insert(node.node_id, node.clone());
    }
    let mut first = Some(first);
    let mut nodes = Vec::new();
    for (id, info) in infos {
        let answer = match first.take_if(|_| id == own) {
            Some(own) => Ok(own),
            None => status(&info.rpc_addr).await.map_err(|e| e.to_string()),
        };
        nodes.push((info, answer));
    }
    Ok(Seen { named: own, nodes })
}

impl Seen {
    /// Every range once, as its leader tells it; else as any replica does.
    fn ranges(&self) -> Vec<&pb::RangeStatus> {
        let mut best: BTreeMap<u64, &pb::RangeStatus> = BTreeMap::new();
        let answers = self.nodes.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        for range in answers.flat_map(|status| &status.ranges) {
            let id = range.descriptor.as_ref().map_or(0, |d| d.range_id);
            let slot = best.entry(id).or_insert(range);
            if (range.leader, range.term) > (slot.leader, slot.term) {
                *slot = range;
            }
        }
        let mut ranges: Vec<_> = best.into_values().collect();
        ranges.sort_by_key(|r| r.descriptor.as_ref().map(|d| d.start.clone()));
        ranges
    }
}

/// Microseconds as milliseconds: whole ones, or two digits where they are few.
fn millis(us: i64) -> String {
    match us {
        us if us.unsigned_abs() >= 10_000 => format!("{:+}", us / 1000),
        us => format!("{:+.1}", us as f64 / 1000.0),
    }
}

/// `+3 ms ± 1`, as the named node sees it; `-` is its own clock, `?` one it has not heard of.
fn clock_of(seen: &Seen, node: u64) -> String {
    if node == seen.named {
        return String::from("-");
    }
    let named = seen.nodes.iter().find(|(info, _)| info.node_id == seen.named);
    let offsets = named.and_then(|(_, answer)| Some(&answer.as_ref().ok()?.clock_offsets));
    let offset = offsets.into_iter().flatten().find(|offset| offset.node_id == node);
    match offset.filter(|offset| offset.age_ms < CLOCK_AGE_MS_MAX) {
        None => String::from("?"),
        Some(offset) if !offset.measured && offset.refused => String::from("off"),
        Some(offset) if !offset.measured => String::from("?"),
        Some(offset) => {
            let error = offset.error_us.div_ceil(1000);
            format!("{} ms ± {error}", millis(offset.offset_us))
        }
    }
}

/// A node that answers: up, and what its clock keeps it from.
fn state_of(status: &pb::StatusResponse) -> String {
    let clock = status.clock.unwrap_or_default();
    let off = match clock.ahead_us {
        0 => String::from("clock off"),
        us => format!("clock off by {} ms", millis(us)),
    };
    match (clock.off, clock.refuses) {
        (false, _) => String::from("up"),
        (true, false) => format!("{off}: does not lead"),
        (true, true) => format!("{off}: does not lead, runs no statements"),
    }
}

fn bytes(n: u64) -> String {
    match n {
        n if n >= 10 << 30 => format!("{} GiB", n >> 30),
        n if n >= 10 << 20 => format!("{} MiB", n >> 20),
        n if n >= 10 << 10 => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

/// Columns as wide as their widest cell.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}", w = *w));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    let mut out = line(head.to_vec());
    for row in &rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

fn to_text(seen: &Seen, with_ranges: bool, with_metrics: bool) -> String {
    let ranges = seen.ranges();
    let led = |id: u64| ranges.iter().filter(|r| r.leader_node_id == id && r.leader).count();
    let mut rows = Vec::new();
    for (info, answer) in &seen.nodes {
        let mut row = vec![info.node_id.to_string(), info.rpc_addr.clone(), info.sql_addr.clone()];
        match answer {
            Ok(status) => row.extend([
                state_of(status),
                clock_of(seen, info.node_id),
                status.ranges.len().to_string(),
                led(info.node_id).to_string(),
                bytes(status.disk_used),
                bytes(status.disk_free),
                format!("{} s", status.uptime_ms / 1000),
            ]),
            Err(_) => row.push(String::from("down")),
        }
        rows.push(row);
    }
    let head =
        ["node", "rpc", "sql", "state", "clock", "replicas", "leads", "used", "free", "uptime"];
    let mut out = table(&head, rows);
    let without_leader = ranges.iter().filter(|r| !r.leader).count();
    out += &format!("\n{} ranges, {without_leader} without a leader\n", ranges.len());
    if with_ranges {
        out += &format!("\n{}", ranges_table(&ranges));
    }
    if with_metrics {
        for (info, answer) in &seen.nodes {
            let Ok(status) = answer else { continue };
            let sorted: BTreeMap<_, _> = status.metrics.iter().collect();
            let rows = sorted.iter().map(|(k, v)| vec![(*k).clone(), v.to_string()]).collect();
            out += &format!("\nnode {}\n{}", info.node_id, table(&["metric", "value"], rows));
        }
    }
    out
}

fn ranges_table(ranges: &[&pb::RangeStatus]) -> String {
    let key = |key: &[u8], none: &str| {
        if key.is_empty() { none.to_string() } else { quorate_txn::keys::Pretty(key).to_string() }
    };
    let row = |range: &&pb::RangeStatus| {
        let descriptor = range.descriptor.clone().unwrap_or_default();
        let epoch = descriptor.epoch.unwrap_or_default();
        let replicas: Vec<String> =
            descriptor.replicas.iter().map(|r| r.node_id.to_string()).collect();
        vec![
            descriptor.range_id.to_string(),
            key(&descriptor.start, "(first)"),
            key(&descriptor.end, "(last)"),
            if range.leader { range.leader_node_id.to_string() } else { String::from("none") },
            replicas.join(","),
            format!("{}.{}", epoch.version, epoch.conf),
            bytes(range.bytes),
            if range.quiet { String::from("quiet") } else { String::from("active") },
        ]
    };
    let head = ["range", "start", "end", "leader", "replicas", "epoch", "bytes", "state"];
    table(&head, ranges.iter().map(row).collect())
}

fn offset_json(offset: &pb::ClockOffset) -> serde_json::Value {
    serde_json::json!({
        "node": offset.node_id, "offset_us": offset.measured.then_some(offset.offset_us),
        "error_us": offset.measured.then_some(offset.error_us), "refused": offset.refused,
        "age_ms": offset.age_ms,
    })
}

fn to_json(seen: &Seen) -> serde_json::Value {
    let node = |(info, answer): &(pb::NodeInfo, Result<pb::StatusResponse, String>)| {
        let mut value = serde_json::json!({
            "node": info.node_id, "rpc": info.rpc_addr, "sql": info.sql_addr,
        });
        match answer {
            Ok(status) => {
                value["up"] = true.into();
                value["disk_used"] = status.disk_used.into();
                value["disk_free"] = status.disk_free.into();
                value["uptime_ms"] = status.uptime_ms.into();
                value["metrics"] = serde_json::json!(status.metrics);
                let clock = status.clock.unwrap_or_default();
                value["clock"] = serde_json::json!({
                    "max_offset_us": clock.max_offset_us, "off": clock.off,
                    "refuses": clock.refuses, "ahead_us": clock.ahead_us,
                    "others": status.clock_offsets.iter().map(offset_json).collect::<Vec<_>>(),
                });
            }
            Err(why) => {
                value["up"] = false.into();
                value["error"] = why.clone().into();
            }
        }
        value
    };
    let range = |range: &&pb::RangeStatus| {
        let descriptor = range.descriptor.clone().unwrap_or_default();
        let replicas: Vec<u64> = descriptor.replicas.iter().map(|r| r.node_id).collect();
        serde_json::json!({
            "range": descriptor.range_id,
            "start": quorate_txn::keys::Pretty(&descriptor.start).to_string(),
            "end": quorate_txn::keys::Pretty(&descriptor.end).to_string(),
            "leader": range.leader.then_some(range.leader_node_id),
            "replicas": replicas, "bytes": range.bytes, "quiet": range.quiet,
        })
    };
    serde_json::json!({
        "nodes": seen.nodes.iter().map(node).collect::<Vec<_>>(),
        "ranges": seen.ranges().iter().map(range).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_shown_as_its_leader_tells_it_and_a_dead_node_as_down() {
        let range = |leader, term, node| pb::RangeStatus {
            descriptor: Some(pb::RangeDescriptor { range_id: 7, ..Default::default() }),
            leader,
            term,
            leader_node_id: node,
            ..Default::default()
        };
        let status = |range| pb::StatusResponse { ranges: vec![range], ..Default::default() };
        let info = |id| pb::NodeInfo { node_id: id, ..Default::default() };
        let seen = Seen {
            named: 1,
            nodes: vec![
                (info(1), Ok(status(range(false, 9, 2)))),
                (info(2), Ok(status(range(true, 3, 2)))),
                (info(3), Err(String::from("gone"))),
            ],
        };
        assert_eq!(seen.ranges().len(), 1);
        assert!(seen.ranges()[0].leader);
        let text = to_text(&seen, true, false);
        assert!(text.contains("down"), "{text}");
        assert!(text.contains("1 ranges, 0 without a leader"), "{text}");
        assert_eq!(to_json(&seen)["ranges"][0]["leader"], 2);
    }

    #[test]
    fn clocks_are_shown_as_the_named_node_sees_them_and_a_bad_one_in_its_own_words() {
        let info = |id| pb::NodeInfo { node_id: id, ..Default::default() };
        let offset = |node_id, offset_us, error_us| pb::ClockOffset {
            node_id,
            measured: true,
            offset_us,
            error_us,
            ..Default::default()
        };
        let named = pb::StatusResponse {
            clock_offsets: vec![offset(2, 812_345, 700), offset(3, -340, 1_200)],
            ..Default::default()
        };
        let off = pb::ClockState { off: true, ahead_us: 812_100, ..Default::default() };
        let status = |clock| pb::StatusResponse { clock: Some(clock), ..Default::default() };
        let seen = Seen {
            named: 1,
            nodes: vec![
                (info(1), Ok(named)),
                (info(2), Ok(status(off))),
                (info(3), Ok(status(pb::ClockState::default()))),
                (info(4), Ok(pb::StatusResponse::default())),
            ],
        };
        let clocks: Vec<String> = (1..=4).map(|node| clock_of(&seen, node)).collect();
        assert_eq!(clocks, ["-", "+812 ms ± 1", "-0.3 ms ± 2", "?"]);
        let text = to_text(&seen, false, false);
        assert!(text.contains("clock off by +812 ms: does not lead"), "{text}");
        let refuses = state_of(&status(pb::ClockState { refuses: true, ahead_us: 0, ..off }));
        assert_eq!(refuses, "clock off: does not lead, runs no statements");
        assert_eq!(to_json(&seen)["nodes"][0]["clock"]["others"][0]["offset_us"], 812_345);
    }
}
