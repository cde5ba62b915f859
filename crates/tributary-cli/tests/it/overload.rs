//! Many more requests than the servers can answer, and limits of a server or of an account: servers
//! that work stay in service, pages stay complete, and writes are acknowledged.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tributary::internal::Fleet;
use tributary::{Config, PageRequest, Tributary};

use crate::memory::FULL;
use crate::support::database::{Database, Kind, PASSWORD};
use crate::support::fleet::{TestFleet, load_into};
use crate::support::http::TestServer;
use crate::support::relay::{Relay, Rules};
use crate::support::watch::Watch;
use crate::support::world::World;
use crate::support::{run, size, user_id};

/// Shards on the one server.
const SHARDS: u64 = 32;
const READERS: u64 = 1_000;
const AUTHORS: u64 = 1_000;
/// Connections that use all of the machine, and many more.
const USUAL: usize = 64;
const OVERLOAD: usize = 1_000;
/// An account that the tests limit. Unlike the account of the other tests it may not ignore limits.
const LIMITED: &str = "limited";

/// Every reader follows `followees` authors, whose posts are on many shards.
fn world(followees: u64) -> World {
    let mut world = World::default();
    for reader in 1..=READERS {
        for followee in 0..followees {
            world.follow(reader, 1 + (reader * 7 + followee * 31) % AUTHORS);
        }
    }
    for author in 1..=AUTHORS {
        for post in 0..10 {
            let time = 1_700_000_000_000 + i64::try_from(post * 1_000 + author).unwrap();
            world.post(author, time, author * 100 + post);
        }
    }
    world
}

/// A server with many shards, and the folder of its configuration.
struct Crowded {
    database: Arc<Database>,
    fleet: TestFleet,
    /// The shards' part of the configuration.
    shards: String,
}

impl Crowded {
    async fn start(kind: Kind, shards: u64, world: &World) -> Option<Self> {
        let database = Arc::new(Database::start(kind)?);
        let fleet = TestFleet::on(&[Arc::clone(&database)]);
        let (mut tables, mut text) = (Vec::new(), String::new());
        for shard in 0..shards {
            let name = format!("c{shard}");
            tables.push(format!("CREATE DATABASE {name}"));
            tables.extend(tributary::internal::mysql_tables(&name));
            write!(text, "[[shards]]\nname = \"s{shard}\"\nserver = \"db0\"\n").unwrap();
            writeln!(text, "database = \"{name}\"").unwrap();
        }
        tables.push(format!("CREATE USER {LIMITED}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'"));
        let rights =
            "SELECT, INSERT, UPDATE, DELETE, CREATE, REPLICATION SLAVE, REPLICATION CLIENT";
        tables.push(format!("GRANT {rights} ON *.* TO {LIMITED}@'127.0.0.1'"));
        database.execute(&tables).await;
        let crowded = Self { database, fleet, shards: text };
        let config = crowded.config(crowded.database.port, 0, 60_000);
        tributary::internal::migrate(&config, drop).await.unwrap();
        load_into(&Fleet::open_to_load(&config).await.unwrap(), world).await;
        Some(crowded)
    }

    fn config(&self, port: u16, memory: usize, deadline_ms: u64) -> Config {
        let password = self.fleet.dir.path().join("password");
        let text = format!(
            "[servers.db0]\naddress = \"127.0.0.1:{port}\"\nuser = \"{LIMITED}\"\n\
             password_file = \"{}\"\n\n{}\n[memory]\nbudget = {memory}\n\
             [request]\ndeadline_ms = {deadline_ms}\n[write]\nenabled = true\n",
            password.display(),
            self.shards
        );
        let file = self.fleet.dir.path().join("crowded.toml");
        fs::write(&file, text).unwrap();
        Config::from_file(&file, []).unwrap()
    }

    async fn open(&self, memory: usize) -> Tributary {
        self.open_at(self.database.port, memory).await
    }

    async fn open_at(&self, port: u16, memory: usize) -> Tributary {
        Tributary::open(&self.config(port, memory, 2_000)).await.unwrap()
    }

    async fn execute(&self, sql: &str) {
        self.database.execute(&[sql.to_owned()]).await;
    }
}

/// Counts the pages that were answered.
#[derive(Debug, Default)]
struct Tally {
    complete: AtomicU64,
    incomplete: AtomicU64,
}

