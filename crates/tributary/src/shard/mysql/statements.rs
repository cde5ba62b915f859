//! The SQL statements for one database, built once per check. Values are placeholders, except in
//! [`Fills`].
//!
//! The optimizer gets no choice of plan. `user_id IN (...) ORDER BY timestamp DESC LIMIT` reads
//! between one page and the whole table, depending on the followees. Instead, heads and spans have
//! statements whose plans `plans` verifies. For the rest, each author gets an arm of a `UNION ALL`
//! over a forced index. Its range starts exactly at the key, so it reads only the rows that it
//! returns.

use std::collections::BTreeMap;

use mysql_async::Value;

use super::check::Indexes;
use super::conditions::{self, NewColumns};
use super::lists::ListStatements;
use super::names::{self, NameStatements};
use super::references::{self, ReferenceStatements};
use crate::cursor::AuthorEdge;
use crate::mapping::{FollowsTable, PostsTable, Tables};
use crate::model::{Direction, ID_MAX, UserId, UserList};
use crate::moment::{CalendarTime, TimeUnit};
use crate::shard::schema::quoted;

/// Maximum arms of a `UNION ALL`. More arms are not cheaper per author and take longer to plan.
pub(super) const AUTHORS_PER_STATEMENT: usize = 50;
/// The number of lengths in which a statement of several lengths exists.
const LENGTHS: usize = 6;
/// The lengths in which a `UNION ALL` exists. Other lengths are padded to the next one, so that a
/// connection holds few prepared statements. A padded arm costs 10 us.
pub(super) const UNION_ARMS: [usize; LENGTHS] = [1, 2, 4, 8, 16, AUTHORS_PER_STATEMENT];
/// The lengths in which an insert exists, in rows. 16 rows are ten times as fast as single rows;
/// more than 64 gain little.
const INSERT_ROWS: [usize; LENGTHS] = [1, 2, 4, 8, 16, 64];
/// The lengths in which the removal of entries of one list exists.
pub(super) const REMOVED_ROWS: [usize; LENGTHS] = [1, 4, 16, 64, 256, REMOVED_ROWS_MAX];
pub(super) const REMOVED_ROWS_MAX: usize = 1_000;
/// Number of prepared statements of one shard. A connection caches this many for each shard of its
/// server.
pub(super) const STATEMENTS_PER_SHARD: usize = 12 + (10 + 2 + 2 + 5 + 3 + 1 + 2) * LENGTHS;
/// The lengths in which a span statement exists, in authors. Two at least, so that the optimizer
/// cannot choose to read the whole tail of a single author.
const SPAN_AUTHORS: [usize; LENGTHS] = [2, 4, 8, 16, 32, AUTHORS_PER_STATEMENT];
/// Maximum authors of the statement for heads: 20 KB of ids.
pub(super) const AUTHORS_PER_HEADS: usize = 1_000;
/// The id that unused places of a span statement get. Posts of a user with this id do no harm. An
/// id that the column cannot hold would: MariaDB then scans the table.
pub(super) const UNUSED_ID: u64 = 0;

/// A table of the authors in a JSON array.
const AUTHORS: &str = "JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) AS authors";

/// All statements for one database.
#[derive(Debug)]
pub(super) struct Statements {
    /// The unit of the time column.
    pub(super) unit: TimeUnit,
    pub(super) lists: ListStatements,
    older: Tails,
    newer: Tails,
    older_with_texts: Tails,
    newer_with_texts: Tails,
    /// `None` if the plan is not bounded.
    pub(super) heads: Option<Heads>,
    /// `None` if the plan is not bounded.
    pub(super) spans: Option<Spans>,
    /// (JSON array of authors, count) -> author, time, post, content: the newest posts of each
    /// author. `None` if the server has no `LATERAL` or the plan is not bounded.
    pub(super) newest: Option<String>,
    /// (author, time, post) for each -> author, time, post, content.
    pub(super) posts: Chunked,
    /// (author, post) for each -> author, time, post, content.
    pub(super) posts_at: Chunked,
    /// As `posts_at`, for one post, whose row it locks.
    pub(super) post_to_edit: String,
    /// `posts_at` reads one row of each post. Otherwise it may read all posts of the author.
    pub(super) has_address_index: bool,
    /// `None` if the mapping has no users table.
    pub(super) names: Option<NameStatements>,
    /// (values of a post) for each.
    pub(super) insert_posts: Chunked,
    pub(super) references: ReferenceStatements,
    /// Reads that fill memory.
    pub(super) fills: Fills,
    /// `Ok` if inserting a row twice stores it once, else the unique key that is missing.
    pub(super) loadable: Result<(), String>,
}

