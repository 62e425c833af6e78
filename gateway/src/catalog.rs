//! The gateway's copy of the catalog, and the barrier that keeps schema changes and running
//! transactions apart.
//!
//! Every transaction is pinned to the catalog version it began with. A schema change that old
//! transactions must not run beside (a new index: an old writer would not maintain it) asks every
//! gateway for a *barrier*: adopt the newer version, and answer when no pinned transaction with an
//! older one can commit writes any more. A gateway that cannot be asked loses its right to commit
//! by itself: its copy is good for [`CATALOG_LEASE`] after it was last read to be the newest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quorate_planner::catalog::{CatalogSnapshot, catalog_span, decode_catalog};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{KvTxn, ScanRequest};
use tokio::sync::Notify;

use crate::dist::{Dist, Txn};
use crate::runtime;

/// How long a copy is good for commits after it was known to be the newest.
pub const CATALOG_LEASE: Duration = Duration::from_secs(6);
/// How often the copy is compared with the stored version.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a barrier lets older transactions go on before it takes their right to commit.
const BARRIER_GRACE: Duration = Duration::from_secs(1);

const _: () = assert!(
    CATALOG_LEASE.as_millis() >= 3 * REFRESH_INTERVAL.as_millis(),
    "two refreshes may fail before a gateway loses the right to commit"
);

/// The catalog as this gateway knows it.
///
/// # Invariants
/// * The version never goes back.
/// * A pin with an older version than a finished barrier's commits nothing.
pub struct CatalogStore {
    dist: Arc<Dist>,
    current: RwLock<Arc<CatalogSnapshot>>,
    good_until: Mutex<Duration>,
    pins: Mutex<Pins>,
    unpinned: Notify,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pins {
    next: u64,
    open: BTreeMap<u64, (u64, Arc<PinState>)>,
}

#[derive(Default)]
struct PinState {
    revoked: AtomicBool,
    committing: AtomicBool,
}

/// A transaction's hold on a catalog version; ends when dropped.
pub struct Pin {
    store: Arc<CatalogStore>,
    id: u64,
    catalog: Arc<CatalogSnapshot>,
    state: Arc<PinState>,
}

impl Pin {
    /// The catalog the transaction goes by.
    pub fn catalog(&self) -> &Arc<CatalogSnapshot> {
        &self.catalog
    }

    /// Claims the right to commit writes; from here on a barrier waits for the pin's end.
    ///
    /// # Errors
    /// `40001` when a barrier has revoked it, or when the copy could not be refreshed in time.
    pub fn begin_commit(&self) -> Result<(), SqlError> {
        // Under the lock a barrier revokes with, so that one of the two sees the other.
        let _pins = self.store.pins.lock();
        if self.state.revoked.load(Ordering::Relaxed) {
            return Err(SqlError::new(
                SqlState::SERIALIZATION_FAILURE,
                "a table was changed by a schema change while the transaction was running",
            )
            .with_hint("The transaction might succeed if retried."));
        }
        if self.store.dist.clock().monotonic() > *self.store.good_until.lock() {
            return Err(SqlError::new(
                SqlState::CANNOT_CONNECT_NOW,
                "this node cannot reach the catalog",
            )
            .with_detail("Without it, it cannot know whether tables have been changed."));
        }
        self.state.committing.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.pins.lock().open.remove(&self.id);
        self.store.unpinned.notify_waiters();
    }
}

impl CatalogStore {
    /// A store that knows no table until its first refresh.
    pub fn new(dist: Arc<Dist>) -> Arc<Self> {
        Arc::new(Self {
            dist,
            current: RwLock::new(Arc::new(CatalogSnapshot::default())),
            good_until: Mutex::new(Duration::ZERO),
            pins: Mutex::new(Pins::default()),
            unpinned: Notify::new(),
            refreshing: tokio::sync::Mutex::new(()),
        })
    }

    /// The newest catalog known here.
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        self.current.read().clone()
    }

    /// Pins a transaction to the newest catalog known here.
    pub fn pin(self: &Arc<Self>) -> Pin {
        let mut pins = self.pins.lock();
        let catalog = self.current.read().clone();
        let id = pins.next;
        pins.next += 1;
        let state = Arc::new(PinState::default());
        pins.open.insert(id, (catalog.version(), state.clone()));
        drop(pins);
        Pin { store: self.clone(), id, catalog, state }
    }

    /// Adopts a catalog unless a newer one is known.
    pub fn adopt(&self, catalog: Arc<CatalogSnapshot>) {
        let mut current = self.current.write();
        if catalog.version() > current.version() {
            *current = catalog;
        }
    }

    /// Reads the stored catalog; the copy is good again for a while, counted from before the read.
    pub async fn refresh(&self) -> Result<Arc<CatalogSnapshot>, SqlError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let asked = self.dist.clock().monotonic();
        let txn = Txn::begin(self.dist.clone(), true);
        let catalog = Arc::new(read(&txn).await?);
        self.adopt(catalog);
        let mut good_until = self.good_until.lock();
        *good_until = (*good_until).max(asked + CATALOG_LEASE);
        Ok(self.current())
    }

    /// Whether transactions may commit by this copy now.
    pub fn is_fresh(&self) -> bool {
        self.dist.clock().monotonic() <= *self.good_until.lock()
    }

    /// Keeps the copy fresh until the store is no longer used by anybody else.
    pub async fn keep_fresh(self: Arc<Self>) {
        while Arc::strong_count(&self) > 1 {
            if let Err(e) = self.refresh().await {
                tracing::warn!(error = %e, "cannot refresh the catalog");
            }
            runtime::pause(REFRESH_INTERVAL).await;
        }
    }

    /// Adopts at least `version` and returns when no older transaction can commit any more.
    pub async fn barrier(&self, version: u64) -> Result<u64, SqlError> {
        if self.current().version() < version {
            self.refresh().await?;
        }
        let started = self.dist.clock().monotonic();
        loop {
            let unpinned = self.unpinned.notified();
            let waited = self.dist.clock().monotonic() - started;
            if !self.older_may_commit(version, waited >= BARRIER_GRACE) {
                return Ok(self.current().version());
            }
            runtime::within(Duration::from_millis(50), unpinned).await;
        }
    }

    /// Whether an older transaction may still commit; revokes those that have not begun to.
    fn older_may_commit(&self, version: u64, revoke: bool) -> bool {
        let pins = self.pins.lock();
        let mut may = false;
        for (pinned, state) in pins.open.values().filter(|(pinned, _)| *pinned < version) {
            debug_assert!(*pinned < version);
            if revoke && !state.committing.load(Ordering::Relaxed) {
                state.revoked.store(true, Ordering::Relaxed);
            }
            may |= !state.revoked.load(Ordering::Relaxed);
        }
        may
    }
}

/// The whole catalog at the transaction's read timestamp.
pub async fn read(txn: &Txn) -> Result<CatalogSnapshot, SqlError> {
    let mut rows = Vec::new();
    let mut span = Some(catalog_span());
    while let Some(next) = span {
        let page = txn.scan(ScanRequest::all(next)).await?;
        rows.extend(page.rows);
        span = page.resume;
    }
    decode_catalog(rows.iter().map(|(key, value)| (key.as_ref(), value.as_ref())))
}
