//! Many simultaneous requests for one page that memory does not have share reads of the databases,
//! and each of them sees its own writes.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tributary::{Freshness, Limit, Page, PageRequest, Tributary, UserId};

use crate::memory::FULL;
use crate::support::database::{Database, Kind};
use crate::support::fleet::{TestFleet, every_backend};
use crate::support::link::Link;
use crate::support::watch::Watch;
use crate::support::world::{Oracle, World, assert_page};
use crate::support::{run, user_id};

/// Simultaneous requests.
const HERD: usize = 200;
const READER: UserId = user_id(1);
const WRITERS: u64 = 8;
/// Posts of each writer; all of them fit on one page.
const WRITES: u64 = 12;

/// One reader who follows forty authors.
fn world() -> World {
    let mut world = World::default();
    for author in 10..50 {
        world.follow(READER.get(), author);
        for post in 0..30 {
            world.post(author, i64::try_from(post * 7 % 31).unwrap(), author * 100 + post);
        }
    }
    world
}

fn newest(limit: u8, token: Freshness) -> PageRequest {
    let limit = Limit::new(limit).unwrap();
    PageRequest::default().limit(limit).at_least(token)
}

/// Statements that this server has received so far, including this one.
async fn queries(database: &Database) -> u64 {
    let mut connection = database.connect().await;
    let sql = "SHOW GLOBAL STATUS LIKE 'Questions'";
    let (_, count): (String, u64) = connection.query_first(sql).await.unwrap().unwrap();
    connection.disconnect().await.unwrap();
    count
}

/// A server of its own with all shards, loaded, and the link that leads to it.
async fn alone(kind: Kind, world: &World) -> Option<(Arc<Database>, Link, TestFleet)> {
    let database = Arc::new(Database::start(kind)?);
    let fleet = TestFleet::on(&[Arc::clone(&database)]);
    for (server, name) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {name}")];
        statements.extend(tributary::internal::mysql_tables(name));
        server.execute(&statements).await;
    }
    fleet.load(world).await;
    let link = Link::start(database.port).await;
    let file = fleet.config_file.as_ref().unwrap();
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.replace(&database.address(), &format!("127.0.0.1:{}", link.port)))
        .unwrap();
    Some((database, link, fleet))
}

#[test]
fn a_herd_reads_the_databases_twice() {
    run(async {
        let world = world();
        let oracle = Oracle::new(&world);
        let feed = oracle.feed(READER);
        for kind in [Kind::MariaDb, Kind::MySql] {
            let Some((database, _link, fleet)) = alone(kind, &world).await else { continue };
            let tributary = fleet.open().await;
            let request = newest(20, Freshness::default());
            // Opens the connections and prepares the statements.
            for _ in 0..20 {
                tributary.home_timeline(READER, &request).await.unwrap();
            }
            let start = queries(&database).await;
            tributary.home_timeline(READER, &request).await.unwrap();
            let one = queries(&database).await - start;
            assert!(one >= 3, "a list, and two waves that read all shards: {one}");
            let start = queries(&database).await;
            let herd = (0..HERD).map(|_| tributary.home_timeline(READER, &request));
            let pages = join_all(herd).await;
            let all = queries(&database).await - start;
            for page in pages {
                assert_page(&page.unwrap(), &feed[..20], "in the herd");
            }
            println!("{kind:?}: {one} queries for one page, {all} for {HERD}");
            // Two reads. On a slow server they read each shard alone, perhaps in two waves more,
            // and the supervisor checks the server at the same time. One by one: at least 600.
            assert!(all <= 60, "{kind:?}: {one} for one, {all} for all");
            let mut least = u64::MAX;
            for _ in 0..3 {
                let authors = (0..HERD).map(|_| tributary.author_timeline(user_id(10), &request));
                let start = queries(&database).await;
                let pages = join_all(authors).await;
                let pages: Vec<Page> = pages.into_iter().map(Result::unwrap).collect();
                // The supervisor, which checks the server once a second, may add some to a run.
                least = least.min(queries(&database).await - start);
                assert!(pages.iter().all(|page| *page == pages[0] && page.posts.len() == 20));
            }
            assert!(least <= 12, "{kind:?}: {least} queries for {HERD} pages of an author");
        }
    });
}