/// Reads that fill memory. Several are sent in one round trip, which prepared statements do not
/// allow. So ids and counts are literals.
#[derive(Debug)]
pub(super) struct Fills {
    tail: Arm,
    lists: BTreeMap<UserList, Arm>,
    /// The text before and after the list of users.
    names: Option<[String; 2]>,
    /// () -> author, newest time. Hidden posts count too, so that the index alone answers.
    pub(super) heads: String,
}

/// A read of one user's rows: the text before the user id, and the text between it and the count.
#[derive(Debug)]
struct Arm([String; 2]);

/// The read of the newest post of each author.
#[derive(Debug)]
pub(super) struct Heads {
    /// (JSON array of authors) -> author, newest key as text.
    pub(super) statement: String,
    /// The newest key of an author as text: the SQL before and after the author.
    key: [String; 2],
}

/// Reads of the posts of some authors in a span of time, up to a limit, from the greatest id of an
/// author and its newest post on -> author, time, post, content.
#[derive(Debug)]
pub(super) struct Spans {
    /// (author for each, first time, limit)
    pub(super) from: Chunked,
    /// (author for each, first time, last time, limit)
    pub(super) between: Chunked,
}

/// Reads of author tails in one direction -> author, time, post; perhaps content.
#[derive(Debug)]
pub(super) struct Tails {
    direction: Direction,
    /// (author, count) for each.
    pub(super) from_start: Chunked,
    /// (author, time, time, post, count) for each.
    pub(super) from_key: Chunked,
}

/// One statement in several lengths.
#[derive(Debug)]
pub(super) struct Chunked(Box<[(usize, String); LENGTHS]>);

impl Chunked {
    pub(super) fn new(lengths: [usize; LENGTHS], sql: impl Fn(usize) -> String) -> Self {
        Self(Box::new(lengths.map(|length| (length, sql(length)))))
    }

    /// The shortest statement with room for `len` items, or the longest one; and its length.
    pub(super) fn at_least(&self, len: usize) -> (&str, usize) {
        let [.., longest] = &*self.0;
        let (arms, sql) = self.0.iter().find(|(arms, _)| *arms >= len).unwrap_or(longest);
        (sql, *arms)
    }

    /// The longest statement that takes at most `len` items, or the shortest one; and its length.
    pub(super) fn at_most(&self, len: usize) -> (&str, usize) {
        let [shortest, ..] = &*self.0;
        let (rows, sql) = self.0.iter().rev().find(|(rows, _)| *rows <= len).unwrap_or(shortest);
        (sql, *rows)
    }
}

impl Statements {
    pub(super) fn new(database: &str, tables: &Tables, indexes: Indexes) -> Self {
        let database = quoted(database);
        let posts = Posts::new(&database, &tables.posts, &indexes.posts);
        let texts = format!(", {}", posts.texts);
        let at_address = posts.at_address(&database, (&tables.posts, indexes.addresses.as_deref()));
        Self {
            unit: tables.posts.unit,
            lists: ListStatements::new(&database, tables, &indexes),
            older: Tails::new(&posts, Direction::Older, ""),
            newer: Tails::new(&posts, Direction::Newer, ""),
            older_with_texts: Tails::new(&posts, Direction::Older, &texts),
            newer_with_texts: Tails::new(&posts, Direction::Newer, &texts),
            heads: Some(posts.heads()),
            spans: Some(posts.spans()),
            newest: Some(posts.newest()),
            posts: posts.by_key(),
            posts_at: union_all(&at_address),
            post_to_edit: format!("{at_address} FOR UPDATE"),
            has_address_index: indexes.addresses.is_some(),
            names: NameStatements::new(&database, tables, indexes.handles.as_deref()),
            insert_posts: posts.insert(&database, &tables.posts),
            references: references::statements(&database, &tables.posts, &indexes.references),
            fills: Fills::new(&database, tables, &indexes, &posts),
            loadable: indexes.loadable,
        }
    }

