//! The socket of a client and the bodies on it: a client that does not read is disconnected, and
//! the bytes of answers and of request bodies are counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::connections::{Connection, Exchange, HeldAnswer};

/// How long an answer may make no progress because its client does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connected socket.
#[derive(Debug)]
pub(super) struct ClientStream {
    socket: TcpStream,
    connection: Arc<Connection>,
    /// Runs while the client takes no bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The rest of the answer is dropped with the connection.
    abort: bool,
}

impl ClientStream {
    pub(super) fn new(socket: TcpStream, connection: Arc<Connection>) -> Self {
        Self { socket, connection, stalled: None, abort: false }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Notes progress. An error if there was none for [`WRITE_TIMEOUT`].
    fn progress(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            self.connection.received();
            return written;
        }
        self.connection.blocks();
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        self.abort = true;
        self.connection.stalled();
        let text = "the client did not read its answer for 10 s";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.abort || self.connection.is_closing() {
            // Else the system would keep the unread bytes, as it does if this fails.
            drop(self.socket.set_zero_linger());
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(context, bytes);
        this.progress(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write_vectored(context, bytes);
        this.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

/// The bytes of an answer, counted until the connection has written them.
struct HeldBytes {
    bytes: Bytes,
    _held: HeldAnswer,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts these bytes until they are dropped.
pub(super) fn counted(bytes: Bytes, held: HeldAnswer) -> Bytes {
    Bytes::from_owner(HeldBytes { bytes, _held: held })
}

/// The body of an answer, whose bytes are counted.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    held: Option<HeldAnswer>,
}

impl AnswerBody {
    pub(super) fn new(body: Body, held: Option<HeldAnswer>) -> Self {
        Self { body, held }
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let held = &mut this.held;
        let count = |bytes| match held.take() {
            Some(held) => counted(bytes, held),
            None => bytes,
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(count))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request, whose bytes are counted until the request is answered.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
}

/// Too many bytes of request bodies are held.
#[derive(Debug, Error)]
#[error("too many request bodies are being received")]
pub(super) struct TooManyBytes;

impl RequestBody {
    pub(super) fn new(body: Incoming, exchange: Arc<Exchange>) -> Self {
        Self { body, exchange }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            this.exchange.waits();
            return Poll::Pending;
        };
        this.exchange.works();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        Poll::Ready(Some(match this.exchange.hold_body(bytes) {
            true => frame.map_err(Into::into),
            false => Err(TooManyBytes.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
