//! Mutes, blocks, followers, counts and relationships, on every backend, with writers around us.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tributary::graph::{Count, GraphError};
use tributary::internal::Follow;
use tributary::news::{News, NewsEvent, NewsRequest};
use tributary::{Cursor, Freshness, Limit, PageRequest, Post, Tributary, UserId};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::until_followed;
use crate::support::world::{Oracle, World, assert_page};
use crate::support::{run, seed, size, user_id};

/// Users of a random history. Every user reads and posts.
const USERS: u64 = 12;
const MEMORY: usize = 64 << 20;

/// Adds the tables of mutes and blocks to the configuration.
pub(crate) fn configure_hides(fleet: &TestFleet) {
    if let Some(file) = &fleet.config_file {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"\n[tables.mutes]\n[tables.blocks]\n").unwrap();
    }
}

/// A fleet that stores mutes and blocks, and a node with memory that may write.
async fn node(fleet: &TestFleet) -> Tributary {
    configure_hides(fleet);
    drop(fleet.config_for_writing().await);
    let mut config = fleet.config_with_memory(MEMORY);
    config.write.enabled = true;
    Tributary::open(&config).await.unwrap()
}

/// A node without memory. A folder has one owner, so this one only reads there.
async fn without_memory(fleet: &TestFleet) -> Tributary {
    match fleet.config_file {
        Some(_) => fleet.open().await,
        None => {
            let data = fleet.dir.path().join("data");
            let deadline = ("TRIBUTARY_REQUEST__DEADLINE_MS".to_owned(), "60000".to_owned());
            let config = tributary::Config::from_folder(&data, [deadline]).unwrap();
            Tributary::open_read_only(&config).await.unwrap()
        }
    }
}

/// Executes a statement on the shard of a user, as another program would.
pub(crate) async fn execute(fleet: &TestFleet, user: u64, sql: &str) {
    let shard = user % SHARDS;
    match usize::try_from(shard).ok().and_then(|shard| fleet.databases.get(shard)) {
        Some((server, database)) => {
            let mut connection = server.connect().await;
            connection.query_drop(sql.replace("D.", &format!("{database}."))).await.unwrap();
        }
        None => {
            let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
            let connection = rusqlite::Connection::open(file).unwrap();
            connection.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
            connection.execute_batch(&sql.replace("D.", "")).unwrap();
        }
    }
}

/// A random history of a world that a node and other programs write.
struct History<'a> {
    fleet: &'a TestFleet,
    node: &'a Tributary,
    world: World,
    token: Freshness,
    chance: StdRng,
}

