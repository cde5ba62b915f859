//! The single writing connection of a shard, on its own thread.
//!
//! Group commit: a commit waits for the disk, so the thread commits all queued jobs in one
//! transaction. It answers them after the commit has returned.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::file::ShardFile;
use super::log::{self, SqliteLog};
use super::{BUSY_TIMEOUT, SQLITE_LOG, SQLITE_SCHEMA, failed};
use crate::problems::{ProblemCause, Problems};
use crate::shard::schema::{
    SQLITE_NAME_COLUMN, SQLITE_POST_COLUMNS, SQLITE_REFERENCE_INDEXES, SQLITE_USERS,
};
use crate::shard::{Deadline, OpenError, ShardError};
use crate::tasks::Tasks;

/// Maximum jobs per transaction. A commit of 64 rows takes eight times as long as one of a single
/// row; more jobs would delay the first one.
const JOBS_PER_COMMIT: usize = 64;
/// Maximum waiting jobs: about the number that a slow disk commits within a request's deadline.
const JOBS_WAITING_MAX: usize = 1_024;

/// The handle of the writing thread. Dropping it waits for the jobs that are queued.
pub(super) struct Writer {
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    problems: Arc<Problems>,
    log: Arc<SqliteLog>,
    file: Arc<ShardFile>,
}

/// One unit of work. It runs in its own savepoint, so its failure does not affect other jobs.
struct Job {
    run: Box<dyn FnOnce(&Connection) -> Completion + Send>,
    claim: Arc<Claim>,
}

/// Sends the outcome to the caller, after the commit has succeeded or failed.
type Completion = Box<dyn FnOnce(&Result<(), ShardError>) + Send>;

/// Decides a race: either the writer begins a job, or the caller gives it up. The first one to
/// take the claim wins.
#[derive(Default)]
struct Claim(AtomicBool);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Writer {
    /// Starts the thread. `file` keeps the folder locked until the thread ends.
    pub(super) fn start(
        connection: Connection,
        file: Arc<ShardFile>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let wrong = |error: &dyn fmt::Display| super::unusable(file.path(), error);
        let (jobs, mut waiting) = mpsc::channel(JOBS_WAITING_MAX);
        let problems = Arc::new(Problems::default());
        let log = Arc::new(SqliteLog::default());
        let mut writer_thread = WriterThread {
            data_version: data_version(&connection).map_err(|error| wrong(&error))?,
            connection,
            file: Arc::clone(&file),
            problems: Arc::clone(&problems),
            log: Arc::clone(&log),
        };
        let name = file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let work = move || writer_thread.work(&mut waiting);
        let thread = tasks.spawn_blocking_thread("writer", &name, work);
        let thread = thread.map_err(|error| wrong(&error))?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            problems,
            log,
            file,
        })
    }

    /// Runs `work` and commits it. Work that has not begun at the deadline never runs.
    ///
    /// # Errors
    /// [`ShardError::InDoubt`] if the deadline passes after `work` has begun, or if the result of
    /// the commit is unknown. After any other error nothing is stored.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        self.file.usable()?;
        let (sender, answer) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        let run = move |connection: &Connection| -> Completion {
            let outcome = in_savepoint(connection, work).map_err(failed);
            Box::new(move |committed| {
                let outcome = outcome.and_then(|done| committed.clone().map(|()| done));
                // The send fails if the caller was dropped, which is no error.
                drop(sender.send(outcome));
            })
        };
        let job = Job { run: Box::new(run), claim: Arc::clone(&claim) };
        let ended = || ShardError::Faulty("the writing thread of this shard has ended".into());
        let jobs = locked(&self.jobs).clone().ok_or_else(ended)?;
        match until.limit(jobs.send(job)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(ended()),
            None => return Err(ShardError::Unavailable("its queue is full".into())),
        }
        match until.limit(answer).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) if claim.take() => {
                Err(ShardError::Unavailable("the file cannot be written at present".into()))
            }
            None if claim.take() => Err(ShardError::Unavailable("no answer in time".into())),
            Some(Err(_)) | None => {
                Err(ShardError::InDoubt("the commit has not finished in time".into()))
            }
        }
    }

    /// The log of this shard, which is notified of every commit.
    pub(super) fn log(&self) -> &Arc<SqliteLog> {
        &self.log
    }

    /// The problems of this file.
    pub(super) fn problems(&self) -> &Problems {
        &self.problems
    }

    /// How many times another program was found to have written to the file.
    pub(super) fn foreign_writes(&self) -> u64 {
        self.problems.count(ProblemCause::ForeignWrite)
    }
}

