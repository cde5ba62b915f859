//! The changes of a transaction that is still open. Memory use is bounded for a transaction of any
//! size. Pure.

use std::collections::{BTreeSet, HashSet};

use super::Change;
use crate::model::{PostId, ShardId, UserId, UserList};

/// Most rows that are kept one by one. For a larger transaction only the touched authors and
/// readers are kept.
const ROWS_MAX: usize = 20_000;
/// Most bytes of text in these rows.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Most authors and readers. Beyond this the shards of all of them become unknown.
const USERS_MAX: usize = 100_000;

/// The changes of an open transaction so far.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    rows: Vec<(ShardId, Change)>,
    text_bytes: usize,
    /// Whether only users are kept from now on.
    coarse: bool,
    users: HashSet<(ShardId, Touched)>,
    /// A change is wider than one user, because columns are absent from a row image.
    wide: bool,
    /// Shards of which any row may have changed.
    shards: BTreeSet<ShardId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Touched {
    Author(UserId),
    Reader(UserId),
    /// The author of this post.
    Post(PostId),
    /// All readers.
    Readers,
}

impl Pending {
    /// Adds the change of a row whose image is without the columns that name its user.
    pub(crate) fn push_wide(&mut self, shard: ShardId, change: Change) {
        self.wide = true;
        self.push(shard, change);
    }

    /// Whether [`Pending::push_wide`] was called since the last call of this function.
    pub(crate) fn take_wide(&mut self) -> bool {
        std::mem::take(&mut self.wide)
    }

    pub(crate) fn push(&mut self, shard: ShardId, change: Change) {
        if self.shards.contains(&shard) {
            return;
        }
        if change == Change::ShardUnknown {
            self.shards.insert(shard);
            return;
        }
        if self.coarse {
            self.note(shard, &change);
            return;
        }
        if let Change::Post(post) | Change::PostEdited(post) = &change {
            self.text_bytes += post.content.len();
        }
        self.rows.push((shard, change));
        if self.rows.len() > ROWS_MAX || self.text_bytes > TEXT_BYTES_MAX {
            self.coarsen();
        }
    }

    /// Replaces the rows by the users they belong to. Needed if the rows may be rolled back,
    /// commit later, or are too many.
    pub(crate) fn coarsen(&mut self) {
        self.coarse = true;
        for (shard, change) in std::mem::take(&mut self.rows) {
            self.note(shard, &change);
        }
    }

    fn note(&mut self, shard: ShardId, change: &Change) {
        let user = match change {
            Change::Post(post) | Change::PostEdited(post) => Touched::Author(post.key.author),
            Change::PostGone(key) => Touched::Author(key.author),
            Change::AuthorUnknown(author) => Touched::Author(*author),
            Change::Follow(follow) | Change::Unfollow(follow) => Touched::Reader(follow.follower),
            Change::Hide(hide) | Change::Unhide(hide) => {
                if hide.list == UserList::Blocks {
                    self.users.insert((shard, Touched::Author(hide.owner)));
                }
                Touched::Reader(hide.owner)
            }
            Change::ReaderUnknown(reader) => Touched::Reader(*reader),
            Change::PostUnknown(post) => Touched::Post(*post),
            Change::ReadersUnknown => Touched::Readers,
            Change::ShardUnknown => return,
        };
        self.users.insert((shard, user));
        if self.users.len() > USERS_MAX {
            self.shards.extend(self.users.drain().map(|(shard, _)| shard));
        }
    }

    /// The number of users that are kept instead of rows.
    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    /// Adds the changes of another transaction.
    pub(crate) fn append(&mut self, other: Self) {
        for (shard, change) in other.finish() {
            self.push(shard, change);
        }
    }

    /// All changes. An unknown shard has no other change than [`Change::ShardUnknown`].
    pub(crate) fn finish(self) -> Vec<(ShardId, Change)> {
        let Self { mut rows, users, shards, .. } = self;
        let mut users: Vec<(ShardId, Touched)> = users.into_iter().collect();
        users.sort_unstable();
        rows.extend(users.into_iter().map(|(shard, user)| match user {
            Touched::Author(author) => (shard, Change::AuthorUnknown(author)),
            Touched::Reader(reader) => (shard, Change::ReaderUnknown(reader)),
            Touched::Post(post) => (shard, Change::PostUnknown(post)),
            Touched::Readers => (shard, Change::ReadersUnknown),
        }));
        if !shards.is_empty() {
            rows.retain(|(shard, _)| !shards.contains(shard));
        }
        rows.extend(shards.into_iter().map(|shard| (shard, Change::ShardUnknown)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Follow;

    const SHARD: ShardId = ShardId(1);

    fn follow(follower: u64, followee: u64) -> Change {
        Change::Follow(Follow { follower: UserId(follower), followee: UserId(followee) })
    }

    #[test]
    fn a_large_transaction_keeps_only_its_users() {
        let mut pending = Pending::default();
        for row in 0..=20_000 {
            pending.push(SHARD, follow(row % 3, row));
        }
        let readers = (0..3).map(|reader| (SHARD, Change::ReaderUnknown(UserId(reader))));
        assert_eq!(pending.finish(), readers.collect::<Vec<_>>());
    }

    #[test]
    fn a_huge_transaction_keeps_only_its_shards() {
        let mut pending = Pending::default();
        for row in 0..=100_000 {
            pending.push(SHARD, follow(row, 1));
        }
        assert_eq!(pending.finish(), [(SHARD, Change::ShardUnknown)]);
    }

    #[test]
    fn an_unknown_shard_has_no_other_changes() {
        let mut pending = Pending::default();
        pending.push(SHARD, follow(1, 2));
        pending.push(ShardId(2), follow(1, 2));
        pending.push(SHARD, Change::ShardUnknown);
        pending.push(SHARD, follow(3, 4));
        let expected = [(ShardId(2), follow(1, 2)), (SHARD, Change::ShardUnknown)];
        assert_eq!(pending.finish(), expected);
    }
}
