//! The HTTP API as a client sees it: reads, errors, limits and health.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use serde_json::{Value, json};
use tributary::Tributary;

use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::TestServer;
use crate::support::world::World;
use crate::support::{run, user_id};

/// Reader 1 follows this author and author 3. A JavaScript number cannot hold this id.
const AUTHOR: u64 = 9_007_199_254_740_993;

async fn server() -> (TestServer, TestFleet) {
    let mut world = World::default();
    world.follow(1, AUTHOR);
    world.follow(1, 3);
    for n in 0..3 {
        world.post(
            AUTHOR,
            1_650_000_000_000 + n * 1_000,
            9_100_000_000_000_000_001 + n.unsigned_abs(),
        );
    }
    world.post(3, 1_650_000_000_500, 7);
    world.posts[3].content = "a \"quoted\"\r\nline \\ <b>&amp;</b> 👩‍💻\u{202e}".into();
    for followee in 10..40 {
        world.follow(5, followee);
    }
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    (TestServer::start(fleet.open().await).await, fleet)
}

#[test]
fn the_express_route_uses_the_field_names_of_the_express_handler() {
    run(async {
        let (server, _fleet) = server().await;
        let answer = server.get("/user/feed/1?limit=3").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, "application/json")
        );
        let body = answer.json();
        let cursor = body["next_cursor"].as_str().unwrap();
        assert_eq!(
            body,
            json!({
                "feed": [
                    {"tweet_id": "9100000000000000003", "user_id": "9007199254740993",
                     "content": "post 9100000000000000003 of 9007199254740993 at 1650000002000\n🎉",
                     "timestamp": 1_650_000_002_000i64},
                    {"tweet_id": "9100000000000000002", "user_id": "9007199254740993",
                     "content": "post 9100000000000000002 of 9007199254740993 at 1650000001000\n🎉",
                     "timestamp": 1_650_000_001_000i64},
                    {"tweet_id": "7", "user_id": "3",
                     "content": "a \"quoted\"\r\nline \\ <b>&amp;</b> 👩‍💻\u{202e}",
                     "timestamp": 1_650_000_000_500i64},
                ],
                "next_cursor": cursor,
                "complete": true,
                "missing_shards": [],
            })
        );
        let last = server.get(&format!("/user/feed/1?limit=3&cursor={cursor}")).await.json();
        assert_eq!(last["feed"][0]["timestamp"], 1_650_000_000_000i64);
        assert_eq!(last["next_cursor"], Value::Null);
    });
}

#[test]
fn the_feed_links_to_pages_in_both_directions() {
    run(async {
        let (server, _fleet) = server().await;
        let first = server.get("/v1/users/1/feed?limit=2").await;
        let body = first.json();
        assert_eq!(body["posts"][0]["post_id"], "9100000000000000003");
        assert_eq!(body["posts"][0]["author_id"], "9007199254740993");
        assert_eq!(body["posts"][0]["created_at"], "2022-04-15T05:20:02.000Z");
        assert_eq!(body["stale_shards"], json!([]));
        let next = link(first.header("link"), "next");
        assert_eq!(
            next,
            format!("/v1/users/1/feed?limit=2&cursor={}", body["next"].as_str().unwrap())
        );
        assert!(
            next.bytes().all(|b| b.is_ascii_alphanumeric() || b"/?&=-_".contains(&b)),
            "{next}"
        );

        let second = server.get(&next).await;
        assert_eq!(
            second.json()["next"],
            Value::Null,
            "the last page is full and has no next page"
        );
        assert!(!second.header("link").contains("rel=\"next\""));
        let back = server.get(&link(second.header("link"), "prev")).await;
        assert_eq!(back.json()["posts"], body["posts"]);
        let top = server.get(&link(back.header("link"), "prev")).await.json();
        assert_eq!(top["posts"], json!([]));
        assert!(top["prev"].is_string() && top["next"].is_string());
    });
}

fn link(header: &str, rel: &str) -> String {
    let rel = format!("rel=\"{rel}\"");
    let part = header.split(", ").find(|part| part.ends_with(&rel));
    let part = part.unwrap_or_else(|| panic!("no {rel} in {header}"));
    part.split(['<', '>']).nth(1).unwrap().to_owned()
}

