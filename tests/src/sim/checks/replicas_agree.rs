//! Replicas of a range that applied the same entry hold the same rows. What ended at or below the
//! safe point may be gone in some of them (rule S1).

use quorate_proto::Timestamp;
use quorate_shard::engine::{Cf, EngineError, EngineSnapshot, KeySpan};
use quorate_txn::state::decode_history_key;

use crate::sim::trace::Fnv;

/// One replica at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which machine.
    pub machine: usize,
    /// Which range.
    pub range: u64,
    /// Up to which entry.
    pub applied: u64,
    /// A hash of each family's rows, and how many there are.
    pub families: Vec<(&'static str, u64, usize)>,
}

/// The content of a replica: which machine, which range, up to which entry, and the safe point.
///
/// # Errors
/// The engine's.
pub fn content(
    snapshot: &dyn EngineSnapshot,
    span: &KeySpan,
    (machine, range, applied, safe_point): (usize, u64, u64, Timestamp),
) -> Result<Content, EngineError> {
    let mut families = Vec::new();
    for cf in Cf::DATA {
        let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
        let (mut hash, mut rows) = (Fnv::default(), 0);
        iter.seek_first();
        while let Some((key, value)) = iter.item() {
            let ended = match cf {
                Cf::History => decode_history_key(key).ok().map(|(_, end)| end),
                _ => None,
            };
            if ended.is_some_and(|end| end <= safe_point) {
                iter.next();
                continue;
            }
            for part in [key, value] {
                hash.update(&(part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            rows += 1;
            iter.next();
        }
        iter.status()?;
        families.push((cf.name(), Fnv::of(format!("{hash:?}").as_bytes()), rows));
    }
    Ok(Content { machine, range, applied, families })
}

/// # Errors
/// Which two differ.
pub fn check(replicas: &[Content]) -> Result<(), String> {
    for (i, a) in replicas.iter().enumerate() {
        for b in &replicas[i + 1..] {
            let same_place = a.range == b.range && a.applied == b.applied;
            if same_place && a.families != b.families {
                return Err(format!("replicas differ: {a:?} and {b:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_shard::engine::{Batch, Engine as _, MemEngine};
    use quorate_txn::state::history_key;

    use super::*;

    fn of(machine: usize, applied: u64, value: &[u8]) -> Content {
        with_history(machine, applied, value, &[])
    }

    fn with_history(machine: usize, applied: u64, value: &[u8], ended: &[(u64, &[u8])]) -> Content {
        let engine = MemEngine::new();
        let mut batch = Batch::new();
        batch.put(Cf::Latest, b"k", value);
        for (end, family) in ended {
            batch.put(Cf::History, &history_key(b"k", Timestamp(*end)), family);
        }
        engine.write(&batch).expect("in memory");
        let at = (machine, 7, applied, Timestamp(20));
        content(&*engine.snapshot(), &KeySpan::default(), at).expect("in memory")
    }

    #[test]
    fn a_different_row_is_found_at_the_same_entry_only() {
        assert_eq!(check(&[of(1, 5, b"a"), of(2, 5, b"a")]), Ok(()));
        assert_eq!(check(&[of(1, 5, b"a"), of(2, 6, b"b")]), Ok(()));
        assert!(check(&[of(1, 5, b"a"), of(2, 5, b"b")]).is_err());
    }

    #[test]
    fn what_ended_before_the_safe_point_may_be_gone() {
        let none = || of(1, 5, b"a");
        assert_eq!(check(&[none(), with_history(2, 5, b"a", &[(20, b"x")])]), Ok(()));
        assert!(check(&[none(), with_history(2, 5, b"a", &[(21, b"x")])]).is_err());
    }
}
