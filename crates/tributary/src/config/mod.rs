//! Configuration from defaults, a TOML file, the environment and flags; each overrides the ones
//! before. Every default is a documented constant. An unknown key is an error that names the most
//! similar known key.

mod build;
mod defaults;
mod limits;
mod log;
mod memory;
mod memory_limit;
mod network;
mod origin;
mod reload;
mod request;
mod server;
mod show;
mod source;
mod timeline;
mod web;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};

use self::defaults::ServerDefaults;
pub use self::limits::{ClientLimit, Limits};
pub use self::log::{Log, LogFormat, LogLevel};
pub use self::memory::{MEMORY_BUDGET_DEFAULT_MAX, MemoryConfig};
pub use self::network::Network;
use self::network::texts;
pub use self::origin::Origin;
pub use self::reload::Reload;
use self::request::RequestKeys;
pub use self::show::{Setting, settings};
use self::source::{
    ENV_PREFIX, Mistake, document, number, read_text, set_from_environment, suggestion, switch,
};
pub use self::source::{environment, password_variable};
pub use self::timeline::{Future, Timeline};
pub use self::web::Web;
pub use crate::mapping::{
    BlocksTable, Condition, FollowsTable, Mark, MutesTable, PostsTable, ReadMarkersTable,
    ReferenceColumns, Tables, UsersTable, conditions_text,
};
use crate::model::ShardId;
pub use crate::moment::{TimeUnit, Zone};
use crate::placement::{Placement, PlacementError, SHARDS_MAX};

/// Default address of the HTTP server: this machine only, since no credentials are configured.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7878";
/// Default address for operators: this machine only.
pub const ADMIN_LISTEN_DEFAULT: &str = "127.0.0.1:7979";
/// Default of `http.connections_per_address`.
pub const CONNECTIONS_PER_ADDRESS_DEFAULT: usize = 1_024;
/// Default of `http.streams_max`.
pub const STREAMS_DEFAULT: usize = 10_000;
/// Default of `request.deadline_ms`. One wave may use half of the time that is left: a silent
/// shard is given up after one second, and later waves have the other second.
pub const DEADLINE_MS_DEFAULT: u64 = 2_000;
/// Default connections to one server. A page needs one for each shard and wave, for about 1 ms.
pub const CONNECTIONS_DEFAULT: usize = 16;
/// Largest configuration file, and largest file with a password, in bytes. A fleet of a thousand
/// servers and shards takes about 200 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Upper bound for `connections_max`; no known server accepts more.
const CONNECTIONS_MAX: usize = 10_000;
/// Shards of a new folder.
pub const EMBEDDED_SHARDS_DEFAULT: u16 = 4;
/// Default upper bound for the text of a post, in bytes.
pub const CONTENT_BYTES_DEFAULT: usize = 10_000;
/// Largest upper bound for the text of a post. The JSON of a text can take six times its bytes.
const CONTENT_BYTES_MAX: usize = 1 << 20;

/// The complete, checked configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// The HTTP server for operators.
    pub admin: Admin,
    /// The pages for people.
    pub web: Web,
    /// The credentials that requests need.
    pub auth: Auth,
    /// Limits of one client.
    pub limits: Limits,
    /// Limits of one request.
    pub request: Request,
    /// The posts that home timelines show.
    pub timeline: Timeline,
    /// The memory that timelines are read from.
    pub memory: MemoryConfig,
    /// Whether and how users post and follow.
    pub write: Write,
    /// The rule that decides which shard owns a user.
    pub placement: PlacementConfig,
    /// The databases that hold the rows.
    pub fleet: FleetConfig,
    /// The log of the command.
    pub log: Log,
    /// Probable mistakes that prevent nothing. [`crate::Tributary::open`] logs them.
    pub warnings: Vec<String>,
    /// Each key with its value, to find what a reload changes.
    keys: reload::Keys,
}

/// `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Http {
    /// The address to listen on; port 0 lets the system choose a port.
    pub listen: SocketAddr,
    /// Accepted names in `Host` headers besides this machine's own. A reverse proxy on this
    /// machine may pass the name that its client used.
    pub hosts: Vec<String>,
    /// Upper bound for the connections of one client address, at least 1. A network of 64 bits
    /// counts as one IPv6 address.
    #[serde(deserialize_with = "number")]
    pub connections_per_address: usize,
    /// Upper bound for the streams of events at one time. They do not count as connections for the
    /// bound of the process.
    #[serde(deserialize_with = "number")]
    pub streams_max: usize,
    /// The certificate of the listener, which then speaks TLS only.
    pub tls: Option<HttpTls>,
    /// A second address, for plain HTTP beside TLS.
    pub plain_listen: Option<SocketAddr>,
    /// Addresses without this bound. Default: this machine's own, which a proxy on it uses.
    #[serde(deserialize_with = "texts")]
    pub trusted_proxies: Vec<Network>,
    /// Web sites whose pages may use the interface from a browser (CORS).
    #[serde(deserialize_with = "texts")]
    pub cors_origins: Vec<Origin>,
}

