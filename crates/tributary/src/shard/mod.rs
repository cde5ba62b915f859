//! Shards: the databases that own users' follows and posts.
//!
//! All SQL of the project is in this module. It does not know pages, timelines or HTTP.

mod cold_pages;
mod deadline;
mod edits;
mod erasure;
mod finding;
mod fleet;
mod follow;
mod gate;
#[cfg(feature = "mysql")]
mod infer;
mod joint;
mod lists;
mod load;
mod logins;
mod markers;
#[cfg(feature = "mysql")]
mod marks;
mod migrate;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod names;
mod queue;
mod read_cost;
mod references;
mod schema;
mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::deadline::Deadline;
pub use self::finding::{Finding, NotStored};
pub use self::fleet::{Fleet, OpenError, ShardHealth};
pub(crate) use self::fleet::{FolloweesError, read_alone};
pub use self::follow::Changes;
use self::gate::Gate;
pub(crate) use self::joint::{joint_heads, joint_posts_until, joint_tail_posts};
pub use self::load::Loaded;
pub use self::migrate::migrate;
#[cfg(feature = "mysql")]
use self::mysql::MySqlShard;
#[cfg(feature = "mysql")]
pub use self::mysql::{check_fleet, find_tables, stray_findings, survey, unknown_placement};
pub(crate) use self::queue::Turn;
pub use self::queue::{ConnectionStats, QueueStats};
use self::read_cost::ReadMeter;
pub(crate) use self::read_cost::{CostLog, ReadCounts, ShardCost};
pub(crate) use self::references::ReferenceCounts;
pub use self::schema::{mysql_tables, mysql_writes_table};
#[cfg(test)]
pub(crate) use self::source::LogEnd;
pub use self::source::{FillAnswer, FillRequest};
pub(crate) use self::source::{FillBatch, FillTarget, HeadBatch, HeadsRead, UserLists};
pub(crate) use self::source::{ReadCheck, Source};
#[cfg(feature = "sqlite")]
use self::sqlite::SqliteShard;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{CopiedShard, back_up, restore};
#[cfg(feature = "sqlite")]
pub(crate) use self::sqlite::{
    Folder, OpenedFile, insert_follows, insert_names, insert_posts, lock,
};
#[cfg(all(test, feature = "sqlite"))]
pub(crate) use self::sqlite::{HeldReads, HeldTables};
pub(crate) use self::write::{
    EarlierPost, Edit, FollowOutcome, IdempotencyRecord, NewMarker, NewPost, StoreOutcome, Written,
};
use crate::cursor::AuthorEdge;
use crate::model::{Direction, Follow, Post, PostAddress, PostId, PostKey, UserId, UserList};

/// How a process uses a folder of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads only. Another process may own the folder at the same time. The folder must exist.
    Read,
    /// Owns the folder exclusively, and creates it if it does not exist.
    Own,
}

/// A database that owns some users: it stores their follow lists and their posts.
#[derive(Debug)]
pub struct Shard {
    name: String,
    store: Store,
    /// Counts the reads of a file, if they are for a page that is explained. A shard on a server
    /// counts its own.
    meter: Option<Arc<ReadMeter>>,
}

/// A query for a part of one author's tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailQuery {
    /// The author.
    pub author: UserId,
    /// The edge to start from, in the direction of the page.
    pub from: AuthorEdge,
    /// Upper bound for the number of posts, 1 to 101.
    pub count: u16,
}

/// The end of a span of time whose posts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The last time, in the direction of the page.
    pub time: i64,
    /// Posts for each author that are read at most, on average.
    pub posts_each: usize,
    /// Whether a part of the posts is of use if there are more.
    pub takes_part: bool,
}

/// The newest post of each of these users, or `None` if the user has no posts.
pub(crate) type KnownHeads = HashMap<UserId, Option<PostKey>>;

/// The posts of a span, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanPosts {
    /// All posts, or a part of them.
    pub posts: Vec<Post>,
    /// If this is a part: it has all posts of the authors with greater ids, and the first posts of
    /// this author in the direction of the page.
    pub complete_above: Option<UserId>,
}

impl SpanPosts {
    /// `read` has all posts of the authors in falling order of their ids, or the first of them, one
    /// more than `max`.
    pub(crate) fn new(posts: Vec<Post>, max: usize, cut: Cut) -> Option<Self> {
        let is_part = posts.len() > max;
        let last = posts.iter().map(|post| post.key.author).min().filter(|_| is_part);
        (cut.takes_part || !is_part).then_some(Self { posts, complete_above: last })
    }
}

/// The kind of database that a shard is. Callers of [`Shard`] do not see the difference.
#[derive(Debug)]
enum Store {
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<SqliteShard>),
    #[cfg(feature = "mysql")]
    MySql(MySqlShard),
}

