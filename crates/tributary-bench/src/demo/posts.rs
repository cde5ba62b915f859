//! Generates posts. A few authors write most posts; they post in bursts, and more by day than by
//! night.

use std::collections::HashMap;

use rand::RngExt;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand_distr::{Exp1, LogNormal};
use tributary::internal::Follow;
use tributary::posts::{PostAddress, References};
use tributary::{Post, PostId, PostKey, UserId};

use super::text::TextGenerator;
use super::{NetworkSize, RandomStream, random};

/// The age of the network: the time between the oldest and the newest posts (60 days).
const SPAN_MS: f64 = 60.0 * 24.0 * HOUR_MS;
const HOUR_MS: f64 = 3_600_000.0;
/// Mean time between two posts of one burst.
const BURST_GAP_MS: f64 = 240_000.0;
/// Probability that another post of the burst follows.
const BURST_CONTINUES: f64 = 0.6;
/// Variation of activity between equally popular authors (standard deviation of the logarithm).
const ACTIVITY_SIGMA: f64 = 1.8;
/// Share of posts that arrive up to two seconds late, so that ids are not exactly in time order.
const LATE_SHARE: f64 = 0.01;
const LATE_MS: f64 = 2_000.0;
/// Shares of replies and of reposts. A repost has words of its own.
const REPLY_SHARE: f64 = 0.2;
const REPOST_SHARE: f64 = 0.08;
/// The posts before a reply or a repost to which it may refer.
const RECENT: usize = 300;

/// All posts up to `now_ms`, sorted by author, time and id.
pub fn posts(size: NetworkSize, follows: &[Follow], now_ms: i64) -> Vec<Post> {
    let mut random = random(RandomStream::Posts);
    let mut followers = vec![0u32; size.users as usize];
    for follow in follows {
        followers[usize::try_from(follow.followee.get() - 1).unwrap_or(0)] += 1;
    }
    let weights = activity(&followers, &mut random);
    let authors = WeightedIndex::new(weights).expect("a network has users, none of weight 0");
    let mut times: Vec<(i64, UserId)> = Vec::new();
    while times.len() < size.posts as usize {
        let author = UserId::from(u32::try_from(authors.sample(&mut random)).unwrap_or(0) + 1);
        burst(now_ms, &mut random, |time| times.push((time, author)));
    }
    times.truncate(size.posts as usize);
    times.sort_unstable();

    let mut sequences = HashMap::new();
    let mut texts = TextGenerator::new();
    let post = |(arrived, author): (i64, UserId)| {
        let time = arrived - delay_ms(&mut random);
        let post = demo_post_id(arrived, author, size.shards, &mut sequences);
        Post::new(PostKey { time, post, author }, texts.text(size.users))
    };
    let mut posts: Vec<Post> = times.into_iter().map(post).collect();
    add_references(&mut posts);
    posts.sort_unstable_by_key(|post| (post.key.author, post.key.time, post.key.post));
    posts
}

/// Makes replies and reposts of some posts. Each refers to a recent post before it.
fn add_references(posts: &mut [Post]) {
    let mut random = random(RandomStream::References);
    for index in 1..posts.len() {
        let (is_reply, is_repost) =
            (random.random_bool(REPLY_SHARE), random.random_bool(REPOST_SHARE));
        let other = posts[random.random_range(index.saturating_sub(RECENT)..index)].key;
        let other = Some(PostAddress { author: other.author, post: other.post });
        posts[index].references = References {
            reply_to: other.filter(|_| is_reply),
            repost_of: other.filter(|_| is_repost && !is_reply),
        };
    }
}

/// The relative number of posts of each author: authors with more followers post more.
pub(crate) fn activity(followers: &[u32], random: &mut StdRng) -> Vec<f64> {
    let spread = LogNormal::new(0.0, ACTIVITY_SIGMA).expect("the constant is finite");
    let weight = |&followers: &u32| {
        let fame = match followers {
            0..10 => 0.1,
            followers => {
                let most = (2.0 * f64::from(followers).log10()).floor();
                random.random_range(1.0..=most.max(1.0)).floor()
            }
        };
        fame * random.sample(spread)
    };
    followers.iter().map(weight).collect()
}

