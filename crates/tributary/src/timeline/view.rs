//! `View` decides, for one request, which parts of memory may be used and which shards are
//! queried.
//!
//! A log is trusted while its lease holds: memory then has what the databases hold. If the lease
//! has expired, memory is used only for shards that do not answer, and the page lists them as
//! stale. A request with a freshness token first waits until memory, or the database, has reached
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::draft::Draft;
use super::recent;
use super::required::Required;
use super::warm::{self, MemoryPosts, Older, Span};
use super::{PageRequest, TimelineFlights};
use crate::changes::{LogIdentity, LogPosition};
use crate::cursor::Edge;
use crate::memory::{FollowList, FollowedLog, LogSet, Memory, Miss, Slot, Version};
use crate::model::{Direction, FOLLOWEES_MAX, ShardId, UserId};
use crate::shard::{Deadline, Fleet, FolloweesError, Source};

/// The fleet and memory, as one request may use them.
pub(crate) struct View<'a> {
    fleet: &'a Fleet,
    deadline: Deadline,
    memory: Option<&'a Memory>,
    /// Memory's version before the first read; everything read from memory is at least this new.
    version: Version,
    flights: &'a TimelineFlights,
    /// How far each log is trusted, by index in `Memory::logs`; empty if all are fresh.
    trust: Vec<Trust>,
    /// Memory is not used, because the cursor starts at different edges on some shards.
    ignores_memory: bool,
    required: Required,
    /// The end of all waits for the request's token together: half of the time for the page.
    patience: Deadline,
    /// No database may be queried; shards that would have to be are missing.
    memory_only: bool,
    /// At least one database would have been queried if `memory_only` were not set.
    databases_needed: AtomicBool,
}

/// How far memory is trusted for the shards of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Memory has what the databases hold.
    Fresh,
    /// The databases do not answer; memory has what they held at this time, in ms since 1970.
    Stale(i64),
    /// Memory is not used: the log's lease has expired, and a database answers or memory was never
    /// complete.
    Nothing,
}

/// The authors of a page, by where their posts can be read.
#[derive(Debug, Default)]
pub(super) struct Authors {
    known: KnownAuthors,
    /// Authors that are read from the databases: memory does not know them or may not be used.
    pub(super) unknown: Vec<UserId>,
    /// Shards whose authors are read from memory that may be stale, and since when (ms since
    /// 1970).
    pub(super) stale: BTreeMap<ShardId, i64>,
    /// The shard that was queried for the follow list, if one was.
    pub(super) queried: Option<ShardId>,
}

/// Authors whose posts may be read from memory.
#[derive(Debug)]
enum KnownAuthors {
    /// All users on a follow list.
    FollowList(Arc<FollowList>),
    Slots(Vec<Slot>),
}

impl Default for KnownAuthors {
    fn default() -> Self {
        Self::Slots(Vec::new())
    }
}

/// A reader's follow list, or why there is none.
pub(super) enum Followees {
    Known(Authors),
    TooMany,
    Missing(ShardId),
}

impl Authors {
    fn slots(&self) -> &[Slot] {
        match &self.known {
            KnownAuthors::FollowList(list) => list.slots(),
            KnownAuthors::Slots(slots) => slots,
        }
    }
}

impl<'a> View<'a> {
    /// A view for a request that starts now; its deadline is `request.deadline_ms` from now.
    pub(crate) fn new(
        fleet: &'a Fleet,
        memory: Option<&'a Memory>,
        flights: &'a TimelineFlights,
    ) -> Self {
        let deadline = fleet.read_deadline();
        let version = memory.map(Memory::version).unwrap_or_default();
        let trust = memory.map_or_else(Vec::new, |memory| trust(fleet, memory));
        Self {
            fleet,
            deadline,
            memory,
            version,
            flights,
            trust,
            ignores_memory: false,
            required: Required::default(),
            patience: deadline.half(),
            memory_only: false,
            databases_needed: AtomicBool::new(false),
        }
    }

    /// A view of memory as it is now, with the deadline of this one and no token.
    pub(super) fn renewed(&self) -> Self {
        let (deadline, patience) = (self.deadline, self.patience);
        Self { deadline, patience, ..Self::new(self.fleet, self.memory, self.flights) }
    }

