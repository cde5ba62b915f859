//! A database on a server: its statements, and what is wrong with it while something is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use tracing::{error, info};

use super::statements::Statements;
use super::write::WriteStatements;
use super::{check, write_check};
use crate::config::Write;
use crate::mapping::Tables;
use crate::shard::{Finding, ShardError};

/// Rows that cannot be read are unreadable_logged this often, not once for every page that meets them.
const REPEAT_LOG_AFTER: Duration = Duration::from_secs(60);

/// One database. Its faults are its own: other databases of the server go on.
#[derive(Debug)]
pub(in crate::shard) struct Database {
    shard: String,
    name: String,
    tables: Arc<Tables>,
    write: Write,
    write_statements: WriteStatements,
    state: Mutex<DatabaseState>,
}

#[derive(Debug)]
struct DatabaseState {
    /// As of the last check; a later one may find other indexes.
    statements: Option<Arc<Statements>>,
    /// Why it is left out until a check finds it well.
    fault: Option<String>,
    /// Why it is not written until a check finds it well. It is read all the same.
    write_fault: Option<String>,
    /// When rows that cannot be read were last unreadable_logged.
    unreadable_logged: Option<Instant>,
}

impl Database {
    pub(super) fn new(shard: &str, name: &str, tables: Arc<Tables>, write: Write) -> Self {
        let state = DatabaseState {
            statements: None,
            fault: None,
            write_fault: None,
            unreadable_logged: None,
        };
        Self {
            shard: shard.to_owned(),
            name: name.to_owned(),
            write,
            write_statements: WriteStatements::new(name, &tables),
            tables,
            state: Mutex::new(state),
        }
    }

    /// What the server calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How its tables are called.
    pub(super) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The statements to write it with, and to find one post.
    pub(super) fn write_statements(&self) -> &WriteStatements {
        &self.write_statements
    }

    /// Whether it may be written now.
    pub(super) fn writable(&self) -> Result<(), ShardError> {
        self.statements().map_err(ShardError::Unavailable)?;
        match &self.state().write_fault {
            Some(fault) => Err(ShardError::Faulty(fault.clone())),
            None => Ok(()),
        }
    }

    /// The statements to read and write it with, unless it must not be asked.
    pub(super) fn statements(&self) -> Result<Arc<Statements>, String> {
        let state = self.state();
        match (&state.fault, &state.statements) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(statements)) => Ok(Arc::clone(statements)),
            (None, None) => Err("it was not checked yet".into()),
        }
    }

    /// Checks it on this connection and remembers what is found. Returns what an operator must
    /// mend, if anything; an error is one of the server.
    pub(super) async fn check(&self, connection: &mut Conn) -> Result<Option<String>, ShardError> {
        match check::tables(connection, &self.name, &self.tables).await {
            Ok(Ok(statements)) => {
                let write_fault = self.check_writes(connection, &statements).await?;
                // First what forbids writing, then what allows it.
                self.note_write_fault(write_fault.as_deref());
                let mut state = self.state();
                state.statements = Some(Arc::new(statements));
                if state.fault.take().is_some() {
                    info!(shard = self.shard, "shard is in use");
                }
                Ok(write_fault)
            }
            Ok(Err(faults)) => {
                let faults: Vec<String> = faults.iter().map(Finding::to_string).collect();
                let faults = faults.join("; also: ");
                self.note(&ShardError::Faulty(faults.clone()));
                Ok(Some(faults))
            }
            Err(error @ ShardError::Unavailable(_)) => Err(error),
            // A table that is locked, by a restore for example, keeps this database out alone, and
            // nobody has to do anything about it.
            Err(ShardError::Slow(reason)) => {
                self.note(&ShardError::Faulty(reason));
                Ok(None)
            }
            Err(fault) => {
                self.note(&fault);
                Ok(Some(fault.to_string()))
            }
        }
    }

    /// What an operator must mend before it can be written, if it is to be.
    async fn check_writes(
        &self,
        connection: &mut Conn,
        statements: &Statements,
    ) -> Result<Option<String>, ShardError> {
        if !self.write.enabled {
            return Ok(None);
        }
        let bytes_max = self.write.content_bytes_max;
        let (name, tables) = (&self.name, &self.tables);
        match write_check::tables(connection, name, tables, bytes_max, statements).await {
            Ok(()) => Ok(None),
            Err(error @ ShardError::Unavailable(_)) => Err(error),
            // Where it is read-only it is not the one to write to, or not yet: a write will tell.
            Err(ShardError::ReadOnly(_)) => Ok(None),
            Err(fault) => Ok(Some(fault.to_string())),
        }
    }

    /// Remembers whether it can be written, and tells changes.
    pub(super) fn note_write_fault(&self, fault: Option<&str>) {
        let mut state = self.state();
        match (state.write_fault.as_deref(), fault) {
            (before, Some(reason)) if before != fault => {
                error!(shard = self.shard, reason, "shard cannot be written");
            }
            (Some(_), None) => info!(shard = self.shard, "shard can be written again"),
            _ => {}
        }
        state.write_fault = fault.map(str::to_owned);
    }

    /// Remembers a fault, and tells it once.
    pub(super) fn note(&self, error: &ShardError) {
        let mut state = self.state();
        match error {
            ShardError::Faulty(reason) if state.fault.as_ref() != Some(reason) => {
                error!(shard = self.shard, reason, "shard is left out");
                state.fault = Some(reason.clone());
            }
            ShardError::Unreadable(reason)
                if state.unreadable_logged.is_none_or(|at| at.elapsed() > REPEAT_LOG_AFTER) =>
            {
                error!(shard = self.shard, reason, "shard is missing from pages with this row");
                state.unreadable_logged = Some(Instant::now());
            }
            _ => {}
        }
    }

    /// Whether it is left out, or not written.
    pub(super) fn is_at_fault(&self) -> bool {
        let state = self.state();
        state.fault.is_some() || state.write_fault.is_some()
    }

    fn state(&self) -> MutexGuard<'_, DatabaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
