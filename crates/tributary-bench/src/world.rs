//! The data of the benchmark: follows and posts, generated from a size and a seed.
//!
//! The same size and seed give the same data. It is kept in memory to compare answers with it:
//! 4 bytes per follow and 24 bytes per post. Pure.

use std::collections::HashMap;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::LogNormal;
use tributary::internal::Follow;
use tributary::{Post, PostId, PostKey, UserId};

use super::words;
use crate::demo::{activity, burst, delay_ms, demo_post_id};

/// Followees per reader are lognormal: the median, and sigma of the logarithm.
const FOLLOWEES_MEDIAN: f64 = 40.0;
const FOLLOWEES_SIGMA: f64 = 1.35;
/// The most followees of one reader.
const FOLLOWEES_MAX: f64 = 10_000.0;
/// An author is followed with the weight (rank + shift)^-exponent.
const RANK_SHIFT: f64 = 10.0;
const RANK_EXPONENT: f64 = 0.95;
/// The largest share of users that follow one author; the storm author has exactly this share.
const SHARE_MAX: f64 = 0.25;
/// 2025-01-01. No post of the world is newer; every post that a run writes is.
pub(super) const END_MS: i64 = 1_735_689_600_000;
/// Post ids are generated as for this many shards; any number gives unique ids.
const SHARDS: u16 = 4;
/// Runs follow and unfollow only authors whose id is a multiple of this.
pub(super) const CHURN_EVERY: u32 = 50;

/// How large a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorldSize {
    /// Users have the ids 1 to `users`; the storm author has the id after them.
    pub users: u32,
    /// Posts of all users together.
    pub posts: u32,
    /// Users that each user mutes.
    pub mutes: u16,
    /// Users that each user blocks.
    pub blocks: u16,
}

impl WorldSize {
    /// The author that a quarter of all users follow and that has no post in the world.
    pub(super) fn storm_author(self) -> u32 {
        self.users + 1
    }
}

/// Independent random streams.
#[derive(Clone, Copy)]
enum Stream {
    Follows = 1,
    Posts = 2,
    Storm = 3,
    Mutes = 4,
    Blocks = 5,
}

fn random(seed: u64, stream: Stream) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_add((stream as u64) << 56))
}

/// Whether runs follow and unfollow this author. An earlier run that was interrupted may have left
/// such follows in the database.
pub(super) fn has_follow_churn(author: u32) -> bool {
    author.is_multiple_of(CHURN_EVERY)
}

/// Generated follows and posts.
#[derive(Debug, PartialEq, Eq)]
pub struct World {
    /// Users and posts.
    pub size: WorldSize,
    seed: u64,
    /// Followees by reader, by ascending id.
    follows: Lists<u32>,
    /// Muted users by reader, and blocked users by user, each by ascending id.
    mutes: Lists<u32>,
    blocks: Lists<u32>,
    /// Those of the followees whose posts the reader sees.
    shown: Lists<u32>,
    /// Posts by author, oldest first.
    posts: Lists<PostKey>,
}

/// One list per user, stored one after another.
#[derive(Debug, PartialEq, Eq)]
struct Lists<T> {
    /// The start of each user's list in `items`, and the end of the last list.
    starts: Vec<usize>,
    items: Vec<T>,
}

impl<T> Lists<T> {
    fn of(&self, user: u32) -> &[T] {
        let user = user as usize;
        match (self.starts.get(user), self.starts.get(user + 1)) {
            (Some(start), Some(end)) => &self.items[*start..*end],
            _ => &[],
        }
    }
}

impl Lists<u32> {
    /// Every user with each user on its list.
    fn entries(&self) -> impl ExactSizeIterator<Item = Follow> {
        let mut owner = 0u32;
        (0..self.items.len()).map(move |index| {
            while self.starts[owner as usize + 1] <= index {
                owner += 1;
            }
            let followee = UserId::from(self.items[index]);
            Follow { follower: UserId::from(owner), followee }
        })
    }
}

impl World {
    /// Generates the world, which takes about 1 s per million follows.
    pub fn make(size: WorldSize, seed: u64) -> Self {
        let follows = follows(size, seed);
        let posts = posts(size, seed, &follows);
        let mutes = hidden(size, random(seed, Stream::Mutes), size.mutes, &follows);
        let blocks = hidden(size, random(seed, Stream::Blocks), size.blocks, &follows);
        let shown = shown(size, &follows, &mutes, &blocks);
        Self { size, seed, follows, mutes, blocks, shown, posts }
    }

    /// The followees whose posts the reader sees, by ascending id.
    pub(super) fn followees(&self, reader: u32) -> &[u32] {
        self.shown.of(reader)
    }

    /// An author's posts, oldest first.
    pub(super) fn posts(&self, author: u32) -> &[PostKey] {
        self.posts.of(author)
    }

    /// The text of a post of the world, generated from its id.
    pub(super) fn text(&self, post: PostId) -> String {
        words::text(self.seed, post.get())
    }

    /// Every follow, by ascending reader.
    pub fn all_follows(&self) -> impl ExactSizeIterator<Item = Follow> {
        self.follows.entries()
    }

