//! The routes that write, and the route that reads a single post.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tributary::graph::Unfollowed;
use tributary::internal::{PostJson, fleet};
use tributary::{Followed, Freshness, PostId, Published, Tributary, UserId};

use super::auth::{Allowed, CursorKeys, DeletePost, EditPost, Follow, Publish, ReadPost};
use super::error::ApiError;
use super::limits::Cost;
use super::openapi::schemas::{OfFollow, OfPost, OfUser, OnceKey, Post, Token};
use super::query::{JsonBody, idempotency_key};
use super::timeline::{costing, json, set_freshness_headers};
use super::wire::{self, FollowChange, NewPost, NewText};

/// `true` if the answer repeats that of an earlier request with the same `Idempotency-Key`.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// `POST /v1/users/{user_id}/posts`: 201 with the post, and its address in `Location`.
#[utoipa::path(
    post, path = "/v1/users/{user_id}/posts", operation_id = "publish", tag = "posts",
    summary = "Store a post", description = "",
    params(OfUser, OnceKey),
    request_body = NewPost,
    responses((
        status = 201, description = "The post is committed", body = Post,
        headers(
            ("Location" = String, description = "The address of the post"),
            ("Idempotent-Replayed" = String, description = "`true` if an earlier answer is repeated"),
            ("Tributary-Freshness" = Token, description = "Absent if there is no token"),
        ),
        links(
            ("read" = (
                operation_id = "read_post",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("post_id" = "$response.body#/post_id")
                )
            )),
            ("delete" = (
                operation_id = "delete_post",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("post_id" = "$response.body#/post_id")
                )
            )),
            ("timeline" = (
                operation_id = "author_timeline",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("Tributary-Freshness" = "$response.header.Tributary-Freshness")
                )
            ))
        )
    ))
)]
pub(super) async fn publish(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: author, .. }: Allowed<Publish>,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewPost>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let (content, references) = new.parts()?;
    let Published { post, replayed, freshness, .. } =
        tributary.publish_with(author, &content, references, key).await?;
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
pub(super) fn with_freshness(
    freshness: (&Freshness, &CursorKeys),
    response: impl IntoResponse,
) -> Response {
    let mut response = response.into_response();
    set_freshness_headers(response.headers_mut(), freshness, true);
    response
}

/// `GET /v1/users/{user_id}/posts/{post_id}`: one query on the author's shard.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/posts/{post_id}", operation_id = "read_post", tag = "posts",
    summary = "Read one post", description = "",
    params(OfPost),
    responses((status = 200, description = "The post", body = Post))
)]
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

/// `PATCH /v1/users/{user_id}/posts/{post_id}`: 200 with the post.
#[utoipa::path(
    patch, path = "/v1/users/{user_id}/posts/{post_id}", operation_id = "edit_post",
    tag = "posts", summary = "Replace the text of a post", description = "",
    params(OfPost),
    request_body = NewText,
    responses((
        status = 200, description = "The post with the new text", body = Post,
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn edit_post(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: author, other: post, .. }: Allowed<EditPost, PostId>,
    JsonBody(NewText { content }): JsonBody<NewText>,
) -> Result<Response, ApiError> {
    let edited = tributary.edit(author, post, &content).await?.ok_or(ApiError::NotFound)?;
    let answer = json(&PostJson::new(&edited.post, fleet(&tributary).times()));
    Ok(with_freshness((&edited.freshness, &cursor_keys), answer))
}

/// `DELETE /v1/users/{user_id}/posts/{post_id}`: 204, also if the post does not exist.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}/posts/{post_id}", operation_id = "delete_post",
    tag = "posts", summary = "Delete a post", description = "",
    params(OfPost),
    responses((
        status = 204, description = "The post does not exist any more",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn delete_post(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: author, other: post, .. }: Allowed<DeletePost, PostId>,
) -> Result<Response, ApiError> {
    let freshness = tributary.delete_post(author, post).await?;
    Ok(with_freshness((&freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `PUT /v1/users/{user_id}/following/{followee_id}`: 204, also if the follow exists already.
#[utoipa::path(
    put, path = "/v1/users/{user_id}/following/{followee_id}", operation_id = "follow",
    tag = "follows", summary = "Follow a user", description = "",
    params(OfFollow),
    responses((
        status = 204, description = "The follow exists",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("unfollow" = (
                operation_id = "unfollow",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("followee_id" = "$request.path.followee_id")
                )
            )),
            ("timeline" = (
                operation_id = "home_timeline",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("Tributary-Freshness" = "$response.header.Tributary-Freshness")
                )
            ))
        )
    ))
)]
pub(super) async fn follow(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, other: followee, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    let followed = tributary.follow(follower, followee).await?;
    Ok(with_freshness((&followed.freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `DELETE /v1/users/{user_id}/following/{followee_id}`: 204, also if the follow does not exist.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}/following/{followee_id}", operation_id = "unfollow",
    tag = "follows", summary = "Stop to follow a user", description = "",
    params(OfFollow),
    responses((
        status = 204, description = "The follow does not exist any more",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn unfollow(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, other: followee, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    let freshness = tributary.unfollow(follower, followee).await?;
    Ok(with_freshness((&freshness, &cursor_keys), StatusCode::NO_CONTENT))
}

/// `POST /v1/users/{user_id}/following`: follows or unfollows all listed users, in one
/// transaction.
#[utoipa::path(
    post, path = "/v1/users/{user_id}/following", operation_id = "follow_all", tag = "follows",
    summary = "Follow or unfollow several users in one transaction", description = "",
    params(OfUser),
    request_body = FollowChange,
    responses((
        status = 200, description = "All follows exist, or none of them",
        body = wire::FollowsChanged,
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("list" = (
                operation_id = "following",
                parameters(("user_id" = "$request.path.user_id"))
            ))
        )
    ))
)]
pub(super) async fn follow_all(
    State(tributary): State<Tributary>,
    State(cursor_keys): State<CursorKeys>,
    Allowed { user: follower, .. }: Allowed<Follow>,
    JsonBody(change): JsonBody<FollowChange>,
) -> Result<Response, ApiError> {
    let (FollowChange::Follow(ids) | FollowChange::Unfollow(ids)) = &change;
    let ids = ids.iter().map(|id| id.parse().map_err(|_| ApiError::BadUserId));
    let users: Vec<UserId> = ids.collect::<Result<_, _>>()?;
    let (answer, freshness) = match change {
        FollowChange::Follow(_) => {
            let Followed { added, freshness, .. } = tributary.follow_all(follower, &users).await?;
            (wire::FollowsChanged::Added(added), freshness)
        }
        FollowChange::Unfollow(_) => {
            let Unfollowed { removed, freshness, .. } =
                tributary.unfollow_all(follower, &users).await?;
            (wire::FollowsChanged::Removed(removed), freshness)
        }
    };
    let answer = with_freshness((&freshness, &cursor_keys), json(&answer));
    Ok(costing(Cost::of_follows(users.len()), answer))
}
