//! `information_schema`.

use datafusion::common::ScalarValue;

use super::{About, Relation, int, text, yes};
use crate::catalog::{ColumnDef, IndexDef, IndexId};
use crate::types::PgType::{self, Int4, Text};

pub(super) fn relation(name: &str, about: &About<'_>) -> Option<Relation> {
    Some(match name {
        "tables" => tables(about),
        "columns" => columns(about),
        "schemata" => schemata(about),
        "table_constraints" => table_constraints(about),
        "key_column_usage" => key_column_usage(about),
        _ => return None,
    })
}

fn tables(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("table_catalog", Text),
        ("table_schema", Text),
        ("table_name", Text),
        ("table_type", Text),
        ("is_insertable_into", Text),
    ]);
    for table in about.catalog.tables() {
        out.push(vec![
            text(about.database),
            text("public"),
            text(&table.name),
            text("BASE TABLE"),
            yes(true),
        ]);
    }
    out
}

fn numeric_parts(column: &ColumnDef) -> [ScalarValue; 3] {
    match column.ty {
        PgType::Int2 => [int(16), int(2), int(0)],
        PgType::Int4 => [int(32), int(2), int(0)],
        PgType::Int8 => [int(64), int(2), int(0)],
        PgType::Float4 => [int(24), int(2), ScalarValue::Null],
        PgType::Float8 => [int(53), int(2), ScalarValue::Null],
        PgType::Numeric(Some((p, s))) => [int(i32::from(p)), int(10), int(i32::from(s))],
        PgType::Numeric(None) => [ScalarValue::Null, int(10), ScalarValue::Null],
        _ => [ScalarValue::Null, ScalarValue::Null, ScalarValue::Null],
    }
}

fn columns(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("table_catalog", Text),
        ("table_schema", Text),
        ("table_name", Text),
        ("column_name", Text),
        ("ordinal_position", Int4),
        ("column_default", Text),
        ("is_nullable", Text),
        ("data_type", Text),
        ("character_maximum_length", Int4),
        ("numeric_precision", Int4),
        ("numeric_precision_radix", Int4),
        ("numeric_scale", Int4),
        ("udt_schema", Text),
        ("udt_name", Text),
        ("is_identity", Text),
        ("is_updatable", Text),
    ]);
    for table in about.catalog.tables() {
        for (i, column) in table.visible_columns().enumerate() {
            let length = match column.ty {
                PgType::Varchar(Some(n)) | PgType::Char(Some(n)) => {
                    i32::try_from(n).map_or(ScalarValue::Null, int)
                }
                _ => ScalarValue::Null,
            };
            let default = column.default.as_ref();
            let [precision, radix, scale] = numeric_parts(column);
            out.push(vec![
                text(about.database),
                text("public"),
                text(&table.name),
                text(&column.name),
                int(i32::try_from(i + 1).unwrap_or(i32::MAX)),
                default.map_or(ScalarValue::Null, |default| text(&default.sql)),
                yes(column.nullable),
                text(column.ty.sql_name()),
                length,
                precision,
                radix,
                scale,
                text("pg_catalog"),
                text(column.ty.typname()),
                yes(false),
                yes(true),
            ]);
        }
    }
    out
}

fn schemata(about: &About<'_>) -> Relation {
    let mut out =
        Relation::new(&[("catalog_name", Text), ("schema_name", Text), ("schema_owner", Text)]);
    for schema in ["public", "pg_catalog", "information_schema"] {
        out.push(vec![text(about.database), text(schema), text("quorate")]);
    }
    out
}

fn constraint_type(index: &IndexDef) -> &'static str {
    if index.id == IndexId::PRIMARY { "PRIMARY KEY" } else { "UNIQUE" }
}

fn table_constraints(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("constraint_catalog", Text),
        ("constraint_schema", Text),
        ("constraint_name", Text),
        ("table_catalog", Text),
        ("table_schema", Text),
        ("table_name", Text),
        ("constraint_type", Text),
        ("is_deferrable", Text),
        ("initially_deferred", Text),
    ]);
    for table in about.catalog.tables() {
        for index in table.indexes.iter().filter(|index| index.constraint) {
            out.push(vec![
                text(about.database),
                text("public"),
                text(&index.name),
                text(about.database),
                text("public"),
                text(&table.name),
                text(constraint_type(index)),
                yes(false),
                yes(false),
            ]);
        }
    }
    out
}

fn key_column_usage(about: &About<'_>) -> Relation {
    let mut out = Relation::new(&[
        ("constraint_catalog", Text),
        ("constraint_schema", Text),
        ("constraint_name", Text),
        ("table_catalog", Text),
        ("table_schema", Text),
        ("table_name", Text),
        ("column_name", Text),
        ("ordinal_position", Int4),
    ]);
    for table in about.catalog.tables() {
        for index in table.indexes.iter().filter(|index| index.constraint) {
            for (i, part) in index.columns.iter().enumerate() {
                let column = table.column(part.column).map_or("?", |c| c.name.as_str());
                out.push(vec![
                    text(about.database),
                    text("public"),
                    text(&index.name),
                    text(about.database),
                    text("public"),
                    text(&table.name),
                    text(column),
                    int(i32::try_from(i + 1).unwrap_or(i32::MAX)),
                ]);
            }
        }
    }
    out
}
