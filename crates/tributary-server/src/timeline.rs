//! The routes that read timelines and follow lists.

use std::cell::RefCell;
use std::fmt::Write;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tributary::internal::{Draft, FollowingCursor, SentPage, fleet};
use tributary::{Freshness, Limit, Tributary, UserId};

use super::auth::{Allowed, CursorKeys, Purpose, ReadAuthor, ReadFeed, ReadFollowing, ReadHome};
use super::conditional::Tag;
use super::error::ApiError;
use super::explain::{ExplainParameter, explained_feed};
use super::limits::Cost;
use super::observe::PageKind;
use super::openapi::schemas::{
    AroundQuery, AtLeast, ExplainQuery, OfUser, OwnPosts, PageQuery, RepostsQuery, TimelinePage,
    Token,
};
use super::query::{FRESHNESS_HEADER, FRESHNESS_LOST_HEADER, Parameters};
use super::traffic::PageAuthors;
use super::wire::{Cursors, ExpressFeed, Following, posts_json, shard_names};

/// `GET /user/feed/{user_id}`: the home timeline in the JSON shape of the Express handler.
#[utoipa::path(
    get, path = "/user/feed/{user_id}", operation_id = "express_timeline", tag = "timelines",
    summary = "The home timeline in the format of the Express handler", description = "",
    params(OfUser, PageQuery, OwnPosts, RepostsQuery, AtLeast),
    responses((
        status = 200, description = "The page", body = ExpressFeed<'_>,
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn express_feed(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadHome>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let (purpose, keys) = (Purpose::Home(user), &parameters.cursor_keys);
    let draft = Draft::home(&tributary, user, &parameters.page(purpose)?).await?;
    let kind = accepted(&draft, &parameters)?;
    let next = Cursors::sealed(&draft, keys, purpose).next;
    let cost = Cost::of_page(&draft);
    let page = draft.into_page();
    let mut response = json(&ExpressFeed::new(&page, next, fleet(&tributary)));
    response.extensions_mut().insert(kind);
    set_freshness_headers(response.headers_mut(), (&page.freshness, keys), page.fresh_enough);
    Ok(costing(cost, response))
}

/// `GET /v1/users/{user_id}/feed`: the home timeline, perhaps with an explanation. `from_memory`
/// answers most of its requests before this.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/feed", operation_id = "home_timeline", tag = "timelines",
    summary = "The posts of all users that a user follows, newest first", description = "",
    params(OfUser, PageQuery, AroundQuery, ExplainQuery, OwnPosts, RepostsQuery, AtLeast),
    responses((
        status = 200, description = "The page", body = TimelinePage,
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("older" = (
                operation_id = "home_timeline",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            )),
            ("newer" = (
                operation_id = "home_timeline",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/prev")
                )
            )),
            ("since" = (
                operation_id = "news",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("since" = "$response.header.Tributary-Freshness")
                )
            ))
        )
    ))
)]
pub(super) async fn feed(
    State(tributary): State<Tributary>,
    Allowed { user, viewer, .. }: Allowed<ReadFeed>,
    mut parameters: Parameters,
    ExplainParameter(explained): ExplainParameter,
) -> Result<Response, ApiError> {
    let around = parameters.around.take();
    if let (Some(_), Some(_)) = (explained, around) {
        return Err(ApiError::BadQuery("`around` and `explain` exclude each other"));
    }
    if explained.is_some() && parameters.collapse_reposts {
        return Err(ApiError::BadQuery("`reposts` and `explain` exclude each other"));
    }
    if let Some(memory) = explained {
        return explained_feed(&tributary, (user, viewer), &parameters, memory).await;
    }
    let (purpose, keys) = (Purpose::Home(user), &parameters.cursor_keys);
    let request = parameters.page(purpose)?;
    let page = match around {
        None => Draft::home(&tributary, user, &request).await?,
        Some(post) => {
            let page = Draft::around(&tributary, user, post, &request).await?;
            page.ok_or(ApiError::NotFound)?
        }
    };
    let kind = accepted(&page, &parameters)?;
    let query = (parameters.limit, parameters.lasting());
    let sent = render_home(&page, &tributary, keys, (user, query))?;
    Ok(response_of(sent, &page, (&parameters.cursor_keys, kind)))
}

/// A page of the home timeline of this reader as it is sent. `lasting` is the query of the pages
/// before and after it.
pub(super) fn render_home(
    page: &Draft,
    tributary: &Tributary,
    keys: &CursorKeys,
    (reader, (limit, lasting)): (UserId, (Limit, &str)),
) -> Result<SentPage, ApiError> {
    let cursors = Cursors::sealed(page, keys, Purpose::Home(reader));
    let path = format!("/v1/users/{reader}/feed{lasting}");
    render_page(page, &cursors, tributary, (&path, limit))
}

