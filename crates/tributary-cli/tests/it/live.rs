//! `GET .../feed/live`: a client whose stream is cut again and again has every change once, also if
//! it continues on another node. Streams end with their credential, and idle ones are small.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hyper::Request;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout_at};
use tributary::internal::{mysql_tables, now_ms, rfc3339_ms};
use tributary::news::NewsRequest;
use tributary::{Freshness, Tributary, UserId};
use tributary_server::{CursorKeys, KeyFile, RouterOptions, Scope};

use crate::access::protected_fleet;
use crate::commands::{Serving, post};
use crate::news::{CHANGING, DUE_MAX, STEADY, Writers, execute, prepare, whole, write};
use crate::support::credentials::TestCredentials;
use crate::support::database::{Database, Kind};
use crate::support::events::{Event, Stream, WAIT_MAX, path};
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::http::TestServer;
use crate::support::watch::Watch;
use crate::support::{run, scratch, seed, size, skip, user_id};

/// All streams are taken, and tokens that are not valid.
async fn requests_are_refused(server: &TestServer, reader: UserId) {
    let refused = server.get(&path(reader)).await;
    assert_eq!(refused.problem(), (503, "too_many_streams".into()));
    assert_eq!(refused.header("retry-after"), "1");
    for query in ["?since=x", "?since=", "?since=a&since=b"] {
        let answer = server.get(&format!("{}{query}", path(reader))).await;
        assert_eq!(answer.status, 400, "{query}");
    }
    let wrong = Request::get(path(reader)).header("last-event-id", "x");
    assert_eq!(server.send(wrong).await.problem(), (400, "invalid_freshness".into()));
}

#[test]
fn a_stream_has_every_kind_of_event_and_resumes() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut config = fleet.config_with_memory(64 << 20);
        config.write.enabled = true;
        let tributary = Tributary::open(&config).await.unwrap();
        let (reader, author) = (user_id(7), user_id(9));
        let mut options = RouterOptions::default();
        options.streams_max = 3;
        let server = TestServer::start_as(tributary.clone(), options).await;
        Watch::start(&tributary).await.until_heads_known().await;
        let address = server.address.to_string();
        let mut stream = Stream::open(&address, &path(reader), &[]).await;
        assert_eq!(stream.head.status, 200);
        assert_eq!(stream.head.headers["content-type"], "text/event-stream");
        assert_eq!(stream.head.headers["cache-control"], "private, no-cache");
        let begin = stream.next().await.unwrap();
        assert_eq!((begin.name.as_str(), begin.id.is_empty()), ("", false));

        tributary.follow(reader, author).await.unwrap();
        let followed = stream.event().await;
        assert_eq!((followed.name.as_str(), &followed.json()["user_id"]), ("follow", &json!("9")));
        let published = tributary.publish(author, "two\nlines", None).await.unwrap();
        let post = stream.event().await;
        assert_eq!((post.name.as_str(), &post.json()["type"]), ("post", &json!("post")));
        let page = server.get("/v1/users/7/feed").await.json();
        assert_eq!(post.json()["post"], page["posts"][0]);
        tributary.delete_post(author, published.post.key.post).await.unwrap();
        let deleted = stream.event().await;
        assert_eq!(deleted.name, "delete");

        // The position of an event continues after it, in a header or as a parameter.
        let id = [("last-event-id", post.id.as_str())];
        let mut resumed = Stream::open(&address, &path(reader), &id).await;
        let again = resumed.event().await;
        // Its token has a later horizon.
        assert_eq!((again.name.as_str(), again.json()), ("delete", deleted.json()));
        let since = format!("{}?since={}", path(reader), followed.id);
        let mut since = Stream::open(&address, &since, &[]).await;
        assert_eq!(since.event().await.name, "delete", "the post is gone");
        tributary.unfollow(reader, author).await.unwrap();
        for stream in [&mut stream, &mut resumed, &mut since] {
            assert_eq!(stream.event().await.name, "unfollow");
        }

        requests_are_refused(&server, reader).await;
        let old = server.cursor_keys.seal_freshness(&Freshness::default());
        drop(since);
        let id = [("last-event-id", old.as_str())];
        // The first one is above. The server may not have noticed yet that a client has gone.
        let mut refused = 1;
        let mut gap = loop {
            let gap = Stream::open(&address, &path(reader), &id).await;
            if gap.head.status == 200 {
                break gap;
            }
            refused += 1;
        };
        let event = gap.event().await;
        assert_eq!((event.name.as_str(), event.id.is_empty()), ("gap", false));
        let counters = Watch::start(&tributary).await.counters().await;
        assert_eq!(counters["subscribers"], 3);
        let metrics = server.get("/metrics").await.body;
        assert!(metrics.contains("\ntributary_streams 3\n"), "{metrics}");
        let refused = format!("tributary_streams_refused_total {refused}\n");
        assert!(metrics.contains(&refused), "{refused}, {metrics}");
        // The server does not wait for the clients of streams.
        drop(server);
        for stream in [&mut stream, &mut resumed, &mut gap] {
            stream.ends().await;
        }
        let without = Tributary::open(&fleet.config()).await;
        if let Ok(without) = without {
            let server = TestServer::start(without).await;
            assert_eq!(server.get(&path(reader)).await.problem(), (501, "no_streams".into()));
        }
    });
}

