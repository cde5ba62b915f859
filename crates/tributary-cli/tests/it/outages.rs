//! Servers that are dead, silent or wrongly set up: pages name the missing shards, lose no post,
//! and become complete again without a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use serde_json::json;
use tributary::{Cursor, Limit, OpenError, Page, PageRequest, Tributary, UserId};

use crate::memory::FULL;
use crate::support::database::{Database, Kind};
use crate::support::fleet::TestFleet;
use crate::support::http::TestServer;
use crate::support::watch::{Watch, until_warm};
use crate::support::world::{Oracle, World};
use crate::support::{run, user_id};

/// The longest time until a server that is available again is in service.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
const READER: UserId = user_id(4);

/// Shards 0 and 2 on the first server, 1 and 3 on the second.
async fn two_servers() -> (Vec<Arc<Database>>, TestFleet) {
    let servers: Vec<Arc<Database>> = Database::start_mariadb(2);
    let fleet = TestFleet::on(&servers);
    make_tables(&fleet).await;
    fleet.load(&World::followed_by(READER)).await;
    (servers, fleet)
}

async fn make_tables(fleet: &TestFleet) {
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(tributary::internal::mysql_tables(database));
        server.execute(&statements).await;
    }
}

async fn read(tributary: &Tributary, cursor: Cursor) -> Page {
    let request = PageRequest::default().from(cursor).limit(Limit::new(7).unwrap());
    tributary.home_timeline(READER, &request).await.unwrap()
}

