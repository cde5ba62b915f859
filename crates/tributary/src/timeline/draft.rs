//! A page before it is encoded: posts from the databases, and posts from memory that are already
//! encoded.

use std::collections::{BTreeMap, BTreeSet};

use super::warm::FoundPost;
use crate::cursor::Cursor;
use crate::freshness::Freshness;
use crate::memory::Version;
use crate::model::{Post, PostKey, ShardId, UserId};
use crate::post_json::{decode_content, text_bytes};
use crate::timeline::Page;

/// Bytes of the posts of one page as JSON. A page that would be longer ends early. A single post
/// may be longer.
const PAGE_JSON_MAX: usize = 1 << 20;
/// About the bytes of the JSON of a post without its text.
const FIELD_BYTES: usize = 128;

/// A post on a page, by where it was read.
#[derive(Clone, Debug)]
pub enum DraftPost {
    /// From a database.
    FromDatabase(Post),
    /// From memory, as encoded JSON.
    FromMemory(FoundPost),
}

impl DraftPost {
    /// The post's key.
    pub fn key(&self) -> PostKey {
        match self {
            Self::FromDatabase(post) => post.key,
            Self::FromMemory(found) => found.key,
        }
    }

    /// About the number of bytes of its JSON.
    fn bytes(&self) -> usize {
        match self {
            Self::FromDatabase(post) => text_bytes(&post.content) + FIELD_BYTES,
            Self::FromMemory(found) => found.body().len(),
        }
    }

    /// How many of these posts a page may have: at least one, and at most [`PAGE_JSON_MAX`].
    pub(super) fn fitting<'a>(posts: impl Iterator<Item = &'a Self>) -> usize {
        let mut bytes = 0;
        let fits = |(index, post): &(usize, &Self)| {
            bytes += post.bytes();
            *index == 0 || bytes <= PAGE_JSON_MAX
        };
        posts.enumerate().take_while(fits).count()
    }
}

/// A page before encoding; see [`Page`] for the fields that both have.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "`Page` documents them")]
pub struct Draft {
    pub posts: Vec<DraftPost>,
    pub next: Option<Cursor>,
    pub prev: Cursor,
    pub missing: BTreeSet<ShardId>,
    pub stale: BTreeMap<ShardId, i64>,
    pub handles: BTreeMap<UserId, String>,
    pub waves: u32,
    /// The shards that were queried.
    pub queried: BTreeSet<ShardId>,
    pub freshness: Freshness,
    pub fresh_enough: bool,
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

    /// About the number of bytes of the JSON of the posts.
    pub fn bytes(&self) -> usize {
        self.posts.iter().map(DraftPost::bytes).sum()
    }

    /// No shard is missing.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// No shard is missing or stale, and the page is as fresh as requested.
    pub fn is_whole(&self) -> bool {
        self.is_complete() && self.stale.is_empty() && self.fresh_enough
    }

    /// The page, with the texts of posts from memory decoded from their JSON.
    pub fn into_page(self) -> Page {
        let mut handles = self.handles;
        let posts = self.posts.into_iter().map(|entry| match entry {
            DraftPost::FromDatabase(post) => post,
            DraftPost::FromMemory(found) => {
                let handle = found.handle().map(|handle| (found.key.author, handle.to_owned()));
                handles.extend(handle);
                Post { key: found.key, content: decode_content(found.body()) }
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
