//! The JSON of the API. Ids are strings: they exceed 2^53, where JavaScript's numbers lose digits.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::rfc3339_ms;
use crate::cursor::Cursor;
use crate::memory::Log;
use crate::model::{Post, ShardId, UserId};
use crate::moment::{PostTimes, TimeUnit};
use crate::shard::Fleet;
use crate::timeline::{Draft, DraftPost, Page};

/// Room for a usual page.
const PAGE_BYTES: usize = 8 * 1024;

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

/// What stands on a page of the `v1` timelines behind the posts.
#[derive(Serialize)]
struct PageEnd<'a> {
    next: Option<&'a str>,
    prev: &'a str,
    complete: bool,
    missing_shards: Vec<&'a str>,
    stale_shards: Vec<StaleShard<'a>>,
}

/// A shard whose posts come from memory, as they were then.
#[derive(Serialize)]
struct StaleShard<'a> {
    shard: &'a str,
    as_of: String,
}

/// A post of the `v1` routes.
#[derive(Serialize)]
pub(super) struct WirePost<'a> {
    post_id: String,
    author_id: String,
    content: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    author_handle: Option<&'a str>,
}

/// What is read of a post that is kept as it is sent.
#[derive(Deserialize)]
struct KeptPost {
    content: String,
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
    /// Of each log, where there is a memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) memory: Vec<LogState<'a>>,
}

/// How far memory is with a log.
#[derive(Serialize)]
pub(super) struct LogState<'a> {
    log: &'a str,
    followed: bool,
    newest_times: bool,
    filled_ahead: FilledAhead,
}

#[derive(Serialize)]
struct FilledAhead {
    authors: usize,
    of: usize,
    done: bool,
}

#[derive(Serialize)]
pub(super) struct ShardState<'a> {
    pub(super) name: &'a str,
    pub(super) status: &'static str,
}

impl<'a> LogState<'a> {
    pub(super) fn new(log: &'a Log, now_ms: u64) -> Self {
        let ahead = &log.ahead;
        Self {
            log: log.name(),
            followed: log.is_fresh(now_ms),
            newest_times: log.heads_known(),
            filled_ahead: FilledAhead {
                authors: ahead.begun(),
                of: ahead.planned(),
                done: ahead.is_done(),
            },
        }
    }
}

impl<'a> ExpressFeed<'a> {
    pub(super) fn new(page: &'a Page, fleet: &'a Fleet) -> Self {
        let tweet = |post: &'a Post| Tweet {
            tweet_id: post.key.post.to_string(),
            user_id: post.key.author.to_string(),
            content: &post.content,
            timestamp: match fleet.times().unit {
                TimeUnit::DateTime { .. } => Timestamp::Date(created_at(post, fleet.times())),
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

/// The cursors of a page as texts: they stand in its JSON and in its `Link` header.
pub(super) struct Cursors {
    pub(super) next: Option<String>,
    pub(super) prev: String,
}

impl Cursors {
    pub(super) fn of(draft: &Draft) -> Self {
        Self { next: draft.next.as_ref().map(Cursor::to_string), prev: draft.prev.to_string() }
    }
}

/// A page of the `v1` timelines. Posts from memory are copied as they are.
pub(super) fn posts_json(
    draft: &Draft,
    cursors: &Cursors,
    fleet: &Fleet,
) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::with_capacity(PAGE_BYTES);
    json.extend(br#"{"posts":["#);
    for (index, entry) in draft.posts.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        match entry {
            DraftPost::FromDatabase(post) => {
                let author_handle = draft.handles.get(&post.key.author).map(String::as_str);
                let post = WirePost { author_handle, ..WirePost::new(post, fleet.times()) };
                serde_json::to_writer(&mut json, &post)?;
            }
            DraftPost::FromMemory(found) => {
                json.extend(found.body().as_bytes());
                if let Some(handle) = found.handle() {
                    json.pop();
                    json.extend(br#","author_handle":"#);
                    serde_json::to_writer(&mut json, handle)?;
                    json.push(b'}');
                }
            }
        }
    }
    let stale = |(shard, as_of): (&ShardId, &i64)| StaleShard {
        shard: fleet.shard_name(*shard),
        as_of: rfc3339_ms(*as_of),
    };
    let end = PageEnd {
        next: cursors.next.as_deref(),
        prev: &cursors.prev,
        complete: draft.is_complete(),
        missing_shards: names(&draft.missing, fleet),
        stale_shards: draft.stale.iter().map(stale).collect(),
    };
    json.extend(b"],");
    let start = json.len();
    serde_json::to_writer(&mut json, &end)?;
    // The end goes on with the object that the posts began.
    json.remove(start);
    Ok(json)
}

/// What memory keeps of a post: its JSON, but for the author's handle.
pub(crate) fn encode_post(post: &Post, times: &PostTimes) -> Box<str> {
    // Texts and numbers only: this cannot fail.
    serde_json::to_string(&WirePost::new(post, times)).unwrap_or_default().into()
}

/// The text of a post that is kept as it is sent.
pub(crate) fn decode_content(json: &str) -> String {
    serde_json::from_str::<KeptPost>(json).map(|post| post.content).unwrap_or_default()
}

impl<'a> WirePost<'a> {
    /// A post whose author's handle is not known.
    pub(super) fn new(post: &'a Post, times: &PostTimes) -> Self {
        Self {
            post_id: post.key.post.to_string(),
            author_id: post.key.author.to_string(),
            content: &post.content,
            created_at: created_at(post, times),
            author_handle: None,
        }
    }
}

impl From<&UserId> for Followee {
    fn from(user: &UserId) -> Self {
        Self { user_id: user.to_string() }
    }
}

fn created_at(post: &Post, times: &PostTimes) -> String {
    rfc3339_ms(times.epoch_ms(post.key.time))
}

pub(super) fn names<'a>(shards: &BTreeSet<ShardId>, fleet: &'a Fleet) -> Vec<&'a str> {
    shards.iter().map(|shard| fleet.shard_name(*shard)).collect()
}
