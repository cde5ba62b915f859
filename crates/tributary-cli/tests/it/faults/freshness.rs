//! Freshness under faults: resets of logs, held-up streams, clocks, forged tokens, and an address
//! that leads to several servers. No page that is older than three seconds counts as fresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use tributary::config;
use tributary::internal::stats::{LogStats, MemoryStats};
use tributary::internal::{LogIdentity, LogPosition, mysql_tables, mysql_writes_table, now_ms};
use tributary::{Freshness, Limit, Page, PageRequest, Tributary, UserId};

use super::{BUSY_FACTOR, alone, make_shard};
use crate::support::database::{Database, Kind};
use crate::support::fleet::TestFleet;
use crate::support::link::Link;
use crate::support::watch::{at_least, until_warm};
use crate::support::{scratch, user_id};

const READER: UserId = user_id(0);
const AUTHOR: UserId = user_id(4);
/// The lease of memory, which is also the longest time until a reset is noticed.
const LEASE: Duration = Duration::from_secs(3);
const DEADLINE_MS: u64 = 2_000;

/// A server that is reached through a link, and an open fleet whose memory is warm.
struct Place {
    server: Arc<Database>,
    link: Link,
    fleet: TestFleet,
    tributary: Tributary,
    ids: u64,
}

impl Place {
    async fn new(kind: Kind) -> Option<Self> {
        let server = Arc::new(Database::start(kind)?);
        let link = Link::start(server.port).await;
        let fleet = TestFleet::on(std::slice::from_ref(&server));
        for (server, database) in &fleet.databases {
            make_shard(server, database, &mysql_tables(database)).await;
        }
        let file = fleet.config_file.clone().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(&server.address(), &format!("127.0.0.1:{}", link.port));
        std::fs::write(&file, text).unwrap();
        let database = &fleet.databases[0].1;
        let follow = format!("INSERT INTO {database}.followers VALUES ({READER}, {AUTHOR})");
        server.execute(&[follow]).await;
        let mut config = fleet.config_with_memory(64 << 20);
        config.request.deadline_ms = DEADLINE_MS;
        config.write.enabled = true;
        config.timeline.future = config::Future::Show;
        tributary::internal::migrate(&config, drop).await.unwrap();
        let tributary = Tributary::open(&config).await.unwrap();
        // Newer than every post of this library.
        let ids = now_ms().unsigned_abs() + 3_600_000;
        let mut place = Self { server, link, fleet, tributary, ids };
        place.post().await;
        place.until_warm().await;
        Some(place)
    }

    async fn until_warm(&self) {
        until_warm(&self.tributary, READER, 20).await;
    }

    /// Another program posts. Returns the id.
    async fn post(&mut self) -> u64 {
        self.ids += 1;
        let (id, database) = (self.ids, &self.fleet.databases[0].1);
        let sql = format!("INSERT INTO {database}.tweets VALUES ({id}, {AUTHOR}, 'x', {id})");
        self.server.execute(&[sql]).await;
        id
    }

    async fn page(&self, token: &Freshness) -> Page {
        let request = at_least(token, Limit::DEFAULT);
        self.tributary.home_timeline(READER, &request).await.unwrap()
    }

    fn log(&self) -> LogStats {
        MemoryStats::of(&self.tributary).unwrap().logs.remove(0)
    }

