//! Conformance of every backend: in every world, each page equals the oracle's.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use tributary::internal::Follow;
use tributary::{Cursor, Limit, PageRequest, ReadError, Tributary};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend, load_into};
use crate::support::http::TestServer;
use crate::support::world::{Oracle, Walk, World, assert_page, check_walk};
use crate::support::{post_id, run, size, user_id};

/// Users of a random world. Worlds of one fleet use ranges of ids that do not overlap.
const USERS: u64 = 12;
const POST_IDS: u64 = 40;

/// Few users, times and ids, so that collisions are frequent: times tie across shards, ids are not
/// in time order, and one id is used on several shards.
fn small_world() -> impl Strategy<Value = World> {
    let follows = prop::collection::btree_set((0..USERS, 0..USERS), 0..60);
    let posts = prop::collection::vec((0..USERS, 0i64..6, 0..POST_IDS), 0..150);
    (follows, posts).prop_map(|(follows, posts)| {
        let mut world = World::default();
        for (follower, followee) in follows {
            world.follow(follower, followee);
        }
        let mut taken = BTreeSet::new();
        for (author, time, post) in posts {
            if taken.insert((author % SHARDS, post)) {
                world.post(author, time, post);
            }
        }
        world
    })
}

/// The same world with other ids; users stay on their shards.
fn moved(mut world: World) -> World {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (users, posts) = (number * USERS.next_multiple_of(SHARDS), number * POST_IDS);
    for Follow { follower, followee } in &mut world.follows {
        *follower = user_id(follower.get() + users);
        *followee = user_id(followee.get() + users);
    }
    for post in &mut world.posts {
        post.key.author = user_id(post.key.author.get() + users);
        post.key.post = post_id(post.key.post.get() + posts);
    }
    world
}

