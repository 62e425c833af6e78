//! The Postgres wire protocol: listening, starting and running connections.
//!
//! * [`wire`]: bytes of one connection. * [`startup`]: its first messages. * [`connection`]: the
//!   loop. * [`extended`]: prepared statements and portals. * `again`, `replay`: statements and
//!   blocks that are run again. * [`reply`]: what goes out. * [`shape`]: what may come in.
//!   * [`cancel`]: cancel requests.

mod again;
pub mod cancel;
pub mod connection;
pub mod extended;
mod replay;
pub mod reply;
pub mod shape;
pub mod startup;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use quorate_planner::error::{SqlError, SqlState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::runtime;
use crate::session::Session;
use crate::{Gateway, session};

use self::connection::Connection;
use self::wire::{Wire, WireError};

/// How long a client may take to send its startup packet.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Sessions at a time; one more is told `53300`.
pub const SESSIONS_MAX: usize = 10_000;

/// Accepts connections until `stop`; then running statements end and sessions are told to go.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, stop: Arc<Notify>) {
    let sessions_stop = Arc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.notified() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let gateway = gateway.clone();
                let stop = sessions_stop.clone();
                runtime::spawn(async move {
                    if let Err(e) = serve_one(gateway, socket, &stop).await {
                        tracing::debug!(error = %e, "connection ended");
                    }
                });
            }
            Err(e) => {
                // Out of file descriptors, most likely: others may end meanwhile.
                tracing::warn!(error = %e, "cannot accept a connection");
                runtime::pause(Duration::from_millis(50)).await;
            }
        }
    }
    sessions_stop.notify_waiters();
}

async fn serve_one(
    gateway: Arc<Gateway>,
    socket: TcpStream,
    stop: &Notify,
) -> Result<(), WireError> {
    socket.set_nodelay(true)?;
    let mut wire = Wire::new(socket);
    let received = startup::receive(&mut wire, &gateway.cancels);
    let hello = match runtime::within(STARTUP_TIMEOUT, received).await {
        None | Some(Ok(None)) => return Ok(()),
        Some(Ok(Some(hello))) => hello,
        Some(Err(WireError::Protocol(text))) => {
            return startup::turn_away(&mut wire, &reply::violation(text)).await;
        }
        Some(Err(e)) => return Err(e),
    };
    if hello.user.is_empty() {
        return startup::turn_away(&mut wire, &startup::no_user()).await;
    }
    if gateway.cancels.len() >= SESSIONS_MAX {
        let error = SqlError::new(
            SqlState::TOO_MANY_CONNECTIONS,
            format!("this node already serves {SESSIONS_MAX} sessions"),
        );
        return startup::turn_away(&mut wire, &error).await;
    }
    let session = match Session::open(gateway.clone(), hello) {
        Ok(session) => session,
        Err(e) => return startup::turn_away(&mut wire, &e).await,
    };
    let statuses = session.reported_settings();
    let registration = startup::welcome(&mut wire, &gateway.cancels, &statuses)?;
    let mut session = session;
    session.set_backend_pid(registration.pid);
    let mut connection = Connection::new(wire, session, registration.cancelled.clone());
    connection.serve(stop).await
}

pub use session::Status;
