//! Worlds of follows and posts, and the naive oracle: fetch everything, filter, sort, cut.

use std::collections::{BTreeMap, BTreeSet};

use tributary::model::Follow;
use tributary::{Cursor, Limit, Page, PageRequest, Post, PostId, PostKey, Tributary, UserId};

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) follows: Vec<Follow>,
    pub(crate) posts: Vec<Post>,
}

impl World {
    pub(crate) fn follow(&mut self, follower: u64, followee: u64) {
        self.follows.push(Follow { follower: UserId(follower), followee: UserId(followee) });
    }

    pub(crate) fn post(&mut self, author: u64, time: i64, post: u64) {
        let key = PostKey { time, post: PostId(post), author: UserId(author) };
        self.posts.push(Post { key, content: format!("post {post} of {author} at {time}\n🎉") });
    }
}

/// The naive answer to every reader.
pub(crate) struct Oracle {
    followees: BTreeMap<UserId, BTreeSet<UserId>>,
    by_author: BTreeMap<UserId, Vec<Post>>,
}

impl Oracle {
    pub(crate) fn new(world: &World) -> Self {
        let mut followees: BTreeMap<UserId, BTreeSet<UserId>> = BTreeMap::new();
        for follow in &world.follows {
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

/// How much of a timeline is walked.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) limit: u8,
    pub(crate) pages_max: usize,
    /// Read the page above each page as well.
    pub(crate) with_prev: bool,
}

/// Walks `reader`'s home timeline from the newest page down and compares each page, post by post,
/// with `feed`, the oracle's whole answer. Returns the number of pages read.
pub(crate) async fn check_walk(
    tributary: &Tributary,
    feed: &[&Post],
    reader: UserId,
    walk: Walk,
) -> usize {
    let limit = usize::from(walk.limit);
    let read = async |cursor, place: &str| {
        let request = PageRequest {
            cursor,
            limit: Limit::new(walk.limit).unwrap(),
            ..PageRequest::default()
        };
        let page = tributary.home_timeline(reader, &request).await.unwrap();
        assert!(page.waves <= 5, "{place}: {} waves", page.waves);
        page
    };
    let (mut start, mut cursor, mut pages) = (0, Cursor::newest(), 0);
    for _ in 0..walk.pages_max {
        let place = format!("reader {reader}, limit {limit}, from post {start}");
        let page = read(cursor, &place).await;
        pages += 1;
        let end = feed.len().min(start + limit);
        assert_page(&page, &feed[start..end], &place);
        assert_eq!(page.next.is_none(), end == feed.len(), "{place}: next");
        if walk.with_prev {
            // The posts nearest above the first of the page.
            let prev = read(page.prev, &place).await;
            pages += 1;
            assert_page(
                &prev,
                &feed[start.saturating_sub(limit)..start],
                &format!("{place}, prev"),
            );
            assert_eq!(prev.next.is_none(), feed.is_empty(), "{place}: next of prev");
        }
        let Some(next) = page.next else { break };
        // A cursor survives its text.
        cursor = next.to_string().parse().unwrap();
        start = end;
    }
    pages
}

pub(crate) fn assert_page(page: &Page, expected: &[&Post], place: &str) {
    assert!(page.is_complete(), "{place}: {:?} missing", page.missing);
    let found: Vec<&Post> = page.posts.iter().collect();
    if found != expected {
        let keys = |posts: &[&Post]| posts.iter().map(|post| post.key).collect::<Vec<_>>();
        panic!("{place}:\n  found    {:?}\n  expected {:?}", keys(&found), keys(expected));
    }
}
