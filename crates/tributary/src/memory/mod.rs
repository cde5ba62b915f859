//! The in-memory copy of what readers need: heads (newest post times), tails (newest posts) and
//! follow lists. This module knows no shard, no SQL and no HTTP.
//!
//! One task per log writes (`changes::apply`). Readers read without locks. Every cached value
//! equals the content of the database at a known position in its log; `keeper` implements that
//! protocol. Everything except the heads can be evicted at any moment. Memory decides how fast a
//! page is, never its content.

mod budget;
mod follow_list;
mod future;
mod keeper;
mod log;
pub(crate) mod news;
mod pages;
mod recent;
mod slots;
mod subscribers;
mod tail;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub(crate) use self::budget::{Budget, FillReservation, Reservation};
pub(crate) use self::follow_list::{FollowChange, FollowList, Slot};
pub(crate) use self::keeper::{Installed, Keeper, Replica, Ticket};
pub(crate) use self::log::{FollowedLog, LogSet, NotFresh, count};
pub(crate) use self::news::{Gap, NewsChange, NewsItem, NewsRange, Subject};
use self::pages::PageCache;
pub use self::pages::SentPage;
pub(crate) use self::pages::{CachedPage, PageQuery, Version};
pub(crate) use self::recent::{Recent, RecentEntry};
use self::slots::Slots;
pub(crate) use self::slots::{NO_POSTS, UNKNOWN};
pub(crate) use self::subscribers::{Full, Subscriber, Subscribers};
pub(crate) use self::tail::{TAIL_DEPTH_MAX, Tail, TailChange, TailKey, TailLimits, TailPost};
use crate::model::{NEWS_SHARE_DEFAULT, Post, PostKey, ShardId, UserId};
use crate::moment::PostTimes;
use crate::placement::Placement;
use crate::post_json;

/// Fill requests that can wait per log. A request that does not fit is dropped; the next reader
/// repeats it.
const REQUESTS_MAX: usize = 4_096;

/// Something that a reader needed and memory did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Miss {
    /// The newest posts of an author.
    Tail {
        /// The author.
        slot: Slot,
        /// The minimum number of posts.
        depth: u32,
    },
    /// The follow list of a reader.
    Follows {
        /// The reader.
        user: UserId,
    },
}

/// Everything that is cached, and the state of the logs that keep it up to date.
pub(crate) struct Memory {
    slots: Slots,
    /// Held by a writer while it uses slots that no visible value protects, and exclusively while
    /// slots are freed. Requests never take it.
    slots_held: RwLock<()>,
    pages: PageCache,
    /// Number of page cache hits.
    page_cache_hits: AtomicU64,
    recent: Recent,
    budget: Arc<Budget>,
    news_bytes_max: usize,
    subscribers: Arc<Subscribers>,
    logs: Vec<FollowedLog>,
    /// The index in `logs` of each shard's log, by shard index.
    log_of: Vec<usize>,
    /// Whether a shard is excluded from memory, by shard index.
    excluded: Box<[AtomicBool]>,
    placement: Placement,
    times: PostTimes,
    started: Instant,
    /// The latest tick: see [`Memory::tick`].
    tick: AtomicU32,
    /// One permit for each log that may prefill at the same time.
    prefills: Arc<Semaphore>,
}

/// The sizes of memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemorySizes {
    /// Everything together.
    pub(crate) budget: usize,
    /// The newest changes of all logs.
    pub(crate) news: usize,
}

impl From<usize> for MemorySizes {
    /// A budget with the default for news.
    fn from(budget: usize) -> Self {
        Self { budget, news: budget / NEWS_SHARE_DEFAULT }
    }
}

/// The name of a log to follow, and its shards.
pub(crate) struct LogName {
    pub(crate) name: String,
    pub(crate) shards: Vec<ShardId>,
}

