//! The keys, values and changes of this log's keeper: tails and follow lists.

use std::sync::Arc;

use crate::memory::{FollowChange, FollowList, Replica, Slot, Tail, TailChange};

/// Names one cached value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CacheKey {
    /// The tail of the author at this slot.
    Tail(Slot),
    /// The follow list of the reader at this slot.
    Follows(Slot),
    /// A second copy of [`CacheKey::Tail`], which the auditor compares with it.
    TailAudit(Slot),
    /// A second copy of [`CacheKey::Follows`], which the auditor compares with it.
    FollowsAudit(Slot),
}

/// The value of a key. Readers hold on to the values they loaded, so a change copies the value.
#[derive(Clone, Debug)]
pub(crate) enum CachedEntry {
    Tail(Arc<Tail>),
    Follows(Arc<FollowList>),
}

/// A change to the value of a key.
#[derive(Clone, Debug)]
pub(crate) enum CachedChange {
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
            // A change of another kind than the value: the content is unknown.
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

    /// The key of the auditor's copy.
    pub(super) fn audit(self) -> Self {
        match self {
            Self::Tail(slot) | Self::TailAudit(slot) => Self::TailAudit(slot),
            Self::Follows(slot) | Self::FollowsAudit(slot) => Self::FollowsAudit(slot),
        }
    }

    /// The key that readers use, if this is the key of an auditor's copy.
    pub(super) fn audited(self) -> Option<Self> {
        match self {
            Self::TailAudit(slot) => Some(Self::Tail(slot)),
            Self::FollowsAudit(slot) => Some(Self::Follows(slot)),
            Self::Tail(_) | Self::Follows(_) => None,
        }
    }
}

impl CachedEntry {
    /// Whether both values agree where both answer.
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

    fn tail(keys: &[(i64, u64)], complete: bool) -> CachedEntry {
        let rows = keys.iter().map(|key| TailPost { key: *key, body: "x".into() }).collect();
        CachedEntry::Tail(Arc::new(Tail::new(rows, complete, keys.len(), None)))
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
