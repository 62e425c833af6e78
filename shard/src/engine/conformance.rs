//! What every [`Engine`] must do, as checks that panic where it does not; run on each of them.
//! Each check is named after what must hold.

use std::path::PathBuf;

use super::{Batch, Cf, Engine, EngineSnapshot, KeySpan, find_split_key};
use quorate_proto::{RangeId, Timestamp};
use quorate_txn::state::history_key;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Runs all checks; `open` makes a new, empty engine, `dir` a new, empty folder.
///
/// # Panics
/// Where the engine does not conform.
pub fn check(open: &mut dyn FnMut() -> Box<dyn Engine>, dir: &mut dyn FnMut() -> PathBuf) {
    batch_takes_effect_in_order_and_at_once(&*open());
    snapshot_sees_one_moment_of_all_families(&*open());
    iterators_keep_to_their_bounds_in_both_directions(&*open());
    delete_range_knows_unbounded_and_empty(&*open());
    durable_is_what_was_flushed(&*open());
    export_and_ingest_carry_a_span(&*open(), &*open(), dir());
    ingest_replaces_rows(&*open(), dir());
    collection_drops_ended_intervals_only(&*open());
    split_key_is_found(&*open());
}

fn write(engine: &dyn Engine, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    engine.write(&batch).expect("writes");
}

/// All rows between the bounds, upwards; panics if downwards they differ.
fn rows(view: &dyn EngineSnapshot, cf: Cf, lower: &[u8], upper: &[u8]) -> Rows {
    let mut iter = view.iter(cf, lower, upper);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    iter.seek_first();
    while let Some((key, value)) = iter.item() {
        up.push((key.to_vec(), value.to_vec()));
        iter.next();
    }
    iter.seek_last();
    while let Some((key, value)) = iter.item() {
        down.push((key.to_vec(), value.to_vec()));
        iter.prev();
    }
    iter.status().expect("reads");
    down.reverse();
    assert_eq!(up, down, "both directions give the same rows");
    up
}

fn keys(view: &dyn EngineSnapshot, cf: Cf, lower: &[u8], upper: &[u8]) -> Vec<String> {
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    rows(view, cf, lower, upper).iter().map(|(key, _)| text(key)).collect()
}

fn batch_takes_effect_in_order_and_at_once(engine: &dyn Engine) {
    write(engine, |b| {
        b.put(Cf::Latest, b"a", b"1");
        b.put(Cf::Latest, b"a", b"2");
        b.put(Cf::Locks, b"a", b"lock");
        b.put(Cf::Latest, b"b", b"1");
        b.delete(Cf::Latest, b"b");
        b.delete(Cf::Latest, b"never there");
    });
    let view = engine.snapshot();
    assert_eq!(view.get(Cf::Latest, b"a").expect("reads").as_deref(), Some(&b"2"[..]));
    assert_eq!(view.get(Cf::Locks, b"a").expect("reads").as_deref(), Some(&b"lock"[..]));
    assert_eq!(view.get(Cf::Latest, b"b").expect("reads"), None);
    assert_eq!(view.get(Cf::History, b"a").expect("reads"), None);
    engine.write(&Batch::new()).expect("an empty batch is fine");
}

fn snapshot_sees_one_moment_of_all_families(engine: &dyn Engine) {
    write(engine, |b| Cf::DATA.iter().for_each(|cf| b.put(*cf, b"k", b"old")));
    let view = engine.snapshot();
    write(engine, |b| Cf::DATA.iter().for_each(|cf| b.put(*cf, b"k", b"new")));
    engine.flush().expect("flushes");
    for cf in Cf::DATA {
        assert_eq!(view.get(cf, b"k").expect("reads").as_deref(), Some(&b"old"[..]));
        assert_eq!(rows(&*view, cf, b"", b""), [(b"k".to_vec(), b"old".to_vec())]);
        let now = engine.snapshot().get(cf, b"k").expect("reads");
        assert_eq!(now.as_deref(), Some(&b"new"[..]));
    }
}

