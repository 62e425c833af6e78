//! The gateway's copy of the catalog, and the barrier that keeps schema changes and running
//! transactions apart.
//!
//! Every transaction is pinned to the newest catalog version known when its snapshot was taken. A
//! schema change that old transactions must not run beside (a new index: an old writer would not
//! maintain it) asks every gateway for a *barrier*: adopt the newer version, and answer when no
//! pinned transaction with an older one can commit writes any more, nor take another snapshot. A
//! gateway that cannot be asked loses its right to commit and to take snapshots by itself: a
//! version is good for [`CATALOG_LEASE`] after it was last read to be the newest.
//!
//! A snapshot that is there already is read on by its catalog: what it has seen is still stored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quorate_planner::catalog::{CatalogSnapshot, TableDef, TableId, catalog_span, decode_catalog};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{KvTxn, ScanRequest, Span};
use quorate_proto::Timestamp;
use tokio::sync::Notify;

use crate::dist::errors::check_own_clock;
use crate::dist::intent::Hold;
use crate::dist::{Dist, Txn};
use crate::runtime;

/// How long a copy is good for commits after it was known to be the newest.
pub const CATALOG_LEASE: Duration = Duration::from_secs(6);
/// How often the copy is compared with the stored version.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a barrier lets older transactions go on before it takes their right to commit.
const BARRIER_GRACE: Duration = Duration::from_secs(1);

/// Changes of the schema that whoever lost against them is told of at most.
const CHANGES_TOLD: usize = 3;

const _: () = assert!(
    CATALOG_LEASE.as_millis() >= 3 * REFRESH_INTERVAL.as_millis(),
    "two refreshes may fail before a gateway loses the right to commit"
);

/// The catalog as this gateway knows it.
///
/// # Invariants
/// * The version never goes back.
/// * A pin with an older version than a finished barrier's commits nothing.
/// * A snapshot is read by a catalog with every schema change that was acknowledged before it.
/// * A commit begins only while its own version is good: reading a newer one prolongs nothing.
/// * A pin whose commit has begun is open until no copy of that commit can be admitted.
pub struct CatalogStore {
    dist: Arc<Dist>,
    gc_window: Duration,
    current: RwLock<Arc<CatalogSnapshot>>,
    pins: Mutex<Pins>,
    unpinned: Notify,
    refreshing: tokio::sync::Mutex<Refreshed>,
}

/// The last refresh.
#[derive(Default)]
struct Refreshed {
    /// When it began.
    began: Duration,
    failed: Option<SqlError>,
}

#[derive(Default)]
struct Pins {
    next: u64,
    open: BTreeMap<u64, (u64, Arc<PinState>)>,
    /// Until when each version may be committed by.
    good_until: BTreeMap<u64, Duration>,
}

impl Pins {
    /// A version was the newest when `good_until` was counted from.
    fn renew(&mut self, version: u64, good_until: Duration) {
        let known = self.good_until.entry(version).or_default();
        *known = (*known).max(good_until);
        let oldest = self.open.values().map(|(pinned, _)| *pinned).min().unwrap_or(version);
        let oldest = oldest.min(version);
        self.good_until.retain(|version, _| *version >= oldest);
    }

    fn is_good(&self, version: u64, now: Duration) -> bool {
        self.good_until.get(&version).is_some_and(|until| now <= *until)
    }
}

#[derive(Default)]
struct PinState {
    revoked: AtomicBool,
    committing: AtomicBool,
}

/// A transaction's hold on a catalog version; ends when it and every [`Pin::hold`] are dropped.
pub struct Pin(Arc<Pinned>);

struct Pinned {
    store: Arc<CatalogStore>,
    id: u64,
    catalog: Arc<CatalogSnapshot>,
    state: Arc<PinState>,
}

impl Pin {
    /// The catalog the transaction goes by.
    pub fn catalog(&self) -> &Arc<CatalogSnapshot> {
        &self.0.catalog
    }

