//! Random histories of all that changes a home timeline: follows, mutes, blocks, posts, replies,
//! reposts, edits and deletions. Two nodes and other programs write them, while others write rows
//! of other users. On every backend, every page equals the naive oracle's, and so does what
//! a client has from one page and the news after it.

mod client;
mod noise;
mod steps;

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tributary::graph::Count;
use tributary::posts::{PostAddress, References};
use tributary::{Cursor, Freshness, Limit, PageRequest, Post, PostKey, Tributary, UserId};

use self::client::Client;
use self::noise::Noise;
use crate::collapse::{Collapsed, address, marks, shown_down, shown_up};
use crate::graph::{execute, followers, related, without_memory};
use crate::support::fleet::{Backend, SHARDS, TestFleet, every_backend};
use crate::support::watch::Watch;
use crate::support::world::{Oracle, World, assert_page};
use crate::support::{post_id, run, seed, size, user_id};

/// Users of a history. Every user reads and posts.
pub(crate) const USERS: u64 = 8;
const MEMORY: usize = 64 << 20;
/// Places in timelines that are kept for later.
const PLACES_MAX: usize = 40;

/// The last step that changed the block of a reader by an author: (author, reader) -> step.
type Blocked = BTreeMap<(UserId, UserId), usize>;

/// A random history, with everything that must be true after each of its steps.
struct History<'a> {
    fleet: &'a TestFleet,
    /// The nodes that write and have memory. A folder has one owner, so it has one node.
    nodes: Vec<Tributary>,
    /// A node without memory.
    bare: Tributary,
    world: World,
    /// Whether posts can be hidden by a value of a column.
    hides_posts: bool,
    hidden: Vec<Post>,
    /// The token of all writes so far.
    token: Freshness,
    chance: StdRng,
    /// The time of the start, in milliseconds since 1970.
    began: i64,
    /// The number of steps so far.
    steps: usize,
    /// Steps whose rows the log does not contain as a whole.
    unlogged: usize,
    blocked: Blocked,
    clients: Vec<Client>,
    places: Vec<Place>,
    from_memory: usize,
    gaps: usize,
}

/// How a timeline is read.
#[derive(Clone, Copy, Debug)]
struct How {
    own: bool,
    collapse: bool,
    limit: u8,
}

/// A place that a reader has reached, and how it continues.
struct Place {
    reader: UserId,
    how: How,
    cursor: Cursor,
    is_down: bool,
    /// The last post before the place.
    edge: PostKey,
    /// The posts that were shown before, if reposts are collapsed.
    shown: HashSet<PostAddress>,
}

impl How {
    fn request(self, token: &Freshness) -> PageRequest {
        let mut request = PageRequest::default().at_least(token.clone());
        request.limit = Limit::new(self.limit).unwrap();
        if self.own {
            request = request.include_self();
        }
        if self.collapse { request.collapse_reposts() } else { request }
    }
}

impl<'a> History<'a> {
    async fn new(fleet: &'a TestFleet, number: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed(4_400 + number));
        let is_adopted = chance.random() && fleet.config_file.is_some();
        configure(fleet, is_adopted).await;
        let mut nodes = Vec::new();
        let count = if fleet.config_file.is_some() { 2 } else { 1 };
        for _ in 0..count {
            let mut config = fleet.config_with_memory(MEMORY);
            config.write.enabled = true;
            nodes.push(Tributary::open(&config).await.unwrap());
        }
        let began = nodes[0].publish(user_id(0), "first", None).await.unwrap();
        let mut history = Self {
            fleet,
            nodes,
            bare: without_memory(fleet).await,
            world: World::default(),
            hides_posts: is_adopted,
            hidden: Vec::new(),
            token: began.freshness,
            chance,
            began: began.post.key.time,
            steps: 0,
            unlogged: 0,
            blocked: BTreeMap::new(),
            clients: Vec::new(),
            places: Vec::new(),
            from_memory: 0,
            gaps: 0,
        };
        history.world.posts.push(began.post);
        // Tokens of the position at which a node began to follow a log are a gap on that node.
        for node in &history.nodes {
            Watch::start(node).await.until_heads_known().await;
        }
        for user in 0..SHARDS {
            let written = history.nodes[0].publish(user_id(user), "begin", None).await.unwrap();
            history.token.merge(&written.freshness);
            history.world.posts.push(written.post);
        }
        for reader in (0..USERS).map(user_id) {
            history.clients.push(Client::begin(&history.nodes[0], reader, &history.token).await);
        }
        history
    }