/// Reads the newest page until it is complete.
async fn wait_complete(tributary: &Tributary) -> Duration {
    let start = Instant::now();
    while !read(tributary, Cursor::newest()).await.is_complete() {
        assert!(start.elapsed() < RECOVERY_MAX, "the page does not become complete again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

fn is_on_second_server(user: UserId) -> bool {
    user.get() % 2 == 1
}

#[test]
fn posts_of_a_returned_shard_come_first_and_each_comes_once() {
    run(async {
        let (servers, fleet) = two_servers().await;
        let tributary = fleet.open().await;
        servers[1].kill();
        let oracle = Oracle::new(&World::followed_by(READER));
        let feed = oracle.feed(READER);

        // Two pages without the second server.
        let mut walked = Vec::new();
        let mut cursor = Cursor::newest();
        for _ in 0..2 {
            let page = read(&tributary, cursor).await;
            let missing: Vec<u16> = page.missing.iter().map(|shard| shard.get()).collect();
            assert_eq!(missing, [1, 3]);
            walked.extend(page.posts);
            cursor = page.next.expect("never null while a shard is missing");
        }
        let available: Vec<_> =
            feed.iter().filter(|post| !is_on_second_server(post.key.author)).take(14).collect();
        assert!(
            walked.iter().eq(available.into_iter().copied()),
            "posts of the other server, in order"
        );

        servers[1].launch();
        let seconds = wait_complete(&tributary).await.as_secs_f64();
        println!("complete again {seconds:.1} s after the server returned");
        let edge = walked.last().unwrap().key;
        let page = read(&tributary, cursor).await;
        assert!(
            page.posts.iter().all(|post| is_on_second_server(post.key.author) && post.key > edge)
        );
        let mut next = page.next;
        let mut pages = vec![page.posts];
        while let Some(cursor) = next {
            let page = read(&tributary, cursor).await;
            assert!(page.posts.is_sorted_by(|a, b| a.key > b.key));
            next = page.next;
            pages.push(page.posts);
        }
        walked.extend(pages.into_iter().flatten());
        walked.sort_by_key(|post| std::cmp::Reverse(post.key));
        assert!(walked.iter().eq(feed), "every post once");
    });
}

#[test]
fn a_dead_server_at_the_start_means_a_degraded_start() {
    run(async {
        let (servers, fleet) = two_servers().await;
        servers[1].kill();
        let tributary = fleet.open().await;
        let http = TestServer::start(tributary.clone()).await;
        let ready = http.get("/readyz").await;
        assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (200, &"degraded".into()));
        assert_eq!(http.get("/readyz?strict").await.status, 503);

        let body = http.get("/v1/users/4/feed").await.json();
        assert_eq!(body["complete"], false);
        assert_eq!(body["missing_shards"], serde_json::json!(["s1", "s3"]));
        assert!(body["next"].is_string());
        let strict = http.get("/v1/users/4/feed?require=complete").await;
        assert_eq!(strict.problem(), (503, "incomplete".into()));
        assert_eq!(strict.header("retry-after"), "1");
        // User 5's own follow list is on the dead server.
        let body = http.get("/v1/users/5/feed").await.json();
        assert_eq!(body["missing_shards"], serde_json::json!(["s1"]));
        assert!(body["next"].is_string());
        let body = http.get("/v1/users/5/following").await.json();
        assert_eq!((&body["complete"], body["next"].is_string()), (&false.into(), true));

        servers[1].launch();
        wait_complete(&tributary).await;
        assert_eq!(http.get("/readyz?strict").await.status, 200);
        servers.iter().for_each(|server| server.kill());
        let give_up = Instant::now() + RECOVERY_MAX;
        while http.get("/readyz").await.status != 503 {
            assert!(Instant::now() < give_up, "/readyz does not notice that all servers are dead");
            assert_eq!(http.get("/v1/users/4/feed").await.json()["complete"], false);
        }
        assert_eq!(http.get("/livez").await.status, 200);
    });
}

#[test]
fn a_silent_server_times_out_and_is_then_out_of_service() {
    run(async {
        let (servers, fleet) = two_servers().await;
        let mut config = fleet.config();
        config.request.deadline_ms = tributary::config::DEADLINE_MS_DEFAULT;
        let tributary = Tributary::open(&config).await.unwrap();
        assert!(read(&tributary, Cursor::newest()).await.is_complete());
        servers[1].signal("STOP");
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            let start = Instant::now();
            let page = read(&tributary, Cursor::newest()).await;
            slowest = slowest.max(start.elapsed());
            assert_eq!(page.missing.len(), 2);
            assert_eq!(page.posts.len(), 7, "posts of the other server fill the page");
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        // The gate is closed, so reads no longer wait for this server.
        let start = Instant::now();
        for _ in 0..20 {
            assert!(!read(&tributary, Cursor::newest()).await.is_complete());
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?} for 20 pages", start.elapsed());
        servers[1].signal("CONT");
        wait_complete(&tributary).await;
    });
}

/// An operator must repair each of these faults, so the start is refused and names the remedy.
#[test]
fn a_failed_prerequisite_refuses_the_start_and_names_the_remedy() {
    run(async {
        let server = Arc::new(Database::start(Kind::MariaDb).unwrap());
        let fleet = TestFleet::on(&[Arc::clone(&server)]);
        let database = fleet.databases[2].1.clone();
        assert_refused(&fleet, "CREATE DATABASE").await;
        make_tables(&fleet).await;
        drop(fleet.open().await);

        let broken = [
            (format!("DROP TABLE {database}.tweets"), "CREATE TABLE"),
            (
                format!(
                    "CREATE TABLE {database}.tweets (tweet_id BIGINT PRIMARY KEY, user_id BIGINT, \
                     content TEXT, timestamp BIGINT, KEY (user_id))"
                ),
                "CREATE INDEX tributary_tail",
            ),
            (format!("CREATE INDEX tail ON {database}.tweets (user_id, timestamp)"), "started"),
            (
                format!("ALTER TABLE {database}.tweets ALTER INDEX tail IGNORED"),
                "CREATE INDEX tributary_tail",
            ),
            (
                format!("ALTER TABLE {database}.tweets MODIFY tweet_id VARCHAR(20)"),
                "must be an integer",
            ),
            (format!("ALTER TABLE {database}.tweets DROP COLUMN content"), "must have"),
            (
                format!(
                    "ALTER TABLE {database}.tweets ADD content TEXT, MODIFY tweet_id BIGINT, MODIFY timestamp DATETIME, \
                     ADD KEY (user_id, timestamp)"
                ),
                "unit = \"datetime\"",
            ),
            (
                format!("ALTER TABLE {database}.followers DROP PRIMARY KEY"),
                "CREATE INDEX tributary_follows",
            ),
        ];
        for (sql, remedy) in broken {
            server.execute(&[sql]).await;
            if remedy == "started" {
                drop(fleet.open().await);
                continue;
            }
            if remedy == "CREATE INDEX tributary_follows" {
                let repair = format!("ALTER TABLE {database}.tweets MODIFY timestamp BIGINT");
                server.execute(&[repair]).await;
            }
            assert_refused(&fleet, remedy).await;
        }
        let repaired = format!("CREATE INDEX f ON {database}.followers (follower_user_id)");
        server.execute(&[repaired]).await;
        drop(fleet.open().await);

        std::fs::write(fleet.dir.path().join("password"), "wrong").unwrap();
        let text = assert_refused(&fleet, "password_file").await;
        assert!(!text.contains("wrong"), "{text}");
    });
}

/// A fault of one database affects no other shard, and an invalid row hides only itself.
#[test]
fn a_faulty_database_does_not_affect_other_shards_of_its_server() {
    run(async {
        let server = Arc::new(Database::start(Kind::MariaDb).unwrap());
        let fleet = TestFleet::on(&[Arc::clone(&server)]);
        make_tables(&fleet).await;
        fleet.load(&World::followed_by(READER)).await;
        let tributary = fleet.open().await;
        let shown = format!("{tributary:?}");
        assert!(!shown.contains(crate::support::database::PASSWORD), "{shown}");

        let database = fleet.databases[1].1.clone();
        let rename = |from, to| format!("RENAME TABLE {database}.{from} TO {database}.{to}");
        server.execute(&[rename("tweets", "away")]).await;
        for _ in 0..10 {
            let page = read(&tributary, Cursor::newest()).await;
            let missing: Vec<u16> = page.missing.iter().map(|shard| shard.get()).collect();
            assert_eq!(missing, [1]);
            assert_eq!(page.posts.len(), 7);
        }
        server.execute(&[rename("away", "tweets")]).await;
        wait_complete(&tributary).await;

        // A table lock, as a restore holds it, makes only its shard missing, also at a start.
        let mut config = fleet.config();
        config.request.deadline_ms = 4_000;
        let running = Tributary::open(&config).await.unwrap();
        assert!(read(&running, Cursor::newest()).await.is_complete());
        let mut lock = server.connect().await;
        lock.query_drop(format!("LOCK TABLES {database}.tweets WRITE")).await.unwrap();
        // One statement for all databases waits for the lock. Each is then read alone.
        for _ in 0..2 {
            let page = read(&running, Cursor::newest()).await;
            let missing: Vec<u16> = page.missing.iter().map(|shard| shard.get()).collect();
            assert_eq!((missing, page.posts.len()), (vec![1], 7));
        }
        config.request.deadline_ms = 800;
        let locked = Tributary::open(&config).await.unwrap();
        let out_of_service: Vec<bool> = tributary::internal::fleet(&locked)
            .health()
            .iter()
            .map(|shard| shard.state.is_err())
            .collect();
        assert_eq!(out_of_service, [false, true, false, false]);
        lock.query_drop("UNLOCK TABLES").await.unwrap();
        wait_complete(&locked).await;

        // A row without a time has no position in the order, and a negative id is invalid. Only
        // such rows are hidden.
        let bad = |database: &str| {
            [
                format!(
                    "ALTER TABLE {database}.tweets DROP PRIMARY KEY, MODIFY timestamp BIGINT, \
                         MODIFY tweet_id BIGINT, ADD KEY tail (user_id, timestamp, tweet_id)"
                ),
                format!("INSERT INTO {database}.tweets VALUES (77, 9, 'no time', NULL)"),
                format!("INSERT INTO {database}.tweets VALUES (-5, 13, 'no id', 9999)"),
            ]
        };
        drop(tributary);
        server.execute(&bad(&database)).await;
        let tributary = fleet.open().await;
        for _ in 0..10 {
            let full = PageRequest::default().limit(Limit::new(100).unwrap());
            let page = tributary.author_timeline(user_id(9), &full).await.unwrap();
            assert_eq!((page.posts.len(), page.is_complete()), (10, true));
            let page = tributary.author_timeline(user_id(13), &full).await.unwrap();
            assert_eq!((page.posts.len(), page.is_complete()), (10, true));
            assert!(tributary.author_timeline(user_id(8), &full).await.unwrap().is_complete());
        }
    });
}

async fn assert_refused(fleet: &TestFleet, remedy: &str) -> String {
    let outcome = Tributary::open(&fleet.config()).await;
    let Err(OpenError::Prerequisite(text)) = outcome else { panic!("started without {remedy}") };
    assert!(text.contains(remedy), "{text}\n  does not contain\n{remedy}");
    text
}

/// An account with SELECT can read. Without SELECT the start is refused and names the statement
/// that grants it.
#[test]
fn select_is_the_only_privilege_needed_to_read() {
    run(async {
        let server = Arc::new(Database::start(Kind::MariaDb).unwrap());
        let fleet = TestFleet::on(&[Arc::clone(&server)]);
        make_tables(&fleet).await;
        fleet.load(&World::followed_by(READER)).await;
        let account = "'reader'@'127.0.0.1'";
        server.execute(&[format!("CREATE USER {account} IDENTIFIED BY 'r'")]).await;
        let file = fleet.config_file.clone().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("user = \"tributary\"", "user = \"reader\"")).unwrap();
        std::fs::write(fleet.dir.path().join("password"), "r").unwrap();
        assert_refused(&fleet, "GRANT SELECT").await;
        for (_, database) in &fleet.databases {
            server.execute(&[format!("GRANT SELECT ON {database}.* TO {account}")]).await;
        }
        let page = read(&fleet.open().await, Cursor::newest()).await;
        assert!(page.is_complete() && page.posts.len() == 7);
    });
}

#[test]
fn a_log_that_is_not_fresh_costs_only_the_readers_of_its_users() {
    run(async {
        let servers: Vec<Arc<Database>> = Database::start_mariadb(2);
        let fleet = TestFleet::on(&servers);
        make_tables(&fleet).await;
        let mut world = World::followed_by(READER);
        // This reader and its followees are on the first server.
        let local = user_id(12);
        [8, 10, 14].into_iter().for_each(|followee| world.follow(local.get(), followee));
        fleet.load(&world).await;
        let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
        let watch = Watch::start(&tributary).await;
        watch.until_heads_known().await;
        let http = TestServer::start(tributary.clone()).await;
        for reader in [local, READER] {
            until_warm(&tributary, reader, 20).await;
        }
        assert_eq!(http.get(&format!("/v1/users/{READER}/feed")).await.status, 200);
        assert_eq!(watch.counters().await["pages"], 0, "a page that is requested once is cached");
        // The second answer is cached, and the next ones are page cache hits. Parameters that the
        // route does not know make no other page.
        let hits = async || {
            let before = watch.counters().await["page_cache_hits"];
            for number in 0..3 {
                let path = format!("/v1/users/{local}/feed?unknown={number}");
                let page = http.get(&path).await.json();
                assert_eq!((&page["complete"], &page["stale_shards"]), (&true.into(), &json!([])));
            }
            watch.counters().await["page_cache_hits"] - before
        };
        let give_up = Instant::now() + RECOVERY_MAX;
        while hits().await < 3 {
            assert!(Instant::now() < give_up, "the follow list does not reach memory");
        }
        servers[1].kill();
        watch.until("stale", |counters| counters["fresh"] == 1).await;
        assert_eq!(watch.counters().await["pages"], 1);
        assert_eq!(hits().await, 3, "one log that is not fresh turns off the page cache");
        let page = read(&tributary, Cursor::newest()).await;
        assert!(!page.stale.is_empty() || !page.missing.is_empty(), "{page:?}");
    });
}
