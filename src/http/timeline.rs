//! The routes that read timelines and follow lists.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use super::query::{Parameters, User};
use super::wire::{ExpressFeed, Following, Posts, names};
use crate::Tributary;
use crate::cursor::{Cursor, FollowingCursor};
use crate::model::UserId;
use crate::timeline::{Limit, Page};

/// `GET /user/feed/{user_id}`.
pub(super) async fn express_feed(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let page = tributary.home_timeline(user, &parameters.page()?).await?;
    parameters.accept(page.is_complete())?;
    Ok(json(&ExpressFeed::new(&page, tributary.fleet())))
}

/// `GET /v1/users/{user_id}/feed`.
pub(super) async fn feed(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = tributary.home_timeline(user, &request).await?;
    parameters.accept(page.is_complete())?;
    let path = format!("/v1/users/{user}/feed");
    Ok(posts_page(&page, &tributary, &path, request.limit))
}

/// `GET /v1/users/{user_id}/posts`.
pub(super) async fn posts(
    State(tributary): State<Tributary>,
    User(user): User,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = parameters.page()?;
    let page = tributary.author_timeline(user, &request).await;
    parameters.accept(page.is_complete())?;
    let path = format!("/v1/users/{user}/posts");
    Ok(posts_page(&page, &tributary, &path, request.limit))
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

fn posts_page(page: &Page, tributary: &Tributary, path: &str, limit: Limit) -> Response {
    let next = page.next.as_ref().map(Cursor::to_string);
    let prev = page.prev.to_string();
    let links = [("next", next.as_deref()), ("prev", Some(prev.as_str()))];
    (link_header(path, limit, &links), json(&Posts::new(page, tributary.fleet()))).into_response()
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
        Ok(bytes) => {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], bytes).into_response()
        }
        Err(_) => ApiError::Internal.into_response(),
    }
}
