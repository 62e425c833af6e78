//! The `quorate` command: reads the command line and wires the parts together.

mod admin;
mod args;
mod clock;
mod config;
mod demo;
mod process;
mod serving;
mod start;

use std::process::ExitCode;

use clap::Parser;
use quorate_benches::verify::VerifyArgs;
use quorate_benches::{BenchError, Report};
use quorate_shard::node::OpenError;

use args::{BenchArgs, Cli, Command, Workload};
use serving::ServeError;

/// A query is many small allocations on several threads; the system's allocator took two fifths of
/// the CPU time of TPC-C.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a command that could not do what it was asked to.
const FAILED: u8 = 1;
/// Exit code of wrong settings, and of a verification that could not be carried out.
const USAGE: u8 = 2;

/// Stack of a thread that plans statements: an expression as deep as the parser lets through needs
/// more than the usual 2 MiB. What is not used costs address space only.
const STACK_BYTES: usize = 16 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log);
    match filter {
        Ok(filter) => {
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init()
        }
        Err(e) => {
            eprintln!("quorate: --log: {e}");
            return ExitCode::from(USAGE);
        }
    }
    process::raise_file_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.thread_stack_size(STACK_BYTES).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("quorate: {e}");
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(run(cli.command));
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(command: Command) -> u8 {
    let result: Result<u8, (u8, String)> = match command {
        Command::Demo(args) => demo::run(args).await.map_err(|e| (exit_code(&e), e.to_string())),
        Command::Start(args) => match config::StartConfig::settle(*args) {
            Ok(config) => {
                start::run(config).await.map(|()| 0).map_err(|e| (exit_code(&e), e.to_string()))
            }
            Err(e) => Err((USAGE, e.to_string())),
        },
        Command::Sql(options) => {
            quorate_cli::shell::run(options).await.map_err(|e| (e.exit_code(), e.to_string()))
        }
        Command::Admin(args) => {
            admin::run(args).await.map(|()| 0).map_err(|e| (FAILED, e.to_string()))
        }
        Command::Bench(args) => bench(args).await.map_err(|e| (FAILED, e.to_string())),
        Command::Verify(args) => verify(*args).await.map_err(|e| (USAGE, e.to_string())),
    };
    result.unwrap_or_else(|(code, message)| {
        eprintln!("quorate: {message}");
        code
    })
}

/// A setting may also turn out to be wrong when it is compared with the cluster's.
fn exit_code(error: &ServeError) -> u8 {
    match error {
        ServeError::Open(OpenError::OtherClockOffset { .. } | OpenError::ClockOffset(_)) => USAGE,
        _ => FAILED,
    }
}

/// Runs a verification and prints its verdict; succeeds only if it is clean.
async fn verify(args: VerifyArgs) -> Result<u8, BenchError> {
    let verdict = quorate_benches::verify::run(args).await?;
    print!("{verdict}");
    Ok(verdict.conclusion().exit_status())
}

/// Runs a workload and prints its report; fails if the data is not consistent afterwards.
async fn bench(args: BenchArgs) -> Result<u8, BenchError> {
    let report: Report = match args.workload {
        Workload::Tpcc(args) => quorate_benches::tpcc::run(*args).await?,
        Workload::Kv(args) => quorate_benches::kv::run(args).await?,
        Workload::Tpcb(args) => quorate_benches::tpcb::run(args).await?,
    };
    print!("{report}");
    Ok(if report.is_consistent() { 0 } else { FAILED })
}
