//! Checks that look at the whole cluster from outside: before each moment in which time passes, and
//! at the end.

use std::sync::Arc;

use quorate_proto::pb;
use quorate_shard::engine::KeySpan;

use super::checks::one_leaseholder::Holder;
use super::checks::{hlc_monotonic, one_leaseholder, ranges_tile_the_keyspace, replicas_agree};
use super::machine::Machine;
use super::trace::Trace;

/// Looks at the machines when nothing is left to be done at a moment.
pub fn look(machines: &[Arc<Machine>], trace: &Trace) {
    let mut holders = Vec::new();
    for machine in machines {
        let Some(up) = machine.up() else { continue };
        let reading = up.node.clock().last();
        let before = machine.swap_last_reading(reading);
        if let Err(why) = hlc_monotonic::check(before, reading) {
            trace.violation(format_args!("m{}: {why}", machine.number));
        }
        for replica in up.node.ranges().replicas() {
            if replica.serves() {
                holders.push(Holder { node: up.node.id(), descriptor: replica.descriptor() });
            }
        }
    }
    if let Err(why) = one_leaseholder::check(&holders) {
        trace.violation(why);
    }
}

/// The ranges that are led now.
pub fn led(machines: &[Arc<Machine>]) -> Vec<pb::RangeDescriptor> {
    let ups = machines.iter().filter_map(|machine| machine.up());
    let replicas = ups.flat_map(|up| up.node.ranges().replicas());
    replicas.filter(|replica| replica.serves()).map(|replica| replica.descriptor()).collect()
}

/// Whether the ranges that are led cover every key once now.
///
/// # Errors
/// Where they do not.
pub fn tile(machines: &[Arc<Machine>]) -> Result<(), String> {
    ranges_tile_the_keyspace::check(led(machines))
}

/// Whether every replica of a range that is led has applied the same entry.
pub fn at_rest(machines: &[Arc<Machine>]) -> bool {
    led(machines).iter().all(|range| {
        let applied = machines.iter().map(|machine| {
            let replica =
                machine.up()?.node.ranges().replica(quorate_proto::RangeId(range.range_id));
            Some(replica?.state().applied_index)
        });
        let applied: Vec<_> = applied.collect();
        applied.iter().all(|index| index.is_some() && *index == applied[0])
    })
}

/// Whether replicas at the same entry hold the same rows.
///
/// # Errors
/// Which do not.
pub fn agree(machines: &[Arc<Machine>]) -> Result<(), String> {
    let mut contents = Vec::new();
    for machine in machines {
        let Some(up) = machine.up() else { continue };
        let ranges = up.node.ranges();
        let snapshot = ranges.engine.snapshot();
        for replica in ranges.replicas() {
            let state = replica.state();
            let descriptor = state.descriptor.clone().unwrap_or_default();
            let span = KeySpan::new(descriptor.start, descriptor.end);
            let at = (machine.number, replica.range.0, state.applied_index);
            let content = replicas_agree::content(&*snapshot, &span, at);
            contents.push(content.map_err(|e| e.to_string())?);
        }
    }
    replicas_agree::check(&contents)
}
