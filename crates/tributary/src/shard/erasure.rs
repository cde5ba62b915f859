//! Deletes every row that names a user, on all shards, in small transactions.
//!
//! Rows are searched on every shard, also on those that do not own the user: the follows of other
//! users are there, and rows that were stored on a wrong shard. Hidden rows are deleted too.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::schema::WRITES_TABLE;
use super::{Deadline, Fleet, Shard, ShardError, Store};
use crate::backoff::Backoff;
use crate::mapping::{
    Condition, FollowsTable, PostsTable, ReadMarkersTable, ReferenceColumns, Tables,
};
use crate::model::UserId;

/// Rows of one transaction: their locks are held for some ten milliseconds.
const ROWS_PER_COMMIT: usize = 1_000;
/// Rows of one transaction if each one reads the whole table, so that there are few of them.
const ROWS_PER_SCAN: usize = 10_000;
/// How many times one transaction is tried, with pauses in between.
const TRIES_MAX: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A column that holds ids of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserColumn {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// The columns that are set to NULL, for rows that stay without naming the user. If there are
    /// none, the rows are deleted.
    pub(super) clears: Vec<String>,
    /// For posts that only show another one: the column of the text, and whether the rows are those
    /// without a text. All rows if it is `None`.
    pub(super) text: Option<(String, bool)>,
    /// The conditions of rows whose id is the id of a user and not of something else.
    pub(super) types: Vec<Condition>,
    /// The number of rows of the table, roughly, if each statement reads all of them because no
    /// index starts with the column.
    pub scanned: Option<u64>,
}

/// The rows of a shard that name a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRows {
    /// The shard's configured name.
    pub shard: String,
    /// The number of rows of each column that has any, in the order of deletion.
    pub columns: Vec<(UserColumn, u64)>,
}

/// All columns of a shard that hold ids of users, in the order of deletion. The user's own row is
/// the last one, because rows of other tables may refer to it. A test compares the list with the
/// tables that we create.
pub(super) fn user_columns(tables: &Tables) -> Vec<UserColumn> {
    let posts = &tables.posts;
    let of_list = |list: Cow<'_, FollowsTable>| {
        let ids = [&list.follower, &list.followed];
        ids.map(|id| UserColumn::new(&list.name, id, types(list.conditions(), id, &ids)))
    };
    let mut columns: Vec<UserColumn> = tables.lists().flat_map(|(_, list)| of_list(list)).collect();
    // The author of a post is a user unless a column of this very name says otherwise. The other
    // types of a post say what kind of post it is.
    let author = &posts.author;
    let of_author = posts.conditions().iter().filter(|c| c.is_type() && describes(c, author));
    columns.push(UserColumn::new(&posts.name, author, of_author.cloned().collect()));
    if let Some(references) = &posts.references {
        columns.extend(referring(posts, references));
    }
    // A marker at a post of the user keeps its place in time.
    if let Some(ReadMarkersTable { name }) = &tables.read_markers {
        columns.push(UserColumn::new(name, "user_id", Vec::new()));
        let clears = ["post_user_id", "post_id"].map(str::to_owned).to_vec();
        columns.push(UserColumn { clears, ..UserColumn::new(name, "post_user_id", Vec::new()) });
    }
    columns.push(UserColumn::new(WRITES_TABLE, "author", Vec::new()));
    columns
        .extend(tables.users.iter().map(|users| UserColumn::new(&users.name, &users.id, vec![])));
    columns
}

/// The posts that refer to a post of the user. A repost without a text shows nothing else, so it is
/// deleted. A reply, and a repost with a text, are posts of their own authors.
fn referring(posts: &PostsTable, names: &ReferenceColumns) -> [UserColumn; 3] {
    let of = |author: &String| UserColumn::new(&posts.name, author, Vec::new());
    let reposts = |is_empty| {
        let text = Some((posts.content.clone(), is_empty));
        UserColumn { text, ..of(&names.repost_author) }
    };
    let clears = |author: &String, post: &String| vec![author.clone(), post.clone()];
    let quotes = clears(&names.repost_author, &names.repost_post);
    let replies = clears(&names.reply_author, &names.reply_post);
    [
        reposts(true),
        UserColumn { clears: quotes, ..reposts(false) },
        UserColumn { clears: replies, ..of(&names.reply_author) },
    ]
}

/// The conditions on the type of an id of a follow. The rows of other types are kept: their ids can
/// be equal to the user's. A type that describes none of the ids may describe each of them.
fn types(conditions: &[Condition], id: &str, ids: &[&String; 2]) -> Vec<Condition> {
    let applies = |condition: &&Condition| {
        condition.is_type()
            && (describes(condition, id) || !ids.iter().any(|id| describes(condition, id)))
    };
    conditions.iter().filter(applies).cloned().collect()
}

/// Whether a type column is about this id by its name: `followable_type` and `followable_id`.
fn describes(condition: &Condition, id: &str) -> bool {
    let stem = |name: &str, end: &str| {
        let name = name.to_lowercase();
        name.strip_suffix(end).unwrap_or(&name).trim_end_matches('_').to_owned()
    };
    let (of_type, of_id) = (stem(&condition.column, "type"), stem(id, "id"));
    !of_type.is_empty() && (of_id.starts_with(&of_type) || of_type.starts_with(&of_id))
}

impl UserColumn {
    pub(super) fn new(table: &str, column: &str, types: Vec<Condition>) -> Self {
        let (table, column, clears) = (table.to_owned(), column.to_owned(), Vec::new());
        Self { table, column, clears, text: None, types, scanned: None }
    }

    /// Whether the rows stay without the id.
    pub fn rows_stay(&self) -> bool {
        !self.clears.is_empty()
    }

