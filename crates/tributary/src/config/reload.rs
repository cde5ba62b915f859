//! The difference between the configuration in effect and one that was read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

use super::{Config, FleetConfig, Log, defaults, show};

/// The section of which every key can change in a running process.
const LIMITS: &str = "limits.";
/// Its form cannot change: requests in progress have fields in the earlier form.
const LOG_LEVEL: &str = "log.level";
/// Keys of a server that can change in a running process.
const SERVER_KEYS: [&str; 4] = ["password", "password_file", "password_command", "tls_ca_file"];

/// The value of each key, as TOML.
#[derive(Clone, Default)]
pub(super) struct Keys(BTreeMap<String, String>);

/// A configuration that was read again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reload {
    /// The configuration in effect after the reload: keys that need a restart have their earlier
    /// values.
    pub config: Config,
    /// Keys with a new value that takes effect.
    pub changed: Vec<String>,
    /// Keys with a new value that takes effect after a restart only.
    pub needs_restart: Vec<String>,
}

impl fmt::Debug for Keys {
    /// Values can be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Keys {
    pub(super) fn of(table: &Table) -> Self {
        let mut leaves = Vec::new();
        show::flatten("", &Value::Table(table.clone()), &mut leaves);
        // The servers have copies of the defaults.
        leaves.retain(|(key, _)| !key.starts_with(defaults::SECTION));
        Self(leaves.into_iter().collect())
    }

    /// Adds the keys that nothing sets.
    pub(super) fn with_defaults(mut self, config: &Config) -> Self {
        for (key, value) in show::effective(config) {
            // A password is compared as it is.
            if value != show::MASKED {
                self.0.insert(key, value);
            }
        }
        self
    }
}

impl Config {
    /// The changes if `next` replaces this configuration in a running process.
    pub fn reload(&self, next: Self) -> Reload {
        let (old, new) = (&self.keys.0, &next.keys.0);
        let differ = |key: &&String| old.get(*key) != new.get(*key);
        let all: BTreeSet<&String> = old.keys().chain(new.keys()).filter(differ).collect();
        let (changed, needs_restart): (Vec<String>, Vec<String>) =
            all.into_iter().cloned().partition(|key| is_reloadable(key));
        let log = Log { level: next.log.level, ..self.log };
        let mut config = Self { limits: next.limits, log, ..self.clone() };
        if let (FleetConfig::Servers(running), FleetConfig::Servers(next)) =
            (&mut config.fleet, &next.fleet)
        {
            for (name, server) in &mut running.servers {
                let Some(next) = next.servers.get(name) else { continue };
                server.password.clone_from(&next.password);
                server.password_file.clone_from(&next.password_file);
                server.password_command.clone_from(&next.password_command);
                server.tls_ca_file.clone_from(&next.tls_ca_file);
            }
        }
        for key in &changed {
            match new.get(key) {
                Some(value) => config.keys.0.insert(key.clone(), value.clone()),
                None => config.keys.0.remove(key),
            };
        }
        Reload { config, changed, needs_restart }
    }
}

/// Whether the key can change in a running process.
fn is_reloadable(key: &str) -> bool {
    if key == LOG_LEVEL || key.starts_with(LIMITS) {
        return true;
    }
    let server = key.strip_prefix("servers.").and_then(|rest| rest.rsplit_once('.'));
    server.is_some_and(|(_, key)| SERVER_KEYS.contains(&key))
}
