//! Cursors: places in the key order from which a page is read. Pure; it knows no HTTP and no SQL.
//!
//! A cursor is a keyset cursor: it holds a place *between* posts, never a count of posts, so
//! inserts and deletes elsewhere neither skip nor repeat a post. For every shard that was missing
//! when the page was made it also holds the place down to which that shard was last complete; when
//! the shard returns, the next page starts with what it had to leave out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::model::{Direction, PostId, PostKey, ShardId, UserId};

/// Longer texts are refused before they are decoded. A plain cursor has 38 characters; one that
/// names a thousand missing shards with a few different places stays below this.
pub const CURSOR_TEXT_MAX: usize = 4_096;

/// A place between two posts in key order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// Under the oldest post there can be.
    Bottom,
    /// Just beside a key, whether or not a post with this key still exists.
    Beside {
        /// The key.
        key: PostKey,
        /// On the newer side of the key.
        above: bool,
    },
    /// Over the newest post there can be.
    Top,
}

impl Edge {
    /// The place just on the older side of `key`.
    pub fn below(key: PostKey) -> Self {
        Self::Beside { key, above: false }
    }

    /// The place just on the newer side of `key`.
    pub fn above(key: PostKey) -> Self {
        Self::Beside { key, above: true }
    }

    /// What the edge means within one author's posts.
    pub fn for_author(self, author: UserId) -> AuthorEdge {
        match self {
            Self::Bottom => AuthorEdge::Bottom,
            Self::Top => AuthorEdge::Top,
            Self::Beside { key, above } => {
                // A post of this author with the key's own time and id lies under the edge if its
                // author decides so, or if it is the key itself and the edge is over it.
                let includes = author < key.author || (author == key.author && above);
                AuthorEdge::At { time: key.time, post: key.post.0 + u64::from(includes) }
            }
        }
    }
}

/// An [`Edge`] within one author's posts, where (time, post id) alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorEdge {
    /// All the author's posts are newer.
    Bottom,
    /// Older are the posts with `time < T or (time = T and post < P)`, newer all others.
    At {
        /// T, in the column's unit.
        time: i64,
        /// P, from 0 to 2^63.
        post: u64,
    },
    /// All the author's posts are older.
    Top,
}

/// A wish to read an author's tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailQuery {
    /// Whose posts.
    pub author: UserId,
    /// From where, exclusive, in the direction of the merge.
    pub from: AuthorEdge,
    /// How many at most, 1 to 100.
    pub count: u16,
}

/// A page starts here and reads this way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which way the page reads.
    pub direction: Direction,
    /// Where it starts, for every shard without a place of its own.
    pub edge: Edge,
    /// Where it starts for shards that were missing before.
    pub shard_edges: BTreeMap<ShardId, Edge>,
}

/// A text that is no cursor of ours.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor of this server; leave it out to start from the newest post")]
pub struct BadCursor;

impl Cursor {
    /// The start of the newest page.
    pub fn newest() -> Self {
        Self::older(Edge::Top)
    }

    /// Whether it leads towards newer posts.
    pub(crate) fn is_newer(&self) -> bool {
        self.direction == Direction::Newer
    }

    /// Everything older than `edge`.
    pub fn older(edge: Edge) -> Self {
        Self { direction: Direction::Older, edge, shard_edges: BTreeMap::new() }
    }

    /// Everything newer than `edge`.
    pub fn newer(edge: Edge) -> Self {
        Self { direction: Direction::Newer, edge, shard_edges: BTreeMap::new() }
    }

    /// Where this page starts on `shard`.
    pub fn edge_on(&self, shard: ShardId) -> Edge {
        self.shard_edges.get(&shard).copied().unwrap_or(self.edge)
    }
}

/// The first byte of every encoded cursor; a form that changes gets another one.
const VERSION: u8 = 1;

/// `version, direction, edge, groups` and for each group `edge, shard count (u16), shards (u16)`,
/// big-endian, as unpadded URL-safe base64. Shards with the same edge share a group.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION, u8::from(self.direction == Direction::Newer)];
        put_edge(&mut bytes, self.edge);
        let mut groups: BTreeMap<Edge, Vec<ShardId>> = BTreeMap::new();
        for (shard, edge) in &self.shard_edges {
            groups.entry(*edge).or_default().push(*shard);
        }
        for (edge, shards) in groups {
            put_edge(&mut bytes, edge);
            let count = u16::try_from(shards.len()).expect("at most SHARDS_MAX shards");
            bytes.extend(count.to_be_bytes());
            bytes.extend(shards.iter().flat_map(|shard| shard.0.to_be_bytes()));
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bytes = decode(text)?;
        let mut rest = bytes.as_slice();
        let [VERSION, direction] = take(&mut rest)? else { return Err(BadCursor) };
        let direction = match direction {
            0 => Direction::Older,
            1 => Direction::Newer,
            _ => return Err(BadCursor),
        };
        let edge = take_edge(&mut rest)?;
        let mut shard_edges = BTreeMap::new();
        while !rest.is_empty() {
            let group_edge = take_edge(&mut rest)?;
            for _ in 0..u16::from_be_bytes(take(&mut rest)?) {
                shard_edges.insert(ShardId(u16::from_be_bytes(take(&mut rest)?)), group_edge);
            }
        }
        Ok(Self { direction, edge, shard_edges })
    }
}

/// A place in a follow list: the user it goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowingCursor(pub UserId);

