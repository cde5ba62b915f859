//! Read markers in a database on a server.

use mysql_async::{Conn, Row, Value};

use super::write::Attempt;
use super::{MySqlShard, check, execute, field};
use crate::mapping::{ReadMarkersTable, Tables};
use crate::model::{PostAddress, PostId, ReadMarker, UserId};
use crate::shard::gate::Progress;
use crate::shard::schema::{MARKER_COLUMNS, mysql_markers_table, quoted};
use crate::shard::{Deadline, Finding, NewMarker, ShardError, Written};

/// Faults for the keys of the table: a user has one row, and no other key makes two rows one.
pub(super) async fn wrong_keys(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let Some(ReadMarkersTable { name }) = &tables.read_markers else { return Ok(Vec::new()) };
    let declared = check::declared_table(connection, database, name).await?;
    let table = format!("{}.{}", quoted(database), quoted(name));
    let user = MARKER_COLUMNS[0].to_owned();
    let mut faults = Vec::new();
    if !check::unique_over(&declared, &[&user], 1) {
        let user = quoted(&user);
        let text = format!("table {table} has no unique key of {user}");
        let cure = format!("CREATE UNIQUE INDEX tributary_marker ON {table} ({user})");
        faults.push(Finding::error("no_index", text).cure(cure));
    }
    for index in check::unique_without(&declared, &user) {
        let text = format!("table {table} has a unique key without {}", quoted(&user));
        let cure = format!("ALTER TABLE {table} DROP INDEX {}", quoted(&index));
        faults.push(Finding::error("wrong_key", text).cure(cure));
    }
    Ok(faults)
}

/// The statements for the markers of one database.
#[derive(Debug)]
pub(super) struct MarkerStatements {
    /// (user) -> time, author, post, time of the change.
    read: String,
    /// (user, time, post, author, time of the change).
    pub(super) change: String,
}

impl MarkerStatements {
    /// The assignments run in order, and later ones see the columns that earlier ones have set. So
    /// the key is set from its last part to its first: once a part is equal, the others decide.
    pub(super) fn new(database: &str, ReadMarkersTable { name }: &ReadMarkersTable) -> Self {
        let table = format!("{}.{}", quoted(database), quoted(name));
        let is_newer = "(VALUES(post_time), VALUES(post_id), VALUES(post_user_id)) \
             > (post_time, IFNULL(post_id, 0), IFNULL(post_user_id, 0))";
        let set = ["updated_at", "post_user_id", "post_id", "post_time"]
            .map(|column| format!("{column} = IF({is_newer}, VALUES({column}), {column})"));
        Self {
            read: format!(
                "SELECT post_time, post_user_id, post_id, updated_at FROM {table} WHERE user_id = ?"
            ),
            change: format!(
                "INSERT INTO {table} (user_id, post_time, post_id, post_user_id, updated_at)
                 VALUES (?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE {}",
                set.join(", ")
            ),
        }
    }
}

impl MySqlShard {
    pub(in crate::shard) fn missing_markers(&self) -> Option<String> {
        let tables = self.database.tables();
        let create = || mysql_markers_table(None, &ReadMarkersTable::default().name);
        tables.read_markers.is_none().then(create)
    }

    pub(in crate::shard) async fn read_marker(
        &self,
        user: UserId,
        until: Deadline,
    ) -> Result<Option<ReadMarker>, ShardError> {
        // The error says why the database is out of service.
        self.statements()?;
        let (statements, progress) = (self.marker_statements()?, Progress::default());
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let row: Option<Row> =
                execute::first(&mut connection, &statements.read, (user.0,)).await?;
            progress.note_rows(usize::from(row.is_some()));
            Ok(row.as_ref().map(marker_of).transpose()?)
        };
        self.pass(until, &progress, run).await
    }

    pub(in crate::shard) async fn move_marker(
        &self,
        NewMarker { user, post, at }: NewMarker,
        until: Deadline,
    ) -> Result<Written<Option<ReadMarker>>, ShardError> {
        let (statements, attempt) = (self.marker_statements()?, Attempt::default());
        let values: Vec<Value> = vec![
            user.0.into(),
            post.time.into(),
            post.post.0.into(),
            post.author.0.into(),
            at.into(),
        ];
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = attempt.begin(&mut connection).await?;
            execute::run(&mut transaction, &statements.change, values).await?;
            let row: Option<Row> =
                execute::first(&mut transaction, &statements.read, (user.0,)).await?;
            let marker = row.as_ref().map(marker_of).transpose()?;
            attempt.commit(transaction).await?;
            Ok(Written { outcome: marker, at: None })
        };
        self.attempt(until, &attempt, run).await
    }

    fn marker_statements(&self) -> Result<&MarkerStatements, ShardError> {
        let missing = || ShardError::Faulty("the shards have no table of read markers".into());
        self.database.write_statements().markers.as_ref().ok_or_else(missing)
    }
}

fn marker_of(row: &Row) -> Result<ReadMarker, mysql_async::Error> {
    let id = |column| -> Result<Option<u64>, mysql_async::Error> { field(row, column) };
    let (author, post) = (id(1)?.and_then(UserId::new), id(2)?.and_then(PostId::new));
    let post = author.zip(post).map(|(author, post)| PostAddress { author, post });
    Ok(ReadMarker { post, time: field(row, 0)?, updated_at: field(row, 3)? })
}
