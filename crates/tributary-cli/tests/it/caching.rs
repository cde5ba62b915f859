//! Answers that a client has already, long answers, and pages of other sites.

use std::time::{Duration, Instant};

use hyper::Request;
use tributary::Tributary;
use tributary::config::Http;
use tributary_server::{self as http, RouterOptions, Scope};

use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::{TestResponse, TestServer};
use crate::support::run;
use crate::support::world::World;

const SITE: &str = "https://app.example.org";

/// A server whose user 1 follows user 2, who has 100 posts: more than 32 KiB of JSON.
async fn server(credentials: &TestCredentials) -> (TestServer, TestFleet) {
    let mut world = World::default();
    world.follow(1, 2);
    for n in 0..100_u32 {
        world.post(2, 1_650_000_000_000 + i64::from(n), u64::from(n) + 1);
        world.posts.last_mut().unwrap().content = format!("{n} {}", "text ".repeat(80));
    }
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    let mut config = fleet.config_with_memory(32 << 20);
    config.write.enabled = true;
    let tributary = Tributary::open(&config).await.unwrap();
    let mut options = RouterOptions::default();
    options.access = credentials.access();
    let mut limits = Http::default();
    limits.cors_origins = vec![SITE.parse().unwrap()];
    let cursor_keys = options.cursor_keys.clone();
    let bound = http::bind_with("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    (TestServer::start_bound(bound.with_limits(&limits), cursor_keys, tributary), fleet)
}

/// A GET with these headers.
async fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    server.send(request).await
}

/// The number of pages that were read from the databases.
async fn cold_pages(server: &TestServer, bearer: &str) -> String {
    let metrics = get(server, "/metrics", &[("authorization", bearer)]).await.body;
    let line = metrics.lines().find(|line| line.starts_with("tributary_cold_pages_total"));
    line.unwrap().to_owned()
}

/// Requests a page until it comes from memory.
async fn wait_for_memory(server: &TestServer, bearer: &str, path: &str) {
    let start = Instant::now();
    loop {
        let before = cold_pages(server, bearer).await;
        assert_eq!(get(server, path, &[("authorization", bearer)]).await.status, 200);
        if cold_pages(server, bearer).await == before {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{path} is not in memory");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_answer_that_the_client_has_is_304_without_a_query() {
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::ActAsUser, Scope::Admin]);
    run(async {
        let (server, _fleet) = server(&credentials).await;
        let bearer = format!("Bearer {key}");
        let path = "/v1/users/1/feed?limit=3";
        wait_for_memory(&server, &bearer, path).await;
        let page = get(&server, path, &[("authorization", &bearer)]).await;
        let tag = page.header("etag");
        assert_eq!(
            (page.header("vary"), page.header("cache-control")),
            ("authorization, cookie", "private, no-cache")
        );
        let before = cold_pages(&server, &bearer).await;
        // The first answers are made from the posts in memory, and the others are cached pages.
        for _ in 0..4 {
            let known = [("authorization", bearer.as_str()), ("if-none-match", tag)];
            let answer = get(&server, path, &known).await;
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (304, ""));
            for name in ["etag", "vary", "cache-control"] {
                assert_eq!(answer.header(name), page.header(name), "{name}");
            }
            // The token has the time up to which posts are shown, so a later one may differ.
            assert!(!answer.header("tributary-freshness").is_empty());
            assert!(!answer.headers.contains_key("content-type"));
        }
        assert_eq!(cold_pages(&server, &bearer).await, before);
        let stranger = format!("Bearer {}", credentials.token(2));
        for (credential, status) in [("Bearer x", 401), (&stranger, 404)] {
            let known = [("authorization", credential), ("if-none-match", tag)];
            assert_eq!(get(&server, path, &known).await.status, status);
        }

        let post = Request::post("/v1/users/2/posts").header("authorization", &bearer);
        let post = post.header("content-type", "application/json");
        let written = server.send_with(post, r#"{"content": "new"}"#.into()).await;
        assert_eq!((written.status.as_u16(), written.header("etag")), (201, ""));
        let known = [
            ("authorization", bearer.as_str()),
            ("if-none-match", tag),
            ("tributary-freshness", written.header("tributary-freshness")),
        ];
        let changed = get(&server, path, &known).await;
        assert_eq!(changed.status, 200);
        assert_eq!(changed.json()["posts"][0]["content"], "new");
        assert_ne!(changed.header("etag"), tag);

        for path in [
            "/v1/users/2/posts",
            "/v1/users/2/posts/7",
            "/v1/users/1/following",
            "/user/feed/1",
            "/v1/users/1/feed?require=complete",
            "/openapi.json",
        ] {
            let page = get(&server, path, &[("authorization", &bearer)]).await;
            let known =
                [("authorization", bearer.as_str()), ("if-none-match", page.header("etag"))];
            let again = get(&server, path, &known).await;
            assert_eq!((page.status.as_u16(), again.status.as_u16()), (200, 304), "{path}");
        }
    });
}

#[test]
fn long_answers_are_compressed_and_configured_sites_may_read_them() {
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::ActAsUser, Scope::Admin]);
    run(async {
        let (server, _fleet) = server(&credentials).await;
        let bearer = format!("Bearer {key}");
        let long = "/v1/users/1/feed?limit=100";
        // The first pages are those of a route; later ones come from memory.
        for _ in 0..4 {
            let plain = get(&server, long, &[("authorization", &bearer)]).await;
            assert!(plain.body.len() > 32 << 10 && plain.header("content-encoding").is_empty());
            let accepts = [("authorization", bearer.as_str()), ("accept-encoding", "br, gzip")];
            let packed = get(&server, long, &accepts).await;
            assert_eq!(packed.header("content-encoding"), "gzip");
            assert_eq!(packed.body, plain.body);
            assert_eq!(packed.header("etag"), plain.header("etag"));
            let vary: Vec<&str> =
                packed.headers.get_all("vary").iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(vary, ["authorization, cookie", "accept-encoding", "origin"]);
        }
        for (path, accepted) in
            [("/v1/users/1/feed?limit=3", "gzip"), (long, "gzip;q=0"), (long, "identity")]
        {
            let accepts = [("authorization", bearer.as_str()), ("accept-encoding", accepted)];
            assert_eq!(get(&server, path, &accepts).await.header("content-encoding"), "");
        }

        let preflight = |site: &str| {
            Request::options(long)
                .header("origin", site)
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "authorization,last-event-id")
        };
        let allowed = server.send(preflight(SITE)).await;
        assert_eq!(allowed.status, 200);
        assert_eq!(allowed.header("access-control-allow-origin"), SITE);
        for name in ["authorization", "last-event-id", "idempotency-key", "tributary-freshness"] {
            assert!(allowed.header("access-control-allow-headers").contains(name), "{name}");
        }
        for credential in [bearer.as_str(), "Bearer x"] {
            let headers = [("authorization", credential), ("origin", SITE)];
            let answer = get(&server, long, &headers).await;
            assert_eq!(answer.header("access-control-allow-origin"), SITE);
            for name in ["etag", "x-ratelimit-reset", "tributary-freshness", "server-timing"] {
                assert!(answer.header("access-control-expose-headers").contains(name), "{name}");
            }
        }
        let other = "https://evil.example";
        assert_eq!(server.send(preflight(other)).await.header("access-control-allow-origin"), "");
        let headers = [("authorization", bearer.as_str()), ("origin", other)];
        let answer = get(&server, long, &headers).await;
        assert_eq!(answer.header("access-control-allow-origin"), "");
    });
}
