//! `View` decides, for one request, which parts of memory may be used and which shards are
//! queried.
//!
//! A log is trusted while its lease holds: memory then has what the databases hold. If the lease
//! has expired, memory is used only for shards that do not answer, and the page lists them as
//! stale. A request with a freshness token first waits until memory, or the database, has reached
//! it.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::draft::Draft;
use super::explain::{
    LogState, LogTrust, MemorySearch, MemoryUse, NotScanned, Reason, SearchMethod, StepKind,
    WaveKind,
};
use super::hidden::blocks_in_memory;
use super::plan::{KnownAuthors, Plan};
use super::recent;
use super::recorder::Recorder;
use super::required::Required;
use super::warm::{self, MemoryPosts, Older, Span};
use super::{Attempt, Home, PageRequest, Timeline, TimelineFlights};
use crate::changes::{ChangePosition, LogIdentity, LogPosition};
use crate::cursor::{Cursor, Edge};
use crate::freshness::Freshness;
use crate::memory::{FollowList, FollowedLog, LogSet, Memory, Miss, Version};
use crate::model::{Direction, FOLLOWEES_MAX, PostKey, ShardId, UserId};
use crate::shard::{CostLog, Deadline, Fleet, FolloweesError, KnownHeads, Source};

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
    required: Required,
    /// Memory has not reached the request's token, so the databases are queried instead.
    memory_lags: bool,
    /// The position of every log before the first read.
    start: Vec<LogStart>,
    /// The last key that home timelines may show. `None` if they show all posts.
    horizon: Option<PostKey>,
    /// Whether the token of the request has a later horizon than this process.
    is_ahead: bool,
    /// The end of all waits for the request's token together: half of the time for the page.
    patience: Deadline,
    /// Records what is done, if the page is explained.
    recorder: Option<&'a Recorder>,
    /// Memory is not used for this page.
    memory_off: bool,
}

/// A log at the start of a request.
#[derive(Clone, Copy, Debug)]
struct LogStart {
    identity: LogIdentity,
    /// Memory has every change up to here.
    seen: ChangePosition,
    /// Every database read sees all changes up to here.
    visible: LogPosition,
}

impl LogStart {
    /// `None` while another identity begins.
    fn of(log: &FollowedLog) -> Option<Self> {
        let (identity, seen) = log.reached()?;
        let visible = log.visible();
        // The visible position belongs to the same identity if that is unchanged.
        let (same, _) = log.position()?;
        (same == identity).then_some(Self { identity, seen, visible })
    }
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

/// The plan for the users whose posts a reader sees, or why there is none.
pub(super) enum Followees {
    Known(Plan),
    TooMany,
    Missing(ShardId),
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
        let start = memory.map(starts).unwrap_or_default();
        let trust = memory.map_or_else(Vec::new, |memory| trust(fleet, memory));
        Self {
            fleet,
            deadline,
            memory,
            version,
            flights,
            trust,
            required: Required::default(),
            memory_lags: false,
            start,
            horizon: fleet.horizon().now(),
            is_ahead: false,
            patience: deadline.earlier(fleet.read_time() / 2),
            recorder: None,
            memory_off: false,
        }
    }

    /// This view for a page that is explained. Without memory, its logs still name the positions
    /// that the page reflects.
    pub(super) fn explained_by(mut self, recorder: &'a Recorder, memory: MemoryUse) -> Self {
        self.recorder = Some(recorder);
        self.memory_off = memory == MemoryUse::Off;
        if let Some(memory) = self.memory.filter(|_| self.memory_off) {
            self.trust = vec![Trust::Nothing; memory.logs().len()];
        }
        self
    }

    pub(super) fn is_explained(&self) -> bool {
        self.recorder.is_some()
    }

    /// Ends a step of an explained page.
    pub(super) fn end_step(&self, kind: StepKind) {
        if let Some(recorder) = self.recorder {
            recorder.end_step(kind);
        }
    }

    /// The log of the costs of a wave, if the page is explained.
    pub(super) fn costs(&self) -> Option<CostLog> {
        self.recorder.map(|_| CostLog::new())
    }

    /// Ends a wave of an explained page.
    pub(super) fn end_wave(&self, kind: WaveKind, asked: usize, costs: Option<CostLog>) {
        if let (Some(recorder), Some(costs)) = (self.recorder, costs) {
            recorder.end_wave(kind, asked, costs);
        }
    }

