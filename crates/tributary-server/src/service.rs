//! The service of a connection: answers requests and counts the bytes of the answers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::ConnectInfo;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::{Either as EitherBody, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::connections::{Connection, Exchange};
use super::error::ApiError;
use super::frame;
use super::from_memory::feed_from_memory;
use super::stream::{AnswerBody, RequestBody, counted};
use super::{App, Role};

/// Answers the requests of a connection: from the page cache if possible, else by the routes.
#[derive(Clone)]
pub(super) struct RequestService {
    pub(super) app: App,
    pub(super) routes: TowerToHyperService<Router>,
    pub(super) connection: Arc<Connection>,
    pub(super) peer: SocketAddr,
    pub(super) role: Role,
}

pub(super) type AnyBody = EitherBody<Full<Bytes>, AnswerBody>;
type Answer = Result<Response<AnyBody>, Infallible>;

impl Service<hyper::Request<Incoming>> for RequestService {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let exchange = self.connection.request_arrived();
        // If the page cache panics, the routes answer this request.
        let cached = || match self.role {
            Role::Public | Role::Both => feed_from_memory(&self.app, &request, self.peer.ip()),
            Role::Admin => None,
        };
        match catch_unwind(AssertUnwindSafe(cached)) {
            Ok(Some(page)) => Either::Left(ready(Ok(cached_answer(&exchange, page)))),
            Ok(None) | Err(_) => {
                // The client must learn whether a write took effect.
                let must = !request.method().is_safe();
                let mut request = request.map(|body| RequestBody::new(body, Arc::clone(&exchange)));
                request.extensions_mut().insert(ConnectInfo(self.peer));
                let answer = self.routes.call(request);
                Either::Right(Box::pin(async move {
                    let Ok(response) = answer.await;
                    Ok(answer_of_route(&exchange, response, must))
                }))
            }
        }
    }
}

/// A cached page, if the answers in flight have room for it.
fn cached_answer(exchange: &Arc<Exchange>, page: Response<Bytes>) -> Response<AnyBody> {
    exchange.answered();
    match exchange.hold_answer(page.body().len(), false) {
        Some(held) => page.map(|body| EitherBody::Left(Full::new(counted(body, held)))),
        None => overloaded(),
    }
}

/// The answer of a route, if the answers in flight have room for it.
fn answer_of_route(exchange: &Arc<Exchange>, response: Response, must: bool) -> Response<AnyBody> {
    exchange.answered();
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes == 0 {
        return response.map(|body| EitherBody::Right(AnswerBody::new(body, None)));
    }
    match exchange.hold_answer(bytes, must) {
        Some(held) => response.map(|body| EitherBody::Right(AnswerBody::new(body, Some(held)))),
        None => overloaded(),
    }
}

/// 503, in place of an answer that has no room.
fn overloaded() -> Response<AnyBody> {
    frame::rejection(&ApiError::Overloaded)
        .map(|body| EitherBody::Right(AnswerBody::new(body, None)))
}
