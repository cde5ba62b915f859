//! The vocabulary: ids, the one sort order of posts, and posts. Pure data; it knows no I/O.

use std::fmt;

/// The largest id that is accepted. SQLite integers are signed, so ids stay below 2^63.
pub const ID_MAX: u64 = i64::MAX.unsigned_abs();

/// A user, as reader or as author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub u64);

/// A post's id. It is unique together with its author only: adopted tables may carry one
/// `AUTO_INCREMENT` id on two shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostId(pub u64);

/// The index of a shard in the configured order, which is also the order placement counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in a list of all shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A post's place in the one order there is: by time, then post id, then author id.
///
/// A timeline lists keys from the largest down. Times tie in real data and ids need not be in time
/// order, so all three parts are compared, always in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostKey {
    /// The timestamp column's value in its own unit: epoch milliseconds in our tables.
    pub time: i64,
    /// The post's id.
    pub post: PostId,
    /// The author's id.
    pub author: UserId,
}

/// A post as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Where the post stands in every timeline; holds its time, id and author.
    pub key: PostKey,
    /// The text, byte for byte as stored.
    pub content: String,
}

/// One reader follows one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Follow {
    /// Who reads.
    pub follower: UserId,
    /// Who is read.
    pub followee: UserId,
}

/// Names one wish to post, so that asking again posts once. The client chooses it; it counts among
/// the keys of one author only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// What our table holds; far more than a UUID.
    pub const CHARACTERS_MAX: usize = 255;

    /// 1 to 255 visible ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::CHARACTERS_MAX).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which way a timeline is read from a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards smaller keys: the next page.
    Older,
    /// Towards larger keys: the previous page.
    Newer,
}

/// A decimal number from 0 to 2^63-1, or nothing: no sign, no blanks.
pub fn parse_id(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_by_time_then_post_then_author() {
        let key = |time, post, author| PostKey { time, post: PostId(post), author: UserId(author) };
        let mut keys = vec![key(2, 1, 1), key(1, 9, 9), key(1, 9, 8), key(1, 8, 10)];
        keys.sort();
        assert_eq!(keys, [key(1, 8, 10), key(1, 9, 8), key(1, 9, 9), key(2, 1, 1)]);
    }

    #[test]
    fn ids_are_plain_decimals_below_two_to_the_63() {
        assert_eq!(parse_id("0"), Some(0));
        assert_eq!(parse_id("9223372036854775807"), Some(ID_MAX));
        for bad in ["", "+1", "-1", " 1", "1.0", "9223372036854775808", "99999999999999999999", "x"]
        {
            assert_eq!(parse_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn keys_are_visible_ascii() {
        for good in ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "\"!~\"", &"k".repeat(255)] {
            assert_eq!(IdempotencyKey::new(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a\n", "é", &"k".repeat(256)] {
            assert_eq!(IdempotencyKey::new(bad), None, "{bad:?}");
        }
    }
}
