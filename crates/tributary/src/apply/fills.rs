//! Fills: the writer reads from the databases what readers missed, in batches, off the requests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::Applier;
use super::entry::{CacheKey, CachedEntry};
use crate::backoff::Backoff;
use crate::changes::Bounds;
use crate::memory::{FollowList, Installed, Miss, Slot, Tail, Ticket, count};
use crate::model::FOLLOWEES_MAX;
use crate::problems::ProblemCause;
use crate::shard::{Deadline, FillAnswer, FillBatch, FillRequest, FillTarget, ShardError};
use crate::tasks::caught;

/// Requests per fill. One statement reads up to 50 authors.
const BATCH: usize = 50;
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
/// Posts in the deepest tail. Deeper posts are read from the databases.
const DEPTH_MAX: u32 = 4_096;
/// Prefill stops at this percentage of the budget.
const PREFILL_PERCENT: usize = 70;
/// Pause of the fills after an eviction of data in use. Measured with a budget of 1/12 of the
/// data read: 0.3 s and 4 s serve three fifths of the pages that 1 s serves.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two audits.
const AUDIT_PAUSE: Duration = Duration::from_secs(1);
/// Values per audit, and the posts that they may have together. One value is always audited.
const AUDIT_BATCH: usize = 4;
const AUDIT_POSTS_MAX: usize = 2_048;
/// The auditor waits this many upkeep rounds (5 s) for both copies to reach the same position.
const AUDIT_ROUNDS_MAX: u32 = 250;

/// Fills that fail one after the other before a line is logged.
const FAILURES_LOGGED: u32 = 10;

/// The queue of fill requests, the fills in flight, the prefill and the audits.
#[derive(Debug, Default)]
pub(super) struct Fills {
    waiting: VecDeque<QueuedFill>,
    /// The requested depth of each queued key.
    depths: HashMap<CacheKey, u32>,
    tasks: JoinSet<FinishedFill>,
    /// Authors to prefill, the author with the newest post last.
    prefill: Vec<Slot>,
    /// Number of authors in the prefill at its start.
    planned: usize,
    /// Keys of the audits, with the number of rounds each has waited.
    audits: HashMap<CacheKey, u32>,
    next_audit: Option<Instant>,
    /// End of the pause, if fills are paused.
    paused_until: Option<Instant>,
    /// Fills that failed since the last one that succeeded.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct QueuedFill {
    key: CacheKey,
    not_before: Option<Instant>,
    retries: Backoff,
    /// Fill this request alone. One unreadable row fails every request in its batch.
    alone: bool,
}

/// The requests of one fill.
type RequestedFills = Vec<(QueuedFill, Ticket, FillRequest)>;

/// A finished fill.
#[derive(Debug)]
pub(super) struct FinishedFill {
    requested: RequestedFills,
    outcome: Result<FillBatch, ShardError>,
}

impl Fills {
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

