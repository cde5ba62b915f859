//! Checks that a server's log contains every change of a shard's tables, and that the account may
//! read it. Memory follows the log, so a change missing there would make memory permanently wrong.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::check::{account, same};
use super::execute;
use super::source::{reads_definitions, served_tables, show_generated_keys};
use super::text_of;
use crate::changes::rows::ServedTable;
use crate::mapping::Tables;
use crate::model::ShardId;
use crate::shard::schema::quoted;
use crate::shard::{Finding, ShardError};

/// The consequence of a missing right or a wrong setting.
pub(super) const BREAKS_FEED: &str = "memory cannot follow the server's log";

/// The statement that returns the end of the log. MySQL 8.4 and later know only the new one, and
/// MariaDB and older MySQL servers only the old one. The version in the greeting is not used: it
/// may be that of a proxy.
pub(super) async fn log_status(connection: &mut Conn) -> Result<&'static str, Error> {
    match connection.query_drop("SHOW BINARY LOG STATUS").await {
        Err(Error::Server(error)) if error.code == 1064 => Ok("SHOW MASTER STATUS"),
        // The server knows the statement, but a privilege is missing.
        Err(Error::Server(error)) if error.code == 1227 => Ok("SHOW BINARY LOG STATUS"),
        outcome => outcome.map(|()| "SHOW BINARY LOG STATUS"),
    }
}

/// Warnings about missing rights: to read the log, to query its end, and to read the definitions
/// through which a statement in it can change served tables.
pub(super) async fn rights(connection: &mut Conn) -> Result<Vec<Finding>, ShardError> {
    let grants: Vec<String> = connection.query("SHOW GRANTS").await?;
    let may_read = |grant: &String| {
        let on_all = grant.contains(" ON *.* ");
        let names = ["ALL PRIVILEGES", "REPLICATION SLAVE", "REPLICATION REPLICA"];
        on_all && names.iter().any(|name| grant.contains(name))
    };
    let mut findings = Vec::new();
    if !grants.iter().any(may_read) {
        let text = format!("the account has no right to read the server's log: {BREAKS_FEED}");
        let cure = format!("GRANT REPLICATION SLAVE ON *.* TO {}", account(connection).await?);
        findings.push(Finding::warning("no_replication_right", text).cure(cure));
    }
    let status = log_status(connection).await?;
    match connection.query_drop(status).await {
        Ok(()) => {}
        Err(Error::Server(error)) if error.code == 1227 => {
            let text = format!(
                "the account has no right to query the end of the server's log: {BREAKS_FEED}"
            );
            let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {}", account(connection).await?);
            findings.push(Finding::warning("no_replication_right", text).cure(cure));
        }
        Err(error) => return Err(error.into()),
    }
    if findings.is_empty() && !reads_definitions(&grants) {
        let text = "the account may not read the triggers, routines and views of the whole server; \
                    if a program logs a change as a statement (a heartbeat, for example), memory \
                    drops all that it holds of the server, unless the change is in the database \
                    `mysql`";
        let cure =
            format!("GRANT SELECT, SHOW VIEW, TRIGGER ON *.* TO {}", account(connection).await?);
        findings.push(Finding::warning("no_definition_right", text).cure(cure));
    }
    Ok(findings)
}