    pub(super) fn flights(&self) -> &'a TimelineFlights {
        self.flights
    }

    /// From now on, shards that would have to be queried are reported as missing.
    pub(super) fn use_memory_only(&mut self) {
        self.memory_only = true;
    }

    /// From now on, databases are queried for everything that memory does not have.
    pub(super) fn allow_databases(&mut self) {
        self.memory_only = false;
    }

    /// Records that the page needs a database, and returns whether databases may be queried.
    pub(super) fn require_databases(&self) -> bool {
        if self.memory_only {
            self.databases_needed.store(true, Ordering::Relaxed);
        }
        !self.memory_only
    }

    /// Whether [`View::require_databases`] refused a database that the page needs.
    pub(super) fn databases_needed(&self) -> bool {
        self.databases_needed.load(Ordering::Relaxed)
    }

    /// Whether memory has not reached the request's token.
    pub(super) fn memory_lags(&self) -> bool {
        self.required.memory_lags()
    }

    pub(super) fn fleet(&self) -> &Fleet {
        self.fleet
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether more than half of the time for a read is gone.
    pub(super) fn is_late(&self) -> bool {
        self.deadline < self.fleet.read_deadline().half()
    }

    /// Waits until memory has reached the request's token, all logs together for half of the time
    /// at most. A log that does not reach it in time is no longer trusted; its databases are
    /// queried.
    pub(super) async fn wait_until_fresh(&mut self, request: &PageRequest) {
        self.ignores_memory = !request.cursor.shard_edges.is_empty();
        let Some(memory) = self.memory.filter(|_| !request.at_least.is_empty()) else { return };
        self.required = Required::new(&request.at_least);
        if !self.required.is_reached(memory) || !self.trust.is_empty() {
            let logs = memory.logs().iter().zip(self.fleet.sources()).enumerate();
            let logs =
                logs.map(|(index, (log, source))| (log, source.as_ref(), self.trust_at(index)));
            let lagging = Box::pin(self.required.wait(logs.collect(), self.patience)).await;
            for index in lagging {
                self.trust.resize(memory.logs().len(), Trust::Fresh);
                self.trust[index] = Trust::Nothing;
            }
        }
        self.version = memory.version();
    }

    fn trust_at(&self, index: usize) -> Trust {
        self.trust.get(index).copied().unwrap_or(Trust::Fresh)
    }

    /// Trusts stale memory for logs with missing shards. Returns whether that adds anything.
    pub(super) fn use_stale_memory(&mut self, missing: &BTreeSet<ShardId>) -> bool {
        let Some(memory) = self.memory.filter(|_| !self.ignores_memory) else { return false };
        let mut any = false;
        for (log, trust) in memory.logs().iter().zip(&mut self.trust) {
            let is_missing = log.shards().iter().any(|shard| missing.contains(shard));
            if let (true, Trust::Nothing, Some(as_of)) = (is_missing, *trust, log.as_of_ms()) {
                *trust = Trust::Stale(as_of);
                any = true;
            }
        }
        any
    }

    /// Waits until the databases show every position of the request's token, until `patience` at
    /// most. A database delivers a transaction in its log before its tables show it.
    pub(super) async fn wait_until_visible(&self) {
        let Some(memory) = self.memory.filter(|_| !self.required.is_empty()) else { return };
        let sources = self.fleet.sources().iter().map(AsRef::as_ref);
        let logs = memory.logs().iter().zip(sources).collect();
        self.required.wait_until_visible(logs, self.patience).await;
    }

    /// Sets the page's freshness token and stale shards, and its version if it may be cached.
    pub(super) async fn finish(&self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        let logs = memory.logs().iter().zip(self.fleet.sources());
        let queried = &draft.queried;
        let positions = logs.map(|(log, source)| self.position_after(log, source, queried));
        for (identity, at) in join_all(positions).await.into_iter().flatten() {
            draft.freshness.add(identity, at);
        }
        draft.stale.retain(|shard, _| !draft.missing.contains(shard));
        self.set_freshness(draft);
        // A log that is not fresh has made the page stale, or was queried, or is not needed.
        let is_from_memory = !self.ignores_memory && draft.queried.is_empty();
        draft.as_of = (is_from_memory && draft.is_whole()).then_some(self.version);
    }

    /// Completes a page that was read for several requests with the freshness of this one.
    pub(super) fn adapt_shared(&self, mut draft: Draft) -> Draft {
        self.set_freshness(&mut draft);
        draft
    }

    /// Adds the required positions that were reached to the page's token. A lost one is not in it,
    /// or the client would wait for it again.
    fn set_freshness(&self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        self.required.check_after_reads(memory);
        draft.fresh_enough &= !self.required.is_any_lost();
        self.required.reached().for_each(|(identity, at)| draft.freshness.add(identity, at));
    }

    /// The position that a page reflects. A queried database may show more than its log has
    /// delivered, so the position is then the current end of its log (one query).
    async fn position_after(
        &self,
        log: &FollowedLog,
        source: &Source,
        queried: &BTreeSet<ShardId>,
    ) -> Option<(LogIdentity, LogPosition)> {
        if log.shards().iter().any(|shard| queried.contains(shard)) {
            source.log_end(self.deadline).await.ok().map(|end| (end.identity, end.end))
        } else {
            log.announced()
        }
    }

    /// The users that `reader` follows: from memory, or by one query on the shard of the reader.
    pub(super) async fn followees(&self, reader: UserId) -> Followees {
        let own = self.fleet.placement().shard_of(reader);
        if let Some(memory) = self.memory {
            let trust = self.trust_of(memory, reader);
            let list = memory.follows(reader, memory.tick());
            if let Some(list) = list.filter(|_| trust != Trust::Nothing) {
                let mut authors = self.authors_of_list(memory, list);
                if let Trust::Stale(as_of) = trust {
                    authors.stale.insert(own, as_of);
                }
                return Followees::Known(authors);
            }
        }
        if !self.require_databases() {
            return Followees::Missing(own);
        }
        self.wait_until_visible().await;
        match self.fleet.followees(reader, FOLLOWEES_MAX, self.deadline).await {
            Ok(followees) => {
                self.request_follows_fill(reader, &followees);
                Followees::Known(Authors { queried: Some(own), ..self.authors(&followees) })
            }
            Err(FolloweesError::TooMany) => Followees::TooMany,
            Err(FolloweesError::Missing(shard)) => Followees::Missing(shard),
        }
    }

    /// Unknown ids with an empty list get no fill: a slot in memory is never freed.
    fn request_follows_fill(&self, reader: UserId, followees: &[UserId]) {
        let Some(memory) = self.memory else { return };
        if !followees.is_empty() || memory.find(reader).is_some() {
            memory.request_fill(Miss::Follows { user: reader });
        }
    }

    fn authors_of_list(&self, memory: &Memory, list: Arc<FollowList>) -> Authors {
        let mut authors = Authors::default();
        if self.ignores_memory {
            authors.unknown = list.slots().iter().map(|slot| memory.user(*slot)).collect();
            return authors;
        }
        let lagging = self.lagging();
        if lagging.is_empty() || !memory.logs_of(&list).intersects(lagging) {
            authors.known = KnownAuthors::FollowList(list);
            return authors;
        }
        let mut slots = Vec::with_capacity(list.slots().len());
        for &slot in list.slots() {
            let user = memory.user(slot);
            match self.trust_of(memory, user) {
                Trust::Nothing => authors.unknown.push(user),
                Trust::Fresh => slots.push(slot),
                Trust::Stale(as_of) => {
                    authors.stale.insert(memory.placement().shard_of(user), as_of);
                    slots.push(slot);
                }
            }
        }
        authors.known = KnownAuthors::Slots(slots);
        authors
    }

    /// The logs that are not fresh.
    fn lagging(&self) -> LogSet {
        let trust = self.trust.iter().enumerate();
        trust.filter(|(_, trust)| **trust != Trust::Fresh).map(|(index, _)| index).collect()
    }

    /// Splits authors into those that memory may answer and those that need a database.
    pub(super) fn authors(&self, users: &[UserId]) -> Authors {
        let mut authors = Authors::default();
        let mut slots = Vec::with_capacity(users.len());
        for &user in users {
            let Some(memory) = self.memory.filter(|_| !self.ignores_memory) else {
                authors.unknown.push(user);
                continue;
            };
            let trust = self.trust_of(memory, user);
            match (trust, memory.find(user)) {
                (Trust::Nothing, _) => authors.unknown.push(user),
                (_, Some(slot)) => slots.push(slot),
                // All heads are loaded, so a user without a slot has no posts.
                (_, None) if memory.knows_heads_with(user) => {}
                (_, None) => authors.unknown.push(user),
            }
            if let Trust::Stale(as_of) = trust {
                authors.stale.insert(memory.placement().shard_of(user), as_of);
            }
        }
        authors.known = KnownAuthors::Slots(slots);
        authors
    }

    /// Whether `user` is one of the authors.
    pub(super) fn is_among(&self, authors: &Authors, user: UserId) -> bool {
        let slot = self.memory.and_then(|memory| memory.find(user));
        authors.unknown.contains(&user) || slot.is_some_and(|slot| authors.slots().contains(&slot))
    }

    fn trust_of(&self, memory: &Memory, user: UserId) -> Trust {
        self.trust_at(memory.log_index(user))
    }

    /// The part of a page that memory has, and the authors that need a database.
    pub(super) fn memory_posts(
        &self,
        authors: &Authors,
        direction: Direction,
        span: Span,
    ) -> MemoryPosts {
        match (self.memory, direction) {
            (Some(memory), Direction::Older) => {
                let scanned = match &authors.known {
                    KnownAuthors::FollowList(list) => recent::older(memory, list, span),
                    KnownAuthors::Slots(_) => None,
                };
                scanned.unwrap_or_else(|| warm::older(memory, authors.slots(), span))
            }
            (Some(memory), Direction::Newer) => warm::newer(memory, authors.slots(), span),
            (None, _) => MemoryPosts::default(),
        }
    }

    /// Whether memory has a post of these authors that is older than `edge`.
    pub(super) fn any_older(&self, authors: &Authors, edge: Edge) -> Older {
        match self.memory {
            Some(memory) => warm::any_older(memory, authors.slots(), edge),
            None => Older::None,
        }
    }
}

/// Empty if every log is fresh, which is the usual case and costs one comparison for each log.
fn trust(fleet: &Fleet, memory: &Memory) -> Vec<Trust> {
    let now_ms = memory.now_ms();
    if memory.lagging(now_ms).is_empty() {
        return Vec::new();
    }
    let trust = |log: &FollowedLog| {
        let answers = log.shards().iter().any(|shard| fleet.shard(*shard).health().is_ok());
        match log.as_of_ms() {
            _ if log.is_fresh(now_ms) => Trust::Fresh,
            Some(as_of) if !answers => Trust::Stale(as_of),
            _ => Trust::Nothing,
        }
    };
    memory.logs().iter().map(trust).collect()
}
