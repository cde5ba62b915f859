//! Does a server's log tell all that happens to a shard's tables, and may it be read? Memory, which
//! follows the log, would be wrong for ever where it does not.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::check::{account, same};
use super::source::is_mariadb;
use super::text_of;
use crate::mapping::Tables;
use crate::shard::schema::quoted;
use crate::shard::{Finding, ShardError};

/// What a missing right or setting comes to.
pub(super) const BREAKS_FEED: &str = "memory cannot follow the server's log without it";

/// The statement that asks for the end of the log. Newer servers do not know the older words any
/// more.
pub(super) async fn log_status(connection: &mut Conn) -> Result<&'static str, ShardError> {
    let old = is_mariadb(connection).await? || connection.server_version() < (8, 4, 0);
    Ok(if old { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" })
}

/// The rights to read the log and to know its end.
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
            let text =
                format!("the account has no right to know the end of the log: {BREAKS_FEED}");
            let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {}", account(connection).await?);
            findings.push(Finding::warning("no_replication_right", text).cure(cure));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(findings)
}

/// A server that others write to must log what it takes over from them. `found` are its variables.
pub(super) fn unlogged_replication(found: &BTreeMap<String, String>) -> Option<Finding> {
    let is = |name: &str, value: &str| {
        found.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    let copies = is("read_only", "ON") || is("wsrep_on", "ON");
    let names = ["log_replica_updates", "log_slave_updates"];
    let name = names.into_iter().find(|name| found.contains_key(*name))?;
    (copies && is(name, "OFF")).then(|| {
        let text =
            format!("{name} is OFF on a server that takes over changes of others: {BREAKS_FEED}");
        let cure = format!("{name} = ON in the server's configuration, and a restart");
        Finding::warning("server_setting", text).cure(cure)
    })
}

/// What happens to a shard's rows without a word in the log.
pub(super) async fn unlogged_changes(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    let mut findings = cascades(connection, database, tables).await?;
    findings.extend(excluded_from_log(connection, database).await?);
    Ok(findings)
}

/// Foreign keys by which a change elsewhere changes the tables: the storage engine does it, and the
/// log does not tell it.
async fn cascades(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Vec<Finding>, ShardError> {
    // Since 9.6 the log of MySQL tells them, unless this says that it is as of old.
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
    let keys: Vec<Key> = connection.exec(sql, (database,)).await?;
    let mapped = mapped(tables);
    let mut found: BTreeMap<(String, String), Finding> = BTreeMap::new();
    for (table, key, column, deletes, alters) in keys {
        let Some((_, columns)) = mapped.iter().find(|(name, _)| same(name, &table)) else {
            continue;
        };
        if deletes || alters && columns.iter().any(|name| same(name, &column)) {
            let (table, key) = (quoted(&table), quoted(&key));
            let text = format!(
                "the foreign key {key} changes rows of {table} when others change, and the log does \
                 not tell it: memory must not be used"
            );
            let cure = format!(
                "ALTER TABLE {}.{table} DROP FOREIGN KEY {key}, and programs that delete these \
                 rows themselves",
                quoted(database)
            );
            let finding = Finding::warning("untold_changes", text).cure(cure);
            found.insert((table, key), finding);
        }
    }
    Ok(found.into_values().collect())
}

/// The tables and columns that are read.
fn mapped(tables: &Tables) -> Vec<(&str, Vec<&str>)> {
    let (follows, posts) = (&tables.follows, &tables.posts);
    let visible = posts.visible.iter().map(|visible| visible.column.as_str());
    let columns = [&posts.id, &posts.author, &posts.content, &posts.time].map(String::as_str);
    let mut mapped = vec![
        (follows.name.as_str(), vec![follows.follower.as_str(), follows.followed.as_str()]),
        (posts.name.as_str(), columns.into_iter().chain(visible).collect()),
    ];
    mapped.extend(
        tables.users.iter().map(|u| (u.name.as_str(), vec![u.id.as_str(), u.handle.as_str()])),
    );
    mapped
}

/// A server may leave whole databases out of its log.
async fn excluded_from_log(
    connection: &mut Conn,
    database: &str,
) -> Result<Option<Finding>, ShardError> {
    let status = log_status(connection).await?;
    let row: Option<Row> = match connection.query_first(status).await {
        Ok(row) => row,
        // A right that is missing is told for the server.
        Err(Error::Server(error)) if error.code == 1227 => None,
        Err(error) => return Err(error.into()),
    };
    let Some(row) = row else { return Ok(None) };
    let (only, without) = (text_of(&row, 2), text_of(&row, 3));
    let lists = |list: &str| list.split(',').any(|name| name.trim() == database);
    let out = !only.is_empty() && !lists(&only) || lists(&without);
    Ok(out.then(|| {
        let text = format!("{} is left out of the server's log: {BREAKS_FEED}", quoted(database));
        Finding::warning("untold_changes", text)
            .cure("no binlog_do_db and no binlog_ignore_db in its configuration, and a restart")
    }))
}
