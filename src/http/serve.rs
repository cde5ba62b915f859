//! The listening socket: accepting, bounded; stopping, gracefully.

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

use super::frame::Hosts;
use super::page_cache::cached_feed;
use super::routes;
use crate::Tributary;

/// Connections at once; more wait in the listening socket's queue.
const CONNECTIONS_MAX: usize = 8_192;
/// How long a client may take to send a request's head, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request; a larger one is answered 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long requests under way may take after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// After an error of `accept`, most likely a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers the requests of a connection: a page that was sent before, or else the routes.
#[derive(Clone)]
struct RequestService {
    tributary: Tributary,
    hosts: Hosts,
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
        // Should it panic, the routes answer, and the panic stays within this request.
        let cached = || cached_feed(&self.tributary, &self.hosts, &request);
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

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct BoundServer {
    listener: TcpListener,
    hosts: Hosts,
    address: SocketAddr,
}

/// Listens on `address`; port 0 takes a free one. On an address of this machine only requests to
/// this machine's names and to `names` are answered.
pub async fn bind(address: SocketAddr, names: &[String]) -> io::Result<BoundServer> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let hosts = if address.ip().is_loopback() { Hosts::Local(names.into()) } else { Hosts::Any };
    Ok(BoundServer { listener, hosts, address })
}

impl BoundServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, then ends the requests under way, for eight seconds at most.
    pub async fn serve(self, tributary: Tributary, stop: impl Future<Output = ()>) {
        let routes = TowerToHyperService::new(routes(tributary.clone(), self.hosts.clone()));
        let service = RequestService { tributary, hosts: self.hosts, routes };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            // Cancelled by `stop` only between two connections; nothing is lost.
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&self.listener, &connections) => accepted,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
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
            // Owned by `graceful`, which ends and awaits it.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "connection ended");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
            warn!("some requests did not end in time and are cut off");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