#[test]
fn author_timelines_and_follow_lists_are_paged_too() {
    run(async {
        let (server, _fleet) = server().await;
        let posts = server.get(&format!("/v1/users/{AUTHOR}/posts?limit=3")).await.json();
        assert_eq!((posts["posts"].as_array().unwrap().len(), &posts["next"]), (3, &Value::Null));

        let mut path = "/v1/users/5/following".to_owned();
        let mut found = Vec::new();
        for _ in 0..2 {
            let answer = server.get(&path).await;
            let body = answer.json();
            assert_eq!(body["complete"], true);
            let ids = body["following"].as_array().unwrap().iter();
            found.extend(ids.map(|user| user["user_id"].as_str().unwrap().parse::<u64>().unwrap()));
            path = match &body["next"] {
                Value::Null => "/livez".into(),
                _ => link(answer.header("link"), "next"),
            };
        }
        assert_eq!(found, (10..40).collect::<Vec<u64>>());
    });
}

#[test]
fn unknown_users_have_empty_timelines() {
    run(async {
        let (server, _fleet) = server().await;
        for path in ["/user/feed/99", "/v1/users/99/feed", "/v1/users/99/posts"] {
            let answer = server.get(path).await;
            assert_eq!(answer.status, 200);
            let body = answer.json();
            let posts = body.get("posts").or(body.get("feed")).unwrap();
            assert_eq!((posts, &body["complete"]), (&json!([]), &json!(true)));
        }
    });
}

#[test]
fn bad_requests_get_a_4xx_status_and_a_stable_code() {
    run(async {
        let (server, _fleet) = server().await;
        let following = server.get("/v1/users/5/following").await.json();
        let long = format!("/v1/users/1/feed?cursor={}", "A".repeat(5_000));
        let longer = format!("/v1/users/1/feed?cursor={}", "A".repeat(9_000));
        let wrong_kind = format!("/v1/users/1/feed?cursor={}", following["next"].as_str().unwrap());
        let cases = [
            ("/v1/users/abc/feed", 400, "invalid_user_id"),
            ("/v1/users/-1/feed", 400, "invalid_user_id"),
            ("/v1/users/9223372036854775808/feed", 400, "invalid_user_id"),
            ("/user/feed/1%00", 400, "invalid_user_id"),
            ("/v1/users/1%20/posts", 400, "invalid_user_id"),
            ("/v1/users/%ff/posts", 400, "invalid_user_id"),
            ("/v1/users/1/feed?limit=0", 400, "invalid_limit"),
            ("/v1/users/1/feed?limit=101", 400, "invalid_limit"),
            ("/v1/users/1/feed?limit=%2B5", 400, "invalid_limit"),
            ("/v1/users/1/following?limit=x", 400, "invalid_limit"),
            ("/v1/users/1/feed?limit=", 400, "invalid_limit"),
            ("/v1/users/1/feed?cursor=nonsense", 400, "invalid_cursor"),
            ("/v1/users/1/feed?cursor=", 400, "invalid_cursor"),
            (&wrong_kind, 400, "invalid_cursor"),
            (&long, 400, "invalid_cursor"),
            (&longer, 414, "uri_too_long"),
            ("/v1/users/1/feed?limit=1&limit=2", 400, "invalid_query"),
            ("/v1/users/1/feed?a=1&a=2", 400, "invalid_query"),
            ("/v1/users/1/feed?a=1&%61", 400, "invalid_query"),
            ("/readyz?strict&strict", 400, "invalid_query"),
            ("/v1/users/1/feed?require=everything", 400, "invalid_query"),
            ("/v1/users/1", 404, "not_found"),
            ("/", 404, "not_found"),
            ("/v1/users//feed", 400, "invalid_user_id"),
            ("/user/feed/", 404, "not_found"),
        ];
        for (path, status, code) in cases {
            let answer = server.get(path).await;
            assert_eq!(answer.problem(), (status, code.to_owned()), "{path}");
        }
    });
}

