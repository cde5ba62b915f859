//! The changes of a home timeline since a freshness token, in log order.
//!
//! The order of posts cannot answer this: a post can become visible below posts that were shown
//! before. Each server's log has all changes in the order in which they became visible, so the
//! answer is read from the newest changes that memory keeps of each log.
//!
//! Logs of different servers have no common order. The follow list is read after the positions
//! that the answer reaches, so it is at least as new as the answer. A reader who has followed
//! a user gets that as an event with a token, and reads the page again with it: that page has
//! the earlier posts of the new followee, and the events after it have the later ones. If an author
//! no longer blocks the reader, the answer is a gap, since no event may say who blocks the reader.
//!
//! A token stands for all posts up to one position in each log and up to one horizon. An answer
//! first moves the horizon of the token to the one of now, which shows the posts that are due, and
//! then the positions. Changes of posts above the horizon are not returned.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::ReadError;
use super::draft::PAGE_JSON_MAX;
use super::due::{Due, DueRange, due};
use super::events::post_key;
pub use super::events::{News, NewsEvent, NewsPost, NewsRequest};
use super::hidden::Blockers;
pub use super::live::{SubscribeError, Subscription};
use super::names::names;
use super::view::View;
use crate::changes::{ChangePosition, LogIdentity, LogPosition};
use crate::freshness::Freshness;
use crate::horizon::{AHEAD_MS, Horizon};
use crate::memory::{FollowedLog, Gap, Memory, NewsChange, NewsItem, NewsRange, Subject};
use crate::model::{PostId, PostKey, ShardId, UserId, UserList};
use crate::shard::{FolloweesError, Turn};

/// How often the follow list is read if it changes during the read. After that, an answer may have
/// posts of a followee whose follow comes in the next answer.
const LIST_TRIES: u32 = 3;

/// The changes of `reader`'s home timeline since a token, at most `limit`. Without a token, the
/// token to begin with.
pub(crate) async fn news(
    view: &mut View<'_>,
    reader: UserId,
    request: &NewsRequest,
) -> Result<News, ReadError> {
    let answer = with_authors(view, reader, request, PAGE_JSON_MAX).await;
    answer.map(|(news, _)| news)
}

/// [`news`] with at most this many bytes of JSON, and the users that the reader follows. `None` if
/// they were not read.
pub(super) async fn with_authors(
    view: &mut View<'_>,
    reader: UserId,
    NewsRequest { since, limit, at_least }: &NewsRequest,
    bytes_max: usize,
) -> Result<(News, Option<Vec<UserId>>), ReadError> {
    let Some(memory) = view.memory() else {
        return Ok((News::with_gap(Freshness::default()), None));
    };
    let freshness_lost = !reaches(view, at_least).await;
    let Some(since) = since else {
        let freshness = view.reached();
        return Ok((News { freshness, freshness_lost, ..News::default() }, None));
    };
    let mut asked = match Asked::new(view, memory, reader, since).await? {
        Ok(asked) => asked,
        Err(unread) => return Ok((News { freshness_lost, ..unread }, None)),
    };
    let mut blockers = Blockers::of(reader);
    let mut news = loop {
        let news = asked.read(view, limit.get(), bytes_max).await;
        let authors = news.events.iter().filter_map(NewsEvent::author);
        match blockers.read(view, (memory, &asked.reached), authors).await {
            Ok(()) => break news,
            Err(missing) => asked.exclude(&missing),
        }
    };
    news.drop_posts_of(&blockers);
    news.queried |= blockers.queried | add_names(view, &mut news.events).await;
    Ok((News { freshness_lost, ..news }, Some(asked.authors)))
}

