//! Home timelines that show each post once, in random worlds with reposts, on every backend and
//! from memory.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tributary::posts::PostAddress;
use tributary::{Cursor, Limit, PageRequest, Post, Tributary, UserId};

use crate::support::fleet::{TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::until_warm;
use crate::support::world::{Oracle, World, assert_page};
use crate::support::{run, seed, size, user_id};

/// Users of a world; the first one reads.
const USERS: u64 = 8;
const POSTS: u64 = 60;

pub(crate) fn address(post: &Post) -> PostAddress {
    PostAddress { author: post.key.author, post: post.key.post }
}

/// A world of users from `first` on. Two of three posts refer to another one, which can be newer.
fn world(first: u64, chance: &mut StdRng) -> World {
    let mut world = World::default();
    for author in first + 1..first + USERS {
        world.follow(first, author);
    }
    for n in 0..POSTS {
        let author = first + chance.random_range(1..USERS);
        world.post(author, chance.random_range(0..40), first * 1_000 + n);
    }
    let all: Vec<PostAddress> = world.posts.iter().map(address).collect();
    for post in &mut world.posts {
        // Few posts are reposted often.
        let other = all[chance.random_range(0..12)];
        match chance.random_range(0..6) {
            0 | 1 => {}
            2 => post.references.reply_to = Some(other),
            3 => post.references.repost_of = Some(other),
            _ => {
                let any = all[chance.random_range(0..all.len())];
                post.references.repost_of = Some(if chance.random() { any } else { other });
                post.content = String::new();
            }
        }
    }
    world
}

/// Those of these posts, in reading order, that are shown if others were shown before.
fn first_showings<'a>(
    part: impl Iterator<Item = &'a Post>,
    before: &HashSet<PostAddress>,
) -> Vec<&'a Post> {
    let mut shown = before.clone();
    let mut kept = Vec::new();
    for post in part {
        let original = post.references.repost_of;
        let is_plain = post.content.is_empty();
        let is_repeat = shown.contains(&address(post))
            || original.is_some_and(|original| is_plain && shown.contains(&original));
        if !is_repeat {
            shown.extend(marks(&[post]));
            kept.push(post);
        }
    }
    kept
}

/// The posts of a page that is read downwards.
pub(crate) fn shown_down<'a>(part: &[&'a Post], before: &HashSet<PostAddress>) -> Vec<&'a Post> {
    first_showings(part.iter().copied(), before)
}

/// The posts of a page that is read upwards, the newest first.
pub(crate) fn shown_up<'a>(part: &[&'a Post], before: &HashSet<PostAddress>) -> Vec<&'a Post> {
    let mut shown = first_showings(part.iter().rev().copied(), before);
    shown.reverse();
    shown
}

/// The posts that these show.
pub(crate) fn marks(shown: &[&Post]) -> HashSet<PostAddress> {
    let all = shown.iter().flat_map(|post| [Some(address(post)), post.references.repost_of]);
    all.flatten().collect()
}

/// Reads collapsed pages and compares them with those of a whole timeline.
pub(crate) struct Collapsed<'a> {
    pub(crate) node: &'a Tributary,
    pub(crate) user: UserId,
    /// The request for the newest page, without its limit.
    pub(crate) start: PageRequest,
    pub(crate) limit: u8,
    pub(crate) feed: Vec<&'a Post>,
}

impl Collapsed<'_> {
    async fn page(&self, cursor: Cursor) -> tributary::Page {
        // Through its text, as clients do it.
        let cursor = cursor.to_string().parse().unwrap();
        let request = self.start.clone().from(cursor).limit(Limit::new(self.limit).unwrap());
        self.node.home_timeline(self.user, &request.collapse_reposts()).await.unwrap()
    }

    /// The end of the page down from `start`.
    pub(crate) fn down(&self, start: usize, before: &HashSet<PostAddress>) -> usize {
        let is_full = |end: &usize| {
            shown_down(&self.feed[start..*end], before).len() == usize::from(self.limit)
        };
        (start..=self.feed.len()).find(is_full).unwrap_or(self.feed.len())
    }

    /// The start of the page up from `end`.
    pub(crate) fn up(&self, end: usize, before: &HashSet<PostAddress>) -> usize {
        let is_full = |start: &usize| {
            shown_up(&self.feed[*start..end], before).len() == usize::from(self.limit)
        };
        (0..=end).rev().find(is_full).unwrap_or(0)
    }

    /// Reads down to the end, and from each page two pages up and one down.
    pub(crate) async fn check(&self, context: &str) {
        let (mut cursor, mut start, mut before) = (Cursor::newest(), 0, HashSet::new());
        let mut shown = Vec::new();
        loop {
            let context = format!("{context}, collapsed, from {start}");
            let page = self.page(cursor).await;
            let end = self.down(start, &before);
            let expected = shown_down(&self.feed[start..end], &before);
            assert_page(&page, &expected, &context);
            assert_eq!(page.next.is_none(), end == self.feed.len(), "{context}");
            self.check_up(page.prev, start, marks(&expected), &context).await;
            before.extend(marks(&expected));
            shown.extend(expected);
            start = end;
            let Some(next) = page.next else { break };
            cursor = next;
        }
        assert_eq!(shown, shown_down(&self.feed, &HashSet::new()));
    }

    /// Reads up from a page that starts at `start` and has shown `below`.
    async fn check_up(
        &self,
        prev: Cursor,
        start: usize,
        below: HashSet<PostAddress>,
        context: &str,
    ) {
        let top = self.up(start, &below);
        let page = self.page(prev).await;
        let expected = shown_up(&self.feed[top..start], &below);
        assert_page(&page, &expected, &format!("{context}, up"));
        let above = marks(&expected);
        if let Some(next) = page.next.filter(|_| top < start) {
            let end = self.down(start, &above);
            let expected = shown_down(&self.feed[start..end], &above);
            assert_page(&self.page(next).await, &expected, &format!("{context}, up and down"));
        }
        let below: HashSet<PostAddress> = &below | &above;
        let expected = shown_up(&self.feed[self.up(top, &below)..top], &below);
        assert_page(&self.page(page.prev).await, &expected, &format!("{context}, twice up"));
    }
}

