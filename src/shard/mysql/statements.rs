//! The statements for one database, written once. All values are placeholders.
//!
//! The optimizer gets no choice. `user_id IN (...) ORDER BY timestamp DESC LIMIT` reads between a
//! page and the whole table depending on who is followed; an arm per author, over a forced index,
//! with a range that starts exactly at the key, reads what it returns.

use super::check::Indexes;
use crate::model::Direction;
use crate::shard::schema::quoted;

/// Arms of a `UNION ALL`. Beyond this a statement gets no cheaper per author, only longer to plan.
pub(super) const AUTHORS_PER_STATEMENT: usize = 50;
/// Lengths that statements exist in; between them arms are padded, so that a connection holds few
/// prepared statements.
const UNION_ARMS: [usize; 4] = [1, 4, 16, AUTHORS_PER_STATEMENT];
/// Rows of one insert. Sixteen rows are ten times as fast as one; past 64 little is gained.
const INSERT_ROWS: [usize; 4] = [1, 4, 16, 64];
/// Prepared statements of one shard; a connection caches this many for each shard of its server.
pub(super) const STATEMENTS_PER_SHARD: usize = 1 + 4 * UNION_ARMS.len() + 4 + 2 * INSERT_ROWS.len();

/// All statements for one database.
#[derive(Debug)]
pub(super) struct Statements {
    /// (reader, from, max) -> followee, rising.
    pub(super) followees: String,
    older: Tails,
    newer: Tails,
    /// (author, time, post) for each -> author, time, post, content.
    pub(super) posts: Chunked,
    /// (follower, followee) for each.
    pub(super) insert_follows: Chunked,
    /// (post, author, content, time) for each.
    pub(super) insert_posts: Chunked,
    /// Whether inserting a row again leaves one row, else which key is missing.
    pub(super) loadable: Result<(), String>,
}

/// Authors' tails in one direction -> author, time, post.
#[derive(Debug)]
pub(super) struct Tails {
    /// (author, count) for each.
    pub(super) from_start: Chunked,
    /// (author, time, time, post, count) for each.
    pub(super) from_key: Chunked,
}

/// One statement in several lengths.
#[derive(Debug)]
pub(super) struct Chunked([(usize, String); 4]);

impl Chunked {
    /// The shortest statement for `len` items, or the longest there is.
    pub(super) fn at_least(&self, len: usize) -> (&str, usize) {
        let [.., longest] = &self.0;
        let (arms, sql) = self.0.iter().find(|(arms, _)| *arms >= len).unwrap_or(longest);
        (sql, *arms)
    }

    /// The longest statement for at most `len` items, or the shortest there is.
    pub(super) fn at_most(&self, len: usize) -> (&str, usize) {
        let [shortest, ..] = &self.0;
        let (rows, sql) = self.0.iter().rev().find(|(rows, _)| *rows <= len).unwrap_or(shortest);
        (sql, *rows)
    }
}

impl Statements {
    pub(super) fn new(database: &str, indexes: Indexes) -> Self {
        let database = quoted(database);
        let posts = format!("{database}.`tweets` FORCE INDEX ({})", quoted(&indexes.posts));
        let follows = format!("{database}.`followers` FORCE INDEX ({})", quoted(&indexes.follows));
        Self {
            followees: format!(
                "SELECT DISTINCT followed_user_id FROM {follows}
                 WHERE follower_user_id = ? AND followed_user_id >= ?
                 ORDER BY followed_user_id LIMIT ?"
            ),
            older: Tails::new(&posts, Direction::Older),
            newer: Tails::new(&posts, Direction::Newer),
            posts: Chunked(UNION_ARMS.map(|keys| {
                let keys_sql = vec!["(?, ?, ?)"; keys].join(", ");
                let columns = "user_id, timestamp, tweet_id";
                (
                    keys,
                    format!(
                        "SELECT {columns}, content FROM {posts} WHERE ({columns}) IN ({keys_sql})"
                    ),
                )
            })),
            insert_follows: insert(
                &format!("{database}.`followers` (follower_user_id, followed_user_id)"),
                "(?, ?)",
                "follower_user_id = follower_user_id",
            ),
            insert_posts: insert(
                &format!("{database}.`tweets` (tweet_id, user_id, content, timestamp)"),
                "(?, ?, ?, ?)",
                "tweet_id = tweet_id",
            ),
            loadable: indexes.loadable,
        }
    }

    /// A statement of each kind of read, for one author. They read nothing with all values 0.
    pub(super) fn reads(&self) -> [(&str, usize); 6] {
        fn one(chunked: &Chunked) -> &str {
            chunked.at_least(1).0
        }
        [
            (&self.followees, 3),
            (one(&self.older.from_start), 2),
            (one(&self.older.from_key), 5),
            (one(&self.newer.from_start), 2),
            (one(&self.newer.from_key), 5),
            (one(&self.posts), 3),
        ]
    }

    pub(super) fn tails(&self, direction: Direction) -> &Tails {
        match direction {
            Direction::Older => &self.older,
            Direction::Newer => &self.newer,
        }
    }
}

impl Tails {
    fn new(posts: &str, direction: Direction) -> Self {
        let (beyond, order) = match direction {
            Direction::Older => (
                "timestamp < ? OR (timestamp = ? AND tweet_id < ?)",
                "timestamp DESC, tweet_id DESC",
            ),
            Direction::Newer => {
                ("timestamp > ? OR (timestamp = ? AND tweet_id >= ?)", "timestamp, tweet_id")
            }
        };
        let arm = |condition: &str| {
            union_all(&format!(
                "SELECT user_id, timestamp, tweet_id FROM {posts}
                 WHERE user_id = ?{condition} ORDER BY {order} LIMIT ?"
            ))
        };
        // A column that may be NULL has no place for such rows in the order.
        let from_start = arm(" AND timestamp IS NOT NULL");
        Self { from_start, from_key: arm(&format!(" AND ({beyond})")) }
    }
}

fn union_all(arm: &str) -> Chunked {
    Chunked(UNION_ARMS.map(|arms| (arms, vec![format!("({arm})"); arms].join(" UNION ALL "))))
}

/// `nothing` is an assignment that changes nothing: unlike `INSERT IGNORE` it lets bad values fail.
fn insert(table: &str, row: &str, nothing: &str) -> Chunked {
    Chunked(INSERT_ROWS.map(|rows| {
        let values = vec![row; rows].join(", ");
        (rows, format!("INSERT INTO {table} VALUES {values} ON DUPLICATE KEY UPDATE {nothing}"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_chosen_to_pad_little_and_to_cover_all() {
        let union = union_all("SELECT ?");
        for (items, arms) in [(1, 1), (2, 4), (5, 16), (17, 50), (50, 50)] {
            let (sql, padded) = union.at_least(items);
            assert_eq!((padded, sql.matches('?').count()), (arms, arms));
        }
        let insert = insert("t", "(?)", "a = a");
        for (items, rows) in [(1, 1), (3, 1), (15, 4), (63, 16), (999, 64)] {
            let (sql, taken) = insert.at_most(items);
            assert_eq!((taken, sql.matches('?').count()), (rows, rows));
        }
    }
}