/// `[http.tls]`: PEM files, read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpTls {
    /// The certificate of the server, followed by those of its authorities.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[admin]`: the routes for operators, apart from those of clients.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Admin {
    /// The address to listen on; port 0 lets the system choose a port.
    pub listen: SocketAddr,
}

/// `[auth]`. Without a file of keys, the HTTP server answers this machine only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Auth {
    /// The file of service keys and revocations.
    pub keys_file: Option<PathBuf>,
    /// A JWKS file with the keys that verify user tokens.
    pub token_keys_file: Option<PathBuf>,
    /// The issuer that user tokens name in `iss`.
    pub issuer: Option<String>,
    /// The name of this service that user tokens have in `aud`.
    pub audience: Option<String>,
    /// The file of keys that seal cursors and freshness tokens. If absent, it is `cursor-keys`
    /// beside the file of keys, or in the folder of shards.
    pub cursor_keys_file: Option<PathBuf>,
}

/// `[request]`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Upper bound for the duration of one read or write, in milliseconds; at least 1.
    pub deadline_ms: u64,
}

/// `[write]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Write {
    /// Whether writes are accepted. Default: true for a folder, and false for servers, since their
    /// tables may belong to another application.
    pub enabled: bool,
    /// Upper bound for the text of a post, in bytes.
    pub content_bytes_max: usize,
}

/// The keys of `[write]`, before defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WriteKeys {
    #[serde(deserialize_with = "switch")]
    enabled: Option<bool>,
    #[serde(deserialize_with = "number")]
    content_bytes_max: usize,
}

/// `[placement]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PlacementConfig {
    /// The owning shard of each bucket, by name; `user_id % N` over the shards if absent.
    pub map: Option<Vec<String>>,
}

/// The databases that hold the rows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FleetConfig {
    /// SQLite files in one folder.
    Embedded(Embedded),
    /// Databases on MySQL or MariaDB servers.
    Servers(Box<Servers>),
}

/// `[embedded]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Embedded {
    /// The folder.
    pub dir: PathBuf,
    /// Number of shards of a new folder; an existing folder keeps its number.
    #[serde(default = "embedded_shards", deserialize_with = "number")]
    pub shards: u16,
}

/// `[servers.NAME]` and `[[shards]]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Servers {
    /// Servers by name.
    pub servers: BTreeMap<String, ServerConfig>,
    /// Shards in placement order.
    pub shards: Vec<ShardConfig>,
    /// Names and contents of the tables, the same on all shards.
    pub tables: Tables,
}

/// A MySQL or MariaDB server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// `host:port`. The host name is resolved for every new connection.
    pub address: String,
    /// The user name of the account.
    #[serde(default)]
    pub user: String,
    /// The password; only the environment can set it.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A program and its arguments. It prints the password, for credentials that expire soon.
    #[serde(default)]
    pub password_command: Option<Vec<String>>,
    /// TLS mode; `verify-identity` if absent, or `disabled` if the host is this machine.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// PEM file of certificate authorities to trust instead of the public ones.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// Upper bound for the connections of the pool.
    #[serde(default = "connections", deserialize_with = "number")]
    pub connections_max: usize,
}

/// TLS mode of a connection to a server, named as in the MySQL clients.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Tls {
    /// No encryption.
    Disabled,
    /// Encrypted, without checking the server's certificate.
    Required,
    /// Encrypted. A trusted authority must have issued the certificate, for this host name.
    VerifyIdentity,
}

/// `[[shards]]`: a database that owns users.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShardConfig {
    /// The shard's name in answers and logs.
    pub name: String,
    /// The server that holds it.
    pub server: String,
    /// The database on that server.
    pub database: String,
}

/// A password. `Debug` does not print it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A configuration that cannot be used; the text says what to change.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

