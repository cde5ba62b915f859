//! Walks while shards become missing and return at random: no post is lost, and none comes twice.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use rusqlite::Connection;
use tributary::internal::Edge;
use tributary::{Cursor, Limit, PageRequest, PostKey, Tributary, UserId};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::world::{Oracle, World};
use crate::support::{run, size, user_id};

const READER: UserId = user_id(4_000);

/// Makes shards missing and available again: other connections rename their tables of posts.
struct ShardSwitch {
    connections: Vec<Connection>,
    away: Vec<bool>,
}

impl ShardSwitch {
    fn new(fleet: &TestFleet) -> Self {
        let file = |shard| fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
        let connections: Vec<Connection> =
            (0..SHARDS).map(|shard| Connection::open(file(shard)).unwrap()).collect();
        Self { away: vec![false; connections.len()], connections }
    }

    /// Makes shard n missing if bit n of `wanted` is set, and available otherwise.
    fn set(&mut self, wanted: u8) {
        for (shard, connection) in self.connections.iter().enumerate() {
            let wanted = wanted & (1 << shard) != 0;
            let sql = match (self.away[shard], wanted) {
                (false, true) => "ALTER TABLE tweets RENAME TO away",
                (true, false) => "ALTER TABLE away RENAME TO tweets",
                _ => continue,
            };
            connection.execute_batch(sql).unwrap();
            self.away[shard] = wanted;
        }
    }
}

/// Follows the cursors of one direction to the end. Page n is read during `outages[n]`, all later
/// pages without an outage.
async fn walk(
    tributary: &Tributary,
    switch: &mut ShardSwitch,
    mut cursor: Cursor,
    limit: u8,
    outages: &[u8],
) -> Vec<PostKey> {
    let limit = Limit::new(limit).unwrap();
    let newer = cursor.direction == tributary::internal::Direction::Newer;
    let mut outages = outages.iter();
    let mut walked = Vec::new();
    loop {
        let away = outages.next().copied().unwrap_or(0);
        switch.set(away);
        let request = PageRequest::default().from(cursor).limit(limit);
        let page = tributary.home_timeline(READER, &request).await.unwrap();
        assert!(page.missing.iter().all(|shard| away & (1 << shard.get()) != 0), "{away:b}");
        assert!(page.posts.is_sorted_by(|a, b| a.key > b.key), "order holds within a page");
        assert!(page.posts.len() <= limit.get());
        walked.extend(page.posts.iter().map(|post| post.key));
        let done = page.is_complete() && (page.posts.is_empty() || page.next.is_none());
        cursor = if newer {
            if done && page.posts.is_empty() {
                break;
            }
            page.prev
        } else {
            assert!(page.is_complete() || page.next.is_some(), "never null while one is missing");
            match page.next {
                Some(next) => next,
                None => break,
            }
        };
        cursor = cursor.to_string().parse().unwrap();
    }
    walked
}

#[test]
fn no_post_is_lost_or_duplicated_while_shards_come_and_go() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let mut world = World::default();
        for author in 0..10u64 {
            world.follow(READER.get(), author);
            for n in 0..author * 2 {
                // Times tie within and across shards, and ids are not in time order.
                let time = i64::try_from((author * 7 + n * 5) % 17).unwrap();
                world.post(author, time, (author * 131 + n * 977) % 10_007);
            }
        }
        fleet.load(&world).await;
        let tributary = fleet.open().await;
        let switch = RefCell::new(ShardSwitch::new(&fleet));
        let oracle = Oracle::new(&world);
        let expected: Vec<PostKey> = oracle.feed(READER).iter().map(|post| post.key).collect();

        let config =
            Cases { cases: size(100, 4_000), failure_persistence: None, ..Cases::default() };
        let strategy = (1u8..12, prop::collection::vec(0u8..16, 0..25), any::<bool>());
        let outcome = TestRunner::new(config).run(&strategy, |(limit, outages, newer)| {
            let start = if newer { Cursor::newer(Edge::Bottom) } else { Cursor::newest() };
            let mut switch = switch.borrow_mut();
            let walk = walk(&tributary, &mut switch, start, limit, &outages);
            let mut walked =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(walk));
            walked.sort_by(|a, b| b.cmp(a));
            prop_assert_eq!(&walked, &expected);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    });
}