#[test]
fn methods_bodies_and_heads_have_limits() {
    run(async {
        let (server, _fleet) = server().await;
        for method in [Method::POST, Method::DELETE, Method::PUT] {
            let request = Request::builder().method(method).uri("/v1/users/1/feed");
            let answer = server.send(request).await;
            assert_eq!(answer.problem(), (405, "method_not_allowed".into()));
            assert_eq!(answer.header("allow"), "GET,HEAD");
        }
        let head = server.send(Request::head("/v1/users/1/feed")).await;
        assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));

        let large = "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
        let answer = raw(&server, large.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"),
            "{answer}"
        );
        let many =
            format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(40_000));
        assert!(raw(&server, many.as_bytes()).starts_with("HTTP/1.1 431"));
        let count = |headers: usize| {
            let headers = "X: 1\r\n".repeat(headers - 2);
            raw(
                &server,
                format!(
                    "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
                )
                .as_bytes(),
            )
        };
        assert!(count(100).starts_with("HTTP/1.1 200") && count(101).starts_with("HTTP/1.1 431"));
        for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
            assert!(raw(&server, garbage.as_bytes()).starts_with("HTTP/1.1 400"), "{garbage:?}");
        }
        let post = "POST /v1/users/1/posts HTTP/1.1\r\nHost: localhost\r\n\
                    Content-Type: application/json\r\n";
        let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
        for fault in ["x\r\n{}\r\n0\r\n\r\n", "3\r\n{}\r\n0\r\n\r\n", "-1\r\n", "2\r\n{}2\r\n"] {
            let answer = raw(&server, format!("{chunked}{fault}").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400"), "{fault:?}: {answer}");
            assert!(answer.contains("broken_body"), "{fault:?}: {answer}");
        }
        let long = format!("{chunked}11171\r\n{}", " ".repeat(0x11171));
        assert!(raw(&server, long.as_bytes()).starts_with("HTTP/1.1 413"));
        for (path, array) in [("posts", r#"["text"]"#), ("following", r#"[["1"]]"#)] {
            let path = format!("/v1/users/1/{path}");
            let answer = server.post(&path, array, None).await;
            assert_eq!(answer.problem(), (400, "invalid_body".into()), "{array}");
        }
        for (levels, problem) in [(8, "unknown field"), (9, "levels deep")] {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            let body = format!(r#"{{"content": "x", "other": {open}{close}}}"#);
            let answer = server.post("/v1/users/1/posts", &body, None).await;
            assert_eq!(answer.problem(), (400, "invalid_body".into()));
            assert!(answer.body.contains(problem), "{}", answer.body);
        }
        assert_eq!(server.get("/livez").await.status, 200);
    });
}

/// 100 posts of 60,000 bytes of JSON, read from the database and from memory, in both directions.
#[test]
fn a_page_with_too_many_bytes_ends_early() {
    run(async {
        let mut world = World::default();
        for n in 0..100 {
            world.post(n % 2 + 6, i64::try_from(n).unwrap(), n);
            world.posts.last_mut().unwrap().content = "\u{1}".repeat(10_000);
        }
        (6..8).for_each(|author| world.follow(1, author));
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(&world).await;
        let expected: Vec<String> = (0..100).rev().map(|n: u64| n.to_string()).collect();
        for budget in [0, 64 << 20] {
            let tributary = Tributary::open(&fleet.config_with_memory(budget)).await.unwrap();
            let server = TestServer::start(tributary).await;
            for (feed, newer) in [("/v1/users/1/feed", false), ("/v1/users/1/feed", true)] {
                let mut path = format!("{feed}?limit=100");
                let (mut found, mut pages, mut last) = (Vec::new(), 0, String::new());
                if newer {
                    let oldest = tributary::Cursor::newer(tributary::internal::Edge::Bottom);
                    let oldest = server.cursor_keys.seal_home_cursor(user_id(1), &oldest);
                    path = format!("{feed}?limit=100&cursor={oldest}");
                }
                loop {
                    let answer = server.get(&path).await;
                    assert!(answer.body.len() < (1 << 20) + 4_096, "{}", answer.body.len());
                    let body = answer.json();
                    let ids = body["posts"].as_array().unwrap().iter();
                    let mut ids: Vec<String> =
                        ids.map(|post| post["post_id"].as_str().unwrap().to_owned()).collect();
                    pages += 1;
                    if newer && ids.is_empty() {
                        break;
                    }
                    if newer {
                        ids.append(&mut found);
                        found = ids;
                    } else {
                        found.append(&mut ids);
                    }
                    let cursor = &body[if newer { "prev" } else { "next" }];
                    let Some(cursor) = cursor.as_str() else { break };
                    assert_ne!(cursor, last);
                    cursor.clone_into(&mut last);
                    path = format!("{feed}?limit=100&cursor={cursor}");
                }
                assert_eq!(found, expected, "{budget} {newer}");
                assert!(pages >= 6, "{pages}");
            }
            // The Express route has the same bound.
            let express = server.get("/user/feed/1?limit=100").await;
            assert!(
                express.body.len() < (1 << 20) + 8_192
                    && express.json()["next_cursor"] != Value::Null
            );
        }
    });
}

