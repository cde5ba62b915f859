//! The tables of memory: one row per registered user, read by all threads without locks.
//!
//! When memory registers a user, the user gets a *slot*, a small number. Its data is at that index
//! of several arrays. Comparing the heads of a thousand followees is a thousand loads from one
//! array. The tables grow by whole chunks, which never move.
//!
//! A writer frees the slots of unused users, and other users get them. A request takes no lock, so
//! it may look at a slot while that happens. It therefore compares [`Slots::frees`] before and
//! after it, and is repeated if slots were freed in between. Cached pages become invalid, because
//! a slot's data has a new version for its next user.

use std::hint::black_box;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
/// Bytes of a slot, which stay allocated when it is free: 56 in the tables and about 16 in the map
/// of ids.
const SLOT_BYTES: usize = 72;
/// Bytes of a user's entry in the map of ids.
const ENTRY_BYTES: usize = 32;
/// The id of a free slot. It is no user's id.
const FREE: u64 = u64::MAX;

/// Bytes of the budget for each entry of [`Slots::found`], which takes four.
const BYTES_PER_FOUND: usize = 1 << 12;
/// Most of these entries.
const FOUND_MAX: usize = 1 << 20;
/// The lowest bit of the time in ids that have one.
const TIME_BITS_FROM: u32 = 22;

/// Tails that are loaded at the same time; `arc_swap` lends a thread up to eight values cheaply.
const TAILS_AT_ONCE: usize = 7;

/// The head is unknown: the author may have posts of any time.
pub(crate) const UNKNOWN: i64 = i64::MAX;
/// The head of an author without posts.
pub(crate) const NO_POSTS: i64 = i64::MIN;

/// The data of all registered users, by slot.
pub(crate) struct Slots {
    by_id: HashMap<u64, Slot>,
    /// Slots that were found, by the hash of their user. A slot is right if it is that of the user:
    /// this costs fewer cache misses than `by_id`.
    found: Box<[AtomicU32]>,
    chunks: Box<[OnceLock<Chunk>]>,
    assigned: Mutex<Assigned>,
    /// Number of times that slots were freed.
    frees: AtomicU64,
    /// Counts all changes that readers can see.
    version: AtomicU64,
}

