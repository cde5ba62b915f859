//! What is done around every request: a trace id, limits on its size, errors as problem details,
//! and a panic that stays within its request.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::{Instrument, error, info_span, warn};

use super::error::ApiError;
use crate::Tributary;

/// No address of ours is longer: a cursor has at most 4,096 characters.
const URI_BYTES_MAX: usize = 8 * 1024;
/// The body of a request, unless longer posts are allowed. Routes that take none ignore a small one
/// rather than refuse it.
const BODY_BYTES_MAX: u64 = 64 * 1024;
/// JSON may write a byte of text as six: `\u0041`.
const ESCAPED_BYTES: u64 = 6;
/// What stands around the text of a post in its JSON.
const ENVELOPE_BYTES: u64 = 1024;

/// How many bytes the body of a request may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit(pub(super) u64);

impl BodyLimit {
    /// Room for the longest post, however its JSON is written.
    pub(super) fn of(tributary: &Tributary) -> Self {
        let content = tributary.publisher().content_bytes_max() as u64;
        Self(BODY_BYTES_MAX.max(content * ESCAPED_BYTES + ENVELOPE_BYTES))
    }
}

/// The names that the server answers to.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    /// All: whoever reaches it was meant to.
    Any,
    /// This machine's own and these. A page of another site could else have its name lead to this
    /// machine and read what only this machine may (DNS rebinding).
    Local(Arc<[String]>),
}

impl Hosts {
    pub(super) fn include<B>(&self, request: &Request<B>) -> bool {
        let Self::Local(names) = self else { return true };
        let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let Some(host) = request.uri().host().or(header) else { return true };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// What is the same for all requests.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) limit: BodyLimit,
    pub(super) hosts: Hosts,
}

/// Names one request in its answer and in the log: 32 hexadecimal digits, as in W3C Trace Context.
#[derive(Clone, Debug)]
pub(super) struct TraceId(String);

impl TraceId {
    /// The caller's, from a `traceparent` header, or a new one.
    fn of(headers: &HeaderMap) -> Self {
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let theirs = parent.and_then(|parent| parent.split('-').nth(1)).filter(|id| {
            id.len() == 32
                && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && id.bytes().any(|b| b != b'0')
        });
        match theirs {
            Some(id) => Self(id.to_owned()),
            None => Self(format!("{:032x}", rand::random::<u128>())),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Runs a request.
pub(super) async fn handle(
    State(Frame { limit, hosts }): State<Frame>,
    mut request: Request,
    next: Next,
) -> Response {
    let trace_id = TraceId::of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(limit);
    let wrong_host = || (!hosts.include(&request)).then_some(ApiError::UnknownHost);
    let mut response = match oversize(&request, limit).or_else(wrong_host) {
        Some(error) => error.into_response(),
        None => {
            // What is logged on the way has the trace id too.
            let run =
                next.run(request).instrument(info_span!("request", trace_id = trace_id.as_str()));
            AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
                error!(trace_id = trace_id.as_str(), "request panicked");
                ApiError::Internal.into_response()
            })
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if response.status().is_server_error() {
            warn!(trace_id = trace_id.as_str(), %method, path, %error, "request failed");
        }
        response = error.render(&trace_id, response);
    }
    set_common_headers(response.headers_mut());
    response
}

/// A timeline is one reader's; no cache in between may keep it, and no browser may take it for
/// anything else.
pub(super) fn set_common_headers(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn oversize(request: &Request, limit: BodyLimit) -> Option<ApiError> {
    let uri_bytes = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_bytes > URI_BYTES_MAX {
        return Some(ApiError::UriTooLong(URI_BYTES_MAX));
    }
    let length = request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>();
    (length.ok()? > limit.0).then_some(ApiError::BodyTooLarge(limit.0))
}
