//! A listening socket: accepts connections, with or without TLS, and serves them by HTTP/1.1 or
//! HTTP/2 until they end.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;
use tributary::internal::tasks::Backoff;

use super::connections::{Connection, Connections, Full, Look, OpenConnection};
use super::cors::Cors;
use super::frame;
use super::head_timer::HeadTimer;
use super::service::RequestService;
use super::stream::ClientStream;
use super::takeover::{self, Takeover};
use super::tls::{Certificate, chose_http2};
use super::{App, Role};

/// The time limit for a client to send the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes. A larger one is answered with 431.
const HEAD_BYTES_MAX: u16 = 16 * 1024;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 100;
/// Bytes of request bodies that one HTTP/2 connection can send before they are read.
const WINDOW_BYTES: u32 = 65_535;
/// Bytes of one answer that an HTTP/2 connection buffers.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// The pause between two looks at an HTTP/2 connection.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// First and longest pause after an error of `accept`, whose usual cause is that file descriptors
/// ran out, and while all connections are at work.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Clients that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Bytes of an answer that the system buffers for one connection. More would let clients that do
/// not read fill the memory of the system.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// Changes once the server stops. The server waits until all connections have dropped theirs.
pub(super) type Stop = watch::Receiver<()>;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    pub(super) address: SocketAddr,
    /// `None` for plain HTTP.
    pub(super) certificate: Option<Certificate>,
    pub(super) role: Role,
}

/// The routes that answer the requests of a listener.
#[derive(Clone)]
pub(super) struct Routes {
    pub(super) app: App,
    pub(super) router: TowerToHyperService<Router>,
    pub(super) cors: Option<Cors>,
}

impl Listener {
    /// Listens on an address. Accepted connections inherit the options of the socket.
    pub(super) fn bind(address: SocketAddr, role: Role) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Elsewhere the option would let two processes use one address.
        if cfg!(unix) {
            socket.set_reuseaddr(true)?;
        }
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        Ok(Self { address: socket.local_addr()?, socket, certificate: None, role })
    }

    /// Accepts and serves connections. It never ends, and may be dropped.
    pub(super) async fn serve(&self, routes: Routes, connections: Arc<Connections>, stop: Stop) {
        let mut backoff = Backoff::new(ACCEPT_PAUSE, ACCEPT_PAUSE_MAX);
        loop {
            let accepted = self.accept(&connections, &mut backoff).await;
            let Some((socket, peer, open)) = accepted else { continue };
            let connection = Arc::clone(&open.0);
            let service = RequestService {
                app: routes.app.clone(),
                routes: routes.router.clone(),
                connection: Arc::clone(&connection),
                takeover: Takeover::default(),
                peer,
                role: self.role,
                cors: routes.cors.clone(),
            };
            let stream = ClientStream::new(socket, Arc::clone(&connection));
            let (certificate, stop) = (self.certificate.clone(), stop.clone());
            tokio::spawn(async move {
                match certificate {
                    None => http1(stream, service, &connection, stop).await,
                    Some(certificate) => {
                        // In a box, so that it does not enlarge the task of plain connections.
                        let served = encrypted(&certificate, stream, service, &connection, stop);
                        Box::pin(served).await;
                    }
                }
                drop(open);
            });
        }
    }

    /// Accepts the next connection and makes room for it. `None` if there is none.
    async fn accept(
        &self,
        connections: &Arc<Connections>,
        backoff: &mut Backoff,
    ) -> Option<(TcpStream, SocketAddr, OpenConnection)> {
        let (socket, peer) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            // The client has gone in the meantime.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return None,
            Err(error) => {
                connections.close_one(&error);
                sleep(backoff.pause()).await;
                return None;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "Client has gone before it was served");
            return None;
        }
        loop {
            match connections.open(peer.ip()) {
                Ok(open) => {
                    backoff.reset();
                    return Some((socket, peer, open));
                }
                Err(Full::Address) => return None,
                // All are at work, which ends within the deadline of requests.
                Err(Full::Server) => sleep(backoff.pause()).await,
            }
        }
    }
}

/// Serves a connection by the protocol that the client chooses in the handshake.
async fn encrypted(
    certificate: &Certificate,
    stream: ClientStream,
    service: RequestService,
    connection: &Connection,
    mut stop: Stop,
) {
    let accepted = tokio::select! {
        accepted = certificate.accept(stream) => accepted,
        () = connection.closing() => return,
        _ = stop.changed() => return,
    };
    match accepted {
        Ok(Some(stream)) if chose_http2(&stream) => http2(stream, service, connection, stop).await,
        Ok(Some(stream)) => http1(stream, service, connection, stop).await,
        Ok(None) => debug!("Client does not speak TLS; the connection is closed"),
        Err(error) => debug!(%error, "TLS handshake failed; the connection is closed"),
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    service: RequestService,
    connection: &Connection,
    stop: Stop,
) {
    let takeover = service.takeover.clone();
    let mut served = http1::Builder::new()
        .timer(HeadTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(usize::from(HEAD_BYTES_MAX))
        .max_headers(frame::HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let answer = tokio::select! {
        biased;
        () = drive(Pin::new(&mut served), connection, stop.clone()) => return,
        answer = takeover.offered() => answer,
    };
    // An earlier answer of the connection may still be in the buffer of hyper.
    if connection.is_blocked() {
        return debug!("Client does not read its earlier answers; its stream is not begun");
    }
    let stream = served.into_parts().io.into_inner();
    if let Err(error) = takeover::send(stream, answer, connection).await {
        debug!(%error, "Stream of events ended with an error");
    }
    drop(stop);
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    service: RequestService,
    connection: &Connection,
    stop: Stop,
) {
    connection.multiplexes();
    let mut served = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::from(HEAD_BYTES_MAX))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(STREAM_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    drive(served.as_mut(), connection, stop).await;
}

/// Serves a connection until it ends, until the server needs its room, or until the server stops
/// and the requests in flight are answered.
async fn drive<C>(mut served: Pin<&mut C>, connection: &Connection, mut stop: Stop)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let (mut stopping, mut idle) = (false, false);
    loop {
        let stopped = async {
            match stopping {
                false => drop(stop.changed().await),
                true => pending().await,
            }
        };
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "Connection ended with an error");
                }
                return;
            }
            () = connection.closing() => return,
            () = stopped => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            look = looked(connection) => match look {
                Look::Stuck => return connection.stalled(),
                // Before the first frame of the client, the shutdown would wait for it.
                Look::Idle if idle => return,
                Look::Idle => {
                    idle = true;
                    served.as_mut().graceful_shutdown();
                }
                Look::Fine => {}
            }
        }
    }
}

/// Looks at an HTTP/2 connection after a pause. HTTP/1.1 connections have timeouts of their own.
async fn looked(connection: &Connection) -> Look {
    if !connection.is_multiplexed() {
        return pending().await;
    }
    sleep(LOOK_PAUSE).await;
    connection.look()
}
