//! The lists of users in a SQLite file: follows, mutes and blocks.

use rusqlite::{Connection, params};

use super::source::in_snapshot;
use super::{SqliteShard, signed, unsigned};
use crate::model::{Follow, UserId, UserList};
use crate::shard::write::FollowOutcome;
use crate::shard::{Deadline, ShardError, UserLists};

/// The table of a list, and its columns.
pub(super) struct ListTable {
    pub(super) name: &'static str,
    pub(super) owner: &'static str,
    pub(super) user: &'static str,
}

impl ListTable {
    pub(super) fn of(list: UserList) -> Self {
        let (name, owner, user) = match list {
            UserList::Follows => ("followers", "follower_user_id", "followed_user_id"),
            UserList::Mutes => ("mutes", "muter_user_id", "muted_user_id"),
            UserList::Blocks => ("blocks", "blocker_user_id", "blocked_user_id"),
        };
        Self { name, owner, user }
    }
}

impl SqliteShard {
    pub(in crate::shard) async fn listed(
        &self,
        list: UserList,
        owner: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        let read = move |connection: &Connection| listed(connection, list, owner, (from, max));
        self.read_list(list, until, read).await
    }

    pub(in crate::shard) async fn lists(
        &self,
        owner: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<UserLists, ShardError> {
        let is_owned = self.is_owned();
        let read = move |snapshot: &Connection| {
            let mut lists = UserLists::default();
            for list in UserList::ALL {
                if is_owned || has_table(snapshot, ListTable::of(list).name)? {
                    *lists.of(list) = listed(snapshot, list, owner, (UserId(0), max))?;
                }
            }
            Ok(lists)
        };
        self.read(until, move |connection| in_snapshot(connection, read)).await
    }

    pub(in crate::shard) async fn entries(
        &self,
        list: UserList,
        entries: &[Follow],
        until: Deadline,
    ) -> Result<Vec<Follow>, ShardError> {
        let mut entries = entries.to_vec();
        self.read_list(list, until, move |connection| {
            let mut failed = None;
            entries.retain(|entry| match is_listed(connection, list, *entry) {
                Ok(is_listed) => is_listed,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
            failed.map_or(Ok(entries), Err)
        })
        .await
    }

    /// Reads from the table of a list. The result is empty if the file does not have the table.
    async fn read_list<T: Default + Send + 'static>(
        &self,
        list: UserList,
        until: Deadline,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        let (is_owned, table) = (self.is_owned(), ListTable::of(list).name);
        let read = move |connection: &Connection| match is_owned || has_table(connection, table)? {
            true => work(connection),
            false => Ok(T::default()),
        };
        self.read(until, read).await
    }

    pub(in crate::shard) async fn followers(
        &self,
        user: UserId,
        (from, max): (UserId, usize),
        until: Deadline,
    ) -> Result<Vec<UserId>, ShardError> {
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT follower_user_id FROM followers
                 WHERE followed_user_id = ? AND follower_user_id >= ?
                 ORDER BY follower_user_id LIMIT ?",
            )?;
            let values = params![signed(user.0), signed(from.0), limit(max)];
            let rows = statement.query_map(values, |row| Ok(UserId(unsigned(row, 0)?)))?;
            rows.collect()
        })
        .await
    }

    pub(in crate::shard) async fn count(
        &self,
        user: UserId,
        (of_followers, max): (bool, usize),
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let column = if of_followers { "followed_user_id" } else { "follower_user_id" };
        self.read(until, move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT count(*) FROM (SELECT 1 FROM followers WHERE {column} = ? LIMIT ?)"
            ))?;
            let count: i64 =
                statement.query_row(params![signed(user.0), limit(max)], |row| row.get(0))?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        })
        .await
    }

    /// Adds entries of one owner, unless the list would have more than `max` users.
    pub(in crate::shard) async fn add_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        max: usize,
        until: Deadline,
    ) -> Result<FollowOutcome, ShardError> {
        let rows = rows.to_vec();
        let add = move |connection: &Connection| {
            if !list_has_room(connection, list, &rows, max)? {
                return Ok(FollowOutcome::TooLong);
            }
            add(connection, list, &rows).map(FollowOutcome::Added)
        };
        self.writer()?.run(until, add).await
    }

    pub(in crate::shard) async fn remove_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let rows = rows.to_vec();
        let remove = move |connection: &Connection| {
            let ListTable { name, owner, user } = ListTable::of(list);
            let sql = format!("DELETE FROM {name} WHERE {owner} = ? AND {user} = ?");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut removed = 0;
            for row in &rows {
                removed += statement.execute([signed(row.follower.0), signed(row.followee.0)])?;
            }
            Ok(removed)
        };
        self.writer()?.run(until, remove).await
    }
}

/// Whether the file has a table. Its owner creates all tables, perhaps after another process has
/// opened it. A query notices that, unlike the definitions that a connection has read.
pub(super) fn has_table(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
    connection.prepare_cached(sql)?.exists([table])
}

/// At most `max` users on a list, by rising id.
pub(super) fn listed(
    connection: &Connection,
    list: UserList,
    of: UserId,
    (from, max): (UserId, usize),
) -> rusqlite::Result<Vec<UserId>> {
    let ListTable { name, owner, user } = ListTable::of(list);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {user} FROM {name} WHERE {owner} = ? AND {user} >= ? ORDER BY {user} LIMIT ?"
    ))?;
    let values = params![signed(of.0), signed(from.0), limit(max)];
    let rows = statement.query_map(values, |row| Ok(UserId(unsigned(row, 0)?)))?;
    rows.collect()
}

/// Whether the list has this entry.
pub(super) fn is_listed(
    connection: &Connection,
    list: UserList,
    entry: Follow,
) -> rusqlite::Result<bool> {
    let ListTable { name, owner, user } = ListTable::of(list);
    let sql = format!("SELECT 1 FROM {name} WHERE {owner} = ? AND {user} = ?");
    let entry = [signed(entry.follower.0), signed(entry.followee.0)];
    connection.prepare_cached(&sql)?.exists(entry)
}

/// Whether the list has at most `max` users with these entries of one owner.
fn list_has_room(
    connection: &Connection,
    list: UserList,
    rows: &[Follow],
    max: usize,
) -> rusqlite::Result<bool> {
    let Some(Follow { follower, .. }) = rows.first() else { return Ok(true) };
    let ListTable { name, owner, .. } = ListTable::of(list);
    let mut count = connection.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT 1 FROM {name} WHERE {owner} = ? LIMIT ?)"
    ))?;
    let bound = limit(max).saturating_add(1);
    let listed: i64 = count.query_row([signed(follower.0), bound], |row| row.get(0))?;
    let listed = usize::try_from(listed).unwrap_or(usize::MAX);
    if listed.saturating_add(rows.len()) <= max {
        return Ok(true);
    }
    let mut new = 0;
    for row in rows {
        new += usize::from(!is_listed(connection, list, *row)?);
    }
    Ok(new == 0 || listed.saturating_add(new) <= max)
}

/// Uses `OR IGNORE`, so that the statement cannot fail; otherwise an import takes twice as long.
/// SQLite copies every page changed by a statement to a file, for a rollback, if the statement
/// fires triggers and may fail.
pub(super) fn add(
    connection: &Connection,
    list: UserList,
    rows: &[Follow],
) -> rusqlite::Result<usize> {
    let ListTable { name, .. } = ListTable::of(list);
    let sql = format!("INSERT OR IGNORE INTO {name} VALUES (?, ?)");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut added = 0;
    for row in rows {
        added += statement.execute([signed(row.follower.0), signed(row.followee.0)])?;
    }
    Ok(added)
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}
