//! Checks that a database can be written, without writing to it. Every fault has a cure.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Value};

use super::check::{account, same};
use super::execute;
use super::statements::Statements;
use super::write::WriteStatements;
use crate::mapping::{Condition, Mark, Removal, Tables};
use crate::moment::TimeUnit;
use crate::shard::schema::{MARKER_COLUMNS, WRITES_TABLE, quoted};
use crate::shard::{Finding, ShardError};

/// Column types that store a text unchanged. CHAR loses trailing blanks; ENUM and JSON are no
/// plain texts.
pub(super) const EXACT_TEXTS: [&str; 10] = [
    "varchar",
    "tinytext",
    "text",
    "mediumtext",
    "longtext",
    "varbinary",
    "tinyblob",
    "blob",
    "mediumblob",
    "longblob",
];

/// The columns of a marker's post.
const MARKER_COLUMNS_OF_POST: [&str; 2] = ["post_id", "post_user_id"];

/// Error codes of a server with too many connections or in shutdown.
const UNAVAILABLE_CODES: [u16; 5] = [1040, 1053, 1077, 1079, 1203];

/// The declaration of a column.
struct TableColumn {
    table: String,
    name: String,
    kind: String,
    bytes_max: Option<u64>,
    /// The server computes the value.
    generated: bool,
    /// An insert may omit the column.
    optional: bool,
    nullable: bool,
}

/// Checks that follows and posts with texts of up to `bytes_max` bytes can be written to the
/// database `name`. The database was already checked for reads, with the statements `reads`.
///
/// # Errors
/// [`ShardError::Faulty`] with the first fault and its cure; else an error of the server.
pub(super) async fn tables(
    connection: &mut Conn,
    name: &str,
    tables: &Tables,
    bytes_max: usize,
    reads: &Statements,
) -> Result<(), ShardError> {
    reads.loadable.clone().map_err(ShardError::Faulty)?;
    let columns = columns(connection, name, tables).await?;
    keys_table(name, &columns)?;
    transactional(connection, name, tables).await?;
    removals(tables, &columns)?;
    new_rows(tables, &columns)?;
    without_optional(tables, &columns)?;
    columns.iter().try_for_each(|column| fits(name, tables, column, bytes_max))?;
    let writes = WriteStatements::new(name, tables);
    rights(connection, name, writes.writes().chain(reads.lists.inserts())).await
}

/// The names of all written tables, as a list for SQL.
fn written_tables(tables: &Tables) -> String {
    let lists = tables.lists().map(|(_, table)| table.name.clone());
    let markers = tables.read_markers.iter().map(|markers| markers.name.clone());
    let names = lists.chain(markers).chain([tables.posts.name.clone(), WRITES_TABLE.to_owned()]);
    let names: Vec<String> = names.map(|name| Value::from(name).as_sql(false)).collect();
    format!("({})", names.join(", "))
}

async fn columns(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<TableColumn>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR),
             LOWER(CAST(data_type AS CHAR)), CAST(character_octet_length AS UNSIGNED),
             extra LIKE '% GENERATED%',
             column_default IS NOT NULL OR extra LIKE '%auto_increment%', is_nullable = 'YES'
         FROM information_schema.columns WHERE table_schema = ? AND table_name IN ";
    let sql = format!("{sql}{}", written_tables(tables));
    type ColumnRow = (String, String, String, Option<u64>, bool, bool, bool);
    let rows: Vec<ColumnRow> = execute::rows(connection, &sql, (database,)).await?;
    let column = |(table, name, kind, bytes_max, generated, optional, nullable)| TableColumn {
        table,
        name,
        kind,
        bytes_max,
        generated,
        optional: optional || generated || nullable,
        nullable,
    };
    Ok(rows.into_iter().map(column).collect())
}

