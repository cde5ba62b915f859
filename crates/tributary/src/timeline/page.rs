//! The request for a page and its result. Pure data.

use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::Cursor;
use crate::freshness::Freshness;
use crate::model::{Post, ShardId, UserId, UserNames};

/// Upper bound for the number of posts on a page, from 1 to [`Limit::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit(u8);

impl Limit {
    /// The largest limit. A page is read and sent as a whole, so a larger one would only be
    /// slower.
    pub const MAX: u8 = 100;
    /// About two screens.
    pub const DEFAULT: Self = Self(20);

    /// [`Limit::MAX`] posts.
    pub(super) const LARGEST: Self = Self(Self::MAX);

    /// A limit from 1 to [`Limit::MAX`]; `None` for any other number.
    pub fn new(posts: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&posts).then_some(Self(posts))
    }

    /// The number of posts.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Names a page of a timeline.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PageRequest {
    /// Where to read from: [`Cursor::newest`], or a page's `next` or `prev`.
    pub cursor: Cursor,
    /// Upper bound for the number of posts.
    pub limit: Limit,
    /// The page must reflect at least these log positions: the token of an earlier answer, or
    /// [`crate::Tributary::freshness`]. Empty if any state will do.
    pub at_least: Freshness,
    /// Whether a home timeline has the reader's own posts.
    pub include_self: bool,
    /// Whether a home timeline shows a post once: see [`PageRequest::collapse_reposts`].
    pub collapse_reposts: bool,
}

impl PageRequest {
    /// Starts from `cursor`: a page's `next` or `prev`.
    #[must_use]
    pub fn from(self, cursor: Cursor) -> Self {
        Self { cursor, ..self }
    }

    /// Asks for at most `limit` posts.
    #[must_use]
    pub fn limit(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// Includes the reader's own posts in a home timeline.
    #[must_use]
    pub fn include_self(self) -> Self {
        Self { include_self: true, ..self }
    }

    /// Shows each post of a home timeline once: a post that this page or the pages before it have
    /// shown, as itself or as a repost, is skipped. The first showing in reading order wins. A
    /// repost with a text of its own counts as another post. The cursors of a page hold the last
    /// 256 posts that were shown; older ones may be shown again. A page reads up to five plain
    /// pages. If they have too few other posts, the page is shorter than its limit, and has a
    /// `next` nevertheless.
    #[must_use]
    pub fn collapse_reposts(self) -> Self {
        Self { collapse_reposts: true, ..self }
    }

    /// Requires the log positions of a token that an earlier call returned.
    #[must_use]
    pub fn at_least(self, freshness: Freshness) -> Self {
        Self { at_least: freshness, ..self }
    }
}

/// The newest page, 20 posts, no required freshness.
impl Default for PageRequest {
    fn default() -> Self {
        Self {
            cursor: Cursor::newest(),
            limit: Limit::DEFAULT,
            at_least: Freshness::default(),
            include_self: false,
            collapse_reposts: false,
        }
    }
}

/// A page of a home or author timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The posts, newest first; at most the requested limit. A page with more than 1 MiB of JSON
    /// ends early.
    pub posts: Vec<Post>,
    /// The cursor to strictly older posts. `None` if and only if there are none and no shard is
    /// missing.
    pub next: Option<Cursor>,
    /// The cursor to the nearest newer posts, for scrolling. From the newest page it leads to an
    /// empty page. A post that becomes visible later with an older time is below this cursor: use
    /// [`crate::Tributary::news`] to learn what is new.
    pub prev: Cursor,
    /// Shards that did not answer and whose posts are not on this page. They come first on the
    /// next page that can read these shards.
    pub missing: BTreeSet<ShardId>,
    /// Shards that did not answer and whose posts come from memory, with the time that memory
    /// reflects, in milliseconds since 1970 (UTC).
    pub stale: BTreeMap<ShardId, i64>,
    /// The handles and display names of the authors on the page, if the shards store them.
    pub names: BTreeMap<UserId, UserNames>,
    /// Waves of simultaneous shard queries that the page took, not counting those of the follow
    /// list and of blocks.
    pub waves: u32,
    /// The log positions that the page reflects; empty if no logs are followed.
    pub freshness: Freshness,
    /// Whether the page reflects all of `at_least`. False if a log could not be read that far in
    /// time, or if no followed log has the identity that the token names.
    pub fresh_enough: bool,
}

impl Page {
    /// Whether no shard is missing. Stale shards do not make a page incomplete.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}
