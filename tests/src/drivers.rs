//! What drivers rely on, asked through tokio-postgres and through raw messages.
//!
//! Each function takes a connection URL and panics where the server differs from PostgreSQL, so
//! that PostgreSQL itself can be asked first. Tables are dropped before they are made.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::future::join_all;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

use crate::bank::{connect, sqlstate};
use crate::binary;
use crate::wire::{Mode, Url, WireClient, message, put_cstr};

/// How long a cancelled statement may go on.
const CANCEL_LIMIT: Duration = Duration::from_secs(20);

/// A binary value as it is on the wire, of whatever type the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw, Box<dyn StdError + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

async fn session(url: &str) -> Client {
    connect(url).await.expect("the server answers")
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn fresh_table(client: &Client, name: &str, columns: &str) {
    run(client, &format!("DROP TABLE IF EXISTS {name}")).await;
    run(client, &format!("CREATE TABLE {name} ({columns})")).await;
}

fn code(result: Result<impl Sized, Error>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => sqlstate(&error),
    }
}

/// Text of a binary value of the row.
fn text(row: &tokio_postgres::Row, index: usize) -> String {
    let column = &row.columns()[index];
    match row.get::<_, Option<Raw>>(index) {
        None => "NULL".into(),
        Some(raw) => binary::to_text(column.type_().oid(), &raw.0)
            .unwrap_or_else(|error| panic!("{}: {error}", column.name())),
    }
}

