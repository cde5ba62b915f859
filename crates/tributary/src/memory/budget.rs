//! The memory budget: one hard limit for everything that is cached, and the usage by kind.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The index of users can take this fraction of the budget (1/2). The users' data needs the rest.
const INDEX_SHARE: usize = 2;

/// The limit in bytes, and the usage.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    index: AtomicUsize,
    /// Tails; items are posts.
    pub(crate) tails: Usage,
    /// Follow lists; items are follows.
    pub(crate) follows: Usage,
    /// Cached pages; each page counts as one user and as one item.
    pub(crate) pages: Usage,
    /// The recent log; items are entries.
    pub(crate) recent: Usage,
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
    pub(crate) fn new(max: usize) -> Self {
        let [tails, follows, pages, recent] = Default::default();
        Self { max, index: AtomicUsize::new(0), tails, follows, pages, recent }
    }

    /// The limit in bytes.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Bytes used by the index of users.
    pub(crate) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Bytes used in total.
    pub(crate) fn used(&self) -> usize {
        let kinds = [&self.tails, &self.follows, &self.pages, &self.recent];
        self.index() + kinds.map(Usage::bytes).iter().sum::<usize>()
    }

    /// Whether something must be evicted.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max
    }

    /// Whether the index can grow by this many bytes.
    pub(crate) fn has_index_room(&self, bytes: usize) -> bool {
        self.index() + bytes <= self.max / INDEX_SHARE
    }

    pub(crate) fn add_index(&self, bytes: usize) {
        self.index.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_add_up() {
        let budget = Budget::new(1_000);
        budget.tails.change((0, 0), (600, 3));
        budget.follows.change((0, 0), (300, 70));
        assert!(!budget.is_over());
        budget.tails.change((600, 3), (701, 4));
        assert!(budget.is_over());
        assert_eq!((budget.tails.users(), budget.tails.items(), budget.used()), (1, 4, 1_001));
        budget.tails.change((701, 4), (0, 0));
        assert_eq!((budget.tails.users(), budget.tails.items(), budget.used()), (0, 0, 300));
        assert!(budget.has_index_room(500) && !budget.has_index_room(501));
    }
}
