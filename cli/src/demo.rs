//! `quorate demo`: a whole cluster in this process, with the shell.

use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use quorate_cli::shell::{self, ShellOptions};
use quorate_shard::disk::Reserve;
use quorate_shard::engine::BlockCache;
use quorate_shard::node::config::NodeConfig;
use quorate_shard::node::{LocalNetwork, Network, OpenError, Start, Storage};
use quorate_txn::clock::PhysicalClock;
use quorate_txn::config::check_max_clock_offset;

use crate::args::DemoArgs;
use crate::clock;
use crate::process::{Programs, told_to_stop};
use crate::serving::{Listeners, ServeError, Serving, listen};

/// Block cache of all nodes together.
const CACHE_BYTES: usize = 64 << 20;
/// Kept free by each node.
const BALLAST_BYTES: u64 = 16 << 20;

/// Serves with the shell, or until SIGTERM or SIGINT; the exit code.
///
/// # Errors
/// [`ServeError`]
pub async fn run(args: DemoArgs) -> Result<u8, ServeError> {
    if let Some(offset) = args.max_clock_offset {
        check_max_clock_offset(offset).map_err(OpenError::ClockOffset)?;
    }
    let clock = clock::of_this_process();
    let (folder, _removed_at_the_end) = match &args.data_dir {
        Some(folder) => (folder.clone(), None),
        None => {
            let temporary = tempfile::Builder::new().prefix("quorate-demo-").tempdir()?;
            (temporary.path().to_path_buf(), Some(temporary))
        }
    };
    quorate_planner::plan::limit_memory(crate::config::sql_memory_bytes(None));
    let network = LocalNetwork::new();
    let cache = BlockCache::new(CACHE_BYTES);
    let mut nodes = Vec::new();
    for number in 1..=args.nodes {
        let port = if number == 1 { args.sql_port } else { 0 };
        let sql = listen("SQL", &format!("127.0.0.1:{port}")).await?;
        let mut config = node_config(&folder, number, &network, clock.clone())?;
        config.max_clock_offset = args.max_clock_offset;
        config.cache = Some(cache.clone());
        config.sql_addr = sql.local_addr()?.to_string();
        config.replication_factor = if args.nodes >= 3 { 3 } else { 1 };
        nodes.push(Serving::start(config, Listeners { sql, rpc: None, http: None }).await?);
    }
    let code = serve(&args, &folder, &nodes).await;
    // All at the same time: transactions need a majority to end.
    join_all(nodes.iter_mut().map(Serving::end_sessions)).await;
    for node in nodes {
        node.shut_down().await;
    }
    code
}

fn node_config(
    folder: &Path,
    number: u32,
    network: &Arc<LocalNetwork>,
    clock: Arc<dyn PhysicalClock>,
) -> Result<NodeConfig, ServeError> {
    let own = folder.join(format!("node{number}"));
    std::fs::create_dir_all(&own)?;
    // Only an empty folder is asked what to begin.
    let start = if number == 1 { Start::Bootstrap } else { Start::Join(Vec::new()) };
    let mut config = NodeConfig::new(
        Storage::Folder(own.clone()),
        start,
        format!("in-process:{number}"),
        clock,
        Arc::new(Programs::default()),
    );
    config.network = Network::InProcess(network.clone());
    config.reserve = Reserve::Ballast { path: own.join("ballast"), bytes: BALLAST_BYTES };
    config.workers = 1;
    Ok(config)
}

async fn serve(args: &DemoArgs, folder: &Path, nodes: &[Serving]) -> Result<u8, ServeError> {
    let first = &nodes[0];
    println!("Quorate {}: {} nodes in this process", env!("CARGO_PKG_VERSION"), nodes.len());
    match &args.data_dir {
        Some(_) => println!("data: {}", folder.display()),
        None => println!("data: {} (removed at the end)", folder.display()),
    }
    for (number, node) in nodes.iter().enumerate().skip(1) {
        println!("node {}: {}", number + 1, node.url());
    }
    println!("{}", first.url());
    let failed = async {
        let all = nodes.iter().map(|n| Box::pin(n.node.failed()));
        futures::future::select_all(all).await.0
    };
    if args.no_shell {
        return tokio::select! {
            stopped = told_to_stop() => { stopped?; Ok(0) }
            why = failed => Err(ServeError::Failed(why)),
        };
    }
    let options = ShellOptions { url: first.url(), ..ShellOptions::default() };
    match shell::run(options).await {
        Ok(code) => Ok(code),
        Err(e) => {
            eprintln!("{e}");
            Ok(e.exit_code())
        }
    }
}
