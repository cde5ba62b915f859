//! The tables of memory: what is known of each user, read by everybody without locks.
//!
//! A user that is met gets the next *slot*, a small number that stays its own. What is known of it
//! stands at that place in two tables, so that looking at the newest times of a thousand followees
//! is a thousand loads from one array. Tables grow by whole chunks that never move.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use papaya::HashMap;

use super::follow_list::{FollowList, Slot};
use super::pages::Version;
use super::tail::Tail;
use crate::model::UserId;

/// Users of one chunk.
const CHUNK: usize = 1 << 16;
/// More users than any budget holds.
const CHUNKS_MAX: usize = 1 << 12;
/// What one user takes: 56 bytes in the tables, about as much in the map of ids.
pub(crate) const SLOT_BYTES: usize = 104;

/// The newest time of an author: nothing is known.
pub(crate) const UNKNOWN: i64 = i64::MAX;
/// The newest time of an author: it has no posts.
pub(crate) const NO_POSTS: i64 = i64::MIN;

/// What is known of the users, by slot.
pub(crate) struct Slots {
    by_id: HashMap<u64, Slot>,
    chunks: Box<[OnceLock<Chunk>]>,
    /// How many there are; held while one is added.
    len: Mutex<usize>,
    /// Counts the changes to all that is shown.
    version: AtomicU64,
}

/// What is known of so many users. Times stand apart: a page looks at all those of its followees,
/// and at the rest of a few.
struct Chunk {
    /// An upper bound of the time of the author's newest post.
    heads: Box<[AtomicI64]>,
    /// The version since which what is shown of the user is what it is.
    changed: Box<[AtomicU64]>,
    /// An upper bound of the times of the author's posts that the recent log does not tell.
    unlisted: Box<[AtomicI64]>,
    users: Box<[User]>,
}

/// What is known of one user, in half a cache line.
struct User {
    id: AtomicU64,
    tail: ArcSwapOption<Tail>,
    follows: ArcSwapOption<FollowList>,
    /// When a reader last used what is kept of the user, in ticks.
    used: AtomicU32,
}

impl Chunk {
    fn new() -> Self {
        let user = || User {
            id: AtomicU64::new(0),
            tail: ArcSwapOption::empty(),
            follows: ArcSwapOption::empty(),
            used: AtomicU32::new(0),
        };
        Self {
            heads: (0..CHUNK).map(|_| AtomicI64::new(UNKNOWN)).collect(),
            changed: (0..CHUNK).map(|_| AtomicU64::new(0)).collect(),
            unlisted: (0..CHUNK).map(|_| AtomicI64::new(UNKNOWN)).collect(),
            users: (0..CHUNK).map(|_| user()).collect(),
        }
    }
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            chunks: (0..CHUNKS_MAX).map(|_| OnceLock::new()).collect(),
            len: Mutex::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// All changes up to this one can be seen by whoever asks now.
    pub(crate) fn version(&self) -> Version {
        Version(self.version.load(Ordering::Acquire))
    }

