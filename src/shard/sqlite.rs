//! A shard in one SQLite file, and the folder that holds a fleet of them.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Row, params};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::schema::SQLITE_SCHEMA;
use super::{Deadline, OpenError, ShardError};
use crate::cursor::{AuthorEdge, TailAsk};
use crate::model::{Direction, Follow, Post, PostId, PostKey, UserId};

/// Reading connections of one shard. Reads are short and the files are in the page cache; more
/// would only hold more caches.
const READERS: usize = 4;
/// How long a statement waits for another process that writes the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// A process that has just ended, or a child that it was about to start, may hold the lock a moment
/// longer.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Written to a new folder and checked in an old one.
const FOLDER_VERSION: u32 = 1;
const LOCK_FILE: &str = "lock";

/// What a process does with a folder of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads beside a process that may own the folder. The folder must exist.
    Read,
    /// Owns the folder, alone, and makes it if it is not there.
    Own,
}

/// A folder with one SQLite file per shard, owned by at most one process.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    shards: u16,
    /// Held for as long as any shard of the folder is open.
    _lock: Option<File>,
}

/// What [`Folder::FILE`] says. The number of shards decides where rows lie, so it is fixed when the
/// folder is made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderFile {
    version: u32,
    shards: u16,
}

impl Folder {
    /// Says what the folder holds; a folder without it holds no shards.
    pub(crate) const FILE: &str = "folder.toml";

    /// Opens or makes the folder; `shards` counts only when it is made.
    pub(crate) fn open(dir: &Path, shards: u16, access: Access) -> Result<Arc<Self>, OpenError> {
        let lock = match access {
            Access::Own => Some(lock(dir)?),
            Access::Read => None,
        };
        let path = dir.join(Self::FILE);
        let file = match fs::read_to_string(&path) {
            Ok(text) => read_folder_file(&path, &text)?,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(unusable(&path, &error));
            }
            Err(_) if access == Access::Read => {
                return Err(OpenError::Prerequisite(format!(
                    "there are no shards in {}; `tributary demo` or `tributary import` makes some",
                    dir.display()
                )));
            }
            // Where rows lie depends on the number of shards; guessing it would lose them.
            Err(error) if shard_file(dir, 0).exists() => {
                return Err(unusable(&path, &error));
            }
            Err(_) => make_folder(dir, shards)?,
        };
        Ok(Arc::new(Self { dir: dir.to_path_buf(), shards: file.shards, _lock: lock }))
    }

    /// Each shard's name and file.
    pub(crate) fn shard_files(&self) -> Vec<(String, PathBuf)> {
        (0..self.shards).map(|n| (format!("shard-{n}"), shard_file(&self.dir, n))).collect()
    }
}

fn shard_file(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("shard-{number}.sqlite"))
}

/// Makes the shards first: a folder that says it holds them does.
fn make_folder(dir: &Path, shards: u16) -> Result<FolderFile, OpenError> {
    for number in 0..shards {
        let path = shard_file(dir, number);
        open_writer(&path).map_err(|error| unusable(&path, &error))?;
    }
    let (path, new) = (dir.join(Folder::FILE), dir.join("folder.new"));
    let text = format!("version = {FOLDER_VERSION}\nshards = {shards}\n");
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| unusable(&path, &error))?;
    Ok(FolderFile { version: FOLDER_VERSION, shards })
}

/// Owns the folder for as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::create_dir_all(dir).map_err(|error| unusable(dir, &error))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(&path, &error))?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            outcome => break outcome,
        }
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Prerequisite(format!(
            "another process owns the folder {}; stop it, or give this one a folder of its own \
             with --data",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(&path, &error)),
    }
}

fn read_folder_file(path: &Path, text: &str) -> Result<FolderFile, OpenError> {
    let file: FolderFile = toml::from_str(text).map_err(|error| unusable(path, &error))?;
    if file.version != FOLDER_VERSION {
        let text = format!("it has version {}, this is {FOLDER_VERSION}", file.version);
        return Err(unusable(path, &text));
    }
    Ok(file)
}

fn unusable(path: &Path, error: &dyn fmt::Display) -> OpenError {
    OpenError::Prerequisite(format!("{} cannot be used: {error}", path.display()))
}

