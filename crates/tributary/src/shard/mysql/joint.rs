//! Reads several databases of a server by one statement.
//!
//! Each statement costs the server a fixed time, as long as the reads of ten authors or more. One
//! statement for all databases takes it once (decision 3). But it waits for the slowest of them,
//! and fails if one of them does. So it gets only a part of the time of a wave. If it fails, the
//! caller reads each database alone, and none is tried again for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::{Error, Row, Value};
use tracing::debug;

use super::statements::{AUTHORS_PER_STATEMENT, Heads, Statements};
use super::tails::{cut_of, head_of, span_values};
use super::{MySqlShard, Server, execute, field, post_of};
use crate::cursor::AuthorEdge;
use crate::model::{Direction, Post, PostKey, UserId};
use crate::shard::gate::Progress;
use crate::shard::{Cut, Deadline, ShardError, SpanPosts, TailQuery};

/// Authors that one statement reads at most, in all databases together. With more authors the fixed
/// time hardly counts, and statements that run at the same time are faster.
const AUTHORS_MAX: usize = 200;
/// After a failure, no statement for several databases is tried for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// A statement with its values.
pub(super) enum Sql {
    Prepared(String, Vec<Value>),
    Text(String, Vec<Value>),
}

/// A database, and what is read of it.
pub(in crate::shard) type Part<'a> = (&'a MySqlShard, &'a [TailQuery]);

/// Whether databases of a server are read together. Holds the end of the pause after a failure.
#[derive(Debug, Default)]
pub(super) struct JointReads(Mutex<Option<Instant>>);

impl JointReads {
    /// Whether to try a statement. After a pause one caller does, and the others wait for another
    /// pause or for its success.
    fn may_try(&self) -> bool {
        let mut paused = self.paused();
        let may = paused.is_none_or(|until| until <= Instant::now());
        if may && paused.is_some() {
            *paused = Some(Instant::now() + PAUSE);
        }
        may
    }

    fn note(&self, has_failed: bool) {
        *self.paused() = has_failed.then(|| Instant::now() + PAUSE);
    }

