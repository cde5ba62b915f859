//! Who follows whom: most follow a few, a few follow thousands, and everybody follows the famous.

use std::collections::HashSet;

use rand::RngExt;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::seq::SliceRandom;
use rand_distr::LogNormal;

use super::{NetworkSize, RandomStream, random};
use crate::model::{Follow, UserId};

/// Followees of the mean reader.
const MEAN: f64 = 50.0;
/// The spread of the logarithm, as measured on real networks.
const SIGMA: f64 = 1.35;
/// An author's weight is (rank + this)^-exponent.
const RANK_SHIFT: f64 = 10.0;
const RANK_EXPONENT: f64 = 0.95;
/// No reader follows and no author is followed by a larger part of all users.
const SHARE_MAX: f64 = 0.25;

/// Every follow of the network, by follower and followee.
pub(crate) fn follows(size: NetworkSize) -> Vec<Follow> {
    let mut random = random(RandomStream::Follows);
    // Fame has nothing to do with the id.
    let mut by_fame: Vec<u32> = (1..=size.users).collect();
    by_fame.shuffle(&mut random);
    let weights = (0..size.users).map(|rank| (f64::from(rank) + RANK_SHIFT).powf(-RANK_EXPONENT));
    let fame =
        WeightedIndex::new(weights).expect("a network has users and all weights are above 0");
    let mean_of_log = MEAN.ln() - SIGMA * SIGMA / 2.0;
    let follow_counts = LogNormal::new(mean_of_log, SIGMA).expect("the constants are finite");

    let most = (f64::from(size.users) * SHARE_MAX).round();
    let mut followers = vec![0.0; by_fame.len()];
    let mut follows = Vec::new();
    for follower in 1..=size.users {
        let wanted: f64 = random.sample(follow_counts);
        let wanted = wanted.round().clamp(0.0, most);
        let mut followees = HashSet::new();
        // The famous are drawn again and again; that must not take for ever.
        let mut draws = wanted * 20.0;
        while (followees.len() as f64) < wanted && draws > 0.0 {
            draws -= 1.0;
            let rank = fame.sample(&mut random);
            let followee = by_fame[rank];
            if followee != follower && followers[rank] < most && followees.insert(followee) {
                followers[rank] += 1.0;
            }
        }
        let mut followees: Vec<u32> = followees.into_iter().collect();
        followees.sort_unstable();
        let user = |id: u32| UserId(u64::from(id));
        let row = |id| Follow { follower: user(follower), followee: user(id) };
        follows.extend(followees.into_iter().map(row));
    }
    follows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_counts_are_lognormal_and_the_same_every_time() {
        let size = NetworkSize { users: 10_000, posts: 0, shards: 4 };
        let all = follows(size);
        assert_eq!(all, follows(size));
        assert!(all.is_sorted() && all.iter().all(|f| f.follower != f.followee));

        let mut counts = vec![0usize; 10_001];
        let mut fans = vec![0usize; 10_001];
        for follow in &all {
            counts[usize::try_from(follow.follower.0).unwrap()] += 1;
            fans[usize::try_from(follow.followee.0).unwrap()] += 1;
        }
        let mean = all.len() as f64 / 10_000.0;
        assert!((45.0..55.0).contains(&mean), "{mean} followees of the mean reader");
        counts.sort_unstable();
        assert!((15..26).contains(&counts[5_000]), "{} of the median", counts[5_000]);
        let top = fans.iter().max().copied().unwrap_or(0);
        assert!((500..=2_500).contains(&top), "{top} followers of the most famous");
    }
}