#[test]
fn pages_of_random_small_worlds_equal_the_oracle() {
    for (backend, fleet) in run(every_backend()) {
        let cases = if backend == Backend::Sqlite { size(100, 2_000) } else { size(20, 600) };
        let config = Cases { cases, failure_persistence: None, ..Cases::default() };
        let walks = (small_world(), prop::sample::select(vec![1u8, 2, 7, 20]));
        let outcome = TestRunner::new(config).run(&walks, |(world, limit)| {
            let world = moved(world);
            run(async {
                fleet.load(&world).await;
                let tributary = fleet.open().await;
                let oracle = Oracle::new(&world);
                for reader in oracle.readers() {
                    let walk = Walk { limit, pages_max: usize::MAX, with_prev: true };
                    check_walk(&tributary, &oracle.feed(reader), reader, walk).await;
                }
            });
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{backend:?}: {error}"));
    }
}

#[test]
fn two_thousand_followees_and_an_author_timeline() {
    run(async {
        let mut world = World::default();
        for author in 1..=2_000 {
            world.follow(5_000, author);
            // Most authors have few posts; every hundredth has many.
            let posts = if author % 100 == 0 { 40 } else { author % 3 };
            for n in 0..posts {
                // Times tie, and are not in the order of ids.
                let time = i64::try_from((author * 7_919 + n * 104_729) % 1_500).unwrap();
                world.post(author, time, author * 1_000 + n);
            }
        }
        let oracle = Oracle::new(&world);
        for (backend, fleet) in every_backend().await {
            fleet.load(&world).await;
            let tributary = fleet.open().await;
            let walk = Walk { limit: 100, pages_max: usize::MAX, with_prev: true };
            let pages =
                check_walk(&tributary, &oracle.feed(user_id(5_000)), user_id(5_000), walk).await;
            assert!(pages > 50, "{backend:?}: only {pages} pages");

            let mut author_world = world.clone();
            author_world.follows = vec![Follow { follower: user_id(0), followee: user_id(1_900) }];
            let expected = Oracle::new(&author_world);
            let expected = expected.feed(user_id(0));
            let request = PageRequest::default().limit(Limit::new(100).unwrap());
            let page = tributary.author_timeline(user_id(1_900), &request).await.unwrap();
            assert_page(&page, &expected, "author timeline");
            assert_eq!(page.next, None);
        }
    });
}

#[test]
fn an_author_with_very_many_followers_is_read_like_any_other() {
    let last = size(100_000, 1_000_000);
    run(async {
        let mut world = World::default();
        world.follow(4, 7);
        world.follow(4, 8);
        for n in 0..50 {
            world.post(7, 100 + n, 1_000 + n.unsigned_abs());
            world.post(8, 100 + n, 1_000 + n.unsigned_abs());
        }
        let oracle = Oracle::new(&world);
        for (backend, fleet) in every_backend().await {
            fleet.load(&world).await;
            // Readers 10 to `last`, each on the shard that owns it.
            let rows = format!(
                "WITH RECURSIVE n (n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM n WHERE n < {last})"
            );
            for shard in 0..SHARDS {
                let select = format!("SELECT n, 7 FROM n WHERE n % {SHARDS} = {shard}");
                match usize::try_from(shard).ok().and_then(|shard| fleet.databases.get(shard)) {
                    Some((server, database)) => {
                        let mut connection = server.connect().await;
                        let settings = "SET /*M!100101 max_recursive_iterations = 2000000 */ \
                             /*!80003 cte_max_recursion_depth = 2000000 */";
                        let insert = format!("INSERT INTO {database}.followers {rows} {select}");
                        use mysql_async::prelude::Queryable;
                        connection.query_drop(settings).await.unwrap();
                        connection.query_drop(insert).await.unwrap();
                        connection.disconnect().await.unwrap();
                    }
                    None => {
                        let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
                        let connection = rusqlite::Connection::open(file).unwrap();
                        let insert = format!("{rows} INSERT INTO followers {select}");
                        connection.execute(&insert, []).unwrap();
                    }
                }
            }
            let tributary = fleet.open().await;
            let walk = Walk { limit: 20, pages_max: usize::MAX, with_prev: true };
            check_walk(&tributary, &oracle.feed(user_id(4)), user_id(4), walk).await;
            let page = tributary.home_timeline(user_id(last), &PageRequest::default()).await;
            let page = page.unwrap();
            assert_eq!(page.posts.len(), 20, "{backend:?}");
            assert!(page.posts.iter().all(|post| post.key.author == user_id(7)));
        }
    });
}

/// Adopted tables may hold a follow twice. The duplicate must not shorten the list.
#[test]
fn a_follow_that_is_stored_twice_counts_once() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Old).await else { continue };
            let mut world = World::default();
            for followee in [2, 2, 3, 4, 4, 4, 5, 6] {
                world.follow(4, followee);
            }
            fleet.load_by_sql(&world).await;
            let tributary = fleet.open().await;
            let (mut found, mut from) = (Vec::new(), Some(user_id(0)));
            while let Some(next) = from {
                let page =
                    tributary.following(user_id(4), next, Limit::new(2).unwrap()).await.unwrap();
                found.extend(page.followees.iter().map(|user| user.get()));
                from = page.next;
            }
            assert_eq!(found, [2, 3, 4, 5, 6], "{backend:?}");
        }
    });
}

#[test]
fn cursors_at_the_ends_of_a_timeline_work() {
    run(async {
        let mut world = World::default();
        world.follow(1, 2);
        world.follow(3, 4);
        world.post(2, 1_000, 50);
        world.post(2, 2_000, 40);
        for (backend, fleet) in every_backend().await {
            fleet.load(&world).await;
            let tributary = fleet.open().await;
            unknown_and_empty_readers(&tributary, backend).await;
            the_top_stays_usable(&tributary).await;
            deleted_anchor(&tributary, &fleet).await;
        }
    });
}

async fn unknown_and_empty_readers(tributary: &Tributary, backend: Backend) {
    for reader in [99, 3] {
        let page = tributary.home_timeline(user_id(reader), &PageRequest::default()).await.unwrap();
        assert!(page.posts.is_empty() && page.is_complete(), "{backend:?}");
        assert_eq!(page.next, None);
        assert_eq!(page.prev, Cursor::newer(tributary::internal::Edge::Bottom));
    }
}

