//! Read markers, on every backend.

use std::fs::OpenOptions;
use std::io::Write;

use hyper::body::Bytes;
use serde_json::json;
use tributary::Tributary;
use tributary::config::Future;
use tributary::posts::PostAddress;
use tributary::posts::markers::{MarkError, ReadMarker};

use crate::commands::{output, tributary};
use crate::graph::execute;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::{TestResponse, TestServer};
use crate::support::{post_id, run, user_id};

/// Adds the table of read markers to the configuration.
pub(crate) fn configure_markers(fleet: &TestFleet) {
    if let Some(file) = &fleet.config_file {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"\n[tables.read_markers]\n").unwrap();
    }
}

/// A node on shards that store markers.
async fn node(fleet: &TestFleet) -> Tributary {
    configure_markers(fleet);
    fleet.open_for_writing().await
}

#[test]
fn a_marker_moves_towards_newer_posts_only_and_outlives_its_post() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let node = node(&fleet).await;
            let reader = user_id(1);
            let marker = async || node.read_marker(reader).await.unwrap().marker;
            assert_eq!(marker().await, None, "{backend:?}");
            // Equal times, so that the ids and the authors decide, too.
            for (author, post, time) in [(2, 5, 10), (2, 9, 10), (3, 9, 10), (4, 1, 11)] {
                let values = format!("({post}, {author}, 'text', {time})");
                let columns = "tweet_id, user_id, content, timestamp";
                let insert = format!("INSERT INTO D.tweets ({columns}) VALUES {values}");
                execute(&fleet, author, &insert).await;
            }
            let at = |author, post| PostAddress { author: user_id(author), post: post_id(post) };
            let moved = async |post| node.mark_read(reader, post).await.unwrap();
            let mut before: Option<ReadMarker> = None;
            for (post, time) in [(at(2, 5), 10), (at(2, 9), 10), (at(3, 9), 10), (at(4, 1), 11)] {
                let now = moved(post).await.unwrap();
                assert_eq!((now.post, now.time), (Some(post), time), "{backend:?}");
                assert!(before.is_none_or(|before| before.updated_at <= now.updated_at));
                // The same place again, and the places before it, change nothing.
                for earlier in [Some(post), before.and_then(|before| before.post)] {
                    let Some(earlier) = earlier else { continue };
                    assert_eq!(moved(earlier).await, Some(now), "{backend:?}");
                }
                assert_eq!(marker().await, Some(now), "{backend:?}");
                before = Some(now);
            }
            assert_eq!(moved(at(4, 99)).await, None, "{backend:?}");
            node.delete_post(user_id(4), post_id(1)).await.unwrap();
            assert_eq!(marker().await, before, "{backend:?}");
            assert_eq!(node.read_marker(user_id(2)).await.unwrap().marker, None);
            node.close().await;

            let mut erase = tributary(&["delete-user", "4"]);
            let (code, text, error) = output(erase.args(fleet.source_args()));
            assert_eq!(code, 0, "{backend:?}: {text}{error}");
            let node = fleet.open().await;
            let after = node.read_marker(reader).await.unwrap().marker.unwrap();
            assert_eq!((after.post, after.time), (None, 11), "{backend:?}");
        }
    });
}

/// Devices of many users move their markers at the same time.
#[test]
fn markers_that_move_at_the_same_time_end_at_the_newest_post() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let node = node(&fleet).await;
            let mut posts = Vec::new();
            for _ in 0..4 {
                posts.push(node.publish(user_id(2), "text", None).await.unwrap().post.key);
            }
            posts.sort();
            let at = |n: usize| PostAddress { author: posts[n].author, post: posts[n].post };
            let moves = (0..40u64).map(|n| {
                let node = node.clone();
                let post = at(usize::try_from(n / 10).unwrap());
                async move { node.mark_read(user_id(n % 10), post).await }
            });
            let moved = futures_util::future::join_all(moves).await;
            assert!(moved.iter().all(|moved| matches!(moved, Ok(Some(_)))), "{moved:?}");
            for user in 0..10 {
                let marker = node.read_marker(user_id(user)).await.unwrap().marker.unwrap();
                assert_eq!(marker.post, Some(at(3)), "{backend:?}");
            }
        }
    });
}

