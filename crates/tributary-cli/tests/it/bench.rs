//! `tributary bench`: its data, runs of every mix, and runs against servers that answer wrongly.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tributary::internal::mysql_tables;
use tributary::{Config, Tributary};

use crate::commands::{Serving, output, tributary};
use crate::support::database::{Database, Kind};
use crate::support::http::TestServer;
use crate::support::{run, scratch};

/// Generates the smallest data in a folder and returns the command's output.
fn make(data: &Path) -> String {
    let command = ["bench", "make", "--size", "xs", "--data", data.to_str().unwrap()];
    let (code, text, error) = output(&mut tributary(&command));
    assert_eq!(code, 0, "{text}{error}");
    text
}

/// A run that checks every page; returns exit code, output and errors.
fn bench(url: &str, more: &[&str]) -> (i32, String, String) {
    let mut command = tributary(&["bench", "run", "--size", "xs", "--url", url]);
    command.args(["--check-every", "1", "--connections", "8", "--warmup", "0.2"]);
    output(command.args(more))
}

#[test]
fn every_mix_passes_its_checks_on_a_real_server() {
    let dir = scratch();
    let data = dir.path().join("data");
    let text = make(&data);
    assert!(text.contains("posts: 20000 added, 0 already there"), "{text}");
    assert!(make(&data).contains("posts: 0 added, 20000 already there"));

    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let serving = Serving::start(&mut tributary(&serve));
    let url = format!("http://{}", serving.address);
    let pid = serving.process.id().to_string();
    let svg = dir.path().join("latency.svg");
    let run = |mix: &str, rate: &str| {
        let (code, text, error) = bench(
            &url,
            &["--mix", mix, "--rate", rate, "--seconds", "1", "--json", "--server-pid", &pid]
                .into_iter()
                .chain(["--svg", svg.to_str().unwrap()])
                .collect::<Vec<_>>(),
        );
        // A busy machine does not send all requests that are due: exit code 4.
        assert!(code == 0 || code == 4, "{mix}: {text}{error}");
        let report: Value = serde_json::from_str(&text).unwrap();
        assert!(report["checked"].as_u64().unwrap() > 50, "{report:#}");
        assert_eq!(report["incomplete"], 0, "{report:#}");
        assert!(report["server_cpu_us_per_answer"].as_f64().unwrap() > 0.0);
        assert!(report["server_resident_bytes"].as_u64().unwrap() > 1 << 20);
        (report, code == 0)
    };
    let (read, sent_all) = run("read", "200");
    let (all, kinds) = (&read["latency_us"], &read["latency_us_by_kind"]);
    assert!(!sent_all || (140..260).contains(&all["count"].as_u64().unwrap()), "{all}");
    assert!(all["p50"].as_u64() <= all["p99"].as_u64() && all["max"].as_u64() > Some(0));
    for kind in ["newest page", "next page", "poll"] {
        assert!(kinds[kind]["count"].as_u64() > Some(0), "{kind}: {read:#}");
    }
    let (poll, _) = run("poll", "max");
    let kinds = &poll["latency_us_by_kind"];
    assert_eq!(kinds["poll"]["count"], poll["latency_us"]["count"], "{poll:#}");
    assert!(poll["answer_bytes_mean"].as_f64().unwrap() < 400.0, "{poll:#}");
    let (twip, _) = run("twip", "max");
    for kind in ["poll", "page of 100", "follow or unfollow", "post"] {
        assert!(twip["latency_us_by_kind"][kind]["count"].as_u64() > Some(0), "{kind}: {twip:#}");
    }
    assert!(twip["visible_us"]["count"].as_u64() > Some(0), "{twip:#}");
    let (storm, sent_all) = run("storm", "200");
    let posts = &storm["latency_us_by_kind"]["post in the storm"];
    let posts = posts["count"].as_u64().unwrap();
    assert!(!sent_all || (60..140).contains(&posts), "{storm:#}");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("polyline"), "{picture}");

    // The server has other data than this seed generates.
    let (code, _, error) = bench(&url, &["--seconds", "1", "--seed", "2"]);
    assert!(code == 1 && error.contains("The run is void"), "{code}: {error}");
}

/// A fault that the proxy adds to requests or replies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Corruption {
    /// Removes the second post of a page.
    DropsPost,
    /// Replaces the second post of a page by the first.
    RepeatsPost,
    /// Acknowledges deletes without applying them.
    KeepsDeleted,
    /// Acknowledges posts and deletes them at once.
    LosesPost,
    /// Forwards everything unchanged.
    None,
}

/// A proxy in front of a real server. It adds a fault, and numbered freshness tokens to writes.
struct CorruptingProxy {
    server: TestServer,
    corruption: Corruption,
    /// The number of writes so far; each reply has a token.
    tokens: AtomicU64,
    /// The tokens that reads sent.
    sent_tokens: Mutex<Vec<String>>,
}

