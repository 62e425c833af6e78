//! A raw client of the Postgres wire protocol, version 3.
//!
//! Drivers hide what the tests want to see: the declared type of each result column, the bytes of
//! a value in either format, the SQLSTATE of an error, the transaction status. This client shows
//! them, can run a statement through the simple or the extended protocol, and can send bytes that
//! no driver would.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest message this client accepts; a longer one is a broken length.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// How long the server may take to accept a connection and finish the start-up.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How a statement travels, and how its values come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One `Query` message; values as text.
    Simple,
    /// `Parse`, `Describe`, `Bind`, `Execute`, `Sync`; values as text.
    ExtendedText,
    /// The same; values of the types that [`crate::binary`] knows in binary, others as text.
    ExtendedBinary,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 3] = [Mode::Simple, Mode::ExtendedText, Mode::ExtendedBinary];
}

/// Where a server listens, from `postgres://user@host:port/database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// User name; `quorate` if the URL has none.
    pub user: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database; the user's name if the URL has none.
    pub database: String,
}

impl Url {
    /// Reads a connection URL; passwords and options are not supported.
    pub fn parse(url: &str) -> io::Result<Url> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("not a URL: {url}"));
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(bad)?;
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.split_once('@').unwrap_or(("quorate", authority));
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
        let database = database.split('?').next().unwrap_or_default();
        Ok(Url {
            user: user.to_owned(),
            host: host.to_owned(),
            port: port.parse().map_err(|_| bad())?,
            database: if database.is_empty() { user } else { database }.to_owned(),
        })
    }
}

/// A result column as `RowDescription` declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type OID.
    pub oid: u32,
    /// Type modifier; -1 for none.
    pub typmod: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// The fields of an `ErrorResponse` or `NoticeResponse`, by their letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// (letter, text), in the order received.
    pub fields: Vec<(u8, String)>,
}

impl ServerError {
    /// The text of one field.
    pub fn field(&self, letter: u8) -> Option<&str> {
        self.fields.iter().find(|(code, _)| *code == letter).map(|(_, text)| text.as_str())
    }

    /// The SQLSTATE; empty if the server sent none.
    pub fn sqlstate(&self) -> &str {
        self.field(b'C').unwrap_or_default()
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        self.field(b'M').unwrap_or_default()
    }
}

/// Everything a server said about one statement (the last one, if the text held several).
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The columns, if the statement returns rows.
    pub columns: Option<Vec<Column>>,
    /// The rows; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// The command tag, for example `INSERT 0 3`.
    pub tag: Option<String>,
    /// The error, if it failed.
    pub error: Option<ServerError>,
    /// Transaction status afterwards: `I`, `T` or `E`.
    pub status: u8,
}

