//! DDL against snapshots, from syntax to the next snapshot.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::super::{codec, ddl_parse};
use super::*;
use crate::catalog::describe_key;
use crate::keyenc::Datum;
use crate::row;

const NOW: Timestamp = Timestamp(7);

/// A catalog as it is stored.
#[derive(Default)]
struct Store {
    rows: BTreeMap<Bytes, Bytes>,
    next_id: u64,
}

impl Store {
    fn catalog(&self) -> CatalogSnapshot {
        codec::decode_catalog(self.rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref())))
            .expect("own rows")
    }

    fn run(&mut self, sql: &str) -> Result<CatalogChange, String> {
        let statement =
            Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("valid syntax").remove(0);
        let code = |e: SqlError| e.sqlstate.to_string();
        let op = ddl_parse::ddl_op(&statement).map_err(code)?.expect("DDL");
        let now = Timestamp(self.next_id);
        let next_id = &mut self.next_id;
        let mut ids = || {
            *next_id += 1;
            100 + *next_id
        };
        let catalog =
            codec::decode_catalog(self.rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref())))
                .expect("own rows");
        let change = op.apply(&catalog, &mut ids, now).map_err(code)?;
        for write in &change.writes {
            match &write.value {
                Some(value) => self.rows.insert(write.key.clone(), value.clone()),
                None => self.rows.remove(&write.key),
            };
        }
        Ok(change)
    }

    fn state(&mut self, sql: &str) -> String {
        self.run(sql).err().unwrap_or_else(|| "00000".into())
    }
}

#[test]
fn a_table_comes_back_as_it_was_made() {
    let mut store = Store::default();
    let sql = "create table t (a int, b varchar(9) not null default 'x', c numeric(12,2) unique, \
               primary key (b, a))";
    assert_eq!(store.state(sql), "00000");
    let catalog = store.catalog();
    assert_eq!(catalog.version(), 1);
    let table = catalog.table("t").expect("the table");
    assert!(table.columns[..2].iter().all(|c| !c.nullable));
    assert_eq!(table.columns[1].ty, PgType::Varchar(Some(9)));
    assert_eq!(table.columns[1].default.as_ref().map(|d| d.sql.as_str()), Some("'x'"));
    let names: Vec<&str> = table.indexes.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["t_pkey", "t_c_key"]);
    assert_eq!(table.primary().columns[0].column, ColumnId(2));
}

#[test]
fn errors_have_the_sqlstate_of_postgres() {
    let mut store = Store::default();
    assert_eq!(store.state("create table t (a int)"), "00000");
    let cases = [
        ("create table t (a int)", "42P07"),
        ("create table if not exists t (a int)", "00000"),
        ("create table u (a int, a text)", "42701"),
        ("create table u (a int primary key, b int primary key)", "42P16"),
        ("create table u (a int, primary key (b))", "42703"),
        ("create table u (a int, unique (a, a))", "42701"),
        ("create table u (a nosuchtype)", "42704"),
        ("create table u (a jsonb)", "0A000"),
        ("create table u (a int check (a > 0))", "0A000"),
        ("create table other.u (a int)", "3F000"),
        ("drop table u", "42P01"),
        ("drop table if exists u", "00000"),
        ("create index on u (a)", "42P01"),
        ("create index on t (b)", "42703"),
        ("create index i on t (a)", "00000"),
        ("create index i on t (a)", "42P07"),
        ("drop table i", "42809"),
        ("drop index t", "42809"),
        ("drop index i", "00000"),
        ("drop index i", "42704"),
        ("truncate nothing", "42P01"),
    ];
    for (sql, state) in cases {
        assert_eq!(store.state(sql), state, "{sql}");
    }
}

#[test]
fn a_constraint_index_is_not_dropped_alone() {
    let mut store = Store::default();
    assert_eq!(store.state("create table t (a int primary key, b int unique)"), "00000");
    assert_eq!(store.state("drop index t_b_key"), "2BP01");
    assert_eq!(store.state("drop index t_pkey"), "2BP01");
}

#[test]
fn a_table_without_primary_key_gets_a_hidden_one() {
    let mut store = Store::default();
    store.run("create table t (a int)").expect("created");
    let catalog = store.catalog();
    let table = catalog.table("t").expect("the table");
    assert!(table.has_hidden_key());
    assert_eq!(table.visible_columns().count(), 1);
    assert_eq!(table.column_named(HIDDEN_KEY), None);
}

