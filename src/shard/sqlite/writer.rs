//! The one writing connection of a shard, on a thread of its own. What is queued is committed
//! together, since a commit waits for the disk, and is answered when that commit has returned.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::log::{self, SqliteLog};
use super::{BUSY_TIMEOUT, Folder, SQLITE_LOG, SQLITE_SCHEMA, failed};
use crate::shard::{Deadline, OpenError, ShardError};

/// Jobs of one transaction. 64 rows take eight times as long to commit as one; more would make the
/// first of them wait.
const JOBS_PER_COMMIT: usize = 64;
/// Jobs that may wait: what a slow disk commits within a request's time.
const JOBS_WAITING_MAX: usize = 1_024;
/// What happens again and again is told this often.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Runs jobs on the writing connection until it is dropped, which waits for those under way.
pub(super) struct Writer {
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    foreign_writes: Arc<AtomicU64>,
    log: Arc<SqliteLog>,
}

/// A piece of work with its own savepoint, so that its failure harms no other one.
struct Job {
    run: Box<dyn FnOnce(&Connection) -> Answer + Send>,
    claim: Arc<Claim>,
}

/// Tells whoever asked, once it is known whether the work was committed.
type Answer = Box<dyn FnOnce(&Result<(), ShardError>) + Send>;

/// Who was first: the writer that begins a job, or the asker that gives it up.
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
    /// Starts the thread. `folder` stays owned until it has ended.
    pub(super) fn start(
        connection: Connection,
        path: &Path,
        folder: Arc<Folder>,
    ) -> Result<Self, OpenError> {
        let wrong = |error: &dyn fmt::Display| super::unusable(path, error);
        let (jobs, waiting) = mpsc::channel(JOBS_WAITING_MAX);
        let foreign_writes = Arc::new(AtomicU64::new(0));
        let log = Arc::new(SqliteLog::default());
        let desk = Desk {
            data_version: data_version(&connection).map_err(|error| wrong(&error))?,
            connection,
            path: path.to_path_buf(),
            foreign_writes: Arc::clone(&foreign_writes),
            log: Arc::clone(&log),
            told_foreign: None,
            told_failure: None,
        };
        let run = move || {
            desk.work(waiting);
            drop(folder);
        };
        let thread = thread::Builder::new().name("sqlite-writer".into()).spawn(run);
        let thread = thread.map_err(|error| wrong(&error))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), foreign_writes, log })
    }

    /// Runs `work` and commits it. Work that was not begun by the deadline never is.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let (sender, answer) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        let run = move |connection: &Connection| -> Answer {
            let outcome = in_savepoint(connection, work).map_err(failed);
            Box::new(move |committed| {
                let outcome = outcome.and_then(|done| committed.clone().map(|()| done));
                // Nobody listens when the asker's client has left.
                drop(sender.send(outcome));
            })
        };
        let job = Job { run: Box::new(run), claim: Arc::clone(&claim) };
        let ended = || ShardError::Faulty("its writer has ended".into());
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        match until.limit(jobs.send(job)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(ended()),
            None => return Err(ShardError::Unavailable("its queue is full".into())),
        }
        match until.limit(answer).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) if claim.take() => {
                Err(ShardError::Unavailable("the file cannot be written now".into()))
            }
            None if claim.take() => Err(ShardError::Unavailable("no answer in time".into())),
            Some(Err(_)) | None => Err(ShardError::InDoubt("it is being committed".into())),
        }
    }

    /// Tells of commits.
    pub(super) fn log(&self) -> &Arc<SqliteLog> {
        &self.log
    }

    /// How often another program was found to have written to the file.
    pub(super) fn foreign_writes(&self) -> u64 {
        self.foreign_writes.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // That it panicked was told when it did.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("foreign_writes", &self.foreign_writes)
            .finish_non_exhaustive()
    }
}

/// What the thread works with.
struct Desk {
    connection: Connection,
    path: PathBuf,
    /// Changes when another connection has committed.
    data_version: i64,
    foreign_writes: Arc<AtomicU64>,
    log: Arc<SqliteLog>,
    told_foreign: Option<Instant>,
    told_failure: Option<Instant>,
}