impl History<'_> {
    fn users(&mut self) -> (u64, u64) {
        (self.chance.random_range(0..USERS), self.chance.random_range(0..USERS))
    }

    async fn step(&mut self) {
        let (a, b) = self.users();
        let (owner, user) = (user_id(a), user_id(b));
        let by_others = self.chance.random_bool(0.3);
        let follow = Follow { follower: owner, followee: user };
        let done = match self.chance.random_range(0..12) {
            0..2 if by_others => {
                self.world.blocks.insert((owner, user));
                self.insert(a, &format!("D.blocks VALUES ({a}, {b})")).await
            }
            0..2 => {
                self.world.blocks.insert((owner, user));
                self.node.block(owner, user).await.unwrap()
            }
            2 if by_others => {
                self.world.blocks.retain(|(of, _)| *of != owner);
                self.sql(a, &format!("DELETE FROM D.blocks WHERE blocker_user_id = {a}")).await
            }
            2 => {
                self.world.blocks.remove(&(owner, user));
                self.node.unblock(owner, user).await.unwrap()
            }
            3..5 if by_others => {
                self.world.mutes.insert((owner, user));
                self.insert(a, &format!("D.mutes VALUES ({a}, {b})")).await
            }
            3..5 => {
                self.world.mutes.insert((owner, user));
                self.node.mute(owner, user).await.unwrap()
            }
            5 if by_others => {
                self.world.mutes.retain(|(of, _)| *of != owner);
                self.sql(a, &format!("DELETE FROM D.mutes WHERE muter_user_id = {a}")).await
            }
            5 => {
                self.world.mutes.remove(&(owner, user));
                self.node.unmute(owner, user).await.unwrap()
            }
            6..9 => {
                self.world.follows.retain(|known| *known != follow);
                self.world.follows.push(follow);
                self.node.follow(owner, user).await.unwrap().freshness
            }
            9 => {
                self.world.follows.retain(|known| *known != follow);
                self.node.unfollow(owner, user).await.unwrap()
            }
            _ => {
                let text = format!("post {}", self.world.posts.len());
                let published = self.node.publish(owner, &text, None).await.unwrap();
                self.world.posts.push(published.post);
                published.freshness
            }
        };
        self.token.merge(&done);
    }

    async fn sql(&self, user: u64, sql: &str) -> Freshness {
        execute(self.fleet, user, sql).await;
        self.node.freshness(user_id(user)).await
    }

    async fn insert(&self, user: u64, row: &str) -> Freshness {
        let statement =
            if self.fleet.config_file.is_some() { "INSERT IGNORE" } else { "INSERT OR IGNORE" };
        self.sql(user, &format!("{statement} INTO {row}")).await
    }

    /// Compares all pages of all readers with the oracle. Returns the number of pages from memory.
    async fn check(&self, nodes: &[&Tributary], context: &str) -> usize {
        let oracle = Oracle::new(&self.world);
        let mut from_memory = 0;
        for reader in (0..USERS).map(user_id) {
            let mut with_own: Vec<&Post> = oracle.feed(reader);
            let feed = with_own.clone();
            let own = self.world.posts.iter().filter(|post| post.key.author == reader);
            with_own.extend(own);
            with_own.sort_by_key(|post| std::cmp::Reverse(post.key));
            with_own.dedup();
            for node in nodes {
                let start = PageRequest::default().at_least(self.token.clone());
                let context = format!("{context}, reader {reader}");
                from_memory += walk(node, reader, (&start, &feed), &context).await;
                let start = start.include_self();
                let context = format!("{context}, with own posts");
                from_memory += walk(node, reader, (&start, &with_own), &context).await;
            }
        }
        from_memory
    }
}

