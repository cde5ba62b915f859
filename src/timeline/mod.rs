//! The read path: a page of a home timeline or of an author timeline, from the shards that own the
//! authors. All decisions of a read stand here; how rows are fetched stands in `shard`.

mod draft;
mod flight;
mod merge;
mod page;
mod recent;
mod view;
mod warm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::draft::{Draft, DraftPost};
use self::flight::Flights;
use self::merge::Merge;
pub use self::page::{Limit, Page, PageRequest};
pub(crate) use self::view::View;
use self::view::{Authors, Followees};
use self::warm::{FoundPost, Older, Scan, Span};
use crate::cursor::{AuthorEdge, Cursor, Edge, TailQuery};
use crate::freshness::Freshness;
use crate::model::{Direction, PostKey, ShardId, UserId};
use crate::shard::{Deadline, Shard, ShardError};

/// A follow list longer than this is refused, never cut: a cut list would be a silently incomplete
/// timeline. A list of this length is 800 KB and its heads a few thousand statements.
pub const FOLLOWEES_MAX: usize = 100_000;

/// Why a timeline cannot be read at all. A shard that is away is no such reason: it makes a page
/// incomplete.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// The reader follows more than [`FOLLOWEES_MAX`] users.
    #[error("the user follows more than {FOLLOWEES_MAX} users, the most a timeline is read for")]
    TooManyFollowees,
}

/// What a page is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timeline {
    /// The home timeline of a reader.
    Home(UserId),
    /// The posts of an author.
    Author(UserId),
}

/// What all those want who share a read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    timeline: Timeline,
    cursor: Cursor,
    limit: Limit,
}

/// What is read now for several requests.
pub(crate) type TimelineFlights = Flights<FlightKey, Result<Draft, ReadError>>;

/// The page of `reader`'s home timeline that `request` names: posts by everyone the reader follows.
///
/// From memory it costs a look at the newest time of every followee, and at the newest posts of those
/// few that can stand on the page. What memory does not hold costs one query for the follow list on
/// the reader's shard and at most five waves, in each of which every shard that owns a followee still
/// in question is asked once, all at the same time; at most `4 x followees + 12 x limit` rows are
/// read. (A page towards newer posts whose anchor was deleted since may take a sixth wave.) An
/// unknown reader has an empty timeline.
pub(crate) async fn home_timeline(
    view: &mut View<'_>,
    reader: UserId,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    read(view, Timeline::Home(reader), request).await
}

/// The page of the posts of one author that `request` names.
pub(crate) async fn author_timeline(
    view: &mut View<'_>,
    author: UserId,
    request: &PageRequest,
) -> Draft {
    let draft = read(view, Timeline::Author(author), request).await;
    draft.expect("one author is not too many")
}

/// From memory alone, or else together with all others who want the same page.
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
    // On the heap: pages from memory are many, and need not carry the room for this.
    Box::pin(read_cold(view, timeline, request)).await
}

/// What memory does not have, together with others where that does no harm.
async fn read_cold(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    view.wait_until_visible().await;
    // What others read may come from a memory that has not come to this one's token; and what this one
    // reads with little time left would be incomplete for others who have more.
    if view.memory_lags() || view.is_late() {
        view.allow_databases();
    } else {
        let flight = FlightKey { timeline, cursor: request.cursor.clone(), limit: request.limit };
        let read = || read_shared(view, &flight);
        if let Some(answer) = view.flights().share(&flight, view.deadline(), read).await {
            return answer.map(|draft| view.adapt_shared(draft));
        }
        // It is too late to ask anybody: what memory has is the page.
    }
    whole_page(view, timeline, request).await
}

/// Nothing of it depends on who of those who want the page reads it.
async fn read_shared(view: &View<'_>, flight: &FlightKey) -> Result<Draft, ReadError> {
    let mut view = view.renewed();
    let FlightKey { timeline, cursor, limit } = flight.clone();
    let request = PageRequest { cursor, limit, at_least: Freshness::default() };
    view.wait_until_fresh(&request).await;
    whole_page(&mut view, timeline, &request).await
}