/// At the top, `prev` gives an empty page. Its `prev` finds later posts, and its `next` leads back
/// to the first page.
async fn the_top_stays_usable(tributary: &Tributary) {
    let limit = Limit::new(2).unwrap();
    let read = async |cursor| {
        let request = PageRequest::default().from(cursor).limit(limit);
        tributary.home_timeline(user_id(1), &request).await.unwrap()
    };
    let ids = |page: &tributary::Page| -> Vec<u64> {
        page.posts.iter().map(|post| post.key.post.get()).collect()
    };
    let first = read(Cursor::newest()).await;
    assert_eq!((ids(&first), first.next), (vec![40, 50], None));
    let top = read(first.prev).await;
    assert_eq!(ids(&top), [0u64; 0]);
    assert_eq!(ids(&read(top.next.clone().unwrap()).await), [40, 50]);
    let still_top = read(top.prev).await;
    assert_eq!(ids(&still_top), [0u64; 0]);

    let mut later = World::default();
    later.post(2, 3_000, 30);
    later.post(2, 4_000, 20);
    later.post(2, 4_000, 10);
    load_into(tributary::internal::fleet(tributary), &later).await;
    let nearest = read(still_top.prev).await;
    assert_eq!(ids(&nearest), [10, 30], "the nearest above, newest first");
    assert_eq!(ids(&read(nearest.next.unwrap()).await), [40, 50]);
    let newest = read(nearest.prev).await;
    assert_eq!(ids(&newest), [20]);
}

/// On a page towards newer posts, `next` is null exactly if no older post exists. This holds even
/// if the post next to the cursor was deleted.
async fn deleted_anchor(tributary: &Tributary, fleet: &TestFleet) {
    let key = |time, post| tributary::PostKey { time, post: post_id(post), author: user_id(2) };
    let above_oldest = Cursor::newer(tributary::internal::Edge::above(key(1_000, 50)));
    let request = PageRequest::default().from(above_oldest).limit(Limit::DEFAULT);
    let page = tributary.home_timeline(user_id(1), &request).await.unwrap();
    assert!(page.next.is_some());
    match fleet.databases.get(2) {
        Some((server, database)) => {
            let sql = format!("DELETE FROM {database}.tweets WHERE tweet_id = 50");
            server.execute(&[sql]).await;
        }
        None => {
            let file = fleet.dir.path().join("data/shard-2.sqlite");
            let connection = rusqlite::Connection::open(file).unwrap();
            assert_eq!(connection.execute("DELETE FROM tweets WHERE tweet_id = 50", []), Ok(1));
        }
    }
    let page = tributary.home_timeline(user_id(1), &request).await.unwrap();
    assert_eq!(page.posts.len(), 4);
    assert_eq!(page.next, None);
}

#[test]
fn a_follow_list_over_the_cap_is_refused_not_cut() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        fleet.load(&World::default()).await;
        let file = fleet.dir.path().join("data/shard-1.sqlite");
        let connection = rusqlite::Connection::open(file).unwrap();
        let rows = |from: u32, to: u32| {
            format!(
                "WITH RECURSIVE n (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n WHERE n < {to})
                 INSERT INTO followers SELECT 1, n FROM n"
            )
        };
        connection.execute(&rows(1, 100_000), []).unwrap();
        let tributary = fleet.open().await;
        let read = async || tributary.home_timeline(user_id(1), &PageRequest::default()).await;
        assert!(read().await.unwrap().is_complete());
        connection.execute(&rows(100_001, 100_001), []).unwrap();
        assert_eq!(read().await, Err(ReadError::TooManyFollowees));
        let server = TestServer::start(tributary.clone()).await;
        let refused = server.get("/v1/users/1/feed?explain=1").await;
        assert_eq!(refused.problem(), (422, "too_many_followees".into()));
        let explain = &refused.json()["explain"];
        assert_eq!(explain["waves"][0]["shards"][0]["rows"], 100_001);
        assert!(explain["followees"].is_null() && explain["shards"][1]["queried"] == true);
    });
}
