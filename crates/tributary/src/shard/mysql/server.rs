//! A MySQL or MariaDB server: its connections, its gate, and the supervisor that returns it to
//! service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::time::sleep;
use tracing::warn;

use super::MySqlShard;
use super::connections::{Class, Connections};
use super::database::Database;
use super::dial;
use super::joint::JointReads;
use super::login::Login;
use super::proxy_check::identities;
use super::source::KnownLog;
use crate::backoff::Backoff;
use crate::config::{Config, ConfigError, FleetConfig, ServerConfig, Servers, Tls};
use crate::problems::{Occurrences, ProblemCause, Problems};
use crate::shard::gate::Gate;
use crate::shard::{Deadline, OpenError, Shard, ShardError, Store};

/// Time limit for checking one database: forty queries to a server that may be distant.
const CHECK_DEADLINE: Duration = Duration::from_secs(4);
/// Time limit for the login before such a check. It is short because a connection attempt to an
/// absent server stays dead when the server returns.
const LOGIN_DEADLINE: Duration = Duration::from_secs(2);
/// Pause between two attempts to reach a server that is out of service, before jitter.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two heartbeats of a server in service, and the deadline of each. Without
/// requests, three failed heartbeats close the gate.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Age at which a command prints the password again. Credentials that expire are valid for at least
/// some minutes.
const PASSWORD_AGE_MAX: Duration = Duration::from_secs(60);
/// The same while the server is out of service.
const PASSWORD_RETRY: Duration = Duration::from_secs(3);

/// A server, with those of its databases that are shards.
pub(in crate::shard) struct Server {
    gate: Arc<Gate>,
    connections: Connections,
    databases: Vec<Arc<Database>>,
    problems: Problems,
    /// Whether the configuration enables writes.
    write: bool,
    known_log: KnownLog,
    joint_reads: JointReads,
    /// Failures of the command that prints the password.
    password_failures: Occurrences,
}

impl Server {
    /// Connects to all servers and checks them, at the same time. An unreachable server starts
    /// with a closed gate.
    ///
    /// # Errors
    /// All faults that an operator must fix, one per line.
    pub(in crate::shard) async fn connect_all(
        fleet: &Servers,
        config: &Config,
    ) -> Result<(Vec<Arc<Self>>, Vec<Shard>), OpenError> {
        let mut servers = Vec::new();
        let tables = Arc::new(fleet.tables.clone());
        let mut shards: Vec<Option<Shard>> = fleet.shards.iter().map(|_| None).collect();
        for (name, server) in &fleet.servers {
            let here = || fleet.shards.iter().enumerate().filter(|(_, s)| s.server == *name);
            let databases: Vec<Arc<Database>> = here()
                .map(|(_, shard)| {
                    let tables = Arc::clone(&tables);
                    Database::new(&shard.name, &shard.database, tables, config.write.clone())
                })
                .map(Arc::new)
                .collect();
            let server = Arc::new(Self::new(name, server, databases.clone(), config)?);
            for ((index, shard), database) in here().zip(databases) {
                let store = Store::MySql(MySqlShard::new(Arc::clone(&server), database));
                shards[index] = Some(Shard::new(shard.name.clone(), store));
            }
            servers.push(server);
        }
        let faults = join_all(servers.iter().map(|server| server.admit())).await;
        let faults: Vec<String> = faults.into_iter().flatten().collect();
        if !faults.is_empty() {
            return Err(OpenError::Prerequisite(faults.join("\n")));
        }
        Ok((servers, shards.into_iter().flatten().collect()))
    }