    /// Waits until the newest page, without a token, begins with this post.
    async fn until_shown(&self, id: u64, within: Duration) {
        let start = Instant::now();
        loop {
            let page = self.page(&Freshness::default()).await;
            if page.posts.first().is_some_and(|post| post.key.post.get() == id) {
                println!("  shown after {:.1?}", start.elapsed());
                return;
            }
            assert!(start.elapsed() < within, "{id} is not shown, memory: {:?}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn reset(&self) {
        let sql = match self.server.kind {
            Kind::MariaDb => "RESET MASTER",
            Kind::MySql => "RESET BINARY LOGS AND GTIDS",
        };
        self.server.execute(&[sql.into()]).await;
    }
}

fn kinds() -> [Kind; 2] {
    [Kind::MariaDb, Kind::MySql]
}

/// Reads with a token that is lost: at once, once, and never in the answer's token.
async fn check_lost(place: &Place, token: &Freshness) {
    let start = Instant::now();
    let page = place.page(token).await;
    assert!(start.elapsed() < Duration::from_millis(DEADLINE_MS) / 2, "{:?}", start.elapsed());
    assert!(page.is_complete() && !page.fresh_enough, "{page:?}");
    for position in token.positions() {
        assert!(!page.freshness.positions().contains(position), "a lost position returns");
    }
    assert!(place.page(&page.freshness).await.fresh_enough, "the next request is not lost");
}

/// The server resets its log: quiet, and while another program writes.
async fn check_resets(place: &mut Place) {
    for busy in [false, false, true] {
        let before = place.tributary.freshness(AUTHOR).await;
        let identities = place.log().log_identities;
        let stop = Arc::new(AtomicBool::new(false));
        let writing = busy.then(|| tokio::spawn(write(place, Arc::clone(&stop))));
        if busy {
            sleep(Duration::from_millis(200)).await;
        }
        place.reset().await;
        let id = place.post().await;
        place.until_shown(id, LEASE * BUSY_FACTOR).await;
        if let Some(writing) = writing {
            sleep(LEASE).await;
            stop.store(true, Ordering::Relaxed);
            writing.await.unwrap();
        }
        check_lost(place, &before).await;
        let published = place.tributary.publish(AUTHOR, "after the reset", None).await.unwrap();
        let page = place.page(&published.freshness).await;
        assert!(page.fresh_enough && !published.freshness.is_empty());
        assert!(page.posts.contains(&published.post), "the own post is not shown");
        assert!(place.log().log_identities > identities, "the log has the same identity");
        place.until_warm().await;
    }
    let identities = place.log().log_identities;
    place.server.execute(&["FLUSH BINARY LOGS".into(), "FLUSH BINARY LOGS".into()]).await;
    let id = place.post().await;
    place.until_shown(id, LEASE * BUSY_FACTOR).await;
    assert_eq!(place.log().log_identities, identities, "a rotation is not a reset");
}

/// Writes to a table that is not served, hundreds of times a second.
fn write(place: &Place, stop: Arc<AtomicBool>) -> impl Future<Output = ()> + use<> {
    let (server, database) = (Arc::clone(&place.server), place.fleet.databases[0].1.clone());
    async move {
        let mut connection = server.connect().await;
        let table = format!("CREATE TABLE IF NOT EXISTS {database}.noise (text TEXT)");
        connection.query_drop(table).await.unwrap();
        while !stop.load(Ordering::Relaxed) {
            let sql = format!("INSERT INTO {database}.noise VALUES (REPEAT('x', 5000))");
            connection.query_drop(sql).await.unwrap();
        }
        connection.disconnect().await.unwrap();
    }
}

/// A proxy holds up the stream of the log. Pages then come from the databases, and the reason is
/// known.
async fn check_held_stream(place: &mut Place) {
    place.link.hold_logs(true);
    let id = place.post().await;
    place.until_shown(id, LEASE * BUSY_FACTOR).await;
    assert!(!place.log().fresh, "late changes count as fresh");
    assert!(place.log().not_fresh.is_some(), "no reason is given");
    place.link.hold_logs(false);
    place.until_warm().await;
    assert_eq!(place.log().not_fresh, None);
}

/// Commits whose times lie in the past and in the future renew the lease as others do.
async fn check_clocks(place: &mut Place) {
    let database = place.fleet.databases[0].1.clone();
    let mut connection = place.server.connect().await;
    for offset in [-3_600, 10] {
        let clock = format!("SET timestamp = UNIX_TIMESTAMP(SYSDATE()) + {offset}");
        connection.query_drop(clock).await.unwrap();
        let start = Instant::now();
        while start.elapsed() < LEASE + Duration::from_millis(500) {
            place.ids += 1;
            let id = place.ids;
            let sql = format!("INSERT INTO {database}.tweets VALUES ({id}, {AUTHOR}, 'x', {id})");
            connection.query_drop(sql).await.unwrap();
            assert!(place.log().fresh, "{offset} s: {:?}", place.log());
            sleep(Duration::from_millis(200)).await;
        }
    }
    connection.disconnect().await.unwrap();
}

/// Tokens with positions that no log has, alone and together with true ones.
async fn check_forged_tokens(place: &Place) {
    let real = place.tributary.freshness(AUTHOR).await;
    let (identity, LogPosition(end)) = real.positions()[0];
    for forged in [
        (identity, LogPosition(u64::MAX)),
        (identity, LogPosition(end + 1_000_000)),
        (LogIdentity(identity.0 ^ 1), LogPosition(end)),
    ] {
        let mut token = Freshness::default();
        token.add(forged.0, forged.1);
        check_lost(place, &token).await;
    }
    let page = place.page(&real).await;
    assert!(page.fresh_enough && page.freshness.positions()[0].1.0 >= end);
}

/// The server is stopped and continues with an earlier state of its data. The names of its log
/// files and the creation of the first one stay the same.
async fn check_restored(place: &mut Place) {
    let dir = scratch();
    let copy = dir.path().join("copy");
    place.server.kill();
    place.server.back_up(&copy);
    place.server.launch();
    place.until_warm().await;
    let gone = place.post().await;
    place.until_shown(gone, LEASE * BUSY_FACTOR).await;
    let token = place.tributary.freshness(AUTHOR).await;
    let identities = place.log().log_identities;
    // The creation of a log file is known in seconds.
    sleep(Duration::from_millis(1_100)).await;
    place.server.kill();
    place.server.restore(&copy);
    place.server.launch();
    let start = Instant::now();
    let id = place.post().await;
    while place.log().log_identities == identities {
        assert!(start.elapsed() < LEASE * BUSY_FACTOR, "the log has the same identity");
        sleep(Duration::from_millis(20)).await;
    }
    println!("  restored log noticed after {:.1?}", start.elapsed());
    place.until_shown(id, LEASE * BUSY_FACTOR).await;
    check_lost(place, &token).await;
    let page = place.page(&Freshness::default()).await;
    assert!(page.posts.iter().all(|post| post.key.post.get() != gone), "it was never restored");
}

#[test]
fn freshness_survives_resets_held_streams_clocks_and_forged_tokens() {
    alone(async {
        for kind in kinds() {
            let Some(mut place) = Place::new(kind).await else { continue };
            println!("{kind:?}");
            check_forged_tokens(&place).await;
            check_resets(&mut place).await;
            check_held_stream(&mut place).await;
            check_clocks(&mut place).await;
            check_restored(&mut place).await;
        }
    });
}

/// New connections lead to a second server that has the same tables, and the feed stays on the
/// first one. A write that the second server commits must have no token of the first one's log.
#[test]
fn a_write_has_a_token_only_of_the_server_that_committed_it() {
    alone(async {
        let place = Place::new(Kind::MariaDb).await.unwrap();
        let other = Database::start(Kind::MariaDb).unwrap();
        let database = &place.fleet.databases[0].1;
        for (_, database) in &place.fleet.databases {
            let mut tables = mysql_tables(database).to_vec();
            tables.push(mysql_writes_table(database));
            make_shard(&other, database, &tables).await;
        }
        place.link.redirect_to(other.port);
        let writes = (0..24).map(|n| {
            let tributary = place.tributary.clone();
            async move { tributary.publish(AUTHOR, &format!("text {n}"), None).await.unwrap() }
        });
        let published = futures_util::future::join_all(writes).await;
        let mut connection = other.connect().await;
        let sql = format!("SELECT tweet_id FROM {database}.tweets");
        let elsewhere: Vec<u64> = connection.query(sql).await.unwrap();
        connection.disconnect().await.unwrap();
        assert!(!elsewhere.is_empty(), "all writes went to the first server");
        for published in published {
            let is_elsewhere = elsewhere.contains(&published.post.key.post.get());
            if is_elsewhere {
                assert!(published.freshness.is_empty(), "a token of another server's log");
                continue;
            }
            let request = PageRequest::default()
                .limit(Limit::new(Limit::MAX).unwrap())
                .at_least(published.freshness.clone());
            let page = place.tributary.home_timeline(READER, &request).await.unwrap();
            let kept = published.freshness.is_empty() || !page.fresh_enough;
            assert!(kept || page.posts.contains(&published.post), "kept but not shown");
        }
    });
}
