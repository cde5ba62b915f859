//! The state of one followed log, as readers see it.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::Miss;
use super::news::News;
use crate::changes::{ChangePosition, LogIdentity, LogPosition};
use crate::model::ShardId;

/// Lease of a log in milliseconds. It is renewed every second.
pub(crate) const LEASE_MS: u64 = 3_000;

/// A set of logs, by index. Logs from the 64th on share one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSet(u64);

impl LogSet {
    /// Whether the sets have a log in common.
    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<usize> for LogSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indexes: I) -> Self {
        Self(indexes.into_iter().fold(0, |set, index| set | 1 << index.min(63)))
    }
}

/// One log that memory follows.
#[derive(Debug)]
pub(crate) struct FollowedLog {
    name: String,
    shards: Vec<ShardId>,
    misses: mpsc::Sender<Miss>,
    /// Whether fill requests are accepted.
    accepts_requests: AtomicBool,
    /// 0 while another identity begins.
    identity: AtomicU64,
    position: AtomicU64,
    /// Readers see no change after this position.
    announced: AtomicU64,
    /// Wakes the tasks that wait for a position.
    reached: Notify,
    /// The end of the lease. Until then memory counts as up to date.
    fresh_until_ms: AtomicU64,
    /// The wall-clock time of the last renewal, in milliseconds since 1970.
    as_of_ms: AtomicI64,
    /// Every new database read sees all transactions up to here; a position of the current
    /// identity.
    visible: AtomicU64,
    /// Held while the identity or `visible` changes, so that no position of another identity is
    /// recorded as visible.
    changes: Mutex<()>,
    /// The mark of the last change without a transaction since `position`, or 0: see
    /// [`ChangePosition::after_loss`].
    loss: AtomicU32,
    /// Why the lease is not renewed, as a [`NotFresh`].
    not_fresh: AtomicU8,
    /// For each of `shards`: whether the heads of all its authors are loaded.
    heads_known: Vec<AtomicBool>,
    pub(crate) prefill: Prefill,
    pub(crate) counters: Counters,
    pub(crate) news: News,
}

/// Why memory is not fresh for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum NotFresh {
    /// The feed has not reached the end of the log yet.
    Starting,
    /// The feed has no connection.
    Disconnected,
    /// The feed is connected, but changes arrive late, or the end of the log is not known.
    Late,
    /// Changes arrive in time and are applied late.
    Busy,
}

impl NotFresh {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Disconnected => "disconnected",
            Self::Late => "late",
            Self::Busy => "busy",
        }
    }
}

/// Progress of the prefill: the fills that run before any reader needs them.
#[derive(Debug, Default)]
pub(crate) struct Prefill {
    planned: AtomicUsize,
    started: AtomicUsize,
    done: AtomicBool,
}

/// Counts of events at one log since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Applied transactions.
    pub(crate) transactions: AtomicU64,
    /// Changes applied to cached or pending values.
    pub(crate) changes: AtomicU64,
    /// Log identities that began. More than one means that memory was rebuilt.
    pub(crate) log_identities: AtomicU64,
    /// Fill requests that were fulfilled.
    pub(crate) fills: AtomicU64,
    /// Rejected fills: the snapshot was too old, or the ticket was void.
    pub(crate) fills_refused: AtomicU64,
    /// Values evicted to stay within the budget.
    pub(crate) evictions: AtomicU64,
    /// Values that the auditor compared with the database.
    pub(crate) audited: AtomicU64,
    /// Values that the auditor found different from the database.
    pub(crate) mismatched: AtomicU64,
    /// Values that the auditor could not read from the database.
    pub(crate) audits_failed: AtomicU64,
}

