//! The harness itself, tried on PostgreSQL: what the end-to-end tests ask of Quorate, PostgreSQL
//! must give, or the question is wrong.

use std::time::{Duration, Instant};

use quorate_tests::bank::{self, Bank};
use quorate_tests::postgres::Postgres;
use quorate_tests::{drivers, fuzz};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_gives_drivers_what_we_ask_for() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    drivers::all(&server.url()).await;
    drivers::many_idle_sessions_all_work(&server.url(), 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_survives_the_fuzzer() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let corpus = fuzz::corpus().expect("the corpus can be read");
    let sent = fuzz::run(&server.url(), 1, 1_000, &corpus).await.expect("it still answers");
    assert!(sent.messages >= 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bank_balances_on_postgresql_and_the_audit_notices_theft() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    bank::open(&url, 20, false).await;
    let began = Instant::now();
    let clients = Bank::run(std::slice::from_ref(&url), 20, 4, 1);
    clients.wait_for_commits(200, Duration::from_secs(60)).await;
    let history = clients.stop().await;
    assert!(history.audits > 0 && history.acknowledged.len() >= 200);
    assert!(history.longest_pause(began, Instant::now()) < Duration::from_secs(30));
    bank::audit(&url, 20, &history).await;

    let thief = bank::connect(&url).await.expect("the server answers");
    thief.batch_execute("DELETE FROM ledger WHERE id = (SELECT min(id) FROM ledger)").await.ok();
    let noticed = tokio::spawn(async move { bank::audit(&url, 20, &history).await }).await;
    assert!(noticed.is_err(), "a missing entry of the ledger goes unnoticed");
}
