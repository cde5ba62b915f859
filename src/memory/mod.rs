//! What readers ask for, kept in memory: newest times, newest posts, follow lists. It knows no shard,
//! no SQL and no HTTP.
//!
//! One task per log writes (`changes::apply`); readers take what is shown to them without locks.
//! What is kept of a user is, at any time, what its database held at a position in its log: `keeper`
//! is the whole protocol. Everything but the newest times may be dropped at any moment, so memory
//! decides how fast a page is and never what stands on it.

mod budget;
mod follow_list;
mod keeper;
mod log;
mod pages;
mod recent;
mod slots;
mod tail;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

pub(crate) use self::budget::Budget;
pub(crate) use self::follow_list::{FollowChange, FollowList, Slot};
pub(crate) use self::keeper::{Installed, Keeper, Replica, Ticket};
pub(crate) use self::log::{Counters, FollowedLog, count};
use self::pages::PageCache;
pub(crate) use self::pages::{CachedPage, SentPage, Version};
pub(crate) use self::recent::{Recent, RecentEntry};
pub(crate) use self::slots::{NO_POSTS, UNKNOWN};
use self::slots::{SLOT_BYTES, Slots};
pub(crate) use self::tail::{Tail, TailChange, TailPost};
use crate::model::{Post, ShardId, UserId};
use crate::moment::PostTimes;
use crate::placement::Placement;

/// Makes what is sent of a post.
pub(crate) type Encode = fn(&Post, &PostTimes) -> Box<str>;

/// Wishes that may wait at each log. What does not fit is wished for again by the next reader.
const REQUESTS_MAX: usize = 4_096;

/// What a reader would have liked to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Miss {
    /// The newest posts of an author, at least so many.
    Tail {
        /// The author.
        slot: Slot,
        /// How many.
        depth: u32,
    },
    /// Whom a reader follows.
    Follows {
        /// The reader.
        user: UserId,
    },
}

/// All that is kept.
pub(crate) struct Memory {
    slots: Slots,
    pages: PageCache,
    /// Pages that were sent again.
    page_cache_hits: AtomicU64,
    recent: Recent,
    budget: Budget,
    logs: Vec<FollowedLog>,
    /// The log of each shard, by their indexes.
    log_of: Vec<usize>,
    placement: Placement,
    times: PostTimes,
    encode: Encode,
    started: Instant,
}

/// The logs' names and shards, as memory is to follow them.
pub(crate) struct LogName {
    pub(crate) name: String,
    pub(crate) shards: Vec<ShardId>,
}

impl Memory {
    /// An empty memory of `budget` bytes, and the queue of wishes of each log.
    pub(crate) fn new(
        budget: usize,
        names: Vec<LogName>,
        placement: Placement,
        times: PostTimes,
        encode: Encode,
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
        let (slots, started) = (Slots::new(), Instant::now());
        let (pages, budget) = (PageCache::new(budget), Budget::new(budget));
        budget.add_index(pages.index_bytes());
        let memory = Self {
            slots,
            pages,
            page_cache_hits: AtomicU64::new(0),
            recent: Recent::new(budget.max()),
            budget,
            logs,
            log_of,
            placement,
            times,
            encode,
            started,
        };
        (Arc::new(memory), queues)
    }

    /// The logs that are followed.
    pub(crate) fn logs(&self) -> &[FollowedLog] {
        &self.logs
    }

