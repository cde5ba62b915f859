//! Every setting with its value and its origin, for `tributary config show`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::source::{read_text, set_from_environment};
use super::{
    Config, ConfigError, Document, FleetConfig, Limits, ServerConfig, Servers, Tls, defaults,
    read_bounded,
};

/// The text in place of a password.
pub(super) const MASKED: &str = "\"********\"";

/// A setting as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key, such as `http.listen`.
    pub key: String,
    /// The value in TOML. A password is masked.
    pub value: String,
    /// The file, the variable or the section that sets the value, or `default`.
    pub origin: String,
}

/// The settings of a configuration file, by key. `environment` overrides the file.
///
/// # Errors
/// As [`Config::from_file`].
pub fn settings(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Setting>, ConfigError> {
    let at = |text: &str| ConfigError(format!("{}: {text}", path.display()));
    let text = read_bounded(path).map_err(|error| at(&error.to_string()))?;
    let mut table = read_text(&text, at)?;
    let mut origins = Origins::default();
    origins.note(&table, &path.display().to_string());
    for (name, text) in environment {
        set_from_environment(&mut table, [(name.clone(), text)])?;
        origins.note(&table, &name);
    }
    defaults::apply(&mut table);
    origins.note(&table, defaults::SECTION);
    let config = Document::from_table(table)?.check(Vec::new())?;
    let mut settings: BTreeMap<String, String> = effective(&config).into_iter().collect();
    for (key, (value, _)) in &origins.0 {
        settings.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let setting = |(key, value): (String, String)| {
        let origin = origins.0.get(&key).map_or("default", |(_, origin)| origin);
        let is_secret = key.ends_with(".password");
        let value = if is_secret { MASKED.to_owned() } else { value };
        Setting { origin: origin.to_owned(), key, value }
    };
    Ok(settings.into_iter().map(setting).collect())
}

/// The value of each key that is set, and what has set it last.
#[derive(Default)]
struct Origins(BTreeMap<String, (String, String)>);

impl Origins {
    /// Records the origin of all keys that have another value than before.
    fn note(&mut self, table: &Table, origin: &str) {
        let mut leaves = Vec::new();
        flatten("", &Value::Table(table.clone()), &mut leaves);
        for (key, value) in leaves {
            if self.0.get(&key).is_none_or(|(known, _)| *known != value) {
                self.0.insert(key, (value, origin.to_owned()));
            }
        }
    }
}

/// The keys below `value` with their values.
pub(super) fn flatten(key: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let dot = if key.is_empty() { "" } else { "." };
                flatten(&format!("{key}{dot}{name}"), value, leaves);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{key}[{index}]"), item, leaves);
            }
        }
        value => leaves.push((key.to_owned(), value.to_string())),
    }
}

fn text(value: impl ToString) -> String {
    Value::String(value.to_string()).to_string()
}

fn list<T: ToString>(values: &[T]) -> String {
    let values: Vec<Value> = values.iter().map(|value| Value::String(value.to_string())).collect();
    Value::Array(values).to_string()
}

/// The settings that have a value even if nothing sets them.
pub(super) fn effective(config: &Config) -> Vec<(String, String)> {
    let mut all = vec![
        ("http.listen", text(config.http.listen)),
        ("http.hosts", list(&config.http.hosts)),
        ("http.connections_per_address", config.http.connections_per_address.to_string()),
        ("http.streams_max", config.http.streams_max.to_string()),
        ("http.trusted_proxies", list(&config.http.trusted_proxies)),
        ("http.cors_origins", list(&config.http.cors_origins)),
        ("admin.listen", text(config.admin.listen)),
        ("web.enabled", config.web.enabled.to_string()),
        ("request.deadline_ms", config.request.deadline_ms.to_string()),
        ("timeline.future", text(config.timeline.future.as_str())),
        ("memory.budget", config.memory.bytes().to_string()),
        ("memory.news", config.memory.news_bytes().to_string()),
        ("write.enabled", config.write.enabled.to_string()),
        ("write.content_bytes_max", config.write.content_bytes_max.to_string()),
        ("log.level", text(config.log.level.as_str())),
        ("log.format", text(config.log.format.as_str())),
    ];
    match &config.fleet {
        FleetConfig::Embedded(embedded) => {
            all.push(("embedded.dir", text(embedded.dir.display())));
            all.push(("embedded.shards", embedded.shards.to_string()));
        }
        FleetConfig::Servers(servers) => all.extend(of_tables(servers)),
    }
    let mut all: Vec<(String, String)> =
        all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    all.extend(of_limits(&config.limits));
    if let FleetConfig::Servers(servers) = &config.fleet {
        all.extend(servers.servers.iter().flat_map(|(name, server)| of_server(name, server)));
    }
    all
}

fn of_limits(limits: &Limits) -> impl Iterator<Item = (String, String)> {
    let clients = [("keys", limits.keys), ("users", limits.users), ("addresses", limits.addresses)];
    clients.into_iter().flat_map(|(name, limit)| {
        [
            (format!("limits.{name}.per_second"), limit.per_second.to_string()),
            (format!("limits.{name}.burst"), limit.burst.to_string()),
            (format!("limits.{name}.in_flight"), limit.in_flight.to_string()),
        ]
    })
}

fn of_tables(servers: &Servers) -> Vec<(&'static str, String)> {
    let (follows, posts) = (&servers.tables.follows, &servers.tables.posts);
    vec![
        ("tables.follows.name", text(&follows.name)),
        ("tables.follows.follower", text(&follows.follower)),
        ("tables.follows.followed", text(&follows.followed)),
        ("tables.posts.name", text(&posts.name)),
        ("tables.posts.id", text(&posts.id)),
        ("tables.posts.author", text(&posts.author)),
        ("tables.posts.content", text(&posts.content)),
        ("tables.posts.time", text(&posts.time)),
        ("tables.posts.unit", text(posts.unit)),
        ("tables.posts.zone", text(&posts.zone)),
    ]
}

fn of_server(name: &str, server: &ServerConfig) -> Vec<(String, String)> {
    let tls = match server.effective_tls() {
        Tls::Disabled => "disabled",
        Tls::Required => "required",
        Tls::VerifyIdentity => "verify-identity",
    };
    let mut all = vec![
        (format!("servers.{name}.tls"), text(tls)),
        (format!("servers.{name}.connections_max"), server.connections_max.to_string()),
    ];
    if server.password.is_some() {
        all.push((format!("servers.{name}.password"), MASKED.to_owned()));
    }
    all
}
