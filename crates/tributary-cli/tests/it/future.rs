//! `timeline.future`: posts that are dated more than 60 s ahead are hidden from home timelines
//! until their time comes, and then they are on the page and in the news, once each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use tributary::config::Future;
use tributary::internal::now_ms;
use tributary::news::{NewsEvent, NewsRequest};
use tributary::{Freshness, Limit, Page, PageRequest, Tributary, UserId};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::{Watch, until_followed, until_warm};
use crate::support::{run, user_id};

const READER: UserId = user_id(100);
/// An author of ordinary posts, one with more posts of the next century than a tail holds, and
/// authors of posts whose time comes soon.
const ORDINARY: UserId = user_id(1);
const NEXT_CENTURY: UserId = user_id(2);
const SOON: [UserId; 2] = [user_id(3), user_id(4)];
const AHEAD_MS: i64 = 60_000;
const CENTURY_MS: i64 = 4_102_444_800_000;
const MEMORY: usize = 64 << 20;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Executes SQL on the shard of a user, as another program would.
async fn execute(fleet: &TestFleet, user: UserId, sql: &str) {
    let shard = user.get() % SHARDS;
    match fleet.databases.get(usize::try_from(shard).unwrap()) {
        Some((server, database)) => {
            let mut connection = server.connect().await;
            connection.query_drop(sql.replace("D.", &format!("{database}."))).await.unwrap();
        }
        None => {
            let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
            let connection = rusqlite::Connection::open(file).unwrap();
            connection.busy_timeout(WAIT_MAX).unwrap();
            connection.execute_batch(&sql.replace("D.", "")).unwrap();
        }
    }
}

/// Stores posts with these ids, all at the same time.
async fn store(fleet: &TestFleet, author: UserId, ids: std::ops::Range<u64>, time: i64) {
    let rows: Vec<String> =
        ids.map(|id| format!("({id}, {author}, 'post {id}', {time})")).collect();
    let columns = "(tweet_id, user_id, content, timestamp)";
    let sql = format!("INSERT INTO D.tweets {columns} VALUES {}", rows.join(","));
    execute(fleet, author, &sql).await;
}

fn ids(page: &Page) -> BTreeSet<u64> {
    page.posts.iter().map(|post| post.key.post.get()).collect()
}

async fn newest(node: &Tributary, token: &Freshness) -> Page {
    let request = PageRequest::default().limit(Limit::new(100).unwrap()).at_least(token.clone());
    let page = node.home_timeline(READER, &request).await.unwrap();
    assert!(page.is_complete() && page.fresh_enough);
    page
}

fn since(token: &Freshness) -> NewsRequest {
    NewsRequest::since(token.clone())
}

/// Asks for news since a token until `count` posts have come, each once. Returns their ids in the
/// order of arrival, and the token after them.
async fn posts_since(node: &Tributary, token: &Freshness, count: usize) -> (Vec<u64>, Freshness) {
    let (start, mut token, mut ids) = (Instant::now(), token.clone(), Vec::new());
    loop {
        let request = NewsRequest::since(token).limit(Limit::new(7).unwrap());
        let news = node.news(READER, &request).await.unwrap();
        assert!(!news.gap, "after {ids:?}");
        for event in &news.events {
            let NewsEvent::Post(post) = event else { panic!("{event:?}") };
            ids.push(post.key().post.get());
        }
        // A client keeps a token as text.
        token = news.freshness.to_string().parse().unwrap();
        if ids.len() >= count && !news.more {
            return (ids, token);
        }
        assert!(start.elapsed() < WAIT_MAX, "{ids:?}");
        let until_due = news.next_due_ms.map_or(50, |at| (at - now_ms()).clamp(0, 50));
        sleep(Duration::from_millis(until_due.unsigned_abs())).await;
    }
}

/// Follows all authors, and stores their first posts.
async fn prepare(fleet: &TestFleet) {
    let all = [ORDINARY, NEXT_CENTURY, SOON[0], SOON[1]];
    let rows = all.map(|user| format!("({READER}, {user})")).join(",");
    execute(fleet, READER, &format!("INSERT INTO D.followers VALUES {rows}")).await;
    store(fleet, ORDINARY, 1..6, 1_000).await;
    store(fleet, NEXT_CENTURY, 10..12, 2_000).await;
    store(fleet, NEXT_CENTURY, 1_000..2_100, CENTURY_MS).await;
}

