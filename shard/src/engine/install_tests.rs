//! Crash tests of rules S2, S3 and S4: a snapshot's installation cut at each step, on the twins;
//! and a real process killed with signal 9 between any two of append, apply, flush, truncate,
//! mark, delete, ingest and clear, on RocksDB and raft-engine.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use prost::Message;
use quorate_proto::pb;

use super::*;
use crate::engine::{BlockCache, MemEngine, RocksConfig, RocksEngine};
use crate::log::conformance::entries;
use crate::log::{LogConfig, MemLog, RaftEngineLog, truncate};

/// The range whose log is written and applied.
const WORK: RangeId = RangeId(7);
/// The range that is installed from a snapshot.
const MOVED: RangeId = RangeId(8);
/// The right half of a split of that range.
const BORN: RangeId = RangeId(9);

fn moved_span() -> KeySpan {
    KeySpan::new("s", "t")
}

fn state(applied_index: u64) -> Bytes {
    let state = pb::RangeState { applied_index, ..Default::default() };
    state.encode_to_vec().into()
}

/// Old rows in the engine, and a snapshot of new ones, in `dir`, to replace them.
fn old_rows_and_snapshot(engine: &dyn Engine, source: &dyn Engine, dir: &Path) -> Install {
    let mut batch = Batch::new();
    for (i, key) in ["s1", "s2", "s3"].into_iter().enumerate() {
        batch.put(Cf::Latest, key.as_bytes(), b"new");
        batch.put(Cf::Locks, key.as_bytes(), &[u8::try_from(i).expect("small")]);
    }
    source.write(&batch).expect("writes");
    let view = source.snapshot();
    let files = source.export(&*view, &moved_span(), dir).expect("exports");
    batch.clear();
    for key in ["s0", "s1", "s9"] {
        batch.put(Cf::Latest, key.as_bytes(), b"old");
    }
    batch.put(Cf::Latest, b"r", b"neighbour");
    batch.put(Cf::Local, &local::range_state_key(MOVED), &state(5));
    engine.write(&batch).expect("writes");
    engine.flush().expect("flushes");
    Install {
        range: MOVED,
        span: moved_span(),
        files: files.into_iter().map(|file| (file.cf, file.path)).collect(),
        state: state(50),
        at: Truncated { index: 50, term: 3 },
    }
}

/// Whether the range has its old rows (`Some(false)`), the new ones (`Some(true)`), or a mixture.
fn moved(engine: &dyn Engine) -> Option<bool> {
    let view = engine.snapshot();
    let mut iter = view.iter(Cf::Latest, b"s", b"t");
    let mut rows = Vec::new();
    iter.seek_first();
    while let Some((key, value)) = iter.item() {
        rows.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
        iter.next();
    }
    let applied = view.get(Cf::Local, &local::range_state_key(MOVED)).expect("reads");
    assert_eq!(view.get(Cf::Latest, b"r").expect("reads").as_deref(), Some(&b"neighbour"[..]));
    match (rows.join(" ").as_str(), applied) {
        ("s0=old s1=old s9=old", Some(at)) if at == state(5) => Some(false),
        ("s1=new s2=new s3=new", Some(at)) if at == state(50) => Some(true),
        _ => None,
    }
}

/// An installation that is cut at a step, and what a start makes of it.
fn cut_at(cut: InstallStep, flush_at_cut: bool, look: impl FnOnce(&MemEngine, &MemLog, &Install)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (engine, log) = (MemEngine::new(), MemLog::new());
    let what = old_rows_and_snapshot(&engine, &MemEngine::new(), dir.path());
    // A split of the range was applied just before: its log goes with the installation.
    let mut batch = Batch::new();
    batch.put(Cf::Local, &local::range_state_key(BORN), &state(5));
    engine.write(&batch).expect("writes");
    let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        install(&engine, &log, &what, None, &mut |step| {
            if step == cut {
                // A flush that comes for another reason may make half of it durable.
                if flush_at_cut {
                    engine.flush().expect("in memory");
                }
                std::panic::resume_unwind(Box::new("crash"));
            }
        })
    }));
    assert!(crashed.is_err());
    engine.crash();
    log.crash();
    look(&engine, &log, &what);
}

fn cuts() -> impl Iterator<Item = (InstallStep, bool)> {
    use InstallStep::{Cleared, Deleted, Flushed, Ingested, Marked, Written};
    let steps = [Marked, Deleted, Ingested, Written, Flushed, Cleared];
    steps.into_iter().flat_map(|step| [(step, false), (step, true)])
}

