//! TPC-C against a real PostgreSQL: conditions hold after load and run, and each fires.

use super::*;
use crate::local_postgres::LocalPostgres;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: TpccArgs,
}

fn args(server: &LocalPostgres, more: &[&str]) -> TpccArgs {
    args_for(server, "2s", more)
}

fn args_for(server: &LocalPostgres, duration: &str, more: &[&str]) -> TpccArgs {
    let url = server.url();
    let mut all = vec!["tpcc", "--url", &url, "--items", "100", "--customers-per-district", "30"];
    all.extend(["--terminals", "4", "--duration", duration]);
    all.extend(more);
    Cli::try_parse_from(all).expect("arguments parse").args
}

/// For each condition, a statement that breaks it on data that was run.
const BREAKS: [(&str, &str); 12] = [
    ("3.3.2.1", "UPDATE warehouse SET w_ytd = w_ytd + 0.01 WHERE w_id = 1"),
    ("3.3.2.2", "UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = 1 AND d_id = 3"),
    (
        "3.3.2.3",
        "UPDATE new_order SET no_o_id = -5 WHERE no_w_id = 1 AND no_d_id = 1 AND no_o_id = \
         (SELECT min(no_o_id) FROM new_order WHERE no_w_id = 1 AND no_d_id = 1)",
    ),
    (
        "3.3.2.4",
        "UPDATE order_line SET ol_d_id = 11 WHERE ol_w_id = 1 AND ol_d_id = 1 AND ol_o_id = 1",
    ),
    (
        "3.3.2.5",
        "UPDATE orders SET o_carrier_id = NULL WHERE o_w_id = 1 AND o_d_id = 1 AND o_id = 1",
    ),
    ("3.3.2.6", "UPDATE orders SET o_ol_cnt = 16 WHERE o_w_id = 1 AND o_d_id = 1 AND o_id = 1"),
    (
        "3.3.2.7",
        "UPDATE order_line SET ol_delivery_d = NULL \
         WHERE ol_w_id = 1 AND ol_d_id = 1 AND ol_o_id = 1 AND ol_number = 1",
    ),
    ("3.3.2.8", "UPDATE warehouse SET w_ytd = w_ytd + 0.01 WHERE w_id = 1"),
    ("3.3.2.9", "UPDATE district SET d_ytd = d_ytd - 1 WHERE d_w_id = 1 AND d_id = 10"),
    (
        "3.3.2.10",
        "UPDATE customer SET c_balance = c_balance + 1, c_ytd_payment = c_ytd_payment - 1 \
         WHERE c_w_id = 1 AND c_d_id = 1 AND c_id = 1",
    ),
    (
        "3.3.2.11",
        "UPDATE orders SET o_carrier_id = NULL WHERE o_w_id = 1 AND o_d_id = 1 AND o_id = 1",
    ),
    (
        "3.3.2.12",
        "UPDATE customer SET c_ytd_payment = c_ytd_payment - 1 \
         WHERE c_w_id = 1 AND c_d_id = 1 AND c_id = 1",
    ),
];

async fn every_condition_fires(server: &LocalPostgres) {
    let config = server.url().parse().expect("address parses");
    let client = connect(&config).await.expect("connects");
    let scale = find_scale(&client, None).await.expect("data is there");
    for (clause, sql) in BREAKS {
        client.batch_execute("BEGIN").await.expect("begins");
        client.batch_execute(sql).await.expect("breaks the data");
        let checks = check(&client, &scale, Moment::Used).await.expect("checks");
        let broken = checks.iter().find(|check| check.clause == clause).expect("is listed");
        assert!(broken.violations > 0, "{clause} did not notice {sql}");
        client.batch_execute("ROLLBACK").await.expect("rolls back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_after_load_and_run_and_each_fires_on_broken_data() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let loaded = run(args(&server, &["--load-only", "--warehouses", "2"])).await.expect("loads");
    assert_eq!(loaded.checks.len(), 12);
    assert!(loaded.is_consistent(), "{loaded}");

    let again = run(args(&server, &["--load-only"])).await.expect_err("tables exist");
    assert!(again.to_string().contains("--no-load"), "{again}");

    let folder = tempfile::tempdir().expect("makes a folder");
    let (json, timeline) = (folder.path().join("report.json"), folder.path().join("timeline"));
    let pid = server.pid().expect("server runs").to_string();
    let files = [
        "--no-load",
        "--json",
        json.to_str().expect("is text"),
        "--timeline",
        timeline.to_str().expect("is text"),
        "--server-pid",
        &pid,
    ];
    let report = run(args(&server, &files)).await.expect("runs");
    assert!(report.is_clean(), "{report}");
    let measured = report.run.as_ref().expect("was measured");
    for kind in &measured.kinds {
        assert!(kind.committed > 0, "{report}");
        assert!(kind.latency.p50_ms > 0.0 && kind.latency.p50_ms <= kind.latency.max_ms);
    }
    let per_transaction = measured.statements_per_transaction;
    assert!((10.0..28.5).contains(&per_transaction), "{per_transaction}");
    let cpu = measured.server_cpu.as_ref().expect("was asked for");
    assert!(cpu.seconds > 0.0 && cpu.unreadable_pids.is_empty(), "{report}");
    let text = std::fs::read_to_string(&json).expect("was written");
    let parsed: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    assert_eq!(parsed["run"]["isolation"], "REPEATABLE READ");
    let lines = std::fs::read_to_string(&timeline).expect("was written");
    assert_eq!(lines.lines().count(), 2);

    every_condition_fires(&server).await;
    let committed = run(args(&server, &["--no-load", "--isolation", "read-committed"]));
    let report = committed.await.expect("runs");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_go_on_after_the_server_restarts() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let load = ["--load-only", "--load-with", "literals", "--no-check"];
    run(args(&server, &load)).await.expect("loads");
    let running = crate::runtime::spawn(run(args_for(&server, "4s", &["--no-load"])));
    let client = connect(&server.url().parse().expect("parses")).await.expect("connects");
    // Restart once orders are coming in.
    let before = number(&client, "SELECT max(o_id) FROM orders").await.expect("counts");
    while number(&client, "SELECT max(o_id) FROM orders").await.expect("counts") < before + 5 {
        assert!(!running.is_finished(), "no orders came in");
        tokio::task::yield_now().await;
    }
    server.restart().expect("restarts");
    let report = running.await.expect("ends").expect("runs");
    let measured = report.run.as_ref().expect("was measured");
    assert!(measured.reconnects >= 4, "{report}");
    assert!(report.is_consistent(), "{report}");
    assert_eq!(measured.unfinished, 0, "{report}");
    let gap_end = measured.longest_gap.start_s + measured.longest_gap.seconds;
    assert!(gap_end < 4.0, "work did not go on: {report}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = folder.path().join("nowhere").join("file");
    let path = path.to_str().expect("is text");
    for file in ["--json", "--timeline"] {
        let dead = ["tpcc", "--url", "postgres://u@127.0.0.1:1/db", file, path];
        let parsed = Cli::try_parse_from(dead).expect("parses");
        let said = run(parsed.args).await.expect_err("is refused").to_string();
        assert!(said.starts_with(&format!("cannot write {path}: ")), "{said}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let parsed = Cli::try_parse_from(["tpcc", "--url", "postgres://u:secret@127.0.0.1:1/db"]);
    let error = run(parsed.expect("parses").args).await.expect_err("nobody listens");
    let text = error.to_string();
    assert!(text.starts_with("cannot connect to 127.0.0.1:1/db: "), "{text}");
    assert!(!text.contains("secret"), "{text}");
}
