//! Writes to a table of follows that holds other rows too: requests, blocked users, deleted rows.
//!
//! A follow inserts a visible row. A row that an unfollow has hidden is shown again. Any other
//! hidden row is a decision of the team's own program, such as a pending request, so the follow is
//! refused and the row stays unchanged.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Transaction, Value};

use super::conditions::{self, NewColumns};
use super::statements::{Chunked, REMOVED_ROWS, REMOVED_ROWS_MAX};
use super::write::Attempt;
use super::{MySqlShard, execute, field};
use crate::mapping::FollowsTable;
use crate::model::{Follow, UserList};
use crate::moment::Zone;
use crate::shard::schema::quoted;
use crate::shard::write::FollowOutcome;
use crate::shard::{Deadline, ShardError, Written};

/// Follows in one statement, at most. They are literals.
const FOLLOWS_PER_STATEMENT: usize = 500;

/// A list that is at least this much shorter than its limit is not locked. Up to 32 transactions of
/// 1,000 follows each can then not exceed the limit together.
const ROOM_WITHOUT_LOCK: usize = 32_000;

/// The statements that remove and show follows.
#[derive(Debug)]
pub(super) struct FollowWrites {
    /// (follower, followee for each), after a time if `delete_is_timed`.
    delete: Chunked,
    delete_is_timed: bool,
    /// Shows hidden rows, without the condition on their keys.
    restore: Option<String>,
    /// () -> the number of visible rows, without the condition on their keys.
    count_visible: String,
    /// (follower). Locks the first row of a list, so that one transaction at a time extends it.
    lock_list: String,
    /// Follower and followee.
    key: String,
    /// Whether the table has conditions.
    conditional: bool,
    /// The number of times in a new row.
    new_times: usize,
    /// The zone of times that mark rows.
    zone: Zone,
}

impl FollowWrites {
    pub(super) fn new(database: &str, follows: &FollowsTable, zone: Zone) -> Self {
        let table = format!("{}.{}", quoted(database), quoted(&follows.name));
        let (follower, followed) = (quoted(&follows.follower), quoted(&follows.followed));
        let visible = conditions::all(follows.conditions());
        let delete = conditions::remove(&table, &follows.removal());
        let key = format!("{follower}, {followed}");
        Self {
            // A hidden row is not removed: it may be a block, or belong to something else.
            delete: Chunked::new(REMOVED_ROWS, |rows| {
                let users = vec!["?"; rows].join(", ");
                let sql = &delete.sql;
                format!("{sql} WHERE {follower} = ? AND {followed} IN ({users}){visible}")
            }),
            delete_is_timed: delete.timed,
            restore: conditions::restore(&table, follows.conditions(), &follows.removal()),
            count_visible: format!("SELECT COUNT(DISTINCT {key}) FROM {table} WHERE TRUE{visible}"),
            lock_list: format!(
                "SELECT {followed} FROM {table} WHERE {follower} = ? ORDER BY {followed} LIMIT 1
                 FOR UPDATE"
            ),
            key,
            conditional: !follows.conditions().is_empty(),
            new_times: NewColumns::new(follows.conditions()).times,
            zone,
        }
    }

    /// The times of a new row that make it visible.
    pub(super) fn times(&self) -> Vec<Value> {
        vec![conditions::now(&self.zone); self.new_times]
    }

    /// A statement that removes one entry.
    pub(super) fn delete_one(&self) -> &str {
        self.delete.at_least(1).0
    }

    /// The statements that remove these entries of one owner, with their values.
    fn deletes(&self, rows: &[Follow]) -> Vec<(&str, Vec<Value>)> {
        let statement = |chunk: &[Follow]| {
            let (sql, length) = self.delete.at_least(chunk.len());
            let padding = chunk.iter().cycle().take(length);
            let mut values = Vec::with_capacity(length + 2);
            values.extend(self.delete_is_timed.then(|| conditions::now(&self.zone)));
            values.extend(chunk.first().map(|row| Value::from(row.follower.0)));
            values.extend(padding.map(|row| Value::from(row.followee.0)));
            (sql, values)
        };
        rows.chunks(REMOVED_ROWS_MAX).map(statement).collect()
    }

