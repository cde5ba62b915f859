//! The HTTP routes that write, as a client sees them.

use hyper::Request;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::{TestResponse, TestServer};
use crate::support::run;

const POSTS: &str = "/v1/users/7/posts";

async fn server() -> (TestServer, TestFleet) {
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    (TestServer::start(fleet.open().await).await, fleet)
}

async fn status(server: &TestServer, method: &str, path: &str) -> u16 {
    let answer = server.send(Request::builder().method(method).uri(path)).await;
    assert_eq!(answer.body, "", "{method} {path}");
    answer.status.as_u16()
}

#[test]
fn a_post_is_created_read_and_deleted() {
    run(async {
        let (server, _fleet) = server().await;
        assert_eq!(status(&server, "PUT", "/v1/users/1/following/7").await, 204);
        let answer = server.post(POSTS, "{\"content\": \"one\\ud83c\\udf89\\n\"}", None).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("idempotent-replayed"), "");
        let post = answer.json();
        assert_eq!((&post["content"], &post["author_id"]), (&json!("one🎉\n"), &json!("7")));
        let address = format!("{POSTS}/{}", post["post_id"].as_str().unwrap());
        assert_eq!(answer.header("location"), address);
        let found = server.get(&address).await;
        assert_eq!((found.status.as_u16(), found.json()), (200, post.clone()));
        assert_eq!(server.get("/v1/users/1/feed").await.json()["posts"], json!([post]));
        let elsewhere = address.replace("/7/", "/8/");
        assert_eq!(server.get(&elsewhere).await.problem(), (404, "not_found".into()));
        assert_eq!(status(&server, "DELETE", &elsewhere).await, 204);
        for _ in 0..2 {
            assert_eq!(status(&server, "DELETE", &address).await, 204);
            assert_eq!(server.get(&address).await.problem(), (404, "not_found".into()));
        }
        assert_eq!(server.get("/v1/users/1/feed").await.json()["posts"], json!([]));
    });
}

#[test]
fn follows_are_idempotent_and_accepted_in_bulk() {
    run(async {
        let (server, _fleet) = server().await;
        let path = "/v1/users/1/following";
        let list = async || -> Vec<String> {
            let body = server.get(path).await.json();
            let users = body["following"].as_array().unwrap().iter();
            users.map(|user| user["user_id"].as_str().unwrap().to_owned()).collect()
        };
        for _ in 0..2 {
            assert_eq!(status(&server, "PUT", "/v1/users/1/following/9").await, 204);
        }
        let added = async |body: &str| server.post(path, body, None).await.json()["added"].clone();
        assert_eq!(added("{\"follow\": [\"9\", \"3\", \"3\", \"1\"]}").await, 2);
        assert_eq!(added("{\"follow\": []}").await, 0);
        assert_eq!(list().await, ["1", "3", "9"]);
        for _ in 0..2 {
            assert_eq!(status(&server, "DELETE", "/v1/users/1/following/3").await, 204);
        }
        assert_eq!(list().await, ["1", "9"]);
        let ids: Vec<String> = (0..1_001).map(|n| format!("{}", i64::MAX - n)).collect();
        let body = |ids: &[String]| json!({ "follow": ids }).to_string();
        let most = server.post(path, body(&ids[..1_000]), None).await;
        assert_eq!(most.json(), json!({"added": 1_000}));
        let more = server.post(path, body(&ids), None).await;
        assert_eq!(more.problem(), (422, "too_many_follows".into()));
        let bad = server.post(path, "{\"follow\": [\"-1\"]}", None).await;
        assert_eq!(bad.problem(), (400, "invalid_user_id".into()));
    });
}

