//! Memory decides how fast a page is, never its content. These tests read pages of random worlds
//! with a memory that holds everything, and with one that holds almost nothing. They compare the
//! pages with the oracle before, between and after writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tributary::{Cursor, Limit, Page, PageRequest, Post, Tributary, UserId};

use crate::adopted::{TEAMS, adopt, world as team_world};
use crate::support::database::{mariadb, mysql};
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::watch::{Watch, at_least, until_warm};
use crate::support::world::{Oracle, Walk, World, check_walk};
use crate::support::{self, run, size, user_id};

/// A budget in bytes that holds any world of these tests.
pub(crate) const FULL: usize = 64 << 20;
/// A budget in bytes that holds the index of a world's users and a few tails.
const SMALL: usize = 16 << 10;
const USERS: u64 = 24;
/// More than a tail is filled with at first.
const POSTS_MAX: u64 = 150;

/// Times tie across shards, ids are not in time order, and one id is used on several shards.
fn random_world(seed: u64) -> World {
    let mut chance = StdRng::seed_from_u64(support::seed(seed));
    let (mut world, mut taken) = (World::default(), BTreeSet::new());
    for reader in 0..USERS {
        let share = f64::from(chance.random_range(0..100u32)) / 100.0;
        for author in 0..USERS {
            if chance.random_bool(share) {
                world.follow(reader, author);
            }
        }
    }
    for author in 0..USERS {
        let posts = if author % 7 == 0 { POSTS_MAX } else { chance.random_range(0..20) };
        for _ in 0..posts {
            let (time, id) = (chance.random_range(0..60), chance.random_range(0..100_000));
            if taken.insert((author % SHARDS, id)) {
                world.post(author, time, id);
            }
        }
    }
    world
}

async fn walk_all(tributary: &Tributary, oracle: &Oracle, limits: &[u8]) -> usize {
    let mut pages = 0;
    for (reader, limit) in oracle.readers().into_iter().zip(limits.iter().cycle()) {
        let walk = Walk { limit: *limit, pages_max: usize::MAX, with_prev: true };
        pages += check_walk(tributary, &oracle.feed(reader), reader, walk).await;
    }
    pages
}

#[test]
fn pages_are_the_same_with_a_large_and_a_tiny_memory() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let world = random_world(1);
            let oracle = Oracle::new(&world);
            fleet.load(&world).await;

            let full = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
            let watch = Watch::start(&full).await;
            // Three times: before anything is cached, while memory is filled, and when it is
            // full.
            let pages = walk_all(&full, &oracle, &[20, 50]).await;
            watch.until_heads_known().await;
            walk_all(&full, &oracle, &[7, 100, 20]).await;
            for reader in oracle.readers() {
                until_warm(&full, reader, 20).await;
            }
            let listed = |counters: &BTreeMap<String, u64>| {
                counters["recent_entries"] >= counters["tail_posts"]
            };
            watch.until("all listed by time", listed).await;
            let walked = watch.counters().await["walked_pages"];
            for reader in oracle.readers() {
                let feed = oracle.feed(reader);
                for limit in [1, 7, 100] {
                    let walk = Walk { limit, pages_max: 3, with_prev: true };
                    check_walk(&full, &feed, reader, walk).await;
                }
            }
            watch.until_audited(1).await;
            let counted = watch.counters().await;
            assert_eq!((counted["evictions"], counted["mismatched"]), (0, 0), "{counted:?}");
            // Two pages below the newest per reader and limit; few readers follow enough authors.
            assert!(counted["walked_pages"] > walked + 10, "{walked} before, {counted:?}");
            drop((watch, full));

            let small = Tributary::open(&fleet.config_with_memory(SMALL)).await.unwrap();
            let watch = Watch::start(&small).await;
            walk_all(&small, &oracle, &[20, 100, 7]).await;
            let counted = watch.counters().await;
            assert!(counted["evictions"] > 20, "{backend:?}: {counted:?}");
            assert!(counted["fills"] > counted["evictions"] / 2, "{backend:?}: {counted:?}");
            assert_eq!(counted["mismatched"], 0);
            println!("{backend:?}: {pages} pages a walk, {counted:?}");
        }
    });
}

