//! The connection pool for fills. It is separate from the pool for requests. Each connection keeps
//! the id of its server, because positions are valid only with the log of one server.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use tokio::sync::Semaphore;

use super::MySqlSource;
use super::identity::ServerId;
use crate::shard::mysql::check::account;
use crate::shard::mysql::server::Room;
use crate::shard::{Deadline, ShardError};

/// Connections per server. Several fills can run at once, and they leave room for requests.
const CONNECTIONS_MAX: usize = 3;
/// Age at which a connection is dropped. Thus an address that moved to another server is noticed.
/// Most servers close idle connections later than this.
const CONNECTION_TTL: Duration = Duration::from_secs(30);
/// Limit on an orderly disconnect. After it the connection is dropped, which the server notices
/// too.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// The idle connections to a server, and a permit for each connection that may be in use.
#[derive(Debug)]
pub(in crate::shard::mysql) struct SourcePool {
    idle: Mutex<Vec<SourceConnection>>,
    permits: Semaphore,
}

/// A connection with the id and the dialect of its server.
///
/// If a query on it is cancelled or fails, the connection is dropped. So the pool never holds a
/// connection with an open transaction.
#[derive(Debug)]
pub(super) struct SourceConnection {
    pub(super) conn: Conn,
    pub(super) server: ServerId,
    pub(super) dialect: Dialect,
    since: Instant,
}

/// The kind of server, which determines the statements that query its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    MariaDb {
        /// Whether the server has the variable `server_uid`.
        has_uid: bool,
    },
    /// With the statement that returns the end of its log.
    MySql { log_status: &'static str },
}

/// The result of a list of statements.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) server: ServerId,
    pub(super) dialect: Dialect,
    /// The rows of each statement. Empty for a statement without rows.
    pub(super) rows: Vec<Vec<Row>>,
}

impl SourcePool {
    pub(in crate::shard::mysql) fn new() -> Self {
        Self { idle: Mutex::new(Vec::new()), permits: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// Closes the idle connections.
    pub(in crate::shard::mysql) fn clear(&self) {
        self.idle().clear();
    }

    fn take(&self) -> Option<SourceConnection> {
        let mut idle = self.idle();
        idle.retain(SourceConnection::is_young);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SourceConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MySqlSource {
    /// Sends statements in one round trip and returns the rows of each. The statements may depend
    /// on the kind of server. They must end every transaction that they begin.
    ///
    /// If a pooled connection fails, the statements are sent once more on a new connection.
    pub(super) async fn query(
        &self,
        statements: impl Fn(Dialect) -> Vec<String>,
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        let permit = until.limit(self.server.fills().permits.acquire()).await;
        let Some(Ok(_permit)) = permit else {
            return Err(ShardError::Unavailable(
                "no connection for fills became free in time".into(),
            ));
        };
        if let Some(connection) = self.server.fills().take() {
            let sql = statements(connection.dialect);
            match self.query_on(connection, &sql, until).await {
                // The server may have closed it while it was idle. Nothing was written: try again.
                Err(ShardError::Unavailable(_)) => {}
                outcome => return outcome,
            }
        }
        let connection = until.in_time(self.dial(Room::IfFree)).await?;
        let sql = statements(connection.dialect);
        self.query_on(connection, &sql, until).await
    }

    /// Returns the connection to the pool if all statements succeeded. Otherwise rows may still
    /// arrive on it, so it is closed.
    async fn query_on(
        &self,
        mut connection: SourceConnection,
        statements: &[String],
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        match until.in_time(connection.query(statements)).await {
            Ok(rows) => {
                let reply = Reply { server: connection.server, dialect: connection.dialect, rows };
                self.server.fills().idle().push(connection);
                Ok(reply)
            }
            Err(error) => {
                connection.close().await;
                Err(error)
            }
        }
    }

    /// Opens a connection outside of the pool.
    pub(super) async fn dial(&self, room: Room) -> Result<SourceConnection, ShardError> {
        let mut conn = self.server.own_connection(room).await?;
        // With another default of the server, START TRANSACTION might not take a snapshot.
        conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        let dialect = Dialect::query(&mut conn).await?;
        let id: Vec<Row> = conn.query(dialect.server_id()).await?;
        let server = ServerId::of(&id);
        Ok(SourceConnection { conn, server, dialect, since: Instant::now() })
    }
}

impl SourceConnection {
    pub(super) fn is_young(&self) -> bool {
        self.since.elapsed() < CONNECTION_TTL
    }

    /// Sends all statements at once and returns the rows of each.
    pub(super) async fn query(
        &mut self,
        statements: &[String],
    ) -> Result<Vec<Vec<Row>>, ShardError> {
        match query_all(&mut self.conn, statements).await {
            Ok(rows) => Ok(rows),
            Err(Error::Server(error)) if error.code == 1227 => {
                let account = account(&mut self.conn).await?;
                let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {account}");
                Err(ShardError::Faulty(format!("{}; fix it with: {cure}", error.message)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the connection, even if a query is still running on it.
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
