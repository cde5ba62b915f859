//! A memory that is filled and changed by hand, without databases. The benchmark uses it to measure
//! memory alone.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::stats::MemoryStats;
use crate::apply::{Applier, CacheKey};
use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::clock::now_ms;
use crate::memory::{Installed, LogName, Memory, Miss, Slot};
use crate::model::{FOLLOWEES_MAX, Post, PostKey, ShardId, UserId};
use crate::shard::{FillAnswer, FillRequest, FillTarget, Fleet};
use crate::timeline::{self, Draft, PageRequest, TimelineFlights, View};

/// Memory with one log, whose only shard owns all users.
pub struct EngineMemory<'a> {
    fleet: &'a Fleet,
    memory: Arc<Memory>,
    flights: TimelineFlights,
    applier: Applier,
    queue: mpsc::Receiver<Miss>,
}

impl fmt::Debug for EngineMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineMemory").field("users", &self.memory.users()).finish_non_exhaustive()
    }
}

impl<'a> EngineMemory<'a> {
    /// An empty memory of `budget` bytes. `fleet` has one shard and is never queried. `None` if the
    /// fleet has no log.
    pub fn new(fleet: &'a Fleet, budget: usize) -> Option<Self> {
        let source = fleet.sources().first()?;
        let names = vec![LogName { name: "none".into(), shards: vec![ShardId(0)] }];
        let (placement, times) = (fleet.placement().clone(), fleet.times().clone());
        let (memory, mut queues) = Memory::new(budget, names, placement, times);
        let queue = queues.pop()?;
        let mut applier = Applier::new(Arc::clone(&memory), 0, Arc::clone(source), None);
        applier.begin(LogIdentity(1), LogPosition(1));
        applier.install_heads(Vec::new());
        Some(Self { fleet, memory, flights: TimelineFlights::new(), applier, queue })
    }

    /// Makes memory count as fresh for three more seconds.
    pub fn renew(&self) {
        self.applier.log().renew(self.memory.now_ms(), now_ms());
    }

    /// Applies a batch of log events.
    pub fn take(&mut self, batch: Vec<FeedEvent>) {
        self.applier.take(batch);
        self.applier.make_room();
    }

    /// Stores the newest times of all authors that have posts. `None` if they do not fit.
    pub fn load_heads(&mut self, heads: &[(UserId, i64)]) -> Option<()> {
        let staged: Option<Vec<(Slot, i64)>> = heads
            .iter()
            .map(|(user, time)| Some((self.memory.register_author(*user)?, *time)))
            .collect();
        self.applier.install_heads(staged?);
        Some(())
    }

    /// Stores a follow list, by rising id. `None` if it does not fit.
    pub fn fill_follows(&mut self, reader: UserId, followees: Vec<UserId>) -> Option<()> {
        let max = u32::try_from(FOLLOWEES_MAX).unwrap_or(u32::MAX);
        self.fill(reader, FillTarget::Follows { max }, FillAnswer::Follows(followees.into()))
    }

    /// Stores an author's newest posts, newest first; `complete` if there are no others. `None` if
    /// they do not fit.
    pub fn fill_tail(&mut self, author: UserId, posts: Vec<Post>, complete: bool) -> Option<()> {
        let depth = u32::try_from(posts.len()).unwrap_or(u32::MAX);
        let answer = FillAnswer::Tail { posts, complete, names: None, blocks: Vec::new() };
        self.fill(author, FillTarget::Tail { depth }, answer)
    }

    fn fill(&mut self, user: UserId, what: FillTarget, answer: FillAnswer) -> Option<()> {
        let applier = &mut self.applier;
        let slot = self.memory.register_user(user)?;
        let key = match what {
            FillTarget::Tail { .. } => CacheKey::Tail(slot),
            FillTarget::Follows { .. } => CacheKey::Follows(slot),
        };
        applier.evict(key);
        let at = applier.keeper.high_water();
        let ticket = applier.keeper.register(key)?;
        let request = FillRequest { shard: ShardId(0), user, target: what };
        let entry = applier.entry_of(&request, answer, self.memory.frees())?;
        let installed = applier.keeper.install(key, ticket, Bounds::Exact(at), entry);
        (installed == Installed::Ready).then(|| applier.show_filled(key))
    }

    /// A page of a home timeline, if memory holds all of it.
    pub fn page(&self, reader: UserId, request: &PageRequest) -> Option<Draft> {
        let mut view = View::new(self.fleet, Some(&self.memory), &self.flights);
        // A page that needs a database is not ready at once.
        let page = timeline::home_timeline(&mut view, reader, request).now_or_never();
        page?.ok().filter(|draft| draft.waves == 0 && draft.queried.is_empty())
    }

    /// The authors whose tails pages needed since the last call, each with the number of posts that
    /// its tail must have at least. `None` if a page needed a follow list that is not in memory.
    pub fn missing_tails(&mut self) -> Option<Vec<(UserId, u32)>> {
        let misses = std::iter::from_fn(|| self.queue.try_recv().ok());
        let to_tail = |miss| match miss {
            Miss::Tail { slot, depth } => Some((self.memory.user(slot), depth)),
            Miss::Follows { .. } => None,
        };
        misses.map(to_tail).collect()
    }

    /// Whether memory holds this post; `None` if it does not reach down to it.
    pub fn holds(&self, key: &PostKey) -> Option<bool> {
        let slot = self.memory.find(key.author)?;
        let tail = self.memory.tail(slot, self.memory.tick())?;
        let place = (key.time, key.post.0);
        let reaches = tail.floor().is_none_or(|floor| place >= floor);
        reaches.then(|| tail.posts().iter().any(|post| post.key == place))
    }

    /// The figures of this moment.
    pub fn stats(&self) -> MemoryStats {
        MemoryStats::of_memory(&self.memory)
    }
}
