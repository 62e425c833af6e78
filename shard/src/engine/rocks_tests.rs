//! Tests of the engine on RocksDB: conformance, the same as its twin, formats and folders.

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{MemEngine, conformance};
use super::*;

fn config() -> RocksConfig {
    RocksConfig { cache: BlockCache::new(1 << 20), write_buffer_bytes: 1 << 20 }
}

fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open(dir, config()).expect("opens")
}

/// Folders that live as long as the test.
struct Folders {
    root: TempDir,
    count: std::cell::Cell<u32>,
}

impl Folders {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        Self { root, count: 0.into() }
    }

    fn next(&self) -> PathBuf {
        self.count.set(self.count.get() + 1);
        let dir = self.root.path().join(self.count.get().to_string());
        fs::create_dir(&dir).expect("makes a folder");
        dir
    }
}

#[test]
fn rocks_engine_conforms() {
    let folders = Folders::new();
    let mut engine = || Box::new(open(&folders.next())) as Box<dyn Engine>;
    conformance::check(&mut engine, &mut || folders.next());
}

#[test]
fn newer_format_is_refused_by_name_and_own_format_is_opened() {
    let folders = Folders::new();
    let dir = folders.next();
    let engine = open(&dir);
    let mut batch = Batch::new();
    batch.put(Cf::Latest, b"a", b"1");
    engine.write(&batch).expect("writes");
    engine.flush().expect("flushes");
    drop(engine);
    let engine = open(&dir);
    assert!(engine.snapshot().get(Cf::Latest, b"a").expect("reads").is_some());
    batch.put(Cf::Local, local::FORMAT_KEY, &(FORMAT_VERSION + 1).to_be_bytes());
    engine.write(&batch).expect("writes");
    engine.flush().expect("flushes");
    drop(engine);
    let error = RocksEngine::open(&dir, config()).expect_err("too new");
    let want = EngineError::NewerFormat { found: FORMAT_VERSION + 1, known: FORMAT_VERSION };
    assert_eq!(error, want);
}

#[test]
fn folders_of_others_are_refused_and_left_alone() {
    let folders = Folders::new();
    let dir = folders.next();
    fs::write(dir.join("letters.txt"), "dear").expect("writes");
    let error = RocksEngine::open(&dir, config()).expect_err("not ours");
    assert!(matches!(&error, EngineError::WrongFolder(why) if why.contains("letters.txt")));
    assert_eq!(fs::read_dir(&dir).expect("there").count(), 1);

    let dir = folders.next();
    let mut options = Options::default();
    options.create_if_missing(true);
    let other = DB::open(&options, &dir).expect("opens");
    other.put(b"a", b"b").expect("writes");
    drop(other);
    let error = RocksEngine::open(&dir, config()).expect_err("not ours");
    assert!(matches!(&error, EngineError::WrongFolder(why) if why.contains("not Quorate's")));
    options.create_missing_column_families(true);
    let other = DB::open_cf(&options, &dir, ["theirs"]).expect("opens");
    drop(other);
    let error = RocksEngine::open(&dir, config()).expect_err("not ours");
    assert!(matches!(&error, EngineError::WrongFolder(why) if why.contains("theirs")));
}

#[test]
fn second_open_of_the_same_folder_is_refused() {
    let folders = Folders::new();
    let dir = folders.next();
    let _engine = open(&dir);
    assert!(matches!(RocksEngine::open(&dir, config()), Err(EngineError::Storage(_))));
}

/// S2: a memtable that fills up flushes all families with it, or the applied index on the disk
/// would not be that of the rows.
#[test]
fn automatic_flush_keeps_the_applied_index_with_its_rows() {
    let folders = Folders::new();
    let small = RocksConfig { write_buffer_bytes: 64 << 10, ..config() };
    let engine = RocksEngine::open(&folders.next(), small).expect("opens");
    let persisted = |cf: Cf, key: &[u8]| {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let found = engine.db.get_cf_opt(engine.family(cf), key, &options);
        found.expect("reads").is_some()
    };
    let mut written = 0u32;
    let mut write_some = || {
        for _ in 0..50 {
            written += 1;
            let mut batch = Batch::new();
            batch.put(Cf::Latest, &written.to_be_bytes(), &[7; 1000]);
            batch.put(Cf::Local, b"applied", &written.to_be_bytes());
            engine.write(&batch).expect("writes");
        }
        written
    };
    let mut durable = None;
    for _ in 0..1000 {
        write_some();
        durable = engine.durable(b"applied").expect("reads");
        if durable.is_some() {
            break;
        }
    }
    durable.expect("a full memtable of `latest` made the applied index durable");
    // Flushes may be under way: wait until none is, with no writes meanwhile.
    let immutable = || engine.int_property(Cf::Latest, properties::NUM_IMMUTABLE_MEM_TABLE);
    let pending = || engine.int_property(Cf::Latest, properties::MEM_TABLE_FLUSH_PENDING);
    let mut looks = 0;
    while immutable() + pending() > 0 {
        looks += 1;
        assert!(looks < 10_000_000, "the flush ends");
        std::thread::yield_now();
    }
    let applied = engine.durable(b"applied").expect("reads").expect("still there");
    let applied = u32::from_be_bytes(applied[..].try_into().expect("four bytes"));
    let rows = (1..=written).filter(|row| persisted(Cf::Latest, &row.to_be_bytes()));
    assert_eq!(rows.count(), applied as usize);
    assert!(persisted(Cf::Latest, &applied.to_be_bytes()));
}

