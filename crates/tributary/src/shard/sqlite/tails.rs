//! Reads of author tails from a SQLite file.
//!
//! Each author takes one statement. There is no round trip to save: a statement in this process
//! costs microseconds.

use std::cmp::Reverse;

use rusqlite::{Connection, Row, params};

use super::{SqliteShard, TEXTS, post_of, signed, unsigned};
use crate::cursor::AuthorEdge;
use crate::model::{Direction, Post, PostId, PostKey};
use crate::shard::{Cut, Deadline, ShardError, SpanPosts, TailQuery};

impl SqliteShard {
    /// The post keys that answer `asks`. The keys of each author are in reading order.
    pub(in crate::shard) async fn tails(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<PostKey>, ShardError> {
        let asks = asks.to_vec();
        self.read(until, move |connection| {
            let mut keys = Vec::with_capacity(asks.len());
            let sql = sql(direction, "timestamp, tweet_id");
            for ask in &asks {
                each_row(connection, sql.as_str(), ask, |key, _| {
                    keys.push(key);
                    Ok(true)
                })?;
            }
            Ok(keys)
        })
        .await
    }

    /// As [`SqliteShard::tails`], with the texts.
    pub(in crate::shard) async fn tail_posts(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let asks = asks.to_vec();
        self.read(until, move |connection| {
            let mut posts = Vec::with_capacity(asks.len());
            let sql = sql(direction, &format!("timestamp, tweet_id, {TEXTS}"));
            for ask in &asks {
                each_row(connection, sql.as_str(), ask, |key, row| {
                    posts.push(post_of(key, row, 2)?);
                    Ok(true)
                })?;
            }
            Ok(posts)
        })
        .await
    }

    /// See [`crate::shard::Shard::posts_until`].
    pub(in crate::shard) async fn posts_until(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        cut: Cut,
        until: Deadline,
    ) -> Result<Option<SpanPosts>, ShardError> {
        let mut asks = asks.to_vec();
        asks.sort_unstable_by_key(|ask| Reverse(ask.author));
        self.read(until, move |connection| {
            let max = asks.len() * cut.posts_each;
            let (mut posts, mut is_whole) = (Vec::new(), true);
            let sql = sql(direction, &format!("timestamp, tweet_id, {TEXTS}"));
            for ask in &asks {
                let ask = TailQuery { count: u16::MAX, ..*ask };
                each_row(connection, sql.as_str(), &ask, |key, row| {
                    let is_beyond = match direction {
                        Direction::Older => key.time < cut.time,
                        Direction::Newer => key.time > cut.time,
                    };
                    if is_beyond {
                        return Ok(false);
                    }
                    is_whole = posts.len() < max;
                    posts.push(post_of(key, row, 2)?);
                    Ok(is_whole)
                })?;
                if !is_whole {
                    break;
                }
            }
            Ok(SpanPosts::new(posts, max, cut))
        })
        .await
    }
}

fn sql(direction: Direction, columns: &str) -> String {
    let (beyond, order) = match direction {
        Direction::Older => ("<=", "timestamp DESC, tweet_id DESC"),
        Direction::Newer => (">", "timestamp, tweet_id"),
    };
    format!(
        "SELECT {columns} FROM tweets WHERE user_id = ? AND (timestamp, tweet_id) {beyond} (?, ?)
         ORDER BY {order} LIMIT ?"
    )
}

/// Calls `take` for each row, with its key, until it returns false.
fn each_row(
    connection: &Connection,
    sql: &str,
    ask: &TailQuery,
    mut take: impl FnMut(PostKey, &Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let (time, post) = last_older(ask.from);
    let mut rows = statement.query(params![signed(ask.author.0), time, post, ask.count])?;
    while let Some(row) = rows.next()? {
        let post = PostId(unsigned(row, 1)?);
        if !take(PostKey { time: row.get(0)?, post, author: ask.author }, row)? {
            break;
        }
    }
    Ok(())
}

/// The largest (time, post id) that counts as older than the edge; it need not exist. SQLite
/// seeks in the index by both columns of a row value, so ties cost no extra rows.
fn last_older(edge: AuthorEdge) -> (i64, i64) {
    match edge {
        AuthorEdge::Bottom => (i64::MIN, i64::MIN),
        AuthorEdge::Top => (i64::MAX, i64::MAX),
        AuthorEdge::At { time, post: 0 } => (time, -1),
        AuthorEdge::At { time, post } => (time, signed(post - 1)),
    }
}
