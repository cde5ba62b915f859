//! A node: memory with its real writers, which are given the logs of the simulated servers, and
//! real requests for pages and news.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::server::{SERVERS, Server, position};
use super::{READERS, Weakness};
use crate::apply::{Applier, CacheKey};
use crate::changes::{Bounds, Change, Commit, FeedEvent, LogIdentity};
use crate::clock;
use crate::memory::{Installed, LogName, Memory, MemorySizes, Miss, Ticket};
use crate::model::{FOLLOWEES_MAX, PostKey, ShardId, UserId};
use crate::placement::Placement;
use crate::shard::{FillBatch, FillRequest, Fleet, HeldReads, ShardError};
use crate::timeline::{TimelineFlights, View};

/// Bytes of memory. News have a part of it.
const BUDGET: usize = 4 << 20;
/// Bytes that a fill may read.
const FILL_BYTES: usize = 1 << 20;
/// Attempts at a fill whose snapshot is too old.
const FILLS_MAX: u32 = 20;
/// Posts of the first fill of a tail. Small tails must be filled again and again.
const DEPTH_MIN: u32 = 2;

/// A node that follows all servers.
pub(super) struct Node<'a> {
    reading: Reading<'a>,
    /// The reads that each server has not answered.
    held: &'a [Arc<HeldReads>],
    pub(super) memory: Arc<Memory>,
    pub(super) writers: Vec<Writer>,
    fills: Vec<Fill>,
    /// How far its clock is ahead.
    offset_ms: i64,
    weakness: Option<Weakness>,
}

/// The parts of a node that requests read.
#[derive(Clone)]
pub(super) struct Reading<'a> {
    fleet: &'a Fleet,
    memory: Arc<Memory>,
    flights: Arc<TimelineFlights>,
}

impl Reading<'_> {
    pub(super) fn view(&self) -> View<'_> {
        View::new(self.fleet, Some(&self.memory), &self.flights)
    }
}

/// A fill of memory that waits for its database.
struct Fill {
    log: usize,
    identity: LogIdentity,
    key: CacheKey,
    ticket: Ticket,
    frees: u64,
    request: FillRequest,
    read: FillRead,
    tries: u32,
}

type FillRead = Pin<Box<dyn Future<Output = Result<FillBatch, ShardError>>>>;

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
        (fleet, held): (&'a Fleet, &'a [Arc<HeldReads>]),
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
        let (writers, fills) = (writers.collect(), Vec::new());
        let flights = Arc::new(TimelineFlights::new());
        let reading = Reading { fleet, memory: Arc::clone(&memory), flights };
        let mut node = Self { reading, held, memory, writers, fills, offset_ms, weakness };
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
        self.reading.fleet.horizon().now().expect("posts of the future are hidden")
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
        if self.has(Weakness::NoMarks) {
            self.memory.logs()[server.index].news.forget_marks();
        }
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

    pub(super) fn reading(&self) -> Reading<'a> {
        self.reading.clone()
    }

    /// A server with a read that waits, and the number of its reads.
    pub(super) fn held(&self, chance: &mut StdRng) -> Option<(usize, usize)> {
        let counts: Vec<_> = self.held.iter().map(|held| held.len()).enumerate().collect();
        let some: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        (!some.is_empty()).then(|| some[chance.random_range(0..some.len())])
    }

    /// Lets a server answer one of the reads, or fail.
    pub(super) fn answer(&self, servers: &mut [Server], chance: &mut StdRng) {
        let Some((index, count)) = self.held(chance) else { return };
        let (held, number) = (&self.held[index], chance.random_range(0..count));
        match chance.random_ratio(1, 40) {
            true => held.fail(number),
            false => servers[index].answer(held, number, chance),
        }
    }

    /// Starts the fills of what requests have missed, and installs those that were answered.
    pub(super) fn fill(&mut self) {
        let mut misses = Vec::new();
        for writer in &mut self.writers {
            while let Ok(miss) = writer.queue.try_recv() {
                misses.push(miss);
            }
        }
        misses.sort_unstable();
        misses.dedup();
        misses.into_iter().for_each(|miss| self.start_fill(miss));
        for mut fill in std::mem::take(&mut self.fills) {
            match (&mut fill.read).now_or_never() {
                Some(outcome) => self.end_fill(fill, outcome),
                None => self.fills.push(fill),
            }
        }
    }

    fn start_fill(&mut self, miss: Miss) {
        let shard_of = |user| self.memory.placement().shard_of(user);
        let (user, key, request) = match miss {
            Miss::Tail { slot, depth } => {
                let user = self.memory.user(slot);
                let request = FillRequest::tail(shard_of(user), user, depth.max(DEPTH_MIN));
                (user, CacheKey::Tail(slot), request)
            }
            Miss::Follows { user } => {
                let max = u32::try_from(FOLLOWEES_MAX).unwrap();
                let slot = self.memory.register_user(user).expect("users have room");
                let request = FillRequest::follows(shard_of(user), user, max);
                (user, CacheKey::Follows(slot), request)
            }
        };
        let log = self.memory.log_index(user);
        let keeper = &mut self.writers[log].applier.keeper;
        let key = match key {
            CacheKey::Tail(slot) if keeper.get(key).is_some() => CacheKey::DeeperTail(slot),
            CacheKey::Follows(_) if keeper.get(key).is_some() => return,
            key => key,
        };
        let Some((identity, _)) = self.memory.logs()[log].position() else { return };
        // Otherwise it is being filled.
        let Some(ticket) = keeper.register(key) else { return };
        let frees = self.memory.frees();
        let read = self.read(log, request);
        let fill = Fill { log, identity, key, ticket, frees, request, read, tries: 1 };
        self.fills.push(fill);
    }

    fn read(&self, log: usize, request: FillRequest) -> FillRead {
        let source = Arc::clone(&self.reading.fleet.sources()[log]);
        let deadline = self.reading.fleet.read_deadline();
        Box::pin(async move { source.fill(&[request], FILL_BYTES, deadline).await })
    }

    fn end_fill(&mut self, mut fill: Fill, outcome: Result<FillBatch, ShardError>) {
        let applier = &mut self.writers[fill.log].applier;
        let batch = outcome.ok().filter(|batch| batch.identity == fill.identity);
        let answer = batch.and_then(|mut batch| Some((batch.bounds, batch.answers.pop()?)));
        let entry = answer.and_then(|(bounds, answer)| {
            Some((bounds, applier.entry_of(&fill.request, answer, fill.frees)?))
        });
        let Some((bounds, entry)) = entry.filter(|_| fill.tries < FILLS_MAX) else {
            return applier.keeper.give_up(fill.key, fill.ticket);
        };
        let bounds = match self.weakness {
            Some(Weakness::BlindFills) => Bounds::Exact(applier.keeper.high_water()),
            _ => bounds,
        };
        if applier.install_one(fill.key, fill.ticket, bounds, entry) == Installed::Retry {
            fill.read = self.read(fill.log, fill.request);
            fill.tries += 1;
            self.fills.push(fill);
        }
    }
}

fn is_known(change: &Change) -> bool {
    let is_unknown = matches!(
        change,
        Change::AuthorUnknown(_) | Change::ReaderUnknown(_) | Change::ShardUnknown
    );
    !is_unknown
}