impl Reply {
    /// The number at the end of the command tag; 0 if there is none.
    pub fn count(&self) -> u64 {
        let tag = self.tag.as_deref().unwrap_or_default();
        tag.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

/// One connection.
pub struct WireClient {
    stream: TcpStream,
    input: BytesMut,
    /// Parameters the server reported, in order.
    pub parameters: Vec<(String, String)>,
    /// Process id and secret for a cancel request.
    pub cancel_key: Option<Bytes>,
}

impl WireClient {
    /// Connects and starts a session.
    pub async fn connect(url: &Url) -> io::Result<WireClient> {
        tokio::time::timeout(CONNECT_LIMIT, WireClient::connect_unlimited(url))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the start-up took too long"))?
    }

    async fn connect_unlimited(url: &Url) -> io::Result<WireClient> {
        let mut client = WireClient::open(url).await?;
        let mut body = BytesMut::new();
        body.put_i32(3 << 16);
        for (name, value) in [
            ("user", url.user.as_str()),
            ("database", url.database.as_str()),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
        ] {
            put_cstr(&mut body, name);
            put_cstr(&mut body, value);
        }
        body.put_u8(0);
        let mut message = BytesMut::new();
        message.put_i32(body.len() as i32 + 4);
        message.put(body);
        client.send(&message).await?;
        loop {
            let (kind, mut body) = client.receive().await?;
            match kind {
                b'R' if body.len() >= 4 && body.get_i32() == 0 => {}
                b'R' => return Err(io::Error::other("the server asks for a password")),
                b'S' => {
                    let name = get_cstr(&mut body)?;
                    client.parameters.push((name, get_cstr(&mut body)?));
                }
                b'K' => client.cancel_key = Some(body),
                b'Z' => return Ok(client),
                b'E' => {
                    let error = parse_error(body)?;
                    return Err(io::Error::other(format!(
                        "{}: {}",
                        error.sqlstate(),
                        error.message()
                    )));
                }
                _ => {}
            }
        }
    }

    /// Opens the TCP connection and sends nothing.
    pub async fn open(url: &Url) -> io::Result<WireClient> {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
        stream.set_nodelay(true)?;
        Ok(WireClient { stream, input: BytesMut::new(), parameters: Vec::new(), cancel_key: None })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Receives one message: its type and its body.
    pub async fn receive(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if self.input.len() >= 5 {
                let length = u32::from_be_bytes(self.input[1..5].try_into().expect("4 bytes"));
                let length = length as usize;
                if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
                    return Err(io::Error::other(format!("a message of {length} bytes")));
                }
                if self.input.len() > length {
                    let kind = self.input[0];
                    let mut message = self.input.split_to(length + 1);
                    message.advance(5);
                    return Ok((kind, message.freeze()));
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Runs one statement without parameters.
    pub async fn run(&mut self, sql: &str, mode: Mode) -> io::Result<Reply> {
        match mode {
            Mode::Simple => {
                self.send(&message(b'Q', |body| put_cstr(body, sql))).await?;
                self.until_ready(Reply::default()).await
            }
            Mode::ExtendedText => self.extended(sql, |_| 0).await,
            Mode::ExtendedBinary => {
                self.extended(sql, |oid| i16::from(crate::binary::is_known(oid))).await
            }
        }
    }

    /// Parse and describe, learn the columns, then bind with a format for each, execute, sync.
    async fn extended(&mut self, sql: &str, format: impl Fn(u32) -> i16) -> io::Result<Reply> {
        let mut out = BytesMut::new();
        out.put(message(b'P', |body| {
            put_cstr(body, "");
            put_cstr(body, sql);
            body.put_i16(0);
        }));
        out.put(message(b'D', |body| {
            body.put_u8(b'S');
            put_cstr(body, "");
        }));
        out.put(message(b'H', |_| {}));
        self.send(&out).await?;
        let mut reply = Reply::default();
        loop {
            let (kind, body) = self.receive().await?;
            match kind {
                b'T' => {
                    reply.columns = Some(parse_columns(body)?);
                    break;
                }
                b'n' => break,
                b'E' => {
                    reply.error = Some(parse_error(body)?);
                    break;
                }
                _ => {}
            }
        }
        let mut out = BytesMut::new();
        if reply.error.is_none() {
            let formats: Vec<i16> =
                reply.columns.iter().flatten().map(|column| format(column.oid)).collect();
            for (column, format) in reply.columns.iter_mut().flatten().zip(&formats) {
                column.format = *format;
            }
            out.put(bind(&formats));
            out.put(message(b'E', |body| {
                put_cstr(body, "");
                body.put_i32(0);
            }));
        }
        out.put(message(b'S', |_| {}));
        self.send(&out).await?;
        self.until_ready(reply).await
    }

    async fn until_ready(&mut self, mut reply: Reply) -> io::Result<Reply> {
        loop {
            let (kind, mut body) = self.receive().await?;
            match kind {
                b'T' => {
                    reply.columns = Some(parse_columns(body)?);
                    reply.rows.clear();
                }
                b'D' => reply.rows.push(parse_row(body)?),
                b'C' => reply.tag = Some(get_cstr(&mut body)?),
                b'E' => reply.error = Some(parse_error(body)?),
                b'Z' => {
                    reply.status = body.first().copied().unwrap_or(0);
                    return Ok(reply);
                }
                _ => {}
            }
        }
    }
}

/// Frames one message.
pub fn message(kind: u8, fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut body = BytesMut::new();
    fill(&mut body);
    let mut out = BytesMut::with_capacity(body.len() + 5);
    out.put_u8(kind);
    out.put_i32(body.len() as i32 + 4);
    out.put(body);
    out
}

/// `Bind` of the unnamed statement to the unnamed portal, without parameters.
fn bind(formats: &[i16]) -> BytesMut {
    message(b'B', |body| {
        put_cstr(body, "");
        put_cstr(body, "");
        body.put_i16(0);
        body.put_i16(0);
        body.put_i16(formats.len() as i16);
        for format in formats {
            body.put_i16(*format);
        }
    })
}

/// Appends a string and its terminating zero.
pub fn put_cstr(out: &mut BytesMut, text: &str) {
    out.put(text.as_bytes());
    out.put_u8(0);
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message ends too early")
}

fn need(body: &Bytes, count: usize) -> io::Result<()> {
    if body.remaining() < count { Err(broken()) } else { Ok(()) }
}

fn get_cstr(body: &mut Bytes) -> io::Result<String> {
    let end = body.iter().position(|byte| *byte == 0).ok_or_else(broken)?;
    let text = body.split_to(end);
    body.advance(1);
    String::from_utf8(text.to_vec()).map_err(io::Error::other)
}

fn parse_columns(mut body: Bytes) -> io::Result<Vec<Column>> {
    need(&body, 2)?;
    let count = body.get_u16();
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let name = get_cstr(&mut body)?;
        need(&body, 18)?;
        body.advance(6);
        let oid = body.get_u32();
        body.advance(2);
        let typmod = body.get_i32();
        columns.push(Column { name, oid, typmod, format: body.get_i16() });
    }
    Ok(columns)
}

fn parse_row(mut body: Bytes) -> io::Result<Vec<Option<Bytes>>> {
    need(&body, 2)?;
    let count = body.get_u16();
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        need(&body, 4)?;
        let length = body.get_i32();
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                need(&body, length)?;
                Some(body.split_to(length))
            }
        });
    }
    Ok(row)
}