#[test]
fn installation_cut_at_each_step_is_old_or_whole() {
    for (cut, flush) in cuts() {
        cut_at(cut, flush, |engine, log, what| {
            let again = resume_installs(engine, log).expect("in memory");
            assert_eq!(again, if cut == InstallStep::Cleared { vec![] } else { vec![MOVED] });
            assert_eq!(moved(engine), Some(true), "{cut:?}");
            let born = engine.snapshot().get(Cf::Local, &local::range_state_key(BORN));
            assert_eq!(born, Ok(Some(state(5))), "{cut:?}: it would not be born again");
            assert_eq!(log.truncated(MOVED), Ok(what.at));
            assert_eq!(resume_installs(engine, log), Ok(vec![]), "the mark is gone");
        });
    }
}

/// S4 is missed when it is taken away.
#[test]
fn an_installation_without_a_mark_is_found() {
    crate::planted::assert_found("S4", Mistake::InstallUnmarked, || {
        for (cut, flush) in cuts() {
            cut_at(cut, flush, |engine, log, _| {
                resume_installs(engine, log).expect("in memory");
                assert!(moved(engine).is_some(), "neither old nor whole after {cut:?}");
            });
        }
    });
}

#[test]
fn mark_survives_encoding() {
    let install = Install {
        range: RangeId(3),
        span: KeySpan::new("a", ""),
        files: vec![(Cf::Latest, "/x/latest.sst".into()), (Cf::Txns, "/x/t".into())],
        state: state(9),
        at: Truncated { index: 9, term: 2 },
    };
    let bytes = encode(&install);
    assert_eq!(decode(bytes.clone()), Some(install));
    assert_eq!(decode(bytes.slice(..bytes.len() - 1)), None);
}

// ---------------------------------------------------------------- kill -9

const CHILD_DIR: &str = "QUORATE_TEST_CRASH_DIR";
const CHILD_FREE: &str = "QUORATE_TEST_CRASH_FREE";

struct Disk {
    engine: RocksEngine,
    log: RaftEngineLog,
}

fn open(dir: &Path) -> Disk {
    let config = RocksConfig { cache: BlockCache::new(1 << 20), write_buffer_bytes: 1 << 20 };
    let log = LogConfig { file_bytes: 16 << 10, purge_bytes: 32 << 10, prefill_bytes: 32 << 10 };
    Disk {
        engine: RocksEngine::open(&dir.join("engine"), config).expect("opens"),
        log: RaftEngineLog::open(&dir.join("log"), log).expect("opens"),
    }
}

/// Applying entry `i` sets one of a few keys to it.
fn apply(engine: &dyn Engine, from: u64, upto: u64) {
    let mut batch = Batch::new();
    for index in from..=upto {
        batch.put(Cf::Latest, format!("k{}", index % 7).as_bytes(), &index.to_be_bytes());
        batch.put(Cf::History, &index.to_be_bytes(), b"old");
        batch.put(Cf::Local, &local::range_state_key(WORK), &state(index));
    }
    engine.write(&batch).expect("writes");
}

fn durable_applied(engine: &dyn Engine) -> u64 {
    let state = engine.durable(&local::range_state_key(WORK)).expect("reads");
    state.map_or(0, |bytes| pb::RangeState::decode(bytes).expect("decodes").applied_index)
}

/// Is the child: works in small steps, telling each; waits for leave after each, or does not.
#[test]
#[ignore = "is the process that the next test kills"]
fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let (dir, free) = (Path::new(&dir), std::env::var_os(CHILD_FREE).is_some());
    let step = |name: &str, upto: u64| {
        println!("STEP {name} {upto}");
        std::io::stdout().flush().expect("the parent listens");
        let mut leave = String::new();
        if !free {
            std::io::stdin().read_line(&mut leave).expect("the parent answers");
        }
    };
    let Disk { engine, log } = open(dir);
    let files = dir.join("files");
    std::fs::create_dir(&files).expect("makes a folder");
    let snapshot = old_rows_and_snapshot(&engine, &open(&dir.join("source")).engine, &files);
    step("begin", 0);
    let mut last = 0;
    for round in 0..3u64 {
        let mut batch = LogBatch::new();
        batch.append(WORK, entries(last + 1, 20, round + 1));
        log.append(&mut batch).expect("appends");
        last += 20;
        step("append", last);
        apply(&engine, last - 19, last - 10);
        step("apply", last);
        if round == 1 {
            let mut told = |done: InstallStep| step(&format!("{done:?}"), last);
            install(&engine, &log, &snapshot, None, &mut told).expect("installs");
        }
        apply(&engine, last - 9, last - 5);
        engine.flush().expect("flushes");
        step("flush", last);
        apply(&engine, last - 4, last);
        let durable = durable_applied(&engine);
        truncate(&log, WORK, durable, durable).expect("truncates");
        step("truncate", last);
        log.purge().expect("purges");
        step("purge", last);
    }
    step("end", last);
}

