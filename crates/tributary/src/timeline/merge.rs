//! The merge decides which authors' tails are read and which posts make the page. Pure: it knows
//! no shard, no SQL and no clock.
//!
//! Reading the newest `limit` posts of every followee would cost `followees x limit` rows, though
//! the page has at most `limit` posts. With many authors, the first wave reads the key of one post
//! of each, its *head* as seen from the cursor. No post beyond the last of the best `need` heads
//! can be on the page. But authors often post several times in a row, so the posts of fewer authors
//! fill the page. The second wave reads the posts, with their texts, of the number of authors that
//! is expected to suffice, down to the last of their heads, the *cut*. If they do not fill the
//! page, or are too many to be read at once, another wave reads the rest down to the last post of
//! the page. With few authors, the first wave reads several posts of each. Later
//! waves read an author deeper only while all its known posts are on the page. This reads about
//! `followees + 16 x need` rows at most, in five waves; `docs/decisions/0003-read-plan.md` has the
//! exceptions.

use std::collections::HashMap;

use crate::cursor::{AuthorEdge, Edge};
use crate::model::{Direction, PostKey, UserId};
use crate::shard::{Cut, KnownHeads, TailQuery};

/// Posts that are read of an author at first, at least. The sum of the steps is 101: a page of 100
/// posts by one author, and one more that shows whether another page follows. Growing by a factor
/// of four keeps the rows that do not make the page below a constant multiple of those that do.
const FIRST_POSTS: u16 = 5;
/// Posts that the later waves read of one author.
const STEPS: [u16; 2] = [16, 80];
/// Posts that a span reads at most, for each post that is needed.
const SPAN_ROWS: usize = 4;
/// A span reads this many heads at least. With fewer, the rows of another wave would exceed the
/// bound of small pages.
const EXPECTED_MIN: usize = 4;
/// Heads are read first if the authors are more than this part of the posts that are needed. A
/// smaller part would save rows, and take another wave.
const HEADS_FROM: usize = 2;
/// Posts that the first wave of texts reads, for each post that is needed, of few authors.
const FIRST_ROWS: usize = 4;

/// The newest (or nearest) `need` posts of many authors, found with few rows.
#[derive(Debug)]
pub(crate) struct Merge {
    direction: Direction,
    need: usize,
    next: Step,
    /// The number of authors whose posts are expected to fill the page.
    expected: usize,
    /// The end of the last span that was read.
    cut: Option<i64>,
    /// Only a part of that span was read.
    is_part: bool,
    tails: HashMap<UserId, Tail>,
    /// Posts from memory, of authors that are not queried.
    known: Vec<PostKey>,
}

/// The queries of one wave.
#[derive(Clone, Debug)]
pub(crate) enum Wave {
    /// The keys of posts, without their texts.
    Keys(Vec<TailQuery>),
    /// Posts with their texts.
    Posts(Vec<TailQuery>),
    /// All posts of the queried authors from their edges to the cut, with their texts. A shard that
    /// has too many of them reads a part, or what the queries say.
    Span(Vec<TailQuery>, Cut),
}

/// An author whose posts from an edge on must be queried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    pub(crate) author: UserId,
    pub(crate) from: AuthorEdge,
    /// No unread post is newer than this time, if memory knows.
    pub(crate) bound: Option<i64>,
}

/// The wave that is next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Memory's bounds may stand for heads.
    Bounds,
    Heads,
    /// The heads of authors whose newest post is hidden.
    HiddenHeads,
    /// The first wave that reads texts; whether all heads are known.
    Texts {
        after_heads: bool,
    },
    /// The posts of authors whose newest posts are all hidden.
    HiddenPosts,
    /// The span that fills the page, if the expected authors did not or had too many posts.
    Rest,
    /// An index in [`STEPS`], or the last one.
    Deeper(usize),
}

/// The known posts of one author, from the cursor on.
#[derive(Debug)]
struct Tail {
    /// Where the queries start.
    start: AuthorEdge,
    /// Where the unread posts start.
    from: AuthorEdge,
    /// From memory; see [`Unread`].
    bound: Option<i64>,
    /// The first read starts at the newest post: few posts are above the start, and none was read.
    from_top: bool,
    known: Vec<PostKey>,
    /// The author has no posts beyond the known ones.
    ended: bool,
    /// All posts up to the cut are known.
    spanned: bool,
}

