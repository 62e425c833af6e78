//! The report: for people on a terminal, for programs as JSON.

use crate::args::CommonArgs;
use crate::cpu::{self, CpuReport};
use crate::db::server_name;
use crate::error::BenchError;
use crate::output::Output;
use crate::runner::{Kind, Outcome};
use crate::stats::KindStats;
use crate::timeline::{self, Gap};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half of the transactions took no longer.
    pub p50_ms: f64,
    /// 95 % took no longer.
    pub p95_ms: f64,
    /// 99 % took no longer.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// One kind of transaction.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Its name.
    pub name: &'static str,
    /// Committed.
    pub committed: u64,
    /// Rolled back on purpose.
    pub rolled_back: u64,
    /// Attempts repeated.
    pub retries: u64,
    /// Outcome unknown.
    pub unknown: u64,
    /// Failed for good.
    pub failed: u64,
    /// Latency of those that finished, repeats and pauses included.
    pub latency: Latency,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Measured time in seconds.
    pub seconds: f64,
    /// Concurrent terminals.
    pub terminals: u32,
    /// Whether keying and think times were kept.
    pub think_time: bool,
    /// Isolation level in SQL.
    pub isolation: &'static str,
    /// Committed transactions of the primary kind in a minute.
    pub primary_per_minute: f64,
    /// The same with those rolled back on purpose.
    pub primary_finished_per_minute: f64,
    /// Finished transactions of all kinds in a second.
    pub total_per_second: f64,
    /// Statements sent for each finished transaction, BEGIN and COMMIT included.
    pub statements_per_transaction: f64,
    /// By kind; the first is the primary one.
    pub kinds: Vec<KindReport>,
    /// Attempts repeated, of all kinds.
    pub retries: u64,
    /// Unknown outcomes, of all kinds.
    pub unknown: u64,
    /// Failures for good, of all kinds.
    pub failed: u64,
    /// Errors met, by SQLSTATE, also those that were cured by repeating.
    pub errors: BTreeMap<String, u64>,
    /// An example of each.
    pub error_examples: BTreeMap<String, String>,
    /// Sessions opened again after a loss.
    pub reconnects: u64,
    /// Terminals without an answer long after the end.
    pub unfinished: u64,
    /// The longest time without a commit of the primary kind.
    pub longest_gap: Gap,
    /// CPU of the servers.
    pub server_cpu: Option<CpuReport>,
    /// Commits of the primary kind in each second.
    #[serde(skip)]
    pub timeline: Vec<u64>,
}

/// One consistency condition.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The clause of the standard, or a name.
    pub clause: String,
    /// What must hold.
    pub name: String,
    /// How many rows or groups violate it.
    pub violations: i64,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the benchmark.
    pub benchmark: &'static str,
    /// Servers without credentials.
    pub servers: Vec<String>,
    /// The server's version in its own words.
    pub server_version: String,
    /// Size of the data and further choices, in words.
    pub setup: BTreeMap<&'static str, String>,
    /// Ways in which this run is not the standard's.
    pub non_standard: Vec<String>,
    /// Seconds it took to load the data, if it was loaded.
    pub load_seconds: Option<f64>,
    /// TPC-C's figure: NewOrders committed in a minute (those rolled back do not count).
    #[serde(rename = "tpmC")]
    pub tpmc: Option<f64>,
    /// What was measured, if anything was.
    pub run: Option<RunReport>,
    /// Consistency conditions, if they were checked.
    pub checks: Vec<CheckReport>,
}

/// The files a report goes to.
pub struct Files {
    json: Option<Output>,
    timeline: Option<Output>,
}

impl Files {
    /// Opens what the arguments ask for, before anything is done.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn open(args: &CommonArgs) -> Result<Self, BenchError> {
        let json = Output::open_if_asked(args.json.as_ref())?;
        let timeline = Output::open_if_asked(args.timeline.as_ref())?;
        Ok(Self { json, timeline })
    }
}

