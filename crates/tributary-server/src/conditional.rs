//! Conditional requests: the tags of answers, and 304 in place of an answer that the client has.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use twox_hash::XxHash64;

/// A hash of the body of an answer. Equal bodies have equal tags on every node with the same cursor
/// keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u64);

impl Tag {
    pub(super) fn of(body: &[u8]) -> Self {
        Self(XxHash64::oneshot(0, body))
    }

    /// Sets the `ETag` header. The tag is weak: a compressed answer has it too.
    pub(super) fn set(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_bytes(&self.text()) {
            headers.insert(header::ETAG, value);
        }
    }

    /// `W/"0123456789abcdef"`.
    fn text(self) -> [u8; 20] {
        let mut text = *b"W/\"0000000000000000\"";
        for (place, digit) in text[3..19].iter_mut().zip((0..16).rev()) {
            *place = b"0123456789abcdef"[(self.0 >> (4 * digit) & 0xf) as usize];
        }
        text
    }

    /// Whether these values of `If-None-Match` have the tag.
    pub(super) fn is_in<'a>(self, known: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
        let text = self.text();
        known.into_iter().any(|known| names(known, &text))
    }
}

/// The answer to a `GET` or `HEAD`: 304 without a body, if `If-None-Match` has its tag. The token
/// stays, because that of an equal page can be newer.
pub(super) fn unless_known<'a, B: Default>(
    known: impl IntoIterator<Item = &'a HeaderValue>,
    mut response: Response<B>,
) -> Response<B> {
    let tag = response.headers().get(header::ETAG);
    if tag.is_some_and(|tag| known.into_iter().any(|known| names(known, tag.as_bytes()))) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = B::default();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().remove(header::LINK);
    }
    response
}

/// Whether a value of `If-None-Match` has this tag; `W/` is ignored (RFC 9110, weak comparison).
fn names(known: &HeaderValue, tag: &[u8]) -> bool {
    let tag = opaque(tag);
    let mut known = known.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    known.any(|known| known == b"*" || opaque(known) == tag)
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_is_answered_without_a_body() {
        let status = |known: &[&str]| {
            let mut response = Response::new("body");
            Tag(7).set(response.headers_mut());
            let known: Vec<HeaderValue> = known.iter().map(|tag| tag.parse().unwrap()).collect();
            let is_in = Tag(7).is_in(&known);
            let response = unless_known(&known, response);
            assert_eq!(response.body().is_empty(), response.status() == 304);
            assert_eq!(is_in, response.status() == 304);
            response.status().as_u16()
        };
        assert_eq!(&Tag(0x0123_4567_89ab_cdef).text(), b"W/\"0123456789abcdef\"");
        let tag = "\"0000000000000007\"";
        let weak = format!("W/{tag}");
        for known in [&[tag][..], &[&weak], &["*"], &["\"x\"", tag], &["\"a\" , W/\"b\"", &weak]] {
            assert_eq!(status(known), 304, "{known:?}");
        }
        assert_eq!(status(&[&format!("\"a\",{weak} ,\"b\"")]), 304);
        for known in
            [&[][..], &[""], &["0000000000000007"], &["\"7\""], &["w/\"0000000000000007\""]]
        {
            assert_eq!(status(known), 200, "{known:?}");
        }
    }
}
