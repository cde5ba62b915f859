//! A page of a home timeline that shows each post once. The first showing in reading order wins.
//! A post that is skipped does not count as a showing of another one.
//!
//! It is made from plain pages, which are read until there are enough posts. A cursor that
//! continues in the same direction holds the posts that the pages so far have shown, a bounded
//! number of them. A cursor in the other direction holds those of its page.

use std::collections::HashSet;

use super::draft::{Draft, DraftPost, PAGE_JSON_MAX, moved};
use super::{Limit, PageRequest, ReadError, Timeline, View, read};
use crate::cursor::{Cursor, Edge, Seen, SeenHash};
use crate::model::{Direction, PostAddress};

/// The most plain pages that are read for one page.
const READS_MAX: usize = 5;

pub(super) async fn page(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let base = &request.cursor.seen;
    let start = request.cursor.clone().after(Seen::default());
    let plain = PageRequest { collapse_reposts: false, ..request.clone() };
    let first = read(view, timeline, &plain.clone().from(start.clone())).await?;
    let mut filling = Filling::new(base, start, first);
    for _ in 1..READS_MAX {
        filling.fill(request.limit);
        let Some(cursor) = filling.continues() else { break };
        let more = plain.clone().from(cursor.clone()).limit(Limit::LARGEST);
        let more = read(&mut view.renewed(), timeline, &more).await?;
        // The posts of a missing shard must come before these: they are left to the next page.
        if !more.is_complete() {
            break;
        }
        filling.add(cursor, more);
    }
    filling.fill(request.limit);
    Ok(filling.finish(base))
}

/// A page that is being filled.
struct Filling {
    /// The first plain page, without its posts.
    draft: Draft,
    /// The posts of all plain pages, in reading order.
    read: Vec<Reading>,
    /// How many of them the page consumes.
    used: usize,
    /// Those of them that it shows, and their bytes of JSON.
    shown: Vec<usize>,
    bytes: usize,
    /// The posts that this page and those before it show.
    seen: HashSet<SeenHash>,
    /// Where the last plain page starts, and how many posts were read before it.
    last: (Cursor, usize),
    /// Where the posts after those that were read begin, if there are any.
    rest: Option<Cursor>,
    is_full: bool,
}

/// A post that was read.
struct Reading {
    post: DraftPost,
    own: PostAddress,
    /// The post that it shows again.
    original: Option<PostAddress>,
    /// It only shows the original.
    is_plain_repost: bool,
}

impl Reading {
    fn new(post: DraftPost) -> Self {
        let own = PostAddress::of(&post.key());
        let (original, is_plain_repost) = match post.repost() {
            Some((original, is_plain)) => (Some(original), is_plain),
            None => (None, false),
        };
        Self { post, own, original, is_plain_repost }
    }

    /// The posts whose showing makes this one a repeat.
    fn repeats(&self) -> impl Iterator<Item = PostAddress> {
        [self.own].into_iter().chain(self.original.filter(|_| self.is_plain_repost))
    }

    /// The posts that it shows.
    fn shows(&self) -> impl Iterator<Item = PostAddress> {
        [self.own].into_iter().chain(self.original)
    }
}

impl Filling {
    fn new(base: &Seen, start: Cursor, mut first: Draft) -> Self {
        (first.as_of, first.until) = (None, i64::MAX);
        let posts = std::mem::take(&mut first.posts);
        let cursors = (first.next.clone(), first.prev.clone());
        let mut filling = Self {
            draft: first,
            read: Vec::new(),
            used: 0,
            shown: Vec::new(),
            bytes: 0,
            seen: base.hashes().collect(),
            last: (start.clone(), 0),
            rest: None,
            is_full: false,
        };
        filling.take_posts(start, posts, cursors);
        filling
    }

    fn direction(&self) -> Direction {
        self.last.0.direction
    }