/// The number of posts that became visible in `reader`'s home timeline since a token and still
/// are, and the rest of an answer without events. None without a token.
pub(crate) async fn count(
    view: &mut View<'_>,
    reader: UserId,
    NewsRequest { since, at_least, .. }: &NewsRequest,
) -> Result<(usize, News), ReadError> {
    let Some(memory) = view.memory() else { return Ok((0, News::with_gap(Freshness::default()))) };
    let freshness_lost = !reaches(view, at_least).await;
    let Some(since) = since else {
        let freshness = view.reached();
        return Ok((0, News { freshness, freshness_lost, ..News::default() }));
    };
    let mut asked = match Asked::new(view, memory, reader, since).await? {
        Ok(asked) => asked,
        Err(unread) => return Ok((0, News { freshness_lost, ..unread })),
    };
    let mut blockers = Blockers::of(reader);
    let (mut posts, mut news) = loop {
        let gap = |Gap| (HashSet::new(), News::with_gap(asked.reached.clone()));
        let (posts, news) = asked.count(view).await.unwrap_or_else(gap);
        let authors = posts.iter().map(|post| post.author);
        match blockers.read(view, (memory, &asked.reached), authors).await {
            Ok(()) => break (posts, news),
            Err(missing) => asked.exclude(&missing),
        }
    };
    posts.retain(|post| !blockers.contains(post.author));
    news.queried |= blockers.queried;
    Ok((posts.len(), News { freshness_lost, ..asked.with_cost(news) }))
}

/// Waits until memory has the positions of the token, for half of the time of the request at most.
/// Returns whether it has.
async fn reaches(view: &mut View<'_>, at_least: &Freshness) -> bool {
    if view.has_reached(at_least) {
        return true;
    }
    view.wait_until_fresh().await;
    view.memory_has_token()
}

/// A request for news with everything that its answer depends on.
struct Asked<'a> {
    memory: &'a Memory,
    reader: UserId,
    since: &'a Freshness,
    /// The logs that end before the position of the token.
    beyond_end: Vec<LogIdentity>,
    authors: Vec<UserId>,
    /// Whether the follow list was queried.
    queried: bool,
    /// Memory's positions, read before the follow list, and the horizon of now.
    reached: Freshness,
    /// The subjects and their shards by the index of their log, the reader's own log first.
    logs: Vec<(usize, Subjects)>,
    /// The logs that are not read, because it is unknown which of their authors block the reader.
    excluded: BTreeSet<usize>,
}

/// The part of a request that concerns one log.
#[derive(Clone, Debug, Default)]
struct Subjects {
    subjects: Vec<Subject>,
    shards: BTreeSet<ShardId>,
}

/// The posts that are due since a token.
#[derive(Default)]
struct DueSince {
    posts: Vec<(PostKey, Arc<str>)>,
    /// When the next hidden post is due, in milliseconds since 1970 (UTC).
    next_ms: Option<i64>,
    /// The horizon of the answer. `None` if no posts are hidden.
    reached: Option<PostKey>,
}

/// The part of a log that is asked for: from the token to what memory has.
struct LogRange {
    identity: LogIdentity,
    since: ChangePosition,
    until: LogPosition,
}

/// The changes of one log.
enum LogNews {
    /// Changes up to this position.
    Items(LogIdentity, Vec<NewsItem>),
    /// The log cannot be read now: see [`Asked::range_of`].
    NotReached,
}

impl<'a> Asked<'a> {
    /// Waits for the token and reads the follow list. The inner error is the answer of a request
    /// that cannot be read now.
    async fn new(
        view: &mut View<'_>,
        memory: &'a Memory,
        reader: UserId,
        since: &'a Freshness,
    ) -> Result<Result<Self, News>, ReadError> {
        if !view.has_reached(since) {
            view.wait_until_fresh().await;
        }
        let identities = since.positions().iter().map(|(identity, _)| *identity);
        let beyond_end = identities.filter(|identity| view.is_beyond_end(*identity)).collect();
        let mut tries = 1;
        loop {
            let reached = view.reached();
            let (authors, queried) = match view.followed_users(reader).await {
                Ok(authors) => authors,
                Err(FolloweesError::TooMany) => return Err(ReadError::TooManyFollowees),
                Err(FolloweesError::Missing(shard)) => {
                    let missing = BTreeSet::from([shard]);
                    let freshness = since.clone();
                    return Ok(Err(News { freshness, missing, ..News::default() }));
                }
            };
            // The list in memory may be newer than the position.
            if tries == LIST_TRIES || !follows_changed(memory, reader, &reached) {
                let (logs, excluded) = (subjects(memory, reader, &authors), BTreeSet::new());
                return Ok(Ok(Self {
                    memory,
                    reader,
                    since,
                    beyond_end,
                    authors,
                    queried,
                    reached,
                    logs,
                    excluded,
                }));
            }
            view.begin_again();
            tries += 1;
        }
    }

