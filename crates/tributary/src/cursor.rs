//! Cursors: the places in the post order from which a page is read. Pure: no HTTP, no SQL.
//!
//! A cursor is a keyset cursor. It holds an *edge* between two posts and never a count of posts,
//! so inserts and deletes elsewhere neither skip nor repeat a post. For every shard that was
//! missing when the page was made, the cursor also holds a second edge: the reader has seen all
//! posts of that shard that are newer than this edge. When the shard returns, the next page starts
//! with the posts that were missing.

mod seen;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

pub(crate) use self::seen::{Seen, SeenHash};
use crate::model::{Direction, PostId, PostKey, ShardId, UserId};

/// Longer texts are rejected before they are decoded. A plain cursor has 36 characters. A cursor
/// that names a thousand missing shards with a few different edges stays below this limit.
pub(crate) const CURSOR_TEXT_MAX: usize = 4_096;

/// A place between two posts in the post order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// Older than every possible post.
    Bottom,
    /// Next to a key, whether or not a post with this key still exists.
    Beside {
        /// The key.
        key: PostKey,
        /// True for the newer side of the key, false for the older side.
        above: bool,
    },
    /// Newer than every possible post.
    Top,
}

impl Edge {
    /// The edge on the older side of `key`.
    pub fn below(key: PostKey) -> Self {
        Self::Beside { key, above: false }
    }

    /// The edge on the newer side of `key`.
    pub fn above(key: PostKey) -> Self {
        Self::Beside { key, above: true }
    }

    /// The edge, or the one above `horizon` if that is lower.
    pub(crate) fn within(self, horizon: Option<PostKey>) -> Self {
        horizon.map_or(self, |horizon| self.min(Self::above(horizon)))
    }

    /// The same edge among the posts of one author.
    pub fn for_author(self, author: UserId) -> AuthorEdge {
        match self {
            Self::Bottom => AuthorEdge::Bottom,
            Self::Top => AuthorEdge::Top,
            Self::Beside { key, above } => {
                // With the key's time and id, an author's post is older than the edge in two
                // cases: the author id is smaller, or the post is the key itself and the edge is
                // above it.
                let includes = author < key.author || (author == key.author && above);
                AuthorEdge::At { time: key.time, post: key.post.0 + u64::from(includes) }
            }
        }
    }
}

/// An [`Edge`] among the posts of one author, whose order is (time, post id).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorEdge {
    /// All the author's posts are newer.
    Bottom,
    /// Posts with `time < T or (time = T and post < P)` are older, all others newer.
    At {
        /// T, in the unit of the time column.
        time: i64,
        /// P, from 0 to 2^63.
        post: u64,
    },
    /// All the author's posts are older.
    Top,
}

/// The edge where a page starts, and its direction. Encoded as text by [`ToString`] and
/// [`FromStr`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The direction in which the page is read.
    pub direction: Direction,
    /// The start on every shard that is not in `shard_edges`.
    pub edge: Edge,
    /// The start on shards that were missing from earlier pages.
    pub shard_edges: BTreeMap<ShardId, Edge>,
    /// The posts that earlier pages have shown, if reposts are collapsed.
    pub seen: Seen,
}

/// The text is not a cursor that this server made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a cursor of this server; omit it to start from the newest post")]
pub struct BadCursor;

impl Cursor {
    /// The start of the newest page.
    pub fn newest() -> Self {
        Self::older(Edge::Top)
    }

    /// Whether the page is read towards newer posts.
    pub fn is_newer(&self) -> bool {
        self.direction == Direction::Newer
    }

    /// A page of posts older than `edge`, newest first.
    pub fn older(edge: Edge) -> Self {
        let (shard_edges, seen) = (BTreeMap::new(), Seen::default());
        Self { direction: Direction::Older, edge, shard_edges, seen }
    }

    /// A page of posts newer than `edge`, the nearest to it.
    pub fn newer(edge: Edge) -> Self {
        Self { direction: Direction::Newer, ..Self::older(edge) }
    }

    /// The same place, after pages that have shown these posts.
    pub(crate) fn after(self, seen: Seen) -> Self {
        Self { seen, ..self }
    }

    /// Whether no shard starts further than the others: the page has read all of those down, or up,
    /// to `edge`, and a missing shard less. Every cursor of this server is like that.
    pub(crate) fn is_ordered(&self) -> bool {
        self.shard_edges.values().all(|edge| match self.direction {
            Direction::Older => *edge >= self.edge,
            Direction::Newer => *edge <= self.edge,
        })
    }

    /// The same page, without posts above `horizon` if it is read towards older ones.
    pub(crate) fn within(&self, horizon: Option<PostKey>) -> Self {
        let mut cursor = self.clone();
        if self.direction == Direction::Older {
            cursor.edge = cursor.edge.within(horizon);
            cursor.shard_edges.values_mut().for_each(|edge| *edge = edge.within(horizon));
        }
        cursor
    }

    /// The edge where the page starts on `shard`.
    pub fn edge_on(&self, shard: ShardId) -> Edge {
        self.shard_edges.get(&shard).copied().unwrap_or(self.edge)
    }
}

