//! The JSON of the API. Ids are strings, because JavaScript's numbers lose digits above 2^53.

mod posts;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use tributary::config::TimeUnit;
use tributary::graph::{self, Count, UserNames};
use tributary::internal::stats::{LogStats, NewsStats, QueueStats};
use tributary::internal::tasks::TaskStats;
use tributary::internal::{Draft, DraftPost, Fleet, LogPosition, PostJson, PostTimes, rfc3339_ms};
use tributary::{Cursor, Page, Post, ShardId, UserId};

pub(super) use self::posts::{CountedPosts, FoundPosts, Marked, NewPost, NewText, Reference};
use super::auth::{CursorKeys, KeyFile, KeySecret, Purpose, ServiceKey};
use super::openapi::schemas::{self, Id};

/// Allowance in bytes for the end of a page without its cursors.
const PAGE_END_BYTES: usize = 256;
/// Allowance in characters for a cursor and its seal.
const CURSOR_CHARACTERS: usize = 64;

/// The answer of `GET /user/feed/{user_id}`, with the field names of the Express handler that this
/// route replaces.
#[derive(Serialize, ToSchema)]
pub(super) struct ExpressFeed<'a> {
    feed: Vec<Tweet<'a>>,
    #[schema(value_type = Option<schemas::Cursor>, required = true)]
    next_cursor: Option<String>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct Tweet<'a> {
    #[schema(value_type = Id)]
    tweet_id: String,
    #[schema(value_type = Id)]
    user_id: String,
    content: &'a str,
    timestamp: Timestamp,
}

/// A timestamp in the form of the Express handler: a stored number unchanged, a date as JavaScript
/// formats it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Timestamp {
    Number(i64),
    Date(String),
}

/// The fields after the posts in a page of a `v1` timeline.
#[derive(Serialize)]
struct PageEnd<'a> {
    next: Option<&'a str>,
    prev: &'a str,
    complete: bool,
    missing_shards: Vec<&'a str>,
    stale_shards: Vec<StaleShard<'a>>,
}

/// A shard that cannot be queried: its posts come from memory, in their state of `as_of`.
#[derive(Serialize, ToSchema)]
pub(super) struct StaleShard<'a> {
    shard: &'a str,
    #[schema(format = "date-time")]
    as_of: String,
}

/// The answer of `GET /v1/users/{user_id}/following`.
#[derive(Serialize, ToSchema)]
pub(super) struct Following<'a> {
    pub(super) following: Vec<Followee>,
    #[schema(value_type = Option<schemas::Cursor>, required = true)]
    pub(super) next: Option<&'a str>,
    pub(super) complete: bool,
    pub(super) missing_shards: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Followee {
    #[schema(value_type = Id)]
    user_id: String,
}

/// The body of `POST /v1/users/{user_id}/following`: one of two fields with user ids.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FollowChange {
    Follow(Vec<String>),
    Unfollow(Vec<String>),
}

/// The answer of `POST /v1/users/{user_id}/following`: one of two fields.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FollowsChanged {
    /// The number of follows that did not exist before.
    Added(usize),
    /// The number of follows that existed before.
    Removed(usize),
}

/// A page of followers, mutes or blocks.
#[derive(Serialize, ToSchema)]
pub(super) struct UserPage<'a> {
    pub(super) users: Vec<Followee>,
    #[schema(value_type = Option<schemas::Cursor>, required = true)]
    pub(super) next: Option<&'a str>,
    pub(super) complete: bool,
    pub(super) missing_shards: Vec<&'a str>,
}

/// The answer of `GET /v1/users?handle=...`.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundUsers<'a> {
    users: Vec<NamedUser<'a>>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct NamedUser<'a> {
    #[schema(value_type = Id)]
    user_id: String,
    handle: &'a str,
    /// The display name. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<&'a str>,
}

impl<'a> FoundUsers<'a> {
    pub(super) fn new(found: &'a graph::FoundUsers, fleet: &'a Fleet) -> Self {
        let named = |user: &'a graph::NamedUser| NamedUser {
            user_id: user.id.to_string(),
            handle: user.names.handle(),
            name: user.names.name(),
        };
        Self {
            users: found.users.iter().map(named).collect(),
            complete: found.missing.is_empty(),
            missing_shards: shard_names(&found.missing, fleet),
        }
    }
}

/// The answer of `GET /v1/users/{user_id}/counts`.
#[derive(Serialize, ToSchema)]
pub(super) struct UserNumbers<'a> {
    pub(super) following: Number,
    pub(super) followers: Number,
    pub(super) complete: bool,
    pub(super) missing_shards: Vec<&'a str>,
}

