//! A MySQL or MariaDB server: its connections, its gate, and the supervisor that brings it back.

use std::fmt;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
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
use tracing::warn;

use super::MySqlShard;
use super::database::Database;
use super::statements::STATEMENTS_PER_SHARD;
use super::write::WRITES_PER_SHARD;
use crate::config::{Config, ConfigError, ServerConfig, Servers, Tls};
use crate::shard::gate::Gate;
use crate::shard::{Deadline, OpenError, Shard, ShardError, Store};

/// How long checking one database may take: forty questions to a server that may be far away.
const CHECK_DEADLINE: Duration = Duration::from_secs(4);
/// How long dialling a server may take, at the start and whenever it is tried again. A connection that
/// was dialled into nothing stays dead when the server is back, so that a new one is tried soon.
const LOGIN_DEADLINE: Duration = Duration::from_secs(2);
/// Between two attempts to reach a server that is left out, give or take a quarter.
const RETRY_MS: u64 = 1_000;
/// Between two signs of life of a server in use. Without requests a dead one is noticed after three.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Connections that are ready before the first request.
const WARM_CONNECTIONS: usize = 4;
/// Connections beside the pool. A server that loses more connections than this at once has other
/// troubles.
const EXTRA_CONNECTIONS_MAX: usize = 4;
/// Connections that nobody used for this long are closed.
const IDLE_TTL: Duration = Duration::from_secs(60);
/// No connection lives longer, so that a name that leads to another server by now is followed.
const CONNECTION_TTL: Duration = Duration::from_secs(180);
/// What that is lengthened by at most: connections that were dialled together do not end together.
const CONNECTION_TTL_JITTER: Duration = Duration::from_secs(60);
/// All connections are left at most this often, however many writes find the server read-only.
const RENEW_PAUSE: Duration = Duration::from_secs(1);
/// That a server is read-only is read_only_logged this often.
const REPEAT_LOG_AFTER: Duration = Duration::from_secs(60);

/// A server with the databases on it that are shards.
pub(in crate::shard) struct Server {
    options: Opts,
    gate: Gate,
    connections: Mutex<Connections>,
    databases: Vec<Arc<Database>>,
    /// Whether it is to be written.
    write: bool,
    /// For connections beside the pool, on which commits in doubt are looked after.
    extra_connections: Semaphore,
}

/// The connections that requests share.
struct Connections {
    pool: Pool,
    opened: Instant,
    /// When it was last read_only_logged that the server is read-only.
    read_only_logged: Option<Instant>,
}

impl Server {
    /// Dials and checks all servers at the same time. Those that cannot be reached start closed;
    /// what an operator must mend is an error.
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
        let options = options(server, databases.len(), config.read.deadline()).map_err(wrong)?;
        if server.tls() == Tls::Disabled && server.tls.is_some() {
            warn!(server = name, "passwords and posts travel unprotected: tls is disabled");
        }
        let pool = Pool::new(options.clone());
        Ok(Self {
            gate: Gate::new(name, server.connections_max),
            connections: Mutex::new(Connections {
                pool,
                opened: Instant::now(),
                read_only_logged: None,
            }),
            options,
            databases,
            write: config.write.enabled,
            extra_connections: Semaphore::new(EXTRA_CONNECTIONS_MAX),
        })
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A connection of the pool, in which there are as many as the gate lets pass.
    pub(super) async fn connection(&self) -> Result<Conn, ShardError> {
        let pool = locked(&self.connections).pool.clone();
        logged_in(async { pool.get_conn().await }).await.map_err(|error| {
            // A login that is refused is refused for all databases.
            if let ShardError::Faulty(reason) = &error {
                self.gate.close(&error);
                return ShardError::Unavailable(reason.clone());
            }
            error
        })
    }

    /// Leaves all connections of the pool, since the server was found to be read-only: its address
    /// may lead to the one that took its place. Those in use end when they are given back.
    pub(super) fn renew_connections(&self, reason: &str) {
        let mut connections = locked(&self.connections);
        if connections.opened.elapsed() < RENEW_PAUSE {
            return;
        }
        connections.renew(&self.options);
        if connections.read_only_logged.is_none_or(|at| at.elapsed() > REPEAT_LOG_AFTER) {
            warn!(server = self.gate.server(), reason, "server cannot be written; dialling anew");
            connections.read_only_logged = Some(Instant::now());
        }
    }

    /// A connection for one purpose, beside the pool and its limits.
    pub(super) async fn own_connection(&self) -> Result<Conn, ShardError> {
        let login = logged_in(Conn::new(self.options.clone()));
        Deadline::after(LOGIN_DEADLINE).in_time(login).await
    }