/// The first byte of an encoded cursor; a changed format gets another number.
const VERSION: u8 = 1;
/// The first byte of a cursor with posts that were seen.
const VERSION_WITH_SEEN: u8 = 2;
/// Longest cursor with posts that were seen, in bytes: 4,000 characters, so that a seal has room.
const BYTES_WITH_SEEN_MAX: usize = 3_000;
/// Bytes of an edge beside a key: kind, time, post and author.
const EDGE_BYTES: usize = 25;

/// `version, direction, edge, groups`; with posts that were seen, their number (u16) and their
/// hashes are before the groups. A group is `edge, shard count (u16), shards (u16)`.
/// All numbers are big-endian; the text is unpadded URL-safe base64. Shards with the same edge are
/// in one group.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.append_to(&mut text);
        f.write_str(&text)
    }
}

impl Cursor {
    /// Appends the text of the cursor.
    pub fn append_to(&self, text: &mut String) {
        let mut bytes = Vec::with_capacity(2 + EDGE_BYTES);
        let groups = self.groups();
        let room = BYTES_WITH_SEEN_MAX.saturating_sub(2 + EDGE_BYTES + groups.len());
        let has_seen = !self.seen.is_empty() && Seen::fits(room);
        let version = if has_seen { VERSION_WITH_SEEN } else { VERSION };
        bytes.extend([version, u8::from(self.direction == Direction::Newer)]);
        put_edge(&mut bytes, self.edge);
        if has_seen {
            self.seen.put(&mut bytes, room);
        }
        bytes.extend(groups);
        URL_SAFE_NO_PAD.encode_string(bytes, text);
    }

    /// The edges of missing shards.
    fn groups(&self) -> Vec<u8> {
        let mut groups: BTreeMap<Edge, Vec<ShardId>> = BTreeMap::new();
        for (shard, edge) in &self.shard_edges {
            groups.entry(*edge).or_default().push(*shard);
        }
        let mut bytes = Vec::new();
        for (edge, shards) in groups {
            put_edge(&mut bytes, edge);
            let count = u16::try_from(shards.len()).expect("at most SHARDS_MAX shards");
            bytes.extend(count.to_be_bytes());
            bytes.extend(shards.iter().flat_map(|shard| shard.0.to_be_bytes()));
        }
        bytes
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bytes = decode(text)?;
        let mut rest = bytes.as_slice();
        let [version @ (VERSION | VERSION_WITH_SEEN), direction] = take(&mut rest)? else {
            return Err(BadCursor);
        };
        let direction = match direction {
            0 => Direction::Older,
            1 => Direction::Newer,
            _ => return Err(BadCursor),
        };
        let edge = take_edge(&mut rest)?;
        let seen = match version {
            VERSION_WITH_SEEN if bytes.len() > BYTES_WITH_SEEN_MAX => return Err(BadCursor),
            VERSION_WITH_SEEN => Seen::take(&mut rest)?,
            _ => Seen::default(),
        };
        let mut shard_edges = BTreeMap::new();
        while !rest.is_empty() {
            let group_edge = take_edge(&mut rest)?;
            for _ in 0..u16::from_be_bytes(take(&mut rest)?) {
                shard_edges.insert(ShardId(u16::from_be_bytes(take(&mut rest)?)), group_edge);
            }
        }
        Ok(Self { direction, edge, shard_edges, seen })
    }
}

/// A place in a follow list: the first user of the next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowingCursor(pub UserId);

/// The byte that a timeline cursor has for its direction; it keeps the two kinds of cursor apart.
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
    use crate::model::{ID_MAX, PostAddress};

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
            shown in prop::collection::vec((0..=ID_MAX, 0..=ID_MAX), 0..300),
        ) {
            let direction = if newer { Direction::Newer } else { Direction::Older };
            let mut seen = Seen::default();
            for (author, post) in shown {
                seen.add(PostAddress { author: UserId(author), post: PostId(post) });
            }
            let cursor = Cursor { direction, edge, shard_edges, seen };
            let text = cursor.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn any_text_is_a_cursor_or_refused(text in "[A-Za-z0-9_=-]{0,80}") {
            let _: Result<Cursor, BadCursor> = text.parse();
        }

        /// Small numbers, so that equal times, posts and authors are frequent.
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
                unreachable!("an edge next to a key is next to a post for every author")
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
        let newest = Cursor::newest().to_string();
        let long = "A".repeat(CURSOR_TEXT_MAX + 1);
        let mut missing = Cursor::newest();
        for shard in 0..1_000 {
            missing.shard_edges.insert(ShardId(shard), Edge::Bottom);
        }
        for post in 0..300 {
            let post = PostId(post);
            missing.seen.add(PostAddress { author: UserId(1), post });
        }
        let text = missing.to_string();
        assert!(text.len() <= CURSOR_TEXT_MAX, "{}", text.len());
        assert_eq!(text.parse::<Cursor>().unwrap().shard_edges, missing.shard_edges);
        for bad in ["", "A", "AQ", "AgAB", "AQIB", "AQAE", "AQ AB", long.as_str()] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad:?}");
        }
        assert_eq!(newest, "AQAB");
        assert_eq!("AQACAAAB".parse::<Cursor>(), Err(BadCursor), "an edge cut short");
    }
}