/// The delay of a post on its way to the server, in milliseconds; 0 for most posts.
pub(crate) fn delay_ms(random: &mut StdRng) -> i64 {
    let late = random.random_bool(LATE_SHARE);
    let delay = if late { random.random_range(0.0..LATE_MS) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "at most LATE_MS")]
    return delay as i64;
}

/// Generates the times of one burst: a first post, then possibly more.
pub(crate) fn burst(now_ms: i64, random: &mut StdRng, mut post: impl FnMut(i64)) {
    // The network grows, so newer times are more frequent.
    let mut age_ms = SPAN_MS * (1.0 - random.random::<f64>().sqrt());
    // 60 % of the bursts at night are moved to the day, 12 hours later.
    let hour = (age_ms / HOUR_MS) % 24.0;
    if (8.0..16.0).contains(&hour) && age_ms > 12.0 * HOUR_MS && random.random_bool(0.6) {
        age_ms -= 12.0 * HOUR_MS;
    }
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "at most SPAN_MS")]
        post(now_ms - age_ms.max(0.0) as i64);
        age_ms -= BURST_GAP_MS * random.sample::<f64, _>(Exp1);
        if age_ms < 0.0 || !random.random_bool(BURST_CONTINUES) {
            return;
        }
    }
}

/// A post id in the format of the server: 41 bits of milliseconds, 12 of the shard, 10 of a
/// sequence.
pub(crate) fn demo_post_id(
    ms: i64,
    author: UserId,
    shards: u16,
    sequences: &mut HashMap<(i64, u64), u64>,
) -> PostId {
    let shard = author.get() % u64::from(shards);
    let sequence = sequences.entry((ms, shard)).or_default();
    let id = (ms.unsigned_abs() << 22) | (shard << 10) | *sequence;
    *sequence += 1;
    PostId::new(id).expect("41 bits of milliseconds end in the year 2039")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::demo::follows;

    fn address(author: UserId, post: PostId) -> PostAddress {
        PostAddress { author, post }
    }

    #[test]
    fn posts_are_skewed_sorted_and_reproducible() {
        let size = NetworkSize { users: 1_000, posts: 20_000, shards: 4 };
        let graph = follows(size);
        let now = 1_800_000_000_000;
        let all = posts(size, &graph, now);
        assert_eq!(all, posts(size, &graph, now));
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(|post| post.key.time <= now && !post.content.is_empty()));
        assert!(all.is_sorted_by_key(|post| (post.key.author, post.key.time, post.key.post)));
        let ids: HashSet<PostId> = all.iter().map(|post| post.key.post).collect();
        assert_eq!(ids.len(), all.len(), "an id was generated twice");

        let known: HashSet<PostAddress> =
            all.iter().map(|Post { key, .. }| address(key.author, key.post)).collect();
        let of = |wanted: fn(&References) -> Option<PostAddress>| -> Vec<PostAddress> {
            all.iter().filter_map(|post| wanted(&post.references)).collect()
        };
        let (replies, reposts) = (of(|all| all.reply_to), of(|all| all.repost_of));
        assert!(replies.len() > 3_000 && reposts.len() > 1_000, "{}", reposts.len());
        assert!(replies.iter().chain(&reposts).all(|other| known.contains(other)));

        let mut by_author: HashMap<UserId, usize> = HashMap::new();
        for post in &all {
            *by_author.entry(post.key.author).or_default() += 1;
        }
        let mut counts: Vec<usize> = by_author.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top_tenth: usize = counts[..100].iter().sum();
        assert!(top_tenth > 10_000, "the busiest tenth writes {top_tenth} of 20,000");
        let odd = |wanted: fn(&str) -> bool| all.iter().any(|post| wanted(&post.content));
        assert!(odd(|t| t.contains('\n')) && odd(|t| t.contains('"')) && odd(|t| t.contains("</")));
        assert!(odd(|t| t.chars().any(|c| c > '\u{1f000}')) && odd(|t| t.contains('#')));
    }
}
