//! `explain=1`: the page is the same, and the explanation says where it comes from. `rows` checks
//! the numbers against the counters of real servers.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};
use tributary::Tributary;
use tributary_server::Scope;

use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::http::{TestResponse, TestServer};
use crate::support::run;
use crate::support::world::World;

const READER: u64 = 1_000;
const FEED: &str = "/v1/users/1000/feed";
/// A user without followees.
const LONER: &str = "/v1/users/7/feed";
const WAIT_MAX: Duration = Duration::from_secs(60);

fn world() -> World {
    let mut world = World::default();
    for author in 1..=30_u64 {
        // The reader has no followees on shard 3.
        if author % SHARDS != 3 {
            world.follow(READER, author);
        }
        for n in 0..12 {
            let time = 1_650_000_000_000 + i64::try_from((author * 7 + n * 11) % 97).unwrap();
            world.post(author, time, author * 1_000 + n);
        }
    }
    world
}

/// The page and its explanation.
fn split(answer: &TestResponse) -> (Value, Value) {
    let mut page = answer.json();
    let explain = page.as_object_mut().unwrap().remove("explain").unwrap();
    (page, explain)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn sum(values: &Value, field: &str) -> u64 {
    list(values).iter().map(|value| number(&value[field])).sum()
}

/// The parts of an explanation agree with each other and with the page.
fn check(page: &Value, explain: &Value) {
    let (shards, totals, merge) = (&explain["shards"], &explain["totals"], &explain["merge"]);
    assert_eq!(sum(shards, "posts"), list(&page["posts"]).len() as u64, "{explain:#}");
    assert_eq!(sum(shards, "posts"), number(&merge["posts"]));
    assert_eq!(sum(shards, "posts_from_memory"), number(&merge["from_memory"]));
    // Each time is rounded down.
    let (steps, total) = (sum(&explain["steps"], "us"), number(&totals["us"]));
    assert!(steps <= total && total <= steps + list(&explain["steps"]).len() as u64);
    for field in ["statements", "rows"] {
        let waves = list(&explain["waves"]).iter().map(|wave| sum(&wave["shards"], field));
        assert_eq!(waves.sum::<u64>(), number(&totals[field]));
        assert_eq!(sum(shards, field), number(&totals[field]));
    }
    for part in list(shards) {
        assert_ne!(part["why"], "");
        let is_answered = number(&part["statements"]) > 0;
        let is_queried = is_answered || part["state"] == "missing";
        assert_eq!(part["queried"], is_queried, "{part:#}");
        let known = number(&part["in_memory"]);
        assert!(known <= number(&part["followees"]) && number(&part["too_short"]) <= known);
    }
}

async fn get(server: &TestServer, path: &str, key: &str) -> TestResponse {
    server.get_as(path, key).await
}

/// Walks down the timeline: every page is the same with and without an explanation.
async fn walk(server: &TestServer, key: &str) {
    let mut path = format!("{FEED}?limit=9");
    loop {
        let page = get(server, &path, key).await.json();
        for query in ["explain=1", "explain=1&memory=off"] {
            let answer = get(server, &format!("{path}&{query}"), key).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let (same, explain) = split(&answer);
            assert_eq!(same, page, "{query}");
            check(&page, &explain);
        }
        let above = format!("{FEED}?limit=9&cursor={}&explain=1", page["prev"].as_str().unwrap());
        let (page_above, explain) = split(&get(server, &above, key).await);
        check(&page_above, &explain);
        let Some(next) = page["next"].as_str() else { return };
        path = format!("{FEED}?limit=9&cursor={next}");
    }
}

/// Requests the newest page, also without an explanation, until it comes from `source`.
async fn until_from(server: &TestServer, key: &str, source: &str) -> Value {
    let start = Instant::now();
    loop {
        get(server, FEED, key).await;
        let (page, explain) = split(&get(server, &format!("{FEED}?explain=1"), key).await);
        check(&page, &explain);
        if explain["from"] == source {
            return explain;
        }
        assert!(start.elapsed() < WAIT_MAX, "not from {source}: {explain:#}");
    }
}

#[test]
fn an_explained_page_is_the_same_page_and_says_where_it_comes_from() {
    let credentials = TestCredentials::new();
    let key = credentials.key(&[Scope::ActAsUser, Scope::Explain]);
    let operator = credentials.key(&[Scope::Explain]);
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(&world()).await;
        let tributary = Tributary::open(&fleet.config_with_memory(32 << 20)).await.unwrap();
        let server = TestServer::start_with(tributary, credentials.access()).await;

        walk(&server, &key).await;
        let cached = until_from(&server, &key, "page_cache").await;
        assert_eq!(cached["page_cache"]["hit"], true);
        assert_eq!(cached["memory"]["search"], "newest_times");
        assert_eq!((&cached["totals"]["statements"], &cached["waves"]), (&json!(0), &json!([])));
        assert_eq!(cached["followees"], 23);
        assert_eq!(cached["shards"][3]["why"], "the reader has no followees on this shard");
        assert_eq!(cached["shards"][0]["why"], "memory has all that the page needs");
        assert_eq!(cached["shards"][0]["log"]["memory"], "fresh");
        assert!(cached["shards"][0]["log"]["position"].is_string(), "{cached:#}");
        walk(&server, &key).await;

        let cold = get(&server, &format!("{FEED}?explain=1&memory=off"), &key).await;
        let (_, explain) = split(&cold);
        assert_eq!(explain["from"], "databases");
        assert_eq!(explain["waves"][0]["reads"], "follow_list");
        assert_eq!(explain["reader_shard"], "shard-0");
        assert!(explain.get("page_cache").is_none() && explain["memory"].is_null());
        assert_eq!(explain["shards"][1]["why"], "the request turned memory off");
        assert_eq!(explain["shards"][1]["log"]["memory"], "unused");
        assert_eq!(explain["shards"][3]["queried"], false);
        let (page, explain) = split(&get(&server, &format!("{LONER}?explain=1"), &key).await);
        check(&page, &explain);
        assert_eq!(explain["followees"], 0);
        outage(&server, (&operator, &credentials.token(READER)), &fleet).await;
    });
}