#[derive(Debug, Clone)]
enum Op {
    Put(Cf, Vec<u8>, Vec<u8>),
    Delete(Cf, Vec<u8>),
    DeleteRange(Cf, Vec<u8>, Vec<u8>),
    Write,
    Flush,
    Compact,
    Check(Cf, Vec<u8>, Vec<u8>, Vec<u8>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let cf = || prop::sample::select(&Cf::ALL[..]);
    // Few letters, so that keys meet; the empty key is nobody's.
    let key = || prop::collection::vec(prop::sample::select(&[0u8, 1, 97, 255][..]), 1..4);
    let bound = || prop_oneof![1 => Just(Vec::new()), 4 => key()];
    let value = || prop::collection::vec(any::<u8>(), 0..8);
    let op = prop_oneof![
        8 => (cf(), key(), value()).prop_map(|(c, k, v)| Op::Put(c, k, v)),
        3 => (cf(), key()).prop_map(|(c, k)| Op::Delete(c, k)),
        2 => (cf(), bound(), bound()).prop_map(|(c, a, b)| Op::DeleteRange(c, a, b)),
        4 => Just(Op::Write),
        1 => Just(Op::Flush),
        1 => Just(Op::Compact),
        3 => (cf(), bound(), bound(), key()).prop_map(|(c, a, b, k)| Op::Check(c, a, b, k)),
    ];
    prop::collection::vec(op, 1..80)
}

/// What an iterator shows of a span, in both directions and around a key.
fn observe(engine: &dyn Engine, cf: Cf, lower: &[u8], upper: &[u8], key: &[u8]) -> Vec<String> {
    let view = engine.snapshot();
    let mut seen = vec![format!("{:?}", view.get(cf, key).expect("reads"))];
    let mut iter = view.iter(cf, lower, upper);
    iter.seek_first();
    while iter.item().is_some() {
        seen.push(format!("up {:?}", iter.item()));
        iter.next();
    }
    iter.seek_last();
    while iter.item().is_some() {
        seen.push(format!("down {:?}", iter.item()));
        iter.prev();
    }
    iter.seek(key);
    seen.push(format!("at {:?}", iter.item()));
    iter.seek_before(key);
    seen.push(format!("below {:?}", iter.item()));
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn rocks_engine_and_its_twin_show_the_same(ops in ops()) {
        let folders = Folders::new();
        let engines: [Box<dyn Engine>; 2] =
            [Box::new(open(&folders.next())), Box::new(MemEngine::new())];
        // The format version is what only one of them keeps.
        let mut batch = Batch::new();
        batch.delete(Cf::Local, local::FORMAT_KEY);
        engines[0].write(&batch).expect("writes");
        batch.clear();
        for op in ops.into_iter().chain([Op::Write]) {
            match op {
                Op::Put(cf, key, value) => batch.put(cf, &key, &value),
                Op::Delete(cf, key) => batch.delete(cf, &key),
                Op::DeleteRange(cf, start, end) => batch.delete_range(cf, &start, &end),
                Op::Write => {
                    for engine in &engines {
                        engine.write(&batch).expect("writes");
                    }
                    batch.clear();
                }
                Op::Flush => engines.iter().for_each(|e| e.flush().expect("flushes")),
                Op::Compact => {
                    let all = KeySpan::default();
                    engines.iter().for_each(|e| e.compact(&all).expect("compacts"));
                }
                Op::Check(cf, lower, upper, key) => {
                    let [a, b] = [0, 1].map(|i| observe(&*engines[i], cf, &lower, &upper, &key));
                    prop_assert_eq!(a, b);
                    let [a, b] = [0, 1].map(|i| engines[i].durable(&key).expect("reads"));
                    prop_assert_eq!(a, b);
                }
            }
        }
        for cf in Cf::ALL {
            let [a, b] = [0, 1].map(|i| observe(&*engines[i], cf, b"", b"", b"a"));
            prop_assert_eq!(a, b);
        }
    }
}
