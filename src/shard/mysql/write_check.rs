//! Can a database be written as it must be? Every fault is told with its cure. Nothing is written
//! to find out.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Value};

use crate::shard::ShardError;
use crate::shard::schema::quoted;

/// The kinds of column that keep a text as it is; CHAR loses blanks, ENUM and JSON are not texts.
const TEXTS: [&str; 10] = [
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

/// A column as it is declared.
struct Column {
    table: String,
    name: String,
    kind: String,
    bytes_max: Option<u64>,
    /// A row can be made without a word of it.
    optional: bool,
}

/// Checks that posts and follows can be written by the statements `writes`, texts up to `bytes_max`.
pub(super) async fn tables(
    connection: &mut Conn,
    name: &str,
    bytes_max: usize,
    writes: &[&str],
) -> Result<(), ShardError> {
    let columns = columns(connection, name).await?;
    keys_table(name, &columns)?;
    columns.iter().try_for_each(|column| fits(name, column, bytes_max))?;
    rights(connection, name, writes).await
}

async fn columns(connection: &mut Conn, database: &str) -> Result<Vec<Column>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), LOWER(CAST(column_name AS CHAR)),
             LOWER(CAST(data_type AS CHAR)), CAST(character_octet_length AS UNSIGNED),
             is_nullable = 'YES' OR column_default IS NOT NULL OR extra LIKE '%auto_increment%'
                 OR extra LIKE '%GENERATED%'
         FROM information_schema.columns
         WHERE table_schema = ? AND table_name IN ('tweets', 'followers', 'tributary_writes')";
    let rows: Vec<(String, String, String, Option<u64>, bool)> =
        connection.exec(sql, (database,)).await?;
    let column = |(table, name, kind, bytes_max, optional)| Column {
        table,
        name,
        kind,
        bytes_max,
        optional,
    };
    Ok(rows.into_iter().map(column).collect())
}

/// Our own table holds what is known of idempotency keys.
fn keys_table(database: &str, columns: &[Column]) -> Result<(), ShardError> {
    if columns.iter().any(|column| column.table == "tributary_writes") {
        return Ok(());
    }
    Err(ShardError::Faulty(format!(
        "{}.`tributary_writes` is missing, which writing needs; make it with `tributary migrate`, \
         or set write.enabled = false",
        quoted(database)
    )))
}

fn fits(database: &str, column: &Column, bytes_max: usize) -> Result<(), ShardError> {
    let table = format!("{}.`{}`", quoted(database), column.table);
    let name = quoted(&column.name);
    let wrong = |text: String| Err(ShardError::Faulty(format!("column {name} of {table} {text}")));
    match (column.table.as_str(), column.name.as_str()) {
        ("tributary_writes", _) | ("followers", "follower_user_id" | "followed_user_id") => Ok(()),
        ("tweets", "tweet_id") if column.kind != "bigint" => wrong(format!(
            "is {}, which is too small for new ids; change it: ALTER TABLE {table} MODIFY {name} \
             BIGINT UNSIGNED NOT NULL",
            column.kind
        )),
        ("tweets", "timestamp") if column.kind != "bigint" => wrong(format!(
            "is {}, which holds no milliseconds of today; change it: ALTER TABLE {table} MODIFY \
             {name} BIGINT NOT NULL",
            column.kind
        )),
        ("tweets", "content") if !TEXTS.contains(&column.kind.as_str()) => wrong(format!(
            "is {}, which does not keep every text as it is; change it: ALTER TABLE {table} MODIFY \
             {name} TEXT NOT NULL",
            column.kind
        )),
        ("tweets", "content") => match column.bytes_max {
            Some(held) if held < bytes_max as u64 => wrong(format!(
                "holds {held} bytes and write.content_bytes_max is {bytes_max}; set it to {held} \
                 at most"
            )),
            _ => Ok(()),
        },
        ("tweets", "user_id" | "tweet_id" | "timestamp") => Ok(()),
        _ if column.optional => Ok(()),
        _ => wrong(format!(
            "has no default and is not known here, so no row could be made; give it one: ALTER \
             TABLE {table} ALTER {name} SET DEFAULT ..."
        )),
    }
}

/// Lets the server plan every statement, for which it wants the same rights as to run it.
async fn rights(connection: &mut Conn, database: &str, writes: &[&str]) -> Result<(), ShardError> {
    for sql in writes {
        let plan: Result<(), Error> = async {
            let statement = connection.prep(format!("EXPLAIN {sql}")).await?;
            // Values of any kind will do.
            let values = vec![Value::Int(0); statement.num_params().into()];
            connection.exec_drop(&statement, values).await?;
            connection.close(statement).await
        }
        .await;
        let Err(error) = plan else { continue };
        return Err(match ShardError::from(error) {
            ShardError::Faulty(text) => ShardError::Faulty(format!(
                "{text}; give the account its rights: GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* \
                 TO ..., or set write.enabled = false",
                quoted(database)
            )),
            other => other,
        });
    }
    Ok(())
}