    /// One statement of each kind of read, with values for which it returns no rows or next to
    /// none.
    pub(super) fn reads(&self) -> Vec<(&str, Vec<Value>)> {
        fn one(chunked: &Chunked) -> &str {
            chunked.at_least(1).0
        }
        let (none, time) = (Value::UInt(0), time_value(self.unit, NO_TIME));
        let from_start = vec![none.clone(), none.clone()];
        let key = vec![none.clone(), time.clone(), none.clone()];
        let from_key = vec![none.clone(), time.clone(), time, none.clone(), none.clone()];
        let mut reads = self.lists.reads();
        reads.extend([
            (one(&self.older.from_start), from_start.clone()),
            (one(&self.older.from_key), from_key.clone()),
            (one(&self.newer.from_start), from_start),
            (one(&self.newer.from_key), from_key.clone()),
            (one(&self.older_with_texts.from_key), from_key),
            (one(&self.posts), key),
            (one(&self.posts_at), vec![none.clone(), none.clone()]),
        ]);
        reads.extend(self.names.iter().flat_map(NameStatements::reads));
        reads
    }

    pub(super) fn tails(&self, direction: Direction) -> &Tails {
        match direction {
            Direction::Older => &self.older,
            Direction::Newer => &self.newer,
        }
    }

    pub(super) fn tails_with_texts(&self, direction: Direction) -> &Tails {
        match direction {
            Direction::Older => &self.older_with_texts,
            Direction::Newer => &self.newer_with_texts,
        }
    }
}

impl Heads {
    fn new(key: [String; 2]) -> Self {
        let statement = format!("SELECT authors.id, {} FROM {AUTHORS}", key.join("authors.id"));
        Self { statement, key }
    }

    /// The newest key of `author` as text. It is in the database with the number `place`.
    pub(super) fn choose(databases: &[&Self], place: &str, author: &str) -> String {
        let key =
            |(number, of): (usize, &&Self)| format!(" WHEN {number} THEN {}", of.key.join(author));
        let keys: String = databases.iter().enumerate().map(key).collect();
        format!("CASE {place}{keys} END")
    }

    /// As [`Heads::statement`], for several databases: (JSON array of pairs of the number of the
    /// database and the author) -> author, newest key as text.
    pub(super) fn joint(databases: &[&Self]) -> String {
        let key = Self::choose(databases, "authors.place", "authors.id");
        format!(
            "SELECT authors.id, {key}
             FROM JSON_TABLE(?, '$[*]' COLUMNS (place INT PATH '$[0]',
               id BIGINT UNSIGNED PATH '$[1]')) AS authors"
        )
    }
}

impl Fills {
    fn new(database: &str, tables: &Tables, indexes: &Indexes, posts: &Posts) -> Self {
        let (key, Posts { from, id, author, texts, time, visible, .. }) = (posts.key(), posts);
        let lists = tables.lists().filter_map(|(list, table)| {
            let index = indexes.lists.get(&list)?;
            Some((list, Arm::of_list(database, &table, index)))
        });
        Self {
            lists: lists.collect(),
            tail: Arm([
                format!("SELECT {key}, {texts} FROM {from} WHERE {author} = "),
                format!(
                    " AND {time} IS NOT NULL AND {id} BETWEEN 0 AND {ID_MAX}{visible}
                     ORDER BY {time} DESC, {id} DESC LIMIT "
                ),
            ]),
            names: tables.users.as_ref().map(|table| {
                let (id, columns) = (quoted(&table.id), names::columns(table));
                let from = format!("{database}.{}", quoted(&table.name));
                [format!("SELECT {columns} FROM {from} WHERE {id} IN ("), ")".into()]
            }),
            heads: format!("SELECT {author}, MAX({time}) FROM {from} GROUP BY {author}"),
        }
    }

    /// The newest posts of these authors, at most the given count of each -> author, time, post,
    /// content.
    pub(super) fn tails(&self, authors: &[(UserId, u64)]) -> String {
        self.tail.union_all(authors)
    }

    /// The users on a list of these owners by rising id, at most the given count of each -> owner,
    /// user. `None` if the mapping has no table of this list.
    pub(super) fn listed(&self, list: UserList, owners: &[(UserId, u64)]) -> Option<String> {
        Some(self.lists.get(&list)?.union_all(owners))
    }

    /// The names of these users -> user, handle, display name; `None` if the mapping has no users
    /// table.
    pub(super) fn names(&self, users: &[(UserId, u64)]) -> Option<String> {
        let [before, after] = self.names.as_ref()?;
        let users: Vec<String> = users.iter().map(|(user, _)| user.to_string()).collect();
        Some(format!("{before}{}{after}", users.join(", ")))
    }
}

