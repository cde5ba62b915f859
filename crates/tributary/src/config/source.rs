//! Reads keys from a TOML text and from environment variables, and reports mistakes in them.

use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::defaults::SECTION;
use super::show::MASKED;
use super::{ConfigError, Document, fail};

/// Prefix of the environment variables that set a key: `TRIBUTARY_HTTP__LISTEN`.
pub(super) const ENV_PREFIX: &str = "TRIBUTARY_";
/// The starts of other variables with this prefix: those of the log, of `./dev` and of tests.
const OTHER_VARIABLES: [&str; 11] = [
    "LOG", "CACHE", "CHROMIUM", "FUZZ_", "KEEP", "MARIADB", "MYSQLD", "SEED", "SIZE", "SKIPS",
    "TEST_",
];
/// Separates the parts of a key in a variable's name.
const ENV_SEPARATOR: &str = "__";

/// The environment variables of this process that are valid UTF-8; others cannot set a key.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Parses a TOML document; `at` adds its file name to an error.
pub(super) fn read_text(
    text: &str,
    at: impl Fn(&str) -> ConfigError,
) -> Result<Table, ConfigError> {
    // The message and the line number only: the line itself may contain a password.
    let located = |error: &toml::de::Error| {
        let line = error.span().map(|span| format!("line {}: ", line_of(text, span.start)));
        let line = line.unwrap_or_default();
        at(&format!("{line}{}", explain(error.message())))
    };
    let table: Table = toml::from_str(text).map_err(|error| located(&error))?;
    let servers = table.get("servers").and_then(Value::as_table);
    for (name, server) in servers.into_iter().flatten() {
        if server.get("password").is_some() {
            return Err(at(&misplaced(&format!("servers.{name}"), &password_variable(name))));
        }
    }
    if table.get(SECTION).and_then(|defaults| defaults.get("password")).is_some() {
        return Err(at(&misplaced(SECTION, "TRIBUTARY_SERVER_DEFAULTS__PASSWORD")));
    }
    // Checked here as well as after the environment, because only this error has a line number.
    toml::from_str::<Document>(text).map_err(|error| match document(table.clone()) {
        Err(Mistake { key, value: Some(value), message }) => {
            let line = error.span().map_or(0, |span| line_of(text, span.start));
            at(&format!("line {line}: {key} = {value}: {message}"))
        }
        _ => located(&error),
    })?;
    Ok(table)
}

fn line_of(text: &str, byte: usize) -> usize {
    text[..byte].matches('\n').count() + 1
}

fn misplaced(section: &str, variable: &str) -> String {
    format!(
        "{section}: passwords are not allowed in this file; put the password into another file \
         and name it in password_file, or set {variable}"
    )
}

/// The environment variable that holds the password of a server.
pub fn password_variable(server: &str) -> String {
    format!("{ENV_PREFIX}SERVERS__{}__PASSWORD", server.to_uppercase())
}

/// Sets the keys that environment variables name. Returns warnings about variables that have our
/// prefix and set nothing.
pub(super) fn set_from_environment(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<String>, ConfigError> {
    let mut warnings = Vec::new();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(ENV_PREFIX) else { continue };
        if key.contains(ENV_SEPARATOR) {
            set_from_variable(table, &name, key, text)?;
        } else if !OTHER_VARIABLES.iter().any(|known| key.starts_with(known)) {
            warnings.push(format!(
                "Environment variable {name} sets nothing; two underscores separate a section \
                 from a key, as in TRIBUTARY_HTTP__LISTEN"
            ));
        }
    }
    Ok(warnings)
}

/// Sets the key that one variable names.
fn set_from_variable(
    table: &mut Table,
    name: &str,
    key: &str,
    text: String,
) -> Result<(), ConfigError> {
    let path: Vec<String> = key.split(ENV_SEPARATOR).map(str::to_lowercase).collect();
    let Some((last, sections)) = path.split_last() else { return Ok(()) };
    let mut table = table;
    let mut parent = String::new();
    for section in sections {
        // Server names may have capital letters and hyphens, which variable names do not have.
        let same = |key: &&String| key.replace('-', "_").eq_ignore_ascii_case(section);
        let known = table.keys().find(same).cloned();
        if known.is_none() && parent == "servers" {
            let names: Vec<&str> = table.keys().map(String::as_str).collect();
            let hint = suggestion(section, &names);
            return fail(format!("{name}: no server has the name `{section}`{hint}"));
        }
        parent.clone_from(section);
        let entry = table.entry(known.unwrap_or_else(|| section.clone()));
        let entry = entry.or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else {
            return fail(format!("{name}: `{section}` is not a section that a variable can set"));
        };
        table = inner;
    }
    table.insert(last.clone(), Value::String(text));
    Ok(())
}