impl Store {
    /// The shard, if it is on a server.
    #[cfg(feature = "mysql")]
    fn database(&self) -> Option<&MySqlShard> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => None,
            Self::MySql(shard) => Some(shard),
        }
    }

    /// The server and the database of a shard that is on a server.
    #[cfg(feature = "mysql")]
    fn on_server(&self) -> Option<(&Arc<mysql::Server>, &Arc<mysql::Database>)> {
        self.database().map(MySqlShard::parts)
    }
}

/// Why a request to a shard failed. The variants differ in what the caller can do about it.
#[derive(Clone, Debug, Error)]
pub enum ShardError {
    /// The shard is unreachable or silent. The caller continues without it. The gate of the server
    /// counts these errors.
    #[error("{0}")]
    Unavailable(String),
    /// The request was not started: too many wait, or the server limits the connections. The caller
    /// continues without the shard for this request only. It does not count against the server.
    #[error("{0}")]
    Overloaded(String),
    /// A statement exceeded its time limit or waited too long for a lock. The caller continues
    /// without the shard for this request only.
    #[error("{0}")]
    Slow(String),
    /// The shard answers, but a table, an index or a right is missing. The caller continues
    /// without it; an operator must fix the shard.
    #[error("{0}")]
    Faulty(String),
    /// The server is read-only, perhaps since a failover. Nothing was stored. Its address may
    /// already lead to another server.
    #[error("{0}")]
    ReadOnly(String),
    /// A row holds an invalid value. The caller continues without the shard for this request only;
    /// an operator must fix the row.
    #[error("{0}")]
    Unreadable(String),
    /// The database rejects the rows of the request, because the rows are invalid.
    #[error("{0}")]
    Refused(String),
    /// The disk or the table is full. Nothing was stored.
    #[error("{0}")]
    Full(String),
    /// COMMIT was sent and not answered, so the outcome is unknown. The caller looks the row up,
    /// or repeats an idempotent write. After any other error nothing was stored.
    #[error("{0}")]
    InDoubt(String),
}

impl Shard {
    fn new(name: String, store: Store) -> Self {
        Self { name, store, meter: None }
    }

