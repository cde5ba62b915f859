//! The writer of memory, one thread per log. It applies the log's changes to cached values, fills
//! what readers missed, and evicts what was not used for long.

mod entry;
mod fills;
mod heads;
mod listing;
mod residents;
mod unknown;
mod writers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

pub(crate) use self::entry::CacheKey;
use self::entry::{CachedChange, CachedEntry};
use self::fills::Fills;
use self::heads::HeadLoads;
use self::listing::Listing;
use self::residents::Residents;
use self::unknown::UnknownPosts;
pub(crate) use self::writers::start;
use crate::changes::{Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::clock;
use crate::memory::{
    FollowChange, FollowedLog, Keeper, Memory, Miss, NotFresh, Slot, TailChange, count,
};
use crate::model::{ShardId, UserId};
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
    residents: Residents,
    listing: Listing,
    fills: Fills,
    heads: HeadLoads,
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
            memory,
            index,
            source,
            runtime,
            keeper: Keeper::new(),
            identity: None,
            residents: Residents::default(),
            listing: Listing::default(),
            fills: Fills::default(),
            heads: HeadLoads::new(shards),
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
        for event in batch {
            match event {
                FeedEvent::Began { identity, at } => self.begin(identity, at),
                FeedEvent::Excluded(shards) => self.exclude(&shards),
                FeedEvent::ShardUnknown(shard) => self.forget_shard(shard),
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
        for key in self.residents.keys().to_vec() {
            self.hide(key);
        }
        self.memory.forget_heads(self.log().shards());
        self.fills.clear_prefill();
        self.identity = Some(identity);
        self.log().begin(identity, at);
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
        for (shard, change) in changes {
            self.translate(shard, change, &mut translated);
        }
        self.forget_posts(&unknown, &mut translated);
        let log = &self.memory.logs()[self.index];
        count(&log.counters.transactions);
        log.counters.changes.fetch_add(translated.len() as u64, Ordering::Relaxed);
        log.announce(at);
        let (memory, residents, listing) = (&self.memory, &mut self.residents, &mut self.listing);
        self.keeper
            .commit(at, translated, |key, value| show(memory, residents, listing, (*key, value)));
        self.listing.list_posts(&self.memory);
        self.log().advance(at);
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
            Change::Post(post) => post.key.author,
            Change::PostGone(key) => key.author,
            Change::Follow(follow) | Change::Unfollow(follow) => follow.follower,
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
            Change::Post(post) => {
                let registered = self.raise_head(user, post.key.time);
                let slot = registered.or_else(|| self.memory.find(user));
                self.listing.add_post(&self.memory, slot, &post.key);
                self.push_tail(slot, translated, |memory| TailChange::Put(memory.tail_post(&post)));
            }
            Change::PostGone(key) => {
                let (slot, post) = (self.memory.find(user), (key.time, key.post.0));
                self.push_tail(slot, translated, |_| TailChange::Remove(post));
            }
            Change::Follow(follow) => {
                self.push_follow(user, translated, |memory| {
                    memory
                        .register_user(follow.followee)
                        .map_or(FollowChange::Unknown, FollowChange::Add)
                });
            }
            Change::Unfollow(follow) => {
                // A user without a slot is on no cached follow list.
                if let Some(followee) = self.memory.find(follow.followee) {
                    self.push_follow(user, translated, |_| FollowChange::Remove(followee));
                }
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

    fn push_tail(
        &self,
        author: Option<Slot>,
        translated: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> TailChange,
    ) {
        let Some(slot) = author else { return };
        for key in [CacheKey::Tail(slot), CacheKey::TailAudit(slot)] {
            if self.keeper.contains(key) {
                translated.push((key, CachedChange::Tail(change(&self.memory))));
            }
        }
    }

    fn push_follow(
        &self,
        reader: UserId,
        translated: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> FollowChange,
    ) {
        let Some(slot) = self.memory.find(reader) else { return };
        for key in [CacheKey::Follows(slot), CacheKey::FollowsAudit(slot)] {
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
                }
                (true, false) => {
                    self.forget_shard(shard);
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
        self.hide(key);
    }

    fn hide(&mut self, key: CacheKey) {
        show(&self.memory, &mut self.residents, &mut self.listing, (key, None));
    }

    /// Evicts approximately the least recently used entries until memory is within budget. If
    /// even those were used in the last 10 s, fills pause for a second, because they would only
    /// thrash.
    pub(crate) fn make_room(&mut self) {
        while self.memory.budget().is_over() {
            let memory = &self.memory;
            let oldest = self.residents.oldest(|key| memory.used(key.slot()));
            let Some(key) = oldest else { return };
            let (used, tick) = (memory.used(key.slot()), memory.tick());
            if used > 0 && tick.saturating_sub(used) <= IN_USE_SECS {
                self.fills.pause();
                self.log().accept_requests(false);
            }
            self.evict(key);
            count(&self.log().counters.evictions);
        }
    }

    /// Does the regular work that no event triggers.
    fn run_upkeep(&mut self) {
        // The feed normally reports the reason earlier.
        if self.logged_reason.is_none() && self.log().is_long_expired(self.memory.now_ms()) {
            self.lost("the feed reports nothing".into(), NotFresh::Late);
        }
        let paused = self.fills.is_paused();
        self.log().accept_requests(!paused);
        self.start_heads();
        self.queue_prefill();
        self.listing.list_tails(&self.memory);
        self.audit();
    }
}

/// Makes the value of a key visible to readers, or removes it. Audit copies are never visible.
fn show(
    memory: &Memory,
    residents: &mut Residents,
    listing: &mut Listing,
    (key, value): (CacheKey, Option<&CachedEntry>),
) {
    match (key, value) {
        (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) => {
            if memory.show_tail(slot, Some(Arc::clone(tail))) {
                listing.add_tail(slot);
            }
        }
        (CacheKey::Tail(slot), _) => {
            memory.show_tail(slot, None);
        }
        (CacheKey::Follows(slot), Some(CachedEntry::Follows(list))) => {
            memory.show_follows(slot, Some(Arc::clone(list)));
        }
        (CacheKey::Follows(slot), _) => memory.show_follows(slot, None),
        (CacheKey::TailAudit(_) | CacheKey::FollowsAudit(_), _) => return,
    }
    if value.is_some() {
        residents.add(key);
    } else {
        residents.remove(key);
    }
}
