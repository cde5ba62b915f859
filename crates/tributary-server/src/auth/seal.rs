//! Seals cursors and freshness tokens: a message authentication code (MAC) shows that this server,
//! or another one with the same key, made the text, and for which reader and list.
//!
//! A sealed text is the text, then the id of the key (2 bytes) and the first 16 bytes of the
//! HMAC-SHA256 of purpose and text, as 24 characters of URL-safe base64.

use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing::warn;
use tributary::internal::stats::Occurrences;
use tributary::{Cursor, Freshness, UserId};

use crate::files;

/// Bytes of the id of a key.
const KEY_ID: usize = 2;
/// Bytes of the MAC. A forger has to guess 128 bits.
const MAC: usize = 16;
/// Characters that a seal adds to a text: 18 bytes are exactly 24 characters of base64.
const SEAL_CHARACTERS: usize = (KEY_ID + MAC) * 4 / 3;
/// Bytes of a key.
const KEY: usize = 32;
/// Largest file of keys in bytes; two keys and a comment are much shorter.
const FILE_BYTES_MAX: u64 = 4 * 1024;

/// The keys that seal cursors and freshness tokens. The first one seals; all open. Cheap to clone.
#[derive(Clone)]
pub struct CursorKeys(Arc<Keys>);

struct Keys {
    sealing: SealKey,
    /// Also accepted, while keys are rotated.
    previous: Option<SealKey>,
    /// The texts that no known key has sealed.
    unknown: Occurrences,
}

struct SealKey {
    id: [u8; KEY_ID],
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for CursorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[cursor keys]")
    }
}

/// A file of cursor keys that cannot be used; the text says what to change.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CursorKeysError(String);

/// The purpose of a sealed text. A text that was sealed for another purpose does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A cursor of the home timeline of this reader.
    Home(UserId),
    /// A cursor of the timeline of one author, for a reader with a credential of its own.
    Author { author: UserId, viewer: Option<UserId> },
    /// A cursor of the follow list of this user.
    Following(UserId),
    /// A cursor of the followers of this user.
    Followers(UserId),
    /// A cursor of the mutes of this user.
    Mutes(UserId),
    /// A cursor of the blocks of this user.
    Blocks(UserId),
    /// A freshness token. All readers may use it.
    Freshness,
}

/// The text has no valid seal for its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadSeal;

impl Purpose {
    /// The bytes before the text in the MAC. All have the same length, so that no text can be moved
    /// from one purpose to another.
    fn prefix(self) -> [u8; 18] {
        let (kind, owner, viewer) = match self {
            Self::Home(reader) => (1, reader.get(), None),
            Self::Author { author, viewer } => (2, author.get(), viewer),
            Self::Following(reader) => (3, reader.get(), None),
            Self::Freshness => (4, 0, None),
            Self::Followers(user) => (5, user.get(), None),
            Self::Mutes(user) => (6, user.get(), None),
            Self::Blocks(user) => (7, user.get(), None),
        };
        let mut bytes = [0; 18];
        bytes[0] = kind;
        bytes[1] = u8::from(viewer.is_some());
        bytes[2..10].copy_from_slice(&owner.to_be_bytes());
        bytes[10..].copy_from_slice(&viewer.map_or(0, UserId::get).to_be_bytes());
        bytes
    }
}

impl SealKey {
    fn new(secret: &[u8; KEY]) -> Self {
        let digest = Sha256::new().chain_update(b"tributary cursor key id").chain_update(secret);
        let digest = digest.finalize();
        // `new_from_slice` accepts keys of every length.
        let mac = Hmac::new_from_slice(secret).unwrap_or_else(|_| unreachable!("any length"));
        Self { id: [digest[0], digest[1]], mac }
    }

    fn mac_of(&self, purpose: Purpose, text: &str) -> Hmac<Sha256> {
        self.mac.clone().chain_update(purpose.prefix()).chain_update(text)
    }
}

impl CursorKeys {
    /// A new key that only this process knows. Cursors and freshness tokens do not survive a
    /// restart, and other nodes refuse them.
    pub fn random() -> Self {
        Self::new(&rand::random(), None)
    }