#[test]
fn a_stream_has_mutes_and_blocks_and_no_posts_of_hidden_users() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut config = fleet.config_with_memory(64 << 20);
        config.write.enabled = true;
        let node = Tributary::open(&config).await.unwrap();
        let [reader, hidden, blocker, seen] = [7, 9, 10, 11].map(user_id);
        let server = TestServer::start(node.clone()).await;
        Watch::start(&node).await.until_heads_known().await;
        let mut stream = Stream::open(&server.address.to_string(), &path(reader), &[]).await;
        stream.next().await.unwrap();
        let publish = async |author| drop(node.publish(author, "shown", None).await.unwrap());
        let hide = async |author| drop(node.publish(author, "hidden", None).await.unwrap());
        let mut is_over = false;
        let mut expect = async |name: &str, user: UserId| {
            let mut event = stream.event().await;
            // Afterwards, these posts are on the page and may come as events.
            while is_over && event.json()["post"]["content"] == "hidden" {
                event = stream.event().await;
            }
            is_over |= name == "unblock";
            let json = event.json();
            let of = if name == "post" { &json["post"]["author_id"] } else { &json["user_id"] };
            assert_eq!((event.name.as_str(), of), (name, &json!(user.to_string())));
        };
        for author in [hidden, blocker, seen] {
            node.follow(reader, author).await.unwrap();
            expect("follow", author).await;
        }
        node.block(blocker, reader).await.unwrap();
        hide(blocker).await;
        publish(seen).await;
        expect("post", seen).await;
        node.mute(reader, hidden).await.unwrap();
        expect("mute", hidden).await;
        hide(hidden).await;
        node.block(reader, hidden).await.unwrap();
        expect("block", hidden).await;
        node.unmute(reader, hidden).await.unwrap();
        expect("unmute", hidden).await;
        hide(hidden).await;
        node.unblock(reader, hidden).await.unwrap();
        expect("unblock", hidden).await;
        // The stream waits for the posts of this user again.
        publish(hidden).await;
        expect("post", hidden).await;
        // The author's posts from the time of the block become visible, which is a gap. The end
        // of a block by a user that the reader does not follow is none.
        let before = node.news(reader, &NewsRequest::default()).await.unwrap().freshness;
        node.unblock(blocker, reader).await.unwrap();
        let gap = stream.event().await;
        assert_eq!(gap.name, "gap");
        let page = format!("/v1/users/{reader}/feed?limit=100");
        let page = server.send(Request::get(&page).header("tributary-freshness", &gap.id)).await;
        assert!(page.json()["posts"].as_array().unwrap().iter().any(|post| {
            (&post["author_id"], &post["content"]) == (&json!("10"), &json!("hidden"))
        }));
        let since = NewsRequest::since(before);
        assert!(node.news(reader, &since).await.unwrap().gap);
        assert!(node.count_new_posts(reader, &since).await.unwrap().1.gap);
        node.block(user_id(30), reader).await.unwrap();
        node.unblock(user_id(30), reader).await.unwrap();
        publish(blocker).await;
        let post = stream.event().await;
        assert_eq!(post.json()["post"]["author_id"], "10", "{post:?}");
    });
}

