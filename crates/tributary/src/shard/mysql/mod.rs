//! A shard in a database on a MySQL or MariaDB server: runs the statements and decodes the rows.

mod check;
mod conditions;
mod connections;
mod database;
mod dial;
mod edits;
mod erasure;
mod execute;
mod fleet_check;
mod follows;
pub(super) mod joint;
mod lists;
pub(super) mod lists_with_heads;
mod log_check;
mod login;
mod markers;
mod migrate;
mod names;
mod plans;
mod proxy_check;
mod references;
mod row_counter;
mod server;
mod settings;
pub(crate) mod source;
mod statements;
mod survey;
mod tails;
mod visibility;
mod write;
mod write_check;

use std::sync::Arc;

use mysql_async::prelude::FromValue;
use mysql_async::{Conn, DriverError, Error, IoError, Row, Transaction, Value};

pub(super) use self::database::Database;
pub use self::fleet_check::{check_fleet, unknown_placement};
pub(super) use self::login::Login;
pub(super) use self::migrate::make_tables;
use self::row_counter::RowCounter;
pub(super) use self::server::Server;
pub(super) use self::source::MySqlSource;
use self::statements::{AUTHORS_PER_STATEMENT, Chunked, Statements, UNUSED_ID, time_value};
pub use self::survey::{find_tables, stray_findings, survey};
use self::write::Attempt;
use super::gate::Progress;
use super::read_cost::ReadMeter;
use super::{Deadline, ShardError};
use crate::model::{
    Follow, Post, PostAddress, PostId, PostKey, REFERENCE_COLUMNS, References, UserId, UserList,
    edit_time,
};
use crate::moment::{CalendarTime, TimeUnit};
use crate::shard::Written;

/// One database on a server.
#[derive(Debug)]
pub(super) struct MySqlShard {
    server: Arc<Server>,
    database: Arc<Database>,
    /// Counts the reads, if they are for a page that is explained.
    meter: Option<Arc<ReadMeter>>,
}

impl MySqlShard {
    pub(super) fn new(server: Arc<Server>, database: Arc<Database>) -> Self {
        Self { server, database, meter: None }
    }

    /// A handle to the same database whose reads are counted.
    pub(super) fn measured(&self, meter: Arc<ReadMeter>) -> Self {
        let (server, database) = (Arc::clone(&self.server), Arc::clone(&self.database));
        Self { server, database, meter: Some(meter) }
    }

    /// Closes the server's connections.
    pub(super) async fn close(&self) {
        self.server.connections().close().await;
    }

    /// The server and the database on it.
    pub(super) fn parts(&self) -> (&Arc<Server>, &Arc<Database>) {
        (&self.server, &self.database)
    }

    /// `Ok` if the server and the database are in service, else the reason.
    pub(super) fn health(&self) -> Result<(), String> {
        self.server.gate().health()?;
        self.database.statements().map(drop)
    }

    /// `Ok` if requests may write to the database now, else the reason.
    pub(super) fn writable(&self) -> Result<(), ShardError> {
        self.database.writable()
    }

    /// `Ok` if unique keys keep the tables free of duplicate rows, else the reason.
    pub(super) fn loadable(&self) -> Result<(), String> {
        self.database.statements()?.loadable.clone()
    }

