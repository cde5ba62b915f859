//! A shard in one SQLite file: its connections, its reads, and the decoding of rows.

mod copy;
mod erasure;
mod file;
mod folder;
#[cfg(test)]
mod held;
mod lists;
mod log;
mod markers;
mod names;
mod references;
mod source;
mod tails;
mod write;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

pub use self::copy::{CopiedShard, back_up, restore};
use self::file::ShardFile;
pub(super) use self::folder::tables;
use self::folder::unusable;
pub(crate) use self::folder::{Folder, OpenedFile, lock};
#[cfg(test)]
pub(crate) use self::held::{HeldReads, HeldTables};
pub(crate) use self::names::insert_names;
pub(super) use self::source::SqliteSource;
pub(crate) use self::write::{insert_follows, insert_posts};
use self::writer::Writer;

use super::schema::{SQLITE_LOG, SQLITE_SCHEMA};
use super::{Access, Deadline, OpenError, ShardError};
use crate::model::{Post, PostAddress, PostKey, REFERENCE_COLUMNS, References, edit_time};
use crate::shard::Written;
use crate::tasks::Tasks;

/// Reading connections of one shard for requests. Reads are short and the file is in the system's
/// page cache, so more connections would only use more memory.
const READERS: usize = 4;
/// Reading connections for background work: one follows the log, one reads all heads, and one
/// reads the fills of memory.
const BACKGROUND_READERS: usize = 3;
/// Page cache of each reading connection. SQLite's default of 2,000 KiB needs 55 MiB for four
/// shards and is not faster, because the system caches the file too. With 128 KiB pages cost 10 %
/// more.
const CACHE_KIB: i64 = 512;
/// How long a statement waits while another process writes to the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// One shard in one file.
#[derive(Debug)]
pub(crate) struct SqliteShard {
    readers: Arc<Readers>,
    /// `None` for [`Access::Read`].
    writer: Option<Writer>,
    /// Connections for memory. `None` for [`Access::Read`].
    background: Option<Arc<Readers>>,
    /// Memory follows the log, so writes need tokens.
    issues_tokens: AtomicBool,
    file: Arc<ShardFile>,
}

/// A pool of reading connections, with one permit per connection.
#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    // Dropped after the connections, which need its handle.
    file: Arc<ShardFile>,
    /// A simulation answers the reads.
    #[cfg(test)]
    held: std::sync::OnceLock<Arc<HeldReads>>,
}

impl SqliteShard {
    /// Opens the file of shard `number`. Blocks.
    pub(super) fn open(
        number: u16,
        path: &Path,
        access: Access,
        (folder, tasks): (&Arc<Folder>, &Tasks),
    ) -> Result<Self, OpenError> {
        let wrong = |error: rusqlite::Error| unusable(path, &error);
        let issues_tokens = AtomicBool::new(false);
        if access == Access::Read {
            let file = Arc::new(ShardFile::of_other(path));
            let readers = Readers::open(&file, READERS).map_err(wrong)?;
            readers.with_idle(|reader| folder.check_reader(number, reader))?;
            readers.with_idle(check_release).map_err(|error| unusable(path, &error))?;
            let (writer, background) = (None, None);
            return Ok(Self { readers, writer, background, issues_tokens, file });
        }
        let opened = folder.open_shard(number)?;
        let file = Arc::new(ShardFile::owned(opened.file, Arc::clone(folder))?);
        let writer = Some(Writer::start(opened.connection, Arc::clone(&file), tasks)?);
        let background = Some(Readers::open(&file, BACKGROUND_READERS).map_err(wrong)?);
        let readers = Readers::open(&file, READERS).map_err(wrong)?;
        Ok(Self { readers, writer, background, issues_tokens, file })
    }

    /// `Ok` if the shard is in service, else the reason.
    pub(super) fn health(&self) -> Result<(), String> {
        self.file.usable().map_err(|error| error.to_string())
    }

    /// Why writes fail, although reads may succeed.
    pub(super) fn write_fault(&self) -> Option<String> {
        self.file.write_fault()
    }

    /// Finds out whether the file is still the one that was opened. Blocks for a moment.
    pub(super) fn look(&self) {
        self.file.look();
    }

    /// Reads the file as a whole, to find damage. Blocks.
    pub(super) fn check_pages(&self) {
        self.file.check_pages();
    }

    /// Adds the end of the log to the outcome of a write, if memory follows the log.
    pub(super) async fn written<T>(&self, outcome: T, until: Deadline) -> Written<T> {
        let at = match self.issues_tokens.load(Ordering::Relaxed) {
            true => self.read(until, log::end).await.ok(),
            false => None,
        };
        Written { outcome, at }
    }

