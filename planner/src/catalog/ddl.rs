//! DDL as a pure function: a statement and a snapshot give the writes that make the next one.

use bytes::Bytes;
use quorate_proto::Timestamp;
use serde::{Deserialize, Serialize};

use super::codec;
use super::defs::{
    ColumnDef, ColumnId, DefaultExpr, IndexColumn, IndexDef, IndexId, IndexState, TableDef, TableId,
};
use super::options::TableOptions;
use super::snapshot::CatalogSnapshot;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc;
use crate::kv::{Span, WriteOp};
use crate::types::PgType;

/// Columns a table may have (PostgreSQL's own limit).
const COLUMNS_MAX: usize = 1600;
/// Columns an index may have (PostgreSQL's own limit).
const INDEX_COLUMNS_MAX: usize = 32;
/// Bytes of a name (PostgreSQL's own limit).
const NAME_BYTES_MAX: usize = 63;
/// Name of the row id of tables without a primary key.
const HIDDEN_KEY: &str = "_rowid";

/// A column of a `CREATE TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: PgType,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// Its DEFAULT.
    pub default: Option<DefaultExpr>,
}

/// A PRIMARY KEY or UNIQUE constraint of a `CREATE TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NewKey {
    /// The constraint's name, if it was given one.
    pub name: Option<String>,
    /// Its columns.
    pub columns: Vec<String>,
}

/// A statement that changes the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DdlOp {
    /// `CREATE TABLE`
    CreateTable {
        /// Name of the table.
        name: String,
        /// `IF NOT EXISTS`
        if_not_exists: bool,
        /// The columns.
        columns: Vec<NewColumn>,
        /// `PRIMARY KEY`
        primary_key: Option<NewKey>,
        /// `UNIQUE`
        uniques: Vec<NewKey>,
        /// `WITH`
        options: TableOptions,
    },
    /// `DROP TABLE`
    DropTable {
        /// Names of the tables.
        names: Vec<String>,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `CREATE INDEX`
    CreateIndex {
        /// Name of the index, if it was given one.
        name: Option<String>,
        /// `IF NOT EXISTS`
        if_not_exists: bool,
        /// `UNIQUE`
        unique: bool,
        /// The table.
        table: String,
        /// Columns, and whether `DESC`.
        columns: Vec<(String, bool)>,
    },
    /// A building index is complete.
    FinishIndex {
        /// Its table.
        table: TableId,
        /// The index.
        index: IndexId,
    },
    /// A building index will not be completed; one that is complete stays.
    TakeBackIndex {
        /// Its table.
        table: TableId,
        /// The index.
        index: IndexId,
    },
    /// `DROP INDEX`
    DropIndex {
        /// Names of the indexes.
        names: Vec<String>,
        /// `IF EXISTS`
        if_exists: bool,
    },
    /// `TRUNCATE`
    Truncate {
        /// Names of the tables.
        names: Vec<String>,
    },
    /// `ALTER TABLE … SET (…)`, `RESET (…)`
    SetOptions {
        /// Name of the table.
        table: String,
        /// `IF EXISTS`
        if_exists: bool,
        /// What is set.
        options: TableOptions,
    },
}

/// What a [`DdlOp`] does.
#[derive(Debug, Clone, Default)]
pub struct CatalogChange {
    /// The catalog's version after it; the same as before if nothing changes.
    pub version: u64,
    /// Rows of the system keyspace to write. Empty if nothing changes.
    pub writes: Vec<WriteOp>,
    /// Keys nobody refers to any more, to be deleted after the commit.
    pub garbage: Vec<Span>,
    /// An index whose rows must be filled in, then finished by [`DdlOp::FinishIndex`].
    pub backfill: Option<(TableId, IndexId)>,
    /// Tables that are written, dropped or changed.
    pub tables: Vec<TableId>,
    /// `NOTICE`s for the client.
    pub notices: Vec<SqlError>,
}