    fn user(&mut self) -> u64 {
        self.chance.random_range(0..USERS)
    }

    fn node(&mut self) -> Tributary {
        self.nodes[self.chance.random_range(0..self.nodes.len())].clone()
    }

    fn any_node(&mut self) -> Tributary {
        if self.chance.random_bool(0.3) { self.bare.clone() } else { self.node() }
    }

    fn any_post(&mut self) -> Option<Post> {
        let posts = &self.world.posts;
        let index = self.chance.random_range(0..posts.len().max(1));
        posts.get(index).cloned()
    }

    fn how(&mut self) -> How {
        let limit = [1, 3, 20][self.chance.random_range(0..3)];
        How { own: self.chance.random(), collapse: self.chance.random(), limit }
    }

    /// The whole timeline of a reader.
    fn feed(&self, reader: UserId, own: bool) -> Vec<Post> {
        let oracle = Oracle::new(&self.world);
        let mut feed: Vec<Post> = oracle.feed(reader).into_iter().cloned().collect();
        if own {
            let posts = self.world.posts.iter();
            feed.extend(posts.filter(|post| post.key.author == reader).cloned());
            feed.sort_by_key(|post| std::cmp::Reverse(post.key));
            feed.dedup();
        }
        feed
    }

    /// Reads the timeline of a reader in a random way, from the newest page down, and the page
    /// above each page.
    async fn check_reader(&mut self, reader: UserId) {
        let (node, how) = (self.any_node(), self.how());
        let feed = self.feed(reader, how.own);
        let feed: Vec<&Post> = feed.iter().collect();
        let context = format!("step {}, reader {reader}, {how:?}", self.steps);
        let start = how.request(&self.token);
        if how.collapse {
            let limit = how.limit;
            Collapsed { node: &node, user: reader, start, limit, feed }.check(&context).await;
        } else {
            self.from_memory += walk(&node, reader, (&start, &feed), &context).await;
        }
    }

    /// Keeps the ends of a reader's newest page.
    async fn keep_places(&mut self) {
        let (reader, node, how) = (self.user(), self.any_node(), self.how());
        let reader = user_id(reader);
        let page = node.home_timeline(reader, &how.request(&self.token)).await.unwrap();
        let (Some(first), Some(last)) = (page.posts.first(), page.posts.last()) else { return };
        let posts: Vec<&Post> = page.posts.iter().collect();
        let shown = if how.collapse { marks(&posts) } else { HashSet::new() };
        let place = |cursor: Cursor, is_down: bool, edge: &Post| {
            let (edge, shown) = (edge.key, shown.clone());
            Place { reader, how, cursor, is_down, edge, shown }
        };
        let below = page.next.map(|next| place(next, true, last));
        self.places.extend(below.into_iter().chain([place(page.prev, false, first)]));
        while self.places.len() > PLACES_MAX {
            self.places.swap_remove(self.chance.random_range(0..self.places.len()));
        }
    }