    /// Commits the queued writes and ends the writing thread. Blocks until it has ended.
    pub(super) fn close(&self) {
        self.file.end_check();
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// From now on, a simulation answers all reads.
    #[cfg(test)]
    pub(super) fn hold_reads(&self, held: &Arc<HeldReads>) {
        for readers in [Some(&self.readers), self.background.as_ref()].into_iter().flatten() {
            readers.held.get_or_init(|| Arc::clone(held));
        }
    }

    /// The simulation that answers the reads.
    #[cfg(test)]
    fn held(&self) -> Option<&HeldReads> {
        self.readers.held.get().map(AsRef::as_ref)
    }

    /// Whether this process owns the file. Only the owner follows its log.
    pub(super) fn is_owned(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) async fn posts(
        &self,
        keys: &[PostKey],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let keys = keys.to_vec();
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {TEXTS} FROM tweets WHERE user_id = ? AND timestamp = ? AND tweet_id = ?"
            ))?;
            let mut posts = Vec::with_capacity(keys.len());
            for key in keys {
                let mut rows =
                    statement.query(params![signed(key.author.0), key.time, signed(key.post.0)])?;
                if let Some(row) = rows.next()? {
                    posts.push(post_of(key, row, 0)?);
                }
            }
            Ok(posts)
        })
        .await
    }

    pub(super) async fn posts_at(
        &self,
        addresses: &[PostAddress],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let addresses = addresses.to_vec();
        self.read(until, move |connection| {
            let found = addresses.into_iter().map(|address| post_at(connection, address));
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Runs `work` on a reading connection, in a thread for blocking work.
    async fn read<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        until.in_time(Arc::clone(&self.readers).run(work)).await
    }
}

impl Readers {
    fn open(file: &Arc<ShardFile>, count: usize) -> rusqlite::Result<Arc<Self>> {
        let idle: Vec<Connection> =
            (0..count).map(|_| open_reader(file.path())).collect::<Result<_, _>>()?;
        let (permits, idle) = (Arc::new(Semaphore::new(count)), Mutex::new(idle));
        Ok(Arc::new(Self {
            permits,
            idle,
            file: Arc::clone(file),
            #[cfg(test)]
            held: std::sync::OnceLock::new(),
        }))
    }

    /// Waits for a free connection and runs `work` on it. If the caller is dropped, work that has
    /// begun still runs to its end and keeps its connection and its permit until then.
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        self.file.usable()?;
        #[cfg(test)]
        if let Some(held) = self.held.get() {
            return held.run(work).await;
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ShardError::Unavailable("closed".into()))?;
        let run = move || {
            let outcome = self.with_idle(work);
            drop(permit);
            // Damage excludes the shard before the answer can be used.
            outcome.inspect_err(|error| self.file.note(error)).map_err(failed)
        };
        tokio::task::spawn_blocking(run).await.map_err(gone)?
    }

    /// Runs `work` on an idle connection. A permit guarantees that there is one.
    fn with_idle<T>(&self, work: impl FnOnce(&Connection) -> T) -> T {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle().pop().expect("as many connections as permits");
        // A panic ends its request only; the connection returns to the pool.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&connection)));
        idle().push(connection);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Reads one page, so that a file that is not a database fails here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// The post of this author with this id, whatever its time.
fn post_at(connection: &Connection, address: PostAddress) -> rusqlite::Result<Option<Post>> {
    let PostAddress { author, post } = address;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT timestamp, {TEXTS} FROM tweets WHERE user_id = ? AND tweet_id = ?
         ORDER BY timestamp DESC LIMIT 1"
    ))?;
    let found = statement.query_row(params![signed(author.0), signed(post.0)], |row| {
        let key = PostKey { time: row.get(0)?, post, author };
        post_of(key, row, 1)
    });
    found.optional()
}

/// Parsers accept ids below 2^63 only. A larger id passed to the library becomes negative, which
/// no row has.
fn signed(id: u64) -> i64 {
    id.cast_signed()
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let id: i64 = row.get(column)?;
    u64::try_from(id).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, id))
}

/// A text column. Bytes that are not UTF-8, written by other programs, become replacement
/// characters: one bad text must not fail the page.
fn text_of(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?).into_owned())
}

/// Refuses the file of an older release, which its owner has not opened since.
fn check_release(connection: &Connection) -> Result<(), String> {
    let posts = format!("SELECT {TEXTS} FROM tweets LIMIT 0");
    let markers = "SELECT user_id FROM read_markers LIMIT 0";
    let names = "SELECT name FROM users LIMIT 0";
    let tables = [&posts, markers, names];
    let prepared = tables.iter().try_for_each(|sql| connection.prepare(sql).map(drop));
    prepared.map_err(|error| {
        format!("{error}; an older release made the folder, so open it for writing once")
    })
}

/// The columns of a post's text, of its references and of its last edit.
const TEXTS: &str = "content, reply_to_user_id, reply_to_tweet_id, repost_of_user_id, \
                     repost_of_tweet_id, edited_at";

/// The post with this key. `first` is the first column of [`TEXTS`].
fn post_of(key: PostKey, row: &Row<'_>, first: usize) -> rusqlite::Result<Post> {
    let content = text_of(row, first)?;
    let mut ids = [None; REFERENCE_COLUMNS];
    for (id, column) in ids.iter_mut().zip(first + 1..) {
        let stored: Option<i64> = row.get(column)?;
        // Another program may write negative ids. They belong to nothing.
        *id = stored.and_then(|id| u64::try_from(id).ok());
    }
    let edited_at = edit_time(row.get(first + 1 + REFERENCE_COLUMNS)?);
    Ok(Post { key, content, references: References::from_ids(ids), edited_at })
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
