//! A shard in one SQLite file: what is asked of it and how rows are read and written.

mod folder;
mod log;
mod source;
mod write;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::folder::Access;
pub(super) use self::folder::tables;
use self::folder::unusable;
pub(crate) use self::folder::{Folder, lock};
pub(super) use self::source::SqliteSource;
pub(crate) use self::write::{insert_follows, insert_posts};
use self::writer::Writer;
pub(crate) use self::writer::open_writer;

use super::schema::{SQLITE_LOG, SQLITE_SCHEMA};
use super::{Deadline, OpenError, ShardError};
use crate::cursor::{AuthorEdge, TailQuery};
use crate::model::{Direction, Post, PostId, PostKey, UserId};

/// Reading connections of one shard. Reads are short and the files are in the page cache; more
/// would only hold more caches.
const READERS: usize = 4;
/// Reading connections of what no request waits for: one may follow the log, one read all heads, and
/// one grant wishes.
const BACKGROUND_READERS: usize = 3;
/// What each reading connection keeps of the file. SQLite's own 2,000 KiB are 55 MiB for four shards
/// and no faster: the system keeps the file in memory too. With 128 KiB pages cost a tenth more.
const CACHE_KIB: i64 = 512;
/// How long a statement waits for another process that writes the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// One shard in one file.
#[derive(Debug)]
pub(crate) struct SqliteShard {
    readers: Arc<Readers>,
    /// None where the folder is read beside its owner.
    writer: Option<Writer>,
    /// For memory; none where the folder is read beside its owner.
    background: Option<Arc<Readers>>,
    _folder: Arc<Folder>,
}

/// Idle reading connections, and permits for as many as there are.
#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteShard {
    pub(super) async fn open(
        path: &Path,
        access: Access,
        folder: Arc<Folder>,
    ) -> Result<Self, OpenError> {
        // To make it anew would hide that its posts are lost.
        if let Err(error) = path.metadata() {
            return Err(unusable(path, &error));
        }
        let (place, ours) = (path.to_path_buf(), Arc::clone(&folder));
        let open = move || -> Result<_, OpenError> {
            let wrong = |error: rusqlite::Error| unusable(&place, &error);
            let mut owned = None;
            if access == Access::Own {
                let writer = Writer::start(open_writer(&place).map_err(wrong)?, &place, ours)?;
                owned = Some((writer, Readers::open(&place, BACKGROUND_READERS).map_err(wrong)?));
            }
            Ok((owned, Readers::open(&place, READERS).map_err(wrong)?))
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let (owned, readers) = opened.map_err(|error| unusable(path, &error))??;
        let (writer, background) = owned.unzip();
        Ok(Self { readers, writer, background, _folder: folder })
    }

    /// Whether this process owns the file, and so knows its log.
    pub(super) fn is_owned(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) async fn followees(
        &self,
        reader: UserId,
        from: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT followed_user_id FROM followers
                 WHERE follower_user_id = ? AND followed_user_id >= ?
                 ORDER BY followed_user_id LIMIT ?",
            )?;
            let rows = statement
                .query_map(params![signed(reader.0), signed(from.0), max], |row| {
                    Ok(UserId(unsigned(row, 0)?))
                })?;
            rows.collect()
        })
        .await
    }

    /// One statement per author: in-process a statement costs microseconds, so there is no round
    /// trip to save by a larger one.
    pub(super) async fn tails(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<PostKey>, ShardError> {
        let asks = asks.to_vec();
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(match direction {
                Direction::Older => {
                    "SELECT timestamp, tweet_id FROM tweets
                     WHERE user_id = ? AND (timestamp, tweet_id) <= (?, ?)
                     ORDER BY timestamp DESC, tweet_id DESC LIMIT ?"
                }
                Direction::Newer => {
                    "SELECT timestamp, tweet_id FROM tweets
                     WHERE user_id = ? AND (timestamp, tweet_id) > (?, ?)
                     ORDER BY timestamp, tweet_id LIMIT ?"
                }
            })?;
            let mut keys = Vec::with_capacity(asks.len());
            for TailQuery { author, from, count } in asks {
                let (time, post) = last_older(from);
                let rows =
                    statement.query_map(params![signed(author.0), time, post, count], |row| {
                        let post = PostId(unsigned(row, 1)?);
                        Ok(PostKey { time: row.get(0)?, post, author })
                    })?;
                for key in rows {
                    keys.push(key?);
                }
            }
            Ok(keys)
        })
        .await
    }

    pub(super) async fn posts(
        &self,
        keys: &[PostKey],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let keys = keys.to_vec();
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT content FROM tweets WHERE user_id = ? AND timestamp = ? AND tweet_id = ?",
            )?;
            let mut posts = Vec::with_capacity(keys.len());
            for key in keys {
                let mut rows =
                    statement.query(params![signed(key.author.0), key.time, signed(key.post.0)])?;
                if let Some(row) = rows.next()? {
                    posts.push(Post { key, content: text_of(row, 0)? });
                }
            }
            Ok(posts)
        })
        .await
    }

    /// The post of this author and id, whatever its time.
    pub(super) async fn post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<Option<Post>, ShardError> {
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT timestamp, content FROM tweets WHERE user_id = ? AND tweet_id = ?
                 ORDER BY timestamp DESC LIMIT 1",
            )?;
            let found = statement.query_row(params![signed(author.0), signed(post.0)], |row| {
                let key = PostKey { time: row.get(0)?, post, author };
                Ok(Post { key, content: text_of(row, 1)? })
            });
            found.optional()
        })
        .await
    }

    /// Runs `work` on a reading connection, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        until.in_time(Arc::clone(&self.readers).run(work)).await
    }
}

