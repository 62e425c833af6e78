//! What distribution must be told of SQL: names of keys for DETAIL lines, and scan programs over
//! rows that a transaction's own writes were laid over.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use quorate_planner::catalog::{KeyDescription, TableId, decode_table, describe_key, table_key};
use quorate_planner::error::SqlError;
use quorate_planner::kv::ScanProgram;
use quorate_planner::program::ProgramEngine;

use crate::catalog::{CatalogStore, overtaken};
use crate::dist::{History, SqlSide};

/// Names keys by the newest catalog known here.
pub struct CatalogNames {
    catalog: OnceLock<Weak<CatalogStore>>,
    gc_window: Duration,
}

impl CatalogNames {
    /// Tables whose window is not said keep old versions readable for so long.
    pub fn new(gc_window: Duration) -> Self {
        Self { catalog: OnceLock::new(), gc_window }
    }

    /// Goes by this catalog from now on.
    pub fn follow(&self, catalog: &Arc<CatalogStore>) {
        self.catalog.get_or_init(|| Arc::downgrade(catalog));
    }
}

impl SqlSide for CatalogNames {
    fn describe(&self, key: &[u8]) -> Option<KeyDescription> {
        describe_key(&self.catalog.get()?.upgrade()?.current(), key)
    }

    fn history(&self, key: &[u8]) -> Option<History> {
        let (storage, _) = quorate_txn::keys::table_and_index(key)?;
        let catalog = self.catalog.get()?.upgrade()?.current();
        let table = catalog.table_of_storage(TableId(storage))?;
        let window = table.gc_window_s.map_or(self.gc_window, Duration::from_secs);
        Some(History {
            table: table.name.clone(),
            window,
            storage: table.storage_id,
            since: table.storage_since,
            definition: table_key(table.id),
        })
    }

    fn had_storage(&self, key: &[u8], definition: Option<&[u8]>) -> Result<bool, SqlError> {
        let Some(definition) = definition else { return Ok(false) };
        let then = decode_table(definition)?;
        let storage = quorate_txn::keys::table_and_index(key).map(|(storage, _)| TableId(storage));
        let catalog = self.catalog.get().and_then(Weak::upgrade).map(|catalog| catalog.current());
        match catalog.as_ref().and_then(|catalog| catalog.table_by_id(then.id)) {
            Some(now) if now.version >= then.version => Ok(Some(then.storage_id) == storage),
            _ => Err(overtaken()),
        }
    }

    fn run_program(
        &self,
        program: &ScanProgram,
        rows: &[(Bytes, Bytes)],
    ) -> Result<(Bytes, bool), SqlError> {
        run_bytes(program.bytes(), rows)
    }
}

/// Runs an encoded program over rows in scan order; also says whether it wants more.
pub fn run_bytes(program: &[u8], rows: &[(Bytes, Bytes)]) -> Result<(Bytes, bool), SqlError> {
    let mut run = ProgramEngine::new().start(program)?;
    let mut go_on = true;
    for (key, value) in rows {
        go_on = run.row(key, value)?;
        if !go_on {
            break;
        }
    }
    Ok((run.output()?, go_on))
}