impl Merge {
    /// A merge of `authors`, each from its own edge, up to `need` posts.
    pub(crate) fn new(
        direction: Direction,
        authors: impl IntoIterator<Item = Unread>,
        need: usize,
    ) -> Self {
        let tail = |Unread { author, from, bound }| {
            let known = Vec::new();
            let (ended, spanned, from_top) = (false, false, false);
            (author, Tail { start: from, from, bound, from_top, known, ended, spanned })
        };
        let tails = authors.into_iter().map(tail).collect();
        let (next, expected, known) = (Step::Bounds, need, Vec::new());
        Self { direction, need, next, expected, cut: None, is_part: false, tails, known }
    }

    /// The number of authors.
    pub(crate) fn authors(&self) -> usize {
        self.tails.len()
    }

    /// Whether the heads of the authors are read first, which is cheaper with many authors.
    pub(crate) fn reads_heads(&self) -> bool {
        self.tails.len() > self.need / HEADS_FROM
    }

    /// The posts of this many authors are expected to fill the page. A wrong number costs time.
    pub(crate) fn expect(&mut self, authors: usize) {
        self.expected = authors.max(EXPECTED_MIN).min(self.need);
    }

    /// The page starts at the horizon, the edge. Few authors have posts above it, and the newest
    /// posts of all authors are cheaper to read than those below an edge. So the newest posts are
    /// read first, and authors whose newest posts are all hidden are read again.
    pub(crate) fn start_at_horizon(&mut self, edge: Edge) {
        for (author, tail) in &mut self.tails {
            tail.from_top = tail.start == edge.for_author(*author);
        }
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Adds posts that memory has. If their author is queried, they lie before the edge that its
    /// queries start from.
    pub(crate) fn know(&mut self, keys: impl IntoIterator<Item = PostKey>) {
        for key in keys {
            match self.tails.get_mut(&key.author) {
                Some(tail) => tail.known.push(key),
                None => self.known.push(key),
            }
        }
    }

    /// Adds heads that are known before the first wave, if the heads are read first.
    pub(crate) fn admit_heads(&mut self, heads: &KnownHeads) {
        if !self.reads_heads() {
            return;
        }
        let is_known =
            |query: &TailQuery| query.from == AuthorEdge::Top && heads.contains_key(&query.author);
        let queries: Vec<TailQuery> = self.heads().into_iter().filter(is_known).collect();
        let rows: Vec<PostKey> =
            queries.iter().filter_map(|query| *heads.get(&query.author)?).collect();
        self.admit(&queries, &rows);
    }

    /// The next wave; `None` if the page is complete.
    pub(crate) fn next_wave(&mut self) -> Option<Wave> {
        loop {
            let step = self.next;
            let wave = self.wave_of(step).filter(|wave| !wave.queries().is_empty());
            if wave.is_some() || matches!(step, Step::Deeper(_)) {
                return wave;
            }
        }
    }

    /// The wave of a step, if the page needs it. Chooses the step after it.
    fn wave_of(&mut self, step: Step) -> Option<Wave> {
        match step {
            Step::Bounds => {
                self.next = Step::Heads;
                let (queries, cut) = self.in_bounds()?;
                Some(self.span(queries, cut, true))
            }
            Step::Heads if self.ends_in_span(&self.page()) => {
                self.next = Step::Deeper(0);
                None
            }
            Step::Heads if self.reads_heads() => {
                self.next = Step::HiddenHeads;
                // The bounds were too high if there is a cut already.
                self.forget_span();
                Some(Wave::Keys(self.heads()))
            }
            Step::Heads => {
                self.next = Step::Texts { after_heads: false };
                None
            }
            Step::HiddenHeads => {
                self.next = Step::Texts { after_heads: true };
                Some(Wave::Keys(self.heads()))
            }
            Step::Texts { after_heads } => {
                let page = self.page();
                let is_enough = page.len() == self.need || page.len() > self.expected;
                if after_heads && is_enough {
                    self.next = Step::Rest;
                    return self.span_of(&page[..self.expected], true);
                }
                self.next = Step::HiddenPosts;
                Some(Wave::Posts(self.few(&page)))
            }
            Step::Rest => {
                let page = self.page();
                if page.len() < self.need {
                    self.next = Step::HiddenPosts;
                    return Some(Wave::Posts(self.few(&page)));
                }
                self.next = Step::Deeper(0);
                self.span_of(&page, false)
            }
            Step::HiddenPosts => {
                self.next = Step::Deeper(0);
                let mut queries = self.few(&self.page());
                queries.retain(|query| self.is_unread(query.author));
                Some(Wave::Posts(queries))
            }
            Step::Deeper(step) => {
                self.next = Step::Deeper((step + 1).min(STEPS.len() - 1));
                Some(Wave::Posts(self.deeper(STEPS[step])))
            }
        }
    }

    /// If memory's bounds can stand for heads: the authors whose bounds would be on the page, and
    /// the cut.
    fn in_bounds(&self) -> Option<(Vec<TailQuery>, i64)> {
        if self.direction == Direction::Newer || self.tails.len() <= self.need {
            return None;
        }
        let bounds: Option<Vec<i64>> = self.tails.values().map(|tail| tail.bound).collect();
        let mut times = bounds?;
        let read = self.tails.values().flat_map(|tail| &tail.known);
        times.extend(read.chain(&self.known).map(|key| key.time));
        let (_, cut, _) = times.select_nth_unstable_by(self.need - 1, |a, b| b.cmp(a));
        let cut = *cut;
        let count = FIRST_POSTS.min(count_of(self.need));
        let is_within = |(_, tail): &(&UserId, &Tail)| tail.bound >= Some(cut);
        let query =
            |(&author, tail): (&UserId, &Tail)| TailQuery { author, from: tail.start, count };
        let queries: Vec<TailQuery> = self.tails.iter().filter(is_within).map(query).collect();
        // Many bounds can be equal; their heads are not.
        (queries.len() <= 2 * self.need).then_some((queries, cut))
    }

    /// Queries for the heads that are not known yet.
    fn heads(&self) -> Vec<TailQuery> {
        let head =
            |(&author, tail): (&UserId, &Tail)| TailQuery { author, from: tail.first(), count: 1 };
        let is_unread = |(_, tail): &(&UserId, &Tail)| tail.is_unread();
        self.tails.iter().filter(is_unread).map(head).collect()
    }

    fn is_unread(&self, author: UserId) -> bool {
        self.tails.get(&author).is_some_and(Tail::is_unread)
    }

    /// The span down to the last of these posts, of their authors. `None` if it is known.
    fn span_of(&mut self, page: &[PostKey], takes_part: bool) -> Option<Wave> {
        let time = page.last()?.time;
        if !self.cut.is_some_and(|cut| self.is_within(time, cut)) {
            self.forget_span();
        }
        let mut queries = self.on_page(page);
        queries.retain(|query| !self.is_known_to(query.author, time));
        if queries.is_empty() {
            self.is_part = false;
            return None;
        }
        // The rows of a span would exceed the bound of small pages.
        if self.need <= EXPECTED_MIN {
            return Some(Wave::Posts(queries));
        }
        Some(self.span(queries, time, takes_part))
    }

    /// The fewer authors are queried, the more posts of each there may be.
    fn span(&mut self, queries: Vec<TailQuery>, time: i64, takes_part: bool) -> Wave {
        (self.cut, self.is_part) = (Some(time), false);
        let posts_each = (SPAN_ROWS * self.need).div_ceil(queries.len().max(1));
        // The rest after a part would exceed the bound of small pages.
        let takes_part = takes_part && self.need > EXPECTED_MIN;
        Wave::Span(queries, Cut { time, posts_each, takes_part })
    }

    fn forget_span(&mut self) {
        (self.cut, self.is_part) = (None, false);
        self.tails.values_mut().for_each(|tail| tail.spanned = false);
    }

    /// Whether all posts of the author down to this time are known.
    fn is_known_to(&self, author: UserId, time: i64) -> bool {
        let is_known = |tail: &Tail| {
            let last = tail.known.last().map(|key| key.time);
            let is_beyond = last.is_some_and(|last| !self.is_within(last, time));
            tail.ended || tail.spanned || is_beyond
        };
        self.tails.get(&author).is_some_and(is_known)
    }

    /// Whether a time is not beyond another one.
    fn is_within(&self, time: i64, cut: i64) -> bool {
        match self.direction {
            Direction::Older => time >= cut,
            Direction::Newer => time <= cut,
        }
    }

    /// Queries for the authors with posts on a full page of heads, or on the first part of it. The
    /// heads are read again, for their texts.
    fn on_page(&self, page: &[PostKey]) -> Vec<TailQuery> {
        let query = |(author, (_, last)): (UserId, (usize, usize))| {
            let tail = self.tails.get(&author).filter(|_| last < self.need)?;
            let (from, known) = if tail.spanned { (tail.from, 0) } else { (tail.start, 1) };
            let count = count_of(self.need - last + known).min(FIRST_POSTS);
            Some(TailQuery { author, from, count })
        };
        positions(page).into_iter().filter_map(query).collect()
    }

    /// Queries for all authors that may have posts on the page. The fewer they are, the more posts
    /// are read of each, at most as many as there is room for.
    fn few(&self, page: &[PostKey]) -> Vec<TailQuery> {
        let room = |tail: &Tail| {
            let before = page.iter().take_while(|key| !is_from(self.direction, tail.start, key));
            self.need - before.count()
        };
        let open = || self.tails.iter().filter(|(_, tail)| !tail.ended);
        let each = (FIRST_ROWS * self.need).checked_div(open().count()).unwrap_or_default();
        let each = each.max(FIRST_POSTS.into());
        open()
            .map(|(&author, tail)| (author, tail.first(), room(tail).min(each)))
            .filter(|(_, _, count)| *count > 0)
            .map(|(author, from, count)| TailQuery { author, from, count: count_of(count) })
            .collect()
    }

    fn deeper(&self, step: u16) -> Vec<TailQuery> {
        let mut queries = Vec::new();
        let page = self.page();
        let ends_in_span = self.ends_in_span(&page);
        for (author, (count, last)) in positions(&page) {
            let Some(tail) = self.tails.get(&author) else { continue };
            // Posts after the last known one can only be after it on the page as well.
            let room = self.need - last;
            let is_known = tail.ended || (tail.spanned && ends_in_span);
            if is_known || count < tail.known.len() || room == 0 {
                continue;
            }
            let count = count_of(room).min(step);
            queries.push(TailQuery { author, from: tail.from, count });
        }
        queries
    }

    /// Whether the page is full without a post beyond the cut. It may not be if a shard was lost
    /// after its heads were read, or if only a part of the span was read.
    fn ends_in_span(&self, page: &[PostKey]) -> bool {
        let (Some(cut), Some(last)) = (self.cut, page.last()) else { return false };
        !self.is_part && page.len() == self.need && self.is_within(last.time, cut)
    }

    /// Adds the rows that `queries` returned, in any order between authors.
    pub(crate) fn admit(&mut self, queries: &[TailQuery], rows: &[PostKey]) {
        let mut answered: HashMap<UserId, u16> = HashMap::new();
        for key in rows {
            self.add(*key);
            *answered.entry(key.author).or_default() += 1;
        }
        for query in queries {
            if let Some(tail) = self.tails.get_mut(&query.author) {
                tail.from_top = false;
                tail.ended = answered.get(&query.author).is_none_or(|count| *count < query.count);
            }
        }
    }

    /// Adds all posts of the queried authors up to the cut, or a part of them: see
    /// [`crate::shard::SpanPosts`].
    pub(crate) fn admit_span(
        &mut self,
        queries: &[TailQuery],
        mut rows: Vec<PostKey>,
        complete_above: Option<UserId>,
    ) {
        rows.sort_unstable_by(|a, b| self.direction.compare(a, b));
        rows.into_iter().for_each(|key| self.add(key));
        self.is_part |= complete_above.is_some();
        for query in queries {
            if let Some(tail) = self.tails.get_mut(&query.author) {
                tail.spanned = complete_above.is_none_or(|author| query.author > author);
            }
        }
    }

    /// Adds a key, unless it was read before or is on the other side of the edge.
    fn add(&mut self, key: PostKey) {
        if let Some(tail) = self.tails.get_mut(&key.author)
            && is_from(self.direction, tail.from, &key)
        {
            tail.known.push(key);
            tail.from = beyond(self.direction, key);
        }
    }

    /// Removes authors whose shard could not be read, with their known posts: some of an author's
    /// posts without the others would be a silent gap.
    pub(crate) fn forget(&mut self, is_missing: impl Fn(UserId) -> bool) {
        self.tails.retain(|author, _| !is_missing(*author));
        self.known.retain(|key| !is_missing(key.author));
    }

    /// The best `need` posts known so far, in reading order. O(known posts).
    pub(crate) fn page(&self) -> Vec<PostKey> {
        let read = self.tails.values().flat_map(|tail| &tail.known);
        let mut keys: Vec<PostKey> = read.chain(&self.known).copied().collect();
        let order = |a: &PostKey, b: &PostKey| self.direction.compare(a, b);
        if keys.len() > self.need {
            keys.select_nth_unstable_by(self.need, order);
            keys.truncate(self.need);
        }
        keys.sort_unstable_by(order);
        keys
    }
}

impl Tail {
    /// Where the first read of the author starts.
    fn first(&self) -> AuthorEdge {
        if self.from_top { AuthorEdge::Top } else { self.start }
    }

