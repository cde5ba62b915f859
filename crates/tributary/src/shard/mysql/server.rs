//! A MySQL or MariaDB server: its connections, its gate, and the supervisor that returns it to
//! service.

use std::fmt;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, Error, IoError, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts,
};
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::MySqlShard;
use super::database::Database;
use super::proxy_check::identities;
use super::source::{KnownLog, SourcePool};
use super::statements::STATEMENTS_PER_SHARD;
use super::write::WRITES_PER_SHARD;
use crate::config::{Config, ConfigError, ServerConfig, Servers, Tls};
use crate::problems::{ProblemCause, Problems};
use crate::shard::gate::Gate;
use crate::shard::queue::Turn;
use crate::shard::{Deadline, OpenError, Shard, ShardError, Store};

/// Time limit for checking one database: forty queries to a server that may be distant.
const CHECK_DEADLINE: Duration = Duration::from_secs(4);
/// Time limit for a connection and its login, at the start and in each retry. It is short because
/// a connection attempt to an absent server stays dead when the server returns.
const LOGIN_DEADLINE: Duration = Duration::from_secs(2);
/// Pause between two attempts to reach a server that is out of service, plus or minus a quarter.
const RETRY_MS: u64 = 1_000;
/// Pause between two heartbeats of a server in service, and the deadline of each. Without
/// requests, three failed heartbeats close the gate.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Maximum connections opened in advance, before a server is in service.
const WARM_CONNECTIONS: usize = 4;
/// Maximum concurrent connections outside the pool. They look up commits in doubt, and detect that
/// the address leads to another server. More at once mean that the server has other problems.
const EXTRA_CONNECTIONS_MAX: usize = 4;
/// Connections idle for this long are closed.
const IDLE_TTL: Duration = Duration::from_secs(60);
/// Lifetime of a connection, before jitter. So a DNS name that now leads to another server is
/// followed.
const CONNECTION_TTL: Duration = Duration::from_secs(180);
/// Random extension of that lifetime, at most. So connections opened together do not expire
/// together.
const CONNECTION_TTL_JITTER: Duration = Duration::from_secs(60);
/// How long closing the pool may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Minimum time between two renewals of the pool, however many writes find the server read-only.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the server has refused a connection, until the pool is tried again.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Prepared statements of all pooled connections to one server. It leaves room for two more nodes
/// in `max_prepared_stmt_count`, which is 16,382 by default.
const STATEMENTS_MAX: usize = 4_096;
/// Prepared statements that a connection may have at least: those of one page.
const STATEMENTS_MIN: usize = 16;

/// A server, with those of its databases that are shards.
pub(in crate::shard) struct Server {
    options: Opts,
    gate: Gate,
    connections: Mutex<Connections>,
    databases: Vec<Arc<Database>>,
    problems: Problems,
    /// Whether the configuration enables writes.
    write: bool,
    /// Permits for [`Server::on_extra_connection`].
    extra_connections: Semaphore,
    known_log: KnownLog,
    /// The connections for fills.
    fills: SourcePool,
}

/// The connection pool that requests share.
struct Connections {
    pool: Pool,
    opened: Instant,
}

