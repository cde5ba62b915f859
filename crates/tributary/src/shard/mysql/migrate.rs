//! Creates the missing tables of a shard on a server, and adds the missing columns of references
//! and edits, with their indexes.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::dial::dial;
use super::{edits, references};
use crate::config::ServerConfig;
use crate::mapping::{ReadMarkersTable, Tables};
use crate::model::UserList;
use crate::shard::ShardError;
use crate::shard::schema::{
    OUR_TABLES, WRITES_TABLE, mysql_list_table, mysql_markers_table, mysql_tables,
    mysql_writes_table, quoted,
};

/// Time limit of each statement, except [`alter`].
const STATEMENT_MAX: Duration = Duration::from_secs(60);
/// Lets an ALTER of a large table take as long as it needs on MariaDB; MySQL limits only SELECT. It
/// waits a minute at most for transactions that use the table, because new ones then wait too.
const ALTER_SESSION: &str =
    "SET SESSION lock_wait_timeout = 60 /*M!100101 , max_statement_time = 0 */";

/// Creates the missing tables. Returns the name of each table and whether it was created now.
///
/// Posts and follows are created only in a database that holds no tables but ours, because other
/// tables may hold them under other names.
///
/// # Errors
/// [`ShardError::Unavailable`] if the server does not answer in time, else [`ShardError::Faulty`]
/// with the cure.
pub(in crate::shard) async fn make_tables(
    server: &str,
    config: &ServerConfig,
    (database, tables): (&str, &Tables),
) -> Result<Vec<(String, bool)>, ShardError> {
    let with_server = |error: ShardError| match error {
        ShardError::Unavailable(text) | ShardError::Slow(text) => {
            ShardError::Unavailable(format!("server {server}: {text}"))
        }
        other => ShardError::Faulty(format!("server {server}: {other}")),
    };
    let mut connection = dial(config, STATEMENT_MAX).await.map_err(with_server)?;
    let tables = make(&mut connection, database, tables).await.map_err(with_server)?;
    drop(connection.disconnect().await);
    Ok(tables)
}

async fn make(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<(String, bool)>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables
         WHERE table_schema = ?";
    let present: Vec<String> = connection.exec(sql, (database,)).await?;
    let is_ours = |name: &String| OUR_TABLES.contains(&name.as_str());
    let is_adopted = !tables.are_ours() || !present.iter().all(is_ours);
    let names = [&tables.follows.name, &tables.posts.name, WRITES_TABLE];
    let [follows, posts] = mysql_tables(database);
    let mut done = Vec::new();
    for (table, create) in names.into_iter().zip([follows, posts, mysql_writes_table(database)]) {
        let made = if present.iter().any(|name| name == table) {
            false
        } else if is_adopted && table != WRITES_TABLE {
            let absent = format!("{} is missing in {}", quoted(table), quoted(database));
            return Err(ShardError::Faulty(if tables.are_ours() {
                format!("{absent}, which holds other tables; create it by hand: {create}")
            } else {
                format!("{absent}; correct its name under [tables], or create it by hand")
            }));
        } else {
            make_one(connection, database, &create).await?
        };
        done.push((table.to_owned(), made));
    }
    for (_, table) in tables.lists().filter(|(list, _)| *list != UserList::Follows) {
        let is_present = present.contains(&table.name);
        let made = !is_present
            && make_one(connection, database, &mysql_list_table(Some(database), &table)).await?;
        done.push((table.name.clone(), made));
    }
    if let Some(ReadMarkersTable { name }) = &tables.read_markers {
        let create = mysql_markers_table(Some(database), name);
        let made = !present.contains(name) && make_one(connection, database, &create).await?;
        done.push((name.clone(), made));
    }
    done.extend(add_columns(connection, database, tables).await?);
    Ok(done)
}

/// Adds the missing columns of posts. Returns whether it did, with a name for the group.
async fn add_columns(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<(String, bool)>, ShardError> {
    let mut done = Vec::new();
    if let Some(references) = &tables.posts.references {
        let add = references::missing(connection, database, &tables.posts, references).await?;
        if let Some(statement) = &add {
            alter(connection, database, statement).await?;
        }
        done.push((format!("{} (references)", tables.posts.name), add.is_some()));
    }
    if let Some(column) = &tables.posts.edited_at {
        let add = edits::missing(connection, database, &tables.posts, column).await?;
        if let Some(statement) = &add {
            alter(connection, database, statement).await?;
        }
        done.push((format!("{} ({column})", tables.posts.name), add.is_some()));
    }
    Ok(done)
}

/// Adds columns and indexes to a table.
async fn alter(connection: &mut Conn, database: &str, statement: &str) -> Result<(), ShardError> {
    connection.query_drop(ALTER_SESSION).await?;
    let Err(error) = connection.query_drop(statement).await else { return Ok(()) };
    match &error {
        Error::Server(server) if matches!(server.code, 1044 | 1142) => {
            Err(ShardError::Faulty(format!(
                "{}; give the account the right, GRANT ALTER, INDEX ON {}.* TO ..., or run the \
                 statement with another account: {statement}",
                server.message,
                quoted(database)
            )))
        }
        _ => Err(error.into()),
    }
}

/// Creates one table. Returns false if it existed, but was not visible to this account.
async fn make_one(connection: &mut Conn, database: &str, create: &str) -> Result<bool, ShardError> {
    let Err(error) = connection.query_drop(create).await else { return Ok(true) };
    let Error::Server(server) = &error else { return Err(error.into()) };
    let database = quoted(database);
    let cure = match server.code {
        1050 => return Ok(false),
        1049 => format!("create it: CREATE DATABASE {database}"),
        1044 | 1142 => format!(
            "give the account the right, GRANT CREATE ON {database}.* TO ..., or create the \
             table by hand: {create}"
        ),
        _ => return Err(error.into()),
    };
    Err(ShardError::Faulty(format!("{}; {cure}", server.message)))
}