/// A number of users or posts.
#[derive(Serialize, ToSchema)]
pub(super) struct Number {
    count: usize,
    /// The number is this one or a greater one.
    at_least: bool,
}

impl From<Count> for Number {
    fn from(count: Count) -> Self {
        match count {
            Count::Exact(count) => Self { count, at_least: false },
            Count::AtLeast(count) => Self { count, at_least: true },
        }
    }
}

/// The answer of `GET /v1/users/{user_id}/relationships`.
#[derive(Serialize, ToSchema)]
pub(super) struct Relationships<'a> {
    relationships: Vec<Relationship>,
    complete: bool,
    missing_shards: Vec<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the JSON")]
struct Relationship {
    #[schema(value_type = Id)]
    user_id: String,
    following: bool,
    followed_by: bool,
    muting: bool,
    blocking: bool,
    blocked_by: bool,
}

impl<'a> Relationships<'a> {
    pub(super) fn new(found: &graph::Relationships, fleet: &'a Fleet) -> Self {
        let relationship = |found: &graph::Relationship| Relationship {
            user_id: found.user.to_string(),
            following: found.following,
            followed_by: found.followed_by,
            muting: found.muting,
            blocking: found.blocking,
            blocked_by: found.blocked_by,
        };
        Self {
            relationships: found.all.iter().map(relationship).collect(),
            complete: found.missing.is_empty(),
            missing_shards: shard_names(&found.missing, fleet),
        }
    }
}

/// The answer of `GET /readyz`.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Ready<'a> {
    pub(super) status: &'static str,
    /// Absent if the request may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) shards: Option<Vec<ShardState<'a>>>,
    /// One entry for each log; empty if memory is off, or if the request may not see it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) memory: Vec<LogState<'a>>,
    /// Background tasks that have panicked; empty if the request may not see them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failing: Vec<TaskState>,
    /// Only if asked for; empty for a folder of embedded shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) servers: Option<Vec<ServerState<'a>>>,
    /// All background tasks, only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tasks: Option<Vec<TaskState>>,
}

/// A background task.
#[derive(Serialize, ToSchema)]
pub(super) struct TaskState {
    task: &'static str,
    of: String,
    running: bool,
    restarts: u64,
}

impl TaskState {
    pub(super) fn new(task: &TaskStats) -> Self {
        let TaskStats { name, of, is_running, restarts, .. } = task;
        Self { task: name, of: of.clone(), running: *is_running, restarts: *restarts }
    }
}

/// The state of memory for one log.
#[derive(Serialize, ToSchema)]
pub(super) struct LogState<'a> {
    log: &'a str,
    followed: bool,
    newest_times: bool,
    filled_ahead: FilledAhead,
    news: NewsState,
    /// Why memory is not up to date with the log; only with `verbose`, as all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The position that memory has reached: a number, or file and offset of a server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    /// Milliseconds since memory last had every change of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
    /// Bytes of the log that memory has not applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_bytes: Option<u64>,
}

/// The changes that requests for news are answered from.
#[derive(Serialize, ToSchema)]
struct NewsState {
    bytes: usize,
    bytes_max: usize,
    /// Their number; only with `verbose`, as all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<usize>,
    /// A request since an earlier position has a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// The age of this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

#[derive(Serialize, ToSchema)]
struct FilledAhead {
    authors: usize,
    of: usize,
    done: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ShardState<'a> {
    pub(super) name: &'a str,
    pub(super) status: &'static str,
}

/// The answer of `GET /shards`.
#[derive(Serialize, ToSchema)]
pub(super) struct ShardsState<'a> {
    /// Empty for a folder of embedded shards.
    pub(super) servers: Vec<ServerState<'a>>,
    pub(super) shards: Vec<ShardDetails<'a>>,
    /// One entry for each log; empty if memory is off.
    pub(super) memory: Vec<LogState<'a>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ServerState<'a> {
    pub(super) name: &'a str,
    pub(super) in_service: bool,
    /// The connections that requests may use.
    pub(super) connections: usize,
    /// The requests that wait for one.
    pub(super) waiting: usize,
    /// The requests that were rejected since the start.
    pub(super) rejected: u64,
}

impl<'a> ServerState<'a> {
    /// The state of all servers.
    pub(super) fn all(fleet: &'a Fleet) -> Vec<Self> {
        let server = |queue: QueueStats<'a>| Self {
            name: queue.server,
            in_service: queue.in_service,
            connections: queue.connections,
            waiting: queue.waiting,
            rejected: queue.rejected,
        };
        fleet.queues().into_iter().map(server).collect()
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct ShardDetails<'a> {
    pub(super) name: &'a str,
    #[schema(required = true)]
    pub(super) server: Option<&'a str>,
    pub(super) status: &'static str,
    /// Why the shard is missing or read-only.
    #[schema(required = true)]
    pub(super) reason: Option<&'a String>,
    pub(super) foreign_writes: u64,
}

/// The answer of `POST /reload`.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Reloaded {
    /// Settings, files and servers with a new content that is in effect.
    pub(super) changed: Vec<String>,
    /// Settings with a new value that takes effect after a restart.
    pub(super) needs_restart: Vec<String>,
    /// Why nothing has changed.
    #[schema(required = true)]
    pub(super) problem: Option<String>,
}

