//! Errors of a request, and the answer that reports them to the client: RFC 9457 problem details
//! with a stable `code` and a `trace_id`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use tributary::graph::{GraphError, NotStored};
use tributary::news::SubscribeError;
use tributary::posts::AroundError;
use tributary::posts::markers::MarkError;
use tributary::{BadCursor, IdempotencyKey, Limit, ReadError, Tributary, UserId, WriteError};
use utoipa::ToSchema;

use super::auth::{BadSeal, Denied, Scope};
use super::explain::Explained;
use super::frame::TraceId;
use super::observe::PageKind;

/// An error that a request is answered with. The client receives the text as `detail`, so it never
/// contains internals such as addresses or file names, and SQL only to create what is missing.
#[derive(Clone, Debug, Error)]
pub(super) enum ApiError {
    #[error("the user id must be a decimal number from 0 to {max}", max = UserId::MAX)]
    BadUserId,
    #[error("the post id must be a decimal number from 0 to {max}", max = UserId::MAX)]
    BadPostId,
    #[error(
        "the request must have one Idempotency-Key header of 1 to {max} visible ASCII characters",
        max = IdempotencyKey::CHARACTERS_MAX
    )]
    BadIdempotencyKey,
    #[error("the Content-Type of the body must be application/json")]
    BadBodyType,
    #[error("the body is not the JSON that this address expects: {0}")]
    BadBody(String),
    #[error("the body did not arrive within 10 seconds")]
    SlowBody,
    #[error("the body ended early, or its transfer coding is wrong")]
    BrokenBody,
    #[error("limit must be a whole number from 1 to {max}", max = Limit::MAX)]
    BadLimit,
    #[error(
        "the cursor is not valid for this list and reader; omit it to start at the newest page"
    )]
    BadCursor,
    #[error("{0} is not a valid freshness token; omit it")]
    BadFreshness(&'static str),
    #[error("the query string is invalid: {0}")]
    BadQuery(&'static str),
    #[error(
        "without credentials this server serves only names of its machine; configure credentials, \
         or add the name in the Host header to http.hosts"
    )]
    UnknownHost,
    #[error("without credentials this server serves only its own machine, and {0}")]
    LocalOnly(&'static str),
    #[error("the request needs a valid credential: Authorization: Bearer, and a key or a token")]
    Unauthenticated,
    #[error("the credential is not valid, or it is too long for a cookie")]
    SignInRefused,
    #[error("a page of another web site has sent the request")]
    CrossSite,
    #[error("the credential is not allowed to do this; a key needs the scope {0}")]
    MissingScope(Scope),
    #[error("the client has used the units of its limit for the {limit}; wait and try again")]
    TooManyRequests { limit: &'static str, retry_after_s: u32 },
    #[error("more than {max} requests of this {limit} are in flight; wait for their answers")]
    TooManyInFlight { limit: &'static str, max: u32 },
    #[error("nothing exists at this address")]
    NotFound,
    #[error("this address does not support this method; see the Allow header")]
    MethodNotAllowed,
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(u64),
    #[error("the request has more than {0} headers")]
    TooManyHeaders(usize),
    #[error("the address is longer than {0} bytes")]
    UriTooLong(usize),
    #[error(
        "the user follows more than {max} users, the limit for reading a home timeline",
        max = Tributary::FOLLOWEES_MAX
    )]
    TooManyFollowees,
    #[error(
        "the page is incomplete, stale or older than its freshness token, and the request accepts \
         only complete pages; try again"
    )]
    Incomplete(Option<PageKind>),
    #[error(transparent)]
    NotWritten(WriteError),
    #[error(transparent)]
    NotStored(#[from] NotStored),
    #[error(transparent)]
    FuturePost(MarkError),
    #[error("the shard of this post does not answer at the moment; try again")]
    ShardUnavailable,
    #[error("the server has as many streams as it may have; try again, or ask with feed/new")]
    TooManyStreams,
    #[error("this server has no memory that follows the logs, so it has no streams")]
    NoStreams,
    #[error("the server holds too many bytes for other requests at the moment; try again")]
    Overloaded,
    #[error("internal error; the server's log has details under this trace id")]
    Internal,
    /// As [`ApiError::Internal`]; the panic is in the log already.
    #[error("internal error; the server's log has details under this trace id")]
    Panicked,
}

/// The problem type of a client that has used its units.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// An error (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct Problem<'a> {
    /// The address of the description of this problem.
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    trace_id: &'a str,
    /// As in draft-ietf-httpapi-ratelimit-headers.
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    violated_policies: Option<[&'static str; 1]>,
    /// With `explain=1`, if a timeline was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Explained<'static>>, nullable = false)]
    explain: Option<Value>,
}

/// The JSON that explains a page, on the answer that reports why there is none.
#[derive(Clone, Debug)]
pub(super) struct ErrorExplanation(pub(super) Value);

