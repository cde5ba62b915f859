//! What is kept of one user, and what the log says of it, in the keeper's terms.

use std::sync::Arc;

use crate::memory::{FollowChange, FollowList, Replica, Slot, Tail, TailChange};

/// Something that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum CacheKey {
    /// The newest posts of the author at this slot.
    Tail(Slot),
    /// Whom the reader at this slot follows.
    Follows(Slot),
    /// The same as [`CacheKey::Tail`], read again to be compared.
    TailAudit(Slot),
    /// The same as [`CacheKey::Follows`], read again to be compared.
    FollowsAudit(Slot),
}

/// What is kept under a key. Readers hold on to what they were shown: a change makes a new one.
#[derive(Clone, Debug)]
pub(super) enum CachedEntry {
    Tail(Arc<Tail>),
    Follows(Arc<FollowList>),
}

/// A change to what is kept under a key.
#[derive(Clone, Debug)]
pub(super) enum CachedChange {
    Tail(TailChange),
    Follows(FollowChange),
}

impl Replica for CachedEntry {
    type Change = CachedChange;

    fn apply(&mut self, change: &CachedChange) -> bool {
        match (self, change) {
            (Self::Tail(tail), CachedChange::Tail(change)) => Arc::make_mut(tail).apply(change),
            (Self::Follows(list), CachedChange::Follows(change)) => {
                Arc::make_mut(list).apply(*change)
            }
            // Keys and values are of one kind; anything else is not known any more.
            _ => false,
        }
    }
}

impl CacheKey {
    pub(super) fn slot(self) -> Slot {
        match self {
            Self::Tail(slot)
            | Self::Follows(slot)
            | Self::TailAudit(slot)
            | Self::FollowsAudit(slot) => slot,
        }
    }

    /// The key under which the same is read again to be compared.
    pub(super) fn audit(self) -> Self {
        match self {
            Self::Tail(slot) | Self::TailAudit(slot) => Self::TailAudit(slot),
            Self::Follows(slot) | Self::FollowsAudit(slot) => Self::FollowsAudit(slot),
        }
    }

    /// The key that readers are shown, of one that is compared with it.
    pub(super) fn audited(self) -> Option<Self> {
        match self {
            Self::TailAudit(slot) => Some(Self::Tail(slot)),
            Self::FollowsAudit(slot) => Some(Self::Follows(slot)),
            Self::Tail(_) | Self::Follows(_) => None,
        }
    }
}

impl CachedEntry {
    /// Whether both say the same where both answer.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tail(one), Self::Tail(other)) => {
                let handles = one.handle() == other.handle();
                let floor = one.floor().max(other.floor());
                let rows = |tail: &Tail| {
                    let len = floor.map_or(tail.keys().len(), |floor| tail.first_under(floor));
                    (0..len).map(|row| (tail.keys()[row], Arc::clone(tail.body(row)))).collect()
                };
                let (one, other): (Vec<_>, Vec<_>) = (rows(one), rows(other));
                one == other && handles
            }
            (Self::Follows(one), Self::Follows(other)) => one.slots() == other.slots(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::TailPost;

    fn tail(places: &[(i64, u64)], complete: bool) -> CachedEntry {
        let rows = places.iter().map(|place| TailPost { key: *place, body: "x".into() }).collect();
        CachedEntry::Tail(Arc::new(Tail::new(rows, complete, places.len(), None)))
    }

    #[test]
    fn tails_are_compared_where_both_answer() {
        let deep = tail(&[(5, 1), (4, 2), (4, 1), (2, 1)], true);
        assert!(deep.agrees_with(&tail(&[(5, 1), (4, 2)], false)));
        assert!(deep.agrees_with(&deep));
        assert!(!deep.agrees_with(&tail(&[(5, 1), (4, 1)], false)), "one is missing");
        assert!(!deep.agrees_with(&tail(&[(5, 1), (4, 2), (4, 1)], true)), "the last is missing");
        assert!(!tail(&[(5, 1)], true).agrees_with(&tail(&[], true)));
    }
}