/// A key that is unknown, or whose value cannot be used.
pub(super) struct Mistake {
    /// The key, such as `admin.listen`.
    key: String,
    /// The value, if it is wrong and a single one.
    value: Option<String>,
    message: String,
}

/// The keys of a file, or of a file and the environment.
pub(super) fn document(table: Table) -> Result<Document, Mistake> {
    let all = Value::Table(table);
    serde_path_to_error::deserialize(all.clone()).map_err(|error| {
        let (path, message) = (error.path(), explain(error.inner().message()));
        let value = path.iter().try_fold(&all, |value, segment| match segment {
            Segment::Seq { index } => value.get(*index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let is_single = |value: &&Value| !value.is_table() && !value.is_array();
        let value = value.filter(|_| !message.starts_with("unknown key")).filter(is_single);
        let key = path.to_string();
        let shown = |value: &Value| match key.ends_with(".password") {
            true => MASKED.to_owned(),
            false => value.to_string(),
        };
        let value = value.map(shown);
        Mistake { key, value, message }
    })
}

impl Mistake {
    /// The error if the file alone is valid, so that a variable must have set the value.
    pub(super) fn of_environment(self) -> ConfigError {
        let Self { key, value, message } = self;
        let name = key.replace('.', ENV_SEPARATOR).replace('-', "_").to_uppercase();
        let variable = format!("{ENV_PREFIX}{name}");
        ConfigError(match value {
            Some(value) => {
                format!("{variable}: {key} = {value}: {message}; correct the variable or remove it")
            }
            None if name == ENV_SEPARATOR => message,
            None => format!("{variable}: {message}"),
        })
    }
}

/// Sections that are still read but not offered as known keys.
const OBSOLETE_SECTIONS: [&str; 1] = ["read"];

/// Rewrites serde's "unknown field `x`, expected one of `y`, `z`" with the most similar known key.
pub(super) fn explain(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match names.next() {
        Some(unknown) if message.starts_with("unknown field") => {
            let known: Vec<&str> = names.filter(|name| !OBSOLETE_SECTIONS.contains(name)).collect();
            let hint = suggestion(unknown, &known);
            let list = known.join(", ");
            format!("unknown key `{unknown}`{hint} (known here: {list})")
        }
        _ => message.trim().to_owned(),
    }
}

pub(super) fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(unknown, name));
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// An integer, also as text, since environment variables are text.
pub(super) fn number<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr + TryFrom<i64>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(i64),
        Text(String),
    }
    let wrong = || D::Error::custom("not a whole number in range");
    match NumberOrText::deserialize(deserializer).map_err(|_| wrong())? {
        NumberOrText::Number(number) => T::try_from(number).map_err(|_| wrong()),
        NumberOrText::Text(text) => text.parse().map_err(|_| wrong()),
    }
}

/// A number as [`number`] reads it, for a key whose absence must be known.
pub(super) fn optional_number<'de, D: Deserializer<'de>, T>(
    deserializer: D,
) -> Result<Option<T>, D::Error>
where
    T: FromStr + TryFrom<i64>,
{
    number(deserializer).map(Some)
}

/// True or false, also as text.
pub(super) fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum SwitchOrText {
        Switch(bool),
        Text(String),
    }
    let wrong = || D::Error::custom("neither true nor false");
    match SwitchOrText::deserialize(deserializer).map_err(|_| wrong())? {
        SwitchOrText::Switch(on) => Ok(Some(on)),
        SwitchOrText::Text(text) => text.parse().map(Some).map_err(|_| wrong()),
    }
}

/// True or false as [`switch`] reads it, for a key that has a default.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    switch(deserializer).map(Option::unwrap_or_default)
}

/// A number of bytes, also as text with a unit: `512MiB`.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(i64),
        Text(String),
    }
    let wrong = || D::Error::custom("not a number of bytes such as 536870912, 512MiB or 2GiB");
    let text = match NumberOrText::deserialize(deserializer).map_err(|_| wrong())? {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text,
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Some).ok_or_else(wrong)
}
