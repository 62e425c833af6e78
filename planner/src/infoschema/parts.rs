//! Constraints, defaults, collations and definitions in `pg_catalog`.

use datafusion::common::ScalarValue;

use super::pg::{PUBLIC_OID, index_definition, index_oid, shown_indexes};
use super::{About, Relation, boolean, oid, small, text};
use crate::catalog::{ColumnDef, IndexDef, IndexId, TableDef};
use crate::plan::table_oid;
use crate::types::PgType::{self, Bool, Int2, Name, Oid, Text};

/// The collation of all strings, as PostgreSQL numbers it.
pub(super) const DEFAULT_COLLATION: u32 = 100;
/// Where the oids of constraints begin: half way between indexes of tables.
const CONSTRAINT_BIT: u32 = 32;

pub(super) fn relation(name: &str, about: &About<'_>) -> Option<Relation> {
    Some(match name {
        "pg_constraint" => constraints(about),
        "pg_attrdef" => defaults(about),
        "pg_collation" => collations(),
        "quorate_definitions" => definitions(about),
        _ => return None,
    })
}

fn constraint_oid(table: &TableDef, index: &IndexDef) -> u32 {
    index_oid(table, index) | CONSTRAINT_BIT
}

/// The constraints of all tables: keys.
fn keys<'a>(about: &About<'a>) -> impl Iterator<Item = (&'a TableDef, &'a IndexDef)> {
    let of = |table: &'a std::sync::Arc<TableDef>| {
        let own = shown_indexes(table).filter(|index| index.constraint);
        own.map(move |index| (table.as_ref(), index))
    };
    about.catalog.tables().flat_map(of)
}

fn constraints(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("oid", Oid),
        ("conname", Name),
        ("connamespace", Oid),
        ("contype", Text),
        ("condeferrable", Bool),
        ("condeferred", Bool),
        ("convalidated", Bool),
        ("conrelid", Oid),
        ("contypid", Oid),
        ("conindid", Oid),
        ("conparentid", Oid),
        ("confrelid", Oid),
        ("confupdtype", Text),
        ("confdeltype", Text),
        ("confmatchtype", Text),
        ("conislocal", Bool),
        ("connoinherit", Bool),
        ("conbin", Text),
    ]);
    for (table, index) in keys(about) {
        out.push(vec![
            oid(constraint_oid(table, index)),
            text(&index.name),
            oid(PUBLIC_OID),
            text(if index.id == IndexId::PRIMARY { "p" } else { "u" }),
            boolean(false),
            boolean(false),
            boolean(true),
            oid(table_oid(table.id)),
            oid(0),
            oid(index_oid(table, index)),
            oid(0),
            oid(0),
            text(" "),
            text(" "),
            text(" "),
            boolean(true),
            boolean(true),
            ScalarValue::Null,
        ]);
    }
    out
}

/// A default as PostgreSQL shows it: a string says its type.
fn default_shown(column: &ColumnDef) -> Option<String> {
    let sql = column.default.as_ref()?.sql.trim();
    let inner = sql.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let literal = inner.is_some_and(|inner| !inner.replace("''", "").contains('\''));
    Some(match literal {
        true if column.ty == PgType::Char(None) => format!("{sql}::bpchar"),
        true => format!("{sql}::{}", column.ty.sql_name()),
        false => sql.to_owned(),
    })
}

fn defaults(about: &About<'_>) -> Relation {
    let mut out =
        Relation::new(&[("oid", Oid), ("adrelid", Oid), ("adnum", Int2), ("adbin", Text)]);
    for table in about.catalog.tables() {
        for (i, column) in table.visible_columns().enumerate() {
            if let Some(default) = default_shown(column) {
                let place = i16::try_from(i + 1).unwrap_or(i16::MAX);
                out.push(vec![
                    oid(table_oid(table.id).wrapping_add(u32::try_from(i).unwrap_or(0))),
                    oid(table_oid(table.id)),
                    small(place),
                    text(default),
                ]);
            }
        }
    }
    out
}

fn collations() -> Relation {
    let mut out = Relation::new(&[("oid", Oid), ("collname", Name), ("collnamespace", Oid)]);
    for (id, name) in [(DEFAULT_COLLATION, "default"), (950, "C"), (951, "POSIX")] {
        out.push(vec![oid(id), text(name), oid(11)]);
    }
    out
}

/// What `pg_get_indexdef` and `pg_get_constraintdef` answer, by oid.
fn definitions(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("quorate_oid", Oid),
        ("quorate_kind", Text),
        ("quorate_definition", Text),
    ]);
    for table in about.catalog.tables() {
        for index in shown_indexes(table) {
            let definition = index_definition(table, index);
            out.push(vec![oid(index_oid(table, index)), text("index"), text(definition)]);
        }
    }
    for (table, index) in keys(about) {
        let names: Vec<&str> = index
            .columns
            .iter()
            .map(|part| table.column(part.column).map_or("?", |c| c.name.as_str()))
            .collect();
        let word = if index.id == IndexId::PRIMARY { "PRIMARY KEY" } else { "UNIQUE" };
        let definition = format!("{word} ({})", names.join(", "));
        out.push(vec![oid(constraint_oid(table, index)), text("constraint"), text(definition)]);
    }
    out
}
