//! The writes of a shard on a server. Each is one transaction.
//!
//! An error before COMMIT was sent means that nothing is stored. An error after it leaves the
//! write *in doubt*: only the server knows the outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::{Conn, Error, Row, Transaction, TxOpts, Value};

use super::conditions::{self, NewColumns};
use super::connections::Class;
use super::follows::FollowWrites;
use super::markers::MarkerStatements;
use super::statements::{texts, time_value};
use super::{MySqlShard, edits, execute, field, text_of};
use crate::backoff::Backoff;
use crate::mapping::Tables;
use crate::model::{Post, PostId, UserId, UserList};
use crate::moment::{TimeUnit, Zone};
use crate::shard::gate::Progress;
use crate::shard::schema::{WRITES_TABLE, quoted};
use crate::shard::write::{EarlierPost, IdempotencyRecord, NewPost, StoreOutcome};
use crate::shard::{Deadline, ShardError, Written};

/// Number of prepared statements of one shard, in addition to those in `statements.rs`.
pub(super) const WRITES_PER_SHARD: usize = 15;
/// First and longest pause between two attempts to look up a commit in doubt.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(50);
const LOOK_UP_PAUSE_MAX: Duration = Duration::from_millis(200);
/// The server's error code for a duplicate key.
const DUPLICATE_KEY: u16 = 1062;

/// The statements that write to one database, and those that look up one post.
#[derive(Debug)]
pub(super) struct WriteStatements {
    /// The unit of the time column.
    pub(super) unit: TimeUnit,
    /// The values of [`WriteStatements::post_values`].
    insert_post: String,
    post_times: usize,
    /// Whether the table has the columns of references.
    has_references: bool,
    /// Whether the table has the column of edits.
    has_edits: bool,
    /// See [`edits::statement`].
    pub(super) edit_post: Option<String>,
    /// (author, time, post) -> content. Waits for a transaction that holds the row.
    post_when_settled: String,
    /// (author, post), or (time, author, post) if the mark of a deleted post is a time.
    delete_post: String,
    /// Whether the mark of a deleted post is a time.
    delete_is_timed: bool,
    /// The zone of times that mark rows.
    zone: Zone,
    lists: BTreeMap<UserList, FollowWrites>,
    /// `None` if the shards have no table of read markers.
    pub(super) markers: Option<MarkerStatements>,
    /// (author, key, digest, post, time, `created_ms`).
    insert_key: String,
    /// (author, key) -> post, time, digest. Waits for a transaction that holds the row.
    key_when_settled: String,
    /// (`before_ms`, max).
    expire_keys: String,
}

impl WriteStatements {
    pub(super) fn new(database: &str, tables: &Tables) -> Self {
        let posts = &tables.posts;
        let keys = format!("{}.{}", quoted(database), quoted(WRITES_TABLE));
        let table = format!("{}.{}", quoted(database), quoted(&posts.name));
        let (id, author) = (quoted(&posts.id), quoted(&posts.author));
        let (content, time) = (quoted(&posts.content), quoted(&posts.time));
        let visible = conditions::all(posts.conditions());
        let NewColumns { columns, values, times } = NewColumns::new(posts.conditions());
        let delete = conditions::remove(&table, &posts.removal());
        let (texts, text_values) = texts(posts);
        Self {
            unit: posts.unit,
            insert_post: format!(
                "INSERT INTO {table} ({id}, {author}, {time}, {texts}{columns})
                 VALUES (?, ?, ?, {text_values}{values})"
            ),
            post_times: times,
            has_references: posts.references.is_some(),
            has_edits: posts.edited_at.is_some(),
            edit_post: edits::statement(&table, posts),
            post_when_settled: format!(
                "SELECT {content} FROM {table} WHERE {author} = ? AND {time} = ? AND {id} = ?
                 LOCK IN SHARE MODE"
            ),
            // A hidden post cannot be deleted, as it cannot be read.
            delete_post: format!("{} WHERE {author} = ? AND {id} = ?{visible}", delete.sql),
            delete_is_timed: delete.timed,
            zone: posts.zone.clone(),
            lists: tables
                .lists()
                .map(|(list, table)| {
                    (list, FollowWrites::new(database, &table, posts.zone.clone()))
                })
                .collect(),
            markers: tables
                .read_markers
                .as_ref()
                .map(|table| MarkerStatements::new(database, table)),
            insert_key: format!(
                "INSERT INTO {keys}
                 (author, idempotency_key, content_sha256, post_id, post_time, created_ms)
                 VALUES (?, ?, ?, ?, ?, ?)"
            ),
            key_when_settled: format!(
                "SELECT post_id, post_time, content_sha256 FROM {keys}
                 WHERE author = ? AND idempotency_key = ? LOCK IN SHARE MODE"
            ),
            expire_keys: format!(
                "DELETE FROM {keys} WHERE created_ms < ? ORDER BY created_ms LIMIT ?"
            ),
        }
    }

