//! Keeps the changes of the log for requests for what is new.

use std::collections::BTreeSet;

use super::Applier;
use crate::changes::{Change, ChangePosition, LogPosition};
use crate::clock;
use crate::memory::{NewsChange, Slot, Subject};
use crate::model::{Hide, ShardId, UserList};

/// A change with its index in the transaction.
pub(super) type IndexedNews = (u32, Subject, NewsChange);

/// The subjects of these changes, each once for changes in a row.
pub(super) fn subjects(news: &[IndexedNews]) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = news.iter().map(|(_, subject, _)| *subject).collect();
    subjects.dedup();
    subjects
}

impl Applier {
    /// The changes of a transaction that readers can see. The same transaction has the same indexes
    /// on every node, except for unknown changes: they come last, so that a position within the
    /// transaction is before them.
    pub(super) fn news(&self, changes: &[(ShardId, Change)]) -> Vec<IndexedNews> {
        let all = (0..).zip(changes).flat_map(|(index, (shard, change))| {
            let own = self.subject_of(*shard, change);
            let unblocked = own.is_some().then(|| unblocked(change)).flatten();
            own.into_iter().chain(unblocked).map(move |(subject, change)| (index, subject, change))
        });
        let (mut unknown, mut known): (Vec<IndexedNews>, _) =
            all.partition(|(.., change)| matches!(change, NewsChange::Unknown));
        // An unknown shard has no other changes here, so those of others have other indexes.
        if changes.iter().any(|(_, change)| *change == Change::ShardUnknown) {
            let shards: BTreeSet<ShardId> = changes.iter().map(|(shard, _)| *shard).collect();
            let all =
                shards.into_iter().map(|shard| (0, Subject::Shard(shard), NewsChange::Unknown));
            unknown = all.collect();
        }
        known.extend(unknown.into_iter().map(|(_, subject, change)| (u32::MAX, subject, change)));
        known
    }

    pub(super) fn add_news(&self, at: LogPosition, news: Vec<IndexedNews>) {
        if !news.is_empty() {
            let limit = (&self.memory.budget().news, self.memory.news_bytes_max());
            self.log().news.add((at, self.clock()), news, limit);
        }
    }

    /// Any row of the shard may have changed without a transaction.
    pub(super) fn lose_news(&self, shard: ShardId) {
        self.log().lose(shard, now_s(), self.clock());
        self.memory.subscribers().wake_all();
    }

    /// The position from which news are known. Rows may have changed before without a transaction,
    /// so tokens from before are a gap, also those at the same position of the log.
    pub(super) fn start_of_news(&self, at: LogPosition) -> ChangePosition {
        match self.source.logs_all_changes() {
            true => ChangePosition::after(at),
            false => ChangePosition::after_loss(at, now_s()),
        }
    }

    /// Finds the authors of posts of the future among the newest posts of all authors.
    pub(super) fn load_news(&self, shards: &[ShardId], low: LogPosition, heads: &[(Slot, i64)]) {
        let heads = heads.iter().map(|(slot, time)| {
            let author = self.memory.user(*slot);
            (self.memory.placement().shard_of(author), author, *time)
        });
        self.log().news.load(shards, low, heads, &self.memory.budget().news);
    }

    /// The time of the clock as a value of the time column.
    pub(super) fn clock(&self) -> i64 {
        self.memory.stored_time(clock::now_ms())
    }

    /// `None` for changes that no reader sees: the shard does not own the user, or is excluded.
    fn subject_of(&self, shard: ShardId, change: &Change) -> Option<(Subject, NewsChange)> {
        let (subject, change) = match change {
            Change::Post(post) => {
                let news = NewsChange::Post(self.memory.tail_post(post));
                (Subject::Author(post.key.author), news)
            }
            Change::PostEdited(post) => {
                let news = NewsChange::Edited(self.memory.tail_post(post));
                (Subject::Author(post.key.author), news)
            }
            Change::PostGone(key) => {
                (Subject::Author(key.author), NewsChange::Gone((key.time, key.post.0)))
            }
            Change::Follow(follow) => {
                (Subject::Reader(follow.follower), NewsChange::Follow(follow.followee))
            }
            Change::Unfollow(follow) => {
                (Subject::Reader(follow.follower), NewsChange::Unfollow(follow.followee))
            }
            Change::Hide(hide) => {
                (Subject::Reader(hide.owner), NewsChange::Hide(hide.list, hide.user))
            }
            Change::Unhide(hide) => {
                (Subject::Reader(hide.owner), NewsChange::Unhide(hide.list, hide.user))
            }
            Change::AuthorUnknown(user) => (Subject::Author(*user), NewsChange::Unknown),
            Change::ReaderUnknown(user) => (Subject::Reader(*user), NewsChange::Unknown),
            Change::ReadersUnknown => (Subject::Readers(shard), NewsChange::Unknown),
            Change::PostUnknown(_) | Change::ShardUnknown => {
                (Subject::Shard(shard), NewsChange::Unknown)
            }
        };
        let owner = match subject {
            Subject::Author(user) | Subject::Reader(user) => self.memory.placement().shard_of(user),
            _ => shard,
        };
        (owner == shard && !self.memory.excludes(shard)).then_some((subject, change))
    }
}

/// The change for a user that an author no longer blocks: the author's earlier posts are visible.
fn unblocked(change: &Change) -> Option<(Subject, NewsChange)> {
    match change {
        Change::Unhide(Hide { list: UserList::Blocks, owner, user }) => {
            Some((Subject::Blocked(*user), NewsChange::Unhide(UserList::Blocks, *owner)))
        }
        _ => None,
    }
}

/// The time in seconds since 1970.
fn now_s() -> u32 {
    u32::try_from(clock::now_ms() / 1_000).unwrap_or(u32::MAX)
}
