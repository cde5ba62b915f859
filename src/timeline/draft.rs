//! A page before it is encoded: posts from the databases, and posts from memory that are already
//! encoded.

use std::collections::{BTreeMap, BTreeSet};

use super::warm::FoundPost;
use crate::cursor::Cursor;
use crate::freshness::Freshness;
use crate::memory::Version;
use crate::model::{Post, PostKey, ShardId, UserId};
use crate::timeline::Page;

/// A post on a page, by where it was read.
#[derive(Clone, Debug)]
pub(crate) enum DraftPost {
    /// From a database.
    FromDatabase(Post),
    /// From memory, as encoded JSON.
    FromMemory(FoundPost),
}

impl DraftPost {
    /// The post's key.
    pub(crate) fn key(&self) -> PostKey {
        match self {
            Self::FromDatabase(post) => post.key,
            Self::FromMemory(found) => found.key,
        }
    }
}

/// A page before encoding; see [`Page`] for the fields that both have.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) posts: Vec<DraftPost>,
    pub(crate) next: Option<Cursor>,
    pub(crate) prev: Cursor,
    pub(crate) missing: BTreeSet<ShardId>,
    pub(crate) stale: BTreeMap<ShardId, i64>,
    pub(crate) handles: BTreeMap<UserId, String>,
    pub(crate) waves: u32,
    /// The shards that were queried.
    pub(crate) queried: BTreeSet<ShardId>,
    pub(crate) freshness: Freshness,
    pub(crate) fresh_enough: bool,
    /// Memory's version, if the whole page comes from fresh memory: the page may then be cached.
    pub(crate) as_of: Option<Version>,
}

impl Draft {
    pub(super) fn new(
        posts: Vec<DraftPost>,
        next: Option<Cursor>,
        prev: Cursor,
        missing: BTreeSet<ShardId>,
    ) -> Self {
        Self {
            posts,
            next,
            prev,
            missing,
            stale: BTreeMap::new(),
            handles: BTreeMap::new(),
            waves: 0,
            queried: BTreeSet::new(),
            freshness: Freshness::default(),
            fresh_enough: true,
            as_of: None,
        }
    }

    /// No shard is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// No shard is missing or stale, and the page is as fresh as requested.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_complete() && self.stale.is_empty() && self.fresh_enough
    }

    /// Decodes the page; `content` extracts the text from the encoded post of memory.
    pub(crate) fn into_page(self, content: impl Fn(&str) -> String) -> Page {
        let mut handles = self.handles;
        let posts = self.posts.into_iter().map(|entry| match entry {
            DraftPost::FromDatabase(post) => post,
            DraftPost::FromMemory(found) => {
                let handle = found.handle().map(|handle| (found.key.author, handle.to_owned()));
                handles.extend(handle);
                Post { key: found.key, content: content(found.body()) }
            }
        });
        Page {
            posts: posts.collect(),
            next: self.next,
            prev: self.prev,
            missing: self.missing,
            stale: self.stale,
            handles,
            waves: self.waves,
            freshness: self.freshness,
            fresh_enough: self.fresh_enough,
        }
    }
}