/// If all cached data is in use, memory does not evict it for each new request.
#[test]
fn a_memory_that_is_far_too_small_pauses_its_fills() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let world = random_world(3);
        let oracle = Oracle::new(&world);
        fleet.load(&world).await;
        let tributary = Tributary::open(&fleet.config_with_memory(SMALL)).await.unwrap();
        let watch = Watch::start(&tributary).await;
        watch.until_heads_known().await;
        // In its first second memory cannot know which data is in use.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let (start, before, mut pages) = (Instant::now(), watch.counters().await, 0);
        while start.elapsed() < Duration::from_millis(2_500) {
            pages += walk_all(&tributary, &oracle, &[20]).await;
        }
        let after = watch.counters().await;
        let fills = after["fills"] - before["fills"];
        println!("{fills} fills for {pages} pages");
        assert!(fills < pages as u64, "{fills} fills for {pages} pages");
        // Requested data is still filled from time to time.
        assert!(after["evictions"] > before["evictions"] + 4, "{after:?}");
    });
}

/// A client that counts through ids must not fill the index of users, which is never emptied.
#[test]
fn readers_that_do_not_exist_take_no_slot() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(&random_world(4)).await;
        let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
        let watch = Watch::start(&tributary).await;
        watch.until_heads_known().await;
        until_warm(&tributary, user_id(0), 20).await;
        // The reader and its followees without posts take a slot when the follow list is filled.
        watch.until("filled", |counters| counters["follow_edges"] > 0).await;
        let before = watch.counters().await["users"];
        assert!((2..=USERS).contains(&before), "{before}");
        let request = PageRequest::default();
        for id in 1_000..1_200 {
            let page = tributary.home_timeline(user_id(id), &request).await.unwrap();
            let own = tributary.author_timeline(user_id(id), &request).await.unwrap();
            assert!(page.posts.is_empty() && page.next.is_none() && own.posts.is_empty());
        }
        // Fill requests are fulfilled within a few milliseconds.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(watch.counters().await["users"], before);
    });
}

/// Pages and cursors from memory equal those from the databases.
#[test]
fn cursors_are_the_same_with_memory_and_without() {
    run(async {
        for (backend, fleet) in every_backend().await {
            fleet.load(&random_world(2)).await;
            let plain = async || Tributary::open(&fleet.config()).await.unwrap();
            let (mut pages, mut asked) = (Vec::new(), Vec::new());
            let without = plain().await;
            for reader in (0..USERS).step_by(3) {
                let mut request = PageRequest::default().limit(Limit::new(9).unwrap());
                for _ in 0..6 {
                    let page = without.home_timeline(user_id(reader), &request).await.unwrap();
                    let above = request.clone().from(page.prev.clone());
                    let next = page.next.clone();
                    asked.push((user_id(reader), request.clone()));
                    pages.push(page);
                    asked.push((user_id(reader), above.clone()));
                    pages.push(without.home_timeline(user_id(reader), &above).await.unwrap());
                    let Some(cursor) = next else { break };
                    request.cursor = cursor;
                }
            }
            // A folder has one owner.
            drop(without);
            for bytes in [FULL, SMALL] {
                let tributary = Tributary::open(&fleet.config_with_memory(bytes)).await.unwrap();
                let watch = Watch::start(&tributary).await;
                watch.until_heads_known().await;
                for _ in 0..2 {
                    for ((reader, request), expected) in asked.iter().zip(&pages) {
                        let page = tributary.home_timeline(*reader, request).await.unwrap();
                        assert!(page.is_complete() && page.stale.is_empty());
                        let parts = |page: &Page| {
                            (page.posts.clone(), page.next.clone(), page.prev.clone())
                        };
                        assert_eq!(parts(&page), parts(expected), "{backend:?} {request:?}");
                    }
                }
            }
        }
    });
}

/// Writes by this process: a read with a freshness token that was taken after a write sees the
/// write.
#[test]
fn a_page_with_a_freshness_token_shows_earlier_writes() {
    run(async {
        for (backend, fleet) in every_backend().await {
            for bytes in [FULL, SMALL] {
                let mut config = fleet.config_for_writing().await;
                config.memory = fleet.config_with_memory(bytes).memory;
                let tributary = Tributary::open(&config).await.unwrap();
                let watch = Watch::start(&tributary).await;
                watch.until_heads_known().await;
                let start = Instant::now();
                let writes = write_and_read(&tributary, &watch, bytes as u64).await;
                println!("{backend:?}, {bytes} bytes: {writes} writes in {:?}", start.elapsed());
                let hits = watch.counters().await["page_cache_hits"];
                assert!(bytes == SMALL || hits > 100, "{hits} page cache hits");
            }
        }
    });
}

