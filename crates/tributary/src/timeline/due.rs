//! Posts of the future whose time has come: they become visible without a change of any log.
//!
//! A token says up to which key posts were shown. The posts above it, up to the horizon, are read
//! from the tails in memory, which have all changes up to the token. Those that the log delivers
//! after the token are left to it, so that no post comes twice. Only marked authors are read: see
//! [`FollowedLog::news`](crate::memory::FollowedLog).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::view::View;
use super::warm::{answers_above, deeper_than};
use crate::cursor::Edge;
use crate::freshness::Freshness;
use crate::memory::{Gap, Memory, Miss, TAIL_DEPTH_MAX, Tail, TailPost, UNKNOWN};
use crate::model::{Direction, PostId, PostKey, UserId};
use crate::shard::{Shard, TailQuery, Turn};

/// Due posts of one request. More are a gap: a page is cheaper then.
const DUE_MAX: usize = 50_000;
/// Pause between two looks at a tail that is being filled.
const FILL_PAUSE: Duration = Duration::from_millis(5);

/// The part of the order of posts that becomes visible.
#[derive(Clone, Copy, Debug)]
pub(super) struct DueRange {
    /// Posts up to this key were shown.
    pub(super) from: PostKey,
    /// Posts up to this key may be shown.
    pub(super) until: PostKey,
}

/// Due posts.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The posts with their JSON, oldest first.
    pub(super) posts: Vec<(PostKey, Arc<str>)>,
    /// The time of the next post that is still hidden.
    pub(super) next: Option<i64>,
    /// The tails that must be filled first.
    misses: Vec<Miss>,
    /// Authors that memory does not have all posts of.
    to_query: Vec<UserId>,
}

/// The posts of these authors in the range, with all changes from the token to the positions that
/// the answer has reached. Waits for tails that memory does not have.
///
/// # Errors
/// [`Gap`] if the tails cannot be read now.
pub(super) async fn due(
    view: &mut View<'_>,
    memory: &Memory,
    ([since, reached], range): ([&Freshness; 2], DueRange),
    authors: &[UserId],
) -> Result<Due, Gap> {
    loop {
        let frees = memory.frees();
        let mut due = Due::default();
        for author in authors {
            due.read(memory, *author, range);
            if due.posts.len() > DUE_MAX {
                return Err(Gap);
            }
        }
        // Otherwise slots that were read may have got other users.
        if memory.frees() == frees && due.misses.is_empty() {
            if !due.to_query.is_empty() {
                due.note_next(view.next_of(&due.to_query, reached, range).await?);
            }
            due.take_from_log(memory, since)?;
            due.posts.sort_unstable_by_key(|(key, _)| *key);
            return Ok(due);
        }
        if view.patience().is_over() {
            return Err(Gap);
        }
        if !due.misses.is_empty() {
            due.misses.iter().for_each(|miss| memory.request_fill(*miss));
            view.patience().limit(tokio::time::sleep(FILL_PAUSE)).await;
        }
    }
}

impl Due {
    fn note_next(&mut self, time: Option<i64>) {
        self.next = self.next.into_iter().chain(time).min();
    }

    /// Adds the author's posts in the range.
    fn read(&mut self, memory: &Memory, author: UserId, range: DueRange) {
        let slot = memory.find(author);
        let head = slot.map_or(UNKNOWN, |slot| memory.head(slot));
        // All heads are known, so a user without a slot has no posts.
        if head < range.from.time || (slot.is_none() && memory.knows_heads_with(author)) {
            return;
        }
        let tail = slot.and_then(|slot| memory.tail(slot, memory.tick()));
        let edge = Edge::above(range.from).for_author(author);
        match tail {
            Some(tail) if answers_above(&tail, edge) => self.add(&tail, author, range),
            Some(tail) if tail.depth() >= TAIL_DEPTH_MAX as usize => self.to_query.push(author),
            // Nearly none of them has posts in the range, and there are too many tails to fill.
            None if head == UNKNOWN => self.to_query.push(author),
            tail => {
                let depth = tail.as_deref().map_or(0, deeper_than);
                self.misses.extend(slot.map(|slot| Miss::Tail { slot, depth }));
            }
        }
    }

    fn add(&mut self, tail: &Arc<Tail>, author: UserId, range: DueRange) {
        let key = |(time, post): (i64, u64)| PostKey { time, post: PostId(post), author };
        for TailPost { key: place, body } in tail.posts() {
            match key(*place) {
                key if key > range.until => self.note_next(Some(key.time)),
                key if key > range.from => self.posts.push((key, Arc::clone(body))),
                _ => return,
            }
        }
    }

    /// Removes the posts that the logs deliver after the token. The tails were read before the
    /// log, so it has all their changes.
    fn take_from_log(&mut self, memory: &Memory, since: &Freshness) -> Result<(), Gap> {
        let mut delivered: BTreeMap<UserId, HashSet<PostId>> = BTreeMap::new();
        for (key, _) in &self.posts {
            if delivered.contains_key(&key.author) {
                continue;
            }
            let log = memory.log_of(key.author);
            let (identity, _) = log.position().ok_or(Gap)?;
            let position = since.changes_seen(identity).ok_or(Gap)?;
            delivered.insert(key.author, log.news.posts_since(key.author, position)?);
        }
        self.posts.retain(|(key, _)| !delivered[&key.author].contains(&key.post));
        Ok(())
    }
}

impl View<'_> {
    /// The time of the next hidden post of authors that memory does not have all posts of. Queries
    /// their databases, once they show what the answer has reached: it may hide a post.
    ///
    /// # Errors
    /// [`Gap`] if one of them has a due post, or if a database does not answer.
    async fn next_of(
        &mut self,
        authors: &[UserId],
        reached: &Freshness,
        range: DueRange,
    ) -> Result<Option<i64>, Gap> {
        self.has_reached(reached);
        self.wait_until_visible().await;
        let query = |author: &UserId| {
            let from = Edge::above(range.from).for_author(*author);
            TailQuery { author: *author, from, count: 1 }
        };
        let queries = authors.iter().map(query);
        let work = self.fleet().placement().group(queries, |query| query.author);
        let nearest = |shard: Arc<Shard>, queries: Vec<TailQuery>, until| async move {
            shard.tails(Direction::Newer, &queries, until).await
        };
        let found = self.fleet().scatter(work, Turn::Next, self.deadline(), nearest).await;
        let keys: Vec<PostKey> = found.answers.into_iter().flatten().collect();
        let are_hidden = keys.iter().all(|key| *key > range.until);
        if !are_hidden || !found.missing.is_empty() || self.required_after_reads().is_any_lost() {
            return Err(Gap);
        }
        Ok(keys.iter().map(|key| key.time).min())
    }
}
