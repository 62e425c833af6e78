//! Distributed execution: from a transaction's keys to the ranges that hold them, and its commit.
//!
//! * [`sender`]: one round of requests to leaders; routes healed from errors.
//! * [`ranges`]: the cache of descriptors.
//! * [`txn`]: an open transaction, as the planner sees it; `moving`: when it reads, moved forward.
//! * [`buffer`], [`reads`]: what it wrote and what it read.
//! * [`intent`]: what a commit needs of it.
//! * [`commit`]: runs the coordinator's and the recovery's commands; `drops`: what it leaves.
//! * [`locks`], [`deadlocks`]: the row locks it holds, and circles of those who wait;
//!   `releases`: those that are being given up.
//! * [`observed`]: what it heard of the clocks of nodes.
//! * [`snapshot`]: when it reads; `pages`: scans over several ranges.
//! * [`followers`]: reads of the past where the replica is, not the leader.
//! * [`running`]: which moments are read.
//! * [`terms`]: what the session says of a statement; [`costs`]: what it has cost.
//! * [`tokens`]: names of transactions to ask by.
//! * [`errors`]: what clients are told.

pub mod buffer;
pub mod commit;
pub mod costs;
pub mod deadlocks;
mod drops;
pub mod errors;
pub mod followers;
mod frozen;
pub mod intent;
pub mod listing;
pub mod locks;
mod moving;
pub mod observed;
mod pages;
mod past;
pub mod ranges;
pub mod reads;
mod releases;
pub mod running;
pub mod sender;
pub mod snapshot;
pub mod terms;
pub mod tokens;
pub mod txn;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::catalog::{KeyDescription, TableId};
use quorate_planner::error::SqlError;
use quorate_planner::kv::ScanProgram;
use quorate_proto::{Timestamp, pb};
use quorate_txn::clock::NodeClock;
use tokio_util::task::TaskTracker;

use sender::{Failure, Sender};

pub use txn::Txn;

/// What distribution must be told of SQL: how to name a key, and how to run a scan program.
pub trait SqlSide: Send + Sync + 'static {
    /// A key in the words of the catalog; `None` if it is no row's.
    fn describe(&self, key: &[u8]) -> Option<KeyDescription>;

    /// Which moments of the past the table of a key keeps; `None` if it is no row's.
    fn history(&self, key: &[u8]) -> Option<History>;

    /// Whether a row's table had the storage it has now when this was its definition.
    ///
    /// # Errors
    /// `40001` if the copy of the catalog here is older than that, a corrupt definition.
    fn had_storage(&self, key: &[u8], definition: Option<&[u8]>) -> Result<bool, SqlError>;

    /// Runs a program over rows in scan order; also says whether it wants more.
    fn run_program(
        &self,
        program: &ScanProgram,
        rows: &[(Bytes, Bytes)],
    ) -> Result<(Bytes, bool), SqlError>;
}

/// Which moments of the past a table keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The name of the table.
    pub table: String,
    /// How long its old versions stay readable.
    pub window: Duration,
    /// Its storage, by which its keys begin.
    pub storage: TableId,
    /// It has that since then or somewhat later: between statement and commit.
    pub since: Timestamp,
    /// Where the catalog keeps its definition.
    pub definition: Bytes,
}

/// A gateway's way to the data.
pub struct Dist {
    sender: Sender,
    sql: Arc<dyn SqlSide>,
    /// Counters of commits.
    pub commits: commit::CommitMetrics,
    /// Who holds row locks.
    pub lock_owners: deadlocks::LockOwners,
    /// Where the next look for old tokens begins.
    tokens_swept: parking_lot::Mutex<Option<Bytes>>,
    drops: drops::Drops,
    /// Reads at followers.
    pub followers: followers::Followers,
    storages: past::Storages,
    releases: Arc<releases::Releases>,
    /// Commits that somebody waits for,
    commits_waited_for: TaskTracker,
    /// and what transactions that have ended leave to be done.
    left_over: TaskTracker,
    /// Which moments running transactions read.
    pub running: Arc<running::Running>,
}