/// The expected content of the fleet, according to the writer.
#[derive(Default)]
struct Expected {
    follows: BTreeMap<UserId, BTreeSet<UserId>>,
    posts: BTreeMap<UserId, Vec<Post>>,
}

impl Expected {
    fn feed(&self, reader: UserId) -> Vec<&Post> {
        let followees = self.follows.get(&reader).into_iter().flatten();
        let posts = followees.filter_map(|author| self.posts.get(author));
        let mut feed: Vec<&Post> = posts.flatten().collect();
        feed.sort_by_key(|post| std::cmp::Reverse(post.key));
        feed
    }
}

async fn write_and_read(tributary: &Tributary, watch: &Watch, seed: u64) -> usize {
    let writes = size(120, 5_000);
    let mut chance = StdRng::seed_from_u64(support::seed(seed));
    let mut known = Expected::default();
    // Users that are not registered yet.
    let base = 1_000 * (seed + 1);
    for write in 0..writes {
        let [author, reader] = [0; 2].map(|_| user_id(base + chance.random_range(0..10)));
        let posts = known.posts.entry(author).or_default();
        let written = match chance.random_range(0..10) {
            0..5 => {
                let text = format!("{write} \"of\" {author}\n✓");
                posts.push(tributary.publish(author, &text, None).await.unwrap().post);
                author
            }
            5..7 if !posts.is_empty() => {
                let post = posts.swap_remove(chance.random_range(0..posts.len()));
                tributary.delete_post(author, post.key.post).await.unwrap();
                author
            }
            7 => {
                tributary.unfollow(reader, author).await.unwrap();
                known.follows.entry(reader).or_default().remove(&author);
                reader
            }
            _ => {
                tributary.follow(reader, author).await.unwrap();
                known.follows.entry(reader).or_default().insert(author);
                reader
            }
        };
        let token = tributary.freshness(written).await;
        assert!(!token.is_empty());
        let limit = Limit::new([1, 7, 20, 100][write % 4]).unwrap();
        for reader in (0..10).map(|n| user_id(base + n)).filter(|r| r.get() % 3 == write as u64 % 3)
        {
            let request = at_least(&token, limit);
            let page = tributary.home_timeline(reader, &request).await.unwrap();
            assert!(page.fresh_enough && page.is_complete(), "{page:?}");
            let feed = known.feed(reader);
            let expected: Vec<Post> = feed.iter().take(limit.get()).map(|p| (*p).clone()).collect();
            assert_eq!(page.posts, expected, "write {write}, reader {reader}");
            assert_eq!(page.next.is_none(), feed.len() <= limit.get());
            watch.check_newest_page(reader, &token, limit, &page).await;
        }
        let page = tributary.author_timeline(author, &at_least(&token, limit)).await.unwrap();
        let mut posts = known.posts[&author].clone();
        posts.sort_by_key(|post| std::cmp::Reverse(post.key));
        posts.truncate(limit.get());
        assert_eq!(page.posts, posts, "write {write}, author {author}");
    }
    writes
}

/// Pages far below the newest are found in the recent log. They contain posts that were written
/// after their authors were listed.
#[test]
fn deep_pages_show_recent_writes() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let mut config = fleet.config_for_writing().await;
            config.memory = fleet.config_with_memory(FULL).memory;
            let tributary = Tributary::open(&config).await.unwrap();
            let watch = Watch::start(&tributary).await;
            watch.until_heads_known().await;
            let (reader, authors) = (user_id(700), (701..721).map(user_id).collect::<Vec<_>>());
            let mut known = Expected::default();
            for author in &authors {
                tributary.follow(reader, *author).await.unwrap();
                known.follows.entry(reader).or_default().insert(*author);
            }
            write(&tributary, &mut known, &authors, 60).await;
            until_applied(&tributary, reader, &authors).await;
            until_warm(&tributary, reader, 100).await;
            let posts = known.feed(reader).len() as u64;
            let listed = |counters: &BTreeMap<String, u64>| {
                counters["tail_posts"] == posts && counters["recent_entries"] >= posts
            };
            watch.until("all listed by time", listed).await;
            let before = watch.counters().await["walked_pages"];
            write(&tributary, &mut known, &authors, 60).await;
            until_applied(&tributary, reader, &authors).await;
            let walk = Walk { limit: 5, pages_max: usize::MAX, with_prev: false };
            let pages = check_walk(&tributary, &known.feed(reader), reader, walk).await;
            let walked = watch.counters().await["walked_pages"] - before;
            println!("{backend:?}: {walked} of {pages} pages came from the recent log");
            assert!(walked > pages as u64 / 2, "{walked} of {pages}");
        }
    });
}