/// The answer of `GET /keys`.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct KeysState<'a> {
    /// Whether requests need credentials.
    configured: bool,
    service_keys: Vec<ServiceKeyState<'a>>,
    token_keys: Vec<&'a str>,
    revoked: RevokedState<'a>,
    /// Why the files cannot be read again at the moment.
    #[schema(required = true)]
    problem: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ServiceKeyState<'a> {
    id: &'a str,
    name: &'a str,
    scopes: Vec<&'static str>,
    created: String,
    #[schema(required = true)]
    expires: Option<String>,
    secrets: Vec<SecretState>,
}

#[derive(Serialize, ToSchema)]
struct SecretState {
    id: u32,
    created: String,
    #[schema(required = true)]
    expires: Option<String>,
}

#[derive(Default, Serialize, ToSchema)]
struct RevokedState<'a> {
    kids: Vec<&'a str>,
    users: Vec<RevokedUser>,
}

/// Tokens of the user that were issued before this time are refused.
#[derive(Serialize, ToSchema)]
struct RevokedUser {
    #[schema(value_type = Id)]
    user_id: String,
    issued_from: String,
}

impl<'a> KeysState<'a> {
    pub(crate) fn new(
        keys: &'a KeyFile,
        token_keys: Vec<&'a str>,
        problem: Option<String>,
    ) -> Self {
        let at = |seconds: i64| rfc3339_ms(seconds.saturating_mul(1_000));
        let secret = |secret: &KeySecret| SecretState {
            id: secret.id,
            created: at(secret.created),
            expires: secret.expires.map(at),
        };
        let key = |(id, key): (&'a String, &'a ServiceKey)| ServiceKeyState {
            id,
            name: &key.name,
            scopes: key.scopes.iter().map(|scope| scope.name()).collect(),
            created: at(key.created),
            expires: key.expires.map(at),
            secrets: key.secrets.iter().map(secret).collect(),
        };
        let user = |(user, issued_from): (UserId, i64)| RevokedUser {
            user_id: user.to_string(),
            issued_from: at(issued_from),
        };
        Self {
            configured: true,
            service_keys: keys.keys().iter().map(key).collect(),
            token_keys,
            revoked: RevokedState {
                kids: keys.revoked_kids().collect(),
                users: keys.revoked_users().map(user).collect(),
            },
            problem,
        }
    }
}

impl<'a> LogState<'a> {
    pub(super) fn new(log: &'a LogStats) -> Self {
        Self {
            log: &log.name,
            followed: log.fresh,
            newest_times: log.heads_known,
            filled_ahead: FilledAhead {
                authors: log.prefill_started,
                of: log.prefill_planned,
                done: log.prefill_done,
            },
            news: NewsState::new(log),
            reason: None,
            position: None,
            lag_ms: None,
            lag_bytes: None,
        }
    }

    pub(super) fn with_details(log: &'a LogStats) -> Self {
        let news = NewsState {
            changes: Some(log.news.changes),
            from: Some(position_text(log.news.from)),
            seconds: Some(log.news.age.as_secs()),
            ..NewsState::new(log)
        };
        Self {
            news,
            reason: log.not_fresh,
            position: log.position.map(position_text),
            lag_ms: log.lag_ms,
            lag_bytes: log.lag_bytes,
            ..Self::new(log)
        }
    }
}

impl NewsState {
    fn new(log: &LogStats) -> Self {
        let NewsStats { bytes, bytes_max, .. } = log.news;
        Self { bytes, bytes_max, changes: None, from: None, seconds: None }
    }
}

/// A number, or the number of the file and the offset in it.
fn position_text(position: LogPosition) -> String {
    match position.file_and_offset() {
        (0, offset) => offset.to_string(),
        (file, offset) => format!("{file}:{offset}"),
    }
}

impl<'a> ExpressFeed<'a> {
    pub(super) fn new(page: &'a Page, next_cursor: Option<String>, fleet: &'a Fleet) -> Self {
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
            next_cursor,
            complete: page.is_complete(),
            missing_shards: shard_names(&page.missing, fleet),
        }
    }
}