    /// Every mute, by ascending reader.
    pub fn all_mutes(&self) -> impl ExactSizeIterator<Item = Follow> {
        self.mutes.entries()
    }

    /// Every block, by ascending blocker.
    pub fn all_blocks(&self) -> impl ExactSizeIterator<Item = Follow> {
        self.blocks.entries()
    }

    /// Every post, by ascending author.
    pub fn all_posts(&self) -> impl ExactSizeIterator<Item = Post> {
        let post = |key: &PostKey| Post::new(*key, self.text(key.post));
        self.posts.items.iter().map(post)
    }
}

fn follows(size: WorldSize, seed: u64) -> Lists<u32> {
    let mut random = random(seed, Stream::Follows);
    // Shuffled, so that the number of followers does not depend on the id.
    let mut by_fame: Vec<u32> = (1..=size.users).collect();
    by_fame.shuffle(&mut random);
    let weights = (0..size.users).map(|rank| (f64::from(rank) + RANK_SHIFT).powf(-RANK_EXPONENT));
    let fame = WeightedIndex::new(weights).expect("a world has users, all of weight above 0");
    let followee_counts =
        LogNormal::new(FOLLOWEES_MEDIAN.ln(), FOLLOWEES_SIGMA).expect("the constants are finite");
    let most = f64::from(size.users) * SHARE_MAX;
    let mut followers = vec![0.0; by_fame.len()];
    // By the author's rank: the id of the last reader that drew this author.
    let mut last_reader = vec![0; by_fame.len()];
    let mut storm = self::random(seed, Stream::Storm);
    let mut lists = Lists { starts: vec![0, 0], items: Vec::new() };
    for reader in 1..=size.users {
        let target = random.sample(followee_counts).round().clamp(0.0, most.min(FOLLOWEES_MAX));
        // Popular authors are drawn repeatedly, so the number of draws is limited.
        let (mut has, mut draws) = (0.0, target * 20.0);
        let start = lists.items.len();
        while has < target && draws > 0.0 {
            draws -= 1.0;
            let rank = fame.sample(&mut random);
            if by_fame[rank] != reader
                && last_reader[rank] != reader
                && followers[rank] + 1.0 <= most
            {
                last_reader[rank] = reader;
                followers[rank] += 1.0;
                has += 1.0;
                lists.items.push(by_fame[rank]);
            }
        }
        lists.items[start..].sort_unstable();
        if storm.random_bool(SHARE_MAX) {
            lists.items.push(size.storm_author());
        }
        lists.starts.push(lists.items.len());
    }
    lists
}

/// For each user, `count` users to hide: about half of them are followees, if there are as many.
/// Authors with follow churn neither hide nor are hidden, so that runs can expect their posts.
fn hidden(size: WorldSize, mut random: StdRng, count: u16, follows: &Lists<u32>) -> Lists<u32> {
    let mut lists = Lists { starts: vec![0, 0], items: Vec::new() };
    for user in 1..=size.users {
        let followees = follows.of(user);
        if count > 0 && !has_follow_churn(user) {
            let half = usize::from(count / 2).min(followees.len() / 2);
            let known = (0..half).map(|_| followees[random.random_range(0..followees.len())]);
            let mut users: Vec<u32> = known.collect();
            users.extend((half..count.into()).map(|_| random.random_range(1..=size.users)));
            users.retain(|other| {
                *other != user && *other <= size.users && !has_follow_churn(*other)
            });
            users.sort_unstable();
            users.dedup();
            lists.items.extend(users);
        }
        lists.starts.push(lists.items.len());
    }
    lists
}

/// The followees of each user that the user neither mutes nor blocks, and that do not block it.
fn shown(
    size: WorldSize,
    follows: &Lists<u32>,
    mutes: &Lists<u32>,
    blocks: &Lists<u32>,
) -> Lists<u32> {
    let has =
        |lists: &Lists<u32>, owner: u32, user: u32| lists.of(owner).binary_search(&user).is_ok();
    let mut lists = Lists { starts: vec![0, 0], items: Vec::new() };
    for reader in 1..=size.users {
        let is_shown = |author: &u32| {
            !has(mutes, reader, *author)
                && !has(blocks, reader, *author)
                && !has(blocks, *author, reader)
        };
        lists.items.extend(follows.of(reader).iter().copied().filter(is_shown));
        lists.starts.push(lists.items.len());
    }
    lists
}