/// Every type goes in as a binary parameter and comes back as a binary value.
pub async fn every_type_travels_in_binary(url: &str) {
    let client = session(url).await;
    fresh_table(
        &client,
        "every",
        "id int4 PRIMARY KEY, b bool, s int2, l int8, r float4, d float8, n numeric(12,4), t text, \
         v varchar(9), c char(4), x bytea, dt date, ts timestamp, tz timestamptz, u uuid",
    )
    .await;
    let insert = client
        .prepare(
            "INSERT INTO every VALUES \
             ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .await
        .expect("an insert with a parameter for every type can be prepared");
    let declared: Vec<String> =
        insert.params().iter().map(|parameter| parameter.name().to_owned()).collect();
    let expected = "int4 bool int2 int8 float4 float8 numeric text varchar bpchar bytea date \
                    timestamp timestamptz uuid";
    assert_eq!(declared.join(" "), expected);
    let numeric = [0, 3, 0, 1, 0x40, 0, 0, 4, 0, 1, 9, 0x29, 0x17, 0x70].to_vec();
    let micros = 757_382_400_123_456_i64.to_be_bytes().to_vec();
    let row: [&(dyn ToSql + Sync); 15] = [
        &7_i32,
        &true,
        &-2_i16,
        &i64::MIN,
        &1.5_f32,
        &-0.1_f64,
        &Raw(numeric),
        &"text ä",
        &"varchar",
        &"ab",
        &vec![0_u8, 255],
        &Raw(8766_i32.to_be_bytes().to_vec()),
        &Raw(micros.clone()),
        &Raw(micros),
        &Raw((1..=16).collect()),
    ];
    assert_eq!(client.execute(&insert, &row).await.expect("the row can be inserted"), 1);
    let null: Option<i32> = None;
    client
        .execute("INSERT INTO every (id, l, t) VALUES ($1, $2::int4, $3)", &[&8, &null, &"x"])
        .await
        .expect("NULL is a parameter too");
    let rows = client.query("SELECT * FROM every ORDER BY id", &[]).await.expect("a select works");
    let texts: Vec<String> = (0..15).map(|index| text(&rows[0], index)).collect();
    let expected = "7|t|-2|-9223372036854775808|1.5|-0.1|-12345.6000|text ä|varchar|ab  |\\x00ff|\
                    2024-01-01|2024-01-01 00:00:00.123456|2024-01-01 00:00:00.123456+00|\
                    01020304-0506-0708-090a-0b0c0d0e0f10";
    assert_eq!(texts.join("|"), expected);
    assert_eq!((text(&rows[1], 3), text(&rows[1], 7)), ("NULL".into(), "x".into()));
    for (index, column) in rows[0].columns().iter().enumerate() {
        let sql = format!("SELECT id FROM every WHERE {} = $1", column.name());
        let value: Raw = rows[0].get(index);
        let found = client.query(&sql, &[&value]).await;
        let found = found.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(found.len(), 1, "{sql}");
    }
}

/// A prepared statement is run many times; its parameters' types come from where they stand.
pub async fn prepared_statements_are_reused(url: &str) {
    let client = session(url).await;
    fresh_table(&client, "prep", "id int4 PRIMARY KEY, n int8 NOT NULL, t text").await;
    let insert =
        client.prepare("INSERT INTO prep VALUES ($1, $2, $3)").await.expect("it can be prepared");
    for id in 0..50_i32 {
        let (n, t) = (i64::from(id) * 10, format!("t{id}"));
        client.execute(&insert, &[&id, &n, &t]).await.expect("the row can be inserted");
    }
    let select = client
        .prepare("SELECT t, n + $2 FROM prep WHERE id = $1 AND n >= 0")
        .await
        .expect("it can be prepared");
    assert_eq!(select.params(), [Type::INT4, Type::INT8]);
    let columns: Vec<&Type> = select.columns().iter().map(|column| column.type_()).collect();
    assert_eq!(columns, [&Type::TEXT, &Type::INT8]);
    for id in [0_i32, 49, 7, 7] {
        let row = client.query_one(&select, &[&id, &1_i64]).await.expect("the row is there");
        assert_eq!(row.get::<_, String>(0), format!("t{id}"));
        assert_eq!(row.get::<_, i64>(1), i64::from(id) * 10 + 1);
    }
    assert!(client.query(&select, &[&99, &1_i64]).await.expect("it runs").is_empty());
    let range = client
        .prepare("SELECT count(*) FROM prep WHERE id BETWEEN $1 AND $2 AND t LIKE $3")
        .await
        .expect("it can be prepared");
    assert_eq!(range.params(), [Type::INT4, Type::INT4, Type::TEXT]);
    let row = client.query_one(&range, &[&10, &19, &"t1%"]).await.expect("it runs");
    assert_eq!(row.get::<_, i64>(0), 10);
    let update = client.prepare("UPDATE prep SET n = n + $1 WHERE id = $2").await.expect("it can");
    assert_eq!(client.execute(&update, &[&5_i64, &3]).await.expect("it runs"), 1);
    let limit = client.prepare("SELECT id FROM prep ORDER BY id LIMIT $1").await.expect("it can");
    assert_eq!(client.query(&limit, &[&4_i64]).await.expect("it runs").len(), 4);
    // A changed table does not leave the statement with the old shape.
    run(&client, "DROP TABLE prep").await;
    assert_eq!(code(client.query(&select, &[&1, &1_i64]).await), "42P01");
}

/// A portal hands out rows in portions within a transaction.
pub async fn portals_hand_out_rows_in_portions(url: &str) {
    let mut client = session(url).await;
    fresh_table(&client, "port", "id int4 PRIMARY KEY").await;
    let values: Vec<String> = (0..10).map(|id| format!("({id})")).collect();
    run(&client, &format!("INSERT INTO port VALUES {}", values.join(","))).await;
    let transaction = client.transaction().await.expect("a transaction begins");
    let portal = transaction
        .bind("SELECT id FROM port WHERE id >= $1 ORDER BY id", &[&1])
        .await
        .expect("a portal can be bound");
    let mut portions = Vec::new();
    for _ in 0..4 {
        let rows = transaction.query_portal(&portal, 4).await.expect("a portion comes");
        portions.push(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>());
    }
    assert_eq!(portions, [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9], vec![]]);
    transaction.commit().await.expect("it commits");
}

