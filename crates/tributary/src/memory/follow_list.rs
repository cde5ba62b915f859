//! The users whose posts one reader sees: the follow list without mutes and blocks. Pure.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::log::LogSet;
use super::tail::MAPS_BYTES;
use crate::model::UserList;

/// A user's index in the tables of memory: see `slots`.
pub(crate) type Slot = u32;

/// A change to one reader's lists.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FollowChange {
    /// This user is on the list now.
    Add(UserList, Slot),
    /// This user is not on the list any more.
    Remove(UserList, Slot),
    /// A list changed in an unknown way.
    Unknown,
}

/// The users whose posts one reader sees, four bytes each: those that the reader follows and
/// neither mutes nor blocks. Or the fact that one of the lists has too many users.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowList {
    /// In ascending order.
    slots: Vec<Slot>,
    /// All lists, if the reader mutes or blocks anyone.
    lists: Option<Box<Lists>>,
    max: usize,
    /// [`super::Memory::frees`] when the slots were found.
    frees: u64,
    /// A list has more than `max` users; no list is kept.
    too_long: bool,
    /// The logs of these users, once they were needed.
    logs: OnceLock<LogSet>,
}

/// The lists of one reader, each in ascending order.
#[derive(Clone, Debug, Default)]
struct Lists {
    follows: Vec<Slot>,
    mutes: Vec<Slot>,
    blocks: Vec<Slot>,
}

impl Lists {
    fn of(&mut self, list: UserList) -> &mut Vec<Slot> {
        match list {
            UserList::Follows => &mut self.follows,
            UserList::Mutes => &mut self.mutes,
            UserList::Blocks => &mut self.blocks,
        }
    }

    fn hides_no_one(&self) -> bool {
        self.mutes.is_empty() && self.blocks.is_empty()
    }

    fn hides(&self, slot: Slot) -> bool {
        self.mutes.binary_search(&slot).is_ok() || self.blocks.binary_search(&slot).is_ok()
    }

    fn shows(&self, slot: Slot) -> bool {
        self.follows.binary_search(&slot).is_ok() && !self.hides(slot)
    }

    fn shown(&self) -> Vec<Slot> {
        self.follows.iter().copied().filter(|slot| !self.hides(*slot)).collect()
    }
}

impl FollowList {
    /// The complete follow list of a reader without mutes and blocks, in any order, with at most
    /// `max` users. Their slots were found after memory had freed slots `frees` times.
    pub(crate) fn new(slots: Vec<Slot>, max: usize, frees: u64) -> Self {
        let slots = sorted(slots);
        Self { slots, max, frees, ..Self::default() }
    }

    /// The same list of a reader with these mutes and blocks, in any order.
    pub(crate) fn hiding(mut self, mutes: Vec<Slot>, blocks: Vec<Slot>) -> Self {
        if !mutes.is_empty() || !blocks.is_empty() {
            let follows = std::mem::take(&mut self.slots);
            let lists = Lists { follows, mutes: sorted(mutes), blocks: sorted(blocks) };
            self.slots = lists.shown();
            self.lists = Some(Box::new(lists));
        }
        self
    }

    /// Lists of which one has more than `max` users. They stay too long until the reader removes
    /// someone.
    pub(crate) fn too_long(max: usize) -> Self {
        Self { max, too_long: true, ..Self::default() }
    }

    /// Whether slots of the list may belong to other users by now, unless the list has been visible
    /// all the time.
    pub(crate) fn is_outdated(&self, frees: u64) -> bool {
        !self.too_long && self.frees != frees
    }

    /// Whether a list has more than `max` users. None is kept then.
    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Applies a change. Returns false if the lists can no longer be known.
    pub(crate) fn apply(&mut self, change: FollowChange) -> bool {
        if self.too_long {
            return matches!(change, FollowChange::Add(..));
        }
        self.logs = OnceLock::new();
        match change {
            FollowChange::Add(list, slot) => self.edit(list, slot, true),
            FollowChange::Remove(list, slot) => self.edit(list, slot, false),
            FollowChange::Unknown => return false,
        }
        true
    }

    /// Adds the user to a list or removes it. No other user appears or disappears.
    fn edit(&mut self, list: UserList, slot: Slot, listed: bool) {
        let len = if let (UserList::Follows, None) = (list, &self.lists) {
            set(&mut self.slots, slot, listed);
            self.slots.len()
        } else {
            let lists = self.lists.get_or_insert_with(|| {
                Box::new(Lists { follows: self.slots.clone(), ..Lists::default() })
            });
            set(lists.of(list), slot, listed);
            set(&mut self.slots, slot, lists.shows(slot));
            let len = lists.of(list).len();
            if lists.hides_no_one() {
                self.lists = None;
            }
            len
        };
        if len > self.max {
            *self = Self::too_long(self.max);
        }
    }

    /// The users whose posts the reader sees, in ascending order.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The users on all lists; a user can come several times.
    pub(crate) fn all_slots(&self) -> impl Iterator<Item = Slot> {
        let lists = self.lists.as_deref();
        let lists = lists
            .into_iter()
            .flat_map(|Lists { follows, mutes, blocks }| follows.iter().chain(mutes).chain(blocks));
        self.slots.iter().chain(lists).copied()
    }

    /// The entries of all lists.
    pub(crate) fn entries(&self) -> BTreeSet<(UserList, Slot)> {
        let with = |list: UserList, slots: &[Slot]| {
            slots.iter().map(|slot| (list, *slot)).collect::<Vec<_>>()
        };
        match self.lists.as_deref() {
            None => with(UserList::Follows, &self.slots).into_iter().collect(),
            Some(Lists { follows, mutes, blocks }) => [
                with(UserList::Follows, follows),
                with(UserList::Mutes, mutes),
                with(UserList::Blocks, blocks),
            ]
            .concat()
            .into_iter()
            .collect(),
        }
    }

