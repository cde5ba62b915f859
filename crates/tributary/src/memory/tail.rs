//! The newest posts of one author, and the users that must not see them. Pure.
//!
//! A tail answers for every post at or above its floor. The floor only rises. A deleted post
//! makes the tail shorter but no deeper. A post below the floor is not added, because its
//! neighbours down there are unknown.

use std::sync::Arc;

use crate::model::{UserId, UserNames};

/// A post's key among the posts of its author: (time, post id).
pub(crate) type TailKey = (i64, u64);

/// One post of a tail: its key, and its encoded body, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct TailPost {
    pub(crate) key: TailKey,
    pub(crate) body: Arc<str>,
}

/// A change to one author's posts.
#[derive(Clone, Debug)]
pub(crate) enum TailChange {
    /// The post exists and has this body.
    Put(TailPost),
    /// The post does not exist any more.
    Remove(TailKey),
    /// The author blocks this user.
    Block(UserId),
    /// The author does not block this user any more.
    Unblock(UserId),
    /// The author's posts changed in an unknown way.
    Unknown,
}

/// The newest posts of one author. A page reads the first two fields of many tails, so they are in
/// one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tail {
    /// Newest first.
    posts: Vec<TailPost>,
    /// The users that the author blocks, in ascending order. `None` if there are none.
    blocks: Option<Arc<[UserId]>>,
    /// The lowest key that the tail answers for. `None` if it holds all posts.
    floor: Option<TailKey>,
    limits: TailLimits,
    /// The author's names, if the shards have them.
    names: Option<UserNames>,
    /// Size of the bodies in bytes.
    bytes: usize,
}

/// The size of a tail when it is filled. It holds at most twice as much, and at least one post.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TailLimits {
    /// Maximum number of posts.
    pub(crate) depth: usize,
    /// Maximum size of the bodies in bytes.
    pub(crate) bytes: usize,
}

/// Posts in the deepest tail. Deeper posts are read from the databases.
pub(crate) const TAIL_DEPTH_MAX: u32 = 4_096;
/// Overhead of one body in bytes: two counters, and the rounding of the allocator.
const TEXT_BYTES: usize = 24;
/// A copy has free room for at most this many posts.
const ROOM: usize = 4;
/// Size of one user's entry in the writer's maps in bytes: key, value and free space.
pub(super) const MAPS_BYTES: usize = 128;

/// A tail that readers hold is copied for every change. Most changes add one post, so the copy
/// has room for it. Otherwise the insert would copy again, into twice the room.
impl Clone for Tail {
    fn clone(&self) -> Self {
        let mut posts = Vec::with_capacity((self.posts.len() + 1).next_multiple_of(ROOM));
        posts.extend_from_slice(&self.posts);
        Self {
            posts,
            blocks: self.blocks.clone(),
            floor: self.floor,
            limits: self.limits,
            names: self.names.clone(),
            bytes: self.bytes,
        }
    }
}

impl TailLimits {
    /// How many of these bodies a tail may have when it is filled: at least one.
    fn fitting<'a>(self, bodies: impl Iterator<Item = &'a Arc<str>>) -> usize {
        let mut bytes = 0;
        let fits = |(index, body): &(usize, &Arc<str>)| {
            bytes += TEXT_BYTES + body.len();
            *index == 0 || (*index < self.depth && bytes <= self.bytes)
        };
        bodies.enumerate().take_while(fits).count()
    }
}

impl Tail {
    /// A tail filled with `rows`, the newest posts, newest first. `complete` means that the author
    /// has no other posts. Rows beyond the limits are dropped. `names` are those of the author.
    pub(crate) fn new(
        mut rows: Vec<TailPost>,
        complete: bool,
        limits: TailLimits,
        names: Option<UserNames>,
    ) -> Self {
        let fitting = limits.fitting(rows.iter().map(|row| &row.body));
        let complete = complete && fitting == rows.len();
        rows.truncate(fitting);
        let floor = if complete { None } else { rows.last().map(|row| row.key) };
        let bytes = rows.iter().map(|row| TEXT_BYTES + row.body.len()).sum();
        rows.shrink_to_fit();
        Self { posts: rows, blocks: None, floor, limits, names, bytes }
    }

    /// The same tail of an author who blocks these users, in ascending order.
    pub(crate) fn blocking(self, blocks: Vec<UserId>) -> Self {
        Self { blocks: (!blocks.is_empty()).then(|| blocks.into()), ..self }
    }

