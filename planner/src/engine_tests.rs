//! The SQL engine on a store in memory.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use futures::executor::block_on;
use goldenscript::Command;
use test_each_file::test_each_path;

use crate::plan::Execution;
use crate::testing::{MemDb, text_rows};

test_each_path! { in "planner/src/testscripts" as scripts => run_script }

/// Runs a golden script of SQL: each command is a quoted statement.
struct Script {
    db: MemDb,
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let mut out = String::new();
        match block_on(self.db.run(&command.name)) {
            Ok(answer) => {
                if !answer.names.is_empty() {
                    out.push_str(&answer.names.join(" | "));
                    out.push('\n');
                }
                for row in &answer.rows {
                    let cells: Vec<_> =
                        row.iter().map(|c| c.as_deref().unwrap_or("NULL")).collect();
                    out.push_str(&cells.join(" | "));
                    out.push('\n');
                }
                out.push_str(&answer.tag);
            }
            Err(error) => {
                out.push_str(&format!("ERROR {error}"));
                if let Some(detail) = &error.detail {
                    out.push_str(&format!("\nDETAIL {detail}"));
                }
            }
        }
        out.push('\n');
        Ok(out)
    }
}

fn run_script(path: &std::path::Path) {
    goldenscript::run(&mut Script { db: MemDb::new() }, path).expect("the script runs");
}