    /// Makes sure that `rows`, some of which existed before, are visible. Returns the number of
    /// rows that are shown again.
    ///
    /// # Errors
    /// [`ShardError::Refused`] if a row is hidden for another reason than an unfollow.
    pub(super) async fn show_existing(
        &self,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
    ) -> Result<usize, ShardError> {
        if !self.conditional {
            return Ok(0);
        }
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows.dedup();
        let mut restored = 0;
        for chunk in rows.chunks(FOLLOWS_PER_STATEMENT) {
            if let Some(sql) = &self.restore {
                transaction.query_drop(format!("{sql}{}", self.keys(chunk))).await?;
                restored += usize::try_from(transaction.affected_rows()).unwrap_or(usize::MAX);
            }
            if self.count_visible(transaction, chunk).await? < chunk.len() {
                return Err(ShardError::Refused(
                    "a row of the same users exists and is not visible, such as a request or a \
                     block; it stays unchanged"
                        .into(),
                ));
            }
        }
        Ok(restored)
    }

    /// The number of these follows that are visible.
    async fn count_visible(
        &self,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
    ) -> Result<usize, ShardError> {
        let mut visible = 0;
        for chunk in rows.chunks(FOLLOWS_PER_STATEMENT) {
            let sql = format!("{}{}", self.count_visible, self.keys(chunk));
            let count: Option<Row> = transaction.query_first(sql).await?;
            visible += count.map_or(Ok(0), |row| field::<usize>(&row, 0))?;
        }
        Ok(visible)
    }

    /// The condition that a row is one of `follows`, with a leading `AND`.
    fn keys(&self, follows: &[Follow]) -> String {
        let pair = |follow: &Follow| format!("({}, {})", follow.follower, follow.followee);
        let pairs: Vec<String> = follows.iter().map(pair).collect();
        format!(" AND ({}) IN ({})", self.key, pairs.join(", "))
    }
}

impl MySqlShard {
    /// Adds entries of one owner, unless the list would have more than `max` users.
    ///
    /// Near the limit, transactions that extend the same list wait for each other. A transaction
    /// counts after it holds the lock, so its snapshot contains the previous one's entries.
    pub(in crate::shard) async fn add_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        max: usize,
        until: Deadline,
    ) -> Result<Written<FollowOutcome>, ShardError> {
        let attempt = Attempt::default();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = attempt.begin(&mut connection).await?;
            let listed = self.count_entries(list, &mut transaction, rows, max).await?;
            if listed.saturating_add(rows.len() + ROOM_WITHOUT_LOCK) > max {
                transaction.rollback().await?;
                transaction = attempt.begin(&mut connection).await?;
                if !self.lock_and_count(list, &mut transaction, rows, max).await? {
                    transaction.rollback().await?;
                    return Ok(Written { outcome: FollowOutcome::TooLong, at: None });
                }
            }
            let added = self.add_rows(list, (&attempt, transaction), rows).await?;
            Ok(self.written(FollowOutcome::Added(added), &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }

    /// Removes entries of one owner. Returns the number of removed rows.
    pub(in crate::shard) async fn remove_entries(
        &self,
        list: UserList,
        rows: &[Follow],
        until: Deadline,
    ) -> Result<Written<usize>, ShardError> {
        let writes = self.database.write_statements().list(list)?;
        self.delete_all(writes.deletes(rows), until).await
    }

    /// Locks the list. Returns whether it has at most `max` users with these entries.
    async fn lock_and_count(
        &self,
        list: UserList,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
        max: usize,
    ) -> Result<bool, ShardError> {
        let follows = self.database.write_statements().list(list)?;
        let Some(Follow { follower, .. }) = rows.first() else { return Ok(true) };
        let _locked: Option<Row> =
            execute::first(transaction, &follows.lock_list, (follower.0,)).await?;
        let listed = self.count_entries(list, transaction, rows, max).await?;
        let new = rows.len() - follows.count_visible(transaction, rows).await?;
        Ok(new == 0 || listed.saturating_add(new) <= max)
    }

    /// The length of the list, or a greater number than `max`.
    async fn count_entries(
        &self,
        list: UserList,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
        max: usize,
    ) -> Result<usize, ShardError> {
        let Some(Follow { follower, .. }) = rows.first() else { return Ok(0) };
        let statements = self.statements()?;
        let sql = &statements.lists.of(list)?.count;
        let values = (follower.0, 0u64, max as u64 + 1);
        let count: Option<Row> = execute::first(transaction, sql, values).await?;
        Ok(count.map_or(Ok(0), |row| field(&row, 0))?)
    }
}
