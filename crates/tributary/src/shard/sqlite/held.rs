//! The reads of a file that a simulation answers: at a moment of its choice, from tables of its
//! own, or never. The simulated server can have a log that is ahead of its tables.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::lists::{ListTable, add};
use super::write::insert_posts;
use super::{failed, signed};
use crate::changes::{Bounds, LogIdentity, LogPosition};
use crate::model::{Follow, Post, PostKey, UserList};
use crate::shard::ShardError;
use crate::shard::schema::SQLITE_SCHEMA;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The reads of one file that wait for their answer.
#[derive(Default)]
pub(crate) struct HeldReads {
    /// Each with a reference that is dead if no request waits for the answer.
    waiting: Mutex<Vec<(Weak<()>, Read)>>,
    /// The position that every read is known to show, and the end of the log.
    visible: AtomicU64,
    end: AtomicU64,
}

impl HeldReads {
    fn waiting(&self) -> MutexGuard<'_, Vec<(Weak<()>, Read)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of reads that wait.
    pub(crate) fn len(&self) -> usize {
        let mut waiting = self.waiting();
        waiting.retain(|(alive, _)| alive.strong_count() > 0);
        waiting.len()
    }

    /// Answers a read with what the tables hold now.
    pub(crate) fn answer(&self, number: usize, tables: &HeldTables) {
        let (_, read) = self.waiting().remove(number);
        read(&tables.0);
    }

    /// The read fails.
    pub(crate) fn fail(&self, number: usize) {
        drop(self.waiting().remove(number));
    }

    /// Sets the positions that the server reports from now on.
    pub(crate) fn report(&self, visible: LogPosition, end: LogPosition) {
        self.visible.store(visible.0, Ordering::Relaxed);
        self.end.store(end.0, Ordering::Relaxed);
    }

    /// The positions that the server reports with a read whose tables are those of `at`.
    pub(super) fn window(&self, at: LogPosition) -> (LogPosition, LogPosition) {
        let [visible, end] = [&self.visible, &self.end].map(|it| it.load(Ordering::Relaxed));
        (LogPosition(visible).min(at), LogPosition(end).max(at))
    }

    /// The bounds that the server reports for an exact snapshot.
    pub(super) fn bounds(&self, exact: Bounds) -> Bounds {
        let Bounds::Exact(at) = exact else { return exact };
        let (low, high) = self.window(at);
        Bounds::Window { low, high }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let (answer, answered) = oneshot::channel();
        let alive = Arc::new(());
        // The request may have ended.
        let read = move |connection: &Connection| drop(answer.send(work(connection)));
        self.waiting().push((Arc::downgrade(&alive), Box::new(read)));
        match answered.await {
            Ok(outcome) => outcome.map_err(failed),
            Err(_) => Err(ShardError::Unavailable("the simulated server is silent".into())),
        }
    }
}

impl fmt::Debug for HeldReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldReads").finish_non_exhaustive()
    }
}

/// The tables of a simulated server.
#[derive(Debug)]
pub(crate) struct HeldTables(Connection);

impl HeldTables {
    pub(crate) fn new() -> Self {
        let tables = Connection::open_in_memory().expect("memory has room for tables");
        // Ids of posts are unique for each author only, as on other servers. No trigger writes the
        // log, whose end is set.
        let rest = "DROP INDEX tweets_by_id;
            CREATE TABLE tributary_log (seq INTEGER PRIMARY KEY);
            CREATE TABLE tributary_history (history INTEGER NOT NULL);";
        let created = tables.execute_batch(SQLITE_SCHEMA).and_then(|()| tables.execute_batch(rest));
        created.expect("the statements are valid");
        Self(tables)
    }

    /// Removes and adds posts.
    pub(crate) fn change_posts(&mut self, gone: &[PostKey], stored: &[Post]) {
        let delete = "DELETE FROM tweets WHERE user_id = ? AND timestamp = ? AND tweet_id = ?";
        let mut statement = self.0.prepare_cached(delete).expect("it is valid");
        for key in gone {
            let key = params![signed(key.author.0), key.time, signed(key.post.0)];
            statement.execute(key).expect("tables in memory can be written");
        }
        drop(statement);
        insert_posts(&mut self.0, stored).expect("the rows are new");
    }

    /// Removes and adds entries of a list.
    pub(crate) fn change_list(&self, list: UserList, gone: &[Follow], stored: &[Follow]) {
        let ListTable { name, owner, user } = ListTable::of(list);
        let delete = format!("DELETE FROM {name} WHERE {owner} = ? AND {user} = ?");
        let mut statement = self.0.prepare_cached(&delete).expect("it is valid");
        for Follow { follower, followee } in gone {
            let key = params![signed(follower.0), signed(followee.0)];
            statement.execute(key).expect("tables in memory can be written");
        }
        add(&self.0, list, stored).expect("tables in memory can be written");
    }

    /// Sets the identity of the log and the position that the tables show.
    pub(crate) fn set_position(&self, identity: LogIdentity, at: LogPosition) {
        let set = "DELETE FROM tributary_log; DELETE FROM tributary_history";
        let set = self.0.execute_batch(set).and_then(|()| {
            self.0.execute("INSERT INTO tributary_history VALUES (?)", [signed(identity.0)])?;
            self.0.execute("INSERT INTO tributary_log VALUES (?)", [signed(at.0)])
        });
        set.expect("tables in memory can be written");
    }
}