/// What is written between the portions of a portal is not in them, whether it stays or is undone.
pub async fn a_portal_does_not_see_what_is_written_later(url: &str) {
    let mut client = session(url).await;
    fresh_table(&client, "later", "id int4 PRIMARY KEY, filler text").await;
    // Several pages of the storage.
    run(
        &client,
        "INSERT INTO later SELECT g, repeat('x', 1000) FROM generate_series(1, 4000) AS t(g)",
    )
    .await;
    let transaction = client.transaction().await.expect("a transaction begins");
    let run = |sql| transaction.batch_execute(sql);
    run("INSERT INTO later VALUES (4001, '')").await.expect("it is inserted before");
    let portal = transaction
        .bind("SELECT id, length(filler) FROM later ORDER BY id", &[])
        .await
        .expect("a portal can be bound");
    let mut found = Vec::new();
    for portion in 0..50 {
        let rows = transaction.query_portal(&portal, 100).await.expect("a portion comes");
        found.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i32>(1))));
        match portion {
            0 => run("DELETE FROM later WHERE id = 3999; \
                      UPDATE later SET filler = '' WHERE id = 3998; \
                      INSERT INTO later VALUES (5000, '')")
            .await
            .expect("it is written"),
            1 => run("SAVEPOINT s; DELETE FROM later").await.expect("it is deleted"),
            3 => run("ROLLBACK TO s").await.expect("it is undone"),
            _ => {}
        }
    }
    let all = (1..=4000).map(|id| (id, 1000)).chain([(4001, 0)]);
    assert!(found.iter().copied().eq(all), "{} rows: {:?}", found.len(), &found.last());
    let row = transaction.query_one("SELECT count(*) FROM later", &[]).await.expect("it runs");
    assert_eq!(row.get::<_, i64>(0), 4001);
    transaction.rollback().await.expect("it is rolled back");
}

/// Statements sent without waiting for answers are answered in order, each on its own.
pub async fn pipelined_statements_are_answered_in_order(url: &str) {
    let client = session(url).await;
    fresh_table(&client, "pipe", "id int4 PRIMARY KEY").await;
    let select = client.prepare("SELECT $1::int4 + 1").await.expect("it can be prepared");
    let numbers: Vec<i32> = (0..100).collect();
    let answers = join_all(numbers.iter().map(|number| {
        let (client, select) = (&client, &select);
        async move { client.query_one(select, &[number]).await }
    }))
    .await;
    for (number, answer) in numbers.iter().zip(answers) {
        assert_eq!(answer.expect("it runs").get::<_, i32>(0), number + 1);
    }
    let (good, bad, after) = futures::join!(
        client.execute("INSERT INTO pipe VALUES (1)", &[]),
        client.execute("INSERT INTO pipe VALUES (1)", &[]),
        client.query_one("SELECT count(*) FROM pipe", &[]),
    );
    assert_eq!(good.expect("the first insert works"), 1);
    assert_eq!(code(bad), "23505");
    assert_eq!(after.expect("it runs").get::<_, i64>(0), 1);
}

/// Errors carry severity, SQLSTATE, message and, where they have one, position, table, detail.
pub async fn errors_carry_their_fields(url: &str) {
    let url = Url::parse(url).expect("a URL");
    let mut client = WireClient::connect(&url).await.expect("the server answers");
    for sql in ["DROP TABLE IF EXISTS err", "CREATE TABLE err (id int PRIMARY KEY, v int NOT NULL)"]
    {
        let reply = client.run(sql, Mode::Simple).await.expect("it answers");
        assert_eq!(reply.error, None, "{sql}");
    }
    let cases = [
        ("SELECT nope FROM err", "42703", Some("8")),
        ("SELECT * FROM nosuch", "42P01", Some("15")),
        ("SELECT 1 +", "42601", Some("11")),
        ("SELEC 1", "42601", Some("1")),
        ("SELECT 1 / 0", "22012", None),
        ("SELECT 'x'::int", "22P02", Some("8")),
        ("INSERT INTO err VALUES (1, NULL)", "23502", None),
    ];
    for mode in Mode::ALL {
        for (sql, state, position) in cases {
            let reply = client.run(sql, mode).await.expect("it answers");
            let error = reply.error.unwrap_or_else(|| panic!("{sql} works"));
            assert_eq!(error.sqlstate(), state, "{sql}");
            assert_eq!(error.field(b'S'), Some("ERROR"), "{sql}");
            assert_eq!(error.field(b'V'), Some("ERROR"), "{sql}");
            assert_eq!(error.field(b'P'), position, "the position in {sql} ({mode:?})");
            assert!(!error.message().is_empty(), "{sql}");
            assert_eq!(reply.status, b'I', "{sql}");
        }
    }
    let insert = "INSERT INTO err VALUES (1, 1)";
    client.run(insert, Mode::Simple).await.expect("it answers");
    let error = client.run(insert, Mode::Simple).await.expect("it answers").error;
    let error = error.expect("a duplicate key is refused");
    assert_eq!(error.sqlstate(), "23505");
    assert_eq!(error.field(b't'), Some("err"));
    assert_eq!(error.field(b'n'), Some("err_pkey"));
    assert_eq!(error.field(b'D'), Some("Key (id)=(1) already exists."));
}

