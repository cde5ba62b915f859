//! Writes to a table of follows that holds other rows too: requests, blocked users, deleted rows.
//!
//! A follow inserts a visible row. A row that an unfollow has hidden is shown again. Any other
//! hidden row is a decision of the team's own program, such as a pending request, so the follow is
//! refused and the row stays unchanged.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Transaction, Value};

use super::conditions::{self, NewColumns};
use super::field;
use crate::mapping::Tables;
use crate::model::Follow;
use crate::moment::Zone;
use crate::shard::ShardError;
use crate::shard::schema::quoted;

/// Follows in one statement, at most. They are literals.
const FOLLOWS_PER_STATEMENT: usize = 500;

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
            let keys = self.keys(chunk);
            if let Some(sql) = &self.restore {
                transaction.query_drop(format!("{sql}{keys}")).await?;
                restored += usize::try_from(transaction.affected_rows()).unwrap_or(usize::MAX);
            }
            let count: Option<Row> =
                transaction.query_first(format!("{}{keys}", self.count_visible)).await?;
            let visible: usize = count.map_or(Ok(0), |row| field(&row, 0))?;
            if visible < chunk.len() {
                return Err(ShardError::Refused(
                    "a row of the same users exists and is not visible, such as a request or a \
                     block; it stays unchanged"
                        .into(),
                ));
            }
        }
        Ok(restored)
    }

    /// The condition that a row is one of `follows`, with a leading `AND`.
    fn keys(&self, follows: &[Follow]) -> String {
        let pair = |follow: &Follow| format!("({}, {})", follow.follower, follow.followee);
        let pairs: Vec<String> = follows.iter().map(pair).collect();
        format!(" AND ({}) IN ({})", self.key, pairs.join(", "))
    }
}
