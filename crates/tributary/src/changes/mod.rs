//! The changes that a log delivers, in one vocabulary for all kinds of shard. Pure.
//!
//! Each server, and each SQLite file, has one log. Memory follows it: memory holds the state of
//! the database at a position in its log.

pub(crate) mod assemble;
pub(crate) mod binlog;
mod bytes;
pub(crate) mod columns;
pub(crate) mod gtid;
mod metadata;
pub(crate) mod pending;
pub(crate) mod reach;
pub(crate) mod rows;
pub(crate) mod statement;
pub(crate) mod tables;
mod tokens;

use std::cmp::Ordering;
use std::time::Instant;

use crate::model::{Follow, Hide, Post, PostId, PostKey, ShardId, UserId};

/// Low bits of a position that hold the offset in a file (up to one terabyte). The file number is
/// in the bits above them.
const OFFSET_BITS: u32 = 40;
/// The largest file number that a position can hold. At one new file per second it is reached
/// after half a year.
const FILE_MAX: u32 = (1 << (64 - OFFSET_BITS)) - 1;

/// A position in a log. It is comparable only within one [`LogIdentity`] and rises with every
/// commit. It is the end of a transaction, or any value between that and the end of the next
/// transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The number in the name of a log file: 12 for `mariadb-bin.000012`.
    pub fn file_number(name: &str) -> Option<u32> {
        let (_, digits) = name.rsplit_once('.')?;
        let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| all)
    }

    /// A position in one of the numbered files of a server's log. A file number or an offset that
    /// is too large is replaced by the largest one that fits.
    pub fn in_file(number: u32, offset: u64) -> Self {
        let offset = offset.min((1 << OFFSET_BITS) - 1);
        Self((u64::from(number.min(FILE_MAX)) << OFFSET_BITS) | offset)
    }

    /// The bytes from this position to `end`. If `end` is in a later file, only the bytes in that
    /// file are known.
    pub fn bytes_until(self, end: Self) -> u64 {
        let ((file, offset), (end_file, end_offset)) =
            (self.file_and_offset(), end.file_and_offset());
        match file.cmp(&end_file) {
            Ordering::Less => end_offset,
            Ordering::Equal => end_offset.saturating_sub(offset),
            Ordering::Greater => 0,
        }
    }

    /// The file number, and the offset in that file in bytes.
    pub fn file_and_offset(self) -> (u32, u64) {
        let number = u32::try_from(self.0 >> OFFSET_BITS).unwrap_or(FILE_MAX);
        (number, self.0 & ((1 << OFFSET_BITS) - 1))
    }
}

/// A position between two changes of a log: after all transactions up to `after`, and after the
/// first `changes` changes of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChangePosition {
    pub(crate) after: LogPosition,
    pub(crate) changes: u32,
}

impl ChangePosition {
    /// The position after all changes of the transactions up to this one.
    pub(crate) fn after(at: LogPosition) -> Self {
        Self { after: at, changes: 0 }
    }

    /// The position after changes without a transaction, while the log is at `at`. The mark is the
    /// time when they were noticed, in seconds since 1970, so that those of all nodes can be
    /// compared. The next transaction of the log must end at `at + 2` or later, as it does in a
    /// log whose positions are offsets.
    pub(crate) fn after_loss(at: LogPosition, mark: u32) -> Self {
        Self { after: at, changes: mark }
    }

    /// The position after the change with this index of the transaction that ends at `at`.
    pub(crate) fn within(at: LogPosition, index: u32) -> Self {
        Self { after: LogPosition(at.0.saturating_sub(1)), changes: index.saturating_add(1) }
    }
}

/// Identifies one log. Positions of two logs cannot be compared. Another server that takes over
/// has another identity. A server's log gets a new one when it is reset, a SQLite file when the
/// feed finds that a backup was restored. A restart of the server does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogIdentity(pub u64);

