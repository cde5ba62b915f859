//! Queries the definitions of the served tables: the columns that decode the rows of the log, and
//! the reasons why memory cannot follow a table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};
use tracing::{info, warn};

use super::MySqlSource;
use super::feed::{FACTS_DEADLINE, FeedTask};
use super::log::{FeedError, log_end};
use super::reach::reach;
use crate::changes::rows::{DeclaredColumn, Role, ServedTable, Unfollowable};
use crate::changes::tables::Exclusion;
use crate::changes::{FeedEvent, LogPosition};
use crate::mapping::{Condition, Tables, UsersTable};
use crate::model::ShardId;
use crate::shard::mysql::connections::Class;
use crate::shard::mysql::{check, execute, field, text_of};
use crate::shard::schema::quoted;
use crate::shard::{Deadline, ShardError};

/// Character sets and types of columns whose logged bytes equal those that a query returns.
const READABLE_SETS: [&str; 4] = ["utf8mb4", "utf8mb3", "utf8", "ascii"];
const READABLE_TYPES: [&str; 5] = ["varbinary", "tinyblob", "blob", "mediumblob", "longblob"];
/// Character sets whose ASCII characters have the same bytes in UTF-8.
const ASCII_SETS: [&str; 10] = [
    "latin1", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256", "cp1257", "koi8r",
    "koi8u",
];

/// Makes MySQL list generated primary keys, whose columns are in the log. MariaDB does not execute
/// the comment.
const SHOW_GENERATED_KEYS: &str = "SET @tributary = 1 /*!80030 , SESSION show_gipk_in_create_table_and_information_schema = ON */";

/// The columns of a table. Each row also has the type of the table and the time when it was
/// altered last.
const COLUMNS: &str = "SELECT CAST(c.column_name AS CHAR), CAST(c.data_type AS CHAR), \
     CAST(c.column_type AS CHAR), CAST(c.character_set_name AS CHAR), CAST(k.id AS CHAR), \
     CAST(t.table_type AS CHAR), CAST(t.create_time AS CHAR), c.datetime_precision, \
     c.extra LIKE '%VIRTUAL%' AND NOT EXISTS (SELECT 1 FROM information_schema.statistics AS s \
         WHERE s.table_schema = ? AND s.table_name = ? AND s.column_name = c.column_name) \
 FROM information_schema.columns AS c \
 JOIN information_schema.tables AS t \
     ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
 LEFT JOIN information_schema.collations AS k ON k.collation_name = c.collation_name \
 WHERE c.table_schema = ? AND c.table_name = ? AND t.table_schema = ? AND t.table_name = ? \
 ORDER BY c.ordinal_position";

/// Pause between two rounds of [`FeedTask::check_definitions`], the tables of a round, and its
/// limit.
const CHECK_PAUSE: Duration = Duration::from_secs(2);
const TABLES_PER_CHECK: usize = 8;
const CHECK_DEADLINE: Duration = Duration::from_secs(1);
/// Pause between two rounds of [`FeedTask::read_reach`], and the limit of each. The feed waits for
/// it, so it is below the lease of memory.
const REACH_PAUSE: Duration = Duration::from_secs(2);
const REACH_DEADLINE: Duration = Duration::from_secs(1);

/// The regular checks whether a table was altered without a trace in the log.
#[derive(Debug, Default)]
pub(super) struct DefinitionChecks {
    /// The index of the next table.
    next: usize,
    last: Option<Instant>,
    /// When the reach was queried last.
    last_reach: Option<Instant>,
}

/// A column as [`COLUMNS`] returns it.
struct ColumnRow {
    declared: DeclaredColumn,
    column_type: String,
    digits: u64,
    /// The column is generated when it is read, and no index proves that its value is constant.
    computed: bool,
}

