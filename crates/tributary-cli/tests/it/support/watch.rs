//! Watches memory from outside by `GET /metrics`, and reads pages until memory has them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hyper::{Request, StatusCode};
use serde_json::Value;
use tributary::news::NewsRequest;
use tributary::{Freshness, Limit, Page, PageRequest, Post, Tributary, UserId};

use super::http::{TestResponse, TestServer};

/// The longest wait for a condition; the test fails after it.
const WAIT_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// An HTTP server on top of one `Tributary`, for its metrics and its feed.
pub(crate) struct Watch(TestServer);

impl Watch {
    pub(crate) async fn start(tributary: &Tributary) -> Self {
        Self(TestServer::start(tributary.clone()).await)
    }

    /// Every counter and gauge, summed over the logs, without fractions. `tributary_memory_` and
    /// `_total` are cut from the names.
    pub(crate) async fn counters(&self) -> BTreeMap<String, u64> {
        let body = self.0.get("/metrics").await.body;
        let types: Vec<&str> = body.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let once: BTreeSet<&str> = types.iter().copied().collect();
        assert_eq!(types.len(), once.len(), "a metric is declared twice: {types:?}");
        let mut counters = BTreeMap::new();
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            let name = name.strip_prefix("tributary_memory_").unwrap_or(name);
            let name = name.strip_suffix("_total").unwrap_or(name).to_owned();
            let whole = value.parse::<f64>().unwrap().trunc();
            *counters.entry(name).or_default() += format!("{whole:.0}").parse::<u64>().unwrap();
        }
        counters
    }

    async fn feed(&self, reader: UserId, token: &Freshness, query: &str) -> TestResponse {
        let path = format!("/v1/users/{reader}/feed?{query}");
        let header = self.0.cursor_keys.seal_freshness(token);
        self.0.send(Request::get(path).header("tributary-freshness", header)).await
    }

    /// Asserts that the reader's newest page is `expected`, and that the page above it is empty.
    /// Requests both three times: the second response may be cached, the third a page cache hit.
    pub(crate) async fn check_newest_page(
        &self,
        reader: UserId,
        token: &Freshness,
        limit: Limit,
        expected: &Page,
    ) {
        for _ in 0..3 {
            let answer = self.feed(reader, token, &format!("limit={}", limit.get())).await;
            let page = answer.json();
            let post = |post: &Post| {
                [post.key.post.to_string(), post.key.author.to_string(), post.content.clone()]
            };
            let expected_posts: Vec<_> = expected.posts.iter().map(post).collect();
            assert_eq!(posts(&page), expected_posts, "reader {reader}");
            assert_eq!(page["complete"], true);
            let sealed = |cursor| self.0.cursor_keys.seal_home_cursor(reader, cursor);
            let next = expected.next.as_ref().map(sealed).unwrap_or_default();
            let prev = sealed(&expected.prev);
            assert_eq!([text(&page["next"]), text(&page["prev"])], [next, prev.clone()]);
            assert!(answer.headers["link"].to_str().unwrap().contains(&prev));
            assert!(!answer.headers.contains_key("tributary-freshness-lost"));
            let above = format!("cursor={prev}");
            let nothing = self.feed(reader, token, &above).await.json();
            assert_eq!(nothing["posts"], serde_json::json!([]), "reader {reader}");
            assert_eq!(nothing["prev"], page["prev"]);
            assert_eq!(nothing["next"].is_null(), expected.posts.is_empty());
        }
    }

    /// Id, author and text of each post on the reader's newest page; `None` if the server cannot
    /// promise that the page is complete and as fresh as `token`.
    pub(crate) async fn promised_posts(
        &self,
        reader: UserId,
        token: &Freshness,
        limit: Limit,
    ) -> Option<Vec<[String; 3]>> {
        let query = format!("limit={}&require=complete", limit.get());
        let answer = self.feed(reader, token, &query).await;
        (answer.status == StatusCode::OK).then(|| posts(&answer.json()))
    }

    /// Waits until the counters satisfy `done`; `what` names the condition in the message.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&BTreeMap<String, u64>) -> bool) {
        let start = Instant::now();
        loop {
            let counters = self.counters().await;
            if done(&counters) {
                return;
            }
            assert!(start.elapsed() < WAIT_MAX, "still not {what}: {counters:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every log is followed and the heads of all authors are loaded.
    pub(crate) async fn until_heads_known(&self) {
        let body = self.0.get("/metrics").await.body;
        let logs = body.lines().filter(|line| line.starts_with("tributary_memory_fresh{")).count();
        let logs = u64::try_from(logs).unwrap();
        assert!(logs > 0, "{body}");
        let known = |counters: &BTreeMap<String, u64>| {
            counters["fresh"] == logs && counters["heads_known"] == logs
        };
        self.until("ready", known).await;
    }

    /// Waits until the audit has compared `more` further entries with the database.
    pub(crate) async fn until_audited(&self, more: u64) {
        let before = self.counters().await["audited"];
        self.until("audited", |counters| counters["audited"] >= before + more).await;
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn posts(page: &Value) -> Vec<[String; 3]> {
    let post = |post: &Value| ["post_id", "author_id", "content"].map(|name| text(&post[name]));
    page["posts"].as_array().unwrap().iter().map(post).collect()
}

/// A request for the newest page, at least as fresh as `token`.
pub(crate) fn at_least(token: &Freshness, limit: Limit) -> PageRequest {
    PageRequest::default().limit(limit).at_least(token.clone())
}

/// Reads the newest page until all of its posts come from memory. Its follow list may still come
/// from a shard.
pub(crate) async fn until_warm(tributary: &Tributary, reader: UserId, limit: u8) -> Page {
    let start = Instant::now();
    let request = PageRequest::default().limit(Limit::new(limit).unwrap());
    loop {
        let page = tributary.home_timeline(reader, &request).await.unwrap();
        if page.waves == 0 {
            return page;
        }
        assert!(start.elapsed() < WAIT_MAX, "reader {reader} is still not read from memory");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the newest page until nothing is new since it, and returns its token. A page of the
/// databases may have no known position while memory begins: the news since it are a gap then, or
/// repeat earlier changes.
pub(crate) async fn until_followed(
    tributary: &Tributary,
    reader: UserId,
    token: &Freshness,
) -> Freshness {
    let start = Instant::now();
    let request = PageRequest::default().at_least(token.clone());
    loop {
        let since = tributary.home_timeline(reader, &request).await.unwrap().freshness;
        let request = NewsRequest::since(since.clone()).at_least(since.clone());
        let news = tributary.news(reader, &request).await.unwrap();
        let is_known = !news.gap && !news.freshness_lost && news.missing.is_empty();
        if is_known && news.events.is_empty() {
            return since;
        }
        assert!(start.elapsed() < WAIT_MAX, "reader {reader} has no position yet: {news:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
