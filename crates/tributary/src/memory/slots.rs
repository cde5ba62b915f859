//! The tables of memory: one row per registered user, read by all threads without locks.
//!
//! When memory registers a user, the user gets the next *slot*, a small number, permanently. Its
//! data is at that index of several arrays. Comparing the heads of a thousand followees is a
//! thousand loads from one array. The tables grow by whole chunks, which never move.

use std::hint::black_box;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use papaya::HashMap;

use super::follow_list::{FollowList, Slot};
use super::pages::Version;
use super::tail::Tail;
use crate::model::UserId;

/// Users per chunk.
const CHUNK: usize = 1 << 16;
/// Maximum number of chunks: more users than any budget holds.
const CHUNKS_MAX: usize = 1 << 12;
/// Bytes per user: 56 in the tables and about 48 in the map of ids.
pub(crate) const SLOT_BYTES: usize = 104;

/// Tails that are loaded at the same time; `arc_swap` lends a thread up to eight values cheaply.
const TAILS_AT_ONCE: usize = 7;

/// The head is unknown: the author may have posts of any time.
pub(crate) const UNKNOWN: i64 = i64::MAX;
/// The head of an author without posts.
pub(crate) const NO_POSTS: i64 = i64::MIN;

/// The data of all registered users, by slot.
pub(crate) struct Slots {
    by_id: HashMap<u64, Slot>,
    chunks: Box<[OnceLock<Chunk>]>,
    /// Number of users. Locked while one is added.
    len: Mutex<usize>,
    /// Counts all changes that readers can see.
    version: AtomicU64,
}

/// The data of one chunk of users. Times are in arrays of their own: a page reads the times of
/// all followees, and the rest of a few.
struct Chunk {
    /// An upper bound of the time of the author's newest post.
    heads: Box<[AtomicI64]>,
    /// The version of the last change to the user's visible data.
    changed: Box<[AtomicU64]>,
    /// An upper bound of the times of the author's posts that are not in the recent log.
    unlisted: Box<[AtomicI64]>,
    users: Box<[User]>,
}

/// The data of one user, in half a cache line.
struct User {
    id: AtomicU64,
    tail: ArcSwapOption<Tail>,
    follows: ArcSwapOption<FollowList>,
    /// The tick (seconds since the start) in which a reader last used the user's data.
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

    /// The current version. Every change up to it is visible to a read that begins now.
    pub(crate) fn version(&self) -> Version {
        Version(self.version.load(Ordering::Acquire))
    }

