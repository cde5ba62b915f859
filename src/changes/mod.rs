//! What a log of changes says, in words that are the same for every kind of shard. Pure.
//!
//! Each server, and each SQLite file, has one log. Memory follows it: what stands in memory is what
//! the database held at a position in its log.

pub(crate) mod apply;

use crate::model::{Follow, Post, PostKey, ShardId, UserId};

/// A place in one history of one log; it rises with every commit. The end of a transaction, or any
/// place behind it and before the end of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

/// Which log it is. Positions in two histories cannot be compared: a server that took over, or one
/// whose log was reset, begins another one. The same server after a restart goes on with its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History(pub u64);

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
        history: History,
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