    fn new(
        name: &str,
        server: &ServerConfig,
        databases: Vec<Arc<Database>>,
        config: &Config,
    ) -> Result<Self, OpenError> {
        let wrong =
            |error: ConfigError| OpenError::Prerequisite(format!("servers.{name}: {error}"));
        let options = dial::options(server, databases.len(), config.request.deadline());
        let options = options.map_err(wrong)?;
        if server.effective_tls() == Tls::Disabled && server.tls.is_some() {
            warn!(
                server = name,
                "TLS is disabled; passwords and posts cross the network unencrypted"
            );
        }
        let gate = Arc::new(Gate::new(name, server.connections_max));
        let login = Login::new(options, server.command().map(<[String]>::to_vec));
        Ok(Self {
            connections: Connections::new(Arc::clone(&gate), login),
            gate,
            problems: Problems::default(),
            databases,
            write: config.write.enabled,
            known_log: KnownLog::default(),
            joint_reads: JointReads::default(),
            password_failures: Occurrences::default(),
        })
    }

    /// How connections log in with this configuration; `None` if they do already. A login is tried.
    ///
    /// # Errors
    /// The password or the files cannot be read, or the server rejects the login.
    pub(in crate::shard) async fn next_login(
        &self,
        config: &Config,
    ) -> Result<Option<Login>, ConfigError> {
        let FleetConfig::Servers(fleet) = &config.fleet else { return Ok(None) };
        let name = self.gate.server();
        let Some(server) = fleet.servers.get(name) else { return Ok(None) };
        let options = dial::options(server, self.databases.len(), config.request.deadline())?;
        let next = Login::new(options, server.command().map(<[String]>::to_vec));
        if self.connections.login().is_same(&next) {
            return Ok(None);
        }
        let tried = async {
            next.refresh(Duration::ZERO).await?;
            let login = dial::logged_in(Conn::new(next.options()));
            drop(Deadline::after(LOGIN_DEADLINE).in_time(login).await?.disconnect().await);
            Ok(())
        };
        match tried.await {
            // An unreachable server says nothing about the login.
            Ok(()) | Err(ShardError::Unavailable(_) | ShardError::Overloaded(_)) => Ok(Some(next)),
            Err(error) => Err(ConfigError::new(format!("server {name}: {error}"))),
        }
    }

    /// The problems of this server and its log.
    pub(super) fn problems(&self) -> &Problems {
        &self.problems
    }

    pub(in crate::shard) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The connections to this server.
    pub(in crate::shard) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The server's log, as its feed knows it.
    pub(super) fn known_log(&self) -> &KnownLog {
        &self.known_log
    }

    /// Whether several of its databases are read by one statement.
    pub(super) fn joint_reads(&self) -> &JointReads {
        &self.joint_reads
    }

    /// A connection from the pool for a read. See [`KnownLog::check_connection`].
    pub(super) async fn read_connection(&self) -> Result<Conn, ShardError> {
        let mut connection = self.connections.request().await?;
        self.known_log.check_connection(&mut connection).await?;
        Ok(connection)
    }

    /// Replaces the pool, because the server was found to be read-only: after a failover its
    /// address may lead to the new primary. Connections in use close when they are returned.
    pub(super) fn renew_connections(&self, reason: &str) {
        if !self.connections.renew() {
            return;
        }
        if self.problems.note(ProblemCause::ReadOnly) {
            warn!(
                server = self.gate.server(),
                reason,
                "Server is read-only; reconnecting, because its address may lead to a new primary"
            );
        }
    }

    /// Detects failures of an idle server, and returns the server and its databases to service.
    /// Never returns; the caller aborts the task.
    pub(in crate::shard) async fn supervise(self: Arc<Self>) {
        loop {
            // Both branches are cancel-safe: neither loses state.
            tokio::select! {
                () = self.gate.wait_closed() => self.retry().await,
                () = sleep(HEARTBEAT) => self.heartbeat().await,
            }
        }
    }

    async fn retry(&self) {
        sleep(Backoff::steady(RETRY_PAUSE).pause()).await;
        self.connections.start_again().await;
        match self.log_in_and_check(PASSWORD_RETRY).await {
            Ok(_) => {
                self.warm().await;
                self.gate.open();
            }
            Err(error) => self.gate.close(&error),
        }
    }

