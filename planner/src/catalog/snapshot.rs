//! All definitions at one version.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::defs::{IndexDef, TableDef, TableId};
use crate::error::{SqlError, SqlResult, SqlState};

/// The catalog at one version. Cheap to clone, never changed.
///
/// # Invariants
///
/// * No two tables or indexes share a name.
/// * Every table keeps the invariants of [`TableDef`].
#[derive(Debug, Clone, Default)]
pub struct CatalogSnapshot {
    version: u64,
    /// Of what changes without raising the version: storage parameters.
    parameters: u64,
    tables: BTreeMap<TableId, Arc<TableDef>>,
    names: HashMap<String, TableId>,
    index_names: HashMap<String, TableId>,
    storage: HashMap<TableId, TableId>,
}

impl CatalogSnapshot {
    /// The catalog of these tables; `XX001` if they break an invariant.
    pub fn new(version: u64, tables: impl IntoIterator<Item = TableDef>) -> SqlResult<Self> {
        let mut snapshot = Self { version, ..Self::default() };
        let mut parameters = DefaultHasher::new();
        for table in tables {
            table.check().map_err(|why| {
                SqlError::corrupt(format!("the catalog is damaged: table {}: {why}", table.name))
            })?;
            let taken = |name: &str| {
                SqlError::corrupt(format!("the catalog is damaged: the name {name} twice"))
            };
            if snapshot.names.insert(table.name.clone(), table.id).is_some() {
                return Err(taken(&table.name));
            }
            for index in &table.indexes {
                if snapshot.index_names.insert(index.name.clone(), table.id).is_some() {
                    return Err(taken(&index.name));
                }
            }
            (table.id, table.gc_window_s).hash(&mut parameters);
            snapshot.storage.insert(table.storage_id, table.id);
            snapshot.tables.insert(table.id, Arc::new(table));
        }
        snapshot.parameters = parameters.finish();
        Ok(snapshot)
    }

    /// Another one for each catalog that a plan can tell apart: a plan may show what it was made
    /// with.
    pub fn stamp(&self) -> (u64, u64) {
        (self.version, self.parameters)
    }

    /// Raised by every DDL statement that changes what a transaction does.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All tables, by id.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableDef>> {
        self.tables.values()
    }

    /// A table by name.
    pub fn table(&self, name: &str) -> Option<&Arc<TableDef>> {
        self.names.get(name).and_then(|id| self.tables.get(id))
    }

    /// A table by name, or `42P01`.
    pub fn expect_table(&self, name: &str) -> SqlResult<&Arc<TableDef>> {
        self.table(name).ok_or_else(|| {
            SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
        })
    }

    /// A table by id.
    pub fn table_by_id(&self, id: TableId) -> Option<&Arc<TableDef>> {
        self.tables.get(&id)
    }

    /// The table whose keys carry this id.
    pub fn table_of_storage(&self, storage: TableId) -> Option<&Arc<TableDef>> {
        self.storage.get(&storage).and_then(|id| self.tables.get(id))
    }

    /// An index by name, with its table.
    pub fn index(&self, name: &str) -> Option<(&Arc<TableDef>, &IndexDef)> {
        let table = self.index_names.get(name).and_then(|id| self.tables.get(id))?;
        table.index_named(name).map(|index| (table, index))
    }

    /// Whether a table or an index has this name.
    pub fn is_taken(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.index_names.contains_key(name)
    }
}