impl DdlOp {
    /// The command tag: `CREATE TABLE`, ….
    pub fn tag(&self) -> &'static str {
        match self {
            DdlOp::CreateTable { .. } => "CREATE TABLE",
            DdlOp::DropTable { .. } => "DROP TABLE",
            DdlOp::CreateIndex { .. } | DdlOp::FinishIndex { .. } => "CREATE INDEX",
            DdlOp::DropIndex { .. } | DdlOp::TakeBackIndex { .. } => "DROP INDEX",
            DdlOp::Truncate { .. } => "TRUNCATE TABLE",
            DdlOp::SetOptions { .. } => "ALTER TABLE",
        }
    }

    /// Whether transactions that go by an older catalog would do something wrong: they are fenced
    /// off. Storage parameters are read when they are needed.
    pub fn changes_meaning(&self) -> bool {
        !matches!(self, DdlOp::SetOptions { .. })
    }

    /// What the statement does to a catalog. `ids` gives ids for tables and their storage that
    /// were never given before; `now` is a reading of the clock.
    pub fn apply(
        &self,
        catalog: &CatalogSnapshot,
        ids: &mut dyn FnMut() -> u64,
        now: Timestamp,
    ) -> SqlResult<CatalogChange> {
        let mut change = CatalogChange { version: catalog.version(), ..CatalogChange::default() };
        match self {
            DdlOp::CreateTable { name, if_not_exists, columns, primary_key, uniques, options } => {
                let name = short_name(name);
                if catalog.is_taken(&name) {
                    exists(&name, *if_not_exists, &mut change)?;
                } else {
                    let keys = (primary_key.as_ref(), uniques.as_slice());
                    let mut table = new_table(catalog, &name, columns, keys, TableId(ids()))?;
                    table.gc_window_s = options.gc_window_s.flatten();
                    table.storage_since = now;
                    change.tables.push(table.id);
                    change.writes.push(codec::put_table(&table)?);
                }
            }
            DdlOp::DropTable { names, if_exists } => {
                for name in names {
                    drop_table(catalog, name, *if_exists, &mut change)?;
                }
            }
            DdlOp::CreateIndex { name, if_not_exists, unique, table, columns } => {
                let wanted = NewIndex { name: name.as_deref(), unique: *unique, columns };
                create_index(catalog, table, &wanted, *if_not_exists, &mut change)?;
            }
            DdlOp::FinishIndex { table, index } => {
                let mut table = table_of(catalog, *table)?;
                let Some(found) = table.indexes.iter_mut().find(|i| i.id == *index) else {
                    return Err(SqlError::internal("the index to finish is gone"));
                };
                found.state = IndexState::Public;
                changed(table, &mut change)?;
            }
            DdlOp::TakeBackIndex { table, index } => {
                let found = catalog.table_by_id(*table).and_then(|table| table.index(*index));
                if let Some(found) = found.filter(|i| i.state == IndexState::Building) {
                    let name = found.name.clone();
                    drop_index(catalog, &name, true, &mut change)?;
                }
            }
            DdlOp::DropIndex { names, if_exists } => {
                for name in names {
                    drop_index(catalog, name, *if_exists, &mut change)?;
                }
            }
            DdlOp::Truncate { names } => {
                for name in names {
                    truncate(catalog, name, (TableId(ids()), now), &mut change)?;
                }
            }
            DdlOp::SetOptions { table, if_exists, options } => {
                set_options(catalog, table, *if_exists, *options, &mut change)?;
            }
        }
        if !change.writes.is_empty() && self.changes_meaning() {
            change.version = catalog.version() + 1;
            change.writes.push(codec::put_version(change.version));
        }
        Ok(change)
    }
}

/// A name cut to the length names may have.
fn short_name(name: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn exists(name: &str, allowed: bool, change: &mut CatalogChange) -> SqlResult<()> {
    let error = |message| SqlError::new(SqlState::DUPLICATE_TABLE, message);
    if !allowed {
        return Err(error(format!("relation \"{name}\" already exists")));
    }
    change.notices.push(error(format!("relation \"{name}\" already exists, skipping")));
    Ok(())
}

fn table_of(catalog: &CatalogSnapshot, id: TableId) -> SqlResult<TableDef> {
    let table = catalog.table_by_id(id);
    table
        .map(|t| TableDef::clone(t))
        .ok_or_else(|| SqlError::new(SqlState::UNDEFINED_TABLE, "the table was dropped"))
}

fn changed(mut table: TableDef, change: &mut CatalogChange) -> SqlResult<()> {
    table.version += 1;
    change.tables.push(table.id);
    change.writes.push(codec::put_table(&table)?);
    Ok(())
}

fn set_options(
    catalog: &CatalogSnapshot,
    name: &str,
    if_exists: bool,
    options: TableOptions,
    change: &mut CatalogChange,
) -> SqlResult<()> {
    let table = match catalog.expect_table(name) {
        Ok(table) => table,
        Err(missing) if if_exists => {
            let skipped = format!("{}, skipping", missing.message);
            change.notices.push(SqlError::new(SqlState::SUCCESSFUL_COMPLETION, skipped));
            return Ok(());
        }
        Err(missing) => return Err(missing),
    };
    match options.gc_window_s {
        Some(window) if window != table.gc_window_s => {
            let table = TableDef { gc_window_s: window, ..TableDef::clone(table) };
            change.tables.push(table.id);
            change.writes.push(codec::put_table(&table)?);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn new_table(
    catalog: &CatalogSnapshot,
    name: &str,
    columns: &[NewColumn],
    (primary_key, uniques): (Option<&NewKey>, &[NewKey]),
    id: TableId,
) -> SqlResult<TableDef> {
    if columns.len() > COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState::TOO_MANY_COLUMNS,
            format!("tables can have at most {COLUMNS_MAX} columns"),
        ));
    }
    let mut defs: Vec<ColumnDef> = Vec::with_capacity(columns.len() + 1);
    for column in columns {
        let column_name = short_name(&column.name);
        if defs.iter().any(|c| c.name == column_name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{column_name}\" specified more than once"),
            ));
        }
        defs.push(ColumnDef {
            id: ColumnId(defs.len() as u32 + 1),
            name: column_name,
            ty: stored_type(column)?,
            nullable: column.nullable,
            default: column.default.clone(),
            hidden: false,
        });
    }
    let mut table = TableDef {
        id,
        name: name.to_owned(),
        version: 1,
        storage_id: id,
        next_column_id: defs.len() as u32 + 1,
        columns: defs,
        indexes: Vec::new(),
        next_index_id: IndexId::PRIMARY.0,
        comment: None,
        gc_window_s: None,
        storage_since: Timestamp::ZERO,
    };
    match primary_key {
        Some(key) => {
            let default_name = || format!("{name}_pkey");
            add_constraint(catalog, &mut table, key, default_name)?;
            for part in table.indexes[0].columns.clone() {
                if let Some(at) = table.position(part.column) {
                    table.columns[at].nullable = false;
                }
            }
        }
        None => add_hidden_key(catalog, &mut table)?,
    }
    for key in uniques {
        let columns = key.columns.join("_");
        add_constraint(catalog, &mut table, key, || format!("{name}_{columns}_key"))?;
    }
    Ok(table)
}

