//! The middleware of every route. It assigns a trace id, limits the size of the request, and
//! renders errors as problem details. A panic ends only its own request.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::{Instrument, error, info_span, warn};
use tributary::Tributary;

use super::App;
use super::auth::{Access, Principal};
use super::conditional::unless_known;
use super::error::ApiError;
use super::health;
use super::limits::{Admission, Cost, CurrentLimiter, Refusal};
use super::observe::{Observed, PageKind, method_name};
use super::query::check_query;
use super::timeline::set_freshness_lost;
use super::web;

/// Longest path and query in bytes. Valid ones are shorter: a cursor has at most 4,096 characters.
pub(super) const URI_BYTES_MAX: usize = 8 * 1024;
/// Most headers of a request.
pub(super) const HEADERS_MAX: usize = 100;
/// Largest body of a request in bytes, unless the configuration allows longer posts. Routes
/// without a body ignore a body up to this size.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// JSON may encode one byte of text as six bytes: `\u0041`.
const ESCAPED_BYTES: u64 = 6;
/// Where a read was answered from, and how long it took in milliseconds.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Allowance in bytes for the JSON around the text of a post.
const ENVELOPE_BYTES: u64 = 1024;

/// Largest body of a request, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit(pub(super) u64);

impl BodyLimit {
    /// A limit that admits the longest allowed post, however its JSON escapes the text.
    pub(super) fn of(tributary: &Tributary) -> Self {
        let content = tributary.content_bytes_max() as u64;
        Self(BODY_BYTES_MAX.max(content * ESCAPED_BYTES + ENVELOPE_BYTES))
    }
}

/// The settings of the middleware, the same for all requests.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    limit: BodyLimit,
    access: Access,
    limiter: Option<CurrentLimiter>,
    /// Whether there are pages for people.
    has_pages: bool,
    observed: Arc<Observed>,
}

impl Frame {
    pub(super) fn of(app: &App) -> Self {
        Self {
            limit: BodyLimit::of(&app.tributary),
            access: app.access.clone(),
            limiter: app.limiter.clone(),
            has_pages: app.web.is_some(),
            observed: Arc::clone(&app.observed),
        }
    }

    /// Admits a request, unless its client exceeds a limit. A probe of the health of this process
    /// has no limit: an answer is as cheap as a refusal.
    fn admit(
        &self,
        request: &Request,
        principal: &Principal,
    ) -> Result<Option<Admission>, Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(None) };
        if health::PATHS.contains(&request.uri().path()) {
            return Ok(None);
        }
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map(|ConnectInfo(peer)| peer.ip());
        limiter.get().enter(principal, peer, request.headers()).map(Some)
    }
}

/// Identifies one request in its answer and in the log: 32 hexadecimal digits, as in W3C Trace
/// Context.
#[derive(Clone, Debug)]
pub(super) struct TraceId(String);

impl TraceId {
    /// The trace id of the `traceparent` header if there is a valid one, else a random one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all("traceparent").iter();
        let given = match (parents.next(), parents.next()) {
            (Some(only), None) => only.to_str().ok().and_then(trace_id_of),
            _ => None,
        };
        Self(given.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The trace id of a `traceparent`: version, trace id, parent id and flags. A later version may
/// have further parts.
fn trace_id_of(parent: &str) -> Option<&str> {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|b| b != b'0');
    let mut parts = parent.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let (parent_id, flags) = (parts.next()?, parts.next()?);
    let is_version = is_hex(version, 2) && version != "ff";
    let is_whole = version != "00" || parts.next().is_none();
    let is_valid = is_id(trace_id, 32) && is_id(parent_id, 16) && is_hex(flags, 2);
    (is_version && is_whole && is_valid).then_some(trace_id)
}

/// Handles one request, counts its answer, and sets the headers that all answers share.
pub(super) async fn handle(State(frame): State<Frame>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, is_read) = (method_name(request.method()), request.method().is_safe());
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let mut response = answer(&frame, request, next).await;
    let (status, duration) = (response.status(), start.elapsed());
    let pattern = pattern.as_ref().map(MatchedPath::as_str);
    frame.observed.add_request(method, pattern, status, duration);
    let page = response.extensions_mut().remove::<PageKind>();
    if let Some(page) = page {
        frame.observed.add_page(page);
    }
    let headers = response.headers_mut();
    if is_read && (status.is_success() || status == StatusCode::NOT_MODIFIED) {
        let source = page.map_or("total", PageKind::source_name);
        headers.extend(server_timing(source, duration).map(|value| (SERVER_TIMING, value)));
    }
    set_common_headers(headers);
    response
}

/// The time until the answer was ready, in milliseconds.
fn server_timing(source: &str, duration: Duration) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{source};dur={:.3}", duration.as_secs_f64() * 1e3)).ok()
}

