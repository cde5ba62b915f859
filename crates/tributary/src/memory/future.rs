//! The authors of one log that may have posts whose time had not come when memory learned of them.
//!
//! Such a post becomes visible without a change of the log. A request for news looks for it in the
//! tails of the marked authors only, so all other authors cost one look-up.
//!
//! Posts that were not dated ahead are *plain*. They are news at their position in the log. A node
//! whose clock or log lags can see a post as plain that another node hid. So a token is a gap if
//! its horizon is before the time of a plain post that it covers.

use std::collections::{HashMap, HashSet};

use crate::changes::LogPosition;
use crate::model::{ShardId, UserId};

/// About the bytes of a mark.
const MARK_BYTES: usize = 64;
/// Marks can take this fraction of the bytes of the news; beyond it, all authors count as marked.
const MARKS_SHARE: usize = 4;
/// Outdated marks are looked for at this number of marks, or at twice the number that were left.
const PRUNED_MIN: usize = 64;

/// Times are values of the time column.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The latest time of each marked author's posts that were dated ahead.
    latest: HashMap<UserId, i64>,
    /// The latest time of all plain posts.
    plain: i64,
    /// The time of the clock when the log began: older posts are plain.
    began: i64,
    /// The shards whose authors are all marked or known not to need it.
    known: HashSet<ShardId>,
    /// Shards of which a change was unknown: its position, and the time of the clock.
    doubts: HashMap<ShardId, (LogPosition, i64)>,
    is_crowded: bool,
    pruned_at: usize,
}

impl Marks {
    pub(super) fn begin(clock: i64) -> Self {
        Self { plain: i64::MIN, began: clock, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.latest.len() * MARK_BYTES
    }

    /// The latest time of all plain posts so far.
    pub(super) fn plain(&self) -> i64 {
        self.plain
    }

    /// Notes a post that became visible while the clock showed `clock`.
    pub(super) fn note(&mut self, author: UserId, time: i64, clock: i64) {
        if time > clock {
            self.mark(author, time);
        } else {
            self.plain = self.plain.max(time);
        }
    }

    /// The author may have any posts.
    pub(super) fn doubt_author(&mut self, author: UserId) {
        self.mark(author, i64::MAX);
    }

    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        self.latest.clear();
    }

    /// All authors of the shard may have any posts.
    pub(super) fn doubt_shard(&mut self, shard: ShardId, at: LogPosition, clock: i64) {
        self.known.remove(&shard);
        self.doubts.insert(shard, (at, clock));
    }

    fn mark(&mut self, author: UserId, time: i64) {
        if !self.is_crowded {
            let latest = self.latest.entry(author).or_insert(time);
            *latest = time.max(*latest);
        }
    }

    /// Marks the authors of loaded shards by the times of their newest posts. The load contains
    /// all changes up to `low`.
    pub(super) fn load(
        &mut self,
        shards: &[ShardId],
        low: LogPosition,
        heads: impl Iterator<Item = (ShardId, UserId, i64)>,
    ) {
        for shard in shards {
            if self.doubts.get(shard).is_none_or(|(at, _)| *at <= low) {
                self.known.insert(*shard);
            }
        }
        for (shard, author, time) in heads {
            if time > self.since(shard) {
                self.mark(author, time);
            }
        }
    }

    /// Posts of this shard up to this time are plain, unless they are marked.
    fn since(&self, shard: ShardId) -> i64 {
        self.doubts.get(&shard).map_or(self.began, |(_, clock)| self.began.max(*clock))
    }

    /// Whether a post of the shard that a token with this horizon hides may be plain here.
    pub(super) fn may_be_unmarked(&self, shard: ShardId, horizon: i64) -> bool {
        horizon < self.since(shard)
    }

    /// Whether the author may have a post at this time or later that was dated ahead.
    pub(super) fn may_have(&self, author: UserId, shard: ShardId, time: i64) -> bool {
        self.is_crowded
            || !self.known.contains(&shard)
            || self.latest.get(&author).is_some_and(|latest| *latest >= time)
    }

    /// Drops marks up to `floor`, which no valid token needs, and all marks if they are too many.
    pub(super) fn prune(&mut self, floor: i64, bytes_max: usize) {
        if self.latest.len() < self.pruned_at.max(PRUNED_MIN) {
            return;
        }
        self.latest.retain(|_, latest| *latest > floor);
        self.pruned_at = self.latest.len() * 2;
        if self.bytes() > bytes_max / MARKS_SHARE {
            self.latest = HashMap::new();
            self.is_crowded = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: ShardId = ShardId(0);
    const ANN: UserId = UserId(1);

    fn known(began: i64) -> Marks {
        let mut marks = Marks::begin(began);
        assert!(marks.may_have(ANN, HOME, i64::MAX), "before the newest times are loaded");
        marks.load(&[HOME], LogPosition(5), [(HOME, UserId(7), began + 100)].into_iter());
        marks
    }

    #[test]
    fn authors_of_posts_that_were_dated_ahead_are_marked() {
        let mut marks = known(50);
        marks.note(ANN, 60, 60);
        assert!(!marks.may_have(ANN, HOME, 0) && marks.plain() == 60);
        assert!(marks.may_have(UserId(7), HOME, 150) && !marks.may_have(UserId(7), HOME, 151));
        marks.note(ANN, 90, 70);
        marks.note(ANN, 80, 70);
        assert!(marks.may_have(ANN, HOME, 90) && !marks.may_have(ANN, HOME, 91));
        assert!(marks.may_be_unmarked(HOME, 49) && !marks.may_be_unmarked(HOME, 50));
        marks.doubt_author(ANN);
        assert!(marks.may_have(ANN, HOME, i64::MAX));
    }

    #[test]
    fn a_doubt_about_a_shard_ends_with_a_later_load() {
        let mut marks = known(50);
        marks.doubt_shard(HOME, LogPosition(9), 70);
        assert!(marks.may_have(ANN, HOME, i64::MAX) && marks.may_be_unmarked(HOME, 69));
        marks.load(&[HOME], LogPosition(8), std::iter::empty());
        assert!(marks.may_have(ANN, HOME, i64::MAX), "the load may lack the change");
        marks.load(&[HOME], LogPosition(9), [(HOME, ANN, 70)].into_iter());
        assert!(!marks.may_have(ANN, HOME, 60));
    }

    #[test]
    fn marks_stay_within_their_share_of_the_bytes() {
        let mut marks = known(0);
        for author in 0..1_000 {
            marks.note(UserId(author), 10 + author.cast_signed(), 1);
            marks.prune(900, 1 << 20);
        }
        assert!(marks.latest.len() <= 200 && marks.may_have(UserId(999), HOME, 1_000));
        for author in 0..1_000 {
            marks.note(UserId(author), 10_000, 1);
            marks.prune(900, 4 * PRUNED_MIN * MARK_BYTES);
        }
        assert!(marks.bytes() == 0 && marks.may_have(UserId(5_000), HOME, i64::MAX));
    }
}
