//! The arguments all drivers share.

use crate::error::BenchError;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The address a benchmark uses when none is given: Quorate's default.
pub const DEFAULT_URL: &str = "postgres://quorate@127.0.0.1:26257/quorate";

/// Arguments of every driver: where, how long, how many, what to write down.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Server to load, as postgres://user@host:port/database; may be given several times:
    /// terminals are spread over them, and move on to the next when a connection is lost
    #[arg(long = "url", value_name = "URL", default_value = DEFAULT_URL)]
    pub urls: Vec<String>,

    /// Concurrent terminals, each with a connection of its own
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub terminals: u32,

    /// How long to measure: seconds, or with a unit (90s, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,

    /// How long to run before measuring begins
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub warmup: Duration,

    /// Isolation level of every transaction, with spaces or dashes
    #[arg(
        long,
        value_name = "LEVEL",
        value_enum,
        ignore_case = true,
        default_value_t = Isolation::RepeatableRead
    )]
    pub isolation: Isolation,

    /// Attempts to repeat a transaction that failed with 40001 or 40P01 before it counts as failed
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub retries: u32,

    /// Seed of all random choices of data and transactions
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the committed transactions of each second to this file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,

    /// Process whose CPU time (children included) is reported; may be given several times
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,
}

/// Isolation level of the benchmark's transactions; on command lines also as SQL has it. READ
/// UNCOMMITTED is READ COMMITTED, as it is to PostgreSQL and Quorate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// READ COMMITTED
    #[value(aliases = ["read committed", "read uncommitted", "read-uncommitted"])]
    ReadCommitted,
    /// REPEATABLE READ (snapshot isolation)
    #[value(alias = "repeatable read")]
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

impl Isolation {
    /// The level in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }

    /// The statement that begins a transaction of this level.
    pub fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Self::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Self::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

impl CommonArgs {
    /// The parsed addresses, in the order given.
    pub fn servers(&self) -> Result<Vec<tokio_postgres::Config>, BenchError> {
        let parse = |url: &String| {
            url.parse::<tokio_postgres::Config>().map_err(|error| {
                BenchError::Usage(format!("bad --url: {}", crate::error::explain(&error)))
            })
        };
        self.urls.iter().map(parse).collect()
    }
}

/// Reads `90`, `90s`, `500ms`, `5m` or `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("not a time: {text:?}"))?;
    let factor = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("not a time: {text:?}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CommonArgs,
    }

    fn isolation(level: &str) -> Result<Isolation, String> {
        let cli = Cli::try_parse_from(["bench", "--isolation", level]);
        cli.map(|cli| cli.args.isolation).map_err(|error| error.to_string())
    }

    #[test]
    fn levels_are_read_as_sql_has_them_and_with_dashes() {
        for (text, level) in [
            ("repeatable read", Isolation::RepeatableRead),
            ("repeatable-read", Isolation::RepeatableRead),
            ("SERIALIZABLE", Isolation::Serializable),
            ("Read Committed", Isolation::ReadCommitted),
            ("read-committed", Isolation::ReadCommitted),
            ("read uncommitted", Isolation::ReadCommitted),
            ("READ-UNCOMMITTED", Isolation::ReadCommitted),
        ] {
            assert_eq!(isolation(text), Ok(level));
            assert_eq!(isolation(level.sql()), Ok(level));
        }
        let refused = isolation("chaos").expect_err("there is no such level");
        for level in ["read-committed", "repeatable-read", "serializable"] {
            assert!(refused.contains(level), "{refused}");
        }
    }

    #[test]
    fn the_level_is_repeatable_read_where_none_is_asked_for() {
        let cli = Cli::try_parse_from(["bench"]).expect("parses");
        assert_eq!(cli.args.isolation, Isolation::RepeatableRead);
    }

    #[test]
    fn durations_with_and_without_units() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        for bad in ["", "m", "-3s", "5 weeks", "5w", "infs"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
