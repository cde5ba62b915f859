//! The time of a page that memory does not have, while memory is being filled. It is compared with
//! the slowest statement of the page when that runs alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tributary::internal::mysql_tables;
use tributary::{PageRequest, Tributary};

use crate::support::database::Database;
use crate::support::fleet::TestFleet;
use crate::support::watch::Watch;
use crate::support::world::World;
use crate::support::{run, user_id};

const AUTHORS: u64 = 2_000;
const POSTS: u64 = 40_000;
const READERS: u64 = 240;
const FOLLOWEES: usize = 60;
/// Room for the index and few of the tails: nearly every page is cold.
const MEMORY: usize = 512 << 10;
/// Readers whose statements are timed.
const SAMPLE: u64 = 40;
/// Runs of each statement.
const RUNS: usize = 7;
/// If no fill was installed for this time, the fills rest.
const REST: Duration = Duration::from_millis(50);
/// Readers that are measured with memory, and then without.
const BLOCK: usize = 40;
/// Upper bound for the slowdown by fills, on a machine that runs four servers and other programs.
const FILLS_COST_MAX: u32 = 10;

fn world() -> World {
    let mut random = StdRng::seed_from_u64(1);
    let mut world = World::default();
    for reader in 1..=READERS {
        let followees: BTreeSet<u64> =
            (0..FOLLOWEES).map(|_| random.random_range(1..=AUTHORS)).collect();
        followees.into_iter().for_each(|followee| world.follow(reader, followee));
    }
    for post in 1..=POSTS {
        world.post(random.random_range(1..=AUTHORS), random.random_range(0..1 << 40), post);
    }
    world
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Waits until no fill was installed for a moment.
async fn until_fills_rest(watch: &Watch) {
    let mut before = None;
    loop {
        let fills = watch.counters().await["fills"];
        if before == Some(fills) {
            return;
        }
        before = Some(fills);
        tokio::time::sleep(REST).await;
    }
}

/// The time of a page; `None` if memory had all of it.
async fn cold_page(tributary: &Tributary, reader: u64) -> Option<Duration> {
    let begun = Instant::now();
    let page = tributary.home_timeline(user_id(reader), &PageRequest::default()).await.unwrap();
    let took = begun.elapsed();
    assert!(page.is_complete() && page.posts.len() == 20, "{page:?}");
    (page.waves > 0).then_some(took)
}

/// Runs a statement on all servers.
async fn everywhere(connections: &mut [Conn], sql: &str) {
    for connection in connections {
        connection.query_drop(sql).await.unwrap();
    }
}

/// The statements of each cold page, with their servers. The general log has the values of a
/// prepared statement only if it was already on when the statement was prepared.
async fn statements_of_pages(
    fleet: &TestFleet,
    connections: &mut [Conn],
) -> Vec<Vec<(usize, String)>> {
    everywhere(connections, "SET GLOBAL general_log = ON").await;
    let tributary = Tributary::open(&fleet.config_with_memory(MEMORY)).await.unwrap();
    Watch::start(&tributary).await.until_heads_known().await;
    let mut statements_by_page = Vec::new();
    for reader in 1..=SAMPLE {
        everywhere(connections, "TRUNCATE mysql.general_log").await;
        let page = cold_page(&tributary, reader).await;
        let mut of_page = Vec::new();
        for (server, connection) in connections.iter_mut().enumerate() {
            of_page.extend(statements(connection).await.into_iter().map(|sql| (server, sql)));
        }
        statements_by_page.extend(page.map(|_| of_page));
    }
    everywhere(connections, "SET GLOBAL general_log = OFF").await;
    statements_by_page
}

/// The statements of one server for a page, without those of fills, which have their own
/// connections.
async fn statements(connection: &mut Conn) -> Vec<String> {
    // In a union each SELECT is in parentheses.
    let sql = "SELECT argument FROM mysql.general_log WHERE command_type = 'Execute' AND \
               (argument LIKE 'SELECT%' OR argument LIKE '(SELECT%') AND thread_id NOT IN \
               (SELECT thread_id FROM mysql.general_log WHERE argument LIKE 'START TRANSACTION%')";
    let rows: Vec<Vec<u8>> = connection.query(sql).await.unwrap();
    let of_page = |sql: &String| sql.contains("tweets") || sql.contains("followers");
    rows.into_iter().map(|row| String::from_utf8(row).unwrap()).filter(of_page).collect()
}

/// The median time of a statement that runs alone.
async fn alone(connection: &mut Conn, sql: &str) -> Duration {
    let statement = connection.prep(sql).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let _rows: Vec<Row> = connection.exec(&statement, ()).await.unwrap();
        times.push(begun.elapsed());
    }
    connection.close(statement).await.unwrap();
    median(times)
}

async fn measure(servers: Vec<Arc<Database>>) {
    let fleet = TestFleet::on(&servers);
    for (server, database) in &fleet.databases {
        let mut statements = vec![format!("CREATE DATABASE {database}")];
        statements.extend(mysql_tables(database));
        statements.push("SET GLOBAL log_output = 'TABLE'".into());
        server.execute(&statements).await;
    }
    fleet.load_by_sql(&world()).await;
    let tributary = Tributary::open(&fleet.config_with_memory(MEMORY)).await.unwrap();
    let watch = Watch::start(&tributary).await;
    watch.until_heads_known().await;

    let without = fleet.open().await;
    let before = watch.counters().await["fills"];
    let (mut pages, mut plain) = (Vec::new(), Vec::new());
    // In turn, so that other work on the machine disturbs both.
    let readers: Vec<u64> = (1..=READERS).chain(1..=READERS).collect();
    for readers in readers.chunks(BLOCK) {
        for reader in readers {
            pages.extend(cold_page(&tributary, *reader).await);
        }
        until_fills_rest(&watch).await;
        for reader in readers {
            plain.extend(cold_page(&without, *reader).await);
        }
    }
    let fills = watch.counters().await["fills"] - before;
    assert!(pages.len() as u64 > READERS && fills > 0, "{} pages, {fills} fills", pages.len());

    let mut connections = Vec::new();
    for server in &servers {
        connections.push(server.connect().await);
    }
    let statements = statements_of_pages(&fleet, &mut connections).await;
    let (count, mut slowest) = (statements.iter().flatten().count(), Vec::new());
    for of_page in &statements {
        let mut times = Vec::new();
        for (server, sql) in of_page {
            times.push(alone(&mut connections[*server], sql).await);
        }
        slowest.extend(times.into_iter().max());
    }
    assert!(slowest.len() as u64 > SAMPLE / 2);
    let looked_at = slowest.len();
    let (page, plain, statement) = (median(pages), median(plain), median(slowest));
    let ratio = page.as_secs_f64() / plain.as_secs_f64();
    println!(
        "a cold page: p50 {page:?}, {fills} fills at the same time; without memory: {plain:?}, \
         ratio {ratio:.2}; its slowest statement alone: p50 {statement:?} ({count} statements of \
         {looked_at} pages)"
    );
    assert!(page < FILLS_COST_MAX * plain, "{page:?}, {plain:?}");
    assert!(statement < plain, "{statement:?}, {plain:?}: it is a part of the page");
}

#[test]
fn a_cold_page_is_not_starved_by_fills() {
    run(measure(Database::start_mariadb(4)));
}