/// `GET /v1/users/{user_id}/posts`: the timeline of one author.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/posts", operation_id = "author_timeline", tag = "timelines",
    summary = "The posts of one author, newest first", description = "",
    params(OfUser, PageQuery, AtLeast),
    responses((
        status = 200, description = "The page", body = TimelinePage,
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("older" = (
                operation_id = "author_timeline",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            )),
            ("post" = (
                operation_id = "read_post",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("post_id" = "$response.body#/posts/0/post_id")
                )
            ))
        )
    ))
)]
pub(super) async fn posts(
    State(tributary): State<Tributary>,
    Allowed { user: author, viewer, .. }: Allowed<ReadAuthor>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    parameters.refuse_those_of_home()?;
    let (purpose, keys) = (Purpose::Author { author, viewer }, &parameters.cursor_keys);
    let request = parameters.page(purpose)?;
    let page = Draft::author(&tributary, author, &request).await;
    let kind = accepted(&page, &parameters)?;
    let cursors = Cursors::sealed(&page, keys, purpose);
    let path = format!("/v1/users/{author}/posts");
    let sent = render_page(&page, &cursors, &tributary, (&path, request.limit))?;
    Ok(response_of(sent, &page, (&parameters.cursor_keys, kind)))
}

/// The kind of a page.
///
/// # Errors
/// The request requires a complete page, and this is none.
pub(super) fn accepted(page: &Draft, parameters: &Parameters) -> Result<PageKind, ApiError> {
    let kind = PageKind::of(page, !parameters.at_least.is_empty());
    parameters.accept(page.is_whole()).map_err(|_| ApiError::Incomplete(Some(kind)))?;
    Ok(kind)
}

/// The answer that carries this page, with its cost and its kind.
pub(super) fn response_of(
    sent: SentPage,
    page: &Draft,
    (keys, kind): (&CursorKeys, PageKind),
) -> Response {
    let response = page_response(sent, (&page.freshness, keys), page.fresh_enough);
    let mut response = costing(Cost::of_page(page), response.map(Body::from));
    response.extensions_mut().insert(kind);
    response.extensions_mut().insert(PageAuthors::of(page));
    response
}

/// `GET /v1/users/{user_id}/following`: the follow list, by rising id, read from the reader's
/// shard.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/following", operation_id = "following", tag = "follows",
    summary = "The users that a user follows, by rising id", description = "",
    params(OfUser, PageQuery),
    responses((
        status = 200, description = "A page of the list", body = Following<'_>,
        links(
            ("next" = (
                operation_id = "following",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            ))
        )
    ))
)]
pub(super) async fn following(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    parameters.refuse_those_of_home()?;
    let (purpose, limit) = (Purpose::Following(user), parameters.limit);
    let from = parameters.cursor(purpose)?.map_or(UserId::from(0), |FollowingCursor(from)| from);
    let page = tributary.following(user, from, limit).await?;
    parameters.accept(page.missing.is_empty())?;
    let seal = |from| parameters.cursor_keys.seal(purpose, FollowingCursor(from).to_string());
    let next = page.next.map(seal);
    let path = format!("/v1/users/{user}/following");
    let response = json(&Following {
        following: page.followees.iter().map(Into::into).collect(),
        next: next.as_deref(),
        complete: page.missing.is_empty(),
        missing_shards: shard_names(&page.missing, fleet(&tributary)),
    });
    Ok(costing(Cost::QUERY, list_response(response, (&path, limit), next.as_deref())))
}

/// Adds the link to the next part of a list of users.
pub(super) fn list_response(
    mut response: Response,
    (path, limit): (&str, Limit),
    next: Option<&str>,
) -> Response {
    let links = links(path, limit, &[("next", next)]);
    set_link_header(response.headers_mut(), links.into());
    response
}

/// Adds the cost of an answer, for the limits of its client.
pub(super) fn costing(cost: Cost, mut response: Response) -> Response {
    response.extensions_mut().insert(cost);
    response
}

/// Renders the JSON body and the links of a page of a `v1` timeline.
fn render_page(
    page: &Draft,
    cursors: &Cursors,
    tributary: &Tributary,
    (path, limit): (&str, Limit),
) -> Result<SentPage, ApiError> {
    let relations = [("next", cursors.next.as_deref()), ("prev", Some(cursors.prev.as_str()))];
    let body = posts_json(page, cursors, fleet(tributary)).map_err(|_| ApiError::Internal)?;
    let Tag(tag) = Tag::of(&body);
    Ok(SentPage { body: body.into(), links: links(path, limit, &relations).into(), tag })
}

/// Headers of a page, with those of limits and the date. Their map is allocated once.
const PAGE_HEADERS: usize = 14;