impl Writer {
    /// Refuses new jobs, and blocks until the queued ones are committed and the thread has ended.
    pub(super) fn close(&self) {
        drop(locked(&self.jobs).take());
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread {
            // It may pause after a panic.
            thread.thread().unpark();
            // Its panics were caught and logged when they happened.
            drop(thread.join());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("foreign_writes", &self.foreign_writes())
            .finish_non_exhaustive()
    }
}

/// The state of the writing thread.
struct WriterThread {
    connection: Connection,
    file: Arc<ShardFile>,
    /// SQLite changes this number when another connection commits.
    data_version: i64,
    problems: Arc<Problems>,
    log: Arc<SqliteLog>,
}

impl WriterThread {
    /// Runs jobs until the queue is closed.
    fn work(&mut self, waiting: &mut mpsc::Receiver<Job>) {
        // A panic may have left a transaction open.
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        while let Some(first) = waiting.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < JOBS_PER_COMMIT
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            jobs.retain(|job| !job.claim.is_taken());
            if jobs.is_empty() {
                continue;
            }
            // If BEGIN fails, the jobs are dropped unclaimed, and their callers get an error.
            if let Err(error) = self.begin()
                && self.must_report(&error)
            {
                warn!(file = %self.file.path().display(), %error, "Shard file cannot be written");
            }
            if !self.connection.is_autocommit() {
                self.run_and_commit(jobs);
            }
        }
    }

    /// Begins a transaction and detects commits of other programs since the last one.
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version = data_version(&self.connection)?;
        let is_foreign = version != std::mem::replace(&mut self.data_version, version);
        if is_foreign && self.problems.note(ProblemCause::ForeignWrite) {
            warn!(
                file = %self.file.path().display(),
                "Another program wrote to this shard file; only one process may do so"
            );
        }
        Ok(())
    }

    /// Records why a write failed. Returns whether to log it.
    fn must_report(&self, error: &rusqlite::Error) -> bool {
        // Another program that holds the file for a while is no fault of the file.
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
            self.file.wrote(Err(error));
            self.file.note(error);
        }
        self.problems.note(ProblemCause::WriteFailed)
    }

    fn run_and_commit(&mut self, jobs: Vec<Job>) {
        let stored = self.connection.total_changes();
        let mut completions = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.claim.take() {
                completions.push((job.run)(&self.connection));
            }
            // On a full disk SQLite rolls back the whole transaction, not only this job.
            if self.connection.is_autocommit() {
                break;
            }
        }
        let committed = self.commit(stored);
        if let Err(error) = &committed
            && self.problems.note(ProblemCause::WriteFailed)
        {
            warn!(file = %self.file.path().display(), %error, "Commit failed; its jobs return this error");
        }
        self.log.committed();
        for complete in completions {
            complete(&committed);
        }
        if let Err(error) = log::prune(&self.connection, self.log.read_to())
            && self.problems.note(ProblemCause::WriteFailed)
        {
            warn!(
                file = %self.file.path().display(), %error,
                "Old rows of the shard log were not deleted; retrying after the next commit"
            );
        }
    }

    /// Commits. `stored` is the number of changed rows of this connection before the jobs.
    fn commit(&self, stored: u64) -> Result<(), ShardError> {
        if self.connection.is_autocommit() {
            return Err(ShardError::Unavailable("the transaction was rolled back".into()));
        }
        let committed = self.connection.prepare_cached("COMMIT").and_then(|mut s| s.execute([]));
        let Err(error) = committed else {
            if self.connection.total_changes() > stored {
                self.file.wrote(Ok(()));
            }
            return match self.file.is_in_place() {
                true => Ok(()),
                false => Err(ShardError::InDoubt("the file is not in its place".into())),
            };
        };
        self.file.wrote(Err(&error));
        self.file.note(&error);
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Err(failed(error)),
            // It is unknown what reached the disk until the file is opened again.
            _ => Err(ShardError::InDoubt(error.to_string())),
        }
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    let outcome = work(connection);
    if connection.is_autocommit() {
        return outcome;
    }
    if outcome.is_err() {
        connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    connection.prepare_cached("RELEASE job")?.execute([])?;
    outcome
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// Opens an existing file for writing and creates missing tables. A commit on this connection is
/// on disk when it returns.
pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepare_writer(Connection::open_with_flags(path, flags)?)
}

/// As [`open_writer`], and creates the file.
pub(super) fn create_writer(path: &Path) -> rusqlite::Result<Connection> {
    prepare_writer(Connection::open(path)?)
}

fn prepare_writer(mut connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // One transaction saves commits. It takes the write lock only if something is missing.
    let transaction = connection.transaction()?;
    transaction.execute_batch(SQLITE_SCHEMA)?;
    add_columns(&transaction)?;
    transaction.execute_batch(SQLITE_LOG)?;
    log::ensure_identity(&transaction)?;
    transaction.commit()?;
    Ok(connection)
}

