//! Tests of the log on raft-engine: conformance, the same as its twin also after reopening, files.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::conformance::{self, entries};
use super::super::{MemLog, truncate};
use super::*;

/// Small files, none prefilled.
fn config() -> LogConfig {
    LogConfig { file_bytes: 64 << 10, purge_bytes: 128 << 10, prefill_bytes: 0 }
}

/// Opens a log, again if its folder is locked: a child that another test starts holds the lock of
/// a log that was closed until it executes its program.
fn open_with(dir: &Path, config: LogConfig) -> RaftEngineLog {
    let started = Instant::now();
    loop {
        match RaftEngineLog::open(dir, config) {
            Ok(log) => return log,
            Err(error) if error.to_string().contains("Failed to lock file") => {
                assert!(started.elapsed() < Duration::from_secs(30), "{error}");
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("it opens: {error}"),
        }
    }
}

fn open(dir: &Path) -> RaftEngineLog {
    open_with(dir, config())
}

#[test]
fn a_folder_in_use_is_refused() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let _first = open(root.path());
    let error = RaftEngineLog::open(root.path(), config()).map(drop).expect_err("it is in use");
    assert!(error.to_string().contains("Failed to lock file"), "{error}");
}

#[test]
fn raft_engine_log_conforms() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let mut count = 0;
    conformance::check(&mut || {
        count += 1;
        Box::new(open(&root.path().join(count.to_string())))
    });
}

/// S6: a group that is written once and never compacted pins old files; purge names it, and the
/// log stays bounded once it is compacted.
#[test]
fn purge_names_the_group_that_pins_old_files() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let log = open(root.path());
    let (quiet, busy) = (RangeId(1), RangeId(2));
    let mut batch = LogBatch::new();
    batch.append(quiet, entries(1, 100, 1));
    batch.put_meta(&b"fact"[..], &b"kept"[..]);
    log.append(&mut batch).expect("appends");
    let (mut named, mut next) = (false, 1);
    for _ in 0..300 {
        batch.append(busy, big_entries(next, 4));
        log.append(&mut batch).expect("appends");
        next += 4;
        truncate(&log, busy, next - 1, next - 1).expect("truncates");
        named |= log.purge().expect("purges").contains(&quiet);
        if named {
            truncate(&log, quiet, 100, 100).expect("truncates");
        }
    }
    assert!(named, "the quiet group was named");
    assert!(log.used_bytes() < 512 << 10, "{} bytes are in use", log.used_bytes());
    drop(log);
    let log = open(root.path());
    assert_eq!(log.meta(b"fact").as_deref(), Some(&b"kept"[..]));
    assert_eq!(log.last_index(quiet), Ok(100));
    assert_eq!(log.first_index(busy), Ok(next));
    batch.append(busy, big_entries(next, 1));
    log.append(&mut batch).expect("appends after what was compacted");
}

fn big_entries(first: u64, count: u64) -> Vec<Entry> {
    let mut entries = entries(first, count, 1);
    for entry in &mut entries {
        entry.data = vec![7; 4 << 10].into();
    }
    entries
}

/// S5: what a node's log takes on the disk is bounded by the constants.
#[test]
fn prefilled_files_take_what_the_constants_say() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let config = LogConfig { prefill_bytes: 128 << 10, ..config() };
    let log = RaftEngineLog::open(root.path(), config).expect("opens");
    let bytes = || -> u64 {
        let files = std::fs::read_dir(root.path()).expect("there");
        files.map(|file| file.and_then(|f| f.metadata()).expect("there").len()).sum()
    };
    assert!(bytes() >= 128 << 10, "{} bytes", bytes());
    assert!(bytes() <= 2 * (128 << 10) + 4 * (64 << 10), "{} bytes", bytes());
    drop(log);
    open_with(root.path(), config);
}

/// raft-engine's thread-local block knows no engine: two logs with the same entries at the same
/// places, read by one thread, showed each other's.
#[test]
fn a_thread_that_reads_two_logs_sees_each_as_it_is() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = |term: u64| root.path().join(term.to_string());
    let range = RangeId(1);
    for term in 1..=2 {
        let mut batch = LogBatch::new();
        batch.append(range, entries(1, 3, term));
        open(&folder(term)).append(&mut batch).expect("appends");
    }
    // Opened again, so that our own cache holds nothing.
    let logs = [(1, open(&folder(1))), (2, open(&folder(2)))];
    for _ in 0..2 {
        for (term, log) in &logs {
            let read = log.entries(range, 1, 4, None).expect("reads");
            assert!(read.iter().all(|entry| entry.term == *term), "log {term}: {read:?}");
            assert_eq!(log.term(range, 2), Ok(*term));
        }
    }
}

