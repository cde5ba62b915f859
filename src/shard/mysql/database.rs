//! A database on a server: its statements, and what is wrong with it while something is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use tracing::{error, info};

use super::check;
use super::statements::Statements;
use crate::mapping::Tables;
use crate::shard::{Finding, ShardError};

/// Rows that cannot be read are told this often, not once for every page that meets them.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// One database. Its faults are its own: other databases of the server go on.
#[derive(Debug)]
pub(super) struct Database {
    shard: String,
    name: String,
    tables: Arc<Tables>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As of the last check; a later one may find other indexes.
    statements: Option<Arc<Statements>>,
    /// Why it is left out until a check finds it well.
    fault: Option<String>,
    /// When rows that cannot be read were last told.
    told: Option<Instant>,
}

impl Database {
    pub(super) fn new(shard: &str, name: &str, tables: Arc<Tables>) -> Self {
        let state = State { statements: None, fault: None, told: None };
        Self { shard: shard.to_owned(), name: name.to_owned(), tables, state: Mutex::new(state) }
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
                let mut state = self.state();
                state.statements = Some(Arc::new(statements));
                if state.fault.take().is_some() {
                    info!(shard = self.shard, "shard is in use");
                }
                Ok(None)
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

    /// Remembers a fault, and tells it once.
    pub(super) fn note(&self, error: &ShardError) {
        let mut state = self.state();
        match error {
            ShardError::Faulty(reason) if state.fault.as_ref() != Some(reason) => {
                error!(shard = self.shard, reason, "shard is left out");
                state.fault = Some(reason.clone());
            }
            ShardError::Unreadable(reason)
                if state.told.is_none_or(|told| told.elapsed() > TELL_AGAIN) =>
            {
                error!(shard = self.shard, reason, "shard is missing from pages with this row");
                state.told = Some(Instant::now());
            }
            _ => {}
        }
    }

    /// Whether it is left out.
    pub(super) fn is_left_out(&self) -> bool {
        self.state().fault.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
