//! The sqllogictest files against PostgreSQL, where their expected results come from.

use quorate_tests::postgres::Postgres;
use quorate_tests::slt;

/// Fewer records than this, and files were lost rather than fixed.
const RECORDS_MIN: usize = 1500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expected_results_are_those_of_postgresql() {
    let Some(server) = Postgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        for path in slt::files().expect("the files can be listed") {
            slt::rewrite_file(&path, &url, "postgresql").await.expect("the file can be rewritten");
        }
    }
    let outcome = slt::run_all(&url, "postgresql").await.expect("the files can be run");
    assert_eq!(outcome.failed, 0, "{}", outcome.report());
    if std::env::var_os("QUORATE_SLT").is_none() {
        assert!(outcome.records >= RECORDS_MIN * 3, "only {} records ran", outcome.records);
    }
}