/// Right after a start memory has no tails yet, and every request brings a token.
#[test]
fn a_herd_with_tokens_needs_few_queries_on_a_cold_memory() {
    run(async {
        let world = world();
        let oracle = Oracle::new(&world);
        let (database, _link, fleet) = alone(Kind::MariaDb, &world).await.unwrap();
        let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
        Watch::start(&tributary).await.until_heads_known().await;
        let token = tributary.freshness(READER).await;
        let start = queries(&database).await;
        let request = newest(20, token);
        let herd = (0..HERD).map(|_| tributary.home_timeline(READER, &request));
        let pages = join_all(herd).await;
        let all = queries(&database).await - start;
        for page in pages {
            let page = page.unwrap();
            assert_page(&page, &oracle.feed(READER)[..20], "in the herd");
            assert!(page.fresh_enough && !page.freshness.is_empty());
        }
        println!("{all} queries for {HERD}");
        // Fills and audits query the server at the same time.
        assert!(all < HERD as u64, "{all}");
    });
}

/// Writes, and after each write reads the page that all writers are on; its own posts must be
/// there.
async fn write_and_read(tributary: &Tributary, author: UserId) {
    let mut mine = Vec::new();
    for number in 0..WRITES {
        let text = format!("{number} of {author}");
        mine.push(tributary.publish(author, &text, None).await.unwrap().post);
        // Without memory the token is empty.
        let token = tributary.freshness(author).await;
        let page = tributary.home_timeline(READER, &newest(100, token)).await.unwrap();
        assert!(page.is_complete() && page.fresh_enough);
        let here: Vec<_> = page.posts.iter().filter(|post| post.key.author == author).collect();
        let written: Vec<_> = mine.iter().rev().collect();
        assert_eq!(
            here, written,
            "a page misses a post that was written before the page was requested"
        );
    }
}

#[test]
fn a_shared_page_has_what_each_of_its_readers_wrote() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let mut config = fleet.config_for_writing().await;
            // Without memory, and with room for nothing but the index.
            for bytes in [0, 8 << 10] {
                config.memory = fleet.config_with_memory(bytes).memory;
                let tributary = Tributary::open(&config).await.unwrap();
                let writers: Vec<UserId> = (0..WRITERS).map(|n| user_id(1_000 + n)).collect();
                tributary.follow_all(READER, &writers).await.unwrap();
                if bytes > 0 {
                    Watch::start(&tributary).await.until_heads_known().await;
                }
                join_all(writers.iter().map(|author| write_and_read(&tributary, *author))).await;
                for author in writers {
                    let request = newest(100, Freshness::default());
                    for post in tributary.author_timeline(author, &request).await.unwrap().posts {
                        tributary.delete_post(author, post.key.post).await.unwrap();
                    }
                }
                println!("{backend:?}, {bytes} bytes");
            }
        }
    });
}

/// On a slow link, requests are dropped while one of them reads for the others.
#[test]
fn a_request_that_reads_for_others_may_be_dropped() {
    run(async {
        let world = world();
        let oracle = Oracle::new(&world);
        let (_database, link, fleet) = alone(Kind::MariaDb, &world).await.unwrap();
        let tributary = fleet.open().await;
        let request = || {
            let tributary = tributary.clone();
            tokio::spawn(async move {
                let page: Page = tributary
                    .home_timeline(READER, &newest(20, Freshness::default()))
                    .await
                    .unwrap();
                page
            })
        };
        assert_page(&request().await.unwrap(), &oracle.feed(READER)[..20], "alone");
        link.slow(Duration::from_millis(20));
        let mut herd = Vec::new();
        for _ in 0..60 {
            herd.push(request());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // These include the request that reads now and the one that would have read next.
        for dropped in herd.drain(..40) {
            dropped.abort();
        }
        for page in join_all(herd).await {
            assert_page(&page.unwrap(), &oracle.feed(READER)[..20], "after others left");
        }
    });
}