/// Missing shards are explained, also on the error of a request for a complete page. A user learns
/// the kind of a failure, an operator the reason too.
async fn outage(server: &TestServer, (operator, user): (&str, &str), fleet: &TestFleet) {
    let file = Connection::open(fleet.dir.path().join("data/shard-1.sqlite")).unwrap();
    file.execute_batch("ALTER TABLE tweets RENAME TO away").unwrap();
    let path = format!("{FEED}?explain=1&memory=off");
    for (credential, sees) in [(operator, true), (user, false)] {
        let (page, explain) = split(&get(server, &path, credential).await);
        check(&page, &explain);
        assert_eq!(page["missing_shards"], json!(["shard-1"]));
        let refused = get(server, &format!("{path}&require=complete"), credential).await;
        assert_eq!(refused.problem(), (503, "incomplete".into()));
        for explain in [&explain, &refused.json()["explain"]] {
            assert_eq!(explain["shards"][1]["state"], "missing");
            assert_eq!(explain["shards"][2]["state"], "complete");
            // After the waves of the follow list and of blocks.
            let failed = &list(&explain["waves"][2]["shards"])[1];
            assert!(failed["error"].is_string(), "{explain:#}");
            assert_eq!(failed.get("reason").is_some(), sees);
        }
    }
}

#[test]
fn parameters_of_explanations_are_checked() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let server = TestServer::start(fleet.open().await).await;
        for query in
            ["explain=0", "explain", "explain=1&memory=on", "memory=off", "explain=1&explain=1"]
        {
            let answer = server.get(&format!("{FEED}?{query}")).await;
            assert_eq!(answer.problem(), (400, "invalid_query".into()), "{query}");
        }
        let (page, explain) = split(&server.get(&format!("{FEED}?explain=1")).await);
        assert_eq!(explain["shards"][1]["why"], "the reader has no followees on this shard");
        check(&page, &explain);
    });
}
