//! Connections for what memory reads: a few of each server, beside those of the requests, each of
//! which knows whose log it is told places in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use tokio::sync::Semaphore;

use super::{MySqlSource, is_mariadb, server_identity};
use crate::changes::LogIdentity;
use crate::shard::mysql::check::account;
use crate::shard::mysql::log_check::log_status;
use crate::shard::{Deadline, ShardError};

/// Connections of a server: memory may be filled by several at once, and never crowds out requests.
const CONNECTIONS_MAX: usize = 3;
/// None is used for longer, so that an address that leads to another server by now is followed. A
/// server that ends idle connections by itself seldom does so earlier.
const CONNECTION_TTL: Duration = Duration::from_secs(30);
/// How long saying goodbye may take. The server notices either way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// The lines to a server that nobody uses now, and room for as many as there may be.
#[derive(Debug)]
pub(super) struct SourcePool {
    idle: Mutex<Vec<SourceConnection>>,
    permits: Semaphore,
}

/// A connection and the server that it leads to. Whoever does not wait for an answer loses it, so
/// that none is used with a transaction left open.
#[derive(Debug)]
pub(super) struct SourceConnection {
    pub(super) conn: Conn,
    pub(super) identity: LogIdentity,
    pub(super) dialect: Dialect,
    since: Instant,
}

/// How a kind of server is asked about its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    MariaDb,
    /// With the words it has for its log.
    MySql {
        log_status: &'static str,
    },
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) identity: LogIdentity,
    pub(super) dialect: Dialect,
    /// Of each statement, none for those that answer without rows.
    pub(super) rows: Vec<Vec<Row>>,
}

impl SourcePool {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::new(Vec::new()), permits: Semaphore::new(CONNECTIONS_MAX) }
    }

    fn take(&self) -> Option<SourceConnection> {
        let mut idle = self.idle();
        idle.retain(|connection| connection.since.elapsed() < CONNECTION_TTL);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SourceConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MySqlSource {
    /// Sends statements in one trip, and waits for what the server says to each. They depend on
    /// the kind of server, and begin no transaction that they do not end.
    pub(super) async fn query(
        &self,
        statements: impl Fn(Dialect) -> Vec<String>,
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        let permit = until.limit(self.pool.permits.acquire()).await;
        let Some(Ok(_permit)) = permit else {
            return Err(ShardError::Unavailable("its queue is too slow".into()));
        };
        if let Some(connection) = self.pool.take() {
            let sql = statements(connection.dialect);
            match self.query_on(connection, &sql, until).await {
                // It may have been closed since it was used. Nothing was written, so ask again.
                Err(ShardError::Unavailable(_)) => {}
                outcome => return outcome,
            }
        }
        let connection = until.in_time(self.dial()).await?;
        let sql = statements(connection.dialect);
        self.query_on(connection, &sql, until).await
    }

    /// Keeps the line only if all went well: else nobody knows what is still to come on it.
    async fn query_on(
        &self,
        mut connection: SourceConnection,
        statements: &[String],
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        match until.in_time(connection.query(statements)).await {
            Ok(rows) => {
                let reply =
                    Reply { identity: connection.identity, dialect: connection.dialect, rows };
                self.pool.idle().push(connection);
                Ok(reply)
            }
            Err(error) => {
                connection.close().await;
                Err(error)
            }
        }
    }

    /// A new line.
    pub(super) async fn dial(&self) -> Result<SourceConnection, ShardError> {
        let mut conn = self.server.own_connection().await?;
        // As on the server's whim there would be no snapshot.
        conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        let dialect = match is_mariadb(&mut conn).await? {
            true => Dialect::MariaDb,
            false => Dialect::MySql { log_status: log_status(&mut conn).await? },
        };
        let identity = server_identity(&mut conn).await?;
        Ok(SourceConnection { conn, identity, dialect, since: Instant::now() })
    }
}

impl SourceConnection {
    /// The rows of every statement, all sent at once.
    pub(super) async fn query(
        &mut self,
        statements: &[String],
    ) -> Result<Vec<Vec<Row>>, ShardError> {
        match query_all(&mut self.conn, statements).await {
            Ok(rows) => Ok(rows),
            Err(Error::Server(error)) if error.code == 1227 => {
                let account = account(&mut self.conn).await?;
                let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {account}");
                Err(ShardError::Faulty(format!("{}; mend it with: {cure}", error.message)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the connection, whatever is under way on it.
    pub(super) async fn close(self) {
        drop(Deadline::after(CLOSE_TIMEOUT).limit(self.conn.disconnect()).await);
    }
}

async fn query_all(conn: &mut Conn, statements: &[String]) -> Result<Vec<Vec<Row>>, Error> {
    let mut result = conn.query_iter(statements.join(";\n")).await?;
    let mut rows = Vec::with_capacity(statements.len());
    for _ in statements {
        rows.push(result.collect().await?);
    }
    result.drop_result().await?;
    Ok(rows)
}
