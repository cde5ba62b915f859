//! Generates follows. Most readers follow few users, some follow thousands, and popular authors
//! have most of the followers.

use std::collections::HashSet;

use rand::RngExt;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::seq::SliceRandom;
use rand_distr::LogNormal;
use tributary::UserId;
use tributary::internal::Follow;

use super::{NetworkSize, RandomStream, random};

/// Mean number of followees of a reader.
const MEAN: f64 = 50.0;
/// Standard deviation of the logarithm of that number, as measured on real networks.
const SIGMA: f64 = 1.35;
/// The weight of an author is (rank + `RANK_SHIFT`)^-`RANK_EXPONENT`.
const RANK_SHIFT: f64 = 10.0;
const RANK_EXPONENT: f64 = 0.95;
/// Upper bound for the followees of a reader and for the followers of an author, as a share of all
/// users.
const SHARE_MAX: f64 = 0.25;

/// All follows of the network, sorted by follower and followee.
pub fn follows(size: NetworkSize) -> Vec<Follow> {
    let mut random = random(RandomStream::Follows);
    // Popularity must not depend on the id.
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
        // The most popular authors are drawn repeatedly, so the number of draws is bounded.
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
        let row = |id| Follow { follower: UserId::from(follower), followee: UserId::from(id) };
        follows.extend(followees.into_iter().map(row));
    }
    follows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_counts_are_lognormal_and_reproducible() {
        let size = NetworkSize { users: 10_000, posts: 0, shards: 4 };
        let all = follows(size);
        assert_eq!(all, follows(size));
        assert!(all.is_sorted() && all.iter().all(|f| f.follower != f.followee));

        let mut counts = vec![0usize; 10_001];
        let mut followers = vec![0usize; 10_001];
        for follow in &all {
            counts[usize::try_from(follow.follower.get()).unwrap()] += 1;
            followers[usize::try_from(follow.followee.get()).unwrap()] += 1;
        }
        let mean = all.len() as f64 / 10_000.0;
        assert!((45.0..55.0).contains(&mean), "a reader follows {mean} users on average");
        counts.sort_unstable();
        assert!((15..26).contains(&counts[5_000]), "the median is {}", counts[5_000]);
        let top = followers.iter().max().copied().unwrap_or(0);
        assert!((500..=2_500).contains(&top), "the most popular author has {top} followers");
    }
}