impl Prefill {
    /// Records the progress: `started` of `planned` authors are filled or queued. `done` means
    /// that no more will follow, because all are started or there is no room.
    pub(crate) fn note(&self, planned: usize, started: usize, done: bool) {
        self.planned.store(planned, Ordering::Relaxed);
        self.started.store(started, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    pub(crate) fn planned(&self) -> usize {
        self.planned.load(Ordering::Relaxed)
    }

    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

impl FollowedLog {
    pub(super) fn new(name: String, shards: Vec<ShardId>, misses: mpsc::Sender<Miss>) -> Self {
        let heads_known = shards.iter().map(|_| AtomicBool::new(false)).collect();
        Self {
            name,
            shards,
            misses,
            accepts_requests: AtomicBool::new(true),
            identity: AtomicU64::new(0),
            position: AtomicU64::new(0),
            announced: AtomicU64::new(0),
            reached: Notify::new(),
            fresh_until_ms: AtomicU64::new(0),
            as_of_ms: AtomicI64::new(0),
            visible: AtomicU64::new(0),
            changes: Mutex::new(()),
            loss: AtomicU32::new(0),
            not_fresh: AtomicU8::new(NotFresh::Starting as u8),
            heads_known,
            prefill: Prefill::default(),
            counters: Counters::default(),
            news: News::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The shards whose changes this log contains.
    pub(crate) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    pub(super) fn request_fill(&self, miss: Miss) {
        if self.accepts_requests.load(Ordering::Relaxed) {
            // A full queue is harmless: the next reader repeats the request.
            let _ = self.misses.try_send(miss);
        }
    }

    /// Accepts or drops fill requests from now on.
    pub(crate) fn accept_requests(&self, accepts: bool) {
        self.accepts_requests.store(accepts, Ordering::Relaxed);
    }

    /// Starts another log identity at this position. The caller has already removed all values of
    /// the previous one.
    pub(crate) fn begin(&self, identity: LogIdentity, at: ChangePosition) {
        let ChangePosition { after, changes: mark } = at;
        let changes = self.changes();
        self.identity.store(0, Ordering::Release);
        self.position.store(after.0, Ordering::Release);
        self.announced.store(after.0, Ordering::Release);
        self.visible.store(0, Ordering::Release);
        self.fresh_until_ms.store(0, Ordering::Release);
        self.loss.store(mark, Ordering::Release);
        self.identity.store(identity.0, Ordering::Release);
        drop(changes);
        self.reached.notify_waiters();
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory is not fresh until the lease is renewed.
    pub(super) fn end_lease(&self) {
        self.fresh_until_ms.store(0, Ordering::Release);
    }

    /// Gives the log another identity. All values and positions stay valid.
    pub(crate) fn rename(&self, identity: LogIdentity) {
        let _changes = self.changes();
        self.identity.store(identity.0, Ordering::Release);
    }

    /// Records that readers may see changes up to here. Must be called before the transaction
    /// that ends here is applied.
    pub(crate) fn announce(&self, at: LogPosition) {
        self.announced.store(at.0, Ordering::Release);
    }

    /// Records that readers see every change up to here.
    pub(crate) fn advance(&self, at: LogPosition) {
        self.position.store(at.0, Ordering::Release);
        if self.loss.load(Ordering::Relaxed) != 0 {
            self.loss.store(0, Ordering::Release);
        }
    }

    /// Records that rows of the shard changed without a transaction. Memory must have forgotten the
    /// shard. `clock` is the time as a value of the time column. Only the writer of the log may
    /// call this.
    pub(crate) fn lose(&self, shard: ShardId, now_s: u32, clock: i64) {
        let mark = now_s.max(self.loss.load(Ordering::Relaxed).saturating_add(1));
        let at = LogPosition(self.position.load(Ordering::Acquire));
        // First, so that a reader that has the mark has read the shard after its loss.
        self.news.lose(shard, ChangePosition::after_loss(at, mark), clock);
        self.loss.store(mark, Ordering::Release);
    }

    /// Readers see every change up to this position, and what changed without a transaction until
    /// its mark. `None` while another identity begins.
    pub(crate) fn reached(&self) -> Option<(LogIdentity, ChangePosition)> {
        let (identity, at) = self.position()?;
        // A mark that belongs to a later position is harmless: no transaction is after it.
        let mark = self.loss.load(Ordering::Acquire);
        Some((identity, ChangePosition::after_loss(at, mark)))
    }

    /// Wakes the waiting tasks. One call covers any number of [`FollowedLog::advance`].
    pub(crate) fn wake(&self) {
        self.reached.notify_waiters();
    }

    /// Readers see every change up to this position. `None` while another identity begins.
    pub(crate) fn position(&self) -> Option<(LogIdentity, LogPosition)> {
        self.with_identity(&self.position)
    }

    /// Readers see no change after this position. `None` while another identity begins.
    pub(crate) fn announced(&self) -> Option<(LogIdentity, LogPosition)> {
        self.with_identity(&self.announced)
    }

    fn with_identity(&self, position: &AtomicU64) -> Option<(LogIdentity, LogPosition)> {
        let before = self.identity.load(Ordering::Acquire);
        let position = position.load(Ordering::Acquire);
        let after = self.identity.load(Ordering::Acquire);
        (before == after && before != 0).then_some((LogIdentity(before), LogPosition(position)))
    }

    /// Whether readers see every change up to here, under this identity.
    pub(crate) fn has_reached(&self, identity: LogIdentity, at: LogPosition) -> bool {
        self.position().is_some_and(|(known, position)| known == identity && position >= at)
    }

    /// Records that database reads see all transactions up to here, unless another identity is
    /// followed by now.
    pub(crate) fn note_visible(&self, identity: LogIdentity, at: LogPosition) {
        let _changes = self.changes();
        if self.identity.load(Ordering::Acquire) == identity.0 {
            self.visible.fetch_max(at.0, Ordering::AcqRel);
        }
    }

    /// Every new database read sees all transactions up to here.
    pub(crate) fn visible(&self) -> LogPosition {
        LogPosition(self.visible.load(Ordering::Acquire))
    }

    /// Waits until readers see every change up to here: returns true. Returns false if the log
    /// has another identity.
    pub(crate) async fn wait_for(&self, identity: LogIdentity, at: LogPosition) -> bool {
        loop {
            // Created before the position is read, so that no wake-up is missed.
            let reached = self.reached.notified();
            match self.position() {
                Some((known, position)) if known == identity && position >= at => return true,
                Some((known, _)) if known != identity => return false,
                _ => reached.await,
            }
        }
    }

    /// Waits until an identity has begun.
    pub(crate) async fn begun(&self) {
        loop {
            let began = self.reached.notified();
            if self.position().is_some() {
                return;
            }
            began.await;
        }
    }

    /// Renews the lease: everything committed before `since_ms` is applied. `wall_ms` is the same
    /// moment in milliseconds since 1970; only pages from stale memory show it.
    pub(crate) fn renew(&self, since_ms: u64, wall_ms: i64) {
        self.as_of_ms.store(wall_ms, Ordering::Relaxed);
        self.fresh_until_ms.store(since_ms + LEASE_MS, Ordering::Release);
    }

    /// Whether the lease expired at least a whole lease ago. False if it never began.
    pub(crate) fn is_long_expired(&self, now_ms: u64) -> bool {
        let until = self.fresh_until_ms.load(Ordering::Acquire);
        until != 0 && now_ms >= until + LEASE_MS
    }

    /// Records why the lease is not renewed from now on.
    pub(crate) fn note_not_fresh(&self, reason: NotFresh) {
        self.not_fresh.store(reason as u8, Ordering::Relaxed);
    }

    /// Why memory is not fresh; `None` if it is.
    pub(crate) fn not_fresh(&self, now_ms: u64) -> Option<NotFresh> {
        let noted = self.not_fresh.load(Ordering::Relaxed);
        let all = [NotFresh::Starting, NotFresh::Disconnected, NotFresh::Late, NotFresh::Busy];
        let reason = all.into_iter().find(|reason| *reason as u8 == noted);
        reason.filter(|_| !self.is_fresh(now_ms))
    }

    /// Whether the lease is valid: readers see what the databases hold, within moments.
    #[inline]
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        self.fresh_until_ms.load(Ordering::Acquire) > now_ms
    }

    /// When the lease was last renewed, in milliseconds since 1970. `None` if never.
    pub(crate) fn as_of_ms(&self) -> Option<i64> {
        Some(self.as_of_ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0)
    }

    /// Whether the heads of all shards are loaded.
    pub(crate) fn heads_known(&self) -> bool {
        self.heads_known.iter().all(|known| known.load(Ordering::Acquire))
    }

    /// Whether all heads of the shard are loaded. An author without a slot then has no posts.
    pub(super) fn heads_known_of(&self, shard: ShardId) -> bool {
        self.heads_flag(shard).is_some_and(|known| known.load(Ordering::Acquire))
    }

    pub(super) fn set_heads_known(&self, shard: ShardId, known: bool) {
        if let Some(flag) = self.heads_flag(shard) {
            flag.store(known, Ordering::Release);
        }
    }

    fn heads_flag(&self, shard: ShardId) -> Option<&AtomicBool> {
        let index = self.shards.iter().position(|known| *known == shard)?;
        self.heads_known.get(index)
    }
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::super::budget::Usage;
    use super::super::news::{Gap, NewsRange, Subject};
    use super::*;
    use crate::model::UserId;

    const HOME: ShardId = ShardId(0);

    fn log() -> FollowedLog {
        log_from(ChangePosition::after(LogPosition(10)))
    }

    fn log_from(start: ChangePosition) -> FollowedLog {
        let log = FollowedLog::new("log".into(), vec![HOME], mpsc::channel(1).0);
        log.news.begin(start, 0, &Usage::default());
        log.begin(LogIdentity(1), start);
        log
    }

    fn is_gap(log: &FollowedLog, since: ChangePosition) -> bool {
        let subjects = &[Subject::Author(UserId(1))];
        let (until, shards) = (LogPosition(u64::MAX), &[HOME][..]);
        let range = NewsRange { since, until, subjects, shards, horizon: None, limit: 1 };
        matches!(log.news.of(range), Err(Gap))
    }

    fn reached(log: &FollowedLog) -> ChangePosition {
        log.reached().unwrap().1
    }

    #[test]
    fn a_loss_is_one_gap_although_nothing_is_written_after_it() {
        let (log, other) = (log(), log());
        let before = reached(&log);
        assert!(!is_gap(&log, before));
        log.lose(HOME, 7, 0);
        let once = reached(&log);
        assert_eq!([before, once].map(|since| is_gap(&log, since)), [true, false]);
        log.lose(HOME, 7, 0);
        let twice = reached(&log);
        assert_eq!([once, twice].map(|since| is_gap(&log, since)), [true, false]);
        // Another node has not noticed it yet, and notices it later.
        assert!(!is_gap(&other, twice));
        other.lose(HOME, 9, 0);
        assert_eq!([twice, reached(&other)].map(|since| is_gap(&other, since)), [true, false]);
        assert!(!is_gap(&log, reached(&other)));
        log.advance(LogPosition(20));
        assert_eq!(reached(&log), ChangePosition::after(LogPosition(20)));
        assert!(is_gap(&log, once) && !is_gap(&log, reached(&log)));
    }

    #[test]
    fn a_start_is_a_gap_for_tokens_from_before_it_although_nothing_was_written() {
        let [first, second] = [3, 9].map(|mark| ChangePosition::after_loss(LogPosition(10), mark));
        let (first, second) = (log_from(first), log_from(second));
        for before in [ChangePosition::after(LogPosition(10)), reached(&first)] {
            assert!(is_gap(&second, before));
        }
        for log in [&first, &second] {
            assert!(!is_gap(log, reached(&second)));
        }
    }

    #[test]
    fn the_visible_position_is_that_of_the_followed_identity() {
        let log = log();
        log.note_visible(LogIdentity(2), LogPosition(90));
        assert_eq!(log.visible(), LogPosition(0));
        log.note_visible(LogIdentity(1), LogPosition(30));
        log.note_visible(LogIdentity(1), LogPosition(20));
        assert_eq!(log.visible(), LogPosition(30));
        log.begin(LogIdentity(2), ChangePosition::after(LogPosition(5)));
        log.note_visible(LogIdentity(1), LogPosition(40));
        assert_eq!(log.visible(), LogPosition(0));
    }
}