/// The reaction if the server refuses a connection outside the pool because of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// One connection of the pool is closed for it.
    Make,
    /// The caller does without.
    IfFree,
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
                let store = Store::MySql(MySqlShard { server: Arc::clone(&server), database });
                shards[index] = Some(Shard { name: shard.name.clone(), store });
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
        let options = options(server, databases.len(), config.request.deadline()).map_err(wrong)?;
        if server.effective_tls() == Tls::Disabled && server.tls.is_some() {
            warn!(
                server = name,
                "TLS is disabled; passwords and posts cross the network unencrypted"
            );
        }
        let pool = Pool::new(options.clone());
        Ok(Self {
            gate: Gate::new(name, server.connections_max),
            connections: Mutex::new(Connections { pool, opened: Instant::now() }),
            problems: Problems::default(),
            options,
            databases,
            write: config.write.enabled,
            extra_connections: Semaphore::new(EXTRA_CONNECTIONS_MAX),
            known_log: KnownLog::default(),
            fills: SourcePool::new(),
        })
    }

    /// The problems of this server and its log.
    pub(super) fn problems(&self) -> &Problems {
        &self.problems
    }

    pub(in crate::shard) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Closes the idle connections of the pool and refuses new ones. Waits for them briefly: the
    /// server may be unreachable.
    pub(super) async fn close(&self) {
        let pool = locked(&self.connections).pool.clone();
        // An error means that the connections are already gone.
        drop(timeout(CLOSE_TIMEOUT, pool.disconnect()).await);
    }

    /// The server's log, as its feed knows it.
    pub(super) fn known_log(&self) -> &KnownLog {
        &self.known_log
    }

    /// The connections for fills.
    pub(super) fn fills(&self) -> &SourcePool {
        &self.fills
    }

    /// A connection from the pool. The pool holds as many connections as the gate has permits, so
    /// a request that passed the gate does not wait here. If the server refuses another connection
    /// because of a limit, the permits are reduced, and the request waits for one that is open.
    pub(super) async fn connection(&self) -> Result<Conn, ShardError> {
        let mut is_reduced = false;
        loop {
            match self.pooled().await {
                Err(ShardError::Overloaded(reason)) => {
                    if !is_reduced && !self.gate.queue().shrink(&reason) {
                        return Err(ShardError::Unavailable(reason));
                    }
                    is_reduced = true;
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                // A refused login affects all databases of the server.
                Err(error @ ShardError::Faulty(_)) => {
                    self.gate.close(&error);
                    return Err(ShardError::Unavailable(error.to_string()));
                }
                outcome => return outcome,
            }
        }
    }

    async fn pooled(&self) -> Result<Conn, ShardError> {
        let pool = locked(&self.connections).pool.clone();
        if self.gate.queue().is_reduced() {
            // The request before this one has returned its connection, but the pool takes it back
            // in a task of its own. Without this wait, another connection would be refused.
            let metrics = pool.metrics();
            let is_empty = || metrics.connections_in_pool.load(Ordering::Relaxed) == 0;
            let until = Instant::now() + REFUSED_PAUSE;
            while is_empty() && Instant::now() < until {
                tokio::time::sleep(REFUSED_PAUSE / 10).await;
            }
        }
        logged_in(async { pool.get_conn().await }).await
    }

    /// A connection from the pool for a read. See [`KnownLog::check_connection`].
    pub(super) async fn read_connection(&self) -> Result<Conn, ShardError> {
        let mut connection = self.connection().await?;
        self.known_log.check_connection(&mut connection).await?;
        Ok(connection)
    }

    /// Replaces the pool, because the server was found to be read-only: after a failover its
    /// address may lead to the new primary. Connections in use close when they are returned.
    pub(super) fn renew_connections(&self, reason: &str) {
        let mut connections = locked(&self.connections);
        if connections.opened.elapsed() < RENEW_PAUSE {
            return;
        }
        connections.renew(&self.options);
        if self.problems.note(ProblemCause::ReadOnly) {
            warn!(
                server = self.gate.server(),
                reason,
                "Server is read-only; reconnecting, because its address may lead to a new primary"
            );
        }
    }

    /// A dedicated connection outside the pool. It does not count against the pool's limit.
    pub(super) async fn own_connection(&self, room: Room) -> Result<Conn, ShardError> {
        let login = self.dial(self.options.clone(), room);
        Deadline::after(LOGIN_DEADLINE).in_time(login).await
    }

    /// A dedicated connection for the log, which accepts packets of at most `bytes`.
    pub(super) async fn log_connection(&self, bytes: usize) -> Result<Conn, ShardError> {
        let options = OptsBuilder::from_opts(self.options.clone()).max_allowed_packet(Some(bytes));
        let login = self.dial(options.into(), Room::Make);
        Deadline::after(LOGIN_DEADLINE).in_time(login).await
    }

    async fn dial(&self, options: Opts, room: Room) -> Result<Conn, ShardError> {
        // Boxed, because logins are rare and large.
        match Box::pin(logged_in(Conn::new(options.clone()))).await {
            Err(ShardError::Overloaded(reason)) if room == Room::Make => {
                Box::pin(self.make_room(&reason)).await;
                Box::pin(logged_in(Conn::new(options))).await
            }
            outcome => outcome,
        }
    }

    /// Closes one connection of the pool, if the requests can do with one less.
    async fn make_room(&self, reason: &str) {
        let until = Deadline::after(LOGIN_DEADLINE).half();
        let Ok(_permit) = self.gate.enter(Turn::Next, until).await else { return };
        if self.gate.queue().shrink(reason)
            && let Ok(connection) = self.pooled().await
        {
            // An error means that it is already gone.
            drop(connection.disconnect().await);
        }
    }

    /// Runs `work` on a new connection outside the pool, even if the gate is closed. At most
    /// [`EXTRA_CONNECTIONS_MAX`] run at once; others wait.
    pub(super) async fn on_extra_connection<T>(
        &self,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, ShardError>,
    ) -> Result<T, ShardError> {
        let permit = self.extra_connections.acquire().await;
        let _permit = permit.map_err(|_| ShardError::Unavailable("closed".into()))?;
        let mut connection = self.dial(self.options.clone(), Room::Make).await?;
        let outcome = work(&mut connection).await;
        drop(connection.disconnect().await);
        outcome
    }

    /// Detects failures of an idle server, and returns the server and its databases to service.
    /// Never returns; the caller aborts the task.
    pub(in crate::shard) async fn supervise(self: Arc<Self>) {
        loop {
            // Both branches are cancel-safe: neither loses state.
            tokio::select! {
                () = self.gate.wait_closed() => self.retry().await,
                () = tokio::time::sleep(HEARTBEAT) => self.heartbeat().await,
            }
        }
    }

    async fn retry(&self) {
        let pause = rand::rng().random_range(RETRY_MS * 3 / 4..=RETRY_MS * 5 / 4);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // Old connections may be dead without an error so far. They may also be all that the
        // server allows, so they are closed before the check opens another one.
        let old = locked(&self.connections).renew(&self.options);
        self.fills.clear();
        drop(timeout(CLOSE_TIMEOUT / 10, old.disconnect()).await);
        match self.check().await {
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
            let mut connection = self.connection().await?;
            if is_read_only(&mut connection).await? && self.write {
                let elsewhere =
                    self.on_extra_connection(async |new| Ok(!is_read_only(new).await?)).await;
                if elsewhere.is_ok_and(|elsewhere| elsewhere) {
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
        self.gate.probe(Deadline::after(HEARTBEAT), heartbeat).await;
    }

    /// Runs the first check. Returns the faults that an operator must fix. An unreachable server
    /// is not a fault.
    async fn admit(&self) -> Vec<String> {
        let with_server = |fault| format!("server {}: {fault}", self.gate.server());
        match self.check().await {
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

    /// Opens a few connections in advance, so that the first requests need not wait for logins.
    /// Logs a warning if they lead to several servers.
    async fn warm(&self) {
        let some = self.options.pool_opts().constraints().max().min(WARM_CONNECTIONS);
        let servers = async {
            let connections = join_all((0..some).map(|_| self.pooled())).await;
            // All are held until the last is open, so they are distinct. A failed one is not
            // reported: the request that needs it will get the error.
            let mut connections: Vec<Conn> = connections.into_iter().flatten().collect();
            identities(&mut connections).await
        };
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

    /// Connects and checks every database, each within [`CHECK_DEADLINE`]. Returns the faults of
    /// databases that an operator must fix.
    ///
    /// # Errors
    /// An error of the whole server.
    async fn check(&self) -> Result<Vec<String>, ShardError> {
        let login = logged_in(Conn::new(self.options.clone()));
        let mut connection = Deadline::after(LOGIN_DEADLINE).in_time(login).await?;
        let mut faults = Vec::new();
        for database in &self.databases {
            let check = database.check(&mut connection);
            faults.extend(Deadline::after(CHECK_DEADLINE).in_time(check).await?);
        }
        drop(Deadline::after(LOGIN_DEADLINE).limit(connection.disconnect()).await);
        Ok(faults)
    }
}

impl Connections {
    /// Replaces the pool and returns the old one, whose connections close when requests return
    /// them.
    fn renew(&mut self, options: &Opts) -> Pool {
        self.opened = Instant::now();
        std::mem::replace(&mut self.pool, Pool::new(options.clone()))
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

/// Awaits a login. The MySQL client panics on an unknown authentication plugin; the panic becomes
/// [`ShardError::Faulty`].
async fn logged_in(login: impl Future<Output = Result<Conn, Error>>) -> Result<Conn, ShardError> {
    match AssertUnwindSafe(login).catch_unwind().await {
        Ok(connection) => connection.map_err(login_error),
        Err(_) => Err(ShardError::Faulty(
            "the account uses an unsupported authentication plugin; use caching_sha2_password, \
             mysql_native_password or ed25519"
                .into(),
        )),
    }
}

/// Opens a connection outside any pool. The server ends each statement after `statement_max`.
pub(super) async fn dial(
    config: &ServerConfig,
    statement_max: Duration,
) -> Result<Conn, ShardError> {
    let options = options(config, 1, statement_max);
    let options = options.map_err(|error| ShardError::Faulty(error.to_string()))?;
    Deadline::after(CHECK_DEADLINE).in_time(logged_in(Conn::new(options))).await
}

fn login_error(error: Error) -> ShardError {
    match &error {
        Error::Server(server) if matches!(server.code, 1045 | 1698) => ShardError::Faulty(format!(
            "{}; check user, password_file and the account's host",
            server.message
        )),
        // A limit of the server or of the account: too many connections.
        Error::Server(server) if matches!(server.code, 1040 | 1203 | 1226) => {
            ShardError::Overloaded(server.message.clone())
        }
        // These answer the statement that sets the session: syntax, unknown or read-only variable.
        Error::Server(server) if matches!(server.code, 1064 | 1193 | 1231 | 1238) => {
            ShardError::Faulty(format!(
                "the settings of the session are rejected: {}; if a proxy is at this address, set \
                 address to the host and port of the server itself",
                server.message
            ))
        }
        // The TLS library reports its errors as `InvalidData`.
        Error::Io(IoError::Io(io)) if io.kind() == ErrorKind::InvalidData => {
            ShardError::Faulty(format!("{io}; check tls and tls_ca_file of this server"))
        }
        Error::Io(IoError::Tls(tls)) => {
            ShardError::Faulty(format!("{tls}; check tls and tls_ca_file of this server"))
        }
        // The server has no TLS.
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            ShardError::Faulty("the server does not offer TLS; check tls of this server".into())
        }
        _ => error.into(),
    }
}

fn options(
    config: &ServerConfig,
    shards: usize,
    statement_max: Duration,
) -> Result<Opts, ConfigError> {
    let (host, port) = config.host_and_port().expect("the configuration was validated");
    let constraints = PoolConstraints::new(0, config.connections_max).expect("minimum 0 is valid");
    let pool = PoolOpts::default()
        .with_constraints(constraints)
        .with_inactive_connection_ttl(IDLE_TTL)
        .with_abs_conn_ttl(Some(CONNECTION_TTL))
        .with_abs_conn_ttl_jitter(Some(CONNECTION_TTL_JITTER))
        // Session state does not change after login, so a reset would only cost a round trip and
        // all prepared statements.
        .with_reset_connection(false);
    // Strict mode, or the server would truncate values. Each statement time limit is in a comment
    // that only MariaDB (`M!`) or only MySQL executes.
    let (ms, s) = (statement_max.as_millis(), statement_max.as_secs_f64());
    let lock_s = statement_max.as_secs().max(1);
    let session = format!(
        "SET autocommit = 1, time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), \
         innodb_lock_wait_timeout = {lock_s} \
         /*M!100101 , max_statement_time = {s} */ /*!50708 , max_execution_time = {ms} */"
    );
    let options = OptsBuilder::default()
        .ip_or_hostname(host)
        .tcp_port(port)
        .user(Some(config.user.as_str()))
        .pass(config.secret()?.map(|secret| secret.reveal().to_owned()))
        .prefer_socket(false)
        .stmt_cache_size(statements_max(shards, config.connections_max))
        .init(vec![session])
        .pool_opts(pool)
        .ssl_opts(ssl_options(config));
    Ok(options.into())
}

/// Prepared statements of one pooled connection: all of its shards, if there is room for them.
fn statements_max(shards: usize, connections: usize) -> usize {
    let all = (STATEMENTS_PER_SHARD + WRITES_PER_SHARD) * shards.max(1);
    all.min(STATEMENTS_MAX / connections.max(1)).max(STATEMENTS_MIN)
}

fn ssl_options(config: &ServerConfig) -> Option<SslOpts> {
    let tls = config.effective_tls();
    if tls == Tls::Disabled {
        return None;
    }
    let mut ssl = SslOpts::default().with_danger_accept_invalid_certs(tls == Tls::Required);
    if let Some(path) = &config.tls_ca_file {
        ssl = ssl.with_root_certs(vec![path.clone().into()]).with_disable_built_in_roots(true);
    }
    Some(ssl)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
