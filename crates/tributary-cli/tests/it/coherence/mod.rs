//! Pages stay exact while other programs write to the databases and servers fail.
//!
//! Each writer knows what the pages of its users must be after each of its writes. It reads them
//! with the freshness token of that write, from one of two nodes at random: the memory of one holds
//! everything, the memory of the other evicts most entries.

mod faults;
mod semi_sync;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::Conn;
use tokio::time::{sleep, timeout};
use tributary::internal::mysql_tables;
use tributary::{Freshness, Limit, Page, PageRequest, Tributary, UserId};

use self::faults::break_servers;
use self::semi_sync::{HeldCommits, delay_commits};
use self::writer::Writer;
use crate::support::database::{Database, Kind};
use crate::support::fleet::{SHARDS, TestFleet};
use crate::support::watch::{Watch, at_least};
use crate::support::{run, user_id};

const WRITERS: u64 = 4;
/// Each writer owns three users on every shard. They post, and follow users of the same writer.
const USERS: u64 = 3 * SHARDS * WRITERS;
/// A user who follows all of them.
const READER: u64 = 1_000;
/// Bytes of a memory that holds the index of users and only a few tails.
const SMALL: usize = 20 << 10;
/// Bytes of a memory that holds everything.
const FULL: usize = 64 << 20;
/// Every run makes more writes and compares more pages than this.
const PROGRESS_MIN: usize = 300;
const DEADLINE_MS: u64 = 2_000;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The rows that a writer expects in the databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rows {
    /// (shard, post id) -> (author, time, text).
    posts: BTreeMap<(u64, u64), (u64, i64, String)>,
    /// Reader -> followees.
    follows: BTreeMap<u64, BTreeSet<u64>>,
}

impl Rows {
    /// Time, id, author and text of every post by one of `authors`, newest first.
    fn timeline(&self, authors: &BTreeSet<u64>) -> Vec<(i64, u64, u64, &str)> {
        let posts = self.posts.iter().filter(|(_, (author, ..))| authors.contains(author));
        let mut timeline: Vec<_> = posts
            .map(|((_, id), (author, time, text))| (*time, *id, *author, text.as_str()))
            .collect();
        timeline.sort_unstable_by(|a, b| b.cmp(a));
        timeline
    }
}

fn found(page: &Page) -> Vec<(i64, u64, u64, &str)> {
    let post =
        |post: &'_ tributary::Post| (post.key.time, post.key.post.get(), post.key.author.get());
    let texts = page.posts.iter().map(|post| post.content.as_str());
    let keys = page.posts.iter().map(post);
    keys.zip(texts).map(|((time, id, author), text)| (time, id, author, text)).collect()
}

/// The servers under test, and two nodes that follow their logs.
struct Site {
    servers: Vec<Arc<Database>>,
    /// If present, the only server shows a commit once this replica has acknowledged it, or after
    /// a timeout.
    replica: Option<Database>,
    fleet: TestFleet,
    nodes: [Tributary; 2],
    /// The nodes' HTTP servers.
    watches: [Watch; 2],
    ended: AtomicBool,
    /// Pages that were complete and fresh enough, and compared.
    checked: AtomicUsize,
    /// Pages that were incomplete, stale or older than the token; these are not compared.
    degraded: AtomicUsize,
    writes: AtomicUsize,
    /// Transactions that the server was set to log as statements, not as rows.
    as_statements: AtomicUsize,
    /// Writes that failed, so that the writer had to read its rows to know what was stored.
    in_doubt: AtomicUsize,
}

