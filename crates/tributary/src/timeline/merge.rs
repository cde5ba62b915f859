//! The merge decides which authors' tails are read and which posts make the page. Pure: it knows
//! no shard, no SQL and no clock.
//!
//! Reading the newest `limit` posts of every followee would cost `followees x limit` rows, though
//! the page has at most `limit` posts. So the first wave reads one post of every author, its
//! *head* as seen from the cursor. Later waves read an author deeper only while all its known
//! posts are on the page: only then can an unread post make the page too. This reads at most
//! `followees + 12 x limit` rows in at most four waves, for any distribution of posts.

use std::collections::HashMap;

use crate::cursor::AuthorEdge;
use crate::model::{Direction, PostKey, UserId};
use crate::shard::TailQuery;

/// Posts that each wave reads of one author. The sum is 101: a page of 100 posts by one author,
/// and one more that shows whether another page follows. Growing by a factor of four keeps the
/// rows that do not make the page below a constant multiple of those that do.
const STEPS: [u16; 4] = [1, 4, 16, 80];

/// The newest (or nearest) `need` posts of many authors, found with few rows.
#[derive(Debug)]
pub(crate) struct Merge {
    direction: Direction,
    need: usize,
    wave: usize,
    tails: HashMap<UserId, Tail>,
    /// Posts from memory, of authors that are not queried.
    known: Vec<PostKey>,
}

/// The known posts of one author, from the cursor on.
#[derive(Debug)]
struct Tail {
    from: AuthorEdge,
    known: Vec<PostKey>,
    /// The author has no posts beyond the known ones.
    ended: bool,
}

impl Merge {
    /// A merge of `authors`, each from its own edge, up to `need` posts.
    pub(crate) fn new(
        direction: Direction,
        authors: impl IntoIterator<Item = (UserId, AuthorEdge)>,
        need: usize,
    ) -> Self {
        let tails = authors
            .into_iter()
            .map(|(author, from)| (author, Tail { from, known: Vec::new(), ended: false }))
            .collect();
        Self { direction, need, wave: 0, tails, known: Vec::new() }
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

    /// The queries of the next wave; empty if the page is complete.
    pub(crate) fn next_wave(&mut self) -> Vec<TailQuery> {
        let step = STEPS[self.wave.min(STEPS.len() - 1)];
        let queries = if self.wave == 0 { self.heads(step) } else { self.deeper(step) };
        self.wave += 1;
        queries
    }

    fn heads(&self, count: u16) -> Vec<TailQuery> {
        self.tails
            .iter()
            .map(|(&author, tail)| TailQuery { author, from: tail.from, count })
            .collect()
    }

    fn deeper(&self, step: u16) -> Vec<TailQuery> {
        // For each author: the number of its posts on the page, and the position of the last one.
        let mut on_page: HashMap<UserId, (usize, usize)> = HashMap::new();
        for (index, key) in self.page().iter().enumerate() {
            let (count, last) = on_page.entry(key.author).or_default();
            *count += 1;
            *last = index + 1;
        }
        let mut queries = Vec::new();
        for (author, (count, last)) in on_page {
            let Some(tail) = self.tails.get(&author) else { continue };
            // Posts after the last known one can only be after it on the page as well.
            let room = self.need - last;
            if tail.ended || count < tail.known.len() || room == 0 {
                continue;
            }
            let count = u16::try_from(room).unwrap_or(u16::MAX).min(step);
            queries.push(TailQuery { author, from: tail.from, count });
        }
        queries
    }

    /// Adds the rows that `queries` returned, in any order between authors.
    pub(crate) fn admit(&mut self, queries: &[TailQuery], rows: &[PostKey]) {
        let mut answered: HashMap<UserId, u16> = HashMap::new();
        for key in rows {
            if let Some(tail) = self.tails.get_mut(&key.author) {
                tail.known.push(*key);
                tail.from = beyond(self.direction, *key);
                *answered.entry(key.author).or_default() += 1;
            }
        }
        for query in queries {
            if let Some(tail) = self.tails.get_mut(&query.author) {
                tail.ended = answered.get(&query.author).is_none_or(|count| *count < query.count);
            }
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
        let order = |a: &PostKey, b: &PostKey| match self.direction {
            Direction::Older => b.cmp(a),
            Direction::Newer => a.cmp(b),
        };
        if keys.len() > self.need {
            keys.select_nth_unstable_by(self.need, order);
            keys.truncate(self.need);
        }
        keys.sort_unstable_by(order);
        keys
    }
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
    use proptest::prelude::*;

    use super::*;
    use crate::cursor::Edge;
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn the_page_equals_the_oracle_with_few_rows_in_four_waves(
            posts in prop::collection::btree_set((0i64..40, 0u64..60, 0u64..12), 0..400),
            burst in 0u64..150,
            start in prop::option::of((0i64..40, 0u64..60, 0u64..12)),
            newer in any::<bool>(),
            limit in prop::sample::select(vec![1usize, 2, 7, 20, 100]),
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
            let authors = (0..12).map(UserId).map(|a| (a, edge.for_author(a)));
            let mut merge = Merge::new(direction, authors, limit + 1);
            let (mut rows_read, mut waves) = (0, 0);
            loop {
                let queries = merge.next_wave();
                if queries.is_empty() {
                    break;
                }
                let rows = read(&world, direction, &queries);
                rows_read += rows.len();
                waves += 1;
                merge.admit(&queries, &rows);
            }
            prop_assert_eq!(merge.page(), oracle(&world, direction, edge, limit + 1));
            prop_assert!(waves <= 4, "{} waves", waves);
            prop_assert!(rows_read <= 12 + 12 * limit, "{} rows for {} posts", rows_read, limit);
        }
    }
}