    /// What a snapshot that is taken now needs to know of it.
    pub fn right(&self) -> ReadRight {
        let Pinned { store, catalog, state, .. } = &*self.0;
        ReadRight { store: store.clone(), catalog: catalog.clone(), state: state.clone() }
    }

    /// Keeps the version pinned beyond the pin itself.
    pub fn hold(&self) -> Hold {
        self.0.clone()
    }

    /// Claims the right to commit writes and answers the commit's start (rule P6); from here on a
    /// barrier waits for the pin's end.
    ///
    /// # Errors
    /// `40001` when a newer version has taken the right, `57P03` when the copy could not be
    /// refreshed in time.
    pub fn begin_commit(&self) -> Result<Timestamp, SqlError> {
        let Pinned { store, catalog, state, .. } = &*self.0;
        // Read before the checks: a process that sleeps after them goes on with an old start,
        // which the ranges refuse once a barrier has raised their floors.
        let start = store.dist.clock().now();
        // Under the lock a barrier revokes with, so that one of the two sees the other.
        let pins = store.pins.lock();
        let good = pins.is_good(catalog.version(), store.dist.clock().monotonic());
        let overtaken = catalog.version() < store.current.read().version();
        if state.revoked.load(Ordering::Relaxed) || (overtaken && !good) {
            drop(pins);
            return Err(overtaken_by(&store.current(), catalog));
        }
        if !good {
            return Err(SqlError::new(
                SqlState::CANNOT_CONNECT_NOW,
                "this node cannot reach the catalog",
            )
            .with_detail("Without it, it cannot know whether tables have been changed."));
        }
        state.committing.store(true, Ordering::Relaxed);
        Ok(start)
    }
}

/// The right to take snapshots that are read by a pin's catalog. It does not hold the pin open, and
/// ends with it.
pub struct ReadRight {
    store: Arc<CatalogStore>,
    catalog: Arc<CatalogSnapshot>,
    state: Arc<PinState>,
}

impl ReadRight {
    /// Makes sure that no newer catalog was acknowledged by now.
    ///
    /// # Errors
    /// `40001` when there may be one, and why the copy could not be compared.
    pub async fn stands(&self) -> Result<(), SqlError> {
        let revoked = || self.state.revoked.load(Ordering::Relaxed);
        if self.is_good() && !revoked() {
            return Ok(());
        }
        if !revoked() && self.store.current().version() == self.catalog.version() {
            // The copy was not compared for a while, perhaps only because this node is busy.
            self.store.refresh().await?;
        }
        match self.is_good() && !revoked() {
            true => Ok(()),
            false => Err(overtaken_by(&self.store.current(), &self.catalog)),
        }
    }

    fn is_good(&self) -> bool {
        let now = self.store.dist.clock().monotonic();
        self.store.pins.lock().is_good(self.catalog.version(), now)
    }
}

impl fmt::Debug for ReadRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadRight(catalog {})", self.catalog.version())
    }
}

/// `40001` for a transaction that goes by a catalog that others have changed.
pub fn overtaken() -> SqlError {
    let message = "a table was changed by a schema change while the transaction was running";
    SqlError::new(SqlState::SERIALIZATION_FAILURE, message)
        .with_hint("The transaction might succeed if retried.")
}

/// [`overtaken`], by what.
fn overtaken_by(newer: &CatalogSnapshot, older: &CatalogSnapshot) -> SqlError {
    let error = overtaken();
    let tables = |catalog: &CatalogSnapshot| -> BTreeMap<TableId, (u64, String)> {
        let version = |table: &Arc<TableDef>| (table.id, (table.version, table.name.clone()));
        catalog.tables().map(version).collect()
    };
    let (before, after) = (tables(older), tables(newer));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(id));
    let gone = gone.map(|(_, (_, name))| format!("\"{name}\" was dropped"));
    let other = after.iter().filter_map(|(id, (version, name))| match before.get(id) {
        None => Some(format!("\"{name}\" was created")),
        Some((old, _)) if old != version => Some(format!("\"{name}\" was changed")),
        Some(_) => None,
    });
    let told: Vec<String> = gone.chain(other).take(CHANGES_TOLD).collect();
    match told.is_empty() {
        true => error,
        false => error.with_detail(format!("Table {}.", told.join(", table "))),
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A barrier does not ask whoever has only the right.
        self.state.revoked.store(true, Ordering::Relaxed);
        self.store.pins.lock().open.remove(&self.id);
        self.store.unpinned.notify_waiters();
    }
}

