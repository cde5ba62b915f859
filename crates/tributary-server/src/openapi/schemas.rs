//! Parameters and JSON of the interface, for its description only. Answers that copy stored JSON
//! have no type of their own in the code; a test compares them with these.

#![expect(dead_code, reason = "these types describe the interface and hold no values")]

use utoipa::{IntoParams, ToSchema};

use crate::explain::Explained;
use crate::wire::StaleShard;

/// A user or a post: a decimal number from 0 to 2^63-1, as a string.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9]+$", example = "42")]
pub(crate) struct Id(String);

/// A place in a list, opaque and URL-safe. It is sealed for its list and its reader.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 4096)]
pub(crate) struct Cursor(String);

/// A position in the log of each server, opaque and URL-safe.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 8000)]
pub(crate) struct Token(String);

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfUser {
    /// The user that the request is about.
    user_id: Id,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfPost {
    /// The author of the post.
    user_id: Id,
    /// The post; its id is unique for its author only.
    post_id: Id,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfFollow {
    /// The user that follows.
    user_id: Id,
    /// The user that is followed.
    followee_id: Id,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfMute {
    /// The user that mutes.
    user_id: Id,
    /// The user that is muted.
    muted_id: Id,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfBlock {
    /// The user that blocks.
    user_id: Id,
    /// The user that is blocked.
    blocked_id: Id,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OtherUsers {
    /// 1 to 100 user ids with commas in between.
    #[param(pattern = "^[0-9]+(,[0-9]+){0,99}$")]
    users: String,
    /// Answer 503 `incomplete` instead of an incomplete answer.
    #[param(inline)]
    require: Option<Require>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct HandleQuery {
    /// The beginning of a handle, 1 to 64 characters, none of them a control character.
    #[param(min_length = 1, max_length = 64)]
    handle: String,
    /// Answer 503 `incomplete` instead of an incomplete answer.
    #[param(inline)]
    require: Option<Require>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PostsQuery {
    /// 1 to 100 addresses of posts, `author:post`, with commas in between.
    #[param(pattern = "^[0-9]+:[0-9]+(,[0-9]+:[0-9]+){0,99}$")]
    posts: String,
    /// Answer 503 `incomplete` instead of an incomplete answer.
    #[param(inline)]
    require: Option<Require>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RequireQuery {
    /// Answer 503 `incomplete` instead of an incomplete answer.
    #[param(inline)]
    require: Option<Require>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OwnPosts {
    /// With `1`, the page has the posts of its reader, too.
    #[param(inline)]
    include_self: Option<One>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct RepostsQuery {
    /// With `collapse`, a post that the pages so far have shown, as itself or as a repost, is not
    /// shown again. Excludes `around` and `explain`.
    #[param(inline)]
    reposts: Option<Reposts>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Reposts {
    Collapse,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AroundQuery {
    /// The page around this post, `author:post`. Excludes `cursor` and `explain`.
    #[param(pattern = "^[0-9]+:[0-9]+$")]
    around: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Entries on the page; 20 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u8>,
    /// `next` or `prev` of an earlier page; the first page if absent.
    cursor: Option<Cursor>,
    /// Answer 503 `incomplete` instead of an incomplete, stale or lagging page.
    #[param(inline)]
    require: Option<Require>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Require {
    Complete,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplainQuery {
    /// Add how the page was read; a key needs the scope `explain`.
    #[param(inline)]
    explain: Option<One>,
    /// Read the page from the databases alone; needs `explain`.
    #[param(inline)]
    memory: Option<MemoryOff>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum MemoryOff {
    Off,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct AtLeast {
    /// The token of an earlier answer. The page includes everything up to it.
    #[param(rename = "Tributary-Freshness")]
    token: Option<Token>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct OnceKey {
    /// Chosen by the client for one post. A repeat gets the first answer again.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    key: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct NewsQuery {
    /// The token of an earlier answer, or of a page. Without it, the answer is the token to begin
    /// with.
    since: Option<Token>,
    /// Events in the answer; 20 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u8>,
    /// Answer only the number of new posts; needs `since`.
    #[param(inline)]
    count: Option<One>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LiveQuery {
    /// The token of an earlier answer, or of a page. Without it, the stream begins now.
    since: Option<Token>,
}

/// Switches something on.
#[derive(ToSchema)]
pub(crate) enum One {
    #[schema(rename = "1")]
    One,
}

/// A post that another one refers to. It may not exist.
#[derive(ToSchema)]
pub(crate) struct PostReference {
    author_id: Id,
    post_id: Id,
}

/// A post.
#[derive(ToSchema)]
pub(crate) struct Post {
    post_id: Id,
    author_id: Id,
    content: String,
    /// UTC with milliseconds.
    #[schema(format = "date-time")]
    created_at: String,
    /// Present if the text was edited: the time of the last edit, in UTC with milliseconds.
    #[schema(format = "date-time", nullable = false)]
    edited_at: Option<String>,
    /// Present if the post is a reply.
    #[schema(nullable = false)]
    reply_to: Option<PostReference>,
    /// Present if the post shows another one again.
    #[schema(nullable = false)]
    repost_of: Option<PostReference>,
    /// Present if the configuration names a table of users and the author is in it.
    #[schema(nullable = false)]
    author_handle: Option<String>,
    /// Present if the table of users has a display name of the author.
    #[schema(nullable = false)]
    author_name: Option<String>,
}

/// A page of a timeline.
#[derive(ToSchema)]
pub(crate) struct TimelinePage {
    /// Newest first.
    posts: Vec<Post>,
    /// Leads to older posts; `null` if there are none.
    #[schema(required = true)]
    next: Option<Cursor>,
    /// Leads to the posts nearest above the first one.
    prev: Cursor,
    /// Whether all shards have answered.
    complete: bool,
    missing_shards: Vec<String>,
    stale_shards: Vec<StaleShard<'static>>,
    /// Only of a home timeline with `explain=1`.
    #[schema(nullable = false)]
    explain: Option<Explained<'static>>,
}

/// The changes in a home timeline since a token.
#[derive(ToSchema)]
pub(crate) struct News {
    events: Vec<NewsEvent>,
    /// Whether there are more events: ask again at once.
    more: bool,
    /// Whether changes since the token are not known any more: read the page again.
    gap: bool,
    /// The position after these events; `null` without memory.
    #[schema(required = true)]
    token: Option<Token>,
    complete: bool,
    missing_shards: Vec<String>,
    stale_shards: Vec<StaleShard<'static>>,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
enum NewsEvent {
    Post { post: Post },
    Update { post: Post },
    Delete { author_id: Id, post_id: Id },
    Follow { user_id: Id, token: Token },
    Unfollow { user_id: Id, token: Token },
    Mute { user_id: Id, token: Token },
    Unmute { user_id: Id, token: Token },
    Block { user_id: Id, token: Token },
    Unblock { user_id: Id, token: Token },
}

/// The number of posts that became visible since a token, with `count=1`.
#[derive(ToSchema)]
pub(crate) struct NewsCount {
    posts: u32,
    gap: bool,
    complete: bool,
    missing_shards: Vec<String>,
    stale_shards: Vec<StaleShard<'static>>,
}

/// The answer about news: the events, or only their number.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum NewsAnswer {
    Events(News),
    Count(NewsCount),
}
