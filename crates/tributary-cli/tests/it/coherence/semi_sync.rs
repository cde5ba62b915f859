//! Semi-synchronous replication: a log that is ahead of the tables.
//!
//! The primary makes a commit visible only after its replica has acknowledged it. Until then the
//! commit is in the log and is delivered to its readers, but no SELECT sees it. The tests stop the
//! replica for a while again and again, to make this interval long.

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use tributary::{Freshness, Limit, PageRequest};

use super::{PROGRESS_MIN, Site, WAIT_MAX, connect};
use crate::support::database::{Database, Kind, PASSWORD, USER};
use crate::support::{size, user_id};

/// After this time without an acknowledgement the primary stops waiting for the replica, until the
/// replica has caught up.
const TIMEOUT_MS: u64 = 200;
/// How long the replica is stopped. The longest exceeds `TIMEOUT_MS`.
const SILENCES_MS: [u64; 4] = [60, 120, 190, 350];
/// In this round the primary is killed while commits wait for the replica.
const KILL_ROUND: usize = 11;
/// An author on the first shard without followers.
const AUTHOR: u64 = 2_000;
const PAUSE: Duration = Duration::from_millis(150);

/// At most this many times as often the replica is stopped if the machine is busy.
const ROUNDS_FACTOR_MAX: usize = 5;

/// How often the replica is stopped.
fn rounds() -> usize {
    size(20, 200)
}

/// The primary's counters of commits that waited for the replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldCommits {
    /// Commits that waited.
    waits: u64,
    /// The sum of their waiting times.
    waited_us: u64,
    /// How often the wait ended by the timeout.
    timeouts: u64,
    /// Posts that memory showed before a SELECT did.
    early: u64,
}

impl HeldCommits {
    /// Asserts that the log was ahead of the tables for long enough, that memory showed such posts,
    /// and that memory refused some fills as too old.
    pub(super) fn assert_enough(self, refused: u64) {
        let least_us = rounds() as u64 * 30_000;
        assert!(self.waits > 50 && self.timeouts > 0, "{self:?}");
        assert!(self.waited_us > least_us, "{self:?}");
        assert!(self.is_early_enough(), "{self:?}");
        // Their number depends on timing, so one is enough.
        assert!(refused > 0, "no fill was refused as too old");
    }

    fn is_early_enough(self) -> bool {
        self.early >= rounds() as u64 / 3
    }

    /// Adds counters that start at zero after a restart of the primary.
    fn add(&mut self, other: Self) {
        self.waits += other.waits;
        self.waited_us += other.waited_us;
        self.timeouts += other.timeouts;
        self.early += other.early;
    }
}

/// A primary that waits for its replica, and the replica; `None` if MySQL is not installed.
pub(super) async fn pair(kind: Kind) -> Option<(Database, Database)> {
    let timeout = |name: &str| format!("--{name}={TIMEOUT_MS}");
    let (primary, replica, statements) = match kind {
        Kind::MariaDb => {
            let timeout = timeout("rpl-semi-sync-master-timeout");
            let wait = "--rpl-semi-sync-master-wait-point=AFTER_SYNC";
            let primary = ["--rpl-semi-sync-master-enabled=1", &timeout, wait];
            let primary = Database::start_with(kind, &primary)?;
            let replica = Database::start_with(kind, &["--rpl-semi-sync-slave-enabled=1"])?;
            let address = format!("MASTER_HOST = '127.0.0.1', MASTER_PORT = {}", primary.port);
            let account = format!("MASTER_USER = '{USER}', MASTER_PASSWORD = '{PASSWORD}'");
            // The replica needs to receive and acknowledge the log, not to apply it.
            let statements = [
                format!("CHANGE MASTER TO {address}, {account}, MASTER_CONNECT_RETRY = 1"),
                "START SLAVE IO_THREAD".into(),
            ];
            (primary, replica, statements)
        }
        Kind::MySql => {
            let timeout = timeout("rpl-semi-sync-source-timeout");
            let primary = [
                "--plugin-load-add=semisync_source.so",
                "--rpl-semi-sync-source-enabled=1",
                &timeout,
                "--rpl-semi-sync-source-wait-point=AFTER_SYNC",
            ];
            let replica =
                ["--plugin-load-add=semisync_replica.so", "--rpl-semi-sync-replica-enabled=1"];
            let primary = Database::start_with(kind, &primary)?;
            let replica = Database::start_with(kind, &replica)?;
            let address = format!("SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}", primary.port);
            let account = format!("SOURCE_USER = '{USER}', SOURCE_PASSWORD = '{PASSWORD}'");
            let link = "SOURCE_CONNECT_RETRY = 1, GET_SOURCE_PUBLIC_KEY = 1";
            let statements = [
                format!("CHANGE REPLICATION SOURCE TO {address}, {account}, {link}"),
                "START REPLICA IO_THREAD".into(),
            ];
            (primary, replica, statements)
        }
    };
    replica.execute(&statements).await;
    until_linked(&primary).await;
    Some((primary, replica))
}

