//! The merge: which authors' tails must be read, and which posts make the page. Pure; it knows no
//! shard, no SQL and no clock.
//!
//! Reading the newest `limit` posts of every followee would cost `followees x limit` rows, though
//! at most `limit` stand on the page. So one post is read of every author first (its *head* from
//! the cursor), and an author is read deeper only while its whole known tail stands on the page:
//! only then can an unread post belong there too. This holds `followees + 12 x limit` rows, at most
//! four waves, whatever the distribution of posts.

use std::collections::HashMap;

use crate::cursor::{AuthorEdge, TailQuery};
use crate::model::{Direction, PostKey, UserId};

/// How many more posts are read of one author in each wave. Together they are 101: a page of 100 by
/// one author, and the one post that tells whether another page follows. Growing by four keeps the
/// rows read in vain below a constant multiple of those on the page.
const STEPS: [u16; 4] = [1, 4, 16, 80];

/// The newest (or nearest) `need` posts of many authors, found with few rows.
#[derive(Debug)]
pub(crate) struct Merge {
    direction: Direction,
    need: usize,
    wave: usize,
    tails: HashMap<UserId, Tail>,
    /// Posts that are known from elsewhere, of any author.
    known: Vec<PostKey>,
}

/// What is known of one author from the cursor on.
#[derive(Debug)]
struct Tail {
    from: AuthorEdge,
    known: Vec<PostKey>,
    /// Nothing lies beyond the known posts.
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

    /// These posts are known. Of authors that are merged they lie before the place that each is
    /// asked from; of others nothing is asked.
    pub(crate) fn know(&mut self, keys: impl IntoIterator<Item = PostKey>) {
        for key in keys {
            match self.tails.get_mut(&key.author) {
                Some(tail) => tail.known.push(key),
                None => self.known.push(key),
            }
        }
    }

    /// What the next wave must read; nothing when the page is known.
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
        // Per author: how many of its posts stand on the page, and the place of the last one.
        let mut on_page: HashMap<UserId, (usize, usize)> = HashMap::new();
        for (index, key) in self.page().iter().enumerate() {
            let (count, place) = on_page.entry(key.author).or_default();
            *count += 1;
            *place = index + 1;
        }
        let mut queries = Vec::new();
        for (author, (count, place)) in on_page {
            let Some(tail) = self.tails.get(&author) else { continue };
            // Posts behind the last known one can only take the places behind it.
            let room = self.need - place;
            if tail.ended || count < tail.known.len() || room == 0 {
                continue;
            }
            let count = u16::try_from(room).unwrap_or(u16::MAX).min(step);
            queries.push(TailQuery { author, from: tail.from, count });
        }
        queries
    }

    /// Takes the rows that answer `asks`, in any order between authors.
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

    /// Forgets authors whose shard could not be read, with what was known of them: a part of an
    /// author's posts would be a silent hole.
    pub(crate) fn forget(&mut self, gone: impl Fn(UserId) -> bool) {
        self.tails.retain(|author, _| !gone(*author));
        self.known.retain(|key| !gone(key.author));
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

/// Where an author's posts go on behind `key`, which itself is known.
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

    /// Answers asks from a sorted list, as a shard would.
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
        fn the_page_is_the_oracles_with_few_rows_in_four_waves(
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
