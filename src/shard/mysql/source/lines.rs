//! Connections for what memory reads: a few of each server, beside those of the requests, each of
//! which knows whose log it is told places in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};
use tokio::sync::Semaphore;

use super::{MySqlSource, identity, is_mariadb};
use crate::changes::LogIdentity;
use crate::shard::mysql::check::account;
use crate::shard::mysql::log_check::log_status;
use crate::shard::{Deadline, ShardError};

/// Connections of a server: memory may be filled by several at once, and never crowds out requests.
const LINES_MAX: usize = 3;
/// None is used for longer, so that an address that leads to another server by now is followed. A
/// server that ends idle connections by itself seldom does so earlier.
const LINE_TTL: Duration = Duration::from_secs(30);
/// How long saying goodbye may take. The server notices either way.
const GOODBYE: Duration = Duration::from_millis(200);

/// The lines to a server that nobody uses now, and room for as many as there may be.
#[derive(Debug)]
pub(super) struct Lines {
    idle: Mutex<Vec<Line>>,
    room: Semaphore,
}

/// A connection and the server that it leads to. Whoever does not wait for an answer loses it, so
/// that none is used with a transaction left open.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Conn,
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

impl Lines {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::new(Vec::new()), room: Semaphore::new(LINES_MAX) }
    }

    fn take(&self) -> Option<Line> {
        let mut idle = self.idle();
        idle.retain(|line| line.since.elapsed() < LINE_TTL);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Line>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MySqlSource {
    /// Sends statements in one trip, and waits for what the server says to each. They depend on
    /// the kind of server, and begin no transaction that they do not end.
    pub(super) async fn ask(
        &self,
        statements: impl Fn(Dialect) -> Vec<String>,
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        self.server.gate().health().map_err(ShardError::Unavailable)?;
        let room = until.limit(self.lines.room.acquire()).await;
        let Some(Ok(_room)) = room else {
            return Err(ShardError::Unavailable("its queue is too slow".into()));
        };
        if let Some(line) = self.lines.take() {
            let sql = statements(line.dialect);
            match self.ask_on(line, &sql, until).await {
                // It may have been closed since it was used. Nothing was written, so ask again.
                Err(ShardError::Unavailable(_)) => {}
                outcome => return outcome,
            }
        }
        let line = until.in_time(self.dial()).await?;
        let sql = statements(line.dialect);
        self.ask_on(line, &sql, until).await
    }

    /// Keeps the line only if all went well: else nobody knows what is still to come on it.
    async fn ask_on(
        &self,
        mut line: Line,
        statements: &[String],
        until: Deadline,
    ) -> Result<Reply, ShardError> {
        match until.in_time(line.ask(statements)).await {
            Ok(rows) => {
                let reply = Reply { identity: line.identity, dialect: line.dialect, rows };
                self.lines.idle().push(line);
                Ok(reply)
            }
            Err(error) => {
                line.leave().await;
                Err(error)
            }
        }
    }

    /// A new line.
    pub(super) async fn dial(&self) -> Result<Line, ShardError> {
        let mut connection = self.server.own_connection().await?;
        // As on the server's whim there would be no snapshot.
        connection.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        let dialect = match is_mariadb(&mut connection).await? {
            true => Dialect::MariaDb,
            false => Dialect::MySql { log_status: log_status(&mut connection).await? },
        };
        let identity = identity(&mut connection).await?;
        Ok(Line { connection, identity, dialect, since: Instant::now() })
    }
}

impl Line {
    /// The rows of every statement, all sent at once.
    pub(super) async fn ask(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, ShardError> {
        match answers(&mut self.connection, statements).await {
            Ok(rows) => Ok(rows),
            Err(Error::Server(error)) if error.code == 1227 => {
                let account = account(&mut self.connection).await?;
                let cure = format!("GRANT REPLICATION CLIENT ON *.* TO {account}");
                Err(ShardError::Faulty(format!("{}; mend it with: {cure}", error.message)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the connection, whatever is under way on it.
    pub(super) async fn leave(self) {
        drop(Deadline::after(GOODBYE).limit(self.connection.disconnect()).await);
    }
}

async fn answers(connection: &mut Conn, statements: &[String]) -> Result<Vec<Vec<Row>>, Error> {
    let mut result = connection.query_iter(statements.join(";\n")).await?;
    let mut answers = Vec::with_capacity(statements.len());
    for _ in statements {
        answers.push(result.collect().await?);
    }
    result.drop_result().await?;
    Ok(answers)
}
