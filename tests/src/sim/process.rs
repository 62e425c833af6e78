//! Processes of the simulator: one for each seed (rule X1), and what is printed about it.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: outside of the simulation, real processes run in real time"
)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::options::Options;
use super::run::Report;
use super::trace::Trace;
use super::{EXIT_BROKEN, EXIT_VIOLATED};

/// A process that takes longer has hung: a task that never waits, or one that waits for nothing.
const WALL_LIMIT: Duration = Duration::from_secs(300);
/// How often running processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A seed nobody has chosen.
pub fn fresh_seed() -> u64 {
    // Short enough to be typed.
    StdRng::from_os_rng().random_range(1_000..1_000_000_000)
}

/// Runs all seeds, some at a time.
pub fn run_all(seeds: &[u64], options: &Options) -> i32 {
    let mut waiting = seeds.iter().copied();
    let mut running: Vec<(u64, Child, Instant)> = Vec::new();
    let (mut worst, mut done, mut failed) = (0, 0, Vec::new());
    loop {
        while running.len() < options.jobs {
            let Some(seed) = waiting.next() else { break };
            match start(seed, options) {
                Ok(child) => running.push((seed, child, Instant::now())),
                Err(error) => {
                    eprintln!("seed {seed} cannot be started: {error}");
                    return EXIT_BROKEN;
                }
            }
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
        let mut still = Vec::new();
        for (seed, mut child, since) in running {
            match outcome(&mut child, since) {
                None => still.push((seed, child, since)),
                Some(code) => {
                    remove_dir(child.id());
                    done += 1;
                    worst = worst.max(code);
                    if code != 0 {
                        failed.push(seed);
                        println!("seed {seed}: FAILED; again with: make simulate SEED={seed}");
                    }
                }
            }
        }
        running = still;
    }
    println!("{done} seeds, {} failed {failed:?}", failed.len());
    worst
}

/// Where the process of this number puts snapshots together.
pub fn dir_of(process: u32) -> PathBuf {
    std::env::temp_dir().join(format!("quorate-sim-{process:010}"))
}

fn remove_dir(process: u32) {
    let dir = dir_of(process);
    if let Err(error) = std::fs::remove_dir_all(&dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("{}: {error}", dir.display());
    }
}

fn outcome(child: &mut Child, since: Instant) -> Option<i32> {
    match child.try_wait() {
        Ok(Some(status)) => Some(status.code().unwrap_or(EXIT_BROKEN)),
        Ok(None) if since.elapsed() < WALL_LIMIT => None,
        Ok(None) => {
            eprintln!("the process hangs: it is ended");
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            Some(EXIT_BROKEN)
        }
        Err(error) => {
            eprintln!("{error}");
            Some(EXIT_BROKEN)
        }
    }
}

#[expect(unsafe_code, reason = "address randomisation is switched off between fork and exec")]
fn start(seed: u64, options: &Options) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(options.for_process(seed)).env_clear().stdin(Stdio::null());
    command.env("TMPDIR", std::env::temp_dir());
    // Some hash tables of libraries take their seeds from addresses.
    let without_randomisation = || {
        let now = unsafe_personality(0xffff_ffff);
        let without = libc::ADDR_NO_RANDOMIZE | libc::c_int::max(now, 0);
        // Where that is forbidden, the traces are compared all the same.
        unsafe_personality(libc::c_ulong::try_from(without).unwrap_or(0));
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(without_randomisation) };
    command.spawn()
}

#[expect(unsafe_code, reason = "no crate in use offers it")]
fn unsafe_personality(persona: libc::c_ulong) -> libc::c_int {
    // SAFETY: takes a number and changes nothing but a flag of the process.
    unsafe { libc::personality(persona) }
}

/// Whether this process has one thread.
pub fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// What the nodes log goes to standard error.
///
/// # Errors
/// There is no such level.
pub fn log(level: Option<&str>) -> Result<(), String> {
    let Some(level) = level else { return Ok(()) };
    let level = level.parse().map_err(|_| format!("no level of logging: {level}"))?;
    tracing::subscriber::set_global_default(Log { level }).map_err(|e| e.to_string())
}

/// Writes down events of our own crates. It makes no hash table, which a usual subscriber does:
/// hash tables made later would come out in another order than without the log.
struct Log {
    level: tracing::Level,
}

#[derive(Default)]
struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?} ")),
            name => self.0 += &format!("{name}={value:?} "),
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("quorate")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = event.metadata().target();
        eprintln!("{:>10.3} {target} {}", super::system::now().as_secs_f64(), fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A panic, in whatever task, is a violation and ends the process.
pub fn end_at_panic(trace: &Arc<Trace>, seed: u64, tail: usize) {
    let trace = trace.clone();
    std::panic::set_hook(Box::new(move |panic| {
        print_violation(&trace, seed, &panic.to_string(), tail);
        std::process::exit(EXIT_VIOLATED);
    }));
}

/// One line, and more if asked for.
pub fn print_report(seed: u64, report: &Report, trace: &Trace, options: &Options) {
    if options.show_trace {
        println!("{}", trace.tail(options.tail));
    }
    let figures = &report.figures;
    println!(
        "seed {seed}: trace {:016x} of {} events in {:.0} s: {} acknowledged, {} refused, \
         {} unknown ({} done), {} audits, {} looks back \
         ({} pages by followers); lists at {}: {} acknowledged, {} refused, {} unknown",
        report.hash,
        report.events,
        report.lasted.as_secs_f64(),
        figures.acknowledged,
        figures.refused,
        figures.unknown,
        figures.unknown_done,
        figures.audits,
        figures.looks_back,
        figures.by_followers,
        report.lists.level,
        report.lists.ended[0],
        report.lists.ended[1],
        report.lists.ended[2],
    );
    if options.show_trace {
        for (reason, count) in &figures.reasons {
            println!("{count:>6} {reason}");
        }
    }
}

/// What went wrong, and what came before.
pub fn print_violation(trace: &Trace, seed: u64, why: &str, tail: usize) {
    eprintln!("{}", trace.tail(tail));
    eprintln!("seed {seed}: VIOLATION {why}");
}
