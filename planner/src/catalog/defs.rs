//! Definitions of tables, columns and indexes.

use std::fmt;

use quorate_proto::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::PgType;

/// A table. Never reused; `TRUNCATE` gives the same table new storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableId(pub u64);

/// An index of a table; the primary key is index [`IndexId::PRIMARY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexId(pub u32);

/// A column of a table; never reused, so that old rows stay readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColumnId(pub u32);

impl IndexId {
    /// The index that holds the rows themselves.
    pub const PRIMARY: Self = Self(1);
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far an index has come; only a public one is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IndexState {
    /// Writers keep it, readers do not use it: its rows are being filled in.
    Building,
    /// Complete.
    Public,
}

/// A column's DEFAULT, as SQL text: it is parsed when an INSERT is planned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DefaultExpr {
    /// An expression without columns.
    pub sql: String,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Its id, from 1, in the order the columns were added.
    pub id: ColumnId,
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: PgType,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// What an INSERT that does not name it puts there; without it, NULL.
    pub default: Option<DefaultExpr>,
    /// A row id of a table without a primary key: not shown, not named, filled by the system.
    pub hidden: bool,
}

/// A column of an index, in the index's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexColumn {
    /// The column.
    pub column: ColumnId,
    /// `DESC`. Kept for the catalog's sake: keys are stored ascending and read backwards.
    pub descending: bool,
}

/// An index. Its keys are its columns followed, unless it is unique and none is NULL, by those
/// primary key columns that are not among them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexDef {
    /// Its id within the table.
    pub id: IndexId,
    /// Its name, unique among the tables and indexes of the schema.
    pub name: String,
    /// The columns.
    pub columns: Vec<IndexColumn>,
    /// Whether two rows may share the columns' values (NULLs never count as equal).
    pub unique: bool,
    /// Whether it stands for a PRIMARY KEY or UNIQUE constraint of the same name.
    pub constraint: bool,
    /// Whether it is complete.
    pub state: IndexState,
}

/// A table.
///
/// # Invariants
///
/// * Column ids and names are unique; index ids and names are unique.
/// * `indexes[0]` is the primary key: its columns are NOT NULL.
/// * Every index column is a column of the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableDef {
    /// Its id: what `pg_class.oid` is derived from.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// Raised by every change of the definition.
    pub version: u64,
    /// The id its keys carry; a new one with each `TRUNCATE`.
    pub storage_id: TableId,
    /// The columns, hidden ones last.
    pub columns: Vec<ColumnDef>,
    /// The primary key, then the others in the order they were made.
    pub indexes: Vec<IndexDef>,
    /// The id the next column gets.
    pub next_column_id: u32,
    /// The id the next index gets.
    pub next_index_id: u32,
    /// Comments on CHECK and the like are not kept: the description PostgreSQL shows for it.
    pub comment: Option<String>,
    /// How many seconds old versions of its rows stay readable; `None`: as long as the cluster's.
    #[serde(default)]
    pub gc_window_s: Option<u64>,
    /// The clock when it got its storage: what it held before is not found under its keys. Zero in
    /// definitions that do not say it.
    #[serde(default)]
    pub storage_since: Timestamp,
}

impl TableDef {
    /// The primary key.
    pub fn primary(&self) -> &IndexDef {
        &self.indexes[0]
    }

    /// A column by id.
    pub fn column(&self, id: ColumnId) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| c.id == id)
    }

    /// A visible column by name.
    pub fn column_named(&self, name: &str) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| !c.hidden && c.name == name)
    }

    /// The place of a column in [`TableDef::columns`].
    pub fn position(&self, id: ColumnId) -> Option<usize> {
        self.columns.iter().position(|c| c.id == id)
    }

    /// The columns a client sees.
    pub fn visible_columns(&self) -> impl Iterator<Item = &ColumnDef> {
        self.columns.iter().filter(|c| !c.hidden)
    }

    /// An index by id.
    pub fn index(&self, id: IndexId) -> Option<&IndexDef> {
        self.indexes.iter().find(|i| i.id == id)
    }

    /// An index by name.
    pub fn index_named(&self, name: &str) -> Option<&IndexDef> {
        self.indexes.iter().find(|i| i.name == name)
    }

    /// Whether the table has a hidden row id instead of a primary key.
    pub fn has_hidden_key(&self) -> bool {
        self.columns.iter().any(|c| c.hidden)
    }

    /// The columns of an index's key after the index's own: the primary key columns that are not
    /// among them. Empty for the primary key.
    pub fn key_suffix(&self, index: &IndexDef) -> Vec<ColumnId> {
        if index.id == IndexId::PRIMARY {
            return Vec::new();
        }
        let own = |id: ColumnId| index.columns.iter().any(|c| c.column == id);
        self.primary().columns.iter().map(|c| c.column).filter(|id| !own(*id)).collect()
    }

    /// Every key of the table's rows and indexes starts with this.
    pub fn prefix(&self) -> bytes::Bytes {
        quorate_txn::keys::table_prefix(self.storage_id.0)
    }

    /// Every key of an index starts with this.
    pub fn index_prefix(&self, index: IndexId) -> bytes::Bytes {
        quorate_txn::keys::index_prefix(self.storage_id.0, index.0)
    }

    /// Checks the invariants; a definition that breaks them is not taken into a snapshot.
    pub fn check(&self) -> Result<(), String> {
        let unique = |what: &str, mut names: Vec<&str>| {
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            if names.len() == count { Ok(()) } else { Err(format!("{what} are not unique")) }
        };
        unique("column names", self.columns.iter().map(|c| c.name.as_str()).collect())?;
        unique("index names", self.indexes.iter().map(|i| i.name.as_str()).collect())?;
        let mut ids: Vec<_> = self.columns.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.columns.len() {
            return Err("column ids are not unique".into());
        }
        let Some(primary) = self.indexes.first() else {
            return Err("there is no primary key".into());
        };
        if primary.id != IndexId::PRIMARY {
            return Err("the first index is not the primary key".into());
        }
        for index in &self.indexes {
            for column in &index.columns {
                let Some(def) = self.column(column.column) else {
                    return Err(format!("index {} has an unknown column", index.name));
                };
                if index.id == IndexId::PRIMARY && def.nullable {
                    return Err(format!("primary key column {} may be NULL", def.name));
                }
            }
        }
        Ok(())
    }
}