    /// Reads no more from the logs of these shards. Their changes come in a later answer.
    fn exclude(&mut self, missing: &BTreeSet<ShardId>) {
        let has_missing = |log: &FollowedLog| log.shards().iter().any(|it| missing.contains(it));
        let logs = self.memory.logs().iter().enumerate();
        self.excluded.extend(logs.filter(|(_, log)| has_missing(log)).map(|(index, _)| index));
    }

    async fn read(&self, view: &mut View<'_>, limit: usize, bytes_max: usize) -> News {
        let news = match self.try_read(view, limit, bytes_max).await {
            Ok(news) => news,
            Err(Gap) => {
                let next_due_ms = Box::pin(self.next_due(view)).await;
                News { next_due_ms, ..News::with_gap(self.reached.clone()) }
            }
        };
        self.with_cost(news)
    }

    /// When the next post becomes visible that the page after a gap hides. Soon, if that cannot be
    /// known now.
    async fn next_due(&self, view: &mut View<'_>) -> Option<i64> {
        let Self { memory, reader, queried, .. } = *self;
        let since = &self.reached;
        let (authors, logs) = (self.authors.clone(), self.logs.clone());
        let (reached, excluded) = (self.reached.clone(), self.excluded.clone());
        let beyond_end = Vec::new();
        let after =
            Asked { memory, reader, since, beyond_end, authors, queried, reached, logs, excluded };
        match after.due(view).await {
            Ok(due) => due.next_ms,
            Err(Gap) => Some(Horizon::soon_ms()),
        }
    }

    async fn try_read(
        &self,
        view: &mut View<'_>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<News, Gap> {
        let mut answer = Answer::new(self.start(), limit, bytes_max);
        let due = self.due(view).await?;
        answer.news.next_due_ms = due.next_ms;
        if !due.posts.into_iter().all(|(key, json)| answer.add_due(key, json)) {
            return Ok(answer.news);
        }
        answer.news.freshness.set_horizon(due.reached);
        for (index, asked) in &self.logs {
            let log = &self.memory.logs()[*index];
            self.note_stale(log, asked, &mut answer.news);
            let limit = answer.room().saturating_add(1);
            match self.changes(*index, asked, due.reached, limit)? {
                LogNews::Items(identity, items) => {
                    if items.into_iter().all(|item| answer.add(identity, item)) {
                        self.pass(identity, &mut answer.news.freshness);
                    }
                }
                LogNews::NotReached => self.skip(log, asked, due.reached, &mut answer.news),
            }
        }
        Ok(answer.news)
    }

    /// Collects the posts, whatever their bytes.
    async fn count(&self, view: &mut View<'_>) -> Result<(HashSet<PostKey>, News), Gap> {
        let mut news = News { freshness: self.start(), ..News::default() };
        let due = self.due(view).await?;
        news.freshness.set_horizon(due.reached);
        let mut posts: HashSet<PostKey> = due.posts.into_iter().map(|(key, _)| key).collect();
        for (index, asked) in &self.logs {
            let log = &self.memory.logs()[*index];
            self.note_stale(log, asked, &mut news);
            match self.changes(*index, asked, due.reached, usize::MAX)? {
                LogNews::Items(identity, items) => {
                    posts.extend(items.iter().filter_map(NewsItem::new_post));
                    self.pass(identity, &mut news.freshness);
                }
                LogNews::NotReached => self.skip(log, asked, due.reached, &mut news),
            }
        }
        Ok((posts, news))
    }