    /// Does `work` on a new connection beside the pool, whatever the gate thinks.
    pub(super) async fn on_extra_connection<T>(
        &self,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, ShardError>,
    ) -> Result<T, ShardError> {
        let permit = self.extra_connections.acquire().await;
        let _permit = permit.map_err(|_| ShardError::Unavailable("closed".into()))?;
        let mut connection = logged_in(Conn::new(self.options.clone())).await?;
        let outcome = work(&mut connection).await;
        drop(connection.disconnect().await);
        outcome
    }

    /// Notices when an idle server goes away, and brings back what is left out. Runs until it is
    /// dropped.
    pub(in crate::shard) async fn supervise(self: Arc<Self>) {
        loop {
            // Neither branch has anything to lose when the other one is first.
            tokio::select! {
                () = self.gate.wait_closed() => self.retry().await,
                () = tokio::time::sleep(HEARTBEAT) => self.heartbeat().await,
            }
        }
    }

    async fn retry(&self) {
        let pause = rand::rng().random_range(RETRY_MS * 3 / 4..=RETRY_MS * 5 / 4);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match self.check().await {
            Ok(_) => {
                // Connections from before may be dead without knowing it.
                locked(&self.connections).renew(&self.options);
                self.warm().await;
                self.gate.open();
            }
            Err(error) => self.gate.close(&error),
        }
    }

    /// Asks the server for a sign of life, and checks the databases that are left out. Where it was
    /// demoted and its address leads to another one, reads would be from the past.
    async fn heartbeat(&self) {
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

    /// The first check. Returns what an operator must mend.
    async fn admit(&self) -> Vec<String> {
        let with_server = |fault| format!("server {}: {fault}", self.gate.server());
        match self.check().await {
            Ok(faults) if faults.is_empty() => {
                self.warm().await;
                self.gate.open();
                faults
            }
            Ok(faults) => faults.into_iter().map(with_server).collect(),
            Err(error @ ShardError::Unavailable(_)) => {
                self.gate.close(&error);
                Vec::new()
            }
            Err(error) => vec![with_server(error.to_string())],
        }
    }

    /// Opens a few connections, so that the first requests need not.
    async fn warm(&self) {
        let some = self.options.pool_opts().constraints().max().min(WARM_CONNECTIONS);
        let connections = join_all((0..some).map(|_| self.connection()));
        // They go back to the pool together; that one failed will be seen when it is needed.
        drop(Deadline::after(CHECK_DEADLINE).limit(connections).await);
    }

    /// Connects and checks every database, each within [`CHECK_DEADLINE`]. Returns what an operator
    /// must mend in them; an error is one of the whole server.
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
    /// Connections from before are closed, by and by.
    fn renew(&mut self, options: &Opts) {
        self.pool = Pool::new(options.clone());
        self.opened = Instant::now();
    }
}

/// Newer servers say it in words.
async fn is_read_only(connection: &mut Conn) -> Result<bool, Error> {
    let sql = "SELECT CAST(@@global.read_only AS CHAR) NOT IN ('0', 'OFF')";
    Ok(connection.query_first(sql).await?.unwrap_or(false))
}

/// The password and whatever else the options hold are not shown.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// Awaits a login. The client panics at a login method it does not know.
async fn logged_in(login: impl Future<Output = Result<Conn, Error>>) -> Result<Conn, ShardError> {
    match AssertUnwindSafe(login).catch_unwind().await {
        Ok(connection) => connection.map_err(login_error),
        Err(_) => Err(ShardError::Faulty(
            "the account uses a login method that is not known here; use caching_sha2_password, \
             mysql_native_password or ed25519"
                .into(),
        )),
    }
}

/// A connection outside any pool; each of its statements ends by itself after `statement_max`.
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
        // The TLS library wraps its own errors so.
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
    let (host, port) = config.host_and_port().expect("checked with the configuration");
    let constraints = PoolConstraints::new(0, config.connections_max).expect("0 is not above it");
    let pool = PoolOpts::default()
        .with_constraints(constraints)
        .with_inactive_connection_ttl(IDLE_TTL)
        .with_abs_conn_ttl(Some(CONNECTION_TTL))
        .with_abs_conn_ttl_jitter(Some(CONNECTION_TTL_JITTER))
        // No session state is changed after the start, so there is nothing to reset; a reset
        // would cost a round trip and all prepared statements.
        .with_reset_connection(false);
    // Strict, or the server would cut what does not fit. The limit on a statement's time is only a
    // comment to the other kind of server.
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
        .stmt_cache_size((STATEMENTS_PER_SHARD + WRITES_PER_SHARD) * shards.max(1))
        .init(vec![session])
        .pool_opts(pool)
        .ssl_opts(ssl_options(config));
    Ok(options.into())
}

fn ssl_options(config: &ServerConfig) -> Option<SslOpts> {
    let tls = config.tls();
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
