//! The keys, values and changes of this log's keeper: tails and follow lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::memory::{FollowChange, FollowList, Replica, Slot, Tail, TailChange, TailKey};
use crate::model::{UserId, UserList};

/// Names one cached value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CacheKey {
    /// The tail of the author at this slot.
    Tail(Slot),
    /// The follow list of the reader at this slot.
    Follows(Slot),
    /// A deeper tail, which replaces [`CacheKey::Tail`] as soon as it can be read.
    DeeperTail(Slot),
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
            | Self::DeeperTail(slot)
            | Self::TailAudit(slot)
            | Self::FollowsAudit(slot) => slot,
        }
    }

    /// The key of the auditor's copy.
    pub(super) fn audit(self) -> Self {
        match self {
            Self::Tail(slot) | Self::DeeperTail(slot) | Self::TailAudit(slot) => {
                Self::TailAudit(slot)
            }
            Self::Follows(slot) | Self::FollowsAudit(slot) => Self::FollowsAudit(slot),
        }
    }

    /// The key that readers use, if this is the key of an auditor's copy.
    pub(super) fn audited(self) -> Option<Self> {
        match self {
            Self::TailAudit(slot) => Some(Self::Tail(slot)),
            Self::FollowsAudit(slot) => Some(Self::Follows(slot)),
            Self::Tail(_) | Self::Follows(_) | Self::DeeperTail(_) => None,
        }
    }

    /// All keys of the tail of one author.
    pub(super) fn tails(author: Slot) -> [Self; 3] {
        [Self::Tail(author), Self::DeeperTail(author), Self::TailAudit(author)]
    }

    /// All keys of the follow list of one reader.
    pub(super) fn lists(reader: Slot) -> [Self; 2] {
        [Self::Follows(reader), Self::FollowsAudit(reader)]
    }
}

/// The difference of two copies of one value, without any text of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Posts of a tail: the number of keys that only one copy has, or with other texts, and the
    /// newest of them.
    Posts { count: usize, first: TailKey },
    /// Followees, mutes and blocks that only one copy has: their number and one of the users.
    Listed { count: usize, first: Slot },
    /// The author's handle or display name.
    Names,
    /// The users that the author blocks.
    Blocks,
    /// The copies are of different kinds.
    Kind,
}

impl Difference {
    /// The text for the log.
    pub(super) fn describe(&self, user: impl Fn(Slot) -> UserId) -> String {
        match self {
            Self::Posts { count, first: (time, post) } => {
                format!("{count} posts, the newest is {post} of time {time}")
            }
            Self::Listed { count, first } => {
                format!("{count} followees, mutes or blocks, one of them is {}", user(*first))
            }
            Self::Names => "the handle or the display name".into(),
            Self::Blocks => "the blocked users".into(),
            Self::Kind => "the kind of value".into(),
        }
    }
}

impl CachedEntry {
    /// Approximate size in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Tail(tail) => tail.bytes(),
            Self::Follows(list) => list.bytes(),
        }
    }

    /// Whether a follow list may contain slots that have got other users.
    pub(super) fn is_outdated(&self, frees: u64) -> bool {
        matches!(self, Self::Follows(list) if list.is_outdated(frees))
    }

    /// How both values differ where both answer.
    pub(super) fn difference(&self, other: &Self) -> Option<Difference> {
        match (self, other) {
            (Self::Tail(one), Self::Tail(other)) => {
                let floor = one.floor().max(other.floor());
                let rows = |tail: &'_ Tail| -> BTreeMap<TailKey, Arc<str>> {
                    let len = floor.map_or(tail.posts().len(), |floor| tail.first_under(floor));
                    let posts = tail.posts()[..len].iter();
                    posts.map(|post| (post.key, Arc::clone(&post.body))).collect()
                };
                let (rows, others) = (rows(one), rows(other));
                let of_one = rows.iter().filter(|(key, body)| others.get(key) != Some(body));
                let of_other = others.keys().filter(|key| !rows.contains_key(key));
                let keys: Vec<TailKey> =
                    of_one.map(|(key, _)| key).chain(of_other).copied().collect();
                let posts = keys.iter().max().map(|first| (keys.len(), *first));
                let posts = posts.map(|(count, first)| Difference::Posts { count, first });
                let names = (one.names() != other.names()).then_some(Difference::Names);
                let blocks = (one.blocks() != other.blocks()).then_some(Difference::Blocks);
                posts.or(names).or(blocks)
            }
            (Self::Follows(one), Self::Follows(other))
                if one.is_too_long() != other.is_too_long() =>
            {
                Some(Difference::Kind)
            }
            (Self::Follows(one), Self::Follows(other)) => {
                let [one, other] = [one, other].map(|list| list.entries());
                let entries: Vec<&(UserList, Slot)> = one.symmetric_difference(&other).collect();
                let count = entries.len();
                entries.first().map(|(_, first)| Difference::Listed { count, first: *first })
            }
            _ => Some(Difference::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{TailLimits, TailPost};

    fn tail(keys: &[(i64, u64)], complete: bool) -> CachedEntry {
        let rows = keys.iter().map(|key| TailPost { key: *key, body: "x".into() }).collect();
        let limits = TailLimits { depth: keys.len(), bytes: usize::MAX };
        CachedEntry::Tail(Arc::new(Tail::new(rows, complete, limits, None)))
    }

    #[test]
    fn tails_are_compared_where_both_answer() {
        let deep = tail(&[(5, 1), (4, 2), (4, 1), (2, 1)], true);
        let agrees = |other: &CachedEntry| deep.difference(other).is_none();
        assert!(agrees(&tail(&[(5, 1), (4, 2)], false)));
        assert!(agrees(&deep));
        assert!(!agrees(&tail(&[(5, 1), (4, 1)], false)), "one is missing");
        assert!(!agrees(&tail(&[(5, 1), (4, 2), (4, 1)], true)), "the last is missing");
        assert!(tail(&[(5, 1)], true).difference(&tail(&[], true)).is_some());
    }

    #[test]
    fn a_difference_names_the_number_and_the_newest_key_and_no_text() {
        let one = tail(&[(9, 1), (5, 1), (4, 2), (4, 1)], true);
        let CachedEntry::Tail(mut other) = tail(&[(9, 1), (5, 1), (4, 1), (3, 3)], true) else {
            unreachable!()
        };
        let changed = TailPost { key: (5, 1), body: "a secret".into() };
        assert!(Arc::make_mut(&mut other).apply(&TailChange::Put(changed)));
        let difference = one.difference(&CachedEntry::Tail(other)).unwrap();
        let text = difference.describe(|_| UserId(0));
        assert_eq!(text, "3 posts, the newest is 1 of time 5");
    }
}
