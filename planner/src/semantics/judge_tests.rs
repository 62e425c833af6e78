//! The sqllogictest files, whose results are PostgreSQL's, against the engine in memory.
//!
//! Statements a session runs (transactions, settings) are left out here, and files that need
//! several connections; the files run whole against a server elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use futures::executor::block_on;

use crate::parse::{StatementKind, parse};
use crate::testing::MemDb;

/// Cases that do not agree yet, by file; the list only shrinks.
const KNOWN: &[(&str, usize)] = &include!("judge_known.in");

#[derive(Debug)]
enum Expected {
    Fine,
    Error(String),
    Rows { rows: Vec<String>, sorted: bool },
}

struct Case {
    line: usize,
    sql: String,
    expected: Expected,
}

fn cases(text: &str) -> Vec<Case> {
    let mut out = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((line, head)) = lines.next() {
        let words: Vec<&str> = head.split_whitespace().collect();
        let expected = match words.as_slice() {
            ["statement", "error", code] => Expected::Error(code.trim_matches(['(', ')']).into()),
            ["query", "error", code] => Expected::Error(code.trim_matches(['(', ')']).into()),
            ["statement", ..] => Expected::Fine,
            ["query", rest @ ..] => {
                Expected::Rows { rows: vec![], sorted: rest.contains(&"rowsort") }
            }
            _ => continue,
        };
        let mut sql = String::new();
        let mut results = false;
        while let Some((_, text)) = lines.next_if(|(_, l)| !l.is_empty()) {
            if text == "----" {
                results = true;
                break;
            }
            sql.push_str(text);
            sql.push('\n');
        }
        let expected = match expected {
            Expected::Rows { sorted, .. } if results => {
                let mut rows = Vec::new();
                while let Some((_, text)) = lines.next_if(|(_, l)| !l.is_empty()) {
                    rows.push(text.to_owned());
                }
                Expected::Rows { rows, sorted }
            }
            other => other,
        };
        out.push(Case { line: line + 1, sql, expected });
    }
    out
}

/// A value as the files write it.
fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "NULL".into() };
    let plain = !value.is_empty()
        && value.trim() == value
        && !value.contains(['|', '\n', '\'', '\\'])
        && value != "NULL";
    if plain { value.to_owned() } else { format!("'{}'", value.replace('\n', "\\n")) }
}

/// What is wrong with a case, if anything.
fn judge(db: &MemDb, case: &Case) -> Option<String> {
    let runnable = match parse(&case.sql) {
        Ok(all) => {
            all.iter().all(|s| matches!(s.kind, StatementKind::Plan | StatementKind::Ddl(_)))
        }
        Err(_) => true,
    };
    if !runnable {
        return None;
    }
    match (&case.expected, block_on(db.run(&case.sql))) {
        (Expected::Fine, Ok(_)) => None,
        (Expected::Error(code), Err(error)) if error.sqlstate.code() == code => None,
        (Expected::Error(code), Err(error)) => Some(format!("wanted {code}, got {error:?}")),
        (Expected::Error(code), Ok(answer)) => {
            Some(format!("wanted {code}, got {:?}", answer.rows))
        }
        (_, Err(error)) => Some(format!("{error:?}")),
        (Expected::Rows { rows, sorted }, Ok(answer)) => {
            let mut got: Vec<String> = answer
                .rows
                .iter()
                .map(|row| row.iter().map(|v| shown(v.as_deref())).collect::<Vec<_>>().join("|"))
                .collect();
            let mut rows: Vec<String> = rows.clone();
            if *sorted {
                got.sort();
                rows.sort();
            }
            let same = got.len() == rows.len()
                && got
                    .iter()
                    .zip(&rows)
                    .all(|(a, b)| a == b || a.replace('\'', "") == b.replace('\'', ""));
            (!same).then(|| format!("wanted {rows:?}, got {got:?}"))
        }
    }
}

#[test]
fn the_files_of_postgres_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of the files")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    let mut failures = BTreeMap::new();
    let mut good = 0;
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        // Sessions and their savepoints are the gateway's.
        if text.lines().any(|l| l.starts_with("connection ") || l.starts_with("savepoint ")) {
            continue;
        }
        let db = MemDb::new();
        for case in cases(&text) {
            match judge(&db, &case) {
                None => good += 1,
                Some(why) => {
                    eprintln!("{name}:{}: {}  {why}", case.line, case.sql.trim());
                    *failures.entry(name.clone()).or_insert(0) += 1;
                }
            }
        }
    }
    eprintln!("{good} cases agree");
    let known: BTreeMap<String, usize> =
        KNOWN.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let worse: Vec<_> = failures
        .iter()
        .filter(|(name, count)| **count > known.get(*name).copied().unwrap_or(0))
        .collect();
    assert!(worse.is_empty(), "more cases than known disagree: {worse:?}");
}