    /// Whether the request has a freshness token.
    pub(super) fn has_token(&self) -> bool {
        !self.required.is_empty()
    }

    /// The state of the log of this shard at the start of the page.
    pub(super) fn log_state(&self, shard: ShardId) -> Option<LogState> {
        let memory = self.memory?;
        let index = memory.logs().iter().position(|log| log.shards().contains(&shard))?;
        let (log, source) = (memory.logs().get(index)?, self.fleet.sources().get(index)?);
        let start = log.position().and_then(|(identity, _)| self.start_of(identity));
        let trust = match self.trust_at(index) {
            Trust::Fresh => LogTrust::Fresh,
            Trust::Stale(as_of) => LogTrust::Stale(as_of),
            Trust::Nothing => LogTrust::Unused,
        };
        let position = start.map(|start| source.describe(start.seen.after));
        Some(LogState { name: source.name().to_owned(), trust, position })
    }

    /// Why a shard is queried for authors that are not read from memory.
    pub(super) fn reason_to_query(
        &self,
        shard: ShardId,
        cursor: &Cursor,
        authors: usize,
    ) -> Reason {
        let Some(memory) = self.memory else { return Reason::NoMemory };
        let index = memory.logs().iter().position(|log| log.shards().contains(&shard));
        let is_trusted = index.is_some_and(|index| self.trust_at(index) != Trust::Nothing);
        if self.memory_off {
            Reason::MemoryOff
        } else if cursor.shard_edges.contains_key(&shard) {
            Reason::MissingBefore
        } else if is_trusted {
            Reason::Unknown(authors)
        } else if self.memory_lags {
            Reason::TokenNotReached
        } else {
            Reason::NotFollowed
        }
    }

    /// This view with another deadline.
    #[cfg(test)]
    pub(crate) fn until(mut self, deadline: Deadline) -> Self {
        (self.deadline, self.patience) = (deadline, deadline.half());
        self
    }

    /// A view of memory as it is now, with the deadline of this one and no token.
    pub(super) fn renewed(&self) -> Self {
        let (deadline, patience) = (self.deadline, self.patience);
        Self { deadline, patience, ..Self::new(self.fleet, self.memory, self.flights) }
    }

    /// The last key that this timeline may show. `None` if it shows all posts.
    pub(super) fn horizon_of(&self, timeline: Timeline) -> Option<PostKey> {
        match timeline {
            Timeline::Home(_) => self.horizon,
            Timeline::Author(_) => None,
        }
    }

