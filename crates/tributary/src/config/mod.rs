//! Configuration from defaults, a TOML file, the environment and flags; each overrides the ones
//! before. Every default is a documented constant. An unknown key is an error that names the most
//! similar known key.

mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};
use tracing::warn;

use self::source::{
    ENV_PREFIX, bytes, explain, machine_memory, number, optional_number, read_text,
    set_from_environment, suggestion, switch,
};
pub use self::source::{environment, password_variable};
pub use crate::mapping::{
    Condition, FollowsTable, Mark, PostsTable, Tables, UsersTable, conditions_text,
};
use crate::model::ShardId;
pub use crate::moment::{TimeUnit, Zone};
use crate::placement::{Placement, PlacementError, SHARDS_MAX};

/// Default address of the HTTP server: this machine only, since there is no access control.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7878";
/// Default of `request.deadline_ms`. One wave may use half of the time that is left: a silent
/// shard is given up after one second, and later waves have the other second.
pub const DEADLINE_MS_DEFAULT: u64 = 2_000;
/// Default connections to one server. A page needs one for each shard and wave, for about 1 ms.
pub const CONNECTIONS_DEFAULT: usize = 16;
/// Upper bound for the default of `memory.budget`: 4 GiB.
pub const MEMORY_BUDGET_DEFAULT_MAX: usize = 4 << 30;
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
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// Limits of one request.
    pub request: Request,
    /// The memory that timelines are read from.
    pub memory: MemoryConfig,
    /// Whether and how users post and follow.
    pub write: Write,
    /// The rule that decides which shard owns a user.
    pub placement: PlacementConfig,
    /// The databases that hold the rows.
    pub fleet: FleetConfig,
}

/// `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The address to listen on; port 0 lets the system choose a port.
    pub listen: SocketAddr,
    /// Accepted names in `Host` headers besides this machine's own. A reverse proxy on this
    /// machine may pass the name that its client used.
    pub hosts: Vec<String>,
}

/// `[request]`.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Upper bound for the duration of one read or write, in milliseconds; at least 1.
    pub deadline_ms: u64,
}

/// The keys of `[request]`, and of the obsolete `[read]`, which has the same key.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestKeys {
    #[serde(deserialize_with = "optional_number")]
    deadline_ms: Option<u64>,
}

/// `[memory]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Upper bound for the copies in memory, in bytes; 0 turns memory off. If absent, a quarter of
    /// the machine's memory, at most [`MEMORY_BUDGET_DEFAULT_MAX`].
    #[serde(deserialize_with = "bytes")]
    pub budget: Option<usize>,
}

/// `[write]`.
#[derive(Clone, Debug)]
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
pub struct PlacementConfig {
    /// The owning shard of each bucket, by name; `user_id % N` over the shards if absent.
    pub map: Option<Vec<String>>,
}

/// The databases that hold the rows.
#[derive(Clone, Debug)]
pub enum FleetConfig {
    /// SQLite files in one folder.
    Embedded(Embedded),
    /// Databases on MySQL or MariaDB servers.
    Servers(Box<Servers>),
}

/// `[embedded]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// The folder.
    pub dir: PathBuf,
    /// Number of shards of a new folder; an existing folder keeps its number.
    #[serde(default = "embedded_shards", deserialize_with = "number")]
    pub shards: u16,
}