impl CorruptingProxy {
    /// Starts one and returns its URL.
    async fn start(tributary: Tributary, corruption: Corruption) -> (Arc<Self>, String) {
        let server = TestServer::start(tributary).await;
        let (tokens, sent_tokens) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        let proxy = Arc::new(Self { server, corruption, tokens, sent_tokens });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward_corrupted).with_state(Arc::clone(&proxy));
        // The task ends with the test's runtime.
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, url)
    }
}

async fn forward_corrupted(
    State(proxy): State<Arc<CorruptingProxy>>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if proxy.corruption == Corruption::KeepsDeleted
        && head.method == Method::DELETE
        && path.contains("/posts/")
    {
        return StatusCode::NO_CONTENT.into_response();
    }
    let mut request = hyper::Request::builder().method(head.method.clone()).uri(head.uri);
    if let Some(kind) = head.headers.get("content-type") {
        request = request.header("content-type", kind);
    }
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let answer = proxy.server.send_with(request, body).await;
    let mut body = answer.body.clone();
    if path.ends_with("/feed")
        && matches!(proxy.corruption, Corruption::DropsPost | Corruption::RepeatsPost)
    {
        let mut page = answer.json();
        let posts = page["posts"].as_array_mut().unwrap();
        if posts.len() > 2 {
            match proxy.corruption {
                Corruption::DropsPost => drop(posts.remove(1)),
                _ => posts[1] = posts[0].clone(),
            }
        }
        body = page.to_string();
    }
    if proxy.corruption == Corruption::LosesPost
        && head.method == Method::POST
        && answer.status == 201
    {
        proxy.server.send(hyper::Request::delete(answer.header("location"))).await;
    }
    let mut response = (answer.status, body).into_response();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    if head.method != Method::GET {
        let token = format!("token-{}", proxy.tokens.fetch_add(1, Ordering::Relaxed));
        response.headers_mut().insert("tributary-freshness", token.parse().unwrap());
    } else if let Some(tokens) = head.headers.get("tributary-freshness") {
        proxy.sent_tokens.lock().unwrap().push(tokens.to_str().unwrap().to_owned());
    }
    response
}

/// The proxy's tokens mean nothing to the server, so pages must be fresh without them: no memory.
fn without_memory(data: &Path) -> Config {
    let budget = ("TRIBUTARY_MEMORY__BUDGET".to_owned(), "0".to_owned());
    Config::from_folder(data, [budget]).unwrap()
}

#[test]
fn a_server_that_returns_wrong_answers_voids_the_run() {
    let dir = scratch();
    let data = dir.path().join("data");
    make(&data);
    run(async {
        let config = without_memory(&data);
        let tributary = Tributary::open(&config).await.unwrap();
        for (corruption, mix, found) in [
            (Corruption::DropsPost, "read", "is missing although it was stored before"),
            (Corruption::RepeatsPost, "read", "is on the page twice"),
            (Corruption::KeepsDeleted, "twip", "although its deletion was acknowledged before"),
            (Corruption::LosesPost, "twip", "201"),
        ] {
            let (_proxy, url) = CorruptingProxy::start(tributary.clone(), corruption).await;
            let bench = move || bench(&url, &["--mix", mix, "--seconds", "30", "--seed", "1"]);
            let (code, text, error) = tokio::task::spawn_blocking(bench).await.unwrap();
            assert_eq!(code, 1, "{corruption:?}: {text}{error}");
            assert!(
                error.contains(found) || corruption == Corruption::LosesPost,
                "{corruption:?}: {error}"
            );
            assert!(error.contains("The run is void"), "{corruption:?}: {error}");
            println!("{corruption:?}: {error}");
        }
    });
}

#[test]
fn checked_reads_send_the_newest_tokens() {
    let dir = scratch();
    let data = dir.path().join("data");
    make(&data);
    run(async {
        let config = without_memory(&data);
        let tributary = Tributary::open(&config).await.unwrap();
        let (proxy, url) = CorruptingProxy::start(tributary, Corruption::None).await;
        let bench = move || bench(&url, &["--mix", "twip", "--seconds", "1"]);
        let (code, text, error) = tokio::task::spawn_blocking(bench).await.unwrap();
        assert_eq!(code, 0, "{text}{error}");
        let (given, sent_tokens) =
            (proxy.tokens.load(Ordering::Relaxed), proxy.sent_tokens.lock().unwrap());
        let last = sent_tokens.last().expect("no read sent a token");
        let numbers = last.split(", ").map(|token| token.strip_prefix("token-").unwrap());
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        // One token for each of 4 shards, and more only for concurrent writes (8 connections).
        assert!((1..=4 + 8).contains(&numbers.len()), "{last}");
        let newest = numbers.iter().max().copied().unwrap();
        assert!(newest + 20 > given, "{last} of {given}");
    });
}