    /// The posts that become visible because their time has come.
    async fn due(&self, view: &mut View<'_>) -> Result<DueSince, Gap> {
        let (from, until) = match (self.since.horizon(), self.reached.horizon()) {
            (Some(from), Some(until)) => (from, until.max(from)),
            (None, None) => return Ok(DueSince::default()),
            // `timeline.future` has another value now.
            _ => return Err(Gap),
        };
        let is_long = view.fleet().horizon().ms_between(from, until) > AHEAD_MS;
        // For a minute the horizon can wait: posts of now are below it all the same.
        let waiting = DueSince { reached: Some(from), ..DueSince::default() };
        let Some(authors) = self.with_future(from, is_long)? else { return Ok(waiting) };
        let range = DueRange { from, until };
        match due(view, self.memory, ([self.since, &self.reached], range), &authors).await {
            Ok(Due { posts, next, .. }) => {
                let next_ms = next.map(|time| view.fleet().horizon().reaches_ms(time));
                Ok(DueSince { posts, next_ms, reached: Some(until) })
            }
            Err(Gap) if is_long => Err(Gap),
            Err(Gap) => Ok(DueSince { next_ms: Some(Horizon::soon_ms()), ..waiting }),
        }
    }

    /// The authors that may have posts which are hidden at this horizon of the token. `None` if
    /// the horizon waits for a log that cannot be read now.
    fn with_future(&self, horizon: PostKey, is_long: bool) -> Result<Option<Vec<UserId>>, Gap> {
        let mut found = Vec::new();
        for (index, asked) in &self.logs {
            let log = &self.memory.logs()[*index];
            let Some(LogRange { since, .. }) = self.range_of(*index)? else {
                if is_long {
                    continue;
                }
                return Ok(None);
            };
            let shard_of = |author| self.memory.placement().shard_of(author);
            let authors = asked.subjects.iter().filter_map(|subject| match subject {
                Subject::Author(author) => Some((*author, shard_of(*author))),
                _ => None,
            });
            found.extend(log.news.with_future((since, horizon), authors)?);
        }
        Ok(Some(found))
    }

    /// Notes a log that cannot be read now. If the horizon continues without it, its posts may
    /// become due unnoticed. The token then loses the log, and its next answer for it is a gap.
    fn skip(&self, log: &FollowedLog, asked: &Subjects, horizon: Option<PostKey>, news: &mut News) {
        news.missing.extend(&asked.shards);
        if horizon <= self.since.horizon() {
            return;
        }
        let followed: Vec<_> =
            self.memory.logs().iter().filter_map(FollowedLog::position).collect();
        let is_followed = |identity| followed.iter().any(|(known, _)| *known == identity);
        match log.position() {
            Some((identity, _)) => news.freshness.remove(identity),
            // Its identity is not known: it is one of those that no log has.
            None => {
                let named = self.since.positions().iter().map(|(identity, _)| *identity);
                named.filter(|it| !is_followed(*it)).for_each(|it| news.freshness.remove(it));
            }
        }
    }

    fn with_cost(&self, news: News) -> News {
        let queried = self.queried || news.queried;
        News { authors: self.authors.len(), queried, ..news }
    }

    /// The positions before the first event: those of the token for the logs that are asked, and
    /// the reached ones for all others.
    fn start(&self) -> Freshness {
        let mut start = self.reached.clone();
        for (index, _) in &self.logs {
            let Some((identity, at)) = self.memory.logs()[*index].position() else { continue };
            let seen = self.since.changes_seen(identity);
            let after = seen.map(|seen| seen.after).max(self.since.position(identity));
            start.set(identity, seen, after.map_or(at, |after| at.max(after)));
        }
        // Logs that have not begun may have the identities that the token names.
        let begun = self.memory.logs().iter().all(|log| log.position().is_some());
        for (identity, at) in self.since.positions().iter().filter(|_| !begun) {
            if start.position(*identity).is_none() {
                start.set(*identity, self.since.changes_seen(*identity), *at);
            }
        }
        start
    }

    /// Moves the token past all changes of the log that were read.
    fn pass(&self, identity: LogIdentity, freshness: &mut Freshness) {
        let reached = self.reached.changes_seen(identity).unwrap_or_default();
        let seen = freshness.changes_seen(identity).unwrap_or_default().max(reached);
        let required = self.since.position(identity).unwrap_or_default();
        freshness.set(identity, Some(seen), seen.after.max(required));
    }

