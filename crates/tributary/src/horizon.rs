//! The horizon: home timelines have the posts up to it. A post that is dated further ahead of the
//! clock is hidden until the horizon reaches its time. Without this rule, one post with a wrong
//! date would be the newest post of a timeline for as long as the date is wrong.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::clock;
use crate::model::{ID_MAX, PostId, PostKey, UserId};
use crate::moment::PostTimes;

/// How far ahead of the clock a post may be dated and still be shown at once: clocks of servers
/// can differ.
pub(crate) const AHEAD_MS: i64 = 60_000;
/// The horizon advances in steps of this length, since a date with a zone is slow to compute.
const STEP_MS: i64 = 10;

/// The clock of home timelines. It never goes back, or posts would disappear again.
#[derive(Debug)]
pub(crate) struct Horizon {
    /// Whether posts of the future are hidden.
    hides: bool,
    times: PostTimes,
    /// The horizon as a value of the time column, and the time of the clock that gave it.
    newest: AtomicI64,
    read_at: AtomicI64,
    started: Instant,
    /// When [`Horizon::at`] reads the clock again, in milliseconds since the start.
    reads_again: AtomicU64,
}

impl Horizon {
    pub(crate) fn new(hides: bool, times: PostTimes) -> Self {
        let (newest, read_at) = (AtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN));
        let (started, reads_again) = (Instant::now(), AtomicU64::new(0));
        Self { hides, times, newest, read_at, started, reads_again }
    }

    /// The last key that home timelines may show now. `None` if they show all posts.
    pub(crate) fn now(&self) -> Option<PostKey> {
        self.hides.then(|| horizon_at(self.reach(clock::now_ms())))
    }

    /// As [`Horizon::now`], for a caller that knows that it is `now`. The clock is read once in
    /// each step only.
    pub(crate) fn at(&self, now: Instant) -> Option<PostKey> {
        let since_ms = now.saturating_duration_since(self.started).as_millis();
        let since_ms = u64::try_from(since_ms).unwrap_or(u64::MAX);
        if since_ms < self.reads_again.load(Ordering::Acquire) {
            return self.hides.then(|| horizon_at(self.newest.load(Ordering::Relaxed)));
        }
        let horizon = self.now();
        self.reads_again.store(since_ms + STEP_MS.unsigned_abs(), Ordering::Release);
        horizon
    }

    /// Whether a post is dated beyond the horizon, also if such posts are shown.
    pub(crate) fn is_beyond(&self, post: PostKey) -> bool {
        post.time > self.reach(clock::now_ms())
    }

    /// The latest horizon so far: a value of the time column.
    fn reach(&self, now_ms: i64) -> i64 {
        if now_ms < self.read_at.load(Ordering::Acquire).saturating_add(STEP_MS) {
            return self.newest.load(Ordering::Relaxed);
        }
        let time = self.times.stored(now_ms.saturating_add(AHEAD_MS));
        let before = self.newest.fetch_max(time, Ordering::AcqRel);
        self.read_at.fetch_max(now_ms, Ordering::AcqRel);
        time.max(before)
    }

    /// When the horizon reaches a post of this time, in milliseconds since 1970 (UTC).
    pub(crate) fn reaches_ms(&self, time: i64) -> i64 {
        self.times.epoch_ms(time).saturating_sub(AHEAD_MS).saturating_add(STEP_MS)
    }

    /// Milliseconds from now to a time in milliseconds since 1970 (UTC).
    pub(crate) fn ms_until(epoch_ms: i64) -> u64 {
        epoch_ms.saturating_sub(clock::now_ms()).max(0).unsigned_abs()
    }

    /// A second from now, in milliseconds since 1970 (UTC).
    pub(crate) fn soon_ms() -> i64 {
        clock::now_ms().saturating_add(1_000)
    }

    /// Milliseconds between two horizons.
    pub(crate) fn ms_between(&self, earlier: PostKey, later: PostKey) -> i64 {
        self.times.epoch_ms(later.time).saturating_sub(self.times.epoch_ms(earlier.time))
    }
}

/// The last possible key with this time.
pub(crate) fn horizon_at(time: i64) -> PostKey {
    PostKey { time, post: PostId(ID_MAX), author: UserId(ID_MAX) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_horizon_is_a_minute_ahead_and_never_goes_back() {
        for unit in ["ms", "s", "us", "datetime", "datetime(3)"] {
            let times =
                PostTimes { unit: unit.parse().unwrap(), zone: "Europe/Berlin".parse().unwrap() };
            let horizon = Horizon::new(true, times.clone());
            let now_ms = 1_700_000_000_000;
            let first = horizon.reach(now_ms);
            assert_eq!(first, times.stored(now_ms + AHEAD_MS));
            assert_eq!(horizon.reach(now_ms - 3_600_000), first, "the clock was set back");
            let later = horizon.reach(now_ms + 5_000);
            assert!(later > first, "{unit}");
            // A post is visible at the time that is reported for it, and not long before.
            let due = horizon.reaches_ms(later);
            assert!((now_ms + 3_990..=now_ms + 5_010).contains(&due), "{unit}: {due}");
            assert!(times.stored(due + AHEAD_MS) >= later);
        }
        let shows = Horizon::new(false, PostTimes::MILLISECONDS);
        assert_eq!(shows.now(), None);
        let now_ms = clock::now_ms();
        assert!(!shows.is_beyond(horizon_at(now_ms)));
        assert!(shows.is_beyond(horizon_at(now_ms + 2 * AHEAD_MS)));
    }

    #[test]
    fn the_clock_is_read_once_in_each_step() {
        let horizon = Horizon::new(true, PostTimes::MILLISECONDS);
        let (start, step) = (Instant::now(), Duration::from_millis(STEP_MS.unsigned_abs()));
        let at = |now| horizon.at(now).map(|key| key.time);
        for (since_ms, now, read_at) in
            [(0, start, 0), (40, start, 0), (50, start + step, 50), (90, start + step, 50)]
        {
            clock::set_ms(Some(1_700_000_000_000 + since_ms));
            assert_eq!(at(now), Some(1_700_000_000_000 + read_at + AHEAD_MS), "{since_ms}");
        }
        clock::set_ms(None);
    }
}