    /// Adds another plain page, which has no missing shard.
    fn add(&mut self, from: Cursor, more: Draft) {
        let all = &mut self.draft;
        all.stale.extend(more.stale.iter().map(|(shard, as_of)| (*shard, *as_of)));
        all.names.extend(more.names.iter().map(|(user, names)| (*user, names.clone())));
        all.queried.extend(&more.queried);
        (all.waves, all.reads) = (all.waves + more.waves, all.reads + 1);
        all.authors = all.authors.max(more.authors);
        all.fresh_enough &= more.fresh_enough;
        // The first page was read first, so all of the page has the changes of its token.
        for (identity, at) in more.freshness.positions() {
            all.freshness.widen(*identity, *at);
        }
        self.take_posts(from, more.posts, (more.next, more.prev));
    }

    /// Adds the posts of a plain page, which was read from this cursor and has these two.
    fn take_posts(&mut self, from: Cursor, posts: Vec<DraftPost>, of: (Option<Cursor>, Cursor)) {
        self.last = (from, self.read.len());
        let (is_empty, (next, prev)) = (posts.is_empty(), of);
        let posts = posts.into_iter().map(Reading::new);
        match self.direction() {
            Direction::Older => {
                self.read.extend(posts);
                self.rest = next;
            }
            Direction::Newer => {
                self.read.extend(posts.rev());
                self.draft.prev = prev.clone();
                self.rest = Some(prev).filter(|_| !is_empty);
            }
        }
    }

    /// Consumes posts until the page is full.
    fn fill(&mut self, limit: Limit) {
        while let Some(post) = self.read.get(self.used).filter(|_| !self.is_full) {
            if !post.repeats().any(|address| self.seen.contains(&SeenHash::of(address))) {
                self.seen.extend(post.shows().map(SeenHash::of));
                self.shown.push(self.used);
                self.bytes += post.post.bytes();
            }
            self.used += 1;
            self.is_full = self.shown.len() >= limit.get() || self.bytes >= PAGE_JSON_MAX;
        }
    }

    /// Where to read on, if the page is not full and there may be more posts.
    fn continues(&self) -> Option<Cursor> {
        let may_continue = !self.is_full && self.draft.is_complete();
        self.rest.clone().filter(|_| may_continue)
    }

    fn finish(self, base: &Seen) -> Draft {
        let (mut so_far, mut here) = (base.clone(), Seen::default());
        for address in self.shown.iter().flat_map(|index| self.read[*index].shows()) {
            so_far.add(address);
            here.add(address);
        }
        let onwards = self.onwards().map(|cursor| cursor.after(so_far));
        let (direction, mut draft) = (self.direction(), self.draft);
        let mut read: Vec<Option<DraftPost>> =
            self.read.into_iter().map(|reading| Some(reading.post)).collect();
        draft.posts = self.shown.into_iter().filter_map(|index| read[index].take()).collect();
        match direction {
            Direction::Older => {
                draft.next = onwards;
                draft.prev = draft.prev.after(here);
            }
            Direction::Newer => {
                draft.posts.reverse();
                draft.next = draft.next.map(|next| next.after(here));
                draft.prev = onwards.unwrap_or(draft.prev);
            }
        }
        draft
    }

    /// The cursor after the posts that the page consumes. `None` if there are no more.
    fn onwards(&self) -> Option<Cursor> {
        let (from, before) = &self.last;
        let Some(last) = self.used.checked_sub(1).map(|last| self.read[last].post.key()) else {
            return self.ending();
        };
        if self.used == self.read.len() {
            return self.ending();
        }
        let end = match self.direction() {
            Direction::Older => Edge::below(last),
            Direction::Newer => Edge::above(last),
        };
        debug_assert!(self.used > *before, "each plain page but the last is consumed");
        Some(moved(from, &self.draft.missing, end))
    }

    /// The cursor after all posts that were read.
    fn ending(&self) -> Option<Cursor> {
        match self.direction() {
            Direction::Older => self.rest.clone(),
            Direction::Newer => Some(self.draft.prev.clone()),
        }
    }
}
