//! The Postgres wire protocol: listening, starting and running connections.
//!
//! * [`wire`]: bytes of one connection. * [`startup`]: its first messages. * [`connection`]: the
//!   loop. * [`extended`]: prepared statements and portals. * `again`, `replay`: statements and
//!   blocks that are run again. * [`reply`]: what goes out. * [`shape`]: what may come in.
//!   * [`cancel`]: cancel requests. * [`stopping`]: how sessions end with their node.

mod again;
pub mod cancel;
pub mod connection;
pub mod extended;
mod replay;
pub mod reply;
pub mod shape;
pub mod startup;
pub mod stopping;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use quorate_planner::error::{SqlError, SqlState};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::runtime;
use crate::session::Session;
use crate::{Gateway, session};

use self::connection::Connection;
use self::stopping::Stage;
use self::wire::{Wire, WireError};

/// How long a client may take to send its startup packet.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Sessions at a time; one more is told `53300`.
pub const SESSIONS_MAX: usize = 10_000;

/// Serves until the node stops ([`Gateway::end_sessions`]) and the last session has ended.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let sessions = TaskTracker::new();
    tokio::select! {
        () = accept(&gateway, &listener, &sessions) => {}
        () = ended(&gateway, &sessions) => {}
    }
}

/// Accepts connections, for ever: while the node stops, a client may still cancel a statement, and
/// others are told why they cannot be let in.
async fn accept(gateway: &Arc<Gateway>, listener: &TcpListener, sessions: &TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let session = serve_one(gateway.clone(), socket);
                let session = async move {
                    if let Err(e) = session.await {
                        tracing::debug!(error = %e, "connection ended");
                    }
                };
                if gateway.stop.has_begun() {
                    runtime::spawn(session);
                } else {
                    runtime::spawn(sessions.track_future(session));
                }
            }
            Err(e) => {
                // Out of file descriptors, most likely: others may end meanwhile.
                tracing::warn!(error = %e, "cannot accept a connection");
                runtime::pause(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Returns when the node stops and the last session has ended.
async fn ended(gateway: &Gateway, sessions: &TaskTracker) {
    let mut stopping = gateway.stop.stopping();
    stopping.reached(Stage::Draining).await;
    sessions.close();
    tokio::select! {
        biased;
        () = sessions.wait() => return,
        () = stopping.reached(Stage::Ending) => gateway.cancels.cancel_all(),
    }
    sessions.wait().await;
}

async fn serve_one(gateway: Arc<Gateway>, socket: TcpStream) -> Result<(), WireError> {
    let mut stopping = gateway.stop.stopping();
    let late = stopping.has_reached(Stage::Draining);
    socket.set_nodelay(true)?;
    let mut wire = Wire::new(socket);
    let received = startup::receive(&mut wire, &gateway.cancels);
    let received = tokio::select! {
        received = runtime::within(STARTUP_TIMEOUT, received) => received,
        () = stopping.reached(Stage::Draining), if !late => return Ok(()),
    };
    let hello = match received {
        None | Some(Ok(None)) => return Ok(()),
        Some(Ok(Some(hello))) => hello,
        Some(Err(WireError::Protocol(text))) => {
            return startup::turn_away(&mut wire, &reply::violation(text)).await;
        }
        Some(Err(e)) => return Err(e),
    };
    if stopping.has_reached(Stage::Draining) {
        return startup::turn_away(&mut wire, &startup::shutting_down()).await;
    }
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
    let cancelled = registration.cancelled.clone();
    let mut connection = Connection::new(wire, session, cancelled, stopping.clone());
    tokio::select! {
        biased;
        ended = connection.serve() => ended,
        () = stopping.reached(Stage::Abandoned) => Ok(()),
    }
}

pub use session::Status;
