//! The meta range: descriptors, node addresses and the allocator of ids, as plain rows of `latest`
//! below the database's keyspace. No transaction sees them; they change by commands of their own
//! and are read as hints, from any replica.
//!
//! # Invariants
//! * The descriptors that are known do not overlap.
//! * A key once described stays described: a report cuts what it overlaps, it makes no holes.
//! * Ids are given out once.

use bytes::Bytes;
use prost::Message;
use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{Timestamp, pb};
use quorate_txn::keys;

use super::config::{ALLOCATE_MAX, FIRST_ID};
use super::errors;
use super::replica::overlap;
use crate::engine::{Batch, Cf, EngineSnapshot};

/// The range of the meta keyspace.
pub const META_RANGE: quorate_proto::RangeId = quorate_proto::RangeId(1);
/// The node that begins a cluster.
pub const BOOTSTRAP_NODE: quorate_proto::NodeId = quorate_proto::NodeId(1);
/// The first range of the database.
pub const FIRST_DB_RANGE: quorate_proto::RangeId = quorate_proto::RangeId(2);

fn get<M: Message + Default>(view: &dyn EngineSnapshot, key: &[u8]) -> Result<Option<M>, String> {
    let bytes = view.get(Cf::Latest, key).map_err(|e| e.to_string())?;
    bytes.map(|bytes| M::decode(bytes).map_err(|e| e.to_string())).transpose()
}

fn put(batch: &mut Batch, key: &[u8], value: &impl Message) {
    batch.put(Cf::Latest, key, &value.encode_to_vec());
}

/// Rows from `from` up to the end of the prefix, until `take` answers `false`.
fn walk<M: Message + Default>(
    view: &dyn EngineSnapshot,
    from: &[u8],
    upto: &[u8],
    take: &mut dyn FnMut(M) -> bool,
) -> Result<(), String> {
    let mut iter = view.iter(Cf::Latest, from, upto);
    iter.seek_first();
    while let Some((_, value)) = iter.item() {
        if !take(M::decode(value).map_err(|e| e.to_string())?) {
            return Ok(());
        }
        iter.next();
    }
    iter.status().map_err(|e| e.to_string())
}

/// The key above all descriptors.
fn ranges_end() -> Bytes {
    keys::next_key(&keys::meta_range(&[]))
}

/// The routes of ranges that overlap `[start, end)`, in key order, at most `limit`.
///
/// # Errors
/// The rows do not decode.
pub fn routes(
    view: &dyn EngineSnapshot,
    start: &[u8],
    end: &[u8],
    limit: usize,
) -> Result<Vec<pb::RangeRoute>, String> {
    let mut found = Vec::new();
    // A range that ends exactly at `start` does not hold it.
    let from = match start.is_empty() {
        true => keys::meta_range(&[0])[..3].to_vec(),
        false => keys::meta_range(&keys::next_key(start)).to_vec(),
    };
    walk(view, &from, &ranges_end(), &mut |route: pb::RangeRoute| {
        let descriptor = route.descriptor.clone().unwrap_or_default();
        if !overlap((start, end), (&descriptor.start, &descriptor.end)) || found.len() >= limit {
            return false;
        }
        found.push(route);
        true
    })?;
    Ok(found)
}

/// All nodes that were ever registered, by id.
///
/// # Errors
/// The rows do not decode.
pub fn nodes(view: &dyn EngineSnapshot) -> Result<Vec<pb::NodeInfo>, String> {
    let mut found = Vec::new();
    let (from, upto) = (keys::meta_node(0), keys::next_key(&keys::meta_node(u64::MAX)));
    walk(view, &from, &upto, &mut |node: pb::NodeInfo| {
        found.push(node);
        true
    })?;
    Ok(found)
}

/// How many replicas and leaders each node has, by the descriptors.
///
/// # Errors
/// The rows do not decode.
pub fn loads(view: &dyn EngineSnapshot) -> Result<Vec<pb::NodeLoad>, String> {
    let mut loads: Vec<pb::NodeLoad> = nodes(view)?
        .into_iter()
        .map(|node| pb::NodeLoad { node_id: node.node_id, replicas: 0, leaders: 0 })
        .collect();
    let from = keys::meta_range(&[0])[..3].to_vec();
    walk(view, &from, &ranges_end(), &mut |route: pb::RangeRoute| {
        for load in &mut loads {
            let descriptor = route.descriptor.as_ref();
            let replicas = descriptor.map_or(&[][..], |d| &d.replicas[..]);
            load.replicas += u64::from(replicas.iter().any(|r| r.node_id == load.node_id));
            load.leaders += u64::from(route.leader_node_id == load.node_id);
        }
        true
    })?;
    Ok(loads)
}