/// The status byte follows the transaction, and after an error only its end is accepted.
pub async fn transaction_status_is_reported(url: &str) {
    let url = Url::parse(url).expect("a URL");
    let mut client = WireClient::connect(&url).await.expect("the server answers");
    let steps = [
        ("BEGIN", 'T', ""),
        ("SELECT 1", 'T', ""),
        ("SELECT 1/0", 'E', "22012"),
        ("SELECT 1", 'E', "25P02"),
        ("INSERT INTO nosuch VALUES (1)", 'E', "25P02"),
        ("COMMIT", 'I', ""),
        ("SELECT 1", 'I', ""),
        ("BEGIN", 'T', ""),
        ("SELECT 1/0", 'E', "22012"),
        ("ROLLBACK", 'I', ""),
    ];
    for mode in Mode::ALL {
        for (sql, status, state) in steps {
            let reply = client.run(sql, mode).await.expect("it answers");
            assert_eq!(char::from(reply.status), status, "after {sql} ({mode:?})");
            let found = reply.error.map(|error| error.sqlstate().to_owned());
            assert_eq!(found.unwrap_or_default(), state, "of {sql} ({mode:?})");
        }
        // A commit of a failed transaction says that it rolled back.
        client.run("BEGIN", mode).await.expect("it answers");
        client.run("SELECT 1/0", mode).await.expect("it answers");
        let reply = client.run("COMMIT", mode).await.expect("it answers");
        assert_eq!(reply.tag.as_deref(), Some("ROLLBACK"));
    }
}

/// Several statements in one simple query are one transaction unless they say otherwise.
pub async fn statements_in_one_text_are_one_transaction(url: &str) {
    let client = session(url).await;
    fresh_table(&client, "multi", "id int4 PRIMARY KEY").await;
    let failed = client
        .batch_execute("INSERT INTO multi VALUES (1); INSERT INTO multi VALUES (2); SELECT 1/0")
        .await;
    assert_eq!(code(failed), "22012");
    let count = client.query_one("SELECT count(*) FROM multi", &[]).await.expect("it runs");
    assert_eq!(count.get::<_, i64>(0), 0);
    let messages = client
        .simple_query("INSERT INTO multi VALUES (1), (2); SELECT id FROM multi ORDER BY id; ;")
        .await
        .expect("all of them work");
    let rows = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_)));
    assert_eq!(rows.count(), 2);
    let counts: Vec<u64> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(count) => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(counts[..2], [2, 2]);
    run(&client, "").await;
    run(&client, "-- nothing but a comment").await;
}

