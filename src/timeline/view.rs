//! What one request may take from memory, and what it must ask the databases for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::draft::Draft;
use super::recent;
use super::warm::{self, Older, Scan, Span};
use super::{FOLLOWEES_MAX, PageRequest, TimelineFlights};
use crate::changes::{History, LogPosition};
use crate::cursor::Edge;
use crate::freshness::Freshness;
use crate::memory::{FollowList, Lack, Log, Memory, Slot, Version};
use crate::model::{Direction, ShardId, UserId};
use crate::shard::{Deadline, Fleet, FolloweesError, Source};

/// Between two questions whether a database shows what its log has told; first, then doubling.
const VISIBLE_PAUSE: Duration = Duration::from_millis(2);

/// The fleet and memory as one request finds them.
pub(crate) struct View<'a> {
    fleet: &'a Fleet,
    deadline: Deadline,
    memory: Option<&'a Memory>,
    /// What is read from memory is this or later.
    version: Version,
    flights: &'a TimelineFlights,
    /// What may be taken from memory, for each log; empty where everything may.
    trust: Vec<Trust>,
    /// Memory is left aside for this page: its cursor begins elsewhere on some shards.
    ignores_memory: bool,
    required: Freshness,
    /// Whether it is as fresh as was asked for.
    fresh_enough: AtomicBool,
    /// Memory has not come to the request's token; the databases are asked instead.
    memory_lags: bool,
    /// The databases are not to be asked.
    memory_only: bool,
    /// They would have been.
    databases_needed: AtomicBool,
}

/// What may be taken from memory of what one log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// It is what the databases hold.
    Fresh,
    /// It is what they held at this time, in milliseconds since 1970, and they cannot be asked.
    Stale(i64),
    /// Nothing: the databases can be asked, and the log cannot.
    Nothing,
}

/// Whose posts a page is made of.
#[derive(Debug, Default)]
pub(super) struct Authors {
    known: KnownAuthors,
    /// Of whom memory knows nothing, or nothing that may be used.
    pub(super) unknown: Vec<UserId>,
    /// The shards of those whose posts are taken from memory though they may be stale.
    pub(super) stale: BTreeMap<ShardId, i64>,
    /// The shard that was asked whom the reader follows, if one was.
    pub(super) queried: Option<ShardId>,
}

/// Authors of whom memory may be asked.
#[derive(Debug)]
enum KnownAuthors {
    /// All those of a list.
    FollowList(Arc<FollowList>),
    Slots(Vec<Slot>),
}

impl Default for KnownAuthors {
    fn default() -> Self {
        Self::Slots(Vec::new())
    }
}