    /// The values of a new row: post, author, time, content, those of the optional columns that the
    /// table has, and the times that make it visible.
    pub(super) fn post_values(&self, post: &Post) -> Vec<Value> {
        let Post { key, content, references, edited_at } = post;
        let time = time_value(self.unit, key.time);
        let mut values = vec![key.post.0.into(), key.author.0.into(), time, content.into()];
        if self.has_references {
            values.extend(references.ids().map(Value::from));
        }
        if self.has_edits {
            values.push((*edited_at).into());
        }
        values.extend(std::iter::repeat_n(conditions::now(&self.zone), self.post_times));
        values
    }

    /// All statements that need more than the right to read.
    pub(super) fn writes(&self) -> impl Iterator<Item = &str> {
        let writes = [
            &self.insert_post,
            &self.post_when_settled,
            &self.delete_post,
            &self.insert_key,
            &self.key_when_settled,
            &self.expire_keys,
        ];
        let markers = self.markers.iter().map(|markers| &markers.change);
        let writes = writes.into_iter().chain(&self.edit_post).chain(markers);
        let deletes = self.lists.values().map(FollowWrites::delete_one);
        writes.map(String::as_str).chain(deletes)
    }

    /// The statements that write to a list.
    pub(super) fn list(&self, list: UserList) -> Result<&FollowWrites, ShardError> {
        let missing = || ShardError::Faulty("the shards have no table of this list".into());
        self.lists.get(&list).ok_or_else(missing)
    }
}

/// The progress of a write. It decides how a failure is classified.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    progress: Progress,
    commit_sent: AtomicBool,
}

impl Attempt {
    /// Begins the transaction. The answer counts as progress, so a later timeout does not count as
    /// a failure of the server.
    pub(super) async fn begin<'a>(
        &self,
        connection: &'a mut Conn,
    ) -> Result<Transaction<'a>, Error> {
        let transaction = connection.start_transaction(TxOpts::default()).await?;
        self.progress.note();
        Ok(transaction)
    }

    /// Commits. After this call an error means that the write is in doubt.
    pub(super) async fn commit(&self, transaction: Transaction<'_>) -> Result<(), Error> {
        self.commit_sent.store(true, Ordering::Relaxed);
        transaction.commit().await
    }
}

impl MySqlShard {
    /// Runs the work of `attempt` through the server's gate. A fault disables writes to the
    /// database but not reads. A read-only server is no fault of the database: its pool is
    /// renewed.
    ///
    /// # Errors
    /// [`ShardError::InDoubt`] for any error after COMMIT was sent, except
    /// [`ShardError::ReadOnly`].
    pub(super) async fn attempt<T>(
        &self,
        until: Deadline,
        attempt: &Attempt,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let outcome = self.server.gate().pass(until, &attempt.progress, work).await;
        outcome.map_err(|error| {
            match &error {
                // In answer to COMMIT, this error means that the transaction was rolled back.
                ShardError::ReadOnly(reason) => self.server.renew_connections(reason),
                _ if attempt.commit_sent.load(Ordering::Relaxed) => {
                    return ShardError::InDoubt(error.to_string());
                }
                ShardError::Faulty(reason) => self.database.note_write_fault(Some(reason)),
                _ => {}
            }
            error
        })
    }

