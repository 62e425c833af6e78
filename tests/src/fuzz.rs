//! Random and mutated wire messages and SQL texts, thrown at a server that must survive them.
//!
//! Everything that is sent is drawn from a seed, each connection's rubbish by itself, so that
//! several can be at it at a time. Nothing is asked of the answers; afterwards, and every now and
//! then, a well-behaved client must get a right answer.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use futures::stream;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::wire::{Mode, Url, WireClient, message, put_cstr};

/// Messages sent through one connection before it is left.
const MESSAGES_PER_CONNECTION: usize = 20;

/// Connections at a time.
const CONNECTIONS_AT_ONCE: usize = 8;

/// How long an answer is waited for. A server that says nothing waits itself, for the rest of a
/// message whose length was mutated; what else the connection sends is then sent without waiting.
const ANSWER_PATIENCE: Duration = Duration::from_millis(300);

/// How long a well-behaved client waits for its answer.
const HEALTH_LIMIT: Duration = Duration::from_secs(20);

/// Connections between two looks at the server's health.
const CONNECTIONS_PER_LOOK: usize = 25;

/// A random body is at most this long.
const BODY_BYTES_MAX: usize = 200;

/// Every message type a client may send, and a few it may not.
const KINDS: &[u8] = b"QPBDECSHXFdcfpRZ\0\xff";

/// Texts that broke some server once.
const NASTY: [&str; 14] = [
    "",
    ";",
    ";;; ;",
    "SELECT",
    "SELECT 1e999999999",
    "SELECT 99999999999999999999999999999999999999999999999999999999999999999999999999::int8",
    "SELECT '\\x' || E'\\000'",
    "SELECT $999999",
    "SELECT \"",
    "/* /* */",
    "SELECT $a$",
    "SELECT 1/0 UNION SELECT 'a' ORDER BY 99",
    "WITH a AS (SELECT * FROM a) SELECT * FROM a",
    "VALUES (1), (2, 3)",
];

/// What can be put around an expression again and again.
const NESTS: [(&str, &str); 9] = [
    ("(", ")"),
    ("- ", ""),
    ("NOT ", ""),
    ("CASE WHEN ", ""),
    ("abs(", ")"),
    ("(SELECT ", ")"),
    ("1 + ", ""),
    ("true OR ", ""),
    ("1 UNION SELECT ", ""),
];

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages.
    pub messages: usize,
    /// Connections.
    pub connections: usize,
}

/// Sends at least `count` messages drawn from `seed`; an error says that the server stopped
/// answering.
pub async fn run(url: &str, seed: u64, count: usize, corpus: &[String]) -> io::Result<Sent> {
    let url = Url::parse(url)?;
    let mut sent = Sent::default();
    while sent.messages < count {
        let first = sent.connections;
        let connections = first..first + CONNECTIONS_PER_LOOK;
        let mut messages = stream::iter(connections)
            .map(|number| torment(&url, rng_of(seed, number), corpus))
            .buffer_unordered(CONNECTIONS_AT_ONCE);
        while let Some(made) = messages.next().await {
            sent.connections += 1;
            sent.messages += made;
        }
        check_health(&url).await?;
    }
    Ok(sent)
}