impl Site {
    async fn new(servers: Vec<Arc<Database>>, replica: Option<Database>) -> Self {
        let fleet = TestFleet::on(&servers);
        for (server, database) in &fleet.databases {
            let mut statements = vec![format!("CREATE DATABASE {database}")];
            statements.extend(mysql_tables(database));
            statements.push(format!("CREATE TABLE {database}.scratch (n INT PRIMARY KEY)"));
            server.execute(&statements).await;
        }
        let all = (0..USERS).map(|user| format!("({READER}, {user})")).collect::<Vec<_>>();
        let (server, database) = &fleet.databases[0];
        let sql = format!("INSERT INTO {database}.followers VALUES {}", all.join(","));
        server.execute(&[sql]).await;
        let open = async |bytes| {
            let mut config = fleet.config_with_memory(bytes);
            config.request.deadline_ms = DEADLINE_MS;
            Tributary::open(&config).await.unwrap()
        };
        let nodes = [open(SMALL).await, open(FULL).await];
        let watches = [Watch::start(&nodes[0]).await, Watch::start(&nodes[1]).await];
        for watch in &watches {
            watch.until_heads_known().await;
        }
        let [checked, degraded, writes, as_statements, in_doubt] = Default::default();
        let ended = AtomicBool::new(false);
        Self {
            servers,
            replica,
            fleet,
            nodes,
            watches,
            ended,
            checked,
            degraded,
            writes,
            as_statements,
            in_doubt,
        }
    }

    fn shard(&self, shard: u64) -> (&Arc<Database>, &str) {
        let (server, database) = &self.fleet.databases[usize::try_from(shard).unwrap()];
        (server, database)
    }