impl Report {
    /// A report of nothing yet.
    pub fn new(benchmark: &'static str, args: &CommonArgs) -> Result<Self, BenchError> {
        Ok(Self {
            benchmark,
            servers: args.servers()?.iter().map(server_name).collect(),
            server_version: String::new(),
            setup: BTreeMap::new(),
            non_standard: Vec::new(),
            load_seconds: None,
            tpmc: None,
            run: None,
            checks: Vec::new(),
        })
    }

    /// Whether all conditions checked hold.
    pub fn is_consistent(&self) -> bool {
        self.checks.iter().all(|check| check.violations == 0)
    }

    /// Whether conditions hold and no transaction failed for good or stayed unanswered.
    pub fn is_clean(&self) -> bool {
        let run_clean = |run: &RunReport| run.failed == 0 && run.unfinished == 0;
        self.is_consistent() && self.run.as_ref().is_none_or(run_clean)
    }

    /// Takes over what a run brought.
    pub fn add_run(&mut self, outcome: &Outcome, kinds: &[Kind], args: &CommonArgs, think: bool) {
        self.server_version.clone_from(&outcome.server_version);
        self.run = Some(RunReport::new(outcome, kinds, args, think));
    }

    /// Writes the files the arguments ask for.
    pub fn write_files(&self, files: Files) -> Result<(), BenchError> {
        if let Some(json) = files.json {
            let text = serde_json::to_string_pretty(self).map_err(|error| {
                BenchError::Usage(format!("the report cannot be written as JSON: {error}"))
            })?;
            json.write(|to| writeln!(to, "{text}"))?;
        }
        if let (Some(output), Some(run)) = (files.timeline, &self.run) {
            timeline::write(output, &run.timeline)?;
        }
        Ok(())
    }
}

impl RunReport {
    fn new(outcome: &Outcome, kinds: &[Kind], args: &CommonArgs, think: bool) -> Self {
        let stats = &outcome.stats;
        let seconds = outcome.measured.as_secs_f64();
        let per_minute = |count: u64| count as f64 * 60.0 / seconds.max(f64::EPSILON);
        let finished = stats.finished();
        let primary = &stats.kinds[0];
        let sum = |count: fn(&KindStats) -> u64| stats.kinds.iter().map(count).sum();
        let commits = &stats.primary_commits_us;
        let named = kinds.iter().zip(&stats.kinds);
        Self {
            seconds,
            terminals: args.terminals,
            think_time: think,
            isolation: args.isolation.sql(),
            primary_per_minute: per_minute(primary.committed),
            primary_finished_per_minute: per_minute(primary.committed + primary.rolled_back),
            total_per_second: finished as f64 / seconds.max(f64::EPSILON),
            statements_per_transaction: stats.statements as f64 / finished.max(1) as f64,
            kinds: named.map(|(kind, stats)| KindReport::new(kind.name, stats)).collect(),
            retries: sum(|kind| kind.retries),
            unknown: sum(|kind| kind.unknown),
            failed: sum(|kind| kind.failed),
            errors: stats.errors.clone(),
            error_examples: stats.error_examples.clone(),
            reconnects: stats.reconnects,
            unfinished: outcome.unfinished,
            longest_gap: timeline::longest_gap(commits, outcome.measured),
            server_cpu: cpu::difference(&outcome.cpu.0, &outcome.cpu.1, finished),
            timeline: timeline::per_second(commits, outcome.measured),
        }
    }
}

