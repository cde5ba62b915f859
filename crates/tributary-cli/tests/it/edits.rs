//! Edits of posts, on every backend and on every path of a post.

use std::fs::OpenOptions;
use std::io::Write;

use hyper::body::Bytes;
use serde_json::json;
use tributary::graph::GraphError;
use tributary::news::{NewsEvent, NewsRequest};
use tributary::posts::PostAddress;
use tributary::{Freshness, Limit, PageRequest, Post, Tributary, UserId, WriteError};

use crate::graph::execute;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::until_followed;
use crate::support::{post_id, run, user_id};

/// Adds the column of edits to the configuration.
pub(crate) fn configure_edits(fleet: &TestFleet) {
    append(fleet, "\n[tables.posts]\nedited_at = \"edited_at\"\n");
}

fn append(fleet: &TestFleet, text: &str) {
    if let Some(file) = &fleet.config_file {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

/// A node with memory, on shards that store when a post was edited.
async fn node(fleet: &TestFleet) -> Tributary {
    configure_edits(fleet);
    drop(fleet.config_for_writing().await);
    let mut config = fleet.config_with_memory(32 << 20);
    config.write.enabled = true;
    Tributary::open(&config).await.unwrap()
}

/// Reads a timeline and its posts, until a page comes from memory.
async fn check_pages(node: &Tributary, reader: UserId, token: &Freshness, expected: &[Post]) {
    let request = PageRequest::default().at_least(token.clone());
    for post in expected {
        let found = node.post(post.key.author, post.key.post).await.unwrap();
        assert_eq!(found.post.as_ref(), Some(post));
        let page = node.author_timeline(post.key.author, &request).await.unwrap();
        assert!(page.posts.contains(post), "{page:?}");
    }
    let address = |post: &Post| PostAddress { author: post.key.author, post: post.key.post };
    let addresses: Vec<PostAddress> = expected.iter().map(address).collect();
    assert_eq!(node.posts(&addresses).await.unwrap().posts, expected);
    for _ in 0..200 {
        let page = node.home_timeline(reader, &request).await.unwrap();
        assert_eq!(page.posts, expected);
        if page.waves == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no page from memory");
}

#[test]
fn an_edited_post_has_its_new_text_on_every_path_and_keeps_its_place() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let node = node(&fleet).await;
            let [reader, author, other] = [1, 2, 3].map(user_id);
            let mut token = node.follow_all(reader, &[author, other]).await.unwrap().freshness;
            let mut posts = Vec::new();
            for by in [author, other, author] {
                let published = node.publish(by, "text", None).await.unwrap();
                token.merge(&published.freshness);
                posts.insert(0, published.post);
            }
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
            check_pages(&node, reader, &token, &posts).await;
            let since = until_followed(&node, reader, &token).await;

            let oldest = posts[2].key;
            let edit = async |text| node.edit(oldest.author, oldest.post, text).await.unwrap();
            let edited = edit("Text").await.unwrap();
            assert!(edited.post.edited_at.is_some_and(|at| at >= oldest.time), "{backend:?}");
            assert_eq!((edited.post.key, edited.post.content.as_str()), (oldest, "Text"));
            token.merge(&edited.freshness);
            posts[2] = edited.post.clone();
            check_pages(&node, reader, &token, &posts).await;
            // A text that the post has already is no edit.
            assert_eq!(edit("Text").await.unwrap().post, edited.post, "{backend:?}");

            // Another program edits a post, without the time and with one that is none.
            let (by_hand, id) = (&mut posts[1], oldest.post);
            by_hand.content = "by hand".into();
            let (user, post) = (by_hand.key.author, by_hand.key.post);
            for edited_at in ["NULL", "9223372036854775807"] {
                let set = format!("content = 'by hand', edited_at = {edited_at}");
                let update = format!("UPDATE D.tweets SET {set} WHERE tweet_id = {post}");
                execute(&fleet, user.get(), &update).await;
            }
            token.merge(&node.freshness(user).await);
            check_pages(&node, reader, &token, &posts).await;

            let request = NewsRequest::since(since.clone()).limit(Limit::new(100).unwrap());
            let news = node.news(reader, &request).await.unwrap();
            assert!(!news.gap && news.missing.is_empty(), "{backend:?}: {news:?}");
            let updated = |event: &NewsEvent| match event {
                NewsEvent::Update(post) => post.to_post(),
                other => panic!("{other:?}"),
            };
            let mut updates: Vec<Post> = news.events.iter().map(updated).collect();
            updates.sort_by_key(|post| std::cmp::Reverse(post.key));
            // One for each change by hand, or one for both.
            updates.dedup();
            assert_eq!(updates, posts[1..], "{backend:?}");

            let absent = [(oldest.author, post_id(5)), (user_id(6), id)];
            for (author, post) in absent {
                assert_eq!(node.edit(author, post, "x").await, Ok(None), "{backend:?}");
            }
            node.delete_post(oldest.author, id).await.unwrap();
            assert_eq!(node.edit(oldest.author, id, "x").await, Ok(None), "{backend:?}");
            let empty = node.edit(user, post, "").await.unwrap_err();
            let max = node.content_bytes_max();
            assert_eq!(empty, GraphError::Write(WriteError::ContentLength { len: 0, max }));
        }
    });
}

