//! Several statements in one round trip.

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Row};

use super::MySqlSource;
use super::answers::FillRows;
use super::identity::{Dialect, ServerId};
use crate::shard::mysql::check::account;
use crate::shard::mysql::connections::{Class, Lease};
use crate::shard::{Deadline, ShardError};

/// The result of a list of statements.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) server: ServerId,
    pub(super) dialect: Dialect,
    /// The rows of each statement. Empty for a statement without rows.
    pub(super) rows: Vec<Vec<Row>>,
}

impl MySqlSource {
    /// Sends statements on a connection for fills and returns the rows of each. The statements may
    /// depend on the kind of server. They must end every transaction that they begin.
    pub(super) async fn query(
        &self,
        statements: impl Fn(Dialect) -> Vec<String>,
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        let query = async {
            loop {
                let mut lease = self.server.connections().lease(Class::Fill).await?;
                let reply = reply(&mut lease, &statements).await;
                if let Some(reply) = lease.finish(reply).await {
                    return reply;
                }
            }
        };
        until.in_time(query).await
    }
}

impl MySqlSource {
    /// As [`MySqlSource::query`]. The rows of the statements after the first `before` are taken one
    /// by one. If they are too many, no more are read, and the connection is closed.
    pub(super) async fn query_rows<'a>(
        &self,
        statements: impl Fn(Dialect) -> Vec<String>,
        before: usize,
        rows: impl Fn() -> FillRows<'a>,
        until: Deadline,
    ) -> Result<(Reply, FillRows<'a>), ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        let query = async {
            loop {
                let mut lease = self.server.connections().lease(Class::Fill).await?;
                let mut taken = rows();
                let reply = reply_before(&mut lease, &statements, before, &mut taken).await;
                if reply.is_ok() && !taken.is_whole() {
                    lease.close().await;
                    return reply.map(|reply| (reply, taken));
                }
                if let Some(reply) = lease.finish(reply).await {
                    return reply.map(|reply| (reply, taken));
                }
            }
        };
        until.in_time(query).await
    }
}

async fn reply_before(
    lease: &mut Lease,
    statements: impl Fn(Dialect) -> Vec<String>,
    before: usize,
    taken: &mut FillRows<'_>,
) -> Result<Reply, ShardError> {
    let (server, dialect) = lease.server().await?;
    match take_rows(lease, &statements(dialect), before, taken).await {
        Ok(rows) => Ok(Reply { server, dialect, rows }),
        Err(error) => Err(explained(lease, error).await?),
    }
}

/// Returns the rows of the first `before` statements. `taken` gets all others.
async fn take_rows(
    lease: &mut Lease,
    statements: &[String],
    before: usize,
    taken: &mut FillRows<'_>,
) -> Result<Vec<Vec<Row>>, Error> {
    let mut result = lease.query_iter(statements.join(";\n")).await?;
    let mut rows = Vec::with_capacity(before);
    for number in 0..statements.len() {
        let Some(statement) = number.checked_sub(before) else {
            rows.push(result.collect().await?);
            continue;
        };
        while let Some(row) = result.next().await? {
            if !taken.add(statement, &row)? {
                return Ok(rows);
            }
        }
    }
    result.drop_result().await?;
    Ok(rows)
}

async fn reply(
    lease: &mut Lease,
    statements: impl Fn(Dialect) -> Vec<String>,
) -> Result<Reply, ShardError> {
    let (server, dialect) = lease.server().await?;
    let rows = round_trip(lease, &statements(dialect)).await?;
    Ok(Reply { server, dialect, rows })
}

/// Sends all statements at once and returns the rows of each.
pub(super) async fn round_trip(
    lease: &mut Lease,
    statements: &[String],
) -> Result<Vec<Vec<Row>>, ShardError> {
    match query_all(lease, statements).await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(explained(lease, error).await?),
    }
}

/// The error of a statement. If the account needs a right, it names the cure.
async fn explained(lease: &mut Lease, error: Error) -> Result<ShardError, ShardError> {
    match error {
        Error::Server(error) if error.code == 1227 => {
            let account = account(lease).await?;
            let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {account}");
            Ok(ShardError::Faulty(format!("{}; fix it with: {cure}", error.message)))
        }
        error => Ok(error.into()),
    }
}

async fn query_all(lease: &mut Lease, statements: &[String]) -> Result<Vec<Vec<Row>>, Error> {
    let mut result = lease.query_iter(statements.join(";\n")).await?;
    let mut rows = Vec::with_capacity(statements.len());
    for _ in statements {
        rows.push(result.collect().await?);
    }
    result.drop_result().await?;
    Ok(rows)
}