    fn note_stale(&self, log: &FollowedLog, asked: &Subjects, news: &mut News) {
        if let (false, Some(as_of)) = (log.is_fresh(self.memory.now_ms()), log.as_of_ms()) {
            news.stale.extend(asked.shards.iter().map(|shard| (*shard, as_of)));
        }
    }

    /// The part of the log that is asked for. `None` if the log is excluded, or if memory has not
    /// begun to follow it or has not reached the token.
    fn range_of(&self, index: usize) -> Result<Option<LogRange>, Gap> {
        let position = self.memory.logs()[index].position();
        let position = position.filter(|_| !self.excluded.contains(&index));
        let Some((identity, _)) = position else { return Ok(None) };
        let since = self.since.changes_seen(identity).ok_or(Gap)?;
        let reached = self.reached.changes_seen(identity).ok_or(Gap)?;
        let (until, required) = (reached.after, self.since.position(identity).unwrap_or_default());
        if self.beyond_end.contains(&identity) {
            return Err(Gap);
        }
        // Of a mark of another node nothing is known here, and nothing is after it.
        if since.after > until || (since > reached && required > until) {
            return Ok(None);
        }
        Ok(Some(LogRange { identity, since, until }))
    }

    /// The asked changes of one log since the token, up to a horizon.
    fn changes(
        &self,
        index: usize,
        asked: &Subjects,
        horizon: Option<PostKey>,
        limit: usize,
    ) -> Result<LogNews, Gap> {
        let log = &self.memory.logs()[index];
        let shards: Vec<ShardId> = asked.shards.iter().copied().collect();
        if log.position().is_some() && shards.iter().any(|shard| self.memory.excludes(*shard)) {
            return Err(Gap);
        }
        let Some(LogRange { identity, since, until }) = self.range_of(index)? else {
            return Ok(LogNews::NotReached);
        };
        let subjects = asked.subjects.as_slice();
        let range = NewsRange { since, until, subjects, shards: &shards, horizon, limit };
        let items = log.news.of(range)?;
        if log.news.is_unblocked_by(&self.authors, self.reader, (since, until)) {
            return Err(Gap);
        }
        // Another identity may have begun since; its changes are not those that were requested.
        match log.position() {
            Some((same, _)) if same == identity => Ok(LogNews::Items(identity, items)),
            _ => Err(Gap),
        }
    }
}

/// An answer that is being made, within its limits.
struct Answer {
    news: News,
    limit: usize,
    /// The bytes of JSON that are left.
    bytes: usize,
}

impl Answer {
    fn new(start: Freshness, limit: usize, bytes: usize) -> Self {
        Self { news: News { freshness: start, ..News::default() }, limit, bytes }
    }

    /// The events that are left.
    fn room(&self) -> usize {
        self.limit - self.news.events.len()
    }

    /// Adds a post that is due and moves the token past it. False if there is no room.
    fn add_due(&mut self, key: PostKey, json: Arc<str>) -> bool {
        if !self.takes(json.len()) {
            return false;
        }
        self.news.freshness.set_horizon(Some(key));
        self.push(NewsEvent::Post(NewsPost { key, json, names: None }));
        true
    }

    /// Whether an event of this many bytes of JSON has room. If not, more are known.
    fn takes(&mut self, bytes: usize) -> bool {
        let left = self.bytes.checked_sub(bytes);
        if self.room() == 0 || (left.is_none() && !self.news.events.is_empty()) {
            self.news.more = true;
            return false;
        }
        self.bytes = left.unwrap_or(0);
        true
    }

    /// Adds a change and moves the token past it. False if there is no room: then more are known.
    fn add(&mut self, identity: LogIdentity, item: NewsItem) -> bool {
        if !self.takes(bytes_of(&item)) {
            return false;
        }
        self.news.freshness.set(identity, Some(item.position), item.at);
        self.push(event(item, &self.news.freshness));
        true
    }

    /// Adds an event with the token after it.
    fn push(&mut self, event: NewsEvent) {
        self.news.events.push(event);
        self.news.tokens.push(self.news.freshness.clone());
    }
}

