//! What a process needs around its nodes: signals, runtime, limits, scan programs.

#![expect(clippy::disallowed_methods, reason = "runtime module: it owns the process's tasks")]

use std::future::Future;

use bytes::Bytes;
use quorate_planner::program::{ProgramEngine, ProgramRun};
use quorate_shard::range::{ScanEngine, ScanRun};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Plugs the planner's scan programs into the shards.
#[derive(Debug, Default)]
pub struct Programs(ProgramEngine);

struct Run(ProgramRun);

impl ScanEngine for Programs {
    fn start(&self, program: &[u8]) -> Result<Box<dyn ScanRun>, String> {
        Ok(Box::new(Run(self.0.start(program).map_err(|e| e.to_string())?)))
    }
}

impl ScanRun for Run {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        self.0.row(key, value).map_err(|e| e.to_string())
    }

    fn output(&mut self) -> Result<Bytes, String> {
        self.0.output().map_err(|e| e.to_string())
    }
}

/// Runs a task beside.
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Ready at the first SIGTERM or SIGINT.
pub async fn told_to_stop() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// As many open files as the system lets us have: every session and every SST file is one.
#[expect(unsafe_code, reason = "resource limits have no safe interface in a crate we use")]
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live rlimit and touch nothing else.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