/// Finds the principal of a request, checks the limits of its client and its size, runs its route,
/// and renders an error.
async fn answer(frame: &Frame, mut request: Request, next: Next) -> Response {
    let trace_id = TraceId::of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let page =
        (frame.has_pages && web::wants_page(request.headers())).then(|| request.headers().clone());
    let known: Vec<HeaderValue> =
        request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();
    request.extensions_mut().insert(frame.limit);
    let principal = frame.access.admit(&request);
    // A request without a valid credential counts for its address.
    let counted = principal.as_ref().unwrap_or(&Principal::Anonymous);
    let mut response = match frame.admit(&request, counted) {
        Err(refusal) => {
            let mut response = refusal.error.clone().into_response();
            refusal.set_headers(response.headers_mut());
            response
        }
        Ok(admission) => {
            let is_write = !method.is_safe();
            let mut response = match check(&request, frame.limit).and(principal) {
                Ok(principal) => run(request, principal, next, &trace_id).await,
                Err(error) => error.into_response(),
            };
            if let Some(admission) = admission {
                let cost = cost_of(&mut response, is_write);
                admission.finish(cost, response.headers_mut());
            }
            response
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if response.status().is_server_error() && !is_logged(&error) {
            warn!(trace_id = trace_id.as_str(), %method, path, %error, "Request failed");
        }
        response = error.render(&trace_id, response);
        if let Some(request_headers) = page {
            response =
                web::error_page(&error, &trace_id, (&request_headers, &frame.access), response);
        }
        if let ApiError::Incomplete(Some(page)) = error {
            // Repeating the request does not help if the position can never be reached.
            if page.token == Some(false) {
                set_freshness_lost(response.headers_mut());
            }
            response.extensions_mut().insert(page);
        }
    }
    conditional(&method, &known, response)
}

/// 304 for an answer that the client has. Only representations of their address have a tag.
fn conditional(method: &Method, known: &[HeaderValue], mut response: Response) -> Response {
    let status = response.status();
    if method.is_safe() && status == StatusCode::OK {
        return unless_known(known, response);
    }
    if status != StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(header::ETAG);
    }
    response
}

/// Whether the log has the failure already, under the trace id of its request: the library logs
/// failed writes with their reason, and overload once an hour.
fn is_logged(error: &ApiError) -> bool {
    matches!(error, ApiError::NotWritten(_) | ApiError::Panicked)
}

/// Runs the route of a request. A panic is answered with 500.
async fn run(
    mut request: Request,
    principal: Principal,
    next: Next,
    trace_id: &TraceId,
) -> Response {
    request.extensions_mut().insert(principal);
    // The span adds the trace id to every line that the route logs.
    let run = next.run(request).instrument(info_span!("request", trace_id = trace_id.as_str()));
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
        error!(trace_id = trace_id.as_str(), "Request panicked; it was answered with 500");
        ApiError::Panicked.into_response()
    })
}

/// The cost that the handler has stated, or that of an answer without one. A 422 or 5xx may come
/// late, after queries.
fn cost_of(response: &mut Response, is_write: bool) -> Cost {
    let status = response.status();
    let is_late_error = status.is_server_error() || status == StatusCode::UNPROCESSABLE_ENTITY;
    let stated = response.extensions_mut().remove();
    stated.unwrap_or(Cost::by_default(is_write, is_late_error))
}

/// Sets the headers that all answers share. A timeline belongs to one reader: shared caches must
/// not store it, a private cache must revalidate it, and a browser must not guess another content
/// type. Only the files of pages say themselves how long they may be kept.
pub(super) fn set_common_headers(headers: &mut HeaderMap) {
    let private = HeaderValue::from_static("private, no-cache");
    headers.entry(header::CACHE_CONTROL).or_insert(private);
    headers.append(header::VARY, HeaderValue::from_static("authorization, cookie"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The answer for an error that occurs outside the routes.
pub(super) fn rejection(error: &ApiError) -> Response {
    let trace_id = TraceId::of(&HeaderMap::new());
    let mut response = error.render(&trace_id, error.clone().into_response());
    response.extensions_mut().remove::<ApiError>();
    set_common_headers(response.headers_mut());
    response
}

/// The length of the path and the query of a request.
pub(super) fn uri_bytes<B>(request: &axum::http::Request<B>) -> usize {
    request.uri().path_and_query().map_or(0, |uri| uri.as_str().len())
}

/// Checks the size of a request, and its query.
fn check(request: &Request, limit: BodyLimit) -> Result<(), ApiError> {
    if uri_bytes(request) > URI_BYTES_MAX {
        return Err(ApiError::UriTooLong(URI_BYTES_MAX));
    }
    // HTTP/1.1 connections refuse them earlier, with an empty 431.
    if request.headers().len() > HEADERS_MAX {
        return Err(ApiError::TooManyHeaders(HEADERS_MAX));
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit.0) {
        return Err(ApiError::BodyTooLarge(limit.0));
    }
    check_query(request.uri())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_names_the_trace() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for valid in
            [format!("00-{id}-00f067aa0ba902b7-01"), format!("01-{id}-00f067aa0ba902b7-00-later")]
        {
            assert_eq!(trace_id_of(&valid), Some(id), "{valid}");
        }
        for invalid in [
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("0-{id}-00f067aa0ba902b7-01"),
            format!("00-{id}-00f067aa0ba902b7-01-more"),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{id}-1-1"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            format!("00-{id}"),
            String::new(),
        ] {
            assert_eq!(trace_id_of(&invalid), None, "{invalid}");
        }
    }
}
