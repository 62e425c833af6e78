//! The shell in pipe mode against a real PostgreSQL, compared with psql itself where it says the
//! same.

use super::session::Console;
use super::*;
use clap::Parser;
use quorate_benches::local_postgres::LocalPostgres;
use std::io::{Cursor, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: ShellOptions,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panicked").clone()).expect("is UTF-8")
    }
}

struct Ran {
    code: u8,
    out: String,
    err: String,
}

async fn shell(url: &str, arguments: &[&str], input: &str) -> Ran {
    let options =
        Cli::try_parse_from([&["sql", url], arguments].concat()).expect("arguments parse").options;
    let (out, err) = (Buffer::default(), Buffer::default());
    let console = Console { out: Box::new(out.clone()), err: Box::new(err.clone()) };
    let input = Box::new(Cursor::new(input.to_owned().into_bytes()));
    let code = run_with(options, Some(input), console).await.expect("the server is there");
    Ran { code, out: out.text(), err: err.text() }
}

/// The same through psql; standard output, standard error, exit code.
fn psql(url: &str, arguments: &[&str], input: &str) -> Option<Ran> {
    let mut child = Command::new("psql")
        .args(["-X", url])
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .inspect_err(|error| eprintln!("SKIPPED comparing with psql: {error}"))
        .ok()?;
    let mut stdin = child.stdin.take().expect("was asked for");
    stdin.write_all(input.as_bytes()).expect("psql reads");
    drop(stdin);
    let output = child.wait_with_output().expect("psql ends");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Some(Ran {
        code: code.expect("psql ended by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    })
}

const SCRIPT: &str = "\
create table t (id int primary key, name text, price numeric(8,2), \"Wide Name\" bool);
insert into t values (1, 'one', 1.50, true), (20, null, 12345.6, null), (3, 'drei;', 0, false);
select * from t order by id;
select name, id from t where id > 100;
update t set name = 'äöü 日本' where id = 3 returning id, name;
begin; delete from t; rollback;
\\x
select * from t order by id;
select 1 as a, 'b' as a_much_longer_name_than_the_label;
select * from t where false;
\\x off
select E'two\\nlines' as x, 7 as n;
select 'last' as a,
  E'mu\\nlti' /* comment; */ as b -- and; more
;
select $$dollar;$$ as q\\gx
\\echo done
select;
show server_encoding;
\\t
select 1, 'x';
\\t
\\a
select * from t order by id;
\\x
select id, name from t order by id;
select 'no semicolon'
";

#[tokio::test]
async fn prints_what_psql_prints() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    let ours = shell(&url, &[], SCRIPT).await;
    assert_eq!(ours.err, "");
    assert_eq!(ours.code, 0);
    assert!(ours.out.contains("CREATE TABLE\nINSERT 0 3\n id | name"), "{}", ours.out);
    shell(&url, &["-c", "drop table t"], "").await;
    let Some(theirs) = psql(&url, &[], SCRIPT) else {
        return;
    };
    assert_eq!(ours.out, theirs.out);

    let wrong = "select 1;\nselect nothing from nowhere;\nselect 1 + 'a';\nselect 'ä', oops;\n\
        create temp table t2 (id int primary key);\ninsert into t2 values (1), (1);\nselect 2;\n\
        select some_function_that_is_missing(1, 'with a long list of arguments', 2, 3, 4, 5);\n";
    let (ours, theirs) = (shell(&url, &[], wrong).await, psql(&url, &[], wrong));
    let theirs = theirs.expect("psql is there");
    assert_eq!((ours.out, ours.err), (theirs.out, theirs.err));
    assert_eq!((ours.code, theirs.code), (0, 0));

    let queries = "select id, name from t order by id; select 'a,b' as x, 'say \"hi\"', null;";
    for flags in [vec!["--csv"], vec!["-A"], vec!["-t"], vec!["-At"], vec!["-x", "-t"], vec!["-q"]]
    {
        let (ours, theirs) = (shell(&url, &flags, queries).await, psql(&url, &flags, queries));
        assert_eq!(ours.out, theirs.expect("psql is there").out, "{flags:?}");
    }
}

#[tokio::test]
async fn exit_codes_are_psqls() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    let folder = tempfile::tempdir().expect("makes a folder");
    let file = folder.path().join("inner.sql");
    std::fs::write(&file, "select 1;\nselect oops;\n\\q\nselect 'not reached';\n").expect("writes");
    let file = file.to_str().expect("is text");
    let include = format!("\\i {file}\nselect 'outer';\n");
    let cases: Vec<(Vec<&str>, &str, u8)> = vec![
        (vec![], "select oops;\nselect 1;\n", 0),
        (vec!["-v", "ON_ERROR_STOP=1"], "select oops;\nselect 1;\n", 3),
        (vec![], "\\set ON_ERROR_STOP on\nselect oops;\n", 3),
        (vec!["-c", "select oops"], "", 1),
        (vec!["-c", "select oops", "-c", "select 1"], "", 0),
        (vec!["-f", file], "", 0),
        (vec!["-v", "ON_ERROR_STOP=1", "-f", file], "", 3),
        (vec!["-f", "/no/such/file"], "", 1),
        (vec![], &include, 0),
        (vec![], "select 1;\n\\q\nselect 2;", 0),
    ];
    for (arguments, input, expected) in cases {
        let ours = shell(&url, &arguments, input).await;
        assert_eq!(ours.code, expected, "{arguments:?} {input:?}: {} {}", ours.out, ours.err);
        let Some(theirs) = psql(&url, &arguments, input) else {
            continue;
        };
        assert_eq!(theirs.code, expected, "psql differs: {arguments:?} {input:?}");
        assert_eq!(ours.out, theirs.out, "{arguments:?} {input:?}");
    }
    let ran = shell(&url, &["-f", file], "").await;
    assert!(
        ran.err.starts_with(&format!("quorate:{file}:2: ERROR:  column \"oops\"")),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn the_catalog_is_shown() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let url = server.url();
    let setup = "create table orders (id int primary key, name varchar(20) not null, \
        price numeric(12,2) default 0, at timestamp, code char(3)); \
        create index by_name on orders (name, id); create table bare (x text);";
    shell(&url, &[], setup).await;
    let described = shell(&url, &[], "\\d orders\n\\d bare\n").await;
    let expected = "\x20                  Table \"public.orders\"
 Column |            Type             | Nullable | Default 
--------+-----------------------------+----------+---------
 id     | integer                     | not null | 
 name   | character varying(20)       | not null | 
 price  | numeric(12,2)               |          | 0
 at     | timestamp without time zone |          | 
 code   | character(3)                |          | 
Indexes:
    \"by_name\" btree (name, id)
    \"orders_pkey\" UNIQUE, btree (id)

        Table \"public.bare\"
 Column | Type | Nullable | Default 
--------+------+----------+---------
 x      | text |          | 

";
    assert_eq!(described.out, expected);
    let lists = shell(&url, &["-At"], "\\dt\n\\dt ord*\n\\di\n\\d\n\\l\n").await;
    let expected = "public|bare|table|postgres\npublic|orders|table|postgres\n\
        public|orders|table|postgres\n\
        public|by_name|index|orders\npublic|orders_pkey|index|orders\n\
        public|bare|table\npublic|orders|table\n\
        postgres\ntemplate0\ntemplate1\n";
    assert_eq!(lists.out, expected);
    let missing = shell(&url, &[], "\\d nowhere\n\\foo\n").await;
    let expected = "Did not find any relation named \"nowhere\".\n\
        invalid command \\foo\nTry \\? for help.\n";
    assert_eq!(missing.err, expected);
}

#[tokio::test]
async fn a_cancel_request_ends_the_query_and_not_the_session() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let target = wire::Target::parse(&server.url()).expect("parses");
    let mut wire = wire::Wire::connect(&target).await.expect("connects");
    let canceller = wire.canceller();
    wire.query("select pg_sleep(600)").await.expect("is sent");
    // A cancel request that comes before the query has begun is lost: repeat it.
    let mut requests = 0;
    let error = loop {
        tokio::select! {
            answer = wire.answer() => match answer.expect("the session lives") {
                wire::Answer::Error(error) => break error,
                wire::Answer::Columns(_) => {}
                other => panic!("unexpected {other:?}"),
            },
            sent = canceller.cancel() => {
                sent.expect("is sent");
                requests += 1;
            }
        }
    };
    assert_eq!(error.code, "57014");
    assert!(matches!(wire.answer().await, Ok(wire::Answer::Ready)));
    // Each of the others may come late, and end what runs then.
    for late in 0..=requests {
        wire.query("select 1").await.expect("is sent");
        match wire.answer().await.expect("the session lives") {
            wire::Answer::Columns(_) => return,
            wire::Answer::Error(error) if error.code == "57014" => {}
            other => panic!("unexpected {other:?}"),
        }
        assert!(matches!(wire.answer().await, Ok(wire::Answer::Ready)), "{late}");
    }
    panic!("more queries were cancelled than requests were sent");
}

#[tokio::test]
async fn passwords_are_proved_and_errors_have_one_line() {
    let Some(server) = LocalPostgres::start().expect("PostgreSQL starts") else {
        return;
    };
    let setup = "create role scram login password 'pass word';";
    shell(&server.url(), &[], setup).await;
    server.require_password("scram").expect("reloads");
    let url = format!("postgres://scram:pass%20word@127.0.0.1:{}/postgres", server.port());
    let ran = shell(&url, &["-At", "-c", "select current_user"], "").await;
    assert_eq!(ran.out, "scram\n");
    let failing = [
        (url.replace("pass%20word", "wrong"), "password authentication failed"),
        (url.replace(":pass%20word", ""), "asks for a password"),
        ("postgres://u@127.0.0.1:1/d".to_owned(), "cannot connect to 127.0.0.1:1: "),
        (
            format!("postgres://postgres@127.0.0.1:{}/nothing", server.port()),
            "database \"nothing\" does not exist",
        ),
    ];
    for (url, expected) in failing {
        let options = ShellOptions { url, ..ShellOptions::default() };
        let error = run_with(options, None, Console::standard()).await.expect_err("is refused");
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        assert_eq!(error.exit_code(), 2);
    }
}
