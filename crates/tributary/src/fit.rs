//! Finds the rule that placed users on shards, from samples of user ids. Pure.

use std::collections::BTreeMap;

use crate::model::{ShardId, UserId};
use crate::placement::{BUCKETS_MAX, Placement};

/// `user_id % N` fits if at most one in this many sampled users violates it; those users have rows
/// on the wrong shard.
const STRAYS: usize = 10;
/// A map of buckets fits only if the samples have this many users of every bucket.
const BUCKET_SAMPLES_MIN: usize = 8;
/// The largest number of buckets for each shard that is tried.
const BUCKETS_PER_SHARD_MAX: usize = 64;

/// The rule that fits the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// `user_id % N`, with the shards in this order: indexes of `samples`.
    Modulo(Vec<usize>),
    /// `map[user_id % map.len()]`, with the shards in the order of `samples`.
    Map(Vec<ShardId>),
    /// No rule that this module knows.
    Unknown,
}

impl Fit {
    /// Finds the rule. `samples` has, for each shard, ids of users with rows there. Shards without
    /// rows take the remainders that the other shards leave, in the given order. O(ids x buckets
    /// tried).
    pub fn of(samples: &[Vec<UserId>]) -> Self {
        if let Some(order) = modulo_order(samples) {
            return Self::Modulo(order);
        }
        let shards = samples.len();
        let buckets = (2..=BUCKETS_PER_SHARD_MAX).map(|n| n * shards);
        let maps = buckets.take_while(|buckets| *buckets <= BUCKETS_MAX);
        maps.filter_map(|buckets| bucket_map(samples, buckets))
            .next()
            .map_or(Self::Unknown, Self::Map)
    }
}

/// For each shard, the sampled users that belong on another shard by this placement.
pub(crate) fn strays(placement: &Placement, samples: &[Vec<UserId>]) -> Vec<Vec<UserId>> {
    let stray = |index: usize, user: &UserId| placement.shard_of(*user).index() != index;
    let of_shard = |(index, sample): (usize, &Vec<UserId>)| {
        sample.iter().copied().filter(|user| stray(index, user)).collect()
    };
    samples.iter().enumerate().map(of_shard).collect()
}

/// The order of the shards in which `user_id % N` holds for nearly all users.
fn modulo_order(samples: &[Vec<UserId>]) -> Option<Vec<usize>> {
    let shards = samples.len();
    let mut order: Vec<Option<usize>> = vec![None; shards];
    let mut empty = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        if sample.is_empty() {
            empty.push(index);
            continue;
        }
        let remainder = usual_remainder(sample, shards)?;
        if order[remainder].replace(index).is_some() {
            return None;
        }
    }
    // An empty shard keeps its own index if no other shard has that remainder.
    empty.retain(|index| order[*index].is_some() || order[*index].replace(*index).is_some());
    let mut empty = empty.into_iter();
    order.into_iter().map(|index| index.or_else(|| empty.next())).collect()
}

/// The remainder of nearly all ids; `None` if there is none.
fn usual_remainder(sample: &[UserId], shards: usize) -> Option<usize> {
    let mut counts = vec![0usize; shards];
    for user in sample {
        counts[remainder(*user, shards)] += 1;
    }
    let (remainder, most) = counts.into_iter().enumerate().max_by_key(|(_, count)| *count)?;
    ((sample.len() - most) * STRAYS <= sample.len()).then_some(remainder)
}

/// The owner of every bucket, if the samples have enough users of each, all on one shard.
fn bucket_map(samples: &[Vec<UserId>], buckets: usize) -> Option<Vec<ShardId>> {
    let mut owners: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (index, sample) in samples.iter().enumerate() {
        for user in sample {
            let (owner, seen) = owners.entry(remainder(*user, buckets)).or_insert((index, 0));
            if *owner != index {
                return None;
            }
            *seen += 1;
        }
    }
    let enough =
        owners.len() == buckets && owners.values().all(|(_, seen)| *seen >= BUCKET_SAMPLES_MIN);
    let owner = |(owner, _): (usize, usize)| u16::try_from(owner).map(ShardId).ok();
    if enough { owners.into_values().map(owner).collect() } else { None }
}