    pub(super) async fn posts(
        &self,
        keys: &[PostKey],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let (statements, progress) = (self.statements()?, Progress::default());
        let unit = statements.unit;
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let mut posts = Vec::with_capacity(keys.len());
            for chunk in keys.chunks(AUTHORS_PER_STATEMENT) {
                let parameters = |key: &PostKey| {
                    vec![key.author.0.into(), time_value(unit, key.time), key.post.0.into()]
                };
                // MySQL and MariaDB look up a repeated key once.
                let padding = parameters(&chunk[0]);
                let rows =
                    run_padded(&mut connection, &statements.posts, chunk, parameters, padding);
                let rows = rows.await?;
                progress.note_rows(rows.len());
                for row in rows {
                    posts.push(post_of(unit, &row)?);
                }
            }
            self.end_count(counter, &mut connection).await?;
            Ok(posts)
        };
        self.pass(until, &progress, run).await
    }

    pub(super) async fn posts_at(
        &self,
        addresses: &[PostAddress],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let (statements, progress) = (self.statements()?, Progress::default());
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let mut posts = Vec::with_capacity(addresses.len());
            for chunk in addresses.chunks(AUTHORS_PER_STATEMENT) {
                let values = |at: &PostAddress| vec![at.author.0.into(), at.post.0.into()];
                let padding = vec![UNUSED_ID.into(); 2];
                let rows =
                    run_padded(&mut connection, &statements.posts_at, chunk, values, padding);
                let rows = rows.await?;
                progress.note_rows(rows.len());
                for row in rows {
                    posts.push(post_of(statements.unit, &row)?);
                }
            }
            Ok(posts)
        };
        self.pass(until, &progress, run).await
    }

    pub(super) async fn insert_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        let attempt = Attempt::default();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let transaction = attempt.begin(&mut connection).await?;
            let added = self.add_rows(list, (&attempt, transaction), rows).await?;
            Ok(self.written(added, &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }

    /// Inserts entries of a list and commits. Returns the number of new entries.
    async fn add_rows(
        &self,
        list: UserList,
        (attempt, mut transaction): (&Attempt, Transaction<'_>),
        rows: &[Follow],
    ) -> Result<usize, ShardError> {
        let follows = self.database.write_statements().list(list)?;
        let row = |row: &Follow| {
            let mut values = vec![row.follower.0.into(), row.followee.0.into()];
            values.extend(follows.times());
            values
        };
        let statements = self.statements()?;
        let sql = &statements.lists.of(list)?.insert;
        let mut added = insert(&mut transaction, sql, rows, row).await?;
        if added < rows.len() {
            match follows.show_existing(&mut transaction, rows).await {
                Ok(restored) => added += restored,
                Err(error) => {
                    transaction.rollback().await?;
                    return Err(error);
                }
            }
        }
        attempt.commit(transaction).await?;
        Ok(added)
    }

    pub(super) async fn insert_posts(
        &self,
        rows: &[Post],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let (statements, attempt) = (self.statements()?, Attempt::default());
        let writes = self.database.write_statements();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let row = |post: &Post| writes.post_values(post);
            let mut transaction = attempt.begin(&mut connection).await?;
            let added = insert(&mut transaction, &statements.insert_posts, rows, row).await?;
            attempt.commit(transaction).await?;
            Ok(added)
        };
        self.attempt(until, &attempt, run).await
    }

    /// Begins to count the rows that the server reads, if the page is explained.
    async fn count_rows(&self, connection: &mut Conn) -> Result<Option<RowCounter>, Error> {
        RowCounter::start(connection, self.meter.as_deref()).await
    }

    /// Ends the count.
    async fn end_count(
        &self,
        counter: Option<RowCounter>,
        connection: &mut Conn,
    ) -> Result<(), Error> {
        RowCounter::stop(counter, connection, self.meter.as_deref()).await
    }

    /// The statements. The error says why the database is out of service.
    fn statements(&self) -> Result<Arc<Statements>, ShardError> {
        self.database.statements().map_err(ShardError::Unavailable)
    }

    /// Runs the `work` of a request that has passed the gate, and reports an error to the gate and
    /// to [`Database::note`].
    async fn pass<T>(
        &self,
        until: Deadline,
        progress: &Progress,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let outcome = self.server.gate().observe(until, progress, work).await;
        self.server.gate().count_read(progress);
        if let Some(meter) = &self.meter {
            let (statements, rows) = progress.counts();
            meter.add(statements, rows);
        }
        if let Err(error) = &outcome {
            self.database.note(error);
        }
        outcome
    }
}

/// Runs the shortest statement that has room for every item. Unused arms get `padding`, which
/// reads no further row: it has `LIMIT 0`, or repeats an item.
async fn run_padded<T>(
    connection: &mut Conn,
    statement: &Chunked,
    items: &[T],
    parameters: impl Fn(&T) -> Vec<Value>,
    padding: Vec<Value>,
) -> Result<Vec<Row>, Error> {
    let (sql, arms) = statement.at_least(items.len());
    let mut values: Vec<Value> = items.iter().flat_map(parameters).collect();
    for _ in items.len()..arms {
        values.extend_from_slice(&padding);
    }
    execute::rows(connection, sql, values).await
}

/// Inserts rows and returns the number of new rows. Rows with an existing key are skipped and not
/// counted.
async fn insert<T>(
    transaction: &mut Transaction<'_>,
    statement: &Chunked,
    mut rows: &[T],
    parameters: impl Fn(&T) -> Vec<Value>,
) -> Result<usize, Error> {
    let mut added = 0;
    while !rows.is_empty() {
        let (sql, count) = statement.at_most(rows.len());
        let (chunk, rest) = rows.split_at(count);
        let values: Vec<Value> = chunk.iter().flat_map(&parameters).collect();
        execute::run(transaction, sql, values).await?;
        added += usize::try_from(transaction.affected_rows()).unwrap_or(usize::MAX);
        rows = rest;
    }
    Ok(added)
}