impl CatalogStore {
    /// A store that knows no table until its first refresh.
    ///
    /// Tables that do not say it keep old versions readable for `gc_window`.
    pub fn new(dist: Arc<Dist>, gc_window: Duration) -> Arc<Self> {
        Arc::new(Self {
            dist,
            gc_window,
            current: RwLock::new(Arc::new(CatalogSnapshot::default())),
            pins: Mutex::new(Pins::default()),
            unpinned: Notify::new(),
            refreshing: tokio::sync::Mutex::default(),
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
        Pin(Arc::new(Pinned { store: self.clone(), id, catalog, state }))
    }

    /// Adopts a catalog unless a newer one is known. Of one version, the one that was read last has
    /// the storage parameters of now.
    pub fn adopt(&self, catalog: Arc<CatalogSnapshot>) {
        let mut current = self.current.write();
        if catalog.version() >= current.version() {
            *current = catalog;
        }
    }

    /// Reads the stored catalog; the copy is good again for a while, counted from before the read.
    /// Who waits while another reads it shares what the next one finds, or its failure.
    pub async fn refresh(&self) -> Result<Arc<CatalogSnapshot>, SqlError> {
        let asked = self.dist.clock().monotonic();
        let mut last = self.refreshing.lock().await;
        if last.began <= asked {
            let began = self.dist.clock().monotonic();
            let failed = self.read_anew(began).await.err();
            *last = Refreshed { began, failed };
        }
        last.failed.clone().map_or_else(|| Ok(self.current()), Err)
    }

    async fn read_anew(&self, asked: Duration) -> Result<(), SqlError> {
        let txn = Txn::begin(self.dist.clone(), true);
        let catalog = Arc::new(read(&txn).await?);
        let version = catalog.version();
        self.adopt(catalog);
        self.pins.lock().renew(version, asked + CATALOG_LEASE);
        Ok(())
    }

    /// Returns once there is a copy: before its first refresh a store knows no table, which must
    /// not look as if there were none.
    ///
    /// # Errors
    /// The stored catalog could not be read.
    pub async fn loaded(&self) -> Result<(), SqlError> {
        if self.pins.lock().good_until.is_empty() {
            self.refresh().await?;
        }
        Ok(())
    }

    /// Whether transactions may commit by this copy now.
    pub fn is_fresh(&self) -> bool {
        let version = self.current().version();
        self.pins.lock().is_good(version, self.dist.clock().monotonic())
    }

    /// The keys that are kept readable for another time than the cluster's window, in order, and
    /// for how long; `None` while that is not known. The catalog is for as long as any table: it
    /// says what storage a table had.
    pub fn gc_windows(&self) -> Option<Vec<(Span, Duration)>> {
        if !self.is_fresh() {
            return None;
        }
        let catalog = self.current();
        let said = catalog.tables().filter_map(|table| {
            let prefix = table.prefix();
            let end = quorate_txn::keys::prefix_end(&prefix);
            Some((Span::new(prefix, end), Duration::from_secs(table.gc_window_s?)))
        });
        let mut said: Vec<_> = said.collect();
        if let Some(longest) = said.iter().map(|(_, window)| *window).max() {
            said.push((catalog_span(), longest.max(self.gc_window)));
        }
        said.sort_by(|(a, _), (b, _)| a.start.cmp(&b.start));
        Some(said)
    }

    /// Keeps the copy fresh until the store is no longer used by anybody else.
    pub async fn keep_fresh(self: Arc<Self>) {
        while Arc::strong_count(&self) > 1 {
            // While the node's clock is off it fails each time; that was said once.
            if check_own_clock(self.dist.clock()).is_ok()
                && let Err(e) = self.refresh().await
            {
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