fn stored_type(column: &NewColumn) -> SqlResult<PgType> {
    match column.ty {
        PgType::Unknown | PgType::Void => Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("column \"{}\" has pseudo-type {}", column.name, column.ty),
        )),
        ty => Ok(ty),
    }
}

/// Rows of a table without a primary key are told apart by a random 128-bit id.
fn add_hidden_key(catalog: &CatalogSnapshot, table: &mut TableDef) -> SqlResult<()> {
    let id = ColumnId(table.next_column_id);
    table.next_column_id += 1;
    let mut name = HIDDEN_KEY.to_owned();
    while table.columns.iter().any(|c| c.name == name) {
        name.insert(0, '_');
    }
    table.columns.push(ColumnDef {
        id,
        name,
        ty: PgType::Uuid,
        nullable: false,
        default: None,
        hidden: true,
    });
    let index = IndexDef {
        id: IndexId::PRIMARY,
        name: free_name(catalog, table, &format!("{}_rowid", table.name)),
        columns: vec![IndexColumn { column: id, descending: false }],
        unique: true,
        constraint: false,
        state: IndexState::Public,
    };
    table.indexes.push(index);
    table.next_index_id += 1;
    Ok(())
}

fn add_constraint(
    catalog: &CatalogSnapshot,
    table: &mut TableDef,
    key: &NewKey,
    default_name: impl FnOnce() -> String,
) -> SqlResult<()> {
    let name = match &key.name {
        Some(name) => {
            let name = short_name(name);
            if taken(catalog, table, &name) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_TABLE,
                    format!("relation \"{name}\" already exists"),
                ));
            }
            name
        }
        None => free_name(catalog, table, &default_name()),
    };
    let columns: Vec<_> = key.columns.iter().map(|c| (c.clone(), false)).collect();
    let columns = index_columns(table, &columns, true)?;
    let id = IndexId(table.next_index_id);
    table.next_index_id += 1;
    let state = IndexState::Public;
    table.indexes.push(IndexDef { id, name, columns, unique: true, constraint: true, state });
    Ok(())
}

fn index_columns(
    table: &TableDef,
    columns: &[(String, bool)],
    constraint: bool,
) -> SqlResult<Vec<IndexColumn>> {
    if columns.len() > INDEX_COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState::TOO_MANY_COLUMNS,
            format!("cannot use more than {INDEX_COLUMNS_MAX} columns in an index"),
        ));
    }
    let mut out: Vec<IndexColumn> = Vec::new();
    for (name, descending) in columns {
        let column = table.column_named(name).ok_or_else(|| {
            let message = if constraint {
                format!("column \"{name}\" named in key does not exist")
            } else {
                format!("column \"{name}\" does not exist")
            };
            SqlError::new(SqlState::UNDEFINED_COLUMN, message)
        })?;
        if !keyenc::can_be_key(column.ty) {
            return Err(SqlError::unsupported(format_args!("a key of type {}", column.ty)));
        }
        if out.iter().any(|c| c.column == column.id) {
            if constraint {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{name}\" appears twice in a key constraint"),
                ));
            }
            continue;
        }
        out.push(IndexColumn { column: column.id, descending: *descending });
    }
    Ok(out)
}

