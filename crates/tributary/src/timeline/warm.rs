//! A page from memory: the posts that memory has, and the authors whose other posts must be
//! queried. It knows no database.
//!
//! The heads of all authors are in one array, and a page starts by reading the head of each
//! author. It then reads tails in order of their heads, newest first, until no remaining author
//! can have a post on the page.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use super::PageRequest;
use super::merge::Unread;
use crate::cursor::{AuthorEdge, Cursor, Edge};
use crate::memory::{Memory, Miss, NO_POSTS, Slot, Tail};
use crate::model::{Direction, PostId, PostKey, UserId, UserNames};

/// Bytes that the processor loads at a time.
const CACHE_LINE: usize = 64;

/// A post in memory.
#[derive(Clone, Debug)]
pub struct FoundPost {
    /// The post's key.
    pub key: PostKey,
    tail: Arc<Tail>,
    row: u32,
}

impl FoundPost {
    /// The encoded post, without its author's names.
    pub fn body(&self) -> &str {
        &self.tail.posts()[self.row as usize].body
    }

    /// Loads the body of the post into the processor's cache, without waiting for it.
    pub(super) fn prefetch(&self) {
        let lines = self.body().as_bytes().chunks(CACHE_LINE);
        black_box(lines.fold(0, |sum: u8, line| sum.wrapping_add(line.first().map_or(0, |b| *b))));
    }

    /// The author's names, if the shards store names.
    pub fn names(&self) -> Option<&UserNames> {
        self.tail.names()
    }
}

/// The part of a page that memory has.
#[derive(Debug)]
pub(super) struct MemoryPosts {
    /// In reading order; posts of incomplete authors may belong between them.
    pub(super) posts: Vec<FoundPost>,
    /// Authors that may have more posts on the page.
    pub(super) incomplete: Vec<Unread>,
    /// The fill requests for the tails of these authors.
    pub(super) misses: Vec<Miss>,
    /// The number of tails that were looked at.
    pub(super) tails: usize,
    /// The time of the first post above the edge of a page towards older posts. `i64::MAX` if there
    /// is none.
    pub(super) above: i64,
}

impl Default for MemoryPosts {
    fn default() -> Self {
        let (posts, incomplete, misses) = (Vec::new(), Vec::new(), Vec::new());
        Self { posts, incomplete, misses, tails: 0, above: i64::MAX }
    }
}

/// Start and length of a page, and its reader.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) edge: Edge,
    /// Number of posts that are needed: those of the page and one more.
    pub(super) need: usize,
    /// The page starts at the horizon, or with all posts.
    pub(super) is_newest: bool,
    /// Posts of authors that block this reader are skipped.
    pub(super) reader: Option<UserId>,
}

impl Span {
    /// The page of this request, whose cursor may have been lowered to the horizon.
    pub(super) fn of(request: &PageRequest, lowered: &Cursor, reader: Option<UserId>) -> Self {
        let is_newest = lowered.edge == Edge::Top || lowered.edge != request.cursor.edge;
        Self { edge: lowered.edge, need: request.limit.get() + 1, is_newest, reader }
    }
}

thread_local! {
    /// Authors that may be on the page, with the bounds they are sorted by. Reused from page to
    /// page, so that a page does not allocate for each followee.
    pub(super) static CANDIDATES: RefCell<Vec<(i64, Slot)>> = const { RefCell::new(Vec::new()) };
}

/// The newest posts of these authors that are older than the edge.
pub(super) fn older(memory: &Memory, authors: &[Slot], span: Span) -> MemoryPosts {
    let top = match span.edge {
        Edge::Bottom => return MemoryPosts::default(),
        Edge::Top => i64::MAX,
        Edge::Beside { key, .. } => key.time,
    };
    CANDIDATES.with_borrow_mut(|candidates| {
        candidates.clear();
        for &slot in authors {
            let head = memory.head(slot);
            if head != NO_POSTS {
                candidates.push((head.min(top), slot));
            }
        }
        MemoryPage::new(memory, span, Direction::Older).add_newest(candidates)
    })
}

/// The posts of these authors that are newer than the edge, starting with the nearest.
pub(super) fn newer(memory: &Memory, authors: &[Slot], span: Span) -> MemoryPosts {
    let bottom = match span.edge {
        Edge::Top => return MemoryPosts::default(),
        Edge::Bottom => i64::MIN,
        Edge::Beside { key, .. } => key.time,
    };
    let mut page = MemoryPage::new(memory, span, Direction::Newer);
    for &slot in authors {
        let head = memory.head(slot);
        if head != NO_POSTS && head >= bottom {
            page.add_newer(slot);
        }
    }
    page.into_posts()
}

/// Whether any author has a post older than the edge. If memory cannot say, the authors to query.
pub(super) enum Older {
    Some,
    None,
    Unknown(Vec<UserId>),
}

