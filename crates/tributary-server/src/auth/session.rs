//! The credential of a request whose answer lasts: it is checked again until the answer ends.

use std::fmt;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::sync::watch;
use tributary::UserId;
use tributary::internal::now_ms;

use super::policy::{Action, Object, authorize};
use super::{Access, Credentials};

/// The credential of an admitted request.
#[derive(Debug)]
pub(crate) struct Session {
    action: Action,
    user: UserId,
    /// `None` if the request needed no credential.
    credential: Option<Credential>,
}

struct Credential {
    credentials: Credentials,
    text: Box<str>,
    changes: watch::Receiver<()>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[credential]")
    }
}

impl Session {
    /// The session of a request that was allowed to do this to an object of this user.
    pub(crate) fn new(
        access: &Access,
        headers: &HeaderMap,
        (action, user): (Action, UserId),
    ) -> Self {
        let credential = access.configured().zip(access.credential(headers));
        let credential = credential.map(|(credentials, text)| Credential {
            credentials: credentials.clone(),
            text: text.into(),
            changes: credentials.changes(),
        });
        Self { action, user, credential }
    }

    /// For how long the credential is valid, unless it is revoked: at most `max`. `None` if it is
    /// not valid any more.
    pub(crate) fn valid_for(&self, max: Duration) -> Option<Duration> {
        let Some(Credential { credentials, text, .. }) = &self.credential else {
            return Some(max);
        };
        let (principal, expires) = credentials.check(text)?;
        authorize(&principal, self.action, Object::Of(self.user)).ok()?;
        let left_ms = expires.saturating_mul(1_000).saturating_sub(now_ms());
        let left_ms = u64::try_from(left_ms).ok().filter(|left_ms| *left_ms > 0)?;
        Some(Duration::from_millis(left_ms).min(max))
    }

    /// Completes once the credentials in effect have changed. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let changes = self.credential.as_mut().map(|credential| &mut credential.changes);
        let ended = match changes {
            Some(changes) => changes.changed().await.is_err(),
            None => true,
        };
        if ended {
            std::future::pending().await
        }
    }
}
