//! `pg_catalog`, the columns of it that clients and shells read.

use datafusion::common::ScalarValue;

use super::parts::DEFAULT_COLLATION;
use super::{About, Relation, boolean, float, int, oid, small, text};
use crate::catalog::options::GC_WINDOW;
use crate::catalog::{IndexDef, IndexId, TableDef};
use crate::plan::functions::SERVER_VERSION;
use crate::plan::table_oid;
use crate::types::PgType::{self, Bool, Float4, Int2, Int4, Name, Oid, Text, TimestampTz};

const PG_CATALOG_OID: u32 = 11;
pub(super) const PUBLIC_OID: u32 = 2200;
const INFORMATION_SCHEMA_OID: u32 = 13_000;
const OWNER_OID: u32 = 10;
const DATABASE_OID: u32 = 5;
const UTF8_ENCODING: i32 = 6;
/// `pg_am` of tables and of indexes, as PostgreSQL numbers them.
const HEAP_OID: u32 = 2;
const BTREE_OID: u32 = 403;
/// `pg_default`
const TABLESPACE_OID: u32 = 1663;
/// Where the oids of indexes begin: above those of tables.
const FIRST_INDEX_OID: u32 = 1 << 31;
/// Indexes of one table have this many oids.
const INDEX_OIDS: u32 = 64;

pub(super) fn relation(name: &str, about: &About<'_>) -> Option<Relation> {
    Some(match name {
        "pg_tables" => pg_tables(about),
        "pg_indexes" => pg_indexes(about),
        "pg_database" => pg_database(about),
        "pg_namespace" => pg_namespace(),
        "pg_class" => pg_class(about),
        "pg_attribute" => pg_attribute(about),
        "pg_index" => pg_index(about),
        "pg_type" => pg_type(),
        "pg_settings" => pg_settings(),
        "pg_roles" => pg_roles(),
        "pg_am" => pg_am(),
        "pg_proc" => pg_proc(),
        "pg_tablespace" => pg_tablespace(),
        _ => return None,
    })
}

pub(super) fn index_oid(table: &TableDef, index: &IndexDef) -> u32 {
    let base = u32::try_from(table.id.0).unwrap_or(u32::MAX).saturating_mul(INDEX_OIDS);
    FIRST_INDEX_OID.saturating_add(base).saturating_add(index.id.0)
}

fn pg_tables(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("schemaname", Name),
        ("tablename", Name),
        ("tableowner", Name),
        ("tablespace", Name),
        ("hasindexes", Bool),
        ("hasrules", Bool),
        ("hastriggers", Bool),
        ("rowsecurity", Bool),
    ]);
    for table in about.catalog.tables() {
        out.push(vec![
            text("public"),
            text(&table.name),
            text("quorate"),
            ScalarValue::Null,
            boolean(true),
            boolean(false),
            boolean(false),
            boolean(false),
        ]);
    }
    out
}

/// An index as `CREATE INDEX` would make it.
pub(super) fn index_definition(table: &TableDef, index: &IndexDef) -> String {
    let columns = index.columns.iter().map(|part| {
        let name = table.column(part.column).map_or("?", |c| c.name.as_str());
        format!("{name}{}", if part.descending { " DESC" } else { "" })
    });
    let unique = if index.unique || index.id == IndexId::PRIMARY { "UNIQUE " } else { "" };
    format!(
        "CREATE {unique}INDEX {} ON public.{} USING btree ({})",
        index.name,
        table.name,
        columns.collect::<Vec<_>>().join(", ")
    )
}

/// The indexes a client sees: not the hidden key of a table without a primary key.
pub(super) fn shown_indexes(table: &TableDef) -> impl Iterator<Item = &IndexDef> {
    let hidden = table.has_hidden_key();
    table.indexes.iter().filter(move |index| !(hidden && index.id == IndexId::PRIMARY))
}

fn pg_indexes(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("schemaname", Name),
        ("tablename", Name),
        ("indexname", Name),
        ("tablespace", Name),
        ("indexdef", Text),
    ]);
    for table in about.catalog.tables() {
        for index in shown_indexes(table) {
            out.push(vec![
                text("public"),
                text(&table.name),
                text(&index.name),
                ScalarValue::Null,
                text(index_definition(table, index)),
            ]);
        }
    }
    out
}

fn pg_database(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("oid", Oid),
        ("datname", Name),
        ("datdba", Oid),
        ("encoding", Int4),
        ("datcollate", Text),
        ("datctype", Text),
        ("datistemplate", Bool),
        ("datallowconn", Bool),
        ("datconnlimit", Int4),
        ("datlocprovider", Text),
        ("daticulocale", Text),
        ("datcollversion", Text),
        ("datacl", Text),
        ("dattablespace", Oid),
    ]);
    out.push(vec![
        oid(DATABASE_OID),
        text(about.database),
        oid(OWNER_OID),
        int(UTF8_ENCODING),
        text("C"),
        text("C.UTF-8"),
        boolean(false),
        boolean(true),
        int(-1),
        text("c"),
        ScalarValue::Null,
        ScalarValue::Null,
        ScalarValue::Null,
        oid(TABLESPACE_OID),
    ]);
    out
}