impl Arm {
    fn of_list(database: &str, table: &FollowsTable, index: &str) -> Self {
        let (owner, user) = (quoted(&table.follower), quoted(&table.followed));
        let (name, index) = (quoted(&table.name), quoted(index));
        let visible = conditions::all(table.conditions());
        Self([
            format!(
                "SELECT DISTINCT {owner}, {user} FROM {database}.{name}
                 FORCE INDEX ({index}) WHERE {owner} = "
            ),
            format!(" AND {user} BETWEEN 0 AND {ID_MAX}{visible} ORDER BY {user} LIMIT "),
        ])
    }

    fn union_all(&self, users: &[(UserId, u64)]) -> String {
        let Self([before, between]) = self;
        let arms = users.iter().map(|(user, count)| format!("({before}{user}{between}{count})"));
        arms.collect::<Vec<_>>().join(" UNION ALL ")
    }
}

/// The posts table, with every name quoted for SQL.
struct Posts {
    /// The table with the forced index that bounds all reads.
    from: String,
    id: String,
    author: String,
    content: String,
    /// The content, and the optional columns that the table has.
    texts: String,
    time: String,
    /// A condition that excludes hidden posts, or an empty text.
    visible: String,
    /// The index is the table itself, so that each entry has all columns.
    clustered: bool,
}

/// The column of the content and the optional ones, and as many placeholders.
pub(super) fn texts(table: &PostsTable) -> (String, String) {
    let columns = std::iter::once(&table.content).chain(table.optional_columns());
    let columns: Vec<String> = columns.map(|column| quoted(column)).collect();
    (columns.join(", "), vec!["?"; columns.len()].join(", "))
}

impl Posts {
    fn new(database: &str, table: &PostsTable, index: &str) -> Self {
        Self {
            from: format!("{database}.{} FORCE INDEX ({})", quoted(&table.name), quoted(index)),
            id: quoted(&table.id),
            author: quoted(&table.author),
            content: quoted(&table.content),
            texts: texts(table).0,
            time: quoted(&table.time),
            visible: conditions::all(table.conditions()),
            clustered: index == "PRIMARY",
        }
    }

    fn key(&self) -> String {
        format!("{}, {}, {}", self.author, self.time, self.id)
    }

    fn by_key(&self) -> Chunked {
        let (key, Self { texts, from, visible, .. }) = (self.key(), self);
        Chunked::new(UNION_ARMS, |keys| {
            let values = vec!["(?, ?, ?)"; keys].join(", ");
            format!("SELECT {key}, {texts} FROM {from} WHERE ({key}) IN ({values}){visible}")
        })
    }

    fn at_address(&self, database: &str, (table, index): (&PostsTable, Option<&str>)) -> String {
        let (key, Self { texts, id, author, time, visible, .. }) = (self.key(), self);
        let name = quoted(&table.name);
        let force =
            index.map_or(String::new(), |index| format!(" FORCE INDEX ({})", quoted(index)));
        format!(
            "SELECT {key}, {texts} FROM {database}.{name}{force}
             WHERE {author} = ? AND {id} = ? AND {time} IS NOT NULL{visible}
             ORDER BY {time} DESC LIMIT 1"
        )
    }

    /// `ORDER BY` names all columns of the index, so each author costs one read at the end of its
    /// range. Without the author in it, MySQL sorts the whole tail. MySQL also reads up to 100 rows
    /// ahead, unless a `TEXT` column is read (decision 3).
    fn heads(&self) -> Heads {
        let Self { from, id, author, content, time, visible, clustered, .. } = self;
        let empty =
            if *clustered { format!(", IFNULL(LEFT({content}, 0), '')") } else { String::new() };
        Heads::new([
            format!("(SELECT CONCAT({time}, ' ', {id}{empty}) FROM {from} WHERE {author} = "),
            format!(
                " AND {time} IS NOT NULL AND {id} BETWEEN 0 AND {ID_MAX}{visible}
                 ORDER BY {author} DESC, {time} DESC, {id} DESC LIMIT 1)"
            ),
        ])
    }

    /// As [`Posts::heads`], for several posts of each author.
    fn newest(&self) -> String {
        let (key, Self { texts, from, id, author, time, visible, .. }) = (self.key(), self);
        format!(
            "SELECT newest.* FROM {AUTHORS}, LATERAL (
               SELECT {key}, {texts} FROM {from}
               WHERE {author} = authors.id AND {time} IS NOT NULL
                 AND {id} BETWEEN 0 AND {ID_MAX}{visible}
               ORDER BY {author} DESC, {time} DESC, {id} DESC LIMIT ?) AS newest"
        )
    }

    fn spans(&self) -> Spans {
        let (key, Self { texts, from, id, author, time, visible, .. }) = (self.key(), self);
        let span = |condition: &str| {
            Chunked::new(SPAN_AUTHORS, |authors| {
                let values = vec!["?"; authors].join(", ");
                format!(
                    "SELECT {key}, {texts} FROM {from}
                     WHERE {author} IN ({values}) AND {time} {condition}
                       AND {id} BETWEEN 0 AND {ID_MAX}{visible}
                     ORDER BY {author} DESC, {time} DESC, {id} DESC LIMIT ?"
                )
            })
        };
        Spans { from: span(">= ?"), between: span("BETWEEN ? AND ?") }
    }

    fn insert(&self, database: &str, table: &PostsTable) -> Chunked {
        let Self { id, author, time, .. } = self;
        let NewColumns { columns, values, .. } = NewColumns::new(table.conditions());
        let (name, (texts, text_values)) = (quoted(&table.name), texts(table));
        insert(
            &format!("{database}.{name} ({id}, {author}, {time}, {texts}{columns})"),
            &format!("(?, ?, ?, {text_values}{values})"),
            &format!("{id} = {id}"),
        )
    }
}

