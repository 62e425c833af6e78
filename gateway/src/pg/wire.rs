//! One client connection's bytes: whole messages in, buffered messages out.
//!
//! Messages are `pgwire`'s; the loop around them is ours, because when to flush and when to hold a
//! `CommandComplete` back is part of our promises (see [`super::connection`]).

use std::io;

use futures::FutureExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::BytesMut;
use pgwire::error::PgWireResult;
use pgwire::messages::{
    DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::shape;
use crate::runtime;

/// Output is written out at this size even without a flush: a slow client makes us wait, not grow.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Read at a time.
const IN_CHUNK: usize = 8 << 10;
/// How often it is looked whether a client that has sent more is still there.
const GONE_LOOK: Duration = Duration::from_millis(500);
/// Largest message a client may send, as in Postgres (1 GiB less one).
const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;
/// Largest startup packet, as in Postgres.
const STARTUP_BYTES_MAX: usize = 10_000;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed or the client went away.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The client ended the connection between two messages.
    #[error("connection closed by the client")]
    Closed,
    /// The bytes are not a message of the protocol.
    #[error("{0}")]
    Protocol(String),
}

/// Which messages the connection may get now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but an encryption request, a cancel request or the startup packet.
    First,
    /// The startup packet, after encryption was settled.
    Startup,
    /// Everything else.
    Running,
}

/// A socket with its two buffers.
///
/// # Invariants
/// * A message is decoded from exactly its own bytes: a malformed one cannot reach the next.
pub struct Wire {
    socket: TcpStream,
    input: BytesMut,
    output: BytesMut,
    /// How often output was written out.
    flushes: u64,
}

/// A place in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    flushes: u64,
    at: usize,
}

impl Wire {
    /// Speaks over this socket.
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, input: BytesMut::new(), output: BytesMut::new(), flushes: 0 }
    }

    /// Whether the bytes of another whole message have come already.
    pub fn has_message(&self) -> bool {
        matches!(frame_len(&self.input, Phase::Running), Ok(Some(n)) if n <= self.input.len())
    }

    /// The kind of the next message if its first byte is here.
    pub fn peek_kind(&self) -> Option<u8> {
        self.input.first().copied()
    }

    /// The next message; waits for it.
    pub async fn next(&mut self, phase: Phase) -> Result<PgWireFrontendMessage, WireError> {
        loop {
            if let Some(len) = frame_len(&self.input, phase)?
                && self.input.len() >= len
            {
                let frame = self.input.split_to(len);
                if self.input.is_empty() {
                    // An idle session keeps no buffer.
                    self.input = BytesMut::new();
                }
                return decode(frame, phase);
            }
            self.input.reserve(IN_CHUNK);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    /// Whether the client has closed its end, as far as that is known without waiting.
    pub fn is_gone(&self) -> bool {
        let mut byte = [0];
        matches!(self.socket.peek(&mut byte).now_or_never(), Some(Ok(0) | Err(_)))
    }

    /// Returns once the client has closed its end.
    pub async fn gone(&self) {
        // What it has sent and is not read yet makes the socket ready at once.
        while let Ok(ready) = self.socket.ready(Interest::READABLE).await
            && !ready.is_read_closed()
        {
            runtime::pause(GONE_LOOK).await;
        }
    }

    /// Appends a message to the output.
    pub fn put(&mut self, message: &PgWireBackendMessage) -> Result<(), WireError> {
        message.encode(&mut self.output).map_err(|e| WireError::Protocol(e.to_string()))
    }

    /// The output buffer, for rows that are encoded in place.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// How much waits to be written; a mark for [`Wire::truncate`].
    pub fn pending(&self) -> usize {
        self.output.len()
    }

    /// Takes back what was put after the mark and not yet written.
    pub fn truncate(&mut self, mark: usize) {
        self.output.truncate(mark);
    }

    /// The end of the output now.
    pub fn mark(&self) -> Mark {
        Mark { flushes: self.flushes, at: self.output.len() }
    }

    /// What was put since a mark; `None` if some of it was written out already.
    pub fn since(&self, mark: Mark) -> Option<&[u8]> {
        (mark.flushes == self.flushes).then(|| self.output.get(mark.at..)).flatten()
    }

    /// Takes back what was put since a mark, unless some of it was written out already.
    pub fn back_to(&mut self, mark: Mark) -> bool {
        let whole = mark.flushes == self.flushes && mark.at <= self.output.len();
        if whole {
            self.output.truncate(mark.at);
        }
        whole
    }

    /// Bytes that wait to be written out.
    pub fn gathered(&self) -> usize {
        self.output.len()
    }

    /// Writes out when much has gathered; waits while the client is slow.
    pub async fn relieve(&mut self) -> Result<bool, WireError> {
        if self.output.len() < OUT_BYTES_MAX {
            return Ok(false);
        }
        self.flush().await?;
        Ok(true)
    }

    /// Writes everything out.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        if !self.output.is_empty() {
            self.flushes += 1;
            self.socket.write_all(&self.output).await?;
            if self.output.capacity() > 2 * OUT_BYTES_MAX {
                self.output = BytesMut::new();
            } else {
                self.output.clear();
            }
        }
        Ok(())
    }

    /// Answers an encryption request: one bare byte.
    pub async fn refuse_encryption(&mut self) -> Result<(), WireError> {
        self.socket.write_all(b"N").await?;
        Ok(())
    }
}