    /// Gives the user's data a new version. Called after the change: a thread that reads the
    /// version also sees the change. Two threads may change a new user at once; the later version
    /// counts.
    fn note_change(&self, slot: Slot) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.chunk(slot).changed[slot as usize % CHUNK].fetch_max(version, Ordering::Release);
    }

    #[inline]
    fn changed(&self, slot: Slot) -> Version {
        Version(self.chunk(slot).changed[slot as usize % CHUNK].load(Ordering::Acquire))
    }

    /// Whether the reader's follow list is cached, and neither the reader's nor any followee's
    /// data changed after this version. Costs one load per followee.
    pub(crate) fn timeline_unchanged_since(&self, reader: Slot, version: Version) -> bool {
        let follows = self.user(reader).follows.load();
        let Some(follows) = follows.as_deref() else { return false };
        let followees = follows.slots().iter().map(|slot| self.changed(*slot));
        followees.fold(self.changed(reader), Version::max) <= version
    }

    /// The slot of a registered user.
    pub(crate) fn find(&self, user: UserId) -> Option<Slot> {
        self.by_id.pin().get(&user.0).copied()
    }

    /// The slot of a user, a new one if necessary. Returns `None` if all chunks are full.
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
        // A thread that finds the slot in the map also sees the stores above.
        by_id.insert(user.0, slot);
        *len += 1;
        Some(slot)
    }

    /// Number of registered users.
    pub(crate) fn len(&self) -> usize {
        *self.len.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user of a slot.
    pub(crate) fn id(&self, slot: Slot) -> UserId {
        UserId(self.user(slot).id.load(Ordering::Relaxed))
    }

    /// An upper bound of the time of the author's newest post, or [`UNKNOWN`], or [`NO_POSTS`].
    #[inline]
    pub(crate) fn head(&self, slot: Slot) -> i64 {
        self.head_of(slot).load(Ordering::Acquire)
    }

    /// Raises the head to the time of a post of the author. [`UNKNOWN`] stays unknown.
    pub(crate) fn raise_head(&self, slot: Slot, time: i64) {
        self.head_of(slot).fetch_max(time, Ordering::AcqRel);
        self.note_change(slot);
    }

    /// Replaces the head, whatever it was.
    pub(crate) fn set_head(&self, slot: Slot, head: i64) {
        self.head_of(slot).store(head, Ordering::Release);
        self.note_change(slot);
    }

    /// An upper bound of the times of the author's posts that are not in the recent log. If it is
    /// [`UNKNOWN`], the head is the bound.
    #[inline]
    pub(crate) fn unlisted(&self, slot: Slot) -> i64 {
        self.unlisted_of(slot).load(Ordering::Acquire)
    }

    pub(crate) fn set_unlisted(&self, slot: Slot, time: i64) {
        self.unlisted_of(slot).store(time, Ordering::Release);
    }

    /// The author's tail, if cached.
    #[inline]
    pub(crate) fn tail(&self, slot: Slot) -> Option<Arc<Tail>> {
        self.user(slot).tail.load_full()
    }

    /// The cached tails of these authors, in the same order. The first access to a tail is a cache
    /// miss; here the processor waits for several of them at the same time.
    pub(crate) fn tails(&self, authors: &[Slot]) -> Vec<Option<Arc<Tail>>> {
        let mut tails = Vec::with_capacity(authors.len());
        for authors in authors.chunks(TAILS_AT_ONCE) {
            let mut lent: [Option<Guard<_>>; TAILS_AT_ONCE] = Default::default();
            for (author, lent) in authors.iter().zip(&mut lent) {
                *lent = Some(self.user(*author).tail.load());
            }
            for tail in lent.iter().flatten().flat_map(|tail| tail.as_ref()) {
                black_box(tail.keys().first().copied());
            }
            tails.extend(lent.into_iter().flatten().map(Guard::into_inner));
        }
        tails
    }

    /// Makes the author's tail visible to readers, or removes it. Returns the previous one.
    pub(crate) fn show_tail(&self, slot: Slot, tail: Option<Arc<Tail>>) -> Option<Arc<Tail>> {
        let before = self.user(slot).tail.swap(tail);
        self.note_change(slot);
        before
    }

    /// The reader's follow list, if cached.
    pub(crate) fn follows(&self, slot: Slot) -> Option<Arc<FollowList>> {
        self.user(slot).follows.load_full()
    }

    /// Makes the reader's follow list visible to readers, or removes it. Returns the previous
    /// one.
    pub(crate) fn show_follows(
        &self,
        slot: Slot,
        follows: Option<Arc<FollowList>>,
    ) -> Option<Arc<FollowList>> {
        let before = self.user(slot).follows.swap(follows);
        self.note_change(slot);
        before
    }

    /// Records that a reader used the user's data in this tick.
    #[inline]
    pub(crate) fn touch(&self, slot: Slot, tick: u32) {
        let used = &self.user(slot).used;
        // Most slots are used again within the tick; a store would take the cache line from other
        // cores.
        if used.load(Ordering::Relaxed) != tick {
            used.store(tick, Ordering::Relaxed);
        }
    }

    /// The tick (seconds since the start) in which a reader last used the user's data.
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
        chunk.expect("a slot is assigned after its chunk exists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_one_slot_under_concurrency() {
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
    fn heads_rise_and_unknown_heads_stay_unknown() {
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
