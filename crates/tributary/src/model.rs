//! Ids, posts, and the one order of posts. Pure data; no I/O.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The largest id that is accepted, 2^63 - 1: SQLite integers are signed.
pub(crate) const ID_MAX: u64 = i64::MAX.unsigned_abs();

/// The columns of a posts table that hold [`References`].
pub(crate) const REFERENCE_COLUMNS: usize = 4;

/// Unless it is configured, the newest changes of all logs take this fraction of the budget of
/// memory (1/16).
pub(crate) const NEWS_SHARE_DEFAULT: usize = 16;

/// A longer follow list is refused and never cut, since a cut list would be a silently incomplete
/// timeline. At this length the list takes 800 KB, and its heads some 2,000 statements.
pub(crate) const FOLLOWEES_MAX: usize = 100_000;

/// The id is too large for the databases, or the text is not an id.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an id must be a decimal number from 0 to {ID_MAX}")]
#[non_exhaustive]
pub struct IdError;

/// Implements the id types. Their ids have the same limits and the same text form, and the compiler
/// keeps them apart.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u64);

        impl $name {
            /// The largest id, 2^63 - 1: all databases can store it.
            pub const MAX: Self = Self(ID_MAX);

            /// The id with this number; `None` above [`Self::MAX`].
            pub const fn new(id: u64) -> Option<Self> {
                if id <= ID_MAX { Some(Self(id)) } else { None }
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl From<u32> for $name {
            fn from(id: u32) -> Self {
                Self(id.into())
            }
        }

        impl TryFrom<u64> for $name {
            type Error = IdError;

            fn try_from(id: u64) -> Result<Self, IdError> {
                Self::new(id).ok_or(IdError)
            }
        }

        /// Decimal digits only: no sign, no blanks.
        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(IdError);
                }
                text.parse().ok().and_then(Self::new).ok_or(IdError)
            }
        }

        /// A string: JavaScript's numbers lose digits above 2^53.
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id_type! {
    /// A user, as reader or as author.
    UserId
}

id_type! {
    /// A post's id. It is unique only together with its author: adopted tables may have the same
    /// `AUTO_INCREMENT` id on two shards.
    PostId
}

/// The index of a shard in the configured order, which is also the order of the placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub(crate) u16);

impl ShardId {
    /// The shard with this index.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The index.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The index in a list of all shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A post's key in the post order: by time, then post id, then author id.
///
/// A timeline lists keys from the largest to the smallest. Real data has equal times, and ids need
/// not follow time, so all three parts are always compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostKey {
    /// The value of the time column in its own unit: milliseconds since 1970 (UTC) in our own
    /// tables.
    pub time: i64,
    /// The post's id.
    pub post: PostId,
    /// The author's id.
    pub author: UserId,
}

/// The author and the id of a post. Together they are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostAddress {
    /// The author's id.
    pub author: UserId,
    /// The post's id.
    pub post: PostId,
}

impl PostAddress {
    /// The address of the post with this key.
    pub fn of(key: &PostKey) -> Self {
        Self { author: key.author, post: key.post }
    }
}

/// `author:post`.
impl fmt::Display for PostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.author, self.post)
    }
}

impl FromStr for PostAddress {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (author, post) = text.split_once(':').ok_or(IdError)?;
        Ok(Self { author: author.parse()?, post: post.parse()? })
    }
}

/// The place down to which a user has read the home timeline: that of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadMarker {
    /// The post, which may be deleted. `None` if its author was erased.
    pub post: Option<PostAddress>,
    /// The time of the post, in the unit of [`PostKey::time`].
    pub time: i64,
    /// When the marker was moved here, in milliseconds since 1970 (UTC).
    pub updated_at: i64,
}

/// A post as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Post {
    /// The post's time, id and author, which decide its place in every timeline.
    pub key: PostKey,
    /// The text, byte for byte as stored.
    pub content: String,
    /// The posts that it refers to.
    pub references: References,
    /// The time of the last edit of the text, in milliseconds since 1970 (UTC). `None` if it was
    /// not edited, or by a program that did not store the time.
    pub edited_at: Option<i64>,
}

/// The time of an edit with this value of its column. Before 1970 and after the year 9999, no post
/// was edited.
pub(crate) fn edit_time(stored: Option<i64>) -> Option<i64> {
    const END_MS: i64 = 253_402_207_200_000;
    stored.filter(|ms| (0..END_MS).contains(ms))
}

