//! A server that shows what is committed only when a replica has said that it has it: until then the
//! commit stands in the log, and is told, but no SELECT sees it.

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use tributary::{Freshness, Limit, PageRequest, UserId};

use super::{PATIENCE, Site, connect};
use crate::support::database::{Database, Kind, PASSWORD, USER};

/// After so long the server goes on without the replica, until that has come after it.
const TIMEOUT_MS: u64 = 200;
/// How long the replica says nothing, now and then for longer than it is waited for.
const SILENCES_MS: [u64; 4] = [60, 120, 190, 350];
const ROUNDS: usize = 20;
/// In one of them the server is killed while commits are held up.
const KILLED_IN: usize = 11;
/// On the first shard; nobody follows it.
const AUTHOR: u64 = 2_000;
const PAUSE: Duration = Duration::from_millis(150);

/// What the server says of the commits that waited.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Commits that waited for the replica.
    waits: u64,
    /// For how long, all together.
    waited_us: u64,
    /// How often it was waited for in vain.
    in_vain: u64,
    /// Posts that memory showed while no SELECT did.
    early: u64,
}

impl Held {
    /// Whether the log ran ahead of the tables for long, and memory met it.
    pub(super) fn is_enough(self, refused: u64) {
        let least_us = ROUNDS as u64 * 30_000;
        assert!(self.waits > 50 && self.in_vain > 0, "{self:?}");
        assert!(self.waited_us > least_us, "{self:?}");
        assert!(self.early >= ROUNDS as u64 / 3, "{self:?}");
        // How many there are is chance: that the tables lag behind is proven above.
        assert!(refused > 0, "no fill was too old");
    }

    /// What was counted between two starts of the server.
    fn add(&mut self, other: Self) {
        self.waits += other.waits;
        self.waited_us += other.waited_us;
        self.in_vain += other.in_vain;
        self.early += other.early;
    }
}

/// A primary that waits for the replica's word, and the replica; none where MySQL cannot be had.
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
            // It has to take what it is sent, not to carry it out.
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

/// Until the replica's word counts.
async fn until_linked(primary: &Database) {
    let start = Instant::now();
    let mut connection = connect(primary).await;
    while status(&mut connection, "clients").await == 0 {
        assert!(start.elapsed() < PATIENCE, "the replica does not come");
        sleep(Duration::from_millis(20)).await;
    }
    connection.disconnect().await.unwrap();
}

/// One of the counters of waiting.
async fn status(connection: &mut Conn, name: &str) -> u64 {
    let sql = format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%\\_{name}'");
    let row: Option<(String, u64)> = connection.query_first(sql).await.unwrap();
    row.unwrap_or_else(|| panic!("there is no {name}")).1
}

/// As counted since the server was started.
async fn held(primary: &Database) -> Held {
    let mut connection = connect(primary).await;
    let held = Held {
        waits: status(&mut connection, "tx_waits").await,
        waited_us: status(&mut connection, "tx_wait_time").await,
        in_vain: status(&mut connection, "no_times").await,
        early: 0,
    };
    connection.disconnect().await.unwrap();
    held
}

/// Again and again the replica says nothing for a while.
pub(super) async fn hold_commits_up(site: &Site, replica: &Database) -> Held {
    let primary = &site.servers[0];
    let mut sum = Held::default();
    for round in 0..ROUNDS {
        sleep(PAUSE).await;
        replica.signal("STOP");
        let silence = async {
            let shown = shown_early(site, round).await;
            sum.early += u64::from(shown.is_some());
            tokio::join!(
                is_found_by_token(site, round, shown),
                end_silence(site, replica, round, &mut sum)
            );
        };
        tokio::join!(post(site, round), silence);
        until_linked(primary).await;
    }
    sum.add(held(primary).await);
    sum
}

/// Behind the writers' ids, and before those that they delete all at once.
fn post_id(round: usize) -> u64 {
    50_000 + round as u64
}

/// Posts something, with which nobody else has to do.
async fn post(site: &Site, round: usize) {
    let (server, database) = site.shard(0);
    let (id, into) = (post_id(round), "(tweet_id, user_id, content, timestamp)");
    let sql = format!("INSERT INTO {database}.tweets {into} VALUES ({id}, {AUTHOR}, 'x', {round})");
    let mut connection = connect(server).await;
    // The server may be killed meanwhile.
    let _ = connection.query_drop(sql).await;
}

/// After a while; in one round the server is killed just before.
async fn end_silence(site: &Site, replica: &Database, round: usize, sum: &mut Held) {
    sleep(Duration::from_millis(SILENCES_MS[round % SILENCES_MS.len()])).await;
    if round == KILLED_IN {
        let primary = &site.servers[0];
        sum.add(held(primary).await);
        primary.kill();
        tokio::task::block_in_place(|| primary.launch());
    }
    replica.signal("CONT");
}

/// How fresh the page was on which memory showed that post, if no SELECT saw the post then.
async fn shown_early(site: &Site, round: usize) -> Option<Freshness> {
    let (server, database) = site.shard(0);
    let mut connection = connect(server).await;
    let id = post_id(round);
    let request = PageRequest { limit: Limit::new(1).unwrap(), ..PageRequest::default() };
    for _ in 0..20 {
        let page = site.nodes[1].author_timeline(UserId(AUTHOR), &request).await;
        if page.waves == 0 && page.posts.iter().any(|post| post.key.post.0 == id) {
            let sql = format!("SELECT 1 FROM {database}.tweets WHERE tweet_id = {id}");
            let seen: Option<u8> = connection.query_first(sql).await.unwrap();
            return seen.is_none().then_some(page.freshness);
        }
        sleep(Duration::from_millis(2)).await;
    }
    None
}

/// Whoever brings that token to another node, which may have to ask the database, finds the post
/// there too, or is told that the page is not so fresh.
async fn is_found_by_token(site: &Site, round: usize, token: Option<Freshness>) {
    let Some(at_least) = token else { return };
    let limit = Limit::new(1).unwrap();
    let request = PageRequest { limit, at_least, ..PageRequest::default() };
    let page = site.nodes[0].author_timeline(UserId(AUTHOR), &request).await;
    let has = page.posts.iter().any(|post| post.key.post.0 == post_id(round));
    assert!(has || !page.fresh_enough || !page.is_complete(), "{page:?}");
}
