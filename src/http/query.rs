//! What a request says, checked.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;

use super::error::ApiError;
use crate::cursor::Cursor;
use crate::model::{UserId, parse_id};
use crate::timeline::{Limit, PageRequest};

/// The parameters that the routes of timelines and lists know, checked. Others are ignored.
#[derive(Debug)]
pub(super) struct Parameters {
    /// Of a timeline or of a list: which, the route knows.
    pub(super) cursor: Option<String>,
    pub(super) limit: Limit,
    /// Whether an incomplete answer is to be an error.
    pub(super) require_complete: bool,
}

#[derive(Deserialize)]
struct RawParameters {
    cursor: Option<String>,
    limit: Option<String>,
    require: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<RawParameters>::try_from_uri(&parts.uri);
        let Query(RawParameters { cursor, limit, require }) =
            query.map_err(|_| ApiError::BadQuery("each parameter may appear once, in UTF-8"))?;
        let require_complete = match require.as_deref() {
            None => false,
            Some("complete") => true,
            Some(_) => return Err(ApiError::BadQuery("`require` knows only the value `complete`")),
        };
        let limit = match limit {
            None => Limit::DEFAULT,
            Some(text) => parse_id(&text)
                .and_then(|limit| u8::try_from(limit).ok())
                .and_then(Limit::new)
                .ok_or(ApiError::BadLimit)?,
        };
        Ok(Self { cursor, limit, require_complete })
    }
}

impl Parameters {
    /// The page of a timeline that is asked for.
    pub(super) fn page(&self) -> Result<PageRequest, ApiError> {
        let cursor = match &self.cursor {
            Some(text) => text.parse()?,
            None => Cursor::newest(),
        };
        Ok(PageRequest { cursor, limit: self.limit })
    }

    /// Refuses an incomplete answer if the request does.
    pub(super) fn accept(&self, complete: bool) -> Result<(), ApiError> {
        if self.require_complete && !complete { Err(ApiError::Incomplete) } else { Ok(()) }
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
