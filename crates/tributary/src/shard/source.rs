//! The sources that memory is filled from: logs of changes, and snapshot reads whose position in
//! the log is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::mpsc;

#[cfg(feature = "mysql")]
use super::mysql::MySqlSource;
use super::queue::ConnectionStats;
#[cfg(feature = "sqlite")]
use super::sqlite::SqliteSource;
use super::{Deadline, ShardError};
use crate::changes::{Bounds, FeedEvent, LogIdentity, LogPosition};
use crate::model::{Post, ShardId, UserId, UserList, UserNames};
use crate::problems::{ProblemCause, Problems};

/// A database process or file with one log: a server with all of its shards, or one SQLite file.
#[derive(Debug)]
pub(crate) enum Source {
    /// A MySQL or MariaDB server.
    #[cfg(feature = "mysql")]
    MySql(Box<MySqlSource>),
    /// A SQLite file, which is one shard.
    #[cfg(feature = "sqlite")]
    Sqlite(Box<SqliteSource>),
}

/// A request to read the tail or the follow list of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillRequest {
    /// The shard that owns the user.
    pub shard: ShardId,
    /// The author of the tail, or the reader with the follow list.
    pub user: UserId,
    /// The value to read.
    pub target: FillTarget,
}

impl FillRequest {
    /// Reads at most `depth` posts of an author.
    pub fn tail(shard: ShardId, author: UserId, depth: u32) -> Self {
        Self { shard, user: author, target: FillTarget::Tail { depth } }
    }

    /// Reads a reader's follow list of at most `max` users.
    pub fn follows(shard: ShardId, reader: UserId, max: u32) -> Self {
        Self { shard, user: reader, target: FillTarget::Follows { max } }
    }
}

/// The value that a fill request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillTarget {
    /// The newest posts of an author, and whether there are more.
    Tail {
        /// The largest number of posts to return.
        depth: u32,
    },
    /// The complete follow list, mutes and blocks of a reader.
    Follows {
        /// If a list has more users than this, none is returned.
        max: u32,
    },
}

/// The answers to a batch of fill requests, all from one snapshot.
#[derive(Debug)]
pub struct FillBatch {
    /// The log that `bounds` refers to.
    pub identity: LogIdentity,
    /// The transactions that the snapshot contains.
    pub bounds: Bounds,
    /// One answer per request, in the order of the requests.
    pub answers: Vec<FillAnswer>,
}

/// The answer to one fill request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FillAnswer {
    /// The newest posts of an author.
    Tail {
        /// Newest first.
        posts: Vec<Post>,
        /// Whether the author has no further posts.
        complete: bool,
        /// The author's names, if the shard has a users table with this author.
        names: Option<UserNames>,
        /// The users that the author blocks, by rising id, each once.
        blocks: Vec<UserId>,
    },
    /// The lists of a reader.
    Follows(UserLists),
    /// A list of the reader is longer than the requested maximum.
    TooLong,
    /// The values of the batch have more bytes than it may read.
    TooLarge,
}

/// The lists of one user, each by rising id and without repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserLists {
    /// The users that the user follows.
    pub follows: Vec<UserId>,
    /// The users that the user mutes.
    pub mutes: Vec<UserId>,
    /// The users that the user blocks.
    pub blocks: Vec<UserId>,
}

impl UserLists {
    pub(super) fn of(&mut self, list: UserList) -> &mut Vec<UserId> {
        match list {
            UserList::Follows => &mut self.follows,
            UserList::Mutes => &mut self.mutes,
            UserList::Blocks => &mut self.blocks,
        }
    }

    /// The number of entries of all lists.
    pub(super) fn len(&self) -> usize {
        self.follows.len() + self.mutes.len() + self.blocks.len()
    }

    /// Whether a list has more than `max` users.
    pub(super) fn is_longer_than(&self, max: usize) -> bool {
        [&self.follows, &self.mutes, &self.blocks].into_iter().any(|list| list.len() > max)
    }

