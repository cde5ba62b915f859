//! A node: memory with its real writers, which are given the logs of the simulated servers, and
//! real requests for pages and news.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::world::{SERVERS, Server, position};
use super::{READERS, Weakness};
use crate::apply::{Applier, CacheKey};
use crate::changes::{Bounds, Change, ChangePosition, Commit, FeedEvent};
use crate::clock;
use crate::freshness::Freshness;
use crate::memory::{Installed, LogName, Memory, MemorySizes, Miss};
use crate::model::{FOLLOWEES_MAX, Post, PostKey, ShardId, UserId};
use crate::placement::Placement;
use crate::shard::{Deadline, FillAnswer, FillRequest, FillTarget, Fleet, UserLists};
use crate::timeline::news::{self, News, NewsRequest, Subscription};
use crate::timeline::{self, Draft, PageRequest, TimelineFlights, View};

/// Bytes of memory. News have a part of it.
const BUDGET: usize = 4 << 20;
/// Attempts at a request whose tails are filled in between.
const FILLS_MAX: usize = 16;
/// A day: a clock that is ahead by this time takes no post for one of the future.
const DAY_MS: i64 = 86_400_000;

/// A node that follows all servers.
pub(super) struct Node<'a> {
    fleet: &'a Fleet,
    pub(super) memory: Arc<Memory>,
    flights: TimelineFlights,
    pub(super) writers: Vec<Writer>,
    /// How far its clock is ahead.
    offset_ms: i64,
    weakness: Option<Weakness>,
}

/// The writer of one log.
pub(super) struct Writer {
    applier: Applier,
    queue: mpsc::Receiver<Miss>,
    /// The epoch of the server that it follows, and the number of delivered transactions.
    pub(super) epoch: usize,
    pub(super) delivered: usize,
}

impl<'a> Node<'a> {
    pub(super) fn start(
        fleet: &'a Fleet,
        servers: &[Server],
        (offset_ms, news): (i64, usize),
        weakness: Option<Weakness>,
    ) -> Self {
        let names = (0..SERVERS).map(|index| LogName {
            name: "log".into(),
            shards: vec![ShardId(u16::try_from(index).unwrap())],
        });
        let (placement, times) = (Placement::modulo(2).unwrap(), fleet.times().clone());
        let sizes = MemorySizes { budget: BUDGET, news };
        let (memory, queues) = Memory::new(sizes, names.collect(), placement, times);
        let writers = queues.into_iter().zip(fleet.sources()).enumerate();
        let writers = writers.map(|(index, (queue, source))| Writer {
            applier: Applier::new(Arc::clone(&memory), index, Arc::clone(source), None),
            queue,
            epoch: 0,
            delivered: 0,
        });
        let (writers, flights) = (writers.collect(), TimelineFlights::new());
        let mut node = Self { fleet, memory, flights, writers, offset_ms, weakness };
        servers.iter().for_each(|server| node.begin(server));
        node
    }

    fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// Sets the clock for everything that this node does next.
    pub(super) fn set_clock(&self, now_ms: i64) {
        clock::set_ms(Some(now_ms + self.offset_ms));
        // For longer than a run takes.
        let since_ms = self.memory.now_ms() + 3_600_000;
        self.memory.logs().iter().for_each(|log| log.renew(since_ms, now_ms));
    }

    pub(super) fn clock_ms(&self, now_ms: i64) -> i64 {
        now_ms + self.offset_ms
    }

    pub(super) fn horizon(&self) -> PostKey {
        self.fleet.horizon().now().expect("posts of the future are hidden")
    }

    /// Follows the current epoch of a server from its end on.
    pub(super) fn begin(&mut self, server: &Server) {
        let writer = &mut self.writers[server.index];
        let epoch = server.now();
        writer.epoch = server.epochs.len() - 1;
        writer.delivered = epoch.end();
        let at = position(writer.delivered);
        writer.applier.take(vec![FeedEvent::Began { identity: epoch.identity, at }]);
    }