/// `[servers.NAME]` and `[[shards]]`.
#[derive(Clone, Debug)]
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
pub struct ServerConfig {
    /// `host:port`. The host name is resolved for every new connection.
    pub address: String,
    /// The user name of the account.
    pub user: String,
    /// The password; only the environment can set it.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    http: Http,
    #[serde(default)]
    request: RequestKeys,
    /// Obsolete: the old name of `[request]`.
    #[serde(default)]
    read: RequestKeys,
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
        let text = fs::read_to_string(path).map_err(|error| at(&error.to_string()))?;
        let mut table = read_text(&text, at)?;
        set_from_environment(&mut table, environment)?;
        Document::from_table(table)?.check()
    }

    /// Like [`Config::from_file`], from a text.
    pub fn from_text(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = read_text(text, |text| ConfigError(text.to_owned()))?;
        set_from_environment(&mut table, environment)?;
        Document::from_table(table)?.check()
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
        set_from_environment(&mut table, environment.into_iter().filter(|v| !is_server(v)))?;
        table.remove("tables");
        let dir = Value::String(dir.to_string_lossy().into_owned());
        match table.get_mut("embedded") {
            Some(Value::Table(embedded)) => drop(embedded.insert("dir".into(), dir)),
            _ => drop(
                table.insert("embedded".into(), Table::from_iter([("dir".to_owned(), dir)]).into()),
            ),
        }
        Document::from_table(table)?.check()
    }
}

impl Document {
    fn from_table(table: Table) -> Result<Self, ConfigError> {
        let document = Self::deserialize(Value::Table(table));
        document.map_err(|error| ConfigError(explain(error.message())))
    }

    fn check(self) -> Result<Config, ConfigError> {
        let Self { http, memory, write, placement, embedded, servers, shards, tables, .. } = self;
        let request = self.request.check(self.read)?;
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
        Ok(Config { http, request, memory, write, placement, fleet })
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

impl RequestKeys {
    fn check(self, read: Self) -> Result<Request, ConfigError> {
        let (key, deadline_ms) = match (self.deadline_ms, read.deadline_ms) {
            (Some(_), Some(_)) => {
                return fail(
                    "request.deadline_ms and read.deadline_ms are both given; remove \
                     read.deadline_ms, which is the old name of the same limit",
                );
            }
            (None, Some(old)) => {
                warn!(
                    "Configuration key read.deadline_ms is obsolete but still applied; \
                     rename it to request.deadline_ms"
                );
                ("read.deadline_ms", old)
            }
            (new, None) => ("request.deadline_ms", new.unwrap_or(DEADLINE_MS_DEFAULT)),
        };
        if deadline_ms == 0 {
            return fail(format!("{key} must be at least 1"));
        }
        Ok(Request { deadline_ms })
    }
}

impl Request {
    /// Upper bound for the duration of one read or write.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

impl MemoryConfig {
    /// The budget in bytes; the default if none is configured.
    pub fn bytes(&self) -> usize {
        self.budget.unwrap_or_else(|| (machine_memory() / 4).min(MEMORY_BUDGET_DEFAULT_MAX))
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

impl ServerConfig {
    /// The host and the port of the address; `None` if it is not of the form host:port.
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    }

    /// The TLS mode, with its default resolved.
    pub fn tls(&self) -> Tls {
        let local = self.host_and_port().is_some_and(|(host, _)| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        self.tls.unwrap_or(if local { Tls::Disabled } else { Tls::VerifyIdentity })
    }

    /// The password: from the environment, else from the file, else none. Reads the file.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        match (&self.password, &self.password_file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => match fs::read_to_string(path) {
                Ok(text) => Ok(Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))),
                Err(error) => fail(format!("password_file {}: {error}", path.display())),
            },
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.host_and_port().is_none() {
            return fail(format!("address `{}` is not of the form host:port", self.address));
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections_max) {
            return fail(format!("connections_max must be from 1 to {CONNECTIONS_MAX}"));
        }
        self.secret().map(drop)
    }
}

impl Secret {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Default for Http {
    fn default() -> Self {
        let listen = LISTEN_DEFAULT.parse().expect("the constant is an address");
        Self { listen, hosts: Vec::new() }
    }
}

impl Default for WriteKeys {
    fn default() -> Self {
        Self { enabled: None, content_bytes_max: CONTENT_BYTES_DEFAULT }
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
mod tests {
    use super::*;

    const FLEET: &str = r#"
[servers.db1]
address = "127.0.0.1:3306"
user = "reader"

[[shards]]
name = "s0"
server = "db1"
database = "social_0"

[[shards]]
name = "s1"
server = "db1"
database = "social_1"
"#;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let variables = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::from_file(file.path(), variables).map_err(|error| {
            let path = file.path().display().to_string();
            error.to_string().replace(&path, "FILE")
        })
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_defaults() {
        let config = load(FLEET, &[]).unwrap();
        assert_eq!(config.http.listen.to_string(), LISTEN_DEFAULT);
        assert_eq!(config.request.deadline_ms, DEADLINE_MS_DEFAULT);
        let text = format!("[request]\ndeadline_ms = 300\n{FLEET}");
        assert_eq!(load(&text, &[]).unwrap().request.deadline_ms, 300);
        let environment = [
            ("TRIBUTARY_REQUEST__DEADLINE_MS", "400"),
            ("TRIBUTARY_HTTP__LISTEN", "127.0.0.1:1"),
            ("TRIBUTARY_SERVERS__DB1__PASSWORD", "12345"),
            ("TRIBUTARY_CACHE", "not a key"),
        ];
        let config = load(&text, &environment).unwrap();
        assert_eq!(config.request.deadline_ms, 400);
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:1");
        let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
        assert_eq!(fleet.servers["db1"].secret().unwrap().unwrap().reveal(), "12345");
        assert!(!format!("{config:?}").contains("12345"));
    }

