//! Schema changes: a statement's [`DdlOp`] becomes a transaction on the catalog, a barrier on every
//! gateway, and where an index is new, its backfill.
//!
//! # `CREATE INDEX`, step by step
//! 1. The catalog says the index is *building*. From then on a gateway that knows it starts no
//!    write to the table.
//! 2. The barrier: every gateway knows it, and whoever did not can commit no more.
//! 3. Rows are read page by page and their entries written. Nobody else writes meanwhile.
//! 4. The catalog says the index is *public*; writers go on.
//!
//! A change that fails half-way (a duplicate, a lost node) takes the index back; if the gateway
//! dies, another one does ([`crate::abandoned`]). Until then writers are told so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_planner::catalog::codec;
use quorate_planner::catalog::{CatalogChange, CatalogSnapshot, DdlOp, IndexId, TableId};
use quorate_planner::dml::backfill::{backfill, violation};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{KvTxn, ScanRequest, Span, WriteOp};
use quorate_proto::Connector;
use quorate_proto::pb::{self, node_request, node_response, range_request, range_response};
use quorate_txn::config::MAX_CLOCK_OFFSET_MAX;

use crate::Gateway;
use crate::catalog::{CATALOG_LEASE, read};
use crate::dist::Txn;
use crate::dist::sender::{Failure, Outgoing};
use crate::runtime;

/// How often a change that meets another one is tried again.
const ATTEMPTS_MAX: usize = 20;
/// Rows of one backfill transaction.
const BACKFILL_ROWS: u64 = 2_000;
/// Keys one clean-up transaction deletes.
const GARBAGE_KEYS: u64 = 2_000;
/// How long a split or another request to a range may take.
pub(crate) const RANGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the client of a change that is committed waits until every gateway knows it. Whoever
/// begins a commit after that goes by the change: an older copy of the catalog is good for less.
const WORD_PATIENCE: Duration = Duration::from_secs(60);
/// The pause before gateways are told again.
const WORD_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(
    WORD_PATIENCE.as_millis() > 2 * CATALOG_LEASE.as_millis() + MAX_CLOCK_OFFSET_MAX.as_millis(),
    "who is told that a change is done, told or not, finds nobody who begins a commit without it"
);

impl Gateway {
    /// Carries out a schema change; returns notices for the client.
    ///
    /// # Errors
    /// What the statement is refused with; `40003` if its commit is unknown.
    pub async fn change_schema(self: &Arc<Self>, op: DdlOp) -> Result<Vec<SqlError>, SqlError> {
        let change = self.commit_change(&op).await?;
        let mut notices = change.notices;
        if change.writes.is_empty() {
            return Ok(notices);
        }
        let Some((table, index)) = change.backfill else {
            let version = op.changes_meaning().then_some(change.version);
            notices.extend(self.tell_of(version, change.garbage, WORD_PATIENCE).await);
            return Ok(notices);
        };
        let _building = self.begin_build(table);
        match self.make_public(change.version, table, index).await {
            Ok(late) => notices.extend(late),
            Err(error) => {
                self.take_back(table, index).await;
                return Err(error);
            }
        }
        Ok(notices)
    }

    /// From a building index in the catalog to one that is read.
    async fn make_public(
        self: &Arc<Self>,
        version: u64,
        table: TableId,
        index: IndexId,
    ) -> Result<Option<SqlError>, SqlError> {
        self.barrier_everywhere(version).await?;
        self.build_index(table, index).await?;
        let done = self.commit_change(&DdlOp::FinishIndex { table, index }).await?;
        Ok(self.tell_of(Some(done.version), Vec::new(), WORD_PATIENCE).await)
    }

