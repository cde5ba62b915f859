//! Extractors that authorize. A handler gets the ids of its path from them and from nowhere else,
//! so it works with authorized ids only.

use std::marker::PhantomData;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::Uri;
use axum::http::request::Parts;
use tributary::posts::PostAddress;
use tributary::{PostId, UserId};

use super::policy::{Action, Object, Principal, authorize};
use crate::error::ApiError;
use crate::explain::ExplainParameter;

/// The action of a route, as a type: a handler names it in its arguments.
pub(crate) trait Permission {
    /// The action that this request needs.
    fn action(uri: &Uri) -> Action;
}

macro_rules! permissions {
    ($($action:ident),*) => {$(
        pub(crate) struct $action;
        impl Permission for $action {
            fn action(_: &Uri) -> Action {
                Action::$action
            }
        }
    )*};
}

permissions!(ReadHome, ReadFollowing, ReadAuthor, ReadPost, Publish, EditPost, DeletePost);
permissions!(Follow, MarkRead, FindUsers, ReadMetrics, ReadState, ReadKeys, Reload, Explain);

/// To read a home timeline; if the request wants it explained, to explain it.
pub(crate) struct ReadFeed;

impl Permission for ReadFeed {
    fn action(uri: &Uri) -> Action {
        if ExplainParameter::is_in(uri) { Action::Explain } else { Action::ReadHome }
    }
}

/// The ids in the path of a request: that of the user to which the action `P` may be applied,
/// and perhaps a second one.
pub(crate) struct Allowed<P, T = ()> {
    pub(crate) user: UserId,
    /// The id of a post, the address of one, or the id of another user.
    pub(crate) other: T,
    /// The user whose credential the request has; `None` for a service.
    pub(crate) viewer: Option<UserId>,
    permission: PhantomData<P>,
}

impl<P: Permission, T> Allowed<P, T> {
    fn check(
        parts: &Parts,
        principal: &Principal,
        (user, other): (UserId, T),
    ) -> Result<Self, ApiError> {
        authorize(principal, P::action(&parts.uri), Object::Of(user))?;
        Ok(Self { user, other, viewer: principal.user(), permission: PhantomData })
    }
}

impl<S: Send + Sync, P: Permission> FromRequestParts<S> for Allowed<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let principal = known_principal(parts)?;
        let path = Path::<String>::from_request_parts(parts, state).await;
        let user = path.ok().and_then(|Path(text)| text.parse().ok());
        Self::check(parts, &principal, (user.ok_or(ApiError::BadUserId)?, ()))
    }
}

/// A second id in the path of a request.
pub(crate) trait SecondId: FromStr {
    /// The error of a text that is no such id.
    const INVALID: ApiError;
}

impl SecondId for PostId {
    const INVALID: ApiError = ApiError::BadPostId;
}

impl SecondId for PostAddress {
    const INVALID: ApiError = ApiError::BadPostId;
}

impl SecondId for UserId {
    const INVALID: ApiError = ApiError::BadUserId;
}

impl<S: Send + Sync, P: Permission, T: SecondId> FromRequestParts<S> for Allowed<P, T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let principal = known_principal(parts)?;
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((user, other)) = path.map_err(|_| ApiError::BadUserId)?;
        let user = user.parse().map_err(|_| ApiError::BadUserId)?;
        let other = other.parse().map_err(|_| T::INVALID)?;
        Self::check(parts, &principal, (user, other))
    }
}

/// The action `P` on this process is authorized.
pub(crate) struct AllowedHere<P> {
    /// The client, for the audit log.
    pub(crate) principal: Principal,
    permission: PhantomData<P>,
}

impl<S: Send + Sync, P: Permission> FromRequestParts<S> for AllowedHere<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let principal = principal_of(parts);
        authorize(&principal, P::action(&parts.uri), Object::Node)?;
        Ok(Self { principal, permission: PhantomData })
    }
}

/// Whether the request may see the state of this process, for routes that any client may call.
pub(crate) struct SeesState(pub(crate) bool);

impl<S: Send + Sync> FromRequestParts<S> for SeesState {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let sees = authorize(&principal_of(parts), Action::ReadState, Object::Node).is_ok();
        Ok(Self(sees))
    }
}

/// The principal that the middleware has stored. Without the middleware the principal is anonymous.
fn principal_of(parts: &Parts) -> Principal {
    parts.extensions.get().cloned().unwrap_or(Principal::Anonymous)
}

/// The principal, if the request has a credential. Checked before the path, so that a client
/// without a credential learns nothing about addresses.
fn known_principal(parts: &Parts) -> Result<Principal, ApiError> {
    match principal_of(parts) {
        Principal::Anonymous => Err(ApiError::Unauthenticated),
        known => Ok(known),
    }
}
