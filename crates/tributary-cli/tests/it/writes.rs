//! Posting, deleting and following, on every backend: the next page already shows each write.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tributary::internal::Follow;
use tributary::{
    Cursor, IdempotencyKey, Limit, PageRequest, Post, PostId, Tributary, UserId, WriteError,
};

use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet, every_backend};
use crate::support::world::{Oracle, Walk, World, check_walk};
use crate::support::{run, seed, size, user_id};

fn key(text: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey::new(text).unwrap())
}

async fn posts(tributary: &Tributary, author: UserId) -> Vec<Post> {
    let page = tributary.author_timeline(author, &PageRequest::default()).await.unwrap();
    assert!(page.is_complete());
    page.posts
}

/// Random writes by `tributary`, each followed by a comparison of a page with `world`.
struct Story<'a> {
    tributary: &'a Tributary,
    world: World,
    rng: StdRng,
}

impl Story<'_> {
    const USERS: u64 = 9;

    fn user(&mut self) -> UserId {
        user_id(self.rng.random_range(1..=Self::USERS))
    }

    async fn step(&mut self) {
        let (one, other) = (self.user(), self.user());
        let follow = Follow { follower: one, followee: other };
        match self.rng.random_range(0..10) {
            0..5 => {
                let content = format!("{} 🎉", self.world.posts.len());
                let posted = self.tributary.publish(one, &content, None).await.unwrap();
                assert_eq!((&posted.post.content, posted.replayed), (&content, false));
                assert_eq!(posted.post.key.author, one);
                let found = self.tributary.post(one, posted.post.key.post).await.unwrap().post;
                assert_eq!(found.as_ref(), Some(&posted.post));
                self.world.posts.push(posted.post);
            }
            5 => {
                let Some(post) = self.world.posts.pop() else { return };
                let (author, id) = (post.key.author, post.key.post);
                // Another author's post of this id is another post.
                self.tributary.delete_post(user_id(author.get() + SHARDS), id).await.unwrap();
                assert!(self.tributary.post(author, id).await.unwrap().post.is_some());
                for _ in 0..2 {
                    self.tributary.delete_post(author, id).await.unwrap();
                    assert_eq!(self.tributary.post(author, id).await.unwrap().post, None);
                }
            }
            6 => {
                self.world.follows.retain(|known| *known != follow);
                for _ in 0..2 {
                    self.tributary.unfollow(one, other).await.unwrap();
                }
            }
            7 => {
                self.world.follows.push(follow);
                for _ in 0..2 {
                    self.tributary.follow(one, other).await.unwrap();
                }
            }
            _ => {
                let all: Vec<UserId> = (0..5).map(|_| self.user()).collect();
                let known = |user: &UserId| {
                    self.world.follows.contains(&Follow { follower: one, followee: *user })
                };
                let new: BTreeSet<UserId> = all.iter().copied().filter(|u| !known(u)).collect();
                let followed = self.tributary.follow_all(one, &all).await.unwrap();
                assert_eq!(followed.added, new.len());
                let follows = new.into_iter().map(|followee| Follow { follower: one, followee });
                self.world.follows.extend(follows);
            }
        }
        let oracle = Oracle::new(&self.world);
        let walk = Walk { limit: 100, pages_max: 1, with_prev: false };
        check_walk(self.tributary, &oracle.feed(one), one, walk).await;
    }
}

#[test]
fn writes_are_on_the_next_page_and_deleted_posts_and_follows_are_not() {
    run(async {
        for (_, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            let mut story = Story {
                tributary: &tributary,
                world: World::default(),
                rng: StdRng::seed_from_u64(seed(7)),
            };
            for _ in 0..150 {
                story.step().await;
            }
            let Story { world, .. } = story;
            // The writes are in the tables, not only in the memory of this process.
            drop(tributary);
            let reopened = fleet.open().await;
            let oracle = Oracle::new(&world);
            for reader in oracle.readers() {
                let walk = Walk { limit: 7, pages_max: usize::MAX, with_prev: true };
                check_walk(&reopened, &oracle.feed(reader), reader, walk).await;
            }
        }
    });
}

