//! Is a database as it must be? Every fault is told with its cure.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use crate::shard::ShardError;
use crate::shard::schema::{mysql_tables, quoted};

/// The indexes that reads go over, by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexes {
    pub(super) posts: String,
    pub(super) follows: String,
}

const POSTS_COLUMNS: &str = "tweet_id, user_id, content, timestamp";
const FOLLOWS_COLUMNS: &str = "follower_user_id, followed_user_id";

/// Checks that both tables can be read, that times are integers, and that reads have their indexes.
pub(super) async fn tables(connection: &mut Conn, database: &str) -> Result<Indexes, ShardError> {
    let [create_follows, create_posts] = mysql_tables(database);
    readable(connection, database, "followers", FOLLOWS_COLUMNS, &create_follows).await?;
    readable(connection, database, "tweets", POSTS_COLUMNS, &create_posts).await?;
    integer_times(connection, database).await?;
    let quoted = quoted(database);
    let posts = index(connection, database, "tweets", &["user_id", "timestamp", "tweet_id"]);
    let posts = posts.await?.ok_or_else(|| {
        ShardError::Faulty(format!(
            "table {quoted}.`tweets` has no index to read an author's newest posts with; make one: \
             CREATE INDEX tributary_tail ON {quoted}.`tweets` (user_id, timestamp, tweet_id)"
        ))
    })?;
    let follows = index(connection, database, "followers", &["follower_user_id"]);
    let follows = follows.await?.ok_or_else(|| {
        ShardError::Faulty(format!(
            "table {quoted}.`followers` has no index to read a follow list with; make one: CREATE \
             INDEX tributary_follows ON {quoted}.`followers` (follower_user_id, followed_user_id)"
        ))
    })?;
    Ok(Indexes { posts, follows })
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

async fn integer_times(connection: &mut Conn, database: &str) -> Result<(), ShardError> {
    let sql = "SELECT CAST(data_type AS CHAR) FROM information_schema.columns
         WHERE table_schema = ? AND table_name = 'tweets' AND column_name = 'timestamp'";
    let kind: Option<String> = connection.exec_first(sql, (database,)).await?;
    match kind {
        Some(kind) if !kind.to_lowercase().ends_with("int") => Err(ShardError::Faulty(format!(
            "column timestamp of {}.`tweets` is of type {kind}; it must be an integer that counts \
             milliseconds since 1970 in UTC, such as BIGINT",
            quoted(database)
        ))),
        _ => Ok(()),
    }
}

/// The name of an index that starts with `columns`. An InnoDB index ends with the primary key's
/// columns, declared or not, so (user_id, timestamp) is enough where `tweet_id` is the primary key.
async fn index(
    connection: &mut Conn,
    database: &str,
    table: &str,
    columns: &[&str],
) -> Result<Option<String>, ShardError> {
    let sql = "SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR)
         FROM information_schema.statistics WHERE table_schema = ? AND table_name = ?
         ORDER BY index_name = 'PRIMARY' DESC, index_name, seq_in_index";
    let rows: Vec<(String, Option<String>)> = connection.exec(sql, (database, table)).await?;
    Ok(choose_index(&rows, columns))
}

/// `rows` are (index, column) in order, the primary key first.
fn choose_index(rows: &[(String, Option<String>)], columns: &[&str]) -> Option<String> {
    let of = |name: &str| -> Vec<String> {
        let columns = rows.iter().filter(|(index, _)| index == name);
        columns.map(|(_, column)| column.clone().unwrap_or_default().to_lowercase()).collect()
    };
    let primary = of("PRIMARY");
    let mut names: Vec<&String> = rows.iter().map(|(index, _)| index).collect();
    names.dedup();
    let fits = |name: &&&String| {
        let mut index = of(name);
        if ***name != "PRIMARY" {
            index.extend(primary.iter().cloned());
        }
        index.len() >= columns.len() && index.iter().zip(columns).all(|(a, b)| a == b)
    };
    names.iter().find(fits).map(|name| (*name).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(declared: &[(&str, &[&str])], columns: &[&str]) -> Option<String> {
        let rows: Vec<(String, Option<String>)> = declared
            .iter()
            .flat_map(|(name, columns)| {
                columns.iter().map(|column| ((*name).to_owned(), Some((*column).to_owned())))
            })
            .collect();
        choose_index(&rows, columns)
    }

    #[test]
    fn an_index_fits_when_it_starts_with_the_columns_the_primary_key_behind_it() {
        let wanted = ["user_id", "timestamp", "tweet_id"];
        let primary: (&str, &[&str]) = ("PRIMARY", &["tweet_id"]);
        assert_eq!(index(&[("PRIMARY", &wanted)], &wanted).unwrap(), "PRIMARY");
        assert_eq!(index(&[primary, ("a", &["user_id"])], &wanted), None);
        let short: (&str, &[&str]) = ("b", &["USER_ID", "timestamp"]);
        assert_eq!(index(&[primary, ("a", &["user_id"]), short], &wanted).unwrap(), "b");
        let swapped: (&str, &[&str]) = ("c", &["user_id", "tweet_id", "timestamp"]);
        assert_eq!(index(&[primary, swapped], &wanted), None);
        assert_eq!(index(&[("PRIMARY", &["other"]), short], &wanted), None);
    }
}