impl Desk {
    fn work(mut self, mut waiting: mpsc::Receiver<Job>) {
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
            // The jobs are dropped unclaimed, which tells their askers.
            if let Err(error) = self.begin()
                && is_due(&mut self.told_failure)
            {
                warn!(file = %self.path.display(), %error, "the file cannot be written");
            }
            if !self.connection.is_autocommit() {
                self.run_and_commit(jobs);
            }
        }
    }

    /// Begins a transaction and looks whether somebody else has written since the last one.
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version = data_version(&self.connection)?;
        if version != std::mem::replace(&mut self.data_version, version) {
            self.foreign_writes.fetch_add(1, Ordering::Relaxed);
            if is_due(&mut self.told_foreign) {
                warn!(
                    file = %self.path.display(),
                    "another program wrote to this file; one process should own the folder"
                );
            }
        }
        Ok(())
    }

    fn run_and_commit(&mut self, jobs: Vec<Job>) {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.claim.take() {
                answers.push((job.run)(&self.connection));
            }
            // A full disk ends the whole transaction, not only the job that met it.
            if self.connection.is_autocommit() {
                break;
            }
        }
        let committed = self.commit();
        if let Err(error) = &committed
            && is_due(&mut self.told_failure)
        {
            warn!(file = %self.path.display(), %error, "a commit failed");
        }
        self.log.committed();
        for answer in answers {
            answer(&committed);
        }
        if let Err(error) = log::prune(&self.connection, self.log.read_to())
            && is_due(&mut self.told_failure)
        {
            warn!(file = %self.path.display(), %error, "the log keeps old rows");
        }
    }

    fn commit(&self) -> Result<(), ShardError> {
        if self.connection.is_autocommit() {
            return Err(ShardError::Unavailable("its transaction was undone".into()));
        }
        let committed = self.connection.prepare_cached("COMMIT").and_then(|mut s| s.execute([]));
        let Err(error) = committed else { return Ok(()) };
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Err(failed(error)),
            // What reached the disk is not known before the file is opened again.
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

/// Whether something was not told for a while; it is then told now.
fn is_due(told: &mut Option<Instant>) -> bool {
    let due = told.is_none_or(|told| told.elapsed() > TELL_AGAIN);
    if due {
        *told = Some(Instant::now());
    }
    due
}

/// Opens the file for writing and makes the tables. Every commit is on disk when it returns.
pub(crate) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // One transaction: a commit for each of them takes time. It takes the lock when something is
    // missing only.
    let transaction = connection.transaction()?;
    transaction.execute_batch(SQLITE_SCHEMA)?;
    transaction.execute_batch(SQLITE_LOG)?;
    log::ensure_identity(&transaction)?;
    transaction.commit()?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::shard::Access;

    fn writer() -> (tempfile::TempDir, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path(), 1, Access::Own).unwrap();
        let (_, path) = folder.shard_files().remove(0);
        let writer = Writer::start(open_writer(&path).unwrap(), &path, folder).unwrap();
        (dir, writer)
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
    async fn a_job_that_fails_takes_back_its_own_work_and_no_other() {
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

    /// SQLite's own limit on a file stands in for the disk's.
    #[tokio::test]
    async fn a_full_disk_is_told_and_loses_nothing_that_was_acknowledged() {
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
        assert!(refused > 3, "{refused} of 8 were told that the disk is full");
        assert_eq!(count(&writer).await, stored);
        let unlimit = |connection: &Connection| {
            connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))
        };
        writer.run(soon(), unlimit).await.unwrap();
        writer.run(soon(), post(200, "x".repeat(60_000))).await.unwrap();
        assert_eq!(count(&writer).await, stored + 1);
    }

    #[tokio::test]
    async fn what_was_not_begun_in_time_never_is_and_what_was_is_in_doubt() {
        let (_dir, writer) = writer();
        let short = || Deadline::after(Duration::from_millis(50));
        let slow = |connection: &Connection| {
            thread::sleep(Duration::from_millis(300));
            post(1, "slow".into())(connection)
        };
        let behind = async {
            // After the slow one has begun, or it would be given up as well.
            tokio::time::sleep(Duration::from_millis(20)).await;
            writer.run(short(), post(2, "late".into())).await
        };
        let (slow, behind) = tokio::join!(writer.run(short(), slow), behind);
        assert!(matches!(slow, Err(ShardError::InDoubt(_))), "{slow:?}");
        assert!(matches!(behind, Err(ShardError::Unavailable(_))), "{behind:?}");
        assert_eq!(count(&writer).await, 1);
    }
}
