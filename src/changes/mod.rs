//! What a log of changes says, in words that are the same for every kind of shard. Pure.
//!
//! Each server, and each SQLite file, has one log. Memory follows it: what stands in memory is what
//! the database held at a position in its log.

pub(crate) mod apply;
pub(crate) mod assemble;
pub(crate) mod binlog;
mod bytes;
mod columns;
pub mod gtid;
mod pending;
pub(crate) mod rows;
mod statement;

use crate::model::{Follow, Post, PostKey, ShardId, UserId};

/// Bits of a position that hold the place in a file: a terabyte. The file's number is above them.
const OFFSET_BITS: u32 = 40;
/// The largest number of a file that a position can hold: at one file a second, half a year.
const FILE_MAX: u32 = (1 << (64 - OFFSET_BITS)) - 1;

/// A place in one identity of one log; it rises with every commit. The end of a transaction, or any
/// place behind it and before the end of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// A place in one of the numbered files that a server's log consists of. What is too large for
    /// a position stays at the largest one there is.
    pub fn in_file(number: u32, offset: u64) -> Self {
        let offset = offset.min((1 << OFFSET_BITS) - 1);
        Self((u64::from(number.min(FILE_MAX)) << OFFSET_BITS) | offset)
    }

    /// The number of the file, and the place in it.
    pub fn file_and_offset(self) -> (u32, u64) {
        let number = u32::try_from(self.0 >> OFFSET_BITS).unwrap_or(FILE_MAX);
        (number, self.0 & ((1 << OFFSET_BITS) - 1))
    }
}

/// The number in the name of a log file: 12 of `mariadb-bin.000012`.
pub fn file_number(name: &str) -> Option<u32> {
    let (_, digits) = name.rsplit_once('.')?;
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| all)
}

/// Which log it is. Positions in two histories cannot be compared: a server that took over, or one
/// whose log was reset, begins another one. The same server after a restart goes on with its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogIdentity(pub u64);

/// What happened to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The post can be seen from now on, with this text: it is new, or it was changed.
    Post(Post),
    /// The post cannot be seen any more.
    PostGone(PostKey),
    /// One user follows another from now on.
    Follow(Follow),
    /// One user follows another no more.
    Unfollow(Follow),
    /// Something happened to this author's posts that the log does not tell, or the author is called
    /// otherwise from now on.
    AuthorUnknown(UserId),
    /// Something happened to this reader's follow list that the log does not tell.
    ReaderUnknown(UserId),
    /// Something happened to any of the shard's rows that the log does not tell.
    ShardUnknown,
}

/// A transaction that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its end in the log.
    pub at: LogPosition,
    /// What it changed in tables that are served, in order, and on which shard; often nothing.
    /// Users that the shard does not own are among them.
    pub changes: Vec<(ShardId, Change)>,
}

/// What whoever follows a log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// The log is read from here on. Nothing is known of what came before, so whatever was read
    /// earlier is void. Always the first event.
    Began {
        /// The log.
        identity: LogIdentity,
        /// Where reading begins.
        at: LogPosition,
    },
    /// A transaction; in the log's order, perhaps again after the link was lost.
    Commit(Commit),
    /// All that was in the log a moment ago was told. Comes every second at least while nothing is
    /// wrong.
    Alive,
    /// Nothing more is told for now; why.
    Lost(String),
}

/// How what was read from a database compares with its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// All transactions up to here were seen, and none behind.
    Exact(LogPosition),
    /// All transactions up to `low` were seen, none behind `high`, and of those between any.
    Window {
        /// Whatever ends here or before was seen.
        low: LogPosition,
        /// Whatever ends behind this was not.
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
    fn files_are_numbered_by_their_ending() {
        assert_eq!(file_number("mariadb-bin.000012"), Some(12));
        assert_eq!(file_number("a.b.1000000"), Some(1_000_000));
        for bad in ["", "binlog", "binlog.", "binlog.index", "binlog.+1", "binlog.00001x"] {
            assert_eq!(file_number(bad), None, "{bad}");
        }
    }
}
