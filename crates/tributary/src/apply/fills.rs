//! Fills: the writer reads from the databases what readers missed, in batches, off the requests.
//! The bytes of a fill are reserved before it reads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Applier;
use super::entry::{CacheKey, CachedEntry};
use crate::backoff::Backoff;
use crate::changes::Bounds;
use crate::memory::{
    FillReservation, FollowList, Installed, Miss, Slot, TAIL_DEPTH_MAX, Tail, TailLimits, Ticket,
    count,
};
use crate::model::{FOLLOWEES_MAX, UserId};
use crate::problems::ProblemCause;
use crate::shard::{
    Deadline, FillAnswer, FillBatch, FillRequest, FillTarget, ShardError, UserLists,
};
use crate::tasks::caught;

/// Requests per fill. One statement reads up to 50 authors.
const BATCH: usize = 50;
/// Posts that the requests of one fill may have together.
const BATCH_POSTS: u32 = 8_192;
/// Posts of the first fill, since their size is unknown. The number doubles after each fill that
/// was small enough, up to [`BATCH_POSTS`], and is halved after one that was too large.
const BATCH_POSTS_FIRST: u32 = 16;
/// Concurrent fills per log. Few, so that a cold memory does not starve the reads.
const FILLS_MAX: usize = 2;
/// Requests that can wait. Later ones are dropped; the next reader repeats them.
const QUEUE_MAX: usize = 16_384;
/// Deadline of a fill. No request waits for it.
const FILL_DEADLINE: Duration = Duration::from_secs(5);
/// First and longest pause between two retries, before jitter.
const RETRY: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(100);
/// Retries of a request. After the last one it is dropped; the next reader repeats it.
const RETRIES_MAX: u32 = 20;
/// Posts in a tail at first: three pages by one author.
const DEPTH: u32 = 64;
/// Prefill stops at this percentage of the budget.
const PREFILL_PERCENT: usize = 70;
/// Pause of the fills after an eviction of data in use. Measured with a budget of 1/12 of the
/// data read: 0.3 s and 4 s serve three fifths of the pages that 1 s serves.
const PAUSE: Duration = Duration::from_secs(1);

/// Fills that fail one after the other before a line is logged.
const FAILURES_LOGGED: u32 = 10;

/// The queue of fill requests, the fills in flight, the prefill and the audits.
#[derive(Debug)]
pub(super) struct Fills {
    pub(super) waiting: VecDeque<QueuedFill>,
    /// The requested depth of each queued key.
    pub(super) depths: HashMap<CacheKey, u32>,
    /// Posts that the requests of the next fill may have together.
    posts_max: u32,
    tasks: JoinSet<FinishedFill>,
    /// Authors to prefill, the author with the newest post last.
    prefill: Vec<Slot>,
    /// Number of authors in the prefill at its start.
    planned: usize,
    /// The right to prefill now.
    turn: Option<OwnedSemaphorePermit>,
    /// Keys of the audits, with the number of rounds each has waited.
    pub(super) audits: HashMap<CacheKey, u32>,
    pub(super) next_audit: Option<Instant>,
    /// End of the pause, if fills are paused.
    paused_until: Option<Instant>,
    /// Fills that failed since the last one that succeeded.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedFill {
    pub(super) key: CacheKey,
    pub(super) not_before: Option<Instant>,
    retries: Backoff,
    /// Fill this request alone. One unreadable row fails every request in its batch.
    alone: bool,
    /// The registration of a request that is read again. Its changes are still buffered.
    registration: Option<Registration>,
}

/// The registration of a key at the keeper.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    ticket: Ticket,
    /// [`crate::memory::Memory::frees`] at that moment. Buffered changes have slots since then.
    frees: u64,
}

impl QueuedFill {
    fn new(key: CacheKey) -> Self {
        let retries = Backoff::new(RETRY, RETRY_MAX);
        Self { key, not_before: None, retries, alone: false, registration: None }
    }
}

/// The requests of one fill.
pub(super) type RequestedFills = Vec<(QueuedFill, Registration, FillRequest)>;

/// A finished fill.
#[derive(Debug)]
pub(super) struct FinishedFill {
    pub(super) requested: RequestedFills,
    pub(super) outcome: Result<FillBatch, ShardError>,
    pub(super) reserved: FillReservation,
}