    /// Loads the newest time of all authors of a server.
    pub(super) fn load_heads(&mut self, server: &Server) {
        let writer = &mut self.writers[server.index];
        let rows = &server.epochs[writer.epoch].rows[writer.delivered];
        let mut heads = std::collections::BTreeMap::new();
        for ((author, _), (time, _)) in &rows.posts {
            let newest = heads.entry(*author).or_insert(*time);
            *newest = (*time).max(*newest);
        }
        let slot = |user| self.memory.register_author(UserId(user)).expect("authors have room");
        let heads = heads.into_iter().map(|(user, time)| (slot(user), time)).collect();
        writer.applier.install_heads(heads);
    }

    /// Delivers up to `count` transactions of a server, or its reset.
    pub(super) fn deliver(&mut self, server: &Server, count: usize) {
        if self.writers[server.index].epoch + 1 < server.epochs.len() {
            return self.begin(server);
        }
        let now_ms = clock::now_ms();
        if self.has(Weakness::AllPlain) {
            clock::set_ms(Some(now_ms + 40_000 * DAY_MS));
        }
        let strips = self.has(Weakness::NoUnknown);
        let writer = &mut self.writers[server.index];
        let epoch = server.now();
        let end = epoch.end().min(writer.delivered + count);
        let shard = ShardId(u16::try_from(server.index).unwrap());
        let batch = (writer.delivered..end).map(|number| {
            let changes = epoch.log[number].iter().filter(|change| !strips || is_known(change));
            let changes = changes.map(|change| (shard, change.clone())).collect();
            FeedEvent::Commit(Commit { at: position(number + 1), changes })
        });
        let batch = batch.collect();
        writer.delivered = end;
        writer.applier.take(batch);
        writer.applier.make_room();
        clock::set_ms(Some(now_ms));
    }

    /// Rows of the server changed without a transaction.
    pub(super) fn lose(&mut self, server: &Server) {
        let shard = ShardId(u16::try_from(server.index).unwrap());
        self.writers[server.index].applier.take(vec![FeedEvent::ShardUnknown(shard)]);
    }

    /// Evicts something of a random user.
    pub(super) fn evict(&mut self, chance: &mut StdRng) {
        let user = match chance.random_bool(0.2) {
            true => READERS[chance.random_range(0..READERS.len())],
            false => chance.random_range(0..super::AUTHORS),
        };
        let Some(slot) = self.memory.find(UserId(user)) else { return };
        let applier = &mut self.writers[self.memory.log_index(UserId(user))].applier;
        applier.evict(CacheKey::Tail(slot));
        applier.evict(CacheKey::Follows(slot));
    }

    /// Fills what requests have missed. Returns whether there was anything.
    fn fill_missed(&mut self, servers: &[Server]) -> bool {
        let mut misses = Vec::new();
        for writer in &mut self.writers {
            while let Ok(miss) = writer.queue.try_recv() {
                misses.push(miss);
            }
        }
        misses.sort_unstable();
        misses.dedup();
        for miss in &misses {
            match miss {
                Miss::Tail { slot, depth } => self.fill_tail(servers, *slot, *depth),
                Miss::Follows { user } => self.fill_follows(servers, user.0),
            }
        }
        !misses.is_empty()
    }

    fn fill_tail(&mut self, servers: &[Server], slot: u32, depth: u32) {
        let author = self.memory.user(slot);
        // Small tails must be filled again and again.
        let depth = depth.max(2);
        let rows = self.rows_of(servers, author);
        let mut posts: Vec<Post> = rows.posts_of(author.0).collect();
        posts.sort_unstable_by_key(|post| std::cmp::Reverse(post.key));
        let complete = posts.len() <= depth as usize;
        posts.truncate(depth as usize);
        let answer = FillAnswer::Tail { posts, complete, handle: None, blocks: Vec::new() };
        self.fill(author, FillTarget::Tail { depth }, answer);
    }

    /// Fills the reader's follow list, unless it is in memory.
    fn fill_follows(&mut self, servers: &[Server], reader: u64) {
        if self.memory.follows(UserId(reader), 0).is_some() {
            return;
        }
        let rows = self.rows_of(servers, UserId(reader));
        let list = rows.follows.range((reader, 0)..=(reader, u64::MAX));
        let follows = list.map(|(_, user)| UserId(*user)).collect();
        let answer = FillAnswer::Follows(UserLists { follows, ..UserLists::default() });
        let max = u32::try_from(FOLLOWEES_MAX).unwrap();
        self.fill(UserId(reader), FillTarget::Follows { max }, answer);
    }