    pub(in crate::shard) async fn store_post(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Written<StoreOutcome>, ShardError> {
        self.database.writable()?;
        let (statements, attempt) = (self.database.write_statements(), Attempt::default());
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let outcome = store(statements, &attempt, &mut connection, new).await?;
            Ok(self.written(outcome, &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }

    /// Adds the position of the log after a commit, which only the connection that committed knows:
    /// the address may lead to several servers. It is omitted if the server does not report it in
    /// half of the time left, because the write has succeeded without it.
    pub(super) async fn written<T>(
        &self,
        outcome: T,
        connection: &mut Conn,
        until: Deadline,
    ) -> Written<T> {
        Written { outcome, at: self.server.known_log().end_on(connection, until.half()).await }
    }

    /// Looks the post up with a locking read on a new connection, because the old one may be dead
    /// without an error. Retries until the deadline while the server is unreachable.
    ///
    /// The read waits for a transaction that holds the row. The transaction in doubt held it
    /// before COMMIT was sent, so a row that is not found can no longer be committed.
    pub(in crate::shard) async fn find_stored(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Written<Option<StoreOutcome>>, ShardError> {
        let statements = self.database.write_statements();
        let find = async {
            let mut backoff = Backoff::new(LOOK_UP_PAUSE, LOOK_UP_PAUSE_MAX);
            loop {
                match self.look_up(statements, new, until).await {
                    Err(
                        ShardError::Unavailable(_)
                        | ShardError::Overloaded(_)
                        | ShardError::Slow(_),
                    ) => tokio::time::sleep(backoff.pause()).await,
                    found => return found,
                }
            }
        };
        until.in_time(find).await
    }

    async fn look_up(
        &self,
        statements: &WriteStatements,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Written<Option<StoreOutcome>>, ShardError> {
        let mut connection = self.server.connections().lease(Class::Doubt).await?;
        let found = look_up(statements, &mut connection, new).await?;
        let written = self.written(found, &mut connection, until).await;
        connection.close().await;
        Ok(written)
    }

    pub(in crate::shard) async fn delete_post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        let statements = self.database.write_statements();
        let mut values: Vec<Value> = Vec::new();
        values.extend(statements.delete_is_timed.then(|| conditions::now(&statements.zone)));
        values.extend([author.0.into(), post.0.into()]);
        self.delete(&statements.delete_post, values, until).await
    }

    pub(in crate::shard) async fn expire_keys(
        &self,
        before_ms: i64,
        max: u32,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let sql = &self.database.write_statements().expire_keys;
        Ok(self.delete(sql, (before_ms, max), until).await?.outcome)
    }

    /// Runs one statement in a transaction. Returns the number of changed rows.
    async fn delete(
        &self,
        sql: &str,
        values: impl Into<mysql_async::Params> + Send,
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        self.delete_all(vec![(sql, values.into())], until).await
    }

    /// Runs these statements in one transaction. Returns the number of changed rows.
    pub(super) async fn delete_all(
        &self,
        statements: Vec<(&str, impl Into<mysql_async::Params> + Send)>,
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        self.database.writable()?;
        let attempt = Attempt::default();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = attempt.begin(&mut connection).await?;
            let mut rows = 0;
            for (sql, values) in statements {
                execute::run(&mut transaction, sql, values.into()).await?;
                rows += usize::try_from(transaction.affected_rows()).unwrap_or(usize::MAX);
            }
            match rows {
                // Nothing changed, so a wait for the disk is unnecessary.
                0 => transaction.rollback().await?,
                _ => attempt.commit(transaction).await?,
            }
            Ok(self.written(rows, &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }
}

/// Stores a post and its idempotency key in one transaction.
async fn store(
    statements: &WriteStatements,
    attempt: &Attempt,
    connection: &mut Conn,
    new: &NewPost,
) -> Result<StoreOutcome, ShardError> {
    let mut transaction = attempt.begin(connection).await?;
    // The key first: the insert waits for a transaction that stores the same key.
    if let Some(record) = &new.idempotency
        && let Some(earlier) = insert_key(statements, &mut transaction, new, record).await?
    {
        transaction.rollback().await?;
        return Ok(new.outcome_if_key_used(earlier));
    }
    let (key, values) = (new.post.key, statements.post_values(&new.post));
    match execute::run(&mut transaction, &statements.insert_post, values).await {
        Ok(()) => {}
        Err(error) if is_duplicate(&error) => {
            transaction.rollback().await?;
            return id_taken_or_refused(&error, key.post);
        }
        Err(error) => return Err(error.into()),
    }
    attempt.commit(transaction).await?;
    Ok(StoreOutcome::Stored)
}

/// Inserts the idempotency key. Returns the earlier post if the key was already used.
async fn insert_key(
    statements: &WriteStatements,
    transaction: &mut Transaction<'_>,
    new: &NewPost,
    record: &IdempotencyRecord,
) -> Result<Option<EarlierPost>, ShardError> {
    let (author, key) = (new.post.key.author.0, record.key.as_str());
    let (post, time) = (new.post.key.post.0, new.post.key.time);
    let values = (author, key, record.digest.as_slice(), post, time, record.created_ms);
    match execute::run(transaction, &statements.insert_key, values).await {
        Ok(()) => Ok(None),
        Err(error) if is_duplicate(&error) => {
            let sql = &statements.key_when_settled;
            let row: Option<Row> = execute::first(transaction, sql, (author, key)).await?;
            match row {
                Some(row) => Ok(Some(earlier(&row)?)),
                // The key was deleted between the two statements, because of its age.
                None => Err(ShardError::Slow("the idempotency key is being deleted".into())),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks up whether `new` is stored. Waits for a transaction that is storing it.
async fn look_up(
    statements: &WriteStatements,
    connection: &mut Conn,
    new: &NewPost,
) -> Result<Option<StoreOutcome>, ShardError> {
    let Post { key, content, .. } = &new.post;
    if let Some(record) = &new.idempotency {
        let values = (key.author.0, record.key.as_str());
        let row: Option<Row> =
            execute::first(connection, &statements.key_when_settled, values).await?;
        return row.map(|row| Ok(new.outcome_if_key_used(earlier(&row)?))).transpose();
    }
    let values = (key.author.0, time_value(statements.unit, key.time), key.post.0);
    let row: Option<Row> =
        execute::first(connection, &statements.post_when_settled, values).await?;
    match row {
        None => Ok(None),
        Some(row) if text_of(&row, 0) == *content => Ok(Some(StoreOutcome::Stored)),
        // Either this post, altered by a trigger or by another program; or, rarely, another post.
        Some(_) => Err(ShardError::InDoubt("a post with this id has another text".into())),
    }
}

/// Classifies a duplicate key: either the post id is taken, or the row violates another unique key
/// of the table. The server's message contains the duplicate values, so the id is searched in it.
fn id_taken_or_refused(error: &Error, id: PostId) -> Result<StoreOutcome, ShardError> {
    let text = error.to_string();
    if text.contains(&id.to_string()) {
        Ok(StoreOutcome::IdTaken)
    } else {
        Err(ShardError::Refused(text))
    }
}

/// Decodes a row of the table of idempotency keys.
fn earlier(row: &Row) -> Result<EarlierPost, ShardError> {
    let digest: Vec<u8> = field(row, 2)?;
    let digest = digest.try_into();
    let digest = digest.map_err(|_| {
        ShardError::Unreadable("the digest of an idempotency key has a wrong length".into())
    })?;
    Ok(EarlierPost { post: PostId(field(row, 0)?), time: field(row, 1)?, digest })
}

fn is_duplicate(error: &Error) -> bool {
    matches!(error, Error::Server(server) if server.code == DUPLICATE_KEY)
}
