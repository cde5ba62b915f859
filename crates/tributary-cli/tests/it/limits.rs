//! The limits of clients over HTTP: units by cost, requests in flight, and the bounds of a request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hyper::Request;
use tributary::config::{ClientLimit, Limits};
use tributary_server::{RouterOptions, Scope};

use crate::access::protected_fleet;
use crate::support::credentials::TestCredentials;
use crate::support::http::{TestResponse, TestServer};
use crate::support::run;

/// One unit is refilled in a second, so that few are on a slow machine too.
const SLOW: u32 = 1;

async fn get(server: &TestServer, path: &str, credential: &str, address: &str) -> TestResponse {
    let request = Request::get(path)
        .header("authorization", format!("Bearer {credential}"))
        .header("x-forwarded-for", address);
    server.send(request).await
}

fn left(answer: &TestResponse) -> i64 {
    answer.header("x-ratelimit-remaining").parse().unwrap_or_else(|_| panic!("{answer:?}"))
}

#[test]
fn clients_that_exceed_a_limit_are_refused_and_others_served() {
    let credentials = TestCredentials::new();
    let keys = [(); 2].map(|()| credentials.key(&[Scope::ActAsUser, Scope::Explain]));
    let [key, other_key] = keys;
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let mut options = RouterOptions::default();
        options.access = access;
        options.limits = limits();
        let server = TestServer::start_as(tributary.clone(), options).await;
        let path = "/v1/users/1/feed?limit=3";

        by_cost(&server, &other_key, path).await;
        let (one, two) = (credentials.token(1), credentials.token(2));
        let mut last = get(&server, path, &one, "203.0.113.1").await;
        for _ in 0..400 {
            if last.status != 200 {
                break;
            }
            last = get(&server, path, &one, "203.0.113.1").await;
        }
        assert_eq!(last.problem(), (429, "too_many_requests".into()));
        let problem = last.json();
        assert_eq!(problem["violated-policies"], serde_json::json!(["user"]));
        assert!(problem["type"].as_str().unwrap().ends_with("#quota-exceeded"));
        let wait: u64 = last.header("retry-after").parse().unwrap();
        assert!((1..=300).contains(&wait), "{wait}");
        assert_eq!(last.header("ratelimit-policy"), r#""user";q=300;w=300"#);
        assert!(last.header("ratelimit").starts_with(r#""user";r=0;t="#), "{last:?}");
        let other_address = get(&server, path, &one, "203.0.113.2").await;
        assert_eq!(other_address.status, 429, "the limit is that of the user");
        assert_eq!(get(&server, "/livez", &one, "203.0.113.1").await.status, 200);
        let other = get(&server, "/v1/users/2/feed", &two, "203.0.113.1").await;
        assert_eq!(other.status, 200, "the limit of the address is not reached");
        assert_eq!(get(&server, path, &key, "203.0.113.1").await.status, 200);

        // Wrong credentials count for their address, and users share its limit.
        let wrong = async || get(&server, path, "wrong", "2001:db8::7").await;
        let mut last = wrong().await;
        assert_eq!(last.problem(), (401, "unauthenticated".into()));
        for _ in 0..1_100 {
            if last.status != 401 {
                break;
            }
            last = wrong().await;
        }
        assert_eq!(last.problem(), (429, "too_many_requests".into()));
        let neighbour = get(&server, "/v1/users/2/feed", &two, "2001:db8::8").await;
        assert_eq!(neighbour.json()["violated-policies"], serde_json::json!(["address"]));
        let elsewhere = get(&server, "/v1/users/2/feed", &two, "2001:db8:0:1::8").await;
        assert_eq!(elsewhere.status, 200);

        in_flight(&server, &key);
        let local = TestServer::start(tributary).await;
        let answer = local.get(path).await;
        assert!(!answer.headers.contains_key("ratelimit"), "no limits for this machine");
    });
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.keys = ClientLimit::new(SLOW, 10_000, 1);
    limits.users = ClientLimit::new(SLOW, 300, 8);
    limits.addresses = ClientLimit::new(SLOW, 1_000, 8);
    limits
}

/// A page from the databases, then from memory and from the page cache, and a write.
async fn by_cost(server: &TestServer, key: &str, path: &str) {
    let cold = get(server, path, key, "").await;
    assert_eq!(cold.status, 200);
    assert!(left(&cold) <= 10_000 - 21, "{cold:?}");
    let start = Instant::now();
    loop {
        let [before, after] = [(); 2].map(|()| get(server, path, key, ""));
        let (before, after) = (left(&before.await), left(&after.await));
        // A unit may be refilled between the two.
        if (0..=1).contains(&(before - after)) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{before}, {after}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Without memory, a page that memory has costs as much as the first one.
    let before = left(&get(server, path, key, "").await);
    let explained = get(server, &format!("{path}&explain=1&memory=off"), key, "").await;
    assert!(explained.status == 200 && left(&explained) <= before - 20, "{explained:?}");
    let before = left(&get(server, path, key, "").await);
    let request = Request::post("/v1/users/9/posts")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {key}"));
    let written = server.send_with(request, r#"{"content": "x"}"#.into()).await;
    assert_eq!(written.status, 201);
    assert!((10..=11).contains(&(before - left(&written))), "{before} {written:?}");
}

/// A key with one request in flight, whose body is not sent before the server asks for it.
fn in_flight(server: &TestServer, key: &str) {
    let head = |path: &str| {
        format!(
            "{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
        )
    };
    let mut first = TcpStream::connect(server.address).unwrap();
    let (post, body) = (head("POST /v1/users/9/posts"), r#"{"content": "x"}"#);
    let length = body.len();
    write!(
        first,
        "{post}Content-Type: application/json\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\n\r\n"
    )
    .unwrap();
    let mut goes_on = [0; 25];
    first.read_exact(&mut goes_on).unwrap();
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut second = TcpStream::connect(server.address).unwrap();
    write!(second, "{}\r\n", head("GET /v1/users/9/following")).unwrap();
    let mut refused = String::new();
    second.read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("too_many_in_flight"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1"), "{refused}");
    first.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}
