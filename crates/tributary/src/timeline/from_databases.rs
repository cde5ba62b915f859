//! The second attempt at a page: reads from the databases what memory does not have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::draft::{Draft, DraftPost, Ends};
use super::explain::{StepKind, WaveKind};
use super::merge::{Merge, Unread, Wave};
use super::plan::Plan;
use super::view::{Followees, View};
use super::warm::{FoundPost, MemoryPosts, Older, Span};
use super::{Attempt, PageRequest, ReadError, Timeline};
use crate::cursor::{AuthorEdge, Cursor, Edge};
use crate::model::{Direction, Follow, Post, PostKey, ShardId, UserId, UserList, UserNames};
use crate::shard::{
    Cut, Deadline, Shard, ShardError, SpanPosts, TailQuery, Turn, joint_heads, joint_posts_until,
    joint_tail_posts, read_alone,
};

/// Reads a page. Shards that do not answer are missing from it.
pub(super) async fn page(
    view: &View<'_>,
    attempt: Attempt,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    loop {
        let frees = view.frees();
        let page = page_once(view, attempt, timeline, request).await;
        // Otherwise slots that the page was read from may have got other users.
        if view.frees() == frees {
            return page;
        }
    }
}

async fn page_once(
    view: &View<'_>,
    attempt: Attempt,
    timeline: Timeline,
    request: &PageRequest,
) -> Result<Draft, ReadError> {
    let horizon = view.horizon_of(timeline);
    let cursor = &request.cursor.within(horizon);
    let plan = match timeline {
        Timeline::Author(author) => view.plan(&[author], cursor),
        Timeline::Home(home) => match view.followees(home, request, attempt).await {
            Followees::Known(plan) => plan,
            Followees::TooMany => return Err(ReadError::TooManyFollowees),
            Followees::Missing(shard) => return Ok(page_without_follows(shard, request)),
        },
    };
    view.end_step(StepKind::Plan);
    let mut reading = Reading {
        view,
        attempt,
        horizon,
        cursor,
        missing: BTreeSet::new(),
        asked: BTreeSet::new(),
        blockers: BTreeSet::new(),
        texts: HashMap::new(),
        names: BTreeMap::new(),
        waves: 0,
        rows: if plan.queried.is_some() { plan.authors() + plan.heads.len() } else { 0 },
        queried: BTreeSet::from_iter(plan.queried),
    };
    let mut draft = match cursor.direction {
        Direction::Older => reading.older_page(&plan, request).await,
        Direction::Newer => reading.newer_page(&plan, request).await,
    };
    draft.authors = plan.authors();
    let placement = view.fleet().placement();
    let is_missing = |author: &&UserId| draft.missing.contains(&placement.shard_of(**author));
    draft.missing_authors = plan.from_databases.iter().filter(is_missing).count();
    draft.stale = plan.stale;
    draft.names = reading.names;
    let authors: BTreeSet<UserId> = draft.posts.iter().map(|post| post.key().author).collect();
    draft.names.retain(|author, _| authors.contains(author));
    draft.waves = reading.waves;
    view.fleet().cold_pages().count(reading.waves, u64::try_from(reading.rows).unwrap_or(u64::MAX));
    draft.queried = reading.queried;
    Ok(draft)
}

/// An empty page that starts again at the same cursor: the reader's follow list cannot be read.
fn page_without_follows(own: ShardId, request: &PageRequest) -> Draft {
    let cursor = &request.cursor;
    let (next, prev) = match cursor.direction {
        Direction::Older => (cursor.clone(), Ends::prev_of_empty(cursor, false)),
        Direction::Newer => (Cursor::older(cursor.edge), cursor.clone()),
    };
    Draft::new(cursor, Vec::new(), Some(next), prev, BTreeSet::from([own]))
}

/// One page while it is being read.
struct Reading<'a> {
    view: &'a View<'a>,
    attempt: Attempt,
    /// The last key that the page may show.
    horizon: Option<PostKey>,
    /// Where it is read from: the cursor of the request, within the horizon.
    cursor: &'a Cursor,
    missing: BTreeSet<ShardId>,
    /// The authors whose blocks were read, and those of them that block the reader.
    asked: BTreeSet<UserId>,
    blockers: BTreeSet<UserId>,
    /// Posts that were read with their texts.
    texts: HashMap<PostKey, Post>,
    names: BTreeMap<UserId, UserNames>,
    waves: u32,
    /// Rows that the databases returned.
    rows: usize,
    /// The shards that were queried.
    queried: BTreeSet<ShardId>,
}

