//! Cross-origin requests of browsers (CORS), for the configured origins.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use axum::response::Response;
use futures_util::FutureExt;
use tower::{Layer, Service, service_fn};
use tower_http::cors::CorsLayer;
use tributary::config::Origin;

/// How long a browser may remember the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// Methods of requests that pages of other origins may send.
const METHODS: [Method; 5] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
/// Headers of requests that pages of other origins may set.
const REQUEST_HEADERS: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("tributary-freshness"),
    HeaderName::from_static("traceparent"),
];
/// Headers of answers that pages of other origins may read.
const ANSWER_HEADERS: [HeaderName; 13] = [
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("tributary-freshness"),
    HeaderName::from_static("tributary-freshness-lost"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// The rules for the configured origins.
#[derive(Clone, Debug)]
pub(super) struct Cors(CorsLayer);

impl Cors {
    /// `None` without origins: then no answer has headers for other origins.
    pub(super) fn of(origins: &[Origin]) -> Option<Self> {
        let origins = origins.iter().map(|origin| HeaderValue::try_from(origin.as_str()));
        let origins: Vec<HeaderValue> = origins.filter_map(Result::ok).collect();
        let layer = CorsLayer::new()
            .allow_methods(METHODS)
            .allow_headers(REQUEST_HEADERS)
            .expose_headers(ANSWER_HEADERS)
            .max_age(MAX_AGE)
            .vary([header::ORIGIN]);
        (!origins.is_empty()).then(|| Self(layer.allow_origin(origins)))
    }

    /// The headers for the answer to this request, and whether they are the whole answer: that to a
    /// preflight request.
    pub(super) fn headers(&self, method: &Method, requested: &HeaderMap) -> (HeaderMap, bool) {
        let mut request = Request::new(());
        request.method_mut().clone_from(method);
        request.headers_mut().clone_from(requested);
        let empty = service_fn(|_| ready(Ok::<_, Infallible>(Response::new(()))));
        let answered = self.0.layer(empty).call(request).now_or_never();
        let headers = answered.and_then(Result::ok).map(|answer| answer.into_parts().0.headers);
        let is_preflight =
            method == Method::OPTIONS && requested.contains_key("access-control-request-method");
        (headers.unwrap_or_default(), is_preflight)
    }
}