/// One shard in one file.
#[derive(Debug)]
pub(crate) struct SqliteShard {
    readers: Arc<Readers>,
    writer: Option<Arc<Mutex<Connection>>>,
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
        let path = path.to_path_buf();
        let open = move || -> rusqlite::Result<_> {
            let writer = match access {
                Access::Own => Some(Arc::new(Mutex::new(open_writer(&path)?))),
                Access::Read => None,
            };
            let idle: Vec<Connection> =
                (0..READERS).map(|_| open_reader(&path)).collect::<Result<_, _>>()?;
            Ok((path, writer, idle))
        };
        let fail = |error: &dyn fmt::Display| unusable(&folder.dir, error);
        let opened = tokio::task::spawn_blocking(open).await.map_err(|error| fail(&error))?;
        let (_, writer, idle) = opened.map_err(|error| fail(&error))?;
        let readers =
            Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::new(idle) };
        Ok(Self { readers: Arc::new(readers), writer, _folder: folder })
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
        asks: &[TailAsk],
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
            for TailAsk { author, from, count } in asks {
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
                    // Other programs may have written bytes that are no UTF-8; they are shown as
                    // replacement characters rather than failing the page.
                    let bytes = row.get_ref(0)?.as_bytes()?;
                    posts.push(Post { key, content: String::from_utf8_lossy(bytes).into_owned() });
                }
            }
            Ok(posts)
        })
        .await
    }

    pub(super) async fn insert_follows(
        &self,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let rows = rows.to_vec();
        self.write(until, move |connection| insert_follows(connection, &rows)).await
    }

    pub(super) async fn insert_posts(
        &self,
        rows: &[Post],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let rows = rows.to_vec();
        self.write(until, move |connection| insert_posts(connection, &rows)).await
    }

    /// Runs `work` on a reading connection, off the async threads. When the deadline comes first
    /// the work still ends by itself, with its connection and its permit.
    async fn read<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let readers = Arc::clone(&self.readers);
        let run = async move {
            let permit = Arc::clone(&readers.permits).acquire_owned().await;
            let permit = permit.map_err(|_| ShardError::Unavailable("closed".into()))?;
            let run = move || readers.with_idle(&permit, work);
            tokio::task::spawn_blocking(run).await.map_err(gone)?.map_err(failed)
        };
        until.limit(run).await.unwrap_or_else(late)
    }

    async fn write<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let Some(writer) = self.writer.clone() else {
            return Err(ShardError::Faulty("the folder is open for reading only".into()));
        };
        let run = tokio::task::spawn_blocking(move || {
            work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner))
        });
        until.limit(run).await.map_or_else(late, |done| done.map_err(gone)?.map_err(failed))
    }
}

impl Readers {
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

/// Inserts in one transaction and returns how many are new.
pub(crate) fn insert_follows(
    connection: &mut Connection,
    rows: &[Follow],
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let mut added = 0;
    {
        let mut statement = transaction
            .prepare_cached("INSERT INTO followers VALUES (?, ?) ON CONFLICT DO NOTHING")?;
        for row in rows {
            added += statement.execute([signed(row.follower.0), signed(row.followee.0)])?;
        }
    }
    transaction.commit()?;
    Ok(added)
}

/// Inserts in one transaction and returns how many are new.
pub(crate) fn insert_posts(connection: &mut Connection, rows: &[Post]) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let mut added = 0;
    {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO tweets (tweet_id, user_id, content, timestamp) VALUES (?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )?;
        for Post { key, content } in rows {
            let (post, author) = (signed(key.post.0), signed(key.author.0));
            added += statement.execute(params![post, author, content, key.time])?;
        }
    }
    transaction.commit()?;
    Ok(added)
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
    // Reads one page, so that a file that is no database of ours is found now.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Opens the file for writing and makes the tables. Every commit is on disk when it returns.
pub(crate) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(SQLITE_SCHEMA)?;
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

fn failed(error: rusqlite::Error) -> ShardError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TooBig) => {
            ShardError::Refused(error.to_string())
        }
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DiskFull) => {
            ShardError::Unavailable(error.to_string())
        }
        _ => ShardError::Faulty(error.to_string()),
    }
}

fn gone(error: tokio::task::JoinError) -> ShardError {
    ShardError::Unavailable(error.to_string())
}

fn late<T>() -> Result<T, ShardError> {
    Err(ShardError::Unavailable("no answer in time".into()))
}