fn iterators_keep_to_their_bounds_in_both_directions(engine: &dyn Engine) {
    write(engine, |b| {
        for key in ["a", "b", "c", "d", "e"] {
            b.put(Cf::Latest, key.as_bytes(), key.as_bytes());
        }
        b.put(Cf::Locks, b"z", b"");
    });
    let view = engine.snapshot();
    assert_eq!(keys(&*view, Cf::Latest, b"", b""), ["a", "b", "c", "d", "e"]);
    assert_eq!(keys(&*view, Cf::Latest, b"b", b"d"), ["b", "c"]);
    assert_eq!(keys(&*view, Cf::Latest, b"bb", b""), ["c", "d", "e"]);
    assert!(keys(&*view, Cf::Latest, b"d", b"b").is_empty());
    assert!(keys(&*view, Cf::Latest, b"c", b"c").is_empty());
    assert_eq!(keys(&*view, Cf::Locks, b"", b""), ["z"]);
    let mut iter = view.iter(Cf::Latest, b"b", b"e");
    assert_eq!(iter.item(), None, "it stands nowhere until it seeks");
    let mut at = |seek: &str, key: &[u8]| {
        match seek {
            "seek" => iter.seek(key),
            _ => iter.seek_before(key),
        }
        iter.item().map(|(key, _)| String::from_utf8_lossy(key).into_owned())
    };
    assert_eq!(at("seek", b"a").as_deref(), Some("b"));
    assert_eq!(at("seek", b"bb").as_deref(), Some("c"));
    assert_eq!(at("seek", b"c").as_deref(), Some("c"));
    assert_eq!(at("seek", b"e"), None);
    assert_eq!(at("before", b"c").as_deref(), Some("b"));
    assert_eq!(at("before", b"cc").as_deref(), Some("c"));
    assert_eq!(at("before", b"b"), None);
    assert_eq!(at("before", b"a"), None);
    assert_eq!(at("before", b"e").as_deref(), Some("d"));
    assert_eq!(at("before", b"z").as_deref(), Some("d"));
    let mut iter = view.iter(Cf::Latest, b"", b"");
    iter.seek(b"b");
    iter.next();
    iter.prev();
    iter.prev();
    assert_eq!(iter.item().map(|(key, _)| key), Some(&b"a"[..]), "it turns round");
}

fn delete_range_knows_unbounded_and_empty(engine: &dyn Engine) {
    let fill = |b: &mut Batch| {
        for key in ["a", "b", "c", "d"] {
            b.put(Cf::Latest, key.as_bytes(), b"");
        }
    };
    write(engine, fill);
    write(engine, |b| b.delete_range(Cf::Latest, b"b", b"d"));
    assert_eq!(keys(&*engine.snapshot(), Cf::Latest, b"", b""), ["a", "d"]);
    write(engine, |b| {
        b.delete_range(Cf::Latest, b"d", b"b");
        b.delete_range(Cf::Latest, b"d", b"d");
    });
    assert_eq!(keys(&*engine.snapshot(), Cf::Latest, b"", b""), ["a", "d"]);
    write(engine, |b| {
        b.put(Cf::Latest, &[0xff; 40], b"in the same batch");
        b.delete_range(Cf::Latest, b"b", b"");
        b.put(Cf::Latest, b"e", b"after it");
    });
    assert_eq!(keys(&*engine.snapshot(), Cf::Latest, b"", b""), ["a", "e"]);
    engine.flush().expect("flushes");
    assert_eq!(keys(&*engine.snapshot(), Cf::Latest, b"", b""), ["a", "e"]);
    write(engine, |b| b.delete_range(Cf::Latest, b"", b""));
    assert!(keys(&*engine.snapshot(), Cf::Latest, b"", b"").is_empty());
    // A span of user keys takes its history with it, and only its own.
    write(engine, |b| {
        for key in [&b"a"[..], b"b", b"b\0", b"c"] {
            b.put(Cf::Latest, key, b"");
            b.put(Cf::History, &history_key(key, Timestamp(u64::MAX)), b"");
        }
        b.put(Cf::Local, b"b", b"");
    });
    write(engine, |b| b.delete_span(&KeySpan::new("b", "c")));
    let view = engine.snapshot();
    assert_eq!(keys(&*view, Cf::Latest, b"", b""), ["a", "c"]);
    assert_eq!(rows(&*view, Cf::History, b"", b"").len(), 2);
    assert!(view.get(Cf::Local, b"b").expect("reads").is_some());
}

fn durable_is_what_was_flushed(engine: &dyn Engine) {
    let durable = || engine.durable(b"i").expect("reads");
    assert_eq!(durable(), None);
    write(engine, |b| b.put(Cf::Local, b"i", b"1"));
    assert_eq!(durable(), None, "visible is not durable");
    engine.flush().expect("flushes");
    assert_eq!(durable().as_deref(), Some(&b"1"[..]));
    write(engine, |b| b.put(Cf::Local, b"i", b"2"));
    assert_eq!(durable().as_deref(), Some(&b"1"[..]));
    write(engine, |b| b.delete(Cf::Local, b"i"));
    engine.flush().expect("flushes");
    assert_eq!(durable(), None);
}