fn raw(server: &TestServer, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_trace_id_of_the_client_is_used() {
    run(async {
        let (server, _fleet) = server().await;
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{id}-00f067aa0ba902b7-01");
        let request = Request::get("/nowhere").header("traceparent", parent);
        assert_eq!(server.send(request).await.json()["trace_id"], id);
        for bad in ["00-xyz-1-1", "00-00000000000000000000000000000000-1-1", "<script>"] {
            let request = Request::get("/nowhere").header("traceparent", bad);
            let own = server.send(request).await.json()["trace_id"].as_str().unwrap().to_owned();
            assert!(own.len() == 32 && own.bytes().all(|b| b.is_ascii_hexdigit()), "{own}");
        }
    });
}

#[test]
fn health_routes_report_the_shards() {
    run(async {
        let (server, _fleet) = server().await;
        for path in ["/livez", "/healthz"] {
            let answer = server.get(path).await;
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "ok\n"));
        }
        let ready = server.get("/readyz?strict").await;
        assert_eq!(ready.status, 200);
        let shards: Vec<Value> =
            (0..4).map(|n| json!({"name": format!("shard-{n}"), "status": "ok"})).collect();
        assert_eq!(ready.json(), json!({"status": "ok", "shards": shards}));
    });
}

#[test]
fn readyz_reports_how_much_of_memory_is_filled() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut world = World::default();
        // One author on each of the first three shards.
        (0..3).for_each(|author| world.post(author, 1, author));
        fleet.load(&world).await;
        let tributary = Tributary::open(&fleet.config_with_memory(1 << 20)).await.unwrap();
        let server = TestServer::start(tributary).await;
        let start = Instant::now();
        loop {
            let answer = server.get("/readyz?strict").await;
            // The state of memory does not change whether a server is ready.
            assert_eq!(answer.status, 200);
            let ready = answer.json();
            assert_eq!(
                (&ready["status"], ready["memory"].as_array().unwrap().len()),
                (&json!("ok"), 4)
            );
            let logs = ready["memory"].as_array().unwrap();
            if logs.iter().all(|log| log["filled_ahead"]["done"] == true) {
                let news = &logs[0]["news"];
                assert_eq!(news["bytes"], 0, "nothing was written since the start");
                let log = |shard: u64, authors: u64| {
                    json!({
                        "log": format!("shard-{shard}"), "followed": true, "newest_times": true,
                        "filled_ahead": {"authors": authors, "of": authors, "done": true},
                        "news": news,
                    })
                };
                assert_eq!(ready["memory"], json!([log(0, 1), log(1, 1), log(2, 1), log(3, 0)]));
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{ready}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// Another web site may make its host name resolve to this machine (DNS rebinding). Its requests
/// then have that name in the `Host` header.
#[test]
fn only_requests_for_names_of_this_machine_are_answered() {
    run(async {
        let (server, _fleet) = server().await;
        let status = |host: &str| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            write!(stream, "GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
                .unwrap();
            let answer = std::io::read_to_string(stream).unwrap();
            answer.split(' ').nth(1).unwrap().to_owned()
        };
        for own in ["localhost", "LocalHost:7878", "127.0.0.1", "[::1]:80", "feeds.example.org:1"] {
            assert_eq!(status(own), "200", "{own}");
        }
        for other in ["evil.example", "localhost.evil.example:7878", "127.0.0.1.evil.example", ""] {
            assert_eq!(status(other), "421", "{other}");
        }
    });
}
