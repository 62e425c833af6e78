//! Sessions, the Postgres protocol, routing and distributed execution.
//!
//! # The life of a query
//! 1. [`pg::serve`] accepts a connection; [`pg::startup`] lets the client in.
//! 2. [`pg::connection`] takes its messages one at a time and hands texts and parameters to a
//!    [`session::Session`].
//! 3. The session finds the plan in the planner's cache, or has it made against the catalog copy
//!    of [`catalog::CatalogStore`].
//! 4. The plan reads through [`dist::Txn`]: keys are grouped by range
//!    ([`dist::ranges::RangeCache`]), ranges by leader, and asked in one round
//!    ([`dist::sender::Sender::round`]). What is in the way is waited for or recovered
//!    ([`dist::commit`]).
//! 5. Batches become rows of the protocol as the client takes them ([`pg::reply`]).
//!
//! # The life of a write
//! 1. to 3. as above; the plan's writes go to [`dist::buffer::WriteBuffer`], where the
//!    transaction's own reads see them.
//! 4. At the end of the transaction [`dist::commit`] runs the coordinator: one proposal when one
//!    range holds everything, else prepares in parallel and a verdict.
//! 5. The client is told after the commit timestamp has passed on our physical clock (rule T4).

#![allow(
    clippy::result_large_err,
    reason = "errors carry their cure: descriptors, the lock in the way"
)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own their time"))]

pub mod abandoned;
mod barrier;
pub mod catalog;
mod contended;
pub mod dist;
pub mod http;
pub mod pg;
pub mod runtime;
pub mod schema;
#[cfg(test)]
mod schema_tests;
pub mod session;
pub mod sql_side;
#[cfg(test)]
mod testing;

use crate::dist::commit::Committed;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::error::SqlError;
use quorate_planner::plan::{Planner, PlannerConfig};
use quorate_proto::{Connector, Timestamp};
use quorate_txn::clock::NodeClock;

use catalog::{CatalogStore, Pin};
use dist::sender::Sender;
use dist::{Dist, Txn};
use pg::cancel::CancelRegistry;
use pg::stopping::Stop;
use sql_side::CatalogNames;

/// The one database.
pub const DATABASE: &str = "quorate";

/// A node's gateway: what its sessions share.
pub struct Gateway {
    dist: Arc<Dist>,
    planner: Planner,
    catalog: Arc<CatalogStore>,
    builds: abandoned::Builds,
    contended: contended::Contended,
    /// Sessions that can be cancelled.
    pub cancels: Arc<CancelRegistry>,
    /// Tells sessions that the node stops.
    pub stop: Stop,
}

impl Gateway {
    /// A gateway that reaches the cluster through `connector`. `gc_window`: how long old versions
    /// stay readable in tables that do not say it themselves.
    pub fn new(
        connector: Arc<dyn Connector>,
        clock: Arc<NodeClock>,
        cluster_id: Bytes,
        gc_window: Duration,
    ) -> Arc<Self> {
        let names = Arc::new(CatalogNames::new(gc_window));
        let sender = Sender::new(connector, clock, cluster_id);
        let dist = Arc::new(Dist::new(sender, names.clone()));
        let catalog = CatalogStore::new(dist.clone(), gc_window);
        names.follow(&catalog);
        Arc::new(Self {
            dist,
            planner: Planner::new(PlannerConfig::default()),
            catalog,
            builds: abandoned::Builds::default(),
            contended: contended::Contended::default(),
            cancels: Arc::new(CancelRegistry::default()),
            stop: Stop::default(),
        })
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        DATABASE
    }

    /// Plans statements.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The way to the data.
    pub fn dist(&self) -> &Arc<Dist> {
        &self.dist
    }

    /// The oldest moment that a running transaction reads.
    pub fn oldest_read(&self) -> Option<Timestamp> {
        self.dist.running.oldest()
    }

    /// The catalog copy.
    pub fn catalog(&self) -> &Arc<CatalogStore> {
        &self.catalog
    }

    /// Returns once statements can run here.
    ///
    /// # Errors
    /// `57P03` while the node's clock is off; the stored catalog could not be read.
    pub async fn ready(&self) -> Result<(), SqlError> {
        self.check_clock()?;
        self.catalog.loaded().await
    }

    /// Whether the node's clock lets it run statements (rule T3).
    ///
    /// # Errors
    /// `57P03` while it is off.
    pub fn check_clock(&self) -> Result<(), SqlError> {
        dist::errors::check_own_clock(self.dist.clock())
    }

    /// Commits a transaction that goes by the pinned catalog.
    ///
    /// # Errors
    /// `40001`, `23505`, `40003`, `53100`, …; after `40003` it may or may not be committed.
    pub async fn commit(&self, txn: &Txn, pin: &Pin) -> Result<Committed, SqlError> {
        let Some(mut intent) = txn.intent() else {
            return Ok(Committed::Nothing);
        };
        // Nothing has been sent yet: the client can be told that nothing will be.
        self.check_clock()?;
        txn.check_clock()?;
        if !self.catalog.is_fresh() {
            // The copy was not compared for a while, perhaps only because this node is busy.
            self.catalog.refresh().await?;
        }
        intent.start = Some(pin.begin_commit()?);
        intent.hold = Some(pin.hold());
        let anchor = intent.anchor.clone();
        let done = self.dist.clone().commit(intent).await?;
        if done == Committed::InOneRange {
            txn.committed_in_one_range(&anchor).await;
        }
        Ok(done)
    }
}