    /// Applies a change. Returns false if the author's posts can no longer be known.
    pub(crate) fn apply(&mut self, change: &TailChange) -> bool {
        match change {
            TailChange::Put(row) => self.put(row),
            TailChange::Remove(key) => self.remove(*key),
            TailChange::Block(user) => self.set_block(*user, true),
            TailChange::Unblock(user) => self.set_block(*user, false),
            TailChange::Unknown => return false,
        }
        true
    }

    fn put(&mut self, row: &TailPost) {
        if self.floor.is_some_and(|floor| row.key < floor) {
            return;
        }
        match self.find(row.key) {
            Ok(index) => {
                self.bytes += row.body.len();
                self.bytes -= self.posts[index].body.len();
                self.posts[index].body = Arc::clone(&row.body);
            }
            Err(index) => {
                self.bytes += TEXT_BYTES + row.body.len();
                self.posts.insert(index, row.clone());
            }
        }
        self.trim();
    }

    fn remove(&mut self, key: TailKey) {
        if let Ok(index) = self.find(key) {
            self.bytes -= TEXT_BYTES + self.posts.remove(index).body.len();
        }
    }

    fn set_block(&mut self, user: UserId, blocked: bool) {
        let found = self.blocks().binary_search(&user);
        if found.is_ok() == blocked {
            return;
        }
        let mut blocks = self.blocks().to_vec();
        match found {
            Ok(index) => drop(blocks.remove(index)),
            Err(index) => blocks.insert(index, user),
        }
        self.blocks = (!blocks.is_empty()).then(|| blocks.into());
    }

    /// Cuts the tail to its limits when it exceeds twice as much, and raises the floor.
    fn trim(&mut self) {
        let TailLimits { depth, bytes } = self.limits;
        let is_long = self.posts.len() > 2 * depth.max(1) || self.bytes > bytes.saturating_mul(2);
        let keep = self.limits.fitting(self.posts.iter().map(|post| &post.body));
        if !is_long || keep == self.posts.len() {
            return;
        }
        let gone: usize = self.posts.drain(keep..).map(|post| TEXT_BYTES + post.body.len()).sum();
        self.bytes -= gone;
        self.floor = self.posts.last().map(|post| post.key);
    }

    fn find(&self, key: TailKey) -> Result<usize, usize> {
        self.posts.binary_search_by(|known| key.cmp(&known.key))
    }

    /// Its posts, newest first.
    pub(crate) fn posts(&self) -> &[TailPost] {
        &self.posts
    }