fn remainder(user: UserId, of: usize) -> usize {
    usize::try_from(user.0 % of as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// A million ids of any size, each on its shard.
    fn million(shards: usize, owner: impl Fn(u64) -> usize) -> Vec<Vec<UserId>> {
        let mut random = StdRng::seed_from_u64(shards as u64);
        let mut samples = vec![Vec::new(); shards];
        for n in 0..1_000_000u64 {
            // Half count up from 1, half are random 63-bit numbers.
            let id = if n % 2 == 0 { n } else { random.random_range(0..1u64 << 63) };
            samples[owner(id)].push(UserId(id));
        }
        samples
    }

    #[test]
    fn modulo_is_found_among_a_million_ids_in_any_order_of_shards() {
        let mut random = StdRng::seed_from_u64(1);
        for shards in [2usize, 3, 4, 7, 10] {
            let modulo = |id: u64| usize::try_from(id % shards as u64).unwrap();
            let samples = million(shards, modulo);
            let in_order: Vec<usize> = (0..shards).collect();
            assert_eq!(Fit::of(&samples), Fit::Modulo(in_order.clone()));

            let mut given = in_order;
            given.shuffle(&mut random);
            let shuffled: Vec<Vec<UserId>> = given.iter().map(|i| samples[*i].clone()).collect();
            let Fit::Modulo(order) = Fit::of(&shuffled) else { panic!("{shards}: no order") };
            let found: Vec<usize> = order.iter().map(|index| given[*index]).collect();
            assert_eq!(found, (0..shards).collect::<Vec<_>>(), "{shards} shards");

            let placement = Placement::modulo(shards).unwrap();
            assert!(strays(&placement, &samples).iter().all(Vec::is_empty));
        }
    }

    #[test]
    fn some_rows_on_the_wrong_shard_do_not_hide_the_rule() {
        for shards in [2usize, 3, 4, 7, 10] {
            let mut samples = million(shards, |id| usize::try_from(id % shards as u64).unwrap());
            let strayed: Vec<UserId> = samples[0].drain(..1_000).collect();
            samples[1].extend(&strayed);
            assert_eq!(Fit::of(&samples), Fit::Modulo((0..shards).collect()));
            let found = strays(&Placement::modulo(shards).unwrap(), &samples);
            assert_eq!((found[0].len(), &found[1]), (0, &strayed), "{shards} shards");
        }
    }

    #[test]
    fn buckets_that_were_moved_and_rules_that_are_unknown() {
        let map = [0, 1, 1, 0, 1, 1].map(ShardId);
        let samples = million(2, |id| map[usize::try_from(id % 6).unwrap()].index());
        assert_eq!(Fit::of(&samples), Fit::Map(map.to_vec()));
        // By ranges, and by a hash.
        assert_eq!(Fit::of(&million(2, |id| usize::from(id > 1_000_000))), Fit::Unknown);
        let hashed = |id: u64| (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize % 3;
        assert_eq!(Fit::of(&million(3, hashed)), Fit::Unknown);
    }

    #[test]
    fn empty_shards_take_the_remainders_left_over() {
        let user = |id| vec![UserId(id)];
        assert_eq!(Fit::of(&[vec![], vec![]]), Fit::Modulo(vec![0, 1]));
        assert_eq!(Fit::of(&[vec![], user(1)]), Fit::Modulo(vec![0, 1]));
        assert_eq!(Fit::of(&[user(1), vec![]]), Fit::Modulo(vec![1, 0]));
        assert_eq!(Fit::of(&[user(5), vec![], vec![]]), Fit::Modulo(vec![2, 1, 0]));
        assert_eq!(Fit::of(&[user(3), user(3)]), Fit::Unknown);
    }
}