fn export_and_ingest_carry_a_span(from: &dyn Engine, to: &dyn Engine, dir: PathBuf) {
    write(from, |b| {
        for i in 0..100u32 {
            let key = format!("k{i:03}");
            b.put(Cf::Latest, key.as_bytes(), &[7; 50]);
            b.put(Cf::History, &history_key(key.as_bytes(), Timestamp(9)), b"old");
        }
        b.put(Cf::Locks, b"k050", b"lock");
        b.put(Cf::Locks, b"k099", b"outside");
    });
    let span = KeySpan::new("k010", "k090");
    let view = from.snapshot();
    write(from, |b| b.put(Cf::Latest, b"k020", b"after the snapshot"));
    let files = from.export(&*view, &span, &dir).expect("exports");
    let families: Vec<Cf> = files.iter().map(|file| file.cf).collect();
    assert_eq!(families, [Cf::Latest, Cf::History, Cf::Locks], "none for an empty family");
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [80, 80, 1]);
    for file in &files {
        assert_eq!(super::checksum_file(&file.path), Ok(file.crc32));
        assert_eq!(std::fs::metadata(&file.path).expect("there").len(), file.bytes);
    }
    let files: Vec<_> = files.into_iter().map(|file| (file.cf, file.path)).collect();
    for _ in 0..2 {
        to.ingest(&files).expect("ingests, and again");
        for cf in Cf::DATA {
            let (lower, upper) = (cf.bound(&span.start), cf.bound(&span.end));
            let want = rows(&*view, cf, &lower, &upper);
            assert_eq!(rows(&*to.snapshot(), cf, b"", b""), want);
        }
    }
}

fn ingest_replaces_rows(engine: &dyn Engine, dir: PathBuf) {
    write(engine, |b| b.put(Cf::Latest, b"a", b"exported"));
    let all = KeySpan::default();
    let files = engine.export(&*engine.snapshot(), &all, &dir).expect("exports");
    let files: Vec<_> = files.into_iter().map(|file| (file.cf, file.path)).collect();
    write(engine, |b| {
        b.put(Cf::Latest, b"a", b"newer");
        b.put(Cf::Latest, b"b", b"not in the files");
    });
    write(engine, |b| b.delete_span(&all));
    engine.ingest(&files).expect("ingests");
    let want = [(b"a".to_vec(), b"exported".to_vec())];
    assert_eq!(rows(&*engine.snapshot(), Cf::Latest, b"", b""), want);
    engine.flush().expect("flushes");
    assert_eq!(rows(&*engine.snapshot(), Cf::Latest, b"", b""), want);
}

fn collection_drops_ended_intervals_only(engine: &dyn Engine) {
    write(engine, |b| {
        for (key, end) in [("a", 5), ("a", 10), ("a", 11), ("m", 5)] {
            b.put(Cf::History, &history_key(key.as_bytes(), Timestamp(end)), b"v");
        }
        b.put(Cf::Latest, b"a", b"\0\0\0\0\0\0\0\x01");
    });
    engine.flush().expect("flushes");
    engine.compact(&KeySpan::default()).expect("compacts");
    assert_eq!(rows(&*engine.snapshot(), Cf::History, b"", b"").len(), 4, "no safe point");
    let span = KeySpan::new("", "m");
    engine.safe_points().publish(RangeId(1), span, Timestamp(10));
    engine.compact(&KeySpan::default()).expect("compacts");
    let left: Vec<_> =
        rows(&*engine.snapshot(), Cf::History, b"", b"").into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [history_key(b"a", Timestamp(11)), history_key(b"m", Timestamp(5))]);
    assert_eq!(rows(&*engine.snapshot(), Cf::Latest, b"", b"").len(), 1);
}

fn split_key_is_found(engine: &dyn Engine) {
    write(engine, |b| {
        for i in 0..1000u32 {
            b.put(Cf::Latest, format!("k{i:03}").as_bytes(), &[0; 200]);
        }
    });
    engine.flush().expect("flushes");
    let all = KeySpan::default();
    let key = find_split_key(&*engine.snapshot(), &all).expect("reads");
    let key = key.expect("there are many keys");
    assert!(key > "k300" && key < "k700", "{key:?}");
    assert!(engine.approximate_bytes(&all).expect("reads") > 0);
}
