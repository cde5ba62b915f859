//! Metrics as an operator sees them: names, labels, the dashboard and the alert rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use hyper::Request;
use tributary::Tributary;

use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::TestServer;
use crate::support::watch::until_warm;
use crate::support::world::World;
use crate::support::{root, run, user_id};

/// The metrics of a text in OpenMetrics format: each sample's value by its name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// The names that queries may use, from the lines that declare types.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let suffixes = |kind: &str| -> &[&str] {
        match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        }
    };
    let names = types.flat_map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        suffixes(kind).iter().map(move |suffix| format!("{name}{suffix}"))
    });
    names.collect()
}

/// The names of our metrics in a dashboard or in rules.
fn used(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = |word: &&str| {
        (word.starts_with("tributary_") || word.starts_with("http_server_")) && word.len() > 12
    };
    words.filter(ours).collect()
}

async fn warm_server() -> (TestServer, TestFleet) {
    let mut world = World::default();
    world.follow(1, 2);
    world.follow(1, 3);
    world.post(2, 1_650_000_000_000, 5);
    world.post(3, 1_650_000_000_500, 7);
    let fleet = TestFleet::new(Backend::MariaDb, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    let mut config = fleet.config_with_memory(16 << 20);
    config.write.enabled = true;
    tributary::internal::migrate(&config, drop).await.unwrap();
    let tributary = Tributary::open(&config).await.unwrap();
    until_warm(&tributary, user_id(1), 10).await;
    (TestServer::start(tributary).await, fleet)
}

#[test]
fn answers_are_counted_by_route_status_and_kind() {
    run(async {
        let (server, _fleet) = warm_server().await;
        // A page that is requested repeatedly is cached. On a busy machine some pages come from the
        // databases before.
        let (mut built, mut sources) = (0.0, BTreeSet::new());
        loop {
            let timing = server.get("/v1/users/1/feed").await.header("server-timing").to_owned();
            if timing == "page_cache" {
                break;
            }
            built += 1.0;
            sources.insert(timing.split(';').next().unwrap().to_owned());
            assert!(built < 1_000.0, "the page is never cached");
        }
        assert!(sources.contains("memory"), "{sources:?}");
        let written = server.post("/v1/users/2/posts", r#"{"content": "x"}"#, Some("key-1")).await;
        assert_eq!((written.status.as_u16(), written.header("server-timing")), (201, ""));
        server.post("/v1/users/2/posts", r#"{"content": "x"}"#, Some("key-1")).await;
        server.post("/v1/users/2/posts", r#"{"content": ""}"#, Some("key-2")).await;
        let token = written.header("tributary-freshness");
        let request = Request::get("/v1/users/1/feed?limit=7").header("tributary-freshness", token);
        assert!(server.send(request).await.status.is_success());
        server.get("/v1/users/1/following").await;
        server.get("/v1/users/x/feed").await;
        server.get("/nothing/42").await;

        let text = server.get("/metrics").await.body;
        let samples = samples(&text);
        let requests = |method: &str, route: &str, status: u16| {
            let labels = format!(
                "http_request_method=\"{method}\",http_route=\"{route}\",\
                 http_response_status_code=\"{status}\""
            );
            let name = format!("http_server_request_duration_seconds_count{{{labels}}}");
            samples.get(&name).copied().unwrap_or_default()
        };
        assert_eq!(requests("GET", "/v1/users/{user_id}/feed", 200), built + 2.0, "{text}");
        assert_eq!(requests("GET", "/v1/users/{user_id}/feed", 400), 1.0, "{text}");
        assert_eq!(requests("POST", "/v1/users/{user_id}/posts", 201), 2.0, "{text}");
        assert_eq!(requests("_OTHER", "", 404), 1.0, "{text}");
        let count = |name: &str| samples.get(name).copied().unwrap_or(-1.0);
        let pages = |source: &str| {
            count(&format!("tributary_pages_total{{source=\"{source}\",result=\"complete\"}}"))
        };
        assert_eq!(pages("page_cache"), 1.0, "{text}");
        assert_eq!(pages("memory") + pages("database"), built + 1.0, "{text}");
        assert_eq!(count("tributary_tokens_total{result=\"reached\"}"), 1.0, "{text}");
        let posts = |outcome: &str| {
            let labels = format!("operation=\"post\",outcome=\"{outcome}\"");
            count(&format!("tributary_writes_total{{{labels}}}"))
        };
        assert_eq!([posts("stored"), posts("replayed"), posts("rejected")], [1.0; 3], "{text}");
        assert_eq!(count("tributary_shards{state=\"ok\"}"), 4.0, "{text}");
        assert_eq!(count("tributary_server_in_service{server=\"db0\"}"), 1.0, "{text}");
        assert!(count("tributary_server_served_total{server=\"db2\"}") > 0.0, "{text}");
        assert!(
            (0.0..60.0).contains(&count("tributary_memory_lag_seconds{log=\"db0\"}")),
            "{text}"
        );
        assert!(count("tributary_memory_lag_bytes{log=\"db0\"}") >= 0.0, "{text}");

        every_name_exists(&names(&text));
        every_detail_is_shown(&server).await;
        // No label comes from a path, a key or a text.
        for word in ["/nothing/42", "key-1", "/users/1"] {
            assert!(!text.contains(word), "{text}");
        }
    });
}

/// A server process with JSON logs at the finest level. Posts, credentials and control characters
/// of requests are not in its log, and a failed request is in it once, with its trace id.
/// `/readyz?verbose` shows servers, tasks, and how far memory is in each log.
async fn every_detail_is_shown(server: &TestServer) {
    let plain = server.get("/readyz").await.json();
    assert!(plain["servers"].is_null() && plain["memory"][0]["news"]["from"].is_null(), "{plain}");
    let ready = server.get("/readyz?verbose").await.json();
    assert_eq!(ready["servers"][0]["in_service"], true, "{ready}");
    let tasks = ready["tasks"].as_array().unwrap();
    assert!(tasks.iter().any(|task| task["task"] == "feed" && task["running"] == true), "{ready}");
    // The server with the post.
    let log = &ready["memory"][2];
    assert!(log["position"].as_str().unwrap().contains(':'), "{ready}");
    assert!(log["lag_bytes"].is_u64() && log["lag_ms"].is_i64(), "{ready}");
    assert!(log["news"]["changes"].as_u64().unwrap() >= 1, "{ready}");
    assert!(log["news"]["bytes"].as_u64().unwrap() >= 1, "{ready}");
    assert!(log["news"]["from"].is_string() && log["news"]["seconds"].is_u64(), "{ready}");
}

/// The dashboard, the rules and the documentation name existing metrics only, and the documentation
/// names all of them.
fn every_name_exists(names: &BTreeSet<String>) {
    for file in ["packaging/grafana-dashboard.json", "packaging/alerts.yaml"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let used = used(&text);
        assert!(used.len() > 5, "{file}");
        for name in used {
            assert!(names.contains(name), "{file} uses {name}, which does not exist: {names:#?}");
        }
    }
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for name in names {
        let short = name.trim_start_matches("tributary_").trim_start_matches("memory_");
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| short.strip_suffix(end));
        let short = base.unwrap_or(short);
        let is_described = [
            format!("`{short}`"),
            format!("`{short}{{"),
            format!("_{short}`"),
            format!("_{short}{{"),
        ]
        .iter()
        .any(|form| text.contains(form));
        assert!(is_described, "docs/metrics.md does not describe {name}");
    }
}