#[test]
fn a_stream_ends_with_its_credential() {
    let credentials = TestCredentials::new();
    let [key, kept] = [(); 2].map(|()| credentials.key(&[Scope::ActAsUser]));
    let admin = credentials.key(&[Scope::Admin]);
    let (token, file) = (credentials.token(1), credentials.keys_file());
    let now = || now_ms() / 1_000;
    let short = KeyFile::edit(&file, |keys| {
        keys.create("short", &[Scope::ActAsUser], Some(now() + 4), now())
    });
    let short = short.unwrap();
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let server = TestServer::start_with(tributary.clone(), access).await;
        let address = server.address.to_string();
        let open = async |credential: &str| {
            let bearer = format!("Bearer {credential}");
            let headers = [("authorization", bearer.as_str())];
            let stream = Stream::open(&address, &path(user_id(1)), &headers).await;
            assert_eq!(stream.head.status, 200);
            stream
        };
        // It expires before the first heartbeat.
        let start = Instant::now();
        let mut of_short = open(&short).await;
        of_short.ends().await;
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        let (mut of_key, mut of_kept) = (open(&key).await, open(&kept).await);
        let mut of_token = open(&token).await;
        KeyFile::edit(&file, |keys| {
            keys.revoke_user(user_id(1), now() + 1, 0);
            keys.revoke(key.split('_').nth(1).unwrap(), None)
        })
        .unwrap();
        let start = Instant::now();
        of_key.ends().await;
        of_token.ends().await;
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        tributary.publish(user_id(2), "for valid credentials", None).await.unwrap();
        let post = of_kept.event().await;
        assert_eq!(post.name, "post");
        // A token that expires during a stream ends it, and the next token continues it.
        let stream_of = async |left: i64, id: &str| {
            let bearer = format!("Bearer {}", credentials.token_until(3, now() + left));
            let mut headers = vec![("authorization", bearer.as_str())];
            headers.extend((!id.is_empty()).then_some(("last-event-id", id)));
            Stream::open(&address, &path(user_id(3)), &headers).await
        };
        assert_eq!(stream_of(-LEEWAY_S - 1, "").await.head.status, 401);
        let mut first = stream_of(2 - LEEWAY_S, "").await;
        let id = first.next().await.unwrap().id;
        let start = Instant::now();
        first.ends().await;
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        tributary.follow(user_id(3), user_id(2)).await.unwrap();
        let mut next = stream_of(3_600, &id).await;
        assert_eq!(next.event().await.name, "follow");
        let ended = server.get_as("/metrics", &admin).await.body;
        let reasons = "tributary_streams_ended_total{reason=\"credential\"} 4\n";
        assert!(ended.contains(reasons), "{ended}");
    });
}

/// A token is valid for this time after its end.
const LEEWAY_S: i64 = 60;