fn posts(size: WorldSize, seed: u64, follows: &Lists<u32>) -> Lists<PostKey> {
    let mut random = random(seed, Stream::Posts);
    let mut followers = vec![0; size.users as usize];
    for followee in &follows.items {
        // The storm author has no counter: its id is after the last user, and it has no posts.
        if let Some(count) = followers.get_mut(*followee as usize - 1) {
            *count += 1;
        }
    }
    let weights = activity(&followers, &mut random);
    let authors = WeightedIndex::new(weights).expect("a world has users, all of weight above 0");
    let mut times: Vec<(i64, u32)> = Vec::new();
    while times.len() < size.posts as usize {
        let index = u32::try_from(authors.sample(&mut random)).unwrap_or(0);
        burst(END_MS, &mut random, |time| times.push((time, index + 1)));
    }
    times.truncate(size.posts as usize);
    times.sort_unstable();
    let mut ids = HashMap::new();
    let key = |(arrived, author): (i64, u32)| {
        let author = UserId::from(author);
        let post = demo_post_id(arrived, author, SHARDS, &mut ids);
        PostKey { time: arrived - delay_ms(&mut random), post, author }
    };
    let mut keys: Vec<PostKey> = times.into_iter().map(key).collect();
    keys.sort_unstable_by_key(|key| (key.author, *key));
    let mut starts = vec![0];
    let mut user = 0;
    for (index, key) in keys.iter().enumerate() {
        while user < key.author.get() {
            starts.push(index);
            user += 1;
        }
    }
    starts.resize(size.users as usize + 2, keys.len());
    Lists { starts, items: keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WorldSize = WorldSize { users: 20_000, posts: 100_000, mutes: 0, blocks: 0 };

    #[test]
    fn the_world_has_the_documented_shape_and_is_reproducible() {
        let world = World::make(SIZE, 1);
        assert_eq!(world, World::make(SIZE, 1));
        assert_ne!(world.follows, World::make(SIZE, 2).follows);

        let storm = SIZE.storm_author();
        let mut followers = vec![0u32; SIZE.users as usize + 2];
        let mut counts: Vec<usize> = Vec::new();
        for reader in 1..=SIZE.users {
            let followees = world.followees(reader);
            assert!(followees.is_sorted_by(|a, b| a < b), "{reader} follows someone twice");
            assert!(!followees.contains(&reader), "{reader} follows itself");
            followees.iter().for_each(|followee| followers[*followee as usize] += 1);
            counts.push(followees.iter().filter(|followee| **followee != storm).count());
        }
        counts.sort_unstable();
        let (median, most) = (counts[10_000], counts[19_999]);
        assert!((37..=43).contains(&median), "{median} followees of the median reader");
        assert!(most <= 5_000, "{most} followees");
        let mean = counts.iter().sum::<usize>() / counts.len();
        assert!((85..=110).contains(&mean), "{mean} followees of the mean reader");
        let of_storm = followers[storm as usize];
        assert!((4_800..=5_200).contains(&of_storm), "{of_storm} follow the storm author");
        let top = followers[..=SIZE.users as usize].iter().max().copied().unwrap_or(0);
        assert!((1_000..=5_000).contains(&top), "{top} followers of the most famous");
    }

    #[test]
    fn posts_are_skewed_unique_and_listed_by_author() {
        let world = World::make(WorldSize { users: 2_000, posts: 30_000, mutes: 0, blocks: 0 }, 1);
        let mut counts: Vec<usize> = (1..=2_000).map(|author| world.posts(author).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 30_000);
        assert!((1..=2_000).all(|author| world.posts(author).is_sorted()));
        let all: Vec<Post> = world.all_posts().collect();
        let ids: std::collections::HashSet<PostId> = all.iter().map(|post| post.key.post).collect();
        assert_eq!(ids.len(), 30_000, "an id was generated twice");
        assert!(all.iter().all(|post| post.key.time <= END_MS && !post.content.is_empty()));
        for author in [1, 7, 2_000] {
            assert!(world.posts(author).iter().all(|key| key.author == UserId::from(author)));
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top_tenth: usize = counts[..200].iter().sum();
        assert!(top_tenth > 15_000, "the busiest tenth writes {top_tenth} of 30,000");

        let follows: Vec<Follow> = world.all_follows().collect();
        assert!(follows.is_sorted());
        let of_seven = follows.iter().filter(|follow| follow.follower == UserId::from(7)).count();
        assert_eq!(of_seven, world.followees(7).len());
        assert_eq!(world.posts(2_001), [] as [PostKey; 0]);
        assert_eq!(world.followees(9_999), [] as [u32; 0]);
    }

    #[test]
    fn readers_see_the_posts_of_followees_that_no_one_hides() {
        let size = WorldSize { users: 2_000, posts: 0, mutes: 20, blocks: 20 };
        let world = World::make(size, 1);
        let mutes: Vec<Follow> = world.all_mutes().collect();
        let blocks: Vec<Follow> = world.all_blocks().collect();
        assert!(mutes.len() > 30_000 && blocks.len() > 30_000 && mutes != blocks);
        let (mut all, mut seen) = (0, 0);
        for follow in world.all_follows() {
            let Follow { follower, followee } = follow;
            let back = Follow { follower: followee, followee: follower };
            let has = |list: &[Follow], entry| list.binary_search(&entry).is_ok();
            let is_hidden = has(&mutes, follow) || has(&blocks, follow) || has(&blocks, back);
            let reader = u32::try_from(follower.get()).unwrap();
            let shown = world.followees(reader).contains(&u32::try_from(followee.get()).unwrap());
            assert_ne!(shown, is_hidden, "{follow:?}");
            (all, seen) = (all + 1, seen + usize::from(shown));
        }
        assert!(seen < all * 9 / 10, "{seen} of {all}");
    }
}
