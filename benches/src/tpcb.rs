//! A driver like pgbench's default (after TPC-B): one small update of an account, its teller and
//! its branch, with a line of history. The balances must agree at the end.

use crate::args::CommonArgs;
use crate::db::{Conn, TxError, connect};
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::{CheckReport, Files, Report};
use crate::runner::{self, Ending, Kind, Workload};
use crate::runtime::{now, wall_clock};
use clap::Args;
use rand::Rng;
use rand::rngs::StdRng;
use std::fmt::Write as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

/// Tellers of a branch.
const TELLERS: i32 = 10;
/// Rows in one INSERT while loading.
const LOAD_BATCH: i32 = 200;
const KINDS: [Kind; 1] = [Kind::immediate("Transfer")];

/// Arguments of the pgbench-like driver.
#[derive(Args, Clone, Debug)]
pub struct TpcbArgs {
    /// What all drivers share
    #[command(flatten)]
    pub common: CommonArgs,

    /// Branches
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(i32).range(1..=10_000)
    )]
    pub scale: i32,

    /// Accounts of a branch; 100000 is what pgbench has
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(i32).range(1..=100_000)
    )]
    pub accounts: i32,

    /// Use the data that is there
    #[arg(long)]
    pub no_load: bool,
}

struct Tpcb {
    scale: i32,
    accounts: i32,
}

struct Statements {
    account: Statement,
    balance: Statement,
    teller: Statement,
    branch: Statement,
    history: Statement,
}

struct Input {
    account: i32,
    teller: i32,
    branch: i32,
    delta: i64,
}

impl Workload for Tpcb {
    type Statements = Statements;
    type Terminal = ();
    type Input = Input;

    fn name(&self) -> &'static str {
        "pgbench-like"
    }

    fn kinds(&self) -> &'static [Kind] {
        &KINDS
    }

    async fn prepare(&self, conn: &Conn) -> Result<Statements, BenchError> {
        const DELTA: [Type; 2] = [Type::INT8, Type::INT4];
        let update = |table: &str, letter: &str, key: &str| {
            format!("UPDATE {table} SET {letter}balance = {letter}balance + $1 WHERE {key} = $2")
        };
        Ok(Statements {
            account: conn.prepare(&update("tpcb_accounts", "a", "aid"), &DELTA).await?,
            balance: conn
                .prepare("SELECT abalance FROM tpcb_accounts WHERE aid = $1", &[Type::INT4])
                .await?,
            teller: conn.prepare(&update("tpcb_tellers", "t", "tid"), &DELTA).await?,
            branch: conn.prepare(&update("tpcb_branches", "b", "bid"), &DELTA).await?,
            history: conn
                .prepare(
                    "INSERT INTO tpcb_history (tid, bid, aid, delta, mtime) \
                     VALUES ($1, $2, $3, $4, $5)",
                    &[Type::INT4, Type::INT4, Type::INT4, Type::INT8, Type::TIMESTAMP],
                )
                .await?,
        })
    }

    fn terminal(&self, _: usize, _: &mut StdRng) {}

    fn next(&self, (): &mut (), rng: &mut StdRng) -> (usize, Input) {
        let input = Input {
            account: rng.random_range(1..=self.accounts * self.scale),
            teller: rng.random_range(1..=TELLERS * self.scale),
            branch: rng.random_range(1..=self.scale),
            delta: rng.random_range(-5000..=5000),
        };
        (0, input)
    }

    async fn execute(
        &self,
        conn: &Conn,
        sql: &Statements,
        input: &Input,
    ) -> Result<Ending, TxError> {
        let Input { account, teller, branch, delta } = input;
        conn.begin().await?;
        conn.run(&sql.account, &[delta, account]).await?;
        conn.one("account", &sql.balance, &[account]).await?;
        conn.run(&sql.teller, &[delta, teller]).await?;
        conn.run(&sql.branch, &[delta, branch]).await?;
        let time = wall_clock();
        let params: [&(dyn ToSql + Sync); 5] = [teller, branch, account, delta, &time];
        conn.run(&sql.history, &params).await?;
        conn.commit().await?;
        Ok(Ending::Committed)
    }
}