impl Memory {
    /// An empty memory with a budget of `budget` bytes, and the queue of fill requests of each
    /// log.
    pub(crate) fn new(
        sizes: impl Into<MemorySizes>,
        names: Vec<LogName>,
        placement: Placement,
        times: PostTimes,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<Miss>>) {
        let shards = names.iter().flat_map(|log| &log.shards).map(|shard| shard.index() + 1).max();
        let mut log_of = vec![0; shards.unwrap_or(0)];
        let (mut logs, mut queues) = (Vec::new(), Vec::new());
        for (index, LogName { name, shards }) in names.into_iter().enumerate() {
            for shard in &shards {
                log_of[shard.index()] = index;
            }
            let (misses, queue) = mpsc::channel(REQUESTS_MAX);
            logs.push(FollowedLog::new(name, shards, misses));
            queues.push(queue);
        }
        let MemorySizes { budget, news } = sizes.into();
        let (slots, started) = (Slots::new(budget), Instant::now());
        let pages = PageCache::new(budget);
        let news_bytes_max = news / logs.len().max(1);
        let budget = Arc::new(Budget::new(budget, pages.index_bytes()));
        let memory = Self {
            slots,
            slots_held: RwLock::new(()),
            pages,
            page_cache_hits: AtomicU64::new(0),
            recent: Recent::new(budget.max()),
            subscribers: Subscribers::new(Arc::clone(&budget)),
            budget,
            news_bytes_max,
            logs,
            excluded: log_of.iter().map(|_| AtomicBool::new(false)).collect(),
            log_of,
            placement,
            times,
            started,
            tick: AtomicU32::new(0),
            prefills: Arc::new(Semaphore::new(processors())),
        };
        (Arc::new(memory), queues)
    }