/// All keys of a file and of the environment.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    http: Http,
    #[serde(default)]
    admin: Admin,
    #[serde(default)]
    web: Web,
    #[serde(default)]
    auth: Auth,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    request: RequestKeys,
    /// Obsolete: the old name of `[request]`.
    #[serde(default)]
    read: RequestKeys,
    #[serde(default)]
    timeline: Timeline,
    #[serde(default)]
    memory: MemoryConfig,
    #[serde(default)]
    write: WriteKeys,
    #[serde(default)]
    placement: PlacementConfig,
    embedded: Option<Embedded>,
    #[serde(default)]
    servers: BTreeMap<String, ServerConfig>,
    #[serde(default)]
    shards: Vec<ShardConfig>,
    tables: Option<Tables>,
    #[serde(default)]
    log: Log,
    /// Copied to the servers before this type is read.
    #[serde(default, rename = "server_defaults")]
    _server_defaults: ServerDefaults,
}

impl Config {
    /// Reads a TOML file; variables of `environment` override its keys.
    ///
    /// # Errors The file is unreadable, a key is unknown, a value has the wrong type, or two keys
    /// contradict each other. The text names the file and, for a mistake in its syntax or types,
    /// the line.
    pub fn from_file(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let at = |text: &str| ConfigError(format!("{}: {text}", path.display()));
        let text = read_bounded(path).map_err(|error| at(&error.to_string()))?;
        Document::build(read_text(&text, at)?, environment)
    }

    /// Like [`Config::from_file`], from a text.
    pub fn from_text(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Document::build(read_text(text, |text| ConfigError(text.to_owned()))?, environment)
    }

    /// The configuration of a folder of shards. All other keys have their defaults or come from
    /// `environment`, whose `SERVERS` and `TABLES` variables are ignored.
    pub fn from_folder(
        dir: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = Table::new();
        let is_server = |(name, _): &(String, String)| {
            name.strip_prefix(ENV_PREFIX).is_some_and(|key| key.starts_with("SERVERS__"))
        };
        let environment = environment.into_iter().filter(|variable| !is_server(variable));
        let warnings = set_from_environment(&mut table, environment)?;
        table.remove("tables");
        let dir = Value::String(dir.to_string_lossy().into_owned());
        match table.get_mut("embedded") {
            Some(Value::Table(embedded)) => drop(embedded.insert("dir".into(), dir)),
            _ => drop(
                table.insert("embedded".into(), Table::from_iter([("dir".to_owned(), dir)]).into()),
            ),
        }
        Document::read(table, warnings)
    }
}

impl Document {
    fn build(
        mut table: Table,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let warnings = set_from_environment(&mut table, environment)?;
        defaults::apply(&mut table);
        Self::read(table, warnings)
    }

    fn read(table: Table, warnings: Vec<String>) -> Result<Config, ConfigError> {
        let set = reload::Keys::of(&table);
        let config = Self::from_table(table)?.check(warnings)?;
        Ok(Config { keys: set.with_defaults(&config), ..config })
    }

    fn from_table(table: Table) -> Result<Self, ConfigError> {
        document(table).map_err(Mistake::of_environment)
    }

    fn check(self, mut warnings: Vec<String>) -> Result<Config, ConfigError> {
        let Self {
            http,
            admin,
            web,
            auth,
            limits,
            timeline,
            memory,
            write,
            placement,
            embedded,
            servers,
            shards,
            tables,
            log,
            ..
        } = self;
        auth.check()?;
        limits.check()?;
        let request = self.request.check(self.read, &mut warnings)?;
        http.check()?;
        memory.check()?;
        let fleet = match embedded {
            Some(_) if !(servers.is_empty() && shards.is_empty()) => {
                return fail("[embedded] and [servers] exclude each other; remove one of them");
            }
            Some(_) if tables.is_some() => {
                return fail(
                    "[tables] applies to servers only; remove it, since a folder has fixed tables",
                );
            }
            Some(embedded) => FleetConfig::Embedded(embedded),
            None => {
                let tables = tables.unwrap_or_default();
                FleetConfig::Servers(Box::new(check_servers(Servers { servers, shards, tables })?))
            }
        };
        if let FleetConfig::Embedded(Embedded { shards, .. }) = &fleet
            && !(1..=SHARDS_MAX).contains(&usize::from(*shards))
        {
            return fail(format!("embedded.shards must be from 1 to {SHARDS_MAX}"));
        }
        if !(1..=CONTENT_BYTES_MAX).contains(&write.content_bytes_max) {
            return fail(format!("write.content_bytes_max must be from 1 to {CONTENT_BYTES_MAX}"));
        }
        let write = Write {
            enabled: write.enabled.unwrap_or(matches!(fleet, FleetConfig::Embedded(_))),
            content_bytes_max: write.content_bytes_max,
        };
        Ok(Config {
            http,
            admin,
            web,
            auth,
            limits,
            request,
            timeline,
            memory,
            write,
            placement,
            fleet,
            log,
            warnings,
            keys: reload::Keys::default(),
        })
    }
}

