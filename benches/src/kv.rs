//! The key-value driver: point reads and updates by primary key, one statement each.

use crate::args::{CommonArgs, Isolation};
use crate::db::{Conn, TxError, connect};
use crate::error::BenchError;
use crate::progress::Progress;
use crate::report::{Files, Report};
use crate::runner::{self, Ending, Kind, Workload};
use crate::runtime::now;
use clap::Args;
use rand::Rng;
use rand::rngs::StdRng;
use std::fmt::Write as _;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

/// Rows in one INSERT while loading.
const LOAD_BATCH: i64 = 100;

/// Arguments of the key-value driver.
#[derive(Args, Clone, Debug)]
pub struct KvArgs {
    /// What all drivers share
    #[command(flatten)]
    pub common: CommonArgs,

    /// Number of keys
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub keys: i64,

    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub value_bytes: usize,

    /// Share of reads, in percent; the rest are updates
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 95,
        value_parser = clap::value_parser!(u32).range(0..=100)
    )]
    pub read_percent: u32,

    /// Use the data that is there
    #[arg(long)]
    pub no_load: bool,
}

const KINDS: [Kind; 2] = [Kind::immediate("Read"), Kind::immediate("Update")];
/// With updates only, they are the primary kind.
const KINDS_UPDATE: [Kind; 1] = [Kind::immediate("Update")];

struct Kv {
    keys: i64,
    value_bytes: usize,
    read_percent: u32,
    isolation: Isolation,
}

struct Statements {
    read: Statement,
    update: Statement,
}

enum Input {
    Read(i64),
    Update(i64, String),
}

fn value(rng: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| rng.random_range(b'a'..=b'z') as char).collect()
}

impl Workload for Kv {
    type Statements = Statements;
    type Terminal = ();
    type Input = Input;

    fn name(&self) -> &'static str {
        "key-value"
    }

    fn kinds(&self) -> &'static [Kind] {
        if self.read_percent == 0 { &KINDS_UPDATE } else { &KINDS }
    }

    async fn prepare(&self, conn: &Conn) -> Result<Statements, BenchError> {
        conn.set_default_isolation(self.isolation).await?;
        Ok(Statements {
            read: conn.prepare("SELECT v FROM kv WHERE k = $1", &[Type::INT8]).await?,
            update: conn
                .prepare("UPDATE kv SET v = $1 WHERE k = $2", &[Type::TEXT, Type::INT8])
                .await?,
        })
    }

    fn terminal(&self, _: usize, _: &mut StdRng) {}

    fn next(&self, (): &mut (), rng: &mut StdRng) -> (usize, Input) {
        let key = rng.random_range(1..=self.keys);
        if rng.random_range(0..100) < self.read_percent {
            (0, Input::Read(key))
        } else {
            (self.kinds().len() - 1, Input::Update(key, value(rng, self.value_bytes)))
        }
    }

    async fn execute(
        &self,
        conn: &Conn,
        statements: &Statements,
        input: &Input,
    ) -> Result<Ending, TxError> {
        match input {
            Input::Read(key) => {
                conn.one("key", &statements.read, &[key]).await?;
            }
            Input::Update(key, value) => {
                if conn.run_alone(&statements.update, &[value, key]).await? != 1 {
                    return Err(TxError::Missing(format!("key {key}")));
                }
            }
        }
        Ok(Ending::Committed)
    }
}

/// Loads and runs as the arguments say.
pub async fn run(args: KvArgs) -> Result<Report, BenchError> {
    let servers = args.common.servers()?;
    let files = Files::open(&args.common)?;
    let mut report = Report::new("key-value", &args.common)?;
    report.setup.insert("keys", args.keys.to_string());
    report.setup.insert("value bytes", args.value_bytes.to_string());
    report.setup.insert("reads", format!("{} %", args.read_percent));
    if !args.no_load
        && let Some(server) = servers.first()
    {
        let start = now();
        load(&connect(server).await?, &args).await?;
        report.load_seconds = Some((now() - start).as_secs_f64());
    }
    let kv = Kv {
        keys: args.keys,
        value_bytes: args.value_bytes,
        read_percent: args.read_percent,
        isolation: args.common.isolation,
    };
    let kinds = kv.kinds();
    let outcome = runner::run(kv, &args.common, false).await?;
    report.add_run(&outcome, kinds, &args.common, false);
    report.write_files(files)?;
    Ok(report)
}

async fn load(client: &Client, args: &KvArgs) -> Result<(), BenchError> {
    use rand::SeedableRng;
    let mut rng = StdRng::seed_from_u64(args.common.seed);
    let create =
        "DROP TABLE IF EXISTS kv; CREATE TABLE kv (k BIGINT NOT NULL PRIMARY KEY, v TEXT NOT NULL)";
    for sql in create.split("; ") {
        let done = client.batch_execute(sql).await;
        done.map_err(|error| BenchError::statement(sql, &error))?;
    }
    let progress = Progress::new("loading", args.keys.unsigned_abs());
    let mut first = 1;
    while first <= args.keys {
        let last = (first + LOAD_BATCH - 1).min(args.keys);
        let mut sql = "INSERT INTO kv (k, v) VALUES ".to_owned();
        for key in first..=last {
            let comma = if key == first { "" } else { ", " };
            write!(sql, "{comma}({key}, '{}')", value(&mut rng, args.value_bytes))
                .expect("writing to a string succeeds");
        }
        let done = client.batch_execute(&sql).await;
        done.map_err(|error| BenchError::statement("loading kv", &error))?;
        progress.add((last - first + 1).unsigned_abs());
        first = last + 1;
    }
    progress.finish();
    Ok(())
}
