//! Every row of the table against PostgreSQL itself: each function and operator on a few values of
//! its types, result or SQLSTATE compared.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use futures::executor::block_on;

use super::table::{OVERLOADS, T};
use crate::testing::MemDb;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Functions with a different value at every call.
const RANDOM: [&str; 2] = ["random", "gen_random_uuid"];

/// Functions of ours that constructs of the grammar become.
const OWN: [&str; 5] =
    ["pg_like_escape", "pg_similar", "pg_replacement", "pg_get_expr", "array_to_string"];

/// Expressions that differ, each for a reason.
const DIFFERENT: &[&str] = &[
    // PostgreSQL's own cube root is one digit off.
    "cbrt(",
    // PostgreSQL shows 16383 digits of a zero, 2000 are shown here.
    "(0.0, 2147483647)",
];

/// Values of a type, as SQL.
fn samples(ty: T) -> &'static [&'static str] {
    match ty {
        T::Bool => &["true", "null::bool"],
        T::I2 => &["7::int2", "(-32768)::int2", "(-3)::int2"],
        T::I4 => &["2", "-7", "0", "2147483647", "null::int4"],
        T::I8 => &["9223372036854775807", "-5::int8", "3::int8"],
        T::F4 => &["1.5::float4", "-0.25::float4"],
        T::F8 => &["0.5::float8", "-2.5::float8", "0::float8", "'NaN'::float8", "3::float8"],
        T::Num => &["2.50", "-7.125", "0.0", "12345.6", "null::numeric", "3::numeric"],
        T::Text => &["'abc'", "''", "'Straße b'", "'  xbx '", "'b'", "null::text"],
        T::Bytea => &["'\\x00ff41'::bytea", "''::bytea"],
        T::Date => &["date '2024-02-29'", "date '1969-12-31'"],
        T::Ts => &["timestamp '2024-02-29 13:14:15.678'", "timestamp '1960-05-05'"],
        T::Tz => &["timestamptz '2024-02-29 13:14:15+00'"],
        T::Iv => &["interval '1 year 2 mons 3 days 04:05:06'", "interval '-90 minutes'"],
        T::Oid => &["23::oid", "1700::oid", "25::oid", "1114::oid"],
        T::Uuid => &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid"],
    }
}

/// What must be one of a few words.
fn words(name: &str, i: usize) -> Option<&'static [&'static str]> {
    match (name, i) {
        ("date_trunc", 0) => Some(&["'day'", "'month'", "'hour'", "'week'", "'quarter'", "'x'"]),
        ("to_char", 1) => Some(&["'YYYY-MM-DD HH24:MI:SS.US'", "'999,990.00'", "'FMDay DD Month'"]),
        ("to_date" | "to_timestamp", 0) => Some(&["'2024-02-29'", "'1999-12-31 10:11:12'"]),
        ("to_date" | "to_timestamp", 1) => Some(&["'YYYY-MM-DD'", "'YYYY-MM-DD HH24:MI:SS'"]),
        ("timezone", 0) => Some(&["'Europe/Berlin'", "'EST'", "'x'", "'-03:30'"]),
        ("format_type", 1) => Some(&["-1", "null"]),
        ("encode", 1) | ("decode", 1) => Some(&["'hex'", "'base64'", "'x'"]),
        ("decode", 0) => Some(&["'00ff'", "'YWJj'", "'zz'"]),
        _ => None,
    }
}

fn symbol(name: &str) -> Option<&'static str> {
    let symbol = super::table::operator_symbol(name);
    (!symbol.is_empty()).then_some(symbol)
}