fn taken(catalog: &CatalogSnapshot, table: &TableDef, name: &str) -> bool {
    catalog.is_taken(name) || table.name == name || table.index_named(name).is_some()
}

fn free_name(catalog: &CatalogSnapshot, table: &TableDef, wanted: &str) -> String {
    let mut name = short_name(wanted);
    let mut n = 0;
    while taken(catalog, table, &name) {
        n += 1;
        name = short_name(&format!("{wanted}{n}"));
    }
    name
}

struct NewIndex<'a> {
    name: Option<&'a str>,
    unique: bool,
    columns: &'a [(String, bool)],
}

fn create_index(
    catalog: &CatalogSnapshot,
    table: &str,
    wanted: &NewIndex<'_>,
    if_not_exists: bool,
    change: &mut CatalogChange,
) -> SqlResult<()> {
    let mut table = TableDef::clone(catalog.expect_table(table)?);
    let name = match wanted.name {
        Some(name) => {
            let name = short_name(name);
            if catalog.is_taken(&name) {
                return exists(&name, if_not_exists, change);
            }
            name
        }
        None => {
            let columns: Vec<&str> = wanted.columns.iter().map(|(c, _)| c.as_str()).collect();
            let plain = format!("{}_{}_idx", table.name, columns.join("_"));
            free_name(catalog, &table, &plain)
        }
    };
    let columns = index_columns(&table, wanted.columns, false)?;
    let id = IndexId(table.next_index_id);
    table.next_index_id += 1;
    let state = IndexState::Building;
    let unique = wanted.unique;
    table.indexes.push(IndexDef { id, name, columns, unique, constraint: false, state });
    change.backfill = Some((table.id, id));
    changed(table, change)
}

fn drop_table(
    catalog: &CatalogSnapshot,
    name: &str,
    if_exists: bool,
    change: &mut CatalogChange,
) -> SqlResult<()> {
    let Some(table) = catalog.table(name) else {
        if catalog.index(name).is_some() {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{name}\" is not a table"),
            ));
        }
        return missing("table", name, if_exists, change);
    };
    if change.tables.contains(&table.id) {
        return Ok(());
    }
    change.tables.push(table.id);
    let prefix = table.prefix();
    let end = quorate_txn::keys::prefix_end(&prefix);
    change.garbage.push(Span::new(prefix, end));
    change.writes.push(WriteOp::delete(codec::table_key(table.id)));
    Ok(())
}

/// The table gets new storage from a time on.
fn truncate(
    catalog: &CatalogSnapshot,
    name: &str,
    (storage, since): (TableId, Timestamp),
    change: &mut CatalogChange,
) -> SqlResult<()> {
    let mut table = TableDef::clone(catalog.expect_table(name)?);
    let prefix = table.prefix();
    let end = quorate_txn::keys::prefix_end(&prefix);
    change.garbage.push(Span::new(prefix, end));
    table.storage_id = storage;
    table.storage_since = since;
    changed(table, change)
}

fn missing(kind: &str, name: &str, allowed: bool, change: &mut CatalogChange) -> SqlResult<()> {
    let state =
        if kind == "table" { SqlState::UNDEFINED_TABLE } else { SqlState::UNDEFINED_OBJECT };
    let message = format!("{kind} \"{name}\" does not exist");
    if !allowed {
        return Err(SqlError::new(state, message));
    }
    change.notices.push(SqlError::new(SqlState::SUCCESSFUL_COMPLETION, message + ", skipping"));
    Ok(())
}

fn drop_index(
    catalog: &CatalogSnapshot,
    name: &str,
    if_exists: bool,
    change: &mut CatalogChange,
) -> SqlResult<()> {
    let Some((table, index)) = catalog.index(name) else {
        if catalog.table(name).is_some() {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{name}\" is not an index"),
            ));
        }
        return missing("index", name, if_exists, change);
    };
    if index.constraint || index.id == IndexId::PRIMARY {
        return Err(SqlError::new(
            SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            format!(
                "cannot drop index {name} because constraint {name} on table {} requires it",
                table.name
            ),
        )
        .with_hint(format!("You can drop constraint {name} on table {} instead.", table.name)));
    }
    let prefix: Bytes = table.index_prefix(index.id);
    let end = quorate_txn::keys::prefix_end(&prefix);
    change.garbage.push(Span::new(prefix, end));
    // A statement may drop several indexes of one table: each drop starts from the last one's.
    let pending = change.writes.iter().rposition(|w| w.key == codec::table_key(table.id));
    let mut def = match pending {
        Some(at) => {
            let write = change.writes.remove(at);
            codec::decode_table(&write.value.unwrap_or_default())?
        }
        None => TableDef::clone(table),
    };
    let id = index.id;
    def.indexes.retain(|i| i.id != id);
    changed(def, change)
}

#[cfg(test)]
#[path = "ddl_tests.rs"]
mod tests;
