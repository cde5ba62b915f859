//! The routes that read timelines and follow lists.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use super::query::{FRESHNESS_HEADER, FRESHNESS_LOST_HEADER, Parameters, User};
use super::wire::{Cursors, ExpressFeed, Following, decode_content, names, posts_json};
use crate::Tributary;
use crate::cursor::FollowingCursor;
use crate::freshness::Freshness;
use crate::model::UserId;
use crate::timeline::{Draft, Limit};

/// `GET /user/feed/{user_id}`.
pub(super) async fn express_feed(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let draft = tributary.home_draft(user, &parameters.page()?).await?;
    parameters.accept(draft.is_whole())?;
    let page = draft.into_page(decode_content);
    let json = json(&ExpressFeed::new(&page, tributary.fleet()));
    Ok(with_freshness(json, &page.freshness, page.fresh_enough))
}

/// `GET /v1/users/{user_id}/feed`.
pub(super) async fn feed(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = tributary.home_draft(user, &request).await?;
    parameters.accept(page.is_whole())?;
    let path = format!("/v1/users/{user}/feed");
    posts_page(&page, &tributary, &path, request.limit)
}

/// `GET /v1/users/{user_id}/posts`.
pub(super) async fn posts(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = tributary.author_draft(user, &request).await;
    parameters.accept(page.is_whole())?;
    let path = format!("/v1/users/{user}/posts");
    posts_page(&page, &tributary, &path, request.limit)
}

/// `GET /v1/users/{user_id}/following`.
pub(super) async fn following(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let limit = parameters.limit;
    let from = match &parameters.cursor {
        Some(text) => text.parse::<FollowingCursor>()?.0,
        None => UserId(0),
    };
    let page = tributary.following(user, from, limit).await;
    parameters.accept(page.missing.is_empty())?;
    let next = page.next.map(|user| FollowingCursor(user).to_string());
    let path = format!("/v1/users/{user}/following");
    let links = link_header(&path, limit, &[("next", next.as_deref())]);
    let body = Following {
        following: page.followees.iter().map(Into::into).collect(),
        next,
        complete: page.missing.is_empty(),
        missing_shards: names(&page.missing, tributary.fleet()),
    };
    Ok((links, json(&body)).into_response())
}

fn posts_page(
    page: &Draft,
    tributary: &Tributary,
    path: &str,
    limit: Limit,
) -> Result<Response, ApiError> {
    let cursors = Cursors::of(page);
    let links = [("next", cursors.next.as_deref()), ("prev", Some(cursors.prev.as_str()))];
    let body = posts_json(page, &cursors, tributary.fleet()).map_err(|_| ApiError::Internal)?;
    let response = (link_header(path, limit, &links), json_bytes(body)).into_response();
    Ok(with_freshness(response, &page.freshness, page.fresh_enough))
}

/// Says how fresh an answer is, and whether that is less than was asked for.
pub(super) fn with_freshness(
    mut response: Response,
    freshness: &Freshness,
    fresh_enough: bool,
) -> Response {
    let headers = response.headers_mut();
    if !freshness.is_empty()
        && let Ok(token) = HeaderValue::try_from(freshness.to_string())
    {
        headers.insert(FRESHNESS_HEADER, token);
    }
    if !fresh_enough {
        headers.insert(FRESHNESS_LOST_HEADER, HeaderValue::from_static("true"));
    }
    response
}

/// RFC 8288: where to go on, ready to be fetched.
fn link_header(
    path: &str,
    limit: Limit,
    cursors: &[(&str, Option<&str>)],
) -> Option<[(header::HeaderName, HeaderValue); 1]> {
    let link = |(rel, cursor): &(&str, Option<&str>)| {
        let limit = limit.get();
        cursor.map(|cursor| format!("<{path}?limit={limit}&cursor={cursor}>; rel=\"{rel}\""))
    };
    let links: Vec<String> = cursors.iter().filter_map(link).collect();
    let value = HeaderValue::try_from(links.join(", ")).ok().filter(|value| !value.is_empty());
    value.map(|value| [(header::LINK, value)])
}

pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json_bytes(bytes),
        Err(_) => ApiError::Internal.into_response(),
    }
}

fn json_bytes(bytes: Vec<u8>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], bytes).into_response()
}
