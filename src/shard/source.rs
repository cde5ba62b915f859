//! Logs of changes, and reads whose place in the log is known: what memory is filled from.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::mysql::MySqlSource;
use super::sqlite::SqliteSource;
use super::{Deadline, ShardError};
use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::model::{Post, ShardId, UserId};

/// Something that has one log: a server with the shards on it, or one SQLite file.
#[derive(Debug)]
pub(crate) enum Source {
    /// A MySQL or MariaDB server.
    MySql(MySqlSource),
    /// A file.
    Sqlite(SqliteSource),
}

/// A request to know all of something about one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillRequest {
    /// The shard that owns the user.
    pub shard: ShardId,
    /// Who posted, or who reads.
    pub user: UserId,
    /// What is to be known.
    pub target: FillTarget,
}

/// What is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillTarget {
    /// The newest `depth` posts, and whether there are more.
    Tail {
        /// So many posts.
        depth: u32,
    },
    /// All users that are followed, if they are at most `max`.
    Follows {
        /// So many users.
        max: u32,
    },
}

/// Answers to requests, all as of one place in the log.
#[derive(Debug)]
pub struct FillBatch {
    /// The log that the place is in.
    pub identity: LogIdentity,
    /// The place.
    pub bounds: Bounds,
    /// In the order of the requests.
    pub answers: Vec<FillAnswer>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FillAnswer {
    /// An author's posts.
    Tail {
        /// Newest first.
        posts: Vec<Post>,
        /// Whether these are all.
        complete: bool,
        /// The name that people know the author by, if the shard knows it.
        handle: Option<String>,
    },
    /// By rising id, each once.
    Follows(Vec<UserId>),
    /// The list is longer than what was wished for.
    TooLong,
}

/// The newest times of some authors, as of one place in the log.
#[derive(Clone, Debug)]
pub struct HeadBatch {
    /// The shard that owns the authors.
    pub shard: ShardId,
    /// The author, and the time of its newest post; an upper bound, hidden posts may count.
    pub heads: Vec<(UserId, i64)>,
}

impl Source {
    /// The name of the server or the shard.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::MySql(source) => source.name(),
            Self::Sqlite(source) => source.name(),
        }
    }

    /// The shards whose changes the log tells.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        match self {
            Self::MySql(source) => source.shards(),
            Self::Sqlite(source) => source.shards(),
        }
    }

    /// Tells what is in the log from now on, several events at once, until nobody listens. Connects
    /// again by itself, and goes on where it was when that is possible.
    pub(crate) async fn follow(self: Arc<Self>, events: mpsc::Sender<Vec<FeedEvent>>) {
        match &*self {
            Self::MySql(source) => source.follow(events).await,
            Self::Sqlite(source) => source.follow(events).await,
        }
    }

    /// Grants up to fifty requests from one snapshot, in one trip. Off the requests' connections.
    pub(crate) async fn fill(
        &self,
        requests: &[FillRequest],
        until: Deadline,
    ) -> Result<FillBatch, ShardError> {
        match self {
            Self::MySql(source) => source.fill(requests, until).await,
            Self::Sqlite(source) => source.fill(requests, until).await,
        }
    }

    /// The newest time of every author that has posts, a few thousand at once, from one snapshot.
    pub(crate) async fn heads(
        &self,
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<(LogIdentity, Bounds), ShardError> {
        match self {
            Self::MySql(source) => source.heads(heads).await,
            Self::Sqlite(source) => source.heads(heads).await,
        }
    }

    /// The end of the log: whatever anybody has seen up to now lies before it.
    pub(crate) async fn end_of_log(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        match self {
            Self::MySql(source) => source.end_of_log(until).await,
            Self::Sqlite(source) => source.end_of_log(until).await,
        }
    }

    /// A place up to which everything can be seen by whoever asks from now on.
    pub(crate) async fn visible(
        &self,
        until: Deadline,
    ) -> Result<(LogIdentity, LogPosition), ShardError> {
        match self {
            Self::MySql(source) => source.visible(until).await,
            Self::Sqlite(source) => source.visible(until).await,
        }
    }
}
