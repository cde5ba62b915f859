//! The routes that read several posts, or count their replies and reposts.

use std::collections::HashSet;

use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::Response;
use serde::Deserialize;
use tributary::Tributary;
use tributary::internal::fleet;
use tributary::posts::{POSTS_MAX, PostAddress};

use super::auth::{AllowedHere, ReadPost};
use super::error::ApiError;
use super::limits::Cost;
use super::openapi::schemas::PostsQuery;
use super::query::Parameters;
use super::timeline::{costing, json};
use super::wire::{CountedPosts, FoundPosts};

const BAD_ADDRESSES: ApiError =
    ApiError::BadQuery("`posts` must be 1 to 100 addresses `author:post` with commas in between");

#[derive(Deserialize)]
struct RawPosts {
    posts: Option<String>,
}

/// `GET /v1/posts?posts=2:71,3:9`: one query on each shard that has one of the authors.
#[utoipa::path(
    get, path = "/v1/posts", operation_id = "read_posts", tag = "posts",
    summary = "Read several posts", description = "",
    params(PostsQuery),
    responses((status = 200, description = "The posts that exist", body = FoundPosts<'_>))
)]
pub(super) async fn posts(
    State(tributary): State<Tributary>,
    _: AllowedHere<ReadPost>,
    uri: Uri,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let found = tributary.posts(&addresses_in(&uri)?).await?;
    parameters.accept(found.missing.is_empty())?;
    let answer = json(&FoundPosts::new(&found, fleet(&tributary)));
    Ok(costing(Cost::QUERY, answer))
}

/// `GET /v1/posts/counts?posts=2:71,3:9`: one query on each shard.
#[utoipa::path(
    get, path = "/v1/posts/counts", operation_id = "count_posts", tag = "posts",
    summary = "The numbers of replies and reposts of several posts", description = "",
    params(PostsQuery),
    responses((status = 200, description = "One for each address", body = CountedPosts<'_>))
)]
pub(super) async fn counts(
    State(tributary): State<Tributary>,
    _: AllowedHere<ReadPost>,
    uri: Uri,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let counted = tributary.post_counts(&addresses_in(&uri)?).await?;
    parameters.accept(counted.missing.is_empty())?;
    let answer = json(&CountedPosts::new(&counted, fleet(&tributary)));
    let counts = counted.posts.iter().flat_map(|of| [of.replies, of.reposts]);
    Ok(costing(Cost::of_counts(counts), answer))
}

/// The addresses of the parameter `posts`, each once.
fn addresses_in(uri: &Uri) -> Result<Vec<PostAddress>, ApiError> {
    let query = Query::<RawPosts>::try_from_uri(uri);
    let text = query.ok().and_then(|Query(RawPosts { posts })| posts).unwrap_or_default();
    let addresses: Result<Vec<PostAddress>, _> = text.split(',').map(str::parse).collect();
    match addresses {
        Ok(mut addresses) if addresses.len() <= POSTS_MAX => {
            let mut seen = HashSet::new();
            addresses.retain(|address| seen.insert(*address));
            Ok(addresses)
        }
        _ => Err(BAD_ADDRESSES),
    }
}