    fn rows_of<'s>(&self, servers: &'s [Server], user: UserId) -> &'s super::world::Rows {
        let writer = &self.writers[self.memory.log_index(user)];
        &servers[self.memory.log_index(user)].epochs[writer.epoch].rows[writer.delivered]
    }

    fn fill(&mut self, user: UserId, target: FillTarget, answer: FillAnswer) {
        let slot = self.memory.register_user(user).expect("users have room");
        let applier = &mut self.writers[self.memory.log_index(user)].applier;
        let key = match target {
            FillTarget::Tail { .. } => CacheKey::Tail(slot),
            FillTarget::Follows { .. } => CacheKey::Follows(slot),
        };
        applier.evict(key);
        let at = applier.keeper.high_water();
        let ticket = applier.keeper.register(key).expect("it was evicted");
        let shard = self.memory.placement().shard_of(user);
        let request = FillRequest { shard, user, target };
        let entry = applier.entry_of(&request, answer, self.memory.frees()).expect("it has room");
        if applier.keeper.install(key, ticket, Bounds::Exact(at), entry) == Installed::Ready {
            applier.show_filled(key);
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(self.fleet, Some(&self.memory), &self.flights)
    }

    /// Makes the request until memory has what it needs. `None` if it waits for something else: for
    /// a token, or for a database.
    fn ask<T>(
        &mut self,
        servers: &[Server],
        reader: u64,
        mut ask: impl AsyncFnMut(&Self) -> T,
    ) -> Option<T> {
        for _ in 0..FILLS_MAX {
            self.fill_follows(servers, reader);
            if let Some(answer) = ask(self).now_or_never() {
                return Some(answer);
            }
            if !self.fill_missed(servers) {
                return None;
            }
        }
        None
    }

    pub(super) fn news(
        &mut self,
        servers: &[Server],
        reader: u64,
        request: &NewsRequest,
    ) -> Option<News> {
        self.ask(servers, reader, async |node| {
            news::news(&mut node.view(), UserId(reader), request).await.unwrap()
        })
    }

    /// The same for a request whose time is over: it waits for nothing.
    pub(super) async fn news_after_wait(
        &mut self,
        servers: &[Server],
        reader: u64,
        request: &NewsRequest,
    ) -> News {
        self.fill_follows(servers, reader);
        let mut view = self.view().until(Deadline::after(Duration::ZERO));
        news::news(&mut view, UserId(reader), request).await.unwrap()
    }

    pub(super) fn count(
        &mut self,
        servers: &[Server],
        reader: u64,
        request: &NewsRequest,
    ) -> Option<(usize, News)> {
        self.ask(servers, reader, async |node| {
            news::count(&mut node.view(), UserId(reader), request).await.unwrap()
        })
    }

    /// The answer that a subscription reads now.
    pub(super) fn read(
        &mut self,
        servers: &[Server],
        reader: u64,
        subscription: &mut Subscription,
    ) -> Option<News> {
        self.ask(servers, reader, async |node| subscription.read(node.view()).await.unwrap())
    }

    /// A page from memory.
    pub(super) fn page(
        &mut self,
        servers: &[Server],
        reader: u64,
        request: &PageRequest,
    ) -> Option<Draft> {
        let page = self.ask(servers, reader, async |node| {
            timeline::home_timeline(&mut node.view(), UserId(reader), request).await.unwrap()
        });
        page.filter(|page| page.queried.is_empty() && page.waves == 0 && page.missing.is_empty())
    }

    /// The token of a page that the databases answer: they show all changes up to one
    /// position, and perhaps some up to the end.
    pub(super) fn token_of_databases(&self, servers: &[Server]) -> Freshness {
        let mut token = Freshness::default();
        for (server, writer) in servers.iter().zip(&self.writers) {
            let epoch = server.now();
            let is_followed = writer.epoch + 1 == server.epochs.len();
            let delivered = if is_followed { writer.delivered } else { 0 };
            let seen = position(delivered.min(epoch.visible));
            token.set(epoch.identity, ChangePosition::after(seen), position(epoch.end()));
        }
        token.set_horizon(Some(self.horizon()));
        token
    }
}

fn is_known(change: &Change) -> bool {
    let is_unknown = matches!(
        change,
        Change::AuthorUnknown(_) | Change::ReaderUnknown(_) | Change::ShardUnknown
    );
    !is_unknown
}
