//! The newest time of every author of a server: one look into an index for each.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{QueryResult, Row, TextProtocol, Value};
use tokio::sync::mpsc;

use super::MySqlSource;
use super::fill::{snapshot_start, snapshot_statements};
use super::lines::{Dialect, SourceConnection};
use crate::changes::{Bounds, LogIdentity};
use crate::model::{ID_MAX, ShardId, UserId};
use crate::moment::TimeUnit;
use crate::shard::mysql::{field, time_of};
use crate::shard::source::HeadBatch;
use crate::shard::{Deadline, ShardError};

/// HeadBatch that are handed over at once.
const BATCH_HEADS: usize = 4_096;
/// How long a server may take for all its authors: some millions of looks into an index.
const STATEMENT_LIMIT_S: u64 = 600;
/// How long it may be silent, and how long whoever takes the heads may pause.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

impl MySqlSource {
    pub(in crate::shard) async fn heads(
        &self,
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<(LogIdentity, Bounds), ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        // A line of its own, since it is held for long and set otherwise.
        let mut connection = Deadline::after(STEP_TIMEOUT).in_time(self.dial()).await?;
        let outcome = self.heads_on(&mut connection, heads).await;
        connection.close().await;
        outcome
    }

    async fn heads_on(
        &self,
        connection: &mut SourceConnection,
        heads: mpsc::Sender<HeadBatch>,
    ) -> Result<(LogIdentity, Bounds), ShardError> {
        let delivered = self.delivered();
        let mut statements = vec![session_limits(connection.dialect)];
        statements.extend(snapshot_statements(connection.dialect));
        let rows = Deadline::after(STEP_TIMEOUT).in_time(connection.query(&statements)).await?;
        let (start, _) = snapshot_start(connection.dialect, rows.get(1..).unwrap_or_default())?;
        for (shard, database) in &self.shards {
            let statements = database.statements().map_err(ShardError::Unavailable)?;
            let sql = statements.fills.heads.as_str();
            let query = connection.conn.query_iter(sql);
            let query = async { Ok(query.await?) };
            let mut result = Deadline::after(STEP_TIMEOUT).in_time(query).await?;
            while let Some(batch) = next_heads(&mut result, *shard, statements.unit).await? {
                let gone = |_| ShardError::Unavailable("nobody takes the heads".into());
                let sent = async { heads.send(batch).await.map_err(gone) };
                Deadline::after(STEP_TIMEOUT).in_time(sent).await?;
            }
        }
        let bounds = self.bounds(&start, delivered.as_ref(), Deadline::after(STEP_TIMEOUT)).await?;
        Ok((connection.identity, bounds))
    }
}

/// Longer than requests have, for a statement and for taking its rows.
fn session_limits(dialect: Dialect) -> String {
    let statement = match dialect {
        Dialect::MariaDb => format!("max_statement_time = {STATEMENT_LIMIT_S}"),
        Dialect::MySql { .. } => format!("max_execution_time = {}", STATEMENT_LIMIT_S * 1_000),
    };
    format!("SET SESSION {statement}, SESSION net_write_timeout = {STATEMENT_LIMIT_S}")
}

/// The next heads; none when there are no more.
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

/// An author's head; none if no post of it has a time, or if it is no user of ours. A time that no
/// key can hold is read as the latest: an upper bound.
fn head(unit: TimeUnit, row: &Row) -> Option<(UserId, i64)> {
    let author: u64 = field(row, 0).ok().filter(|author| *author <= ID_MAX)?;
    let time = match row.as_ref(1)? {
        Value::NULL => return None,
        _ => time_of(unit, row, 1).unwrap_or(i64::MAX),
    };
    Some((UserId(author), time))
}
