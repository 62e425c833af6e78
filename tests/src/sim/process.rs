//! Processes of the simulator: one for each seed (rule X1), and what is printed about it.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: outside of the simulation, real processes run in real time"
)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::options::Options;
use super::run::Report;
use super::trace::Trace;
use super::{EXIT_BROKEN, EXIT_SIGNAL, EXIT_VIOLATED};

/// A process that takes longer has hung: a task that never waits, or one that waits for nothing.
const WALL_LIMIT_MIN: Duration = Duration::from_secs(300);
/// It may take longer when things go wrong for long: so much for each second of that, which in
/// simulated time usually takes less than one.
const WALL_LIMIT_FACTOR: u32 = 10;
/// How often running processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A seed nobody has chosen.
pub fn fresh_seed() -> u64 {
    // Short enough to be typed.
    StdRng::from_os_rng().random_range(1_000..1_000_000_000)
}

/// The signal that has told this process to stop, or 0.
static TOLD_TO_STOP: AtomicI32 = AtomicI32::new(0);

/// A seed that is run. When it goes, its process ends, and what that left on disk is removed.
struct Run {
    seed: u64,
    child: Child,
    since: Instant,
}

impl Drop for Run {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_dir(self.child.id());
    }
}

impl Run {
    /// The status with which it ended, or has to.
    fn outcome(&mut self, limit: Duration) -> Option<i32> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(status.code().unwrap_or(EXIT_BROKEN)),
            Ok(None) if self.since.elapsed() < limit => None,
            Ok(None) => {
                eprintln!("seed {}: hangs after {} s, ended", self.seed, limit.as_secs());
                Some(EXIT_BROKEN)
            }
            Err(error) => {
                eprintln!("seed {}: {error}", self.seed);
                Some(EXIT_BROKEN)
            }
        }
    }
}

/// Runs all seeds, some at a time.
pub fn run_all(seeds: &[u64], options: &Options) -> i32 {
    heed_signals();
    let limit = wall_limit(options.faults);
    let mut waiting = seeds.iter().copied();
    let mut running: Vec<Run> = Vec::new();
    let (mut worst, mut done, mut failed) = (0, 0, Vec::new());
    loop {
        while running.len() < options.jobs {
            let Some(seed) = waiting.next() else { break };
            match start(seed, options) {
                Ok(child) => running.push(Run { seed, child, since: Instant::now() }),
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
        let ended = take_ended(&mut running, limit);
        // Asked after that: what ended by the same Ctrl-C has not failed.
        let signal = TOLD_TO_STOP.load(Ordering::SeqCst);
        if signal != 0 {
            println!("stopped by signal {signal} after {done} seeds, failed: {failed:?}");
            return EXIT_SIGNAL + signal;
        }
        for (seed, code) in ended {
            done += 1;
            worst = worst.max(code);
            if code != 0 {
                failed.push(seed);
                println!("seed {seed}: FAILED; again with: {}", options.again(seed));
            }
        }
    }
    println!("{done} seeds, {} failed {failed:?}", failed.len());
    worst
}

fn take_ended(running: &mut Vec<Run>, limit: Duration) -> Vec<(u64, i32)> {
    let mut ended = Vec::new();
    running.retain_mut(|run| match run.outcome(limit) {
        None => true,
        Some(code) => {
            ended.push((run.seed, code));
            false
        }
    });
    ended
}

fn wall_limit(faults: Duration) -> Duration {
    WALL_LIMIT_MIN.max(faults * WALL_LIMIT_FACTOR)
}

extern "C" fn stop(signal: libc::c_int) {
    TOLD_TO_STOP.store(signal, Ordering::SeqCst);
}

/// From here on a signal ends [`run_all`], not the process: nothing is left behind then.
#[expect(unsafe_code, reason = "no crate in use offers it without a runtime")]
fn heed_signals() {
    let handler = stop as extern "C" fn(libc::c_int) as *const () as libc::sighandler_t;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler stores a number and does nothing else.
        unsafe {
            // Whoever ignores a signal, as nohup does, wants that of its processes, too.
            if libc::signal(signal, handler) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
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

#[expect(unsafe_code, reason = "the process is prepared between fork and exec")]
fn start(seed: u64, options: &Options) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(options.for_process(seed)).env_clear().stdin(Stdio::null());
    command.env("TMPDIR", std::env::temp_dir());
    let with_parent = libc::c_ulong::from(libc::SIGKILL.unsigned_abs());
    // Some hash tables of libraries take their seeds from addresses.
    let prepared = move || {
        let now = unsafe_personality(0xffff_ffff);
        let without = libc::ADDR_NO_RANDOMIZE | libc::c_int::max(now, 0);
        // Where that is forbidden, the traces are compared all the same.
        unsafe_personality(libc::c_ulong::try_from(without).unwrap_or(0));
        // Nobody would end it if its parent were killed.
        // SAFETY: takes numbers and changes nothing but a flag of the process.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, with_parent) };
        Ok(())
    };
    // SAFETY: the closure makes three system calls and allocates nothing.
    unsafe { command.pre_exec(prepared) };
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
/// Something else takes it already.
pub fn log(level: Option<tracing::Level>) -> Result<(), String> {
    let Some(level) = level else { return Ok(()) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_take_longer_when_things_go_wrong_for_longer() {
        let limit = |seconds| wall_limit(Duration::from_secs(seconds)).as_secs();
        assert_eq!((limit(0), limit(30)), (300, 300));
        assert_eq!((limit(31), limit(999_999)), (310, 9_999_990));
    }
}
