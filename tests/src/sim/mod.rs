//! The simulator: whole nodes (gateway, shard, Raft, the in-memory twins of engine and log) on one
//! thread, in simulated time, on a network, disks and clocks that misbehave as a seed says. The
//! same seed gives the same trace. `docs/simulator.md` tells how to use it.
//!
//! # The life of a run
//! 1. [`main`] starts a process per seed, without address randomisation and with an empty
//!    environment ([`process`]).
//! 2. The process moves into simulated time ([`system`]), and [`run::run`] brings a cluster up.
//! 3. [`bank`] and [`lists`] work on it, [`past`] looks back; [`faults`] go wrong; [`net`],
//!    [`disk`] and [`clock`] are
//!    what can.
//! 4. [`watch`] looks at everything whenever time is about to pass; [`checks`] say what must hold.
//! 5. [`trace`] keeps what happened.
//!
//! [`plants`] are mistakes that it must find.

#![deny(clippy::disallowed_methods)]

pub mod bank;
pub mod checks;
pub mod client;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod lists;
pub mod machine;
pub mod net;
pub mod options;
pub mod past;
pub mod plants;
pub mod process;
pub mod run;
pub mod runtime;
pub mod system;
pub mod trace;
pub mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use options::{Options, Task};
use run::Setup;
use trace::Trace;

/// A property was violated.
pub const EXIT_VIOLATED: i32 = 1;
/// The simulator itself cannot go on, or was called wrongly.
pub const EXIT_BROKEN: i32 = 2;
/// Plus the number of the signal that stopped it, as shells have it.
pub const EXIT_SIGNAL: i32 = 128;

/// The binary's main function.
pub fn main(arguments: Vec<String>) -> ExitCode {
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{}", options::USAGE);
            return exit(EXIT_BROKEN);
        }
    };
    match &options.task {
        Task::Help => {
            println!("{}", options::USAGE);
            exit(0)
        }
        Task::Inside(seed) => exit(inside(*seed, &options)),
        Task::Seeds(seeds) => exit(process::run_all(seeds, &options)),
    }
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// In the process of one seed.
fn inside(seed: u64, options: &Options) -> i32 {
    // First of all: whatever is drawn from the system before is another value in each process.
    system::switch_on(seed);
    let dir = process::dir_of(std::process::id());
    let trace = Arc::new(Trace::new(options.show_trace));
    process::end_at_panic(&trace, seed, options.tail);
    if let Some(plant) = options.plant {
        plant.make();
    }
    if let Err(why) = process::log(options.log) {
        eprintln!("{why}");
        return EXIT_BROKEN;
    }
    let setup = Setup { seed, faults: options.faults };
    let report = match runtime::run(run::run(setup, &dir, &trace)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return EXIT_BROKEN;
        }
    };
    process::print_report(seed, &report, &trace, options);
    match trace.violated() {
        Some(why) => {
            process::print_violation(&trace, seed, &why, options.tail);
            EXIT_VIOLATED
        }
        None if !process::alone() => {
            eprintln!("a thread was started: the seed does not fix the order of events");
            EXIT_BROKEN
        }
        None => 0,
    }
}
