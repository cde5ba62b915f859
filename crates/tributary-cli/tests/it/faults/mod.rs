//! Faults of real servers under a running fleet, and the promises that hold during and after them.
//!
//! These tests assert durations, so `./dev test` runs them last, alone and one at a time.

mod clients;
mod embedded;
mod failover;
mod freshness;
mod history;
mod memory;
mod rows;
mod servers;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tributary::config::DEADLINE_MS_DEFAULT;
use tributary::internal::{mysql_tables, mysql_writes_table};
use tributary::{Config, Limit, Page, PageRequest, Tributary, UserId};

use crate::support::database::{Database, PASSWORD, USER};
use crate::support::fleet::{TestFleet, load_into};
use crate::support::link::Link;
use crate::support::world::World;
use crate::support::{run, user_id};

/// Pages list the shards of a dead server as missing within this time. For a silent server it
/// takes half of the deadline.
const FLAGGED_WITHIN: Duration = Duration::from_secs(1);
/// Pages are complete again within this time after a server returns.
const COMPLETE_WITHIN: Duration = Duration::from_secs(5);
/// On a busy machine, single durations may exceed the bounds by this factor. The bounds are then
/// at least five times the measured medians.
const BUSY_FACTOR: u32 = 3;
/// Every page is returned within this time: the deadline, and 2 s for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_millis(DEADLINE_MS_DEFAULT + 2_000);
/// Connections that a server may have: the pool, those for commits in doubt, and the test's own.
const CONNECTIONS_MAX: usize = 16 + 4 + 1;
/// Additional tasks that may be alive for 30 s after a fault: one per abandoned pool.
const EXTRA_TASKS_MAX: usize = 40;
/// The reader is on shard 0 and follows authors on all shards.
const READER: UserId = user_id(4);
/// An account that may write, but not on a read-only server.
const ACCOUNT: &str = "writer";

