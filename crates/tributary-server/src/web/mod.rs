//! The pages for people: timelines that browsers show, with the API's own authorization.
//!
//! The server renders every page, so that it can be read without scripts. The scripts in `assets`
//! request the same pages and move their posts into the page that is shown; they write by the API.
//! Nothing is loaded from elsewhere, and no page has a script or a style inside.

mod assets;
mod chart;
mod explain;
mod find;
mod lists;
mod names;
mod pages;
mod post;
mod referred;
mod scatter;
mod shards;
mod sign_in;
mod view;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tributary::UserId;

pub(super) use self::shards::shards_page;
use self::view::{Frame, sentence};
use super::App;
use super::auth::Access;
use super::error::ApiError;
use super::frame::TraceId;

/// Nothing may be loaded from elsewhere, and nothing inside a page may run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The pages for people, for [`crate::RouterOptions::web`]. They work at the root of an address
/// only, not under a prefix.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Web {
    /// Whether the pages offer to write.
    pub writes: bool,
    /// Readers that the first page suggests, if the client may read as any user.
    pub examples: Arc<[UserId]>,
    /// Whether the page for operators is on the same address.
    pub(super) has_shards: bool,
}

impl Web {
    /// Pages that offer to write, or that do not.
    pub fn new(writes: bool) -> Self {
        Self { writes, ..Self::default() }
    }

    /// Suggests these readers on the first page.
    #[must_use]
    pub fn with_examples(self, examples: Vec<UserId>) -> Self {
        Self { examples: examples.into(), ..self }
    }
}

/// The routes of the pages for readers.
pub(super) fn page_routes() -> Router<App> {
    Router::new()
        .route("/", get(pages::start))
        .route("/open", get(find::open))
        .route("/home/{reader}", get(pages::home))
        .route("/home/{reader}/open", get(find::open_author))
        .route("/home/{reader}/explain", get(explain::explain))
        .route("/home/{reader}/following", get(lists::following))
        .route("/home/{reader}/followers", get(lists::followers))
        .route("/home/{reader}/mutes", get(lists::mutes))
        .route("/home/{reader}/blocks", get(lists::blocks))
        .route("/home/{reader}/authors/{author}", get(pages::author))
        .route("/home/{reader}/posts/{post}", get(post::post))
}

/// The pages of a listener for operators only.
pub(super) fn operator_routes() -> Router<App> {
    Router::new()
        .route("/", get(pages::to_shards))
        .route("/home/{reader}/explain", get(explain::explain_for_operators))
}

/// The routes that every page needs.
pub(super) fn common_routes() -> Router<App> {
    Router::new()
        .route("/sign-in", post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/assets/{version}/{name}", get(assets::asset))
}

/// Whether the client prefers a page to JSON, as browsers do when they open an address.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| {
        accepts.split(',').any(|kind| kind.trim_start().starts_with("text/html"))
    })
}

/// A page, with the headers that all pages have.
fn page(template: &impl Template) -> Response {
    let Ok(text) = template.render() else { return ApiError::Internal.into_response() };
    let mut response = Response::new(Body::from(text));
    set_page_headers(response.headers_mut());
    response
}

fn set_page_headers(headers: &mut HeaderMap) {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Forms must have an `Origin`, which `no-referrer` would remove.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::VARY, "Accept, Cookie"),
    ];
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    status: u16,
    title: &'a str,
    detail: String,
    trace_id: &'a str,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    frame: Frame,
    refused: bool,
}

/// Replaces the problem in `response` by a page. If the request has no valid credential, that is
/// the page to sign in, and a cookie that it has ends. A request without the cookie must not end
/// it: links from other sites do not send it.
pub(super) fn error_page(
    error: &ApiError,
    trace_id: &TraceId,
    (request_headers, access): (&HeaderMap, &Access),
    mut response: Response,
) -> Response {
    let frame = Frame::of_visitor(request_headers, access);
    let status = response.status();
    let text = if status == StatusCode::UNAUTHORIZED {
        if let Some(cookie) = access.session_cookie().filter(|_| frame.signed_in) {
            response.headers_mut().insert(header::SET_COOKIE, cookie.ended());
        }
        let refused = frame.signed_in || matches!(error, ApiError::SignInRefused);
        SignInPage { frame: Frame { signed_in: false, ..frame }, refused }.render()
    } else {
        let page = ErrorPage {
            frame,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            detail: sentence(&error.to_string()),
            trace_id: trace_id.as_str(),
        };
        page.render()
    };
    *response.body_mut() = text.unwrap_or_default().into();
    set_page_headers(response.headers_mut());
    response
}
