//! The routes about the graph of users: followers, counts, relationships, mutes and blocks; and
//! users by their handles.

use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use tributary::graph::{Counts, ListPage, RELATIONSHIPS_MAX};
use tributary::internal::{FollowingCursor, fleet};
use tributary::{Freshness, Tributary, UserId};

use super::auth::{Allowed, AllowedHere, CursorKeys, FindUsers, Follow, Purpose, ReadFollowing};
use super::error::ApiError;
use super::limits::Cost;
use super::openapi::schemas::{
    HandleQuery, OfBlock, OfMute, OfUser, OtherUsers, PageQuery, RequireQuery, Token,
};
use super::publish::with_freshness;
use super::query::Parameters;
use super::timeline::{costing, json, list_response};
use super::wire::{self, Number, UserNumbers, UserPage, shard_names};

/// The longest beginning of a handle, in characters.
const PREFIX_MAX: usize = 64;
const BAD_PREFIX: ApiError =
    ApiError::BadQuery("`handle` must be 1 to 64 characters, the beginning of a handle");

#[derive(Deserialize)]
struct RawHandle {
    handle: Option<String>,
}

#[derive(Deserialize)]
struct RawUsers {
    users: Option<String>,
}

/// `GET /v1/users/{user_id}/followers`: by rising id, read from all shards.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/followers", operation_id = "followers", tag = "follows",
    summary = "The followers of a user, by rising id", description = "",
    params(OfUser, PageQuery),
    responses((
        status = 200, description = "A page of the list", body = UserPage<'_>,
        links(
            ("next" = (
                operation_id = "followers",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            ))
        )
    ))
)]
pub(super) async fn followers(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let purpose = Purpose::Followers(user);
    let page = tributary.followers(user, start(&parameters, purpose)?, parameters.limit).await?;
    user_page(&tributary, page, &parameters, (purpose, &format!("/v1/users/{user}/followers")))
}

/// `GET /v1/users/{user_id}/mutes`: by rising id.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/mutes", operation_id = "mutes", tag = "follows",
    summary = "The users that a user mutes, by rising id", description = "",
    params(OfUser, PageQuery),
    responses((
        status = 200, description = "A page of the list", body = UserPage<'_>,
        links(
            ("next" = (
                operation_id = "mutes",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            ))
        )
    ))
)]
pub(super) async fn mutes(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let purpose = Purpose::Mutes(user);
    let page = tributary.mutes(user, start(&parameters, purpose)?, parameters.limit).await?;
    user_page(&tributary, page, &parameters, (purpose, &format!("/v1/users/{user}/mutes")))
}

/// `GET /v1/users/{user_id}/blocks`: by rising id.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/blocks", operation_id = "blocks", tag = "follows",
    summary = "The users that a user blocks, by rising id", description = "",
    params(OfUser, PageQuery),
    responses((
        status = 200, description = "A page of the list", body = UserPage<'_>,
        links(
            ("next" = (
                operation_id = "blocks",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("cursor" = "$response.body#/next")
                )
            ))
        )
    ))
)]
pub(super) async fn blocks(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let purpose = Purpose::Blocks(user);
    let page = tributary.blocks(user, start(&parameters, purpose)?, parameters.limit).await?;
    user_page(&tributary, page, &parameters, (purpose, &format!("/v1/users/{user}/blocks")))
}

fn start(parameters: &Parameters, purpose: Purpose) -> Result<UserId, ApiError> {
    parameters.refuse_those_of_home()?;
    Ok(parameters.cursor(purpose)?.map_or(UserId::from(0), |FollowingCursor(from)| from))
}

fn user_page(
    tributary: &Tributary,
    page: ListPage,
    parameters: &Parameters,
    (purpose, path): (Purpose, &str),
) -> Result<Response, ApiError> {
    parameters.accept(page.missing.is_empty())?;
    let seal = |from| parameters.cursor_keys.seal(purpose, FollowingCursor(from).to_string());
    let next = page.next.map(seal);
    let response = json(&UserPage {
        users: page.users.iter().map(Into::into).collect(),
        next: next.as_deref(),
        complete: page.missing.is_empty(),
        missing_shards: shard_names(&page.missing, fleet(tributary)),
    });
    Ok(costing(Cost::QUERY, list_response(response, (path, parameters.limit), next.as_deref())))
}

/// `GET /v1/users/{user_id}/counts`: the numbers of followees and followers.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/counts", operation_id = "counts", tag = "follows",
    summary = "The numbers of followees and followers", description = "",
    params(OfUser, RequireQuery),
    responses((status = 200, description = "The numbers", body = UserNumbers<'_>))
)]
pub(super) async fn counts(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let Counts { following, followers, missing, .. } = tributary.follow_counts(user).await?;
    parameters.accept(missing.is_empty())?;
    let response = json(&UserNumbers {
        following: Number::from(following),
        followers: Number::from(followers),
        complete: missing.is_empty(),
        missing_shards: shard_names(&missing, fleet(&tributary)),
    });
    Ok(costing(Cost::of_counts([following, followers].into_iter()), response))
}

