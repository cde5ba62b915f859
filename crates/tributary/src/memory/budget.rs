//! The memory budget: one hard limit for everything that is cached, and the usage by kind. Bytes
//! that are about to be read are reserved first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The index of users can take this fraction of the budget (1/2). The users' data needs the rest.
const INDEX_SHARE: usize = 2;
/// Users on follow lists can take this fraction of the index (3/4). Authors need the rest, or the
/// newest post times of all authors would not fit.
const LISTED_SHARE: (usize, usize) = (3, 4);
/// One fill reserves this fraction of the budget (1/16) before it reads, and at most
/// [`FILL_BYTES_MAX`].
const FILL_SHARE: usize = 16;
/// A fill of the usual tails needs 3 MB for all of its copies.
const FILL_BYTES_MAX: usize = 16 << 20;
/// With a budget below 4 MiB, a fill may read more than it reserves.
const FILL_ROWS_BYTES_MIN: usize = 64 << 10;
/// All fills in flight together reserve at most this fraction of the budget (1/8).
const FILLS_SHARE: usize = 8;
/// A value is in memory this many times while a fill reads it: as a row, as a post, as JSON, and as
/// free room.
const FILL_COPIES: usize = 4;

/// The limit in bytes, and the usage.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    /// The cells of the page cache.
    cells: usize,
    index: AtomicUsize,
    reserved: AtomicUsize,
    /// One permit for each fill that may be in flight.
    fills: Arc<Semaphore>,
    /// Tails; items are posts.
    pub(crate) tails: Usage,
    /// Follow lists; items are follows.
    pub(crate) follows: Usage,
    /// Cached pages; each page counts as one user and as one item.
    pub(crate) pages: Usage,
    /// The recent log; items are entries.
    pub(crate) recent: Usage,
    /// The newest changes of all logs; items are changes.
    pub(crate) news: Usage,
    /// The readers that wait for news; each counts as one user, items are the users that they
    /// follow.
    pub(crate) subscribers: Usage,
}

/// Bytes of the budget that are taken until this is dropped: by a read in flight, or by a value
/// that no reader can see yet.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Gives back all but this many bytes.
    fn shrink(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.budget.reserved.fetch_sub(back, Ordering::Relaxed);
    }

    /// Takes this many bytes out of the reservation, or all of it, as a reservation of its own.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// The bytes of a fill in flight.
#[derive(Debug)]
pub(crate) struct FillReservation {
    pub(crate) bytes: Reservation,
    _permit: OwnedSemaphorePermit,
}

fn fill_bytes(budget: usize) -> usize {
    (budget / FILL_SHARE).min(FILL_BYTES_MAX)
}

/// The usage of one kind of data.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    bytes: AtomicUsize,
    users: AtomicUsize,
    items: AtomicUsize,
}

impl Usage {
    /// Replaces the (bytes, items) of one user. Zero bytes mean that nothing is cached.
    pub(crate) fn change(&self, before: (usize, usize), now: (usize, usize)) {
        let change = |counter: &AtomicUsize, before: usize, now: usize| {
            // The difference wraps, so the sum is correct for decreases too.
            counter.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        };
        change(&self.bytes, before.0, now.0);
        change(&self.items, before.1, now.1);
        change(&self.users, usize::from(before.0 > 0), usize::from(now.0 > 0));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of users with cached data of this kind.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Number of posts, follows, pages or entries.
    pub(crate) fn items(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }
}

impl Budget {
    /// A budget of `max` bytes, of which the page cache takes `cells` from the start.
    pub(crate) fn new(max: usize, cells: usize) -> Self {
        let [tails, follows, pages, recent, news, subscribers] = Default::default();
        let [index, reserved] = Default::default();
        let fills = (max / FILLS_SHARE).checked_div(fill_bytes(max)).unwrap_or(0).max(1);
        let fills = Arc::new(Semaphore::new(fills));
        Self {
            max,
            cells,
            index,
            reserved,
            fills,
            tails,
            follows,
            pages,
            recent,
            news,
            subscribers,
        }
    }

