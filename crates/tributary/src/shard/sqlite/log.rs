//! The log of a SQLite file: the keys of changed rows, in commit order. Triggers write it within
//! the transaction that changes the rows, whichever program that belongs to. A reader of the log
//! queries the current rows at these keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::watch;

use super::lists::is_listed;
use super::{TEXTS, post_of, signed, unsigned};
use crate::changes::{Change, LogIdentity, LogPosition};
use crate::model::{Follow, Hide, PostId, PostKey, UserId, UserList};

/// Most rows of one read that are delivered one by one. Of more rows only the users are delivered.
const ROWS_DELIVERED_MAX: u16 = 20_000;
/// Most bytes of post text in one read. Of further posts only the authors are delivered.
const TEXT_BYTES_DELIVERED_MAX: usize = 8 << 20;
/// Newest rows that are never pruned, so that a feed that was interrupted for a while can resume.
const ROWS_KEPT: i64 = 100_000;
/// Newest rows that are kept while a slow feed has not read them. A feed that lags further
/// restarts.
const ROWS_KEPT_UNREAD: i64 = 1_000_000;
/// Most rows that are deleted at once, which takes some ten milliseconds. It must exceed the rows
/// that an import adds at once, or the log grows without bound.
const PRUNE_MAX: i64 = 10_000;
/// Fewer rows are not worth a commit.
const PRUNE_MIN: i64 = 1_000;

/// The kinds of log row, as the triggers write them.
const POST_STORED: i64 = 1;
const POST_GONE: i64 = 2;
const FOLLOW_STORED: i64 = 3;
const FOLLOW_GONE: i64 = 4;
const POST_EDITED: i64 = 5;
const MUTE_STORED: i64 = 6;
const MUTE_GONE: i64 = 7;
const BLOCK_STORED: i64 = 8;
const BLOCK_GONE: i64 = 9;
const HANDLE_CHANGED: i64 = 10;

/// The state that the writer of a file and the feeds of its log share.
#[derive(Debug)]
pub(super) struct SqliteLog {
    commits: watch::Sender<()>,
    read_to: AtomicU64,
}

impl Default for SqliteLog {
    fn default() -> Self {
        Self { commits: watch::Sender::new(()), read_to: AtomicU64::new(u64::MAX) }
    }
}

impl SqliteLog {
    /// Wakes the feeds after a commit.
    pub(super) fn committed(&self) {
        self.commits.send_replace(());
    }

    /// Changes with every commit of the writer.
    pub(super) fn commits(&self) -> watch::Receiver<()> {
        self.commits.subscribe()
    }

    /// The position up to which the feed has read the log, or the largest one if there is no feed.
    pub(super) fn read_to(&self) -> LogPosition {
        LogPosition(self.read_to.load(Ordering::Relaxed))
    }
}

/// Protects unread rows from pruning until it is dropped.
#[derive(Debug)]
pub(super) struct Bookmark(Arc<SqliteLog>);

impl Bookmark {
    pub(super) fn new(log: Arc<SqliteLog>) -> Self {
        Self(log)
    }

    pub(super) fn at(&self, read_to: LogPosition) {
        self.0.read_to.store(read_to.0, Ordering::Relaxed);
    }
}

impl Drop for Bookmark {
    fn drop(&mut self) {
        self.at(LogPosition(u64::MAX));
    }
}

/// The position up to which a feed has read the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadPosition {
    pub(super) identity: LogIdentity,
    pub(super) at: LogPosition,
    /// The log row at the position. If it changes, an older file was restored.
    row: Option<LogRow>,
}

/// The result of reading the log from a position on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogRead {
    /// The changes up to the end of the log, and the position of that end.
    Changes(ReadPosition, Vec<Change>),
    /// The changes are not available: rows were pruned, or the log has another identity.
    Gap,
    /// The file was replaced by an older one with the same identity, as by restoring a backup.
    Restored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogRow {
    seq: i64,
    kind: i64,
    user: i64,
    other: i64,
    time: i64,
}

/// Gives the log a random identity if it has none.
pub(super) fn ensure_identity(connection: &Connection) -> rusqlite::Result<()> {
    let named = connection.prepare("SELECT 1 FROM tributary_history")?.exists([])?;
    if !named {
        connection.execute("INSERT INTO tributary_history VALUES (1, random())", [])?;
    }
    Ok(())
}

/// Gives the log a new identity, which makes all earlier positions void.
pub(super) fn renew_identity(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE tributary_history SET history = random()", []).map(drop)
}