    fn rows_per_commit(&self) -> usize {
        if self.scanned.is_some() { ROWS_PER_SCAN } else { ROWS_PER_COMMIT }
    }
}

impl Fleet {
    /// Counts the rows that name `user` on each shard. Each statement takes at most `within`.
    ///
    /// # Errors
    /// The first error of a shard; the text names it.
    pub async fn count_user_rows(
        &self,
        user: UserId,
        within: Duration,
    ) -> Result<Vec<UserRows>, ShardError> {
        let mut found = Vec::new();
        for shard in self.shards() {
            let mut columns = Vec::new();
            for column in shard.user_columns(within).await.map_err(|error| of(shard, error))? {
                let until = Deadline::after(within);
                let rows = shard.count_user_rows(&column, user, until).await;
                match rows.map_err(|error| of(shard, error))? {
                    0 => {}
                    rows => columns.push((column, rows)),
                }
            }
            found.push(UserRows { shard: shard.name().to_owned(), columns });
        }
        Ok(found)
    }

    /// Deletes the rows that name `user`, on one shard after the other, so that servers keep their
    /// time for requests. Calls `deleted` with the number of rows of each transaction.
    ///
    /// # Errors
    /// As [`Fleet::count_user_rows`]. Rows may be deleted by then; another call deletes the rest.
    pub async fn delete_user_rows(
        &self,
        user: UserId,
        within: Duration,
        mut deleted: impl FnMut(usize),
    ) -> Result<(), ShardError> {
        for shard in self.shards() {
            for column in shard.user_columns(within).await.map_err(|error| of(shard, error))? {
                loop {
                    let rows = delete_some(shard, &column, user, within).await;
                    let rows = rows.map_err(|error| of(shard, error))?;
                    deleted(rows);
                    if rows < column.rows_per_commit() {
                        break;
                    }
                }
            }
            shard.overwrite_deleted().await.map_err(|error| of(shard, error))?;
        }
        Ok(())
    }
}

/// Deletes the rows of one transaction. Repeats it after errors that may pass: a second deletion
/// of a row changes nothing.
async fn delete_some(
    shard: &Shard,
    column: &UserColumn,
    user: UserId,
    within: Duration,
) -> Result<usize, ShardError> {
    let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
    loop {
        let max = column.rows_per_commit();
        match shard.delete_user_rows(column, user, max, Deadline::after(within)).await {
            Err(
                ShardError::Slow(_)
                | ShardError::Overloaded(_)
                | ShardError::Unavailable(_)
                | ShardError::ReadOnly(_)
                | ShardError::InDoubt(_),
            ) if (backoff.failures() as usize) < TRIES_MAX => sleep(backoff.pause()).await,
            outcome => return outcome,
        }
    }
}

impl Shard {
    /// The columns that hold ids of users, if their tables exist.
    async fn user_columns(&self, within: Duration) -> Result<Vec<UserColumn>, ShardError> {
        let until = Deadline::after(within);
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.user_columns(until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.user_columns(until).await,
        }
    }

    async fn count_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        until: Deadline,
    ) -> Result<u64, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.count_user_rows(column, user, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.count_user_rows(column, user, until).await,
        }
    }

    /// Servers overwrite deleted rows on their own.
    async fn overwrite_deleted(&self) -> Result<(), ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.overwrite_deleted().await,
            #[cfg(feature = "mysql")]
            Store::MySql(_) => Ok(()),
        }
    }

    /// Deletes at most `max` rows in one transaction. Returns the number of deleted rows.
    async fn delete_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        match &self.store {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(shard) => shard.delete_user_rows(column, user, max, until).await,
            #[cfg(feature = "mysql")]
            Store::MySql(shard) => shard.delete_user_rows(column, user, max, until).await,
        }
    }
}

/// Adds the shard to the text of an error. Keeps whether an operator must act first.
fn of(shard: &Arc<Shard>, error: ShardError) -> ShardError {
    let text = format!("shard {}: {error}", shard.name());
    match error {
        ShardError::Faulty(_) | ShardError::Refused(_) => ShardError::Faulty(text),
        _ => ShardError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mark;

    #[test]
    fn ids_of_other_things_than_users_are_kept() {
        let condition = |column: &str| Condition {
            column: column.into(),
            value: Mark::Text("User".into()),
            hidden: None,
        };
        let follows = |follower: &str, followed: &str, conditions: &[&str]| {
            let visible = Some(conditions.iter().map(|column| condition(column)).collect());
            let (follower, followed) = (follower.into(), followed.into());
            FollowsTable { follower, followed, visible, ..FollowsTable::default() }
        };
        let of = |follows: FollowsTable| -> Vec<String> {
            let tables = Tables { follows, ..Tables::default() };
            let columns = user_columns(&tables).into_iter().take(2);
            columns
                .map(|c| c.types.into_iter().map(|t| t.column).collect::<Vec<_>>().join(" "))
                .collect()
        };
        let both = ["follower_type", "followable_type"];
        assert_eq!(of(follows("follower_id", "followable_id", &both)), both);
        assert_eq!(of(follows("user_id", "target_id", &["target_type"])), ["", "target_type"]);
        assert_eq!(of(follows("a", "b", &["type", "deleted_at"])), ["type", "type"]);
        let posts = PostsTable {
            author: "author_id".into(),
            visible: Some(vec![condition("author_type"), condition("post_type")]),
            ..PostsTable::default()
        };
        let tables = Tables { posts, ..Tables::default() };
        let [.., posts, _] = &user_columns(&tables)[..] else { panic!("no posts") };
        assert_eq!(posts.types, [condition("author_type")]);
    }
}
