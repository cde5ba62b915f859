//! Is a database as it must be? Every fault is told with its cure.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row, Value};

use super::statements::Statements;
use crate::shard::ShardError;
use crate::shard::schema::{mysql_tables, quoted};

/// What reads and writes need to know of the indexes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexes {
    /// The one that an author's posts are read over.
    pub(super) posts: String,
    /// The one that a follow list is read over.
    pub(super) follows: String,
    /// Whether inserting a row again leaves one row, else which key is missing.
    pub(super) loadable: Result<(), String>,
}

const POSTS_COLUMNS: &str = "tweet_id, user_id, content, timestamp";
const FOLLOWS_COLUMNS: &str = "follower_user_id, followed_user_id";
const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];

/// Checks that both tables can be read as pages need it, and returns the statements to do so.
pub(super) async fn tables(connection: &mut Conn, name: &str) -> Result<Statements, ShardError> {
    let [create_follows, create_posts] = mysql_tables(name);
    readable(connection, name, "followers", FOLLOWS_COLUMNS, &create_follows).await?;
    readable(connection, name, "tweets", POSTS_COLUMNS, &create_posts).await?;
    integers(connection, name).await?;
    let posts = declared(connection, name, "tweets").await?;
    let follows = declared(connection, name, "followers").await?;
    let statements = Statements::new(name, choose(&quoted(name), &posts, &follows)?);
    // The proof of it all: a right may be for some columns only.
    for (sql, values) in statements.reads() {
        let proof: Result<Vec<Row>, Error> =
            connection.exec(sql, vec![Value::UInt(0); values]).await;
        proof.map_err(|error| match ShardError::from(error) {
            ShardError::Faulty(text) => ShardError::Faulty(format!(
                "{text}; the indexes and columns of both tables must be usable by this account"
            )),
            other => other,
        })?;
    }
    Ok(statements)
}

async fn readable(
    connection: &mut Conn,
    database: &str,
    table: &str,
    columns: &str,
    create: &str,
) -> Result<(), ShardError> {
    let database = quoted(database);
    let probe = format!("SELECT {columns} FROM {database}.`{table}` LIMIT 0");
    let Err(error) = connection.query_drop(probe).await else { return Ok(()) };
    let Error::Server(server) = &error else { return Err(error.into()) };
    let cure = match server.code {
        1049 | 1146 => format!("; make it: CREATE DATABASE IF NOT EXISTS {database}; {create}"),
        1054 => format!("; `{table}` must have the columns {columns}"),
        1044 | 1142 | 1143 => {
            format!("; give the account its rights: GRANT SELECT ON {database}.* TO ...")
        }
        _ => return Err(error.into()),
    };
    Err(ShardError::Faulty(format!("{}{cure}", server.message)))
}

/// Ids and times are compared as numbers here, so the database must compare them so too.
async fn integers(connection: &mut Conn, database: &str) -> Result<(), ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR), CAST(data_type AS CHAR)
         FROM information_schema.columns
         WHERE table_schema = ? AND (table_name, column_name) IN
             (('tweets', 'tweet_id'), ('tweets', 'user_id'), ('tweets', 'timestamp'),
              ('followers', 'follower_user_id'), ('followers', 'followed_user_id'))";
    let columns: Vec<(String, String, String)> = connection.exec(sql, (database,)).await?;
    for (table, column, kind) in columns {
        if !INTEGERS.contains(&kind.to_lowercase().as_str()) {
            let what = match column.as_str() {
                "timestamp" => "an integer that counts milliseconds since 1970 in UTC",
                _ => "an integer",
            };
            let database = quoted(database);
            return Err(ShardError::Faulty(format!(
                "column {column} of {database}.`{table}` is of type {kind}; it must be {what}, \
                 such as BIGINT"
            )));
        }
    }
    Ok(())
}

/// A table as it is declared.
#[derive(Debug)]
struct Declared {
    /// Every index ends with the columns of the primary key, declared or not: so in InnoDB, but for
    /// the order over several partitions.
    primary_behind: bool,
    /// The primary key first.
    indexes: Vec<Index>,
}

#[derive(Debug)]
struct Index {
    name: String,
    unique: bool,
    /// The optimizer may use it: it is not INVISIBLE (MySQL), not IGNORED (MariaDB).
    visible: bool,
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    descending: bool,
}