/// A warning if a server applies replicated changes without logging them. `found` holds its
/// variables.
pub(super) fn unlogged_replication(found: &BTreeMap<String, String>) -> Option<Finding> {
    let is = |name: &str, value: &str| {
        found.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    let copies = is("read_only", "ON") || is("wsrep_on", "ON");
    let names = ["log_replica_updates", "log_slave_updates"];
    let name = names.into_iter().find(|name| found.contains_key(*name))?;
    (copies && is(name, "OFF")).then(|| {
        let text =
            format!("{name} is OFF on a server that applies replicated changes: {BREAKS_FEED}");
        let cure = format!("set {name} = ON in the server's configuration, and restart it");
        Finding::warning("server_setting", text).cure(cure)
    })
}

/// Warnings about changes of a shard's rows that the log does not contain.
pub(super) async fn unlogged_changes(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let mut findings = cascades(connection, database, tables).await?;
    findings.extend(excluded_from_log(connection, database).await?);
    findings.extend(unfollowable(connection, database, tables).await?);
    Ok(findings)
}

/// Warnings about tables whose logged rows cannot be followed.
async fn unfollowable(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    show_generated_keys(connection).await?;
    let hidden = hidden_columns(connection, database).await?;
    let mut findings = Vec::new();
    for (role, name) in served_tables(tables) {
        let table = (database.to_owned(), name.clone());
        let table = ServedTable::undefined(ShardId(0), table, role, true);
        let table = table.defined(connection, tables).await?;
        let hides = hidden.iter().any(|hidden| same(hidden, &name));
        let why = table.unfollowable.clone();
        if let Some(why) = why.or_else(|| hides.then(|| table.with_hidden_columns())) {
            let text = format!("{}; pages of this shard are read from the database", why.reason);
            findings.push(Finding::warning("unfollowable_table", text).cure(why.cure));
        }
    }
    Ok(findings)
}

/// The tables with hidden columns in a log without column names: those with a unique index over a
/// long text, for which MariaDB stores a hash.
async fn hidden_columns(connection: &mut Conn, database: &str) -> Result<Vec<String>, ShardError> {
    let sql = "SHOW GLOBAL VARIABLES LIKE 'binlog_row_metadata'";
    let metadata: Option<(String, String)> = connection.query_first(sql).await?;
    if metadata.is_some_and(|(_, value)| value.eq_ignore_ascii_case("FULL")) {
        return Ok(Vec::new());
    }
    let sql = "SELECT DISTINCT CAST(s.table_name AS CHAR) FROM information_schema.statistics AS s
         JOIN information_schema.columns AS c ON c.table_schema = s.table_schema
             AND c.table_name = s.table_name AND c.column_name = s.column_name
         WHERE s.table_schema = ? AND c.table_schema = ? AND s.index_type = 'HASH'
             AND s.non_unique = 0 AND s.sub_part IS NULL AND c.character_octet_length > 3072";
    Ok(execute::rows(connection, sql, (database, database)).await?)
}

/// Warnings about foreign keys that change rows of the tables, for example by ON DELETE CASCADE.
/// The storage engine makes these changes, and the log does not contain them.
async fn cascades(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    // MySQL 9.6 and later logs them, unless this variable restores the old behaviour.
    let sql = "SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'";
    let native: Option<(String, String)> = connection.query_first(sql).await?;
    if native.is_some_and(|(_, value)| matches!(value.as_str(), "OFF" | "0")) {
        return Ok(Vec::new());
    }
    let sql = "SELECT CAST(r.table_name AS CHAR), CAST(r.constraint_name AS CHAR),
             CAST(k.column_name AS CHAR), r.delete_rule = 'CASCADE',
             r.delete_rule IN ('SET NULL', 'SET DEFAULT')
                 OR r.update_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT')
         FROM information_schema.referential_constraints AS r
         JOIN information_schema.key_column_usage AS k
             ON k.constraint_schema = r.constraint_schema
             AND k.constraint_name = r.constraint_name AND k.table_name = r.table_name
         WHERE r.constraint_schema = ?";
    type Key = (String, String, String, bool, bool);
    let keys: Vec<Key> = execute::rows(connection, sql, (database,)).await?;
    let mapped = mapped(tables);
    let mut found: BTreeMap<(String, String), Finding> = BTreeMap::new();
    for (table, key, column, deletes, alters) in keys {
        let Some((_, columns)) = mapped.iter().find(|(name, _)| same(name, &table)) else {
            continue;
        };
        if deletes || alters && columns.iter().any(|name| same(name, &column)) {
            let (table, key) = (quoted(&table), quoted(&key));
            let text = format!(
                "foreign key {key} changes rows of {table}, and the log does not contain these \
                 changes: memory must not be used"
            );
            let cure = format!(
                "ALTER TABLE {}.{table} DROP FOREIGN KEY {key}, and let programs delete these \
                 rows themselves",
                quoted(database)
            );
            let finding = Finding::warning("untold_changes", text).cure(cure);
            found.insert((table, key), finding);
        }
    }
    Ok(found.into_values().collect())
}

/// The tables and columns of the mapping.
fn mapped(tables: &Tables) -> Vec<(&str, Vec<&str>)> {
    let (follows, posts) = (&tables.follows, &tables.posts);
    let mut of_follows = vec![follows.follower.as_str(), follows.followed.as_str()];
    of_follows.extend(follows.conditions().iter().map(|condition| condition.column.as_str()));
    let columns = [&posts.id, &posts.author, &posts.content, &posts.time];
    let mut of_posts = columns.map(String::as_str).to_vec();
    of_posts.extend(posts.conditions().iter().map(|condition| condition.column.as_str()));
    let mut mapped = vec![(follows.name.as_str(), of_follows), (posts.name.as_str(), of_posts)];
    mapped.extend(
        tables.users.iter().map(|u| (u.name.as_str(), u.columns().map(String::as_str).collect())),
    );
    mapped
}

/// A warning if the server excludes this database from its log.
async fn excluded_from_log(
    connection: &mut Conn,
    database: &str,
) -> Result<Option<Finding>, ShardError> {
    let status = log_status(connection).await?;
    let row: Option<Row> = match connection.query_first(status).await {
        Ok(row) => row,
        // The checks of the server report a missing right or a proxy.
        Err(Error::Server(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(row) = row else { return Ok(None) };
    let (only, without) = (text_of(&row, 2), text_of(&row, 3));
    let lists = |list: &str| list.split(',').any(|name| name.trim() == database);
    let out = !only.is_empty() && !lists(&only) || lists(&without);
    Ok(out.then(|| {
        let text = format!(
            "{} is excluded from the server's log, so memory cannot follow it",
            quoted(database)
        );
        Finding::warning("untold_changes", text)
            .cure("remove binlog_do_db and binlog_ignore_db from its configuration, and restart it")
    }))
}