/// Reads a home timeline from the newest page down, and the page above each page.
async fn walk(
    node: &Tributary,
    reader: UserId,
    (start, feed): (&PageRequest, &[&Post]),
    context: &str,
) -> usize {
    let (mut cursor, mut at, mut from_memory) = (Cursor::newest(), 0, 0);
    let limit = 3;
    loop {
        let request = start.clone().limit(Limit::new(3).unwrap()).from(cursor);
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
fn no_page_has_posts_of_hidden_users_in_random_histories() {
    run(async {
        for (number, (backend, fleet)) in (0..).zip(every_backend().await) {
            let node = node(&fleet).await;
            let bare = without_memory(&fleet).await;
            let mut history = History {
                fleet: &fleet,
                node: &node,
                world: World::default(),
                token: Freshness::default(),
                chance: StdRng::seed_from_u64(seed(4_400 + number)),
            };
            let mut from_memory = 0;
            for round in 0..size(12, 200) {
                for _ in 0..size(12, 20) {
                    history.step().await;
                }
                let context = format!("{backend:?}, round {round}");
                from_memory += history.check(&[&node, &bare], &context).await;
            }
            assert!(from_memory > 50, "{backend:?}: only {from_memory} pages from memory");
            related(&node, &history.world, backend).await;
            // A user who moved to another shard can leave rows on the old one.
            let expected = followers(&node, user_id(3)).await;
            for user in 0..USERS {
                let insert = "INSERT INTO D.followers (follower_user_id, followed_user_id) VALUES";
                execute(&fleet, user + 1, &format!("{insert} ({user}, 3)")).await;
            }
            assert_eq!(followers(&node, user_id(3)).await, expected, "{backend:?}");
        }
    });
}

/// All followers of a user, two at a time.
async fn followers(node: &Tributary, user: UserId) -> Vec<UserId> {
    let (mut followers, mut from) = (Vec::new(), Some(user_id(0)));
    while let Some(next) = from {
        let page = node.followers(user, next, Limit::new(2).unwrap()).await.unwrap();
        assert!(page.missing.is_empty() && page.users.len() <= 2, "{page:?}");
        followers.extend(page.users);
        from = page.next;
    }
    followers
}

/// Lists, counts and relationships agree with the world.
async fn related(node: &Tributary, world: &World, backend: Backend) {
    let all: Vec<UserId> = (0..USERS).map(user_id).collect();
    let follows: BTreeSet<(UserId, UserId)> =
        world.follows.iter().map(|follow| (follow.follower, follow.followee)).collect();
    for &user in &all {
        let context = format!("{backend:?}, user {user}");
        let expected: Vec<UserId> =
            all.iter().copied().filter(|other| follows.contains(&(*other, user))).collect();
        assert_eq!(followers(node, user).await, expected, "{context}");
        let counts = node.follow_counts(user).await.unwrap();
        assert_eq!(counts.followers, Count::Exact(expected.len()), "{context}");
        let following = follows.iter().filter(|(of, _)| *of == user).count();
        assert_eq!(counts.following, Count::Exact(following), "{context}");
        let limit = Limit::new(100).unwrap();
        let listed = |pairs: &BTreeSet<(UserId, UserId)>| -> Vec<UserId> {
            pairs.iter().filter(|(of, _)| *of == user).map(|(_, other)| *other).collect()
        };
        let mutes = node.mutes(user, user_id(0), limit).await.unwrap();
        let blocks = node.blocks(user, user_id(0), limit).await.unwrap();
        assert_eq!((mutes.users, mutes.next), (listed(&world.mutes), None), "{context}");
        assert_eq!((blocks.users, blocks.next), (listed(&world.blocks), None), "{context}");
        for found in node.relationships(user, &all).await.all {
            let other = found.user;
            assert_eq!(found.following, follows.contains(&(user, other)), "{context}, {other}");
            assert_eq!(found.followed_by, follows.contains(&(other, user)), "{context}, {other}");
            assert_eq!(found.muting, world.mutes.contains(&(user, other)), "{context}, {other}");
            assert_eq!(found.blocking, world.blocks.contains(&(user, other)), "{context}");
            assert_eq!(found.blocked_by, world.blocks.contains(&(other, user)), "{context}");
        }
    }
    let first = follows.first().unwrap().0;
    let mut of_first: Vec<UserId> =
        follows.iter().filter(|(of, _)| *of == first).map(|(_, other)| *other).collect();
    let removed = of_first.len();
    of_first.push(user_id(9_999));
    assert_eq!(node.unfollow_all(first, &of_first).await.unwrap().removed, removed);
}

#[test]
fn mutes_and_blocks_are_news_and_posts_of_hidden_users_are_not() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let node = node(&fleet).await;
        let [reader, muted, blocker, seen] = [1, 2, 3, 4].map(user_id);
        let mut token = Freshness::default();
        for author in [muted, blocker, seen] {
            token.merge(&node.follow(reader, author).await.unwrap().freshness);
        }
        let since = until_followed(&node, reader, &token).await;
        let mut end = node.mute(reader, muted).await.unwrap();
        end.merge(&node.block(blocker, reader).await.unwrap());
        end.merge(&node.block(reader, user_id(9)).await.unwrap());
        for author in [muted, blocker, seen] {
            end.merge(&node.publish(author, "text", None).await.unwrap().freshness);
        }
        end.merge(&node.unblock(reader, user_id(9)).await.unwrap());
        end.merge(&node.unmute(reader, muted).await.unwrap());
        let read = PageRequest::default().at_least(end);
        let page = node.home_timeline(reader, &read).await.unwrap();
        let authors = |posts: &[Post]| posts.iter().map(|post| post.key.author).collect::<Vec<_>>();
        let mut shown = authors(&page.posts);
        shown.sort_unstable();
        assert_eq!(shown, [muted, seen]);
        let limit = Limit::new(100).unwrap();
        let news =
            node.news(reader, &NewsRequest::since(since.clone()).limit(limit)).await.unwrap();
        let (mut own, mut posts) = (Vec::new(), Vec::new());
        for event in &news.events {
            match event {
                NewsEvent::Mute { user, .. } => own.push(("mute", *user)),
                NewsEvent::Unmute { user, .. } => own.push(("unmute", *user)),
                NewsEvent::Block { user, .. } => own.push(("block", *user)),
                NewsEvent::Unblock { user, .. } => own.push(("unblock", *user)),
                NewsEvent::Post(post) => posts.push(post.key().author),
                other => panic!("{other:?}"),
            }
        }
        let nine = user_id(9);
        let expected = [("mute", muted), ("block", nine), ("unblock", nine), ("unmute", muted)];
        assert_eq!(own, expected);
        posts.sort_unstable();
        assert_eq!(posts, [muted, seen], "{news:?}");
        assert_eq!(
            node.count_new_posts(reader, &NewsRequest::since(since.clone())).await.unwrap().0,
            2
        );
    });
}

