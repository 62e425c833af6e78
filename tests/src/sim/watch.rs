//! Checks that look at the whole cluster from outside: before each moment in which time passes, and
//! at the end.

use std::collections::BTreeMap;
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
    // Of each range the newest descriptor that any replica has applied.
    let mut newest: BTreeMap<u64, pb::RangeDescriptor> = BTreeMap::new();
    for machine in machines {
        let Some(up) = machine.up() else { continue };
        let reading = up.node.clock().last();
        // Above its bound it serves nothing (rule T3), and another life may begin below.
        let served = reading.min(up.node.ranges().clock_bound());
        let before = machine.swap_last_reading(served);
        if let Err(why) = hlc_monotonic::check(before, reading) {
            trace.violation(format_args!("m{}: {why}", machine.number));
        }
        for replica in up.node.ranges().replicas() {
            let descriptor = replica.descriptor();
            if replica.serves() {
                holders.push(Holder { node: up.node.id(), descriptor: descriptor.clone() });
            }
            let known = newest.entry(descriptor.range_id).or_default();
            if version(known) < version(&descriptor) {
                *known = descriptor;
            }
        }
    }
    if let Err(why) = one_leaseholder::check(&holders) {
        trace.violation(why);
    }
    if !newest.is_empty()
        && let Err(why) = ranges_tile_the_keyspace::check(newest.into_values().collect())
    {
        trace.violation(why);
    }
}

fn version(descriptor: &pb::RangeDescriptor) -> u64 {
    descriptor.epoch.map_or(0, |epoch| epoch.version)
}

/// The ranges that are led now.
pub fn led(machines: &[Arc<Machine>]) -> Vec<pb::RangeDescriptor> {
    let ups = machines.iter().filter_map(|machine| machine.up());
    let replicas = ups.flat_map(|up| up.node.ranges().replicas());
    replicas.filter(|replica| replica.serves()).map(|replica| replica.descriptor()).collect()
}

/// Whether every key is in a range that is led now.
pub fn all_led(machines: &[Arc<Machine>]) -> bool {
    ranges_tile_the_keyspace::check(led(machines)).is_ok()
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
            let safe_point = quorate_proto::Timestamp(state.safe_point);
            let at = (machine.number, replica.range.0, state.applied_index, safe_point);
            let content = replicas_agree::content(&*snapshot, &span, at);
            contents.push(content.map_err(|e| e.to_string())?);
        }
    }
    replicas_agree::check(&contents)
}