    /// Whether all logs are fresh: [`FollowedLog::is_fresh`].
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        self.logs.iter().all(|log| log.is_fresh(now_ms))
    }

    /// The log that tells of this user.
    pub(crate) fn log_of(&self, user: UserId) -> &FollowedLog {
        &self.logs[self.log_index(user)]
    }

    /// Its index in [`Memory::logs`].
    pub(crate) fn log_index(&self, user: UserId) -> usize {
        self.log_of[self.placement.shard_of(user).index()]
    }

    /// Which shard owns a user.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What all that is kept may take and takes.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How many users are known.
    pub(crate) fn users(&self) -> usize {
        self.slots.len()
    }

    /// The time that leases are compared with: milliseconds since the start, never back.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The clock of recency: seconds since the start.
    pub(crate) fn tick(&self) -> u32 {
        tick_at(self.now_ms())
    }

    /// What is sent of a post.
    pub(crate) fn tail_post(&self, post: &Post) -> TailPost {
        let body = (self.encode)(post, &self.times).into();
        TailPost { key: (post.key.time, post.key.post.0), body }
    }

    /// A user that was met before.
    pub(crate) fn find(&self, user: UserId) -> Option<Slot> {
        self.slots.find(user)
    }

    /// A user, met now or before; none when the budget has no room for more users.
    pub(crate) fn register_user(&self, user: UserId) -> Option<Slot> {
        if let Some(slot) = self.slots.find(user) {
            return Some(slot);
        }
        if !self.budget.has_index_room(SLOT_BYTES) {
            return None;
        }
        let log = self.log_of(user);
        let head = if log.heads_known() { NO_POSTS } else { UNKNOWN };
        let before = self.slots.len();
        let slot = self.slots.add(user, head)?;
        // Whoever forgets the heads forgets them first and then goes through all users; one that
        // it did not see yet is seen here.
        if !log.heads_known() {
            self.slots.set_head(slot, UNKNOWN);
        }
        // Somebody else may have met another user at the same time; it counts that one.
        if self.slots.len() > before {
            self.budget.add_index(SLOT_BYTES);
        }
        Some(slot)
    }

    /// The user at a slot.
    pub(crate) fn user(&self, slot: Slot) -> UserId {
        self.slots.id(slot)
    }

    /// An upper bound of the time of the author's newest post, [`UNKNOWN`] or [`NO_POSTS`].
    #[inline]
    pub(crate) fn head(&self, slot: Slot) -> i64 {
        self.slots.head(slot)
    }

    /// The author has a post of this time.
    pub(crate) fn raise_head(&self, slot: Slot, time: i64) {
        self.slots.raise_head(slot, time);
    }

    /// Whatever was known of the author's newest post, this is.
    pub(crate) fn set_head(&self, slot: Slot, head: i64) {
        self.slots.set_head(slot, head);
    }

    /// The author's newest posts, if they are kept. Counts as a use.
    #[inline]
    pub(crate) fn tail(&self, slot: Slot, tick: u32) -> Option<Arc<Tail>> {
        self.slots.touch(slot, tick);
        self.slots.tail(slot)
    }

    /// Whom the reader follows, if it is kept. Counts as a use.
    pub(crate) fn follows(&self, reader: UserId, tick: u32) -> Option<Arc<FollowList>> {
        let slot = self.slots.find(reader)?;
        let follows = self.slots.follows(slot)?;
        self.slots.touch(slot, tick);
        Some(follows)
    }

    /// When a reader last used what is kept of the user.
    pub(crate) fn used(&self, slot: Slot) -> u32 {
        self.slots.used(slot)
    }

    /// The recent log.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// An upper bound of the times of the author's posts that the recent log does not tell,
    /// [`UNKNOWN`] or [`NO_POSTS`].
    #[inline]
    pub(crate) fn unlisted(&self, slot: Slot) -> i64 {
        match self.slots.unlisted(slot) {
            UNKNOWN => self.head(slot),
            time => time,
        }
    }

    /// Whether the recent log is told of what the author posts.
    pub(crate) fn is_listed(&self, slot: Slot) -> bool {
        self.slots.unlisted(slot) != UNKNOWN
    }

    /// Tells the recent log of posts of listed authors; before their log advances over them.
    pub(crate) fn list_posts(&self, posts: Vec<RecentEntry>) {
        if !posts.is_empty() {
            self.recent.put(posts, &self.budget);
        }
    }

    /// Tells the recent log of all posts that are shown of these authors, who are listed from now
    /// on; of as many authors as have about `posts_max` posts. To be called by the writer of their
    /// log.
    pub(crate) fn list_tails(&self, slots: &mut BTreeSet<Slot>, posts_max: usize) {
        let (mut posts, mut bounds) = (Vec::new(), Vec::new());
        while posts.len() < posts_max
            && let Some(slot) = slots.pop_first()
        {
            // It may have gone again.
            let Some(tail) = self.slots.tail(slot) else { continue };
            posts.extend(tail.keys().iter().map(|key| RecentEntry { key: *key, slot }));
            bounds.push((slot, unlisted_beside(&tail)));
        }
        self.list_posts(posts);
        for (slot, bound) in bounds {
            self.slots.set_unlisted(slot, bound);
        }
    }

    /// Shows an author's newest posts to readers from now on, or none. Whether the recent log has to
    /// be told of all of them: [`Memory::list_tails`].
    pub(crate) fn show_tail(&self, slot: Slot, tail: Option<Arc<Tail>>) -> bool {
        let unlisted = tail.as_ref().map_or(UNKNOWN, |tail| unlisted_beside(tail));
        let is_new = unlisted < self.slots.unlisted(slot);
        if !is_new {
            self.slots.set_unlisted(slot, unlisted);
        }
        let bytes = tail.as_ref().map_or(0, |tail| tail.bytes());
        let posts = tail.as_ref().map_or(0, |tail| tail.keys().len());
        let before = self.slots.show_tail(slot, tail);
        let bytes_before = before.as_ref().map_or(0, |tail| tail.bytes());
        let posts_before = before.as_ref().map_or(0, |tail| tail.keys().len());
        self.budget.tails.change((bytes_before, posts_before), (bytes, posts));
        is_new
    }

    /// Shows whom a reader follows to readers from now on, or nothing.
    pub(crate) fn show_follows(&self, slot: Slot, follows: Option<Arc<FollowList>>) {
        let bytes = follows.as_ref().map_or(0, |follows| follows.bytes());
        let edges = follows.as_ref().map_or(0, |follows| follows.slots().len());
        let before = self.slots.show_follows(slot, follows);
        let bytes_before = before.as_ref().map_or(0, |follows| follows.bytes());
        let edges_before = before.as_ref().map_or(0, |follows| follows.slots().len());
        self.budget.follows.change((bytes_before, edges_before), (bytes, edges));
    }

    /// All changes up to this one can be seen by whoever asks now.
    pub(crate) fn version(&self) -> Version {
        self.slots.version()
    }

    /// The reader's page for this query as it was sent last, if nothing has changed since. Counts as
    /// a use, at this time, of what it was made from.
    pub(crate) fn cached_page(
        &self,
        reader: UserId,
        query: &str,
        now_ms: u64,
    ) -> Option<Arc<CachedPage>> {
        let slot = self.slots.find(reader)?;
        let page = self.pages.get(slot, query)?;
        if !self.slots.timeline_unchanged_since(slot, page.as_of) {
            return None;
        }
        count(&self.page_cache_hits);
        let tick = tick_at(now_ms);
        if page.is_first_use(tick) {
            self.slots.touch(slot, tick);
            page.authors.iter().for_each(|author| self.slots.touch(*author, tick));
        }
        Some(page)
    }

    /// How many pages were as they were sent last.
    pub(crate) fn page_cache_hits(&self) -> u64 {
        self.page_cache_hits.load(Ordering::Relaxed)
    }

    /// Keeps a page that was made from what was shown as of its version.
    pub(crate) fn cache_page(&self, page: CachedPage) {
        self.pages.put(page, &self.budget.pages);
    }

    /// Tells whoever fills memory what a reader lacked. Forgotten when there are too many wishes.
    pub(crate) fn request_fill(&self, miss: Miss) {
        let user = match miss {
            Miss::Tail { slot, .. } => self.slots.id(slot),
            Miss::Follows { user } => user,
        };
        self.log_of(user).request_fill(miss);
    }

    /// Forgets what the newest times of this log's authors are.
    pub(crate) fn forget_heads(&self, log: &FollowedLog) {
        log.set_heads_known(false);
        self.for_each_of(log, |slot| self.slots.set_head(slot, UNKNOWN));
    }

    /// Calls with every known user of a log.
    pub(crate) fn for_each_of(&self, log: &FollowedLog, mut each: impl FnMut(Slot)) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            if std::ptr::eq(self.log_of(self.slots.id(slot)), log) {
                each(slot);
            }
        }
    }
}

fn tick_at(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX)
}

/// An upper bound of the times of an author's posts that a tail does not answer for.
fn unlisted_beside(tail: &Tail) -> i64 {
    tail.floor().map_or(NO_POSTS, |(time, _)| time)
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("budget", &self.budget).finish_non_exhaustive()
    }
}