fn parse_error(mut body: Bytes) -> io::Result<ServerError> {
    let mut error = ServerError::default();
    loop {
        need(&body, 1)?;
        let letter = body.get_u8();
        if letter == 0 {
            return Ok(error);
        }
        error.fields.push((letter, get_cstr(&mut body)?));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_with_all_its_parts() {
        let url = Url::parse("postgres://me@127.0.0.1:26257/bank?x=1").unwrap();
        assert_eq!(
            url,
            Url {
                user: "me".into(),
                host: "127.0.0.1".into(),
                port: 26257,
                database: "bank".into()
            }
        );
    }

    #[test]
    fn url_of_another_scheme_is_refused() {
        assert!(Url::parse("http://127.0.0.1:1/x").is_err());
        assert!(Url::parse("postgres://127.0.0.1:port/x").is_err());
    }

    #[test]
    fn truncated_messages_are_errors_not_panics() {
        let whole = message(b'T', |body| {
            body.put_i16(1);
            put_cstr(body, "a");
            body.put_slice(&[0; 18]);
        });
        let body = whole.freeze().slice(5..);
        assert!(parse_columns(body.clone()).is_ok());
        for end in 0..body.len() {
            assert!(parse_columns(body.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(parse_error(Bytes::from_static(b"CX")).is_err());
        assert!(parse_row(Bytes::from_static(&[0, 1, 0, 0, 0, 9, 1])).is_err());
    }
}