/// Checks that all tables are InnoDB: other engines keep the partial writes of a failed
/// transaction.
async fn transactional(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<(), ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(engine AS CHAR) FROM information_schema.tables
         WHERE engine <> 'InnoDB' AND table_schema = ? AND table_name IN ";
    let sql = format!("{sql}{}", written_tables(tables));
    let other: Option<(String, String)> = execute::first(connection, &sql, (database,)).await?;
    let Some((table, engine)) = other else { return Ok(()) };
    let table = format!("{}.{}", quoted(database), quoted(&table));
    Err(ShardError::Faulty(format!(
        "{table} has the engine {engine}, but writes need the transactions of InnoDB; change it: \
         ALTER TABLE {table} ENGINE = InnoDB, or set write.enabled = false"
    )))
}

/// Warnings about side effects of writes, such as triggers.
pub(super) async fn side_effects(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let (posts, follows) = (&tables.posts, &tables.follows);
    let mut findings = Vec::new();
    let sql = "SELECT CAST(extra AS CHAR) FROM information_schema.columns
         WHERE table_schema = ? AND table_name = ? AND column_name = ?";
    let extra: Option<String> =
        execute::first(connection, sql, (database, &posts.name, &posts.id)).await?;
    if extra.is_some_and(|extra| extra.contains("auto_increment")) {
        let text = format!(
            "`{}` of `{}` is AUTO_INCREMENT: after the first post written by Tributary, it continues \
             from ids of 19 digits, for all other programs too",
            posts.id, posts.name
        );
        findings.push(Finding::warning("auto_increment", text).cure(
            "use 64-bit ids in all columns that refer to posts and in all programs that read them",
        ));
    }
    let sql = "SELECT CAST(trigger_name AS CHAR) FROM information_schema.triggers
         WHERE event_object_schema = ? AND event_object_table IN (?, ?) LIMIT 5";
    let triggers: Vec<String> =
        execute::rows(connection, sql, (database, &posts.name, &follows.name)).await?;
    if !triggers.is_empty() {
        let text = format!("triggers fire on writes: `{}`", triggers.join("`, `"));
        let cure =
            "remove triggers that alter a post: answers contain the text as sent, not as stored";
        findings.push(Finding::warning("triggers", text).cure(cure));
    }
    Ok(findings)
}

/// Checks that removed rows can be hidden: the mark of a hidden row must be known, and the column
/// able to hold it.
fn removals(tables: &Tables, columns: &[TableColumn]) -> Result<(), ShardError> {
    let of_both = [
        ("posts", "deleted post", &tables.posts.name, tables.posts.removal()),
        ("follows", "removed follow", &tables.follows.name, tables.follows.removal()),
    ];
    for (section, row, table, removal) in of_both {
        match removal {
            Removal::Hide(condition, Mark::Now) if !is_time(columns, table, condition) => {
                return Err(ShardError::Faulty(format!(
                    "`{}` of `{table}` cannot hold a date; add its value for a {row}, hidden = \
                     ..., to tables.{section}.visible, or set write.enabled = false",
                    condition.column
                )));
            }
            Removal::Unknown => {
                return Err(ShardError::Faulty(format!(
                    "how a {row} is marked in `{table}` is unknown; add hidden = ... to one \
                     condition of tables.{section}.visible (\"DELETE\" deletes the row), or set \
                     write.enabled = false"
                )));
            }
            Removal::Hide(..) | Removal::Delete => {}
        }
    }
    Ok(())
}

/// Checks that new rows can be made visible: a condition NOT NULL gets the time of the write.
fn new_rows(tables: &Tables, columns: &[TableColumn]) -> Result<(), ShardError> {
    let (follows, posts) = (&tables.follows, &tables.posts);
    let of_follows = follows.conditions().iter().map(|condition| (&follows.name, condition));
    let of_posts = posts.conditions().iter().map(|condition| (&posts.name, condition));
    for (table, condition) in of_follows.chain(of_posts) {
        if condition.value == Mark::NotNull && !is_time(columns, table, condition) {
            return Err(ShardError::Faulty(format!(
                "the value of `{}` in a new row of `{table}` is unknown: only a DATETIME or \
                 TIMESTAMP gets the time of the write; set write.enabled = false",
                condition.column
            )));
        }
    }
    Ok(())
}

