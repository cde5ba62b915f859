//! The follow list of one reader. Pure.

use std::sync::OnceLock;

use super::log::LogSet;
use super::tail::MAPS_BYTES;

/// A user's index in the tables of memory: see `slots`.
pub(crate) type Slot = u32;

/// A change to one reader's follow list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FollowChange {
    /// The reader follows this user.
    Add(Slot),
    /// The reader does not follow this user any more.
    Remove(Slot),
    /// The list changed in an unknown way.
    Unknown,
}

/// The users that one reader follows: four bytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowList {
    /// In ascending order.
    slots: Vec<Slot>,
    max: usize,
    /// The logs of these users, once they were needed.
    logs: OnceLock<LogSet>,
}

impl FollowList {
    /// A complete list, in any order, with at most `max` users.
    pub(crate) fn new(mut slots: Vec<Slot>, max: usize) -> Self {
        slots.sort_unstable();
        slots.dedup();
        slots.shrink_to_fit();
        Self { slots, max, logs: OnceLock::new() }
    }

    /// Applies a change. Returns false if the list can no longer be known, or is longer than
    /// `max`.
    pub(crate) fn apply(&mut self, change: FollowChange) -> bool {
        self.logs = OnceLock::new();
        match change {
            FollowChange::Add(slot) => {
                if let Err(index) = self.slots.binary_search(&slot) {
                    self.slots.insert(index, slot);
                }
                self.slots.len() <= self.max
            }
            FollowChange::Remove(slot) => {
                if let Ok(index) = self.slots.binary_search(&slot) {
                    self.slots.remove(index);
                }
                true
            }
            FollowChange::Unknown => false,
        }
    }

    /// In ascending order.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The logs of these users. `log_of` returns the index of a user's log.
    pub(super) fn logs(&self, log_of: impl Fn(Slot) -> usize) -> LogSet {
        *self.logs.get_or_init(|| self.slots.iter().map(|slot| log_of(*slot)).collect())
    }

    /// Whether the reader follows this user. A binary search.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.slots.binary_search(&slot).is_ok()
    }

    /// Approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        MAPS_BYTES + size_of::<Self>() + self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_set_with_a_limit() {
        let mut list = FollowList::new(vec![5, 1, 5], 3);
        assert_eq!(list.slots(), [1, 5]);
        assert!(list.apply(FollowChange::Add(3)) && list.apply(FollowChange::Add(3)));
        assert_eq!(list.slots(), [1, 3, 5]);
        assert!(list.apply(FollowChange::Remove(1)) && list.apply(FollowChange::Remove(1)));
        assert!(list.apply(FollowChange::Add(9)));
        assert_eq!(list.slots(), [3, 5, 9]);
        assert!(!list.apply(FollowChange::Add(8)), "a longer list is not cached");
        assert!(!list.apply(FollowChange::Unknown));
    }
}