    /// The limit in bytes.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Bytes used by the index of users and the cells of the page cache.
    pub(crate) fn index(&self) -> usize {
        self.cells + self.index.load(Ordering::Relaxed)
    }

    /// Bytes used in total.
    pub(crate) fn used(&self) -> usize {
        let kinds =
            [&self.tails, &self.follows, &self.pages, &self.recent, &self.news, &self.subscribers];
        let cached = kinds.map(Usage::bytes).iter().sum::<usize>();
        self.index() + cached + self.reserved.load(Ordering::Relaxed)
    }

    /// Whether this many bytes more are within the limit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.max
    }

    /// The bytes that one fill reserves.
    pub(crate) fn fill_bytes(&self) -> usize {
        fill_bytes(self.max)
    }

    /// The most bytes of rows that one fill may read.
    pub(crate) fn fill_rows_bytes(&self) -> usize {
        (self.fill_bytes() / FILL_COPIES).max(FILL_ROWS_BYTES_MIN)
    }

    /// The permit and the bytes of one fill. `None` if too many fills are in flight, or if there is
    /// no room.
    pub(crate) fn reserve_fill(self: &Arc<Self>) -> Option<FillReservation> {
        let permit = Arc::clone(&self.fills).try_acquire_owned().ok()?;
        Some(FillReservation { bytes: self.reserve(self.fill_bytes())?, _permit: permit })
    }

    /// Takes bytes before they are allocated. `None` if they are not within the limit.
    fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation { budget: Arc::clone(self), bytes };
        // Two that reserve the last room at once are both rejected.
        self.has_room(0).then_some(reservation)
    }

    /// Whether the index of users may have this many bytes, for a user on a follow list or for an
    /// author of posts.
    pub(crate) fn index_may_have(&self, bytes: usize, is_author: bool) -> bool {
        let (part, of) = if is_author { (1, 1) } else { LISTED_SHARE };
        self.cells + bytes <= self.max / INDEX_SHARE / of * part
    }

    /// Whether the index of users is large enough that free slots matter.
    pub(crate) fn is_index_tight(&self) -> bool {
        self.index() > self.max / INDEX_SHARE / 2
    }

    /// Sets the size of the index of users.
    pub(crate) fn set_index(&self, bytes: usize) {
        self.index.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_add_up() {
        let budget = Budget::new(1_000, 0);
        budget.tails.change((0, 0), (600, 3));
        budget.follows.change((0, 0), (300, 70));
        assert!(budget.has_room(100) && !budget.has_room(101));
        budget.tails.change((600, 3), (701, 4));
        assert!(!budget.has_room(0));
        assert_eq!((budget.tails.users(), budget.tails.items(), budget.used()), (1, 4, 1_001));
        budget.tails.change((701, 4), (0, 0));
        assert_eq!((budget.tails.users(), budget.tails.items(), budget.used()), (0, 0, 300));
        assert!(budget.index_may_have(500, true) && !budget.index_may_have(501, true));
        assert!(budget.index_may_have(375, false) && !budget.index_may_have(376, false));
        budget.set_index(251);
        assert!(budget.is_index_tight());
    }

    #[test]
    fn reserved_bytes_are_within_the_limit_and_given_back() {
        let budget = Arc::new(Budget::new(1_000, 0));
        budget.tails.change((0, 0), (400, 1));
        let mut first = budget.reserve(500).unwrap();
        assert!(budget.reserve(101).is_none(), "more than the limit");
        assert_eq!(budget.used(), 900, "a rejected reservation takes nothing");
        let value = first.split(200);
        first.shrink(100);
        assert_eq!(budget.used(), 700);
        let fills = [budget.reserve_fill(), budget.reserve_fill()];
        assert!(fills.iter().all(Option::is_some) && budget.reserve_fill().is_none());
        assert_eq!(budget.used(), 700 + 2 * 62);
        drop(fills);
        drop(first);
        assert_eq!(budget.used(), 600);
        drop(value);
        assert_eq!(budget.used(), 400);
    }
}