fn spawn(dir: &Path, free: bool) -> Child {
    // This test's binary, also if a build has replaced the file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", "engine::install::tests::crash_child", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if free {
        command.env(CHILD_FREE, "1");
    }
    command.spawn().expect("starts")
}

/// Lets the child go `steps` steps and kills it; the steps it told, in order.
fn killed_after(dir: &Path, steps: usize, free: bool) -> Vec<(String, u64)> {
    let mut child = spawn(dir, free);
    let mut stdin = child.stdin.take().expect("piped");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut told = Vec::new();
    for line in lines {
        let line = line.expect("the child writes text");
        // The test harness may write on the same line before it.
        let Some((_, step)) = line.split_once("STEP ") else {
            continue;
        };
        let (name, upto) = step.split_once(' ').expect("a name and a number");
        told.push((name.to_owned(), upto.parse().expect("a number")));
        if told.len() > steps {
            break;
        }
        // In free mode nobody reads it, and the child may be gone.
        let answered = stdin.write_all(b"go\n");
        assert!(free || answered.is_ok());
    }
    child.kill().expect("signal 9");
    child.wait().expect("it was killed");
    told
}

fn check_after_crash(dir: &Path, told: &[(String, u64)]) {
    let Disk { engine, log } = open(dir);
    let told_of = |name: &str| told.iter().any(|(step, _)| step == name);
    let resumed = resume_installs(&engine, &log).expect("resumes");
    if told_of("begin") {
        let state = moved(&engine).expect("the rows are the old or the new ones");
        assert!(state || !told_of("Marked"), "once marked, it is carried out: {told:?}");
        assert!(resumed.is_empty() || state);
        let truncated = log.truncated(MOVED).expect("reads");
        assert_eq!(truncated.index, if state { 50 } else { 0 });
    }
    // What was appended with a sync is in the log, from the durable applied index on.
    let synced =
        told.iter().filter(|(step, _)| step == "append").map(|(_, upto)| *upto).max().unwrap_or(0);
    let applied = durable_applied(&engine);
    let (first, last) = (log.first_index(WORK), log.last_index(WORK));
    let (first, last) = (first.expect("reads"), last.expect("reads"));
    assert!(last >= synced, "{last} ≥ {synced}");
    assert!(first <= applied + 1, "the log begins at {first}, applied is {applied}");
    // The rows are those of exactly the durable applied index, in all families (S2) …
    check_applied(&engine, applied);
    // … and the log brings the rest back.
    let rest = log.entries(WORK, applied + 1, last + 1, None).expect("reads");
    assert_eq!(rest, {
        let mut all = Vec::new();
        (1..=3).for_each(|term| all.extend(entries((term - 1) * 20 + 1, 20, term)));
        all[usize::try_from(applied).expect("small")..usize::try_from(last).expect("small")]
            .to_vec()
    });
    apply(&engine, applied + 1, last);
    check_applied(&engine, last);
}

fn check_applied(engine: &dyn Engine, applied: u64) {
    let view = engine.snapshot();
    for rest in 0..7 {
        let want = (1..=applied).rev().find(|index| index % 7 == rest);
        let found = view.get(Cf::Latest, format!("k{rest}").as_bytes()).expect("reads");
        assert_eq!(found.as_deref(), want.map(u64::to_be_bytes).as_ref().map(|b| &b[..]));
    }
    let mut iter = view.iter(Cf::History, &[], &[0xff]);
    let mut count = 0;
    iter.seek_first();
    while iter.item().is_some_and(|(key, _)| key.len() == 8) {
        count += 1;
        iter.next();
    }
    assert_eq!(count, applied, "`history` is of the same applied index as `latest`");
}

#[test]
fn kill_9_between_any_two_steps_loses_nothing_synced() {
    let mut names = std::collections::BTreeSet::new();
    for steps in 0.. {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let told = killed_after(dir.path(), steps, false);
        check_after_crash(dir.path(), &told);
        let ended = told.iter().any(|(name, _)| name == "end");
        names.extend(told.into_iter().map(|(name, _)| name));
        if ended {
            break;
        }
    }
    for name in ["append", "apply", "flush", "truncate", "Marked", "Ingested", "Cleared"] {
        assert!(names.contains(name), "it was killed after {name}");
    }
}

#[test]
fn kill_9_in_the_middle_of_a_step_loses_nothing_synced() {
    for steps in [0, 2, 4, 5, 7, 9, 11, 13] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let told = killed_after(dir.path(), steps, true);
        check_after_crash(dir.path(), &told);
    }
}
