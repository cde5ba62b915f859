//! Replies and reposts, on every backend and on every path of a post.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::json;
use tributary::graph::{Count, GraphError};
use tributary::news::{NewsEvent, NewsRequest};
use tributary::posts::{AroundError, PostAddress, References};
use tributary::{
    Freshness, IdempotencyKey, Limit, PageRequest, Post, PostKey, Tributary, UserId, WriteError,
};

use crate::graph::execute;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::until_followed;
use crate::support::{post_id, run, user_id};

/// A node with memory, on shards that store references.
async fn node(fleet: &TestFleet) -> Tributary {
    if let Some(file) = &fleet.config_file {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"\n[tables.posts.references]\n").unwrap();
    }
    drop(fleet.config_for_writing().await);
    let mut config = fleet.config_with_memory(32 << 20);
    config.write.enabled = true;
    Tributary::open(&config).await.unwrap()
}

fn address(post: &Post) -> PostAddress {
    PostAddress { author: post.key.author, post: post.key.post }
}

fn reply_to(post: &Post) -> References {
    References { reply_to: Some(address(post)), ..References::default() }
}

fn repost_of(post: &Post) -> References {
    References { repost_of: Some(address(post)), ..References::default() }
}

/// Reads a timeline from the databases and from memory.
async fn check_pages(node: &Tributary, reader: UserId, token: &Freshness, expected: &[Post]) {
    let request = PageRequest::default().at_least(token.clone());
    for _ in 0..200 {
        let page = node.home_timeline(reader, &request).await.unwrap();
        assert_eq!(page.posts, expected);
        for author in [2, 3].map(user_id) {
            let page = node.author_timeline(author, &request).await.unwrap();
            let own = expected.iter().filter(|post| post.key.author == author);
            assert!(page.posts.iter().eq(own), "{page:?}");
        }
        if page.waves == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no page from memory");
}

/// The counts of these posts, among which are all that refer to them.
async fn check_counts(node: &Tributary, posts: &[Post]) {
    let addresses: Vec<PostAddress> = posts.iter().map(address).collect();
    let counted = node.post_counts(&addresses).await.unwrap();
    assert!(counted.missing.is_empty() && counted.posts.len() == posts.len());
    for (counts, post) in counted.posts.iter().zip(posts) {
        let at = Some(address(post));
        let count = |of: fn(&References) -> Option<PostAddress>| {
            let referring = posts.iter().filter(|post| of(&post.references) == at);
            Count::Exact(referring.count())
        };
        let replies = count(|references| references.reply_to);
        let reposts = count(|references| references.repost_of);
        assert_eq!((counts.replies, counts.reposts), (replies, reposts));
    }
}

#[test]
fn replies_and_reposts_have_their_references_on_every_path() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let node = node(&fleet).await;
            let [reader, author, other] = [1, 2, 3].map(user_id);
            let mut token = node.follow_all(reader, &[author, other]).await.unwrap().freshness;
            // Until memory follows the logs.
            check_pages(&node, reader, &token, &[]).await;
            let since = until_followed(&node, reader, &token).await;

            let first = node.publish(author, "first", None).await.unwrap().post;
            let key = || IdempotencyKey::new("key");
            let publish =
                |text: &'static str, references| node.publish_with(other, text, references, key());
            let reply = publish("reply", reply_to(&first)).await.unwrap();
            let again = publish("reply", reply_to(&first)).await.unwrap();
            assert!(again.replayed && again.post == reply.post, "{backend:?}");
            let reused = publish("reply", repost_of(&first)).await.unwrap_err();
            assert_eq!(reused, GraphError::Write(WriteError::KeyReused), "{backend:?}");
            let repost = node.publish_with(other, "", repost_of(&first), None).await.unwrap();
            assert!(node.publish(other, "", None).await.is_err());
            let reply = reply.post;

            // Another program stores one post and makes a repost of another one.
            let (time, PostAddress { author: to, post }) = (first.key.time - 5, address(&reply));
            let columns =
                "tweet_id, user_id, content, timestamp, reply_to_user_id, reply_to_tweet_id";
            let values = format!("77, {author}, 'by hand', {time}, {to}, {post}");
            let insert = format!("INSERT INTO D.tweets ({columns}) VALUES ({values})");
            execute(&fleet, 2, &insert).await;
            let key = PostKey { time, post: post_id(77), author };
            let by_hand = Post::new(key, "by hand");
            let mut posts = vec![first, reply.clone(), repost.post];
            posts.push({
                let mut post = by_hand;
                post.references = reply_to(&reply);
                post
            });
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
            for user in [author, other] {
                token.merge(&node.freshness(user).await);
            }
            check_pages(&node, reader, &token, &posts).await;
            let addresses: Vec<PostAddress> = posts.iter().map(address).collect();
            assert_eq!(node.posts(&addresses).await.unwrap().posts, posts, "{backend:?}");
            check_counts(&node, &posts).await;
            let request = NewsRequest::since(since.clone()).limit(Limit::new(100).unwrap());
            let news = node.news(reader, &request).await.unwrap();
            assert!(!news.gap && news.missing.is_empty(), "{backend:?}: {news:?}");
            let mut events: Vec<Post> = Vec::new();
            for event in &news.events {
                match event {
                    NewsEvent::Post(post) => events.push(post.to_post()),
                    other => panic!("{other:?}"),
                }
            }
            events.sort_by_key(|post| std::cmp::Reverse(post.key));
            assert_eq!(events, posts, "{backend:?}");

            let set = "reply_to_user_id = NULL, reply_to_tweet_id = NULL";
            execute(&fleet, 2, &format!("UPDATE D.tweets SET {set} WHERE tweet_id = 77")).await;
            token.merge(&node.freshness(author).await);
            let edited = posts.iter_mut().find(|post| post.content == "by hand").unwrap();
            edited.references = References::default();
            check_pages(&node, reader, &token, &posts).await;
        }
    });
}

