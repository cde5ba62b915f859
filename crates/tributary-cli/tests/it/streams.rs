//! Streams whose clients do not read, are cut while many posts are due, or use TLS: each of them
//! has every change once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;
use tributary::internal::now_ms;
use tributary::{Freshness, PageRequest, Tributary, UserId};

use crate::news::execute;
use crate::support::events::{Stream, WAIT_MAX, path};
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::http::TestServer;
use crate::support::watch::{Watch, until_warm};
use crate::support::{run, user_id};

const READER: UserId = user_id(7);
const AUTHOR: UserId = user_id(9);
const AHEAD_MS: i64 = 60_000;

/// A server whose reader follows the author.
async fn serve() -> (TestFleet, Tributary, TestServer) {
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    let mut config = fleet.config_with_memory(256 << 20);
    config.memory.news = Some(128 << 20);
    config.write.enabled = true;
    let tributary = Tributary::open(&config).await.unwrap();
    let server = TestServer::start(tributary.clone()).await;
    Watch::start(&tributary).await.until_heads_known().await;
    tributary.follow(READER, AUTHOR).await.unwrap();
    (fleet, tributary, server)
}

/// Stores posts of the author in one transaction, all with this time and a text of this length.
async fn store(fleet: &TestFleet, ids: std::ops::Range<u64>, time: i64, bytes: usize) {
    let rows: Vec<String> =
        ids.map(|id| format!("({id}, {AUTHOR}, '{}', {time})", "x".repeat(bytes))).collect();
    let columns = "(tweet_id, user_id, content, timestamp)";
    let sql = format!("INSERT INTO D.tweets {columns} VALUES {}", rows.join(","));
    execute(fleet, AUTHOR.get() % SHARDS, vec![sql], Duration::ZERO).await;
}

/// The token of the first page that has the follow, as a client sends it.
async fn token(tributary: &Tributary, server: &TestServer) -> String {
    let at_least = tributary.freshness(READER).await;
    until_warm(tributary, READER, 20).await;
    let page = PageRequest::default().at_least(at_least);
    let page = tributary.home_timeline(READER, &page).await.unwrap();
    server.cursor_keys.seal_freshness(&page.freshness)
}

/// Reads the posts of a stream, at most `max`. Each of them is new. Returns the last id.
async fn read(
    server: &TestServer,
    id: &str,
    (received, max): (&mut BTreeSet<u64>, usize),
) -> String {
    let headers = [("last-event-id", id)];
    let mut stream = Stream::open(&server.address.to_string(), &path(READER), &headers).await;
    let mut id = id.to_owned();
    for _ in 0..max {
        let event = stream.event().await;
        assert_eq!(event.name, "post", "{event:?}");
        take(&event.json(), received);
        id = event.id;
    }
    id
}

fn take(event: &serde_json::Value, received: &mut BTreeSet<u64>) {
    let post = event["post"]["post_id"].as_str().unwrap().parse().unwrap();
    assert!(received.insert(post), "{post} comes twice");
}

