//! One hard budget for all that is kept, and what is counted under it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The index of users may take so much of the budget: what is kept of them needs the rest.
const INDEX_SHARE: usize = 2;

/// The bytes that memory may take, and what takes them.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    index: AtomicUsize,
    /// Newest posts, by their number.
    pub(crate) tails: Usage,
    /// Follow lists, by the number of follows.
    pub(crate) follows: Usage,
    /// Pages as they were sent, by their number.
    pub(crate) pages: Usage,
    /// The recent log, by its entries.
    pub(crate) recent: Usage,
}

/// What one kind of thing takes.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    bytes: AtomicUsize,
    users: AtomicUsize,
    items: AtomicUsize,
}

impl Usage {
    /// What is kept of one user took so many bytes and items, and takes others now; none is zero.
    pub(crate) fn change(&self, before: (usize, usize), now: (usize, usize)) {
        let change = |counter: &AtomicUsize, before: usize, now: usize| {
            // Wraps through the difference and comes out right.
            counter.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        };
        change(&self.bytes, before.0, now.0);
        change(&self.items, before.1, now.1);
        change(&self.users, usize::from(before.0 > 0), usize::from(now.0 > 0));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of how many users something is kept.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Posts, follows or entries.
    pub(crate) fn items(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        let [tails, follows, pages, recent] = Default::default();
        Self { max, index: AtomicUsize::new(0), tails, follows, pages, recent }
    }

    /// All that may be taken.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// What the index of users takes.
    pub(crate) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// All that is taken.
    pub(crate) fn used(&self) -> usize {
        let kept = [&self.tails, &self.follows, &self.pages, &self.recent];
        self.index() + kept.map(Usage::bytes).iter().sum::<usize>()
    }

    /// Whether something has to go before more may come.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max
    }

    /// Whether the index may grow by so many bytes.
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
    fn what_comes_and_goes_adds_up() {
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
