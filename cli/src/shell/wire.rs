//! A connection that speaks the simple query protocol and keeps all that a shell shows and a
//! driver hides: command tags, column types, the transaction's state, positions of errors.

use super::error::{ServerMessage, ShellError};
use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::fallible_iterator::FallibleIterator;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 5432;
/// Types whose values are numbers: int2, int4, int8, oid, float4, float8, money, numeric, xid, cid.
const NUMERIC_TYPES: [u32; 10] = [20, 21, 23, 26, 28, 29, 700, 701, 790, 1700];

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the server is.
#[derive(Clone, Debug)]
enum Place {
    Tcp(String, u16),
    Socket(PathBuf),
}

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    places: Vec<Place>,
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    password: Option<Vec<u8>>,
}

/// The transaction's state as the server tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxState {
    /// None is open.
    Idle,
    /// One is open.
    Open,
    /// One is open and can only be rolled back.
    Failed,
}

/// A column of a result.
#[derive(Clone, Debug)]
pub struct WireColumn {
    /// Its name.
    pub name: String,
    /// Whether its values are numbers.
    pub numeric: bool,
}

/// What the server answers to a query.
#[derive(Debug)]
pub enum Answer {
    /// A result begins.
    Columns(Vec<WireColumn>),
    /// A row of it.
    Row(Vec<Option<String>>),
    /// A statement is done; its command tag.
    Done(String),
    /// There was no statement.
    Empty,
    /// Data of COPY TO STDOUT.
    CopyOut(Vec<u8>),
    /// An error.
    Error(ServerMessage),
    /// A notice.
    Notice(ServerMessage),
    /// All is answered.
    Ready,
}

/// What it takes to ask for a query's cancellation, from another task.
#[derive(Clone)]
pub struct Canceller {
    place: Place,
    process: i32,
    secret: i32,
}

/// A session.
pub struct Wire {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
    place: Place,
    process: i32,
    secret: i32,
    /// The transaction's state.
    pub state: TxState,
    /// The server's version as it says it.
    pub server_version: String,
}

