//! Memory stays within its budget, its index of users gives slots back, and follow lists that are
//! too long cost nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tributary::{Limit, PageRequest, ReadError, Tributary, UserId, WriteError};

use crate::commands::Serving;
use crate::memory::FULL;
use crate::support::database::Database;
use crate::support::fleet::{Backend, Tables, TestFleet, every_backend};
use crate::support::watch::{Watch, until_warm};
use crate::support::world::{Oracle, Walk, World, check_walk};
use crate::support::{run, scratch, size, user_id};

const MIB: u64 = 1 << 20;
/// Bytes that a process may take beside its memory budget.
const BESIDE: u64 = 64 * MIB;

/// Fills a folder with large posts of the authors 4, 8, 12 and so on.
fn large_posts(data: &Path, authors: u64, posts: u64, bytes: u64) {
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_tributary"));
    assert!(migrate.args(["migrate", "--data"]).arg(data).output().unwrap().status.success());
    let file = rusqlite::Connection::open(data.join("shard-0.sqlite")).unwrap();
    let rows = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {})
         INSERT INTO tweets (tweet_id, user_id, content, timestamp)
         SELECT n, 4 + 4 * (n % {authors}), printf('%.{bytes}c', 'x'), n FROM n",
        authors * posts
    );
    assert_eq!(file.execute(&rows, []).unwrap() as u64, authors * posts);
}

