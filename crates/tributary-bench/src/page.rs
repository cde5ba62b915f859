//! Parses the server's JSON pages and posts. Pure.

use jiff::Timestamp;
use serde::Deserialize;
use tributary::PostKey;

use super::check::ReceivedPage;

/// The fields of a page that the benchmark reads.
#[derive(Deserialize)]
struct WirePage {
    posts: Vec<WirePost>,
    next: Option<String>,
    complete: bool,
    #[serde(default)]
    stale_shards: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WirePost {
    post_id: String,
    author_id: String,
    content: String,
    created_at: String,
}

impl WirePost {
    fn read(self) -> Option<(PostKey, String)> {
        let time = self.created_at.parse::<Timestamp>().ok()?.as_millisecond();
        let post = self.post_id.parse().ok()?;
        let author = self.author_id.parse().ok()?;
        Some((PostKey { time, post, author }, self.content))
    }
}

/// Parses a page. The second value is true if no shard is missing or stale.
///
/// # Errors
/// A text, if the body is not a page or an id or a time is malformed.
pub(super) fn read_page(body: &[u8]) -> Result<(ReceivedPage, bool), String> {
    let page: WirePage =
        serde_json::from_slice(body).map_err(|error| format!("the body is not a page: {error}"))?;
    let complete = page.complete && page.stale_shards.is_empty();
    let posts: Option<Vec<(PostKey, String)>> =
        page.posts.into_iter().map(WirePost::read).collect();
    let posts = posts.ok_or("a post on the page has a malformed id or time")?;
    Ok((ReceivedPage { posts, has_next: page.next.is_some() }, complete))
}

/// Parses the post in the body of a 201.
pub(super) fn read_post(body: &[u8]) -> Option<(PostKey, String)> {
    serde_json::from_slice::<WirePost>(body).ok()?.read()
}

/// Finds the cursor `next` or `prev` of a page without parsing the page.
///
/// It searches backwards, because cursors are the last fields. A post's text cannot contain the
/// pattern, because quotes in it are escaped.
pub(super) fn cursor<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let pattern = format!("\"{name}\":\"");
    let found = body.windows(pattern.len()).rposition(|part| part == pattern.as_bytes())?;
    let rest = &body[found + pattern.len()..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// Whether a page contains this post; the page is not parsed.
pub(super) fn shows(body: &[u8], key: PostKey) -> bool {
    let pattern = format!("\"post_id\":\"{}\",\"author_id\":\"{}\"", key.post, key.author);
    body.windows(pattern.len()).any(|part| part == pattern.as_bytes())
}

#[cfg(test)]
mod tests {
    use tributary::{PostId, UserId};

    use super::*;

    const BODY: &str = r#"{"posts":[{"post_id":"7","author_id":"9","author_handle":"x",
        "content":"\"next\":\"no\"","created_at":"2025-01-01T00:00:00.001Z"}],
        "next":"abc","prev":"def","complete":true,"missing_shards":[],"stale_shards":[]}"#;

    #[test]
    fn pages_are_read_and_cursors_found() {
        let body = BODY.as_bytes();
        let (seen, complete) = read_page(body).unwrap();
        let key =
            PostKey { time: 1_735_689_600_001, post: PostId::from(7), author: UserId::from(9) };
        assert_eq!(seen.posts, [(key, "\"next\":\"no\"".to_owned())]);
        assert!(seen.has_next && complete && shows(body, key));
        assert!(!shows(body, PostKey { post: PostId::from(77), ..key }));
        assert_eq!((cursor(body, "next"), cursor(body, "prev")), (Some("abc"), Some("def")));
        let last = BODY.replace("\"abc\"", "null").replace("true", "false");
        assert_eq!(cursor(last.as_bytes(), "next"), None);
        let (seen, complete) = read_page(last.as_bytes()).unwrap();
        assert!(!seen.has_next && !complete);
        for bad in [BODY.replace("\"7\"", "\"x\""), BODY.replace("2025", "year"), "{".to_owned()] {
            assert!(read_page(bad.as_bytes()).is_err(), "{bad}");
        }
        let stale = BODY.replace("\"stale_shards\":[]", "\"stale_shards\":[{\"name\":\"a\"}]");
        assert!(!read_page(stale.as_bytes()).unwrap().1);
    }
}