#[test]
fn shards_without_the_columns_say_what_to_add() {
    run(async {
        let Some(fleet) = TestFleet::new(Backend::MariaDb, Tables::Ours).await else { return };
        let node = fleet.open_for_writing().await;
        let first = node.publish(user_id(2), "first", None).await.unwrap().post;
        let refused = node.publish_with(user_id(3), "reply", reply_to(&first), None).await;
        let Err(GraphError::NotStored(error)) = refused else { panic!("{refused:?}") };
        assert!(error.statement.starts_with("ALTER TABLE `tweets` ADD COLUMN"), "{error}");
        assert_eq!(node.post_counts(&[address(&first)]).await, Err(error));

        // `migrate` adds the rest to a table that has a part.
        for user in 1..SHARDS {
            let part = "ADD COLUMN reply_to_user_id BIGINT UNSIGNED NULL";
            execute(&fleet, user, &format!("ALTER TABLE D.tweets {part}")).await;
        }
        let with_references = self::node(&fleet).await;
        assert!(with_references.post_counts(&[address(&first)]).await.is_ok());
        with_references.publish_with(user_id(3), "reply", reply_to(&first), None).await.unwrap();
        for user in 0..SHARDS {
            let strict = "reply_to_user_id BIGINT UNSIGNED NOT NULL DEFAULT 0";
            execute(&fleet, user, "UPDATE D.tweets SET reply_to_user_id = 0").await;
            execute(&fleet, user, &format!("ALTER TABLE D.tweets MODIFY {strict}")).await;
        }
        let mut config = fleet.config();
        config.write.enabled = true;
        let error = Tributary::open(&config).await.unwrap_err().to_string();
        assert!(error.contains("`reply_to_user_id` of `tweets` cannot be NULL"), "{error}");

        let without = "DROP KEY tributary_reposts, DROP KEY tweets_by_id";
        execute(&fleet, 1, &format!("ALTER TABLE D.tweets {without}")).await;
        let node = Tributary::open(&fleet.config()).await.unwrap();
        let error = node.post_counts(&[address(&first)]).await.unwrap_err().to_string();
        let (columns, by_id) = ("`repost_of_user_id`, `repost_of_tweet_id`", "(`tweet_id`)");
        let add = format!("ALTER TABLE `tweets` ADD KEY tributary_reposts ({columns})");
        assert!(error.ends_with(&add), "{error}");
        let create = format!("CREATE INDEX tributary_addresses ON `tweets` {by_id}");
        let error = node.posts(&[address(&first)]).await.unwrap_err();
        assert_eq!(error.statement, create);
        let request = PageRequest::default();
        let around = node.home_timeline_around(user_id(1), address(&first), &request).await;
        assert_eq!(around, Err(AroundError::NotStored(error)));
        execute(&fleet, 1, &create.replace("`tweets`", "D.tweets")).await;
        let node = Tributary::open(&fleet.config()).await.unwrap();
        assert_eq!(node.posts(&[address(&first)]).await.unwrap().posts, [first]);
    });
}

#[test]
fn the_routes_accept_and_return_references() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let server = TestServer::start(node(&fleet).await).await;
        let at = json!({"author_id": "2", "post_id": "71"});
        let post = async |body: serde_json::Value| {
            server.post("/v1/users/1/posts", &body.to_string(), None).await
        };
        let reply = post(json!({"content": "yes", "reply_to": at})).await;
        assert_eq!((reply.status, &reply.json()["reply_to"]), (201.try_into().unwrap(), &at));
        let repost = post(json!({"repost_of": at})).await;
        let request = hyper::Request::get("/v1/users/1/posts")
            .header("tributary-freshness", repost.header("tributary-freshness"));
        let (repost, page) = (repost.json(), server.send(request).await.json());
        assert_eq!((&repost["repost_of"], &repost["content"]), (&at, &json!("")));
        assert_eq!((&page["posts"][0], &page["posts"][1]), (&repost, &reply.json()));
        let counts = server.get("/v1/posts/counts?posts=2:71").await.json();
        let one = json!({"count": 1, "at_least": false});
        let expected = json!([{"author_id": "2", "post_id": "71", "replies": one, "reposts": one}]);
        assert_eq!(counts["posts"], expected);
        for (body, code) in [
            (json!({"content": ""}), "invalid_content"),
            (json!({"reply_to": at}), "invalid_body"),
            (json!({"content": "", "repost_of": at}), "invalid_body"),
            (json!({"content": "x", "repost_of": null}), "invalid_body"),
            (
                json!({"content": "x", "reply_to": {"author_id": "x", "post_id": "1"}}),
                "invalid_user_id",
            ),
            (
                json!({"content": "x", "reply_to": {"author_id": "1", "post_id": "x"}}),
                "invalid_post_id",
            ),
        ] {
            assert_eq!(post(body).await.problem().1, code);
        }
    });
}