/// Runs one of these tests at a time, whatever the number of test threads is.
fn alone(test: impl Future<Output = ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

/// Servers, each reached through a link, and a fleet whose four shards are distributed over them
/// in turn.
struct Site {
    servers: Vec<Arc<Database>>,
    links: Vec<Link>,
    fleet: TestFleet,
}

impl Site {
    /// Starts this many servers and loads the world.
    async fn new(servers: usize) -> Self {
        let site = Self::empty(servers, |database| {
            let mut tables = mysql_tables(database).to_vec();
            tables.push(mysql_writes_table(database));
            tables
        });
        let site = site.await;
        load_into(tributary::internal::fleet(&site.open().await), &World::followed_by(READER))
            .await;
        site
    }

    /// Starts this many servers with the given tables and without rows.
    async fn empty(servers: usize, tables: impl Fn(&str) -> Vec<String>) -> Self {
        let servers: Vec<Arc<Database>> = Database::start_mariadb(servers);
        let fleet = TestFleet::on(&servers);
        let file = fleet.config_file.clone().unwrap();
        let mut text = fs::read_to_string(&file).unwrap();
        text = text.replace(&format!("\"{USER}\""), &format!("\"{ACCOUNT}\""));
        let mut links = Vec::new();
        for server in &servers {
            let link = Link::start(server.port).await;
            text = text.replace(&server.address(), &format!("127.0.0.1:{}", link.port));
            links.push(link);
            make_account(server).await;
        }
        fs::write(&file, format!("{text}\n[write]\nenabled = true\n")).unwrap();
        for (server, database) in &fleet.databases {
            make_shard(server, database, &tables(database)).await;
        }
        Self { servers, links, fleet }
    }

    /// The fleet's configuration with the default deadline.
    fn config(&self) -> Config {
        let mut config = self.fleet.config();
        config.request.deadline_ms = DEADLINE_MS_DEFAULT;
        config
    }

    async fn open(&self) -> Tributary {
        Tributary::open(&self.config()).await.unwrap()
    }

    /// The number of connections that are open on a server.
    async fn connected(&self, server: usize) -> usize {
        let mut connection = self.servers[server].connect().await;
        let sql = "SHOW GLOBAL STATUS LIKE 'Threads_connected'";
        let row: Option<(String, usize)> = connection.query_first(sql).await.unwrap();
        connection.disconnect().await.unwrap();
        row.unwrap().1
    }

    /// The number of tasks that are alive, without those of the links.
    fn tasks(&self) -> usize {
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        alive.saturating_sub(self.links.iter().map(Link::clients).sum())
    }

    /// Asserts that connections and tasks do not accumulate. A pool's watching task lives 30 s
    /// longer than the pool, so [`EXTRA_TASKS_MAX`] more tasks than `before` are allowed. Waits,
    /// because a server may need a moment to notice that a client has disconnected.
    async fn assert_no_leaks(&self, before: usize) {
        let start = Instant::now();
        loop {
            let mut connected = Vec::new();
            for server in 0..self.servers.len() {
                connected.push(self.connected(server).await);
            }
            let tasks = self.tasks();
            let few = connected.iter().all(|count| *count <= CONNECTIONS_MAX);
            if few && tasks <= before + EXTRA_TASKS_MAX {
                println!("  {connected:?} connections, {tasks} tasks, {before} before");
                return;
            }
            assert!(
                start.elapsed() < COMPLETE_WITHIN * BUSY_FACTOR,
                "{connected:?}, {tasks} tasks, {before} before"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Starting a server blocks, so a blocking thread does it.
async fn launch(server: &Arc<Database>) {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || server.launch()).await.unwrap();
}

async fn kill(server: &Arc<Database>) {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || server.kill()).await.unwrap();
}

async fn make_account(server: &Database) {
    let account = format!("'{ACCOUNT}'@'127.0.0.1'");
    server
        .execute(&[
            format!("CREATE USER {account} IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON *.* TO {account}"),
        ])
        .await;
}

async fn make_shard(server: &Database, database: &str, tables: &[String]) {
    let mut statements = vec![format!("CREATE DATABASE {database}")];
    statements.extend_from_slice(tables);
    server.execute(&statements).await;
}

async fn newest(tributary: &Tributary) -> Page {
    let request = PageRequest::default().limit(Limit::new(20).unwrap());
    let start = Instant::now();
    let page = tributary.home_timeline(READER, &request).await.unwrap();
    assert!(start.elapsed() < ANSWERED_WITHIN, "a page took {:?}", start.elapsed());
    page
}

fn missing(page: &Page) -> Vec<u16> {
    page.missing.iter().map(|shard| shard.get()).collect()
}

/// Waits until the newest page is complete or, with `complete = false`, incomplete. Returns the
/// time.
async fn until_complete(tributary: &Tributary, complete: bool) -> Duration {
    let start = Instant::now();
    while newest(tributary).await.is_complete() != complete {
        assert!(start.elapsed() < COMPLETE_WITHIN * 6, "no page with complete = {complete}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

/// The measured durations of one thing.
struct Durations {
    what: &'static str,
    all: Vec<Duration>,
}

impl Durations {
    fn of(what: &'static str) -> Self {
        Self { what, all: Vec::new() }
    }

    fn add(&mut self, time: Duration) {
        self.all.push(time);
    }

    /// Prints the durations and asserts the promise: of three or more the median must be within
    /// it. The longest may take [`BUSY_FACTOR`] times as long.
    fn assert_within(mut self, promise: Duration) {
        self.all.sort_unstable();
        let (median, max) = (self.all[self.all.len() / 2], self.all[self.all.len() - 1]);
        println!("  {}: median {median:.1?}, longest {max:.1?}, promise {promise:?}", self.what);
        assert!(self.all.len() < 3 || median <= promise, "{}: {median:?}", self.what);
        assert!(max <= promise * BUSY_FACTOR, "{}: {max:?}", self.what);
    }
}
