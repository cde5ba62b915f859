//! The JSON of the API. Ids are strings: they exceed 2^53, where JavaScript's numbers lose digits.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::rfc3339_ms;
use crate::model::{Post, ShardId, UserId};
use crate::moment::TimeUnit;
use crate::shard::Fleet;
use crate::timeline::Page;

/// `GET /user/feed/{user_id}`: the field names of the Express handler that people start from.
#[derive(Serialize)]
pub(super) struct ExpressFeed<'a> {
    feed: Vec<Tweet<'a>>,
    next_cursor: Option<String>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

#[derive(Serialize)]
struct Tweet<'a> {
    tweet_id: String,
    user_id: String,
    content: &'a str,
    timestamp: Timestamp,
}

/// As the handler gives it: a number as it is stored, a date as JavaScript writes it.
#[derive(Serialize)]
#[serde(untagged)]
enum Timestamp {
    Number(i64),
    Date(String),
}

/// A page of the `v1` timelines.
#[derive(Serialize)]
pub(crate) struct Posts<'a> {
    posts: Vec<WirePost<'a>>,
    next: Option<String>,
    prev: String,
    complete: bool,
    missing_shards: Vec<&'a str>,
    stale_shards: [&'a str; 0],
}

/// A post of the `v1` routes.
#[derive(Serialize)]
pub(super) struct WirePost<'a> {
    post_id: String,
    author_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    author_handle: Option<&'a str>,
    content: &'a str,
    created_at: String,
}

/// `GET /v1/users/{user_id}/following`.
#[derive(Serialize)]
pub(super) struct Following<'a> {
    pub(super) following: Vec<Followee>,
    pub(super) next: Option<String>,
    pub(super) complete: bool,
    pub(super) missing_shards: Vec<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Followee {
    user_id: String,
}

/// What `POST /v1/users/{user_id}/posts` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPost {
    pub(super) content: String,
}

/// What `POST /v1/users/{user_id}/following` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewFollows {
    pub(super) follow: Vec<String>,
}

/// What `POST /v1/users/{user_id}/following` answers.
#[derive(Serialize)]
pub(super) struct Followed {
    /// How many are new.
    pub(super) added: usize,
}

/// `GET /readyz`.
#[derive(Serialize)]
pub(super) struct Ready<'a> {
    pub(super) status: &'static str,
    pub(super) shards: Vec<ShardState<'a>>,
}

#[derive(Serialize)]
pub(super) struct ShardState<'a> {
    pub(super) name: &'a str,
    pub(super) status: &'static str,
}

impl<'a> ExpressFeed<'a> {
    pub(super) fn new(page: &'a Page, fleet: &'a Fleet) -> Self {
        let tweet = |post: &'a Post| Tweet {
            tweet_id: post.key.post.to_string(),
            user_id: post.key.author.to_string(),
            content: &post.content,
            timestamp: match fleet.times().unit {
                TimeUnit::DateTime { .. } => Timestamp::Date(created_at(post, fleet)),
                _ => Timestamp::Number(post.key.time),
            },
        };
        Self {
            feed: page.posts.iter().map(tweet).collect(),
            next_cursor: page.next.as_ref().map(ToString::to_string),
            complete: page.is_complete(),
            missing_shards: names(&page.missing, fleet),
        }
    }
}

impl<'a> Posts<'a> {
    pub(crate) fn new(page: &'a Page, fleet: &'a Fleet) -> Self {
        let post = |post: &'a Post| WirePost {
            author_handle: page.handles.get(&post.key.author).map(String::as_str),
            ..WirePost::new(post, fleet)
        };
        Self {
            posts: page.posts.iter().map(post).collect(),
            next: page.next.as_ref().map(ToString::to_string),
            prev: page.prev.to_string(),
            complete: page.is_complete(),
            missing_shards: names(&page.missing, fleet),
            // Nothing is served from memory yet, so nothing is stale.
            stale_shards: [],
        }
    }
}

impl<'a> WirePost<'a> {
    /// A post whose author's handle is not known.
    pub(super) fn new(post: &'a Post, fleet: &Fleet) -> Self {
        Self {
            post_id: post.key.post.to_string(),
            author_id: post.key.author.to_string(),
            author_handle: None,
            content: &post.content,
            created_at: created_at(post, fleet),
        }
    }
}

impl From<&UserId> for Followee {
    fn from(user: &UserId) -> Self {
        Self { user_id: user.to_string() }
    }
}

fn created_at(post: &Post, fleet: &Fleet) -> String {
    rfc3339_ms(fleet.times().epoch_ms(post.key.time))
}

pub(super) fn names<'a>(shards: &BTreeSet<ShardId>, fleet: &'a Fleet) -> Vec<&'a str> {
    shards.iter().map(|shard| fleet.shard_name(*shard)).collect()
}
