//! Fills: what readers lacked is read from the databases, in batches, off the requests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error};

use super::Applier;
use super::entry::{CacheKey, CachedEntry};
use crate::changes::Bounds;
use crate::memory::{FollowList, Installed, Miss, Slot, Tail, Ticket, count};
use crate::shard::{Deadline, FillAnswer, FillBatch, FillRequest, FillTarget, ShardError};
use crate::timeline::FOLLOWEES_MAX;

/// Wishes of one fill. One statement takes as many authors.
const BATCH: usize = 50;
/// Fills of one log at once, so that a cold memory does not starve the reads.
const FILLS_MAX: usize = 2;
/// Wishes that wait; more are wished for again.
const WAITING_MAX: usize = 16_384;
/// Nobody waits for a fill.
const FILL_DEADLINE: Duration = Duration::from_secs(5);
/// A snapshot that was too old is taken again after so long, then after twice as long, and so on.
const RETRY: Duration = Duration::from_millis(5);
/// But after so long at most.
const RETRY_MAX: Duration = Duration::from_millis(100);
/// After so many the next reader has to wish again.
const TRIES_MAX: u32 = 20;
/// Posts that are filled at first: three pages by one author.
const DEPTH: u32 = 64;
/// The deepest tail; what lies deeper is read from the databases.
const DEPTH_MAX: u32 = 4_096;
/// Memory is filled ahead up to this share of the budget, in percent.
const AHEAD_PERCENT: usize = 70;
/// Nothing is filled for so long after something in use was dropped. With a budget of a twelfth of what
/// is read, 0.3 s and 4 s serve three fifths of the pages that a second does.
const REST: Duration = Duration::from_secs(1);
/// Between two comparisons with the database.
const AUDIT_PAUSE: Duration = Duration::from_secs(1);
/// So much is compared each time.
const AUDIT_BATCH: usize = 4;
/// A comparison waits until both are as of the same place, for so many ticks.
const AUDIT_TICKS: u32 = 250;

/// Wishes and what is done for them.
#[derive(Debug, Default)]
pub(super) struct Fills {
    waiting: VecDeque<Waiting>,
    /// How deep what waits is wished for.
    wished: HashMap<CacheKey, u32>,
    tasks: JoinSet<Done>,
    /// Authors to fill when nothing else is to be done, the best last.
    ahead: Vec<Slot>,
    /// How many these were at first.
    planned: usize,
    /// What is compared, and for how many ticks it has waited.
    audits: HashMap<CacheKey, u32>,
    next_audit: Option<Instant>,
    /// Until then no wishes are heard.
    rest: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: CacheKey,
    not_before: Option<Instant>,
    tries: u32,
    /// Not together with others: one row that cannot be read fails all that is read with it.
    alone: bool,
}

/// What was wished for together.
type Asked = Vec<(Waiting, Ticket, FillRequest)>;

/// A fill that has ended.
#[derive(Debug)]
pub(super) struct Done {
    asked: Asked,
    outcome: Result<FillBatch, ShardError>,
}

