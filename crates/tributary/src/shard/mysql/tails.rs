//! Reads of author tails: heads by one statement, spans by one statement, and the rest by the arms
//! of a `UNION ALL` for each author.

use std::cmp::Reverse;

use mysql_async::{Conn, Error, Row, Value};

use super::execute;
use super::statements::{
    AUTHORS_PER_HEADS, AUTHORS_PER_STATEMENT, Chunked, Heads, Spans, Statements, Tails, UNUSED_ID,
    time_value,
};
use super::{MySqlShard, field, key_of, post_of, run_padded, unreadable};
use crate::cursor::AuthorEdge;
use crate::model::{Direction, Post, PostId, PostKey, UserId};
use crate::moment::{CalendarTime, TimeUnit};
use crate::shard::gate::Progress;
use crate::shard::{Cut, Deadline, ShardError, SpanPosts, TailQuery};

/// For fewer authors, the arms of a `UNION ALL` are as fast as the statement for heads.
const HEADS_MIN: usize = 3;
/// The same for the statement for the newest posts.
const NEWEST_MIN: usize = 2;

impl MySqlShard {
    /// The post keys that answer `asks`. The keys of each author are in reading order.
    pub(in crate::shard) async fn tails(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<PostKey>, ShardError> {
        let progress = Progress::default();
        let statements = self.statements()?;
        let unit = statements.unit;
        let are_heads = |ask: &TailQuery| ask.count == 1 && ask.from == AuthorEdge::Top;
        let (mut heads, mut others) = (Vec::new(), asks.to_vec());
        if direction == Direction::Older && statements.heads.is_some() {
            (heads, others) = others.into_iter().partition(are_heads);
        }
        if heads.len() < HEADS_MIN {
            others.append(&mut heads);
        }
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let mut keys = Vec::with_capacity(asks.len());
            for chunk in heads.chunks(AUTHORS_PER_HEADS) {
                read_heads(&mut connection, &statements, (chunk, &progress), &mut keys).await?;
            }
            let arms = statements.tails(direction);
            read_arms(&mut connection, (arms, unit), &others, &progress, |row| {
                keys.push(key_of(unit, row)?);
                Ok(())
            })
            .await?;
            self.end_count(counter, &mut connection).await?;
            Ok(keys)
        };
        self.pass(until, &progress, run).await
    }

    /// As [`MySqlShard::tails`], with the texts.
    pub(in crate::shard) async fn tail_posts(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        until: Deadline,
    ) -> Result<Vec<Post>, ShardError> {
        let progress = Progress::default();
        let statements = self.statements()?;
        let unit = statements.unit;
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let mut posts = Vec::with_capacity(asks.len());
            let mut take = |row: &Row| -> Result<(), Error> {
                posts.push(post_of(unit, row)?);
                Ok(())
            };
            let newest = statements.newest_posts(direction, asks);
            if let Some((sql, values)) = newest.filter(|_| asks.len() >= NEWEST_MIN) {
                let rows: Vec<Row> = execute::rows(&mut connection, sql, values).await?;
                progress.note_rows(rows.len());
                rows.iter().try_for_each(&mut take)?;
                // SQL gives no order of the rows of a derived table.
                posts.sort_unstable_by(|a, b| direction.compare(&a.key, &b.key));
            } else {
                let arms = statements.tails_with_texts(direction);
                read_arms(&mut connection, (arms, unit), asks, &progress, take).await?;
            }
            self.end_count(counter, &mut connection).await?;
            Ok(posts)
        };
        self.pass(until, &progress, run).await
    }

    /// See [`crate::shard::Shard::posts_until`].
    pub(in crate::shard) async fn posts_until(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        cut: Cut,
        until: Deadline,
    ) -> Result<Option<SpanPosts>, ShardError> {
        let cut = cut_of(direction, cut);
        let mut asks = asks.to_vec();
        asks.sort_unstable_by_key(|ask| Reverse(ask.author));
        let progress = Progress::default();
        let statements = self.statements()?;
        let unit = statements.unit;
        let Some(spans) = &statements.spans else { return Ok(None) };
        let Some((statement, times)) = spans.choose(direction, &asks, cut.time) else {
            return Ok(None);
        };
        let run = async {
            let mut connection = self.server.read_connection().await?;
            let counter = self.count_rows(&mut connection).await?;
            let max = asks.len() * cut.posts_each;
            let mut posts = Vec::new();
            for chunk in asks.chunks(AUTHORS_PER_STATEMENT) {
                let (sql, authors) = statement.at_least(chunk.len());
                // One row more than allowed shows that there are too many.
                let rows_max = max + 1 - posts.len();
                let values = span_values(chunk, authors, (&times, unit), rows_max);
                let rows: Vec<Row> = execute::rows(&mut connection, sql, values).await?;
                progress.note_rows(rows.len());
                for row in &rows {
                    posts.push(post_of(unit, row)?);
                }
                if posts.len() > max {
                    break;
                }
            }
            self.end_count(counter, &mut connection).await?;
            Ok(SpanPosts::new(posts, max, cut))
        };
        self.pass(until, &progress, run).await
    }
}