/// Calls of a function with all samples, or a part of them if they are many.
fn calls(name: &str, args: &[T]) -> Vec<String> {
    let mut rows: Vec<Vec<&str>> = vec![vec![]];
    for (i, ty) in args.iter().enumerate() {
        let values = words(name, i).unwrap_or(samples(*ty));
        rows = rows
            .iter()
            .flat_map(|row| {
                values.iter().map(|v| {
                    let mut row = row.clone();
                    row.push(v);
                    row
                })
            })
            .collect();
    }
    let step = rows.len().div_ceil(40).max(1);
    rows.into_iter()
        .step_by(step)
        .map(|row| match (symbol(name), row.as_slice()) {
            (Some(op), [a, b]) => format!("({a}) {op} ({b})"),
            (Some(op), [a]) => format!("{op} ({a})"),
            _ => format!("{name}({})", row.join(", ")),
        })
        .collect()
}

fn expressions() -> Vec<String> {
    let mut out = Vec::new();
    for overload in OVERLOADS {
        if !RANDOM.contains(&overload.name) && !OWN.contains(&overload.name) {
            out.extend(calls(overload.name, overload.args));
        }
    }
    let numbers = [T::I2, T::I4, T::I8, T::F4, T::F8, T::Num];
    for op in ["+", "-", "*", "/", "%", "=", "<", ">="] {
        for (a, b) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (*a, *b))) {
            for (x, y) in samples(a).iter().zip(samples(b).iter().rev()) {
                out.push(format!("({x}) {op} ({y})"));
            }
        }
    }
    let times = [T::Date, T::Ts, T::Tz, T::Iv, T::I4];
    for op in ["+", "-", "<", "="] {
        for (a, b) in times.iter().flat_map(|a| times.iter().map(move |b| (*a, *b))) {
            for x in samples(a) {
                out.push(format!("({x}) {op} ({})", samples(b)[0]));
            }
        }
    }
    let all = [
        T::Bool,
        T::I2,
        T::I4,
        T::I8,
        T::F4,
        T::F8,
        T::Num,
        T::Text,
        T::Bytea,
        T::Date,
        T::Ts,
        T::Tz,
        T::Iv,
        T::Uuid,
    ];
    let targets = [
        "bool",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "numeric(5,2)",
        "text",
        "varchar(3)",
        "char(5)",
        "bytea",
        "date",
        "timestamp",
        "timestamptz",
        "uuid",
        "interval",
    ];
    for ty in all {
        for target in targets {
            out.extend(samples(ty).iter().map(|v| format!("({v})::{target}")));
        }
        let field = ["year", "month", "day", "hour", "second", "epoch", "dow", "week"];
        if matches!(ty, T::Date | T::Ts | T::Tz | T::Iv) {
            for (f, v) in field.iter().flat_map(|f| samples(ty).iter().map(move |v| (f, v))) {
                out.push(format!("extract({f} from {v})"));
            }
        }
        for v in samples(ty) {
            out.push(format!("coalesce(null, {v})"));
            out.push(format!("greatest({v}, {})", samples(ty)[0]));
            out.push(format!("{v} || 'x'"));
            out.push(format!("concat({v}, 'x')"));
            out.push(format!("case when {v} is null then null else {v} end"));
            out.push(format!("nullif({v}, {})", samples(ty)[0]));
            out.push(format!("abs({v})"));
        }
    }
    out
}

/// A server that is stopped and removed at the end.
struct Judge {
    folder: std::path::PathBuf,
    root: bool,
    port: u16,
}