#[test]
fn a_key_posts_once_even_concurrently_and_after_a_delete() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            let (author, other) = (user_id(3), user_id(3 + SHARDS));
            let first = tributary.publish(author, "once", key("k")).await.unwrap();
            assert!(!first.replayed);
            tributary.delete_post(author, first.post.key.post).await.unwrap();
            let again = tributary.publish(author, "once", key("k")).await.unwrap();
            assert_eq!((again.replayed, &again.post), (true, &first.post), "{backend:?}");
            let reused = tributary.publish(author, "twice", key("k")).await;
            assert_eq!(reused, Err(WriteError::KeyReused), "{backend:?}");
            assert_eq!(posts(&tributary, author).await, []);
            // Keys are compared byte by byte, within one author.
            for (author, key) in [(author, key("K")), (other, key("k"))] {
                assert!(!tributary.publish(author, "once", key).await.unwrap().replayed);
                assert_eq!(posts(&tributary, author).await.len(), 1);
            }

            // A refused post does not use up its key.
            let refused = tributary.publish(author, "", key("later")).await;
            assert!(matches!(refused, Err(WriteError::ContentLength { .. })));
            assert!(!tributary.publish(author, "now", key("later")).await.unwrap().replayed);

            let racer = user_id(2);
            for round in 0..5 {
                let tasks = (0..8).map(|_| {
                    let (tributary, key) =
                        (tributary.clone(), key(&format!("race {round}").replace(' ', "-")));
                    tokio::spawn(
                        async move { tributary.publish(racer, "race", key).await.unwrap() },
                    )
                });
                let tasks: Vec<_> = tasks.collect();
                let mut answers = Vec::new();
                for task in tasks {
                    answers.push(task.await.unwrap());
                }
                assert!(answers.iter().all(|answer| answer.post == answers[0].post), "{backend:?}");
                assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
                assert_eq!(posts(&tributary, racer).await.len(), round + 1);
            }
        }
    });
}

#[test]
fn a_key_expires_after_a_day() {
    run(async {
        let mut open = Vec::new();
        for (backend, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            for name in ["old", "young"] {
                tributary.publish(user_id(1), name, key(name)).await.unwrap();
            }
            let day = 24 * 60 * 60 * 1_000 + 1;
            let age = format!("SET created_ms = created_ms - {day} WHERE idempotency_key = 'old'");
            execute(&fleet, 1, |table| format!("UPDATE {table} {age}"), "tributary_writes").await;
            open.push((backend, fleet, tributary));
        }
        let give_up = Instant::now() + Duration::from_secs(30);
        for (backend, _fleet, tributary) in &open {
            while tributary.publish(user_id(1), "old", key("old")).await.unwrap().replayed {
                assert!(Instant::now() < give_up, "{backend:?}: the key never expires");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let young = tributary.publish(user_id(1), "young", key("young")).await.unwrap();
            assert!(young.replayed, "{backend:?}");
        }
    });
}

/// Runs a statement on a shard, as another program would.
async fn execute(fleet: &TestFleet, shard: usize, sql: impl Fn(&str) -> String, table: &str) {
    match fleet.databases.get(shard) {
        Some((server, database)) => server.execute(&[sql(&format!("{database}.{table}"))]).await,
        None => {
            let file = fleet.dir.path().join(format!("data/shard-{shard}.sqlite"));
            let connection = rusqlite::Connection::open(file).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            connection.execute(&sql(table), []).unwrap();
        }
    }
}

#[test]
fn texts_are_stored_byte_for_byte_within_their_limits() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            let longest = "🎉".repeat(2_500);
            let texts =
                ["x", " blanks stay \r\n ", "\0", "a\0b\\'\"`;--", "é", "👩‍💻\u{202e}", &longest];
            for text in texts {
                let posted = tributary.publish(user_id(5), text, None).await.unwrap();
                assert_eq!(posted.post.content, text);
                let stored = tributary.post(user_id(5), posted.post.key.post).await.unwrap().post;
                assert_eq!(stored, Some(posted.post), "{backend:?}");
            }
            for text in [String::new(), "x".repeat(10_001), format!("{longest}x")] {
                let refused = tributary.publish(user_id(5), &text, None).await;
                let length = WriteError::ContentLength { len: text.len(), max: 10_000 };
                assert_eq!(refused, Err(length), "{backend:?}");
            }
            assert_eq!(posts(&tributary, user_id(5)).await.len(), texts.len());
            // An id that the databases cannot store is refused before a write begins.
            for id in [UserId::MAX.get() + 1, u64::MAX] {
                assert!(UserId::try_from(id).is_err(), "{id}");
            }
            let most: Vec<UserId> = (0..1_000).map(user_id).collect();
            let added = async || tributary.follow_all(user_id(1), &most).await.unwrap().added;
            assert_eq!((added().await, added().await), (1_000, 0));
            let more: Vec<UserId> = (0..1_001).map(user_id).collect();
            let refused = tributary.follow_all(user_id(1), &more).await;
            assert_eq!(refused, Err(WriteError::TooManyFollows));
        }
    });
}

