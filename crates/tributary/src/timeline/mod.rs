//! The read path: one page of a home timeline or of an author timeline.
//!
//! This module makes all decisions of a read; `shard` fetches rows, `memory` holds copies of them:
//! 1. `View` decides which parts of memory may be used, and `required` waits for the request's
//!    token.
//! 2. `warm` and `recent` collect the posts that memory has.
//! 3. `merge` decides which authors are queried for the rest, in waves over the shards that own
//!    them.
//! 4. `flight` lets requests for the same page share these queries.

mod draft;
mod flight;
mod merge;
mod page;
mod recent;
mod required;
mod view;
mod warm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use thiserror::Error;

pub use self::draft::{Draft, DraftPost};
use self::flight::Flights;
use self::merge::{Merge, Unread, Wave};
pub use self::page::{Limit, Page, PageRequest};
pub(crate) use self::view::View;
use self::view::{Authors, Followees};
use self::warm::{FoundPost, MemoryPosts, Older, Span};
use crate::cursor::{AuthorEdge, Cursor, Edge};
use crate::freshness::Freshness;
use crate::model::{Direction, FOLLOWEES_MAX, Post, PostKey, ShardId, UserId};
use crate::shard::{Deadline, Shard, ShardError, TailQuery, Turn};

/// Why a timeline cannot be read at all. A shard that does not answer is not an error; it makes
/// the page incomplete.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The reader follows more than [`crate::Tributary::FOLLOWEES_MAX`] users.
    #[error(
        "the user follows more than {FOLLOWEES_MAX} users, the limit for reading a home timeline"
    )]
    TooManyFollowees,
}

/// The timeline that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timeline {
    /// The home timeline of this reader.
    Home(UserId),
    /// The posts of this author.
    Author(UserId),
}

/// The page that requests must have in common to share a read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    timeline: Timeline,
    cursor: Cursor,
    limit: Limit,
}

/// The shared reads of timeline pages that are in flight.
pub(crate) type TimelineFlights = Flights<FlightKey, Result<Draft, ReadError>>;

/// One page of `reader`'s home timeline: posts by everyone the reader follows.
///
/// Cost from memory: the head of every followee, and the tails of the few that can be on the page.
/// Cost of what memory does not have: one query for the follow list on the reader's shard, then at
/// most five waves. A wave queries all shards that own a followee still in question, at the same
/// time. All waves together read at most `4 x followees + 16 x limit` rows. A page towards newer
/// posts whose anchor was deleted may need a sixth wave. An unknown reader has an empty timeline.
pub(crate) async fn home_timeline(
    view: &mut View<'_>,
    reader: UserId,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    read(view, Timeline::Home(reader), request).await
}

/// One page of the posts of `author`, at the same cost with one followee.
pub(crate) async fn author_timeline(
    view: &mut View<'_>,
    author: UserId,
    request: &PageRequest,
) -> Draft {
    let draft = read(view, Timeline::Author(author), request).await;
    draft.expect("one author is not too many")
}

/// Reads the page from memory alone; if memory does not have it all, reads the databases as well.
async fn read(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    view.wait_until_fresh(request).await;
    view.use_memory_only();
    let mut draft = page(view, timeline, request).await?;
    if !view.databases_needed() {
        view.finish(&mut draft).await;
        return Ok(draft);
    }
    // Boxed, so that the many pages from memory do not carry the size of this future.
    Box::pin(read_cold(view, timeline, request)).await
}

/// Reads a page that needs the databases, together with other requests for it where possible.
async fn read_cold(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    view.wait_until_visible().await;
    // A shared read may use memory that has not reached this request's token. A late request must
    // not read for others, since the page would be incomplete for those that have more time.
    if view.memory_lags() || view.is_late() {
        view.allow_databases();
    } else {
        let flight = FlightKey { timeline, cursor: request.cursor.clone(), limit: request.limit };
        let read = || read_shared(view, &flight);
        if let Some(answer) = view.flights().share(&flight, view.deadline(), read).await {
            return answer.map(|draft| view.adapt_shared(draft));
        }
        // The deadline has passed: the page has only what memory holds.
    }
    whole_page(view, timeline, request).await
}

