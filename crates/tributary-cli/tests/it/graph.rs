//! Mutes, blocks, followers, counts and relationships, on every backend, with writers around us.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;

use mysql_async::prelude::Queryable;
use serde_json::json;
use tributary::graph::{Count, GraphError};
use tributary::news::{News, NewsEvent, NewsRequest};
use tributary::{Freshness, Limit, PageRequest, Post, Tributary, UserId};

use crate::histories::USERS;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::until_followed;
use crate::support::world::World;
use crate::support::{run, user_id};

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
pub(crate) async fn without_memory(fleet: &TestFleet) -> Tributary {
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

/// All followers of a user, two at a time.
pub(crate) async fn followers(node: &Tributary, user: UserId) -> Vec<UserId> {
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
pub(crate) async fn related(node: &Tributary, world: &World, backend: Backend) {
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
            ("/v1/users/1/posts?reposts=collapse", "invalid_query"),
            ("/v1/users/1/following?include_self=1", "invalid_query"),
            ("/v1/users/1/blocks?around=1:2", "invalid_query"),
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
