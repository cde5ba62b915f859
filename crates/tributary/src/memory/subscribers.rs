//! The readers that wait for news, by the subjects of the changes that they wait for.
//!
//! A wake-up is a hint: the reader then reads the news of its logs and finds all changes there. The
//! index therefore has hashes of 32 bits in place of subjects. Two subjects with the same hash cost
//! a needless wake-up.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use super::Budget;
use super::news::Subject;

/// All subscribers can take this fraction of the budget (1/8).
const SHARE: usize = 8;
/// About the bytes of a subject of one subscriber: its place in the tree, and its hash.
const SUBJECT_BYTES: usize = 20;
/// About the bytes of a subscriber apart from its subjects.
const SUBSCRIBER_BYTES: usize = 200;
/// Subjects that are added or removed under one lock, so that the writers of memory do not wait for
/// a long follow list.
const BATCH: usize = 1_000;

/// All subscribers of memory.
pub(crate) struct Subscribers {
    index: RwLock<Index>,
    hasher: RandomState,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Index {
    /// The hash of a subject, and the number of a subscriber that waits for it.
    waiting: BTreeSet<(u32, u32)>,
    subscribers: HashMap<u32, Arc<Notify>>,
    last: u32,
}

/// A reader that waits for changes of its subjects. Dropping it ends that.
pub(crate) struct Subscriber {
    all: Arc<Subscribers>,
    number: u32,
    woken: Arc<Notify>,
    /// The hashes of its subjects, in rising order.
    hashes: Box<[u32]>,
}

/// The subscribers have used up their share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscribers = self.read().subscribers.len();
        f.debug_struct("Subscribers").field("subscribers", &subscribers).finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Subscribers {
    pub(super) fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { index: RwLock::default(), hasher: RandomState::new(), budget })
    }

    /// A subscriber without subjects.
    pub(crate) fn add(self: &Arc<Self>) -> Result<Subscriber, Full> {
        self.has_room(SUBSCRIBER_BYTES)?;
        self.budget.subscribers.change((0, 0), size(0));
        let woken = Arc::new(Notify::new());
        let mut index = self.write();
        let mut number = index.last.wrapping_add(1);
        while index.subscribers.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        index.last = number;
        index.subscribers.insert(number, Arc::clone(&woken));
        drop(index);
        Ok(Subscriber { all: Arc::clone(self), number, woken, hashes: Box::default() })
    }

    /// Wakes the subscribers of these subjects. Must be called after readers see the changes. Cost:
    /// one look-up for each subject.
    pub(crate) fn wake(&self, subjects: &[Subject]) {
        let index = self.read();
        if index.subscribers.is_empty() {
            return;
        }
        for subject in subjects {
            if matches!(subject, Subject::Shard(_) | Subject::Readers(_)) {
                return index.wake_all();
            }
            index.wake(self.hash(*subject));
        }
    }

    /// Wakes all subscribers, because any of them may have something to read.
    pub(crate) fn wake_all(&self) {
        self.read().wake_all();
    }

    fn hash(&self, subject: Subject) -> u32 {
        let [a, b, c, d, ..] = self.hasher.hash_one(subject).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn has_room(&self, bytes: usize) -> Result<(), Full> {
        let used = self.budget.subscribers.bytes();
        if used + bytes > self.budget.max() / SHARE { Err(Full) } else { Ok(()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn wake(&self, hash: u32) {
        for (_, number) in self.waiting.range((hash, 0)..=(hash, u32::MAX)) {
            if let Some(subscriber) = self.subscribers.get(number) {
                subscriber.notify_one();
            }
        }
    }

    fn wake_all(&self) {
        self.subscribers.values().for_each(|subscriber| subscriber.notify_one());
    }
}

impl Subscriber {
    /// Waits for changes of exactly these subjects from now on. Returns whether they are others
    /// than before: then changes between the earlier read and this call woke no subscriber, so the
    /// caller must read once more.
    pub(crate) fn watch(&mut self, subjects: impl Iterator<Item = Subject>) -> Result<bool, Full> {
        let mut hashes: Vec<u32> = subjects.map(|subject| self.all.hash(subject)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        if *hashes == *self.hashes {
            return Ok(false);
        }
        let more = hashes.len().saturating_sub(self.hashes.len());
        self.all.has_room(more * SUBJECT_BYTES)?;
        let usage = &self.all.budget.subscribers;
        usage.change(size(self.hashes.len()), size(hashes.len()));
        let old = std::mem::replace(&mut self.hashes, hashes.into());
        self.change(&self.hashes, &old, |waiting, place| waiting.insert(place));
        self.change(&old, &self.hashes, |waiting, place| waiting.remove(&place));
        Ok(true)
    }

    /// Completes after a change of a subject, also of one before the call. It may complete although
    /// there is none.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Changes the places of the hashes that are in `of` and not in `except`.
    fn change(
        &self,
        of: &[u32],
        except: &[u32],
        change: impl Fn(&mut BTreeSet<(u32, u32)>, (u32, u32)) -> bool,
    ) {
        for batch in of.chunks(BATCH) {
            let mut index = self.all.write();
            for hash in batch.iter().filter(|hash| except.binary_search(hash).is_err()) {
                change(&mut index.waiting, (*hash, self.number));
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.change(&self.hashes, &[], |waiting, place| waiting.remove(&place));
        self.all.write().subscribers.remove(&self.number);
        self.all.budget.subscribers.change(size(self.hashes.len()), (0, 0));
    }
}

/// Bytes and subjects of a subscriber.
fn size(subjects: usize) -> (usize, usize) {
    (SUBSCRIBER_BYTES + subjects * SUBJECT_BYTES, subjects)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::model::{ShardId, UserId};

    fn author(user: u64) -> Subject {
        Subject::Author(UserId(user))
    }

    fn subscribers(budget: usize) -> Arc<Subscribers> {
        Subscribers::new(Arc::new(Budget::new(budget, 0)))
    }

    /// Which of the subscribers were woken since the last call.
    fn woken(subscribers: &[&Subscriber]) -> Vec<bool> {
        subscribers.iter().map(|one| one.woken().now_or_never().is_some()).collect()
    }

    #[test]
    fn a_change_wakes_only_the_subscribers_of_its_subject() {
        let all = subscribers(1 << 20);
        let [mut a, mut b, mut c] = [(); 3].map(|()| all.add().unwrap());
        assert_eq!(a.watch([1, 2, 3].map(author).into_iter()), Ok(true));
        assert_eq!(b.watch([2, 4].map(author).into_iter()), Ok(true));
        assert_eq!(c.watch([Subject::Reader(UserId(2))].into_iter()), Ok(true));
        all.wake(&[author(2)]);
        assert_eq!(woken(&[&a, &b, &c]), [true, true, false]);
        all.wake(&[author(1), author(1), author(9)]);
        assert_eq!(woken(&[&a, &b, &c]), [true, false, false]);
        assert_eq!(a.watch([3, 2, 1, 1].map(author).into_iter()), Ok(false));
        assert_eq!(a.watch([3, 5].map(author).into_iter()), Ok(true));
        all.wake(&[author(1), author(2)]);
        assert_eq!(woken(&[&a, &b, &c]), [false, true, false]);
        all.wake(&[author(5), Subject::Reader(UserId(2))]);
        assert_eq!(woken(&[&a, &b, &c]), [true, false, true]);
        all.wake(&[Subject::Shard(ShardId(0))]);
        assert_eq!(woken(&[&a, &b, &c]), [true, true, true]);
        drop(b);
        all.wake(&[author(4)]);
        assert_eq!(woken(&[&a, &c]), [false, false]);
        assert_eq!(all.read().waiting.len(), 3);
        drop((a, c));
        assert!(all.read().waiting.is_empty() && all.read().subscribers.is_empty());
        let usage = &all.budget.subscribers;
        assert_eq!((usage.bytes(), usage.users(), usage.items()), (0, 0, 0));
    }

    #[test]
    fn subscribers_stay_within_their_share() {
        let all = subscribers(SHARE * (2 * SUBSCRIBER_BYTES + 3_000 * SUBJECT_BYTES));
        let [mut a, mut b] = [(); 2].map(|()| all.add().unwrap());
        assert_eq!(all.add().err(), None);
        assert_eq!(a.watch((0..2_500).map(author)), Ok(true));
        assert_eq!(b.watch((0..1_000).map(author)), Err(Full));
        assert_eq!(b.watch((0..400).map(author)), Ok(true));
        all.wake(&[author(2_499)]);
        assert_eq!(woken(&[&a, &b]), [true, false]);
        a.watch((0..10).map(author)).unwrap();
        assert_eq!(b.watch((0..1_000).map(author)), Ok(true));
    }
}