/// Opens a stream with a small receive buffer and does not read it.
async fn mute(server: &TestServer, id: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut socket = socket.connect(server.address).await.unwrap();
    let head =
        format!("GET {} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {id}\r\n\r\n", path(READER));
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_loses_nothing() {
    run(async {
        let (fleet, tributary, server) = serve().await;
        let since = token(&tributary, &server).await;
        let socket = mute(&server, &since).await;
        // More than the buffers of the system hold.
        let count = 1_000;
        for first in (0..count).step_by(100) {
            store(&fleet, first..first + 100, 1_000, 10_000).await;
            // A log that lags by many bytes delivers only the authors, which is a gap.
            let stored = PageRequest::default().at_least(tributary.freshness(AUTHOR).await);
            tributary.home_timeline(READER, &stored).await.unwrap();
        }
        let start = Instant::now();
        let ended = "tributary_streams_ended_total{reason=\"client\"} 1\n";
        loop {
            let metrics = server.get("/metrics").await.body;
            if metrics.contains(ended) && metrics.contains("\ntributary_streams 0\n") {
                break;
            }
            assert!(start.elapsed() < WAIT_MAX, "{metrics}");
            sleep(Duration::from_millis(200)).await;
        }
        // The client has received some posts before it was disconnected.
        let (mut received, mut id) = (BTreeSet::new(), since);
        let mut bytes = Vec::new();
        while let Ok(1..) = socket.try_read_buf(&mut bytes) {}
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        for block in whole.split("\n\n").filter(|block| block.contains("event: post")) {
            let event =
                crate::support::events::Event::parse(&block[block.find("event").unwrap()..]);
            take(&event.json(), &mut received);
            id = event.id;
        }
        println!("{} of {count} posts came before the end", received.len());
        let left = usize::try_from(count).unwrap() - received.len();
        assert!(left > 0, "the buffers of the system hold everything");
        read(&server, &id, (&mut received, left)).await;
        assert_eq!(received, (0..count).collect());
    });
}

#[test]
fn a_stream_of_many_due_posts_is_cut_and_continues() {
    run(async {
        let (fleet, tributary, server) = serve().await;
        let mut margin = 2_000;
        // The client has a page from before the posts are due.
        let (since, due) = loop {
            let due = now_ms() + AHEAD_MS + margin;
            store(&fleet, 1..251, due, 10).await;
            let since = token(&tributary, &server).await;
            if now_ms() < due - AHEAD_MS {
                break (since, due);
            }
            margin *= 2;
            let gone = "DELETE FROM D.tweets WHERE tweet_id > 0".to_owned();
            execute(&fleet, AUTHOR.get() % SHARDS, vec![gone], Duration::ZERO).await;
        };
        // They become due while others are written.
        store(&fleet, 1_000..1_020, 5_000, 10).await;
        let until_due = (due - AHEAD_MS + 50 - now_ms()).max(0).unsigned_abs();
        sleep(Duration::from_millis(until_due)).await;
        store(&fleet, 1_020..1_040, now_ms(), 10).await;
        let (mut received, mut id) = (BTreeSet::new(), since);
        for max in [30, 1, 150, 40, 60, 9] {
            id = read(&server, &id, (&mut received, max)).await;
        }
        assert_eq!(received, (1..251).chain(1_000..1_040).collect());
        // Nothing comes twice afterwards.
        store(&fleet, 2_000..2_001, 1, 10).await;
        read(&server, &id, (&mut received, 1)).await;
        assert!(received.contains(&2_000));
    });
}

/// Garbage and tokens of other servers are refused, and a token without the followed logs is a gap.
#[test]
fn tokens_of_other_servers_never_pass_for_own_ones() {
    run(async {
        let (_fleet, tributary, server) = serve().await;
        let since = token(&tributary, &server).await;
        let (_other_fleet, other, other_server) = serve().await;
        let foreign = token(&other, &other_server).await;
        let mut cut = since.clone();
        cut.pop();
        for wrong in ["x", "%00", "null", foreign.as_str(), cut.as_str(), &"A".repeat(9_000)] {
            let request = hyper::Request::get(path(READER)).header("last-event-id", wrong);
            let answer = server.send(request).await;
            assert!(answer.status.is_client_error(), "{wrong}: {answer:?}");
        }
        // The same keys, and other shards.
        let opened = other.freshness(READER).await;
        let sealed = server.cursor_keys.seal_freshness(&opened);
        let headers = [("last-event-id", sealed.as_str())];
        let mut stream = Stream::open(&server.address.to_string(), &path(READER), &headers).await;
        let gap = stream.event().await;
        assert_eq!(gap.name, "gap");
        assert_ne!(gap.id, server.cursor_keys.seal_freshness(&Freshness::default()));
        // The stream continues from there, and ends with its server.
        let author = tributary.publish(AUTHOR, "after the gap", None).await.unwrap();
        let post = stream.event().await;
        assert_eq!(post.json()["post"]["post_id"], author.post.key.post.to_string());
        drop(server);
        stream.ends().await;
    });
}