/// What a driver gets wrong is refused, and the session goes on.
pub async fn protocol_mistakes_are_refused(url: &str) {
    let url = Url::parse(url).expect("a URL");
    let mut client = WireClient::connect(&url).await.expect("the server answers");
    let bind = |statement: &'static str, value: &'static [u8]| {
        let mut out = message(b'B', |body| {
            put_cstr(body, "");
            put_cstr(body, statement);
            body.put_u16(1);
            body.put_u16(1);
            body.put_u16(1);
            body.put_i32(value.len() as i32);
            body.put_slice(value);
            body.put_u16(0);
        });
        out.put(message(b'E', |body| {
            put_cstr(body, "");
            body.put_i32(0);
        }));
        out
    };
    let parse = |sql: &str| {
        message(b'P', |body| {
            put_cstr(body, "");
            put_cstr(body, sql);
            body.put_u16(0);
        })
    };
    let cases: [(&str, BytesMut, &str); 5] = [
        ("an unknown statement", bind("nosuch", b""), "26000"),
        ("a parameter too many", [parse("SELECT 1"), bind("", b"1")].concat()[..].into(), "08P01"),
        (
            "a parameter too few",
            [parse("SELECT $1::int4 + $2::int4"), bind("", &[0, 0, 0, 1])].concat()[..].into(),
            "08P01",
        ),
        (
            "a binary int4 of three bytes",
            [parse("SELECT $1::int4"), bind("", &[0, 0, 1])].concat()[..].into(),
            "08P01",
        ),
        (
            "an unknown portal",
            message(b'E', |body| {
                put_cstr(body, "nosuch");
                body.put_i32(0);
            }),
            "34000",
        ),
    ];
    for (what, bytes, state) in cases {
        client.send(&bytes).await.expect("it listens");
        client.send(&message(b'S', |_| {})).await.expect("it listens");
        let mut found = String::from("no error");
        loop {
            let (kind, body) = client.receive().await.expect("it answers");
            match kind {
                b'E' => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let field = text.split('\0').find_map(|field| field.strip_prefix('C'));
                    found = field.unwrap_or_default().to_owned();
                }
                b'Z' => break,
                _ => {}
            }
        }
        assert_eq!(found, state, "{what}");
    }
    let reply = client.run("SELECT 1", Mode::ExtendedText).await.expect("the session goes on");
    assert_eq!(reply.rows.len(), 1);
}

/// A cancel request ends the running statement, and only that.
pub async fn a_cancel_request_ends_the_statement(url: &str) {
    let client = session(url).await;
    fresh_table(&client, "slow", "id int4 PRIMARY KEY").await;
    let values: Vec<String> = (0..1_000).map(|id| format!("({id})")).collect();
    run(&client, &format!("INSERT INTO slow VALUES {}", values.join(","))).await;
    let token = client.cancel_token();
    let slow =
        "SELECT count(*) FROM slow a, slow b, slow c, slow d WHERE a.id + b.id > c.id * d.id";
    let cancel = async {
        // Sent again and again: a cancel that arrives before the statement does nothing.
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            token.cancel_query(NoTls).await.ok();
        }
    };
    let ended = async {
        tokio::select! {
            ended = client.query_one(slow, &[]) => ended,
            () = cancel => unreachable!("it goes on forever"),
        }
    };
    let ended = tokio::time::timeout(CANCEL_LIMIT, ended).await.expect("the cancel works in time");
    assert_eq!(code(ended), "57014");
    // A late cancel may still hit the next statement; the session survives that too.
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(client.query_one("SELECT 1", &[]).await.is_ok());
    }
    assert!(answers.contains(&true), "the session is dead");
}

/// Hundreds of sessions may sit there; each still works afterwards.
pub async fn many_idle_sessions_all_work(url: &str, count: usize) {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(session(url).await);
    }
    let answers = join_all(clients.iter().map(|client| client.query_one("SELECT 1", &[]))).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|it| it.is_err()));
}

/// Statements outside a block that meet at one row: nobody is refused, and none is lost.
/// (PostgreSQL promises that below REPEATABLE READ only.)
pub async fn statements_on_one_row_all_succeed(url: &str, level: &str) {
    const CLIENTS: usize = 8;
    const EACH: usize = 20;
    let client = session(url).await;
    fresh_table(&client, "one_row", "id int primary key, v int").await;
    run(&client, "INSERT INTO one_row VALUES (1, 0)").await;
    let add = |n: usize| async move {
        let client = session(url).await;
        run(&client, &format!("SET default_transaction_isolation = '{level}'")).await;
        let update = "UPDATE one_row SET v = v + $1 WHERE id = $2 RETURNING v";
        let update = client.prepare(update).await.expect("it is prepared");
        for _ in 0..EACH {
            if n.is_multiple_of(2) {
                run(&client, "UPDATE one_row SET v = v + 1 WHERE id = 1").await;
            } else {
                let rows = client.query(&update, &[&1i32, &1i32]).await;
                assert_eq!(rows.expect("nobody is refused").len(), 1);
            }
        }
    };
    join_all((0..CLIENTS).map(add)).await;
    let row = client.query_one("SELECT v FROM one_row", &[]).await.expect("the row is there");
    assert_eq!(row.get::<_, i32>(0), i32::try_from(CLIENTS * EACH).expect("it is small"));
}