/// The whole timeline over HTTP, as a client reads it after a gap and after a follow.
async fn read_whole(server: &TestServer, reader: UserId, token: &str) -> Posts {
    let (mut posts, mut cursor) = (Posts::new(), String::new());
    loop {
        let path = format!("/v1/users/{reader}/feed?limit=100&require=complete{cursor}");
        let answer = server.send(Request::get(&path).header("tributary-freshness", token)).await;
        if answer.status == 503 {
            sleep(Duration::from_millis(50)).await;
            continue;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        posts.extend(page["posts"].as_array().unwrap().iter().map(entry));
        let Some(next) = page["next"].as_str() else { return posts };
        cursor = format!("&cursor={next}");
    }
}

/// A timeline by (author, post): time and text.
type Posts = BTreeMap<(String, String), (String, String)>;

fn entry(post: &Value) -> ((String, String), (String, String)) {
    let [author, id, time, text] = ["author_id", "post_id", "created_at", "content"]
        .map(|name| post[name].as_str().unwrap().to_owned());
    ((author, id), (time, text))
}

/// A client that follows the rules of the documentation and loses its connection all the time.
struct Client {
    reader: UserId,
    posts: Posts,
    /// The last token, and those of all events since the last gap.
    id: String,
    seen: HashSet<String>,
    events: usize,
    disconnects: usize,
    gaps: usize,
}

impl Client {
    async fn start(server: &TestServer, reader: UserId) -> Self {
        let page = format!("/v1/users/{reader}/feed?limit=1&require=complete");
        let id = server.get(&page).await.header("tributary-freshness").to_owned();
        let posts = read_whole(server, reader, &id).await;
        Self { reader, posts, id, seen: HashSet::new(), events: 0, disconnects: 0, gaps: 0 }
    }

    /// Reads a stream until `cut`, or until all markers are received. The rest of an event that was
    /// cut is dropped.
    async fn read(&mut self, server: &TestServer, cut: Duration) {
        let address = server.address.to_string();
        let headers = [("last-event-id", self.id.as_str())];
        let mut stream = Stream::open(&address, &path(self.reader), &headers).await;
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        let end = tokio::time::Instant::now() + cut;
        // A stream that always has something is cut too.
        while !self.has_all_markers() && tokio::time::Instant::now() < end {
            match timeout_at(end, stream.next()).await {
                Ok(Some(event)) => self.take(server, event).await,
                Ok(None) | Err(_) => break,
            }
        }
        self.disconnects += 1;
    }

    /// Reads until all markers are received, for as long as something comes. A follow costs a whole
    /// timeline, so a client can lag for minutes.
    async fn read_to_end(&mut self, server: &TestServer) {
        while !self.has_all_markers() {
            let before = (self.events, self.gaps);
            self.read(server, WAIT_MAX).await;
            assert_ne!((self.events, self.gaps), before, "reader {} misses a marker", self.reader);
        }
    }

    /// Whether the last post of each shard was received, as an event or on the page after a gap.
    fn has_all_markers(&self) -> bool {
        let markers = self.posts.values().filter(|(_, text)| text == END);
        markers.count() == usize::try_from(SHARDS).unwrap()
    }

    async fn take(&mut self, server: &TestServer, event: Event) {
        let is_event = !["", "gap"].contains(&event.name.as_str());
        let is_new = !is_event || self.seen.insert(event.id.clone());
        assert!(is_new, "an event came twice: {event:?}");
        self.events += usize::from(is_event);
        match event.name.as_str() {
            "post" | "update" => {
                let (key, value) = entry(&event.json()["post"]);
                self.posts.insert(key, value);
            }
            "delete" => {
                let key = ["author_id", "post_id"]
                    .map(|name| event.json()[name].as_str().unwrap().to_owned());
                self.posts.remove(&<(String, String)>::from(key));
            }
            "unfollow" | "mute" => {
                let data = event.json();
                self.posts.retain(|(author, _), _| *author != data["user_id"]);
            }
            "follow" | "unmute" => self.posts = read_whole(server, self.reader, &event.id).await,
            "gap" => {
                self.gaps += 1;
                self.seen.clear();
                self.posts = read_whole(server, self.reader, &event.id).await;
            }
            "" => {}
            name => panic!("an event of type {name}"),
        }
        if !event.id.is_empty() {
            self.id = event.id;
        }
    }
}

/// The text of the last post of each shard, and its author.
const END: &str = "the end";

fn marker(shard: u64) -> u64 {
    1_000 * SHARDS + shard
}

/// A fleet on a server of its own, which can be killed. `None` if the server is not installed.
async fn killable(kind: Kind) -> Option<TestFleet> {
    let fleet = TestFleet::on(&[Arc::new(Database::start(kind)?)]);
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(mysql_tables(database));
        server.execute(&statements).await;
    }
    Some(fleet)
}

/// Begins new log files, and kills the server now and then, until the writers end. A server that is
/// killed again before the nodes have reached the end of its log would never be of use.
async fn disturb((fleet, nodes): (&TestFleet, &[Tributary]), is_killed: bool, writers: &Writers) {
    let watches = join_all(nodes.iter().map(Watch::start)).await;
    let mut turn = 0;
    while !writers.have_ended() {
        sleep(Duration::from_millis(300)).await;
        let Some((server, _)) = fleet.databases.first() else { continue };
        turn += 1;
        if is_killed && turn % 10 == 3 {
            let pause = writers.pause().await;
            let server = Arc::clone(server);
            tokio::task::spawn_blocking(move || {
                server.kill();
                server.launch();
            })
            .await
            .unwrap();
            drop(pause);
            join_all(watches.iter().map(Watch::until_heads_known)).await;
        } else {
            let mut connection = server.connect().await;
            connection.query_drop("FLUSH BINARY LOGS").await.unwrap();
        }
    }
}