fn event(item: NewsItem, freshness: &Freshness) -> NewsEvent {
    let author = item.subject.author();
    let freshness = || freshness.clone();
    match item.change {
        NewsChange::Post(post) => NewsEvent::Post(NewsPost::new(author, post)),
        NewsChange::Edited(post) => NewsEvent::Update(NewsPost::new(author, post)),
        NewsChange::Gone((_, post)) => NewsEvent::Delete { author, post: PostId(post) },
        NewsChange::Follow(user) => NewsEvent::Follow { user, freshness: freshness() },
        NewsChange::Unfollow(user) => NewsEvent::Unfollow { user, freshness: freshness() },
        NewsChange::Hide(UserList::Blocks, user) => {
            NewsEvent::Block { user, freshness: freshness() }
        }
        NewsChange::Hide(_, user) => NewsEvent::Mute { user, freshness: freshness() },
        NewsChange::Unhide(UserList::Blocks, user) => {
            NewsEvent::Unblock { user, freshness: freshness() }
        }
        NewsChange::Unhide(_, user) => NewsEvent::Unmute { user, freshness: freshness() },
        NewsChange::Unknown => unreachable!("an unknown change is a gap"),
    }
}

impl NewsItem {
    /// The key of a post that has become visible.
    fn new_post(&self) -> Option<PostKey> {
        match &self.change {
            NewsChange::Post(post) => Some(post_key(self.subject.author(), post)),
            _ => None,
        }
    }
}

/// Whether the reader has followed or left a user after these positions.
fn follows_changed(memory: &Memory, reader: UserId, reached: &Freshness) -> bool {
    let log = memory.log_of(reader);
    let since = log.position().and_then(|(identity, _)| reached.changes_seen(identity));
    let Some(since) = since else { return false };
    let (until, subjects) = (LogPosition(u64::MAX), &[Subject::Reader(reader)]);
    let range = NewsRange { since, until, subjects, shards: &[], horizon: None, limit: 1 };
    log.news.of(range).map_or(true, |changes| !changes.is_empty())
}

fn bytes_of(item: &NewsItem) -> usize {
    match &item.change {
        NewsChange::Post(post) | NewsChange::Edited(post) => post.body.len(),
        _ => 0,
    }
}

/// The subjects of a home timeline, by the index of their log. The reader's own log is the first
/// one, so that a follow comes before the posts of the new followee.
fn subjects(memory: &Memory, reader: UserId, authors: &[UserId]) -> Vec<(usize, Subjects)> {
    let own = memory.log_index(reader);
    let mut logs: BTreeMap<(bool, usize), Subjects> = BTreeMap::new();
    let mut add = |user: UserId, subject: Subject| {
        let (index, shard) = (memory.log_index(user), memory.placement().shard_of(user));
        let log = logs.entry((index != own, index)).or_default();
        log.subjects.push(subject);
        if log.shards.insert(shard) {
            log.subjects.push(Subject::Shard(shard));
        }
    };
    add(reader, Subject::Reader(reader));
    authors.iter().for_each(|author| add(*author, Subject::Author(*author)));
    if let Some(log) = logs.get_mut(&(false, own)) {
        log.subjects.push(Subject::Readers(memory.placement().shard_of(reader)));
    }
    logs.into_iter().map(|((_, index), subjects)| (index, subjects)).collect()
}

/// Adds the names of the authors: from memory, or else by one wave of queries. Returns whether
/// there was one.
async fn add_names(view: &View<'_>, events: &mut [NewsEvent]) -> bool {
    let authors: Vec<UserId> = posts_of(events).map(|post| post.key.author).collect();
    let (known, queried) = names(view, &authors, Turn::Next).await;
    for post in posts_of(events) {
        post.names = known.get(&post.key.author).cloned();
    }
    queried
}

fn posts_of(events: &mut [NewsEvent]) -> impl Iterator<Item = &mut NewsPost> {
    events.iter_mut().filter_map(|event| match event {
        NewsEvent::Post(post) | NewsEvent::Update(post) => Some(post),
        _ => None,
    })
}
