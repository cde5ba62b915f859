//! The file of service keys, `keys.toml`: keys with their scopes and hashed secrets, and what is
//! revoked. The commands `tributary keys` edit it, and every node reads it again when it changes.
//!
//! A key has a public id and one or two secrets of 256 random bits. The file has only the SHA-256
//! of a secret: a random secret of this length cannot be found by trying.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use toml::Value;
use toml::value::{Datetime, Table};
use tributary::UserId;

use super::policy::Scope;
use crate::files;

/// Largest file of keys in bytes: about 2,000 keys, or 20,000 users whose tokens are revoked.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The start of every credential of a service key, so that scanners for secrets find it.
const PREFIX: &str = "trib_";
/// Digits of the id of a key.
const ID_DIGITS: usize = 12;
/// Characters of a secret: 32 bytes of base64.
const SECRET_CHARACTERS: usize = 43;
/// Secrets of a key that work at the same time: a new one, and the one that it replaces.
const SECRETS_MAX: usize = 2;
/// Longest name of a key, in characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// The first lines of the file.
const HEADER: &str = "\
    # Service keys of Tributary. Change this file with `tributary keys`: it hashes the secrets\n\
    # and keeps the file readable by its owner only. Comments are not kept.\n\n";

/// A file of keys, or a change of it, that is not possible; the text says what to change.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct KeysError(String);

/// The content of a file of keys.
#[derive(Debug, Default)]
pub struct KeyFile {
    keys: BTreeMap<String, ServiceKey>,
    revoked: Revoked,
}

/// A service key. Times are in seconds since 1970.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceKey {
    /// The public id, which is part of each credential.
    pub id: Arc<str>,
    /// The purpose of the key, in the operator's words.
    pub name: String,
    /// The actions that a service with this key may do.
    pub scopes: Arc<[Scope]>,
    /// When the key was made.
    pub created: i64,
    /// When the key ends; never if absent.
    pub expires: Option<i64>,
    /// One or two secrets.
    pub secrets: Vec<KeySecret>,
}

/// A secret of a service key, hashed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeySecret {
    /// Its number within the key.
    pub id: u32,
    /// When the secret was made.
    pub created: i64,
    /// When the secret ends; with its key if absent.
    pub expires: Option<i64>,
    sha256: [u8; 32],
}

/// All that is revoked besides service keys. A revoked key or secret is not in the file.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    /// Keys that sign user tokens, by `kid`.
    pub(crate) kids: BTreeSet<String>,
    /// For each user, the second since 1970 from which tokens must have been issued.
    pub(crate) issued_from: BTreeMap<UserId, i64>,
}