/// Waits until memory has all that was written to the shards of these users.
async fn until_applied(tributary: &Tributary, reader: UserId, authors: &[UserId]) {
    for user in authors.iter().chain([&reader]) {
        let request = at_least(&tributary.freshness(*user).await, Limit::DEFAULT);
        assert!(tributary.home_timeline(reader, &request).await.unwrap().fresh_enough);
    }
}

/// Writes new posts of these authors. Every fourth step also deletes a post of any age.
async fn write(tributary: &Tributary, known: &mut Expected, authors: &[UserId], posts: usize) {
    let mut chance = StdRng::seed_from_u64(support::seed(posts as u64));
    for number in 0..posts {
        let author = authors[number * 7 % authors.len()];
        let of = known.posts.entry(author).or_default();
        if number % 4 == 3 && !of.is_empty() {
            let post = of.swap_remove(chance.random_range(0..of.len()));
            tributary.delete_post(author, post.key.post).await.unwrap();
        }
        of.push(tributary.publish(author, &format!("post {number}"), None).await.unwrap().post);
    }
}

/// A team's own tables: other units and zones, marks instead of deletes, handles that change.
#[test]
fn pages_of_adopted_tables_are_the_same_from_memory() {
    run(async {
        let mysql = mysql().map(|server| vec![Arc::clone(server)]);
        for servers in [Some(mariadb().to_vec()), mysql].into_iter().flatten() {
            // Each team has a fleet of its own.
            for team in [&TEAMS[0], &TEAMS[3], &TEAMS[4]] {
                let world = team_world(&team.times());
                let fleet = adopt(&servers, team, &world).await;
                let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
                let watch = Watch::start(&tributary).await;
                watch.until_heads_known().await;
                let oracle = Oracle::new(&world);
                walk_all(&tributary, &oracle, &[7]).await;
                for reader in oracle.readers() {
                    until_warm(&tributary, reader, 100).await;
                }
                walk_all(&tributary, &oracle, &[7, 20]).await;
                changes_of_a_team(&fleet, &tributary, &watch, team.unit).await;
                watch.until_audited(1).await;
                assert_eq!(watch.counters().await["mismatched"], 0);
            }
        }
    });
}

