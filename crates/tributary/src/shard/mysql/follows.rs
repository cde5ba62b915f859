//! Writes to a table of follows that holds other rows too: requests, blocked users, deleted rows.
//!
//! A follow inserts a visible row. A row that an unfollow has hidden is shown again. Any other
//! hidden row is a decision of the team's own program, such as a pending request, so the follow is
//! refused and the row stays unchanged.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Transaction, Value};

use super::conditions::{self, NewColumns};
use super::write::Attempt;
use super::{MySqlShard, execute, field};
use crate::mapping::Tables;
use crate::model::Follow;
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
    /// (follower, followee), or (time, follower, followee) if `delete_is_timed`.
    pub(super) delete: String,
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
    pub(super) fn new(database: &str, tables: &Tables) -> Self {
        let follows = &tables.follows;
        let table = format!("{}.{}", quoted(database), quoted(&follows.name));
        let (follower, followed) = (quoted(&follows.follower), quoted(&follows.followed));
        let visible = conditions::all(follows.conditions());
        let delete = conditions::remove(&table, &follows.removal());
        let key = format!("{follower}, {followed}");
        Self {
            // A hidden row is not removed: it may be a block, or belong to something else.
            delete: format!("{} WHERE {follower} = ? AND {followed} = ?{visible}", delete.sql),
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
            zone: tables.posts.zone.clone(),
        }
    }

    /// The times of a new row that make it visible.
    pub(super) fn times(&self) -> Vec<Value> {
        vec![conditions::now(&self.zone); self.new_times]
    }

    /// The parameters of `delete`.
    pub(super) fn delete_values(&self, follow: Follow) -> Vec<Value> {
        let mut values = Vec::with_capacity(3);
        values.extend(self.delete_is_timed.then(|| conditions::now(&self.zone)));
        values.extend([follow.follower.0.into(), follow.followee.0.into()]);
        values
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
    /// Adds follows of one user, unless the list would have more than `max` users.
    ///
    /// Near the limit, transactions that extend the same list wait for each other. A transaction
    /// counts after it holds the lock, so its snapshot contains the previous one's follows.
    pub(in crate::shard) async fn follow(
        &self,
        rows: &[Follow],
        max: usize,
        until: Deadline,
    ) -> Result<Written<FollowOutcome>, ShardError> {
        let attempt = Attempt::default();
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = attempt.begin(&mut connection).await?;
            let listed = self.count_followees(&mut transaction, rows, max).await?;
            if listed.saturating_add(rows.len() + ROOM_WITHOUT_LOCK) > max {
                transaction.rollback().await?;
                transaction = attempt.begin(&mut connection).await?;
                if !self.lock_and_count(&mut transaction, rows, max).await? {
                    transaction.rollback().await?;
                    return Ok(Written { outcome: FollowOutcome::TooLong, at: None });
                }
            }
            let added = self.add_follows(&attempt, transaction, rows).await?;
            Ok(self.written(FollowOutcome::Added(added), &mut connection, until).await)
        };
        self.attempt(until, &attempt, run).await
    }

    /// Locks the list. Returns whether it has at most `max` users with these follows.
    async fn lock_and_count(
        &self,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
        max: usize,
    ) -> Result<bool, ShardError> {
        let follows = &self.database.write_statements().follows;
        let Some(Follow { follower, .. }) = rows.first() else { return Ok(true) };
        let _locked: Option<Row> =
            execute::first(transaction, &follows.lock_list, (follower.0,)).await?;
        let listed = self.count_followees(transaction, rows, max).await?;
        let new = rows.len() - follows.count_visible(transaction, rows).await?;
        Ok(new == 0 || listed.saturating_add(new) <= max)
    }

    /// The length of the follow list, or a greater number than `max`.
    async fn count_followees(
        &self,
        transaction: &mut Transaction<'_>,
        rows: &[Follow],
        max: usize,
    ) -> Result<usize, ShardError> {
        let Some(Follow { follower, .. }) = rows.first() else { return Ok(0) };
        let sql = &self.statements()?.count_followees;
        let values = (follower.0, 0u64, max as u64 + 1);
        let count: Option<Row> = execute::first(transaction, sql, values).await?;
        Ok(count.map_or(Ok(0), |row| field(&row, 0))?)
    }
}
