//! `tributary keys`: makes, lists, rotates and revokes credentials in the file of service keys.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use tributary::config::environment;
use tributary::internal::now_ms;
use tributary::{Config, UserId};
use tributary_server::{KeyFile, Scope, ServiceKey, TOKEN_LIFE_MAX_S};

use crate::{Outcome, say};

/// The default file of service keys.
const KEYS_FILE: &str = "keys.toml";
/// Longest life of a key or secret that a command sets: 100 years.
const LIFE_MAX_S: i64 = 100 * 366 * 24 * 60 * 60;

#[derive(Args, Debug)]
pub(crate) struct Keys {
    #[command(flatten)]
    file: KeysFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct KeysFile {
    /// File of service keys [default: that of the configuration, else keys.toml]
    #[arg(long, value_name = "FILE", global = true)]
    keys_file: Option<PathBuf>,
    /// Configuration file (TOML) that names the file in auth.keys_file
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "keys_file")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print its credential, which is shown only once
    Create(Create),
    /// List the keys: ids, names, scopes, secrets; and what else is revoked
    List,
    /// Add a second secret to a key and print the new credential; the first one still works
    Rotate(Rotate),
    /// Revoke a key, one secret of it, a key of user tokens, or the tokens of a user
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Create {
    /// The purpose of the key, for example the name of a service
    #[arg(long)]
    name: String,
    /// A scope of the key: timelines:read, act-as-user, explain or admin; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// When the key ends, for example 90d or 12h [default: never]
    #[arg(long, value_name = "TIME", value_parser = life)]
    expires: Option<i64>,
}

#[derive(Args, Debug)]
struct Rotate {
    /// Id of the key
    key: String,
    /// When the older secret ends, for example 7d [default: when it is revoked]
    #[arg(long, value_name = "TIME", value_parser = life)]
    old_expires: Option<i64>,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true)))]
struct Revoke {
    /// Id of a key
    #[arg(group = "what")]
    key: Option<String>,
    /// Only this secret of the key
    #[arg(long, value_name = "NUMBER", requires = "key")]
    secret: Option<u32>,
    /// A key that signs user tokens, by its kid
    #[arg(long, group = "what")]
    kid: Option<String>,
    /// A user: all tokens that were issued until now
    #[arg(long, group = "what")]
    user: Option<UserId>,
}

impl Keys {
    pub(crate) fn run(self) -> Result<Outcome> {
        let path = self.file.path()?;
        let now = now_ms() / 1_000;
        match self.command {
            Command::Create(Create { name, scopes, expires }) => {
                let expires = expires.map(|life| now + life);
                let credential =
                    KeyFile::edit(&path, |keys| keys.create(&name, &scopes, expires, now))?;
                print_credential(&credential, &path);
            }
            Command::List => say(listed(&KeyFile::read(&path)?, now)),
            Command::Rotate(Rotate { key, old_expires }) => {
                let old_expires = old_expires.map(|life| now + life);
                let credential = KeyFile::edit(&path, |keys| keys.rotate(&key, old_expires, now))?;
                print_credential(&credential, &path);
            }
            Command::Revoke(revoke) => {
                let what = KeyFile::edit(&path, |keys| revoke.apply(keys, now))?;
                note(format_args!(
                    "{what} is revoked in {}; every server that reads this file refuses it within \
                     5 seconds",
                    path.display()
                ));
            }
        }
        Ok(Outcome::Done)
    }
}

impl Revoke {
    /// Revokes what the arguments name, and returns its description.
    fn apply(&self, keys: &mut KeyFile, now: i64) -> Result<String, tributary_server::KeysError> {
        if let Some(kid) = &self.kid {
            keys.revoke_kid(kid);
            return Ok(format!("Token key {kid}"));
        }
        if let Some(user) = self.user {
            keys.revoke_user(user, now, now - TOKEN_LIFE_MAX_S);
            return Ok(format!("Every token of user {user} until now"));
        }
        let key = self.key.as_deref().unwrap_or_default();
        keys.revoke(key, self.secret)?;
        Ok(match self.secret {
            Some(secret) => format!("Secret {secret} of key {key}"),
            None => format!("Key {key}"),
        })
    }
}

impl KeysFile {
    /// The file of the flag, of the configuration, or of the environment.
    fn path(self) -> Result<PathBuf> {
        let config = match (&self.keys_file, &self.config) {
            (Some(file), _) => return Ok(file.clone()),
            (None, Some(file)) => Config::from_file(file, environment())?,
            (None, None) => Config::from_folder(Path::new("."), environment())?,
        };
        match (config.auth.keys_file, self.config) {
            (Some(file), _) => Ok(file),
            (None, Some(config)) => {
                anyhow::bail!("{} does not set auth.keys_file", config.display())
            }
            (None, None) => Ok(KEYS_FILE.into()),
        }
    }
}

/// Prints the credential alone to standard output, so that a script can store it.
fn print_credential(credential: &str, path: &Path) {
    say(credential);
    note(format_args!(
        "Store this credential now: {} has only its hash. Clients send it as\n  \
         Authorization: Bearer CREDENTIAL",
        path.display()
    ));
}

/// Prints a line for the operator to standard error.
fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The keys as text, one line for each key and each secret.
fn listed(file: &KeyFile, now: i64) -> String {
    let mut lines = Vec::new();
    for (id, ServiceKey { name, scopes, created, expires, secrets, .. }) in file.keys() {
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
        lines.push(format!(
            "{id}  {name:?}  {}  {}",
            scopes.join(","),
            span(*created, *expires, now)
        ));
        for secret in secrets {
            let ends = secret.expires.or(*expires);
            lines.push(format!("  secret {}  {}", secret.id, span(secret.created, ends, now)));
        }
    }
    lines.extend(file.revoked_kids().map(|kid| format!("revoked token key  {kid:?}")));
    let users = file.revoked_users();
    lines.extend(users.map(|(user, from)| {
        format!("revoked tokens of user {user}, issued before {}", time(from))
    }));
    if lines.is_empty() {
        lines.push("There are no keys. Make one with `tributary keys create`.".to_owned());
    }
    lines.join("\n")
}

/// When something was made and when it ends.
fn span(created: i64, expires: Option<i64>, now: i64) -> String {
    let ends = match expires {
        None => "no end".to_owned(),
        Some(end) if end <= now => format!("EXPIRED {}", time(end)),
        Some(end) => format!("ends {}", time(end)),
    };
    format!("made {}  {ends}", time(created))
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// A duration such as 90d or 12h, in seconds.
fn life(text: &str) -> Result<i64> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let seconds = match days {
        Some(days) => days.checked_mul(24 * 60 * 60),
        None => text.parse::<SignedDuration>().ok().map(|life| life.as_secs()),
    };
    seconds
        .filter(|seconds| (1..=LIFE_MAX_S).contains(seconds))
        .context("a duration such as 90d, 12h or 30m, at most 100 years")
}