/// `GET /v1/users/{user_id}/relationships?users=1,2,3`.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/relationships", operation_id = "relationships",
    tag = "follows", summary = "How a user and other users are related", description = "",
    params(OfUser, OtherUsers),
    responses((status = 200, description = "One for each user", body = wire::Relationships<'_>))
)]
pub(super) async fn relationships(
    State(tributary): State<Tributary>,
    Allowed { user, .. }: Allowed<ReadFollowing>,
    uri: Uri,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let query = Query::<RawUsers>::try_from_uri(&uri);
    let users = query.ok().and_then(|Query(RawUsers { users })| users).unwrap_or_default();
    let ids = users.split(',').filter(|id| !id.is_empty());
    let others: Vec<UserId> =
        ids.map(|id| id.parse().map_err(|_| ApiError::BadUserId)).collect::<Result<_, _>>()?;
    if others.is_empty() || others.len() > RELATIONSHIPS_MAX {
        return Err(ApiError::BadQuery("`users` must be 1 to 100 user ids with commas in between"));
    }
    let found = tributary.relationships(user, &others).await;
    parameters.accept(found.missing.is_empty())?;
    let response = json(&wire::Relationships::new(&found, fleet(&tributary)));
    Ok(costing(Cost::QUERY, response))
}

/// `GET /v1/users?handle=ada`: one query on each shard.
#[utoipa::path(
    get, path = "/v1/users", operation_id = "find_users", tag = "follows",
    summary = "The first 20 users whose handles begin with a text", description = "",
    params(HandleQuery),
    responses((status = 200, description = "The users, by handle", body = wire::FoundUsers<'_>))
)]
pub(super) async fn find_users(
    State(tributary): State<Tributary>,
    _: AllowedHere<FindUsers>,
    uri: Uri,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let query = Query::<RawHandle>::try_from_uri(&uri);
    let prefix = query.ok().and_then(|Query(RawHandle { handle })| handle).unwrap_or_default();
    let found = tributary.find_users(checked_prefix(&prefix)?).await?;
    parameters.accept(found.missing.is_empty())?;
    let response = json(&wire::FoundUsers::new(&found, fleet(&tributary)));
    Ok(costing(Cost::QUERY, response))
}

/// The beginning of a handle, if it is one.
pub(super) fn checked_prefix(text: &str) -> Result<&str, ApiError> {
    let is_short = (1..=PREFIX_MAX).contains(&text.chars().count());
    if is_short && !text.contains(char::is_control) { Ok(text) } else { Err(BAD_PREFIX) }
}

/// `PUT /v1/users/{user_id}/mutes/{other}`: 204, also if the mute exists already.
#[utoipa::path(
    put, path = "/v1/users/{user_id}/mutes/{muted_id}", operation_id = "mute",
    tag = "follows", summary = "Hide the posts of a user", description = "",
    params(OfMute),
    responses((
        status = 204, description = "The mute exists",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("undo" = (
                operation_id = "unmute",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("muted_id" = "$request.path.muted_id")
                )
            ))
        )
    ))
)]
pub(super) async fn mute(
    State(tributary): State<Tributary>,
    State(keys): State<CursorKeys>,
    Allowed { user, other, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    Ok(done(&tributary.mute(user, other).await?, &keys))
}

/// `DELETE /v1/users/{user_id}/mutes/{other}`: 204, also if there is no mute.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}/mutes/{muted_id}", operation_id = "unmute",
    tag = "follows", summary = "End a mute", description = "",
    params(OfMute),
    responses((
        status = 204, description = "The mute does not exist any more",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn unmute(
    State(tributary): State<Tributary>,
    State(keys): State<CursorKeys>,
    Allowed { user, other, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    Ok(done(&tributary.unmute(user, other).await?, &keys))
}

/// `PUT /v1/users/{user_id}/blocks/{other}`: 204, also if the block exists already.
#[utoipa::path(
    put, path = "/v1/users/{user_id}/blocks/{blocked_id}", operation_id = "block",
    tag = "follows", summary = "Hide the posts of two users from each other", description = "",
    params(OfBlock),
    responses((
        status = 204, description = "The block exists",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
        links(
            ("undo" = (
                operation_id = "unblock",
                parameters(
                    ("user_id" = "$request.path.user_id"),
                    ("blocked_id" = "$request.path.blocked_id")
                )
            ))
        )
    ))
)]
pub(super) async fn block(
    State(tributary): State<Tributary>,
    State(keys): State<CursorKeys>,
    Allowed { user, other, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    Ok(done(&tributary.block(user, other).await?, &keys))
}

/// `DELETE /v1/users/{user_id}/blocks/{other}`: 204, also if there is no block.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}/blocks/{blocked_id}", operation_id = "unblock",
    tag = "follows", summary = "End a block", description = "",
    params(OfBlock),
    responses((
        status = 204, description = "The block does not exist any more",
        headers(("Tributary-Freshness" = Token, description = "Absent if there is no token")),
    ))
)]
pub(super) async fn unblock(
    State(tributary): State<Tributary>,
    State(keys): State<CursorKeys>,
    Allowed { user, other, .. }: Allowed<Follow, UserId>,
) -> Result<Response, ApiError> {
    Ok(done(&tributary.unblock(user, other).await?, &keys))
}

fn done(freshness: &Freshness, keys: &CursorKeys) -> Response {
    with_freshness((freshness, keys), StatusCode::NO_CONTENT)
}