async fn declared(
    connection: &mut Conn,
    database: &str,
    table: &str,
) -> Result<Declared, ShardError> {
    let sql = "SELECT CAST(table_type AS CHAR), CAST(engine AS CHAR), CAST(create_options AS CHAR)
         FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
    type Kind = (Option<String>, Option<String>, Option<String>);
    let kind: Option<Kind> = connection.exec_first(sql, (database, table)).await?;
    let (kind, engine, options) = kind.unwrap_or_default();
    if kind.is_some_and(|kind| kind.to_uppercase().contains("VIEW")) {
        return Err(ShardError::Faulty(format!(
            "{}.`{table}` is a view, whose reads cannot be bounded; it must be a table",
            quoted(database)
        )));
    }
    let innodb = engine.is_some_and(|engine| engine.eq_ignore_ascii_case("InnoDB"));
    let partitioned = options.is_some_and(|options| options.contains("partitioned"));
    let indexes = declared_indexes(connection, database, table).await?;
    Ok(Declared { primary_behind: innodb && !partitioned, indexes })
}

async fn declared_indexes(
    connection: &mut Conn,
    database: &str,
    table: &str,
) -> Result<Vec<Index>, ShardError> {
    // All columns, since each kind of server has one of its own that the other does not know.
    let sql = "SELECT s.*, non_unique = 0 AS is_unique FROM information_schema.statistics AS s
         WHERE table_schema = ? AND table_name = ?
         ORDER BY index_name = 'PRIMARY' DESC, index_name, seq_in_index";
    let rows: Vec<Row> = connection.exec(sql, (database, table)).await?;
    let mut indexes: Vec<Index> = Vec::new();
    for row in rows {
        let text = |column: &str| -> String {
            let value: Option<Option<String>> = row.get_opt(column).and_then(Result::ok);
            value.flatten().unwrap_or_default()
        };
        let descending = text("COLLATION") == "D";
        let column = Column { name: text("COLUMN_NAME").to_lowercase(), descending };
        let name = text("INDEX_NAME");
        match indexes.last_mut().filter(|index| index.name == name) {
            Some(index) => index.columns.push(column),
            None => indexes.push(Index {
                name,
                unique: row.get("is_unique").unwrap_or(false),
                visible: text("IS_VISIBLE") != "NO" && text("IGNORED") != "YES",
                columns: vec![column],
            }),
        }
    }
    Ok(indexes)
}

/// Chooses the indexes to read over. `database` is quoted.
fn choose(database: &str, posts: &Declared, follows: &Declared) -> Result<Indexes, ShardError> {
    let missing = |table: &str, what: &str, name: &str, columns: &str| {
        ShardError::Faulty(format!(
            "table {database}.`{table}` has no index to read {what} with; make one: CREATE INDEX \
             {name} ON {database}.`{table}` ({columns})"
        ))
    };
    let tail = ["user_id", "timestamp", "tweet_id"];
    let posts_index = starting_with(posts, &tail).ok_or_else(|| {
        missing("tweets", "an author's newest posts", "tributary_tail", &tail.join(", "))
    })?;
    let follows_index = starting_with(follows, &["follower_user_id"]).ok_or_else(|| {
        missing("followers", "a follow list", "tributary_follows", FOLLOWS_COLUMNS)
    })?;
    let loadable = if !unique_over(follows, &["follower_user_id", "followed_user_id"], 2) {
        Err(format!(
            "`followers` would take a follow twice; make a key: CREATE UNIQUE INDEX \
             tributary_follow ON {database}.`followers` ({FOLLOWS_COLUMNS})"
        ))
    } else if !unique_over(posts, &["tweet_id", "user_id", "timestamp"], 1) {
        Err(format!(
            "`tweets` would take a post twice; make a key: CREATE UNIQUE INDEX tributary_post ON \
             {database}.`tweets` (tweet_id)"
        ))
    } else {
        Ok(())
    };
    Ok(Indexes { posts: posts_index, follows: follows_index, loadable })
}