    #[test]
    fn mistakes_are_reported_with_their_location_and_a_fix() {
        type Case<'a> = (String, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 13] = [
            (
                format!("[htp]\n{FLEET}"),
                &[],
                "FILE: line 1: unknown key `htp`; did you mean `http`?",
            ),
            (
                format!("[http]\nlistn = 1\n{FLEET}"),
                &[],
                "line 2: unknown key `listn`; did you mean `listen`?",
            ),
            (
                FLEET.into(),
                &[("TRIBUTARY_REQUEST__DEADLINE", "1")],
                "unknown key `deadline`; did you mean `deadline_ms`?",
            ),
            (FLEET.into(), &[("TRIBUTARY_REQUEST__DEADLINE_MS", "soon")], "not a whole number"),
            (format!("[request]\ndeadline_ms = 0\n{FLEET}"), &[], "at least 1"),
            (
                FLEET.into(),
                &[("TRIBUTARY_SERVERS__DB2__PASSWORD", "p")],
                "no server has the name `db2`; did you mean `db1`?",
            ),
            (
                FLEET.replace("user =", "password = \"x\"\nuser ="),
                &[],
                "TRIBUTARY_SERVERS__DB1__PASSWORD",
            ),
            (FLEET.replace("server = \"db1\"", "server = \"db2\""), &[], "did you mean `db1`?"),
            (FLEET.replace("s1", "s0"), &[], "two shards have the name `s0`"),
            (FLEET.replace("social_1", "social_0"), &[], "are the same database `social_0`"),
            (FLEET.replace(":3306", ""), &[], "not of the form host:port"),
            (String::new(), &[], "no shards are configured"),
            (
                format!("{FLEET}[tables.posts]\nvisible = {{ column = \"a\", value = \"now\" }}"),
                &[],
                "no row would ever be visible",
            ),
        ];
        for (text, environment, expected) in cases {
            let error = load(&text, environment).unwrap_err();
            assert!(error.contains(expected), "{error}\n  does not contain\n{expected}");
        }
    }

    #[test]
    fn the_old_deadline_key_is_read_with_one_warning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = std::sync::Arc::new(file.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log).finish();
        let text = format!("[read]\ndeadline_ms = 300\n{FLEET}");
        let config = tracing::subscriber::with_default(subscriber, || load(&text, &[])).unwrap();
        assert_eq!(config.request.deadline_ms, 300);
        let logged = fs::read_to_string(file.path()).unwrap();
        assert!(logged.contains("WARN") && logged.contains("rename it to request.deadline_ms"));
        assert_eq!(logged.lines().count(), 1, "{logged}");
        let old = [("TRIBUTARY_READ__DEADLINE_MS", "400")];
        assert_eq!(load(FLEET, &old).unwrap().request.deadline_ms, 400);
    }