impl Fills {
    /// The next fill that ends; none while none runs. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Done> {
        // A fill that panicked leaves its entries pending; they go with the next history.
        self.tasks.join_next().await?.ok()
    }

    /// Whose posts are to be filled when nobody lacks anything, by their newest times.
    pub(super) fn plan_ahead(&mut self, mut heads: Vec<(Slot, i64)>) {
        heads.sort_unstable_by_key(|(_, time)| *time);
        self.ahead = heads.into_iter().map(|(slot, _)| slot).collect();
        self.planned = self.ahead.len();
    }

    /// Forgets the wishes, and hears none for a while.
    pub(super) fn rest(&mut self) {
        self.rest = Some(Instant::now() + REST);
        self.waiting.retain(|waiting| waiting.key.audited().is_some());
        self.wished.retain(|key, _| key.audited().is_some());
    }

    /// Whether no wishes are heard now.
    pub(super) fn is_resting(&mut self) -> bool {
        self.rest = self.rest.filter(|until| *until > Instant::now());
        self.rest.is_some()
    }

    fn wait(&mut self, key: CacheKey, depth: u32) {
        if let Some(known) = self.wished.get_mut(&key) {
            *known = depth.max(*known);
        } else if self.waiting.len() < WAITING_MAX {
            self.wished.insert(key, depth);
            self.waiting.push_back(Waiting { key, not_before: None, tries: 0, alone: false });
        }
    }

    /// Tries again after a pause, or not any more.
    fn again(&mut self, mut waiting: Waiting, depth: u32) {
        waiting.tries += 1;
        if waiting.tries > TRIES_MAX {
            return;
        }
        let pause = RETRY.saturating_mul(1 << waiting.tries.min(8)).min(RETRY_MAX);
        waiting.not_before = Some(Instant::now() + pause);
        if self.wished.insert(waiting.key, depth).is_none() {
            self.waiting.push_back(waiting);
        }
    }

    /// Up to a batch of what is due, with the wished depth.
    fn due(&mut self) -> Vec<(Waiting, u32)> {
        let now = Instant::now();
        let mut due: Vec<(Waiting, u32)> = Vec::new();
        for _ in 0..self.waiting.len() {
            let full = due.len() == BATCH || due.first().is_some_and(|(first, _)| first.alone);
            let Some(waiting) = self.waiting.pop_front_if(|_| !full) else { break };
            let fits = !waiting.alone || due.is_empty();
            if fits && waiting.not_before.is_none_or(|time| time <= now) {
                let depth = self.wished.remove(&waiting.key).unwrap_or(DEPTH);
                due.push((waiting, depth));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        due
    }
}

impl Applier {
    /// A reader lacked something.
    pub(super) fn wish(&mut self, miss: Miss) {
        if self.fills.is_resting() {
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
                    // It is too shallow; until it is filled again readers ask the databases.
                    self.evict(key);
                }
                self.fills.wait(key, depth);
            }
            Miss::Follows { user } => {
                if let Some(slot) = self.memory.register_user(user) {
                    self.fills.wait(CacheKey::Follows(slot), 1);
                }
            }
        }
    }

    pub(super) fn start_fills(&mut self) {
        if self.identity.is_none() || !self.log().is_fresh(self.memory.now_ms()) {
            return;
        }
        while self.fills.tasks.len() < FILLS_MAX {
            let mut asked = Asked::new();
            for (waiting, depth) in self.fills.due() {
                if let Some(ticket) = self.keeper.register(waiting.key) {
                    asked.push((waiting, ticket, self.wish_of(waiting.key, depth)));
                }
            }
            if asked.is_empty() {
                return;
            }
            let source = Arc::clone(&self.source);
            self.fills.tasks.spawn(async move {
                let wishes: Vec<FillRequest> = asked.iter().map(|(_, _, wish)| *wish).collect();
                let outcome = source.fill(&wishes, Deadline::after(FILL_DEADLINE)).await;
                Done { asked, outcome }
            });
        }
    }

    fn wish_of(&self, key: CacheKey, depth: u32) -> FillRequest {
        let user = self.memory.user(key.slot());
        let target = match key {
            CacheKey::Tail(_) | CacheKey::TailAudit(_) => FillTarget::Tail { depth },
            CacheKey::Follows(_) | CacheKey::FollowsAudit(_) => {
                FillTarget::Follows { max: u32::try_from(FOLLOWEES_MAX).unwrap_or(u32::MAX) }
            }
        };
        FillRequest { shard: self.memory.placement().shard_of(user), user, target }
    }

    /// Takes what a fill has read.
    pub(super) fn install(&mut self, done: Done) {
        let Done { asked, outcome } = done;
        let filled = match outcome {
            Ok(filled) if Some(filled.identity) == self.identity => filled,
            Ok(_) => return self.give_up(asked),
            Err(error) => {
                debug!(server = self.source.name(), %error, "a fill failed");
                let alone =
                    |(waiting, ticket, wish)| (Waiting { alone: true, ..waiting }, ticket, wish);
                return self.give_up(asked.into_iter().map(alone).collect());
            }
        };
        let (Bounds::Exact(low) | Bounds::Window { low, .. }) = filled.bounds;
        self.log().note_visible(low);
        for ((waiting, ticket, wish), answer) in asked.into_iter().zip(filled.answers) {
            match self.entry_of(&wish, answer) {
                Some(entry) => self.install_one((waiting, ticket, wish), filled.bounds, entry),
                None => self.keeper.give_up(waiting.key, ticket),
            }
        }
    }

    fn install_one(
        &mut self,
        (waiting, ticket, wish): (Waiting, Ticket, FillRequest),
        bounds: Bounds,
        entry: CachedEntry,
    ) {
        let key = waiting.key;
        // What is ahead of the log is not shown before the log has come there: a page would hold more
        // than its freshness token says.
        let bounds = match bounds {
            Bounds::Exact(at) => Bounds::Window { low: at, high: at },
            bounds @ Bounds::Window { .. } => bounds,
        };
        let installed = self.keeper.install(key, ticket, bounds, entry);
        let counters = &self.memory.logs()[self.index].counters;
        match installed {
            Installed::Ready => {
                count(&counters.fills);
                self.show_filled(key);
            }
            // It is shown when the log has come that far.
            Installed::Held => count(&counters.fills),
            Installed::Retry => {
                count(&counters.fills_refused);
                self.keeper.give_up(key, ticket);
                self.fills.again(waiting, depth_of(&wish));
            }
            Installed::Void => count(&counters.fills_refused),
        }
    }

    /// Shows what was read, and learns the author's newest time from it.
    pub(super) fn show_filled(&mut self, key: CacheKey) {
        let value = self.keeper.get(key).map(|(value, _)| value);
        super::show(&self.memory, &mut self.residents, &mut self.listing, (key, value));
        if let (CacheKey::Tail(slot), Some(CachedEntry::Tail(tail))) = (key, value) {
            self.set_head_from_tail(slot, tail.newest());
        }
    }

    fn give_up(&mut self, asked: Asked) {
        for (waiting, ticket, wish) in asked {
            self.keeper.give_up(waiting.key, ticket);
            self.fills.again(waiting, depth_of(&wish));
        }
    }

    /// What is kept of an answer, if it can be.
    pub(super) fn entry_of(&self, wish: &FillRequest, answer: FillAnswer) -> Option<CachedEntry> {
        match answer {
            FillAnswer::Tail { posts, complete, handle } => {
                let depth = depth_of(wish) as usize;
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

    /// Fills what is likely to be read, when nobody lacks anything and there is room.
    pub(super) fn fill_ahead(&mut self) {
        let budget = self.memory.budget();
        let room = budget.used() < budget.max() / 100 * AHEAD_PERCENT;
        if room && self.fills.waiting.is_empty() {
            let next = self.fills.ahead.len().saturating_sub(BATCH * FILLS_MAX);
            for slot in self.fills.ahead.split_off(next).into_iter().rev() {
                self.fills.wait(CacheKey::Tail(slot), DEPTH);
            }
        }
        let Fills { ahead, planned, .. } = &self.fills;
        let known = self.identity.is_some() && self.heads.are_settled();
        let done = known && (ahead.is_empty() || !room);
        self.log().prefill.note(*planned, planned - ahead.len(), done);
    }

    /// Reads a few of those that are kept again, and compares them when both are as of one place.
    pub(super) fn audit(&mut self) {
        self.compare_audits();
        let now = Instant::now();
        if self.fills.next_audit.is_some_and(|time| time > now) {
            return;
        }
        self.fills.next_audit = Some(now + AUDIT_PAUSE);
        for _ in 0..AUDIT_BATCH {
            let Some(key) = self.residents.next() else { return };
            self.fills.audits.insert(key.audit(), 0);
            self.fills.wait(key.audit(), DEPTH);
        }
    }

    fn compare_audits(&mut self) {
        let mut audits = std::mem::take(&mut self.fills.audits);
        audits.retain(|key, ticks| {
            *ticks += 1;
            let open = *ticks < AUDIT_TICKS && !self.compare_audit(*key);
            if !open {
                self.keeper.evict(*key);
            }
            open
        });
        self.fills.audits = audits;
    }

    /// Whether there is nothing left to compare.
    fn compare_audit(&mut self, key: CacheKey) -> bool {
        let Some(shown) = key.audited() else { return true };
        // It may have been dropped.
        let Some((entry, at)) = self.keeper.get(shown) else { return true };
        let Some((again, read_at)) = self.keeper.get(key) else { return false };
        if at != read_at {
            return false;
        }
        let counters = &self.log().counters;
        count(&counters.audited);
        if !entry.agrees_with(again) {
            count(&counters.mismatched);
            let (server, user) = (self.source.name(), self.memory.user(shown.slot()));
            error!(server, %user, ?at, kept = ?entry, read = ?again, "memory differs from the database; what was kept is dropped");
            self.evict(shown);
        }
        true
    }
}

fn depth_of(wish: &FillRequest) -> u32 {
    match wish.target {
        FillTarget::Tail { depth } => depth,
        FillTarget::Follows { .. } => 1,
    }
}