/// The identity and the end of the log in the connection's snapshot. The newest row is never
/// pruned, so the end never decreases.
pub(super) fn end(connection: &Connection) -> rusqlite::Result<(LogIdentity, LogPosition)> {
    let mut statement = connection.prepare_cached(
        "SELECT history, coalesce((SELECT max(seq) FROM tributary_log), 0) FROM tributary_history",
    )?;
    statement.query_row([], |row| {
        let identity: i64 = row.get(0)?;
        Ok((LogIdentity(identity.cast_unsigned()), LogPosition(unsigned(row, 1)?)))
    })
}

/// The read position at the end of the log.
pub(super) fn end_position(connection: &Connection) -> rusqlite::Result<ReadPosition> {
    let (identity, at) = end(connection)?;
    Ok(ReadPosition { identity, at, row: row_at(connection, at)? })
}

/// The changes after `from`. `snapshot` must be within a transaction.
pub(super) fn since(snapshot: &Connection, from: &ReadPosition) -> rusqlite::Result<LogRead> {
    let now = end_position(snapshot)?;
    if now.identity != from.identity {
        return Ok(LogRead::Gap);
    }
    let there = row_at(snapshot, from.at)?;
    let differs = there.is_some() && there != from.row;
    if now.at < from.at || differs {
        return Ok(LogRead::Restored);
    }
    if now.at == from.at {
        return Ok(LogRead::Changes(now, Vec::new()));
    }
    // Only the oldest rows are pruned, and the numbers have no gaps.
    if row_at(snapshot, LogPosition(from.at.0 + 1))?.is_none() {
        return Ok(LogRead::Gap);
    }
    let rows = rows_after(snapshot, from.at)?;
    let changes = if rows.len() > usize::from(ROWS_DELIVERED_MAX) {
        users_after(snapshot, from.at)?
    } else {
        changes(snapshot, &rows)?
    };
    Ok(LogRead::Changes(now, changes))
}

/// Deletes the oldest rows, between [`PRUNE_MIN`] and [`PRUNE_MAX`] of them, if they were read or
/// are too many. Returns the number of deleted rows.
pub(super) fn prune(connection: &Connection, read_to: LogPosition) -> rusqlite::Result<usize> {
    let mut ends = connection.prepare_cached(
        "SELECT coalesce((SELECT min(seq) FROM tributary_log), 0),
                coalesce((SELECT max(seq) FROM tributary_log), 0)",
    )?;
    let (oldest, end): (i64, i64) = ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let read_to = i64::try_from(read_to.0).unwrap_or(i64::MAX);
    let unread = read_to.max(end - ROWS_KEPT_UNREAD);
    let below = unread.min(end - ROWS_KEPT).min(oldest + PRUNE_MAX);
    if below - oldest < PRUNE_MIN {
        return Ok(0);
    }
    connection.prepare_cached("DELETE FROM tributary_log WHERE seq < ?")?.execute([below])
}

fn row_at(connection: &Connection, at: LogPosition) -> rusqlite::Result<Option<LogRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, kind, user_id, other_id, timestamp FROM tributary_log WHERE seq = ?",
    )?;
    statement.query_row([signed(at.0)], log_row).optional()
}

/// The rows after `at`, at most [`ROWS_DELIVERED_MAX`] and one more.
fn rows_after(connection: &Connection, at: LogPosition) -> rusqlite::Result<Vec<LogRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, kind, user_id, other_id, timestamp FROM tributary_log
         WHERE seq > ? ORDER BY seq LIMIT ?",
    )?;
    let rows = statement.query_map(params![signed(at.0), ROWS_DELIVERED_MAX + 1], log_row)?;
    rows.collect()
}

fn log_row(row: &Row<'_>) -> rusqlite::Result<LogRow> {
    Ok(LogRow {
        seq: row.get(0)?,
        kind: row.get(1)?,
        user: row.get(2)?,
        other: row.get(3)?,
        time: row.get(4)?,
    })
}