/// A change of one row, or the report that something changed in an unknown way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The post has become visible.
    Post(Post),
    /// The post was visible before under the same key, and has this text now.
    PostEdited(Post),
    /// The post is no longer visible.
    PostGone(PostKey),
    /// The follower follows the followee.
    Follow(Follow),
    /// The follower no longer follows the followee.
    Unfollow(Follow),
    /// The owner mutes or blocks the user.
    Hide(Hide),
    /// The owner no longer mutes or blocks the user.
    Unhide(Hide),
    /// The posts of this author changed in a way that the log does not contain, or the author's
    /// handle may have changed. Copies of them must be read again.
    AuthorUnknown(UserId),
    /// The post with this id changed or is gone, and the log does not contain its author. The
    /// author is the same as before, and no head rises.
    PostUnknown(PostId),
    /// The follow list, mutes or blocks of this reader changed in a way that the log does not
    /// contain.
    ReaderUnknown(UserId),
    /// The follow list or the mutes of any reader of the shard may have changed.
    ReadersUnknown,
    /// Any row of the shard may have changed in a way that the log does not contain.
    ShardUnknown,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The end of the transaction in the log.
    pub at: LogPosition,
    /// The changes of served tables, in order, each with its shard. Often empty. They may name
    /// users that the shard does not own.
    pub changes: Vec<(ShardId, Change)>,
}

/// An event of the change feed of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// The feed starts, or restarts, at this position. Always the first event. Earlier
    /// transactions may never have been delivered, so copies that were made before are void.
    Began {
        /// The log that is followed.
        identity: LogIdentity,
        /// The position where reading starts.
        at: LogPosition,
    },
    /// The log has another identity from now on and is otherwise the same.
    Renamed {
        /// The new identity.
        identity: LogIdentity,
    },
    /// A transaction, in log order. After a reconnect the feed may deliver it again.
    Commit(Commit),
    /// From now on memory must hold nothing of exactly these shards of the log: the log does not
    /// contain the changes of their tables in a usable form. None are excluded at first.
    Excluded(Vec<ShardId>),
    /// Any row of the shard may have changed without a transaction in the log.
    ShardUnknown(ShardId),
    /// All transactions that were committed before `since` are delivered. Sent once a second while
    /// the feed keeps up.
    Alive {
        /// A moment in the past.
        since: Instant,
    },
    /// The feed is connected, but [`FeedEvent::Alive`] cannot be sent, for this reason.
    Late(String),
    /// The feed is interrupted, for this reason. It retries by itself.
    Lost(String),
}

/// Which transactions of the log a database snapshot contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// The snapshot contains every transaction up to this position, and none after it.
    Exact(LogPosition),
    /// The snapshot contains every transaction up to `low`, none after `high`, and possibly some
    /// in between.
    Window {
        /// Every transaction that ends here or earlier is in the snapshot.
        low: LogPosition,
        /// No transaction that ends after this position is in the snapshot.
        high: LogPosition,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_rise_with_the_file_and_then_with_the_offset() {
        let at = LogPosition::in_file;
        let rising = [at(1, 4), at(1, u64::from(u32::MAX) + 7), at(2, 4), at(16_777_215, 0)];
        assert!(rising.is_sorted_by(|a, b| a < b));
        for position in rising {
            let (number, offset) = position.file_and_offset();
            assert_eq!(at(number, offset), position);
        }
        assert_eq!(at(u32::MAX, u64::MAX), LogPosition(u64::MAX));
    }

    #[test]
    fn the_file_number_is_the_suffix_of_its_name() {
        assert_eq!(LogPosition::file_number("mariadb-bin.000012"), Some(12));
        assert_eq!(LogPosition::file_number("a.b.1000000"), Some(1_000_000));
        for bad in ["", "binlog", "binlog.", "binlog.index", "binlog.+1", "binlog.00001x"] {
            assert_eq!(LogPosition::file_number(bad), None, "{bad}");
        }
    }
}