    /// None of the author's posts from the start on is known, and there may be some.
    fn is_unread(&self) -> bool {
        self.from == self.start && !self.ended
    }
}

impl Wave {
    /// The queries of the wave.
    pub(crate) fn queries(&self) -> &[TailQuery] {
        match self {
            Self::Keys(queries) | Self::Posts(queries) | Self::Span(queries, _) => queries,
        }
    }
}

/// For each author: the number of its posts on the page, and the position of the last one.
fn positions(page: &[PostKey]) -> HashMap<UserId, (usize, usize)> {
    let mut positions: HashMap<UserId, (usize, usize)> = HashMap::new();
    for (index, key) in page.iter().enumerate() {
        let (count, last) = positions.entry(key.author).or_default();
        *count += 1;
        *last = index + 1;
    }
    positions
}

fn count_of(posts: usize) -> u16 {
    u16::try_from(posts).unwrap_or(u16::MAX)
}

/// Whether the key is among the posts that are read from this edge on.
fn is_from(direction: Direction, edge: AuthorEdge, key: &PostKey) -> bool {
    let is_older = match edge {
        AuthorEdge::Bottom => false,
        AuthorEdge::At { time, post } => (key.time, key.post.0) < (time, post),
        AuthorEdge::Top => true,
    };
    is_older == (direction == Direction::Older)
}

/// The edge after `key`, where the author's unread posts start.
fn beyond(direction: Direction, key: PostKey) -> AuthorEdge {
    let post = match direction {
        Direction::Older => key.post.0,
        Direction::Newer => key.post.0.saturating_add(1),
    };
    AuthorEdge::At { time: key.time, post }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;
    use crate::model::PostId;

    /// Returns the rows of `queries` from a sorted list, as a shard would.
    fn read(world: &[PostKey], direction: Direction, queries: &[TailQuery]) -> Vec<PostKey> {
        let mut rows = Vec::new();
        for query in queries {
            let older = |key: &PostKey| match query.from {
                AuthorEdge::Bottom => false,
                AuthorEdge::Top => true,
                AuthorEdge::At { time, post } => (key.time, key.post.0) < (time, post),
            };
            let mut keys: Vec<PostKey> =
                world.iter().filter(|key| key.author == query.author).copied().collect();
            keys.sort();
            match direction {
                Direction::Older => {
                    keys.reverse();
                    rows.extend(keys.iter().filter(|k| older(k)).take(query.count.into()));
                }
                Direction::Newer => {
                    rows.extend(keys.iter().filter(|k| !older(k)).take(query.count.into()));
                }
            }
        }
        rows
    }

    /// Returns the rows of a span in the order in which a shard reads them.
    fn span(
        world: &[PostKey],
        direction: Direction,
        queries: &[TailQuery],
        cut: Cut,
    ) -> Vec<PostKey> {
        let is_within = |key: &&PostKey| match direction {
            Direction::Older => key.time >= cut.time,
            Direction::Newer => key.time <= cut.time,
        };
        let all: Vec<TailQuery> =
            queries.iter().map(|query| TailQuery { count: u16::MAX, ..*query }).collect();
        let mut rows: Vec<PostKey> =
            read(world, direction, &all).iter().filter(is_within).copied().collect();
        rows.sort_by_key(|key| (Reverse(key.author), Reverse(key.time), Reverse(key.post.0)));
        rows
    }

    fn oracle(world: &[PostKey], direction: Direction, edge: Edge, need: usize) -> Vec<PostKey> {
        let mut keys = world.to_vec();
        keys.sort();
        if direction == Direction::Older {
            keys.reverse();
        }
        keys.retain(|key| (Edge::below(*key) < edge) == (direction == Direction::Older));
        keys.truncate(need);
        keys
    }

    fn heads_below(world: &[PostKey], end: UserId) -> KnownHeads {
        let head = |author| world.iter().filter(|key| key.author == author).max().copied();
        (0..end.0).map(UserId).map(|author| (author, head(author))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn the_page_equals_the_oracle_with_few_rows_in_few_waves(
            posts in prop::collection::btree_set((0i64..40, 0u64..60, 0u64..12), 0..400),
            burst in 0u64..150,
            start in prop::option::of((0i64..40, 0u64..60, 0u64..12)),
            newer in any::<bool>(),
            limit in prop::sample::select(vec![1usize, 2, 7, 20, 100]),
            // Authors whose shard is lost after this many waves.
            lost in prop::option::of((0u64..4, 1usize..4)),
            // By how much memory's bounds are too high.
            known in prop::option::of(0i64..9),
            // Whether newer posts than those above the start are hidden.
            at_horizon in any::<bool>(),
            // The heads of the authors below this one are read with the follow list.
            listed in 0u64..13,
            expected in prop::sample::select(vec![1usize, 3, 8, 200]),
        ) {
            let make = |(time, post, author)| PostKey {
                time, post: PostId(post), author: UserId(author)
            };
            let mut world: Vec<PostKey> = posts.into_iter().map(make).collect();
            world.extend((0..burst).map(|n| make((39, 1_000 + n, 3))));
            let direction = if newer { Direction::Newer } else { Direction::Older };
            let edge = match (start, newer) {
                (Some(key), _) => Edge::below(make(key)),
                (None, true) => Edge::Bottom,
                (None, false) => Edge::Top,
            };
            let authors = (0..12).map(UserId).map(|author| {
                let newest = world.iter().filter(|key| key.author == author).map(|key| key.time);
                let bound = known.map(|excess| newest.max().unwrap_or(i64::MIN) + excess);
                Unread { author, from: edge.for_author(author), bound }
            });
            let mut merge = Merge::new(direction, authors, limit + 1);
            merge.expect(expected);
            let at_horizon = at_horizon && !newer;
            if at_horizon {
                merge.start_at_horizon(edge);
                merge.admit_heads(&heads_below(&world, UserId(listed)));
            }
            let (mut rows_read, mut waves) = (0, 0);
            while let Some(wave) = merge.next_wave() {
                if let Some((shard, after)) = lost
                    && waves >= after
                {
                    merge.forget(|author| author.0 % 4 == shard);
                }
                waves += 1;
                if let Wave::Span(queries, cut) = &wave {
                    let mut rows = span(&world, direction, queries, *cut);
                    let max = cut.posts_each * queries.len();
                    let is_part = rows.len() > max;
                    rows.truncate(max + 1);
                    rows_read += rows.len();
                    if !is_part || (cut.takes_part && !newer) {
                        let last = rows.last().filter(|_| is_part).map(|key| key.author);
                        merge.admit_span(queries, rows, last);
                        continue;
                    }
                }
                let rows = read(&world, direction, wave.queries());
                rows_read += rows.len();
                merge.admit(wave.queries(), &rows);
            }
            if let Some((shard, after)) = lost
                && waves > after
            {
                world.retain(|key| key.author.0 % 4 != shard);
                prop_assert_eq!(merge.page(), oracle(&world, direction, edge, limit + 1));
                return Ok(());
            }
            prop_assert_eq!(merge.page(), oracle(&world, direction, edge, limit + 1));
            let most = 5 + usize::from(known.is_some()) + usize::from(at_horizon);
            prop_assert!(waves <= most, "{} waves", waves);
            let bound = 12 + usize::from(at_horizon) * 12 + 16 * (limit + 1) + if known.is_some() { 10 * (limit + 1) } else { 0 };
            prop_assert!(rows_read <= bound, "{} rows for {} posts", rows_read, limit);
        }
    }
}