impl Readers {
    fn open(path: &Path, count: usize) -> rusqlite::Result<Arc<Self>> {
        let idle: Vec<Connection> =
            (0..count).map(|_| open_reader(path)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { permits: Arc::new(Semaphore::new(count)), idle: Mutex::new(idle) }))
    }

    /// Runs `work` when a connection is free. Where nobody waits for it any more, work that was
    /// begun still ends by itself, with its connection and its permit.
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ShardError::Unavailable("closed".into()))?;
        let run = move || self.with_idle(&permit, work);
        tokio::task::spawn_blocking(run).await.map_err(gone)?.map_err(failed)
    }

    /// Runs `work` on an idle connection; the permit proves that there is one.
    fn with_idle<T>(
        &self,
        _permit: &OwnedSemaphorePermit,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle().pop().expect("as many connections as permits");
        let outcome = work(&connection);
        idle().push(connection);
        outcome
    }
}

/// The largest (time, post id) that counts as older than the edge; it need not exist. SQLite
/// searches both columns of a row value, so ties cost nothing.
fn last_older(edge: AuthorEdge) -> (i64, i64) {
    match edge {
        AuthorEdge::Bottom => (i64::MIN, i64::MIN),
        AuthorEdge::Top => (i64::MAX, i64::MAX),
        AuthorEdge::At { time, post: 0 } => (time, -1),
        AuthorEdge::At { time, post } => (time, signed(post - 1)),
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Reads one page, so that a file that is no database of ours is found now.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Ids are below 2^63 by their parsers. A larger one, by way of the library, becomes negative, which
/// is nobody's.
fn signed(id: u64) -> i64 {
    id.cast_signed()
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let id: i64 = row.get(column)?;
    u64::try_from(id).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, id))
}

/// A text column. Other programs may have written bytes that are no UTF-8; they are shown as
/// replacement characters rather than failing the page.
fn text_of(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?).into_owned())
}

fn failed(error: rusqlite::Error) -> ShardError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TooBig) => {
            ShardError::Refused(error.to_string())
        }
        Some(rusqlite::ErrorCode::DatabaseBusy) => ShardError::Unavailable(error.to_string()),
        Some(rusqlite::ErrorCode::DiskFull) => ShardError::Full(error.to_string()),
        _ => ShardError::Faulty(error.to_string()),
    }
}

fn gone(error: tokio::task::JoinError) -> ShardError {
    ShardError::Unavailable(error.to_string())
}