    /// Sends a heartbeat and checks the databases with a fault. If the server was demoted and its
    /// address leads to another one, the pool is replaced, because reads would be stale.
    async fn heartbeat(&self) {
        self.gate.queue().grow();
        let heartbeat = async {
            let mut connection = self.connections.request().await?;
            if is_read_only(&mut connection).await? && self.write {
                // A failure here says nothing about the server that answered.
                if self.leads_elsewhere().await.is_ok_and(|elsewhere| elsewhere) {
                    self.renew_connections(
                        "it is read-only, and its address leads to another server",
                    );
                }
            }
            for database in self.databases.iter().filter(|database| database.is_at_fault()) {
                database.check(&mut connection).await?;
            }
            Ok(())
        };
        let heartbeat = self.gate.probe(Deadline::after(HEARTBEAT), heartbeat);
        let (refreshed, ()) =
            join(self.connections.refresh_login(PASSWORD_AGE_MAX), heartbeat).await;
        if let Err(error) = refreshed
            && self.password_failures.note()
        {
            warn!(
                server = self.gate.server(),
                %error,
                "Password cannot be renewed; new connections use the last one"
            );
        }
    }

    /// Whether the address leads to a server that can be written.
    async fn leads_elsewhere(&self) -> Result<bool, ShardError> {
        let mut connection = self.connections.lease(Class::Doubt).await?;
        let elsewhere = !is_read_only(&mut connection).await?;
        connection.close().await;
        Ok(elsewhere)
    }

    /// Runs the first check. Returns the faults that an operator must fix. An unreachable server
    /// is not a fault.
    async fn admit(&self) -> Vec<String> {
        let with_server = |fault| format!("server {}: {fault}", self.gate.server());
        match self.log_in_and_check(Duration::ZERO).await {
            Ok(faults) if faults.is_empty() => {
                self.warm().await;
                self.gate.open();
                faults
            }
            Ok(faults) => faults.into_iter().map(with_server).collect(),
            Err(error @ (ShardError::Unavailable(_) | ShardError::Overloaded(_))) => {
                self.gate.close(&error);
                Vec::new()
            }
            Err(error) => vec![with_server(error.to_string())],
        }
    }

    /// Opens a few connections in advance. Logs a warning if they lead to several servers.
    async fn warm(&self) {
        let servers = async { identities(&mut self.connections.warm().await).await };
        let servers = Deadline::after(CHECK_DEADLINE).limit(servers).await.unwrap_or_default();
        if servers > 1 {
            warn!(
                server = self.gate.server(),
                servers,
                "Address leads to several servers; freshness tokens can be lost, and memory starts \
                 again when its log connection reaches another server. Set address to one server"
            );
        }
    }

    /// As [`Server::check`], with a password that is at most this old if a command prints it.
    async fn log_in_and_check(&self, age_max: Duration) -> Result<Vec<String>, ShardError> {
        self.connections.refresh_login(age_max).await?;
        self.check().await
    }

    /// Checks every database on a connection of the pool, each within [`CHECK_DEADLINE`]. Returns
    /// the faults of databases that an operator must fix.
    ///
    /// # Errors
    /// An error of the whole server.
    async fn check(&self) -> Result<Vec<String>, ShardError> {
        let login = self.connections.pooled();
        let mut connection = Deadline::after(LOGIN_DEADLINE).in_time(login).await?;
        let mut faults = Vec::new();
        for database in &self.databases {
            let check = database.check(&mut connection);
            faults.extend(Deadline::after(CHECK_DEADLINE).in_time(check).await?);
        }
        Ok(faults)
    }
}

/// Whether `read_only` is set. Newer servers return it as a word instead of 0 or 1.
async fn is_read_only(connection: &mut Conn) -> Result<bool, Error> {
    let sql = "SELECT CAST(@@global.read_only AS CHAR) NOT IN ('0', 'OFF')";
    Ok(connection.query_first(sql).await?.unwrap_or(false))
}

/// Omits the options, because they hold the password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("gate", &self.gate).finish_non_exhaustive()
    }
}
