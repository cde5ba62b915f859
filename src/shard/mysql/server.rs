//! A MySQL or MariaDB server: its connections, its gate, and the supervisor that brings it back.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, Error, IoError, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts,
};
use rand::RngExt;

use super::statements::{STATEMENTS_PER_SHARD, Statements};
use super::{MySqlShard, check};
use crate::config::{Config, ConfigError, ServerConfig, Servers, Tls};
use crate::shard::gate::Gate;
use crate::shard::{Deadline, OpenError, Shard, ShardError, Store};

/// How long dialling and checking a server may take: at the start, and whenever it is tried again.
const CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts to reach a server that is left out, give or take a quarter.
const RETRY_MS: u64 = 1_000;
/// Between two signs of life of a server in use. Without requests a dead one is noticed after three.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Connections that nobody used for this long are closed.
const IDLE_TTL: Duration = Duration::from_secs(60);

/// A server with the databases on it that are shards.
#[derive(Debug)]
pub(in crate::shard) struct Server {
    options: Opts,
    gate: Gate,
    pool: Mutex<Pool>,
    databases: Vec<(String, StatementsSlot)>,
}

/// The statements of one database, once it was checked. A later check may find other indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct StatementsSlot(Arc<Mutex<Option<Arc<Statements>>>>);

impl StatementsSlot {
    pub(super) fn get(&self) -> Option<Arc<Statements>> {
        locked(&self.0).clone()
    }

    fn set(&self, statements: Statements) {
        *locked(&self.0) = Some(Arc::new(statements));
    }
}

impl Server {
    /// Dials and checks all servers at the same time. Those that cannot be reached start closed;
    /// what an operator must mend is an error.
    pub(in crate::shard) async fn connect_all(
        fleet: &Servers,
        config: &Config,
    ) -> Result<(Vec<Arc<Self>>, Vec<Shard>), OpenError> {
        let mut servers = Vec::new();
        let mut shards: Vec<Option<Shard>> = fleet.shards.iter().map(|_| None).collect();
        for (name, server) in &fleet.servers {
            let here = || fleet.shards.iter().enumerate().filter(|(_, s)| s.server == *name);
            let databases: Vec<(String, StatementsSlot)> = here()
                .map(|(_, shard)| (shard.database.clone(), StatementsSlot::default()))
                .collect();
            let slots: Vec<StatementsSlot> =
                databases.iter().map(|(_, slot)| slot.clone()).collect();
            let server = Arc::new(Self::new(name, server, databases, config.read.deadline())?);
            for ((index, shard), statements) in here().zip(slots) {
                let store = Store::MySql(MySqlShard { server: Arc::clone(&server), statements });
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
        config: &ServerConfig,
        databases: Vec<(String, StatementsSlot)>,
        statement_max: Duration,
    ) -> Result<Self, OpenError> {
        let wrong =
            |error: ConfigError| OpenError::Prerequisite(format!("servers.{name}: {error}"));
        let options = options(config, databases.len(), statement_max).map_err(wrong)?;
        if config.tls() == Tls::Disabled && config.tls.is_some() {
            tracing::warn!(
                server = name,
                "passwords and posts travel unprotected: tls is disabled"
            );
        }
        Ok(Self {
            gate: Gate::new(name, config.connections_max),
            pool: Mutex::new(Pool::new(options.clone())),
            options,
            databases,
        })
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A connection of the pool, in which there are as many as the gate lets pass.
    pub(super) async fn connection(&self) -> Result<Conn, Error> {
        let pool = locked(&self.pool).clone();
        pool.get_conn().await
    }

    /// Notices when an idle server goes away, and brings back one that is left out. Runs until it
    /// is dropped.
    pub(in crate::shard) async fn supervise(self: Arc<Self>) {
        loop {
            // Neither branch has anything to lose when the other one is first.
            tokio::select! {
                () = self.gate.wait_closed() => self.retry().await,
                () = tokio::time::sleep(HEARTBEAT) => self.beat().await,
            }
        }
    }

    async fn retry(&self) {
        let pause = rand::rng().random_range(RETRY_MS * 3 / 4..=RETRY_MS * 5 / 4);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match self.check().await {
            Ok(()) => {
                // Connections from before may be dead without knowing it.
                *locked(&self.pool) = Pool::new(self.options.clone());
                self.gate.open();
            }
            Err(error) => self.gate.close(&error),
        }
    }

    /// Asks the server for nothing, as any request would. The gate counts what comes of it.
    async fn beat(&self) {
        let ping = async { Ok(self.connection().await?.ping().await?) };
        let _ = self.gate.pass(Deadline::after(HEARTBEAT), ping).await;
    }

    /// The first check. Returns what an operator must mend.
    async fn admit(&self) -> Option<String> {
        match self.check().await {
            Ok(()) => self.gate.open(),
            Err(error @ ShardError::Unavailable(_)) => self.gate.close(&error),
            Err(error) => return Some(format!("server {}: {error}", self.gate.server())),
        }
        None
    }

    /// Connects and checks every database, within [`CHECK_DEADLINE`].
    async fn check(&self) -> Result<(), ShardError> {
        let check = async {
            let mut connection = Conn::new(self.options.clone()).await.map_err(login_error)?;
            for (database, slot) in &self.databases {
                let indexes = check::tables(&mut connection, database).await?;
                slot.set(Statements::new(database, &indexes));
            }
            Ok(connection.disconnect().await?)
        };
        // The client panics at a login method it was built without.
        let check = AssertUnwindSafe(check).catch_unwind();
        match Deadline::after(CHECK_DEADLINE).limit(check).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(ShardError::Faulty(
                "the account uses a login method that is not known here; use \
                 caching_sha2_password, mysql_native_password or ed25519"
                    .into(),
            )),
            None => Err(ShardError::Unavailable("no answer in time".into())),
        }
    }
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
        // No session state is changed after the start, so there is nothing to reset; a reset
        // would cost a round trip and all prepared statements.
        .with_reset_connection(false);
    // Only a comment to the other kind of server: the limit on a statement's time.
    let (ms, s) = (statement_max.as_millis(), statement_max.as_secs_f64());
    let session = format!(
        "SET time_zone = '+00:00' /*M!100101 , max_statement_time = {s} */ \
         /*!50708 , max_execution_time = {ms} */"
    );
    let options = OptsBuilder::default()
        .ip_or_hostname(host)
        .tcp_port(port)
        .user(Some(config.user.as_str()))
        .pass(config.secret()?.map(|secret| secret.reveal().to_owned()))
        .prefer_socket(false)
        .stmt_cache_size(STATEMENTS_PER_SHARD * shards.max(1))
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