#[test]
fn a_repeated_idempotency_key_gets_the_first_answer() {
    run(async {
        let (server, _fleet) = server().await;
        let post = async |content: &str, key| {
            server.post(POSTS, json!({ "content": content }).to_string(), Some(key)).await
        };
        let first = post("é", "k").await;
        // The same text with other JSON escapes.
        let again = server.post(POSTS, "{ \"content\" : \"\\u00e9\" }", Some("k")).await;
        assert_eq!((again.status.as_u16(), again.json()), (201, first.json()));
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(again.header("location"), first.header("location"));
        let other = post("e", "k").await;
        assert_eq!(other.problem(), (409, "idempotency_key_reused".into()));
        for bad in ["", "a b", &"k".repeat(256)] {
            assert_eq!(post("x", bad).await.problem(), (400, "invalid_idempotency_key".into()));
        }
        let twice = Request::post(POSTS)
            .header("content-type", "application/json")
            .header("idempotency-key", "a")
            .header("idempotency-key", "b");
        let answer = server.send_with(twice, Bytes::from_static(b"{\"content\":\"x\"}")).await;
        assert_eq!(answer.problem(), (400, "invalid_idempotency_key".into()));
        assert_eq!(server.get(POSTS).await.json()["posts"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn invalid_bodies_are_refused_with_a_stable_code() {
    run(async {
        let (server, _fleet) = server().await;
        let deep = format!("{{\"content\":{}", "[".repeat(10_000));
        let long = json!({ "content": "x".repeat(10_001) }).to_string();
        let large = json!({ "content": "x".repeat(70_000) }).to_string();
        let cases: [(&[u8], u16, &str); 18] = [
            (b"", 400, "invalid_body"),
            (b"null", 400, "invalid_body"),
            (b"[]", 400, "invalid_body"),
            (b"{}", 400, "invalid_body"),
            (b"{\"content\": 1}", 400, "invalid_body"),
            (b"{\"content\": null}", 400, "invalid_body"),
            (b"{\"content\": \"x\", \"id\": 1}", 400, "invalid_body"),
            (b"{\"content\": \"x\", \"content\": \"y\"}", 400, "invalid_body"),
            (b"{\"content\": \"x\"} x", 400, "invalid_body"),
            (b"{\"content\": \"x\"", 400, "invalid_body"),
            (b"{\"content\": \"\xff\"}", 400, "invalid_body"),
            (b"{\"content\": \"\\ud800\"}", 400, "invalid_body"),
            (b"{\"content\": \"a\nb\"}", 400, "invalid_body"),
            (b"\xef\xbb\xbf{\"content\": \"x\"}", 400, "invalid_body"),
            (deep.as_bytes(), 400, "invalid_body"),
            (b"{\"content\": \"\"}", 422, "invalid_content"),
            (long.as_bytes(), 422, "invalid_content"),
            (large.as_bytes(), 413, "body_too_large"),
        ];
        for (body, code, name) in cases {
            let answer = server.post(POSTS, body, None).await;
            let text = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(answer.problem(), (code, name.into()), "{text}");
        }
        for kind in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
            let request = Request::post(POSTS).header("content-type", kind);
            let answer =
                server.send_with(request, Bytes::from_static(b"{\"content\":\"x\"}")).await;
            assert_eq!(answer.problem(), (415, "unsupported_media_type".into()), "{kind}");
        }
        for (method, path, code) in [
            ("GET", "/v1/users/7/posts/x", "invalid_post_id"),
            ("DELETE", "/v1/users/7/posts/9223372036854775808", "invalid_post_id"),
            ("DELETE", "/v1/users/x/posts/1", "invalid_user_id"),
            ("PUT", "/v1/users/1/following/-2", "invalid_user_id"),
            ("PUT", "/v1/users/%ff/following/2", "invalid_user_id"),
        ] {
            let answer = server.send(Request::builder().method(method).uri(path)).await;
            assert_eq!(answer.problem(), (400, code.into()), "{method} {path}");
        }
        assert_eq!(
            server.get(POSTS).await.json()["posts"],
            json!([]),
            "no refused post may be stored"
        );

        // The longest text, where JSON escapes encode each byte as six bytes.
        let escaped = format!("{{\"content\": \"{}\"}}", "\\u0041".repeat(10_000));
        let answer = server.post(POSTS, escaped, None).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.json()["content"].as_str().unwrap(), "A".repeat(10_000));
        let kind = Request::post(POSTS).header("content-type", "Application/JSON; charset=utf-8");
        let answer = server.send_with(kind, Bytes::from_static(b"{\"content\":\"x\"}")).await;
        assert_eq!(answer.status, 201);
    });
}

#[test]
fn a_larger_content_limit_allows_larger_bodies() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut config = fleet.config();
        config.write.content_bytes_max = 100_000;
        let server = TestServer::start(tributary::Tributary::open(&config).await.unwrap()).await;
        let escaped = format!("{{\"content\": \"{}\"}}", "\\u0041".repeat(100_000));
        assert_eq!(server.post(POSTS, escaped, None).await.status, 201);
    });
}

/// The tables of a fleet of servers may belong to another application, so writing must be enabled.
#[test]
fn a_fleet_of_servers_is_read_only_by_default() {
    run(async {
        let fleet = TestFleet::new(Backend::MariaDb, Tables::Ours).await.unwrap();
        let server = TestServer::start(fleet.open().await).await;
        let refused = |answer: &TestResponse| {
            assert_eq!(answer.problem(), (403, "read_only".into()));
        };
        refused(&server.post(POSTS, "{\"content\":\"x\"}", Some("k")).await);
        refused(&server.post("/v1/users/7/following", "{\"follow\":[\"1\"]}", None).await);
        for (method, path) in [
            ("DELETE", "/v1/users/7/posts/1"),
            ("PUT", "/v1/users/7/following/1"),
            ("DELETE", "/v1/users/7/following/1"),
        ] {
            refused(&server.send(Request::builder().method(method).uri(path)).await);
        }
        assert_eq!(server.get("/v1/users/7/posts/1").await.problem(), (404, "not_found".into()));
        assert_eq!(server.get(POSTS).await.json()["posts"], Value::Array(Vec::new()));
    });
}