/// The slots that exist. Locked while one is assigned or freed.
#[derive(Default)]
struct Assigned {
    /// Number of slots, including the free ones.
    len: usize,
    free: Vec<Slot>,
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
            id: AtomicU64::new(FREE),
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

impl Assigned {
    /// Size of the index in bytes.
    fn bytes(&self) -> usize {
        self.len * SLOT_BYTES + (self.len - self.free.len()) * ENTRY_BYTES
    }
}

impl Slots {
    /// An empty table, for a budget of this many bytes.
    pub(crate) fn new(budget: usize) -> Self {
        let found = (budget / BYTES_PER_FOUND).clamp(1, FOUND_MAX);
        Self {
            by_id: HashMap::new(),
            found: (0..found).map(|_| AtomicU32::new(0)).collect(),
            chunks: (0..CHUNKS_MAX).map(|_| OnceLock::new()).collect(),
            assigned: Mutex::new(Assigned::default()),
            frees: AtomicU64::new(0),
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
        let follows = self.lend_follows(reader);
        follows.as_ref().is_some_and(|follows| self.unchanged_since(reader, follows, version))
    }

    /// The same, if this is the reader's follow list.
    pub(crate) fn unchanged_since(
        &self,
        reader: Slot,
        follows: &FollowList,
        version: Version,
    ) -> bool {
        let followees = follows.slots().iter().map(|slot| self.changed(*slot));
        followees.fold(self.changed(reader), Version::max) <= version
    }

    /// The slot of a registered user.
    pub(crate) fn find(&self, user: UserId) -> Option<Slot> {
        // Consecutive ids are beside each other. The bits above are the time in ids with a time.
        let hash = user.0 ^ (user.0 >> TIME_BITS_FROM);
        let found = &self.found[usize::try_from(hash).unwrap_or_default() % self.found.len()];
        let slot = found.load(Ordering::Relaxed);
        let chunk = self.chunks.get(slot as usize / CHUNK).and_then(OnceLock::get);
        let id = chunk.map(|chunk| chunk.users[slot as usize % CHUNK].id.load(Ordering::Acquire));
        if id == Some(user.0) {
            return Some(slot);
        }
        let slot = *self.by_id.pin().get(&user.0)?;
        found.store(slot, Ordering::Relaxed);
        Some(slot)
    }

    /// The slot of a user, a new one if necessary. Returns `None` if all chunks are full, or if the
    /// index would get more bytes than `has_room` allows.
    pub(crate) fn add(
        &self,
        user: UserId,
        head: i64,
        has_room: impl Fn(usize) -> bool,
    ) -> Option<Slot> {
        let by_id = self.by_id.pin();
        if let Some(slot) = by_id.get(&user.0) {
            return Some(*slot);
        }
        let mut assigned = self.assigned();
        if let Some(slot) = by_id.get(&user.0) {
            return Some(*slot);
        }
        let is_new = assigned.free.is_empty();
        if !has_room(assigned.bytes() + ENTRY_BYTES + if is_new { SLOT_BYTES } else { 0 }) {
            return None;
        }
        let slot = match assigned.free.pop() {
            Some(slot) => slot,
            None => self.new_slot(&mut assigned)?,
        };
        let (chunk, index) = (self.chunk(slot), slot as usize % CHUNK);
        chunk.heads[index].store(head, Ordering::Release);
        if !is_new {
            self.note_change(slot);
        }
        // A thread that finds the slot also sees the stores above.
        chunk.users[index].id.store(user.0, Ordering::Release);
        by_id.insert(user.0, slot);
        Some(slot)
    }

    fn new_slot(&self, assigned: &mut Assigned) -> Option<Slot> {
        self.chunks.get(assigned.len / CHUNK)?.get_or_init(Chunk::new);
        let slot = Slot::try_from(assigned.len).ok()?;
        assigned.len += 1;
        Some(slot)
    }

    /// Frees slots without a tail and a follow list, which are on no visible follow list. No other
    /// thread may register or free a user at the same time.
    pub(crate) fn free(&self, slots: &[Slot]) {
        let (by_id, mut assigned) = (self.by_id.pin(), self.assigned());
        // Before the first store: a request that sees any of them also sees this.
        self.frees.fetch_add(1, Ordering::AcqRel);
        for &slot in slots {
            let (chunk, index) = (self.chunk(slot), slot as usize % CHUNK);
            let user = &chunk.users[index];
            debug_assert!(user.tail.load().is_none() && user.follows.load().is_none());
            by_id.remove(&user.id.load(Ordering::Relaxed));
            user.id.store(FREE, Ordering::Release);
            user.used.store(0, Ordering::Relaxed);
            chunk.heads[index].store(UNKNOWN, Ordering::Release);
            chunk.unlisted[index].store(UNKNOWN, Ordering::Release);
            self.note_change(slot);
            assigned.free.push(slot);
        }
        // Once more, before any slot has another user: a request that began in between and found
        // one of these slots sees this.
        self.frees.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of times that slots were freed. The slots that a request found are those of the same
    /// users as long as this is unchanged.
    pub(crate) fn frees(&self) -> u64 {
        fence(Ordering::Acquire);
        self.frees.load(Ordering::Acquire)
    }

    fn assigned(&self) -> MutexGuard<'_, Assigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of registered users.
    pub(crate) fn len(&self) -> usize {
        let assigned = self.assigned();
        assigned.len - assigned.free.len()
    }

    /// Size of the index in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.assigned().bytes()
    }

    /// The slots of all registered users.
    pub(crate) fn all(&self) -> impl Iterator<Item = Slot> {
        let len = u32::try_from(self.assigned().len).unwrap_or(u32::MAX);
        (0..len).filter(|slot| self.user(*slot).id.load(Ordering::Acquire) != FREE)
    }

    /// The user of a slot; `None` if the slot is free.
    pub(crate) fn registered(&self, slot: Slot) -> Option<UserId> {
        let id = self.user(slot).id.load(Ordering::Acquire);
        (id != FREE).then_some(UserId(id))
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
                black_box(tail.posts().first().map(|post| post.key));
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

    /// The reader's follow list, if cached, for a moment: a thread can have eight such values.
    pub(crate) fn lend_follows(&self, slot: Slot) -> Guard<Option<Arc<FollowList>>> {
        self.user(slot).follows.load()
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
        // With a small budget, many users share the place of the slot that was found last.
        for budget in [0, 1 << 16, 1 << 30] {
            let slots = Slots::new(budget);
            let ids = 0..2_000u64;
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for id in ids.clone() {
                            let slot = slots.add(UserId(id * 7), NO_POSTS, |_| true);
                            assert_eq!(slots.find(UserId(id * 7)), slot);
                        }
                    });
                }
            });
            assert_eq!(slots.len(), 2_000);
            for id in ids.chain(0..2_000) {
                let slot = slots.find(UserId(id * 7)).unwrap();
                assert_eq!((slots.id(slot), slots.head(slot)), (UserId(id * 7), NO_POSTS));
            }
            assert_eq!([1, 7 * 2_000].map(|id| slots.find(UserId(id))), [None, None]);
        }
    }

    #[test]
    fn heads_rise_and_unknown_heads_stay_unknown() {
        let slots = Slots::new(1 << 20);
        let slot = slots.add(UserId(1), NO_POSTS, |_| true).unwrap();
        for (time, head) in [(5, 5), (3, 5), (8, 8)] {
            slots.raise_head(slot, time);
            assert_eq!(slots.head(slot), head);
        }
        slots.set_head(slot, UNKNOWN);
        slots.raise_head(slot, 9);
        assert_eq!(slots.head(slot), UNKNOWN);
    }

    #[test]
    fn a_freed_slot_is_reused_without_anything_of_its_user() {
        let slots = Slots::new(1 << 20);
        let add = |user| slots.add(UserId(user), NO_POSTS, |bytes| bytes <= 2 * 104);
        let (one, two) = (add(1).unwrap(), add(2).unwrap());
        assert_eq!((add(3), slots.len(), slots.bytes()), (None, 2, 208));
        let (version, frees) = (slots.version(), slots.frees());
        slots.set_unlisted(one, 7);
        slots.free(&[one]);
        assert_eq!((slots.find(UserId(1)), slots.len(), slots.bytes()), (None, 1, 176));
        assert_ne!(slots.frees(), frees);
        assert_eq!(slots.all().collect::<Vec<_>>(), [two]);
        assert_eq!(add(3), Some(one));
        assert_eq!((slots.id(one), slots.head(one)), (UserId(3), NO_POSTS));
        assert_eq!((slots.unlisted(one), slots.used(one)), (UNKNOWN, 0));
        assert!(slots.changed(one) > version, "a cached page of the previous user is invalid");
        assert_eq!((add(1), slots.len()), (None, 2));
    }
}
