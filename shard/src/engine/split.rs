//! Where to cut a range so that both halves are about equally large.

use bytes::Bytes;
use quorate_txn::state::decode_history_key;

use super::{Cf, EngineError, EngineSnapshot, KeySpan};

/// A sample is taken every so many bytes: how exact the cut is.
const SAMPLE_BYTES: u64 = 32 << 10;

/// A user key strictly inside the span such that about half of the bytes in `latest` and
/// `history` lie below it; `None` if all rows have the same key. Reads the whole span.
///
/// # Errors
/// [`EngineError`].
pub fn find_split_key(
    snapshot: &dyn EngineSnapshot,
    span: &KeySpan,
) -> Result<Option<Bytes>, EngineError> {
    let mut samples = Vec::new();
    sample(snapshot, Cf::Latest, span, &mut samples)?;
    sample(snapshot, Cf::History, span, &mut samples)?;
    samples.sort();
    let Some(first) = samples.first().map(|(key, _)| key.clone()) else {
        return Ok(None);
    };
    let total: u64 = samples.iter().map(|(_, bytes)| bytes).sum();
    let mut below = 0;
    let mut last_inside = None;
    for (key, bytes) in samples {
        if key > first && key > span.start {
            if below * 2 >= total {
                return Ok(Some(key));
            }
            last_inside = Some(key);
        }
        below += bytes;
    }
    Ok(last_inside)
}

/// Adds (user key, bytes from it to the next sample).
fn sample(
    snapshot: &dyn EngineSnapshot,
    cf: Cf,
    span: &KeySpan,
    samples: &mut Vec<(Bytes, u64)>,
) -> Result<(), EngineError> {
    let mut iter = snapshot.iter(cf, &cf.bound(&span.start), &cf.bound(&span.end));
    iter.seek_first();
    let mut open: Option<(Bytes, u64)> = None;
    let mut rows = 0u64;
    while let Some((key, value)) = iter.item() {
        let bytes = (key.len() + value.len()) as u64;
        rows += 1;
        match &mut open {
            // The first rows each get a sample, so that small ranges can be cut too.
            Some((_, sum)) if *sum + bytes <= SAMPLE_BYTES && rows > 64 => *sum += bytes,
            _ => {
                samples.extend(open.take());
                open = Some((user_key(cf, key)?, bytes));
            }
        }
        iter.next();
    }
    samples.extend(open);
    iter.status()
}

fn user_key(cf: Cf, key: &[u8]) -> Result<Bytes, EngineError> {
    match cf {
        Cf::History => {
            Ok(decode_history_key(key).map_err(|e| EngineError::Damaged(e.to_string()))?.0)
        }
        Cf::Latest | Cf::Locks | Cf::Txns | Cf::Local => Ok(Bytes::copy_from_slice(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, Engine, MemEngine};
    use super::*;
    use quorate_proto::Timestamp;
    use quorate_txn::state::history_key;

    fn split(engine: &MemEngine, span: &KeySpan) -> Option<Bytes> {
        find_split_key(&*engine.snapshot(), span).expect("in memory")
    }

    #[test]
    fn split_key_halves_the_bytes_and_lies_strictly_inside() {
        let engine = MemEngine::new();
        let all = KeySpan::default();
        assert_eq!(split(&engine, &all), None);
        let mut batch = Batch::new();
        batch.put(Cf::Latest, b"a", &[0; 10]);
        engine.write(&batch).expect("in memory");
        assert_eq!(split(&engine, &all), None);
        for i in 0..2000u32 {
            batch.put(Cf::Latest, format!("k{i:05}").as_bytes(), &[0; 1000]);
        }
        engine.write(&batch).expect("in memory");
        let key = split(&engine, &all).expect("many keys");
        let at: u32 = std::str::from_utf8(&key[1..]).expect("ascii").parse().expect("digits");
        assert!((900..1100).contains(&at), "{at}");
        let inside = split(&engine, &KeySpan::new("k01990", "k01992"));
        assert_eq!(inside.as_deref(), Some(b"k01991".as_slice()));
    }

    #[test]
    fn history_counts_and_one_key_cannot_be_cut() {
        let engine = MemEngine::new();
        let mut batch = Batch::new();
        for i in 0..100 {
            batch.put(Cf::History, &history_key(b"hot", Timestamp(i)), &[0; 5000]);
        }
        engine.write(&batch).expect("in memory");
        assert_eq!(split(&engine, &KeySpan::default()), None);
        batch.put(Cf::Latest, b"cold", b"x");
        engine.write(&batch).expect("in memory");
        assert_eq!(split(&engine, &KeySpan::default()).as_deref(), Some(b"hot".as_slice()));
    }
}
