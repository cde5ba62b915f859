//! Counts and deletes the rows of a SQLite shard that name a user.

use std::path::Path;

use rusqlite::{Connection, params};

use super::writer::open_writer;
use super::{SqliteShard, failed, gone, signed, unsigned};
use crate::mapping::Tables;
use crate::model::UserId;
use crate::shard::erasure::{UserColumn, user_columns};
use crate::shard::schema::SQLITE_LOG_TABLES;
use crate::shard::{Deadline, ShardError};

/// The columns of the log that hold ids of users. Rows about posts have a post's id in the second
/// one. The log is the last table: deleting other rows adds rows to it.
const LOG_COLUMNS: [&str; 2] = ["user_id", "other_id"];

impl SqliteShard {
    /// The columns that hold ids of users. Each has an index, except those of the log.
    pub(in crate::shard) async fn user_columns(
        &self,
        until: Deadline,
    ) -> Result<Vec<UserColumn>, ShardError> {
        self.read(until, |connection| {
            let mut table = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?")?;
            let mut columns = Vec::new();
            for column in user_columns(&Tables::with_all()) {
                if table.exists([&column.table])? {
                    columns.push(column);
                }
            }
            let [log, _] = SQLITE_LOG_TABLES;
            let rows = "SELECT coalesce(max(seq) - min(seq), 0) FROM tributary_log";
            let rows = connection.query_row(rows, [], |row| unsigned(row, 0))?;
            let of_log = LOG_COLUMNS.map(|column| UserColumn {
                scanned: Some(rows),
                ..UserColumn::new(log, column, Vec::new())
            });
            columns.extend(of_log);
            Ok(columns)
        })
        .await
    }

    pub(in crate::shard) async fn count_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        until: Deadline,
    ) -> Result<u64, ShardError> {
        let sql = format!("SELECT count(*) FROM {} WHERE {}", column.table, condition(column));
        self.read(until, move |connection| {
            connection.query_row(&sql, [signed(user.0)], |row| unsigned(row, 0))
        })
        .await
    }

    /// The deleted bytes are overwritten with zeros. Rows of the log stay without their ids,
    /// because its numbers have no gaps.
    pub(in crate::shard) async fn delete_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let (column, max) = (column.clone(), i64::try_from(max).unwrap_or(i64::MAX));
        let delete = move |connection: &Connection| {
            connection.pragma_update(None, "secure_delete", true)?;
            let [log, _] = SQLITE_LOG_TABLES;
            let clears = column.clears.iter().map(|cleared| format!("{cleared} = NULL"));
            let change = match column.table.as_str() {
                table if table == log => {
                    format!("UPDATE {log} SET user_id = -1, other_id = -1, timestamp = 0")
                }
                table if column.clears.is_empty() => format!("DELETE FROM {table}"),
                table => format!("UPDATE {table} SET {}", clears.collect::<Vec<_>>().join(", ")),
            };
            let (key, table) = (primary_key(connection, &column.table)?, &column.table);
            let rows = format!("SELECT {key} FROM {table} WHERE {} LIMIT ?2", condition(&column));
            let sql = format!("{change} WHERE ({key}) IN ({rows})");
            connection.execute(&sql, params![signed(user.0), max])
        };
        self.writer()?.run(until, delete).await
    }

    /// Overwrites the deleted bytes on disk.
    pub(in crate::shard) async fn overwrite_deleted(&self) -> Result<(), ShardError> {
        let path = self.file.path().to_owned();
        tokio::task::spawn_blocking(move || empty_log(&path)).await.map_err(gone)?
    }
}

/// Moves all commits to the file. Until then it has the deleted bytes, and its log may have them.
fn empty_log(path: &Path) -> Result<(), ShardError> {
    let truncate = |connection: Connection| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
    };
    match open_writer(path).and_then(truncate).map_err(failed)? {
        0i64 => Ok(()),
        _ => Err(ShardError::Unavailable(
            "another program reads the file, so deleted rows are still in its log".into(),
        )),
    }
}

/// The condition of rows that name the user ?1.
fn condition(UserColumn { table, column, text, .. }: &UserColumn) -> String {
    let [log, _] = SQLITE_LOG_TABLES;
    let [_, other] = LOG_COLUMNS;
    match text {
        Some((text, true)) => format!("{column} = ?1 AND {text} = ''"),
        Some((text, false)) => format!("{column} = ?1 AND {text} <> ''"),
        None if table == log && column == other => {
            format!("{column} = ?1 AND kind NOT IN (1, 2, 5)")
        }
        None => format!("{column} = ?1"),
    }
}

/// The columns of a table's primary key. A statement without it cannot have a limit.
fn primary_key(connection: &Connection, table: &str) -> rusqlite::Result<String> {
    let sql = "SELECT group_concat(name) FROM pragma_table_info(?) WHERE pk > 0";
    connection.query_row(sql, [table], |row| row.get(0))
}