impl Tails {
    /// The edge for which no key is needed.
    pub(super) fn start(&self) -> AuthorEdge {
        match self.direction {
            Direction::Older => AuthorEdge::Top,
            Direction::Newer => AuthorEdge::Bottom,
        }
    }

    /// `texts` adds a column.
    fn new(posts: &Posts, direction: Direction, texts: &str) -> Self {
        let Posts { from, id, author, time, visible, .. } = posts;
        let (beyond, order) = match direction {
            Direction::Older => (
                format!("{time} < ? OR ({time} = ? AND {id} < ?)"),
                format!("{time} DESC, {id} DESC"),
            ),
            Direction::Newer => {
                (format!("{time} > ? OR ({time} = ? AND {id} >= ?)"), format!("{time}, {id}"))
            }
        };
        let key = posts.key();
        let arm = |condition: &str| {
            union_all(&format!(
                "SELECT {key}{texts} FROM {from}
                 WHERE {author} = ? AND {condition} AND {id} BETWEEN 0 AND {ID_MAX}{visible}
                 ORDER BY {order} LIMIT ?"
            ))
        };
        // A post with a NULL time has no place in the order. A NULL or out-of-range id is not the
        // id of a post.
        Self {
            direction,
            from_start: arm(&format!("{time} IS NOT NULL")),
            from_key: arm(&format!("({beyond})")),
        }
    }
}

/// A time for statements whose result does not matter.
const NO_TIME: i64 = 0;

/// A time of a key as a value of the time column.
pub(super) fn time_value(unit: TimeUnit, time: i64) -> Value {
    match unit {
        TimeUnit::DateTime { .. } => {
            let CalendarTime { year, month, day, hour, minute, second, micros } =
                CalendarTime::unpacked(time);
            Value::Date(year, month, day, hour, minute, second, micros)
        }
        TimeUnit::Seconds | TimeUnit::Milliseconds | TimeUnit::Microseconds => Value::Int(time),
    }
}

fn union_all(arm: &str) -> Chunked {
    Chunked::new(UNION_ARMS, |arms| vec![format!("({arm})"); arms].join(" UNION ALL "))
}

/// `nothing` is an assignment that changes nothing. Unlike `INSERT IGNORE`, it skips duplicates
/// only and lets bad values fail.
pub(super) fn insert(table: &str, row: &str, nothing: &str) -> Chunked {
    Chunked::new(INSERT_ROWS, |rows| {
        let values = vec![row; rows].join(", ");
        format!("INSERT INTO {table} VALUES {values} ON DUPLICATE KEY UPDATE {nothing}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_chosen_to_pad_little_and_to_cover_all() {
        let union = union_all("SELECT ?");
        for (items, arms) in [(1, 1), (3, 4), (5, 8), (17, 50), (50, 50)] {
            let (sql, padded) = union.at_least(items);
            assert_eq!((padded, sql.matches('?').count()), (arms, arms));
        }
        let insert = insert("t", "(?)", "a = a");
        for (items, rows) in [(1, 1), (3, 2), (15, 8), (63, 16), (999, 64)] {
            let (sql, taken) = insert.at_most(items);
            assert_eq!((taken, sql.matches('?').count()), (rows, rows));
        }
    }
}
