//! A database on a server: its statements, and its current faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mysql_async::Conn;
use tracing::{error, info};

use super::statements::Statements;
use super::write::WriteStatements;
use super::{check, write_check};
use crate::config::Write;
use crate::mapping::Tables;
use crate::shard::log_pause::LogPause;
use crate::shard::{Finding, ShardError};

/// One database. A fault takes this database out of service and no other one of the server.
#[derive(Debug)]
pub(in crate::shard) struct Database {
    shard: String,
    name: String,
    tables: Arc<Tables>,
    write: Write,
    write_statements: WriteStatements,
    state: Mutex<DatabaseState>,
    /// Every page with an unreadable row fails on it.
    unreadable_log: LogPause,
}

#[derive(Debug)]
struct DatabaseState {
    /// From the last successful check. A later check may choose other indexes.
    statements: Option<Arc<Statements>>,
    /// Why the database is out of service. The next successful check clears it.
    fault: Option<String>,
    /// Why the database cannot be written, although it may be read. The next successful check
    /// clears it.
    write_fault: Option<String>,
}

impl Database {
    pub(super) fn new(shard: &str, name: &str, tables: Arc<Tables>, write: Write) -> Self {
        let state = DatabaseState { statements: None, fault: None, write_fault: None };
        Self {
            shard: shard.to_owned(),
            name: name.to_owned(),
            write,
            write_statements: WriteStatements::new(name, &tables),
            tables,
            state: Mutex::new(state),
            unreadable_log: LogPause::default(),
        }
    }

    /// The name of the database on the server.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The mapping of the tables.
    pub(super) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The statements that write, and those that look up one post.
    pub(super) fn write_statements(&self) -> &WriteStatements {
        &self.write_statements
    }

    /// `Ok` if the database may be written now, else the reason.
    pub(super) fn writable(&self) -> Result<(), ShardError> {
        self.statements().map_err(ShardError::Unavailable)?;
        match &self.state().write_fault {
            Some(fault) => Err(ShardError::Faulty(fault.clone())),
            None => Ok(()),
        }
    }

    /// The statements for reads and bulk inserts. The error says why the database is out of
    /// service.
    pub(super) fn statements(&self) -> Result<Arc<Statements>, String> {
        let state = self.state();
        match (&state.fault, &state.statements) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(statements)) => Ok(Arc::clone(statements)),
            (None, None) => Err("the database was not checked yet".into()),
        }
    }

    /// Checks the database on this connection and updates its state. Returns the faults that an
    /// operator must fix, if any.
    ///
    /// # Errors
    /// An error of the whole server, not of this database.
    pub(super) async fn check(&self, connection: &mut Conn) -> Result<Option<String>, ShardError> {
        match check::tables(connection, &self.name, &self.tables).await {
            Ok(Ok(statements)) => {
                let write_fault = self.check_writes(connection, &statements).await?;
                // The write fault is set before the statements that enable writes.
                self.note_write_fault(write_fault.as_deref());
                let mut state = self.state();
                state.statements = Some(Arc::new(statements));
                if state.fault.take().is_some() {
                    info!(shard = self.shard, "Shard is in service again");
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
            // A locked table, for example during a restore, takes only this database out of
            // service. The operator need not act.
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

    /// If writes are enabled: the faults that an operator must fix before the database can be
    /// written.
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
            // A read-only server may be a replica, which is no fault. A write reports it.
            Err(ShardError::ReadOnly(_)) => Ok(None),
            Err(fault) => Ok(Some(fault.to_string())),
        }
    }

    /// Stores the write fault, or clears it, and logs a change.
    pub(super) fn note_write_fault(&self, fault: Option<&str>) {
        let mut state = self.state();
        match (state.write_fault.as_deref(), fault) {
            (before, Some(reason)) if before != fault => {
                error!(
                    shard = self.shard,
                    reason, "Shard cannot be written; it is checked every 2 s"
                );
            }
            (Some(_), None) => info!(shard = self.shard, "Shard can be written again"),
            _ => {}
        }
        state.write_fault = fault.map(str::to_owned);
    }

    /// Stores the fault of an error and logs it once. Other errors are ignored.
    pub(super) fn note(&self, error: &ShardError) {
        let mut state = self.state();
        match error {
            ShardError::Faulty(reason) if state.fault.as_ref() != Some(reason) => {
                error!(
                    shard = self.shard,
                    reason, "Shard is out of service; it is checked every 2 s"
                );
                state.fault = Some(reason.clone());
            }
            ShardError::Unreadable(reason) if self.unreadable_log.is_over() => {
                error!(
                    shard = self.shard,
                    reason, "Shard has an unreadable row and is missing from pages that contain it"
                );
            }
            _ => {}
        }
    }

    /// Whether the database is out of service or cannot be written.
    pub(super) fn is_at_fault(&self) -> bool {
        let state = self.state();
        state.fault.is_some() || state.write_fault.is_some()
    }

    fn state(&self) -> MutexGuard<'_, DatabaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