    /// The users whose posts the user sees: the follow list without mutes and blocks.
    pub(super) fn shown(self) -> Vec<UserId> {
        let Self { mut follows, mutes, blocks } = self;
        if !mutes.is_empty() || !blocks.is_empty() {
            let is_on = |list: &[UserId], user: &UserId| list.binary_search(user).is_ok();
            follows.retain(|user| !is_on(&mutes, user) && !is_on(&blocks, user));
        }
        follows
    }
}

/// The lists of a user who hides no one.
impl From<Vec<UserId>> for UserLists {
    fn from(follows: Vec<UserId>) -> Self {
        Self { follows, ..Self::default() }
    }
}

/// The bytes of rows that a fill may still read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBytes(usize);

impl RowBytes {
    /// A user on a list takes as much here as on a cached follow list.
    const FOLLOW: usize = size_of::<u32>();
    /// A user that an author blocks takes as much here as beside a cached tail.
    const BLOCK: usize = size_of::<UserId>();

    pub(super) fn new(max: usize) -> Self {
        Self(max)
    }

    /// Takes the bytes of a post. Returns false if they exceed the limit.
    pub(super) fn take_post(&mut self, post: &Post) -> bool {
        self.take(size_of::<Post>() + post.content.len())
    }

    /// Takes the bytes of this many users on a list. Returns false if they exceed the limit.
    pub(super) fn take_users(&mut self, list: UserList, users: usize) -> bool {
        self.take(users.saturating_mul(match list {
            UserList::Follows | UserList::Mutes => Self::FOLLOW,
            UserList::Blocks => Self::BLOCK,
        }))
    }

    fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.0;
        self.0 = self.0.saturating_sub(bytes);
        fits
    }
}

/// The heads of some authors of one shard.
#[derive(Clone, Debug)]
pub struct HeadBatch {
    /// The shard that owns the authors.
    pub shard: ShardId,
    /// The author, and the time of its newest post. The time is an upper bound: a post that is not
    /// visible may count.
    pub heads: Vec<(UserId, i64)>,
}

/// The end of a read of heads.
#[derive(Clone, Debug)]
pub(crate) struct HeadsRead {
    /// The log that `bounds` refers to.
    pub(crate) identity: LogIdentity,
    /// The transactions that the snapshot contains.
    pub(crate) bounds: Bounds,
    /// The shards that could not be read, each with the reason.
    pub(crate) failed: Vec<(ShardId, String)>,
}

/// The end of a log, as its server or file reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The log of both positions.
    pub identity: LogIdentity,
    /// The end of the log. Every transaction that is visible now ends at or before it.
    pub end: LogPosition,
    /// Every later query sees all transactions up to here. It is 0 if the server does not provide
    /// such a position now.
    pub visible: LogPosition,
}

/// Counts the reads of one server that must be checked, and those that reached another server.
#[derive(Debug, Default)]
pub(super) struct ReadChecks {
    active: AtomicUsize,
    elsewhere: AtomicU64,
}

/// While it exists, every read of the server by a pooled connection finds out first whether the
/// connection leads to the server whose log is followed. It costs one query for each.
#[derive(Debug)]
pub(crate) struct ReadCheck {
    checks: Arc<ReadChecks>,
    elsewhere_before: u64,
}

impl ReadChecks {
    pub(super) fn start(self: &Arc<Self>) -> ReadCheck {
        self.active.fetch_add(1, Ordering::SeqCst);
        let elsewhere_before = self.elsewhere.load(Ordering::SeqCst);
        ReadCheck { checks: Arc::clone(self), elsewhere_before }
    }

    /// Whether reads must be checked now.
    pub(super) fn are_active(&self) -> bool {
        self.active.load(Ordering::SeqCst) > 0
    }

    /// Records a read that reached another server.
    pub(super) fn note_elsewhere(&self) {
        self.elsewhere.fetch_add(1, Ordering::SeqCst);
    }
}