impl Statements {
    /// The statement for the newest posts of each author, and its values. `None` if it cannot
    /// answer the queries.
    pub(super) fn newest_posts(
        &self,
        direction: Direction,
        asks: &[TailQuery],
    ) -> Option<(&str, Vec<Value>)> {
        let sql = self.newest.as_deref().filter(|_| direction == Direction::Older)?;
        let count = asks.first()?.count;
        let is_same = |ask: &TailQuery| ask.from == AuthorEdge::Top && ask.count == count;
        let is_suitable = asks.len() <= AUTHORS_PER_HEADS && asks.iter().all(is_same);
        is_suitable.then(|| (sql, vec![ids(asks), count.into()]))
    }

    /// The arms that answer the queries, and their values. `None` if they are too many.
    pub(super) fn arms(
        &self,
        direction: Direction,
        asks: &[TailQuery],
    ) -> Option<(Vec<&str>, Vec<Value>)> {
        let tails = self.tails_with_texts(direction);
        let (mut arms, mut values) = (Vec::new(), Vec::new());
        for ask in asks {
            let arm = match ask.from {
                from if from == tails.start() => {
                    values.push(ask.author.0.into());
                    &tails.from_start
                }
                AuthorEdge::At { time, post } => {
                    let time = time_value(self.unit, time);
                    values.extend([ask.author.0.into(), time.clone(), time, post.into()]);
                    &tails.from_key
                }
                // There are no posts beyond the far end.
                AuthorEdge::Bottom | AuthorEdge::Top => continue,
            };
            arms.push(arm.at_least(1).0);
            values.push(ask.count.into());
        }
        (arms.len() <= AUTHORS_PER_STATEMENT).then_some((arms, values))
    }
}

/// The authors as a JSON array.
fn ids(asks: &[TailQuery]) -> Value {
    let ids: Vec<String> = asks.iter().map(|ask| ask.author.to_string()).collect();
    format!("[{}]", ids.join(",")).into()
}

impl Spans {
    /// The statement for all posts from the first edge to the cut, and its times. `None` if there
    /// are no such posts.
    pub(super) fn choose(
        &self,
        direction: Direction,
        asks: &[TailQuery],
        cut: i64,
    ) -> Option<(&Chunked, Vec<i64>)> {
        match (direction, nearest(direction, asks)) {
            (Direction::Older, AuthorEdge::Top) => Some((&self.from, vec![cut])),
            // MariaDB takes equal times for one value, and then sorts all posts of that time.
            (_, AuthorEdge::At { time, .. }) if time == cut => None,
            (Direction::Older, AuthorEdge::At { time, .. }) => {
                Some((&self.between, vec![cut, time]))
            }
            (Direction::Newer, AuthorEdge::At { time, .. }) => {
                Some((&self.between, vec![time, cut]))
            }
            _ => None,
        }
    }
}

/// A span is read from the newest post on, so a part of it is of no use to a page of newer posts.
pub(super) fn cut_of(direction: Direction, cut: Cut) -> Cut {
    Cut { takes_part: cut.takes_part && direction == Direction::Older, ..cut }
}

/// The values of a span statement for this many authors. Unused places repeat an author, because
/// rows of another one would count against the limit.
pub(super) fn span_values(
    asks: &[TailQuery],
    authors: usize,
    (times, unit): (&[i64], TimeUnit),
    max: usize,
) -> Vec<Value> {
    let mut values: Vec<Value> = asks.iter().map(|ask| Value::UInt(ask.author.0)).collect();
    let last = values.last().cloned().unwrap_or(Value::UInt(UNUSED_ID));
    values.resize(authors, last);
    values.extend(times.iter().map(|time| time_value(unit, *time)));
    values.push(max.into());
    values
}

/// The edge of all asks that is read first.
fn nearest(direction: Direction, asks: &[TailQuery]) -> AuthorEdge {
    let position = |edge: &AuthorEdge| match edge {
        AuthorEdge::Bottom => (0, 0),
        AuthorEdge::At { time, .. } => (1, *time),
        AuthorEdge::Top => (2, 0),
    };
    let edges = asks.iter().map(|ask| ask.from);
    let nearest = match direction {
        Direction::Older => edges.max_by_key(position),
        Direction::Newer => edges.min_by_key(position),
    };
    nearest.unwrap_or(AuthorEdge::Top)
}