/// Applies a command of the meta range.
///
/// # Errors
/// The rows do not decode: the node stops.
pub(crate) fn apply(
    command: &Command,
    view: &dyn EngineSnapshot,
    batch: &mut Batch,
) -> Result<Answer, String> {
    match command {
        Command::MetaReport(report) => {
            let Some(route) = &report.route else {
                return Ok(Answer::Error(errors::invalid("a report without a route")));
            };
            adopt(route, view, batch)?;
            Ok(Answer::Heartbeat(pb::HeartbeatResponse {}))
        }
        Command::Allocate(allocate) => {
            let count = allocate.count.clamp(1, ALLOCATE_MAX);
            let next: Option<pb::AllocateResponse> = get(view, &keys::meta_allocator())?;
            let first = next.map_or(FIRST_ID, |next| next.first);
            put(batch, &keys::meta_allocator(), &pb::AllocateResponse { first: first + count });
            Ok(allocated(first))
        }
        Command::RegisterNode(register) => {
            let mut node = register.node.clone().unwrap_or_default();
            if node.node_id == 0 {
                let last = nodes(view)?.last().map_or(0, |node| node.node_id);
                // The first node may not have registered its addresses yet.
                node.node_id = last.max(BOOTSTRAP_NODE.0) + 1;
            }
            put(batch, &keys::meta_node(node.node_id), &node);
            Ok(allocated(node.node_id))
        }
        _ => Ok(Answer::Error(errors::invalid("no command of the meta range"))),
    }
}

/// Ids travel from apply to the node as the safe point's message: both are one number, and the
/// answer never leaves the node.
fn allocated(first: u64) -> Answer {
    Answer::RaiseSafePoint(pb::RaiseSafePointResponse { safe_point: first })
}

/// The number in an answer of [`Command::Allocate`] or [`Command::RegisterNode`].
pub(crate) fn allocated_in(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::RaiseSafePoint(answer) => Some(Timestamp(answer.safe_point).0),
        _ => None,
    }
}

fn epoch(descriptor: &pb::RangeDescriptor) -> (u64, u64) {
    descriptor.epoch.map_or((0, 0), |epoch| (epoch.version, epoch.conf))
}

/// Whether the report says something that is not in the rows.
///
/// # Errors
/// The rows do not decode.
pub(crate) fn is_news(route: &pb::RangeRoute, view: &dyn EngineSnapshot) -> Result<bool, String> {
    let descriptor = route.descriptor.clone().unwrap_or_default();
    let stored: Option<pb::RangeRoute> = get(view, &keys::meta_range(&descriptor.end))?;
    if stored.as_ref() == Some(route) {
        return Ok(false);
    }
    Ok(!outdated(&descriptor, &overlapped(&descriptor, view)?))
}

fn overlapped(
    descriptor: &pb::RangeDescriptor,
    view: &dyn EngineSnapshot,
) -> Result<Vec<pb::RangeRoute>, String> {
    routes(view, &descriptor.start, &descriptor.end, usize::MAX)
}

/// A key's ranges follow each other with rising versions: what is newer anywhere on the report's
/// keys proves the report old.
fn outdated(descriptor: &pb::RangeDescriptor, stored: &[pb::RangeRoute]) -> bool {
    stored.iter().filter_map(|route| route.descriptor.as_ref()).any(|old| {
        match old.range_id == descriptor.range_id {
            true => epoch(old) > epoch(descriptor),
            false => epoch(old).0 >= epoch(descriptor).0,
        }
    })
}