impl Fills {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            depths: HashMap::new(),
            posts_max: BATCH_POSTS_FIRST,
            tasks: JoinSet::new(),
            prefill: Vec::new(),
            planned: 0,
            turn: None,
            audits: HashMap::new(),
            next_audit: None,
            paused_until: None,
            failures: 0,
        }
    }

    /// The next fill that finishes; `None` if none is in flight. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<FinishedFill> {
        // Panics of a fill are caught, so an error means that the runtime is shutting down.
        self.tasks.join_next().await?.ok()
    }

    /// Drops the plan of the prefill.
    pub(super) fn clear_prefill(&mut self) {
        (self.prefill, self.planned) = (Vec::new(), 0);
    }

    /// Adds authors to the prefill. They are filled before those that are planned already.
    pub(super) fn extend_prefill(&mut self, mut heads: Vec<(Slot, i64)>) {
        heads.sort_unstable_by_key(|(_, time)| *time);
        self.planned += heads.len();
        self.prefill.extend(heads.into_iter().map(|(slot, _)| slot));
    }

    /// Takes the queued requests out of the queue that `drops` is true for.
    fn take_queued(&mut self, drops: impl Fn(CacheKey) -> bool) -> Vec<QueuedFill> {
        let all = std::mem::take(&mut self.waiting);
        let (dropped, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|queued| drops(queued.key));
        self.waiting = kept.into();
        for queued in &dropped {
            self.depths.remove(&queued.key);
        }
        dropped
    }

    /// Whether fills are paused.
    pub(super) fn is_paused(&mut self) -> bool {
        self.paused_until = self.paused_until.filter(|until| *until > Instant::now());
        self.paused_until.is_some()
    }

    pub(super) fn enqueue(&mut self, key: CacheKey, depth: u32) {
        if let Some(known) = self.depths.get_mut(&key) {
            *known = depth.max(*known);
        } else if self.waiting.len() < QUEUE_MAX {
            self.depths.insert(key, depth);
            self.waiting.push_back(QueuedFill::new(key));
        }
    }

    /// Whether a request for this key is queued.
    pub(super) fn is_queued(&self, key: CacheKey) -> bool {
        self.depths.contains_key(&key)
    }

    /// Queues a request again after a pause. Returns false after the last retry: it is dropped.
    fn retry(&mut self, mut waiting: QueuedFill, depth: u32) -> bool {
        if waiting.retries.failures() == RETRIES_MAX {
            return false;
        }
        waiting.not_before = Some(Instant::now() + waiting.retries.pause());
        self.queue_again(waiting, depth);
        true
    }

    fn queue_again(&mut self, waiting: QueuedFill, depth: u32) {
        if self.depths.insert(waiting.key, depth).is_none() {
            self.waiting.push_back(waiting);
        } else if let Some(queued) = self.waiting.iter_mut().find(|q| q.key == waiting.key) {
            // A reader has requested it again in the meantime.
            queued.registration = waiting.registration.or(queued.registration);
        }
    }

    /// Takes the due requests of at most one batch, with their depths.
    fn take_due(&mut self) -> Vec<(QueuedFill, u32)> {
        let now = Instant::now();
        let mut due: Vec<(QueuedFill, u32)> = Vec::new();
        let mut posts = 0;
        for _ in 0..self.waiting.len() {
            let is_alone = due.first().is_some_and(|(first, _)| first.alone);
            let full = due.len() == BATCH || is_alone || posts >= self.posts_max;
            let Some(waiting) = self.waiting.pop_front_if(|_| !full) else { break };
            let depth = self.depths.get(&waiting.key).copied().unwrap_or(DEPTH);
            let depth = depth.min(self.posts_max);
            let fits = due.is_empty() || !waiting.alone && posts + depth <= self.posts_max;
            if fits && waiting.not_before.is_none_or(|time| time <= now) {
                self.depths.remove(&waiting.key);
                posts += depth;
                due.push((waiting, depth));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        due
    }

    /// Adapts the number of posts per fill to their size.
    fn note_size(&mut self, posts: u32, fits: bool) {
        let double = self.posts_max.saturating_mul(2).min(BATCH_POSTS);
        self.posts_max = if fits { double } else { (posts / 2).max(1) };
    }
}

impl Applier {
    /// Queues the fill of something that a reader missed.
    pub(super) fn queue_miss(&mut self, miss: Miss) {
        let memory = Arc::clone(&self.memory);
        let _slots = memory.hold_slots();
        if self.fills.is_paused() {
            return;
        }
        match miss {
            Miss::Tail { slot, .. } if !self.may_fill(self.memory.user(slot)) => {}
            Miss::Tail { slot, depth } => {
                let depth = depth.clamp(DEPTH, TAIL_DEPTH_MAX).next_power_of_two();
                let key = CacheKey::Tail(slot);
                if let Some((CachedEntry::Tail(tail), _)) = self.keeper.get(key) {
                    if tail.floor().is_none() || tail.depth() >= depth as usize {
                        return;
                    }
                    // The shallow tail serves newer pages until the deeper one can be read.
                    return self.fills.enqueue(CacheKey::DeeperTail(slot), depth);
                }
                self.fills.enqueue(key, depth);
            }
            Miss::Follows { user } => {
                if self.is_excluded(user) {
                    return;
                }
                if let Some(slot) = self.memory.register_user(user) {
                    self.fills.enqueue(CacheKey::Follows(slot), 1);
                }
            }
        }
    }

    /// Drops the queued requests of readers, and pauses the fills.
    pub(super) fn pause_fills(&mut self) {
        self.fills.paused_until = Some(Instant::now() + PAUSE);
        for dropped in self.fills.take_queued(|key| key.audited().is_none()) {
            self.drop_fill(dropped);
        }
    }

    /// Ends a request that is not read again.
    fn drop_fill(&mut self, QueuedFill { key, registration, .. }: QueuedFill) {
        if let Some(registration) = registration {
            self.keeper.give_up(key, registration.ticket);
        }
    }

    pub(super) fn start_fills(&mut self) {
        if self.identity.is_none() || !self.log().is_fresh(self.memory.now_ms()) {
            return;
        }
        let budget = Arc::clone(self.memory.budget());
        while self.fills.tasks.len() < FILLS_MAX && !self.fills.waiting.is_empty() {
            let Some(reserved) = budget.reserve_fill() else { return };
            let requested = self.take_requests();
            if requested.is_empty() {
                return;
            }
            let Some(runtime) = &self.runtime else { return };
            let (source, rows_bytes) = (Arc::clone(&self.source), budget.fill_rows_bytes());
            let fill = async move {
                let requests: Vec<FillRequest> =
                    requested.iter().map(|(_, _, request)| *request).collect();
                let fill = source.fill(&requests, rows_bytes, Deadline::after(FILL_DEADLINE));
                let failed = |panic| Err(ShardError::Unavailable(panic));
                let outcome = caught(fill).await.unwrap_or_else(failed);
                FinishedFill { requested, outcome, reserved }
            };
            self.fills.tasks.spawn_on(fill, runtime);
        }
    }

    /// The requests of the next fill, with their tickets.
    pub(super) fn take_requests(&mut self) -> RequestedFills {
        let mut requested = RequestedFills::new();
        for (waiting, depth) in self.fills.take_due() {
            let user = self.memory.user(waiting.key.slot());
            if !self.may_fill(user) {
                self.drop_fill(waiting);
                continue;
            }
            if let Some(registration) = self.register(&waiting) {
                requested.push((waiting, registration, self.request_of(waiting.key, depth)));
            }
        }
        requested
    }

    /// The registration of a request: the one it has, if it is still valid, else a new one. `None`
    /// if the key is being filled already.
    fn register(&mut self, queued: &QueuedFill) -> Option<Registration> {
        let awaited = |kept: &Registration| self.keeper.awaits(queued.key, kept.ticket);
        if let Some(kept) = queued.registration.filter(awaited) {
            return Some(kept);
        }
        let ticket = self.keeper.register(queued.key)?;
        Some(Registration { ticket, frees: self.memory.frees() })
    }

    /// Whether the user's data can be filled: it is registered, belongs to this log, and is not
    /// excluded. The slot of a request can have been freed, or have got another user.
    fn may_fill(&self, user: UserId) -> bool {
        let is_ours = self.memory.log_index(user) == self.index;
        is_ours && self.memory.find(user).is_some() && !self.is_excluded(user)
    }

    fn request_of(&self, key: CacheKey, depth: u32) -> FillRequest {
        let user = self.memory.user(key.slot());
        let target = match key {
            CacheKey::Tail(_) | CacheKey::DeeperTail(_) | CacheKey::TailAudit(_) => {
                FillTarget::Tail { depth }
            }
            CacheKey::Follows(_) | CacheKey::FollowsAudit(_) => {
                FillTarget::Follows { max: u32::try_from(FOLLOWEES_MAX).unwrap_or(u32::MAX) }
            }
        };
        FillRequest { shard: self.memory.placement().shard_of(user), user, target }
    }

    /// Installs what a fill has read.
    pub(super) fn install(&mut self, done: FinishedFill) {
        let memory = Arc::clone(&self.memory);
        let _slots = memory.hold_slots();
        let FinishedFill { requested, outcome, mut reserved } = done;
        let filled = match outcome {
            Ok(filled) if Some(filled.identity) == self.identity => filled,
            Ok(_) => return self.give_up(requested),
            Err(error) => return self.fill_failed(requested, &error),
        };
        self.fills.failures = 0;
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = filled.bounds;
        self.log().note_visible(filled.identity, low);
        let requests = requested.len();
        let posts = requested.iter().map(|(_, _, request)| depth_of(request)).sum();
        let mut answers = requested.iter().zip(&filled.answers);
        let fits = answers.all(|((_, _, request), answer)| !is_cut(request, answer));
        self.fills.note_size(posts, fits);
        for ((waiting, registration, request), answer) in requested.into_iter().zip(filled.answers)
        {
            let Registration { ticket, frees } = registration;
            let again = QueuedFill { registration: Some(registration), ..waiting };
            if answer == FillAnswer::TooLarge && requests > 1 {
                // A smaller fill reads it.
                self.fills.queue_again(again, depth_of(&request));
                continue;
            }
            let Some(entry) = self.entry_of(&request, answer, frees) else {
                self.keeper.give_up(waiting.key, ticket);
                continue;
            };
            let bytes = reserved.bytes.split(entry.bytes());
            match self.install_one(waiting.key, ticket, filled.bounds, entry) {
                Installed::Ready | Installed::Void => {}
                Installed::Held => self.visible.reserve(waiting.key, bytes),
                Installed::Retry => self.read_again(again, depth_of(&request)),
            }
        }
    }

    /// Reads again what a snapshot that was too old contained. The changes since the registration
    /// stay buffered under the same ticket.
    fn read_again(&mut self, waiting: QueuedFill, depth: u32) {
        if !self.fills.retry(waiting, depth) {
            self.drop_fill(waiting);
        }
    }

    fn fill_failed(&mut self, requested: RequestedFills, error: &ShardError) {
        let server = self.source.name();
        debug!(server, %error, "Fill failed; its requests are retried one by one");
        self.fills.failures += 1;
        if self.fills.failures >= FAILURES_LOGGED
            && self.source.problems().note(ProblemCause::FillsFailed)
        {
            warn!(
                server,
                %error,
                "Fills fail one after the other; pages are read from the databases until this is \
                 fixed. If a proxy is at the address, set it to the server itself"
            );
        }
        let single = requested.len() == 1;
        for (waiting, registration, request) in requested {
            self.keeper.give_up(waiting.key, registration.ticket);
            let alone = QueuedFill { alone: true, registration: None, ..waiting };
            let dropped = !self.fills.retry(alone, depth_of(&request));
            // Only an error of this request alone is about its table.
            if single && waiting.key.audited().is_some() {
                self.audit_failed(waiting.key, error, dropped);
            }
        }
    }

    pub(crate) fn install_one(
        &mut self,
        key: CacheKey,
        ticket: Ticket,
        bounds: Bounds,
        entry: CachedEntry,
    ) -> Installed {
        // A value is not readable before the log has reached its position. Otherwise a page would
        // hold more than its freshness token says.
        let bounds = match bounds {
            Bounds::Exact(at) => Bounds::Window { low: at, high: at },
            Bounds::Window { low, high } => {
                debug_assert!(low <= high, "the bounds of a fill are reversed");
                bounds
            }
        };
        let installed = self.keeper.install(key, ticket, bounds, entry);
        // Audits have counters of their own.
        if key.audited().is_none() {
            let counters = &self.log().counters;
            match installed {
                Installed::Ready | Installed::Held => count(&counters.fills),
                Installed::Retry | Installed::Void => count(&counters.fills_refused),
            }
        }
        if installed == Installed::Ready {
            self.show_filled(key);
        }
        installed
    }

    /// Makes a filled value visible, and takes the author's head from a filled tail. A deeper tail
    /// replaces the shallow one.
    pub(crate) fn show_filled(&mut self, key: CacheKey) {
        let shown = match key {
            CacheKey::DeeperTail(slot) => {
                self.keeper.replace(CacheKey::Tail(slot), key);
                self.visible.show(key, None);
                CacheKey::Tail(slot)
            }
            _ => key,
        };
        let found = self.keeper.get(shown);
        debug_assert!(
            found.is_none_or(|(_, at)| at == self.keeper.high_water()),
            "a value is ahead of the log, so a page would hold more than its token says"
        );
        let value = found.map(|(value, _)| value);
        self.visible.show(shown, value);
        if let (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) = (shown, value) {
            let newest = tail.newest();
            self.set_head_from_tail(slot, newest);
        }
        self.drop_outdated();
    }

    fn give_up(&mut self, requested: RequestedFills) {
        for (waiting, registration, request) in requested {
            self.keeper.give_up(waiting.key, registration.ticket);
            let again = QueuedFill { registration: None, ..waiting };
            self.fills.retry(again, depth_of(&request));
        }
    }

    /// The cached value of an answer, registered after memory had freed slots `frees` times. `None`
    /// if it cannot be cached.
    pub(crate) fn entry_of(
        &self,
        request: &FillRequest,
        answer: FillAnswer,
        frees: u64,
    ) -> Option<CachedEntry> {
        let is_cut = is_cut(request, &answer);
        match answer {
            FillAnswer::Tail { posts, complete, names, mut blocks } => {
                // Each post is dropped as soon as it is encoded.
                let rows = posts.into_iter().map(|post| self.memory.tail_post(&post)).collect();
                let bytes = self.memory.budget().fill_rows_bytes();
                // A deeper fill of large posts would have no more of them.
                let depth = if is_cut { TAIL_DEPTH_MAX } else { depth_of(request) };
                let limits = TailLimits { depth: depth as usize, bytes };
                let tail = Tail::new(rows, complete, limits, names);
                blocks.retain(|user| *user != request.user);
                let tail = tail.blocking(blocks);
                Some(CachedEntry::Tail(Arc::new(tail)))
            }
            FillAnswer::Follows(UserLists { follows, mutes, blocks }) => {
                let slots = |users: Vec<UserId>| -> Option<Vec<Slot>> {
                    users.into_iter().map(|user| self.memory.register_user(user)).collect()
                };
                let list = FollowList::new(slots(follows)?, FOLLOWEES_MAX, frees);
                let list = list.hiding(slots(mutes)?, slots(blocks)?);
                Some(CachedEntry::Follows(Arc::new(list)))
            }
            FillAnswer::TooLong => {
                Some(CachedEntry::Follows(Arc::new(FollowList::too_long(FOLLOWEES_MAX))))
            }
            FillAnswer::TooLarge => None,
        }
    }

    /// Queues authors of the prefill if no request waits, there is room, and it is this log's turn.
    /// All logs together prefill as many batches at a time as there are processors, so that
    /// requests find a free one.
    pub(super) fn queue_prefill(&mut self) {
        let budget = self.memory.budget();
        let room = budget.used() < budget.max() / 100 * PREFILL_PERCENT;
        if self.fills.waiting.is_empty() && self.fills.tasks.is_empty() {
            let is_next = room && !self.fills.prefill.is_empty();
            let may = is_next && self.log().is_fresh(self.memory.now_ms());
            self.fills.turn = if may { self.memory.prefill_turn() } else { None };
            if self.fills.turn.is_some() {
                let next = self.fills.prefill.len().saturating_sub(BATCH * FILLS_MAX);
                for slot in self.fills.prefill.split_off(next).into_iter().rev() {
                    self.fills.enqueue(CacheKey::Tail(slot), DEPTH);
                }
            }
        }
        let Fills { prefill, planned, .. } = &self.fills;
        let known = self.identity.is_some() && self.heads.are_settled();
        // The last fills may still be under way. Later requests do not undo that all were done.
        let idle = self.fills.waiting.is_empty() && self.fills.tasks.is_empty();
        let ended = idle || self.log().prefill.is_done();
        let done = known && ended && (prefill.is_empty() || !room);
        self.log().prefill.note(*planned, planned - prefill.len(), done);
    }
}

/// Whether the answer has less than was requested, because that has too many bytes.
fn is_cut(request: &FillRequest, answer: &FillAnswer) -> bool {
    match answer {
        FillAnswer::Tail { posts, complete, .. } => {
            !complete && posts.len() < depth_of(request) as usize
        }
        FillAnswer::TooLarge => true,
        FillAnswer::Follows(_) | FillAnswer::TooLong => false,
    }
}

fn depth_of(request: &FillRequest) -> u32 {
    match request.target {
        FillTarget::Tail { depth } => depth,
        FillTarget::Follows { .. } => 1,
    }
}