    fn new(sealing: &[u8; KEY], previous: Option<&[u8; KEY]>) -> Self {
        Self(Arc::new(Keys {
            sealing: SealKey::new(sealing),
            previous: previous.map(SealKey::new),
            unknown: Occurrences::default(),
        }))
    }

    /// Reads a file with one or two keys: lines of 64 hexadecimal digits, and comments after `#`.
    /// The first key seals; both are accepted.
    ///
    /// # Errors
    /// The file cannot be read, other users can read it, or a line is not a key.
    pub fn from_file(path: &Path) -> Result<Self, CursorKeysError> {
        let at = |text: String| CursorKeysError(format!("{}: {text}", path.display()));
        let text =
            files::read_private(path, FILE_BYTES_MAX).map_err(|error| at(error.to_string()))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut keys = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let key = files::from_hex(line)
                .ok_or_else(|| at("each line must be a key of 64 hexadecimal digits".to_owned()))?;
            keys.push(key);
        }
        match keys.as_slice() {
            [sealing] => Ok(Self::new(sealing, None)),
            [sealing, previous] => Ok(Self::new(sealing, Some(previous))),
            _ => Err(at(format!("the file has {} keys; it must have one or two", keys.len()))),
        }
    }

    /// As [`CursorKeys::from_file`]. If the file does not exist, it is created with a random key,
    /// readable by its owner only.
    ///
    /// # Errors
    /// As [`CursorKeys::from_file`], or the file cannot be created.
    pub fn from_file_or_new(path: &Path) -> Result<Self, CursorKeysError> {
        let text = format!(
            "# Tributary seals cursors and freshness tokens with the first key and accepts both.\n{}\n",
            files::hex(&rand::random::<[u8; KEY]>())
        );
        match files::create_private(path, &text) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CursorKeysError(format!("{}: {error}", path.display()))),
        }
        Self::from_file(path)
    }

    /// The freshness token as clients of the HTTP API send it. For applications that write with the
    /// library, and whose clients read over HTTP.
    pub fn seal_freshness(&self, freshness: &Freshness) -> String {
        self.seal(Purpose::Freshness, freshness.to_string())
    }

    /// A cursor of the home timeline of `reader` as clients of the HTTP API send it.
    pub fn seal_home_cursor(&self, reader: UserId, cursor: &Cursor) -> String {
        self.seal(Purpose::Home(reader), cursor.to_string())
    }

    /// Whether both are clones of the same keys, for caches of sealed texts.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The text with its seal.
    pub(crate) fn seal(&self, purpose: Purpose, mut text: String) -> String {
        let key = &self.0.sealing;
        let mac = key.mac_of(purpose, &text).finalize().into_bytes();
        let mut seal = [0; KEY_ID + MAC];
        seal[..KEY_ID].copy_from_slice(&key.id);
        seal[KEY_ID..].copy_from_slice(&mac[..MAC]);
        URL_SAFE_NO_PAD.encode_string(seal, &mut text);
        text
    }

    /// The text without its seal.
    ///
    /// # Errors
    /// The seal is not one of these keys for this purpose.
    pub(crate) fn open<'a>(&self, purpose: Purpose, sealed: &'a str) -> Result<&'a str, BadSeal> {
        let middle = sealed.len().checked_sub(SEAL_CHARACTERS).ok_or(BadSeal)?;
        let (text, seal) = sealed.split_at_checked(middle).ok_or(BadSeal)?;
        let mut bytes = [0; KEY_ID + MAC];
        let decoded = URL_SAFE_NO_PAD.decode_slice(seal, &mut bytes);
        if decoded != Ok(bytes.len()) {
            return Err(BadSeal);
        }
        let (id, mac) = bytes.split_at(KEY_ID);
        let keys = [Some(&self.0.sealing), self.0.previous.as_ref()];
        let mut known = keys.into_iter().flatten().filter(|key| key.id == id).peekable();
        if known.peek().is_none() {
            self.warn_of_unknown_key(purpose);
        }
        // The comparison takes the same time for every wrong MAC.
        known
            .any(|key| key.mac_of(purpose, text).verify_truncated_left(mac).is_ok())
            .then_some(text)
            .ok_or(BadSeal)
    }

    /// Logs, at most once an hour, that a text of an unknown key has arrived.
    fn warn_of_unknown_key(&self, purpose: Purpose) {
        if self.0.unknown.note() {
            let what = if purpose == Purpose::Freshness { "freshness token" } else { "cursor" };
            warn!(
                what,
                "A request has a cursor or freshness token of an unknown key and is refused; if it \
                 comes from another node, give all nodes the same auth.cursor_keys_file"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u32) -> UserId {
        UserId::from(id)
    }

    #[test]
    fn a_sealed_text_opens_only_for_its_purpose() {
        let keys = CursorKeys::random();
        let purposes = [
            Purpose::Home(user(7)),
            Purpose::Home(user(8)),
            Purpose::Author { author: user(7), viewer: None },
            Purpose::Author { author: user(7), viewer: Some(user(0)) },
            Purpose::Author { author: user(7), viewer: Some(user(7)) },
            Purpose::Author { author: user(8), viewer: None },
            Purpose::Following(user(7)),
            Purpose::Followers(user(7)),
            Purpose::Mutes(user(7)),
            Purpose::Blocks(user(7)),
            Purpose::Freshness,
        ];
        for sealed_for in purposes {
            let sealed = keys.seal(sealed_for, "AQAB".to_owned());
            assert_eq!(sealed.len(), 4 + SEAL_CHARACTERS);
            for purpose in purposes {
                let expected = if purpose == sealed_for { Ok("AQAB") } else { Err(BadSeal) };
                assert_eq!(keys.open(purpose, &sealed), expected, "{sealed_for:?} {purpose:?}");
            }
        }
    }

    #[test]
    fn every_changed_character_breaks_the_seal() {
        let keys = CursorKeys::random();
        let sealed = keys.seal(Purpose::Freshness, "AQACAAABgHzjScA".to_owned());
        for at in 0..sealed.len() {
            for other in ['A', 'B', 'z', '9', '-', '_', '=', '\u{e9}'] {
                let mut changed: Vec<char> = sealed.chars().collect();
                if changed[at] == other {
                    continue;
                }
                changed[at] = other;
                let changed: String = changed.into_iter().collect();
                assert_eq!(keys.open(Purpose::Freshness, &changed), Err(BadSeal), "{changed}");
            }
            assert_eq!(keys.open(Purpose::Freshness, &sealed[..at]), Err(BadSeal));
        }
        assert_eq!(keys.open(Purpose::Freshness, &format!("{sealed}A")), Err(BadSeal));
    }

    #[test]
    fn two_keys_are_accepted_during_rotation() {
        let (old, new) = ([1; KEY], [2; KEY]);
        let only_old = CursorKeys::new(&old, None);
        let prepared = CursorKeys::new(&old, Some(&new));
        let rotated = CursorKeys::new(&new, Some(&old));
        let only_new = CursorKeys::new(&new, None);
        let purpose = Purpose::Home(user(1));
        let opens = |sealed_by: &CursorKeys, opened_by: &CursorKeys| {
            opened_by.open(purpose, &sealed_by.seal(purpose, "x".to_owned())).is_ok()
        };
        assert!(opens(&only_old, &prepared) && opens(&prepared, &only_old));
        assert!(opens(&prepared, &rotated) && opens(&rotated, &prepared));
        assert!(opens(&rotated, &only_new) && opens(&only_new, &rotated));
        assert!(!opens(&only_old, &only_new) && !opens(&only_new, &only_old));
    }

    #[test]
    fn a_file_has_one_or_two_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor-keys");
        let made = CursorKeys::from_file_or_new(&path).unwrap();
        let read = CursorKeys::from_file_or_new(&path).unwrap();
        let sealed = made.seal(Purpose::Freshness, "x".to_owned());
        assert_eq!(read.open(Purpose::Freshness, &sealed), Ok("x"));
        let line = "ab".repeat(KEY);
        for (text, ok) in [
            (line.clone(), true),
            (format!("# new\n{line}\n\n{} # old\n", "cd".repeat(KEY)), true),
            (String::new(), false),
            (format!("{line}\n{line}\n{line}"), false),
            ("ab".to_owned(), false),
            ("xy".repeat(KEY), false),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(CursorKeys::from_file(&path).is_ok(), ok, "{text}");
        }
    }
}
