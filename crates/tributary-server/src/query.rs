//! Extractors: they parse and check the query, the headers and the body of a request. Those of
//! `auth::guard` parse the path.

use std::collections::HashSet;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tributary::posts::PostAddress;
use tributary::{BadCursor, Cursor, Freshness, IdempotencyKey, Limit, PageRequest};

use super::auth::{CursorKeys, Purpose};
use super::error::ApiError;
use super::frame::BodyLimit;
use super::stream::TooManyBytes;

/// The query of a home timeline with the posts of its reader.
pub(super) const INCLUDE_SELF: &str = "?include_self=1";
/// Holds a freshness token, in requests and in answers.
pub(super) const FRESHNESS_HEADER: HeaderName = HeaderName::from_static("tributary-freshness");
/// `true` on an answer that is older than the freshness token of its request.
pub(super) const FRESHNESS_LOST_HEADER: HeaderName =
    HeaderName::from_static("tributary-freshness-lost");
/// The time limit for a client to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest header with freshness tokens. A token of a hundred logs has about 2,160 characters.
const FRESHNESS_CHARACTERS_MAX: usize = 8_192;

/// Largest body of a form, in bytes.
const FORM_BYTES_MAX: u64 = 16 * 1024;

/// Levels of arrays and objects in a body. Known bodies have two.
const JSON_DEPTH_MAX: usize = 8;

/// Longest error text about an invalid body. The text may quote field names that the client chose.
const PROBLEM_CHARACTERS: usize = 200;

/// The checked parameters of the routes for timelines and lists of users. Unknown parameters are
/// ignored.
#[derive(Debug)]
pub(super) struct Parameters {
    /// The text of a cursor, with its seal.
    cursor: Option<String>,
    pub(super) limit: Limit,
    /// Whether an incomplete answer is an error (`require=complete`).
    pub(super) require_complete: bool,
    /// Whether a home timeline has the posts of its reader (`include_self=1`).
    pub(super) include_self: bool,
    /// Whether a home timeline shows each post once (`reposts=collapse`).
    pub(super) collapse_reposts: bool,
    /// The post that a page of a home timeline is around (`around=author:post`).
    pub(super) around: Option<PostAddress>,
    /// The freshness that the page must have reached; empty without a token.
    pub(super) at_least: Freshness,
    /// Opens the cursor, and seals those of the answer.
    pub(super) cursor_keys: CursorKeys,
}

#[derive(Deserialize)]
struct RawParameters {
    cursor: Option<String>,
    limit: Option<String>,
    require: Option<String>,
    include_self: Option<String>,
    reposts: Option<String>,
    around: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters
where
    CursorKeys: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let cursor_keys = CursorKeys::from_ref(state);
        let query = Query::<RawParameters>::try_from_uri(&parts.uri);
        let Query(RawParameters { cursor, limit, require, include_self, reposts, around }) = query
            .map_err(|_| ApiError::BadQuery("each parameter may appear once and must be UTF-8"))?;
        let is_set = |value: Option<String>, only: &str, error| match value.as_deref() {
            None => Ok(false),
            Some(value) if value == only => Ok(true),
            Some(_) => Err(ApiError::BadQuery(error)),
        };
        let require_complete =
            is_set(require, "complete", "the only value of `require` is `complete`")?;
        let include_self = is_set(include_self, "1", "the only value of `include_self` is `1`")?;
        let collapse_reposts =
            is_set(reposts, "collapse", "the only value of `reposts` is `collapse`")?;
        let around = around.map(|address| address.parse()).transpose();
        let around = around.map_err(|_| ApiError::BadQuery("`around` must be `author:post`"))?;
        if around.is_some() && cursor.is_some() {
            return Err(ApiError::BadQuery("`around` and `cursor` exclude each other"));
        }
        if around.is_some() && collapse_reposts {
            return Err(ApiError::BadQuery("`around` and `reposts` exclude each other"));
        }
        let limit = parse_limit(limit.as_deref())?;
        let at_least = freshness_of(&parts.headers, &cursor_keys)?;
        Ok(Self {
            cursor,
            limit,
            require_complete,
            include_self,
            collapse_reposts,
            around,
            at_least,
            cursor_keys,
        })
    }
}

impl Parameters {
    /// The text of the cursor as it was sent; empty without one.
    pub(super) fn sealed_cursor(&self) -> &str {
        self.cursor.as_deref().unwrap_or_default()
    }

    /// The requested page of a timeline, whose cursors have this purpose. The route that heeds
    /// `around` takes it out first.
    pub(super) fn page(&self, purpose: Purpose) -> Result<PageRequest, ApiError> {
        if self.around.is_some() {
            return Err(ApiError::BadQuery("`around` is for `GET /v1/users/{user_id}/feed` only"));
        }
        let cursor = self.cursor(purpose)?.unwrap_or_else(Cursor::newest);
        let request = PageRequest::default().from(cursor).limit(self.limit);
        let request = request.at_least(self.at_least.clone());
        let request = if self.include_self { request.include_self() } else { request };
        Ok(if self.collapse_reposts { request.collapse_reposts() } else { request })
    }

    /// Refuses the parameters of home timelines: an answer of another route would look as if it
    /// heeded them.
    pub(super) fn refuse_those_of_home(&self) -> Result<(), ApiError> {
        if self.include_self || self.collapse_reposts || self.around.is_some() {
            let text = "`include_self`, `reposts` and `around` are for home timelines only";
            return Err(ApiError::BadQuery(text));
        }
        Ok(())
    }