    /// The writes, or the compared pages if these are fewer.
    fn progress(&self) -> usize {
        self.writes.load(Ordering::Relaxed).min(self.checked.load(Ordering::Relaxed))
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Connects to a server; retries while it starts.
async fn connect(server: &Database) -> Conn {
    let start = Instant::now();
    loop {
        match timeout(Duration::from_secs(2), Conn::new(server.options())).await {
            Ok(Ok(connection)) => return connection,
            outcome => assert!(start.elapsed() < WAIT_MAX, "{outcome:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Pages through the posts of all users while they change, until the test ends. Every page must be
/// in order, and every post must have a text that was written for its id. Returns the pages read.
async fn read_until_ended(site: &Site, node: usize) -> usize {
    let mut pages = 0;
    let mut request = PageRequest::default().limit(Limit::new(50).unwrap());
    while !site.has_ended() {
        let page = site.nodes[node].home_timeline(user_id(READER), &request).await.unwrap();
        assert!(page.posts.is_sorted_by(|a, b| a.key > b.key), "{:?}", found(&page));
        for post in &page.posts {
            let id = post.key.post.get();
            assert!(post.content.starts_with(&format!("{id}: ")), "{post:?}");
        }
        pages += 1;
        request.cursor = match page.next {
            Some(next) if pages % 4 != 0 => next,
            _ => tributary::Cursor::newest(),
        };
        sleep(Duration::from_millis(5)).await;
    }
    pages
}

/// After the last write, compares every whole timeline with the expected rows: read from both
/// memories, and read without memory.
async fn compare_all(site: &Site, all: &Rows) {
    let mut token = Freshness::default();
    for shard in 0..SHARDS {
        let of_shard = site.nodes[0].freshness(user_id(shard)).await;
        assert!(!of_shard.is_empty());
        token.merge(&of_shard);
    }
    let plain = site.fleet.open().await;
    for (node, name) in site.nodes.iter().chain([&plain]).zip(["small", "full", "plain"]) {
        for round in 0..2 {
            for user in (0..USERS).filter(|user| name == "full" || user % 2 == round) {
                let authors = BTreeSet::from([user]);
                let walked = walk(node, &token, user_id(user), true).await;
                assert_eq!(walked, all.timeline(&authors), "{name}, {round}: author {user}");
                let none = BTreeSet::new();
                let followees = all.follows.get(&user).unwrap_or(&none);
                let walked = walk(node, &token, user_id(user), false).await;
                assert_eq!(walked, all.timeline(followees), "{name}, {round}: reader {user}");
            }
        }
    }
}

/// Reads a whole timeline. Retries pages that are incomplete, stale or not fresh enough.
async fn walk(
    node: &Tributary,
    token: &Freshness,
    user: UserId,
    is_author: bool,
) -> Vec<(i64, u64, u64, &'static str)> {
    let mut request = at_least(token, Limit::new(100).unwrap());
    let (mut walked, mut tries) = (Vec::new(), 0);
    loop {
        let page = match is_author {
            true => node.author_timeline(user, &request).await.unwrap(),
            false => node.home_timeline(user, &request).await.unwrap(),
        };
        if !page.fresh_enough || !page.is_complete() || !page.stale.is_empty() {
            tries += 1;
            assert!(tries < 20, "{user}: {page:?}");
            continue;
        }
        for (time, id, author, text) in found(&page) {
            walked.push((time, id, author, &*text.to_owned().leak()));
        }
        let Some(next) = page.next else { return walked };
        request.cursor = next;
    }
}

/// Injects the faults, then ends the test. Returns the counts of delayed commits if there is a
/// replica.
async fn inject_faults(site: &Site) -> Option<HeldCommits> {
    let held = match &site.replica {
        Some(replica) => Some(delay_commits(site, replica).await),
        None => {
            break_servers(site).await;
            None
        }
    };
    site.ended.store(true, Ordering::SeqCst);
    held
}

async fn scenario(servers: Vec<Arc<Database>>, replica: Option<Database>) {
    let start = Instant::now();
    let site = Site::new(servers, replica).await;
    let writers = join_all((0..WRITERS).map(|n| Writer::new(&site, n).write_until_ended()));
    let readers = join_all((0..2).map(|node| read_until_ended(&site, node)));
    let (written, pages, held) = tokio::join!(writers, readers, inject_faults(&site));
    let broken = start.elapsed();

    let mut all = Rows::default();
    for Rows { posts, follows } in written {
        all.posts.extend(posts);
        all.follows.extend(follows);
    }
    compare_all(&site, &all).await;
    if site.replica.is_none() {
        // The log says that the table was truncated, but not which rows it had.
        let (server, database) = site.shard(3);
        server.execute(&[format!("TRUNCATE {database}.tweets")]).await;
        all.posts.retain(|(shard, _), _| *shard != 3);
        compare_all(&site, &all).await;
    }

    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{:?}: {} writes, {} as statements, {} in doubt, {} pages exact, {} degraded, {pages:?} \
         unchecked, {broken:?} and {:?}; {held:?}",
        site.servers[0].kind,
        count(&site.writes),
        count(&site.as_statements),
        count(&site.in_doubt),
        count(&site.checked),
        count(&site.degraded),
        start.elapsed() - broken
    );
    assert!(site.progress() > PROGRESS_MIN);
    assert!(count(&site.as_statements) > 0, "no write was logged as a statement");
    assert!(count(&site.in_doubt) > 0, "no write was in doubt");
    compare_counters(&site, held).await;
}

/// Checks that the faults and evictions happened that this test is about, and that the audit of
/// memory found no difference from the databases.
async fn compare_counters(site: &Site, held: Option<HeldCommits>) {
    let (mut histories, mut refused) = (0, 0);
    // The small memory may hold nothing in the end that could be audited.
    let [small, full] = &site.watches;
    full.until_audited(1).await;
    for watch in [small, full] {
        let counted = watch.counters().await;
        println!("{counted:?}");
        assert!(counted["audited"] > 0 && counted["mismatched"] == 0);
        histories += counted["log_identities"];
        refused += counted["fills_refused"];
    }
    match held {
        Some(held) => held.assert_enough(refused),
        None => assert!(histories > 2 * site.servers.len() as u64, "no log position was lost"),
    }
    let (small, full) = (small.counters().await, full.counters().await);
    assert!(small["evictions"] > 20, "{small:?}");
    assert!(full["page_cache_hits"] > 0, "{full:?}");
}

#[test]
fn memory_follows_four_mariadb_servers_through_writes_and_faults() {
    let servers = Database::start_mariadb(4);
    run(scenario(servers, None));
}

#[test]
fn memory_follows_a_mysql_server_through_writes_and_faults() {
    let Some(server) = Database::start(Kind::MySql) else { return };
    run(scenario(vec![Arc::new(server)], None));
}

#[test]
fn memory_follows_a_mariadb_server_whose_log_runs_ahead_of_its_tables() {
    let (primary, replica) = run(semi_sync::pair(Kind::MariaDb)).unwrap();
    run(scenario(vec![Arc::new(primary)], Some(replica)));
}

#[test]
fn memory_follows_a_mysql_server_whose_log_runs_ahead_of_its_tables() {
    let Some((primary, replica)) = run(semi_sync::pair(Kind::MySql)) else { return };
    run(scenario(vec![Arc::new(primary)], Some(replica)));
}