/// Length of the first message with its header, once enough of it is here to know.
fn frame_len(input: &[u8], phase: Phase) -> Result<Option<usize>, WireError> {
    let (offset, max) = match phase {
        Phase::First | Phase::Startup => (0, STARTUP_BYTES_MAX),
        Phase::Running => (1, MESSAGE_BYTES_MAX),
    };
    let Some(bytes) = input.get(offset..offset + 4) else {
        return Ok(None);
    };
    let bytes: [u8; 4] = bytes.try_into().expect("the slice has four bytes");
    let len = usize::try_from(i32::from_be_bytes(bytes)).unwrap_or(0);
    if !(4..=max).contains(&len) || (offset == 0 && len < 8) {
        return Err(WireError::Protocol(String::from("invalid length of message")));
    }
    Ok(Some(len + offset))
}

/// A frame that does not have the shape of its kind is refused before `pgwire` reads it. Should it
/// panic all the same, that is caught here, where it is known to touch no state of ours.
fn decode(mut frame: BytesMut, phase: Phase) -> Result<PgWireFrontendMessage, WireError> {
    let kind = frame.first().copied().unwrap_or(0);
    let malformed = || WireError::Protocol(format!("malformed message of type {:?}", kind as char));
    if phase == Phase::Running && !shape::fits(kind, frame.get(5..).unwrap_or_default()) {
        return Err(malformed());
    }
    match catch_unwind(AssertUnwindSafe(|| decode_once(&mut frame, phase))) {
        Ok(Ok(Some(PgWireFrontendMessage::SslNegotiation(
            pgwire::messages::SslNegotiationMetaMessage::None,
        )))) => decode(frame, Phase::Startup),
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) | Err(_) => Err(malformed()),
        Ok(Err(e)) => Err(WireError::Protocol(e.to_string())),
    }
}

fn decode_once(frame: &mut BytesMut, phase: Phase) -> PgWireResult<Option<PgWireFrontendMessage>> {
    let mut context = DecodeContext::default();
    context.protocol_version = ProtocolVersion::PROTOCOL3_0;
    context.awaiting_frontend_ssl = phase == Phase::First;
    context.awaiting_frontend_startup = phase != Phase::Running;
    PgWireFrontendMessage::decode(frame, &context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_frames_are_refused_without_a_panic(
            kind in any::<u8>(),
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut frame = vec![kind];
            frame.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
            frame.extend_from_slice(&body);
            let len = frame_len(&frame, Phase::Running).unwrap().unwrap();
            prop_assert_eq!(len, frame.len());
            let _ = decode(BytesMut::from(&frame[..]), Phase::Running);
        }

        /// Small numbers and zeros make bodies that are nearly right.
        #[test]
        fn what_has_the_right_shape_is_decoded_without_a_panic(
            kind in prop::sample::select(b"QPBCDESHXFdcfp".to_vec()),
            body in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 1, 2, 255]), 0..24),
        ) {
            let mut frame = vec![kind];
            frame.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
            frame.extend_from_slice(&body);
            if shape::fits(kind, &body) {
                let _ = decode_once(&mut BytesMut::from(&frame[..]), Phase::Running);
            }
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for len in [-1i32, 0, 3, i32::MAX] {
            let mut frame = vec![b'Q'];
            frame.extend_from_slice(&len.to_be_bytes());
            assert!(frame_len(&frame, Phase::Running).is_err(), "{len}");
        }
        assert!(frame_len(&20_000i32.to_be_bytes(), Phase::First).is_err());
    }
}
