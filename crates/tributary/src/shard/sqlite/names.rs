//! The handles and display names of users in a SQLite file.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{SqliteShard, log, signed, text_of, unsigned};
use crate::changes::LogPosition;
use crate::model::{UserId, UserNames};
use crate::shard::{Deadline, ShardError};

impl SqliteShard {
    /// The names of these users. Users without a row are skipped.
    pub(in crate::shard) async fn names(
        &self,
        users: &[UserId],
        until: Deadline,
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        let users = users.to_vec();
        self.read(until, move |connection| {
            let found = users.into_iter().map(|user| {
                let names = names_of(connection, user)?;
                Ok(names.map(|names| (user, names)))
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
    ) -> Result<Vec<(UserId, UserNames)>, ShardError> {
        let (from, max) = (prefix.to_owned(), i64::try_from(max).unwrap_or(i64::MAX));
        // No character of a handle is greater than the last code point.
        let end = format!("{prefix}\u{10ffff}");
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT handle, name, user_id FROM users
                 WHERE handle >= ? AND handle < ? AND user_id >= 0
                 ORDER BY handle, user_id LIMIT ?",
            )?;
            let rows = statement.query_map(params![from, end, max], |row| {
                Ok((UserId(unsigned(row, 2)?), names(row)?))
            })?;
            rows.collect()
        })
        .await
    }
}

/// The names of a user, if there are any.
pub(super) fn names_of(
    connection: &Connection,
    user: UserId,
) -> rusqlite::Result<Option<UserNames>> {
    let sql = "SELECT handle, name FROM users WHERE user_id = ?";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([signed(user.0)], names).optional()
}

/// The names in a row that starts with handle and display name.
fn names(row: &Row<'_>) -> rusqlite::Result<UserNames> {
    let name = match row.get_ref(1)? {
        ValueRef::Null => String::new(),
        _ => text_of(row, 1)?,
    };
    Ok(UserNames::new(&text_of(row, 0)?, Some(&name)))
}

/// Inserts names in one transaction. Returns the number of new rows.
pub(crate) fn insert_names(
    connection: &mut Connection,
    rows: &[(UserId, UserNames)],
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let mut added = 0;
    {
        // As in [`super::lists::add`], `OR IGNORE` makes the statement fast.
        let sql = "INSERT OR IGNORE INTO users (user_id, handle, name) VALUES (?, ?, ?)";
        let mut statement = transaction.prepare_cached(sql)?;
        for (user, names) in rows {
            let values = params![signed(user.0), names.handle(), names.name()];
            added += statement.execute(values)?;
        }
    }
    log::prune(&transaction, LogPosition(u64::MAX))?;
    transaction.commit()?;
    Ok(added)
}
