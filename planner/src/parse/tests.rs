//! Texts to statements.

use proptest::prelude::*;

use super::*;
use crate::error::SqlState;

fn one(text: &str) -> Statement {
    let mut all = parse(text).expect(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn kind(text: &str) -> StatementKind {
    one(text).kind
}

#[test]
fn a_text_is_cut_into_statements() {
    let all = parse("select 1; ; select ';' -- ;\n; /* ; */").expect("valid");
    let texts: Vec<&str> = all.iter().map(|s| s.text.as_ref()).collect();
    assert_eq!(texts, ["select 1", "select ';'"]);
    assert_eq!(kind("  -- nothing\n"), StatementKind::Empty);
    assert_eq!(kind(""), StatementKind::Empty);
}

#[test]
fn transaction_commands() {
    let modes = |isolation, read_only| TxnModes { isolation, read_only, ..TxnModes::default() };
    assert_eq!(kind("BEGIN"), StatementKind::Begin(TxnModes::default()));
    assert_eq!(
        kind("start transaction isolation level serializable, read only"),
        StatementKind::Begin(modes(Some(IsolationLevel::Serializable), Some(true)))
    );
    assert_eq!(
        kind("begin work isolation level repeatable read read write"),
        StatementKind::Begin(modes(Some(IsolationLevel::RepeatableRead), Some(false)))
    );
    assert_eq!(kind("end transaction"), StatementKind::Commit(false));
    assert_eq!(kind("commit and chain"), StatementKind::Commit(true));
    assert_eq!(kind("abort"), StatementKind::Rollback(false));
    assert_eq!(kind("rollback to savepoint a"), StatementKind::RollbackTo("a".into()));
    assert_eq!(
        kind("set session characteristics as transaction isolation level read committed"),
        StatementKind::SetCharacteristics(modes(Some(IsolationLevel::ReadCommitted), None))
    );
    let error = parse("set transaction isolation level nonsense").expect_err("no level");
    assert_eq!(error.message, "syntax error at or near \"nonsense\"");
    assert_eq!(error.position, Some(33));
}

#[test]
fn settings_commands() {
    let value = |v: &str| SetValue::Values(vec![v.into()]);
    assert_eq!(kind("set a.b = 'X'"), StatementKind::Set("a.b".into(), value("X"), false));
    assert_eq!(kind("SET LOCAL x TO off"), StatementKind::Set("x".into(), value("off"), true));
    assert_eq!(
        kind("set time zone 'UTC'"),
        StatementKind::Set("timezone".into(), value("UTC"), false)
    );
    assert_eq!(kind("set x to default"), StatementKind::Set("x".into(), SetValue::Default, false));
    assert_eq!(kind("show all"), StatementKind::Show(None));
    assert_eq!(
        kind("show transaction isolation level"),
        StatementKind::Show(Some("transaction_isolation".into()))
    );
    assert_eq!(kind("reset all"), StatementKind::Reset(None));
    assert_eq!(kind("deallocate prepare s"), StatementKind::Deallocate(Some("s".into())));
}

#[test]
fn splits_are_read() {
    let StatementKind::SplitAt(target, rows) =
        kind("alter table t split at values (1, 'a'), (-2, null)")
    else {
        panic!("no split");
    };
    assert_eq!(target, SplitTarget::Table("t".into()));
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(rows, [vec![text("1"), text("a")], vec![text("-2"), None]]);
    assert!(matches!(
        kind("ALTER INDEX i SPLIT AT VALUES (1)"),
        StatementKind::SplitAt(SplitTarget::Index(_), _)
    ));
}

#[test]
fn locking_clauses_are_taken_off() {
    use LockStrength::{KeyShare, NoKeyUpdate, Share, Update};
    use LockWait::{Block, NoWait, SkipLocked};
    let cases = [
        ("select * from t for update", vec![(None, Update, Block)]),
        ("select * from t for no key update nowait", vec![(None, NoKeyUpdate, NoWait)]),
        (
            "select * from t, u for key share of t for share of u skip locked",
            vec![(Some("t"), KeyShare, Block), (Some("u"), Share, SkipLocked)],
        ),
        ("select substring('abc' from 1 for 2)", vec![]),
    ];
    for (text, locks) in cases {
        let parsed = one(text).parse_plan().expect(text);
        let found = parsed.locks.iter();
        let found: Vec<_> =
            found.map(|lock| (lock.table.as_deref(), lock.strength, lock.wait)).collect();
        assert_eq!(found, locks, "{text}");
        let ast::Statement::Query(query) = parsed.statement else { panic!("{text}") };
        assert!(query.locks.is_empty());
    }
    let state = |text: &str| one(text).parse_plan().expect_err(text).sqlstate;
    assert_eq!(
        state("select * from (select * from t for update) s"),
        SqlState::FEATURE_NOT_SUPPORTED
    );
}

/// The function a text asks for, and what its column is called.
fn fate(text: &str) -> (FateQuery, String) {
    match kind(text) {
        StatementKind::Fate(Fate { query, column }) => (query, column),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn txn_status_is_a_command_only_where_it_stands_alone() {
    let token = |source, column: &str| (FateQuery::TxnStatus(source), column.to_owned());
    let text = TokenSource::Text("a".into());
    assert_eq!(fate("select txn_status('a')"), token(text.clone(), "txn_status"));
    assert_eq!(fate("select TXN_STATUS('a') as \"S\""), token(text, "S"));
    assert_eq!(fate("SELECT txn_status($1) AS s"), token(TokenSource::Parameter, "s"));
    assert_eq!(fate("SELECT txn_status($1) s"), token(TokenSource::Parameter, "s"));
    for text in ["select txn_status('a'::text)", "select txn_status(cast('a' as varchar))"] {
        let source = TokenSource::Text("a".into());
        assert_eq!(fate(text), token(source, "txn_status"));
    }
    for text in [
        "select txn_status from t",
        "select txn_status('a') from t",
        "select txn_status(b) from t",
        "select txn_status('a') where true",
        "select txn_status('a'), 1",
        "select txn_status('a') || 'b'",
    ] {
        assert_eq!(kind(text), StatementKind::Plan, "{text}");
    }
}

#[test]
fn txn_status_takes_a_literal_or_a_parameter() {
    for (text, place) in [
        ("select txn_status()", None),
        ("select txn_status(null)", Some(19)),
        ("select txn_status('a', 'b')", Some(19)),
        ("select txn_status('a' || 'b') as s", Some(19)),
        ("select txn_status($2)", Some(19)),
        ("select txn_status(1)", Some(19)),
        ("select txn_status((select 'a'))", Some(19)),
        ("select pg_xact_status('7'::text)", Some(23)),
        ("select txid_status()", None),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{text}");
        let what = "() of anything but one literal or one parameter is not supported";
        assert!(error.message.ends_with(what), "{text}: {}", error.message);
        assert_eq!(error.position, place, "{text}");
    }
    let error = parse("select pg_current_xact_id(1)").expect_err("it has no arguments");
    assert_eq!(error.sqlstate, SqlState::UNDEFINED_FUNCTION);
}

#[test]
fn ids_of_transactions_are_asked_for_alone() {
    let id = |assign, column: &str| (FateQuery::XactId { assign }, column.to_owned());
    assert_eq!(fate("select pg_current_xact_id()"), id(true, "pg_current_xact_id"));
    assert_eq!(fate("select txid_current() as id"), id(true, "id"));
    let if_assigned = "pg_current_xact_id_if_assigned";
    assert_eq!(fate(&format!("select {if_assigned}()")), id(false, if_assigned));
    let status = |source, column: &str| (FateQuery::XactStatus(source), column.to_owned());
    let seven = TokenSource::Text("7".into());
    assert_eq!(fate("select pg_xact_status(7)"), status(seven.clone(), "pg_xact_status"));
    assert_eq!(fate("select txid_status('7')"), status(seven, "txid_status"));
    let given = status(TokenSource::Parameter, "pg_xact_status");
    assert_eq!(fate("select pg_xact_status($1)"), given);
    assert_eq!(fate("select pg_xact_status($1::xid8)"), given);
    let cast = status(TokenSource::Text("123".into()), "pg_xact_status");
    assert_eq!(fate("select pg_xact_status('123'::xid8)"), cast);
    assert_eq!(fate("select pg_xact_status(cast(123 as bigint))"), cast);
}

#[test]
fn syntax_errors_point_at_the_token() {
    let error = |text: &str| parse(text).and_then(|all| all[0].parse_plan()).expect_err(text);
    let e = error("selekt 1");
    assert_eq!((e.sqlstate, e.position), (SqlState::SYNTAX_ERROR, Some(1)));
    assert_eq!(e.message, "syntax error at or near \"selekt\"");
    let e = error("select 1 +");
    assert_eq!(e.message, "syntax error at end of input");
    let e = error("select 1\nfrom t where )");
    assert_eq!((e.message.as_str(), e.position), ("syntax error at or near \")\"", Some(23)));
    let e = error("select 1, :a");
    assert_eq!((e.message.as_str(), e.position), ("syntax error at or near \":\"", Some(11)));
    let e = error("select 'abc");
    assert_eq!(e.sqlstate, SqlState::SYNTAX_ERROR);
}

#[test]
fn errors_about_names_point_at_the_name() {
    let statement = one("select 1, nope from err");
    let error = SqlError::new(SqlState::UNDEFINED_COLUMN, "column \"nope\" does not exist");
    assert_eq!(statement.located(error).position, Some(11));
    let statement = one("select 1, err.nope, nope from err");
    let error = SqlError::new(SqlState::UNDEFINED_COLUMN, "column err.nope does not exist");
    assert_eq!(statement.located(error).position, Some(11));
    let error = SqlError::new(SqlState::UNDEFINED_TABLE, "relation \"err\" does not exist");
    assert_eq!(statement.located(error).position, Some(31));
    let statement = one("select a + 'x' from t where f(b) = 'y'");
    let error = SqlError::new(SqlState::UNDEFINED_FUNCTION, "function f(text) does not exist");
    assert_eq!(statement.located(error).position, Some(29));
    let error =
        SqlError::new(SqlState::UNDEFINED_FUNCTION, "operator does not exist: date + boolean");
    assert_eq!(statement.located(error).position, Some(10));
    let message = "invalid input syntax for type integer: \"x\"";
    let error = SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, message);
    assert_eq!(statement.located(error).position, Some(12));
    let error = SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero");
    assert_eq!(statement.located(error).position, None);
}

#[test]
fn literals_are_lifted_where_that_is_safe() {
    let lifted = |text: &str| one(text).lifted.len();
    assert_eq!(lifted("select a from t where b = 1 and c = 'x'"), 2);
    assert_eq!(lifted("insert into t (a, b) values (1, 'x'), (2, -3.5)"), 4);
    assert_eq!(lifted("update t set a = a + 1 where b in (1, 2)"), 3);
    assert_eq!(lifted("delete from t where a between 1 and 2"), 2);
    // What must stay as it is.
    assert_eq!(lifted("select 1, 'a' from t"), 0);
    assert_eq!(lifted("select a from t group by 1 order by 2 limit 3 offset 4"), 0);
    assert_eq!(lifted("select a from t where d = date '2024-01-01'"), 0);
    assert_eq!(lifted("select a from t where d > c - interval '1 day'"), 0);
    assert_eq!(lifted("select a from t where b = '1'::int"), 0);
    assert_eq!(lifted("select a from t where b = cast(c as varchar(10))"), 0);
    assert_eq!(lifted("select a from t where round(b, 2) > c"), 0);
    assert_eq!(lifted("select a from t where b = $1 and c = 2"), 0);
}

#[test]
fn the_fingerprint_is_that_of_the_plan() {
    let print = |text: &str| one(text).fingerprint;
    let base = print("select a from t where b = 1");
    assert_eq!(print("SELECT a FROM t\nWHERE b=2 -- comment"), base);
    for other in [
        "select a from t where b = 5000000000",
        "select a from t where b = '1'",
        "select a from t where b = 1.5",
        "select \"A\" from t where b = 1",
        "select a from t where b = 1 limit 1",
    ] {
        assert_ne!(print(other), base, "{other}");
    }
    assert_ne!(print("select 1"), print("select 2"));
    assert_ne!(print("select a from t where b = 1.5"), print("select a from t where b = 1.25"));
}

#[test]
fn explain_options_in_brackets_count() {
    for (text, wanted) in [
        ("explain (analyze, costs off) select 1", true),
        ("explain analyze select 1", true),
        ("explain (analyze false) select 1", false),
        ("explain select 1", false),
    ] {
        let ast::Statement::Explain { analyze, .. } = one(text).parse_plan().expect(text).statement
        else {
            panic!("{text}")
        };
        assert_eq!(analyze, wanted, "{text}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let text = format!("select {}1{}", "(".repeat(5000), ")".repeat(5000));
    let error = parse(&text).and_then(|all| all[0].parse_plan()).expect_err("too deep");
    assert_eq!(error.sqlstate, SqlState::STATEMENT_TOO_COMPLEX);
}

proptest! {
    #[test]
    fn random_text_does_no_harm(text in "\\PC{0,60}") {
        if let Ok(all) = parse(&text) {
            for statement in all {
                let _ = statement.parse_plan();
            }
        }
    }

    #[test]
    fn random_words_do_no_harm(words in prop::collection::vec(
        prop::sample::select(vec!["select", "from", "t", "(", ")", ",", "'x'", "1", "where", "=",
            "set", "begin", "alter", "table", "split", "at", "values", "for", "update", "insert",
            "into", "group", "by", "create", "drop", "index", "int", "::", "$1", ";"]), 0..14)) {
        if let Ok(all) = parse(&words.join(" ")) {
            for statement in all {
                let _ = statement.parse_plan();
            }
        }
    }
}