impl fmt::Debug for Dist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dist")
    }
}

impl Dist {
    /// Sends through this sender.
    pub fn new(sender: Sender, sql: Arc<dyn SqlSide>) -> Self {
        Self {
            sender,
            sql,
            commits: commit::CommitMetrics::default(),
            lock_owners: deadlocks::LockOwners::default(),
            tokens_swept: parking_lot::Mutex::default(),
            drops: drops::Drops::default(),
            followers: followers::Followers::default(),
            storages: past::Storages::default(),
            releases: Arc::default(),
            commits_waited_for: TaskTracker::new(),
            left_over: TaskTracker::new(),
            running: Arc::default(),
        }
    }

    /// Waits until nobody waits for a commit.
    pub async fn committed(&self) {
        self.commits_waited_for.close();
        self.commits_waited_for.wait().await;
    }

    /// Waits until what ended transactions have left is done: verdicts are written, locks resolved
    /// and given up.
    pub async fn settled(&self) {
        self.left_over.close();
        self.left_over.wait().await;
    }

    /// The sender.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The node's clock.
    pub fn clock(&self) -> &Arc<NodeClock> {
        self.sender.clock()
    }

    /// A key in the words of the catalog.
    pub fn describe(&self, key: &[u8]) -> Option<KeyDescription> {
        self.sql.describe(key)
    }

    /// A key for a DETAIL line.
    pub fn name(&self, key: &[u8]) -> String {
        if let Some(token) = tokens::token_of(key) {
            return format!("Commit token \"{token}\"");
        }
        match self.sql.describe(key) {
            Some(names) => {
                format!("Key {} of table \"{}\"", names.key(), names.table)
            }
            None => format!("Key \\x{}", hex::encode(key)),
        }
    }

    fn run_program(
        &self,
        program: &ScanProgram,
        rows: &[(Bytes, Bytes)],
    ) -> Result<(Bytes, bool), SqlError> {
        self.sql.run_program(program, rows)
    }

    fn read_error(&self, failure: Failure) -> SqlError {
        errors::of_read(self, &failure)
    }

    /// Groups the keys at these places by the range that holds them now; each group with one of
    /// its keys.
    async fn group_keys(
        &self,
        keys: &[Bytes],
        places: Vec<usize>,
    ) -> Result<Vec<(Bytes, Vec<usize>)>, SqlError> {
        let mut groups: BTreeMap<u64, (Bytes, Vec<usize>)> = BTreeMap::new();
        for place in places {
            let route = self.sender.route(&keys[place]).await.map_err(|e| self.read_error(e))?;
            let range = route.descriptor.map_or(0, |d| d.range_id);
            let group = groups.entry(range).or_insert_with(|| (keys[place].clone(), Vec::new()));
            group.1.push(place);
        }
        Ok(groups.into_values().collect())
    }

    /// Groups checks by range; a span over several ranges is cut at their bounds.
    async fn group_checks(
        &self,
        checks: Vec<pb::ReadCheck>,
    ) -> Result<Vec<(Bytes, Vec<pb::ReadCheck>)>, SqlError> {
        let mut groups: BTreeMap<u64, (Bytes, Vec<pb::ReadCheck>)> = BTreeMap::new();
        for check in checks {
            let mut rest = Some(check);
            while let Some(mut check) = rest.take() {
                let route =
                    self.sender.route(&check.start).await.map_err(|e| self.read_error(e))?;
                let range = route.descriptor.unwrap_or_default();
                let crosses =
                    !check.end.is_empty() && !range.end.is_empty() && range.end < check.end;
                if crosses {
                    rest = Some(pb::ReadCheck { start: range.end.clone(), ..check.clone() });
                    check.end = range.end;
                }
                let group = groups
                    .entry(range.range_id)
                    .or_insert_with(|| (check.start.clone(), Vec::new()));
                group.1.push(check);
            }
        }
        Ok(groups.into_values().collect())
    }
}

#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