impl Judge {
    fn program(&self, name: &str) -> Command {
        let path = Path::new(PROGRAMS).join(name);
        let mut command = if self.root { Command::new("runuser") } else { Command::new(&path) };
        if self.root {
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        command
    }

    fn start() -> Option<Self> {
        if !Path::new(PROGRAMS).join("initdb").exists() {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL 15 is missing");
            eprintln!(
                "SKIPPED: PostgreSQL 15 is not installed, the table is compared with nothing"
            );
            return None;
        }
        let root = std::fs::metadata("/root").is_ok_and(|_| std::fs::read_dir("/root").is_ok());
        let folder = std::env::temp_dir().join(format!("quorate-table-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
        let judge = Self { folder, root, port };
        if root {
            let owner = Command::new("chown").arg("postgres").arg(&judge.folder).status();
            assert!(owner.expect("chown").success());
        }
        let data = judge.folder.join("data");
        let mut init = judge.program("initdb");
        init.arg("-D").arg(&data).args(["-A", "trust", "--locale=C", "-E", "UTF8", "-N"]);
        assert!(init.args(["-U", "quorate"]).status().expect("initdb").success(), "initdb");
        let options =
            format!("-p {port} -h 127.0.0.1 -k {} -c timezone=UTC -F", judge.folder.display());
        let mut start = judge.program("pg_ctl");
        start.arg("-D").arg(&data).args(["-o", &options, "-w", "start", "-l"]);
        start.arg(judge.folder.join("log"));
        assert!(start.status().expect("pg_ctl").success(), "the server starts");
        Some(judge)
    }

    /// The answers to expressions: text, `NULL`, or `ERROR` and the SQLSTATE.
    fn ask(&self, expressions: &[String]) -> Vec<String> {
        let mut script = String::from("\\set VERBOSITY sqlstate\n\\pset null NULL\n");
        for e in expressions {
            script.push_str(&format!("\\echo '@@'\nselect {e};\n"));
        }
        let mut child = Command::new(Path::new(PROGRAMS).join("psql"))
            .args(["-X", "-A", "-t", "-q", "-U", "quorate", "-h", "127.0.0.1", "-d", "postgres"])
            .args(["-p", &self.port.to_string(), "-f"])
            .arg({
                let path = self.folder.join("script.sql");
                let mut file = std::fs::File::create(&path).expect("a file");
                file.write_all(script.as_bytes()).expect("written");
                path
            })
            .env("PGOPTIONS", "")
            .stdout(Stdio::piped())
            .stderr(Stdio::from(std::fs::File::create(self.folder.join("errors")).expect("a file")))
            .spawn()
            .expect("psql");
        let mut out = String::new();
        std::io::Read::read_to_string(child.stdout.as_mut().expect("piped"), &mut out)
            .expect("UTF-8");
        child.wait().expect("psql ends");
        // Errors are on another stream, in the order of the empty answers.
        let errors =
            std::fs::read_to_string(self.folder.join("errors")).expect("what psql complained of");
        let mut errors = errors.lines().filter_map(|l| l.rsplit_once("ERROR:  ").map(|(_, c)| c));
        out.split("@@\n")
            .skip(1)
            .map(|answer| match answer {
                "" => format!("ERROR {}", errors.next().unwrap_or("?")),
                text => text.trim_end_matches('\n').to_owned(),
            })
            .collect()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let data = self.folder.join("data");
        let mut stop = self.program("pg_ctl");
        let _ = stop.arg("-D").arg(&data).args(["-m", "immediate", "-w", "stop"]).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn every_row_of_the_table_is_postgresqls() {
    let Some(judge) = Judge::start() else { return };
    let expressions = expressions();
    let wanted = judge.ask(&expressions);
    assert_eq!(wanted.len(), expressions.len(), "an answer for each");
    let db = MemDb::new();
    let (mut equal, mut refused, mut different) = (0, 0, Vec::new());
    for (expression, wanted) in expressions.iter().zip(&wanted) {
        let got = match block_on(db.run(&format!("select {expression}"))) {
            Ok(answer) => match answer.rows.first().and_then(|row| row.first()) {
                Some(Some(text)) => text.clone(),
                _ => "NULL".into(),
            },
            Err(error) => format!("ERROR {}", error.sqlstate),
        };
        if got == *wanted {
            equal += 1;
        } else if got == "ERROR 0A000" {
            refused += 1;
        } else if !DIFFERENT.iter().any(|known| expression.contains(known)) {
            different.push(format!("{expression}: PostgreSQL {wanted}, here {got}"));
        }
    }
    eprintln!("{equal} equal, {refused} refused with 0A000, {} different", different.len());
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(equal > refused, "most of the table is there");
}