    /// The parameters that the addresses of the pages before and after this one have, too.
    pub(super) fn lasting(&self) -> &'static str {
        match (self.include_self, self.collapse_reposts) {
            (false, false) => "",
            (true, false) => INCLUDE_SELF,
            (false, true) => "?reposts=collapse",
            (true, true) => "?include_self=1&reposts=collapse",
        }
    }

    /// Whether the request has a cursor.
    pub(super) fn has_cursor(&self) -> bool {
        self.cursor.is_some()
    }

    /// The cursor of the request, if it has one.
    pub(super) fn cursor<C: FromStr<Err = BadCursor>>(
        &self,
        purpose: Purpose,
    ) -> Result<Option<C>, ApiError> {
        let Some(sealed) = &self.cursor else { return Ok(None) };
        Ok(Some(self.cursor_keys.open(purpose, sealed)?.parse()?))
    }

    /// Returns [`ApiError::Incomplete`] if the request requires a complete answer and this is
    /// none.
    pub(super) fn accept(&self, complete: bool) -> Result<(), ApiError> {
        if self.require_complete && !complete { Err(ApiError::Incomplete(None)) } else { Ok(()) }
    }
}

/// The value of the parameter `limit`.
pub(super) fn parse_limit(text: Option<&str>) -> Result<Limit, ApiError> {
    let Some(text) = text else { return Ok(Limit::DEFAULT) };
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .and_then(Limit::new)
        .ok_or(ApiError::BadLimit)
}

/// The JSON body as a `T`. Its length is limited by [`BodyLimit`], its arrival by
/// [`BODY_TIMEOUT`].
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::BadBodyType);
        }
        let limit = request.extensions().get::<BodyLimit>().map_or(0, |limit| limit.0);
        let read = timeout(BODY_TIMEOUT, read_body(request.into_body(), limit));
        let body = read.await.map_err(|_| ApiError::SlowBody)??;
        parse_body(&body).map(Self)
    }
}

/// The fields of a form that a page has sent, at most [`FORM_BYTES_MAX`].
pub(super) async fn form_body<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let read = timeout(BODY_TIMEOUT, read_body(request.into_body(), FORM_BYTES_MAX));
    let body = read.await.map_err(|_| ApiError::SlowBody)??;
    serde_urlencoded::from_bytes(&body)
        .map_err(|_| ApiError::BadBody("expected the fields of the form".to_owned()))
}

/// The JSON object in a body.
pub(super) fn parse_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would also take an array of the values of the fields.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::BadBody("expected an object".to_owned()));
    }
    if depth_of(body) > JSON_DEPTH_MAX {
        let text = format!("it is nested more than {JSON_DEPTH_MAX} levels deep");
        return Err(ApiError::BadBody(text));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::BadBody(error.to_string().chars().take(PROBLEM_CHARACTERS).collect())
    })
}

/// The deepest nesting of arrays and objects in a JSON text, which may be damaged.
fn depth_of(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Refuses a query string with a parameter that appears twice, whether or not the route knows it.
pub(super) fn check_query(uri: &Uri) -> Result<(), ApiError> {
    const REPEATED: ApiError = ApiError::BadQuery("each parameter may appear once");
    let Some(text) = uri.query() else { return Ok(()) };
    if !text.contains('&') {
        return Ok(());
    }
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| REPEATED)?.0;
    let mut seen = HashSet::new();
    match pairs.iter().all(|(name, _)| seen.insert(name)) {
        true => Ok(()),
        false => Err(REPEATED),
    }
}

/// The whole body. Its parts are copied, because each of them keeps the buffer that it was received
/// in.
async fn read_body(mut body: Body, limit: u64) -> Result<Vec<u8>, ApiError> {
    let limit_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.into_inner().is::<TooManyBytes>() {
            true => ApiError::Overloaded,
            false => ApiError::BrokenBody,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit_bytes {
            return Err(ApiError::BodyTooLarge(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

const BAD_HEADER: ApiError = ApiError::BadFreshness("the Tributary-Freshness header");

/// The freshness tokens of a request, merged; there may be several headers, and several tokens in
/// one of them.
pub(super) fn freshness_of(
    headers: &HeaderMap,
    cursor_keys: &CursorKeys,
) -> Result<Freshness, ApiError> {
    let mut all = Freshness::default();
    for value in headers.get_all(FRESHNESS_HEADER) {
        let text = value.to_str().ok().filter(|text| text.len() <= FRESHNESS_CHARACTERS_MAX);
        for sealed in text.ok_or(BAD_HEADER)?.split(',') {
            let token = cursor_keys.open(Purpose::Freshness, sealed.trim());
            let token = token.ok().and_then(|token| token.parse().ok());
            all.require(&token.ok_or(BAD_HEADER)?);
        }
    }
    Ok(all)
}

/// The `Idempotency-Key`, if the request has one. Two such headers are an error.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().and_then(IdempotencyKey::new);
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(ApiError::BadIdempotencyKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_texts_are_no_levels() {
        for (json, depth) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a": [], "b": [[1]]}"#, 3),
            (r#"{"a": "[[[{{{\"[[["}"#, 1),
            (r#"{"\\": [1]}"#, 2),
            ("]]}}[", 1),
        ] {
            assert_eq!(depth_of(json.as_bytes()), depth, "{json}");
        }
    }
}