/// Reads the newest key of each author by one statement.
async fn read_heads(
    connection: &mut Conn,
    statements: &Statements,
    (asks, progress): (&[TailQuery], &Progress),
    keys: &mut Vec<PostKey>,
) -> Result<(), Error> {
    let Some(Heads { statement, .. }) = &statements.heads else { return Ok(()) };
    let rows: Vec<Row> = execute::rows(connection, statement, vec![ids(asks)]).await?;
    progress.note_rows(rows.len());
    for row in &rows {
        keys.extend(head_of(statements.unit, row, (UserId(field(row, 0)?), 1))?);
    }
    Ok(())
}

/// The newest key in the columns 0 and 1: the author, and the rest as text. `None` if the author
/// has no posts.
pub(super) fn head_of(
    unit: TimeUnit,
    row: &Row,
    (author, column): (UserId, usize),
) -> Result<Option<PostKey>, Error> {
    let Some(Value::Bytes(head)) = row.as_ref(column) else { return Ok(None) };
    let head = str::from_utf8(head).ok().and_then(|head| parse_head(unit, head));
    let (time, post) = head.ok_or_else(|| unreadable(row))?;
    Ok(Some(PostKey { time, post, author }))
}

/// A head as the statement returns it: the time, a space, and the post id.
fn parse_head(unit: TimeUnit, head: &str) -> Option<(i64, PostId)> {
    let (time, post) = head.rsplit_once(' ')?;
    let time = match unit {
        TimeUnit::DateTime { .. } => CalendarTime::from_text(time)?.packed(),
        TimeUnit::Seconds | TimeUnit::Milliseconds | TimeUnit::Microseconds => time.parse().ok()?,
    };
    Some((time, PostId(post.parse().ok()?)))
}

/// Runs statements of at most [`AUTHORS_PER_STATEMENT`] arms, one after the other.
async fn read_arms(
    connection: &mut Conn,
    (arms, unit): (&Tails, TimeUnit),
    asks: &[TailQuery],
    progress: &Progress,
    mut take: impl FnMut(&Row) -> Result<(), Error>,
) -> Result<(), Error> {
    let start = arms.start();
    let (from_start, from_key): (Vec<TailQuery>, Vec<TailQuery>) =
        asks.iter().partition(|ask| ask.from == start);
    let from_key: Vec<(TailQuery, i64, u64)> = from_key
        .into_iter()
        .filter_map(|ask| match ask.from {
            AuthorEdge::At { time, post } => Some((ask, time, post)),
            // There are no posts beyond the far end.
            AuthorEdge::Bottom | AuthorEdge::Top => None,
        })
        .collect();
    for chunk in from_start.chunks(AUTHORS_PER_STATEMENT) {
        let parameters = |ask: &TailQuery| vec![ask.author.0.into(), ask.count.into()];
        let padding = vec![Value::UInt(0), Value::UInt(0)];
        let rows = run_padded(connection, &arms.from_start, chunk, parameters, padding).await?;
        progress.note_rows(rows.len());
        rows.iter().try_for_each(&mut take)?;
    }
    for chunk in from_key.chunks(AUTHORS_PER_STATEMENT) {
        let parameters = |(ask, time, post): &(TailQuery, i64, u64)| {
            let (author, time) = (Value::UInt(ask.author.0), time_value(unit, *time));
            vec![author, time.clone(), time, Value::UInt(*post), ask.count.into()]
        };
        let mut padding = parameters(&chunk[0]);
        padding[4] = Value::UInt(0);
        let rows = run_padded(connection, &arms.from_key, chunk, parameters, padding).await?;
        progress.note_rows(rows.len());
        rows.iter().try_for_each(&mut take)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_in_the_unit_of_its_column() {
        let id = |id| PostId(id);
        assert_eq!(parse_head(TimeUnit::Milliseconds, "-12 7"), Some((-12, id(7))));
        let time = CalendarTime::from_text("2026-01-02 03:04:05.678").unwrap().packed();
        let unit = TimeUnit::DateTime { digits: 3 };
        assert_eq!(parse_head(unit, "2026-01-02 03:04:05.678 9"), Some((time, id(9))));
        assert_eq!(parse_head(unit, "5 9"), None);
        assert_eq!(parse_head(TimeUnit::Seconds, "5"), None);
    }
}
