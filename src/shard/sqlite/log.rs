//! The log of a SQLite file: which rows were touched, in the order of the commits, and what stands
//! there now. Triggers write it within the transaction that touches the rows, whoever that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::watch;

use super::{signed, text_of, unsigned};
use crate::changes::{Change, LogIdentity, LogPosition};
use crate::model::{Follow, Post, PostId, PostKey, UserId};

/// Rows that are told one by one. Of more, only whose they are is told.
const ROWS_DELIVERED_MAX: u16 = 20_000;
/// Bytes of the texts that are told at once. Of more, only the authors are told.
const TEXT_BYTES_DELIVERED_MAX: usize = 8 << 20;
/// Rows that stay, so that a reader who was away for a while goes on where it was.
const ROWS_KEPT: i64 = 100_000;
/// Rows that stay for a reader who is slow. What it misses beyond that, it learns by beginning anew.
const ROWS_KEPT_UNREAD: i64 = 1_000_000;
/// Rows that are deleted at once, at most: some ten milliseconds. More than an import adds at once,
/// or the log would grow.
const PRUNE_MAX: i64 = 10_000;
/// Fewer are not worth a commit.
const PRUNE_MIN: i64 = 1_000;

/// As the triggers write them.
const POST_STORED: i64 = 1;
const POST_GONE: i64 = 2;
const FOLLOW_STORED: i64 = 3;
const FOLLOW_GONE: i64 = 4;

/// What the writer and whoever follows the log tell each other.
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
    /// Wakes whoever follows.
    pub(super) fn committed(&self) {
        self.commits.send_replace(());
    }

    /// Changes with every commit of the writer.
    pub(super) fn commits(&self) -> watch::Receiver<()> {
        self.commits.subscribe()
    }

    /// What lies behind was not read yet; nothing, where nobody reads.
    pub(super) fn read_to(&self) -> LogPosition {
        LogPosition(self.read_to.load(Ordering::Relaxed))
    }
}

/// Keeps what was not read from being pruned, until it is dropped.
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

/// How far the log was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadPosition {
    pub(super) identity: LogIdentity,
    pub(super) at: LogPosition,
    /// The row there, by which a file that was set back is known.
    row: Option<LogRow>,
}

/// What is in the log behind a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogRead {
    /// What changed, up to the end of the log.
    Changes(ReadPosition, Vec<Change>),
    /// It cannot be told: rows are missing, or the identity is another one.
    Gap,
    /// The file is an older one than the one that was read, under the same name of its identity.
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

/// Gives the file's identity its name, if it has none.
pub(super) fn ensure_identity(connection: &Connection) -> rusqlite::Result<()> {
    let named = connection.prepare("SELECT 1 FROM tributary_history")?.exists([])?;
    if !named {
        connection.execute("INSERT INTO tributary_history VALUES (1, random())", [])?;
    }
    Ok(())
}

/// Positions from before count no more.
pub(super) fn renew_identity(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE tributary_history SET history = random()", []).map(drop)
}

/// The identity and the end of the log, as of the connection's snapshot. The newest row is never
/// pruned, so the end never goes back.
pub(super) fn end(connection: &Connection) -> rusqlite::Result<(LogIdentity, LogPosition)> {
    let mut statement = connection.prepare_cached(
        "SELECT history, coalesce((SELECT max(seq) FROM tributary_log), 0) FROM tributary_history",
    )?;
    statement.query_row([], |row| {
        let identity: i64 = row.get(0)?;
        Ok((LogIdentity(identity.cast_unsigned()), LogPosition(unsigned(row, 1)?)))
    })
}

/// The place at the end of the log.
pub(super) fn end_position(connection: &Connection) -> rusqlite::Result<ReadPosition> {
    let (identity, at) = end(connection)?;
    Ok(ReadPosition { identity, at, row: row_at(connection, at)? })
}

/// What came behind `from`. `snapshot` must be within a transaction.
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
    // Rows are pruned from the front, and what is numbered has no holes.
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

/// Forgets old rows that were read, a bounded number at once. Returns how many.
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

/// One row more than is told one by one, at most.
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

/// Whose rows were touched, without what became of them.
fn users_after(connection: &Connection, at: LogPosition) -> rusqlite::Result<Vec<Change>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT user_id, kind IN (1, 2) FROM tributary_log
         WHERE seq > ? AND user_id >= 0 LIMIT ?",
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

/// What stands at each touched key now. A key that was touched again since is in the log again, so
/// it is told as it is at the end, perhaps more than once.
fn changes(connection: &Connection, rows: &[LogRow]) -> rusqlite::Result<Vec<Change>> {
    let mut changes = Vec::with_capacity(rows.len());
    let mut room = TEXT_BYTES_DELIVERED_MAX;
    for row in rows {
        // Negative ids, of other programs' making, are nobody's.
        let Ok(user) = u64::try_from(row.user).map(UserId) else { continue };
        let other = u64::try_from(row.other);
        let change = match (row.kind, other) {
            (POST_STORED | POST_GONE, Ok(post)) => {
                let key = PostKey { time: row.time, post: PostId(post), author: user };
                post_now(connection, key, row.kind == POST_STORED, &mut room)?
            }
            (POST_STORED | POST_GONE, Err(_)) => Some(Change::AuthorUnknown(user)),
            (FOLLOW_STORED | FOLLOW_GONE, Ok(followee)) => {
                let follow = Follow { follower: user, followee: UserId(followee) };
                follow_now(connection, follow, row.kind == FOLLOW_STORED)?
            }
            (FOLLOW_STORED | FOLLOW_GONE, Err(_)) => Some(Change::ReaderUnknown(user)),
            _ => Some(Change::ShardUnknown),
        };
        changes.extend(change);
    }
    Ok(changes)
}

/// Nothing where a post is still, or again, there that might have gone: whatever it became is told
/// by a row of its own.
fn post_now(
    connection: &Connection,
    key: PostKey,
    stored: bool,
    room: &mut usize,
) -> rusqlite::Result<Option<Change>> {
    let mut statement = connection.prepare_cached(
        "SELECT content FROM tweets WHERE user_id = ? AND timestamp = ? AND tweet_id = ?",
    )?;
    let key_params = params![signed(key.author.0), key.time, signed(key.post.0)];
    let mut found = statement.query(key_params)?;
    let Some(row) = found.next()? else { return Ok(Some(Change::PostGone(key))) };
    if !stored {
        return Ok(None);
    }
    let content = text_of(row, 0)?;
    let Some(left) = room.checked_sub(content.len()) else {
        return Ok(Some(Change::AuthorUnknown(key.author)));
    };
    *room = left;
    Ok(Some(Change::Post(Post { key, content })))
}

/// Nothing where it is still, or again, there, as in [`post_now`].
fn follow_now(
    connection: &Connection,
    follow: Follow,
    stored: bool,
) -> rusqlite::Result<Option<Change>> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM followers WHERE follower_user_id = ? AND followed_user_id = ?",
    )?;
    let there = statement.exists([signed(follow.follower.0), signed(follow.followee.0)])?;
    Ok(match (there, stored) {
        (true, true) => Some(Change::Follow(follow)),
        (true, false) => None,
        (false, _) => Some(Change::Unfollow(follow)),
    })
}

#[cfg(test)]
mod tests;
