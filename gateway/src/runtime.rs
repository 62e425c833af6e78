//! Where the gateway touches the runtime: tasks, timers, randomness. Everything else takes its time
//! and chance from here, so that a simulator can drive it.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: the one place of the gateway that starts tasks and timers"
)]

use std::future::Future;
use std::time::Duration;

use rand::Rng;

/// Runs a task until it ends by itself.
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Runs a task until it ends by itself, unless the runtime is gone already: for what is left when
/// a value is dropped.
pub fn spawn_if_running<F>(task: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

/// Waits on the runtime's clock.
pub async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}

/// `None` if the future takes longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// A fresh transaction id.
pub fn random_u128() -> u128 {
    rand::rng().random()
}

/// A secret for cancel requests.
pub fn random_i32() -> i32 {
    rand::rng().random()
}
