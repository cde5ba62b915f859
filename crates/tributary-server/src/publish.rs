//! The routes that write, and the route that reads a single post.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tributary::internal::{PostJson, fleet};
use tributary::{Followed, Freshness, PostId, Published, Tributary, UserId};

use super::auth::{Allowed, CursorKeys, DeletePost, Follow, Publish, ReadPost};
use super::error::ApiError;
use super::limits::Cost;
use super::query::{JsonBody, idempotency_key};
use super::timeline::{costing, json, set_freshness_headers};
use super::wire::{self, NewFollows, NewPost};

/// `true` if the answer repeats that of an earlier request with the same `Idempotency-Key`.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// `POST /v1/users/{user_id}/posts`: 201 with the post, and its address in `Location`.
pub(super) async fn publish(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: author, .. }: Allowed<Publish>,
    headers: HeaderMap,
    JsonBody(NewPost { content }): JsonBody<NewPost>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let Published { post, replayed, freshness, .. } =
        tributary.publish(author, &content, key).await?;
    let mut response =
        (StatusCode::CREATED, json(&PostJson::new(&post, fleet(&tributary).times())))
            .into_response();
    let location = format!("/v1/users/{author}/posts/{}", post.key.post);
    let location = HeaderValue::try_from(location).map_err(|_| ApiError::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(with_freshness((&freshness, &cursor_keys), response))
}

/// Adds the freshness token of a write to its answer. A read that sends this token back sees the
/// write.
fn with_freshness(freshness: (&Freshness, &CursorKeys), response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    set_freshness_headers(response.headers_mut(), freshness, true);
    response
}

/// `GET /v1/users/{user_id}/posts/{post_id}`: one query on the author's shard.
pub(super) async fn post(
    State(tributary): State<Tributary>,
    Allowed { user: author, other: post, .. }: Allowed<ReadPost, PostId>,
) -> Result<Response, ApiError> {
    let found = tributary.post(author, post).await?;
    match found.post {
        Some(post) => {
            let answer = json(&PostJson::new(&post, fleet(&tributary).times()));
            Ok(costing(Cost::QUERY, answer))
        }
        None if found.missing.is_empty() => Err(ApiError::NotFound),
        None => Err(ApiError::ShardUnavailable),
    }
}

/// `DELETE /v1/users/{user_id}/posts/{post_id}`: 204, also if the post does not exist.
pub(super) async fn delete_post(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: author, other: post, .. }: Allowed<DeletePost, PostId>,
) -> Result<Response, ApiError> {
    let freshness = tributary.delete_post(author, post).await?;
    Ok(with_freshness((&freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `PUT /v1/users/{user_id}/following/{followee_id}`: 204, also if the follow exists already.
pub(super) async fn follow(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, other: followee, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    let followed = tributary.follow(follower, followee).await?;
    Ok(with_freshness((&followed.freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `DELETE /v1/users/{user_id}/following/{followee_id}`: 204, also if the follow does not exist.
pub(super) async fn unfollow(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, other: followee, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    let freshness = tributary.unfollow(follower, followee).await?;
    Ok(with_freshness((&freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `POST /v1/users/{user_id}/following`: follows all listed users, in one transaction.
pub(super) async fn follow_all(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, .. }: Allowed<Follow>,
    JsonBody(NewFollows { follow }): JsonBody<NewFollows>,
) -> Result<Response, ApiError> {
    let ids = follow.iter().map(|id| id.parse().map_err(|_| ApiError::BadUserId));
    let followees: Vec<UserId> = ids.collect::<Result<_, _>>()?;
    let Followed { added, freshness, .. } = tributary.follow_all(follower, &followees).await?;
    let answer = with_freshness((&freshness, &cursor_keys), json(&wire::Followed { added }));
    Ok(costing(Cost::of_follows(followees.len()), answer))
}
