//! One entry for each decoder of requests and of files with credentials. Fuzz targets and a test
//! call them with arbitrary bytes.

use axum::extract::FromRequestParts;
use axum::http::{HeaderName, HeaderValue, Request};
use futures_util::FutureExt;
use tributary::UserId;

use super::auth::{Access, CursorKeys, Purpose};
pub use super::auth::{service_keys, token_keys, user_token};
use super::frame::TraceId;
use super::query::{Parameters, check_query, idempotency_key, parse_body};
use super::wire::{FollowChange, NewPost};

/// The address of a request, and lines of headers.
pub fn request(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    let uri = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    let Some(uri) = uri else { return };
    *request.uri_mut() = uri;
    for line in lines {
        let Some(middle) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..middle]);
        let value = HeaderValue::from_bytes(line[middle + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let _ = Access::local(&["example.org".to_owned()]).admit(&request);
    let _ = check_query(request.uri());
    let _ = idempotency_key(request.headers());
    TraceId::of(request.headers());
    let keys = CursorKeys::random();
    let (mut parts, ()) = request.into_parts();
    if let Some(Ok(parameters)) = Parameters::from_request_parts(&mut parts, &keys).now_or_never() {
        let _ = parameters.page(Purpose::Home(UserId::from(1)));
    }
}

/// The JSON bodies of requests.
pub fn body(data: &[u8]) {
    if let Ok(FollowChange::Follow(users) | FollowChange::Unfollow(users)) = parse_body(data) {
        for user in users {
            let _ = user.parse::<UserId>();
        }
    }
    let _ = parse_body::<NewPost>(data);
}