    /// Reads on from a place that was kept before other steps.
    async fn check_place(&mut self) {
        let Some(index) = self.places.len().checked_sub(1) else { return };
        let index = self.chance.random_range(0..=index);
        let node = self.any_node();
        let Place { reader, how, cursor, is_down, edge, shown } = &self.places[index];
        let (reader, how, is_down) = (*reader, *how, *is_down);
        let limit = usize::from(how.limit);
        let request = how.request(&self.token).from(cursor.clone());
        let page = node.home_timeline(reader, &request).await.unwrap();
        let feed = self.feed(reader, how.own);
        let is_beyond = |post: &&Post| {
            if is_down { post.key < *edge } else { post.key > *edge }
        };
        let rest: Vec<&Post> = feed.iter().filter(is_beyond).collect();
        let (start, node, feed) = (request, &node, rest.clone());
        let collapsed = Collapsed { node, user: reader, start, limit: how.limit, feed };
        let (part, expected) = match (is_down, how.collapse) {
            (true, true) => {
                let part = &rest[..collapsed.down(0, shown)];
                (part, shown_down(part, shown))
            }
            (true, false) => (&rest[..rest.len().min(limit)], Vec::new()),
            (false, true) => {
                let part = &rest[collapsed.up(rest.len(), shown)..];
                (part, shown_up(part, shown))
            }
            (false, false) => (&rest[rest.len().saturating_sub(limit)..], Vec::new()),
        };
        let expected = if how.collapse { expected } else { part.to_vec() };
        let context = format!(
            "step {}, reader {reader}, down: {is_down}, from {edge:?}, {how:?}",
            self.steps
        );
        assert_page(&page, &expected, &context);
        if is_down {
            assert_eq!(page.next.is_none(), part.len() == rest.len(), "{context}");
        }
    }

    /// Reads posts by their addresses, and counts what refers to them.
    async fn check_posts(&mut self) {
        let node = self.any_node();
        let mut asked: Vec<PostAddress> = Vec::new();
        for _ in 0..3 {
            asked.extend(self.any_post().map(|post| address(&post)));
        }
        asked.push(PostAddress { author: user_id(1), post: post_id(999_999) });
        asked.dedup();
        let of = |at: &PostAddress| self.world.posts.iter().find(|post| address(post) == *at);
        let found = node.posts(&asked).await.unwrap();
        let mut expected: Vec<&Post> = Vec::new();
        for post in asked.iter().filter_map(of) {
            if !expected.contains(&post) {
                expected.push(post);
            }
        }
        assert!(found.missing.is_empty());
        assert_eq!(found.posts.iter().collect::<Vec<_>>(), expected, "step {}", self.steps);
        let count = |at: PostAddress, of: fn(&References) -> Option<PostAddress>| {
            let all = self.world.posts.iter().filter(|post| of(&post.references) == Some(at));
            Count::Exact(all.count())
        };
        for counts in node.post_counts(&asked).await.unwrap().posts {
            let at = counts.post;
            assert_eq!(counts.replies, count(at, |of| of.reply_to), "step {}, {at}", self.steps);
            assert_eq!(counts.reposts, count(at, |of| of.repost_of), "step {}, {at}", self.steps);
        }
    }

    /// After the news, each client has the posts of its reader's timeline.
    async fn check_clients(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        for client in &mut clients {
            let node = self.node();
            let had_gap =
                client.ask(&node, &self.token, (self.steps, self.unlogged), &self.blocked).await;
            self.gaps += usize::from(had_gap);
            client.check(&self.feed(client.reader, false), &self.blocked, self.steps);
        }
        self.clients = clients;
    }

    /// At the end, all timelines on all nodes.
    async fn check_all(&mut self, backend: Backend) {
        for reader in (0..USERS).map(user_id) {
            for _ in 0..4 {
                self.check_reader(reader).await;
            }
        }
        let node = self.node();
        related(&node, &self.world, backend).await;
        // A user who moved to another shard can leave rows on the old one.
        let expected = followers(&node, user_id(3)).await;
        for user in 0..USERS {
            let insert = "INSERT INTO D.followers (follower_user_id, followed_user_id) VALUES";
            execute(self.fleet, user + 1, &format!("{insert} ({user}, 3)")).await;
        }
        assert_eq!(followers(&node, user_id(3)).await, expected, "{backend:?}");
    }
}

