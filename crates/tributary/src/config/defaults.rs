//! `[server_defaults]`: settings that servers have in common, so that a fleet of many servers does
//! not repeat them.

use std::path::PathBuf;

use serde::Deserialize;
use toml::{Table, Value};

use super::source::optional_number;
use super::{Secret, Tls};

/// The name of the section.
pub(super) const SECTION: &str = "server_defaults";
/// The ways to give a password. A server that uses one of them has none from the defaults.
const PASSWORDS: [&str; 3] = ["password", "password_file", "password_command"];

/// The keys of the section, for their names and types.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServerDefaults {
    user: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    password_command: Option<Vec<String>>,
    tls: Option<Tls>,
    tls_ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "optional_number")]
    connections_max: Option<usize>,
}

/// Copies the common settings to each server that does not set them itself.
pub(super) fn apply(table: &mut Table) {
    let Some(Value::Table(defaults)) = table.get(SECTION).cloned() else { return };
    let servers = table.get_mut("servers").and_then(Value::as_table_mut);
    for server in servers.into_iter().flat_map(|servers| servers.iter_mut()) {
        let Value::Table(server) = server.1 else { continue };
        let has_password = PASSWORDS.iter().any(|key| server.contains_key(*key));
        for (key, value) in &defaults {
            if !(has_password && PASSWORDS.contains(&key.as_str())) {
                server.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}
