//! Looking after the logs: what is durable is read back, the log is cut below it (rule S3), the
//! engine is flushed in time, and groups that pin old log files are seen to (rule S6).

use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use quorate_proto::{Timestamp, pb};
use quorate_txn::mistakes::Mistake;

use super::config::*;
use super::group::Group;
use super::handle::{Input, NodeShared};
use super::shared::RaftMetrics;
use super::worker::Worker;
use crate::engine::{KeySpan, local};
use crate::log::{self, Truncated};

impl Worker {
    pub(super) fn look_after_logs(&mut self, now: Duration) {
        if now < self.next_look || self.failed.is_some() {
            return;
        }
        self.next_look = now + COMPACT_EVERY;
        let mut unflushed = false;
        let mut urgent = false;
        for group in self.groups.values_mut().filter(|group| group.initialised()) {
            if let Err(why) = read_back(&self.node, group).and_then(|()| cut(&self.node, group)) {
                self.failed = Some(why);
                return;
            }
            let behind = group.state.applied_index - group.durable;
            unflushed |= behind > 0;
            urgent |= behind > UNFLUSHED_ENTRIES_MAX || (group.pinned && behind > 0);
            group.pinned &= behind > 0;
        }
        let due = now >= *self.node.last_flush.lock() + FLUSH_EVERY;
        if urgent || (unflushed && due) {
            flush_beside(&self.node, now);
        }
        if self.number == 0 {
            self.purge();
        }
    }

    /// Rule S6: names of groups that keep old log files alive go to their workers.
    fn purge(&self) {
        let node = self.node.clone();
        self.node.deps.background.run(Box::new(move || match node.deps.log.purge() {
            Ok(ranges) => {
                for range in ranges.into_iter().take(PURGE_GROUPS_MAX) {
                    node.post(range, Input::Pinned { range });
                }
            }
            Err(error) => node.deps.factory.fatal(None, &error.to_string()),
        }));
    }
}

fn read_back(node: &NodeShared, group: &mut Group) -> Result<(), String> {
    if group.durable >= group.state.applied_index {
        return Ok(());
    }
    if Mistake::LogCutTooFar.is_made() {
        group.durable = group.state.applied_index;
        return Ok(());
    }
    let key = local::range_state_key(group.range);
    let Some(bytes) = node.deps.engine.durable(&key).map_err(|e| e.to_string())? else {
        return Ok(());
    };
    let durable = pb::RangeState::decode(&bytes[..]).map_err(|e| e.to_string())?;
    group.durable = group.durable.max(durable.applied_index);
    // Garbage collection may go by what is flushed, never by anything newer (rule S1).
    let flushed = match Mistake::CollectedTooSoon.is_made() {
        true => group.state.clone(),
        false => durable,
    };
    let descriptor = flushed.descriptor.unwrap_or_default();
    let span = KeySpan::new(descriptor.start, descriptor.end);
    let safe_point = Timestamp(flushed.safe_point);
    node.deps.engine.safe_points().publish(group.range, span, safe_point);
    Ok(())
}

/// How far this group's log may be cut: what is durable here, and what the slowest replica has
/// unless it is too far behind; followers keep a tail for when they lead.
fn cut_upto(group: &Group) -> u64 {
    if group.pinned {
        return group.durable;
    }
    let last = group.last_index();
    let floor = last.saturating_sub(LOG_KEPT_ENTRIES_MAX);
    let kept_for = match group.leading() {
        true => group.raw.raft.prs().iter().map(|(_, p)| p.matched).min().unwrap_or(last),
        false => last.saturating_sub(FOLLOWER_TAIL_ENTRIES),
    };
    group.durable.min(kept_for.max(floor))
}

fn cut(node: &NodeShared, group: &mut Group) -> Result<(), String> {
    let upto = cut_upto(group);
    let begins = group.raw.store().truncated().index;
    let worth = if group.pinned { 1 } else { COMPACT_ENTRIES_MIN };
    if upto < begins + worth {
        return Ok(());
    }
    let store = &*node.deps.log;
    let term = store.term(group.range, upto).map_err(|e| e.to_string())?;
    log::truncate(store, group.range, upto, group.durable).map_err(|e| e.to_string())?;
    group.raw.mut_store().cut(Truncated { index: upto, term });
    RaftMetrics::add(&node.metrics.entries_compacted, upto - begins);
    Ok(())
}

/// Flushes beside the workers, one flush at a time.
fn flush_beside(node: &std::sync::Arc<NodeShared>, now: Duration) {
    if node.flushing.swap(true, Ordering::SeqCst) {
        return;
    }
    *node.last_flush.lock() = now;
    let node_there = node.clone();
    node.deps.background.run(Box::new(move || {
        RaftMetrics::inc(&node_there.metrics.engine_flushes);
        let outcome = node_there.deps.engine.flush();
        node_there.flushing.store(false, Ordering::SeqCst);
        if let Err(error) = outcome {
            node_there.deps.factory.fatal(None, &error.to_string());
        }
    }));
}
