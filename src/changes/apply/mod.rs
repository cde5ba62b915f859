//! The one writer into memory: follows a log, carries out what it says on what is kept, fills what
//! readers lacked, and drops what was not used for long. One task for each log.

mod entry;
mod fills;
mod handed;
mod heads;
mod listing;
mod residents;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use self::entry::{CacheKey, CachedChange, CachedEntry};
use self::fills::Fills;
pub(crate) use self::handed::HandedWriter;
use self::heads::HeadLoads;
use self::listing::Listing;
use self::residents::Residents;
use super::{Change, Commit, FeedEvent, LogIdentity};
use crate::clock::now_ms;
use crate::memory::{FollowChange, FollowedLog, Keeper, Memory, Miss, Slot, TailChange, count};
use crate::model::{ShardId, UserId};
use crate::shard::Source;

/// Batches of events that may wait; a slower writer slows the reader of the log.
const BATCHES_MAX: usize = 16;
/// Between two looks at what is to be tried again, dropped or filled ahead.
const TICK: Duration = Duration::from_millis(20);
/// What a reader looked at so many ticks ago, seconds, is in use.
const IN_USE: u32 = 10;

/// Follows one log.
pub(crate) struct Applier {
    memory: Arc<Memory>,
    /// Of this log, in memory.
    index: usize,
    source: Arc<Source>,
    keeper: Keeper<CacheKey, CachedEntry>,
    /// The log that is followed now.
    identity: Option<LogIdentity>,
    residents: Residents,
    listing: Listing,
    fills: Fills,
    heads: HeadLoads,
    /// Why nothing is heard, told once.
    told: Option<String>,
}

/// Starts the writer of each log; they end with the tasks.
pub(crate) fn start(
    memory: &Arc<Memory>,
    sources: &[Arc<Source>],
    queues: Vec<mpsc::Receiver<Miss>>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (index, (source, queue)) in sources.iter().zip(queues).enumerate() {
        let (sender, events) = mpsc::channel(BATCHES_MAX);
        tasks.spawn(Arc::clone(source).follow(sender));
        tasks.spawn(Applier::new(Arc::clone(memory), index, Arc::clone(source)).run(events, queue));
    }
    tasks
}

impl Applier {
    fn new(memory: Arc<Memory>, index: usize, source: Arc<Source>) -> Self {
        Self {
            memory,
            index,
            source,
            keeper: Keeper::new(),
            identity: None,
            residents: Residents::default(),
            listing: Listing::default(),
            fills: Fills::default(),
            heads: HeadLoads::default(),
            told: None,
        }
    }

    fn log(&self) -> &FollowedLog {
        &self.memory.logs()[self.index]
    }

