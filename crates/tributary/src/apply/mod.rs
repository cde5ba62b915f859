//! The writer of memory, one thread per log. It applies the log's changes to cached values, fills
//! what readers missed, and evicts what was not used for long.

mod audit;
mod entry;
mod fills;
mod heads;
mod listing;
mod news;
mod residents;
mod sweep;
#[cfg(test)]
mod tests;
mod unknown;
mod visible;
mod writers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{self, MissedTickBehavior, interval};
use tracing::{info, warn};

pub(crate) use self::entry::CacheKey;
use self::entry::{CachedChange, CachedEntry};
use self::fills::Fills;
use self::heads::HeadLoads;
use self::news::subjects;
use self::unknown::UnknownPosts;
use self::visible::Visible;
pub(crate) use self::writers::start;
use crate::changes::{Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::clock;
use crate::memory::{
    FollowChange, FollowedLog, Keeper, Memory, Miss, NotFresh, Slot, TailChange, count,
};
use crate::model::{Hide, ShardId, UserId, UserList};
use crate::shard::Source;

/// Batches of events that can wait. If the writer is slower, the feed waits for it.
const BATCHES_MAX: usize = 16;
/// Interval of the upkeep: retries, prefill, additions to the recent log, audits.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(20);
/// Data that a reader used within this many seconds is in use.
const IN_USE_SECS: u32 = 10;

/// The writer of one log.
pub(crate) struct Applier {
    memory: Arc<Memory>,
    /// Index of the log in [`Memory::logs`].
    index: usize,
    source: Arc<Source>,
    /// Runs the reads of the databases. `None` if there are none.
    runtime: Option<Handle>,
    pub(crate) keeper: Keeper<CacheKey, CachedEntry>,
    /// The identity of the followed log.
    identity: Option<LogIdentity>,
    visible: Visible,
    fills: Fills,
    heads: HeadLoads,
    /// When unused users may be looked for again.
    next_sweep: Option<time::Instant>,
    /// The reason why the log is not followed, as logged last.
    logged_reason: Option<String>,
}

impl Applier {
    pub(crate) fn new(
        memory: Arc<Memory>,
        index: usize,
        source: Arc<Source>,
        runtime: Option<Handle>,
    ) -> Self {
        let shards = memory.logs()[index].shards().to_vec();
        Self {
            visible: Visible::new(Arc::clone(&memory)),
            memory,
            index,
            source,
            runtime,
            keeper: Keeper::new(),
            identity: None,
            fills: Fills::new(),
            heads: HeadLoads::new(shards),
            next_sweep: None,
            logged_reason: None,
        }
    }

    pub(crate) fn log(&self) -> &FollowedLog {
        &self.memory.logs()[self.index]
    }

    /// Runs until the feed ends.
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Vec<FeedEvent>>,
        queue: &mut mpsc::Receiver<Miss>,
    ) {
        let mut tick = interval(UPKEEP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every branch is cancel-safe: a branch that is not chosen loses nothing.
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => self.take(batch),
                    None => return,
                },
                Some(miss) = queue.recv() => self.queue_miss(miss),
                Some(filled) = self.fills.next() => self.install(filled),
                Some(loaded) = self.heads.next() => self.load_heads(loaded),
                _ = tick.tick() => self.run_upkeep(),
            }
            self.make_room();
            self.start_fills();
        }
    }

    pub(crate) fn take(&mut self, batch: Vec<FeedEvent>) {
        let memory = Arc::clone(&self.memory);
        let _slots = memory.hold_slots();
        for event in batch {
            match event {
                FeedEvent::Began { identity, at } => self.begin(identity, at),
                FeedEvent::Excluded(shards) => self.exclude(&shards),
                FeedEvent::ShardUnknown(shard) => {
                    self.forget_shard(shard);
                    self.lose_news(shard);
                }
                FeedEvent::Renamed { identity } => {
                    self.identity = Some(identity);
                    self.log().rename(identity);
                }
                FeedEvent::Commit(commit) => self.commit(commit),
                FeedEvent::Alive { since } => self.renew(since),
                FeedEvent::Late(reason) => self.lost(reason, NotFresh::Late),
                FeedEvent::Lost(reason) => self.lost(reason, NotFresh::Disconnected),
            }
        }
        self.log().wake();
    }

    /// Renews the lease. Everything that was committed before `since` is applied.
    fn renew(&mut self, since: Instant) {
        let (now_ms, since_ms) = (self.memory.now_ms(), self.memory.ms_at(since));
        let age_ms = i64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(i64::MAX);
        self.log().renew(since_ms, clock::now_ms().saturating_sub(age_ms));
        if !self.log().is_fresh(now_ms) {
            let reason = "changes are applied more than 3 s after they were written";
            return self.lost(reason.into(), NotFresh::Busy);
        }
        self.log().note_not_fresh(NotFresh::Late);
        if self.logged_reason.take().is_some() {
            info!(server = self.source.name(), "Memory follows the log again");
        }
    }

    /// Logs each reason once.
    fn lost(&mut self, reason: String, kind: NotFresh) {
        self.log().note_not_fresh(kind);
        if self.logged_reason.as_ref() != Some(&reason) {
            let server = self.source.name();
            warn!(server, reason, "Memory cannot follow the log; reads go to the databases");
            self.logged_reason = Some(reason);
        }
    }

    /// Starts another log identity: everything from the previous one is dropped.
    pub(crate) fn begin(&mut self, identity: LogIdentity, at: LogPosition) {
        self.keeper.begin(at);
        for key in self.visible.residents.keys().to_vec() {
            self.visible.show(key, None);
        }
        self.visible.reserved.clear();
        self.memory.forget_heads(self.log().shards());
        self.fills.clear_prefill();
        self.identity = Some(identity);
        let (clock, start) = (self.clock(), self.start_of_news(at));
        self.log().news.begin(start, clock, &self.memory.budget().news);
        self.log().begin(identity, start);
        self.memory.subscribers().wake_all();
        count(&self.log().counters.log_identities);
        self.heads.restart();
    }

    fn commit(&mut self, commit: Commit) {
        let Commit { at, changes } = commit;
        if at <= self.keeper.high_water() {
            return;
        }
        let mut translated = Vec::new();
        let unknown = UnknownPosts::of(&changes);
        let news = self.news(&changes);
        let changed = subjects(&news);
        for (shard, change) in changes {
            self.translate(shard, change, &mut translated);
        }
        self.forget_posts(&unknown, &mut translated);
        let log = &self.memory.logs()[self.index];
        count(&log.counters.transactions);
        log.counters.changes.fetch_add(translated.len() as u64, Ordering::Relaxed);
        log.announce(at);
        // Before readers see the changes: a reader that sees one also finds it here.
        self.add_news(at, news);
        let visible = &mut self.visible;
        self.keeper.commit(at, translated, |key, value| visible.show(*key, value));
        for key in std::mem::take(&mut self.visible.deeper) {
            self.show_filled(key);
        }
        self.drop_outdated();
        self.visible.listing.list_posts(&self.memory);
        self.log().advance(at);
        self.memory.subscribers().wake(&changed);
    }

    /// Translates a change into changes of cached and pending values. Changes of other users are
    /// dropped.
    fn translate(
        &mut self,
        shard: ShardId,
        change: Change,
        translated: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        let user = match &change {
            Change::Post(post) | Change::PostEdited(post) => post.key.author,
            Change::PostGone(key) => key.author,
            Change::Follow(follow) | Change::Unfollow(follow) => follow.follower,
            Change::Hide(hide) | Change::Unhide(hide) => hide.owner,
            Change::AuthorUnknown(user) | Change::ReaderUnknown(user) => *user,
            Change::PostUnknown(_) => return,
            Change::ReadersUnknown => return self.forget_readers(shard, translated),
            Change::ShardUnknown => return self.forget_shard(shard),
        };
        // Readers do not read a user's rows on a shard that does not own the user.
        if self.memory.placement().shard_of(user) != shard || self.memory.excludes(shard) {
            return;
        }
        match change {
            Change::Post(post) | Change::PostEdited(post) => {
                let registered = self.raise_head(user, post.key.time);
                let slot = registered.or_else(|| self.memory.find(user));
                self.visible.listing.add_post(&self.memory, slot, &post.key);
                self.push_tail(slot, translated, |memory| TailChange::Put(memory.tail_post(&post)));
            }
            Change::PostGone(key) => {
                let (slot, post) = (self.memory.find(user), (key.time, key.post.0));
                self.push_tail(slot, translated, |_| TailChange::Remove(post));
            }
            Change::Follow(follow) => {
                self.add_to_list(user, (UserList::Follows, follow.followee), translated);
            }
            Change::Unfollow(follow) => {
                self.remove_from_list(user, (UserList::Follows, follow.followee), translated);
            }
            Change::Hide(hide) => {
                self.add_to_list(user, (hide.list, hide.user), translated);
                self.push_block(&hide, translated, TailChange::Block);
            }
            Change::Unhide(hide) => {
                self.remove_from_list(user, (hide.list, hide.user), translated);
                self.push_block(&hide, translated, TailChange::Unblock);
            }
            Change::AuthorUnknown(_) => {
                self.forget_head(user);
                self.push_tail(self.memory.find(user), translated, |_| TailChange::Unknown);
            }
            Change::ReaderUnknown(_)
            | Change::PostUnknown(_)
            | Change::ReadersUnknown
            | Change::ShardUnknown => {
                self.push_follow(user, translated, |_| FollowChange::Unknown);
            }
        }
    }

    fn add_to_list(
        &self,
        reader: UserId,
        (list, user): (UserList, UserId),
        translated: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        self.push_follow(reader, translated, |memory| {
            let slot = memory.register_user(user);
            slot.map_or(FollowChange::Unknown, |slot| FollowChange::Add(list, slot))
        });
    }

    fn remove_from_list(
        &self,
        reader: UserId,
        (list, user): (UserList, UserId),
        translated: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        // A user without a slot is on no list, except perhaps on one that is being read.
        if self.memory.find(user).is_none() && !self.is_reading_list(reader) {
            return;
        }
        self.push_follow(reader, translated, |memory| {
            let slot = memory.register_user(user);
            slot.map_or(FollowChange::Unknown, |slot| FollowChange::Remove(list, slot))
        });
    }

    /// The blocks of an author are kept with its posts. Users cannot be blocked by themselves.
    fn push_block(
        &self,
        hide: &Hide,
        translated: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(UserId) -> TailChange,
    ) {
        if hide.list == UserList::Blocks && hide.owner != hide.user {
            let slot = self.memory.find(hide.owner);
            self.push_tail(slot, translated, |_| change(hide.user));
        }
    }

    fn push_tail(
        &self,
        author: Option<Slot>,
        translated: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> TailChange,
    ) {
        let Some(slot) = author else { return };
        for key in CacheKey::tails(slot) {
            if self.keeper.contains(key) {
                translated.push((key, CachedChange::Tail(change(&self.memory))));
            }
        }
    }

    /// Whether the follow list of this reader is being read.
    fn is_reading_list(&self, reader: UserId) -> bool {
        let keys = self.memory.find(reader).into_iter().flat_map(CacheKey::lists);
        let mut read =
            keys.filter(|key| self.keeper.contains(*key) && self.keeper.get(*key).is_none());
        read.next().is_some()
    }

    fn push_follow(
        &self,
        reader: UserId,
        translated: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> FollowChange,
    ) {
        let Some(slot) = self.memory.find(reader) else { return };
        for key in CacheKey::lists(slot) {
            if self.keeper.contains(key) {
                translated.push((key, CachedChange::Follows(change(&self.memory))));
            }
        }
    }

    /// Excludes exactly these shards of the log from memory. A shard is forgotten while it is
    /// excluded, so that no reader takes an unknown author for one without posts.
    fn exclude(&mut self, shards: &[ShardId]) {
        for shard in self.log().shards().to_vec() {
            match (self.memory.excludes(shard), shards.contains(&shard)) {
                (false, true) => {
                    self.memory.set_excluded(shard, true);
                    self.forget_shard(shard);
                    self.lose_news(shard);
                }
                (true, false) => {
                    self.forget_shard(shard);
                    self.lose_news(shard);
                    self.memory.set_excluded(shard, false);
                }
                _ => {}
            }
        }
    }

    /// Whether the user's shard is excluded from memory.
    pub(crate) fn is_excluded(&self, user: UserId) -> bool {
        self.memory.excludes(self.memory.placement().shard_of(user))
    }

    pub(crate) fn evict(&mut self, key: CacheKey) {
        self.keeper.evict(key);
        self.visible.show(key, None);
    }

    /// Drops the follow lists that must not become visible.
    fn drop_outdated(&mut self) {
        for key in std::mem::take(&mut self.visible.outdated) {
            self.evict(key);
        }
    }

    /// Evicts approximately the least recently used entries until memory has room for one fill. If
    /// even those were used in the last 10 s, fills pause for a second, because they would only
    /// thrash.
    pub(crate) fn make_room(&mut self) {
        let budget = Arc::clone(self.memory.budget());
        while !budget.has_room(budget.fill_bytes()) {
            let memory = &self.memory;
            let oldest = self.visible.residents.oldest(|key| memory.used(key.slot()));
            let Some(key) = oldest else { return };
            let (used, tick) = (memory.used(key.slot()), memory.tick());
            if used > 0 && tick.saturating_sub(used) <= IN_USE_SECS {
                self.pause_fills();
                self.log().accept_requests(false);
            }
            self.evict(key);
            count(&self.log().counters.evictions);
        }
    }

    /// Does the regular work that no event triggers.
    fn run_upkeep(&mut self) {
        let now_ms = self.memory.now_ms();
        // The feed normally reports the reason earlier.
        if self.logged_reason.is_none() && self.log().is_long_expired(now_ms) {
            self.lost("the feed reports nothing".into(), NotFresh::Late);
        }
        let paused = self.fills.is_paused();
        self.log().accept_requests(!paused);
        self.start_heads();
        self.queue_prefill();
        self.visible.listing.list_tails(&self.memory);
        self.audit();
        self.sweep();
    }
}
