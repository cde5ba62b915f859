//! Failover by address: reads and writes follow an address that leads to another server, without a
//! restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tributary::internal::{mysql_tables, mysql_writes_table};
use tributary::{Limit, PageRequest, PostId, Tributary, UserId, WriteError};

use super::{
    ANSWERED_WITHIN, BUSY_FACTOR, COMPLETE_WITHIN, Durations, Site, alone, kill, make_account,
    make_shard, newest,
};
use crate::support::database::{Database, Kind};
use crate::support::{post_id, user_id};

/// The post that only the second server has.
const MARK: PostId = post_id(77_777);
const AUTHOR: UserId = user_id(8);

/// The site's server, and a second server with the same rows and one more post.
async fn two_at_one_address() -> (Site, Arc<Database>) {
    let site = Site::new(1).await;
    let second = Arc::new(Database::start(Kind::MariaDb).unwrap());
    make_account(&second).await;
    for (first, database) in &site.fleet.databases {
        let mut tables = mysql_tables(database).to_vec();
        tables.push(mysql_writes_table(database));
        make_shard(&second, database, &tables).await;
        let mut from = first.connect().await;
        let sql = format!("SELECT * FROM {database}.followers");
        let follows: Vec<(u64, u64)> = from.query(sql).await.unwrap();
        let sql = format!("SELECT * FROM {database}.tweets");
        let posts: Vec<(u64, u64, String, i64)> = from.query(sql).await.unwrap();
        let mut to = second.connect().await;
        let sql = format!("INSERT INTO {database}.followers VALUES (?, ?)");
        to.exec_batch(sql, follows).await.unwrap();
        let sql = format!("INSERT INTO {database}.tweets VALUES (?, ?, ?, ?)");
        to.exec_batch(sql, posts).await.unwrap();
    }
    let database = &site.fleet.databases[0].1;
    let sql = format!("INSERT INTO {database}.tweets VALUES ({MARK}, {AUTHOR}, 'mark', 100000)");
    second.execute(&[sql]).await;
    (site, second)
}

async fn until_reads_follow(tributary: &Tributary) -> Duration {
    let start = Instant::now();
    loop {
        let page = newest(tributary).await;
        if page.is_complete() && page.posts.iter().any(|post| post.key.post == MARK) {
            return start.elapsed();
        }
        assert!(start.elapsed() < COMPLETE_WITHIN * 6, "reads stay on the old server");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Posts until a post is stored. Returns the time and the number of refused posts.
async fn until_writes_follow(tributary: &Tributary) -> (Duration, usize) {
    let (start, mut refused) = (Instant::now(), 0);
    loop {
        match tributary.publish(AUTHOR, "after the failover", None).await {
            Ok(_) => return (start.elapsed(), refused),
            Err(WriteError::Unavailable) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < COMPLETE_WITHIN * 6, "writes stay on the old server");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn posts_on(server: &Database, site: &Site) -> usize {
    let mut connection = server.connect().await;
    let database = &site.fleet.databases[0].1;
    let sql = format!("SELECT COUNT(*) FROM {database}.tweets WHERE user_id = {AUTHOR}");
    connection.query_first(sql).await.unwrap().unwrap()
}

#[test]
fn reads_and_writes_follow_an_address_to_another_server_after_the_first_dies() {
    alone(async {
        let (site, second) = two_at_one_address().await;
        let tributary = site.open().await;
        let tasks = site.tasks();
        tributary.publish(AUTHOR, "before the failover", None).await.unwrap();
        kill(&site.servers[0]).await;
        assert!(!newest(&tributary).await.is_complete());
        site.links[0].redirect_to(second.port);
        let (mut reads, mut writes) =
            (Durations::of("reads follow"), Durations::of("writes follow"));
        let (wrote, read) =
            tokio::join!(until_writes_follow(&tributary), until_reads_follow(&tributary));
        writes.add(wrote.0);
        reads.add(read);
        writes.assert_within(COMPLETE_WITHIN);
        reads.assert_within(COMPLETE_WITHIN);
        // Refused posts are not stored.
        assert_eq!(posts_on(&second, &site).await, 12);
        assert!(site.tasks() <= tasks + super::EXTRA_TASKS_MAX);
    });
}

/// The link is not cut, so the old connections would work permanently.
#[test]
fn connections_to_a_demoted_server_are_closed() {
    alone(async {
        let (site, second) = two_at_one_address().await;
        let tributary = site.open().await;
        tributary.publish(AUTHOR, "before the failover", None).await.unwrap();
        let before = posts_on(&site.servers[0], &site).await;
        let demoted = |on: &str| vec![format!("SET GLOBAL read_only = {on}")];
        site.servers[0].execute(&demoted("ON")).await;
        // Until another server takes over, reads use the demoted one, and nothing is stored.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2_500) {
            let refused = tributary.publish(AUTHOR, "to a demoted server", None).await;
            assert_eq!(refused, Err(WriteError::Unavailable));
            let refused = tributary.delete_post(AUTHOR, post_id(800)).await;
            assert_eq!(refused, Err(WriteError::Unavailable));
            assert!(newest(&tributary).await.is_complete());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(posts_on(&site.servers[0], &site).await, before);

        let (mut reads, mut writes) =
            (Durations::of("reads follow"), Durations::of("writes follow"));
        site.links[0].redirect_to(second.port);
        let (wrote, read) =
            tokio::join!(until_writes_follow(&tributary), until_reads_follow(&tributary));
        writes.add(wrote.0);
        reads.add(read);
        assert_eq!(posts_on(&second, &site).await, 12);
        let start = Instant::now();
        while site.connected(0).await > 1 {
            assert!(
                start.elapsed() < COMPLETE_WITHIN * BUSY_FACTOR,
                "the old connections stay open"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        // The address leads back to the first server; this time only reads notice it.
        let mut connection = second.connect().await;
        connection.query_drop("SET GLOBAL read_only = ON").await.unwrap();
        site.servers[0].execute(&demoted("OFF")).await;
        site.links[0].redirect_to(site.servers[0].port);
        let start = Instant::now();
        let all = PageRequest::default().limit(Limit::new(Limit::MAX).unwrap());
        loop {
            let page = tributary.author_timeline(AUTHOR, &all).await.unwrap();
            if page.is_complete() && page.posts.iter().all(|post| post.key.post != MARK) {
                break;
            }
            assert!(start.elapsed() < COMPLETE_WITHIN * 6, "reads stay on the old server");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reads.add(start.elapsed());
        writes.add(until_writes_follow(&tributary).await.0);
        writes.assert_within(COMPLETE_WITHIN);
        reads.assert_within(COMPLETE_WITHIN);
        site.assert_no_leaks(site.tasks()).await;
    });
}

/// A start in the middle of a failover succeeds.
#[test]
fn a_read_only_server_is_read_and_accepts_writes_after_promotion() {
    alone(async {
        let site = Site::new(1).await;
        site.servers[0].execute(&["SET GLOBAL read_only = ON".into()]).await;
        let tributary = site.open().await;
        assert!(newest(&tributary).await.is_complete());
        let refused = tributary.publish(AUTHOR, "too early", None).await;
        assert_eq!(refused, Err(WriteError::Unavailable));
        site.servers[0].execute(&["SET GLOBAL read_only = OFF".into()]).await;
        let (time, _) = until_writes_follow(&tributary).await;
        assert!(time < ANSWERED_WITHIN, "{time:?}");
    });
}