/// The chance of one connection.
fn rng_of(seed: u64, connection: usize) -> StdRng {
    StdRng::seed_from_u64(seed ^ (connection as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One connection's worth; how many messages were made.
async fn torment(url: &Url, mut rng: StdRng, corpus: &[String]) -> usize {
    let rng = &mut rng;
    if rng.random_ratio(1, 8) {
        // Rubbish from the first byte on.
        if let Ok(mut client) = WireClient::open(url).await {
            client.send(&start_up_rubbish(rng)).await.ok();
            drain(&mut client).await;
        }
        return 1;
    }
    let Ok(mut client) = WireClient::connect(url).await else {
        return 1;
    };
    let mut answers = true;
    for made in 1..=MESSAGES_PER_CONNECTION {
        if client.send(&rubbish(rng, corpus)).await.is_err() {
            return made;
        }
        if rng.random_ratio(1, 4) {
            client.send(&message(b'S', |_| {})).await.ok();
            answers = answers && drain(&mut client).await;
        }
    }
    client.send(&message(b'S', |_| {})).await.ok();
    if answers {
        drain(&mut client).await;
    }
    MESSAGES_PER_CONNECTION
}

/// Reads until the server is ready, silent or gone; false if it was silent.
async fn drain(client: &mut WireClient) -> bool {
    let until_ready = async { while !matches!(client.receive().await, Ok((b'Z', _)) | Err(_)) {} };
    tokio::time::timeout(ANSWER_PATIENCE, until_ready).await.is_ok()
}

async fn check_health(url: &Url) -> io::Result<()> {
    let ask = async {
        let mut client = WireClient::connect(url).await?;
        client.run("SELECT 6 * 7", Mode::ExtendedText).await
    };
    let reply = tokio::time::timeout(HEALTH_LIMIT, ask)
        .await
        .map_err(|_| io::Error::other("a well-behaved client gets no answer"))??;
    match reply.rows.as_slice() {
        [row] if row.as_slice() == [Some("42".into())] => Ok(()),
        other => Err(io::Error::other(format!("a well-behaved client was told {other:?}"))),
    }
}

fn start_up_rubbish(rng: &mut StdRng) -> Vec<u8> {
    let body = random_bytes(rng);
    let mut head = Vec::new();
    match rng.random_range(0..4) {
        // A length that lies.
        0 => head.extend(rng.random::<i32>().to_be_bytes()),
        // A right length, and any protocol version.
        1 => head.extend((body.len() as i32 + 4).to_be_bytes()),
        // SSLRequest, GSSENCRequest or CancelRequest, with something behind it.
        2 => {
            let code: i32 = *[80_877_103, 80_877_104, 80_877_102].choose(rng).unwrap_or(&0);
            head.extend(8_i32.to_be_bytes());
            head.extend(code.to_be_bytes());
        }
        _ => {}
    }
    head.extend(body);
    head
}

/// One message: right in form with a random body, or a right one mutated.
fn rubbish(rng: &mut StdRng, corpus: &[String]) -> BytesMut {
    if rng.random_ratio(1, 4) {
        let kind = *KINDS.choose(rng).unwrap_or(&b'Q');
        let body = random_bytes(rng);
        return message(kind, |out| out.put_slice(&body));
    }
    let mut out = right_message(rng, corpus);
    if rng.random_ratio(1, 2) {
        mutate(rng, &mut out);
    }
    out
}

/// A well-formed message with an ill-formed text, or the other way round.
fn right_message(rng: &mut StdRng, corpus: &[String]) -> BytesMut {
    let sql = text(rng, corpus);
    let name = if rng.random() { "" } else { "s1" };
    match rng.random_range(0..6) {
        0 | 1 => message(b'Q', |body| put_cstr(body, &sql)),
        2 => message(b'P', |body| {
            put_cstr(body, name);
            put_cstr(body, &sql);
            let types = rng.random_range(0..3_u16);
            body.put_u16(types);
            for _ in 0..types {
                body.put_u32(*[0, 16, 20, 23, 25, 1700, 4_294_967_295].choose(rng).unwrap_or(&0));
            }
        }),
        3 => message(b'B', |body| {
            put_cstr(body, "");
            put_cstr(body, name);
            body.put_u16(1);
            body.put_u16(rng.random_range(0..3));
            let values = rng.random_range(0..3_u16);
            body.put_u16(values);
            for _ in 0..values {
                let value = random_bytes(rng);
                body.put_i32(if rng.random_ratio(1, 5) { -1 } else { value.len() as i32 });
                body.put_slice(&value);
            }
            body.put_u16(rng.random_range(0..2));
        }),
        4 => message(b'D', |body| {
            body.put_u8(*b"SP?".choose(rng).unwrap_or(&b'S'));
            put_cstr(body, name);
        }),
        _ => message(b'E', |body| {
            put_cstr(body, "");
            body.put_i32(rng.random_range(-1..3));
        }),
    }
}

fn mutate(rng: &mut StdRng, bytes: &mut BytesMut) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            _ => bytes.put_slice(&random_bytes(rng)),
        }
    }
}

/// A statement: from the corpus, often mutated; one of the nasty ones; nested too deep; or noise.
fn text(rng: &mut StdRng, corpus: &[String]) -> String {
    match rng.random_range(0..8) {
        0 => (*NASTY.choose(rng).unwrap_or(&"")).to_owned(),
        1 => {
            let depth = rng.random_range(1..3_000);
            let (open, close) = *NESTS.choose(rng).unwrap_or(&("(", ")"));
            format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth))
        }
        2 => String::from_utf8_lossy(&random_bytes(rng)).replace('\0', ""),
        _ => {
            let Some(sql) = corpus.choose(rng) else {
                return String::new();
            };
            mutated_sql(rng, sql)
        }
    }
}

/// Drops, doubles or swaps words of a statement.
fn mutated_sql(rng: &mut StdRng, sql: &str) -> String {
    let mut words: Vec<&str> = sql.split(' ').collect();
    for _ in 0..rng.random_range(0..4) {
        let (a, b) = (rng.random_range(0..words.len()), rng.random_range(0..words.len()));
        match rng.random_range(0..3) {
            0 if words.len() > 1 => {
                words.remove(a);
            }
            1 => words.insert(a, words[b]),
            _ => words.swap(a, b),
        }
    }
    words.join(" ")
}

fn random_bytes(rng: &mut StdRng) -> Vec<u8> {
    let length = rng.random_range(0..BODY_BYTES_MAX);
    (0..length).map(|_| rng.random()).collect()
}

/// The statements of the sqllogictest files that end by themselves however they are mutated.
pub fn corpus() -> io::Result<Vec<String>> {
    let mut statements = Vec::new();
    for path in crate::slt::files()? {
        for sql in crate::slt::statements(&path)? {
            let lower = sql.to_lowercase();
            let endless = ["recursive", "generate_series", "repeat", "pad("];
            if !endless.iter().any(|word| lower.contains(word)) {
                statements.push(sql);
            }
        }
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_rubbish() {
        let corpus = vec!["select a from b where c = 1".to_owned()];
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..50).map(|_| rubbish(&mut rng, &corpus)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_corpus_is_large_and_ends_by_itself() {
        let corpus = corpus().unwrap();
        assert!(corpus.len() > 1_000, "{} statements", corpus.len());
        assert!(!corpus.iter().any(|sql| sql.contains("recursive")));
    }
}