/// Makes each change by plain SQL on the shard of user 3. The next page must equal the one
/// without memory.
async fn changes_of_a_team(fleet: &TestFleet, tributary: &Tributary, watch: &Watch, unit: &str) {
    let plain = fleet.open().await;
    let (server, database) = &fleet.databases[3];
    let posts = format!("{database}.`status``es`");
    let graph = format!("{database}.`my graph`");
    let accounts = format!("{database}.accounts");
    let mut connection = server.connect().await;
    let mark =
        |state: &str, id: u64| format!("UPDATE {posts} SET state = '{state}' WHERE id = {id}");
    for sql in [
        mark("gone", 301),
        mark("it''s public", 301),
        // A post that was hidden from the start.
        mark("it''s public", 10_302),
        mark("IT''S PUBLIC", 303),
        format!("UPDATE {posts} SET `select` = 'other' WHERE id = 304"),
        format!("UPDATE {posts} SET account = 7 WHERE id = 305"),
        format!("UPDATE {posts} SET id = 3999 WHERE id = 306"),
        format!("DELETE FROM {posts} WHERE id = 307"),
        format!("UPDATE {accounts} SET Name = 'called otherwise' WHERE ID = 3"),
        format!("UPDATE {accounts} SET Shown = 'Another Name' WHERE ID = 3"),
        format!("UPDATE {accounts} SET Shown = NULL WHERE ID = 1"),
        format!("DELETE FROM {accounts} WHERE ID = 7"),
        format!("DELETE FROM {graph} WHERE `from` = 3 AND `to` = 3"),
        format!("INSERT IGNORE INTO {graph} (`from`, `to`) VALUES (3, 3), (3, 7), (3, 5)"),
    ] {
        connection.query_drop(&sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        let token = tributary.freshness(user_id(3)).await;
        for reader in 0..4 {
            let limit = Limit::new(100).unwrap();
            let page = tributary.home_timeline(user_id(reader), &at_least(&token, limit)).await;
            let page = page.unwrap();
            let expected =
                plain.home_timeline(user_id(reader), &at_least(&token, limit)).await.unwrap();
            assert!(page.fresh_enough, "{unit}: {sql}");
            let parts = |page: &Page| (page.posts.clone(), page.names.clone());
            assert_eq!(parts(&page), parts(&expected), "{unit}: {sql}");
            watch.check_newest_page(user_id(reader), &token, limit, &page).await;
        }
    }
    connection.disconnect().await.unwrap();
}

/// If a follow is stored twice, it ends with its last row.
#[test]
fn a_follow_that_is_stored_twice_ends_with_its_last_row() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Old).await else { continue };
            let mut world = World::default();
            for followee in [2, 2, 3, 3, 3] {
                world.follow(4, followee);
            }
            for author in [2, 3, 5] {
                world.post(author, 10, author);
            }
            fleet.load_by_sql(&world).await;
            let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
            until_warm(&tributary, user_id(4), 20).await;
            let (server, database) = &fleet.databases[0];
            let graph = format!("{database}.followers");
            let of = |n| format!("DELETE FROM {graph} WHERE followed_user_id = {n} LIMIT 1");
            let insert = format!("INSERT INTO {graph} VALUES (4, 5), (4, 5)");
            let steps = [
                (of(2), vec![3, 2]),
                (of(3), vec![3, 2]),
                (of(2), vec![3]),
                (insert, vec![5, 3]),
                (of(5), vec![5, 3]),
                (of(3), vec![5, 3]),
                (of(3), vec![5]),
            ];
            for (sql, expected) in steps {
                server.execute(std::slice::from_ref(&sql)).await;
                let token = tributary.freshness(user_id(4)).await;
                let request = at_least(&token, Limit::DEFAULT);
                let page = tributary.home_timeline(user_id(4), &request).await.unwrap();
                let ids: Vec<u64> = page.posts.iter().map(|post| post.key.author.get()).collect();
                assert_eq!(ids, expected, "{backend:?}: {sql}");
            }
        }
    });
}

/// A file of a shard into which another program writes.
#[test]
fn writes_of_another_program_into_a_file_are_seen() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(&random_world(3)).await;
        let tributary = Tributary::open(&fleet.config_with_memory(FULL)).await.unwrap();
        Watch::start(&tributary).await.until_heads_known().await;
        let reader = user_id(1);
        let file = fleet.dir.path().join("data/shard-1.sqlite");
        assert!(fs::exists(&file).unwrap());
        let other = rusqlite::Connection::open(file).unwrap();
        other.execute("INSERT OR IGNORE INTO followers VALUES (1, 1)", []).unwrap();
        for n in 0..20i64 {
            let sql = "INSERT INTO tweets (tweet_id, user_id, content, timestamp) \
                       VALUES (?, 1, 'by others', ?)";
            other.execute(sql, [900_000 + n, 1_000 + n]).unwrap();
            let token = tributary.freshness(reader).await;
            let request = at_least(&token, Limit::new(1).unwrap());
            let start = Instant::now();
            let page = tributary.home_timeline(reader, &request).await.unwrap();
            assert!(page.fresh_enough && start.elapsed() < Duration::from_secs(3));
            assert_eq!(page.posts[0].key.post.get(), 900_000 + n.unsigned_abs());
            assert_ne!(page.next, None);
            let top = PageRequest::default().from(page.prev);
            assert!(tributary.home_timeline(reader, &top).await.unwrap().posts.is_empty());
        }
        assert_eq!(Cursor::newest(), PageRequest::default().cursor);
    });
}
