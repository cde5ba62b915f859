//! Shards: the databases that own users' follows and posts, and the only place where SQL stands.
//! It knows nothing of pages, timelines or HTTP.

mod deadline;
mod finding;
mod fleet;
mod follow;
mod gate;
mod infer;
mod load;
mod migrate;
mod mysql;
mod schema;
mod source;
mod sqlite;
#[doc(hidden)]
pub mod testing;
mod write;

use std::sync::Arc;

use thiserror::Error;

pub use self::deadline::Deadline;
pub use self::finding::{Finding, Level};
pub use self::fleet::{Fleet, FolloweesError, Gathered, OpenError, ShardHealth};
pub use self::follow::Changes;
pub use self::load::{Loaded, Refused};
pub use self::migrate::{Migrated, migrate};
use self::mysql::MySqlShard;
pub(crate) use self::mysql::RecordedLog;
pub use self::mysql::{Survey, find_tables, strays, survey};
pub use self::schema::{mysql_tables, mysql_writes_table};
pub(crate) use self::source::{Answer, Filled, Heads, Source, Wanted, Wish};
pub use self::sqlite::Access;
use self::sqlite::SqliteShard;
pub(crate) use self::sqlite::{Folder, insert_follows, insert_posts, lock, open_writer};
pub(crate) use self::write::{Earlier, NewPost, Once, Stored};
use crate::cursor::TailQuery;
use crate::model::{Direction, Follow, Post, PostId, PostKey, UserId};

/// A database that owns some users: their follow lists and their posts.
#[derive(Debug)]
pub struct Shard {
    name: String,
    store: Store,
}

/// The kinds of database a shard can be. They differ below this line only.
#[derive(Debug)]
enum Store {
    Sqlite(Arc<SqliteShard>),
    MySql(MySqlShard),
}

/// Why a shard did not do as asked, by what the caller can do about it.
#[derive(Clone, Debug, Error)]
pub enum ShardError {
    /// Gone, silent or overloaded: go on without it.
    #[error("{0}")]
    Unavailable(String),
    /// A statement took too long there, or waited for a lock: go on without it this once.
    #[error("{0}")]
    Slow(String),
    /// It answers, but not as it must (a table, an index or a right is missing): go on without it
    /// until an operator has acted.
    #[error("{0}")]
    Faulty(String),
    /// It is not the one to write to, or not any more: nothing was stored. Its address may lead to
    /// another server by now.
    #[error("{0}")]
    ReadOnly(String),
    /// A row holds what no row may: go on without the shard this once; an operator has to act.
    #[error("{0}")]
    Unreadable(String),
    /// It refuses the rows it was given; the rows are at fault.
    #[error("{0}")]
    Refused(String),
    /// It has no room for more. Nothing was stored.
    #[error("{0}")]
    Full(String),
    /// It was told to commit and did not answer: look, or ask again for what can be done twice.
    /// After any other error nothing was stored.
    #[error("{0}")]
    InDoubt(String),
}

impl Shard {
    /// The configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Up to `max` users that `reader` follows, by rising id, from `from` on. One statement.
    pub async fn followees(
        &self,
        reader: UserId,
        from: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.followees(reader, from, max, until).await,
            Store::MySql(shard) => shard.followees(reader, from, max, until).await,
        }
    }

    /// The keys that answer `asks`, each author's in reading order.
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
            Store::Sqlite(shard) => shard.tails(direction, asks, until).await,
            Store::MySql(shard) => shard.tails(direction, asks, until).await,
        }
    }

    /// Those posts of `keys` that exist, in any order.
    pub async fn posts(&self, keys: &[PostKey], until: Deadline) -> Result<Vec<Post>, ShardError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        match &self.store {
            Store::Sqlite(shard) => shard.posts(keys, until).await,
            Store::MySql(shard) => shard.posts(keys, until).await,
        }
    }

    /// The names that people know the authors of `keys` by; only of those that have one.
    pub async fn handles(
        &self,
        keys: &[PostKey],
        until: Deadline,
    ) -> Result<Vec<(UserId, String)>, ShardError> {
        match &self.store {
            Store::Sqlite(_) => Ok(Vec::new()),
            Store::MySql(shard) => shard.handles(keys, until).await,
        }
    }

    /// The post of this author and id, if there is one.
    async fn post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<Option<Post>, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.post(author, post, until).await,
            Store::MySql(shard) => shard.post(author, post, until).await,
        }
    }

    /// Stores a post and, in the same transaction, the key it was sent under.
    pub(crate) async fn store_post(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Stored, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.store_post(new, until).await,
            Store::MySql(shard) => shard.store_post(new, until).await,
        }
    }

    /// What became of a post whose commit is in doubt; none if it was not committed and no longer
    /// can be. Asked for on a new connection; waits for a commit that is still under way.
    pub(crate) async fn find_stored(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Option<Stored>, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.find_stored(new, until).await,
            Store::MySql(shard) => shard.find_stored(new, until).await,
        }
    }

    /// Deletes a post. Returns how many rows there were.
    pub(crate) async fn delete_post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.delete_post(author, post, until).await,
            Store::MySql(shard) => shard.delete_post(author, post, until).await,
        }
    }

    /// Deletes a follow. Returns how many rows there were.
    pub(crate) async fn delete_follow(
        &self,
        follow: Follow,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.delete_follow(follow, until).await,
            Store::MySql(shard) => shard.delete_follow(follow, until).await,
        }
    }

    /// Whether what a request says may be written now, else why not.
    pub(crate) fn writable(&self) -> Result<(), ShardError> {
        match &self.store {
            Store::Sqlite(_) => Ok(()),
            Store::MySql(shard) => shard.writable(),
        }
    }

    /// Forgets up to `max` idempotency keys that are older. Returns how many.
    async fn expire_keys(
        &self,
        before_ms: i64,
        max: u32,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.expire_keys(before_ms, max, until).await,
            Store::MySql(shard) => shard.expire_keys(before_ms, max, until).await,
        }
    }

    /// Inserts follows in one transaction; those already there stay. Returns how many are new.
    pub(crate) async fn insert_follows(
        &self,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.insert_follows(rows, until).await,
            Store::MySql(shard) => shard.insert_follows(rows, until).await,
        }
    }

    /// Inserts posts in one transaction; where a key or an id is already there, that row stays as
    /// it is. Returns how many are new.
    async fn insert_posts(&self, rows: &[Post], until: Deadline) -> Result<usize, ShardError> {
        match &self.store {
            Store::Sqlite(shard) => shard.insert_posts(rows, until).await,
            Store::MySql(shard) => shard.insert_posts(rows, until).await,
        }
    }

    /// Whether rows can be loaded into it, else why not: without unique keys the tables would take
    /// the same row twice.
    pub(crate) fn loadable(&self) -> Result<(), String> {
        match &self.store {
            Store::Sqlite(_) => Ok(()),
            Store::MySql(shard) => shard.loadable(),
        }
    }

    /// How often another program was found to have written to a file that is ours alone.
    fn foreign_writes(&self) -> u64 {
        match &self.store {
            Store::Sqlite(shard) => shard.foreign_writes(),
            Store::MySql(_) => 0,
        }
    }

    /// Whether requests are sent to the shard now, else why not.
    pub(crate) fn health(&self) -> Result<(), String> {
        match &self.store {
            Store::Sqlite(_) => Ok(()),
            Store::MySql(shard) => shard.health(),
        }
    }
}
