//! A page before it is encoded: posts from the databases, and posts from memory that are already
//! encoded.

use std::collections::{BTreeMap, BTreeSet};

use super::warm::FoundPost;
use crate::cursor::{Cursor, Edge, Seen};
use crate::freshness::Freshness;
use crate::memory::Version;
use crate::model::{Direction, Post, PostAddress, PostKey, ShardId, UserId, UserNames};
use crate::post_json::{decode, may_be_repost, text_bytes};
use crate::timeline::Page;

/// Bytes of the posts of one page as JSON. A page that would be longer ends early. A single post
/// may be longer.
pub(super) const PAGE_JSON_MAX: usize = 1 << 20;
/// About the bytes of the JSON of a post without its text.
const FIELD_BYTES: usize = 128;
/// About the bytes of the fields of names in the JSON of a post, without their texts.
const NAMES_BYTES: usize = 48;

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
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::FromDatabase(post) => text_bytes(&post.content) + FIELD_BYTES,
            Self::FromMemory(found) => {
                let names = found.names().map_or(0, |names| names.bytes() + NAMES_BYTES);
                found.body().len() + names + 1
            }
        }
    }

    /// The post that it shows again, and whether it has no text of its own.
    pub(super) fn repost(&self) -> Option<(PostAddress, bool)> {
        let of = |post: &Post| Some((post.references.repost_of?, post.content.is_empty()));
        match self {
            Self::FromDatabase(post) => of(post),
            Self::FromMemory(found) if may_be_repost(found.body()) => {
                of(&decode(found.key, found.body()))
            }
            Self::FromMemory(_) => None,
        }
    }

    /// How many of these posts fit into `max` bytes, but at least one.
    fn fitting<'a>(posts: impl Iterator<Item = &'a Self>, max: usize) -> usize {
        let mut bytes = 0;
        let fits = |(index, post): &(usize, &Self)| {
            bytes += post.bytes();
            *index == 0 || bytes <= max
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
    pub names: BTreeMap<UserId, UserNames>,
    pub waves: u32,
    /// The plain pages that were read for it: more than one if reposts are collapsed.
    pub reads: usize,
    /// The shards that were queried.
    pub queried: BTreeSet<ShardId>,
    /// The authors whose posts can be on the page.
    pub authors: usize,
    /// Those of them that no database has answered for.
    pub missing_authors: usize,
    pub freshness: Freshness,
    pub fresh_enough: bool,
    /// Memory's version, if the whole page comes from fresh memory: the page may then be cached.
    pub(crate) as_of: Option<Version>,
    /// The page changes when the horizon reaches this time: a hidden post may then be on it.
    pub(crate) until: i64,
}

/// The newest and the oldest key that a page covers; `None` if it is empty. Posts with these keys
/// may have been deleted since their keys were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends(Option<(PostKey, PostKey)>);

impl Ends {
    /// The ends of these keys, newest first.
    pub(super) fn of(keys: &[PostKey]) -> Self {
        Self(keys.first().copied().zip(keys.last().copied()))
    }

    /// The ends of these posts, newest first.
    pub(super) fn of_posts(posts: &[DraftPost]) -> Self {
        let (first, last) = (posts.first().map(DraftPost::key), posts.last().map(DraftPost::key));
        Self(first.zip(last))
    }

    /// The edge above the page; that of the cursor if the page is empty.
    fn top(self, cursor: &Cursor) -> Edge {
        self.0.map_or(cursor.edge, |(first, _)| Edge::above(first))
    }

    /// The edge below the page; that of the cursor if the page is empty.
    pub(super) fn bottom(self, cursor: &Cursor) -> Edge {
        self.0.map_or(cursor.edge, |(_, last)| Edge::below(last))
    }

    /// The cursor towards newer posts after an empty page that was read towards older ones.
    pub(super) fn prev_of_empty(cursor: &Cursor, complete: bool) -> Cursor {
        match cursor.edge {
            // The timeline is empty, so every later post is newer.
            Edge::Top if complete => Cursor::newer(Edge::Bottom),
            // The timeline may have posts that a missing shard did not return; start at the newest
            // page.
            Edge::Top => Cursor::newest(),
            edge => Cursor::newer(edge),
        }
    }
}

/// The cursor after a page in the direction of `from`; the page reached `end`. Shards that answered
/// continue at `end`; missing shards keep the edge where they started.
pub(super) fn moved(from: &Cursor, missing: &BTreeSet<ShardId>, end: Edge) -> Cursor {
    let further = |edge: Edge| match from.direction {
        Direction::Older => edge.min(end),
        Direction::Newer => edge.max(end),
    };
    let edge = further(from.edge);
    let mut shard_edges: BTreeMap<ShardId, Edge> =
        from.shard_edges.iter().map(|(shard, edge)| (*shard, further(*edge))).collect();
    shard_edges.extend(missing.iter().map(|shard| (*shard, from.edge_on(*shard))));
    shard_edges.retain(|_, shard_edge| *shard_edge != edge);
    let moved = Cursor { direction: from.direction, edge, shard_edges, seen: Seen::default() };
    debug_assert!(!from.is_ordered() || moved.is_ordered(), "{moved:?} skips posts");
    moved
}

impl Draft {
    /// A page towards older posts; `more` if others follow. It ends early if it has too many bytes.
    pub(super) fn older(
        cursor: &Cursor,
        (mut posts, mut ends): (Vec<DraftPost>, Ends),
        mut more: bool,
        missing: BTreeSet<ShardId>,
    ) -> Self {
        let fitting = DraftPost::fitting(posts.iter(), PAGE_JSON_MAX);
        if fitting < posts.len() {
            more = true;
            posts.truncate(fitting);
            ends = Ends::of_posts(&posts);
        }
        let next =
            (more || !missing.is_empty()).then(|| moved(cursor, &missing, ends.bottom(cursor)));
        let prev = match ends.0 {
            Some(_) => Cursor::newer(ends.top(cursor)),
            None => Ends::prev_of_empty(cursor, missing.is_empty()),
        };
        Self::new(cursor, posts, next, prev, missing)
    }

    /// A page towards newer posts; `older` if there are others below it. If it has too many bytes,
    /// the posts nearest to the cursor stay, and `prev` continues above them.
    pub(super) fn newer(
        cursor: &Cursor,
        (mut posts, mut ends): (Vec<DraftPost>, Ends),
        older: bool,
        missing: BTreeSet<ShardId>,
    ) -> Self {
        let bottom = ends.bottom(cursor);
        let fitting = DraftPost::fitting(posts.iter().rev(), PAGE_JSON_MAX);
        if fitting < posts.len() {
            posts.drain(..posts.len() - fitting);
            ends = Ends::of_posts(&posts);
        }
        let top = ends.top(cursor);
        let next = (older || !missing.is_empty()).then(|| Cursor {
            direction: Direction::Older,
            edge: bottom,
            // On a missing shard the next page starts above this one, where unread posts may be.
            shard_edges: missing.iter().map(|shard| (*shard, top)).collect(),
            seen: Seen::default(),
        });
        let prev = moved(cursor, &missing, top);
        Self::new(cursor, posts, next, prev, missing)
    }

    /// One page of this one and of `lower`, which was read below the same edge: from the cursor
    /// `from`. If it has too many bytes, the posts nearest to the edge stay, at least one of each
    /// page.
    pub(super) fn above(mut self, mut lower: Self, from: &Cursor) -> Self {
        let half = DraftPost::fitting(self.posts.iter().rev(), PAGE_JSON_MAX / 2);
        if half < self.posts.len() {
            self.posts.drain(..self.posts.len() - half);
            let from = Cursor::newer(from.edge);
            self.prev = moved(&from, &self.missing, Ends::of_posts(&self.posts).top(&from));
        }
        let rest = PAGE_JSON_MAX.saturating_sub(self.bytes());
        let kept = DraftPost::fitting(lower.posts.iter(), rest);
        let more = kept < lower.posts.len();
        lower.posts.truncate(kept);
        let end = Ends::of_posts(&lower.posts).bottom(from);
        // While a shard is missing, there is a next page.
        if more || (lower.next.is_none() && !self.missing.is_empty()) {
            lower.next = Some(moved(from, &lower.missing, end));
        }
        // Read first, so all of the page has the changes that its token says are seen.
        let mut freshness = lower.freshness;
        for (identity, at) in self.freshness.positions() {
            freshness.widen(*identity, *at);
        }
        Self {
            posts: self.posts.into_iter().chain(lower.posts).collect(),
            next: lower.next,
            prev: self.prev,
            missing: self.missing.into_iter().chain(lower.missing).collect(),
            stale: self.stale.into_iter().chain(lower.stale).collect(),
            names: self.names.into_iter().chain(lower.names).collect(),
            waves: self.waves + lower.waves,
            reads: self.reads + lower.reads,
            queried: self.queried.into_iter().chain(lower.queried).collect(),
            authors: self.authors.max(lower.authors),
            missing_authors: self.missing_authors.max(lower.missing_authors),
            freshness,
            fresh_enough: self.fresh_enough && lower.fresh_enough,
            as_of: None,
            until: i64::MAX,
        }
    }

    /// The page of `cursor`; see [`Page`] for the parts.
    pub(super) fn new(
        cursor: &Cursor,
        posts: Vec<DraftPost>,
        next: Option<Cursor>,
        prev: Cursor,
        missing: BTreeSet<ShardId>,
    ) -> Self {
        debug_assert!(
            posts.is_sorted_by(|a, b| a.key() > b.key()),
            "posts are in order and each is on the page once"
        );
        let is_beyond_cursor = |post: &DraftPost| match cursor.direction {
            Direction::Older => Edge::below(post.key()) < cursor.edge,
            Direction::Newer => Edge::above(post.key()) > cursor.edge,
        };
        debug_assert!(
            !cursor.shard_edges.is_empty() || posts.iter().all(is_beyond_cursor),
            "no post is on the page before"
        );
        debug_assert!(missing.is_empty() || next.is_some(), "a missing shard is read later");
        debug_assert!(
            cursor.direction == Direction::Newer
                || next.as_ref().is_none_or(|next| next.edge <= cursor.edge),
            "pages towards older posts only go down"
        );
        Self {
            posts,
            next,
            prev,
            missing,
            stale: BTreeMap::new(),
            names: BTreeMap::new(),
            waves: 0,
            reads: 1,
            queried: BTreeSet::new(),
            authors: 0,
            missing_authors: 0,
            freshness: Freshness::default(),
            fresh_enough: true,
            as_of: None,
            until: i64::MAX,
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
        let mut names = self.names;
        let posts = self.posts.into_iter().map(|entry| match entry {
            DraftPost::FromDatabase(post) => post,
            DraftPost::FromMemory(found) => {
                names.extend(found.names().map(|names| (found.key.author, names.clone())));
                decode(found.key, found.body())
            }
        });
        Page {
            posts: posts.collect(),
            next: self.next,
            prev: self.prev,
            missing: self.missing,
            stale: self.stale,
            names,
            waves: self.waves,
            freshness: self.freshness,
            fresh_enough: self.fresh_enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PostId;

    /// A page of posts of this many bytes each, the newest first.
    fn page(cursor: &Cursor, times: impl Iterator<Item = i64>, bytes: usize) -> Draft {
        let posts = times.map(|time| {
            let key = PostKey { time, post: PostId(1), author: UserId(1) };
            DraftPost::FromDatabase(Post::new(key, "x".repeat(bytes)))
        });
        let posts: Vec<DraftPost> = posts.collect();
        let (ends, missing) = (Ends::of_posts(&posts), BTreeSet::new());
        match cursor.direction {
            Direction::Older => Draft::older(cursor, (posts, ends), false, missing),
            Direction::Newer => Draft::newer(cursor, (posts, ends), true, missing),
        }
    }

    #[test]
    fn a_page_around_a_post_keeps_the_post_and_those_nearest_to_it() {
        let edge = Edge::above(PostKey { time: 100, post: PostId(1), author: UserId(1) });
        let (from, upwards) = (Cursor::older(edge), Cursor::newer(edge));
        // (bytes of a post above and below, times of the newest and the oldest post)
        for (above, below, newest, oldest) in [
            (1_000, 1_000, 110, 91),
            (100_000, 100_000, 105, 96),
            (1_000, 400_000, 110, 99),
            (900_000, 10, 101, 91),
            (2_000_000, 2_000_000, 101, 100),
        ] {
            let upper = page(&upwards, (101..=110).rev(), above);
            let around = upper.above(page(&from, (91..=100).rev(), below), &from);
            let times: Vec<i64> = around.posts.iter().map(|post| post.key().time).collect();
            assert!(times.iter().copied().eq((oldest..=newest).rev()), "{times:?}");
            let key = |time| PostKey { time, post: PostId(1), author: UserId(1) };
            assert_eq!(around.prev, Cursor::newer(Edge::above(key(newest))));
            let next = (oldest > 91).then(|| Cursor::older(Edge::below(key(oldest))));
            assert_eq!(around.next, next);
        }
    }
}