async fn check(backend: Backend, fleet: &TestFleet) {
    let config = fleet.config_with_memory(MEMORY);
    let node = Tributary::open(&config).await.unwrap();
    prepare(fleet).await;
    let cold = Tributary::open_read_only(&fleet.config()).await.unwrap();
    Watch::start(&node).await.until_heads_known().await;
    until_warm(&node, READER, 100).await;
    until_followed(&node, READER, &Freshness::default()).await;
    let old: BTreeSet<u64> = (1..6).chain(10..12).collect();
    // The time of these posts comes in four seconds: many with one time, and one a bit later.
    let due = now_ms() + AHEAD_MS + 4_000;
    store(fleet, SOON[0], 101..131, due).await;
    store(fleet, SOON[1], 131..133, due + 100).await;
    let mut token = Freshness::default();
    for author in SOON {
        token.merge(&node.freshness(author).await);
    }
    // Without memory, and from memory, the page has none of the hidden posts.
    let (page, from_databases) = (newest(&node, &token).await, newest(&cold, &token).await);
    let read_in_time = now_ms() < due - AHEAD_MS;
    if read_in_time {
        assert_eq!((ids(&page), ids(&from_databases)), (old.clone(), old.clone()), "{backend:?}");
        let above = PageRequest::default().from(page.prev.clone());
        let above = node.home_timeline(READER, &above).await.unwrap();
        assert!(above.posts.is_empty() && above.next.is_some() || now_ms() >= due - AHEAD_MS);
    }
    let own = node.author_timeline(NEXT_CENTURY, &PageRequest::default()).await.unwrap();
    assert!(own.posts.iter().all(|post| post.key.time == CENTURY_MS) && own.posts.len() == 20);
    // One of them is deleted before its time, and one from the past moves to the future.
    execute(fleet, SOON[1], "DELETE FROM D.tweets WHERE tweet_id = 132").await;
    let sql = format!("UPDATE D.tweets SET timestamp = {} WHERE tweet_id = 11", due + 200);
    execute(fleet, NEXT_CENTURY, &sql).await;
    let mut changed = node.freshness(SOON[1]).await;
    changed.merge(&node.freshness(NEXT_CENTURY).await);
    newest(&node, &changed).await;
    // Else the post may be due before memory applies its deletion.
    let applied_in_time = now_ms() < due - AHEAD_MS;

    let start = Instant::now();
    let first = loop {
        let news = node.news(READER, &since(&page.freshness)).await.unwrap();
        assert!(!news.gap);
        if !news.events.is_empty() {
            break news;
        }
        assert!(start.elapsed() < WAIT_MAX);
        sleep(Duration::from_millis(5)).await;
    };
    if applied_in_time && now_ms() < due - AHEAD_MS {
        // The reader has seen the post that moved, and another client may have seen the other one.
        let gone = first.events.iter().map(|event| match event {
            NewsEvent::Delete { post, .. } => post.get(),
            other => panic!("{other:?}"),
        });
        assert_eq!(gone.collect::<BTreeSet<_>>(), BTreeSet::from([11, 132]));
        let expected: Vec<u64> = (101..132).chain([11]).collect();
        let (received, last) = posts_since(&node, &first.freshness, expected.len()).await;
        assert_eq!(received, expected, "{backend:?}");
        // A client that resumes later with the older token gets the same.
        let (received, _) = posts_since(&node, &first.freshness, expected.len()).await;
        assert_eq!(received, expected, "{backend:?}");
        let (count, news) = node.count_new_posts(READER, &since(&first.freshness)).await.unwrap();
        assert_eq!((count, news.gap), (expected.len(), false));
        let (count, _) = node.count_new_posts(READER, &since(&last)).await.unwrap();
        assert_eq!(count, 0);
    }
    sleep(Duration::from_millis((due + 300 - AHEAD_MS - now_ms()).max(0).unsigned_abs())).await;
    let all: BTreeSet<u64> = old.into_iter().chain(101..132).collect();
    for node in [&node, &cold] {
        assert_eq!(ids(&newest(node, &Freshness::default()).await), all, "{backend:?}");
    }
    drop((node, cold));
    restart(fleet, &all).await;
}

