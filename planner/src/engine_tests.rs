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
        let context = db
            .context(Arc::clone(&txn), vec![ScalarValue::Int32(Some(a))])
            .expect("a context");
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
