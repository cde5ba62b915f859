//! Placement: user id -> bucket -> shard. Pure; it knows no server and no SQL.
//!
//! A user's follows and posts are on one shard, `map[user_id % buckets]`. The default map has as
//! many buckets as shards and maps bucket b to shard b. That is the `user_id % N` of hand-written
//! sharding, so an existing fleet is served without moving a row.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::model::{ShardId, UserId};

/// More buckets would only make the map longer; moving buckets needs a few thousand at most.
pub(crate) const BUCKETS_MAX: usize = 65_536;
/// Far above any fleet that this server is built for; a cursor has 16 bits for a shard.
pub(crate) const SHARDS_MAX: usize = 1_024;

/// The rule that decides which shard owns a user. Upgrades never change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The owning shard of each bucket.
    map: Vec<ShardId>,
}

/// Why a map of buckets is rejected.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlacementError {
    /// The fleet has no shards, or more than [`SHARDS_MAX`].
    #[error("a fleet has 1 to {SHARDS_MAX} shards, this one has {0}")]
    ShardCount(usize),
    /// Too many buckets, or not a multiple of the shards.
    #[error(
        "the map has {buckets} buckets; it must have a multiple of the {shards} shards and at most \
         {BUCKETS_MAX}"
    )]
    BucketCount {
        /// Buckets of the rejected map.
        buckets: usize,
        /// Shards of the fleet.
        shards: usize,
    },
    /// A bucket is mapped to a shard that does not exist.
    #[error("bucket {bucket} is mapped to shard {shard}, but the last shard is {last}")]
    NoSuchShard {
        /// The bucket.
        bucket: usize,
        /// The shard that the map names.
        shard: u16,
        /// The index of the last shard.
        last: usize,
    },
}

impl Placement {
    /// `user_id % shards`, the rule of hand-written fleets.
    pub fn modulo(shards: usize) -> Result<Self, PlacementError> {
        let count = checked_count(shards)?;
        Ok(Self { map: (0..count).map(ShardId).collect() })
    }

    /// `map[user_id % map.len()]`, for a fleet whose buckets were moved.
    pub fn from_map(map: Vec<ShardId>, shards: usize) -> Result<Self, PlacementError> {
        checked_count(shards)?;
        if map.is_empty() || map.len() > BUCKETS_MAX || !map.len().is_multiple_of(shards) {
            return Err(PlacementError::BucketCount { buckets: map.len(), shards });
        }
        match map.iter().position(|shard| shard.index() >= shards) {
            Some(bucket) => {
                Err(PlacementError::NoSuchShard { bucket, shard: map[bucket].0, last: shards - 1 })
            }
            None => Ok(Self { map }),
        }
    }

    /// The shard that owns `user`'s follows and posts. O(1).
    pub fn shard_of(&self, user: UserId) -> ShardId {
        let buckets = self.map.len() as u64;
        let bucket = usize::try_from(user.0 % buckets).expect("less than BUCKETS_MAX");
        self.map[bucket]
    }

    /// The owning shard of each bucket. The bucket of a user is its id modulo their number.
    pub(crate) fn buckets(&self) -> &[ShardId] {
        &self.map
    }

    /// Groups items by the shard that owns their user. Items of a shard keep their order.
    pub fn group<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        user: impl Fn(&T) -> UserId,
    ) -> BTreeMap<ShardId, Vec<T>> {
        let mut groups: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
        for item in items {
            groups.entry(self.shard_of(user(&item))).or_default().push(item);
        }
        groups
    }
}

fn checked_count(shards: usize) -> Result<u16, PlacementError> {
    match u16::try_from(shards) {
        Ok(count) if (1..=SHARDS_MAX).contains(&shards) => Ok(count),
        _ => Err(PlacementError::ShardCount(shards)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upgrade that changed the placement would make rows unreadable, so these values are
    /// fixed.
    #[test]
    fn golden_placements_never_change() {
        let ids = [0, 1, 2, 3, 4, 5, 1_000_003, 9_007_199_254_740_993, 9_223_372_036_854_775_807];
        let golden: [(usize, [u16; 9]); 6] = [
            (1, [0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (2, [0, 1, 0, 1, 0, 1, 1, 1, 1]),
            (3, [0, 1, 2, 0, 1, 2, 1, 0, 1]),
            (4, [0, 1, 2, 3, 0, 1, 3, 1, 3]),
            (7, [0, 1, 2, 3, 4, 5, 4, 5, 0]),
            (10, [0, 1, 2, 3, 4, 5, 3, 3, 7]),
        ];
        for (shards, expected) in golden {
            let placement = Placement::modulo(shards).unwrap();
            let found = ids.map(|id| placement.shard_of(UserId(id)).0);
            assert_eq!(found, expected, "{shards} shards");
        }
        let map = [3, 1, 2, 0, 0, 1, 2, 3].map(ShardId).to_vec();
        let moved = Placement::from_map(map, 4).unwrap();
        assert_eq!(ids.map(|id| moved.shard_of(UserId(id)).0), [3, 1, 2, 0, 0, 1, 0, 1, 3]);
    }

    #[test]
    fn users_are_grouped_by_owning_shard_in_order() {
        let placement = Placement::modulo(2).unwrap();
        let groups = placement.group([5, 2, 3, 8].map(UserId), |user| *user);
        assert_eq!(groups[&ShardId(0)], [UserId(2), UserId(8)]);
        assert_eq!(groups[&ShardId(1)], [UserId(5), UserId(3)]);
    }

    #[test]
    fn impossible_maps_are_refused() {
        assert_eq!(Placement::modulo(0), Err(PlacementError::ShardCount(0)));
        assert_eq!(Placement::modulo(1025), Err(PlacementError::ShardCount(1025)));
        let odd = Placement::from_map(vec![ShardId(0); 3], 2);
        assert_eq!(odd, Err(PlacementError::BucketCount { buckets: 3, shards: 2 }));
        let far = Placement::from_map(vec![ShardId(0), ShardId(2)], 2);
        assert_eq!(far, Err(PlacementError::NoSuchShard { bucket: 1, shard: 2, last: 1 }));
    }
}