/// The news of the other shards is returned, and the rest in a later answer.
#[test]
fn a_shard_that_cannot_say_whom_its_authors_block_withholds_only_its_own_news() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let node = node(&fleet).await;
        let [reader, near, far] = [1, 2, 3].map(user_id);
        let token = node.follow_all(reader, &[near, far]).await.unwrap().freshness;
        let since = until_followed(&node, reader, &token).await;
        execute(&fleet, 2, "ALTER TABLE D.blocks RENAME TO away").await;
        let mut end = node.publish(near, "text", None).await.unwrap().freshness;
        end.merge(&node.publish(far, "text", None).await.unwrap().freshness);
        let read = PageRequest::default().at_least(end);
        let missing = node.home_timeline(reader, &read).await.unwrap().missing;
        assert_eq!(missing.len(), 1);
        let limit = Limit::new(100).unwrap();
        let authors = |news: &News| -> Vec<UserId> {
            let author = |event: &NewsEvent| match event {
                NewsEvent::Post(post) => post.key().author,
                other => panic!("{other:?}"),
            };
            news.events.iter().map(author).collect()
        };
        let news =
            node.news(reader, &NewsRequest::since(since.clone()).limit(limit)).await.unwrap();
        assert_eq!((authors(&news), &news.missing), (vec![far], &missing));
        let (count, counted) =
            node.count_new_posts(reader, &NewsRequest::since(since.clone())).await.unwrap();
        assert_eq!((count, &counted.missing), (1, &missing));

        execute(&fleet, 2, "ALTER TABLE D.away RENAME TO blocks").await;
        let rest = node
            .news(reader, &NewsRequest::since(news.freshness.clone()).limit(limit))
            .await
            .unwrap();
        assert_eq!((authors(&rest), rest.is_complete()), (vec![near], true));
        assert_eq!(
            node.count_new_posts(reader, &NewsRequest::since(since.clone())).await.unwrap().0,
            2
        );
    });
}

/// A process that only reads a folder sees mutes and blocks from the moment on at which the owner
/// of the folder has created their tables.
#[test]
fn a_reader_of_a_folder_follows_its_upgrade() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        drop(node(&fleet).await);
        for user in 0..SHARDS {
            execute(&fleet, user, "DROP TABLE D.mutes; DROP TABLE D.blocks").await;
        }
        let bare = without_memory(&fleet).await;
        let [reader, blocker] = [1, 2].map(user_id);
        let blocks = async || bare.blocks(blocker, user_id(0), Limit::DEFAULT).await.unwrap();
        assert_eq!((blocks().await.users, blocks().await.missing), (vec![], BTreeSet::new()));
        assert!(bare.home_timeline(reader, &PageRequest::default()).await.unwrap().is_complete());
        let node = node(&fleet).await;
        node.block(blocker, reader).await.unwrap();
        node.follow(reader, blocker).await.unwrap();
        node.publish(blocker, "text", None).await.unwrap();
        assert_eq!(blocks().await.users, [reader]);
        let page = bare.home_timeline(reader, &PageRequest::default()).await.unwrap();
        assert!(page.is_complete() && page.posts.is_empty(), "{page:?}");
    });
}