    /// What is shown of this user is another from now on. Called after the change: whoever reads a
    /// version that counts it sees it. Two may change a user that was just met; the later one counts.
    fn note_change(&self, slot: Slot) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.chunk(slot).changed[slot as usize % CHUNK].fetch_max(version, Ordering::Release);
    }

    #[inline]
    fn changed(&self, slot: Slot) -> Version {
        Version(self.chunk(slot).changed[slot as usize % CHUNK].load(Ordering::Acquire))
    }

    /// Whether the reader's follow list is shown, and it and what is shown of everybody on it is
    /// what it was as of this version.
    pub(crate) fn timeline_unchanged_since(&self, reader: Slot, version: Version) -> bool {
        let follows = self.user(reader).follows.load();
        let Some(follows) = follows.as_deref() else { return false };
        let followees = follows.slots().iter().map(|slot| self.changed(*slot));
        followees.fold(self.changed(reader), Version::max) <= version
    }

    /// The slot of a user that was met before.
    pub(crate) fn find(&self, user: UserId) -> Option<Slot> {
        self.by_id.pin().get(&user.0).copied()
    }

    /// The slot of a user, a new one if need be; none when there is no room for more.
    pub(crate) fn add(&self, user: UserId, head: i64) -> Option<Slot> {
        let by_id = self.by_id.pin();
        if let Some(slot) = by_id.get(&user.0) {
            return Some(*slot);
        }
        let mut len = self.len.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = by_id.get(&user.0) {
            return Some(*slot);
        }
        let chunk = self.chunks.get(*len / CHUNK)?.get_or_init(Chunk::new);
        let slot = Slot::try_from(*len).ok()?;
        chunk.users[*len % CHUNK].id.store(user.0, Ordering::Relaxed);
        chunk.heads[*len % CHUNK].store(head, Ordering::Relaxed);
        // Whoever finds the slot in the map sees what was stored before.
        by_id.insert(user.0, slot);
        *len += 1;
        Some(slot)
    }

    /// How many users were met.
    pub(crate) fn len(&self) -> usize {
        *self.len.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user at a slot.
    pub(crate) fn id(&self, slot: Slot) -> UserId {
        UserId(self.user(slot).id.load(Ordering::Relaxed))
    }

    /// An upper bound of the time of the author's newest post, [`UNKNOWN`] or [`NO_POSTS`].
    #[inline]
    pub(crate) fn head(&self, slot: Slot) -> i64 {
        self.head_of(slot).load(Ordering::Acquire)
    }

    /// The author has a post of this time.
    pub(crate) fn raise_head(&self, slot: Slot, time: i64) {
        self.head_of(slot).fetch_max(time, Ordering::AcqRel);
        self.note_change(slot);
    }

    /// Whatever was known, this is.
    pub(crate) fn set_head(&self, slot: Slot, head: i64) {
        self.head_of(slot).store(head, Ordering::Release);
        self.note_change(slot);
    }

    /// An upper bound of the times of the author's posts that the recent log does not tell; or
    /// [`UNKNOWN`], then the head is one.
    #[inline]
    pub(crate) fn unlisted(&self, slot: Slot) -> i64 {
        self.unlisted_of(slot).load(Ordering::Acquire)
    }

    pub(crate) fn set_unlisted(&self, slot: Slot, time: i64) {
        self.unlisted_of(slot).store(time, Ordering::Release);
    }

    /// The author's newest posts, if they are kept.
    #[inline]
    pub(crate) fn tail(&self, slot: Slot) -> Option<Arc<Tail>> {
        self.user(slot).tail.load_full()
    }

    /// Shows the author's newest posts to readers, or none. Returns what was shown before.
    pub(crate) fn show_tail(&self, slot: Slot, tail: Option<Arc<Tail>>) -> Option<Arc<Tail>> {
        let before = self.user(slot).tail.swap(tail);
        self.note_change(slot);
        before
    }

    /// Whom the reader follows, if it is kept.
    pub(crate) fn follows(&self, slot: Slot) -> Option<Arc<FollowList>> {
        self.user(slot).follows.load_full()
    }

    /// Shows whom the reader follows to readers, or nothing. Returns what was shown before.
    pub(crate) fn show_follows(
        &self,
        slot: Slot,
        follows: Option<Arc<FollowList>>,
    ) -> Option<Arc<FollowList>> {
        let before = self.user(slot).follows.swap(follows);
        self.note_change(slot);
        before
    }

    /// A reader used what is kept of the user.
    #[inline]
    pub(crate) fn touch(&self, slot: Slot, tick: u32) {
        let used = &self.user(slot).used;
        // Most are used again within the tick; a store would take the cache line from others.
        if used.load(Ordering::Relaxed) != tick {
            used.store(tick, Ordering::Relaxed);
        }
    }

    /// When a reader last used what is kept of the user.
    pub(crate) fn used(&self, slot: Slot) -> u32 {
        self.user(slot).used.load(Ordering::Relaxed)
    }

    #[inline]
    fn head_of(&self, slot: Slot) -> &AtomicI64 {
        &self.chunk(slot).heads[slot as usize % CHUNK]
    }

    #[inline]
    fn unlisted_of(&self, slot: Slot) -> &AtomicI64 {
        &self.chunk(slot).unlisted[slot as usize % CHUNK]
    }

    #[inline]
    fn user(&self, slot: Slot) -> &User {
        &self.chunk(slot).users[slot as usize % CHUNK]
    }

    #[inline]
    fn chunk(&self, slot: Slot) -> &Chunk {
        let chunk = self.chunks[slot as usize / CHUNK].get();
        chunk.expect("slots are given out with their chunk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_one_slot_whoever_asks_first() {
        let slots = Slots::new();
        let ids = 0..2_000u64;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in ids.clone() {
                        slots.add(UserId(id * 7), NO_POSTS).unwrap();
                    }
                });
            }
        });
        assert_eq!(slots.len(), 2_000);
        for id in ids {
            let slot = slots.find(UserId(id * 7)).unwrap();
            assert_eq!((slots.id(slot), slots.head(slot)), (UserId(id * 7), NO_POSTS));
        }
        assert_eq!(slots.find(UserId(1)), None);
    }

    #[test]
    fn heads_rise_and_what_is_unknown_stays_so() {
        let slots = Slots::new();
        let slot = slots.add(UserId(1), NO_POSTS).unwrap();
        for (time, head) in [(5, 5), (3, 5), (8, 8)] {
            slots.raise_head(slot, time);
            assert_eq!(slots.head(slot), head);
        }
        slots.set_head(slot, UNKNOWN);
        slots.raise_head(slot, 9);
        assert_eq!(slots.head(slot), UNKNOWN);
    }
}
