//! The bound on a page's cost: `4 x followees + 16 x limit` rows over all shards, and six waves.
//!
//! It is checked on real servers, in worlds that are hard for it. The servers keep the statistics
//! of empty tables, so their optimizers choose plans without knowing the data. The report also
//! shows the rows that the naive query reads.

use std::fmt::Write;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tributary::explain::MemoryUse;
use tributary::internal::{fleet, mysql_tables};
use tributary::{Cursor, Limit, Page, PageRequest, PostKey, Tributary};

use crate::support::database::{Database, Kind};
use crate::support::fleet::{SHARDS, TestFleet};
use crate::support::relay::{Relay, Rules};
use crate::support::world::{Oracle, World, assert_page};
use crate::support::{run, seed, size, user_id};

/// `./dev test` takes the first four.
const FOLLOWEES: [u64; 7] = [1, 50, 2_000, 15, 4, 200, 999];
const LIMITS: [u8; 3] = [1, 20, 100];
const READER: u64 = 1_000_000;
/// Upper bound for the statements of a newest page of 20 posts: the follow list, then at most four
/// waves on four shards. Two thousand followees do not need more statements than fifty.
const STATEMENTS_MAX: u64 = 1 + 5 * SHARDS;
/// The statements of a newest page if every followee posts all the time and they are not too many:
/// the follow list with the heads, and the texts, each of all shards of the server.
const STATEMENTS_JOINT: u64 = 2;

/// How authors post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Every author, all the time.
    Dense,
    /// Followees have a few old posts; authors without followers post a lot.
    Quiet,
    /// A few authors wrote all the newest posts, each without a gap.
    Burst,
    /// Few distinct times, so that many posts tie.
    Tied,
    /// All posts have one time.
    OneTime,
    /// One followee has far more posts than all others together, and all are older.
    Deep,
}

/// The posts of the deep author: a million in one world of `./dev soak`.
fn deep_posts(followees: u64) -> i64 {
    if followees == 50 { size(20_000, 1_000_000) } else { 20_000 }
}

fn world(shape: Shape, followees: u64, random: &mut StdRng) -> World {
    let mut world = World::default();
    let mut post = 0;
    for author in 1..=followees {
        world.follow(READER, author);
        let posts = match shape {
            Shape::Dense | Shape::OneTime => 12,
            Shape::Deep => {
                if author == 1 {
                    deep_posts(followees)
                } else {
                    12
                }
            }
            Shape::Quiet => random.random_range(0..3),
            Shape::Burst => {
                if author % 40 == 1 {
                    150
                } else {
                    2
                }
            }
            Shape::Tied => {
                if author % 20 == 1 {
                    130
                } else {
                    8
                }
            }
        };
        for n in 0..posts {
            post += 1;
            let time = match shape {
                Shape::Dense => random.random_range(0..1_000_000),
                Shape::Quiet => random.random_range(0..1_000),
                Shape::Burst if posts == 150 => {
                    1_000_000 + i64::try_from(author).unwrap() * 1_000 + n
                }
                Shape::Burst => random.random_range(0..1_000_000),
                Shape::Tied => random.random_range(0..3),
                Shape::OneTime => 7,
                Shape::Deep if author == 1 => n,
                Shape::Deep => random.random_range(1_000_000..2_000_000),
            };
            // Ids are not in time order.
            world.post(author, time, (post * 2_654_435_761) % 4_294_967_296);
        }
    }
    if shape == Shape::Quiet {
        for n in 0..20_000 {
            let time = 2_000 + i64::try_from(n).unwrap();
            world.post(READER + 1 + n % 64, time, 5_000_000_000 + n);
        }
    }
    world
}

#[test]
fn row_reads_stay_within_the_bound_on_mariadb() {
    check(Kind::MariaDb);
}

#[test]
fn row_reads_stay_within_the_bound_on_mysql() {
    check(Kind::MySql);
}

fn check(kind: Kind) {
    // A server for this test alone, because row counters are per server.
    let options = ["--innodb-stats-auto-recalc=OFF"];
    let Some(server) = Database::start_with(kind, &options) else { return };
    let server = Arc::new(server);
    let mut report = format!("{kind:?}: most rows read for a page, by world and followees\n");
    writeln!(
        report,
        "{:>8} {:>9} {:>6} {:>7} {:>7} {:>10}",
        "world", "followees", "limit", "rows", "bound", "naive rows"
    )
    .unwrap();
    let mut random = StdRng::seed_from_u64(seed(11));
    for shape in
        [Shape::Dense, Shape::Quiet, Shape::Burst, Shape::Tied, Shape::OneTime, Shape::Deep]
    {
        for followees in FOLLOWEES.into_iter().take(size(4, 7)) {
            // In these worlds only one number is of interest, and they are slow to load.
            if matches!((shape, followees), (Shape::OneTime, ..2_000) | (Shape::Deep, 2_000..)) {
                continue;
            }
            let world = world(shape, followees, &mut random);
            let is_joint = shape == Shape::Dense && followees == 50;
            let statements = if is_joint { STATEMENTS_JOINT } else { STATEMENTS_MAX };
            let max = (followees, statements);
            run(check_world(&server, &world, max, &mut |limit, rows, bound, naive| {
                writeln!(
                    report,
                    "{:>8} {followees:>9} {limit:>6} {rows:>7} {bound:>7} {naive:>10}",
                    format!("{shape:?}").to_lowercase()
                )
                .unwrap();
            }));
        }
    }
    println!("{report}");
}

