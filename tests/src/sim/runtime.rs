//! Where the simulation starts tasks and waits: one runtime on one thread, in simulated time.

#![expect(clippy::disallowed_methods, reason = "runtime module: it owns the simulation's tasks")]

use std::future::Future;
use std::time::Duration;

/// Runs the simulation's root task on this thread.
///
/// # Errors
/// The runtime could not be made.
pub fn run<T>(root: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(root);
    // The process ends with it; dropping what is left would only run code that nobody looks at.
    std::mem::forget(runtime);
    Ok(result)
}

/// Runs a task until it ends or is aborted.
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Waits in simulated time.
pub async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}

/// `None` if the future takes longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// `None` if the first ends before the second.
pub async fn unless<F: Future>(end: impl Future, future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        _ = end => None,
        result = future => Some(result),
    }
}