/// Takes a report over: cuts what it overlaps and puts it there, unless it is old.
fn adopt(
    route: &pb::RangeRoute,
    view: &dyn EngineSnapshot,
    batch: &mut Batch,
) -> Result<(), String> {
    let descriptor = route.descriptor.clone().unwrap_or_default();
    let stored = overlapped(&descriptor, view)?;
    if outdated(&descriptor, &stored) {
        return Ok(());
    }
    for old in stored {
        let bounds = old.descriptor.clone().unwrap_or_default();
        batch.delete(Cf::Latest, &keys::meta_range(&bounds.end));
        let remain = |start: &Bytes, end: &Bytes, batch: &mut Batch| {
            let mut rest = old.clone();
            if let Some(descriptor) = &mut rest.descriptor {
                descriptor.start = start.clone();
                descriptor.end = end.clone();
            }
            put(batch, &keys::meta_range(end), &rest);
        };
        if bounds.start < descriptor.start {
            remain(&bounds.start, &descriptor.start, batch);
        }
        let goes_on = bounds.end.is_empty() || bounds.end > descriptor.end;
        if !descriptor.end.is_empty() && goes_on {
            remain(&descriptor.end, &bounds.end, batch);
        }
    }
    put(batch, &keys::meta_range(&descriptor.end), route);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, MemEngine};

    fn route(id: u64, start: &str, end: &str, version: u64, leader: u64) -> pb::RangeRoute {
        pb::RangeRoute {
            descriptor: Some(pb::RangeDescriptor {
                range_id: id,
                start: Bytes::copy_from_slice(start.as_bytes()),
                end: Bytes::copy_from_slice(end.as_bytes()),
                epoch: Some(pb::Epoch { conf: 1, version }),
                replicas: vec![pb::Replica { node_id: leader, peer_id: id, role: 0 }],
            }),
            leader_node_id: leader,
        }
    }

    fn report(engine: &MemEngine, route: pb::RangeRoute) {
        let mut batch = Batch::new();
        let command = Command::MetaReport(pb::MetaReportCommand { route: Some(route) });
        apply(&command, &*engine.snapshot(), &mut batch).expect("in memory");
        engine.write(&batch).expect("in memory");
    }

    fn shown(engine: &MemEngine, start: &str, end: &str) -> Vec<String> {
        let found = routes(&*engine.snapshot(), start.as_bytes(), end.as_bytes(), 100);
        let show = |r: pb::RangeRoute| {
            let d = r.descriptor.expect("set");
            let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
            let (s, e, v) = (text(&d.start), text(&d.end), epoch(&d).0);
            format!("{}[{s},{e})v{v}@{}", d.range_id, r.leader_node_id)
        };
        found.expect("in memory").into_iter().map(show).collect()
    }

    #[test]
    fn reports_cut_what_they_overlap_and_never_leave_a_hole() {
        let engine = MemEngine::new();
        report(&engine, route(1, "", "\x02", 1, 1));
        report(&engine, route(2, "\x02", "", 1, 1));
        report(&engine, route(3, "m", "", 2, 1));
        assert_eq!(shown(&engine, "", ""), ["1[,\x02)v1@1", "2[\x02,m)v1@1", "3[m,)v2@1"]);
        assert_eq!(shown(&engine, "m", "n"), ["3[m,)v2@1"]);
        assert_eq!(shown(&engine, "l", "m"), ["2[\x02,m)v1@1"]);
        report(&engine, route(2, "\x02", "m", 2, 2));
        assert_eq!(shown(&engine, "a", ""), ["2[\x02,m)v2@2", "3[m,)v2@1"]);
        // What was said before the split comes late.
        report(&engine, route(2, "\x02", "", 1, 1));
        assert_eq!(shown(&engine, "a", ""), ["2[\x02,m)v2@2", "3[m,)v2@1"]);
    }

    #[test]
    fn equal_epoch_of_the_same_range_moves_the_leader_only() {
        let engine = MemEngine::new();
        report(&engine, route(2, "\x02", "", 3, 1));
        assert!(is_news(&route(2, "\x02", "", 3, 2), &*engine.snapshot()).expect("in memory"));
        report(&engine, route(2, "\x02", "", 3, 2));
        assert_eq!(shown(&engine, "x", ""), ["2[\x02,)v3@2"]);
        assert!(!is_news(&route(2, "\x02", "", 3, 2), &*engine.snapshot()).expect("in memory"));
        assert!(!is_news(&route(2, "\x02", "", 2, 1), &*engine.snapshot()).expect("in memory"));
    }

    #[test]
    fn ids_are_given_out_once_and_nodes_are_numbered() {
        let engine = MemEngine::new();
        let run = |command: Command| {
            let mut batch = Batch::new();
            let answer = apply(&command, &*engine.snapshot(), &mut batch).expect("in memory");
            engine.write(&batch).expect("in memory");
            allocated_in(&answer).expect("a number")
        };
        let allocate = |count| Command::Allocate(pb::AllocateCommand { count });
        assert_eq!(run(allocate(3)), FIRST_ID);
        assert_eq!(run(allocate(0)), FIRST_ID + 3);
        assert_eq!(run(allocate(u64::MAX)), FIRST_ID + 4);
        assert_eq!(run(allocate(1)), FIRST_ID + 4 + ALLOCATE_MAX);
        let register = |node_id: u64| {
            let node = pb::NodeInfo { node_id, ..pb::NodeInfo::default() };
            Command::RegisterNode(pb::RegisterNodeCommand { node: Some(node) })
        };
        assert_eq!(run(register(0)), 2, "1 is the node that began the cluster");
        assert_eq!(run(register(1)), 1);
        assert_eq!(run(register(0)), 3);
        assert_eq!(nodes(&*engine.snapshot()).expect("in memory").len(), 3);
    }
}