/// Lets both readers follow the authors of the markers.
async fn follow_markers(fleet: &TestFleet) {
    for reader in [STEADY, CHANGING] {
        let rows: Vec<String> =
            (0..SHARDS).map(|shard| format!("({reader}, {})", marker(shard))).collect();
        let sql = format!("INSERT INTO D.followers VALUES {}", rows.join(","));
        execute(fleet, reader.get() % SHARDS, vec![sql], Duration::ZERO).await;
    }
}

/// Streams are cut this many times. Then the clients have exactly what the databases have.
async fn cut_streams(backend: Backend, fleet: &TestFleet, is_killed: bool, cuts: usize) {
    let start = Instant::now();
    let nodes = prepare(fleet, backend).await;
    follow_markers(fleet).await;
    let keys = CursorKeys::random();
    let mut servers = Vec::new();
    for node in &nodes {
        let mut options = RouterOptions::default();
        options.cursor_keys = keys.clone();
        servers.push(TestServer::start_as(node.clone(), options).await);
    }
    let mut clients =
        [Client::start(&servers[0], STEADY).await, Client::start(&servers[0], CHANGING).await];
    let writers = Writers::default();
    let read = async {
        let streams = clients.iter_mut().enumerate().map(async |(number, client)| {
            let mut rng = StdRng::seed_from_u64(seed(960) + number as u64);
            while client.disconnects < cuts / 2 {
                // Another node continues where the first one was.
                let server = &servers[rng.random_range(0..servers.len())];
                client.read(server, Duration::from_millis(rng.random_range(1..150))).await;
            }
        });
        join_all(streams).await;
        writers.end();
    };
    let write = join_all((0..SHARDS).map(|shard| write(fleet, shard, &writers)));
    tokio::join!(write, disturb((fleet, &nodes), is_killed, &writers), read);
    // Afterwards, the hidden posts are due or are hidden until the next century.
    sleep(DUE_MAX + Duration::from_millis(500)).await;
    for shard in 0..SHARDS {
        let author = marker(shard);
        let sql = format!(
            "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) \
             VALUES ({}, {author}, '{END}', 1000)",
            9_000_000 + shard
        );
        execute(fleet, shard, vec![sql], Duration::ZERO).await;
    }
    let checked = Tributary::open_read_only(&fleet.config()).await.unwrap();
    for client in &mut clients {
        client.read_to_end(&servers[0]).await;
        let expected = whole(&checked, client.reader, &Freshness::default()).await;
        let expected = expected.into_iter().map(|((author, post), (time, text))| {
            ((author.to_string(), post.to_string()), (rfc3339_ms(time), text))
        });
        let expected: Posts = expected.collect();
        let wrong: Vec<_> = expected
            .iter()
            .filter(|(key, value)| client.posts.get(*key) != Some(*value))
            .chain(client.posts.iter().filter(|(key, _)| !expected.contains_key(*key)))
            .collect();
        let Client { gaps, events, disconnects, .. } = *client;
        let took = start.elapsed();
        println!(
            "  {backend:?}: {disconnects} disconnects, {events} events, {gaps} gaps in {took:.0?}"
        );
        assert!(wrong.is_empty(), "{backend:?}: {events} events, {gaps} gaps: {wrong:?}");
        assert!(events > 10, "{backend:?}: {events} events, {gaps} gaps");
        // A page that a database has answered does not know which position it shows.
        assert!(gaps <= 1 + usize::from(is_killed) * client.disconnects, "{backend:?}: {gaps}");
    }
}

#[test]
fn a_stream_that_is_cut_loses_and_doubles_nothing() {
    run(async {
        for (backend, fleet) in every_backend().await {
            cut_streams(backend, &fleet, false, size(60, 1_000)).await;
        }
    });
}

#[test]
fn a_stream_survives_the_kill_of_its_server() {
    run(async {
        let kinds = [(Backend::MariaDb, Kind::MariaDb), (Backend::MySql, Kind::MySql)];
        for (backend, kind) in kinds.into_iter().take(size(1, 2)) {
            let Some(fleet) = killable(kind).await else { continue };
            cut_streams(backend, &fleet, true, size(60, 1_000)).await;
        }
    });
}

/// The resident memory of a process in bytes.
fn resident(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The number of streams that a server may have here, almost half of its files.
fn streams_max() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = files.split_whitespace().nth(4).unwrap();
    hard.parse::<u64>().unwrap_or(u64::MAX) / 2 - 16
}

