//! The JSON of one post. Memory stores it, and HTTP copies it into its answers as it is, so both
//! have to agree on it. Ids are strings: they exceed 2^53, where JavaScript's numbers lose digits.

use serde::{Deserialize, Serialize};

use crate::clock::rfc3339_ms;
use crate::model::Post;
use crate::moment::PostTimes;

/// A post as the API shows it.
#[derive(Debug, Serialize)]
pub struct PostJson<'a> {
    post_id: String,
    author_id: String,
    content: &'a str,
    created_at: String,
    /// Memory stores this name beside the JSON: it may change without a change of the post.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author_handle: Option<&'a str>,
}

/// The part of a stored post that the library reads back.
#[derive(Deserialize)]
struct StoredPost {
    content: String,
}

impl<'a> PostJson<'a> {
    /// The JSON of a post without its author's handle.
    pub fn new(post: &'a Post, times: &PostTimes) -> Self {
        Self {
            post_id: post.key.post.to_string(),
            author_id: post.key.author.to_string(),
            content: &post.content,
            created_at: rfc3339_ms(times.epoch_ms(post.key.time)),
            author_handle: None,
        }
    }
}

/// The JSON that memory stores of a post.
pub(crate) fn encode(post: &Post, times: &PostTimes) -> Box<str> {
    // Strings only: this cannot fail.
    serde_json::to_string(&PostJson::new(post, times)).unwrap_or_default().into()
}

/// The number of bytes that this text takes in JSON.
pub(crate) fn text_bytes(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    });
    bytes.sum()
}

/// The text of a post that memory stores as JSON.
pub(crate) fn decode_content(json: &str) -> String {
    serde_json::from_str::<StoredPost>(json).map(|post| post.content).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_text_is_known_before_it_is_encoded() {
        let text: String = ('\0'..'\u{200}').chain("🎉\u{2028}".chars()).collect();
        assert_eq!(text_bytes(&text) + 2, serde_json::to_string(&text).unwrap().len());
    }
}