/// A marker at such a post would never move again.
#[test]
fn a_post_of_the_future_is_not_marked() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let mut config = fleet.config_for_writing().await;
        for future in [Future::Hide, Future::Show] {
            config.timeline.future = future;
            let node = Tributary::open(&config).await.unwrap();
            let read = node.publish(user_id(2), "read", None).await.unwrap().post.key;
            let values = "(5, 2, 'text', 4102444800000)";
            let columns = "tweet_id, user_id, content, timestamp";
            execute(&fleet, 2, &format!("INSERT INTO D.tweets ({columns}) VALUES {values}")).await;
            let at = |post| PostAddress { author: user_id(2), post };
            let moved = node.mark_read(user_id(1), at(read.post)).await.unwrap();
            let refused = node.mark_read(user_id(1), at(post_id(5))).await;
            assert_eq!(refused, Err(MarkError::FuturePost));
            assert_eq!(node.read_marker(user_id(1)).await.unwrap().marker, moved);
            node.delete_post(user_id(2), post_id(5)).await.unwrap();
            node.close().await;
        }
    });
}

async fn put(server: &TestServer, body: &str) -> TestResponse {
    let request = hyper::Request::put("/v1/users/1/feed/marker");
    let request = request.header("content-type", "application/json");
    server.send_with(request, Bytes::copy_from_slice(body.as_bytes())).await
}

#[test]
fn the_routes_of_markers_answer() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let server = TestServer::start(node(&fleet).await).await;
        let get = async || server.get("/v1/users/1/feed/marker").await.json();
        assert_eq!(get().await, json!({"marker": null}));
        let posted = server.post("/v1/users/2/posts", r#"{"content": "one"}"#, None).await.json();
        let at = json!({"author_id": "2", "post_id": posted["post_id"]});
        let moved = put(&server, &at.to_string()).await.json();
        assert_eq!((&moved["marker"]["post"], get().await), (&at, moved.clone()));
        assert_eq!(moved["marker"]["created_at"], posted["created_at"]);
        let columns = "tweet_id, user_id, content, timestamp";
        let values = "(6, 2, 'text', 4102444800000)";
        execute(&fleet, 2, &format!("INSERT INTO D.tweets ({columns}) VALUES {values}")).await;
        for (body, problem) in [
            (r#"{"author_id": "2", "post_id": "5"}"#, (404, "not_found")),
            (r#"{"author_id": "2", "post_id": "6"}"#, (422, "future_post")),
            (r#"{"author_id": "x", "post_id": "5"}"#, (400, "invalid_user_id")),
            (r#"{"author_id": "2", "post_id": "-5"}"#, (400, "invalid_post_id")),
            (r#"{"author_id": "2"}"#, (400, "invalid_body")),
        ] {
            let answer = put(&server, body).await.problem();
            assert_eq!(answer, (problem.0, problem.1.to_owned()), "{body}");
        }
    });
}

#[test]
fn shards_without_the_table_say_what_to_create() {
    run(async {
        let Some(fleet) = TestFleet::new(Backend::MariaDb, Tables::Ours).await else { return };
        let server = TestServer::start(fleet.open_for_writing().await).await;
        for answer in [
            server.get("/v1/users/1/feed/marker").await,
            put(&server, r#"{"author_id": "2", "post_id": "5"}"#).await,
        ] {
            assert_eq!(answer.problem(), (501, "not_stored".to_owned()));
            assert!(answer.body.contains("CREATE TABLE `read_markers` ("), "{answer:?}");
        }
        let node = node(&fleet).await;
        assert_eq!(node.read_marker(user_id(1)).await.unwrap().marker, None);
        node.close().await;
        let mut config = fleet.config();
        config.write.enabled = true;
        for (change, cure) in [
            ("DROP PRIMARY KEY", "CREATE UNIQUE INDEX tributary_marker"),
            ("ADD PRIMARY KEY (user_id), ADD UNIQUE KEY other (post_id)", "DROP INDEX `other`"),
            ("DROP KEY other, ADD COLUMN note INT NOT NULL", "ALTER `note` SET DEFAULT"),
            ("DROP COLUMN note, MODIFY post_id BIGINT NOT NULL", "cannot be NULL"),
            ("MODIFY post_id INT NULL", "too small"),
            ("MODIFY post_id VARCHAR(20) NULL", "must be an integer"),
        ] {
            for user in 0..SHARDS {
                execute(&fleet, user, &format!("ALTER TABLE D.read_markers {change}")).await;
            }
            let error = Tributary::open(&config).await.unwrap_err().to_string();
            assert!(error.contains(cure), "{change}: {error}");
        }
    });
}