impl Tally {
    fn count(&self, complete: bool) {
        let counter = if complete { &self.complete } else { &self.incomplete };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.complete.load(Ordering::Relaxed), self.incomplete.load(Ordering::Relaxed))
    }
}

/// This many clients read pages of the library one after the other. Returns the numbers of complete
/// and incomplete pages.
async fn read(tributary: &Tributary, clients: u64, span: Duration) -> (u64, u64) {
    let (tally, end) = (Tally::default(), Instant::now() + span);
    let client = |number: u64| {
        let (tally, tributary) = (&tally, tributary);
        async move {
            let mut reader = number * 37 % READERS;
            while Instant::now() < end {
                reader = (reader + 1) % READERS;
                let request = PageRequest::default();
                let page = tributary.home_timeline(user_id(1 + reader), &request).await;
                tally.count(page.unwrap().is_complete());
            }
        }
    };
    join_all((0..clients).map(client)).await;
    tally.get()
}

fn is_in_service(tributary: &Tributary) -> bool {
    tributary.health().iter().all(|shard| shard.state.is_ok())
}

/// A client that keeps one connection and requests pages until `stop` is set.
async fn client(server: &TestServer, number: usize, tally: &Tally, stop: &AtomicBool) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut reader = number as u64 * 37 % READERS;
    while !stop.load(Ordering::Relaxed) {
        reader = (reader + 1) % READERS;
        let request = Request::get(format!("/v1/users/{}/feed", 1 + reader));
        let request = request.header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let complete: &[u8] = b"\"complete\":true";
        tally.count(body.windows(complete.len()).any(|part| part == complete));
    }
    drop(sender);
    driver.await.unwrap().unwrap();
}

/// The results of a load by HTTP.
#[derive(Debug)]
#[expect(dead_code, reason = "all of it is printed")]
struct Load {
    complete_per_second: f64,
    incomplete: u64,
    writes: usize,
    written: usize,
    was_in_service: bool,
}