impl Target {
    /// Reads an address.
    pub fn parse(url: &str) -> Result<Self, ShellError> {
        let bad = |reason: String| ShellError::Address(reason);
        let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            bad(source.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(bad("sslmode=require: this shell does not speak TLS".to_owned()));
        }
        let ports = config.get_ports();
        let port = |index: usize| ports.get(index).or(ports.first()).copied();
        let hosts = config.get_hosts().iter().enumerate();
        let places: Vec<Place> = hosts
            .map(|(index, host)| {
                let port = port(index).unwrap_or(DEFAULT_PORT);
                match host {
                    Host::Tcp(name) => Place::Tcp(name.clone(), port),
                    Host::Unix(folder) => Place::Socket(folder.join(format!(".s.PGSQL.{port}"))),
                }
            })
            .collect();
        if places.is_empty() {
            return Err(bad(format!("{url:?} names no host")));
        }
        let user = config.get_user().unwrap_or("quorate").to_owned();
        let from_environment = || std::env::var("PGPASSWORD").ok().map(String::into_bytes);
        let password = config.get_password().map(<[u8]>::to_vec).or_else(from_environment);
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        Ok(Self { places, user, database, password })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

async fn open(place: &Place) -> Result<Box<dyn Stream>, String> {
    let opening = async {
        let stream: Box<dyn Stream> = match place {
            Place::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Place::Socket(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok::<_, io::Error>(stream)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

impl Wire {
    /// Connects to the first server of the list that answers.
    pub async fn connect(target: &Target) -> Result<Self, ShellError> {
        let mut failures = Vec::new();
        for place in &target.places {
            match Self::connect_to(place, target).await {
                Ok(wire) => return Ok(wire),
                Err(reason) => failures.push((place.to_string(), reason)),
            }
        }
        let server: Vec<&str> = failures.iter().map(|(server, _)| server.as_str()).collect();
        let reason: Vec<&str> = failures.iter().map(|(_, reason)| reason.as_str()).collect();
        Err(ShellError::Connect { server: server.join(", "), reason: reason.join("; ") })
    }

    async fn connect_to(place: &Place, target: &Target) -> Result<Self, String> {
        let mut wire = Self {
            stream: open(place).await?,
            inbox: BytesMut::new(),
            place: place.clone(),
            process: 0,
            secret: 0,
            state: TxState::Idle,
            server_version: String::new(),
        };
        let mut out = BytesMut::new();
        let parameters = [
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("application_name", "quorate sql"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut out).map_err(|error| error.to_string())?;
        wire.write(&out).await.map_err(|error| error.to_string())?;
        let begin = wire.begin_session(target);
        match tokio::time::timeout(CONNECT_TIMEOUT, begin).await {
            Ok(begun) => begun.map(|()| wire),
            Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    /// Proves who we are and waits until the server is ready.
    async fn begin_session(&mut self, target: &Target) -> Result<(), String> {
        let in_words = |error: io::Error| error.to_string();
        loop {
            match self.message().await.map_err(in_words)? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => {
                    let password = target.password()?;
                    self.send_password(password).await.map_err(in_words)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(target.user.as_bytes(), target.password()?, body.salt());
                    self.send_password(hash.as_bytes()).await.map_err(in_words)?;
                }
                Message::AuthenticationSasl(_) => {
                    self.scram(target.password()?).await.map_err(in_words)?;
                }
                Message::BackendKeyData(body) => {
                    (self.process, self.secret) = (body.process_id(), body.secret_key());
                }
                Message::ParameterStatus(body) => {
                    if body.name().map_err(in_words)? == "server_version" {
                        self.server_version = body.value().map_err(in_words)?.to_owned();
                    }
                }
                Message::ErrorResponse(body) => {
                    let error = server_message(body.fields()).map_err(in_words)?;
                    return Err(format!("{}:  {}", error.severity, error.message));
                }
                Message::ReadyForQuery(body) => {
                    self.state = tx_state(body.status());
                    return Ok(());
                }
                Message::NoticeResponse(_) => {}
                _ => return Err("the server asks for an unknown authentication".to_owned()),
            }
        }
    }

    async fn send_password(&mut self, password: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        frontend::password_message(password, &mut out)?;
        self.write(&out).await
    }

    async fn scram(&mut self, password: &[u8]) -> io::Result<()> {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut out)?;
        self.write(&out).await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data())?,
            other => return Err(unexpected(other)),
        }
        let mut out = BytesMut::new();
        frontend::sasl_response(scram.message(), &mut out)?;
        self.write(&out).await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()),
            other => Err(unexpected(other)),
        }
    }

    /// Sends statements; their answers come from [`Wire::answer`] until it says ready.
    pub async fn query(&mut self, sql: &str) -> Result<(), ShellError> {
        let mut out = BytesMut::new();
        let sent = match frontend::query(sql, &mut out) {
            Ok(()) => self.write(&out).await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| self.lost(&error))
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Result<Answer, ShellError> {
        let answer = self.next_answer().await;
        answer.map_err(|error| self.lost(&error))
    }

    async fn next_answer(&mut self) -> io::Result<Answer> {
        loop {
            let answer = match self.message().await? {
                Message::RowDescription(body) => {
                    let column = |field: postgres_protocol::message::backend::Field<'_>| {
                        let numeric = NUMERIC_TYPES.contains(&field.type_oid());
                        Ok(WireColumn { name: field.name().to_owned(), numeric })
                    };
                    Answer::Columns(body.fields().map(column).collect()?)
                }
                Message::DataRow(body) => {
                    let cell = |range: Option<std::ops::Range<usize>>| {
                        let bytes = range.map(|range| &body.buffer()[range]);
                        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                    };
                    Answer::Row(body.ranges().map(cell).collect()?)
                }
                Message::CommandComplete(body) => Answer::Done(body.tag()?.to_owned()),
                Message::EmptyQueryResponse => Answer::Empty,
                Message::ErrorResponse(body) => Answer::Error(server_message(body.fields())?),
                Message::NoticeResponse(body) => Answer::Notice(server_message(body.fields())?),
                Message::CopyData(body) => Answer::CopyOut(body.data().to_vec()),
                Message::CopyInResponse(_) => {
                    let mut out = BytesMut::new();
                    frontend::copy_fail("this shell does not send data for COPY", &mut out)?;
                    self.write(&out).await?;
                    continue;
                }
                Message::ReadyForQuery(body) => {
                    self.state = tx_state(body.status());
                    Answer::Ready
                }
                // COPY's begin and end, parameters, notifications: nothing to show.
                _ => continue,
            };
            return Ok(answer);
        }
    }

    /// What it takes to cancel the query that runs.
    pub fn canceller(&self) -> Canceller {
        Canceller { place: self.place.clone(), process: self.process, secret: self.secret }
    }

    /// Where the server is.
    pub fn server(&self) -> String {
        self.place.to_string()
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // The server notices the end of the connection as well.
        let _ = self.write(&out).await;
    }

    fn lost(&self, error: &io::Error) -> ShellError {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
            _ => error.to_string(),
        };
        ShellError::Lost { server: self.server(), reason }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next message. May be dropped while it waits without losing anything.
    async fn message(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = Message::parse(&mut self.inbox)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Target {
    fn password(&self) -> Result<&[u8], String> {
        let missing = || "the server asks for a password; give one in the address".to_owned();
        self.password.as_deref().ok_or_else(missing)
    }
}

impl Canceller {
    /// Asks the server to cancel the query that runs; it does not say whether it did.
    pub async fn cancel(&self) -> Result<(), String> {
        let mut stream = open(&self.place).await?;
        let mut out = BytesMut::new();
        frontend::cancel_request(self.process, self.secret, &mut out);
        stream.write_all(&out).await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())
    }
}

fn unexpected(message: Message) -> io::Error {
    match message {
        Message::ErrorResponse(body) => match server_message(body.fields()) {
            Ok(error) => io::Error::other(format!("{}:  {}", error.severity, error.message)),
            Err(error) => error,
        },
        _ => io::Error::other("the server's part of the authentication makes no sense"),
    }
}

fn tx_state(status: u8) -> TxState {
    match status {
        b'T' => TxState::Open,
        b'E' => TxState::Failed,
        _ => TxState::Idle,
    }
}

fn server_message(mut fields: ErrorFields<'_>) -> io::Result<ServerMessage> {
    let mut message = ServerMessage::default();
    while let Some(field) = fields.next()? {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'S' => message.severity = value,
            b'C' => message.code = value,
            b'M' => message.message = value,
            b'D' => message.detail = Some(value),
            b'H' => message.hint = Some(value),
            b'W' => message.context = Some(value),
            b'P' => message.position = value.parse().ok(),
            _ => {}
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let target = Target::parse("postgres://me:pw@db.example:7000/shop").expect("parses");
        assert_eq!(target.places[0].to_string(), "db.example:7000");
        assert_eq!((target.user.as_str(), target.database.as_str()), ("me", "shop"));
        assert_eq!(target.password(), Ok(&b"pw"[..]));
        let target = Target::parse("postgres://me@h").expect("parses");
        assert_eq!(target.database, "me");
        let error = Target::parse("nonsense").expect_err("is no address");
        assert_eq!(error.exit_code(), 2);
        assert!(Target::parse("postgres://me@h/d?sslmode=require").is_err());
    }
}