    #[test]
    fn both_names_of_the_deadline_key_are_an_error_that_names_both() {
        let both = format!("[read]\ndeadline_ms = 300\n[request]\ndeadline_ms = 300\n{FLEET}");
        let new = format!("[request]\ndeadline_ms = 300\n{FLEET}");
        let old = [("TRIBUTARY_READ__DEADLINE_MS", "300")];
        for error in [load(&both, &[]).unwrap_err(), load(&new, &old).unwrap_err()] {
            assert!(error.contains("request.deadline_ms and read.deadline_ms"), "{error}");
        }
        let zero = load(&format!("[read]\ndeadline_ms = 0\n{FLEET}"), &[]).unwrap_err();
        assert_eq!(zero, "read.deadline_ms must be at least 1");
    }

    #[test]
    fn obsolete_sections_are_not_suggested() {
        let error = load(&format!("[reads]\n{FLEET}"), &[]).unwrap_err();
        let (_, known) = error.split_once("known here: ").unwrap();
        assert!(known.contains("request") && !known.contains("read,"), "{error}");
    }

    #[test]
    fn a_variable_finds_a_server_with_capital_letters_and_hyphens() {
        let variable = [("TRIBUTARY_SERVERS__DB_1__PASSWORD", "p")];
        let config = load(&FLEET.replace("db1", "Db-1"), &variable).unwrap();
        let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
        assert!(fleet.servers["Db-1"].secret().unwrap().is_some());
    }

    #[test]
    fn a_folder_needs_no_file() {
        let variables = [("TRIBUTARY_EMBEDDED__SHARDS".to_owned(), "2".to_owned())];
        let config = Config::from_folder(Path::new("here"), variables).unwrap();
        let FleetConfig::Embedded(embedded) = config.fleet else { panic!("a folder was named") };
        assert_eq!((embedded.dir.as_path(), embedded.shards), (Path::new("here"), 2));
    }

    #[test]
    fn servers_are_written_only_if_enabled() {
        let write = |text: &str, environment: &[(&str, &str)]| {
            load(&format!("{text}\n{FLEET}"), environment).map(|config| config.write)
        };
        assert!(!write("", &[]).unwrap().enabled);
        assert!(write("[write]\nenabled = true", &[]).unwrap().enabled);
        assert!(write("", &[("TRIBUTARY_WRITE__ENABLED", "true")]).unwrap().enabled);
        assert_eq!(write("", &[]).unwrap().content_bytes_max, CONTENT_BYTES_DEFAULT);
        assert!(write("[write]\nenabled = 1", &[]).unwrap_err().contains("neither true nor"));
        let error = write("[write]\ncontent_bytes_max = 2000000", &[]).unwrap_err();
        assert!(error.contains("from 1 to 1048576"), "{error}");
        assert!(Config::from_folder(Path::new("here"), []).unwrap().write.enabled);
    }

    #[test]
    fn tls_is_on_unless_the_server_is_this_machine() {
        let tls = |address: &str| {
            let text = FLEET.replace("127.0.0.1:3306", address);
            let FleetConfig::Servers(fleet) = load(&text, &[]).unwrap().fleet else { panic!() };
            fleet.servers["db1"].tls()
        };
        for local in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
            assert_eq!(tls(local), Tls::Disabled);
        }
        for remote in ["10.0.0.1:1", "db.example.org:3306"] {
            assert_eq!(tls(remote), Tls::VerifyIdentity);
        }
    }

    #[test]
    fn a_placement_map_names_shards() {
        let config = load(&format!("[placement]\nmap = [\"s1\", \"s0\"]\n{FLEET}"), &[]).unwrap();
        let placement = config.placement.build(&["s0", "s1"]).unwrap();
        assert_eq!(placement.shard_of(crate::model::UserId(0)), ShardId(1));
        let wrong = PlacementConfig { map: Some(vec!["s2".into()]) };
        assert!(
            wrong.build(&["s0", "s1"]).unwrap_err().0.contains("no shard `s2`; did you mean `s0`?")
        );
    }
}