/// The users whose rows changed after `at`. A block changes both the reader and the author. Too
/// many users make the whole shard unknown.
fn users_after(connection: &Connection, at: LogPosition) -> rusqlite::Result<Vec<Change>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT user_id, kind IN (1, 2, 5, 10) FROM tributary_log
         WHERE seq > ?1 AND user_id >= 0
         UNION SELECT user_id, TRUE FROM tributary_log
         WHERE seq > ?1 AND user_id >= 0 AND kind IN (8, 9) LIMIT ?2",
    )?;
    let rows = statement.query_map(params![signed(at.0), ROWS_DELIVERED_MAX + 1], |row| {
        let user = UserId(unsigned(row, 0)?);
        Ok(if row.get(1)? { Change::AuthorUnknown(user) } else { Change::ReaderUnknown(user) })
    })?;
    let changes: Vec<Change> = rows.collect::<Result<_, _>>()?;
    Ok(if changes.len() > usize::from(ROWS_DELIVERED_MAX) {
        vec![Change::ShardUnknown]
    } else {
        changes
    })
}

/// The current state at each key in the log rows. If a key is in several rows, its last state may
/// be delivered more than once.
fn changes(connection: &Connection, rows: &[LogRow]) -> rusqlite::Result<Vec<Change>> {
    let mut changes = Vec::with_capacity(rows.len());
    let mut room = TEXT_BYTES_DELIVERED_MAX;
    for row in rows {
        // Another program may write negative ids. They belong to no user.
        let Ok(user) = u64::try_from(row.user).map(UserId) else { continue };
        let other = u64::try_from(row.other);
        let change = match (row.kind, other) {
            (POST_STORED | POST_EDITED | POST_GONE, Ok(post)) => {
                let key = PostKey { time: row.time, post: PostId(post), author: user };
                post_now(connection, key, row.kind, &mut room)?
            }
            (POST_STORED | POST_EDITED | POST_GONE, Err(_)) => Some(Change::AuthorUnknown(user)),
            (MUTE_STORED..=BLOCK_GONE, Ok(other)) => {
                let list = if row.kind <= MUTE_GONE { UserList::Mutes } else { UserList::Blocks };
                let hide = Hide { list, owner: user, user: UserId(other) };
                hide_now(connection, hide, [MUTE_STORED, BLOCK_STORED].contains(&row.kind))?
            }
            // No user has a negative id.
            (MUTE_STORED..=BLOCK_GONE, Err(_)) => None,
            (FOLLOW_STORED | FOLLOW_GONE, Ok(followee)) => {
                let follow = Follow { follower: user, followee: UserId(followee) };
                follow_now(connection, follow, row.kind == FOLLOW_STORED)?
            }
            (FOLLOW_STORED | FOLLOW_GONE, Err(_)) => Some(Change::ReaderUnknown(user)),
            (HANDLE_CHANGED, _) => Some(Change::AuthorUnknown(user)),
            _ => Some(Change::ShardUnknown),
        };
        changes.extend(change);
    }
    Ok(changes)
}

/// The state of a post. `None` if a log row says that it may be gone but it exists: another row
/// of the log delivers its state.
fn post_now(
    connection: &Connection,
    key: PostKey,
    kind: i64,
    room: &mut usize,
) -> rusqlite::Result<Option<Change>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {TEXTS} FROM tweets WHERE user_id = ? AND timestamp = ? AND tweet_id = ?"
    ))?;
    let key_params = params![signed(key.author.0), key.time, signed(key.post.0)];
    let mut found = statement.query(key_params)?;
    let Some(row) = found.next()? else { return Ok(Some(Change::PostGone(key))) };
    if kind == POST_GONE {
        return Ok(None);
    }
    let post = post_of(key, row, 0)?;
    let Some(left) = room.checked_sub(post.content.len()) else {
        return Ok(Some(Change::AuthorUnknown(key.author)));
    };
    *room = left;
    Ok(Some(if kind == POST_EDITED { Change::PostEdited(post) } else { Change::Post(post) }))
}

/// The state of a follow. `None` if it may be gone but exists, as in [`post_now`].
fn follow_now(
    connection: &Connection,
    follow: Follow,
    stored: bool,
) -> rusqlite::Result<Option<Change>> {
    Ok(match (is_listed(connection, UserList::Follows, follow)?, stored) {
        (true, true) => Some(Change::Follow(follow)),
        (true, false) => None,
        (false, _) => Some(Change::Unfollow(follow)),
    })
}

/// The state of a mute or a block. `None` if it may be gone but exists, as in [`post_now`].
fn hide_now(connection: &Connection, hide: Hide, stored: bool) -> rusqlite::Result<Option<Change>> {
    let entry = Follow { follower: hide.owner, followee: hide.user };
    Ok(match (is_listed(connection, hide.list, entry)?, stored) {
        (true, true) => Some(Change::Hide(hide)),
        (true, false) => None,
        (false, _) => Some(Change::Unhide(hide)),
    })
}

#[cfg(test)]
mod tests;