/// The HTTP response that carries this page.
pub(super) fn page_response(
    sent: SentPage,
    freshness: (&Freshness, &CursorKeys),
    fresh_enough: bool,
) -> Response<Bytes> {
    let mut response = Response::new(sent.body);
    let headers = response.headers_mut();
    headers.reserve(PAGE_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Tag(sent.tag).set(headers);
    set_link_header(headers, sent.links);
    set_freshness_headers(headers, freshness, fresh_enough);
    response
}

/// Headers of an answer 304, with those of limits and the date.
const KNOWN_HEADERS: usize = 10;

/// The HTTP response 304 to a client that has this page.
pub(super) fn known_response(tag: Tag, freshness: (&Freshness, &CursorKeys)) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.reserve(KNOWN_HEADERS);
    tag.set(headers);
    set_freshness_headers(headers, freshness, true);
    response
}

/// Sets the freshness token of an answer, and `Tributary-Freshness-Lost` if the answer is older
/// than the request required.
pub(super) fn set_freshness_headers(
    headers: &mut HeaderMap,
    (freshness, cursor_keys): (&Freshness, &CursorKeys),
    fresh_enough: bool,
) {
    if let Some(token) = freshness_value(freshness, cursor_keys) {
        headers.insert(FRESHNESS_HEADER, token);
    }
    if !fresh_enough {
        set_freshness_lost(headers);
    }
}

/// Marks an answer that is older than the request required.
pub(super) fn set_freshness_lost(headers: &mut HeaderMap) {
    headers.insert(FRESHNESS_LOST_HEADER, HeaderValue::from_static("true"));
}

/// Longest value of a `Link` header. Many proxies refuse answers with 4 KiB of headers, and the
/// body has the cursors too.
const LINKS_BYTES_MAX: usize = 2_048;
/// Allowance in characters for one link.
const LINK_CHARACTERS: usize = 128;

thread_local! {
    /// The last token as text. Between two commits all answers have the same token.
    static TOKEN: RefCell<Option<SealedToken>> = const { RefCell::new(None) };
}

struct SealedToken {
    freshness: Freshness,
    cursor_keys: CursorKeys,
    value: HeaderValue,
}

/// The freshness token as a header value; `None` if there is no freshness to report.
fn freshness_value(freshness: &Freshness, cursor_keys: &CursorKeys) -> Option<HeaderValue> {
    if freshness.is_empty() {
        return None;
    }
    TOKEN.with_borrow_mut(|last| {
        let same = |known: &&SealedToken| {
            known.freshness == *freshness && known.cursor_keys.is_same(cursor_keys)
        };
        if last.as_ref().filter(same).is_none() {
            let value = HeaderValue::try_from(cursor_keys.seal_freshness(freshness)).ok()?;
            let (freshness, cursor_keys) = (freshness.clone(), cursor_keys.clone());
            *last = Some(SealedToken { freshness, cursor_keys, value });
        }
        last.as_ref().map(|token| token.value.clone())
    })
}

/// The value of the `Link` header (RFC 8288): an address for each cursor that exists.
fn links(path: &str, limit: Limit, cursors: &[(&str, Option<&str>)]) -> String {
    let limit = limit.get();
    let mut links = String::with_capacity(cursors.len() * LINK_CHARACTERS);
    for (rel, cursor) in cursors {
        let Some(cursor) = cursor else { continue };
        let comma = if links.is_empty() { "" } else { ", " };
        let start = if path.contains('?') { '&' } else { '?' };
        // Writing to a string cannot fail.
        let _ = write!(links, "{comma}<{path}{start}limit={limit}&cursor={cursor}>; rel=\"{rel}\"");
    }
    links
}

/// Sets the `Link` header, unless there are no links or they are too long.
fn set_link_header(headers: &mut HeaderMap, links: Bytes) {
    if (1..=LINKS_BYTES_MAX).contains(&links.len())
        && let Ok(links) = HeaderValue::from_maybe_shared(links)
    {
        headers.insert(header::LINK, links);
    }
}

/// A 200 response with this JSON body.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json_bytes(bytes.into()),
        Err(_) => ApiError::Internal.into_response(),
    }
}

/// A 200 response with a body that is JSON already, and its tag.
pub(super) fn json_bytes(body: Bytes) -> Response {
    let json = HeaderValue::from_static("application/json");
    let tag = Tag::of(&body);
    let mut response = ([(header::CONTENT_TYPE, json)], body).into_response();
    tag.set(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_proxies_may_refuse_are_left_out() {
        for (bytes, is_set) in [(0, false), (1, true), (2_048, true), (2_049, false)] {
            let mut headers = HeaderMap::new();
            set_link_header(&mut headers, "l".repeat(bytes).into());
            assert_eq!(headers.contains_key(header::LINK), is_set, "{bytes}");
        }
    }
}