async fn check_world(
    server: &Arc<Database>,
    world: &World,
    (followees, statements_max): (u64, u64),
    report: &mut impl FnMut(u8, u64, u64, u64),
) {
    let fleet = TestFleet::on(std::slice::from_ref(server));
    for (_, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(mysql_tables(database));
        server.execute(&statements).await;
    }
    fleet.load_by_sql(world).await;
    let tributary = fleet.open().await;
    check_pages(&fleet, &tributary, world, (followees, statements_max), report).await;
    if followees == 50 {
        // An old server has no statement for heads. Arms do its work within the same bound.
        let rules = Rules { knows_no_json_table: true, ..Rules::default() };
        let relay = Relay::start(&[server.port], rules).await;
        let tributary = fleet.open_through(relay.port).await;
        let max = (followees, STATEMENTS_MAX);
        check_pages(&fleet, &tributary, world, max, &mut |_, _, _, _| {}).await;
    }
}

async fn check_pages(
    fleet: &TestFleet,
    tributary: &Tributary,
    world: &World,
    (followees, statements_max): (u64, u64),
    report: &mut impl FnMut(u8, u64, u64, u64),
) {
    let server = &fleet.databases[0].0;
    let oracle = Oracle::new(world);
    let feed: Vec<PostKey> = oracle.feed(user_id(READER)).iter().map(|post| post.key).collect();
    // Every statement is prepared before rows are counted.
    for limit in LIMITS {
        read(tributary, Cursor::newest(), limit).await;
    }
    let statements = statements_of(server, tributary).await;
    assert!(statements <= statements_max, "{statements} statements for a page");
    for limit in LIMITS {
        let bound = 4 * followees + 16 * u64::from(limit);
        let (mut most_rows, mut most_naive_rows) = (0, 0);
        for cursor in cursors(&feed) {
            let counted = Counted::of(tributary);
            let page = read(tributary, cursor.clone(), limit).await;
            let returned = Counted::of(tributary).since(counted);
            assert_eq!((returned.pages, returned.waves), (1, page.waves.into()));
            assert!(returned.rows <= bound + 2, "{returned:?} for {followees} followees");
            let start = match cursor.edge {
                tributary::internal::Edge::Beside { key, .. } => {
                    feed.iter().position(|k| *k == key).map_or(0, |index| index + 1)
                }
                _ => 0,
            };
            if cursor.direction == tributary::internal::Direction::Older {
                let all = oracle.feed(user_id(READER));
                let end = all.len().min(start + usize::from(limit));
                assert_page(&page, &all[start..end], "a counted page");
            }
            let count = async || {
                let page = async || drop(read(tributary, cursor.clone(), limit).await);
                rows_read(fleet, page).await
            };
            let mut rows = count().await;
            // A new connection prepares its statements, and the server then reads tables of its
            // own. Repeating the read excludes these rows.
            for _ in 0..8 {
                if rows <= bound {
                    break;
                }
                rows = rows.min(count().await);
            }
            check_explanation(tributary, &page, (cursor.clone(), limit), bound).await;
            let anchored = start > 0 || cursor.direction == tributary::internal::Direction::Older;
            let waves = if anchored { 6 } else { 7 };
            assert!(page.waves <= waves, "{} waves from {cursor:?}", page.waves);
            assert!(
                rows <= bound,
                "{rows} rows, {bound} allowed: {followees} followees, limit \
                 {limit}, from {cursor:?}"
            );
            most_rows = most_rows.max(rows);
            let naive = rows_read(fleet, async || naive_page(fleet, world, &cursor, limit).await);
            most_naive_rows = most_naive_rows.max(naive.await);
        }
        report(limit, most_rows, bound, most_naive_rows);
    }
}

/// The explanation of a page has the numbers that the server counts. Its rows differ from those of
/// the page, because it reads each shard alone, and are within the same bound.
async fn check_explanation(
    tributary: &Tributary,
    page: &Page,
    (cursor, limit): (Cursor, u8),
    bound: u64,
) {
    let request = PageRequest::default().from(cursor).limit(Limit::new(limit).unwrap());
    let mut examined = Vec::new();
    // A new connection prepares its statements, which reads tables of the server.
    for _ in 0..8 {
        let counted = Counted::of(tributary);
        let (same, how) = tributary.explain(user_id(READER), &request, MemoryUse::AsUsual).await;
        let counted = Counted::of(tributary).since(counted);
        // The number of waves also depends on the pages before.
        let mut same = same.unwrap();
        same.waves = page.waves;
        assert_eq!(&same, page);
        let cost = how.cost();
        assert_eq!(cost.statements, counted.statements, "{how:?}");
        // The first wave reads the follow list.
        assert_eq!(how.waves.len() as u64, 1 + counted.waves);
        assert!(cost.rows >= counted.rows, "{cost:?}, {counted:?}");
        let of_this = cost.rows_examined.unwrap();
        if (cost.rows..=bound).contains(&of_this) {
            return;
        }
        examined.push(of_this);
    }
    panic!("{examined:?} rows in the explanations, {bound} allowed");
}