/// The handle of a user, and the display name if there is one. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNames {
    /// The handle, then the display name: memory keeps many of these.
    text: Arc<str>,
    /// The number of bytes of the handle.
    split: usize,
}

impl UserNames {
    /// An empty display name is none.
    pub fn new(handle: &str, name: Option<&str>) -> Self {
        let text = [handle, name.unwrap_or_default()].concat().into();
        Self { text, split: handle.len() }
    }

    /// The handle (user name), without a sign in front of it.
    pub fn handle(&self) -> &str {
        &self.text[..self.split]
    }

    /// The display name, which need not be unique.
    pub fn name(&self) -> Option<&str> {
        Some(&self.text[self.split..]).filter(|name| !name.is_empty())
    }

    /// The number of bytes of both.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// The posts that a post refers to. They may not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The post that this one replies to.
    pub reply_to: Option<PostAddress>,
    /// The post that this one shows again.
    pub repost_of: Option<PostAddress>,
}

impl References {
    /// The values of the reference columns: author and post of the reply, then of the repost.
    pub(crate) fn ids(self) -> [Option<u64>; REFERENCE_COLUMNS] {
        let author = |at: Option<PostAddress>| at.map(|at| at.author.0);
        let post = |at: Option<PostAddress>| at.map(|at| at.post.0);
        let Self { reply_to, repost_of } = self;
        [author(reply_to), post(reply_to), author(repost_of), post(repost_of)]
    }

    /// The references with these values of the reference columns. A pair without two ids is none.
    pub(crate) fn from_ids(ids: [Option<u64>; REFERENCE_COLUMNS]) -> Self {
        let address = |author: Option<u64>, post: Option<u64>| {
            let (author, post) = (UserId::new(author?)?, PostId::new(post?)?);
            Some(PostAddress { author, post })
        };
        let [reply_author, reply_post, repost_author, repost_post] = ids;
        let reply_to = address(reply_author, reply_post);
        Self { reply_to, repost_of: address(repost_author, repost_post) }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Post {
    /// A post with this key and text, without references, and not edited.
    pub fn new(key: PostKey, content: impl Into<String>) -> Self {
        let references = References::default();
        Self { key, content: content.into(), references, edited_at: None }
    }
}

/// One user follows another. Also an entry of another list: its owner, and the user on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Follow {
    /// The user who reads.
    pub follower: UserId,
    /// The user whose posts are read.
    pub followee: UserId,
}

/// One of the lists of users that each user has. An entry of the list belongs to one owner and
/// names one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserList {
    /// The users whose posts the owner reads.
    Follows,
    /// The users whose posts are hidden from the owner.
    Mutes,
    /// The users whose posts are hidden from the owner, and who cannot see those of the owner.
    Blocks,
}

impl UserList {
    /// All lists.
    pub(crate) const ALL: [Self; 3] = [Self::Follows, Self::Mutes, Self::Blocks];
}

/// An entry of a list of mutes or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hide {
    /// [`UserList::Mutes`] or [`UserList::Blocks`].
    pub list: UserList,
    /// The user who mutes or blocks.
    pub owner: UserId,
    /// The user who is muted or blocked.
    pub user: UserId,
}

/// Identifies one request to post, so that repeating the request posts once. The client chooses
/// the key; keys of different authors are independent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The width of the key column in our table; a UUID needs 36.
    pub const CHARACTERS_MAX: usize = 255;

    /// A key of 1 to 255 visible ASCII characters; `None` for any other text.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::CHARACTERS_MAX).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The direction in which a timeline is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards smaller keys: the next page.
    Older,
    /// Towards larger keys: the previous page.
    Newer,
}

impl Direction {
    /// The order in which posts are read in this direction.
    pub(crate) fn compare(self, a: &PostKey, b: &PostKey) -> Ordering {
        match self {
            Self::Older => b.cmp(a),
            Self::Newer => a.cmp(b),
        }
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
        assert_eq!("0".parse(), Ok(UserId(0)));
        assert_eq!("9223372036854775807".parse(), Ok(UserId::MAX));
        assert_eq!((UserId::new(ID_MAX), UserId::new(ID_MAX + 1)), (Some(UserId::MAX), None));
        for bad in ["", "+1", "-1", " 1", "1.0", "9223372036854775808", "99999999999999999999", "x"]
        {
            assert_eq!(bad.parse::<PostId>(), Err(IdError), "{bad:?}");
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
