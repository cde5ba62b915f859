//! The ids of accounts such as `alice@example.org`. An account has the id in the accounts file, or
//! one that is computed from its address, so that all imports agree on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tributary::UserId;

use crate::import::header::short;

const HEADER: &str = "account,user_id";
/// Longest accounts file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The accounts of a file, and those that were seen since.
pub(super) struct Accounts {
    path: PathBuf,
    known: BTreeMap<String, UserId>,
    changed: bool,
}

impl Accounts {
    /// Reads the file, if there is one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let mut accounts = Self { path: path.to_owned(), known: BTreeMap::new(), changed: false };
        let size = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(accounts),
            found => found.with_context(name)?.len(),
        };
        if size > FILE_BYTES_MAX {
            bail!("{} has more than {FILE_BYTES_MAX} bytes; remove accounts from it", name());
        }
        let text = fs::read_to_string(path).with_context(name)?;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line == HEADER {
                continue;
            }
            let entry = line
                .split_once(',')
                .and_then(|(account, id)| Some((address(account).ok()?, id.trim().parse().ok()?)));
            let Some((account, id)) = entry else {
                bail!("{}: line {number} is not ACCOUNT,ID, such as alice@example.org,42", name());
            };
            accounts.known.insert(account, id);
        }
        Ok(accounts)
    }

    /// The id of an account; an id in digits is that id.
    pub(super) fn user(&mut self, text: &str) -> Result<UserId, String> {
        match text.parse() {
            Ok(id) => Ok(id),
            Err(_) => self.id(text),
        }
    }

    /// The id of the account with this address.
    pub(super) fn id(&mut self, text: &str) -> Result<UserId, String> {
        let account = address(text)?;
        if let Some(id) = self.known.get(&account) {
            return Ok(*id);
        }
        let id = hashed(&account).to_string().parse().map_err(|_| "the id is too large")?;
        self.known.insert(account, id);
        self.changed = true;
        Ok(id)
    }

    /// Writes the file, if there are new accounts.
    pub(super) fn save(&self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let name = || self.path.display().to_string();
        let mut text = format!("{HEADER}\n");
        for (account, id) in &self.known {
            text += &format!("{account},{id}\n");
        }
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)).with_context(name)
    }
}

/// A number from 1 to 2^63 - 1 that depends on the text alone.
pub(super) fn hashed(text: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(text).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1).max(1)
}

/// An address in its usual form: without the leading `@`, in small letters.
fn address(text: &str) -> Result<String, String> {
    let address = text.trim().trim_start_matches('@').to_lowercase();
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_alphanumeric() || ['.', '-', '_', ':', '~'].contains(&c);
        !part.is_empty() && part.chars().all(allowed)
    };
    match address.split_once('@') {
        Some((name, server)) if is_part(name) && is_part(server) && address.len() <= 512 => {
            Ok(address)
        }
        _ => Err(format!("{} is not an account such as alice@example.org", short(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_id_in_all_imports_unless_the_file_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts.csv");
        let mut first = Accounts::open(&path).unwrap();
        let id = first.id("Alice@Example.org").unwrap();
        assert_eq!(first.id("@alice@example.org"), Ok(id));
        assert_eq!(first.user("42"), Ok(UserId::from(42)));
        assert!(first.id("alice").is_err() && first.id("a@b@c").is_err());
        assert!(first.id("a,b@c").is_err() && first.id("@").is_err());
        first.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("account,user_id\nalice@example.org,{id}\n"));
        // The number is part of the documented form.
        assert_eq!(id.get(), hashed("alice@example.org"));
        fs::write(&path, text + "bob@example.org, 7\n").unwrap();
        let mut second = Accounts::open(&path).unwrap();
        assert_eq!(second.id("bob@example.org"), Ok(UserId::from(7)));
        assert_eq!(second.id("alice@example.org"), Ok(id));
        assert!(!second.changed);
        fs::write(&path, "bob@example.org\n").unwrap();
        assert!(Accounts::open(&path).is_err());
    }
}
