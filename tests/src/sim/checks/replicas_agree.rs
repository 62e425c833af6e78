//! Replicas of a range that applied the same entry hold the same rows.

use quorate_shard::engine::{Cf, EngineError, EngineSnapshot, KeySpan};

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

/// The content of a replica.
///
/// # Errors
/// The engine's.
pub fn content(
    snapshot: &dyn EngineSnapshot,
    span: &KeySpan,
    (machine, range, applied): (usize, u64, u64),
) -> Result<Content, EngineError> {
    let mut families = Vec::new();
    for cf in Cf::DATA {
        let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
        let (mut hash, mut rows) = (Fnv::default(), 0);
        iter.seek_first();
        while let Some((key, value)) = iter.item() {
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

    use super::*;

    fn of(machine: usize, applied: u64, value: &[u8]) -> Content {
        let engine = MemEngine::new();
        let mut batch = Batch::new();
        batch.put(Cf::Latest, b"k", value);
        engine.write(&batch).expect("in memory");
        let at = (machine, 7, applied);
        content(&*engine.snapshot(), &KeySpan::default(), at).expect("in memory")
    }

    #[test]
    fn a_different_row_is_found_at_the_same_entry_only() {
        assert_eq!(check(&[of(1, 5, b"a"), of(2, 5, b"a")]), Ok(()));
        assert_eq!(check(&[of(1, 5, b"a"), of(2, 6, b"b")]), Ok(()));
        assert!(check(&[of(1, 5, b"a"), of(2, 5, b"b")]).is_err());
    }
}
