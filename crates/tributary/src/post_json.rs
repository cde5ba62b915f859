//! The JSON of one post. Memory stores it, and HTTP copies it into its answers as it is, so both
//! have to agree on it. Ids are strings: they exceed 2^53, where JavaScript's numbers lose digits.

use serde::{Deserialize, Serialize};

use crate::clock::{epoch_ms, rfc3339_ms};
use crate::model::{Post, PostAddress, PostKey, References, UserNames};
use crate::moment::PostTimes;

/// A post as the API shows it.
#[derive(Debug, Serialize)]
pub struct PostJson<'a> {
    post_id: String,
    author_id: String,
    content: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<AddressJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repost_of: Option<AddressJson>,
    /// Memory stores the names beside the JSON: they may change without a change of the post.
    #[serde(skip_serializing_if = "Option::is_none")]
    author_handle: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author_name: Option<&'a str>,
}

/// The address of a post in JSON.
#[derive(Debug, Serialize, Deserialize)]
struct AddressJson {
    author_id: String,
    post_id: String,
}

impl AddressJson {
    fn new(address: PostAddress) -> Self {
        let PostAddress { author, post } = address;
        Self { author_id: author.to_string(), post_id: post.to_string() }
    }

    fn address(&self) -> Option<PostAddress> {
        let (author, post) = (self.author_id.parse().ok()?, self.post_id.parse().ok()?);
        Some(PostAddress { author, post })
    }
}

/// The part of a stored post that the library reads back.
#[derive(Deserialize)]
struct StoredPost {
    content: String,
    edited_at: Option<String>,
    reply_to: Option<AddressJson>,
    repost_of: Option<AddressJson>,
}

impl<'a> PostJson<'a> {
    /// The JSON of a post without its author's names.
    pub fn new(post: &'a Post, times: &PostTimes) -> Self {
        Self {
            post_id: post.key.post.to_string(),
            author_id: post.key.author.to_string(),
            content: &post.content,
            created_at: rfc3339_ms(times.epoch_ms(post.key.time)),
            edited_at: post.edited_at.map(rfc3339_ms),
            reply_to: post.references.reply_to.map(AddressJson::new),
            repost_of: post.references.repost_of.map(AddressJson::new),
            author_handle: None,
            author_name: None,
        }
    }

    /// Adds the names of the author.
    #[must_use]
    pub fn named(self, names: Option<&'a UserNames>) -> Self {
        let (author_handle, author_name) =
            (names.map(UserNames::handle), names.and_then(UserNames::name));
        Self { author_handle, author_name, ..self }
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

/// Whether this may be the JSON of a repost. In a text, quotation marks have a backslash.
pub(crate) fn may_be_repost(json: &str) -> bool {
    json.contains("\"repost_of\":")
}

/// The post with this key that memory stores as JSON.
pub(crate) fn decode(key: PostKey, json: &str) -> Post {
    let Ok(stored) = serde_json::from_str::<StoredPost>(json) else { return Post::new(key, "") };
    let address = |at: Option<AddressJson>| at.and_then(|at| at.address());
    let (reply_to, repost_of) = (address(stored.reply_to), address(stored.repost_of));
    let references = References { reply_to, repost_of };
    let edited_at = stored.edited_at.and_then(|time| epoch_ms(&time));
    Post { key, content: stored.content, references, edited_at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PostId, UserId};

    #[test]
    fn a_post_is_decoded_as_it_was_encoded() {
        let key = PostKey { time: 7, post: PostId(3), author: UserId(9) };
        let address = |author, post| PostAddress { author: UserId(author), post: PostId(post) };
        for reply_to in [None, Some(address(1, 2))] {
            for repost_of in [None, Some(address(u64::MAX >> 1, 0))] {
                let references = References { reply_to, repost_of };
                let edited_at = reply_to.map(|_| 1_651_362_712_007);
                let post = Post { references, edited_at, ..Post::new(key, "\"repost_of\": 1") };
                let json = encode(&post, &PostTimes::MILLISECONDS);
                assert_eq!(decode(key, &json), post);
                assert_eq!(may_be_repost(&json), repost_of.is_some());
                assert_eq!(References::from_ids(references.ids()), references);
            }
        }
    }

    #[test]
    fn the_size_of_a_text_is_known_before_it_is_encoded() {
        let text: String = ('\0'..'\u{200}').chain("🎉\u{2028}".chars()).collect();
        assert_eq!(text_bytes(&text) + 2, serde_json::to_string(&text).unwrap().len());
    }
}