/// The post key in the columns 0 to 2: author, time, post id.
fn key_of(unit: TimeUnit, row: &Row) -> Result<PostKey, Error> {
    let author = UserId(field(row, 0)?);
    let time = time_of(unit, row, 1)?;
    Ok(PostKey { author, time, post: PostId(field(row, 2)?) })
}

/// The post in the columns from 0 on: author, time, post id, content, and the references and the
/// time of the last edit if the table has their columns.
fn post_of(unit: TimeUnit, row: &Row) -> Result<Post, Error> {
    const FIRST: usize = 4;
    // Another program may store a number that is no id and no time. It means nothing.
    let number = |column| field::<Option<i64>>(row, column).ok().flatten();
    let (mut ids, mut edit) = ([None; REFERENCE_COLUMNS], FIRST);
    if row.len() >= FIRST + REFERENCE_COLUMNS {
        for (id, column) in ids.iter_mut().zip(FIRST..) {
            *id = number(column).and_then(|id| id.try_into().ok());
        }
        edit += REFERENCE_COLUMNS;
    }
    let edited_at = (edit < row.len()).then(|| number(edit)).flatten();
    let (key, content, references) =
        (key_of(unit, row)?, text_of(row, 3), References::from_ids(ids));
    Ok(Post { key, content, references, edited_at: edit_time(edited_at) })
}

/// The time of a column, in the representation of [`PostKey::time`].
fn time_of(unit: TimeUnit, row: &Row, column: usize) -> Result<i64, Error> {
    match (unit, row.as_ref(column)) {
        (
            TimeUnit::DateTime { .. },
            Some(&Value::Date(year, month, day, hour, minute, second, micros)),
        ) => Ok(CalendarTime { year, month, day, hour, minute, second, micros }.packed()),
        // Statements that are not prepared return dates as text.
        (TimeUnit::DateTime { .. }, Some(Value::Bytes(text))) => {
            let time = str::from_utf8(text).ok().and_then(CalendarTime::from_text);
            time.map(CalendarTime::packed).ok_or_else(|| unreadable(row))
        }
        _ => field(row, column),
    }
}

fn field<T: FromValue>(row: &Row, column: usize) -> Result<T, Error> {
    match row.get_opt(column) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) | None => Err(unreadable(row)),
    }
}

fn unreadable(row: &Row) -> Error {
    Error::Driver(DriverError::FromRow { row: row.clone() })
}

/// A text column. NULL becomes an empty text. Bytes that are not UTF-8, as in a binary column,
/// become replacement characters: one bad text must not fail the page.
fn text_of(row: &Row, column: usize) -> String {
    match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::NULL) | None => String::new(),
        Some(other) => other.as_sql(true),
    }
}

/// Classifies an error of the MySQL client by what the caller can do about it.
impl From<Error> for ShardError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Server(server) => match server.code {
                // A limit of the server or of the account.
                1040 | 1203 | 1226 => ShardError::Overloaded(error.to_string()),
                // Lock waits, deadlock, interrupted, over the time limit (MariaDB, MySQL).
                1205 | 1213 | 1317 | 1969 | 3024 => ShardError::Slow(error.to_string()),
                // Missing: a right, database, column, table or index. A broken view, a column
                // without a default, no transactions, a generated column.
                1044 | 1045 | 1049 | 1054 | 1142 | 1143 | 1146 | 1176 | 1227 | 1356 | 1364
                | 1698 | 1785 | 1906 | 3105 => ShardError::Faulty(error.to_string()),
                // The server, the transaction or the engine is read-only.
                1290 | 1792 | 1836 => ShardError::ReadOnly(error.to_string()),
                // NULL, duplicate, packet size, foreign key, range, truncation, bad value, length,
                // partition, an error raised by a trigger, check constraint (MySQL, MariaDB),
                // character set, collations that cannot be compared.
                1048 | 1062 | 1153 | 1216 | 1264 | 1265 | 1267 | 1270 | 1271 | 1292 | 1300
                | 1366 | 1406 | 1451 | 1452 | 1526 | 1644 | 1690 | 3819 | 3854 | 3988 | 4025 => {
                    ShardError::Refused(error.to_string())
                }
                // The disk or the table is full.
                1021 | 1114 => ShardError::Full(error.to_string()),
                // Shutdown, out of a resource.
                _ => ShardError::Unavailable(error.to_string()),
            },
            // The client's own text around it adds nothing.
            Error::Io(IoError::Io(io)) => ShardError::Unavailable(io.to_string()),
            // The row is not logged: it may hold a user's text.
            Error::Driver(DriverError::FromRow { .. } | DriverError::FromValue { .. }) => {
                ShardError::Unreadable("a row holds a value that is not a valid id or time".into())
            }
            _ => ShardError::Unavailable(error.to_string()),
        }
    }
}