/// Reads on this many connections for `span`, and offers ten writes a second beside them.
async fn load(tributary: &Tributary, connections: usize, span: Duration) -> Load {
    let server = TestServer::start(tributary.clone()).await;
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let start = Instant::now();
    let clients = join_all((0..connections).map(|number| client(&server, number, &tally, &stop)));
    let writes = (0..u32::try_from(span.as_millis() / 100).unwrap()).map(async |number| {
        tokio::time::sleep(number * Duration::from_millis(100)).await;
        let path = format!("/v1/users/{}/posts", 1 + number);
        server.post(&path, r#"{"content":"during the load"}"#, None).await.status == 201
    });
    let watch = async {
        let mut was_in_service = true;
        while start.elapsed() < span {
            tokio::time::sleep(Duration::from_millis(50)).await;
            was_in_service &= is_in_service(tributary);
        }
        stop.store(true, Ordering::Relaxed);
        (tally.get(), was_in_service)
    };
    let (_, writes, watched) = tokio::join!(clients, join_all(writes), watch);
    let ((complete, incomplete), was_in_service) = watched;
    Load {
        complete_per_second: complete as f64 / span.as_secs_f64(),
        incomplete,
        writes: writes.len(),
        written: writes.iter().filter(|written| **written).count(),
        was_in_service,
    }
}

#[test]
fn a_thousand_connections_are_served_as_quickly_as_a_few() {
    run(async {
        let world = world(40);
        let crowded = Crowded::start(Kind::MariaDb, 4, &world).await.unwrap();
        for memory in [0, FULL] {
            let mut rates = Vec::new();
            for connections in [USUAL, OVERLOAD] {
                // Memory is empty at the start of each load.
                let tributary = crowded.open(memory).await;
                let span = size(Duration::from_secs(4), Duration::from_secs(20));
                let load = load(&tributary, connections, span).await;
                println!("memory {memory}, {connections} connections: {load:?}");
                assert!(load.was_in_service, "a healthy server was excluded");
                assert_eq!(load.written, load.writes, "writes were rejected");
                rates.push(load.complete_per_second);
                tributary.close().await;
            }
            // The clients share the machine. With memory they limit the rate themselves.
            let least = if memory == 0 { size(0.5, 0.9) } else { size(0.3, 0.5) };
            assert!(rates[1] >= least * rates[0], "memory {memory}: {rates:?} pages per second");
        }
    });
}

/// Default settings: a page that needs all shards takes one place in the server's queue.
#[test]
fn limits_of_a_server_with_many_shards_make_no_page_incomplete() {
    run(async {
        let world = world(40);
        for kind in [Kind::MariaDb, Kind::MySql] {
            let Some(crowded) = Crowded::start(kind, SHARDS, &world).await else { continue };
            let span = size(Duration::from_secs(1), Duration::from_secs(10));
            let tributary = crowded.open(0).await;
            for clients in [16, 64] {
                let pages = read(&tributary, clients, span).await;
                println!("{kind:?}, {clients} clients, {SHARDS} shards: {pages:?}");
                assert!(pages.0 > 0 && pages.1 == 0, "{kind:?}, {clients} clients: {pages:?}");
            }
            tributary.close().await;

            crowded.execute("SET GLOBAL max_prepared_stmt_count = 100").await;
            let tributary = crowded.open(0).await;
            let pages = read(&tributary, 8, span).await;
            println!("{kind:?}, 100 prepared statements: {pages:?}");
            assert!(pages.0 > 0 && pages.1 == 0, "{kind:?}: {pages:?}");
            let post = tributary.publish(user_id(4), "it's a \\ text 🎉", None).await.unwrap();
            let found = tributary.post(user_id(4), post.post.key.post).await.unwrap();
            assert_eq!(found.post.unwrap().content, "it's a \\ text 🎉");
            tributary.close().await;
            crowded.execute("SET GLOBAL max_prepared_stmt_count = 16382").await;

            let limit = format!("ALTER USER {LIMITED}@'127.0.0.1' WITH MAX_USER_CONNECTIONS");
            // Memory's own connections leave two or three for the requests.
            for (memory, clients) in [(0, 40), (FULL, 8)] {
                let tributary = crowded.open(memory).await;
                crowded.execute(&format!("{limit} 6")).await;
                let pages = read(&tributary, clients, 2 * span).await;
                println!("{kind:?}, 6 connections, memory {memory}: {pages:?}");
                assert!(pages.0 > 0 && pages.1 == 0, "{kind:?}, memory {memory}: {pages:?}");
                assert!(is_in_service(&tributary));
                crowded.execute(&format!("{limit} 0")).await;
                tributary.close().await;
            }
        }
    });
}

/// A server that starts again with the limit reached by others is in service as soon as one
/// connection is free.
#[test]
fn a_server_without_free_connections_returns_when_one_is_free() {
    run(async {
        let crowded = Crowded::start(Kind::MariaDb, 4, &world(4)).await.unwrap();
        let tributary = crowded.open(0).await;
        let limit = format!("ALTER USER {LIMITED}@'127.0.0.1' WITH MAX_USER_CONNECTIONS");
        crowded.execute(&format!("{limit} 2")).await;
        let pages = read(&tributary, 100, Duration::from_secs(1)).await;
        assert!(pages.0 > 0 && pages.1 == 0, "{pages:?}");
        // All connections are lost, and the idle ones hold the quota when it is checked again.
        crowded.database.kill();
        while is_in_service(&tributary) {
            read(&tributary, 4, Duration::from_millis(100)).await;
        }
        crowded.database.launch();
        let start = Instant::now();
        while !is_in_service(&tributary) {
            assert!(start.elapsed() < Duration::from_secs(20), "the server stays out of service");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let pages = read(&tributary, 100, Duration::from_secs(1)).await;
        assert!(pages.0 > 0 && pages.1 == 0, "{pages:?}");
        let watch = Watch::start(&tributary).await;
        let counters = watch.counters().await;
        assert_eq!(counters["tributary_server_rejected"], 0, "{counters:?}");
        // Two, and those that are tried again every ten seconds.
        assert!(counters["tributary_server_connections"] <= 8, "{counters:?}");
        assert!(counters["tributary_server_connections_open"] <= 4, "{counters:?}");
    });
}

#[test]
fn a_statement_that_must_be_prepared_again_is_sent_as_text() {
    run(async {
        let crowded = Crowded::start(Kind::MariaDb, 4, &world(4)).await.unwrap();
        let rules = Rules { rejects_prepared: true, ..Rules::default() };
        let relay = Relay::start(&[crowded.database.port], rules).await;
        let tributary = crowded.open_at(relay.port, 0).await;
        let pages = read(&tributary, 20, Duration::from_secs(1)).await;
        assert!(pages.0 > 0 && pages.1 == 0, "{pages:?}");
        let follow = tributary.follow(user_id(5), user_id(6)).await.unwrap();
        assert_eq!(follow.added, 1);
        tributary.close().await;
    });
}