    /// Whether the page shows posts that requests without a token must not see yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    pub(super) fn flights(&self) -> &'a TimelineFlights {
        self.flights
    }

    /// Whether memory has not reached the request's token.
    pub(super) fn memory_lags(&self) -> bool {
        self.memory_lags
    }

    /// Number of times that memory gave slots of users to others.
    pub(super) fn frees(&self) -> u64 {
        self.memory.map_or(0, Memory::frees)
    }

    pub(super) fn fleet(&self) -> &'a Fleet {
        self.fleet
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether more than half of the time for a read is gone.
    pub(super) fn is_late(&self) -> bool {
        self.deadline < self.fleet.read_deadline().half()
    }

    /// Sets the token of the request. Returns whether memory has reached it in all logs.
    pub(super) fn has_reached(&mut self, at_least: &Freshness) -> bool {
        if let (Some(own), Some(shown)) = (self.horizon, at_least.horizon()) {
            self.is_ahead = shown > own;
            self.horizon = Some(own.max(shown));
        }
        let Some(memory) = self.memory.filter(|_| !at_least.is_empty()) else { return true };
        self.required = Required::new(at_least);
        let is_reached = self.required.is_reached(memory) && self.trust.is_empty();
        self.begin_again();
        is_reached
    }

    /// Waits until memory has reached the request's token, all logs together for half of the time
    /// at most. A log that does not reach it in time is no longer trusted; its databases are
    /// queried.
    pub(super) async fn wait_until_fresh(&mut self) {
        let Some(memory) = self.memory else { return };
        let logs = memory.logs().iter().zip(self.fleet.sources()).enumerate();
        let logs: Vec<_> = logs
            .map(|(index, (log, source))| (log, source.as_ref(), self.trust_at(index)))
            .collect();
        let lagging = Box::pin(self.required.wait(&logs, self.patience)).await;
        self.memory_lags = !lagging.is_empty();
        for index in lagging {
            self.trust.resize(memory.logs().len(), Trust::Fresh);
            self.trust[index] = Trust::Nothing;
        }
        self.begin_again();
    }

    /// After [`View::wait_until_fresh`]: whether memory has all positions of the token.
    pub(super) fn memory_has_token(&self) -> bool {
        !self.memory_lags && !self.required.is_any_lost()
    }

    /// Takes the version of memory, the positions of the logs and the horizon again, before the
    /// first read.
    pub(super) fn begin_again(&mut self) {
        if let Some(memory) = self.memory {
            self.version = memory.version();
            self.start = starts(memory);
            // After the positions: what was no post of the future then is not hidden now.
            self.horizon = self.horizon.max(self.fleet.horizon().now());
        }
    }

    fn trust_at(&self, index: usize) -> Trust {
        self.trust.get(index).copied().unwrap_or(Trust::Fresh)
    }

    /// Trusts stale memory for logs with missing shards. Returns whether that adds anything.
    pub(super) fn use_stale_memory(&mut self, missing: &BTreeSet<ShardId>) -> bool {
        let Some(memory) = self.memory.filter(|_| !self.memory_off) else { return false };
        let mut any = false;
        for (log, trust) in memory.logs().iter().zip(&mut self.trust) {
            let is_missing = log.shards().iter().any(|shard| missing.contains(shard));
            if let (true, Trust::Nothing, Some(as_of)) = (is_missing, *trust, log.as_of_ms()) {
                *trust = Trust::Stale(as_of);
                // The page then has what memory holds, whatever the databases have shown.
                self.required.lose_unreached(log);
                any = true;
            }
        }
        any
    }

    /// Whether the token of the request has a position that this log does not contain, so that
    /// the log is shorter than it was.
    pub(super) fn is_beyond_end(&self, identity: LogIdentity) -> bool {
        self.required.is_beyond_end(identity)
    }

    /// Waits until the databases show every position of the request's token, until `patience` at
    /// most. A database delivers a transaction in its log before its tables show it.
    pub(super) async fn wait_until_visible(&mut self) {
        let Some(memory) = self.memory.filter(|_| !self.required.is_empty()) else { return };
        let sources = self.fleet.sources().iter().map(AsRef::as_ref);
        let logs: Vec<_> = memory.logs().iter().zip(sources).collect();
        self.required.wait_until_visible(&logs, self.patience).await;
    }

    /// Sets the token of a page that is from memory alone, and its version if it may be cached.
    pub(super) fn finish_from_memory(&mut self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        for (identity, at) in memory.logs().iter().filter_map(FollowedLog::announced) {
            let seen = self.start_of(identity).map(|start| start.seen);
            draft.freshness.set(identity, seen, at);
        }
        self.set_freshness(draft);
        draft.as_of = (draft.is_whole() && !self.is_ahead).then_some(self.version);
    }

    /// Sets the page's freshness token and stale shards.
    pub(super) async fn finish(&mut self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        let logs = memory.logs().iter().zip(self.fleet.sources());
        let queried = &draft.queried;
        let positions = logs.map(|(log, source)| self.position_after(log, source, queried));
        for (identity, seen, at) in join_all(positions).await.into_iter().flatten() {
            draft.freshness.set(identity, seen, at);
        }
        draft.stale.retain(|shard, _| !draft.missing.contains(shard));
        self.set_freshness(draft);
    }

    /// Completes a page that was read for several requests with the freshness of this one.
    pub(super) fn adapt_shared(&mut self, mut draft: Draft) -> Draft {
        self.set_freshness(&mut draft);
        draft
    }

    /// Adds the required positions that were reached to the page's token. A lost one is not in it,
    /// or the client would wait for it again.
    fn set_freshness(&mut self, draft: &mut Draft) {
        let Some(memory) = self.memory else { return };
        self.required.check_after_reads(memory);
        draft.fresh_enough &= !self.required.is_any_lost();
        self.required.reached().for_each(|(identity, at)| draft.freshness.add(identity, at));
        let horizon = draft.freshness.horizon().or(self.horizon);
        draft.freshness.set_horizon(horizon);
    }

    fn start_of(&self, identity: LogIdentity) -> Option<&LogStart> {
        self.start.iter().find(|start| start.identity == identity)
    }

    /// Two positions: a page reflects all changes up to the first, and perhaps some up to the
    /// second. A queried database may show more than its log has delivered, so the second one is
    /// then the current end of its log (one query).
    async fn position_after(
        &self,
        log: &FollowedLog,
        source: &Source,
        queried: &BTreeSet<ShardId>,
    ) -> Option<(LogIdentity, Option<ChangePosition>, LogPosition)> {
        let is_queried = log.shards().iter().any(|shard| queried.contains(shard));
        let (identity, at) = if is_queried {
            let end = source.log_end(self.deadline).await.ok()?;
            log.note_visible(end.identity, end.visible);
            (end.identity, end.end)
        } else {
            log.announced()?
        };
        // Without a start, the page has parts of the log before, which may lack some of its rows.
        let seen = self.start_of(identity).map(|start| match is_queried {
            true if start.visible < start.seen.after => ChangePosition::after(start.visible),
            // The databases show what they have lost, too.
            _ => start.seen,
        });
        Some((identity, seen, at))
    }

    /// The required positions. Those are lost whose rows came from another server than their log.
    pub(super) fn required_after_reads(&mut self) -> &Required {
        if let Some(memory) = self.memory {
            self.required.check_after_reads(memory);
        }
        &self.required
    }

    /// The end of all waits together.
    pub(super) fn patience(&self) -> Deadline {
        self.patience
    }

    pub(super) fn memory(&self) -> Option<&'a Memory> {
        self.memory
    }

    /// The position of every log at the start of the request: memory has all changes up to there.
    pub(super) fn reached(&self) -> Freshness {
        let mut reached = Freshness::default();
        self.start.iter().for_each(|log| reached.set(log.identity, Some(log.seen), log.seen.after));
        reached.set_horizon(self.horizon);
        reached
    }

    /// The users whose posts `reader` sees, at least as of the position at the start of the
    /// request, and whether they were queried.
    pub(super) async fn followed_users(
        &mut self,
        reader: UserId,
    ) -> Result<(Vec<UserId>, bool), FolloweesError> {
        if let Some(memory) =
            self.memory.filter(|memory| self.trust_of(memory, reader) != Trust::Nothing)
        {
            let frees = memory.frees();
            let list = memory.follows(reader, memory.tick());
            if list.as_ref().is_some_and(|list| list.is_too_long()) {
                return Err(FolloweesError::TooMany);
            }
            let users =
                list.map(|list| list.slots().iter().map(|slot| memory.user(*slot)).collect());
            // A slot that was freed during the read may belong to another user now.
            if let Some(users) = users.filter(|_| memory.frees() == frees) {
                return Ok((users, false));
            }
        }
        let own = self.fleet.placement().shard_of(reader);
        if let Some(memory) = self.memory {
            let identity = memory.log_of(reader).position().map(|(identity, _)| identity);
            let mut required = Freshness::default();
            if let Some(start) = identity.and_then(|identity| self.start_of(identity)) {
                required.add(start.identity, start.seen.after);
            }
            self.required = Required::new(&required);
        }
        self.wait_until_visible().await;
        let followees = self.fleet.followees(reader, FOLLOWEES_MAX, self.deadline, None).await?;
        self.request_follows_fill(reader, followees.is_empty());
        // The list that was queried may be older than the position.
        match self.required_after_reads().is_any_lost() {
            true => Err(FolloweesError::Missing(own)),
            false => Ok((followees, true)),
        }
    }

    /// The plan for the users whose posts the reader sees, if memory has the follow list.
    pub(super) fn plan_from_memory(&self, home: Home, cursor: &Cursor) -> Option<Plan> {
        let (memory, Home { reader, includes_self }) = (self.memory?, home);
        let trust = self.trust_of(memory, reader);
        let list = memory.follows(reader, memory.tick());
        let list = list.filter(|list| trust != Trust::Nothing && !list.is_too_long())?;
        let own = memory.find(reader).filter(|_| includes_self);
        let list = own.map_or(list.clone(), |own| Arc::new(list.with(own)));
        let mut plan = self.plan_of_list(memory, list, cursor);
        plan.reader = Some(reader);
        if let Trust::Stale(as_of) = trust {
            plan.stale.insert(self.fleet.placement().shard_of(reader), as_of);
        }
        Some(plan)
    }

    /// The plan for the users whose posts the reader sees. If memory does not have the follow list,
    /// it is queried on the shard of the reader.
    pub(super) async fn followees(
        &self,
        home: Home,
        request: &PageRequest,
        attempt: Attempt,
    ) -> Followees {
        let cursor = &request.cursor.within(self.horizon);
        if let Some(plan) = self.plan_from_memory(home, cursor) {
            return Followees::Known(plan);
        }
        let Home { reader, includes_self } = home;
        if self.knows_too_many(reader) {
            return Followees::TooMany;
        }
        let own = self.fleet.placement().shard_of(reader);
        if attempt == Attempt::MemoryOnly {
            return Followees::Missing(own);
        }
        match self.query_followees(home, request).await {
            Ok((mut followees, heads)) => {
                self.request_follows_fill(reader, followees.is_empty());
                if includes_self && !followees.contains(&reader) {
                    followees.push(reader);
                }
                let plan = self.plan(&followees, cursor);
                Followees::Known(Plan { reader: Some(reader), queried: Some(own), heads, ..plan })
            }
            Err(FolloweesError::TooMany) => {
                // Memory then knows that the list is too long.
                self.request_follows_fill(reader, false);
                Followees::TooMany
            }
            Err(FolloweesError::Missing(shard)) => Followees::Missing(shard),
        }
    }

    /// The follow list, and the heads of some followees if the page needs them. Memory has better
    /// ones. The costs of a page that is explained are known for each wave alone.
    async fn query_followees(
        &self,
        Home { reader, includes_self }: Home,
        request: &PageRequest,
    ) -> Result<(Vec<UserId>, KnownHeads), FolloweesError> {
        let cursor = request.cursor.within(self.horizon);
        let is_newest = cursor.direction == Direction::Older
            && cursor.shard_edges.is_empty()
            && Span::of(request, &cursor, None).is_newest;
        let has_memory = self.memory.is_some_and(|memory| {
            (0..memory.logs().len()).any(|log| self.trust_at(log) != Trust::Nothing)
        });
        if is_newest && !includes_self && !has_memory && !self.is_explained() {
            return self.fleet.followees_and_heads(reader, FOLLOWEES_MAX, self.deadline).await;
        }
        let costs = self.costs();
        let list = self.fleet.followees(reader, FOLLOWEES_MAX, self.deadline, costs.as_ref()).await;
        self.end_wave(WaveKind::FollowList, 1, costs);
        Ok((list?, KnownHeads::new()))
    }

    /// Whether memory knows that the follow list is too long.
    fn knows_too_many(&self, reader: UserId) -> bool {
        let list = self.memory.and_then(|memory| memory.follows(reader, memory.tick()));
        let is_trusted = |memory| self.trust_of(memory, reader) != Trust::Nothing;
        list.is_some_and(|list| list.is_too_long()) && self.memory.is_some_and(is_trusted)
    }

    /// Unknown ids with an empty list get no fill, or each would take a slot in memory.
    fn request_follows_fill(&self, reader: UserId, is_empty: bool) {
        let Some(memory) = self.memory.filter(|_| !self.memory_off) else { return };
        if !is_empty || memory.find(reader).is_some() {
            memory.request_fill(Miss::Follows { user: reader });
        }
    }

    fn plan_of_list(&self, memory: &Memory, list: Arc<FollowList>, cursor: &Cursor) -> Plan {
        let lagging = self.lagging();
        let are_fresh = lagging.is_empty() || !memory.logs_of(&list).intersects(lagging);
        if are_fresh && cursor.shard_edges.is_empty() {
            if let Some(recorder) = self.recorder {
                let users = list.slots().iter().map(|slot| memory.user(*slot));
                recorder.note_authors(self.fleet, users, &[]);
            }
            return Plan { from_memory: KnownAuthors::FollowList(list), ..Plan::default() };
        }
        let users: Vec<UserId> = list.slots().iter().map(|slot| memory.user(*slot)).collect();
        self.plan(&users, cursor)
    }

    /// The logs that are not fresh.
    fn lagging(&self) -> LogSet {
        let trust = self.trust.iter().enumerate();
        trust.filter(|(_, trust)| **trust != Trust::Fresh).map(|(index, _)| index).collect()
    }

    /// Splits authors into those that memory may answer and those that need a database. An author
    /// whose shard was missing on an earlier page starts at another edge and needs its database.
    pub(super) fn plan(&self, users: &[UserId], cursor: &Cursor) -> Plan {
        let mut plan = Plan::default();
        let mut slots = Vec::with_capacity(users.len());
        for &user in users {
            let shard = self.fleet.placement().shard_of(user);
            let is_at_edge = !cursor.shard_edges.contains_key(&shard);
            let Some(memory) = self.memory.filter(|_| is_at_edge) else {
                plan.from_databases.push(user);
                continue;
            };
            let trust = self.trust_of(memory, user);
            match (trust, memory.find(user)) {
                (Trust::Nothing, _) => plan.from_databases.push(user),
                (_, Some(slot)) => slots.push(slot),
                // All heads are loaded, so a user without a slot has no posts.
                (_, None) if memory.knows_heads_with(user) => {}
                (_, None) => plan.from_databases.push(user),
            }
            if let Trust::Stale(as_of) = trust {
                plan.stale.insert(shard, as_of);
            }
        }
        plan.from_memory = KnownAuthors::Slots(slots);
        if let Some(recorder) = self.recorder {
            let users = users.iter().copied();
            recorder.note_authors(self.fleet, users, &plan.from_databases);
        }
        plan
    }

    /// Whether `user` is one of the authors.
    pub(super) fn is_among(&self, plan: &Plan, user: UserId) -> bool {
        let slot = self.memory.and_then(|memory| memory.find(user));
        plan.from_databases.contains(&user) || slot.is_some_and(|slot| plan.slots().contains(&slot))
    }

    fn trust_of(&self, memory: &Memory, user: UserId) -> Trust {
        self.trust_at(memory.log_index(user))
    }

    /// The part of a page that memory has, and the authors that need a database.
    pub(super) fn memory_posts(
        &self,
        plan: &Plan,
        direction: Direction,
        span: Span,
    ) -> MemoryPosts {
        let Some(memory) = self.memory else { return MemoryPosts::default() };
        let (method, found) = match (direction, &plan.from_memory) {
            (Direction::Newer, _) => (SearchMethod::Newer, warm::newer(memory, plan.slots(), span)),
            (Direction::Older, KnownAuthors::FollowList(list)) => {
                match recent::older(memory, list, span) {
                    Ok(found) => (SearchMethod::RecentLog, found),
                    Err(why) => (SearchMethod::Heads(why), warm::older(memory, list.slots(), span)),
                }
            }
            (Direction::Older, KnownAuthors::Slots(slots)) => {
                let why = NotScanned::PartOfFollowees;
                (SearchMethod::Heads(why), warm::older(memory, slots, span))
            }
        };
        if let Some(recorder) = self.recorder.filter(|_| !plan.slots().is_empty()) {
            let search = MemorySearch { method, tails: found.tails, posts: found.posts.len() };
            let too_short = found.incomplete.iter().map(|unread| unread.author);
            recorder.note_search(self.fleet, search, too_short);
        }
        found
    }

    /// Requests fills of the tails that memory did not have.
    pub(super) fn request_fills(&self, found: &MemoryPosts) {
        if let Some(memory) = self.memory {
            found.misses.iter().for_each(|miss| memory.request_fill(*miss));
        }
    }

    /// Whether the author blocks the reader. `None` if memory does not have the author's tail.
    pub(super) fn blocks_in_memory(&self, author: UserId, reader: UserId) -> Option<bool> {
        blocks_in_memory(self.memory?, author, reader)
    }

    /// Whether memory has a post of these authors that is older than `edge`.
    pub(super) fn any_older(&self, plan: &Plan, edge: Edge) -> Older {
        match self.memory {
            Some(memory) => warm::any_older(memory, plan.slots(), (edge, plan.reader)),
            None => Older::None,
        }
    }
}

fn starts(memory: &Memory) -> Vec<LogStart> {
    memory.logs().iter().filter_map(LogStart::of).collect()
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