/// The cursors of a page as text, for its JSON and for its `Link` header.
pub(super) struct Cursors {
    pub(super) next: Option<String>,
    pub(super) prev: String,
}

impl Cursors {
    /// The cursors as the library encodes them.
    pub(super) fn unsealed(draft: &Draft) -> Self {
        let text = |cursor: &Cursor| {
            let mut text = String::with_capacity(CURSOR_CHARACTERS);
            cursor.append_to(&mut text);
            text
        };
        Self { next: draft.next.as_ref().map(text), prev: text(&draft.prev) }
    }

    /// The cursors with seals for this purpose.
    pub(super) fn sealed(draft: &Draft, keys: &CursorKeys, purpose: Purpose) -> Self {
        let Self { next, prev } = Self::unsealed(draft);
        let seal = |cursor| keys.seal(purpose, cursor);
        Self { next: next.map(seal), prev: seal(prev) }
    }
}

/// Encodes a page of a `v1` timeline. Posts from memory are already JSON and are copied unchanged.
pub(super) fn posts_json(
    draft: &Draft,
    cursors: &Cursors,
    fleet: &Fleet,
) -> serde_json::Result<Vec<u8>> {
    // A buffer that grows would take up to twice the bytes while the answer is in flight.
    let cursors_bytes = cursors.prev.len() + cursors.next.as_ref().map_or(0, String::len);
    let mut json = Vec::with_capacity(draft.bytes() + cursors_bytes + PAGE_END_BYTES);
    json.extend(br#"{"posts":["#);
    for (index, entry) in draft.posts.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        match entry {
            DraftPost::FromDatabase(post) => {
                let names = draft.names.get(&post.key.author);
                let post = PostJson::new(post, fleet.times()).named(names);
                serde_json::to_writer(&mut json, &post)?;
            }
            DraftPost::FromMemory(found) => {
                push_post(&mut json, found.body(), found.names())?;
            }
        }
    }
    let end = PageEnd {
        next: cursors.next.as_deref(),
        prev: &cursors.prev,
        complete: draft.is_complete(),
        missing_shards: shard_names(&draft.missing, fleet),
        stale_shards: stale_shards(&draft.stale, fleet),
    };
    push_end(&mut json, &end)?;
    if json.capacity() > json.len() + json.len() / 8 + PAGE_END_BYTES {
        json.shrink_to_fit();
    }
    Ok(json)
}

/// Ends the list that is the first field of an object, and adds the fields of `end` to the object.
pub(super) fn push_end(json: &mut Vec<u8>, end: &impl Serialize) -> serde_json::Result<()> {
    json.extend(b"],");
    let start = json.len();
    serde_json::to_writer(&mut *json, end)?;
    // `end` is encoded as an object of its own; its `{` is removed to continue the other one.
    json.remove(start);
    Ok(())
}

/// Adds a field, whose value is JSON, to the end of an object that has fields.
pub(super) fn push_field(json: &mut Vec<u8>, name: &str, value: &[u8]) {
    json.pop();
    json.extend(format!(",\"{name}\":").as_bytes());
    json.extend(value);
    json.push(b'}');
}

/// Copies a post that is already JSON, and adds its author's names.
pub(super) fn push_post(
    json: &mut Vec<u8>,
    body: &str,
    names: Option<&UserNames>,
) -> serde_json::Result<()> {
    json.extend(body.as_bytes());
    if let Some(names) = names {
        json.pop();
        json.extend(br#","author_handle":"#);
        serde_json::to_writer(&mut *json, names.handle())?;
        if let Some(name) = names.name() {
            json.extend(br#","author_name":"#);
            serde_json::to_writer(&mut *json, name)?;
        }
        json.push(b'}');
    }
    Ok(())
}

/// The shards whose data comes from memory that may be old.
pub(super) fn stale_shards<'a>(
    stale: &BTreeMap<ShardId, i64>,
    fleet: &'a Fleet,
) -> Vec<StaleShard<'a>> {
    let named = |(shard, as_of): (&ShardId, &i64)| StaleShard {
        shard: fleet.shard_name(*shard),
        as_of: rfc3339_ms(*as_of),
    };
    stale.iter().map(named).collect()
}

impl From<&UserId> for Followee {
    fn from(user: &UserId) -> Self {
        Self { user_id: user.to_string() }
    }
}

fn created_at(post: &Post, times: &PostTimes) -> String {
    rfc3339_ms(times.epoch_ms(post.key.time))
}

/// The configured names of these shards.
pub(super) fn shard_names<'a>(shards: &BTreeSet<ShardId>, fleet: &'a Fleet) -> Vec<&'a str> {
    shards.iter().map(|shard| fleet.shard_name(*shard)).collect()
}
