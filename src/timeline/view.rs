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
use crate::changes::{LogIdentity, LogPosition};
use crate::cursor::Edge;
use crate::freshness::Freshness;
use crate::memory::{FollowList, FollowedLog, Memory, Miss, Slot, Version};
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
    aside: bool,
    asked: Freshness,
    /// Whether it is as fresh as was asked for.
    fresh_enough: AtomicBool,
    /// Memory has not come to the request's token; the databases are asked instead.
    is_behind: bool,
    /// The databases are not to be asked.
    leaves_databases: bool,
    /// They would have been.
    lacks_databases: AtomicBool,
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
    kept: Kept,
    /// Of whom memory knows nothing, or nothing that may be used.
    pub(super) unknown: Vec<UserId>,
    /// The shards of those whose posts are taken from memory though they may be stale.
    pub(super) stale: BTreeMap<ShardId, i64>,
    /// The shard that was asked whom the reader follows, if one was.
    pub(super) asked: Option<ShardId>,
}

/// Authors of whom memory may be asked.
#[derive(Debug)]
enum Kept {
    /// All those of a list.
    List(Arc<FollowList>),
    Some(Vec<Slot>),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Some(Vec::new())
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
        match &self.kept {
            Kept::List(list) => list.slots(),
            Kept::Some(slots) => slots,
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
        let asked = Freshness::default();
        Self {
            fleet,
            deadline,
            memory,
            version,
            flights,
            trust,
            aside: false,
            asked,
            fresh_enough: AtomicBool::new(true),
            is_behind: false,
            leaves_databases: false,
            lacks_databases: AtomicBool::new(false),
        }
    }

    /// What another request finds that begins now and ends by the same time.
    pub(super) fn anew(&self) -> Self {
        Self { deadline: self.deadline, ..Self::new(self.fleet, self.memory, self.flights) }
    }

