//! `quorate start`: one node.

use std::sync::Arc;

use quorate_shard::disk::Reserve;
use quorate_shard::engine::BlockCache;
use quorate_shard::node::config::NodeConfig;
use quorate_shard::node::{Start, Storage};

use crate::clock;
use crate::config::StartConfig;
use crate::process::{Programs, told_to_stop};
use crate::serving::{Listeners, ServeError, Serving, listen};

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServeError`], also if the node stops by itself.
pub async fn run(config: StartConfig) -> Result<(), ServeError> {
    let sql = listen("SQL", &config.sql_addr).await?;
    let rpc = listen("RPC", &config.rpc_addr).await?;
    let http = match &config.http_addr {
        Some(addr) => Some(listen("HTTP", addr).await?),
        None => None,
    };
    let sql_addr = sql.local_addr()?.to_string();
    let rpc_addr = rpc.local_addr()?.to_string();
    let http_addr = http.as_ref().map(|l| l.local_addr()).transpose()?.map(|a| a.to_string());
    let start = if config.bootstrap {
        Start::Bootstrap
    } else if config.join.is_empty() {
        Start::Restart
    } else {
        Start::Join(config.join.clone())
    };
    let advertised = config.advertise_rpc_addr.clone().unwrap_or_else(|| rpc_addr.clone());
    let mut node = NodeConfig::new(
        Storage::Folder(config.data_dir.clone()),
        start,
        advertised,
        clock::of_this_process(),
        Arc::new(Programs::default()),
    );
    node.sql_addr = config.advertise_sql_addr.clone().unwrap_or_else(|| sql_addr.clone());
    node.http_addr = http_addr.clone().unwrap_or_default();
    node.replication_factor = config.replicas;
    quorate_planner::plan::limit_memory(config.sql_memory_bytes);
    node.cache = Some(BlockCache::new(config.cache_bytes));
    node.gc_window = config.gc_window;
    node.range_bytes_max = config.range_bytes_max;
    node.max_clock_offset = config.max_clock_offset;
    if let Some(bytes) = config.disk_reserve {
        node.reserve = Reserve::Bytes(bytes);
    }
    let mut serving = Serving::start(node, Listeners { sql, rpc: Some(rpc), http }).await?;
    println!("node: {}", serving.node.id().0);
    println!("sql: {}", serving.url());
    println!("rpc: {rpc_addr}");
    if let Some(addr) = http_addr {
        println!("http: http://{addr}/");
    }
    let node = serving.node.clone();
    let failed = tokio::select! {
        stopped = told_to_stop() => { stopped?; None }
        why = node.failed() => Some(why),
    };
    serving.end_sessions().await;
    serving.shut_down().await;
    match failed {
        Some(why) => Err(ServeError::Failed(why)),
        None => Ok(()),
    }
}
