//! A program that writes rows of other users all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use crate::support::fleet::{SHARDS, TestFleet};

/// The first of the other users.
const FIRST: u64 = 1_000;
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Noise {
    ended: Arc<AtomicBool>,
    writes: JoinHandle<usize>,
}

impl Noise {
    /// Writes to one of the shards.
    pub(super) fn begin(fleet: &TestFleet) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let shard = SHARDS - 1;
        let database = usize::try_from(shard).ok().and_then(|shard| fleet.databases.get(shard));
        let is_over = Arc::clone(&ended);
        let writes = match database.cloned() {
            Some((server, name)) => tokio::spawn(async move {
                let mut connection = server.connect().await;
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    for sql in statements(count, &format!("{name}.")) {
                        connection.query_drop(sql).await.unwrap();
                    }
                    count += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                count
            }),
            None => {
                let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
                tokio::task::spawn_blocking(move || {
                    let connection = rusqlite::Connection::open(file).unwrap();
                    connection.busy_timeout(Duration::from_secs(60)).unwrap();
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        connection.execute_batch(&statements(count, "").join(";")).unwrap();
                        count += 1;
                        std::thread::sleep(PAUSE);
                    }
                    count
                })
            }
        };
        Self { ended, writes }
    }

    /// Returns the number of rounds of writes.
    pub(super) async fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        self.writes.await.unwrap()
    }
}

/// A post of another user, edits, a deletion, a block and its end.
fn statements(number: usize, database: &str) -> Vec<String> {
    let user = FIRST + SHARDS - 1 + SHARDS * (u64::try_from(number).unwrap() % 5);
    let id = 500_000 + number;
    let (posts, blocks) = (format!("{database}tweets"), format!("{database}blocks"));
    let columns = "(tweet_id, user_id, content, timestamp)";
    let mut all = vec![
        format!("INSERT INTO {posts} {columns} VALUES ({id}, {user}, 'noise', {number})"),
        format!("UPDATE {posts} SET content = 'more', edited_at = 1 WHERE tweet_id = {id}"),
        format!("DELETE FROM {blocks} WHERE blocker_user_id = {user}"),
        format!(
            "INSERT INTO {blocks} (blocker_user_id, blocked_user_id) VALUES ({user}, {})",
            number % 8
        ),
    ];
    if number >= 50 {
        all.push(format!("DELETE FROM {posts} WHERE tweet_id = {}", id - 50));
    }
    all
}
