//! How far one log has been followed, as readers see it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};

use super::Miss;
use crate::changes::{LogIdentity, LogPosition};
use crate::model::ShardId;

/// What was heard last of a log holds so long. Its server says something every second.
pub(crate) const LEASE_MS: u64 = 3_000;

/// One log that memory follows.
#[derive(Debug)]
pub(crate) struct FollowedLog {
    name: String,
    shards: Vec<ShardId>,
    misses: mpsc::Sender<Miss>,
    /// Whether wishes are heard.
    accepts_requests: AtomicBool,
    /// 0 while another history begins.
    identity: AtomicU64,
    position: AtomicU64,
    /// What is shown is of no later than this.
    announced: AtomicU64,
    /// Wakes those who wait for a position.
    reached: Notify,
    /// Until when all that was committed a moment before is taken to be in memory.
    fresh_until_ms: AtomicU64,
    /// When that was last so, in milliseconds since 1970.
    as_of_ms: AtomicI64,
    /// All up to here can be seen by whoever asks the databases; of the present history.
    visible: AtomicU64,
    /// Held by whoever asks the databases what can be seen.
    visibility_query: Mutex<()>,
    /// Whether the newest times of all its authors are known.
    heads_known: AtomicBool,
    pub(crate) prefill: Prefill,
    pub(crate) counters: Counters,
}

/// How much was filled of what is filled before anybody asks for it.
#[derive(Debug, Default)]
pub(crate) struct Prefill {
    planned: AtomicUsize,
    started: AtomicUsize,
    done: AtomicBool,
}

/// What happened at one log since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Transactions that were carried out.
    pub(crate) transactions: AtomicU64,
    /// Changes that were carried out on something that is kept.
    pub(crate) changes: AtomicU64,
    /// Histories that were started; more than one means that memory was lost.
    pub(crate) log_identities: AtomicU64,
    /// Wishes that were granted.
    pub(crate) fills: AtomicU64,
    /// Answers that came from too old a snapshot, or for nobody.
    pub(crate) fills_refused: AtomicU64,
    /// What was dropped to make room.
    pub(crate) evictions: AtomicU64,
    /// What the auditor compared with the database.
    pub(crate) audited: AtomicU64,
    /// What the auditor found different.
    pub(crate) mismatched: AtomicU64,
}

impl Prefill {
    /// Of so many authors so many are filled or about to be; done when no more will be, for want of
    /// authors or of room.
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
            visibility_query: Mutex::new(()),
            heads_known: AtomicBool::new(false),
            prefill: Prefill::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The shards it tells of.
    pub(crate) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    pub(super) fn request_fill(&self, miss: Miss) {
        if self.accepts_requests.load(Ordering::Relaxed) {
            // A full queue is no loss: the next reader wishes again.
            let _ = self.misses.try_send(miss);
        }
    }

    /// Whether wishes are heard from now on.
    pub(crate) fn accept_requests(&self, hears: bool) {
        self.accepts_requests.store(hears, Ordering::Relaxed);
    }

    /// Another history begins here; what was shown before is gone already.
    pub(crate) fn begin(&self, identity: LogIdentity, at: LogPosition) {
        self.identity.store(0, Ordering::Release);
        self.position.store(at.0, Ordering::Release);
        self.announced.store(at.0, Ordering::Release);
        self.visible.store(0, Ordering::Release);
        self.identity.store(identity.0, Ordering::Release);
        self.reached.notify_waiters();
    }

    /// What was committed here is about to be shown.
    pub(crate) fn announce(&self, at: LogPosition) {
        self.announced.store(at.0, Ordering::Release);
    }

    /// All up to here is shown.
    pub(crate) fn advance(&self, at: LogPosition) {
        self.position.store(at.0, Ordering::Release);
    }

    /// Wakes those who wait; after a few calls of [`FollowedLog::advance`].
    pub(crate) fn wake(&self) {
        self.reached.notify_waiters();
    }

    /// All up to here is shown, in this history; none while another one begins.
    pub(crate) fn position(&self) -> Option<(LogIdentity, LogPosition)> {
        self.with_identity(&self.position)
    }

    /// What was shown so far is of no later than this, in this history.
    pub(crate) fn announced(&self) -> Option<(LogIdentity, LogPosition)> {
        self.with_identity(&self.announced)
    }

    fn with_identity(&self, position: &AtomicU64) -> Option<(LogIdentity, LogPosition)> {
        let before = self.identity.load(Ordering::Acquire);
        let position = position.load(Ordering::Acquire);
        let after = self.identity.load(Ordering::Acquire);
        (before == after && before != 0).then_some((LogIdentity(before), LogPosition(position)))
    }

    /// Whether all up to here is shown, in this history.
    pub(crate) fn has_reached(&self, identity: LogIdentity, at: LogPosition) -> bool {
        self.position().is_some_and(|(known, position)| known == identity && position >= at)
    }

    /// The databases were found to show all up to here.
    pub(crate) fn note_visible(&self, at: LogPosition) {
        self.visible.fetch_max(at.0, Ordering::AcqRel);
    }

    /// All up to here can be seen by whoever asks the databases.
    pub(crate) fn visible(&self) -> LogPosition {
        LogPosition(self.visible.load(Ordering::Acquire))
    }

    /// The right to ask the databases what can be seen. Whoever waited for it looks first whether
    /// that is known by now.
    pub(crate) async fn visibility_lock(&self) -> MutexGuard<'_, ()> {
        self.visibility_query.lock().await
    }

    /// Returns when all up to here is shown, or when this is another history.
    pub(crate) async fn wait_for(&self, identity: LogIdentity, at: LogPosition) -> bool {
        loop {
            // Made before the state is read, so that no wake-up is lost.
            let reached = self.reached.notified();
            match self.position() {
                Some((known, position)) if known == identity && position >= at => return true,
                Some((known, _)) if known != identity => return false,
                _ => reached.await,
            }
        }
    }

    /// All that is committed by now was told.
    pub(crate) fn renew(&self, now_ms: u64, wall_ms: i64) {
        self.as_of_ms.store(wall_ms, Ordering::Relaxed);
        self.fresh_until_ms.store(now_ms + LEASE_MS, Ordering::Release);
    }

    /// Whether what is shown is what the databases hold, give or take moments.
    #[inline]
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        self.fresh_until_ms.load(Ordering::Acquire) > now_ms
    }

    /// When what is shown was last known to be whole, in milliseconds since 1970; none if never.
    pub(crate) fn as_of_ms(&self) -> Option<i64> {
        Some(self.as_of_ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0)
    }

    /// Whether an author of whom nothing is known has no posts.
    pub(crate) fn heads_known(&self) -> bool {
        self.heads_known.load(Ordering::Acquire)
    }

    pub(crate) fn set_heads_known(&self, known: bool) {
        self.heads_known.store(known, Ordering::Release);
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