impl ServedTable {
    /// Waits until the result of an ALTER TABLE is visible, which the log may deliver earlier. A
    /// missing table is no error.
    pub(super) async fn wait_defined(&self, connection: &mut Conn) -> Result<(), ShardError> {
        let table = quoted(&self.table);
        let wait = format!("SELECT 1 FROM {}.{table} LIMIT 0", quoted(&self.database));
        match connection.query_drop(wait).await {
            Ok(()) | Err(Error::Server(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The same table with its current definition. A missing table has no columns.
    pub(in crate::shard::mysql) async fn defined(
        mut self,
        connection: &mut Conn,
        tables: &Tables,
    ) -> Result<Self, ShardError> {
        let (database, table) = (self.database.as_str(), self.table.as_str());
        let values = [database, table, database, table, database, table].map(str::to_owned);
        let rows: Vec<Row> = execute::rows(connection, COLUMNS, values.to_vec()).await?;
        let kind = rows.first().map(|row| text_of(row, 5)).unwrap_or_default();
        self.altered = rows.first().map(|row| text_of(row, 6)).unwrap_or_default();
        let rows: Vec<ColumnRow> = rows.iter().map(column_row).collect();
        self.unfollowable = self.unfollowable(&kind, &rows, tables);
        self.columns = rows.into_iter().map(|row| row.declared).collect();
        Ok(self)
    }

    /// Why memory cannot follow a table of this type with these columns.
    fn unfollowable(
        &self,
        kind: &str,
        rows: &[ColumnRow],
        tables: &Tables,
    ) -> Option<Unfollowable> {
        let name = format!("{}.{}", quoted(&self.database), quoted(&self.table));
        let column = |row: &ColumnRow| format!("column {} of {name}", quoted(&row.declared.name));
        if kind.eq_ignore_ascii_case("SYSTEM VERSIONED") {
            return Some(Unfollowable {
                reason: format!(
                    "{name} is system-versioned, and the log mixes its history with its current rows"
                ),
                cure: format!("ALTER TABLE {name} DROP SYSTEM VERSIONING"),
            });
        }
        let old = |row: &&ColumnRow| row.column_type.contains("mariadb-5.3") && row.digits > 0;
        if let Some(row) = rows.iter().find(old) {
            return Some(Unfollowable {
                reason: format!(
                    "{} has the time format of MariaDB 5.3, whose size is not in the log",
                    column(row)
                ),
                cure: format!("SET GLOBAL mysql56_temporal_format = ON; ALTER TABLE {name} FORCE"),
            });
        }
        let mapped = mapped_columns(self.role, tables);
        let is_mapped = |row: &&ColumnRow| {
            row.computed && mapped.iter().any(|name| check::same(name, &row.declared.name))
        };
        rows.iter().find(is_mapped).map(|row| Unfollowable {
            reason: format!(
                "{} is computed when it is read, so its value can change without a write",
                column(row)
            ),
            cure: "make the column STORED, or create an index on it".into(),
        })
    }
}

impl FeedTask<'_> {
    /// Compares the time of the last ALTER of a few tables with the known one, in turn. The log
    /// does not contain an ALTER of a session with `sql_log_bin = 0`.
    pub(super) async fn check_definitions(&mut self) {
        let (Some(assembler), Some(resume)) = (&mut self.assembler, &self.resume) else { return };
        let served = assembler.served();
        if served.is_empty() || self.checks.last.is_some_and(|at| at.elapsed() < CHECK_PAUSE) {
            return;
        }
        self.checks.last = Some(Instant::now());
        let next = self.checks.next % served.len();
        self.checks.next = next + TABLES_PER_CHECK;
        let checked = &served[next..served.len().min(next + TABLES_PER_CHECK)];
        let sql = altered(checked);
        let until = Deadline::after(CHECK_DEADLINE);
        // A failure is harmless: the table is checked again.
        let Ok(reply) = self.source.query(|_| vec![sql.clone()], until).await else { return };
        if reply.server != resume.server {
            return;
        }
        let found: BTreeMap<usize, String> = reply
            .rows
            .iter()
            .flatten()
            .filter_map(|row| Some((field::<usize>(row, 0).ok()?, text_of(row, 1))))
            .collect();
        let is_other = |(index, table): &(usize, &ServedTable)| {
            found.get(index).is_some_and(|altered| *altered != table.altered)
        };
        let others = checked.iter().enumerate().filter(is_other);
        for shard in others.map(|(_, table)| table.shard).collect::<Vec<_>>() {
            assembler.doubt(shard);
        }
    }

    /// Queries the stale definitions of tables. Returns whether there were any.
    pub(super) async fn read_definitions(&mut self) -> Result<bool, FeedError> {
        let Some(assembler) = &mut self.assembler else { return Ok(false) };
        self.source.take_doubted().into_iter().for_each(|shard| assembler.doubt(shard));
        let stale = assembler.stale();
        if stale.is_empty() {
            return Ok(false);
        }
        let source = self.source;
        let tables: Vec<(usize, ServedTable)> =
            stale.into_iter().map(|index| (index, assembler.served()[index].clone())).collect();
        let read = Deadline::after(FACTS_DEADLINE).limit(source.definitions(tables)).await;
        let (tables, end) = read.ok_or_else(|| {
            FeedError::Temporary("the server did not return the columns within 10 s".into())
        })??;
        for (index, table) in tables {
            if let Some(shard) = assembler.redefine(index, table, end) {
                warn!(
                    server = source.name(),
                    "Table was altered by a statement that is not in the log; copies of its shard \
                     are read again. Do not set sql_log_bin = 0"
                );
                self.batch.push(FeedEvent::ShardUnknown(shard));
            }
        }
        Ok(true)
    }

    /// Queries the reach of the served tables if the log contains a definition that may change it.
    /// Until then, statements that may change rows make all shards unknown.
    pub(super) async fn read_reach(&mut self) -> Result<(), FeedError> {
        let Some(assembler) = self.assembler.as_mut().filter(|a| a.is_reach_stale()) else {
            return Ok(());
        };
        if self.checks.last_reach.is_some_and(|at| at.elapsed() < REACH_PAUSE) {
            return Ok(());
        }
        self.checks.last_reach = Some(Instant::now());
        let read = async {
            let mut connection = self.source.server.connections().lease(Class::Lookup).await?;
            let reach = reach(&mut connection, assembler.served()).await?;
            let (_, end, _) = log_end(&mut connection).await?;
            connection.close().await;
            Ok::<_, FeedError>((reach, end))
        };
        // It is tried again after a pause.
        if let Some(read) = Deadline::after(REACH_DEADLINE).limit(read).await {
            let (reach, end) = read?;
            assembler.set_reach(reach, end);
        }
        Ok(())
    }

    /// Sends and logs which shards memory cannot follow, if that has changed.
    pub(super) fn push_exclusions(&mut self) {
        let began = self.resume.as_ref().is_some_and(|resume| resume.began_sent);
        let Some(assembler) = self.assembler.as_ref().filter(|a| began && !a.is_stale()) else {
            return;
        };
        let exclusions = assembler.exclusions();
        if exclusions == self.exclusions {
            return;
        }
        let server = self.source.name();
        for Exclusion { why, .. } in exclusions.iter().filter(|e| !self.exclusions.contains(e)) {
            warn!(
                server,
                reason = why.reason,
                cure = why.cure,
                "Memory cannot follow a table; its shard is read from the database"
            );
        }
        let shards = |of: &[Exclusion]| of.iter().map(|e| e.shard).collect::<BTreeSet<ShardId>>();
        let (before, now) = (shards(&self.exclusions), shards(&exclusions));
        if before.difference(&now).next().is_some() {
            info!(server, "Memory follows all tables of a shard again");
        }
        if before != now {
            self.batch.push(FeedEvent::Excluded(now.into_iter().collect()));
        }
        self.exclusions = exclusions;
    }
}

impl MySqlSource {
    /// The current definitions of these tables, and the end of the log after they were queried.
    async fn definitions(
        &self,
        tables: Vec<(usize, ServedTable)>,
    ) -> Result<(Vec<(usize, ServedTable)>, LogPosition), FeedError> {
        let mut connection = self.server.connections().lease(Class::Lookup).await?;
        show_generated_keys(&mut connection).await?;
        let mut defined = Vec::with_capacity(tables.len());
        for (index, table) in tables {
            table.wait_defined(&mut connection).await?;
            let mapping = self.tables();
            defined.push((index, table.defined(&mut connection, &mapping).await?));
        }
        let (_, end, _) = log_end(&mut connection).await?;
        connection.close().await;
        Ok((defined, end))
    }
}

/// Makes MySQL list the primary keys that it generated. If a server refuses this, a table with
/// such a key is excluded.
pub(in crate::shard::mysql) async fn show_generated_keys(
    connection: &mut Conn,
) -> Result<(), ShardError> {
    match connection.query_drop(SHOW_GENERATED_KEYS).await {
        Ok(()) | Err(Error::Server(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The statement that returns the time of the last ALTER of each table, with its index.
fn altered(tables: &[ServedTable]) -> String {
    let parts = tables.iter().enumerate().map(|(index, table)| {
        let [database, table] =
            [&table.database, &table.table].map(|name| Value::from(name).as_sql(false));
        format!(
            "SELECT {index}, CAST(create_time AS CHAR) FROM information_schema.tables \
             WHERE table_schema = {database} AND table_name = {table}"
        )
    });
    parts.collect::<Vec<_>>().join(" UNION ALL ")
}

/// The columns of a table that pages depend on.
fn mapped_columns(role: Role, tables: &Tables) -> Vec<String> {
    let posts = &tables.posts;
    fn with<const N: usize>(own: [&String; N], all: &[Condition]) -> Vec<String> {
        let conditions = all.iter().map(|condition| &condition.column);
        own.into_iter().chain(conditions).cloned().collect()
    }
    match role {
        Role::Posts => {
            let own = [&posts.id, &posts.author, &posts.content, &posts.time];
            let optional = posts.optional_columns().cloned();
            with(own, posts.conditions()).into_iter().chain(optional).collect()
        }
        Role::List(list) => tables.list(list).map_or_else(Vec::new, |table| {
            with([&table.follower, &table.followed], table.conditions())
        }),
        Role::Users => tables.users.iter().flat_map(UsersTable::columns).cloned().collect(),
    }
}

fn column_row(row: &Row) -> ColumnRow {
    let (data_type, column_type) = (text_of(row, 1).to_lowercase(), text_of(row, 2).to_lowercase());
    let set = text_of(row, 3).to_lowercase();
    let readable = match set.as_str() {
        "" => READABLE_TYPES.contains(&data_type.as_str()),
        set => READABLE_SETS.contains(&set),
    };
    let number = |index| row.get_opt::<Option<u64>, _>(index).and_then(Result::ok).flatten();
    ColumnRow {
        declared: DeclaredColumn {
            name: text_of(row, 0),
            unsigned: column_type.contains("unsigned"),
            readable,
            ascii: ASCII_SETS.contains(&set.as_str()),
            collation: text_of(row, 4).parse().ok(),
            labels: match data_type.as_str() {
                "enum" | "set" => labels(&data_type, &text_of(row, 2)),
                _ => Vec::new(),
            },
        },
        column_type,
        digits: number(7).unwrap_or(0),
        computed: number(8) == Some(1),
    }
}

/// The labels of an ENUM or a SET, from a column type such as `enum('a','it''s')`; empty for other
/// types.
pub(in crate::shard::mysql) fn labels(data_type: &str, column_type: &str) -> Vec<String> {
    if !["enum", "set"].contains(&data_type) {
        return Vec::new();
    }
    let list = column_type.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    let mut labels = Vec::new();
    let mut rest = list.map_or("", |(list, _)| list);
    while let Some(text) = rest.trim_start_matches(',').strip_prefix('\'') {
        let mut label = String::new();
        let mut chars = text.char_indices();
        let mut end = text.len();
        while let Some((at, c)) = chars.next() {
            if c == '\'' {
                if !text[at + 1..].starts_with('\'') {
                    end = at + 1;
                    break;
                }
                chars.next();
            }
            label.push(c);
        }
        labels.push(label);
        rest = &text[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optional_columns_are_mapped_columns_of_posts() {
        let tables = Tables::with_all();
        let columns = mapped_columns(Role::Posts, &tables);
        let optional: Vec<&String> = tables.posts.optional_columns().collect();
        assert_eq!(optional.len(), 5);
        assert!(optional.into_iter().all(|column| columns.contains(column)), "{columns:?}");
    }

    #[test]
    fn the_names_are_mapped_columns_of_users() {
        let display_name = Some("shown".to_owned());
        let users = Some(UsersTable { display_name, ..UsersTable::default() });
        let tables = Tables { users, ..Tables::with_all() };
        assert_eq!(mapped_columns(Role::Users, &tables), ["user_id", "handle", "shown"]);
    }

    #[test]
    fn the_labels_of_an_enum_are_parsed() {
        assert_eq!(labels("enum", "enum('a','it''s','b,c')"), ["a", "it's", "b,c"]);
        assert_eq!(labels("set", "set('a','b')"), ["a", "b"]);
        assert!(labels("int", "int(11)").is_empty());
        assert_eq!(labels("enum", "enum('"), Vec::<String>::new());
    }
}
