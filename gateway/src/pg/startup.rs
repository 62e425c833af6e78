//! The first messages of a connection: encryption request, cancel request, startup packet.

use std::sync::Arc;

use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey, Startup,
};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use quorate_planner::error::{SqlError, SqlState};

use super::cancel::{CancelRegistry, Registration};
use super::reply;
use super::wire::{Phase, Wire, WireError};
use crate::runtime;

/// Encryption requests a client may try before it must start.
const ENCRYPTION_REQUESTS_MAX: usize = 2;
/// Newest minor version of protocol 3 that we speak.
const MINOR_VERSION: u16 = 0;

/// What the client said of itself.
pub struct Hello {
    /// Who it says it is. Everybody is let in: see the limits in the docs.
    pub user: String,
    /// The database asked for; the user's name by default, as in Postgres.
    pub database: String,
    /// Settings from the packet and its `options`.
    pub settings: Vec<(String, String)>,
}

/// Reads up to the startup packet. `None`: there was nothing to start (a cancel request, or the
/// client left).
pub async fn receive(
    wire: &mut Wire,
    cancels: &CancelRegistry,
) -> Result<Option<Hello>, WireError> {
    let mut requests = 0;
    loop {
        let message = match wire.next(Phase::First).await {
            Err(WireError::Closed) => return Ok(None),
            other => other?,
        };
        match message {
            PgWireFrontendMessage::SslNegotiation(_) if requests < ENCRYPTION_REQUESTS_MAX => {
                requests += 1;
                wire.refuse_encryption().await?;
            }
            PgWireFrontendMessage::CancelRequest(request) => {
                cancels.cancel(request.pid, &request.secret_key);
                return Ok(None);
            }
            PgWireFrontendMessage::Startup(startup) => {
                negotiate(wire, &startup)?;
                return Ok(Some(hello(startup)));
            }
            _ => return Err(WireError::Protocol(String::from("expected a startup packet"))),
        }
    }
}

/// Tells a client of a newer minor version, or with protocol extensions, what we speak.
fn negotiate(wire: &mut Wire, startup: &Startup) -> Result<(), WireError> {
    let extensions: Vec<String> =
        startup.parameters.keys().filter(|k| k.starts_with("_pq_.")).cloned().collect();
    if startup.protocol_number_minor > MINOR_VERSION || !extensions.is_empty() {
        let newest = i32::from(MINOR_VERSION) | (3 << 16);
        wire.put(&PgWireBackendMessage::NegotiateProtocolVersion(NegotiateProtocolVersion::new(
            newest, extensions,
        )))?;
    }
    Ok(())
}

fn hello(startup: Startup) -> Hello {
    let mut parameters = startup.parameters;
    let user = parameters.remove("user").unwrap_or_default();
    let database = parameters.remove("database").unwrap_or_else(|| user.clone());
    let options = parameters.remove("options").unwrap_or_default();
    let mut settings: Vec<(String, String)> =
        parameters.into_iter().filter(|(name, _)| !name.starts_with("_pq_.")).collect();
    settings.extend(parse_options(&options));
    Hello { user, database, settings }
}

/// `-c name=value` and `--name=value`, words separated by blanks, a backslash keeps one.
fn parse_options(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        let word = words.last_mut().expect("there is always a last word");
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => words.push(String::new()),
            c => word.push(c),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("--") {
            Some(rest) => rest.to_string(),
            None if word == "-c" => words.next().unwrap_or_default(),
            None => word.strip_prefix("-c").unwrap_or_default().to_string(),
        };
        if let Some((name, value)) = assignment.split_once('=') {
            settings.push((name.replace('-', "_"), value.to_string()));
        }
    }
    settings
}

/// Lets the client in: its cancel key and the settings drivers read at the start.
pub fn welcome(
    wire: &mut Wire,
    cancels: &Arc<CancelRegistry>,
    statuses: &[(&str, String)],
) -> Result<Registration, WireError> {
    let registration = cancels.register(runtime::random_i32());
    wire.put(&PgWireBackendMessage::Authentication(Authentication::Ok))?;
    for (name, value) in statuses {
        let status = ParameterStatus::new((*name).to_string(), value.clone());
        wire.put(&PgWireBackendMessage::ParameterStatus(status))?;
    }
    wire.put(&PgWireBackendMessage::BackendKeyData(BackendKeyData::new(
        registration.pid,
        SecretKey::I32(registration.secret),
    )))?;
    Ok(registration)
}

/// Turns the client away with a reason.
pub async fn turn_away(wire: &mut Wire, error: &SqlError) -> Result<(), WireError> {
    wire.put(&reply::error(error, true))?;
    wire.flush().await
}

/// The error for those who come while the node stops.
pub fn shutting_down() -> SqlError {
    SqlError::new(SqlState::CANNOT_CONNECT_NOW, "the node is shutting down")
}

/// The error for a startup packet without a user.
pub fn no_user() -> SqlError {
    SqlError::new(
        SqlState::INVALID_AUTHORIZATION,
        "no PostgreSQL user name specified in startup packet",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_all_their_spellings() {
        let pairs = parse_options(r"-c a=1 -cb=2 --search-path=x\ y -x junk");
        let expected = [("a", "1"), ("b", "2"), ("search_path", "x y")];
        let expected: Vec<(String, String)> =
            expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        assert_eq!(pairs, expected);
    }
}
