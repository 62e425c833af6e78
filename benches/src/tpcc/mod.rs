//! TPC-C (revision 5.11) over any Postgres address: loads the nine tables, runs the five
//! transactions in the standard's mix, checks the consistency conditions.
//!
//! # The life of a run
//! 1. [`load`](load()) creates the tables, splits them if asked to, fills them.
//! 2. [`workload::Tpcc`] is run by [`crate::runner`].
//! 3. [`check`](check()) counts violations of the conditions of clause 3.3.2.

mod check;
mod load;
mod random;
mod schema;
mod split;
#[cfg(test)]
mod tests;
pub mod txn;
pub mod workload;

pub use check::{Condition, Moment, check, conditions, violations};
pub use load::{LoadWith, load};
pub use random::NuRand;

use crate::args::CommonArgs;
use crate::db::{connect, server_version};
use crate::error::BenchError;
use crate::report::{Files, Report};
use crate::runner;
use crate::runtime::now;
use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use schema::{CUSTOMERS, ITEMS};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The size of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Warehouses.
    pub warehouses: i32,
    /// Items; 100,000 in the standard.
    pub items: i32,
    /// Customers of a district, and orders it begins with; 3,000 in the standard.
    pub customers: i32,
}

/// Arguments of the TPC-C driver.
#[derive(Args, Clone, Debug)]
pub struct TpccArgs {
    /// What all drivers share
    #[command(flatten)]
    pub common: CommonArgs,

    /// Warehouses to load and use (default: 1, or those found with --no-load)
    #[arg(short, long, value_name = "W", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub warehouses: Option<i32>,

    /// Keep the standard's keying and think times
    #[arg(long)]
    pub think_time: bool,

    /// Use the data that is there
    #[arg(long, conflicts_with_all = ["load_only", "drop"])]
    pub no_load: bool,

    /// Load, check, and stop
    #[arg(long, conflicts_with = "check_only")]
    pub load_only: bool,

    /// Check the consistency conditions of the data that is there, and stop
    #[arg(long, conflicts_with_all = ["no_check", "drop", "split"])]
    pub check_only: bool,

    /// Do not check the consistency conditions
    #[arg(long)]
    pub no_check: bool,

    /// Drop tables of a former run before loading
    #[arg(long)]
    pub drop: bool,

    /// Cut tables and indexes into ranges by warehouse (Quorate only)
    #[arg(long)]
    pub split: bool,

    /// Connections that load in parallel
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub load_connections: u32,

    /// Rows in one INSERT while loading
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub load_batch: u32,

    /// How rows are written into the INSERTs while loading
    #[arg(long, value_enum, default_value_t = LoadWith::Parameters)]
    pub load_with: LoadWith,

    /// For tests: load another number of items than the standard's 100000
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        value_parser = clap::value_parser!(i32).range(1..=100_000)
    )]
    pub items: Option<i32>,

    /// For tests: load another number of customers in a district than the standard's 3000
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        value_parser = clap::value_parser!(i32).range(10..=3_000)
    )]
    pub customers_per_district: Option<i32>,
}

/// Loads, runs and checks as the arguments say.
pub async fn run(args: TpccArgs) -> Result<Report, BenchError> {
    let servers = args.common.servers()?;
    let first = servers.first().ok_or_else(|| BenchError::Usage("no --url given".to_owned()))?;
    let files = Files::open(&args.common)?;
    let mut report = Report::new("TPC-C", &args.common)?;
    let client = connect(first).await?;
    report.server_version = server_version(&client).await;
    let loads = !args.no_load && !args.check_only;
    let scale = if loads {
        let scale = Scale {
            warehouses: args.warehouses.unwrap_or(1),
            items: args.items.unwrap_or(ITEMS),
            customers: args.customers_per_district.unwrap_or(CUSTOMERS),
        };
        let start = now();
        load(&args, &servers, scale).await?;
        report.load_seconds = Some((now() - start).as_secs_f64());
        scale
    } else {
        let scale = find_scale(&client, args.warehouses).await?;
        if args.split {
            split::split(&client, &scale).await?;
        }
        scale
    };
    describe(&mut report, &args, &scale);
    let measures = !args.load_only && !args.check_only;
    if measures {
        let nurand = NuRand::for_run(&mut StdRng::seed_from_u64(args.common.seed));
        let tpcc = workload::Tpcc { scale, nurand };
        let outcome = runner::run(tpcc, &args.common, args.think_time).await?;
        report.add_run(&outcome, &workload::KINDS, &args.common, args.think_time);
        report.tpmc = report.run.as_ref().map(|run| run.primary_per_minute);
    }
    if !args.no_check {
        let moment = if loads && !measures { Moment::Fresh } else { Moment::Used };
        // The servers may have changed places meanwhile: check on the first that answers.
        let client = connect_any(&servers).await?;
        report.checks = check(&client, &scale, moment).await?;
    }
    report.write_files(files)?;
    Ok(report)
}

async fn connect_any(servers: &[tokio_postgres::Config]) -> Result<Client, BenchError> {
    let mut failure = BenchError::Usage("no --url given".to_owned());
    for server in servers {
        match connect(server).await {
            Ok(client) => return Ok(client),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn describe(report: &mut Report, args: &TpccArgs, scale: &Scale) {
    report.setup.insert("warehouses", scale.warehouses.to_string());
    report.setup.insert("seed", args.common.seed.to_string());
    let cut = if args.split { "split by warehouse and table in this run" } else { "as found" };
    report.setup.insert("ranges", cut.to_owned());
    if scale.items != ITEMS {
        report.non_standard.push(format!("{} items instead of {ITEMS}", scale.items));
    }
    if scale.customers != CUSTOMERS {
        let customers = scale.customers;
        report
            .non_standard
            .push(format!("{customers} customers per district instead of {CUSTOMERS}"));
    }
    if !args.think_time {
        report.non_standard.push("no keying and think times".to_owned());
    }
}

/// Finds the size of the data that is there.
async fn find_scale(client: &Client, wanted: Option<i32>) -> Result<Scale, BenchError> {
    let warehouses = number(client, "SELECT max(w_id) FROM warehouse").await?;
    let items = number(client, "SELECT max(i_id) FROM item").await?;
    // Loaded customers never change.
    let customers =
        number(client, "SELECT max(c_id) FROM customer WHERE c_w_id = 1 AND c_d_id = 1").await?;
    if wanted.is_some_and(|wanted| wanted > warehouses) {
        let message = format!("{warehouses} warehouses are loaded, not {}", wanted.unwrap_or(0));
        return Err(BenchError::Usage(message));
    }
    // All of them are home to terminals, or remote ones would have none to check.
    Ok(Scale { warehouses: wanted.unwrap_or(warehouses), items, customers })
}

async fn number(client: &Client, sql: &str) -> Result<i32, BenchError> {
    let answer = client.simple_query(sql).await;
    let messages = answer.map_err(|error| BenchError::statement(sql, &error))?;
    let found = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    found.ok_or_else(|| BenchError::Usage(format!("no TPC-C data found ({sql})")))
}
