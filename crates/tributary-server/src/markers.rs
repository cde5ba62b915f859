//! The routes of read markers.

use axum::extract::State;
use axum::response::Response;
use tributary::Tributary;
use tributary::internal::fleet;

use super::auth::{Allowed, MarkRead, ReadHome};
use super::error::ApiError;
use super::limits::Cost;
use super::openapi::schemas::{OfUser, PostReference};
use super::query::JsonBody;
use super::timeline::{costing, json};
use super::wire::{Marked, Reference};

/// `GET /v1/users/{user_id}/feed/marker`: one query on the user's shard.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/feed/marker", operation_id = "read_marker",
    tag = "timelines", summary = "The place down to which a user has read", description = "",
    params(OfUser),
    responses((status = 200, description = "The marker, if there is one", body = Marked))
)]
pub(super) async fn read_marker(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadHome>,
) -> Result<Response, ApiError> {
    let found = tributary.read_marker(user).await?;
    if !found.missing.is_empty() {
        return Err(ApiError::ShardUnavailable);
    }
    let answer = json(&Marked::new(found.marker, fleet(&tributary).times()));
    Ok(costing(Cost::QUERY, answer))
}

/// `PUT /v1/users/{user_id}/feed/marker`: moves the marker to a newer post.
#[utoipa::path(
    put, path = "/v1/users/{user_id}/feed/marker", operation_id = "mark_read",
    tag = "timelines", summary = "Move the read marker to a newer post", description = "",
    params(OfUser),
    request_body = PostReference,
    responses((status = 200, description = "The marker, perhaps at a newer post", body = Marked))
)]
pub(super) async fn mark_read(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<MarkRead>,
    JsonBody(post): JsonBody<Reference>,
) -> Result<Response, ApiError> {
    let marker = tributary.mark_read(user, post.address()?).await?;
    let marker = marker.ok_or(ApiError::NotFound)?;
    let answer = json(&Marked::new(Some(marker), fleet(&tributary).times()));
    Ok(costing(Cost::QUERY.plus(Cost::WRITE), answer))
}