    /// The change as a transaction on the catalog's rows; tried again when it meets another one.
    async fn commit_change(&self, op: &DdlOp) -> Result<CatalogChange, SqlError> {
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let txn = Txn::begin(self.dist().clone(), true);
            let catalog = read(&txn).await?;
            let first = self.allocate_ids(IDS_PER_CHANGE).await?;
            let mut next = first..first + IDS_PER_CHANGE;
            let mut ids = || next.next().unwrap_or(first);
            let change = op.apply(&catalog, &mut ids, self.dist().clock().now())?;
            if change.writes.is_empty() {
                return Ok(change);
            }
            for write in &change.writes {
                txn.write(write.clone())?;
            }
            let intent = txn.intent().ok_or_else(|| SqlError::internal("no catalog write"))?;
            match self.dist().clone().commit(intent).await {
                Ok(_) => return Ok(change),
                Err(e) if e.sqlstate == SqlState::SERIALIZATION_FAILURE => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| SqlError::internal("no attempt at the schema change")))
    }

    /// Ids nobody else gets.
    async fn allocate_ids(&self, count: u64) -> Result<u64, SqlError> {
        let body = node_request::Body::Allocate(pb::AllocateRequest { count });
        match self.ask_any_node(body).await? {
            node_response::Body::Allocate(ids) => Ok(ids.first),
            _ => Err(SqlError::internal("the allocator answered with something else")),
        }
    }

    /// A schema change inside a transaction block: its catalog rows are written by the transaction
    /// itself, so that it is undone with it, and only its own statements see it before the commit.
    ///
    /// # Errors
    /// What the statement is refused with; `0A000` for an index on a table that others can write.
    pub async fn change_in_block(
        &self,
        txn: &Txn,
        pending: &mut PendingSchema,
        op: &DdlOp,
    ) -> Result<Vec<SqlError>, SqlError> {
        let catalog = read(txn).await?;
        let first = self.allocate_ids(IDS_PER_CHANGE).await?;
        let mut next = first..first + IDS_PER_CHANGE;
        let mut ids = || next.next().unwrap_or(first);
        let now = self.dist().clock().now();
        let change = op.apply(&catalog, &mut ids, now)?;
        let is_new = |table: &&TableId| catalog.table_by_id(**table).is_none();
        pending.made.extend(change.tables.iter().filter(is_new));
        if let Some((table, _)) = change.backfill
            && !pending.made.contains(&table)
        {
            return Err(SqlError::unsupported(
                "CREATE INDEX inside a transaction block, on a table from before it,",
            )
            .with_hint("End the transaction first."));
        }
        for write in &change.writes {
            txn.write(write.clone())?;
        }
        let mut version = change.version;
        if let Some((table, index)) = change.backfill {
            let built = read(txn).await?;
            fill_own_table(txn, &built, table, index).await?;
            let done = DdlOp::FinishIndex { table, index }.apply(&built, &mut || first, now)?;
            for write in &done.writes {
                txn.write(write.clone())?;
            }
            version = done.version;
        }
        if op.changes_meaning() {
            pending.version = Some(version);
        }
        pending.garbage.extend(change.garbage);
        let after = read(txn).await?;
        // Plans are cached by version: what only this transaction sees must not be found by others.
        let private = PRIVATE_VERSION | u64::from(runtime::random_i32().cast_unsigned()) << 20;
        let tables = after.tables().map(|table| table.as_ref().clone());
        pending.catalog = Some(Arc::new(CatalogSnapshot::new(private + version, tables)?));
        Ok(change.notices)
    }

    /// After the commit of a transaction that changed the schema; a warning for the client if not
    /// every gateway knows it yet.
    pub async fn publish(self: &Arc<Self>, pending: PendingSchema) -> Option<SqlError> {
        self.tell_of(pending.version, pending.garbage, WORD_PATIENCE).await
    }

    /// Tells every gateway of a change that is committed, for as long as that takes; then what it
    /// left is deleted. `version`: what no older transaction may commit beside.
    ///
    /// It is committed, so whatever stands in the way is no error of it: a client that hears one
    /// does it again. One that has waited for long is warned, and nodes are told all the same.
    async fn tell_of(
        self: &Arc<Self>,
        version: Option<u64>,
        garbage: Vec<Span>,
        patience: Duration,
    ) -> Option<SqlError> {
        let (told, heard) = tokio::sync::oneshot::channel();
        let gateway = Arc::downgrade(self);
        runtime::spawn(async move {
            while let Some(gateway) = gateway.upgrade() {
                match gateway.tell_all(version).await {
                    Ok(()) => {
                        gateway.collect(garbage);
                        // Whoever asked may have gone.
                        let _ = told.send(());
                        return;
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "not every gateway knows of a schema change");
                    }
                }
                drop(gateway);
                runtime::pause(WORD_PAUSE).await;
            }
        });
        match runtime::within(patience, heard).await {
            Some(Ok(())) => None,
            Some(Err(_)) | None => Some(SqlError::new(
                SqlState::WARNING,
                "the change is committed, but not every node could be told of it yet",
            )),
        }
    }

    async fn tell_all(&self, version: Option<u64>) -> Result<(), SqlError> {
        self.catalog().refresh().await?;
        match version {
            Some(version) => self.barrier_everywhere(version).await,
            None => Ok(()),
        }
    }

    /// Asks this node, or another one if it cannot answer.
    pub(crate) async fn ask_any_node(
        &self,
        body: node_request::Body,
    ) -> Result<node_response::Body, SqlError> {
        let mut why = String::from("no node is known");
        for node in self.connector().nodes() {
            let sender = self.dist().sender();
            match sender.call(node, Vec::new(), Some(body.clone()), RANGE_PATIENCE).await {
                Ok(reply) => match (reply.node.and_then(|n| n.body), reply.error) {
                    (Some(node_response::Body::Error(e)), _) | (None, Some(e)) => why = e.message,
                    (Some(body), _) => return Ok(body),
                    (None, None) => why = String::from("an empty answer"),
                },
                Err(e) => why = e.to_string(),
            }
        }
        Err(SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster does not answer")
            .with_detail(why))
    }

    pub(crate) fn connector(&self) -> &Arc<dyn Connector> {
        self.dist().sender().connector()
    }

    /// Writes the entries of every row there is.
    async fn build_index(&self, table: TableId, index: IndexId) -> Result<(), SqlError> {
        let catalog = self.catalog().current();
        let gone = || SqlError::new(SqlState::UNDEFINED_TABLE, "the table was dropped meanwhile");
        let table = catalog.table_by_id(table).ok_or_else(gone)?.clone();
        let index = table.index(index).ok_or_else(gone)?.clone();
        let prefix = table.index_prefix(IndexId::PRIMARY);
        let mut left = Some(Span::new(prefix.clone(), quorate_txn::keys::prefix_end(&prefix)));
        while let Some(span) = left {
            let txn = Txn::begin(self.dist().clone(), true);
            let request = ScanRequest { rows_max: Some(BACKFILL_ROWS), ..ScanRequest::all(span) };
            let page = txn.scan(request).await?;
            left = page.resume;
            for entry in backfill(&table, &index, &page.rows)? {
                txn.write(entry)?;
            }
            let Some(intent) = txn.intent() else { continue };
            let keys: Vec<_> = intent.writes.iter().map(|w| w.key.clone()).collect();
            match self.dist().clone().commit(intent).await {
                Err(e) if e.sqlstate == SqlState::UNIQUE_VIOLATION => {
                    let mut error = violation(Some(&catalog), &index, &keys[0]);
                    error.detail =
                        e.detail.clone().map(|d| d.replace("already exists", "is duplicated"));
                    return Err(error);
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Takes an index back that could not be built, if it is still building.
    pub(crate) async fn take_back(&self, table: TableId, index: IndexId) {
        let op = DdlOp::TakeBackIndex { table, index };
        match self.commit_change(&op).await {
            Ok(change) if change.writes.is_empty() => {}
            Ok(change) => {
                if let Err(e) = self.barrier_everywhere(change.version).await {
                    tracing::warn!(error = %e, "a barrier failed");
                }
                self.collect(change.garbage);
            }
            Err(e) => tracing::warn!(error = %e, "an index that failed could not be taken back"),
        }
    }

    /// Deletes keys nobody refers to, in the background: a failure leaves garbage, nothing else.
    fn collect(&self, garbage: Vec<Span>) {
        let dist = self.dist().clone();
        if garbage.is_empty() {
            return;
        }
        runtime::spawn(async move {
            for span in garbage {
                let mut left = Some(span);
                while let Some(span) = left {
                    let txn = Txn::begin(dist.clone(), true);
                    let request =
                        ScanRequest { rows_max: Some(GARBAGE_KEYS), ..ScanRequest::all(span) };
                    let Ok(page) = txn.scan(request).await else { return };
                    left = page.resume;
                    for (key, _) in page.rows {
                        if txn.write(WriteOp::delete(key)).is_err() {
                            return;
                        }
                    }
                    let Some(intent) = txn.intent() else { continue };
                    if dist.clone().commit(intent).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Splits ranges at these keys; what is split there already is left alone.
    ///
    /// # Errors
    /// What a range says.
    pub async fn split_at(&self, keys: Vec<bytes::Bytes>) -> Result<(), SqlError> {
        for key in keys {
            let body = range_request::Body::Split(pb::SplitRequest { key: key.clone() });
            let request = Outgoing { key: key.clone(), body };
            match self.dist().sender().settle(request, RANGE_PATIENCE).await {
                Ok(range_response::Body::Split(_)) => {}
                Ok(_) => return Err(SqlError::internal("a split was answered wrongly")),
                Err(failure) => {
                    let route = self.dist().sender().route(&key).await;
                    let start = route.ok().and_then(|r| r.descriptor).map(|d| d.start);
                    if start.as_ref() == Some(&key) {
                        continue;
                    }
                    return Err(split_error(&failure));
                }
            }
        }
        Ok(())
    }

    /// The newest catalog, read now.
    pub async fn newest_catalog(&self) -> Result<Arc<CatalogSnapshot>, SqlError> {
        self.catalog().refresh().await
    }
}

/// Above every version of a stored catalog.
const PRIVATE_VERSION: u64 = 1 << 62;

/// Schema changes of a transaction that has not committed.
#[derive(Debug, Clone, Default)]
pub struct PendingSchema {
    /// What the transaction's own statements go by.
    pub catalog: Option<Arc<CatalogSnapshot>>,
    /// What the others must know of before the change is published.
    version: Option<u64>,
    garbage: Vec<Span>,
    /// Tables it has made: nobody else can write them.
    made: BTreeSet<TableId>,
}

/// The entries of an index on a table that only this transaction knows.
async fn fill_own_table(
    txn: &Txn,
    catalog: &CatalogSnapshot,
    table: TableId,
    index: IndexId,
) -> Result<(), SqlError> {
    let gone = || SqlError::internal("the table of a new index is gone");
    let table = catalog.table_by_id(table).ok_or_else(gone)?;
    let index = table.index(index).ok_or_else(gone)?;
    let prefix = table.index_prefix(IndexId::PRIMARY);
    let mut left = Some(Span::new(prefix.clone(), quorate_txn::keys::prefix_end(&prefix)));
    let mut seen = std::collections::BTreeSet::new();
    while let Some(span) = left {
        let page = txn.scan(ScanRequest::all(span)).await?;
        left = page.resume;
        for entry in backfill(table, index, &page.rows)? {
            if index.unique && !seen.insert(entry.key.clone()) {
                return Err(violation(Some(catalog), index, &entry.key));
            }
            txn.write(entry)?;
        }
    }
    Ok(())
}

/// Ids one schema change may use: a table and its storage, for each table of the statement.
const IDS_PER_CHANGE: u64 = 64;

fn split_error(failure: &Failure) -> SqlError {
    SqlError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "the range could not be split")
        .with_detail(failure.to_string())
}

/// The span of all catalog rows, for those who watch it.
pub fn catalog_rows() -> Span {
    codec::catalog_span()
}