    /// The right to prefill one batch now. `None` if as many logs as there are processors do so.
    pub(crate) fn prefill_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.prefills).try_acquire_owned().ok()
    }

    /// The followed logs.
    pub(crate) fn logs(&self) -> &[FollowedLog] {
        &self.logs
    }

    /// The logs that are not fresh: see [`FollowedLog::is_fresh`].
    pub(crate) fn lagging(&self, now_ms: u64) -> LogSet {
        let logs = self.logs.iter().enumerate();
        logs.filter(|(_, log)| !log.is_fresh(now_ms)).map(|(index, _)| index).collect()
    }

    /// The logs of the users on a follow list.
    pub(crate) fn logs_of(&self, follows: &FollowList) -> LogSet {
        follows.logs(|slot| self.log_index(self.user(slot)))
    }

    /// The log of the shard that owns this user.
    pub(crate) fn log_of(&self, user: UserId) -> &FollowedLog {
        &self.logs[self.log_index(user)]
    }

    /// The index of the user's log in [`Memory::logs`].
    pub(crate) fn log_index(&self, user: UserId) -> usize {
        self.log_of[self.placement.shard_of(user).index()]
    }

    /// Whether memory holds nothing of this shard, because its log does not contain all changes.
    pub(crate) fn excludes(&self, shard: ShardId) -> bool {
        self.excluded[shard.index()].load(Ordering::Acquire)
    }

    pub(crate) fn set_excluded(&self, shard: ShardId, excluded: bool) {
        self.excluded[shard.index()].store(excluded, Ordering::Release);
    }

    /// Whether the heads of all authors on this user's shard are known.
    pub(crate) fn knows_heads_with(&self, user: UserId) -> bool {
        let shard = self.placement.shard_of(user);
        self.log_of(user).heads_known_of(shard) && !self.excludes(shard)
    }

    /// The map from users to shards.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The memory budget and its usage.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Number of registered users.
    pub(crate) fn users(&self) -> usize {
        self.slots.len()
    }

    /// The clock of the leases: milliseconds since the start, monotonic.
    pub(crate) fn now_ms(&self) -> u64 {
        let now_ms = self.ms_at(Instant::now());
        let tick = tick_at(now_ms);
        // A store would take the cache line from other cores.
        if self.tick.load(Ordering::Relaxed) < tick {
            self.tick.fetch_max(tick, Ordering::Relaxed);
        }
        now_ms
    }

    /// A moment on the clock of the leases.
    pub(crate) fn ms_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The clock of eviction: seconds since the start, as of the last call of [`Memory::now_ms`].
    /// Every page that is not from the page cache calls that, and every writer once a second.
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// A post as a tail holds it: its key and its encoded body.
    pub(crate) fn tail_post(&self, post: &Post) -> TailPost {
        let body = post_json::encode(post, &self.times).into();
        TailPost { key: (post.key.time, post.key.post.0), body }
    }

    /// A moment as a value of the time column.
    pub(crate) fn stored_time(&self, epoch_ms: i64) -> i64 {
        self.times.stored(epoch_ms)
    }

    /// Most bytes of the newest changes of one log.
    pub(crate) fn news_bytes_max(&self) -> usize {
        self.news_bytes_max
    }

    /// The readers that wait for news.
    pub(crate) fn subscribers(&self) -> &Arc<Subscribers> {
        &self.subscribers
    }

    /// The slot of a registered user.
    pub(crate) fn find(&self, user: UserId) -> Option<Slot> {
        self.slots.find(user)
    }

    /// The slot of a reader, or of a user on a follow list; registers the user if necessary.
    /// Returns `None` if the index has no room left in the budget for such users.
    pub(crate) fn register_user(&self, user: UserId) -> Option<Slot> {
        self.register(user, false)
    }

    /// The slot of an author of posts; registers the author if necessary. Returns `None` if the
    /// index has no room left in the budget.
    pub(crate) fn register_author(&self, author: UserId) -> Option<Slot> {
        self.register(author, true)
    }

    fn register(&self, user: UserId, is_author: bool) -> Option<Slot> {
        if let Some(slot) = self.slots.find(user) {
            return Some(slot);
        }
        let head = if self.knows_heads_with(user) { NO_POSTS } else { UNKNOWN };
        let has_room = |bytes| self.budget.index_may_have(bytes, is_author);
        let slot = self.slots.add(user, head, has_room)?;
        // [`Memory::forget_heads`] clears the flag first and then visits all users. If it missed
        // the new user, this check sees the cleared flag.
        if !self.knows_heads_with(user) {
            self.slots.set_head(slot, UNKNOWN);
        }
        self.budget.set_index(self.slots.bytes());
        Some(slot)
    }

    /// Keeps all slots assigned to their users while the result exists. A writer must hold it
    /// from the moment it finds or registers a user until the value with the slot is visible.
    pub(crate) fn hold_slots(&self) -> RwLockReadGuard<'_, ()> {
        self.slots_held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of times that slots were freed. A request must be repeated, and a value that is not
    /// visible must be dropped, if slots were freed since their users were found.
    #[inline]
    pub(crate) fn frees(&self) -> u64 {
        self.slots.frees()
    }

    /// Frees those of these slots that still belong to unused users of this log and are on no
    /// visible follow list. Returns their number. Visits all follow lists while no writer uses
    /// slots.
    pub(crate) fn free_slots(&self, index: usize, mut unused: Vec<Slot>) -> usize {
        let _exclusive = self.slots_held.write().unwrap_or_else(PoisonError::into_inner);
        // Another log may have freed a slot since it was found.
        unused.retain(|slot| {
            let user = self.slots.registered(*slot);
            user.is_some_and(|user| self.log_index(user) == index) && self.is_unused(*slot)
        });
        unused.sort_unstable();
        let mut listed = vec![false; unused.len()];
        for reader in self.slots.all() {
            let Some(list) = self.slots.follows(reader) else { continue };
            for slot in list.all_slots() {
                if let Ok(index) = unused.binary_search(&slot) {
                    listed[index] = true;
                }
            }
        }
        let mut is_listed = listed.into_iter();
        unused.retain(|_| !is_listed.next().unwrap_or(true));
        if !unused.is_empty() {
            self.slots.free(&unused);
            self.budget.set_index(self.slots.bytes());
        }
        unused.len()
    }

    /// The user of a slot.
    pub(crate) fn user(&self, slot: Slot) -> UserId {
        self.slots.id(slot)
    }

    /// An upper bound of the time of the author's newest post, or [`UNKNOWN`], or [`NO_POSTS`].
    #[inline]
    pub(crate) fn head(&self, slot: Slot) -> i64 {
        self.slots.head(slot)
    }

    /// Raises the head to the time of a post of the author. [`UNKNOWN`] stays unknown.
    pub(crate) fn raise_head(&self, slot: Slot, time: i64) {
        self.slots.raise_head(slot, time);
    }

    /// Replaces the head, whatever it was.
    pub(crate) fn set_head(&self, slot: Slot, head: i64) {
        self.slots.set_head(slot, head);
    }

    /// The author's tail, if cached. Marks the slot as used.
    #[inline]
    pub(crate) fn tail(&self, slot: Slot, tick: u32) -> Option<Arc<Tail>> {
        self.slots.touch(slot, tick);
        self.slots.tail(slot)
    }

    /// The cached tails of these authors, in the same order. Marks the slots as used.
    pub(crate) fn tails(&self, authors: &[Slot], tick: u32) -> Vec<Option<Arc<Tail>>> {
        authors.iter().for_each(|author| self.slots.touch(*author, tick));
        self.slots.tails(authors)
    }

    /// The reader's follow list, if cached. Marks the slot as used.
    pub(crate) fn follows(&self, reader: UserId, tick: u32) -> Option<Arc<FollowList>> {
        let slot = self.slots.find(reader)?;
        let follows = self.slots.follows(slot)?;
        self.slots.touch(slot, tick);
        Some(follows)
    }

    /// Whether a reader's follow list is visible.
    pub(crate) fn shows_follows(&self, reader: Slot) -> bool {
        self.slots.follows(reader).is_some()
    }

    /// Whether memory would lose nothing without this slot, if its user is on no follow list.
    /// An empty tail of an author without posts counts as nothing.
    pub(crate) fn is_unused(&self, slot: Slot) -> bool {
        let tail = self.slots.tail(slot);
        let is_forgettable = if self.knows_heads_with(self.user(slot)) {
            let is_empty = |tail: &Tail| tail.posts().is_empty() && tail.floor().is_none();
            self.head(slot) == NO_POSTS && tail.is_none_or(|tail| is_empty(&tail))
        } else {
            self.head(slot) == UNKNOWN && tail.is_none()
        };
        is_forgettable && !self.shows_follows(slot)
    }

    /// The tick in which a reader last used the user's data.
    pub(crate) fn used(&self, slot: Slot) -> u32 {
        self.slots.used(slot)
    }

    /// The recent log.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// An upper bound of the times of the author's posts that are not in the recent log, or
    /// [`UNKNOWN`], or [`NO_POSTS`].
    #[inline]
    pub(crate) fn unlisted(&self, slot: Slot) -> i64 {
        match self.slots.unlisted(slot) {
            UNKNOWN => self.head(slot),
            time => time,
        }
    }

    /// Whether the author is listed: every new post of the author must be added to the recent
    /// log.
    pub(crate) fn is_listed(&self, slot: Slot) -> bool {
        self.slots.unlisted(slot) != UNKNOWN
    }

    /// Adds posts of listed authors to the recent log. Must be called before their log advances
    /// past these posts.
    pub(crate) fn list_posts(&self, posts: Vec<RecentEntry>) {
        if !posts.is_empty() {
            self.recent.put(posts, &self.budget);
        }
    }

    /// Adds all posts of these authors' tails to the recent log and marks the authors as listed.
    /// Takes authors from the set until it has about `posts_max` posts. Only the writer of the
    /// authors' log may call this.
    pub(crate) fn list_tails(&self, slots: &mut BTreeSet<Slot>, posts_max: usize) {
        let (mut posts, mut bounds) = (Vec::new(), Vec::new());
        while posts.len() < posts_max
            && let Some(slot) = slots.pop_first()
        {
            // The tail may have been evicted in the meantime.
            let Some(tail) = self.slots.tail(slot) else { continue };
            posts.extend(tail.posts().iter().map(|post| RecentEntry { key: post.key, slot }));
            bounds.push((slot, unlisted_bound(&tail)));
        }
        self.list_posts(posts);
        for (slot, bound) in bounds {
            self.slots.set_unlisted(slot, bound);
        }
    }

    /// Makes an author's tail visible to readers, or removes it. Returns true if its posts must
    /// be added to the recent log: see [`Memory::list_tails`].
    pub(crate) fn show_tail(&self, slot: Slot, tail: Option<Arc<Tail>>) -> bool {
        let unlisted = tail.as_ref().map_or(UNKNOWN, |tail| unlisted_bound(tail));
        let is_new = unlisted < self.slots.unlisted(slot);
        if !is_new {
            self.slots.set_unlisted(slot, unlisted);
        }
        let bytes = tail.as_ref().map_or(0, |tail| tail.bytes());
        let posts = tail.as_ref().map_or(0, |tail| tail.posts().len());
        let before = self.slots.show_tail(slot, tail);
        let bytes_before = before.as_ref().map_or(0, |tail| tail.bytes());
        let posts_before = before.as_ref().map_or(0, |tail| tail.posts().len());
        self.budget.tails.change((bytes_before, posts_before), (bytes, posts));
        is_new
    }

    /// Makes a reader's follow list visible to readers, or removes it.
    pub(crate) fn show_follows(&self, slot: Slot, follows: Option<Arc<FollowList>>) {
        let bytes = follows.as_ref().map_or(0, |follows| follows.bytes());
        let edges = follows.as_ref().map_or(0, |follows| follows.slots().len());
        let before = self.slots.show_follows(slot, follows);
        let bytes_before = before.as_ref().map_or(0, |follows| follows.bytes());
        let edges_before = before.as_ref().map_or(0, |follows| follows.slots().len());
        self.budget.follows.change((bytes_before, edges_before), (bytes, edges));
    }

    /// The current version. Every change up to it is visible to a read that begins now.
    pub(crate) fn version(&self) -> Version {
        self.slots.version()
    }

    /// The cached page of this reader for this query, if the logs that it depends on are fresh and
    /// nothing it depends on has changed, up to the horizon too. Marks the reader and the authors
    /// on the page as used.
    pub(crate) fn cached_page(
        &self,
        reader: UserId,
        query: PageQuery<'_>,
        (now_ms, horizon): (u64, Option<PostKey>),
    ) -> Option<Arc<CachedPage>> {
        let frees = self.frees();
        let slot = self.slots.find(reader)?;
        // The processor waits for both cache misses at the same time, and then for those of the
        // list and of the page.
        self.pages.prefetch(slot, query);
        let follows = self.slots.lend_follows(slot);
        let page = self.pages.get(slot, query)?;
        let (follows, page) = (follows.as_ref()?, page.as_ref()?);
        let lagging = self.lagging(now_ms);
        if !lagging.is_empty() {
            let own = LogSet::from_iter([self.log_index(reader)]);
            if self.logs_of(follows).intersects(lagging) || own.intersects(lagging) {
                return None;
            }
        }
        let is_valid = page.is_whole_at(horizon)
            && self.slots.unchanged_since(slot, follows, page.as_of)
            && self.frees() == frees;
        if !is_valid {
            return None;
        }
        count(&self.page_cache_hits);
        let tick = tick_at(now_ms);
        if page.is_first_use(tick) {
            self.slots.touch(slot, tick);
            page.authors.iter().for_each(|author| self.slots.touch(*author, tick));
        }
        Some(Arc::clone(page))
    }

    /// Number of page cache hits since the start.
    pub(crate) fn page_cache_hits(&self) -> u64 {
        self.page_cache_hits.load(Ordering::Relaxed)
    }

    /// Records a request of this reader that is answered with a page as of this version. Returns
    /// whether the page should be cached: the reader has requested it before, and nothing it
    /// depends on has changed since.
    pub(crate) fn note_request(&self, reader: Slot, query: PageQuery<'_>, as_of: Version) -> bool {
        let before = self.pages.request(reader, query, as_of);
        before.is_some_and(|before| self.slots.timeline_unchanged_since(reader, before))
    }

    /// Caches a page. The version of the page must have been read before its data.
    pub(crate) fn cache_page(&self, page: CachedPage) {
        self.pages.put(page, &self.budget);
    }

    /// Sends a miss to the writer, which fills it later. Dropped if the queue is full.
    pub(crate) fn request_fill(&self, miss: Miss) {
        let user = match miss {
            Miss::Tail { slot, .. } => self.slots.id(slot),
            Miss::Follows { user } => user,
        };
        self.log_of(user).request_fill(miss);
    }

    /// Removes everything of a log whose writer has failed. Its memory is not fresh until another
    /// one has begun.
    pub(crate) fn clear(&self, index: usize) {
        let log = &self.logs[index];
        log.end_lease();
        self.for_each_of(log.shards(), |slot| {
            self.show_tail(slot, None);
            self.show_follows(slot, None);
        });
        self.forget_heads(log.shards());
    }

    /// Marks the heads of all authors on these shards as unknown.
    pub(crate) fn forget_heads(&self, shards: &[ShardId]) {
        self.set_heads_known(shards, false);
        self.for_each_of(shards, |slot| self.slots.set_head(slot, UNKNOWN));
    }

    /// Records whether the heads of all authors on these shards are loaded.
    pub(crate) fn set_heads_known(&self, shards: &[ShardId], known: bool) {
        for shard in shards {
            self.logs[self.log_of[shard.index()]].set_heads_known(*shard, known);
        }
    }

    /// Calls `each` for every registered user of these shards. Visits all users of memory.
    pub(crate) fn for_each_of(&self, shards: &[ShardId], mut each: impl FnMut(Slot)) {
        let mut wanted = vec![false; self.log_of.len()];
        shards.iter().for_each(|shard| wanted[shard.index()] = true);
        for slot in self.slots.all() {
            let user = self.slots.registered(slot);
            if user.is_some_and(|user| wanted[self.placement.shard_of(user).index()]) {
                each(slot);
            }
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn tick_at(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX)
}

/// An upper bound of the times of the author's posts that are not in this tail.
fn unlisted_bound(tail: &Tail) -> i64 {
    tail.floor().map_or(NO_POSTS, |(time, _)| time)
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("budget", &self.budget).finish_non_exhaustive()
    }
}
