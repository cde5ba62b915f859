//! Several statements in one round trip.

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Row};

use super::MySqlSource;
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
        Err(Error::Server(error)) if error.code == 1227 => {
            let account = account(lease).await?;
            let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {account}");
            Err(ShardError::Faulty(format!("{}; fix it with: {cure}", error.message)))
        }
        Err(error) => Err(error.into()),
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