impl Reading<'_> {
    async fn older_page(&mut self, plan: &Plan, request: &PageRequest) -> Draft {
        let (mut keys, in_memory) = self.merged_keys(plan, request).await;
        let more = keys.len() > request.limit.get();
        keys.truncate(request.limit.get());
        let ends = Ends::of(&keys);
        let (posts, _) = self.hydrate(&keys, in_memory, &[]).await;
        Draft::older(&request.cursor, (posts, ends), more, self.missing.clone())
    }

    async fn newer_page(&mut self, plan: &Plan, request: &PageRequest) -> Draft {
        let cursor = self.cursor;
        let (mut keys, mut in_memory) = self.merged_keys(plan, request).await;
        let is_shown = |key: PostKey| self.horizon.is_none_or(|horizon| key <= horizon);
        keys.retain(|key| is_shown(*key));
        in_memory.posts.retain(|found| is_shown(found.key));
        keys.truncate(request.limit.get());
        keys.reverse();
        in_memory.posts.truncate(request.limit.get());
        in_memory.posts.reverse();
        let ends = Ends::of(&keys);
        let bottom = ends.bottom(cursor).within(self.horizon);
        let known = self.view.any_older(plan, bottom);
        let probe = match known {
            Older::Some => Vec::new(),
            Older::None if plan.from_databases.is_empty() => Vec::new(),
            Older::None | Older::Unknown(_) => self.anchor_query(plan),
        };
        let (posts, anchored) = self.hydrate(&keys, in_memory, &probe).await;
        let older = anchored || self.any_older(plan, known, bottom).await;
        Draft::newer(cursor, (posts, ends), older, self.missing.clone())
    }

    /// The keys of the page and at most one more, in the direction of the request, and the part of
    /// them that memory has.
    async fn merged_keys(
        &mut self,
        plan: &Plan,
        request: &PageRequest,
    ) -> (Vec<PostKey>, MemoryPosts) {
        let (direction, cursor) = (self.cursor.direction, self.cursor);
        let span = Span::of(request, cursor, plan.reader);
        let mut in_memory = self.view.memory_posts(plan, direction, span);
        let placement = self.view.fleet().placement();
        let unknown = plan.from_databases.iter().map(|&author| {
            let edge = cursor.edge_on(placement.shard_of(author));
            Unread { author, from: edge.for_author(author), bound: None }
        });
        self.view.request_fills(&in_memory);
        let mut starts = std::mem::take(&mut in_memory.incomplete);
        self.find_blockers(plan, starts.iter().map(|unread| unread.author)).await;
        starts.extend(unknown);
        starts.retain(|unread| !self.blockers.contains(&unread.author));
        if starts.is_empty() {
            return (in_memory.posts.iter().map(|found| found.key).collect(), in_memory);
        }
        let mut merge = Merge::new(direction, starts, span.need);
        if span.is_newest {
            merge.start_at_horizon(span.edge);
            merge.admit_heads(&plan.heads);
        }
        let (authors, reads_heads) = (merge.authors(), merge.reads_heads());
        let cold_pages = self.view.fleet().cold_pages();
        merge.expect(cold_pages.authors_of_page(authors, span.need));
        merge.know(in_memory.posts.iter().map(|found| found.key));
        while let Some(wave) = merge.next_wave() {
            match wave {
                Wave::Keys(queries) => {
                    for (queries, rows) in self.tails(WaveKind::Heads, direction, queries).await {
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
        let page = merge.page();
        // With fewer authors, the posts of all of them are read.
        if page.len() == span.need && reads_heads {
            let authors_of_page: HashSet<UserId> = page.iter().map(|key| key.author).collect();
            cold_pages.note_authors(authors, (authors_of_page.len(), span.need));
        }
        (page, in_memory)
    }

    /// Finds out which authors block the reader: those that are read from the databases, and those
    /// that memory has not enough posts of. Costs one query of each shard for the authors whose
    /// tails memory does not have. An author of a shard that does not answer is on no page.
    async fn find_blockers(&mut self, plan: &Plan, incomplete: impl Iterator<Item = UserId>) {
        let fleet = self.view.fleet();
        let has_blocks = fleet.has_table(UserList::Blocks);
        let Some(reader) = plan.reader.filter(|_| has_blocks) else { return };
        let mut entries = Vec::new();
        let known = incomplete.map(|author| (author, self.view.blocks_in_memory(author, reader)));
        for (author, blocks) in known.chain(plan.from_databases.iter().map(|it| (*it, None))) {
            match blocks {
                _ if author == reader || !self.asked.insert(author) => {}
                Some(true) => drop(self.blockers.insert(author)),
                Some(false) => {}
                None => entries.push(Follow { follower: author, followee: reader }),
            }
        }
        let asked = entries.len();
        let mut work = fleet.placement().group(entries, |entry| entry.follower);
        work.retain(|shard, _| !self.missing.contains(shard));
        if work.is_empty() || self.attempt == Attempt::MemoryOnly {
            return self.missing.extend(work.keys());
        }
        let call = |shard: Arc<Shard>, entries: Vec<Follow>, _, until| async move {
            shard.entries(UserList::Blocks, &entries, until).await
        };
        let answers = self.query((WaveKind::Blocks, asked), work, (read_alone, call)).await;
        for entry in answers.into_iter().flatten() {
            self.rows += 1;
            self.blockers.insert(entry.follower);
        }
    }

    /// One wave of posts with their texts, which are kept for the page. With a cut, each shard
    /// reads all posts up to it, unless they are too many.
    async fn read_posts(&mut self, merge: &mut Merge, queries: Vec<TailQuery>, cut: Option<Cut>) {
        let direction = merge.direction();
        let kind = if cut.is_some() { WaveKind::Span } else { WaveKind::Posts };
        let asked = queries.len();
        let by_shard = self.view.fleet().placement().group(queries, |query| query.author);
        let joint = |parts: Vec<_>, until| async move {
            match cut {
                Some(cut) => joint_posts_until(&parts, direction, cut, until).await,
                None => {
                    let posts = joint_tail_posts(&parts, direction, until).await?;
                    let posts = posts.into_iter();
                    Some(
                        posts
                            .map(|posts| Some(SpanPosts { posts, complete_above: None }))
                            .collect(),
                    )
                }
            }
        };
        let call = |shard: Arc<Shard>, queries: Vec<TailQuery>, read, until| async move {
            let read = match (read, cut) {
                (Some(read), _) => read,
                (None, Some(cut)) => shard.posts_until(direction, &queries, cut, until).await?,
                (None, None) => None,
            };
            let span = read.as_ref().filter(|_| cut.is_some()).map(|read| read.complete_above);
            let posts = match read {
                Some(read) => read.posts,
                None => shard.tail_posts(direction, &queries, until).await?,
            };
            let keys: Vec<PostKey> = posts.iter().map(|post| post.key).collect();
            let authors = keys.iter().map(|key| key.author).collect();
            let names = shard.names(authors, until).await?;
            Ok((queries, span, keys, posts, names))
        };
        let answers = self.wave((kind, asked), by_shard, (joint, call)).await;
        for (queries, span, keys, posts, names) in answers {
            self.rows += posts.len() + names.len();
            match span {
                Some(complete_above) => merge.admit_span(&queries, keys, complete_above),
                None => merge.admit(&queries, &keys),
            }
            self.texts.extend(posts.into_iter().map(|post| (post.key, post)));
            self.names.extend(names);
        }
    }

    /// One wave of tails: the queries of each shard, with the rows that answer them.
    async fn tails(
        &mut self,
        kind: WaveKind,
        direction: Direction,
        queries: Vec<TailQuery>,
    ) -> Vec<(Vec<TailQuery>, Vec<PostKey>)> {
        let asked = queries.len();
        let by_shard = self.view.fleet().placement().group(queries, |query| query.author);
        let joint =
            |parts: Vec<_>, until| async move { joint_heads(&parts, direction, until).await };
        let call = |shard: Arc<Shard>, queries: Vec<TailQuery>, read, until| async move {
            let rows = match read {
                Some(rows) => rows,
                None => shard.tails(direction, &queries, until).await?,
            };
            Ok((queries, rows))
        };
        let answers = self.wave((kind, asked), by_shard, (joint, call)).await;
        self.rows += answers.iter().map(|(_, rows)| rows.len()).sum::<usize>();
        answers
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
        let asked = work.values().map(|(keys, probe)| keys.len() + probe.len()).sum();
        let call = |shard: Arc<Shard>, (keys, probe): Work, _, until| async move {
            let posts = shard.posts(&keys, until).await?;
            let authors = keys.iter().map(|key| key.author).collect();
            let names = shard.names(authors, until).await?;
            let found = shard.tails(Direction::Older, &probe, until).await?;
            Ok((posts, names, !found.is_empty()))
        };
        let answers = self.wave((WaveKind::Texts, asked), work, (read_alone, call)).await;
        let mut found_older = false;
        for (posts, names, found) in answers {
            found_older |= found;
            self.rows += posts.len() + names.len();
            self.names.extend(names);
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
    async fn any_older(&mut self, plan: &Plan, known: Older, edge: Edge) -> bool {
        let mut unknown = match known {
            Older::Some => return true,
            Older::None => Vec::new(),
            Older::Unknown(authors) => authors,
        };
        let missing = self.missing.clone();
        self.find_blockers(plan, unknown.iter().copied()).await;
        unknown.extend(&plan.from_databases);
        unknown.retain(|author| !self.blockers.contains(author));
        let oldest = |author| TailQuery { author, from: AuthorEdge::Bottom, count: 1 };
        let queries = unknown.into_iter().map(oldest).collect();
        let answers = self.tails(WaveKind::Oldest, Direction::Newer, queries).await;
        let all_answered = self.missing == missing;
        self.missing = missing;
        let is_older = |key: &PostKey| Edge::below(*key) < edge;
        !all_answered || answers.iter().any(|(_, rows)| rows.iter().any(is_older))
    }

    /// Queries every shard in `work` at the same time, except shards already found missing. The
    /// kind and the number of queries are for the explanation of the page. The calls are those of
    /// [`crate::shard::Fleet::scatter_measured`].
    async fn wave<A, P, T, F, J>(
        &mut self,
        (kind, asked): (WaveKind, usize),
        mut work: BTreeMap<ShardId, A>,
        calls: (
            impl Fn(Vec<(Arc<Shard>, A)>, Deadline) -> J,
            impl Fn(Arc<Shard>, A, Option<P>, Deadline) -> F,
        ),
    ) -> Vec<T>
    where
        A: Clone,
        F: Future<Output = Result<T, ShardError>>,
        J: Future<Output = Option<Vec<P>>>,
    {
        work.retain(|shard, _| !self.missing.contains(shard));
        if work.is_empty() {
            return Vec::new();
        }
        if self.attempt == Attempt::MemoryOnly {
            self.missing.extend(work.keys());
            return Vec::new();
        }
        self.waves += 1;
        self.query((kind, asked), work, calls).await
    }

    /// As [`Reading::wave`], not counted as one: it reads no posts.
    async fn query<A, P, T, F, J>(
        &mut self,
        (kind, asked): (WaveKind, usize),
        work: BTreeMap<ShardId, A>,
        calls: (
            impl Fn(Vec<(Arc<Shard>, A)>, Deadline) -> J,
            impl Fn(Arc<Shard>, A, Option<P>, Deadline) -> F,
        ),
    ) -> Vec<T>
    where
        A: Clone,
        F: Future<Output = Result<T, ShardError>>,
        J: Future<Output = Option<Vec<P>>>,
    {
        let turn = if self.queried.is_empty() { Turn::First } else { Turn::Next };
        self.queried.extend(work.keys());
        self.view.end_step(StepKind::Merge);
        let (fleet, deadline, costs) = (self.view.fleet(), self.view.deadline(), self.view.costs());
        let terms = (turn, costs.as_ref());
        let gathered = fleet.scatter_measured(work, terms, deadline, calls).await;
        self.view.end_wave(kind, asked, costs);
        self.missing.extend(gathered.missing);
        gathered.answers
    }

    /// A query that cheaply proves that a page of newer posts has older ones below it. The author
    /// of the cursor's own key has one, unless it was deleted. At most one query, of one row.
    fn anchor_query(&self, plan: &Plan) -> Vec<TailQuery> {
        let (cursor, edge) = (self.cursor, self.cursor.edge.within(self.horizon));
        match edge {
            Edge::Beside { key, .. }
                if cursor.shard_edges.is_empty()
                    && !self.blockers.contains(&key.author)
                    && self.view.is_among(plan, key.author) =>
            {
                let from = edge.for_author(key.author);
                vec![TailQuery { author: key.author, from, count: 1 }]
            }
            _ => Vec::new(),
        }
    }
}
