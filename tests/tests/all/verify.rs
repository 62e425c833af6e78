//! `quorate verify` against a cluster and against PostgreSQL: clean at each level; and a history in
//! which an acknowledged append is missing is not.

use std::path::Path;
use std::process::{Command, Output};

use quorate_benches::history::{Op, Outcome, file};
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::postgres::Postgres;

const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

/// Transactions of a run.
const TRANSACTIONS: &str = "400";

fn verify(urls: &[String], args: &[&str]) -> Output {
    let mut command = Command::new(cluster::binary());
    command.arg("verify").args(args);
    for url in urls {
        command.args(["--url", url]);
    }
    command.output().expect("quorate can be run")
}

/// Expects this exit status; what it said.
fn said(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "it says:\n{said}");
    said
}

fn work(urls: &[String], level: &str, history: &Path) {
    let history = history.to_str().expect("a path of a temporary folder is UTF-8");
    let args = ["--level", level, "--transactions", TRANSACTIONS, "--duration", "5m", "--reset"];
    let more = ["--clients", "4", "--split", "--history", history];
    let said = said(&verify(urls, &[&args[..], &more[..]].concat()), 0);
    assert!(said.contains("clean: nothing"), "{said}");
}

/// Takes the last element that was acknowledged out of every read of its list.
fn falsify(path: &Path) {
    let (promise, mut history) = file::read(path).expect("the history can be read");
    let last = history.iter().rev().find_map(|t| {
        let committed = t.outcome == Outcome::Committed;
        let append = t.ops.iter().find(|op| matches!(op, Op::Append(..)));
        append.filter(|_| committed && t.ops.len() == 1).cloned()
    });
    let Some(Op::Append(key, value)) = last else { panic!("nothing was appended") };
    for op in history.iter_mut().flat_map(|t| &mut t.ops) {
        if let Op::Read(of, values) = op
            && *of == key
        {
            values.retain(|read| *read != value);
        }
    }
    file::write(path, promise, &history).expect("the history can be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_what_each_level_promises_and_a_lost_append_is_found() {
    let _alone = cluster::alone().await;
    let cluster = Cluster::three().await;
    let urls = cluster.urls();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("history");
    for level in LEVELS {
        work(&urls, level, &path);
    }
    let refused = said(&verify(&urls, &[]), 2);
    assert!(refused.contains("is there already"), "{refused}");

    let history = path.to_str().expect("a path of a temporary folder is UTF-8");
    said(&verify(&[], &["--check", history]), 0);
    falsify(&path);
    let found = said(&verify(&[], &["--check", history]), 1);
    assert!(found.contains("lost append: T"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_keeps_what_each_level_promises() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for level in LEVELS {
        work(&[server.url()], level, &folder.path().join("history"));
    }
}