    fn paused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest key of each author, for each database. `None` if each must be read alone.
pub(in crate::shard) async fn heads(
    parts: &[Part<'_>],
    until: Deadline,
) -> Option<Vec<Vec<PostKey>>> {
    let is_head = |ask: &TailQuery| ask.count == 1 && ask.from == AuthorEdge::Top;
    if !parts.iter().all(|(_, asks)| asks.iter().all(is_head)) {
        return None;
    }
    let statements = readable(parts)?;
    let unit = statements.first()?.unit;
    let heads: Option<Vec<&Heads>> = statements.iter().map(|of| of.heads.as_ref()).collect();
    let sql = Heads::joint(&heads?);
    let pairs: Vec<String> =
        asks(parts).map(|(place, ask)| format!("[{place},{}]", ask.author)).collect();
    let values = vec![format!("[{}]", pairs.join(",")).into()];
    let sql = Sql::Prepared(sql, values);
    let decode = |row: &Row| head_of(unit, row, (UserId(field(row, 0)?), 1));
    let keys = read(server(parts)?, sql, until, decode).await?;
    Some(by_part(parts, keys.into_iter().flatten(), |key| key.author))
}

/// See [`crate::shard::Shard::posts_until`]: the answer for each database. `None` if each must be
/// read alone.
pub(in crate::shard) async fn posts_until(
    parts: &[Part<'_>],
    direction: Direction,
    cut: Cut,
    until: Deadline,
) -> Option<Vec<Option<SpanPosts>>> {
    let statements = readable(parts)?;
    let unit = statements.first()?.unit;
    // The same length for all databases, so that there are few different statements.
    let longest = parts.iter().map(|(_, asks)| asks.len()).max()?;
    if longest > AUTHORS_PER_STATEMENT || parts.iter().any(|(_, asks)| asks.is_empty()) {
        return None;
    }
    let (mut arms, mut values) = (Vec::new(), Vec::new());
    for (of, (_, asks)) in statements.iter().zip(parts) {
        let (statement, times) = of.spans.as_ref()?.choose(direction, asks, cut.time)?;
        let (sql, authors) = statement.at_least(longest);
        arms.push(format!("({sql})"));
        // One row more than allowed shows that there are too many.
        let rows_max = asks.len() * cut.posts_each + 1;
        values.extend(span_values(asks, authors, (&times, unit), rows_max));
    }
    let sql = Sql::Prepared(arms.join(" UNION ALL "), values);
    let posts = read(server(parts)?, sql, until, |row| post_of(unit, row)).await?;
    let posts = by_part(parts, posts.into_iter(), |post| post.key.author);
    let cut = cut_of(direction, cut);
    let posts = posts.into_iter().zip(parts);
    Some(
        posts.map(|(of, (_, asks))| SpanPosts::new(of, asks.len() * cut.posts_each, cut)).collect(),
    )
}

/// See [`crate::shard::Shard::tail_posts`]: the answer for each database. `None` if each must be
/// read alone.
pub(in crate::shard) async fn tail_posts(
    parts: &[Part<'_>],
    direction: Direction,
    until: Deadline,
) -> Option<Vec<Vec<Post>>> {
    let statements = readable(parts)?;
    let unit = statements.first()?.unit;
    let sql = newest_posts(&statements, parts, direction);
    let sql = match sql {
        Some(sql) => sql,
        None => arms(&statements, parts, direction)?,
    };
    let posts = read(server(parts)?, sql, until, |row| post_of(unit, row)).await?;
    let mut posts = by_part(parts, posts.into_iter(), |post| post.key.author);
    for posts in &mut posts {
        // A server may return the parts of a `UNION ALL` in any order.
        posts.sort_unstable_by(|a, b| direction.compare(&a.key, &b.key));
    }
    Some(posts)
}

/// Reads the newest posts of each author of each database.
fn newest_posts(
    statements: &[Arc<Statements>],
    parts: &[Part<'_>],
    direction: Direction,
) -> Option<Sql> {
    let (mut selects, mut values) = (Vec::new(), Vec::new());
    for (of, (_, asks)) in statements.iter().zip(parts) {
        let (sql, of_database) = of.newest_posts(direction, asks)?;
        selects.push(format!("({sql})"));
        values.extend(of_database);
    }
    Some(Sql::Prepared(selects.join(" UNION ALL "), values))
}

/// Reads an arm of each author. It is not prepared, because it would be for each combination of
/// the numbers of authors.
fn arms(statements: &[Arc<Statements>], parts: &[Part<'_>], direction: Direction) -> Option<Sql> {
    let (mut arms, mut values) = (Vec::new(), Vec::new());
    for (of, (_, asks)) in statements.iter().zip(parts) {
        let (of_database, with) = of.arms(direction, asks)?;
        arms.extend(of_database);
        values.extend(with);
    }
    let is_suitable = (1..=AUTHORS_PER_STATEMENT).contains(&arms.len());
    is_suitable.then(|| Sql::Text(arms.join(" UNION ALL "), values))
}

fn server<'a>(parts: &[Part<'a>]) -> Option<&'a Server> {
    parts.first().map(|(shard, _)| &*shard.server)
}

/// The statements of the databases, if one statement may read all of them. Their costs could
/// not be separated, so pages that are explained read each database alone.
fn readable(parts: &[Part<'_>]) -> Option<Vec<Arc<Statements>>> {
    let is_measured = parts.iter().any(|(shard, _)| shard.meter.is_some());
    if is_measured || asks(parts).count() > AUTHORS_MAX {
        return None;
    }
    parts.iter().map(|(shard, _)| shard.statements().ok()).collect()
}

/// All queries, each with the number of its database.
fn asks<'a>(parts: &'a [Part<'_>]) -> impl Iterator<Item = (usize, &'a TailQuery)> {
    let of_part =
        |(place, (_, asks)): (usize, &'a Part<'_>)| asks.iter().map(move |ask| (place, ask));
    parts.iter().enumerate().flat_map(of_part)
}

/// Groups rows by the database of their author.
fn by_part<T>(
    parts: &[Part<'_>],
    rows: impl Iterator<Item = T>,
    author: impl Fn(&T) -> UserId,
) -> Vec<Vec<T>> {
    let places: HashMap<UserId, usize> =
        asks(parts).map(|(place, ask)| (ask.author, place)).collect();
    let mut groups: Vec<Vec<T>> = parts.iter().map(|_| Vec::new()).collect();
    for row in rows {
        if let Some(place) = places.get(&author(&row)) {
            groups[*place].push(row);
        }
    }
    groups
}

/// Runs a statement for several databases, unless a pause is on. A failure is not reported to the
/// gate: it says nothing about a single database, and each of them is then read alone.
pub(super) async fn read<T>(
    server: &Server,
    sql: Sql,
    until: Deadline,
    decode: impl Fn(&Row) -> Result<T, Error>,
) -> Option<Vec<T>> {
    if !server.joint_reads().may_try() {
        return None;
    }
    let progress = Progress::default();
    let work = async {
        let mut connection = server.read_connection().await?;
        let rows: Vec<Row> = match sql {
            Sql::Prepared(sql, values) => execute::rows(&mut connection, &sql, values).await?,
            Sql::Text(sql, values) => execute::rows_of_text(&mut connection, &sql, values).await?,
        };
        progress.note_rows(rows.len());
        let decoded: Result<Vec<T>, Error> = rows.iter().map(decode).collect();
        Ok(decoded?)
    };
    let outcome = server.gate().attempt(until, &progress, work).await;
    // The other readers need not wait because of a row that cannot be read.
    let is_row = matches!(outcome, Err(ShardError::Unreadable(_)));
    server.joint_reads().note(outcome.is_err() && !is_row);
    if let Err(error) = &outcome {
        let server = server.gate().server();
        debug!(server, %error, "One statement for several databases failed; reading each alone");
    }
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_caller_tries_again_once_the_pause_is_over() {
        let reads = JointReads::default();
        assert!(reads.may_try() && reads.may_try());
        reads.note(true);
        assert!(!reads.may_try());
        *reads.paused() = Some(Instant::now());
        assert!(reads.may_try() && !reads.may_try());
        reads.note(false);
        assert!(reads.may_try() && reads.may_try());
    }
}