#[test]
fn the_ceiling_serves_pages_and_the_ratio_compares_two_servers() {
    let ceiling = ["bench", "ceiling", "--listen", "127.0.0.1:0", "--bytes", "3000"];
    let serving = Serving::start(&mut tributary(&ceiling));
    let answer = serving.get("/v1/users/1/feed");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(body.len() > 2_900 && body.len() <= 3_000, "{}", body.len());
    let page: Value = serde_json::from_str(body).unwrap();
    assert_eq!(page["posts"].as_array().unwrap().len(), 20);

    let url = format!("http://{}", serving.address);
    let arguments = ["bench", "ratio", "--rounds", "3", "--seconds", "0.2", "--warmup", "0.1"];
    let mut ratio = tributary(&arguments);
    ratio.args(["--size", "xs", "--url", &url, "--url", &url, "--json"]);
    let (code, text, error) = output(&mut ratio);
    assert_eq!(code, 0, "{error}");
    let found: Value = serde_json::from_str(&text).unwrap();
    let ratio = found["ratio"]["median"].as_f64().unwrap();
    assert!((0.4..2.5).contains(&ratio), "{found:#}");
    assert!(found["a"]["answers_per_second"]["lowest"].as_f64() > Some(0.0));
}

#[test]
fn bad_arguments_and_unreachable_servers_are_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, error) = output(&mut tributary(&["bench", "ceiling", "--listen", &address]));
    assert!(code == 3 && error.contains("choose another address with --listen"), "{error}");
    drop(taken);
    let unreachable = format!("http://{address}");
    for (arguments, code, message) in [
        (vec!["--url", &unreachable], 1, "cannot reach"),
        (vec!["--url", "https://example.org"], 1, "only http://"),
        (vec!["--rate", "0"], 2, "a number from 0.1 to 10000000, or `max`"),
        (vec!["--server-pid", "4194305"], 1, "process 4194305 does not exist"),
        (vec!["--mix", "twip", "--check-every", "0"], 1, "--check-every must be above 0"),
    ] {
        let mut command = tributary(&["bench", "run", "--size", "xs", "--seconds", "1"]);
        let (found, _, error) = output(command.args(&arguments));
        assert!(found == code && error.contains(message), "{arguments:?}: {found} {error}");
    }
}

/// Users of the smallest data.
const USERS: u64 = 1_000;
const TRANSACTIONS: u64 = 3_000;

#[test]
fn memory_alone_is_measured_with_a_log_that_a_server_wrote() {
    let server = Database::start(Kind::MariaDb).unwrap();
    let mut statements = vec!["CREATE DATABASE recorded".into()];
    statements.extend(mysql_tables("recorded"));
    // The measured log is the next file, which starts after the tables' definitions.
    statements.push("FLUSH BINARY LOGS".into());
    let row =
        format!("9000000000000000000 + n, 1 + n * 7 % {USERS}, 'posted ✓', 1735689600000 + n");
    statements.push(format!(
        "BEGIN NOT ATOMIC FOR n IN 1..{TRANSACTIONS} DO INSERT INTO recorded.tweets VALUES ({row}); \
         END FOR; END"
    ));
    statements.push("INSERT INTO recorded.followers VALUES (1, 2), (1, 3), (2, 1)".into());
    statements.push("FLUSH BINARY LOGS".into());
    run(server.execute(&statements));
    let log = server.data_file("binlog.000002");
    let log = log.to_str().unwrap();
    let engine = |database: &str| {
        let command =
            ["bench", "engine", "--size", "xs", "--seconds", "0.05", "--json", "--log", log];
        output(tributary(&command).args(["--database", database]))
    };
    let (code, text, error) = engine("recorded");
    assert_eq!(code, 0, "{text}{error}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let kinds: Vec<&str> =
        report["pages"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    for kind in ["newest page", "empty poll", "page 10", "50 followees"] {
        assert!(kinds.contains(&kind), "{kind}: {report:#}");
    }
    for pages in report["pages"].as_array().unwrap() {
        let posts = pages["posts_mean"].as_f64().unwrap();
        assert_eq!(posts == 0.0, pages["name"] == "empty poll", "{pages:#}");
        assert!(pages["pages"].as_u64() > Some(50) && pages["p50_us"].as_f64() > Some(0.1));
    }
    for room in report["room"].as_array().unwrap() {
        assert!(room["bytes"].as_f64() > Some(4.0), "{room:#}");
    }
    let log = &report["log"];
    assert_eq!(log["transactions"], TRANSACTIONS + 1, "{log:#}");
    assert!(log["changes_per_transaction"].as_f64() > Some(0.5), "{log:#}");
    assert!(log["decoded_per_second"].as_f64() > log["applied_per_second"].as_f64(), "{log:#}");
    // The log has no rows of another database.
    let (code, _, error) = engine("other");
    assert!(code == 1 && error.contains("no transaction"), "{code}: {error}");
}