#[test]
fn truncate_gives_new_storage_and_drops_the_old() {
    let mut store = Store::default();
    store.run("create table t (a int)").expect("created");
    let catalog = store.catalog();
    let table = catalog.table("t").expect("the table");
    let (before, since) = (table.storage_id, table.storage_since);
    let change = store.run("truncate t").expect("truncated");
    let catalog = store.catalog();
    let table = catalog.table("t").expect("the table");
    assert_ne!(table.storage_id, before);
    assert!(table.storage_since > since);
    assert_eq!(change.garbage[0].start, quorate_txn::keys::table_prefix(before.0));
    assert!(catalog.table_of_storage(before).is_none());
}

#[test]
fn an_index_is_building_until_it_is_finished() {
    let mut store = Store::default();
    store.run("create table t (a int)").expect("created");
    let change = store.run("create index on t (a)").expect("created");
    let (table, index) = change.backfill.expect("to fill in");
    let catalog = store.catalog();
    let (_, def) = catalog.index("t_a_idx").expect("the index");
    assert_eq!(def.state, IndexState::Building);
    let change =
        DdlOp::FinishIndex { table, index }.apply(&catalog, &mut || 0, NOW).expect("finished");
    let def = codec::decode_table(change.writes[0].value.as_ref().expect("a table"));
    assert_eq!(def.expect("own row").indexes[1].state, IndexState::Public);
}

#[test]
fn only_an_index_that_is_building_is_taken_back() {
    let mut store = Store::default();
    store.run("create table t (a int)").expect("created");
    let (table, index) =
        store.run("create index on t (a)").expect("created").backfill.expect("new");
    let take_back = DdlOp::TakeBackIndex { table, index };
    let change = take_back.apply(&store.catalog(), &mut || 0, NOW).expect("taken back");
    let def = codec::decode_table(change.writes[0].value.as_ref().expect("a table"));
    assert_eq!(def.expect("own row").indexes.len(), 1);
    assert_eq!(change.garbage.len(), 1);
    let finish = DdlOp::FinishIndex { table, index }.apply(&store.catalog(), &mut || 0, NOW);
    for write in finish.expect("finished").writes {
        store.rows.insert(write.key, write.value.expect("a put"));
    }
    let change = take_back.apply(&store.catalog(), &mut || 0, NOW).expect("nothing to do");
    assert!(change.writes.is_empty(), "it is complete");
    let gone = DdlOp::TakeBackIndex { table, index: IndexId(99) };
    assert!(gone.apply(&store.catalog(), &mut || 0, NOW).expect("nothing").writes.is_empty());
}

#[test]
fn a_key_is_described_in_words() {
    let mut store = Store::default();
    store.run("create table t (a int, b text, primary key (a, b))").expect("created");
    let catalog = store.catalog();
    let table = catalog.table("t").expect("the table");
    let key = row::primary_key(table, &|id| {
        Ok(match id.0 {
            1 => Datum::Int(7),
            _ => Datum::Bytes(b"x".as_slice().into()),
        })
    })
    .expect("a key");
    let description = describe_key(&catalog, &key).expect("a known table");
    let error = description.unique_violation();
    assert_eq!(error.detail.as_deref(), Some("Key (a, b)=(7, x) already exists."));
    assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
    assert_eq!(describe_key(&catalog, &key[..3]), None);
}

#[test]
fn notices_have_the_states_that_postgres_gives_them() {
    let mut store = Store::default();
    store.run("create table t (a int)").expect("created");
    for (sql, state) in [
        ("create table if not exists t (a int)", "42P07"),
        ("create index if not exists t on t (a)", "42P07"),
        ("drop table if exists u", "00000"),
        ("drop index if exists u", "00000"),
    ] {
        let notices = store.run(sql).expect(sql).notices;
        let states: Vec<_> = notices.iter().map(|notice| notice.sqlstate.code()).collect();
        assert_eq!(states, [state], "{sql}");
    }
    let options = TableOptions { gc_window_s: None };
    let alter = DdlOp::SetOptions { table: "u".into(), if_exists: true, options };
    let change = alter.apply(&store.catalog(), &mut || 0, NOW).expect("skipped");
    assert_eq!(change.notices[0].sqlstate, SqlState::SUCCESSFUL_COMPLETION);
}