    /// The list with one more user, for one page.
    pub(crate) fn with(&self, slot: Slot) -> Self {
        let mut slots = self.slots.clone();
        set(&mut slots, slot, true);
        Self { slots, max: self.max, frees: self.frees, ..Self::default() }
    }

    /// The logs of these users. `log_of` returns the index of a user's log.
    pub(super) fn logs(&self, log_of: impl Fn(Slot) -> usize) -> LogSet {
        *self.logs.get_or_init(|| self.slots.iter().map(|slot| log_of(*slot)).collect())
    }

    /// Whether the reader sees posts of this user. A binary search.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.slots.binary_search(&slot).is_ok()
    }

    /// Approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let lists = self.lists.as_deref().map_or(0, |Lists { follows, mutes, blocks }| {
            let slots = follows.capacity() + mutes.capacity() + blocks.capacity();
            size_of::<Lists>() + slots * size_of::<Slot>()
        });
        MAPS_BYTES + size_of::<Self>() + self.slots.capacity() * size_of::<Slot>() + lists
    }
}

/// Puts the user into a list in ascending order, or takes it out.
fn set(slots: &mut Vec<Slot>, slot: Slot, listed: bool) {
    match (slots.binary_search(&slot), listed) {
        (Err(index), true) => slots.insert(index, slot),
        (Ok(index), false) => {
            slots.remove(index);
        }
        _ => {}
    }
}

fn sorted(mut slots: Vec<Slot>) -> Vec<Slot> {
    slots.sort_unstable();
    slots.dedup();
    slots.shrink_to_fit();
    slots
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOLLOWS: UserList = UserList::Follows;
    const MUTES: UserList = UserList::Mutes;
    const BLOCKS: UserList = UserList::Blocks;

    #[test]
    fn the_reader_sees_the_follow_list_without_the_hidden_users() {
        let mut list = FollowList::new(vec![5, 1, 3], 4, 0).hiding(vec![3, 9], vec![]);
        assert_eq!(list.slots(), [1, 5]);
        let steps: [(FollowChange, &[Slot]); 8] = [
            (FollowChange::Add(BLOCKS, 5), &[1]),
            (FollowChange::Add(MUTES, 5), &[1]),
            (FollowChange::Remove(BLOCKS, 5), &[1]),
            (FollowChange::Remove(MUTES, 5), &[1, 5]),
            (FollowChange::Add(FOLLOWS, 9), &[1, 5]),
            (FollowChange::Remove(MUTES, 3), &[1, 3, 5]),
            (FollowChange::Remove(FOLLOWS, 1), &[3, 5]),
            (FollowChange::Remove(MUTES, 9), &[3, 5, 9]),
        ];
        for (change, slots) in steps {
            assert!(list.apply(change));
            assert_eq!(list.slots(), slots, "{change:?}");
            let all: BTreeSet<Slot> = list.all_slots().collect();
            assert!(list.entries().iter().all(|(_, slot)| all.contains(slot)));
        }
        assert!(list.lists.is_none(), "no one is hidden");
        for slot in 0..5 {
            assert!(!list.is_too_long() && list.apply(FollowChange::Add(MUTES, slot)));
        }
        assert!(list.is_too_long() && list.apply(FollowChange::Add(MUTES, 7)));
        assert!(!list.apply(FollowChange::Remove(MUTES, 7)));
    }

    proptest! {
        #[test]
        fn after_every_change_the_list_is_that_of_the_same_lists_read_again(
            changes in prop::collection::vec((0..3usize, 0..8u32, any::<bool>()), 0..60),
        ) {
            let mut list = FollowList::new(vec![1, 2, 3], 10, 0);
            for (kind, slot, listed) in changes {
                let kind = UserList::ALL[kind];
                let change = if listed { FollowChange::Add } else { FollowChange::Remove };
                prop_assert!(list.apply(change(kind, slot)));
                prop_assert_eq!(list.entries().contains(&(kind, slot)), listed);
                let of = |kind: UserList| {
                    list.entries().into_iter().filter(|(of, _)| *of == kind).map(|(_, slot)| slot)
                        .collect::<Vec<Slot>>()
                };
                let again = FollowList::new(of(FOLLOWS), 10, 0).hiding(of(MUTES), of(BLOCKS));
                prop_assert_eq!(list.slots(), again.slots());
                prop_assert_eq!(list.lists.is_some(), again.lists.is_some());
            }
        }
    }

    #[test]
    fn a_list_is_a_set_with_a_limit() {
        let mut list = FollowList::new(vec![5, 1, 5], 3, 0);
        assert_eq!(list.slots(), [1, 5]);
        assert!(
            list.apply(FollowChange::Add(FOLLOWS, 3)) && list.apply(FollowChange::Add(FOLLOWS, 3))
        );
        assert_eq!(list.slots(), [1, 3, 5]);
        assert!(
            list.apply(FollowChange::Remove(FOLLOWS, 1))
                && list.apply(FollowChange::Remove(FOLLOWS, 1))
        );
        assert!(list.apply(FollowChange::Add(FOLLOWS, 9)));
        assert_eq!(list.slots(), [3, 5, 9]);
        assert!(!list.clone().apply(FollowChange::Unknown));
        assert!(list.apply(FollowChange::Add(FOLLOWS, 8)) && list.is_too_long());
        assert!(list.slots().is_empty() && list.apply(FollowChange::Add(FOLLOWS, 3)));
        assert!(
            !list.clone().apply(FollowChange::Remove(FOLLOWS, 1)),
            "it may have three users again"
        );
        assert!(!list.apply(FollowChange::Unknown));
    }
}