    pub(super) fn flights(&self) -> &'a TimelineFlights {
        self.flights
    }

    /// From now on shards that would have to be asked are missing.
    pub(super) fn leave_databases(&mut self) {
        self.leaves_databases = true;
    }

    /// From now on the databases are asked for what memory lacks.
    pub(super) fn ask_databases(&mut self) {
        self.leaves_databases = false;
    }

    /// Whether the databases may be asked, as they must be for the page to be whole.
    pub(super) fn may_ask(&self) -> bool {
        if self.leaves_databases {
            self.lacks_databases.store(true, Ordering::Relaxed);
        }
        !self.leaves_databases
    }

    /// Whether they would have been asked, but for [`View::leave_databases`].
    pub(super) fn lacks_databases(&self) -> bool {
        self.lacks_databases.load(Ordering::Relaxed)
    }

    /// Whether memory has not come to the request's token.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
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
    pub(super) async fn settle(&mut self, request: &PageRequest) {
        self.aside = !request.cursor.behind.is_empty();
        let Some(memory) = self.memory.filter(|_| !request.at_least.is_empty()) else { return };
        self.asked = request.at_least.clone();
        let logs = memory.logs();
        for (identity, at) in request.at_least.positions() {
            let is_this =
                |log: &FollowedLog| log.position().is_some_and(|(known, _)| known == *identity);
            let Some(index) = logs.iter().position(is_this) else {
                self.is_behind |= logs.iter().any(|log| log.position().is_none());
                self.note_if_over(memory, *identity);
                continue;
            };
            match self.trust.get(index) {
                Some(Trust::Nothing) => self.is_behind |= !logs[index].has_reached(*identity, *at),
                Some(Trust::Stale(_)) => self.note_not_fresh_enough(),
                Some(Trust::Fresh) | None => {
                    let wait = logs[index].wait_for(*identity, *at);
                    if self.deadline.half().limit(wait).await != Some(true) {
                        self.trust.resize(logs.len(), Trust::Fresh);
                        self.trust[index] = Trust::Nothing;
                        self.is_behind = true;
                    }
                }
            }
        }
        self.version = memory.version();
    }

    /// If that history is over, what it promised cannot be kept; unless it is that of a log that is
    /// not followed, whose databases are asked.
    fn note_if_over(&self, memory: &Memory, identity: LogIdentity) {
        let is_other =
            |log: &FollowedLog| log.position().is_some_and(|(known, _)| known != identity);
        if memory.logs().iter().all(is_other) {
            self.note_not_fresh_enough();
        }
    }

    fn note_not_fresh_enough(&self) {
        self.fresh_enough.store(false, Ordering::Relaxed);
    }

    /// Makes the most of memory when shards were found missing; whether there is more to be made.
    pub(super) fn falls_back_on(&mut self, missing: &BTreeSet<ShardId>) -> bool {
        let Some(memory) = self.memory.filter(|_| !self.aside) else { return false };
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
        for (identity, at) in self.asked.positions() {
            for (log, source) in memory.logs().iter().zip(self.fleet.sources()) {
                if log.position().is_some_and(|(known, _)| known == *identity) {
                    self.wait_until_shown(log, source, *at).await;
                }
            }
        }
    }

    async fn wait_until_shown(&self, log: &FollowedLog, source: &Source, at: LogPosition) {
        let (until, mut pause) = (self.deadline.half(), VISIBLE_PAUSE);
        while log.visible() < at {
            // One asks for all who wait: most of them need not ask any more then.
            let turn = until.limit(log.visibility_lock()).await;
            if log.visible() >= at {
                return;
            }
            let answer = source.visible(until).await;
            let Some((identity, visible)) = answer.ok().filter(|_| !until.is_over()) else {
                return self.note_not_fresh_enough();
            };
            if log.position().is_some_and(|(known, _)| known == identity) {
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
        let asked = &draft.asked;
        let positions = logs.map(|(log, source)| self.position_after(log, source, asked));
        for (identity, at) in join_all(positions).await.into_iter().flatten() {
            draft.freshness.add(identity, at);
        }
        draft.stale.retain(|shard, _| !draft.missing.contains(shard));
        self.vouch_for(draft);
        let is_memorys = self.trust.is_empty() && !self.aside && draft.asked.is_empty();
        draft.as_of = (is_memorys && draft.is_whole()).then_some(self.version);
    }

    /// Says on a page that was read for others too what it is to this request.
    pub(super) fn adopt(&self, mut draft: Draft) -> Draft {
        if let Some(memory) = self.memory {
            let asked = self.asked.positions().iter();
            asked.for_each(|(identity, _)| self.note_if_over(memory, *identity));
        }
        self.vouch_for(&mut draft);
        draft
    }

    fn vouch_for(&self, draft: &mut Draft) {
        draft.fresh_enough &= self.fresh_enough.load(Ordering::Relaxed);
        // What was asked for holds for the next page too; but not what no log has any more.
        let known: Vec<LogIdentity> =
            draft.freshness.positions().iter().map(|(log, _)| *log).collect();
        let asked = self.asked.positions().iter().filter(|(identity, _)| known.contains(identity));
        asked.for_each(|(identity, at)| draft.freshness.add(*identity, *at));
    }

    /// What a page was as fresh as: of a log whose databases were asked, its end by now, since they
    /// may have shown more than it has told so far.
    async fn position_after(
        &self,
        log: &FollowedLog,
        source: &Source,
        asked: &BTreeSet<ShardId>,
    ) -> Option<(LogIdentity, LogPosition)> {
        if log.shards().iter().any(|shard| asked.contains(shard)) {
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
                let mut authors = self.of_list(memory, list);
                if let Trust::Stale(as_of) = trust {
                    authors.stale.insert(own, as_of);
                }
                return Followees::Known(authors);
            }
        }
        if !self.may_ask() {
            return Followees::Missing(own);
        }
        self.wait_until_visible().await;
        match self.fleet.followees(reader, FOLLOWEES_MAX, self.deadline).await {
            Ok(followees) => {
                self.wish_for_follows(reader, &followees);
                Followees::Known(Authors { asked: Some(own), ..self.authors(&followees) })
            }
            Err(FolloweesError::TooMany) => Followees::TooMany,
            Err(FolloweesError::Missing(shard)) => Followees::Missing(shard),
        }
    }

    /// Who follows nobody may be nobody, and would be given a place in memory for good.
    fn wish_for_follows(&self, reader: UserId, followees: &[UserId]) {
        let Some(memory) = self.memory else { return };
        if !followees.is_empty() || memory.find(reader).is_some() {
            memory.request_fill(Miss::Follows { user: reader });
        }
    }

    fn of_list(&self, memory: &Memory, list: Arc<FollowList>) -> Authors {
        if self.trust.is_empty() && !self.aside {
            return Authors { kept: Kept::List(list), ..Authors::default() };
        }
        let users: Vec<UserId> = list.slots().iter().map(|slot| memory.user(*slot)).collect();
        self.authors(&users)
    }

    /// What memory may be asked of these authors.
    pub(super) fn authors(&self, users: &[UserId]) -> Authors {
        let mut authors = Authors::default();
        let mut slots = Vec::with_capacity(users.len());
        for &user in users {
            let Some(memory) = self.memory.filter(|_| !self.aside) else {
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
        authors.kept = Kept::Some(slots);
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
                let walked = match &authors.kept {
                    Kept::List(list) => recent::older(memory, list, span),
                    Kept::Some(_) => None,
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
