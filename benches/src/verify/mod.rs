//! `quorate verify`: clients work on lists and on a bank while whatever happens to the servers
//! happens; afterwards what they saw is checked against what the isolation level promises.
//!
//! # The life of a verification
//! 1. [`schema`] makes the tables.
//! 2. Clients (`clients`) run transactions on [`lists`] and `bank`, each over a [`session`]
//!    that moves to the next server when one fails. What they were told is written down.
//! 3. At the end everything is read once more, through every server; and whether the tables are
//!    still those of step 1.
//! 4. [`history`](mod@crate::history) judges the lists, `bank` the balances; [`Verdict`] says it,
//!    and what it comes to ([`Conclusion`]).

mod bank;
mod clients;
pub mod lists;
pub mod schema;
pub mod session;
mod tally;
#[cfg(test)]
mod tests;
mod verdict;

pub use verdict::{Conclusion, Verdict};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_postgres::Config;

use crate::args::{DEFAULT_URL, Isolation, parse_duration};
use crate::error::{BenchError, explain};
use crate::history::{self, Promise, Transaction};
use crate::output::Output;
use crate::runtime::{drawn_once, now, spawn};
use crate::timeline;

use clients::{PATIENCE, Shared};

/// How far the clocks of Quorate's nodes may lie apart (`max_clock_offset`).
const QUORATE_CLOCK_OFFSET: Duration = Duration::from_millis(250);

/// Arguments of `quorate verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Server to work on, as postgres://user@host:port/database; may be given several times:
    /// clients are spread over them, and move on to the next when one fails
    #[arg(long = "url", value_name = "URL", default_value = DEFAULT_URL)]
    pub urls: Vec<String>,

    /// How long to work: seconds, or with a unit (90s, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,

    /// End earlier, once so many transactions were acknowledged
    #[arg(long, value_name = "N")]
    pub transactions: Option<u64>,

    /// Clients, each with a connection of its own
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    pub clients: u32,

    /// Isolation level of every transaction, with spaces or dashes
    /// [default: repeatable read; with --check that of the history]
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true)]
    pub level: Option<Isolation>,

    /// Seed of what clients draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Write the history to this file, as lines of JSON, instead of what it holds
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,

    /// Write the acknowledged transactions of each second to this file, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,

    /// Check a history in a file, and nothing else
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["history", "timeline", "reset", "split"]
    )]
    pub check: Option<PathBuf>,

    /// Drop the tables of an earlier run
    #[arg(long)]
    pub reset: bool,

    /// Cut the tables into several ranges, if the server is Quorate
    #[arg(long)]
    pub split: bool,

    /// How far the servers' clocks may lie apart [default: 250ms for Quorate, 0 for others]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub clock_offset: Option<Duration>,
}

/// Verifies as the arguments say.
///
/// # Errors
/// It could not be carried out; nothing is said about the servers then.
pub async fn run(args: VerifyArgs) -> Result<Verdict, BenchError> {
    match &args.check {
        Some(file) => {
            let (mut promise, transactions) = history::file::read(file)?;
            promise.level = args.level.unwrap_or(promise.level);
            if let Some(offset) = args.clock_offset {
                promise.clock_offset_ns_max = nanos(offset);
            }
            Ok(Verdict::of_history(promise, &transactions, Some(file.clone())))
        }
        None => work(args).await,
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn servers(urls: &[String]) -> Result<Vec<Config>, BenchError> {
    let parse = |url: &String| {
        url.parse::<Config>()
            .map_err(|error| BenchError::Usage(format!("bad --url: {}", explain(&error))))
    };
    urls.iter().map(parse).collect()
}

async fn work(args: VerifyArgs) -> Result<Verdict, BenchError> {
    let servers = servers(&args.urls)?;
    let level = args.level.unwrap_or(Isolation::RepeatableRead);
    // Before tables are dropped: a path that is refused costs nothing.
    let history = Output::open_if_asked(args.history.as_ref())?;
    let seconds = Output::open_if_asked(args.timeline.as_ref())?;
    // Of two runs with one seed, too, each has its own.
    let mark = format!("{}-{:016x}", args.seed, drawn_once());
    let is_quorate = schema::prepare(&servers, &args, &mark).await?;
    let offset = match (args.clock_offset, is_quorate) {
        (Some(offset), _) => offset,
        (None, true) => QUORATE_CLOCK_OFFSET,
        (None, false) => Duration::ZERO,
    };
    let promise = Promise { level, clock_offset_ns_max: nanos(offset) };
    // Whoever brings faults about counts the time from this line on.
    eprintln!("   0 s: {} clients begin", args.clients);
    let began = now();
    let shared = Arc::new(Shared::new(servers, level, &args, mark, began));
    let mut tasks: Vec<_> =
        (0..args.clients).map(|number| spawn(clients::work(shared.clone(), number))).collect();
    tasks.push(spawn(clients::audit_on(shared.clone(), args.clients)));
    clients::watch(&shared, &tasks).await;
    shared.stop();
    let mut panicked = false;
    for task in tasks {
        panicked |= task.await.is_err();
    }
    let worked = now() - began;
    let mut unwritten = Vec::new();
    if let Some(output) = seconds {
        let counts = timeline::per_second(&shared.tally().commits_us, worked);
        unwritten.extend(timeline::write(output, &counts).err());
    }
    let was_read = !shared.is_taken() && clients::read_at_the_end(&shared, PATIENCE).await;

    let transactions = shared.transactions();
    if panicked {
        // What that client did is missing: whoever saw it would seem to have seen what is not.
        if let Some(output) = history {
            history::file::write_to(output, promise, &transactions)?;
        }
        return Err(BenchError::Task("client"));
    }
    let verdict = Verdict::of_run(promise, &transactions, &shared, worked, was_read);
    let kept = keep(history, &verdict, args.seed, promise, &transactions);
    let kept = kept.unwrap_or_else(|error| {
        unwritten.push(error);
        None
    });
    Ok(verdict.with_files(kept, &unwritten))
}

/// Writes the history where that was asked for. Where something was found, or might have been, it
/// is kept, asked for or not. Says where it is.
fn keep(
    asked: Option<Output>,
    verdict: &Verdict,
    seed: u64,
    promise: Promise,
    transactions: &[Transaction],
) -> Result<Option<PathBuf>, BenchError> {
    let output = match (asked, verdict.conclusion()) {
        (Some(output), _) => output,
        (None, Conclusion::Violation | Conclusion::EndNotRead | Conclusion::TablesTaken) => {
            Output::open(&PathBuf::from(format!("quorate-verify-{seed}.jsonl")))?
        }
        (None, _) => return Ok(None),
    };
    history::file::write_to(output, promise, transactions).map(Some)
}
