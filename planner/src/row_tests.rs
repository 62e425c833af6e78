//! Rows through their bytes and back.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use proptest::prelude::*;
use quorate_proto::Timestamp;

use super::*;
use crate::catalog::{CatalogSnapshot, DdlOp, NewColumn, NewKey, TableOptions, decode_catalog};
use crate::types::text::from_text;

fn table() -> std::sync::Arc<TableDef> {
    let column =
        |name: &str, ty, nullable| NewColumn { name: name.into(), ty, nullable, default: None };
    let op = DdlOp::CreateTable {
        name: "t".into(),
        if_not_exists: false,
        columns: vec![
            column("a", PgType::Int4, false),
            column("b", PgType::Numeric(None), false),
            column("c", PgType::Text, true),
            column("d", PgType::Numeric(Some((12, 2))), true),
            column("e", PgType::Char(Some(4)), true),
            column("f", PgType::TimestampTz, true),
            column("g", PgType::Float8, true),
            column("h", PgType::Int8, true),
        ],
        primary_key: Some(NewKey { name: None, columns: vec!["b".into(), "a".into()] }),
        uniques: vec![NewKey { name: None, columns: vec!["h".into()] }],
        options: TableOptions::default(),
    };
    let change =
        op.apply(&CatalogSnapshot::default(), &mut || 7, Timestamp::ZERO).expect("a new table");
    let rows: Vec<_> =
        change.writes.iter().map(|w| (w.key.clone(), w.value.clone().expect("a put"))).collect();
    let catalog =
        decode_catalog(rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))).expect("own rows");
    std::sync::Arc::clone(catalog.table("t").expect("the table"))
}

fn values(texts: &[Option<&str>]) -> HashMap<ColumnId, ScalarValue> {
    let table = table();
    table
        .columns
        .iter()
        .zip(texts)
        .map(|(column, text)| {
            let value = match text {
                Some(text) => from_text(text, column.ty).expect("valid"),
                None => ScalarValue::try_from(&column.ty.arrow()).expect("a null"),
            };
            (column.id, value)
        })
        .collect()
}

const FULL: [Option<&str>; 8] = [
    Some("-5"),
    Some("1.50"),
    Some("text"),
    Some("-12.34"),
    Some("ab"),
    Some("2024-01-01 00:00:00+00"),
    Some("-0"),
    Some("128"),
];

#[test]
fn rows_survive_their_bytes() {
    let table = table();
    let all: Vec<ColumnId> = table.columns.iter().map(|c| c.id).collect();
    let layout = RowLayout::new(&table, &all).expect("a layout");
    for texts in [FULL, [FULL[0], FULL[1], None, None, None, None, None, None]] {
        let row = values(&texts);
        let (key, value) =
            primary_entry(&table, &|id| Datum::of_scalar(&row[&id])).expect("an entry");
        let mut decoder = TableDecoder::new(layout.clone()).expect("a decoder");
        decoder.append(&key, &value).expect("own bytes");
        let batch = decoder.finish().expect("a batch");
        for (i, id) in all.iter().enumerate() {
            let read = ScalarValue::try_from_array(batch.column(i), 0).expect("a value");
            assert_eq!(read, row[id], "column {id:?}");
        }
    }
}

#[test]
fn a_projection_decodes_only_its_columns_in_its_order() {
    let table = table();
    let row = values(&FULL);
    let (key, value) = primary_entry(&table, &|id| Datum::of_scalar(&row[&id])).expect("an entry");
    for ids in [vec![4, 1], vec![1], vec![], vec![8, 3]] {
        let ids: Vec<ColumnId> = ids.into_iter().map(ColumnId).collect();
        let layout = RowLayout::new(&table, &ids).expect("a layout");
        let mut decoder = TableDecoder::new(layout).expect("a decoder");
        decoder.append(&key, &value).expect("own bytes");
        decoder.append(&key, &value).expect("own bytes");
        let batch = decoder.finish().expect("a batch");
        assert_eq!((batch.num_rows(), batch.num_columns()), (2, ids.len()));
    }
}

#[test]
fn an_index_entry_leads_to_its_row() {
    let table = table();
    let index = &table.indexes[1];
    for texts in [FULL, [FULL[0], FULL[1], None, None, None, None, None, None]] {
        let row = values(&texts);
        let value_of = |id: ColumnId| Datum::of_scalar(&row[&id]);
        let (key, value) = index_entry(&table, index, &value_of).expect("an entry");
        let primary = primary_key(&table, &value_of).expect("a key");
        let found = primary_key_of_entry(&table, index, &key, &value).expect("own bytes");
        assert_eq!(found, primary);
    }
}

#[test]
fn integers_are_as_short_as_they_can_be() {
    for value in [0i128, 1, -1, 127, 128, -128, -129, 32_767, 1 << 40, i128::MIN, i128::MAX] {
        let mut out = Vec::new();
        short_int(value, &mut out);
        assert_eq!(long_int(&out).expect("own bytes"), value);
    }
    let mut out = Vec::new();
    short_int(127, &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn golden_bytes_of_a_value() {
    let table = table();
    let row = values(&[FULL[0], FULL[1], Some("x"), None, None, None, None, Some("-2")]);
    let (_, value) = primary_entry(&table, &|id| Datum::of_scalar(&row[&id])).expect("an entry");
    // version, 7 columns, NULLs, 2: numeric 1.50, 3: 'x', 4 to 7: NULL, 8: -2
    let golden = "01 07 3c 02 07 40800110000002 01 01 78 01 01 01 01 01 01 fe";
    assert_eq!(hex::encode(&value), golden.replace(' ', ""));
}

proptest! {
    #[test]
    fn damaged_values_are_errors(at in 0usize..60, byte in any::<u8>()) {
        let table = table();
        let row = values(&FULL);
        let (key, value) =
            primary_entry(&table, &|id| Datum::of_scalar(&row[&id])).expect("an entry");
        let all: Vec<ColumnId> = table.columns.iter().map(|c| c.id).collect();
        let layout = RowLayout::new(&table, &all).expect("a layout");
        let mut decoder = TableDecoder::new(layout.clone()).expect("a decoder");
        let mut damaged = value.to_vec();
        let at = at % damaged.len();
        damaged[at] = byte;
        let _ = decoder.append(&key, &damaged);
        let mut decoder = TableDecoder::new(layout).expect("a decoder");
        prop_assert!(decoder.append(&key, &value[..at]).is_err());
    }
}