#[test]
fn second_open_of_the_same_folder_is_refused() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let _log = open(root.path());
    assert!(RaftEngineLog::open(root.path(), config()).is_err());
}

#[derive(Debug, Clone)]
enum Op {
    /// Range, entries back from the end (0: append), count.
    Append(u64, u64, u64),
    HardState(u64, u64),
    /// Range, how many entries to leave.
    Compact(u64, u64),
    Reset(u64, u64),
    Remove(u64),
    Meta(u8, Option<u8>),
    Purge,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || 1..4u64;
    let op = prop_oneof![
        8 => (range(), 0..4u64, 1..9u64).prop_map(|(r, b, n)| Op::Append(r, b, n)),
        2 => (range(), 0..99u64).prop_map(|(r, c)| Op::HardState(r, c)),
        4 => (range(), 0..4u64).prop_map(|(r, n)| Op::Compact(r, n)),
        1 => (range(), 0..60u64).prop_map(|(r, i)| Op::Reset(r, i)),
        1 => range().prop_map(Op::Remove),
        2 => (0..3u8, any::<Option<u8>>()).prop_map(|(k, v)| Op::Meta(k, v)),
        2 => Just(Op::Purge),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..60)
}

fn observe(log: &dyn LogStore) -> String {
    let mut seen = format!("{:?} {:?}", log.groups(), log.meta_with_prefix(b""));
    for range in (1..4).map(RangeId) {
        let (first, last) = (log.first_index(range), log.last_index(range));
        let (first, last) = (first.expect("reads"), last.expect("reads"));
        let entries = log.entries(range, first, last + 1, None).expect("reads");
        let terms: Vec<_> = (first - 1..=last).map(|i| log.term(range, i)).collect();
        let sizes: Vec<_> = entries
            .iter()
            .map(|entry| (entry.index, entry.term, entry.data.len(), entry.context.len()))
            .collect();
        seen += &format!("\n{range} {first}..={last} {terms:?} {sizes:?}");
        seen += &format!(" {:?} {:?}", log.truncated(range), log.hard_state(range));
    }
    seen
}

fn staged(op: &Op, log: &dyn LogStore, term: u64) -> LogBatch {
    let mut batch = LogBatch::new();
    match *op {
        Op::Append(range, back, count) => {
            let range = RangeId(range);
            let first = log.first_index(range).expect("reads");
            let last = log.last_index(range).expect("reads");
            let mut new = entries((last + 1).saturating_sub(back).max(first), count, term);
            new.iter_mut().for_each(|entry| entry.context = vec![1; 2000].into());
            batch.append(range, new);
        }
        Op::HardState(range, commit) => {
            let state = HardState { term, vote: 1, commit, ..HardState::default() };
            batch.hard_state(RangeId(range), state);
        }
        Op::Compact(range, leave) => {
            let range = RangeId(range);
            let last = log.last_index(range).expect("reads");
            let index = last.saturating_sub(leave);
            if index >= log.first_index(range).expect("reads") {
                let term = log.term(range, index).expect("it is there");
                batch.compact(range, Truncated { index, term });
            }
        }
        Op::Reset(range, index) => batch.reset(RangeId(range), Truncated { index, term }),
        Op::Remove(range) => batch.remove(RangeId(range)),
        Op::Meta(key, Some(value)) => batch.put_meta(vec![key], vec![value]),
        Op::Meta(key, None) => batch.delete_meta(vec![key]),
        Op::Purge | Op::Reopen => {}
    }
    batch
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn raft_engine_log_and_its_twin_show_the_same(ops in ops()) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let (mut log, twin) = (open(root.path()), MemLog::new());
        for (i, op) in ops.iter().enumerate() {
            let mut batch = staged(op, &twin, i as u64 + 1);
            let mut same = batch.clone();
            log.append(&mut batch).expect("appends");
            twin.append(&mut same).expect("in memory");
            match op {
                Op::Purge => drop(log.purge().expect("purges")),
                Op::Reopen => {
                    drop(log);
                    log = open(root.path());
                }
                _ => {}
            }
            prop_assert_eq!(observe(&log), observe(&twin));
        }
        drop(log);
        prop_assert_eq!(observe(&open(root.path())), observe(&twin));
    }
}
