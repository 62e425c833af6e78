//! Indexes that nobody builds any more: their gateway died, or the outcome of a step was not
//! known. They keep writers of their table away, so they are taken back.
//!
//! Taking one back is always safe: it happens only while the index is *building*, and a builder
//! that lives after all finds that when it wants to finish. So it is enough to ask around whether
//! somebody builds, and to believe of a silent node after a while that it does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_planner::catalog::{IndexId, IndexState, TableId};

use crate::Gateway;
use crate::runtime;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An index is not asked about before it was seen building for so long: its builder may not have
/// said so yet.
const ABANDONED_AFTER: Duration = Duration::from_secs(15);
/// A node that does not answer for so long builds nothing.
const SILENT_AFTER: Duration = Duration::from_secs(120);

/// The tables whose indexes are being built by this gateway, and how many on each.
#[derive(Debug, Default)]
pub struct Builds(Arc<Mutex<BTreeMap<TableId, usize>>>);

/// An index is being built for as long as this lives.
#[derive(Debug)]
pub struct Building {
    builds: Arc<Mutex<BTreeMap<TableId, usize>>>,
    table: TableId,
}

impl Builds {
    /// One begins.
    pub fn begin(&self, table: TableId) -> Building {
        *self.0.lock().entry(table).or_default() += 1;
        Building { builds: self.0.clone(), table }
    }

    /// The tables.
    pub fn tables(&self) -> Vec<TableId> {
        self.0.lock().keys().copied().collect()
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let mut builds = self.builds.lock();
        if let Some(count) = builds.get_mut(&self.table) {
            *count -= 1;
            if *count == 0 {
                builds.remove(&self.table);
            }
        }
    }
}

/// Since when each building index was seen without a builder.
pub type Orphans = BTreeMap<(TableId, IndexId), Duration>;

impl Gateway {
    /// The tables whose indexes are being built here.
    pub fn building(&self) -> Vec<TableId> {
        self.builds.tables()
    }

    /// An index of this table is being built here for as long as the value lives.
    pub(crate) fn begin_build(&self, table: TableId) -> Building {
        self.builds.begin(table)
    }

    /// Takes abandoned indexes back, for as long as the gateway is used by anybody else.
    pub async fn take_back_abandoned(self: Arc<Self>) {
        let mut orphans = Orphans::new();
        while Arc::strong_count(&self) > 1 {
            runtime::pause(LOOK_EVERY).await;
            self.look_for_abandoned(&mut orphans).await;
        }
    }

    /// One look.
    pub async fn look_for_abandoned(&self, orphans: &mut Orphans) {
        let catalog = self.catalog().current();
        let building: Vec<_> = catalog
            .tables()
            .flat_map(|table| table.indexes.iter().map(move |index| (table.id, index)))
            .filter(|(_, index)| index.state == IndexState::Building)
            .map(|(table, index)| (table, index.id))
            .collect();
        orphans.retain(|index, _| building.contains(index));
        let now = self.dist().clock().monotonic();
        for (table, index) in building {
            let since = *orphans.entry((table, index)).or_insert(now);
            let seen_for = now.saturating_sub(since);
            if seen_for < ABANDONED_AFTER {
                continue;
            }
            match self.is_built(table).await {
                Some(true) => {
                    orphans.insert((table, index), now);
                }
                None if seen_for < SILENT_AFTER => {}
                Some(false) | None => {
                    tracing::warn!(%table, index = index.0, "takes back an abandoned index");
                    self.take_back(table, index).await;
                }
            }
        }
    }

    /// Whether any gateway builds an index of the table; `None` if one does not answer and no
    /// other says so.
    async fn is_built(&self, table: TableId) -> Option<bool> {
        let nodes = self.members().await.ok()?;
        let asked = nodes.into_iter().map(|node| self.ask_barrier(node, 0));
        let answers = futures::future::join_all(asked).await;
        let builds = |answer: &Option<quorate_proto::pb::BarrierResponse>| {
            answer.as_ref().is_some_and(|answer| answer.building_tables.contains(&table.0))
        };
        if self.building().contains(&table) || answers.iter().any(builds) {
            return Some(true);
        }
        answers.iter().all(Option::is_some).then_some(false)
    }
}