/// Checks that the columns of references and edits can be NULL, as they are for a post without any,
/// and the post of a marker, as it is when the author is erased.
fn without_optional(tables: &Tables, columns: &[TableColumn]) -> Result<(), ShardError> {
    let posts = &tables.posts;
    let of_posts = posts.optional_columns().map(|column| (&posts.name, column.as_str()));
    let of_markers = tables.read_markers.iter().flat_map(|markers| {
        MARKER_COLUMNS_OF_POST.into_iter().map(|column| (&markers.name, column))
    });
    let is_strict = |(table, name): &(&String, &str)| {
        let is = |column: &&TableColumn| same(&column.table, table) && same(&column.name, name);
        columns.iter().find(is).is_some_and(|column| !column.nullable)
    };
    let Some((table, name)) = of_posts.chain(of_markers).find(is_strict) else { return Ok(()) };
    let (table, column) = (quoted(table), quoted(name));
    Err(ShardError::Faulty(format!(
        "{column} of {table} cannot be NULL, as a row without a value needs it; change it: \
         ALTER TABLE {table} MODIFY {column} BIGINT UNSIGNED NULL, or set write.enabled = false"
    )))
}

fn is_time(columns: &[TableColumn], table: &str, condition: &Condition) -> bool {
    columns
        .iter()
        .filter(|column| same(&column.table, table) && same(&column.name, &condition.column))
        .any(|column| ["datetime", "timestamp"].contains(&column.kind.as_str()))
}

/// Checks that the table of idempotency keys exists.
fn keys_table(database: &str, columns: &[TableColumn]) -> Result<(), ShardError> {
    if columns.iter().any(|column| column.table == WRITES_TABLE) {
        return Ok(());
    }
    Err(ShardError::Faulty(format!(
        "{}.{} is missing, which writes need; create it with `tributary migrate`, \
         or set write.enabled = false",
        quoted(database),
        quoted(WRITES_TABLE)
    )))
}

fn fits(
    database: &str,
    tables: &Tables,
    column: &TableColumn,
    bytes_max: usize,
) -> Result<(), ShardError> {
    let table = format!("{}.{}", quoted(database), quoted(&column.table));
    let name = quoted(&column.name);
    let kind = column.kind.as_str();
    let wrong = |text: String| Err(ShardError::Faulty(format!("column {name} of {table} {text}")));
    match role(tables, column) {
        Role::PostId
        | Role::Time
        | Role::Content
        | Role::EditedAt
        | Role::OfMarker
        | Role::Known
            if column.generated =>
        {
            wrong("is generated, so no value can be written to it".into())
        }
        Role::PostId if kind != "bigint" => wrong(format!(
            "is {kind}, which is too small for new ids; make it BIGINT and keep its other \
             attributes (ALTER TABLE {table} MODIFY {name} BIGINT ...), or set write.enabled = false"
        )),
        Role::EditedAt if kind != "bigint" => wrong(format!(
            "is {kind}, which is too small for milliseconds; make it BIGINT UNSIGNED NULL"
        )),
        Role::OfMarker if kind != "bigint" => wrong(format!(
            "is {kind}, which is too small; make it as `tributary migrate` does: BIGINT"
        )),
        Role::Time if kind != "bigint" && counts_finely(tables.posts.unit) => wrong(format!(
            "is {kind}, which is too small for the current time in {}; make it BIGINT and keep its \
             other attributes",
            tables.posts.unit
        )),
        Role::Content if !EXACT_TEXTS.contains(&kind) => wrong(format!(
            "is {kind}, which does not store every text unchanged; change it: ALTER TABLE {table} \
             MODIFY {name} TEXT NOT NULL"
        )),
        Role::Content => match column.bytes_max {
            Some(held) if held < bytes_max as u64 => wrong(format!(
                "holds {held} bytes, but write.content_bytes_max is {bytes_max}; set it to {held} \
                 at most"
            )),
            _ => Ok(()),
        },
        Role::Other if !column.optional => wrong(format!(
            "has no default and is not in the mapping, so no row can be inserted; give it one: \
             ALTER TABLE {table} ALTER {name} SET DEFAULT ..."
        )),
        Role::PostId | Role::Time | Role::EditedAt | Role::OfMarker | Role::Known | Role::Other => {
            Ok(())
        }
    }
}

