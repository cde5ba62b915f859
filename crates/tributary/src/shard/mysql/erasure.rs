//! Counts and deletes the rows of a shard on a server that name a user.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, IsolationLevel, Row, TxOpts};

use super::check::same;
use super::conditions;
use super::write::Attempt;
use super::{MySqlShard, execute, field};
use crate::model::UserId;
use crate::shard::erasure::{UserColumn, user_columns};
use crate::shard::schema::quoted;
use crate::shard::{Deadline, ShardError};

/// The columns, the sizes and the indexes of a database.
struct Declared {
    columns: BTreeSet<(String, String)>,
    /// The number of rows of each table, roughly.
    rows: BTreeMap<String, u64>,
    /// The table, the name and the columns of each index.
    indexes: Vec<(String, String, Vec<String>)>,
}

impl MySqlShard {
    /// The columns that hold ids of users, if they exist: a shard that is only read has no keys.
    pub(in crate::shard) async fn user_columns(
        &self,
        until: Deadline,
    ) -> Result<Vec<UserColumn>, ShardError> {
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let declared = Declared::query(&mut connection, self.database.name()).await?;
            let columns = user_columns(self.database.tables()).into_iter();
            let columns = columns.filter(|column| declared.has(column));
            Ok(columns.map(|c| UserColumn { scanned: declared.scanned(&c), ..c }).collect())
        };
        self.attempt(until, &Attempt::default(), run).await
    }

    pub(in crate::shard) async fn count_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        until: Deadline,
    ) -> Result<u64, ShardError> {
        let (table, condition) = self.rows_of(column, user);
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {condition}");
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let count: Option<Row> = connection.query_first(&sql).await?;
            Ok(count.map_or(Ok(0), |row| field(&row, 0))?)
        };
        self.attempt(until, &Attempt::default(), run).await
    }

    /// A statement that also reads other rows than the user's keeps no locks on them.
    pub(in crate::shard) async fn delete_user_rows(
        &self,
        column: &UserColumn,
        user: UserId,
        max: usize,
        until: Deadline,
    ) -> Result<usize, ShardError> {
        let (attempt, (table, condition)) = (Attempt::default(), self.rows_of(column, user));
        let clears = column.clears.iter().map(|column| format!("{} = NULL", quoted(column)));
        // A post keeps its time, which may be a TIMESTAMP that changes with every update.
        let time = quoted(&self.database.tables().posts.time);
        let is_post = column.table == self.database.tables().posts.name;
        let clears = clears.chain(is_post.then(|| format!("{time} = {time}")));
        let change = match column.clears.as_slice() {
            [] => format!("DELETE FROM {table}"),
            _ => format!("UPDATE {table} SET {}", clears.collect::<Vec<_>>().join(", ")),
        };
        let sql = format!("{change} WHERE {condition} LIMIT {max}");
        let mut options = TxOpts::default();
        if column.scanned.is_some() || column.text.is_some() {
            options.with_isolation_level(IsolationLevel::ReadCommitted);
        }
        let run = async {
            let mut connection = self.server.connections().request().await?;
            let mut transaction = connection.start_transaction(options).await?;
            transaction.query_drop(&sql).await?;
            let rows = usize::try_from(transaction.affected_rows()).unwrap_or(usize::MAX);
            attempt.commit(transaction).await?;
            Ok(rows)
        };
        let deleted = self.attempt(until, &attempt, run).await;
        deleted.map_err(|error| self.with_cure(error, column))
    }

    /// The table and the condition of the rows that name the user.
    fn rows_of(
        &self,
        UserColumn { table, column, text, types, .. }: &UserColumn,
        user: UserId,
    ) -> (String, String) {
        let (database, table) = (quoted(self.database.name()), quoted(table));
        let (column, types) = (quoted(column), conditions::all(types));
        let text = text.as_ref().map_or(String::new(), |(text, is_empty)| {
            let relation = if *is_empty { "=" } else { ">" };
            format!(" AND COALESCE(LENGTH({}), 0) {relation} 0", quoted(text))
        });
        (format!("{database}.{table}"), format!("{column} = {user}{types}{text}"))
    }

    fn with_cure(&self, error: ShardError, column: &UserColumn) -> ShardError {
        match error {
            ShardError::Faulty(text) => {
                let table = format!("{}.{}", quoted(self.database.name()), quoted(&column.table));
                let right = if column.rows_stay() { "UPDATE" } else { "DELETE" };
                ShardError::Faulty(format!(
                    "{text}; the account needs the right to do it: GRANT SELECT, {right} ON \
                     {table} TO ..."
                ))
            }
            ShardError::Refused(text) => ShardError::Refused(format!(
                "{text}; if rows of another table refer to the user, delete them first"
            )),
            other => other,
        }
    }
}

impl Declared {
    async fn query(connection: &mut Conn, database: &str) -> Result<Self, ShardError> {
        let columns = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR)
             FROM information_schema.columns WHERE table_schema = ?";
        let rows = "SELECT CAST(table_name AS CHAR), CAST(table_rows AS UNSIGNED)
             FROM information_schema.tables WHERE table_schema = ? AND table_rows IS NOT NULL";
        let parts = "SELECT CAST(table_name AS CHAR), CAST(index_name AS CHAR),
                 CAST(column_name AS CHAR)
             FROM information_schema.statistics
             WHERE table_schema = ? AND column_name IS NOT NULL
             ORDER BY table_name, index_name, seq_in_index";
        let columns: Vec<(String, String)> =
            execute::rows(connection, columns, (database,)).await?;
        let rows: Vec<(String, u64)> = execute::rows(connection, rows, (database,)).await?;
        let parts: Vec<(String, String, String)> =
            execute::rows(connection, parts, (database,)).await?;
        let mut indexes: Vec<(String, String, Vec<String>)> = Vec::new();
        for (table, index, column) in parts {
            match indexes.last_mut() {
                Some((t, i, columns)) if *t == table && *i == index => columns.push(column),
                _ => indexes.push((table, index, vec![column])),
            }
        }
        Ok(Self {
            columns: columns.into_iter().collect(),
            rows: rows.into_iter().collect(),
            indexes,
        })
    }

    fn has(&self, wanted: &UserColumn) -> bool {
        let is = |(table, column): &(String, String)| {
            same(table, &wanted.table) && same(column, &wanted.column)
        };
        self.columns.iter().any(is)
    }

    /// The rows that a statement reads without an index. An index helps if it starts with the
    /// column; columns of the type may be before it.
    fn scanned(&self, wanted: &UserColumn) -> Option<u64> {
        let of_table = |(table, ..): &&(String, String, Vec<String>)| same(table, &wanted.table);
        let is_type =
            |column: &&String| wanted.types.iter().any(|of_type| same(&of_type.column, column));
        let helps = |(_, _, columns): &(String, String, Vec<String>)| {
            columns.iter().find(|c| !is_type(c)).is_some_and(|c| same(c, &wanted.column))
        };
        if self.indexes.iter().filter(of_table).any(helps) {
            return None;
        }
        let size = self.rows.iter().find(|(table, _)| same(table, &wanted.table));
        Some(size.map_or(0, |(_, rows)| *rows))
    }
}
