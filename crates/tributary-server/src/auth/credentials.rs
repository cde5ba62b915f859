//! The credentials that a server accepts, from files that are read again when they change.
//!
//! Everything that was read belongs to one [`State`], also the cache of verified tokens. A reload
//! replaces the whole state, so no verification outlives the files that it was made with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, error, info};
use tributary::config::Auth;
use tributary::internal::now_ms;
use tributary::internal::tasks::TaskStats;

use super::keys::KeyFile;
use super::policy::Principal;
use super::tokens::{LEEWAY_S, TokenKeys, Verified};
use crate::audit;
use crate::error::ApiError;
use crate::files;
use crate::watched::{Files, Watched};
use crate::wire::KeysState;

/// Largest file of token keys, in bytes.
const TOKEN_KEYS_BYTES_MAX: u64 = 256 * 1024;
/// Cached verifications; each takes 64 bytes.
const VERIFIED_MAX: usize = 65_536;

/// The credentials of clients: service keys and, if configured, user tokens. Cheap to clone. The
/// files are read again within a second after a change, until the last clone is dropped.
#[derive(Clone)]
pub struct Credentials(Arc<Watched<CredentialFiles>>);

/// Where credentials come from.
struct CredentialFiles {
    keys: PathBuf,
    tokens: Option<TokenFile>,
}

struct TokenFile {
    path: PathBuf,
    issuer: String,
    audience: String,
}

/// The content of the files, and the tokens that were verified with it.
struct State {
    keys: KeyFile,
    tokens: TokenKeys,
    verified: VerifiedTokens,
}

#[derive(PartialEq, Eq)]
struct Texts {
    keys: String,
    /// The text, and whether only the owner can read its file.
    tokens: Option<(String, bool)>,
}

/// Credentials that cannot be used; the text says what to change.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CredentialsError(String);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[credentials]")
    }
}

impl Credentials {
    /// Reads the files of `[auth]`, and starts a task on the current tokio runtime that reads them
    /// again. `None` if the configuration names no file.
    ///
    /// # Errors
    /// A file cannot be read, other users can read secrets in it, or its content is not valid.
    pub fn open(auth: &Auth) -> Result<Option<Self>, CredentialsError> {
        let Some(keys) = auth.keys_file.clone() else { return Ok(None) };
        let tokens = auth.tokens().map(|(path, issuer, audience)| TokenFile {
            path: path.to_owned(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        });
        let watched = Watched::open(CredentialFiles { keys, tokens });
        watched.map(|watched| Some(Self(watched))).map_err(CredentialsError)
    }

    /// Reads the files now, to take effect later.
    ///
    /// # Errors
    /// They cannot be used. The earlier ones stay in effect.
    pub(crate) fn prepare(&self) -> Result<impl FnOnce() -> bool, String> {
        self.0.prepare().map(|prepared| || prepared.commit())
    }

    /// The credentials in effect, without their secrets.
    pub(crate) fn with_state<T>(&self, show: impl FnOnce(KeysState<'_>) -> T) -> T {
        let current = self.0.current();
        let State { keys, tokens, .. } = &current.value;
        show(KeysState::new(keys, tokens.kids(), self.0.problem()))
    }

    /// The task that reads the files again.
    pub(super) fn tasks(&self) -> Vec<TaskStats> {
        self.0.tasks()
    }

    /// Ends this task.
    pub(super) async fn close(&self) {
        self.0.close().await;
    }

    /// Changes whenever other credentials take effect.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes()
    }

    /// The principal of a request: anonymous if it has no credential.
    ///
    /// # Errors
    /// It has one that is not valid. The client does not learn the reason.
    pub(super) fn principal(&self, headers: &HeaderMap) -> Result<Principal, ApiError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let credential = match (values.next(), values.next()) {
            (None, _) => return Ok(Principal::Anonymous),
            (Some(value), None) => bearer(value),
            _ => None,
        };
        let principal = credential.and_then(|credential| self.principal_of(credential));
        principal.ok_or(ApiError::Unauthenticated)
    }

    /// The client with this credential. `None` if it is not valid.
    pub(super) fn principal_of(&self, credential: &str) -> Option<Principal> {
        self.check(credential).map(|(principal, _)| principal)
    }

    /// The client with this credential, and when that ends by itself, in seconds since 1970.
    pub(super) fn check(&self, credential: &str) -> Option<(Principal, i64)> {
        self.0.current().value.principal(credential, now())
    }
}

