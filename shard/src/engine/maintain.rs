//! What follows a flush: the range states that are durable now decide how far the Raft logs may be
//! cut (rule S3) and what garbage collection may drop (rule S1).

use prost::Message;
use quorate_proto::{RangeId, Timestamp, pb};

use super::{Cf, Engine, EngineError, KeySpan, local};

/// The durable state of each range on this node, as the last completed flush left it; in the
/// order of their ids. A range that was never flushed has none.
///
/// # Errors
/// [`EngineError`].
pub fn durable_states(engine: &dyn Engine) -> Result<Vec<(RangeId, pb::RangeState)>, EngineError> {
    let mut states = Vec::new();
    for range in ranges(engine)? {
        if let Some(bytes) = engine.durable(&local::range_state_key(range))? {
            states.push((range, decode(&bytes)?));
        }
    }
    Ok(states)
}

/// The state of each range on this node as it is visible now; in the order of their ids.
///
/// # Errors
/// [`EngineError`].
pub fn visible_states(engine: &dyn Engine) -> Result<Vec<(RangeId, pb::RangeState)>, EngineError> {
    let snapshot = engine.snapshot();
    let mut states = Vec::new();
    for range in ranges(engine)? {
        if let Some(bytes) = snapshot.get(Cf::Local, &local::range_state_key(range))? {
            states.push((range, decode(&bytes)?));
        }
    }
    Ok(states)
}

/// Tells garbage collection the safe points of these durable states (rule S1); ranges that are
/// not among them are forgotten. Give it what [`durable_states`] returned, nothing newer.
pub fn publish_safe_points(engine: &dyn Engine, durable: &[(RangeId, pb::RangeState)]) {
    let ranges = durable.iter().filter_map(|(range, state)| {
        let descriptor = state.descriptor.as_ref()?;
        let span = KeySpan::new(descriptor.start.clone(), descriptor.end.clone());
        Some((*range, span, Timestamp(state.safe_point)))
    });
    engine.safe_points().replace(ranges);
}

fn ranges(engine: &dyn Engine) -> Result<Vec<RangeId>, EngineError> {
    let (lower, upper) = local::range_state_bounds();
    let snapshot = engine.snapshot();
    let mut iter = snapshot.iter(Cf::Local, &lower, &upper);
    let mut ranges = Vec::new();
    iter.seek_first();
    while let Some((key, _)) = iter.item() {
        let range = local::decode_range_state_key(key)
            .ok_or_else(|| EngineError::Damaged("a key of a range state".to_owned()))?;
        ranges.push(range);
        iter.next();
    }
    iter.status()?;
    Ok(ranges)
}

fn decode(bytes: &[u8]) -> Result<pb::RangeState, EngineError> {
    pb::RangeState::decode(bytes).map_err(|e| EngineError::Damaged(format!("a range state: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, MemEngine};
    use super::*;
    use quorate_txn::state::history_key;

    fn write_state(engine: &MemEngine, applied_index: u64, safe_point: u64) {
        let state = pb::RangeState {
            descriptor: Some(pb::RangeDescriptor::default()),
            applied_index,
            safe_point,
            ..Default::default()
        };
        let mut batch = Batch::new();
        let key = local::range_state_key(RangeId(4));
        batch.put(Cf::Local, &key, &state.encode_to_vec());
        engine.write(&batch).expect("in memory");
    }

    /// S1, S3: what was applied and not flushed neither cuts a log nor collects anything.
    #[test]
    fn only_the_flushed_state_counts() {
        let engine = MemEngine::new();
        let key = history_key(b"k", Timestamp(50));
        let durable = || durable_states(&engine).expect("in memory");
        let may_drop = || {
            publish_safe_points(&engine, &durable());
            engine.safe_points().table().may_drop(&key)
        };
        write_state(&engine, 10, 60);
        assert!(durable().is_empty() && !may_drop());
        assert_eq!(visible_states(&engine).expect("in memory").len(), 1);
        write_state(&engine, 10, 40);
        engine.flush().expect("in memory");
        write_state(&engine, 11, 60);
        assert_eq!(durable()[0].1.applied_index, 10);
        assert!(!may_drop());
        engine.flush().expect("in memory");
        assert_eq!(durable()[0].1.applied_index, 11);
        assert!(may_drop());
    }
}