/// Adds the columns that the tables of an older release do not have.
fn add_columns(connection: &Connection) -> rusqlite::Result<()> {
    let mut column = connection.prepare("SELECT 1 FROM pragma_table_info(?) WHERE name = ?")?;
    if !column.exists([SQLITE_USERS, "name"])? {
        connection.execute_batch(SQLITE_NAME_COLUMN)?;
    }
    for name in SQLITE_POST_COLUMNS {
        if !column.exists(["tweets", name])? {
            connection.execute_batch(&format!("ALTER TABLE tweets ADD COLUMN {name} INTEGER"))?;
        }
    }
    connection.execute_batch(SQLITE_REFERENCE_INDEXES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::params;

    use super::*;
    use crate::shard::Access;
    use crate::shard::sqlite::Folder;

    fn writer() -> (tempfile::TempDir, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path(), 1, Access::Own).unwrap();
        let opened = folder.open_shard(0).unwrap();
        let file = Arc::new(ShardFile::owned(opened.file, folder).unwrap());
        (dir, Writer::start(opened.connection, file, &Tasks::default()).unwrap())
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    fn post(id: i64, content: String) -> impl FnOnce(&Connection) -> rusqlite::Result<usize> {
        move |connection| {
            let sql =
                "INSERT INTO tweets (tweet_id, user_id, content, timestamp) VALUES (?, 1, ?, 1)";
            connection.execute(sql, params![id, content])
        }
    }

    async fn count(writer: &Writer) -> i64 {
        let count = |connection: &Connection| {
            connection.query_row("SELECT count(*) FROM tweets", [], |row| row.get(0))
        };
        writer.run(soon(), count).await.unwrap()
    }

    #[tokio::test]
    async fn a_failed_job_rolls_back_its_own_work_only() {
        let (_dir, writer) = writer();
        let half = |connection: &Connection| {
            post(1, "half".into())(connection)?;
            post(2, "taken".into())(connection)
        };
        let (good, bad, also_good) = tokio::join!(
            writer.run(soon(), post(2, "good".into())),
            writer.run(soon(), half),
            writer.run(soon(), post(3, "good".into())),
        );
        assert_eq!((good.unwrap(), also_good.unwrap()), (1, 1));
        assert!(matches!(bad, Err(ShardError::Refused(_))));
        assert_eq!(count(&writer).await, 2);
    }

    /// SQLite's limit on the size of a file simulates a full disk.
    #[tokio::test]
    async fn a_full_disk_is_reported_and_loses_no_acknowledged_post() {
        let (_dir, writer) = writer();
        writer.run(soon(), post(0, "there".into())).await.unwrap();
        let limit = |connection: &Connection| {
            connection.query_row("PRAGMA max_page_count = 60", [], |_| Ok(()))
        };
        writer.run(soon(), limit).await.unwrap();
        let mut stored = 1;
        let mut refused = 0;
        for id in 1..9 {
            let (large, small) = tokio::join!(
                writer.run(soon(), post(id, "x".repeat(60_000))),
                writer.run(soon(), post(100 + id, "x".into())),
            );
            refused += i64::from(matches!(large, Err(ShardError::Full(_))));
            stored += i64::from(large.is_ok()) + i64::from(small.is_ok());
        }
        assert!(refused > 3, "{refused} of 8 large posts failed because the disk is full");
        assert_eq!(count(&writer).await, stored);
        let unlimit = |connection: &Connection| {
            connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))
        };
        writer.run(soon(), unlimit).await.unwrap();
        writer.run(soon(), post(200, "x".repeat(60_000))).await.unwrap();
        assert_eq!(count(&writer).await, stored + 1);
    }

    #[tokio::test]
    async fn a_late_job_that_never_began_is_unavailable_and_one_that_began_is_in_doubt() {
        let (_dir, writer) = writer();
        let short = || Deadline::after(Duration::from_millis(50));
        let slow = |connection: &Connection| {
            std::thread::sleep(Duration::from_millis(300));
            post(1, "slow".into())(connection)
        };
        let late = async {
            // Waits until the slow job has begun. Otherwise that one would be given up too.
            tokio::time::sleep(Duration::from_millis(20)).await;
            writer.run(short(), post(2, "late".into())).await
        };
        let (slow, late) = tokio::join!(writer.run(short(), slow), late);
        assert!(matches!(slow, Err(ShardError::InDoubt(_))), "{slow:?}");
        assert!(matches!(late, Err(ShardError::Unavailable(_))), "{late:?}");
        assert_eq!(count(&writer).await, 1);
    }
}