/// The page, with what a dead server had, and how fresh it is.
async fn whole_page(
    view: &mut View<'_>,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let mut draft = page(view, timeline, request).await?;
    // A server that was found dead a moment ago: what memory holds of it is better than nothing.
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
    let mut reading =
        Reading { view, missing: BTreeSet::new(), handles: BTreeMap::new(), waves: 0, queried };
    let mut draft = match request.cursor.direction {
        Direction::Older => reading.older_page(authors, request).await,
        Direction::Newer => reading.newer_page(authors, request).await,
    };
    draft.stale.clone_from(&authors.stale);
    draft.queried = reading.queried;
    draft
}

/// Nobody's posts can be found while the reader's follow list is away: the same place again.
fn page_without_follows(own: ShardId, request: &PageRequest) -> Draft {
    let cursor = &request.cursor;
    let (next, prev) = match cursor.direction {
        Direction::Older => (cursor.clone(), prev_of_empty(cursor, false)),
        Direction::Newer => (Cursor::older(cursor.edge), cursor.clone()),
    };
    Draft::new(Vec::new(), Some(next), prev, BTreeSet::from([own]))
}

/// Where to look for newer posts when a page read towards older ones has none.
fn prev_of_empty(cursor: &Cursor, complete: bool) -> Cursor {
    match cursor.edge {
        // The timeline is empty: whatever comes is newer.
        Edge::Top if complete => Cursor::newer(Edge::Bottom),
        // What it holds is not known; the newest page is the only honest start.
        Edge::Top => Cursor::newest(),
        edge => Cursor::newer(edge),
    }
}

/// One page in the making.
struct Reading<'a> {
    view: &'a View<'a>,
    missing: BTreeSet<ShardId>,
    handles: BTreeMap<UserId, String>,
    waves: u32,
    /// The shards that were asked.
    queried: BTreeSet<ShardId>,
}

