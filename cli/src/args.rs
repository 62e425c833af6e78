//! The command line. Every setting of a node can also be given in a TOML file and in an
//! environment variable; a flag wins over the variable, the variable over the file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use quorate_benches::args::parse_duration;

/// A sharded SQL database that speaks the Postgres protocol.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log to standard error, for instance `info` or `quorate_shard=debug`
    #[arg(long, global = true, env = "QUORATE_LOG", default_value = "warn")]
    pub log: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, with the SQL shell
    Demo(DemoArgs),
    /// Run one node of a cluster
    Start(Box<StartArgs>),
    /// Open the SQL shell, or run statements from -c, -f or a pipe
    Sql(quorate_cli::shell::ShellOptions),
    /// Look at a cluster and change it
    Admin(AdminArgs),
    /// Measure: TPC-C and smaller workloads against any Postgres URL
    Bench(BenchArgs),
    /// Check what isolation levels promise, against any Postgres URL, while servers fail or do not
    Verify(Box<quorate_benches::verify::VerifyArgs>),
}

/// `quorate demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Nodes in the process
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub nodes: u32,
    /// Keep the data here [default: a temporary folder, removed at the end]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Port of the first node's SQL on 127.0.0.1; the others choose theirs. 0: chosen by the system
    #[arg(long, default_value_t = 0)]
    pub sql_port: u16,
    /// How far the nodes' clocks may be apart, from 1ms to 500ms; fixed when the cluster is begun
    /// [default: 250ms, or what the cluster has]
    #[arg(long, env = "QUORATE_MAX_CLOCK_OFFSET", value_name = "TIME",
          value_parser = parse_duration)]
    pub max_clock_offset: Option<Duration>,
    /// Serve without the shell until SIGTERM or Ctrl-C
    #[arg(long)]
    pub no_shell: bool,
}

/// `quorate start`
#[derive(Debug, Args, Default)]
pub struct StartArgs {
    /// TOML file with the settings below, named as the flags with `_` for `-`
    #[arg(long, env = "QUORATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of the node's data; made if it is not there
    #[arg(long, env = "QUORATE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to serve SQL, host:port (port 0: chosen by the system) [default: 127.0.0.1:26257]
    #[arg(long, env = "QUORATE_SQL_ADDR")]
    pub sql_addr: Option<String>,
    /// Where to serve the other nodes, host:port [default: 127.0.0.1:26258]
    #[arg(long, env = "QUORATE_RPC_ADDR")]
    pub rpc_addr: Option<String>,
    /// Where to serve health and metrics over HTTP, host:port [default: not served]
    #[arg(long, env = "QUORATE_HTTP_ADDR")]
    pub http_addr: Option<String>,
    /// What clients shall use for sql-addr [default: the address it is served on]
    #[arg(long, env = "QUORATE_ADVERTISE_SQL_ADDR")]
    pub advertise_sql_addr: Option<String>,
    /// What other nodes shall use for rpc-addr [default: the address it is served on]
    #[arg(long, env = "QUORATE_ADVERTISE_RPC_ADDR")]
    pub advertise_rpc_addr: Option<String>,
    /// Make a new cluster of which this is the first node
    #[arg(long, conflicts_with = "join")]
    pub bootstrap: bool,
    /// Join the cluster of these nodes: their rpc addresses, separated by commas
    #[arg(long, env = "QUORATE_JOIN", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Replicas of each range [default: 3]
    #[arg(long, env = "QUORATE_REPLICAS")]
    pub replicas: Option<u32>,
    /// Bytes of disk kept free for the log, flushes and deletes [default: the larger of 1 GiB and
    /// 5 % of the disk]
    #[arg(long, env = "QUORATE_DISK_RESERVE")]
    pub disk_reserve: Option<u64>,
    /// Bytes of memory for cached blocks of data [default: a sixteenth of the machine's memory,
    /// from 64 MiB to 4 GiB]
    #[arg(long, env = "QUORATE_CACHE_BYTES")]
    pub cache_bytes: Option<u64>,
    /// Bytes of memory that all statements together may use for joins, sorts and groups; beyond it
    /// a statement fails with 53200 [default: a quarter of the machine's memory, at least 256 MiB]
    #[arg(long, env = "QUORATE_SQL_MEMORY_BYTES")]
    pub sql_memory_bytes: Option<u64>,
    /// Seconds for which old versions stay readable [default: 600]
    #[arg(long, env = "QUORATE_GC_WINDOW_S")]
    pub gc_window_s: Option<u64>,
    /// Bytes at which a range is split [default: 268435456, that is 256 MiB]
    #[arg(long, env = "QUORATE_RANGE_BYTES_MAX")]
    pub range_bytes_max: Option<u64>,
    /// How far the clocks of the cluster's nodes may be apart, from 1ms to 500ms; fixed when the
    /// cluster is begun, so a node that is started with another is refused [default: 250ms, or
    /// what the cluster has]
    #[arg(long, env = "QUORATE_MAX_CLOCK_OFFSET", value_name = "TIME",
          value_parser = parse_duration)]
    pub max_clock_offset: Option<Duration>,
}

/// `quorate admin`
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// RPC address of any node of the cluster
    #[arg(long, env = "QUORATE_RPC_ADDR", default_value = "127.0.0.1:26258", global = true)]
    pub rpc_addr: String,
    /// What to do
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// The admin commands.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Nodes, ranges, leaders, replicas, bytes
    Status {
        /// Also list every range
        #[arg(long)]
        ranges: bool,
        /// Also list every metric of each node
        #[arg(long)]
        metrics: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `quorate bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The workload
    #[command(subcommand)]
    pub workload: Workload,
}

/// The workloads.
#[derive(Debug, Subcommand)]
pub enum Workload {
    /// TPC-C with its consistency conditions
    Tpcc(Box<quorate_benches::tpcc::TpccArgs>),
    /// Reads and updates by key
    Kv(quorate_benches::kv::KvArgs),
    /// One row of a few, updated by everybody (like pgbench's TPC-B)
    Tpcb(quorate_benches::tpcb::TpcbArgs),
}