    /// An upper bound of the time of the author's newest post. `None` if the author has no post.
    /// If every post of the tail was deleted, others may exist below the floor.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.posts.first().map(|post| post.key).or(self.floor).map(|(time, _)| time)
    }

    /// The index of the newest post that is older than `edge`. It is usually near the newest post,
    /// so the search goes down from there in growing steps: each look elsewhere is a cache miss.
    pub(crate) fn first_under(&self, edge: TailKey) -> usize {
        let is_above = |post: &TailPost| post.key >= edge;
        let (mut start, mut step) = (0, 1);
        while self.posts.get(start + step - 1).is_some_and(is_above) {
            start += step;
            step *= 2;
        }
        let end = self.posts.len().min(start + step);
        start + self.posts[start..end].partition_point(is_above)
    }

    /// The lowest key that the tail answers for. `None` if it holds all posts.
    pub(crate) fn floor(&self) -> Option<TailKey> {
        self.floor
    }

    /// The author's names, if the shards have them.
    pub(crate) fn names(&self) -> Option<&UserNames> {
        self.names.as_ref()
    }

    /// The users that the author blocks, in ascending order.
    pub(crate) fn blocks(&self) -> &[UserId] {
        self.blocks.as_deref().unwrap_or_default()
    }

    /// Whether the author blocks this reader, who must then not see the posts.
    #[inline]
    pub(crate) fn is_hidden_from(&self, reader: Option<UserId>) -> bool {
        match (&self.blocks, reader) {
            (Some(blocks), Some(reader)) => blocks.binary_search(&reader).is_ok(),
            (None, _) | (_, None) => false,
        }
    }

    /// Maximum number of posts it was filled with.
    pub(crate) fn depth(&self) -> usize {
        self.limits.depth
    }

    /// Approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let posts = self.posts.capacity() * size_of::<TailPost>();
        let names = self.names.as_ref().map_or(0, |names| TEXT_BYTES + names.bytes());
        let blocks = size_of_val(self.blocks());
        MAPS_BYTES + size_of::<Self>() + posts + self.bytes + names + blocks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn row(time: i64, post: u64, text: &str) -> TailPost {
        TailPost { key: (time, post), body: text.into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
        /// After any changes, a tail equals the database at or above its floor.
        #[test]
        fn a_tail_equals_the_rows_above_its_floor(
            before in prop::collection::btree_set((0i64..30, 0u64..4), 0..40),
            changes in prop::collection::vec((any::<bool>(), 0i64..30, 0u64..4), 0..120),
            depth in 1usize..9,
            bytes in prop_oneof![Just(usize::MAX), 30usize..200],
        ) {
            let limits = TailLimits { depth, bytes };
            let mut world: BTreeMap<TailKey, String> =
                before.into_iter().map(|key| (key, "old".to_owned())).collect();
            let newest = world.iter().rev().take(depth);
            let rows = newest.map(|(key, text)| row(key.0, key.1, text)).collect();
            let mut tail = Tail::new(rows, world.len() <= depth, limits, None);
            let mut floor = tail.floor();
            for (number, (put, time, post)) in changes.into_iter().enumerate() {
                let change = if put {
                    let text = format!("text {number}");
                    world.insert((time, post), text.clone());
                    TailChange::Put(row(time, post, &text))
                } else {
                    world.remove(&(time, post));
                    TailChange::Remove((time, post))
                };
                prop_assert!(tail.apply(&change));
                prop_assert!(tail.floor() >= floor, "the floor fell");
                floor = tail.floor();
                let expected: Vec<(TailKey, String)> = world
                    .iter()
                    .rev()
                    .filter(|(key, _)| floor.is_none_or(|floor| **key >= floor))
                    .map(|(key, text)| (*key, text.clone()))
                    .collect();
                let held = tail.posts().iter().map(|post| (post.key, post.body.to_string()));
                let held: Vec<(TailKey, String)> = held.collect();
                for edge in (0..31).flat_map(|time| [(time, 0), (time, 2)]) {
                    let under = held.partition_point(|(key, _)| *key >= edge);
                    prop_assert_eq!(tail.first_under(edge), under);
                }
                prop_assert_eq!(&held, &expected);
                prop_assert!(held.len() <= 2 * depth);
                let size: usize = held.iter().map(|(_, text)| TEXT_BYTES + text.len()).sum();
                prop_assert_eq!(tail.bytes, size);
                prop_assert!(held.len() <= 1 || size <= bytes.saturating_mul(2));
            }
        }
    }

    const TWO: TailLimits = TailLimits { depth: 2, bytes: usize::MAX };

    #[test]
    fn a_tail_whose_posts_are_all_deleted_reports_posts_below() {
        let mut tail = Tail::new(vec![row(9, 1, "a"), row(8, 1, "b")], false, TWO, None);
        assert_eq!(tail.newest(), Some(9));
        for key in [(9, 1), (8, 1)] {
            assert!(tail.apply(&TailChange::Remove(key)));
        }
        assert_eq!(tail.newest(), Some(8));
        let mut all = Tail::new(vec![row(9, 1, "a")], true, TWO, None);
        assert!(all.apply(&TailChange::Remove((9, 1))));
        assert_eq!(all.newest(), None);
    }

    #[test]
    fn blocked_users_are_a_set() {
        let mut tail = Tail::default().blocking(vec![UserId(3), UserId(7)]);
        for change in [TailChange::Block(UserId(5)), TailChange::Block(UserId(5))] {
            assert!(tail.apply(&change));
        }
        let copy = tail.clone();
        assert!(tail.apply(&TailChange::Unblock(UserId(3))));
        assert_eq!((copy.blocks().len(), tail.blocks()), (3, &[UserId(5), UserId(7)][..]));
        let hidden = [3, 5, 7].map(|user| tail.is_hidden_from(Some(UserId(user))));
        assert_eq!(hidden, [false, true, true]);
        assert!(!tail.is_hidden_from(None));
    }

    #[test]
    fn an_unknown_change_ends_a_tail() {
        assert!(!Tail::default().apply(&TailChange::Unknown));
    }
}
