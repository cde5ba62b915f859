//! Whom one reader follows, as it stands in memory. Pure.

use super::tail::MAPS_BYTES;

/// A user's place in memory's tables: see `slots`.
pub(crate) type Slot = u32;

/// A change to one reader's follow list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FollowChange {
    /// Follows this user from now on.
    Add(Slot),
    /// Follows this user no more.
    Remove(Slot),
    /// What happened is not known.
    Unknown,
}

/// Whom one reader follows: four bytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowList {
    /// Rising.
    slots: Vec<Slot>,
    max: usize,
}

impl FollowList {
    /// A whole list, in any order, of at most `max` users.
    pub(crate) fn new(mut slots: Vec<Slot>, max: usize) -> Self {
        slots.sort_unstable();
        slots.dedup();
        slots.shrink_to_fit();
        Self { slots, max }
    }

    /// Carries out a change; false if it is not known any more whom the reader follows, or if these
    /// are too many.
    pub(crate) fn apply(&mut self, change: FollowChange) -> bool {
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

    /// Rising.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether the user is followed.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.slots.binary_search(&slot).is_ok()
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        MAPS_BYTES + size_of::<Self>() + self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_set_with_an_end() {
        let mut list = FollowList::new(vec![5, 1, 5], 3);
        assert_eq!(list.slots(), [1, 5]);
        assert!(list.apply(FollowChange::Add(3)) && list.apply(FollowChange::Add(3)));
        assert_eq!(list.slots(), [1, 3, 5]);
        assert!(list.apply(FollowChange::Remove(1)) && list.apply(FollowChange::Remove(1)));
        assert!(list.apply(FollowChange::Add(9)));
        assert_eq!(list.slots(), [3, 5, 9]);
        assert!(!list.apply(FollowChange::Add(8)), "a longer list is not kept");
        assert!(!list.apply(FollowChange::Unknown));
    }
}