/// The file as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    keys: BTreeMap<String, KeyTable>,
    revoked: RevokedTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    name: String,
    scopes: Vec<String>,
    created: Datetime,
    expires: Option<Datetime>,
    secrets: Vec<SecretTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretTable {
    id: u32,
    sha256: String,
    created: Datetime,
    expires: Option<Datetime>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RevokedTable {
    kids: BTreeSet<String>,
    /// Tokens of these users that were issued before these times are refused.
    users: BTreeMap<String, Datetime>,
}

impl KeyFile {
    /// Reads a file that only its owner can read.
    ///
    /// # Errors
    /// The file cannot be read, other users can read it, or its content is not valid.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let at = |text: String| KeysError(format!("{}: {text}", path.display()));
        let text = Self::read_text(path).map_err(|error| at(error.to_string()))?;
        Self::parse(&text).map_err(at)
    }

    /// The text of such a file.
    pub(crate) fn read_text(path: &Path) -> io::Result<String> {
        files::read_private(path, FILE_BYTES_MAX)
    }

    /// Changes the file, or creates it. Two commands that run at the same time wait for each other.
    ///
    /// # Errors
    /// As [`KeyFile::read`]; the change is refused; or the file cannot be written.
    pub fn edit<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        let at = |error: io::Error| KeysError(format!("{}: {error}", path.display()));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let lock = File::open(folder.unwrap_or(Path::new("."))).map_err(at)?;
        lock.lock().map_err(at)?;
        let mut keys = match Self::read_text(path) {
            Ok(text) => Self::parse(&text)
                .map_err(|text| KeysError(format!("{}: {text}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(at(error)),
        };
        let answer = change(&mut keys)?;
        files::replace_private(path, &keys.text()).map_err(at)?;
        Ok(answer)
    }

    /// Parses the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|error| {
            // The message only: the line itself has the hash of a secret.
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut keys = BTreeMap::new();
        for (id, table) in document.keys {
            let key = table.check(&id).map_err(|problem| format!("key {id}: {problem}"))?;
            keys.insert(id, key);
        }
        let mut issued_from = BTreeMap::new();
        for (user, from) in document.revoked.users {
            let id = user.parse().map_err(|_| format!("revoked.users: `{user}` is not a user"))?;
            issued_from.insert(id, seconds(&from)?);
        }
        Ok(Self { keys, revoked: Revoked { kids: document.revoked.kids, issued_from } })
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        let keys = self.keys.iter().map(|(id, key)| (id.clone(), key.table().into()));
        let users = self.revoked.issued_from.iter();
        let users = users.map(|(user, from)| (user.to_string(), datetime(*from)));
        let kids: Vec<Value> =
            self.revoked.kids.iter().map(|kid| Value::String(kid.clone())).collect();
        let mut revoked = Table::new();
        revoked.insert("kids".to_owned(), kids.into());
        revoked.insert("users".to_owned(), users.collect::<Table>().into());
        let mut document = Table::new();
        document.insert("keys".to_owned(), keys.collect::<Table>().into());
        document.insert("revoked".to_owned(), revoked.into());
        format!("{HEADER}{document}")
    }

    /// The keys by id.
    pub fn keys(&self) -> &BTreeMap<String, ServiceKey> {
        &self.keys
    }

    /// The revoked keys of user tokens, by `kid`.
    pub fn revoked_kids(&self) -> impl Iterator<Item = &str> {
        self.revoked.kids.iter().map(String::as_str)
    }

    /// The users whose tokens are revoked, with the time from which new ones are valid.
    pub fn revoked_users(&self) -> impl Iterator<Item = (UserId, i64)> {
        self.revoked.issued_from.iter().map(|(user, from)| (*user, *from))
    }

    pub(crate) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The key of this credential, if it is valid at this time, and when the credential ends.
    pub(crate) fn find(&self, credential: &str, now: i64) -> Option<(&ServiceKey, i64)> {
        let (id, secret) = credential.strip_prefix(PREFIX)?.split_once('_')?;
        if secret.len() != SECRET_CHARACTERS {
            return None;
        }
        let digest = digest_of(secret);
        let key = self.keys.get(id).filter(|key| is_valid(key.expires, now))?;
        let same = |known: &&KeySecret| {
            bool::from(known.sha256.ct_eq(&digest)) && is_valid(known.expires, now)
        };
        let secret = key.secrets.iter().find(same)?;
        let expires = key.expires.into_iter().chain(secret.expires).min();
        Some((key, expires.unwrap_or(i64::MAX)))
    }

    /// Whether a credential has the form of a service key, valid or not.
    pub(crate) fn is_key(credential: &str) -> bool {
        credential.starts_with(PREFIX)
    }

    /// Adds a key and returns its credential, which is not stored.
    ///
    /// # Errors
    /// The name is not 1 to 64 printable characters, or there is no scope.
    pub fn create(
        &mut self,
        name: &str,
        scopes: &[Scope],
        expires: Option<i64>,
        now: i64,
    ) -> Result<String, KeysError> {
        let characters = name.chars().count();
        if !(1..=NAME_CHARACTERS_MAX).contains(&characters) || name.chars().any(char::is_control) {
            return refuse(format!(
                "the name of a key must have 1 to {NAME_CHARACTERS_MAX} printable characters"
            ));
        }
        let named = |scope: &Scope| scopes.contains(scope);
        let scopes: Arc<[Scope]> = Scope::ALL.into_iter().filter(named).collect();
        if scopes.is_empty() {
            return refuse("a key needs at least one scope".to_owned());
        }
        let id = files::hex(&rand::random::<[u8; ID_DIGITS / 2]>());
        let (secret, credential) = new_secret(&id, 1, now);
        let secrets = vec![secret];
        let name = name.to_owned();
        let key =
            ServiceKey { id: id.as_str().into(), name, scopes, created: now, expires, secrets };
        self.keys.insert(id, key);
        Ok(credential)
    }

    /// Adds a second secret to a key and returns its credential. The first one works until it is
    /// revoked, or until `old_expires`. Secrets that have expired are removed.
    ///
    /// # Errors
    /// There is no such key, or it has two secrets that work.
    pub fn rotate(
        &mut self,
        id: &str,
        old_expires: Option<i64>,
        now: i64,
    ) -> Result<String, KeysError> {
        let Some(key) = self.keys.get_mut(id) else { return refuse(no_key(id)) };
        let next = key.secrets.iter().map(|secret| secret.id).max().unwrap_or(0) + 1;
        key.secrets.retain(|secret| is_valid(secret.expires, now));
        if key.secrets.len() >= SECRETS_MAX {
            let old = key.secrets.iter().map(|secret| secret.id).min().unwrap_or(0);
            return refuse(format!(
                "key {id} has {SECRETS_MAX} secrets that work; revoke the older one first: \
                 tributary keys revoke {id} --secret {old}"
            ));
        }
        for old in &mut key.secrets {
            old.expires = old.expires.into_iter().chain(old_expires).min();
        }
        let (secret, credential) = new_secret(id, next, now);
        key.secrets.push(secret);
        Ok(credential)
    }

    /// Revokes a key, or one of its secrets.
    ///
    /// # Errors
    /// There is no such key or secret, or it is the last secret of its key.
    pub fn revoke(&mut self, id: &str, secret: Option<u32>) -> Result<(), KeysError> {
        let Some(key) = self.keys.get_mut(id) else { return refuse(no_key(id)) };
        let Some(number) = secret else {
            self.keys.remove(id);
            return Ok(());
        };
        if !key.secrets.iter().any(|known| known.id == number) {
            return refuse(format!("key {id} has no secret {number}"));
        }
        if key.secrets.len() == 1 {
            return refuse(format!(
                "secret {number} is the only one of key {id}; rotate the key first, or revoke the \
                 whole key"
            ));
        }
        key.secrets.retain(|known| known.id != number);
        Ok(())
    }

    /// Revokes a key that signs user tokens.
    pub fn revoke_kid(&mut self, kid: &str) {
        self.revoked.kids.insert(kid.to_owned());
    }

    /// Revokes all tokens of a user that were issued until now. `oldest` is the oldest time at
    /// which a token that is still valid can have been issued: older entries are not needed.
    pub fn revoke_user(&mut self, user: UserId, now: i64, oldest: i64) {
        self.revoked.issued_from.retain(|_, from| *from > oldest);
        // Tokens have whole seconds: one of this second may have been issued before this moment.
        self.revoked.issued_from.insert(user, now + 1);
    }
}

impl KeyTable {
    fn check(self, id: &str) -> Result<ServiceKey, String> {
        let scope = |name: String| name.parse().map_err(|error| format!("`{name}` is {error}"));
        let scopes: Vec<Scope> = self.scopes.into_iter().map(scope).collect::<Result<_, _>>()?;
        if self.secrets.is_empty() || self.secrets.len() > SECRETS_MAX {
            return Err(format!("it has {} secrets, not one or two", self.secrets.len()));
        }
        let secret = |table: SecretTable| {
            let sha256 = files::from_hex(&table.sha256);
            Ok(KeySecret {
                id: table.id,
                created: seconds(&table.created)?,
                expires: table.expires.as_ref().map(seconds).transpose()?,
                sha256: sha256.ok_or("sha256 must have 64 hexadecimal digits")?,
            })
        };
        Ok(ServiceKey {
            id: id.into(),
            name: self.name,
            scopes: scopes.into(),
            created: seconds(&self.created)?,
            expires: self.expires.as_ref().map(seconds).transpose()?,
            secrets: self.secrets.into_iter().map(secret).collect::<Result<_, String>>()?,
        })
    }
}

impl ServiceKey {
    fn table(&self) -> Table {
        let secret = |secret: &KeySecret| {
            let mut table = times(secret.created, secret.expires);
            table.insert("id".to_owned(), i64::from(secret.id).into());
            table.insert("sha256".to_owned(), files::hex(&secret.sha256).into());
            Value::Table(table)
        };
        let scopes: Vec<Value> = self.scopes.iter().map(|scope| scope.name().into()).collect();
        let mut table = times(self.created, self.expires);
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("scopes".to_owned(), scopes.into());
        table.insert(
            "secrets".to_owned(),
            self.secrets.iter().map(secret).collect::<Vec<_>>().into(),
        );
        table
    }
}

fn times(created: i64, expires: Option<i64>) -> Table {
    let mut table = Table::new();
    table.insert("created".to_owned(), datetime(created));
    if let Some(expires) = expires {
        table.insert("expires".to_owned(), datetime(expires));
    }
    table
}

/// A time of the file in seconds since 1970. It must name its zone.
fn seconds(time: &Datetime) -> Result<i64, String> {
    let text = time.to_string();
    let parsed = text.parse::<Timestamp>();
    let parsed = parsed.map_err(|_| format!("`{text}` is not a time such as 2027-01-01T00:00:00Z"));
    parsed.map(Timestamp::as_second)
}

fn datetime(seconds: i64) -> Value {
    let text = Timestamp::from_second(seconds).unwrap_or_default().to_string();
    text.parse().map_or_else(|_| Value::String(text), Value::Datetime)
}

fn is_valid(expires: Option<i64>, now: i64) -> bool {
    expires.is_none_or(|expires| now < expires)
}

fn digest_of(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// A new secret of this key, and the credential that a client sends.
fn new_secret(key: &str, id: u32, now: i64) -> (KeySecret, String) {
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let credential = format!("{PREFIX}{key}_{secret}");
    (KeySecret { id, created: now, expires: None, sha256: digest_of(&secret) }, credential)
}

fn no_key(id: &str) -> String {
    format!("there is no key {id}; `tributary keys list` shows the ids")
}

fn refuse<T>(text: String) -> Result<T, KeysError> {
    Err(KeysError(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn file() -> (KeyFile, String, String) {
        let mut file = KeyFile::default();
        let scopes = [Scope::ActAsUser, Scope::ActAsUser, Scope::ReadTimelines];
        let credential = file.create("the \"web\" tier", &scopes, Some(NOW + 100), NOW).unwrap();
        let id = file.keys().keys().next().unwrap().clone();
        (file, id, credential)
    }

    #[test]
    fn a_key_is_found_by_its_whole_credential_only() {
        let (file, id, credential) = file();
        let file = KeyFile::parse(&file.text()).unwrap();
        let (key, ends) = file.find(&credential, NOW).unwrap();
        assert_eq!(ends, NOW + 100);
        assert_eq!((key.name.as_str(), key.expires), ("the \"web\" tier", Some(NOW + 100)));
        assert_eq!(*key.scopes, [Scope::ReadTimelines, Scope::ActAsUser]);
        assert!(file.find(&credential, NOW + 99).is_some());
        assert!(file.find(&credential, NOW + 100).is_none(), "the key has expired");
        for wrong in [
            "",
            "trib_",
            &id,
            &format!("trib_{id}_"),
            &credential[..credential.len() - 1],
            &format!("{credential}A"),
            &credential.replace(&id, "000000000000"),
            &credential.to_uppercase(),
            &format!("trib_{id}_{}", "A".repeat(SECRET_CHARACTERS)),
        ] {
            assert!(file.find(wrong, NOW).is_none(), "{wrong}");
        }
        let text = file.text();
        let secret = credential.rsplit_once(&format!("{id}_")).unwrap().1;
        assert!(!text.contains(secret), "the file has the secret itself");
    }

    #[test]
    fn two_secrets_work_during_a_rotation() {
        let (mut file, id, first) = file();
        let second = file.rotate(&id, None, NOW).unwrap();
        assert!(file.find(&first, NOW).is_some() && file.find(&second, NOW).is_some());
        let error = file.rotate(&id, None, NOW).unwrap_err().to_string();
        assert!(error.contains(&format!("tributary keys revoke {id} --secret 1")), "{error}");
        file.revoke(&id, Some(1)).unwrap();
        assert!(file.find(&first, NOW).is_none() && file.find(&second, NOW).is_some());
        assert!(file.revoke(&id, Some(1)).is_err(), "there is no such secret any more");
        assert!(file.revoke(&id, Some(2)).is_err(), "the last secret");

        let third = file.rotate(&id, Some(NOW + 10), NOW).unwrap();
        assert!(file.find(&second, NOW + 9).is_some());
        assert!(file.find(&second, NOW + 10).is_none());
        let fourth = file.rotate(&id, None, NOW + 10).unwrap();
        let numbers: Vec<u32> = file.keys()[&id].secrets.iter().map(|secret| secret.id).collect();
        assert_eq!(numbers, [3, 4], "the expired secret was removed");
        file.revoke(&id, None).unwrap();
        for gone in [second, third, fourth] {
            assert!(file.find(&gone, NOW).is_none());
        }
        assert!(file.revoke(&id, None).is_err());
    }

    #[test]
    fn revocations_are_kept_while_they_matter() {
        let mut file = KeyFile::default();
        file.revoke_kid("a \"quoted\" kid");
        file.revoke_user(UserId::from(7), NOW, NOW - 100);
        file.revoke_user(UserId::from(8), NOW + 100, NOW);
        let read = KeyFile::parse(&file.text()).unwrap();
        assert!(read.revoked().kids.contains("a \"quoted\" kid"));
        let from = |id: u32| read.revoked().issued_from.get(&UserId::from(id)).copied();
        assert_eq!((from(7), from(8)), (Some(NOW + 1), Some(NOW + 101)));
        file.revoke_user(UserId::from(9), NOW + 300, NOW + 50);
        let users: Vec<u64> = file.revoked().issued_from.keys().map(|user| user.get()).collect();
        assert_eq!(users, [8, 9], "the entry of user 7 is not needed any more");
    }

    #[test]
    fn a_damaged_file_is_refused_as_a_whole() {
        let (file, id, _) = file();
        let text = file.text();
        assert!(KeyFile::parse("").unwrap().keys().is_empty());
        for (from, to) in [
            ("act-as-user", "root"),
            ("sha256", "sha1"),
            ("created", "made"),
            ("id = 1", "id = -1"),
            ("[revoked]", "[revoke]"),
            ("Z", ""),
            ("sha256 = \"", "sha256 = \"0"),
            ("kids = []", "users = { x = 2027-01-01T00:00:00Z }"),
        ] {
            assert!(text.contains(from), "{from} is not in {text}");
            assert!(KeyFile::parse(&text.replacen(from, to, 1)).is_err(), "{from} to {to}");
        }
        let secret = text.split("[[").nth(1).unwrap().split("\n\n").next().unwrap();
        let three = format!("{text}\n[[{secret}\n[[{secret}\n");
        assert!(KeyFile::parse(&three).is_err(), "three secrets of {id}");
        assert!(KeyFile::parse(&text[..text.len() / 2]).is_err(), "a file cut short");
    }

    #[test]
    fn a_key_needs_a_name_and_a_scope() {
        let mut file = KeyFile::default();
        assert!(file.create("x", &[], None, NOW).is_err());
        for name in ["", "a\nb", &"a".repeat(NAME_CHARACTERS_MAX + 1)] {
            assert!(file.create(name, &[Scope::Admin], None, NOW).is_err(), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private_and_is_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let create = |name: &str| {
            KeyFile::edit(&path, |file| file.create(name, &[Scope::Admin], None, NOW)).unwrap()
        };
        let credentials = [create("a"), create("b")];
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let read = KeyFile::read(&path).unwrap();
        assert!(credentials.iter().all(|credential| read.find(credential, NOW).is_some()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other file is left");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
