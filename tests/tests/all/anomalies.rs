//! The anomaly scripts against a cluster and against PostgreSQL; `docs/isolation.md` says what they
//! showed.

use quorate_tests::anomalies::{self, Engine, Findings, Script, Server, Table};
use quorate_tests::cluster::{self, Cluster};
use quorate_tests::postgres::Postgres;
use quorate_tests::tidy;

/// Fewer scenarios than this, each level counted, and files were lost.
const RUNS_MIN: usize = 60;

fn page() -> String {
    std::fs::read_to_string(tidy::root().join("docs/isolation.md")).expect("the page is there")
}

fn table() -> Table {
    Table::parse(&page()).unwrap_or_else(|wrong| panic!("docs/isolation.md: {wrong}"))
}

async fn run(server: Server, scripts: &[Script]) -> Findings {
    let findings = anomalies::run_all(&server, scripts).await.expect("the server answers");
    let failures = &findings.failures;
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_prevents_and_permits_what_the_page_says() {
    let _alone = cluster::alone().await;
    let scripts = anomalies::all();
    let cluster = Cluster::three().await;
    let urls = cluster.urls();
    let two = vec![urls[1].clone(), urls[2].clone()];
    let server = Server { engine: Engine::Quorate, urls: two, layout: Vec::new(), exactly: true };
    let findings = run(server, &scripts).await;
    assert!(findings.ran >= RUNS_MIN, "only {} runs", findings.ran);
    assert_eq!(findings.verdicts, table().quorate);

    // Once more with the rows in several ranges, and a gateway for each session.
    let layout = vec!["ALTER TABLE test SPLIT AT VALUES (2), (3)".to_owned()];
    run(Server { engine: Engine::Quorate, urls, layout, exactly: false }, &scripts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_prevents_and_permits_what_the_page_says() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let urls = vec![server.url()];
    let server = Server { engine: Engine::Postgres, urls, layout: Vec::new(), exactly: true };
    let findings = run(server, &anomalies::all()).await;
    assert!(findings.ran >= RUNS_MIN, "only {} runs", findings.ran);
    assert_eq!(findings.verdicts, table().postgres);
}

#[test]
fn the_page_gives_each_reason_of_the_scripts() {
    let missing = anomalies::reasons_missing(&page(), &anomalies::all());
    assert!(missing.is_empty(), "docs/isolation.md does not say:\n{}", missing.join("\n"));
}