/// Waits until the primary counts the replica as connected.
async fn until_linked(primary: &Database) {
    let start = Instant::now();
    let mut connection = connect(primary).await;
    while status(&mut connection, "clients").await == 0 {
        assert!(start.elapsed() < WAIT_MAX, "the replica does not connect");
        sleep(Duration::from_millis(20)).await;
    }
    connection.disconnect().await.unwrap();
}

/// One of the primary's semi-synchronous status counters.
async fn status(connection: &mut Conn, name: &str) -> u64 {
    let sql = format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%\\_{name}'");
    let row: Option<(String, u64)> = connection.query_first(sql).await.unwrap();
    row.unwrap_or_else(|| panic!("there is no {name}")).1
}

/// The counters since the start of the primary; `early` is not one of them and stays 0.
async fn held(primary: &Database) -> HeldCommits {
    let mut connection = connect(primary).await;
    let held = HeldCommits {
        waits: status(&mut connection, "tx_waits").await,
        waited_us: status(&mut connection, "tx_wait_time").await,
        timeouts: status(&mut connection, "no_times").await,
        early: 0,
    };
    connection.disconnect().await.unwrap();
    held
}

/// Stops the replica at least `rounds()` times for a while, and posts during each stop.
pub(super) async fn delay_commits(site: &Site, replica: &Database) -> HeldCommits {
    let primary = &site.servers[0];
    let mut sum = HeldCommits::default();
    let mut round = 0;
    // On a busy machine, fewer posts are seen early and less is written in each round.
    while round < rounds()
        || round < ROUNDS_FACTOR_MAX * rounds()
            && !(sum.is_early_enough() && site.progress() > PROGRESS_MIN)
    {
        sleep(PAUSE).await;
        replica.signal("STOP");
        let silence = async {
            let shown = shown_early(site, round).await;
            sum.early += u64::from(shown.is_some());
            tokio::join!(
                check_token_elsewhere(site, round, shown),
                end_silence(site, replica, round, &mut sum)
            );
        };
        tokio::join!(post(site, round), silence);
        until_linked(primary).await;
        round += 1;
    }
    sum.add(held(primary).await);
    sum
}

/// An id that the writers do not use: above their single posts, below their bulk posts.
fn post_id(round: usize) -> u64 {
    50_000 + round as u64
}

/// Inserts a post that no writer touches.
async fn post(site: &Site, round: usize) {
    let (server, database) = site.shard(0);
    let (id, into) = (post_id(round), "(tweet_id, user_id, content, timestamp)");
    let sql = format!("INSERT INTO {database}.tweets {into} VALUES ({id}, {AUTHOR}, 'x', {round})");
    let mut connection = connect(server).await;
    // The server may be killed during the insert.
    let _ = connection.query_drop(sql).await;
}

/// Lets the replica continue after a while. In round `KILL_ROUND` the primary restarts just before.
async fn end_silence(site: &Site, replica: &Database, round: usize, sum: &mut HeldCommits) {
    sleep(Duration::from_millis(SILENCES_MS[round % SILENCES_MS.len()])).await;
    if round == KILL_ROUND {
        let primary = &site.servers[0];
        sum.add(held(primary).await);
        primary.kill();
        tokio::task::block_in_place(|| primary.launch());
    }
    replica.signal("CONT");
}

/// Waits until memory shows the round's post. Returns the token of that page if a SELECT does not
/// see the post yet; `None` if it does, or if memory did not show the post in time.
async fn shown_early(site: &Site, round: usize) -> Option<Freshness> {
    let (server, database) = site.shard(0);
    let mut connection = connect(server).await;
    let id = post_id(round);
    let request = PageRequest::default().limit(Limit::new(1).unwrap());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(TIMEOUT_MS) {
        let page = site.nodes[1].author_timeline(user_id(AUTHOR), &request).await.unwrap();
        if page.waves == 0 && page.posts.iter().any(|post| post.key.post.get() == id) {
            let sql = format!("SELECT 1 FROM {database}.tweets WHERE tweet_id = {id}");
            let seen: Option<u8> = connection.query_first(sql).await.unwrap();
            return seen.is_none().then_some(page.freshness);
        }
        sleep(Duration::from_millis(2)).await;
    }
    None
}

/// Sends that token to the other node, which may have to query the database. Its page must have the
/// post, or say that it is not fresh enough or incomplete.
async fn check_token_elsewhere(site: &Site, round: usize, token: Option<Freshness>) {
    let Some(at_least) = token else { return };
    let limit = Limit::new(1).unwrap();
    let request = PageRequest::default().limit(limit).at_least(at_least);
    let page = site.nodes[0].author_timeline(user_id(AUTHOR), &request).await.unwrap();
    let has = page.posts.iter().any(|post| post.key.post.get() == post_id(round));
    assert!(has || !page.fresh_enough || !page.is_complete(), "{page:?}");
}