impl State {
    /// The principal of a valid credential, and when that ends by itself.
    fn principal(&self, credential: &str, now: i64) -> Option<(Principal, i64)> {
        if KeyFile::is_key(credential) {
            let (key, expires) = self.keys.find(credential, now)?;
            let (id, scopes) = (Arc::clone(&key.id), Arc::clone(&key.scopes));
            return Some((Principal::Service { id, scopes }, expires));
        }
        if self.tokens.len() == 0 {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(credential).into();
        // A token is accepted until the tolerated difference of clocks has passed, too.
        let end = |expires: i64| expires.saturating_add(LEEWAY_S);
        if let Some(verified) = self.verified.get(&digest, now) {
            return Some((Principal::User(verified.user), end(verified.expires)));
        }
        match self.tokens.verify(credential, self.keys.revoked(), now) {
            Ok(verified) => {
                let principal = Principal::User(verified.user);
                let end = end(verified.expires);
                self.verified.put(digest, verified);
                Some((principal, end))
            }
            Err(reason) => {
                debug!(reason, "User token is not valid; the request is refused");
                None
            }
        }
    }

    fn log(&self, message: &str) {
        let revoked = self.keys.revoked();
        info!(
            service_keys = self.keys.keys().len(),
            token_keys = self.tokens.len(),
            revoked_kids = revoked.kids.len(),
            revoked_users = revoked.issued_from.len(),
            "{message}"
        );
    }
}

impl Files for CredentialFiles {
    const NAME: &'static str = "credentials";

    type Texts = Texts;
    type Value = State;

    fn read(&self) -> Result<Texts, String> {
        let keys = KeyFile::read_text(&self.keys).map_err(|error| {
            let create = match error.kind() {
                std::io::ErrorKind::NotFound => "; create it with `tributary keys create`",
                _ => "",
            };
            at(&self.keys, &format!("{error}{create}"))
        })?;
        let read = |file: &TokenFile| {
            files::read_any(&file.path, TOKEN_KEYS_BYTES_MAX)
                .map_err(|error| at(&file.path, &error.to_string()))
        };
        Ok(Texts { keys, tokens: self.tokens.as_ref().map(read).transpose()? })
    }

    fn parse(&self, texts: &Texts) -> Result<State, String> {
        let keys = KeyFile::parse(&texts.keys).map_err(|text| at(&self.keys, &text))?;
        let tokens = match (&self.tokens, &texts.tokens) {
            (Some(file), Some((text, private))) => {
                let parsed = TokenKeys::parse(text, &file.issuer, &file.audience);
                let parsed = parsed.map_err(|text| at(&file.path, &text))?;
                if parsed.secret && !private {
                    let text = "other users of this machine can read the HS256 secret in the file; \
                                run chmod 600 on it";
                    return Err(at(&file.path, text));
                }
                parsed
            }
            _ => TokenKeys::default(),
        };
        let cells = if tokens.len() == 0 { 0 } else { VERIFIED_MAX };
        Ok(State { keys, tokens, verified: VerifiedTokens::new(cells) })
    }

    fn check_change(&self, old: &Texts, new: &Texts) -> Result<(), String> {
        let is_empty = |texts: &Texts| texts.keys.trim().is_empty();
        match is_empty(new) && !is_empty(old) {
            true => Err(format!(
                "{}: the file is empty; to remove all keys and revocations, write a comment to it",
                self.keys.display()
            )),
            false => Ok(()),
        }
    }

    fn log_read(&self, old: Option<&State>, state: &State) {
        let Some(old) = old else { return state.log("Credentials were read") };
        state.log("Credentials were read again");
        audit::keys_changed(&old.keys, &state.keys);
        let (before, now) = (old.tokens.kids(), state.tokens.kids());
        if before != now {
            audit::token_keys_changed(&before, &now);
        }
    }

    fn log_kept(&self, problem: &str) {
        error!(
            problem,
            "Credentials cannot be read again; the earlier ones stay in effect, and revocations \
             since then do not"
        );
    }
}

/// The credential of an `Authorization: Bearer` header.
pub(super) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim_matches(' '))
}

fn at(path: &Path, text: &str) -> String {
    format!("{}: {text}", path.display())
}

/// Seconds since 1970.
fn now() -> i64 {
    now_ms() / 1_000
}

/// A direct-mapped cache of verified tokens by their SHA-256. The later one of two tokens with the
/// same cell stays. Only valid tokens are stored, so that others cannot displace them.
struct VerifiedTokens(Box<[Mutex<Option<Entry>>]>);

struct Entry {
    digest: [u8; 32],
    verified: Verified,
}

impl VerifiedTokens {
    fn new(cells: usize) -> Self {
        Self((0..cells).map(|_| Mutex::new(None)).collect())
    }

    fn cell(&self, digest: &[u8; 32]) -> Option<&Mutex<Option<Entry>>> {
        let start = digest.first_chunk().copied().map(u64::from_le_bytes).unwrap_or_default();
        let cells = self.0.len() as u64;
        let cell = usize::try_from(start.checked_rem(cells)?).ok()?;
        self.0.get(cell)
    }

    /// The verification of this token, if it has not expired. A cell in use counts as empty.
    fn get(&self, digest: &[u8; 32], now: i64) -> Option<Verified> {
        let cell = self.cell(digest)?.try_lock().ok()?;
        let found = cell.as_ref().filter(|entry| entry.digest == *digest)?;
        Some(found.verified).filter(|verified| now < verified.expires)
    }

    fn put(&self, digest: [u8; 32], verified: Verified) {
        if let Some(Ok(mut cell)) = self.cell(&digest).map(Mutex::try_lock) {
            *cell = Some(Entry { digest, verified });
        }
    }
}

#[cfg(test)]
mod tests;