    /// A handle to the same database whose reads are counted.
    fn measured(&self, meter: &Arc<ReadMeter>) -> Self {
        let store = match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => Store::Sqlite(Arc::clone(shard)),
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => Store::MySql(shard.measured(Arc::clone(meter))),
        };
        Self { name: self.name.clone(), store, meter: Some(Arc::clone(meter)) }
    }

    /// Counts a read of a file: its statements, and the rows of its answer.
    #[cfg(feature = "sqlite")]
    fn count(&self, statements: usize, rows: usize) {
        if let Some(meter) = &self.meter {
            meter.add(statements as u64, rows as u64);
        }
    }

    /// Ends its threads, and closes its pooled connections if it is on a server.
    async fn close(&self) {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let shard = Arc::clone(shard);
                // The thread cannot panic: `close` only joins another one.
                drop(tokio::task::spawn_blocking(move || shard.close()).await);
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.close().await,
        }
    }

    /// From now on, a simulation answers the reads of this file. Servers continue.
    #[cfg(all(test, feature = "sqlite"))]
    pub(crate) fn hold_reads(&self, held: &Arc<HeldReads>) {
        match &self.store {
            Store::Sqlite(shard) => shard.hold_reads(held),
            #[cfg(feature = "mysql")]
            Store::MySql(_) => {}
        }
    }

    /// Its server. `None` for a SQLite file.
    #[cfg(feature = "mysql")]
    fn server(&self) -> Option<&Arc<mysql::Server>> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            Store::MySql(shard) => Some(shard.parts().0),
        }
    }

    /// The gate of its server. `None` for a SQLite file.
    fn gate(&self) -> Option<&Gate> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => None,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => Some(shard.parts().0.gate()),
        }
    }

    /// The configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The post keys that answer `asks`. The keys of each author are in reading order.
    pub async fn tails(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<PostKey>, ShardError> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let keys = shard.tails(direction, asks, until).await;
                keys.inspect(|keys| self.count(asks.len(), keys.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.tails(direction, asks, until).await,
        }
    }

    /// The posts that answer `asks`, with their texts. The posts of each author are in reading
    /// order.
    pub async fn tail_posts(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let posts = shard.tail_posts(direction, asks, until).await;
                posts.inspect(|posts| self.count(asks.len(), posts.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.tail_posts(direction, asks, until).await,
        }
    }

    /// All posts of the asks' authors from their edges up to the cut, in any order. It may return
    /// posts on the other side of an edge too. If they are more than [`Cut::posts_each`], it
    /// returns a part of them, or `None` if that is of no use. `None` too if this shard has no
    /// cheap statement for them.
    pub async fn posts_until(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        cut: Cut,
        until: Deadline,
    ) -> Result<Option<SpanPosts>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let posts = shard.posts_until(direction, asks, cut, until).await;
                let rows =
                    |posts: &Option<SpanPosts>| posts.as_ref().map_or(0, |of| of.posts.len());
                posts.inspect(|posts| self.count(asks.len(), rows(posts)))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.posts_until(direction, asks, cut, until).await,
        }
    }

    /// The posts with these keys, in any order. Keys without a post are skipped.
    pub async fn posts(&self, keys: &[PostKey], until: Deadline) -> Result<Vec<Post>, ShardError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                let posts = shard.posts(keys, until).await;
                posts.inspect(|posts| self.count(keys.len(), posts.len()))
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.posts(keys, until).await,
        }
    }

    /// The post of this author with this id, or `None`.
    async fn post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<Option<Post>, ShardError> {
        Ok(self.posts_at(&[PostAddress { author, post }], until).await?.pop())
    }

    /// The posts with these addresses, in any order. Addresses without a post are skipped.
    pub(crate) async fn posts_at(
        &self,
        addresses: &[PostAddress],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.posts_at(addresses, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.posts_at(addresses, until).await,
        }
    }

    /// Stores a post and its idempotency key in one transaction.
    pub(crate) async fn store_post(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Written<StoreOutcome>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.store_post(new, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.store_post(new, until).await,
        }
    }

    /// Finds out whether a commit in doubt has succeeded. `None` means that the post is not
    /// committed and can no longer be. Waits for a commit that is still running; MySQL and MariaDB
    /// are queried on a new connection.
    pub(crate) async fn find_stored(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Written<Option<StoreOutcome>>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.find_stored(new, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.find_stored(new, until).await,
        }
    }

    /// Deletes a post, or marks it as deleted if the mapping has a soft delete. Returns the number
    /// of changed rows.
    pub(crate) async fn delete_post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.delete_post(author, post, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.delete_post(author, post, until).await,
        }
    }

    /// `Ok` if requests may write to the shard now, else the reason.
    pub(crate) fn writable(&self) -> Result<(), ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => Ok(()),
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.writable(),
        }
    }

    /// Deletes at most `max` idempotency keys older than `before_ms`. Returns the number deleted.
    async fn expire_keys(
        &self,
        before_ms: i64,
        max: u32,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.expire_keys(before_ms, max, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.expire_keys(before_ms, max, until).await,
        }
    }

    /// Inserts entries of a list, of any owners, in one transaction and skips those that exist.
    /// Returns the number of new rows.
    pub(crate) async fn insert_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => {
                Ok(shard.written(shard.insert_entries(list, rows, until).await?, until).await)
            }
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.insert_entries(list, rows, until).await,
        }
    }

    /// Inserts posts in one transaction. An existing row with the same key or id stays unchanged.
    /// Returns the number of new rows.
    async fn insert_posts(&self, rows: &[Post], until: Deadline) -> Result<usize, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.insert_posts(rows, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.insert_posts(rows, until).await,
        }
    }

    /// `Ok` if rows can be bulk-loaded, else the reason. Without unique keys, loading the same row
    /// twice would store it twice.
    pub(crate) fn loadable(&self) -> Result<(), String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => Ok(()),
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.loadable(),
        }
    }

    /// How many times another program was found to have written to the SQLite file, which only
    /// this process may write. 0 for other databases.
    fn foreign_writes(&self) -> u64 {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.foreign_writes(),
            #[cfg(feature = "mysql")]
            Store::MySql(_) => 0,
        }
    }

    /// `Ok` if the shard is in service, else the reason.
    pub(crate) fn health(&self) -> Result<(), String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.health(),
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.health(),
        }
    }

    /// Finds out whether a SQLite file is still the one that was opened. Blocks for a moment.
    #[cfg(feature = "sqlite")]
    fn look_at_file(&self) {
        match &self.store {
            Store::Sqlite(shard) => shard.look(),
            #[cfg(feature = "mysql")]
            Store::MySql(_) => {}
        }
    }

    /// Reads a SQLite file as a whole, to find damage. Blocks.
    #[cfg(feature = "sqlite")]
    fn check_file(&self) {
        match &self.store {
            Store::Sqlite(shard) => shard.check_pages(),
            #[cfg(feature = "mysql")]
            Store::MySql(_) => {}
        }
    }

    /// Why writes to a SQLite file fail, although reads may succeed.
    fn write_fault(&self) -> Option<String> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.write_fault(),
            #[cfg(feature = "mysql")]
            Store::MySql(_) => None,
        }
    }
}
