//! The handles of users in a SQLite file.

use rusqlite::{Connection, OptionalExtension, params};

use super::lists::has_table;
use super::{SqliteShard, log, signed, text_of, unsigned};
use crate::changes::LogPosition;
use crate::model::UserId;
use crate::shard::schema::SQLITE_USERS;
use crate::shard::{Deadline, ShardError};

impl SqliteShard {
    /// The handles of these users. Users without a handle are skipped.
    pub(in crate::shard) async fn handles(
        &self,
        users: &[UserId],
        until: Deadline,
    ) -> Result<Vec<(UserId, String)>, ShardError> {
        let (users, is_owned) = (users.to_vec(), self.is_owned());
        self.read(until, move |connection| {
            // Only the owner of a folder adds tables that an older release did not have.
            if !is_owned && !has_table(connection, SQLITE_USERS)? {
                return Ok(Vec::new());
            }
            let found = users.into_iter().map(|user| {
                let handle = handle_of(connection, user)?;
                Ok(handle.map(|handle| (user, handle)))
            });
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// At most `max` users whose handle begins with `prefix`, by handle. ASCII letters match in
    /// both cases.
    pub(in crate::shard) async fn find_handles(
        &self,
        prefix: &str,
        max: usize,
        until: Deadline,
    ) -> Result<Vec<(UserId, String)>, ShardError> {
        let (from, max) = (prefix.to_owned(), i64::try_from(max).unwrap_or(i64::MAX));
        // No character of a handle is greater than the last code point.
        let end = format!("{prefix}\u{10ffff}");
        let is_owned = self.is_owned();
        self.read(until, move |connection| {
            if !is_owned && !has_table(connection, SQLITE_USERS)? {
                return Ok(Vec::new());
            }
            let mut statement = connection.prepare_cached(
                "SELECT user_id, handle FROM users
                 WHERE handle >= ? AND handle < ? AND user_id >= 0
                 ORDER BY handle, user_id LIMIT ?",
            )?;
            let rows = statement.query_map(params![from, end, max], |row| {
                Ok((UserId(unsigned(row, 0)?), text_of(row, 1)?))
            })?;
            rows.collect()
        })
        .await
    }
}

/// The handle of a user, if there is one.
pub(super) fn handle_of(connection: &Connection, user: UserId) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT handle FROM users WHERE user_id = ?";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([signed(user.0)], |row| text_of(row, 0)).optional()
}

/// Inserts handles in one transaction. Returns the number of new rows.
pub(crate) fn insert_handles(
    connection: &mut Connection,
    rows: &[(UserId, String)],
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let mut added = 0;
    {
        // As in [`super::lists::add`], `OR IGNORE` makes the statement fast.
        let sql = "INSERT OR IGNORE INTO users (user_id, handle) VALUES (?, ?)";
        let mut statement = transaction.prepare_cached(sql)?;
        for (user, handle) in rows {
            added += statement.execute(params![signed(user.0), handle])?;
        }
    }
    log::prune(&transaction, LogPosition(u64::MAX))?;
    transaction.commit()?;
    Ok(added)
}