#[test]
fn ids_rise_and_name_their_shard_and_times_are_now() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            let mut last = None;
            for _ in 0..30 {
                let before = tributary::internal::now_ms();
                let post = tributary.publish(user_id(7), "x", None).await.unwrap().post;
                let now = tributary::internal::now_ms();
                assert!((before..=now).contains(&post.key.time), "{backend:?}");
                let id = post.key.post;
                assert!(Some(id) > last && id.get() <= UserId::MAX.get());
                assert_eq!((id.get() >> 10) % 4_096, 7 % SHARDS);
                last = Some(id);
            }
        }
    });
}

/// Another program may generate the same id. Here a trigger inserts a post with our id before we
/// do, once per connection.
#[test]
fn an_id_that_is_taken_is_replaced_by_a_new_one() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Ours).await else { continue };
            let tributary = fleet.open_for_writing().await;
            let (server, database) = &fleet.databases[1];
            server
                .execute(&[format!(
                    "CREATE TRIGGER {database}.collide BEFORE INSERT ON \
                         {database}.tributary_writes FOR EACH ROW IF @collided IS NULL THEN \
                         SET @collided = GET_LOCK('{database}', 0); INSERT INTO \
                         {database}.tweets VALUES (NEW.post_id, 9, 'theirs', 1); END IF"
                )])
                .await;
            let posted = tributary.publish(user_id(9), "ours", key("k")).await.unwrap();
            assert_eq!(posts(&tributary, user_id(9)).await, [posted.post], "{backend:?}");
            // The lock outlives the rollback, and proves that the ids collided.
            let mut connection = server.connect().await;
            let sql = format!("SELECT IS_USED_LOCK('{database}')");
            let holder: Option<Option<u64>> = connection.query_first(sql).await.unwrap();
            assert!(holder.flatten().is_some(), "{backend:?}");
        }
    });
}

#[test]
fn sqlite_commits_concurrent_posts_together_and_loses_none() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let tributary = fleet.open().await;
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let tributary = tributary.clone();
                tokio::spawn(async move {
                    tributary.publish(user_id(1), &n.to_string(), None).await.unwrap().post.key.post
                })
            })
            .collect();
        let mut ids = BTreeSet::new();
        for task in tasks {
            ids.insert(task.await.unwrap());
        }
        drop(tributary);
        let reopened = fleet.open().await;
        let request = PageRequest::default().limit(Limit::new(100).unwrap());
        let page = reopened.author_timeline(user_id(1), &request).await.unwrap();
        let stored: BTreeSet<PostId> = page.posts.iter().map(|post| post.key.post).collect();
        assert_eq!((stored.len(), stored), (64, ids));
    });
}

