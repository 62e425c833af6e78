//! Where a node starts tasks: its house-keeping, and work that blocks.

#![expect(
    clippy::disallowed_methods,
    reason = "runtime module: it owns the node's tasks, which shutdown ends"
)]

use std::future::Future;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A task that lives until it is aborted.
pub(super) fn spawn(
    task: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(task)
}

/// Runs what blocks beside the runtime's threads, or at once where everything runs as tasks (a
/// simulation: no thread may race with its clock); `None` if it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    at_once: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if at_once {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// Seeds from the system, unless one is given.
pub(super) fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| StdRng::from_os_rng().random())
}

/// 16 bytes for a new cluster.
pub(super) fn cluster_id(seed: Option<u64>) -> [u8; 16] {
    let mut rng = match seed {
        Some(seed) => StdRng::seed_from_u64(seed),
        None => StdRng::from_os_rng(),
    };
    rng.random()
}
