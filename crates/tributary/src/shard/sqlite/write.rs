//! The writes of a SQLite shard. There is one writer, so the rows that it reads cannot change
//! before it commits.

use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Writer;
use super::{SqliteShard, TEXTS, lists, log, post_at, signed, unsigned};
use crate::changes::LogPosition;
use crate::model::{Follow, Post, PostId, UserId, UserList};
use crate::shard::write::{EarlierPost, Edit, NewPost, StoreOutcome};
use crate::shard::{Deadline, ShardError};

impl SqliteShard {
    pub(in crate::shard) async fn insert_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let rows = rows.to_vec();
        let add = move |connection: &Connection| lists::add(connection, list, &rows);
        self.writer()?.run(until, add).await
    }

    pub(in crate::shard) async fn insert_posts(
        &self,
        rows: &[Post],
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let rows = rows.to_vec();
        self.writer()?.run(until, move |connection| add_posts(connection, &rows)).await
    }

    pub(in crate::shard) async fn store_post(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<StoreOutcome, ShardError> {
        let new = new.clone();
        self.writer()?.run(until, move |connection| store(connection, &new)).await
    }

    /// Looks up a post whose commit is in doubt. The lookup is a job of the writer, so a running
    /// commit ends before it.
    pub(in crate::shard) async fn find_stored(
        &self,
        new: &NewPost,
        until: Deadline,
    ) -> Result<Option<StoreOutcome>, ShardError> {
        let new = new.clone();
        let find = move |connection: &Connection| match find_key(connection, &new)? {
            Some(earlier) => Ok(Some(new.outcome_if_key_used(earlier))),
            None if new.idempotency.is_some() => Ok(None),
            None => Ok(is_stored(connection, &new.post)?.then_some(StoreOutcome::Stored)),
        };
        self.writer()?.run(until, find).await
    }

    pub(in crate::shard) async fn edit_post(
        &self,
        edit: &Edit,
        until: Deadline,
    ) -> Result<Option<Post>, ShardError> {
        let new = edit.clone();
        self.writer()?.run(until, move |connection| edit_post(connection, &new)).await
    }

    pub(in crate::shard) async fn delete_post(
        &self,
        author: UserId,
        post: PostId,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let delete = move |connection: &Connection| {
            let sql = "DELETE FROM tweets WHERE user_id = ? AND tweet_id = ?";
            connection.prepare_cached(sql)?.execute([signed(author.0), signed(post.0)])
        };
        self.writer()?.run(until, delete).await
    }

    pub(in crate::shard) async fn expire_keys(
        &self,
        before_ms: i64,
        max: u32,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let expire = move |connection: &Connection| {
            let sql = "DELETE FROM tributary_writes WHERE (author, idempotency_key) IN
                 (SELECT author, idempotency_key FROM tributary_writes WHERE created_ms < ?
                  ORDER BY created_ms LIMIT ?)";
            connection.prepare_cached(sql)?.execute(params![before_ms, max])
        };
        self.writer()?.run(until, expire).await
    }

    /// How many times another program was found to have written to the file.
    pub(in crate::shard) fn foreign_writes(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::foreign_writes)
    }

    pub(super) fn writer(&self) -> Result<&Writer, ShardError> {
        self.writer.as_ref().ok_or_else(reading_only)
    }
}

pub(super) fn reading_only() -> ShardError {
    ShardError::Faulty("the folder is open for reads only".into())
}

fn store(connection: &Connection, new: &NewPost) -> rusqlite::Result<StoreOutcome> {
    if let Some(earlier) = find_key(connection, new)? {
        return Ok(new.outcome_if_key_used(earlier));
    }
    if add_posts(connection, std::slice::from_ref(&new.post))? == 0 {
        return Ok(StoreOutcome::IdTaken);
    }
    if let Some(record) = &new.idempotency {
        let key = new.post.key;
        let mut statement = connection.prepare_cached(
            "INSERT INTO tributary_writes
             (author, idempotency_key, content_sha256, post_id, post_time, created_ms)
             VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        statement.execute(params![
            signed(key.author.0),
            record.key.as_str(),
            record.digest,
            signed(key.post.0),
            key.time,
            record.created_ms
        ])?;
    }
    Ok(StoreOutcome::Stored)
}

fn edit_post(connection: &Connection, edit: &Edit) -> rusqlite::Result<Option<Post>> {
    let Some(found) = post_at(connection, edit.post)? else { return Ok(None) };
    let Some(edited) = edit.apply(&found) else { return Ok(Some(found)) };
    let mut statement = connection.prepare_cached(
        "UPDATE tweets SET content = ?, edited_at = ?
         WHERE user_id = ? AND timestamp = ? AND tweet_id = ?",
    )?;
    let key = edited.key;
    let (author, post) = (signed(key.author.0), signed(key.post.0));
    statement.execute(params![edited.content, edited.edited_at, author, key.time, post])?;
    Ok(Some(edited))
}

/// The post that the idempotency key of `new` was used for. `None` if there is no key or it is
/// new.
fn find_key(connection: &Connection, new: &NewPost) -> rusqlite::Result<Option<EarlierPost>> {
    let Some(record) = &new.idempotency else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "SELECT post_id, post_time, content_sha256 FROM tributary_writes
         WHERE author = ? AND idempotency_key = ?",
    )?;
    let author = signed(new.post.key.author.0);
    let found = statement.query_row(params![author, record.key.as_str()], |row| {
        let post = PostId(unsigned(row, 0)?);
        Ok(EarlierPost { post, time: row.get(1)?, digest: row.get(2)? })
    });
    found.optional()
}

/// Whether this post is stored, equal in all fields.
fn is_stored(connection: &Connection, post: &Post) -> rusqlite::Result<bool> {
    let key = post.key;
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM tweets
         WHERE user_id = ? AND timestamp = ? AND tweet_id = ? AND content = ?",
    )?;
    statement.exists(params![signed(key.author.0), key.time, signed(key.post.0), post.content])
}

/// Uses `OR IGNORE` for the reason given at [`lists::add`].
fn add_posts(connection: &Connection, rows: &[Post]) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(&format!(
        "INSERT OR IGNORE INTO tweets (tweet_id, user_id, timestamp, {TEXTS})
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))?;
    let mut added = 0;
    for Post { key, content, references, edited_at } in rows {
        let (post, author) = (signed(key.post.0), signed(key.author.0));
        let [reply_author, reply_post, repost_author, repost_post] =
            references.ids().map(|id| id.map(signed));
        added += statement.execute(params![
            post,
            author,
            key.time,
            content,
            reply_author,
            reply_post,
            repost_author,
            repost_post,
            edited_at
        ])?;
    }
    Ok(added)
}

/// Inserts follows in one transaction. Returns the number of new rows.
pub(crate) fn insert_follows(
    connection: &mut Connection,
    rows: &[Follow],
) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let added = lists::add(&transaction, UserList::Follows, rows)?;
    log::prune(&transaction, LogPosition(u64::MAX))?;
    transaction.commit()?;
    Ok(added)
}

/// Inserts posts in one transaction. Returns the number of new rows.
pub(crate) fn insert_posts(connection: &mut Connection, rows: &[Post]) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let added = add_posts(&transaction, rows)?;
    log::prune(&transaction, LogPosition(u64::MAX))?;
    transaction.commit()?;
    Ok(added)
}