impl ApiError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadUserId => (StatusCode::BAD_REQUEST, "invalid_user_id"),
            Self::BadPostId => (StatusCode::BAD_REQUEST, "invalid_post_id"),
            Self::BadIdempotencyKey => (StatusCode::BAD_REQUEST, "invalid_idempotency_key"),
            Self::BadBodyType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::BadBody(_) => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::BrokenBody => (StatusCode::BAD_REQUEST, "broken_body"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "body_too_slow"),
            Self::BadLimit => (StatusCode::BAD_REQUEST, "invalid_limit"),
            Self::BadCursor => (StatusCode::BAD_REQUEST, "invalid_cursor"),
            Self::BadFreshness(_) => (StatusCode::BAD_REQUEST, "invalid_freshness"),
            Self::BadQuery(_) => (StatusCode::BAD_REQUEST, "invalid_query"),
            Self::UnknownHost => (StatusCode::MISDIRECTED_REQUEST, "unknown_host"),
            Self::LocalOnly(_) => (StatusCode::FORBIDDEN, "local_only"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::SignInRefused => (StatusCode::UNAUTHORIZED, "sign_in_refused"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "cross_site"),
            Self::MissingScope(_) => (StatusCode::FORBIDDEN, "missing_scope"),
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::TooManyInFlight { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_in_flight"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::TooManyHeaders(_) => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers")
            }
            Self::UriTooLong(_) => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::TooManyFollowees => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_followees"),
            Self::Incomplete(_) => (StatusCode::SERVICE_UNAVAILABLE, "incomplete"),
            Self::NotWritten(error) => write_status(*error),
            Self::FuturePost(_) => (StatusCode::UNPROCESSABLE_ENTITY, "future_post"),
            Self::NotStored(_) => (StatusCode::NOT_IMPLEMENTED, "not_stored"),
            Self::ShardUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "shard_unavailable"),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "too_many_streams"),
            Self::NoStreams => (StatusCode::NOT_IMPLEMENTED, "no_streams"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Internal | Self::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// After how many seconds the request may succeed, if that is known or likely.
    fn retry_after_s(&self, status: StatusCode) -> Option<u32> {
        match self {
            Self::TooManyRequests { retry_after_s, .. } => Some(*retry_after_s),
            Self::TooManyInFlight { .. } => Some(1),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// Replaces the body of `response` by the problem details of this error. The other headers of
    /// `response` stay. A 429 and a 503 get `Retry-After`.
    pub(super) fn render(&self, trace_id: &TraceId, mut response: Response) -> Response {
        let (status, code) = self.status_and_code();
        let violated_policies = match self {
            Self::TooManyRequests { limit, .. } => Some([*limit]),
            _ => None,
        };
        let problem = Problem {
            r#type: match violated_policies {
                Some(_) => QUOTA_EXCEEDED.to_owned(),
                None => format!("/docs#{code}"),
            },
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: self.to_string(),
            trace_id: trace_id.as_str(),
            violated_policies,
            explain: response.extensions_mut().remove().map(|ErrorExplanation(json)| json),
        };
        *response.body_mut() = serde_json::to_vec(&problem).unwrap_or_default().into();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        headers.remove(header::CONTENT_LENGTH);
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s(status) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn write_status(error: WriteError) -> (StatusCode, &'static str) {
    match error {
        WriteError::ReadOnly => (StatusCode::FORBIDDEN, "read_only"),
        WriteError::ContentLength { .. } | WriteError::Content => {
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid_content")
        }
        WriteError::Refused => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
        WriteError::TooManyFollows => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_follows"),
        WriteError::TooManyFollowees => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_followees"),
        WriteError::KeyReused => (StatusCode::CONFLICT, "idempotency_key_reused"),
        WriteError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "shard_unavailable"),
        WriteError::InDoubt => (StatusCode::SERVICE_UNAVAILABLE, "in_doubt"),
        WriteError::Full => (StatusCode::INSUFFICIENT_STORAGE, "storage_full"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// Sets the status only. `frame::handle` renders the body later, because only it knows the trace
/// id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status_and_code().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooManyFollowees => Self::TooManyFollowees,
            _ => Self::Internal,
        }
    }
}

impl From<SubscribeError> for ApiError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Read(error) => error.into(),
            SubscribeError::NoMemory => Self::NoStreams,
            SubscribeError::Full => Self::TooManyStreams,
            _ => Self::Internal,
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        Self::NotWritten(error)
    }
}

impl From<AroundError> for ApiError {
    fn from(error: AroundError) -> Self {
        match error {
            AroundError::Read(error) => error.into(),
            AroundError::NotStored(error) => Self::NotStored(error),
            _ => Self::ShardUnavailable,
        }
    }
}

impl From<GraphError> for ApiError {
    fn from(error: GraphError) -> Self {
        match error {
            GraphError::NotStored(error) => Self::NotStored(error),
            GraphError::Write(error) => Self::NotWritten(error),
            _ => Self::Internal,
        }
    }
}

impl From<MarkError> for ApiError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::NotStored(error) => Self::NotStored(error),
            MarkError::Unavailable(_) => Self::ShardUnavailable,
            MarkError::Write(error) => Self::NotWritten(error),
            MarkError::FuturePost => Self::FuturePost(error),
            _ => Self::Internal,
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Self::Unauthenticated,
            Denied::Hidden => Self::NotFound,
            Denied::MissingScope(scope) => Self::MissingScope(scope),
        }
    }
}

impl From<BadSeal> for ApiError {
    fn from(_: BadSeal) -> Self {
        Self::BadCursor
    }
}

impl From<BadCursor> for ApiError {
    fn from(_: BadCursor) -> Self {
        Self::BadCursor
    }
}