/// Prepares the tables. Adopted ones have primary keys without the users: with MINIMAL row images
/// the log then does not say whose rows change. They also have a column that hides posts.
async fn configure(fleet: &TestFleet, is_adopted: bool) {
    let Some(file) = &fleet.config_file else {
        return drop(fleet.config_for_writing().await);
    };
    let mut tables = String::from("\n[tables.posts]\nedited_at = \"edited_at\"\n");
    if is_adopted {
        tables += "visible = { column = \"hidden\", value = 0 }\n";
        let posts = "DROP PRIMARY KEY, ADD KEY tail (user_id, timestamp, tweet_id), \
                     ADD PRIMARY KEY (tweet_id), ADD COLUMN hidden TINYINT NOT NULL DEFAULT 0";
        alter(fleet, "tweets", posts).await;
    }
    tables += "[tables.posts.references]\n[tables.mutes]\n[tables.blocks]\n";
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(tables.as_bytes()).unwrap();
    drop(fleet.config_for_writing().await);
    for (table, pair) in [
        ("followers", "follower_user_id, followed_user_id"),
        ("mutes", "muter_user_id, muted_user_id"),
        ("blocks", "blocker_user_id, blocked_user_id"),
    ] {
        if is_adopted {
            let keys = format!(
                "DROP PRIMARY KEY, ADD UNIQUE KEY pair ({pair}), \
                 ADD COLUMN id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
            );
            alter(fleet, table, &keys).await;
        }
    }
}

async fn alter(fleet: &TestFleet, table: &str, change: &str) {
    for user in 0..SHARDS {
        execute(fleet, user, &format!("ALTER TABLE D.{table} {change}")).await;
    }
}

/// Reads a home timeline from the newest page down, and the page above each page. Returns the
/// number of pages from memory.
async fn walk(
    node: &Tributary,
    reader: UserId,
    (start, feed): (&PageRequest, &[&Post]),
    context: &str,
) -> usize {
    let (mut cursor, mut at, mut from_memory) = (Cursor::newest(), 0, 0);
    let limit = start.limit.get();
    loop {
        let request = start.clone().from(cursor);
        let page = node.home_timeline(reader, &request).await.unwrap();
        let end = feed.len().min(at + limit);
        let context = format!("{context}, from {at}");
        assert!(page.fresh_enough, "{context}");
        assert_page(&page, &feed[at..end], &context);
        assert_eq!(page.next.is_none(), end == feed.len(), "{context}: next");
        from_memory += usize::from(page.waves == 0);
        let above = request.from(page.prev);
        let above = node.home_timeline(reader, &above).await.unwrap();
        assert_page(&above, &feed[at.saturating_sub(limit)..at], &format!("{context}, above"));
        let Some(next) = page.next else { return from_memory };
        (cursor, at) = (next, end);
    }
}

#[test]
fn pages_and_news_of_random_histories_equal_the_oracle() {
    run(async {
        for (number, (backend, fleet)) in (0..).zip(every_backend().await) {
            let mut history = History::new(&fleet, number).await;
            let noise = Noise::begin(&fleet);
            for _ in 0..size(30, 500) {
                for _ in 0..4 {
                    history.step().await;
                }
                history.check_clients().await;
                for _ in 0..3 {
                    let reader = history.user();
                    history.check_reader(user_id(reader)).await;
                    history.check_place().await;
                }
                history.keep_places().await;
                history.check_posts().await;
            }
            let written = noise.end().await;
            history.check_all(backend).await;
            let History { from_memory, gaps, steps, unlogged, .. } = history;
            println!(
                "{backend:?}: {steps} steps, {unlogged} not logged as rows, {gaps} gaps, \
                 {from_memory} pages from memory, {written} other writes"
            );
            assert!(from_memory > 10 && written > 10, "{backend:?}");
        }
    });
}