fn db(statements: &[&str]) -> MemDb {
    let db = MemDb::new();
    for sql in statements {
        block_on(db.run(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    db
}

#[test]
fn a_point_select_gets_one_key_once_and_is_planned_once() {
    let db = db(&["create table t (a int primary key, b text)", "insert into t values (1, 'x')"]);
    let sql = "select b from t where a = $1";
    let first = db.prepare(sql, &[]).expect("a plan");
    let before = db.planner.cache_stats();
    for (a, b) in [(1, Some("x")), (2, None)] {
        let prepared = db.prepare(sql, &[]).expect("a plan");
        assert!(Arc::ptr_eq(&first, &prepared), "found in the cache");
        let txn = db.store.begin(true);
        let context =
            db.context(Arc::clone(&txn), vec![ScalarValue::Int32(Some(a))]).expect("a context");
        let Execution::Rows(rows) = block_on(prepared.execute(context)).expect("runs") else {
            panic!("a query gives rows")
        };
        let columns = prepared.columns.clone().expect("a query has columns");
        let rows = block_on(text_rows(rows, &columns)).expect("rows");
        assert_eq!(rows, b.map(|b| vec![Some(b.to_owned())]).into_iter().collect::<Vec<_>>());
        assert_eq!(txn.gets(), (1, 1), "one get of one key");
        assert_eq!(txn.scans(), 0);
    }
    let after = db.planner.cache_stats();
    assert_eq!((after.hits - before.hits, after.misses), (2, before.misses));
    assert_eq!(first.plans_built(), 1, "one physical plan did for all");
}

#[test]
fn one_cached_plan_runs_concurrently_with_different_parameters() {
    let db = db(&["create table t (a int primary key, b int)"]);
    for a in 0..20 {
        block_on(db.run(&format!("insert into t values ({a}, {})", a * 10))).expect("inserted");
    }
    let prepared = db.prepare("select b from t where a = $1 or a = $2", &[]).expect("a plan");
    let columns = prepared.columns.clone().expect("columns");
    let start = |a: i32| {
        let params = vec![ScalarValue::Int32(Some(a)), ScalarValue::Int32(Some(a + 1))];
        let context = db.context(db.store.begin(true), params).expect("a context");
        match block_on(prepared.execute(context)).expect("runs") {
            Execution::Rows(rows) => rows,
            Execution::Command { .. } => panic!("a query gives rows"),
        }
    };
    // All are started before the first is read.
    let streams: Vec<_> = (0..10).map(|i| (i, start(i))).collect();
    for (a, stream) in streams.into_iter().rev() {
        let rows = block_on(text_rows(stream, &columns)).expect("rows");
        let expected: Vec<_> =
            [a, a + 1].map(|a| vec![Some((a * 10).to_string())]).into_iter().collect();
        assert_eq!(rows, expected);
    }
    assert_eq!(prepared.plans_built(), 10, "as many as ran at once");
    drop(start(3));
    assert_eq!(prepared.plans_built(), 10, "and then they are used again");
}

fn texts(answer: &crate::testing::Answer) -> Vec<String> {
    let row = |row: &Vec<Option<String>>| {
        row.iter().map(|c| c.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
    };
    answer.rows.iter().map(row).collect()
}

#[test]
fn signs_that_follow_each_other_are_no_comment() {
    let db = db(&["create table t (a int primary key, b int)", "insert into t values (1, 0)"]);
    for (sql, b) in [
        ("update t set b = - - 5 where a > - -0", "5"),
        ("update t set b = - + - - 6 where a = - - 1 or b = -+1", "-6"),
        ("update t set b = - ~ 1", "2"),
    ] {
        block_on(db.run(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let answer = block_on(db.run("select b from t")).expect("rows");
        assert_eq!(texts(&answer), [b], "{sql}");
    }
    block_on(db.run("delete from t where a > - -0")).expect("deleted");
    assert!(block_on(db.run("select b from t")).expect("rows").rows.is_empty());
}

#[test]
fn the_same_text_with_other_literals_is_planned_once() {
    let db = db(&["create table t (a int primary key, b text)", "insert into t values (1, 'x')"]);
    block_on(db.run("insert into t values (2, 'y')")).expect("inserted");
    let misses = db.planner.cache_stats().misses;
    block_on(db.run("insert into t values (3, 'z')")).expect("inserted");
    assert_eq!(db.planner.cache_stats().misses, misses, "found by its fingerprint");
    let first = block_on(db.run("select b from t where a = 2")).expect("rows");
    let misses = db.planner.cache_stats().misses;
    let second = block_on(db.run("select b from t where a = 3")).expect("rows");
    assert_eq!((texts(&first), texts(&second)), (vec!["y".into()], vec!["z".into()]));
    assert_eq!(db.planner.cache_stats().misses, misses);
}

#[test]
fn parameters_take_their_types_from_where_they_stand() {
    let db = db(&["create table t (a int primary key, b varchar(5), c numeric(5,2), d date)"]);
    let types = |sql: &str| {
        let prepared = db.prepare(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let names: Vec<_> = prepared.param_types.iter().map(|ty| ty.typname()).collect();
        names.join(",")
    };
    assert_eq!(types("select * from t where a = $1 and b = $2"), "int4,text");
    assert_eq!(types("insert into t values ($1, $2, $3, $4)"), "int4,varchar,numeric,date");
    assert_eq!(types("update t set d = $1 where a = $2"), "date,int4");
    assert_eq!(types("select $1::int8"), "int8");
    assert_eq!(types("select a from t order by a limit $1 offset $2"), "int8,int8");
    assert_eq!(types("select $1"), "text");
}

#[test]
fn limits_and_values_take_parameters() {
    let db = db(&["create table t (a int primary key)", "insert into t values (1), (2), (3), (4)"]);
    let int = |n: i64| ScalarValue::Int64(Some(n));
    let sql = "select a from t order by a limit $1 offset $2";
    let answer = block_on(db.run_with(sql, vec![int(2), int(1)])).expect("rows");
    assert_eq!(texts(&answer), ["2", "3"]);
    let negative = block_on(db.run_with(sql, vec![int(-1), int(0)])).expect_err("refused");
    assert_eq!(negative.sqlstate.code(), "2201W");
}

#[test]
fn for_update_locks_the_rows_that_are_returned() {
    let db = db(&[
        "create table t (a int primary key, b int)",
        "insert into t values (1, 1), (2, 2), (3, 1)",
    ]);
    for (sql, keys) in [
        ("select a from t where b = 1 for update", 2),
        ("select a from t where a = 2 for share", 1),
        ("select a from t order by a limit 1 for update", 1),
        ("select a from t where a = 9 for update", 0),
    ] {
        let prepared = db.prepare(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let txn = db.store.begin(true);
        let mut context = db.context(Arc::clone(&txn), vec![]).expect("a context");
        context.lifted = crate::parse::parse(sql).expect("valid")[0].lifted.clone();
        let Execution::Rows(rows) = block_on(prepared.execute(context)).expect("runs") else {
            panic!("a query gives rows")
        };
        let columns = prepared.columns.clone().expect("columns");
        block_on(text_rows(rows, &columns)).expect("rows");
        assert_eq!(txn.locked().len(), keys, "{sql}");
    }
}

#[test]
fn rows_others_hold_are_skipped_and_no_more_are_read_than_taken() {
    let db = db(&["create table jobs (id int primary key, note text)"]);
    let rows: Vec<_> = (1..=100).map(|id| format!("({id}, 'n{id}')")).collect();
    block_on(db.run(&format!("insert into jobs values {}", rows.join(", ")))).expect("inserted");
    let sql = "select note from jobs order by id limit 2 for update skip locked";
    let prepared = db.prepare(sql, &[]).expect("it is planned");
    let run = |txn: &Arc<crate::testing::MemTxn>| {
        let mut context = db.context(Arc::clone(txn), vec![]).expect("a context");
        context.lifted = crate::parse::parse(sql).expect("valid")[0].lifted.clone();
        let Execution::Rows(rows) = block_on(prepared.execute(context)).expect("runs") else {
            panic!("a query gives rows")
        };
        let columns = prepared.columns.clone().expect("columns");
        block_on(text_rows(rows, &columns))
    };
    let txn = db.store.begin(true);
    assert_eq!(run(&txn).expect("rows").len(), 2);
    assert_eq!((txn.locked().len(), crate::kv::KvTxn::stats(&*txn).rows_read), (2, 2));
    let others = db.store.begin(true);
    others.others_hold(txn.locked().into_iter().map(|(key, _)| key));
    let rows = run(&others).expect("rows");
    assert_eq!(rows, [vec![Some("n3".to_owned())], vec![Some("n4".to_owned())]]);
    let waiting = "select note from jobs where id = 1 for update";
    let prepared = db.prepare(waiting, &[]).expect("it is planned");
    let mut context = db.context(others, vec![]).expect("a context");
    context.lifted = crate::parse::parse(waiting).expect("valid")[0].lifted.clone();
    let Execution::Rows(rows) = block_on(prepared.execute(context)).expect("runs") else {
        panic!("a query gives rows")
    };
    let columns = prepared.columns.clone().expect("columns");
    let refused = block_on(text_rows(rows, &columns)).expect_err("somebody holds it");
    assert_eq!(refused.sqlstate.code(), "55P03");
}

#[test]
fn filters_run_beside_the_data_over_many_pages() {
    let db = db(&["create table t (a int primary key, b int, c text)"]);
    for chunk in 0..5 {
        let rows: Vec<_> =
            (chunk * 100..chunk * 100 + 100).map(|a| format!("({a}, {}, 'r{a}')", a % 7)).collect();
        let sql = format!("insert into t values {}", rows.join(", "));
        block_on(db.run(&sql)).expect("inserted");
    }
    let answer = block_on(db.run("select c from t where b = 3 and a > 480")).expect("rows");
    assert_eq!(texts(&answer), ["r486", "r493"]);
    let answer = block_on(db.run("select count(*), sum(a) from t where b = 3")).expect("rows");
    assert_eq!(texts(&answer), ["71|17608"]);
    let answer = block_on(db.run("select a from t where b = 3 limit 2")).expect("rows");
    assert_eq!(texts(&answer), ["3", "10"]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_program_of_any_bytes_is_refused_and_breaks_nothing(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let mut program = vec![1u8];
        program.extend(bytes);
        proptest::prop_assert!(crate::program::ProgramEngine::new().start(&program).is_err());
    }
}