impl Reading<'_> {
    async fn older_page(&mut self, authors: &Authors, request: &PageRequest) -> Draft {
        let cursor = &request.cursor;
        let (mut keys, scan) = self.merged_keys(authors, request).await;
        let more = keys.len() > request.limit.get();
        keys.truncate(request.limit.get());
        let (posts, _) = self.hydrate(&keys, scan, &[]).await;
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
        let (mut keys, mut scan) = self.merged_keys(authors, request).await;
        keys.truncate(request.limit.get());
        keys.reverse();
        scan.found.truncate(request.limit.get());
        scan.found.reverse();
        let top = keys.first().map_or(cursor.edge, |key| Edge::above(*key));
        let bottom = keys.last().map_or(cursor.edge, |key| Edge::below(*key));
        let known = self.view.any_older(authors, bottom);
        let probe = match known {
            Older::Some => Vec::new(),
            Older::None if authors.unknown.is_empty() => Vec::new(),
            Older::None | Older::Unknown(_) => self.anchor_query(cursor, authors),
        };
        let (posts, anchored) = self.hydrate(&keys, scan, &probe).await;
        let older = anchored || self.any_older(authors, known, bottom).await;
        let next = (older || !self.missing.is_empty()).then(|| Cursor {
            direction: Direction::Older,
            edge: bottom,
            // What a missing shard has beside this page comes with the page below it.
            shard_edges: self.missing.iter().map(|shard| (*shard, top)).collect(),
        });
        let prev = self.moved(cursor, top);
        self.draft(posts, next, prev)
    }

    fn draft(&mut self, posts: Vec<DraftPost>, next: Option<Cursor>, prev: Cursor) -> Draft {
        let mut draft = Draft::new(posts, next, prev, self.missing.clone());
        draft.handles = std::mem::take(&mut self.handles);
        draft.waves = self.waves;
        draft
    }

    /// The keys of the page and, if there are more, one more, in the direction of the request; and
    /// what memory knows of them.
    async fn merged_keys(
        &mut self,
        authors: &Authors,
        request: &PageRequest,
    ) -> (Vec<PostKey>, Scan) {
        let (direction, cursor) = (request.cursor.direction, &request.cursor);
        let span = Span { edge: cursor.edge, need: request.limit.get() + 1 };
        let mut scan = self.view.scan(authors, direction, span);
        let placement = self.view.fleet().placement();
        let unknown = authors.unknown.iter().map(|&author| {
            let edge = cursor.edge_on(placement.shard_of(author));
            (author, edge.for_author(author))
        });
        let mut starts = std::mem::take(&mut scan.incomplete);
        starts.extend(unknown);
        if starts.is_empty() {
            return (scan.found.iter().map(|found| found.key).collect(), scan);
        }
        let mut merge = Merge::new(direction, starts, span.need);
        merge.know(scan.found.iter().map(|found| found.key));
        loop {
            let queries = merge.next_wave();
            if queries.is_empty() {
                return (merge.page(), scan);
            }
            for (queries, rows) in self.tails(direction, queries).await {
                merge.admit(&queries, &rows);
            }
            // What memory knows of a shard that is missing goes with it: the shard comes again
            // from here on, whole.
            merge.forget(|author| self.missing.contains(&placement.shard_of(author)));
        }
    }

    /// One wave of tails: each owning shard's asks with the rows that answer them.
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
    /// A post that was deleted since its key was read is left out.
    async fn hydrate(
        &mut self,
        keys: &[PostKey],
        scan: Scan,
        probe: &[TailQuery],
    ) -> (Vec<DraftPost>, bool) {
        type Work = (Vec<PostKey>, Vec<TailQuery>);
        let mut by_key: HashMap<PostKey, DraftPost> = HashMap::new();
        // The usual page from memory: all of it, in order.
        let all_known = |known: &[FoundPost]| keys.iter().eq(known.iter().map(|found| &found.key));
        if probe.is_empty() && scan.found.get(..keys.len()).is_some_and(all_known) {
            let known = scan.found.into_iter().take(keys.len());
            return (known.map(DraftPost::FromMemory).collect(), false);
        }
        by_key
            .extend(scan.found.into_iter().map(|found| (found.key, DraftPost::FromMemory(found))));
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
        // A shard that did not answer comes again from where this page began, whole: what memory has
        // of it would then stand on two pages.
        let answered = |key: &&PostKey| !self.missing.contains(&placement.shard_of(key.author));
        let posts = keys.iter().filter(answered).filter_map(|key| by_key.remove(key));
        (posts.collect(), found_older)
    }

    /// Whether any of `authors` has a post under `edge`, of which memory knows so much. Of those
    /// that memory does not know it reads one row each, the oldest. A shard that does not answer now
    /// may have one, but its part of the page is whole, so it is not missing.
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

    /// Asks every shard in `work` at the same time, but for those found missing before.
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
        self.waves += 1;
        self.queried.extend(work.keys());
        let gathered = self.view.fleet().scatter(work, self.view.deadline(), call).await;
        self.missing.extend(gathered.missing);
        gathered.answers
    }

    /// The cursor behind this page in the direction of `from`, the page having reached `end`:
    /// shards that answered go on from there, missing ones stay where they were.
    fn moved(&self, from: &Cursor, end: Edge) -> Cursor {
        let further = |edge: Edge| match from.direction {
            Direction::Older => edge.min(end),
            Direction::Newer => edge.max(end),
        };
        let edge = further(from.edge);
        let mut shard_edges: BTreeMap<ShardId, Edge> =
            from.shard_edges.iter().map(|(shard, edge)| (*shard, further(*edge))).collect();
        shard_edges.extend(self.missing.iter().map(|shard| (*shard, from.edge_on(*shard))));
        shard_edges.retain(|_, place| *place != edge);
        Cursor { direction: from.direction, edge, shard_edges }
    }

    /// A cheap proof that something older than a page of newer posts exists: the author of the post
    /// that the cursor stands beside has one, unless it was deleted.
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