/// Blocks that meet at one row, whose clients were shown nothing that is different when they are
/// run again: nobody is refused, and none is lost.
pub async fn blocks_on_one_row_all_succeed(url: &str, level: &str) {
    const CLIENTS: usize = 6;
    const EACH: usize = 15;
    let client = session(url).await;
    fresh_table(&client, "one_block", "id int primary key, v int").await;
    run(&client, "INSERT INTO one_block VALUES (0, 0)").await;
    let add = |n: usize| async move {
        let client = session(url).await;
        run(&client, &format!("SET default_transaction_isolation = '{level}'")).await;
        let add = "UPDATE one_block SET v = v + $1 WHERE id = 0";
        let add = client.prepare(add).await.expect("it is prepared");
        let own = "INSERT INTO one_block VALUES ($1, $2) RETURNING id, v";
        let own = client.prepare(own).await.expect("it is prepared");
        for i in 0..EACH {
            let id = i32::try_from(1 + n * EACH + i).expect("it is small");
            run(&client, "BEGIN").await;
            if n.is_multiple_of(2) {
                run(&client, "UPDATE one_block SET v = v + 1 WHERE id = 0").await;
                run(&client, &format!("INSERT INTO one_block VALUES ({id}, {n})")).await;
                run(&client, &format!("SELECT v FROM one_block WHERE id = {id}")).await;
            } else {
                assert_eq!(client.execute(&add, &[&1i32]).await.expect("it is updated"), 1);
                let rows = client.query(&own, &[&id, &7i32]).await.expect("it is inserted");
                assert_eq!(rows[0].get::<_, i32>(0), id);
            }
            run(&client, "COMMIT").await;
        }
    };
    join_all((0..CLIENTS).map(add)).await;
    let sum = "SELECT v, (SELECT count(*) FROM one_block) FROM one_block WHERE id = 0";
    let row = client.query_one(sum, &[]).await.expect("the row is there");
    let all = i32::try_from(CLIENTS * EACH).expect("it is small");
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1)), (all, i64::from(all) + 1));
}

