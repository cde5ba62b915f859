//! The changes of a home timeline, as they are asked for and returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Limit;
use super::hidden::Blockers;
use crate::freshness::Freshness;
use crate::memory::TailPost;
use crate::model::{Post, PostId, PostKey, ShardId, UserId, UserNames};
use crate::post_json::decode;

/// Names the changes of a home timeline that are asked for. The default asks for the token to
/// begin with.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NewsRequest {
    /// Only changes after this token, which an earlier answer or a page had. Without it, the answer
    /// has no events and the token to begin with.
    pub since: Option<Freshness>,
    /// Upper bound for the number of events.
    pub limit: Limit,
    /// The answer must reflect at least these log positions: the token of a write, for example.
    /// Empty if any state will do.
    pub at_least: Freshness,
}

impl NewsRequest {
    /// Asks for the changes after this token.
    pub fn since(token: Freshness) -> Self {
        Self { since: Some(token), ..Self::default() }
    }

    /// Asks for at most `limit` events.
    #[must_use]
    pub fn limit(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// Requires the log positions of a token that an earlier call returned.
    #[must_use]
    pub fn at_least(self, freshness: Freshness) -> Self {
        Self { at_least: freshness, ..self }
    }
}

/// The changes of a home timeline since a token.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct News {
    /// The changes, in log order for each server. None if there is a gap.
    pub events: Vec<NewsEvent>,
    /// The token to continue from after each event, in the same order.
    pub tokens: Vec<Freshness>,
    /// Changes since the token are not known any more. Read the page again with `freshness`, and
    /// continue from `freshness`.
    pub gap: bool,
    /// More changes are known already: ask again with `freshness` at once.
    pub more: bool,
    /// The token to continue from. Empty without memory.
    pub freshness: Freshness,
    /// Shards whose changes since the token could not be read now. They are not lost: they come
    /// in a later answer.
    pub missing: BTreeSet<ShardId>,
    /// Shards whose server does not answer, with the time that the changes reach, in milliseconds
    /// since 1970 (UTC).
    pub stale: BTreeMap<ShardId, i64>,
    /// The followees whose changes were looked up.
    pub authors: usize,
    /// Whether a database was queried, for the follow list or for names.
    pub queried: bool,
    /// When the next hidden post of a followee becomes visible, in milliseconds since 1970 (UTC):
    /// ask again then, even if no log has changed.
    pub next_due_ms: Option<i64>,
    /// The answer does not reflect all of [`NewsRequest::at_least`].
    pub freshness_lost: bool,
}

/// A change of a home timeline.
#[derive(Clone, Debug)]
pub enum NewsEvent {
    /// The post has become visible: it was stored, or its time has come.
    Post(NewsPost),
    /// A visible post has another text.
    Update(NewsPost),
    /// A post is no longer visible.
    Delete {
        /// The author of the post.
        author: UserId,
        /// The post.
        post: PostId,
    },
    /// The reader follows this user. Earlier posts of the user are on a page with this token.
    Follow {
        /// The new followee.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
    /// The reader does not follow this user any more: the user's posts leave the timeline.
    Unfollow {
        /// The former followee.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
    /// The reader mutes this user: the user's posts leave the timeline.
    Mute {
        /// The muted user.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
    /// The reader does not mute this user any more. Posts of the user are on a page with this
    /// token, if the reader follows the user.
    Unmute {
        /// The user.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
    /// The reader blocks this user: the user's posts leave the timeline.
    Block {
        /// The blocked user.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
    /// The reader does not block this user any more, with the same effect as for a mute.
    Unblock {
        /// The user.
        user: UserId,
        /// The position after this change.
        freshness: Freshness,
    },
}

/// A post as it is now, which may be newer than the change.
#[derive(Clone, Debug)]
pub struct NewsPost {
    pub(super) key: PostKey,
    pub(super) json: Arc<str>,
    pub(super) names: Option<UserNames>,
}

impl NewsEvent {
    /// The author of the event's post. `None` for events that have no text of a post.
    pub(super) fn author(&self) -> Option<UserId> {
        match self {
            Self::Post(post) | Self::Update(post) => Some(post.key.author),
            _ => None,
        }
    }
}

impl NewsPost {
    pub(super) fn new(author: UserId, post: TailPost) -> Self {
        Self { key: post_key(author, &post), json: post.body, names: None }
    }

    /// The post's time, id and author.
    pub fn key(&self) -> PostKey {
        self.key
    }

    /// The post with its text.
    pub fn to_post(&self) -> Post {
        decode(self.key, &self.json)
    }

    /// The JSON of the post, without its author's names.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The author's names, if the shards store names.
    pub fn names(&self) -> Option<&UserNames> {
        self.names.as_ref()
    }
}

impl News {
    /// Whether no shard is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Drops the events of authors that block the reader, with their tokens.
    pub(super) fn drop_posts_of(&mut self, blockers: &Blockers) {
        let is_shown =
            |event: &NewsEvent| event.author().is_none_or(|author| !blockers.contains(author));
        let (events, tokens) = (std::mem::take(&mut self.events), std::mem::take(&mut self.tokens));
        let shown = events.into_iter().zip(tokens).filter(|(event, _)| is_shown(event));
        (self.events, self.tokens) = shown.unzip();
    }

    pub(super) fn with_gap(freshness: Freshness) -> Self {
        Self { gap: true, freshness, ..Self::default() }
    }
}

pub(super) fn post_key(author: UserId, post: &TailPost) -> PostKey {
    let (time, id) = post.key;
    PostKey { time, post: PostId(id), author }
}
