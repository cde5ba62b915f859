//! The listening socket: accepts connections, bounds what they hold, and stops gracefully.

use std::convert::Infallible;
use std::fs;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::{Either as EitherBody, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use tributary::Tributary;
use tributary::config::Http;
use tributary::internal::tasks::Backoff;

use super::auth::{Access, CursorKeys};
use super::connections::{Connection, Connections, Full as AllTaken, OpenConnection};
use super::error::ApiError;
use super::frame;
use super::from_memory::feed_from_memory;
use super::stream::{AnswerBody, ClientStream, RequestBody, counted};
use super::{App, RouterOptions, routes};

/// Open connections at one time, if the process may open enough files.
const CONNECTIONS_MAX: usize = 8_192;
/// The time limit for a client to send the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes. A larger one is answered with 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The time limit for requests in flight after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// First and longest pause after an error of `accept`, whose usual cause is that file descriptors
/// ran out, and while all connections are at work.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Clients that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Bytes of an answer that the system buffers for one connection. More would let clients that do
/// not read fill the memory of the system.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// Answers the requests of a connection: from the page cache if possible, else by the routes.
#[derive(Clone)]
struct RequestService {
    app: App,
    routes: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

type AnyBody = EitherBody<Full<Bytes>, AnswerBody>;
type Answer = Result<Response<AnyBody>, Infallible>;

impl Service<hyper::Request<Incoming>> for RequestService {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        self.connection.request_arrived();
        // If the page cache panics, the routes answer this request.
        let cached = || feed_from_memory(&self.app, &request);
        let connection = Arc::clone(&self.connection);
        match catch_unwind(AssertUnwindSafe(cached)) {
            Ok(Some(page)) => Either::Left(ready(Ok(cached_answer(&connection, page)))),
            Ok(None) | Err(_) => {
                // The client must learn whether a write took effect.
                let must = !request.method().is_safe();
                let request = request.map(|body| RequestBody::new(body, Arc::clone(&connection)));
                let answer = self.routes.call(request);
                Either::Right(Box::pin(async move {
                    let Ok(response) = answer.await;
                    Ok(answer_of_route(&connection, response, must))
                }))
            }
        }
    }
}

/// A cached page, if the answers in flight have room for it.
fn cached_answer(connection: &Arc<Connection>, page: Response<Bytes>) -> Response<AnyBody> {
    connection.answered();
    match connection.hold_answer(page.body().len(), false) {
        Some(held) => page.map(|body| EitherBody::Left(Full::new(counted(body, held)))),
        None => overloaded(),
    }
}

/// The answer of a route, if the answers in flight have room for it.
fn answer_of_route(
    connection: &Arc<Connection>,
    response: Response,
    must: bool,
) -> Response<AnyBody> {
    connection.answered();
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes == 0 {
        return response.map(|body| EitherBody::Right(AnswerBody::new(body, None)));
    }
    match connection.hold_answer(bytes, must) {
        Some(held) => response.map(|body| EitherBody::Right(AnswerBody::new(body, Some(held)))),
        None => overloaded(),
    }
}

/// 503, in place of an answer that has no room.
fn overloaded() -> Response<AnyBody> {
    frame::rejection(&ApiError::Overloaded)
        .map(|body| EitherBody::Right(AnswerBody::new(body, None)))
}

/// A server with an open listening socket. It answers nothing before [`BoundServer::serve`].
#[derive(Debug)]
pub struct BoundServer {
    listener: TcpListener,
    options: RouterOptions,
    address: SocketAddr,
    limits: Http,
}

/// Listens on a loopback address without credentials, as [`Access::local`] with these host names.
/// Port 0 selects a free port.
///
/// # Errors
/// As [`bind_with`].
pub async fn bind(address: SocketAddr, names: &[String]) -> io::Result<BoundServer> {
    let access = Access::local(names);
    bind_with(address, RouterOptions { access, ..RouterOptions::default() }).await
}

/// Listens on `address`; port 0 selects a free port. Without credentials, and unless
/// [`Access::insecure`] is chosen, this must be a loopback address.
///
/// # Errors
/// The address cannot be bound, for example because another process uses it. The kind is
/// `PermissionDenied` if other machines could reach it without a credential.
pub async fn bind_with(address: SocketAddr, options: RouterOptions) -> io::Result<BoundServer> {
    if options.access.refuses(address) {
        let text = "other machines can reach the address, and no credentials are configured";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let listener = listen(address)?;
    let address = listener.local_addr()?;
    Ok(BoundServer { listener, options, address, limits: Http::default() })
}

/// Accepted connections inherit the options of this socket.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Elsewhere the option would let two processes use one address.
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl BoundServer {
    /// The address of the listening socket, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the keys that seal cursors and freshness tokens.
    #[must_use]
    pub fn cursor_keys(mut self, cursor_keys: CursorKeys) -> Self {
        self.options.cursor_keys = cursor_keys;
        self
    }

    /// Uses the limits of connections in this configuration instead of the defaults.
    #[must_use]
    pub fn with_limits(self, limits: &Http) -> Self {
        Self { limits: limits.clone(), ..self }
    }

    /// Serves until `stop` completes. Then it accepts no connection and no request, and waits at
    /// most eight seconds for the requests in flight.
    pub async fn serve(self, tributary: Tributary, stop: impl Future<Output = ()>) {
        let RouterOptions { access, cursor_keys } = self.options;
        let connections = Connections::new(connections_max(), self.limits);
        let clients = Some(Arc::clone(&connections));
        let app = App { tributary, access, cursor_keys, clients };
        let routes = TowerToHyperService::new(routes(app.clone()));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        let mut backoff = Backoff::new(ACCEPT_PAUSE, ACCEPT_PAUSE_MAX);
        loop {
            // `stop` cancels `accept` only between two connections, so no connection is lost.
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&self.listener, &connections, &mut backoff) => accepted,
            };
            let Some((socket, open)) = accepted else { continue };
            let connection = Arc::clone(&open.0);
            let service = RequestService {
                app: app.clone(),
                routes: routes.clone(),
                connection: Arc::clone(&connection),
            };
            let stream = ClientStream::new(socket, Arc::clone(&connection));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            let served = graceful.watch(served);
            // `graceful` tracks this task: shutdown ends the connection and waits for it.
            tokio::spawn(async move {
                tokio::select! {
                    ended = served => if let Err(error) = ended {
                        debug!(%error, "Connection ended with an error");
                    },
                    () = connection.closing() => {}
                }
                drop(open);
            });
        }
        drop(self.listener);
        if timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
            warn!("Some requests did not end within 8 s; their connections are closed");
        }
        app.access.close().await;
    }
}

/// Accepts the next connection and makes room for it. `None` if there is none.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
    backoff: &mut Backoff,
) -> Option<(TcpStream, OpenConnection)> {
    let (socket, peer) = match listener.accept().await {
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
                return Some((socket, open));
            }
            Err(AllTaken::Address) => return None,
            // All are at work, which ends within the deadline of requests.
            Err(AllTaken::Server) => sleep(backoff.pause()).await,
        }
    }
}

/// The number of connections, which leaves a quarter of the files that the process may still open
/// to the databases.
fn connections_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    match files {
        Some(files) => (files.saturating_sub(open) / 4 * 3).clamp(1, CONNECTIONS_MAX),
        None => CONNECTIONS_MAX,
    }
}
