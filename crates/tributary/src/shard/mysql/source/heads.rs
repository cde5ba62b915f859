//! Reads the newest time of every author of a server, with one index lookup per author.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{QueryResult, Row, TextProtocol, Value};
use tokio::sync::mpsc;

use super::MySqlSource;
use super::fill::{snapshot_start, snapshot_statements};
use super::identity::Dialect;
use super::round_trip::round_trip;
use crate::model::{ID_MAX, ShardId, UserId};
use crate::moment::TimeUnit;
use crate::shard::mysql::connections::{Class, Lease};
use crate::shard::mysql::statements::Statements;
use crate::shard::mysql::{field, time_of};
use crate::shard::source::{HeadBatch, HeadsRead};
use crate::shard::{Deadline, ShardError};

/// Authors per batch of heads.
const BATCH_HEADS: usize = 4_096;
/// Limit on the statement that reads all authors of a database, in seconds. It allows for some
/// millions of index lookups.
const STATEMENT_LIMIT_S: u64 = 600;
/// Limit on each step: the first row of a statement, one batch of rows, or the wait
/// for the receiver to take a batch.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

impl MySqlSource {
    pub(in crate::shard) async fn heads(
        &self,
        shards: &[ShardId],
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<HeadsRead, ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        // The read takes long and needs other session limits, so it uses no pooled connection.
        let mut connection = self.server.connections().lease(Class::Heads).await?;
        let outcome = self.heads_on(&mut connection, shards, heads).await;
        connection.close().await;
        outcome
    }

    async fn heads_on(
        &self,
        connection: &mut Lease,
        shards: &[ShardId],
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<HeadsRead, ShardError> {
        let delivered = self.delivered();
        let step = || Deadline::after(STEP_TIMEOUT);
        let (server, dialect) = step().in_time(connection.server()).await?;
        let mut statements = vec![session_limits(dialect)];
        statements.extend(snapshot_statements(dialect));
        let rows = step().in_time(round_trip(connection, &statements)).await?;
        let (start, _) = snapshot_start(dialect, rows.get(1..).unwrap_or_default())?;
        let identity = self.identity_of(server, &start).await?;
        let mut failed = Vec::new();
        for (shard, database) in self.shards.iter().filter(|(shard, _)| shards.contains(shard)) {
            let statements = match database.statements() {
                Ok(statements) => statements,
                Err(reason) => {
                    failed.push((*shard, reason));
                    continue;
                }
            };
            match send_heads(connection, *shard, &statements, &heads).await {
                // Only this database is at fault, for example because a table is missing.
                Err(ShardError::Faulty(reason)) => failed.push((*shard, reason)),
                sent => sent?,
            }
        }
        let bounds = self.bounds(&start, delivered.as_ref(), step()).await?;
        Ok(HeadsRead { identity, bounds, failed })
    }
}

/// Sends the heads of one shard in batches.
async fn send_heads(
    connection: &mut Lease,
    shard: ShardId,
    statements: &Statements,
    heads: &mpsc::Sender<HeadBatch>,
) -> Result<(), ShardError> {
    let query = connection.query_iter(statements.fills.heads.as_str());
    let query = async { Ok(query.await?) };
    let mut result = Deadline::after(STEP_TIMEOUT).in_time(query).await?;
    while let Some(batch) = next_heads(&mut result, shard, statements.unit).await? {
        let gone = |_| ShardError::Unavailable("the receiver of the heads is gone".into());
        let sent = async { heads.send(batch).await.map_err(gone) };
        Deadline::after(STEP_TIMEOUT).in_time(sent).await?;
    }
    Ok(())
}

/// Raises the session's limits for a statement and for sending its rows above those of requests.
fn session_limits(dialect: Dialect) -> String {
    let statement = match dialect {
        Dialect::MariaDb { .. } => format!("max_statement_time = {STATEMENT_LIMIT_S}"),
        Dialect::MySql { .. } => format!("max_execution_time = {}", STATEMENT_LIMIT_S * 1_000),
    };
    format!("SET SESSION {statement}, SESSION net_write_timeout = {STATEMENT_LIMIT_S}")
}

/// The next batch of heads, or `None` at the end.
async fn next_heads(
    result: &mut QueryResult<'_, '_, TextProtocol>,
    shard: ShardId,
    unit: TimeUnit,
) -> Result<Option<HeadBatch>, ShardError> {
    let read = async {
        let mut heads = Vec::with_capacity(BATCH_HEADS);
        while heads.len() < BATCH_HEADS {
            let Some(row) = result.next().await? else { break };
            heads.extend(head(unit, &row));
        }
        Ok(heads)
    };
    let heads = Deadline::after(STEP_TIMEOUT).in_time(read).await?;
    Ok((!heads.is_empty()).then_some(HeadBatch { shard, heads }))
}

/// The head of one author. `None` if no post of it has a time, or if its id is out of range. A
/// time that does not fit a key is replaced by the largest one, which is still an upper bound.
fn head(unit: TimeUnit, row: &Row) -> Option<(UserId, i64)> {
    let author: u64 = field(row, 0).ok().filter(|author| *author <= ID_MAX)?;
    let time = match row.as_ref(1)? {
        Value::NULL => return None,
        _ => time_of(unit, row, 1).unwrap_or(i64::MAX),
    };
    Some((UserId(author), time))
}