/// The role of a column in writes.
enum Role {
    PostId,
    Time,
    Content,
    EditedAt,
    /// A column of read markers.
    OfMarker,
    /// A column that is written and needs no further check.
    Known,
    /// A column outside the mapping.
    Other,
}

fn role(tables: &Tables, column: &TableColumn) -> Role {
    let posts = &tables.posts;
    let is = |name: &String| same(name, &column.name);
    if let Some((_, list)) = tables.lists().find(|(_, list)| same(&column.table, &list.name)) {
        let known = is(&list.follower)
            || is(&list.followed)
            || list.conditions().iter().any(|condition| is(&condition.column));
        return if known { Role::Known } else { Role::Other };
    }
    if tables.read_markers.iter().any(|markers| same(&column.table, &markers.name)) {
        let known = MARKER_COLUMNS.iter().any(|name| same(name, &column.name));
        return if known { Role::OfMarker } else { Role::Other };
    }
    if !same(&column.table, &posts.name) {
        return Role::Known;
    }
    let mark = posts.conditions().iter().any(|condition| is(&condition.column));
    match () {
        () if is(&posts.id) => Role::PostId,
        () if is(&posts.time) => Role::Time,
        () if is(&posts.content) => Role::Content,
        () if posts.edited_at.as_ref().is_some_and(is) => Role::EditedAt,
        () if is(&posts.author) || mark => Role::Known,
        () => Role::Other,
    }
}

fn counts_finely(unit: TimeUnit) -> bool {
    matches!(unit, TimeUnit::Milliseconds | TimeUnit::Microseconds)
}

/// Checks the rights: EXPLAIN of each statement needs the same rights as the statement.
async fn rights<'a>(
    connection: &mut Conn,
    database: &str,
    writes: impl Iterator<Item = &'a str>,
) -> Result<(), ShardError> {
    for sql in writes {
        let plan: Result<(), Error> = async {
            let statement = connection.prep(format!("EXPLAIN {sql}")).await?;
            // EXPLAIN accepts any values.
            let values = vec![Value::Int(0); statement.num_params().into()];
            connection.exec_drop(&statement, values).await?;
            connection.close(statement).await
        }
        .await;
        let Err(error) = plan else { continue };
        let Error::Server(server) = &error else { return Err(error.into()) };
        let code = server.code;
        if execute::is_about_preparing(code) {
            // A write will report a missing right.
            continue;
        }
        return Err(match ShardError::from(error) {
            error @ (ShardError::ReadOnly(_) | ShardError::Slow(_)) => error,
            error if UNAVAILABLE_CODES.contains(&code) => error,
            // Any other error prevents writes only; reads were checked before.
            error => {
                let cure = match code {
                    1044 | 1142 | 1143 => grant(database, &account(connection).await?),
                    _ => String::new(),
                };
                ShardError::Faulty(format!("{error}; {cure}set write.enabled = false"))
            }
        });
    }
    Ok(())
}

fn grant(database: &str, account: &str) -> String {
    let rights = "SELECT, INSERT, UPDATE, DELETE";
    let database = quoted(database);
    format!("give the account its rights: GRANT {rights} ON {database}.* TO {account}, or ")
}
