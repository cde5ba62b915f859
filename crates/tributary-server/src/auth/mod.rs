//! Access control: who sends a request, and what that client may do.
//!
//! `Access::admit` finds the principal of a request, from its credential or, without configured
//! credentials, by the checks for local requests. `policy::authorize` decides what a principal may
//! do. The extractors of `guard` call it and give handlers authorized ids only.

pub(crate) mod cookie;
mod credentials;
mod decoders;
mod guard;
mod keys;
mod local;
mod policy;
mod seal;
mod session;
mod signature;
#[cfg(test)]
mod test_signers;
mod tokens;

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, header};
use tributary::internal::tasks::TaskStats;

pub(crate) use self::cookie::SessionCookie;
pub use self::credentials::{Credentials, CredentialsError};
pub use self::decoders::{service_keys, token_keys, user_token};
pub(crate) use self::guard::{
    Allowed, AllowedHere, DeletePost, EditPost, Explain, FindUsers, Follow, MarkRead, Publish,
    ReadAuthor, ReadFeed, ReadFollowing, ReadHome, ReadKeys, ReadMetrics, ReadPost, ReadState,
    Reload, SeesState,
};
pub use self::keys::{KeyFile, KeySecret, KeysError, ServiceKey};
use self::local::LocalOnly;
pub(crate) use self::policy::{Action, Denied, Object, Principal, authorize};
pub use self::policy::{Scope, UnknownScope};
pub(crate) use self::seal::{BadSeal, Purpose};
pub use self::seal::{CursorKeys, CursorKeysError};
pub(crate) use self::session::Session;
use self::tokens::{LEEWAY_S, LIFE_MAX_S};
use crate::error::ApiError;

/// The longest time between the issue of a user token and its end, in seconds, with the tolerated
/// difference of clocks. A revocation of a user's tokens is needed no longer than this.
pub const TOKEN_LIFE_MAX_S: i64 = LIFE_MAX_S + 2 * LEEWAY_S;

/// Which requests a server answers. The default is [`Access::local`] without host names.
#[derive(Clone, Debug)]
pub struct Access(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Local(LocalOnly),
    /// With the cookie that a browser may have its credential in, if any.
    Credentials(Credentials, Option<SessionCookie>),
    Insecure,
}

impl Default for Access {
    fn default() -> Self {
        Self::local(&[])
    }
}

impl Access {
    /// Without credentials: everything is allowed, for requests from this machine only. The
    /// listener must have a loopback address. A request must name `localhost`, a loopback address
    /// or one of `hosts`; it must not come through a proxy or from a web page of another site.
    pub fn local(hosts: &[String]) -> Self {
        Self(Kind::Local(LocalOnly::new(hosts)))
    }

    /// The background tasks that keep the credentials current.
    pub(super) fn tasks(&self) -> Vec<TaskStats> {
        match &self.0 {
            Kind::Credentials(credentials, _) => credentials.tasks(),
            Kind::Local(_) | Kind::Insecure => Vec::new(),
        }
    }

    /// Ends these tasks.
    pub(super) async fn close(&self) {
        if let Kind::Credentials(credentials, _) = &self.0 {
            credentials.close().await;
        }
    }

    /// Every request needs a credential, except those for the health of the process.
    pub fn credentials(credentials: Credentials) -> Self {
        Self(Kind::Credentials(credentials, None))
    }

    /// Also accepts the credential of a browser that has signed in, in this cookie.
    pub(crate) fn with_cookie(self, cookie: SessionCookie) -> Self {
        match self.0 {
            Kind::Credentials(credentials, _) => Self(Kind::Credentials(credentials, Some(cookie))),
            other => Self(other),
        }
    }

    /// The cookie of a browser that signs in here. `None` if signing in is not possible.
    pub(crate) fn session_cookie(&self) -> Option<SessionCookie> {
        match &self.0 {
            Kind::Credentials(_, cookie) => *cookie,
            Kind::Local(_) | Kind::Insecure => None,
        }
    }

    /// Whether requests with this credential would be answered.
    pub(crate) fn is_valid(&self, credential: &str) -> bool {
        self.configured().is_some_and(|known| known.principal_of(credential).is_some())
    }

    /// Everybody who reaches the listener may do everything.
    pub fn insecure() -> Self {
        Self(Kind::Insecure)
    }

    /// The access of a listener for operators on this address. If the public one is open to all
    /// machines, this one is too, unless it has a loopback address.
    pub(crate) fn on(&self, address: SocketAddr) -> Self {
        match &self.0 {
            Kind::Insecure if address.ip().is_loopback() => Self::default(),
            _ => self.clone(),
        }
    }

    /// The credentials, if some are configured.
    pub(crate) fn configured(&self) -> Option<&Credentials> {
        match &self.0 {
            Kind::Credentials(credentials, _) => Some(credentials),
            _ => None,
        }
    }

    /// Whether only this machine is served.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.0, Kind::Local(_))
    }

    /// Whether a server on this address would answer other machines although it must not.
    pub(crate) fn refuses(&self, address: SocketAddr) -> bool {
        self.is_local() && !address.ip().is_loopback()
    }

    /// The credential in the cookie of a request, if it counts.
    fn cookie<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookie = self.session_cookie()?;
        cookie.credential(headers).filter(|_| !headers.contains_key(header::AUTHORIZATION))
    }

    /// The credential of an admitted request, in whatever header it is.
    fn credential<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let bearer = || headers.get(header::AUTHORIZATION).and_then(credentials::bearer);
        self.cookie(headers).or_else(bearer)
    }

    /// The principal of a request.
    ///
    /// # Errors
    /// The request must not be answered, whatever it asks for.
    pub(crate) fn admit<B>(&self, request: &Request<B>) -> Result<Principal, ApiError> {
        match &self.0 {
            Kind::Insecure => Ok(Principal::Open),
            Kind::Credentials(credentials, _) => {
                let headers = request.headers();
                match self.cookie(headers) {
                    Some(credential) => {
                        // Another site must not write with the cookie of its visitor.
                        if !request.method().is_safe() && !cookie::is_same_origin(request) {
                            return Err(ApiError::CrossSite);
                        }
                        credentials.principal_of(credential).ok_or(ApiError::Unauthenticated)
                    }
                    None => credentials.principal(headers),
                }
            }
            Kind::Local(local) => {
                // An application that mounts the routes may add the address of the client.
                let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
                if peer.is_some_and(|ConnectInfo(peer)| !peer.ip().to_canonical().is_loopback()) {
                    return Err(ApiError::LocalOnly("the client is another machine"));
                }
                local.check(request).map(|()| Principal::Open)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_credentials_clients_of_other_machines_are_refused() {
        let admit = |access: &Access, peer: &str| {
            let mut request = Request::get("/livez").header("host", "localhost").body(()).unwrap();
            let peer: SocketAddr = peer.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(peer));
            access.admit(&request)
        };
        let (local, open) = (Access::default(), Access::insecure());
        for own in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(matches!(admit(&local, own), Ok(Principal::Open)), "{own}");
        }
        for other in ["10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(admit(&local, other), Err(ApiError::LocalOnly(_))), "{other}");
            assert!(matches!(admit(&open, other), Ok(Principal::Open)), "{other}");
        }
        assert!(local.refuses("0.0.0.0:1".parse().unwrap()));
        assert!(!local.refuses("127.0.0.1:1".parse().unwrap()));
        assert!(!open.refuses("0.0.0.0:1".parse().unwrap()));
    }
}