impl ReadCheck {
    /// Whether a read since the start of this check, of any request, reached another server.
    pub(crate) fn found_elsewhere(&self) -> bool {
        self.checks.elsewhere.load(Ordering::SeqCst) != self.elsewhere_before
    }
}

impl Drop for ReadCheck {
    fn drop(&mut self) {
        self.checks.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source {
    /// The name of the server or the shard.
    pub(crate) fn name(&self) -> &str {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.name(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.name(),
        }
    }

    /// A position in the log for people: the number of the file and the offset in it, or the
    /// number of the last change of a SQLite file.
    pub(crate) fn describe(&self, position: LogPosition) -> String {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => {
                let (file, offset) = position.file_and_offset();
                format!("{file}:{offset}")
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => position.0.to_string(),
        }
    }

    /// The connections to the server, by class. Empty for a file.
    pub(super) fn connections(&self) -> Vec<ConnectionStats> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.connections(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => Vec::new(),
        }
    }

    /// The problems of the log.
    pub(crate) fn problems(&self) -> &Problems {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.problems(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.problems(),
        }
    }

    /// The end of the log when the server reported it last; `None` if positions count no bytes.
    pub(crate) fn reported_end(&self) -> Option<LogPosition> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.reported_end(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
        }
    }

    /// The number of problems with this cause since the start, of the log and its databases.
    pub(crate) fn count_problems(&self, cause: ProblemCause) -> u64 {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.count_problems(cause),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.count_problems(cause),
        }
    }

    /// The shards whose changes are in the log.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.shards(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.shards(),
        }
    }

    /// From now on, writes to the shards return positions in this log.
    pub(crate) fn issue_tokens(&self) {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.issue_tokens(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.issue_tokens(),
        }
    }

    /// Sends the events of the log in batches, from now on, until the receiver is dropped.
    ///
    /// After an error it reconnects by itself. It resumes where it stopped if the log still has
    /// that position, else it sends [`FeedEvent::Began`] again.
    pub(crate) async fn follow(self: Arc<Self>, events: mpsc::Sender<Vec<FeedEvent>>) {
        match &*self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.follow(events).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.follow(events).await,
        }
    }

    /// Whether no row can change without its log. The triggers of a file log every change. A
    /// session of a server can turn its log off, and an operator can replace its tables.
    pub(crate) fn logs_all_changes(&self) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.logs_all_changes(),
        }
    }

    /// Makes the feed query the table definitions of a shard again, because a cached value was
    /// found wrong.
    pub(crate) fn doubt(&self, shard: ShardId) {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.doubt(shard),
            // The triggers of a SQLite file write the mapped columns by name.
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => {}
        }
    }

    /// Answers up to fifty fill requests from one snapshot, in one round trip. It uses connections
    /// of its own, so it takes none from the requests of clients.
    ///
    /// It reads about `bytes_max` bytes of rows at most. A single request for a tail is then
    /// answered with fewer posts, at least one. All other answers are [`FillAnswer::TooLarge`].
    pub(crate) async fn fill(
        &self,
        requests: &[FillRequest],
        bytes_max: usize,
        until: Deadline,
    ) -> Result<FillBatch, ShardError> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.fill(requests, bytes_max, until).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.fill(requests, bytes_max, until).await,
        }
    }

    /// Sends the newest time of every author of these shards that has posts, in batches of up to
    /// 4,096, from one snapshot.
    pub(crate) async fn heads(
        &self,
        shards: &[ShardId],
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<HeadsRead, ShardError> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.heads(shards, heads).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.heads(heads).await,
        }
    }

    /// Starts to check which server is read. `None` if there can be only one.
    pub(crate) fn check_reads(&self) -> Option<ReadCheck> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => Some(source.check_reads()),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
        }
    }

    /// The end of the log, queried after this call. A server has one connection for this. It has
    /// one question in flight, which serves all calls that arrived before it was sent.
    pub(crate) async fn log_end(&self, until: Deadline) -> Result<LogEnd, ShardError> {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql(source) => source.log_end(until).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(source) => source.log_end(until).await,
        }
    }
}
