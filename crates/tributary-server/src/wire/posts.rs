//! The JSON of posts in requests and in lists of posts.

use serde::{Deserialize, Deserializer, Serialize};
use tributary::internal::{Fleet, PostJson, PostTimes, rfc3339_ms};
use tributary::posts::markers::ReadMarker;
use tributary::posts::{Counted, PostAddress, PostCounts, Posts, References};
use utoipa::ToSchema;

use super::{Number, shard_names};
use crate::error::ApiError;
use crate::openapi::schemas::{self, Id};

/// The body of `POST /v1/users/{user_id}/posts`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPost {
    /// At most `write.content_bytes_max` bytes in UTF-8. Only a repost may omit it.
    #[serde(default, deserialize_with = "present")]
    #[schema(min_length = 1, max_length = 10_000, nullable = false)]
    content: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schemas::PostReference>, nullable = false)]
    reply_to: Option<Reference>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schemas::PostReference>, nullable = false)]
    repost_of: Option<Reference>,
}

/// The body of `PATCH /v1/users/{user_id}/posts/{post_id}`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewText {
    /// At most `write.content_bytes_max` bytes in UTF-8.
    #[schema(min_length = 1, max_length = 10_000)]
    pub(crate) content: String,
}

/// A field that may be absent but not null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The address of a post, in a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    author_id: String,
    post_id: String,
}

impl Reference {
    pub(crate) fn address(&self) -> Result<PostAddress, ApiError> {
        let author = self.author_id.parse().map_err(|_| ApiError::BadUserId)?;
        let post = self.post_id.parse().map_err(|_| ApiError::BadPostId)?;
        Ok(PostAddress { author, post })
    }
}

/// The answer about a read marker.
#[derive(Serialize, ToSchema)]
pub(crate) struct Marked {
    /// `null` if the user has none.
    #[schema(required = true)]
    marker: Option<Marker>,
}

/// The place of a post, down to which a user has read.
#[derive(Serialize, ToSchema)]
struct Marker {
    /// The post, which may be deleted; absent if its author was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::PostReference>, nullable = false)]
    post: Option<AddressJson>,
    /// The time of the post, in UTC with milliseconds.
    #[schema(format = "date-time")]
    created_at: String,
    /// When the marker was moved here, in UTC with milliseconds.
    #[schema(format = "date-time")]
    updated_at: String,
}

#[derive(Serialize)]
struct AddressJson {
    author_id: String,
    post_id: String,
}

impl Marked {
    pub(crate) fn new(marker: Option<ReadMarker>, times: &PostTimes) -> Self {
        let marker = marker.map(|marker| Marker {
            post: marker.post.map(|PostAddress { author, post }| AddressJson {
                author_id: author.to_string(),
                post_id: post.to_string(),
            }),
            created_at: rfc3339_ms(times.epoch_ms(marker.time)),
            updated_at: rfc3339_ms(marker.updated_at),
        });
        Self { marker }
    }
}

impl NewPost {
    /// The text, which may be empty, and the posts that it refers to.
    pub(crate) fn parts(self) -> Result<(String, References), ApiError> {
        let bad = |text: &str| ApiError::BadBody(text.to_owned());
        let reply_to = self.reply_to.as_ref().map(Reference::address).transpose()?;
        let repost_of = self.repost_of.as_ref().map(Reference::address).transpose()?;
        let content = match (self.content, repost_of) {
            (Some(text), Some(_)) if text.is_empty() => return Err(bad("omit an empty `content`")),
            (Some(text), _) => text,
            (None, Some(_)) => String::new(),
            (None, None) => return Err(bad("missing field `content`")),
        };
        Ok((content, References { reply_to, repost_of }))
    }
}

/// The answer of `GET /v1/posts`.
#[derive(Serialize, ToSchema)]
pub(crate) struct FoundPosts<'a> {
    /// In the order of the request. Posts that do not exist are absent.
    #[schema(value_type = Vec<schemas::Post>)]
    posts: Vec<PostJson<'a>>,
    /// The addresses from the first one on whose text had no room: request them again.
    rest: Vec<String>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

impl<'a> FoundPosts<'a> {
    pub(crate) fn new(found: &'a Posts, fleet: &'a Fleet) -> Self {
        Self {
            posts: found.posts.iter().map(|post| PostJson::new(post, fleet.times())).collect(),
            rest: found.rest.iter().map(ToString::to_string).collect(),
            complete: found.missing.is_empty(),
            missing_shards: shard_names(&found.missing, fleet),
        }
    }
}

/// The answer of `GET /v1/posts/counts`.
#[derive(Serialize, ToSchema)]
pub(crate) struct CountedPosts<'a> {
    posts: Vec<PostNumbers>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct PostNumbers {
    #[schema(value_type = Id)]
    author_id: String,
    #[schema(value_type = Id)]
    post_id: String,
    replies: Number,
    reposts: Number,
}

impl<'a> CountedPosts<'a> {
    pub(crate) fn new(counted: &Counted, fleet: &'a Fleet) -> Self {
        let numbers = |counts: &PostCounts| PostNumbers {
            author_id: counts.post.author.to_string(),
            post_id: counts.post.post.to_string(),
            replies: counts.replies.into(),
            reposts: counts.reposts.into(),
        };
        Self {
            posts: counted.posts.iter().map(numbers).collect(),
            complete: counted.missing.is_empty(),
            missing_shards: shard_names(&counted.missing, fleet),
        }
    }
}