/// Reads a page for several requests; the result does not depend on the request that reads it.
async fn read_shared(view: &View<'_>, flight: &FlightKey) -> Result<Draft, ReadError> {
    let mut view = view.renewed();
    let FlightKey { timeline, cursor, limit } = flight.clone();
    let request = PageRequest { cursor, limit, at_least: Freshness::default() };
    view.wait_until_fresh(&request).await;
    whole_page(&mut view, timeline, &request).await
}

/// Reads the page, if necessary again with stale memory, and sets how fresh it is.
async fn whole_page(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let mut draft = page(view, timeline, request).await?;
    // A server was found unreachable during the read; stale memory is better than a missing shard.
    if view.use_stale_memory(&draft.missing) {
        draft = Box::pin(page(view, timeline, request)).await?;
    }
    view.finish(&mut draft).await;
    Ok(draft)
}

async fn page(
    view: &View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    match timeline {
        Timeline::Home(reader) => home_page(view, reader, request).await,
        Timeline::Author(author) => Ok(read_page(view, &view.authors(&[author]), request).await),
    }
}

async fn home_page(
    view: &View<'_>,
    reader: UserId,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    match view.followees(reader).await {
        Followees::Known(authors) => Ok(read_page(view, &authors, request).await),
        Followees::TooMany => Err(ReadError::TooManyFollowees),
        Followees::Missing(shard) => Ok(page_without_follows(shard, request)),
    }
}

async fn read_page(view: &View<'_>, authors: &Authors, request: &PageRequest) -> Draft {
    let queried = BTreeSet::from_iter(authors.queried);
    let mut reading = Reading {
        view,
        missing: BTreeSet::new(),
        texts: HashMap::new(),
        handles: BTreeMap::new(),
        waves: 0,
        queried,
    };
    let mut draft = match request.cursor.direction {
        Direction::Older => reading.older_page(authors, request).await,
        Direction::Newer => reading.newer_page(authors, request).await,
    };
    draft.stale.clone_from(&authors.stale);
    draft.queried = reading.queried;
    draft
}

/// An empty page that starts again at the same cursor: the reader's follow list cannot be read.
fn page_without_follows(own: ShardId, request: &PageRequest) -> Draft {
    let cursor = &request.cursor;
    let (next, prev) = match cursor.direction {
        Direction::Older => (cursor.clone(), prev_of_empty(cursor, false)),
        Direction::Newer => (Cursor::older(cursor.edge), cursor.clone()),
    };
    Draft::new(Vec::new(), Some(next), prev, BTreeSet::from([own]))
}

/// The cursor towards newer posts after an empty page that was read towards older ones.
fn prev_of_empty(cursor: &Cursor, complete: bool) -> Cursor {
    match cursor.edge {
        // The timeline is empty, so every later post is newer.
        Edge::Top if complete => Cursor::newer(Edge::Bottom),
        // The timeline may have posts that a missing shard did not return; start at the newest
        // page.
        Edge::Top => Cursor::newest(),
        edge => Cursor::newer(edge),
    }
}

/// One page while it is being read.
struct Reading<'a> {
    view: &'a View<'a>,
    missing: BTreeSet<ShardId>,
    /// Posts that were read with their texts.
    texts: HashMap<PostKey, Post>,
    handles: BTreeMap<UserId, String>,
    waves: u32,
    /// The shards that were queried.
    queried: BTreeSet<ShardId>,
}