fn pg_namespace() -> Relation {
    let mut out = Relation::new(&[("oid", Oid), ("nspname", Name), ("nspowner", Oid)]);
    for (id, name) in [
        (PG_CATALOG_OID, "pg_catalog"),
        (PUBLIC_OID, "public"),
        (INFORMATION_SCHEMA_OID, "information_schema"),
    ] {
        out.push(vec![oid(id), text(name), oid(OWNER_OID)]);
    }
    out
}

fn count(n: usize) -> ScalarValue {
    small(i16::try_from(n).unwrap_or(i16::MAX))
}

const CLASS_COLUMNS: &[(&str, PgType)] = &[
    ("oid", Oid),
    ("relname", Name),
    ("relnamespace", Oid),
    ("relowner", Oid),
    ("relkind", Text),
    ("relnatts", Int2),
    ("relhasindex", Bool),
    ("relispartition", Bool),
    ("relpersistence", Text),
    ("relam", Oid),
    ("reltype", Oid),
    ("reloftype", Oid),
    ("relfilenode", Oid),
    ("reltablespace", Oid),
    ("relpages", Int4),
    ("reltuples", Float4),
    ("reltoastrelid", Oid),
    ("relisshared", Bool),
    ("relchecks", Int2),
    ("relhasrules", Bool),
    ("relhastriggers", Bool),
    ("relhassubclass", Bool),
    ("relrowsecurity", Bool),
    ("relforcerowsecurity", Bool),
    ("relispopulated", Bool),
    ("relreplident", Text),
    ("relacl", Text),
    ("reloptions", Text),
    ("relpartbound", Text),
];

fn pg_class(about: &About<'_>) -> Relation {
    let mut out = Relation::new(CLASS_COLUMNS);
    let mut add = |id: u32, name: &str, kind: &str, columns: usize, options: Option<u64>| {
        out.push(vec![
            oid(id),
            text(name),
            oid(PUBLIC_OID),
            oid(OWNER_OID),
            text(kind),
            count(columns),
            boolean(kind == "r"),
            boolean(false),
            text("p"),
            oid(if kind == "i" { BTREE_OID } else { HEAP_OID }),
            oid(0),
            oid(0),
            oid(id),
            oid(0),
            int(0),
            float(-1.0),
            oid(0),
            boolean(false),
            small(0),
            boolean(false),
            boolean(false),
            boolean(false),
            boolean(false),
            boolean(false),
            boolean(true),
            text(if kind == "i" { "n" } else { "d" }),
            ScalarValue::Null,
            options.map_or(ScalarValue::Null, |s| text(format!("{{{GC_WINDOW}={s}}}"))),
            ScalarValue::Null,
        ]);
    };
    for table in about.catalog.tables() {
        let columns = table.visible_columns().count();
        add(table_oid(table.id), &table.name, "r", columns, table.gc_window_s);
        for index in shown_indexes(table) {
            add(index_oid(table, index), &index.name, "i", index.columns.len(), None);
        }
    }
    out
}

fn pg_attribute(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("attrelid", Oid),
        ("attname", Name),
        ("atttypid", Oid),
        ("attlen", Int2),
        ("attnum", Int2),
        ("atttypmod", Int4),
        ("attnotnull", Bool),
        ("atthasdef", Bool),
        ("attisdropped", Bool),
        ("attidentity", Text),
        ("attgenerated", Text),
        ("attcollation", Oid),
        ("attstorage", Text),
        ("attcompression", Text),
        ("attstattarget", Int4),
        ("attndims", Int4),
        ("attislocal", Bool),
        ("attinhcount", Int4),
        ("atthasmissing", Bool),
        ("attacl", Text),
        ("attoptions", Text),
    ]);
    for table in about.catalog.tables() {
        for (i, column) in table.visible_columns().enumerate() {
            out.push(vec![
                oid(table_oid(table.id)),
                text(&column.name),
                oid(column.ty.oid()),
                small(column.ty.typlen()),
                count(i + 1),
                int(column.ty.typmod()),
                boolean(!column.nullable),
                boolean(column.default.is_some()),
                boolean(false),
                text(""),
                text(""),
                oid(collation_of(column.ty)),
                text(storage_of(column.ty)),
                text(""),
                int(-1),
                int(0),
                boolean(true),
                int(0),
                boolean(false),
                ScalarValue::Null,
                ScalarValue::Null,
            ]);
        }
    }
    out
}

fn collation_of(ty: PgType) -> u32 {
    match ty {
        PgType::Name => 950,
        ty if ty.is_string() => DEFAULT_COLLATION,
        _ => 0,
    }
}

/// `attstorage`: how PostgreSQL would keep values that are long.
fn storage_of(ty: PgType) -> &'static str {
    match ty {
        PgType::Numeric(_) => "m",
        PgType::Bytea => "x",
        PgType::Name => "p",
        ty if ty.is_string() => "x",
        _ => "p",
    }
}