    /// Runs until nothing more is told.
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Vec<FeedEvent>>,
        mut queue: mpsc::Receiver<Miss>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Whatever is not chosen waits where it is.
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => self.take(batch),
                    None => return,
                },
                Some(miss) = queue.recv() => self.wish(miss),
                Some(filled) = self.fills.next() => self.install(filled),
                Some(loaded) = self.heads.next() => self.load_heads(loaded),
                _ = tick.tick() => self.tend(),
            }
            self.make_room();
            self.start_fills();
        }
    }

    fn take(&mut self, batch: Vec<FeedEvent>) {
        for event in batch {
            match event {
                FeedEvent::Began { identity, at } => self.begin(identity, at),
                FeedEvent::Commit(commit) => self.commit(commit),
                FeedEvent::Alive => {
                    self.log().renew(self.memory.now_ms(), now_ms());
                    if self.told.take().is_some() {
                        info!(server = self.source.name(), "memory follows the log again");
                    }
                }
                FeedEvent::Lost(reason) => self.lost(reason),
            }
        }
        self.log().wake();
    }

    /// Told once for each reason.
    fn lost(&mut self, reason: String) {
        if self.told.as_ref() != Some(&reason) {
            let server = self.source.name();
            warn!(server, reason, "memory cannot follow the log; reads go to the databases");
            self.told = Some(reason);
        }
    }

    /// Nothing from before is known to be true.
    fn begin(&mut self, identity: LogIdentity, at: super::LogPosition) {
        self.keeper.begin(at);
        for key in self.residents.keys().to_vec() {
            self.hide(key);
        }
        self.memory.forget_heads(self.log());
        self.fills.plan_ahead(Vec::new());
        self.identity = Some(identity);
        self.log().begin(identity, at);
        count(&self.log().counters.log_identities);
        self.heads.invalidate();
    }

    fn commit(&mut self, commit: Commit) {
        let Commit { at, changes } = commit;
        if at <= self.keeper.high_water() {
            return;
        }
        let mut known = Vec::new();
        for (shard, change) in changes {
            self.translate(shard, change, &mut known);
        }
        let log = &self.memory.logs()[self.index];
        count(&log.counters.transactions);
        log.counters.changes.fetch_add(known.len() as u64, Ordering::Relaxed);
        log.announce(at);
        let (memory, residents, listing) = (&self.memory, &mut self.residents, &mut self.listing);
        self.keeper.commit(at, known, |key, value| show(memory, residents, listing, (*key, value)));
        self.listing.list_posts(&self.memory);
        self.log().advance(at);
    }

    /// What a change is to what is kept; nothing for what is not.
    fn translate(
        &mut self,
        shard: ShardId,
        change: Change,
        known: &mut Vec<(CacheKey, CachedChange)>,
    ) {
        let user = match &change {
            Change::Post(post) => post.key.author,
            Change::PostGone(key) => key.author,
            Change::Follow(follow) | Change::Unfollow(follow) => follow.follower,
            Change::AuthorUnknown(user) | Change::ReaderUnknown(user) => *user,
            Change::ShardUnknown => return self.forget_shard(shard),
        };
        // Rows of a user on a shard that does not own it are not read either.
        if self.memory.placement().shard_of(user) != shard {
            return;
        }
        match change {
            Change::Post(post) => {
                let met = self.raise_head(user, post.key.time);
                let slot = met.or_else(|| self.memory.find(user));
                self.listing.post(&self.memory, slot, &post.key);
                self.push_tail(slot, known, |memory| TailChange::Put(memory.tail_post(&post)));
            }
            Change::PostGone(key) => {
                let (slot, place) = (self.memory.find(user), (key.time, key.post.0));
                self.push_tail(slot, known, |_| TailChange::Remove(place));
            }
            Change::Follow(follow) => {
                self.push_follow(user, known, |memory| {
                    memory
                        .register_user(follow.followee)
                        .map_or(FollowChange::Unknown, FollowChange::Add)
                });
            }
            Change::Unfollow(follow) => {
                // Whoever was never met stands on no list.
                if let Some(followee) = self.memory.find(follow.followee) {
                    self.push_follow(user, known, |_| FollowChange::Remove(followee));
                }
            }
            Change::AuthorUnknown(_) => {
                self.forget_head(user);
                self.push_tail(self.memory.find(user), known, |_| TailChange::Unknown);
            }
            Change::ReaderUnknown(_) | Change::ShardUnknown => {
                self.push_follow(user, known, |_| FollowChange::Unknown);
            }
        }
    }

    fn push_tail(
        &self,
        author: Option<Slot>,
        known: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> TailChange,
    ) {
        let Some(slot) = author else { return };
        for key in [CacheKey::Tail(slot), CacheKey::TailAudit(slot)] {
            if self.keeper.knows(key) {
                known.push((key, CachedChange::Tail(change(&self.memory))));
            }
        }
    }

    fn push_follow(
        &self,
        reader: UserId,
        known: &mut Vec<(CacheKey, CachedChange)>,
        change: impl Fn(&Memory) -> FollowChange,
    ) {
        let Some(slot) = self.memory.find(reader) else { return };
        for key in [CacheKey::Follows(slot), CacheKey::FollowsAudit(slot)] {
            if self.keeper.knows(key) {
                known.push((key, CachedChange::Follows(change(&self.memory))));
            }
        }
    }

    /// Something happened to the shard that the log does not tell: all that is kept of it goes.
    fn forget_shard(&mut self, shard: ShardId) {
        let owner = |key: CacheKey| self.memory.placement().shard_of(self.memory.user(key.slot()));
        let keys: Vec<CacheKey> = self.keeper.keys().filter(|key| owner(*key) == shard).collect();
        for key in keys {
            self.evict(key);
        }
        self.memory.forget_heads(self.log());
        self.heads.invalidate();
    }

    fn evict(&mut self, key: CacheKey) {
        self.keeper.evict(key);
        self.hide(key);
    }

    fn hide(&mut self, key: CacheKey) {
        show(&self.memory, &mut self.residents, &mut self.listing, (key, None));
    }

    /// Drops what was not used for long, for as long as more is kept than may be. Where that is all
    /// in use, filling rests: what is filled would go before it is used, for what is used.
    fn make_room(&mut self) {
        while self.memory.budget().is_over() {
            let memory = &self.memory;
            let oldest = self.residents.oldest(|key| memory.used(key.slot()));
            let Some(key) = oldest else { return };
            let (used, tick) = (memory.used(key.slot()), memory.tick());
            if used > 0 && tick.saturating_sub(used) <= IN_USE {
                self.fills.rest();
                self.log().accept_requests(false);
            }
            self.evict(key);
            count(&self.log().counters.evictions);
        }
    }

    /// What is to be done now and then.
    fn tend(&mut self) {
        let rests = self.fills.is_resting();
        self.log().accept_requests(!rests);
        self.start_heads();
        self.fill_ahead();
        self.listing.list_tails(&self.memory);
        self.audit();
    }
}

/// Shows what is kept under a key to readers. What is only compared is shown to nobody.
fn show(
    memory: &Memory,
    residents: &mut Residents,
    listing: &mut Listing,
    (key, value): (CacheKey, Option<&CachedEntry>),
) {
    match (key, value) {
        (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) => {
            if memory.show_tail(slot, Some(Arc::clone(tail))) {
                listing.tail(slot);
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