/// A reader's follow list.
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
    /// A request that begins now.
    pub(crate) fn new(
        fleet: &'a Fleet,
        memory: Option<&'a Memory>,
        flights: &'a TimelineFlights,
    ) -> Self {
        let deadline = fleet.read_deadline();
        let version = memory.map(Memory::version).unwrap_or_default();
        let trust = memory.map_or_else(Vec::new, |memory| trust(fleet, memory));
        let required = Freshness::default();
        Self {
            fleet,
            deadline,
            memory,
            version,
            flights,
            trust,
            ignores_memory: false,
            required,
            fresh_enough: AtomicBool::new(true),
            memory_lags: false,
            memory_only: false,
            databases_needed: AtomicBool::new(false),
        }
    }

    /// What another request finds that begins now and ends by the same time.
    pub(super) fn renewed(&self) -> Self {
        Self { deadline: self.deadline, ..Self::new(self.fleet, self.memory, self.flights) }
    }

    pub(super) fn flights(&self) -> &'a TimelineFlights {
        self.flights
    }

    /// From now on shards that would have to be asked are missing.
    pub(super) fn use_memory_only(&mut self) {
        self.memory_only = true;
    }

    /// From now on the databases are asked for what memory lacks.
    pub(super) fn allow_databases(&mut self) {
        self.memory_only = false;
    }

    /// Whether the databases may be asked, as they must be for the page to be whole.
    pub(super) fn require_databases(&self) -> bool {
        if self.memory_only {
            self.databases_needed.store(true, Ordering::Relaxed);
        }
        !self.memory_only
    }

    /// Whether they would have been asked, but for [`View::leave_databases`].
    pub(super) fn databases_needed(&self) -> bool {
        self.databases_needed.load(Ordering::Relaxed)
    }

    /// Whether memory has not come to the request's token.
    pub(super) fn memory_lags(&self) -> bool {
        self.memory_lags
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

    /// Waits until memory is as fresh as the request asks for. What it is not in time is asked of
    /// the databases.
    pub(super) async fn wait_until_fresh(&mut self, request: &PageRequest) {
        self.ignores_memory = !request.cursor.shard_edges.is_empty();
        let Some(memory) = self.memory.filter(|_| !request.at_least.is_empty()) else { return };
        self.required = request.at_least.clone();
        let logs = memory.logs();
        for (history, at) in request.at_least.positions() {
            let is_this = |log: &Log| log.position().is_some_and(|(known, _)| known == *history);
            let Some(index) = logs.iter().position(is_this) else {
                self.memory_lags |= logs.iter().any(|log| log.position().is_none());
                self.check_identity(memory, *history);
                continue;
            };
            match self.trust.get(index) {
                Some(Trust::Nothing) => self.memory_lags |= !logs[index].has_reached(*history, *at),
                Some(Trust::Stale(_)) => self.mark_not_fresh_enough(),
                Some(Trust::Fresh) | None => {
                    let wait = logs[index].wait_for(*history, *at);
                    if self.deadline.half().limit(wait).await != Some(true) {
                        self.trust.resize(logs.len(), Trust::Fresh);
                        self.trust[index] = Trust::Nothing;
                        self.memory_lags = true;
                    }
                }
            }
        }
        self.version = memory.version();
    }

    /// If that history is over, what it promised cannot be kept; unless it is that of a log that is
    /// not followed, whose databases are asked.
    fn check_identity(&self, memory: &Memory, history: History) {
        let is_other = |log: &Log| log.position().is_some_and(|(known, _)| known != history);
        if memory.logs().iter().all(is_other) {
            self.mark_not_fresh_enough();
        }
    }

    fn mark_not_fresh_enough(&self) {
        self.fresh_enough.store(false, Ordering::Relaxed);
    }

    /// Makes the most of memory when shards were found missing; whether there is more to be made.
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

    /// Waits until the databases show what the request asks for: they may do so later than their
    /// logs tell it.
    pub(super) async fn wait_until_visible(&self) {
        let Some(memory) = self.memory else { return };
        for (history, at) in self.required.positions() {
            for (log, source) in memory.logs().iter().zip(self.fleet.sources()) {
                if log.position().is_some_and(|(known, _)| known == *history) {
                    self.wait_until_shown(log, source, *at).await;
                }
            }
        }
    }

    async fn wait_until_shown(&self, log: &Log, source: &Source, at: LogPosition) {
        let (until, mut pause) = (self.deadline.half(), VISIBLE_PAUSE);
        while log.visible() < at {
            // One asks for all who wait: most of them need not ask any more then.
            let turn = until.limit(log.turn_to_look()).await;
            if log.visible() >= at {
                return;
            }
            let answer = source.visible(until).await;
            let Some((history, visible)) = answer.ok().filter(|_| !until.is_over()) else {
                return self.mark_not_fresh_enough();
            };
            if log.position().is_some_and(|(known, _)| known == history) {
                log.note_visible(visible);
            }
            // Whoever waits for less need not wait for this one.
            drop(turn);
            if visible < at {
                until.limit(tokio::time::sleep(pause)).await;
                pause *= 2;
            }
        }
    }

    /// Says on the page how fresh it is.
    pub(super) async fn finish(&self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        let logs = memory.logs().iter().zip(self.fleet.sources());
        let queried = &draft.queried;
        let positions = logs.map(|(log, source)| self.position_after(log, source, queried));
        for (history, at) in join_all(positions).await.into_iter().flatten() {
            draft.freshness.add(history, at);
        }
        draft.stale.retain(|shard, _| !draft.missing.contains(shard));
        self.set_freshness(draft);
        let is_memorys = self.trust.is_empty() && !self.ignores_memory && draft.queried.is_empty();
        draft.as_of = (is_memorys && draft.is_whole()).then_some(self.version);
    }

    /// Says on a page that was read for others too what it is to this request.
    pub(super) fn adapt_shared(&self, mut draft: Draft) -> Draft {
        if let Some(memory) = self.memory {
            let required = self.required.positions().iter();
            required.for_each(|(history, _)| self.check_identity(memory, *history));
        }
        self.set_freshness(&mut draft);
        draft
    }

    fn set_freshness(&self, draft: &mut Draft) {
        draft.fresh_enough &= self.fresh_enough.load(Ordering::Relaxed);
        // What was asked for holds for the next page too; but not what no log has any more.
        let known: Vec<History> = draft.freshness.positions().iter().map(|(log, _)| *log).collect();
        let required =
            self.required.positions().iter().filter(|(history, _)| known.contains(history));
        required.for_each(|(history, at)| draft.freshness.add(*history, *at));
    }

    /// What a page was as fresh as: of a log whose databases were asked, its end by now, since they
    /// may have shown more than it has told so far.
    async fn position_after(
        &self,
        log: &Log,
        source: &Source,
        queried: &BTreeSet<ShardId>,
    ) -> Option<(History, LogPosition)> {
        if log.shards().iter().any(|shard| queried.contains(shard)) {
            source.end_of_log(self.deadline).await.ok()
        } else {
            log.announced()
        }
    }

    /// Whom a reader follows.
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

    /// Who follows nobody may be nobody, and would be given a place in memory for good.
    fn request_follows_fill(&self, reader: UserId, followees: &[UserId]) {
        let Some(memory) = self.memory else { return };
        if !followees.is_empty() || memory.find(reader).is_some() {
            memory.lacks(Lack::Follows { user: reader });
        }
    }

    fn authors_of_list(&self, memory: &Memory, list: Arc<FollowList>) -> Authors {
        if self.trust.is_empty() && !self.ignores_memory {
            return Authors { known: KnownAuthors::FollowList(list), ..Authors::default() };
        }
        let users: Vec<UserId> = list.slots().iter().map(|slot| memory.user(*slot)).collect();
        self.authors(&users)
    }

    /// What memory may be asked of these authors.
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
                // Nobody who has posts is unknown.
                (_, None) if memory.log_of(user).heads_known() => {}
                (_, None) => authors.unknown.push(user),
            }
            if let Trust::Stale(as_of) = trust {
                authors.stale.insert(memory.placement().shard_of(user), as_of);
            }
        }
        authors.known = KnownAuthors::Slots(slots);
        authors
    }

    /// Whether this is one of the authors.
    pub(super) fn is_among(&self, authors: &Authors, user: UserId) -> bool {
        let slot = self.memory.and_then(|memory| memory.find(user));
        authors.unknown.contains(&user) || slot.is_some_and(|slot| authors.slots().contains(&slot))
    }

    fn trust_of(&self, memory: &Memory, user: UserId) -> Trust {
        self.trust.get(memory.log_index(user)).copied().unwrap_or(Trust::Fresh)
    }

    /// What memory knows of a page.
    pub(super) fn scan(&self, authors: &Authors, direction: Direction, span: Span) -> Scan {
        match (self.memory, direction) {
            (Some(memory), Direction::Older) => {
                let walked = match &authors.known {
                    KnownAuthors::FollowList(list) => recent::older(memory, list, span),
                    KnownAuthors::Slots(_) => None,
                };
                walked.unwrap_or_else(|| warm::older(memory, authors.slots(), span))
            }
            (Some(memory), Direction::Newer) => warm::newer(memory, authors.slots(), span),
            (None, _) => Scan::default(),
        }
    }

    /// Whether memory knows of a post under this edge.
    pub(super) fn any_older(&self, authors: &Authors, edge: Edge) -> Older {
        match self.memory {
            Some(memory) => warm::any_older(memory, authors.slots(), edge),
            None => Older::None,
        }
    }
}

/// Nothing where everything may be taken from memory, which is usual and costs a look at each log.
fn trust(fleet: &Fleet, memory: &Memory) -> Vec<Trust> {
    let now_ms = memory.now_ms();
    if memory.is_fresh(now_ms) {
        return Vec::new();
    }
    let trust = |log: &Log| {
        let answers = log.shards().iter().any(|shard| fleet.shard(*shard).health().is_ok());
        match log.as_of_ms() {
            _ if log.is_fresh(now_ms) => Trust::Fresh,
            Some(as_of) if !answers => Trust::Stale(as_of),
            _ => Trust::Nothing,
        }
    };
    memory.logs().iter().map(trust).collect()
}