/// The counters in `/metrics` for pages from databases.
#[derive(Clone, Copy, Debug)]
struct Counted {
    pages: u64,
    waves: u64,
    rows: u64,
    statements: u64,
}

impl Counted {
    fn of(tributary: &Tributary) -> Self {
        let fleet = fleet(tributary);
        let cold = fleet.cold_pages();
        let statements = fleet.queues().iter().map(|queue| queue.read_statements).sum();
        Self { pages: cold.pages(), waves: cold.waves(), rows: cold.rows(), statements }
    }

    fn since(self, before: Self) -> Self {
        Self {
            pages: self.pages - before.pages,
            waves: self.waves - before.waves,
            rows: self.rows - before.rows,
            statements: self.statements - before.statements,
        }
    }
}

/// The statements that the newest page takes, without those that count them. The smaller of two
/// runs counts.
async fn statements_of(server: &Arc<Database>, tributary: &Tributary) -> u64 {
    let mut connection = server.connect().await;
    let mut least = u64::MAX;
    for _ in 0..2 {
        let mut count = async || -> u64 {
            let sql = "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'";
            let row: (String, u64) = connection.query_first(sql).await.unwrap().unwrap();
            row.1
        };
        let (before, counted) = (count().await, Counted::of(tributary));
        read(tributary, Cursor::newest(), 20).await;
        let statements = count().await - before;
        let of_page = Counted::of(tributary).since(counted).statements;
        assert!(of_page > 0, "{statements} statements, none counted");
        // The server does not count those that are sent as text.
        least = least.min(statements.max(of_page));
    }
    connection.disconnect().await.unwrap();
    least
}

/// Cursors at the top, a little below it, in the middle and near the end; and two towards newer
/// posts from the middle.
fn cursors(feed: &[PostKey]) -> Vec<Cursor> {
    let at = |index: usize| {
        feed.get(index).map(|key| Cursor::older(tributary::internal::Edge::below(*key)))
    };
    let up =
        feed.get(feed.len() / 2).map(|key| Cursor::newer(tributary::internal::Edge::above(*key)));
    let deep = [at(10), at(feed.len() / 2), at(feed.len().saturating_sub(30)), up];
    // No post is next to this cursor, so the read must query whether an older post exists.
    let deleted_anchor = feed.get(feed.len() / 2).map(|key| {
        let key = PostKey { author: user_id(READER + 999), ..*key };
        Cursor::newer(tributary::internal::Edge::above(key))
    });
    let cursors = [Cursor::newest()].into_iter().chain(deep.into_iter().flatten());
    cursors.chain(deleted_anchor).collect()
}

async fn read(tributary: &Tributary, cursor: Cursor, limit: u8) -> tributary::Page {
    let request = PageRequest::default().from(cursor).limit(Limit::new(limit).unwrap());
    let page = tributary.home_timeline(user_id(READER), &request).await.unwrap();
    assert!(page.is_complete());
    page
}

/// The rows that `work` reads, without those that reading the counters costs. The smaller of two
/// runs counts, because background work of the server may add rows to one of them.
async fn rows_read(fleet: &TestFleet, work: impl AsyncFn()) -> u64 {
    let mut least = u64::MAX;
    let mut counters = fleet.row_counters().await;
    for _ in 0..2 {
        let before = counters.rows().await;
        let looked = counters.rows().await;
        work().await;
        let after = counters.rows().await;
        least = least.min((after - looked).saturating_sub(looked - before));
    }
    least
}

/// Reads the same page by the naive query, on each shard of the only server.
async fn naive_page(fleet: &TestFleet, world: &World, cursor: &Cursor, limit: u8) {
    let mut connection = fleet.databases[0].0.connect().await;
    let below = match cursor.edge {
        tributary::internal::Edge::Beside { key: PostKey { time, post: id, .. }, .. } => {
            let id = id.get();
            format!("AND (timestamp, tweet_id) < ({time}, {id})")
        }
        _ => String::new(),
    };
    for (shard, (_, database)) in (0..).zip(&fleet.databases) {
        let followees = world.follows.iter().map(|follow| follow.followee.get());
        let own: Vec<String> =
            followees.filter(|id| id % SHARDS == shard).map(|id| id.to_string()).collect();
        if own.is_empty() {
            continue;
        }
        let sql = format!(
            "SELECT * FROM {database}.tweets WHERE user_id IN ({}) {below} \
             ORDER BY timestamp DESC, tweet_id DESC LIMIT {limit}",
            own.join(",")
        );
        let _: Vec<mysql_async::Row> = connection.query(sql).await.unwrap();
    }
    connection.disconnect().await.unwrap();
}
