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

/// The users that one reader follows, four bytes each, or the fact that they are too many.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowList {
    /// In ascending order.
    slots: Vec<Slot>,
    max: usize,
    /// [`super::Memory::frees`] when the slots were found.
    frees: u64,
    /// More than `max` users; they are not listed.
    too_long: bool,
    /// The logs of these users, once they were needed.
    logs: OnceLock<LogSet>,
}

impl FollowList {
    /// A complete list, in any order, with at most `max` users. Their slots were found after memory
    /// had freed slots `frees` times.
    pub(crate) fn new(mut slots: Vec<Slot>, max: usize, frees: u64) -> Self {
        slots.sort_unstable();
        slots.dedup();
        slots.shrink_to_fit();
        Self { slots, max, frees, too_long: false, logs: OnceLock::new() }
    }

    /// A list of more than `max` users. It stays too long until the reader unfollows someone.
    pub(crate) fn too_long(max: usize) -> Self {
        Self { max, too_long: true, ..Self::default() }
    }

    /// Whether slots of the list may belong to other users by now, unless the list has been visible
    /// all the time.
    pub(crate) fn is_outdated(&self, frees: u64) -> bool {
        !self.too_long && self.frees != frees
    }

    /// Whether there are more than `max` users, which are not listed.
    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Applies a change. Returns false if the list can no longer be known.
    pub(crate) fn apply(&mut self, change: FollowChange) -> bool {
        if self.too_long {
            return matches!(change, FollowChange::Add(_));
        }
        self.logs = OnceLock::new();
        match change {
            FollowChange::Add(slot) => {
                if let Err(index) = self.slots.binary_search(&slot) {
                    self.slots.insert(index, slot);
                }
                if self.slots.len() > self.max {
                    *self = Self::too_long(self.max);
                }
                true
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
        let mut list = FollowList::new(vec![5, 1, 5], 3, 0);
        assert_eq!(list.slots(), [1, 5]);
        assert!(list.apply(FollowChange::Add(3)) && list.apply(FollowChange::Add(3)));
        assert_eq!(list.slots(), [1, 3, 5]);
        assert!(list.apply(FollowChange::Remove(1)) && list.apply(FollowChange::Remove(1)));
        assert!(list.apply(FollowChange::Add(9)));
        assert_eq!(list.slots(), [3, 5, 9]);
        assert!(!list.clone().apply(FollowChange::Unknown));
        assert!(list.apply(FollowChange::Add(8)) && list.is_too_long());
        assert!(list.slots().is_empty() && list.apply(FollowChange::Add(3)));
        assert!(!list.clone().apply(FollowChange::Remove(1)), "it may have three users again");
        assert!(!list.apply(FollowChange::Unknown));
    }
}
