//! Configurations in code, for programs that use the library without a configuration file.

use std::path::{Path, PathBuf};

use super::{
    CONNECTIONS_DEFAULT, Config, ConfigError, Document, EMBEDDED_SHARDS_DEFAULT, Embedded,
    FleetConfig, HttpTls, Secret, ServerConfig, Servers, ShardConfig, Tables, Tls,
};

/// Name of the file that holds the keys for cursors and freshness tokens.
const CURSOR_KEYS_FILE: &str = "cursor-keys";

impl Config {
    /// A folder of SQLite shards, with the defaults of all other settings. The folder is created if
    /// it does not exist. Ignores the environment.
    pub fn embedded(dir: &Path) -> Self {
        let embedded = Embedded { dir: dir.to_path_buf(), shards: EMBEDDED_SHARDS_DEFAULT };
        let document = Document { embedded: Some(embedded), ..Document::default() };
        document.check(Vec::new()).expect("the defaults are valid")
    }

    /// Databases on servers, with the defaults of all other settings. Ignores the environment.
    ///
    /// # Errors
    /// No shard, a shard on a server that is not named, two shards with one name or one database,
    /// an invalid address.
    pub fn servers(fleet: Servers) -> Result<Self, ConfigError> {
        let Servers { servers, shards, tables } = fleet;
        let document = Document { servers, shards, tables: Some(tables), ..Document::default() };
        document.check(Vec::new())
    }

    /// Where the keys for cursors and freshness tokens are by default: beside the service keys,
    /// else in the folder of shards. `None` if there is neither.
    pub fn default_cursor_keys_file(&self) -> Option<PathBuf> {
        match (&self.auth.keys_file, &self.fleet) {
            (Some(keys), _) => Some(keys.with_file_name(CURSOR_KEYS_FILE)),
            (None, FleetConfig::Embedded(embedded)) => Some(embedded.dir.join(CURSOR_KEYS_FILE)),
            (None, FleetConfig::Servers(_)) => None,
        }
    }
}

impl Servers {
    /// Servers by name, and the shards on them in placement order, with the default tables.
    pub fn new(
        servers: impl IntoIterator<Item = (String, ServerConfig)>,
        shards: Vec<ShardConfig>,
    ) -> Self {
        Self { servers: servers.into_iter().collect(), shards, tables: Tables::default() }
    }

    /// Sets the names and contents of the tables, which are the same on all shards.
    #[must_use]
    pub fn tables(self, tables: Tables) -> Self {
        Self { tables, ..self }
    }
}

impl ServerConfig {
    /// A server at `host:port`, and the user name of the account. No password;
    /// `verify-identity` TLS, or none if the host is this machine; 16 connections.
    pub fn new(address: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            user: user.into(),
            password: None,
            password_file: None,
            password_command: None,
            tls: None,
            tls_ca_file: None,
            connections_max: CONNECTIONS_DEFAULT,
        }
    }

    /// Sets the password.
    #[must_use]
    pub fn password(self, password: impl Into<String>) -> Self {
        Self { password: Some(Secret(password.into())), ..self }
    }

    /// Sets the file that holds the password.
    #[must_use]
    pub fn password_file(self, file: impl Into<PathBuf>) -> Self {
        Self { password_file: Some(file.into()), ..self }
    }

    /// Sets the program, and its arguments, that prints the password.
    #[must_use]
    pub fn password_command(self, command: impl IntoIterator<Item = String>) -> Self {
        Self { password_command: Some(command.into_iter().collect()), ..self }
    }

    /// Sets the TLS mode.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Sets the PEM file of certificate authorities to trust instead of the public ones.
    #[must_use]
    pub fn tls_ca_file(self, file: impl Into<PathBuf>) -> Self {
        Self { tls_ca_file: Some(file.into()), ..self }
    }

    /// Sets the upper bound for the connections of the pool.
    #[must_use]
    pub fn connections_max(self, connections: usize) -> Self {
        Self { connections_max: connections, ..self }
    }
}

impl HttpTls {
    /// A certificate and its private key.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into() }
    }
}

impl ShardConfig {
    /// A shard with a name of its own: a database on a server.
    pub fn new(
        name: impl Into<String>,
        server: impl Into<String>,
        database: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), server: server.into(), database: database.into() }
    }
}