fn configure(fleet: &TestFleet) {
    if let Some(file) = &fleet.config_file {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"\n[tables.posts.references]\n").unwrap();
    }
}

#[test]
fn each_post_is_shown_once_down_and_up() {
    run(async {
        for (_, fleet) in every_backend().await {
            configure(&fleet);
            drop(fleet.config_for_writing().await);
            let mut chance = StdRng::seed_from_u64(seed(25));
            let worlds: u64 = size(4, 60);
            let worlds: Vec<(UserId, World)> =
                (1..=worlds).map(|n| (user_id(n * USERS), world(n * USERS, &mut chance))).collect();
            for (_, world) in &worlds {
                fleet.load(world).await;
            }
            for memory in [0, 32 << 20] {
                let node = Tributary::open(&fleet.config_with_memory(memory)).await.unwrap();
                for (user, world) in &worlds {
                    if memory > 0 {
                        until_warm(&node, *user, 100).await;
                    }
                    let (oracle, user) = (Oracle::new(world), *user);
                    for limit in [1, 3, 20] {
                        let feed = oracle.feed(user);
                        let start = PageRequest::default();
                        let context = format!("reader {user}, limit {limit}");
                        let collapsed = Collapsed { node: &node, user, start, limit, feed };
                        collapsed.check(&context).await;
                    }
                }
                node.close().await;
            }
        }
    });
}

#[test]
fn collapsed_pages_are_kept_apart_from_plain_ones() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let mut config = fleet.config_with_memory(32 << 20);
        config.write.enabled = true;
        let node = Tributary::open(&config).await.unwrap();
        let server = TestServer::start(node).await;
        server.post("/v1/users/1/following", r#"{"follow": ["2", "3"]}"#, None).await;
        let first = server.post("/v1/users/2/posts", r#"{"content": "one"}"#, None).await;
        let token_of_first = first.header("tributary-freshness").to_owned();
        let first = first.json();
        let of = json!({"author_id": "2", "post_id": first["post_id"]});
        let repost = json!({"repost_of": of}).to_string();
        let repost = server.post("/v1/users/3/posts", &repost, None).await;
        let (token, repost) = (repost.header("tributary-freshness").to_owned(), repost.json());
        let read = async |query: &str| {
            let request = hyper::Request::get(format!("/v1/users/1/feed?{query}"));
            let request = request.header("tributary-freshness", &token_of_first);
            server.send(request.header("tributary-freshness", &token)).await
        };
        for _ in 0..4 {
            let plain = read("limit=1").await.json();
            assert_eq!(plain["posts"], json!([repost]));
            let next = plain["next"].as_str().unwrap();
            assert_eq!(
                read(&format!("limit=1&cursor={next}")).await.json()["posts"],
                json!([first])
            );
            let page = read("limit=1&reposts=collapse").await;
            assert_eq!(page.json()["posts"], json!([repost]));
            assert!(page.header("link").contains("/feed?reposts=collapse&limit="), "{page:?}");
            let next = page.json()["next"].as_str().unwrap().to_owned();
            let last = read(&format!("limit=1&reposts=collapse&cursor={next}")).await.json();
            assert_eq!((&last["posts"], &last["next"]), (&json!([]), &json!(null)));
            let plain = read(&format!("limit=1&cursor={next}")).await.json();
            assert_eq!(plain["posts"], json!([first]), "without the parameter, nothing is skipped");
        }
        for query in ["reposts=all", "reposts=collapse&around=1:2", "reposts=collapse&explain=1"] {
            assert_eq!(read(query).await.problem(), (400, "invalid_query".to_owned()), "{query}");
        }
    });
}
