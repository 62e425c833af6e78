//! Verifications that must not end with a wrong verdict; some against a real PostgreSQL.

use clap::Parser;

use super::*;
use crate::db::connect;
use crate::local_postgres::LocalPostgres;

/// Nobody listens there.
const DEAD: &str = "postgres://u@127.0.0.1:1/db";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: VerifyArgs,
}

fn parsed(args: &[&str]) -> Result<VerifyArgs, String> {
    let args = std::iter::once("verify").chain(args.iter().copied());
    Cli::try_parse_from(args).map(|cli| cli.args).map_err(|error| error.to_string())
}

fn args(args: &[&str]) -> VerifyArgs {
    parsed(args).expect("arguments parse")
}

#[test]
fn levels_are_read_as_sql_has_them_and_listed_if_there_is_none_like_it() {
    for text in ["repeatable read", "repeatable-read", "REPEATABLE READ"] {
        assert_eq!(args(&["--level", text]).level, Some(Isolation::RepeatableRead));
    }
    assert_eq!(args(&["--level", "read uncommitted"]).level, Some(Isolation::ReadCommitted));
    assert_eq!(args(&[]).level, None);
    let refused = parsed(&["--level", "chaos"]).expect_err("there is no such level");
    for level in ["read-committed", "repeatable-read", "serializable"] {
        assert!(refused.contains(level), "{refused}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = folder.path().join("nowhere").join("file");
    let path = path.to_str().expect("is text");
    for file in ["--history", "--timeline"] {
        let refused = run(args(&["--url", DEAD, file, path])).await.err().expect("is refused");
        let said = refused.to_string();
        assert!(said.starts_with(&format!("cannot write {path}: ")), "{said}");
    }
}

#[tokio::test]
async fn a_history_without_transactions_is_not_clean() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = folder.path().join("history");
    let promise = Promise { level: Isolation::Serializable, clock_offset_ns_max: 0 };
    history::file::write(&path, promise, &[]).expect("writes");
    let verdict = run(args(&["--check", path.to_str().expect("is text")])).await;
    let verdict = verdict.expect("can be read");
    assert_eq!(verdict.conclusion(), Conclusion::NothingDone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_in_which_nothing_was_done_is_not_clean_and_its_history_is_written() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = folder.path().join("history");
    let (url, file) = (server.url(), path.to_str().expect("is text"));
    let verdict = run(args(&["--url", &url, "--duration", "0", "--history", file])).await;
    let verdict = verdict.expect("runs");
    assert_eq!(verdict.conclusion(), Conclusion::NothingDone, "{verdict}");
    history::file::read(&path).expect("the history is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_that_comes_first_does_not_keep_the_others_from_being_read() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let args = args(&["--url", DEAD, "--url", &server.url()]);
    let both = servers(&args.urls).expect("addresses parse");
    schema::prepare(&both, &args, "1-a").await.expect("makes the tables");
    let dead = servers(&args.urls[..1]).expect("addresses parse");
    for (servers, is_read) in [(both, true), (dead, false)] {
        let level = Isolation::RepeatableRead;
        let shared = Shared::new(servers, level, &args, "1-a".to_owned(), now());
        // Nobody has any time left, and each is tried all the same.
        assert_eq!(clients::read_at_the_end(&shared, Duration::ZERO).await, is_read);
        assert_eq!(shared.transactions().len(), usize::from(is_read));
        assert!(!shared.is_taken());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_tables_another_run_has_made_anew_says_nothing() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history");
    let file = path.to_str().expect("is text");
    let first = spawn(run(args(&["--url", &url, "--duration", "5m", "--history", file])));
    let config: Config = url.parse().expect("parses");
    let client = connect(&config).await.expect("connects");
    // Once it is at work. Before that there is no such table.
    let sql = format!("SELECT id FROM {} LIMIT 1", schema::LEDGER);
    while !client.query(&sql, &[]).await.is_ok_and(|rows| !rows.is_empty()) {
        assert!(!first.is_finished(), "it did no transfer");
    }
    let second = args(&["--url", &url, "--reset"]);
    schema::prepare(&[config], &second, "2-b").await.expect("makes the tables anew");
    let verdict = first.await.expect("ends").expect("runs");
    assert_eq!(verdict.conclusion(), Conclusion::TablesTaken, "{verdict}");
}
