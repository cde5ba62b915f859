//! The only place that logs in to a server: the options of a connection, the settings of its
//! session, and the words for a login that fails.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::{
    Conn, DriverError, Error, IoError, Opts, OptsBuilder, PoolConstraints, PoolOpts, SslOpts,
};

use super::login::Login;
use super::statements::STATEMENTS_PER_SHARD;
use super::write::WRITES_PER_SHARD;
use crate::config::{ConfigError, ServerConfig, Tls};
use crate::shard::{Deadline, ShardError};

/// Time limit for the login of a command.
const LOGIN_DEADLINE: Duration = Duration::from_secs(4);
/// Pooled connections idle for this long are closed.
const IDLE_TTL: Duration = Duration::from_secs(60);
/// Lifetime of a pooled connection, before jitter. So a DNS name that now leads to another server
/// is followed.
const CONNECTION_TTL: Duration = Duration::from_secs(180);
/// Random extension of that lifetime, at most. So connections opened together do not expire
/// together.
const CONNECTION_TTL_JITTER: Duration = Duration::from_secs(60);
/// Prepared statements of all pooled connections to one server. It leaves room for two more nodes
/// in `max_prepared_stmt_count`, which is 16,382 by default.
const STATEMENTS_MAX: usize = 4_096;
/// Prepared statements that a connection may have at least: those of one page.
const STATEMENTS_MIN: usize = 16;
/// Makes START TRANSACTION take a snapshot, whatever the default of the server is.
const SNAPSHOTS: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// A new connection of a command. The server ends each statement after `statement_max`.
pub(super) async fn dial(
    config: &ServerConfig,
    statement_max: Duration,
) -> Result<Conn, ShardError> {
    let options = options(config, 1, statement_max);
    let options = options.map_err(|error| ShardError::Faulty(error.to_string()))?;
    let login = Login::new(options, config.command().map(<[String]>::to_vec));
    login.refresh(Duration::ZERO).await?;
    Deadline::after(LOGIN_DEADLINE).in_time(logged_in(Conn::new(login.options()))).await
}

/// Awaits a login. The MySQL client panics on an unknown authentication plugin; the panic becomes
/// [`ShardError::Faulty`].
pub(super) async fn logged_in(
    login: impl Future<Output = Result<Conn, Error>>,
) -> Result<Conn, ShardError> {
    match AssertUnwindSafe(login).catch_unwind().await {
        Ok(connection) => connection.map_err(login_error),
        Err(_) => Err(ShardError::Faulty(
            "the account uses an unsupported authentication plugin; use caching_sha2_password, \
             mysql_native_password or ed25519"
                .into(),
        )),
    }
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

/// The options of pooled connections.
pub(super) fn options(
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

/// The options of a connection beside the pool, which accepts packets of at most `packet_bytes`.
pub(super) fn options_beside(pooled: &Opts, packet_bytes: Option<usize>) -> Opts {
    let settings = pooled.init().iter().cloned().chain([SNAPSHOTS.to_owned()]).collect();
    let options = OptsBuilder::from_opts(pooled.clone()).init::<String>(settings);
    options.max_allowed_packet(packet_bytes).into()
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
