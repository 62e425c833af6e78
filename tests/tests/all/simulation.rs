//! The simulator itself: a seed repeats, and planted mistakes are found (rules X1–X3).

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_tests::process::{signal, wait_until};
use quorate_tests::sim::options::USAGE;
use quorate_tests::sim::plants::{HARMLESS, PLANTS, Plant};

/// How long things go wrong where a seed is compared with itself,
const SECONDS: &str = "15";
/// and what must be among them.
const FAULTS: [&str; 2] = ["ranges split all the time", "syncs of m"];
/// Plants looked for at the same time.
const THREADS: usize = 2;

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    command.args(arguments).output().expect("the simulator starts")
}

/// The line of a seed: the hash of its trace and its figures.
fn line_of(seed: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with(&format!("seed {seed}: trace")));
    let error = String::from_utf8_lossy(&output.stderr);
    line.unwrap_or_else(|| panic!("no line of seed {seed} in {text}\n{error}")).to_owned()
}

/// X1: two processes with one seed do the same, event by event; another seed does something else.
#[test]
fn the_same_seed_gives_the_same_trace_twice() {
    let run = |seed: &str| {
        let output =
            simulate(&["--seed", seed, "--seconds", SECONDS, "--trace", "--tail", "100000"]);
        let trace = [&output.stdout[..], &output.stderr[..]].concat();
        let trace = String::from_utf8_lossy(&trace);
        assert!(output.status.success(), "{trace}");
        for fault in FAULTS {
            assert!(trace.contains(fault), "{fault:?} is not in the trace of {seed}");
        }
        line_of(seed, &output)
    };
    let (first, again, other) = (run("29"), run("29"), run("37"));
    assert_eq!(first, again);
    let hash = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    assert_ne!(hash(&first), hash(&other));
}

/// What a rule taken away is not found by: that something takes long, or a panic,
const NO_HARM: [&str; 4] = [" is stuck", "waited too long", "does not answer", "panicked at"];
/// unless Raft itself misses entries that were forgotten.
const LOST_ENTRIES: (&str, &str) = ("log-without-sync", "raft_log.rs");

fn shows_harm(plant: &Plant, violation: &str) -> bool {
    let lost_entries = plant.name == LOST_ENTRIES.0 && violation.contains(LOST_ENTRIES.1);
    lost_entries || !NO_HARM.iter().any(|words| violation.contains(words))
}

/// The first seed with which the harm of a planted mistake is found, and how.
fn found(plant: &Plant) -> Option<(u64, String)> {
    (1..=plant.seeds).find_map(|seed| {
        let seed_text = seed.to_string();
        let output = simulate(&["--seed", &seed_text, "--plant", plant.name, "--seconds", "30"]);
        let error = String::from_utf8_lossy(&output.stderr);
        let violation = error.lines().find(|line| line.contains("VIOLATION"))?;
        if !shows_harm(plant, violation) {
            return None;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let again = format!("make simulate SEED={seed} ARGS=\"--plant {}\"\n", plant.name);
        assert!(text.contains(&again), "{again} is not in {text}");
        Some((seed, violation.to_owned()))
    })
}

/// Each rule that can be taken away is missed, within the number of seeds that its plant states.
#[test]
fn planted_mistakes_are_found() {
    let (next, unseen) = (AtomicUsize::new(0), parking_lot::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(plant) = PLANTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match found(plant) {
                        Some((seed, how)) => println!("{}: seed {seed}: {how}", plant.name),
                        None => unseen.lock().push(plant.name),
                    }
                }
            });
        }
    });
    assert_eq!(*unseen.lock(), Vec::<&str>::new(), "not found within the seeds stated");
}

/// Row locks are a courtesy: without them transactions run into each other, and that is all.
#[test]
fn safety_does_not_lean_on_row_locks() {
    for plant in HARMLESS {
        let seeds = plant.seeds.to_string();
        let output = simulate(&[
            "--from",
            "1",
            "--count",
            &seeds,
            "--jobs",
            "2",
            "--plant",
            plant.name,
            "--seconds",
            "30",
        ]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", plant.name);
    }
}

#[test]
fn help_goes_to_standard_output_and_refusals_have_status_2() {
    let help = simulate(&["--help"]);
    assert!(help.status.success());
    assert_eq!(String::from_utf8_lossy(&help.stdout).trim_end(), USAGE);
    let last = u64::MAX.to_string();
    let refused: [&[&str]; 4] =
        [&["--from", &last, "--count", "2"], &["--from", "7"], &["--log"], &["--log", "loud"]];
    for arguments in refused {
        let output = simulate(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(USAGE) && !error.contains("panicked"), "{arguments:?}: {error}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

/// A process and a folder for temporary files belong to each seed that is run.
#[test]
fn a_simulator_that_is_told_to_stop_leaves_nothing_behind() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    command.args(["--seed", "29", "--seconds", "600"]).env("TMPDIR", folder.path());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut parent = command.spawn().expect("the simulator starts");
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    let mut child = None;
    wait_until("a process runs the seed", PATIENCE, || {
        let listed = std::fs::read_to_string(&children).unwrap_or_default();
        child = listed.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
        child.is_some()
    });
    let child = child.expect("it was waited for");
    // As the process does when it first puts a snapshot together.
    std::fs::create_dir_all(folder.path().join(format!("quorate-sim-{child:010}")))
        .expect("a folder can be made");

    assert!(signal(parent.id(), "TERM"));
    let mut status = None;
    wait_until("the simulator has stopped", PATIENCE, || {
        status = parent.try_wait().expect("it can be waited for");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(128 + 15));
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "{child} still runs");
    let left = std::fs::read_dir(folder.path()).expect("the folder is there").count();
    assert_eq!(left, 0);
}