#[test]
fn the_routes_of_the_graph_answer() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let server = TestServer::start(node(&fleet).await).await;
        let send = async |method: &str, path: &str| {
            let request = hyper::Request::builder().method(method).uri(path);
            server.send(request).await
        };
        let follow = server.post("/v1/users/1/following", r#"{"follow": ["2", "3"]}"#, None).await;
        assert_eq!(follow.json(), json!({"added": 2}));
        for list in ["mutes", "blocks"] {
            for (method, times) in [("PUT", 2), ("DELETE", 2), ("PUT", 1)] {
                for _ in 0..times {
                    let done = send(method, &format!("/v1/users/1/{list}/3")).await;
                    assert_eq!(done.status, 204);
                    assert!(!done.header("tributary-freshness").is_empty());
                }
            }
            let listed = server.get(&format!("/v1/users/1/{list}")).await.json();
            let expected = json!({
                "users": [{"user_id": "3"}], "next": null, "complete": true, "missing_shards": []
            });
            assert_eq!(listed, expected);
        }
        let counts = server.get("/v1/users/1/counts").await.json();
        assert_eq!(counts["following"], json!({"count": 2, "at_least": false}));
        let page = server.get("/v1/users/3/followers?limit=1").await;
        assert_eq!(page.json()["users"], json!([{"user_id": "1"}]));
        let found = server.get("/v1/users/1/relationships?users=3").await.json();
        let expected = json!([{
            "user_id": "3", "following": true, "followed_by": false,
            "muting": true, "blocking": true, "blocked_by": false
        }]);
        assert_eq!(found["relationships"], expected);
        let leave = r#"{"unfollow": ["2", "9"]}"#;
        let left = server.post("/v1/users/1/following", leave, None).await;
        assert_eq!(left.json(), json!({"removed": 1}));
        for (path, code) in [
            ("/v1/users/1/relationships", "invalid_query"),
            ("/v1/users/1/relationships?users=x", "invalid_user_id"),
            ("/v1/users/1/feed?include_self=2", "invalid_query"),
        ] {
            assert_eq!(server.get(path).await.problem(), (400, code.to_owned()), "{path}");
        }
        own_posts_on_request(&server).await;
    });
}

async fn own_posts_on_request(server: &TestServer) {
    let posted = server.post("/v1/users/1/posts", r#"{"content": "mine"}"#, None).await;
    let token = posted.header("tributary-freshness").to_owned();
    let read = async |path: &str| {
        let request = hyper::Request::get(path).header("tributary-freshness", &token);
        server.send(request).await
    };
    for _ in 0..4 {
        let own = read("/v1/users/1/feed?include_self=1").await;
        assert_eq!(own.json()["posts"][0]["content"], "mine");
        assert!(own.header("link").contains("/feed?include_self=1&limit="), "{own:?}");
        assert_eq!(read("/v1/users/1/feed").await.json()["posts"], json!([]));
    }
}

#[test]
fn shards_without_the_tables_say_what_to_create() {
    run(async {
        let Some(fleet) = TestFleet::new(Backend::MariaDb, Tables::Old).await else { return };
        let mut config = fleet.config();
        config.write.enabled = false;
        let node = Tributary::open(&config).await.unwrap();
        let Err(GraphError::NotStored(error)) = node.mute(user_id(1), user_id(2)).await else {
            panic!("mutes are stored")
        };
        assert!(error.statement.starts_with("CREATE TABLE `mutes` ("), "{error}");
        let error = node.followers(user_id(1), user_id(0), Limit::DEFAULT).await.unwrap_err();
        let index = "CREATE INDEX tributary_followers ON `followers` (`followed_user_id`, `follower_user_id`)";
        assert_eq!(error.statement, index);
        let server = TestServer::start(node).await;
        for (method, path) in
            [("PUT", "blocks/2"), ("GET", "blocks"), ("GET", "counts"), ("DELETE", "mutes/2")]
        {
            let request = hyper::Request::builder().method(method);
            let answer = server.send(request.uri(format!("/v1/users/1/{path}"))).await;
            assert_eq!(answer.problem(), (501, "not_stored".to_owned()), "{path}");
            assert!(answer.body.contains("CREATE "), "{answer:?}");
        }
    });
}
