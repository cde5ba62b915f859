//! Worlds of follows and posts, and the naive oracle: fetch everything, filter, sort, truncate.

use std::collections::{BTreeMap, BTreeSet};

use tributary::internal::Follow;
use tributary::{Cursor, Limit, Page, PageRequest, Post, PostKey, Tributary, UserId};

use super::{post_id, user_id};

/// All follows and posts of a test.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) follows: Vec<Follow>,
    pub(crate) posts: Vec<Post>,
    /// Pairs of a user and a user that it mutes.
    pub(crate) mutes: BTreeSet<(UserId, UserId)>,
    /// Pairs of a user and a user that it blocks.
    pub(crate) blocks: BTreeSet<(UserId, UserId)>,
}

impl World {
    pub(crate) fn follow(&mut self, follower: u64, followee: u64) {
        self.follows.push(Follow { follower: user_id(follower), followee: user_id(followee) });
    }

    pub(crate) fn post(&mut self, author: u64, time: i64, post: u64) {
        let key = PostKey { time, post: post_id(post), author: user_id(author) };
        self.posts.push(Post::new(key, format!("post {post} of {author} at {time}\n🎉")));
    }

    /// A reader who follows two authors on each of four shards, with 10 posts each.
    pub(crate) fn followed_by(reader: UserId) -> Self {
        let mut world = Self::default();
        for author in 8..16 {
            world.follow(reader.get(), author);
            for n in 0..10 {
                world.post(author, i64::try_from(n * 10 + author % 3).unwrap(), author * 100 + n);
            }
        }
        world
    }
}

/// The expected timeline of every reader, computed in the simplest way.
pub(crate) struct Oracle {
    followees: BTreeMap<UserId, BTreeSet<UserId>>,
    by_author: BTreeMap<UserId, Vec<Post>>,
}

impl Oracle {
    pub(crate) fn new(world: &World) -> Self {
        let mut followees: BTreeMap<UserId, BTreeSet<UserId>> = BTreeMap::new();
        let is_hidden = |reader, author| {
            world.mutes.contains(&(reader, author))
                || world.blocks.contains(&(reader, author))
                || world.blocks.contains(&(author, reader))
        };
        for follow in &world.follows {
            if is_hidden(follow.follower, follow.followee) {
                continue;
            }
            followees.entry(follow.follower).or_default().insert(follow.followee);
        }
        let mut by_author: BTreeMap<UserId, Vec<Post>> = BTreeMap::new();
        for post in &world.posts {
            by_author.entry(post.key.author).or_default().push(post.clone());
        }
        Self { followees, by_author }
    }

    pub(crate) fn readers(&self) -> Vec<UserId> {
        self.followees.keys().copied().collect()
    }

    /// The whole home timeline, newest first.
    pub(crate) fn feed(&self, reader: UserId) -> Vec<&Post> {
        let mut feed: Vec<&Post> = self
            .followees
            .get(&reader)
            .into_iter()
            .flatten()
            .filter_map(|followee| self.by_author.get(followee))
            .flatten()
            .collect();
        feed.sort_by_key(|post| std::cmp::Reverse(post.key));
        feed
    }
}

/// How a timeline is read.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) limit: u8,
    pub(crate) pages_max: usize,
    /// Also read the page of newer posts above each page.
    pub(crate) with_prev: bool,
}

/// Reads `reader`'s home timeline from the newest page down. Compares each page, post by post, with
/// `feed`, the oracle's whole timeline. Returns the number of pages read.
pub(crate) async fn check_walk(
    tributary: &Tributary,
    feed: &[&Post],
    reader: UserId,
    walk: Walk,
) -> usize {
    let limit = usize::from(walk.limit);
    let read = async |cursor, context: &str| {
        let request = PageRequest::default().from(cursor).limit(Limit::new(walk.limit).unwrap());
        let page = tributary.home_timeline(reader, &request).await.unwrap();
        assert!(page.waves <= 6, "{context}: {} waves", page.waves);
        page
    };
    let (mut start, mut cursor, mut pages) = (0, Cursor::newest(), 0);
    for _ in 0..walk.pages_max {
        let context = format!("reader {reader}, limit {limit}, from post {start}");
        let page = read(cursor, &context).await;
        pages += 1;
        let end = feed.len().min(start + limit);
        assert_page(&page, &feed[start..end], &context);
        assert_eq!(page.next.is_none(), end == feed.len(), "{context}: next");
        if walk.with_prev {
            // The up to `limit` posts just above the first post of the page.
            let prev = read(page.prev, &context).await;
            pages += 1;
            assert_page(
                &prev,
                &feed[start.saturating_sub(limit)..start],
                &format!("{context}, prev"),
            );
            assert_eq!(prev.next.is_none(), feed.is_empty(), "{context}: next of prev");
        }
        let Some(next) = page.next else { break };
        // The cursor must still work after a round trip through its text.
        cursor = next.to_string().parse().unwrap();
        start = end;
    }
    pages
}

/// Asserts that the page is complete and has exactly these posts; `context` begins the message.
pub(crate) fn assert_page(page: &Page, expected: &[&Post], context: &str) {
    assert!(page.is_complete(), "{context}: {:?} missing", page.missing);
    let found: Vec<&Post> = page.posts.iter().collect();
    if found != expected {
        let keys = |posts: &[&Post]| posts.iter().map(|post| post.key).collect::<Vec<_>>();
        panic!("{context}:\n  found    {:?}\n  expected {:?}", keys(&found), keys(expected));
    }
}