/// A client that was shown what is not so any more is told.
pub async fn a_block_that_would_show_something_else_is_refused(url: &str) {
    let (client, other) = (session(url).await, session(url).await);
    fresh_table(&client, "shown", "id int primary key, v int").await;
    run(&client, "INSERT INTO shown VALUES (1, 0), (2, 0)").await;
    for update in ["UPDATE shown SET v = v + 1 WHERE id = 1", "UPDATE shown SET v = 5 WHERE id = 1"]
    {
        run(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        run(&client, "SELECT v FROM shown WHERE id = 1").await;
        run(&other, "UPDATE shown SET v = v + 10 WHERE id = 1").await;
        let refused = client.batch_execute(&format!("{update}; COMMIT")).await;
        assert_eq!(code(refused), "40001", "{update}");
        run(&client, "ROLLBACK").await;
    }
    let row = client.query_one("SELECT v FROM shown WHERE id = 1", &[]).await;
    assert_eq!(row.expect("the row is there").get::<_, i32>(0), 20);
}

/// Whatever began a block, and whatever began it twice: it commits all that its client was told, or
/// nothing.
pub async fn a_block_run_again_is_whole(url: &str) {
    let (client, other) = (session(url).await, session(url).await);
    fresh_table(&client, "whole", "id int primary key, v int").await;
    run(&client, "INSERT INTO whole VALUES (1, 0), (2, 0), (3, 0)").await;
    let blocks: [&[&str]; 3] = [
        &["BEGIN", "UPDATE whole SET v = v + 1 WHERE id = 1", "BEGIN", CONTENDED, "COMMIT"],
        &["UPDATE whole SET v = v + 1 WHERE id = 1; BEGIN", CONTENDED, "COMMIT"],
        &["BEGIN; UPDATE whole SET v = v + 1 WHERE id = 1", CONTENDED, "COMMIT"],
    ];
    let value = |id: i32| {
        let client = &client;
        async move {
            let row = client.query_one("SELECT v FROM whole WHERE id = $1", &[&id]).await;
            row.expect("the row is there").get::<_, i32>(0)
        }
    };
    for block in blocks {
        let (one, two) = (value(1).await, value(2).await);
        run(&client, "SET default_transaction_isolation = 'repeatable read'").await;
        let mut outcome = Ok(());
        for sql in block {
            if *sql == "COMMIT" {
                // By now the block has written row 2.
                let meet = other.batch_execute("SET statement_timeout = '2s'").await;
                meet.expect("it is set");
                let _ = other.batch_execute("UPDATE whole SET v = v + 100 WHERE id = 2").await;
            }
            outcome = outcome.and(client.batch_execute(sql).await.map(|_| ()));
        }
        let _ = client.batch_execute("ROLLBACK").await;
        let committed = i32::from(outcome.is_ok());
        assert_eq!(value(1).await - one, committed, "{block:?}: {outcome:?}");
        assert_eq!((value(2).await - two) % 100, committed, "{block:?}: {outcome:?}");
    }
}

const CONTENDED: &str = "UPDATE whole SET v = v + 1 WHERE id = 2";

/// `statement_timeout` ends a statement with `57014`, and the session goes on.
pub async fn a_statement_that_takes_too_long_is_cancelled(url: &str) {
    let client = session(url).await;
    run(&client, "SET statement_timeout = '200ms'").await;
    let long = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    assert_eq!(code(client.batch_execute(long).await), "57014");
    run(&client, "SELECT 1").await;
    run(&client, "SET statement_timeout = 0").await;
}

/// A session that waits too long for its client, in a block or outside, ends with a reason.
pub async fn a_session_that_idles_too_long_is_ended(url: &str) {
    let url = Url::parse(url).expect("a URL");
    for (setting, begin, expected) in [
        ("idle_in_transaction_session_timeout", "BEGIN", "25P03"),
        ("idle_session_timeout", "SELECT 1", "57P05"),
    ] {
        let mut client = WireClient::connect(&url).await.expect("the server answers");
        for sql in [format!("SET {setting} = 100"), begin.to_owned()] {
            let reply = client.run(&sql, Mode::Simple).await.expect("it answers");
            assert_eq!(reply.error, None, "{sql}");
        }
        let (kind, body) = client.receive().await.expect("the server says why");
        assert_eq!(kind, b'E');
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("FATAL") && text.contains(expected), "{text}");
        assert!(client.receive().await.is_err(), "the connection is closed");
    }
}

/// Everything above but the idle sessions.
pub async fn all(url: &str) {
    statements_on_one_row_all_succeed(url, "read committed").await;
    blocks_on_one_row_all_succeed(url, "read committed").await;
    a_block_that_would_show_something_else_is_refused(url).await;
    a_block_run_again_is_whole(url).await;
    a_statement_that_takes_too_long_is_cancelled(url).await;
    a_session_that_idles_too_long_is_ended(url).await;
    every_type_travels_in_binary(url).await;
    prepared_statements_are_reused(url).await;
    portals_hand_out_rows_in_portions(url).await;
    a_portal_does_not_see_what_is_written_later(url).await;
    pipelined_statements_are_answered_in_order(url).await;
    errors_carry_their_fields(url).await;
    transaction_status_is_reported(url).await;
    statements_in_one_text_are_one_transaction(url).await;
    protocol_mistakes_are_refused(url).await;
    a_cancel_request_ends_the_statement(url).await;
}