    /// Drops the queued requests of readers and pauses the fills.
    pub(super) fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + PAUSE);
        self.waiting.retain(|waiting| waiting.key.audited().is_some());
        self.depths.retain(|key, _| key.audited().is_some());
    }

    /// Whether fills are paused.
    pub(super) fn is_paused(&mut self) -> bool {
        self.paused_until = self.paused_until.filter(|until| *until > Instant::now());
        self.paused_until.is_some()
    }

    fn enqueue(&mut self, key: CacheKey, depth: u32) {
        if let Some(known) = self.depths.get_mut(&key) {
            *known = depth.max(*known);
        } else if self.waiting.len() < QUEUE_MAX {
            self.depths.insert(key, depth);
            let retries = Backoff::new(RETRY, RETRY_MAX);
            self.waiting.push_back(QueuedFill { key, not_before: None, retries, alone: false });
        }
    }

    /// Queues a request again after a pause. Returns false after the last retry: it is dropped.
    fn retry(&mut self, mut waiting: QueuedFill, depth: u32) -> bool {
        if waiting.retries.failures() == RETRIES_MAX {
            return false;
        }
        waiting.not_before = Some(Instant::now() + waiting.retries.pause());
        if self.depths.insert(waiting.key, depth).is_none() {
            self.waiting.push_back(waiting);
        }
        true
    }

    /// Takes up to one batch of due requests, with their depths.
    fn take_due(&mut self) -> Vec<(QueuedFill, u32)> {
        let now = Instant::now();
        let mut due: Vec<(QueuedFill, u32)> = Vec::new();
        for _ in 0..self.waiting.len() {
            let full = due.len() == BATCH || due.first().is_some_and(|(first, _)| first.alone);
            let Some(waiting) = self.waiting.pop_front_if(|_| !full) else { break };
            let fits = !waiting.alone || due.is_empty();
            if fits && waiting.not_before.is_none_or(|time| time <= now) {
                let depth = self.depths.remove(&waiting.key).unwrap_or(DEPTH);
                due.push((waiting, depth));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        due
    }
}

impl Applier {
    /// Queues the fill of something that a reader missed.
    pub(super) fn queue_miss(&mut self, miss: Miss) {
        let user = match miss {
            Miss::Tail { slot, .. } => self.memory.user(slot),
            Miss::Follows { user } => user,
        };
        if self.fills.is_paused() || self.is_excluded(user) {
            return;
        }
        match miss {
            Miss::Tail { slot, depth } => {
                let depth = depth.clamp(DEPTH, DEPTH_MAX).next_power_of_two();
                let key = CacheKey::Tail(slot);
                if let Some((CachedEntry::Tail(tail), _)) = self.keeper.get(key) {
                    if tail.floor().is_none() || tail.depth() >= depth as usize {
                        return;
                    }
                    // The tail is too shallow. Readers query the databases until it is filled
                    // again.
                    self.evict(key);
                }
                self.fills.enqueue(key, depth);
            }
            Miss::Follows { user } => {
                if let Some(slot) = self.memory.register_user(user) {
                    self.fills.enqueue(CacheKey::Follows(slot), 1);
                }
            }
        }
    }

    pub(super) fn start_fills(&mut self) {
        if self.identity.is_none() || !self.log().is_fresh(self.memory.now_ms()) {
            return;
        }
        while self.fills.tasks.len() < FILLS_MAX {
            let mut requested = RequestedFills::new();
            for (waiting, depth) in self.fills.take_due() {
                if self.is_excluded(self.memory.user(waiting.key.slot())) {
                    continue;
                }
                if let Some(ticket) = self.keeper.register(waiting.key) {
                    requested.push((waiting, ticket, self.request_of(waiting.key, depth)));
                }
            }
            if requested.is_empty() {
                return;
            }
            let Some(runtime) = &self.runtime else { return };
            let source = Arc::clone(&self.source);
            let fill = async move {
                let requests: Vec<FillRequest> =
                    requested.iter().map(|(_, _, request)| *request).collect();
                let fill = source.fill(&requests, Deadline::after(FILL_DEADLINE));
                let failed = |panic| Err(ShardError::Unavailable(panic));
                let outcome = caught(fill).await.unwrap_or_else(failed);
                FinishedFill { requested, outcome }
            };
            self.fills.tasks.spawn_on(fill, runtime);
        }
    }

    fn request_of(&self, key: CacheKey, depth: u32) -> FillRequest {
        let user = self.memory.user(key.slot());
        let target = match key {
            CacheKey::Tail(_) | CacheKey::TailAudit(_) => FillTarget::Tail { depth },
            CacheKey::Follows(_) | CacheKey::FollowsAudit(_) => {
                FillTarget::Follows { max: u32::try_from(FOLLOWEES_MAX).unwrap_or(u32::MAX) }
            }
        };
        FillRequest { shard: self.memory.placement().shard_of(user), user, target }
    }

    /// Installs what a fill has read.
    pub(super) fn install(&mut self, done: FinishedFill) {
        let FinishedFill { requested, outcome } = done;
        let filled = match outcome {
            Ok(filled) if Some(filled.identity) == self.identity => filled,
            Ok(_) => return self.give_up(requested),
            Err(error) => {
                let server = self.source.name();
                debug!(server, %error, "Fill failed; its requests are retried one by one");
                self.fills.failures += 1;
                if self.fills.failures >= FAILURES_LOGGED
                    && self.source.problems().note(ProblemCause::FillsFailed)
                {
                    warn!(
                        server,
                        %error,
                        "Fills fail one after the other; pages are read from the databases until \
                         this is fixed. If a proxy is at the address, set it to the server itself"
                    );
                }
                let alone = |(waiting, ticket, request)| {
                    (QueuedFill { alone: true, ..waiting }, ticket, request)
                };
                let single = requested.len() == 1;
                for (waiting, ticket, request) in requested.into_iter().map(alone) {
                    self.keeper.give_up(waiting.key, ticket);
                    let dropped = !self.fills.retry(waiting, depth_of(&request));
                    // Only an error of this request alone is about its table.
                    if single && waiting.key.audited().is_some() {
                        self.audit_failed(waiting.key, &error, dropped);
                    }
                }
                return;
            }
        };
        self.fills.failures = 0;
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = filled.bounds;
        self.log().note_visible(low);
        for ((waiting, ticket, request), answer) in requested.into_iter().zip(filled.answers) {
            match self.entry_of(&request, answer) {
                Some(entry) => self.install_one((waiting, ticket, request), filled.bounds, entry),
                None => self.keeper.give_up(waiting.key, ticket),
            }
        }
    }

    fn install_one(
        &mut self,
        (waiting, ticket, request): (QueuedFill, Ticket, FillRequest),
        bounds: Bounds,
        entry: CachedEntry,
    ) {
        let key = waiting.key;
        // A value is not readable before the log has reached its position. Otherwise a page would
        // hold more than its freshness token says.
        let bounds = match bounds {
            Bounds::Exact(at) => Bounds::Window { low: at, high: at },
            bounds @ Bounds::Window { .. } => bounds,
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
        match installed {
            Installed::Ready => self.show_filled(key),
            // It becomes readable when the log reaches its upper bound.
            Installed::Held | Installed::Void => {}
            Installed::Retry => {
                self.keeper.give_up(key, ticket);
                self.fills.retry(waiting, depth_of(&request));
            }
        }
    }

    /// Makes a filled value visible, and takes the author's head from a filled tail.
    pub(crate) fn show_filled(&mut self, key: CacheKey) {
        let value = self.keeper.get(key).map(|(value, _)| value);
        super::show(&self.memory, &mut self.residents, &mut self.listing, (key, value));
        if let (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) = (key, value) {
            self.set_head_from_tail(slot, tail.newest());
        }
    }

    fn give_up(&mut self, requested: RequestedFills) {
        for (waiting, ticket, request) in requested {
            self.keeper.give_up(waiting.key, ticket);
            self.fills.retry(waiting, depth_of(&request));
        }
    }

    /// The cached value of an answer. `None` if it cannot be cached.
    pub(crate) fn entry_of(
        &self,
        request: &FillRequest,
        answer: FillAnswer,
    ) -> Option<CachedEntry> {
        match answer {
            FillAnswer::Tail { posts, complete, handle } => {
                let depth = depth_of(request) as usize;
                let rows = posts.iter().map(|post| self.memory.tail_post(post)).collect();
                let tail = Tail::new(rows, complete, depth, handle.map(Into::into));
                Some(CachedEntry::Tail(Arc::new(tail)))
            }
            FillAnswer::Follows(followees) => {
                let slots: Option<Vec<Slot>> =
                    followees.into_iter().map(|user| self.memory.register_user(user)).collect();
                Some(CachedEntry::Follows(Arc::new(FollowList::new(slots?, FOLLOWEES_MAX))))
            }
            FillAnswer::TooLong => None,
        }
    }

    /// Queues authors of the prefill if no request waits and there is room.
    pub(super) fn queue_prefill(&mut self) {
        let budget = self.memory.budget();
        let room = budget.used() < budget.max() / 100 * PREFILL_PERCENT;
        if room && self.fills.waiting.is_empty() {
            let next = self.fills.prefill.len().saturating_sub(BATCH * FILLS_MAX);
            for slot in self.fills.prefill.split_off(next).into_iter().rev() {
                self.fills.enqueue(CacheKey::Tail(slot), DEPTH);
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

    /// Reads a few cached values again, and compares both copies when they are at the same
    /// position.
    pub(super) fn audit(&mut self) {
        self.compare_audits();
        let now = Instant::now();
        if self.fills.next_audit.is_some_and(|time| time > now) {
            return;
        }
        self.fills.next_audit = Some(now + AUDIT_PAUSE);
        let mut posts = 0;
        for _ in 0..AUDIT_BATCH {
            let Some(key) = self.residents.next() else { return };
            // Everything that the entry holds is compared.
            let held = match self.keeper.get(key) {
                Some((CachedEntry::Tail(tail), _)) => tail.keys().len().max(1),
                _ => 1,
            };
            self.fills.audits.insert(key.audit(), 0);
            // One row more shows a post that is missing at the end of the entry.
            self.fills.enqueue(key.audit(), u32::try_from(held + 1).unwrap_or(u32::MAX));
            posts += held;
            if posts > AUDIT_POSTS_MAX {
                return;
            }
        }
    }

    /// The value of an audit cannot be read. If its table is at fault, the entries of its shard are
    /// evicted: pages then list the shard as missing.
    fn audit_failed(&mut self, key: CacheKey, error: &ShardError, dropped: bool) {
        let is_faulty = matches!(error, ShardError::Faulty(_));
        if !is_faulty && !dropped {
            return;
        }
        self.fills.audits.remove(&key);
        self.fills.depths.remove(&key);
        self.fills.waiting.retain(|waiting| waiting.key != key);
        self.keeper.evict(key);
        count(&self.log().counters.audits_failed);
        let user = self.memory.user(key.slot());
        let shard = self.memory.placement().shard_of(user);
        if is_faulty {
            self.forget_shard(shard);
        }
        if self.source.problems().note(ProblemCause::Unverified) {
            warn!(
                server = self.source.name(),
                shard = shard.index(),
                %user,
                %error,
                "Audit cannot read the database; what is cached of a table at fault is evicted"
            );
        }
    }

    fn compare_audits(&mut self) {
        let mut audits = std::mem::take(&mut self.fills.audits);
        audits.retain(|key, rounds| {
            *rounds += 1;
            let open = !self.compare_audit(*key) && !self.give_up_audit(*key, *rounds);
            if !open {
                self.keeper.evict(*key);
            }
            open
        });
        self.fills.audits = audits;
    }

    /// Whether the audit has waited too long: the value could not be read again, or the two copies
    /// never were at the same position.
    fn give_up_audit(&self, key: CacheKey, rounds: u32) -> bool {
        let is_late = rounds >= AUDIT_ROUNDS_MAX;
        if is_late && self.source.problems().note(ProblemCause::Unverified) {
            let (server, user) = (self.source.name(), self.memory.user(key.slot()));
            warn!(
                server,
                %user,
                "Memory could not be compared with the database within 5 s; the comparison is \
                 skipped. Check the server's load and the account's rights"
            );
        }
        is_late
    }

    /// Whether the audit of this key is finished.
    fn compare_audit(&mut self, key: CacheKey) -> bool {
        let Some(shown) = key.audited() else { return true };
        // The value may have been evicted in the meantime.
        let Some((entry, at)) = self.keeper.get(shown) else { return true };
        let Some((again, read_at)) = self.keeper.get(key) else { return false };
        if at != read_at {
            return false;
        }
        let counters = &self.log().counters;
        count(&counters.audited);
        if let Some(difference) = entry.difference(again) {
            count(&counters.mismatched);
            let (server, user) = (self.source.name(), self.memory.user(shown.slot()));
            if self.source.problems().note(ProblemCause::Mismatch) {
                error!(
                    server,
                    %user,
                    ?at,
                    difference = difference.describe(|slot| self.memory.user(slot)),
                    "Memory differs from the database; the cached value is evicted"
                );
            }
            self.source.doubt(self.memory.placement().shard_of(self.memory.user(shown.slot())));
            self.evict(shown);
        }
        true
    }
}

fn depth_of(request: &FillRequest) -> u32 {
    match request.target {
        FillTarget::Tail { depth } => depth,
        FillTarget::Follows { .. } => 1,
    }
}
