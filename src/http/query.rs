//! What a request says, checked.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;

use super::error::ApiError;
use crate::cursor::Cursor;
use crate::model::{UserId, parse_id};
use crate::timeline::{Limit, PageRequest};

/// The parameters that the routes of timelines and lists know. Others are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    cursor: Option<String>,
    limit: Option<String>,
    require: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<Self>::try_from_uri(&parts.uri);
        query.map(|Query(parameters)| parameters).map_err(|_| ApiError::BadQuery("see docs/api.md"))
    }
}

impl Parameters {
    /// The page that is asked for.
    pub(super) fn page(&self) -> Result<PageRequest, ApiError> {
        let cursor = match &self.cursor {
            Some(text) => text.parse()?,
            None => Cursor::newest(),
        };
        Ok(PageRequest { cursor, limit: self.limit()? })
    }

    pub(super) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    pub(super) fn limit(&self) -> Result<Limit, ApiError> {
        let Some(text) = &self.limit else { return Ok(Limit::DEFAULT) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let limit = text.parse().ok().filter(|_| digits).and_then(Limit::new);
        limit.ok_or(ApiError::BadLimit)
    }

    /// Whether an incomplete answer is to be an error.
    pub(super) fn requires_complete(&self) -> Result<bool, ApiError> {
        match self.require.as_deref() {
            None => Ok(false),
            Some("complete") => Ok(true),
            Some(_) => Err(ApiError::BadQuery("require knows only the value `complete`")),
        }
    }
}

/// The user id in the path.
pub(super) struct User(pub(super) UserId);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(text)| parse_id(&text));
        id.map(|id| Self(UserId(id))).ok_or(ApiError::BadUserId)
    }
}