/// Looks for a post of these authors that is older than the edge and not hidden from the reader.
/// O(authors).
pub(super) fn any_older(
    memory: &Memory,
    authors: &[Slot],
    (edge, reader): (Edge, Option<UserId>),
) -> Older {
    let tick = memory.tick();
    let mut unknown = Vec::new();
    for &slot in authors {
        if memory.head(slot) == NO_POSTS {
            continue;
        }
        let author = memory.user(slot);
        let Some(tail) = memory.tail(slot, tick) else {
            unknown.push(author);
            continue;
        };
        if tail.is_hidden_from(reader) {
            continue;
        }
        let first = first_under(&tail, edge.for_author(author));
        if first < tail.posts().len() {
            return Older::Some;
        }
        if tail.floor().is_some() {
            unknown.push(author);
        }
    }
    if unknown.is_empty() { Older::None } else { Older::Unknown(unknown) }
}

/// The index of the newest post in the tail that is older than the edge.
fn first_under(tail: &Tail, edge: AuthorEdge) -> usize {
    match edge {
        AuthorEdge::Top => 0,
        AuthorEdge::At { time, post } => tail.first_under((time, post)),
        AuthorEdge::Bottom => tail.posts().len(),
    }
}

/// The index of a row or a tail on one page, in 32 bits.
fn index(number: usize) -> u32 {
    u32::try_from(number).expect("a page looks at fewer rows than there are users")
}

/// Whether the tail has all the author's posts that are newer than the edge.
pub(super) fn answers_above(tail: &Tail, edge: AuthorEdge) -> bool {
    let Some(floor) = tail.floor() else { return true };
    match edge {
        AuthorEdge::Top => true,
        AuthorEdge::At { time, post } => floor <= (time, post),
        AuthorEdge::Bottom => false,
    }
}

/// The depth to request for a tail that was too shallow: four times its depth now.
pub(super) fn deeper_than(tail: &Tail) -> u32 {
    u32::try_from(tail.depth() * 4).unwrap_or(u32::MAX)
}

/// A page while it is being made: the best posts so far, in reading order.
pub(super) struct MemoryPage<'a> {
    memory: &'a Memory,
    span: Span,
    direction: Direction,
    tick: u32,
    best: Vec<Best>,
    /// Tails that these posts come from.
    tails: Vec<Arc<Tail>>,
    /// Authors with posts that memory does not have, which matter if the page reaches their bound.
    open: Vec<Open>,
    /// The number of tails that were looked at.
    pub(super) looked_at: usize,
    /// See [`MemoryPosts::above`].
    above: i64,
}

/// A post that is among the best so far.
struct Best {
    key: PostKey,
    /// Indexes of its tail in `tails` and of its row there. The text is not read before the page
    /// is complete, since each text is a cache miss.
    tail: u32,
    row: u32,
}

struct Open {
    slot: Slot,
    /// Every post of the author that memory does not have comes after this key in reading order.
    bound: PostKey,
    from: AuthorEdge,
    depth: u32,
}

impl<'a> MemoryPage<'a> {
    pub(super) fn new(memory: &'a Memory, span: Span, direction: Direction) -> Self {
        let (best, tails) = (Vec::with_capacity(span.need + 1), Vec::with_capacity(span.need));
        let (tick, open, looked_at, above) = (memory.tick(), Vec::new(), 0, i64::MAX);
        Self { memory, span, direction, tick, best, tails, open, looked_at, above }
    }

    /// Adds authors, newest bound first. Sorts only the next batch, which grows by a factor of
    /// four.
    pub(super) fn add_newest(mut self, candidates: &mut [(i64, Slot)]) -> MemoryPosts {
        let mut rest = candidates;
        let mut count = self.span.need;
        while !rest.is_empty() {
            let newest_first = |a: &(i64, Slot), b: &(i64, Slot)| b.cmp(a);
            let (batch, others) = if count < rest.len() {
                rest.select_nth_unstable_by(count, newest_first);
                rest.split_at_mut(count)
            } else {
                rest.split_at_mut(rest.len())
            };
            batch.sort_unstable_by(newest_first);
            // All tails of the batch are loaded before the first is read: each is a cache miss.
            let slots: Vec<Slot> = batch.iter().map(|(_, slot)| *slot).collect();
            let tails = self.memory.tails(&slots, self.tick);
            self.looked_at += slots.len();
            for (&mut (time, slot), tail) in batch.iter_mut().zip(tails) {
                let author = self.memory.user(slot);
                if self.is_full() && self.worst().is_some_and(|worst| time < worst.time) {
                    return self.into_posts();
                }
                self.add_older(slot, author, (time, tail));
            }
            rest = others;
            count *= 4;
        }
        self.into_posts()
    }