/// The processor time of a process, in steps of 10 ms.
fn processor_time(serving: &Serving) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", serving.process.id())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Readers 1 to `readers` of a folder with one shard follow 160 users each, among them user 1.
fn crowd(data: &std::path::Path, readers: u64) {
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_tributary"));
    migrate.args(["migrate", "--data"]).arg(data).env("TRIBUTARY_EMBEDDED__SHARDS", "1");
    assert!(migrate.output().unwrap().status.success());
    let file = rusqlite::Connection::open(data.join("shard-0.sqlite")).unwrap();
    let rows = format!(
        "WITH RECURSIVE r (r) AS (SELECT 1 UNION ALL SELECT r + 1 FROM r WHERE r < {readers}),
         f (f) AS (SELECT 0 UNION ALL SELECT f + 1 FROM f WHERE f < 159)
         INSERT INTO followers SELECT r, 1 + iif(f = 0, 0, (r * 7 + f * 13) % 5000 + 1) FROM r, f"
    );
    file.execute(&rows.replace("INSERT", "INSERT OR IGNORE"), []).unwrap();
}

/// Does this for each reader, for some of them at the same time.
async fn for_each<T>(readers: u64, work: impl AsyncFn(UserId) -> T) -> Vec<T> {
    let readers: Vec<u64> = (1..=readers).collect();
    let mut results = Vec::new();
    for some in readers.chunks(16) {
        results.extend(join_all(some.iter().map(|reader| work(user_id(*reader)))).await);
    }
    results
}

/// Each idle stream takes little memory, and a post reaches all of them at once.
#[test]
fn a_post_reaches_many_streams_which_are_small_while_idle() {
    let dir = scratch();
    let readers = size(1_000, 10_000).min(streams_max());
    if readers < size(1_000, 10_000) {
        skip(&format!("{readers} streams in place of 10,000: raise ulimit -Hn to 20000"));
    }
    crowd(dir.path(), readers);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_tributary"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
    // An eighth of it is for the users that streams wait for: 3,420 bytes for each stream.
    command.env("TRIBUTARY_EMBEDDED__SHARDS", "1").env("TRIBUTARY_MEMORY__BUDGET", "320MiB");
    let serving = Serving::start(&mut command);
    run(async {
        // After this the follow lists are in memory.
        for_each(readers, async |reader| {
            let path = format!("/v1/users/{reader}/feed?limit=1");
            Stream::open(&serving.address, &path, &[("connection", "close")]).await.ends().await;
        })
        .await;
        sleep(Duration::from_secs(1)).await;
        let before = resident(&serving);
        let open = for_each(readers, async |reader| {
            let mut stream = Stream::open(&serving.address, &path(reader), &[]).await;
            assert_eq!(stream.head.status, 200);
            assert!(!stream.next().await.unwrap().id.is_empty());
            stream
        });
        let mut open = open.await;
        sleep(Duration::from_secs(1)).await;
        let each = resident(&serving).saturating_sub(before) / readers;
        let publish = async |author: u64| {
            let (address, path) = (serving.address.clone(), format!("/v1/users/{author}/posts"));
            let write = move || post(&address, &path, r#"{"content": "to all"}"#);
            let written = tokio::task::spawn_blocking(write).await;
            assert!(written.unwrap().starts_with("HTTP/1.1 201"));
        };
        let (start, idle) = (Instant::now(), processor_time(&serving));
        publish(1).await;
        for stream in &mut open {
            assert_eq!(stream.event().await.name, "post");
        }
        let reached = start.elapsed();
        let to_all = processor_time(&serving) - idle;
        // A post that no stream waits for costs one look-up.
        for _ in 0..10 {
            publish(1_000_000).await;
        }
        let unread = processor_time(&serving) - idle - to_all;
        println!("  {readers} streams: {each} bytes each; a post reached them in {reached:?}");
        println!(
            "  processor: {to_all:?} for a post to all, {unread:?} for ten that no stream reads"
        );
        assert!(unread < to_all, "{unread:?}, {to_all:?}");
        assert!(each <= 16 * 1024, "{each} bytes");
        // A debug build takes 20 times as much of the processor.
        let limit = if cfg!(debug_assertions) { 10 } else { 1 };
        assert!(reached < Duration::from_secs(limit), "{reached:?}");
    });
}