fn pg_index(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("indexrelid", Oid),
        ("indrelid", Oid),
        ("indnatts", Int2),
        ("indisunique", Bool),
        ("indisprimary", Bool),
        ("indisvalid", Bool),
        ("indkey", Text),
        ("indnkeyatts", Int2),
        ("indisclustered", Bool),
        ("indisreplident", Bool),
        ("indisexclusion", Bool),
        ("indimmediate", Bool),
        ("indisready", Bool),
        ("indislive", Bool),
        ("indnullsnotdistinct", Bool),
        ("indexprs", Text),
        ("indpred", Text),
    ]);
    for table in about.catalog.tables() {
        for index in shown_indexes(table) {
            let places = index
                .columns
                .iter()
                .map(|part| table.position(part.column).map_or(0, |place| place + 1).to_string());
            let primary = index.id == IndexId::PRIMARY;
            out.push(vec![
                oid(index_oid(table, index)),
                oid(table_oid(table.id)),
                count(index.columns.len()),
                boolean(index.unique || primary),
                boolean(primary),
                boolean(index.state == crate::catalog::IndexState::Public),
                text(places.collect::<Vec<_>>().join(" ")),
                count(index.columns.len()),
                boolean(false),
                boolean(false),
                boolean(false),
                boolean(true),
                boolean(true),
                boolean(true),
                boolean(false),
                ScalarValue::Null,
                ScalarValue::Null,
            ]);
        }
    }
    out
}

const TYPES: [PgType; 18] = [
    PgType::Bool,
    PgType::Bytea,
    PgType::Name,
    PgType::Int8,
    PgType::Int2,
    PgType::Int4,
    PgType::Text,
    PgType::Oid,
    PgType::Float4,
    PgType::Float8,
    PgType::Char(None),
    PgType::Varchar(None),
    PgType::Date,
    PgType::Timestamp,
    PgType::TimestampTz,
    PgType::Interval,
    PgType::Numeric(None),
    PgType::Uuid,
];

fn pg_type() -> Relation {
    let mut out = Relation::new(&[
        ("oid", Oid),
        ("typname", Name),
        ("typnamespace", Oid),
        ("typowner", Oid),
        ("typlen", Int2),
        ("typtype", Text),
        ("typrelid", Oid),
        ("typelem", Oid),
        ("typarray", Oid),
        ("typbasetype", Oid),
        ("typdelim", Text),
        ("typcollation", Oid),
        ("typnotnull", Bool),
        ("typtypmod", Int4),
        ("typisdefined", Bool),
    ]);
    for ty in TYPES {
        out.push(vec![
            oid(ty.oid()),
            text(ty.typname()),
            oid(PG_CATALOG_OID),
            oid(OWNER_OID),
            small(ty.typlen()),
            text("b"),
            oid(0),
            oid(0),
            oid(0),
            oid(0),
            text(","),
            oid(collation_of(ty)),
            boolean(false),
            int(-1),
            boolean(true),
        ]);
    }
    out
}

fn pg_settings() -> Relation {
    let mut out =
        Relation::new(&[("name", Text), ("setting", Text), ("unit", Text), ("category", Text)]);
    for (name, value) in [
        ("server_version", SERVER_VERSION),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("standard_conforming_strings", "on"),
        ("max_identifier_length", "63"),
    ] {
        out.push(vec![text(name), text(value), ScalarValue::Null, text("Preset Options")]);
    }
    out
}

fn pg_roles() -> Relation {
    let mut out = Relation::new(&[
        ("oid", Oid),
        ("rolname", Name),
        ("rolsuper", Bool),
        ("rolinherit", Bool),
        ("rolcreaterole", Bool),
        ("rolcreatedb", Bool),
        ("rolcanlogin", Bool),
        ("rolreplication", Bool),
        ("rolbypassrls", Bool),
        ("rolconnlimit", Int4),
        ("rolvaliduntil", TimestampTz),
    ]);
    let mut row = vec![oid(OWNER_OID), text("quorate")];
    row.extend((0..7).map(|_| boolean(true)));
    row.extend([int(-1), ScalarValue::Null]);
    out.push(row);
    out
}

/// Functions of users, of which there are none.
fn pg_proc() -> Relation {
    Relation::new(&[
        ("oid", Oid),
        ("proname", Name),
        ("pronamespace", Oid),
        ("proowner", Oid),
        ("prolang", Oid),
        ("prokind", Text),
        ("prorettype", Oid),
        ("pronargs", Int2),
    ])
}

fn pg_tablespace() -> Relation {
    let mut out =
        Relation::new(&[("oid", Oid), ("spcname", Name), ("spcowner", Oid), ("spcacl", Text)]);
    out.push(vec![oid(TABLESPACE_OID), text("pg_default"), oid(OWNER_OID), ScalarValue::Null]);
    out
}

fn pg_am() -> Relation {
    let mut out = Relation::new(&[("oid", Oid), ("amname", Name), ("amtype", Text)]);
    out.push(vec![oid(HEAP_OID), text("heap"), text("t")]);
    out.push(vec![oid(BTREE_OID), text("btree"), text("i")]);
    out
}