impl KindReport {
    fn new(name: &'static str, stats: &KindStats) -> Self {
        let at = |quantile: f64| stats.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        let latency = if stats.latency_us.is_empty() {
            Latency::default()
        } else {
            Latency {
                p50_ms: at(0.5),
                p95_ms: at(0.95),
                p99_ms: at(0.99),
                max_ms: stats.latency_us.max() as f64 / 1000.0,
            }
        };
        Self {
            name,
            committed: stats.committed,
            rolled_back: stats.rolled_back,
            retries: stats.retries,
            unknown: stats.unknown,
            failed: stats.failed,
            latency,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.benchmark, self.servers.join(", "))?;
        if !self.server_version.is_empty() {
            writeln!(f, "server version      {}", self.server_version)?;
        }
        for (name, value) in &self.setup {
            writeln!(f, "{name:<19} {value}")?;
        }
        for deviation in &self.non_standard {
            writeln!(f, "NOT STANDARD        {deviation}")?;
        }
        if let Some(seconds) = self.load_seconds {
            writeln!(f, "loaded in           {seconds:.1} s")?;
        }
        if let Some(tpmc) = self.tpmc {
            writeln!(f, "tpmC                {tpmc:.1}")?;
        }
        if let Some(run) = &self.run {
            write!(f, "{run}")?;
        }
        if !self.checks.is_empty() {
            writeln!(f, "\nconsistency")?;
        }
        for check in &self.checks {
            let verdict = match check.violations {
                0 => "holds".to_owned(),
                count => format!("VIOLATED {count} times"),
            };
            writeln!(f, "  {:<13} {:<66} {verdict}", check.clause, check.name)?;
        }
        Ok(())
    }
}

impl RunReport {
    /// One line for each kind of transaction.
    fn write_kinds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12} {:>9} {:>6} {:>8} {:>7} {:>6} {:>9} {:>9} {:>9} {:>9}",
            "",
            "committed",
            "rolled",
            "retries",
            "unknown",
            "failed",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "max ms"
        )?;
        for kind in &self.kinds {
            let Latency { p50_ms, p95_ms, p99_ms, max_ms } = kind.latency;
            writeln!(
                f,
                "{:<12} {:>9} {:>6} {:>8} {:>7} {:>6} {p50_ms:>9.2} {p95_ms:>9.2} \
                 {p99_ms:>9.2} {max_ms:>9.2}",
                kind.name,
                kind.committed,
                kind.rolled_back,
                kind.retries,
                kind.unknown,
                kind.failed
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let think = if self.think_time { ", with think times" } else { "" };
        let (seconds, terminals) = (self.seconds, self.terminals);
        writeln!(f, "measured            {seconds:.0} s, {terminals} terminals{think}")?;
        writeln!(f, "isolation           {}", self.isolation)?;
        let primary = self.kinds.first().map_or("", |kind| kind.name);
        let (committed, finished) = (self.primary_per_minute, self.primary_finished_per_minute);
        let label = format!("{primary}/min");
        writeln!(f, "{label:<19} {committed:.1} committed, {finished:.1} with rollbacks")?;
        writeln!(f, "transactions/s      {:.1}", self.total_per_second)?;
        writeln!(f, "statements each     {:.1}", self.statements_per_transaction)?;
        self.write_kinds(f)?;
        let Gap { start_s, seconds } = self.longest_gap;
        writeln!(f, "\nlongest time without a {primary}: {seconds:.3} s, at {start_s:.1} s")?;
        writeln!(
            f,
            "retries {}, unknown outcomes {}, failed {}, reconnects {}, unanswered at the end {}",
            self.retries, self.unknown, self.failed, self.reconnects, self.unfinished
        )?;
        for (name, count) in &self.errors {
            let example = self.error_examples.get(name).map_or("", String::as_str);
            writeln!(f, "  {count} × {name}: {example}")?;
        }
        if let Some(cpu) = &self.server_cpu {
            let (seconds, each) = (cpu.seconds, cpu.ms_per_transaction);
            writeln!(f, "server CPU          {seconds:.2} s, {each:.3} ms per transaction")?;
            for pid in &cpu.unreadable_pids {
                writeln!(f, "  process {pid} could not be read throughout and is not included")?;
            }
        }
        Ok(())
    }
}