/// The most memory that a process has had, in bytes.
fn peak(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Walks down an author's posts, one on each page.
fn walk(serving: &Serving, author: u64, pages: usize) {
    let mut path = format!("/v1/users/{author}/posts?limit=1");
    for _ in 0..pages {
        let answer = serving.get(&path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", answer.split("\r\n").next().unwrap());
        let (_, next) = answer.split_once(r#""next":""#).expect("there are more posts");
        let cursor = next.split('"').next().unwrap();
        path = format!("/v1/users/{author}/posts?limit=1&cursor={cursor}");
    }
}

/// Serves large posts with this budget and reads some of them. Returns the peak of its memory.
fn serve_large_posts(data: &Path, budget: u64, authors: u64, pages: usize) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    let serving =
        Serving::start(command.env("TRIBUTARY_MEMORY__BUDGET", format!("{}MiB", budget / MIB)));
    let start = Instant::now();
    let is_filled = |body: &str| {
        let done: Vec<&str> = body.matches(r#""done":"#).collect();
        !done.is_empty() && done.len() == body.matches(r#""done":true"#).count()
    };
    while !is_filled(&serving.get("/readyz")) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", serving.get("/readyz"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let filled = peak(&serving);
    (1..=authors).for_each(|author| walk(&serving, 4 * author, pages));
    println!(
        "  budget {} MiB: {} MiB after the start, {} MiB after deep pages",
        budget / MIB,
        filled / MIB,
        peak(&serving) / MIB
    );
    peak(&serving)
}

#[test]
fn memory_stays_within_its_budget_while_it_fills_with_large_posts() {
    let dir = scratch();
    let (authors, posts, budget) = (24, 20, 16 * MIB);
    large_posts(dir.path(), authors, posts, 300_000);
    let peak = serve_large_posts(dir.path(), budget, 8, 12);
    assert!(peak <= budget + BESIDE, "{} MiB", peak / MIB);
}

/// The same at the size at which an earlier version took 549 MB: posts of 1 MB, and many posts of
/// 10 KB.
#[test]
fn overload_by_large_posts_stays_within_the_budget() {
    let budget = 64 * MIB;
    let sizes = size(vec![], vec![(40, 24, 1_000_000, 20), (100, 500, 10_000, 200)]);
    for (authors, posts, bytes, pages) in sizes {
        let dir = scratch();
        large_posts(dir.path(), authors, posts, bytes);
        let peak = serve_large_posts(dir.path(), budget, 40, pages);
        assert!(peak <= budget + BESIDE, "{} MiB", peak / MIB);
    }
}

/// Users 0 to 7 follow each other and post.
fn small_world() -> World {
    let mut world = World::default();
    for reader in 0..8 {
        (0..8).for_each(|author| world.follow(reader, author));
        (0..10).for_each(|post| world.post(reader, 10 * post as i64, 100 * reader + post));
    }
    world
}

/// Makes `reader` follow users that do not exist, from `first` on, and puts the list into memory.
async fn follow_strangers(tributary: &Tributary, reader: u64, first: u64, count: u64) {
    let strangers: Vec<UserId> = (first..first + count).map(user_id).collect();
    for part in strangers.chunks(Tributary::FOLLOWS_MAX) {
        tributary.follow_all(user_id(reader), part).await.unwrap();
    }
    tributary.home_timeline(user_id(reader), &PageRequest::default()).await.unwrap();
}

/// Waits until the lists of strangers are in memory. They are requested again and again: memory
/// refuses a fill while others have reserved its budget.
async fn until_full_of_strangers(tributary: &Tributary, watch: &Watch, before: u64) {
    let start = Instant::now();
    loop {
        let counters = watch.counters().await;
        if counters["users"] > before + 3_000 {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not full of strangers: {counters:?}");
        for reader in 100..106 {
            tributary.home_timeline(user_id(reader), &PageRequest::default()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn check_all(tributary: &Tributary, oracle: &Oracle) {
    for reader in (0..8).map(user_id) {
        until_warm(tributary, reader, 20).await;
        let walk = Walk { limit: 7, pages_max: usize::MAX, with_prev: true };
        check_walk(tributary, &oracle.feed(reader), reader, walk).await;
    }
}

/// Clients fill the index of users with strangers. Other readers are still served from memory, and
/// slots are given back when the strangers have no followers any more.
#[test]
fn slots_of_unused_users_are_reused() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let (world, data) = (small_world(), fleet.dir.path().join("data"));
        let oracle = Oracle::new(&world);
        fleet.load(&world).await;
        let mut config = fleet.config_with_memory(1 << 20);
        config.write.enabled = true;
        let tributary = Tributary::open(&config).await.unwrap();
        let watch = Watch::start(&tributary).await;
        watch.until_heads_known().await;
        check_all(&tributary, &oracle).await;
        let before = watch.counters().await["users"];
        let mut first = 1_000_000;
        // Twice as many strangers as the index has room for. In the second round they get slots
        // that others had.
        for round in 0..3 {
            for reader in [100, 101, 102, 103, 104, 105] {
                follow_strangers(&tributary, reader, first, 1_000).await;
                first += 1_000;
            }
            until_full_of_strangers(&tributary, &watch, before).await;
            check_all(&tributary, &oracle).await;
            assert_eq!(watch.counters().await["heads_known"], 4, "round {round}");
            for shard in 0..4 {
                let file = rusqlite::Connection::open(data.join(format!("shard-{shard}.sqlite")));
                let file = file.unwrap();
                file.busy_timeout(Duration::from_secs(20)).unwrap();
                file.execute("DELETE FROM followers WHERE follower_user_id >= 100", []).unwrap();
            }
            watch.until("empty again", |counters| counters["users"] <= before + 8).await;
            check_all(&tributary, &oracle).await;
        }
        // A stranger in a reused slot posts.
        let (reader, stranger) = (user_id(100), user_id(first));
        follow_strangers(&tributary, 100, first, 10).await;
        let posted = tributary.publish(stranger, "hello", None).await.unwrap();
        let request = PageRequest::default().at_least(posted.freshness);
        let page = tributary.home_timeline(reader, &request).await.unwrap();
        assert_eq!(page.posts.len(), 1, "{page:?}");
        check_all(&tributary, &oracle).await;
        watch.until_audited(4).await;
        assert_eq!(watch.counters().await["mismatched"], 0);
    });
}

/// The longest follow list that is read.
const LONGEST: u64 = Tributary::FOLLOWEES_MAX as u64;

#[test]
fn a_follow_list_ends_at_its_limit_and_a_longer_one_costs_nothing() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let mut world = World::default();
            (1..=LONGEST - 20).for_each(|followee| world.follow(4, followee));
            world.post(7, 1, 1);
            fleet.load(&world).await;
            tributary::internal::migrate(&fleet.config(), drop).await.unwrap();
            let mut config = fleet.config_with_memory(FULL);
            config.write.enabled = true;
            let tributary = Tributary::open(&config).await.unwrap();
            check_limit(&tributary).await;
            check_too_long(backend, &fleet, &tributary).await;
        }
    });
}

/// Many requests extend a list that has room for 20 users. Each adds three.
async fn check_limit(tributary: &Tributary) {
    let reader = user_id(4);
    let add = async |number: u64| {
        let first = 1_000_000 + 3 * number;
        let three: Vec<UserId> = (first..first + 3).map(user_id).collect();
        tributary.follow_all(reader, &three).await
    };
    let results = join_all((0..12).map(add)).await;
    let added: usize = results.iter().flatten().map(|followed| followed.added).sum();
    let refused = |result: &&Result<_, _>| matches!(result, Err(WriteError::TooManyFollowees));
    assert_eq!(results.iter().filter(refused).count(), 6, "{results:?}");
    assert_eq!(added, 18);
    // Follows that exist already are none too many, and the last two places can be taken.
    let last = [user_id(1), user_id(2_000_000), user_id(2_000_001)];
    assert_eq!(tributary.follow_all(reader, &last).await.unwrap().added, 2);
    assert_eq!(tributary.follow_all(reader, &last).await.unwrap().added, 0);
    let more = tributary.follow(reader, user_id(2_000_002)).await;
    assert_eq!(more.unwrap_err(), WriteError::TooManyFollowees);
    let page = tributary.home_timeline(reader, &PageRequest::default()).await.unwrap();
    assert_eq!(page.posts.len(), 1);
}

/// Another program makes the list too long.
async fn check_too_long(backend: Backend, fleet: &TestFleet, tributary: &Tributary) {
    let (reader, request) = (user_id(4), PageRequest::default());
    execute(fleet, "INSERT INTO followers VALUES (4, 3000000)").await;
    let watch = Watch::start(tributary).await;
    let start = Instant::now();
    while tributary.home_timeline(reader, &request).await != Err(ReadError::TooManyFollowees) {
        assert!(start.elapsed() < Duration::from_secs(20), "{backend:?}: not too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !fleet.databases.is_empty() {
        // Memory learns it from a fill. After that no request reads rows; audits read a few.
        let mut rows = fleet.row_counters().await;
        loop {
            let before = rows.rows().await;
            for _ in 0..10 {
                let read = tributary.home_timeline(reader, &request).await;
                assert_eq!(read.unwrap_err(), ReadError::TooManyFollowees);
            }
            let read = rows.rows().await - before;
            if read < 100_000 {
                println!("{backend:?}: {read} rows for 10 requests");
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{backend:?}: {read} rows");
        }
    }
    let freshness = tributary.unfollow(reader, user_id(3_000_000)).await.unwrap();
    let request = request.at_least(freshness).limit(Limit::new(5).unwrap());
    let page = tributary.home_timeline(reader, &request).await.unwrap();
    assert_eq!(page.posts.len(), 1, "{backend:?}");
    assert_eq!(watch.counters().await["mismatched"], 0, "{backend:?}");
}

/// Executes a statement on the first shard, as another program would.
async fn execute(fleet: &TestFleet, sql: &str) {
    match fleet.databases.first() {
        Some((server, database)) => {
            let sql = sql.replace("followers", &format!("{database}.followers"));
            Database::execute(server, &[sql]).await;
        }
        None => {
            let file = fleet.dir.path().join("data").join("shard-0.sqlite");
            rusqlite::Connection::open(file).unwrap().execute(sql, []).unwrap();
        }
    }
}