    /// Memory has no tail of the author, only an upper bound for the times of its posts.
    fn note_unknown(&mut self, slot: Slot, author: UserId, time: i64) {
        let bound = PostKey { time, post: PostId(u64::MAX), author };
        let from = self.span.edge.for_author(author);
        self.open.push(Open { slot, bound, from, depth: 0 });
    }

    /// Adds the author's posts below the edge, none of which is newer than `time`.
    pub(super) fn add_older(
        &mut self,
        slot: Slot,
        author: UserId,
        (time, tail): (i64, Option<Arc<Tail>>),
    ) {
        let Some(tail) = tail else { return self.note_unknown(slot, author, time) };
        if tail.is_hidden_from(self.span.reader) {
            return;
        }
        let edge = self.span.edge.for_author(author);
        let rows = first_under(&tail, edge)..tail.posts().len();
        let above = rows.start.checked_sub(1).and_then(|row| tail.posts().get(row));
        self.above = above.map_or(self.above, |post| self.above.min(post.key.0));
        if !self.add_rows(author, &tail, rows) {
            return;
        }
        // The author may have more posts below the floor.
        if let Some((time, post)) = tail.floor() {
            let bound = PostKey { time, post: PostId(post), author };
            let from = match edge {
                AuthorEdge::At { time: t, post: p } if (t, p) < (time, post) => edge,
                _ => AuthorEdge::At { time, post },
            };
            self.open.push(Open { slot, bound, from, depth: deeper_than(&tail) });
        }
    }

    fn add_newer(&mut self, slot: Slot) {
        self.looked_at += 1;
        let author = self.memory.user(slot);
        let edge = self.span.edge.for_author(author);
        let tail = self.memory.tail(slot, self.tick);
        if tail.as_deref().is_some_and(|tail| tail.is_hidden_from(self.span.reader)) {
            return;
        }
        let depth = tail.as_deref().map_or(0, deeper_than);
        let Some(tail) = tail.filter(|tail| answers_above(tail, edge)) else {
            let bound = PostKey { time: i64::MIN, post: PostId(0), author };
            return self.open.push(Open { slot, bound, from: edge, depth });
        };
        let rows = (0..first_under(&tail, edge)).rev();
        self.add_rows(author, &tail, rows);
    }

    /// Adds these rows in reading order until one is not among the best; the rows after it cannot
    /// be either. Returns whether all rows were added.
    fn add_rows(
        &mut self,
        author: UserId,
        tail: &Arc<Tail>,
        rows: impl Iterator<Item = usize>,
    ) -> bool {
        let number = self.tails.len();
        for row in rows {
            let (time, post) = tail.posts()[row].key;
            let key = PostKey { time, post: PostId(post), author };
            if !self.add(Best { key, tail: index(number), row: index(row) }) {
                return false;
            }
            if self.tails.len() == number {
                self.tails.push(Arc::clone(tail));
            }
        }
        true
    }

    /// Adds a post if it is among the best; returns whether it is.
    fn add(&mut self, post: Best) -> bool {
        let comes_before = |a: &PostKey, b: &PostKey| match self.direction {
            Direction::Older => a > b,
            Direction::Newer => a < b,
        };
        if self.best.len() >= self.span.need {
            match self.best.last() {
                Some(worst) if comes_before(&post.key, &worst.key) => drop(self.best.pop()),
                _ => return false,
            }
        }
        let index = self.best.partition_point(|best| comes_before(&best.key, &post.key));
        self.best.insert(index, post);
        true
    }

    pub(super) fn is_full(&self) -> bool {
        self.best.len() >= self.span.need
    }

    pub(super) fn worst(&self) -> Option<PostKey> {
        self.best.last().map(|best| best.key)
    }

    /// The posts found, and the authors whose other posts could be on the page.
    fn into_posts(self) -> MemoryPosts {
        let reach = self.worst().filter(|_| self.is_full());
        let (mut incomplete, mut misses) = (Vec::new(), Vec::new());
        for Open { slot, bound, from, depth } in self.open {
            let matters = reach.is_none_or(|worst| match self.direction {
                Direction::Older => bound > worst,
                Direction::Newer => bound < worst,
            });
            if matters {
                misses.push(Miss::Tail { slot, depth });
                let bound = (self.direction == Direction::Older).then_some(bound.time);
                incomplete.push(Unread { author: self.memory.user(slot), from, bound });
            }
        }
        let found = |best: Best| {
            let tail = Arc::clone(&self.tails[best.tail as usize]);
            FoundPost { key: best.key, tail, row: best.row }
        };
        let posts = self.best.into_iter().map(found).collect();
        let (tails, above) = (self.looked_at, self.above);
        MemoryPosts { posts, incomplete, misses, tails, above }
    }
}