/// After a restart, memory finds the hidden posts that it has not seen in the log.
async fn restart(fleet: &TestFleet, before: &BTreeSet<u64>) {
    let due = now_ms() + AHEAD_MS + 5_000;
    store(fleet, SOON[1], 140..142, due).await;
    let mut config = fleet.config_with_memory(MEMORY);
    let node = Tributary::open(&config).await.unwrap();
    Watch::start(&node).await.until_heads_known().await;
    until_warm(&node, READER, 100).await;
    until_followed(&node, READER, &Freshness::default()).await;
    let page = newest(&node, &Freshness::default()).await;
    let hidden: Vec<u64> = (140..142).filter(|id| !ids(&page).contains(id)).collect();
    let (received, _) = posts_since(&node, &page.freshness, hidden.len()).await;
    assert_eq!(received, hidden);
    node.close().await;
    // Everything is shown if the configuration says so.
    config.timeline.future = Future::Show;
    let node = Tributary::open(&config).await.unwrap();
    let page = newest(&node, &Freshness::default()).await;
    assert!(page.posts.iter().all(|post| post.key.time == CENTURY_MS) && !before.is_empty());
    node.close().await;
}

#[test]
fn posts_of_the_future_become_visible_when_their_time_comes() {
    run(async {
        for (backend, fleet) in every_backend().await {
            check(backend, &fleet).await;
        }
    });
}

/// Stores a post that is hidden, and reads a page before it is due. Returns the post, its time and
/// the page's token.
async fn store_and_read_in_time(node: &Tributary, fleet: &TestFleet) -> (u64, i64, Freshness) {
    let mut margin = 1_500;
    for id in 101.. {
        let due = now_ms() + AHEAD_MS + margin;
        store(fleet, SOON[0], id..id + 1, due).await;
        let token = node.freshness(SOON[0]).await;
        let page = newest(node, &token).await;
        if now_ms() < due - AHEAD_MS {
            return (id, due, page.freshness);
        }
        margin *= 2;
    }
    unreachable!()
}

#[test]
fn a_cached_page_ends_and_subscribers_wake_when_a_hidden_post_is_due() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let node = Tributary::open(&fleet.config_with_memory(MEMORY)).await.unwrap();
        prepare(&fleet).await;
        let watch = Watch::start(&node).await;
        watch.until_heads_known().await;
        let server = TestServer::start(node.clone()).await;
        until_warm(&node, READER, 100).await;
        until_followed(&node, READER, &Freshness::default()).await;
        let (id, due, start) = store_and_read_in_time(&node, &fleet).await;
        let (id_text, mut live) = (id.to_string(), node.subscribe(READER, Some(start)).unwrap());
        until_warm(&node, READER, 20).await;
        let start = Instant::now();
        let mut hits = 0;
        loop {
            let page = server.get(&format!("/v1/users/{READER}/feed")).await.json();
            if page["posts"][0]["post_id"].as_str() == Some(id_text.as_str()) {
                break;
            }
            assert!(start.elapsed() < WAIT_MAX);
            hits = watch.counters().await["page_cache_hits"];
            sleep(Duration::from_millis(20)).await;
        }
        assert!(now_ms() >= due - AHEAD_MS);
        println!("{hits} pages from the cache before the post was due");
        // Subscribers have it, too, with the token to continue from.
        let is_due = |event: &NewsEvent| {
            let NewsEvent::Post(post) = event else { return false };
            post.key().post.get() == id
        };
        let token = loop {
            let news = node.next_news(&mut live, WAIT_MAX).await.unwrap();
            assert!(start.elapsed() < WAIT_MAX && !news.gap);
            assert_eq!(news.events.len(), news.tokens.len(), "{news:?}");
            if let Some(place) = news.events.iter().position(is_due) {
                break news.tokens[place].clone();
            }
        };
        let after = node.news(READER, &since(&token)).await.unwrap();
        assert!(!after.gap && !after.events.iter().any(is_due), "{after:?}");
    });
}