/// The name of an index that starts with `columns`, all after the first in one direction, so that
/// it is read in order. (user_id, timestamp) is enough where `tweet_id` is the primary key behind it.
fn starting_with(table: &Declared, columns: &[&str]) -> Option<String> {
    let primary = table.indexes.iter().find(|index| index.name == "PRIMARY");
    let behind: &[Column] = match primary {
        Some(primary) if table.primary_behind => &primary.columns,
        _ => &[],
    };
    let fits = |index: &&Index| {
        let behind = if index.name == "PRIMARY" { &[] } else { behind };
        let all: Vec<&Column> = index.columns.iter().chain(behind).take(columns.len()).collect();
        let named = all.iter().map(|column| column.name.as_str()).eq(columns.iter().copied());
        let ordered =
            all.iter().skip(1).map(|column| column.descending).all(|d| d == all[1].descending);
        index.visible && named && ordered
    };
    table.indexes.iter().find(fits).map(|index| index.name.clone())
}

/// Whether a unique index covers the first `needed` of `columns` and no others than `columns`.
fn unique_over(table: &Declared, columns: &[&str], needed: usize) -> bool {
    table.indexes.iter().any(|index| {
        let has = |name: &str| index.columns.iter().any(|column| column.name == name);
        index.unique
            && index.columns.iter().all(|column| columns.contains(&column.name.as_str()))
            && columns[..needed].iter().all(|column| has(column))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A column ending in `-` is descending.
    fn declared(indexes: &[(&str, &[&str])]) -> Declared {
        let column = |name: &&str| Column {
            name: name.trim_end_matches('-').to_owned(),
            descending: name.ends_with('-'),
        };
        let index = |(name, columns): &(&str, &[&str])| Index {
            name: (*name).to_owned(),
            unique: *name == "PRIMARY" || name.starts_with("unique"),
            visible: !name.starts_with("hidden"),
            columns: columns.iter().map(column).collect(),
        };
        Declared { primary_behind: true, indexes: indexes.iter().map(index).collect() }
    }

    #[test]
    fn an_index_fits_when_it_starts_with_the_columns_the_primary_key_behind_it() {
        let wanted = ["user_id", "timestamp", "tweet_id"];
        let index = |indexes: &[(&str, &[&str])]| starting_with(&declared(indexes), &wanted);
        let primary: (&str, &[&str]) = ("PRIMARY", &["tweet_id"]);
        let short: (&str, &[&str]) = ("b", &["user_id", "timestamp"]);
        assert_eq!(index(&[("PRIMARY", &wanted)]).as_deref(), Some("PRIMARY"));
        assert_eq!(index(&[primary, ("a", &["user_id"])]), None);
        assert_eq!(index(&[primary, ("a", &["user_id"]), short]).as_deref(), Some("b"));
        assert_eq!(index(&[primary, ("c", &["user_id", "tweet_id", "timestamp"])]), None);
        assert_eq!(index(&[("PRIMARY", &["other"]), short]), None);
        assert_eq!(index(&[primary, ("hidden", &wanted)]), None);
        assert_eq!(index(&[primary, ("d", &["user_id", "timestamp-"])]), None, "not in order");
        let newest_first: (&str, &[&str]) = ("d", &["user_id", "timestamp-", "tweet_id-"]);
        assert_eq!(index(&[primary, newest_first]).as_deref(), Some("d"));
        let mut partitioned = declared(&[primary, short]);
        partitioned.primary_behind = false;
        assert_eq!(starting_with(&partitioned, &wanted), None);
    }

    #[test]
    fn rows_are_loaded_only_where_a_key_keeps_them_single() {
        let posts: (&str, &[&str]) = ("PRIMARY", &["user_id", "timestamp", "tweet_id"]);
        let tail: (&str, &[&str]) = ("tail", &["user_id", "timestamp", "tweet_id"]);
        let follows: (&str, &[&str]) = ("PRIMARY", &["follower_user_id", "followed_user_id"]);
        let loadable = |posts: &[(&str, &[&str])], follows: &[(&str, &[&str])]| {
            choose("`d`", &declared(posts), &declared(follows)).unwrap().loadable
        };
        assert_eq!(loadable(&[posts], &[follows]), Ok(()));
        assert_eq!(loadable(&[tail, ("unique_id", &["tweet_id"])], &[follows]), Ok(()));
        let error = loadable(&[tail], &[follows]).unwrap_err();
        assert!(error.contains("CREATE UNIQUE INDEX tributary_post"), "{error}");
        let error = loadable(&[posts], &[("f", &["follower_user_id"])]).unwrap_err();
        assert!(error.contains("CREATE UNIQUE INDEX tributary_follow"), "{error}");
    }
}