#[test]
fn shards_without_the_column_say_what_to_add() {
    run(async {
        let Some(fleet) = TestFleet::new(Backend::MariaDb, Tables::Ours).await else { return };
        let node = fleet.open_for_writing().await;
        let key = node.publish(user_id(2), "first", None).await.unwrap().post.key;
        let refused = node.edit(key.author, key.post, "second").await;
        let Err(GraphError::NotStored(error)) = refused else { panic!("{refused:?}") };
        let add = "ADD COLUMN `edited_at` BIGINT UNSIGNED NULL";
        assert_eq!(error.statement, format!("ALTER TABLE `tweets` {add}"));
        let server = TestServer::start(node).await;
        let path = format!("/v1/users/2/posts/{}", key.post);
        let answer = patch(&server, &path, r#"{"content": "second"}"#).await;
        assert_eq!(answer.problem(), (501, "not_stored".to_owned()));
        assert!(answer.body.contains(add), "{answer:?}");

        configure_edits(&fleet);
        let error = Tributary::open(&fleet.config()).await.unwrap_err().to_string();
        assert!(error.contains(add), "{error}");
        let node = fleet.open_for_writing().await;
        let edited = node.edit(key.author, key.post, "second").await.unwrap().unwrap();
        assert_eq!(node.post(key.author, key.post).await.unwrap().post, Some(edited.post));
        for (column, wrong) in [
            ("INT NULL", "too small"),
            ("BIGINT NOT NULL", "cannot be NULL"),
            ("DATETIME NULL", "name a BIGINT column"),
        ] {
            for user in 0..SHARDS {
                let change = format!("DROP COLUMN edited_at, ADD COLUMN edited_at {column}");
                execute(&fleet, user, &format!("ALTER TABLE D.tweets {change}")).await;
            }
            let mut config = fleet.config();
            config.write.enabled = true;
            let error = Tributary::open(&config).await.unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    });
}

/// The time of a post may be a column that the server sets with every update, and a text may differ
/// from another one in the case of its letters alone.
#[test]
fn an_edit_of_an_adopted_post_changes_its_text_alone() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Ours).await else { continue };
            for (server, database) in &fleet.databases {
                let posts = format!(
                    "CREATE TABLE {database}.posts (id BIGINT PRIMARY KEY, author BIGINT NOT NULL, \
                     body TEXT CHARACTER SET utf8mb4, at TIMESTAMP(3) NOT NULL \
                     DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3), \
                     gone TINYINT NOT NULL DEFAULT 0, edited BIGINT, KEY wall (author, at, id))"
                );
                let rows = "(7, 2, 'text', '2024-01-02 03:04:05.678', 0, NULL), \
                     (8, 2, 'gone', '2024-01-02 03:04:05.678', 1, NULL)";
                let insert = format!("INSERT INTO {database}.posts VALUES {rows}");
                server.execute(&[posts, insert]).await;
            }
            append(
                &fleet,
                "\n[tables.posts]\nname = \"posts\"\nid = \"id\"\nauthor = \"author\"\n\
                 content = \"body\"\ntime = \"at\"\nunit = \"datetime(3)\"\nedited_at = \"edited\"\n\
                 visible = { column = \"gone\", value = 0 }\n",
            );
            let node = fleet.open_for_writing().await;
            let (author, post) = (user_id(2), post_id(7));
            let before = node.post(author, post).await.unwrap().post.unwrap();
            let edited = node.edit(author, post, "TEXT").await.unwrap().unwrap().post;
            assert_eq!((edited.key, edited.content.as_str()), (before.key, "TEXT"), "{backend:?}");
            assert_eq!(node.post(author, post).await.unwrap().post, Some(edited), "{backend:?}");
            assert_eq!(node.edit(author, post_id(8), "x").await, Ok(None), "{backend:?}");
        }
    });
}

async fn patch(server: &TestServer, path: &str, body: &str) -> crate::support::http::TestResponse {
    let request = hyper::Request::patch(path).header("content-type", "application/json");
    server.send_with(request, Bytes::copy_from_slice(body.as_bytes())).await
}

#[test]
fn the_route_edits() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let server = TestServer::start(node(&fleet).await).await;
        let posted = server.post("/v1/users/1/posts", r#"{"content": "one"}"#, None).await.json();
        let path = format!("/v1/users/1/posts/{}", posted["post_id"].as_str().unwrap());
        let edited = patch(&server, &path, r#"{"content": "two"}"#).await;
        assert!(edited.status == 200 && !edited.header("tributary-freshness").is_empty());
        let mut expected = posted.clone();
        (expected["content"], expected["edited_at"]) =
            (json!("two"), edited.json()["edited_at"].clone());
        assert!(expected["edited_at"].as_str().unwrap() >= posted["created_at"].as_str().unwrap());
        assert_eq!((edited.json(), server.get(&path).await.json()), (expected.clone(), expected));
        let long = format!(r#"{{"content": "{}"}}"#, "x".repeat(10_001));
        for (path, body, problem) in [
            (path.as_str(), r#"{"content": ""}"#, (422, "invalid_content")),
            (&path, &long, (422, "invalid_content")),
            (&path, "{}", (400, "invalid_body")),
            (&path, r#"{"content": "x", "reply_to": null}"#, (400, "invalid_body")),
            ("/v1/users/1/posts/5", r#"{"content": "x"}"#, (404, "not_found")),
            ("/v1/users/1/posts/x", r#"{"content": "x"}"#, (400, "invalid_post_id")),
        ] {
            let answer = patch(&server, path, body).await.problem();
            assert_eq!(answer, (problem.0, problem.1.to_owned()), "{body}");
        }
    });
}
