//! Signing in: a credential of the API moves into a cookie that scripts cannot read and that other
//! sites cannot send. There is no session on the server: it checks the credential at each request.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::super::auth::{Access, SessionCookie, cookie};
use crate::error::ApiError;
use crate::query::form_body;

#[derive(Deserialize)]
struct SignIn {
    credential: String,
}

/// `POST /sign-in`: stores a valid credential in the cookie.
pub(super) async fn sign_in(
    State(access): State<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    if !cookie::is_same_origin(&request) {
        return Err(ApiError::CrossSite);
    }
    let encrypted = cookie::is_encrypted(&request);
    let SignIn { credential } = form_body(request).await?;
    let credential = credential.trim();
    if !access.is_valid(credential) {
        return Err(ApiError::SignInRefused);
    }
    let stored = cookie_of(&access).stored(credential, encrypted);
    Ok(to_start(stored.ok_or(ApiError::SignInRefused)?))
}

/// `POST /sign-out`: ends the cookie.
pub(super) async fn sign_out(
    State(access): State<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    if !cookie::is_same_origin(&request) {
        return Err(ApiError::CrossSite);
    }
    Ok(to_start(cookie_of(&access).ended()))
}

/// The cookie of this listener.
fn cookie_of(access: &Access) -> SessionCookie {
    access.session_cookie().unwrap_or(SessionCookie::Public)
}

fn to_start(cookie: HeaderValue) -> Response {
    let start = HeaderValue::from_static("/");
    (StatusCode::SEE_OTHER, [(header::LOCATION, start), (header::SET_COOKIE, cookie)])
        .into_response()
}
