//! What a reader asks for and what a page says. Pure data.

use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::Cursor;
use crate::freshness::Freshness;
use crate::model::{Post, ShardId, UserId};

/// How many posts a page may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit(u8);

impl Limit {
    /// Pages are read whole and answered whole; more than this helps nobody who scrolls.
    pub const MAX: u8 = 100;
    /// About two screens.
    pub const DEFAULT: Self = Self(20);

    /// A limit from 1 to [`Limit::MAX`].
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

/// Which page is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// Where to read from: [`Cursor::newest`], or a page's `next` or `prev`.
    pub cursor: Cursor,
    /// How many posts at most.
    pub limit: Limit,
    /// How far the logs must have been read for it: what an earlier answer brought.
    pub at_least: Freshness,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { cursor: Cursor::newest(), limit: Limit::DEFAULT, at_least: Freshness::default() }
    }
}

/// A page of a home or author timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub posts: Vec<Post>,
    /// The posts that follow, strictly older. `None` exactly when there are none; never `None`
    /// while a shard is missing.
    pub next: Option<Cursor>,
    /// The posts nearest above the first one. At the top it leads to an empty page, and to new
    /// posts once there are any.
    pub prev: Cursor,
    /// Shards that could not be asked; their authors' posts are not on this page. They come first
    /// on the next page that can ask them.
    pub missing: BTreeSet<ShardId>,
    /// Shards that could not be asked and whose posts come from memory: as they were then, in
    /// milliseconds since 1970.
    pub stale: BTreeMap<ShardId, i64>,
    /// The names that the authors on the page are known by, where the shards know them.
    pub handles: BTreeMap<UserId, String>,
    /// Rounds of simultaneous shard queries that the page took, the follow list not counted.
    pub waves: u32,
    /// How far the logs had been read for it; empty where no logs are followed.
    pub freshness: Freshness,
    /// Whether it is as fresh as was asked for. It is not when a log could not be read so far in
    /// time, or when its history has ended.
    pub fresh_enough: bool,
}

impl Page {
    /// Nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}