#[test]
fn a_foreign_writer_to_a_sqlite_shard_is_noticed() {
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        let config = fleet.config();
        let tributary = Tributary::open(&config).await.unwrap();
        let foreign = || -> Vec<u64> {
            tributary::internal::fleet(&tributary)
                .health()
                .iter()
                .map(|shard| shard.foreign_writes)
                .collect()
        };
        for _ in 0..3 {
            tributary.publish(user_id(2), "x", None).await.unwrap();
            tributary.follow(user_id(1), user_id(2)).await.unwrap();
        }
        // A reader beside the owner does not count as a foreign writer.
        let reader = Tributary::open_read_only(&config).await.unwrap();
        assert_eq!(posts(&reader, user_id(2)).await.len(), 3);
        assert_eq!(reader.publish(user_id(2), "x", None).await, Err(WriteError::ReadOnly));
        drop(reader);
        tributary.publish(user_id(2), "x", None).await.unwrap();
        assert_eq!(foreign(), [0; 4]);
        for n in 1..3 {
            let insert = |table: &str| format!("INSERT INTO {table} VALUES (2, {n})");
            execute(&fleet, 2, insert, "followers").await;
            tributary.publish(user_id(2), "x", None).await.unwrap();
            assert_eq!(foreign(), [0, 0, n, 0]);
        }
    });
}

/// In adopted tables, a text that the column cannot hold is refused, even if the server's SQL mode
/// would truncate or convert it.
#[test]
fn a_text_that_the_column_cannot_hold_is_refused_and_never_altered() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Old).await else { continue };
            for (server, database) in &fleet.databases {
                server
                    .execute(&[
                        format!(
                            "ALTER TABLE {database}.followers ADD PRIMARY KEY \
                             (follower_user_id, followed_user_id)"
                        ),
                        format!(
                            "ALTER TABLE {database}.tweets MODIFY content VARCHAR(20) \
                             CHARACTER SET latin1"
                        ),
                        "SET GLOBAL sql_mode = ''".into(),
                    ])
                    .await;
            }
            let mut config = fleet.config_for_writing().await;
            config.write.content_bytes_max = 20;
            let tributary = Tributary::open(&config).await;
            for (server, _) in &fleet.databases {
                server.execute(&["SET GLOBAL sql_mode = DEFAULT".into()]).await;
            }
            let tributary = tributary.unwrap();
            tributary.publish(user_id(1), "blé", None).await.unwrap();
            let refused = tributary.publish(user_id(1), "🎉", key("k")).await;
            assert_eq!(refused, Err(WriteError::Content), "{backend:?}");
            let stored: Vec<String> =
                posts(&tributary, user_id(1)).await.into_iter().map(|post| post.content).collect();
            assert_eq!(stored, ["blé"], "{backend:?}");
            // The key is still unused, and no lock remains.
            assert!(!tributary.publish(user_id(1), "x", key("k")).await.unwrap().replayed);

            // A longer text that another program wrote is served whole.
            let (server, database) = &fleet.databases[1];
            let widen = format!("ALTER TABLE {database}.tweets MODIFY content TEXT");
            let insert =
                format!("INSERT INTO {database}.tweets VALUES (9, 5, REPEAT('x', 60000), 1)");
            server.execute(&[widen, insert]).await;
            assert_eq!(posts(&tributary, user_id(5)).await[0].content.len(), 60_000);
        }
    });
}

