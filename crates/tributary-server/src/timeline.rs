//! The routes that read timelines and follow lists.

use std::cell::RefCell;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tributary::internal::{Draft, FollowingCursor, SentPage, fleet};
use tributary::{Cursor, Freshness, Limit, Tributary, UserId};

use super::error::ApiError;
use super::query::{FRESHNESS_HEADER, FRESHNESS_LOST_HEADER, Parameters, PathUser};
use super::wire::{Cursors, ExpressFeed, Following, posts_json, shard_names};

/// `GET /user/feed/{user_id}`: the home timeline in the JSON shape of the Express handler.
pub(super) async fn express_feed(
    State(tributary): State<Tributary>,
    PathUser(user): PathUser,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let draft = Draft::home(&tributary, user, &parameters.page()?).await?;
    parameters.accept(draft.is_whole())?;
    let page = draft.into_page();
    let mut response = json(&ExpressFeed::new(&page, fleet(&tributary)));
    set_freshness_headers(response.headers_mut(), &page.freshness, page.fresh_enough);
    Ok(response)
}

/// `GET /v1/users/{user_id}/feed`: the home timeline. Newest pages are stored in the page cache.
pub(super) async fn feed(
    State(tributary): State<Tributary>,
    PathUser(user): PathUser,
    RawQuery(query): RawQuery,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = Draft::home(&tributary, user, &request).await?;
    parameters.accept(page.is_whole())?;
    let path = format!("/v1/users/{user}/feed");
    let sent = render_page(&page, &tributary, &path, request.limit)?;
    // Readers request these two pages repeatedly: the newest page, and the empty page above it.
    if request.cursor == Cursor::newest() || (request.cursor.is_newer() && page.posts.is_empty()) {
        let query = query.as_deref().unwrap_or_default();
        sent.cache(&tributary, user, query, &page);
    }
    Ok(page_response(sent, &page.freshness, page.fresh_enough).map(Body::from))
}

/// `GET /v1/users/{user_id}/posts`: the timeline of one author.
pub(super) async fn posts(
    State(tributary): State<Tributary>,
    PathUser(user): PathUser,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = Draft::author(&tributary, user, &request).await;
    parameters.accept(page.is_whole())?;
    let path = format!("/v1/users/{user}/posts");
    let sent = render_page(&page, &tributary, &path, request.limit)?;
    Ok(page_response(sent, &page.freshness, page.fresh_enough).map(Body::from))
}

/// `GET /v1/users/{user_id}/following`: the follow list, by rising id, read from the reader's
/// shard.
pub(super) async fn following(
    State(tributary): State<Tributary>,
    PathUser(user): PathUser,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let limit = parameters.limit;
    let from = match &parameters.cursor {
        Some(text) => text.parse::<FollowingCursor>()?.0,
        None => UserId::from(0),
    };
    let page = tributary.following(user, from, limit).await?;
    parameters.accept(page.missing.is_empty())?;
    let next = page.next.map(|user| FollowingCursor(user).to_string());
    let path = format!("/v1/users/{user}/following");
    let links = links(&path, limit, &[("next", next.as_deref())]);
    let body = Following {
        following: page.followees.iter().map(Into::into).collect(),
        next,
        complete: page.missing.is_empty(),
        missing_shards: shard_names(&page.missing, fleet(&tributary)),
    };
    let mut response = json(&body);
    set_link_header(response.headers_mut(), links.into());
    Ok(response)
}

/// Renders the JSON body and the links of a page of a `v1` timeline.
fn render_page(
    page: &Draft,
    tributary: &Tributary,
    path: &str,
    limit: Limit,
) -> Result<SentPage, ApiError> {
    let cursors = Cursors::of(page);
    let relations = [("next", cursors.next.as_deref()), ("prev", Some(cursors.prev.as_str()))];
    let body = posts_json(page, &cursors, fleet(tributary)).map_err(|_| ApiError::Internal)?;
    Ok(SentPage { body: body.into(), links: links(path, limit, &relations).into() })
}

/// The HTTP response that carries this page.
pub(super) fn page_response(
    sent: SentPage,
    freshness: &Freshness,
    fresh_enough: bool,
) -> Response<Bytes> {
    let mut response = Response::new(sent.body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set_link_header(headers, sent.links);
    set_freshness_headers(headers, freshness, fresh_enough);
    response
}

/// Sets the freshness token of an answer, and `Tributary-Freshness-Lost` if the answer is older
/// than the request required.
pub(super) fn set_freshness_headers(
    headers: &mut HeaderMap,
    freshness: &Freshness,
    fresh_enough: bool,
) {
    if let Some(token) = freshness_value(freshness) {
        headers.insert(FRESHNESS_HEADER, token);
    }
    if !fresh_enough {
        headers.insert(FRESHNESS_LOST_HEADER, HeaderValue::from_static("true"));
    }
}

thread_local! {
    /// The last token as text. Between two commits all answers have the same token.
    static TOKEN: RefCell<Option<(Freshness, HeaderValue)>> = const { RefCell::new(None) };
}

/// The freshness token as a header value; `None` if there is no freshness to report.
fn freshness_value(freshness: &Freshness) -> Option<HeaderValue> {
    if freshness.is_empty() {
        return None;
    }
    TOKEN.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(known, _)| known != freshness) {
            let token = HeaderValue::try_from(freshness.to_string()).ok()?;
            *last = Some((freshness.clone(), token));
        }
        last.as_ref().map(|(_, token)| token.clone())
    })
}

/// The value of the `Link` header (RFC 8288): an address for each cursor that exists.
fn links(path: &str, limit: Limit, cursors: &[(&str, Option<&str>)]) -> String {
    let link = |(rel, cursor): &(&str, Option<&str>)| {
        let limit = limit.get();
        cursor.map(|cursor| format!("<{path}?limit={limit}&cursor={cursor}>; rel=\"{rel}\""))
    };
    let links: Vec<String> = cursors.iter().filter_map(link).collect();
    links.join(", ")
}

/// Sets the `Link` header, unless there are no links.
fn set_link_header(headers: &mut HeaderMap, links: Bytes) {
    if !links.is_empty()
        && let Ok(links) = HeaderValue::from_maybe_shared(links)
    {
        headers.insert(header::LINK, links);
    }
}

/// A 200 response with this JSON body.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], bytes).into_response()
        }
        Err(_) => ApiError::Internal.into_response(),
    }
}