/// Loads, runs and checks as the arguments say.
pub async fn run(args: TpcbArgs) -> Result<Report, BenchError> {
    let servers = args.common.servers()?;
    let first = servers.first().ok_or_else(|| BenchError::Usage("no --url given".to_owned()))?;
    let files = Files::open(&args.common)?;
    let mut report = Report::new("pgbench-like", &args.common)?;
    report.setup.insert("branches", args.scale.to_string());
    report.setup.insert("accounts each", args.accounts.to_string());
    if !args.no_load {
        let start = now();
        load(&connect(first).await?, &args).await?;
        report.load_seconds = Some((now() - start).as_secs_f64());
    }
    let tpcb = Tpcb { scale: args.scale, accounts: args.accounts };
    let outcome = runner::run(tpcb, &args.common, false).await?;
    report.add_run(&outcome, &KINDS, &args.common, false);
    report.checks = check(&connect(first).await?).await?;
    report.write_files(files)?;
    Ok(report)
}

const TABLES: [(&str, &str); 4] = [
    ("tpcb_branches", "bid INTEGER NOT NULL PRIMARY KEY, bbalance BIGINT NOT NULL"),
    ("tpcb_tellers", "tid INTEGER NOT NULL PRIMARY KEY, bid INTEGER, tbalance BIGINT NOT NULL"),
    ("tpcb_accounts", "aid INTEGER NOT NULL PRIMARY KEY, bid INTEGER, abalance BIGINT NOT NULL"),
    ("tpcb_history", "tid INTEGER, bid INTEGER, aid INTEGER, delta BIGINT, mtime TIMESTAMP"),
];

async fn load(client: &Client, args: &TpcbArgs) -> Result<(), BenchError> {
    for (table, columns) in TABLES {
        let drop = format!("DROP TABLE IF EXISTS {table}");
        let create = format!("CREATE TABLE {table} ({columns})");
        for sql in [drop, create] {
            let done = client.batch_execute(&sql).await;
            done.map_err(|error| BenchError::statement(sql, &error))?;
        }
    }
    let total = args.scale * (1 + TELLERS + args.accounts);
    let progress = Progress::new("loading", u64::from(total.unsigned_abs()));
    fill(client, "tpcb_branches", args.scale, &progress, |id| format!("({id}, 0)")).await?;
    let child = |id: i32, each: i32| format!("({id}, {}, 0)", (id - 1) / each + 1);
    let count = args.scale * TELLERS;
    fill(client, "tpcb_tellers", count, &progress, |id| child(id, TELLERS)).await?;
    let count = args.scale * args.accounts;
    fill(client, "tpcb_accounts", count, &progress, |id| child(id, args.accounts)).await?;
    progress.finish();
    Ok(())
}

async fn fill(
    client: &Client,
    table: &str,
    count: i32,
    progress: &Progress,
    row: impl Fn(i32) -> String,
) -> Result<(), BenchError> {
    let mut first = 1;
    while first <= count {
        let last = (first + LOAD_BATCH - 1).min(count);
        let mut sql = format!("INSERT INTO {table} VALUES ");
        for id in first..=last {
            let comma = if id == first { "" } else { ", " };
            write!(sql, "{comma}{}", row(id)).expect("writing to a string succeeds");
        }
        let done = client.batch_execute(&sql).await;
        done.map_err(|error| BenchError::statement(format!("loading {table}"), &error))?;
        progress.add(u64::from((last - first + 1).unsigned_abs()));
        first = last + 1;
    }
    Ok(())
}

/// All four tables must tell the same sum.
async fn check(client: &Client) -> Result<Vec<CheckReport>, BenchError> {
    let history = sum(client, "SELECT COALESCE(sum(delta), 0) FROM tpcb_history").await?;
    let mut checks = Vec::new();
    for (table, column) in
        [("tpcb_branches", "bbalance"), ("tpcb_tellers", "tbalance"), ("tpcb_accounts", "abalance")]
    {
        let found = sum(client, &format!("SELECT sum({column}) FROM {table}")).await?;
        checks.push(CheckReport {
            clause: table.to_owned(),
            name: format!("sum({column}) = sum of the history"),
            violations: i64::from(found != history),
        });
    }
    Ok(checks)
}

async fn sum(client: &Client, sql: &str) -> Result<String, BenchError> {
    let answer = client.simple_query(sql).await;
    let messages = answer.map_err(|error| BenchError::statement(sql, &error))?;
    let found = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    found.ok_or_else(|| BenchError::Usage(format!("no sum ({sql})")))
}
