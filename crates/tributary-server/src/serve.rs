//! The listening socket: accepts a limited number of connections, and stops gracefully.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::{Either, MapOk, TryFutureExt};
use http_body_util::{Either as EitherBody, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use tributary::Tributary;

use super::auth::{Access, CursorKeys};
use super::page_cache::cached_feed;
use super::{App, RouterOptions, routes};

/// Open connections at one time. Further clients wait in the backlog of the listening socket.
const CONNECTIONS_MAX: usize = 8_192;
/// The time limit for a client to send the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes. A larger one is answered with 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The time limit for requests in flight after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// The pause after an error of `accept`; the usual cause is that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers the requests of a connection: from the page cache if possible, else by the routes.
#[derive(Clone)]
struct RequestService {
    app: App,
    routes: TowerToHyperService<Router>,
}

type AnswerBody = EitherBody<Full<Bytes>, Body>;
type FromRoutes = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Future;

impl Service<hyper::Request<Incoming>> for RequestService {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Self::Response, Infallible>>,
        MapOk<FromRoutes, fn(Response) -> Self::Response>,
    >;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        // If the page cache panics, the routes answer this request.
        let cached = || cached_feed(&self.app, &request);
        match catch_unwind(AssertUnwindSafe(cached)) {
            Ok(Some(page)) => {
                Either::Left(ready(Ok(page.map(|body| EitherBody::Left(Full::new(body))))))
            }
            Ok(None) | Err(_) => {
                let from_routes = |response: Response| response.map(EitherBody::Right);
                Either::Right(self.routes.call(request).map_ok(from_routes))
            }
        }
    }
}

/// A server with an open listening socket. It answers nothing before [`BoundServer::serve`].
#[derive(Debug)]
pub struct BoundServer {
    listener: TcpListener,
    options: RouterOptions,
    address: SocketAddr,
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
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(BoundServer { listener, options, address })
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

    /// Serves until `stop` completes. Then it accepts no connection and no request, and waits at
    /// most eight seconds for the requests in flight.
    pub async fn serve(self, tributary: Tributary, stop: impl Future<Output = ()>) {
        let RouterOptions { access, cursor_keys } = self.options;
        let app = App { tributary, access, cursor_keys };
        let routes = TowerToHyperService::new(routes(app.clone()));
        let service = RequestService { app, routes };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            // `stop` cancels `accept` only between two connections, so no connection is lost.
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&self.listener, &connections) => accepted,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "Cannot accept a connection; retrying");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service.clone());
            let connection = graceful.watch(connection);
            // `graceful` tracks this task: shutdown ends the connection and waits for it.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "Connection ended with an error");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
            warn!("Some requests did not end within 8 s; their connections are closed");
        }
    }
}

/// Waits until fewer than [`CONNECTIONS_MAX`] connections are open, then accepts the next one.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