fn check_servers(fleet: Servers) -> Result<Servers, ConfigError> {
    if fleet.shards.is_empty() {
        return fail(
            "no shards are configured: name servers in [servers.NAME] and their databases in \
             [[shards]], or give a folder with --data",
        );
    }
    for (index, shard) in fleet.shards.iter().enumerate() {
        if !fleet.servers.contains_key(&shard.server) {
            let known: Vec<&str> = fleet.servers.keys().map(String::as_str).collect();
            let hint = suggestion(&shard.server, &known);
            return fail(format!(
                "shard `{}` names server `{}`, which is not configured{hint}",
                shard.name, shard.server
            ));
        }
        if fleet.shards[..index].iter().any(|other| other.name == shard.name) {
            return fail(format!("two shards have the name `{}`", shard.name));
        }
        let same =
            |other: &&ShardConfig| other.server == shard.server && other.database == shard.database;
        if let Some(other) = fleet.shards[..index].iter().find(same) {
            return fail(format!(
                "shards `{}` and `{}` are the same database `{}` on server `{}`",
                other.name, shard.name, shard.database, shard.server
            ));
        }
    }
    fleet.tables.check().map_err(ConfigError)?;
    for (name, server) in &fleet.servers {
        server.check().map_err(|error| ConfigError(format!("servers.{name}: {error}")))?;
    }
    Ok(fleet)
}

impl Request {
    /// Upper bound for the duration of one read or write.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

impl PlacementConfig {
    /// The placement over shards with these names, in this order.
    pub fn build(&self, shards: &[&str]) -> Result<Placement, ConfigError> {
        let wrong = |error: PlacementError| ConfigError(format!("placement: {error}"));
        let Some(map) = &self.map else { return Placement::modulo(shards.len()).map_err(wrong) };
        let mut owners = Vec::with_capacity(map.len());
        for name in map {
            match shards.iter().position(|shard| shard == name).and_then(|n| u16::try_from(n).ok())
            {
                Some(index) => owners.push(ShardId(index)),
                None => {
                    let hint = suggestion(name, shards);
                    return fail(format!("placement.map: there is no shard `{name}`{hint}"));
                }
            }
        }
        Placement::from_map(owners, shards.len()).map_err(wrong)
    }
}

impl Auth {
    /// The file of token keys, the issuer and the audience, if user tokens are configured.
    pub fn tokens(&self) -> Option<(&Path, &str, &str)> {
        let file = self.token_keys_file.as_deref()?;
        Some((file, self.issuer.as_deref()?, self.audience.as_deref()?))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let tokens = [
            self.token_keys_file.is_some(),
            self.issuer.as_ref().is_some_and(|issuer| !issuer.is_empty()),
            self.audience.as_ref().is_some_and(|audience| !audience.is_empty()),
        ];
        if tokens != [true; 3] && tokens != [false; 3] {
            return fail(
                "user tokens need all of auth.token_keys_file, auth.issuer and auth.audience",
            );
        }
        if self.token_keys_file.is_some() && self.keys_file.is_none() {
            return fail(
                "user tokens need auth.keys_file too, since it has the revocations; it may be empty",
            );
        }
        Ok(())
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ADMIN_LISTEN_DEFAULT.parse().expect("the constant is an address") }
    }
}

impl Default for Http {
    fn default() -> Self {
        let listen = LISTEN_DEFAULT.parse().expect("the constant is an address");
        Self {
            listen,
            hosts: Vec::new(),
            connections_per_address: CONNECTIONS_PER_ADDRESS_DEFAULT,
            streams_max: STREAMS_DEFAULT,
            tls: None,
            plain_listen: None,
            trusted_proxies: Network::loopback(),
            cors_origins: Vec::new(),
        }
    }
}

impl Http {
    fn check(&self) -> Result<(), ConfigError> {
        if self.connections_per_address == 0 {
            return fail("http.connections_per_address must be at least 1");
        }
        if self.plain_listen.is_some() && self.tls.is_none() {
            return fail("http.plain_listen is for plain HTTP beside [http.tls], which is missing");
        }
        Ok(())
    }

    /// Whether a connection from this address may be that of a proxy, which has many clients.
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }
}

impl Default for WriteKeys {
    fn default() -> Self {
        Self { enabled: None, content_bytes_max: CONTENT_BYTES_DEFAULT }
    }
}

impl ConfigError {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

/// The text of a file of at most [`FILE_BYTES_MAX`]. A path may lead to a device without an end.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

fn embedded_shards() -> u16 {
    EMBEDDED_SHARDS_DEFAULT
}

fn connections() -> usize {
    CONNECTIONS_DEFAULT
}

fn fail<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

#[cfg(test)]
mod tests;
