//! The service of a connection: answers requests and counts the bytes of the answers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::{Either as EitherBody, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::compression::{AnyBody, PlainBody, bytes_held, compressed};
use super::connections::{Connection, Exchange};
use super::cors::Cors;
use super::error::ApiError;
use super::frame;
use super::from_memory::feed_from_memory;
use super::live::EventStream;
use super::observe::PageKind;
use super::stream::{AnswerBody, RequestBody, counted};
use super::takeover::Takeover;
use super::traffic::PageAuthors;
use super::{App, Role};

/// Answers the requests of a connection: from the page cache if possible, else by the routes.
#[derive(Clone)]
pub(super) struct RequestService {
    pub(super) app: App,
    pub(super) routes: TowerToHyperService<Router>,
    pub(super) connection: Arc<Connection>,
    pub(super) takeover: Takeover,
    pub(super) peer: SocketAddr,
    pub(super) role: Role,
    /// `None` without origins of other sites, and for operators.
    pub(super) cors: Option<Cors>,
}

type Answer = Result<Response<AnyBody>, Infallible>;

impl Service<hyper::Request<Incoming>> for RequestService {
    type Response = Response<AnyBody>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let arrived = Instant::now();
        let exchange = self.connection.request_arrived(arrived);
        let cors = self.cors.as_ref().map(|cors| cors.headers(request.method(), request.headers()));
        let cors = match cors {
            Some((headers, true)) => {
                exchange.answered(arrived);
                return Either::Left(ready(Ok(with_headers(preflight(), Some(headers)))));
            }
            cors => cors.map(|(headers, _)| headers),
        };
        // If the page cache panics, the routes answer this request.
        let from_memory = || match self.role {
            Role::Public | Role::Both => {
                feed_from_memory(&self.app, &request, (self.peer.ip(), arrived))
            }
            Role::Admin => None,
        };
        match catch_unwind(AssertUnwindSafe(from_memory)) {
            Ok(Some((page, kind))) => {
                let answered = Instant::now();
                exchange.answered(answered);
                self.count_from_memory(&request, (&page, kind), answered - arrived);
                let answer = answer_from_memory(&exchange, request.headers(), page);
                Either::Left(ready(Ok(with_headers(answer, cors))))
            }
            Ok(None) | Err(_) => {
                let accepted = request.headers().get(header::ACCEPT_ENCODING).cloned();
                // The client must learn whether a write took effect.
                let must = !request.method().is_safe();
                let mut request = request.map(|body| RequestBody::new(body, Arc::clone(&exchange)));
                request.extensions_mut().insert(ConnectInfo(self.peer));
                request.extensions_mut().insert(Arc::clone(&exchange));
                let history = self.app.history.clone();
                let history = history.map(|history| (history, request.uri().clone()));
                let answer = self.routes.call(request);
                let takeover = (!self.connection.is_multiplexed()).then(|| self.takeover.clone());
                Either::Right(Box::pin(async move {
                    let Ok(mut response) = answer.await;
                    let is_stream = response.extensions().get::<EventStream>().is_some();
                    let authors = response.extensions_mut().remove::<PageAuthors>();
                    let answered = Instant::now();
                    exchange.answered(answered);
                    if let Some((history, uri)) = history {
                        let page = authors.map(|authors| || authors);
                        history.answered(&uri, answered - arrived, page);
                    }
                    let answer = answer_of_route(&exchange, response, (accepted, must));
                    let answer = with_headers(answer, cors);
                    match takeover.filter(|_| is_stream) {
                        Some(takeover) => takeover.offer(answer).await,
                        None => Ok(answer),
                    }
                }))
            }
        }
    }
}

impl RequestService {
    /// Counts a page that memory has answered.
    fn count_from_memory(
        &self,
        request: &hyper::Request<Incoming>,
        (page, kind): (&Response<Bytes>, Option<PageKind>),
        took: Duration,
    ) {
        self.app.observed.add_from_memory(kind, page.status(), took);
        if let Some(history) = &self.app.history {
            // An answer 304 does not say what is on the page.
            let authors = || PageAuthors::in_json(page.body());
            let authors = (!page.body().is_empty()).then_some(authors);
            history.answered(request.uri(), took, authors);
        }
    }
}

/// The empty answer to a preflight request; its headers are those of `Cors`.
fn preflight() -> Response<AnyBody> {
    Response::new(EitherBody::Left(EitherBody::Left(Full::default())))
}

/// Adds the headers for pages of other sites.
fn with_headers(mut answer: Response<AnyBody>, cors: Option<HeaderMap>) -> Response<AnyBody> {
    for (name, value) in cors.iter().flatten() {
        answer.headers_mut().append(name, value.clone());
    }
    answer
}

/// A page from memory, if the answers in flight have room for it.
fn answer_from_memory(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    page: Response<Bytes>,
) -> Response<AnyBody> {
    if page.body().is_empty() {
        return page.map(|body| EitherBody::Left(EitherBody::Left(Full::new(body))));
    }
    let accepted = headers.get(header::ACCEPT_ENCODING).cloned();
    let bytes = bytes_held(accepted.as_ref(), page.body().len());
    match exchange.hold_answer(bytes, false) {
        Some(held) => {
            let page = page.map(|body| EitherBody::Left(Full::new(counted(body, held))));
            compressed(accepted, page)
        }
        None => overloaded(),
    }
}

/// The answer of a route, if the answers in flight have room for it. An answer that `must` be sent
/// always has.
fn answer_of_route(
    exchange: &Arc<Exchange>,
    response: Response,
    (accepted, must): (Option<HeaderValue>, bool),
) -> Response<AnyBody> {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes == 0 {
        return response.map(|body| EitherBody::Left(plain(AnswerBody::new(body, None))));
    }
    match exchange.hold_answer(bytes_held(accepted.as_ref(), bytes), must) {
        Some(held) => {
            let counted = response.map(|body| plain(AnswerBody::new(body, Some(held))));
            compressed(accepted, counted)
        }
        None => overloaded(),
    }
}

fn plain(body: AnswerBody) -> PlainBody {
    EitherBody::Right(body)
}

/// 503, in place of an answer that has no room.
fn overloaded() -> Response<AnyBody> {
    let rejection = frame::rejection(&ApiError::Overloaded);
    rejection.map(|body| EitherBody::Left(plain(AnswerBody::new(body, None))))
}
