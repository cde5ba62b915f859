//! Read markers in a SQLite file.

use rusqlite::{Connection, OptionalExtension, params};

use super::{SqliteShard, signed};
use crate::model::{PostAddress, PostId, ReadMarker, UserId};
use crate::shard::{Deadline, NewMarker, ShardError};

/// A marker only moves towards newer posts.
const MOVE: &str =
    "INSERT INTO read_markers (user_id, post_time, post_id, post_user_id, updated_at)
     VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (user_id) DO UPDATE SET post_time = excluded.post_time,
         post_id = excluded.post_id, post_user_id = excluded.post_user_id,
         updated_at = excluded.updated_at
     WHERE (excluded.post_time, excluded.post_id, excluded.post_user_id)
         > (post_time, ifnull(post_id, 0), ifnull(post_user_id, 0))";

impl SqliteShard {
    pub(in crate::shard) async fn read_marker(
        &self,
        user: UserId,
        until: Deadline,
    ) -> Result<Option<ReadMarker>, ShardError> {
        self.read(until, move |connection| marker_of(connection, user)).await
    }

    pub(in crate::shard) async fn move_marker(
        &self,
        new: NewMarker,
        until: Deadline,
    ) -> Result<Option<ReadMarker>, ShardError> {
        let change = move |connection: &Connection| {
            let NewMarker { user, post, at } = new;
            let (id, author) = (signed(post.post.0), signed(post.author.0));
            let values = params![signed(user.0), post.time, id, author, at];
            connection.prepare_cached(MOVE)?.execute(values)?;
            marker_of(connection, user)
        };
        self.writer()?.run(until, change).await
    }
}

fn marker_of(connection: &Connection, user: UserId) -> rusqlite::Result<Option<ReadMarker>> {
    let mut statement = connection.prepare_cached(
        "SELECT post_time, post_user_id, post_id, updated_at FROM read_markers WHERE user_id = ?",
    )?;
    let found = statement.query_row([signed(user.0)], |row| {
        let id = |column| -> rusqlite::Result<Option<u64>> {
            let stored: Option<i64> = row.get(column)?;
            Ok(stored.and_then(|id| u64::try_from(id).ok()))
        };
        let author = id(1)?.and_then(UserId::new);
        let post = id(2)?.and_then(PostId::new);
        let post = author.zip(post).map(|(author, post)| PostAddress { author, post });
        Ok(ReadMarker { post, time: row.get(0)?, updated_at: row.get(3)? })
    });
    found.optional()
}