/// A database without the table that writing needs refuses writes and still serves reads. Writes
/// work again once the table is back.
#[test]
fn a_problem_with_writing_does_not_affect_reading() {
    run(async {
        for backend in [Backend::MariaDb, Backend::MySql] {
            let Some(fleet) = TestFleet::new(backend, Tables::Ours).await else { continue };
            let tributary = fleet.open_for_writing().await;
            tributary.publish(user_id(1), "before", key("a")).await.unwrap();
            let (server, database) = &fleet.databases[1];
            let rename = |from, to| format!("RENAME TABLE {database}.{from} TO {database}.{to}");
            server.execute(&[rename("tributary_writes", "away")]).await;
            for n in 0..5 {
                let posted = tributary.publish(user_id(1), "x", key(&n.to_string())).await;
                assert_eq!(posted, Err(WriteError::Unavailable), "{backend:?}");
                assert_eq!(posts(&tributary, user_id(1)).await.len(), 1);
            }
            server.execute(&[rename("away", "tributary_writes")]).await;
            let give_up = Instant::now() + Duration::from_secs(20);
            while tributary.publish(user_id(1), "after", key("b")).await.is_err() {
                assert!(Instant::now() < give_up, "{backend:?}: writes never work again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // The write waits for another session's row lock until its deadline; nothing is stored.
            let mut lock = server.connect().await;
            lock.query_drop("BEGIN").await.unwrap();
            let delete = format!("DELETE FROM {database}.tributary_writes WHERE author = 1");
            lock.query_drop(delete).await.unwrap();
            let mut config = fleet.config_for_writing().await;
            config.request.deadline_ms = 1_200;
            let impatient = Tributary::open(&config).await.unwrap();
            let posted = impatient.publish(user_id(1), "before", key("a")).await;
            assert_eq!(posted, Err(WriteError::Unavailable), "{backend:?}");
            assert_eq!(posts(&impatient, user_id(1)).await.len(), 2);
            lock.query_drop("ROLLBACK").await.unwrap();
            assert!(tributary.publish(user_id(1), "before", key("a")).await.unwrap().replayed);
        }
    });
}

/// Also prints throughput and latencies. `./dev soak` measures for 3 s each, with durable servers.
#[test]
fn many_writers_at_once_lose_nothing() {
    let (span, durable) = size((150, false), (3_000, true));
    run(async {
        for (backend, fleet) in every_backend().await {
            let tributary = fleet.open_for_writing().await;
            if durable {
                // Durable settings: the server syncs every commit to disk.
                for (server, _) in &fleet.databases {
                    let sync =
                        "SET GLOBAL sync_binlog = 1, GLOBAL innodb_flush_log_at_trx_commit = 1";
                    server.execute(&[sync.into()]).await;
                }
            }
            let mut written = 0;
            for (clients, keyed) in [(1, false), (8, false), (64, false), (64, true)] {
                let start = Instant::now();
                let end = start + Duration::from_millis(span);
                let tasks: Vec<_> = (0..clients)
                    .map(|client| tokio::spawn(post_until(tributary.clone(), client, keyed, end)))
                    .collect();
                let mut times = Vec::new();
                for task in tasks {
                    times.extend(task.await.unwrap());
                }
                let seconds = start.elapsed().as_secs_f64();
                written += times.len();
                times.sort_unstable();
                let at = |percent: usize| times[(times.len() - 1) * percent / 100];
                println!(
                    "{backend:?}, {clients} clients, keys {keyed}: {:.0} posts/s, p50 {:.1?}, \
                     p99 {:.1?}",
                    times.len() as f64 / seconds,
                    at(50),
                    at(99)
                );
            }
            let mut stored = 0;
            for client in 0..64 {
                stored += count(&tributary, user_id(client)).await;
            }
            assert_eq!(stored, written, "{backend:?}");
        }
    });
}

/// The number of posts on the author's whole timeline.
async fn count(tributary: &Tributary, author: UserId) -> usize {
    let (mut count, mut cursor) = (0, Some(Cursor::newest()));
    while let Some(from) = cursor {
        let request = PageRequest::default().from(from).limit(Limit::new(100).unwrap());
        let page = tributary.author_timeline(author, &request).await.unwrap();
        count += page.posts.len();
        cursor = page.next;
    }
    count
}

/// Posts until `end`, one post at a time; the latency of each.
async fn post_until(tributary: Tributary, client: u64, keyed: bool, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    let text = "word ".repeat(24);
    while Instant::now() < end {
        let begin = Instant::now();
        let key = if keyed { key(&rand::random::<u128>().to_string()) } else { None };
        tributary.publish(user_id(client), &text, key).await.unwrap();
        times.push(begin.elapsed());
    }
    times
}