/// Stands where a timeline's cursor has its direction, so that neither is taken for the other.
const FOLLOWING: u8 = 2;

impl fmt::Display for FollowingCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION, FOLLOWING];
        bytes.extend(self.0.0.to_be_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for FollowingCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bytes = decode(text)?;
        let mut rest = bytes.as_slice();
        match (take(&mut rest)?, take_id(&mut rest)?, rest) {
            ([VERSION, FOLLOWING], id, []) => Ok(Self(UserId(id))),
            _ => Err(BadCursor),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, BadCursor> {
    if text.len() > CURSOR_TEXT_MAX {
        return Err(BadCursor);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)
}

fn put_edge(bytes: &mut Vec<u8>, edge: Edge) {
    match edge {
        Edge::Bottom => bytes.push(0),
        Edge::Top => bytes.push(1),
        Edge::Beside { key, above } => {
            bytes.push(2 + u8::from(above));
            bytes.extend(key.time.to_be_bytes());
            bytes.extend(key.post.0.to_be_bytes());
            bytes.extend(key.author.0.to_be_bytes());
        }
    }
}

fn take_edge(rest: &mut &[u8]) -> Result<Edge, BadCursor> {
    let [tag] = take(rest)?;
    match tag {
        0 => Ok(Edge::Bottom),
        1 => Ok(Edge::Top),
        2 | 3 => {
            let time = i64::from_be_bytes(take(rest)?);
            let post = PostId(take_id(rest)?);
            let author = UserId(take_id(rest)?);
            Ok(Edge::Beside { key: PostKey { time, post, author }, above: tag == 3 })
        }
        _ => Err(BadCursor),
    }
}

fn take_id(rest: &mut &[u8]) -> Result<u64, BadCursor> {
    Some(u64::from_be_bytes(take(rest)?)).filter(|id| *id <= crate::model::ID_MAX).ok_or(BadCursor)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadCursor> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(BadCursor)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ID_MAX;

    fn key() -> impl Strategy<Value = PostKey> {
        (any::<i64>(), 0..=ID_MAX, 0..=ID_MAX).prop_map(|(time, post, author)| PostKey {
            time,
            post: PostId(post),
            author: UserId(author),
        })
    }

    fn edge() -> impl Strategy<Value = Edge> {
        prop_oneof![
            Just(Edge::Bottom),
            Just(Edge::Top),
            (key(), any::<bool>()).prop_map(|(key, above)| Edge::Beside { key, above }),
        ]
    }

    proptest! {
        #[test]
        fn a_cursor_survives_encoding(
            newer in any::<bool>(),
            edge in edge(),
            shard_edges in prop::collection::btree_map((0u16..99).prop_map(ShardId), edge(), 0..9),
        ) {
            let direction = if newer { Direction::Newer } else { Direction::Older };
            let cursor = Cursor { direction, edge, shard_edges };
            let text = cursor.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn any_text_is_a_cursor_or_refused(text in "[A-Za-z0-9_=-]{0,80}") {
            let _: Result<Cursor, BadCursor> = text.parse();
        }

        /// Small numbers, so that times, posts and authors meet often.
        #[test]
        fn an_author_edge_splits_like_the_edge_itself(
            (time, post, author) in (0i64..3, 0u64..4, 0u64..4),
            (edge_time, edge_post, edge_author) in (0i64..3, 0u64..4, 0u64..4),
            above in any::<bool>(),
        ) {
            let key = PostKey { time, post: PostId(post), author: UserId(author) };
            let beside = PostKey {
                time: edge_time,
                post: PostId(edge_post),
                author: UserId(edge_author),
            };
            let edge = Edge::Beside { key: beside, above };
            let AuthorEdge::At { time: t, post: p } = edge.for_author(key.author) else {
                unreachable!("an edge beside a key is a place for every author")
            };
            prop_assert_eq!(time < t || (time == t && post < p), Edge::below(key) < edge);
        }
    }

    #[test]
    fn cursors_of_earlier_releases_stay_readable() {
        let key = PostKey { time: 1_651_362_712_000, post: PostId(7), author: UserId(9) };
        let mut cursor = Cursor::older(Edge::below(key));
        let plain = "AQACAAABgHzjScAAAAAAAAAABwAAAAAAAAAJ";
        assert_eq!(cursor.to_string(), plain);
        assert_eq!(plain.parse(), Ok(cursor.clone()));
        cursor.shard_edges.insert(ShardId(3), Edge::Top);
        assert_eq!(cursor.to_string(), format!("{plain}AQABAAM"));
    }

    #[test]
    fn a_follow_list_has_cursors_of_its_own() {
        let cursor = FollowingCursor(UserId(1 << 60));
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert_eq!(text.parse::<Cursor>(), Err(BadCursor));
        assert_eq!(Cursor::newest().to_string().parse::<FollowingCursor>(), Err(BadCursor));
    }

    #[test]
    fn damaged_texts_are_refused() {
        let whole = Cursor::newest().to_string();
        let long = "A".repeat(CURSOR_TEXT_MAX + 1);
        for bad in ["", "A", "AQ", "AgAB", "AQIB", "AQAE", "AQ AB", long.as_str()] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad:?}");
        }
        assert_eq!(whole, "AQAB");
        assert_eq!("AQACAAAB".parse::<Cursor>(), Err(BadCursor), "an edge cut short");
    }
}