impl Reading<'_> {
    async fn older_page(&mut self, authors: &Authors, request: &PageRequest) -> Draft {
        let cursor = &request.cursor;
        let (mut keys, in_memory) = self.merged_keys(authors, request).await;
        let mut more = keys.len() > request.limit.get();
        keys.truncate(request.limit.get());
        let (mut posts, _) = self.hydrate(&keys, in_memory, &[]).await;
        let fitting = DraftPost::fitting(posts.iter());
        if fitting < posts.len() {
            more = true;
            posts.truncate(fitting);
            keys = posts.iter().map(DraftPost::key).collect();
        }
        let end = keys.last().map_or(cursor.edge, |key| Edge::below(*key));
        let next = (more || !self.missing.is_empty()).then(|| self.moved(cursor, end));
        let prev = match keys.first() {
            Some(first) => Cursor::newer(Edge::above(*first)),
            None => prev_of_empty(cursor, self.missing.is_empty()),
        };
        self.draft(posts, next, prev)
    }

    async fn newer_page(&mut self, authors: &Authors, request: &PageRequest) -> Draft {
        let cursor = &request.cursor;
        let (mut keys, mut in_memory) = self.merged_keys(authors, request).await;
        keys.truncate(request.limit.get());
        keys.reverse();
        in_memory.posts.truncate(request.limit.get());
        in_memory.posts.reverse();
        let bottom = keys.last().map_or(cursor.edge, |key| Edge::below(*key));
        let known = self.view.any_older(authors, bottom);
        let probe = match known {
            Older::Some => Vec::new(),
            Older::None if authors.unknown.is_empty() => Vec::new(),
            Older::None | Older::Unknown(_) => self.anchor_query(cursor, authors),
        };
        let (mut posts, anchored) = self.hydrate(&keys, in_memory, &probe).await;
        // The posts nearest to the cursor stay, and `prev` continues above them.
        let fitting = DraftPost::fitting(posts.iter().rev());
        if fitting < posts.len() {
            posts.drain(..posts.len() - fitting);
            keys = posts.iter().map(DraftPost::key).collect();
        }
        let top = keys.first().map_or(cursor.edge, |key| Edge::above(*key));
        let older = anchored || self.any_older(authors, known, bottom).await;
        let next = (older || !self.missing.is_empty()).then(|| Cursor {
            direction: Direction::Older,
            edge: bottom,
            // On a missing shard the next page starts above this one, where unread posts may be.
            shard_edges: self.missing.iter().map(|shard| (*shard, top)).collect(),
        });
        let prev = self.moved(cursor, top);
        self.draft(posts, next, prev)
    }

    fn draft(&mut self, posts: Vec<DraftPost>, next: Option<Cursor>, prev: Cursor) -> Draft {
        let mut draft = Draft::new(posts, next, prev, self.missing.clone());
        let authors: BTreeSet<UserId> = draft.posts.iter().map(|post| post.key().author).collect();
        draft.handles = std::mem::take(&mut self.handles);
        draft.handles.retain(|author, _| authors.contains(author));
        draft.waves = self.waves;
        draft
    }

    /// The keys of the page and at most one more, in the direction of the request, and the part of
    /// them that memory has.
    async fn merged_keys(
        &mut self,
        authors: &Authors,
        request: &PageRequest,
    ) -> (Vec<PostKey>, MemoryPosts) {
        let (direction, cursor) = (request.cursor.direction, &request.cursor);
        let span = Span { edge: cursor.edge, need: request.limit.get() + 1 };
        let mut in_memory = self.view.memory_posts(authors, direction, span);
        let placement = self.view.fleet().placement();
        let unknown = authors.unknown.iter().map(|&author| {
            let edge = cursor.edge_on(placement.shard_of(author));
            Unread { author, from: edge.for_author(author), bound: None }
        });
        let mut starts = std::mem::take(&mut in_memory.incomplete);
        starts.extend(unknown);
        if starts.is_empty() {
            return (in_memory.posts.iter().map(|found| found.key).collect(), in_memory);
        }
        let mut merge = Merge::new(direction, starts, span.need);
        merge.know(in_memory.posts.iter().map(|found| found.key));
        while let Some(wave) = merge.next_wave() {
            match wave {
                Wave::Keys(queries) => {
                    for (queries, rows) in self.tails(direction, queries).await {
                        merge.admit(&queries, &rows);
                    }
                }
                Wave::Posts(queries) => self.read_posts(&mut merge, queries, None).await,
                Wave::Span(queries, cut) => {
                    self.read_posts(&mut merge, queries, Some(cut)).await;
                }
            }
            // A missing shard starts at the same edge on the next page. So none of its posts may
            // be on this one, not even those that memory has.
            merge.forget(|author| self.missing.contains(&placement.shard_of(author)));
        }
        (merge.page(), in_memory)
    }

    /// One wave of posts with their texts, which are kept for the page. With a cut, each shard
    /// reads all posts up to it, unless they are too many.
    async fn read_posts(&mut self, merge: &mut Merge, queries: Vec<TailQuery>, cut: Option<i64>) {
        let direction = merge.direction();
        let by_shard = self.view.fleet().placement().group(queries, |query| query.author);
        let answers = self
            .wave(by_shard, |shard, queries, until| async move {
                let whole = match cut {
                    Some(cut) => shard.posts_until(direction, &queries, cut, until).await?,
                    None => None,
                };
                let is_whole = whole.is_some();
                let posts = match whole {
                    Some(posts) => posts,
                    None => shard.tail_posts(direction, &queries, until).await?,
                };
                let keys: Vec<PostKey> = posts.iter().map(|post| post.key).collect();
                let handles = shard.handles(&keys, until).await?;
                Ok((queries, is_whole, keys, posts, handles))
            })
            .await;
        for (queries, is_whole, keys, posts, handles) in answers {
            if is_whole {
                merge.admit_span(&queries, keys);
            } else {
                merge.admit(&queries, &keys);
            }
            self.texts.extend(posts.into_iter().map(|post| (post.key, post)));
            self.handles.extend(handles);
        }
    }

    /// One wave of tails: the queries of each shard, with the rows that answer them.
    async fn tails(
        &mut self,
        direction: Direction,
        queries: Vec<TailQuery>,
    ) -> Vec<(Vec<TailQuery>, Vec<PostKey>)> {
        let by_shard = self.view.fleet().placement().group(queries, |query| query.author);
        self.wave(by_shard, |shard, queries, until| async move {
            let rows = shard.tails(direction, &queries, until).await?;
            Ok((queries, rows))
        })
        .await
    }

    /// The posts of `keys`, in their order, and whether `probe` found a post older than its edge.
    /// Skips posts that were deleted after their keys were read.
    async fn hydrate(
        &mut self,
        keys: &[PostKey],
        in_memory: MemoryPosts,
        probe: &[TailQuery],
    ) -> (Vec<DraftPost>, bool) {
        type Work = (Vec<PostKey>, Vec<TailQuery>);
        let mut by_key: HashMap<PostKey, DraftPost> = HashMap::new();
        // The usual page from memory: all posts are there and in order.
        let all_known = |known: &[FoundPost]| keys.iter().eq(known.iter().map(|found| &found.key));
        if probe.is_empty() && in_memory.posts.get(..keys.len()).is_some_and(all_known) {
            let known = in_memory.posts.into_iter().take(keys.len());
            return (known.map(DraftPost::FromMemory).collect(), false);
        }
        let read = std::mem::take(&mut self.texts).into_iter();
        by_key.extend(read.map(|(key, post)| (key, DraftPost::FromDatabase(post))));
        by_key.extend(
            in_memory.posts.into_iter().map(|found| (found.key, DraftPost::FromMemory(found))),
        );
        let placement = self.view.fleet().placement();
        let mut work: BTreeMap<ShardId, Work> = BTreeMap::new();
        for key in keys.iter().filter(|key| !by_key.contains_key(key)) {
            work.entry(placement.shard_of(key.author)).or_default().0.push(*key);
        }
        for query in probe {
            work.entry(placement.shard_of(query.author)).or_default().1.push(*query);
        }
        let answers = self
            .wave(work, |shard, (keys, probe): Work, until| async move {
                let posts = shard.posts(&keys, until).await?;
                let handles = shard.handles(&keys, until).await?;
                let found = shard.tails(Direction::Older, &probe, until).await?;
                Ok((posts, handles, !found.is_empty()))
            })
            .await;
        let mut found_older = false;
        for (posts, handles, found) in answers {
            found_older |= found;
            self.handles.extend(handles);
            by_key.extend(posts.into_iter().map(|post| (post.key, DraftPost::FromDatabase(post))));
        }
        // A shard that did not answer starts again at the edge of this page. Its posts from memory
        // must not be on this page as well, or they would be on two pages.
        let answered = |key: &&PostKey| !self.missing.contains(&placement.shard_of(key.author));
        let posts = keys.iter().filter(answered).filter_map(|key| by_key.remove(key));
        (posts.collect(), found_older)
    }

    /// Whether any of `authors` has a post below `edge`; `known` is memory's answer. Reads the
    /// oldest post of every author that memory does not know, one row each. A shard that does not
    /// answer counts as having one; its part of the page is complete, so it is not missing.
    async fn any_older(&mut self, authors: &Authors, known: Older, edge: Edge) -> bool {
        let mut unknown = match known {
            Older::Some => return true,
            Older::None => Vec::new(),
            Older::Unknown(authors) => authors,
        };
        unknown.extend(&authors.unknown);
        let missing = self.missing.clone();
        let oldest = |author| TailQuery { author, from: AuthorEdge::Bottom, count: 1 };
        let answers = self.tails(Direction::Newer, unknown.into_iter().map(oldest).collect()).await;
        let all_answered = self.missing == missing;
        self.missing = missing;
        let is_older = |key: &PostKey| Edge::below(*key) < edge;
        !all_answered || answers.iter().any(|(_, rows)| rows.iter().any(is_older))
    }

    /// Queries every shard in `work` at the same time, except shards already found missing.
    async fn wave<A, T, F>(
        &mut self,
        mut work: BTreeMap<ShardId, A>,
        call: impl Fn(Arc<Shard>, A, Deadline) -> F,
    ) -> Vec<T>
    where
        F: Future<Output = Result<T, ShardError>>,
    {
        work.retain(|shard, _| !self.missing.contains(shard));
        if work.is_empty() {
            return Vec::new();
        }
        if !self.view.require_databases() {
            self.missing.extend(work.keys());
            return Vec::new();
        }
        if self.waves == 0 {
            self.view.wait_until_visible().await;
        }
        let turn = if self.queried.is_empty() { Turn::First } else { Turn::Next };
        self.waves += 1;
        self.queried.extend(work.keys());
        let gathered = self.view.fleet().scatter(work, turn, self.view.deadline(), call).await;
        self.missing.extend(gathered.missing);
        gathered.answers
    }

    /// The cursor after this page in the direction of `from`; the page reached `end`. Shards that
    /// answered continue at `end`; missing shards keep the edge where they started.
    fn moved(&self, from: &Cursor, end: Edge) -> Cursor {
        let further = |edge: Edge| match from.direction {
            Direction::Older => edge.min(end),
            Direction::Newer => edge.max(end),
        };
        let edge = further(from.edge);
        let mut shard_edges: BTreeMap<ShardId, Edge> =
            from.shard_edges.iter().map(|(shard, edge)| (*shard, further(*edge))).collect();
        shard_edges.extend(self.missing.iter().map(|shard| (*shard, from.edge_on(*shard))));
        shard_edges.retain(|_, shard_edge| *shard_edge != edge);
        Cursor { direction: from.direction, edge, shard_edges }
    }

    /// A query that cheaply proves that a page of newer posts has older ones below it. The author
    /// of the cursor's own key has one, unless it was deleted. At most one query, of one row.
    fn anchor_query(&self, cursor: &Cursor, authors: &Authors) -> Vec<TailQuery> {
        match cursor.edge {
            Edge::Beside { key, .. }
                if cursor.shard_edges.is_empty() && self.view.is_among(authors, key.author) =>
            {
                let from = cursor.edge.for_author(key.author);
                vec![TailQuery { author: key.author, from, count: 1 }]
            }
            _ => Vec::new(),
        }
    }
}
